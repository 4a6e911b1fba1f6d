"""Positions of every format are read into voxels of the tomogram, counted from the first voxel's centre."""

import json

import numpy as np
import pandas as pd
import pytest
import starfile
from helpers.files import relion_matrix, says
from scipy.spatial.transform import Rotation

from cryoshift_core.errors import InputWarning
from cryoshift_core.tomography.star import read_star, write_star
from cryoshift_core.tomography.volumes import Volume, rotation_from_relion
from data_fetch import readers
from data_fetch.readers.positions import name_of, relion_from_rotation, rows_of
from data_fetch.readers.tables import DYNAMO

TOMOGRAM = Volume(np.zeros((21, 40, 60), np.float32), 10.0, "runs/TS_1.mrc")
XYZ = np.array([[12.0, 30.0, 5.0], [50.0, 8.5, 17.0]])


def read(path, tomogram=TOMOGRAM):
    return readers.read_picks(path, tomogram)


def star(path, particles, optics=None, **others):
    """A STAR as the starfile library writes it, an oracle for the reader; each table is a dict of columns."""
    tables = ({"optics": optics} if optics else {}) | {"particles": particles} | others
    starfile.write({name: pd.DataFrame(table) for name, table in tables.items()}, path)
    return path


def axes(pattern, xyz):
    return {pattern.format(axis): np.asarray(xyz)[:, i] for i, axis in enumerate("XYZ")}


def about_z(angle):
    """Right-handed rotation about z, independent of scipy."""
    c, s = np.cos(np.radians(angle)), np.sin(np.radians(angle))
    return np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]])


def about_x(angle):
    """Right-handed rotation about x, independent of scipy."""
    c, s = np.cos(np.radians(angle)), np.sin(np.radians(angle))
    return np.array([[1, 0, 0], [0, c, -s], [0, s, c]])


def test_angles_are_those_of_relions_matrix():
    angles = np.random.default_rng(0).uniform([-180, 0, -180], [180, 180, 180], (200, 3))
    mine = rotation_from_relion(angles)
    assert np.allclose(mine.as_matrix(), [relion_matrix(*a) for a in angles])
    assert np.allclose(relion_from_rotation(mine), angles)
    poles = rotation_from_relion(np.array([[30.0, 0, 20], [30, 180, 20]]))
    assert np.allclose((rotation_from_relion(relion_from_rotation(poles)) * poles.inv()).magnitude(), 0)


def test_relion_3_0_counts_voxels_and_subtracts_origins_in_image_pixels(tmp_path):
    table = axes("rlnCoordinate{}", XYZ) | axes("rlnOrigin{}", [[4, 0, 0], [0, -2, 1]])
    table |= {"rlnMicrographName": "tomos/TS_1.mrc", "rlnMagnification": 10000.0, "rlnDetectorPixelSize": 5.0}
    with pytest.warns(InputWarning, match="5 A per pixel in _rlnDetectorPixelSize"):
        found = read(star(tmp_path / "a.star", table))
    assert found.zyx.tolist() == [[5, 30, 10], [16.5, 9.5, 50]] and found.angles is None and found.kind == "star"
    table["rlnMagnification"] = 5000.0
    assert read(star(tmp_path / "a.star", table)).zyx.tolist() == [[5, 30, 8], [16, 10.5, 50]]
    starfile.write(pd.DataFrame(table), tmp_path / "unnamed.star")
    assert len(read(tmp_path / "unnamed.star")) == 2


def test_relion_3_1_subtracts_origins_in_angstrom(tmp_path):
    table = axes("rlnCoordinate{}", XYZ) | axes("rlnOrigin{}Angst", [[10, 20, -30], [0, 5, 0]])
    table |= {"rlnMicrographName": "TS_1.mrc", "rlnOpticsGroup": 1, "rlnGroupNumber": [7, 3]}
    optics = {"rlnOpticsGroup": [1], "rlnImagePixelSize": [20.0]}
    with pytest.warns(InputWarning, match="20 A per pixel in _rlnImagePixelSize"):
        found = read(star(tmp_path / "a.star", table, optics))
    assert found.zyx.tolist() == [[8, 28, 11], [17, 8, 50]]
    assert found.groups.tolist() == [7, 3] and list(found.rest) == ["optics"] and found.block == "particles"


