"""The cache folder of downloaded files, with their hashes: get, verify and where.

``lock.json`` in the folder records sha256, size and address of each file. For a file without a published hash, the hash
of the first download is recorded, and the file must match it from then on.
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
from cryoshift_core.support.runtime import write_text

from .catalog import PUBLIC, Item, find
from .download import FetchError, download
from .unpack import unpack as unpack_archive


def cache_folder() -> Path:
    """Path of the cache folder: $CRYOSHIFT_DATA if set, else the platform's cache folder of this user."""
    return Path(os.environ.get("CRYOSHIFT_DATA") or pooch.os_cache("cryoshift")).expanduser()


def where(name: str | Item, folder: Path | None = None) -> Path:
    """Path of an item's file in the cache, whether it has been downloaded or not.

    Parameters
    ----------
    folder : cache folder (default: `cache_folder`)

    Raises
    ------
    InputError
        There is no such item, or it is a folder of many files or has no public address.
    """
    item = name if isinstance(name, Item) else find(name)
    if not item.file:
        raise InputError(f"{item.name} is not one file. {item.note} Its page: {item.landing}")
    return Path(folder or cache_folder()) / item.file


def get(
    name: str | Item,
    *,
    folder: Path | None = None,
    unpack: bool = False,
    renew: bool = False,
    progress: bool = True,
    timeout: float = 30,
    tries: int = 5,
    backoff: float = 1,
) -> Path:
    """Path of an item in the cache; it is downloaded if it is not there, else compared with its hash.

    Parameters
    ----------
    name : a name of the catalog, an id such as pdb:6zu5, or an item
    folder : cache folder (default: `cache_folder`)
    unpack : return the unpacked file of a .gz, or the folder of a .zip or .tar; other files are returned unchanged
    renew : download again, and accept the file that is published now
    progress : show a progress bar
    timeout, tries, backoff : as in `download.download`

    Raises
    ------
    InputError
        The name is not in the catalog, or is not one file.
    FetchError
        The file cannot be downloaded, or does not match its hash.
    """
    how: dict[str, Any] = {"timeout": timeout, "tries": tries, "backoff": backoff, "progress": progress}
    return get_all([name], folder=folder, unpack=unpack, renew=renew, **how)[0]


def get_all(
    names: Iterable[str | Item],
    *,
    folder: Path | None = None,
    jobs: int = 4,
    unpack: bool = False,
    renew: bool = False,
    **how: Any,
) -> list[Path]:
    """Paths of several items in the cache, in their order; those that are missing are downloaded, `jobs` at a time.

    All are tried before an error is raised. Parameters and errors as in `get`.

    Parameters
    ----------
    jobs : number of parallel downloads
    """
    items = [name if isinstance(name, Item) else find(name) for name in names]
    folder = Path(folder or cache_folder())
    for item in items:
        where(item, folder)
    stop = threading.Event()
    with ThreadPoolExecutor(max(1, min(jobs, len(items)))) as pool:
        running = [pool.submit(_get_one, item, folder, renew, unpack, how | {"stop": stop}) for item in items]
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
        raise FetchError(" ".join(_with_way_out(error) for error in errors if isinstance(error, OSError)))
    return [future.result() for future in running]


def _get_one(item: Item, folder: Path, renew: bool, unpack: bool, how: dict) -> Path:
    path = where(item, folder)
    unpack = unpack and path.name.endswith((".gz", ".tgz", ".zip", ".tar", ".tar.bz2", ".tar.xz"))
    locked = read_lock(folder).get(item.file)
    done = path.is_file() and locked and not renew and (not unpack or _unpacked(path).is_dir())
    # A complete cache needs no lock file, so that it can also be used from a read-only disk.
    with nullcontext() if done else _locked(folder, item.file):
        locked = None if renew else read_lock(folder).get(item.file)
        expected = item.sha256 or (locked or {}).get("sha256")
        if renew or not path.is_file():
            exact = not item.size_is_approximate
            source, found = download(item.urls, path, size=item.size, exact=exact, sha256=expected, **how)
        else:
            source, found = "found in place", pooch.file_hash(path)
        if expected and found != expected.lower():
            raise FetchError(_mismatch(path, found, expected))
        if not locked:
            shutil.rmtree(_unpacked(path), ignore_errors=True)
            _write_lock(folder, item.file, {"sha256": found, "size": path.stat().st_size, "from": source})
        return unpack_archive(path, _unpacked(path)) if unpack else path


