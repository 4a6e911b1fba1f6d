"""Picking: candidates where no positions were given, and the picks of each class as files of other programs."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
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
    zyx : (N, 3) voxels of their tomogram, counted from 0 at the first voxel's centre
    confidence : (N,) calibrated probability of the class, times the estimated fraction of particles among candidates
        of that density
    part : (N,) number of the tomogram of each; None for one tomogram
    """

    zyx: np.ndarray
    confidence: np.ndarray
    part: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.zyx)

    @property
    def expected_purity(self) -> float:
        """Mean confidence: the expected fraction of true picks, as far as calibration and estimate hold."""
        return float(self.confidence.mean()) if len(self) else float("nan")

    def of(self, part: int) -> Picks:
        """Those in one of several tomograms; all where there is one."""
        mine = np.full(len(self), True) if self.part is None else self.part == part
        return Picks(self.zyx[mine], self.confidence[mine])


def candidates(
    volume: Volume,
    classes: Mapping[str, float],
    *,
    box: int = 0,
    grid: tuple[int, float] | None = None,
    contrast: str = "auto",
    guess: ContrastGuess | None = None,
    n: int,
    total: int = 0,
) -> TargetData:
    """Subtomograms around the candidate positions of a tomogram, for a classifier of `classes`.

    Boxes that reach over the border are padded.

    Parameters
    ----------
    classes : name or file -> diameter in A, 0 for procedural classes
    box, grid, contrast, guess, total : as in :func:`target_data.from_tomogram`
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
    table = star_columns(found.zyx, [volume], np.zeros(len(found), int))
    table |= {"csCandidateScore": [f"{value:.3f}" for value in found.score]}
    particles = Particles(table, found.zyx, kind="star", rest=optics([volume]))
    return target_data.from_tomogram(
        volume, particles, list(classes), box=box, grid=grid, contrast=sign, guess=guess, candidates=found, total=total
    )


def at_purity(
    target: TargetData, predictions: Predictions, purity: float, *, n: int = 0, sized: Sequence[str] | None = None
) -> dict[str, Picks]:
    """Class -> its picks: the most confident ones, as many as keep the expected purity at `purity`, or `n` of them.

    The network sees normalised boxes, in which a maximum of the noise looks stronger than it is. The confidence of a
    pick is therefore the product of its calibrated probability and of the fraction of particles among candidates of its
    density. A candidate can be listed for the one class with a diameter that it belongs to most probably, also where
    the background or a class without a diameter, such as a membrane, is more probable: its confidence is low then.

    Not listed are candidates of the unknown class (where most are marked as unknown the mark is not used, because it
    tells nothing of single ones then), and those whose box reaches over the border of the tomogram along y or x: it
    was padded, and the network was not trained on such boxes.

    Parameters
    ----------
    predictions : of the subtomograms of `target`
    purity : least mean confidence of the picks of each class, 0 to 1
    n : number of picks of each class at most, whatever their purity; 0: `purity` decides
    sized : classes with a diameter, which candidates are searched at; None: all but the background
    """
    assert target.candidates is not None
    at, real = target.candidates.zyx[target.kept], target.candidates.real[target.kept]
    names = [name for name in predictions.classes if name != BACKGROUND and (sized is None or name in sized)]
    columns = [predictions.classes.index(name) for name in names]
    each = predictions.probabilities[:, columns].double().numpy() * real[:, None]
    usable = target.whole
    if predictions.unknown is not None and not unspecific(predictions.unknown):
        usable &= ~predictions.unknown.numpy()
    part = target.subtomograms.groups.numpy() if target.parts else None
    out = {}
    for k, name in enumerate(names):
        rows = np.flatnonzero(usable & (each.argmax(1) == k))
        p = each[rows, k]
        order = np.argsort(-p, kind="stable")
        rows, p = rows[order], p[order]
        # The mean only falls along the list.
        listed = n or int((np.cumsum(p) / np.arange(1, len(p) + 1) >= purity).sum())
        rows, p = rows[:listed], p[:listed]
        out[name] = Picks(at[rows], p, None if part is None else part[rows])
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


def write(folder: Path, volumes: Sequence[Volume], picks: Mapping[str, Picks]) -> list[Path]:
    """Paths of the files written: picks.star, picks.tbl, Picks/cryoshift_0_<class>.json and picks.png.

    picks.star has the picks of all classes with `_csClass` and `_csConfidence`; positions are voxels of the tomogram
    counted from 0, and A from its centre (RELION 5). picks.tbl is a Dynamo table: voxels counted from 1 in columns 24
    to 26, the class number in column 22, the confidence in column 10, the number of the tomogram in column 20. The
    folder Picks has a copick file per class: A from the first voxel. A class without picks has no copick file.
    picks.png is a map of the picks' density.

    Of several tomograms, both lists hold the picks of all. picks.doc has the number and the file of each tomogram, as
    Dynamo needs them; the copick files are in <tomogram>/Picks, and the maps are picks_<tomogram>.png.
    """
    names = dict(zip(picks, safe_names(list(picks)), strict=True))
    several = len(volumes) > 1
    rows = [(number, one.of(k), k) for number, one in enumerate(picks.values(), 1) for k in range(len(volumes))]
    number = np.repeat([number for number, _, _ in rows], [len(found) for _, found, _ in rows])
    part = np.repeat([k for _, _, k in rows], [len(found) for _, found, _ in rows])
    zyx = np.concatenate([found.zyx for _, found, _ in rows])
    p = np.concatenate([found.confidence for _, found, _ in rows])
    if several:  # the most confident of a class first, whatever their tomogram
        order = np.lexsort((-p, number))
        number, part, zyx, p = number[order], part[order], zyx[order], p[order]
    paths = [folder / "picks.star", folder / "picks.tbl"]
    table = star_columns(zyx, volumes, part)
    table |= {
        "rlnClassNumber": [str(k) for k in number],
        "csClass": [list(names.values())[k - 1] for k in number],
        "csConfidence": [f"{value:.4f}" for value in p],
    }
    star.write_star(paths[0], optics(volumes) | {"particles": table})
    runtime.write_text(paths[1], _dynamo(zyx, number, p, part + 1))
    stems = safe_names([Path(volume.path).stem for volume in volumes])
    if several:
        lines = [f"{k} {Path(volume.path).resolve()}\n" for k, volume in enumerate(volumes, 1)]
        paths.append(runtime.write_text(folder / "picks.doc", "".join(lines)))
    for k, (stem, volume) in enumerate(zip(stems, volumes, strict=True)):
        mine = {name: found.of(k) for name, found in picks.items()}
        place = folder / stem if several else folder
        for name, found in mine.items():
            if len(found):
                path = place / "Picks" / f"cryoshift_0_{names[name].replace('_', '-')}.json"
                path.parent.mkdir(exist_ok=True, parents=True)
                paths.append(runtime.write_text(path, _copick(names[name].replace("_", "-"), found, volume)))
        path = folder / (f"picks_{stem}.png" if several else "picks.png")
        with plt.rc_context():
            pictures.use_style()
            figure = pictures.pick_density(
                volume.data, {name: found.zyx for name, found in mine.items()}, volume.voxel_size
            )
            with runtime.atomic(path) as partial:
                figure.savefig(partial, format="png", dpi=130)
            plt.close(figure)
        paths.append(path)
    return paths


def optics(volumes: Sequence[Volume]) -> dict[str, dict[str, list[str]]]:
    """Table data_optics, with a group for each tomogram.

    A tomogram does not tell voltage and spherical aberration, so they are those that the simulations assume.
    """
    sizes = [volume.voxel_size for volume in volumes]
    return {"optics": star.optics_table(sizes, Optics.voltage, Optics.cs)}


def star_columns(zyx: np.ndarray, volumes: Sequence[Volume], part: np.ndarray) -> dict[str, list[str]]:
    """Columns of positions (N, 3): voxels counted from 0, and A from the centre, which is half the size (RELION 5).

    Parameters
    ----------
    part : (N,) number of the tomogram of each position
    """
    half = np.array([np.array(volume.data.shape) / 2 for volume in volumes])[part]
    centred = (zyx - half) * np.array([volume.voxel_size for volume in volumes])[part][:, None]
    columns = {"rlnTomoName": [Path(volumes[k].path).stem for k in part]}
    columns |= {f"rlnCoordinate{axis}": [f"{v:.3f}" for v in zyx[:, 2 - i]] for i, axis in enumerate("XYZ")}
    columns |= {
        f"rlnCenteredCoordinate{axis}Angst": [f"{v:.4f}" for v in centred[:, 2 - i]] for i, axis in enumerate("XYZ")
    }
    return columns | {"rlnOpticsGroup": [str(k + 1) for k in part]}


def _dynamo(zyx: np.ndarray, number: np.ndarray, confidence: np.ndarray, tomogram: np.ndarray) -> str:
    """Text of a Dynamo table (Dynamo's wiki, "Table convention"): tag, cc, tomogram, class and position."""
    table = np.zeros((len(zyx), DYNAMO_COLUMNS))
    table[:, 0] = np.arange(1, len(zyx) + 1)
    table[:, [1, 2]] = 1  # to be aligned and averaged
    table[:, 9], table[:, 19], table[:, 21] = confidence, tomogram, number
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
