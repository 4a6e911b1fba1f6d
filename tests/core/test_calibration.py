"""Temperature and unknown class: fitted on warped source subtomograms, tested on others, never on target labels."""

import inspect

import numpy as np
import pytest
import torch
from helpers.toy import source, target
from torch import nn

from cryoshift_core import calibration, metrics
from cryoshift_core.calibration import Calibration, UnknownDetector
from cryoshift_core.data import UNKNOWN, Labelled, Unlabelled
from cryoshift_core.errors import InputError
from cryoshift_core.models import Network
from cryoshift_core.support import modes
from cryoshift_core.warps import Warps, target_styled

F = 6


class FirstVoxels(nn.Module):
    """Its features are the first voxels of a subtomogram, so that clusters can be put at known points."""

    def __init__(self, scale=1.0):
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(scale))

    def features(self, x):
        return x[:, 0, 0, 0, :F]

    def head(self, features):
        return self.scale * features[:, :3]

    def forward(self, x):
        return self.head(self.features(x))


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def clusters(n, centres, seed, spread=1.0):
    """Labelled subtomograms whose first voxels are drawn about `centres` (K, F)."""
    g = generator(seed)
    y = torch.arange(n) % len(centres)
    x = torch.randn(n, 1, 16, 16, 16, generator=g)
    x[:, 0, 0, 0, :F] = centres[y] + spread * torch.randn(n, F, generator=g)
    names = tuple("abcdef"[: len(centres)])
    return Labelled(x, y, names, 10.0, torch.full((n,), float("nan")), torch.arange(n))


KNOWN = 3.0 * torch.eye(F)[:3]
LIKE_OUTLIERS = 4.0 * torch.eye(F)[3:5]  # far from every class
UNLIKE_OUTLIERS = 4.0 * torch.eye(F)[5:]


def identity(x, generator):
    """Warps that change nothing."""
    return x


def calibrate(network, validation, warps):
    return calibration.calibrate(network, validation, warps, generator(), device="cpu")


def detect(network, known, outliers=None, warps=None, seed=0, **options):
    return UnknownDetector.fit(network, known, outliers, warps, generator(seed), device="cpu", **options)


def test_without_warps_the_probabilities_stay_as_they_are():
    assert calibrate(FirstVoxels(scale=4.0), clusters(60, KNOWN, 0), None) == Calibration(1.0, 0)


def test_an_overconfident_network_is_corrected_on_other_subtomograms():
    fitted, held = (clusters(600, KNOWN, seed, spread=2.0) for seed in (0, 1))
    network = FirstVoxels(scale=4.0)
    found = calibrate(network, fitted, identity)
    assert found.temperature > 2 and found.n == 600
    before = network(held.x).softmax(1).detach()
    after = found.probabilities(before)
    assert metrics.nll(after, held.y) < metrics.nll(before, held.y)
    assert metrics.ece(after, held.y) < 0.5 * metrics.ece(before, held.y)
    assert torch.equal(after.argmax(1), before.argmax(1))
    assert torch.allclose(after.sum(1), torch.ones(600), atol=1e-5)


def test_the_temperature_is_fitted_on_warped_subtomograms():
    known, network = clusters(300, KNOWN, 0, spread=2.0), FirstVoxels(scale=4.0)
    plain = calibrate(network, known, identity).temperature
    faint = calibrate(network, known, lambda x, generator: 0.5 * x).temperature
    assert faint == pytest.approx(plain / 2, rel=0.02)


def test_the_temperature_recovers_a_known_scale():
    g = generator()
    logits = 2 * torch.randn(20000, 4, generator=g)
    y = torch.multinomial(logits.softmax(1), 1, generator=g)[:, 0]
    for scale in (0.5, 1.0, 3.0):
        assert calibration.fit_temperature((scale * logits).softmax(1), y) == pytest.approx(scale, rel=0.05)
    p = logits.softmax(1)
    assert torch.allclose(calibration.apply_temperature(p, 1.0), p, atol=1e-6)
    assert torch.allclose(calibration.apply_temperature(p, 2.0), (logits / 2).softmax(1), atol=1e-5)
    for wrong in (p[:4], p[:0]):
        with pytest.raises(InputError, match=f"a label for each prediction.*got {len(wrong)}, "):
            calibration.fit_temperature(wrong, y[: 5 if len(wrong) else 0])


