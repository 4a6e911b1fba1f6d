"""A saved model on the next tomogram: nothing is trained, and contradictions and distance are said."""

import dataclasses
import json

import numpy as np
import pytest
import starfile
import torch
from helpers.files import coordinates, mrc, says, star
from helpers.tomograms import made, noise
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from scipy import ndimage
from scipy.spatial import cKDTree

import cryoshift_core as cs
from cryoshift_core import __main__ as command_line
from cryoshift_core.application import adapted_to, classify, in_parts, target_data, verdict
from cryoshift_core.application import reuse as reuse_of
from cryoshift_core.application.classifier import Classifier
from cryoshift_core.application.profiles import PROFILES
from cryoshift_core.application.reference import TargetReference, distance_warnings
from cryoshift_core.support.streamed import StreamedBoxes

VOXEL, SHAPE = 20.0, (48, 120, 120)
SIZES = {"TRiC": 176.2, "apoferritin": 120.0, "ice": 0.0}
SHORT = dataclasses.replace(PROFILES["smoke"], steps=30, n_source=96, n_validation=48, n_target=120)


def write(folder, name, volume, at, voxel_size=VOXEL):
    """name.mrc, protein dark, and name.star of the positions."""
    mrc(folder / f"{name}.mrc", -volume, voxel_size)
    star(folder / f"{name}.star", **coordinates(at[:, ::-1].round(3).tolist()))


