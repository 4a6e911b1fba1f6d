"""Sweeps: one notebook with many combinations of parameters, from a YAML file that is checked before anything starts.

::

    name: weights            # folder runs/sweeps/weights; default: the file's name
    notebook: "05"
    parameters:              # a list is swept, another value is the same for all runs
      profile: smoke
      method: [mada, cryoshift]
      scenario: [in_situ_1, in_situ_2]
      seed: [0, 1, 2]
      weights.mada: [0.3, 1]

``python -m cryoshift_core sweep FILE`` lists the runs; the Snakefile runs them.
"""

from __future__ import annotations

import argparse
import itertools
import json
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from ..application.recipes import parts
from ..errors import InputError
from ..support.runtime import did_you_mean, root
from .parameters import names
from .run_command import DONE, checked, declared, find, folder_name

KEYS = ("name", "notebook", "parameters")


@dataclass(frozen=True)
class Sweep:
    """A checked sweep: the notebook, the folder of its runs, and name of a run -> its parameters."""

    notebook: Path
    folder: Path
    runs: dict[str, dict[str, Any]]

    @property
    def done(self) -> list[str]:
        """Names of the runs that are complete."""
        return [name for name in self.runs if (self.folder / name / DONE).is_file()]


def read(path: Path, notebooks: Path | None = None) -> Sweep:
    """The sweep of a YAML file.

    A weight of a term that a run's methods do not have is left out, and the run is then listed once.

    Raises
    ------
    InputError
        no YAML, an unknown key, notebook or parameter, a value that one of the runs would refuse, or nothing to run
    """
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError) as error:
        raise InputError(f"{path}: expected a sweep as YAML, got {' '.join(str(error).split())}.") from error
    if not isinstance(content, dict) or not isinstance(content.get("parameters"), dict):
        raise InputError(f"{path}: expected the keys {', '.join(KEYS)}, with parameters as name: values.")
    for key in content:
        if key not in KEYS:
            raise InputError(
                f"{path}: expected keys out of {', '.join(KEYS)}, got '{key}'{did_you_mean(str(key), KEYS)}"
            )
    name = str(content.get("name", path.stem))
    if not re.fullmatch(r"[\w.+-]+", name):
        raise InputError(f"{path}: expected a name of letters, digits and . _ + -, got '{name}'.")
    notebook = find(str(content.get("notebook", "")), notebooks)
    runs: dict[str, dict[str, Any]] = {}
    swept = {str(n): value if isinstance(value, list) else [value] for n, value in content["parameters"].items()}
    if "out_dir" in swept:
        raise InputError(f"{path}: the folders of a sweep follow from its parameters; leave out_dir out.")
    for values in itertools.product(*swept.values()):
        parameters = _with_weights(dict(zip(swept, values, strict=True)), notebook)
        try:
            complete = checked(notebook, parameters)
        except InputError as error:
            raise InputError(f"{path}: {error} (in the run {parameters})") from error
        runs[folder_name(notebook, complete)] = parameters
    if not runs:
        raise InputError(f"{path}: expected at least one value of each parameter, got an empty list.")
    return Sweep(notebook, root() / "runs" / "sweeps" / name, runs)


def _with_weights(given: Mapping[str, Any], notebook: Path) -> dict[str, Any]:
    """Parameters in which the entries "weights.TERM" are joined to the text of `weights`."""
    defaults = {name: parameter.default for name, parameter in declared(notebook).items()}
    values = defaults | dict(given)
    trained = [values.get("method") or "cryoshift", *names(str(values.get("methods") or ""))]
    weights = [str(given["weights"])] if given.get("weights") else []
    for name, value in given.items():
        prefix, _, term = name.partition(".")
        if prefix == "weights" and term and any(term in _parts(method) for method in trained):
            weights.append(f"{term}:{value}")
    kept = {name: value for name, value in given.items() if not name.startswith("weights.")}
    return kept | ({"weights": ",".join(weights)} if weights else {})


def _parts(method: Any) -> set[str]:
    from ..methods import METHODS

    return parts(method) if method in METHODS else set()  # an unknown name is reported by `checked`


def main(arguments: list[str] | None = None) -> int:
    """Exit status of the command: 0, or 2 where the file is refused."""
    parser = argparse.ArgumentParser(
        "python -m cryoshift_core sweep", description="Check a sweep and list its runs; make sweep runs them."
    )
    parser.add_argument("file", type=Path, help="YAML: name, notebook, parameters")
    parser.add_argument("--json", action="store_true", help="print the runs with their parameters as JSON")
    parser.add_argument("--notebooks", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    try:
        sweep = read(options.file, options.notebooks)
    except InputError as error:
        print(f"InputError: {error}", file=sys.stderr)
        return 2
    if options.json:
        print(json.dumps({"notebook": str(sweep.notebook), "folder": str(sweep.folder), "runs": sweep.runs}))
        return 0
    done = set(sweep.done)
    print(*(f"{'done   ' if name in done else 'missing'} {name}" for name in sweep.runs), sep="\n")
    print(f"{len(sweep.runs)} runs of {sweep.notebook.stem}, {len(done)} done; results in {sweep.folder}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
