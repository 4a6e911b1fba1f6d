"""Positions in JSON: EMAN2's boxes, copick's picks, and the annotations of the CZ CryoET Data Portal."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from cryoshift_core.errors import InputError
from cryoshift_core.tomography.volumes import Particles, Volume

from .positions import check_inside, group_numbers, read_text, relion_from_rotation, rotation_from_matrices

MAX_KEYS = 100


def _parse(path: str | Path, text: str, where: str = "") -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:  # ValueError: also of integers with thousands of digits
        reason = "nested too deep" if isinstance(error, RecursionError) else str(error).splitlines()[0]
        raise InputError(f"{path} is not JSON{where} ({reason}); write it again.") from error


def _number(path: str | Path, value: Any, where: str) -> float:
    try:
        number = float(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else np.nan
    except OverflowError:
        number = np.nan
    if not np.isfinite(number):
        raise InputError(f"{path}: {where} is {_text(path, value)[:40]!r}; wanted a number.")
    return number


def _text(path: str | Path, value: Any) -> str:
    """A JSON value as one text for a table, without the half characters that no file can hold."""
    try:
        text = value if isinstance(value, str) else "" if value is None else json.dumps(value)
    except RecursionError as error:
        raise InputError(f"{path} holds a value that is nested too deep; leave it out.") from error
    return text.encode("utf-8", "backslashreplace").decode()


def _location(path: str | Path, point: Any, number: int) -> list[float]:
    place = point.get("location") if isinstance(point, dict) else None
    if not isinstance(place, dict):
        raise InputError(f"{path}: point {number} has no location; wanted one with x, y and z.")
    return [_number(path, place.get(axis), f"{axis} of point {number}") for axis in "xyz"]


def _matrices(path: str | Path, values: Sequence[Any], n: int) -> np.ndarray | None:
    """(N, n, n) numbers from nested lists; None unless each value is there."""
    if any(value is None for value in values):
        return None
    out = np.empty((len(values), n, n))
    for row, value in enumerate(values):
        lines = value if isinstance(value, list) else []
        if [len(line) if isinstance(line, list) else 0 for line in lines] != [n] * n:
            raise InputError(f"{path}: the matrix of point {row + 1} is no list of {n} lists of {n} numbers.")
        out[row] = [[_number(path, v, f"the matrix of point {row + 1}") for v in line] for line in lines]
    return out


def _columns(path: str | Path, points: Sequence[dict[str, Any]]) -> dict[str, list[str]]:
    """All fields of the points as texts, the location as x, y and z; their names fit for a STAR's labels."""
    keys = dict.fromkeys(key for point in points for key in point)
    if len(keys) > MAX_KEYS:
        raise InputError(f"{path} names {len(keys)} different fields; wanted at most {MAX_KEYS} for its points.")
    table = {axis: [_text(path, point["location"][axis]) for point in points] for axis in "xyz"}
    fields = (key for key in keys if key not in ("location", *table))
    texts = {key: [_text(path, point.get(key)) for point in points] for key in fields}
    return table | {re.sub(r"\W", "_", key) or "_": column for key, column in texts.items()}


def _particles(
    path: str | Path, points: Sequence[Any], zyx: np.ndarray, unit: str, tomogram: Volume, rotations: np.ndarray | None
) -> Particles:
    """Points of the portal or of copick, which share their fields; `rotations` (N, 3, 3) from particle to tomogram."""
    check_inside(path, zyx, tomogram, unit)
    angles = None if rotations is None else relion_from_rotation(rotation_from_matrices(path, rotations))
    groups = group_numbers([_text(path, point.get("instance_id")) or "0" for point in points])
    return Particles(_columns(path, points), zyx, angles=angles, groups=groups)


def read_portal(path: str | Path, tomogram: Volume) -> Particles:
    """Points of the CZ CryoET Data Portal (.ndjson): one JSON object a line.

    Its type is point, orientedPoint or instancePoint; all three are read.

    `location` is in voxels of the tomogram that the annotation belongs to (its voxel spacing is in the annotation's
    folder). Where each point has an `xyz_rotation_matrix`, which rotations the reference onto the particle, angles come
    from it; groups are `instance_id`.

    Raises
    ------
    InputError
        Not text, a line that is no such object, numbers or matrices that are none, or positions outside the tomogram.
    """
    text = read_text(path, "lines of JSON, as the CryoET Data Portal has them")
    lines = [(number, line) for number, line in enumerate(text.split("\n"), 1) if line.strip()]
    if not lines:
        raise InputError(f"{path} holds no points; wanted one JSON object a line.")
    points = [_parse(path, line, f" in line {number}") for number, line in lines]
    xyz = np.array([_location(path, point, row) for row, point in enumerate(points, 1)])
    rotations = _matrices(path, [point.get("xyz_rotation_matrix") for point in points], 3)
    return _particles(path, points, xyz[:, ::-1], "", tomogram, rotations)


def read_json(path: str | Path, tomogram: Volume) -> Particles:
    """Positions from EMAN2's info/*.json (it has "boxes_3d") or from a picks file of copick (it has "points").

    Raises
    ------
    InputError
        Neither of the two, not JSON, numbers that are none, or positions outside the tomogram.
    """
    return _content(path, _parse(path, read_text(path, "JSON of EMAN2 or copick")), tomogram)


