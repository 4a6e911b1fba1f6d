"""Parameters fail before any work, in one line without a traceback; results of two runs never mix."""

import json
import os
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
from helpers.files import ROOT

from cryoshift_core import metrics
from cryoshift_core.application import profiles
from cryoshift_core.course import parameters, runner
from cryoshift_core.course.run import begin as run_begin
from cryoshift_core.errors import InputError
from cryoshift_core.support.runtime import pick_device

HERE = Path(__file__).parent
GOOD = {
    "profile": "smoke",
    "seed": 0,
    "device": "cpu",
    "method": "source_only",
    "scenario": "in_situ_1",
    "classes": "ribosome_80S, TRiC",
    "contrast": "auto",
    "pixel_size": 0.0,
    "box": 0,
    "amount": 0.5,
    "subtomograms": "",
    "tomogram": "",
    "coordinates": "",
    "out_dir": "",
}


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def begin(**changed):
    return run_begin("NN_test", {"__annotations__": dict.fromkeys(GOOD), **GOOD, **changed})


def refused(**changed):
    with pytest.raises(InputError) as caught:
        begin(**changed)
    message = str(caught.value)
    assert "\n" not in message
    assert not Path("runs").exists(), "a refused run must leave nothing behind"
    return message


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"seed": "3"}, ["'seed' is '3' (str)", "whole number", "seed = 0"]),
        ({"seed": 1.0}, ["'seed' is 1.0 (float)", "whole number"]),
        ({"seed": True}, ["'seed' is True (bool)", "whole number"]),
        ({"seed": None}, ["'seed' is None", "whole number"]),
        ({"seed": -1}, ["'seed' is -1", "from 0"]),
        ({"seed": 2**31}, ["'seed' is 2147483648"]),
        ({"box": [32]}, ["'box' is [32] (list)", "whole number of voxels"]),
        ({"pixel_size": "12"}, ["'pixel_size' is '12' (str)", "A per voxel"]),
        ({"pixel_size": True}, ["'pixel_size' is True (bool)", "A per voxel"]),
        ({"pixel_size": -3.0}, ["'pixel_size' is -3.0", "or 0"]),
        ({"pixel_size": float("nan")}, ["'pixel_size' is nan"]),
        ({"pixel_size": float("inf")}, ["'pixel_size' is inf"]),
        ({"amount": 1.5}, ["'amount' is 1.5", "0 to 1"]),
        ({"profile": "lapto"}, ["'profile' is 'lapto'", "smoke, laptop, gpu, paper", "did you mean 'laptop'?"]),
        ({"profile": 3}, ["'profile' is 3 (int)", "-r profile"]),
        ({"method": "madda"}, ["'method' is 'madda'", "source_only", "did you mean 'mada'?"]),
        ({"scenario": "in_situ_9"}, ["'scenario' is 'in_situ_9'", " in all)", "did you mean 'in_situ_1'?"]),
        ({"scenario": "dosis"}, ["did you mean 'dose_1'?"]),
        ({"contrast": "black"}, ["'contrast' is 'black'", "auto, dark, bright"]),
        ({"device": "cuda:99"}, ["'device' is 'cuda:99'", "cpu"]),
        ({"classes": "ribosme_70S"}, ["ribosme_70S", "neither a file nor a built-in class", "'ribosome_70S'?"]),
        ({"classes": "TRiC,,ice"}, ["a name between commas is empty"]),
        ({"classes": "TRiC,TRiC"}, ["each class once"]),
        ({"subtomograms": "none.mrcs"}, ["'none.mrcs'", "a path that exists", "current folder"]),
        ({"tomogram": "."}, ["tomogram and coordinates"]),
        ({"coordinates": "."}, ["tomogram and coordinates"]),
        ({"subtomograms": ".", "tomogram": ".", "coordinates": "."}, ["subtomograms alone"]),
        ({"out_dir": 2024}, ["'out_dir' is 2024 (int)", '-r out_dir "2024"']),
        ({"sed": 3}, ["Unknown parameter 'sed' is 3", "did you mean 'seed' (int: a whole number"]),
        ({"piksel": 3}, ["Unknown parameter 'piksel' is 3", "did you mean 'pixel_size' (float: a number of A"]),
        ({"epochs": 3}, ["Unknown parameter 'epochs'", "profile (str), seed (int)"]),
        ({"colour": None}, ["Unknown parameter 'colour'"]),
        ({"extras": {"a": 1}}, ["Unknown parameter 'extras'"]),
    ],
)
def test_a_bad_parameter_is_one_sentence(changed, words):
    message = refused(**changed)
    for word in words:
        assert word in message


