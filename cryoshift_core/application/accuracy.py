"""The accuracy to expect of predictions, as a range, from what needs no label."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

# Added on either side. The least multiple of 0.01 with which the range covers 95 % of the true accuracies of the runs
# that it was chosen with: in_situ_1 and in_situ_2 with seeds 22 to 25, and single factors with seeds 21 and 22.
MARGIN = 0.05
# Power of the finest shells relative to the middle ones, below which particle-free boxes count as denoised. It is 0.02
# to 0.03 in the denoised in_situ_3, 0.06 in the shipped lamella, and 0.12 to 0.15 in the band-pass filtered in_situ_2.
DENOISED = 0.04


@dataclass(frozen=True)
class Estimate:
    """Balanced accuracy to expect.

    Attributes
    ----------
    low, high : ends of the range; NaN where it is unknown
    unknown : why no range can be given; "" where it can
    """

    low: float
    high: float
    unknown: str = ""

    def __str__(self) -> str:
        """Such as "0.71 to 0.80", or "unknown: ..."."""
        return f"unknown: {self.unknown}" if self.unknown else f"{self.low:.2f} to {self.high:.2f}"


def fine_power(x: Tensor) -> float:
    """Power of subtomograms (N, 1, n, n, n) in the finest quarter of shells, relative to the second quarter."""
    n = x.shape[-1]
    power = torch.fft.fftn(x[:, 0], dim=(1, 2, 3)).abs().square().mean(0)
    k = torch.fft.fftfreq(n, 1 / n, device=x.device)
    shell = (k[:, None, None] ** 2 + k[:, None] ** 2 + k**2).sqrt().round().long()
    means = torch.stack([power[shell == s].mean() for s in range(1, n // 2)])
    quarter = len(means) // 4
    return float(means[3 * quarter :].mean() / means[quarter : 2 * quarter].mean())


def expected_accuracy(spike_in: float, confidence: float, fine: float = math.nan) -> Estimate:
    """Range of the balanced accuracy on the target's own particles.

    It spans two estimates, each of which is wrong in its own way, and a margin: spike-ins are too easy where the
    tomogram has faults that they lack, and too hard where it has none of their neighbours and picking errors; the
    confidence is too high where the network errs with confidence. Picking errors larger than those of the spike-ins are
    not in it.

    Parameters
    ----------
    spike_in : balanced accuracy on spike-ins with usual picking errors; NaN for none
    confidence : mean calibrated confidence on the target
    fine : :func:`fine_power` of particle-free boxes. Where they were denoised the range is unknown, because denoising
        acts on a particle and not on a molecule that was put into the tomogram afterwards
    """
    known = (spike_in, confidence)
    if not all(map(math.isfinite, known)):
        return Estimate(math.nan, math.nan, "there are no spike-ins")
    if fine < DENOISED:
        why = (
            f"the tomogram seems to be denoised or strongly smoothed (its finest details have {fine:.1%} of the power "
            "of the middle ones), which spike-ins are not; take the tomogram before denoising"
        )
        return Estimate(math.nan, math.nan, why)
    return Estimate(max(0.0, min(known) - MARGIN), min(1.0, max(known) + MARGIN))
