"""Positions from JSON: EMAN2's boxes, copick's picks, and annotations of the CZ CryoET Data Portal."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from cryoshift_core.errors import InputError
from cryoshift_core.tomography.volumes import Particles, Volume

from . import evidence
from .placement import placed
from .positions import group_numbers, read_text, relion_from_rotation, rotation_from_matrices

MAX_KEYS = 100


def _parse(path: str | Path, text: str, where: str = "") -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:  # ValueError: also for integers with thousands of digits
        reason = "nested too deep" if isinstance(error, RecursionError) else str(error).splitlines()[0]
        raise InputError(f"{path} is not JSON{where} ({reason}); write it again.") from error


def _finite(value: Any) -> float:
    """A JSON value as a number; NaN where it is none, or not finite."""
    try:
        number = float(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else np.nan
    except OverflowError:
        number = np.nan
    return number if np.isfinite(number) else np.nan


def _number(path: str | Path, value: Any, where: str) -> float:
    number = _finite(value)
    if np.isnan(number):
        raise InputError(f"{path}: {where} is {_text(path, value)[:40]!r}; expected a number: correct it.")
    return number


def _text(path: str | Path, value: Any) -> str:
    """A JSON value as one text for a table, without unpaired surrogates, which cannot be written to a file."""
    try:
        text = value if isinstance(value, str) else "" if value is None else json.dumps(value)
    except RecursionError as error:
        raise InputError(f"{path} holds a value that is nested too deep; remove it.") from error
    return text.encode("utf-8", "backslashreplace").decode()


def _positions(path: str | Path, rows: Sequence[Sequence[Any]], where: Sequence[Sequence[str]]) -> np.ndarray:
    """(N, 3) x, y, z; NaN for what is no number, unless that is in half of the rows or more.

    Parameters
    ----------
    where : (N, 3) words for the InputError
    """
    out = np.array([[_finite(value) for value in row] for row in rows])
    if 2 * np.isnan(out).any(1).sum() >= len(rows):
        for row, words in zip(rows, where, strict=True):
            for value, word in zip(row, words, strict=True):
                _number(path, value, word)
    return out


def _location(point: Any) -> dict[str, Any]:
    """The location of a point; empty where it has none."""
    found = point.get("location") if isinstance(point, dict) else None
    return found if isinstance(found, dict) else {}


def _locations(path: str | Path, points: Sequence[Any]) -> np.ndarray:
    """(N, 3) x, y, z of points with a location."""
    lost = [number for number, point in enumerate(points, 1) if not _location(point)]
    if lost and 2 * len(lost) >= len(points):
        raise InputError(f"{path}: point {lost[0]} has no location; expected one with x, y and z: correct it.")
    rows = [[_location(point).get(axis) for axis in "xyz"] for point in points]
    return _positions(path, rows, [[f"{a} of point {n}" for a in "xyz"] for n in range(1, len(points) + 1)])


def _matrices(path: str | Path, points: Sequence[Any], key: str, n: int) -> np.ndarray | None:
    """(N, n, n) numbers from nested lists; None if any point with a position has none."""
    placed = [not np.isnan([_finite(_location(point).get(axis)) for axis in "xyz"]).any() for point in points]
    identity = np.eye(n).tolist()
    values = [point.get(key) if known else identity for point, known in zip(points, placed, strict=True)]
    if any(value is None for value in values):
        return None
    out = np.empty((len(values), n, n))
    for row, value in enumerate(values):
        lines = value if isinstance(value, list) else []
        if [len(line) if isinstance(line, list) else 0 for line in lines] != [n] * n:
            raise InputError(
                f"{path}: expected the matrix of point {row + 1} as {n} lists of {n} numbers, got {str(value)[:40]!r}; "
                "correct it."
            )
        out[row] = [[_number(path, v, f"the matrix of point {row + 1}") for v in line] for line in lines]
    return out


def _columns(path: str | Path, points: Sequence[Any]) -> dict[str, list[str]]:
    """All fields of the points as texts, the location as x, y and z; names are made valid labels of a STAR."""
    points = [point if isinstance(point, dict) else {} for point in points]
    keys = dict.fromkeys(key for point in points for key in point)
    if len(keys) > MAX_KEYS:
        raise InputError(f"{path} names {len(keys)} different fields; expected at most {MAX_KEYS}: remove some.")
    table = {axis: [_text(path, _location(point).get(axis)) for point in points] for axis in "xyz"}
    fields = (key for key in keys if key not in ("location", *table))
    texts = {key: [_text(path, point.get(key)) for point in points] for key in fields}
    return table | {re.sub(r"\W", "_", key) or "_": column for key, column in texts.items()}


def _particles(
    path: str | Path,
    points: Sequence[Any],
    zyx: np.ndarray,
    unit: str,
    tomogram: Volume,
    rotations: np.ndarray | None,
    name: str = "",
) -> Particles:
    """Particles from points of the portal or of copick; `rotations` (N, 3, 3) map the reference into the tomogram."""
    angles = None if rotations is None else relion_from_rotation(rotation_from_matrices(path, rotations))
    instances = [point.get("instance_id") if isinstance(point, dict) else None for point in points]
    groups = group_numbers([_text(path, instance) or "0" for instance in instances])
    particles = Particles(_columns(path, points), zyx, angles=angles, groups=groups)
    return placed(particles, path, tomogram, unit, name=name)


def read_portal(path: str | Path, tomogram: Volume) -> Particles:
    """Particles from points of the CZ CryoET Data Portal (.ndjson): one JSON object per line.

    The types point, orientedPoint and instancePoint are read. `location` is in voxels of the tomogram that the
    annotation belongs to. It is scaled to the voxels of `tomogram` where a folder such as VoxelSpacing10.012 states
    another voxel size. Angles come from `xyz_rotation_matrix`, which rotates the reference onto the particle, if each
    point has one. Groups are `instance_id`.

    Raises
    ------
    InputError
        Not text, a line that is not such an object, invalid numbers or matrices, or positions outside the tomogram.
    """
    text = read_text(path, "lines of JSON, as the CryoET Data Portal has them")
    lines = [(number, line) for number, line in enumerate(text.split("\n"), 1) if line.strip()]
    if not lines:
        raise InputError(f"{path} holds no points; expected one JSON object per line: check the file.")
    points, broken = [], []
    for number, line in lines:
        try:
            points.append(_parse(path, line, f" in line {number}"))
        except InputError as error:
            points.append(None)
            broken.append(error)
    if 2 * len(broken) >= len(points):
        raise broken[0]
    xyz = _locations(path, points)
    rotations = _matrices(path, points, "xyz_rotation_matrix", 3)
    spacing = next((s for s in evidence.in_names(path) if "VoxelSpacing" in s.where), None)
    if spacing is None or evidence.same(spacing.value, tomogram.voxel_size):
        return _particles(path, points, xyz[:, ::-1], "", tomogram, rotations)
    unit = f" (scaled from {spacing.value:g} to {tomogram.voxel_size:g} A)"
    return _particles(path, points, xyz[:, ::-1] * spacing.value / tomogram.voxel_size, unit, tomogram, rotations)


def read_json(path: str | Path, tomogram: Volume) -> Particles:
    """Particles from EMAN2's info/*.json (it has "boxes_3d") or from a picks file of copick (it has "points").

    Raises
    ------
    InputError
        Neither of the two, not JSON, invalid numbers, or positions outside the tomogram.
    """
    return _content(path, _parse(path, read_text(path, "JSON of EMAN2 or copick")), tomogram)


def _content(path: str | Path, content: Any, tomogram: Volume) -> Particles:
    for key, read in (("boxes_3d", _read_eman2), ("points", _read_copick)):
        if isinstance(content, dict) and isinstance(content.get(key), list):
            if not content[key]:
                raise InputError(f"{path} has an empty list '{key}'; expected at least one position: pick again.")
            return read(path, content, tomogram)
    keys = ", ".join(repr(key[:40]) for key in list(content)[:5]) if isinstance(content, dict) else "no object"
    raise InputError(
        f"{path} has no positions ({keys}); expected 'boxes_3d' of EMAN2's info files, or 'points' of a picks file in "
        "copick's ExperimentRuns/*/Picks: give such a file."
    )


def _read_eman2(path: str | Path, content: dict[str, Any], tomogram: Volume) -> Particles:
    """Particles from boxes of x, y, z, method, score and class; "class_list" names the classes.

    With "apix_unbin", positions are unbinned pixels of that size in A from the tomogram's centre, voxel n // 2. Without
    it, in older files, they are voxels of the tomogram, counted from 0 (e2spt_boxer.py, on the metadata of 2018-09).
    """
    boxes, listed = content["boxes_3d"], content.get("class_list")
    bad = [row for row, box in enumerate(boxes, 1) if not isinstance(box, list) or len(box) < 3]
    if bad and 2 * len(bad) >= len(boxes):
        raise InputError(f"{path}: box {bad[0]}: expected a list of x, y, z, method, score and class; correct it.")
    boxes = [[None] * 3 if row in bad else box for row, box in enumerate(boxes, 1)]
    xyz = _positions(path, [box[:3] for box in boxes], [[f"box {row}"] * 3 for row in range(1, len(boxes) + 1)])
    unit, stated = "", evidence.in_names(path)
    if "apix_unbin" in content:
        pixel = _number(path, content["apix_unbin"], "apix_unbin")
        if pixel <= 0:
            raise InputError(f"{path}: apix_unbin: expected A per unbinned pixel above 0, got {pixel:g}; correct it.")
        xyz = xyz * (pixel / tomogram.voxel_size) + np.array(tomogram.data.shape[::-1]) // 2
        unit, stated = f" (from pixels of {pixel:g} A around the centre)", []
    fields = ("x", "y", "z", "method", "score", "class")
    table = {name: [_text(path, box[i]) if i < len(box) else "" for box in boxes] for i, name in enumerate(fields)}
    if isinstance(listed, dict):
        names = {key: _text(path, value.get("name")) for key, value in listed.items() if isinstance(value, dict)}
        table["class_name"] = [names.get(number, "") for number in table["class"]]
    particles = Particles(table, xyz[:, ::-1], groups=np.zeros(len(boxes), np.int64))
    return placed(particles, path, tomogram, unit, stated=stated)


def _read_copick(path: str | Path, content: dict[str, Any], tomogram: Volume) -> Particles:
    """Particles from one picks file: ExperimentRuns/<run>/Picks/<user>_<session>_<object>.json.

    Only this file is read, not the project's configuration: give the tomogram of the same run. A particle is at its
    location plus the shift of its transformation, both in A from the first voxel; the transformation rotates the
    particle into the tomogram (copick's docs, "Geometry Conventions"). Angles are None if all transformations are the
    identity, copick's default, or if "trust_orientation" is false. Groups are "instance_id".
    """
    points, unit = content["points"], content.get("unit", "angstrom")
    if unit != "angstrom":
        raise InputError(f"{path} has positions in {_text(path, unit)[:40]!r}; expected angstrom: convert them.")
    xyz = _locations(path, points)
    rotations = _matrices(path, points, "transformation_", 4)
    if rotations is not None:
        xyz = xyz + rotations[:, :3, 3]
        rotations = rotations[:, :3, :3]
        if content.get("trust_orientation") is False or np.array_equal(
            rotations, np.broadcast_to(np.eye(3), rotations.shape)
        ):
            rotations = None
    zyx = xyz[:, ::-1] / tomogram.voxel_size
    unit, run = f" (from A, {tomogram.voxel_size:g} A/voxel)", content.get("run_name")
    return _particles(path, points, zyx, unit, tomogram, rotations, run if isinstance(run, str) else "")


def _groups(part: Particles) -> np.ndarray:
    return np.zeros(len(part), np.int64) if part.groups is None else part.groups


def read_copick_run(path: str | Path, tomogram: Volume) -> Particles:
    """All particles of one run of a copick project, from its folder ExperimentRuns/<run>/Picks.

    Each file is read as by `read_json`; those without points are skipped. The column copickFile names the file of each
    row, <user>_<session>_<object>. Angles are kept if all files have them; a group is an instance in one file. The
    project's configuration is not read, because it may refer to any path.

    Raises
    ------
    InputError
        No picks in the folder, or as `read_json` for one of the files.
    """
    found: dict[str, Particles] = {}
    for file in sorted(Path(path).glob("*.json")):
        content = _parse(file, read_text(file, "JSON of copick"))
        if not isinstance(content, dict) or content.get("points") != []:
            found[file.stem] = _content(file, content, tomogram)
    if not found:
        raise InputError(f"{path} holds no picks; expected the folder Picks of one run of a copick project.")
    parts = list(found.values())
    columns = dict.fromkeys(column for part in parts for column in part.table)
    table = {c: [text for part in parts for text in part.table.get(c, [""] * len(part))] for c in columns}
    table["copickFile"] = [name for name, part in found.items() for _ in range(len(part))]
    groups = group_numbers([f"{name} {group}" for name, part in found.items() for group in _groups(part)])
    zyx = np.concatenate([part.zyx for part in parts if part.zyx is not None])
    known = [part.angles for part in parts if part.angles is not None]
    angles = np.concatenate(known) if len(known) == len(parts) else None
    starts = np.cumsum([0, *(len(part) for part in parts)])
    bad = {int(start) + i: why for start, part in zip(starts, parts, strict=False) for i, why in part.bad.items()}
    warnings = tuple(sentence for part in parts for sentence in part.warnings)
    return Particles(table, zyx, angles=angles, groups=groups, bad=bad, warnings=warnings)
