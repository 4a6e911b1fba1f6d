"""Extraction: against known volumes inserted into a tomogram, SciPy's interpolation, and files larger than memory."""

import subprocess
import sys

import numpy as np
import pytest
import torch
from helpers.files import correlation, mrc, patch, says, sparse
from safetensors import safe_open
from scipy import ndimage

from cryoshift_core.tomography import background, extraction, volumes
from cryoshift_core.tomography.extraction import extract_to, plan
from data_fetch import readers

RNG = np.random.default_rng(0)
NOISE = RNG.normal(size=(40, 44, 48)).astype(np.float32)
POINTS = RNG.uniform(6, 34, size=(50, 3))  # each box of 12 lies inside NOISE


class Store:
    """An array with `shape` and slices only; it counts its reads and raises KeyboardInterrupt after `last` of them."""

    def __init__(self, data, last=10**9):
        self.data, self.shape, self.last, self.reads = data, data.shape, last, 0

    def __getitem__(self, at):
        assert type(at) is tuple and len(at) == len(self.shape) and all(type(part) is slice for part in at)
        assert all(part.step in (None, *range(1, 99)) and (part.start or 0) >= 0 for part in at)
        self.reads += 1
        if self.reads > self.last:
            raise KeyboardInterrupt
        return self.data[at]


def to_file(path, tomogram, points, box=10, **how):
    return extract_to(path, tomogram, plan(tomogram.shape, points, box, 10.0, **how), progress=False)


def molecule(n, sigma):
    """A random volume without mirror symmetry, smooth enough for trilinear interpolation."""
    volume = ndimage.gaussian_filter(np.random.default_rng(3).normal(size=(n, n, n)), sigma)
    axes = np.arange(n) - n // 2
    radius = np.sqrt(axes[:, None, None] ** 2 + axes[:, None] ** 2 + axes**2)
    return volume / volume.std() / (1 + np.exp(radius - n / 3))


