"""Positions without a particle, in a list whose classes have no name for them."""

from dataclasses import replace

import numpy as np
import pytest
import torch

import cryoshift_core as cs
from cryoshift_core.application import empty
from cryoshift_core.application import job as job_module
from cryoshift_core.application.target_data import Background
from cryoshift_core.data import Unlabelled, normalize
from cryoshift_core.fourier import gaussian_low_pass

CLASSES = ("TRiC", "apoferritin")


def boxes(n, strength=0.0, seed=0, box=24):
    """Correlated noise, with a Gaussian blob in its centre."""
    line = torch.arange(box) - box // 2
    blob = torch.exp(-(line[:, None, None] ** 2 + line[:, None] ** 2 + line**2) / (2 * 3.0**2))
    noise = torch.randn(n, 1, box, box, box, generator=torch.Generator().manual_seed(seed))
    if n == 0:
        return noise
    noise = gaussian_low_pass(noise, 1.0)
    return normalize(noise / noise.std() + strength * blob)


def unlabelled(x):
    return Unlabelled(x, 12.0, torch.zeros(len(x), dtype=torch.long), "list")


BOXES = Background(boxes(200, seed=1), boxes(200, seed=2))


def test_of_an_empty_subtomogram_it_is_evenly_distributed_and_of_a_particle_near_0():
    without = empty.emptiness(boxes(400, seed=3), BOXES.spike_ins, BOXES.train)
    counts = torch.histc(without, 4, 0, 1)
    assert counts.sum() == 400 and counts.min() > 60 and counts.max() < 145, counts
    assert empty.emptiness(boxes(100, 4.0, seed=4), BOXES.spike_ins, BOXES.train).max() < 0.05


@pytest.mark.parametrize("share", [0.0, 0.3, 0.7, 0.9])
def test_the_share_of_empty_ones_is_found(share):
    n = round(600 * share)
    x = torch.cat([boxes(n, seed=5), boxes(600 - n, 4.0, seed=6)])
    found = empty.share_of_empty(empty.emptiness(x, BOXES.spike_ins, BOXES.train))
    assert found == pytest.approx(share, abs=0.08)


@pytest.mark.parametrize("divided", [True, False])
def test_training_adapts_to_the_others_where_most_are_empty(divided):
    x = torch.cat([boxes(800, seed=7), boxes(200, 4.0, seed=8)])[torch.randperm(1000, generator=torch.Generator())]
    given = BOXES if divided else Background(BOXES.spike_ins, None)
    kept, share = empty.without_empty(unlabelled(x), given, CLASSES)
    centre = kept.x[:, 0, 9:15, 9:15, 9:15].mean((1, 2, 3))
    assert share == pytest.approx(0.8, abs=0.1 if divided else 0.15) and 200 <= len(kept) < (230 if divided else 280)
    assert (centre > 0.4).sum() >= 195, "no particle is lost"


def test_a_short_list_keeps_those_that_look_least_empty():
    x = torch.cat([boxes(200, seed=7), boxes(30, 4.0, seed=8)])
    kept, _ = empty.without_empty(unlabelled(x), BOXES, CLASSES)
    assert len(kept) == empty.FEWEST_KEPT and (kept.x[-30:] == x[-30:]).all()


def test_where_a_class_stands_for_them_as_many_stay_as_of_another_class():
    x = torch.cat([boxes(800, seed=7), boxes(200, 4.0, seed=8)])
    kept, share = empty.without_empty(unlabelled(x), BOXES, (*CLASSES, "ice"))
    full = int((kept.x[:, 0, 9:15, 9:15, 9:15].mean((1, 2, 3)) > 0.4).sum())
    assert share == pytest.approx(0.8, abs=0.1) and 195 <= full <= 235
    left = int((empty.emptiness(kept.x, BOXES.spike_ins, BOXES.train) > empty.CHANCE).sum())
    assert left == round((len(kept) - left) / 2), "200 particles of two classes"


