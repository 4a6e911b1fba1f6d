"""Invalid files, structures and coordinates raise InputError, which names what was found and what was expected."""

import gzip

import mrcfile
import numpy as np
import pytest
import torch
from helpers.files import GOOD, coordinates, memory_below, mrc, patch, says, star

from cryoshift_core.data import crop, normalize
from cryoshift_core.simulation import structures
from cryoshift_core.tomography import background, volumes
from cryoshift_core.tomography.mrc import read_mrc
from cryoshift_core.tomography.star import read_star
from cryoshift_core.tomography.volumes import Volume
from data_fetch import readers

ATOM = "ATOM      1  C   ALA A   1      {:8.3f}   0.000   0.000  1.00 20.00           C\n"


def test_missing_file(tmp_path):
    says(lambda: read_mrc(tmp_path / "no.mrc"), "no.mrc", "not a file")


def test_not_an_mrc_file(tmp_path):
    for content in (b"", b"hello", b"x" * 5000, gzip.compress(bytes(9000))):
        (tmp_path / "a.mrc").write_bytes(content)
        says(lambda: read_mrc(tmp_path / "a.mrc"), "a.mrc", "not an MRC file")


@pytest.mark.parametrize("keep", [1500, 1024, 3000])
def test_truncated_file(tmp_path, keep):
    path = mrc(tmp_path / "a.mrc")
    path.write_bytes(path.read_bytes()[:keep])
    says(lambda: read_mrc(path), "a.mrc", "8 x 8 x 8", keep, "truncated")


@pytest.mark.parametrize("reader", [read_mrc, readers.read_subtomograms])
def test_a_header_that_claims_a_trillion_voxels_takes_no_memory(tmp_path, reader):
    path = patch(mrc(tmp_path / "a.mrc"), 0, [10_000, 10_000, 10_000])
    with memory_below(2e6):
        says(lambda: reader(path), "a.mrc", "10000 x 10000 x 10000", path.stat().st_size)


def test_a_sparse_file_larger_than_memory_is_refused(tmp_path):
    path = patch(mrc(tmp_path / "a.mrc"), 0, [20_000, 10_000, 10_000])
    with path.open("r+b") as file:
        try:
            file.truncate(1024 + 4 * 2 * 10**12)
        except OSError:
            pytest.skip("this file system has no files of 8 TB")
    says(lambda: read_mrc(path), "memory")


def test_negative_and_zero_sizes(tmp_path):
    for size in ([-8, 8, 8], [0, 8, 8], [-8, -8, 8]):
        says(lambda s=size: read_mrc(patch(mrc(tmp_path / "a.mrc"), 0, s)), "a.mrc", f"{size[0]} x")


def test_complex_mode(tmp_path):
    says(lambda: read_mrc(patch(mrc(tmp_path / "a.mrc"), 12, 4)), "mode 4", "a.mrc")


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_values_that_are_not_finite(tmp_path, value):
    data = GOOD.copy()
    data[3, 2, 1] = value
    says(lambda: read_mrc(mrc(tmp_path / "a.mrc", data)), "a.mrc", "NaN")
    says(lambda: read_mrc(mrc(tmp_path / "a.mrc", data), mmap=True), "a.mrc", "NaN")
    says(lambda: normalize(torch.from_numpy(np.stack([GOOD, data])[:, None])), "subtomogram 1 of 2", "NaN")


def test_constant_volume(tmp_path):
    says(lambda: read_mrc(mrc(tmp_path / "a.mrc", np.full((4, 4, 4), 3.0))), "a.mrc", "constant", "3")
    three = torch.from_numpy(np.stack([GOOD, GOOD, GOOD * 0 + 7])[:, None])
    says(lambda: normalize(three), "subtomogram 2 of 3", "constant")


def test_missing_voxel_size(tmp_path):
    path = mrc(tmp_path / "a.mrc", voxel_size=0.0)
    says(lambda: read_mrc(path), "a.mrc", "no voxel size", "voxel_size")
    assert read_mrc(path, voxel_size=10.0).voxel_size == 10.0
    says(lambda: read_mrc(path, voxel_size=-4.0), "-4")


def test_voxels_that_are_not_cubic(tmp_path):
    with mrcfile.open(mrc(tmp_path / "a.mrc"), "r+") as file:
        file.voxel_size = (10.0, 10.0, 20.0)
    says(lambda: read_mrc(tmp_path / "a.mrc"), "10 x 10 x 20 A", "cubic")


