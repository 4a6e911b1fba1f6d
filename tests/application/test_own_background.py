"""Training with simulated molecules in the target's own particle-free boxes."""

import json
from dataclasses import replace
from itertools import product

import numpy as np
import pytest
import torch

import data_fetch
from cryoshift_core import methods
from cryoshift_core.application import classify, pipeline, spike_in, target_data
from cryoshift_core.application.lattice_test import lattice_test
from cryoshift_core.application.profiles import PROFILES
from cryoshift_core.data import Labelled, Unlabelled, normalize
from cryoshift_core.simulation.optics import Optics
from cryoshift_core.tomography import mrc
from cryoshift_core.tomography.background import find_background
from data_fetch import readers

CLASSES = ("TRiC", "apoferritin", "ice")
FEWEST = target_data.FEWEST_TO_TRAIN


def noise(n, seed=0):
    return normalize(torch.randn(n, 1, 24, 24, 24, generator=torch.Generator().manual_seed(seed)))


@pytest.fixture(scope="module")
def vlp():
    sample = data_fetch.sample()
    volume = readers.read_tomogram(sample.tomogram)
    return target_data.from_tomogram(volume, readers.read_picks(sample.coordinates, volume), ("membrane", "ice"))


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_the_two_sets_share_no_voxel(axis):
    shape = [40, 40, 40]
    shape[axis] = 200
    at = np.array(list(product(*(range(8, side - 7, 4) for side in shape))), float)
    x = torch.arange(len(at), dtype=torch.float32)[:, None]  # the number of its box stands for each box
    found = target_data.divide_background(x, at, 16, 300)
    train, spikes = (at[part[:, 0].long().numpy()] for part in (found.train, found.spike_ins))
    assert len(train) == len(spikes) == 300
    assert np.abs(train[:, None] - spikes[None]).max(-1).min() >= 16
    assert len(np.unique(np.sign(train[:, axis] - np.median(at[:, axis])))) == 1, "one side of a plane"


def test_few_boxes_all_go_to_the_spike_ins():
    x = noise(56)
    assert target_data.divide_background(x, None, 0, 500).train is None
    assert torch.equal(target_data.divide_background(x, None, 0, 500).spike_ins, x)
    more = noise(2 * FEWEST)
    found = target_data.divide_background(more, None, 0, 500)
    assert torch.equal(torch.cat([found.train, found.spike_ins]), more)
    some = noise(70)
    found = target_data.divide_background(some, None, 0, 500)
    assert len(found.train) >= FEWEST and len(found.spike_ins) >= 20, "fewer for the spike-ins than for the training"
    narrow = np.zeros((200, 3))
    assert target_data.divide_background(noise(200), narrow, 24, 500).train is None, "all boxes lie across the plane"


def test_background_shares_no_voxel_with_held_out_particles(vlp):
    test = lattice_test(vlp, ("membrane", "ice"), n_ice=60)
    assert len(test.held_out_at) == len(test.held_out)
    free = find_background(
        vlp.tomogram.data, vlp.particles.zyx, 24, 200, torch.Generator().manual_seed(0), keep_out=test.held_out_at
    )
    assert np.abs(free[:, None] - test.held_out_at[None]).max(-1).min() >= vlp.edge
    anywhere = find_background(vlp.tomogram.data, vlp.particles.zyx, 24, 200, torch.Generator().manual_seed(0))
    assert np.abs(anywhere[:, None] - test.held_out_at[None]).max(-1).min() < vlp.edge, "without it, they do"
    boxes = pipeline.background_boxes(vlp, n=250, keep_out=test.held_out_at)
    seen = {box.numpy().tobytes() for box in test.held_out.x}
    assert not any(box.numpy().tobytes() in seen for box in torch.cat([boxes.train, boxes.spike_ins]))


