"""compare: one table, two rows a run, resumable, with a script's own method, and never a label on own data."""

import csv
import os
import subprocess
import sys

import pytest
import torch
from helpers.files import ROOT

import cryoshift_core as cs
from cryoshift_core import data
from cryoshift_core.benchmark import compare, compare_command
from cryoshift_core.errors import InputError
from cryoshift_core.simulation import datasets

SCRIPT = """
import sys
import cryoshift_core as cs
from cryoshift_core.losses import coral

cs.register(
    "mine", terms={"source": 1.0, "my_coral": lambda b: b.reversal * coral(b.features_aligned, b.features_t)}
)

if __name__ == "__main__":
    table = cs.compare(
        ["source_only", "mine"], "in_situ_1", [0, 1], grid={"steps": [2]}, profile="smoke", out="out",
        jobs=int(sys.argv[1]),
    )
    print(table)
"""


def rows(path):
    with path.open(newline="") as f:
        return list(csv.DictReader(f))


def script(folder, *arguments):
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "mine.py", *arguments]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)


@pytest.mark.parametrize("jobs", ["1", "2"])
def test_a_method_of_a_script_takes_part_and_the_call_goes_on(tmp_path, jobs):
    (tmp_path / "mine.py").write_text(SCRIPT)
    done = script(tmp_path, jobs)
    assert done.returncode == 0, done.stderr
    table = rows(tmp_path / "out" / "compare.csv")
    assert len(table) == 2 * 2 * 2 and {row["status"] for row in table} == {"finished"}
    assert {(row["method"], row["seed"], row["model"]) for row in table} == {
        (method, seed, model) for method in ("source_only", "mine") for seed in "01" for model in compare.MODELS
    }
    assert all(0 <= float(row["balanced_accuracy"]) <= 1 and row["p:steps"] == "2" for row in table)
    assert "| in_situ_1 | mine | 2 | as chosen | 2 | balanced_accuracy |" in done.stdout
    # one row is lost: the same call runs that one alone, and gets the same number
    path = tmp_path / "out" / "compare.csv"
    lost = next(row for row in table if row["method"] == "mine" and row["seed"] == "1")
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(line for line in lines if not line.startswith(lost["run"])))
    again = script(tmp_path, jobs)
    assert "4 runs, 3 of them in" in again.stdout and "[1/1] mine in_situ_1 seed 1" in again.stdout
    timing = ("seconds", "cpu_seconds", "commit")
    plain = [{name: value for name, value in row.items() if name not in timing} for row in rows(path)]
    assert sorted(map(str, plain)) == sorted(
        str({name: value for name, value in row.items() if name not in timing}) for row in table
    )
    # another loss under the same name is another method
    (tmp_path / "mine.py").write_text(SCRIPT.replace("b.reversal * coral", "0.5 * b.reversal * coral"))
    assert "4 runs, 2 of them in" in script(tmp_path, jobs).stdout
    assert len(rows(path)) == len(table)


def test_a_method_that_other_processes_do_not_know_is_refused(tmp_path, monkeypatch):
    monkeypatch.setitem(compare.METHODS, "only_here", compare.METHODS["coral"])
    with pytest.raises(InputError, match="do not know the method only_here.*jobs=1"):
        compare.compare(["only_here"], "in_situ_1", [0, 1], profile="smoke", out=tmp_path, jobs=2, progress=False)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"methods": ["madda"]}, "did you mean 'mada'"),
        ({"targets": "in_situ_9"}, "did you mean 'in_situ_1'"),
        ({"profile": "smok"}, "did you mean 'smoke'"),
        ({"grid": {"weigths.mada": [1]}}, "did you mean 'weights.mada'"),
        ({"grid": {"weights.coral": [1]}}, "expected parameters out of"),
        ({"grid": {"steps": [1.5]}}, "expected int for steps, got 1.5"),
        ({"grid": {"steps": 3}}, "expected a list of values"),
        ({"grid": {"steps": []}}, "expected a list of values"),
        ({"grid": {"without": ["madda"]}}, "did you mean 'mada'"),
        ({"grid": {"without": ["source"]}}, "no term with source labels"),
        ({"jobs": 0}, "jobs of at least 1"),
        ({"modules": ["none.py"]}, "got no file"),
        ({"modules": ["no_such_module"]}, "no_such_module"),
        ({"labels": data.HeldOutLabels(torch.zeros(3).long(), ("a",))}, "go with own data"),
    ],
)
def test_what_is_wrong_is_said_before_anything_runs(tmp_path, given, words):
    arguments = {"methods": ["source_only", "mada"], "targets": "in_situ_1", "profile": "smoke"} | given
    with pytest.raises(InputError, match=words):
        compare.compare(**arguments, seeds=[0], out=tmp_path / "out", progress=False)
    assert not (tmp_path / "out").exists()


def test_a_parameter_that_a_method_lacks_does_not_multiply_its_runs():
    found = compare.runs(["source_only", "mada"], ["in_situ_1"], [0], {"weights.mada": [0.3, 1]}, "smoke")
    assert [str(run) for run in found] == [
        "source_only in_situ_1 seed 0",
        "mada in_situ_1 seed 0 weights.mada=0.3",
        "mada in_situ_1 seed 0 weights.mada=1",
    ]
    swept = compare.runs(["cryoshift"], ["in_situ_1"], [0, 1], {"data_seed": [7], "without": ["", "mada+crowding"]})
    assert {run.data_seed for run in swept} == {7} and len(swept) == 4
    assert swept[-1].config_changes("cryoshift")["without"] == ("mada", "crowding")
    assert swept[-1].config_changes("source_only")["without"] == ()


