"""Parameters fail before any work, in one sentence and without a traceback; a run's folder says what was done."""

import json
import os
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest

from cryoshift_core.application import profiles
from cryoshift_core.course import parameters, runner
from cryoshift_core.course.run import begin as run_begin
from cryoshift_core.errors import InputError

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
        ({"scenario": "in_situ_9"}, ["'scenario' is 'in_situ_9'", "did you mean 'in_situ_"]),
        ({"contrast": "black"}, ["'contrast' is 'black'", "auto, dark, bright"]),
        ({"device": "cuda:99"}, ["'device' is 'cuda:99'", "cpu"]),
        ({"classes": "ribosme_70S"}, ["ribosme_70S", "neither a file nor a built-in class", "'ribosome_70S'?"]),
        ({"classes": "TRiC,,ice"}, ["a name between commas is empty"]),
        ({"classes": "TRiC,TRiC"}, ["each class once"]),
        ({"subtomograms": "none.mrcs"}, ["'none.mrcs'", "a path that exists"]),
        ({"tomogram": "."}, ["tomogram and coordinates"]),
        ({"coordinates": "."}, ["tomogram and coordinates"]),
        ({"subtomograms": ".", "tomogram": ".", "coordinates": "."}, ["subtomograms alone"]),
        ({"out_dir": 2024}, ["'out_dir' is 2024 (int)", '-r out_dir "2024"']),
        ({"sed": 3}, ["Unknown parameter 'sed' is 3", "did you mean 'seed'?"]),
        ({"epochs": 3}, ["Unknown parameter 'epochs'", "profile, seed"]),
        ({"colour": None}, ["Unknown parameter 'colour'"]),
        ({"extras": {"a": 1}}, ["Unknown parameter 'extras'"]),
    ],
)
def test_a_bad_parameter_is_one_sentence(changed, words):
    message = refused(**changed)
    for word in words:
        assert word in message


def test_all_problems_are_told_at_once():
    message = refused(seed="x", amount=-1, sed=2, contrast="drk")
    for word in ("'seed'", "'amount'", "'sed'", "'dark'?"):
        assert word in message


def test_out_dir_may_not_be_a_file(tmp_path):
    (tmp_path / "taken").write_text("mine")
    assert "a folder" in refused(out_dir="taken")
    assert (tmp_path / "taken").read_text() == "mine"


def test_an_annotated_name_that_nobody_knows_is_refused():
    with pytest.raises(InputError, match="declares sed"):
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
    assert run.folder == tmp_path / "runs" / "smoke" / "NN_test"
    assert json.loads((run.folder / "manifest.json").read_text())["status"] == "unfinished"
    run.report(accuracy=(0.5, 0.4, float("nan")), gap="n/a")
    manifest = json.loads(run.finish().read_text(), parse_constant=pytest.fail)
    assert manifest["status"] == "finished"
    assert manifest["scores"] == {"accuracy": [0.5, 0.4, None], "gap": "n/a"}
    assert manifest["parameters"] == {**GOOD, "classes": "TRiC, mine.mrc"}
    sha = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert manifest["inputs"] == {"mine.mrc": sha}
    assert manifest["peak_memory_mb"] > 10 and manifest["cpu_seconds"] > 0 and manifest["versions"]["torch"]
    assert not list(run.folder.glob("*.partial"))


def test_figures_and_tables_land_in_the_folder(tmp_path):
    from matplotlib.figure import Figure

    run = begin(out_dir="mine")
    assert run.folder == tmp_path / "mine"
    assert run.save_figure(Figure(), "empty").read_bytes().startswith(b"\x89PNG")
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
    (None, "if seed == 7:\n    raise runs.InputError('Seven is refused; wanted another.')\nrun.finish();"),
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


def papermill_cli(tiny, *arguments):
    runner.own_kernel_first()
    command = [sys.executable, "-m", "papermill", str(tiny), "out.ipynb", "--no-progress-bar", *arguments]
    return subprocess.run(command, capture_output=True, text=True, env=os.environ.copy())


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["-p", "seed", "three"], "Parameter 'seed' is 'three' (str); wanted a whole number"),
        (["-p", "sede", "3"], "Unknown parameter 'sede' is 3"),
        (["-p", "seed", "7"], "Seven is refused; wanted another."),
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
    manifest = json.loads(Path("mine/manifest.json").read_text())
    assert manifest["parameters"] == {"profile": "smoke", "seed": 5, "out_dir": "mine"}


def run_series(tiny, capsys, *arguments):
    code = runner.main(["--profile", "smoke", "--notebooks", str(tiny.parent), *arguments])
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
    for name in ("00_tiny", "01_broken", "02_also"):
        assert Path(f"runs/smoke/{name}/{name}.ipynb").is_file() and Path(f"runs/smoke/{name}/{name}.html").is_file()
    cells = nbformat.read("runs/smoke/00_tiny/00_tiny.ipynb", as_version=4).cells
    (stream,) = [out.text for cell in cells for out in cell.get("outputs", []) if out.output_type == "stream"]
    assert "counting: 100%" in stream and "0/3" not in stream and "[0, 1, 2]" in stream
    index = Path("runs/smoke/index.html").read_text()
    assert "A tiny notebook" in index and "ZeroDivisionError" in index and 'href="00_tiny/00_tiny.html"' in index


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["-p", "sede=3"], "'-p sede=3' sets no parameter"),
        (["-p", "seed=three"], "Parameter 'seed' is 'three'"),
        (["-p", "method=mada"], "No selected notebook has the parameter method"),
        (["--only", "05"], "--only 05 names no notebook; wanted some of 00_tiny"),
    ],
)
def test_the_series_refuses_a_bad_command_in_one_line(tiny, capsys, arguments, words):
    code, said = run_series(tiny, capsys, *arguments)
    assert code == 2
    assert said.err.count("\n") == 1 and words in said.err and not said.out


def test_another_kernel_of_the_user_does_not_shadow_ours(tiny, tmp_path, monkeypatch):
    kernel = tmp_path / "jupyter" / "kernels" / "python3"
    kernel.mkdir(parents=True)
    spec = {"argv": ["false"], "display_name": "not ours", "language": "python"}
    (kernel / "kernel.json").write_text(json.dumps(spec))
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path / "jupyter"))
    monkeypatch.setenv("JUPYTER_DATA_DIR", str(tmp_path / "jupyter"))
    result = runner.execute(tiny, tmp_path / "out", {"profile": "smoke"})
    assert result.error == "" and result.manifest["status"] == "finished"


def test_more_classes_than_the_profiles_own_take_more_cubes_and_steps():
    laptop = profiles.PROFILES["laptop"]
    assert laptop.for_classes(laptop.classes) == laptop
    few, many = laptop.for_classes(("TRiC", "ice")), laptop.for_classes([f"{i}.mrc" for i in range(21)])
    assert few.classes == ("TRiC", "ice") and (few.n_source, few.steps) == (laptop.n_source, laptop.steps)
    assert (many.n_source, many.n_validation, many.steps) == (3 * 2100, 3 * 420, 3 * 400)
    assert (many.n_target, many.batch) == (laptop.n_target, laptop.batch)
