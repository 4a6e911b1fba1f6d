"""Negative controls: what a classifier says of particles that are none of its classes, and of boxes without a particle.

A sphere, a shell or a heart takes the place of each molecule, with its mass and mean density; what tells it from the
molecule is its shape alone. Mirror images have the molecule's shape and the wrong hand. All are imaged like the
target, each class as often as in it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from .. import metrics, models
from ..application.verdict import FEWEST, Average
from ..calibration import Calibration, UnknownDetector, assign
from ..data import UNKNOWN, HeldOutLabels, Labelled, Unlabelled
from ..models import Network
from ..simulation import datasets, scenarios, structures
from ..simulation.datasets import DatasetConfig
from ..simulation.scenarios import Factor, Scenario

FINE = 4  # samples along the edge of a voxel
INSIDE = 0.3  # of the highest potential: where a molecule begins
HOLLOW = 0.7  # inner radius of a shell, relative to the outer one
DOUBTED = 0.5  # confidence below which a prediction counts as flagged
DRAWS = 200  # random sets of boxes that show what chance gives


def _heart(z: Tensor, y: Tensor, x: Tensor) -> Tensor:
    """Negative inside a heart of about unit radius (Taubin 1994, IEEE Comput. Graph. Appl. 14:14)."""
    return (x**2 + 9 / 4 * y**2 + z**2 - 1) ** 3 - x**2 * z**3 - 9 / 80 * y**2 * z**3


# name -> function of unit coordinates (z, y, x), negative inside the shape
SHAPES: dict[str, Callable[[Tensor, Tensor, Tensor], Tensor]] = {
    "sphere": lambda z, y, x: z**2 + y**2 + x**2 - 1,
    "shell": lambda z, y, x: ((z**2 + y**2 + x**2).sqrt() - (1 + HOLLOW) / 2).abs() - (1 - HOLLOW) / 2,
    "heart": _heart,
}
CONTROLS = (*SHAPES, "mirror")


def shape(volume: Tensor, name: str) -> Tensor:
    """A shape in place of a molecule, with its total and its mean potential; "mirror": its mirror image.

    Parameters
    ----------
    volume : (n, n, n) potential of the molecule, V, centred at n // 2
    name : one of `CONTROLS`
    """
    if name == "mirror":
        return volume.flip(2).roll(1 - volume.shape[2] % 2, 2)  # the centre stays at n // 2
    n, total = volume.shape[0], float(volume.sum())
    level = float(volume[volume > INSIDE * volume.max()].mean())
    at = (torch.arange(n * FINE, dtype=torch.float32) + 0.5) / FINE - 0.5 - n // 2
    z, y, x = torch.meshgrid(at, at, at, indexing="ij")

    def filled(radius: float) -> Tensor:
        inside = (SHAPES[name](z / radius, y / radius, x / radius) < 0).float()
        return F.avg_pool3d(inside[None, None], FINE)[0, 0]

    low, high = 0.1, n / 2.0
    for _ in range(20):  # bisection: the filled volume grows with the radius
        middle = (low + high) / 2
        low, high = (middle, high) if level * float(filled(middle).sum()) < total else (low, middle)
    made = filled(high)
    return (made * (total / made.sum())).to(volume)


def _replace(setting: Scenario, name: str, volume: Tensor, voxel_size: float, generator: torch.Generator) -> Tensor:
    wanted = setting.value("shape", "")
    return shape(volume, wanted) if wanted and name in structures.BUILTIN else volume


def scenario(base: Scenario, name: str) -> Scenario:
    """`base` with a control in place of each molecule, its neighbours too; `name` is one of `CONTROLS`."""
    levels = ({"shape": "sphere"}, {"shape": "shell"}, {"shape": "heart"})
    scenarios.register_factor("shape", Factor(levels, structure=_replace))
    return scenarios.changed(base, name=f"{base.name}_{name}", shape=name)


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


def call(network: Network, calibration: Calibration, detector: UnknownDetector, x: Tensor, device: str) -> Called:
    """What a classifier and its unknown-class detector call the subtomograms x (N, 1, n, n, n)."""
    found = models.outputs(network, x, device=device)
    probabilities = calibration.probabilities(found.probabilities)
    predicted = assign(probabilities, detector.score_features(found.features), detector.thresholds)
    flagged = (predicted == UNKNOWN) | (probabilities.amax(1) < DOUBTED)
    share, doubted = (float(some.float().mean()) for some in (predicted == UNKNOWN, flagged))
    return Called(predicted, probabilities, share, doubted)


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
    network: Network,
    calibration: Calibration,
    detector: UnknownDetector,
    config: DatasetConfig,
    known: Unlabelled,
    background: Tensor,
    source: Labelled,
    *,
    folder: Path | None = None,
    device: str = "cpu",
) -> dict[str, float]:
    """Fractions of each control and of the known particles that are rejected, and rejected or of low confidence.

    Returns
    -------
    known_rejected, known_flagged, {control}_rejected, {control}_flagged : fractions; mirror_accuracy, the balanced
        accuracy of mirror images by the classes of the molecules; and those of :func:`background_likeness`
    """
    called = {"known": call(network, calibration, detector, known.x, device)}
    keys: dict[str, HeldOutLabels] = {}
    for name in CONTROLS:
        made, keys[name] = simulate(config, name, folder)
        called[name] = call(network, calibration, detector, made.x, device)
    found = {f"{name}_rejected": one.rejected for name, one in called.items()}
    found |= {f"{name}_flagged": one.flagged for name, one in called.items()}
    found["mirror_accuracy"] = metrics.balanced_accuracy(called["mirror"].probabilities, keys["mirror"])
    predicted = call(network, calibration, detector, background, device).predicted
    return found | background_likeness(background, predicted, source, config.seed)
