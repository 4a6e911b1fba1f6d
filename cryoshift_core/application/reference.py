"""How far new subtomograms are from those that a classifier was adapted to, in its feature space."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from sklearn.covariance import LedoitWolf
from torch import Tensor

FEWEST = 10  # subtomograms of a class, for a mean to compare
FURTHER = 1.0  # squared standard deviations between the means of a class, from which on a tomogram is another kind


@dataclass(frozen=True, eq=False)
class TargetReference:
    """The target that a classifier was adapted to: where its predicted classes lie in feature space.

    Attributes
    ----------
    means : (K, F), of the features of each predicted class
    counts : (K,), subtomograms of each
    precision : (F, F), shared by the classes (Ledoit-Wolf)
    """

    means: np.ndarray
    counts: np.ndarray
    precision: np.ndarray

    @classmethod
    def fit(cls, features: Tensor, labels: Tensor, n_classes: int) -> TargetReference:
        """The reference of features (N, F) with predicted classes (N,)."""
        f, y = features.double().numpy(), labels.numpy()
        means, counts = _class_means(f, y, n_classes)
        return cls(means, counts, LedoitWolf(assume_centered=True).fit(f - means[y]).precision_)

    def shift(self, features: Tensor, labels: Tensor) -> float:
        """Squared Mahalanobis distance between the means of a class in other subtomograms and in the reference.

        It is the mean over classes, weighted by their numbers, less what two samples of one distribution differ by:
        its expectation F / n and three standard deviations. Class fractions have no influence on it. NaN where no class
        has ten subtomograms in both.

        Parameters
        ----------
        features, labels : (N, F), and (N,) predicted classes
        """
        f, y = features.double().numpy(), labels.numpy()
        means, counts = _class_means(f, y, len(self.means))
        used = (counts >= FEWEST) & (self.counts >= FEWEST)
        if not used.any():
            return math.nan
        away, n = (means - self.means)[used], f.shape[1]
        distance = np.einsum("kf,fg,kg->k", away, self.precision, away)
        by_chance = (n + 3 * math.sqrt(2 * n)) * (1 / counts[used] + 1 / self.counts[used])
        return float(np.average(distance - by_chance, weights=counts[used]))


def _class_means(f: np.ndarray, y: np.ndarray, n_classes: int) -> tuple[np.ndarray, np.ndarray]:
    """Means (K, F) of features (N, F) of each class y (N,), 0 for an absent one, and numbers (K,)."""
    counts = np.bincount(y, minlength=n_classes)
    total = np.zeros((n_classes, f.shape[1]))
    np.add.at(total, y, f)
    return total / np.maximum(counts, 1)[:, None], counts


def distance_warnings(shift: float | None, name: str) -> list[str]:
    """A sentence where the subtomograms of `name` are further away than those that the model was adapted to.

    Parameters
    ----------
    shift : of :meth:`TargetReference.shift`, or None for a model without a reference
    """
    if shift is None:
        return [
            f"The model does not hold what it was adapted to, so how far {name} is from that is not known: run "
            "classify without model to adapt to it."
        ]
    if not shift > FURTHER:
        return []
    return [
        f"{name} is further away than a tomogram of the kind that the model was adapted to: the features of its "
        f"classes lie {math.sqrt(shift):.1f} standard deviations apart. Re-adapt: run classify on {name} without model."
    ]
