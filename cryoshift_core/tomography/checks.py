"""Checks of volume files: claims of the header against the file, before memory is allocated, and grey values."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from ..errors import InputError

GIVE_IT = "pass the voxel size as voxel_size (pixel_size in the notebook)"


def check_file(path: str | Path) -> None:
    """Return None; raise InputError unless `path` is an existing file."""
    if not Path(path).is_file():
        raise InputError(f"{path} is not a file; check the path.")


def check_claim(path: Path, xyz: Sequence[int], needed: int, held: int | None = None) -> None:
    """Return None; raise InputError when a header claims more voxels than the file holds, or none.

    Parameters
    ----------
    xyz : nx, ny, nz as the header states them
    needed : bytes of header and voxels together, computed from the header
    held : bytes that the file holds at most, if it is compressed; None: its size
    """
    size = path.stat().st_size if held is None else held
    if min(xyz) < 1 or needed > size:
        raise InputError(
            f"{path} claims {' x '.join(map(str, xyz))} voxels: expected {needed} bytes, got {size}. "
            "The file is truncated or damaged; copy it again."
        )


def check_fits(path: Path, shape: Sequence[int]) -> None:
    """Return None; raise InputError when an array of `shape` in float32 needs more than 80 % of this machine's RAM."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") if hasattr(os, "sysconf") else 1 << 36
    if 4 * math.prod(map(float, shape)) > 0.8 * memory:
        raise InputError(
            f"{path} has {' x '.join(map(str, shape[::-1]))} voxels, more than fit into the memory of this machine "
            f"({memory / 1e9:.1f} GB); bin or crop it."
        )


def check_values(path: Path, parts: Iterable[np.ndarray], enough: float = math.inf) -> None:
    """Return None; raise InputError when grey values are not finite, or all equal.

    Parameters
    ----------
    parts : the pieces of one volume
    enough : number of pieces to read; more are read only while all values are equal
    """
    low, high = np.inf, -np.inf
    for seen, part in enumerate(parts):
        if seen >= enough and low != high:
            break
        low, high = np.minimum(low, part.min()), np.maximum(high, part.max())  # both propagate NaN
    with np.errstate(over="ignore"):  # a value that overflows float32 is infinite in all later steps
        finite = np.isfinite(np.array([low, high], np.float32)).all()
    if not finite:
        raise InputError(f"{path} holds values that are not finite (NaN or infinite); mask or repair it first.")
    if low == high:
        raise InputError(f"{path} is constant: expected a density, got {low:g} everywhere; check how it was written.")


def cubic_step(path: Path, steps: Sequence[float] | np.ndarray, way_out: str = GIVE_IT) -> float | None:
    """Edge of cubic voxels in A from the steps along x, y, z that are positive numbers; None when x or y is not.

    Raises
    ------
    InputError
        The steps differ by more than 1 %.
    """
    xyz = np.asarray(steps, float)
    stated = np.isfinite(xyz) & (xyz > 0)
    if not stated[:2].all():
        return None
    xyz = xyz[stated]
    if xyz.max() > 1.01 * xyz.min():
        found = " x ".join(f"{s:.3g}" for s in xyz)
        raise InputError(
            f"{path}: expected cubic voxels, got {found} A in the header; if these are wrong, {way_out}, "
            "else resample the volume."
        )
    return float(xyz.mean())


def checked_voxel_size(path: Path, found: float | None, given: float | None) -> float:
    """Voxel size in A: `given` if set, else the one `found` in the file.

    Raises
    ------
    InputError
        Neither is set, or the value is not between 0 and 10,000 A.
    """
    size = given or found
    if size is None or not 0 < size < 1e4:
        what = "no voxel size in its header" if size is None else f"a voxel size of {size} A"
        raise InputError(
            f"{path} has {what}; expected A per voxel: pass it as voxel_size (pixel_size in the "
            "notebook), e.g. voxel_size = 10.0."
        )
    return float(size)
