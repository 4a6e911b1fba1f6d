"""Unpack .gz, .zip and .tar files: all or nothing, and never outside of the folder asked for."""

from __future__ import annotations

import gzip
import os
import shutil
import stat
import tarfile
import zipfile
import zlib
from pathlib import Path, PurePosixPath, PureWindowsPath

from .download import FetchError

CHUNK = 1 << 20
BROKEN = (tarfile.TarError, zipfile.BadZipFile, zlib.error, EOFError, RuntimeError, NotImplementedError, ValueError)


def unpack(archive: Path, folder: Path, limit: int | None = None) -> Path:
    """Unpack `archive` into `folder`; return the file of a plain .gz, the folder of any other archive.

    A `folder` that is there already is taken as unpacked. The work is done in ``<folder>.partial``, renamed at the end.

    Parameters
    ----------
    limit : bytes that may be written (default: what the disk has free).

    Raises
    ------
    FetchError
        If a member would leave the folder, is a link or a device, the whole is larger than `limit`, or the archive
        is broken.
    """
    archive, folder = Path(archive), Path(folder)
    single = archive.name.endswith(".gz") and not archive.name.endswith(".tar.gz")
    result = folder / archive.name.removesuffix(".gz") if single else folder
    if folder.is_dir():
        return result
    work = folder.with_name(folder.name + ".partial")
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    if limit is None:
        limit = shutil.disk_usage(work).free
    try:
        if single:
            _gunzip(archive, work / result.name, limit)
        elif archive.suffix == ".zip":
            _unzip(archive, work, limit)
        else:
            _untar(archive, work, limit)
        os.replace(work, folder)
    except FetchError:
        raise
    except (OSError, *BROKEN) as error:
        raise FetchError(f"{archive} cannot be unpacked: {error}. Get it again, or unpack it by hand.") from None
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return result


def _gunzip(archive: Path, target: Path, limit: int) -> None:
    """A .gz does not say how large it is inside, so the limit is watched on the way."""
    written = 0
    if not archive.stat().st_size:
        raise EOFError("it is empty")
    with gzip.open(archive) as packed, target.open("wb") as out:
        while chunk := packed.read(CHUNK):
            written += len(chunk)
            _check_size(archive, written, limit)
            out.write(chunk)


def _unzip(archive: Path, folder: Path, limit: int) -> None:
    with zipfile.ZipFile(archive) as packed:
        members = packed.infolist()
        for member in members:
            mode = member.external_attr >> 16
            _check_member(archive, member.orig_filename, stat.S_IFMT(mode) in (0, stat.S_IFREG, stat.S_IFDIR))
        _check_size(archive, sum(member.file_size for member in members), limit)
        packed.extractall(folder)


def _untar(archive: Path, folder: Path, limit: int) -> None:
    if not hasattr(tarfile, "data_filter"):
        raise FetchError(
            f"{archive} needs Python 3.11.4 or later to be unpacked safely; install it, or unpack by hand."
        )
    with tarfile.open(archive) as packed:
        members = packed.getmembers()
        for member in members:
            _check_member(archive, member.name, member.isfile() or member.isdir())
        _check_size(archive, sum(member.size for member in members), limit)
        packed.extractall(folder, members, filter="data")


def _check_member(archive: Path, name: str, plain: bool) -> None:
    """Refuse links and devices, and names that are absolute or climb, on this system or any other."""
    windows = PureWindowsPath(name)
    outside = PurePosixPath(name).is_absolute() or windows.drive or windows.root or ".." in windows.parts
    if outside or not plain:
        found = "a name that leaves the folder" if outside else "a link or a device"
        raise FetchError(
            f"{archive} is refused: its member {name!r} is {found}; wanted plain files and folders. "
            "Nothing was unpacked: ask whoever published it."
        )


def _check_size(archive: Path, size: int, limit: int) -> None:
    if size > limit:
        raise FetchError(
            f"{archive} unpacks to {size:,} bytes or more and {limit:,} may be written; "
            "make room, or set CRYOSHIFT_DATA to a folder on a larger disk."
        )
