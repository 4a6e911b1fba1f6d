"""Simulated datasets: pairing across scenarios, files keyed by code, and labels that are kept apart."""

import logging
import sys
from dataclasses import replace

import pytest
import torch

import cryoshift_core
from cryoshift_core.data import UNKNOWN, HeldOutLabels, Labelled, Unlabelled
from cryoshift_core.errors import InputError
from cryoshift_core.simulation import datasets, scenarios, specimens
from cryoshift_core.simulation.datasets import DatasetConfig
from cryoshift_core.simulation.scenarios import Factor, changed, register_factor, scenario
from cryoshift_core.support import runtime

CONFIG = DatasetConfig("in_situ_1", ("TRiC", "apoferritin"), 12, 24, 16.0, "train", tomograms=3)
SOURCE = replace(CONFIG, scenario="source", split="source")


def target(folder=None, **changes):
    return datasets.simulate_target(replace(CONFIG, **changes), folder=folder, progress=False)


def test_each_function_returns_one_type_and_targets_have_no_labels(tmp_path):
    made = target()
    assert type(made) is Unlabelled and not hasattr(made, "y")
    assert made.x.shape == (12, 1, 24, 24, 24) and made.name == "in_situ_1@2"
    assert made.x.flatten(1).median(1).values.abs().max() < 1e-5, "normalised"
    assert type(datasets.simulate_source(SOURCE, progress=False)) is Labelled
    labels = datasets.load_labels(CONFIG)
    assert type(labels) is HeldOutLabels and labels.y.bincount().tolist() == [6, 6] and len(labels) == len(made)


def test_labels_without_a_folder_are_those_of_the_file_and_match_the_source_order(tmp_path):
    drawn = datasets.load_labels(CONFIG)
    filed = datasets.load_labels(CONFIG, folder=tmp_path, progress=False)
    assert torch.equal(drawn.y, filed.y) and drawn.classes == filed.classes == ("TRiC", "apoferritin")
    assert filed.snr.isfinite().all() and (filed.snr > 0).all(), "the realised SNR of every subtomogram is known"
    assert len(list(tmp_path.glob("*.safetensors"))) == 2, "the target was simulated to get there"


def test_labels_name_the_molecule_that_is_there():
    """Noise-free and centred, the mean of each label's subtomograms resembles that label's molecule most."""
    clean = changed(scenario("source"), name="clean", snr=(50.0, 50.0), offset=0.0, path="tilt")
    config = replace(CONFIG, scenario=clean, n=40, classes=("ribosome_80S", "apoferritin"))
    x, y = datasets.simulate_target(config, progress=False).x, datasets.load_labels(config).y
    wide = (x[:, 0] > 2).float().mean((1, 2, 3))  # the ribosome is twice as wide
    assert wide[y == 0].min() > wide[y == 1].max()


def test_unseen_molecules_are_labelled_unknown():
    config = replace(CONFIG, scenario="structure_3", n=60)
    y = datasets.load_labels(config).y
    assert 0 < (y == UNKNOWN).sum() < 20 and set(y.unique().tolist()) == {UNKNOWN, 0, 1}


def test_the_unseen_molecule_rotates_and_is_the_one_that_is_imaged(monkeypatch):
    config = replace(CONFIG, scenario="structure_3", box=32, voxel_size=12.0)
    shown = []
    original = specimens.templates
    monkeypatch.setattr(specimens, "templates", lambda *a, **k: shown.append(k["extras"]) or original(*a, **k))
    names = [datasets.unseen_molecule(replace(config, seed=seed)) for seed in range(4)]
    assert len(set(names)) == 4, "before, it was subunit_50S for every seed"
    target(**{"scenario": "structure_3", "box": 32, "voxel_size": 12.0, "seed": 2})
    assert shown == [(names[2],)]
    assert datasets.unseen_molecule(CONFIG) is None
    given = changed(scenario("structure_3"), name="given", unseen_molecule="RuvAB")
    assert datasets.unseen_molecule(replace(config, scenario=given)) == "RuvAB"
    with pytest.raises(InputError, match="expected a molecule that is no class, got 'RuvAB'"):
        datasets.unseen_molecule(replace(config, scenario=given, classes=("TRiC", "RuvAB")))


