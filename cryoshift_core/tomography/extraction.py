"""Subtomograms from a tomogram, also from more of them than memory holds; an interrupted extraction can be resumed."""

from __future__ import annotations

import hashlib
import json
import mmap
import os
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
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
from .volumes import advise, large_map, release, rescale


@dataclass(frozen=True, eq=False)
class BoxPlan:
    """Which boxes of a tomogram to read, and how to turn them into subtomograms; made by `plan`.

    Attributes
    ----------
    shape : (Z, Y, X) of the tomogram in voxels
    zyx : (N, 3) positions in voxels, as given
    box : edge of a subtomogram in voxels
    voxel_size, to_voxel_size : A of the tomogram and of the subtomograms
    pad, flip_z : as in `extract`
    edge : voxels to read along each axis, in the tomogram
    kept : (M,) indices of the positions whose boxes are read, in the order of reading: neighbours follow each other
    first : (M, 3) first voxel of each box, mirrored along z if `flip_z`
    fraction : (M, 3) distance of each position from the voxel below it, 0 to 1
    """

    shape: tuple[int, int, int]
    zyx: np.ndarray
    box: int
    voxel_size: float
    to_voxel_size: float
    pad: bool
    flip_z: bool
    edge: int
    kept: np.ndarray
    first: np.ndarray
    fraction: np.ndarray

    def __len__(self) -> int:
        return len(self.kept)

    @property
    def resampled(self) -> bool:
        return not _same(self.voxel_size, self.to_voxel_size)


def _same(voxel_size: float, to_voxel_size: float) -> bool:
    return abs(to_voxel_size / voxel_size - 1) < 1e-3


