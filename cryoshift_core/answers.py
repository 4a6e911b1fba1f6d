"""What goes back to the one who asked: tables in the format that came in, shares of the classes, class averages."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from scipy import optimize, stats
from torch import Tensor

from . import files
from .experiment import Experiment
from .volumes import InputError, rotation_from_relion

NOT_CLASSIFIED, NONE = "not_classified", "none_of_these"
INPUT_CLASS, PROBABILITY = "csInputClassNumber", "csProbability_"
OURS = ("csClass", "csConfidence", "csNoneOfThese", INPUT_CLASS)
DYNAMO_CLASS = 22  # columns of a Dynamo table, counted from 1


def safe_names(classes: Sequence[str]) -> list[str]:
    """Class names fit for files and STAR labels: letters, digits and _, and no two alike, upper case or lower."""
    out: list[str] = []
    taken = {NOT_CLASSIFIED, NONE}
    for name in classes:
        plain = found = re.sub(r"[^A-Za-z0-9_]+", "_", name)[:60].strip("_") or "class"
        again = 1
        while found.lower() in taken:
            again += 1
            found = f"{plain}_{again}"
        taken.add(found.lower())
        out.append(found)
    return out


def _check(probabilities: Tensor, classes: Sequence[str], n: int) -> None:
    if probabilities.shape != (n, len(classes)) or not n:
        raise InputError(
            f"{tuple(probabilities.shape)} probabilities for {n} cubes and {len(classes)} classes; wanted a row per "
            "cube and a column per class: give those that predict returned for these cubes."
        )
    if not torch.isfinite(probabilities).all():
        raise InputError("Some probabilities are not finite; wanted those of a model that was trained: fit it again.")


def write(
    folder: str | Path,
    experiment: Experiment,
    probabilities: Tensor,
    classes: Sequence[str],
    strange: Tensor | None = None,
) -> list[Path]:
    """predictions.star, a STAR per class in classes/, and predictions.tbl where a Dynamo table came in.

    predictions.star has the tables of the input with all columns and rows in their order, and in the last table
    `_rlnClassNumber` (1 to K; 0: not classified, for the box reaches over the border), `_csClass`, `_csConfidence`,
    `_csProbability_<class>` and, where `strange` is given, `_csNoneOfThese`, beside the likeliest class. An own
    `_rlnClassNumber` goes on as `_csInputClassNumber`; columns of earlier answers are replaced. classes/<class>.star
    holds the rows of one class that fit it, classes/none_of_these.star the others; a class without a row has no file,
    and those of earlier answers are removed. In predictions.tbl column 22, "class", is set.

    RELION (src/metadata_table.cpp, versions 3.1 to 5) keeps columns that it does not know, with a warning; it reads the
    one row of `data_general`, its own list of label and value, as a list or as a loop. Dynamo: its wiki, "Table
    convention". Class names are made safe, so that no cell of ours needs quotes, which older ones do not read.

    Parameters
    ----------
    probabilities : (M, K) for the cubes of `experiment`
    strange : (M,) bool, cubes that fit no class

    Raises
    ------
    InputError
        another number of probabilities, classes or marks than of cubes.
    """
    folder, particles, kept = Path(folder), experiment.particles, experiment.kept
    _check(probabilities, classes, len(kept))
    if strange is not None and strange.shape != (len(kept),):
        raise InputError(f"{tuple(strange.shape)} marks for {len(kept)} cubes; wanted one per cube.")
    names = safe_names(classes)
    number, p = np.zeros(len(experiment), int), np.zeros((len(experiment), len(names)))
    number[kept], p[kept] = probabilities.argmax(1).cpu().numpy() + 1, probabilities.double().cpu().numpy()
    marked = np.zeros(len(experiment), bool)
    if strange is not None:
        marked[kept] = strange.cpu().numpy()

    table = {c: v for c, v in particles.table.items() if c not in OURS and not c.startswith(PROBABILITY)}
    if "rlnClassNumber" in table:
        table[INPUT_CLASS] = table.pop("rlnClassNumber")
    table |= {
        "rlnClassNumber": [str(k) for k in number],
        "csClass": [[NOT_CLASSIFIED, *names][k] for k in number],
        "csConfidence": _decimals(p.max(1)),
    }
    table |= {PROBABILITY + name: _decimals(column) for name, column in zip(names, p.T, strict=True)}
    if strange is not None:
        table["csNoneOfThese"] = [str(int(mark)) for mark in marked]

    wanted = {folder / "predictions.star": np.arange(len(experiment))}
    parts = {name: (number == k) & ~marked for k, name in enumerate(names, 1)} | {NONE: marked}
    wanted |= {folder / "classes" / f"{name}.star": np.flatnonzero(rows) for name, rows in parts.items() if rows.any()}
    single = all(len(values) == 1 for values in particles.rest.get("general", {}).values())
    lists = {"general"} & particles.rest.keys() if single else ()
    (folder / "classes").mkdir(parents=True, exist_ok=True)
    for path, rows in wanted.items():
        part = {column: [values[row] for row in rows] for column, values in table.items()}
        files.write_star(path, particles.rest | {particles.block: part}, lists)
    for path in set((folder / "classes").glob("*.star")) - set(wanted):
        if "\n_csConfidence " in path.read_text(errors="replace"):
            path.unlink()
    if particles.kind == "dynamo":
        columns = list(particles.table.values())
        columns += [["0"] * len(number)] * (DYNAMO_CLASS - len(columns))  # of a shorter table
        columns[DYNAMO_CLASS - 1] = [str(k) for k in number]
        tbl = folder / "predictions.tbl"
        files.write_text(tbl, "".join(" ".join(row) + "\n" for row in zip(*columns, strict=True)))
        return [*wanted, tbl]
    return list(wanted)


def _decimals(values: np.ndarray) -> list[str]:
    return [f"{value:.4f}" for value in values]


def by_class(probabilities: Tensor, classes: Sequence[str], strange: Tensor | None) -> dict[str, Tensor]:
    """Class -> indices of the cubes that fit it, the most certain first."""
    best = probabilities.max(1)
    fits = torch.ones(len(probabilities), dtype=torch.bool) if strange is None else ~strange
    order = best.values.argsort(descending=True)
    return {name: order[((best.indices == k) & fits)[order]] for k, name in enumerate(classes)}


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
        known without a label of the target: spike-ins, or validation cubes carried by the warps; None: no correction

    Raises
    ------
    InputError
        no cubes, another number of classes, or a class that the confusion does not hold.
    """
    k = len(classes)
    _check(probabilities, classes, len(probabilities))
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


