"""Command line: ``python -m data_fetch where`` and ``python -m data_fetch build-sample --from DIR``."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from cryoshift_core.volumes import InputError

from . import SAMPLE, sample
from .build_sample import build


def main(arguments: list[str] | None = None) -> int:
    """Run one command; 0, or 1 with one line on stderr when the input is bad."""
    parser = argparse.ArgumentParser(prog="python -m data_fetch")
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("where", help="print the paths of the shipped tomogram and its coordinates")
    rebuild = commands.add_parser("build-sample", help="make the sample again from the published arrays")
    rebuild.add_argument(
        "--from", dest="folder", required=True, type=Path, help="folder of tomo.tif, tomo_point.npy, tomo_vector.npy"
    )
    rebuild.add_argument("--out", type=Path, default=SAMPLE, help="folder to write to (default: the package's)")
    chosen = parser.parse_args(arguments)
    try:
        folder = SAMPLE
        if chosen.command == "build-sample":
            folder = chosen.out
            folder.mkdir(parents=True, exist_ok=True)
            build(chosen.folder, folder)
        files = sample(folder)
    except InputError as error:
        print(f"InputError: {error}", file=sys.stderr)
        return 1
    print(files.tomogram, files.coordinates, sep="\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
