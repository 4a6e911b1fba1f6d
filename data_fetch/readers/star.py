"""Particles in STAR files, as RELION, Warp and M write them."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from cryoshift_core.errors import InputError
from cryoshift_core.tomography.star import read_star
from cryoshift_core.tomography.volumes import Particles, Volume, rotation_from_relion

from .positions import (
    check_inside,
    check_size,
    floats,
    group_numbers,
    relion_from_rotation,
    rows_of,
)

MAX_BYTES = 1 << 28  # bytes, about a million particles
CENTRED, PIXELS = "rlnCenteredCoordinate{}Angst", "rlnCoordinate{}"
IN_ANGSTROM = ("wrpCoordinate{}1", "wrpCoordinate{}")
ANGLES = (
    ("rlnAngleRot", "rlnAngleTilt", "rlnAnglePsi"),
    ("wrpAngleRot1", "wrpAngleTilt1", "wrpAnglePsi1"),
    ("wrpAngleRot", "wrpAngleTilt", "wrpAnglePsi"),
)
SUBTOMOGRAM = ("rlnTomoSubtomogramRot", "rlnTomoSubtomogramTilt", "rlnTomoSubtomogramPsi")

Table = dict[str, list[str]]


def _tables(path: str | Path) -> dict[str, Table]:
    check_size(path, MAX_BYTES)
    return read_star(path)


def _take(path: str | Path, tables: dict[str, Table], *columns: str) -> tuple[str, Table, dict[str, Table]]:
    """Name and columns of the first table that has one of `columns`, in their order, and the other tables."""
    block = next((name for column in columns for name, table in tables.items() if column in table), None)
    if block is None:
        found = ", ".join(repr(name[:40]) for name in list(tables)[:5]) or "no tables"
        raise InputError(f"{path} has no column _{columns[-1]} (tables: {found}); expected a RELION table with it.")
    table = tables[block]
    column = next(column for column in columns if column in table)
    if not table[column]:
        raise InputError(f"{path} has an empty column _{column}; expected at least one row: check the file.")
    ragged = next((name for name, values in table.items() if len(values) != len(table[column])), None)
    if ragged:
        raise InputError(
            f"{path}: _{ragged[:40]} and _{column} differ in their number of rows; expected one table: correct it."
        )
    return block, table, {name: other for name, other in tables.items() if name != block}


def table_with(path: str | Path, column: str) -> tuple[str, Table, dict[str, Table]]:
    """Name and columns of the table of a STAR file that has `column`, and the other tables.

    Raises
    ------
    InputError
        No table has it, or the table is empty or has columns of different lengths.
    """
    return _take(path, _tables(path), column)


def numbers(path: str | Path, table: Table, column: str) -> np.ndarray:
    """(N,) finite numbers of a column; InputError names the first cell that is not a number."""
    return floats(path, f"_{column}", table.get(column, [""]))


def _vectors(path: str | Path, table: Table, columns: tuple[str, ...] | list[str]) -> np.ndarray:
    return np.stack([numbers(path, table, column) for column in columns], 1)


def per_row(path: str | Path, table: Table, optics: Table, column: str) -> np.ndarray | None:
    """(N,) positive values of `column`, from the table or from the optics group of each row; None if neither has it."""
    if column in table:
        values = numbers(path, table, column)
    elif column in optics:
        of_groups = numbers(path, optics, column)
        own, ids = table.get("rlnOpticsGroup", [""]), optics.get("rlnOpticsGroup", [])
        if len(of_groups) == 1 and (own == [""] or not ids):
            return per_row(path, {column: optics[column] * len(next(iter(table.values())))}, {}, column)
        groups = dict(zip(ids, of_groups, strict=False))
        lost = next((group for group in own if group not in groups), None)
        if lost is not None:
            raise InputError(
                f"{path}: the optics table has no row for the group {lost[:40]!r} of a particle; expected "
                f"_rlnOpticsGroup in both tables, for _{column}: add the row."
            )
        values = np.array([groups[group] for group in own])
    else:
        return None
    if (values <= 0).any():
        raise InputError(f"{path}: _{column} is {values.min():g}; expected a pixel size in A above 0: correct it.")
    return values


def _image_pixel(path: str | Path, table: Table, optics: Table) -> np.ndarray | None:
    """(N,) A per pixel of the particles' images: from the magnification (RELION 3.0) or the optics table (later)."""
    detector = per_row(path, table, optics, "rlnDetectorPixelSize")
    magnification = per_row(path, table, optics, "rlnMagnification")
    if detector is not None and magnification is not None:
        return detector * 1e4 / magnification  # detector pixels are in micrometres
    named = (per_row(path, table, optics, column) for column in ("rlnPixelSize", "rlnImagePixelSize"))
    return next((pixel for pixel in named if pixel is not None), None)


def _names(table: Table) -> list[str]:
    columns = ("rlnTomoName", "rlnMicrographName", "wrpSourceName")
    return next((table[column] for column in columns if column in table), [])


