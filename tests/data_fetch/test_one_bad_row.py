"""One bad row, point or file among good ones is not classified, in every format; half of them are refused."""

import json

import numpy as np
import pytest
from helpers.files import SUBTOMOGRAMS, mrc, says, star

from cryoshift_core.errors import InputWarning
from cryoshift_core.tomography.star import write_star
from cryoshift_core.tomography.volumes import Volume
from data_fetch import readers

VOXEL = 10.0
TOMOGRAM = Volume(np.random.default_rng(0).normal(size=(40, 60, 60)).astype(np.float32), VOXEL, "TS_1.mrc")
XYZ = np.random.default_rng(1).uniform(5, 35, (6, 3)).round(2)


def cells(change):
    """Rows of x, y, z as texts; `change` alters row 3."""
    rows = [[f"{value:g}" for value in row] for row in XYZ]
    rows[2] = change(rows[2])
    return rows


def as_star(path, rows):
    return star(path / "a.star", **{f"rlnCoordinate{axis}": [row[i] for row in rows] for i, axis in enumerate("XYZ")})


def lines(path, name, rows):
    (path / name).write_text("\r\n".join(" ".join(row) for row in rows))
    return path / name


def dynamo(path, rows):
    number = [[f"{float(v) + 1:g}" if v.replace(".", "").isdigit() else v for v in row] for row in rows]
    return lines(path, "a.tbl", [["0"] * 23 + row + ["0"] * 9 for row in number])


@pytest.mark.parametrize("cell", ["abc", "-1.#IND", "1,5", "--", "12.5+0i", "nan", "?"])
@pytest.mark.parametrize("write", [as_star, dynamo, lambda path, rows: lines(path, "a.xyz", rows)])
def test_a_cell_that_is_no_number(tmp_path, write, cell):
    path = write(tmp_path, cells(lambda row: [row[0], cell, row[2]]))
    with pytest.warns(InputWarning, match=r"row 3 \(without a finite position\)"):
        found = readers.read_picks(path, TOMOGRAM)
    assert list(found.bad) == [2] and np.allclose(np.delete(found.zyx, 2, 0), np.delete(XYZ, 2, 0)[:, ::-1])
    half = write(tmp_path, [row if i % 2 else [row[0], cell, row[2]] for i, row in enumerate(cells(lambda row: row))])
    says(lambda: readers.read_picks(half, TOMOGRAM), half.name, "row 1", "number")


@pytest.mark.parametrize("name", ["a.tbl", "a.xyz"])
def test_a_row_that_is_cut_off(tmp_path, name):
    rows = [["0"] * 23 + row + ["0"] * 9 if name == "a.tbl" else row for row in cells(lambda row: row)]
    path = lines(tmp_path, name, [*rows[:5], rows[5][: len(rows[5]) - 1]])
    with pytest.warns(InputWarning, match="row 6"):
        found = readers.read_picks(path, TOMOGRAM)
    assert list(found.bad) == [5] and len(found.table["x"]) == 6


@pytest.mark.parametrize(
    "optics, group",
    [({"rlnOpticsGroup": [1], "rlnTomoTiltSeriesPixelSize": [VOXEL]}, 7)]
    + [({"rlnOpticsGroup": [1, 2], "rlnTomoTiltSeriesPixelSize": [VOXEL, bad]}, 2) for bad in (0, "abc")],
)
def test_a_row_whose_optics_group_has_no_pixel_size(tmp_path, optics, group):
    table = {f"rlnCoordinate{axis}": XYZ[:, i] for i, axis in enumerate("XYZ")}
    if optics["rlnTomoTiltSeriesPixelSize"][-1] == "abc":
        optics = {"rlnOpticsGroup": [1, 2, 3], "rlnTomoTiltSeriesPixelSize": [VOXEL, "abc", VOXEL]}
    write_star(tmp_path / "a.star", {"optics": optics, "particles": table | {"rlnOpticsGroup": [1, 1, group, 1, 1, 1]}})
    with pytest.warns(InputWarning, match="row 3 "):
        found = readers.read_picks(tmp_path / "a.star", TOMOGRAM)
    assert list(found.bad) == [2] and np.allclose(found.zyx[:2], XYZ[:2, ::-1])


def location(row):
    return {"location": dict(zip("xyz", map(float, row), strict=True)), "instance_id": 0}


