"""Command line: ``python -m data_fetch list | info | get | verify | where | build-sample``."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from cryoshift_core.errors import InputError

from . import SAMPLE, FetchError, catalog, describe, find, get, sample, verify, where
from .build_sample import build


def main(arguments: list[str] | None = None) -> int:
    """Run one command; 0, or 1 with one line on stderr when the input is bad or a file could not be had."""
    chosen = _parser().parse_args(arguments)
    try:
        for line in _run(chosen):
            print(line)
        sys.stdout.flush()
    except (InputError, FetchError) as error:
        print(f"{type(error).__name__}: {' '.join(str(error).split())}", file=sys.stderr)
        return 1
    except BrokenPipeError:  # `| head` has read enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except KeyboardInterrupt:
        print("Stopped; what was loaded is kept. Ask for it again to go on.", file=sys.stderr)
        return 1
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m data_fetch")
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("list", help="one line for each item of the catalog")
    info = commands.add_parser("info", help="all that is known of one item")
    info.add_argument("name")
    fetch = commands.add_parser("get", help="download items and print their paths")
    fetch.add_argument("names", nargs="+", metavar="NAME", help="a name of the list, or pdb:6zu5, emdb:1234 ...")
    fetch.add_argument("--jobs", type=int, default=4, help="downloads at the same time (default: 4)")
    fetch.add_argument("--unpack", action="store_true", help="unpack .gz, .zip and .tar files, and print what came out")
    fetch.add_argument("--renew", action="store_true", help="load again, and trust what is published now")
    fetch.add_argument("--quiet", action="store_true", help="no progress bars")
    check = commands.add_parser("verify", help="hash the files in the cache again")
    check.add_argument("names", nargs="*", metavar="NAME", help="default: every file that was fetched")
    place = commands.add_parser("where", help="print where the shipped tomogram and its coordinates lie, or an item")
    place.add_argument("name", nargs="?")
    rebuild = commands.add_parser("build-sample", help="make the sample again from the published arrays")
    rebuild.add_argument(
        "--from", dest="folder", required=True, type=Path, help="folder of tomo.tif, tomo_point.npy, tomo_vector.npy"
    )
    rebuild.add_argument("--out", type=Path, default=SAMPLE, help="folder to write to (default: the package's)")
    return parser


def _run(chosen: argparse.Namespace) -> list[str | Path]:
    """The lines to print."""
    if chosen.command == "list":
        width = max(len(name) for name in catalog())
        return [f"{item.name:{width}}  {item.kind:9}  {item.title}" for item in catalog().values()]
    if chosen.command == "info":
        return [describe(find(chosen.name))]
    if chosen.command == "get":
        how = {"jobs": chosen.jobs, "unpack": chosen.unpack, "renew": chosen.renew, "progress": not chosen.quiet}
        return get(chosen.names, **how)
    if chosen.command == "verify":
        return [f"{path}: as it was" for path in verify(chosen.names)] or ["Nothing was fetched yet."]
    if chosen.command == "where" and chosen.name:
        return [where(chosen.name)]
    folder = SAMPLE
    if chosen.command == "build-sample":
        folder = chosen.out
        folder.mkdir(parents=True, exist_ok=True)
        build(chosen.folder, folder)
    files = sample(folder)
    return [files.tomogram, files.coordinates]


if __name__ == "__main__":
    sys.exit(main())