def test_splits_share_nothing_and_equal_configurations_give_equal_data():
    train = target()
    assert torch.equal(train.x, target().x)
    for other in (target(split="test"), target(seed=1)):
        assert (train.x - other.x).abs().flatten(1).mean(1).min() > 0.1


def test_poses_are_paired_across_levels(monkeypatch):
    seen = []
    original = specimens.specimens
    monkeypatch.setattr(specimens, "specimens", lambda *a, **k: seen.append(original(*a, **k)) or seen[-1])
    for name in ("crowding_1", "crowding_3", "dose_3"):
        target(scenario=name, tomograms=1)
    for s in seen[1:]:
        assert torch.equal(s.rotation[:, 0], seen[0].rotation[:, 0])
        assert torch.equal(s.template[:, 0], seen[0].template[:, 0])


def test_a_folder_returns_the_same_data_and_says_so(tmp_path, caplog):
    with caplog.at_level(logging.INFO, "cryoshift_core"):
        first = target(tmp_path)
        assert not caplog.messages, "nothing was loaded"
        second = target(tmp_path)
    assert torch.equal(first.x, second.x) and torch.equal(first.groups, second.groups)
    assert [m.startswith(f"loaded from {tmp_path}") for m in caplog.messages] == [True]
    source = datasets.simulate_source(SOURCE, folder=tmp_path, progress=False)
    assert torch.equal(source.y, datasets.simulate_source(SOURCE, folder=tmp_path, progress=False).y)


def test_a_change_of_code_makes_new_data(tmp_path, monkeypatch):
    before = CONFIG.file_name
    target(tmp_path)
    names = []

    def digest(*parts):
        names.extend(parts)
        return "another version of the code"

    monkeypatch.setattr(runtime, "code_digest", digest)
    assert CONFIG.file_name != before
    target(tmp_path)
    assert len(list(tmp_path.glob("*.safetensors"))) == 4, "two datasets, each with its labels"
    assert {"simulation", "fourier", "data"} <= set(names)


def test_every_field_of_the_configuration_changes_the_file_name(tmp_path):
    changes = {
        "scenario": "dose_1", "classes": ("TRiC",), "n": 13, "box": 26, "voxel_size": 15.0, "split": "test",
        "tomograms": 4, "seed": 1, "tilt_axis": 10.0,
    }  # fmt: skip
    assert set(changes) == set(DatasetConfig.__dataclass_fields__)
    names = {CONFIG.file_name, *(replace(CONFIG, **{k: v}).file_name for k, v in changes.items())}
    assert len(names) == 1 + len(changes)


def test_a_structure_file_that_changed_is_simulated_anew(tmp_path):
    path = tmp_path / "mine.pdb"
    path.write_text("one")
    config = replace(CONFIG, classes=("TRiC", str(path)))
    before = config.file_name
    assert config.file_name == before
    path.write_text("two")
    assert config.file_name != before


OPENED: list[str] = []


@pytest.fixture
def opened():
    """Paths that Python opens during the test."""
    if not OPENED:
        OPENED.append("")
        sys.addaudithook(lambda event, arguments: OPENED.append(str(arguments[0])) if event == "open" else None)
    start = len(OPENED)
    yield lambda: [path for path in OPENED[start:] if path.endswith(".labels.safetensors")]


def test_load_labels_alone_opens_the_label_file(tmp_path, opened):
    target(tmp_path)
    target(tmp_path)
    datasets.simulate_background(replace(CONFIG, split="background"), folder=tmp_path, progress=False)
    assert not opened()
    datasets.load_labels(CONFIG, folder=tmp_path)
    assert len(opened()) == 1, "the audit hook sees it"