def plan(
    shape: Sequence[int],
    zyx: ArrayLike,
    box: int,
    voxel_size: float,
    to_voxel_size: float | None = None,
    *,
    pad: bool = False,
    flip_z: bool = False,
) -> BoxPlan:
    """Plan of the boxes around positions, for a tomogram of `shape`; other parameters and errors as in `extract`."""
    positions = np.asarray(zyx, float)
    if positions.size and (positions.ndim > 2 or positions.shape[-1:] != (3,)):
        raise InputError(f"Expected positions of shape (N, 3), z, y, x in voxels, got {positions.shape}; reshape them.")
    positions = positions.reshape(-1, 3)
    if not np.isfinite(positions).all():
        index = int(np.flatnonzero(~np.isfinite(positions).all(1))[0])
        raise InputError(
            f"Position {index} of {len(positions)}: expected finite z, y, x in voxels, got "
            f"{positions[index].tolist()}; leave it out."
        )
    to_voxel_size = to_voxel_size or voxel_size
    if not (voxel_size > 0 and to_voxel_size > 0 and box > 0):
        raise InputError(
            f"Expected a box and voxel sizes above 0, got a box of {box} voxels, {voxel_size} A in the tomogram and "
            f"{to_voxel_size} A in the subtomograms; correct them."
        )
    # Boxes to be Fourier-cropped have the same extent, rounded up, and one more voxel on each side.
    edge = box if _same(voxel_size, to_voxel_size) else int(np.ceil(box * to_voxel_size / voxel_size - 1e-6)) + 2
    depth, height, width = (int(n) for n in shape)
    mirrored = positions * (-1, 1, 1) + (depth - 1, 0, 0) if flip_z else positions
    voxel = np.floor(mirrored)
    first, fraction = voxel - edge // 2, mirrored - voxel
    size = np.array([depth, height, width])
    if pad:
        kept = np.flatnonzero(((mirrored >= 0) & (mirrored <= size - 1)).all(1))
    else:  # interpolation along an axis needs one more voxel
        kept = np.flatnonzero(((first >= 0) & (first + edge + (fraction > 0) <= size)).all(1))
    z, y, _ = first[kept].T
    kept = kept[np.lexsort((y, z // edge))]
    return BoxPlan(
        (depth, height, width), positions, box, voxel_size, to_voxel_size, pad, flip_z, edge, kept,
        first[kept].astype(int), fraction[kept],
    )  # fmt: skip


def _read_ahead(patch: np.ndarray) -> None:
    """Ask the system for the pages of one box in a large memory-mapped file.

    By default, the system also reads up to megabytes around each row.
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
        advise(root, mmap.MADV_WILLNEED, page, start + high - low - page)


def _read_box(tomogram: np.ndarray, first: list[int], fraction: list[float], edge: int, flip_z: bool) -> Tensor:
    """(edge, edge, edge) at one position, padded with the median of its voxels where it leaves the tomogram."""
    span = [(a, a + edge + (part > 0)) for a, part in zip(first, fraction, strict=True)]
    inside = [(max(a, 0), min(b, size)) for (a, b), size in zip(span, tomogram.shape, strict=True)]
    (a, b), *rest = inside
    depth = slice(tomogram.shape[0] - b, tomogram.shape[0] - a) if flip_z else slice(a, b)
    patch = tomogram[depth, slice(*rest[0]), slice(*rest[1])]
    _read_ahead(patch)
    patch = np.asarray(patch)
    patch = np.array(patch[::-1] if flip_z else patch, np.float32, order="C")
    if inside != span:
        width = [(i[0] - s[0], s[1] - i[1]) for i, s in zip(inside, span, strict=True)]
        patch = np.pad(patch, width, constant_values=np.median(patch))
    volume = torch.from_numpy(patch)
    for axis, part in enumerate(fraction):
        if part > 0:
            volume = volume.double()  # avoids rounding until the result is float32 again
            volume = torch.lerp(volume.narrow(axis, 0, edge), volume.narrow(axis, 1, edge), part)
    return volume


def cut(
    tomogram: np.ndarray, boxes: BoxPlan, *, skip: int = 0, chunk: int = 128, keep_bad: bool = False
) -> Iterator[tuple[Tensor, np.ndarray]]:
    """Subtomograms of a plan in chunks, for more of them than memory holds.

    Parameters
    ----------
    tomogram : (Z, Y, X), as in `extract`; of the shape that the boxes were planned for
    boxes : from `plan`
    skip : number of subtomograms at the beginning of the plan to leave out, such as those of an earlier run
    chunk : subtomograms in memory at a time
    keep_bad : yield NaN for a box that holds values that are not finite, or is constant in its middle, as where a
        tomogram was masked

    Yields
    ------
    subtomograms (<= chunk, 1, box, box, box) float32 and the indices of their positions, in the order of `boxes.kept`

    Raises
    ------
    InputError
        The tomogram has another shape, or a box holds values that are not finite (without `keep_bad`).
    """
    if tuple(tomogram.shape) != boxes.shape:
        raise InputError(
            f"Expected a tomogram of shape {boxes.shape}, as in the plan, got {tuple(tomogram.shape)}; plan again."
        )
    for start in range(skip, len(boxes), chunk):
        rows = range(start, min(start + chunk, len(boxes)))
        x = torch.empty(len(rows), 1, boxes.edge, boxes.edge, boxes.edge, device="cpu")
        for row in rows:
            first, fraction = boxes.first[row].tolist(), boxes.fraction[row].tolist()
            x[row - start, 0] = _read_box(tomogram, first, fraction, boxes.edge, boxes.flip_z)
            if row % 16 == 0:
                release(tomogram)
        suspects = (~torch.isfinite(x.sum((1, 2, 3, 4)))).nonzero()[:, 0].tolist()  # finite values may overflow a sum
        bad = [start + i for i in suspects if not torch.isfinite(x[i]).all()]
        if bad and not keep_bad:
            index = boxes.kept[bad[0]]
            raise InputError(
                f"The box around z, y, x = {boxes.zyx[index].round(2).tolist()} of position {index}: expected finite "
                "grey values, got NaN or infinite ones; mask or repair the tomogram, or leave the position out."
            )
        masked = _is_masked(x) if keep_bad else torch.zeros(len(x), dtype=torch.bool, device="cpu")
        masked[[i - start for i in bad]] = True
        if boxes.resampled:
            x = rescale(x, boxes.voxel_size, boxes.to_voxel_size, boxes.box)
        x[masked] = torch.nan
        yield x, boxes.kept[rows.start : rows.stop]
    release(tomogram)


def _is_masked(x: Tensor) -> Tensor:
    """(N,) whether subtomograms (N, 1, Z, Y, X) are constant in their middle."""
    quarter = x.shape[-1] // 4
    inner = slice(quarter, x.shape[-1] - quarter)
    middle = x[..., inner, inner, inner].flatten(1)
    return middle.amax(1) == middle.amin(1)


def extract(
    tomogram: np.ndarray,
    zyx: ArrayLike,
    box: int,
    voxel_size: float,
    to_voxel_size: float | None = None,
    *,
    pad: bool = False,
    flip_z: bool = False,
    drop_bad: bool = False,
) -> tuple[Tensor, np.ndarray]:
    """Subtomograms around positions, by trilinear interpolation; boxes that leave the tomogram are dropped, or padded.

    The axes of tomogram, positions and subtomograms are z, y, x: z is the beam, the slowest axis on disk. Grey values
    keep their sign; see `to_bright`.

    Parameters
    ----------
    tomogram : (Z, Y, X), anything with `.shape` and slices, such as a memory-mapped file: only the boxes are read
    zyx : (N, 3) voxels, counted from 0 at the first voxel's centre; a position becomes index box // 2
    box : voxels per edge of the result
    voxel_size, to_voxel_size : A of the tomogram and of the result (None: the same); for another voxel size, boxes of
        the same extent are resampled by `rescale`
    pad : keep boxes that cross the border, padded with the median of their voxels inside; positions outside are dropped
    flip_z : mirror the tomogram along z, to correct its handedness: programs differ in the sign of the tilt angles and
        of z, one tomogram does not show which is right, and a mirrored molecule is a different one. Positions are those
        in the tomogram as it is stored
    drop_bad : drop boxes that hold values that are not finite, or are constant in their middle, as in a masked region

    Returns
    -------
    subtomograms (M, 1, box, box, box) float32 and the indices (M,) of the positions that were kept, in the order given

    Raises
    ------
    InputError
        A position is not three finite numbers, a size is not positive, or a box holds values that are not finite
        (without `drop_bad`).
    """
    boxes = plan(tomogram.shape, zyx, box, voxel_size, to_voxel_size, pad=pad, flip_z=flip_z)
    kept = np.sort(boxes.kept)
    out = torch.empty(len(kept), 1, box, box, box, device="cpu")
    for x, index in cut(tomogram, boxes, keep_bad=drop_bad):
        out[np.searchsorted(kept, index)] = x
    good = torch.isfinite(out[:, 0, 0, 0, 0])
    return (out, kept) if good.all() or not drop_bad else (out[good], kept[good.numpy()])


COUNT = 8  # bytes after the subtomograms of an unfinished file: the number of them that is on disk


def _head(kept: np.ndarray, box: int, voxel_size: float, key: str) -> bytes:
    """A safetensors file (https://github.com/huggingface/safetensors, "Format") up to the subtomograms at its end."""
    start, end = 8 * len(kept), 8 * len(kept) + 4 * len(kept) * box**3
    text = json.dumps(
        {
            "__metadata__": {"voxel_size": str(voxel_size), "key": key},
            "kept": {"dtype": "I64", "shape": [len(kept)], "data_offsets": [0, start]},
            "subtomograms": {"dtype": "F32", "shape": [len(kept), 1, box, box, box], "data_offsets": [start, end]},
        }
    ).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text + kept.astype("<i8").tobytes()


def _begin(path: Path, head: bytes, size: int) -> BinaryIO:
    """The open unfinished file: the existing one if it has the same header, else a new one."""
    if path.exists() and path.stat().st_size in (size, size + COUNT):
        file = path.open("r+b")
        if file.read(len(head)) == head:
            return file
        file.close()
    path.unlink(missing_ok=True)
    free = shutil.disk_usage(path.parent).free
    if free < size:
        raise InputError(
            f"{path} needs {size / 1e9:.1f} GB, and its disk has {free / 1e9:.1f} GB free; make room, or choose a path "
            "on another disk."
        )
    file = path.open("w+b")
    file.write(head)
    file.truncate(size + COUNT)
    return file


def _fill(file: BinaryIO, start: int, tomogram: np.ndarray, boxes: BoxPlan, name: str, progress: bool) -> None:
    """Write the missing subtomograms from byte `start` on; the count behind them is updated after each chunk."""
    kept, bytes_each = np.sort(boxes.kept), 4 * boxes.box**3
    end = start + bytes_each * len(kept)
    file.seek(end)
    count = file.read(COUNT)
    done = int.from_bytes(count, "little") if count else len(kept)  # a file without a count is complete
    rest = cut(tomogram, boxes, skip=done)
    with tqdm(total=len(kept), initial=done, desc=name, unit="box", mininterval=2, disable=not progress) as bar:
        for x, index in rest:
            for row, subtomogram in zip(np.searchsorted(kept, index).tolist(), x.numpy(), strict=True):
                file.seek(start + bytes_each * row)
                file.write(np.ascontiguousarray(subtomogram, "<f4").tobytes())
            file.flush()
            os.fsync(file.fileno())
            done += len(index)
            file.seek(end)
            file.write(done.to_bytes(COUNT, "little"))
            bar.update(len(index))
    file.truncate(end)


def extract_to(
    path: str | Path, tomogram: np.ndarray, boxes: BoxPlan, *, progress: bool = True
) -> tuple[Tensor, np.ndarray]:
    """Subtomograms of a plan, written chunk by chunk to a safetensors file (`subtomograms`, `kept`) and mapped from it.

    Call again after an interruption to continue: `path`.part holds the unfinished file and the number of subtomograms
    that are on disk. A complete file at `path` is read instead of extracting again, if plan and tomogram are the same;
    tomograms are compared by their middle plane.

    Parameters
    ----------
    path : file to write
    tomogram : (Z, Y, X), as in `extract`
    boxes : plan of the boxes, from `plan`
    progress : show a progress bar

    Returns
    -------
    subtomograms (M, 1, box, box, box) float32, mapped from the file (writing to the tensor does not change the file),
    and the indices (M,) of the positions that were kept, in the order given

    Raises
    ------
    InputError
        As `cut`; no box lies inside the tomogram, the disk is too full, or `path` was written for other inputs.
    """
    path = Path(path)
    if not len(boxes):
        raise InputError(
            f"No box of {boxes.box} voxels around a position lies inside the tomogram; choose a smaller box."
        )
    kept, middle = np.sort(boxes.kept), boxes.shape[0] // 2
    how = (boxes.shape, boxes.box, boxes.voxel_size, boxes.to_voxel_size, boxes.pad, boxes.flip_z)
    digest = hashlib.sha256(repr(how).encode())
    digest.update(np.ascontiguousarray(boxes.zyx).tobytes())
    digest.update(np.ascontiguousarray(tomogram[middle : middle + 1, :, :]).tobytes())
    head = _head(kept, boxes.box, boxes.to_voxel_size, digest.hexdigest())
    size = len(head) + 4 * len(kept) * boxes.box**3
    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{path}.lock"):
        if not path.exists():
            # Not `runtime.atomic`, which deletes its file after an interruption: this one is kept, to be resumed.
            partial = Path(f"{path}.part")
            with _begin(partial, head, size) as unfinished:
                _fill(unfinished, len(head), tomogram, boxes, path.name, progress)
            os.replace(partial, path)
        with path.open("rb") as file:
            if file.read(len(head)) != head or path.stat().st_size != size:
                raise InputError(
                    f"{path} was written for other inputs (another tomogram, other positions or another box); delete "
                    "it, or choose another path."
                )
    with safe_open(path, framework="pt") as stored:
        return stored.get_tensor("subtomograms"), kept
