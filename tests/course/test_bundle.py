"""The archive for a workshop holds what it should, and ./install works without a network.

The test of a whole archive takes minutes; it runs where CRYOSHIFT_BUNDLE is the path of an archive of `make bundle`.
"""

import base64
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path

import pytest
from helpers.files import ROOT

from cryoshift_core.course import bundle
from cryoshift_core.errors import InputError

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
CONSTRAINTS = (ROOT / "constraints.txt").read_text()

# A project like this one as far as ./install is concerned, but with a build backend of its own and one dependency.
TOY_PROJECT = """
[build-system]
requires = []
build-backend = "backend"
backend-path = ["."]
[project]
name = "toy"
version = "1.0"
dependencies = ["toy-dependency"]
[project.optional-dependencies]
test = []
formats = []
site = []
"""
TOY_BACKEND = """
import pathlib, zipfile
def build_editable(folder, config_settings=None, metadata_directory=None):
    name = "toy-1.0-py3-none-any.whl"
    with zipfile.ZipFile(pathlib.Path(folder, name), "w") as wheel:
        wheel.writestr("toy.pth", str(pathlib.Path.cwd()))
        wheel.writestr("toy-1.0.dist-info/METADATA", META)
        wheel.writestr("toy-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n")
        wheel.writestr("toy-1.0.dist-info/RECORD", "")
    return name
META = '''Metadata-Version: 2.1
Name: toy
Version: 1.0
Requires-Dist: toy-dependency
Provides-Extra: test
Provides-Extra: formats
Provides-Extra: site
'''
"""


def wheel(folder, name):
    """A wheel with one module, as pip would install it."""
    files = {
        f"{name}.py": "value = 7\n",
        f"{name}-2.0.dist-info/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: 2.0\n",
        f"{name}-2.0.dist-info/WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    record = ""
    folder.mkdir(exist_ok=True)
    with zipfile.ZipFile(folder / f"{name}-2.0-py3-none-any.whl", "w") as archive:
        for path, text in files.items():
            digest = base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).rstrip(b"=").decode()
            record += f"{path},sha256={digest},{len(text)}\n"
            archive.writestr(path, text)
        archive.writestr(f"{name}-2.0.dist-info/RECORD", f"{record}{name}-2.0.dist-info/RECORD,,\n")


def without_network(command, folder, **variables):
    """Run a command in a network-less namespace if that is permitted, else with proxies that lead nowhere."""
    closed = subprocess.run(["unshare", "-n", "true"], capture_output=True).returncode == 0 if _linux() else False
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("PIP_", "PYTHONPATH"))}
    environment |= {name: "http://127.0.0.1:9" for name in ("http_proxy", "https_proxy", "all_proxy")}
    command = ["unshare", "-n", "bash", "-c", f"ip link set lo up 2>/dev/null; exec {command}"] if closed else command
    return subprocess.run(
        command, cwd=folder, env=environment | variables, capture_output=True, text=True, shell=isinstance(command, str)
    )


def _linux():
    return shutil.which("unshare") is not None


