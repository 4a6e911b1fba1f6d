"""Scores agree with scikit-learn; intervals with Student's t, within the bounds of the quantity."""

import math

import numpy as np
import pytest
import torch
from sklearn import metrics

from cryoshift_core.data import HeldOutLabels
from cryoshift_core.errors import InputError
from cryoshift_core.metrics import (
    FRACTION,
    Interval,
    a_distance,
    balanced_accuracy,
    confusion,
    ece,
    interval,
    macro_f1,
    nll,
    reliability,
    scores,
    unknown_recall,
)
from cryoshift_core.metrics import recall as metrics_recall

CLASSES = ("a", "b", "c")


def predictions(n=300, seed=0):
    g = torch.Generator().manual_seed(seed)
    y = torch.randint(3, (n,), generator=g)
    logits = torch.randn(n, 3, generator=g) + 1.5 * torch.eye(3)[y]
    return logits.softmax(1), HeldOutLabels(y, CLASSES)


def test_scores_agree_with_scikit_learn():
    p, held_out = predictions()
    y, predicted = held_out.y.numpy(), p.argmax(1).numpy()
    assert balanced_accuracy(p, held_out) == pytest.approx(metrics.balanced_accuracy_score(y, predicted))
    assert macro_f1(p, held_out) == pytest.approx(metrics.f1_score(y, predicted, average="macro"))
    assert nll(p, held_out) == pytest.approx(
        metrics.log_loss(y, (p.double() / p.double().sum(1, keepdim=True)).numpy()), abs=1e-5
    )
    assert (confusion(p, held_out) == metrics.confusion_matrix(y, predicted)).all()
    assert np.allclose(metrics_recall(p, held_out), metrics.recall_score(y, predicted, average=None))
    assert scores(p, held_out.y) == scores(p, held_out), "labels may come as a tensor"


def test_subtomograms_of_no_class_do_not_count():
    p, held_out = predictions()
    more = torch.cat([p, torch.full((50, 3), 1 / 3)])
    with_unknown = HeldOutLabels(torch.cat([held_out.y, torch.full((50,), -1)]), CLASSES)
    assert scores(more, with_unknown) == scores(p, held_out)
    assert confusion(more, with_unknown).sum() == 300
    with pytest.raises(InputError, match="nothing to score"):
        scores(p[:2], HeldOutLabels(torch.tensor([-1, -1]), CLASSES))
    with pytest.raises(InputError, match=r"\(N, K\) for 300 labels, got shape \(2, 3\)"):
        scores(p[:2], held_out)


def test_a_class_that_does_not_occur_is_nan_and_left_out_of_the_mean():
    p = torch.eye(3)[[0, 1, 1, 2]]
    held_out = HeldOutLabels(torch.tensor([0, 1, 0, 1]), CLASSES)
    recall = metrics_recall(p, held_out)
    assert recall[:2].tolist() == [0.5, 0.5] and np.isnan(recall[2])
    assert balanced_accuracy(p, held_out) == 0.5


def test_unknown_recall_counts_known_and_unknown_subtomograms_apart():
    held_out = HeldOutLabels(torch.tensor([-1, -1, -1, -1, 0, 1, 2, 2, 1]), CLASSES)
    predicted = torch.tensor([-1, -1, -1, 2, 0, 1, 1, -1, 1])
    assert unknown_recall(predicted, held_out) == (0.75, pytest.approx(0.2))
    recall, false = unknown_recall(predicted[4:], held_out.subset(torch.arange(4, 9)))
    assert np.isnan(recall) and false == pytest.approx(0.2)
    with pytest.raises(InputError, match="each of 9 labels, got 8"):
        unknown_recall(predicted[1:], held_out)


def test_ece_of_known_cases():
    p = torch.tensor([[0.75, 0.25]]).repeat(20, 1)
    calibrated = torch.tensor([0] * 15 + [1] * 5)
    assert ece(p, calibrated) == pytest.approx(0, abs=1e-6)
    assert ece(p, torch.ones(20, dtype=torch.long)) == pytest.approx(0.75, abs=1e-6)
    table = reliability(p, calibrated, n_bins=10)
    assert table.count.sum() == table.count[7] == 20 and table.accuracy[7] == pytest.approx(0.75)
    assert np.isnan(table.accuracy[0])


def test_the_interval_is_students():
    mean, low, high = interval([1.0, 2.0, 3.0])
    assert mean == 2 and high - mean == pytest.approx(4.302653 / np.sqrt(3), abs=1e-5) and mean - low == high - mean
    narrow = interval([1.0, 2.0, 3.0], level=0.5)
    assert narrow.high - 2 == pytest.approx(0.816497 / np.sqrt(3), abs=1e-5)


def test_one_value_has_no_interval():
    one = interval([0.5])
    assert one.mean == 0.5 and math.isnan(one.low) and math.isnan(one.high)
    assert f"{one:.2f}" == "0.50"


def test_an_interval_prints_its_mean_and_ends_in_one_format():
    assert f"{Interval(0.7123, 0.6789, 0.7456):.2f}" == "0.71 [0.68, 0.75]"
    assert f"{Interval(0.5, -0.25, 1.25):+.1%}" == "+50.0% [-25.0%, +125.0%]"


def test_an_interval_ends_where_its_quantity_does():
    free = interval([0.95, 1.0, 1.0])
    assert free.high > 1, "the t interval of an accuracy may pass 1"
    cut = interval([0.95, 1.0, 1.0], bounds=FRACTION)
    assert cut.high == 1 and cut.low == free.low and cut.mean == free.mean
    assert interval([0.05, 0.0, 0.0], bounds=FRACTION).low == 0


@pytest.mark.parametrize("values", [[], [0.5, float("nan")], [0.5, float("inf")], [[0.5, 0.6]]])
def test_values_without_a_mean_are_refused(values):
    with pytest.raises(InputError, match="expected at least one finite number"):
        interval(values)


@pytest.mark.parametrize("values", [[0.5, 1.01], [-0.2, 0.5]])
def test_values_out_of_bounds_are_refused(values):
    with pytest.raises(InputError, match=f"{min(values):g} to {max(values):g}; expected them within 0 and 1"):
        interval(values, bounds=FRACTION)


def test_the_a_distance_is_0_for_one_domain_and_2_for_two():
    g = torch.Generator().manual_seed(0)
    f, same = torch.randn(200, 8, generator=g), torch.randn(150, 8, generator=g)
    assert a_distance(f, same) < 0.5
    assert a_distance(f, same + 5) > 1.95
    with pytest.raises(InputError, match="at least 10 subtomograms of each domain, got 200, 3"):
        a_distance(f, same[:3])
