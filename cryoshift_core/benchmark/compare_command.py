"""The command ``python -m cryoshift_core compare``; see :func:`compare.compare`."""

from __future__ import annotations

import argparse
import ast
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from ..application import pipeline, target_data
from ..application.profiles import PROFILES
from ..errors import InputError
from ..methods import METHODS
from .compare import Value, compare, load_modules


def read_grid(texts: Iterable[str]) -> dict[str, list[Value]]:
    """Parameter -> values of texts such as "weights.mada=0.3,1,3"; numbers are read as numbers.

    Raises
    ------
    InputError
        a text without = or without a value.
    """
    grid: dict[str, list[Value]] = {}
    for text in texts:
        name, equals, values = text.partition("=")
        if not name or not equals:
            raise InputError(f"--grid: expected NAME=VALUE,VALUE, such as weights.mada=0.3,1,3, got '{text}'.")
        grid[name] = [_value(value) for value in values.split(",")]
    return grid


def _value(text: str) -> Value:
    try:
        value = ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text
    return value if isinstance(value, int | float) else text


def _own_data(options: argparse.Namespace) -> dict[str, Any]:
    """Arguments of `compare` for the subtomograms or the tomogram of the command line."""
    profile = PROFILES[options.profile]
    classes = target_data.read_classes(options.classes, profile.classes)
    files = {name: getattr(options, name) for name in ("subtomograms", "tomogram", "coordinates", "voxel_size")}
    found = pipeline.read_target(classes, **files)
    for warning in found.warnings:
        print("WARNING:", warning)
    given: dict[str, Any] = {"targets": pipeline.adaptation_set(found, profile.n_target), "classes": classes}
    if options.background or options.tomogram:
        given["background"] = pipeline.background_boxes(found, options.background, n=profile.n_background)
    return given


def main(arguments: list[str] | None = None) -> int:
    """Exit status of the command: 0, 1 where runs failed, 2 where the arguments are refused."""
    parser = argparse.ArgumentParser(
        "python -m cryoshift_core compare",
        description="Train and score methods with several seeds and swept parameters. The same command goes on.",
    )
    add = parser.add_argument
    add("--methods", nargs="+", required=True, help=f"some of {', '.join(METHODS)}, or registered by --modules")
    add("--scenarios", nargs="+", default=["in_situ_1"], help="simulated targets (default: in_situ_1)")
    add("--seeds", nargs="+", type=int, default=[0, 1, 2], help="default: 0 1 2")
    add("--grid", nargs="+", default=[], metavar="NAME=V,V", help="such as weights.mada=0.3,1,3 steps=200,400")
    add("--profile", default="laptop", help=f"{', '.join(PROFILES)} (default: laptop)")
    add("--subtomograms", default="", help="own data in place of scenarios: a stack, a folder or a STAR")
    add("--tomogram", default="", help="own data: a tomogram, with --coordinates")
    add("--coordinates", default="", help="positions in the tomogram")
    add("--voxel_size", type=float, default=0.0, help="A per voxel of own data (default: from the file)")
    add("--classes", default="", help="of own data: names and files, by commas (default: the profile's)")
    add("--background", default="", help="particle-free boxes of own data (default: cut from the tomogram)")
    add("--out", type=Path, default=Path("runs/compare"), help="folder of compare.csv (default: runs/compare)")
    add("--jobs", type=int, default=1, help="processes, each with one thread (default: 1)")
    add("--modules", nargs="+", default=[], help="Python files or modules that register methods")
    add("--skada", action="store_true", help="beside source_only, skada's estimators; skada's scores in all rows")
    add("--device", default="cpu", help="cpu, auto, cuda or mps (default: cpu)")
    options = parser.parse_args(arguments)
    try:
        load_modules(options.modules)
        if options.profile not in PROFILES:
            raise InputError(f"Expected a profile out of {', '.join(PROFILES)}, got '{options.profile}'.")
        own = options.subtomograms or options.tomogram
        chosen = _own_data(options) if own else {"targets": options.scenarios}
        names = ("profile", "out", "jobs", "modules", "skada", "device")
        table = compare(
            options.methods,
            seeds=options.seeds,
            grid=read_grid(options.grid),
            **chosen,
            **{name: getattr(options, name) for name in names},
        )
    except InputError as error:
        print(f"InputError: {error}", file=sys.stderr)
        return 2
    print(f"\n{table}\n{table.path}")
    print(f"A report: python -m cryoshift_core run 07 -p results {table.path}")
    return 1 if table.failed else 0


if __name__ == "__main__":
    sys.exit(main())
