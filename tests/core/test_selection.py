import inspect

import pytest
import torch
from helpers.toy import CLASSES, source, target
from torch import nn

from cryoshift_core import losses, selection
from cryoshift_core.data import HeldOutLabels, Labelled
from cryoshift_core.errors import InputError
from cryoshift_core.training import Fit


class Scripted(nn.Module):
    """Answers with the logits in its state_dict: an easy way to have candidates of known behaviour."""

    def __init__(self, n):
        super().__init__()
        self.logits = nn.Parameter(torch.zeros(2 * n, 3))
        self.classify = nn.Linear(3, 3)

    def features(self, x):
        # the first voxel tells which cube it is
        return self.logits[x[:, 0, 0, 0, 0].long()]

    def head(self, features):
        return features

    def forward(self, x):
        return self.features(x)


def numbered(domain, start):
    domain.x[:, 0, 0, 0, 0] = torch.arange(start, start + len(domain)).float()
    return domain


def made(answers_by_step, n=30):
    """A Fit whose candidate answers (validation logits, target logits) are given."""
    model = Scripted(n)
    candidates = {}
    for step, (v, t) in answers_by_step.items():
        candidates[step] = {**model.state_dict(), "logits": torch.cat([v, t])}
    fit = Fit("mada", model, {}, candidates, max(candidates), None, 0.0, 0.0, ("a", "b", "c"))
    return fit, numbered(source(n), 0), numbered(target(n)[0], n)


def answers(y, sure=8.0):
    return sure * torch.eye(3)[y]


Y = torch.arange(30) % 3


def test_where_there_are_warps_it_is_carried_validation_cubes_that_count():
    fit, v, t = made({1: (answers(Y), answers((Y + 1) % 3)), 2: (answers((Y + 1) % 3), answers(Y))})
    assert selection.choose(fit, v, t, rule="last").step == 1, "the second is wrong on plain source cubes"
    fit.warps = lambda x, generator: x + 30  # to where the target's numbers are
    choice = selection.choose(fit, v, t, rule="im")
    assert choice.step == 2 and [row["source_val_acc"] for row in choice.table] == [0, 1]


def test_the_surest_and_most_diverse_candidate_wins():
    fit, v, t = made({1: (answers(Y), answers(Y, 1.0)), 2: (answers(Y), answers(Y)), 3: (answers(Y), answers(Y, 2.0))})
    choice = selection.choose(fit, v, t)
    assert choice.step == 2 == fit.selected and not choice.warning and "im" in choice.reason
    assert choice.fit is fit and not choice.fell_back and choice.agreement == 1 and choice.class_ami > 0.99
    assert torch.equal(fit.model.logits, fit.candidates[2]["logits"])


def test_a_collapsed_predictor_is_rejected():
    collapsed = answers(torch.zeros(30, dtype=torch.long))
    fit, v, t = made({1: (answers(Y), answers(Y, 1.0)), 2: (answers(Y), collapsed)})
    choice = selection.choose(fit, v, t)
    assert choice.step == 1 and "class 1" in choice.table[1]["gate"]
    two_of_three = answers(Y.clamp_max(1))
    assert selection.gates(two_of_three.softmax(1), 1.0, 1.0), "a score alone would have liked it"


def test_a_candidate_that_forgot_the_source_is_rejected():
    fit, v, t = made({1: (answers(Y), answers(Y, 1.0)), 2: (answers((Y + 1) % 3), answers(Y))})
    choice = selection.choose(fit, v, t)
    assert choice.step == 1 and "source-validation" in choice.table[1]["gate"]


def test_where_none_passes_the_last_is_returned_with_a_warning():
    collapsed = answers(torch.zeros(30, dtype=torch.long))
    fit, v, t = made({1: (answers(Y), collapsed), 2: (answers(Y), collapsed)})
    choice = selection.choose(fit, v, t)
    assert choice.step == 2 and "source_only" in choice.warning


