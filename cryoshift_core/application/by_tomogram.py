"""What was found in each of several tomograms: rows of the report, and of tomograms.csv."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from .classifier import Predictions
from .predictions import predicted_fractions, safe_names
from .spike_in import SpikeInScore
from .target_data import TargetData


@dataclass(frozen=True)
class TomogramRow:
    """What was found in one of several tomograms.

    Attributes
    ----------
    name : of the tomogram
    held_out : not adapted to
    n : subtomograms that are classified
    fractions : of each predicted class, (K,)
    confidence : mean
    recall : fraction of the spike-ins in its boxes that got their own class; NaN without spike-ins
    warnings : of this tomogram
    """

    name: str
    held_out: bool
    n: int
    fractions: tuple[float, ...]
    confidence: float
    recall: float
    warnings: tuple[str, ...]


def rows_of(
    target: TargetData,
    predictions: Predictions,
    held_out: Sequence[int],
    spike_in: SpikeInScore | None,
    spiked_in: np.ndarray | None,
) -> list[TomogramRow]:
    """A row for each part of the target; [] for one tomogram.

    Parameters
    ----------
    spike_in : accuracy of the predictions, or None
    spiked_in : (N,) number of the part of each spike-in, or None
    """
    out = []
    for k, part in enumerate(target.parts):
        mine = target.subtomograms.groups == k
        recall = float("nan")
        if spike_in is not None and spiked_in is not None and (spiked_in == k).any():
            recall = float(spike_in.correct[spiked_in == k].mean())
        out.append(
            TomogramRow(
                part.subtomograms.name,
                k in held_out,
                int(mine.sum()),
                tuple(predicted_fractions(predictions.probabilities[mine])),
                float(predictions.confidence[mine].mean()),
                recall,
                tuple(part.of_tomogram),
            )
        )
    return out


def text(rows: Sequence[TomogramRow], classes: Sequence[str]) -> list[str]:
    """A line for each tomogram."""
    lines = []
    for row in rows:
        shares = ", ".join(f"{name} {f:.0%}" for name, f in zip(classes, row.fractions, strict=True))
        recall = "" if math.isnan(row.recall) else f", {row.recall:.2f} of its spike-ins right"
        held = ", held out" if row.held_out else ""
        lines.append(f"{row.name}{held}: {row.n} subtomograms, {shares}; mean confidence {row.confidence:.2f}{recall}")
    return lines


def table(rows: Sequence[TomogramRow], classes: Sequence[str]) -> str:
    """CSV text with a row per tomogram."""
    lines = [",".join(["tomogram", "held_out", "subtomograms", *safe_names(classes), "confidence", "spike_ins"])]
    for row in rows:
        recall = "" if math.isnan(row.recall) else f"{row.recall:.4f}"
        values = [row.name, str(int(row.held_out)), str(row.n), *(f"{f:.4f}" for f in row.fractions)]
        lines.append(",".join([*values, f"{row.confidence:.4f}", recall]))
    return "\n".join(lines) + "\n"
