"""Experimental input: from files to subtomograms."""

import numpy as np
import pytest
import torch
from helpers.files import says

from cryoshift_core.application import pipeline, predictions, target_data
from cryoshift_core.data import crop, normalize
from cryoshift_core.errors import InputError, InputWarning
from cryoshift_core.simulation import datasets
from cryoshift_core.tomography import mrc, star
from cryoshift_core.tomography.volumes import ContrastGuess, Particles
from data_fetch import readers

CLASSES = ("TRiC", "apoferritin")


def from_stack(path, **options):
    particles = readers.read_subtomograms(path, options.get("box"))
    return target_data.from_subtomograms(particles, CLASSES, **options)


def test_dark_subtomograms_are_negated_and_a_wrong_contrast_gives_a_warning(tmp_path, molecules):
    mrc.write_mrc(tmp_path / "s.mrcs", -molecules, 16.0)
    data = from_stack(tmp_path / "s.mrcs")
    assert data.contrast == "dark" and data.subtomograms.voxel_size == pytest.approx(16.0)
    expected = normalize(torch.from_numpy(molecules)[:, None])
    torch.testing.assert_close(data.subtomograms.x, expected)
    forced = from_stack(tmp_path / "s.mrcs", contrast="bright")
    assert any("look dark" in w for w in forced.warnings)


def test_wide_subtomograms_are_cropped_in_fourier_space(tmp_path, molecules):
    wide = np.pad(molecules[:3], ((0, 0), (18, 18), (18, 18), (18, 18)))
    mrc.write_mrc(tmp_path / "s.mrcs", wide + 0.01 * np.random.default_rng(0).normal(size=wide.shape), 16.0)
    data = from_stack(tmp_path / "s.mrcs", contrast="bright")
    assert data.subtomograms.x.shape[-1] == target_data.LARGEST
    assert data.subtomograms.voxel_size == pytest.approx(16.0 * 60 / target_data.LARGEST)
    assert from_stack(tmp_path / "s.mrcs", contrast="bright", box=24).subtomograms.x.shape[-1] == 24


@pytest.mark.parametrize(
    "classes, pixel, box, expected",
    [
        (("membrane", "ice"), 40.0, 0, (24, 40.0)),
        (("apoferritin", "ice"), 10.0, 0, (24, 10.0)),
        (("ribosome_80S", "ice"), 10.0, 0, (40, 10.0)),
        (("ribosome_80S", "ice"), 10.0, 36, (36, 10.0)),
    ],
)
def test_the_box_follows_from_the_structures(classes, pixel, box, expected):
    assert target_data.choose_box(classes, pixel, box) == expected


def test_a_fine_pixel_grows_instead_of_the_box():
    box, pixel = target_data.choose_box(("ribosome_80S", "ice"), 2.0)
    assert box == 48 and 5 < pixel < 12


def test_a_given_box_smaller_than_the_structure_is_refused():
    with pytest.raises(InputError, match="at least 31 voxels.*'ribosome_80S', which is 303 A across, got 24"):
        target_data.choose_box(("ribosome_80S", "ice"), 10.0, 24)


@pytest.mark.parametrize(
    "text, message",
    [
        ("TRiC", "at least two classes, got 'TRiC'"),
        ("TRiC, TRiC", "got TRiC twice"),
        ("a/TRiC.pdb,TRiC", "got TRiC twice"),
    ],
)
def test_classes_that_cannot_be_told_apart_are_refused(text, message):
    with pytest.raises(InputError, match=message):
        target_data.read_classes(text, CLASSES)


def test_boxes_over_the_border_are_left_out_with_a_warning(tmp_path):
    tomogram = np.random.default_rng(0).normal(size=(40, 60, 60)).astype(np.float32)
    mrc.write_mrc(tmp_path / "t.mrc", tomogram, 16.0)
    at = [(30, 30, 20), (1, 30, 20), (31.5, 28.25, 19), (30, 59, 20)]
    table = {f"rlnCoordinate{axis}": [p[i] for p in at] for i, axis in enumerate("XYZ")}
    star.write_star(tmp_path / "c.star", {"particles": table})
    volume = readers.read_tomogram(tmp_path / "t.mrc")
    data = target_data.from_tomogram(volume, readers.read_picks(tmp_path / "c.star", volume), CLASSES, box=24)
    assert len(data) == 4 and data.kept.tolist() == [0, 2] and "2 of 4 boxes" in " ".join(data.warnings)


