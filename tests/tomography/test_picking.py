"""Candidates in made tomograms: known positions, both contrasts, borders, rims, gold, noise, and memory."""

import tracemalloc

import numpy as np
import pytest
from helpers.files import says
from helpers.tomograms import made, noise
from scipy.spatial import cKDTree

from cryoshift_core.simulation import structures
from cryoshift_core.tomography import picking
from cryoshift_core.tomography.picking import find_candidates

VOXEL = 24.0
D80S, DTRIC = structures.diameter("ribosome_80S"), structures.diameter("TRiC")
SIZES = [D80S, DTRIC]


@pytest.fixture(scope="module")
def tomogram():
    """48 x 112 x 112 voxels of 24 A, protein bright, with 40 ribosomes and 30 TRiC, and their positions."""
    return made({"ribosome_80S": 40, "TRiC": 30}, strength=4.0)


def candidates(volume, sizes=SIZES, contrast="bright", n=500, **options):
    return find_candidates(volume, VOXEL, sizes, contrast=contrast, n=n, **options)


def distances(found, zyx):
    """Distance in A of each position (N, 3) from the nearest candidate, and that candidate's rank."""
    away, rank = cKDTree(found.zyx).query(zyx)
    return away * VOXEL, rank


def test_candidates_are_at_the_known_positions_best_first(tomogram):
    volume, at = tomogram
    found = candidates(volume)
    for name, d in (("ribosome_80S", D80S), ("TRiC", DTRIC)):
        away, rank = distances(found, at[name])
        assert (away < d / 2).all() and np.median(away) < 1.5 * VOXEL
        assert (rank < 80).mean() > 0.9, "the 70 molecules are among the best 80 candidates"
    assert found.stands_out and (np.diff(found.score) <= 0).all()
    assert set(found.diameter) <= set(SIZES)


def test_dark_protein_gives_the_same_as_bright(tomogram):
    volume, _ = tomogram
    one, other = candidates(volume), candidates(100 - 3 * volume, contrast="dark")
    assert np.allclose(one.zyx, other.zyx, atol=1e-3) and np.allclose(one.score, other.score, rtol=1e-3)
    wrong = candidates(volume, contrast="dark")
    assert not wrong.stands_out


def test_candidates_are_apart_and_no_more_than_asked_for(tomogram):
    volume, _ = tomogram
    found, few = candidates(volume), candidates(volume, n=20)
    apart = np.linalg.norm(found.zyx[:, None] - found.zyx, axis=-1) * VOXEL
    least = picking.APART * (found.diameter[:, None] + found.diameter) / 2
    assert (apart >= least - 1e-6)[~np.eye(len(found), dtype=bool)].all()
    assert len(few) == 20 and np.array_equal(few.zyx, found.zyx[:20])


def test_blocks_give_the_same_as_the_whole(tomogram):
    volume, _ = tomogram
    whole, blocks = candidates(volume), candidates(volume, block=24)
    assert len(whole) == len(blocks) and np.allclose(whole.zyx, blocks.zyx, atol=1e-3)
    assert np.allclose(whole.score, blocks.score, rtol=1e-3)


def test_low_maxima_of_a_large_tomogram_decide_nothing(tomogram, monkeypatch):
    volume, _ = tomogram
    given = (volume, VOXEL, SIZES)
    whole = picking.find_candidates(*given, contrast="bright", n=10)
    monkeypatch.setattr(picking, "MOST", 200)
    cut = picking.find_candidates(*given, contrast="bright", n=10)
    assert len(cut.weak) < len(whole.weak), "fewer were looked at"
    assert np.array_equal(cut.zyx, whole.zyx) and np.array_equal(cut.score, whole.score)
    assert np.allclose(cut.real, whole.real, atol=0.02) and cut.stands_out == whole.stands_out


def test_a_binned_search_finds_the_same_positions(tomogram):
    """Four times finer voxels, as of a tomogram that is not binned: positions are in those voxels."""
    volume, at = tomogram
    fine = volume[:, :56, :56].repeat(4, 0).repeat(4, 1).repeat(4, 2)
    found = find_candidates(fine, VOXEL / 4, [D80S], contrast="bright", n=50)
    inside = at["ribosome_80S"][(at["ribosome_80S"][:, 1:] < 50).all(1)]
    away, _ = cKDTree(found.zyx).query(4 * inside + 1.5)
    assert len(inside) > 5 and (away * VOXEL / 4 < D80S / 2).all() and np.median(away) * VOXEL / 4 < 0.15 * D80S


def ball(shape, at, radius):
    """1 within `radius` voxels of `at`, else 0."""
    z, y, x = np.indices(shape) - np.reshape(at, (3, 1, 1, 1))
    return (z**2 + y**2 + x**2 <= radius**2).astype(np.float32)


def test_the_position_of_a_ball_is_found_to_a_fraction_of_a_voxel():
    shape, at = (40, 40, 40), np.array([19.3, 20.6, 18.8])
    z, y, x = np.indices(shape) - at.reshape(3, 1, 1, 1)
    volume = 6 / (1 + np.exp(2 * (np.sqrt(z**2 + y**2 + x**2) - 6))) + 0.05 * noise(shape, VOXEL, 0)
    found = candidates(volume, [12 * VOXEL])
    assert np.abs(found.zyx[0] - at).max() < 0.15


