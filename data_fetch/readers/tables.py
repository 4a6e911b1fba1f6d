"""Positions from plain columns: Dynamo's tables (.tbl) and the points that IMOD's model2point writes."""

from __future__ import annotations

import contextlib
import re
from collections import Counter
from pathlib import Path

import numpy as np
from scipy.spatial.transform import Rotation

from cryoshift_core.errors import InputError
from cryoshift_core.tomography.volumes import Particles, Volume

from .evidence import Stated, in_names
from .placement import placed
from .positions import floats, group_numbers, read_text, relion_from_rotation, rows_of

# Columns 1 to 42 of a Dynamo table (Dynamo's wiki, "Table convention"), by the names of the dynamotable library.
DYNAMO = (
    "tag aligned_value averaged_value dx dy dz tdrot tilt narot cc cc2 cpu ftype ymintilt ymaxtilt xmintilt xmaxtilt "
    "fs1 fs2 tomo reg class annotation x y z dshift daxis dnarot dcc otag npar undefined1 ref sref apix def undefined2 "
    "undefined3 undefined4 eig1 eig2"
).split()
MAX_COLUMNS = 200


def _rows(path: str | Path, text: str, what: str) -> list[list[str]]:
    """The words of each line that is not empty, as many in each; "nan" in lines with more or fewer words than most.

    Raises
    ------
    InputError
        Half of the lines or more have another number of words than the others.
    """
    lines = (line.strip() for line in text.splitlines())
    # Splitting stops after the allowed number, so that a line of millions of words needs little memory.
    rows = [line.split(maxsplit=MAX_COLUMNS) for line in lines if line and line[0] not in "#%"]
    if not rows:
        raise InputError(f"{path} holds no rows; expected {what}: check the file.")
    (n, usual), *_ = Counter(map(len, rows)).most_common(1)
    odd = next((number for number, row in enumerate(rows) if len(row) != len(rows[0])), None)
    if 2 * (len(rows) - usual) >= len(rows) and odd is not None:
        raise InputError(
            f"{path} has {len(rows[0])} columns in its first row and {len(rows[odd])} in row {odd + 1}; expected "
            f"{what}: correct the row."
        )
    if n > MAX_COLUMNS:
        raise InputError(f"{path} has more than {MAX_COLUMNS} columns; expected {what}: check the file.")
    return [row if len(row) == n else ["nan"] * n for row in rows]


def _table_map(path: Path) -> dict[float, str]:
    """File name of each tomogram number, from the map beside a table: x.doc of x.tbl, or indices_column20.doc."""
    paths = (path.with_suffix(".doc"), path.parent / "indices_column20.doc")
    found = next((file for file in paths if file.is_file()), None)
    if found is None:
        return {}
    words = [line.split(maxsplit=1) for line in read_text(found, "a table map", 1 << 24).splitlines() if line.strip()]
    numbers = floats(found, "the tomogram's number", [row[0] for row in words])
    return {number: row[-1].strip() for number, row in zip(numbers.tolist(), words, strict=True)}


def read_dynamo(path: str | Path, tomogram: Volume) -> Particles:
    """Particles from a Dynamo table (.tbl): columns 24-26 plus the shifts in 4-6, in voxels of the tomogram.

    Dynamo counts from 1: its pixel 1 is voxel 0 here (Dynamo's wiki, "Volume center"). Columns 7-9 are tdrot, tilt and
    narot; Rz(-tdrot) Rx(-tilt) Rz(-narot) rotates the reference onto the particle, so narot is about the particle's own
    axis (the convention of the eulerangles library, cryohub and copick, which convert between Dynamo and RELION).
    Column 20 numbers the tomograms; if there are several, the table map (x.doc beside x.tbl, or indices_column20.doc)
    names this one. Another apix (column 36) than the tomogram's is a doubt, see `placement.doubts`. Groups are column
    21, the region. `table` holds all columns as texts, by dynamotable's names, so
    that predictions can be written in the same format; columns after the 42nd are column43 and so on.

    The dynamotable library is not used for reading, because it converts texts to numbers, reads files of any size, and
    does not report errors in one line.

    Raises
    ------
    InputError
        Not text, rows of unequal length, fewer than 26 columns, not numbers, several tomograms and no map that names
        this one, or positions outside it.
    """
    what = "a Dynamo table: 26 columns or more of numbers, x, y and z in 24 to 26"
    rows = _rows(path, read_text(path, what), what)
    n = len(rows[0])
    if n < 26:
        raise InputError(f"{path} has {n} columns; expected {what}: check the file.")
    names = [*DYNAMO[:n], *(f"column{number}" for number in range(len(DYNAMO) + 1, n + 1))]
    table = {name: list(column) for name, column in zip(names, zip(*rows, strict=True), strict=True)}

    def vectors(*columns: str) -> np.ndarray:
        named = {c: f"column {DYNAMO.index(c) + 1} ({c})" for c in columns}
        return np.stack([floats(path, name, table[c], missing=True) for c, name in named.items()], 1)

    mine = list(range(len(rows)))
    tomograms = vectors("tomo")[:, 0].tolist()
    if (several := len({number for number in tomograms if number == number})) > 1:  # NaN is no tomogram
        known = _table_map(Path(path))
        if not known:
            raise InputError(
                f"{path} lists {several} tomograms by number (column 20); expected a table map beside "
                f"it: write {Path(path).stem}.doc with lines such as '1 {Path(tomogram.path).name}'."
            )
        mine = rows_of(path, [known.get(number, f"{number:g}") for number in tomograms], tomogram)
    zyx = (vectors("x", "y", "z") + vectors("dx", "dy", "dz") - 1)[mine, ::-1]
    rotation = Rotation.from_euler("zxz", np.nan_to_num(vectors("tdrot", "tilt", "narot")), degrees=True).inv()[mine]
    apix = []
    with contextlib.suppress(InputError, KeyError):  # a table may lack it, or hold no number there
        apix = [Stated(float(vectors("apix")[mine[0], 0]), "column 36 (apix)")]
    table = {name: [column[row] for row in mine] for name, column in table.items()}
    groups, angles = group_numbers(table["reg"]), relion_from_rotation(rotation)
    particles = Particles(table, zyx, angles=angles, groups=groups, kind="dynamo")
    return placed(particles, path, tomogram, " (counted from 0)", rows=mine, stated=[*apix, *in_names(path)])


