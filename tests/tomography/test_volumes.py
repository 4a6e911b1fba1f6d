"""Grey values, geometry and files, against independent readers and arithmetic."""

import mrcfile
import numpy as np
import pytest
import starfile
import torch
from helpers.files import coordinates, star

import data_fetch
from cryoshift_core.data import crop, normalize
from cryoshift_core.errors import InputError, InputWarning
from cryoshift_core.simulation import datasets, structures
from cryoshift_core.tomography import background, extraction, mrc, volumes
from cryoshift_core.tomography.star import read_star, write_star
from cryoshift_core.tomography.volumes import Volume
from data_fetch import readers


def noise(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def ball(n=24, radius=5.0):
    r = torch.arange(n) - n // 2
    return (r[:, None, None] ** 2 + r[:, None] ** 2 + r**2 < radius**2).float()


def test_normalize_is_a_robust_z_score_of_each_volume():
    x = noise(3, 1, 16, 16, 16) * torch.tensor([1.0, 5.0, 0.1]).view(3, 1, 1, 1, 1) + 7
    x[1, 0, 0, 0, :8] = 1e4  # outliers that would change a mean and a standard deviation
    z = normalize(x)
    assert z.shape == x.shape
    assert torch.allclose(z.flatten(1).median(1).values, torch.zeros(3), atol=1e-5)
    assert torch.allclose(z[[0, 2]].flatten(1).std(1), torch.ones(2), atol=0.05)
    assert 0.9 < float(z[1].flatten()[8:].std()) < 1.1


def test_normalize_of_a_mostly_masked_volume_is_finite():
    x = torch.zeros(1, 1, 16, 16, 16)
    x[0, 0, 6:10, 6:10, 6:10] = 3.0
    z = normalize(x)
    assert torch.isfinite(z).all() and float(z.max()) < 50


@pytest.mark.parametrize("sign", [1, -1])
def test_contrast_of_the_sample_tomogram_and_of_subtomograms_from_it(sign):
    wanted = "bright" if sign > 0 else "dark"
    tomogram = mrc.read_mrc(data_fetch.sample().tomogram)
    assert volumes.guess_contrast(sign * tomogram.data).sign == wanted
    points = readers.read_picks(data_fetch.sample().coordinates, tomogram).zyx[::40]
    cubes, _ = extraction.extract(tomogram.data, points, 16, 40.0)
    assert volumes.guess_contrast(sign * cubes).sign == wanted


@pytest.mark.parametrize("name", ["TRiC", "TYMV_capsid", "membrane"])
def test_contrast_of_noisy_molecules_of_either_sign(name):
    generator = torch.Generator().manual_seed(1)
    volume = structures.template(name, 14.0, 24, generator)
    rotated = torch.stack([volume.rot90(i % 4, (i % 3, (i + 1) % 3)) for i in range(60)])[:, None]
    cubes = rotated / volume.std() + 3 * noise(60, 1, 24, 24, 24)
    assert volumes.guess_contrast(cubes).sign == "bright"
    assert volumes.guess_contrast(-cubes).sign == "dark"


def test_contrast_of_simulated_subtomograms():
    config = datasets.DatasetConfig("in_situ_1", ("TRiC", "ribosome_70S"), 60, 32, 12.0, "source", 2)
    x = datasets.simulate_source(config, progress=False).x
    assert (volumes.guess_contrast(x).sign, volumes.guess_contrast(-x).sign) == ("bright", "dark")


def test_contrast_of_a_large_stack_is_guessed_on_a_part_of_it_where_that_is_clear(monkeypatch):
    config = datasets.DatasetConfig("source", ("TRiC", "ribosome_70S"), 60, 16, 24.0, "source", 2)
    x = datasets.simulate_source(config, progress=False).x[torch.arange(600) % 60]
    counted = []
    plain = volumes._skewness
    monkeypatch.setattr(volumes, "_skewness", lambda blocks: counted.append(len(blocks)) or plain(blocks))
    assert (volumes.guess_contrast(x).sign, volumes.guess_contrast(-x).sign) == ("bright", "dark")
    assert volumes.guess_contrast(x.numpy()) == volumes.guess_contrast(x) and counted == [250] * 4
    counted.clear()
    volumes.guess_contrast(noise(600, 1, 16, 16, 16))
    assert counted == [250, 600], "all of it where a part does not show the contrast"


def test_contrast_of_noise_is_unsure():
    for seed in range(5):
        assert volumes.guess_contrast(noise(40, 1, 20, 20, 20, seed=seed)).sign == "unsure"
        assert volumes.guess_contrast(noise(60, 70, 80, seed=seed).numpy()).sign == "unsure"
    assert volumes.guess_contrast(ball()[None, None]).sign == "unsure"  # one subtomogram is not enough evidence


def test_to_bright_negates_dark_data_only():
    x = noise(4, 1, 8, 8, 8)
    assert torch.equal(volumes.to_bright(x, "dark"), -x) and torch.equal(volumes.to_bright(x, "bright"), x)
    particles = ball()[None, None] + 0.5 * noise(40, 1, 24, 24, 24)
    assert torch.equal(volumes.to_bright(-particles, "auto"), particles)


@pytest.mark.parametrize(("size", "n"), [(8, 4), (9, 4), (8, 5), (9, 5), (7, 7)])
def test_crop_keeps_the_centre_index(size, n):
    x = torch.zeros(1, 1, size, size, size)
    x[..., size // 2, size // 2, size // 2] = 1
    cut = crop(x, n)
    assert cut.shape[-3:] == (n, n, n) and cut[0, 0, n // 2, n // 2, n // 2] == 1


@pytest.mark.parametrize(("pixel_out", "box"), [(10.0, 24), (20.0, 12), (13.0, 18), (8.0, 30), (25.0, 9)])
def test_rescale_samples_the_same_smooth_density(pixel_out, box):
    def density(n, pixel):
        r = (torch.arange(n) - n // 2) * pixel
        z, y, x = torch.meshgrid(r, r, r, indexing="ij")
        return torch.exp(-((z - 14) ** 2 + (y + 9) ** 2 + (x - 5) ** 2) / (2 * 25.0**2))

    out = volumes.rescale(density(24, 10.0)[None, None], 10.0, pixel_out, box)
    assert torch.allclose(out[0, 0], density(box, pixel_out), atol=0.01)


def test_rescale_removes_frequencies_above_the_coarse_nyquist():
    wave = torch.cos(torch.pi * 0.75 * torch.arange(24))  # 0.75 of the fine Nyquist frequency
    out = volumes.rescale(wave.expand(1, 1, 24, 24, 24), 10.0, 20.0, 12)
    assert float(out.std()) < 0.1 * float(wave.std())


def test_extract_interpolates_between_voxels():
    z, y, x = np.meshgrid(*(np.arange(s, dtype=np.float32) for s in (20, 24, 28)), indexing="ij")
    linear = 2 * z - 3 * y + 0.5 * x  # trilinear interpolation of a linear ramp is exact
    points = np.array([[8.25, 10.5, 12.75], [9, 9, 9]])
    cubes, kept = extraction.extract(linear, points, 8, 10.0)
    assert list(kept) == [0, 1] and cubes.dtype == torch.float32
    assert np.allclose(cubes[:, 0, 4, 4, 4], points @ [2, -3, 0.5], atol=1e-4)
    assert np.allclose(cubes[0, 0, 5, 2, 7], (points[0] + [1, -2, 3]) @ [2, -3, 0.5], atol=1e-4)


def test_extract_drops_and_reports_boxes_over_the_border():
    data = noise(16, 16, 16).numpy()
    points = [[8, 8, 8], [3, 8, 8], [4, 4, 4], [12, 12, 12], [12.5, 12, 12], [13, 12, 12]]
    cubes, kept = extraction.extract(data, np.array(points), 8, 10.0)
    assert list(kept) == [0, 2, 3] and torch.equal(cubes[2, 0], torch.from_numpy(data[8:, 8:, 8:]))


def test_extract_to_another_voxel_size_keeps_the_centre():
    data = np.zeros((40, 40, 40), np.float32)
    data[20, 19, 21] = 1
    cubes, _ = extraction.extract(data, np.array([[20, 19, 21]]), 10, 10.0, to_voxel_size=20.0)
    assert cubes.shape == (1, 1, 10, 10, 10) and int(cubes.argmax()) == 555


def test_background_avoids_points_and_unpicked_matter():
    data = noise(48, 48, 48).numpy() * 0.2
    data[30:40, 30:40, 30:40] += 2.0  # dense matter without a position
    points = np.array([[10.0, 10, 10], [12, 30, 12]])
    centres = background.find_background(data, points, 8, 50, torch.Generator().manual_seed(0))
    again = background.find_background(data, points, 8, 50, torch.Generator().manual_seed(0))
    assert centres.shape == (50, 3) and np.array_equal(centres, again)
    assert np.abs(centres[:, None] - points).max(-1).min() >= 4 + 2
    assert not ((centres > 30) & (centres < 40)).all(1).any()
    assert len(extraction.extract(data, centres, 8, 10.0)[1]) == 50


@pytest.mark.parametrize("dtype", [np.float32, np.int16, np.int8, np.float16, np.uint16])
def test_mrc_round_trip(tmp_path, dtype):
    data = (np.random.default_rng(0).random((5, 6, 7)) * 100).astype(dtype)
    mrc.write_mrc(tmp_path / "a.mrc", data, 12.5)
    read = mrc.read_mrc(tmp_path / "a.mrc")
    assert np.array_equal(read.data, data.astype(np.float32)) and read.data.dtype == np.float32
    assert read.voxel_size == pytest.approx(12.5)
    assert np.array_equal(mrc.read_mrc(tmp_path / "a.mrc", mmap=True).data, data)
    assert mrc.read_mrc(tmp_path / "a.mrc", voxel_size=3.0).voxel_size == 3.0
    assert [p.name for p in tmp_path.iterdir()] == ["a.mrc"]


def test_mrc_of_another_byte_order_and_axis_order(tmp_path):
    data = np.random.default_rng(0).random((4, 5, 6)).astype(np.float32)
    with mrcfile.new(tmp_path / "a.mrc", data.transpose(2, 1, 0).astype(">f4")) as file:  # stored x, y, z
        file.voxel_size = 10.0
        file.header.mapc, file.header.mapr, file.header.maps = 3, 2, 1
    assert (tmp_path / "a.mrc").read_bytes()[212] == 0x11  # the machine stamp of big-endian files
    assert np.array_equal(mrc.read_mrc(tmp_path / "a.mrc").data, data)


def test_star_round_trip_agrees_with_starfile(tmp_path):
    table = {"rlnImageName": ["000001@s.mrcs", "000002@s.mrcs"], "csClass": ["a b", "TRiC"], "csConfidence": [0.5, 1]}
    write_star(tmp_path / "a.star", {"particles": table})
    mine = read_star(tmp_path / "a.star")["particles"]
    assert mine == {k: [str(v) for v in values] for k, values in table.items()}
    theirs = starfile.read(tmp_path / "a.star")
    assert list(theirs["rlnImageName"]) == table["rlnImageName"] and list(theirs["csClass"]) == table["csClass"]


def test_coordinates_are_zyx_and_keep_their_table(tmp_path):
    path = star(tmp_path / "a.star", **coordinates([(1, 3, 5), (2, 4.5, 6)]), tag=["a", "b"])
    read = readers.read_picks(path, Volume(np.zeros((8, 8, 8), np.float32), 10.0, "t.mrc"))
    assert read.zyx.tolist() == [[5, 3, 1], [6, 4.5, 2]] and read.table["tag"] == ["a", "b"]


def test_coordinates_of_relion_4_are_scaled_and_filtered_by_tomogram(tmp_path):
    optics = {"rlnOpticsGroup": [1], "rlnTomoTiltSeriesPixelSize": [2.5]}
    particles = {"rlnTomoName": ["t1", "t2", "t2"]} | coordinates([(4, 4, 4), (8, 8, 8), (12, 12, 12)])
    write_star(tmp_path / "a.star", {"optics": optics, "particles": particles})
    read = readers.read_picks(tmp_path / "a.star", Volume(np.zeros((8, 8, 8), np.float32), 10.0, "somewhere/t2.mrc"))
    assert read.zyx[:, 0].tolist() == [2, 3] and read.table["rlnTomoName"] == ["t2", "t2"]


def test_subtomograms_from_stack_folder_and_star(tmp_path):
    cubes = noise(12, 1, 8, 8, 8)
    mrc.write_mrc(tmp_path / "stack.mrcs", cubes.numpy(), 10.0)
    flat = cubes.reshape(96, 8, 8).numpy()
    mrc.write_mrc(tmp_path / "flat.mrc", flat, 10.0)  # a stack without the flag in its header
    folder = tmp_path / "folder"
    folder.mkdir()
    for i in (2, 0, 1):
        mrc.write_mrc(folder / f"{i}.mrc", cubes[i, 0].numpy(), 10.0)
    for name in ("stack.mrcs", "flat.mrc"):
        found = readers.read_subtomograms(tmp_path / name)
        read, voxel_size, names = found.subtomograms, found.voxel_size, found.table["rlnImageName"]
        assert torch.equal(read, cubes) and voxel_size == 10.0 and names[11] == f"000012@{name}"
    found = readers.read_subtomograms(folder, box=6)
    read, names = found.subtomograms, found.table["rlnImageName"]
    assert torch.equal(read, crop(cubes[:3], 6)) and names == ["0.mrc", "1.mrc", "2.mrc"]
    images = ["000012@stack.mrcs", "folder/1.mrc"]
    path = star(tmp_path / "a.star", rlnImageName=images, rlnImagePixelSize=[10.05, 10.05])
    found = readers.read_subtomograms(path)
    read, voxel_size, names = found.subtomograms, found.voxel_size, found.table["rlnImageName"]
    assert torch.equal(read, cubes[[11, 1]]) and voxel_size == 10.05 and names == images


def test_the_voxel_size_of_a_star_is_that_of_its_particles_optics_group(tmp_path):
    mrc.write_mrc(tmp_path / "stack.mrcs", noise(4, 1, 8, 8, 8).numpy(), 0.0)
    optics = "data_optics\n\nloop_\n_rlnOpticsGroup\n_rlnImagePixelSize\n1 13.0\n2 15.0\n\n"
    rows = "data_particles\n\nloop_\n_rlnImageName\n_rlnOpticsGroup\n"
    path = tmp_path / "a.star"
    path.write_text(optics + rows + "000001@stack.mrcs 2\n000003@stack.mrcs 2\n")
    assert readers.read_subtomograms(path).voxel_size == 15.0
    path.write_text(optics + rows + "000001@stack.mrcs 2\n000003@stack.mrcs 1\n")
    with pytest.raises(InputError, match=r"one voxel size, got _rlnImagePixelSize 13 to 15 A; split"):
        readers.read_subtomograms(path)
    with pytest.warns(InputWarning, match="14 A per voxel, in spite of _rlnImagePixelSize 13 to 15 A"):
        assert readers.read_subtomograms(path, None, 14.0).voxel_size == 14.0


def test_stack_is_marked_as_one(tmp_path):
    mrc.write_mrc(tmp_path / "s.mrcs", noise(3, 1, 4, 4, 4).numpy(), 7.0)
    with mrcfile.open(tmp_path / "s.mrcs") as file:
        assert file.is_volume_stack() and file.data.shape == (3, 4, 4, 4) and float(file.voxel_size.x) == 7.0
