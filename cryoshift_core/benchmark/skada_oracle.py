"""skada (scikit-adaptation) as an outside opinion: its estimators on our features, and its scores without labels.

:func:`estimates` fits shallow methods of domain adaptation to the features of one of our networks, in place of its
linear head: what is gained is then due to the adaptation, and not to another network. :func:`scores` gives a network
with its own head, or one of those estimators, the scores by which skada selects models without target labels.

skada is optional: ``pip install -c constraints.txt -e '.[skada]'``.
"""

from __future__ import annotations

import importlib.util
import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.linear_model import LogisticRegression
from torch import Tensor

from ..errors import InputError
from ..models import Network

METHODS = ("plain", "coral", "subspace", "linear_ot", "ot", "density", "discriminator")
SCORES = ("prediction_entropy", "soft_neighbourhood", "importance_weighted", "deep_embedded")
SOURCE, TARGET = 1, -2  # skada tells domains by the sign


@dataclass(frozen=True, eq=False)
class Features:
    """Features (N, F) of source subtomograms with their classes (N,), and (M, F) of target ones, which have none."""

    source: Tensor
    source_y: Tensor
    target: Tensor

    @property
    def joined(self) -> dict[str, Any]:
        """Arguments X, y and sample_domain as skada takes them: -1 stands for the classes of the target."""
        parts = self.source.double().numpy(), self.target.double().numpy()
        sizes = [len(part) for part in parts]
        return {
            "X": np.concatenate(parts),
            "y": np.concatenate([self.source_y.numpy(), np.full(sizes[1], -1)]),
            "sample_domain": np.repeat([SOURCE, TARGET], sizes),
        }


class _Head(ClassifierMixin, BaseEstimator):
    """The linear head of one of our networks as an estimator of scikit-learn; fitting it changes nothing.

    Parameters
    ----------
    weight, bias : (K, F) and (K,)
    """

    def __init__(self, weight: np.ndarray, bias: np.ndarray):
        self.weight, self.bias = weight, bias

    def fit(self, X: np.ndarray, y: np.ndarray) -> _Head:
        """The head itself."""
        self.classes_ = np.arange(len(self.bias))
        return self

    def predict_log_proba(self, X: np.ndarray) -> np.ndarray:
        """Logarithms of the class probabilities (N, K) of features (N, F)."""
        logits = X @ self.weight.T + self.bias
        shifted = logits - logits.max(1, keepdims=True)
        return shifted - np.log(np.exp(shifted).sum(1, keepdims=True))

    def predict_proba(self, X: np.ndarray) -> np.ndarray:
        """Class probabilities (N, K) of features (N, F)."""
        return np.exp(self.predict_log_proba(X))

    def predict(self, X: np.ndarray) -> np.ndarray:
        """Most probable class (N,) of features (N, F)."""
        return self.predict_log_proba(X).argmax(1)


def head(network: Network) -> BaseEstimator:
    """The linear head of a network as an estimator of scikit-learn; fitting it changes nothing."""
    return _Head(*(p.detach().cpu().double().numpy() for p in (network.classify.weight, network.classify.bias)))


def check_installed() -> None:
    """InputError where skada is missing."""
    if importlib.util.find_spec("skada") is None:
        raise InputError("Expected skada to be installed: pip install -c constraints.txt -e '.[skada]'.")


def estimates(features: Features) -> dict[str, Any]:
    """skada's estimators, a name out of METHODS -> pipeline of an adapter and a logistic regression, fitted.

    "plain" has no adapter. Their target is `features.target`; use :func:`probabilities` for predictions.
    """
    check_installed()
    with _quiet():
        import skada

        width = min(16, features.source.shape[1])
        adapters: dict[str, tuple[Any, ...]] = {
            "plain": (),
            "coral": (skada.CORALAdapter(),),
            "subspace": (skada.SubspaceAlignmentAdapter(n_components=width),),
            "linear_ot": (skada.LinearOTMappingAdapter(reg=1e-3),),
            "ot": (skada.OTMappingAdapter(),),
            "density": (skada.DensityReweightAdapter(),),
            "discriminator": (skada.DiscriminatorReweightAdapter(),),
        }
        regression = LogisticRegression(max_iter=1000).set_fit_request(sample_weight=True)
        regression = regression.set_score_request(sample_weight=True)
        return {name: skada.make_da_pipeline(*adapters[name], regression).fit(**features.joined) for name in METHODS}


def probabilities(estimator: Any, features: Tensor, *, source: bool = False) -> np.ndarray:
    """Class probabilities (N, K) by one of :func:`estimates`, of target features (N, F), or of source features."""
    with _quiet():
        given = {"sample_domain": np.full(len(features), SOURCE if source else TARGET), "allow_source": source}
        return estimator.predict_proba(features.double().numpy(), **given)


def scores(model: Any, features: Features, seed: int = 0) -> dict[str, float]:
    """skada's scores of a model without target labels, a name out of SCORES -> number, the higher the better.

    Parameters
    ----------
    model : one of :func:`estimates`, or of :func:`head`
    features : of labelled source subtomograms that the network has not trained on, and of the target
    seed : of the division of the source for deep embedded validation
    """
    check_installed()
    with _quiet():
        import skada
        from skada import metrics

        if isinstance(model, _Head):
            model = skada.make_da_pipeline(model.set_score_request(sample_weight=True)).fit(**features.joined)
        every = {
            "prediction_entropy": metrics.PredictionEntropyScorer(),
            "soft_neighbourhood": metrics.SoftNeighborhoodDensity(),
            "importance_weighted": metrics.ImportanceWeightedScorer(),
            "deep_embedded": metrics.DeepEmbeddedValidation(random_state=seed),
        }
        given = features.joined
        x, y = given.pop("X"), given.pop("y")
        return {name: float(every[name](model, x, y, **given)) for name in SCORES}


def _quiet() -> warnings.catch_warnings:
    """skada and POT warn of versions to come and of each missing optional package."""
    return warnings.catch_warnings(action="ignore")
