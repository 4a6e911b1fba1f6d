"""From files to predictions: `classify` in one call, notebook 06, and the command line."""

import dataclasses
import json

import nbformat
import numpy as np
import papermill
import pytest
import starfile
import torch
from helpers.files import ROOT, says

import data_fetch
from cryoshift_core import __main__ as command_line
from cryoshift_core.application import classify, pipeline, target_data
from cryoshift_core.application.classifier import Classifier
from cryoshift_core.application.lattice_test import lattice_test
from cryoshift_core.application.manifest import validate
from cryoshift_core.application.second_opinion import BOTH
from cryoshift_core.course import runner
from cryoshift_core.errors import InputError, InputWarning
from cryoshift_core.simulation import structures
from cryoshift_core.tomography import mrc, star
from cryoshift_core.tomography.wedge import fit_wedge
from data_fetch import readers

NOTEBOOK = ROOT / "notebooks" / "06_your_own_subtomograms.ipynb"
CLASSES = ("TRiC", "apoferritin")
FILES = {"tomogram": "tomo_7.mrc", "coordinates": "particles.star"}
SMOKE = {"classes": CLASSES, "box": 24, "profile": "smoke", "device": "cpu"}


@pytest.fixture(scope="module")
def result(tomogram_folder, tmp_path_factory):
    """`classify` with the smoke profile on the tomogram of 60 particles."""
    files = {"tomogram": tomogram_folder / "tomo_7.mrc", "coordinates": tomogram_folder / "particles.star"}
    return classify.classify(**files, **SMOKE, out_dir=tmp_path_factory.mktemp("classify") / "out")


def test_classify_writes_predictions_model_report_and_spike_ins(result, tomogram_folder):
    names = {path.relative_to(result.folder).as_posix() for path in result.paths}
    assert {"predictions.star", "model.safetensors", "report.html", "spike_in.csv"} <= names
    assert result.paths[0].name == "predictions.star" and all(path.is_file() for path in result.paths)
    assert sorted(path.name for path in result.folder.parent.iterdir()) == ["out"], "no unfinished folder is left"
    given = starfile.read(tomogram_folder / "particles.star")["particles"]
    back = starfile.read(result.paths[0])["particles"]
    assert len(back) == 60 and back["csInputClassNumber"].tolist() == given["rlnClassNumber"].tolist()
    assert np.allclose(back["csConfidence"], result.predictions.confidence.numpy(), atol=1e-4)
    assert result.target.contrast == "dark" and result.moved is None
    methods = ("source_only", "cryoshift_warps", "cryoshift", BOTH)
    assert tuple(result.spike_in) == methods and set(result.prevalence) == set(CLASSES)
    assert sum(found.n for found in result.prevalence.values()) <= 60 and len(result.gap) == 3
    assert any("60 subtomograms are few" in warning for warning in result.warnings)
    page = result.paths[-1].read_text(encoding="utf-8")
    assert all(warning.split("(")[0].strip() in page for warning in result.warnings[:1]) and "tomo_7.mrc" in page
    assert result.verdict.level == "do not use" and "the smoke profile trains for seconds" in page
    manifest = json.loads((result.folder / "manifest.json").read_text())
    assert (manifest["verdict"], manifest["usable_classes"]) == ("do not use", [])
    numbers = {number.name: number for number in validate(manifest).numbers}
    assert numbers["fraction"].low is not None and numbers["classified"].unit == "count"
    assert numbers["spike_balanced_accuracy"].of["method"] in methods
    assert {number.of["method"] for number in validate(manifest).numbers if "spike" in number.name} == set(methods)
    assert manifest["status"] == "finished" and manifest["parameters"]["classes"] == "TRiC,apoferritin"
    assert {path.rsplit("/", 1)[-1] for path in manifest["inputs"]} == {"tomo_7.mrc", "particles.star"}