def test_background_boxes_are_prepared_like_the_subtomograms(tmp_path, molecules):
    mrc.write_mrc(tmp_path / "s.mrcs", -molecules, 16.0)
    mrc.write_mrc(tmp_path / "ice.mrcs", -molecules[:4], 16.0)
    data = from_stack(tmp_path / "s.mrcs")
    ice = target_data.prepare_background(readers.read_subtomograms(tmp_path / "ice.mrcs"), data)
    assert ice.shape == (4, 1, 24, 24, 24)
    assert torch.corrcoef(torch.stack([ice.flatten(), data.subtomograms.x[:4].flatten()]))[0, 1] > 0.99, (
        "negated as they were"
    )
    mrc.write_mrc(tmp_path / "small.mrcs", molecules[:4, 4:20, 4:20, 4:20], 16.0)
    with pytest.raises(InputError, match="box"):
        target_data.prepare_background(readers.read_subtomograms(tmp_path / "small.mrcs"), data)


def test_a_wrong_voxel_size_shows_in_the_width_of_the_average_particle():
    classes = ("TRiC", "apoferritin")

    def x(pixel, scenario, part):
        config = datasets.DatasetConfig(scenario, classes, 150, 32, pixel, part, tomograms=8, seed=3)
        simulate = datasets.simulate_source if part == "source" else datasets.simulate_target
        return simulate(config, progress=False).x

    source = x(12.0, "broad", "source")
    for pixel in (8.5, 17.0):  # what the particles really have, while the file says 12
        (warning,) = target_data.voxel_size_warnings(source, x(pixel, "in_situ_1", "train"), 12.0, classes)
        suggested = float(warning.split("voxel size is ")[1].split()[0])
        assert suggested == pytest.approx(pixel, rel=0.08), warning
    assert target_data.voxel_size_warnings(source, x(12.0, "in_situ_1", "train"), 12.0, classes) == []
    assert target_data.voxel_size_warnings(source, x(17.0, "in_situ_1", "train"), 12.0, ("membrane", "ice")) == []
    noise = torch.randn(50, 1, 32, 32, 32, generator=torch.Generator().manual_seed(0))
    assert target_data.voxel_size_warnings(source, noise, 12.0, classes) == []


def test_small_and_unequal_class_fractions_give_warnings():
    assert target_data.class_fraction_warnings([0.4, 0.3, 0.3], ("a", "b", "c"), 600) == []
    few = " ".join(target_data.class_fraction_warnings([0.5, 0.25, 0.25], ("a", "b", "c"), 50))
    assert "50 subtomograms for 3 classes" in few and "2 %" not in few
    rare = " ".join(target_data.class_fraction_warnings([0.885, 0.1, 0.015, 0.0], ("a", "b", "c", "d"), 600))
    assert "c (1.5%), d (0.0%)" in rare and "59 times" in rare
    many = tuple(f"m{k}" for k in range(21))
    assert any("no more than 20" in line for line in target_data.class_fraction_warnings([1 / 21] * 21, many, 10**4))


@pytest.mark.parametrize("sign", [1, -1])
def test_read_subtomograms_gives_normalised_bright_unlabelled_subtomograms(tmp_path, molecules, sign):
    mrc.write_mrc(tmp_path / "mine.mrcs", sign * molecules, 16.0)
    found = target_data.read_subtomograms(tmp_path / "mine.mrcs")
    assert found.contrast == "bright" and found.name == "mine" and found.voxel_size == pytest.approx(16.0)
    torch.testing.assert_close(found.x, normalize(torch.from_numpy(molecules)[:, None]))
    given = target_data.read_subtomograms(tmp_path / "mine.mrcs", voxel_size=12.0, contrast="dark", box=20)
    assert given.voxel_size == 12.0 and given.x.shape[-1] == 20
    torch.testing.assert_close(given.x, normalize(crop(-sign * torch.from_numpy(molecules)[:, None], 20)))


def test_read_subtomograms_refuses_an_undecidable_contrast_with_a_way_out(tmp_path):
    noise = np.random.default_rng(0).normal(size=(12, 16, 16, 16)).astype(np.float32)
    mrc.write_mrc(tmp_path / "noise.mrcs", noise, 16.0)
    says(lambda: target_data.read_subtomograms(tmp_path / "noise.mrcs"), "contrast", "bright or dark")
    assert len(target_data.read_subtomograms(tmp_path / "noise.mrcs", contrast="bright")) == 12


