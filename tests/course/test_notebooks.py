"""Every notebook runs from its first cell to its last at the smoke profile, alone, in an empty folder."""

import json
import os

import nbformat
import pytest
from helpers.files import ROOT

from cryoshift_core.application.manifest import validate
from cryoshift_core.course import costs, practice, runner

UNITS = {"1", "count", "fraction", "nat", "s", "min", "step"}
NOTEBOOKS = sorted((ROOT / "notebooks").glob("[0-9][0-9]*_*.ipynb"))


def test_the_series_is_complete():
    numbers = [path.stem.split("_")[0] for path in NOTEBOOKS]
    lessons = ["01", "01b", "02", "02b", "02c", "03", "03b", "04", "04b", "05", "05b"]
    assert numbers[:15] == ["00", *lessons, "06", "06b", "07"]


# Imported by every Python process of a notebook: notes each file of held-out labels that Python opens.
WATCH = """
import os, sys
def note(event, arguments):
    if event == "open" and str(arguments[0]).endswith(".labels.safetensors") and "r" in str(arguments[1]):
        with open(os.environ["OPENED_LABELS"], "a") as log:
            log.write(str(arguments[0]) + chr(10))
sys.addaudithook(note)
"""


@pytest.fixture
def opened_labels(tmp_path, monkeypatch):
    """A file with the paths of the label files that a notebook has opened."""
    (tmp_path / "watch").mkdir()
    (tmp_path / "watch" / "sitecustomize.py").write_text(WATCH)
    paths = [str(tmp_path / "watch"), *filter(None, [os.environ.get("PYTHONPATH")])]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(paths))
    monkeypatch.setenv("OPENED_LABELS", str(tmp_path / "opened.txt"))
    (tmp_path / "opened.txt").touch()
    return tmp_path / "opened.txt"


@pytest.mark.slow
@pytest.mark.parametrize("source", NOTEBOOKS, ids=[path.stem for path in NOTEBOOKS])
def test_a_notebook_runs_alone(source, tmp_path, monkeypatch, opened_labels):
    monkeypatch.chdir(tmp_path)
    result = runner.execute(source, tmp_path / "out", {"profile": "smoke", "device": "cpu"})
    assert result.error == ""
    opened, number = opened_labels.read_text().splitlines(), source.stem.split("_")[0]
    assert bool(opened) == (number in ("02", "02c", "05")), "02 and 02c open those of practice targets"
    if number != "05":
        assert all(f"_seed{practice.SEED}_" in path for path in opened), "these open the practice key alone"

    executed = nbformat.read(tmp_path / "out" / source.name, as_version=4)
    outputs = [output for cell in executed.cells for output in cell.get("outputs", [])]
    assert not [output for output in outputs if output.output_type == "error"]
    assert [output for output in outputs if "image/png" in output.get("data", {})], "no figure to look at"
    assert (tmp_path / "out" / f"{source.stem}.html").stat().st_size > 10_000

    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    typed = validate(manifest)
    assert typed.numbers and typed.cells and {number.unit for number in typed.numbers} <= UNITS
    assert manifest["notebook"] == source.stem
    assert manifest["status"] == "finished" and manifest["profile"]["name"] == "smoke"
    assert manifest["wall_seconds"] > 0 and manifest["peak_memory_mb"] > 0
    assert not list(tmp_path.rglob("*.partial")) and not list(tmp_path.rglob("*.unfinished"))
    if source.stem.startswith("00"):
        scores = manifest["scores"]
        seconds = sum(cost.seconds for cost in costs.read("smoke").values())
        assert scores["estimated_minutes"] == pytest.approx(scores["slower_than_reference"] * seconds / 60)
