"""MRC volumes on disk, plain or gzipped. Every claim of a header is checked before memory is allocated."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Literal, cast

import mrcfile
import numpy as np

from ..errors import InputError
from ..support.runtime import atomic
from .checks import check_claim, check_file, check_fits, check_values, checked_voxel_size, cubic_step
from .volumes import Volume, release

MODES: dict[int, type[np.generic]] = {0: np.int8, 1: np.int16, 2: np.float32, 6: np.uint16, 12: np.float16}
# Programs mix up signed and unsigned integers; a header's minimum and maximum tell which was meant.
OTHER_SIGN: dict[str, type[np.generic]] = {"i1": np.uint8, "u1": np.int8, "i2": np.uint16, "u2": np.int16}
IMOD_STAMP = 1146047817  # word 39 of files that IMOD wrote
MACHINES: dict[bytes, Literal["<", ">"]] = {b"DD": "<", b"DA": "<", b"D\x11": "<", b"\x11\x11": ">"}
CAMERA_HEADERS = (b"SERI", b"FEI1", b"FEI2")  # extended headers of single images, which acquisition programs write
MOST_GZIP = 1032  # bytes that deflate can make of one
GZIP_DAMAGE = (OSError, EOFError, zlib.error)
Kind = Literal["volume", "volumes", "images"]


@dataclass(frozen=True)
class Header:
    """Layout of the voxels in an MRC or EM file.

    Attributes
    ----------
    shape : nz, ny, nx as stored: sections, rows, columns
    dtype : type of the stored voxels, with its byte order
    offset : bytes before the first voxel
    steps : A along x, y, z as the header states them; 0 or not finite where it states none
    order : axis (0 = x) of columns, rows, sections
    kind : one volume, a stack of volumes, or a stack of images (2-D particles, a tilt series)
    depth : sections of each volume of a stack; 0 where the header does not state it
    range : smallest and largest value according to the header; None where it states none
    """

    shape: tuple[int, int, int]
    dtype: np.dtype
    offset: int
    steps: tuple[float, float, float] = (0.0, 0.0, 0.0)
    order: tuple[int, int, int] = (0, 1, 2)
    kind: Kind = "volume"
    depth: int = 0
    range: tuple[float, float] | None = None


def _is_gzipped(path: Path) -> bool:
    """Whether a file is gzipped, whatever its name: it begins with 1f 8b."""
    with path.open("rb") as file:
        return file.read(2) == b"\x1f\x8b"


def _open(path: Path) -> BinaryIO:
    return cast(BinaryIO, gzip.open(path, "rb")) if _is_gzipped(path) else path.open("rb")


def _damaged(path: Path, error: Exception) -> InputError:
    return InputError(f"{path} is a damaged gzip file ({' '.join(str(error).split())[:100]}); copy it again.")


def read_start(path: Path, n: int) -> tuple[bytes, int]:
    """The first n bytes of a file, plain or gzipped, and how many bytes it holds at most.

    Raises
    ------
    InputError
        Missing, or a damaged gzip file.
    """
    check_file(path)
    try:
        with _open(path) as file:
            raw = file.read(n)
    except GZIP_DAMAGE as error:
        raise _damaged(path, error) from error
    return raw, path.stat().st_size * (MOST_GZIP if _is_gzipped(path) else 1)


def _byte_order(raw: bytes, held: int) -> Literal["<", ">"]:
    """Byte order of a header: the first that fits the `held` bytes of the file, the one of its machine stamp first."""
    stamp = MACHINES.get(raw[212:214])
    first: Literal["<", ">"] = stamp or ("<" if 0 <= int.from_bytes(raw[12:16], "little") <= 127 else ">")
    for order in (first, "<" if first == ">" else ">"):
        nx, ny, nz, mode = (int(v) for v in np.frombuffer(raw, f"{order}i4", 4))
        extended = int(np.frombuffer(raw, f"{order}i4", 1, 92)[0])
        if mode in MODES and min(nx, ny, nz) > 0 and extended >= 0:
            if 1024 + extended + nx * ny * nz * np.dtype(MODES[mode]).itemsize <= held:
                return order  # type: ignore[return-value]
    return first


def _kind(path: Path, raw: bytes, group: int, shape: tuple[int, int, int], mz: int) -> tuple[Kind, int]:
    """Kind of a file and the sections of each of its volumes, from ISPG and mz (MRC2014, note 6).

    0 means images, with mz = 1; 1 a volume; 401 and more a stack of volumes of mz sections. IMOD wrote ISPG 0 and
    mz = nz for volumes, too, so such a file is a volume unless its name or its extended header are those of a camera.
    """
    nz = shape[0]
    if 401 <= group <= 630:
        return ("volumes", mz) if 0 < mz < nz and nz % mz == 0 else ("volumes", 0)
    images = path.name.lower().removesuffix(".gz").endswith((".st", ".ali", ".preali"))
    images |= raw[104:108] in CAMERA_HEADERS and any(raw[92:96])
    if group == 0 and nz > 1 and (mz == 1 or images):
        return "images", 1
    return "volume", 0


def read_header(path: Path) -> Header:
    """Header of an MRC file; its claims are checked against the size of the file (MRC2014 format).

    Raises
    ------
    InputError
        Missing, not MRC, a mode without real numbers, or truncated.
    """
    raw, held = read_start(path, 1024)
    if len(raw) < 1024 or raw[208:211] != b"MAP":
        raise InputError(
            f"{path} is not an MRC file: expected MRC2014, got {path.stat().st_size} bytes without 'MAP' "
            "at byte 208; check the file, or convert it to MRC."
        )
    order = _byte_order(raw, held)
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
    check_claim(path, (nx, ny, nz), offset + nx * ny * nz * dtype.itemsize, held)
    columns, rows, sections = (int(v) - 1 for v in word[16:19])
    axes = (columns, rows, sections) if sorted((columns, rows, sections)) == [0, 1, 2] else (0, 1, 2)
    with np.errstate(all="ignore"):
        x, y, z = (real[10:13].astype(float) / word[7:10]).tolist()
    kind, depth = _kind(path, raw, int(word[22]), (nz, ny, nx), int(word[9]))
    low, high = float(real[19]), float(real[20])
    stated = (low, high) if np.isfinite([low, high]).all() and low < high else None
    return Header((nz, ny, nx), dtype, offset, (x, y, z), axes, kind, depth, stated)


def _stored(path: Path, header: Header) -> np.ndarray:
    """(nz, ny, nx) voxels as stored: memory-mapped, or unpacked into memory if the file is gzipped."""
    if not _is_gzipped(path):
        return np.memmap(path, header.dtype, "r", header.offset, header.shape)
    check_fits(path, header.shape)
    size = int(np.prod(header.shape, dtype=object)) * header.dtype.itemsize
    try:
        with _open(path) as file:
            file.seek(header.offset)
            raw = file.read(size)
    except GZIP_DAMAGE as error:
        raise _damaged(path, error) from error
    if len(raw) < size:
        raise _damaged(path, EOFError(f"expected {size} bytes of voxels, got {len(raw)}"))
    return np.frombuffer(raw, header.dtype).reshape(header.shape)


def _signed_as_stated(data: np.ndarray, header: Header) -> np.ndarray:
    """Integers with the other sign where only then they lie within the minimum and maximum that the header states."""
    other = OTHER_SIGN.get(header.dtype.str[1:])
    if other is None or header.range is None:
        return data
    low, high = header.range
    planes = np.linspace(0, len(data) - 1, min(16, len(data))).round().astype(int)

    def inside(view: np.ndarray) -> bool:
        found = [(int(view[i].min()), int(view[i].max())) for i in planes]
        return low - 1 <= min(f[0] for f in found) and max(f[1] for f in found) <= high + 1

    turned = data.view(np.dtype(other).newbyteorder(header.dtype.byteorder))
    wrong = not inside(data) and inside(turned)
    release(data)
    return turned if wrong else data


def read_data(path: Path, header: Header, mmap: bool, check: bool = True) -> np.ndarray:
    """(Z, Y, X) voxels, memory-mapped or in memory as float32; they are checked to be finite and not constant.

    In a memory-mapped file of more than 2^28 voxels, only 16 slabs are checked; `extraction.cut` checks each box it
    reads. A gzipped file is unpacked into memory.

    Parameters
    ----------
    check : False leaves the check of the values to the caller
    """
    if not mmap:
        check_fits(path, header.shape)
    data = _signed_as_stated(_stored(path, header), header)
    rows = max(1, (1 << 24) // data[0].size)
    starts = range(0, len(data), rows)
    few = dict.fromkeys(np.linspace(0, len(starts) - 1, 16).round().astype(int).tolist())
    enough = 1 if header.dtype.kind != "f" else len(few) if mmap else len(starts)  # integers are finite

    def slabs() -> Iterator[np.ndarray]:
        for i in [*few, *(i for i in range(len(starts)) if i not in few)]:
            yield data[starts[i] : starts[i] + rows]
            release(data)

    if check:
        check_values(path, slabs(), enough)
    # Stored axis i is sections, rows, columns; the transposed array has the axes z, y, x.
    data = data.transpose([(2 - header.order.index(axis)) for axis in (2, 1, 0)])
    return data if mmap else np.ascontiguousarray(data, np.float32)


def check_one_volume(path: Path, header: Header) -> None:
    """Return None; raise InputError when a file holds images or several volumes instead of one."""
    nz, ny, nx = header.shape
    if header.kind == "images":
        raise InputError(
            f"{path} holds {nz} images of {nx} x {ny} pixels (ISPG 0), such as a tilt series; expected a volume: give "
            "the reconstruction. If it is a volume, correct its header: mrcfile.open(path, 'r+').set_volume()."
        )
    if header.kind == "volumes":
        found = f"{nz // header.depth} volumes of {nx} x {ny} x {header.depth}" if header.depth else "volumes of"
        raise InputError(
            f"{path} holds {found} voxels (ISPG 401); expected one: write one of them to a file of its own, or give "
            "cubic ones as subtomograms."
        )


def read_mrc(path: str | Path, voxel_size: float | None = None, mmap: bool = False) -> Volume:
    """A volume or map from an MRC file (modes 0, 1, 2, 6, 12; either byte order; any axis order; also .gz).

    Parameters
    ----------
    voxel_size : A per voxel; overrides the header. 0 or None: the header's
    mmap : leave the voxels on disk, in their stored type

    Raises
    ------
    InputError
        Missing, not MRC, truncated, a stack, voxels that are not cubic or have no size, not finite or constant.
    """
    path = Path(path)
    header = read_header(path)
    check_one_volume(path, header)
    size = checked_voxel_size(path, None if voxel_size else cubic_step(path, header.steps), voxel_size)
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
