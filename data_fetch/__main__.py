"""Command line: ``python -m data_fetch list | info | get | verify | where | build-sample``."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from cryoshift_core.errors import InputError

from . import SAMPLE, FetchError, catalog, describe, find, get_all, sample, verify, where, yeast_lamella
from .build_sample import build


def main(arguments: list[str] | None = None) -> int:
    """Exit code of one command: 0, or 1 with one line on stderr if the input is invalid or a download fails."""
    chosen = _parser().parse_args(arguments)
    try:
        for line in _run(chosen):
            print(line)
        sys.stdout.flush()
    except (InputError, FetchError) as error:
        print(f"{type(error).__name__}: {' '.join(str(error).split())}", file=sys.stderr)
        return 1
    except BrokenPipeError:  # such as `| head`, which stops reading
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except KeyboardInterrupt:
        print("Stopped. The part that was downloaded is kept; run the same command to continue.", file=sys.stderr)
        return 1
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m data_fetch")
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("list", help="list the items of the catalog, one per line")
    info = commands.add_parser("info", help="show title, source, size, licence and citation of one item")
    info.add_argument("name", metavar="NAME", help="a name from the list, or pdb:6zu5, emdb:1234 ...")
    fetch = commands.add_parser("get", help="download items and print their paths")
    fetch.add_argument("names", nargs="+", metavar="NAME", help="a name from the list, or pdb:6zu5, emdb:1234 ...")
    fetch.add_argument("--jobs", type=int, default=4, help="number of parallel downloads (default: 4)")
    fetch.add_argument("--unpack", action="store_true", help="unpack .gz, .zip and .tar files, and print the results")
    fetch.add_argument("--renew", action="store_true", help="download again, and accept the file that is published now")
    fetch.add_argument("--quiet", action="store_true", help="no progress bars")
    check = commands.add_parser("verify", help="compare the files in the cache with their hashes")
    check.add_argument("names", nargs="*", metavar="NAME", help="default: all files that were downloaded")
    location = commands.add_parser("where", help="print the paths of the sample tomogram and its positions")
    location.add_argument(
        "name", nargs="?", metavar="NAME", help="print the path of this item instead, or the paths of yeast_171"
    )
    rebuild = commands.add_parser("build-sample", help="build the sample tomogram from the published arrays")
    rebuild.add_argument(
        "--from",
        dest="folder",
        required=True,
        type=Path,
        help="folder with tomo.tif, tomo_point.npy and tomo_vector.npy",
    )
    rebuild.add_argument("--out", type=Path, default=SAMPLE, help="folder to write to (default: that of the package)")
    return parser


def _run(chosen: argparse.Namespace) -> list[str]:
    """Lines to print."""
    if chosen.command == "list":
        width = max(len(name) for name in catalog())
        return [f"{item.name:{width}}  {item.kind:9}  {item.title}" for item in catalog().values()]
    if chosen.command == "info":
        return [describe(find(chosen.name))]
    if chosen.command == "get":
        how = {"jobs": chosen.jobs, "unpack": chosen.unpack, "renew": chosen.renew, "progress": not chosen.quiet}
        return [str(path) for path in get_all(chosen.names, **how)]
    if chosen.command == "verify":
        return [f"{path}: unchanged" for path in verify(chosen.names)] or ["Nothing was downloaded yet."]
    if chosen.command == "where" and chosen.name == "yeast_171":
        return [str(path) for path in vars(yeast_lamella()).values()]
    if chosen.command == "where" and chosen.name:
        return [str(where(chosen.name))]
    folder = SAMPLE
    if chosen.command == "build-sample":
        folder = chosen.out
        folder.mkdir(parents=True, exist_ok=True)
        build(chosen.folder, folder)
    files = sample(folder)
    return [str(files.tomogram), str(files.coordinates)]


if __name__ == "__main__":
    sys.exit(main())