def test_the_strength_of_each_molecule_varies_and_their_mean_stays():
    def snr(spread):
        spikes = spike_in.spike(
            ("TRiC", "apoferritin"),
            noise(50),
            200,
            snr=0.2,
            voxel_size=16.0,
            optics=Optics(voxel_size=16.0),
            wedge=None,
            generator=torch.Generator().manual_seed(0),
            spread=spread,
        )
        return [spikes.snr[spikes.y == k].log() for k in (0, 1)], spikes.snr.mean()

    (plain, mean), (varied, same) = snr(1.0), snr(3.0)
    assert float(mean) == pytest.approx(0.2, rel=1e-4) and float(same) == pytest.approx(0.2, rel=1e-4)
    for one, other in zip(plain, varied, strict=True):
        ratio = (other - one).exp()
        assert 7 < float(ratio.max() / ratio.min()) <= 9.01, "from 1/3 to 3, in the same order of boxes"


def test_molecules_are_added_to_the_simulated_source_and_nothing_else_changes():
    source = Labelled(noise(60, 1), torch.arange(60) % 3, CLASSES, 16.0, torch.full((60,), 0.1), torch.arange(60) // 10)
    target, boxes = Unlabelled(noise(30, 2), 16.0, torch.zeros(30, dtype=torch.long), "target"), noise(FEWEST, 3)
    found = pipeline.add_own_background(source, target, boxes, snr=1.0)
    assert len(found) == 80 and torch.equal(found.x[:60], source.x) and found.classes == CLASSES
    assert torch.bincount(found.y[60:], minlength=3).min() >= 6 and not set(found.groups[60:].tolist()) & set(range(6))
    plain = found.x[60:][found.y[60:] == CLASSES.index("ice")]
    likeness = torch.corrcoef(torch.cat([plain, boxes]).flatten(1))[: len(plain), len(plain) :].amax(1)
    assert likeness.min() > 0.9999, "ice is a box of the tomogram as it is"
    again, other = (pipeline.add_own_background(source, target, boxes, snr=1.0, seed=seed) for seed in (0, 1))
    assert torch.equal(found.x, again.x) and not torch.equal(found.x, other.x)


def test_only_methods_that_ask_for_it_learn_from_them(monkeypatch):
    got = {}
    monkeypatch.setattr(pipeline, "fit", lambda name, source, *a, **k: got.setdefault(name, source))
    source, own, target = object(), object(), object()
    for method in ("cryoshift", "cryoshift_reference", "dann"):
        pipeline.fit_methods(method, source, source, target, PROFILES["smoke"], own=own)
    assert got.pop("cryoshift") is own and got.pop("cryoshift_warps") is own
    assert got == {"source_only": source, "cryoshift_reference": source, "dann": source}
    got.clear()
    pipeline.fit_methods("cryoshift", source, source, target, PROFILES["smoke"])
    assert got == {"source_only": source, "cryoshift_warps": source, "cryoshift": source}


def test_a_registered_method_can_use_it_and_it_can_be_left_out(monkeypatch):
    monkeypatch.setattr(methods, "METHODS", dict(methods.METHODS))
    mine = methods.register("mine", terms={"source": 1.0}, own_background=True)
    assert mine.own_background and methods.resolve("mine")[1].own_background
    assert not methods.resolve("mine", ("own_background",))[1].own_background
    assert not methods.register("other", terms={"source": 1.0}).own_background


@pytest.mark.parametrize("wanted", [True, False])
def test_classify_counts_them(tomogram_folder, tmp_path, wanted):
    files = {"tomogram": tomogram_folder / "tomo_7.mrc", "coordinates": tomogram_folder / "particles.star"}
    budget = replace(PROFILES["smoke"], steps=2)
    boxes = tmp_path / "boxes.mrcs"
    mrc.write_mrc(boxes, -noise(2 * FEWEST)[:, 0].numpy(), 16.0)
    result = classify.classify(
        **files,
        classes=CLASSES[:2],
        box=24,
        profile=budget,
        device="cpu",
        background=boxes,
        own_background=wanted,
        out_dir=tmp_path / "out",
    )
    manifest = json.loads((result.folder / "manifest.json").read_text())
    assert manifest["own_background"] == (budget.n_source // 3 if wanted else 0)
    assert manifest["parameters"]["own_background"] is wanted
