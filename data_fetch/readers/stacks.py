"""Extracted subtomograms: a stack, a folder of cubes, or a STAR that names them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch

from cryoshift_core.data import crop
from cryoshift_core.errors import InputError
from cryoshift_core.tomography.mrc import check_fits, checked_voxel_size, read_data, read_header
from cryoshift_core.tomography.volumes import Particles

from . import grids, montage, star

Imaged = tuple[Sequence[np.ndarray | grids.OnDisk], float]


def _read_mrc(path: Path, voxel_size: float | None) -> Imaged:
    header = read_header(path)
    size = checked_voxel_size(path, header.voxel_size, voxel_size)
    data = read_data(path, header, mmap=True)
    nz, ny, nx = data.shape
    if not header.stack and nz == ny == nx:
        return [data], size
    if ny != nx or nz % ny:
        raise InputError(
            f"{path} has {nx} x {ny} x {nz} voxels; wanted a cube, or a stack of cubes (z a multiple of y)."
        )
    return [data[start : start + ny] for start in range(0, nz, ny)], size


def _read_em(path: Path, voxel_size: float | None) -> Imaged:
    volume = grids.read_em(path, voxel_size, mmap=True)
    return [volume.data], volume.voxel_size


def _read_hdf(path: Path, voxel_size: float | None) -> Imaged:
    images = grids.open_hdf(path)
    sizes = [checked_voxel_size(path, found, voxel_size) for _, found in images]
    if max(sizes) > 1.01 * min(sizes):
        raise InputError(f"{path} has {min(sizes):.3g} to {max(sizes):.3g} A per voxel; wanted one pixel size.")
    return [grid for grid, _ in images], sizes[0]


def _read_png(path: Path, voxel_size: float | None) -> Imaged:
    cube, size = montage.read_montage(path, voxel_size)
    return [cube], size


# ending of the file's name -> its reader: path, pixel size or None -> cubes and their pixel size
SOURCES: dict[str, Callable[[Path, float | None], Imaged]] = {
    ".mrc": _read_mrc,
    ".mrcs": _read_mrc,
    ".em": _read_em,
    ".hdf": _read_hdf,
    ".png": _read_png,
}


def _members(folder: Path) -> list[Path]:
    """Files of a folder, or of its sub-folders where it has none of its own, in the order of their names."""
    endings = [ending for ending in SOURCES if ending != ".mrcs"]
    for pattern in ("*", "*/*"):
        found = {ending: sorted(folder.glob(pattern + ending)) for ending in endings}
        kinds = [ending for ending, files in found.items() if files]
        kinds = [ending for ending in kinds if ending != ".png"] or kinds  # beside volumes, PNGs are previews
        if len(kinds) > 1:
            raise InputError(f"Folder {folder} holds {' and '.join(kinds)} files; wanted one kind: move the others.")
        if kinds:
            return found[kinds[0]]
    raise InputError(f"Folder {folder} holds no {' files, no '.join(endings)} files; wanted one per subtomogram.")


def read_subtomograms(path: str | Path, box: int | None = None, voxel_size: float | None = None) -> Particles:
    """Subtomograms from a stack (.mrcs, .mrc, .hdf), a folder of one file per cube, or a STAR with _rlnImageName.

    A folder holds .mrc, .em (Dynamo's particle_000001.em), .hdf, or .png (see `montage`), one cube each, taken in the
    order of their names. If they lie in sub-folders, such as one per class, the name of each file's sub-folder becomes
    the column csFolder: what a person sorted by hand, kept for an answer key and never shown to training. Names in a
    STAR are "000001@stack.mrcs" or "one.mrc", relative to the STAR and inside its folder.

    Parameters
    ----------
    box : voxels; larger cubes are cropped to their centre
    voxel_size : A per voxel; overrides the STAR's _rlnImagePixelSize and the headers

    Returns
    -------
    Particles with cubes, pixel size, and at least the column rlnImageName
    """
    path = Path(path)
    table: dict[str, list[str]] = {}
    wanted: dict[Path, list[tuple[int, int]]] = {path: []}  # file -> rows and which of its cubes each takes
    about = {}
    if path.is_dir():
        files = _members(path)
        table["rlnImageName"] = [file.relative_to(path).as_posix() for file in files]
        if files[0].parent != path:
            table["csFolder"] = [file.parent.name for file in files]
        wanted = {file: [(row, 0)] for row, file in enumerate(files)}
    elif path.suffix.lower() == ".star":
        block, table, rest = star.table_with(path, "rlnImageName")
        about = {"kind": "star", "block": block, "rest": rest, "angles": star.angles_of(path, table)}
        for source in (rest.get("optics", {}), table):
            if not voxel_size and "rlnImagePixelSize" in source:
                voxel_size = float(star.numbers(path, source, "rlnImagePixelSize")[0])
        wanted = {}
        for row, name in enumerate(table["rlnImageName"]):
            index, _, file = name.rpartition("@")
            target = (path.parent / file).resolve()
            if not target.is_relative_to(path.parent.resolve()) or not (index or "1").isdigit():
                raise InputError(
                    f"{path}: _rlnImageName '{name}' leaves the STAR's folder or has no number before its @."
                )
            wanted.setdefault(target, []).append((row, int(index or 1) - 1))
    cubes, first = None, 0.0
    for file, rows in wanted.items():
        stack, size = SOURCES.get(file.suffix.lower(), _read_mrc)(file, voxel_size)
        if path.is_dir() and len(stack) != 1:
            raise InputError(f"{file} holds {len(stack)} cubes; wanted one per file of a folder: give it by itself.")
        if cubes is None:
            if not rows:
                table["rlnImageName"] = [f"{i + 1:06d}@{path.name}" for i in range(len(stack))]
                rows = [(i, i) for i in range(len(stack))]
            first, edge = size, box or stack[0].shape[-1]
            check_fits(path, (edge, edge, edge, len(table["rlnImageName"])))
            cubes = torch.empty(len(table["rlnImageName"]), 1, edge, edge, edge)
        if abs(size / first - 1) > 0.01:
            raise InputError(f"{file} has {size:.3g} A per voxel, the first file {first:.3g} A; wanted one pixel size.")
        for row, index in rows:
            name = table["rlnImageName"][row]
            if not 0 <= index < len(stack):
                raise InputError(f"{path}: '{name}' asks for volume {index + 1} of {file}, which holds {len(stack)}.")
            z, y, x = shape = stack[index].shape
            if min(shape) != max(shape):
                raise InputError(f"{name} has {x} x {y} x {z} voxels; wanted a cube.")
            if x < edge or (box is None and x != edge):
                raise InputError(f"{name} has {x} voxels per edge; wanted {edge}: set a smaller box.")
            cubes[row, 0] = crop(torch.from_numpy(np.array(stack[index], np.float32)), edge)
    return Particles(table, subtomograms=cubes, voxel_size=first, **about)
