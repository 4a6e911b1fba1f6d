"""Several tomograms in one run: a STAR that names the tomogram of each row, scores and warnings for each of them."""

import csv
import json
import re

import numpy as np
import pytest
import starfile
import torch
from helpers.files import coordinates, mrc, says, star
from helpers.tomograms import made, noise
from scipy import ndimage
from scipy.spatial import cKDTree

import cryoshift_core as cs
from cryoshift_core.application import several, target_data
from cryoshift_core.support.streamed import StreamedBoxes
from data_fetch import readers
from data_fetch.readers import star as star_files

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
    whole = {"tomogram": tomograms, "coordinates": folder / "all.star", **given}
    says(lambda: cs.open(**whole, held_out_tomograms="TS_4"), "held_out_tomograms", "TS_4")
    says(lambda: cs.open(**whole, held_out_tomograms=NAMES), "a tomogram to adapt to")
    found = [f"{tomograms / name}.mrc" for name in NAMES[:2]]
    part = several.read(found, folder / "all.star", CLASSES)
    assert len(part) == 2 * PER and any("left out: 39 of 115 rows" in warning for warning in part.warnings)


@pytest.mark.filterwarnings("error::cryoshift_core.errors.InputWarning")
def test_what_readers_warn_of_is_said_once_by_the_job(folder, tmp_path):
    names = [*["TS_1"] * 4, "TS_2"]
    rows = [(40, 40, 20), (400, 40, 20), (60, 40, 20), (40, 60, 20), (40, 40, 20)]
    star(tmp_path / "out.star", rlnTomoName=names, **coordinates(rows))
    found = several.read(
        [str(folder / "tomograms" / f"{name}.mrc") for name in NAMES[:2]], tmp_path / "out.star", CLASSES
    )
    assert any(sentence.startswith("TS_1: ") and "row 2 (outside" in sentence for sentence in found.warnings)


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


@pytest.fixture(scope="module")
def picked(folder):
    """The three tomograms without coordinates, and one more without a particle."""
    three = folder / "picking"
    three.mkdir()
    for name in NAMES:
        (three / f"{name}.mrc").symlink_to(folder / "tomograms" / f"{name}.mrc")
    mrc(three / "TS_0.mrc", noise(SHAPE, VOXEL, 11), VOXEL)
    return cs.classify(
        tomogram=three,
        classes=(*CLASSES, "ice"),
        contrast="dark",
        purity=0.0,
        profile="smoke",
        device="cpu",
        candidates=120,
        out_dir=folder / "picked",
    )


def listed(path, folder):
    """Name of a tomogram -> positions (N, 3) zyx that a list has in it."""
    out = {}
    for name in NAMES:
        volume = readers.read_tomogram(folder / "tomograms" / f"{name}.mrc")
        rows = star_files.tomogram_names(path)
        out[name] = readers.read_picks(path, volume).zyx if name in rows else np.zeros((0, 3))
    return out


def test_tomograms_without_coordinates_are_picked_in_one_run(folder, picked):
    assert [part.subtomograms.name for part in picked.target.parts] == list(NAMES)
    assert any("TS_0.mrc is left out: " in warning and "stands out" in warning for warning in picked.warnings)
    names = {path.relative_to(picked.folder).as_posix() for path in picked.paths}
    assert {"picks.star", "picks.tbl", "picks.doc", *(f"picks_{name}.png" for name in NAMES)} <= names
    by_name = listed(picked.folder / "picks.star", folder)
    tables = starfile.read(picked.folder / "picks.star")
    assert len(tables["optics"]) == 3 and sum(map(len, by_name.values())) == len(tables["particles"])
    truth = starfile.read(folder / "all.star")
    for k, name in enumerate(NAMES):
        rows = truth[truth["rlnTomoName"] == name][[f"rlnCoordinate{a}" for a in "ZYX"]].to_numpy()
        inside = rows[((rows[:, 1:] > 16) & (rows[:, 1:] < SHAPE[1] - 17)).all(1)]
        assert (cKDTree(by_name[name]).query(inside)[0] * VOXEL < 100).mean() > 0.8, name
        copick = readers.read_picks(
            picked.folder / name / "Picks", readers.read_tomogram(folder / "tomograms" / f"{name}.mrc")
        )
        assert len(copick) == len(by_name[name]) == sum(len(one.of(k)) for one in picked.picks.values())
        tree = cKDTree(copick.zyx)
        assert tree.query(by_name[name])[0].max() < 0.01, "both files have the same positions"
    confidence = tables["particles"].groupby("csClass", sort=False)["csConfidence"]
    assert all((np.diff(values) <= 1e-6).all() for _, values in confidence), "the most confident first"
    with (picked.folder / "tomograms.csv").open() as file:
        table = list(csv.DictReader(file))
    assert sum(int(row["picks_TRiC"]) for row in table) == len(picked.picks["TRiC"])
    assert re.search(r"TS_2: \d+ subtomograms, .* \d+ picks of TRiC, \d+ picks of apoferritin", str(picked))
    assert "picks of TRiC" in (picked.folder / "report.html").read_text()


