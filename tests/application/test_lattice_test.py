import numpy as np
import pytest
import torch

from cryoshift_core.application.lattice_test import split_particles
from cryoshift_core.errors import InputError


def test_the_split_is_by_particle_and_no_voxel_is_on_both_sides():
    zyx = np.random.default_rng(0).uniform(0, 60, (400, 3))
    groups = torch.from_numpy((zyx[:, 2] // 15).astype(int))
    train, test = split_particles(zyx, groups, [0], 8)
    assert torch.equal(test, groups == 0) and not (train & test).any() and train.sum() > 100
    apart = np.abs(zyx[train.numpy()][:, None] - zyx[test.numpy()][None]).max(-1)
    assert apart.min() >= 8
    assert not (train | test).all(), "boxes at the border overlap the test side"
    for held_out in ([9], [0, 1, 2, 3]):
        with pytest.raises(InputError, match="one side empty"):
            split_particles(zyx, groups, held_out, 8)
    with pytest.raises(InputError, match="overlaps"):
        split_particles(zyx, groups, [0, 2], 60)
