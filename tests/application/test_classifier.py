"""The classifier: selected and calibrated from a fit, saved without pickle, and strict about what it predicts."""

import csv
import json
import subprocess
import sys
from dataclasses import fields, replace

import numpy as np
import pytest
import torch
from helpers.files import ROOT
from helpers.toy import CLASSES, source, target
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn

import cryoshift_core
from cryoshift_core import calibration, data
from cryoshift_core.application import classifier
from cryoshift_core.application.classifier import Classifier, Predictions, select
from cryoshift_core.calibration import Calibration
from cryoshift_core.data import NORMALISATION, UNKNOWN, Unlabelled, crop, normalize
from cryoshift_core.errors import InputError
from cryoshift_core.models import outputs
from cryoshift_core.tomography.volumes import rescale
from cryoshift_core.training import TrainingConfig, fit
from cryoshift_core.warps import target_styled

FEW = TrainingConfig(steps=20, batch=8, width=4, evaluations=2, candidates=2)
TARGET = target()[0]


def trained(method="cryoshift", **options):
    config = replace(FEW, **options)
    return fit(method, source(), TARGET, validation=source(30, seed=5), config=config, device="cpu", progress=False)


@pytest.fixture(scope="module")
def adapted():
    return trained()


@pytest.fixture(scope="module")
def made(adapted):
    """A classifier with a detector that has auxiliary outliers."""
    outliers = replace(source(30, seed=7), x=normalize(source(30, seed=7).x.flip(2).roll(5, 3)))
    return classifier.finish(adapted, outliers=outliers, seed=3, device="cpu")


@pytest.fixture(scope="module")
def plain():
    """A classifier without warps, hence without a detector."""
    return classifier.finish(trained("adabn"), device="cpu")


@pytest.mark.parametrize("turns", [(0, 1, 2, 3), (0, 1)])
def test_probabilities_can_be_means_over_rotations_that_keep_the_missing_wedge(adapted, turns, tmp_path):
    """By NumPy's rotations by 180 degrees; a tilted axis of the tilts leaves only the rotation about the beam."""
    one = replace(adapted, config=replace(adapted.config, rotations=turns))
    made = classifier.finish(one, average_rotations=True, seed=3, device="cpu")
    planes = {0: None, 1: (3, 4), 2: (2, 4), 3: (2, 3)}
    each = []
    for turn in turns:
        x = TARGET.x if planes[turn] is None else torch.from_numpy(np.rot90(TARGET.x.numpy(), 2, planes[turn]).copy())
        each.append(outputs(made.network, x, device="cpu").probabilities)
    expected = made.calibration.probabilities(torch.stack(each).mean(0))
    found = made.predict(TARGET, device="cpu")
    torch.testing.assert_close(found.probabilities, expected, atol=1e-5, rtol=0)
    plain = classifier.finish(one, seed=3, device="cpu").predict(TARGET, device="cpu")
    assert (found.probabilities - plain.probabilities).abs().max() > 1e-3 and torch.equal(found.score, plain.score)
    turned = replace(TARGET, x=TARGET.x.flip(3, 4))
    torch.testing.assert_close(made.predict(turned, device="cpu").probabilities, expected, atol=1e-5, rtol=0)
    again = Classifier.load(made.save(tmp_path / "model.safetensors")).predict(TARGET, device="cpu")
    assert torch.equal(again.probabilities, found.probabilities)


def test_predictions_are_those_of_the_parts(adapted, made):
    """Network, temperature and detector give the same by hand."""
    out = outputs(made.network, TARGET.x, device="cpu")
    found = made.predict(TARGET, device="cpu")
    assert len(found) == 60 and found.classes == CLASSES
    assert torch.equal(found.probabilities, (out.logits.softmax(1).log() / made.calibration.temperature).softmax(1))
    assert torch.equal(found.score, made.detector.score(made.network, TARGET.x, device="cpu"))
    limit = torch.from_numpy(made.detector.thresholds)[out.logits.argmax(1)]
    assert torch.equal(found.unknown, found.score > limit)
    assert torch.equal(found.labels, torch.where(found.unknown, UNKNOWN, out.logits.argmax(1)))
    assert torch.equal(found.confidence, found.probabilities.max(1).values)
    generator = torch.Generator().manual_seed(3)
    assert made.calibration == calibration.calibrate(
        made.network, adapted.validation, adapted.warps, generator, device="cpu"
    )


