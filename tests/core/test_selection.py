"""Selection: scripted candidates with known predictions, validators, validity checks, warnings and the fallback."""

import inspect

import numpy as np
import pytest
import torch
from helpers.toy import CLASSES, source, target
from sklearn.linear_model import LogisticRegression
from torch import nn

from cryoshift_core import selection
from cryoshift_core.data import HeldOutLabels, Labelled
from cryoshift_core.errors import InputError
from cryoshift_core.models import Outputs
from cryoshift_core.selection import VALIDATORS, Candidate
from cryoshift_core.training import Fit, TrainingConfig

N = 30
Y = torch.arange(N) % 3


class Scripted(nn.Module):
    """A network whose features and logits are those in its state_dict, so that candidates behave as written there."""

    def __init__(self):
        super().__init__()
        self.logits = nn.Parameter(torch.zeros(2 * N, 3))

    def features(self, x):
        return self.logits[x[:, 0, 0, 0, 0].long()]  # the first voxel is the number of the subtomogram

    def head(self, features):
        return features


def numbered(dataset, start):
    dataset.x[:, 0, 0, 0, 0] = torch.arange(start, start + len(dataset)).float()
    return dataset


def scripted_fit(logits_by_step, method="mada"):
    """A fit with the given (validation, target) logits of each candidate, and its target."""
    network = Scripted()
    candidates = {step: {"logits": torch.cat(both)} for step, both in logits_by_step.items()}
    fit = Fit(
        method=method,
        network=network,
        history={},
        candidates=candidates,
        selected=max(candidates),
        warps=None,
        validation=numbered(source(N), 0),
        config=TrainingConfig(),
        seconds=0.0,
        cpu_seconds=0.0,
    )
    return fit, numbered(target(N)[0], N)


def choose(fit, target, **options):
    return selection.choose(fit, target, device="cpu", **options)


def predicting(y, confidence=8.0):
    return confidence * torch.eye(3)[y]


WRONG = (Y + 1) % 3
COLLAPSED = predicting(torch.zeros(N, dtype=torch.long))


def wrong_on(index, confidence=4.0):
    """Correct predictions except for the subtomograms in `index`, which get the next class."""
    return predicting(torch.where(torch.isin(torch.arange(N), torch.tensor(index)), WRONG, Y), confidence)


def test_candidates_are_validated_on_warped_subtomograms_where_the_fit_has_warps():
    fit, t = scripted_fit({1: (predicting(Y), predicting(WRONG)), 2: (predicting(WRONG), predicting(Y))})
    assert choose(fit, t, rule="last").step == 1, "the second is wrong on the plain source"
    fit.warps = lambda x, generator: x + N  # onto the numbers of the target
    choice = choose(fit, t, rule="im")
    assert choice.step == 2 and [row["source_val_acc"] for row in choice.table] == [0, 1]


def test_validators_get_the_outputs_of_every_candidate_and_no_target_label(monkeypatch):
    seen = []
    monkeypatch.setitem(VALIDATORS, "recorder", lambda candidates: seen.extend(candidates) or torch.zeros(2))
    fit, t = scripted_fit({5: (predicting(Y), predicting(WRONG)), 2: (predicting(WRONG), predicting(Y))})
    assert choose(fit, t, rule="recorder", checked=False).step == 2, "the first of equal scores"
    assert [c.step for c in seen] == [2, 5], "in the order of their steps"
    assert torch.equal(seen[1].target.logits, predicting(WRONG)) and torch.equal(seen[1].source.features, predicting(Y))
    assert torch.equal(seen[0].source_y, fit.validation.y) and [c.source_accuracy for c in seen] == [0, 1]
    assert not {name for name in vars(seen[0]) if name.startswith("target_")}


def test_the_most_confident_and_diverse_candidate_wins():
    sides = {1: predicting(Y, 1.0), 2: predicting(Y), 3: predicting(Y, 2.0)}
    fit, t = scripted_fit({step: (predicting(Y), logits) for step, logits in sides.items()})
    choice = choose(fit, t)
    assert choice.step == 2 == fit.selected and not choice.warning and "'im' of the 3 valid out of 3" in choice.reason
    assert choice.fit is fit and not choice.fell_back and choice.agreement == 1 and choice.class_ami > 0.99
    assert torch.equal(fit.network.logits, fit.candidates[2]["logits"])


def test_a_collapsed_predictor_loses_by_its_score():
    fit, t = scripted_fit({1: (predicting(Y), predicting(Y, 1.0)), 2: (predicting(Y), COLLAPSED)})
    choice = choose(fit, t)
    assert choice.step == 1 and not choice.warning and choice.table[0]["problem"] == ""
    assert "nearly everything is one class (entropy 0.00)" in choice.table[1]["problem"], "and it has no vote"


