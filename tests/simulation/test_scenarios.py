"""Scenarios: the table of factors, and the errors of unknown names."""

import hashlib
import json
from dataclasses import asdict
from itertools import product

import pytest
import torch

from cryoshift_core.data import UNKNOWN
from cryoshift_core.errors import InputError
from cryoshift_core.fourier import gaussian_low_pass
from cryoshift_core.simulation import datasets, scenarios, structures
from cryoshift_core.simulation.datasets import DatasetConfig
from cryoshift_core.simulation.scenarios import FACTORS, SCENARIOS, Scenario, changed


def test_every_factor_has_three_levels_and_the_composites_raise_all_of_them():
    assert len(FACTORS) == 10
    for i in (1, 2, 3):
        composite = SCENARIOS[f"in_situ_{i}"]
        for name, factor in FACTORS.items():
            single = SCENARIOS[f"{name}_{i}"]
            for key, value in factor.levels[i - 1].items():
                assert getattr(single, key) == value == getattr(composite, key)
        assert composite is SCENARIOS[composite.name] and composite.name == f"in_situ_{i}@{scenarios.VERSION}"
    assert SCENARIOS["source"].path == "transfer" and SCENARIOS["in_situ_2"].path == "tilt", "no inverse crime"
    assert all(name in (scenario.name, scenario.name.partition("@")[0]) for name, scenario in SCENARIOS.items())


# What the results of each version were measured on. A hash that differs means that a factor changed: raise
# `scenarios.VERSION` and set the hashes of the new names. A new field of `Scenario` that is neutral needs new hashes
# only.
FROZEN = {
    "in_situ_1@2": "6883f507f9d2dbf7",
    "in_situ_2@2": "57a516540c42f041",
    "in_situ_3@2": "cf3ca15af730b14d",
    "in_situ_2_absent@2": "bae49c68b49070f2",
    "in_situ_2_background@2": "c87fabafe9e2f53c",
}


def test_composites_are_frozen_under_a_version():
    versioned = {name: SCENARIOS[name] for name in SCENARIOS if "@" in name}
    found = {
        name: hashlib.sha256(json.dumps(asdict(setting), sort_keys=True).encode()).hexdigest()[:16]
        for name, setting in versioned.items()
    }
    assert found == FROZEN
    assert scenarios.scenario("in_situ_2") is scenarios.scenario("in_situ_2@2")
    for name, version in (("in_situ_2@1", "expected version 2, got '1'"), ("dose_1@1", "expected version none")):
        with pytest.raises(InputError, match=f"Scenario .*{version}.* Use '{name[:-2]}"):
            scenarios.scenario(name)


def test_a_changed_deformation_or_filter_needs_a_new_version_as_well():
    """Numbers of version 2, to three digits: code behind the factors is as frozen as their settings."""
    moved = scenarios.deform(structures.template("TRiC", 12.0, 32), 0.5, torch.Generator().manual_seed(0))
    x = torch.linspace(-1, 1, 2 * 16**3).reshape(2, 1, 16, 16, 16).mul(37).sin()
    found = {name: float(function(x).square().mean()) for name, function in scenarios.PROCESSING.items()}
    found["deform"] = float(moved.square().mean())
    assert found == pytest.approx(
        {"none": 0.5066, "low-pass": 0.1219, "band-pass + clip": 0.4781, "denoised": 0.001083, "deform": 0.1495},
        rel=2e-3,
    )


def test_each_factor_applies_its_own_settings():
    """Every setting of every level changes what the simulator is given, through the entry of its own factor."""
    u = [0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9]
    base = scenarios.scenario("source")
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2, 1, 16, 16, 16, generator=generator)
    volume = structures.template("TRiC", 12.0, 24)

    def applied(factor, setting):
        return (
            factor.optics(setting, u),
            factor.specimens(setting, u),
            factor.structure(setting, "TRiC", volume, 12.0, torch.Generator().manual_seed(0)).square().sum().item(),
            factor.subtomograms(setting, x, generator).std().item(),
        )

    elsewhere = {"extras", "unseen", "imbalance"}  # molecules and labels, drawn by `datasets`
    for factor in FACTORS.values():
        level = {key: value for key, value in factor.levels[2].items() if key not in elsewhere}
        assert applied(factor, base) == applied(factor, changed(base, name="same"))
        if level:
            assert applied(factor, changed(base, **level)) != applied(factor, base)


def test_draw_optics_spans_the_ranges():
    setting = Scenario(dose=(1.0, 3.0), thickness=(50.0, 150.0), defocus=(2.0, 4.0), voltage=200.0, misalignment=2.5)
    optics = scenarios.draw_optics(setting, 10.0, [0.0, 1.0, 0.5, 0, 0, 0, 0], tilt_axis=30.0)
    assert (optics.dose_per_tilt, optics.thickness, optics.defocus) == (1.0, 150.0, 3.0)
    assert (optics.voltage, optics.misalignment, optics.tilt_axis, optics.voxel_size) == (200.0, 2.5, 30.0, 10.0)
    tilted = scenarios.draw_optics(scenarios.scenario("wedge_3"), 10.0, [0.5] * 7)
    assert (min(tilted.tilts), max(tilted.tilts), tilted.pretilt) == (-60.0, 39.0, -15.0)
    wide = scenarios.draw_optics(changed(setting, half_angle=(40.0, 80.0)), 10.0, [0, 0, 0, 0, 0.5, 0, 0])
    assert (min(wide.tilts), max(wide.tilts)) == (-60.0, 60.0)


