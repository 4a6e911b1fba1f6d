"""Domains: no place for a target label, splits by tomogram, files that come back as they went."""

from dataclasses import fields

import numpy as np
import pytest
import torch

from cryoshift_core import data
from cryoshift_core.data import HeldOutLabels, Labelled, Unlabelled
from cryoshift_core.errors import InputError

X = torch.randn(12, 1, 8, 8, 8, generator=torch.Generator().manual_seed(0))
GROUPS = torch.arange(12) // 3
TARGET = Unlabelled(X, 12.0, GROUPS, "in_situ_1")
KEY = HeldOutLabels(torch.tensor([0, 1, -1] * 4), ("a", "b"))


def test_unlabelled_has_no_field_for_a_label():
    assert {f.name for f in fields(Unlabelled)} == {"x", "voxel_size", "groups", "name"}
    with pytest.raises(TypeError):
        Unlabelled(X, 12.0, GROUPS, "t", y=torch.zeros(12))
    with pytest.raises(AttributeError):
        TARGET.y = torch.zeros(12)


def test_reveal_leaves_out_none_of_these():
    revealed = KEY.join(TARGET)
    assert isinstance(revealed, Labelled) and len(revealed) == 8
    assert torch.equal(revealed.x, X[KEY.y >= 0]) and revealed.y.tolist() == [0, 1] * 4


def test_split_is_by_particle_and_shares_no_voxel():
    zyx = np.random.default_rng(0).uniform(0, 60, (400, 3))
    groups = torch.from_numpy((zyx[:, 2] // 15).astype(int))
    train, test = data.split_particles(zyx, groups, [0], 8)
    assert torch.equal(test, groups == 0) and not (train & test).any() and train.sum() > 100
    apart = np.abs(zyx[train.numpy()][:, None] - zyx[test.numpy()][None]).max(-1)
    assert apart.min() >= 8
    assert not (train | test).all(), "cubes at the border overlap the test side"
    with pytest.raises(InputError, match="one side empty"):
        data.split_particles(zyx, groups, [9], 8)
    with pytest.raises(InputError, match="overlaps"):
        data.split_particles(zyx, groups, [0, 2], 60)


@pytest.mark.parametrize(
    "x, y, message",
    [
        (X[:, 0], torch.zeros(12).long(), r"\(N, 1, Z, Y, X\)"),
        (X.double(), torch.zeros(12).long(), "float64"),
        (X, torch.zeros(11).long(), "12 cubes"),
        (X, torch.full((12,), 2), "2 classes"),
    ],
)
def test_wrong_shapes_are_refused(x, y, message):
    with pytest.raises(InputError, match=message):
        Labelled(x, y, ("a", "b"), 12.0, torch.ones(12), GROUPS)


@pytest.mark.parametrize("domain", [TARGET, KEY, KEY.join(TARGET)])
def test_files_come_back_as_they_went(tmp_path, domain):
    path = tmp_path / "d.safetensors"
    data.save(path, domain)
    back = data.load(path, type(domain))
    for f in fields(domain):
        a, b = getattr(domain, f.name), getattr(back, f.name)
        assert torch.equal(a.nan_to_num(-7), b.nan_to_num(-7)) if isinstance(a, torch.Tensor) else a == b
    assert [p.name for p in tmp_path.iterdir()] == ["d.safetensors"]


def test_a_key_does_not_load_as_a_target(tmp_path):
    data.save(tmp_path / "k.safetensors", KEY)
    with pytest.raises(InputError, match="holds HeldOutLabels"):
        data.load(tmp_path / "k.safetensors", Unlabelled)
