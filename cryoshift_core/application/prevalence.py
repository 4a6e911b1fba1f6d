"""Class fractions with intervals, corrected for known confusion."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from scipy import optimize, stats
from torch import Tensor

from ..errors import InputError
from ..metrics import Interval
from .predictions import check_probabilities


@dataclass(frozen=True)
class Prevalence:
    """Prevalence of one class.

    Attributes
    ----------
    n : subtomograms predicted as the class
    raw : their fraction, with Wilson's 95 % interval
    corrected : the fraction after correction for known confusion, with its 95 % bootstrap interval; None where no
        confusion was measured
    """

    n: int
    raw: Interval
    corrected: Interval | None = None

    @property
    def best(self) -> Interval:
        """The corrected fraction where there is one, else the raw one."""
        return self.corrected or self.raw


def estimate_prevalence(
    probabilities: Tensor,
    classes: Sequence[str],
    confusion: np.ndarray | None,
    generator: torch.Generator,
    draws: int = 1000,
) -> dict[str, Prevalence]:
    """Class -> prevalence with 95 % intervals, corrected for the confusion that was measured on known subtomograms.

    If subtomograms of class i are predicted as class j with probability C[i, j], then true fractions w give predicted
    fractions q = w C. We solve for w by weighted least squares, with w >= 0 and sum 1 (the idea of Lipton et al. 2018,
    "Detecting and correcting for label shift with black box predictors"; Saerens et al. 2002 use EM). We repeat this
    for `draws` bootstrap samples of both the predictions and the confusion: the mean of the samples is the corrected
    fraction, their quantiles are the interval. A confusion matrix that is nearly singular gives a wide interval.

    The correction assumes that the target's subtomograms are confused as the known ones are. The intervals assume
    independent subtomograms; boxes that overlap are not independent.

    Parameters
    ----------
    probabilities : (M, K), without the subtomograms of the unknown class
    confusion : (K, K) counts, true classes in rows, predicted ones in columns (`metrics.confusion`), of subtomograms
        with known classes that need no label of the target: spike-ins, or target-styled validation subtomograms.
        None: no correction
    generator : on the CPU
    draws : bootstrap samples

    Raises
    ------
    InputError
        no subtomograms, another number of classes, or a class that does not occur in the confusion
    """
    k = len(classes)
    check_probabilities(probabilities, classes, len(probabilities))
    n = torch.bincount(probabilities.argmax(1).cpu(), minlength=k)
    total = int(n.sum())
    raw = []
    for count in n.tolist():
        ends = stats.binomtest(count, total).proportion_ci(method="wilson")
        raw.append(Interval(count / total, float(ends.low), float(ends.high)))
    if confusion is None:
        return {name: Prevalence(int(n[i]), raw[i]) for i, name in enumerate(classes)}
    known = torch.from_numpy(np.array(confusion, float))
    if known.shape != (k, k) or not torch.isfinite(known).all() or known.min() < 0:
        found = f"{tuple(known.shape)} with values from {known.min():g}"
        raise InputError(f"Expected a confusion of ({k}, {k}) counts for {k} classes, true in rows, got {found}.")
    if known.sum(1).min() < 1:
        name = classes[int(known.sum(1).argmin())]
        raise InputError(f"Expected a confusion with subtomograms of each class, got none that is truly '{name}'.")
    # One more subtomogram, spread over the classes: a confusion that few subtomograms did not show is rare, not
    # impossible.
    chance = (known + 1 / k) / (known.sum(1, keepdim=True) + 1)
    sampled = _resampled(known.sum(1).round(), chance.expand(draws, k, k), generator)
    sampled = sampled / sampled.sum(-1, keepdim=True)
    fraction = (n.double() + 1 / k) / (total + 1)
    trials = torch.full((), total, device="cpu")
    fractions = _resampled(trials, fraction.expand(draws, k), generator) / total
    samples = np.stack([_solve(q, c, total) for q, c in zip(fractions.numpy(), sampled.numpy(), strict=True)])
    low, high = np.quantile(samples, [0.025, 0.975], axis=0)
    corrected = [Interval(*map(float, row)) for row in zip(samples.mean(0), low, high, strict=True)]
    return {name: Prevalence(int(n[i]), raw[i], corrected[i]) for i, name in enumerate(classes)}


def _resampled(n: Tensor, p: Tensor, generator: torch.Generator) -> Tensor:
    """Multinomial counts (..., K) of n draws with probabilities p (..., K), one class after the other."""
    out = torch.zeros_like(p, dtype=torch.double)
    left, rest = n.double().expand(p.shape[:-1]).clone(), torch.ones_like(out[..., 0])
    for i in range(p.shape[-1] - 1):
        out[..., i] = torch.binomial(left, (p[..., i] / rest.clamp_min(1e-12)).clamp(0, 1), generator=generator)
        left, rest = left - out[..., i], rest - p[..., i]
    out[..., -1] = left
    return out


def _solve(q: np.ndarray, confusion: np.ndarray, n: int) -> np.ndarray:
    """Fractions w >= 0 of sum 1 for which w @ confusion is nearest to q (K,), in units of the counting error."""
    weight = 1 / np.sqrt(q + 1 / n)
    system = np.vstack([confusion.T * weight[:, None], np.full(len(q), 1e3)])
    w = optimize.nnls(system, np.append(q * weight, 1e3))[0]
    return w / w.sum()
