"""Positions in the wrong place give one sentence; positions at particles give none, whatever else is odd."""

import json

import numpy as np
import pytest
from helpers.files import coordinates, says, star

from cryoshift_core.errors import InputWarning
from cryoshift_core.tomography.star import write_star
from cryoshift_core.tomography.volumes import Volume
from data_fetch import readers
from data_fetch.readers.positions import belongs

SHAPE = np.array([40, 96, 128])


def particles_in(seed, n):
    """A noisy tomogram of dark balls of 40 A radius, and their centres (n, 3) zyx."""
    rng = np.random.default_rng(seed)
    zyx = np.concatenate([rng.uniform([8, 8, 8], SHAPE - 8, (n - 2, 3)), [[30, 80, 20], [31, 20, 115]]])
    volume = rng.normal(size=SHAPE)
    grid = np.stack(np.meshgrid(*map(np.arange, SHAPE), indexing="ij"), -1)
    for at in zyx:
        volume -= 2.0 * (((grid - at) ** 2).sum(-1) < 16)
    return Volume(volume.astype(np.float32), 10.0, "TS_1.mrc"), zyx


TOMOGRAM, ZYX = particles_in(0, 25)
ICE = Volume(np.random.default_rng(1).normal(size=SHAPE).astype(np.float32), 10.0, "TS_1.mrc")


def points(path, zyx):
    path.write_text("\n".join(" ".join(f"{v:.3f}" for v in row[::-1]) for row in zyx))
    return path


def read(path, tomogram=TOMOGRAM):
    return readers.read_picks(path, tomogram)


@pytest.mark.parametrize("dark", [1, -1])
def test_positions_at_particles_give_no_warning(tmp_path, dark):
    tomogram = Volume(dark * TOMOGRAM.data, 10.0, "TS_1.mrc")
    for n in (25, 6):
        assert read(points(tmp_path / "a.coords", ZYX[-n:]), tomogram).warnings == ()
    odd = star(tmp_path / "a.star", **coordinates(ZYX[:, ::-1]), rlnImagePixelSize=[20] * 25, rlnTomoName=["x_9"] * 25)
    assert read(odd).warnings == (), "binned images and a renamed tomogram are sound"


@pytest.mark.parametrize(
    "wrong, words",
    [
        (lambda zyx: zyx / 2, "multiplied by 2"),
        (lambda zyx: zyx[:, [1, 0, 2]], None),
        (lambda zyx: zyx * (-1, 1, 1) + (39, 0, 0), "with z counted from the other end"),
        (lambda zyx: zyx * (1, -1, 1) + (0, 95, 0), "with y counted from the other end"),
    ],
)
def test_positions_that_fit_the_density_only_when_read_otherwise(tmp_path, wrong, words):
    path = points(tmp_path / "a.coords", wrong(ZYX))
    if words is None:
        says(lambda: read(path), "outside")
        return
    with pytest.warns(InputWarning, match=words) as caught:
        assert len(read(path).warnings) == 1
    assert len(caught) == 1 and "a.coords" in str(caught[0].message)


def test_swapped_axes_show_in_the_density(tmp_path):
    rng = np.random.default_rng(2)
    zyx = rng.uniform(6, 34, (8, 3))
    grid = np.stack(np.meshgrid(*[np.arange(40)] * 3, indexing="ij"), -1)
    volume = rng.normal(size=(40, 40, 40)) * 0.3
    for at in zyx:
        volume += ((grid - at) ** 2).sum(-1) < 9
    cube = Volume(volume.astype(np.float32), 10.0, "TS_1.mrc")
    for order, words in (([1, 0, 2], "y and z"), ([2, 1, 0], "x and z"), ([0, 2, 1], "x and y")):
        with pytest.warns(InputWarning, match=f"with {words} swapped"):
            read(points(tmp_path / "a.coords", zyx[:, order]), cube)
    assert read(points(tmp_path / "a.coords", zyx), cube).warnings == ()


