"""Calibrated confidence and an unknown class, both without a target label.

Everything here is fitted on labelled source subtomograms that were not trained on, warped towards the target: they
resemble the target, and their labels are known.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
import torch
from scipy.optimize import minimize_scalar
from sklearn.covariance import LedoitWolf
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import Tensor

from .data import UNKNOWN, Labelled, Unlabelled
from .errors import InputError
from .models import Network, embed, outputs, predict
from .support.modes import class_thresholds
from .warps import Warps, target_styled

FALSE_REJECTION = 0.03
UNLIKE_KNOWN = 2.0  # standard deviations of known subtomograms above their mean: from here an outlier logit counts


def _check(name: str, *source: Labelled | None, target: Unlabelled | None = None) -> None:
    for given, kind in ((target, Unlabelled), *((each, Labelled) for each in source)):
        if given is not None and not isinstance(given, kind):
            raise TypeError(f"{name} expected {kind.__name__} subtomograms, got {type(given).__name__}: no labels.")


def apply_temperature(probabilities: Tensor, temperature: float) -> Tensor:
    """Probabilities (N, K) at another temperature: less confident above 1; the most probable class stays the same."""
    return (probabilities.clamp_min(1e-30).log() / temperature).softmax(1)


def fit_temperature(probabilities: Tensor, y: Tensor) -> float:
    """The temperature, 0.05 to 20, that makes labels y (N,) most likely under p (N, K) (Guo et al. 2017)."""
    if len(probabilities) != len(y) or not len(y):
        raise InputError(f"Expected a label for each prediction, and at least one, got {len(probabilities)}, {len(y)}.")
    p, rows = probabilities.double(), torch.arange(len(y), device=y.device)

    def nll(log_t: float) -> float:
        return float(-apply_temperature(p, math.exp(log_t))[rows, y].clamp_min(1e-30).log().mean())

    return math.exp(minimize_scalar(nll, bounds=(math.log(0.05), math.log(20)), method="bounded").x)


@dataclass(frozen=True)
class Calibration:
    """`temperature`, above 1 where the network was overconfident, fitted on `n` subtomograms."""

    temperature: float
    n: int

    def probabilities(self, predicted: Tensor) -> Tensor:
        """Calibrated probabilities (N, K) of those of `models.predict`."""
        return apply_temperature(predicted, self.temperature)


def calibrate(
    network: Network,
    validation: Labelled,
    warps: Warps | None,
    generator: torch.Generator,
    device: str | torch.device = "auto",
) -> Calibration:
    """The temperature fitted on validation subtomograms warped towards the target.

    Where the target is harder than the warped source, the network stays overconfident. Without warps the temperature is
    1: on the plain source a network is right so often that a fit would make it more confident still.

    Raises
    ------
    TypeError
        `validation` is not Labelled
    """
    _check("calibrate", validation)
    if warps is None:
        return Calibration(1.0, 0)
    predicted = predict(network, target_styled(validation.x, warps, generator), device=device)
    return Calibration(fit_temperature(predicted, validation.y), len(validation))


def outlier_logit(known: np.ndarray, outliers: np.ndarray) -> np.ndarray:
    """Weights and bias (F + 1,) of a logistic regression; its logit is positive for features like those of outliers."""
    model = make_pipeline(StandardScaler(), LogisticRegression(C=0.1, max_iter=3000, class_weight="balanced"))
    model.fit(np.concatenate([known, outliers]), np.repeat([0, 1], [len(known), len(outliers)]))
    weight = model[1].coef_[0] / model[0].scale_
    return np.append(weight, model[1].intercept_ - weight @ model[0].mean_)


@dataclass(frozen=True, eq=False)
class UnknownDetector:
    """Out-of-distribution detector: subtomograms with a score above the threshold belong to no class.

    The score is the log of the Mahalanobis distance to the nearest class in feature space (Lee et al. 2018), plus the
    excess of the :func:`outlier_logit` over `UNLIKE_KNOWN` where there are outliers, each standardised on known
    subtomograms: a molecule that is no class resembles ice and membranes less than many a known particle does.

    Attributes
    ----------
    means, precision : (K, F) of the classes, and (F, F) shared by them (Ledoit-Wolf)
    outlier : (F + 1,), of :func:`outlier_logit`; None for none
    centre, spread : (1,) or (2,), of distance and logit on known subtomograms
    threshold, thresholds : of known simulated subtomograms; (K,), above that of its most probable class one is unknown
    """

    means: np.ndarray
    precision: np.ndarray
    outlier: np.ndarray | None
    centre: np.ndarray
    spread: np.ndarray
    threshold: float
    thresholds: np.ndarray

    @classmethod
    def fit(
        cls,
        network: Network,
        known: Labelled,
        outliers: Labelled | None,
        warps: Warps | None,
        generator: torch.Generator,
        target: Unlabelled | None = None,
        false_rejection: float = FALSE_REJECTION,
        device: str | torch.device = "auto",
    ) -> UnknownDetector:
        """A detector fitted on every other subtomogram of `known`; the rest sets the threshold.

        The scores of `target` set the threshold of each class that is frequent there: see `modes.class_thresholds`.

        Parameters
        ----------
        known : source subtomograms that were not trained on, e.g. the validation set
        outliers : source subtomograms of other things, such as molecules of other families; their labels do not matter
        warps, generator : warp both towards the target
        target : unlabelled subtomograms; None: all classes have the threshold of simulated ones
        false_rejection : fraction of known subtomograms above the threshold

        Raises
        ------
        TypeError
            a source that is not Labelled, or a target that is not Unlabelled
        InputError
            a class has fewer than two subtomograms in the first half, or `false_rejection` is not within 0 and 1
        """
        _check("UnknownDetector.fit", known, outliers, target=target)
        if not 0 < false_rejection < 1:
            raise InputError(f"Expected false_rejection between 0 and 1, such as 0.05, got {false_rejection}.")

        def features(x: Tensor) -> np.ndarray:
            return embed(network, target_styled(x, warps, generator), device=device).double().numpy()

        f, y = features(known.x), known.y.numpy()
        order = np.argsort(y, kind="stable")  # each class gives every other subtomogram
        one, other = order[::2], order[1::2]
        counts = np.bincount(y[one], minlength=len(known.classes))
        if counts.min() < 2:
            few = f"{int((y == counts.argmin()).sum())} of {known.classes[counts.argmin()]!r}"
            more = "use more source subtomograms, or pass a larger validation set to fit"
            raise InputError(f"Expected at least 4 known subtomograms of each class, got {few}: {more}.")
        means = np.stack([f[one][y[one] == k].mean(0) for k in range(len(known.classes))])
        precision = LedoitWolf().fit(f[one] - means[y[one]]).precision_
        outlier = None if outliers is None else outlier_logit(f[one], features(outliers.x))
        raw = _evidence(f[one], means, precision, outlier)
        centre, spread = raw.mean(0), raw.std(0) + 1e-12
        blank = cls(means, precision, outlier, centre, spread, 0.0, np.zeros(len(means)))
        scores = blank.score_features(torch.from_numpy(f[other])).double().numpy()
        threshold = float(np.quantile(scores, 1 - false_rejection))
        detector = replace(blank, threshold=threshold, thresholds=np.full(len(means), threshold))
        if target is not None:
            found = outputs(network, target.x, device=device)
            own, likely = detector.score_features(found.features).numpy(), found.logits.argmax(1).numpy()
            limits = class_thresholds(detector.thresholds, scores, y[other], own, likely, false_rejection)
            detector = replace(detector, thresholds=limits)
        return detector

    def score(self, network: Network, x: Tensor, device: str | torch.device = "auto") -> Tensor:
        """Out-of-distribution score (N,) of target subtomograms (N, 1, Z, Y, X), which are not warped."""
        return self.score_features(embed(network, x, device=device))

    def score_features(self, features: Tensor) -> Tensor:
        """Out-of-distribution score (N,) of features (N, F)."""
        raw = _evidence(features.double().numpy(), self.means, self.precision, self.outlier)
        standard = (raw - self.centre) / self.spread
        return torch.from_numpy(standard[:, 0] + np.maximum(standard[:, 1:] - UNLIKE_KNOWN, 0.0).sum(1)).float()


def _evidence(f: np.ndarray, means: np.ndarray, precision: np.ndarray, outlier: np.ndarray | None) -> np.ndarray:
    """Log distance of features (N, F) to the nearest class, and the outlier logit where there is one: (N, 1 or 2)."""
    away = f[:, None] - means
    distance = np.einsum("nkf,fg,nkg->nk", away, precision, away, optimize=True).min(1)
    logit = [] if outlier is None else [f @ outlier[:-1] + outlier[-1]]
    return np.stack([np.log(distance + 1e-12), *logit], 1)


def assign(probabilities: Tensor, scores: Tensor, thresholds: float | np.ndarray) -> Tensor:
    """Most probable class (N,) of each subtomogram, UNKNOWN (-1) where its score exceeds that class's threshold."""
    if len(probabilities) != len(scores):
        raise InputError(f"Expected a score for each prediction, got {len(probabilities)} and {len(scores)}.")
    likely = probabilities.argmax(1)
    limit = torch.from_numpy(np.broadcast_to(thresholds, probabilities.shape[1:]).copy())[likely]
    return torch.where(scores > limit, UNKNOWN, likely)