def test_a_list_of_names_in_a_message_stays_short():
    message = refused(scenario="nothing_like_it")
    assert len(message) < 300 and "did you mean" not in message


def test_an_unknown_name_lists_only_what_the_notebook_declares():
    message = refused(epochs=3)
    assert "contrast (str)" in message and "tilt_axis" not in message and "did you mean" not in message


def test_all_problems_are_reported_at_once():
    message = refused(seed="x", amount=-1, sed=2, contrast="drk")
    for word in ("'seed'", "'amount'", "'sed'", "'dark'?"):
        assert word in message


def test_out_dir_may_not_be_a_file(tmp_path):
    (tmp_path / "taken").write_text("mine")
    assert "a folder" in refused(out_dir="taken")
    assert (tmp_path / "taken").read_text() == "mine"


def test_an_annotated_name_that_nobody_knows_is_refused():
    with pytest.raises(InputError, match="declares sed; did you mean 'seed'"):
        run_begin("x", {"__annotations__": {"sed": int}, "sed": 1})


def test_a_whole_number_is_fine_for_a_float():
    assert begin(pixel_size=40).params.pixel_size == 40.0


def test_names_of_ipython_and_papermill_are_no_parameters():
    begin(_i1="x", In=["a"], Out={}, exit=print, PAPERMILL_INPUT_PATH="x.ipynb")


def test_running_the_cells_again_does_not_take_results_for_parameters():
    namespace = {"__annotations__": dict.fromkeys(GOOD), **GOOD}
    namespace["run"] = run_begin("NN_test", namespace)
    namespace["accuracy"] = 0.9
    run_begin("NN_test", namespace)


def test_every_choice_of_profile_names_known_classes():
    from cryoshift_core.simulation.structures import BUILTIN, PROCEDURAL

    for profile in profiles.PROFILES.values():
        assert set(profile.classes) <= {*BUILTIN, *PROCEDURAL}
        parameters.check({"profile": profile.name, "classes": ",".join(profile.classes)})


def test_defaults_of_all_parameters_are_valid():
    parameters.check({name: info.default for name, info in parameters.FIELDS.items()})


def test_folders_and_manifest(tmp_path):
    user_map = tmp_path / "mine.mrc"
    user_map.write_bytes(b"abc")
    run = begin(classes="TRiC, mine.mrc")
    final = tmp_path / "runs" / "smoke" / "NN_test"
    assert run.folder == final.with_name("NN_test.unfinished") and run.final_folder == final
    assert json.loads((run.folder / "manifest.json").read_text())["status"] == "unfinished"
    assert not final.exists()
    run.report(accuracy=(0.5, 0.4, float("nan")), gap="n/a")
    before = run.manifest()
    assert before["status"] == "unfinished" and before["scores"]["gap"] == "n/a"
    path = run.finish()
    assert path == final / "manifest.json" and run.folder == final and not unfinished(final).exists()
    manifest = json.loads(path.read_text(), parse_constant=pytest.fail)
    assert manifest["status"] == "finished"
    assert manifest["scores"] == {"accuracy": [0.5, 0.4, None], "gap": "n/a"}
    assert manifest["parameters"] == {**GOOD, "classes": "TRiC, mine.mrc"}
    sha = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert manifest["inputs"] == before["inputs"] == {"mine.mrc": sha}
    assert manifest["peak_memory_mb"] > 10 and manifest["cpu_seconds"] > 0 and manifest["versions"]["torch"]
    assert manifest["process"]["pid"] == os.getpid()
    assert not list(tmp_path.rglob("*.partial"))


def unfinished(final):
    return final.with_name(final.name + ".unfinished")


def texts(folder):
    return {path.name: path.read_text() for path in folder.iterdir() if path.name != "manifest.json"}


def write_whole(text, name="result.txt", **changed):
    """A whole run with one file; its final folder."""
    run = begin(**changed)
    (run.folder / name).write_text(text)
    return run.finish().parent