def test_relion_4_takes_the_pixel_of_each_rows_optics_group(tmp_path):
    table = axes("rlnCoordinate{}", [[40, 60, 20], [40, 60, 20]]) | {"rlnTomoName": "TS_1", "rlnOpticsGroup": [2, 1]}
    optics = {"rlnOpticsGroup": [1, 2], "rlnTomoTiltSeriesPixelSize": [2.5, 5.0]}
    assert read(star(tmp_path / "a.star", table, optics)).zyx.tolist() == [[10, 30, 20], [5, 15, 10]]
    table["rlnOpticsGroup"] = [2, 9]
    says(lambda: read(star(tmp_path / "a.star", table, optics)), "a.star", "'9'", "rlnOpticsGroup")
    optics["rlnTomoTiltSeriesPixelSize"] = [0.0, 5.0]
    table["rlnOpticsGroup"] = [1, 2]
    says(lambda: read(star(tmp_path / "a.star", table, optics)), "rlnTomoTiltSeriesPixelSize", "above 0")


def test_relion_5_counts_from_the_centre_and_rotates_origins_with_the_subtomogram(tmp_path):
    box, particle = [[20.0, 70.0, -50.0], [0, 90, 10]], [[-126.0, 66.0, 99.0], [141, 132, 105]]
    shifts = np.array([[12.0, -7.0, 3.0], [1, 2, 3]])
    table = {"rlnTomoName": "TS_1"} | axes("rlnCenteredCoordinate{}Angst", [[-180, 100, -55], [200, -115, 65]])
    table |= axes("rlnOrigin{}Angst", shifts)
    names = ("Rot", "Tilt", "Psi")
    table |= {f"rlnTomoSubtomogram{n}": np.array(box)[:, i] for i, n in enumerate(names)}
    table |= {f"rlnAngle{n}": np.array(particle)[:, i] for i, n in enumerate(names)}
    found = read(star(tmp_path / "a.star", table, {"rlnOpticsGroup": [1], "rlnTomoTiltSeriesPixelSize": [2.5]}))
    for row in range(2):
        rotated = relion_matrix(*box[row]) @ shifts[row] / 10
        assert np.allclose(found.zyx[row], [[5.0, 30, 12], [17, 8.5, 50]][row] - rotated[::-1])  # 10.5 in z: 21 / 2
        whole = relion_matrix(*box[row]) @ relion_matrix(*particle[row])
        assert np.allclose(relion_matrix(*found.angles[row]), whole)


def test_angles_without_a_subtomogram_stay_as_they_are_written(tmp_path):
    table = axes("rlnCoordinate{}", XYZ) | {"rlnAngleRot": [370.0, 1], "rlnAngleTilt": [-5.0, 2], "rlnAnglePsi": [0, 3]}
    assert read(star(tmp_path / "a.star", table)).angles.tolist() == [[370, -5, 0], [1, 2, 3]]


def test_m_counts_angstrom_and_names_its_source(tmp_path):
    table = axes("wrpCoordinate{}1", XYZ * 10) | {"wrpSourceName": ["TS_1.tomostar", "TS_2.tomostar"]}
    table |= {"wrpAngleRot1": [1.0, 2], "wrpAngleTilt1": [3.0, 4], "wrpAnglePsi1": [5.0, 6]}
    found = read(star(tmp_path / "a.star", table))
    assert found.zyx.tolist() == [[5, 30, 12]] and found.angles.tolist() == [[1, 3, 5]]
    assert found.table["wrpSourceName"] == ["TS_1.tomostar"]


def test_warp_counts_image_pixels_or_fractions(tmp_path):
    table = axes("rlnCoordinate{}", XYZ * 2.5) | {"rlnMicrographName": "TS_1.tomostar"}
    table |= {"rlnMagnification": 10000.0, "rlnDetectorPixelSize": 4.0}
    assert np.allclose(read(star(tmp_path / "a.star", table)).zyx, XYZ[:, ::-1])
    table |= axes("rlnCoordinate{}", XYZ / (60, 40, 21))
    assert np.allclose(read(star(tmp_path / "a.star", table)).zyx, XYZ[:, ::-1])


