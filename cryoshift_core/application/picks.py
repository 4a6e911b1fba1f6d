"""Picking: candidates where no positions were given, and the picks of each class as files of other programs."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np

from ..errors import InputError
from ..simulation import structures
from ..simulation.optics import Optics
from ..support import runtime
from ..tomography import picking, star, volumes
from ..tomography.volumes import ContrastGuess, Particles, Volume
from . import pictures, target_data
from .classifier import Predictions
from .predictions import safe_names, unspecific
from .target_data import TargetData
from .verdict import BACKGROUND

DYNAMO_COLUMNS = 35  # of a Dynamo table


@dataclass(frozen=True, eq=False)
class Picks:
    """Candidates that are listed as particles of one class, the most confident first.

    Attributes
    ----------
    zyx : (N, 3) voxels of the tomogram, counted from 0 at the first voxel's centre
    confidence : (N,) calibrated probability of the class, times the estimated fraction of particles among candidates
        of that density
    """

    zyx: np.ndarray
    confidence: np.ndarray

    def __len__(self) -> int:
        return len(self.zyx)

    @property
    def expected_purity(self) -> float:
        """Mean confidence: the expected fraction of true picks, as far as calibration and estimate hold."""
        return float(self.confidence.mean()) if len(self) else float("nan")


def candidates(
    volume: Volume,
    classes: Mapping[str, float],
    *,
    box: int = 0,
    grid: tuple[int, float] | None = None,
    contrast: str = "auto",
    guess: ContrastGuess | None = None,
    n: int,
) -> TargetData:
    """Subtomograms around the candidate positions of a tomogram, for a classifier of `classes`.

    Boxes that reach over the border are padded.

    Parameters
    ----------
    classes : name or file -> diameter in A, 0 for procedural classes
    box, grid, contrast, guess : as in :func:`target_data.from_tomogram`
    n : largest number of candidates

    Raises
    ------
    InputError
        no class has a diameter, or nothing of the size of a class stands out from the noise
    """
    guess = guess or volumes.guess_contrast(volume.data)
    sign = target_data.choose_contrast(contrast, guess)
    sized = {structures.class_name(name): d for name, d in classes.items() if d}
    if not sized:
        raise InputError(
            f"Expected a class with a diameter to pick for, got {', '.join(classes)}: name a molecule, or give "
            "coordinates."
        )
    found = picking.find_candidates(volume.data, volume.voxel_size, list(sized.values()), contrast=sign, n=n)
    if not found.stands_out:
        largest = ", ".join(f"{name} ({d:.0f} A)" for name, d in sized.items())
        raise InputError(
            f"{volume.path}: expected particles to pick, got no density of the size of {largest} that stands out from "
            f"the noise with protein {sign}; set contrast to {'bright' if sign == 'dark' else 'dark'} if protein is, "
            "or give coordinates."
        )
    table = _star_columns(found.zyx, volume) | {"csCandidateScore": [f"{value:.3f}" for value in found.score]}
    particles = Particles(table, found.zyx, kind="star", rest=_optics(volume))
    return target_data.from_tomogram(
        volume, particles, list(classes), box=box, grid=grid, contrast=sign, guess=guess, candidates=found
    )


def at_purity(target: TargetData, predictions: Predictions, purity: float) -> dict[str, Picks]:
    """Class -> its picks: the most confident ones, as many as keep the expected purity at `purity`.

    The network sees normalised boxes, in which a maximum of the noise looks stronger than it is. The confidence of a
    pick is therefore the product of its calibrated probability and of the fraction of particles among candidates of its
    density.

    The class of the background and the unknown class have none. Where most subtomograms are marked as unknown, the
    mark is not used, because it tells nothing of single ones then.

    Parameters
    ----------
    predictions : of the subtomograms of `target`
    purity : least mean confidence of the picks of each class, 0 to 1
    """
    assert target.candidates is not None
    at, real = target.candidates.zyx[target.kept], target.candidates.real[target.kept]
    best = predictions.probabilities.argmax(1).numpy()
    usable = np.ones(len(best), bool)
    if predictions.unknown is not None and not unspecific(predictions.unknown):
        usable = ~predictions.unknown.numpy()
    out = {}
    for k, name in enumerate(predictions.classes):
        if name == BACKGROUND:
            continue
        rows = np.flatnonzero(usable & (best == k))
        p = predictions.probabilities[:, k].double().numpy()[rows] * real[rows]
        order = np.argsort(-p, kind="stable")
        rows, p = rows[order], p[order]
        listed = int((np.cumsum(p) / np.arange(1, len(p) + 1) >= purity).sum())  # the mean only falls along the list
        out[name] = Picks(at[rows[:listed]], p[:listed])
    return out


def summary(picks: Mapping[str, Picks]) -> str:
    """One sentence: the number of picks of each class and their expected purity."""
    each = [
        f"{name} {len(found)}" + (f" ({found.expected_purity:.2f})" if len(found) else "")
        for name, found in picks.items()
    ]
    return (
        f"Picks of each class (expected purity): {', '.join(each)}. The purity is an expectation by the model's own "
        "calibration and by the density, not a measurement."
    )


def write(folder: Path, volume: Volume, picks: Mapping[str, Picks]) -> list[Path]:
    """Paths of the files written: picks.star, picks.tbl, Picks/cryoshift_0_<class>.json and picks.png.

    picks.star has the picks of all classes with `_csClass` and `_csConfidence`; positions are voxels of the tomogram
    counted from 0, and A from its centre (RELION 5). picks.tbl is a Dynamo table: voxels counted from 1 in columns 24
    to 26, the class number in column 22, the confidence in column 10. The folder Picks has a copick file per class: A
    from the first voxel. A class without picks has no copick file. picks.png is a map of the picks' density.
    """
    names = dict(zip(picks, safe_names(list(picks)), strict=True))
    zyx = np.concatenate([found.zyx for found in picks.values()])
    p = np.concatenate([found.confidence for found in picks.values()])
    number = np.repeat(np.arange(1, len(picks) + 1), [len(found) for found in picks.values()])
    paths = [folder / "picks.star", folder / "picks.tbl"]
    table = _star_columns(zyx, volume)
    table |= {
        "rlnClassNumber": [str(k) for k in number],
        "csClass": [list(names.values())[k - 1] for k in number],
        "csConfidence": [f"{value:.4f}" for value in p],
    }
    star.write_star(paths[0], _optics(volume) | {"particles": table})
    runtime.write_text(paths[1], _dynamo(zyx, number, p))
    for name, found in picks.items():
        if len(found):
            path = folder / "Picks" / f"cryoshift_0_{names[name].replace('_', '-')}.json"
            path.parent.mkdir(exist_ok=True)
            paths.append(runtime.write_text(path, _copick(names[name].replace("_", "-"), found, volume)))
    with plt.rc_context():
        pictures.use_style()
        figure = pictures.pick_density(
            volume.data, {name: found.zyx for name, found in picks.items()}, volume.voxel_size
        )
        with runtime.atomic(folder / "picks.png") as partial:
            figure.savefig(partial, format="png", dpi=130)
        plt.close(figure)
    return [*paths, folder / "picks.png"]


def _optics(volume: Volume) -> dict[str, dict[str, list[str]]]:
    """Table data_optics. Positions need none, but the programs of RELION 3.1 write an empty file without these columns.

    A tomogram does not tell voltage and spherical aberration, so they are those that the simulations assume.
    """
    group = {
        "rlnOpticsGroup": "1",
        "rlnOpticsGroupName": "opticsGroup1",
        "rlnMicrographPixelSize": f"{volume.voxel_size:.6f}",
        "rlnVoltage": f"{Optics.voltage:.1f}",
        "rlnSphericalAberration": f"{Optics.cs:.1f}",
    }
    return {"optics": {name: [value] for name, value in group.items()}}


def _star_columns(zyx: np.ndarray, volume: Volume) -> dict[str, list[str]]:
    """Columns of positions (N, 3): voxels counted from 0, and A from the centre, which is half the size (RELION 5)."""
    columns = {"rlnTomoName": [Path(volume.path).stem] * len(zyx)}
    centred = (zyx - np.array(volume.data.shape) / 2) * volume.voxel_size
    columns |= {f"rlnCoordinate{axis}": [f"{v:.3f}" for v in zyx[:, 2 - i]] for i, axis in enumerate("XYZ")}
    columns |= {
        f"rlnCenteredCoordinate{axis}Angst": [f"{v:.4f}" for v in centred[:, 2 - i]] for i, axis in enumerate("XYZ")
    }
    return columns | {"rlnOpticsGroup": ["1"] * len(zyx)}


def _dynamo(zyx: np.ndarray, number: np.ndarray, confidence: np.ndarray) -> str:
    """Text of a Dynamo table (Dynamo's wiki, "Table convention"): tag, cc, tomogram 1, class and position."""
    table = np.zeros((len(zyx), DYNAMO_COLUMNS))
    table[:, 0] = np.arange(1, len(zyx) + 1)
    table[:, [1, 2, 19]] = 1  # to be aligned and averaged; the number of the tomogram
    table[:, 9], table[:, 21] = confidence, number
    table[:, 23:26] = zyx[:, ::-1] + 1
    return "".join(" ".join(f"{value:.4f}".rstrip("0").rstrip(".") for value in row) + "\n" for row in table)


def _copick(name: str, picks: Picks, volume: Volume) -> str:
    """JSON text of one copick picks file (copick's docs, "Data model"): locations in A, confidence as score."""
    identity = [[float(i == j) for j in range(4)] for i in range(4)]
    points = [
        {
            "location": {axis: round(float(v) * volume.voxel_size, 4) for axis, v in zip("zyx", at, strict=True)},
            "transformation_": identity,
            "instance_id": 0,
            "score": round(float(p), 4),
        }
        for at, p in zip(picks.zyx, picks.confidence, strict=True)
    ]
    about: dict[str, Any] = {
        "pickable_object_name": name,
        "user_id": "cryoshift",
        "session_id": "0",
        "run_name": Path(volume.path).stem,
        "voxel_spacing": volume.voxel_size,
        "unit": "angstrom",
        "trust_orientation": False,
        "points": points,
    }
    return json.dumps(about, indent=1) + "\n"
