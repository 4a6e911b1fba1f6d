"""Positions without a particle in a list whose classes have no name for them: found beside particle-free boxes."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ..data import Unlabelled
from ..fourier import gaussian_low_pass, shell_means
from .target_data import Background
from .verdict import BACKGROUND

BINS, BLUR = 8, 1.5  # spherical shells of a box; standard deviation of the low-pass, voxels
MOST, CHANCE, FEWEST_KEPT = 0.5, 0.05, 100  # empty fraction that is borne; emptiness of what is kept, and how many


def radial_profile(x: Tensor) -> Tensor:
    """Mean grey value of low-passed subtomograms (N, 1, n, n, n) in shells about the centre, (N, BINS)."""
    n = x.shape[-1]
    line = torch.arange(n, device=x.device) - n // 2
    radius = (line[:, None, None] ** 2 + line[:, None] ** 2 + line**2).sqrt()
    shell = (radius / (n / 2) * BINS).long().clamp_max(BINS)  # the corners are the last one, and left out
    smooth = torch.cat([gaussian_low_pass(part[:, 0], BLUR) for part in x.split(64)])
    return torch.stack([shell_means(one, shell)[0][:BINS] for one in smooth])


def _distance(profiles: Tensor, null: Tensor) -> Tensor:
    """Squared Mahalanobis distance of profiles (N, BINS) from the mean of those of particle-free boxes (M, BINS)."""
    centred = null - null.mean(0)
    covariance = centred.T @ centred / len(null) + 1e-3 * centred.var() * torch.eye(BINS, device=null.device)
    off = profiles - null.mean(0)
    return (off * torch.linalg.solve(covariance, off.T).T).sum(1)


def emptiness(x: Tensor, fitted: Tensor, compared: Tensor) -> Tensor:
    """How often a particle-free box looks less empty than each subtomogram, (N,) from 0 to 1.

    Of an empty subtomogram it is evenly distributed, of one with a particle it is near 0.

    Parameters
    ----------
    x : (N, 1, n, n, n), normalised
    fitted, compared : particle-free boxes (M, 1, n, n, n): those that the distance is fitted on, and others
    """
    null, ours = radial_profile(fitted), _distance(radial_profile(x), radial_profile(fitted))
    theirs = _distance(radial_profile(compared), null).sort().values
    return 1 - torch.searchsorted(theirs, ours) / len(theirs)


def share_of_empty(likely: Tensor) -> float:
    """Fraction of empty subtomograms, from their :func:`emptiness` (N,): hardly any other one is above 0.5.

    It is the estimate of Storey 2002, J. R. Stat. Soc. B 64:479, for the fraction of true null hypotheses.
    """
    return min(1.0, 2 * float((likely > 0.5).float().mean()))


def without_empty(target: Unlabelled, boxes: Background | None, classes: Sequence[str]) -> tuple[Unlabelled, float]:
    """The target without what looks empty, and the fraction that is empty, where that is more than half of it.

    Else the target as it is, and 0: a few empty subtomograms do no harm, and a weak particle can look empty. So it is
    where a class stands for empty ones, or where there are no particle-free boxes to compare with. Boxes without a
    particle weaken the average by which the source is made to resemble the target (docs/search.md).
    """
    if BACKGROUND in classes or boxes is None:
        return target, 0.0
    x = boxes.spike_ins
    fitted, compared = (x[::2], x[1::2]) if boxes.train is None else (x, boxes.train)
    likely = emptiness(target.x, fitted, compared)
    if (share := share_of_empty(likely)) <= MOST:
        return target, 0.0
    full = (likely <= CHANCE).nonzero()[:, 0]
    if len(full) < (fewest := min(FEWEST_KEPT, len(likely) // 2)):
        full = likely.argsort(stable=True)[:fewest].sort().values
    return target.subset(full), share


def empty_reason(share: float) -> str:
    """Why the predictions of a target with so many empty subtomograms are not to be used, and what to do."""
    return (
        f"about {share:.0%} of the subtomograms look like particle-free boxes and no class stands for them, so each is "
        f"called a class: name the class {BACKGROUND!r}, too"
    )
