"""Several training seeds: the network nearest to their mean, and the accuracy of the mean on spike-ins."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import torch

from ..data import Labelled
from . import spike_in
from .classifier import Classifier, Predictions, average
from .spike_in import SpikeInScore


def joined(classifiers: Sequence[Classifier], found: Sequence[Predictions]) -> Classifier:
    """The classifiers of all seeds as one; the first is that which agrees most with the mean of what they `found`.

    A saved one, which can have members already, stays as it is.
    """
    if len(classifiers) == 1:
        return classifiers[0]
    first = nearest(found, average(found))
    others = (one for k, one in enumerate(classifiers) if k != first)
    return replace(classifiers[first], members=tuple(others))


def nearest(found: Sequence[Predictions], mean: Predictions) -> int:
    """Number of the seed that gives most subtomograms the class of the mean; the first of equals."""
    same = [float((one.probabilities.argmax(1) == mean.probabilities.argmax(1)).float().mean()) for one in found]
    return int(np.argmax(same))


def scores(
    each: Sequence[Mapping[str, SpikeInScore]], classifiers: Sequence[Classifier], used: str, spikes: Labelled
) -> dict[str, SpikeInScore]:
    """Method -> accuracy of the mean over seeds on spike-ins; that of `used` is the one of the mean prediction.

    The accuracy at the pessimistic picking error is the mean over seeds.

    Parameters
    ----------
    each : the scores of each seed
    classifiers : that of each seed; their methods may differ
    """
    if len(each) == 1:
        return dict(each[0])
    out = {}
    for name in each[0]:
        parts = [one[name] for one in each]
        mean = torch.stack([part.probabilities for part in parts]).mean(0)
        out[name] = spike_in.score(mean, spikes, float(np.mean([part.far for part in parts])))
    parts = [one[c.recipe["method"]] for one, c in zip(each, classifiers, strict=True)]
    calibrated = [c.calibration.probabilities(part.probabilities) for c, part in zip(classifiers, parts, strict=True)]
    far = float(np.mean([part.far for part in parts]))
    out[used] = spike_in.score(torch.stack(calibrated).mean(0), spikes, far)
    return out
