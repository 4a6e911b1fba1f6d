"""Shared by the readers of particle positions: limits on files, numbers, rotations, and the rows of a tomogram."""

from __future__ import annotations

import codecs
import contextlib
import re
import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from scipy.spatial.transform import Rotation

from cryoshift_core.errors import InputError
from cryoshift_core.tomography.checks import check_file
from cryoshift_core.tomography.volumes import Volume

MAX_BYTES = 1 << 26  # of a table of positions, about 200,000 rows; text and JSON need about 20 times as much memory
FILE_ENDING = re.compile(r"(\.(tomostar|star|xml|mrcs?|rec|map|st|ali|em|hdf5?|h5|zarr|ome|tiff?|gz)(:mrcs?)?)+$", re.I)


def check_size(path: str | Path, limit: int = MAX_BYTES) -> None:
    """Return None; raise InputError unless `path` is a file of at most `limit` bytes."""
    check_file(path)
    size = Path(path).stat().st_size
    if size > limit:
        raise InputError(f"{path} has {size} bytes; expected at most {limit} for a list of positions: split it.")


def read_text(path: str | Path, what: str, limit: int = MAX_BYTES) -> str:
    """Text of a file in UTF-8, or UTF-16 with a mark, of at most `limit` bytes.

    Parameters
    ----------
    what : the expected content, for the InputError
    """
    check_size(path, limit)
    raw = Path(path).read_bytes()
    try:
        return raw.decode("utf-16" if raw[:2] in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE) else "utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(
            f"{path} is not text (byte {error.start} is {raw[error.start]:#04x}); expected {what}: check the file."
        ) from error


def floats(path: str | Path, column: str, texts: Sequence[str], missing: bool = False) -> np.ndarray:
    """(N,) finite numbers from texts; InputError names column and row of the first text that is not one.

    Parameters
    ----------
    missing : what is not a finite number becomes NaN, unless that is half of the texts or more
    """
    out, lost = np.full(len(texts), np.nan), []
    for row, text in enumerate(texts):
        with contextlib.suppress(ValueError):
            out[row] = float(text)
        if not np.isfinite(out[row]):
            out[row] = np.nan
            lost.append(row)
    if lost and not (missing and 2 * len(lost) < len(texts)):
        text = texts[lost[0]]
        raise InputError(f"{path}: {column} is {text[:40]!r} in row {lost[0] + 1}; expected a number: correct it.")
    return out


def group_numbers(texts: Sequence[str]) -> np.ndarray:
    """(N,) integers, equal for equal texts: the texts if all are integers, else their order of appearance."""
    if all(re.fullmatch(r"-?[0-9]{1,18}", text) for text in texts):
        return np.array([int(text) for text in texts], dtype=np.int64)
    order = {text: number for number, text in enumerate(dict.fromkeys(texts))}
    return np.array([order[text] for text in texts], dtype=np.int64)


def name_of(path: str) -> str:
    """Name of a tomogram: the last part of its path (with / or \\), without the endings of image files."""
    return FILE_ENDING.sub("", re.split(r"[/\\]", str(path)[-1000:].rstrip("/\\"))[-1])


def rows_of(path: str | Path, names: Sequence[str], tomogram: Volume) -> list[int]:
    """Rows that belong to `tomogram`, by name; all rows if `names` holds at most one tomogram.

    Rows of the same name are taken if there are any. Else one name must continue the other, as in TS_1 and
    TS_1_10.00Apx (Warp), rec_TS_1 (RELION 5) or TS_1__bin4 (EMAN2). TS_10 and TS_1_2 are other tomograms than TS_1.

    Parameters
    ----------
    path : file that the rows come from, for messages
    names : name or path of the tomogram of each row

    Raises
    ------
    InputError
        No name fits, or several do.
    """
    stem_of = {name: name_of(name) for name in dict.fromkeys(names)}
    stems, listed = [stem_of[name] for name in names], list(dict.fromkeys(stem_of.values()))
    if len(listed) < 2:
        return list(range(len(stems)))
    own = _names(tomogram)
    same = [name for name in listed if name in own]
    near = [name for name in listed if _is_near(name, own)]
    found = same or near
    if len(found) != 1:
        shown = ", ".join(repr(name[:40]) for name in (found or listed)[:3])
        matched = f"{len(found)} that fit" if found else "none that fits"
        raise InputError(
            f"{path} lists {len(listed)} tomograms: expected one named '{own[0]}', got {matched} ({shown}, ...). "
            "Rename the tomogram as in the file, or give a file with its rows only."
        )
    return [row for row, stem in enumerate(stems) if stem == found[0]]


def has_rows(path: str | Path, names: Sequence[str], tomogram: Volume) -> bool:
    """Whether any of `names`, of several tomograms, fits `tomogram`; parameters as in :func:`rows_of`.

    Raises
    ------
    InputError
        Several names fit.
    """
    own = _names(tomogram)
    stems = {name_of(name) for name in names}
    return bool((stems & set(own) or any(_is_near(name, own) for name in stems)) and rows_of(path, names, tomogram))


def _names(tomogram: Volume) -> list[str]:
    """Name of a tomogram's file, also without the "rec_" that RELION 5 puts before it."""
    own = name_of(tomogram.path)
    return [own, own.removeprefix("rec_")] if own.startswith("rec_") else [own]


def _is_near(name: str, own: Sequence[str]) -> bool:
    return any(_continues(*sorted((name, mine), key=len)) for mine in own)


def belongs(path: str, tomogram: Volume) -> bool:
    """Whether the name or path of a tomogram in a list may be that of `tomogram`, which may have been renamed.

    It may not if the last number of each name is missing in the other, or, without numbers, if they share no word.
    """
    name, own = name_of(path), _names(tomogram)
    if name in own or _is_near(name, own):
        return True
    words = [set(re.findall(r"[a-z]+", text.lower())) for text in (name, own[0])]
    numbers = [[int(digits) for digits in re.findall(r"\d{1,18}", text)] for text in (name, own[0])]
    if numbers[0] and numbers[1]:
        return numbers[0][-1] in numbers[1] or numbers[1][-1] in numbers[0]
    return bool(words[0] & words[1])


def _continues(short: str, long: str) -> bool:
    """Whether `long` is `short` with a suffix that does not number another tomogram."""
    rest = long[len(short) :]
    return bool(short) and long.startswith(short) and bool(re.match(r"[._-]++(?!\d+([_-]|$))\S", rest))


def relion_from_rotation(rotation: Rotation) -> np.ndarray:
    """(N, 3) rot, tilt, psi in degrees: the inverse of `rotation_from_relion`. psi is 0 if tilt is 0 or 180."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # scipy warns that psi is arbitrary at the poles
        return rotation.inv().as_euler("ZYZ", degrees=True)


def rotation_from_matrices(path: str | Path, matrices: np.ndarray) -> Rotation:
    """Rotations from matrices (N, 3, 3); InputError names the first that is not a rotation."""
    error = np.abs(matrices @ matrices.transpose(0, 2, 1) - np.eye(3)).max((1, 2))
    bad = np.flatnonzero(~((error < 0.01) & (np.linalg.det(matrices) > 0)))
    if len(bad):
        raise InputError(
            f"{path}: the matrix of point {bad[0] + 1} of {len(matrices)} is not a rotation: expected orthogonal rows "
            "of length 1, without mirroring; correct it, or leave the matrices out."
        )
    return Rotation.from_matrix(matrices)
