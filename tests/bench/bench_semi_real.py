"""Molecules in the noise of a real tomogram: what `classify` makes of them, beside a network that learns from labels.

python tests/bench/bench_semi_real.py [SEED ...] from the root takes half an hour of CPU time. Particles
are imaged tilt by tilt without noise, with optics of which `classify` is told the defocus and the tilt range, and added
to boxes cut at random from a tomogram of `data_fetch/sample`. Its voxels are taken as 12 A: real are the noise, its
colour, its missing wedge and what lies about, not the scale. `classify` gets 1,200 boxes as a stack, as a user would
give them, and the network is scored on 600 others. The oracle learns from the labels of the 1,200, with the budget
of `source_only`. The answer of `cryoshift` and templates together, which the saved network does not hold, is scored on
the 1,200, and so is this network alone beside it.
"""

from __future__ import annotations

import contextlib
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

import cryoshift_core as cs
from cryoshift_core import data, metrics, models
from cryoshift_core.application.classify import classify
from cryoshift_core.application.second_opinion import BOTH
from cryoshift_core.simulation import imaging, specimens
from cryoshift_core.simulation.optics import Optics, tilt_scheme
from cryoshift_core.tomography import mrc

CLASSES = ("ribosome_70S", "ribosome_80S", "TRiC", "apoferritin", "spliceosome", "TYMV_capsid")
TOMOGRAMS = {"yeast lamella": "yeast_171/tomogram.mrc", "HIV-1 particles": "hiv_vlp_tomogram.mrc"}
METHODS = ("source_only", "cryoshift_reference", "cryoshift")  # source_only is the lower bound of the gap
BOX, VOXEL_SIZE, SNR, UNLABELLED, HELD_OUT = 32, 12.0, 0.05, 1200, 600  # SNR of ribosome_70S in its box


def boxes(tomogram: Path, count: int, seed: int) -> Tensor:
    """Boxes (count, 1, 32, 32, 32) at random places, median standard deviation 1; padded ones are left out."""
    volume = np.asarray(mrc.read_mrc(tomogram).data, np.float32)
    draw = np.random.default_rng(seed)
    found: list[np.ndarray] = []
    while len(found) < count:
        z, y, x = (int(draw.integers(side - BOX + 1)) for side in volume.shape)
        box = volume[z : z + BOX, y : y + BOX, x : x + BOX]
        if (box == box[0, 0, 0]).mean() < 0.05:
            found.append(box)
    cut = torch.from_numpy(np.stack(found))[:, None]
    return cut / cut.flatten(1).std(1).median()


def target(tomogram: Path, seed: int) -> tuple[Tensor, Tensor]:
    """Subtomograms (1800, 1, 32, 32, 32), protein dark as in the tomogram, and their classes."""
    noise, generator = boxes(tomogram, UNLABELLED + HELD_OUT, seed), torch.Generator().manual_seed(seed)
    y = torch.randint(len(CLASSES), (len(noise),), generator=generator)
    tilts = tilt_scheme(-54, 54, 3.0)
    optics = Optics(voxel_size=VOXEL_SIZE, defocus=3.6, tilts=tilts, b_factor=300.0, misalignment=4.0, thickness=160.0)
    bank = specimens.templates(CLASSES, VOXEL_SIZE, BOX, generator=generator)
    placed = specimens.specimens(y, bank, generator=generator, offset=1.0)
    x = imaging.image_by_tilt_series(placed, bank, optics, generator=generator, noise=False).x
    x = x - x.mean((2, 3, 4), keepdim=True)
    power, bright = (part.var((1, 2, 3, 4)).mean() for part in (noise, x[y == 0]))
    return noise - (SNR * power / bright).sqrt() * x, y


def accuracy(network: models.Network, x: Tensor, y: Tensor) -> float:
    """Balanced accuracy on normalised subtomograms, protein bright."""
    return metrics.balanced_accuracy(models.predict(network, x, device="cpu"), y)


def run(tomogram: Path, seed: int, folder: Path) -> dict[str, float]:
    """Balanced accuracy on the held-out subtomograms for each method, and for the oracle."""
    raw, y = target(tomogram, seed)
    stack = folder / "boxes.mrcs"
    mrc.write_mrc(stack, raw[:UNLABELLED].numpy(), VOXEL_SIZE)
    x = data.normalize(-raw)
    x_test, y_test = x[UNLABELLED:], y[UNLABELLED:]
    scores = {}
    for method in METHODS:
        out = folder / method
        given = {"subtomograms": stack, "voxel_size": VOXEL_SIZE, "contrast": "dark", "classes": CLASSES}
        with contextlib.redirect_stdout(sys.stderr):
            result = classify(**given, tilt_range=54, defocus=3.6, method=method, seed=seed, out_dir=out)
        scores[method] = accuracy(result.classifier.network, x_test, y_test)
        if result.used == BOTH:
            assert result.second is not None  # as `used` says
            known = y[torch.as_tensor(result.target.kept)]
            scores[f"{method} on the 1,200"] = metrics.balanced_accuracy(result.second.predictions.probabilities, known)
            scores[BOTH] = metrics.balanced_accuracy(result.predictions.probabilities, known)
    ones = torch.ones(UNLABELLED)
    labelled = cs.Labelled(x[:UNLABELLED], y[:UNLABELLED], CLASSES, VOXEL_SIZE, ones, torch.zeros(UNLABELLED).long())
    unlabelled = cs.Unlabelled(labelled.x, VOXEL_SIZE, labelled.groups, "labels known")
    config = cs.TrainingConfig(rotations=(0, 2))
    fit = cs.fit("source_only", labelled, unlabelled, config=config, seed=seed, device="cpu", progress=False)
    return {**scores, "oracle": accuracy(fit.network, x_test, y_test)}


def summary(name: str, rows: list[dict[str, float]]) -> str:
    """Mean and 95 % t interval of each score, and the part of the gap that each method closes, sum over sum."""
    scores = {key: [row[key] for row in rows] for key in rows[0]}
    means = "; ".join(
        f"{key} {metrics.interval(values, bounds=metrics.FRACTION):.3f}" for key, values in scores.items()
    )
    low, high = sum(scores["source_only"]), sum(scores["oracle"])
    closed = ", ".join(f"{key} closes {(sum(scores[key]) - low) / (high - low):.0%}" for key in METHODS[1:])
    return f"{name}: {means}; of the gap {closed}"


def main(seeds: list[int]) -> None:
    """Print the scores of each tomogram and seed, and a summary of each tomogram and of both."""
    torch.set_num_threads(1)
    every = []
    for name, path in TOMOGRAMS.items():
        rows = []
        for seed in seeds:
            with tempfile.TemporaryDirectory() as folder:
                rows.append(run(Path("data_fetch/sample") / path, seed, Path(folder)))
            print(name, "seed", seed, " ".join(f"{key} {value:.3f}" for key, value in rows[-1].items()), flush=True)
        print(summary(name, rows), flush=True)
        every += rows
    print(summary("both", every))


if __name__ == "__main__":
    main([int(seed) for seed in sys.argv[1:]] or [1, 2, 3])
