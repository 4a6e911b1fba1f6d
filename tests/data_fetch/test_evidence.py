"""Pixel sizes that several places state: they agree, or the two that differ are named; a parameter overrides all."""

import json

import numpy as np
import pytest
from helpers.files import RNG, SUBTOMOGRAMS, VOLUME, em, hdf, mrc, ome, patch, says, star

from cryoshift_core.errors import InputWarning
from cryoshift_core.tomography.star import write_star
from cryoshift_core.tomography.volumes import Volume
from data_fetch import readers
from data_fetch.readers import evidence

STEPS = RNG.normal(size=(6, 7, 8)).astype(np.float32)


def cell(path, x, y, z, mz=6):
    """An MRC file whose cell is x, y, z A, in mz sections."""
    return patch(patch(mrc(path, STEPS), 40, [x, y, z], "<f4"), 36, mz)


@pytest.mark.parametrize(
    "x, y, z, mz, own",
    [
        (80, 70, 60, 6, 10.0),
        (80, 70, 0, 6, 10.0),  # an unknown step is not stated
        (80, 70, 60, 1, None),  # 10 x 10 x 60
        (106.24, 92.96, 59.76, 6, None),  # 13.28 x 13.28 x 9.96
        (0, 0, 0, 6, None),
        (8, 7, 6, 6, None),  # 1 A, which programs write where they know none
        (8e-9, 7e-9, 6e-9, 6, None),
    ],
)
def test_a_given_voxel_size_overrides_every_header(tmp_path, x, y, z, mz, own):
    path = cell(tmp_path / "a.mrc", x, y, z, mz)
    assert readers.read_tomogram(path, 13.28).voxel_size == 13.28
    if own:
        assert readers.read_tomogram(path).voxel_size == pytest.approx(own)
    else:
        says(lambda: readers.read_tomogram(path), "a.mrc", "voxel_size", "pixel_size")


def test_one_angstrom_counts_as_unknown_in_every_format(tmp_path):
    for path in (em(tmp_path / "a.em", voxel_size=1.0), hdf(tmp_path / "a.hdf", apix=1.0)):
        says(lambda path=path: readers.read_tomogram(path), path.name, "1 A", "know none", "voxel_size")
        assert readers.read_tomogram(path, 1.0).voxel_size == 1.0, "a given one is a measured one"
    subtomograms = hdf(tmp_path / "s.hdf", SUBTOMOGRAMS, apix=1.0)
    assert readers.read_subtomograms(subtomograms, None, 13.28).voxel_size == 13.28


def test_a_given_voxel_size_overrides_steps_that_differ_in_hdf_and_zarr(tmp_path):
    path = ome(tmp_path / "a.zarr", scales=((30, 10, 10),))
    says(lambda: readers.read_tomogram(path), "10 x 10 x 30 A")
    assert readers.read_tomogram(path, 10.0).voxel_size == 10.0
    path = hdf(tmp_path / "a.hdf", apix_z=20.0)
    says(lambda: readers.read_tomogram(path), "10 x 10 x 20 A")
    assert readers.read_tomogram(path, 10.0).voxel_size == 10.0


def test_names_state_pixel_sizes():
    def found(path):
        return [one.value for one in evidence.in_names(path)]

    for name in ("TS_1_10.00Apx.mrc", "TS_1_0000005_10.00A.mrc", "a_10Apx_denoised.mrc", "TS_1_10.00_Apx.mrc"):
        assert found(name) == [10.0], name
    for name in (
        "TS_1_10.0A.mrc",
        "a_10.0apx.mrc.gz",
        "a_apix10.0.rec",
        "angpix_10_a.mrc",
        "a_1.00nm.mrc",
        "a-10.00Ang.em",
    ):
        assert found(name) == [10.0], name
    for name in ("a_lp40.0A.mrc", "a_lowpass_40.0A.mrc", "v1.2a.mrc", "10nm_gold.mrc", "capix4.mrc", "a_5.0ABC.mrc"):
        assert found(name) == [], name
    assert found("x/VoxelSpacing10.012/Tomograms/TS_1.mrc") == [10.012]
    for name in ("TS_1.mrc", "lamella_4A.mrc", "TS_10A_2.mrc", "20.00Angle.mrc", "map_1.00A.mrc", "x10.00Alpha.mrc"):
        assert found(name) == [], name