def _positions(path: str | Path, table: Table, optics: Table, tomogram: Volume) -> tuple[np.ndarray, str]:
    """(N, 3) x, y, z in voxels of the tomogram, origins not subtracted, and their conversion, in words."""
    size = np.array(tomogram.data.shape[::-1])
    if CENTRED.format("X") in table:
        centred = _vectors(path, table, [CENTRED.format(axis) for axis in "XYZ"])
        return centred / tomogram.voxel_size + size / 2, f" (from A around the centre, {tomogram.voxel_size:g} A/voxel)"
    warp = next((columns for columns in IN_ANGSTROM if columns.format("X") in table), None)
    if warp:
        xyz = _vectors(path, table, [warp.format(axis) for axis in "XYZ"])
        return xyz / tomogram.voxel_size, f" (from A, {tomogram.voxel_size:g} A/voxel)"
    xyz = _vectors(path, table, [PIXELS.format(axis) for axis in "XYZ"])
    unbinned = per_row(path, table, optics, "rlnTomoTiltSeriesPixelSize")
    from_warp = any(name.endswith(".tomostar") for name in _names(table))
    if unbinned is None and from_warp:
        if (xyz >= 0).all() and (xyz <= 1).all():
            return xyz * size, " (from fractions of the tomogram)"
        unbinned = _image_pixel(path, table, optics)
    if unbinned is None:
        return xyz, ""
    was = f"{unbinned.min():g}" if np.ptp(unbinned) < 1e-6 else f"{unbinned.min():g} to {unbinned.max():g}"
    return xyz * (unbinned / tomogram.voxel_size)[:, None], f" (scaled from {was} to {tomogram.voxel_size:g} A)"


def _shifts(path: str | Path, table: Table, optics: Table, tomogram: Volume) -> np.ndarray:
    """(N, 3) x, y, z of the origins in voxels of the tomogram, which RELION subtracts from the coordinates."""
    shift = np.zeros((len(next(iter(table.values()))), 3))
    for axis, letter in enumerate("XYZ"):
        if f"rlnOrigin{letter}Angst" in table:
            shift[:, axis] = numbers(path, table, f"rlnOrigin{letter}Angst") / tomogram.voxel_size
        elif f"rlnOrigin{letter}" in table:
            pixel = _image_pixel(path, table, optics)
            scale = 1.0 if pixel is None else pixel / tomogram.voxel_size
            shift[:, axis] = numbers(path, table, f"rlnOrigin{letter}") * scale
    return shift


def angles_of(path: str | Path, table: Table, in_tomogram: bool = False) -> np.ndarray | None:
    """(N, 3) rot, tilt, psi in degrees of the particles in their boxes, or in the tomogram; None without columns."""
    angles = next((_vectors(path, table, columns) for columns in ANGLES if set(columns) <= table.keys()), None)
    if not in_tomogram or not set(SUBTOMOGRAM) <= table.keys():
        return angles
    box = rotation_from_relion(_vectors(path, table, SUBTOMOGRAM))
    return relion_from_rotation(box if angles is None else box * rotation_from_relion(angles))


def read_picks(path: str | Path, tomogram: Volume) -> Particles:
    """Particles of one tomogram from a STAR file of RELION 3.0 to 5, Warp or M.

    - _rlnCenteredCoordinateX/Y/ZAngst (RELION 5) are A from the tomogram's centre, which is half its size, also if that
      is odd (tomogram_set.cpp, particle_set.cpp). The centre of a tomogram whose unbinned size is not a multiple of the
      binning differs from this by less than half a voxel.
    - _wrpCoordinateX1/Y1/Z1 (M) are A from the first voxel.
    - _rlnCoordinateX/Y/Z are voxels of the tomogram, counted from 0, with three exceptions. If the optics group has
      _rlnTomoTiltSeriesPixelSize (RELION 4), they are unbinned pixels. In a table of .tomostar names (Warp) they are
      pixels of its images, or fractions of the tomogram if all lie between 0 and 1, as Warp's template matching writes.

    _rlnOriginX/Y/ZAngst, or _rlnOriginX/Y/Z in pixels of the particles' images, are rotated by _rlnTomoSubtomogramRot,
    Tilt and Psi if the table has them, and subtracted (particle_set.cpp, getPosition). Angles are those of the particle
    in the tomogram, including the rotation of its subtomogram. Groups are _rlnGroupNumber.

    Raises
    ------
    InputError
        A set of tomograms instead of particles, columns missing or not numbers, a missing optics group, no rows for
        this tomogram, or positions outside it.
    """
    tables = _tables(path)
    columns = [one.format("X") for one in (CENTRED, *IN_ANGSTROM, PIXELS)]
    if not any(column in table for table in tables.values() for column in columns):
        for table in tables.values():
            if {"rlnTomoSizeX", "rlnTomoTiltSeriesStarFile", "rlnTomoTomogramsFile"} & table.keys():
                particles = next((f" ({name[0][:80]!r})" for name in [table.get("rlnTomoParticlesFile")] if name), "")
                raise InputError(
                    f"{path} lists tomograms, but no positions; expected the particles' STAR: give that of the same "
                    f"job{particles}."
                )
    block, table, rest = _take(path, tables, *columns)
    names, mine = _names(table), list(range(len(next(iter(table.values())))))
    if names:
        mine = rows_of(path, names, tomogram)
    optics = rest.get("optics", {})
    xyz, unit = _positions(path, table, optics, tomogram)
    shift = _shifts(path, table, optics, tomogram)
    if set(SUBTOMOGRAM) <= table.keys():
        shift = rotation_from_relion(_vectors(path, table, SUBTOMOGRAM)).apply(shift)
    angles = angles_of(path, table, in_tomogram=True)
    zyx = (xyz - shift)[mine, ::-1]
    check_inside(path, zyx, tomogram, unit, mine)
    table = {column: [values[row] for row in mine] for column, values in table.items()}
    groups = group_numbers(table.get("rlnGroupNumber", ["0"] * len(mine)))
    angles = None if angles is None else angles[mine]
    return Particles(table, zyx, angles=angles, groups=groups, kind="star", block=block, rest=rest)
