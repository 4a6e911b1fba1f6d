"""Several tomograms in one run: a STAR that names the tomogram of each row, scores and warnings for each of them."""

import csv
import json
import re

import numpy as np
import pytest
import starfile
import torch
from helpers.files import mrc, says, star
from helpers.tomograms import made

import cryoshift_core as cs
from cryoshift_core.application import several, target_data
from cryoshift_core.support.streamed import StreamedBoxes

VOXEL, SHAPE, PER = 20.0, (64, 220, 220), 38  # A, voxels, particles of each tomogram
NAMES = ("TS_1", "TS_2", "TS_3")
CLASSES = ("TRiC", "apoferritin")
pytestmark = pytest.mark.filterwarnings("ignore::cryoshift_core.errors.InputWarning")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with three tomograms, protein dark, and all.star, whose rows name them in turn, and one more."""
    folder = tmp_path_factory.mktemp("several")
    (folder / "tomograms").mkdir()
    rows = []
    for seed, name in enumerate(NAMES):
        volume, at = made({"TRiC": 20, "apoferritin": 18}, SHAPE, VOXEL, 5.0, seed, apart=11, margin=12)
        mrc(folder / "tomograms" / f"{name}.mrc", -volume, VOXEL)
        rows += [(name, *zyx[::-1]) for zyx in np.concatenate(list(at.values())).round(3)]
    order = np.random.default_rng(0).permutation(len(rows))
    rows = [rows[i] for i in order] + [("TS_9", 30.0, 30.0, 30.0)]
    columns = {f"rlnCoordinate{axis}": [row[i] for row in rows] for i, axis in enumerate("XYZ", 1)}
    star(folder / "all.star", rlnTomoName=[row[0] for row in rows], **columns)
    return folder


@pytest.fixture(scope="module")
def target(folder):
    return several.read(several.files(folder / "tomograms"), folder / "all.star", CLASSES)


def test_each_row_is_cut_from_the_tomogram_that_it_names(folder, target):
    table = starfile.read(folder / "all.star")
    assert len(target) == 3 * PER == len(target.kept) and target.particles.rows.tolist() == list(range(1, 3 * PER + 1))
    assert target.particles.table["rlnTomoName"] == table["rlnTomoName"].tolist()[:-1]
    assert [NAMES[k] for k in target.subtomograms.groups] == target.particles.table["rlnTomoName"]
    for k, name in enumerate(NAMES):
        rows = table[table["rlnTomoName"] == name]
        alone = folder / f"{name}.star"
        star(alone, **{column: rows[column].tolist() for column in rows if column != "rlnTomoName"})
        own = cs.open(tomogram=folder / "tomograms" / f"{name}.mrc", coordinates=alone, classes=CLASSES).target
        mine = target.subtomograms.x[target.subtomograms.groups == k]
        assert torch.equal(mine, own.subtomograms.x), name
    assert "left out: 1 of 115 rows of all.star, which name other tomograms." in target.warnings


def test_boxes_that_are_cut_when_used_are_the_same(folder, target, monkeypatch):
    monkeypatch.setattr(target_data, "STREAMED", 0)
    streamed = several.read(several.files(folder / "tomograms"), folder / "all.star", CLASSES).subtomograms
    assert isinstance(streamed.x, StreamedBoxes) and torch.equal(streamed.x[:], target.subtomograms.x)
    some = torch.tensor([110, 3, 77])
    assert torch.equal(streamed.x[some], target.subtomograms.x[some])


def test_tomograms_are_given_as_a_folder_a_sequence_or_a_text(folder, tmp_path):
    paths = [str(folder / "tomograms" / f"{name}.mrc") for name in NAMES]
    assert several.files(folder / "tomograms") == paths == several.files(paths) == several.files(", ".join(paths))
    assert several.files(paths[0]) == paths[:1] and several.files("") == []
    says(lambda: several.files(tmp_path), "holds no tomogram", ".mrc")


def test_what_does_not_fit_is_said(folder, tmp_path):
    tomograms = folder / "tomograms"
    one = folder / "TS_1.star"
    star(one, rlnCoordinateX=[30.0], rlnCoordinateY=[30.0], rlnCoordinateZ=[20.0])
    given = {"classes": CLASSES, "profile": "smoke"}
    says(lambda: cs.open(tomogram=tomograms, coordinates=one, **given), "TS_1.star", "at least two tomograms")
    says(lambda: cs.open(tomogram=tomograms, **given), "one tomogram without coordinates", "got 3", "each of them")
    whole = {"tomogram": tomograms, "coordinates": folder / "all.star", **given}
    says(lambda: cs.open(**whole, held_out_tomograms="TS_4"), "held_out_tomograms", "TS_4")
    says(lambda: cs.open(**whole, held_out_tomograms=NAMES), "a tomogram to adapt to")
    found = [f"{tomograms / name}.mrc" for name in NAMES[:2]]
    part = several.read(found, folder / "all.star", CLASSES)
    assert len(part) == 2 * PER and any("left out: 39 of 115 rows" in warning for warning in part.warnings)


@pytest.fixture(scope="module")
def result(folder):
    return cs.classify(
        tomogram=folder / "tomograms",
        coordinates=folder / "all.star",
        classes=CLASSES,
        held_out_tomograms="TS_2",
        profile="smoke",
        device="cpu",
        out_dir=folder / "out",
    )


def test_the_report_has_a_row_for_each_tomogram(result):
    rows = starfile.read(result.paths[0])
    assert len(rows) == 3 * PER and set(rows["csClass"]) <= set(CLASSES)
    with (result.folder / "tomograms.csv").open() as file:
        table = {row["tomogram"]: row for row in csv.DictReader(file)}
    assert list(table) == list(NAMES) and [row["held_out"] for row in table.values()] == ["0", "1", "0"]
    for name, row in table.items():
        mine = rows[rows["rlnTomoName"] == name]
        assert int(row["subtomograms"]) == PER and float(row["TRiC"]) == pytest.approx(
            (mine["csClass"] == "TRiC").mean(), abs=1e-4
        )
        assert float(row["confidence"]) == pytest.approx(mine["csConfidence"].mean(), abs=1e-3)
    page = (result.folder / "report.html").read_text()
    assert "Each tomogram" in page and "TS_2 (held out)" in page
    assert re.search(r"TS_2, held out: 38 subtomograms, TRiC \d+%", str(result))
    inputs = json.loads((result.folder / "manifest.json").read_text())["inputs"]
    assert {path.rsplit("/", 1)[-1] for path in inputs} == {*(f"{name}.mrc" for name in NAMES), "all.star"}


def test_a_held_out_tomogram_is_not_adapted_to_and_its_boxes_are_not_trained_with(folder):
    job = cs.open(
        tomogram=folder / "tomograms",
        coordinates=folder / "all.star",
        classes=CLASSES,
        held_out_tomograms="TS_2",
        profile="smoke",
    )
    assert set(job.unlabelled.groups.tolist()) == {0, 2} and len(job.unlabelled) == job.profile.n_target
    everything = several.background(job.target, 300, 0, ())
    without = several.background(job.target, 300, 0, job.settings.held_out)
    assert set(everything.part.tolist()) == {0, 1, 2} and torch.equal(everything.spike_ins, without.spike_ins)
    if everything.train is not None:
        assert without.train is None or len(without.train) < len(everything.train)
    shown = job.look()
    assert list(shown.figures()) == ["contrast", "tomogram_1", "tomogram_2", "tomogram_3", "subtomograms"]


def test_the_check_has_rows_for_each_tomogram(folder, tmp_path):
    given = {"coordinates": folder / "all.star", "classes": CLASSES, "profile": "smoke"}
    found = cs.preflight(tomogram=folder / "tomograms", **given, out_dir=tmp_path)
    checks = {finding.check for finding in found.findings}
    assert {"TS_1: tomogram", "TS_2: tomogram", "TS_3: tomogram", "TS_2: positions"} <= checks, checks
    assert found.page is not None and found.page.parent == tmp_path / "TS_1"
    one = cs.preflight(tomogram=folder / "tomograms" / "TS_2.mrc", **given)
    assert {f.check for f in one.findings} == {c.removeprefix("TS_2: ") for c in checks if c.startswith("TS_2: ")}


def test_a_warning_names_its_tomogram(folder, tmp_path):
    table = starfile.read(folder / "all.star")[["rlnTomoName", *(f"rlnCoordinate{a}" for a in "XYZ")]]
    row = int(np.flatnonzero(table["rlnTomoName"] == "TS_2")[0])
    table.loc[row, "rlnCoordinateX"] = 900.0
    star(tmp_path / "off.star", **{column: table[column].tolist() for column in table})
    found = several.read(several.files(folder / "tomograms"), tmp_path / "off.star", CLASSES)
    assert len(found) == 3 * PER == len(found.kept) + 1 and row not in found.kept and row in found.particles.bad
    (warning,) = [sentence for sentence in found.warnings if "not classified" in sentence]
    assert warning.startswith("TS_2: ") and f"row {row + 1} " in warning
