"""How many subtomograms stay above a confidence, and how pure they are expected to be."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from ..calibration import Calibration
from ..metrics import Interval
from .classifier import Predictions
from .predictions import proportion
from .spike_in import SpikeInScore

CONFIDENCES = (0.0, 0.5, 0.7, 0.8, 0.9, 0.95, 0.99)


@dataclass(frozen=True)
class Cut:
    """The subtomograms with at least `confidence`.

    Attributes
    ----------
    kept : how many, without those of the unknown class
    expected : their mean calibrated confidence, which is the fraction that is right where the calibration holds; NaN
        for none
    spike_ins : fraction of the spike-ins above the same confidence that got their own class, with Wilson's 95 %
        interval; None where there are none. Classes are equally frequent among spike-ins
    """

    confidence: float
    kept: int
    expected: float
    spike_ins: Interval | None


def cuts(
    predictions: Predictions,
    calibration: Calibration,
    spike_in: SpikeInScore | None,
    confidences: Sequence[float] = CONFIDENCES,
) -> list[Cut]:
    """A :class:`Cut` for each of `confidences`.

    Parameters
    ----------
    calibration : of the classifier that made the predictions, for the spike-ins
    spike_in : accuracy of the same classifier; None for none
    """
    known = torch.ones(len(predictions), dtype=torch.bool) if predictions.unknown is None else ~predictions.unknown
    confidence = predictions.confidence[known]
    out = []
    for least in confidences:
        kept, right = confidence[confidence >= least], None
        if spike_in is not None:
            sure = (calibration.probabilities(spike_in.probabilities).amax(1) >= least).numpy()
            right = proportion(int(spike_in.correct[sure].sum()), int(sure.sum())) if sure.any() else None
        out.append(Cut(least, len(kept), float(kept.mean()), right))
    return out


def least_confidence(predictions: Predictions, purity: float) -> float | None:
    """The least confidence of the largest set of most confident subtomograms with this expected purity, or None.

    Parameters
    ----------
    purity : least mean confidence of the set, 0 to 1; subtomograms of the unknown class are in none
    """
    known = torch.ones(len(predictions), dtype=torch.bool) if predictions.unknown is None else ~predictions.unknown
    confidence = predictions.confidence[known].double().sort(descending=True).values
    mean = confidence.cumsum(0) / torch.arange(1, len(confidence) + 1)
    whole = confidence > torch.cat([confidence[1:], torch.tensor([-1.0], dtype=torch.double)])  # none of equals is left
    usable = (whole & (mean >= purity)).nonzero()
    return float(confidence[usable[-1]]) if len(usable) else None


def with_least(least: float | None) -> list[float]:
    """CONFIDENCES and `least`, in order; `least` takes the place of one that is shown with the same three digits."""
    if least is None:
        return list(CONFIDENCES)
    return sorted([least, *(one for one in CONFIDENCES if f"{one:.3f}" != f"{least:.3f}")])


def table(found: Sequence[Cut]) -> str:
    """CSV text, a row per cut: confidence, kept, expected, spike_ins, spike_ins_low, spike_ins_high."""
    with io.StringIO(newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["confidence", "kept", "expected", "spike_ins", "spike_ins_low", "spike_ins_high"])
        for cut in found:
            ends = ("", "", "") if cut.spike_ins is None else (f"{value:.4f}" for value in cut.spike_ins)
            writer.writerow([round(cut.confidence, 4), cut.kept, f"{cut.expected:.4f}" if cut.kept else "", *ends])
        return file.getvalue()
