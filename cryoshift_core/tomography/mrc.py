"""MRC volumes and STAR tables on disk: what every claim of a header is checked against before memory is taken."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import mrcfile
import numpy as np

from ..errors import InputError
from .volumes import Volume, release

MODES = {0: np.int8, 1: np.int16, 2: np.float32, 6: np.uint16, 12: np.float16}


@dataclass(frozen=True)
class Header:
    shape: tuple[int, int, int]  # nz, ny, nx as stored: sections, rows, columns
    dtype: np.dtype
    offset: int
    voxel_size: float | None
    order: tuple[int, int, int]  # axis (0 = x) of columns, rows, sections
    stack: bool


def cubic_step(path: Path, steps: Sequence[float]) -> float | None:
    """Edge in A of cubic voxels, out of their steps along x, y, z; None where one of these is no positive number."""
    steps = np.asarray(steps, float)
    if not (np.isfinite(steps) & (steps > 0)).all():
        return None
    if steps.max() > 1.01 * steps.min():
        found = " x ".join(f"{s:.3g}" for s in steps)
        raise InputError(f"{path} has voxels of {found} A; wanted cubic ones: mend its header.")
    return float(steps.mean())


def check_fits(path: Path, shape: Sequence[int]) -> None:
    """Refuse what this machine can't hold as float32."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") if hasattr(os, "sysconf") else 1 << 36
    if 4 * np.prod(shape, dtype=float) > 0.8 * memory:
        raise InputError(f"{path} has {shape[::-1]} voxels, more than this machine's memory holds; bin or crop it.")


def check_values(path: Path, parts: Iterable[np.ndarray], enough: float = math.inf) -> None:
    """Refuse grey values that are not finite, or all the same; `parts` are the pieces of one volume.

    After `enough` of them no more are looked at, unless they were all the same.
    """
    low, high = np.inf, -np.inf
    for seen, part in enumerate(parts):
        if seen >= enough and low != high:
            break
        low, high = np.minimum(low, part.min()), np.maximum(high, part.max())  # NaN goes through both
    with np.errstate(over="ignore"):  # what overflows float32 is infinite in all that follows
        finite = np.isfinite(np.array([low, high], np.float32)).all()
    if not finite:
        raise InputError(f"{path} holds values that are not finite (NaN or infinite); mask or repair it first.")
    if low == high:
        raise InputError(f"{path} is constant ({low:g} everywhere); wanted a density: check how it was written.")


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
    stack = int(word[22]) == 401 or (path.suffix == ".mrcs" and nx == ny)
    steps = steps[:2] if stack else steps  # what many programs write for z is the spacing of images
    return Header((nz, ny, nx), dtype, offset, cubic_step(path, steps), axes, stack)


def read_data(path: Path, header: Header, mmap: bool) -> np.ndarray:
    """(Z, Y, X) voxels, left on disk or as float32 in memory, after a look at whether they are finite and vary.

    Of more than 2^28 voxels left on disk, 16 slabs are looked at; `volumes.cut` looks at each box that it reads.
    """
    if not mmap:
        check_fits(path, header.shape)
    data = np.memmap(path, header.dtype, "r", header.offset, header.shape)
    rows = max(1, (1 << 24) // data[0].size)
    starts = range(0, len(data), rows)
    few = dict.fromkeys(np.linspace(0, len(starts) - 1, 16).round().astype(int).tolist())
    enough = 1 if header.dtype.kind != "f" else len(few) if mmap else len(starts)  # integers are finite

    def slabs() -> Iterator[np.ndarray]:
        for i in [*few, *(i for i in range(len(starts)) if i not in few)]:
            yield data[starts[i] : starts[i] + rows]
            release(data)

    check_values(path, slabs(), enough)
    # Stored axis i is sections, rows, columns; bring z, y, x to the front in this order.
    data = data.transpose([(2 - header.order.index(axis)) for axis in (2, 1, 0)])
    return data if mmap else np.ascontiguousarray(data, np.float32)


def checked_voxel_size(path: Path, found: float | None, given: float | None) -> float:
    size = given or found
    if size is None or not 0 < size < 1e4:
        what = "no voxel size in its header" if size is None else f"a voxel size of {size} A"
        raise InputError(f"{path} has {what}; wanted A per voxel: give it as voxel_size, e.g. voxel_size = 10.0.")
    return float(size)


def read_mrc(path: str | Path, voxel_size: float | None = None, mmap: bool = False) -> Volume:
    """An MRC volume or map (modes 0, 1, 2, 6, 12; either byte order; any axis order).

    Parameters
    ----------
    voxel_size : A per voxel; overrides the header. 0 or None: the header's
    mmap : leave the voxels on disk, in the type they have there

    Raises
    ------
    InputError
        Missing, not MRC, truncated, no voxel size, not finite or constant.
    """
    path = Path(path)
    header = read_header(path)
    size = checked_voxel_size(path, header.voxel_size, voxel_size)
    return Volume(read_data(path, header, mmap), size, str(path))


def write_mrc(path: str | Path, data: np.ndarray, voxel_size: float) -> None:
    """Write (Z, Y, X), or a stack of cubes (N, 1, Z, Y, X), as MRC with its voxel size, atomically.

    int8, int16, uint16 and float16 stay as they are, all else becomes float32.
    """
    data = np.asarray(data)
    data = data if data.dtype in (np.int8, np.int16, np.uint16, np.float16) else data.astype(np.float32)
    partial = Path(f"{path}.part")
    with mrcfile.new(partial, overwrite=True) as file:
        file.set_data(data[:, 0] if data.ndim == 5 else data)
        file.voxel_size = voxel_size
    os.replace(partial, path)