def test_particles_go_from_star_to_classes_and_back_to_star(result, tomogram_folder):
    given = starfile.read(tomogram_folder / "particles.star")["particles"]
    back = starfile.read(result.paths[0])
    assert list(back) == ["general", "optics", "particles"] and back["optics"]["rlnVoltage"].tolist() == [300]
    rows = back["particles"]
    for name in set(given) - {"rlnClassNumber", "rlnTomoName"}:
        assert rows[name].tolist() == pytest.approx(given[name].tolist())
    assert rows["csInputClassNumber"].tolist() == [3] * 60 and rows["rlnTomoName"].tolist() == ["tomo_7"] * 60
    assert rows["rlnClassNumber"].between(1, 2).all() and set(rows["csClass"]) <= set(CLASSES)
    assert np.allclose(rows[["csProbability_TRiC", "csProbability_apoferritin"]].sum(axis=1), 1, atol=2e-4)
    parts = list((result.folder / "classes").glob("*.star"))
    assert sum(len(starfile.read(path)["particles"]) for path in parts) == 60


def test_the_saved_model_gives_the_predictions_of_the_network(result):
    loaded = Classifier.load(result.folder / "model.safetensors")
    again = loaded.predict(result.target.subtomograms, device="cpu")
    assert torch.equal(again.probabilities, result.second.predictions.probabilities)


def test_a_second_run_by_the_command_line_moves_the_first_aside(result, tomogram_folder, tmp_path, capsys):
    out = tmp_path / "out"
    arguments = ["classify", "--tomogram", str(tomogram_folder / "tomo_7.mrc"), "--out", str(out), "--box", "24"]
    arguments += ["--coordinates", str(tomogram_folder / "particles.star"), "--classes", "TRiC,apoferritin"]
    arguments += ["--profile", "smoke", "--device", "cpu"]
    assert command_line.main(arguments) == 0
    assert (out / "predictions.star").read_bytes() == result.paths[0].read_bytes()
    (out / "notes.txt").write_text("mine")
    assert command_line.main(arguments) == 0
    printed = capsys.readouterr().out
    (moved,) = [path for path in tmp_path.iterdir() if path != out]
    assert "classes:\n  TRiC: 921 kDa, 176 A, built in, from PDB 4V8R\n  apoferritin: 465 kDa" in printed
    assert f"The earlier results in {out} are now in {moved}" in printed and "WARNING: 60 subtomograms" in printed
    assert (moved / "notes.txt").is_file() and not (out / "notes.txt").exists()


@pytest.mark.parametrize(
    "change, words",
    [
        ({"tomogram": "", "coordinates": ""}, ["a tomogram with or without coordinates", "tomogram=''"]),
        ({"tomogram": ""}, ["tomogram=''", "particles.star", "give the tomogram"]),
        ({"subtomograms": "mine.mrcs"}, ["subtomograms=mine.mrcs", "leave one out"]),
        ({"profile": "labtop"}, ["labtop", "did you mean 'laptop'?"]),
        ({"method": "cryoshft"}, ["cryoshft", "did you mean 'cryoshift'?"]),
        ({"contrast": "grey"}, ["auto, bright or dark", "got 'grey'"]),
        ({"classes": "TRiC"}, ["at least two classes"]),
        ({"box": 8}, ["at least", "'TRiC'"]),
    ],
)
def test_wrong_values_are_refused_before_anything_is_written(tomogram_folder, tmp_path, monkeypatch, change, words):
    monkeypatch.chdir(tmp_path)
    files = {"tomogram": tomogram_folder / "tomo_7.mrc", "coordinates": tomogram_folder / "particles.star"}
    with pytest.raises(InputError) as caught:
        classify.classify(**(files | SMOKE | {"out_dir": tmp_path / "out"} | change))
    assert "\n" not in str(caught.value) and all(word in str(caught.value) for word in words), str(caught.value)
    assert not list(tmp_path.iterdir())


def test_a_background_that_cannot_be_read_is_refused_before_anything_is_written(tomogram_folder, tmp_path):
    files = {name: tomogram_folder / value for name, value in FILES.items()}
    with pytest.raises(InputError, match=r"ice\.mrcs"):
        classify.classify(**files, **SMOKE, background=tmp_path / "ice.mrcs", out_dir=tmp_path / "out")
    assert not list(tmp_path.iterdir())


def test_the_command_line_prints_an_input_error_as_one_line(tmp_path, capsys):
    assert command_line.main(["classify", "--tomogram", "missing.mrc", "--out", str(tmp_path / "out")]) == 2
    error = capsys.readouterr().err
    assert error.startswith("InputError: ") and error.count("\n") == 1


