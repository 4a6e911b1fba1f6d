"""Data larger than memory: a source that is simulated step by step, and a target that is cut when it is used."""

import subprocess
import sys
from dataclasses import replace

import cloudpickle
import pytest
import torch
from helpers.toy import source, target

import cryoshift_core as cs
from cryoshift_core import training
from cryoshift_core.errors import InputError
from cryoshift_core.support.streamed import StreamedBoxes
from cryoshift_core.training import TrainingConfig

FEW = TrainingConfig(steps=4, batch=6, width=4, evaluations=2, candidates=2)


@pytest.fixture(scope="module")
def endless():
    return cs.stream_source(["ribosome_80S", "ice"], box=16, voxel_size=24.0)


def test_a_streamed_source_gives_the_same_boxes_for_the_same_indices(endless):
    index = torch.tensor([999_999, 4, 123_456, 4, 7, 8, 9, 10, 11, 12])
    x = endless.x[index]
    assert len(endless) == 1_000_000 and x.shape == (10, 1, 16, 16, 16) and torch.equal(x, endless.x[index])
    assert torch.allclose(x.flatten(1).median(1).values, torch.zeros(10), atol=1e-6), "normalised"
    assert not torch.equal(x[1], x[3]), "an index that is drawn twice is not the same subtomogram"
    assert not torch.equal(endless.x[index - 2], x)
    assert torch.equal(cloudpickle.loads(cloudpickle.dumps(endless.x))[index], x), "also in another process"


def test_its_labels_are_those_of_the_molecules(endless):
    some = endless.subset(torch.arange(120))
    centre = some.x[:, 0, 6:10, 6:10, 6:10].mean((1, 2, 3))
    assert centre[some.y == 0].mean() > centre[some.y == 1].mean() + 0.5, "a ribosome is there, ice is not"
    assert some.y.bincount().tolist() == [60, 60] and some.classes == ("ribosome_80S", "ice")


def test_a_million_subtomograms_need_no_memory_and_no_disk(tmp_path):
    """They would be 16 GB; the process may grow by a hundredth of it."""
    script = """
import resource, sys
import cryoshift_core as cs
def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024) / 1e9
classes, size = ["ribosome_80S", "TRiC"], {"box": 16, "voxel_size": 24.0}
validation = cs.simulate_source(classes, 40, split="validation", progress=False, **size)
target = cs.Unlabelled(validation.x, 24.0, validation.groups, "itself")
before = peak()
source = cs.stream_source(classes, 1_000_000, **size)
config = cs.TrainingConfig(steps=6, batch=8, width=4)
fit = cs.fit("source_only", source, target, validation=validation, config=config, device="cpu", progress=False)
assert len(source) == 1_000_000 and len(fit.history["step"]) == 6
print(peak() - before)
"""
    done = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) < 0.2 and not list(tmp_path.iterdir())


def test_a_fit_of_a_streamed_target_is_that_of_the_same_boxes_in_memory(tmp_path):
    t = target()[0]
    streamed = replace(t, x=StreamedBoxes(lambda rows: t.x[rows], len(t), 16))
    options = {"validation": source(30, seed=5), "config": FEW, "device": "cpu", "progress": False}
    one = training.fit("cryoshift", source(), t, **options)
    two = training.fit("cryoshift", source(), streamed, folder=tmp_path, **options)
    again = training.fit("cryoshift", source(), streamed, folder=tmp_path, **options)
    for fit in (two, again):
        assert all(torch.equal(fit.candidates[4][name], value) for name, value in one.candidates[4].items())
    assert len(list(tmp_path.iterdir())) == 1


def test_what_a_streamed_source_needs_is_told(endless):
    t = target()[0]
    with pytest.raises(InputError, match="`validation` beside a streamed source.*split 'validation'"):
        training.fit("source_only", endless, t, config=FEW, device="cpu")
    with pytest.raises(InputError, match="one subtomogram per class, got 2 classes and 1"):
        cs.stream_source(["ribosome_80S", "ice"], 1)