def test_an_earlier_run_is_moved_aside_and_a_line_says_so(capsys):
    final = write_whole("old", name="old_figure.txt")
    assert capsys.readouterr().out == ""
    manifest = json.loads((final / "manifest.json").read_text()) | {"started": "2026-11-26T05:40:12+00:00"}
    (final / "manifest.json").write_text(json.dumps(manifest))
    write_whole("new")
    aside = final.with_name("NN_test.2026-11-26T05-40-12")
    assert texts(final) == {"result.txt": "new"} and texts(aside) == {"old_figure.txt": "old"}
    assert f"are now in {aside}" in capsys.readouterr().out
    manifest |= json.loads((final / "manifest.json").read_text()) | {"started": "2026-11-26T05:40:12+00:00"}
    (final / "manifest.json").write_text(json.dumps(manifest))
    write_whole("third")
    assert texts(final.with_name("NN_test.2026-11-26T05-40-12-2")) == {"result.txt": "new"}


def test_a_run_that_does_not_finish_leaves_the_earlier_results_alone():
    final = write_whole("old")
    before = (final / "manifest.json").read_text()
    (begin().folder / "result.txt").write_text("half")
    assert texts(final) == {"result.txt": "old"} and (final / "manifest.json").read_text() == before


def test_an_unfinished_folder_of_a_dead_run_is_replaced():
    code = "import os; from test_run import begin; (begin().folder / 'half.txt').write_text('half'); os._exit(9)"
    with python(code) as dead:
        dead.communicate()
    assert dead.returncode == 9
    folder = Path("runs/smoke/NN_test.unfinished")
    assert (folder / "half.txt").is_file()
    assert texts(write_whole("whole")) == {"result.txt": "whole"} and not folder.exists()


def test_a_second_run_is_refused_while_the_first_one_is_alive():
    code = "import sys; from test_run import begin; begin(); print('ready', flush=True); sys.stdin.read()"
    other = python(code)
    try:
        assert other.stdout.readline() == "ready\n"
        with pytest.raises(InputError) as caught:
            begin()
        assert f"Process {other.pid} on " in str(caught.value) and "expected no other run" in str(caught.value)
        begin(out_dir="elsewhere")
        assert read(unfinished(Path("runs/smoke/NN_test")))["process"]["pid"] == other.pid
    finally:
        other.communicate()
    begin()


def python(code):
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests"), str(HERE)])}
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    return subprocess.Popen([sys.executable, "-c", code], env=environment, **pipes)


def read(folder):
    return json.loads((folder / "manifest.json").read_text())


def test_a_whole_run_that_was_killed_before_its_folder_was_renamed_is_kept():
    folder = begin().folder
    manifest = read(folder) | {"status": "finished", "started": "2026-11-26T05:40:12+00:00"}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    (folder / "result.txt").write_text("whole")
    begin()
    assert texts(Path("runs/smoke/NN_test.2026-11-26T05-40-12")) == {"result.txt": "whole"}


def test_cells_may_be_run_again_in_jupyterlab():
    first = begin()
    (first.folder / "result.txt").write_text("1")
    again = begin()
    assert texts(again.folder) == {}, "the cells start anew"
    (again.folder / "result.txt").write_text("2")
    path = again.finish()
    again.report(accuracy=0.7)
    again.save_table([{"a": 1}], "late")
    assert again.finish() == path and json.loads(path.read_text())["scores"] == {"accuracy": 0.7}
    assert texts(path.parent) == {"result.txt": "2", "late.csv": "a\n1\n"}
    assert [entry.name for entry in path.parents[1].iterdir() if entry.name.startswith("NN")] == ["NN_test"]


def test_a_run_whose_folder_was_replaced_cannot_finish_into_it():
    first = begin()
    begin()
    with pytest.raises(InputError, match="another run has replaced it"):
        first.finish()
    old = begin()
    old.finish()
    new = begin()
    new.finish()
    with pytest.raises(InputError, match="another run has replaced it"):
        old.finish()
    assert read(new.folder)["id"] == new.id


