"""Predictions as files: tables in the format of the input, one table per class, and class averages."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from scipy import stats
from torch import Tensor

from ..errors import InputError
from ..metrics import Interval
from ..simulation.optics import Optics
from ..support import runtime
from ..tomography import star
from ..tomography.volumes import rotation_from_relion
from .target_data import TargetData

NOT_CLASSIFIED, UNKNOWN_CLASS = "not_classified", "none_of_these"
INPUT_CLASS, PROBABILITY = "csInputClassNumber", "csProbability_"
NETWORK = "csNetworkClass"  # of the network alone, where csClass is the answer of network and templates
TEMPLATES = ("csTemplateClass", "csTemplateCorrelation", "csTemplateNoneOfThese")
OURS = ("csClass", "csConfidence", "csNoneOfThese", "csAgreement", NETWORK, *TEMPLATES, INPUT_CLASS)
PIXEL_SIZES = (
    "rlnImagePixelSize",
    "rlnMicrographPixelSize",
    "rlnMicrographOriginalPixelSize",
    "rlnTomoTiltSeriesPixelSize",
)
FOR_RELION = "predictions_relion.star"
DYNAMO_CLASS = 22  # column of a Dynamo table, counted from 1


def safe_names(classes: Sequence[str]) -> list[str]:
    """Class names for files and STAR labels: letters, digits and _, each name once, upper and lower case alike."""
    out: list[str] = []
    taken = {NOT_CLASSIFIED, UNKNOWN_CLASS}
    for name in classes:
        plain = safe = re.sub(r"[^A-Za-z0-9_]+", "_", name)[:60].strip("_") or "class"
        number = 1
        while safe.lower() in taken:
            number += 1
            safe = f"{plain}_{number}"
        taken.add(safe.lower())
        out.append(safe)
    return out


def check_probabilities(probabilities: Tensor, classes: Sequence[str], n: int) -> None:
    """Raise InputError unless the probabilities are finite and (n, K) for K classes, with n above 0."""
    if probabilities.shape != (n, len(classes)) or not n:
        raise InputError(
            f"Expected probabilities of {n} subtomograms and {len(classes)} classes, got {tuple(probabilities.shape)}; "
            "give those that predict returned for these subtomograms."
        )
    if not torch.isfinite(probabilities).all():
        raise InputError("Expected finite probabilities, got NaN or infinite values; train the model again.")


@dataclass(frozen=True)
class Prevalence:
    """How many subtomograms are predicted as one class, and their fraction with Wilson's 95 % interval.

    The interval counts subtomograms; it does not know which of them the network mistakes for another class.
    """

    n: int
    fraction: Interval


def proportion(count: int, n: int) -> Interval:
    """count / n with Wilson's 95 % interval."""
    ends = stats.binomtest(count, n).proportion_ci(method="wilson")
    return Interval(count / n, float(ends.low), float(ends.high))


def unspecific(unknown: Tensor | None) -> bool:
    """More than half of the subtomograms are marked (M,): the mark tells of the domain gap, not of single ones."""
    return unknown is not None and 2 * int(unknown.sum()) > len(unknown)


def prevalence(probabilities: Tensor, classes: Sequence[str], unknown: Tensor | None = None) -> dict[str, Prevalence]:
    """Class -> prevalence among the subtomograms that are not of the unknown class, or among all if most are unknown.

    Parameters
    ----------
    probabilities, unknown : (M, K), and (M,) bool

    Raises
    ------
    InputError
        no subtomograms, or another number of classes
    """
    check_probabilities(probabilities, classes, len(probabilities))
    known = probabilities if unknown is None or unspecific(unknown) else probabilities[~unknown]
    counts = torch.bincount(known.argmax(1), minlength=len(classes)).tolist()
    return {name: Prevalence(n, proportion(n, len(known))) for name, n in zip(classes, counts, strict=True)}


