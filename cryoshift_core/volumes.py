"""Volumes and particles: contrast, normalisation, extraction and change of pixel size.

Axis order is zyx everywhere, lengths are in A, and the centre of a box of n voxels is index n // 2.
"""

from __future__ import annotations

import math
import mmap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache

import numpy as np
import torch
from numpy.typing import ArrayLike
from scipy import ndimage, spatial, stats
from scipy.spatial.transform import Rotation
from torch import Tensor


class InputError(ValueError):
    """Bad input, said in one sentence: what was found where, what was wanted, and the way out."""


@dataclass(frozen=True)
class Volume:
    """A density on a grid: `data` (Z, Y, X), `pixel_size` A per voxel, `path` of the file it came from.

    `data` may stay on disk: then it has shape, dtype and slices, and becomes an array by np.asarray.
    """

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


# Geometry


def rotation_from_relion(angles: np.ndarray) -> Rotation:
    """Turns a particle's reference onto the particle in the tomogram, from (N, 3) rot, tilt, psi in degrees.

    RELION's matrix (Euler_angles_relion.h; particle_set.cpp: "from particle space to tomogram space") is the inverse
    of Rz(rot) Ry(tilt) Rz(psi).
    """
    return Rotation.from_euler("ZYZ", angles, degrees=True).inv()


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


def _large_map(tomogram: np.ndarray) -> np.memmap | None:
    """The whole map that an array looks into, where it is of a file of more than 1 GB and only read."""
    root = tomogram
    while isinstance(getattr(root, "base", None), np.ndarray):
        root = root.base
    large = isinstance(root, np.memmap) and root.mode == "r" and root.nbytes > 1 << 30
    return root if large and hasattr(mmap, "MADV_DONTNEED") else None


def release(tomogram: np.ndarray) -> None:
    """Give back the memory that the read pages of a large memory-mapped file take; they stay on disk as they are."""
    root = _large_map(tomogram)
    if root is not None:
        root.base.madvise(mmap.MADV_DONTNEED)


def _read_ahead(patch: np.ndarray) -> None:
    """Ask for the pages of a box in a large memory-mapped file, and for no more.

    Left alone, the system reads what lies around each row too: up to megabytes of it.
    """
    root = _large_map(patch)
    if root is None:
        return
    axis = int(np.argmax(np.abs(patch.strides)))
    low, high = np.lib.array_utils.byte_bounds(patch[tuple(slice(1 if i == axis else None) for i in range(3))])
    mapped = root.__array_interface__["data"][0] - root.offset % mmap.ALLOCATIONGRANULARITY
    for plane in range(patch.shape[axis]):
        start = low - mapped + plane * patch.strides[axis]
        page = start - start % mmap.PAGESIZE
        root.base.madvise(mmap.MADV_WILLNEED, page, start + high - low - page)