def test_names_of_tomograms():
    def rows(names, own):
        return rows_of("a.star", names, Volume(TOMOGRAM.data, 10.0, own))

    assert name_of("a/TS_1.tomostar") == name_of("x\\TS_1.st:mrc") == name_of("TS_1.ome.zarr/") == "TS_1"
    assert rows(["a", "a"], "b.mrc") == [0, 1]  # one tomogram only: whatever its name
    assert rows(["TS_1", "TS_10", "TS_1"], "TS_1.mrc") == [0, 2]
    for own in ("TS_1_10.00Apx.mrc", "TS_1.mrc_10.00Apx.mrc", "rec_TS_1.mrc", "TS_1__bin4.hdf", "TS_1_rec.mrc"):
        assert rows(["TS_1.tomostar", "TS_10.tomostar", "TS_1.tomostar"], own) == [0, 2], own
    assert rows(["t/TS_1_aligned.mrc", "t/TS_2_aligned.mrc"], "TS_2.mrc") == [1]
    for own in ("TS_1_2.mrc", "TS_1__2.mrc", "TS_11.mrc", "TS_1_2_10.00Apx.mrc"):
        says(lambda n=own: rows(["TS_1", "TS_3"], n), "a.star", "2 tomograms", name_of(own), "TS_1", "TS_3")
    says(lambda: rows(["TS_1_a", "TS_1_b"], "TS_1.mrc"), "2 that fit", "TS_1_a", "TS_1_b")


def test_a_set_of_tomograms_is_no_list_of_positions(tmp_path):
    table = {"rlnTomoName": ["TS_1"], "rlnTomoSizeX": [4092], "rlnTomoTiltSeriesStarFile": ["a.star"]}
    starfile.write({"global": pd.DataFrame(table)}, tmp_path / "tomograms.star")
    says(lambda: read(tmp_path / "tomograms.star"), "tomograms.star", "no positions", "particles' STAR")
    table = {"rlnTomoParticlesFile": ["Extract/job1/particles.star"], "rlnTomoTomogramsFile": ["tomograms.star"]}
    starfile.write({"": pd.DataFrame(table)}, tmp_path / "set.star")
    says(lambda: read(tmp_path / "set.star"), "set.star", "Extract/job1/particles.star")


def test_cells_that_are_no_text(tmp_path):
    (tmp_path / "a.star").write_bytes(b"data_\n_rlnCoordinateX 'caf\xe9'\n")
    says(lambda: read(tmp_path / "a.star"), "a.star", "not a STAR file")


def test_the_row_of_a_position_outside_is_that_of_the_file(tmp_path):
    table = axes("rlnCoordinate{}", [[1, 1, 1], [1, 1, 1], [99, 1, 1]]) | {"rlnTomoName": ["TS_2", "TS_1", "TS_1"]}
    says(lambda: read(star(tmp_path / "a.star", table)), "1 of 2", "row 3", "99.0")


def dynamo(path, **columns):
    """A table as the dynamotable library writes it."""
    import dynamotable as library

    library.write(pd.DataFrame(columns), str(path))
    return path


def test_dynamo_counts_from_1_and_adds_shifts(tmp_path):
    x, y, z = (XYZ + 1 - (0.5, -1, 2)).T
    path = dynamo(tmp_path / "a.tbl", x=x, y=y, z=z, dx=[0.5] * 2, dy=[-1.0] * 2, dz=[2.0] * 2, reg=[4, 9], tomo=[7, 7])
    found = read(path)
    assert np.allclose(found.zyx, XYZ[:, ::-1]) and found.kind == "dynamo" and found.groups.tolist() == [4, 9]
    words = [line.split() for line in path.read_text().splitlines()]
    assert list(zip(*found.table.values(), strict=True)) == [tuple(row) for row in words]
    from dynamotable import constants

    assert list(found.table) == list(constants.COLUMN_NAME_TO_COLUMN_NUMBER) == DYNAMO