def spoilt(wrong, sure=4.0):
    """Right answers but for the cubes in `wrong`, which get the next class."""
    return answers(torch.where(torch.isin(torch.arange(30), torch.tensor(wrong)), (Y + 1) % 3, Y), sure)


def test_ensv_takes_the_candidate_nearest_to_the_consensus():
    # IM likes the sure one at the edge; the others outvote it
    steps = {1: spoilt([0, 1]), 2: spoilt([]), 3: spoilt([4, 5]), 4: spoilt([7, 8, 9, 10], 9.0)}
    fit, v, t = made({step: (answers(Y), logits) for step, logits in steps.items()})
    assert selection.choose(fit, v, t, rule="ensv", gated=False).step == 2
    assert selection.choose(fit, v, t, rule="im", gated=False).step == 4
    assert selection.choose(fit, v, t, rule="last", gated=False).step == 4
    p = torch.stack([fit.candidates[step]["logits"][30:] for step in steps]).softmax(2)
    shares = selection.consensus(p)
    assert int(shares.argmax()) == 1 and shares[3] < shares[0]
    with pytest.raises(InputError, match="im, ensv, last"):
        selection.choose(fit, v, t, rule="luck")


def test_a_collapsed_candidate_has_no_vote():
    collapsed = answers(torch.zeros(30, dtype=torch.long), 30.0)
    fit, v, t = made({1: (answers(Y), collapsed), 2: (answers(Y), collapsed), 3: (answers(Y), answers(Y, 1.0))})
    choice = selection.choose(fit, v, t, rule="ensv")
    assert choice.step == 3 and [row["ensv_agreement"] for row in choice.table] == pytest.approx([1 / 3, 1 / 3, 1])


def in_dispute():
    """Three that agree, and one surer than they that answers otherwise on half of the target."""
    sides = {step: (answers(Y), spoilt([], 2.0)) for step in (1, 2, 3)}
    return made({**sides, 4: (answers(Y), spoilt(list(range(15)), 9.0))})


def test_in_dispute_the_fallback_is_used_and_said():
    fit, v, t = in_dispute()
    plain, _, _ = made({7: (answers(Y), answers(Y))})
    plain.method = "source_only"
    choice = selection.choose(fit, v, t, fallback=plain)
    assert choice.fell_back and choice.fit is plain and choice.step == 7
    assert choice.agreement == 0.5 and "50%" in choice.warning and "source_only" in choice.warning
    assert [row["step"] for row in choice.table] == [1, 2, 3, 4]
    without = selection.choose(fit, v, t)
    assert not without.fell_back and without.fit is fit and without.step == 4 and "source_only" in without.warning
    trusting = selection.choose(fit, v, t, fallback=plain, agreement=0.4)
    assert trusting.fit is fit and not trusting.fell_back and not trusting.warning
    alone = selection.choose(fit, v, t, fallback=plain, gated=False)
    assert alone.fit is fit and not alone.warning, "a rule alone, for comparison, has no fallback"


def test_checkpoints_that_differ_as_much_on_validation_cubes_are_in_no_dispute():
    """Heavy noise makes sound checkpoints differ; what alarms is a target on which they differ more than that."""
    half = list(range(15))
    sides = {step: (answers(Y), spoilt([], 2.0)) for step in (1, 2, 3)}
    fit, v, t = made({**sides, 4: (spoilt(half), spoilt(half, 9.0))})
    choice = selection.choose(fit, v, t, tolerance=1.0)
    assert choice.agreement == 0.5 and choice.step == 4 and not choice.warning
    fit, v, t = in_dispute()
    assert "50% of the target only, and on 100%" in selection.choose(fit, v, t, tolerance=1.0).warning


def test_the_fallback_is_used_where_none_passes_and_where_ami_alarms():
    collapsed = answers(torch.zeros(30, dtype=torch.long))
    fit, v, t = made({1: (answers(Y), collapsed)})
    plain, _, _ = made({7: (answers(Y), answers(Y))})
    assert selection.choose(fit, v, t, fallback=plain).fit is plain
    fit, v, t = made({1: (answers(Y), answers(Y))})
    assert not selection.choose(fit, v, t, fallback=plain).fell_back
    alarmed = selection.choose(fit, v, t, fallback=plain, least_ami=1.1)
    assert alarmed.fell_back and "ClassAMI" in alarmed.warning