def _is_numbering(columns: list[list[str]]) -> bool | None:
    """Whether one or two columns before x y z number contours, or objects and contours, as model2point writes them.

    They are whole numbers from 1 (or 0) on that do not decrease. None: whole numbers that do neither; these may be
    coordinates.
    """
    if not all(word.isascii() and word.isdigit() and len(word) < 10 for column in columns for word in column):
        return False
    numbers = list(zip(*(map(int, column) for column in columns), strict=True))
    return True if numbers == sorted(numbers) and max(numbers[0]) <= 1 else None


def read_points(path: str | Path, tomogram: Volume) -> Particles:
    """Particles from text columns x y z, in voxels of the tomogram counted from 0 at the first voxel's centre.

    Columns after the third are kept, such as a radius or a score. Whole numbers from 1 on before x y z are those of
    contours, or objects and contours, as in the text of model2point.

    Raises
    ------
    InputError
        Fewer than 3 columns, columns that may be numbers of contours or coordinates, not numbers, or half of the
        positions outside the tomogram.
    """
    return _read_points(path, tomogram, (0, 0, 0))


def read_model_points(path: str | Path, tomogram: Volume) -> Particles:
    """Particles from the text that IMOD's model2point writes: x y z, after the contour, or object and contour, if any.

    IMOD's model coordinates are voxels of the tomogram. x and y count from the edge of the first voxel, whose centre is
    at 0.5, and z from the centre of the first section, which is at 0 (imodmodel's note on 3dmod's coordinates; PEET's
    index2ImodPoints). Therefore 0.5 is subtracted from x and y. model2point rounded to integers before IMOD 4.10.35,
    and shifts z by 0.5 when run with -zcoord. Points of one contour form a group if there are several contours.

    Parameters and errors as in `read_points`.
    """
    return _read_points(path, tomogram, (0, 0.5, 0.5))


def _read_points(path: str | Path, tomogram: Volume, origin: tuple[float, float, float]) -> Particles:
    what = "3 columns x y z, as model2point writes, and after them columns that are no coordinates, if any"
    way = "model2point -object model.mod points.txt makes object, contour, x, y, z of it"
    if Path(path).is_file():
        with Path(path).open("rb") as file:
            if file.read(4).upper() == b"IMOD":
                raise InputError(f"{path} is an IMOD model; expected a list of points: {way}.")
    rows = _rows(path, read_text(path, what), what)
    n = len(rows[0])
    if n < 3:
        raise InputError(f"{path} has {n} columns; expected {what}: check the file.")
    columns = [list(column) for column in zip(*rows, strict=True)]
    numbering = _is_numbering(columns[: n - 3]) if n in (4, 5) else False
    known = [float(word) for word in columns[0] if re.fullmatch(r"[-+]?[0-9]{1,9}(\.[0-9]{0,9})?", word)]
    if numbering is None or (n > 3 and not numbering and len(known) == len(rows) and max(map(abs, known)) <= 1):
        raise InputError(
            f"{path} has {n} columns, of which the first ({columns[0][0][:20]}, ...) may be x or something else; "
            "expected x y z: leave only these three columns."
        )
    first = n - 3 if numbering else 0
    names = ["object", "contour"][2 - first :] + ["x", "y", "z"] + [f"column{i}" for i in range(first + 4, n + 1)]
    table = dict(zip(names, columns, strict=True))
    contours = [" ".join(row[:first]) for row in rows]
    zyx = np.stack([floats(path, axis, table[axis], missing=True) for axis in "zyx"], 1) - origin
    several = len(set(contours)) > 1
    groups = group_numbers(contours) if several else np.zeros(len(zyx), np.int64)
    return placed(Particles(table, zyx, groups=groups), path, tomogram, stated=in_names(path))
