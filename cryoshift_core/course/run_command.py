"""The command ``python -m cryoshift_core run NOTEBOOK -p name value``: one notebook, checked before a kernel starts."""

from __future__ import annotations

import argparse
import ast
import hashlib
import json
import re
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import papermill
import yaml
from filelock import FileLock

from ..application.run_folder import MANIFEST, code, read_manifest, running_elsewhere, unfinished_folder
from ..errors import InputError
from ..support.runtime import did_you_mean, file_digest, root, write_text
from .parameters import FIELDS, check, literal, unknown
from .runner import execute

DONE = "done.json"  # written after everything else
UNNAMED = ("profile", "device", "out_dir")  # parameters that are no part of a folder's name


@dataclass(frozen=True)
class Declared:
    """One parameter of a notebook: its name, type, default, and the comment after it."""

    name: str
    type: str
    default: Any
    help: str


def find(name: str | Path, folder: Path | None = None) -> Path:
    """Path of a notebook: a path to an .ipynb, or the number or the beginning of the name of one in notebooks/.

    Raises
    ------
    InputError
        there is none of that name, or several.
    """
    if Path(name).suffix == ".ipynb" and Path(name).is_file():
        return Path(name)
    folder = folder or root() / "notebooks"
    known = {path.stem: path for path in sorted(folder.glob("[0-9][0-9]*_*.ipynb"))}
    number = str(name).zfill(2) if str(name).isdigit() else str(name)
    found = [stem for stem in known if stem == name or stem.split("_")[0] == number]
    found = found or [stem for stem in known if stem.startswith(str(name))]
    if len(found) != 1:
        raise InputError(
            f"Notebook '{name}': expected the number or the name of one in {folder} ({', '.join(known) or 'none'}), "
            f"got {' and '.join(found) if found else 'none of them'}{did_you_mean(str(name), known)}"
        )
    return known[found[0]]


def declared(notebook: Path) -> dict[str, Declared]:
    """Name -> parameter of a notebook, in its order; {} for a notebook without a cell of parameters."""
    return {
        name: Declared(name, found["inferred_type_name"], ast.literal_eval(found["default"]), found["help"])
        for name, found in papermill.inspect_notebook(str(notebook)).items()
    }


def typed(parameter: Declared, text: Any) -> Any:
    """A value from the command line as the parameter's type, so that a text needs no quotes; else as it is."""
    if not isinstance(text, str) or parameter.type == "str":
        return text
    return literal(text)


def checked(notebook: Path, given: Mapping[str, Any]) -> dict[str, Any]:
    """All parameters of a notebook: its defaults, and `given` in their place, as the types that it declares.

    Raises
    ------
    InputError
        an unknown name, a wrong type or a wrong value; one sentence for each, all in one line.
    """
    known = declared(notebook)
    values = {name: typed(known[name], value) if name in known else value for name, value in given.items()}
    problems = [unknown(name, value, known) for name, value in values.items() if name not in known]
    values = {name: value for name, value in values.items() if name in known}
    try:
        check({**{name: p.default for name, p in known.items() if name in FIELDS}, **values}, known)
    except InputError as error:
        problems.append(str(error))
    if problems:
        raise InputError(" ".join(problems))
    return {name: values.get(name, p.default) for name, p in known.items()}


def folder_name(notebook: Path, values: Mapping[str, Any]) -> str:
    """Name of a run's folder: the notebook's, then each parameter that is not at its default, such as "-seed=3".

    Values that are no plain word stand as a digest, and so does the whole where it is longer than 120 characters.
    """
    parts = []
    for name, parameter in declared(notebook).items():
        value = values.get(name, parameter.default)
        if name in UNNAMED or value == parameter.default:
            continue
        text = str(value)
        plain = re.fullmatch(r"[\w.,:+-]{1,40}", text)
        parts.append(f"{name}={text.replace(':', '~') if plain else hashlib.sha256(text.encode()).hexdigest()[:8]}")
    whole = "-".join([notebook.stem, *parts])
    if len(whole) <= 120:
        return whole
    return f"{notebook.stem}-{hashlib.sha256(whole.encode()).hexdigest()[:12]}"


