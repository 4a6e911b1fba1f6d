"""Exercises of the notebooks: checks of answers, and the participant's and the solution notebooks.

The paired notebooks in notebooks/ are the masters. An exercise is a row of cells, told by their tags:

- markdown: the question;
- ``given`` (optional): code that question and answer share;
- ``exercise``: the stub that a participant fills in;
- ``solution``: an answer, which runs after the stub in the master;
- ``mistakes``: a raw cell in TOML, see :class:`Exercise`;
- a call ``lesson.check("name")``.

`write` makes two sets from the masters: the participant's without ``solution`` and ``mistakes``, and the solutions
without ``exercise`` and ``mistakes``. A check evaluates the same expressions, the cases, for the participant's answer
and for the solution, and accepts equal values only. Values equal to those of a typical mistake get the hint of that
mistake.

python -m cryoshift_core exercises [--out DIR]
"""

from __future__ import annotations

import argparse
import ast
import contextlib
import io
import json
import os
import sys
import tomllib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.figure import Figure

from ..errors import InputError
from ..support.runtime import check_known, root, write_text
from . import costs
from .run import Run

if TYPE_CHECKING:
    import nbformat

CHECKPOINTS = "checkpoints.json"
SETS = {"participant": ("solution", "mistakes"), "solutions": ("exercise", "mistakes")}  # set -> tags that it lacks


@dataclass(frozen=True)
class Mistake:
    """A typical wrong answer: its code, and the hint that the check gives for it."""

    code: str
    hint: str


@dataclass(frozen=True)
class Exercise:
    """One exercise of a master, from its tagged cells.

    Attributes
    ----------
    notebook, name : the notebook's name, and the one that `lesson.check` takes
    given, stub, solution : code
    cases : expressions whose values decide; `raises(function, *arguments)` is True where a call raises AssertionError
    tolerance : of numbers, absolute and relative
    mistakes : typical mistakes with their hints, `[[mistake]]` with code and hint in TOML
    wrong : code of further wrong answers, which have no hint of their own; they test the check
    """

    notebook: str
    name: str
    given: str
    stub: str
    solution: str
    cases: tuple[str, ...]
    tolerance: float
    mistakes: tuple[Mistake, ...]
    wrong: tuple[str, ...]


@dataclass(frozen=True)
class Verdict:
    """What a check found: `kind` is right, mistake, wrong or unanswered; `message` is for the participant."""

    kind: str
    message: str

    @property
    def right(self) -> bool:
        return self.kind == "right"


@dataclass(frozen=True)
class _Raised:
    """Stands for the value of a case that raised an error."""

    error: str


def _cells(path: Path) -> Iterator[tuple[str, list[str], str]]:
    """Type, tags and text of each cell of a notebook (.ipynb).

    Without nbformat, whose import takes longer than that of matplotlib: every notebook of the course reads itself.
    """
    for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
        yield cell["cell_type"], cell["metadata"].get("tags", []), "".join(cell["source"])


def read(path: Path) -> list[Exercise]:
    """The exercises of a master (.ipynb), in order.

    Raises
    ------
    InputError
        a ``mistakes`` cell that is not valid, or that does not follow its stub and its solution.
    """
    found: list[Exercise] = []
    cells: dict[str, str] = {}
    for _, tags, source in _cells(path):
        (tag,) = {"given", "exercise", "solution", "mistakes"}.intersection(tags) or {""}
        if tag in cells and tag != "given":
            raise InputError(f"{path}: expected one {tag} cell per exercise, got a second one before mistakes.")
        if tag != "mistakes":
            cells |= {tag: cells.get(tag, "") + source + "\n"} if tag else {}
            continue
        try:
            table = tomllib.loads(source)
            mistakes = tuple(Mistake(**mistake) for mistake in table["mistake"])
            name, cases, wrong = table["name"], tuple(table["cases"]), tuple(table["wrong"])
        except (tomllib.TOMLDecodeError, KeyError, TypeError) as error:
            raise InputError(
                f"{path}: expected a mistakes cell with name, cases, wrong and [[mistake]] in TOML: {error}."
            ) from error
        if missing := {"exercise", "solution"} - cells.keys():
            raise InputError(
                f"{path}: expected a cell tagged {' and '.join(sorted(missing))} before {name}'s mistakes."
            )
        found.append(
            Exercise(
                path.stem, name, cells.get("given", ""), cells["exercise"], cells["solution"], cases,
                table.get("tolerance", 1e-4), mistakes, wrong,
            )
        )  # fmt: skip
        cells = {}
    return found