def class_average(cubes: Tensor, angles: np.ndarray) -> Tensor:
    """Mean of cubes (N, 1, n, n, n) turned into the frame of the reference, (1, n, n, n); no missing wedge is mended.

    RELION's matrix A of rot, tilt, psi takes a point of the reference to where it is in the particle (src/euler.cpp,
    and getMatrix4x4 in src/jaz/tomography/particle_set.cpp), so the average at r is the mean of the particles at A r.
    Outside a cube is nothing: corners fade.

    Parameters
    ----------
    angles : (N, 3) rot, tilt, psi in degrees
    """
    if len(angles) != len(cubes) or not len(cubes):
        raise InputError(f"{len(angles)} sets of angles for {len(cubes)} cubes; wanted one per cube, and a cube.")
    matrix = torch.from_numpy(rotation_from_relion(angles).as_matrix()).float()
    n = cubes.shape[-1]
    line = (torch.arange(n) - n // 2).float()
    z, y, x = torch.meshgrid(line, line, line, indexing="ij")
    points = torch.stack([x, y, z], -1)
    total = torch.zeros(1, n, n, n)
    for part, turn in zip(cubes.split(32), matrix.split(32), strict=True):
        at = torch.einsum("bij,zyxj->bzyxi", turn, points)
        total += F.grid_sample(part, 2 * (at + n // 2) / (n - 1) - 1, align_corners=True).sum(0)
    return total / len(cubes)