def test_no_rule_demands_that_a_class_occurs():
    """A target that lacks a class: the right predictions never name it, and must not be refused for that."""
    two_of_three = predicting(Y.clamp_max(1))
    fit, t = scripted_fit({1: (predicting(Y), predicting(Y.clamp_max(1), 2.0)), 2: (predicting(Y), two_of_three)})
    plain, _ = scripted_fit({7: (predicting(Y), predicting(WRONG, 0.1))}, method="source_only")
    choice = choose(fit, t, fallback=plain)
    assert choice.step == 2 and not choice.fell_back and not choice.warning
    assert all(row["problem"] == "" for row in choice.table)


def test_a_candidate_that_forgot_the_source_is_rejected():
    fit, t = scripted_fit({1: (predicting(Y), predicting(Y, 1.0)), 2: (predicting(WRONG), predicting(Y))})
    choice = choose(fit, t)
    assert choice.step == 1
    assert choice.table[1]["problem"] == "source-validation accuracy 0.00 is more than 0.03 below the best, 1.00"


def test_collapsed_candidates_alone_give_a_warning():
    varied = torch.randn(N, 3, generator=torch.Generator().manual_seed(0))
    one_class = varied + torch.tensor([30.0, 0.0, 0.0])
    fit, t = scripted_fit({1: (predicting(Y), one_class), 2: (predicting(Y), one_class)})
    choice = choose(fit, t)
    assert "no clusters of the target" in choice.warning and "Compare with source_only" in choice.warning


def test_ensv_selects_the_candidate_nearest_to_the_consensus():
    # IM prefers the confident one that differs from the others
    steps = {1: wrong_on([0, 1]), 2: wrong_on([]), 3: wrong_on([4, 5]), 4: wrong_on([7, 8, 9, 10], 9.0)}
    fit, t = scripted_fit({step: (predicting(Y), logits) for step, logits in steps.items()})
    selected = {rule: choose(fit, t, rule=rule, checked=False).step for rule in ("ensv", "im", "last")}
    assert selected == {"ensv": 2, "im": 4, "last": 4}
    p = torch.stack([fit.candidates[step]["logits"][N:] for step in steps]).softmax(2)
    agreement = selection.consensus(p)
    assert int(agreement.argmax()) == 1 and agreement[3] < agreement[0]
    with pytest.raises(InputError, match="out of im, ensv, last, got 'envs'; did you mean 'ensv'"):
        choose(fit, t, rule="envs")


def test_a_candidate_that_forgot_the_source_has_no_vote():
    sides = {1: (predicting(WRONG), predicting(WRONG)), 2: (predicting(WRONG), predicting(WRONG))}
    fit, t = scripted_fit({**sides, 3: (predicting(Y), predicting(Y, 1.0))})
    choice = choose(fit, t, rule="ensv")
    assert choice.step == 3 and [row["ensv_agreement"] for row in choice.table] == pytest.approx([0, 0, 1])


def disagreeing():
    """Three candidates that agree, and a more confident one that differs on half of the target."""
    sides = {step: (predicting(Y), wrong_on([], 2.0)) for step in (1, 2, 3)}
    return scripted_fit({**sides, 4: (predicting(Y), wrong_on(list(range(15)), 9.0))})


def test_where_im_and_ensv_disagree_the_fallback_is_used_with_a_warning():
    fit, t = disagreeing()
    plain, _ = scripted_fit({7: (predicting(Y), predicting(Y, 30.0))}, method="source_only")
    choice = choose(fit, t, fallback=plain)
    assert choice.fell_back and choice.fit is plain and choice.step == 7
    assert choice.agreement == 0.5 and "50%" in choice.warning and "come from source_only" in choice.warning
    worse, _ = scripted_fit({7: (predicting(Y), predicting(Y, 0.5))}, method="source_only")
    kept = choose(fit, t, fallback=worse)
    assert kept.fit is fit and not kept.fell_back, "a fallback with a lower score replaces nothing"
    assert "mada stays, because source_only scores no better (IM score 1." in kept.warning
    assert [row["step"] for row in choice.table] == [1, 2, 3, 4]
    without = choose(fit, t)
    assert not without.fell_back and without.fit is fit and without.step == 4
    assert "Compare with source_only" in without.warning
    tolerant = choose(fit, t, fallback=plain, agreement=0.4)
    assert tolerant.fit is fit and not tolerant.fell_back and not tolerant.warning
    unchecked = choose(fit, t, fallback=plain, checked=False)
    assert unchecked.fit is fit and not unchecked.warning and np.isnan(unchecked.class_ami), "the rule alone"