def test_known_subtomograms_are_rarely_called_unknown(adapted, made):
    x = target_styled(source(90, seed=9).x, adapted.warps, torch.Generator().manual_seed(0))
    found = made.predict(replace(TARGET, x=x, groups=torch.arange(90)), device="cpu")
    assert float(found.unknown.float().mean()) < 0.25


def test_predictions_become_rows_names_and_a_csv_file(tmp_path):
    p = torch.tensor([[0.75, 0.25], [0.5, 0.5], [0.125, 0.875]])
    found = Predictions(("a", "b"), p, torch.tensor([0.0, 9.0, 1.0]), torch.tensor([False, True, False]))
    assert found.labels.tolist() == [0, UNKNOWN, 1] and found.class_names == ["a", "unknown", "b"]
    assert found.rows()[1] == {"class": "unknown", "confidence": 0.5, "unknown": True, "a": 0.5, "b": 0.5}
    assert found.save_csv(tmp_path / "p.csv") == tmp_path / "p.csv"
    with (tmp_path / "p.csv").open(encoding="utf-8", newline="") as f:
        rows = list(csv.DictReader(f))
    assert [row["class"] for row in rows] == ["a", "unknown", "b"] and float(rows[2]["b"]) == 0.875
    without = Predictions(("a", "b"), p)
    assert without.class_names[0] == "a" and without.rows()[0]["unknown"] is None
    assert without.labels.tolist() == [0, 0, 1]


def test_select_restores_the_chosen_step_and_keeps_it(adapted):
    selected = select(adapted, TARGET, device="cpu")
    step = selected.recipe["step"]
    assert step == adapted.selected and step in adapted.candidates
    other = next(s for s in adapted.candidates if s != step)
    before = {name: value.clone() for name, value in selected.network.state_dict().items()}
    adapted.restore(other)
    assert all(torch.equal(value, before[name]) for name, value in selected.network.state_dict().items())
    assert all(torch.equal(value, before[name]) for name, value in adapted.candidates[step].items())
    for name, value in {"method": "cryoshift", "steps": 20, "batch": 8, "encoder": "strided", "width": 4}.items():
        assert selected.recipe[name] == value
    about = (selected.classes, selected.box, selected.voxel_size, selected.contrast, selected.version)
    assert about == (CLASSES, 16, 10.0, "bright", cryoshift_core.__version__)
    assert selected.normalisation == NORMALISATION and selected.detector is not None and not selected.network.training


def test_select_takes_the_fallback_with_its_warning_where_a_check_fails(adapted):
    collapsed = replace(adapted, candidates={5: {n: 0 * v for n, v in adapted.candidates[20].items()}})
    plain = trained("source_only")
    selected = select(collapsed, TARGET, fallback=plain, device="cpu")
    assert selected.recipe["method"] == "source_only" and selected.recipe["step"] == plain.selected
    assert (
        "no clusters of the target" in selected.recipe["warning"]
        and "come from source_only" in selected.recipe["warning"]
    )
    assert selected.calibration == Calibration(1.0, 0) and selected.detector is None, "it has no warps"
    alone = select(collapsed, TARGET, rule="last", device="cpu")
    assert alone.recipe["method"] == "cryoshift" and "Compare with source_only" in alone.recipe["warning"]


SCRIPT = """
import sys, torch
torch.set_num_threads(1)
from helpers.toy import target
import cryoshift_core as cs
from safetensors.torch import save_file
found = cs.load(sys.argv[1]).predict(target()[0], device="cpu")
tensors = {"probabilities": found.probabilities}
if found.score is not None:
    tensors |= {"score": found.score, "unknown": found.unknown}
save_file(tensors, sys.argv[2])
"""


