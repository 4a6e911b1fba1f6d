"""Selection without a target label: validators that score checkpoints, validity checks, and warnings."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from sklearn.cluster import KMeans
from sklearn.metrics import adjusted_mutual_info_score
from torch import Tensor

from .data import Unlabelled
from .losses import information_maximisation
from .models import Outputs, outputs
from .support.runtime import check_known
from .training import Fit
from .warps import target_styled

AGREEMENT = 0.8  # least agreement of the IM and the EnsV choice on the target, relative to that on the source
MOVED = 0.1  # largest change of the class fractions by adversaries that is put down to chance; see docs/search.md
LEAST_AMI = 0.2  # a trained classifier reaches 0.13 on white noise, which has no clusters at all


@dataclass(frozen=True, eq=False)
class Candidate:
    """One checkpoint as a validator sees it; it contains no target label.

    Attributes
    ----------
    step : of the checkpoint
    source : logits and features of the source-validation subtomograms (warped where the fit has warps)
    source_y : (N,) their classes
    target : logits and features of the target subtomograms
    """

    step: int
    source: Outputs
    source_y: Tensor
    target: Outputs

    @property
    def source_accuracy(self) -> float:
        """Accuracy on the source-validation subtomograms."""
        return float((self.source.logits.argmax(1) == self.source_y).float().mean())

    @property
    def im_score(self) -> float:
        """Information maximisation on the target, nats."""
        return float(information_maximisation(self.target.probabilities))


def consensus(probabilities: Tensor, voters: Tensor | None = None) -> Tensor:
    """Fraction of the target on which each candidate predicts the ensemble's class, (M,).

    EnsV (Hu et al. 2024, "Towards reliable model selection for unsupervised domain adaptation", NeurIPS Datasets and
    Benchmarks): the mean of the candidates' probabilities is the reference.

    Parameters
    ----------
    probabilities : (M, N, K) target predictions of M candidates
    voters : (V, N, K) those of the ensemble; None: the same
    """
    ensemble = (probabilities if voters is None else voters).mean(0).argmax(1)
    return (probabilities.argmax(2) == ensemble).float().mean(1)


def _probabilities(candidates: Sequence[Candidate]) -> Tensor:
    return torch.stack([c.target.probabilities for c in candidates])


def _im(candidates: Sequence[Candidate]) -> Tensor:
    return torch.tensor([c.im_score for c in candidates], device="cpu")


# Name -> validator: candidates, in the order of their steps -> scores (M,), the higher the better.
VALIDATORS: dict[str, Callable[[Sequence[Candidate]], Tensor]] = {
    "im": _im,
    "ensv": lambda candidates: consensus(_probabilities(candidates)),
    "last": lambda candidates: torch.arange(len(candidates), device="cpu").float(),
}


@dataclass(frozen=True)
class Choice:
    """The selected checkpoint.

    Attributes
    ----------
    fit, step : the fit (the given one, `unaligned` or the fallback) and its candidate to use; `fit.network` holds it
    reason : of the choice, in words
    warning : what speaks against the adapted network, "" where nothing does
    fell_back : the fallback replaced the adapted network
    class_ami : :func:`class_ami` of the adapted network's candidate; NaN without checks
    agreement : fraction of the target on which the IM and the EnsV choice agree
    table : a row per candidate: step, source_val_acc, im_score, ensv_agreement, problem ("" where it is valid)
    """

    fit: Fit
    step: int
    reason: str
    warning: str
    fell_back: bool
    class_ami: float
    agreement: float
    table: tuple[dict[str, float | str], ...]


def diversity(probabilities: Tensor) -> float:
    """Entropy of the predicted class fractions of p (N, K), nats: 0 where all subtomograms get one class."""
    counts = torch.bincount(probabilities.argmax(1), minlength=probabilities.shape[1])
    return float(torch.special.entr(counts / len(probabilities)).sum())


def problem(
    probabilities: Tensor, accuracy: float, best_accuracy: float, best_diversity: float, tolerance: float = 0.03
) -> str:
    """What makes a candidate invalid beside the others, in words; "" for a valid one.

    It must still classify the source, and must not call nearly everything one class where others do not. Nothing is
    asked of single classes: one may be absent from the target, or dominate it.

    Parameters
    ----------
    probabilities : (N, K) target predictions
    accuracy, best_accuracy : source-validation accuracy of this candidate, and of the best one
    best_diversity : largest :func:`diversity` of the candidates
    tolerance : allowed distance from the best accuracy
    """
    if accuracy < best_accuracy - tolerance:
        return f"source-validation accuracy {accuracy:.2f} is more than {tolerance} below the best, {best_accuracy:.2f}"
    if (own := diversity(probabilities)) < 0.25 * best_diversity:
        return f"nearly everything is one class (entropy {own:.2f}), and is not for the best ({best_diversity:.2f})"
    return ""


def fraction_change(one: Tensor, other: Tensor) -> float:
    """Total variation distance of the class fractions, the mean probabilities, of two predictions (N, K).

    Counts of the most probable class would also change where two classes are hard to tell apart.
    """
    return float((one.mean(0) - other.mean(0)).abs().sum()) / 2


def class_ami(target: Outputs, seed: int = 0) -> float:
    """Agreement (adjusted mutual information) of k-means clusters of the target's features with its predicted classes.

    It is a check and no score: near 0 the predicted classes are no clusters of the target.
    """
    predicted = target.logits.argmax(1)
    if len(predicted.unique()) < 2:
        return 0.0  # one class is no clustering, and would agree with collapsed features
    k = min(target.logits.shape[1], len(target.features.unique(dim=0)))  # collapsed features have fewer clusters
    clusters = KMeans(k, n_init=5, random_state=seed).fit_predict(target.features.numpy())
    return float(adjusted_mutual_info_score(predicted.numpy(), clusters))


def candidates(fit: Fit, target: Unlabelled, device: str | torch.device = "auto") -> list[Candidate]:
    """Every checkpoint of a fit with its source-validation and target outputs, in the order of their steps.

    The source-validation subtomograms are warped towards the target where the fit has warps: on plain ones a method
    that learns from the warped source is best early, when the warps are still weak.
    """
    x = target_styled(fit.validation.x, fit.warps, torch.Generator("cpu").manual_seed(0))
    found = []
    for step in sorted(fit.candidates):
        network = fit.restore(step)
        source = outputs(network, x, device=device)
        found.append(Candidate(step, source, fit.validation.y, outputs(network, target.x, device=device)))
    return found


def choose(
    fit: Fit,
    target: Unlabelled,
    *,
    rule: str = "im",
    checked: bool = True,
    fallback: Fit | None = None,
    unaligned: Fit | None = None,
    tolerance: float = 0.03,
    agreement: float = AGREEMENT,
    least_ami: float = LEAST_AMI,
    device: str | torch.device = "auto",
) -> Choice:
    """The valid candidate with the best score, or the fallback where a check warns and the fallback scores better.

    Two checks warn: the best by IM and the best by EnsV agree on the target less than `agreement` times as often as on
    the source-validation subtomograms (in heavy noise two sound checkpoints differ there, too); :func:`class_ami` of
    the chosen one is under `least_ami`. The fallback then takes its place only if its own IM score on the target is
    better; the warning names both scores. `fit.network` holds the weights of the chosen candidate afterwards.

    Parameters
    ----------
    fit : of an adapting method
    target : the subtomograms that `fit` was adapted to
    rule : a name in VALIDATORS
    checked : False selects by the rule alone, without checks and fallback: to compare rules
    fallback : a fit of `source_only` on the same source, used at the step that it has selected
    unaligned : a fit without the adversaries, used where these change the class fractions (last steps) by over MOVED
    tolerance : see :func:`problem`

    Raises
    ------
    TypeError
        the target is not Unlabelled
    InputError
        an unknown rule
    """
    if not isinstance(target, Unlabelled):
        raise TypeError(f"Expected an Unlabelled target, got {type(target).__name__}: selection sees no target label.")
    check_known("a rule", rule, VALIDATORS)
    every, replaced = candidates(fit, target, device), ""
    if checked and unaligned is not None:
        plain = outputs(unaligned.restore(max(unaligned.candidates)), target.x, device=device)
        if (change := fraction_change(every[-1].target.probabilities, plain.probabilities)) > MOVED:
            replaced = f" of {unaligned.method}: adversaries of {fit.method} change the class fractions by {change:.2f}"
            fit, every = unaligned, candidates(unaligned, target, device)
    best_accuracy = max(c.source_accuracy for c in every)
    varied = max(diversity(c.target.probabilities) for c in every)
    problems = [problem(c.target.probabilities, c.source_accuracy, best_accuracy, varied, tolerance) for c in every]
    valid = [c for c, found in zip(every, problems, strict=True) if not (checked and found)]
    valid = valid or every  # the most accurate one may have collapsed, and the others forgotten the source

    def best(name: str) -> Candidate:
        return valid[int(VALIDATORS[name](valid).argmax())]

    chosen, im, ensv = best(rule), best("im"), best("ensv")
    agree = float((im.target.logits.argmax(1) == ensv.target.logits.argmax(1)).float().mean())
    usual = float((im.source.logits.argmax(1) == ensv.source.logits.argmax(1)).float().mean())
    fit.restore(chosen.step)
    ami = class_ami(chosen.target) if checked else float("nan")
    reason = f"the best by {rule!r} of the {len(valid)} valid out of {len(every)} checkpoints{replaced}"
    warnings = []
    if checked and agree < agreement * usual:
        warnings.append(
            f"the best by IM and the best by EnsV agree on {agree:.0%} of the target, "
            f"and on {usual:.0%} of the validation subtomograms"
        )
    if checked and ami < least_ami:
        warnings.append(
            f"the predicted classes are no clusters of the target (ClassAMI {ami:.2f}, under {least_ami:g})"
        )
    votes = consensus(_probabilities(every), _probabilities(valid)).tolist()
    names = ("step", "source_val_acc", "im_score", "ensv_agreement", "problem")
    rows = [(c.step, c.source_accuracy, c.im_score, *rest) for c, *rest in zip(every, votes, problems, strict=True)]
    table = tuple(dict(zip(names, row, strict=True)) for row in rows)
    choice = Choice(fit, chosen.step, reason, "", False, ami, agree, table)
    if not warnings:
        return choice
    why = f"{fit.method} may be wrong here: {'; '.join(warnings)}"
    if fallback is None or not checked:
        return replace(choice, warning=f"{why}. Compare with source_only before you use it.")
    plain = outputs(fallback.restore(fallback.selected), target.x, device=device)
    ours, its = chosen.im_score, float(information_maximisation(plain.probabilities))
    scores = f"IM score {ours:.2f} of {fit.method}, {its:.2f} of {fallback.method}"
    if its <= ours:
        warning = f"{why}. {fit.method} stays, because {fallback.method} scores no better ({scores})."
        return replace(choice, warning=warning)
    warning = f"{why}. The predictions come from {fallback.method} instead ({scores})."
    reason = f"{fallback.method}, the fallback"
    return replace(choice, fit=fallback, step=fallback.selected, reason=reason, warning=warning, fell_back=True)
