"""The missing wedge: tilt axis and tilt range, estimated from subtomograms."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ..data import ROTATIONS_180
from ..errors import InputError
from ..fourier import frequency_vectors, full_from_half, power_spectrum, to_tilt_frame
from .background import FEWEST

FINEST = 25.0  # A: finer detail is not used to estimate the missing wedge


def fourier_voxels(n: int) -> Tensor:
    """Coordinates (n, n, n // 2 + 1, 3) zyx of the samples of an rfftn, in Fourier voxels."""
    return frequency_vectors((n, n, n)) * n


@dataclass(frozen=True)
class Wedge:
    """The measured tilts.

    Attributes
    ----------
    tilt_axis : degrees from y towards x, as in `optics.Optics`, -90 to 90
    low, high : ends of the tilt range in degrees
    """

    tilt_axis: float
    low: float
    high: float

    def mask(self, n: int) -> Tensor:
        """Measured samples (n, n, n // 2 + 1) bool, to half a Fourier voxel, the resolution of a box of n voxels."""
        plane, tilt = _tilts(fourier_voxels(n), self.tilt_axis)
        beyond = torch.maximum(tilt - self.high, self.low - tilt)  # degrees past the nearer end of the range
        beyond = torch.minimum(beyond, torch.maximum(tilt + 180 - self.high, self.low - tilt + 180).abs())
        return plane * torch.sin(torch.deg2rad(beyond.clamp(0, 90))) < 0.5


def _tilts(k: Tensor, tilt_axis: float) -> tuple[Tensor, Tensor]:
    """Distance of samples (..., 3) from the tilt axis, and the tilt (-90 to 90 degrees) of the section they lie in."""
    z, _, across = to_tilt_frame(k, tilt_axis).unbind(-1)
    return torch.hypot(z, across), (torch.rad2deg(torch.atan2(z, across)) + 90) % 180 - 90


def fit_wedge(boxes: Tensor, voxel_size: float) -> Wedge | None:
    """Tilt axis and range of one tilt series, from the mean power of the boxes; None if no wedge is missing.

    The power of each sample is divided by the 75th percentile of its shell, so that coloured noise and filtering of the
    tomogram have no effect. Axis and range split the samples into two classes with the largest variance between them
    (Otsu's criterion); the measured class must have at least twice the power of the other. Detail finer than `FINEST`
    is left out if enough remains, because dose weighting removes it from the late, high tilts.

    Parameters
    ----------
    boxes : (N, 1, n, n, n), background or particles, N >= 20
    voxel_size : A

    Raises
    ------
    InputError
        Fewer than 20 boxes.
    """
    n = boxes.shape[-1]
    if len(boxes) < FEWEST:
        raise InputError(
            f"Expected at least {FEWEST} boxes to estimate the missing wedge from, got {len(boxes)}; give more boxes, "
            "or choose a smaller box."
        )
    line = (torch.arange(n, device="cpu") + 0.5) / n
    taper = torch.sin(torch.pi * line).sqrt()  # without it, the faces of the box spread power along the axes
    window = (taper[:, None, None] * taper[:, None] * taper).to(boxes)
    log = mean_power((boxes - boxes.mean((2, 3, 4), keepdim=True)) * window).cpu().clamp_min(1e-20).log()
    k = fourier_voxels(n)
    radius = k.norm(dim=-1)
    shells = np.arange(3, min(int(0.46 * n), max(12, int(n * voxel_size / FINEST))) + 1)
    usual = np.array([log[radius.round() == r].quantile(0.75) for r in shells])
    outermost = shells[usual > usual.max() - np.log(1e3)].max()  # beyond it, only rounding errors of a filter remain
    ball = (radius >= 2.5) & (radius < outermost)
    k, log = k[ball], log[ball].numpy() - np.interp(radius[ball].numpy(), shells, usual)
    log = log.clip(np.log(0.1))  # differences below a tenth are spectral leakage

    edges = np.arange(-90, 91, 2)
    measured = (edges[:, None] <= -10) & (edges >= 10)  # the range contains the untilted section
    best, found = 0.0, None
    for axis in range(-90, 90, 2):
        plane, tilt = _tilts(k, axis)
        clear = (plane > n / 6).numpy()  # near the axis, the sections of all tilts meet
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


def measured_samples(wedge: Wedge | None, n: int) -> Tensor:
    """Measured Fourier samples (n, n, n // 2 + 1) bool, on the CPU, of what `fit_wedge` returns; all True for None."""
    return wedge.mask(n) if wedge else torch.ones(n, n, n // 2 + 1, dtype=torch.bool, device="cpu")


def mean_power(x: Tensor) -> Tensor:
    """Mean power spectrum (n, n, n // 2 + 1) of subtomograms (N, 1, n, n, n)."""
    return torch.stack([power_spectrum(part).sum(0) for part in x.split(64)]).sum(0) / len(x)


def rotations_that_keep(wedge: Tensor) -> tuple[int, ...]:
    """Rotations by 180 degrees that map the missing wedge onto itself: 0 none, 1 about z, 2 about y, 3 about x.

    Parameters
    ----------
    wedge : (n, n, n // 2 + 1), positive at the measured samples
    """
    full = full_from_half(wedge > 0)
    kept = []
    for rotation, flipped in ROTATIONS_180.items():
        axes = [a - 2 for a in flipped]
        rotated = full.flip(axes).roll([1] * len(axes), axes) if axes else full
        if float((rotated != full).float().mean()) < 0.08:
            kept.append(rotation)
    return tuple(kept)
