"""Is this machine ready for the course? One table: what was looked at, what was found, and a way out of what is wrong.

python -m cryoshift_core doctor [--profile laptop]

Only the standard library is imported with this module, so that a package that is missing or broken becomes a row of the
table. A row is ok; "look" (the course runs, but something is slower, older or not shown); or "stop".
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import sys
import tempfile
import time
import tomllib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from ..errors import InputError

PACKAGE = Path(__file__).resolve().parents[1]
PYTHONS = ((3, 11), (3, 13))  # oldest and newest
REFERENCE = 2.4  # seconds of `speed` on the two CPU cores on which the times in the notebooks' headers were measured
VENV = "run make venv, then make lab; in JupyterLab choose the kernel of .venv"
# Front ends of widgets as they lie in share/jupyter/labextensions -> package, and what is missing without them
WIDGETS = {
    "@jupyter-widgets/jupyterlab-manager": ("jupyterlab-widgets", "sliders"),
    "jupyter-matplotlib": ("ipympl", "the lasso"),
    "anywidget": ("k3d", "3-D views under the pointer"),
}
REQUIRED = ("jupyterlab-widgets",)  # the other front ends are optional: a figure takes their place


@dataclass(frozen=True)
class Row:
    """One thing that was looked at: its `name`, `state` (ok, look or stop), what was `found`, and the `way_out`."""

    name: str
    state: str
    found: str
    way_out: str = ""


@dataclass(frozen=True)
class Report:
    """The table of :func:`check`; as a text it is shown row by row."""

    rows: tuple[Row, ...]

    def of(self, state: str) -> list[Row]:
        """The rows with a state."""
        return [row for row in self.rows if row.state == state]

    def __str__(self) -> str:
        width = max(len(row.name) for row in self.rows)
        lines = []
        for row in self.rows:
            lines.append(f"{row.state:5} {row.name:{width}}  {row.found}")
            if row.way_out:
                lines.append(f"{'':5} {'':{width}}  -> {row.way_out}")
        stop, look = self.of("stop"), self.of("look")
        end = f"STOP: {', '.join(row.name for row in stop)}." if stop else "This machine is ready."
        if look and not stop:
            end += f" Look at: {', '.join(row.name for row in look)}."
        return "\n".join([*lines, end])

    __repr__ = __str__

    def show(self) -> None:
        """Print the table; InputError where a row says stop, which names the first of them and its way out."""
        print(self)
        if stop := self.of("stop"):
            raise InputError(f"{stop[0].name}: {stop[0].found}. The way out: {stop[0].way_out}.")


def check(profile: str = "laptop", folder: str | Path = "") -> Report:
    """A report on Python, packages, torch, memory, disk, data and JupyterLab; it takes a few seconds.

    Parameters
    ----------
    profile : name of the profile that will be run; it decides how much memory and disk are needed
    folder : where the notebooks will write; empty for runs/ in the repository that the current folder lies in

    Raises
    ------
    InputError
        The profile is unknown.
    """
    place = Path(folder) if folder else _root() / "runs"
    rows: list[Row] = []
    parts: tuple[tuple[str, Callable[[], Iterator[Row]]], ...] = (
        ("Python", _python),
        ("packages", _packages),
        ("torch", _torch),
        ("memory", lambda: _room(profile, place)),
        ("write access", lambda: _write_access(place)),
        ("kept data", lambda: _kept(_root() / "runs" / profile)),
        ("shipped data", _shipped),
        ("JupyterLab", _jupyterlab),
        ("other work", _load),
    )
    for name, part in parts:
        try:
            rows += part()
        except InputError:
            raise
        except Exception as error:  # a broken package may raise anything, and the other rows are still wanted
            text = (str(error).strip().splitlines() or [""])[0]
            rows.append(Row(name, "stop", f"{type(error).__name__}: {text}", VENV))
    return Report(tuple(rows))


def _root() -> Path:
    here = Path.cwd()
    return next((one for one in (here, *here.parents) if (one / "pyproject.toml").is_file()), here)


def _python() -> Iterator[Row]:
    found, (oldest, newest) = sys.version.split()[0], PYTHONS
    if oldest <= sys.version_info[:2] <= newest:
        yield Row("Python", "ok", f"{found} in {sys.prefix}")
    else:
        wanted = f"{oldest[0]}.{oldest[1]} to {newest[0]}.{newest[1]}"
        way = "install one of these, delete .venv, and run make venv PYTHON=/path/to/python3.11"
        yield Row("Python", "stop", f"{found}; expected {wanted}", way)


def _packages() -> Iterator[Row]:
    project, pins = PACKAGE.parent / "pyproject.toml", PACKAGE.parent / "constraints.txt"
    if not (project.is_file() and pins.is_file()):
        yield Row("packages", "look", "no constraints.txt beside the package, so versions were not compared")
        return
    pinned = dict(line.split("==") for line in pins.read_text(encoding="utf-8").lower().split())
    asked = tomllib.loads(project.read_text(encoding="utf-8"))["project"]["dependencies"]
    names = [re.split(r"[^\w.-]", one)[0].lower() for one in asked]
    found = {name: _version(name) for name in names}
    missing = [name for name, version in found.items() if not version]
    other = [f"{n} {v} (expected {pinned[n]})" for n, v in found.items() if v and v.split("+")[0] != pinned[n]]
    if missing:
        yield Row("packages", "stop", f"missing: {', '.join(missing)}", VENV)
    if other:
        yield Row("packages", "look", f"other versions than those tested: {', '.join(other)}", VENV)
    if not missing and not other:
        yield Row("packages", "ok", f"{len(names)} direct dependencies, versions as pinned in constraints.txt")


def _version(name: str) -> str:
    """Version of an installed distribution; "" if there is none."""
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return ""


def _torch() -> Iterator[Row]:
    import torch

    from ..support.runtime import pick_device

    device, cores = pick_device("auto"), os.cpu_count() or 1
    free = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else cores
    threads = int(os.environ.get("OMP_NUM_THREADS") or free)
    what = torch.cuda.get_device_name() if device.type == "cuda" else device.type
    found = f"{torch.__version__} on {what}, {threads} threads on {free} of {cores} cores"
    if threads > free:
        way = f"unset OMP_NUM_THREADS, or set it to {free}: more threads than cores wait for each other"
        yield Row("torch", "look", found, way)
    else:
        yield Row("torch", "ok", found)


def _room(profile: str, place: Path) -> Iterator[Row]:
    import psutil

    from ..application.profiles import PROFILES
    from ..support.runtime import check_known
    from . import costs

    check_known("a profile", profile, PROFILES)
    p = PROFILES[profile]
    stated = costs.read(p.name) or costs.read("laptop")
    largest = 1.25 * max(cost.memory_mb for cost in stated.values()) / 1e3
    have = psutil.virtual_memory().available / 1e9
    found = f"{have:.1f} GB free, {largest:.1f} GB needed at the profile {p.name}"
    if have > largest:
        yield Row("memory", "ok", found)
    else:
        yield Row("memory", "stop", found, "close other programs and kernels, or set profile to smoke")
    subtomograms = p.n_source + p.n_validation + p.n_target + p.n_test
    needed = 2 * 4 * p.box**3 * subtomograms / 1e9 + 0.2
    there = next(one for one in (place.resolve(), *place.resolve().parents) if one.is_dir())
    free = shutil.disk_usage(there).free / 1e9
    found = f"{free:.1f} GB free, {needed:.1f} GB needed"
    if free > needed:
        yield Row("disk", "ok", found)
    else:
        yield Row("disk", "stop", found, f"make room on the disk of {there}, or set out_dir to a folder on another one")


def _write_access(place: Path) -> Iterator[Row]:
    try:
        place.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=place) as file:
            file.write(b"x")
    except OSError as error:
        way = "work in a copy of the repository that belongs to you, or set out_dir to such a folder"
        yield Row("write access", "stop", f"{place}: {error.strerror}", way)
        return
    yield Row("write access", "ok", str(place))


def _kept(base: Path) -> Iterator[Row]:
    data, fits = list((base / "data").glob("*.safetensors")), list((base / "fits").glob("*-*/"))
    size = sum(path.stat().st_size for path in data) / 1e9
    if data or fits:
        yield Row("kept data", "ok", f"{len(data)} files ({size:.1f} GB) and {len(fits)} fits in {base}")
    else:
        yield Row("kept data", "ok", f"none in {base} yet: each notebook makes what it needs")


def _shipped() -> Iterator[Row]:
    import data_fetch

    from ..simulation import structures
    from ..tomography import mrc

    for name in structures.BUILTIN:
        volume = structures.template(name, 12.0, 32)
        if not float(volume.max()) > 0:
            yield Row("shipped data", "stop", f"the map of {name} is empty", "clone the repository again")
            return
    lamella = data_fetch.yeast_lamella()
    tomogram = mrc.read_mrc(lamella.tomogram)
    shape = " x ".join(map(str, tomogram.data.shape))
    found = f"{len(structures.BUILTIN)} molecules; a tomogram of {shape} voxels of {tomogram.voxel_size:g} Å"
    yield Row("shipped data", "ok", found)


def _jupyterlab() -> Iterator[Row]:
    version = _version("jupyterlab")
    if not version:
        yield Row("JupyterLab", "stop", "not installed", VENV)
        return
    places = [Path(sys.prefix), Path.home() / ".local"]
    missing = [
        one
        for one in WIDGETS
        if not any((place / "share" / "jupyter" / "labextensions" / one).is_dir() for place in places)
    ]
    shown = [what for one, (_, what) in WIDGETS.items() if one not in missing]
    found = f"{version}, with {', '.join(shown) or 'no widgets'}"
    lacking = [WIDGETS[one] for one in missing]
    if not lacking:
        yield Row("JupyterLab", "ok", found)
        return
    names = " ".join(package for package, _ in lacking)
    instead = ", ".join(what for _, what in lacking)
    state = "look" if any(package in REQUIRED for package, _ in lacking) else "ok"
    way = f"figures take the place of {instead}; to have them: pip install -c constraints.txt {names}"
    yield Row("JupyterLab", state, found, way)


def _load() -> Iterator[Row]:
    if not hasattr(os, "getloadavg"):
        return
    busy, cores = os.getloadavg()[0], os.cpu_count() or 1
    if busy > cores:
        yield Row("other work", "look", f"load {busy:.1f} on {cores} cores", "close other programs, or all times grow")
    else:
        yield Row("other work", "ok", f"load {busy:.1f} on {cores} cores")


@dataclass(frozen=True)
class Speed:
    """How fast a machine is: `seconds` of a fixed piece of work, `factor` to REFERENCE, and the last `losses`."""

    seconds: float
    factor: float
    losses: dict[str, float]


def speed(device: str = "auto", repeats: int = 3) -> Speed:
    """The speed of a fixed piece of work, the same for every profile; the fastest of `repeats` counts.

    A few source and target subtomograms of 32 voxels are simulated, and four training steps are taken on them.
    """
    from .. import training
    from ..simulation import datasets
    from ..simulation.datasets import DatasetConfig

    two, seconds = ("ribosome_80S", "TRiC"), []
    for _ in range(repeats):  # the first one also fills caches, and another program may get in the way of any
        start = time.perf_counter()
        source = datasets.simulate_source(DatasetConfig("source", two, 64, 32, 12.0, "source", 2), progress=False)
        target = datasets.simulate_target(DatasetConfig("in_situ_1", two, 32, 32, 12.0, "train", 2), progress=False)
        config = training.TrainingConfig(steps=4, batch=32, width=16)
        fit = training.fit("cryoshift_reference", source, target, config=config, device=device, progress=False)
        seconds.append(time.perf_counter() - start)
    terms = {name: values for name, values in fit.history.items() if name not in ("step", "seconds", "im_score")}
    losses = {name: next((v for v in reversed(values) if v == v), float("nan")) for name, values in terms.items()}
    losses["source"] = terms["source"][-1]
    return Speed(min(seconds), min(seconds) / REFERENCE, losses)


def main(arguments: list[str] | None = None) -> int:
    """Exit status of the command: 0, 1 where a row says stop, or 2 for an unknown profile."""
    parser = argparse.ArgumentParser(
        "python -m cryoshift_core doctor", description="Check whether this machine is ready for the course."
    )
    parser.add_argument("--profile", default="laptop", help="the profile to be run (default: laptop)")
    parser.add_argument("--folder", default="", help="where the notebooks will write (default: runs)")
    options = parser.parse_args(arguments)
    try:
        report = check(options.profile, options.folder)
    except InputError as error:
        print(f"InputError: {error}", file=sys.stderr)
        return 2
    print(report)
    return int(bool(report.of("stop")))
