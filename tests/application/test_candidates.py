"""A tomogram without coordinates: candidates, picks at an expected purity, and files for other programs."""

import json
from dataclasses import replace

import numpy as np
import pytest
import starfile
import torch
from helpers.files import mrc, says
from helpers.tomograms import made, noise
from scipy.spatial import cKDTree

from cryoshift_core import __main__ as command_line
from cryoshift_core.application import classify, picks, target_data
from cryoshift_core.application.classifier import Predictions
from cryoshift_core.application.picks import Picks
from cryoshift_core.errors import InputError
from cryoshift_core.simulation import structures
from cryoshift_core.tomography.volumes import Volume
from data_fetch import readers

VOXEL = 24.0
CLASSES = ("ribosome_80S", "ice")


@pytest.fixture(scope="module")
def tomogram(tmp_path_factory):
    """A tomogram, protein dark, of 40 ribosomes, and their positions (40, 3) zyx."""
    volume, at = made({"ribosome_80S": 40}, strength=5.0)
    path = mrc(tmp_path_factory.mktemp("picks") / "TS_07.mrc", -volume, VOXEL)
    return path, at["ribosome_80S"]


def candidates(path, classes=CLASSES, n=300, **options):
    sizes = {name: structures.diameter(name) for name in classes}
    return picks.candidates(readers.read_tomogram(path), sizes, n=n, **options)


def test_candidates_become_subtomograms_also_at_the_border(tomogram):
    path, at = tomogram
    target = candidates(path)
    assert target.contrast == "dark" and len(target.kept) == len(target) == len(target.candidates)
    away = cKDTree(target.particles.zyx).query(at)[0]
    assert (away * VOXEL < 150).all()
    half = target.edge // 2
    size = np.array(target.tomogram.data.shape)
    over = ((target.particles.zyx < half) | (target.particles.zyx > size - half)).any(1)
    assert over.any(), "some boxes reach over the border and are padded"
    first = target.subtomograms.x[0, 0]
    centre, rim = first[10:15, 10:15, 10:15].mean(), first[:3].mean()
    assert centre > rim + 1, "protein is bright in the middle"


def test_noise_is_refused_with_ways_out_that_work(tomogram, tmp_path):
    mrc(tmp_path / "empty.mrc", noise((40, 96, 96), VOXEL, 0), VOXEL)
    says(lambda: candidates(tmp_path / "empty.mrc"), "empty.mrc", "ribosome_80S (303 A)", "or give coordinates")
    path, _ = tomogram
    says(lambda: candidates(path, contrast="bright"), "TS_07.mrc", "set contrast to dark")
    assert candidates(path, contrast="dark").candidates.score[0] > 5
    says(lambda: candidates(path, ("membrane", "ice")), "membrane, ice", "name a molecule")


def test_a_background_class_is_added_where_there_is_none():
    assert target_data.read_classes("ribosome_80S", (), background=True) == CLASSES
    assert target_data.read_classes("ice,TRiC", (), background=True) == ("ice", "TRiC")
    assert target_data.read_classes("", ("TRiC",), background=True) == ("TRiC", "ice")
    with pytest.raises(InputError, match="at least two classes"):
        target_data.read_classes("ribosome_80S", ())


def given_target(tomogram, real):
    """Candidates with whole boxes, as many as `real`, the estimated fractions of particles at their density."""
    target = candidates(tomogram[0])
    rows = np.flatnonzero(target.whole)[: len(real)]
    estimated = target.candidates.real.copy()
    estimated[target.kept[rows]] = real
    return replace(
        target,
        kept=target.kept[rows],
        subtomograms=target.subtomograms.subset(torch.from_numpy(rows)),
        candidates=replace(target.candidates, real=estimated),
    )


def test_background_boxes_are_weak_maxima_away_from_the_particles(tomogram):
    path, at = tomogram
    target = candidates(path)
    x, centres = target_data.cut_background(target, 40, torch.Generator().manual_seed(0))
    assert x.shape == (40, 1, *target.subtomograms.x.shape[2:]) and len(np.unique(centres, axis=0)) == 40
    assert (cKDTree(target.candidates.weak).query(centres)[0] == 0).all()
    assert (cKDTree(at).query(centres)[0] * VOXEL > 150).all()


