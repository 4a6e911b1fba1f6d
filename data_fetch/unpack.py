"""Unpack .gz, .zip and .tar files completely or not at all, and never outside the given folder."""

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
    """Path of the file in a plain .gz, or of the folder with the members of any other archive.

    An existing `folder` counts as unpacked. Members are written to ``<folder>.partial``, which is renamed at the end.

    Parameters
    ----------
    archive : .gz, .zip or .tar file
    folder : folder to make
    limit : bytes that may be written (default: the free space of the disk)

    Raises
    ------
    FetchError
        A member would leave the folder, or is a link or a device; the members are larger than `limit`; or the archive
        is broken.
    """
    archive, folder = Path(archive), Path(folder)
    single = archive.name.endswith(".gz") and not archive.name.endswith(".tar.gz")
    result = folder / archive.name.removesuffix(".gz") if single else folder
    if folder.is_dir():
        return result
    work = folder.with_name(folder.name + ".partial")  # a folder; `runtime.atomic` replaces single files
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
    """Write the content of a .gz. The size is not known in advance, so the limit is checked during unpacking."""
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
            f"{archive}: expected Python 3.11.4 or later, which can unpack it safely; install it, or unpack by hand."
        )
    with tarfile.open(archive) as packed:
        members = packed.getmembers()
        for member in members:
            _check_member(archive, member.name, member.isfile() or member.isdir())
        _check_size(archive, sum(member.size for member in members), limit)
        packed.extractall(folder, members, filter="data")


def _check_member(archive: Path, name: str, plain: bool) -> None:
    """Refuse links and devices, and names that are absolute or contain .., on this or any other operating system."""
    windows = PureWindowsPath(name)
    outside = PurePosixPath(name).is_absolute() or windows.drive or windows.root or ".." in windows.parts
    if outside or not plain:
        found = "a name that leaves the folder" if outside else "a link or a device"
        raise FetchError(
            f"{archive} was not unpacked: expected plain files and folders, got member {name!r}, {found}. Ask the "
            "publisher for another archive."
        )


def _check_size(archive: Path, size: int, limit: int) -> None:
    if size > limit:
        raise FetchError(
            f"{archive} unpacks to {size:,} bytes or more, but only {limit:,} may be written; free disk space, or set "
            "CRYOSHIFT_DATA to a folder on a larger disk."
        )
