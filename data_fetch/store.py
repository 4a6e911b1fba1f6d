"""The cache folder: what was fetched, the hashes it was trusted with, and the verbs get, verify and where.

``lock.json`` in the folder holds, for each file, its sha256, size and address. A file without a published hash is
trusted the first time it is seen; from then on it has to match.
"""

from __future__ import annotations

import json
import os
import shutil
import threading
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pooch
from filelock import FileLock

from cryoshift_core.errors import InputError

from .catalog import PUBLIC, Item, find
from .download import FetchError, download, write_whole
from .unpack import unpack as unpack_archive


def cache_folder() -> Path:
    """$CRYOSHIFT_DATA if set, else the platform's cache folder for this user."""
    return Path(os.environ.get("CRYOSHIFT_DATA") or pooch.os_cache("cryoshift")).expanduser()


def where(name: str | Item, folder: Path | None = None) -> Path:
    """Where the file of an item lies, or would lie, in the cache.

    Raises
    ------
    InputError
        If there is no such item, or it is a folder of many files or has no public address.
    """
    item = name if isinstance(name, Item) else find(name)
    if not item.file:
        raise InputError(f"{item.name} is not one file to fetch. {item.note} Its page: {item.landing}")
    return Path(folder or cache_folder()) / item.file


def get(
    names: str | Item | Iterable[str | Item],
    *,
    folder: Path | None = None,
    jobs: int = 4,
    unpack: bool = False,
    renew: bool = False,
    progress: bool = True,
    timeout: float = 30,
    tries: int = 5,
    backoff: float = 1,
) -> Path | list[Path]:
    """Fetch items into the cache, `jobs` at a time, and return the path of one name or the paths of several.

    A file that is there already is checked and not loaded again. With several names, all are tried before the
    error of one is raised.

    Parameters
    ----------
    folder : cache folder (default: `cache_folder`).
    unpack : return the unpacked file of a .gz, the folder of a .zip or .tar; others are returned as they are.
    renew : load the file again, in place of the one that is there, and trust what is published now.
    timeout, tries, backoff : see `download.download`.

    Raises
    ------
    InputError
        If a name is not in the catalog or is not one file.
    FetchError
        If a file could not be had, or does not match its hash.
    """
    one = isinstance(names, str | Item)
    items = [name if isinstance(name, Item) else find(name) for name in ([names] if one else names)]
    folder = Path(folder or cache_folder())
    for item in items:
        where(item, folder)
    stop = threading.Event()
    how = {"timeout": timeout, "tries": tries, "backoff": backoff, "progress": progress, "stop": stop}
    with ThreadPoolExecutor(max(1, min(jobs, len(items)))) as pool:
        running = [pool.submit(_get_one, item, folder, renew, unpack, how) for item in items]
        try:
            errors = [error for error in (future.exception() for future in running) if error]
        except BaseException:  # Ctrl-C: the threads end at their next chunk
            stop.set()
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    for error in errors:
        if not isinstance(error, OSError):
            raise error
    if errors:
        raise FetchError(" ".join(_with_way_out(error) for error in errors))
    paths = [future.result() for future in running]
    return paths[0] if one else paths


def _get_one(item: Item, folder: Path, renew: bool, unpack: bool, how: dict) -> Path:
    path = where(item, folder)
    unpack = unpack and path.name.endswith((".gz", ".tgz", ".zip", ".tar", ".tar.bz2", ".tar.xz"))
    locked = read_lock(folder).get(item.file)
    done = path.is_file() and locked and not renew and (not unpack or _unpacked(path).is_dir())
    # A cache that somebody else filled can be read where nothing, not even a lock, can be written.
    with nullcontext() if done else _locked(folder, item.file):
        locked = None if renew else read_lock(folder).get(item.file)
        wanted = item.sha256 or (locked or {}).get("sha256")
        if renew or not path.is_file():
            exact = not item.size_is_approximate
            source, found = download(item.urls, path, size=item.size, exact=exact, sha256=wanted, **how)
        else:
            source, found = "found in place", pooch.file_hash(path)
        if wanted and found != wanted.lower():
            raise FetchError(_mismatch(path, found, wanted))
        if not locked:
            shutil.rmtree(_unpacked(path), ignore_errors=True)
            _write_lock(folder, item.file, {"sha256": found, "size": path.stat().st_size, "from": source})
        return unpack_archive(path, _unpacked(path)) if unpack else path


