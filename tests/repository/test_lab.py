"""make lab opens the first notebook, hides the .py twins of the notebooks, and refuses to run as root."""

import fnmatch
import os
import re
import subprocess

import pytest
from helpers.files import ROOT
from helpers.lab import MAKE, lab

NOTEBOOKS = ROOT / "notebooks"


def command():
    """The command of make lab, as make would run it."""
    return subprocess.run([*MAKE, "-n"], cwd=ROOT, capture_output=True, text=True, check=True).stdout


def test_the_first_notebook_is_opened():
    (opened,) = re.findall(r"default_url=/lab/tree/(\S+)", command())
    assert (ROOT / opened).is_file() and opened == "notebooks/00_start_here.ipynb"


def test_the_twins_of_the_notebooks_are_hidden_and_other_python_files_are_not():
    globs = re.findall(r"'--ContentsManager.hide_globs=([^']+)'", command())
    twins = [path.with_suffix(".py").name for path in NOTEBOOKS.glob("*.ipynb")]
    seen = [name for name in twins if not any(fnmatch.fnmatch(name, glob) for glob in globs)]
    assert twins and seen == []
    others = [*(ROOT / "cryoshift_core").rglob("*.py"), *(ROOT / "notebooks").glob("*.ipynb")]
    assert not [path for path in others if any(fnmatch.fnmatch(path.name, glob) for glob in globs)]


@pytest.mark.skipif(os.geteuid() != 0, reason="needs to be root")
def test_root_is_refused_with_the_way_out():
    done = subprocess.run(MAKE, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode != 0 and "Running as root is not recommended. Use --allow-root" in done.stderr


def test_the_file_browser_lists_notebooks_without_their_twins():
    with lab() as server:
        names = server.names("notebooks")
        assert {path.name for path in NOTEBOOKS.glob("*.ipynb")} <= names
        assert not [name for name in names if name.endswith(".py")]
        assert "training.py" in server.names("cryoshift_core")
