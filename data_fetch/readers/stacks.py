"""Extracted subtomograms from a stack, a folder of files, or a STAR that names them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from cryoshift_core.data import crop
from cryoshift_core.errors import InputError
from cryoshift_core.tomography.checks import check_fits, checked_voxel_size
from cryoshift_core.tomography.em import read_em
from cryoshift_core.tomography.mrc import read_data, read_header
from cryoshift_core.tomography.volumes import Particles

from . import grids, montage, star

# Subtomograms of one file, which may stay on disk, and their voxel size in A.
Stack = tuple[Sequence[np.ndarray | grids.OnDisk], float]
StackReader = Callable[[Path, float | None], Stack]


def read_mrc_stack(path: Path, voxel_size: float | None) -> Stack:
    """Subtomograms of an MRC file: one cubic volume, or a stack of them along z."""
    header = read_header(path)
    size = checked_voxel_size(path, header.voxel_size, voxel_size)
    data = read_data(path, header, mmap=True)
    nz, ny, nx = data.shape
    if not header.stack and nz == ny == nx:
        return [data], size
    if ny != nx or nz % ny:
        raise InputError(
            f"{path} has {nx} x {ny} x {nz} voxels; expected a cubic volume, or a stack of cubic volumes (z a multiple "
            "of y). If it is a tomogram, give it as tomogram, together with coordinates."
        )
    return [data[start : start + ny] for start in range(0, nz, ny)], size


def read_em_stack(path: Path, voxel_size: float | None) -> Stack:
    """The subtomogram of an EM file."""
    volume = read_em(path, voxel_size, mmap=True)
    return [volume.data], volume.voxel_size


def read_hdf_stack(path: Path, voxel_size: float | None) -> Stack:
    """All images of an EMAN2 HDF5 file."""
    images = grids.open_hdf(path)
    sizes = [checked_voxel_size(path, found, voxel_size) for _, found in images]
    if max(sizes) > 1.01 * min(sizes):
        raise InputError(
            f"{path}: expected one voxel size, got {min(sizes):.3g} to {max(sizes):.3g} A; split it or pass voxel_size."
        )
    return [grid for grid, _ in images], sizes[0]


def read_png_stack(path: Path, voxel_size: float | None) -> Stack:
    """The subtomogram of a PNG montage."""
    subtomogram, size = montage.read_montage(path, voxel_size)
    return [subtomogram], size


def _members(folder: Path, formats: Mapping[str, StackReader]) -> list[Path]:
    """Files of a folder, or of its sub-folders if it has none of its own, sorted by name."""
    endings = [ending for ending in formats if ending != ".mrcs"]
    for pattern in ("*", "*/*"):
        found = {ending: sorted(folder.glob(pattern + ending)) for ending in endings}
        kinds = [ending for ending, files in found.items() if files]
        kinds = [ending for ending in kinds if ending != ".png"] or kinds  # PNGs beside volumes are previews
        if len(kinds) > 1:
            raise InputError(f"Folder {folder} holds {' and '.join(kinds)} files; expected one kind: move the others.")
        if kinds:
            return found[kinds[0]]
    raise InputError(
        f"Folder {folder} holds no {' files, no '.join(endings)} files; expected one per subtomogram: check the path."
    )


def _named_in(path: Path, names: Sequence[str]) -> dict[Path, list[tuple[int, int]]]:
    """Files that a STAR's _rlnImageName refer to, each with the rows and the indices of their volumes in the file."""
    members: dict[Path, list[tuple[int, int]]] = {}
    for row, name in enumerate(names):
        index, _, file = name.rpartition("@")
        member = (path.parent / file).resolve()
        if not member.is_relative_to(path.parent.resolve()) or not (index or "1").isdigit():
            raise InputError(
                f"{path}: _rlnImageName '{name}' leaves the STAR's folder or has no number before its @; expected "
                "NUMBER@FILE or FILE, in that folder: correct it."
            )
        members.setdefault(member, []).append((row, int(index or 1) - 1))
    return members


def _refuse_one_volume(path: Path, stack: Sequence[np.ndarray | grids.OnDisk], is_volume: bool) -> None:
    """Raise InputError when a file that may be a tomogram holds one volume: one subtomogram cannot train a model."""
    if len(stack) == 1 and is_volume:
        z, y, x = stack[0].shape
        raise InputError(
            f"{path} holds one volume of {x} x {y} x {z} voxels; expected a stack, a folder or a STAR of several "
            "subtomograms. If it is a tomogram, give it as tomogram, together with coordinates."
        )


