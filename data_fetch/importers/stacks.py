"""Extracted subtomograms in MRC: a volume stack, a folder of cubes, or a STAR that names them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from cryoshift_core.files import Header, checked_pixel_size, read_data, read_header
from cryoshift_core.volumes import InputError, Particles, crop

from . import star


def _read_stack(path: Path, header: Header) -> np.ndarray:
    """(N, Z, Y, X) of a volume stack, or of a single volume."""
    nz, ny, nx = header.shape
    data = read_data(path, header, mmap=True)
    if not header.stack and nz == ny == nx:
        return data[None]
    if ny != nx or nz % ny:
        raise InputError(
            f"{path} has {nx} x {ny} x {nz} voxels; wanted a cube, or a stack of cubes (z a multiple of y)."
        )
    return data.reshape(nz // ny, ny, ny, nx)


def read_subtomograms(path: str | Path, box: int | None = None, pixel_size: float | None = None) -> Particles:
    """Subtomograms from a volume stack (.mrcs, .mrc), a folder of .mrc files, or a STAR with _rlnImageName.

    Names in a STAR are "000001@stack.mrcs" or "one.mrc", relative to the STAR and inside its folder. Files of a folder
    come in the order of their names.

    Parameters
    ----------
    box : voxels; larger cubes are cropped to their centre
    pixel_size : A per voxel; overrides the STAR's _rlnImagePixelSize and the headers

    Returns
    -------
    Particles with cubes, pixel size, and at least the column rlnImageName
    """
    path = Path(path)
    if path.is_dir():
        files = sorted(path.glob("*.mrc"))
        names = [file.name for file in files]
        if not files:
            raise InputError(f"Folder {path} holds no .mrc files; wanted one per subtomogram.")
        wanted = [(file, 0) for file in files]
    elif path.suffix == ".star":
        block, table, rest = star.table_with(path, "rlnImageName")
        names = table["rlnImageName"]
        for source in (rest.get("optics", {}), table):
            if not pixel_size and "rlnImagePixelSize" in source:
                pixel_size = float(star.numbers(path, source, "rlnImagePixelSize")[0])
        wanted = []
        for name in names:
            index, _, file = name.rpartition("@")
            target = (path.parent / file).resolve()
            if not target.is_relative_to(path.parent.resolve()) or not (index or "1").isdigit():
                raise InputError(
                    f"{path}: _rlnImageName '{name}' leaves the STAR's folder or has no number before its @."
                )
            wanted.append((target, int(index or 1) - 1))
    else:
        names, wanted = [], []
    headers = {file: read_header(file) for file in dict.fromkeys([f for f, _ in wanted] or [path])}
    sizes = {file: checked_pixel_size(file, header, pixel_size) for file, header in headers.items()}
    size = next(iter(sizes.values()))
    odd = next((file for file, s in sizes.items() if abs(s / size - 1) > 0.01), None)
    if odd:
        raise InputError(f"{odd} has {sizes[odd]:.3g} A per voxel, the first file {size:.3g} A; wanted one pixel size.")
    stacks = {file: _read_stack(file, header) for file, header in headers.items()}
    if not wanted:
        wanted = [(path, i) for i in range(len(stacks[path]))]
        names = [f"{i + 1:06d}@{path.name}" for i in range(len(wanted))]
    edge = box or stacks[wanted[0][0]].shape[-1]
    cubes = torch.empty(len(wanted), 1, edge, edge, edge)
    for row, (file, index) in enumerate(wanted):
        stack = stacks[file]
        if not 0 <= index < len(stack):
            raise InputError(f"{path}: '{names[row]}' asks for volume {index + 1} of {file}, which holds {len(stack)}.")
        if stack.shape[-1] < edge or (box is None and stack.shape[-1] != edge):
            raise InputError(f"{names[row]} has {stack.shape[-1]} voxels per edge; wanted {edge}: set a smaller box.")
        cubes[row, 0] = crop(torch.from_numpy(np.array(stack[index], np.float32)), edge)
    if path.suffix == ".star":
        return Particles(table, cubes=cubes, pixel_size=size, kind="star", block=block, rest=rest)
    return Particles({"rlnImageName": names}, cubes=cubes, pixel_size=size)
