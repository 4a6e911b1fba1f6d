"""The workflow runs what is missing, was killed, or was made with older code, and nothing else."""

import os
import shutil
import signal
import subprocess
import time

import pytest
from helpers.files import ROOT

SNAKEMAKE = shutil.which("snakemake")
pytestmark = pytest.mark.skipif(not SNAKEMAKE, reason="snakemake is not installed: pip install -e '.[benchmark]'")

# Stands for papermill: writes what a run writes, notes its name in `calls`, and is slow where the file `slow` says so.
PAPERMILL = """#!/bin/sh
name=$(basename $1 .ipynb)
echo $name >> calls
mkdir -p runs/smoke/$name.unfinished && cp $1 $2
if [ "$name" = "$(cat slow)" ]; then echo $$ > pid; exec sleep 60; fi
echo '{"status": "finished"}' > runs/smoke/$name.unfinished/manifest.json
rm -rf runs/smoke/$name && mv runs/smoke/$name.unfinished runs/smoke/$name
"""


@pytest.fixture
def project(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for folder in ("notebooks", "cryoshift_core/course", "data_fetch"):
        (tmp_path / folder).mkdir(parents=True)
    shutil.copy(ROOT / "Snakefile", tmp_path)
    for name in ("00_start", "01_simulate", "02_gap", "06b_hiv"):
        (tmp_path / "notebooks" / f"{name}.ipynb").write_text("{}")
    (tmp_path / "cryoshift_core" / "course" / "run.py").write_text("a = 1\n")
    (tmp_path / "papermill").write_text(PAPERMILL)
    (tmp_path / "papermill").chmod(0o755)
    (tmp_path / "slow").write_text("")
    return tmp_path


def start():
    command = [SNAKEMAKE, "--cores", "2", "--config", "profile=smoke", "papermill=./papermill"]
    environment = os.environ | {"XDG_CACHE_HOME": os.path.abspath("cache")}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    return subprocess.Popen(command, env=environment, **pipes)


def series(project):
    """Names of the notebooks that a whole run of the workflow executed."""
    (project / "calls").unlink(missing_ok=True)
    workflow = start()
    text, _ = workflow.communicate(timeout=120)
    assert workflow.returncode == 0, text
    calls = project / "calls"
    return sorted(calls.read_text().split()) if calls.exists() else []


def test_a_change_of_the_library_runs_the_notebooks_again(project):
    assert series(project) == ["00_start", "01_simulate", "02_gap", "06b_hiv"]
    assert (project / "runs/smoke/02_gap/02_gap.ipynb").is_file()
    assert series(project) == []
    (project / "cryoshift_core/course/run.py").write_text("a = 2\n")
    assert series(project) == ["00_start", "01_simulate", "02_gap", "06b_hiv"]


def test_a_killed_notebook_runs_again(project):
    (project / "slow").write_text("01_simulate")
    workflow, deadline = start(), time.monotonic() + 60
    while not (project / "pid").exists() or not (project / "pid").read_text():
        assert time.monotonic() < deadline and workflow.poll() is None
        time.sleep(0.05)
    os.kill(int((project / "pid").read_text()), signal.SIGKILL)
    assert workflow.wait(timeout=60) != 0
    workflow.stdout.close()
    assert not (project / "runs/smoke/finished/01_simulate.json").exists()
    (project / "slow").write_text("")
    again = series(project)
    assert {"01_simulate", "02_gap"} <= set(again) and "00_start" not in again
