"""Purity at a confidence: counts and fractions by hand."""

import csv
import io

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch

from cryoshift_core.application import purity, spike_in, steps
from cryoshift_core.application.classifier import Predictions
from cryoshift_core.application.predictions import proportion
from cryoshift_core.calibration import Calibration
from cryoshift_core.data import Labelled

P = torch.tensor([[0.95, 0.05], [0.2, 0.8], [0.6, 0.4], [0.9, 0.1]])
PLAIN = Calibration(1.0, 100)


def spikes():
    """Four of two classes: right at 0.99, right at 0.7, wrong at 0.7, right at 0.6."""
    p = torch.tensor([[0.99, 0.01], [0.3, 0.7], [0.7, 0.3], [0.6, 0.4]])
    y = torch.tensor([0, 1, 1, 0])
    return spike_in.score(p, Labelled(torch.zeros(4, 1, 2, 2, 2), y, ("a", "b"), 10.0, torch.zeros(4), y))


def test_counts_and_fractions_by_hand():
    unknown = torch.tensor([False, False, False, True])
    found = purity.cuts(Predictions(("a", "b"), P, torch.zeros(4), unknown), PLAIN, spikes(), (0.0, 0.65, 0.9, 0.999))
    assert [cut.kept for cut in found] == [3, 2, 1, 0], "the one of the unknown class does not count"
    assert [cut.expected for cut in found[:3]] == pytest.approx([0.78333, 0.875, 0.95], abs=1e-4)
    assert [cut.spike_ins for cut in found] == [proportion(3, 4), proportion(2, 3), proportion(1, 1), None]
    assert np.isnan(found[3].expected)


def test_spike_ins_are_cut_at_their_calibrated_confidence():
    soft = Calibration(4.0, 100)  # 0.7 becomes 0.55, and 0.99 becomes 0.76
    found = purity.cuts(Predictions(("a", "b"), P), soft, spikes(), (0.7,))
    assert found[0].kept == 3 and found[0].spike_ins == proportion(1, 1)


def test_without_spike_ins_and_as_csv():
    found = purity.cuts(Predictions(("a", "b"), P), PLAIN, None)
    assert [cut.spike_ins for cut in found] == [None] * len(purity.CONFIDENCES)
    rows = list(csv.DictReader(io.StringIO(purity.table(found))))
    assert [row["kept"] for row in rows] == ["4", "4", "3", "3", "2", "1", "0"]
    assert rows[0]["expected"] == "0.8125" and rows[-1]["expected"] == "" and rows[0]["spike_ins"] == ""


def test_a_confidence_that_is_shown_alike_is_listed_once():
    assert purity.with_least(None) == list(purity.CONFIDENCES)
    assert purity.with_least(0.5002) == [0.0, 0.5002, 0.7, 0.8, 0.9, 0.95, 0.99], "0.5 twice says nothing"
    assert purity.with_least(0.605)[:4] == [0.0, 0.5, 0.605, 0.7]


def test_a_range_of_two_equal_numbers_is_one_number():
    p = torch.tensor([[0.9, 0.1], [0.2, 0.8]])
    y = torch.tensor([0, 1])
    labelled = Labelled(torch.zeros(2, 1, 2, 2, 2), y, ("a", "b"), 10.0, torch.zeros(2), y)
    assert str(spike_in.score(p, labelled, far=0.997)) == "1.00"
    assert str(spike_in.score(p, labelled, far=0.9)) == "0.90 to 1.00"


def test_the_picture_of_a_threshold_says_what_it_keeps():
    unknown = torch.tensor([False, False, False, True])
    found = Predictions(("a", "b$"), P, torch.zeros(4), unknown)
    cuts = purity.cuts(found, PLAIN, spikes(), (0.9, 0.65))
    classes = steps.Classes(None, None, found, {}, cuts, 0.8, None, {}, {}, [])
    fig, axes = plt.subplots(1, 2)
    classes.at_confidence(axes, 0.65)
    assert classes.confidences == [0.9, 0.65]
    assert (
        axes[0].get_title() == "from 0.65: expected 0.88, spike-ins 0.67"
        and axes[1].get_title() == "2 of 4 kept (dark)"
    )
    assert list(axes[0].lines[0].get_xdata()) == [0.65, 0.9], "in the order of the confidence"
    assert [bar.get_width() for bar in axes[1].containers[1]] == [1, 1]
    fig.canvas.draw()
    plt.close(fig)
