"""The text that names a class: a built-in name, or a file with an optional voxel size, such as ``average.em@8.0``."""

from __future__ import annotations

import gzip
import re
import zlib
from pathlib import Path

from ..errors import InputError

WITH_VOXEL_SIZE = re.compile(r"(.+)@\s*(\d+\.?\d*|\.\d+)\s*[AÅ]?")


def split_class(name_or_path: str | Path) -> tuple[str, float | None]:
    """Name or path of a class, and the voxel size in A that its text gives; None without ``@`` and a number at the end.

    A file whose whole name ends like this, such as ``average@8``, is that file, without a voxel size.
    """
    text = str(name_or_path)
    found = None if Path(text).is_file() else WITH_VOXEL_SIZE.fullmatch(text)
    return (text, None) if found is None else (found[1], float(found[2]))


def class_file(name_or_path: str | Path) -> Path | None:
    """File of a class, without its voxel size; None for a built-in name, and where there is no such file."""
    path = Path(split_class(name_or_path)[0])
    return path if path.is_file() else None


def read_whole(path: str | Path, most: int) -> bytes:
    """Content of a file, unpacked if it is gzipped.

    Parameters
    ----------
    most : bytes that the content may have

    Raises
    ------
    InputError
        Missing, damaged, or larger than `most`.
    """
    try:
        with open(path, "rb") as plain:
            zipped = plain.read(2) == b"\x1f\x8b"
        with gzip.open(path) if zipped else open(path, "rb") as file:
            content = file.read(most + 1)
    except (OSError, EOFError, zlib.error) as error:
        reason = " ".join(str(error).split())[:150].rstrip(".")
        raise InputError(f"{path} cannot be read ({reason}); copy it again.") from error
    if len(content) > most:
        raise InputError(
            f"{path}: expected at most {most:,} bytes, got more: check the file, or keep the part you need."
        )
    return content
