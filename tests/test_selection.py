import pytest
import torch
from torch import nn
from toy import source, target

from cryoshift_core import selection
from cryoshift_core.training import Fit


class Scripted(nn.Module):
    """Answers with the logits in its state_dict: an easy way to have candidates of known behaviour."""

    def __init__(self, n):
        super().__init__()
        self.logits = nn.Parameter(torch.zeros(2 * n, 3))
        self.classify = nn.Linear(3, 3)

    def forward(self, x):
        # the first voxel tells which cube it is
        return self.logits[x[:, 0, 0, 0, 0].long()]


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


def test_the_surest_and_most_diverse_candidate_wins():
    fit, v, t = made({1: (answers(Y), answers(Y, 1.0)), 2: (answers(Y), answers(Y)), 3: (answers(Y), answers(Y, 2.0))})
    choice = selection.choose(fit, v, t)
    assert choice.step == 2 == fit.selected and not choice.warning and "IM" in choice.reason
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


def test_renaming_the_classes_changes_nothing():
    g = torch.Generator().manual_seed(0)
    p = torch.randn(50, 4, generator=g).softmax(1)
    order = torch.tensor([2, 0, 3, 1])
    one, other = (selection.information_maximisation(q).item() for q in (p, p[:, order]))
    assert one == pytest.approx(other, abs=1e-6)
    assert bool(selection.gates(p, 1, 1)) == bool(selection.gates(p[:, order], 1, 1))


def test_labelled_targets_are_refused():
    fit, v, _ = made({1: (answers(Y), answers(Y))})
    with pytest.raises(TypeError, match="Unlabelled"):
        selection.choose(fit, v, source(30))


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