def test_predictions_take_the_fraction_of_empty_ones_into_account():
    """By counting: 1,000 boxes of which 900 are empty, and a test that is right nine times in ten."""
    p = torch.tensor([[0.9, 0.1], [0.1, 0.9]], dtype=torch.float64)
    found = empty.with_background(p, ("TRiC", "ice"), 0.9)
    called, wrongly = 0.9 * 100, 0.1 * 900
    assert found[0, 0] == pytest.approx(called / (called + wrongly)) and found.sum(1).tolist() == pytest.approx([1, 1])
    three = empty.with_background(torch.full((1, 3), 1 / 3), ("a", "ice", "b"), 0.6)
    assert three[0].tolist() == pytest.approx([0.2, 0.6, 0.2]), "knows nothing: the fractions themselves"
    assert empty.with_background(p, ("TRiC", "ice"), 0.0) is p and empty.with_background(p, CLASSES, 0.9) is p


@pytest.mark.parametrize(
    ("classes", "given", "share"),
    [
        ((*CLASSES, "ice"), BOXES, 0.8),
        (CLASSES, None, 0.8),
        (CLASSES, Background(BOXES.spike_ins[:50], BOXES.spike_ins[50:99]), 0.8),
        (CLASSES, BOXES, 0.3),
        (CLASSES, BOXES, 0.0),
    ],
    ids=[
        "a class for them, and few others",
        "nothing to compare with",
        "too little",
        "some are empty",
        "none is empty",
    ],
)
def test_else_the_target_stays_as_it_is(classes, given, share):
    n = round(300 * share)
    target = unlabelled(torch.cat([boxes(n, seed=7), boxes(300 - n, 4.0, seed=8)]))
    assert empty.without_empty(target, given, classes) == (target, 0.0)


def test_weak_particles_are_not_taken_for_empty_boxes():
    """Half of them cannot be told from empty ones singly; as a list they can."""
    x = boxes(600, 1.5, seed=9)
    likely = empty.emptiness(x, BOXES.spike_ins, BOXES.train)
    assert (likely > empty.CHANCE).float().mean() > 0.25, "too strong for this test"
    assert empty.without_empty(unlabelled(x), BOXES, CLASSES)[1] == 0.0


def mostly_empty(tomogram_folder, classes):
    files = {"tomogram": tomogram_folder / "tomo_7.mrc", "coordinates": tomogram_folder / "particles.star"}
    job = cs.open(**files, classes=classes, box=24, profile="smoke", device="cpu")
    particles = job.target.subtomograms
    free = torch.cat([job.boxes.spike_ins, *([] if job.boxes.train is None else [job.boxes.train])])
    x = torch.cat([free, particles.x[: len(free) // 8]])
    mixed = replace(particles, x=x, groups=torch.zeros(len(x), dtype=torch.long))
    job.hold_out(mixed, np.zeros((0, 3)))
    assert len(job.unlabelled) < len(x)
    assert any("look like particle-free boxes" in warning for warning in job.simulate().warnings)
    return job


def test_a_job_advises_against_predictions_without_a_class_for_empty_boxes(tomogram_folder, monkeypatch):
    monkeypatch.setattr(empty, "FEWEST_BOXES", 40)
    sure = []
    real = job_module.expected_accuracy
    monkeypatch.setattr(job_module, "expected_accuracy", lambda *given: (sure.append(given[1]), real(*given))[1])
    job = mostly_empty(tomogram_folder, CLASSES)
    given = job.judge().verdict
    (one,) = job.adapt().classifiers
    confidence = one.predict(job.unlabelled, device="cpu").confidence.mean()
    assert sure == [pytest.approx(float(confidence))], "of the boxes that do not look empty"
    assert given.level == "do not use" and any("Name the class 'ice'" in reason for reason in given.reasons)


def test_a_job_with_such_a_class_takes_their_fraction_into_account(tomogram_folder, monkeypatch):
    monkeypatch.setattr(empty, "FEWEST_KEPT", 5)
    monkeypatch.setattr(empty, "FEWEST_BOXES", 40)
    job = mostly_empty(tomogram_folder, (*CLASSES, "ice"))
    (one,) = job.adapt().classifiers
    plain = one.predict(job.target.subtomograms, device="cpu").probabilities
    assert torch.equal(job.predict()[0].probabilities, empty.with_background(plain, one.classes, job._empty))
    assert not any("Name the class" in reason for reason in job.judge().verdict.reasons)
