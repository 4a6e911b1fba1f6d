"""Volumes in and out: files, contrast, normalisation, extraction and change of pixel size.

Axis order is zyx everywhere, lengths are in A, and the centre of a box of n voxels is index n // 2.
"""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor


class InputError(ValueError):
    """Bad input, said in one sentence: what was found where, what was wanted, and the way out."""


@lru_cache(maxsize=64)
def resampling_matrix(n_in: int, pixel_in: float, n_out: int, pixel_out: float, period: float) -> Tensor:
    """Band-limited change of grid along one axis, centre index onto centre index.

    The samples are taken as the Fourier series of length `period` (A, at least both extents; zero outside the
    input), cut at the coarser of the two Nyquist frequencies, and evaluated on the output grid: the Fourier crop
    (or pad) for any ratio of pixel sizes.

    Returns
    -------
    (n_out, n_in) float32
    """
    x_in = (torch.arange(n_in, dtype=torch.float64) - n_in // 2) * pixel_in
    x_out = (torch.arange(n_out, dtype=torch.float64) - n_out // 2) * pixel_out
    limit = period / (2 * max(pixel_in, pixel_out))
    order = torch.arange(1, int(limit + 1e-6) + 1, dtype=torch.float64)
    weight = torch.where(order > limit - 1e-6, 1.0, 2.0)
    phase = 2 * torch.pi / period * (x_out[:, None] - x_in[None, :])
    kernel = 1 + (weight * torch.cos(phase[..., None] * order)).sum(-1)
    return (kernel * (pixel_in / period)).float()


from dataclasses import dataclass  # noqa
import numpy as np  # noqa


@dataclass(frozen=True)
class Volume:
    data: np.ndarray
    pixel_size: float
    path: str


def read_mrc(path, pixel_size=None, mmap=False):
    raise NotImplementedError


def crop(x, n):  # temporary, DATA replaces it
    a = x.shape[-1] // 2 - n // 2
    return x[..., a : a + n, a : a + n, a : a + n]


def normalize(x):  # temporary, DATA replaces it
    f = x.flatten(1)
    m = f.median(1, keepdim=True)[0]
    d = (f - m).abs().median(1, keepdim=True)[0] * 1.4826
    return ((f - m) / d).reshape(x.shape)