def test_a_folder_with_files_of_the_user_is_refused_and_stays(tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("mine")
    message = refused(out_dir="mine")
    assert "thesis.tex" in message and "expected a new folder" in message
    assert refused(out_dir=".").startswith("Results cannot go to")
    assert begin(out_dir="mine/results").finish() == tmp_path / "mine" / "results" / "manifest.json"


def test_the_notebook_that_papermill_is_writing_comes_along(tmp_path):
    (tmp_path / "mine" / ".ipynb_checkpoints").mkdir(parents=True)
    (tmp_path / "mine" / "out.ipynb").write_text("{}")
    run = begin(out_dir="mine")
    (run.folder / "result.txt").write_text("new")
    assert {path.name for path in run.finish().parent.iterdir()} == {
        "manifest.json", "out.ipynb", "result.txt", ".ipynb_checkpoints"
    }  # fmt: skip


def test_paths_for_the_user_are_final():
    run = begin()
    path = run.save_table([{"a": 1}], "table")
    assert ".unfinished" in str(path) and run.final_path(path) == run.final_folder / "table.csv"
    run.finish()
    assert run.final_path(path := run.save_table([{"a": 1}], "table")) == path


def test_an_interval_is_no_list_of_three_numbers(capsys):
    run = begin()
    bounded = metrics.interval([0.9, 0.99, 1.0], bounds=metrics.FRACTION)
    run.report(accuracy=bounded, alone=metrics.interval([0.5]), means=[0.992, 0.87, 0.835], both=[bounded, bounded])
    scores = read(run.finish().parent)["scores"]
    assert scores["accuracy"] == {"mean": bounded.mean, "low": bounded.low, "high": 1.0}
    assert scores["alone"] == {"mean": 0.5, "low": None, "high": None}
    assert scores["means"] == [0.992, 0.87, 0.835]
    result = runner.Result("NN_test", "A title", run.folder, manifest=run.manifest())
    page = runner.write_index([result], run.base, "smoke").read_text()
    runner.print_summary([result], run.base / "index.html", 1.0)
    for text in (page, capsys.readouterr().out):
        assert f"accuracy = 0.9633 [{bounded.low:.4g}, 1]" in text
        assert "alone = 0.5" in text and "alone = 0.5 [" not in text
        assert "means = 0.992, 0.87, 0.835" in text


def test_auto_is_the_device_that_the_library_picks():
    assert begin(device="auto").device == pick_device("auto")
    assert begin(device="cpu").device.type == "cpu"


def test_figures_and_tables_land_in_the_folder(tmp_path):
    from matplotlib.figure import Figure
    from PIL import Image

    run = begin(out_dir="mine")
    assert run.folder == tmp_path / "mine.unfinished"
    assert run.save_figure(Figure(), "empty").read_bytes().startswith(b"\x89PNG")
    run.cells = ["", "first cell", "second cell"]
    fig = Figure()
    fig.add_subplot(title="Waves", xlabel="spatial frequency (1/Å)", ylabel="power").plot([1, 2], label="source")
    with Image.open(run.save_figure(fig, "waves")) as image:
        assert image.info["Description"] == "Waves; power against spatial frequency (1/Å); source"
        assert image.info["Cell"] == "2"
    assert run.save_table([{"a": 1, "b": 2}], "table").read_text().splitlines() == ["a,b", "1,2"]


def test_generators_depend_on_seed_and_tag_alone():
    draw = {(seed, tag): begin(seed=seed).generator(tag).initial_seed() for seed in (0, 1) for tag in ("a", "b")}
    assert len(set(draw.values())) == 4
    begin(seed=0).generator("other")
    assert begin(seed=0).generator("a").initial_seed() == draw[0, "a"]
    assert draw[0, "a"] == 4950127121108668649, "a generator's seed must not change between versions or machines"


CELLS = [
    (
        "parameters",
        'profile: str = "smoke"  # how much work\nseed: int = 0  # of every generator\nout_dir: str = ""  # where',
    ),
    (None, 'from cryoshift_core.course import run as runs\nrun = runs.begin("00_tiny", globals())'),
    (None, "run.report(drawn=run.generator('x').initial_seed())\nprint(list(run.progress(range(3), 'counting')))"),
    (None, "if seed == 7:\n    raise runs.InputError('Seven is refused; expected another.')\nrun.finish();"),
]


@pytest.fixture
def tiny(tmp_path):
    cells = [nbformat.v4.new_markdown_cell("# A tiny notebook")]
    for tag, source in CELLS:
        cells.append(nbformat.v4.new_code_cell(source, metadata={"tags": [tag]} if tag else {}))
    metadata = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    (tmp_path / "notebooks").mkdir()
    path = tmp_path / "notebooks" / "00_tiny.ipynb"
    nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata=metadata), path)
    return path


