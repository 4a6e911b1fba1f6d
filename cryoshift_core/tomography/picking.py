"""Candidate positions of particles in a tomogram: local maxima of a difference of Gaussians at known diameters."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import ndimage, spatial
from sklearn.isotonic import IsotonicRegression
from tqdm import tqdm

from ..errors import InputError
from .volumes import release

COARSE = 6.0  # voxels: a structure wider than twice this is searched in binned voxels
RATIO = 1.6  # width of the wide Gaussian over that of the narrow one, where it approximates a Laplacian
APART = 0.7  # mean diameters between two candidates
INSIDE = 0.8  # least fraction of the narrow Gaussian on voxels that hold data
EXTREME = 3.0  # times the 99.9 % quantile of the grey values: gold, not protein
MOST = 200_000  # maxima that are looked at, the highest ones; minima down to the same height
BLOCK = 224  # edge in voxels of what is filtered at a time, without margins
AT_A_TIME = 4096  # positions whose neighbours are listed at a time
LONG = 16  # blocks from which on their number is shown
FEWEST = 200  # candidates, where there are twice as many maxima
TRUNCATE = 3.0  # widths at which a Gaussian ends


@dataclass(frozen=True, eq=False)
class Candidates:
    """Positions where a tomogram has a blob of about the size of a structure, the best first.

    Attributes
    ----------
    zyx : (N, 3) voxels of the tomogram, counted from 0 at the first voxel's centre, finer than a voxel
    score : (N,) height of the maximum above the median of the filtered tomogram, in its robust standard deviations
    real : (N,) estimated fraction of particles among maxima of that height, 0 to 1; the others are noise
    weak : (M, 3) zyx of the maxima below the candidates, the best first; most of them are noise
    diameter : (N,) A, of the structure whose filter gave the maximum
    stands_out : whether the candidates are more or higher than the minima of the same filter, which are no particles
    """

    zyx: np.ndarray
    score: np.ndarray
    real: np.ndarray
    diameter: np.ndarray
    weak: np.ndarray
    stands_out: bool

    def __len__(self) -> int:
        return len(self.zyx)


def find_candidates(
    volume: np.ndarray, voxel_size: float, diameters: Sequence[float], *, contrast: str, n: int, block: int = BLOCK
) -> Candidates:
    """At most `n` local maxima of differences of Gaussians of a tomogram, at least 0.7 mean diameters apart.

    For a structure of diameter d the filter has its strongest response to a ball of that diameter: widths of
    d / (2 sqrt(3)) times and over sqrt(1.6) (Lindeberg 1998, Int. J. Comput. Vis. 30:79). Constant regions, such as a
    padded rim, and what lies beyond the border have no weight in the Gaussians; positions there, and at gold, are left
    out. The list ends where half of the maxima may be noise. The volume is read in blocks, once per diameter, in voxels
    binned to at most a sixth of it.

    Parameters
    ----------
    volume : (Z, Y, X); it may stay on disk
    voxel_size : A
    diameters : A, of the structures, at least one
    contrast : "bright" or "dark", of protein
    n : largest number of candidates
    block : edge of the part that is filtered at a time, in voxels, without margins

    Raises
    ------
    InputError
        no diameter above 0, or `n` below 1
    """
    sizes = _distinct(diameters)
    if not sizes or n < 1:
        raise InputError(
            f"Expected structures with a diameter and at least one candidate, got diameters {list(diameters)} and "
            f"{n} candidates: name a molecule, or raise the number."
        )
    sign = -1.0 if contrast == "dark" else 1.0
    parts = [_extrema(volume, size / voxel_size, sign, block) for size in sizes]
    zyx, score = np.concatenate([at for at, _ in parts]), np.concatenate([height for _, height in parts])
    d = np.repeat(sizes, [len(height) for _, height in parts])
    order = np.argsort(-score, kind="stable")
    high, low = order[score[order] > 0], order[score[order] < 0][::-1]
    if len(high) > (most := max(MOST, 20 * n)):  # what is lower decides nothing about the candidates
        high = high[:most]
        low = low[-score[low] >= score[high[-1]]]
    best = high[_apart(zyx[high], d[high] / voxel_size)]
    noise = -score[low[_apart(zyx[low], d[low] / voxel_size)]]
    number = _above_noise(score[best], noise)
    listed = best[: min(n, number)]
    return Candidates(
        zyx=zyx[listed],
        score=score[listed],
        real=_real(score[best], noise)[: len(listed)],
        diameter=d[listed],
        weak=zyx[best[number:]],
        stands_out=_stands_out(score[best], noise),
    )


def _distinct(diameters: Sequence[float]) -> list[float]:
    """Ascending diameters above 0 that differ by a quarter at least; close ones share the filter of the smallest."""
    kept: list[float] = []
    for diameter in sorted(d for d in diameters if d > 0):
        if not kept or diameter > 1.25 * kept[-1]:
            kept.append(float(diameter))
    return kept


def _binned(volume: np.ndarray, part: Sequence[slice], step: int) -> np.ndarray:
    """A part of the volume, given in voxels of `step`^3, as their means (Z, Y, X) float32."""
    out = np.empty([edge.stop - edge.start for edge in part], np.float32)
    rows, columns = (slice(edge.start * step, edge.stop * step) for edge in part[1:])
    for i in range(len(out)):
        first = (part[0].start + i) * step
        layer = np.asarray(volume[first : first + step, rows, columns], np.float32)
        out[i] = layer if step == 1 else layer.reshape(step, out.shape[1], step, out.shape[2], step).mean((0, 2, 4))
        release(volume)
    return out


def _blank(data: np.ndarray) -> np.ndarray:
    """Voxels of constant regions (Z, Y, X) bool: those in a 3^3 block of equal values."""
    if min(data.shape) > 1:  # a constant block, or its part at the border, has two squares of equal values in a row
        square = data[:, :, 1:] == data[:, :, :-1]
        square = square[:, 1:] & square[:, :-1] & (data[:, 1:, 1:] == data[:, :-1, 1:])
        if not (square[1:] & square[:-1]).any():
            return np.zeros(data.shape, bool)
    flat = ndimage.maximum_filter(data, 3) == ndimage.minimum_filter(data, 3)
    return ndimage.maximum_filter(flat, 3)


def _grey_values(volume: np.ndarray, step: int, sign: float) -> tuple[float, float]:
    """Median of the grey values, and the distance from it on the side of protein that only gold exceeds."""
    depth, height, width = (size // step for size in volume.shape)
    values = []
    for at in np.unique(np.linspace(1, max(1, depth - 2), 16).round().astype(int)):
        layers = slice(max(0, at - 1), min(depth, at + 2))
        part = _binned(volume, (layers, slice(0, height), slice(0, width)), step)
        values.append(part[~_blank(part) & np.isfinite(part)])
    grey = np.concatenate(values)
    if not len(grey):
        return 0.0, math.inf
    level = float(np.median(grey))
    return level, EXTREME * float(np.quantile(sign * (grey - level), 0.999))


def _blocks(shape: Sequence[int], edge: int, margin: int) -> Iterator[tuple[tuple[slice, ...], tuple[slice, ...]]]:
    """Parts that cover a volume of `shape`: each with its margins, and the part itself within these."""
    for corner in itertools.product(*(range(0, size, edge) for size in shape)):
        ends = [min(size, at + edge) for at, size in zip(corner, shape, strict=True)]
        low = [max(0, at - margin) for at in corner]
        yield (
            tuple(slice(a, min(size, b + margin)) for a, b, size in zip(low, ends, shape, strict=True)),
            tuple(slice(at - a, b - a) for at, a, b in zip(corner, low, ends, strict=True)),
        )


def _extrema(volume: np.ndarray, diameter: float, sign: float, block: int) -> tuple[np.ndarray, np.ndarray]:
    """Positions (M, 3) of maxima and minima of the filter for one diameter (voxels), and their heights (M,).

    Heights are above the median, in robust standard deviations; those of minima are negative.
    """
    step = min(max(1, int(diameter / COARSE)), *volume.shape)
    shape = [size // step for size in volume.shape]
    level, extreme = _grey_values(volume, step, sign)
    sigma = diameter / step / (2 * math.sqrt(3))
    margin = math.ceil(TRUNCATE * sigma * math.sqrt(RATIO)) + 2
    positions, heights, samples = [np.zeros((0, 3))], [np.zeros(0)], [np.zeros(0, np.float32)]
    blocks = list(_blocks(shape, block, margin))
    bar = tqdm(blocks, "find candidates", mininterval=1, ascii=True, unit="block", disable=len(blocks) < LONG)
    for part, core in bar:
        response, usable = _respond(_binned(volume, part, step), level, extreme, sign, sigma)
        inside = np.zeros_like(usable)
        inside[core] = usable[core]
        corner = np.array([edge.start for edge in part])
        for above in (np.greater_equal, np.less_equal):
            at = _peaks(response, inside, above)
            positions.append((at + _offset(response, at) + corner + 0.5) * step - 0.5)
            heights.append(response[tuple(at.T)] * 1.0)
        every = (slice(None), *(slice(-low % 3, None, 3) for low in corner[1:].tolist()))
        samples.append(response[every][inside[every]])
    values, zyx, found = np.concatenate(samples), np.concatenate(positions), np.concatenate(heights)
    if not len(values):
        return zyx, found
    middle = np.median(values)
    return zyx, (found - middle) / max(1.4826 * float(np.median(np.abs(values - middle))), 1e-30)


def _respond(
    data: np.ndarray, level: float, extreme: float, sign: float, sigma: float
) -> tuple[np.ndarray, np.ndarray]:
    """Difference of Gaussians (Z, Y, X) of width `sigma` of the voxels that hold data, and where it can be used."""
    bright = sign * (data - np.float32(level))
    gold = bright > extreme
    usable = ~(_blank(data) | gold) & np.isfinite(data)
    response, inside = _filter(np.where(usable, bright, np.float32(0)), usable, sigma)
    if gold.any():
        inside &= ndimage.gaussian_filter(gold.astype(np.float32), sigma, truncate=TRUNCATE) < 0.01
    return response, inside


def _filter(data: np.ndarray, usable: np.ndarray, sigma: float) -> tuple[np.ndarray, np.ndarray]:
    """Difference of Gaussians (Z, Y, X) of the usable voxels, and where enough of the narrow one lies on them."""

    def mean(s: float) -> tuple[np.ndarray, np.ndarray]:
        share = _share(usable, s)
        total = ndimage.gaussian_filter(data, s, mode="constant", truncate=TRUNCATE)
        return np.divide(total, np.maximum(share, np.float32(0.05)), out=total), share

    narrow, share = mean(sigma / math.sqrt(RATIO))
    inside = share >= INSIDE
    del share
    narrow -= mean(sigma * math.sqrt(RATIO))[0]
    return narrow, inside


def _share(usable: np.ndarray, sigma: float) -> np.ndarray:
    """Fraction (Z, Y, X) of a Gaussian about each voxel that lies on usable ones; those beyond the border are not."""
    if not usable.all():
        return ndimage.gaussian_filter(usable.astype(np.float32), sigma, mode="constant", truncate=TRUNCATE)
    along = [
        ndimage.gaussian_filter1d(np.ones(n, np.float32), sigma, mode="constant", truncate=TRUNCATE)
        for n in usable.shape
    ]
    return along[0][:, None, None] * along[1][:, None] * along[2]


def _peaks(response: np.ndarray, inside: np.ndarray, above: np.ufunc) -> np.ndarray:
    """Voxels (M, 3) that are `above` (or equal to) each of their 26 neighbours; not those on the faces of the array."""
    peak = inside[1:-1, 1:-1, 1:-1].copy()
    middle, steps = response[1:-1, 1:-1, 1:-1], [np.array(s) for s in itertools.product((-1, 0, 1), repeat=3)]
    for step in (s for s in steps if np.abs(s).sum() == 1):
        beside = tuple(slice(1 + d, n - 1 + d) for d, n in zip(step, response.shape, strict=True))
        peak &= above(middle, response[beside])
    at = np.argwhere(peak) + 1
    for step in (s for s in steps if np.abs(s).sum() > 1):  # few are left
        at = at[above(response[tuple(at.T)], response[tuple((at + step).T)])]
    return at


def _offset(response: np.ndarray, at: np.ndarray) -> np.ndarray:
    """Distance (M, 3) of each extremum from its voxel `at` (M, 3): a parabola along each axis, at most half a voxel."""
    out = np.zeros(at.shape)
    middle = response[tuple(at.T)].astype(float)
    for axis in range(3):
        before, after = at.copy(), at.copy()
        before[:, axis] = np.maximum(before[:, axis] - 1, 0)
        after[:, axis] = np.minimum(after[:, axis] + 1, response.shape[axis] - 1)
        low, high = response[tuple(before.T)].astype(float), response[tuple(after.T)].astype(float)
        bend = low + high - 2 * middle
        with np.errstate(divide="ignore", invalid="ignore"):
            shift = np.where(np.abs(bend) > 1e-12, 0.5 * (low - high) / bend, 0.0)
        out[:, axis] = np.clip(shift, -0.5, 0.5)
    return out


def _apart(zyx: np.ndarray, diameter: np.ndarray) -> np.ndarray:
    """Indices of positions (M, 3) in their order, each at least 0.7 mean diameters from those before it."""
    if not len(zyx):
        return np.zeros(0, int)
    tree, free = spatial.cKDTree(zyx), np.ones(len(zyx), bool)
    for first in range(0, len(zyx), AT_A_TIME):
        rows = first + np.flatnonzero(free[first : first + AT_A_TIME])
        near = spatial.cKDTree(zyx[rows]).sparse_distance_matrix(tree, APART * diameter.max(), output_type="ndarray")
        one, other = rows[near["i"]], near["j"]
        close = (other > one) & (near["v"] < APART * (diameter[one] + diameter[other]) / 2)
        one, other = one[close], other[close]
        order = np.argsort(one, kind="stable")
        ends = np.cumsum(np.bincount(one, minlength=len(zyx))[rows])
        for row, others in zip(rows, np.split(other[order], ends[:-1]), strict=True):
            if free[row]:
                free[others] = False
    return np.flatnonzero(free)


def _above_noise(found: np.ndarray, null: np.ndarray) -> int:
    """The number of maxima down to the height where half of them may be noise; `FEWEST`, or half of all, at least.

    Noise has as many maxima above a height as it has minima below the same. The heights descend.
    """
    number = np.arange(1, len(found) + 1)
    noise = len(null) - np.searchsorted(np.sort(null), found)
    good = np.flatnonzero(noise <= number / 2)
    return max(min(FEWEST, len(found) // 2), int(good[-1]) + 1 if len(good) else 0)


def _real(found: np.ndarray, null: np.ndarray) -> np.ndarray:
    """Estimated fraction (N,) of maxima of descending heights that are no noise, which falls with the height.

    Of maxima and minima of one height, a fraction q are maxima (isotonic regression); 1 - q are noise, and so are as
    many of the maxima.
    """
    if not len(found) or not len(null):
        return np.ones(len(found))
    heights, is_maximum = np.concatenate([found, null]), np.repeat([1.0, 0.0], [len(found), len(null)])
    q = IsotonicRegression(y_min=0.5, y_max=1.0, out_of_bounds="clip").fit(heights, is_maximum).predict(found)
    return (2 * q - 1) / q


def _stands_out(found: np.ndarray, null: np.ndarray) -> bool:
    """Whether maxima are more numerous than minima at some height by 4 standard errors, or the highest much higher.

    Noise has as many maxima above a height as it has minima below the same.
    """
    if not len(found) or not len(null):
        return bool(len(found))
    heights = np.sort(found)
    more = len(heights) - np.arange(len(heights))
    less = len(null) - np.searchsorted(np.sort(null), heights)
    excess = (more - less) / np.sqrt(more + less)
    return bool(excess.max() > 4 or found.max() > 1.5 * null.max())
