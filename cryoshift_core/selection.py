"""Choosing a checkpoint without a target label: rules that score, gates that must hold, and alarms."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from sklearn.cluster import KMeans
from sklearn.metrics import adjusted_mutual_info_score
from torch import Tensor

from .data import Labelled, Unlabelled
from .errors import InputError
from .losses import information_maximisation
from .models import Classifier, embed, predict
from .training import Fit
from .warps import target_styled

__all__ = ["RULES", "Choice", "choose", "class_ami", "consensus", "gates", "information_maximisation"]
AGREEMENT = 0.8  # the IM and the EnsV choice must answer alike on the target this often, relative to validation cubes
LEAST_AMI = 0.2  # a trained classifier reaches 0.13 on cubes of white noise, where there are no clusters at all


def consensus(probabilities: Tensor, voters: Tensor | None = None) -> Tensor:
    """Share of the target on which each candidate answers as the ensemble does.

    EnsV (Hu et al. 2024, "Towards reliable model selection for unsupervised domain adaptation", NeurIPS Datasets and
    Benchmarks): the mean of the candidates' probabilities serves as the model to compare with.

    Parameters
    ----------
    probabilities : (M, N, K) target predictions of M candidates
    voters : (V, N, K) those of the ensemble; None: the same

    Returns
    -------
    (M,) in 0 to 1
    """
    ensemble = (probabilities if voters is None else voters).mean(0).argmax(1)
    return (probabilities.argmax(2) == ensemble).float().mean(1)


# Each rule scores candidates from their target predictions (M, N, K), in the order of their steps; the highest wins.
RULES: dict[str, Callable[[Tensor], Tensor]] = {
    "im": lambda p: torch.stack([information_maximisation(q) for q in p]),
    "ensv": consensus,
    "last": lambda p: torch.arange(len(p)).float(),
}


@dataclass(frozen=True)
class Choice:
    """What was chosen, and whether to believe it.

    Attributes
    ----------
    fit, step : whose candidate to use; `fit.model` holds its weights. Where `fell_back`, the fallback and its step
    reason : why, in words
    warning : what speaks against the adapted model, "" where nothing does
    fell_back : True where the fallback took the adapted model's place
    class_ami : see :func:`class_ami`, of the adapted model's candidate; NaN without gates
    agreement : share of the target on which the IM and the EnsV choice answer alike
    table : a row per candidate: step, source_val_acc, im_score, ensv_agreement, gate ("" where it passes)
    """

    fit: Fit
    step: int
    reason: str
    warning: str
    fell_back: bool
    class_ami: float
    agreement: float
    table: tuple[dict[str, float | str], ...]


def gates(
    probabilities: Tensor, accuracy: float, best_accuracy: float, tolerance: float = 0.03, smallest: float | None = None
) -> str:
    """ "" where a candidate passes, else what is wrong with it.

    Parameters
    ----------
    probabilities : (N, K) target predictions
    accuracy, best_accuracy : source-validation accuracy of this candidate, and of the best one
    tolerance : how far below the best a candidate may be
    smallest : least share of the target that each class must be predicted for. None: 2 %, and with more than five
        classes 0.1 / K, because the rarest of 20 classes at 10:1 is truly 1.3 % of the target
    """
    if accuracy < best_accuracy - tolerance:
        return f"source-validation accuracy {accuracy:.2f} is more than {tolerance} under the best, {best_accuracy:.2f}"
    n_classes = probabilities.shape[1]
    smallest = min(0.02, 0.1 / n_classes) if smallest is None else smallest
    shares = torch.bincount(probabilities.argmax(1), minlength=n_classes) / len(probabilities)
    if float(shares.min()) < smallest:
        return f"class {int(shares.argmin())} gets {float(shares.min()):.1%} of the target, under {smallest:.1%}"
    return ""


@torch.no_grad()
def class_ami(model: Classifier, target: Unlabelled, seed: int = 0) -> float:
    """Agreement (adjusted mutual information) of k-means on the target's features with the predictions.

    An alarm, not a score: near 0 the predicted classes are no clusters of the target at all.
    """
    features = embed(model, target.x)
    predicted = model.head(features).argmax(1)
    k = model.classify.out_features
    clusters = KMeans(min(k, len(features)), n_init=5, random_state=seed).fit_predict(features.numpy())
    return float(adjusted_mutual_info_score(predicted.numpy(), clusters))


def choose(
    fit: Fit,
    validation: Labelled,
    target: Unlabelled,
    *,
    rule: str = "im",
    gated: bool = True,
    fallback: Fit | None = None,
    tolerance: float = 0.03,
    agreement: float = AGREEMENT,
    least_ami: float = LEAST_AMI,
) -> Choice:
    """The candidate that `rule` likes best among those that pass the gates, unless something speaks against them all.

    Three things do: no candidate passes; the best by IM and the best by EnsV answer alike on the target less than
    `agreement` times as often as on the validation cubes (in heavy noise two sound checkpoints differ there, too); the
    chosen one's :func:`class_ami` is under `least_ami`. Then `fallback` is chosen with a warning. Without a fallback
    the candidate stays (the last one where none passes), with the same warning. The model of `fit` holds the weights
    of its own candidate afterwards.

    Parameters
    ----------
    fit : trained by an adapting method
    validation : labelled source cubes that were not trained on; where the fit has warps, they are target_styled to the target
        first. On plain ones a method that learns from copies is best before the copies have become hard
    target : the cubes that `fit` adapted to
    rule : a name of RULES
    gated : False takes the rule's word, without gates, alarms and fallback: for comparing rules
    fallback : a fit of `source_only` on the same source, used at the step that it has selected
    tolerance : see :func:`gates`

    Raises
    ------
    TypeError
        where the target is not Unlabelled, or the validation set is not Labelled.
    InputError
        for an unknown rule.
    """
    if not isinstance(target, Unlabelled):
        raise TypeError(f"choose got a {type(target).__name__}; wanted Unlabelled: no target label may be seen here.")
    if not isinstance(validation, Labelled):
        raise TypeError(f"choose got a {type(validation).__name__} to validate on; wanted Labelled source cubes.")
    if rule not in RULES:
        raise InputError(f"rule={rule!r} is unknown; wanted one of {', '.join(RULES)}.")
    steps, known, answers = sorted(fit.candidates), [], []
    x = target_styled(validation.x, fit.warps, torch.Generator().manual_seed(0))
    for step in steps:
        model = fit.restore(step)
        known.append(predict(model, x).argmax(1))
        answers.append(predict(model, target.x))
    accuracies = [float((y == validation.y).float().mean()) for y in known]
    found = [gates(p, accuracy, max(accuracies), tolerance) for p, accuracy in zip(answers, accuracies, strict=True)]
    passed = [i for i, problem in enumerate(found) if not (gated and problem)]
    voters = passed or list(range(len(steps)))
    p = torch.stack(answers)
    best = {name: voters[int(score(p[voters]).argmax())] for name, score in RULES.items()}
    chosen = best[rule if passed else "last"]
    one, other = best["im"], best["ensv"]
    alike = float((p[one].argmax(1) == p[other].argmax(1)).float().mean())
    usual = float((known[one] == known[other]).float().mean())
    model = fit.restore(steps[chosen])
    ami = class_ami(model, target) if gated else float("nan")
    reason = f"the best by {rule!r} of the {len(passed)} of {len(steps)} checkpoints that pass"
    doubts = []
    if not passed:
        reason = "the last checkpoint, for want of a better one"
        doubts.append(f"no checkpoint passes the gates (the last one: {found[-1]})")
    if gated and alike < agreement * usual:
        doubts.append(
            f"the best by IM and the best by EnsV answer alike on {alike:.0%} of the target only, "
            f"and on {usual:.0%} of the validation cubes"
        )
    if gated and ami < least_ami:
        doubts.append(f"the predicted classes are no clusters of the target (ClassAMI {ami:.2f}, under {least_ami:g})")
    columns = zip(steps, accuracies, RULES["im"](p).tolist(), consensus(p, p[voters]).tolist(), found, strict=True)
    names = ("step", "source_val_acc", "im_score", "ensv_agreement", "gate")
    table = tuple(dict(zip(names, row, strict=True)) for row in columns)
    if not doubts:
        return Choice(fit, steps[chosen], reason, "", False, ami, alike, table)
    why = f"{fit.method} is in doubt: {'; '.join(doubts)}"
    if fallback is None:
        warning = f"{why}. Trust source_only rather than this model."
        return Choice(fit, steps[chosen], reason, warning, False, ami, alike, table)
    warning = f"{why}. The answers come from {fallback.method} instead."
    return Choice(fallback, fallback.selected, f"{fallback.method}, as a fallback", warning, True, ami, alike, table)
