"""One mode or two: where a sample of numbers falls into a lower and an upper part."""

from __future__ import annotations

import numpy as np
from sklearn.mixture import GaussianMixture

STRONG, APART = 6.0, 2.0  # difference of BIC, and Ashman's D, above which there are two modes
UPPER = 0.75  # largest fraction of the upper mode
STRANGE = 0.8  # probability of the upper mode from which a score counts as unknown
FEWEST = 20  # subtomograms of a class, known and in the target, that set its threshold


def valley(scores: np.ndarray) -> float | None:
    """Score between the two modes of scores (N,); None where there is one, or hardly anything in the lower one.

    There are two where the BIC of a mixture of two normal distributions is lower by `STRONG` (Kass & Raftery 1995,
    JASA 90:773) and its means are further apart than `APART` times the root mean square of their standard deviations
    (Ashman et al. 1994, AJ 108:2348). At the score that is returned, the upper mode has the probability `STRANGE`.
    """
    x = scores[:, None]
    one, two = GaussianMixture(1).fit(x), GaussianMixture(2, n_init=3, random_state=0).fit(x)
    (low, high), deviations = np.sort(two.means_[:, 0]), np.sqrt(two.covariances_[:, 0, 0])
    upper = int(two.means_[:, 0].argmax())
    apart = (high - low) / np.sqrt(np.mean(deviations**2))
    if one.bic(x) - two.bic(x) <= STRONG or apart <= APART or two.weights_[upper] >= UPPER:
        return None
    between = np.linspace(low, high, 1001)
    return float(between[np.argmax(two.predict_proba(between[:, None])[:, upper] > STRANGE)])


def class_thresholds(
    limits: np.ndarray, known: np.ndarray, y: np.ndarray, target: np.ndarray, called: np.ndarray, false_rejection: float
) -> np.ndarray:
    """Score of each class (K,) above which a subtomogram that is called this class belongs to no class.

    Subtomograms of a class can differ from known ones as a whole, which says nothing about single ones. So the scores
    of the target set the threshold of each class that is frequent there: between two modes (one in ten of all can be
    half of those called one class), otherwise as far above their median, in units of the distance from it down to the
    first quarter, as with known subtomograms of the class.

    Parameters
    ----------
    limits : (K,) of classes that are not frequent
    known, y : (M,) scores and classes of known subtomograms
    target, called : (N,) scores and most probable classes of the target's
    false_rejection : fraction of known subtomograms above the threshold
    """
    out = limits.copy()
    for k in range(len(limits)):
        own, of_class = target[called == k], known[y == k]
        if len(own) >= FEWEST and 2 * len(of_class) >= FEWEST:
            low, median, high = np.quantile(of_class, (0.25, 0.5, 1 - false_rejection))
            quarter, middle = np.quantile(own, (0.25, 0.5))
            usual = middle + (high - median) / (median - low + 1e-12) * (middle - quarter)
            out[k] = usual if (between := valley(own)) is None else between
    return out
