"""The eight calls of a job: alone and in a row, and the same numbers as `classify`."""

import inspect
import json

import matplotlib.pyplot as plt
import numpy as np
import pytest
import starfile
import torch
from helpers.files import ROOT, says

import cryoshift_core as cs
from cryoshift_core import __main__ as command_line
from cryoshift_core.application import job as jobs
from cryoshift_core.application import pipeline, seeds, target_data, verdict
from cryoshift_core.application.classifier import Predictions, average
from cryoshift_core.application.purity import least_confidence
from cryoshift_core.errors import InputError
from cryoshift_core.tomography import mrc

CLASSES = ("TRiC", "apoferritin")
SMOKE = {"classes": CLASSES, "box": 24, "profile": "smoke", "device": "cpu"}
STEPS = ("look", "simulate", "spike", "adapt", "judge", "classify")


@pytest.fixture(scope="module")
def files(tomogram_folder):
    return {"tomogram": tomogram_folder / "tomo_7.mrc", "coordinates": tomogram_folder / "particles.star"}


@pytest.fixture(scope="module")
def job(files, tmp_path_factory):
    return cs.open(**files, **SMOKE, keep=tmp_path_factory.mktemp("keep"))


def test_each_call_says_and_shows_what_it_made(job):
    shown = {}
    for name in STEPS:
        found = getattr(job, name)()
        assert found is getattr(job, name)(), "made once"
        assert str(found).strip() and repr(found) == str(found)
        shown[name] = list(found.figures())
        plt.close("all")
    assert shown["look"] == ["contrast", "tomogram", "subtomograms"] and shown["simulate"] == ["simulated", "spectra"]
    assert shown["spike"] == ["ice", "own_background", "wedge", "spike_spectra", "spikes"]
    assert shown["adapt"] == ["learning_curves"] and "spike_recall" in shown["judge"]
    assert shown["classify"][0] == "class_fractions" and shown["classify"][-1] == "places"
    assert str(job.judge()).startswith("VERDICT: do not use\n- the smoke profile trains for seconds")
    assert str(job.classify()).startswith("VERDICT: do not use\nTRiC: ")
    assert str(job) == str(job.look()) and "60 inputs, 60 subtomograms of 24³ voxels" in str(job)


def test_a_class_that_is_a_file_is_put_into_own_boxes_too(files, tmp_path):
    capsid = ROOT / "tests" / "data" / "1auy.pdb.gz"
    job = cs.open(**files, **{**SMOKE, "classes": ("TRiC", str(capsid))}, keep=tmp_path)
    found = job.spike()
    assert found.own is not None and set(found.own.y.tolist()) == {0, 1}
    assert found.own.classes == ("TRiC", "1auy") and not [said for said in found.warnings if "No molecules" in said]


def test_the_sections_of_a_slider_are_drawn_through_the_row(job):
    look = job.look()
    assert look.rows[0] == 1 and look.rows[-1] == 60 and len(look.rows) <= 50
    _, axes = plt.subplots(1, 3)
    look.sections(axes, 7)
    z, y, x = np.round(look.target.particles.zyx[6]).astype(int)
    assert [ax.get_title() for ax in axes] == [f"xy, z = {z}", f"xz, y = {y}", f"yz, x = {x}"]
    plt.close("all")


def test_spike_ins_are_made_before_anything_is_trained(files, monkeypatch):
    fresh = cs.open(**files, **SMOKE)
    monkeypatch.setattr(pipeline, "fit_methods", lambda *_, **__: pytest.fail("trained"))
    assert len(fresh.spike().spikes) >= 24 and set(fresh._done) == {"simulate", "spike"}


def test_the_report_of_a_job_is_that_of_classify(job, files, tmp_path):
    by_steps = job.report(tmp_path / "steps")
    at_once = cs.classify(**files, **SMOKE, out_dir=tmp_path / "once")
    for name in ("predictions.star", "spike_in.csv", "purity.csv"):
        assert (by_steps.folder / name).read_bytes() == (at_once.folder / name).read_bytes()
    assert by_steps.warnings == at_once.warnings and by_steps.verdict == at_once.verdict
    assert sorted(path.name for path in tmp_path.iterdir()) == ["once", "steps"], "nothing is kept after the end"
    assert job.kept.is_dir(), "but what several jobs share is"
    assert str(by_steps).startswith("VERDICT: do not use: ") and str(by_steps).endswith("report.html")


