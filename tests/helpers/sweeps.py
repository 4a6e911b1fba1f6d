"""A project with a Snakefile and one small notebook, and a sweep of it that is killed at random and restarted."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import nbformat
import psutil
import yaml
from helpers.files import ROOT

SNAKEMAKE = next((str(p) for p in [Path(sys.executable).with_name("snakemake")] if p.is_file()), None) or shutil.which(
    "snakemake"
)
WORKFLOW = ROOT / "cryoshift_core" / "course" / "workflow"

CELLS = (
    """
profile: str = "smoke"  # how much work
method: str = "source_only"  # to train
weights: str = ""  # of loss terms
steps: int = 0  # of each fit
seed: int = 0  # every random draw
data_seed: int = -1  # of the data
out_dir: str = ""  # where to write
""",
    """
from cryoshift_core.course.run import begin
from cryoshift_core.simulation.datasets import DatasetConfig, simulate_source, simulate_target
run = begin("08_tiny", globals())
""",
    """
with open("calls", "a") as log:
    log.write(f"{run.final_folder.name}\\n")
sets = [simulate_source(DatasetConfig.of(run.profile, "source", s, run.data_seed), folder=run.data_folder)
        for s in ("source", "validation")]
target = simulate_target(DatasetConfig.of(run.profile, "in_situ_1", "train", run.data_seed), folder=run.data_folder)
fit = run.fit(method, sets[0], target, sets[1])
run.report(source_accuracy=fit.history["source_val_acc"][-1], train_seconds=fit.cpu_seconds)
run.finish()
""",
)


# In place of Python: `sweep` prints plan.json. `evidence` notes its arguments in `tiers`; a part that the file `lost`
# names is killed. `run` notes its name in `calls`, takes as long as `slow` says, and has
# a folder that has another name until it is complete, and done.json, written last, as a real run.
STUB = """#!/bin/sh
if [ "$3" = sweep ]; then exec cat plan.json; fi
if [ "$3" = evidence ]; then
  case "$*" in *nothing*) echo "argument --tier: invalid choice: 'nothing'" >&2; exit 2;; esac
  echo "$*" | cut -d' ' -f4- >> tiers
  case "$*" in *"$(cat lost 2>/dev/null || echo none)"*) kill -9 $$;; esac
  exit
fi
for folder; do true; done
name=$(basename $folder)
echo $name >> calls
mkdir -p $folder.unfinished
if [ "$name" = "$(cut -d' ' -f1 slow)" ] || [ "$(cut -d' ' -f1 slow)" = all ]; then
  echo $$ > pid; sleep $(cut -d' ' -f2 slow)
fi
rm -rf $folder && mv $folder.unfinished $folder && echo '{}' > $folder/done.partial
mv $folder/done.partial $folder/done.json
"""


def stub_sweep(folder, n, seconds):
    """Names of the n runs of a sweep by the stub, each of some seconds."""
    names = [f"08_tiny-seed={i}" for i in range(n)]
    plan = {"notebook": "notebooks/08_tiny.ipynb", "folder": str(folder / "runs" / "sweeps" / "sweep")}
    (folder / "plan.json").write_text(json.dumps(plan | {"runs": {name: {"seed": i} for i, name in enumerate(names)}}))
    (folder / "slow").write_text(f"all {seconds}")
    return names


def make_project(folder, stub=False):
    """A folder with the Snakefile, a library of one file, and notebooks/08_tiny.ipynb, which trains once.

    With `stub`, ./python stands for Python.
    """
    if stub:
        (folder / "python").write_text(STUB)
        (folder / "python").chmod(0o755)
        (folder / "slow").write_text("")
    for name in ("notebooks", "cryoshift_core", "data_fetch"):
        (folder / name).mkdir(parents=True)
    shutil.copy(ROOT / "Snakefile", folder)
    shutil.copy(ROOT / "notebooks" / "reuses.json", folder / "notebooks")
    (folder / "cryoshift_core" / "library.py").write_text("a = 1\n")
    (folder / "pyproject.toml").write_text("")
    cells = [nbformat.v4.new_code_cell(text.strip()) for text in CELLS]
    cells[0].metadata["tags"] = ["parameters"]
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    notebook = nbformat.v4.new_notebook(cells=cells, metadata={"kernelspec": kernel})
    nbformat.write(notebook, folder / "notebooks" / "08_tiny.ipynb")
    return folder


def write_sweep(folder, **parameters):
    """sweep.yaml of 08_tiny."""
    content = {"notebook": "08", "parameters": {"steps": 2, **parameters}}
    (folder / "sweep.yaml").write_text(yaml.safe_dump(content))


def environment(folder):
    given = {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "XDG_CACHE_HOME": str(folder / "cache")}
    return os.environ | given


def command(*config, profile="local", options=(), python=sys.executable):
    given = [f"python={python}", *config]
    return [SNAKEMAKE, "--profile", str(WORKFLOW / profile), *options, "--config", *given]


def start(folder, python=sys.executable, cores=2):
    """The sweep as a process group of its own."""
    line = command("sweep=sweep.yaml", options=("--cores", str(cores)), python=python)
    with (folder / "snakemake.log").open("a") as log:
        options = {"stdout": log, "stderr": subprocess.STDOUT, "start_new_session": True}
        return subprocess.Popen(line, cwd=folder, env=environment(folder), **options)


def done(folder):
    """Name of each complete run -> when it was completed."""
    return {path.parent.name: path.stat().st_mtime_ns for path in folder.glob("runs/sweeps/sweep/*/done.json")}


def calls(folder):
    """Name of each run that was started, in order; a run that was started twice stands there twice."""
    return (folder / "calls").read_text().split() if (folder / "calls").exists() else []


def kill(workflow, kind):
    """Kill the whole group, snakemake alone, or one of the jobs."""
    if kind == "group":
        os.killpg(workflow.pid, signal.SIGKILL)
    elif kind == "snakemake":
        workflow.kill()
    else:
        jobs = [p for p in psutil.Process(workflow.pid).children(recursive=True) if p.cmdline()[-3:-2] != ["--config"]]
        if jobs:
            random.choice(jobs).kill()


def kill_and_restart(folder, kills, seed=0, between=(3.0, 15.0), python=sys.executable):
    """Kill a sweep at random times, restart it each time, and let it end; the kinds of kills, in order.

    After each kill, every run that was complete before must still be, untouched.
    """
    rng, kinds = random.Random(seed), []
    workflow = start(folder, python)
    for _ in range(kills):
        time.sleep(rng.uniform(*between))
        before, kind = done(folder), rng.choice(["group", "snakemake", "job"])
        if workflow.poll() is None:
            kill(workflow, kind)
            kinds.append(kind)
        if kind != "job":
            workflow.wait()
            workflow = start(folder, python)
        after = done(folder)
        assert {name: after.get(name) for name in before} == before, "a complete run was lost or touched"
    if workflow.wait():
        workflow = start(folder, python)  # the runs that lost their process
        assert workflow.wait() == 0, (folder / "snakemake.log").read_text()[-3000:]
    return kinds
