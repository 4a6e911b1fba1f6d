"""Command line: ``python -m data_fetch build-sample --from DIR``."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from cryoshift_core.volumes import InputError

from . import FOLDER
from .build_sample import build


def main(arguments: list[str] | None = None) -> int:
    """Build the shipped sample again; 0 if that worked."""
    parser = argparse.ArgumentParser(prog="python -m data_fetch")
    commands = parser.add_subparsers(dest="command", required=True)
    command = commands.add_parser("build-sample", help=build.__doc__)
    command.add_argument("--from", dest="source", required=True, type=Path, help="tomo.tif and its two .npy files")
    command.add_argument("--out", type=Path, default=FOLDER)
    chosen = parser.parse_args(arguments)
    try:
        build(chosen.source, chosen.out)
    except InputError as error:
        print(f"InputError: {error}", file=sys.stderr)
        return 1
    print(f"Wrote the sample into {chosen.out}.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
