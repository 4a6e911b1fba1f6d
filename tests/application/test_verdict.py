"""The verdict: made predictions with a known fault each must raise its own alarm, and sound ones none."""

import numpy as np
import pytest
import torch

from cryoshift_core.application import spike_in, verdict
from cryoshift_core.application.classifier import Predictions
from cryoshift_core.application.verdict import DO_NOT_USE, NOT_JUDGED, PARTLY, USABLE, Average, judge
from cryoshift_core.data import Labelled

CLASSES, N, BOX = ("ball", "shell", "ice"), 60, 16


def shape(name):
    """A ball, a shell, or nothing, (BOX, BOX, BOX)."""
    r = torch.linalg.vector_norm(torch.stack(torch.meshgrid([torch.arange(BOX) - 8.0] * 3, indexing="ij")), dim=0)
    return {"ball": (r < 4).float(), "shell": ((r > 4) & (r < 6)).float(), "ice": torch.zeros_like(r)}[name]


def boxes(names, seed=0, spread=1.0):
    """Subtomograms (len(names), 1, BOX, BOX, BOX) in noise with a standard deviation of `spread`."""
    noise = spread * torch.randn(len(names), BOX, BOX, BOX, generator=torch.Generator().manual_seed(seed))
    return (noise + torch.stack([shape(name) for name in names]))[:, None]


def simulated():
    names = [name for name in CLASSES for _ in range(N)]
    y = torch.arange(3).repeat_interleave(N)
    return Labelled(boxes(names, 1), y, CLASSES, 10.0, torch.zeros(len(y)), y)


def predicted(y):
    return Predictions(CLASSES, 0.1 + 0.7 * torch.eye(3)[y])


def spikes(confusion=((50, 1, 0), (2, 49, 0), (0, 0, 50))):
    pairs = [(i, j) for i in range(3) for j in range(3) for _ in range(confusion[i][j])]
    y, answers = torch.tensor(pairs).T
    given = Labelled(torch.zeros(len(y), 1, 2, 2, 2), y, CLASSES, 10.0, torch.zeros(len(y)), y)
    return spike_in.score(torch.eye(3)[answers], given, 0.8)


def true_and_called(*pairs):
    """Subtomograms that are `true` and were called `called`, N for each pair."""
    y = torch.tensor([CLASSES.index(called) for _, called in pairs]).repeat_interleave(N)
    return boxes([true for true, _ in pairs for _ in range(N)]), predicted(y)


RIGHT = (("ball", "ball"), ("shell", "shell"), ("ice", "ice"))


def test_sound_predictions_are_usable():
    x, found = true_and_called(*RIGHT)
    given = judge(found, x, simulated(), spikes())
    assert given.level == USABLE and given.classes == ("ball", "shell")
    assert given.looks_like == {"ball": "ball", "shell": "shell", "ice": "noise"}
    assert str(given) == "usable: 0.80 to 0.98 of the spike-ins are called by their name, and no alarm was raised"


def test_without_spike_ins_nothing_is_called_usable():
    x, found = true_and_called(*RIGHT)
    given = judge(found, x, simulated(), None)
    assert given.level == NOT_JUDGED and "no accuracy was estimated" in str(given)


def test_one_molecule_under_two_names_is_noticed_and_the_wrong_name_is_found():
    x, found = true_and_called(("ball", "ball"), ("ball", "shell"), ("ice", "ice"))
    given = judge(found, x, simulated(), spikes())
    assert given.level == PARTLY and given.classes == ("ball",)
    assert given.looks_like == {"ball": "ball", "shell": "ball", "ice": "noise"}
    assert str(given).startswith("usable for ball only: the averages of ball and shell look alike (correlation")


def test_particles_among_the_background_are_noticed():
    x, found = true_and_called(("ball", "ball"), ("shell", "shell"), ("shell", "ice"))
    given = judge(found, x, simulated(), spikes())
    assert given.level == PARTLY and given.classes == ("ball", "shell")
    assert any("the averages of shell and ice look alike" in reason for reason in given.reasons)
    unseen = boxes(["ice"] * N, 2) - shape("ball") - shape("shell")  # a hole, which no class has
    p = Predictions(CLASSES, 0.1 + 0.7 * torch.eye(3)[torch.full((N,), 2)])
    assert judge(p, unseen, simulated(), spikes()).looks_like == {"ice": "none of them"}, "structure is no noise"
    x, found = true_and_called(("ball", "shell"), ("ball", "ice"))  # alone: the average is not flat
    assert any(reason.startswith("the average of ice is not flat (1.0") for reason in
               judge(found, x, simulated(), spikes()).reasons)  # fmt: skip


@pytest.mark.parametrize(
    ("confusion", "reason"),
    [
        (((50, 0, 0), (40, 10, 0), (0, 0, 50)), "of spike-ins of shell only 20% are called shell"),
        (((26, 24, 0), (10, 40, 0), (0, 24, 26)), "of spike-ins called shell only 45% are shell"),
    ],
)
def test_classes_that_spike_ins_speak_against_are_named(confusion, reason):
    x, found = true_and_called(*RIGHT)
    given = judge(found, x, simulated(), spikes(confusion))
    assert given.level == PARTLY and "shell" not in given.classes and reason in given.reasons


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"profile": "smoke"}, "the smoke profile trains for seconds"),
        ({"warnings": ["cryoshift may be wrong here."]}, "cryoshift may be wrong here"),
        ({"confusion": ((20, 20, 20),) * 3}, "no better than by guessing (0.33)"),
    ],
)
def test_nothing_is_to_be_used_after_an_alarm_about_everything(options, reason):
    x, found = true_and_called(*RIGHT)
    score = spikes(options.pop("confusion")) if "confusion" in options else spikes()
    given = judge(found, x, simulated(), score, **options)
    assert given.level == DO_NOT_USE and given.classes == () and reason in str(given)


def test_two_molecules_that_are_alike_by_nature_raise_no_alarm():
    names = {"ball": "ball", "shell": "ball", "ice": "ice"}  # both classes look like a ball, simulated and real
    x, found = true_and_called(("ball", "ball"), ("ball", "shell"), ("ice", "ice"))
    source = simulated()
    source = Labelled(
        boxes([names[CLASSES[k]] for k in source.y], 1), source.y, CLASSES, 10.0, source.snr, source.groups
    )
    assert judge(found, x, source, spikes()).level == USABLE


def test_likeness_is_corrected_for_noise_and_zero_where_noise_decides():
    few = Average.of(boxes(["ball"] * 40, 3, spread=6.0))
    exact = Average.of(boxes(["ball"] * 500, 4))
    plain = float(torch.corrcoef(torch.stack([few.values, exact.values]))[0, 1])
    assert plain < 0.95 and few.likeness(exact) == pytest.approx(1.0, abs=0.05)
    noise = Average.of(boxes(["ice"] * 60))
    assert noise.likeness(exact) == 0.0 and noise.reliability < 0.5
    assert exact.power == pytest.approx(_power("ball"), rel=0.05) and noise.power < 0.02 * exact.power
    assert Average.of(boxes(["ball"] * 19)) is None, "too few"
    flat = Average.of(torch.ones(30, 1, BOX, BOX, BOX))
    assert flat.reliability == 0 and np.isfinite(flat.likeness(exact))


def _power(name):
    r = torch.arange(BOX) - 8
    inside = r[:, None, None] ** 2 + r[:, None] ** 2 + r**2 <= 49
    return float(verdict.gaussian_low_pass(shape(name), 1.0)[inside].var())
