"""The shipped real sample: readable, documented, and its coordinates on the Gag shells."""

import hashlib
import subprocess
import sys

import mrcfile
import numpy as np
import starfile
from scipy import ndimage
from scipy.spatial.transform import Rotation

import data_fetch
from cryoshift_core.tomography.mrc import read_mrc
from data_fetch import readers
from data_fetch.__main__ import main
from data_fetch.build_sample import build, lattice_angles, particles

SAMPLE = data_fetch.sample()


def test_sample_is_small_and_has_its_papers():
    folder = SAMPLE.tomogram.parent
    assert sum(path.stat().st_size for path in folder.iterdir()) <= 8e6
    readme = (folder / "README.md").read_text()
    for word in ("EMPIAR-10164", "6504891", "CC0", "Science", "BSD-3-Clause", "python -m data_fetch build-sample"):
        assert word in readme
    assert "Chi-Li Chiu" in (folder / "LICENSE").read_text()


def test_other_programs_read_the_sample():
    with mrcfile.open(SAMPLE.tomogram) as file:
        assert file.data.shape == (101, 135, 135) and file.data.dtype == np.int16
        assert np.allclose([file.voxel_size.x, file.voxel_size.y, file.voxel_size.z], 40)
    assert mrcfile.validate(SAMPLE.tomogram)
    table = starfile.read(SAMPLE.coordinates)
    assert len(table) == 5377 and set(table["rlnTomoName"]) == {SAMPLE.tomogram.stem}


def test_positions_lie_on_bright_shells_in_no_other_axis_order():
    tomogram = read_mrc(SAMPLE.tomogram)
    zyx = readers.read_picks(SAMPLE.coordinates, tomogram).zyx

    def z_score(points):
        return ndimage.map_coordinates(tomogram.data, points.T, order=1).mean() / tomogram.data.std()

    assert z_score(zyx) > 0.9
    for wrong in (zyx[:, ::-1], zyx[:, [0, 2, 1]], zyx * 4 / 5, zyx + 4):
        assert z_score(wrong) < 0.5


def test_angles_point_out_of_the_particles():
    table = starfile.read(SAMPLE.coordinates)
    xyz = table[["rlnCoordinateX", "rlnCoordinateY", "rlnCoordinateZ"]].to_numpy()
    angles = table[["rlnAngleRot", "rlnAngleTilt", "rlnAnglePsi"]].to_numpy()
    normal = Rotation.from_euler("ZYZ", angles, degrees=True).inv().as_matrix()[:, :, 2]  # RELION's convention
    group = table["rlnGroupNumber"].to_numpy()
    assert sorted(set(group)) == list(range(1, 10)) and np.bincount(group)[1:].min() > 500
    for number in range(1, 10):
        outward = xyz[group == number] - xyz[group == number].mean(0)
        outward /= np.linalg.norm(outward, axis=1, keepdims=True)
        assert np.einsum("ij,ij->i", outward, normal[group == number]).mean() > 0.9


def test_particles_are_numbered_by_size():
    rng = np.random.default_rng(0)
    points = np.concatenate([rng.normal(c, 3, (n, 3)) for c, n in ((0, 40), (100, 80), (200, 60))])
    assert np.array_equal(particles(points), [3] * 40 + [1] * 80 + [2] * 60)


def test_build_sample_writes_what_the_three_files_hold(tmp_path):
    import tifffile

    rng = np.random.default_rng(0)
    tomogram = rng.normal(size=(12, 14, 16)).astype(np.float32)
    points = rng.uniform(8, 40, (30, 3))
    normals = rng.normal(size=(30, 3))
    tifffile.imwrite(tmp_path / "tomo.tif", tomogram)
    np.save(tmp_path / "tomo_point.npy", points)
    np.save(tmp_path / "tomo_vector.npy", np.stack([points, normals], 1))
    out = tmp_path / "out"
    out.mkdir()
    build(tmp_path, out)
    volume = read_mrc(out / "hiv_vlp_tomogram.mrc")
    assert np.corrcoef(volume.data.ravel(), tomogram.ravel())[0, 1] > 0.99999 and volume.voxel_size == 40
    read = readers.read_picks(out / "hiv_gag_coordinates.star", volume)
    assert np.allclose(np.sort(read.zyx, 0), np.sort(points / 4, 0), atol=1e-3)
    tilt, psi = lattice_angles(np.array([[0.0, 1.0, 0.0]]))  # along y
    assert np.allclose([tilt[0], psi[0]], [90, 90])