def write(
    folder: str | Path,
    target: TargetData,
    probabilities: Tensor,
    classes: Sequence[str],
    unknown: Tensor | None = None,
    *,
    agreement: Tensor | None = None,
    more: Mapping[str, Sequence[str]] | None = None,
    least_confidence: float | None = None,
) -> list[Path]:
    """Paths of the files written: predictions.star, classes/<class>.star, and predictions.tbl for a Dynamo table.

    predictions.star has all tables, columns and rows of the input in their order. The last table gains
    `_rlnClassNumber` (1 to K; 0 for a row that is not classified, see `TargetData.kept`), `_csClass`,
    `_csConfidence`, `_csProbability_<class>` and, if they are given, `_csNoneOfThese`, `_csAgreement`, and `more`, such
    as NETWORK and TEMPLATES. The likeliest class is given for particles of the unknown class, too. An `_rlnClassNumber`
    of the input is kept as `_csInputClassNumber`. Columns of earlier predictions are replaced. classes/<class>.star
    holds the rows of one class without those of the unknown class, which are in classes/none_of_these.star. A class
    without rows has no file; files of earlier predictions in the same folder are removed. In predictions.tbl, column 22
    ("class") is set.

    RELION (src/metadata_table.cpp, versions 3.1 to 5) keeps columns that it does not know, with a warning. It reads
    `data_general`, which has one row, as a list or as a loop. Its programs write an empty file where `data_optics`
    lacks a pixel size, the voltage or the spherical aberration. Where the input has no such table or lacks these,
    FOR_RELION, which is not in the list returned, is predictions.star with them. Dynamo: its wiki, "Table convention".
    Class names are made safe, so that no cell of ours needs quotes, which older programs do not read.

    Parameters
    ----------
    folder : is made if it does not exist
    probabilities : (M, K) of the M subtomograms of `target`
    classes : K names
    unknown : (M,) bool, True for the unknown class
    agreement : (M,) fraction of the training seeds that give this class; None for one seed
    more : name -> further columns of the M subtomograms; other rows get "0"
    least_confidence : predictions_purity.star gets the rows from it on, without those of the unknown class; None: it is
        not written

    Raises
    ------
    InputError
        the numbers of probabilities, classes or unknown-class values do not fit the subtomograms
    """
    folder, particles, kept = Path(folder), target.particles, target.kept
    check_probabilities(probabilities, classes, len(kept))
    if unknown is not None and unknown.shape != (len(kept),):
        raise InputError(f"Expected an unknown-class value for {len(kept)} subtomograms, got {tuple(unknown.shape)}.")
    names = safe_names(classes)
    number, p = np.zeros(len(target), int), np.zeros((len(target), len(names)))
    number[kept], p[kept] = probabilities.argmax(1).cpu().numpy() + 1, probabilities.double().cpu().numpy()
    is_unknown = np.zeros(len(target), bool)
    if unknown is not None:
        is_unknown[kept] = unknown.cpu().numpy()

    table = {c: v for c, v in particles.table.items() if c not in OURS and not c.startswith(PROBABILITY)}
    if "rlnClassNumber" in table:
        table[INPUT_CLASS] = table.pop("rlnClassNumber")
    table |= {
        "rlnClassNumber": [str(k) for k in number],
        "csClass": [[NOT_CLASSIFIED, *names][k] for k in number],
        "csConfidence": decimals(p.max(1)),
    }
    table |= {PROBABILITY + name: decimals(column) for name, column in zip(names, p.T, strict=True)}
    if unknown is not None:
        table["csNoneOfThese"] = [str(int(value)) for value in is_unknown]
    if agreement is not None:
        agree = np.zeros(len(target))
        agree[kept] = agreement.double().cpu().numpy()
        table["csAgreement"] = decimals(agree)
    for column, cells in (more or {}).items():
        given = dict(zip(kept.tolist(), cells, strict=True))
        table[column] = [given.get(row, "0") for row in range(len(target))]

    rows_of = {folder / "predictions.star": np.arange(len(target))}
    if least_confidence is not None:
        pure = np.flatnonzero((p.max(1) >= least_confidence) & ~is_unknown)
        rows_of[folder / "predictions_purity.star"] = pure[np.isin(pure, kept)]
    parts = {name: (number == k) & ~is_unknown for k, name in enumerate(names, 1)} | {UNKNOWN_CLASS: is_unknown}
    rows_of |= {folder / "classes" / f"{name}.star": np.flatnonzero(rows) for name, rows in parts.items() if rows.any()}
    single = all(len(values) == 1 for values in particles.rest.get("general", {}).values())
    lists = {"general"} & particles.rest.keys() if single else ()
    (folder / "classes").mkdir(parents=True, exist_ok=True)
    for path, rows in rows_of.items():
        part = {column: [values[row] for row in rows] for column, values in table.items()}
        star.write_star(path, particles.rest | {particles.block: part}, lists)
    whole, block, rest = _with_optics(table, target)
    if rest != particles.rest:
        star.write_star(folder / FOR_RELION, rest | {block: whole}, lists)
    else:
        (folder / FOR_RELION).unlink(missing_ok=True)
    for path in set((folder / "classes").glob("*.star")) - set(rows_of):
        if "\n_csConfidence " in path.read_text(errors="replace"):
            path.unlink()
    if particles.kind == "dynamo":
        columns = list(particles.table.values())
        columns += [["0"] * len(number)] * (DYNAMO_CLASS - len(columns))  # a table may have fewer than 22 columns
        columns[DYNAMO_CLASS - 1] = [str(k) for k in number]
        tbl = folder / "predictions.tbl"
        runtime.write_text(tbl, "".join(" ".join(row) + "\n" for row in zip(*columns, strict=True)))
        return [*rows_of, tbl]
    return list(rows_of)


