"""Experimental input: from files to subtomograms, and from there to predictions by notebook 06."""

import math

import nbformat
import numpy as np
import papermill
import pytest
import starfile
import torch
from helpers.files import ROOT

import data_fetch
from cryoshift_core.application import target_data
from cryoshift_core.course import runner
from cryoshift_core.data import normalize
from cryoshift_core.errors import InputError
from cryoshift_core.simulation import datasets, imaging, specimens
from cryoshift_core.simulation.optics import Optics
from cryoshift_core.tomography import mrc, star
from data_fetch import readers

CLASSES = ("TRiC", "apoferritin")
NOTEBOOK = ROOT / "notebooks" / "06_your_own_subtomograms.ipynb"


@pytest.fixture(scope="module")
def cubes():
    """24 noisy subtomograms (24, 24, 24) of two molecules at 16 A, protein bright, raw grey values."""
    g = torch.Generator().manual_seed(0)
    bank = specimens.templates(CLASSES, 16.0, 24, generator=g)
    specimen = specimens.specimens(torch.arange(24) % 2, bank, generator=g)
    return imaging.image_by_transfer(specimen, bank, Optics(voxel_size=16.0), generator=g).x[:, 0].numpy()


def from_stack(path, **options):
    particles = readers.read_subtomograms(path, options.get("box"))
    return target_data.from_subtomograms(particles, CLASSES, **options)


def test_dark_subtomograms_are_negated_and_a_wrong_contrast_gives_a_warning(tmp_path, cubes):
    mrc.write_mrc(tmp_path / "s.mrcs", -cubes, 16.0)
    data = from_stack(tmp_path / "s.mrcs")
    assert data.contrast == "dark" and data.subtomograms.voxel_size == pytest.approx(16.0)
    expected = normalize(torch.from_numpy(cubes)[:, None])
    torch.testing.assert_close(data.subtomograms.x, expected)
    forced = from_stack(tmp_path / "s.mrcs", contrast="bright")
    assert any("look dark" in w for w in forced.warnings)


def test_wide_subtomograms_are_cropped_in_fourier_space(tmp_path, cubes):
    wide = np.pad(cubes[:3], ((0, 0), (18, 18), (18, 18), (18, 18)))
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


def test_background_boxes_are_prepared_like_the_subtomograms(tmp_path, cubes):
    mrc.write_mrc(tmp_path / "s.mrcs", -cubes, 16.0)
    mrc.write_mrc(tmp_path / "ice.mrcs", -cubes[:4], 16.0)
    data = from_stack(tmp_path / "s.mrcs")
    ice = target_data.prepare_background(readers.read_subtomograms(tmp_path / "ice.mrcs"), data)
    assert ice.shape == (4, 1, 24, 24, 24)
    assert torch.corrcoef(torch.stack([ice.flatten(), data.subtomograms.x[:4].flatten()]))[0, 1] > 0.99, (
        "negated as they were"
    )
    mrc.write_mrc(tmp_path / "small.mrcs", cubes[:4, 4:20, 4:20, 4:20], 16.0)
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


def run_notebook(tmp_path, monkeypatch, **parameters):
    monkeypatch.chdir(tmp_path)
    return runner.execute(NOTEBOOK, tmp_path / "out", {"profile": "smoke", "device": "cpu", **parameters})


@pytest.mark.slow
def test_the_notebook_classifies_a_stack_with_a_structure_from_a_file(tmp_path, monkeypatch, cubes):
    mrc.write_mrc(tmp_path / "mine.mrcs", -cubes, 16.0)
    grid = np.indices((24,) * 3) - 12.0
    ball = np.exp(-(grid[0] ** 2 + grid[1] ** 2 + (grid[2] / 2) ** 2) / 8).astype(np.float32)
    mrc.write_mrc(tmp_path / "rod.mrc", ball, 10.0)
    noise = np.random.default_rng(0).normal(size=(24, 26, 26, 26)).astype(np.float32)
    mrc.write_mrc(tmp_path / "ice.mrcs", noise, 16.0)
    given = {"subtomograms": "mine.mrcs", "classes": "TRiC,apoferritin,rod.mrc", "background": "ice.mrcs"}
    result = run_notebook(tmp_path, monkeypatch, **given, method="mada", seed=3, tilt_axis=20.0, spike_snr=0.5)
    assert result.error == ""
    spikes = (tmp_path / "out" / "spike_in.csv").read_text().splitlines()
    assert spikes[0] == "method,class,cubes,recall" and len(spikes) == 1 + 2 * 3
    assert result.manifest["scores"]["spike_snr"] == pytest.approx(0.5, rel=1e-3)
    rows = starfile.read(tmp_path / "out" / "predictions.star")
    assert rows["rlnImageName"].tolist() == [f"{i + 1:06d}@mine.mrcs" for i in range(24)]
    assert set(rows["csClass"]) <= {"TRiC", "apoferritin", "rod"} and rows["csConfidence"].between(1 / 3, 1).all()
    assert result.manifest["scores"]["contrast"] == "dark"


