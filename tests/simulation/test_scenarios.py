"""Scenarios: the table of SPEC section 4, pairing across levels, and domains that are cached, not redrawn."""

from dataclasses import replace

import pytest
import torch

from cryoshift_core.data import HeldOutLabels, Labelled, Unlabelled
from cryoshift_core.errors import InputError
from cryoshift_core.simulation import scenarios, specimens, structures
from cryoshift_core.simulation.scenarios import FACTORS, SCENARIOS, DatasetConfig

REQUEST = DatasetConfig("in_situ_1", ("TRiC", "apoferritin"), 12, 24, 16.0, "train", tomograms=3)


def make(**changes):
    return scenarios.simulate(replace(REQUEST, **changes), progress=False)


def test_every_factor_has_three_levels_and_the_composites_raise_all_of_them():
    assert len(FACTORS) == 10
    for i in (1, 2, 3):
        composite = SCENARIOS[f"in_situ_{i}"]
        for name, levels in FACTORS.items():
            single = SCENARIOS[f"{name}_{i}"]
            for key, value in levels[i - 1].items():
                assert getattr(single, key) == value == getattr(composite, key)
    assert SCENARIOS["source"].path == "transfer" and SCENARIOS["in_situ_2"].path == "tilt", "no inverse crime"


def test_a_target_comes_apart_from_its_key():
    target, key = make()
    assert isinstance(target, Unlabelled) and isinstance(key, HeldOutLabels)
    assert target.x.shape == (12, 1, 24, 24, 24) and key.y.bincount().tolist() == [6, 6]
    assert key.snr.isfinite().all() and (key.snr > 0).all(), "the realised SNR of every target cube is known"
    assert isinstance(make(scenario="source", split="source"), Labelled)
    median = target.x.flatten(1).median(1).values
    assert median.abs().max() < 1e-5, "normalised per cube"


def test_parts_share_nothing_and_the_same_request_gives_the_same_cubes():
    train, _ = make()
    again, _ = make()
    test, _ = make(split="test")
    other, _ = make(seed=1)
    assert torch.equal(train.x, again.x)
    for different in (test, other):
        assert (train.x - different.x).abs().flatten(1).mean(1).min() > 0.1


def test_poses_are_paired_across_levels(monkeypatch):
    seen = []
    original = specimens.specimens
    monkeypatch.setattr(specimens, "specimens", lambda *a, **k: seen.append(original(*a, **k)) or seen[-1])
    for name in ("crowding_1", "crowding_3", "dose_3"):
        make(scenario=name, tomograms=1)
    for s in seen[1:]:
        assert torch.equal(s.rotation[:, 0], seen[0].rotation[:, 0])
        assert torch.equal(s.template[:, 0], seen[0].template[:, 0])


def test_unseen_molecules_get_the_answer_none_of_these():
    _, key = make(scenario="structure_3", n=60, box=24, voxel_size=16.0, tomograms=1)
    assert 1 <= int((key.y == -1).sum()) <= 15 and set(key.y.tolist()) == {-1, 0, 1}


def test_imbalance():
    labels = scenarios.draw_labels(1100, 3, 10.0, torch.Generator().manual_seed(0))
    counts = labels.bincount().tolist()
    assert sum(counts) == 1100 and counts[0] / counts[2] == pytest.approx(10, rel=0.05)


def test_the_paper_scenario_has_its_snr():
    d = make(scenario="paper", split="source", n=64, tomograms=8)
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


def test_cache_returns_the_same_domain_and_keeps_the_key_apart(tmp_path):
    first, key = scenarios.load_or_simulate(REQUEST, tmp_path, progress=False)
    names = sorted(p.name for p in tmp_path.iterdir())
    assert len(names) == 2 and names[0].endswith(".key.safetensors")
    second, key_again = scenarios.load_or_simulate(REQUEST, tmp_path, progress=False)
    assert torch.equal(first.x, second.x) and torch.equal(key.y, key_again.y)
    assert replace(REQUEST, voxel_size=15.0).file_name != REQUEST.file_name


def test_a_structure_file_that_changed_is_simulated_anew(tmp_path):
    path = tmp_path / "mine.pdb"
    path.write_text("one")
    request = replace(REQUEST, classes=("TRiC", str(path)))
    before = request.file_name
    assert request.file_name == before
    path.write_text("two")
    assert request.file_name != before


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"scenario": "in_situ_9"}, "Unknown scenario 'in_situ_9'"),
        ({"classes": ()}, "at least one class"),
        ({"n": 1}, "1 cubes of 2 classes"),
        ({"classes": ("ribosome_80S",), "box": 24, "voxel_size": 8.0}, "at least"),
        ({"classes": ("ribosom_80S",)}, "ribosome_80S"),
    ],
)
def test_bad_requests_are_refused_in_one_sentence(changes, message):
    with pytest.raises(InputError, match=message) as error:
        make(**changes)
    assert "\n" not in str(error.value)


def test_a_background_has_room_for_a_particle_and_no_key(tmp_path):
    made = scenarios.load_or_simulate(replace(REQUEST, split="background"), tmp_path, progress=False)
    assert isinstance(made, Unlabelled) and made.x.shape == (12, 1, 24, 24, 24)
    again = scenarios.load_or_simulate(replace(REQUEST, split="background"), tmp_path, progress=False)
    assert torch.equal(made.x, again.x) and len(list(tmp_path.glob("*"))) == 1
    generator = torch.Generator().manual_seed(0)
    bank = specimens.templates(("TRiC", "apoferritin"), 16.0, 24, generator=generator)
    empty = specimens.specimens(torch.full((60,), -1), bank, generator=generator, crowding=0.3, offset=0.0)
    there = empty.template[:, 1:] >= 0
    assert there.float().mean() > 0.5 and (empty.template[:, 0] == -1).all()
    reach = 0.85 * (bank.radius[empty.template[:, 1:].clamp_min(0)] + bank.radius.mean())
    assert (empty.shift[:, 1:].norm(dim=-1) > reach)[there].all()


def test_a_turned_tilt_axis_is_another_domain_and_no_turn_is_the_old_one():
    plain, turned = (replace(REQUEST, split="source", scenario="source", tilt_axis=a) for a in (0.0, 40.0))
    assert plain.file_name == replace(plain, tilt_axis=0.0).file_name != turned.file_name
    power = [
        torch.fft.rfftn(scenarios.simulate(r, progress=False).x[:, 0], dim=(1, 2, 3)).abs().mean(0)
        for r in (plain, turned)
    ]
    assert power[0][10, 0, 1] < 0.2 * power[0][1, 0, 10], "the wedge is missing about the beam"
    # z, y, x = 8, 6, 5 lies on the plane of beam and turned axis, 8, -6, 5 at 46 degrees from the untilted section
    assert power[1][8, -6, 5] > 20 * power[1][8, 6, 5], "and turns with the axis, from y towards x"
    assert power[0][8, -6, 5] == pytest.approx(power[0][8, 6, 5].item(), rel=0.5, abs=1)
