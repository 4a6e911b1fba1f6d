"""Density maps as classes: voxel size, contrast and support of the molecule."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor

from ..errors import InputError
from ..tomography.checks import cubic_step
from ..tomography.em import read_em_header
from ..tomography.mrc import Header, check_one_volume, read_data, read_header
from ..tomography.volumes import thumbnail

# Ending of a map's name, without .gz -> reader of its header
MAPS: dict[str, Callable[[Path], Header]] = {
    ".mrc": read_header,
    ".map": read_header,
    ".ccp4": read_header,
    ".rec": read_header,
    ".em": read_em_header,
}
VOXEL_SIZES = (0.2, 100.0)  # A, in the header of a map
GIVEN = (0.1, 1000.0)  # A, by the user
DIAMETERS = (30.0, 5000.0)  # A, of molecules
INSIDE = 2.5  # V, mean potential of a molecule relative to ice
VOLUME_PER_DALTON = 1.21  # A^3, of protein
CLEAR = 0.6  # of the third moment: bright and dark parts in the ratio 4 : 1
SOFT_RIM = 0.5  # of a mask's depth, at most
NOISE_BLURS = (0.0, 1.0, 1.5, 2.0)  # voxels, tried until noise is low enough to outline the molecule


@dataclass(frozen=True)
class Map:
    """A map as a class.

    Attributes
    ----------
    data : (n, n, n) float32, V relative to ice, positive in the molecule and 0 outside; centre of mass at n // 2
    voxel_size, diameter : A
    mass_kda : kDa, from the volume of the molecule
    source : what was read, such as "map average.em, voxels of 8 A, protein bright"
    doubts : sentences on what the user has to check
    """

    data: Tensor
    voxel_size: float
    diameter: float
    mass_kda: float
    source: str
    doubts: tuple[str, ...]


def map_ending(path: str | Path) -> str | None:
    """The ending in `MAPS` of a map's name, with or without .gz; None for other files."""
    ending = Path(Path(path).name.lower().removesuffix(".gz")).suffix
    return ending if ending in MAPS else None


def _read(path: str, voxel_size: float | None) -> tuple[np.ndarray, float | None]:
    """Grey values (Z, Y, X), and the voxel size in A: the given one, else the header's, or None."""
    file = Path(path)
    header = MAPS[map_ending(path) or ".mrc"](file)
    check_one_volume(file, header)
    way_out = f"give the voxel size behind the name of the class, such as {path}@8.0"
    return read_data(file, header, mmap=False), voxel_size or cubic_step(file, header.steps, way_out)


def _check_voxel_size(path: str, found: float | None) -> float:
    """The voxel size of a map's header; 0, 1.000 and values outside 0.2 to 100 A count as not given."""
    low, high = VOXEL_SIZES
    unset = found is not None and abs(found - 1) < 5e-4
    if found is None or unset or not low <= found <= high:
        got = "none" if found is None else f"{found:.4g} A"
        got += " (many programs write 1 where they do not know it)" if unset else ""
        also = f", {path}@1.0 if it is right" if unset else ""
        raise InputError(
            f"{path}: expected the voxel size in the header of the map, got {got}. Give it in A behind the name of the "
            f"class, such as {path}@8.0 for 8 A{also}."
        )
    return found


def _corners(shape: tuple[int, ...]) -> np.ndarray:
    """Voxels of the box that lie clearly outside its inscribed ellipsoid: ice, unless the box is too tight."""
    grid = np.ogrid[tuple(slice(-1, 1, n * 1j) for n in shape)]
    return np.asarray(sum(axis**2 for axis in grid) > 1.4)


def _background(data: np.ndarray, corners: np.ndarray) -> tuple[float, np.ndarray]:
    """Grey value of the ice, and the voxels (Z, Y, X) that a mask has left.

    Where the corners hold one value, a mask has set it. Inside a ball or a box, the ice keeps its own grey value, which
    is then that of the mask's rim and of most voxels; behind a soft rim, if a molecule stands out from it there. A mask
    that follows the molecule sets the ice to the value outside.
    """
    level = float(np.median(data[corners]))
    outside = ndimage.binary_opening(data == level)
    if outside[corners].mean() < 0.5:
        return level, np.ones(data.shape, bool)
    live = data != level
    rim = live & ~ndimage.binary_erosion(live, iterations=2)
    middle, edge = float(np.median(data[live])), float(np.median(data[rim]))
    spread = 1.4826 * float(np.median(np.abs(data[live] - middle)))
    if not (spread > 0 and _is_ball_or_box(live)):
        return level, live
    if abs(edge - middle) <= spread / 2:
        return edge, live
    return _behind_soft_rim(data, level, live) or (level, live)


