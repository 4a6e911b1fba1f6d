"""Imaged of a tomogram on disk, for more of them than memory holds; a run that was killed goes on where it stopped."""

from __future__ import annotations

import hashlib
import json
import mmap
import os
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch
from filelock import FileLock
from numpy.typing import ArrayLike
from safetensors import safe_open
from torch import Tensor
from tqdm import tqdm

from ..errors import InputError
from .volumes import large_map, release, rescale


def _read_ahead(patch: np.ndarray) -> None:
    """Ask for the pages of a box in a large memory-mapped file, and for no more.

    Left alone, the system reads what lies around each row too: up to megabytes of it.
    """
    root = large_map(patch)
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
    voxel_size: float,
    to_voxel_size: float | None = None,
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
    to_voxel_size = to_voxel_size or voxel_size
    if not (voxel_size > 0 and to_voxel_size > 0 and box > 0):
        raise InputError(f"A box of {box} voxels, {voxel_size} A to {to_voxel_size} A, can't be cut; wanted above 0.")
    # Fourier-cropped boxes have the same extent, rounded up, and a voxel of margin.
    n = box if _same(voxel_size, to_voxel_size) else int(np.ceil(box * to_voxel_size / voxel_size - 1e-6)) + 2
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


def _same(voxel_size: float, to_voxel_size: float) -> bool:
    return abs(to_voxel_size / voxel_size - 1) < 1e-3


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
    voxel_size: float,
    to_voxel_size: float | None = None,
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
    n, kept, first, part = boxes(tomogram.shape, zyx, box, voxel_size, to_voxel_size, pad, flip_z)
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
        same = _same(voxel_size, to_voxel_size or voxel_size)
        yield (cubes if same else rescale(cubes, voxel_size, to_voxel_size, box)), kept[rows.start : rows.stop]
    release(tomogram)


