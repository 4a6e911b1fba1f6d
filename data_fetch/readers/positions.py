"""What the readers of particle positions share: bounds on files, numbers, rotations, and which rows are whose."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from scipy.spatial.transform import Rotation

from cryoshift_core.errors import InputError
from cryoshift_core.tomography.volumes import Volume

MAX_BYTES = 1 << 26  # of a table of positions: some 200 000 rows; texts and JSON take about 20 times that in memory
FILE_ENDING = re.compile(r"(\.(tomostar|star|xml|mrcs?|rec|map|st|ali|em|hdf5?|h5|zarr|ome|tiff?)(:mrcs?)?)+$", re.I)


def check_size(path: str | Path, limit: int = MAX_BYTES) -> None:
    """Raise InputError unless `path` is a file of at most `limit` bytes."""
    if not Path(path).is_file():
        raise InputError(f"{path} is not a file; check the path.")
    size = Path(path).stat().st_size
    if size > limit:
        raise InputError(f"{path} has {size} bytes; wanted at most {limit} for a list of positions: split it.")


def read_text(path: str | Path, what: str, limit: int = MAX_BYTES) -> str:
    """The file's text, its size checked first; InputError says that it is not `what`."""
    check_size(path, limit)
    raw = Path(path).read_bytes()
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(
            f"{path} is not text (byte {error.start} is {raw[error.start]:#04x}); wanted {what}."
        ) from error


def floats(path: str | Path, column: str, texts: Iterable[str]) -> np.ndarray:
    """(N,) finite numbers from texts; InputError names column and row of the first that is none."""
    out = []
    for row, text in enumerate(texts):
        try:
            out.append(float(text))
        except ValueError:
            out.append(np.nan)
        if not np.isfinite(out[-1]):
            raise InputError(f"{path}: {column} is {text[:40]!r} in row {row + 1}; wanted a number.")
    return np.array(out, float)


def group_numbers(texts: Sequence[str]) -> np.ndarray:
    """(N,) integers that tell equal texts apart: the numbers themselves, or their order of first appearance."""
    if all(re.fullmatch(r"-?[0-9]{1,18}", text) for text in texts):
        return np.array([int(text) for text in texts], dtype=np.int64)
    order = {text: number for number, text in enumerate(dict.fromkeys(texts))}
    return np.array([order[text] for text in texts], dtype=np.int64)


def name_of(path: str) -> str:
    """A tomogram's name: the last part of a path, in either kind of slash, without the endings of image files."""
    return FILE_ENDING.sub("", re.split(r"[/\\]", str(path)[-1000:].rstrip("/\\"))[-1])


def rows_of(path: str | Path, names: Sequence[str], tomogram: Volume) -> list[int]:
    """Rows of `tomogram` among those of several, by name; all rows where `names` holds at most one tomogram.

    The same name comes first. Else one name goes on where the other ends, as in TS_1 and TS_1_10.00Apx (Warp),
    rec_TS_1 (RELION 5) or TS_1__bin4 (EMAN2); TS_10 and TS_1_2 are other tomograms than TS_1.
    """
    stem_of = {name: name_of(name) for name in dict.fromkeys(names)}
    stems, listed = [stem_of[name] for name in names], list(dict.fromkeys(stem_of.values()))
    if len(listed) < 2:
        return list(range(len(stems)))
    own = [name_of(tomogram.path)]
    own += [own[0].removeprefix("rec_")] if own[0].startswith("rec_") else []
    same = [name for name in listed if name in own]
    near = [name for name in listed if any(_continues(*sorted((name, mine), key=len)) for mine in own)]
    found = same or near
    if len(found) != 1:
        shown = ", ".join(repr(name[:40]) for name in (found or listed)[:3])
        matched = f"{len(found)} that fit" if found else "none named"
        raise InputError(
            f"{path} lists {len(listed)} tomograms, {matched} '{own[0]}' ({shown}, ...); name the tomogram's file as "
            "its rows do, or give a file with its rows only."
        )
    return [row for row, stem in enumerate(stems) if stem == found[0]]


def _continues(short: str, long: str) -> bool:
    """Does `long` go on after `short` with a suffix that is no number of its own?"""
    rest = long[len(short) :]
    return bool(short) and long.startswith(short) and bool(re.match(r"[._-]++(?!\d+([_-]|$))\S", rest))


def check_inside(
    path: str | Path, zyx: np.ndarray, tomogram: Volume, unit: str = "", rows: Sequence[int] | None = None
) -> None:
    """Raise InputError where positions (N, 3) lie outside the tomogram, whose voxels reach half a voxel around theirs.

    Parameters
    ----------
    unit : what was done to the file's numbers, for the message
    rows : (N,) rows of the file that the positions come from, counted from 0; None: all of them, in order
    """
    shape = np.array(tomogram.data.shape)
    outside = np.flatnonzero(~((zyx >= -0.5) & (zyx <= shape - 0.5)).all(1))
    if len(outside):
        z, y, x = (f"{value:.1f}" if abs(value) < 1e6 else f"{value:g}" for value in zyx[outside[0]])
        row = int(outside[0]) if rows is None else rows[outside[0]]
        raise InputError(
            f"{path}: {len(outside)} of {len(zyx)} positions lie outside {tomogram.path} of {shape[2]} x {shape[1]} x "
            f"{shape[0]} voxels, first row {row + 1} at x, y, z = {x}, {y}, {z}{unit}; give voxels "
            "of this tomogram."
        )


def relion_from_rotation(turn: Rotation) -> np.ndarray:
    """(N, 3) rot, tilt, psi in degrees: the inverse of `rotation_from_relion`; psi is 0 where tilt is 0 or 180."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # scipy's word that the poles leave the choice of psi open
        return turn.inv().as_euler("ZYZ", degrees=True)


def rotation_from_matrices(path: str | Path, matrices: np.ndarray) -> Rotation:
    """Rotations from (N, 3, 3), checked: InputError names the first that is no rotation."""
    error = np.abs(matrices @ matrices.transpose(0, 2, 1) - np.eye(3)).max((1, 2))
    bad = np.flatnonzero(~((error < 0.01) & (np.linalg.det(matrices) > 0)))
    if len(bad):
        raise InputError(
            f"{path}: the matrix of point {bad[0] + 1} of {len(matrices)} is no rotation (rows not of length 1 and at "
            "right angles, or mirrored); repair it, or leave the matrices out."
        )
    return Rotation.from_matrix(matrices)
