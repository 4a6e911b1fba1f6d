"""Particle-free background: where a tomogram holds no particle."""

from __future__ import annotations

import math

import numpy as np
import torch
from scipy import ndimage, spatial

from ..errors import InputError
from .volumes import thumbnail


def ice_positions(tomogram: np.ndarray, zyx: np.ndarray, box: int, n: int, generator: torch.Generator) -> np.ndarray:
    """Positions (n, 3) whose boxes hold no given coordinate and none of the densest unlabelled matter.

    Boxes with a margin of a quarter box around them hold no coordinate; of these, the half in which the smoothed
    grey values vary least is drawn from, without repeats (the boxes may overlap). Of a tomogram of more than 2^24
    voxels, positions on a coarser lattice are drawn from, and a thumbnail of it is smoothed.
    """
    step = math.ceil((math.prod(tomogram.shape) / 2**24) ** (1 / 3))
    lattice = [np.arange(box // 2, size - (box - box // 2) + 1, step) for size in tomogram.shape]
    free = np.stack(np.meshgrid(*lattice, indexing="ij"), -1).reshape(-1, 3)
    if len(zyx) and len(free):
        distance, _ = spatial.cKDTree(np.asarray(zyx, float)).query(free, p=np.inf, distance_upper_bound=0.75 * box + 1)
        free = free[distance > 0.75 * box]
    if len(free) < n:
        raise InputError(f"Only {len(free)} boxes of {box} voxels hold no particle; wanted {n}: use a smaller box.")
    smooth = ndimage.gaussian_filter(thumbnail(tomogram, step), 1.5 / step)
    smooth -= np.median(smooth)
    busy = ndimage.uniform_filter(smooth**2, max(1, round(box / step)))
    busy = busy[tuple(np.minimum(free // step, np.array(busy.shape) - 1).T)]
    quiet = free[np.argsort(busy, kind="stable")[: max(n, len(free) // 2)]]
    return quiet[torch.randperm(len(quiet), generator=generator)[:n].numpy()]


FEWEST = 20  # background boxes: below, neither the wedge nor an accuracy is worth estimating


def find_background(
    volume: np.ndarray, particles: np.ndarray | None, box: int, n: int, generator: torch.Generator
) -> np.ndarray:
    """Centres (M, 3) zyx of at most n boxes without a particle, in random order; the boxes may overlap.

    Candidates stand on a lattice a quarter box apart and at least 0.75 box from each given position along some axis.
    Those whose smoothed grey values vary, or peak, far more than is common (particles not picked, gold, membranes) are
    dropped: above the median by more than 2.5 times what the quieter half spreads below it.

    Parameters
    ----------
    volume : (Z, Y, X) tomogram, may be memory-mapped
    particles : (N, 3) zyx voxels; None or empty where no positions are known
    box, n : edge in voxels; how many are wanted. Fewer are returned where there are fewer, which their number tells

    Raises
    ------
    InputError
        fewer than 20 boxes are left
    """
    step = max(1, box // 4)
    first = torch.randint(step, (3,), generator=generator).tolist()
    lattice = [
        np.arange(box // 2 + start % max(1, min(step, size - box + 1)), size - (box - box // 2) + 1, step)
        for start, size in zip(first, volume.shape, strict=True)
    ]
    free = np.stack(np.meshgrid(*lattice, indexing="ij"), -1).reshape(-1, 3)
    if particles is not None and len(particles) and len(free):
        distance, _ = spatial.cKDTree(np.asarray(particles, float)).query(free, p=np.inf)
        free = free[distance >= 0.75 * box]
    away = len(free)
    free = free[torch.randperm(away, generator=generator)[: 6 * n].numpy()]
    if len(free) >= FEWEST:
        smooth = [_smoothed(volume, centre, box) for centre in free]
        level = np.median([np.median(cube) for cube in smooth])
        scores = np.log([[cube.var() + 1e-30, np.abs(cube - level).max() + 1e-30] for cube in smooth])
        middle, quiet = np.quantile(scores, [0.5, 0.16], axis=0)
        varies = scores[:, 0] > np.log(1e-20)  # a padded border is no ice
        free = free[varies & (scores <= middle + 2.5 * (middle - quiet)).all(1)][:n]
    if len(free) < FEWEST:
        raise InputError(
            f"Of the boxes of {box} voxels in a tomogram of {volume.shape[2]} x {volume.shape[1]} x {volume.shape[0]}, "
            f"{away} keep clear of particles and {len(free)} of those look like ice; wanted at least {FEWEST}: use a "
            "smaller box, or give boxes of ice as background."
        )
    return free


def _smoothed(volume: np.ndarray, centre: np.ndarray, box: int) -> np.ndarray:
    low = centre - box // 2
    cube = np.asarray(volume[tuple(slice(a, a + box) for a in low)], np.float32)
    return ndimage.gaussian_filter(cube, box / 16)
