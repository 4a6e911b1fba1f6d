"""Times and memory of the notebooks stand in one file; every table that shows them agrees with it."""

import json

import jupytext
import pytest
from helpers.files import ROOT

from cryoshift_core.application.profiles import PROFILES
from cryoshift_core.course import costs
from cryoshift_core.errors import InputError

NOTEBOOKS = sorted(path.stem for path in (ROOT / "notebooks").glob("0[0-7]*_*.ipynb"))
FILE = ROOT / "notebooks" / costs.FILE


@pytest.mark.parametrize("profile", ["smoke", "laptop"])
def test_every_notebook_has_a_cost(profile):
    assert list(costs.read(profile, FILE)) == NOTEBOOKS and len(NOTEBOOKS) == 15
    assert all(cost.seconds > 1 and cost.memory_mb > 100 for cost in costs.read(profile, FILE).values())
    assert set(json.loads(FILE.read_text())) <= set(PROFILES)


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_the_opening_table_of_a_notebook_agrees(name):
    (first, *_) = jupytext.read(ROOT / "notebooks" / f"{name}.ipynb").cells
    for profile in ("smoke", "laptop"):
        cost = costs.read(profile, FILE)[name]
        assert f"\n| {profile} | {cost.time} | {cost.memory} |" in first.source


def test_the_table_of_the_readme_agrees():
    readme = (ROOT / "README.md").read_text()
    assert [row[2] for row in costs.README_ROW.finditer(readme)] == NOTEBOOKS
    assert costs.with_costs(readme, path=FILE) == readme, "run costs.write_tables"


def test_new_measurements_reach_every_table(tmp_path):
    folder = tmp_path / "notebooks"
    folder.mkdir()
    (folder / costs.FILE).write_text(FILE.read_text())
    for path in (*(f"notebooks/{name}.py" for name in NOTEBOOKS), "README.md"):
        (tmp_path / path).write_text((ROOT / path).read_text())
    assert costs.write_tables(folder) == []
    costs.record("laptop", {NOTEBOOKS[3]: costs.Cost(207.0, 2004.0)}, folder / costs.FILE)
    assert [path.name for path in costs.write_tables(folder)] == [f"{NOTEBOOKS[3]}.py", "README.md"]
    assert "# | laptop | 3.5 min | 2000 MB |" in (folder / f"{NOTEBOOKS[3]}.py").read_text()
    assert "| 3.5 min | 2000 MB |" in (tmp_path / "README.md").read_text()
    assert costs.read("laptop", folder / costs.FILE)[NOTEBOOKS[2]] == costs.read("laptop", FILE)[NOTEBOOKS[2]]


def test_seconds_and_minutes():
    assert [costs.Cost(s, 1234.0).time for s in (9.6, 59.0, 60.0, 96.0)] == ["10 s", "59 s", "1.0 min", "1.6 min"]
    assert costs.Cost(1.0, 1234.0).memory == "1230 MB"


def test_the_file_is_found_from_elsewhere_or_its_lack_is_reported(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert costs.find() == FILE
    monkeypatch.setattr(costs, "PACKAGE", tmp_path / "installed" / "cryoshift_core")
    with pytest.raises(InputError, match="run this inside the repository"):
        costs.find()
    (tmp_path / costs.FILE).write_text("{}")
    assert costs.read("laptop") == {}
