"""`python -m cryoshift_core run`: wrong parameters start no kernel, folders have names, done.json comes last."""

import json
import textwrap

import nbformat
import pytest
from helpers.files import ROOT

from cryoshift_core import training
from cryoshift_core.application import manifest
from cryoshift_core.application.manifest import Manifest
from cryoshift_core.course import run_command
from cryoshift_core.course.run import begin
from cryoshift_core.errors import InputError

PARAMETERS = """
profile: str = "smoke"  # how much work
scenario: str = "in_situ_1"  # the target domain
methods: str = ""  # more methods
weights: str = ""  # of loss terms
without: str = ""  # what to leave out
steps: int = 0  # of each fit
lr: float = 0.0  # learning rate
seed: int = 0  # every random draw
data_seed: int = -1  # of the data
out_dir: str = ""  # where to write
"""
BEGIN = 'from cryoshift_core.course.run import begin\nrun = begin("07_tiny", globals())'
END = """
assert run.params.seed != 13, "unlucky"
run.report(accuracy_mada=0.5, steps_taken=run.profile.steps, lr=run.training["config"].lr, data=run.data_seed)
run.finish()
"""


@pytest.fixture
def notebook(tmp_path, monkeypatch):
    """07_tiny.ipynb in notebooks/ of an otherwise empty folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    cells = [nbformat.v4.new_code_cell(textwrap.dedent(text).strip()) for text in (PARAMETERS, BEGIN, END)]
    cells[0].metadata["tags"] = ["parameters"]
    path = tmp_path / "notebooks" / "07_tiny.ipynb"
    path.parent.mkdir()
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata={"kernelspec": kernel}), path)
    return path


def command(*arguments):
    return run_command.main([str(argument) for argument in arguments])


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (("-p", "sed", "1"), ["Unknown parameter 'sed'", "did you mean 'seed'"]),
        (("-p", "seed", "1.5"), ["'seed' is 1.5 (float)", "whole number"]),
        (("-p", "lr", "fast"), ["'lr' is 'fast' (str)"]),
        (("-p", "scenario", "in_situ_9"), ["did you mean 'in_situ_1'?"]),
        (("-p", "methods", "mada,madda"), ["got 'madda'", "did you mean 'mada'?"]),
        (("-p", "weights", "mada"), ["mada:0.3"]),
        (("-p", "weights", "mda:1"), ["did you mean 'mada'?"]),
        (("-p", "weights", "mada:-1"), ["weights from 0 upwards"]),
        (("-p", "weights", "coral:1"), ["names coral, which none of cryoshift, source_only has"]),
        (("-p", "without", "histogramm"), ["did you mean 'histogram'?"]),
        (("-p", "without", "source"), ["leaves 'source_only' no term"]),
        (("-p", "methods", "mada,oracle"), ["'methods' names oracle, which learns from target labels"]),
        (("-p", "sed", "1", "-p", "steps", "-1"), ["'sed'", "'steps' is -1"]),
    ],
)
def test_a_wrong_parameter_is_one_line_and_starts_no_kernel(notebook, monkeypatch, capsys, given, words):
    monkeypatch.setattr(run_command, "execute", lambda *_: pytest.fail("a kernel was started"))
    assert command("07", *given) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and error.startswith("InputError: ")
    for word in words:
        assert word in error
    assert not (notebook.parents[1] / "runs").exists()


@pytest.mark.parametrize("method", ["source_only", "oracle"])
def test_a_bound_is_no_method_under_test(method):
    """Notebook 05 trains both beside the method: a sweep over them would fail run by run."""
    path = ROOT / "notebooks" / "05_evaluation.ipynb"
    with pytest.raises(InputError, match="'method'.*anyway"):
        run_command.checked(path, {"method": method})
    assert run_command.checked(path, {"method": "mada", "methods": "source_only"})
    if method == "source_only":  # of notebook 06 it is one
        assert run_command.checked(ROOT / "notebooks" / "06_your_own_subtomograms.ipynb", {"method": method})


def test_an_unknown_notebook_names_those_there_are(notebook, capsys):
    assert command("08") == 2
    assert "07_tiny" in capsys.readouterr().err
    assert run_command.find("7") == run_command.find("07_t") == notebook


def test_parameters_are_listed_with_type_default_and_help(notebook, capsys):
    assert command("07", "--help-parameters") == 0 == command("--list")
    for line in capsys.readouterr().out.split("\n\n"):
        assert "lr         float  0.0          learning rate" in line


def test_the_folder_tells_the_parameters_apart(notebook):
    def name(**given):
        return run_command.folder_name(notebook, run_command.checked(notebook, given))

    assert name(profile="smoke") == "07_tiny" == name(seed=0)
    assert name(seed=3, weights="mada:0.3") == "07_tiny-weights=mada~0.3-seed=3"
    assert name(methods="mada, dann") != name(methods="dann, mada")
    assert len(name(methods="mada,dann,coral,mmd,mcc", without="mada,histogram,spectrum", seed=2**30)) <= 120


def test_a_run_and_its_manifest(notebook, capsys):
    given = ("-p", "steps", "3", "-p", "lr", "0.1", "-p", "seed", "2", "-p", "data_seed", "5")
    assert command("07", *given) == 0
    folder = notebook.parents[1] / "runs" / "smoke" / "07_tiny-steps=3-lr=0.1-seed=2-data_seed=5"
    assert capsys.readouterr().out.splitlines()[-1].endswith(str(folder))
    content = json.loads((folder / "manifest.json").read_text())
    typed = manifest.read(folder / "manifest.json")
    assert isinstance(typed, Manifest) and typed.schema_ == 1 and typed.profile["steps"] == 3
    assert content["scores"] == {"accuracy_mada": 0.5, "steps_taken": 3, "lr": 0.1, "data": 5}
    first, second = typed.numbers[:2]
    assert (first.name, first.value, first.unit) == ("accuracy", 0.5, "fraction")
    assert first.of == {"scenario": "in_situ_1", "seed": "2", "method": "mada"}
    assert (second.name, second.unit) == ("steps_taken", "count")
    done = folder / "done.json"
    assert done.stat().st_mtime >= max(path.stat().st_mtime for path in folder.iterdir())
    # the same again: nothing is overwritten, and a line says where the earlier results are
    assert command("07", *given) == 0
    assert f"{folder} holds a run of" in capsys.readouterr().out
    aside = [path for path in folder.parent.iterdir() if path.is_dir() and path.name.startswith(f"{folder.name}.")]
    assert len(aside) == 1 and manifest.read(aside[0] / "manifest.json").id == typed.id


def test_a_fit_gets_the_changes_that_its_method_has(notebook, monkeypatch):
    given = {"profile": "smoke", "seed": 4, "data_seed": 5, "steps": 3, "lr": 0.1, "methods": "mada"}
    given |= {"weights": "mada:0.3", "without": "crowding"}
    run = begin("07_tiny", {"__annotations__": dict.fromkeys(given), **given})
    seen = {}
    monkeypatch.setattr(training, "fit", lambda method, *data, **options: seen.setdefault(method, options))
    for method in ("source_only", "cryoshift", *run.methods):
        run.fit(method, None, None, None, 9 if method == "mada" else None)
    assert [seen[m]["config"].weights for m in seen] == [{}, {"mada": 0.3}, {"mada": 0.3}]
    assert [seen[m]["config"].without for m in seen] == [(), ("crowding",), ()]
    assert {(options["config"].steps, options["config"].lr) for options in seen.values()} == {(3, 0.1)}
    assert [options["seed"] for options in seen.values()] == [4, 4, 9] and run.data_seed == 5
    assert len(list(run.fits_folder.glob("*.lock"))) == 3


def test_a_failed_run_says_where_and_is_not_done(notebook, capsys):
    assert command("07", "-p", "seed", "13") == 1
    assert "AssertionError: unlucky" in capsys.readouterr().err
    folder = notebook.parents[1] / "runs" / "smoke" / "07_tiny-seed=13.unfinished"
    assert manifest.read(folder / "manifest.json").status == "failed"
    assert not (folder / "done.json").exists()


def test_a_file_of_parameters(notebook, tmp_path, capsys):
    (tmp_path / "some.yaml").write_text("seed: 4\nlr: 0.5\n")
    assert command("07", "-f", "some.yaml", "-p", "seed", "5", "--check") == 0
    assert capsys.readouterr().out == "07_tiny-lr=0.5-seed=5\n"
    (tmp_path / "some.yaml").write_text("- seed\n")
    assert command("07", "-f", "some.yaml") == 2


@pytest.mark.parametrize(
    "change", [{"schema": 2}, {"extra": 1}, {"numbers": [{"name": "a", "value": "b", "unit": ""}]}]
)
def test_another_schema_is_refused(notebook, change):
    assert command("07") == 0
    path = notebook.parents[1] / "runs" / "smoke" / "07_tiny" / "manifest.json"
    with pytest.raises(InputError, match="expected a manifest of schema 1"):
        manifest.validate(json.loads(path.read_text()) | change)


def test_every_field_of_the_schema_is_documented():
    page = (ROOT / "docs" / "manifest.md").read_text()
    for name, field in Manifest.model_fields.items():
        assert f"`{field.alias or name}`" in page