def write_binned(folder, kind, zyx):
    """Positions of a tomogram of 20 A, as four writers leave them; each states 20 A, but not as the unit."""
    columns = coordinates(zyx[:, ::-1] / 2)
    n = len(zyx)
    if kind == "dynamo":
        rows = [["1"] * 23 + [f"{v / 2 + 1:.3f}" for v in row[::-1]] + ["0"] * 9 + ["20.0"] for row in zyx]
        (folder / "a.tbl").write_text(
            "\n".join(" ".join("0" if 3 <= i < 9 else c for i, c in enumerate(r)) for r in rows)
        )
        return folder / "a.tbl"
    if kind == "name":
        return points(folder / "picks_20.00Apx.coords", zyx / 2)
    if kind == "rln31":
        tables = {"optics": {"rlnOpticsGroup": [1], "rlnImagePixelSize": [20.0]}}
        write_star(folder / "a.star", tables | {"particles": columns | {"rlnOpticsGroup": [1] * n}})
        return folder / "a.star"
    more = {"rlnDetectorPixelSize": [20.0] * n} | ({"rlnMagnification": [10000] * n} if kind == "rln30" else {})
    return star(folder / "a.star", **columns, **more)


@pytest.mark.parametrize("kind", ["dynamo", "name", "rln31", "rln30", "pytom"])
def test_positions_of_another_binning_that_the_file_states(tmp_path, kind):
    with pytest.warns(InputWarning, match=r"multiplied by 2 \(20 A per pixel, in .*\)"):
        read(write_binned(tmp_path, kind, ZYX))
    with pytest.warns(
        InputWarning, match="expected positions in voxels of 10 A.*20 A per pixel in .*give the tomogram"
    ):
        read(write_binned(tmp_path, kind, ZYX), ICE)
    coarse = Volume(ICE.data[:20, :48, :64], 20.0, "TS_1.mrc")
    assert np.allclose(read(write_binned(tmp_path, kind, ZYX), coarse).zyx, ZYX / 2, atol=0.001), "the way out"


def test_positions_in_a_unit_of_their_own_are_not_doubted_for_a_name(tmp_path):
    path = tmp_path / "picks_20.00Apx.json"
    content = [{"location": dict(zip("xyz", (row[::-1] * 10).tolist(), strict=True))} for row in ZYX]
    path.write_text(json.dumps({"points": content}))
    assert read(path, ICE).warnings == ()


def test_positions_all_in_one_corner_give_a_warning_without_density(tmp_path):
    zyx = np.random.default_rng(3).uniform(0, SHAPE * 0.5, (60, 3))
    with pytest.warns(InputWarning, match="all 60 positions lie in the first half of TS_1.mrc along x, y and z"):
        read(points(tmp_path / "a.coords", zyx), ICE)
    cluster = np.random.default_rng(3).normal([15, 30, 40], 3, (60, 3))
    assert read(points(tmp_path / "a.coords", cluster), ICE).warnings == (), "one cluster may lie anywhere"


@pytest.mark.parametrize("columns", ["wrpCoordinate{}1", "rlnCenteredCoordinate{}Angst"])
def test_nm_instead_of_angstrom_give_a_warning(tmp_path, columns):
    start = SHAPE / 2 if "Centered" in columns else 0
    nm = (ZYX - start)[:, ::-1] * TOMOGRAM.voxel_size / 10
    with pytest.warns(InputWarning, match="multiplied by 10|first fifth|first half"):
        read(star(tmp_path / "a.star", **coordinates(nm, columns)))
    angstrom = star(tmp_path / "a.star", **coordinates(10 * nm, columns))
    assert read(angstrom).warnings == (), "the way out"


