"""MRC volumes on disk. Every claim of a header is checked before memory is allocated."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import mrcfile
import numpy as np

from ..errors import InputError
from ..support.runtime import atomic
from .checks import check_claim, check_file, check_fits, check_values, checked_voxel_size, cubic_step
from .volumes import Volume, release

MODES: dict[int, type[np.generic]] = {0: np.int8, 1: np.int16, 2: np.float32, 6: np.uint16, 12: np.float16}
IMOD_STAMP = 1146047817  # word 39 of files that IMOD wrote


@dataclass(frozen=True)
class Header:
    """Layout of the voxels in an MRC or EM file.

    Attributes
    ----------
    shape : nz, ny, nx as stored: sections, rows, columns
    dtype : type of the stored voxels, with its byte order
    offset : bytes before the first voxel
    voxel_size : A; None when the file has none
    order : axis (0 = x) of columns, rows, sections
    stack : the file is a stack of volumes or images rather than one volume
    """

    shape: tuple[int, int, int]
    dtype: np.dtype
    offset: int
    voxel_size: float | None
    order: tuple[int, int, int]
    stack: bool


def read_header(path: Path) -> Header:
    """Header of an MRC file; its claims are checked against the size of the file (MRC2014 format).

    Raises
    ------
    InputError
        Missing, not MRC, a mode without real numbers, truncated, or voxels that are not cubic.
    """
    check_file(path)
    with path.open("rb") as file:
        raw = file.read(1024)
    if len(raw) < 1024 or raw[208:211] != b"MAP":
        raise InputError(
            f"{path} is not an MRC file: expected uncompressed MRC2014, got {path.stat().st_size} bytes without 'MAP' "
            "at byte 208; check the file, or convert it to MRC."
        )
    order: Literal["<", ">"] = "<" if 0 <= int.from_bytes(raw[12:16], "little") <= 127 else ">"
    word = np.frombuffer(raw, order + "i4")
    real = np.frombuffer(raw, order + "f4")
    nx, ny, nz, mode = (int(v) for v in word[:4])
    if mode not in MODES:
        known = ", ".join(map(str, MODES))
        raise InputError(
            f"{path} has MRC mode {mode}; expected one of {known} (real numbers): convert it to one of them."
        )
    dtype = np.dtype(MODES[mode]).newbyteorder(order)
    if mode == 0 and int(word[38]) == IMOD_STAMP and not int(word[39]) & 1:
        dtype = np.dtype(np.uint8)  # IMOD marks signed bytes by a flag; without it, bytes are unsigned
    offset = 1024 + int(word[23])
    if offset < 1024:
        raise InputError(f"{path}: expected an extended header of 0 bytes or more, got {offset - 1024}; copy it again.")
    check_claim(path, (nx, ny, nz), offset + nx * ny * nz * dtype.itemsize)
    columns, rows, sections = (int(v) - 1 for v in word[16:19])
    axes = (columns, rows, sections) if sorted((columns, rows, sections)) == [0, 1, 2] else (0, 1, 2)
    cell, sampling = real[10:13].astype(float), word[7:10].astype(float)
    with np.errstate(all="ignore"):
        steps = cell / sampling
    stack = int(word[22]) == 401 or (path.suffix == ".mrcs" and nx == ny)
    steps = steps[:2] if stack else steps  # in stacks, many programs write the spacing of images for z
    return Header((nz, ny, nx), dtype, offset, cubic_step(path, steps), axes, stack)


def read_data(path: Path, header: Header, mmap: bool) -> np.ndarray:
    """(Z, Y, X) voxels, memory-mapped or in memory as float32; they are checked to be finite and not constant.

    In a memory-mapped file of more than 2^28 voxels, only 16 slabs are checked; `extraction.cut` checks each box it
    reads.
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
    # Stored axis i is sections, rows, columns; the transposed array has the axes z, y, x.
    data = data.transpose([(2 - header.order.index(axis)) for axis in (2, 1, 0)])
    return data if mmap else np.ascontiguousarray(data, np.float32)


def read_mrc(path: str | Path, voxel_size: float | None = None, mmap: bool = False) -> Volume:
    """A volume or map from an MRC file (modes 0, 1, 2, 6, 12; either byte order; any axis order).

    Parameters
    ----------
    voxel_size : A per voxel; overrides the header. 0 or None: the header's
    mmap : leave the voxels on disk, in their stored type

    Raises
    ------
    InputError
        Missing, not MRC, truncated, without voxel size, not finite or constant.
    """
    path = Path(path)
    header = read_header(path)
    size = checked_voxel_size(path, header.voxel_size, voxel_size)
    return Volume(read_data(path, header, mmap), size, str(path))


def write_mrc(path: str | Path, data: np.ndarray, voxel_size: float) -> None:
    """Return None; write (Z, Y, X), or a stack of subtomograms (N, 1, Z, Y, X), as MRC, atomically.

    int8, int16, uint16 and float16 keep their type; all others become float32.

    Parameters
    ----------
    voxel_size : A, written into the header
    """
    data = np.asarray(data)
    data = data if data.dtype in (np.int8, np.int16, np.uint16, np.float16) else data.astype(np.float32)
    with atomic(path) as partial, mrcfile.new(partial, overwrite=True) as file:
        file.set_data(data[:, 0] if data.ndim == 5 else data)
        file.voxel_size = voxel_size
