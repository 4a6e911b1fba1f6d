"""Digests of the numbers of small fits: run it before and after a change that must not change any number.

python tests/bench/fit_digests.py [METHOD ...] prints `method digest` for each method, and `data digest` for simulated
subtomograms. A digest covers the weights of every candidate, the learning curves but their times, the warps and the
predictions, bit by bit. Equal lines mean equal numbers, on one machine with one thread.
"""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Iterable

import torch
from torch import Tensor

from cryoshift_core import models, training
from cryoshift_core.methods import METHODS
from cryoshift_core.simulation import datasets

CLASSES = ("ribosome_80S", "TRiC", "apoferritin")


def digest(tensors: Iterable[Tensor]) -> str:
    """SHA-256 of shapes and bytes, shortened."""
    found = hashlib.sha256()
    for tensor in tensors:
        found.update(repr(tuple(tensor.shape)).encode())
        found.update(tensor.detach().contiguous().numpy().tobytes())
    return found.hexdigest()[:24]


def main(methods: list[str]) -> None:
    torch.set_num_threads(1)
    made = datasets.simulate_source(
        datasets.DatasetConfig("source", CLASSES, 240, 32, 12.0, "source", tomograms=4), progress=False
    )
    print(f"data {digest([made.x, made.y, made.snr])}")
    x = made.x.flip(0).pow(3).clamp(-20, 20)  # a target with other grey values, so that every warp has work
    target = training.Unlabelled(x / x.flatten(1).std(1).view(-1, 1, 1, 1, 1), 12.0, made.groups, "changed")
    config = training.TrainingConfig(steps=12, batch=16, evaluations=3, candidates=3)
    for method in methods or METHODS:
        fit = training.fit(method, made, target, config=config, seed=3, device="cpu", progress=False)
        curves = [torch.tensor(values) for name, values in sorted(fit.history.items()) if name != "seconds"]
        weights = [fit.candidates[step][name] for step in sorted(fit.candidates) for name in fit.candidates[step]]
        warps = list(fit.warps.state_dict().values()) if fit.warps is not None else []
        print(method, digest([*weights, *curves, *warps, models.predict(fit.network, x, device="cpu")]), flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
