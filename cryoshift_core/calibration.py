"""How far to believe an answer: confidences made honest, and "none of these", both without a target label.

Everything here is fitted on labelled source cubes that were not trained on, target_styled to the target by the warps of the
fit: they look like target cubes, and their labels are free.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from scipy.optimize import minimize_scalar
from sklearn.covariance import LedoitWolf
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import Tensor

from .data import UNKNOWN, Labelled
from .errors import InputError
from .models import Classifier, embed, predict
from .warps import Warps, target_styled

OUTLIERS = ("subunit_30S", "subunit_40S", "subunit_60S", "ice", "membrane")
FALSE_REJECTION = 0.05


def _check(known: Labelled, name: str) -> None:
    if not isinstance(known, Labelled):
        raise TypeError(f"{name} got a {type(known).__name__}; wanted Labelled source cubes: no target label is used.")


def calibrated(probabilities: Tensor, temperature: float) -> Tensor:
    """Probabilities (N, K) at another temperature; above 1 they become less sure, and the best class stays the best."""
    return (probabilities.clamp_min(1e-30).log() / temperature).softmax(1)


def temperature(probabilities: Tensor, y: Tensor) -> float:
    """The temperature, 0.05 to 20, that makes labels y (N,) most likely under p (N, K) (Guo et al. 2017)."""
    if len(probabilities) != len(y) or not len(y):
        raise InputError(f"{len(probabilities)} predictions for {len(y)} labels; wanted as many, and at least one.")
    p, rows = probabilities.double(), torch.arange(len(y))

    def nll(log_t: float) -> float:
        return float(-calibrated(p, math.exp(log_t))[rows, y].clamp_min(1e-30).log().mean())

    return math.exp(minimize_scalar(nll, bounds=(math.log(0.05), math.log(20)), method="bounded").x)


@dataclass(frozen=True)
class Calibration:
    """`temperature` above 1 where the model was too sure of itself; `n` cubes told it."""

    temperature: float
    n: int

    def probabilities(self, predicted: Tensor) -> Tensor:
        """What `models.predict` gave, (N, K), with honest confidences."""
        return calibrated(predicted, self.temperature)


def calibrate(model: Classifier, validation: Labelled, warps: Warps | None, generator: torch.Generator) -> Calibration:
    """Fit the temperature on validation cubes target_styled to the target; TypeError for anything but Labelled source.

    It corrects what is wrong with the confidence on cubes like these. Where the target is harder than its imitation,
    the model stays too sure. Without warps nothing looks like the target, and the confidence is left as it is: on plain
    source cubes a model is right so often that a fit would make it surer still.
    """
    _check(validation, "calibrate")
    if warps is None:
        return Calibration(1.0, 0)
    predicted = predict(model, target_styled(validation.x, warps, generator))
    return Calibration(temperature(predicted, validation.y), len(validation))


def outliers(classes: tuple[str, ...]) -> tuple[str, ...]:
    """Built-in things to simulate that are none of `classes`; never the molecule that scenarios keep as unseen."""
    return tuple(name for name in OUTLIERS if name not in classes)


def _features(model: Classifier, x: Tensor) -> np.ndarray:
    return embed(model, x).double().numpy()


@dataclass(frozen=True)
class UnknownDetector:
    """Tells cubes that are none of the classes: the higher the score, the stranger the cube.

    The score is the log of the Mahalanobis distance to the nearest class in feature space (Lee et al. 2018), plus,
    where there are outliers, the logit of a logistic regression "known against decoy" on the same features. Each is
    standardised on known cubes. The distance finds what no decoy resembles, the logit what outliers resemble.

    Attributes
    ----------
    means, precision : (K, F) of the classes, and (F, F) shared by them (Ledoit-Wolf)
    judge : the logistic regression, or None
    centre, spread : (1,) or (2,), of distance and logit on known cubes
    threshold : above it a cube is rejected
    """

    means: np.ndarray
    precision: np.ndarray
    judge: Pipeline | None
    centre: np.ndarray
    spread: np.ndarray
    threshold: float

    @classmethod
    def fit(
        cls,
        model: Classifier,
        known: Labelled,
        outliers: Labelled | None,
        warps: Warps | None,
        generator: torch.Generator,
        false_rejection: float = FALSE_REJECTION,
    ) -> UnknownDetector:
        """Learn from every other cube of `known`; the rest sets the threshold.

        Parameters
        ----------
        known : source cubes of the classes that the model was not trained on, e.g. the validation set
        outliers : source cubes of other things, see :func:`outliers`; their labels do not matter
        warps, generator : to carry both to the target
        false_rejection : share of known cubes above the threshold

        Raises
        ------
        TypeError
            for anything but Labelled source cubes.
        InputError
            where a class has fewer than two cubes in either half, or `false_rejection` is no share.
        """
        _check(known, "UnknownDetector.fit")
        if outliers is not None:
            _check(outliers, "UnknownDetector.fit")
        if not 0 < false_rejection < 1:
            raise InputError(f"false_rejection={false_rejection}; wanted a share between 0 and 1, such as 0.05.")
        f, y = _features(model, target_styled(known.x, warps, generator)), known.y.numpy()
        order = np.argsort(y, kind="stable")  # so that each class gives every other cube
        one, other = order[::2], order[1::2]
        counts = np.bincount(y[one], minlength=len(known.classes))
        if counts.min() < 2:
            raise InputError(f"Class {known.classes[counts.argmin()]!r} has under 3 known cubes; wanted more of it.")
        means = np.stack([f[one][y[one] == k].mean(0) for k in range(len(known.classes))])
        precision = LedoitWolf().fit(f[one] - means[y[one]]).precision_
        judge = None
        if outliers is not None:
            strange = _features(model, target_styled(outliers.x, warps, generator))
            judge = make_pipeline(
                StandardScaler(), LogisticRegression(C=0.1, max_iter=3000, class_weight="balanced")
            ).fit(np.concatenate([f[one], strange]), np.repeat([0, 1], [len(one), len(strange)]))
        raw = _evidence(f[one], means, precision, judge)
        centre, spread = raw.mean(0), raw.std(0) + 1e-12
        told = ((_evidence(f[other], means, precision, judge) - centre) / spread).sum(1)
        return cls(means, precision, judge, centre, spread, float(np.quantile(told, 1 - false_rejection)))

    def score(self, model: Classifier, x: Tensor) -> Tensor:
        """Strangeness (N,) of target cubes (N, 1, Z, Y, X), which are not warped."""
        raw = _evidence(_features(model, x), self.means, self.precision, self.judge)
        return torch.from_numpy(((raw - self.centre) / self.spread).sum(1)).float()


def _evidence(f: np.ndarray, means: np.ndarray, precision: np.ndarray, judge: Pipeline | None) -> np.ndarray:
    """Features (N, F) -> log distance to the nearest class, and the logit where there is a judge: (N, 1 or 2)."""
    away = f[:, None] - means
    distance = np.einsum("nkf,fg,nkg->nk", away, precision, away, optimize=True).min(1)
    columns = [np.log(distance + 1e-12)]
    if judge is not None:
        columns.append(judge.decision_function(f))
    return np.stack(columns, 1)


def answers(probabilities: Tensor, scores: Tensor, threshold: float) -> Tensor:
    """The likeliest class (N,) of each cube, UNKNOWN (-1) where its score is above the threshold."""
    if len(probabilities) != len(scores):
        raise InputError(f"{len(probabilities)} predictions and {len(scores)} scores; wanted one of each per cube.")
    return torch.where(scores > threshold, UNKNOWN, probabilities.argmax(1))
