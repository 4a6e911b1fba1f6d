"""Scores of predictions against held-out labels, and means with intervals."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from scipy import stats
from sklearn import metrics
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import Tensor

from .data import UNKNOWN, HeldOutLabels
from .errors import InputError

Bounds = tuple[float, float]
UNBOUNDED: Bounds = (-math.inf, math.inf)
FRACTION: Bounds = (0.0, 1.0)  # of accuracies, recalls and other fractions


def _known(probabilities: Tensor, labels: HeldOutLabels | Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities and labels of the subtomograms of a known class; those labelled UNKNOWN are left out."""
    y = labels.y if isinstance(labels, HeldOutLabels) else labels
    if probabilities.ndim != 2 or len(probabilities) != len(y):
        raise InputError(f"Expected probabilities (N, K) for {len(y)} labels, got shape {tuple(probabilities.shape)}.")
    kept = y != UNKNOWN
    if not bool(kept.any()):
        raise InputError("No label is of a known class: there is nothing to score.")
    return probabilities[kept].double().numpy(), y[kept].numpy()


def balanced_accuracy(probabilities: Tensor, labels: HeldOutLabels | Tensor) -> float:
    """Mean recall of the classes that occur among the labels."""
    p, y = _known(probabilities, labels)
    return float(np.nanmean(_recall(p, y)))


def macro_f1(probabilities: Tensor, labels: HeldOutLabels | Tensor) -> float:
    """Unweighted mean of the F1 scores of the classes that occur among the labels."""
    p, y = _known(probabilities, labels)
    return float(metrics.f1_score(y, p.argmax(1), labels=np.unique(y), average="macro", zero_division=0))


def recall(probabilities: Tensor, labels: HeldOutLabels | Tensor) -> np.ndarray:
    """Recall of each class, (K,); NaN for a class that does not occur."""
    return _recall(*_known(probabilities, labels))


def _recall(p: np.ndarray, y: np.ndarray) -> np.ndarray:
    predicted = p.argmax(1)
    return np.array([(predicted[y == k] == k).mean() if (y == k).any() else np.nan for k in range(p.shape[1])])


def confusion(probabilities: Tensor, labels: HeldOutLabels | Tensor) -> np.ndarray:
    """Counts (K, K): rows are true classes, columns predicted ones."""
    p, y = _known(probabilities, labels)
    return metrics.confusion_matrix(y, p.argmax(1), labels=np.arange(p.shape[1]))


def nll(probabilities: Tensor, labels: HeldOutLabels | Tensor) -> float:
    """Mean negative log-likelihood of the true class, nats."""
    p, y = _known(probabilities, labels)
    return float(-np.log(np.clip(p[np.arange(len(y)), y], 1e-12, None)).mean())


@dataclass(frozen=True)
class Reliability:
    """Per bin of confidence: edges (B + 1,), count, mean confidence and accuracy (B,); NaN where a bin is empty."""

    edges: np.ndarray
    count: np.ndarray
    confidence: np.ndarray
    accuracy: np.ndarray

    @property
    def ece(self) -> float:
        """Expected calibration error: mean of |accuracy - confidence|, weighted by the bins' counts; 0 is perfect."""
        filled = self.count > 0
        gap = np.abs(self.accuracy[filled] - self.confidence[filled])
        return float((gap * self.count[filled]).sum() / self.count.sum())


def reliability(probabilities: Tensor, labels: HeldOutLabels | Tensor, n_bins: int = 10) -> Reliability:
    """Accuracy by confidence, in `n_bins` equal bins of the highest probability."""
    p, y = _known(probabilities, labels)
    confidence, right = p.max(1), p.argmax(1) == y
    edges = np.linspace(0, 1, n_bins + 1)
    which = np.clip(np.ceil(confidence * n_bins).astype(int) - 1, 0, n_bins - 1)
    count = np.bincount(which, minlength=n_bins)
    with np.errstate(invalid="ignore"):
        mean_confidence = np.bincount(which, confidence, n_bins) / count
        accuracy = np.bincount(which, right, n_bins) / count
    return Reliability(edges, count, mean_confidence, accuracy)


