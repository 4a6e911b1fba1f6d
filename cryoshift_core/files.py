"""MRC volumes and STAR tables on disk: what every claim of a header is checked against before memory is taken."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import gemmi
import mrcfile
import numpy as np

from .volumes import InputError, Volume, release

MODES = {0: np.int8, 1: np.int16, 2: np.float32, 6: np.uint16, 12: np.float16}


@dataclass(frozen=True)
class Header:
    shape: tuple[int, int, int]  # nz, ny, nx as stored: sections, rows, columns
    dtype: np.dtype
    offset: int
    pixel_size: float | None
    order: tuple[int, int, int]  # axis (0 = x) of columns, rows, sections
    stack: bool


def read_header(path: Path) -> Header:
    """Header of an MRC file, its claims checked against the size of the file before any memory is taken."""
    if not path.is_file():
        raise InputError(f"{path} is not a file; check the path.")
    size = path.stat().st_size
    with path.open("rb") as file:
        raw = file.read(1024)
    if len(raw) < 1024 or raw[208:211] != b"MAP":
        raise InputError(
            f"{path} is not an MRC file ({size} bytes, no 'MAP' at byte 208); wanted MRC2014, uncompressed."
        )
    order = "<" if 0 <= int.from_bytes(raw[12:16], "little") <= 127 else ">"
    word = np.frombuffer(raw, order + "i4")
    real = np.frombuffer(raw, order + "f4")
    nx, ny, nz, mode = (int(v) for v in word[:4])
    if mode not in MODES:
        raise InputError(f"{path} has MRC mode {mode}; wanted one of {', '.join(map(str, MODES))} (real numbers).")
    dtype = np.dtype(MODES[mode]).newbyteorder(order)
    if mode == 0 and int(word[38]) == 1146047817 and not int(word[39]) & 1:
        dtype = np.dtype(np.uint8)  # IMOD's stamp without its "signed bytes" flag
    offset = 1024 + int(word[23])
    wanted = offset + nx * ny * nz * dtype.itemsize
    if min(nx, ny, nz) < 1 or offset < 1024 or wanted > size:
        raise InputError(
            f"{path} claims {nx} x {ny} x {nz} voxels, {wanted} bytes, but has {size}: it is truncated or "
            "damaged; copy it again."
        )
    axes = tuple(int(v) - 1 for v in word[16:19])
    axes = axes if sorted(axes) == [0, 1, 2] else (0, 1, 2)
    cell, sampling = real[10:13].astype(float), word[7:10].astype(float)
    with np.errstate(all="ignore"):
        steps = cell / sampling
    steps = steps[np.isfinite(steps) & (steps > 0)]
    if len(steps) == 3 and steps.max() > 1.01 * steps.min():
        raise InputError(f"{path} has voxels of {steps[0]:.3g} x {steps[1]:.3g} x {steps[2]:.3g} A; wanted cubic ones.")
    stack = int(word[22]) == 401 or (path.suffix == ".mrcs" and nx == ny)
    return Header((nz, ny, nx), dtype, offset, float(steps.mean()) if len(steps) == 3 else None, axes, stack)


def read_data(path: Path, header: Header, mmap: bool) -> np.ndarray:
    """(Z, Y, X) voxels, left on disk or as float32 in memory, after a look at whether they are finite and vary.

    Of more than 2^28 voxels left on disk, 16 slabs are looked at; `volumes.cut` looks at each box that it reads.
    """
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") if hasattr(os, "sysconf") else 1 << 36
    if not mmap and 4 * np.prod(header.shape, dtype=float) > 0.8 * memory:
        raise InputError(
            f"{path} has {header.shape[::-1]} voxels, more than this machine's memory holds; bin or crop it."
        )
    data = np.memmap(path, header.dtype, "r", header.offset, header.shape)
    rows = max(1, (1 << 24) // data[0].size)
    starts = range(0, len(data), rows)
    few = dict.fromkeys(np.linspace(0, len(starts) - 1, 16).round().astype(int).tolist())
    enough = 1 if header.dtype.kind != "f" else len(few) if mmap else len(starts)  # integers are finite
    low, high = np.inf, -np.inf
    # What varies nowhere in the few slabs may do so in the rest.
    for seen, slab in enumerate([*few, *(i for i in range(len(starts)) if i not in few)]):
        if seen >= enough and low != high:
            break
        voxels = data[starts[slab] : starts[slab] + rows]
        low, high = np.minimum(low, voxels.min()), np.maximum(high, voxels.max())  # NaN goes through both
        release(data)
    if not np.isfinite([low, high]).all():
        raise InputError(f"{path} holds values that are not finite (NaN or infinite); mask or repair it first.")
    if low == high:
        raise InputError(f"{path} is constant ({low:g} everywhere); wanted a density: check how it was written.")
    # Stored axis i is sections, rows, columns; bring z, y, x to the front in this order.
    data = data.transpose([(2 - header.order.index(axis)) for axis in (2, 1, 0)])
    return data if mmap else np.ascontiguousarray(data, np.float32)


def checked_pixel_size(path: Path, header: Header, given: float | None) -> float:
    size = given or header.pixel_size
    if size is None or not 0 < size < 1e4:
        found = "no voxel size in its header" if size is None else f"a voxel size of {size} A"
        raise InputError(f"{path} has {found}; wanted A per voxel: give it as pixel_size, e.g. pixel_size = 10.0.")
    return float(size)


def read_mrc(path: str | Path, pixel_size: float | None = None, mmap: bool = False) -> Volume:
    """An MRC volume or map (modes 0, 1, 2, 6, 12; either byte order; any axis order).

    Parameters
    ----------
    pixel_size : A per voxel; overrides the header. 0 or None: the header's
    mmap : leave the voxels on disk, in the type they have there

    Raises
    ------
    InputError
        Missing, not MRC, truncated, no voxel size, not finite or constant.
    """
    path = Path(path)
    header = read_header(path)
    size = checked_pixel_size(path, header, pixel_size)
    return Volume(read_data(path, header, mmap), size, str(path))


def write_mrc(path: str | Path, data: np.ndarray, pixel_size: float) -> None:
    """Write (Z, Y, X), or a stack of cubes (N, 1, Z, Y, X), as MRC with its voxel size, atomically.

    int8, int16, uint16 and float16 stay as they are, all else becomes float32.
    """
    data = np.asarray(data)
    data = data if data.dtype in (np.int8, np.int16, np.uint16, np.float16) else data.astype(np.float32)
    partial = Path(f"{path}.part")
    with mrcfile.new(partial, overwrite=True) as file:
        file.set_data(data[:, 0] if data.ndim == 5 else data)
        file.voxel_size = pixel_size
    os.replace(partial, path)


def read_star(path: str | Path) -> dict[str, dict[str, list[str]]]:
    """All tables of a STAR file: block name -> column name without its leading underscore -> values as text."""
    if not Path(path).is_file():
        raise InputError(f"{path} is not a file; check the path.")
    try:
        document = gemmi.cif.read_file(str(path))
    except (RuntimeError, ValueError) as error:
        raise InputError(
            f"{path} is not a STAR file ({str(error).splitlines()[0]}); wanted RELION's format."
        ) from error
    tables: dict[str, dict[str, list[str]]] = {}
    for block in document:
        table = tables.setdefault(block.name.strip(), {})
        for item in block:
            if item.pair:
                table[item.pair[0][1:]] = [gemmi.cif.as_string(item.pair[1])]
            elif item.loop:
                for column, tag in enumerate(item.loop.tags):
                    cells = range(item.loop.length())
                    table[tag[1:]] = [gemmi.cif.as_string(item.loop[row, column]) for row in cells]
    return tables


def _cell(value: object) -> str:
    """A value as STAR text; quoted only where it must be, for RELION reads no quotes."""
    text = str(value)
    plain = text and text[0] not in "_#'\"$;[]" and not any(c.isspace() for c in text)
    reserved = text.lower().startswith(("data_", "loop_", "save_", "stop_", "global_"))
    return text if plain and not reserved else gemmi.cif.quote(text)


def write_star(path: str | Path, tables: dict[str, dict[str, list]]) -> None:
    """Write tables (block name -> column -> values) as a STAR file, atomically."""
    lines = []
    for name, table in tables.items():
        lines += [f"data_{name}", "", "loop_", *(f"_{column} #{i}" for i, column in enumerate(table, 1))]
        rows = zip(*table.values(), strict=True)
        lines += ["\t".join(_cell(value) for value in row) for row in rows]
        lines += ["", ""]
    partial = Path(f"{path}.part")
    partial.write_text("\n".join(lines))
    os.replace(partial, path)
