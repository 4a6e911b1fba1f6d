"""Real ribosomes among several molecules: what the network, templates and both together call them.

python tests/bench/bench_several_molecules.py [SEED ...] from the root takes five minutes of CPU time for a seed. The
shipped yeast lamella is classified as a user would, with more molecules than it was listed for: a list of everything
with seven classes, of which four are molecules that no list names, and the listed ribosomes alone with one such
molecule. Printed is which fraction of the listed 80S ribosomes is called so.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import torch

import cryoshift_core as cs
import data_fetch
from cryoshift_core.benchmark import real
from cryoshift_core.metrics import FRACTION, interval

LISTED = "ribosome_80S"
LISTS = {  # mix of the real tier -> classes
    "all": (LISTED, "ribosome_70S", "TRiC", "apoferritin", "spliceosome", "membrane", "ice"),
    "ribosomes": (LISTED, "TRiC", "membrane", "ice"),
}


def called(mix: str, seed: int) -> dict[str, float]:
    """Fraction of the listed ribosomes that is called 80S ribosome, by name of what answers."""
    zyx = real.lamella(mix).particles.zyx
    assert zyx is not None  # of positions in a tomogram
    with tempfile.TemporaryDirectory() as folder:
        star = Path(folder) / "positions.star"
        rows = "\n".join(f"{x:.3f} {y:.3f} {z:.3f}" for z, y, x in zyx)
        names = "\n".join(f"_rlnCoordinate{axis} #{i + 1}" for i, axis in enumerate("XYZ"))
        star.write_text(f"data_particles\n\nloop_\n{names}\n{rows}\n")
        tomogram = data_fetch.yeast_lamella().tomogram
        job = cs.open(tomogram=tomogram, coordinates=star, classes=LISTS[mix], seed=seed, device="cpu")
        second = job.match()
    assert second is not None and second.combination is not None  # several molecules, a method with warps
    listed = real.lamella_labels(mix, job.target).y == real.LISTED
    answers = {
        "network": second.predictions.probabilities.argmax(1),
        "templates": second.matches.labels,
        "both": second.combined.probabilities.argmax(1),
    }
    return {name: float((labels[listed] == 0).float().mean()) for name, labels in answers.items()}


def main() -> None:
    """Print a line for each list and seed, and the means over seeds with 95 % intervals."""
    torch.set_num_threads(1)
    seeds = [int(seed) for seed in sys.argv[1:]] or [1, 2, 3]
    for mix, classes in LISTS.items():
        found = [called(mix, seed) for seed in seeds]
        for seed, row in zip(seeds, found, strict=True):
            print(mix, "seed", seed, " ".join(f"{name} {value:.2f}" for name, value in row.items()), flush=True)
        means = "; ".join(f"{k} {interval([row[k] for row in found], bounds=FRACTION):.2f}" for k in found[0])
        print(f"{mix}, classes {', '.join(classes)}: {means}", flush=True)


if __name__ == "__main__":
    main()
