"""Formats by the tables of `readers`: one entry adds a format, and one volume is not a set of subtomograms."""

import numpy as np
import pytest
from helpers.files import GOOD, SUBTOMOGRAMS, VOLUME, em, hdf, mrc, png, random_subtomogram, says, star

from cryoshift_core.tomography.mrc import read_mrc, write_mrc
from cryoshift_core.tomography.volumes import Particles, Volume
from data_fetch import readers


def read_npy(path, voxel_size, mmap):
    return Volume(np.load(path, mmap_mode="r" if mmap else None), voxel_size or 5.0, str(path))


def read_npy_stack(path, voxel_size):
    return list(np.load(path)), voxel_size or 5.0


def read_csv(path, tomogram):
    xyz = np.loadtxt(path, delimiter=",", ndmin=2)
    table = {axis: [f"{value:g}" for value in column] for axis, column in zip("xyz", xyz.T, strict=True)}
    return Particles(table, xyz[:, ::-1] / tomogram.voxel_size)


def test_one_entry_adds_a_format_of_tomograms(tmp_path, monkeypatch):
    np.save(tmp_path / "a.npy", VOLUME)
    says(lambda: readers.read_tomogram(tmp_path / "a.npy"), "a.npy", ".mrc, .rec", "'.npy'")
    monkeypatch.setitem(readers.TOMOGRAMS, ".npy", read_npy)
    volume = readers.read_tomogram(tmp_path / "a.npy")
    assert isinstance(volume.data, np.memmap) and volume.voxel_size == 5.0
    np.testing.assert_array_equal(volume.data, VOLUME)
    assert readers.read_tomogram(tmp_path / "a.npy", 8.0).voxel_size == 8.0


def test_one_entry_adds_a_format_of_positions(tmp_path, monkeypatch):
    (tmp_path / "a.csv").write_text("10,20,30\n40,50,60\n")
    tomogram = Volume(np.zeros((20, 20, 20)), 10.0, "t.mrc")
    says(lambda: readers.read_picks(tmp_path / "a.csv", tomogram), "a.csv", ".star, .tbl", "a folder", "'.csv'")
    monkeypatch.setitem(readers.PICKS, ".csv", read_csv)
    found = readers.read_picks(tmp_path / "a.csv", tomogram)
    assert found.zyx.tolist() == [[3, 2, 1], [6, 5, 4]] and found.table["x"] == ["10", "40"]


def test_one_entry_adds_a_format_of_subtomograms(tmp_path, monkeypatch):
    np.save(tmp_path / "stack.npy", SUBTOMOGRAMS)
    says(lambda: readers.read_subtomograms(tmp_path / "stack.npy"), "stack.npy", ".mrcs", ".star", "'.npy'")
    monkeypatch.setitem(readers.SUBTOMOGRAMS, ".npy", read_npy_stack)
    found = readers.read_subtomograms(tmp_path / "stack.npy")
    np.testing.assert_array_equal(found.subtomograms[:, 0], SUBTOMOGRAMS)
    assert found.voxel_size == 5.0
    path = star(tmp_path / "a.star", rlnImageName=["000003@stack.npy", "000001@stack.npy"])
    np.testing.assert_array_equal(readers.read_subtomograms(path).subtomograms[:, 0], SUBTOMOGRAMS[[2, 0]])
    (tmp_path / "folder").mkdir()
    for i, subtomogram in enumerate(SUBTOMOGRAMS):
        np.save(tmp_path / "folder" / f"{i}.npy", subtomogram[None])
    found = readers.read_subtomograms(tmp_path / "folder")
    np.testing.assert_array_equal(found.subtomograms[:, 0], SUBTOMOGRAMS)
    assert found.table["rlnImageName"] == ["0.npy", "1.npy", "2.npy"]


@pytest.mark.parametrize(
    "write, name", [(mrc, "one.mrc"), (em, "one.em"), (lambda path, data: hdf(path, [data]), "one.hdf")]
)
def test_one_volume_is_not_a_set_of_subtomograms(tmp_path, write, name):
    path = write(tmp_path / name, GOOD)
    expected = (
        "one volume of 8 x 8 x 8 voxels",
        "a stack, a folder or a STAR",
        "as tomogram, together with coordinates",
    )
    says(lambda: readers.read_subtomograms(path), name, *expected)
    assert readers.read_tomogram(path).data.shape == (8, 8, 8), "the way out"


def test_one_subtomogram_of_a_star_or_a_montage_is_read(tmp_path):
    mrc(tmp_path / "one.mrc")
    path = star(tmp_path / "a.star", rlnImageName=["one.mrc"])
    assert readers.read_subtomograms(path).subtomograms.shape == (1, 1, 8, 8, 8)
    path = png(tmp_path / "a.png", random_subtomogram(28), 6, 5)
    assert readers.read_subtomograms(path, voxel_size=10.0).subtomograms.shape == (1, 1, 28, 28, 28)


def test_a_tomogram_given_as_subtomograms_names_the_way_out(tmp_path):
    path = mrc(tmp_path / "tomogram.mrc", VOLUME)
    says(lambda: readers.read_subtomograms(path), "8 x 7 x 6 voxels", "as tomogram, together with coordinates")


def test_an_mrc_that_cannot_be_written_leaves_the_old_file(tmp_path):
    write_mrc(tmp_path / "a.mrc", VOLUME, 10.0)
    with pytest.raises(ValueError):
        write_mrc(tmp_path / "a.mrc", np.zeros((2, 2, 2, 2, 2, 2), np.float32), 10.0)
    np.testing.assert_array_equal(read_mrc(tmp_path / "a.mrc").data, VOLUME)
    assert [path.name for path in tmp_path.iterdir()] == ["a.mrc"]