def tomogram(seed, strength=5.0, numbers=None):
    """A made tomogram, and the positions of its particles (N, 3) zyx."""
    volume, at = made(numbers or {"TRiC": 50, "apoferritin": 40}, SHAPE, VOXEL, strength, seed, apart=11, margin=12)
    return volume, np.concatenate(list(at.values()))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with three tomograms: first, near (of the same kind) and far (low-pass filtered), and their lists."""
    folder = tmp_path_factory.mktemp("tomograms")
    write(folder, "first", *tomogram(1))
    write(folder, "near", *tomogram(2))
    volume, at = tomogram(3)
    write(folder, "far", ndimage.gaussian_filter(volume, 2.0), at)
    return folder


@pytest.fixture(scope="module")
def first(folder):
    """The run that trains, with a class ice."""
    return classify.classify(
        tomogram=folder / "first.mrc",
        coordinates=folder / "first.star",
        classes="TRiC,apoferritin,ice",
        profile=SHORT,
        box=24,
        device="cpu",
        out_dir=folder / "first",
    )


def reuse(folder, name, out, **options):
    files = {"tomogram": folder / f"{name}.mrc", "coordinates": folder / f"{name}.star"}
    model = {"model": folder / "first" / "model.safetensors", "device": "cpu", "out_dir": out}
    return classify.classify(**(files | model | options))


@pytest.fixture(scope="module")
def near(folder, first):
    return reuse(folder, "near", folder / "near")


def test_the_model_predicts_the_next_tomogram_without_training(folder, first, near):
    assert near.classifier.classes == first.classifier.classes and near.spike_in == {} == near.gap
    rows = starfile.read(near.paths[0])
    assert len(rows) == 90 and set(rows["csClass"]) <= set(SIZES)
    names = {path.relative_to(near.folder).as_posix() for path in near.paths}
    assert {"predictions.star", "model.safetensors", "report.html"} <= names
    page = near.paths[-1].read_text(encoding="utf-8")
    assert "nothing was trained: model.safetensors was adapted to first" in page
    manifest = json.loads((near.folder / "manifest.json").read_text())
    assert manifest["status"] == "finished" and "nothing was trained" in manifest["profile"]["name"]
    assert any(path.endswith("first/model.safetensors") for path in manifest["inputs"])
    own = reuse(folder, "first", folder / "again")
    assert torch.equal(own.predictions.probabilities, first.predictions.probabilities), "same file, same numbers"


def test_the_verdict_on_what_the_model_was_adapted_to_goes_with_it(first, near):
    """Its alarms cannot be raised again without spike-ins, and "not judged" alone would hide them."""
    saved = cs.load(first.folder / "model.safetensors")
    assert saved.recipe["verdict"] == first.verdict.level
    said = f"On first, which the model was adapted to, the verdict was: {first.verdict}. Most"
    assert any(said in warning for warning in near.warnings) == (first.verdict.level != verdict.USABLE)
    for level, n in ((verdict.USABLE, 0), (verdict.PARTLY, 1), (verdict.DO_NOT_USE, 1)):
        told = dataclasses.replace(saved, recipe=saved.recipe | {"verdict": level, "verdict_in_words": "words of it"})
        found = reuse_of.verdict_warnings(told)
        assert len(found) == n and all("words of it" in sentence for sentence in found)
    older = {name: value for name, value in saved.recipe.items() if not name.startswith("verdict")}
    assert reuse_of.verdict_warnings(dataclasses.replace(saved, recipe=older)) == []


def test_a_far_tomogram_is_told_from_a_near_one(folder, near):
    far = reuse(folder, "far", folder / "far")
    assert not any("further away" in warning for warning in near.warnings), near.predictions.shift
    (warning,) = [warning for warning in far.warnings if "further away" in warning]
    assert "far is further away" in warning and "run classify on far without model" in warning


def test_another_mixture_of_the_same_classes_is_not_far(folder, first, tmp_path):
    write(tmp_path, "mix", *tomogram(4, numbers={"TRiC": 15, "apoferritin": 75}))
    (tmp_path / "first").symlink_to(folder / "first")
    assert not any("further away" in w for w in reuse(tmp_path, "mix", tmp_path / "out").warnings)


def test_the_shift_is_that_of_the_class_means_beyond_chance():
    g = torch.Generator().manual_seed(0)
    y = torch.arange(400) % 2
    offset = 5.0 * torch.stack([y, 1 - y], 1).repeat(1, 8).float()

    def features(n=400):
        return torch.randn(n, 16, generator=g) + offset[:n]

    reference = TargetReference.fit(features(), y, 3)
    assert reference.shift(features(), y) < 0, "another sample of the same"
    rare = torch.cat([torch.arange(0, 400, 2)[:40], torch.arange(1, 400, 2)])
    assert reference.shift(features()[rare], y[rare]) < 0, "with other fractions"
    moved = features()
    moved[:, 0] += 2.0
    assert reference.shift(moved, y) == pytest.approx(4.0, abs=1.2), "two standard deviations, squared"
    assert np.isnan(reference.shift(features(12), y[:12])), "six of each class are too few"
    assert distance_warnings(float("nan"), "x") == [] == distance_warnings(0.5, "x")


def test_a_finer_tomogram_is_resampled_to_the_voxels_of_the_model(folder, first, tmp_path):
    volume, at = tomogram(2)
    fine = ndimage.zoom(volume[:, :60, :60], 2, order=1)
    inside = at[(at[:, 1:] < 45).all(1)]
    write(tmp_path, "fine", fine, 2 * inside, VOXEL / 2)
    (tmp_path / "first").symlink_to(folder / "first")
    found = reuse(tmp_path, "fine", tmp_path / "out", contrast="dark")
    assert found.target.subtomograms.x.shape[2:] == (24, 24, 24)
    assert found.target.subtomograms.voxel_size == pytest.approx(VOXEL)


def test_extracted_subtomograms_are_taken_too(folder, first, tmp_path):
    boxes = first.target.subtomograms.x[:30, 0].numpy()
    mrc(tmp_path / "mine.mrcs", -boxes, VOXEL)
    found = reuse(folder, "near", tmp_path / "out", tomogram="", coordinates="", subtomograms=tmp_path / "mine.mrcs")
    network, before = (result.second.predictions.probabilities[:30] for result in (found, first))
    assert torch.allclose(network, before, atol=1e-4), "templates weight frequencies by the subtomograms at hand"


def test_contradictions_are_refused_and_their_ways_out_work(folder, first, tmp_path):
    out = tmp_path / "out"
    says(lambda: reuse(folder, "near", out, classes="TRiC,ribosome_80S"), "TRiC, apoferritin, ice", "leave classes out")
    says(lambda: reuse(folder, "near", out, box=32), "box 0 or 24", "got 32")
    says(lambda: reuse(folder, "near", out, background="ice.mrcs"), "ice.mrcs", "leave it out")
    says(lambda: reuse(folder, "near", out, voxel_size=30.0), "30 A", "at most the 20 A", "correct voxel_size")
    says(lambda: reuse(folder, "near", out, model=tmp_path / "no.safetensors"), "no.safetensors")
    volume, at = tomogram(2, strength=12.0)
    write(tmp_path, "bright", -volume, at)
    (tmp_path / "first").symlink_to(folder / "first")
    says(lambda: reuse(tmp_path, "bright", out), "bright.mrc", "expected dark", "set contrast=bright")
    assert not out.exists(), "nothing is written"
    assert reuse(tmp_path, "bright", out, contrast="bright").target.contrast == "bright"
    assert len(reuse(folder, "near", out, classes="ice,TRiC,apoferritin", box=24, voxel_size=20.0).predictions) == 90


def test_where_the_contrast_is_not_to_be_seen_that_of_the_model_is_taken(folder, first, tmp_path):
    write(tmp_path, "noise", noise(SHAPE, VOXEL, 9), tomogram(2)[1])
    (tmp_path / "first").symlink_to(folder / "first")
    found = reuse(tmp_path, "noise", tmp_path / "out")
    assert found.target.guess.sign == "unsure" and found.target.contrast == "dark"


def older(path, out, **recipe):
    """The model at `path` as an earlier version wrote it: without a reference and without facts about its target."""
    with safe_open(path, framework="pt") as f:
        text = dict(f.metadata())
    about = json.loads(text["about"])
    for name in ("adapted_to", "input_contrast", "diameters", "input_voxel_size", "spectrum", "fine_power", "tilts"):
        about["recipe"].pop(name)
    tensors = {name: value for name, value in load_file(path).items() if not name.startswith("reference.")}
    save_file(tensors, out, metadata=text | {"about": json.dumps(about)})
    return out


def test_an_older_model_still_predicts_and_says_what_it_does_not_know(folder, first, tmp_path):
    model = older(folder / "first" / "model.safetensors", tmp_path / "old.safetensors")
    assert Classifier.load(model).reference is None
    found = reuse(folder, "near", tmp_path / "out", model=model)
    assert any("does not hold what it was adapted to" in warning for warning in found.warnings)
    assert "adapted to other data" in found.paths[-1].read_text(encoding="utf-8")


def test_the_command_picks_with_a_model(folder, first, tmp_path, capsys):
    arguments = ["classify", "--model", str(folder / "first" / "model.safetensors"), "--device", "cpu"]
    arguments += ["--tomogram", str(folder / "near.mrc"), "--out", str(tmp_path / "out"), "--candidates", "150"]
    assert command_line.main([*arguments, "--purity", "0"]) == 0
    printed = capsys.readouterr().out
    assert "nothing was trained" in printed and "Picks of each class" in printed
    rows = starfile.read(tmp_path / "out" / "predictions.star")["particles"]
    found = rows[[f"rlnCoordinate{axis}" for axis in "ZYX"]].to_numpy()
    assert (cKDTree(found).query(tomogram(2)[1])[0] * VOXEL < 90).mean() > 0.9


def test_a_model_without_ice_does_not_pick(folder, first, tmp_path):
    model = dataclasses.replace(first.classifier, classes=("TRiC", "apoferritin", "other"))
    path = model.save(tmp_path / "m.safetensors")
    options = {"model": path, "device": "cpu", "out_dir": tmp_path / "out"}
    says(lambda: classify.classify(tomogram=folder / "near.mrc", **options), "no class ice", "give coordinates")
    found = classify.classify(tomogram=folder / "near.mrc", coordinates=folder / "near.star", **options)
    assert found.picks == {}


def test_many_positions_are_cut_while_they_are_predicted(folder, first, near, monkeypatch, tmp_path):
    """Beyond STREAMED bytes no more than a batch of boxes, or the few of a picture, are in memory."""
    monkeypatch.setattr(target_data, "STREAMED", 0)
    monkeypatch.setattr(in_parts, "PART", 64)
    sizes = []
    plain = target_data.extraction.extract
    monkeypatch.setattr(
        target_data.extraction, "extract", lambda data, at, *a, **o: sizes.append(len(at)) or plain(data, at, *a, **o)
    )
    found = reuse(folder, "near", tmp_path / "out")
    assert isinstance(found.target.subtomograms.x, StreamedBoxes)
    assert sorted(sizes)[-3:] == [64, 90, 90], "90 for spectra and for the templates' weights; a few hundred of many"
    torch.testing.assert_close(found.predictions.probabilities, near.predictions.probabilities)
    assert (found.folder / "predictions.star").read_text() == (near.folder / "predictions.star").read_text()


def test_a_streamed_box_without_data_is_left_out(folder, monkeypatch):
    monkeypatch.setattr(target_data, "STREAMED", 0)
    volume, at = tomogram(2)
    volume[:, :40, :40] = 0
    from cryoshift_core.tomography.volumes import Particles, Volume

    at = np.concatenate([[(24.0, 14.0, 14.0)], at[(at[:, 1:] > 54).all(1)]])
    particles = Particles({"n": [str(i) for i in range(len(at))]}, zyx=at)
    target = target_data.from_tomogram(Volume(volume, VOXEL, "x.mrc"), particles, ("TRiC", "ice"), box=24)
    assert target.kept.tolist() == list(range(1, len(at)))


def test_streamed_boxes_behave_as_rows_and_refuse_the_rest():
    boxes = StreamedBoxes(lambda rows: rows.view(-1, 1, 1, 1, 1) * torch.ones(1, 1, 16, 16, 16), 100, 16)
    assert boxes.shape == (100, 1, 16, 16, 16) and len(boxes) == 100 and boxes.dtype == torch.float32
    assert boxes[torch.tensor([7, 3])][:, 0, 0, 0, 0].tolist() == [7, 3] and boxes[5].shape == (1, 16, 16, 16)
    mask = torch.arange(100) > 97
    assert boxes[mask][:, 0, 0, 0, 0].tolist() == [98, 99] and boxes[90:][0, 0, 0, 0, 0] == 90
    assert [len(part) for part in boxes.split(64)] == [64, 36]
    with pytest.raises(TypeError, match="in memory"):
        boxes.mean()


def checked(folder, name, **options):
    """Row -> finding of the check of a tomogram against the model."""
    files = {"tomogram": folder / f"{name}.mrc", "coordinates": folder / f"{name}.star"}
    found = cs.preflight(**(files | {"model": folder / "first" / "model.safetensors"} | options))
    return {finding.check: finding for finding in found.findings}


def test_the_check_compares_a_near_tomogram_with_what_the_model_was_made_for(folder, first):
    rows = checked(folder, "near")
    compared = {"voxel size", "contrast", "classes", "normalisation", "tilts", "processing", "spectrum", "distance"}
    assert {f"model: {what}" for what in compared} <= rows.keys()
    assert all(row.status == "ok" for name, row in rows.items() if name.startswith("model")), rows
    assert "adapted to first" in rows["model"].found and "TRiC 176 A" in rows["model: classes"].found
    assert not {"background", "particle size", "defocus"} & rows.keys(), "of training alone"
    about = first.classifier.recipe
    assert about["input_voxel_size"] == pytest.approx(VOXEL) and about["tilts"] is not None
    assert about["confidence"] == pytest.approx(float(first.second.predictions.confidence.mean()), abs=0.02)


def test_the_check_says_that_a_far_tomogram_needs_another_adaptation(folder, first, tmp_path, capsys):
    rows = checked(folder, "far")
    for what in ("processing", "spectrum", "distance"):
        row = rows[f"model: {what}"]
        assert row.status == "look" and "e-adapt" in row.advice, row
    command = ["check", "--model", str(folder / "first" / "model.safetensors")]
    command += ["--tomogram", str(folder / "far.mrc"), "--coordinates", str(folder / "far.star")]
    assert command_line.main(command) == 0
    printed = capsys.readouterr().out
    assert "model: distance" in printed and "Re-adapt" in printed
    model = folder / "first" / "model.safetensors"
    job = cs.open(tomogram=folder / "far.mrc", coordinates=folder / "far.star", model=model, device="cpu")
    assert any("spectra are" in warning for warning in job.look().warnings), "before anything is predicted"
    assert set(job._done) == {"look"}
    (few,) = cs.open(tomogram=folder / "near.mrc", coordinates=folder / "near.star", model=model).look().warnings
    assert few.startswith("90 subtomograms are few")


def test_the_check_refuses_what_classify_refuses(folder, first, tmp_path):
    coarse = checked(folder, "near", voxel_size=30.0)
    assert any(row.status == "stop" and "at most the 20 A" in row.found for row in coarse.values()), coarse
    other = checked(folder, "near", classes="TRiC,ribosome_80S")
    assert any(row.status == "stop" and "TRiC, apoferritin, ice" in row.found for row in other.values()), other
    old = older(folder / "first" / "model.safetensors", tmp_path / "old.safetensors")
    rows = checked(folder, "near", model=old)
    assert rows["model: adapted to"].status == "look" and "model: spectrum" not in rows


def test_tilts_of_another_series_are_seen(folder, first):
    model = first.classifier
    target = first.target
    told = dataclasses.replace(model, recipe=model.recipe | {"tilts": [-40.0, 40.0, 0.0]})
    found = {one.what: one for one in adapted_to.differences(told, target, target.subtomograms)}
    assert "missing wedges differ" in found["tilts"].advice and not found["spectrum"].advice
    binned = dataclasses.replace(model, recipe=model.recipe | {"input_voxel_size": 10.0})
    found = {one.what: one for one in adapted_to.differences(binned, target, target.subtomograms)}
    assert "binned differently" in found["voxel size"].advice
    other = dataclasses.replace(model, normalisation="none")
    assert {one.what for one in adapted_to.differences(other, target, target.subtomograms) if one.stop} == {
        "normalisation"
    }
