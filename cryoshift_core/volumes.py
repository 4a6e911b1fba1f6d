"""Volumes and particles: contrast, normalisation, extraction and change of pixel size.

Axis order is zyx everywhere, lengths are in A, and the centre of a box of n voxels is index n // 2.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import lru_cache

import numpy as np
import torch
from scipy import ndimage, spatial, stats
from torch import Tensor


class InputError(ValueError):
    """Bad input, said in one sentence: what was found where, what was wanted, and the way out."""


@dataclass(frozen=True)
class Volume:
    """A density on a grid: `data` (Z, Y, X) float32, `pixel_size` A per voxel, `path` of the file it came from."""

    data: np.ndarray
    pixel_size: float
    path: str


@dataclass(frozen=True, eq=False)
class Particles:
    """Particles as a file lists them, row by row: what a classifier needs, and what goes back out unchanged.

    Attributes
    ----------
    table : all columns of the file, name -> N texts (a STAR's names without their leading underscore)
    zyx : (N, 3) positions in voxels of their tomogram, counted from 0 and from the first voxel's centre; None for
        extracted subtomograms
    cubes : (N, 1, Z, Y, X) float32 grey values, with their `pixel_size` in A; None where they are yet to be cut
    angles : (N, 3) rot, tilt, psi in degrees, as RELION has them; None where the file has none
    groups : (N,) integers that tell apart what must not be split, such as virus-like particles; zeros if unknown
    kind : "star" or "dynamo": the format that answers go back in; "" for a file that has no such table of its own
    block, rest : of a STAR, the name of the table and the other tables, such as optics
    """

    table: dict[str, list[str]]
    zyx: np.ndarray | None = None
    cubes: Tensor | None = None
    pixel_size: float = 0.0
    angles: np.ndarray | None = None
    groups: np.ndarray | None = None
    kind: str = ""
    block: str = "particles"
    rest: dict[str, dict[str, list[str]]] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(next(iter(self.table.values())))


@dataclass(frozen=True)
class ContrastGuess:
    """`sign` bright, dark or unsure; `score` in standard errors, positive for bright; `why` in words."""

    sign: str
    score: float
    why: str


def normalize(x: Tensor) -> Tensor:
    """Robust z-score of each volume: minus the median, over 1.4826 x the median absolute deviation.

    A volume whose deviation is 0 though it is not constant (more than half of it masked) takes the standard deviation.

    Parameters
    ----------
    x : (N, 1, Z, Y, X)

    Raises
    ------
    InputError
        A volume is constant or holds NaN or infinite values.
    """
    flat = x.flatten(1)
    out = torch.empty_like(flat)
    for start in range(0, len(flat), 256):
        part = flat[start : start + 256]
        centred = part - part.median(1, keepdim=True).values
        width = 1.4826 * centred.abs().median(1, keepdim=True).values
        spread = part.std(1, keepdim=True)
        bad = ~(torch.isfinite(spread) & (part.amax(1, keepdim=True) > part.amin(1, keepdim=True)))
        if bad.any():
            index = start + int(bad.flatten().nonzero()[0])
            found = "constant" if torch.isfinite(flat[index]).all() else "not finite (NaN or infinite)"
            raise InputError(f"Volume {index} of {len(flat)} is {found}; wanted grey values that vary: leave it out.")
        out[start : start + 256] = centred / torch.where(width > 1e-6 * spread, width, spread)
    return out.view_as(x)


def _z_score(values: np.ndarray) -> float:
    """How many standard errors the mean of independent values is from 0, corrected for few values."""
    spread = values.std(ddof=1) / np.sqrt(len(values)) if len(values) > 1 else 0.0
    if spread <= 0:
        return 0.0
    t = float(values.mean() / spread)
    return float(np.sign(t) * min(-stats.norm.ppf(max(stats.t.sf(abs(t), len(values) - 1), 1e-300)), 38.0))


def _skewness(blocks: np.ndarray) -> np.ndarray:
    centred = blocks - blocks.mean((1, 2, 3), keepdims=True)
    return (centred**3).mean((1, 2, 3)) / (centred.std((1, 2, 3)) ** 3 + 1e-30)


def guess_contrast(x: Tensor | np.ndarray) -> ContrastGuess:
    """Is protein bright or dark? Evidence from the grey values alone.

    Dense matter is sparse in ice, so smoothed grey values have their long tail on its side (skewness); in cubes
    around particles, the centre also differs from the corners, which counts when the skewness says little.

    Parameters
    ----------
    x : a tomogram (Z, Y, X), or cubes (N, 1, Z, Y, X)

    Returns
    -------
    ContrastGuess, "unsure" below 4 standard errors (5 for the centre), or when the two disagree strongly
    """
    array = np.asarray(x)
    if array.ndim == 3:
        step = max(1, round(max(array.shape) / 160))
        array = np.asarray(array[tuple(slice(0, n - n % step) for n in array.shape)], np.float32)
        array = array.reshape([size for n in array.shape for size in (n // step, step)]).mean((1, 3, 5))
        smooth = ndimage.gaussian_filter(array, 1.2) - ndimage.gaussian_filter(array, 8.0)
        # Blocks of one tomogram stand in for independent samples.
        n = [max(1, size // 4) for size in smooth.shape]
        starts = [(z, y, x) for z in range(4) for y in range(4) for x in range(4)]
        blocks = [smooth[tuple(slice(s * m, (s + 1) * m) for s, m in zip(at, n, strict=True))] for at in starts]
        blocks = np.stack([block for block in blocks if block.shape == tuple(n)])
        skew, centre = _skewness(blocks), np.zeros(1)
    else:
        smooth = ndimage.gaussian_filter(
            array.reshape(-1, *array.shape[-3:])[:2000].astype(np.float32), (0, *[1.2] * 3)
        )
        axes = np.ogrid[tuple(slice(-(n // 2), n - n // 2) for n in smooth.shape[1:])]
        radius = np.sqrt(sum(axis.astype(float) ** 2 for axis in axes)) / min(smooth.shape[1:])
        skew = _skewness(smooth)
        centre = smooth[:, radius < 0.15].mean(1) - smooth[:, radius > 0.4].mean(1)
    by_skew, by_centre = _z_score(skew), _z_score(centre)
    why = f"skewness {skew.mean():+.2f} ({by_skew:+.1f} standard errors), centre {by_centre:+.1f} standard errors"
    if abs(by_skew) >= 4:
        score = by_skew
        disagree = by_skew * by_centre < 0 and abs(by_centre) > 2 * abs(by_skew)
    else:
        score = by_centre
        disagree = abs(by_centre) < 5 or (by_skew * by_centre < 0 and abs(by_skew) > 2)
    return ContrastGuess("unsure" if disagree else "bright" if score > 0 else "dark", score, why)


def to_bright(x: Tensor, contrast: str) -> Tensor:
    """The same volumes with protein bright: negated where `contrast` is "dark", guessed where it is "auto"."""
    if contrast == "auto":
        guess = guess_contrast(x)
        if guess.sign == "unsure":
            raise InputError(f"The contrast can't be told from the data ({guess.why}); set contrast to bright or dark.")
        contrast = guess.sign
    if contrast not in ("bright", "dark"):
        raise InputError(f"contrast is '{contrast}'; wanted auto, bright or dark.")
    return -x if contrast == "dark" else x


# Geometry


def crop(x: Tensor, n: int) -> Tensor:
    """Central (..., n, n, n) of (..., Z, Y, X): index n // 2 of the result is index Z // 2 of the input."""
    if n < 1 or n > min(x.shape[-3:]):
        raise InputError(
            f"A box of {n} voxels can't be cut out of {tuple(x.shape[-3:])}; wanted 1 to its smallest edge."
        )
    z, y, w = (size // 2 - n // 2 for size in x.shape[-3:])
    return x[..., z : z + n, y : y + n, w : w + n]


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


def rescale(cubes: Tensor, pixel_in: float, pixel_out: float, box: int) -> Tensor:
    """Cubes (N, 1, Z, Y, X) on another pixel size and box, band-limited (Fourier crop or pad), centre on centre."""
    period = [n * pixel_in for n in cubes.shape[-3:]]
    if min(period) * 1.001 + pixel_out / 2 < box * pixel_out:
        raise InputError(
            f"A box of {box} voxels of {pixel_out:g} A is larger than the cubes of {min(period):.0f} A; "
            f"use a box of at most {int(min(period) / pixel_out)}."
        )
    sizes = zip(cubes.shape[-3:], period, strict=True)
    z, y, x = (resampling_matrix(n, pixel_in, box, pixel_out, length) for n, length in sizes)
    parts = [
        torch.einsum("zk,nckyx->nczyx", z, torch.einsum("yj,nckjx->nckyx", y, part @ x.T)) for part in cubes.split(128)
    ]
    return torch.cat(parts) if parts else cubes.new_zeros(0, 1, box, box, box)


def extract(
    tomogram: np.ndarray, zyx: np.ndarray, box: int, pixel_size: float, to_pixel_size: float | None = None
) -> tuple[Tensor, np.ndarray]:
    """Cubes around positions, by trilinear interpolation; boxes that leave the tomogram are dropped.

    Parameters
    ----------
    tomogram : (Z, Y, X), may be memory-mapped: only the boxes are read
    zyx : (N, 3) voxels; a position becomes index box // 2
    box : voxels per edge of the result
    pixel_size, to_pixel_size : A; another pixel size is made by `rescale` from boxes of the same extent

    Returns
    -------
    cubes (M, 1, box, box, box) float32 and the indices (M,) of the positions that were kept
    """
    zyx = np.asarray(zyx, float).reshape(-1, 3)
    to_pixel_size = to_pixel_size or pixel_size
    same = abs(to_pixel_size / pixel_size - 1) < 1e-3
    n = box if same else int(np.ceil(box * to_pixel_size / pixel_size - 1e-6)) + 2
    first = np.floor(zyx).astype(int) - n // 2
    need = n + (zyx != np.floor(zyx))  # one voxel more where there is something to interpolate
    kept = np.flatnonzero(((first >= 0) & (first + need <= tomogram.shape)).all(1))
    cubes = torch.empty(len(kept), 1, n, n, n)
    for row, index in enumerate(kept):
        lo, size = first[index], need[index]
        patch = np.asarray(tomogram[tuple(slice(a, a + s) for a, s in zip(lo, size, strict=True))], np.float32)
        for axis, part in enumerate(zyx[index] - np.floor(zyx[index])):
            if part > 0:
                low, high = np.take(patch, range(n), axis), np.take(patch, range(1, n + 1), axis)
                patch = (1 - part) * low + part * high
        cubes[row, 0] = torch.from_numpy(np.ascontiguousarray(patch, np.float32))
    return (cubes if same else rescale(cubes, pixel_size, to_pixel_size, box)), kept


def ice_positions(tomogram: np.ndarray, zyx: np.ndarray, box: int, n: int, generator: torch.Generator) -> np.ndarray:
    """Positions (n, 3) whose boxes hold no given coordinate and none of the densest unlabelled matter.

    Boxes with a margin of a quarter box around them hold no coordinate; of these, the half in which the smoothed
    grey values vary least is drawn from, without repeats (the boxes may overlap).
    """
    lattice = [np.arange(box // 2, size - (box - box // 2) + 1) for size in tomogram.shape]
    free = np.stack(np.meshgrid(*lattice, indexing="ij"), -1).reshape(-1, 3)
    if len(zyx) and len(free):
        distance, _ = spatial.cKDTree(np.asarray(zyx, float)).query(free, p=np.inf, distance_upper_bound=0.75 * box + 1)
        free = free[distance > 0.75 * box]
    if len(free) < n:
        raise InputError(f"Only {len(free)} boxes of {box} voxels hold no particle; wanted {n}: use a smaller box.")
    smooth = ndimage.gaussian_filter(np.asarray(tomogram, np.float32), 1.5)
    smooth -= np.median(smooth)
    busy = ndimage.uniform_filter(smooth**2, box)[tuple(free.T)]
    quiet = free[np.argsort(busy, kind="stable")[: max(n, len(free) // 2)]]
    return quiet[torch.randperm(len(quiet), generator=generator)[:n].numpy()]
