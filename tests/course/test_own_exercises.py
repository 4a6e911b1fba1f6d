"""What cells of 06 and 06b run after an exercise: alarms on a wrong pixel size, a class that is not there, evidence."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from helpers.files import ROOT

from cryoshift_core.application.preflight import Preflight
from cryoshift_core.application.preflight_rows import Finding
from cryoshift_core.benchmark import real, shipped
from cryoshift_core.course import exercises, own
from cryoshift_core.data import Labelled
from cryoshift_core.simulation import datasets
from cryoshift_core.simulation.datasets import DatasetConfig


def exercise(notebook, name):
    return next(e for e in exercises.read(ROOT / "notebooks" / f"{notebook}.ipynb") if e.name == name)


def test_the_preflight_rings_as_the_solution_says():
    solution = exercises.run_code(exercise("06_your_own_subtomograms", "my_alarms").solution, {})["my_alarms"]
    found = own.pixel_size_alarms(1.3)
    assert {case: rows or ("none",) for case, (rows, _) in found.items()} == {k: (v,) for k, v in solution.items()}
    assert "40.77" in found["A"][1] and "not compared" in found["B"][1] and "voxel size is 2" in found["C"][1]


def test_nothing_rings_with_the_true_pixel_size():
    assert {case: rows for case, (rows, _) in own.pixel_size_alarms(1.0).items()} == {"A": (), "B": (), "C": ()}


def test_the_table_of_the_input_fits_a_page_of_the_site(monkeypatch):
    rows = (Finding("tomogram's name", "ok", "word " * 60, ""), Finding("hand", "look", "what", "way out " * 30))
    monkeypatch.setattr(own.checks, "preflight", lambda **given: Preflight(rows))
    lines = own.check({"tomogram": "a.mrc", "out_dir": "nowhere"}).splitlines()
    assert len(lines) > 8 and max(map(len, lines)) <= own.PAGE_WIDTH


@pytest.fixture
def job(monkeypatch):
    """A job whose boxes of class k have the value k, and whose target holds classes 0 and 1 alone."""

    def boxes(values):
        x = torch.tensor(values, dtype=torch.float)[:, None, None, None, None]
        return (x + 0.01 * torch.randn(len(values), 1, 8, 8, 8, generator=torch.Generator().manual_seed(0))).float()

    y = torch.tensor([0, 1] * 20)
    known = Labelled(boxes(y.tolist()), y, ("one", "two"), 10.0, torch.ones(40), torch.zeros(40, dtype=torch.long))
    target = SimpleNamespace(subtomograms=SimpleNamespace(x=boxes([0.0] * 30 + [1.0] * 15)))
    settings = SimpleNamespace(seed=0, method="m", device="cpu", tilts={"tilt_axis": 3.0})
    asked = []

    def simulate(config: DatasetConfig, progress: bool):
        asked.append(config)
        return replace(
            known, x=boxes([0.5] * config.n), y=y[: config.n] * 0, snr=known.snr[: config.n], groups=y[: config.n] * 0
        )

    monkeypatch.setattr(datasets, "simulate_source", simulate)
    monkeypatch.setattr(own.models, "embed", lambda network, x, device: x.flatten(1)[:, :4])
    return SimpleNamespace(
        settings=settings,
        target=target,
        asked=asked,
        simulate=lambda: SimpleNamespace(validation=known, target=known),
        adapt=lambda: SimpleNamespace(fits=[{"m": SimpleNamespace(network=None)}]),
    )


def test_a_class_that_is_not_there_is_named_last_and_counted(job):
    found = own.with_absent_class(job, "absent")
    assert found.classes == ("one", "two", "absent") and found.called.tolist() == [30, 15, 0]
    assert np.allclose(found.recall, np.eye(3)) and found.by_confusion == 0
    (config,) = job.asked
    assert (tuple(config.classes), config.n, config.tilt_axis, config.split) == (("absent",), 20, 3.0, "validation")


def test_the_calls_to_expect_are_what_the_others_lose():
    recall = np.array([[0.8, 0.1, 0.1], [0.0, 0.8, 0.2], [0.1, 0.1, 0.8]])
    found = own.AbsentClass("c", ("a", "b", "c"), np.array([100, 50, 30]), recall)
    assert found.by_confusion == pytest.approx(20.0)
    assert "30 (16.7%) are called c" in str(found) and "20 would be expected" in str(found)


def test_the_rows_of_the_particles_are_those_of_all_folds():
    rows = shipped.real_rows(real.VLP, "cryoshift", "as trained")
    assert {int(row["particle"]) for row in rows} == {one for fold in real.FOLDS for one in fold}
    assert {row["method"] for row in rows} == {"cryoshift"} and shipped.real_rows(
        "nothing", "cryoshift", "as trained"
    ) == []
    found = exercises.run_code(exercise("06b_hiv_by_particle", "by_particle").solution, {"np": np})
    means = found["by_particle"](rows)
    assert len(means) == 9 and all(0.5 < value <= 1 for value in means.values())