def test_subtomograms_are_warped_before_anything_is_fitted():
    torch.manual_seed(0)
    s, (t, _) = source(60), target(60)
    warps = Warps(("spectrum",), s.x, t.x, generator())
    network = Network(3).eval()
    first, again = (target_styled(s.x, warps, generator(3)) for _ in range(2))
    assert torch.equal(first, again) and not torch.allclose(first, s.x, atol=0.1)
    assert target_styled(s.x, None, generator()) is s.x
    one, two = (detect(network, s, warps=warps, seed=3) for _ in range(2))
    plain = detect(network, s, seed=3)
    assert one.threshold == two.threshold != plain.threshold
    scores = one.score(network, t.x, device="cpu")
    assert torch.equal(scores, two.score(network, t.x, device="cpu")) and scores.shape == (60,)


@pytest.mark.parametrize("with_outliers", [False, True])
def test_unknown_subtomograms_are_found_and_known_ones_are_kept(with_outliers):
    network, outliers = FirstVoxels(), clusters(200, LIKE_OUTLIERS, 5) if with_outliers else None
    detector = detect(network, clusters(600, KNOWN, 0), outliers)
    assert (detector.outlier is not None) is with_outliers

    def rejected(centres, n, seed):
        scores = detector.score(network, clusters(n, centres, seed).x, device="cpu")
        return float((scores > detector.threshold).float().mean())

    assert 0.02 < rejected(KNOWN, 1500, 1) < 0.09
    assert rejected(LIKE_OUTLIERS, 300, 2) > (0.9 if with_outliers else 0.5)
    assert rejected(UNLIKE_OUTLIERS, 300, 3) > 0.5, "the distance finds what no outlier resembles"


def test_outliers_help_against_what_resembles_them():
    network, known = FirstVoxels(), clusters(600, KNOWN, 0)
    near = torch.cat([2.0 * torch.eye(F)[3:4], 2.0 * torch.eye(F)[4:5]])
    x = clusters(400, near, 2, spread=0.5).x  # what resembles an outlier beyond doubt
    recall = []
    for outliers in (None, clusters(300, near, 5, spread=0.5)):
        detector = detect(network, known, outliers)
        recall.append(float((detector.score(network, x, device="cpu") > detector.threshold).float().mean()))
    assert recall[1] > recall[0] + 0.1


def test_a_stranger_that_looks_unlike_the_outliers_stays_a_stranger():
    """Empty boxes are the outliers, as of a tomogram of seven classes; a molecule resembles them less than those do."""
    network, known = FirstVoxels(), clusters(600, KNOWN, 0)
    x = clusters(400, UNLIKE_OUTLIERS + KNOWN[:1] * 2, 2).x
    recall = []
    for outliers in (None, clusters(300, torch.zeros(1, F), 5)):
        detector = detect(network, known, outliers)
        recall.append(float((detector.score(network, x, device="cpu") > detector.threshold).float().mean()))
    assert recall[0] > 0.5 and recall[1] > recall[0] - 0.05


def test_a_valley_lies_between_two_modes_and_nowhere_else():
    rng = np.random.default_rng(0)
    below, above = rng.normal(0, 1, 60), rng.normal(6, 1, 40)
    assert 1.5 < modes.valley(np.concatenate([below, above])) < 4.5
    assert modes.valley(np.concatenate([below[:20], above, above + 0.1])) is None, "hardly any is below"
    found = [modes.valley(rng.normal(0, 1, 60)) for _ in range(20)]
    assert sum(one is not None for one in found) <= 1


def test_strangers_that_are_nearly_half_of_a_class_are_found():
    """A tenth of the target, but all of them look like one class: its median is no longer that of the known."""
    network, known = FirstVoxels(), clusters(600, KNOWN, 0)
    strange = KNOWN[:1].clone()
    strange[0, 5] = 7.0
    x = torch.cat([clusters(180, KNOWN, 1).x, clusters(56, strange, 2).x])
    target = Unlabelled(x, 10.0, torch.arange(len(x)), "toy")
    detector = detect(network, known, target=target)
    given = calibration.assign(network(x).softmax(1).detach(), detector.score(network, x, "cpu"), detector.thresholds)
    assert (given[180:] == UNKNOWN).float().mean() > 0.95 and (given[:180] == UNKNOWN).float().mean() < 0.08