def test_what_the_border_cuts_off_is_no_candidate():
    shape = (48, 64, 64)
    volume = noise(shape, VOXEL, 1) + 8 * (ball(shape, (24, 32, 1), 6) + ball(shape, (24, 32, 40), 6))
    found = candidates(volume, [12 * VOXEL])
    assert np.linalg.norm(found.zyx[0] - (24, 32, 40)) < 1.5
    border = np.minimum(found.zyx, np.array(shape) - 1 - found.zyx).min(1)
    assert border.min() > 1.5, "an eighth of the diameter"


@pytest.mark.parametrize("fill", [0.0, 40.0])
def test_a_constant_rim_attracts_no_candidate(tomogram, fill):
    """Grey values around 20 beside a rim of 0 or 40: its edge is far stronger than any molecule."""
    volume, at = tomogram
    padded = np.full((64, 160, 160), fill, np.float32)
    padded[8:56, 24:136, 24:136] = 20 + volume
    found = candidates(padded)
    inside = found.zyx - (8, 24, 24)
    assert ((inside > 0) & (inside < np.array(volume.shape) - 1)).all()
    away, _ = distances(found, at["ribosome_80S"] + (8, 24, 24))
    assert (away < D80S / 2).mean() > 0.95


def test_gold_attracts_no_candidate_and_a_hot_voxel_removes_none(tomogram):
    volume, at = tomogram
    beads = np.array([(24.0, 20.0, 90.0), (30.0, 100.0, 20.0)])
    with_gold = volume.copy()
    for bead in beads:
        with_gold += 40 * ball(volume.shape, bead, 2.1)
    hot = at["ribosome_80S"][cKDTree(beads).query(at["ribosome_80S"])[0] > 20][0]
    with_gold[tuple(hot.round().astype(int))] += 60
    found = candidates(with_gold)
    assert (cKDTree(found.zyx).query(beads)[0] * VOXEL > DTRIC / 2).all()
    clear = at["ribosome_80S"][cKDTree(beads).query(at["ribosome_80S"])[0] > 12]
    assert (distances(found, clear)[0] < D80S / 2).all() and distances(found, hot[None])[0][0] < D80S / 2


def test_noise_alone_does_not_stand_out():
    found = [candidates(noise((40, 96, 96), VOXEL, seed)) for seed in range(6)]
    assert not any(one.stands_out for one in found) and all(len(one) for one in found)


def test_the_fraction_of_particles_is_estimated_from_the_minima(tomogram):
    volume, at = tomogram
    found = candidates(volume)
    everything = np.concatenate(list(at.values()))
    true = cKDTree(everything).query(found.zyx)[0] * VOXEL < DTRIC / 2
    assert (np.diff(found.real) <= 0).all() and ((found.real >= 0) & (found.real <= 1)).all()
    assert abs(found.real.sum() - true.sum()) < 0.25 * true.sum(), (found.real.sum(), true.sum())
    assert found.real[true].mean() > found.real[~true].mean() + 0.5
    away = cKDTree(everything).query(found.weak)[0] * VOXEL
    assert len(found.weak) > 100 and (away > DTRIC / 2).mean() > 0.95, "what is no candidate is no particle"


def test_a_few_clear_particles_stand_out():
    shape = (48, 96, 96)
    volume = noise(shape, VOXEL, 3) + 4 * ball(shape, (24, 40, 40), 6)
    assert candidates(volume, [12 * VOXEL]).stands_out


def test_a_volume_without_data_has_no_candidates():
    found = candidates(np.zeros((20, 30, 30), np.float32))
    assert len(found) == 0 and not found.stands_out


def test_classes_without_a_size_are_refused():
    says(lambda: candidates(noise((24, 24, 24), VOXEL, 0), [0.0]), "diameter", "name a molecule")
    says(lambda: candidates(noise((24, 24, 24), VOXEL, 0), n=0), "0 candidates", "raise the number")


def test_a_region_without_numbers_attracts_no_candidate(tomogram):
    """A large tomogram on disk is only checked in parts."""
    volume, at = tomogram
    broken = volume.copy()
    broken[:, :20, :20] = np.nan
    found = candidates(broken)
    assert np.isfinite(found.score).all() and not ((found.zyx[:, 1:] < 19).all(1)).any()
    away, _ = distances(found, at["ribosome_80S"][(at["ribosome_80S"][:, 1:] > 35).all(1)])
    assert (away < D80S / 2).all()


def test_close_diameters_share_a_filter():
    assert picking._distinct([0.0, 300.0, 310.0, 120.0, 400.0]) == [120.0, 300.0, 400.0]


def test_memory_grows_with_the_block_not_with_the_tomogram(tmp_path):
    """1000 x 1000 x 500 voxels in blocks of 224^3: about 60 bytes for each of their voxels and their margins."""
    peaks = []
    for depth in (40, 160):
        stored = np.lib.format.open_memmap(tmp_path / f"{depth}.npy", "w+", np.int8, (depth, 160, 160))
        stored[:] = np.random.default_rng(0).integers(-100, 100, stored.shape, np.int8)
        stored.flush()
        volume = np.load(tmp_path / f"{depth}.npy", mmap_mode="r")
        tracemalloc.start()
        found = find_candidates(volume, 20.0, [160.0], contrast="dark", n=100, block=40)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        assert len(found) == 100
    margins = 2 * 12
    assert peaks[1] < 1.4 * peaks[0] and peaks[1] < 60 * (16 + margins) * 160 * 160
