"""Notebooks run two at a time, each after the one that it uses; an interruption or a death reaches the right ones."""

import json
import os
import signal
import subprocess
import sys
import time
from functools import partial

import psutil
import pytest
from helpers.files import ROOT

from cryoshift_core.course import series


def noted(folder, name, seconds=0.0, fate=""):
    """Note start and end of a task in a file; `fate` ends its process in between."""
    with open(folder / "log", "a") as log:
        log.write(f"{name} starts\n")
    time.sleep(seconds)
    if fate:
        os._exit(9)
    with open(folder / "log", "a") as log:
        log.write(f"{name} ends\n")
    return name, os.environ.get("OMP_NUM_THREADS"), os.getpid()


def tasks(folder, *names, **options):
    return {name: partial(noted, folder, name, **options) for name in names}


def test_one_at_a_time_runs_here_and_in_order(tmp_path):
    found = dict(series.run_all(tasks(tmp_path, "02_b", "01_a"), 1, {"02": "01"}))
    assert list(found) == ["02_b", "01_a"] and found["01_a"][2] == os.getpid()


def test_two_at_a_time_wait_for_what_they_use(tmp_path, monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    asked = tasks(tmp_path, "00_x", "01_a", "02_b", "02b_c", "06_y", seconds=0.3)
    found = dict(series.run_all(asked, 2, {"02": "01", "02b": "02", "06": "05"}))
    log = (tmp_path / "log").read_text().splitlines()
    assert set(found) == set(asked) and log[0] == "01_a starts", "two others wait for 01"
    assert log[1] == "00_x starts", "the second core is used"
    for name, used in (("02_b", "01_a"), ("02b_c", "02_b")):
        assert log.index(f"{name} starts") > log.index(f"{used} ends")
    threads, own = {one[1] for one in found.values()}, {one[2] for one in found.values()}
    assert threads == {str(max(1, os.cpu_count() // 2))} and os.getpid() not in own and len(own) == 5


def test_a_process_that_dies_stops_no_other(tmp_path):
    asked = tasks(tmp_path, "01_a", fate="dies") | tasks(tmp_path, "02_b", "03_c")
    found = dict(series.run_all(asked, 2, {"02": "01"}))
    assert found["01_a"] is None and found["02_b"][0] == "02_b" and found["03_c"][0] == "03_c"


def test_leaving_early_ends_the_processes(tmp_path):
    running = series.run_all(tasks(tmp_path, "00_x") | tasks(tmp_path, "01_a", seconds=60), 2, {})
    assert next(running)[0] == "00_x"
    start = time.monotonic()
    running.close()
    assert time.monotonic() - start < 20 and "01_a ends" not in (tmp_path / "log").read_text()


def test_two_jobs_only_where_two_notebooks_fit(monkeypatch):
    largest = sorted(
        one["memory_mb"] for one in json.loads((ROOT / "notebooks" / "costs.json").read_text())["laptop"].values()
    )
    memory = type("Memory", (), {"available": 1e6 * series.MARGIN * sum(largest[-2:]) + 1})
    monkeypatch.setattr(series.psutil, "virtual_memory", lambda: memory)
    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    assert series.fitting_jobs("laptop") == 2 and series.fitting_jobs("paper") == 1
    memory.available -= 2
    assert series.fitting_jobs("laptop") == 1
    memory.available *= 9
    monkeypatch.setattr(os, "cpu_count", lambda: 1)
    assert series.fitting_jobs("laptop") == 1


def test_what_notebooks_use_comes_before_them():
    uses = series.reuses(ROOT / "notebooks")
    numbers = [series.number(path.stem) for path in sorted((ROOT / "notebooks").glob("[0-9]*.ipynb"))]
    assert uses and all(numbers.index(used) < numbers.index(name) for name, used in uses.items())


@pytest.mark.slow
@pytest.mark.parametrize("stop", ["interrupt", "kill"])
def test_no_kernel_outlives_a_series_that_is_stopped(tmp_path, stop):
    command = [
        sys.executable,
        "-m",
        "cryoshift_core",
        "tutorial",
        "--profile",
        "smoke",
        "--only",
        "00",
        "07",
        "--jobs",
        "2",
    ]
    process = subprocess.Popen([*command, "--out", str(tmp_path / "out")], cwd=ROOT, stderr=subprocess.PIPE, text=True)
    try:
        end, kernels = time.monotonic() + 120, []
        while len(kernels) < 2 and time.monotonic() < end:
            time.sleep(0.2)
            below = psutil.Process(process.pid).children(recursive=True)
            kernels = [one for one in below if "ipykernel_launcher" in " ".join(one.cmdline())]
        assert len(kernels) == 2
        time.sleep(2)
        process.send_signal(signal.SIGINT if stop == "interrupt" else signal.SIGKILL)
        _, said = process.communicate(timeout=60)
        assert stop == "kill" or (process.returncode == 130 and "Stopped; 0 of 2 notebooks have ended" in said)
        _, alive = psutil.wait_procs(below, timeout=30)
        assert not alive
    finally:
        process.kill()
