"""Volumes and particles: contrast, normalisation, extraction and change of pixel size.

Axis order is zyx everywhere, lengths are in A, and the centre of a box of n voxels is index n // 2.
"""

from __future__ import annotations

import math
import mmap
from dataclasses import dataclass, field

import numpy as np
import torch
from scipy import ndimage, stats
from scipy.spatial.transform import Rotation
from torch import Tensor

from ..errors import InputError
from ..fourier import resampling_matrix


@dataclass(frozen=True)
class Volume:
    """A density on a grid: `data` (Z, Y, X), `voxel_size` A per voxel, `path` of the file it came from.

    `data` may stay on disk: then it has shape, dtype and slices, and becomes an array by np.asarray.
    """

    data: np.ndarray
    voxel_size: float
    path: str


@dataclass(frozen=True, eq=False)
class Particles:
    """Particles as a file lists them, row by row: what a classifier needs, and what goes back out unchanged.

    Attributes
    ----------
    table : all columns of the file, name -> N texts (a STAR's names without their leading underscore)
    zyx : (N, 3) positions in voxels of their tomogram, counted from 0 and from the first voxel's centre; None for
        extracted subtomograms
    subtomograms : (N, 1, Z, Y, X) float32 grey values, with their `voxel_size` in A; None where they are yet to be cut
    angles : (N, 3) rot, tilt, psi in degrees, as RELION has them; None where the file has none
    groups : (N,) integers that tell apart what must not be split, such as virus-like particles; zeros if unknown
    kind : "star" or "dynamo": the format that answers go back in; "" for a file that has no such table of its own
    block, rest : of a STAR, the name of the table and the other tables, such as optics
    """

    table: dict[str, list[str]]
    zyx: np.ndarray | None = None
    subtomograms: Tensor | None = None
    voxel_size: float = 0.0
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
    x : a tomogram (Z, Y, X), which is read in thin layers, or cubes (N, 1, Z, Y, X)

    Returns
    -------
    ContrastGuess, "unsure" below 4 standard errors (5 for the centre), or when the two disagree strongly
    """
    if len(x.shape) == 3:
        array = thumbnail(x, max(1, round(max(x.shape) / 160)))
        smooth = ndimage.gaussian_filter(array, 1.2) - ndimage.gaussian_filter(array, 8.0)
        # Blocks of one tomogram stand in for independent samples.
        n = [max(1, size // 4) for size in smooth.shape]
        starts = [(z, y, x) for z in range(4) for y in range(4) for x in range(4)]
        blocks = [smooth[tuple(slice(s * m, (s + 1) * m) for s, m in zip(at, n, strict=True))] for at in starts]
        blocks = np.stack([block for block in blocks if block.shape == tuple(n)])
        skew, centre = _skewness(blocks), np.zeros(1)
    else:
        array = np.asarray(x).reshape(-1, *x.shape[-3:])[:2000].astype(np.float32)
        smooth = ndimage.gaussian_filter(array, (0, *[1.2] * 3))
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


def rotation_from_relion(angles: np.ndarray) -> Rotation:
    """Turns a particle's reference onto the particle in the tomogram, from (N, 3) rot, tilt, psi in degrees.

    RELION's matrix (Euler_angles_relion.h; particle_set.cpp: "from particle space to tomogram space") is the inverse
    of Rz(rot) Ry(tilt) Rz(psi).
    """
    return Rotation.from_euler("ZYZ", angles, degrees=True).inv()


def rescale(cubes: Tensor, pixel_in: float, pixel_out: float, box: int) -> Tensor:
    """Imaged (N, 1, Z, Y, X) on another pixel size and box, band-limited (Fourier crop or pad), centre on centre."""
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


def large_map(tomogram: np.ndarray) -> np.memmap | None:
    """The whole map that an array looks into, where it is of a file of more than 1 GB and only read."""
    root = tomogram
    while isinstance(getattr(root, "base", None), np.ndarray):
        root = root.base
    large = isinstance(root, np.memmap) and root.mode == "r" and root.nbytes > 1 << 30
    return root if large and hasattr(mmap, "MADV_DONTNEED") else None


def release(tomogram: np.ndarray) -> None:
    """Give back the memory that the read pages of a large memory-mapped file take; they stay on disk as they are."""
    root = large_map(tomogram)
    if root is not None:
        root.base.madvise(mmap.MADV_DONTNEED)


def thumbnail(tomogram: np.ndarray, step: int) -> np.ndarray:
    """(Z // step, Y // step, X // step) float32 means of blocks of step^3 voxels, one layer in memory at a time.

    Of more than 2^28 voxels, only some planes of each layer are read.
    """
    nz, ny, nx = (n // step for n in tomogram.shape)
    every = min(step, max(1, math.prod(tomogram.shape) >> 28))
    out = np.empty((nz, ny, nx), np.float32)
    for z in range(nz):
        planes = slice(z * step + every // 2, (z + 1) * step, every)
        layer = np.asarray(tomogram[planes, : ny * step, : nx * step], np.float32)
        out[z] = layer.reshape(-1, ny, step, nx, step).mean((0, 2, 4))
        release(tomogram)
    return out