def test_a_folder_with_other_files_is_refused(tomogram_folder, tmp_path):
    (tmp_path / "thesis.tex").write_text("mine")
    files = {"tomogram": tomogram_folder / "tomo_7.mrc", "coordinates": tomogram_folder / "particles.star"}
    says(lambda: classify.classify(**files, **SMOKE, out_dir=tmp_path), "thesis.tex", "out_dir")
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_extracted_subtomograms_without_background_have_spike_ins_in_their_rims(tmp_path, molecules):
    mrc.write_mrc(tmp_path / "mine.mrcs", -molecules, 16.0)
    found = classify.classify(
        subtomograms=tmp_path / "mine.mrcs", **SMOKE, method="source_only", out_dir=tmp_path / "out"
    )
    assert list(found.spike_in) == ["source_only"] and (found.folder / "spike_in.csv").exists()
    assert any("made of the rims of your own ones" in warning for warning in found.warnings)
    assert found.classifier.recipe["method"] == "source_only" and list(found.gap) == [
        "simulated subtomograms, source_only"
    ]


def test_a_dark_map_without_a_voxel_size_is_a_class_and_said_everywhere(tmp_path, molecules, capsys):
    mrc.write_mrc(tmp_path / "s.mrcs", molecules, 16.0)
    mrc.write_mrc(tmp_path / "average.mrc", -structures.template("apoferritin", 8.0, 32).numpy(), 1.0)
    files = ["--subtomograms", str(tmp_path / "s.mrcs"), "--out", str(tmp_path / "out"), "--profile", "smoke"]
    classes = ["--method", "source_only", "--device", "cpu", "--classes", f"TRiC,{tmp_path / 'average.mrc'}"]
    assert command_line.main(["classify", *files, *classes]) == 2
    assert f"{tmp_path / 'average.mrc'}@8.0 for 8 A" in capsys.readouterr().err and not (tmp_path / "out").exists()
    classes[-1] += "@8.0"
    assert command_line.main(["classify", *files, *classes]) == 0
    printed = capsys.readouterr().out
    page = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    for text in (printed, page):
        assert text.count("from map average.mrc, voxels of 8 A, protein dark (inverted)") == 1
        assert text.count("average.mrc: protein is dark in this map") == 1
    rows = starfile.read(tmp_path / "out" / "predictions.star")
    assert set(rows["csClass"]) <= {"TRiC", "average", "not_classified", "unknown"}
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert {path.rsplit("/", 1)[-1] for path in manifest["inputs"]} == {"s.mrcs", "average.mrc"}


def test_the_tilt_axis_of_the_background_is_compared_with_the_given_one():
    n = 24
    z, y, x = torch.meshgrid(*[torch.fft.fftfreq(n)] * 3, indexing="ij")
    measured = z.abs() <= x.abs() * 1.7  # tilts to 60 degrees about y
    noise = torch.randn(30, 1, n, n, n, generator=torch.Generator().manual_seed(0))
    boxes = torch.fft.ifftn(torch.fft.fftn(noise, dim=(2, 3, 4)) * measured, dim=(2, 3, 4)).real
    wedge = fit_wedge(boxes, 16.0)
    assert pipeline.tilt_axis_warnings(wedge, 0.0) == [] == pipeline.tilt_axis_warnings(wedge, 180.0)
    (warning,) = pipeline.tilt_axis_warnings(wedge, 90.0)
    assert "set tilt_axis=0" in warning or "set tilt_axis=-0" in warning


def test_the_adaptation_set_is_a_seeded_draw(tmp_path, molecules):
    mrc.write_mrc(tmp_path / "mine.mrcs", -molecules, 16.0)
    target = pipeline.read_target(CLASSES, subtomograms=tmp_path / "mine.mrcs")
    assert pipeline.adaptation_set(target, 24) is target.subtomograms
    one, same, other = (pipeline.adaptation_set(target, 10, seed).x for seed in (0, 0, 1))
    assert len(one) == 10 and torch.equal(one, same) and not torch.equal(one, other)


def test_background_of_a_coarser_model_is_as_wide_in_the_tomogram():
    files = data_fetch.sample()
    volume = readers.read_tomogram(files.tomogram, 10.0)  # as if it had finer voxels than the model's
    data = target_data.from_tomogram(volume, readers.read_picks(files.coordinates, volume), ("membrane", "ice"), box=24)
    coarse = dataclasses.replace(data, subtomograms=dataclasses.replace(data.subtomograms, voxel_size=15.0))
    assert data.edge == 24 and coarse.edge == 36
    x, at = target_data.cut_background(coarse, 20, torch.Generator().manual_seed(0))
    apart = np.abs(at[:, None] - data.particles.zyx).max(-1)
    assert x.shape[2:] == (24, 24, 24) and apart.min() >= 0.75 * 36


