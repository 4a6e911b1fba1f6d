"""Class fractions with intervals, corrected for known confusion."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from scipy import optimize, stats
from torch import Tensor

from ..errors import InputError
from .predictions import check_probabilities


@dataclass(frozen=True)
class Count:
    """`n` cubes predicted as a class; its share as predicted, and freed of known confusion: (share, low, high).

    `corrected` is None where no confusion was measured.
    """

    n: int
    raw: tuple[float, float, float]
    corrected: tuple[float, float, float] | None = None


def counts(
    probabilities: Tensor,
    classes: Sequence[str],
    confusion: np.ndarray | None,
    generator: torch.Generator,
    draws: int = 1000,
) -> dict[str, Count]:
    """How many cubes are of each class, with 95 % intervals, corrected for what the model is known to confuse.

    If cubes of class i are predicted as j with probability C[i, j], predicted shares are q = w C for true shares w.
    They are found by weighted least squares with w not negative and of sum 1 (the idea of Lipton et al. 2018,
    "Detecting and correcting for label shift with black box predictors"; Saerens et al. 2002 do it by EM), for `draws`
    bootstrap samples of both the predictions and the confusion: their mean is the corrected share, their quantiles
    the interval. Where the confusion can hardly be inverted, the samples scatter over what is possible, and so does
    the interval. The raw interval is Wilson's.

    It stands on two assumptions: cubes of a class are confused here as they were where the confusion was measured, and
    cubes are independent, which boxes that overlap are not.

    Parameters
    ----------
    probabilities : (M, K); leave out cubes that fit none of the classes
    confusion : (K, K) counts, rows true classes, columns predicted (`evaluation.confusion`), of cubes whose class is
        known without a label of the target: spike-ins, or validation cubes target_styled by the warps; None: no correction

    Raises
    ------
    InputError
        no cubes, another number of classes, or a class that the confusion does not hold.
    """
    k = len(classes)
    check_probabilities(probabilities, classes, len(probabilities))
    n = torch.bincount(probabilities.argmax(1).cpu(), minlength=k)
    total = int(n.sum())
    raw = []
    for count in n.tolist():
        ends = stats.binomtest(count, total).proportion_ci(method="wilson")
        raw.append((count / total, float(ends.low), float(ends.high)))
    if confusion is None:
        return {name: Count(int(n[i]), raw[i]) for i, name in enumerate(classes)}
    known = torch.as_tensor(np.asarray(confusion, float))
    if known.shape != (k, k) or not torch.isfinite(known).all() or known.min() < 0:
        raise InputError(f"The confusion is {tuple(known.shape)} for {k} classes; wanted (K, K) counts, rows true.")
    if known.sum(1).min() < 1:
        name = classes[int(known.sum(1).argmin())]
        raise InputError(f"The confusion holds no cube that is truly '{name}'; wanted some of each class.")
    # One more cube, spread over the classes: what was not seen in few cubes is rare, not impossible.
    chance = (known + 1 / k) / (known.sum(1, keepdim=True) + 1)
    seen = _resampled(known.sum(1).round(), chance.expand(draws, k, k), generator)
    seen = seen / seen.sum(-1, keepdim=True)
    share = (n.double() + 1 / k) / (total + 1)
    shares = _resampled(torch.tensor(total), share.expand(draws, k), generator) / total
    found = np.stack([_unmixed(q, c, total) for q, c in zip(shares.numpy(), seen.numpy(), strict=True)])
    low, high = np.quantile(found, [0.025, 0.975], axis=0)
    corrected = [tuple(map(float, row)) for row in zip(found.mean(0), low, high, strict=True)]
    return {name: Count(int(n[i]), raw[i], corrected[i]) for i, name in enumerate(classes)}


def _resampled(n: Tensor, p: Tensor, generator: torch.Generator) -> Tensor:
    """Multinomial counts (..., K) of n draws with probabilities p (..., K), one class after the other."""
    left, rest = n.double().expand(p.shape[:-1]).clone(), torch.ones(p.shape[:-1], dtype=torch.double)
    out = torch.zeros(p.shape, dtype=torch.double)
    for i in range(p.shape[-1] - 1):
        out[..., i] = torch.binomial(left, (p[..., i] / rest.clamp_min(1e-12)).clamp(0, 1), generator=generator)
        left, rest = left - out[..., i], rest - p[..., i]
    out[..., -1] = left
    return out


def _unmixed(q: np.ndarray, confusion: np.ndarray, n: int) -> np.ndarray:
    """Shares w >= 0 of sum 1 for which w @ confusion is nearest to q (K,), in units of the counting error."""
    weight = 1 / np.sqrt(q + 1 / n)
    system = np.vstack([confusion.T * weight[:, None], np.full(len(q), 1e3)])
    w = optimize.nnls(system, np.append(q * weight, 1e3))[0]
    return w / w.sum()