def test_dynamo_angles_are_those_of_the_product_of_three_rotations(tmp_path):
    angles = np.random.default_rng(1).uniform([-180, 1, -180], [180, 179, 180], (50, 3))
    columns = dict(zip(("tdrot", "tilt", "narot"), angles.T, strict=True))
    found = read(dynamo(tmp_path / "a.tbl", x=[5] * 50, y=[5] * 50, z=[5] * 50, **columns))
    for (tdrot, tilt, narot), mine in zip(angles, found.angles, strict=True):
        assert np.allclose(relion_matrix(*mine), about_z(-tdrot) @ about_x(-tilt) @ about_z(-narot), atol=1e-6)


def test_dynamo_tomograms_are_named_by_the_map_beside_the_table(tmp_path):
    path = dynamo(tmp_path / "a.tbl", x=[5, 6, 7], y=[5] * 3, z=[5] * 3, tomo=[3, 12, 3])
    says(lambda: read(path), "a.tbl", "2 tomograms", "column 20", "a.doc")
    (tmp_path / "indices_column20.doc").write_text("3 /data/TS_2.rec\n12 ../../TS_1.rec\n")
    assert read(path).zyx.tolist() == [[4, 4, 5]]
    (tmp_path / "a.doc").write_text("3 TS_1.rec\n12 TS_2.rec\n")
    assert read(path).zyx.tolist() == [[4, 4, 4], [4, 4, 6]] and read(path).table["tomo"] == ["3", "3"]
    (tmp_path / "a.doc").write_text("three TS_1.rec\n")
    says(lambda: read(path), "a.doc", "'three'")


def test_broken_dynamo_tables(tmp_path):
    row = " ".join(["1"] * 35)
    for text, words in {
        "": ("no rows", "26 columns"),
        "1 2 3\n": ("3 columns", "26"),
        f"{row}\n{row} 1\n": ("35 columns", "36 in row 2"),
        row.replace("1", "x", 1): (),  # the tag is a text of its own
        " ".join(["1"] * 23 + ["oops"] + ["1"] * 11): ("column 24 (x)", "'oops'", "row 1"),
        " ".join(["1"] * 300): ("more than 200 columns",),
    }.items():
        (tmp_path / "a.tbl").write_text(text)
        if words:
            says(lambda: read(tmp_path / "a.tbl"), "a.tbl", *words)
        else:
            assert read(tmp_path / "a.tbl").table["tag"] == ["x"]
    (tmp_path / "a.tbl").write_bytes(bytes(range(128, 256)))
    says(lambda: read(tmp_path / "a.tbl"), "a.tbl", "not text", "0x80")
    says(lambda: read(tmp_path / "no.tbl"), "no.tbl", "not a file")


def test_imod_points_lie_half_a_voxel_off_in_x_and_y(tmp_path):
    for columns, groups in (("", [0, 0]), ("   1", [0, 0]), ("     1     {}", [0, 1])):
        lines = [
            columns.format(i + 1) + "".join(f"{v:10.2f}" for v in xyz) for i, xyz in enumerate(XYZ + (0.5, 0.5, 0))
        ]
        (tmp_path / "a.txt").write_text("\n".join(lines) + "\n")
        found = read(tmp_path / "a.txt")
        assert np.allclose(found.zyx, XYZ[:, ::-1]) and len(set(found.groups.tolist())) == len(set(groups))
        assert list(found.table)[-3:] == ["x", "y", "z"]


def test_broken_points(tmp_path):
    for name, content, words in (
        ("a.mod", b"IMODV1.2" + bytes(400), ("IMOD model", "model2point -object model.mod points.txt")),
        ("a.txt", b"imod 1\nobject 0 1 0\n", ("IMOD model", "model2point")),
        ("a.xyz", b"1 2\n", ("2 columns", "x y z")),
        ("a.pts", b"20 1 2 3\n", ("4 columns", "only these three columns")),
        ("a.pts", b"0.25 1 2 3\n", ("4 columns", "only these three columns")),
        ("a.coords", b"1 2 3\n1 2\n", ("row 2",)),
        ("a.coords", b"1 2 three\n", ("'three'",)),
        ("a.coords", b"1 2 300\n", ("300.0", "outside")),
        ("a.coords", b"1 2 -1e300\n", ("-1e+300", "outside")),
    ):
        (tmp_path / name).write_bytes(content)
        says(lambda n=name: read(tmp_path / n), name, *words)