def _content(path: str | Path, content: Any, tomogram: Volume) -> Particles:
    for key, read in (("boxes_3d", _read_eman2), ("points", _read_copick)):
        if isinstance(content, dict) and isinstance(content.get(key), list):
            if not content[key]:
                raise InputError(f"{path} has an empty list '{key}'; wanted at least one position.")
            return read(path, content, tomogram)
    keys = ", ".join(repr(key[:40]) for key in list(content)[:5]) if isinstance(content, dict) else "no object"
    raise InputError(
        f"{path} has no positions ({keys}); wanted 'boxes_3d' of EMAN2's info files, or 'points' of a picks file in "
        "copick's ExperimentRuns/*/Picks."
    )


def _read_eman2(path: str | Path, content: dict[str, Any], tomogram: Volume) -> Particles:
    """Boxes x, y, z, method, score, class, named by "class_list".

    With "apix_unbin" they are unbinned pixels of that size in A from the tomogram's centre, voxel n // 2; older files
    without it have voxels of the tomogram, counted from 0 (e2spt_boxer.py, on the metadata of 2018-09).
    """
    boxes, listed = content["boxes_3d"], content.get("class_list")
    bad = next((row for row, box in enumerate(boxes, 1) if not isinstance(box, list) or len(box) < 3), None)
    if bad:
        raise InputError(f"{path}: box {bad} is no list of x, y, z, method, score and class.")
    xyz = np.array([[_number(path, v, f"box {row}") for v in box[:3]] for row, box in enumerate(boxes, 1)])
    unit = ""
    if "apix_unbin" in content:
        pixel = _number(path, content["apix_unbin"], "apix_unbin")
        if pixel <= 0:
            raise InputError(f"{path}: apix_unbin is {pixel:g}; wanted A per unbinned pixel above 0.")
        xyz = xyz * (pixel / tomogram.voxel_size) + np.array(tomogram.data.shape[::-1]) // 2
        unit = f" (from pixels of {pixel:g} A around the centre)"
    check_inside(path, xyz[:, ::-1], tomogram, unit)
    fields = ("x", "y", "z", "method", "score", "class")
    table = {name: [_text(path, box[i]) if i < len(box) else "" for box in boxes] for i, name in enumerate(fields)}
    if isinstance(listed, dict):
        names = {key: _text(path, value.get("name")) for key, value in listed.items() if isinstance(value, dict)}
        table["class_name"] = [names.get(number, "") for number in table["class"]]
    return Particles(table, xyz[:, ::-1], groups=np.zeros(len(boxes), np.int64))


def _read_copick(path: str | Path, content: dict[str, Any], tomogram: Volume) -> Particles:
    """Points of one picks file: ExperimentRuns/<run>/Picks/<user>_<session>_<object>.json.

    Only this file is read, neither the project's configuration nor its other runs: give the tomogram of the same run.
    A particle is at its location plus its transformation's shift, both in A from the first voxel; the transformation
    rotations the particle into the tomogram (copick's docs, "Geometry Conventions"). A file whose points all have the
    identity, copick's default, or that says not to trust its orientations, has no angles. Groups are "instance_id".
    """
    points, unit = content["points"], content.get("unit", "angstrom")
    if unit != "angstrom":
        raise InputError(f"{path} has positions in {_text(path, unit)[:40]!r}; wanted angstrom.")
    xyz = np.array([_location(path, point, row) for row, point in enumerate(points, 1)])
    rotations = _matrices(path, [point.get("transformation_") for point in points], 4)
    if rotations is not None:
        xyz = xyz + rotations[:, :3, 3]
        rotations = rotations[:, :3, :3]
        if content.get("trust_orientation") is False or np.array_equal(
            rotations, np.broadcast_to(np.eye(3), rotations.shape)
        ):
            rotations = None
    zyx = xyz[:, ::-1] / tomogram.voxel_size
    return _particles(path, points, zyx, f" (from A, {tomogram.voxel_size:g} A/voxel)", tomogram, rotations)


def read_copick_run(path: str | Path, tomogram: Volume) -> Particles:
    """All picks of one run of a copick project, from its folder ExperimentRuns/<run>/Picks.

    Each file is read as by :func:`read_json`; those without a point are left out. The column copickFile says which
    file, <user>_<session>_<object>, a row came from. Angles stay where all files have them; a group is an instance of
    one file. The project's configuration, which may lead anywhere, is not read.

    Raises
    ------
    InputError
        No picks in the folder, or what `read_json` refuses in one of them.
    """
    found = {}
    for file in sorted(Path(path).glob("*.json")):
        content = _parse(file, read_text(file, "JSON of copick"))
        if not isinstance(content, dict) or content.get("points") != []:
            found[file.stem] = _content(file, content, tomogram)
    if not found:
        raise InputError(f"{path} holds no picks; wanted the folder Picks of one run of a copick project.")
    parts = list(found.values())
    columns = dict.fromkeys(column for part in parts for column in part.table)
    table = {c: [text for part in parts for text in part.table.get(c, [""] * len(part))] for c in columns}
    table["copickFile"] = [name for name, part in found.items() for _ in range(len(part))]
    groups = group_numbers([f"{name} {group}" for name, part in found.items() for group in part.groups])
    turned = [part.angles for part in parts]
    angles = None if any(one is None for one in turned) else np.concatenate(turned)
    return Particles(table, np.concatenate([part.zyx for part in parts]), angles=angles, groups=groups)