def test_the_lattice_test_holds_out_whole_particles():
    sample = data_fetch.sample()
    volume = readers.read_tomogram(sample.tomogram)
    classes = ("membrane", "ice")
    data = target_data.from_tomogram(volume, readers.read_picks(sample.coordinates, volume), classes)
    test = lattice_test(data, classes, n_ice=24)
    assert not set(test.target.groups.tolist()) & {1, 3, 7} and set(test.held_out.groups.tolist()) <= {1, 3, 7}
    assert len(test.labels) == len(test.held_out) and set(test.labels.y.tolist()) == {0, 1}
    assert len(test.lattice) == 4 * len(test.ice) and 20 <= len(test.ice) <= 24
    centre = slice(8, 16)
    assert test.lattice[..., centre, centre, centre].mean() > test.ice[..., centre, centre, centre].mean() + 0.5
    with pytest.raises(InputError, match="membrane and ice"):
        lattice_test(data, ("TRiC", "ice"), n_ice=24)


@pytest.mark.slow
def test_the_notebook_and_classify_give_the_same_predictions(result, tomogram_folder, tmp_path, monkeypatch):
    files = {name: str(tomogram_folder / file) for name, file in FILES.items()}
    found = run_notebook(tmp_path, monkeypatch, **files, classes=",".join(CLASSES), box=24)
    assert found.error == ""
    for name in ("predictions.star", "spike_in.csv"):
        assert (tmp_path / "out" / name).read_bytes() == (result.folder / name).read_bytes()
    model = Classifier.load(tmp_path / "out" / "model.safetensors")
    again = model.predict(result.target.subtomograms, device="cpu")
    assert torch.equal(again.probabilities, result.second.predictions.probabilities)


def run_notebook(tmp_path, monkeypatch, **parameters):
    monkeypatch.chdir(tmp_path)
    return runner.execute(NOTEBOOK, tmp_path / "out", {"profile": "smoke", "device": "cpu", **parameters})


@pytest.mark.slow
def test_the_notebook_classifies_a_stack_with_a_structure_from_a_file(tmp_path, monkeypatch, molecules):
    mrc.write_mrc(tmp_path / "mine.mrcs", -molecules, 16.0)
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


@pytest.mark.slow
@pytest.mark.parametrize(
    "parameters, message",
    [
        ({"clases": "TRiC"}, "Unknown parameter 'clases'"),
        ({"subtomograms": "broken.mrcs"}, "broken.mrcs is not an MRC file"),
        ({"tomogram": "broken.mrcs"}, "expected either tomogram and coordinates"),
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


def test_classify_warns_of_its_input_before_any_work(tomogram_folder, tmp_path, monkeypatch):
    tables = star.read_star(tomogram_folder / "particles.star")
    tables["particles"]["rlnCenteredCoordinateXAngst"][6] = "90000"
    star.write_star(tmp_path / "p.star", tables)

    def stop(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(pipeline, "background_boxes", stop)
    files = {"tomogram": tomogram_folder / "tomo_7.mrc", "coordinates": tmp_path / "p.star"}
    with pytest.warns(InputWarning, match=r"p.star: not classified: row 7 \(outside"), pytest.raises(KeyboardInterrupt):
        classify.classify(out_dir=tmp_path / "out", classes=CLASSES, profile="smoke", **files)


@pytest.mark.parametrize("name", ["--pixel_size", "--voxel_size"])
def test_the_command_line_takes_the_voxel_size_by_both_names(tmp_path, capsys, name):
    mrc.write_mrc(tmp_path / "t.mrc", np.random.default_rng(0).normal(size=(8, 8, 8)), 0.0)
    arguments = ["classify", "--tomogram", str(tmp_path / "t.mrc"), "--coordinates", str(tmp_path / "no.star")]
    arguments += ["--out", str(tmp_path / "out"), "--classes", "TRiC,ice", "--project_folder", str(tmp_path)]
    assert command_line.main(arguments) == 2 and "no voxel size" in capsys.readouterr().err
    assert command_line.main([*arguments, name, "10"]) == 2 and "no.star is not a file" in capsys.readouterr().err
