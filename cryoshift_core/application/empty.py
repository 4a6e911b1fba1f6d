"""Lists of which most positions hold no particle: found beside particle-free boxes, and what is done about them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ..data import Unlabelled
from ..fourier import gaussian_low_pass, shell_means
from .target_data import Background
from .verdict import BACKGROUND

BINS, BLUR = 8, 1.5  # spherical shells of a box; standard deviation of the low-pass, voxels
ADVICE = f"Name the class {BACKGROUND!r}, too"
MOST, CHANCE, FEWEST_KEPT = 0.5, 0.01, 100  # empty fraction that is borne; emptiness of what is kept, and how many
FEWEST_BOXES = 100  # particle-free: on the shipped lamella 36 to 68 boxes gave fractions from 0.5 to 1


def profiles(x: Tensor) -> Tensor:
    """Mean grey value of low-passed subtomograms (N, 1, n, n, n) in shells about the centre, (N, BINS)."""
    n = x.shape[-1]
    line = torch.arange(n, device=x.device) - n // 2
    radius = (line[:, None, None] ** 2 + line[:, None] ** 2 + line**2).sqrt()
    shell = (radius / (n / 2) * BINS).long().clamp_max(BINS)  # the corners are the last one, and left out
    smooth = torch.cat([gaussian_low_pass(part[:, 0], BLUR) for part in x.split(64)])
    return torch.stack([shell_means(one, shell)[0][:BINS] for one in smooth])


def _distance(found: Tensor, null: Tensor) -> Tensor:
    """Squared Mahalanobis distance of profiles (N, BINS) from the mean of those of particle-free boxes (M, BINS)."""
    centred = null - null.mean(0)
    covariance = centred.T @ centred / len(null) + 1e-3 * centred.var() * torch.eye(BINS, device=null.device)
    off = found - null.mean(0)
    return (off * torch.linalg.solve(covariance, off.T).T).sum(1)


def emptiness(x: Tensor, fitted: Tensor, compared: Tensor) -> Tensor:
    """How often a particle-free box looks less empty than each subtomogram, (N,) from 0 to 1.

    Of an empty subtomogram it is evenly distributed, of one with a particle it is near 0.

    Parameters
    ----------
    x : (N, 1, n, n, n), normalised
    fitted, compared : particle-free boxes (M, 1, n, n, n): those that the distance is fitted on, and others
    """
    null = profiles(fitted)
    ours, theirs = (_distance(profiles(boxes), null) for boxes in (x, compared))
    theirs = theirs.sort().values
    return 1 - torch.searchsorted(theirs, ours) / len(theirs)


def share_of_empty(likely: Tensor) -> float:
    """Fraction of empty subtomograms, from their :func:`emptiness` (N,): hardly any other one is above 0.5.

    It is the estimate of Storey 2002, J. R. Stat. Soc. B 64:479, for the fraction of true null hypotheses.
    """
    return min(1.0, 2 * float((likely > 0.5).float().mean()))


def without_empty(target: Unlabelled, boxes: Background | None, classes: Sequence[str]) -> tuple[Unlabelled, float]:
    """The target to adapt to, and the fraction that is empty, where more than half of it looks empty.

    Boxes without a particle weaken the average by which the source is made to resemble the target, and adversaries
    spread them over the classes (docs/search.md). So they are left out; where "ice" is a class, as many stay as of
    another class. Else, or with fewer than 100 particle-free boxes, the target stays as it is, and the fraction is 0: a
    few empty subtomograms do no harm, and a weak particle can look empty.
    """
    if boxes is None:
        return target, 0.0
    x = boxes.spike_ins
    fitted, compared = (x[::2], x[1::2]) if boxes.train is None else (x, boxes.train)
    if len(fitted) + len(compared) < FEWEST_BOXES:
        return target, 0.0
    likely = emptiness(target.x, fitted, compared)
    share, kept = share_of_empty(likely), likely <= CHANCE
    named, full = BACKGROUND in classes, int(kept.sum())
    if share <= MOST or (named and full < FEWEST_KEPT):
        return target, 0.0
    if named:
        others = (~kept).nonzero()[:, 0]
        n = min(len(others), round(full / (len(classes) - 1)))
        kept[others[torch.linspace(0, len(others) - 1, n).long()]] = True
    elif full < (fewest := min(FEWEST_KEPT, len(likely) // 2)):
        kept[likely.argsort(stable=True)[:fewest]] = True
    return target.subset(kept), share


def with_background(probabilities: Tensor, classes: Sequence[str], share: float) -> Tensor:
    """Probabilities (N, K) of a network that saw each class equally often, where a fraction `share` is of class "ice".

    Bayes' rule with other class probabilities: Saerens et al. 2002, Neural Computation 14:21, equation 2.4. They stay
    as they are for a fraction of 0, and without such a class.
    """
    if not share or BACKGROUND not in classes:
        return probabilities
    weight = torch.full((len(classes),), (1 - share) / (len(classes) - 1), device=probabilities.device)
    weight[classes.index(BACKGROUND)] = share
    return (probabilities * weight) / (probabilities * weight).sum(1, keepdim=True)


def empty_warning(share: float, left: int, classes: Sequence[str]) -> str:
    """A sentence on a target of which the fraction `share` is empty and `left` subtomograms were adapted to."""
    about = f"About {share:.0%} of the subtomograms look like particle-free boxes"
    if BACKGROUND in classes:
        return (
            f"{about}: training adapts to {left}, with no more empty ones than of another class, and the predictions "
            f"take that fraction as the probability of {BACKGROUND!r}."
        )
    return f"{about}, and no class stands for them: training adapts to the {left} that do least so. {ADVICE}."


def empty_reason(share: float) -> str:
    """Why predictions without a class for empty subtomograms are not to be used, and what to do."""
    return f"about {share:.0%} of the subtomograms look empty, and each is called a class. {ADVICE}"