def test_where_the_adversaries_change_the_class_fractions_the_fit_without_them_is_used():
    """A target of one class: aligned with three equally frequent ones, its subtomograms are spread over the three."""
    alone = torch.where(torch.arange(N) < N - 4, 0, Y)
    spread, t = scripted_fit({5: (predicting(Y), predicting(Y))}, method="cryoshift")
    plain, _ = scripted_fit({5: (predicting(Y), predicting(alone))}, method="cryoshift_warps")
    choice = choose(spread, t, unaligned=plain)
    assert choice.fit is plain and choice.step == 5 and not choice.fell_back and not choice.warning
    assert choice.reason.endswith("of cryoshift_warps: adversaries of cryoshift change the class fractions by 0.57")
    assert choose(spread, t).fit is spread and choose(spread, t, unaligned=plain, checked=False).fit is spread
    swapped, _ = scripted_fit({5: (predicting(Y), predicting(WRONG))}, method="cryoshift_warps")
    assert choose(spread, t, unaligned=swapped).fit is spread, "other subtomograms, but equal fractions"
    other, _ = scripted_fit({5: (predicting(Y), predicting(Y, 30.0))}, method="source_only")
    assert choose(spread, t, unaligned=plain, fallback=other, least_ami=-1.0).fit is plain, "no check speaks against it"
    checked = choose(spread, t, unaligned=plain, fallback=other, least_ami=1.1)
    assert checked.fell_back and checked.fit is other, "the checks hold for it, with the limits of the caller"


def test_the_change_of_class_fractions_is_the_net_fraction_that_moves():
    p = torch.eye(3)[torch.tensor([0] * 6 + [1] * 4)]
    assert selection.fraction_change(p, p.flip(0)) == 0
    assert selection.fraction_change(p, torch.eye(3)[torch.tensor([0] * 3 + [1] * 5 + [2] * 2)]) == pytest.approx(0.3)


def test_candidates_that_differ_as_much_on_the_validation_set_give_no_warning():
    """In heavy noise sound checkpoints differ; a warning is due where they differ more on the target than that."""
    half = list(range(15))
    sides = {step: (predicting(Y), wrong_on([], 2.0)) for step in (1, 2, 3)}
    fit, t = scripted_fit({**sides, 4: (wrong_on(half), wrong_on(half, 9.0))})
    choice = choose(fit, t, tolerance=1.0)
    assert choice.agreement == 0.5 and choice.step == 4 and not choice.warning
    fit, t = disagreeing()
    assert "agree on 50% of the target, and on 100% of the validation" in choose(fit, t, tolerance=1.0).warning


def test_the_fallback_is_used_where_the_classes_are_no_clusters():
    plain, _ = scripted_fit({7: (predicting(Y), predicting(Y, 30.0))}, method="source_only")
    varied = torch.randn(N, 3, generator=torch.Generator().manual_seed(0))
    fit, t = scripted_fit({1: (predicting(Y), varied + torch.tensor([30.0, 0.0, 0.0]))})
    assert choose(fit, t, fallback=plain).fit is plain
    fit, t = scripted_fit({1: (predicting(Y), predicting(Y))})
    assert not choose(fit, t, fallback=plain).fell_back
    warned = choose(fit, t, fallback=plain, least_ami=1.1)
    assert warned.fell_back and "no clusters of the target (ClassAMI 1.00, under 1.1)" in warned.warning


def test_the_choice_does_not_depend_on_the_order_of_the_classes():
    order = torch.tensor([2, 0, 1])
    g = torch.Generator().manual_seed(0)
    logits = {step: predicting(Y, 2.0) + torch.randn(N, 3, generator=g) for step in (1, 2, 3)}
    fit, t = scripted_fit({step: (predicting(Y), logits[step]) for step in logits})
    other, _ = scripted_fit({step: (predicting(Y)[:, order], logits[step][:, order]) for step in logits})
    v = other.validation
    other.validation = Labelled(v.x, order.argsort()[v.y], CLASSES, v.voxel_size, v.snr, v.groups)
    for rule in VALIDATORS:
        one, two = (choose(f, t, rule=rule) for f in (fit, other))
        assert (one.step, one.agreement) == (two.step, two.agreement)
        assert one.class_ami == pytest.approx(two.class_ami, abs=0.1)
        for a, b in zip(one.table, two.table, strict=True):
            assert bool(a.pop("problem")) == bool(b.pop("problem"))
            assert a == pytest.approx(b, abs=1e-5)


def test_labelled_targets_are_refused():
    fit, _ = scripted_fit({1: (predicting(Y), predicting(Y))})
    held_out = target(N)[1]
    assert isinstance(held_out, HeldOutLabels)
    for labelled in (source(N), held_out):
        with pytest.raises(TypeError, match="Unlabelled"):
            choose(fit, labelled)
    accepted = inspect.signature(selection.choose).parameters
    assert not [name for name in accepted if "label" in name or name in ("y", "held_out", "predictions")]
    assert accepted["target"].annotation == "Unlabelled"