def extract(
    tomogram: np.ndarray,
    zyx: ArrayLike,
    box: int,
    voxel_size: float,
    to_voxel_size: float | None = None,
    *,
    pad: bool = False,
    flip_z: bool = False,
) -> tuple[Tensor, np.ndarray]:
    """Imaged around positions, by trilinear interpolation; boxes that leave the tomogram are dropped, or padded.

    The axes of tomogram, positions and cubes are z, y, x: z is the beam, the slowest axis on disk. Grey values keep
    their sign; see `to_bright`.

    Parameters
    ----------
    tomogram : (Z, Y, X), anything with `.shape` and slices, such as a memory-mapped file: only the boxes are read
    zyx : (N, 3) voxels, counted from 0 at the first voxel's centre; a position becomes index box // 2
    box : voxels per edge of the result
    voxel_size, to_voxel_size : A; another pixel size is made by `rescale` from boxes of the same extent
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
    kept = np.sort(boxes(tomogram.shape, zyx, box, voxel_size, to_voxel_size, pad, flip_z)[1])
    cubes = torch.empty(len(kept), 1, box, box, box)
    for part, index in cut(tomogram, zyx, box, voxel_size, to_voxel_size, pad=pad, flip_z=flip_z):
        cubes[np.searchsorted(kept, index)] = part
    return cubes, kept


COUNT = 8  # bytes behind the cubes of an unfinished file: how many of them have reached the disk


def _head(kept: np.ndarray, box: int, voxel_size: float, key: str) -> bytes:
    """A safetensors file (https://github.com/huggingface/safetensors, "Format") up to its cubes, which come last."""
    start, end = 8 * len(kept), 8 * len(kept) + 4 * len(kept) * box**3
    text = json.dumps(
        {
            "__metadata__": {"voxel_size": str(voxel_size), "key": key},
            "kept": {"dtype": "I64", "shape": [len(kept)], "data_offsets": [0, start]},
            "cubes": {"dtype": "F32", "shape": [len(kept), 1, box, box, box], "data_offsets": [start, end]},
        }
    ).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text + kept.astype("<i8").tobytes()


def _begin(path: Path, head: bytes, size: int) -> BinaryIO:
    """The unfinished file, as it was left if it is of the same work, with nothing done in it otherwise."""
    if path.exists() and path.stat().st_size in (size, size + COUNT):
        file = path.open("r+b")
        if file.read(len(head)) == head:
            return file
        file.close()
    path.unlink(missing_ok=True)
    free = shutil.disk_usage(path.parent).free
    if free < size:
        raise InputError(f"{path} needs {size / 1e9:.1f} GB and its disk has {free / 1e9:.1f} GB: name another disk.")
    file = path.open("w+b")
    file.write(head)
    file.truncate(size + COUNT)
    return file


def extract_to(
    path: str | Path,
    tomogram: np.ndarray,
    zyx: ArrayLike,
    box: int,
    voxel_size: float,
    to_voxel_size: float | None = None,
    *,
    pad: bool = False,
    flip_z: bool = False,
    progress: bool = True,
) -> tuple[Tensor, np.ndarray]:
    """`volumes.extract` into a safetensors file (`cubes`, `kept`), a chunk in memory at a time.

    The work is done in `path`.part, with a count of the cubes that have reached the disk: run again what was killed.
    A whole file at `path` of the same work is read, not made again; tomograms are told apart by their middle plane.

    Returns
    -------
    cubes (M, 1, box, box, box) float32, mapped from the file (what is written into them does not reach it), and the
    indices (M,) of the positions that were kept

    Raises
    ------
    InputError
        As `volumes.extract`; no box is kept, the disk is too full, or `path` is a file of other work.
    """
    path, how = Path(path), {"pad": pad, "flip_z": flip_z}
    kept = np.sort(boxes(tomogram.shape, zyx, box, voxel_size, to_voxel_size, **how)[1])
    if not len(kept):
        raise InputError(f"No box of {box} voxels around a position lies inside the tomogram; choose a smaller box.")
    middle = tomogram.shape[0] // 2
    digest = hashlib.sha256(repr((tuple(tomogram.shape), box, voxel_size, to_voxel_size, how)).encode())
    digest.update(np.ascontiguousarray(zyx, float))
    digest.update(np.ascontiguousarray(tomogram[middle : middle + 1, :, :]))
    head = _head(kept, box, to_voxel_size or voxel_size, digest.hexdigest())
    size = len(head) + 4 * len(kept) * box**3

    def fill(file: BinaryIO) -> None:
        file.seek(size)
        count = file.read(COUNT)
        done = int.from_bytes(count, "little") if count else len(kept)  # the count goes when all is done
        rest = cut(tomogram, zyx, box, voxel_size, to_voxel_size, **how, skip=done)
        bar = tqdm(total=len(kept), initial=done, desc=path.name, unit="cube", mininterval=2, disable=not progress)
        with bar:
            for cubes, index in rest:
                for row, cube in zip(np.searchsorted(kept, index).tolist(), cubes.numpy(), strict=True):
                    file.seek(len(head) + 4 * box**3 * row)
                    file.write(np.ascontiguousarray(cube, "<f4"))
                file.flush()
                os.fsync(file.fileno())
                done += len(index)
                file.seek(size)
                file.write(done.to_bytes(COUNT, "little"))
                bar.update(len(index))
        file.truncate(size)

    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{path}.lock"):
        if not path.exists():
            partial = Path(f"{path}.part")
            with _begin(partial, head, size) as file:
                fill(file)
            os.replace(partial, path)
        with path.open("rb") as file:
            if file.read(len(head)) != head or path.stat().st_size != size:
                raise InputError(
                    f"{path} holds something else than these cubes (another tomogram, other positions or another box); "
                    "wanted none or a file of the same: delete it, or name another path."
                )
    with safe_open(path, framework="pt") as file:
        return file.get_tensor("cubes"), kept
