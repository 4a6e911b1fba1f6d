"""Template matching in the benchmark: a classifier that is calibrated on spike-ins, and trains nothing."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from torch import Tensor

from ..application.template_matching import Matches, TemplateBank
from ..calibration import apply_temperature, fit_temperature
from ..data import Labelled
from .controls import Called, called

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

    @cached_property
    def _known(self) -> Matches:
        return self.bank.match(self.spikes.x)

    @cached_property
    def _limits(self) -> Tensor:
        return self._known.limits(self.spikes.y, self.bank.match(self.x))

    @cached_property
    def _temperature(self) -> float:
        return fit_temperature(_softmax(self._known), self.spikes.y)

    def probabilities(self, found: Matches) -> Tensor:
        """(N, K) calibrated on spike-ins."""
        return apply_temperature(_softmax(found), self._temperature)

    def strangeness(self, found: Matches) -> Tensor:
        """(N,) above 0 for what is none of the classes."""
        return found.strangeness(self._limits)

    def call(self, x: Tensor) -> Called:
        """What subtomograms (N, 1, n, n, n) are called."""
        found = self.bank.match(x)
        return called(self.probabilities(found), self.strangeness(found) > 0)


def _softmax(found: Matches) -> Tensor:
    return (SHARPNESS * found.correlation.nan_to_num(-1.0)).softmax(1)