def read_subtomograms(
    path: str | Path,
    formats: Mapping[str, StackReader],
    box: int | None = None,
    voxel_size: float | None = None,
    *,
    volumes: Sequence[str] = (),
) -> Particles:
    """Subtomograms from a stack, a folder of one file per subtomogram, or a STAR with _rlnImageName.

    Files of a folder are taken in the order of their names. If they lie in sub-folders, such as one per class, the name
    of each file's sub-folder becomes the column csFolder: a classification by hand, kept as a held-out label and never
    used for training. Names in a STAR are "000001@stack.mrcs" or "one.mrc", relative to the STAR and in its folder.

    Parameters
    ----------
    formats : ending of a file's name -> its reader
    box : voxels; larger subtomograms are cropped to their centre. None: their own size
    voxel_size : A per voxel; overrides the STAR's _rlnImagePixelSize and the headers
    volumes : endings that tomograms have too; a single file of theirs with one volume is refused

    Returns
    -------
    Particles with subtomograms, voxel size, and at least the column rlnImageName

    Raises
    ------
    InputError
        No subtomograms, only one volume, volumes that are not cubic or differ in size or voxel size, names that lead
        out of the STAR's folder, or more than memory holds.
    """
    path = Path(path)
    table: dict[str, list[str]] = {}
    members: dict[Path, list[tuple[int, int]]] = {path: []}  # file -> rows and the index in the file for each
    kind, block, angles = "", "particles", None
    rest: dict[str, dict[str, list[str]]] = {}
    if path.is_dir():
        files = _members(path, formats)
        table["rlnImageName"] = [file.relative_to(path).as_posix() for file in files]
        if files[0].parent != path:
            table["csFolder"] = [file.parent.name for file in files]
        members = {file: [(row, 0)] for row, file in enumerate(files)}
    elif path.suffix.lower() == ".star":
        kind = "star"
        block, table, rest = star.table_with(path, "rlnImageName")
        angles = star.angles_of(path, table)
        pixel = star.per_row(path, table, rest.get("optics", {}), "rlnImagePixelSize")
        if not voxel_size and pixel is not None:
            if pixel.max() > 1.01 * pixel.min():
                raise InputError(
                    f"{path}: expected particles of one voxel size, got _rlnImagePixelSize {pixel.min():g} to "
                    f"{pixel.max():g} A; split the file by optics group, or pass voxel_size."
                )
            voxel_size = float(pixel[0])
        members = _named_in(path, table["rlnImageName"])
    out: Tensor | None = None
    first, edge = 0.0, 0
    for file, rows in members.items():
        stack, size = formats.get(file.suffix.lower(), read_mrc_stack)(file, voxel_size)
        if path.is_dir() and len(stack) != 1:
            raise InputError(
                f"{file} holds {len(stack)} volumes; expected one per file of a folder: give the file by itself."
            )
        if out is None:
            if not rows:
                _refuse_one_volume(path, stack, path.suffix.lower() in volumes)
                table["rlnImageName"] = [f"{i + 1:06d}@{path.name}" for i in range(len(stack))]
                rows = [(i, i) for i in range(len(stack))]
            first, edge = size, box or stack[0].shape[-1]
            check_fits(path, (len(table["rlnImageName"]), edge, edge, edge))
            out = torch.empty(len(table["rlnImageName"]), 1, edge, edge, edge)
        if abs(size / first - 1) > 0.01:
            raise InputError(
                f"{file}: expected {first:.3g} A per voxel, as in the first file, got {size:.3g} A; keep files of one "
                "voxel size, or pass voxel_size."
            )
        for row, index in rows:
            name = table["rlnImageName"][row]
            if not 0 <= index < len(stack):
                raise InputError(
                    f"{path}: '{name}' refers to volume {index + 1} of {file}, which holds {len(stack)}; correct it."
                )
            z, y, x = shape = stack[index].shape
            if min(shape) != max(shape):
                raise InputError(f"{name} has {x} x {y} x {z} voxels; expected a cubic box: extract it again.")
            if x < edge or (box is None and x != edge):
                raise InputError(f"{name} has {x} voxels per edge; expected {edge}: set a smaller box.")
            out[row, 0] = crop(torch.from_numpy(np.array(stack[index], np.float32)), edge)
    return Particles(table, subtomograms=out, voxel_size=first, angles=angles, kind=kind, block=block, rest=rest)