def test_extract_subtomograms_cuts_them_around_the_listed_positions(tomogram_folder, molecules):
    files = tomogram_folder / "tomo_7.mrc", tomogram_folder / "particles.star"
    found = target_data.extract_subtomograms(*files, box=24)
    assert len(found) == 60 and found.name == "tomo_7" and found.voxel_size == pytest.approx(16.0)
    torch.testing.assert_close(found.x[:24], normalize(torch.from_numpy(molecules)[:, None]))
    says(lambda: target_data.extract_subtomograms(*files, box=60), "box of 60 voxels", "smaller box")


def test_extract_subtomograms_refuses_an_undecidable_contrast(tmp_path):
    noise = np.random.default_rng(0).normal(size=(40, 40, 40)).astype(np.float32)
    mrc.write_mrc(tmp_path / "t.mrc", noise, 16.0)
    (tmp_path / "c.txt").write_text("20 20 20\n")
    files = tmp_path / "t.mrc", tmp_path / "c.txt"
    says(lambda: target_data.extract_subtomograms(*files, box=16), "t.mrc", "bright or dark")
    assert len(target_data.extract_subtomograms(*files, box=16, contrast="bright")) == 1


def test_target_data_is_computed_on_the_device_of_its_input(molecules):
    """A default device of "meta" shows each tensor that is made without a device."""
    raw = torch.from_numpy(molecules)[:, None]
    particles = Particles({"rlnImageName": ["a"] * 24}, subtomograms=raw, voxel_size=16.0)
    with torch.device("meta"):
        data = target_data.from_subtomograms(particles, CLASSES, contrast="bright")
        boxes = target_data.prepare_background(particles, data)
        scale = target_data.apparent_scale(data.subtomograms.x, data.subtomograms.x)
    assert boxes.device.type == "cpu" and data.subtomograms.groups.device.type == "cpu"
    assert scale[0] == pytest.approx(1.0)


def tomogram_with(folder, masked, rows):
    """A tomogram of noise with a masked half, x below 24, where asked for, and a STAR of positions x, y, z."""
    volume = np.random.default_rng(0).normal(size=(40, 48, 48)).astype(np.float32)
    volume[:, :, :24] *= not masked
    mrc.write_mrc(folder / "t.mrc", volume, 10.0)
    star.write_star(
        folder / "c.star", {"particles": {f"rlnCoordinate{a}": [r[i] for r in rows] for i, a in enumerate("XYZ")}}
    )
    return folder / "t.mrc", folder / "c.star"


GOOD = [(34, 24, 20), (34, 25, 20), (34, 26, 20), (34, 27, 20), (34, 28, 20)]


@pytest.mark.parametrize(
    "bad, masked, word",
    [
        ((34, 24, 41), False, "outside the tomogram"),
        ((34, "nan", 20), False, "without a finite position"),
        ((12, 24, 20), True, "in a masked region"),
        ((34, 24, 2), False, "over the border"),
    ],
)
def test_one_bad_row_is_not_classified_and_named_by_its_row(tmp_path, bad, masked, word):
    tomogram, coordinates = tomogram_with(tmp_path, masked, [*GOOD, bad])
    data = pipeline.read_target(CLASSES, tomogram=tomogram, coordinates=coordinates, box=18, contrast="bright")
    assert data.kept.tolist() == [0, 1, 2, 3, 4] and len(data) == 6 and torch.isfinite(data.subtomograms.x).all()
    assert any(word in sentence and "row 6" in sentence for sentence in data.warnings), data.warnings
    probabilities = torch.full((5, 2), 0.5)
    (path, *_) = predictions.write(tmp_path / "out", data, probabilities, CLASSES)
    table = star.read_star(path)["particles"]
    assert table["csClass"][5] == "not_classified" and "not_classified" not in table["csClass"][:5]
    if not masked:  # positions of bad rows keep no box away, and do no harm
        boxes, at = target_data.cut_background(data, 20, torch.Generator().manual_seed(0), tolerance=None)
        assert len(boxes) and np.isfinite(at).all()


DO = ("Look at", "set ", "Set ", "Give more", "Join", "compare", "check", "may_be_absent", "Nothing to do")


