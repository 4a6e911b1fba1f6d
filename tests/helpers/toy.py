"""Small data for the learning tests: balls of three sizes in white (source) or coloured (target) noise."""

import torch
from torch import Tensor

from cryoshift_core.data import HeldOutLabels, Labelled, Unlabelled, normalize
from cryoshift_core.warps import smooth

CLASSES = ("small", "middle", "large")


def _subtomograms(n: int, box: int, coloured: bool, seed: int) -> tuple[Tensor, Tensor]:
    g = torch.Generator("cpu").manual_seed(seed)
    y = torch.arange(n, device="cpu") % 3
    r = torch.arange(box, device="cpu") - box // 2
    radius = (r[:, None, None] ** 2 + r[:, None] ** 2 + r**2).float().sqrt()
    balls = torch.stack([torch.sigmoid(2.0 + 1.5 * k - radius) for k in range(3)])[y].unsqueeze(1)
    noise = torch.randn(n, 1, box, box, box, generator=g, device="cpu")
    if coloured:
        noise = 3 * smooth(noise, 1.0) + 0.4 * torch.randn(noise.shape, generator=g, device="cpu")
    return normalize(1.5 * balls + noise), y


def source(n: int = 60, box: int = 16, seed: int = 0) -> Labelled:
    """Labelled subtomograms in white noise, every class in turn."""
    x, y = _subtomograms(n, box, False, seed)
    snr = torch.full((n,), float("nan"), device="cpu")
    return Labelled(x, y, CLASSES, 10.0, snr, torch.arange(n, device="cpu"))


def target(n: int = 60, box: int = 16, seed: int = 1) -> tuple[Unlabelled, HeldOutLabels]:
    """Subtomograms in coloured noise, and their held-out labels."""
    x, y = _subtomograms(n, box, True, seed)
    return Unlabelled(x, 10.0, torch.arange(n, device="cpu"), "toy"), HeldOutLabels(y, CLASSES)
