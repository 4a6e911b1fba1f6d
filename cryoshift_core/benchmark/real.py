"""The real tier: experimental tomograms with known positions, and the scores of a classifier on them.

Two targets. The yeast lamella has expert positions of 80S ribosomes, random positions in its cytosol and positions on
a membrane; it is scored in three mixes of them. The HIV tomogram has Gag lattices of nine particles; each particle is
held out once. Nothing may be tuned on either of them.

Training and selection receive `lamella(mix)` or `particles(fold).target`, which are Unlabelled. `lamella_labels` alone
opens what the positions of the lamella are.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from scipy import ndimage, stats
from scipy.spatial import cKDTree
from sklearn.metrics import roc_auc_score
from torch import Tensor

import data_fetch
from data_fetch import readers

from .. import metrics
from ..application import target_data
from ..application.lattice_test import FOLDS, LatticeTest, lattice_test
from ..application.target_data import TargetData
from ..data import HeldOutLabels
from ..errors import InputError
from ..metrics import FRACTION, Bounds, Interval
from ..tomography.volumes import Particles, Volume

LAMELLA, VLP = "yeast_171", "hiv_vlp"
LAMELLA_CLASSES = ("ribosome_80S", "membrane", "ice")
VLP_CLASSES = ("membrane", "ice")
LISTED, MEMBRANE, RANDOM = range(3)  # labels of the lamella: indices into LAMELLA_CLASSES
# mix -> numbers of ribosomes, membrane and random positions; None for no subsets: all positions
MIXES: dict[str, tuple[int, int, int] | None] = {
    "all": None,
    "54+200": (54, 0, 200),
    "20+40": (20, 0, 40),
    "180+20": (180, 0, 20),
    "ribosomes": (248, 0, 0),  # all that are away from the border
}
DOMINATED = ("180+20", "ribosomes")  # hardly any other boxes to score: a network for these is scored on "all"
MIX_SEED = 11658  # of the one draw of each mix
BORDER = 13  # voxels: positions of the small mixes are drawn where a box of 24 voxels lies inside the tomogram
GRID = (4, 2)  # blocks along y and x
CALLS = 0.05  # fraction of the random positions that may be called a ribosome
BLOB_RADIUS = 5.0  # voxels, of a ribosome
AWAY = 10.0  # voxels between an unlisted blob and every listed ribosome


@lru_cache(maxsize=1)
def _positions(mix: str) -> tuple[np.ndarray, np.ndarray, Volume]:
    """Positions (N, 3) zyx of a mix in random order, what each of them is (N,), and the tomogram."""
    if mix not in MIXES:
        raise InputError(f"Expected a mix out of {', '.join(MIXES)}, got '{mix}'.")
    files = data_fetch.yeast_lamella()
    volume = readers.read_tomogram(files.tomogram)
    lists = [readers.read_picks(path, volume).zyx for path in (files.ribosomes, files.membrane, files.cytosol)]
    rng, drawn, kinds = np.random.default_rng(MIX_SEED), [], []
    numbers = MIXES[mix]
    for kind, zyx in enumerate(lists):
        assert zyx is not None  # readers of coordinates always give positions
        if numbers is not None:
            inside = ((zyx >= BORDER) & (zyx <= np.array(volume.data.shape) - 1 - BORDER)).all(1)
            zyx = rng.permutation(zyx[inside])[: numbers[kind]]
        drawn.append(zyx)
        kinds.append(np.full(len(zyx), kind))
    order = rng.permutation(sum(map(len, drawn)))  # so that the order of the subtomograms tells nothing
    return np.concatenate(drawn)[order], np.concatenate(kinds)[order], volume


def lamella(mix: str) -> TargetData:
    """The subtomograms of a mix of MIXES as a user's input: positions without what they are. The same are scored."""
    zyx, _, volume = _positions(mix)
    columns = {f"rlnCoordinate{axis}": [f"{v:.3f}" for v in zyx[:, 2 - i]] for i, axis in enumerate("XYZ")}
    particles = Particles(columns, zyx=zyx, kind="star")
    return target_data.from_tomogram(volume, particles, LAMELLA_CLASSES)


def lamella_labels(mix: str, data: TargetData) -> HeldOutLabels:
    """What stands at the position of each subtomogram of :func:`lamella`; for evaluation only.

    Random positions have the label of `ice`: most of them show cytosol, and some hold unlisted ribosomes.
    """
    _, kinds, _ = _positions(mix)
    return HeldOutLabels(torch.from_numpy(kinds[data.kept]), LAMELLA_CLASSES)