@pytest.mark.parametrize("which", ["made", "plain"])
def test_a_saved_classifier_predicts_the_same_in_another_process(which, request, tmp_path):
    saved = request.getfixturevalue(which)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    expected = saved.predict(TARGET, device="cpu")
    torch.set_num_threads(threads)
    path = saved.save(tmp_path / "folder" / "model.safetensors")
    command = [sys.executable, "-W", "error", "-c", SCRIPT, path, tmp_path / "found.safetensors"]
    subprocess.run(command, cwd=ROOT / "tests", check=True)
    found = load_file(tmp_path / "found.safetensors")
    assert torch.equal(found["probabilities"], expected.probabilities)
    assert ("score" in found) is (which == "made")
    if which == "made":
        assert torch.equal(found["score"], expected.score) and torch.equal(found["unknown"], expected.unknown)
        assert expected.score.unique().numel() > 50


@pytest.mark.parametrize("which", ["made", "plain"])
def test_every_field_is_saved(which, request, tmp_path):
    saved = replace(request.getfixturevalue(which), contrast="dark", version="0.1.9", voxel_size=10.125)
    back = cryoshift_core.load(saved.save(tmp_path / "m.safetensors"))
    for name in {f.name for f in fields(Classifier)} - {"network", "detector"}:
        assert getattr(back, name) == getattr(saved, name), name
    one, two = saved.network.state_dict(), back.network.state_dict()
    assert one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)
    assert (back.detector is None) is (saved.detector is None)


def test_the_file_holds_tensors_and_json_and_no_pickle(made, tmp_path):
    path = made.save(tmp_path / "m.safetensors")
    with safe_open(path, framework="numpy") as f:
        about, names = json.loads(f.metadata()["about"]), set(f.keys())
    assert about["classes"] == list(CLASSES) and about["box"] == 16 and about["recipe"]["method"] == "cryoshift"
    assert {name.split(".")[0] for name in names} == {"network", "detector"}
    size = sum(v.numel() * v.element_size() for v in load_file(path).values())
    header = int.from_bytes(path.read_bytes()[:8], "little")
    assert path.stat().st_size == size + header + 8, "nothing else is in it"


class Backbone(nn.Module):
    n_features = 6

    def __init__(self, kernel=3):
        super().__init__()
        self.layer = nn.Conv3d(1, 6, kernel, stride=2)

    def features(self, x):
        return self.layer(x).relu().mean((2, 3, 4))


def test_a_classifier_with_an_encoder_of_its_own_loads_with_an_untrained_copy(tmp_path):
    saved = classifier.finish(trained("source_only", encoder=Backbone()), device="cpu")
    path = saved.save(tmp_path / "m.safetensors")
    with pytest.raises(InputError, match="an encoder of its own; pass an untrained copy as encoder="):
        Classifier.load(path)
    with pytest.raises(InputError, match="do not fit the network .*size mismatch.*: pass its encoder"):
        Classifier.load(path, encoder=Backbone(5))
    back = Classifier.load(path, encoder=Backbone())
    assert torch.equal(
        back.predict(TARGET, device="cpu").probabilities, saved.predict(TARGET, device="cpu").probabilities
    )


def write_bytes(path, content):
    path.write_bytes(content)
    return path


def dataset_file(path, _):
    data.save(path, TARGET)
    return path


def other_format(path, _):
    save_file({"x": torch.zeros(1)}, path, metadata={"format": "cryoshift-classifier/0", "about": "{}"})
    return path