TOMOGRAM = Volume(np.zeros((10, 20, 30), np.float32), 10.0, "tomo.mrc")


def test_coordinates_outside_the_tomogram(tmp_path):
    path = star(tmp_path / "a.star", **coordinates([(5, 5, 5), (29, 19, 9), (5, 25, 5), (5, 5, -3)]))
    says(
        lambda: readers.read_picks(path, TOMOGRAM),
        "a.star",
        "2 of 4",
        "row 3",
        "25.0",
        "30 x 20 x 10",
        "tomo.mrc",
    )


def test_coordinates_that_are_no_numbers(tmp_path):
    path = star(tmp_path / "a.star", **coordinates([(5, 5, 5), (5, "oops", 5)]))
    says(lambda: readers.read_picks(path, TOMOGRAM), "a.star", "oops", "row 2", "rlnCoordinateY")
    path = star(tmp_path / "a.star", **coordinates([(5, 5, "nan")]))
    says(lambda: readers.read_picks(path, TOMOGRAM), "nan", "rlnCoordinateZ")


def test_star_without_what_is_needed(tmp_path):
    says(lambda: readers.read_picks(star(tmp_path / "a.star", foo=[1]), TOMOGRAM), "a.star", "rlnCoordinateX")
    two = star(tmp_path / "b.star", rlnCoordinateX=[1], rlnCoordinateY=[1])
    says(lambda: readers.read_picks(two, TOMOGRAM), "b.star", "rlnCoordinateZ")
    (tmp_path / "c.star").write_text("data_\n\nloop_\n_rlnCoordinateX\n_rlnCoordinateY\n_rlnCoordinateZ\n\n")
    says(lambda: readers.read_picks(tmp_path / "c.star", TOMOGRAM), "c.star")
    says(lambda: read_star(tmp_path / "no.star"), "no.star", "not a file")


def test_not_a_star_file(tmp_path):
    for content in (b"just words", bytes(range(256)), b"data_a\nloop_\n_x\n_y\n1 2 3\n"):
        (tmp_path / "a.star").write_bytes(content)
        says(lambda: read_star(tmp_path / "a.star"), "a.star", "not a STAR file")


def test_coordinates_of_other_tomograms(tmp_path):
    columns = {f"rlnCoordinate{axis}": [1, 2] for axis in "XYZ"}
    path = star(tmp_path / "a.star", rlnTomoName=["t1", "t2"], **columns)
    says(lambda: readers.read_picks(path, TOMOGRAM), "a.star", "2 tomograms", "'tomo'")


def test_subtomograms_that_do_not_fit(tmp_path):
    empty = tmp_path / "empty"
    empty.mkdir()
    says(lambda: readers.read_subtomograms(empty), "empty", "no .mrc files")
    mrc(tmp_path / "slab.mrcs", np.random.rand(9, 8, 8))
    says(lambda: readers.read_subtomograms(tmp_path / "slab.mrcs"), "8 x 8 x 9", "cubic", "tomogram")
    mrc(tmp_path / "two.mrcs", np.concatenate([GOOD, GOOD]))
    says(lambda: readers.read_subtomograms(tmp_path / "two.mrcs", box=12), "8 voxels", "12")
    mixed = tmp_path / "mixed"
    mixed.mkdir()
    mrc(mixed / "1.mrc")
    mrc(mixed / "2.mrc", GOOD[:6, :6, :6])
    says(lambda: readers.read_subtomograms(mixed), "2.mrc", "6 voxels")
    mrc(mixed / "2.mrc", voxel_size=5.0)
    says(lambda: readers.read_subtomograms(mixed), "2.mrc", "5 A", "10 A")


def test_image_names_that_lead_nowhere(tmp_path):
    inner = tmp_path / "inner"
    inner.mkdir()
    mrc(tmp_path / "outside.mrc")
    mrc(inner / "one.mrc")
    for name, word in (
        ("../outside.mrc", "leaves"),
        (str(tmp_path / "outside.mrc"), "leaves"),
        ("x@one.mrc", "number"),
        ("000000@one.mrc", "volume 0"),
        ("000002@one.mrc", "holds 1"),
        ("gone.mrc", "not a file"),
    ):
        says(lambda n=name: readers.read_subtomograms(star(inner / "a.star", rlnImageName=[n])), word)


