import inspect

import pytest
import torch
from helpers.toy import source, target
from torch import nn

from cryoshift_core import calibration, metrics
from cryoshift_core.calibration import UnknownDetector
from cryoshift_core.data import UNKNOWN, Labelled
from cryoshift_core.errors import InputError
from cryoshift_core.models import Classifier
from cryoshift_core.simulation import scenarios
from cryoshift_core.warps import Warps, target_styled

F = 6


class Seeing(nn.Module):
    """Its features are the first voxels of a cube: a way to have clusters of known places."""

    def __init__(self, sure=1.0):
        super().__init__()
        self.sure = nn.Parameter(torch.tensor(sure))

    def features(self, x):
        return x[:, 0, 0, 0, :F]

    def head(self, features):
        return self.sure * features[:, :3]

    def forward(self, x):
        return self.head(self.features(x))


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def clusters(n, centres, seed, spread=1.0):
    """Labelled cubes whose first voxels lie about `centres` (K, F)."""
    g = generator(seed)
    y = torch.arange(n) % len(centres)
    x = torch.randn(n, 1, 16, 16, 16, generator=g)
    x[:, 0, 0, 0, :F] = centres[y] + spread * torch.randn(n, F, generator=g)
    names = tuple("abcdef"[: len(centres)])
    return Labelled(x, y, names, 10.0, torch.full((n,), float("nan")), torch.arange(n))


KNOWN = 3.0 * torch.eye(F)[:3]
STRANGE = 4.0 * torch.eye(F)[3:5]  # where no class is
OTHER = 4.0 * torch.eye(F)[5:]


def stay(x, generator):
    """Warps that carry nothing anywhere."""
    return x


def test_without_warps_confidences_are_left_alone():
    found = calibration.calibrate(Seeing(sure=4.0), clusters(60, KNOWN, 0), None, generator())
    assert found == calibration.Calibration(1.0, 0)


def test_an_overconfident_model_is_cooled_and_held_out_confidences_get_honest():
    fitted, held = (clusters(600, KNOWN, seed, spread=2.0) for seed in (0, 1))
    model = Seeing(sure=4.0)
    found = calibration.calibrate(model, fitted, stay, generator())
    assert found.temperature > 2 and found.n == 600
    before = model(held.x).softmax(1).detach()
    after = found.probabilities(before)
    assert metrics.nll(after, held.y) < metrics.nll(before, held.y)
    assert metrics.ece(after, held.y) < 0.5 * metrics.ece(before, held.y)
    assert torch.equal(after.argmax(1), before.argmax(1))
    assert torch.allclose(after.sum(1), torch.ones(600), atol=1e-5)


def test_the_temperature_is_that_of_carried_cubes():
    known, model = clusters(300, KNOWN, 0, spread=2.0), Seeing(sure=4.0)
    plain = calibration.calibrate(model, known, stay, generator()).temperature
    faint = calibration.calibrate(model, known, lambda x, generator: 0.5 * x, generator()).temperature
    assert faint == pytest.approx(plain / 2, rel=0.02)


def test_the_temperature_undoes_a_known_scale():
    g = generator()
    logits = 2 * torch.randn(20000, 4, generator=g)
    y = torch.multinomial(logits.softmax(1), 1, generator=g)[:, 0]
    for scale in (0.5, 1.0, 3.0):
        assert calibration.temperature((scale * logits).softmax(1), y) == pytest.approx(scale, rel=0.05)
    p = logits.softmax(1)
    assert torch.allclose(calibration.calibrated(p, 1.0), p, atol=1e-6)
    with pytest.raises(InputError, match="as many"):
        calibration.temperature(p, y[:5])


