"""Several training seeds: their mean prediction, how far they agree, and its accuracy on spike-ins."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch

from ..data import Labelled
from . import spike_in
from .classifier import Classifier, Predictions
from .spike_in import SpikeInScore


def average(found: Sequence[Predictions]) -> Predictions:
    """The mean of the probabilities of several seeds, with the `agreement` of the seeds on each subtomogram.

    A subtomogram is of the unknown class where more than half of the seeds say so. One prediction is returned as it is.
    """
    if len(found) == 1:
        return found[0]
    each = torch.stack([one.probabilities for one in found])
    mean = each.mean(0)
    agreement = (each.argmax(2) == mean.argmax(1)).float().mean(0)
    marks = [one.unknown for one in found if one.unknown is not None]
    scores = [one.score for one in found if one.score is not None]
    shifts = [one.shift for one in found if one.shift is not None]
    return Predictions(
        found[0].classes,
        mean,
        torch.stack(scores).mean(0) if scores else None,
        torch.stack(marks).float().mean(0) > 0.5 if marks else None,
        float(np.mean(shifts)) if shifts else None,
        agreement,
    )


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
