"""Volumes and particles: their types, contrast, orientation and voxel size.

The axis order is zyx, lengths are in A, and the centre of a box of n voxels is index n // 2.
"""

from __future__ import annotations

import math
import mmap
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from scipy import ndimage, stats
from scipy.spatial.transform import Rotation
from torch import Tensor

from ..errors import InputError
from ..fourier import resampling_matrix


@dataclass(frozen=True)
class Volume:
    """A density on a grid.

    Attributes
    ----------
    data : (Z, Y, X). It may stay on disk: then it has shape, dtype and slices, and np.asarray reads it
    voxel_size : A
    path : the file that it was read from
    warnings : sentences on what to check before using it
    """

    data: np.ndarray
    voxel_size: float
    path: str
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, eq=False)
class Particles:
    """Particles of one file, in its order: the input of a classifier, and all columns for the output file.

    Attributes
    ----------
    table : all columns of the file, name -> N texts (names of a STAR without their leading underscore)
    zyx : (N, 3) positions in voxels of their tomogram, counted from 0 at the first voxel's centre; None for extracted
        subtomograms
    subtomograms : (N, 1, Z, Y, X) float32 grey values; None for positions in a tomogram
    voxel_size : A, of the subtomograms
    angles : (N, 3) rot, tilt, psi in degrees, in RELION's convention; None when the file has none
    groups : (N,) integers; particles of one group, such as one virus-like particle, must not be split between training
        and test. None or zeros if unknown
    kind : "star" or "dynamo": the format to write predictions in; "" for a format without a table of its own
    block : name of the particles' table in a STAR
    rest : other tables of a STAR, such as optics
    rows : (N,) row of each particle in its file, counted from 1; None: 1 to N
    bad : index -> reason, for particles that cannot be classified; their positions may lie outside the tomogram or be
        NaN, and their subtomograms are NaN
    warnings : sentences on what to check before using the particles
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
    rows: np.ndarray | None = None
    bad: dict[int, str] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(next(iter(self.table.values())))


@dataclass(frozen=True)
class ContrastGuess:
    """A guess of the contrast.

    Attributes
    ----------
    sign : "bright", "dark" or "unsure"
    score : standard errors, positive for bright
    why : the measurements, in words
    """

    sign: str
    score: float
    why: str


def _z_score(values: np.ndarray) -> float:
    """Distance of the mean of independent values from 0 in standard errors, corrected for few values."""
    spread = values.std(ddof=1) / np.sqrt(len(values)) if len(values) > 1 else 0.0
    if spread <= 0:
        return 0.0
    t = float(values.mean() / spread)
    return float(np.sign(t) * min(-stats.norm.ppf(max(stats.t.sf(abs(t), len(values) - 1), 1e-300)), 38.0))


CLEAR = 250  # subtomograms that show the contrast of most stacks


def _skewness(blocks: np.ndarray) -> np.ndarray:
    centred = blocks - blocks.mean((1, 2, 3), keepdims=True)
    return (centred * centred * centred).mean((1, 2, 3)) / (centred.std((1, 2, 3)) ** 3 + 1e-30)


def guess_contrast(x: Tensor | np.ndarray) -> ContrastGuess:
    """Whether protein is bright or dark, guessed from the grey values.

    Dense matter is sparse in ice, so the distribution of smoothed grey values has its long tail on the side of protein
    (skewness). In subtomograms the centre also differs from the corners; this decides when the skewness is below 4
    standard errors.

    Parameters
    ----------
    x : a tomogram (Z, Y, X), which is read in thin layers, or subtomograms (N, 1, Z, Y, X)

    Returns
    -------
    ContrastGuess, "unsure" below 4 standard errors (5 for the centre), or when the two disagree strongly
    """
    if len(x.shape) == 3:
        array = thumbnail(x, max(1, round(max(x.shape) / 160)))
        smooth = ndimage.gaussian_filter(array, 1.2) - ndimage.gaussian_filter(array, 8.0)
        # Blocks of one tomogram are treated as independent samples.
        n = [max(1, size // 4) for size in smooth.shape]
        starts = [(z, y, x) for z in range(4) for y in range(4) for x in range(4)]
        blocks = [smooth[tuple(slice(s * m, (s + 1) * m) for s, m in zip(at, n, strict=True))] for at in starts]
        skew, centre = _skewness(np.stack([b for b in blocks if b.shape == tuple(n)])), np.zeros(1)
    else:
        if len(x) > 2 * CLEAR and type(x) in (Tensor, np.ndarray):  # enough where the skewness is clear
            some = guess_contrast(x[np.linspace(0, len(x) - 1, CLEAR).round().astype(int)])
            if some.sign != "unsure" and abs(some.score) >= 8:
                return some
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
    """`x` with protein bright: negated if `contrast` is "dark"; if it is "auto", `guess_contrast` decides.

    Raises
    ------
    InputError
        `contrast` is none of auto, bright and dark, or the guess is unsure.
    """
    if contrast == "auto":
        guess = guess_contrast(x)
        if guess.sign == "unsure":
            raise InputError(
                f"contrast is auto, but the data do not show it ({guess.why}); set contrast to bright or dark."
            )
        contrast = guess.sign
    if contrast not in ("bright", "dark"):
        raise InputError(f"contrast: expected auto, bright or dark, got '{contrast}'; set one of the three.")
    return -x if contrast == "dark" else x


def rotation_from_relion(angles: np.ndarray) -> Rotation:
    """Rotations of the reference onto the particles in the tomogram, from (N, 3) rot, tilt, psi in degrees.

    RELION's matrix (Euler_angles_relion.h; particle_set.cpp: "from particle space to tomogram space") is the inverse
    of Rz(rot) Ry(tilt) Rz(psi).
    """
    return Rotation.from_euler("ZYZ", angles, degrees=True).inv()


def rescale(volumes: Tensor, voxel_size: float, to_voxel_size: float, box: int) -> Tensor:
    """Volumes (N, 1, box, box, box) resampled to another voxel size, band-limited (Fourier crop or pad), centred.

    Parameters
    ----------
    volumes : (N, 1, Z, Y, X)
    voxel_size, to_voxel_size : A of the input and of the result
    box : edge of the result in voxels

    Raises
    ------
    InputError
        The box is larger than the volumes.
    """
    period = [n * voxel_size for n in volumes.shape[-3:]]
    if min(period) * 1.001 + to_voxel_size / 2 < box * to_voxel_size:
        raise InputError(
            f"A box of {box} voxels of {to_voxel_size:g} A is larger than the volumes of {min(period):.0f} A; "
            f"use a box of at most {int(min(period) / to_voxel_size)}."
        )
    sizes = zip(volumes.shape[-3:], period, strict=True)
    z, y, x = (resampling_matrix(n, voxel_size, box, to_voxel_size, length) for n, length in sizes)
    parts = [
        torch.einsum("zk,nckyx->nczyx", z, torch.einsum("yj,nckjx->nckyx", y, part @ x.T))
        for part in volumes.split(128)
    ]
    return torch.cat(parts) if parts else volumes.new_zeros(0, 1, box, box, box)


def large_map(tomogram: np.ndarray | Tensor) -> np.memmap | None:
    """The memory map that an array is a view of, if it is read-only and larger than 1 GB; else None."""
    root: Any = tomogram
    while isinstance(getattr(root, "base", None), np.ndarray):
        root = root.base
    large = isinstance(root, np.memmap) and root.mode == "r" and root.nbytes > 1 << 30
    return root if large and hasattr(mmap, "MADV_DONTNEED") else None


def advise(root: np.memmap, advice: int, *span: int) -> None:
    """Return None; madvise(2) for a memory-mapped file, or for `span`: its first byte and number of bytes."""
    pages: Any = root.base  # an mmap.mmap, which numpy's types do not say
    pages.madvise(advice, *span)


def release(tomogram: np.ndarray | Tensor) -> None:
    """Return None; free the memory of the pages that were read from a large memory-mapped file."""
    root = large_map(tomogram)
    if root is not None:
        advise(root, mmap.MADV_DONTNEED)


def thumbnail(tomogram: np.ndarray | Tensor, step: int) -> np.ndarray:
    """(Z // step, Y // step, X // step) float32 means of blocks of step^3 voxels, one layer in memory at a time.

    Of a tomogram of more than 2^28 voxels, only some planes of each layer are read.
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