def test_lost_labels_are_simulated_again(tmp_path):
    expected = datasets.load_labels(CONFIG, folder=tmp_path, progress=False)
    next(tmp_path.glob("*.labels.safetensors")).unlink()
    again = datasets.load_labels(CONFIG, folder=tmp_path, progress=False)
    assert torch.equal(again.y, expected.y) and torch.equal(again.snr, expected.snr)


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"scenario": "in_situ_9"}, "Unknown scenario 'in_situ_9'; did you mean 'in_situ_1'"),
        ({"classes": ()}, "expected at least one class"),
        ({"n": 1}, "got 2 classes and 1 subtomograms"),
        ({"classes": ("ribosome_80S",), "box": 24, "voxel_size": 8.0}, "Use a box of at least"),
        ({"classes": ("ribosom_80S",)}, "did you mean 'ribosome_80S'"),
        ({"split": "source"}, "simulate_target: expected split train or test, got 'source'. Use simulate_source"),
        ({"split": "tests"}, "expected split source, validation, train, test or background, got 'tests'"),
    ],
)
def test_bad_configurations_are_refused_in_one_line(changes, message):
    with pytest.raises(InputError, match=message) as error:
        target(**changes)
    assert "\n" not in str(error.value)


def test_a_background_has_room_for_a_particle_and_no_labels(tmp_path):
    config = replace(CONFIG, split="background")
    made = datasets.simulate_background(config, folder=tmp_path, progress=False)
    assert type(made) is Unlabelled and made.x.shape == (12, 1, 24, 24, 24)
    again = datasets.simulate_background(config, folder=tmp_path, progress=False)
    assert torch.equal(made.x, again.x) and len(list(tmp_path.glob("*.safetensors"))) == 1
    with pytest.raises(InputError, match="load_labels: expected split train or test, got 'background'"):
        datasets.load_labels(config, folder=tmp_path)
    generator = torch.Generator().manual_seed(0)
    bank = specimens.templates(("TRiC", "apoferritin"), 16.0, 24, generator=generator)
    empty = specimens.specimens(torch.full((60,), -1), bank, generator=generator, crowding=0.3, offset=0.0)
    there = empty.template[:, 1:] >= 0
    assert there.float().mean() > 0.5 and (empty.template[:, 0] == -1).all()
    reach = 0.85 * (bank.radius[empty.template[:, 1:].clamp_min(0)] + bank.radius.mean())
    assert (empty.shift[:, 1:].norm(dim=-1) > reach)[there].all()


def test_the_tilt_axis_turns_the_missing_wedge():
    taper = torch.hann_window(SOURCE.box)  # against leakage into the wedge from the faces of the box
    window = taper[:, None, None] * taper[:, None] * taper
    power = [
        torch.fft.rfftn(
            datasets.simulate_source(replace(SOURCE, tilt_axis=a), progress=False).x[:, 0] * window, dim=(1, 2, 3)
        ).abs().mean(0)
        for a in (0.0, 40.0)
    ]  # fmt: skip
    assert power[0][10, 0, 1] < 0.2 * power[0][1, 0, 10], "the wedge is missing about the beam"
    # z, y, x = 8, 6, 5 lies on the plane of beam and rotated axis, 8, -6, 5 at 46 degrees from the untilted section
    assert power[1][8, -6, 5] > 20 * power[1][8, 6, 5], "and turns with the axis, from y towards x"
    assert power[0][8, -6, 5] == pytest.approx(power[0][8, 6, 5].item(), rel=0.5, abs=1)


def test_a_scenario_object_stands_for_a_name(tmp_path):
    named, given = target(), target(scenario=scenario("in_situ_1"))
    assert torch.equal(named.x, given.x) and named.name == given.name
    thick = changed(scenario("in_situ_1"), name="thick", thickness=(300.0, 300.0))
    made = target(tmp_path, scenario=thick)
    assert made.name == "thick" and not torch.equal(made.x, named.x)
    assert all(path.name.startswith("thick_train_12x24_seed0_") for path in tmp_path.iterdir())