def papermill_cli(tiny, *arguments, out="out.ipynb"):
    runner.own_kernel_first()
    command = [sys.executable, "-m", "papermill", str(tiny), str(out), "--no-progress-bar", *arguments]
    return subprocess.run(command, capture_output=True, text=True, env=os.environ.copy())


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["-p", "seed", "three"], "Parameter 'seed' is 'three' (str); expected a whole number"),
        (["-p", "sede", "3"], "Unknown parameter 'sede' is 3"),
        (["-p", "seed", "7"], "Seven is refused; expected another."),
    ],
)
def test_papermill_fails_with_one_line_and_no_traceback(tiny, arguments, words):
    done = papermill_cli(tiny, *arguments)
    assert done.returncode != 0
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("InputError: ") and words in last
    cells = nbformat.read("out.ipynb", as_version=4).cells
    errors = [out for cell in cells for out in cell.get("outputs", []) if out.output_type == "error"]
    assert len(errors) == 1 and len(errors[0].traceback) == 1 and errors[0].traceback[0].startswith("InputError: ")


def test_papermill_runs_a_good_notebook(tiny):
    done = papermill_cli(tiny, "-p", "seed", "5", "-p", "out_dir", "mine")
    assert done.returncode == 0, done.stderr
    assert read(Path("mine"))["parameters"] == {"profile": "smoke", "seed": 5, "out_dir": "mine"}


def test_papermill_may_write_into_the_final_folder(tiny):
    folder = Path("runs/smoke/00_tiny")
    folder.mkdir(parents=True)
    for seed in ("5", "6"):
        done = papermill_cli(tiny, "-p", "seed", seed, out=folder / "out.ipynb")
        assert done.returncode == 0, done.stderr
        assert {path.name for path in folder.iterdir()} == {"manifest.json", "out.ipynb"}
        assert read(folder)["parameters"]["seed"] == int(seed)
        cells = nbformat.read(folder / "out.ipynb", as_version=4).cells
        assert cells[-1].execution_count and not cells[-1].metadata.papermill.exception
    (aside,) = folder.parent.glob("00_tiny.2*")
    assert read(aside)["parameters"]["seed"] == 5


def run_series(tiny, capsys, *arguments):
    code = runner.main(["--profile", "smoke", "--notebooks", str(tiny.parent), "--jobs", "1", *arguments])
    return code, capsys.readouterr()


def test_the_series_goes_on_after_a_failure_and_exits_1(tiny, capsys):
    broken = nbformat.read(tiny, as_version=4)
    broken.cells[-1].source = "print(1)\n1 / 0"
    nbformat.write(broken, tiny.with_name("01_broken.ipynb"))
    nbformat.write(nbformat.read(tiny, as_version=4), tiny.with_name("02_also.ipynb"))
    code, said = run_series(tiny, capsys)
    assert code == 1
    assert "[1/3] 00_tiny: starting" in said.out and "[1/3] 00_tiny: finished" in said.out
    assert "01_broken: FAILED in cell [5]: ZeroDivisionError: division by zero" in said.out
    assert "[3/3] 02_also: finished" in said.out and "drawn = " in said.out
    for folder, name in (("00_tiny", "00_tiny"), ("01_broken.unfinished", "01_broken"), ("02_also", "02_also")):
        for ending in ("ipynb", "html"):
            assert Path(f"runs/smoke/{folder}/{name}.{ending}").is_file()
    assert not Path("runs/smoke/01_broken").exists()
    manifest = read(Path("runs/smoke/01_broken.unfinished"))
    assert manifest["status"] == "failed" and "ZeroDivisionError" in manifest["error"]
    cells = nbformat.read("runs/smoke/00_tiny/00_tiny.ipynb", as_version=4).cells
    (stream,) = [out.text for cell in cells for out in cell.get("outputs", []) if out.output_type == "stream"]
    assert "counting: 100%" in stream and "0/3" not in stream and "[0, 1, 2]" in stream
    index = Path("runs/smoke/index.html").read_text()
    assert "A tiny notebook" in index and "ZeroDivisionError" in index and 'href="00_tiny/00_tiny.html"' in index
    assert 'href="01_broken.unfinished/01_broken.html"' in index


