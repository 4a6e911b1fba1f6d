"""Particle-free background: boxes of a tomogram that contain no particle."""

from __future__ import annotations

import numpy as np
import torch
from scipy import ndimage, spatial

from ..errors import InputError

FEWEST = 20  # background boxes; fewer give no useful estimate of the missing wedge or of an accuracy


def find_background(
    volume: np.ndarray,
    particles: np.ndarray | None,
    box: int,
    n: int,
    generator: torch.Generator,
    *,
    tolerance: float | None = 2.5,
    keep_out: np.ndarray | None = None,
) -> np.ndarray:
    """Centres (M, 3) zyx of at most `n` boxes without a particle, in random order; the boxes may overlap.

    Candidates lie on a lattice with a spacing of a quarter box, at least 0.75 box from each given position along some
    axis. At most 6 n randomly drawn candidates are read from the volume. Constant boxes, such as a padded border, are
    dropped. So are boxes whose smoothed grey values vary, or deviate from the median level, far more than usual: these
    contain particles that were not picked, gold or membranes.

    Parameters
    ----------
    volume : (Z, Y, X) tomogram, may be memory-mapped
    particles : (N, 3) zyx voxels; None or empty when no positions are known
    box : edge of a box in voxels
    n : number of boxes to find. Fewer are returned when fewer exist
    generator : source of the random lattice offset and order
    tolerance : a box is dropped when the logarithm of its variance, or of its largest deviation, exceeds the median of
        the candidates by more than `tolerance` times the distance from the 16th percentile to the median. Smaller
        values keep only flat boxes; None keeps all boxes that are free of given positions and not constant
    keep_out : (M, 3) zyx centres of boxes with which no voxel may be shared

    Raises
    ------
    InputError
        Fewer than 20 boxes are left.
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
    if keep_out is not None and len(keep_out) and len(free):
        free = free[spatial.cKDTree(keep_out).query(free, p=np.inf)[0] >= box]
    n_free = len(free)
    free = free[torch.randperm(n_free, generator=generator)[: 6 * n].numpy()]
    if len(free) >= FEWEST:
        parts = (_smoothed(volume, centre, box) for centre in free)  # one at a time: all would not fit into memory
        var, medians, low, high = np.array([(p.var(), np.median(p), p.min(), p.max()) for p in parts], np.float32).T
        level = np.median(medians)
        scores = np.log(np.stack([var, np.maximum(high - level, level - low)], 1) + 1e-30)
        kept = scores[:, 0] > np.log(1e-20)
        if tolerance is not None:
            middle, quiet = np.quantile(scores, [0.5, 0.16], axis=0)
            kept &= (scores <= middle + tolerance * (middle - quiet)).all(1)
        free = free[kept][:n]
    if len(free) < FEWEST:
        raise InputError(
            f"Expected at least {FEWEST} background boxes of {box} voxels in a tomogram of {volume.shape[2]} x "
            f"{volume.shape[1]} x {volume.shape[0]}, got {len(free)} ({n_free} contain no given position); use a "
            "smaller box, or give particle-free boxes as background."
        )
    return free


def _smoothed(volume: np.ndarray, centre: np.ndarray, box: int) -> np.ndarray:
    low = centre - box // 2
    part = np.asarray(volume[tuple(slice(a, a + box) for a in low)], np.float32)
    return ndimage.gaussian_filter(part, box / 16)
