"""Cubes of a tomogram on disk, for more of them than memory holds; a run that was killed goes on where it stopped."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from pathlib import Path
from typing import BinaryIO

import numpy as np
from filelock import FileLock
from numpy.typing import ArrayLike
from safetensors import safe_open
from torch import Tensor
from tqdm import tqdm

from . import volumes
from .volumes import InputError

COUNT = 8  # bytes behind the cubes of an unfinished file: how many of them have reached the disk


def _head(kept: np.ndarray, box: int, pixel_size: float, key: str) -> bytes:
    """A safetensors file (https://github.com/huggingface/safetensors, "Format") up to its cubes, which come last."""
    start, end = 8 * len(kept), 8 * len(kept) + 4 * len(kept) * box**3
    text = json.dumps(
        {
            "__metadata__": {"pixel_size": str(pixel_size), "key": key},
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
    pixel_size: float,
    to_pixel_size: float | None = None,
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
    kept = np.sort(volumes.boxes(tomogram.shape, zyx, box, pixel_size, to_pixel_size, **how)[1])
    if not len(kept):
        raise InputError(f"No box of {box} voxels around a position lies inside the tomogram; choose a smaller box.")
    middle = tomogram.shape[0] // 2
    digest = hashlib.sha256(repr((tuple(tomogram.shape), box, pixel_size, to_pixel_size, how)).encode())
    digest.update(np.ascontiguousarray(zyx, float))
    digest.update(np.ascontiguousarray(tomogram[middle : middle + 1, :, :]))
    head = _head(kept, box, to_pixel_size or pixel_size, digest.hexdigest())
    size = len(head) + 4 * len(kept) * box**3

    def fill(file: BinaryIO) -> None:
        file.seek(size)
        count = file.read(COUNT)
        done = int.from_bytes(count, "little") if count else len(kept)  # the count goes when all is done
        rest = volumes.cut(tomogram, zyx, box, pixel_size, to_pixel_size, **how, skip=done)
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