def test_a_name_stands_in_for_a_header_and_must_not_contradict_it(tmp_path):
    assert readers.read_tomogram(mrc(tmp_path / "TS_1_10.00Apx.mrc", VOLUME, 1.0)).voxel_size == 10.0
    assert readers.read_tomogram(mrc(tmp_path / "TS_1_10.00Apx.mrc", VOLUME, 10.04)).voxel_size == pytest.approx(10.04)
    path = mrc(tmp_path / "TS_1_10.00Apx.mrc", VOLUME, 13.48)
    says(lambda: readers.read_tomogram(path), "13.48 A in its header", "10 A in its name", "voxel_size")
    assert readers.read_tomogram(path, 10.0).voxel_size == 10.0, "the way out"
    folder = tmp_path / "VoxelSpacing7.840"
    folder.mkdir()
    says(lambda: readers.read_tomogram(mrc(folder / "a.mrc", VOLUME, 10.0)), "10 A", "7.84 A in its folder")


def two_groups(folder, one, two, header=(0.0, 0.0)):
    for name, size in zip("ab", header, strict=True):
        mrc(folder / f"{name}.mrc", SUBTOMOGRAMS[0], size)
    optics = {"rlnOpticsGroup": [1, 2], "rlnImagePixelSize": [one, two]}
    table = {"rlnImageName": ["a.mrc", "b.mrc"], "rlnOpticsGroup": [1, 2]}
    write_star(folder / "p.star", {"optics": optics, "particles": table})
    return folder / "p.star"


def test_two_optics_groups_of_two_pixel_sizes_are_refused_until_they_are_split(tmp_path):
    path = two_groups(tmp_path, 6.8, 10.2, (6.8, 10.2))
    says(lambda: readers.read_subtomograms(path), "p.star", "6.8 to 10.2 A", "split the file by optics group")
    for name, size in (("a.mrc", 6.8), ("b.mrc", 10.2)):
        part = star(tmp_path / "part.star", rlnImageName=[name], rlnImagePixelSize=[size])
        assert readers.read_subtomograms(part).voxel_size == pytest.approx(size), "the way out"
    with pytest.warns(InputWarning, match="all particles were taken to have 8 A per voxel, in spite of"):
        assert readers.read_subtomograms(path, None, 8.0).voxel_size == 8.0
    says(lambda: readers.read_subtomograms(star(tmp_path / "q.star", rlnImageName=["a.mrc", "b.mrc"])), "6.8", "10.2")
    assert readers.read_subtomograms(two_groups(tmp_path, 6.8, 6.83)).voxel_size == 6.8, "they agree within 1 %"


def test_a_star_and_the_headers_of_its_files_must_agree(tmp_path):
    path = two_groups(tmp_path, 6.8, 6.8, (6.8, 10.2))
    says(
        lambda: readers.read_subtomograms(two_groups(tmp_path, 6.8, 6.8, (10.2, 10.2))),
        "6.8 A in _rlnImagePixelSize of p.star",
        "10.2 A in the file itself",
        "voxel_size",
    )
    assert readers.read_subtomograms(path, None, 6.8).voxel_size == 6.8, "the way out"
    for unknown in (0.0, 1.0):
        assert readers.read_subtomograms(two_groups(tmp_path, 6.8, 6.8, (unknown,) * 2)).voxel_size == 6.8
        found = readers.read_subtomograms(two_groups(tmp_path, unknown, unknown, (10.2, 10.2)))
        assert found.voxel_size == pytest.approx(10.2)


def test_the_magnification_of_relion_3_0_states_the_pixel_size_of_subtomograms(tmp_path):
    mrc(tmp_path / "a.mrc", SUBTOMOGRAMS[0], 0.0)
    columns = {"rlnImageName": ["a.mrc"], "rlnMagnification": [10000], "rlnDetectorPixelSize": [13.5]}
    assert readers.read_subtomograms(star(tmp_path / "p.star", **columns)).voxel_size == pytest.approx(13.5)
    both = star(tmp_path / "p.star", **columns, rlnImagePixelSize=[10.0])
    says(lambda: readers.read_subtomograms(both), "10 A in _rlnImagePixelSize", "13.5 A in _rlnDetectorPixelSize")


