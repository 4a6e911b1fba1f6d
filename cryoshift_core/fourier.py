"""Fourier grids, changes of sampling, and the formulas on them that several wings share.

Frequencies are in cycles per voxel unless a name ends in ``_A`` (1/A); axis order is zyx.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache

import torch
from torch import Tensor


@lru_cache(maxsize=64)
def resampling_matrix(n_in: int, pixel_in: float, n_out: int, pixel_out: float, period: float) -> Tensor:
    """Band-limited change of grid along one axis, centre index onto centre index.

    The samples are taken as the Fourier series of length `period` (A, at least both extents; zero outside the
    input), cut at the coarser of the two Nyquist frequencies, and evaluated on the output grid: the Fourier crop
    (or pad) for any ratio of pixel sizes.

    Returns
    -------
    (n_out, n_in) float32
    """
    x_in = (torch.arange(n_in, dtype=torch.float64) - n_in // 2) * pixel_in
    x_out = (torch.arange(n_out, dtype=torch.float64) - n_out // 2) * pixel_out
    limit = period / (2 * max(pixel_in, pixel_out))
    order = torch.arange(1, int(limit + 1e-6) + 1, dtype=torch.float64)
    weight = torch.where(order > limit - 1e-6, 1.0, 2.0)
    phase = 2 * torch.pi / period * (x_out[:, None] - x_in[None, :])
    kernel = 1 + (weight * torch.cos(phase[..., None] * order)).sum(-1)
    return (kernel * (pixel_in / period)).float()


def wavelength(voltage: float) -> float:
    """Relativistic electron wavelength in A at `voltage` kV (0.0197 A at 300 kV)."""
    volts = voltage * 1e3
    return 12.2643 / math.sqrt(volts * (1 + 0.978466e-6 * volts))


def frequencies(box: Sequence[int], device: torch.device | None = None) -> tuple[Tensor, Tensor, Tensor]:
    """kz (Z, 1, 1), ky (Y, 1) and kx (X // 2 + 1,) of an rfftn of a (Z, Y, X) box, in cycles per voxel."""
    kz, ky = (torch.fft.fftfreq(side, device=device) for side in box[:2])
    return kz[:, None, None], ky[:, None], torch.fft.rfftfreq(box[2], device=device)


@lru_cache(maxsize=16)
def half_ball(n: int) -> tuple[Tensor, Tensor]:
    """Samples of an rfftn of an (n, n, n) box inside the sphere |k| < 0.5.

    Returns
    -------
    index : (P,) int64 into the flattened (n, n, n // 2 + 1) half grid
    k : (P, 3) float32, zyx, cycles per voxel
    """
    k = torch.stack(torch.broadcast_tensors(*frequencies((n, n, n))), -1).reshape(-1, 3)
    index = (k.norm(dim=-1) < 0.4999).nonzero()[:, 0]
    return index, k[index].contiguous()


def to_tilt_frame(zyx: Tensor, tilt_axis: float) -> Tensor:
    """Vectors (..., 3) in zyx as seen from the frame whose y is the tilt axis; -tilt_axis goes back."""
    c, s = math.cos(math.radians(tilt_axis)), math.sin(math.radians(tilt_axis))
    return torch.stack([zyx[..., 0], c * zyx[..., 1] + s * zyx[..., 2], c * zyx[..., 2] - s * zyx[..., 1]], -1)


def gridding_correction(n: int, halfwidth: float, device: torch.device | None = None) -> Tensor:
    """What linear interpolation over `halfwidth` Fourier voxels does to an n-voxel axis: sinc^2(halfwidth * x / n)."""
    x = (torch.arange(n, device=device) - n // 2) / n
    return torch.sinc(halfwidth * x).square().clamp_min(0.05)


def power_spectrum(x: Tensor) -> Tensor:
    """Power |rfftn|^2 / voxels of each cube, (N, Z, Y, X // 2 + 1): 1 everywhere for white noise of variance 1."""
    return torch.fft.rfftn(x[:, 0], dim=(1, 2, 3)).abs().square() / x[0].numel()


def squared_frequency(box: Sequence[int], device: torch.device | None = None) -> Tensor:
    """k^2 (Z, Y, X // 2 + 1) of an rfftn, in (cycles / voxel)^2."""
    kz, ky, kx = frequencies(box, device)
    return kz**2 + ky**2 + kx**2


def radial_bands(box: tuple[int, ...], n_bands: int) -> Tensor:
    """Overlapping triangular windows in |k|, (n_bands, Z, Y, X // 2 + 1); they sum to 1 at each frequency."""
    radius = squared_frequency(box).sqrt().clamp_max(0.5) / 0.5 * (n_bands - 1)
    return (1 - (radius - torch.arange(n_bands).view(-1, 1, 1, 1)).abs()).clamp_min(0)


def full_from_half(half: Tensor) -> Tensor:
    """An rfftn mask (n, n, n // 2 + 1) on all of (n, n, n)."""
    n = len(half)
    rest = (-torch.arange(n)) % n
    return torch.cat([half, half[rest][:, rest][..., 1 : (n + 1) // 2].flip(-1)], -1)
