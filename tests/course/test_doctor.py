"""The doctor's table: a machine that is ready, and each thing that may be wrong, with a way out."""

import os
import resource
import subprocess
import sys
from collections import namedtuple
from importlib import metadata

import numpy as np
import pytest
from helpers.files import ROOT

from cryoshift_core.__main__ import main
from cryoshift_core.course import doctor
from cryoshift_core.errors import InputError


def rows(report):
    return {row.name: row for row in report.rows}


def test_a_machine_that_is_ready(tmp_path):
    report = doctor.check("smoke", tmp_path / "runs")
    found = rows(report)
    assert {"Python", "packages", "torch", "memory", "disk", "write access", "kept data", "shipped data"} < set(found)
    assert not report.of("stop") and "This machine is ready." in str(report)
    report.show()
    assert all(row.way_out for row in report.of("look"))
    assert "11 molecules; a tomogram of 84 x 256 x 256" in found["shipped data"].found
    assert str(tmp_path / "runs") in found["write access"].found and not list((tmp_path / "runs").iterdir())


def test_the_command_takes_less_than_five_seconds_of_cpu_time():
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    command = [sys.executable, "-m", "cryoshift_core", "doctor", "--profile", "smoke"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert done.returncode == 0 and done.stdout.startswith("ok    Python"), done.stderr
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 5


def test_a_missing_package_is_a_row_and_the_others_are_still_shown(tmp_path):
    """torch cannot be imported, as where the notebook has the kernel of another Python."""
    code = (
        "import sys; sys.modules['torch'] = None; from cryoshift_core.course import doctor; "
        f"report = doctor.check('smoke', {str(tmp_path)!r}); report.show()"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert "stop  torch" in done.stdout and "make venv" in done.stdout and "ok    write access" in done.stdout
    assert "InputError: torch: ModuleNotFoundError" in done.stderr and "The way out: run make venv" in done.stderr


def test_versions_are_compared_with_the_pins(monkeypatch, tmp_path):
    real = metadata.version

    def version(name):
        if name == "gemmi":
            raise metadata.PackageNotFoundError(name)
        return "0.0.1" if name == "numpy" else real(name)

    monkeypatch.setattr(metadata, "version", version)
    missing, other = list(doctor._packages())
    assert (missing.state, missing.found) == ("stop", "missing: gemmi")
    assert other.state == "look" and "numpy 0.0.1 (expected " in other.found


def test_too_little_memory_or_disk_stops(monkeypatch, tmp_path):
    import psutil

    memory, usage = namedtuple("memory", "available"), namedtuple("usage", "free")
    monkeypatch.setattr(psutil, "virtual_memory", lambda: memory(5e8))
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda place: usage(1e8))
    room = list(doctor._room("laptop", tmp_path / "new" / "folder"))
    assert [(row.name, row.state) for row in room] == [("memory", "stop"), ("disk", "stop")]
    assert "0.5 GB free" in room[0].found and "smoke" in room[0].way_out and str(tmp_path) in room[1].way_out


def test_a_place_that_cannot_be_written_to_stops(tmp_path):
    (tmp_path / "file").write_text("in the way")
    (row,) = doctor._write_access(tmp_path / "file" / "runs")
    assert row.state == "stop" and "out_dir" in row.way_out


def test_an_old_python_and_too_many_threads(monkeypatch):
    monkeypatch.setattr(sys, "version_info", (3, 10, 4))
    (row,) = doctor._python()
    assert row.state == "stop" and "expected 3.11 to 3.13" in row.found
    monkeypatch.setenv("OMP_NUM_THREADS", str(2 + (os.cpu_count() or 1)))
    (row,) = doctor._torch()
    assert row.state == "look" and "OMP_NUM_THREADS" in row.way_out


def test_missing_front_ends_are_named(monkeypatch, tmp_path):
    monkeypatch.setattr(sys, "prefix", str(tmp_path))
    monkeypatch.setenv("HOME", str(tmp_path))
    (row,) = doctor._jupyterlab()
    assert row.state == "look" and "no widgets" in row.found and "jupyterlab-widgets" in row.way_out
    (tmp_path / "share/jupyter/labextensions/@jupyter-widgets/jupyterlab-manager").mkdir(parents=True)
    (row,) = doctor._jupyterlab()
    assert row.state == "ok" and "with sliders" in row.found and "ipympl" in row.way_out


def test_an_unknown_profile_is_refused_in_one_line(tmp_path, capsys):
    with pytest.raises(InputError, match="did you mean 'laptop'"):
        doctor.check("lapto", tmp_path)
    assert main(["doctor", "--profile", "lapto", "--folder", str(tmp_path)]) == 2
    assert capsys.readouterr().err.startswith("InputError: Expected a profile")


def test_the_speed_is_that_of_finite_training_steps():
    found = doctor.speed("cpu", repeats=1)
    assert found.seconds > 0 and found.factor == found.seconds / doctor.REFERENCE
    assert {"source", "warped", "mada"} <= set(found.losses) and all(np.isfinite(list(found.losses.values())))