@pytest.fixture
def toy(tmp_path):
    """A repository with a run of one notebook, and beside it what must not get into the archive."""
    base = tmp_path / "repository"
    base.mkdir()
    (base / "pyproject.toml").write_text(TOY_PROJECT)
    (base / "backend.py").write_text(TOY_BACKEND)
    (base / "constraints.txt").write_text("toy-dependency==2.0\n")
    (base / "mine.txt").write_text("not tracked")
    subprocess.run(["git", "init", "-q"], cwd=base, check=True)
    subprocess.run(["git", "add", "pyproject.toml", "backend.py", "constraints.txt"], cwd=base, check=True)
    for folder, notebook, status in (
        ("00_tiny", "00_tiny", "finished"),
        ("00_tiny.2026-01-01T00-00-00", "00_tiny", "finished"),
        ("01_other.unfinished", "01_other", "unfinished"),
        ("01_failed", "01_failed", "failed"),
    ):
        (base / "runs" / "smoke" / folder).mkdir(parents=True)
        manifest = {"notebook": notebook, "status": status, "started": "2026-01-01T00:00:00", "commit": "abc"}
        (base / "runs" / "smoke" / folder / "manifest.json").write_text(json.dumps(manifest))
        (base / "runs" / "smoke" / folder / f"{notebook}.ipynb").write_text("{}")
    for name in ("data/set.safetensors", "data/set.safetensors.lock", "fits/one/final.safetensors"):
        (base / "runs" / "smoke" / name).parent.mkdir(parents=True, exist_ok=True)
        (base / "runs" / "smoke" / name).write_text("x")
    (base / "runs" / "smoke" / "index.html").write_text("index")
    (base / "runs" / "exercises" / "participant").mkdir(parents=True)
    (base / "runs" / "exercises" / "participant" / "00_tiny.ipynb").write_text("{}")
    (tmp_path / "pages").mkdir()
    (tmp_path / "pages" / "index.html").write_text("site")
    wheel(tmp_path / "wheels", "toy_dependency")
    return base


@pytest.fixture
def archive(toy, tmp_path):
    """The archive of the toy repository, its sizes, and the folder that it was unpacked to."""
    out = tmp_path / "toy-1.tar"
    sizes = bundle.write_archive(toy, "smoke", tmp_path / "pages", tmp_path / "wheels", out)
    with tarfile.open(out) as opened:
        opened.extractall(tmp_path / "unpacked", filter="tar")
    return out, sizes, tmp_path / "unpacked" / "toy-1"


def test_the_archive_holds_the_repository_the_runs_the_site_and_the_wheels(archive):
    out, sizes, folder = archive
    found = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    assert found == {
        "install", "pyproject.toml", "backend.py", "constraints.txt", "site/index.html",
        "wheels/toy_dependency-2.0-py3-none-any.whl", "runs/smoke/index.html", "runs/smoke/data/set.safetensors",
        "runs/smoke/fits/one/final.safetensors", "runs/exercises/participant/00_tiny.ipynb",
        "runs/smoke/00_tiny/manifest.json", "runs/smoke/00_tiny/00_tiny.ipynb",
    }  # fmt: skip
    assert os.access(folder / "install", os.X_OK)
    assert set(sizes) == {"repository", "runs", "site", "wheels"} and sum(sizes.values()) < out.stat().st_size


def test_install_makes_an_environment_without_a_network(archive):
    _, _, folder = archive
    done = without_network("./install", folder, PYTHON=sys.executable)
    assert done.returncode == 0, done.stderr
    assert "Installed." in done.stdout and "site/index.html" in done.stdout
    code = "import toy_dependency, backend; print(toy_dependency.value, backend.__file__)"
    done = subprocess.run([folder / ".venv/bin/python", "-c", code], cwd="/", capture_output=True, text=True)
    assert done.stdout.split() == ["7", str(folder / "backend.py")], done.stderr
    ready = (folder / ".venv/.ready").stat().st_mtime
    assert ready >= max((folder / name).stat().st_mtime for name in ("pyproject.toml", "constraints.txt")), (
        "make would install again, from a network"
    )


def test_a_missing_wheel_is_not_fetched(archive):
    _, _, folder = archive
    next((folder / "wheels").iterdir()).unlink()
    done = without_network("./install", folder, PYTHON=sys.executable)
    assert done.returncode != 0 and "Cannot install toy" in done.stderr
    assert not (folder / ".venv/.ready").exists()


def test_another_python_is_refused_with_the_way_out(archive, tmp_path):
    _, _, folder = archive
    text = (folder / "install").read_text().replace("{}.{}".format(*sys.version_info), "2.4")
    (folder / "install").write_text(text)
    done = without_network("./install", folder, PYTHON=sys.executable)
    assert done.returncode == 1 and not (folder / ".venv").exists()
    assert "This archive has wheels for Python 2.4" in done.stderr
    assert (
        f"found Python {sys.version.split()[0]}" in done.stderr and "PYTHON=/path/to/python2.4 ./install" in done.stderr
    )


