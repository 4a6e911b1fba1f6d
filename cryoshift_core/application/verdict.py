"""A verdict on predictions, from what needs no label: accuracy on spike-ins, and averages of the predicted classes."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations

import numpy as np
import torch
from torch import Tensor

from ..data import Labelled
from ..fourier import gaussian_low_pass
from .classifier import Predictions
from .predictions import by_class, proportion
from .spike_in import SpikeInScore

USABLE, PARTLY, DO_NOT_USE, NOT_JUDGED = "usable", "usable for some classes", "do not use", "not judged"
LEAST = 0.5  # recall and purity on spike-ins: below it a class is not to be used
ALIKE, MORE_ALIKE = 0.7, 0.7  # averages of two classes: likeness, and how far it may exceed simulated ones (Fisher's z)
NOT_FLAT = 0.5  # structure in the average of a class without a molecule, relative to the strongest class
# Least mean fraction of three training seeds that give a class to those that are called by its name. On the two shipped
# tomograms it is 0.95 to 0.97 for classes that are right (precision 0.94 and 0.95), and 0.79, 0.88 and 0.90 for those
# that are not (precision 0, 0.30 and 0.48). On a simulated target it is 0.98 to 1.00 for five classes that are right,
# and 0.92 and 0.79 for two ribosomes that are taken for each other; see docs/own_data.md. Two classes drawn at random
# agree in 0.75.
SEEDS_AGREE = 0.92
RELIABLE = 0.5  # of an average: below it noise decides
NOISE, NO_CLASS = "noise", "none of them"  # what an average looks like, where it is no class
BACKGROUND = "ice"  # the class without a molecule
IN_AVERAGE, FEWEST = 500, 20  # subtomograms of an average at most, and at least


@dataclass(frozen=True)
class Verdict:
    """Whether predictions are to be used.

    Attributes
    ----------
    level : USABLE, PARTLY, DO_NOT_USE or NOT_JUDGED
    classes : names of the classes that nothing speaks against, without that of the background
    reasons : the weightiest first
    looks_like : class -> the class whose simulated average its own average resembles most, NOISE or NO_CLASS
    """

    level: str
    classes: tuple[str, ...]
    reasons: tuple[str, ...]
    looks_like: Mapping[str, str] = field(default_factory=dict)

    @property
    def head(self) -> str:
        """The level, with the names of the classes where only some are usable."""
        *first, last = self.classes or ("",)
        names = f"{', '.join(first)} and {last}" if first else last
        return f"usable for {names} only" if self.level == PARTLY else self.level

    def __str__(self) -> str:
        """Such as "usable for ribosome_80S only: of spike-ins of ice only 8% are called ice"."""
        return f"{self.head}: {'; '.join(self.reasons)}"


@dataclass(frozen=True, eq=False)
class Average:
    """Mean of subtomograms, smoothed over one voxel, in the sphere that fits the box.

    Attributes
    ----------
    values : (P,)
    power : of the structure, without noise: the covariance of the averages of two halves
    reliability : of `values`, from 0 for noise to 1: 2 r / (1 + r) for a correlation r of the halves (Spearman, Brown)
    """

    values: Tensor
    power: float
    reliability: float

    @classmethod
    def of(cls, x: Tensor) -> Average | None:
        """Of subtomograms (N, 1, n, n, n), the first ones where there are many; None for few."""
        if len(x) < FEWEST:
            return None
        x = x[:IN_AVERAGE]
        r = torch.arange(x.shape[-1]) - x.shape[-1] // 2
        inside = r[:, None, None] ** 2 + r[:, None] ** 2 + r**2 <= (x.shape[-1] // 2 - 1) ** 2
        halves = torch.stack([gaussian_low_pass(part.mean(0), 1.0)[0][inside] for part in (x[::2], x[1::2])])
        (a, between), (_, b) = torch.cov(halves).tolist()
        like = max(0.0, between / math.sqrt(a * b)) if a * b > 0 else 0.0
        return cls(halves.mean(0), max(0.0, between), 2 * like / (1 + like))

    def likeness(self, other: Average) -> float:
        """Correlation with another average, corrected for the noise of both; 0 where noise decides."""
        if min(self.reliability, other.reliability) < RELIABLE:
            return 0.0
        r = float(torch.corrcoef(torch.stack([self.values, other.values]))[0, 1])
        return max(-1.0, min(1.0, r / math.sqrt(self.reliability * other.reliability)))


def judge(
    predictions: Predictions,
    x: Tensor,
    source: Labelled | None = None,
    spike_in: SpikeInScore | None = None,
    *,
    profile: str = "",
    warnings: Sequence[str] = (),
) -> Verdict:
    """The verdict on the predictions for subtomograms x (N, 1, n, n, n).

    Nothing is to be used where spike-ins are classified no better than by guessing, where there is a warning that
    concerns all of them, or after a test run. A class is not to be used where spike-ins of it, or those called by its
    name, are wrong more often than right, where its average looks like that of another class although simulated ones
    do not, where the training seeds disagree on it, or where it stands for background and its average is not flat.
    These alarms are not proofs, and a class without one can still be wrong.

    Parameters
    ----------
    source : simulated subtomograms of the classes; None: likeness is not judged
    spike_in : accuracy of the same classifier; None where there is none
    profile : "smoke" is a test run
    warnings : on all predictions, such as that of the selection
    """
    classes = predictions.classes
    everything = []
    if profile == "smoke":
        everything.append("the smoke profile trains for seconds, to test the installation")
    if spike_in is not None and proportion(int(spike_in.correct.sum()), len(spike_in.correct)).low <= 1 / len(classes):
        everything.append(f"spike-ins are classified no better than by guessing ({spike_in.balanced_accuracy:.2f})")
    everything += [warning.rstrip(".") for warning in warnings]
    groups = by_class(predictions.probabilities, classes, predictions.unknown)
    found = {name: Average.of(x[rows[:IN_AVERAGE]]) for name, rows in groups.items()}
    made = {} if source is None else {name: Average.of(source.x[source.y == k]) for k, name in enumerate(classes)}
    problems = [*_spike_in_problems(spike_in), *_average_problems(found, made), *_seed_problems(predictions, groups)]
    used = [name for name in classes if len(groups[name])]
    good = tuple(name for name in used if name not in {BACKGROUND, *(name for name, _ in problems)})
    reasons = (*everything, *dict.fromkeys(why for name, why in problems if name in used))
    looks = {name: looks_like(name, found, made) for name in used} if made else {}
    if everything or not good:
        return Verdict(DO_NOT_USE, (), reasons, looks)
    if reasons:
        return Verdict(PARTLY, good, reasons, looks)
    if spike_in is None:
        return Verdict(NOT_JUDGED, good, ("no accuracy was estimated on spike-ins",), looks)
    all_right = f"{spike_in} of the spike-ins are called by their name, and no alarm was raised"
    return Verdict(USABLE, good, (all_right,), looks)


def _spike_in_problems(spike_in: SpikeInScore | None) -> list[tuple[str, str]]:
    """(class, reason) for classes that spike-ins speak against."""
    if spike_in is None:
        return []
    out = []
    per_class = spike_in.confusion / np.maximum(1, spike_in.confusion.sum(1, keepdims=True))  # equal classes
    called = per_class.sum(0)
    for k, name in enumerate(spike_in.classes):
        if spike_in.n[k] and spike_in.recall[k] < LEAST:
            out.append((name, f"of spike-ins of {name} only {spike_in.recall[k]:.0%} are called {name}"))
        elif called[k] and (purity := per_class[k, k] / called[k]) < LEAST:
            out.append((name, f"of spike-ins called {name} only {purity:.0%} are {name}"))
    return out


def _seed_problems(predictions: Predictions, groups: Mapping[str, Tensor]) -> list[tuple[str, str]]:
    """(class, reason) for classes on which the training seeds disagree."""
    if predictions.agreement is None:
        return []
    out = []
    for name, rows in groups.items():
        if len(rows) and (agree := float(predictions.agreement[rows].mean())) < SEEDS_AGREE:
            p = predictions.probabilities[rows].mean(0)
            p[predictions.classes.index(name)] = -1
            why = f"the seeds disagree: a subtomogram called {name} is called so by {agree:.0%} of them on average"
            out.append((name, f"{why}, and is next most like {predictions.classes[int(p.argmax())]}"))
    return out


def _average_problems(found: Mapping[str, Average | None], made: Mapping[str, Average | None]) -> list[tuple[str, str]]:
    """(class, reason) for classes that averages of the predicted classes speak against; `made` are simulated ones."""
    out = []
    for one, other in combinations([name for name, average in found.items() if average and made], 2):
        ours, theirs = (_likeness(averages, one, other) for averages in (found, made))
        more = np.subtract(*np.arctanh(np.clip([ours, theirs], -0.99, 0.99)))
        if ours > ALIKE and more > MORE_ALIKE:
            why = (
                f"the averages of {one} and {other} look alike (correlation {ours:.2f}, of simulated ones {theirs:.2f})"
            )
            astray = [name for name in (one, other) if looks_like(name, found, made) not in (NOISE, NO_CLASS, name)]
            out += [(name, why) for name in astray or (one, other)]
    strongest = max((average.power for average in found.values() if average), default=0.0)
    ice = found.get(BACKGROUND)
    if ice and ice.reliability > RELIABLE and (ratio := math.sqrt(ice.power / strongest)) > NOT_FLAT:
        out.append((BACKGROUND, f"the average of {BACKGROUND} is not flat ({ratio:.2f} of the strongest class)"))
    return out


def _likeness(averages: Mapping[str, Average | None], one: str, other: str) -> float:
    a, b = averages[one], averages[other]
    return a.likeness(b) if a and b else 0.0


def looks_like(name: str, found: Mapping[str, Average | None], made: Mapping[str, Average | None]) -> str:
    """The class whose simulated average the average of class `name` resembles most; NOISE, or NO_CLASS, for none."""
    average = found[name]
    if average is None or average.reliability < RELIABLE:
        return NOISE
    likeness = {other: average.likeness(simulated) for other, simulated in made.items() if simulated}
    best = max(likeness, key=likeness.__getitem__, default="")
    return best if best and likeness[best] > 0 else NO_CLASS