def particles(fold: str, n_ice: int) -> tuple[TargetData, LatticeTest]:
    """The HIV tomogram, and its test with the particles of one fold held out: the same boxes for every training seed.

    Parameters
    ----------
    fold : "1", "2" or "3", see `lattice_test.FOLDS`
    n_ice : as in :func:`lattice_test`
    """
    files = data_fetch.sample()
    volume = readers.read_tomogram(files.tomogram)
    picks = readers.read_picks(files.coordinates, volume)
    data = target_data.from_tomogram(volume, picks, VLP_CLASSES)
    return data, lattice_test(data, VLP_CLASSES, n_ice=n_ice, held_out=FOLDS[int(fold) - 1])


def blocks(zyx: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Number of the block (N,) of each position (N, 3) zyx: a grid of equal blocks in y and x, over the whole of z."""
    along = [
        np.clip((zyx[:, axis] * n / shape[axis]).astype(int), 0, n - 1) for axis, n in zip((1, 2), GRID, strict=True)
    ]
    return along[0] * GRID[1] + along[1]


def block_interval(statistic: Callable[[np.ndarray], float], of: np.ndarray, bounds: Bounds = FRACTION) -> Interval:
    """A statistic of all boxes with its 95 % interval over blocks: delete-one-block jackknife, Student's t.

    Boxes in one block overlap and share the local ice, so the block is the unit. For a mean over blocks of equal size
    this is the t interval of the blocks' means (Efron and Stein 1981, Ann. Statist. 9:586). The bounds are NaN where
    the statistic needs a block, because one kind of positions lies in no other.

    Parameters
    ----------
    statistic : of a mask (N,) of boxes to use; NaN where it is not defined
    of : (N,) number of the block of each box
    bounds : of the statistic

    Raises
    ------
    InputError
        fewer than two blocks
    """
    numbers = np.unique(of)
    n = len(numbers)
    if n < 2:
        raise InputError(f"Expected boxes in at least two blocks, got {n}: use a finer grid.")
    value = statistic(np.ones(len(of), bool))
    without = np.array([statistic(of != number) for number in numbers])
    half = stats.t.ppf(0.975, n - 1) * np.sqrt((n - 1) / n * ((without - without.mean()) ** 2).sum())
    if not np.isfinite(half):
        return Interval(value, float("nan"), float("nan"))
    return Interval(value, float(max(bounds[0], value - half)), float(min(bounds[1], value + half)))


def log_odds(probabilities: Tensor, k: int) -> np.ndarray:
    """Log-odds (N,) of class k from probabilities (N, K): in their order, and distinct where they round to 1."""
    p = probabilities.double().clamp_min(1e-300)
    others = torch.cat([p[:, :k], p[:, k + 1 :]], 1).sum(1)
    return (p[:, k].log() - others.log()).numpy()


def auc(score: np.ndarray, positive: np.ndarray) -> float:
    """Area under the curve of positives (N,) bool against the others; NaN where one of the two is missing."""
    return float(roc_auc_score(positive, score)) if 0 < positive.sum() < len(positive) else float("nan")


def recall_at(score: np.ndarray, positive: np.ndarray, calls: float = CALLS) -> float:
    """Fraction of positives above the lowest threshold at which at most `calls` of the others are called."""
    others = np.sort(score[~positive])[::-1]
    if not len(others) or not positive.any():
        return float("nan")
    allowed = int(calls * len(others) + 1e-9)
    return float((score[positive] > others[allowed]).mean())


def lamella_scores(probabilities: Tensor, labels: HeldOutLabels, of: np.ndarray) -> dict[str, Interval]:
    """Scores of listed ribosomes against random positions, with intervals over blocks; membrane boxes are left out.

    auc : area under the curve, by the probability of ribosome_80S
    recall_5 : recall of the listed ones at 5 % calls among the random ones
    called, called_random : fraction of each that is classified as ribosome_80S
    ece : expected calibration error of "ribosome or not"

    Parameters
    ----------
    probabilities : (N, 3) calibrated, in the order of LAMELLA_CLASSES
    labels : of :func:`lamella_labels`
    of : (N,) blocks
    """
    used = (labels.y != MEMBRANE).numpy()
    p, listed, of = probabilities[used], (labels.y == LISTED).numpy()[used], of[used]
    score, called = log_odds(p, LISTED), (p.argmax(1) == LISTED).numpy()
    binary = torch.stack([p[:, LISTED], 1 - p[:, LISTED]], 1)
    y = torch.from_numpy(np.where(listed, 0, 1))
    statistics: dict[str, Callable[[np.ndarray], float]] = {
        "auc": lambda m: auc(score[m], listed[m]),
        "recall_5": lambda m: recall_at(score[m], listed[m]),
        "called": lambda m: float(called[m & listed].mean()) if (m & listed).any() else float("nan"),
        "called_random": lambda m: float(called[m & ~listed].mean()) if (m & ~listed).any() else float("nan"),
        "ece": lambda m: metrics.ece(binary[m], y[m]),
    }
    return {name: block_interval(statistic, of) for name, statistic in statistics.items()}


def particle_scores(probabilities: Tensor, test: LatticeTest) -> dict[int, dict[str, float]]:
    """Particle -> scores of its lattice boxes against the background boxes of its fold.

    balanced_accuracy, auc, and the fractions that are classified as membrane: called of the lattice boxes,
    called_random of the background boxes
    """
    lattice, ice = test.labels.classes.index("membrane"), test.labels.classes.index("ice")
    on_lattice = test.labels.y == lattice
    out = {}
    for number in test.held_out.groups[on_lattice].unique().tolist():
        mask = test.particle(number)
        p, y = probabilities[mask], test.labels.y[mask]
        called = p.argmax(1) == lattice
        out[number] = {
            "balanced_accuracy": metrics.balanced_accuracy(p, y),
            "auc": auc(log_odds(p, lattice), (y == lattice).numpy()),
            "called": float(called[y == lattice].float().mean()),
            "called_random": float(called[y == ice].float().mean()),
            "n_listed": int((y == lattice).sum()),
            "n_random": int((y == ice).sum()),
        }
    return out


@dataclass(frozen=True, eq=False)
class Blobs:
    """Dense blobs of the lamella without a position: shown and counted, never scored.

    Attributes
    ----------
    zyx : (M, 3) voxels, the densest first
    on_membrane : how many of them lie within a ribosome's radius of a membrane position
    random_hit : how many random positions lie within a ribosome's radius of one
    """

    zyx: np.ndarray
    on_membrane: int
    random_hit: int


def unlisted_blobs(volume: np.ndarray, listed: np.ndarray) -> np.ndarray:
    """Local maxima (M, 3) zyx of the smoothed density that are denser than the median listed ribosome, densest first.

    The density is -(grey value), averaged over a cube as wide as a ribosome's radius and standardised. A listed
    ribosome has the highest density within 2 voxels of its position. Maxima are at least a ribosome's radius apart;
    those within AWAY of a listed ribosome are left out.

    Parameters
    ----------
    volume : (Z, Y, X), protein dark
    listed : (N, 3) zyx voxels
    """
    data, radius = np.asarray(volume, np.float32), int(BLOB_RADIUS)
    smooth = ndimage.uniform_filter((data.mean() - data) / data.std(), radius)
    at = ndimage.maximum_filter(smooth, 5)[tuple(np.rint(listed).astype(int).T)]
    top = (smooth == ndimage.maximum_filter(smooth, 2 * radius + 1)) & (smooth > float(np.median(at)))
    found = np.argwhere(top)
    found = found[cKDTree(listed).query(found)[0] > AWAY] if len(found) else found
    return found[np.argsort(-smooth[tuple(found.T)])]


@lru_cache(maxsize=1)
def lamella_blobs() -> Blobs:
    """Unlisted dense blobs of the lamella, and how many of them coincide with other positions."""
    zyx, kinds, volume = _positions("all")
    found = unlisted_blobs(volume.data, zyx[kinds == LISTED])

    def near(points: np.ndarray, others: np.ndarray) -> int:
        return int((cKDTree(others).query(points)[0] <= BLOB_RADIUS).sum()) if len(points) and len(others) else 0

    return Blobs(found, near(found, zyx[kinds == MEMBRANE]), near(zyx[kinds == RANDOM], found))


def lamella_sections() -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """The lamella (Z, Y, X) and its positions by kind, to draw: listed ribosomes, random, unlisted dense blobs."""
    zyx, kinds, volume = _positions("all")
    return np.asarray(volume.data), {
        "listed ribosome": zyx[kinds == LISTED],
        "random position": zyx[kinds == RANDOM],
        "unlisted dense blob": lamella_blobs().zyx,
    }
