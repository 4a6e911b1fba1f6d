"""Picks added to a project of copick itself, and its picks read by us. `make copick` installs it, apart from .venv."""

import json
import os
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from helpers.files import ROOT, mrc

from cryoshift_core.application import picks
from cryoshift_core.application.picks import Picks
from data_fetch import readers

PYTHON = Path(os.environ.get("CRYOSHIFT_COPICK", ROOT / ".venv-copick" / "bin" / "python"))
pytestmark = pytest.mark.skipif(not PYTHON.is_file(), reason=f"{PYTHON} is missing; run make copick")
VOXEL = 13.48
RNG = np.random.default_rng(0)

# Run by the Python that has copick; the last argument is the folder of the project.
MAKE_PROJECT = """
import copick, json, pathlib, sys
base = pathlib.Path(sys.argv[-1])
(base / "overlay").mkdir(parents=True)
objects = [
    {"name": name, "is_particle": True, "pdb_id": pdb, "label": label, "color": [0, 117, 220, 255], "radius": radius}
    for label, (name, pdb, radius) in enumerate([("ribosome-80S", "6ZU5", 150), ("TRiC", "4V8R", 80)], 1)
]
config = {
    "config_type": "filesystem", "name": "test", "description": "a project", "version": copick.__version__,
    "pickable_objects": objects, "overlay_root": f"local://{base}/overlay", "overlay_fs_args": {"auto_mkdir": True},
}
(base / "config.json").write_text(json.dumps(config))
run = copick.from_file(str(base / "config.json")).new_run("TS_3")
"""
READ = """
import copick, json, sys
root = copick.from_file(sys.argv[-1] + "/config.json")
found = {}
for picks in root.get_run("TS_3").get_picks(user_id="cryoshift", session_id="0"):
    points, transforms = picks.numpy()
    found[picks.pickable_object_name] = {
        "points": points.tolist(), "scores": [point.score for point in picks.points],
        "voxel_spacing": picks.meta.voxel_spacing, "identity": bool((transforms == transforms[0]).all()),
        "trust_orientation": picks.trust_orientation,
    }
print(json.dumps(found))
"""
WRITE = """
points = json.loads(sys.argv[1])
picks = run.new_picks(object_name="TRiC", user_id="me", session_id="1")
picks.from_numpy(__import__("numpy").array(points))
picks.store()
"""


def with_copick(script, *arguments):
    """Output of a script in copick's environment."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    command = [str(PYTHON), "-c", script, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, env=environment)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture
def tomogram(tmp_path):
    """A small tomogram on disk, whose name is that of the run."""
    return readers.read_tomogram(mrc(tmp_path / "TS_3.mrc", RNG.normal(size=(31, 44, 57)).astype(np.float32), VOXEL))


def test_copick_reads_our_picks_to_a_hundredth_of_a_voxel(tomogram, tmp_path):
    found = {
        "ribosome_80S": Picks(RNG.random((7, 3)) * (30, 43, 56), np.linspace(0.99, 0.6, 7)),
        "TRiC": Picks(RNG.random((4, 3)) * (30, 43, 56), np.linspace(0.9, 0.5, 4)),
    }
    picks.write(tmp_path, [tomogram], found)
    project = tmp_path / "project"
    with_copick(MAKE_PROJECT, str(project))
    shutil.copytree(tmp_path / "Picks", project / "overlay" / "ExperimentRuns" / "TS_3" / "Picks")
    read = json.loads(with_copick(READ, str(project)).splitlines()[-1])
    assert set(read) == {"ribosome-80S", "TRiC"}
    for name, one in found.items():
        back = read[name.replace("_", "-")]
        zyx = np.array(back["points"])[:, ::-1] / VOXEL
        assert np.abs(zyx - one.zyx).max() < 0.01
        assert back["scores"] == pytest.approx(one.confidence, abs=1e-4)
        assert back["voxel_spacing"] == pytest.approx(VOXEL)
        assert back["identity"] and back["trust_orientation"] is False


def test_we_read_picks_that_copick_stored_to_a_hundredth_of_a_voxel(tomogram, tmp_path):
    zyx = RNG.random((9, 3)) * (30, 43, 56)
    project = tmp_path / "project"
    with_copick(MAKE_PROJECT + WRITE, json.dumps((zyx[:, ::-1] * VOXEL).tolist()), str(project))
    folder = project / "overlay" / "ExperimentRuns" / "TS_3" / "Picks"
    back = readers.read_picks(folder, tomogram)
    assert np.abs(back.zyx - zyx).max() < 0.01
