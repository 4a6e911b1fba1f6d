"""Background for spike-ins out of extracted subtomograms alone: their rims, and noise in place of their particles."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from .. import data
from ..data import Unlabelled
from ..errors import InputError
from ..simulation import structures
from ..tomography.background import FEWEST
from ..tomography.wedge import fit_wedge, measured_samples

EDGE = 4.0  # voxels over which noise takes the place of a particle; a sharp edge would fill the missing wedge
AROUND = 1.5  # voxels beside the largest particle that are replaced, too, because positions are off
WARNING = (
    "Spike-ins were put into boxes made of the rims of your own ones, with noise of the same spectrum in place of the "
    "particle, because no particle-free boxes came. What stands close to particles is missing there: take the accuracy "
    "as an upper end, or give background."
)


def background(target: Unlabelled, classes: Sequence[str], n: int, generator: torch.Generator) -> Tensor:
    """At most n boxes (M, 1, b, b, b) with the rims of subtomograms, and noise in a ball as wide as the largest class.

    The noise is Gaussian and has the power of the rims at each frequency that was measured. It replaces the
    particle with a soft edge, at which the two are mixed with constant variance. Normalised as the target.

    Parameters
    ----------
    target : subtomograms that hold a particle in the middle
    classes : names or files, of which one at least has a diameter

    Raises
    ------
    InputError
        fewer than 20 subtomograms, constant rims, no class with a diameter, or boxes that are hardly wider than the
        largest class
    """
    b = target.x.shape[-1]
    widest = max(classes, key=structures.diameter)
    radius = structures.diameter(widest) / target.voxel_size / 2 + AROUND
    if not structures.diameter(widest):
        raise InputError(
            f"Expected a class with a diameter, whose particle the rims leave out, got {', '.join(classes)}: give a "
            "stack of particle-free boxes as background, or the tomogram."
        )
    if radius + EDGE > b / 2:
        raise InputError(
            f"Expected boxes of at least {2 * math.ceil(radius + EDGE)} voxels of {target.voxel_size:.4g} A, to take "
            f"noise from beside '{widest}', got {b}: extract larger boxes, or give a stack of particle-free boxes as "
            "background."
        )
    if len(target) < FEWEST:
        raise InputError(f"Expected at least {FEWEST} subtomograms to take noise from, got {len(target)}: give more.")
    x = target.x[torch.randperm(len(target), generator=generator)[:n].to(target.x.device)]
    r = torch.arange(b, device=x.device) - b // 2
    distance = (r[:, None, None] ** 2 + r[:, None] ** 2 + r**2).sqrt()
    inside = 0.5 + 0.5 * torch.cos(torch.pi * ((distance - radius) / EDGE).clamp(0, 1))  # 1 in the ball, 0 in the rim
    rim = 1 - inside
    if not (rim * (x - x.mean())).abs().amax() > 0:
        raise InputError("Expected noise in the rims of the subtomograms, got constant values: give background.")
    level = (rim * x).sum((2, 3, 4), keepdim=True) / rim.sum()
    power = torch.fft.rfftn(rim * (x - level), dim=(2, 3, 4)).abs().square().mean(0, keepdim=True) / rim.square().sum()
    power = power * measured_samples(fit_wedge(target.x, target.voxel_size), b).to(power)
    white = torch.randn(x.shape, generator=generator).to(x.device)
    noise = torch.fft.irfftn(torch.fft.rfftn(white, dim=(2, 3, 4)) * power.sqrt(), s=(b,) * 3, dim=(2, 3, 4))
    return data.normalize(rim.sqrt() * (x - level) + inside.sqrt() * noise)
