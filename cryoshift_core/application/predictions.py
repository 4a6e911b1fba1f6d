"""What goes back to the one who asked: tables in the format that came in, shares of the classes, class averages."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from .. import runtime
from ..errors import InputError
from ..tomography import star
from ..tomography.volumes import rotation_from_relion
from .target_data import TargetData

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


def check_probabilities(probabilities: Tensor, classes: Sequence[str], n: int) -> None:
    if probabilities.shape != (n, len(classes)) or not n:
        raise InputError(
            f"{tuple(probabilities.shape)} probabilities for {n} cubes and {len(classes)} classes; wanted a row per "
            "cube and a column per class: give those that predict returned for these cubes."
        )
    if not torch.isfinite(probabilities).all():
        raise InputError("Some probabilities are not finite; wanted those of a model that was trained: fit it again.")


def write(
    folder: str | Path,
    experiment: TargetData,
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
    check_probabilities(probabilities, classes, len(kept))
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
        star.write_star(path, particles.rest | {particles.block: part}, lists)
    for path in set((folder / "classes").glob("*.star")) - set(wanted):
        if "\n_csConfidence " in path.read_text(errors="replace"):
            path.unlink()
    if particles.kind == "dynamo":
        columns = list(particles.table.values())
        columns += [["0"] * len(number)] * (DYNAMO_CLASS - len(columns))  # of a shorter table
        columns[DYNAMO_CLASS - 1] = [str(k) for k in number]
        tbl = folder / "predictions.tbl"
        runtime.write_text(tbl, "".join(" ".join(row) + "\n" for row in zip(*columns, strict=True)))
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