def imports(path: Path) -> str:
    """The import statements of a notebook's code cells: with them, its exercises can be judged alone."""
    lines = []
    for kind, _, source in _cells(path):
        if kind == "code":
            lines += [
                ast.unparse(node) for node in ast.parse(source).body if isinstance(node, ast.Import | ast.ImportFrom)
            ]
    return "\n".join(lines)


def run_code(code: str, namespace: Mapping[str, Any]) -> dict[str, Any]:
    """A copy of the namespace in which the code was executed, without its output."""
    copy = dict(namespace)
    with contextlib.redirect_stdout(io.StringIO()):
        exec(compile(code, "<exercise>", "exec"), copy)
    return copy


def raises(function: Callable, *arguments: Any) -> bool:
    """Whether the call fails an assertion; any other error passes through."""
    try:
        function(*arguments)
    except AssertionError:
        return True
    return False


def _value(case: str, namespace: Mapping[str, Any]) -> Any:
    """Value of one case; a stand-in where it raises an error, because any error may come from an answer."""
    try:
        return eval(case, dict(namespace) | {"raises": raises})
    except Exception as error:
        return _Raised(f"{type(error).__name__}: {error}")


def same(a: Any, b: Any, tolerance: float = 1e-4) -> bool:
    """Whether two values agree: numbers and arrays within the tolerance, containers item by item, others exactly."""
    if isinstance(a, _Raised) and isinstance(b, _Raised):
        return a.error.partition(":")[0] == b.error.partition(":")[0]
    if isinstance(a, torch.Tensor):
        a = a.detach().numpy()
    if isinstance(b, torch.Tensor):
        b = b.detach().numpy()
    arrays = (np.ndarray, np.generic, int, float)
    if isinstance(a, arrays) and isinstance(b, arrays):
        a, b = np.asarray(a), np.asarray(b)
        if a.shape != b.shape or (a.dtype == bool) != (b.dtype == bool):
            return False
        return bool(np.allclose(a, b, rtol=tolerance, atol=tolerance, equal_nan=True))
    if isinstance(a, Mapping) and isinstance(b, Mapping):
        return a.keys() == b.keys() and all(same(a[key], b[key], tolerance) for key in a)
    if isinstance(a, list | tuple) and isinstance(b, list | tuple):
        return len(a) == len(b) and all(same(x, y, tolerance) for x, y in zip(a, b, strict=True))
    return type(a) is type(b) and bool(a == b)


def judge(exercise: Exercise, namespace: Mapping[str, Any]) -> Verdict:
    """Verdict on the answer that stands in a namespace, with the notebook's imports and what is given."""

    def values(names: Mapping[str, Any]) -> list[Any]:
        return [_value(case, names) for case in exercise.cases]

    def agree(one: Sequence[Any], other: Sequence[Any]) -> bool:
        return all(same(a, b, exercise.tolerance) for a, b in zip(one, other, strict=True))

    answer, right = values(namespace), values(run_code(exercise.solution, namespace))
    if agree(answer, right):
        return Verdict("right", f"Right: {exercise.name}.")
    if agree(answer, values(run_code(exercise.stub, namespace))):
        text = "is not answered yet. Fill in the cell above in place of None, run it, then run this cell again"
        return Verdict("unanswered", f"Exercise {exercise.name} {text}.")
    for mistake in exercise.mistakes:
        if agree(answer, values(run_code(mistake.code, namespace))):
            return Verdict("mistake", f"Not yet: {mistake.hint}")
    off = next(i for i, (a, b) in enumerate(zip(answer, right, strict=True)) if not same(a, b, exercise.tolerance))
    gives = f"raises {answer[off].error}" if isinstance(answer[off], _Raised) else f"gives {_short(answer[off])}"
    return Verdict("wrong", f"Not yet: {exercise.cases[off]} {gives}. Expected another value there.")


def _short(value: Any) -> str:
    text = f"{value:.4g}" if isinstance(value, float) else " ".join(repr(value).split())
    return text if len(text) <= 80 else text[:77] + "..."