@pytest.mark.slow
def test_the_notebook_takes_a_tomogram_with_coordinates(tmp_path, monkeypatch):
    sample = data_fetch.sample()
    result = run_notebook(
        tmp_path,
        monkeypatch,
        tomogram=str(sample.tomogram),
        coordinates=str(sample.coordinates),
        classes="membrane,ice",
        pixel_size=39.0,
        contrast="bright",
        box=26,
    )
    assert result.error == ""
    rows = starfile.read(tmp_path / "out" / "predictions.star")
    assert len(rows) == 5377 and set(rows["csClass"]) <= {"membrane", "ice", "not_classified"}


def write_tomogram(folder, cubes, n):
    """A tomogram of n particles on a lattice, 16 A, and their STAR as RELION 5 writes it: A from the centre."""
    rng = np.random.default_rng(0)
    per_row = math.ceil(math.sqrt(n))
    shape = np.array([36, 12 + 26 * per_row, 12 + 26 * per_row])
    volume = rng.normal(size=shape).astype(np.float32) * float(cubes.std())
    lattice = np.array([(18, 19 + 26 * (i // per_row), 19 + 26 * (i % per_row)) for i in range(n)])
    for i, at in enumerate(lattice):
        z, y, x = at - 12
        volume[z : z + 24, y : y + 24, x : x + 24] = cubes[i % len(cubes)]
    mrc.write_mrc(folder / "tomo_7.mrc", -volume, 16.0)
    centred = (lattice - shape / 2) * 16.0
    optics = {
        "rlnOpticsGroup": [1],
        "rlnOpticsGroupName": ["og1"],
        "rlnTomoTiltSeriesPixelSize": [4.0],
        "rlnVoltage": [300],
    }
    table = {"rlnTomoName": ["tomo_7"] * n, "rlnTomoParticleId": range(1, n + 1)}
    table |= {f"rlnCenteredCoordinate{a}Angst": centred[:, i].tolist() for a, i in zip("XYZ", (2, 1, 0), strict=True)}
    table |= {f"rlnAngle{name}": rng.uniform(0, 180, n).round(3).tolist() for name in ("Rot", "Tilt", "Psi")}
    table |= {"rlnOpticsGroup": [1] * n, "rlnClassNumber": [3] * n}
    general = {"rlnTomoSubTomosAre2DStacks": [1]}
    path = folder / "particles.star"
    star.write_star(path, {"general": general, "optics": optics, "particles": table}, ["general"])
    return table


@pytest.mark.slow
def test_particles_go_from_star_to_classes_and_back_to_star(tmp_path, monkeypatch, cubes, n=60):
    table = write_tomogram(tmp_path, cubes, n)
    given = {"tomogram": "tomo_7.mrc", "coordinates": "particles.star", "classes": "TRiC,apoferritin"}
    result = run_notebook(tmp_path, monkeypatch, **given, box=24)
    assert result.error == ""
    back = starfile.read(tmp_path / "out" / "predictions.star")
    assert list(back) == ["general", "optics", "particles"] and back["optics"]["rlnVoltage"].tolist() == [300]
    rows = back["particles"]
    for name in set(table) - {"rlnClassNumber"}:
        assert rows[name].tolist() == pytest.approx(list(table[name])) if name != "rlnTomoName" else True
    assert rows["csInputClassNumber"].tolist() == [3] * n and rows["rlnTomoName"].tolist() == ["tomo_7"] * n
    assert rows["rlnClassNumber"].between(1, 2).all() and set(rows["csClass"]) <= {"TRiC", "apoferritin"}
    assert np.allclose(rows[["csProbability_TRiC", "csProbability_apoferritin"]].sum(axis=1), 1, atol=2e-4)
    assert result.manifest["scores"]["contrast"] == "dark"
    parts = list((tmp_path / "out" / "classes").glob("*.star"))
    assert sum(len(starfile.read(path)["particles"]) for path in parts) == n
    page = (tmp_path / "out" / "report.html").read_text()
    assert "tomo_7.mrc" in page and 'src="http' not in page and "href=" not in page


@pytest.mark.slow
@pytest.mark.parametrize(
    "parameters, message",
    [
        ({"clases": "TRiC"}, "Unknown parameter 'clases'"),
        ({"subtomograms": "broken.mrcs"}, "broken.mrcs is not an MRC file"),
        ({"tomogram": "broken.mrcs"}, "wanted tomogram and coordinates"),
        ({"pixel_size": "ten"}, "Parameter 'pixel_size' is 'ten'"),
    ],
)
def test_the_notebook_stops_with_one_line(tmp_path, monkeypatch, parameters, message):
    (tmp_path / "broken.mrcs").write_bytes(b"not a map" * 200)
    monkeypatch.chdir(tmp_path)
    given = {"profile": "smoke", "out_dir": str(tmp_path / "out"), **parameters}
    with pytest.raises(papermill.PapermillExecutionError) as failure:
        papermill.execute_notebook(NOTEBOOK, tmp_path / "executed.ipynb", given, progress_bar=False)
    assert failure.value.ename == "InputError" and message in failure.value.evalue
    executed = nbformat.read(tmp_path / "executed.ipynb", as_version=4)
    (shown,) = [o for c in executed.cells for o in c.get("outputs", []) if o.output_type == "error"]
    assert len(shown.traceback) == 1 and "\n" not in shown.traceback[0] and message in shown.traceback[0]
    assert not (tmp_path / "out" / "predictions.star").exists()
