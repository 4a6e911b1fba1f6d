"""The missing wedge: its tilt axis and range, estimated from subtomograms."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ..data import ROTATIONS_180
from ..errors import InputError
from ..fourier import frequency_vectors, full_from_half, power_spectrum, to_tilt_frame
from .background import FEWEST

FINEST = 25.0  # A: finer detail is not looked at for the missing wedge


def fourier_voxels(n: int) -> Tensor:
    """(n, n, n // 2 + 1, 3) zyx of an rfftn, in Fourier voxels."""
    return frequency_vectors((n, n, n)) * n


@dataclass(frozen=True)
class Wedge:
    """Tilts that were measured, `low` to `high` degrees about `tilt_axis` (as in `optics.Optics`, -90 to 90)."""

    tilt_axis: float
    low: float
    high: float

    def mask(self, n: int) -> Tensor:
        """Measured samples (n, n, n // 2 + 1): within half a Fourier voxel, for a box of n voxels tells no more."""
        plane, tilt = _tilts(fourier_voxels(n), self.tilt_axis)
        beyond = torch.maximum(tilt - self.high, self.low - tilt)  # degrees past the nearer end of the range
        beyond = torch.minimum(beyond, torch.maximum(tilt + 180 - self.high, self.low - tilt + 180).abs())
        return plane * torch.sin(torch.deg2rad(beyond.clamp(0, 90))) < 0.5


def _tilts(k: Tensor, tilt_axis: float) -> tuple[Tensor, Tensor]:
    """Distance of samples (..., 3) from the tilt axis, and the tilt, -90 to 90 degrees, whose section they lie in."""
    z, _, across = to_tilt_frame(k, tilt_axis).unbind(-1)
    return torch.hypot(z, across), (torch.rad2deg(torch.atan2(z, across)) + 90) % 180 - 90


def fit_wedge(boxes: Tensor, voxel_size: float) -> Wedge | None:
    """Tilt axis and range of one tilt series, from the mean power of the boxes; None where no wedge is missing.

    The power of each sample is compared with the stronger ones of its shell, so that the noise may have any colour and
    the tomogram may have been filtered. Axis and range are those that split the samples into two kinds with the largest
    variance between them (Otsu's criterion), where the measured ones have at least twice the power of the others.
    Detail beyond `FINEST` is left out where enough remains: dose weighting takes the late, high tilts out of it.

    Parameters
    ----------
    boxes : (N, 1, n, n, n), background or particles, N >= 20
    voxel_size : A
    """
    n = boxes.shape[-1]
    if len(boxes) < FEWEST:
        raise InputError(f"{len(boxes)} boxes are too few to see the missing wedge; wanted at least {FEWEST}.")
    line = (torch.arange(n) + 0.5) / n
    taper = torch.sin(torch.pi * line).sqrt()  # the box's faces would spread strong samples along the axes
    window = (taper[:, None, None] * taper[:, None] * taper).to(boxes)
    log = mean_power((boxes - boxes.mean((2, 3, 4), keepdim=True)) * window).cpu().clamp_min(1e-20).log()
    k = fourier_voxels(n)
    radius = k.norm(dim=-1)
    shells = np.arange(3, min(int(0.46 * n), max(12, int(n * voxel_size / FINEST))) + 1)
    usual = np.array([log[radius.round() == r].quantile(0.75) for r in shells])
    outermost = shells[usual > usual.max() - np.log(1e3)].max()  # beyond, a filter has left only rounding
    ball = (radius >= 2.5) & (radius < outermost)
    k, log = k[ball], log[ball].numpy() - np.interp(radius[ball].numpy(), shells, usual)
    log = log.clip(np.log(0.1))  # less is missing all the same: how much less is leakage

    edges = np.arange(-90, 91, 2)
    measured = (edges[:, None] <= -10) & (edges >= 10)  # the range ends on either side of the untilted section
    best, found = 0.0, None
    for axis in range(-90, 90, 2):
        plane, tilt = _tilts(k, axis)
        clear = (plane > n / 6).numpy()  # next to the axis all tilts meet
        counts, total = (
            np.concatenate([[0], np.histogram(tilt.numpy()[clear], edges, weights=w)[0].cumsum()])
            for w in (np.ones(clear.sum()), log[clear])
        )
        inside, power = counts - counts[:, None], total - total[:, None]  # of tilts from edge i to edge j
        outside, rest = counts[-1] - inside, total[-1] - power
        step = power / np.maximum(inside, 1) - rest / np.maximum(outside, 1)
        between = np.where(measured & (outside > 0) & (step > np.log(2)), inside * outside * step**2, 0)
        i, j = np.unravel_index(between.argmax(), between.shape)
        if between[i, j] > best:
            best, found = between[i, j], Wedge(float(axis), float(edges[i]), float(edges[j]))
    return found


def estimate_wedge(boxes: Tensor, voxel_size: float) -> Tensor:
    """Which Fourier samples were measured, (n, n, n // 2 + 1) bool; all where `fit_wedge` finds no missing wedge."""
    n, found = boxes.shape[-1], fit_wedge(boxes, voxel_size)
    return found.mask(n) if found else torch.ones(n, n, n // 2 + 1, dtype=torch.bool)


def mean_power(x: Tensor) -> Tensor:
    return torch.stack([power_spectrum(part).sum(0) for part in x.split(64)]).sum(0) / len(x)


def rotations_that_keep(wedge: Tensor) -> tuple[int, ...]:
    """Turns by 180 degrees that leave the missing wedge where it is: 0 none, 1 about z, 2 about y, 3 about x."""
    full = full_from_half(wedge > 0)
    kept = []
    for turn, flipped in ROTATIONS_180.items():
        axes = [a - 2 for a in flipped]
        moved = full.flip(axes).roll([1] * len(axes), axes) if axes else full
        if float((moved != full).float().mean()) < 0.08:
            kept.append(turn)
    return tuple(kept)
