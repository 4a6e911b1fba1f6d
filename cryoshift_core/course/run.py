"""Runs of notebooks: the folder that a run writes to, its random generators, and its manifest.

A notebook declares its parameters in one cell, ``name: type = value``, and then calls::

    run = begin("02_the_domain_gap", globals())

`begin` checks every value, refuses unknown names, and returns a :class:`Run`. The run writes to a new folder,
``NAME.unfinished``, and `Run.finish` renames it to ``NAME``. An earlier run that is already there is first renamed to
``NAME.<its start time>``, so the files of two runs never mix.
"""

from __future__ import annotations

import csv
import hashlib
import json
import logging
import math
import os
import platform
import resource
import shutil
import socket
import sys
import time
import uuid
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

import psutil
import torch
from tqdm import tqdm

from ..application.profiles import PROFILES, Profile
from ..errors import InputError
from ..metrics import Interval
from ..runtime import atomic, commit, pick_device, root, write_text
from .parameters import Parameters, check

MANIFEST = "manifest.json"


def begin(notebook: str, namespace: dict[str, Any]) -> Run:
    """Run of a notebook whose parameters are valid; its folder is new and holds a manifest.

    Parameters
    ----------
    notebook : name without ending, such as "02_the_domain_gap"
    namespace : the notebook's globals(). Annotated names are its parameters. Papermill assigns without annotation, so
        in a fresh kernel every other plain value is an unknown parameter that the user passed.

    Raises
    ------
    InputError
        before any work, for a wrong value, an unknown name, a folder that holds other files, or a place where another
        run is still writing. From this call on, IPython shows every InputError as one line without a traceback.
    """
    _show_input_errors_in_one_line()
    _show_log()
    declared = [name for name in namespace.get("__annotations__", {}) if name in namespace]
    values = {name: namespace[name] for name in declared}
    if not any(isinstance(value, Run) for value in namespace.values()):
        values |= {name: value for name, value in namespace.items() if _is_passed(name, value)}
    parameters = check(values, declared)
    if "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)
    profile = PROFILES[parameters.profile]
    base = root() / "runs" / profile.name
    final = Path(parameters.out_dir).expanduser().resolve() if parameters.out_dir else base / notebook
    _check_place(final)
    run = Run(notebook, parameters, {name: values[name] for name in declared}, profile, base, final)
    run.data_folder.mkdir(parents=True, exist_ok=True)
    run.fits_folder.mkdir(parents=True, exist_ok=True)
    _remove_unfinished(final)
    new = final.with_name(f"{final.name}.{os.getpid()}.partial")
    write_text(new / MANIFEST, run.contents("unfinished"))
    try:
        new.rename(run.folder)  # at once with its manifest, so that others see which process it belongs to
    except OSError:
        shutil.rmtree(new)
        _check_place(final)
        raise
    return run


def _is_passed(name: str, value: Any) -> bool:
    hidden = name.startswith(("_", "PAPERMILL_")) or name in ("In", "Out")
    return not hidden and (value is None or isinstance(value, str | int | float | list | dict))


def _show_log() -> None:
    """Show what the library logs, such as "loaded from ...", among the output of the cells."""
    log = logging.getLogger("cryoshift_core")
    if not log.handlers:
        handler = logging.StreamHandler(sys.stdout)
        handler.setFormatter(logging.Formatter("%(message)s"))
        log.addHandler(handler)
        log.setLevel(logging.INFO)


def _show_input_errors_in_one_line() -> None:
    if "IPython" not in sys.modules or (shell := sys.modules["IPython"].get_ipython()) is None:
        return

    def show(shell, etype, evalue, tb, tb_offset=None):
        shell._showtraceback(etype, evalue, [f"{etype.__name__}: {evalue}"])

    shell.set_custom_exc((InputError,), show)