def test_two_kinds_of_coordinates_in_one_list_that_differ(tmp_path):
    centred = coordinates(((ZYX - SHAPE / 2)[:, ::-1] * TOMOGRAM.voxel_size).tolist(), "rlnCenteredCoordinate{}Angst")
    for scale, warned in ((1.0, False), (8.0, False), (-1.0, True)):
        pixels = (ZYX * scale if scale > 0 else SHAPE - ZYX)[:, ::-1].tolist()  # voxels, unbinned pixels, or mirrored
        path = star(tmp_path / "a.star", **centred, **coordinates(pixels))
        if not warned:
            assert np.allclose(read(path).zyx, ZYX)
            continue
        with pytest.warns(InputWarning, match="a.star: _rlnCoordinateX/Y/Z and _rlnCentered.* place .* differently"):
            assert np.allclose(read(path).zyx, ZYX)


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
@pytest.mark.parametrize("name", ["a.star", "a.coords"])
def test_the_marks_and_line_ends_of_windows(tmp_path, encoding, name):
    path = star(tmp_path / name, **coordinates(ZYX[:, ::-1])) if name == "a.star" else points(tmp_path / name, ZYX)
    path.write_bytes(path.read_text().replace("\n", "\r\n").encode(encoding))
    assert np.allclose(read(path).zyx, ZYX, atol=0.001)


def test_a_list_of_2_d_positions_is_refused(tmp_path):
    flat = {f"rlnCoordinate{axis}": [1.0, 2.0] for axis in "XY"}
    says(lambda: read(star(tmp_path / "a.star", **flat)), "a.star", "_rlnCoordinateX and no _rlnCoordinateZ", "3-D")


def test_a_list_of_another_tomogram_gives_a_warning_unless_the_density_agrees(tmp_path):
    for name, warned in (("TS_2", True), ("TS_1_10.00Apx", False), ("rec_TS_1.mrc", False)):
        path = star(tmp_path / "a.star", **coordinates(ZYX[:, ::-1]), rlnTomoName=[name] * 25)
        assert read(path, TOMOGRAM).warnings == ()
        if warned:
            with pytest.warns(InputWarning, match="lists positions of 'TS_2'"):
                read(path, ICE)
        else:
            assert read(path, ICE).warnings == ()
    content = [{"location": dict(zip("xyz", (row[::-1] * 10).tolist(), strict=True))} for row in ZYX]
    (tmp_path / "a.json").write_text(json.dumps({"points": content, "run_name": "TS_2"}))
    with pytest.warns(InputWarning, match="lists positions of 'TS_2'"):
        read(tmp_path / "a.json", ICE)


@pytest.mark.parametrize(
    "name, file, expected",
    [
        ("TS_1", "TS_1.mrc", True),
        ("TS_1.tomostar", "TS_1_10.00Apx.mrc", True),
        ("TS_07", "tomo_7_bin4.mrc", True),
        ("any", "any_denoised.mrc", True),
        ("TS_2", "TS_1_10.00Apx.mrc", False),
        ("lamella3_ts2", "lamella3_ts1.mrc", False),
        ("20230101_TS_002", "20230101_TS_001_rec.mrc", False),
        ("wildtype", "mutant.mrc", False),
    ],
)
def test_names_that_may_be_those_of_one_tomogram(name, file, expected):
    assert belongs(name, Volume(ICE.data, 10.0, file)) is expected


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("n", [2, 20, 200])
def test_random_positions_give_no_warning(tmp_path, seed, n):
    zyx = np.random.default_rng(seed).uniform(2, SHAPE - 3, (n, 3))
    zyx[0] = SHAPE - 3
    assert read(points(tmp_path / "a.coords", zyx), ICE).warnings == ()


COLUMNS = np.array([[20, 18, 12], [26, 20, 15], [30, 9, 10]])  # x, y, z


@pytest.mark.parametrize(
    "more, read_as_xyz",
    [
        ([[14, 14, 14]], None),  # a radius; the first column could number contours
        ([[31.5, 30.2, 28.9]], None),
        ([[3, 3, 3], [1, 1, 2]], None),
        ([[14, 14, 14], [1, 1, 1], [7, 7, 7]], True),
    ],
)
@pytest.mark.parametrize("fraction", [0.0, 0.25])
def test_columns_after_x_y_z_are_kept_or_refused_as_ambiguous(tmp_path, more, read_as_xyz, fraction):
    xyz = COLUMNS + fraction
    lines = [" ".join(f"{v:g}" for v in [*row, *(c[i] for c in more)]) for i, row in enumerate(xyz)]
    path = tmp_path / "a.coords"
    path.write_text("\n".join(lines))
    if fraction or read_as_xyz:  # numbers of contours are whole
        found = read(path, ICE)
        assert np.allclose(found.zyx, xyz[:, ::-1]) and found.table["column4"] == [f"{v:g}" for v in more[0]]
    else:
        says(lambda: read(path, ICE), "a.coords", f"{3 + len(more)} columns", "only these three columns")
        path.write_text("\n".join(" ".join(f"{v:g}" for v in row) for row in xyz))
        assert np.allclose(read(path, ICE).zyx, xyz[:, ::-1]), "the way out"