def insert(shape, volume, points):
    """Tomogram with `volume` added, its centre index at each of `points`; fractions of a voxel by Fourier shifts."""
    tomogram = np.zeros(shape)
    n = len(volume)
    for point in points:
        voxel = np.floor(point).astype(int)
        moved = np.fft.ifftn(ndimage.fourier_shift(np.fft.fftn(volume), point - voxel)).real
        tomogram[tuple(slice(a - n // 2, a - n // 2 + n) for a in voxel)] += moved
    return tomogram.astype(np.float32)


def test_volumes_inserted_at_voxels_are_extracted_bit_by_bit():
    volume = molecule(24, 2.0).astype(np.float32)
    points = [[20, 20, 20], [20, 60, 21], [47, 33, 52]]
    x, kept = extraction.extract(insert((64, 80, 72), volume, points), points, 24, 10.0)
    assert list(kept) == [0, 1, 2]
    for found in x[:, 0]:
        assert torch.equal(found, torch.from_numpy(insert((24, 24, 24), volume, [[12, 12, 12]])))


def test_volumes_inserted_between_voxels_are_extracted_to_interpolation_error():
    volume = molecule(24, 2.0)
    points = [[20.5, 20.5, 20.5], [20.25, 60.75, 21.1], [47, 33.5, 52.9]]
    tomogram = insert((64, 80, 72), volume, points)
    x, _ = extraction.extract(tomogram, points, 24, 10.0)
    assert min(correlation(found, volume) for found in x) > 0.99
    off, _ = extraction.extract(tomogram, np.array(points) + [0.7, 0, 0], 24, 10.0)
    assert max(correlation(found, volume) for found in off) < 0.99, "the test detects a shift of 0.7 voxels"


def test_round_trip_to_another_voxel_size():
    def density(n, pixel):
        z, y, x = np.meshgrid(*[(np.arange(n) - n // 2) * pixel] * 3, indexing="ij")
        blobs = ((0, 0, 0), (40, -20, 10), (-30, 30, -40))
        return sum(np.exp(-((z - a) ** 2 + (y - b) ** 2 + (x - c) ** 2) / (2 * 22.0**2)) for a, b, c in blobs)

    points = [[30, 31, 32], [30.5, 70.25, 33.9]]
    tomogram = insert((60, 100, 64), density(40, 10.0), points)
    x, kept = extraction.extract(tomogram, points, 20, 10.0, 13.3)
    wanted = density(20, 13.3)
    assert x.shape == (2, 1, 20, 20, 20) and list(kept) == [0, 1]
    assert np.abs(x[0, 0].numpy() - wanted).max() < 0.01, "at a voxel, only the Fourier crop is tested"
    assert correlation(x[1], wanted) > 0.99


def test_interpolation_is_scipys():
    x, kept = extraction.extract(NOISE, POINTS, 12, 10.0)
    assert list(kept) == list(range(50))
    grid = np.stack(np.meshgrid(*[np.arange(12) - 6] * 3, indexing="ij"))
    for point, volume in zip(POINTS, x[:, 0], strict=True):
        wanted = ndimage.map_coordinates(NOISE, grid + point[:, None, None, None], order=1)
        assert np.allclose(volume, wanted, atol=1e-5)


def test_a_padded_box_holds_the_median_where_there_is_no_tomogram():
    points = [[2, 20, 20], [20, 20, 20], [39, 43, 47], [39.5, 20, 20], [-1, 20, 20]]
    x, kept = extraction.extract(NOISE, points, 12, 10.0, pad=True)
    assert list(kept) == [0, 1, 2]
    assert torch.equal(x[1], extraction.extract(NOISE, points, 12, 10.0)[0][0])
    inside = NOISE[0:8, 14:26, 14:26]
    assert np.array_equal(x[0, 0, 4:], inside) and torch.all(x[0, 0, :4] == float(np.median(inside)))
    assert np.array_equal(x[2, 0, :7, :7, :7], NOISE[33:, 37:, 41:])
    between, _ = extraction.extract(NOISE, [[1.5, 20, 20]], 12, 10.0, pad=True)
    assert np.allclose(between[0, 0, 5:], (NOISE[0:7, 14:26, 14:26] + NOISE[1:8, 14:26, 14:26]) / 2, atol=1e-6)


@pytest.mark.parametrize("pad", [False, True])
@pytest.mark.parametrize("to", [10.0, 13.3])
def test_flip_z_is_the_mirrored_tomogram(pad, to):
    points = np.concatenate([POINTS, [[3, 20, 20], [6, 20, 20], [34, 20, 20]]])
    mirrored = points * [-1, 1, 1] + [39, 0, 0]
    x, kept = extraction.extract(NOISE, points, 9, 10.0, to, pad=pad, flip_z=True)
    wanted, also = extraction.extract(NOISE[::-1], mirrored, 9, 10.0, to, pad=pad)
    assert np.array_equal(kept, also) and len(kept) and torch.allclose(x, wanted, atol=1e-5)
    assert not torch.allclose(x[0], extraction.extract(NOISE, points, 9, 10.0, to, pad=pad)[0][0], atol=0.1)


def test_positions_come_in_many_forms():
    wanted, _ = extraction.extract(NOISE, POINTS, 8, 10.0)
    for points in (POINTS.tolist(), tuple(map(tuple, POINTS)), torch.from_numpy(POINTS)):
        assert torch.equal(extraction.extract(NOISE, points, 8, 10.0)[0], wanted)
    assert torch.equal(extraction.extract(NOISE, POINTS[0], 8, 10.0)[0], wanted[:1])
    for none in ([], np.zeros((0, 3))):
        x, kept = extraction.extract(NOISE, none, 8, 10.0, 13.3)
        assert x.shape == (0, 1, 8, 8, 8) and len(kept) == 0


@pytest.mark.parametrize("how", [{}, {"pad": True}, {"flip_z": True}, {"to_voxel_size": 13.3}])
def test_only_slices_of_a_tomogram_are_asked_for(how):
    wanted, _ = extraction.extract(NOISE, POINTS, 8, 10.0, **how)
    assert torch.equal(extraction.extract(Store(NOISE), POINTS, 8, 10.0, **how)[0], wanted)
    assert volumes.guess_contrast(Store(NOISE)) == volumes.guess_contrast(NOISE)


def test_a_zarr_array_and_a_tensor_are_tomograms():
    import zarr

    wanted, _ = extraction.extract(NOISE, POINTS, 8, 10.0)
    assert torch.equal(extraction.extract(zarr.array(NOISE, chunks=(16, 16, 16)), POINTS, 8, 10.0)[0], wanted)
    assert torch.equal(extraction.extract(torch.from_numpy(NOISE), POINTS, 8, 10.0)[0], wanted)


def test_the_order_of_axes_on_disk_does_not_matter(tmp_path):
    path = patch(mrc(tmp_path / "a.mrc", NOISE.transpose(2, 1, 0)), 64, [3, 2, 1])  # columns are z, sections x
    volume = readers.read_tomogram(path)
    wanted, _ = extraction.extract(NOISE, POINTS, 8, 10.0)
    assert torch.equal(extraction.extract(volume.data, POINTS, 8, 10.0)[0], wanted)


def test_chunks_are_the_same_subtomograms():
    wanted, kept = extraction.extract(NOISE, POINTS * 1.3 - 6, 10, 10.0, 12.0)
    assert 5 < len(kept) < 50
    boxes = plan(NOISE.shape, POINTS * 1.3 - 6, 10, 10.0, 12.0)
    parts = list(extraction.cut(NOISE, boxes, chunk=7))
    order = np.concatenate([index for _, index in parts])
    assert {len(x) for x, _ in parts[:-1]} == {7} and sorted(order) == list(kept)
    found = torch.cat([x for x, _ in parts])
    assert torch.allclose(found[np.argsort(order)], wanted, atol=1e-5)
    rest = list(extraction.cut(NOISE, boxes, skip=5))
    assert np.array_equal(np.concatenate([index for _, index in rest]), order[5:])


def test_a_plan_is_for_one_shape():
    says(lambda: next(extraction.cut(NOISE[1:], plan(NOISE.shape, POINTS, 8, 10.0))), "(40, 44, 48)", "(39, 44, 48)")


def test_invalid_positions_and_sizes():
    says(lambda: extraction.extract(NOISE, [[1, 2]], 8, 10.0), "(1, 2)", "(N, 3)")
    says(lambda: extraction.extract(NOISE, [[9, 9, 9], [9, np.nan, 9]], 8, 10.0), "Position 1 of 2", "nan")
    says(lambda: extraction.extract(NOISE, POINTS, 0, 10.0), "box of 0")
    says(lambda: extraction.extract(NOISE, POINTS, 8, 10.0, -3.0), "-3.0")


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_box_that_is_not_finite_is_refused(value):
    data = NOISE.copy()
    data[20, 20, 20] = value
    says(
        lambda: extraction.extract(data, [[9, 9, 9], [18, 18.5, 20]], 8, 10.0),
        "[18.0, 18.5, 20.0]",
        "position 1",
        "NaN",
    )
    assert len(extraction.extract(data, [[9, 9, 9]], 8, 10.0)[1]) == 1
    huge = np.full_like(NOISE, 3e38)
    huge[::2] = -1
    assert torch.isfinite(extraction.extract(huge, [[9, 9, 9]], 8, 10.0)[0]).all(), "a sum that overflows is not NaN"


@pytest.mark.parametrize("how", [{}, {"to_voxel_size": 13.3}, {"pad": True, "flip_z": True}])
def test_subtomograms_on_disk_are_those_in_memory(tmp_path, how):
    wanted, kept = extraction.extract(NOISE, POINTS, 10, 10.0, **how)
    x, index = to_file(tmp_path / "new" / "x.safetensors", NOISE, POINTS, **how)
    assert torch.allclose(x, wanted, atol=1e-5) and np.array_equal(index, kept)
    with safe_open(tmp_path / "new" / "x.safetensors", "pt") as file:
        assert torch.equal(file.get_tensor("subtomograms"), x) and file.get_tensor("kept").tolist() == list(kept)
        assert float(file.metadata()["voxel_size"]) == how.get("to_voxel_size", 10.0)
    x[:] = 0  # in memory only
    store = Store(NOISE)
    again, _ = to_file(tmp_path / "new" / "x.safetensors", store, POINTS, **how)
    assert torch.allclose(again, wanted, atol=1e-5) and store.reads == 1, "the middle plane, and no box"


def test_a_killed_extraction_goes_on_where_it_stopped(tmp_path):
    path, points = tmp_path / "x.safetensors", np.tile(POINTS, (10, 1))
    wanted, _ = extraction.extract(NOISE, points, 10, 10.0)
    reads = []
    for last in (300, 100, 10**9):  # the middle plane and boxes, 128 of them a chunk
        store = Store(NOISE, last)
        try:
            x, _ = to_file(path, store, points)
        except KeyboardInterrupt:
            assert not path.exists() and (tmp_path / "x.safetensors.part").exists()
        reads.append(store.reads)
    assert reads == [301, 101, 1 + 500 - 256]
    assert torch.equal(x, wanted) and not (tmp_path / "x.safetensors.part").exists()


def test_a_killed_process_leaves_no_incomplete_file(tmp_path):
    np.save(tmp_path / "noise.npy", NOISE)
    code = f"""if True:
        import os, signal, numpy as np
        from cryoshift_core.tomography import extraction
        noise, whole = np.load(r"{tmp_path}/noise.npy", mmap_mode="r"), extraction.cut
        def until_killed(*args, **how):
            for i, chunk in enumerate(whole(*args, **how, chunk=16)):
                if i == 2:
                    os.kill(os.getpid(), signal.SIGKILL)
                yield chunk
        extraction.cut = until_killed
        boxes = extraction.plan(noise.shape, {POINTS.tolist()}, 10, 10.0)
        extraction.extract_to(r"{tmp_path}/x.safetensors", noise, boxes, progress=False)
    """
    assert subprocess.run([sys.executable, "-c", code]).returncode == -9
    assert not (tmp_path / "x.safetensors").exists()
    store = Store(NOISE)
    x, _ = to_file(tmp_path / "x.safetensors", store, POINTS)
    assert torch.equal(x, extraction.extract(NOISE, POINTS, 10, 10.0)[0]) and store.reads in (1 + 18, 1 + 34)


def test_what_was_begun_for_other_work_is_begun_anew(tmp_path):
    path, points = tmp_path / "x.safetensors", np.tile(POINTS, (5, 1))
    with pytest.raises(KeyboardInterrupt):
        to_file(path, Store(NOISE, 200), points)
    x, _ = to_file(path, -NOISE, points)
    assert torch.equal(x, extraction.extract(-NOISE, points, 10, 10.0)[0])


def test_a_file_of_other_work_is_refused(tmp_path):
    path = tmp_path / "x.safetensors"
    to_file(path, NOISE, POINTS)
    before = path.read_bytes()
    for other in ((-NOISE, POINTS, 10), (NOISE, POINTS + 0.5, 10), (NOISE, POINTS, 9)):
        says(lambda o=other: to_file(path, *o), "x.safetensors", "delete it")
    assert path.read_bytes() == before
    path.write_bytes(before[:-1])
    says(lambda: to_file(path, NOISE, POINTS), "other inputs")
    says(lambda: to_file(tmp_path / "none", NOISE, [[0, 0, 0]]), "No box of 10")


def test_a_disk_too_full_is_said_before_the_work(tmp_path):
    points = np.tile([[500.0, 500, 500]], (10**4, 1))
    data = np.lib.stride_tricks.as_strided(NOISE[:1, :1, :1], (1000, 1000, 1000), (0, 0, 0))
    says(lambda: to_file(tmp_path / "a", data, points, 900), "29160.0 GB", "another disk")
    assert not (tmp_path / "a.part").exists()


def test_a_large_float_file_is_sampled_and_its_boxes_are_checked(tmp_path):
    nx = 4096
    path = sparse(tmp_path / "a.mrc", [nx, nx, 20], 2, [(5, 1.0), (2 * nx * nx + 64 * nx + 64, np.nan)])  # in plane 2
    tomogram = readers.read_tomogram(path)
    says(lambda: extraction.extract(tomogram.data, [[2, 64, 64]], 4, 10.0), "NaN", "[2.0, 64.0, 64.0]")
    assert len(extraction.extract(tomogram.data, [[2, 164, 64]], 4, 10.0)[1]) == 1
    sparse(tmp_path / "b.mrc", [nx, nx, 20], 2, [(5, np.nan)])
    says(lambda: readers.read_tomogram(tmp_path / "b.mrc"), "b.mrc", "NaN")


def test_a_value_in_a_slab_that_was_not_sampled_makes_a_file_vary(tmp_path):
    readers.read_tomogram(sparse(tmp_path / "a.mrc", [4096, 4096, 20], 0, [(2 * 4096**2, 3)]))
    says(lambda: readers.read_tomogram(sparse(tmp_path / "b.mrc", [4096, 4096, 20], 0)), "b.mrc", "constant")


def test_background_of_a_large_tomogram_avoids_points_and_dense_matter():
    data = np.zeros((260, 300, 280), np.float32)
    data += np.random.default_rng(0).normal(size=data.shape[1:]).astype(np.float32) * 0.1
    data[100:200, 100:200, 100:200] += 2.0
    points = np.array([[50.0, 50, 50], [60, 240, 200]])
    centres = background.find_background(data, points, 24, 300, torch.Generator().manual_seed(0))
    assert np.abs(centres[:, None] - points).max(-1).min() >= 18
    assert not ((centres > 100) & (centres < 200)).all(1).any()
    assert len(np.unique(centres, axis=0)) == 300 == len(extraction.extract(data, centres, 24, 10.0)[1])
    free = background.find_background(data, points, 24, 300, torch.Generator().manual_seed(0), tolerance=None)
    assert ((free > 100) & (free < 200)).all(1).any(), "all boxes that are free of points"
    assert np.abs(free[:, None] - points).max(-1).min() >= 18


def test_a_tomogram_larger_than_memory_is_cut_in_little(tmp_path):
    sparse(tmp_path / "a.mrc", [4000, 4000, 1000], 1, [(i * 160_000_777, 1000 - i) for i in range(99)])
    code = f"""if True:
        import resource, numpy as np, torch
        from cryoshift_core.tomography import extraction, volumes
        from data_fetch import readers
        torch.set_num_threads(1)
        tomogram = readers.read_tomogram(r"{tmp_path}/a.mrc")
        zyx = np.random.default_rng(0).uniform(20, [980, 3980, 3980], size=(150, 3))
        boxes = extraction.plan(tomogram.data.shape, zyx, 32, 10.0)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        volumes.guess_contrast(tomogram.data)
        assert sum(len(kept) for _, kept in extraction.cut(tomogram.data, boxes)) == 150
        print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
    """
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    unit = 1 if sys.platform == "darwin" else 1024
    assert int(done.stdout) * unit < 1e9