def _with_optics(
    table: dict[str, list[str]], target: TargetData
) -> tuple[dict[str, list[str]], str, dict[str, dict[str, list[str]]]]:
    """The table of the particles, its name, and the other tables, with all of data_optics that RELION 3.1 asks for.

    What the input has stays. Without optics, each tomogram is a group, and the particles' table is called "particles",
    as RELION expects beside optics. Voltage and spherical aberration that are not given are those of the simulations.
    """
    particles, model = target.particles, target.subtomograms
    rest, block = dict(particles.rest), particles.block
    part = np.zeros(len(target), int)
    part[target.kept] = model.groups.numpy() if target.parts else 0
    sizes = [one.tomogram.voxel_size for one in target.parts if one.tomogram is not None]
    if not sizes:
        own = particles.voxel_size or model.voxel_size
        sizes = [target.tomogram.voxel_size if target.tomogram is not None else own]
    column = "rlnMicrographPixelSize" if target.tomograms else "rlnImagePixelSize"
    made = star.optics_table(sizes, Optics.voltage, Optics.cs, column)
    if "optics" not in rest:
        if particles.subtomograms is not None:
            made |= {"rlnImageSize": [str(particles.subtomograms.shape[-1])], "rlnImageDimensionality": ["3"]}
        given = {"rlnOpticsGroup": [str(k + 1) for k in part]}
        return table | given, "particles" if block in ("", "images") else block, {"optics": made} | rest
    given = dict(rest["optics"])
    n = len(next(iter(given.values()), ()))
    missing = {name: [values[0]] * n for name, values in made.items() if name not in given}
    missing.pop("rlnOpticsGroup", None)
    if any(name in given for name in PIXEL_SIZES):
        missing.pop(column, None)
    if "rlnOpticsGroupName" in missing:
        missing["rlnOpticsGroupName"] = [f"opticsGroup{k}" for k in range(1, n + 1)]
    return table, block, rest | {"optics": given | missing}


def decimals(values: np.ndarray) -> list[str]:
    return [f"{value:.4f}" for value in values]


def predicted_fractions(probabilities: Tensor) -> list[float]:
    """Fraction of the subtomograms that is predicted as each class, (K,), from probabilities (N, K)."""
    counts = torch.bincount(probabilities.argmax(1), minlength=probabilities.shape[1])
    return counts.div(len(probabilities)).tolist()


def by_class(probabilities: Tensor, classes: Sequence[str], unknown: Tensor | None) -> dict[str, Tensor]:
    """Class -> indices of its subtomograms, the most confident first; the unknown class is left out.

    Parameters
    ----------
    probabilities : (M, K)
    unknown : (M,) bool, or None
    """
    best = probabilities.max(1)
    known = torch.ones_like(best.indices, dtype=torch.bool) if unknown is None else ~unknown
    order = best.values.argsort(descending=True)
    return {name: order[((best.indices == k) & known)[order]] for k, name in enumerate(classes)}


def class_average(subtomograms: Tensor, angles: np.ndarray) -> Tensor:
    """Mean (1, n, n, n) of subtomograms rotated into the frame of the reference, without missing-wedge correction.

    RELION's matrix A of rot, tilt and psi maps a point of the reference to its place in the particle (src/euler.cpp,
    and getMatrix4x4 in src/jaz/tomography/particle_set.cpp), so the average at r is the mean of the particles at A r.
    Points outside a subtomogram count as 0, which makes the corners of the average fade.

    Parameters
    ----------
    subtomograms : (N, 1, n, n, n)
    angles : (N, 3) rot, tilt, psi in degrees

    Raises
    ------
    InputError
        no subtomograms, or not one set of angles for each
    """
    if len(angles) != len(subtomograms) or not len(subtomograms):
        found = f"{len(angles)} sets of angles for {len(subtomograms)} subtomograms"
        raise InputError(f"Expected one set of angles for each subtomogram and at least one, got {found}.")
    device, n = subtomograms.device, subtomograms.shape[-1]
    matrix = torch.from_numpy(rotation_from_relion(angles).as_matrix()).float().to(device)
    line = (torch.arange(n, device=device) - n // 2).float()
    z, y, x = torch.meshgrid(line, line, line, indexing="ij")
    points = torch.stack([x, y, z], -1)
    total = torch.zeros(1, n, n, n, device=device)
    for part, rotation in zip(subtomograms.split(32), matrix.split(32), strict=True):
        at = torch.einsum("bij,zyxj->bzyxi", rotation, points)
        total += F.grid_sample(part, 2 * (at + n // 2) / (n - 1) - 1, align_corners=True).sum(0)
    return total / len(subtomograms)