def test_coords_count_from_0_at_a_voxels_centre_and_model2point_from_its_edge(tmp_path):
    for name, shift in (("a.coords", 0), ("a.xyz", 0), ("a.pts", 0), ("a.txt", 0.5)):
        found = read(points(tmp_path / name, COLUMNS[:, ::-1]), ICE)
        assert np.allclose(found.zyx, COLUMNS[:, ::-1] - (0, shift, shift)), name
    (tmp_path / "a.txt").write_text("1 20.5 18.5 12\n1 26.5 20.5 15\n3 30.5 9.5 10\n")
    found = read(tmp_path / "a.txt", ICE)
    assert np.allclose(found.zyx, COLUMNS[:, ::-1]) and found.groups.tolist() == [1, 1, 3]


def test_one_row_without_numbers_is_not_classified_in_every_format(tmp_path):
    xyz = [[40.0, 30, 12], [50.0, 8, 17], [60.0, 70, 20]]
    lost = [*xyz, [float("nan"), 5, 6]]
    columns = coordinates(lost) | {"rlnAngleRot": [1, "nan", 3, 4], "rlnAngleTilt": [0] * 4, "rlnAnglePsi": [0] * 4}
    star(tmp_path / "a.star", **columns)
    star(tmp_path / "b.star", **coordinates([*xyz, [1, 2, 3]]), rlnOriginXAngst=[0, 0, 0, "inf"])
    rows = [["1"] * 3 + ["0"] * 6 + ["1"] * 14 + [str(v + 1) for v in row] + ["0"] * 9 for row in lost]
    (tmp_path / "a.tbl").write_text("\n".join(map(" ".join, rows)))
    (tmp_path / "a.coords").write_text("\n".join(" ".join(map(str, row)) for row in lost))
    content = [{"location": dict(zip("xyz", row, strict=True))} for row in lost]
    (tmp_path / "a.ndjson").write_text("\n".join(map(json.dumps, content)))
    ten = [{"location": {axis: 10 * v for axis, v in point["location"].items()}} for point in content]
    (tmp_path / "a.json").write_text(json.dumps({"points": ten}))
    (tmp_path / "b.json").write_text(json.dumps({"boxes_3d": [[*row, "manual"] for row in lost]}))
    for name in ("a.star", "b.star", "a.tbl", "a.coords", "a.ndjson", "a.json", "b.json"):
        with pytest.warns(InputWarning, match="not classified: row 4 "):
            found = read(tmp_path / name, ICE)
        assert list(found.bad) == [3] and found.rows.tolist() == [1, 2, 3, 4], name
        assert np.allclose(found.zyx[:3], np.array(xyz)[:, ::-1]), name
        assert found.angles is None or np.isfinite(found.angles).all(), name
    star(tmp_path / "a.star", **coordinates(lost[2:]))
    says(lambda: read(tmp_path / "a.star", ICE), "a.star", "rlnCoordinateX", "'nan'")


def test_a_copick_run_names_the_bad_rows_of_each_file(tmp_path):
    for name in "ab":
        points_of = [{"location": {"x": 10 * v, "y": 100, "z": 100}} for v in (20, 30, 900)]
        (tmp_path / f"{name}_1_ribosome.json").write_text(json.dumps({"points": points_of}))
    with pytest.warns(InputWarning, match="_1_ribosome.json: not classified: row 3 ") as caught:
        found = read(tmp_path, ICE)
    assert len(caught) == 2 and list(found.bad) == [2, 5]