def test_a_failing_notebook_leaves_the_results_of_the_earlier_run_alone(tiny, tmp_path):
    out = tmp_path / "out"
    assert runner.execute(tiny, out, {"seed": 1}).error == ""
    (out / "old.txt").write_text("old")
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    failed = runner.execute(tiny, out, {"seed": 7})
    assert "Seven is refused" in failed.error and failed.folder == unfinished(out)
    assert failed.manifest["parameters"]["seed"] == 7
    refused = runner.execute(tiny, out, {"seed": -1})
    assert "'seed' is -1" in refused.error and refused.manifest == {}
    assert {path.name for path in unfinished(out).iterdir()} == {"00_tiny.ipynb", "00_tiny.html"}
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before

    third = runner.execute(tiny, out, {"seed": 2})
    assert third.error == "" and third.folder == out and third.manifest["parameters"]["seed"] == 2
    assert {path.name for path in out.iterdir()} == {"00_tiny.ipynb", "00_tiny.html", "manifest.json"}
    (aside,) = tmp_path.glob("out.2*")
    assert {path.name: path.read_bytes() for path in aside.iterdir()} == before
    assert not unfinished(out).exists()


def test_a_notebook_that_is_refused_beside_a_running_one_writes_nothing_there(tiny, tmp_path):
    runner.execute(tiny, tmp_path / "out", {"seed": 7})
    folder = unfinished(tmp_path / "out")
    manifest = read(folder)
    alive = {"status": "unfinished", "process": manifest["process"] | {"pid": 1, "host": "another"}}
    (folder / "manifest.json").write_text(json.dumps(manifest | alive))
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    result = runner.execute(tiny, tmp_path / "out", {"seed": 1})
    assert "Process 1 on another has been writing" in result.error
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["-p", "sede=3"], "Unknown parameter 'sede' is '3'; expected one of profile (str), seed (int), out_dir (str)"),
        (["-p", "sede=3"], "did you mean 'seed' (int"),
        (["-p", "seed"], "Option -p is 'seed'; expected NAME=VALUE"),
        (["-p", "seed=three"], "Parameter 'seed' is 'three'"),
        (["-p", "method=mada"], "Unknown parameter 'method' is 'mada'; expected one of profile (str)"),
        (["--only", "05"], "--only is 05; expected some of 00_tiny"),
        (["--profile", "lapto"], "did you mean 'laptop'?"),
    ],
)
def test_the_series_refuses_a_bad_command_in_one_line(tiny, capsys, arguments, words):
    code, said = run_series(tiny, capsys, *arguments)
    assert code == 2
    assert said.err.count("\n") == 1 and words in said.err and not said.out


def test_a_number_selects_one_notebook_and_not_the_one_after_it(tmp_path):
    for name in ("05_a", "06_b", "06b_c", "07_d", "08_e"):
        (tmp_path / f"{name}.ipynb").touch()

    def chosen(*only):
        return [path.stem for path in runner._select(tmp_path, list(only) or None)]

    assert chosen() == ["05_a", "06_b", "06b_c", "07_d"]
    assert chosen("06") == ["06_b"] and chosen("06b") == ["06b_c"] and chosen("05", "06b") == ["05_a", "06b_c"]
    assert chosen("06_b") == ["06_b"] and chosen("0") == ["05_a", "06_b", "06b_c", "07_d", "08_e"]


def test_another_kernel_of_the_user_does_not_shadow_ours(tiny, tmp_path, monkeypatch):
    kernel = tmp_path / "jupyter" / "kernels" / "python3"
    kernel.mkdir(parents=True)
    spec = {"argv": ["false"], "display_name": "not ours", "language": "python"}
    (kernel / "kernel.json").write_text(json.dumps(spec))
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path / "jupyter"))
    monkeypatch.setenv("JUPYTER_DATA_DIR", str(tmp_path / "jupyter"))
    result = runner.execute(tiny, tmp_path / "out", {"profile": "smoke"})
    assert result.error == "" and result.manifest["status"] == "finished"


def test_more_classes_than_the_profiles_own_take_more_subtomograms_and_steps():
    laptop = profiles.PROFILES["laptop"]
    assert laptop.for_classes(laptop.classes) == laptop
    few, many = laptop.for_classes(("TRiC", "ice")), laptop.for_classes([f"{i}.mrc" for i in range(21)])
    assert few.classes == ("TRiC", "ice") and (few.n_source, few.steps) == (laptop.n_source, laptop.steps)
    assert (many.n_source, many.n_validation, many.steps) == (3 * 2100, 3 * 420, 3 * 400)
    assert (many.n_target, many.batch) == (laptop.n_target, laptop.batch)