def test_picks_are_the_most_confident_that_keep_the_expected_purity(tomogram):
    target = given_target(tomogram, [1, 1, 1, 1, 1, 1])
    p = torch.tensor([[0.9, 0.1], [0.2, 0.8], [0.95, 0.05], [0.6, 0.4], [0.99, 0.01], [0.7, 0.3]])
    unknown = torch.tensor([False, False, False, False, True, False])
    found = picks.at_purity(target, Predictions(CLASSES, p, torch.zeros(6), unknown), 0.8)
    assert list(found) == ["ribosome_80S"], "no picks of the background"
    listed = found["ribosome_80S"]
    assert listed.confidence.tolist() == pytest.approx([0.95, 0.9, 0.7])  # with 0.6 the mean is 0.79
    assert np.array_equal(listed.zyx, target.particles.zyx[target.kept[[2, 0, 5]]])
    assert listed.expected_purity == pytest.approx(0.85)
    everything = picks.at_purity(target, Predictions(CLASSES, p), 0.0)["ribosome_80S"]
    assert len(everything) == 6, "also where ice is more probable, at its low confidence"
    assert everything.confidence[-1] == pytest.approx(0.2)
    two = picks.at_purity(target, Predictions(CLASSES, p), 0.99, n=2)["ribosome_80S"]
    assert two.confidence.tolist() == pytest.approx([0.99, 0.95]), "a number in place of a purity"
    most_unknown = Predictions(CLASSES, p, torch.zeros(6), torch.ones(6, dtype=torch.bool))
    assert len(picks.at_purity(target, most_unknown, 0.0)["ribosome_80S"]) == 6, "the mark tells nothing then"
    none = picks.at_purity(target, Predictions(CLASSES, p), 1.0)
    assert len(none["ribosome_80S"]) == 0 and "ribosome_80S 0" in picks.summary(none)
    assert "ribosome_80S 3 (0.85)" in picks.summary(found)


def test_the_confidence_of_a_pick_counts_its_density(tomogram):
    target = given_target(tomogram, [1.0, 0.5, 0.25])
    p = torch.tensor([[0.8, 0.2], [0.96, 0.04], [1.0, 0.0]])
    found = picks.at_purity(target, Predictions(CLASSES, p), 0.6)["ribosome_80S"]
    assert found.confidence.tolist() == pytest.approx([0.8, 0.48])
    assert np.array_equal(found.zyx, target.particles.zyx[target.kept[:2]])


def test_a_candidate_is_listed_for_one_class_with_a_diameter(tomogram):
    target = given_target(tomogram, [1.0, 1.0, 1.0])
    classes = ("ribosome_80S", "TRiC", "membrane", "ice")
    p = torch.tensor([[0.3, 0.1, 0.5, 0.1], [0.2, 0.7, 0.0, 0.1], [0.05, 0.1, 0.8, 0.05]])
    found = picks.at_purity(target, Predictions(classes, p), 0.0, sized=["ribosome_80S", "TRiC"])
    assert {name: one.confidence.tolist() for name, one in found.items()} == {
        "ribosome_80S": pytest.approx([0.3]),
        "TRiC": pytest.approx([0.7, 0.1]),
    }


def test_padded_boxes_at_the_border_are_classified_and_not_listed(tomogram):
    target = candidates(tomogram[0])
    p = torch.full((len(target.kept), 2), 0.5)
    listed = picks.at_purity(target, Predictions(CLASSES, p), 0.0)["ribosome_80S"]
    at, size, half = target.candidates.zyx[target.kept], target.tomogram.data.shape, target.edge / 2
    over = ((at[:, 1:] < half - 1) | (at[:, 1:] > np.array(size[1:]) - half)).any(1)
    assert 0 < over.sum() and len(listed) == target.whole.sum() and not (over & target.whole).any()
    assert cKDTree(at[over]).query(listed.zyx)[0].min() > 0


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """Picks of two classes in an anisotropic volume, written, and read-only facts about them."""
    folder = tmp_path_factory.mktemp("written")
    data = np.random.default_rng(0).normal(size=(31, 44, 57)).astype(np.float32)
    path = mrc(folder / "TS_3.mrc", data, 13.48)
    volume = readers.read_tomogram(path)
    rng = np.random.default_rng(1)
    found = {
        name: Picks(rng.random((n, 3)) * (30, 43, 56), np.sort(rng.uniform(0.5, 1, n))[::-1])
        for name, n in (("ribosome_80S", 7), ("TRiC", 4), ("apoferritin", 0))
    }
    return volume, found, folder, picks.write(folder, [volume], found)


def everything(found):
    return np.concatenate([one.zyx for one in found.values()])


@pytest.mark.parametrize("name", ["picks.star", "picks.tbl"])
def test_written_picks_are_read_back_to_a_hundredth_of_a_voxel(written, name):
    volume, found, folder, paths = written
    assert folder / name in paths
    back = readers.read_picks(folder / name, volume)
    assert np.abs(back.zyx - everything(found)).max() < 0.01