def test_each_warning_says_what_to_do(tmp_path):
    """Of contrast, number, border, mask, width and fractions: a sentence that only states a fact leaves one alone."""
    tomogram, coordinates = tomogram_with(tmp_path, True, [*GOOD, (34, 24, 2), (12, 24, 20)])
    data = pipeline.read_target(CLASSES, tomogram=tomogram, coordinates=coordinates, box=18, contrast="bright")
    found = [sentence for sentence in data.warnings if sentence not in data.of_readers]
    unsure, dark = (ContrastGuess(sign, 0.0, "skewness") for sign in ("unsure", "dark"))
    found += target_data.contrast_warnings("bright", unsure) + target_data.contrast_warnings("bright", dark)
    found += target_data.class_fraction_warnings([0.01, 0.59, 0.4], ["a", "b", "c"], 30)
    found += target_data.class_fraction_warnings([1 / 21] * 21, [str(k) for k in range(21)], 9999)
    y, x, z = np.mgrid[-9:9, -9:9, -9:9]
    balls = [torch.from_numpy(np.exp(-(z**2 + y**2 + x**2) / (2 * s**2))).float()[None, None] for s in (2.0, 3.5)]
    found += target_data.voxel_size_warnings(*balls, 10.0, ["TRiC", "ice"])
    assert len(found) >= 10 and {"unsure", "dark"} & set(" ".join(found).split()), found
    for sentence in found:
        assert any(word in sentence for word in DO), sentence


def test_rows_are_those_of_the_file_also_where_it_lists_two_tomograms(tmp_path):
    tomogram, coordinates = tomogram_with(tmp_path, False, [(34, 24, 41), *GOOD, (34, 24, 41)])
    table = star.read_star(coordinates)["particles"] | {"rlnTomoName": ["other", *["t"] * 6]}
    star.write_star(coordinates, {"particles": table})
    data = pipeline.read_target(CLASSES, tomogram=tomogram, coordinates=coordinates, box=18, contrast="bright")
    assert len(data) == 6 and any("row 7 (outside" in sentence for sentence in data.warnings)


def test_a_bad_subtomogram_is_not_classified_and_the_others_keep_their_rows(tmp_path, molecules):
    spoiled = np.where(np.arange(24)[:, None, None, None] == 5, 7.0, molecules).astype(np.float32)
    mrc.write_mrc(tmp_path / "s.mrcs", spoiled[:, None], 16.0)
    data = pipeline.read_target(CLASSES, subtomograms=tmp_path / "s.mrcs", contrast="bright")
    assert data.kept.tolist() == [row for row in range(24) if row != 5] and len(data) == 24
    assert any("not classified: row 6 " in sentence for sentence in data.warnings)
    with pytest.warns(InputWarning, match="row 6 "):
        assert len(target_data.read_subtomograms(tmp_path / "s.mrcs", contrast="bright")) == 23


def test_names_below_a_project_folder_are_read_for_target_and_background(tmp_path, molecules):
    (tmp_path / "Extract/job1").mkdir(parents=True)
    mrc.write_mrc(tmp_path / "Extract/job1/s.mrcs", molecules[:, None], 16.0)
    names = [f"{i + 1}@Extract/job1/s.mrcs" for i in range(24)]
    path = tmp_path / "Extract/job1/p.star"
    star.write_star(path, {"particles": {"rlnImageName": names}})
    data = pipeline.read_target(CLASSES, subtomograms=path, contrast="bright", project_folder=tmp_path)
    assert len(data) == 24 and data.warnings == data.warnings[-1:], "few subtomograms, nothing else"
    boxes = pipeline.background_boxes(data, path, n=10, project_folder=tmp_path)
    assert len(boxes.spike_ins) == 10
    assert len(target_data.read_subtomograms(path, contrast="bright", project_folder=tmp_path)) == 24


def test_a_mdoc_beside_the_tomogram_is_compared_with_the_given_tilts(tmp_path):
    (tmp_path / "TS_1.mrc.mdoc").write_text("[ZValue = 0]\nTiltAngle = -51\n[ZValue = 1]\nTiltAngle = 48\n")
    tomogram = tmp_path / "TS_1_10.00Apx.mrc"
    assert pipeline.tilt_warnings(tomogram, 51.0, 0.0) == pipeline.tilt_warnings("", 60.0, 0.0) == []
    assert pipeline.tilt_warnings(tmp_path / "TS_2.mrc", 60.0, 0.0) == []
    assert ["set 51" in sentence for sentence in pipeline.tilt_warnings(tomogram, 60.0, 0.0)] == [True]
