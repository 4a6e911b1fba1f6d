import numpy as np
import pytest
import torch
from sklearn import metrics

from cryoshift_core.data import HeldOutLabels
from cryoshift_core.errors import InputError
from cryoshift_core.metrics import (
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
    p, key = predictions()
    y, guess = key.y.numpy(), p.argmax(1).numpy()
    assert balanced_accuracy(p, key) == pytest.approx(metrics.balanced_accuracy_score(y, guess))
    assert macro_f1(p, key) == pytest.approx(metrics.f1_score(y, guess, average="macro"))
    assert nll(p, key) == pytest.approx(
        metrics.log_loss(y, (p.double() / p.double().sum(1, keepdim=True)).numpy()), abs=1e-5
    )
    assert (confusion(p, key) == metrics.confusion_matrix(y, guess)).all()
    assert np.allclose(metrics_recall(p, key), metrics.recall_score(y, guess, average=None))


def test_cubes_of_none_of_the_classes_do_not_count():
    p, key = predictions()
    more = torch.cat([p, torch.full((50, 3), 1 / 3)])
    with_unknown = HeldOutLabels(torch.cat([key.y, torch.full((50,), -1)]), CLASSES)
    assert scores(more, with_unknown) == scores(p, key)
    assert confusion(more, with_unknown).sum() == 300
    with pytest.raises(InputError, match="nothing to score"):
        scores(p[:2], HeldOutLabels(torch.tensor([-1, -1]), CLASSES))
    with pytest.raises(InputError, match="wanted"):
        scores(p[:2], key)


def test_a_class_that_does_not_occur_is_nan_and_left_out_of_the_mean():
    p = torch.eye(3)[[0, 1, 1, 2]]
    key = HeldOutLabels(torch.tensor([0, 1, 0, 1]), CLASSES)
    recall = metrics_recall(p, key)
    assert recall[:2].tolist() == [0.5, 0.5] and np.isnan(recall[2])
    assert balanced_accuracy(p, key) == 0.5


def test_none_recall_counts_both_kinds_of_cubes():
    key = HeldOutLabels(torch.tensor([-1, -1, -1, -1, 0, 1, 2, 2, 1]), CLASSES)
    given = torch.tensor([-1, -1, -1, 2, 0, 1, 1, -1, 1])
    assert unknown_recall(given, key) == (0.75, pytest.approx(0.2))
    recall, false = unknown_recall(given[4:], key.subset(torch.arange(4, 9)))
    assert np.isnan(recall) and false == pytest.approx(0.2)
    with pytest.raises(InputError, match="one per cube"):
        unknown_recall(given[1:], key)


def test_ece_of_known_cases():
    p = torch.tensor([[0.75, 0.25]]).repeat(20, 1)
    calibrated = torch.tensor([0] * 15 + [1] * 5)
    assert ece(p, calibrated) == pytest.approx(0, abs=1e-6)
    assert ece(p, torch.ones(20, dtype=torch.long)) == pytest.approx(0.75, abs=1e-6)
    table = reliability(p, calibrated, n_bins=10)
    assert table.count.sum() == table.count[7] == 20 and table.accuracy[7] == pytest.approx(0.75)
    assert np.isnan(table.accuracy[0])


def test_interval_is_students():
    mean, low, high = interval([1.0, 2.0, 3.0])
    assert mean == 2 and high - mean == pytest.approx(4.302653 / np.sqrt(3), abs=1e-5) and mean - low == high - mean
    assert interval([0.5])[0] == 0.5 and np.isnan(interval([0.5])[1])
    with pytest.raises(InputError):
        interval([])


def test_a_distance_is_0_for_one_domain_and_2_for_two():
    g = torch.Generator().manual_seed(0)
    f, same = torch.randn(200, 8, generator=g), torch.randn(150, 8, generator=g)
    assert a_distance(f, same) < 0.5
    assert a_distance(f, same + 5) > 1.95
    with pytest.raises(InputError, match="at least 10"):
        a_distance(f, same[:3])