@dataclass
class Run:
    """A notebook's parameters and folders, and what it reports. Made by :func:`begin`."""

    notebook: str
    params: Parameters
    declared: dict[str, Any]
    profile: Profile
    base: Path  # runs/<profile>, which the notebooks of one profile share
    final_folder: Path  # `out_dir`, or runs/<profile>/<notebook>: where the results are after finish()
    scores: dict[str, Any] = field(default_factory=dict)
    inputs: dict[str, str] = field(default_factory=dict)
    id: str = field(default_factory=lambda: uuid.uuid4().hex)
    _finished: bool = False
    _wall: float = field(default_factory=time.monotonic)
    _started: str = field(default_factory=lambda: datetime.now(UTC).isoformat(timespec="seconds"))

    @property
    def folder(self) -> Path:
        """Folder to write to now: `final_folder` after finish(), NAME.unfinished beside it until then."""
        return self.final_folder if self._finished else unfinished_folder(self.final_folder)

    @property
    def data_folder(self) -> Path:
        """Folder of simulated data that all notebooks of a profile share."""
        return self.base / "data"

    @property
    def fits_folder(self) -> Path:
        """Folder of trained networks that all notebooks of a profile share."""
        return self.base / "fits"

    @property
    def device(self) -> torch.device:
        """Device that the parameter `device` names."""
        return pick_device(self.params.device)

    @property
    def training(self) -> dict[str, Any]:
        """Keyword arguments of `training.fit` that the profile decides; fits go to the shared folder."""
        return {"config": self.profile.training(), "device": self.params.device, "folder": self.fits_folder}

    def final_path(self, path: str | Path) -> Path:
        """Where a file of this run's `folder` is after finish(): the path to print for the user."""
        return self.final_folder / Path(path).relative_to(self.folder)

    def generator(self, tag: str) -> torch.Generator:
        """CPU generator that depends only on the seed and on `tag`, not on the order of the cells."""
        digest = hashlib.sha256(f"{self.params.seed}/{tag}".encode()).digest()
        return torch.Generator().manual_seed(int.from_bytes(digest[:8], "little") >> 1)

    def progress(self, iterable: Iterable, desc: str = "", total: int | None = None) -> Iterator:
        """The items of `iterable`, with a plain-text progress bar that is updated at most every two seconds."""
        return tqdm(iterable, desc=desc, total=total, mininterval=2, file=sys.stdout, ncols=88, nrows=20)

    def save_figure(self, fig, name: str) -> Path:
        """Path of figures/<name>.png, to which a matplotlib figure was written."""
        path = self.folder / "figures" / f"{name}.png"
        with atomic(path) as partial:
            fig.savefig(partial, format="png", dpi=120, bbox_inches="tight")
        return path

    def save_table(self, rows: list[dict[str, Any]], name: str) -> Path:
        """Path of <name>.csv, to which the rows were written. All rows have the keys of the first one."""
        path = self.folder / f"{name}.csv"
        with atomic(path) as partial, partial.open("w", newline="", encoding="utf-8") as f:
            writer = csv.DictWriter(f, fieldnames=list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
        return path

    def add_input(self, path: str | Path) -> None:
        """Record a file's sha256 in the manifest. Files that are parameters are recorded automatically."""
        with Path(path).expanduser().open("rb") as f:
            self.inputs[str(path)] = hashlib.file_digest(f, "sha256").hexdigest()

    def report(self, **scores: Any) -> None:
        """Record scores for the manifest and the index page: numbers, intervals, short texts, or lists of them."""
        self.scores |= {name: _plain(value) for name, value in scores.items()}

    def finish(self) -> Path:
        """Path of manifest.json in `final_folder`, to which the run's folder was renamed.

        An earlier run that is there is moved aside, and a line says where to. A second call, as when the last cell is
        run again, updates the manifest in place.

        Raises
        ------
        InputError
            a later run has replaced this one's folder.
        """
        if read_manifest(self.folder).get("id") != self.id:
            raise InputError(
                f"{self.folder} is not this run's folder any more: another run has replaced it. "
                "Run the notebook again from its first cell."
            )
        self._record_parameter_files()
        write_text(self.folder / MANIFEST, self.contents("finished"))
        if not self._finished:
            if moved := _make_room(self.final_folder, self.folder):
                print(f"The earlier results in {self.final_folder} are now in {moved}")
            self.folder.rename(self.final_folder)
            self._finished = True
        return self.folder / MANIFEST

    def manifest(self, status: str = "unfinished") -> dict[str, Any]:
        """The run so far, as in manifest.json: parameters, scores, times, memory, versions and input files."""
        self._record_parameter_files()
        return json.loads(self.contents(status))

    def contents(self, status: str) -> str:
        """Text of manifest.json with this status: "unfinished" or "finished"."""
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
            "id": self.id,
            "process": {
                "pid": os.getpid(),
                "parent": os.getppid(),
                "created": psutil.Process().create_time(),
                "host": socket.gethostname(),
            },
        }
        return json.dumps(manifest, indent=2) + "\n"

    def _record_parameter_files(self) -> None:
        p = self.params
        for name in (p.subtomograms, p.tomogram, p.coordinates, p.background, *p.classes.split(",")):
            if Path(name.strip()).expanduser().is_file():
                self.add_input(name.strip())


