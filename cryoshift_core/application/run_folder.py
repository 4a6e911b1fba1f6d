"""The folder that a run writes to: new, renamed when the run is finished, never mixed with an earlier run's files.

A run writes to ``NAME.unfinished`` (:func:`start`), which is renamed to ``NAME`` at the end (:func:`finish`). An
earlier run that is already there is first renamed to ``NAME.<its start time>``.
"""

from __future__ import annotations

import json
import os
import platform
import resource
import shutil
import socket
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

import psutil
import torch

from ..errors import InputError
from ..support.runtime import PACKAGE, code_digest, commit, write_text
from .manifest import SCHEMA

MANIFEST = "manifest.json"


def start(final: Path, manifest: str) -> Path:
    """The new folder NAME.unfinished beside `final`, with its manifest.json.

    Parameters
    ----------
    final : where the folder will be after :func:`finish`, an absolute path
    manifest : JSON text, with the keys notebook, status ("unfinished"), started and those of :func:`origin`

    Raises
    ------
    InputError
        `final` holds other files, cannot be renamed, or another run is still writing there.
    """
    _check_place(final)
    _remove_unfinished(final)
    folder, new = unfinished_folder(final), final.with_name(f"{final.name}.{os.getpid()}.partial")
    write_text(new / MANIFEST, manifest)
    try:
        new.rename(folder)  # at once with its manifest, so that others see which process it belongs to
    except OSError:
        shutil.rmtree(new)
        _check_place(final)
        raise
    return folder


def finish(final: Path, manifest: str) -> Path | None:
    """Rename NAME.unfinished to `final`; where an earlier run was moved to, or None if there was none.

    `manifest` is the JSON text that replaces the one of :func:`start`, with the status "finished".
    """
    folder = unfinished_folder(final)
    write_text(folder / MANIFEST, manifest)
    moved = _make_room(final, folder)
    folder.rename(final)
    return moved


def origin() -> dict[str, Any]:
    """What ran, for a manifest: schema, versions of the packages, commit and digest of the code, and the process."""
    names = ("cryoshift-core", "torch", "numpy", "scipy", "gemmi", "mrcfile", "scikit-learn")
    installed = {found.name: found.version for found in metadata.distributions() if found.name in names}
    return {
        "schema": SCHEMA,
        "versions": {"python": platform.python_version(), **installed},
        "commit": commit(),
        "code": code(),
        "process": {
            "pid": os.getpid(),
            "parent": os.getppid(),
            "created": psutil.Process().create_time(),
            "host": socket.gethostname(),
        },
    }


def code() -> str:
    """SHA-256 of all code of the package, without comments and docstrings; hexadecimal."""
    names = {path.relative_to(PACKAGE).parts[0].removesuffix(".py") for path in PACKAGE.rglob("*.py")}
    return code_digest(*sorted(names))


def cost(wall_seconds: float) -> dict[str, Any]:
    """What a run took so far, for a manifest: wall-clock and CPU seconds, peak memory in MB, threads."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return {
        "wall_seconds": round(wall_seconds, 2),
        "cpu_seconds": round(usage.ru_utime + usage.ru_stime, 2),
        "peak_memory_mb": round(_peak_bytes() / 2**20),
        "threads": torch.get_num_threads(),
    }


def _peak_bytes() -> int:
    """Largest memory that this process has held. On Linux getrusage would also count its parent's."""
    status = Path("/proc/self/status")
    if status.is_file():
        return 1024 * int(status.read_text().split("VmHWM:")[1].split()[0])
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak


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