TOMOGRAM = Volume(np.zeros((24, 48, 64), np.float32), 10.0, "TS_1_10.00Apx.mrc")
RIGHT = [[12, 30, 40], [17, 8, 50]]


def warp(path, unbinned, binning, name="TS_1.tomostar", image=4.0):
    optics = {
        "rlnOpticsGroup": [1],
        "rlnTomoTiltSeriesPixelSize": [unbinned],
        "rlnTomoSubtomogramBinning": [binning],
        "rlnImagePixelSize": [image],
    }
    table = {"rlnTomoName": [name] * 2, "rlnOpticsGroup": [1, 1]}
    table |= {f"rlnCoordinate{axis}": [row[2 - i] * 2.5 for row in RIGHT] for i, axis in enumerate("XYZ")}
    write_star(path, {"optics": optics, "particles": table})
    return path


def test_warps_rows_count_pixels_of_its_images_whatever_the_optics_table_says(tmp_path):
    for unbinned, binning in ((2.25, 16 / 9), (4.0, 1.0)):  # WarpTools dev39, dev40
        assert np.allclose(readers.read_picks(warp(tmp_path / "a.star", unbinned, binning), TOMOGRAM).zyx, RIGHT)
    found = readers.read_picks(warp(tmp_path / "a.star", 4.0, 2.0, "TS_1", 8.0), TOMOGRAM)
    assert np.allclose(found.zyx, RIGHT), "RELION 4 counts unbinned pixels"
    found = readers.read_picks(warp(tmp_path / "a.star", 4.0, 1.0, image=0.0), TOMOGRAM)
    assert np.allclose(found.zyx, RIGHT), "an unknown image pixel is not stated"


def test_the_micrographs_pixel_size_is_the_unit_of_coordinates(tmp_path):
    columns = {f"rlnCoordinate{axis}": [row[2 - i] / 2 for row in RIGHT] for i, axis in enumerate("XYZ")}
    path = star(tmp_path / "a.star", **columns, rlnMicrographPixelSize=[20.0, 20.0])
    assert np.allclose(readers.read_picks(path, TOMOGRAM).zyx, RIGHT)
    unknown = star(tmp_path / "a.star", **columns, rlnMicrographPixelSize=[1.0, 1.0])
    assert np.allclose(readers.read_picks(unknown, TOMOGRAM).zyx, np.array(RIGHT) / 2)
    both = star(tmp_path / "a.star", **columns, rlnMicrographPixelSize=[20.0] * 2, rlnTomoTiltSeriesPixelSize=[5.0] * 2)
    says(lambda: readers.read_picks(both, TOMOGRAM), "5 A in _rlnTomoTiltSeries", "20 A in _rlnMicrographPixelSize")
    out = star(tmp_path / "a.star", **columns, rlnTomoTiltSeriesPixelSize=[20.0] * 2)
    assert np.allclose(readers.read_picks(out, TOMOGRAM).zyx, RIGHT), "the way out"


def test_the_portals_folder_states_the_unit_of_its_points(tmp_path):
    folder = tmp_path / "VoxelSpacing20.000" / "Annotations"
    folder.mkdir(parents=True)
    points = [{"type": "point", "location": {axis: row[2 - i] / 2 for i, axis in enumerate("xyz")}} for row in RIGHT]
    (folder / "a.ndjson").write_text("\n".join(map(json.dumps, points)))
    assert np.allclose(readers.read_picks(folder / "a.ndjson", TOMOGRAM).zyx, RIGHT)


@pytest.mark.parametrize("stated", [0.0, 1.0, 10.0, 10.05])
def test_a_pixel_size_that_is_unknown_or_agrees_gives_no_warning(tmp_path, stated):
    columns = {f"rlnCoordinate{axis}": [row[2 - i] for row in RIGHT] for i, axis in enumerate("XYZ")}
    path = star(tmp_path / "a.star", **columns, rlnImagePixelSize=[stated] * 2)
    found = readers.read_picks(path, TOMOGRAM)
    assert np.allclose(found.zyx, RIGHT) and found.warnings == ()