def unfinished_folder(final: Path) -> Path:
    """Folder that a run writes to until it is finished: NAME.unfinished beside its final place."""
    return final.with_name(f"{final.name}.unfinished")


def read_manifest(folder: Path) -> dict[str, Any]:
    """Contents of the folder's manifest.json; {} if it has none or if a notebook's run did not write it."""
    try:
        found = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) and {"notebook", "status", "started"} <= set(found) else {}


def running_elsewhere(manifest: dict[str, Any]) -> bool:
    """Whether another process may still be writing an unfinished run. A process of another host counts as alive."""
    process = manifest.get("process")
    if manifest.get("status") != "unfinished" or not process:
        return False
    if process["host"] != socket.gethostname():
        return True
    if process["pid"] == os.getpid():
        return False
    try:
        found = psutil.Process(process["pid"])
        same = abs(found.create_time() - process["created"]) < 2  # numbers of processes are used again
        return same and found.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def _check_place(final: Path) -> None:
    """Refuse a final folder that a run must not rename, or that another run is about to write."""
    if final in (Path.cwd(), *Path.cwd().parents) or os.path.ismount(final):
        raise InputError(
            f"Results cannot go to {final}, which is in use as a working folder or a mount point; expected a folder of "
            f"their own. Set out_dir to a new folder inside it, such as {final / 'results'}."
        )
    for folder in (final, unfinished_folder(final)):
        if folder.is_dir() and not read_manifest(folder):
            if other := [path.name for path in folder.iterdir() if not _is_page(path)]:
                raise InputError(
                    f"{folder} holds {other[0]}, which no run wrote; expected a new folder, an empty one, or an "
                    f"earlier run's. Set out_dir to a new folder, such as {final / 'results'}."
                )
    manifest = read_manifest(unfinished_folder(final))
    if running_elsewhere(manifest):
        process = manifest["process"]
        raise InputError(
            f"Process {process['pid']} on {process['host']} has been writing {unfinished_folder(final)} since "
            f"{manifest['started']}; expected no other run there. Wait for it or stop it (delete that folder if it is "
            "dead), or set another out_dir."
        )


def _is_page(path: Path) -> bool:
    """Whether a file is an executed notebook or its page, which papermill may put there before the run begins."""
    return path.suffix in (".ipynb", ".html") or path.name in (".ipynb_checkpoints", ".DS_Store")


def _remove_unfinished(final: Path) -> None:
    """Delete what a dead run left. A whole run that was killed before it got its name is kept, under its start time."""
    folder = unfinished_folder(final)
    if read_manifest(folder).get("status") == "finished":
        folder.rename(_aside(final, read_manifest(folder)))
    elif folder.is_dir():
        shutil.rmtree(folder)


def _make_room(final: Path, folder: Path) -> Path | None:
    """Where an earlier run at `final` was moved; None if there was none. `final` is free afterwards.

    A folder without a manifest holds only the notebook that papermill is executing; its files go to `folder`.
    """
    if not final.is_dir():
        return None
    if manifest := read_manifest(final):
        return final.rename(_aside(final, manifest))
    for path in list(final.iterdir()):
        if not (folder / path.name).exists():
            shutil.move(path, folder / path.name)
    shutil.rmtree(final)
    return None


def _aside(final: Path, manifest: dict[str, Any]) -> Path:
    """A free folder name NAME.<start time>, such as 02_the_domain_gap.2026-11-26T05-40-12."""
    stem = f"{final.name}.{str(manifest['started'])[:19].replace(':', '-')}"
    names = (final.with_name(stem if n == 1 else f"{stem}-{n}") for n in range(1, 10_000))
    return next(path for path in names if not path.exists())


def _peak_bytes() -> int:
    """Largest memory that this process has held. On Linux getrusage would also count its parent's."""
    status = Path("/proc/self/status")
    if status.is_file():
        return 1024 * int(status.read_text().split("VmHWM:")[1].split()[0])
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak


def _plain(value: Any) -> Any:
    """Number, text, interval, or list of them, as JSON can hold it; NaN and infinities become None."""
    if isinstance(value, Interval):
        value = value._asdict()
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
    names = ("cryoshift-core", "torch", "numpy", "scipy", "gemmi", "mrcfile", "scikit-learn")
    installed = {found.name: found.version for found in metadata.distributions() if found.name in names}
    return {"python": platform.python_version(), **installed}
