"""Specimens to subtomograms, by two independent simulations with one signature.

`image_by_tilt_series` projects, images and reconstructs each specimen tilt by tilt. `image_by_transfer` multiplies the
specimen's Fourier transform by the transfer function of the whole tilt series, which is about ten times faster. Both
agree with a tilt series that is projected and back-projected in real space (tests/simulation/test_against_real_space).
They return subtomograms in relative contrast per voxel (particles bright) with the realised SNR. All work is done on
the device of the generator.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor

from .. import fourier
from ..data import crop
from ..errors import InputError
from ..fourier import gridding_correction
from .optics import (
    Optics,
    angular_step,
    field_size,
    noise_colour,
    ramp,
    reconstruction_filter,
    shot_noise,
    structural_amplitude,
    tilt_amplitude,
    transfer,
)
from .specimens import Specimens, Templates, transform

CHUNK = 4  # subtomograms per pass, an even number; their transforms fit in the processor's cache
SHAPE = 9.0  # of the Kaiser-Bessel window of half-width 2 for a grid of twice the box; Beatty 2005, eq. 5


@dataclass(frozen=True, eq=False)
class Imaged:
    """Simulated subtomograms before normalisation.

    Attributes
    ----------
    x : (N, 1, n, n, n) float32, relative contrast per voxel, particles bright
    snr : (N,) float32, realised var(signal) / var(noise) in the box; inf where no noise was added
    """

    x: Tensor
    snr: Tensor


def gather(bank: Templates, one: Specimens, slot: int, k: Tensor) -> Tensor:
    """Fourier transform of the particle in `slot` at the frequencies k, (N, P) complex64; 0 where the slot is empty.

    Parameters
    ----------
    bank : templates on the device of k
    one : N specimens
    k : (P, 3), zyx, cycles per voxel
    """
    size = 2 * bank.box
    which = one.template[:, slot]
    # grid_sample takes xyz in [-1, 1] with k = 0 at index size // 2. Scaling and flipping the 3x3 matrix is cheaper
    # than scaling and flipping every point.
    to_grid = one.rotation[:, slot].flip(-1) * (2.0 * size / (size - 1) * one.scale)
    zero = (2.0 * (size // 2) - (size - 1)) / (size - 1)
    rows = k.T.contiguous()  # products with long contiguous rows are faster
    points = (to_grid.transpose(1, 2).contiguous() @ rows).add_(zero).transpose(1, 2)  # (N, P, 3)
    out = k.new_zeros(len(one), points.shape[1], dtype=torch.complex64)
    for t in which.unique().tolist():
        if t < 0:
            continue
        here = (which == t).nonzero()[:, 0]
        part = points if len(here) == len(one) else points[here]
        volume = bank.transforms[t].expand(len(here), -1, -1, -1, -1)
        value = F.grid_sample(volume, part[:, None, None], align_corners=True)[:, :, 0, 0]
        value = torch.complex(value[:, 0], value[:, 1])
        out = value if len(here) == len(one) else out.index_copy(0, here, value)
    phase = (one.shift[:, slot] * (-2 * math.pi)) @ rows
    return out * torch.polar(torch.ones_like(phase), phase)


def _noise_for_snr(signal_power: Tensor, noise_power: Tensor, snr: float | Tensor | None) -> Tensor:
    """Factor on the noise that makes signal / noise equal `snr`; 1 when `snr` is None or there is no signal."""
    if snr is None:
        return torch.ones_like(signal_power)
    requested = torch.as_tensor(snr, device=signal_power.device, dtype=signal_power.dtype)
    factor = (signal_power / (requested * noise_power).clamp_min(1e-30)).sqrt()
    return torch.where(signal_power > 0, factor, torch.ones_like(factor))


def _per_subtomogram(snr: float | Tensor | None, part: slice | Tensor) -> float | Tensor | None:
    return snr[part] if isinstance(snr, Tensor) and snr.ndim else snr


def image_by_transfer(
    specimen: Specimens,
    bank: Templates,
    optics: Optics,
    *,
    generator: torch.Generator,
    snr: float | Tensor | None = None,
    noise: bool = True,
) -> Imaged:
    """Subtomograms of `specimen`, simulated with the transfer function of the whole tilt series.

    Parameters
    ----------
    specimen : N specimens; a field of `optics.field_size` is imaged and then cropped to the box
    bank : templates on the generator's device
    optics : tilt series that all specimens share; its voxel size must be that of `bank`
    generator : draws the noise; its device does the work
    snr : SNR, one value or (N,), that replaces the noise level of the dose; the result holds the realised SNR
    noise : False returns noise-free subtomograms, with an SNR of inf

    Returns
    -------
    Imaged, on the generator's device

    Raises
    ------
    InputError
        The voxel sizes of `bank` and `optics` differ.
    """
    _check(bank, optics)
    device, n = generator.device, bank.box
    size = field_size(n)
    response, noisy, sigma = (t.to(device) for t in _field(optics, size))
    # A compact particle is sampled for the box and padded with zeros to the field, which is faster than to sample it
    # for the field. Neighbours and membranes fill the field.
    compact = specimen.template.shape[1] == 1 and "membrane" not in bank.names
    side = n if compact else size
    k, index = fourier.half_ball(side)[1].to(device), _grid_index(side).to(device)
    if compact:
        factor = torch.ones_like(k[:, 0])
    else:
        factor = response.flatten()[index[0]]
        measured = factor != 0  # skips the third of the half ball that lies in the missing wedge
        k, index, factor = k[measured], index[:, measured], factor[measured]
    factor = factor * torch.polar(torch.ones_like(factor), -2 * math.pi * (side // 2) * k.sum(-1))

    def image(coefficients: Tensor) -> Tensor:  # (N, P) at k -> (N, n, n, n)
        pairs = _pairs(coefficients * factor, index, side)
        if compact:
            spectrum = torch.fft.fftn(pairs, s=(size,) * 3, dim=(1, 2, 3)).mul_(response)
            pairs = torch.fft.ifftn(spectrum, dim=(1, 2, 3))[:, :n, :n, :n]
        volume = _separate(crop(pairs, n), len(coefficients))
        empty = (coefficients[:, :16] == 0).all(1)  # the first 16 of a molecule are never all 0
        return volume.masked_fill_(empty[:, None, None, None], 0.0)  # not the rounding errors of the other of its pair

    noise_grid = torch.zeros(CHUNK // 2, size**3, dtype=torch.complex64, device=device)
    x = torch.empty(len(specimen), 1, n, n, n, device=device)
    realised = torch.full((len(specimen),), math.inf, device=device)
    by_class = specimen.template[:, 0].argsort(stable=True)  # one gather per chunk instead of one per class
    for part in by_class.split(CHUNK):
        one = specimen[part]
        volume = image(gather(bank, one, 0, k))
        power = _variance(volume)
        if one.template.shape[1] > 1:
            volume += image(_neighbours(bank, one, k))
        if noise:
            draw = torch.randn((len(one) + 1) // 2, len(noisy), 2, generator=generator, device=device)
            grid = noise_grid[: len(draw)].index_copy_(1, noisy, torch.view_as_complex(draw).mul_(sigma))
            pairs = torch.fft.ifftn(grid.reshape(-1, size, size, size), dim=(1, 2, 3))
            noise_volume = _separate(crop(pairs, n), len(one))
            noise_power = _variance(noise_volume)
            level = _noise_for_snr(power, noise_power, _per_subtomogram(snr, part))
            volume.addcmul_(noise_volume, level[:, None, None, None])
            realised[part] = power / (noise_power * level.square()).clamp_min(1e-30)
        x[part, 0] = volume
    return Imaged(x, realised)


@lru_cache(maxsize=16)
def _grid_index(size: int) -> Tensor:
    """Positions of k and -k of `fourier.half_ball` in the flattened (size, size, size) Fourier grid, (2, P), CPU."""
    k = fourier.half_ball(size)[1]
    z, y, x = torch.stack([k, -k]).mul(size).round().long().remainder(size).unbind(-1)
    return (z * size + y) * size + x


@lru_cache(maxsize=32)
def _field(optics: Optics, size: int) -> tuple[Tensor, Tensor, Tensor]:
    """`optics.transfer` on the grid of a whole field, on the CPU.

    Returns
    -------
    response : (size, size, size) float32
    noisy : (M,) int64, positions in the flattened grid whose noise is not 0
    sigma : (M,) float32, standard deviation of the complex noise coefficient there
    """
    index = _grid_index(size)
    H, S = (torch.zeros(size**3, device="cpu").index_put_((index,), t) for t in transfer(optics, size))
    noisy = S.nonzero()[:, 0]
    return H.reshape(size, size, size), noisy, S[noisy]


def _pairs(coefficients: Tensor, index: Tensor, size: int) -> Tensor:
    """Real volumes from their Fourier coefficients, two in each complex volume: (ceil(N / 2), size, size, size).

    The real parts are the first half of the volumes, the imaginary parts the second half. This is two to three times
    faster than transforms of real volumes.

    Parameters
    ----------
    coefficients : (N, P) complex, at one of each k and -k
    index : (2, P) positions of k and of -k in the flattened grid
    """
    half = (len(coefficients) + 1) // 2
    first, second = coefficients[:half], coefficients[half:]
    if len(second) < half:
        second = F.pad(second, (0, 0, 0, 1))
    grid = coefficients.new_zeros(half, size**3)
    grid.index_copy_(1, index[1], first.sub(second, alpha=1j).conj().resolve_conj())
    grid.index_copy_(1, index[0], first.add(second, alpha=1j))
    return torch.fft.ifftn(grid.reshape(half, size, size, size), dim=(1, 2, 3))


def _separate(pairs: Tensor, count: int) -> Tensor:
    """The `count` real volumes in the real and imaginary parts of `pairs`."""
    return torch.cat([pairs.real, pairs.imag])[:count]


def _variance(volumes: Tensor) -> Tensor:
    """Variance of each of N volumes (N, ...), (N,)."""
    flat = volumes.flatten(1)  # vector_norm is several times faster than Tensor.var
    return torch.linalg.vector_norm(flat, dim=1).square() / flat.shape[1] - flat.mean(1).square()


def _neighbours(bank: Templates, one: Specimens, k: Tensor) -> Tensor:
    """Sum of the Fourier transforms of all neighbours at the frequencies k, (N, P) complex64."""
    total = gather(bank, one, 1, k)
    for slot in range(2, one.template.shape[1]):
        total = total + gather(bank, one, slot, k)
    return total


def _kaiser_bessel(distance: Tensor) -> Tensor:
    """Kaiser-Bessel window of half-width 2 at `distance` Fourier voxels; any shape.

    Noise fills the whole field. A triangle folds three percent of its power from outside into the box, this window a
    millionth. Source: Jackson et al. 1991, IEEE Trans. Med. Imaging 10:473.
    """
    inside = (1 - (distance / 2).square()).clamp_min(0)
    return torch.i0(SHAPE * inside.sqrt()) * (inside > 0)


def _insertion_envelope(size: int, device: torch.device) -> Tensor:
    """Transform (size,) of `_kaiser_bessel`: what inserted samples are multiplied by along each axis in real space."""
    x = (torch.arange(size, device=device) - size // 2) / size
    root = (SHAPE**2 - (4 * math.pi * x).square()).sqrt()
    return 4 * torch.sinh(root) / root


@lru_cache(maxsize=32)
def _insertion(tilts: tuple[float, ...], n: int) -> tuple[Tensor, Tensor]:
    """Matrix that inserts slices into the (kz, kx) plane of a 2n grid; it is the same for each ky (the tilt axis is y).

    The weights are Kaiser-Bessel windows of half-width 2; `_insertion_envelope` is their effect in real space.

    Returns
    -------
    matrix : sparse (2n * (n + 1), T * (n + 1 + m)) on the CPU, from samples (tilt, kx') to grid points (kz, kx >= 0)
    mirror : (m,) int64 on the CPU, the negative kx' whose weights reach across kx = 0
    """
    angle = torch.deg2rad(torch.tensor(tilts, device="cpu"))
    m = min(n, math.ceil(2 / math.cos(angle.abs().max().item())) + 1)
    line = torch.arange(-m, n + 1, dtype=torch.float32, device="cpu")
    kz, kx = (line * torch.sin(angle)[:, None]).flatten(), (line * torch.cos(angle)[:, None]).flatten()
    rows, columns, values = [], [], []
    for dz in range(-2, 3):
        for dx in range(-2, 3):
            z, x = kz.floor() + dz, kx.floor() + dx
            w = _kaiser_bessel(z - kz) * _kaiser_bessel(x - kx)
            keep = (w > 0) & (x >= 0) & (x <= n) & (z.abs() < n)
            rows.append(((z % (2 * n)) * (n + 1) + x)[keep].long())
            columns.append(keep.nonzero()[:, 0])
            values.append(w[keep])
    where = torch.stack([torch.cat(rows), torch.cat(columns)])
    shape = (2 * n * (n + 1), len(kz))
    matrix = torch.sparse_coo_tensor(where, torch.cat(values), shape, device="cpu", check_invariants=True).coalesce()
    return matrix, torch.arange(1, m + 1, device="cpu").flip(0)


def _to_specimen_frame(volume: Tensor, tilt_axis: float) -> Tensor:
    """Volumes (B, M, M, M) rotated from the frame whose y is the tilt axis to the frame of the specimen.

    Each section is resampled linearly in Fourier space about its centre M // 2. Density beyond the corners of the inner
    half fades out.
    """
    size = volume.shape[-1]
    line = torch.arange(size, device=volume.device, dtype=torch.float32) - size // 2
    g = gridding_correction(size, 1.0, volume.device) / (9 - 20 * line.abs() / size).clamp(1e-6, 1)
    sections = torch.fft.ifftshift(volume / (g[:, None] * g), dim=(2, 3))
    plane = torch.view_as_real(torch.fft.fftshift(torch.fft.fft2(sections), dim=(2, 3))).movedim(-1, 2)
    points = torch.stack(
        [torch.zeros(size, size, device=volume.device), *torch.meshgrid(line, line, indexing="ij")], -1
    )
    grid = (fourier.to_tilt_frame(points, tilt_axis)[..., 1:].flip(-1) + size // 2) * (2 / (size - 1)) - 1
    flat = plane.flatten(0, 1)
    rotated = F.grid_sample(flat, grid.expand(len(flat), -1, -1, -1), align_corners=True).unflatten(0, plane.shape[:2])
    rotated = torch.complex(rotated[:, :, 0], rotated[:, :, 1])
    return torch.fft.fftshift(torch.fft.ifft2(torch.fft.ifftshift(rotated, dim=(2, 3))).real, dim=(2, 3))


def tilt_slices(tilts: tuple[float, ...], n: int) -> tuple[Tensor, Tensor]:
    """Sample points of the central slices of a tilt series whose images are padded to twice the box.

    The slice of tilt t spans (sin t, 0, cos t) and the tilt axis (0, 1, 0), in zyx order. The y axis of this frame is
    the tilt axis.

    Returns
    -------
    k : (T, Q, 3) zyx, cycles per voxel, on the CPU
    index : (Q,) int64 into the flattened (ky, kx' >= 0) half grid of a (2n, 2n) image, on the CPU
    """
    ky, kx = (k.expand(2 * n, n + 1) for k in fourier.frequencies((2 * n, 2 * n)))
    index = (torch.hypot(ky, kx) < 0.4999).flatten().nonzero()[:, 0]
    ky, kx = ky.flatten()[index], kx.flatten()[index]
    angle = torch.deg2rad(torch.tensor(tilts, device="cpu"))[:, None]
    return torch.stack([kx * torch.sin(angle), ky.expand(len(tilts), -1), kx * torch.cos(angle)], -1), index


def image_by_tilt_series(
    specimen: Specimens,
    bank: Templates,
    optics: Optics,
    *,
    generator: torch.Generator,
    snr: float | Tensor | None = None,
    noise: bool = True,
) -> Imaged:
    """Subtomograms of `specimen`, imaged tilt by tilt and reconstructed; arguments and errors as `image_by_transfer`.

    For each tilt: the central slice of the specimen's transform (padded to twice the box), CTF, dose filter, residual
    shift and shot noise. Then weighted back-projection: each slice is multiplied by the dose filter and by the ramp
    |kx| times the angular step, and added to a 2n grid, which is cropped to n. The missing wedge follows from the tilt
    range. The insertion uses sparse matrices, which Apple's MPS does not support.
    """
    _check(bank, optics)
    device, n, T = generator.device, bank.box, len(optics.tilts)
    k, index = (t.to(device) for t in tilt_slices(optics.tilts, n))
    plane = k[0].norm(dim=-1)
    amplitude, weight = tilt_amplitude(plane, optics)
    colour = noise_colour(plane, optics.noise_slope) * math.sqrt(1 - optics.structural_fraction) * (plane > 0)
    hermitian = torch.where(index % (n + 1) == 0, 1.0, math.sqrt(0.5)).to(device)
    kx = torch.hypot(k[0, :, 0], k[0, :, 2])
    # 2n: from cycles per voxel to Fourier voxels
    weight_of_slice = ramp(2 * n).to(device)[(kx * 2 * n).round().long()] * reconstruction_filter(kx, optics)
    weight_of_slice *= 2 * n * angular_step(optics.tilts)
    noise_amplitude = shot_noise(optics, device)[:, None] * (2 * n) * colour * hermitian * weight
    matrix, mirror = (t.to(device) for t in _insertion(optics.tilts, n))
    flip_y = (-torch.arange(2 * n, device=device)) % (2 * n)
    edge = _insertion_envelope(2 * n, device)
    structural = structural_amplitude(optics, n) if optics.structural_fraction > 0 else 0.0

    def insert(slices: Tensor) -> Tensor:  # (B, T, Q) -> (2n * (n + 1), ky, B) summed with weights
        image = slices.new_zeros(len(slices), T, 2 * n * (n + 1))
        image[:, :, index] = slices * weight_of_slice
        image = image.reshape(-1, T, 2 * n, n + 1)
        image = torch.cat([image[..., flip_y, :][..., mirror].conj(), image], -1)
        samples = torch.view_as_real(image.permute(1, 3, 2, 0).contiguous())
        out = torch.sparse.mm(matrix, samples.reshape(matrix.shape[1], -1))
        return torch.view_as_complex(out.reshape(2 * n * (n + 1), 2 * n, -1, 2))

    def reconstruct(slices: Tensor) -> Tensor:
        grid = insert(slices).reshape(2 * n, n + 1, 2 * n, -1).permute(3, 0, 2, 1)
        volume = torch.fft.fftshift(torch.fft.irfftn(grid, s=(2 * n,) * 3, dim=(1, 2, 3)), dim=(1, 2, 3))
        volume /= edge[:, None, None] * edge
        if optics.tilt_axis:
            volume = _to_specimen_frame(volume, optics.tilt_axis)
        return crop(volume[:, None], n)

    x = torch.empty(len(specimen), 1, n, n, n, device=device)
    realised = torch.full((len(specimen),), math.inf, device=device)
    for start in range(0, len(specimen), CHUNK):
        part = slice(start, start + CHUNK)
        one = specimen[part]
        shift = torch.randn(len(one), T, 2, generator=generator, device=device)
        shift *= optics.misalignment / optics.voxel_size
        in_plane = torch.stack([k[0, :, 1], kx], -1)
        phase = -2 * math.pi * shift @ in_plane.T
        response = amplitude * weight * torch.polar(torch.ones_like(phase), phase)
        points = fourier.to_tilt_frame(k, -optics.tilt_axis).reshape(-1, 3)
        volume = reconstruct(gather(bank, one, 0, points).reshape(len(one), T, -1) * response)
        power = _variance(volume)
        if one.template.shape[1] > 1:
            volume = volume + reconstruct(_neighbours(bank, one, points).reshape(len(one), T, -1) * response)
        if noise:
            draw = torch.randn(len(one), T, len(index), 2, generator=generator, device=device)
            slices = torch.view_as_complex(draw) * noise_amplitude
            if structural:
                white = _white_specimen(len(one), points, n, structural, generator)
                slices = slices + response * white.reshape_as(slices)
            noise_volume = reconstruct(slices)
            noise_power = _variance(noise_volume)
            level = _noise_for_snr(power, noise_power, _per_subtomogram(snr, part))
            volume = volume + noise_volume * level[:, None, None, None, None]
            realised[part] = power / (noise_power * level.square()).clamp_min(1e-30)
        x[part] = volume
    return Imaged(x, realised)


def _white_specimen(count: int, points: Tensor, n: int, sigma: float, generator: torch.Generator) -> Tensor:
    """Slices (count, T * Q) complex64 of a specimen of white noise with standard deviation `sigma` volts per voxel.

    The noise fills 1.5 boxes with a soft edge, so that interpolation does not alias its far side into the box.
    """
    out, r = [], (torch.arange(2 * n, device=generator.device) - n).abs() / n
    soft = ((0.85 - r) / 0.2).clamp(0, 1)
    grid = points.flip(-1) * (2.0 * 2 * n / (2 * n - 1)) + 1 / (2 * n - 1)
    for _ in range(count):
        field = torch.randn(2 * n, 2 * n, 2 * n, generator=generator, device=generator.device) * sigma
        field *= soft[:, None, None] * soft[:, None] * soft
        value = F.grid_sample(transform(field, 2 * n), grid.reshape(1, 1, 1, -1, 3), align_corners=True)
        out.append(torch.complex(value[0, 0].flatten(), value[0, 1].flatten()))
    return torch.stack(out)


def _check(bank: Templates, optics: Optics) -> None:
    if abs(bank.voxel_size - optics.voxel_size) > 1e-6 * optics.voxel_size:
        raise InputError(
            f"Voxel size: expected the same for templates and optics, got {bank.voxel_size} A and "
            f"{optics.voxel_size} A. Create both with one voxel_size."
        )