def test_boxes_larger_than_their_volume():
    x = torch.zeros(1, 1, 8, 8, 8)
    says(lambda: crop(x, 9), "9", "8")
    says(lambda: volumes.rescale(x, 10.0, 10.0, 9), "9", "80 A", "at most 8")
    generator = torch.Generator().manual_seed(0)
    one = np.array([[4.0, 4, 4]])
    says(
        lambda: background.find_background(GOOD, one, 6, 10, generator), "at least 20", "6 voxels", "8 x 8 x 8", "got 0"
    )


def test_contrast_that_cannot_be_told_or_is_unknown():
    noise = torch.randn(8, 1, 8, 8, 8, generator=torch.Generator().manual_seed(0))
    says(lambda: volumes.to_bright(noise, "auto"), "bright or dark")
    says(lambda: volumes.to_bright(noise, "white"), "'white'", "auto, bright or dark")


def test_unknown_class_suggests_the_near_one():
    says(
        lambda: structures.template("apoferitin", 10.0, 32),
        "'apoferitin'",
        "did you mean 'apoferritin'",
        "TRiC, ",
        "ice",
    )
    says(lambda: structures.template("tric", 10.0, 32), "did you mean 'TRiC'")
    says(lambda: structures.template("", 10.0, 32), "Unknown class ''")


def test_structure_larger_than_the_box():
    says(lambda: structures.template("ribosome_80S", 10.0, 24), "ribosome_80S", "303 A", "box of 24", "at least 31")
    assert structures.template("ribosome_80S", 10.0, 31).shape == (31, 31, 31)


def test_a_molecule_too_large_for_the_box_is_refused_before_it_is_drawn(tmp_path):
    (tmp_path / "far.pdb").write_text(ATOM.format(0) + ATOM.format(9000).replace("A   1", "A   2") + "END\n")
    says(lambda: structures.template(tmp_path / "far.pdb", 10.0, 32), "far.pdb", "9000 A", "at most 1280 A")


def test_pixels_finer_than_the_map_or_not_positive():
    says(lambda: structures.template("TRiC", 2.0, 96), "2.0 A", "4.0 A", "TRiC")
    for pixel in (0.0, -3.0, float("nan"), float("inf")):
        says(lambda p=pixel: structures.template("TRiC", p, 32), f"{pixel}", "positive")


def test_files_that_are_no_structures(tmp_path):
    says(lambda: structures.template(tmp_path / "no.pdb", 10.0, 32), "no.pdb", "file")
    whole = gzip.compress(("".join(ATOM.format(i) for i in range(2000))).encode())
    for name, content in {
        "empty.pdb": b"",
        "words.pdb": b"no atoms here\n",
        "words.cif": b"no atoms here\n",
        "binary.cif": bytes(range(256)),
        "cut.pdb.gz": whole[: len(whole) // 2],
        "plain.pdb.gz": b"not gzip at all",
        "odd.xyz": b"not a structure",
    }.items():
        (tmp_path / name).write_bytes(content)
        says(lambda n=name: structures.template(tmp_path / n, 10.0, 32), name)


def test_empty_selections(tmp_path):
    path = tmp_path / "one.pdb"
    path.write_text(ATOM.format(0) + "END\n")
    says(lambda: structures.potential(path, voxel_size=5.0, chains="Q*"), "'Q*'", "no atoms", "chains")
    says(lambda: structures.potential(path, voxel_size=5.0, assembly="2"), "assembly '2'")
    path.write_text(ATOM.format(0).replace("ALA", "HOH").replace("ATOM  ", "HETATM") + "END\n")
    says(lambda: structures.template(path, 10.0, 32), "one.pdb")


def test_maps_that_are_no_molecules(tmp_path):
    says(lambda: structures.template(mrc(tmp_path / "a.mrc", GOOD * 0 + 1), 10.0, 32), "a.mrc", "constant")
    says(lambda: structures.template(mrc(tmp_path / "b.mrc"), 10.0, 32), "b.mrc", "brighter or clearly darker", "mask")
    data = np.zeros((12, 12, 12), np.float32)
    data[4:8, 4:8, 4:8] = 1
    says(lambda: structures.template(mrc(tmp_path / "c.mrc", data), 5.0, 32), "c.mrc", "5.0 A", "10 A", "finer voxels")


def test_rebuild_names_a_missing_file(tmp_path, capsys):
    assert structures.main(["rebuild", "--from", str(tmp_path), "--out", str(tmp_path / "out")]) == 1
    error = capsys.readouterr().err
    assert "4v5d.cif.gz" in error and "Traceback" not in error
