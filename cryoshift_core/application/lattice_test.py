"""A test on experimental data: in the shipped tomogram, the class of some boxes is known without annotation.

A box at a position of the Gag lattice holds a membrane; a particle-free box far from all positions holds ice.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from scipy.spatial import cKDTree
from torch import Tensor

from ..data import HeldOutLabels, Unlabelled
from ..errors import InputError
from .pipeline import seeded_generator
from .target_data import TargetData, cut_background

# Every particle is held out once. No free box lies next to particles 4 and 6, so they are in different folds.
FOLDS: tuple[tuple[int, ...], ...] = ((1, 3, 7), (2, 4, 9), (5, 6, 8))


@dataclass(frozen=True, eq=False)
class LatticeTest:
    """Subtomograms to adapt to, and subtomograms of other particles with known classes.

    Attributes
    ----------
    target : without labels, for training and selection
    held_out : of the held-out particles; no voxel of theirs is in `target`
    labels : of `held_out`, for evaluation only
    held_out_at : (N, 3) zyx, centres of `held_out` in voxels of the tomogram
    lattice, ice : (N, 1, n, n, n) and (M, 1, n, n, n), all boxes of each kind, to look at
    """

    target: Unlabelled
    held_out: Unlabelled
    labels: HeldOutLabels
    held_out_at: np.ndarray
    lattice: Tensor
    ice: Tensor

    def particle(self, number: int) -> Tensor:
        """Mask (N,) of `held_out`: lattice boxes of this particle, and all ice boxes.

        The ice boxes of a fold are shared by its particles, because two particles have none of their own.
        """
        ice = self.labels.y == self.labels.classes.index("ice")
        return ice | (self.held_out.groups == number)


def split_particles(zyx: np.ndarray, groups: Tensor, held_out: Sequence[int], box: int) -> tuple[Tensor, Tensor]:
    """Train and test masks (N,) that split subtomograms by particle, with no voxel on both sides.

    A subtomogram of another particle that overlaps a test subtomogram is in neither.

    Parameters
    ----------
    zyx : (N, 3) centres in voxels
    groups : (N,) int64, the particle of each subtomogram
    held_out : particles of the test side
    box : edge of the subtomograms in the same voxels

    Raises
    ------
    InputError
        one side would be empty
    """
    test = torch.isin(groups, torch.tensor(list(held_out), device=groups.device))
    if test.all() or not test.any():
        raise InputError(f"Holding out {list(held_out)} of particles {groups.unique().tolist()} leaves one side empty.")
    away = torch.from_numpy(cKDTree(zyx[test.numpy()]).query(zyx, p=np.inf)[0] >= box)
    if not (away & ~test).any():
        raise InputError(f"Every other box of {box} voxels overlaps particles {list(held_out)}; hold out fewer.")
    return away & ~test, test


def lattice_test(
    data: TargetData, classes: Sequence[str], *, n_ice: int, held_out: Sequence[int] = FOLDS[0], seed: int = 0
) -> LatticeTest:
    """A test that holds out whole particles, with four lattice boxes for each ice box.

    Parameters
    ----------
    data : the shipped tomogram with its positions; groups are virus-like particles
    classes : "membrane" and "ice" among them
    n_ice : ice boxes to cut at most, drawn from all boxes that are free of positions. Some hold matter without a
        position
    held_out : particles to hold out, such as one of FOLDS. Single positions would share voxels with their neighbours
    seed : of the draws

    Raises
    ------
    InputError
        the classes lack membrane or ice, or the tomogram lacks particle-free boxes
    """
    if not {"membrane", "ice"} <= set(classes):
        raise InputError(f"Expected the classes membrane and ice for the lattice test, got {', '.join(classes)}.")
    particles, model, generator = data.particles, data.subtomograms, seeded_generator(seed, "ice")
    assert particles.zyx is not None  # the input is a tomogram with positions
    ice, at = cut_background(data, n_ice, generator, tolerance=None)
    groups = np.zeros(len(data), np.int64) if particles.groups is None else particles.groups
    nearest = [int(groups[np.linalg.norm(particles.zyx - centre, axis=1).argmin()]) for centre in at]
    few = torch.randperm(len(model), generator=generator, device="cpu")[: 4 * len(ice)]
    everything = replace(
        model,
        x=torch.cat([model.x[few], ice]),
        groups=torch.cat([model.groups[few], torch.from_numpy(np.array(nearest, np.int64))]),
    )
    centres = np.concatenate([particles.zyx[data.kept[few.numpy()]], at])
    y = torch.from_numpy(np.repeat([classes.index("membrane"), classes.index("ice")], [len(few), len(ice)]))
    inside, outside = split_particles(centres, everything.groups, held_out, data.edge)
    return LatticeTest(
        target=everything.subset(inside),
        held_out=everything.subset(outside),
        labels=HeldOutLabels(y[outside], tuple(classes)),
        held_out_at=centres[outside.numpy()],
        lattice=model.x[few],
        ice=ice,
    )
