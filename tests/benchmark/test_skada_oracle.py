"""skada beside this project: its scores agree with ours where both compute the same, and the table has its rows."""

import csv
import importlib.util

import numpy as np
import pytest
import torch

from cryoshift_core import losses, models
from cryoshift_core.benchmark import compare, skada_oracle
from cryoshift_core.errors import InputError
from cryoshift_core.models import Network

needs_skada = pytest.mark.skipif(
    importlib.util.find_spec("skada") is None,
    reason="skada is not installed: pip install -c constraints.txt -e '.[skada]'",
)
K, F = 3, 64


def features(n=90, m=60, shift=0.5, seed=0):
    """Three classes; the target is stretched and shifted."""
    g = torch.Generator().manual_seed(seed)
    centres = torch.randn(K, F, generator=g)
    y, y_t = torch.arange(n) % K, torch.arange(m) % K
    source = centres[y] + 0.7 * torch.randn(n, F, generator=g)
    target = 1.3 * centres[y_t] + 0.9 * torch.randn(m, F, generator=g) + shift
    source, target = (torch.nn.functional.layer_norm(x, (F,)) for x in (source, target))  # as features of our networks
    return skada_oracle.Features(source, y, target), y_t


def test_the_head_of_a_network_predicts_as_the_network_does():
    network = Network(K).eval()
    x = torch.randn(8, 1, 16, 16, 16, generator=torch.Generator().manual_seed(0))
    found = models.outputs(network, x, device="cpu")
    head = skada_oracle.head(network).fit(None, None)
    assert np.allclose(head.predict_proba(found.features.double().numpy()), found.probabilities.numpy(), atol=1e-6)
    assert (head.predict(found.features.double().numpy()) == found.logits.argmax(1).numpy()).all()


@needs_skada
def test_their_entropy_is_the_second_part_of_our_im_score():
    """IM score = entropy of the mean prediction - mean entropy of a prediction; skada's is the latter / -K."""
    made, _ = features()
    network = Network(K)
    found = skada_oracle.scores(skada_oracle.head(network), made)
    p = network.head(made.target).softmax(1).detach()
    marginal = torch.special.entr(p.mean(0)).sum()
    assert float(losses.information_maximisation(p)) == pytest.approx(
        float(marginal) + K * found["prediction_entropy"], abs=1e-5
    )


@needs_skada
def test_their_alignment_brings_our_coral_loss_down():
    """Their CORAL gives the source the covariance of the target: the covariance part of our loss vanishes."""
    import skada

    made, _ = features(600, 600, shift=0.0)
    x, domain = (made.joined[name] for name in ("X", "sample_domain"))
    found = skada.CORALAdapter().fit_transform(x, sample_domain=domain, allow_source=True)
    moved = torch.from_numpy(np.asarray(found)[: len(made.source)]).float()

    def covariances(x):
        return float(losses.coral(x - x.mean(0), made.target - made.target.mean(0)))

    assert covariances(moved) < 0.01 * covariances(made.source)


@needs_skada
def test_every_estimator_predicts_and_every_score_is_a_number():
    made, y = features()
    found = skada_oracle.estimates(made)
    assert tuple(found) == skada_oracle.METHODS
    for estimator in found.values():
        p = skada_oracle.probabilities(estimator, made.target)
        assert p.shape == (len(made.target), K) and np.allclose(p.sum(1), 1)
        assert (p.argmax(1) == y.numpy()).mean() > 0.8
        one, again = (skada_oracle.scores(estimator, made, seed=3) for _ in range(2))
        assert one == again and tuple(one) == skada_oracle.SCORES and np.isfinite(list(one.values())).all()


@needs_skada
def test_the_table_of_compare_has_their_rows_and_scores(tmp_path):
    given = {"profile": "smoke", "out": tmp_path, "grid": {"steps": [2]}, "progress": False}
    compare.compare(["source_only"], "in_situ_1", [0], **given)
    table = compare.compare(["source_only", "coral"], "in_situ_1", [0], skada=True, **given)
    assert table.failed == {}
    with table.path.open(newline="") as f:
        rows = list(csv.DictReader(f))
    theirs = [f"skada_{name}" for name in skada_oracle.METHODS]
    assert {row["method"] for row in rows} == {"source_only", "coral", *theirs}
    assert len({(row["run"], row["model"]) for row in rows}) == len(rows) == 2 * (2 + len(theirs))
    for row in rows:
        assert 0 <= float(row["balanced_accuracy"]) <= 1 and row["p:steps"] == "2"
        assert all(np.isfinite(float(row[f"skada_{name}"])) for name in skada_oracle.SCORES)
    again = compare.compare(["source_only", "coral"], "in_situ_1", [0], skada=True, **given)
    assert again.rows == table.rows


def test_without_skada_nothing_runs(tmp_path, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"pip install -c constraints.txt -e '.\[skada\]'"):
        compare.compare(["source_only"], profile="smoke", out=tmp_path / "out", skada=True, progress=False)
    assert not (tmp_path / "out").exists()
