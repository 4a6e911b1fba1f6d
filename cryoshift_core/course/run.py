"""A run: a folder to write in, generators, and a manifest that says what was done.

A notebook declares its parameters in one cell, ``name: type = value``, and calls::

    run = runs.begin("02_the_domain_gap", globals())

which checks every value, refuses names that it does not know, and returns a :class:`Run`.
"""

from __future__ import annotations

import csv
import hashlib
import json
import math
import os
import platform
import resource
import sys
import time
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from ..application.profiles import PROFILES, Profile
from ..errors import InputError
from ..runtime import commit, root
from .parameters import Parameters, check


def begin(notebook: str, namespace: dict[str, Any]) -> Run:
    """Validate a notebook's parameters and start its run.

    Parameters
    ----------
    notebook : its name without ending, such as "02_the_domain_gap"
    namespace : the notebook's globals(). Annotated names are its parameters; papermill assigns without annotation,
        so in a fresh kernel any other plain value there is a parameter that somebody passed and nobody knows.

    Raises
    ------
    InputError
        before any work. From here on an InputError shows as one line, without a traceback.
    """
    _show_input_errors_in_one_line()
    declared = [name for name in namespace.get("__annotations__", {}) if name in namespace]
    values = {name: namespace[name] for name in declared}
    if not any(isinstance(value, Run) for value in namespace.values()):
        values |= {name: value for name, value in namespace.items() if _is_passed(name, value)}
    parameters = check(values, declared)
    if "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)
    run = Run(notebook, parameters, {name: values[name] for name in declared}, PROFILES[parameters.profile])
    run.folder.mkdir(parents=True, exist_ok=True)
    run.data_folder.mkdir(parents=True, exist_ok=True)
    run.fits_folder.mkdir(parents=True, exist_ok=True)
    run._write_manifest(status="unfinished")
    return run


def _is_passed(name: str, value: Any) -> bool:
    hidden = name.startswith(("_", "PAPERMILL_")) or name in ("In", "Out")
    return not hidden and (value is None or isinstance(value, str | int | float | list | dict))


def _show_input_errors_in_one_line() -> None:
    if "IPython" not in sys.modules or (shell := sys.modules["IPython"].get_ipython()) is None:
        return

    def show(shell, etype, evalue, tb, tb_offset=None):
        shell._showtraceback(etype, evalue, [f"{etype.__name__}: {evalue}"])

    shell.set_custom_exc((InputError,), show)


