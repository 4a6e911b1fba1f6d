"""``python -m cryoshift_core``: lists its commands, refuses others, and hands the arguments on."""

import inspect
import os
import runpy
import subprocess
import sys
from types import SimpleNamespace

import pytest
from helpers.files import ROOT

from cryoshift_core import __main__ as command_line


@pytest.mark.parametrize("arguments", [[], ["--help"], ["-h"]])
def test_without_a_command_the_commands_are_listed(arguments, capsys):
    assert command_line.main(arguments) == 0
    shown = capsys.readouterr().out
    assert all(command in shown for command in command_line.COMMANDS) and "classify" in shown


def test_an_unknown_command_is_refused_with_the_known_ones(capsys):
    assert command_line.main(["clasify"]) == 2
    assert (
        "'clasify' is not a command; expected one of check, classify, compare, run, sweep, tutorial"
        in capsys.readouterr().err
    )


def test_arguments_and_exit_status_are_those_of_the_command(monkeypatch):
    seen = []
    module = SimpleNamespace(main=lambda arguments: seen.append(arguments) or 3)
    monkeypatch.setattr(command_line, "import_module", lambda name: seen.append(name) or module)
    assert command_line.main(["tutorial", "--smoke", "x"]) == 3
    assert seen == ["cryoshift_core.course.runner", ["--smoke", "x"]]


@pytest.mark.parametrize("command", command_line.COMMANDS)
def test_every_command_is_a_function_of_its_arguments(command):
    module = command_line.import_module(f"cryoshift_core.{command_line.COMMANDS[command][0]}")
    assert list(inspect.signature(module.main).parameters) == ["arguments"]


def test_the_module_exits_with_the_status_of_the_command(monkeypatch, capsys):
    monkeypatch.delitem(sys.modules, "cryoshift_core.__main__")
    monkeypatch.setattr(sys, "argv", ["cryoshift_core", "nothing"])
    with pytest.raises(SystemExit) as stopped:
        runpy.run_module("cryoshift_core", run_name="__main__")
    assert stopped.value.code == 2 and "'nothing' is not a command" in capsys.readouterr().err


def test_a_command_waits_without_spinning_and_this_is_settled_before_torch_is_read():
    """On two cores that other programs use, too, spinning threads simulated 4 subtomograms a second in place of 57."""
    code = (
        "import os, runpy, sys\n"
        "sys.argv = ['cryoshift_core', '--help']\n"
        "try:\n    runpy.run_module('cryoshift_core', run_name='__main__')\n"
        "except SystemExit:\n    print(os.environ['OMP_WAIT_POLICY'], 'torch' in sys.modules)\n"
    )
    for given, expected in ({}, "PASSIVE False"), ({"OMP_WAIT_POLICY": "ACTIVE"}, "ACTIVE False"):
        around = {name: value for name, value in os.environ.items() if name != "OMP_WAIT_POLICY"} | given
        done = subprocess.run([sys.executable, "-c", code], env=around, cwd=ROOT, capture_output=True, text=True)
        assert done.stdout.splitlines()[-1] == expected, done.stderr
