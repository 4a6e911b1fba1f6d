"""Datasets: no field for a target label, splits by particle, files that read as they were written."""

from dataclasses import fields

import numpy as np
import pytest
import torch
from scipy import stats

from cryoshift_core import data
from cryoshift_core.data import HeldOutLabels, Labelled, Unlabelled, normalize
from cryoshift_core.errors import InputError
from cryoshift_core.support.order import ascending, medians

X = torch.randn(12, 1, 8, 8, 8, generator=torch.Generator().manual_seed(0))
GROUPS = torch.arange(12) // 3
TARGET = Unlabelled(X, 12.0, GROUPS, "in_situ_1")
HELD_OUT = HeldOutLabels(torch.tensor([0, 1, -1] * 4), ("a", "b"))


def test_unlabelled_has_no_field_for_a_label():
    assert {f.name for f in fields(Unlabelled)} == {"x", "voxel_size", "groups", "name", "contrast"}
    with pytest.raises(TypeError):
        Unlabelled(X, 12.0, GROUPS, "t", y=torch.zeros(12))
    with pytest.raises(AttributeError):
        TARGET.y = torch.zeros(12)


def test_held_out_labels_make_a_labelled_target_of_the_known_classes():
    dark = Unlabelled(X, 12.0, GROUPS, "t", "dark")
    labelled = HELD_OUT.labelled(dark)
    assert isinstance(labelled, Labelled) and len(labelled) == 8 and labelled.contrast == "dark"
    assert torch.equal(labelled.x, X[HELD_OUT.y >= 0]) and labelled.y.tolist() == [0, 1] * 4
    assert labelled.snr.isnan().all(), "the SNR was not measured"
    measured = HeldOutLabels(HELD_OUT.y, HELD_OUT.classes, torch.arange(12.0)).labelled(TARGET)
    assert measured.snr.tolist() == [0, 1, 3, 4, 6, 7, 9, 10]
    with pytest.raises(InputError, match="one label for each of 4 subtomograms"):
        HELD_OUT.labelled(TARGET.subset(torch.arange(4)))


def test_a_subset_takes_the_same_subtomograms_of_every_field():
    index = torch.tensor([7, 2])
    labels = HeldOutLabels(HELD_OUT.y, HELD_OUT.classes, torch.arange(12.0))
    part, held = TARGET.subset(index), labels.subset(index)
    assert torch.equal(part.x, X[[7, 2]]) and part.groups.tolist() == [2, 0] and len(part) == 2
    assert held.y.tolist() == [1, -1] and held.snr.tolist() == [7.0, 2.0] and len(held) == 2
    assert HELD_OUT.subset(index).snr is None
    known = labels.labelled(TARGET).subset(torch.tensor([True] + [False] * 7))
    assert len(known) == 1 and torch.equal(known.x, X[:1]) and known.groups.tolist() == [0]


@pytest.mark.parametrize(
    "x, y, message",
    [
        (X[:, 0], torch.zeros(12).long(), r"\(N, 1, Z, Y, X\), got \(12, 8, 8, 8\)"),
        (X.double(), torch.zeros(12).long(), "float64"),
        (X.numpy(), torch.zeros(12).long(), "ndarray"),
        (X, torch.zeros(11).long(), "each of 12 subtomograms, got shape"),
        (X, torch.full((12,), 2), "labels 0 to 1, got 2 to 2"),
        (X, torch.full((12,), -1), "got -1 to -1"),
    ],
)
def test_wrong_shapes_and_labels_are_refused(x, y, message):
    with pytest.raises(InputError, match=message):
        Labelled(x, y, ("a", "b"), 12.0, torch.ones(12), GROUPS)


def test_a_wrong_contrast_and_wrong_lengths_are_refused():
    with pytest.raises(InputError, match="contrast bright or dark, got 'white'"):
        Unlabelled(X, 12.0, GROUPS, "t", "white")
    with pytest.raises(InputError, match="groups"):
        Unlabelled(X, 12.0, GROUPS[:3], "t")
    with pytest.raises(InputError, match="snr"):
        HeldOutLabels(HELD_OUT.y, ("a", "b"), torch.ones(3))


@pytest.mark.parametrize(
    "dataset",
    [
        TARGET,
        Unlabelled(X, 12.0, GROUPS, "t", "dark"),
        HELD_OUT,
        HeldOutLabels(HELD_OUT.y, ("a", "b"), torch.arange(12.0)),
        HELD_OUT.labelled(TARGET),
    ],
)
def test_a_saved_dataset_loads_unchanged(tmp_path, dataset):
    path = tmp_path / "d.safetensors"
    data.save(path, dataset)
    back = data.load(path, type(dataset))
    for f in fields(dataset):
        a, b = getattr(dataset, f.name), getattr(back, f.name)
        assert torch.equal(a.nan_to_num(-7), b.nan_to_num(-7)) if isinstance(a, torch.Tensor) else a == b
    assert [p.name for p in tmp_path.iterdir()] == ["d.safetensors"]