def boxes(
    shape: Sequence[int],
    zyx: ArrayLike,
    box: int,
    pixel_size: float,
    to_pixel_size: float | None = None,
    pad: bool = False,
    flip_z: bool = False,
) -> tuple[int, np.ndarray, np.ndarray, np.ndarray]:
    """What `cut` reads of a tomogram of `shape`, in the order in which it does: neighbours after each other.

    Returns
    -------
    the edge n of the boxes in its voxels; indices (M,) of the positions that are kept; (M, 3) their first voxels;
    (M, 3) by what fraction of a voxel the positions lie behind a voxel
    """
    zyx = np.asarray(zyx, float)
    if zyx.size and (zyx.ndim > 2 or zyx.shape[-1:] != (3,)):
        raise InputError(f"Positions have shape {zyx.shape}; wanted (N, 3): z, y, x in voxels for each.")
    zyx = zyx.reshape(-1, 3)
    if not np.isfinite(zyx).all():
        index = int(np.flatnonzero(~np.isfinite(zyx).all(1))[0])
        raise InputError(f"Position {index} of {len(zyx)} is {zyx[index].tolist()}; wanted z, y, x in voxels: drop it.")
    to_pixel_size = to_pixel_size or pixel_size
    if not (pixel_size > 0 and to_pixel_size > 0 and box > 0):
        raise InputError(f"A box of {box} voxels, {pixel_size} A to {to_pixel_size} A, can't be cut; wanted above 0.")
    # Fourier-cropped boxes have the same extent, rounded up, and a voxel of margin.
    n = box if _same(pixel_size, to_pixel_size) else int(np.ceil(box * to_pixel_size / pixel_size - 1e-6)) + 2
    if flip_z:
        zyx = zyx * (-1, 1, 1) + (shape[0] - 1, 0, 0)
    voxel = np.floor(zyx)
    first, part = voxel - n // 2, zyx - voxel
    if pad:
        kept = np.flatnonzero(((zyx >= 0) & (zyx <= np.asarray(shape) - 1)).all(1))
    else:  # one voxel more where there is something to interpolate
        kept = np.flatnonzero(((first >= 0) & (first + n + (part > 0) <= shape)).all(1))
    z, y, _ = first[kept].T
    kept = kept[np.lexsort((y, z // n))]
    return n, kept, first[kept].astype(int), part[kept]


def _same(pixel_size: float, to_pixel_size: float) -> bool:
    return abs(to_pixel_size / pixel_size - 1) < 1e-3


def _read_box(tomogram: np.ndarray, first: list[int], part: list[float], n: int, flip_z: bool) -> Tensor:
    """(n, n, n) at one position, padded with its median where it leaves the tomogram."""
    wanted = [(a, a + n + (fraction > 0)) for a, fraction in zip(first, part, strict=True)]
    inside = [(max(a, 0), min(b, size)) for (a, b), size in zip(wanted, tomogram.shape, strict=True)]
    (a, b), *rest = inside
    depth = slice(tomogram.shape[0] - b, tomogram.shape[0] - a) if flip_z else slice(a, b)
    patch = tomogram[depth, slice(*rest[0]), slice(*rest[1])]
    _read_ahead(patch)
    patch = np.asarray(patch)
    patch = np.array(patch[::-1] if flip_z else patch, np.float32, order="C")
    if inside != wanted:
        width = [(i[0] - w[0], w[1] - i[1]) for i, w in zip(inside, wanted, strict=True)]
        patch = np.pad(patch, width, constant_values=np.median(patch))
    cube = torch.from_numpy(patch)
    for axis, fraction in enumerate(part):
        if fraction > 0:
            cube = cube.double()  # free of rounding until the cube is float32 again
            cube = torch.lerp(cube.narrow(axis, 0, n), cube.narrow(axis, 1, n), fraction)
    return cube


def cut(
    tomogram: np.ndarray,
    zyx: ArrayLike,
    box: int,
    pixel_size: float,
    to_pixel_size: float | None = None,
    *,
    pad: bool = False,
    flip_z: bool = False,
    skip: int = 0,
    chunk: int = 128,
) -> Iterator[tuple[Tensor, np.ndarray]]:
    """The cubes of `extract`, `chunk` at a time, for more of them than memory holds.

    Parameters
    ----------
    skip : leave out so many of the first cubes, such as those that an earlier run made

    Yields
    ------
    cubes (<= chunk, 1, box, box, box) float32 and the indices of their positions, in the order of `boxes`
    """
    n, kept, first, part = boxes(tomogram.shape, zyx, box, pixel_size, to_pixel_size, pad, flip_z)
    for start in range(skip, len(kept), chunk):
        rows = range(start, min(start + chunk, len(kept)))
        cubes = torch.empty(len(rows), 1, n, n, n)
        for row in rows:
            cubes[row - start, 0] = _read_box(tomogram, first[row].tolist(), part[row].tolist(), n, flip_z)
            if row % 16 == 0:
                release(tomogram)
        bad = ~torch.isfinite(cubes.sum((1, 2, 3, 4)))  # a sum of finite values may overflow
        bad = [start + i for i in bad.nonzero()[:, 0].tolist() if not torch.isfinite(cubes[i]).all()]
        if bad:
            at = np.asarray(zyx, float).reshape(-1, 3)[kept[bad[0]]].round(2).tolist()
            raise InputError(
                f"The box around z, y, x = {at} of position {kept[bad[0]]} holds values that are not finite (NaN or "
                "infinite); wanted grey values: mask or repair the tomogram, or leave the position out."
            )
        same = _same(pixel_size, to_pixel_size or pixel_size)
        yield (cubes if same else rescale(cubes, pixel_size, to_pixel_size, box)), kept[rows.start : rows.stop]
    release(tomogram)


def extract(
    tomogram: np.ndarray,
    zyx: ArrayLike,
    box: int,
    pixel_size: float,
    to_pixel_size: float | None = None,
    *,
    pad: bool = False,
    flip_z: bool = False,
) -> tuple[Tensor, np.ndarray]:
    """Cubes around positions, by trilinear interpolation; boxes that leave the tomogram are dropped, or padded.

    The axes of tomogram, positions and cubes are z, y, x: z is the beam, the slowest axis on disk. Grey values keep
    their sign; see `to_bright`.

    Parameters
    ----------
    tomogram : (Z, Y, X), anything with `.shape` and slices, such as a memory-mapped file: only the boxes are read
    zyx : (N, 3) voxels, counted from 0 at the first voxel's centre; a position becomes index box // 2
    box : voxels per edge of the result
    pixel_size, to_pixel_size : A; another pixel size is made by `rescale` from boxes of the same extent
    pad : keep boxes over the border, filled up with the median of their voxels inside; positions outside are dropped
    flip_z : mirror the tomogram along z, where its handedness is wrong: programs differ in the sign of the tilt angles
        and of z, which one tomogram does not tell, and a mirrored molecule is another one. Positions are those in the
        tomogram as it is stored

    Returns
    -------
    cubes (M, 1, box, box, box) float32 and the indices (M,) of the positions that were kept, in the order given

    Raises
    ------
    InputError
        A position is not three finite numbers, or a box holds values that are not finite.
    """
    kept = np.sort(boxes(tomogram.shape, zyx, box, pixel_size, to_pixel_size, pad, flip_z)[1])
    cubes = torch.empty(len(kept), 1, box, box, box)
    for part, index in cut(tomogram, zyx, box, pixel_size, to_pixel_size, pad=pad, flip_z=flip_z):
        cubes[np.searchsorted(kept, index)] = part
    return cubes, kept


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


def ice_positions(tomogram: np.ndarray, zyx: np.ndarray, box: int, n: int, generator: torch.Generator) -> np.ndarray:
    """Positions (n, 3) whose boxes hold no given coordinate and none of the densest unlabelled matter.

    Boxes with a margin of a quarter box around them hold no coordinate; of these, the half in which the smoothed
    grey values vary least is drawn from, without repeats (the boxes may overlap). Of a tomogram of more than 2^24
    voxels, positions on a coarser lattice are drawn from, and a thumbnail of it is smoothed.
    """
    step = math.ceil((math.prod(tomogram.shape) / 2**24) ** (1 / 3))
    lattice = [np.arange(box // 2, size - (box - box // 2) + 1, step) for size in tomogram.shape]
    free = np.stack(np.meshgrid(*lattice, indexing="ij"), -1).reshape(-1, 3)
    if len(zyx) and len(free):
        distance, _ = spatial.cKDTree(np.asarray(zyx, float)).query(free, p=np.inf, distance_upper_bound=0.75 * box + 1)
        free = free[distance > 0.75 * box]
    if len(free) < n:
        raise InputError(f"Only {len(free)} boxes of {box} voxels hold no particle; wanted {n}: use a smaller box.")
    smooth = ndimage.gaussian_filter(thumbnail(tomogram, step), 1.5 / step)
    smooth -= np.median(smooth)
    busy = ndimage.uniform_filter(smooth**2, max(1, round(box / step)))
    busy = busy[tuple(np.minimum(free // step, np.array(busy.shape) - 1).T)]
    quiet = free[np.argsort(busy, kind="stable")[: max(n, len(free) // 2)]]
    return quiet[torch.randperm(len(quiet), generator=generator)[:n].numpy()]