def ece(probabilities: Tensor, labels: HeldOutLabels | Tensor, n_bins: int = 10) -> float:
    """Expected calibration error, see :class:`Reliability`."""
    return reliability(probabilities, labels, n_bins).ece


def unknown_recall(predicted: Tensor, labels: HeldOutLabels) -> tuple[float, float]:
    """Fractions called unknown: of the subtomograms of no class, and of those of a known class; NaN for none.

    `predicted` (N,) as of `calibration.assign`: -1 for unknown.
    """
    if len(predicted) != len(labels):
        raise InputError(f"Expected a prediction for each of {len(labels)} labels, got {len(predicted)}.")
    rejected, unseen = (predicted == UNKNOWN).double(), labels.y == UNKNOWN
    return float(rejected[unseen].mean()), float(rejected[~unseen].mean())


def scores(probabilities: Tensor, labels: HeldOutLabels | Tensor) -> dict[str, float]:
    """Balanced accuracy, macro F1, ECE and NLL by name."""
    functions = (balanced_accuracy, macro_f1, ece, nll)
    return {function.__name__: function(probabilities, labels) for function in functions}


def a_distance(features_s: Tensor, features_t: Tensor, seed: int = 0) -> float:
    """Proxy A-distance 2 (1 - 2 error) of a linear source-against-target classifier, 5-fold cross-validated.

    0 where the domains cannot be told apart, 2 where they always can (Ben-David et al. 2007). Features (N, F) of both
    sides are cut to equal numbers, so that chance has an error of one half; a larger error counts as 0.
    """
    n = min(len(features_s), len(features_t))
    if n < 10:
        raise InputError(f"Expected at least 10 subtomograms of each domain, got {len(features_s)}, {len(features_t)}.")
    generator = torch.Generator("cpu").manual_seed(seed)
    sides = [
        f.flatten(1)[torch.randperm(len(f), generator=generator, device="cpu")[:n]] for f in (features_s, features_t)
    ]
    x = torch.cat(sides).double().cpu().numpy()
    domain = np.repeat([0, 1], n)
    discriminator = make_pipeline(StandardScaler(), LogisticRegression(C=0.1, max_iter=500))
    error = float((cross_val_predict(discriminator, x, domain, cv=5) != domain).mean())
    return max(0.0, 2 * (1 - 2 * error))


class Interval(NamedTuple):
    """An estimate with the ends of its confidence interval; NaN ends where a single value has none."""

    mean: float
    low: float
    high: float

    def __format__(self, spec: str) -> str:
        """0.71 [0.68, 0.74] with each number in the format `spec`; the mean alone where there is no interval."""
        mean, low, high = (format(value, spec) for value in self)
        return mean if math.isnan(self.low) else f"{mean} [{low}, {high}]"


def interval(values: Sequence[float] | np.ndarray, level: float = 0.95, bounds: Bounds = UNBOUNDED) -> Interval:
    """Mean of independent values, such as one per seed, with its t interval, cut at the `bounds` of the quantity.

    Raises
    ------
    InputError
        no values, or one that is not finite or out of bounds.
    """
    v = np.asarray(values, dtype=float)
    if v.ndim != 1 or not len(v) or not np.isfinite(v).all():
        raise InputError(f"values={values!r}; expected at least one finite number, one per seed.")
    if v.min() < bounds[0] or v.max() > bounds[1]:
        raise InputError(
            f"values span {v.min():g} to {v.max():g}; expected them within {bounds[0]:g} and {bounds[1]:g}."
        )
    mean = float(v.mean())
    if len(v) == 1:
        return Interval(mean, math.nan, math.nan)
    half = float(stats.t.ppf(0.5 + level / 2, len(v) - 1) * v.std(ddof=1) / np.sqrt(len(v)))
    return Interval(mean, max(bounds[0], mean - half), min(bounds[1], mean + half))
