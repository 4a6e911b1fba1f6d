"""Targets of another group's package: geometry, noise and labels; skipped where that package is not installed."""

import sys
from dataclasses import replace

import pytest
import torch

from cryoshift_core.data import UNKNOWN, HeldOutLabels, Unlabelled
from cryoshift_core.errors import InputError
from cryoshift_core.simulation import datasets, foreign, structures
from cryoshift_core.simulation.datasets import DatasetConfig
from cryoshift_core.simulation.optics import Optics, tilt_scheme
from cryoshift_core.simulation.scenarios import changed, scenario

CONFIG = DatasetConfig("foreign_1", ("TRiC", "apoferritin", "ice"), 6, 24, 16.0, "train", tomograms=2)


@pytest.fixture
def acryo():
    return pytest.importorskip("acryo", reason="needs the extra 'foreign'")


def test_without_the_package_the_error_says_how_to_install_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "acryo", None)
    with pytest.raises(InputError, match=r"expected the package acryo, got none.*-e '\.\[foreign\]'") as error:
        datasets.simulate_target(CONFIG, progress=False)
    assert "\n" not in str(error.value)


def test_a_turned_tilt_axis_is_refused():
    with pytest.raises(InputError, match="tilt_axis: expected 0 degrees in a foreign scenario, got 20"):
        foreign.image(torch.zeros(1, dtype=torch.int64), [], Optics(tilt_axis=20.0), box=24, snr=1.0)


def test_a_target_has_subtomograms_labels_and_snrs_like_ours(acryo, tmp_path):
    made = datasets.simulate_target(CONFIG, folder=tmp_path, progress=False)
    labels = datasets.load_labels(CONFIG, folder=tmp_path)
    assert type(made) is Unlabelled and made.x.shape == (6, 1, 24, 24, 24) and made.name == "foreign_1"
    assert type(labels) is HeldOutLabels and torch.equal(labels.y, datasets.load_labels(CONFIG).y)
    particles = labels.snr[labels.y < 2]
    assert (particles > 0.01).all() and (particles < 1.5).all() and (labels.snr[labels.y == 2] < 0.03).all()
    assert torch.equal(made.x, datasets.simulate_target(CONFIG, progress=False).x), "the seed decides everything"
    background = datasets.simulate_background(replace(CONFIG, split="background", n=3, tomograms=1), progress=False)
    assert len(background) == 3


def test_particles_are_bright_and_centred_and_miss_the_wedge(acryo):
    """Noise-free, near focus: the mean box of a round molecule is its own map, apart from what no tilt measures."""
    optics = Optics(voxel_size=16.0, tilts=tilt_scheme(-60, 60), defocus=1.0, amplitude_contrast=0.9)
    generator = torch.Generator().manual_seed(0)
    volume = foreign.density("apoferritin", 16.0, 24, generator)
    y = torch.zeros(4, dtype=torch.int64)
    made = foreign.image(y, [volume.numpy()], optics, box=24, snr=1e6, offset=0.0, seed=1)
    mean = made.x[:, 0].mean(0)
    ours = structures.template("apoferritin", 16.0, 24)
    aligned = torch.corrcoef(torch.stack([mean.flatten(), ours.flatten()]))[0, 1]
    assert aligned > 0.7
    for axis in range(3):
        for way in (-1, 1):
            shifted = torch.roll(ours, way, axis)
            assert torch.corrcoef(torch.stack([mean.flatten(), shifted.flatten()]))[0, 1] < aligned - 0.02
    power = torch.fft.rfftn(mean).abs()
    assert power[4, 0, 1] < 0.3 * power[1, 0, 4], "beam and tilt axis are where ours are"


def test_noise_has_the_snr_asked_for_with_and_without_particles(acryo):
    optics, generator = Optics(voxel_size=16.0), torch.Generator().manual_seed(0)
    maps = [foreign.density(name, 16.0, 24, generator).numpy() for name in ("TRiC", "ice")]
    full = foreign.image(torch.zeros(5, dtype=torch.int64), maps, optics, box=24, snr=0.1, seed=1)
    assert float(full.snr.median()) == pytest.approx(0.1, rel=0.05)
    empty = foreign.image(torch.full((5,), UNKNOWN), maps, optics, box=24, snr=0.1, seed=1)
    assert float(empty.x.std()) == pytest.approx(float(full.x.std()), rel=0.3), "the same noise beside neighbours"
    assert empty.snr.max() < 0.05


def test_a_conformer_and_absent_classes_work_in_a_foreign_target_too(acryo):
    mixed = changed(scenario("foreign_1"), name="foreign_mixed", absent=0.3, deformation=5.0)
    y = datasets.load_labels(replace(CONFIG, scenario=mixed)).y
    assert len(y.unique()) == 2
    assert len(datasets.simulate_target(replace(CONFIG, scenario=mixed, n=4, tomograms=1), progress=False)) == 4
