"""The workflow runs what is missing, was killed, or was made with older code, and nothing else."""

import json
import os
import signal
import subprocess
import time
from collections import Counter

import pytest
import yaml
from helpers import sweeps
from helpers.files import ROOT

from cryoshift_core.course import sweep
from cryoshift_core.errors import InputError

pytestmark = pytest.mark.skipif(
    not sweeps.SNAKEMAKE, reason="snakemake is not installed: pip install -c constraints.txt -e '.[benchmark]'"
)


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A project whose runs are those of a stub: they take no time, unless the file `slow` says so."""
    monkeypatch.chdir(tmp_path)
    sweeps.make_project(tmp_path, stub=True)
    for name in ("00_start", "01b_source", "02_gap", "06b_hiv"):
        (tmp_path / "notebooks" / f"{name}.ipynb").write_text("{}")
    return tmp_path


def start(*config):
    line = sweeps.command("profile=smoke", *config, python="./python", options=("--cores", "2"))
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    return subprocess.Popen(line, env=sweeps.environment(sweeps.Path.cwd()), **pipes)


def series(project):
    """Names of the notebooks that a whole run of the workflow executed."""
    (project / "calls").unlink(missing_ok=True)
    workflow = start()
    text, _ = workflow.communicate(timeout=120)
    assert workflow.returncode == 0, text
    return sorted(sweeps.calls(project))


def test_a_change_of_the_library_runs_the_notebooks_again(project):
    assert series(project) == ["00_start", "01b_source", "02_gap", "06b_hiv"]
    assert series(project) == []
    (project / "cryoshift_core" / "library.py").write_text("a = 2\n")
    assert series(project) == ["00_start", "01b_source", "02_gap", "06b_hiv"]


def test_a_killed_notebook_runs_again_and_what_needs_it_waits(project):
    (project / "slow").write_text("01b_source 60")
    workflow, deadline = start(), time.monotonic() + 60
    while not (project / "pid").exists() or not (project / "pid").read_text():
        assert time.monotonic() < deadline and workflow.poll() is None
        time.sleep(0.05)
    os.kill(int((project / "pid").read_text()), signal.SIGKILL)
    assert workflow.wait(timeout=60) != 0
    workflow.stdout.close()
    assert (project / "runs/smoke/00_start/done.json").exists(), "the others go on"
    assert not (project / "runs/smoke/01b_source/done.json").exists()
    assert not (project / "runs/smoke/02_gap").exists()
    (project / "slow").write_text("")
    again = series(project)
    assert {"01b_source", "02_gap"} <= set(again) and "00_start" not in again


def test_the_series_is_no_chain():
    """03b, 04 and 05 wait for 03, 04b for 04, and 05b, which trains nothing, for none."""
    line = sweeps.command("profile=smoke", options=("--cores", "1", "-n", "--forceall", "--dag", "--quiet"))
    done = subprocess.run(line, cwd=ROOT, env=sweeps.environment(ROOT / "runs"), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    names, edges = {}, set()
    for text in done.stdout.splitlines():
        if "name: " in text:
            names[text.split("[")[0].strip()] = text.split("name: ")[1].split("_")[0]
        elif "->" in text:
            edges.add(tuple(text.strip().rstrip(";").split(" -> ")))
    found = {(names[a], names[b]) for a, b in edges if a in names and b in names}
    steps = {
        ("01b", "02"),
        ("02", "02b"),
        ("02", "02c"),
        ("02", "03"),
        ("03", "03b"),
        ("03", "04"),
        ("04", "04b"),
        ("03", "05"),
    }
    assert found == steps


def tiers(project, *config):
    """What one run of the workflow asks of `evidence`, and its exit status and output."""
    (project / "tiers").unlink(missing_ok=True)
    workflow = start(*config)
    text, _ = workflow.communicate(timeout=120)
    asked = (project / "tiers").read_text().splitlines() if (project / "tiers").exists() else []
    return [line for line in asked if "--list" not in line], workflow.returncode, text


def test_tiers_run_in_parts_go_on_and_end_with_the_report(project):
    given = ("tiers=core,mixes", "parts=2", "seeds=21,22")
    (project / "lost").write_text("--tier core --part 1/2")
    asked, status, text = tiers(project, *given)
    parts = {f"--profile smoke --seeds 21 22 --tier {t} --part {k}/2" for t in ("core", "mixes") for k in (0, 1)}
    assert status and set(asked) == parts, text
    (project / "lost").unlink()
    asked, status, text = tiers(project, *given)
    assert asked == ["--profile smoke --seeds 21 22 --tier core --part 1/2", "--profile smoke --report"]
    assert status == 0, text
    assert tiers(project, *given)[:2] == ([], 0)


def test_an_unknown_tier_is_refused_before_anything_starts(project):
    asked, status, text = tiers(project, "tiers=core,nothing")
    assert status and not asked and "invalid choice: 'nothing'" in text and "Traceback" not in text


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("[1, 2", "expected a sweep as YAML"),
        ("a: 1", "expected the keys name, notebook, parameters"),
        ("notebook: '08'\nparameter: {seed: 1}", "expected the keys"),
        ("notebook: '08'\nnames: x\nparameters: {seed: 1}", "did you mean 'name'"),
        ("notebook: '08'\nname: a/b\nparameters: {seed: 1}", "a name of letters"),
        ("notebook: '09'\nparameters: {seed: 1}", "08_tiny"),
        ("notebook: '08'\nparameters: {sed: [1]}", "did you mean 'seed'"),
        ("notebook: '08'\nparameters: {seed: [1, x]}", "'seed' is 'x'"),
        ("notebook: '08'\nparameters: {seed: []}", "empty list"),
        ("notebook: '08'\nparameters: {method: [mada, madda]}", "did you mean 'mada'"),
        ("notebook: '08'\nparameters: {weights.mada: [x], method: mada}", "term:weight"),
        ("notebook: '08'\nparameters: {out_dir: x}", "leave out_dir out"),
    ],
)
def test_a_wrong_sweep_is_refused_before_anything_starts(project, content, words):
    (project / "sweep.yaml").write_text(content)
    with pytest.raises(InputError, match=words) as caught:
        sweep.read(project / "sweep.yaml")
    assert "\n" not in str(caught.value)


def test_snakemake_shows_the_one_line_of_a_refusal(project):
    (project / "sweep.yaml").write_text("notebook: '08'\nparameters: {sed: [1]}")
    line = sweeps.command("sweep=sweep.yaml", options=("--cores", "1"))
    done = subprocess.run(line, env=sweeps.environment(project), capture_output=True, text=True)
    assert done.returncode and "did you mean 'seed'" in done.stderr and "Traceback" not in done.stderr
    assert not (project / "runs").exists() and not sweeps.calls(project)


def test_a_grid_is_the_product_of_its_lists_and_a_weight_goes_to_methods_that_have_it(project):
    sweeps.write_sweep(project, method=["mada", "coral"], seed=[0, 1], **{"weights.mada": [1, 3]})
    found = sweep.read(project / "sweep.yaml")
    assert list(found.runs) == [
        "08_tiny-method=mada-weights=mada~1-steps=2",
        "08_tiny-method=mada-weights=mada~3-steps=2",
        "08_tiny-method=mada-weights=mada~1-steps=2-seed=1",
        "08_tiny-method=mada-weights=mada~3-steps=2-seed=1",
        "08_tiny-method=coral-steps=2",
        "08_tiny-method=coral-steps=2-seed=1",
    ]
    assert found.folder == project / "runs" / "sweeps" / "sweep" and found.done == []


def test_the_shipped_sweep_is_valid_and_slurm_would_run_it(tmp_path):
    path = ROOT / "notebooks" / "sweeps" / "methods.yaml"
    assert len(sweep.read(path, ROOT / "notebooks").runs) == 24
    assert {p.parent.name for p in sweeps.WORKFLOW.glob("*/config.yaml")} == {"local", "slurm"}
    given = yaml.safe_load((sweeps.WORKFLOW / "slurm" / "config.yaml").read_text())
    assert given["executor"] == "slurm" and given["rerun-incomplete"]
    line = sweeps.command(f"sweep={path}", profile="slurm", options=("-n",))
    done = subprocess.run(line, cwd=ROOT, env=sweeps.environment(tmp_path), capture_output=True, text=True)
    assert done.returncode == 0 and "run         24" in done.stdout + done.stderr, done.stderr


def test_a_killed_sweep_loses_at_most_the_running_jobs(project):
    """Two jobs run at once, so each kill can cost two starts, and no complete run is touched."""
    names = sweeps.stub_sweep(project, 12, seconds=0.4)
    kinds = sweeps.kill_and_restart(project, 4, seed=3, between=(2.0, 4.0), python="./python")
    started = Counter(sweeps.calls(project))
    assert set(sweeps.done(project)) == set(started) == set(names)
    assert sum(started.values()) - len(names) <= 2 * len(kinds)


@pytest.mark.slow
def test_a_killed_sweep_of_a_real_notebook_ends_with_one_fit_each(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    sweeps.make_project(tmp_path)
    sweeps.write_sweep(tmp_path, method=["source_only"], seed=[0, 1], data_seed=7)
    sweeps.kill_and_restart(tmp_path, 1, seed=1, between=(25.0, 30.0))
    done = sweeps.done(tmp_path)
    assert len(done) == 2
    for name in done:
        folder = tmp_path / "runs" / "sweeps" / "sweep" / name
        content = json.loads((folder / "done.json").read_text())
        assert content["parameters"]["data_seed"] in (7, "7")
        assert (folder / "done.json").stat().st_mtime_ns >= max(p.stat().st_mtime_ns for p in folder.iterdir())
    data = [path.name for path in (tmp_path / "runs" / "smoke" / "data").glob("*.safetensors")]
    assert len([name for name in data if name.startswith("source_source")]) == 1, "the runs share their data"
    assert not list(tmp_path.rglob("*.partial"))
