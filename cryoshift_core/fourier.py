"""Fourier grids, shells, resampling and the electron-optical formulas that several modules share.

Frequencies are in cycles per voxel unless a name ends in ``_A`` (1/A). Axes are in zyx order. A "half grid" is the
output grid of ``torch.fft.rfftn``, (Z, Y, X // 2 + 1). Functions that create tensors take a device (CPU by default);
the other functions compute on the device of their input.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache

import torch
from torch import Tensor

Device = torch.device | str


@lru_cache(maxsize=64)
def resampling_matrix(n_in: int, pixel_in: float, n_out: int, pixel_out: float, period: float) -> Tensor:
    """Matrix (n_out, n_in) that resamples one axis without aliasing and maps the centre index to the centre index.

    The input samples are treated as a Fourier series of length `period`, zero outside the input. The series is cut at
    the lower of the two Nyquist frequencies and evaluated on the output grid. This is Fourier cropping (or padding) for
    any ratio of voxel sizes.

    Parameters
    ----------
    n_in, n_out : samples of the input and of the output; index n // 2 is the centre
    pixel_in, pixel_out : A per sample
    period : A, at least the extent of the input and of the output

    Returns
    -------
    (n_out, n_in) float32 on the CPU
    """
    x_in = (torch.arange(n_in, dtype=torch.float64, device="cpu") - n_in // 2) * pixel_in
    x_out = (torch.arange(n_out, dtype=torch.float64, device="cpu") - n_out // 2) * pixel_out
    limit = period / (2 * max(pixel_in, pixel_out))
    order = torch.arange(1, int(limit + 1e-6) + 1, dtype=torch.float64, device="cpu")
    weight = torch.where(order > limit - 1e-6, 1.0, 2.0)
    phase = 2 * torch.pi / period * (x_out[:, None] - x_in[None, :])
    kernel = 1 + (weight * torch.cos(phase[..., None] * order)).sum(-1)
    return (kernel * (pixel_in / period)).float()


def wavelength(voltage: float) -> float:
    """Relativistic electron wavelength in A at `voltage` kV (0.0197 A at 300 kV).

    Source: Kirkland, Advanced Computing in Electron Microscopy, 3rd ed. (2020), chapter 2.
    """
    volts = voltage * 1e3
    return 12.2643 / math.sqrt(volts * (1 + 0.978466e-6 * volts))


def ctf(k_A: Tensor, *, defocus: float | Tensor, voltage: float, cs: float, amplitude_contrast: float) -> Tensor:
    """Contrast transfer function for an image in which particles are bright, without envelope; the shape of `k_A`.

    sin(chi + asin(A)) with chi = pi lambda dz k^2 - pi/2 Cs lambda^3 k^4 and dz the underfocus. The value is A at k = 0
    and rises with k when the image is underfocused.

    Parameters
    ----------
    k_A : spatial frequency in 1/A, any shape
    defocus : um, underfocus positive; a tensor must broadcast with `k_A`
    voltage : kV
    cs : spherical aberration, mm
    amplitude_contrast : A, fraction from 0 to 1

    Source: Rohou & Grigorieff 2015, J. Struct. Biol. 192:216 (CTFFIND4).
    """
    lam = wavelength(voltage)
    k2 = k_A.square()
    chi = math.pi * lam * defocus * 1e4 * k2 - 0.5 * math.pi * cs * 1e7 * lam**3 * k2.square()
    return torch.sin(chi + math.asin(amplitude_contrast))


def frequencies(box: Sequence[int], device: Device = "cpu", spacing: float = 1.0) -> tuple[Tensor, ...]:
    """Frequencies along each axis of the half grid of `box`, shaped to broadcast: kz (Z, 1, 1), ky (Y, 1), kx (X',).

    Any number of axes is accepted; the last one has X' = X // 2 + 1 samples. The unit is cycles per unit of `spacing`:
    cycles per voxel for the default of 1, 1/A when `spacing` is the voxel size in A.
    """
    axes = [torch.fft.fftfreq(side, spacing, device=device) for side in box[:-1]]
    axes.append(torch.fft.rfftfreq(box[-1], spacing, device=device))
    return tuple(k.view(-1, *[1] * (len(box) - 1 - axis)) for axis, k in enumerate(axes))


def squared_frequency(box: Sequence[int], device: Device = "cpu", spacing: float = 1.0) -> Tensor:
    """k^2 on the half grid of `box`, (Z, Y, X // 2 + 1), in (cycles per unit of `spacing`)^2."""
    first, *others = frequencies(box, device, spacing)
    total = first**2
    for k in others:
        total = total + k**2
    return total


def frequency_vectors(box: Sequence[int], device: Device = "cpu") -> Tensor:
    """Frequency vector of each sample on the half grid of `box`, (Z, Y, X // 2 + 1, 3), zyx, cycles per voxel."""
    return torch.stack(torch.broadcast_tensors(*frequencies(box, device)), -1)


@lru_cache(maxsize=16)
def half_ball(n: int, device: Device = "cpu") -> tuple[Tensor, Tensor]:
    """Samples of the half grid of an (n, n, n) box inside the sphere |k| < 0.5.

    Returns
    -------
    index : (P,) int64 into the flattened (n, n, n // 2 + 1) half grid
    k : (P, 3) float32, zyx, cycles per voxel
    """
    k = frequency_vectors((n, n, n), device).reshape(-1, 3)
    index = (k.norm(dim=-1) < 0.4999).nonzero()[:, 0]
    return index, k[index].contiguous()


def shells(box: Sequence[int], device: Device = "cpu") -> Tensor:
    """Shell of each sample on the half grid of a cubic `box`, (n, n, n // 2 + 1) int64: |k| in Fourier voxels, rounded.

    Shell s is one Fourier voxel thick and centred at s / n cycles per voxel. Shells beyond n // 2 are in the corners.
    """
    return (squared_frequency(box, device).sqrt() * box[0]).round().long()


def shell_sums(values: Tensor, shell: Tensor) -> Tensor:
    """Sum of `values` over each shell, (S,).

    Parameters
    ----------
    values : any shape
    shell : int64, the same shape, the shell of each value, such as from `shells`; S is its maximum plus 1
    """
    return torch.bincount(shell.flatten(), values.flatten())


def shell_means(values: Tensor, shell: Tensor) -> tuple[Tensor, Tensor]:
    """Mean of `values` over each shell, (S,), and the number of samples in it, (S,) int64; inputs as `shell_sums`."""
    samples = torch.bincount(shell.flatten())
    return shell_sums(values, shell) / samples, samples


def radial_bands(box: Sequence[int], n_bands: int, device: Device = "cpu") -> Tensor:
    """Overlapping triangular windows in |k|, (n_bands, Z, Y, X // 2 + 1); they sum to 1 at each frequency."""
    radius = squared_frequency(box, device).sqrt().clamp_max(0.5) / 0.5 * (n_bands - 1)
    return (1 - (radius - torch.arange(n_bands, device=device).view(-1, 1, 1, 1)).abs()).clamp_min(0)


def power_spectrum(x: Tensor) -> Tensor:
    """Power |rfftn|^2 / voxels of each subtomogram, (N, Z, Y, X // 2 + 1), for x (N, 1, Z, Y, X).

    White noise of variance 1 has an expected power of 1 at each frequency.
    """
    return torch.fft.rfftn(x[:, 0], dim=(1, 2, 3)).abs().square() / x[0].numel()


def gaussian_low_pass(x: Tensor, sigma: float) -> Tensor:
    """`x` (..., Z, Y, X) convolved with a periodic Gaussian of standard deviation `sigma` voxels."""
    box = x.shape[-3:]
    gain = torch.exp(-2 * (torch.pi * sigma) ** 2 * squared_frequency(box, x.device))
    return torch.fft.irfftn(torch.fft.rfftn(x, dim=(-3, -2, -1)) * gain, s=box, dim=(-3, -2, -1))


def to_tilt_frame(zyx: Tensor, tilt_axis: float) -> Tensor:
    """Vectors (..., 3) in zyx, expressed in the frame whose y axis is the tilt axis.

    `tilt_axis` is in degrees from y towards x; a negative value applies the inverse rotation.
    """
    c, s = math.cos(math.radians(tilt_axis)), math.sin(math.radians(tilt_axis))
    return torch.stack([zyx[..., 0], c * zyx[..., 1] + s * zyx[..., 2], c * zyx[..., 2] - s * zyx[..., 1]], -1)


def gridding_correction(n: int, halfwidth: float, device: Device = "cpu") -> Tensor:
    """Attenuation (n,) along one axis caused by linear interpolation in Fourier space: sinc^2(halfwidth * x / n).

    `halfwidth` is half the base of the triangular kernel in Fourier voxels, x the distance from the centre n // 2 in
    voxels. Values are at least 0.05, so that a division by them is stable.
    """
    x = (torch.arange(n, device=device) - n // 2) / n
    return torch.sinc(halfwidth * x).square().clamp_min(0.05)


def full_from_half(half: Tensor) -> Tensor:
    """The full grid (n, n, n) of a mask or an even function that is given on the half grid (n, n, n // 2 + 1)."""
    n = len(half)
    mirrored = (-torch.arange(n, device=half.device)) % n
    return torch.cat([half, half[mirrored][:, mirrored][..., 1 : (n + 1) // 2].flip(-1)], -1)
