"""Template matching where the noise is real: molecules added to real boxes, and the ribosomes of the yeast lamella.

python tests/bench/bench_templates.py [SEED ...] from the root takes two minutes of CPU time. The first targets are
those of `bench_semi_real.py`, with its seeds: frequencies are weighted by the 1,200 unlabelled boxes, and the 600
others are scored. On the lamella, each mix of the real tier is ranked by the correlation with the best template of the
80S ribosome. Neither needs a network or a label.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from bench_semi_real import CLASSES, TOMOGRAMS, UNLABELLED, VOXEL_SIZE, target

from cryoshift_core import data, metrics
from cryoshift_core.application.spike_in import stated_optics
from cryoshift_core.application.template_matching import TemplateBank
from cryoshift_core.benchmark import real
from cryoshift_core.metrics import FRACTION, interval

DEFAULTS = {"tilt_axis": 0.0, "tilt_range": 60.0, "defocus": 3.0}  # of `classify`, where nothing is known
SAMPLE = Path(__file__).parents[2] / "data_fetch" / "sample"


def semi_real(tomogram: Path, seed: int) -> float:
    """Balanced accuracy on the held-out boxes of one target."""
    x, y = target(tomogram, seed)
    x = data.normalize(-x)
    bank = TemplateBank.of(CLASSES, x[:UNLABELLED], stated_optics(VOXEL_SIZE, **DEFAULTS), device="cpu")
    found = bank.match(x[UNLABELLED:])
    return metrics.balanced_accuracy(found.correlation, y[UNLABELLED:])


def lamella(mix: str) -> tuple[float, float]:
    """AUC of listed ribosomes against random cytosol, and their recall at 5 % calls."""
    given = real.lamella(mix)
    labels, x = real.lamella_labels(mix, given), given.subtomograms
    bank = TemplateBank.of(["ribosome_80S"], x.x, stated_optics(x.voxel_size, **DEFAULTS), device="cpu")
    score = bank.match(x.x).correlation[:, 0].numpy()
    used = (labels.y != real.MEMBRANE).numpy()
    listed = (labels.y == real.LISTED).numpy()
    return real.auc(score[used], listed[used]), real.recall_at(score[used], listed[used])


def main() -> None:
    """Print a line for each target."""
    torch.set_num_threads(1)
    seeds = [int(seed) for seed in sys.argv[1:]] or [1, 2, 3]
    for name, file in TOMOGRAMS.items():
        scores = [semi_real(SAMPLE / file, seed) for seed in seeds]
        print(f"{name}: {interval(scores, bounds=FRACTION):.3f}, seeds {[round(s, 3) for s in scores]}", flush=True)
    for mix in ("all", "54+200", "20+40"):
        auc, recall = lamella(mix)
        print(f"lamella, {mix}: AUC {auc:.3f}, recall at 5 % calls {recall:.2f}", flush=True)


if __name__ == "__main__":
    main()