def local(classes: str, **how: Any) -> str:
    """Comma-separated classes in which each entry of the catalog (pdb:6zu5, emdb:1234) has become its file's path.

    What is not in the cache yet is fetched, `how` as for :func:`get`. Built-in names stay as they are, ~ is expanded.
    """
    names = [name.strip() for name in classes.split(",")]
    public = [name for name in names if PUBLIC.fullmatch(name)]
    paths = dict(zip(public, get(public, unpack=True, **how), strict=True)) if public else {}
    return ",".join(str(paths.get(name, Path(name).expanduser() if name[:1] == "~" else name)) for name in names)


def verify(names: Iterable[str | Item] = (), *, folder: Path | None = None) -> list[Path]:
    """Hash files of the cache again, all that were fetched unless `names` are given; return the paths that match.

    Raises
    ------
    InputError
        If a named item is not in the cache.
    FetchError
        If a file differs from its hash; all that differ are named.
    """
    folder = Path(folder or cache_folder())
    lock = read_lock(folder)
    items = [name if isinstance(name, Item) else find(name) for name in names]
    wanted = {where(item, folder): item.sha256 or lock.get(item.file, {}).get("sha256") for item in items}
    for path, value in wanted.items():
        if not path.is_file() or not value:
            raise InputError(f"{path} is not there, or has no hash yet; wanted a file that was fetched. Get it first.")
    if not items:
        wanted = {folder / file: row["sha256"] for file, row in lock.items() if (folder / file).is_file()}
    hashes = {path: pooch.file_hash(path) for path in wanted}
    wrong = [_mismatch(path, hashes[path], value) for path, value in wanted.items() if hashes[path] != value.lower()]
    if wrong:
        raise FetchError(" ".join(wrong))
    return list(wanted)


def _mismatch(path: Path, found: str, wanted: str) -> str:
    return (
        f"{path} has changed: found sha256 {found}, wanted {wanted}. Delete it and get it again; "
        f"to trust what is published now, `python -m data_fetch get --renew NAME`."
    )


def read_lock(folder: Path) -> dict[str, dict]:
    """The table of trusted files: {path in the cache: {"sha256", "size", "from"}}; empty before the first.

    Raises
    ------
    FetchError
        If ``lock.json`` is not such a table.
    """
    path = folder / "lock.json"
    try:
        table = json.loads(path.read_text(encoding="utf-8"))
        if all(isinstance(row["sha256"], str) for row in table.values()):
            return table
        reason = "a sha256 is not text"
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise FetchError(_with_way_out(error)) from None
    except (ValueError, AttributeError, KeyError, TypeError) as error:
        reason = repr(error)
    raise FetchError(
        f"{path} cannot be read: {reason}; wanted the table of hashes that get wrote. "
        "Restore it, or delete it to trust the files that are there now."
    )


def _write_lock(folder: Path, file: str, row: dict) -> None:
    with _locked(folder, "lock.json"):
        table = read_lock(folder) | {file: row}
        write_whole(folder / "lock.json", json.dumps(dict(sorted(table.items())), indent=1) + "\n")


def _with_way_out(error: OSError) -> str:
    return str(error) if isinstance(error, FetchError) else f"{error}. Set CRYOSHIFT_DATA to a writable folder."


def _locked(folder: Path, file: str) -> FileLock:
    """Keeps other processes and threads off one file of the cache."""
    locks = folder / ".locks"
    locks.mkdir(parents=True, exist_ok=True)
    return FileLock(locks / (file.replace("/", "_") + ".lock"))


def _unpacked(path: Path) -> Path:
    return path.with_name(path.name + ".unpacked")
