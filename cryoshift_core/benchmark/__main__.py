"""Command line of the benchmark: ``python -m cryoshift_core evidence --tier core [--part 0/2] [--report]``."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import torch

from ..application.profiles import PROFILES
from ..runtime import root
from .jobs import TIERS, groups, tier_jobs
from .runner import Lab, run_all
from .tables import report


def _part(text: str) -> tuple[int, int]:
    numbers = text.split("/")
    if len(numbers) != 2 or not all(n.isdigit() for n in numbers) or not int(numbers[0]) < int(numbers[1]):
        raise argparse.ArgumentTypeError(f"part={text!r}; wanted k/n with k from 0 to n - 1, such as 0/2")
    return int(numbers[0]), int(numbers[1])


def _arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "python -m cryoshift_core evidence", description="Run a tier of the evidence, and write what it says."
    )
    parser.add_argument("--tier", choices=list(TIERS), nargs="+", default=[], help="what to run; may be several")
    parser.add_argument("--profile", choices=list(PROFILES), default="laptop")
    parser.add_argument("--part", type=_part, default=(0, 1), help="k/n: every n-th target from the k-th on")
    parser.add_argument("--seeds", type=int, nargs="+", default=[], help="other seeds than the tier's own")
    parser.add_argument("--device", default="cpu", help="cpu (as all committed rows), auto, cuda or mps")
    parser.add_argument(
        "--out", type=Path, help="for the CSV: notebooks/evidence for laptop, else runs/evidence/PROFILE"
    )
    parser.add_argument(
        "--images", type=Path, help="for figures: notebooks/images for laptop, else images beside the CSV"
    )
    parser.add_argument("--work", type=Path, default=root() / "runs" / "evidence", help="data and fits, to resume from")
    parser.add_argument("--keep-data", action="store_true", help="keep the targets' cubes when they are done")
    parser.add_argument("--list", action="store_true", help="only list the jobs")
    parser.add_argument("--report", action="store_true", help="write summary.md and the figures from the CSV")
    return parser


def main(arguments: list[str] | None = None) -> int:
    """-> 0, or 1 where a job failed."""
    given = _arguments().parse_args(arguments)
    committed = given.profile == "laptop" and not given.out
    out = given.out or root() / ("notebooks/evidence" if committed else f"runs/evidence/{given.profile}")
    images = given.images or (root() / "notebooks" / "images" if committed else out / "images")
    torch.set_num_threads(1)
    todo = groups([job for tier in given.tier for job in tier_jobs(tier, given.profile, given.seeds)], *given.part)
    if given.list:
        print(*(" ".join(filter(None, job.key)) for group in todo for job in group), sep="\n")
        return 0
    failed = []
    if todo:
        given.work.mkdir(parents=True, exist_ok=True)
        failed = run_all(todo, out, Lab(given.work, given.device), given.keep_data)
        for job in failed:
            print(f"failed: {' '.join(filter(None, job.key))}", file=sys.stderr)
    if given.report:
        print(report(out, images, given.profile))
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