def _behind_soft_rim(data: np.ndarray, level: float, live: np.ndarray) -> tuple[float, np.ndarray] | None:
    """Grey value of the ice behind a mask's soft rim, and the voxels behind it; None where the mask may be a molecule.

    The rim ends where layers have one grey value. That is the ice if a molecule stands out from it further inside: away
    from the value outside of the mask, or less than half the way towards it, because the inside of a hollow molecule
    has that value.

    Parameters
    ----------
    level : grey value outside of the mask
    live : voxels within it
    """
    depth = ndimage.distance_transform_edt(live)
    layers = [
        float(np.median(data[(depth > i) & (depth <= i + 1)])) for i in range(max(2, int(SOFT_RIM * depth.max())))
    ]
    even = [
        i for i, (one, next_) in enumerate(itertools.pairwise(layers)) if abs(next_ - one) < 0.03 * abs(one - level)
    ]
    if not even:
        return None
    ice, inside = layers[even[0] + 1], depth > even[0] + 1
    coarse = ndimage.gaussian_filter(np.where(inside, data - ice, 0), max(1.0, min(data.shape) / 24))
    third, size = _third_moment(coarse), np.abs(coarse)
    hollow = third * (ice - level) < 0 and size.max() > 0.5 * abs(ice - level)
    return (ice, inside) if abs(third) >= CLEAR and not hollow else None


def _is_ball_or_box(where: np.ndarray) -> bool:
    """Whether voxels (Z, Y, X) fill a ball, or a box along the axes, as a mask that does not follow the molecule."""
    at = np.argwhere(where)
    if len(at) > 0.95 * np.prod(np.ptp(at, axis=0) + 1):
        return True
    radius = (3 * len(at) / 4 / math.pi) ** (1 / 3)
    grid = np.ogrid[tuple(map(slice, where.shape))]
    ball = np.asarray(sum((axis - c) ** 2 for axis, c in zip(grid, at.mean(0), strict=True)) <= radius**2)
    return bool((ball & where).sum() > 0.95 * (ball | where).sum())


def _third_moment(density: np.ndarray) -> float:
    """Third moment over that of the absolute values: 1 or -1 where all deviations have one sign, 0 for noise."""
    size = (np.abs(density) ** 3).sum()
    return float((density**3).sum() / size) if size > 0 else 0.0


def _noise(density: np.ndarray, where: np.ndarray) -> float:
    """Standard deviation of the noise, from the 90 % quantile of its size; 0 where there is none to measure."""
    values = density[where]
    return float(np.quantile(np.abs(values), 0.9)) / 1.645 if len(values) > 0.01 * density.size else 0.0


def find_molecule(data: np.ndarray) -> tuple[int, np.ndarray, np.ndarray] | None:
    """Contrast and outline of the one molecule in a map.

    The grey values are taken relative to ice and smoothed by 1/24 of the box, so that noise averages out. Their third
    moment tells bright from dark: a molecule is dense, so few voxels deviate strongly to one side, while noise and the
    fringes of a filter deviate weakly, or to both. The outline is at 30 % of the molecule's density, or at 50 % of the
    smoothed density where noise requires it, and at least 3 standard deviations of the noise away from ice.

    Parameters
    ----------
    data : (Z, Y, X) grey values

    Returns
    -------
    1 (bright) or -1 (dark); density (Z, Y, X) relative to ice, positive in the molecule; outline (Z, Y, X) bool. None
    where neither side stands out, or noise is too strong for an outline.
    """
    corners = _corners(data.shape)
    data = ((data - data.mean(dtype=np.float64)) / data.std(dtype=np.float64)).astype(np.float32)
    level, live = _background(data, corners)
    density = np.where(live, data - level, np.float32(0))
    highest = 3 * np.abs(ndimage.gaussian_filter(density, 1.0)).max()
    density = np.clip(density, -highest, highest)  # single voxels of extreme value
    coarse = ndimage.gaussian_filter(density, max(1.0, min(data.shape) / 24))
    coarse -= np.median(coarse[corners])
    third = _third_moment(coarse)
    if abs(third) < CLEAR:
        return None
    sign = 1 if third > 0 else -1
    density, coarse = sign * density, sign * coarse
    core, around = coarse > 0.5 * coarse.max(), coarse > 0.2 * coarse.max()
    for blur in NOISE_BLURS:
        smooth = ndimage.gaussian_filter(density, blur) if blur else density
        noise = _noise(smooth, corners if live.all() else live & (smooth < 0))
        typical = float(np.quantile(smooth[core], 0.75))
        fraction = 0.5 if blur else 0.3
        if 3 * noise <= fraction * typical:
            break
    threshold = max(fraction * typical, 3 * noise)
    parts, n = ndimage.label((smooth > threshold) & around)
    if not n or threshold > 0.75 * typical:
        return None
    mass = ndimage.sum_labels(smooth, parts, np.arange(1, n + 1))
    return sign, density, np.isin(parts, 1 + np.flatnonzero(mass >= 0.05 * mass.max()))