@pytest.mark.parametrize(
    "broken, message",
    [
        (lambda path, made: path, "is not a file; expected a classifier written by Classifier.save"),
        (lambda path, made: path.parent, "is not a file"),
        (lambda path, made: write_bytes(path, b""), "is not a safetensors file"),
        (lambda path, made: write_bytes(path, b"a text file, with some words in it"), "is not a safetensors file"),
        (lambda path, made: write_bytes(path, made.save(path).read_bytes()[:-50]), "is not a safetensors file"),
        (dataset_file, "Expected the format cryoshift-classifier/4 in .*, got none"),
        (other_format, "Expected the format cryoshift-classifier/4 in .*, got cryoshift-classifier/0"),
    ],
)
def test_files_that_are_no_classifier_are_refused(broken, message, made, tmp_path):
    with pytest.raises(InputError, match=message) as caught:
        Classifier.load(broken(tmp_path / "m.safetensors", made))
    assert "\n" not in str(caught.value)


def unlabelled(x, voxel_size=10.0, contrast="bright"):
    return Unlabelled(x, voxel_size, torch.arange(len(x)), "mine", contrast)


def test_another_voxel_size_is_refused_and_resampling_is_the_way_out(made):
    larger = unlabelled(target(6, box=20)[0].x, voxel_size=8.0)
    with pytest.raises(InputError, match=r"voxels of 10 A, got 8 A in 'mine': resample .*rescale\(x, 8, 10, 16\)"):
        made.predict(larger, device="cpu")
    x = normalize(rescale(larger.x, 8, 10, 16))
    assert len(made.predict(unlabelled(x), device="cpu")) == 6
    close = unlabelled(target(6)[0].x, voxel_size=10.09)
    assert len(made.predict(close, device="cpu")) == 6, "within 1 %"


def test_voxels_of_boxes_too_small_to_resample_are_refused_with_the_box_to_extract(made):
    with pytest.raises(InputError, match=r"extract boxes of at least 20 voxels, resample"):
        made.predict(unlabelled(target(6, box=18)[0].x, voxel_size=8.0), device="cpu")
    rescale(target(6, box=20)[0].x, 8, 10, 16)
    with pytest.raises(InputError):
        rescale(target(6, box=18)[0].x, 8, 10, 16)


def test_another_box_is_refused_and_cropping_is_the_way_out(made):
    larger = unlabelled(target(6, box=20)[0].x)
    with pytest.raises(InputError, match=r"boxes of 16 voxels, got \(20, 20, 20\) in 'mine': .*data.crop\(x, 16\)"):
        made.predict(larger, device="cpu")
    assert len(made.predict(unlabelled(normalize(crop(larger.x, 16))), device="cpu")) == 6
    with pytest.raises(InputError, match="boxes of 16"):
        made.predict(unlabelled(TARGET.x[:, :, :, :, 1:]), device="cpu")


def test_another_contrast_is_refused_and_negating_is_the_way_out(made):
    dark = unlabelled(-TARGET.x, contrast="dark")
    with pytest.raises(InputError, match="protein bright, got dark in 'mine': negate x and set contrast='bright'"):
        made.predict(dark, device="cpu")
    negated = made.predict(unlabelled(-dark.x), device="cpu")
    assert torch.equal(negated.probabilities, made.predict(TARGET, device="cpu").probabilities)


@pytest.mark.parametrize("wrong", [source(), source().x, target()[1]])
def test_another_type_is_refused_and_unlabelled_is_the_way_out(made, wrong):
    with pytest.raises(TypeError, match=rf"got {type(wrong).__name__}: pass Unlabelled\(x, voxel_size, groups, name\)"):
        made.predict(wrong, device="cpu")
    s = source()
    assert len(made.predict(Unlabelled(s.x, s.voxel_size, s.groups, "source"), device="cpu")) == 60


def test_too_few_validation_subtomograms_are_refused_and_both_ways_out_work():
    few = fit("cryoshift", source(), TARGET, config=FEW, device="cpu", progress=False)
    with pytest.raises(InputError, match="of each class, got .*more source subtomograms, or pass a larger validation"):
        classifier.finish(few, device="cpu")
    more = fit("cryoshift", source(240), TARGET, config=FEW, device="cpu", progress=False)
    larger = fit("cryoshift", source(), TARGET, validation=source(15), config=FEW, device="cpu", progress=False)
    assert all(classifier.finish(fitted, device="cpu").detector is not None for fitted in (more, larger))
