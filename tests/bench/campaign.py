"""What a campaign of many tomograms costs on a cluster, from measured rates: prints the table of docs/scaling.md.

python tests/bench/campaign.py [TOMOGRAMS [POSITIONS]]. Rates of the CPU are of one thread of an idle core, 32^3 boxes.
"""

from __future__ import annotations

import sys

VOXELS, BYTES = 1000 * 1000 * 300, 2  # of a tomogram, int16
BOX = 32**3 * 4  # bytes of a box, float32
ROW = 120  # bytes of a row of predictions.star: 478 kB for 4,000 rows
CPU = {
    "read": 2.7,  # CPU-s for header and contrast of a 32 GB tomogram: bench_extraction
    "cut": 1307,  # boxes from a large file: bench_extraction
    "normalize": 6000,  # bench_learning
    "predict": 32 / 0.012,  # bench_learning
    "job": 6.0,  # all CPU time of `classify` with a saved model and 54 positions: start, report, figures
    "adapt": 2 * 125,  # all of notebook 06, on two cores for 125 s: notebooks/costs.json
}
GPU = {"predict": 18_240}  # docs/results.md, "On a GPU", laptop profile
DISK = 1e9  # bytes per second of a file system that all nodes share: an assumption


def stages(tomograms: int, positions: int) -> list[tuple[str, float, float]]:
    """Name, bytes read or written and core-hours of each stage."""
    boxes = tomograms * positions
    return [
        ("read the tomograms", tomograms * VOXELS * BYTES, tomograms * CPU["read"] / 3600),
        ("cut the boxes, in memory", 0, boxes / CPU["cut"] / 3600),
        ("normalise", 0, boxes / CPU["normalize"] / 3600),
        ("predict with a saved model", 0, boxes / CPU["predict"] / 3600),
        ("start, report and figures of each job", boxes * ROW, tomograms * CPU["job"] / 3600),
        ("adapt a model to 20 of the tomograms, one by one", 20 * VOXELS * BYTES, 20 * CPU["adapt"] / 3600),
        ("instead: adapt a model to each tomogram", 0, tomograms * CPU["adapt"] / 3600),
    ]


def table(tomograms: int = 1000, positions: int = 2000) -> str:
    """The table in Markdown, and what limits the campaign."""
    rows = stages(tomograms, positions)
    lines = ["| stage | read or written | core-hours |", "|---|---|---|"]
    lines += [f"| {name} | {f'{size / 1e9:,.1f} GB' if size else ''} | {hours:.2f} |" for name, size, hours in rows]
    hours, size = (sum(row[i] for row in rows[:6]) for i in (2, 1))
    each = hours + rows[6][2] - rows[5][2]
    boxes = tomograms * positions
    lines += [
        "",
        f"With a saved model: {hours:.1f} core-hours, {60 * hours / 64:.0f} minutes on 64 cores, and "
        f"{size / 1e9:,.0f} GB from the disk, {size / DISK / 60:.0f} minutes at 1 GB/s.",
        f"With a model for each tomogram: {each:.0f} core-hours, {60 * each / 64:.0f} minutes on 64 cores.",
        f"All boxes at once would be {boxes * BOX / 1e9:,.0f} GB; one GPU predicts them in "
        f"{boxes / GPU['predict'] / 60:.1f} minutes.",
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    print(table(*map(int, sys.argv[1:])))