def test_the_copick_folder_is_read_back_to_a_hundredth_of_a_voxel(written):
    volume, found, folder, _ = written
    assert sorted(path.name for path in (folder / "Picks").iterdir()) == [
        "cryoshift_0_TRiC.json",
        "cryoshift_0_ribosome-80S.json",
    ]
    back = readers.read_picks(folder / "Picks", volume)
    assert np.abs(back.zyx - np.concatenate([found["TRiC"].zyx, found["ribosome_80S"].zyx])).max() < 0.01
    content = json.loads((folder / "Picks" / "cryoshift_0_TRiC.json").read_text())
    assert content["run_name"] == "TS_3" and content["pickable_object_name"] == "TRiC"
    assert [point["score"] for point in content["points"]] == pytest.approx(found["TRiC"].confidence, abs=1e-4)
    assert content["points"][0]["location"]["x"] == pytest.approx(found["TRiC"].zyx[0, 2] * 13.48, abs=1e-3)


def test_the_tables_name_class_and_confidence(written):
    volume, found, folder, paths = written
    table = starfile.read(folder / "picks.star")["particles"]
    assert table["csClass"].tolist() == ["ribosome_80S"] * 7 + ["TRiC"] * 4
    assert table["csConfidence"].tolist() == pytest.approx(
        [p for one in found.values() for p in one.confidence], abs=1e-4
    )
    assert table["rlnCoordinateX"].tolist() == pytest.approx(everything(found)[:, 2], abs=1e-3)
    centred = (everything(found)[:, 0] - 31 / 2) * 13.48
    assert table["rlnCenteredCoordinateZAngst"].tolist() == pytest.approx(centred, abs=1e-3)
    rows = np.loadtxt(folder / "picks.tbl")
    assert rows[:, 21].tolist() == [1] * 7 + [2] * 4 and rows[:, 19].tolist() == [1] * 11
    assert rows[:, 9] == pytest.approx(table["csConfidence"]) and rows[0, 23] == pytest.approx(
        found["ribosome_80S"].zyx[0, 2] + 1, abs=1e-3
    )
    picture = (folder / "picks.png").read_bytes()
    assert picture[:4] == b"\x89PNG" and len(picture) > 10_000


def test_the_heat_map_is_brightest_where_the_picks_are(written):
    from cryoshift_core.application.pictures import pick_density

    data = np.random.default_rng(0).normal(size=(30, 60, 90)).astype(np.float32)
    crowd = np.array([(25.0, 15.0, 70.0)]) + np.random.default_rng(1).normal(size=(40, 3))
    figure = pick_density(data, {"TRiC": crowd, "none": np.zeros((0, 3))}, 10.0)
    panels = [ax for ax in figure.axes if len(ax.images) == 2]
    assert len(panels) == 6
    layers = [np.asarray(ax.images[1].get_array()) for ax in panels]
    y, x = np.unravel_index(layers[2].argmax(), layers[2].shape)
    assert abs(y - 15) < 3 and abs(x - 70) < 3 and layers[0].max() == 0 == max(part.max() for part in layers[3:])


def test_empty_lists_of_picks_are_written(tmp_path):
    volume = Volume(np.random.default_rng(0).normal(size=(9, 9, 9)), 10.0, "TS_1.mrc")
    picks.write(tmp_path, [volume], {"TRiC": Picks(np.zeros((0, 3)), np.zeros(0))})
    assert (tmp_path / "picks.star").is_file() and (tmp_path / "picks.tbl").read_text() == ""
    assert not (tmp_path / "Picks").exists()


def test_the_command_picks_a_tomogram_without_coordinates(tomogram, tmp_path, capsys):
    path, at = tomogram
    out = tmp_path / "out"
    arguments = ["classify", "--tomogram", str(path), "--classes", "ribosome_80S", "--out", str(out)]
    arguments += ["--profile", "smoke", "--device", "cpu", "--purity", "0", "--candidates", "60"]
    assert command_line.main(arguments) == 0
    printed = capsys.readouterr().out
    assert "Picks of each class (expected purity): ribosome_80S" in printed and "not a measurement" in printed
    names = {file.relative_to(out).as_posix() for file in out.rglob("*") if file.is_file()}
    assert {"picks.star", "picks.tbl", "picks.png", "predictions.star", "report.html", "model.safetensors"} <= names
    rows = starfile.read(out / "predictions.star")["particles"]
    assert len(rows) == 60 and set(rows["csClass"]) <= set(CLASSES) and "csCandidateScore" in rows
    back = readers.read_picks(out / "predictions.star", readers.read_tomogram(path))
    assert (cKDTree(back.zyx).query(at)[0] * VOXEL < 150).all(), "the candidates are at the ribosomes"
    page = (out / "report.html").read_text(encoding="utf-8")
    assert "not a measurement" in page and "average particle is" not in page


def test_a_purity_beyond_one_is_refused(tomogram, tmp_path):
    says(lambda: classify.classify(tomogram=tomogram[0], purity=80.0, out_dir=tmp_path / "out"), "0 to 1", "got 80")
    assert not list(tmp_path.iterdir())
