"""The places that state one number: pixel sizes from headers, tables, names of files and folders, and parameters.

A value that is given as a parameter overrides all others. Values that programs write where they know none (0 and 1) and
implausible ones count as not stated. All others must agree within 1 %, or the two that differ are named.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from cryoshift_core.errors import InputError
from cryoshift_core.tomography.checks import checked_voxel_size, cubic_step

from .positions import name_of

TOLERANCE = 0.01
PLAUSIBLE = (0.2, 500.0)  # A per pixel
# As in TS_1_10.00Apx.mrc and TS_1_0000005_10.00A.mrc (Warp), TS_1_apix10.5.mrc, tomo_1.05nm.mrc, and VoxelSpacing10.012
# (CryoET Data Portal). A number of A behind "lowpass" or the like is a resolution.
NAMED = re.compile(
    r"(?<![\d.])(?<!lp)(?<!lp_)(?<!pass)(?<!pass_)(?<!filt)(?<!filt_)(?<!res)(?<!res_)"
    r"(?:(\d+(?:\.\d+)?)_?(?i:apx|apix|angpix|a_px)|(\d+\.\d{1,3})(?:A|Ang|ang)|(\d+\.\d{2,4})nm)(?![A-Za-z])"
    r"|(?<![A-Za-z])(?i:apx|apix|angpix|pixelsize|voxelsize)[_-]?(\d+(?:\.\d+)?)(?![\dA-Za-z])"
)
SPACING = re.compile(r"VoxelSpacing(\d+(?:\.\d+)?)")


@dataclass(frozen=True)
class Stated:
    """A pixel size in A, and the place that states it, in words that follow "in"."""

    value: float
    where: str


def is_stated(value: float | None) -> bool:
    """Whether a pixel size in A is one that somebody measured: plausible, and not the 0 or 1 of an unknown one."""
    return value is not None and PLAUSIBLE[0] <= value <= PLAUSIBLE[1] and abs(value - 1) > 5e-4


def same(one: float, other: float) -> bool:
    """Whether two pixel sizes agree within 1 %."""
    return abs(one / other - 1) <= TOLERANCE


def in_names(path: str | Path) -> list[Stated]:
    """Pixel sizes that the name of a file, or of the folders that it lies in, states."""
    path = Path(path)
    named = NAMED.findall(name_of(path.name))[-1:]
    found = [Stated(10 * float(nm) if nm else float(a or b or c), "its name") for a, b, nm, c in named]
    folders = [part for part in path.absolute().parts[:-1] if SPACING.fullmatch(part)]
    found += [Stated(float(SPACING.fullmatch(part)[1]), f"its folder {part}") for part in folders[-1:]]  # type: ignore[index]
    return [one for one in found if is_stated(one.value)]


def agreed(path: str | Path, stated: Iterable[Stated], way_out: str) -> Stated | None:
    """The first of the pixel sizes that are stated; None if none is.

    Parameters
    ----------
    path, way_out : what the InputError is about, and what to do

    Raises
    ------
    InputError
        Two of them differ by more than 1 %.
    """
    values = [one for one in stated if is_stated(one.value)]
    other = next((one for one in values if not same(one.value, values[0].value)), None)
    if other is not None:
        raise InputError(
            f"{path}: expected one pixel size, got {values[0].value:.4g} A in {values[0].where} and "
            f"{other.value:.4g} A in {other.where}; {way_out}."
        )
    return values[0] if values else None


def voxel_size(
    path: str | Path, steps: Sequence[float] | None, given: float | None = None, others: Sequence[Stated] = ()
) -> float:
    """Voxel size of a file in A: `given` if set, else what its header, its names and `others` state.

    Parameters
    ----------
    steps : A along x, y, z from its header; None if it has none
    given : A, a parameter
    others : what other files, such as a STAR, state about it

    Raises
    ------
    InputError
        Steps or places that contradict each other, no voxel size at all, or one that is not between 0 and 10,000 A.
    """
    path = Path(path)
    if given:
        return checked_voxel_size(path, None, given)
    step = None if steps is None else cubic_step(path, steps)
    way_out = "pass the right one as voxel_size (pixel_size in the notebook)"
    header = [] if step is None else [Stated(step, "its header")]
    found = agreed(path, [*others, *header, *in_names(path)], way_out)
    if found is None and step is not None and np.isfinite(step):
        raise InputError(
            f"{path} has no voxel size that can be right: its header says {step:.4g} A, as programs write where they "
            f"know none; {way_out}, e.g. voxel_size = 10.0."
        )
    return checked_voxel_size(path, found.value if found else None, None)