def test_open_and_classify_take_the_same_parameters():
    ours, all_at_once = (inspect.signature(function).parameters for function in (cs.open, cs.classify))
    assert set(ours) - {"keep"} == set(all_at_once)
    for name in set(all_at_once) - {"out_dir"}:
        assert ours[name].default == all_at_once[name].default, name


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"n_seeds": 0}, ["n_seeds from 1 to 20", "got 0"]),
        ({"may_be_absent": "ribosme"}, ["may_be_absent", "ribosme"]),
        ({"may_be_absent": "TRiC,apoferritin"}, ["a class that does occur", "TRiC, apoferritin"]),
        ({"purity": 2}, ["purity from 0 to 1"]),
    ],
)
def test_wrong_values_are_refused_when_it_is_opened(files, change, words):
    says(lambda: cs.open(**files, **SMOKE, **change), *words)


def test_a_report_needs_one_folder(job, files, tmp_path):
    says(lambda: job.report(), "give out_dir to open, or a folder here")
    other = cs.open(**files, **SMOKE, out_dir=tmp_path / "mine")
    says(lambda: other.report(tmp_path / "yours"), "mine", "yours", "leave it out")
    assert not list(tmp_path.iterdir()), "nothing is written by opening"


def test_a_saved_model_neither_simulates_nor_spikes(job, files, tmp_path):
    model = job.predict()[1].save(tmp_path / "model.safetensors")
    again = cs.open(**files, model=model, templates="beside", device="cpu")
    for step in (again.simulate, again.spike):
        says(step, "no call of", "with a saved model", "leave model out")
    assert "nothing was trained" in str(again.adapt()) and str(again.judge()).startswith("VERDICT: ")
    assert torch.equal(again.predict()[0].probabilities, job.match().predictions.probabilities), "the network alone"


def test_held_out_boxes_are_kept_out_and_too_late_is_refused(files, job):
    fresh = cs.open(**files, **SMOKE)
    few = fresh.target.subtomograms.subset(torch.arange(30))
    fresh.hold_out(few, fresh.target.particles.zyx[30:])
    assert fresh.simulate().target is few and fresh.unlabelled is few
    says(lambda: job.hold_out(few, fresh.target.particles.zyx), "hold_out before", "open the job again")


def test_a_stack_has_no_tomogram_to_show(tmp_path, molecules):
    mrc.write_mrc(tmp_path / "mine.mrcs", -molecules, 16.0)
    found = cs.open(subtomograms=tmp_path / "mine.mrcs", **SMOKE)
    assert list(found.look().figures()) == ["contrast", "subtomograms"]
    assert list(found.spike().figures()) == ["ice", "wedge", "spike_spectra", "spikes"], "in boxes made of the rims"
    wide = cs.open(subtomograms=tmp_path / "mine.mrcs", **SMOKE | {"classes": "ribosome_80S,TRiC"}).spike()
    assert wide.figures() == {} and "WARNING: The accuracy was not estimated on spike-ins: " in str(wide)
    assert "at least 30 voxels" in str(wide), "the boxes are hardly wider than a ribosome"
    _, axes = plt.subplots(1, 3)
    found.look().sections(axes, 3)
    assert [ax.get_title() for ax in axes] == ["xy, row 3", "xz, row 3", "yz, row 3"]
    plt.close("all")


def predicted(*rows, unknown=None):
    score = None if unknown is None else torch.zeros(len(rows))
    return Predictions(CLASSES, torch.tensor(rows), score, unknown)


def test_seeds_are_averaged_and_their_agreement_is_counted():
    each = [
        predicted([0.9, 0.1], [0.6, 0.4], unknown=torch.tensor([True, False])),
        predicted([0.8, 0.2], [0.1, 0.9], unknown=torch.tensor([True, False])),
        predicted([0.4, 0.6], [0.3, 0.7], unknown=torch.tensor([False, True])),
    ]
    mean = average(each)
    assert mean.probabilities[:, 0].tolist() == pytest.approx([0.7, 1 / 3])
    assert mean.agreement.tolist() == pytest.approx([2 / 3, 2 / 3]) and mean.unknown.tolist() == [True, False]
    assert seeds.nearest(each, mean) == 1, "the one seed with both classes of the mean"
    assert average(each[:1]) is each[0] and each[0].agreement is None
    assert mean.rows()[0]["agreement"] == pytest.approx(2 / 3) and "agreement" not in each[0].rows()[0]


@pytest.fixture(scope="module")
def three(files, tmp_path_factory):
    folder = tmp_path_factory.mktemp("three")
    return cs.classify(**files, **SMOKE, n_seeds=3, may_be_absent="TRiC", purity=0.55, out_dir=folder / "out")


