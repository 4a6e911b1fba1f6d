"""STAR tables on disk, as RELION reads and writes them."""

from __future__ import annotations

import codecs
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import gemmi

from ..errors import InputError
from ..support.runtime import write_text
from .checks import check_file


def read_star(path: str | Path) -> dict[str, dict[str, list[str]]]:
    """All tables of a STAR file: block name -> column name without its leading underscore -> values as text.

    Raises
    ------
    InputError
        Missing, or not a STAR file.
    """
    check_file(path)
    tables: dict[str, dict[str, list[str]]] = {}
    try:
        for block in _document(Path(path)):
            table = tables.setdefault(block.name.strip(), {})
            item: Any  # gemmi's types leave the items of a block open
            for item in block:
                if item.pair:
                    table[item.pair[0][1:]] = [gemmi.cif.as_string(item.pair[1])]
                elif item.loop:
                    for column, tag in enumerate(item.loop.tags):
                        cells = range(item.loop.length())
                        table[tag[1:]] = [gemmi.cif.as_string(item.loop[row, column]) for row in cells]
    except (RuntimeError, ValueError) as error:  # a cell that is not text raises UnicodeDecodeError, a ValueError
        reason = str(error).splitlines()[0]
        way_out = "copy it again, or correct the row" if "number of values" in reason else "check the file"
        raise InputError(f"{path} is not a STAR file ({reason}); expected RELION's format: {way_out}.") from error
    return tables


def _document(path: Path) -> gemmi.cif.Document:
    """The parsed file, also where a Windows program has put a byte order mark before it."""
    with path.open("rb") as file:
        start = file.read(3)
    marked = start == codecs.BOM_UTF8 or start[:2] in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
    if not marked:
        return gemmi.cif.read_file(str(path))
    return gemmi.cif.read_string(path.read_bytes().decode("utf-8-sig" if start == codecs.BOM_UTF8 else "utf-16"))


def _cell(value: object) -> str:
    """A value as STAR text, quoted only when necessary, because RELION does not read quotes."""
    text = str(value)
    plain = text.split() == [text] and text[0] not in "_#'\"$;[]"
    reserved = text[:7].lower().startswith(("data_", "loop_", "save_", "stop_", "global_"))
    return text if plain and not reserved else gemmi.cif.quote(text)


def optics_table(
    voxel_sizes: Sequence[float], voltage: float, spherical_aberration: float, size: str = "rlnMicrographPixelSize"
) -> dict[str, list[str]]:
    """Table data_optics with a group for each voxel size, numbered from 1.

    Programs of RELION 3.1 write an empty file without these columns.

    Parameters
    ----------
    voxel_sizes : A
    voltage, spherical_aberration : kV and mm
    size : name of the column of the voxel size, which is another for images
    """
    numbers = range(1, len(voxel_sizes) + 1)
    return {
        "rlnOpticsGroup": [str(k) for k in numbers],
        "rlnOpticsGroupName": [f"opticsGroup{k}" for k in numbers],
        size: [f"{value:.6f}" for value in voxel_sizes],
        "rlnVoltage": [f"{voltage:.1f}"] * len(voxel_sizes),
        "rlnSphericalAberration": [f"{spherical_aberration:.1f}"] * len(voxel_sizes),
    }


def write_star(path: str | Path, tables: dict[str, dict[str, list]], lists: Collection[str] = ()) -> None:
    """Return None; write tables (block name -> column -> values) as a STAR file, atomically.

    Parameters
    ----------
    lists : names of one-row tables to write as labels and values instead of a loop, as RELION writes data_general
    """
    lines = []
    for name, table in tables.items():
        lines += [f"data_{name}", ""]
        if name in lists:
            lines += [f"_{column}\t{_cell(value)}" for column, (value,) in table.items()]
        elif table:
            lines += ["loop_", *(f"_{column} #{i}" for i, column in enumerate(table, 1))]
            lines += ["\t".join(_cell(value) for value in row) for row in zip(*table.values(), strict=True)]
        lines += ["", ""]
    write_text(path, "\n".join(lines))