def test_class_ami_is_1_for_classes_that_are_clusters_and_near_0_for_none():
    centres = 5 * torch.tensor([[0.0, 0.0], [0.0, 1.0], [1.0, 0.0]])
    g = torch.Generator().manual_seed(0)

    def outputs(features):
        return Outputs(-torch.cdist(features, centres), features)

    clustered = centres[torch.arange(300) % 3] + 0.1 * torch.randn(300, 2, generator=g)
    assert selection.class_ami(outputs(clustered)) > 0.99
    other_classes = Outputs(torch.eye(3)[torch.randint(3, (300,), generator=g)], clustered)
    assert selection.class_ami(other_classes) < 0.05
    assert selection.class_ami(outputs(centres[:2])) == selection.class_ami(outputs(centres[:2]), seed=1), "2 of 3"


def dev(candidates):
    """Deep embedded validation, negated (You et al. 2019, eqs. 4 to 9): validation risk weighted by the density ratio,
    with a control variate. The ratio comes from a logistic regression of source against target features."""
    scores = []
    for c in candidates:
        f = np.concatenate([c.source.features.numpy(), c.target.features.numpy()])
        domain = np.repeat([0, 1], [len(c.source.features), len(c.target.features)])
        p = LogisticRegression(max_iter=1000).fit(f, domain).predict_proba(c.source.features.numpy())
        weight = p[:, 1] / p[:, 0] * len(c.source.features) / len(c.target.features)
        wrong = (c.source.logits.argmax(1) != c.source_y).numpy().astype(float)
        weighted = weight * wrong
        eta = -np.cov(weighted, weight)[0, 1] / max(np.var(weight, ddof=1), 1e-12)
        scores.append(-(weighted.mean() + eta * weight.mean() - eta))
    return torch.tensor(scores)


def snd(candidates, temperature=0.05):
    """Soft neighbourhood density (Saito et al. 2021): mean entropy of the softmax of cosine similarities between the
    target's features; high where a subtomogram has many near neighbours."""
    scores = []
    for c in candidates:
        f = nn.functional.normalize(c.target.features, dim=1)
        similarity = (f @ f.T / temperature).masked_fill(torch.eye(len(f), dtype=torch.bool), float("-inf"))
        p = similarity.softmax(1)
        scores.append(-(p * p.clamp_min(1e-30).log()).sum(1).mean())
    return torch.stack(scores)


def shifted_domains(wrong_near_target, g):
    """A candidate whose errors on the source are either where the target's features lie, or far from them."""
    n = 400
    f_s = torch.randn(n, 2, generator=g)
    f_t = torch.randn(n, 2, generator=g) + torch.tensor([1.5, 0.0])
    y = torch.randint(3, (n,), generator=g)
    rank = f_s[:, 0].argsort(descending=wrong_near_target)
    logits = torch.eye(3)[y]
    logits[rank[:80]] = torch.eye(3)[(y[rank[:80]] + 1) % 3]
    return Candidate(0, Outputs(logits, f_s), y, Outputs(torch.zeros(n, 3), f_t))


def test_dev_is_one_entry_of_validators():
    """Both candidates have a source accuracy of 0.8; DEV sees that the errors of one lie where the target is."""
    g = torch.Generator().manual_seed(0)
    near, far = shifted_domains(True, g), shifted_domains(False, g)
    assert near.source_accuracy == far.source_accuracy == pytest.approx(0.8)
    scores = dev([near, far])
    assert scores[1] > scores[0] + 0.1
    assert float(-scores[1]) < 0.2 < float(-scores[0]), "the risk on the target, not on the source"


def test_snd_is_one_entry_of_validators():
    g = torch.Generator().manual_seed(0)
    tight = 3 * torch.eye(3)[Y] + 0.1 * torch.randn(N, 3, generator=g)
    loose = torch.randn(N, 3, generator=g)
    y = torch.zeros(N, dtype=torch.long)
    both = [Candidate(i, Outputs(f, f), y, Outputs(f, f)) for i, f in enumerate((loose, tight))]
    scores = snd(both)
    assert scores[1] > scores[0] and scores[1] == pytest.approx(np.log(N / 3 - 1), abs=0.1), "9 near neighbours each"


@pytest.mark.parametrize("validator", [dev, snd])
def test_a_users_validator_selects(validator, monkeypatch):
    monkeypatch.setitem(VALIDATORS, "mine", validator)
    g = torch.Generator().manual_seed(0)
    good = predicting(Y, 3.0) + 0.1 * torch.randn(2 * N, 3, generator=g)[:N]
    bad = torch.randn(N, 3, generator=g)
    fit, t = scripted_fit({1: (bad, bad), 2: (good, good), 3: (bad.flip(0), bad.flip(0))})
    assert choose(fit, t, rule="mine", checked=False).step == 2
    assert choose(fit, t, rule="last", checked=False).step == 3