def test_three_seeds_give_a_column_of_agreement(three, tmp_path):
    rows = starfile.read(three.paths[0])["particles"]
    assert np.allclose(rows["csAgreement"], three.predictions.agreement.numpy(), atol=1e-4)
    assert set(rows["csAgreement"].round(2)) <= {0.33, 0.67, 1.0}
    lines = three.predictions.save_csv(tmp_path / "p.csv").read_text().splitlines()
    assert lines[0].endswith(",agreement") and len(lines) == 61
    assert json.loads((three.folder / "manifest.json").read_text())["parameters"]["n_seeds"] == 3
    assert "means over 3 training seeds" in (three.folder / "report.html").read_text()
    assert three.spike_in[three.classifier.recipe["method"]].probabilities.sum(1).numpy() == pytest.approx(1, abs=1e-5)


def test_the_saved_model_holds_all_seeds(three, files, tmp_path):
    path = three.folder / "model.safetensors"
    model = cs.load(path)
    assert len(model.each) == 3 == len({one.recipe["step"] is None or id(one.network) for one in model.each})
    found = model.predict(three.target.subtomograms, device="cpu")
    network = three.second.predictions
    torch.testing.assert_close(found.probabilities, network.probabilities)
    assert torch.equal(found.agreement, three.predictions.agreement)
    assert torch.equal(found.probabilities.argmax(1), network.probabilities.argmax(1))
    again = cs.load(model.save(tmp_path / "again.safetensors")).predict(three.target.subtomograms, device="cpu")
    assert torch.equal(again.probabilities, found.probabilities)
    single = model.each[1].save(tmp_path / "one.safetensors")
    assert path.stat().st_size > 2.5 * single.stat().st_size and cs.load(single).members == ()
    given = {name: value for name, value in files.items() if name != "classes"}
    reused = cs.classify(**given, model=path, device="cpu", out_dir=tmp_path / "out")
    rows = starfile.read(reused.paths[0])["particles"]
    assert np.allclose(rows["csAgreement"], three.predictions.agreement.numpy(), atol=1e-4)
    assert "means over the 3 training seeds" in (reused.folder / "report.html").read_text()
    assert len(cs.load(reused.folder / "model.safetensors").each) == 3, "the copy of the model is whole, too"


def test_rows_of_the_expected_purity_are_written(three):
    assert 0.5 < three.predictions.confidence.mean() and three.paths[1].name == "predictions_purity.star"
    rows = starfile.read(three.folder / "predictions_purity.star")["particles"]
    known = three.predictions.confidence[~three.predictions.unknown] if three.predictions.unknown is not None else (
        three.predictions.confidence
    )  # fmt: skip
    assert 0 < len(rows) <= len(known) and rows["csConfidence"].mean() >= 0.55 - 1e-4
    table = (three.folder / "purity.csv").read_text().splitlines()
    assert any(line.split(",")[1] == str(len(rows)) for line in table[1:]), "the cut stands in the table, too"
    assert f"expected purity 0.55: {len(rows)} of 60" in str(three)


def test_the_cut_is_the_lowest_that_keeps_the_purity():
    found = predicted([0.9, 0.1], [0.1, 0.9], [0.7, 0.3], [0.6, 0.4], [0.55, 0.45])
    assert least_confidence(found, 0.8) == pytest.approx(0.7), "0.9, 0.9, 0.7: 0.83; with 0.6: 0.775"
    assert least_confidence(found, 0.5) == pytest.approx(0.55) and least_confidence(found, 0.95) is None
    equal = predicted([0.9, 0.1], [0.6, 0.4], [0.4, 0.6])
    assert least_confidence(equal, 0.72) == pytest.approx(0.9), "not one of two equal ones"
    marked = Predictions(CLASSES, found.probabilities, torch.zeros(5), torch.tensor([True] * 5))
    assert least_confidence(marked, 0.1) is None


def test_classes_that_may_be_absent_are_not_demanded():
    fractions, names = (0.95, 0.05, 0.0), ("a", "b", "c")
    usual = target_data.class_fraction_warnings(fractions, names, 45)
    assert len(usual) == 3 and "c (0.0%)" in usual[1] and "19 times" in usual[2]
    assert target_data.class_fraction_warnings(fractions, names, 45, ("b", "c")) == []