def _touches(outline: np.ndarray) -> bool:
    """Whether a tenth of a face of the box lies in the molecule."""
    faces = [np.take(outline, end, axis) for axis in range(3) for end in (0, -1)]
    return max(float(face.mean()) for face in faces) > 0.1


def read_map(path: str, voxel_size: float | None = None, finest: float = 0.0) -> Map:
    """A density map as a class: the ice is taken as 0 V, the molecule's mean as 2.5 V.

    Parameters
    ----------
    path : MRC or EM file, also gzipped
    voxel_size : A; None: the header's
    finest : A; a map with voxels of less than a quarter of it is binned, to at most half of it

    Raises
    ------
    InputError
        Unreadable, without a credible voxel size, or without a molecule that stands out.
    """
    if voxel_size is not None and not GIVEN[0] <= voxel_size <= GIVEN[1]:
        raise InputError(
            f"{path}@{voxel_size:g}: expected a voxel size of {GIVEN[0]:g} to {GIVEN[1]:g} A behind @, got "
            f"{voxel_size:g}: write A per voxel, such as {path}@8.0."
        )
    data, found = _read(path, voxel_size)
    size = stated = voxel_size or _check_voxel_size(path, found)
    if min(data.shape) < 8 or max(data.shape) > 4 * min(data.shape):
        z, y, x = data.shape
        raise InputError(f"{path}: expected the map of one molecule, got {x} x {y} x {z} voxels; cut it out first.")
    if (factor := int(finest / 2 / size)) > 1:
        data, size = thumbnail(data, factor), size * factor
    molecule = find_molecule(data)
    if molecule is None:
        raise InputError(
            f"{path}: expected a molecule that is clearly brighter or clearly darker than its surroundings, got none. "
            "Set the voxels outside of it to 0 with a mask, or give its PDB or mmCIF file."
        )
    sign, density, outline = molecule
    zyx, weight = np.argwhere(outline).astype(float), density[outline]
    centre = weight @ zyx / weight.sum()
    radius = float(np.quantile(np.linalg.norm(zyx - centre, axis=1), 0.999)) + 0.5
    diameter = 2 * radius * size
    if voxel_size is None and not DIAMETERS[0] <= diameter <= DIAMETERS[1]:
        raise InputError(
            f"{path}: expected a molecule of {DIAMETERS[0]:g} to {DIAMETERS[1]:g} A, got {diameter:.3g} A with the "
            f"header's voxels of {stated:.4g} A. Give the voxel size in A behind the name of the class, such as "
            f"{path}@8.0 for 8 A."
        )
    soft = ndimage.gaussian_filter(ndimage.binary_dilation(outline, iterations=2).astype(np.float32), 0.7)
    doubts = [] if sign > 0 else [f"{path}: protein is dark in this map; it was inverted."]
    parts, n = ndimage.label(ndimage.binary_dilation(outline))
    if n > 1 and (sizes := sorted(np.bincount(parts[outline])[1:]))[-2] > 0.3 * sizes[-1]:
        doubts.append(f"{path}: {n} separate parts were drawn as one molecule; if they are several, mask the others.")
    if _touches(outline):
        doubts.append(f"{path}: the molecule reaches the border of the map, and is cut off there.")
    mass = outline.sum() * size**3 / VOLUME_PER_DALTON / 1000
    contrast = "bright" if sign > 0 else "dark (inverted)"
    return Map(
        data=_centred(density * soft * (INSIDE / weight.mean()), centre, 2 * math.ceil(radius + 3)),
        voxel_size=size,
        diameter=diameter,
        mass_kda=float(mass),
        source=f"map {Path(path).name}, voxels of {stated:.4g} A, protein {contrast}",
        doubts=tuple(doubts),
    )


def _centred(data: np.ndarray, centre: np.ndarray, n: int) -> Tensor:
    """(n, n, n) float32 on the CPU, with the point `centre` (zyx, voxels) of `data` at index n // 2."""
    coordinate = torch.arange(n, dtype=torch.float64, device="cpu") - n // 2
    grid = torch.meshgrid(*(coordinate + c for c in centre), indexing="ij")
    size = torch.tensor(data.shape, dtype=torch.float64, device="cpu") - 1
    points = torch.stack([2 * g / s - 1 for g, s in zip(reversed(grid), size.flip(0), strict=True)], -1)
    source = torch.from_numpy(data).double()[None, None]
    return torch.nn.functional.grid_sample(source, points[None], align_corners=True)[0, 0].float()