def test_an_unknown_scenario_gets_a_hint_and_a_short_list():
    with pytest.raises(InputError, match="Unknown scenario 'dosis_1'; did you mean 'dose_1'") as error:
        scenarios.scenario("dosis_1")
    text = str(error.value)
    assert "\n" not in text and len(text) < 430 and "in_situ_1 to in_situ_3" in text
    assert all(factor in text for factor in FACTORS) and "wedge_2" not in text, "families, not every name"


@pytest.mark.parametrize(
    "wrong",
    [
        {"name": "a/b"},
        {"processing": "magic"},
        {"path": "slow"},
        {"absent": 1.0},
        {"background": -0.1},
        {"imbalance": 0.5},
    ],
)
def test_impossible_scenarios_are_refused(wrong):
    key, value = next(iter(wrong.items()))
    with pytest.raises(InputError, match=f"Scenario.{key}: expected .*got '?{value}"):
        Scenario(**wrong)


def test_the_prior_is_geometric():
    labels = scenarios.draw_labels(1100, 3, 10.0, torch.Generator().manual_seed(0))
    counts = labels.bincount().tolist()
    assert sum(counts) == 1100 and counts[0] / counts[2] == pytest.approx(10, rel=0.05)


def test_the_seed_draws_which_classes_are_rare_and_which_are_absent():
    classes = ("ribosome_80S", "TRiC", "apoferritin", "spliceosome", "RuvAB", "membrane")

    def counts(name, seed, split="train"):
        y = datasets.load_labels(DatasetConfig(name, classes, 600, 32, 12.0, split, seed=seed)).y
        return y.bincount(minlength=len(classes))

    for name, ratio in (("prior_2", 3), ("prior_3", 10)):
        seeds = [counts(name, seed) for seed in range(6)]
        assert all(float(c.max() / c.min()) == pytest.approx(ratio, rel=0.15) for c in seeds)
        assert len({int(c.argmin()) for c in seeds}) > 2, "before, the last class was the rarest for every seed"
    gone = [(counts("prior_absent", seed) == 0).nonzero().flatten().tolist() for seed in range(6)]
    assert all(len(g) == 2 for g in gone) and len({tuple(g) for g in gone}) > 2, "a third, which third by seed"
    for seed in range(3):
        for name in ("prior_3", "in_situ_2_absent"):
            same = [counts(name, seed, split).argsort(descending=True).tolist()[:4] for split in ("train", "test")]
            assert same[0] == same[1] or name != "prior_3", "train and test are the same target"
            assert torch.equal(counts(name, seed) == 0, counts(name, seed, "test") == 0)
    order = scenarios.draw_classes(SCENARIOS["prior_absent"], 1, torch.Generator().manual_seed(0))
    assert order.tolist() == [0], "a single class is never absent"


@pytest.mark.parametrize("name, counts", [("prior_background", [20, 20]), ("in_situ_2_background", [10, 30])])
def test_a_target_of_four_fifths_background(name, counts):
    plain = datasets.load_labels(DatasetConfig(name, ("TRiC", "apoferritin"), 200, 24, 16.0, "test")).y
    assert int((plain == UNKNOWN).sum()) == 160 and sorted(plain[plain >= 0].bincount().tolist()) == counts
    with_ice = datasets.load_labels(DatasetConfig(name, ("TRiC", "ice", "apoferritin"), 200, 24, 16.0, "test")).y
    assert with_ice[with_ice == 1].shape == (160,) and sorted(with_ice.bincount().tolist()) == [*counts, 160]
    unseen = changed(scenarios.scenario(name), name="unseen", unseen=0.5)
    y = datasets.load_labels(DatasetConfig(unseen, ("TRiC", "ice"), 200, 24, 16.0, "test")).y
    assert int((y == 1).sum()) == 160 and 8 < int((y == UNKNOWN).sum()) < 32


def test_the_paper_scenario_has_its_snr():
    config = DatasetConfig("paper", ("TRiC", "apoferritin"), 64, 24, 16.0, "source", tomograms=8)
    d = datasets.simulate_source(config, progress=False)
    assert d.snr.min() > 0.02 and d.snr.max() < 13 and d.snr.log10().std() > 0.5


def com(volume):
    """Centre of mass (3,) of a volume, in voxels from index 0."""
    index = torch.stack(torch.meshgrid(*(torch.arange(n) for n in volume.shape), indexing="ij"))
    return (index * volume).sum((1, 2, 3)) / volume.sum()


