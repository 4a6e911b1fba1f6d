"""The public interface: light to import, complete, and the ten lines of the package's docstring run as they stand."""

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.files import ROOT

import cryoshift_core
from cryoshift_core.tomography.mrc import write_mrc

LINES = textwrap.dedent(cryoshift_core.__doc__.split("::\n", 1)[1].split("\n\nThe root", 1)[0]).strip().splitlines()


def run(script, folder=ROOT, *arguments):
    """Standard output of a Python script in a process of its own; warnings of this package are errors."""
    command = [sys.executable, "-W", "error", "-c", script, *map(str, arguments)]
    env = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_importing_the_package_is_light():
    """Neither torch nor a wing is imported, and the import takes less than half a second."""
    script = (
        "import sys, time; start = time.perf_counter(); import cryoshift_core\n"
        "seconds = time.perf_counter() - start\n"
        "print(seconds, *(m for m in sys.modules if m.split('.')[0] in ('torch', 'numpy', 'scipy', 'cryoshift_core')))"
    )
    runs = [run(script).split() for _ in range(3)]
    assert runs[0][1:] == ["cryoshift_core"]
    assert min(float(seconds) for seconds, *_ in runs) < 0.5


def test_a_name_loads_its_own_module_only():
    script = (
        "import sys, cryoshift_core\n"
        "cryoshift_core.fit, cryoshift_core.register, cryoshift_core.Classifier, cryoshift_core.load\n"
        "print(*sorted(m for m in sys.modules if m.startswith('cryoshift_core.')))"
    )
    loaded = set(run(script).split())
    wings = ("application", "benchmark", "course", "simulation", "tomography")
    assert "cryoshift_core.training" in loaded
    others = {name.removeprefix("cryoshift_core.") for name in loaded if name.split(".")[1] in wings}
    # a saved classifier knows the features of the target that it was adapted to, and predicts boxes that are streamed
    parts = {"classifier", "in_parts", "reference"}
    assert others == {"application", *(f"application.{name}" for name in parts)}, "no other part of a wing"


@pytest.mark.parametrize("name", cryoshift_core.__all__)
def test_every_public_name_exists_and_says_what_it_is(name):
    public = getattr(cryoshift_core, name)
    assert name in dir(cryoshift_core) and public is getattr(cryoshift_core, name)
    if name != "__version__":
        assert public.__name__ == name and len(public.__doc__.splitlines()[0]) > 20


def test_the_public_names_are_these():
    assert {
        *("simulate_source", "simulate_target", "load_labels", "read_subtomograms", "fit", "select", "load"),
        "extract_subtomograms",
        *("preflight", "open", "Job", "stream_source"),
        "compare",
        *("Classifier", "classify", "register", "Term", "TrainingConfig", "Labelled", "Unlabelled", "HeldOutLabels"),
        *("InputError", "__version__"),
    } == set(cryoshift_core.__all__)
    typed = (Path(cryoshift_core.__file__).parent / "py.typed").is_file()
    assert typed, "type checkers use the hints of an installed package only with this file"
    with pytest.raises(AttributeError, match="no attribute 'fitt'"):
        _ = cryoshift_core.fitt


@pytest.fixture(scope="module")
def particles(tmp_path_factory):
    """A folder with particles.star: simulated target subtomograms in a stack of 32 voxels of 12 A."""
    folder = tmp_path_factory.mktemp("particles")
    target = cryoshift_core.simulate_target(
        "in_situ_1", ["ribosome_80S", "TRiC"], n=24, box=32, voxel_size=12.0, seed=1, progress=False
    )
    write_mrc(folder / "stack.mrcs", target.x[:, 0].numpy(), 12.0)
    rows = "\n".join(f"{i + 1}@stack.mrcs" for i in range(len(target)))
    (folder / "particles.star").write_text(f"data_\n\nloop_\n_rlnImageName #1\n{rows}\n", encoding="utf-8")
    return folder


SAVE_PREDICTIONS = """
import numpy as np
np.savez({path!r}, probabilities=table.probabilities, score=table.score, unknown=table.unknown)
"""


def test_the_ten_lines_of_the_docstring_run_in_two_processes(particles):
    """Trained and saved in one process, loaded and used in another: equal to the last digit.

    Only the sizes are smaller: n=200, and a TrainingConfig of a few steps.
    """
    assert len(LINES) <= 10 and LINES[0] == "import cryoshift_core as cs"
    (load,) = [i for i, line in enumerate(LINES) if line.startswith("cs.load(")]
    first = "\n".join(LINES[:load])
    for full, small in (
        ("n=2000", "n=200"),
        ("seed=0)  # never", "seed=0, config=cs.TrainingConfig(steps=12, batch=8, width=4))  # never"),
    ):
        assert full in first
        first = first.replace(full, small)
    run(first + SAVE_PREDICTIONS.format(path="first.npz"), particles)
    target = next(line for line in LINES if line.startswith("target = "))
    second = f"{LINES[0]}\n{target}\ntable = {LINES[load]}" + SAVE_PREDICTIONS.format(path="second.npz")
    run(second, particles)
    one, two = (np.load(particles / f"{name}.npz") for name in ("first", "second"))
    assert one["probabilities"].shape == (24, 2) and one["score"].std() > 0
    for name in ("probabilities", "score", "unknown"):
        assert np.array_equal(one[name], two[name]), name
    assert torch.allclose(torch.from_numpy(one["probabilities"]).sum(1), torch.ones(24))