def test_the_warps_carry_the_cubes_before_anything_is_fitted():
    torch.manual_seed(0)
    s, (t, _) = source(60), target(60)
    warps = Warps(("spectrum",), s.x, t.x, generator())
    model = Classifier(3).eval()
    first, again = (target_styled(s.x, warps, generator(3)) for _ in range(2))
    assert torch.equal(first, again) and not torch.allclose(first, s.x, atol=0.1)
    assert target_styled(s.x, None, generator()) is s.x
    one, two = (UnknownDetector.fit(model, s, None, warps, generator(3)) for _ in range(2))
    plain = UnknownDetector.fit(model, s, None, None, generator(3))
    assert one.threshold == two.threshold != plain.threshold
    assert torch.equal(one.score(model, t.x), two.score(model, t.x)) and one.score(model, t.x).shape == (60,)


@pytest.mark.parametrize("with_decoys", [False, True])
def test_strange_cubes_are_found_and_known_ones_kept(with_decoys):
    model, outliers = Seeing(), clusters(200, STRANGE, 5) if with_decoys else None
    detector = UnknownDetector.fit(model, clusters(600, KNOWN, 0), outliers, None, generator())
    assert (detector.judge is not None) is with_decoys
    held = (detector.score(model, clusters(1500, KNOWN, 1).x) > detector.threshold).float().mean()
    assert 0.02 < float(held) < 0.09
    like_decoys = (detector.score(model, clusters(300, STRANGE, 2).x) > detector.threshold).float().mean()
    like_none = (detector.score(model, clusters(300, OTHER, 3).x) > detector.threshold).float().mean()
    assert float(like_decoys) > (0.9 if with_decoys else 0.5)
    assert float(like_none) > 0.5, "what resembles no decoy is found by its distance"


def test_decoys_help_against_their_like():
    model, known = Seeing(), clusters(600, KNOWN, 0)
    near = torch.cat([2.0 * torch.eye(F)[3:4], 2.0 * torch.eye(F)[4:5]])
    x = clusters(400, near, 2).x
    shares = []
    for outliers in (None, clusters(300, near, 5)):
        detector = UnknownDetector.fit(model, known, outliers, None, generator())
        shares.append(float((detector.score(model, x) > detector.threshold).float().mean()))
    assert shares[1] > shares[0] + 0.1


def test_the_false_rejection_is_the_callers_to_set():
    model, known = Seeing(), clusters(600, KNOWN, 0)
    strict, loose = (UnknownDetector.fit(model, known, None, None, generator(), share) for share in (0.01, 0.3))
    assert strict.threshold > loose.threshold
    with pytest.raises(InputError, match="share"):
        UnknownDetector.fit(model, known, None, None, generator(), 0.0)
    with pytest.raises(InputError, match="known cubes"):
        UnknownDetector.fit(model, known.subset(torch.arange(6)), None, None, generator())


def test_answers_are_classes_or_none_of_these():
    p = torch.tensor([[0.9, 0.1], [0.2, 0.8], [0.6, 0.4]])
    given = calibration.answers(p, torch.tensor([0.0, 2.0, 1.0]), 1.0)
    assert given.tolist() == [0, UNKNOWN, 0] and given.dtype == torch.int64
    with pytest.raises(InputError, match="one of each"):
        calibration.answers(p, torch.zeros(2), 1.0)


def test_decoys_are_no_class_and_never_the_unseen_molecule():
    assert "subunit_60S" in calibration.outliers(("TRiC",)) and "ice" in calibration.outliers(())
    assert set(calibration.outliers(("subunit_60S", "membrane"))).isdisjoint({"subunit_60S", "membrane"})
    assert scenarios.UNSEEN not in calibration.outliers(())


def test_no_target_label_gets_in():
    model, known, (t, key) = Seeing(), clusters(60, KNOWN, 0), target(30)
    for wrong in (t, key):
        with pytest.raises(TypeError, match="Labelled"):
            calibration.calibrate(model, wrong, None, generator())
        with pytest.raises(TypeError, match="Labelled"):
            UnknownDetector.fit(model, wrong, None, None, generator())
        with pytest.raises(TypeError, match="Labelled"):
            UnknownDetector.fit(model, known, wrong, None, generator())
    for function in (calibration.calibrate, UnknownDetector.fit, UnknownDetector.score):
        assert not {"y", "key", "target", "labels"} & set(inspect.signature(function).parameters)
