"""Command line of the benchmark: ``python -m cryoshift_core evidence --tier core [--part 0/2] [--report]``.

Two processes with ``--part 0/2`` and ``--part 1/2`` share one CSV.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import torch

from ..application.profiles import PROFILES
from ..support.runtime import root
from .jobs import REAL, TIERS, Job, RealJob, groups, real_groups, tier_jobs
from .runner import Context, run_all, run_all_real
from .tables import report


def _part(text: str) -> tuple[int, int]:
    numbers = text.split("/")
    if len(numbers) != 2 or not all(n.isdigit() for n in numbers) or not int(numbers[0]) < int(numbers[1]):
        raise argparse.ArgumentTypeError(f"expected k/n with k from 0 to n - 1, such as 0/2, got {text!r}")
    return int(numbers[0]), int(numbers[1])


def _arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "python -m cryoshift_core evidence",
        description="Train and score methods on scenarios, tier by tier, and write the report.",
    )
    parser.add_argument("--tier", choices=[*TIERS, REAL], nargs="+", default=[], help="tiers to run")
    parser.add_argument("--profile", choices=list(PROFILES), default="laptop")
    parser.add_argument("--part", type=_part, default=(0, 1), help="k/n: every n-th target, starting with target k")
    parser.add_argument("--seeds", type=int, nargs="+", default=[], help="seeds in place of the tier's own")
    parser.add_argument("--device", default="cpu", help="cpu (as for all committed rows), auto, cuda or mps")
    parser.add_argument(
        "--out", type=Path, help="folder of the CSVs: notebooks/evidence for laptop, else runs/evidence/PROFILE"
    )
    parser.add_argument(
        "--page", type=Path, help="report: docs/evidence.md for laptop, else evidence.md beside the CSVs"
    )
    parser.add_argument(
        "--images", type=Path, help="folder of figures: notebooks/images for laptop, else images beside the CSVs"
    )
    parser.add_argument(
        "--work", type=Path, default=root() / "runs" / "evidence", help="folder of data and fits, to continue from"
    )
    parser.add_argument("--keep-data", action="store_true", help="keep the simulated targets after their last job")
    parser.add_argument("--list", action="store_true", help="list the jobs and stop")
    parser.add_argument("--report", action="store_true", help="write the report and its figures from the CSVs")
    return parser


def main(arguments: list[str] | None = None) -> int:
    """Run the command; 0 is returned, or 1 where a job failed."""
    given = _arguments().parse_args(arguments)
    committed = given.profile == "laptop" and not given.out
    out = given.out or root() / ("notebooks/evidence" if committed else f"runs/evidence/{given.profile}")
    page = given.page or (root() / "docs" / "evidence.md" if committed else out / "evidence.md")
    images = given.images or (root() / "notebooks" / "images" if committed else out / "images")
    torch.set_num_threads(1)
    simulated = [job for tier in given.tier if tier != REAL for job in tier_jobs(tier, given.profile, given.seeds)]
    todo = groups(simulated, *given.part)
    on_real = real_groups(given.profile, given.seeds, *given.part) if REAL in given.tier else []
    if given.list:
        keys = [job.key for group in todo for job in group] + [job.key for group in on_real for job in group]
        print(*(" ".join(filter(None, key)) for key in keys), sep="\n")
        return 0
    failed: list[Job | RealJob] = []
    context = Context(given.work, given.device)
    if todo or on_real:
        given.work.mkdir(parents=True, exist_ok=True)
    if todo:
        failed += run_all(todo, out, context, given.keep_data)
    if on_real:
        failed += run_all_real(on_real, out, context)
    for job in failed:
        print(f"failed: {' '.join(filter(None, job.key))}", file=sys.stderr)
    if given.report:
        print(report(out, page, images, given.profile))
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
