"""Particles in STAR files, as RELION, Warp and M write them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from cryoshift_core.errors import InputError
from cryoshift_core.tomography.star import read_star
from cryoshift_core.tomography.volumes import Particles, Volume, rotation_from_relion

from . import evidence
from .evidence import Stated
from .placement import placed
from .positions import check_size, floats, group_numbers, relion_from_rotation, rows_of

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


def numbers(path: str | Path, table: Table, column: str, missing: bool = False) -> np.ndarray:
    """(N,) finite numbers of a column, or NaN if `missing` ones are allowed; InputError names the first other cell."""
    return floats(path, f"_{column}", table.get(column, [""]), missing)


def _vectors(path: str | Path, table: Table, columns: tuple[str, ...] | list[str]) -> np.ndarray:
    """(N, 3) numbers; all three are NaN where one is missing."""
    absent = next((column for column in columns if column not in table), None)
    if absent:
        raise InputError(
            f"{path} has _{columns[0]} and no _{absent}; expected both, because positions are 3-D: give the list of "
            "particles of a tomogram."
        )
    out = np.stack([numbers(path, table, column, missing=True) for column in columns], 1)
    out[~np.isfinite(out).all(1)] = np.nan
    return out


def per_row(path: str | Path, table: Table, optics: Table, column: str, unknown: bool = False) -> np.ndarray | None:
    """(N,) values of `column`, from the table or from the optics group of each row; None if neither has it.

    NaN in rows whose value is no number, or whose optics group is not in the table, unless they are half or more.

    Parameters
    ----------
    unknown : allow 0 and less, which programs write for values that they do not know; if not, NaN stands for them, too
    """
    if column in table:
        values = numbers(path, table, column, missing=True)
    elif column in optics:
        of_groups = numbers(path, optics, column, missing=True)
        own, ids = table.get("rlnOpticsGroup", [""]), optics.get("rlnOpticsGroup", [])
        if len(of_groups) == 1 and (own == [""] or not ids):
            return per_row(path, {column: optics[column] * len(next(iter(table.values())))}, {}, column, unknown)
        groups = dict(zip(ids, of_groups, strict=False))
        lost = [group for group in own if group not in groups]
        if lost and 2 * len(lost) >= len(own):
            raise InputError(
                f"{path}: the optics table has no row for the group {lost[0][:40]!r} of a particle; expected "
                f"_rlnOpticsGroup in both tables, for _{column}: add the row."
            )
        values = np.array([groups.get(group, np.nan) for group in own])
    else:
        return None
    wrong = values <= 0
    if not unknown and 2 * wrong.sum() >= len(values):
        raise InputError(
            f"{path}: _{column} is {values[wrong].min():g}; expected a pixel size in A above 0: correct it."
        )
    return values if unknown else np.where(wrong, np.nan, values)


def image_pixel(path: str | Path, table: Table, optics: Table) -> tuple[np.ndarray, str] | None:
    """(N,) A per pixel of the particles' images, and the columns that state it; None if none does.

    The columns are those of RELION 3.0 (magnification) and later (optics table). Values that are not known, such as 0
    and 1, do not count.
    """
    columns = ("rlnImagePixelSize", "rlnPixelSize", "rlnDetectorPixelSize", "rlnMagnification")
    *found, (_, detector), (_, magnification) = [(c, per_row(path, table, optics, c, unknown=True)) for c in columns]
    if detector is not None and magnification is not None and (magnification > 0).all():
        found.append(("rlnDetectorPixelSize", detector * 1e4 / magnification))  # detector pixels are in micrometres
    known = [(name, pixel) for name, pixel in found if pixel is not None and all(map(evidence.is_stated, pixel))]
    for name, pixel in known[1:]:
        off = np.flatnonzero(np.abs(pixel / known[0][1] - 1) > evidence.TOLERANCE)
        if len(off):
            stated = [Stated(float(p[off[0]]), f"_{n}") for n, p in (known[0], (name, pixel))]
            evidence.agreed(path, stated, f"correct row {off[0] + 1}, or remove the wrong column")
    return (known[0][1], f"_{known[0][0]}") if known else None


def names_of(table: Table) -> list[str]:
    """Name of the tomogram of each row; [] without a column of them."""
    columns = ("rlnTomoName", "rlnMicrographName", "wrpSourceName")
    return next((table[column] for column in columns if column in table), [])


def tomogram_names(path: str | Path) -> list[str]:
    """Name of the tomogram of each row of the positions in a STAR; [] without a column of them."""
    columns = [one.format("X") for one in (CENTRED, *IN_ANGSTROM, PIXELS)]
    return names_of(_take(path, _tables(path), *columns)[1])


def stated(path: str | Path) -> list[Stated]:
    """Pixel sizes that the tables of a STAR state, one for each column, to show; they may be of different images."""
    columns = ("rlnTomoTiltSeriesPixelSize", "rlnMicrographPixelSize", "rlnImagePixelSize", "rlnPixelSize")
    found = {
        column: numbers(path, table, column)
        for table in _tables(path).values()
        for column in columns
        if table.get(column)
    }
    return [Stated(float(np.median(values)), f"_{column} of the list") for column, values in found.items()]


def _from_warp(table: Table) -> bool:
    return any(name.endswith(".tomostar") for name in names_of(table))


def _unit(path: str | Path, table: Table, optics: Table) -> tuple[np.ndarray | None, list[Stated]]:
    """(N,) A per pixel that _rlnCoordinateX/Y/Z count, None if nothing defines it, and what else the file states.

    Warp counts pixels of its images, whatever its versions write into _rlnTomoTiltSeriesPixelSize. In other files,
    _rlnMicrographPixelSize and _rlnTomoTiltSeriesPixelSize define the unit. The pixel of extracted images does not, and
    a lone _rlnDetectorPixelSize is in A (PyTom) or in micrometres (RELION 3.0).
    """
    images = image_pixel(path, table, optics)
    if _from_warp(table) and images is not None:
        return images[0], []
    defining = ("rlnTomoTiltSeriesPixelSize", "rlnMicrographPixelSize")
    unbinned = per_row(path, table, optics, defining[0])
    micrograph = per_row(path, table, optics, defining[1], unknown=True)
    known = {} if unbinned is None else {defining[0]: unbinned}
    if micrograph is not None and all(map(evidence.is_stated, micrograph)):
        known[defining[1]] = micrograph
    if len(known) == 2 and (off := np.abs(known[defining[0]] / known[defining[1]] - 1) > evidence.TOLERANCE).any():
        stated = [Stated(float(pixel[off][0]), f"_{name}") for name, pixel in known.items()]
        evidence.agreed(path, stated, "remove the column that the coordinates do not count")
    if known:
        return next(iter(known.values())), []
    lone = per_row(path, table, optics, "rlnDetectorPixelSize", unknown=True)
    images = images or (None if lone is None else (lone, "_rlnDetectorPixelSize"))
    others = [] if images is None else [Stated(float(np.median(images[0])), images[1])]
    return None, [*others, *evidence.in_names(path)]


def _positions(path: str | Path, table: Table, optics: Table, tomogram: Volume) -> tuple[np.ndarray, str, list[Stated]]:
    """(N, 3) x, y, z in voxels of the tomogram, origins not subtracted; their conversion in words; other sizes."""
    size = np.array(tomogram.data.shape[::-1])
    if CENTRED.format("X") in table:
        centred = _vectors(path, table, [CENTRED.format(axis) for axis in "XYZ"])
        unit = f" (from A around the centre, {tomogram.voxel_size:g} A/voxel)"
        return centred / tomogram.voxel_size + size / 2, unit, []
    warp = next((columns for columns in IN_ANGSTROM if columns.format("X") in table), None)
    if warp:
        xyz = _vectors(path, table, [warp.format(axis) for axis in "XYZ"])
        return xyz / tomogram.voxel_size, f" (from A, {tomogram.voxel_size:g} A/voxel)", []
    xyz = _vectors(path, table, [PIXELS.format(axis) for axis in "XYZ"])
    if _from_warp(table) and np.nanmin(xyz) >= 0 and np.nanmax(xyz) <= 1:
        return xyz * size, " (from fractions of the tomogram)", []
    pixel, stated = _unit(path, table, optics)
    if pixel is None:
        return xyz, "", stated
    low, high = np.nanmin(pixel), np.nanmax(pixel)
    was = f"{low:g}" if high - low < 1e-6 else f"{low:g} to {high:g}"
    unit = f" (scaled from {was} to {tomogram.voxel_size:g} A)"
    return xyz * (pixel / tomogram.voxel_size)[:, None], unit, []


def _two_positions(path: str | Path, table: Table, optics: Table, xyz: np.ndarray, tomogram: Volume) -> list[str]:
    """A sentence where _rlnCoordinateX/Y/Z place the particles elsewhere than _rlnCenteredCoordinateX/Y/ZAngst.

    Both may differ by as much as tomograms of another size are cut: a tenth of the tomogram along each axis.

    Parameters
    ----------
    xyz : (N, 3) voxels, from the latter
    """
    if not {one.format(axis) for one in (CENTRED, PIXELS) for axis in "XYZ"} <= table.keys():
        return []
    pixels = _vectors(path, table, [PIXELS.format(axis) for axis in "XYZ"])
    both = np.isfinite(xyz).all(1) & np.isfinite(pixels).all(1)
    unit = _unit(path, table, optics)[0]
    if unit is None:  # they count pixels of an unknown size: the one that fits best
        spread = np.ptp(pixels[both], axis=0) if both.any() else np.zeros(3)
        widest = int(spread.argmax())
        scale = np.ptp(xyz[both, widest]) / spread[widest] if spread[widest] > 0 else 1.0
    else:
        scale = (unit / tomogram.voxel_size)[:, None]
    away = np.abs((pixels * scale - xyz)[both]) / tomogram.data.shape[::-1]
    if 2 * (away > 0.1).any(1).sum() < max(1, len(away)):
        return []
    return [
        f"{path}: _rlnCoordinateX/Y/Z and _rlnCenteredCoordinateX/Y/ZAngst place the particles differently; the latter "
        "were taken: remove the columns that are wrong."
    ]


def _shifts(path: str | Path, table: Table, optics: Table, tomogram: Volume) -> np.ndarray:
    """(N, 3) x, y, z of the origins in voxels of the tomogram, which RELION subtracts from the coordinates."""
    shift = np.zeros((len(next(iter(table.values()))), 3))
    for axis, letter in enumerate("XYZ"):
        if f"rlnOrigin{letter}Angst" in table:
            shift[:, axis] = numbers(path, table, f"rlnOrigin{letter}Angst", missing=True) / tomogram.voxel_size
        elif f"rlnOrigin{letter}" in table:
            pixel = image_pixel(path, table, optics)
            scale = 1.0 if pixel is None else pixel[0] / tomogram.voxel_size
            shift[:, axis] = numbers(path, table, f"rlnOrigin{letter}", missing=True) * scale
    return shift


def angles_of(path: str | Path, table: Table, in_tomogram: bool = False) -> np.ndarray | None:
    """(N, 3) rot, tilt, psi in degrees of the particles in their boxes, or in the tomogram; None without columns.

    0 where one of a row's angles is missing.
    """
    angles = next((_vectors(path, table, columns) for columns in ANGLES if set(columns) <= table.keys()), None)
    angles = None if angles is None else np.nan_to_num(angles)
    if not in_tomogram or not set(SUBTOMOGRAM) <= table.keys():
        return angles
    box = rotation_from_relion(np.nan_to_num(_vectors(path, table, SUBTOMOGRAM)))
    return relion_from_rotation(box if angles is None else box * rotation_from_relion(angles))


def read_picks(path: str | Path, tomogram: Volume) -> Particles:
    """Particles of one tomogram from a STAR file of RELION 3.0 to 5, Warp or M.

    - _rlnCenteredCoordinateX/Y/ZAngst (RELION 5) are A from the tomogram's centre, which is half its size, also if that
      is odd (tomogram_set.cpp, particle_set.cpp). The centre of a tomogram whose unbinned size is not a multiple of the
      binning differs from this by less than half a voxel.
    - _wrpCoordinateX1/Y1/Z1 (M) are A from the first voxel.
    - _rlnCoordinateX/Y/Z are voxels of the tomogram, counted from 0, with three exceptions. If the optics group has
      _rlnTomoTiltSeriesPixelSize (RELION 4) or _rlnMicrographPixelSize, they are pixels of that size. In a table of
      .tomostar names (Warp) they are pixels of its images, or fractions of the tomogram if all lie between 0 and 1, as
      Warp's template matching writes.

    _rlnOriginX/Y/ZAngst, or _rlnOriginX/Y/Z in pixels of the particles' images, are rotated by _rlnTomoSubtomogramRot,
    Tilt and Psi if the table has them, and subtracted (particle_set.cpp, getPosition). Angles are those of the particle
    in the tomogram, including the rotation of its subtomogram. Groups are _rlnGroupNumber. `bad` holds rows outside the
    tomogram or without numbers, and `warnings` what speaks against the positions, see `placement.placed`.

    Raises
    ------
    InputError
        A set of tomograms instead of particles, columns missing or not numbers, a missing optics group, pixel sizes
        that contradict each other, no rows for this tomogram, or half of the positions outside it.
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
    names, mine = names_of(table), list(range(len(next(iter(table.values())))))
    if names:
        mine = rows_of(path, names, tomogram)
    optics = rest.get("optics", {})
    xyz, unit, stated = _positions(path, table, optics, tomogram)
    differ = _two_positions(path, table, optics, xyz, tomogram)
    shift = _shifts(path, table, optics, tomogram)
    if set(SUBTOMOGRAM) <= table.keys():
        shift = rotation_from_relion(np.nan_to_num(_vectors(path, table, SUBTOMOGRAM))).apply(shift)
    angles = angles_of(path, table, in_tomogram=True)
    zyx = (xyz - shift)[mine, ::-1]
    table = {column: [values[row] for row in mine] for column, values in table.items()}
    groups = group_numbers(table.get("rlnGroupNumber", ["0"] * len(mine)))
    angles = None if angles is None else angles[mine]
    found = Particles(table, zyx, angles=angles, groups=groups, kind="star", block=block, rest=rest)
    name = names[mine[0]] if names else ""
    found = placed(found, path, tomogram, unit, rows=mine, stated=stated, name=name)
    return replace(found, warnings=(*found.warnings, *differ))