def test_the_picks_of_several_tomograms_are_read_as_their_positions(folder, picked):
    back = several.read(several.files(folder / "tomograms"), picked.folder / "picks.star", CLASSES)
    assert len(back) == sum(map(len, picked.picks.values()))
    assert set(back.particles.table["csClass"]) <= set(CLASSES)


def test_a_model_classifies_and_picks_several_tomograms(folder, picked, tmp_path):
    model = picked.folder / "model.safetensors"
    given = {"model": model, "tomogram": folder / "tomograms", "device": "cpu", "contrast": "dark"}
    found = cs.classify(**given, coordinates=folder / "all.star", out_dir=tmp_path / "listed")
    assert len(found.predictions) == 3 * PER and "nothing was trained" in str(found)
    alone = cs.classify(**given | {"tomogram": folder / "tomograms" / "TS_2.mrc"}, coordinates=folder / "all.star",
                        out_dir=tmp_path / "alone")  # fmt: skip
    mine = found.predictions.probabilities[found.target.subtomograms.groups == 1]
    assert torch.allclose(mine, alone.predictions.probabilities, atol=1e-5), "as one by one"
    with (found.folder / "tomograms.csv").open() as file:
        table = list(csv.DictReader(file))
    assert [row["tomogram"] for row in table] == list(NAMES)
    assert all(float(row["distance"]) < 1 for row in table), "of the same kind as those it was adapted to"
    assert set(found.predictions.shifts) == {0, 1, 2}
    again = cs.classify(**given, candidates=120, purity=0.0, out_dir=tmp_path / "picks")
    for name in CLASSES:
        assert np.allclose(again.picks[name].zyx, picked.picks[name].zyx), "the same files, the same model"
    says(
        lambda: cs.open(**given, coordinates=folder / "all.star", held_out_tomograms="TS_1"),
        "no held_out_tomograms with a model",
    )


def test_a_far_one_of_several_tomograms_is_named(folder, picked, tmp_path):
    for name in NAMES:
        volume = readers.read_tomogram(folder / "tomograms" / f"{name}.mrc").data
        mrc(tmp_path / f"{name}.mrc", ndimage.gaussian_filter(volume, 2.5) if name == "TS_3" else volume, VOXEL)
    found = cs.classify(
        model=picked.folder / "model.safetensors",
        tomogram=[tmp_path / f"{name}.mrc" for name in NAMES],
        coordinates=folder / "all.star",
        contrast="dark",
        device="cpu",
        out_dir=tmp_path / "out",
    )
    away = [warning for warning in found.warnings if "further away" in warning]
    assert len(away) == 1 and away[0].startswith("TS_3 is further away"), found.predictions.shifts


def test_nothing_to_pick_in_any_tomogram_is_refused(tmp_path):
    for seed in (1, 2):
        mrc(tmp_path / f"N_{seed}.mrc", noise((40, 96, 96), VOXEL, seed), VOXEL)
    given = {"tomogram": tmp_path, "classes": (*CLASSES, "ice"), "contrast": "dark", "profile": "smoke"}
    says(lambda: cs.open(**given), "one of 2 tomograms at least", "N_2.mrc")