@pytest.mark.parametrize("n_classes, rarest, passes", [(3, 0.015, False), (20, 0.0128, True), (20, 0.002, False)])
def test_the_least_share_leaves_room_for_rare_classes(n_classes, rarest, passes):
    counts = torch.full((n_classes,), 1000)
    total = 1000 * (n_classes - 1) / (1 - rarest)
    counts[0] = round(total * rarest)
    y = torch.repeat_interleave(torch.arange(n_classes), counts)
    assert (selection.gates(torch.eye(n_classes)[y], 1.0, 1.0) == "") is passes


def test_renaming_the_classes_changes_no_choice():
    order = torch.tensor([2, 0, 1])
    g = torch.Generator().manual_seed(0)
    logits = {step: answers(Y, 2.0) + torch.randn(30, 3, generator=g) for step in (1, 2, 3)}
    fit, v, t = made({step: (answers(Y), logits[step]) for step in logits})
    other, w, _ = made({step: (answers(Y)[:, order], logits[step][:, order]) for step in logits})
    w = Labelled(w.x, order.argsort()[w.y], CLASSES, w.voxel_size, w.snr, w.groups)
    for rule in selection.RULES:
        one, two = (selection.choose(f, val, t, rule=rule) for f, val in ((fit, v), (other, w)))
        assert (one.step, one.agreement) == (two.step, two.agreement)
        assert one.class_ami == pytest.approx(two.class_ami, abs=0.1)
        for a, b in zip(one.table, two.table, strict=True):
            assert {k: x for k, x in a.items() if k != "gate"} == pytest.approx(
                {k: x for k, x in b.items() if k != "gate"}, abs=1e-5
            )
            assert bool(a["gate"]) == bool(b["gate"])


def test_renaming_the_classes_changes_nothing():
    g = torch.Generator().manual_seed(0)
    p = torch.randn(50, 4, generator=g).softmax(1)
    order = torch.tensor([2, 0, 3, 1])
    one, other = (losses.information_maximisation(q).item() for q in (p, p[:, order]))
    assert one == pytest.approx(other, abs=1e-6)
    assert bool(selection.gates(p, 1, 1)) == bool(selection.gates(p[:, order], 1, 1))


def test_labelled_targets_are_refused():
    fit, v, _ = made({1: (answers(Y), answers(Y))})
    key = target(30)[1]
    assert isinstance(key, HeldOutLabels)
    for labelled in (source(30), key):
        with pytest.raises(TypeError, match="Unlabelled"):
            selection.choose(fit, v, labelled)
    with pytest.raises(TypeError, match="validate"):
        selection.choose(fit, key, target(30)[0])
    taken = inspect.signature(selection.choose).parameters
    assert not [name for name in taken if "label" in name or name in ("y", "key", "answers")]
    assert taken["target"].annotation == "Unlabelled"


def test_class_ami_tells_clusters_from_none():
    class Identity(nn.Module):
        def __init__(self):
            super().__init__()
            self.classify = nn.Linear(2, 3)

        def features(self, x):
            return x[:, 0, 0, 0, :2]

        def head(self, f):
            return -torch.cdist(f, 5 * torch.tensor([[0.0, 0.0], [0.0, 1.0], [1.0, 0.0]]))

    t, _ = target(60)
    t.x[:, 0, 0, 0, :2] = 5 * torch.tensor([[0.0, 0.0], [0.0, 1.0], [1.0, 0.0]])[torch.arange(60) % 3]
    assert selection.class_ami(Identity(), t) > 0.99
    t.x[:, 0, 0, 0, :2] = torch.randn(60, 2, generator=torch.Generator().manual_seed(0)) * 0.1 + 2.4
    assert selection.class_ami(Identity(), t) < 0.9
