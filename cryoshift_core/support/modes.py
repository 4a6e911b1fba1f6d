"""One mode or two: where a sample of numbers falls into a lower and an upper part."""

from __future__ import annotations

import numpy as np
from sklearn.mixture import GaussianMixture

STRONG, APART = 6.0, 2.0  # difference of BIC, and Ashman's D, above which there are two modes
UPPER = 0.75  # largest fraction of the upper mode
STRANGE = 0.8  # probability of the upper mode from which a score counts as unknown


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
