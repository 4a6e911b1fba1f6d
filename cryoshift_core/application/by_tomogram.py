"""What was found in each of several tomograms: rows of the report, and of tomograms.csv."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from .classifier import Predictions
from .picks import Picks
from .predictions import predicted_fractions, safe_names
from .reference import distance_warnings
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
    shift : how far it is from what a saved model was adapted to, in standard deviations; NaN without a saved model
    picks : class -> number of its picks; {} where positions were given
    """

    name: str
    held_out: bool
    n: int
    fractions: tuple[float, ...]
    confidence: float
    recall: float
    warnings: tuple[str, ...]
    shift: float = math.nan
    picks: Mapping[str, int] = field(default_factory=dict)


def rows_of(
    target: TargetData,
    predictions: Predictions,
    held_out: Sequence[int],
    spike_in: SpikeInScore | None,
    spiked_in: np.ndarray | None,
    listed: Mapping[str, Picks] | None = None,
    reused: bool = False,
) -> list[TomogramRow]:
    """A row for each part of the target; [] for one tomogram.

    Parameters
    ----------
    spike_in : accuracy of the predictions, or None
    spiked_in : (N,) number of the part of each spike-in, or None
    listed : picks of each class; None where positions were given
    reused : by a saved model, so that the distance from what it was adapted to counts
    """
    out = []
    for k, part in enumerate(target.parts):
        mine = target.subtomograms.groups == k
        recall = float("nan")
        if spike_in is not None and spiked_in is not None and (spiked_in == k).any():
            recall = float(spike_in.correct[spiked_in == k].mean())
        shift = predictions.shifts.get(k, predictions.shift) if reused else None
        name = part.subtomograms.name
        far = tuple(distance_warnings(shift, name)) if reused else ()
        out.append(
            TomogramRow(
                name,
                k in held_out,
                int(mine.sum()),
                tuple(predicted_fractions(predictions.probabilities[mine])),
                float(predictions.confidence[mine].mean()),
                recall,
                (*part.of_tomogram, *far),
                math.nan if shift is None else math.sqrt(max(0.0, shift)),
                {label: len(found.of(k)) for label, found in (listed or {}).items()},
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
        found = "".join(f", {n} picks of {name}" for name, n in row.picks.items())
        away = "" if math.isnan(row.shift) else f", {row.shift:.1f} standard deviations from what was adapted to"
        about = f"{row.n} subtomograms, {shares}; mean confidence {row.confidence:.2f}"
        lines.append(f"{row.name}{held}: {about}{recall}{away}{found}")
    return lines


def table(rows: Sequence[TomogramRow], classes: Sequence[str]) -> str:
    """CSV text with a row per tomogram."""
    picked = list(rows[0].picks) if rows else []
    names = dict(zip(classes, safe_names(classes), strict=True))
    head = ["tomogram", "held_out", "subtomograms", *names.values(), "confidence", "spike_ins", "distance"]
    lines = [",".join([*head, *(f"picks_{names[name]}" for name in picked)])]
    for row in rows:
        recall = "" if math.isnan(row.recall) else f"{row.recall:.4f}"
        values = [row.name, str(int(row.held_out)), str(row.n), *(f"{f:.4f}" for f in row.fractions)]
        values += [f"{row.confidence:.4f}", recall, "" if math.isnan(row.shift) else f"{row.shift:.4f}"]
        lines.append(",".join([*values, *(str(row.picks[name]) for name in picked)]))
    return "\n".join(lines) + "\n"