def test_the_packages_are_those_of_make_venv_as_installed():
    assert f"-e '.[{','.join(bundle.EXTRAS)}]'" in (ROOT / "Makefile").read_text()
    packages = bundle.installed_packages(PROJECT)
    assert {"torch", "jupyterlab", "sphinx", "ruff", "h5py", "ipykernel", "pyzmq"} <= set(packages)
    assert not {"snakemake", "pre-commit", "acryo", "cryoshift-core"} & set(packages)
    bundle.check_pins(packages, CONSTRAINTS)
    pinned = {bundle.canonicalize_name(line.split("==")[0]) for line in CONSTRAINTS.split()}
    assert set(packages) <= pinned | {"setuptools"}, "constraints.txt lacks a package of make venv"


def test_other_versions_than_the_pinned_ones_are_refused():
    bundle.check_pins({"torch": "2.13.0+cpu"}, "torch==2.13.0")
    with pytest.raises(InputError, match="torch 2.12.0 is installed; expected 2.13.0"):
        bundle.check_pins({"torch": "2.12.0"}, "torch==2.13.0")
    with pytest.raises(InputError, match="no-such-thing is not installed.*Run make venv"):
        bundle.installed_packages({"dependencies": ["no-such-thing>=1"]})


def test_a_wheel_that_pip_does_not_find_is_named(tmp_path):
    with pytest.raises(
        InputError, match="pip could not download the wheels.*cryoshift-no-such-package.*PIP_FIND_LINKS"
    ):
        bundle.download_wheels(["--no-index", "cryoshift-no-such-package==1.0"], tmp_path)


def test_a_folder_without_git_is_refused(tmp_path):
    with pytest.raises(InputError, match="is no git checkout"):
        bundle.tracked_files(tmp_path)


def test_runs_of_other_code_are_named(toy, monkeypatch):
    monkeypatch.setattr(bundle, "commit", lambda: "abc")
    assert bundle.other_code(toy / "runs", "smoke") == []
    monkeypatch.setattr(bundle, "commit", lambda: "def")
    assert bundle.other_code(toy / "runs", "smoke") == ["00_tiny"]


@pytest.mark.skipif("CRYOSHIFT_BUNDLE" not in os.environ, reason="CRYOSHIFT_BUNDLE is not the path of an archive")
def test_a_whole_archive_installs_offline_and_a_late_laptop_joins_at_notebook_04(tmp_path):
    path = Path(os.environ["CRYOSHIFT_BUNDLE"])
    with tarfile.open(path) as opened:
        opened.extractall(tmp_path, filter="tar")
    folder = tmp_path / path.stem
    done = without_network("./install", folder, PYTHON=sys.executable)
    assert done.returncode == 0, done.stderr
    (profile,) = {run.name for run in (folder / "runs").iterdir()} - {"exercises"}
    for target in ("lab", "tutorial", "site", "test"):
        done = without_network(f"make -n {target}", folder)
        assert done.returncode == 0 and "pip install" not in done.stdout, f"make {target} would install again"
    (given,) = (folder / "runs" / profile).glob("04_*")
    done = without_network(f".venv/bin/python -m cryoshift_core tutorial --profile {profile} --only 04", folder)
    assert done.returncode == 0, done.stdout + done.stderr
    executed = (given / f"{given.name}.ipynb").read_text()
    assert executed.count(f"loaded from {folder}/runs/{profile}/data") >= 2, "data were simulated again"
    assert executed.count(f"loaded from {folder}/runs/{profile}/fits") >= 1, "networks were trained again"
    assert (folder / "site" / "index.html").is_file()
