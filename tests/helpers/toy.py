"""Toy domains for the learning tests: balls of three sizes in white (source) or coloured (target) noise."""

import torch

from cryoshift_core.data import HeldOutLabels, Labelled, Unlabelled
from cryoshift_core.warps import robust_z, smooth

CLASSES = ("small", "middle", "large")


def _cubes(n: int, box: int, coloured: bool, seed: int):
    g = torch.Generator().manual_seed(seed)
    y = torch.arange(n) % 3
    r = torch.arange(box) - box // 2
    radius = (r[:, None, None] ** 2 + r[:, None] ** 2 + r**2).float().sqrt()
    balls = torch.stack([torch.sigmoid(2.0 + 1.5 * k - radius) for k in range(3)])[y].unsqueeze(1)
    noise = torch.randn(n, 1, box, box, box, generator=g)
    if coloured:
        noise = 3 * smooth(noise, 1.0) + 0.4 * torch.randn(noise.shape, generator=g)
    return robust_z(1.5 * balls + noise), y


def source(n: int = 60, box: int = 16, seed: int = 0) -> Labelled:
    x, y = _cubes(n, box, False, seed)
    return Labelled(x, y, CLASSES, 10.0, torch.full((n,), float("nan")), torch.arange(n))


def target(n: int = 60, box: int = 16, seed: int = 1) -> tuple[Unlabelled, HeldOutLabels]:
    x, y = _cubes(n, box, True, seed)
    return Unlabelled(x, 10.0, torch.arange(n), "toy"), HeldOutLabels(y, CLASSES)