@pytest.fixture(scope="module")
def own():
    source = cs.simulate_source(["ribosome_80S", "TRiC"], 40, box=24, voxel_size=16.0, progress=False)
    target = cs.simulate_target("in_situ_1", ["ribosome_80S", "TRiC"], 30, box=24, voxel_size=16.0, progress=False)
    return source, target


def test_own_data_are_scored_without_labels(tmp_path, own, monkeypatch):
    source, target = own
    monkeypatch.setattr(datasets, "load_labels", lambda *_, **__: pytest.fail("labels were read"))
    config = datasets.DatasetConfig("in_situ_1", source.classes, 60, 24, 16.0, "background", seed=1)
    boxes = datasets.simulate_background(config, progress=False)
    options = {"source": source, "background": boxes, "profile": "smoke", "out": tmp_path, "progress": False}
    table = compare.compare(["source_only", "cryoshift"], {"mine": target}, [0], grid={"steps": [2]}, **options)
    assert table.failed == {} and len(table.rows) == 4
    for row in table.rows:
        assert row["target"] == "mine" and "balanced_accuracy" not in row
        assert 0 <= float(row["spike_balanced_accuracy"]) <= 1 and 0 < float(row["confidence"]) <= 1
    assert "| mine | cryoshift | 2 | as chosen | 1 | confidence |" in str(table)
    # other data under the same name are other runs
    other = compare.compare(["source_only"], {"mine": target.subset(torch.arange(20))}, [0], **options)
    assert len(other.rows) == 6


def test_classes_of_own_data_may_be_files(tmp_path, own):
    _, target = own
    config = datasets.DatasetConfig("in_situ_1", ("ribosome_80S", "TRiC"), 120, 24, 16.0, "background", seed=1)
    boxes = datasets.simulate_background(config, progress=False)
    classes = ("ribosome_80S", str(ROOT / "tests" / "data" / "1auy.pdb.gz"))
    options = {"classes": classes, "background": boxes, "profile": "smoke", "out": tmp_path, "progress": False}
    table = compare.compare(["cryoshift"], {"mine": target}, [0], grid={"steps": [2]}, **options)
    assert table.failed == {} and float(table.rows[0]["spike_balanced_accuracy"]) >= 0


def test_a_labelled_target_is_refused_and_held_out_labels_only_score(tmp_path, own):
    source, target = own
    for given in ({"mine": source}, [source]):
        with pytest.raises(InputError, match="labels=HeldOutLabels"):
            compare.compare(["source_only"], given, [0], profile="smoke", out=tmp_path, progress=False)
    labels = data.HeldOutLabels(torch.arange(len(target)) % 2, source.classes)
    options = {"source": source, "profile": "smoke", "out": tmp_path, "progress": False, "grid": {"steps": [2]}}
    with pytest.raises(InputError, match="oracle"):
        compare.compare(["oracle"], target, [0], labels=labels, **options)
    scored = compare.compare(["mada"], target, [0], labels=labels, **options)
    plain = compare.compare(["mada"], target, [0], **options)
    assert scored.rows[0]["balanced_accuracy"] and len(plain.rows) == 4
    assert plain.rows[0]["confidence"] == plain.rows[2]["confidence"], "labels change no model"


def test_a_run_that_fails_has_a_row_and_the_others_go_on(tmp_path, monkeypatch, capsys):
    def broken(batch):
        raise RuntimeError("no such tensor")

    term = compare.TERMS["source"]
    monkeypatch.setitem(compare.TERMS, "broken", type(term)(broken))
    recipe = compare.METHODS["source_only"]
    monkeypatch.setitem(compare.METHODS, "bad", type(recipe)((*recipe.terms, ("broken", 1.0)), "fails"))
    options = {"grid": {"steps": [2]}, "profile": "smoke", "out": tmp_path}
    table = compare.compare(["bad", "source_only"], "in_situ_1", [0], **options)
    assert list(table.failed.values()) == ["no such tensor"]
    assert {(r["method"], r["status"]) for r in table.rows} == {("bad", "failed"), ("source_only", "finished")}
    assert "FAILED: no such tensor; about" in capsys.readouterr().out
    again = compare.compare(["bad"], "in_situ_1", [0], **options)
    assert list(again.failed.values()) == ["no such tensor"], "a failed run is tried again"


def test_the_command(tmp_path, capsys):
    arguments = ["--profile", "smoke", "--seeds", "0", "--grid", "steps=2,3", "--out", str(tmp_path)]
    assert compare_command.main(["--methods", "source_only", *arguments]) == 0
    assert len(rows(tmp_path / "compare.csv")) == 4
    assert compare_command.main(["--methods", "source_onl", *arguments]) == 2
    assert compare_command.main(["--methods", "source_only", "--grid", "steps"]) == 2
    assert capsys.readouterr().err.count("InputError: ") == 2
    assert compare_command.read_grid(["a=0.3,1,x"]) == {"a": [0.3, 1, "x"]}