@dataclass
class Run:
    """What a notebook was asked to do, and where it writes. Made by :func:`begin`."""

    notebook: str
    params: Parameters
    declared: dict[str, Any]
    profile: Profile
    scores: dict[str, Any] = field(default_factory=dict)
    inputs: dict[str, str] = field(default_factory=dict)
    _wall: float = field(default_factory=time.monotonic)
    _started: str = field(default_factory=lambda: datetime.now(UTC).isoformat(timespec="seconds"))

    @property
    def base(self) -> Path:
        """runs/<profile>, which the notebooks of one profile share."""
        return root() / "runs" / self.profile.name

    @property
    def folder(self) -> Path:
        """Where this notebook writes: `out_dir`, or runs/<profile>/<notebook>."""
        return Path(self.params.out_dir).expanduser().resolve() if self.params.out_dir else self.base / self.notebook

    @property
    def data_folder(self) -> Path:
        return self.base / "data"

    @property
    def fits_folder(self) -> Path:
        return self.base / "fits"

    @property
    def device(self) -> torch.device:
        name = self.params.device
        best = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
        return torch.device(best if name == "auto" else name)

    @property
    def training(self) -> dict[str, Any]:
        """What `training.fit` takes from the profile; its checkpoints go to the folder that all notebooks share."""
        p = self.profile
        kept = {"device": self.params.device, "folder": self.fits_folder}
        return {"steps": p.steps, "batch": p.batch, "encoder": p.encoder, "width": p.width, **kept}

    def generator(self, tag: str) -> torch.Generator:
        """A CPU generator that depends on the seed and on `tag` alone, not on the order of the cells."""
        digest = hashlib.sha256(f"{self.params.seed}/{tag}".encode()).digest()
        return torch.Generator().manual_seed(int.from_bytes(digest[:8], "little") >> 1)

    def progress(self, iterable: Iterable, desc: str = "", total: int | None = None) -> Iterator:
        """A plain progress bar, at most one update in two seconds, which also shows in an executed notebook."""
        return tqdm(iterable, desc=desc, total=total, mininterval=2, file=sys.stdout, ncols=88, nrows=20)

    def save_figure(self, fig, name: str) -> Path:
        """Write a matplotlib figure to figures/<name>.png."""
        path = self.folder / "figures" / f"{name}.png"
        path.parent.mkdir(exist_ok=True)
        partial = path.with_suffix(".partial")
        fig.savefig(partial, format="png", dpi=120, bbox_inches="tight")
        return partial.replace(path)

    def save_table(self, rows: list[dict[str, Any]], name: str) -> Path:
        """Write rows, all with the keys of the first one, to <name>.csv."""
        path = self.folder / f"{name}.csv"
        partial = path.with_suffix(".partial")
        with partial.open("w", newline="") as f:
            writer = csv.DictWriter(f, fieldnames=list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
        return partial.replace(path)

    def add_input(self, path: str | Path) -> None:
        """Note a file's sha256 in the manifest. Files that are parameters are noted without asking."""
        with Path(path).expanduser().open("rb") as f:
            self.inputs[str(path)] = hashlib.file_digest(f, "sha256").hexdigest()

    def report(self, **scores: Any) -> None:
        """Note scores (numbers, short texts, or lists of them) for the manifest and the series' summary."""
        self.scores |= {name: _plain(value) for name, value in scores.items()}

    def finish(self) -> Path:
        """Write manifest.json: what was run, with what, how long it took and what came out."""
        p = self.params
        for name in (p.subtomograms, p.tomogram, p.coordinates, p.background, *p.classes.split(",")):
            if Path(name.strip()).expanduser().is_file():
                self.add_input(name.strip())
        return self._write_manifest(status="finished")

    def _write_manifest(self, status: str) -> Path:
        usage = resource.getrusage(resource.RUSAGE_SELF)
        manifest = {
            "notebook": self.notebook,
            "status": status,
            "parameters": self.declared,
            "seed": self.params.seed,
            "profile": asdict(self.profile),
            "scores": self.scores,
            "started": self._started,
            "wall_seconds": round(time.monotonic() - self._wall, 2),
            "cpu_seconds": round(usage.ru_utime + usage.ru_stime, 2),
            "peak_memory_mb": round(_peak_bytes() / 2**20),
            "device": str(self.device),
            "threads": torch.get_num_threads(),
            "versions": _versions(),
            "commit": commit(),
            "inputs": self.inputs,
        }
        path = self.folder / "manifest.json"
        partial = path.with_suffix(".partial")
        partial.write_text(json.dumps(manifest, indent=2) + "\n")
        return partial.replace(path)


def _peak_bytes() -> int:
    """The largest memory this process has held. On Linux getrusage would count the process that started it, too."""
    status = Path("/proc/self/status")
    if status.is_file():
        return 1024 * int(status.read_text().split("VmHWM:")[1].split()[0])
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak


def _plain(value: Any) -> Any:
    """A number, text, or list of them that JSON knows; NaN and infinities become None."""
    if hasattr(value, "tolist"):
        value = value.tolist()
    if isinstance(value, dict):
        return {str(name): _plain(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value if value is None or isinstance(value, bool | int | float) else str(value)


def _versions() -> dict[str, str]:
    wanted = ("cryoshift-core", "torch", "numpy", "scipy", "gemmi", "mrcfile", "scikit-learn")
    installed = {found.name: found.version for found in metadata.distributions() if found.name in wanted}
    return {"python": platform.python_version(), **installed}