def local(classes: str, **how: Any) -> str:
    """Comma-separated classes with entries of public archives (pdb:6zu5, emdb:1234) replaced by paths of their files.

    Files that are not in the cache are downloaded. Built-in names are kept, ~ is expanded, and a voxel size behind an
    entry (emdb:1234@1.0) stays behind the path.

    Parameters
    ----------
    classes : comma-separated names, paths and entries
    how : as in `get_all`
    """
    names = [name.strip() for name in classes.split(",")]
    public = [entry for name in names if PUBLIC.fullmatch(entry := name.partition("@")[0])]
    paths = dict(zip(public, get_all(public, unpack=True, **how), strict=True)) if public else {}

    def place(name: str) -> str:
        entry, at, size = name.partition("@")
        return (
            f"{paths[entry]}{at}{size}" if entry in paths else str(Path(name).expanduser() if name[:1] == "~" else name)
        )

    return ",".join(map(place, names))


def verify(names: Iterable[str | Item] = (), *, folder: Path | None = None) -> list[Path]:
    """Paths of the files in the cache, after each has been compared with its hash.

    Parameters
    ----------
    names : items to compare (default: all files that were downloaded)
    folder : cache folder (default: `cache_folder`)

    Raises
    ------
    InputError
        A named item is not in the cache.
    FetchError
        A file differs from its hash; all such files are named.
    """
    folder = Path(folder or cache_folder())
    lock = read_lock(folder)
    items = [name if isinstance(name, Item) else find(name) for name in names]
    expected: dict[Path, str] = {}
    for item in items:
        path, value = where(item, folder), item.sha256 or lock.get(item.file, {}).get("sha256")
        if not path.is_file() or not value:
            raise InputError(f"{path} is missing, or has no recorded hash; expected a downloaded file: get it first.")
        expected[path] = value
    if not items:
        expected = {folder / file: row["sha256"] for file, row in lock.items() if (folder / file).is_file()}
    hashes = {path: pooch.file_hash(path) for path in expected}
    wrong = [_mismatch(path, hashes[path], value) for path, value in expected.items() if hashes[path] != value.lower()]
    if wrong:
        raise FetchError(" ".join(wrong))
    return list(expected)


def _mismatch(path: Path, found: str, expected: str) -> str:
    return (
        f"{path} has changed: expected sha256 {expected}, got {found}. Delete it and get it again; to accept the file "
        "that is published now, run `python -m data_fetch get --renew NAME`."
    )


def read_lock(folder: Path) -> dict[str, dict]:
    """Recorded files of a cache folder: {path in the folder: {"sha256", "size", "from"}}; empty if there are none.

    Raises
    ------
    FetchError
        ``lock.json`` is not such a table.
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
        f"{path} cannot be read ({reason}); expected the table of hashes that get writes. Restore it, or delete it to "
        "accept the files that are there now."
    )


def _write_lock(folder: Path, file: str, row: dict) -> None:
    with _locked(folder, "lock.json"):
        table = read_lock(folder) | {file: row}
        write_text(folder / "lock.json", json.dumps(dict(sorted(table.items())), indent=1) + "\n")


def _with_way_out(error: OSError) -> str:
    return str(error) if isinstance(error, FetchError) else f"{error}. Set CRYOSHIFT_DATA to a writable folder."


def _locked(folder: Path, file: str) -> FileLock:
    """Lock that gives one process or thread at a time access to a file of the cache."""
    locks = folder / ".locks"
    locks.mkdir(parents=True, exist_ok=True)
    return FileLock(locks / (file.replace("/", "_") + ".lock"))


def _unpacked(path: Path) -> Path:
    return path.with_name(path.name + ".unpacked")