def test_held_out_labels_do_not_load_as_a_target(tmp_path):
    data.save(tmp_path / "k.safetensors", HELD_OUT)
    with pytest.raises(InputError, match="Expected Unlabelled in .*, got HeldOutLabels"):
        data.load(tmp_path / "k.safetensors", Unlabelled)


def test_normalize_is_the_robust_z_score():
    x = 7 + 3 * X
    z = normalize(x)
    for raw, out in zip(x.flatten(1).double().numpy(), z.flatten(1).double().numpy(), strict=True):
        width = stats.median_abs_deviation(raw, scale="normal")
        # torch takes the lower of two middle values, scipy their mean
        assert out == pytest.approx((raw - np.median(raw)) / width, abs=0.05)
    assert torch.allclose(normalize(2 - 5 * x), -z, atol=0.05), "scale and offset do not matter"


def by_sorting(x):
    """The robust z-score by a full sort, one subtomogram at a time, in float32."""
    rows = []
    for one in x:
        values = one.flatten()
        middle = (len(values) - 1) // 2
        centred = values - values.sort().values[middle]
        width, spread = 1.4826 * centred.abs().sort().values[middle], values.std()
        rows.append(centred / (width if width > 1e-6 * spread else spread))
    return torch.stack(rows).view_as(x)


@pytest.mark.parametrize("size", [2, 3, 8, 9, 24, 32])
@pytest.mark.parametrize("kind", ["white", "ties", "offset", "mostly masked", "skewed"])
def test_normalize_is_bit_equal_to_full_sorts(size, kind):
    x = torch.randn(19, 1, size, size, size, generator=torch.Generator().manual_seed(size))
    x = {
        "white": x,
        "ties": (2 * x).round(),
        "offset": 1e4 + x,
        "mostly masked": x * (x > 0.6),
        "skewed": 1e-3 * x.exp() ** 3,
    }[kind]
    x = x[[bool(one.unique().numel() > 1) for one in x]]
    assert torch.equal(normalize(x), by_sorting(x)) and torch.equal(normalize(x.mT), by_sorting(x.mT))
    double = normalize(x.double())
    assert double.dtype == torch.float64 and torch.allclose(double.float(), by_sorting(x), rtol=1e-2, atol=1e-3)


@pytest.mark.parametrize("n", [1, 2, 7, 100, 1001])
def test_medians_and_sorted_rows_are_those_of_torch(n):
    rows = torch.randn(9, n, generator=torch.Generator().manual_seed(n))
    rows[1], rows[2], rows[3] = rows[1].round(), 0, float("inf")
    rows[4, 0], rows[5, -1], rows[6, n // 2] = float("nan"), float("nan"), -float("inf")
    exact = {"rtol": 0, "atol": 0, "equal_nan": True}
    for given in (rows, rows.double(), rows.half(), rows.repeat(1, 3)[:, ::3], rows.clone().requires_grad_()):
        torch.testing.assert_close(medians(given), given.median(1, keepdim=True).values, **exact)
        torch.testing.assert_close(ascending(given), given.sort(1).values, **exact)


def test_normalize_works_on_a_sample_within_a_network():
    big = 7 + 3 * torch.randn(2, 1, 40, 40, 40, generator=torch.Generator().manual_seed(0))
    assert (normalize(big, 5000) - normalize(big)).abs().mean() < 0.05
    assert torch.allclose(normalize(X, 5000), normalize(X), atol=1e-5), "fewer voxels than that: all of them"
    x = X.clone().requires_grad_()
    normalize(x, 5000)[:, 0, 4, 4, 4].sum().backward()
    assert x.grad.count_nonzero() == len(X), "no gradient through the medians"


@pytest.mark.parametrize(
    "value, found", [(0.0, "constant"), (float("nan"), "not finite"), (float("inf"), "not finite")]
)
def test_normalize_refuses_what_has_no_scale(value, found):
    x = X.clone()
    x[5] = value if value == 0 else x[5]
    x[5, 0, 0, 0, 0] = value
    with pytest.raises(InputError, match=f"subtomogram 5 of 12, {found}"):
        normalize(x)


def test_a_mostly_masked_subtomogram_is_scaled_by_its_standard_deviation():
    x = torch.zeros(1, 1, 8, 8, 8)
    x[:, :, :2] = X[:1, :, :2]
    assert normalize(x).std().item() == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("n, size", [(4, 8), (5, 8), (4, 9), (5, 9), (8, 8)])
def test_crop_keeps_the_centre_at_the_centre(n, size):
    x = torch.zeros(2, 1, size, size, size)
    x[:, :, size // 2, size // 2, size // 2] = 1
    part = data.crop(x, n)
    assert part.shape == (2, 1, n, n, n) and part[:, 0, n // 2, n // 2, n // 2].tolist() == [1, 1]


def test_a_crop_larger_than_the_box_is_refused():
    for n in (0, 9):
        with pytest.raises(InputError, match=f"1 to 8 voxels.*got {n}"):
            data.crop(X, n)