def write_json(path, content):
    path.write_text(json.dumps(content))
    return path


def test_eman2_counts_unbinned_pixels_from_the_centre(tmp_path):
    boxes = [[*(xyz - (30, 20, 10)) * 4, "manual", 0.5, i] for i, xyz in enumerate(XYZ)]
    info = {"boxes_3d": boxes, "apix_unbin": 2.5, "class_list": {"0": {"boxsize": 64, "name": "ribosome"}}}
    found = read(write_json(tmp_path / "TS_1_info.json", info))
    assert np.allclose(found.zyx, XYZ[:, ::-1]) and found.table["class_name"] == ["ribosome", ""]
    assert found.table["method"] == ["manual"] * 2 and found.table["x"][0] == "-72.0"
    old = write_json(tmp_path / "old.json", {"boxes_3d": [[*xyz, "manual"] for xyz in XYZ]})
    assert np.allclose(read(old).zyx, XYZ[:, ::-1])


def oriented(xyz, rotation, **more):
    return {"location": dict(zip("xyz", map(float, xyz), strict=True))} | more | rotation


def test_copick_counts_angstrom_and_adds_the_shift(tmp_path):
    rotations = np.tile(np.eye(4), (2, 1, 1))
    rotations[:, :3, :3] = [relion_matrix(10, 20, 30), relion_matrix(40, 50, 60)]
    rotations[:, :3, 3] = [[10, 20, 30], [0, 0, 0]]
    points = [
        oriented(xyz * 10 - t[:3, 3], {"transformation_": t.tolist()}, instance_id=i, score=0.5)
        for i, (xyz, t) in enumerate(zip(XYZ, rotations, strict=True), 5)
    ]
    picks = {"pickable_object_name": "ribosome", "run_name": "TS_1", "points": points, "trust_orientation": True}
    found = read(write_json(tmp_path / "a.json", picks))
    assert np.allclose(found.zyx, XYZ[:, ::-1]) and np.allclose(found.angles, [[10, 20, 30], [40, 50, 60]])
    assert found.groups.tolist() == [5, 6] and found.table["score"] == ["0.5", "0.5"] and found.kind == ""
    assert read(write_json(tmp_path / "a.json", picks | {"trust_orientation": False})).angles is None
    for point in points:
        point["transformation_"] = np.eye(4).tolist()  # copick's word for no orientation
    assert read(write_json(tmp_path / "a.json", picks)).angles is None
    says(lambda: read(write_json(tmp_path / "a.json", picks | {"unit": "nm"})), "'nm'", "angstrom")


def test_a_copick_run_is_all_its_picks(tmp_path):
    folder = tmp_path / "ExperimentRuns" / "TS_1" / "Picks"
    folder.mkdir(parents=True)
    points = [oriented(xyz * 10, {}, instance_id=1) for xyz in XYZ]
    write_json(folder / "a_1_ribosome.json", {"points": points, "run_name": "TS_1"})
    write_json(folder / "b_1_apoferritin.json", {"points": [points[0] | {"score": 0.5}]})
    write_json(folder / "c_1_virus.json", {"points": []})
    found = read(folder)
    n = len(XYZ)
    assert np.allclose(found.zyx, [*XYZ[:, ::-1], XYZ[0, ::-1]]) and found.angles is None
    assert found.table["copickFile"] == ["a_1_ribosome"] * n + ["b_1_apoferritin"]
    assert found.table["score"] == [""] * n + ["0.5"] and found.groups.tolist() == [0] * n + [1]
    write_json(folder / "d_1_broken.json", {"points": [{}]})
    says(lambda: read(folder), "d_1_broken.json", "no location")
    (tmp_path / "empty").mkdir()
    says(lambda: read(tmp_path / "empty"), "empty", "no picks")