class Lesson:
    """The checks of one notebook: of the participant's answers, and of numbers that everybody should get.

    Parameters
    ----------
    run : of the notebook, from `begin`
    namespace : the notebook's globals()
    """

    def __init__(self, run: Run, namespace: dict[str, Any]):
        self.run, self.namespace = run, namespace
        self.folder = costs.find().parent
        self.exercises = {exercise.name: exercise for exercise in read(self.folder / f"{run.notebook}.ipynb")}
        self.verdicts: dict[str, Verdict] = {}

    def figure(self, fig: Figure, name: str) -> None:
        """Save a figure as figures/<name>.png of the run, and show it."""
        self.run.save_figure(fig, name)
        plt.show()

    def check(self, name: str) -> None:
        """Judge the answer to one exercise and print the verdict; InputError for a name that is no exercise."""
        check_known("an exercise", name, self.exercises)
        self.verdicts[name] = judge(self.exercises[name], self.namespace)
        print(self.verdicts[name].message)

    def solved(self, name: str) -> bool:
        """Whether the last check of an exercise was right; False before any."""
        return name in self.verdicts and self.verdicts[name].right

    def unsolved(self) -> list[str]:
        """Names of the exercises that are not solved."""
        return [name for name in self.exercises if not self.solved(name)]

    def checkpoint(self, name: str, value: float) -> None:
        """Print a number beside its reference (notebooks/checkpoints.json), which was measured with the defaults.

        With other parameters than the defaults there is no reference, and the number is printed alone.
        """
        table = json.loads((self.folder / CHECKPOINTS).read_text(encoding="utf-8")).get(self.run.notebook, {})
        check_known("a checkpoint", name, table)
        expected, tolerance = table[name]["value"], table[name]["tolerance"]
        text = f"Checkpoint: {name} {value:.4g}"
        if table["parameters"] != {key: self.run.declared.get(key) for key in table["parameters"]}:
            print(f"{text} (no reference for these parameters)")
        elif abs(value - expected) <= tolerance:
            print(f"{text}; the reference is {expected:g} ± {tolerance:g}: go on.")
        else:
            print(f"{text}; the reference is {expected:g} ± {tolerance:g}: run the notebook again from its first cell.")


def notebooks(folder: Path) -> Iterator[Path]:
    """The masters in a folder, in order; InputError where there are none."""
    found = sorted(folder.glob("[0-9][0-9]*_*.ipynb"))
    if not found:
        raise InputError(f"{folder.resolve()} holds no notebooks; expected 00_*.ipynb and so on.")
    yield from found


def without(notebook: nbformat.NotebookNode, tags: Sequence[str], links: Mapping[str, str]) -> nbformat.NotebookNode:
    """A copy of a notebook without the cells that have one of the tags; in its text, `links` are replaced."""
    import nbformat

    made = nbformat.from_dict(json.loads(json.dumps(notebook)))
    made.cells = [cell for cell in made.cells if not set(tags).intersection(cell.metadata.get("tags", []))]
    for cell in made.cells:
        for old, new in links.items():
            if cell.cell_type == "markdown":
                cell.source = cell.source.replace(f"]({old}", f"]({new}")
    made.metadata.pop("jupytext", None)  # a set has no paired texts
    return made


def write(masters: Path, out: Path) -> list[Path]:
    """Paths of the notebooks in out/participant and out/solutions, made from the masters and replaced if they exist."""
    import nbformat

    written = []
    for name, tags in SETS.items():
        folder = out / name
        links = {f"{place}/": f"{os.path.relpath(masters / place, folder)}/" for place in ("../docs", "images")}
        for path in notebooks(masters):
            made = without(nbformat.read(path, as_version=4), tags, links)
            written.append(write_text(folder / path.name, nbformat.writes(made) + "\n"))
    return written


def main(arguments: list[str] | None = None) -> int:
    """Exit status of the command: 0, or 2 where there are no notebooks."""
    parser = argparse.ArgumentParser(
        "python -m cryoshift_core exercises",
        description="Write the participant's notebooks, without solutions, and the solution notebooks.",
    )
    parser.add_argument("--out", type=Path, help="folder for both sets (default: runs/exercises)")
    parser.add_argument("--notebooks", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    try:
        masters = (options.notebooks or costs.find().parent).resolve()
        written = write(masters, (options.out or root() / "runs" / "exercises").expanduser().resolve())
    except InputError as error:
        print(f"InputError: {error}", file=sys.stderr)
        return 2
    for folder in dict.fromkeys(path.parent for path in written):
        print(f"{folder}: {sum(path.parent == folder for path in written)} notebooks")
    return 0