def test_build_sample_names_a_missing_file(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "data_fetch", "build-sample", "--from", str(tmp_path)], capture_output=True, text=True
    )
    assert done.returncode == 1 and "tomo.tif is missing" in done.stderr and "Traceback" not in done.stderr


def test_the_shipped_files_are_those_of_the_manifest():
    folder = data_fetch.SAMPLE
    lines = dict(reversed(line.split("  ")) for line in (folder / "SHA256SUMS").read_text().splitlines())
    shipped = {path.relative_to(folder).as_posix() for suffix in ("*.mrc", "*.star") for path in folder.rglob(suffix)}
    assert lines.keys() == shipped and len(shipped) == 7
    for name, digest in lines.items():
        assert hashlib.sha256((folder / name).read_bytes()).hexdigest() == digest, name


def test_the_lamella_is_documented_and_readable():
    files = data_fetch.yeast_lamella()
    readme = (files.tomogram.parent / "README.md").read_text()
    for word in ("EMPIAR-11658", "CC0", "tomo-project", "88839b4", "not complete", "not expert labels"):
        assert word in readme
    assert sum(path.stat().st_size for path in files.tomogram.parent.iterdir()) <= 6e6
    with mrcfile.open(files.tomogram) as file:
        assert file.data.shape == (84, 256, 256) and np.allclose(file.voxel_size.x, 31.36)
    counts = {name: len(starfile.read(path)) for name, path in vars(files).items() if name != "tomogram"}
    assert counts == {"ribosomes": 267, "cytosol": 400, "membrane": 276, "positions": 943}


def test_the_positions_of_the_lamella_are_those_of_its_lists_mixed():
    files = data_fetch.yeast_lamella()
    names = [f"rlnCoordinate{axis}" for axis in "XYZ"]
    lists = [starfile.read(path)[names].to_numpy() for path in (files.ribosomes, files.membrane, files.cytosol)]
    mixed = starfile.read(files.positions)
    assert list(mixed) == names, "nothing tells what stands there"
    assert np.allclose(*(points[np.lexsort(points.T)] for points in (np.concatenate(lists), mixed[names].to_numpy())))
    ribosomes = {tuple(row) for row in lists[0].round(3)}
    listed = np.array([tuple(row) in ribosomes for row in mixed[names].to_numpy().round(3)])
    assert listed.sum() == 267 and np.abs(np.diff([part.mean() for part in np.array_split(listed, 4)])).max() < 0.2


def test_listed_ribosomes_are_dense_in_no_other_axis_order_or_mirror_image():
    files = data_fetch.yeast_lamella()
    tomogram = readers.read_tomogram(files.tomogram)
    data = np.asarray(tomogram.data, np.float32)
    z_score = (data - data.mean()) / data.std()
    ribosomes, cytosol = (readers.read_picks(path, tomogram).zyx for path in (files.ribosomes, files.cytosol))

    def density(points):
        return -ndimage.map_coordinates(ndimage.uniform_filter(z_score, 5), points.T, order=1, mode="nearest").mean()

    assert density(ribosomes) > 1
    size = np.array(data.shape) - 1
    for wrong in (cytosol, ribosomes[:, [0, 2, 1]], *(np.abs(size * flip - ribosomes) for flip in np.eye(3))):
        assert density(wrong) < 0.5
    nearest = np.linalg.norm(cytosol[:, None] - ribosomes[None], axis=2).min(1)
    assert nearest.min() >= 10


def test_the_command_prints_where_the_lamella_is(capsys):
    assert main(["where", "yeast_171"]) == 0
    assert capsys.readouterr().out.splitlines() == [str(path) for path in vars(data_fetch.yeast_lamella()).values()]