def run(notebook: Path, given: Mapping[str, Any], out: Path | None = None, wait: float = 60.0) -> int:
    """Exit status of one run: 0, or 1 where it failed. Two processes never work on the same run at once.

    done.json is the last file that is written. A run that has it, with the same parameters and code, is not repeated
    for a process that waited for it.

    Parameters
    ----------
    out : folder of the results; None: a name from the parameters, in runs/<profile>
    wait : seconds to wait for a kernel whose parent process was killed

    Raises
    ------
    InputError
        before a kernel starts: parameters that are refused, or a folder that another run is writing to.
    """
    values = checked(notebook, given)
    base = root() / "runs" / str(values["profile"])
    folder = (out or Path(values.get("out_dir") or base / folder_name(notebook, values))).expanduser().resolve()
    folder.parent.mkdir(parents=True, exist_ok=True)
    asked = time.time()
    with FileLock(folder.with_name(f"{folder.name}.lock")):
        if (folder / DONE).is_file() and (folder / DONE).stat().st_mtime >= asked and _is_done(folder, notebook, given):
            print(f"finished by another process: {folder}")
            return 0
        end = time.monotonic() + wait
        while running_elsewhere(read_manifest(unfinished_folder(folder))) and time.monotonic() < end:
            time.sleep(0.5)  # a kernel ends itself some seconds after its parent was killed
        if earlier := read_manifest(folder):
            print(f"{folder} holds a run of {earlier['started']}; it will be renamed when this one has finished.")
        result = execute(notebook, folder, dict(given) | {"out_dir": str(folder)})
        if result.error:
            print(f"FAILED in {result.error}; see {result.folder}", file=sys.stderr)
            return 1
        content = {
            "notebook": notebook.stem,
            "parameters": dict(given),
            "source": file_digest(notebook),
            "code": code(),
            "manifest": file_digest(folder / MANIFEST),
            "seconds": round(result.seconds, 1),
        }
        write_text(folder / DONE, json.dumps(content, indent=2) + "\n")
    print(f"finished in {result.seconds:.0f} s: {folder}")
    return 0


def _is_done(folder: Path, notebook: Path, given: Mapping[str, Any]) -> bool:
    done = json.loads((folder / DONE).read_text(encoding="utf-8"))
    wanted = {"parameters": dict(given), "source": file_digest(notebook), "code": code()}
    return all(done.get(name) == value for name, value in wanted.items())


def help_text(notebook: Path) -> str:
    """A table of a notebook's parameters: name, type, default and help."""
    rows = [(p.name, p.type, repr(p.default), p.help) for p in declared(notebook).values()]
    widths = [max([len(row[i]) for row in rows], default=0) for i in range(3)]
    lines = ["  ".join([*(c.ljust(w) for c, w in zip(row, widths, strict=False)), row[3]]) for row in rows]
    return "\n".join([notebook.stem, *(f"  {line}" for line in lines)])


def read_parameters(pairs: Iterable[Sequence[str]], file: Path | None) -> dict[str, Any]:
    """Name -> value of the command line's -p, on top of those in a YAML or JSON file.

    Raises
    ------
    InputError
        the file holds no table of names and values.
    """
    given: Any = {}
    if file is not None:
        try:
            given = yaml.safe_load(file.read_text(encoding="utf-8")) or {}
        except (OSError, yaml.YAMLError) as error:
            raise InputError(
                f"{file}: expected parameters as YAML, got {error}. Write lines such as seed: 3."
            ) from error
        if not isinstance(given, dict):
            raise InputError(f"{file}: expected lines such as seed: 3, got {type(given).__name__}. Name each value.")
    return {str(name): value for name, value in given.items()} | {name: value for name, value in pairs}


def main(arguments: list[str] | None = None) -> int:
    """Exit status of the command: 0, 1 where the notebook failed, 2 where it was refused before it started."""
    parser = argparse.ArgumentParser(
        "python -m cryoshift_core run", description="Run one notebook with other parameters, in a folder of its own."
    )
    parser.add_argument("notebook", nargs="?", help="its number, such as 05, its name, or the path of an .ipynb")
    parser.add_argument(
        "-p", nargs=2, action="append", default=[], metavar=("NAME", "VALUE"), help="a parameter; may be repeated"
    )
    parser.add_argument("-f", "--parameters", type=Path, metavar="FILE", help="parameters in YAML or JSON; -p wins")
    parser.add_argument("--out", type=Path, help="folder of the results (default: a name from the parameters)")
    parser.add_argument("--list", action="store_true", help="list the notebooks and their parameters, and stop")
    parser.add_argument("--help-parameters", action="store_true", help="list the parameters of the notebook, and stop")
    parser.add_argument("--check", action="store_true", help="check the parameters, print the folder, and stop")
    parser.add_argument("--notebooks", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    try:
        if options.list or not options.notebook:
            folder = options.notebooks or root() / "notebooks"
            print(*map(help_text, sorted(folder.glob("[0-9][0-9]*_*.ipynb"))), sep="\n\n")
            return 0
        notebook = find(options.notebook, options.notebooks)
        if options.help_parameters:
            print(help_text(notebook))
            return 0
        given = read_parameters(options.p, options.parameters)
        known = declared(notebook)
        given = {name: typed(known[name], value) if name in known else value for name, value in given.items()}
        if options.check:
            print(folder_name(notebook, checked(notebook, given)))
            return 0
        return run(notebook, given, options.out)
    except InputError as error:
        print(f"InputError: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