def test_portal_points_count_voxels(tmp_path):
    rotations = Rotation.random(2, random_state=0).as_matrix()
    lines = [
        json.dumps(oriented(xyz, {"xyz_rotation_matrix": rotation.tolist()}, type="orientedPoint"))
        for xyz, rotation in zip(XYZ, rotations, strict=True)
    ]
    (tmp_path / "a.ndjson").write_text("\n".join(lines))
    found = read(tmp_path / "a.ndjson")
    assert np.allclose(found.zyx, XYZ[:, ::-1]) and found.table["type"] == ["orientedPoint"] * 2
    assert np.allclose([relion_matrix(*a) for a in found.angles], rotations)
    assert np.allclose([json.loads(t) for t in found.table["xyz_rotation_matrix"]], rotations)
    plain = [json.dumps(oriented(xyz, {}, type="instancePoint", instance_id=i)) for i, xyz in enumerate(XYZ)]
    (tmp_path / "b.ndjson").write_text("\n".join(plain) + "\n\n")
    assert read(tmp_path / "b.ndjson").angles is None and read(tmp_path / "b.ndjson").groups.tolist() == [0, 1]
    (tmp_path / "b.ndjson").write_text("\n".join([lines[0], plain[1]]))
    assert read(tmp_path / "b.ndjson").angles is None  # one matrix is missing


def test_broken_json(tmp_path):
    point = {"location": {"x": 1, "y": 2, "z": 3}}
    flat = {"location": {"x": 1, "y": 2, "z": 3}, "xyz_rotation_matrix": [[1, 0, 0], [0, 1, 0], [0, 0, 0]]}
    for name, content, words in (
        ("a.json", "{", ("not JSON",)),
        ("a.json", "[" * 100_000, ("not JSON", "too deep")),
        ("a.json", '{"points": ' + "9" * 5000 + "}", ("not JSON",)),
        ("a.json", '{"tlt_params": []}', ("'tlt_params'", "boxes_3d", "points")),
        ("a.json", '{"boxes_3d": []}', ("empty",)),
        ("a.json", '{"boxes_3d": [[1, 2]]}', ("box 1",)),
        ("a.json", '{"boxes_3d": [[1, 2, true]]}', ("box 1", "true")),
        ("a.json", '{"boxes_3d": [[1, 2, ' + "9" * 400 + "]]}", ("box 1", "999")),
        ("a.json", '{"boxes_3d": [[1, 2, 3]], "apix_unbin": -1}', ("apix_unbin", "-1")),
        ("a.json", '{"points": [{}]}', ("point 1", "location")),
        ("a.json", '{"points": [{"location": {"x": 1, "y": NaN, "z": 2}}]}', ("y of point 1", "NaN")),
        ("a.json", json.dumps({"points": [point | {"transformation_": [[1, 0], [0, 1]]}]}), ("4 lists of 4",)),
        ("a.ndjson", "", ("no points",)),
        ("a.ndjson", json.dumps(point) + "\n{", ("line 2", "not JSON")),
        ("a.ndjson", json.dumps(flat), ("point 1 of 1", "not a rotation")),
        ("a.ndjson", json.dumps(point | {f"k{i}": 1 for i in range(200)}), ("201 different fields",)),
    ):
        (tmp_path / name).write_text(content)
        says(lambda n=name: read(tmp_path / n), name, *words)


@pytest.mark.parametrize("name", ["a.star", "a.tbl", "a.json", "a.ndjson", "a.txt"])
def test_files_too_large_for_a_list_of_positions_are_not_read(tmp_path, name):
    with (tmp_path / name).open("wb") as file:
        file.truncate(1 << 33)  # sparse: it takes no room
    says(lambda: read(tmp_path / name), name, 1 << 33, "split")


def test_fields_with_odd_names_become_labels_that_a_star_can_have(tmp_path):
    point = {"type": "point", "location": {"x": 5, "y": 6, "z": 7}, "my key": "a b", "": 1}
    (tmp_path / "p.ndjson").write_text(json.dumps(point) + "\n")
    found = readers.read_picks(tmp_path / "p.ndjson", TOMOGRAM)
    write_star(tmp_path / "back.star", {"particles": found.table})
    assert read_star(tmp_path / "back.star")["particles"]["my_key"] == ["a b"]
