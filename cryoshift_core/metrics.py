"""Scores against an answer key, with intervals. Notebook 05 and `trials` alone call these with target labels."""

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


def _known(probabilities: Tensor, key: HeldOutLabels | Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Predictions and labels of the cubes that are of one of the classes; the others (-1) have no right answer."""
    y = key.y if isinstance(key, HeldOutLabels) else key
    if probabilities.ndim != 2 or len(probabilities) != len(y):
        raise InputError(f"{tuple(probabilities.shape)} probabilities for {len(y)} answers; wanted (N, K) and (N,).")
    kept = y != UNKNOWN
    if not bool(kept.any()):
        raise InputError("Not one cube of the answer key is of a known class; there is nothing to score.")
    return probabilities[kept].double().numpy(), y[kept].numpy()


def balanced_accuracy(probabilities: Tensor, key: HeldOutLabels | Tensor) -> float:
    """Mean of the recalls of the classes that occur in the key."""
    p, y = _known(probabilities, key)
    return float(np.nanmean(_recall(p, y)))


def macro_f1(probabilities: Tensor, key: HeldOutLabels | Tensor) -> float:
    """Unweighted mean of the classes' F1 scores, over the classes that occur in the key."""
    p, y = _known(probabilities, key)
    return float(metrics.f1_score(y, p.argmax(1), labels=np.unique(y), average="macro", zero_division=0))


def recall(probabilities: Tensor, key: HeldOutLabels | Tensor) -> np.ndarray:
    """Recall of each class, (K,); NaN for a class that does not occur."""
    return _recall(*_known(probabilities, key))


def _recall(p: np.ndarray, y: np.ndarray) -> np.ndarray:
    predicted = p.argmax(1)
    return np.array([(predicted[y == k] == k).mean() if (y == k).any() else np.nan for k in range(p.shape[1])])


def confusion(probabilities: Tensor, key: HeldOutLabels | Tensor) -> np.ndarray:
    """Counts (K, K): rows are true classes, columns predicted ones."""
    p, y = _known(probabilities, key)
    return metrics.confusion_matrix(y, p.argmax(1), labels=np.arange(p.shape[1]))


def nll(probabilities: Tensor, key: HeldOutLabels | Tensor) -> float:
    """Mean negative log-likelihood of the right class, nats."""
    p, y = _known(probabilities, key)
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
        """Expected calibration error: |accuracy - confidence| averaged over cubes, 0 is perfect."""
        filled = self.count > 0
        gap = np.abs(self.accuracy[filled] - self.confidence[filled])
        return float((gap * self.count[filled]).sum() / self.count.sum())


def reliability(probabilities: Tensor, key: HeldOutLabels | Tensor, n_bins: int = 10) -> Reliability:
    """Confidence against accuracy in `n_bins` equal bins of the highest probability."""
    p, y = _known(probabilities, key)
    confidence, right = p.max(1), p.argmax(1) == y
    edges = np.linspace(0, 1, n_bins + 1)
    which = np.clip(np.ceil(confidence * n_bins).astype(int) - 1, 0, n_bins - 1)
    count = np.bincount(which, minlength=n_bins)
    with np.errstate(invalid="ignore"):
        mean_confidence = np.bincount(which, confidence, n_bins) / count
        accuracy = np.bincount(which, right, n_bins) / count
    return Reliability(edges, count, mean_confidence, accuracy)


def ece(probabilities: Tensor, key: HeldOutLabels | Tensor, n_bins: int = 10) -> float:
    """Expected calibration error, see :class:`Reliability`."""
    return reliability(probabilities, key, n_bins).ece


def unknown_recall(answers: Tensor, key: HeldOutLabels) -> tuple[float, float]:
    """Share of the cubes of no class that were rejected, and of the known ones that were; NaN where there are none.

    `answers` (N,) as of `calibration.answers`: -1 for a rejected cube.
    """
    if len(answers) != len(key):
        raise InputError(f"{len(answers)} answers for a key of {len(key)}; wanted one per cube.")
    rejected, unseen = (answers == UNKNOWN).double(), key.y == UNKNOWN
    return float(rejected[unseen].mean()), float(rejected[~unseen].mean())


def scores(probabilities: Tensor, key: HeldOutLabels | Tensor) -> dict[str, float]:
    """The scalars of a report."""
    functions = (balanced_accuracy, macro_f1, ece, nll)
    return {function.__name__: function(probabilities, key) for function in functions}


def a_distance(features_s: Tensor, features_t: Tensor, seed: int = 0) -> float:
    """Proxy A-distance 2 (1 - 2 error) of a linear source-against-target classifier, 5-fold cross-validated.

    0 where the domains cannot be told apart, 2 where they always can (Ben-David et al. 2007). Both sides (N, F) are
    cut to equal numbers, so that guessing has an error of one half; a worse error than that counts as 0.
    """
    n = min(len(features_s), len(features_t))
    if n < 10:
        raise InputError(f"{len(features_s)} source and {len(features_t)} target cubes; wanted at least 10 of each.")
    generator = torch.Generator().manual_seed(seed)
    sides = [f.flatten(1)[torch.randperm(len(f), generator=generator)[:n]] for f in (features_s, features_t)]
    x = torch.cat(sides).double().cpu().numpy()
    domain = np.repeat([0, 1], n)
    judge = make_pipeline(StandardScaler(), LogisticRegression(C=0.1, max_iter=500))
    error = float((cross_val_predict(judge, x, domain, cv=5) != domain).mean())
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
