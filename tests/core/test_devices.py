"""No tensor is made without a device: with "meta" as default device, everything still runs where the caller says.

A tensor that is made on the default device would be on "meta" here, and the next operation with a CPU tensor would
fail. This finds what otherwise fails on a GPU only.
"""

import pytest
import torch
from helpers.toy import source, target

from cryoshift_core import calibration, metrics, selection
from cryoshift_core.application import classifier
from cryoshift_core.application.lattice_test import split_particles
from cryoshift_core.data import HeldOutLabels, augment, crop, normalize
from cryoshift_core.methods import METHODS
from cryoshift_core.models import ENCODERS, Network
from cryoshift_core.training import TrainingConfig, fit
from cryoshift_core.warps import WARPS, Warps

FEW = TrainingConfig(steps=5, batch=4, width=4, evaluations=2, candidates=2)


@pytest.fixture(autouse=True)
def meta():
    with torch.device("meta"):
        yield


def on_cpu(tensors):
    return all(t.device.type == "cpu" for t in tensors)


def test_a_tensor_without_a_device_would_fail_here():
    x = source(6).x
    with pytest.raises(RuntimeError, match="meta"):
        _ = x + torch.ones(6).view(6, 1, 1, 1, 1)


@pytest.mark.parametrize("method", METHODS)
def test_fit_select_calibrate_and_predict_run_on_the_device_that_is_asked_for(method, tmp_path):
    s, (t, held_out) = source(60), target(60)
    options = {"config": FEW, "device": "cpu", "folder": tmp_path, "progress": False}
    result = fit(method, s, t, **options)
    assert on_cpu(result.network.state_dict().values()) and on_cpu(result.candidates[5].values())
    if method == "cryoshift_reference":  # resumed from files, too
        assert on_cpu(fit(method, s, t, **options).network.state_dict().values())
    choice = selection.choose(result, t, device="cpu")
    assert choice.step in result.candidates and len(choice.table) == 2
    result.validation = s.subset(torch.arange(30, device="cpu"))  # enough of each class for a detector
    made = classifier.select(result, t, outliers=source(12, seed=3), device="cpu")
    found = made.predict(t, device="cpu")
    assert on_cpu([found.probabilities, found.labels, found.confidence])
    assert 0 <= metrics.balanced_accuracy(found.probabilities, held_out) <= 1
    loaded = classifier.load(made.save(tmp_path / "m.safetensors")).predict(t, device="cpu")
    assert torch.equal(loaded.probabilities, found.probabilities)


@pytest.mark.parametrize("name", WARPS)
def test_each_warp_draws_with_the_generator_and_without_one(name):
    s, (t, _) = source(12), target(12)
    generator = torch.Generator("cpu").manual_seed(0)
    warp = Warps((name,), s.x, t.x, generator).to("cpu") if name in ("spectrum", "histogram") else None
    if warp is None:
        with torch.device("cpu"):  # modules with parameters are built where the caller builds them, as in training
            warp = Warps((name,), s.x, t.x, generator)
    assert on_cpu([warp(s.x, generator=generator), warp(s.x, 0.5), warp(s.x)])


@pytest.mark.parametrize("name", ENCODERS)
def test_metrics_detector_and_data_functions_make_no_tensor_elsewhere(name):
    s, (t, held_out) = source(60), target(60)
    generator = torch.Generator("cpu").manual_seed(0)
    with torch.device("cpu"):
        network = Network(3, name, 4)
    detector = calibration.UnknownDetector.fit(network, s, source(20, seed=4), None, generator, device="cpu")
    scores = detector.score(network, t.x, device="cpu")
    p = torch.full((60, 3), 1 / 3, device="cpu")
    assigned = calibration.assign(p, scores, detector.threshold)
    assert on_cpu([scores, assigned, augment(s.x, generator), crop(s.x, 9), normalize(s.x), normalize(s.x, 100)])
    unknown = HeldOutLabels(torch.where(held_out.y == 2, -1, held_out.y), held_out.classes)
    assert on_cpu([unknown.labelled(t).snr]) and len(unknown.labelled(t)) == 40
    assert set(metrics.scores(p, unknown)) == {"balanced_accuracy", "macro_f1", "ece", "nll"}
    assert all(0 <= value <= 1 for value in metrics.unknown_recall(assigned, unknown))
    assert metrics.a_distance(s.x[:, 0, 0, 0], t.x[:, 0, 0, 0]) >= 0
    train, test = split_particles(torch.randn(60, 3, device="cpu").numpy() * 50, s.groups, [0, 1], 2)
    assert on_cpu([train, test]) and int(test.sum()) == 2
