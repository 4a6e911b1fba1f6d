"""Negative controls: what a classifier says of particles that are none of its classes, and of boxes without a particle.

Spheres, shells, hearts and mirror images take the place of each molecule (see
:mod:`cryoshift_core.simulation.controls`). All are imaged like the target, each class as often as in it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from .. import metrics, models
from ..application.verdict import FEWEST, Average
from ..calibration import Calibration, UnknownDetector, assign
from ..data import UNKNOWN, HeldOutLabels, Labelled, Unlabelled
from ..models import Network
from ..simulation import datasets
from ..simulation.controls import CONTROLS, scenario
from ..simulation.datasets import DatasetConfig

DOUBTED = 0.5  # confidence below which a prediction counts as flagged
DRAWS = 200  # random sets of boxes that show what chance gives


def simulate(config: DatasetConfig, name: str, folder: Path | None = None) -> tuple[Unlabelled, HeldOutLabels]:
    """Controls imaged as `config` says; the labels are those of the molecules that they replace."""
    replaced = replace(config, scenario=scenario(config.setting, name))
    made = datasets.simulate_target(replaced, folder=folder, progress=False)
    return made, datasets.load_labels(replaced, folder=folder)


@dataclass(frozen=True)
class Called:
    """What a classifier calls N subtomograms.

    Attributes
    ----------
    predicted : (N,), UNKNOWN where rejected
    probabilities : (N, K), calibrated
    rejected, flagged : fraction rejected; rejected or of low confidence
    """

    predicted: Tensor
    probabilities: Tensor
    rejected: float
    flagged: float


def called(probabilities: Tensor, strange: Tensor) -> Called:
    """What is called of N subtomograms with probabilities (N, K), where those that are `strange` (N,) are rejected."""
    predicted = torch.where(strange, UNKNOWN, probabilities.argmax(1))
    flagged = strange | (probabilities.amax(1) < DOUBTED)
    return Called(predicted, probabilities, *(float(some.float().mean()) for some in (strange, flagged)))


def call(network: Network, calibration: Calibration, detector: UnknownDetector, x: Tensor, device: str) -> Called:
    """What a network and its unknown-class detector call the subtomograms x (N, 1, n, n, n)."""
    found = models.outputs(network, x, device=device)
    probabilities = calibration.probabilities(found.probabilities)
    predicted = assign(probabilities, detector.score_features(found.features), detector.thresholds)
    return called(probabilities, predicted == UNKNOWN)


def background_likeness(boxes: Tensor, predicted: Tensor, source: Labelled, seed: int) -> dict[str, float]:
    """How much the averages of particle-free boxes that were called a class resemble that class.

    A classifier calls what resembles a class, so that the average of pure noise can look like it. Chance: averages of
    as many boxes, drawn at random.

    Parameters
    ----------
    boxes : (N, 1, n, n, n) without a particle
    predicted : (N,)

    Returns
    -------
    background_called : fraction called a class
    background_likeness, background_chance : correlation of an average with that of the simulated class, largest over
        classes with FEWEST boxes or more, and the 95 % quantile of chance for that class; NaN where there is none
    """
    generator = torch.Generator().manual_seed(seed)
    worst = (float("nan"), float("nan"))
    for k in range(len(source.classes)):
        called = predicted == k
        own = Average.of(source.x[source.y == k])
        if int(called.sum()) < FEWEST or own is None:
            continue

        def like(some: Tensor, expected: Tensor = own.values) -> float:
            average = Average.of(some)
            assert average is not None  # FEWEST of the verdict's averages, too
            return float(torch.corrcoef(torch.stack([average.values, expected]))[0, 1])

        found = like(boxes[called])
        order = (torch.randperm(len(boxes), generator=generator) for _ in range(DRAWS))
        drawn = [like(boxes[some[: int(called.sum())]]) for some in order]
        chance = float(torch.tensor(drawn).quantile(0.95))
        if not worst[0] - worst[1] >= found - chance:
            worst = (found, chance)
    share = float((predicted != UNKNOWN).float().mean())
    return {"background_called": share, "background_likeness": worst[0], "background_chance": worst[1]}


def scores(
    classify: Callable[[Tensor], Called],
    config: DatasetConfig,
    known: Unlabelled,
    background: Tensor,
    source: Labelled,
    *,
    folder: Path | None = None,
) -> dict[str, float]:
    """Fractions of each control and of the known particles that are rejected, and rejected or of low confidence.

    Parameters
    ----------
    classify : boxes (N, 1, n, n, n) -> what they are called

    Returns
    -------
    known_rejected, known_flagged, {control}_rejected, {control}_flagged : fractions; mirror_accuracy, the balanced
        accuracy of mirror images by the classes of the molecules; and those of :func:`background_likeness`
    """
    found = {"known": classify(known.x)}
    keys: dict[str, HeldOutLabels] = {}
    for name in CONTROLS:
        made, keys[name] = simulate(config, name, folder)
        found[name] = classify(made.x)
    out = {f"{name}_rejected": one.rejected for name, one in found.items()}
    out |= {f"{name}_flagged": one.flagged for name, one in found.items()}
    out["mirror_accuracy"] = metrics.balanced_accuracy(found["mirror"].probabilities, keys["mirror"])
    return out | background_likeness(background, classify(background).predicted, source, config.seed)