def test_the_outlier_logit_is_the_logistic_regression_of_the_log_odds():
    """Two Gaussians of one variance: the log odds are linear, with a known direction and sign."""
    rng = np.random.default_rng(0)
    known, outliers = rng.normal(0, 1, (4000, 3)), rng.normal(0, 1, (4000, 3)) + np.array([2.0, 0, 0])
    *weight, bias = calibration.outlier_logit(known, outliers)
    x = rng.normal(0, 1, (50, 3))
    true = 2 * x[:, 0] - 2  # log density ratio of N(2, 1) to N(0, 1)
    assert np.abs(x @ weight + bias - true).max() < 0.4


def test_the_caller_sets_the_false_rejection():
    network, known = FirstVoxels(), clusters(600, KNOWN, 0)
    strict, loose = (detect(network, known, false_rejection=fraction) for fraction in (0.01, 0.3))
    assert strict.threshold > loose.threshold
    for wrong in (0.0, 1.0):
        with pytest.raises(InputError, match=f"false_rejection between 0 and 1.*got {wrong}"):
            detect(network, known, false_rejection=wrong)
    with pytest.raises(InputError, match="at least 4 known subtomograms of each class, got 2 of 'a'"):
        detect(network, known.subset(torch.arange(6)))
    assert detect(network, known.subset(torch.arange(12))).threshold < float("inf"), "four of each class suffice"


def test_subtomograms_get_a_class_or_the_unknown_class():
    p = torch.tensor([[0.9, 0.1], [0.2, 0.8], [0.6, 0.4]])
    given = calibration.assign(p, torch.tensor([0.0, 2.0, 1.0]), 1.0)
    assert given.tolist() == [0, UNKNOWN, 0] and given.dtype == torch.int64
    with pytest.raises(InputError, match="a score for each prediction, got 3 and 2"):
        calibration.assign(p, torch.zeros(2), 1.0)


def test_target_labels_are_refused():
    network, known, (t, held_out) = FirstVoxels(), clusters(60, KNOWN, 0), target(30)
    for wrong in (t, held_out):
        with pytest.raises(TypeError, match="Labelled"):
            calibrate(network, wrong, None)
        with pytest.raises(TypeError, match="Labelled"):
            detect(network, wrong)
        with pytest.raises(TypeError, match="Labelled"):
            detect(network, known, wrong)
    for wrong in (known, held_out, t.x):
        with pytest.raises(TypeError, match="expected Unlabelled"):
            detect(network, known, target=wrong)
    for function in (calibration.calibrate, UnknownDetector.fit, UnknownDetector.score):
        assert not {"y", "labels", "held_out"} & set(inspect.signature(function).parameters)


def test_the_scores_of_the_target_set_the_threshold_of_a_class():
    """Shifted known clusters are not rejected for the shift, strangers among them are, and other classes stay; among
    clusters that are tighter than simulated ones, strangers are found that one threshold for all would miss.
    """
    network, known = FirstVoxels(), clusters(600, KNOWN, 0)
    alike = clusters(900, KNOWN, 1)
    moved = KNOWN.clone()
    moved[0, 5] = 3.0  # one class alone, by a feature that the network does not classify with
    shifted = clusters(900, moved, 1)

    def unlabelled(x):
        return Unlabelled(x, 10.0, torch.arange(len(x)), "toy")

    plain = detect(network, known)
    one, other = (detect(network, known, target=unlabelled(found.x)) for found in (alike, shifted))
    assert plain.thresholds.tolist() == [plain.threshold] * 3
    assert np.abs(one.thresholds - plain.threshold).max() < 0.7, "known and target alike"
    assert other.thresholds[0] > plain.threshold + 1 and np.abs(other.thresholds - one.thresholds)[1:].max() < 0.2

    def rejected(detector, which):
        scores = detector.score(network, shifted.x, device="cpu")
        p = network(shifted.x).softmax(1).detach()
        return float((calibration.assign(p, scores, detector.thresholds) == UNKNOWN)[which].float().mean())

    assert rejected(plain, shifted.y == 0) > 3 * rejected(other, shifted.y == 0) > 0
    tighter = detect(network, known, target=unlabelled(clusters(900, KNOWN, 1, spread=0.5).x))
    assert tighter.thresholds.max() < plain.threshold - 0.3, "where the target is easier, less is strange"
    few = detect(network, known, target=unlabelled(shifted.x[:30]))
    assert (few.thresholds == plain.threshold).all(), "too few of each class to tell"
