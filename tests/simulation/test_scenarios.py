"""Scenarios: the table of factors, and the errors of unknown names."""

import pytest
import torch

from cryoshift_core.errors import InputError
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
    assert SCENARIOS["source"].path == "transfer" and SCENARIOS["in_situ_2"].path == "tilt", "no inverse crime"
    assert all(scenario.name == name for name, scenario in SCENARIOS.items())


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
            factor.structure(setting, "TRiC", volume, 12.0).sum().item(),
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
    wide = scenarios.draw_optics(changed(setting, half_angle=(40.0, 80.0)), 10.0, [0, 0, 0, 0, 0.5, 0, 0])
    assert (min(wide.tilts), max(wide.tilts)) == (-60.0, 60.0)


def test_an_unknown_scenario_gets_a_hint_and_a_short_list():
    with pytest.raises(InputError, match="Unknown scenario 'dosis_1'; did you mean 'dose_1'") as error:
        scenarios.scenario("dosis_1")
    text = str(error.value)
    assert "\n" not in text and len(text) < 330 and "in_situ_1 to in_situ_3" in text
    assert all(factor in text for factor in FACTORS) and "wedge_2" not in text, "families, not every name"


@pytest.mark.parametrize("wrong", [{"name": "a/b"}, {"processing": "magic"}, {"path": "slow"}])
def test_impossible_scenarios_are_refused(wrong):
    key, value = next(iter(wrong.items()))
    with pytest.raises(InputError, match=f"Scenario.{key}: expected .*got '{value}'"):
        Scenario(**wrong)


def test_the_prior_is_geometric():
    labels = scenarios.draw_labels(1100, 3, 10.0, torch.Generator().manual_seed(0))
    counts = labels.bincount().tolist()
    assert sum(counts) == 1100 and counts[0] / counts[2] == pytest.approx(10, rel=0.05)


def test_the_paper_scenario_has_its_snr():
    config = DatasetConfig("paper", ("TRiC", "apoferritin"), 64, 24, 16.0, "source", tomograms=8)
    d = datasets.simulate_source(config, progress=False)
    assert d.snr.min() > 0.02 and d.snr.max() < 13 and d.snr.log10().std() > 0.5


def test_deformation_moves_the_molecule_but_keeps_it():
    volume = structures.template("TRiC", 10.0, 32)
    moved = scenarios.deform("TRiC", volume, 0.5)
    correlation = torch.corrcoef(torch.stack([volume.flatten(), moved.flatten()]))[0, 1]
    assert 0.8 < correlation < 0.995 and float(moved.sum()) == pytest.approx(float(volume.sum()), rel=0.1)
    assert torch.equal(moved, scenarios.deform("TRiC", volume, 0.5))


def test_processing_changes_what_it_says():
    x = torch.randn(4, 1, 24, 24, 24, generator=torch.Generator().manual_seed(0))
    high = torch.fft.fftfreq(24).abs() > 0.4

    def high_share(v):
        power = torch.fft.fftn(v, dim=(2, 3, 4)).abs().square()
        return float(power[..., high].sum() / power.sum())

    assert high_share(scenarios.PROCESSING["low-pass"](x)) < 0.6 * high_share(x)
    assert scenarios.PROCESSING["band-pass + clip"](x).abs().max() <= 3
    assert high_share(scenarios.PROCESSING["denoised"](x)) < 0.2 * high_share(x)