BAD_POINTS = [None, 7, {}, {"location": None}, {"location": {"x": 1.0, "y": "abc", "z": 2.0}}]


@pytest.mark.parametrize("bad", BAD_POINTS)
def test_a_point_without_a_position(tmp_path, bad):
    turned = np.diag([-1.0, -1.0, 1.0, 1.0])
    turned[:3, 3] = 20, 0, 0  # A, a shift that must stay with the others
    points = [location(row * VOXEL) | {"transformation_": turned.tolist()} for row in XYZ]
    path = tmp_path / "u_0_r.json"
    path.write_text(json.dumps({"points": [*points[:2], bad, *points[3:]], "unit": "angstrom", "run_name": "TS_1"}))
    with pytest.warns(InputWarning, match="row 3 "):
        found = readers.read_picks(path, TOMOGRAM)
    good = np.delete(np.arange(6), 2)
    assert list(found.bad) == [2] and np.allclose(found.zyx[good], (XYZ[good] + (2, 0, 0))[:, ::-1])
    assert found.angles is not None and np.allclose(found.angles[good][:, 1], 0)


@pytest.mark.parametrize("line", ['{"location": {"x": 1.0, "y": 2', "7", "{}"])
def test_a_line_of_the_portal_that_is_cut_off(tmp_path, line):
    (tmp_path / "a.ndjson").write_text("\n".join([*(json.dumps(location(row)) for row in XYZ), line]))
    with pytest.warns(InputWarning, match="row 7 "):
        found = readers.read_picks(tmp_path / "a.ndjson", TOMOGRAM)
    assert list(found.bad) == [6] and np.allclose(found.zyx[:6], XYZ[:, ::-1])


@pytest.mark.parametrize("box", [[1.0], "abc", [1.0, 2.0, "abc", "manual", 0.0, 0]])
def test_a_box_of_eman2_that_is_cut_off(tmp_path, box):
    boxes = [[*row, "manual", 0.0, 0] for row in XYZ.tolist()]
    (tmp_path / "a.json").write_text(json.dumps({"boxes_3d": [*boxes, box]}))
    with pytest.warns(InputWarning, match="row 7 "):
        found = readers.read_picks(tmp_path / "a.json", TOMOGRAM)
    assert list(found.bad) == [6] and np.allclose(found.zyx[:6], XYZ[:, ::-1])


@pytest.mark.parametrize("row", [0, 2])
@pytest.mark.parametrize("listed", [True, False])
@pytest.mark.parametrize(
    "data, size, words", [(0, 5.0, "expected 10 A .* got 5 A"), (slice(6), 10.0, "6 voxels per edge")]
)
def test_a_file_of_another_size_than_most(tmp_path, row, listed, data, size, words):
    boxes = np.concatenate([SUBTOMOGRAMS, SUBTOMOGRAMS])
    for i, box in enumerate(boxes):
        mrc(tmp_path / f"p{i}.mrc", box, 10.0)
    odd = boxes[row] if data == 0 else boxes[row][data, data, data]
    mrc(tmp_path / f"p{row}.mrc", odd, size)
    path = star(tmp_path / "a.star", rlnImageName=[f"p{i}.mrc" for i in range(6)]) if listed else tmp_path
    with pytest.warns(InputWarning, match=words):
        found = readers.read_subtomograms(path)
    assert list(found.bad) == [row] and found.voxel_size == 10.0 and found.subtomograms.shape[-1] == 8
    np.testing.assert_array_equal(found.subtomograms[1, 0], boxes[1])


def test_a_pixel_size_and_an_angle_that_are_no_numbers(tmp_path):
    for i, box in enumerate(np.concatenate([SUBTOMOGRAMS, SUBTOMOGRAMS])):
        mrc(tmp_path / f"p{i}.mrc", box, 10.0)
    cells = [10.0, 10.0, "abc", 10.0, 10.0, 10.0]
    names, angles = [f"p{i}.mrc" for i in range(6)], {f"rlnAngle{name}": cells for name in ("Rot", "Tilt", "Psi")}
    found = readers.read_subtomograms(star(tmp_path / "a.star", rlnImageName=names, rlnImagePixelSize=cells, **angles))
    assert found.voxel_size == 10.0 and not found.bad and np.allclose(found.angles[2], 0)