@pytest.mark.parametrize("name", structures.BUILTIN)
def test_a_conformer_conserves_mass_and_stays_centred(name):
    """At the largest level, 10 A. The random fields before changed the sum of RuvAB by 49 % and moved 80S by 15 A."""
    volume = structures.template(name, 12.0, 32)
    for seed in (0, 1):
        moved = scenarios.deform(volume, 10 / 12, torch.Generator().manual_seed(seed))
        assert float(moved.sum()) == pytest.approx(float(volume.sum()), rel=0.02)
        assert (com(moved) - com(volume)).abs().max() < 0.1, "voxels"
        assert 0.5 < torch.corrcoef(torch.stack([volume.flatten(), moved.flatten()]))[0, 1] < 0.95


def test_a_deformation_has_the_displacement_asked_for_and_no_rotation():
    """Each of 123 blobs in a ball is followed to where it went: the oracle is the centre of mass of what is near it."""
    sites = torch.tensor([p for p in product(range(8, 57, 8), repeat=3) if sum((v - 32) ** 2 for v in p) <= 26**2])
    r = torch.arange(64)

    def blob(at):
        z, y, x = (torch.exp(-0.5 * ((r - v) / 1.2) ** 2) for v in at)
        return z[:, None, None] * y[:, None] * x

    moved = scenarios.deform(sum(blob(site) for site in sites), 1.0, torch.Generator().manual_seed(0)).clamp_min(0)
    around = [tuple(slice(int(v) - 4, int(v) + 5) for v in site) for site in sites]
    went = torch.stack([com(moved[near]) for near in around]) - 4
    assert float(went.square().mean().sqrt()) == pytest.approx(1.0, rel=0.15)
    about = (sites - sites.float().mean(0)).float()
    spin = torch.linalg.lstsq(
        torch.cat([torch.linalg.cross(torch.eye(3), a.expand(3, 3)).T for a in about]), went.reshape(-1, 1)
    ).solution
    assert torch.linalg.cross(spin.T.expand(len(about), 3), about).square().mean().sqrt() < 0.15, "no rotation"


def test_the_seed_and_the_class_draw_the_conformer_and_no_split_does():
    setting = changed(scenarios.scenario("source"), name="bent", deformation=10.0)

    def conformer(name, seed, split="train"):
        config = DatasetConfig(setting, ("TRiC", "apoferritin"), 10, 32, 12.0, split, seed=seed)
        return datasets._change_structure(config, name, structures.template("TRiC", 12.0, 32))

    first = conformer("TRiC", 1)
    assert torch.equal(first, conformer("TRiC", 1, "test"))
    for other in (conformer("TRiC", 2), conformer("apoferritin", 1)):
        assert (other - first).abs().mean() > 0.1 * first.abs().mean()
    membrane = structures.template("membrane", 12.0, 32)
    assert torch.equal(datasets._change_structure(
        DatasetConfig(setting, ("membrane",), 10, 32, 12.0, "train"), "membrane", membrane), membrane)  # fmt: skip


def test_processing_changes_what_it_says():
    x = torch.randn(4, 1, 24, 24, 24, generator=torch.Generator().manual_seed(0))
    high = torch.fft.fftfreq(24).abs() > 0.4

    def high_share(v):
        power = torch.fft.fftn(v, dim=(2, 3, 4)).abs().square()
        return float(power[..., high].sum() / power.sum())

    assert high_share(scenarios.PROCESSING["low-pass"](x)) < 0.6 * high_share(x)
    assert scenarios.PROCESSING["band-pass + clip"](x).abs().max() <= 3
    assert high_share(scenarios.PROCESSING["denoised"](x)) < 0.2 * high_share(x)


@pytest.mark.parametrize("name, smoothed", [("band-pass + clip", (0.6, 4.0)), ("denoised", (1.0,))])
def test_processing_keeps_the_ranks_of_grey_values_between_subtomograms(name, smoothed):
    """A dense and a faint box of one tomogram: after the linear filter, one increasing function maps both."""
    x = torch.randn(2, 1, 24, 24, 24, generator=torch.Generator().manual_seed(0))
    x[1] *= 3
    first, *second = (gaussian_low_pass(x, sigma) for sigma in smoothed)
    linear = (first - second[0] if second else first).flatten()
    out = scenarios.PROCESSING[name](x).flatten()[linear.argsort()]
    assert (out.diff() > -1e-5).all(), "before, each box had a scale of its own"


def test_a_tomogram_is_processed_as_a_whole():
    """Of a pair of subtomograms in one tomogram, processing sees both, whatever the size of a batch."""
    seen = []
    setting = changed(scenarios.scenario("source"), name="seen", processing="band-pass + clip", path="transfer")
    config = DatasetConfig(setting, ("TRiC",), 70, 24, 16.0, "train", tomograms=1)
    original = scenarios.PROCESSING["band-pass + clip"]
    try:
        scenarios.PROCESSING["band-pass + clip"] = lambda x: seen.append(len(x)) or original(x)
        datasets.simulate_target(config, progress=False)
    finally:
        scenarios.PROCESSING["band-pass + clip"] = original
    assert seen == [70]