def test_the_verdict_names_classes_on_which_the_seeds_disagree():
    p = torch.tensor([[0.9, 0.1]] * 30 + [[0.1, 0.9]] * 30)
    agreement = torch.tensor([1.0] * 30 + [2 / 3] * 30)
    x = torch.randn(60, 1, 8, 8, 8, generator=torch.Generator().manual_seed(0))
    given = verdict.judge(Predictions(CLASSES, p, agreement=agreement), x)
    assert given.level == verdict.PARTLY and given.classes == ("TRiC",)
    assert "the seeds disagree: a subtomogram called apoferritin is called so by 67% of them on average" in str(given)
    assert "and is next most like TRiC" in str(given)
    assert verdict.judge(Predictions(CLASSES, p, agreement=torch.ones(60)), x).level == verdict.NOT_JUDGED


def test_the_size_is_judged_without_classes_that_may_be_absent(job, monkeypatch):
    asked = []

    def warn(source, target, voxel_size, names):
        asked.append((len(source), tuple(names)))
        return ["wider"] if len(names) == 2 else []

    monkeypatch.setattr(target_data, "voxel_size_warnings", warn)
    source, target = job.simulate().source, job.unlabelled
    assert pipeline.size_warnings(source, target, CLASSES) == ["wider"]
    assert pipeline.size_warnings(source, target, CLASSES, ("TRiC",)) == []
    assert asked[-1] == (int((source.y == 1).sum()), ("apoferritin",))


def test_an_interruption_says_how_to_go_on(files, tmp_path, monkeypatch, capsys):
    def stop(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(pipeline, "fit_methods", stop)
    given = [f"--{name}={value}" for name, value in files.items()] + ["--classes", ",".join(CLASSES), "--box", "24"]
    arguments = ["classify", *given, "--profile", "smoke", "--device", "cpu", "--out_dir", str(tmp_path / "out")]
    assert command_line.main(arguments) == 130
    assert "Stopped in training: training is kept; the same command goes on." in capsys.readouterr().err
    unkept = jobs.open(**files, **SMOKE)
    with pytest.raises(KeyboardInterrupt) as stopped:
        unkept.judge()
    assert stopped.value.__notes__ == ["Stopped in training: nothing is kept, because no out_dir was given."]


def test_the_cells_of_notebook_06_are_these_calls():
    import nbformat

    nb = nbformat.read(ROOT / "notebooks" / "06_your_own_subtomograms.ipynb", as_version=4)
    exercise = {"exercise", "solution", "given"}
    code = [
        cell.source for cell in nb.cells if cell.cell_type == "code" and not exercise & {*cell.metadata.get("tags", [])}
    ]
    code = [source for source in code if "lesson." not in source or "job." in source]
    lines = "\n".join(code).splitlines()
    assert len(code) <= 16 and not [line for line in lines if line.lstrip().startswith(("for ", "while ", "def "))]
    imports = [line for line in lines if line.startswith(("import ", "from "))]
    known = {"import cryoshift_core as cs", "import numpy as np", "from cryoshift_core.course import exercises"}
    assert all("cryoshift_core.course." in line or line in known for line in imports)
    calls = [name for line in lines for name in (*STEPS, "report") if f"job.{name}(" in line]
    assert calls == [*STEPS, "report"] and "job = cs.open(**given)" in lines


def test_a_refused_input_is_an_input_error(tmp_path):
    with pytest.raises(InputError, match="tomogram=''"):
        cs.open(coordinates="p.star", **SMOKE)


def test_a_result_says_what_each_stage_took(files, tmp_path, monkeypatch):
    """On a clock that steps alone advance: one second for each fit, ten for a simulation, 100 for a prediction."""
    now = [1000.0]
    monkeypatch.setattr(jobs.time, "monotonic", lambda: now[0])
    for name, seconds in (("simulate_source", 10), ("fit_methods", 1), ("prediction_warnings", 100)):
        real = getattr(jobs.pipeline, name)

        def slow(*given, _real=real, _seconds=seconds, **options):
            now[0] += _seconds
            return _real(*given, **options)

        monkeypatch.setattr(jobs.pipeline, name, slow)
    job = cs.open(**files, **SMOKE)
    now[0] += 5000.0  # somebody thinks
    job.look()
    now[0] += 5000.0
    result = job.report(tmp_path / "out")
    assert result.seconds == {"reading": 0.0, "prediction": 100.0, "simulation": 10.0, "training": 1.0}
    assert "time: reading 0.0 s" in str(result) and "training 1.0 s" in str(result)


def test_rotations_are_averaged_as_the_model_says(files):
    says(lambda: cs.open(**files, model="any", average_rotations=True), "average_rotations", "train with it")
