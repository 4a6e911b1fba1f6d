"""Particles in STAR files, as RELION and the programs around it write them."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from cryoshift_core.files import read_star
from cryoshift_core.volumes import InputError, Particles, Volume


def table_with(path: str | Path, column: str) -> tuple[str, dict[str, list[str]], dict[str, dict[str, list[str]]]]:
    """Of a STAR file: name and columns of the table that has `column`, and the other tables."""
    tables = read_star(path)
    block = next((name for name, table in tables.items() if column in table), None)
    if block is None:
        found = ", ".join(tables) or "no tables"
        raise InputError(f"{path} has no column _{column} (tables: {found}); wanted a RELION table that has it.")
    table = tables.pop(block)
    if not table[column]:
        raise InputError(f"{path} has an empty column _{column}; wanted at least one row.")
    return block, table, tables


def numbers(path: str | Path, table: dict[str, list[str]], column: str) -> np.ndarray:
    for row, text in enumerate(table.get(column, [""])):
        try:
            finite = np.isfinite(float(text))
        except ValueError:
            finite = False
        if not finite:
            raise InputError(f"{path}: _{column} is '{text}' in row {row + 1}; wanted a number.")
    return np.array([float(text) for text in table[column]])


def read_picks(path: str | Path, tomogram: Volume) -> Particles:
    """Positions from a RELION-style STAR: _rlnCoordinateX/Y/Z in voxels of the tomogram, counted from 0.

    An optics table with _rlnTomoTiltSeriesPixelSize (RELION 4) says that they count unbinned pixels instead; they are
    scaled. A table of several tomograms (_rlnTomoName or _rlnMicrographName) gives the rows of this one.

    Raises
    ------
    InputError
        Columns missing, not numbers, no rows for this tomogram, or positions outside it.
    """
    block, table, rest = table_with(path, "rlnCoordinateX")
    optics = rest.get("optics", {})
    zyx = np.stack([numbers(path, table, f"rlnCoordinate{axis}") for axis in "ZYX"], 1)
    names = [Path(n).stem for n in table.get("rlnTomoName", table.get("rlnMicrographName", []))]
    if len(set(names)) > 1:
        mine = [row for row, name in enumerate(names) if name == Path(tomogram.path).stem]
        if not mine:
            raise InputError(f"{path} lists {len(set(names))} tomograms, none named '{Path(tomogram.path).stem}'.")
        zyx, table = zyx[mine], {column: [values[r] for r in mine] for column, values in table.items()}
    unit = ""
    if "rlnTomoTiltSeriesPixelSize" in optics:
        pixel = numbers(path, optics, "rlnTomoTiltSeriesPixelSize")[0]
        zyx, unit = zyx * (pixel / tomogram.pixel_size), f" (scaled from {pixel:g} to {tomogram.pixel_size:g} A)"
    shape = np.array(tomogram.data.shape)
    outside = np.flatnonzero(((zyx < -0.5) | (zyx > shape - 0.5)).any(1))
    if len(outside):
        z, y, x = zyx[outside[0]]
        raise InputError(
            f"{path}: {len(outside)} of {len(zyx)} positions lie outside {tomogram.path} of {shape[2]} x {shape[1]} x "
            f"{shape[0]} voxels, first row {outside[0] + 1} at x, y, z = {x:.1f}, {y:.1f}, {z:.1f}{unit}; give voxels "
            "of this tomogram."
        )
    angles = ("rlnAngleRot", "rlnAngleTilt", "rlnAnglePsi")
    turned = np.stack([numbers(path, table, a) for a in angles], 1) if set(angles) <= table.keys() else None
    given = table.get("rlnGroupNumber", ["0"] * len(zyx))
    groups = np.array([int(g) if g.lstrip("-").isdigit() else 0 for g in given])
    return Particles(table, zyx, angles=turned, groups=groups, kind="star", block=block, rest=rest)
