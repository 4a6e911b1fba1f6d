"""Ctrl-C in the simulation, the training and the prediction: the same command goes on, and earlier results stay."""

import os
import re
import shutil
import signal
import subprocess
import sys
import time

import pytest
from helpers.files import ROOT

# Runs the command, says on standard error what it simulates and trains, and waits for ctrl-C at the call that is named.
WATCHED = """
import sys, time
from pathlib import Path
from cryoshift_core import __main__ as command_line, training
from cryoshift_core.application.classifier import Classifier
from cryoshift_core.simulation import datasets

place, number, reached = sys.argv[1], int(sys.argv[2]), Path(sys.argv[3])
counts = {}

def watched(module, name, tell):
    plain = getattr(module, name)
    def call(*arguments, **options):
        counts[name] = counts.get(name, 0) + 1
        if (name, counts[name]) == (place, number):
            reached.touch()
            time.sleep(120)
        told = tell(*arguments)
        if told:
            print("DID", told, file=sys.stderr, flush=True)
        return plain(*arguments, **options)
    setattr(module, name, call)

watched(datasets, "_simulate", lambda config, *_: f"simulate {config.split} {config.n}")
watched(training, "_step", lambda *_: "")
watched(training, "_train", lambda state, *_: f"train {state.config.steps - state.step} steps")
watched(Classifier, "predict", lambda *_: "predict")
if "--model" in " ".join(sys.argv):
    from cryoshift_core.application import in_parts, pipeline, target_data

    target_data.STREAMED, in_parts.PART = 0, 16  # all boxes are cut when they are used, 16 at a time
    watched(in_parts, "outputs", lambda _, x, **__: f"part of {len(x)}")
    watched(pipeline, "write_results", lambda *_, **__: "")
sys.exit(command_line.main(sys.argv[4:]))
"""


def start(folder, out, place="", number=0, model=None):
    given = [f"--tomogram={folder / 'tomo_7.mrc'}", f"--coordinates={folder / 'particles.star'}"]
    given += ["--device=cpu", f"--out_dir={out}"]
    given += [f"--model={model}"] if model else ["--box=24", "--classes=TRiC,apoferritin", "--profile=smoke"]
    command = [sys.executable, "-c", WATCHED, place or "nowhere", str(number), str(out.parent / "reached"), "classify"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen([*command, *given], env=environment, cwd=out.parent, **pipes)


def finish(process):
    out, errors = process.communicate(timeout=400)
    return process.returncode, out, errors, [line[4:] for line in errors.splitlines() if line.startswith("DID ")]


def stopped(process, folder):
    """What a process has said that was sent ctrl-C when it had reached its place."""
    deadline = time.monotonic() + 300
    while not (folder / "reached").exists():
        assert process.poll() is None and time.monotonic() < deadline, process.stderr.read()
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    return finish(process)


@pytest.fixture(scope="module")
def whole(tomogram_folder, tmp_path_factory):
    """The folder of a run that was not interrupted, and what it did."""
    out = tmp_path_factory.mktemp("whole") / "out"
    code, _, errors, did = finish(start(tomogram_folder, out))
    assert code == 0, errors
    return out, did


SIMULATED = ["simulate source 48", "simulate validation 24"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("place", "number", "words", "again"),
    [
        ("_simulate", 2, "Stopped in simulation: what is simulated so far is kept; ", SIMULATED[1:]),
        ("_train", 2, "Stopped in training: training is kept; ", ["train 0 steps", "train 6 steps", "train 6 steps"]),
        ("_step", 11, "Stopped in training: training is kept; ", ["train 0 steps", "train 2 steps", "train 6 steps"]),
        ("predict", 2, "Stopped in prediction: training is kept; ", ["train 0 steps"] * 3),
    ],
)
def test_the_same_command_goes_on(tomogram_folder, tmp_path, whole, place, number, words, again):
    earlier, did = whole
    assert [line for line in did if "train" in line] == ["train 6 steps"] * 3 and did[-1] == "predict"
    out = tmp_path / "out"
    shutil.copytree(earlier, out)
    (out / "notes.txt").write_text("mine")
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    code, _, errors, _ = stopped(start(tomogram_folder, out, place, number), tmp_path)
    assert code == 130 and f"{words}the same command goes on." in errors and "Traceback" not in errors
    assert {path: path.read_bytes() for path in out.rglob("*") if path.is_file()} == before, "earlier results stay"

    code, printed, errors, repeated = finish(start(tomogram_folder, out))
    assert code == 0, errors
    assert f"going on from what an earlier run has left in {tmp_path / 'out.kept'}" in printed
    kind = "simulate" if place == "_simulate" else "train"
    assert [line for line in repeated if line.startswith(kind)][: len(again)] == again, repeated
    assert SIMULATED[0] not in repeated, "it was kept"
    for name in ("predictions.star", "spike_in.csv", "purity.csv"):
        assert (out / name).read_bytes() == (earlier / name).read_bytes(), name
    names = sorted(path.name for path in tmp_path.iterdir())
    (aside,) = [name for name in names if name.startswith("out.2")]
    assert names == ["out", aside, "reached"] and (tmp_path / aside / "notes.txt").is_file()


def parts(errors):
    """Numbers of the boxes that were predicted together; a progress bar stands in the same lines."""
    return [int(n) for n in re.findall(r"DID part of (\d+)", errors)]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("place", "number", "left"),
    [("outputs", 1, [16, 16, 16, 12]), ("outputs", 3, [16, 12]), ("write_results", 1, [])],
)
def test_a_classification_that_streams_goes_on(tomogram_folder, tmp_path, whole, place, number, left):
    earlier, _ = whole
    model = earlier / "model.safetensors"
    code, _, errors, _ = finish(start(tomogram_folder, tmp_path / "plain", model=model))
    assert code == 0 and parts(errors) == [16, 16, 16, 12], errors
    out = tmp_path / "out"
    shutil.copytree(earlier, out)
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    code, _, errors, _ = stopped(start(tomogram_folder, out, place, number, model), tmp_path)
    assert code == 130 and "what is predicted so far is kept; the same command goes on." in errors, errors
    assert {path: path.read_bytes() for path in out.rglob("*") if path.is_file()} == before, "earlier results stay"
    code, _, errors, _ = finish(start(tomogram_folder, out, model=model))
    assert code == 0 and parts(errors) == left, errors
    assert (out / "predictions.star").read_bytes() == (tmp_path / "plain" / "predictions.star").read_bytes()
    assert not list(tmp_path.glob("out.kept")) and len(list(tmp_path.glob("out.2*"))) == 1, "moved aside"
