"""The accuracy to expect, as a range: what widens it, and when it is unknown."""

import math

import pytest
import torch

from cryoshift_core.application import accuracy
from cryoshift_core.application.accuracy import expected_accuracy, fine_power
from cryoshift_core.fourier import gaussian_low_pass


@pytest.mark.parametrize("values", [(0.8, 0.9), (0.9, 0.8)])
def test_the_range_spans_both_estimates_and_a_margin(values):
    found = expected_accuracy(*values)
    assert (found.low, found.high) == pytest.approx((0.8 - accuracy.MARGIN, 0.9 + accuracy.MARGIN))
    assert str(found) == "0.75 to 0.95"
    assert expected_accuracy(0.005, 0.99) == accuracy.Estimate(0.0, 1.0), "an accuracy has bounds"


@pytest.mark.parametrize("missing", [0, 1])
def test_without_one_of_the_estimates_it_is_unknown(missing):
    values = [0.8, 0.9]
    values[missing] = math.nan
    found = expected_accuracy(*values)
    assert math.isnan(found.low) and str(found).startswith("unknown: there are no spike-ins")


def test_denoised_boxes_make_it_unknown_and_noise_does_not():
    noise = torch.randn(40, 1, 24, 24, 24, generator=torch.Generator().manual_seed(0))
    assert fine_power(noise) == pytest.approx(1, abs=0.1), "white noise has the same power in each shell"
    smooth = gaussian_low_pass(noise, 1.5)
    assert fine_power(smooth) < accuracy.DENOISED < fine_power(gaussian_low_pass(noise, 0.5))
    found = expected_accuracy(0.8, 0.9, fine_power(smooth))
    assert "before denoising" in found.unknown and math.isnan(found.high)
    assert not expected_accuracy(0.8, 0.9, fine_power(noise)).unknown
    assert not expected_accuracy(0.8, 0.9, math.nan).unknown, "without boxes nothing speaks against it"
