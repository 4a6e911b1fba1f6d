"""Choosing a checkpoint without a target label: a score, gates that must hold, and an alarm."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from sklearn.cluster import KMeans
from sklearn.metrics import adjusted_mutual_info_score
from torch import Tensor

from .domains import Labelled, Unlabelled
from .losses import information_maximisation
from .models import Classifier
from .training import Fit, predict

__all__ = ["Choice", "choose", "class_ami", "gates", "information_maximisation"]


@dataclass(frozen=True)
class Choice:
    """The step chosen, why, and a plain warning ("" where there is none). `table` holds one row per candidate."""

    step: int
    reason: str
    warning: str
    table: tuple[dict[str, float | str], ...]


def gates(
    probabilities: Tensor, accuracy: float, best_accuracy: float, tolerance: float = 0.03, smallest: float = 0.02
) -> str:
    """ "" where a candidate passes, else what is wrong with it.

    Parameters
    ----------
    probabilities : (N, K) target predictions
    accuracy, best_accuracy : source-validation accuracy of this candidate, and of the best one
    tolerance : how far below the best a candidate may be
    smallest : least share of the target that each class must be predicted for
    """
    if accuracy < best_accuracy - tolerance:
        return f"source-validation accuracy {accuracy:.2f} is more than {tolerance} under the best, {best_accuracy:.2f}"
    shares = torch.bincount(probabilities.argmax(1), minlength=probabilities.shape[1]) / len(probabilities)
    if float(shares.min()) < smallest:
        return f"class {int(shares.argmin())} gets {float(shares.min()):.1%} of the target, under {smallest:.0%}"
    return ""


@torch.no_grad()
def class_ami(model: Classifier, target: Unlabelled, seed: int = 0) -> float:
    """Agreement (adjusted mutual information) of k-means on the target's features with the predictions.

    An alarm, not a score: near 0 the predicted classes are no clusters of the target at all.
    """
    model = model.eval()
    features = torch.cat([model.features(part) for part in target.x.split(64)])
    predicted = model.head(features).argmax(1)
    k = model.classify.out_features
    clusters = KMeans(min(k, len(features)), n_init=5, random_state=seed).fit_predict(features.numpy())
    return float(adjusted_mutual_info_score(predicted.numpy(), clusters))


def choose(fit: Fit, validation: Labelled, target: Unlabelled, tolerance: float = 0.03) -> Choice:
    """The candidate with the highest information-maximisation score among those that pass the gates.

    Where none passes, the last checkpoint is returned with a warning that advises `source_only` instead.
    The model of `fit` holds the chosen weights afterwards.
    """
    if not isinstance(target, Unlabelled):
        raise TypeError(f"choose got a {type(target).__name__}; wanted Unlabelled: no target label may be seen here.")
    rows, probabilities = [], {}
    for step in sorted(fit.candidates):
        model = fit.select(step)
        right = predict(model, validation.x).argmax(1) == validation.y
        probabilities[step] = predict(model, target.x)
        score = float(information_maximisation(probabilities[step]))
        rows.append({"step": step, "source_val_acc": float(right.float().mean()), "im_score": score})
    best = max(row["source_val_acc"] for row in rows)
    for row in rows:
        row["gate"] = gates(probabilities[row["step"]], row["source_val_acc"], best, tolerance)
    passed = [row for row in rows if not row["gate"]]
    last = rows[-1]
    if not passed:
        fit.select(last["step"])
        warning = (
            f"No checkpoint of {fit.method!r} passes the gates (the last one: {last['gate']}); "
            "trust source_only rather than this model."
        )
        return Choice(last["step"], "the last checkpoint, as a fallback", warning, tuple(rows))
    row = max(passed, key=lambda row: row["im_score"])
    fit.select(row["step"])
    reason = f"highest IM score, {row['im_score']:.3f}, of the {len(passed)} of {len(rows)} checkpoints that pass"
    return Choice(row["step"], reason, "", tuple(rows))