def test_the_short_functions_give_the_same_data_as_a_configuration(tmp_path):
    how = dict(box=24, voxel_size=16.0, tomograms=3)
    classes = ["TRiC", "apoferritin"]
    source = cryoshift_core.simulate_source(classes, 12, **how, progress=False)
    assert type(source) is Labelled
    assert torch.equal(source.x, datasets.simulate_source(SOURCE, progress=False).x)
    made = cryoshift_core.simulate_target("in_situ_1", classes, 12, **how, folder=tmp_path, progress=False)
    assert type(made) is Unlabelled and torch.equal(made.x, target().x)
    labels = cryoshift_core.load_labels("in_situ_1", classes, 12, **how, folder=tmp_path)
    assert type(labels) is HeldOutLabels and torch.equal(labels.y, datasets.load_labels(CONFIG).y)
    assert len(labels.labelled(made)) == 12


@pytest.fixture
def factors():
    kept = dict(scenarios.FACTORS)
    yield
    scenarios.FACTORS.clear()
    scenarios.FACTORS.update(kept)


def hot_pixels(setting, x, generator):
    """A fraction of voxels set to the largest grey value."""
    share = setting.value("hot_pixels")
    if not share:
        return x
    hot = torch.rand(x.shape, generator=generator, device=x.device) < share
    return torch.where(hot, x.amax(), x)


def test_a_registered_factor_is_one_entry(tmp_path, factors):
    before = target()
    levels = ({"hot_pixels": 0.001}, {"hot_pixels": 0.01}, {"hot_pixels": 0.1, "misalignment": 5.0})
    register_factor("hot_pixels", Factor(levels, subtomograms=hot_pixels))
    assert scenario("hot_pixels_3").misalignment == 5.0 and scenario("hot_pixels_2").value("hot_pixels") == 0.01
    plain, hot = target(scenario=scenario("source")), target(tmp_path, scenario="hot_pixels_3")
    assert (hot.x > 3).float().mean() > 5 * (plain.x > 3).float().mean()
    assert torch.equal(target().x, before.x), "other scenarios stay as they are"
    name = replace(CONFIG, scenario="hot_pixels_3").file_name
    register_factor("hot_pixels", Factor(levels, subtomograms=lambda s, x, g: x))
    assert replace(CONFIG, scenario="hot_pixels_3").file_name != name, "another function makes other data"
    with pytest.raises(InputError, match="did you mean 'hot_pixels_1'"):
        scenario("hot_pixel_1")
    with pytest.raises(InputError, match="built-in"):
        register_factor("dose", Factor(levels))


def test_a_voxel_size_without_a_decimal_point_is_kept_and_found_again(tmp_path):
    config = replace(CONFIG, voxel_size=16, split="source", scenario="source")
    made = datasets.simulate_source(config, folder=tmp_path, progress=False)
    again = datasets.simulate_source(config, folder=tmp_path, progress=False)
    assert again.voxel_size == made.voxel_size == 16.0 and torch.equal(again.x, made.x)


def test_a_neighbour_that_is_a_class_too_is_in_the_bank_once(monkeypatch):
    banks, original = [], specimens.templates
    monkeypatch.setattr(specimens, "templates", lambda *a, **k: banks.append(original(*a, **k)) or banks[-1])
    config = replace(CONFIG, scenario="in_situ_3", classes=("TRiC", "membrane"), n=6, tomograms=1)
    datasets.simulate_target(config, progress=False)
    (bank,) = banks
    assert bank.names.count("membrane") == 1 and bank.names[:3] == ("TRiC", "membrane", "gold")


def test_the_file_of_an_unseen_molecule_is_part_of_the_name(tmp_path):
    path = tmp_path / "mine.pdb"
    config = replace(CONFIG, scenario=scenarios.changed(scenario("in_situ_3"), unseen_molecule=str(path)))
    path.write_text("one")
    name = config.file_name
    path.write_text("two")
    assert config.file_name != name
