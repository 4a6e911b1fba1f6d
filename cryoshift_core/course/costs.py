"""Measured time and memory of each notebook: one data file, notebooks/costs.json, behind every place that states them.

Seconds are wall-clock time on two idle CPU cores without a GPU; megabytes are the largest memory of the process.
After new measurements (`tutorial --record-costs`), :func:`write_tables` brings the notebooks and the README up to date.
"""

from __future__ import annotations

import json
import re
from dataclasses import asdict, dataclass
from pathlib import Path

from ..errors import InputError
from ..support.runtime import PACKAGE, write_text

FILE = "costs.json"
# The opening table of a notebook, "# | laptop | 1.6 min | 1240 MB |", and a row of the README's table of notebooks.
HEADER = re.compile(r"^# \| (\w+) \| ([^|]+) \| ([^|]+) \|$", re.MULTILINE)
README_ROW = re.compile(
    r"^(\| \d\d\w? \| \[[^]]*\]\(notebooks/(\w+)\.ipynb\) \|.*) \| ([^|]+) \| ([^|]+) \|$", re.MULTILINE
)


@dataclass(frozen=True)
class Cost:
    """Wall-clock seconds and peak memory (MB) of one notebook at one profile."""

    seconds: float
    memory_mb: float

    @property
    def time(self) -> str:
        """Time as the tables show it: "23 s", or "1.6 min" from one minute on."""
        return f"{self.seconds:.0f} s" if self.seconds < 60 else f"{self.seconds / 60:.1f} min"

    @property
    def memory(self) -> str:
        """Memory as the tables show it: "1240 MB"."""
        return f"{round(self.memory_mb, -1):.0f} MB"


def find() -> Path:
    """Path of costs.json: beside the notebooks of this checkout, or of the current folder or one above it.

    Raises
    ------
    InputError
        there is none.
    """
    folders = [PACKAGE.parent, Path.cwd(), *Path.cwd().parents]
    for path in (folder / place / FILE for folder in folders for place in ("notebooks", ".")):
        if path.is_file():
            return path
    raise InputError(f"{Path.cwd()} and the folders above hold no notebooks/{FILE}; run this inside the repository.")


def read(profile: str, path: Path | None = None) -> dict[str, Cost]:
    """Notebook -> cost at a profile; empty for a profile that was not measured."""
    table = json.loads((path or find()).read_text(encoding="utf-8"))
    return {name: Cost(**cost) for name, cost in table.get(profile, {}).items()}


def record(profile: str, costs: dict[str, Cost], path: Path | None = None) -> Path:
    """Path of costs.json, in which the costs of these notebooks at a profile were replaced."""
    path = path or find()
    table = json.loads(path.read_text(encoding="utf-8"))
    table.setdefault(profile, {}).update({name: asdict(cost) for name, cost in costs.items()})
    return write_text(path, json.dumps(table, indent=2, sort_keys=True) + "\n")


def with_costs(text: str, notebook: str = "", path: Path | None = None) -> str:
    """The text of a notebook (its .py), or of the README if `notebook` is empty, with the costs of costs.json."""
    if not notebook:
        laptop = read("laptop", path)

        def row_of_readme(row: re.Match[str]) -> str:
            cost = laptop.get(row[2])
            return f"{row[1]} | {cost.time} | {cost.memory} |" if cost else row[0]

        return README_ROW.sub(row_of_readme, text)

    def header(row: re.Match[str]) -> str:
        cost = read(row[1], path).get(notebook)
        return f"# | {row[1]} | {cost.time} | {cost.memory} |" if cost else row[0]

    return HEADER.sub(header, text)


def write_tables(notebooks: Path) -> list[Path]:
    """Paths of the notebooks' texts (.py) and of the README beside `notebooks` whose tables were rewritten."""
    changed = []
    for path in [*sorted(notebooks.glob("[0-9][0-9]*_*.py")), notebooks.parent / "README.md"]:
        text = path.read_text(encoding="utf-8")
        new = with_costs(text, path.stem if path.suffix == ".py" else "", notebooks / FILE)
        if new != text:
            changed.append(write_text(path, new))
    return changed
