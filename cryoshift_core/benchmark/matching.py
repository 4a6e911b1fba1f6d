"""Template matching in the benchmark: the same targets, classes and known optics, and nothing trained."""

from __future__ import annotations

import time
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor

from .. import metrics
from ..application.template_matching import Matches, TemplateBank
from ..calibration import apply_temperature, fit_temperature
from ..data import UNKNOWN, HeldOutLabels, Labelled
from ..simulation.controls import CONTROLS
from ..simulation.datasets import DatasetConfig
from ..simulation.optics import Optics
from . import controls

SHARPNESS = 100.0  # of the softmax of correlations before the temperature is fitted


@dataclass(frozen=True, eq=False)
class TemplateClassifier:
    """Template matching with a temperature and limits from spike-ins, as in a report.

    Attributes
    ----------
    bank : of all classes
    spikes : molecules of known class in particle-free boxes of the target
    x : (N, 1, n, n, n) unlabelled subtomograms of the target, which decide what is usual
    """

    bank: TemplateBank
    spikes: Labelled
    x: Tensor

    @classmethod
    def of(
        cls, classes: tuple[str, ...], x: Tensor, spikes: Labelled, optics: Optics, device: str
    ) -> TemplateClassifier:
        """Templates with the transfer function of these optics."""
        return cls(TemplateBank.of(classes, x, optics, device=device), spikes, x)

    @cached_property
    def known(self) -> Matches:
        """Of the spike-ins."""
        return self.bank.match(self.spikes.x)

    @cached_property
    def own(self) -> Matches:
        """Of the unlabelled subtomograms."""
        return self.bank.match(self.x)

    @cached_property
    def temperature(self) -> float:
        """Of the probabilities, fitted on the spike-ins."""
        return fit_temperature(_softmax(self.known), self.spikes.y)

    def probabilities(self, found: Matches) -> Tensor:
        """(N, K) calibrated on spike-ins."""
        return apply_temperature(_softmax(found), self.temperature)

    def strangeness(self, found: Matches) -> Tensor:
        """(N,) above 0 for what is none of the classes."""
        return found.strangeness(self.known, self.spikes.y, self.own)


def _softmax(found: Matches) -> Tensor:
    return (SHARPNESS * found.correlation.nan_to_num(-1.0)).softmax(1)


def scores(classifier: TemplateClassifier, test: Tensor, labels: HeldOutLabels) -> tuple[dict, Tensor]:
    """Columns of a row of evidence.csv, and the probabilities (N, K) of the test subtomograms."""
    began = time.process_time()
    found = classifier.bank.match(test)
    spent = time.process_time() - began
    p = classifier.probabilities(found)
    measured: dict[str, float | str] = {**metrics.scores(p, labels), "cpu_seconds": spent}
    unseen = labels.y == UNKNOWN
    if unseen.any():
        strange = classifier.strangeness(found)
        predicted = torch.where(strange > 0, UNKNOWN, found.labels)
        recall, false_rejection = metrics.unknown_recall(predicted, labels)
        limit = float(strange[~unseen].quantile(0.95))
        measured |= {
            "none_recall": recall,
            "none_false_rejection": false_rejection,
            "none_recall_5": float((strange[unseen] > limit).float().mean()),
            "unseen_called": labels.classes[int(found.labels[unseen].mode().values)],
        }
    return measured, p


def control_scores(
    classifier: TemplateClassifier,
    test: Tensor,
    background: Tensor,
    config: DatasetConfig,
    source: Labelled,
    folder: Path,
) -> dict[str, float]:
    """The columns of `controls.scores`: fractions that are none of the classes, or of low confidence, too."""
    boxes, out = {"known": test}, {}
    for name in CONTROLS:
        made, labels = controls.simulate(config, name, folder)
        boxes[name] = made.x
        if name == "mirror":
            p = classifier.probabilities(classifier.bank.match(made.x))
            out["mirror_accuracy"] = metrics.balanced_accuracy(p, labels)
    for name, x in boxes.items():
        found = classifier.bank.match(x)
        strange, sure = classifier.strangeness(found) > 0, classifier.probabilities(found).amax(1)
        out[f"{name}_rejected"] = float(strange.float().mean())
        out[f"{name}_flagged"] = float((strange | (sure < controls.DOUBTED)).float().mean())
    found = classifier.bank.match(background)
    predicted = torch.where(classifier.strangeness(found) > 0, UNKNOWN, found.labels)
    return out | controls.background_likeness(background, predicted, source, config.seed)
