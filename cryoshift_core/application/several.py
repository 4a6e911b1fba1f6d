"""Several tomograms, with one list of positions or without, as one target with a part for each tomogram."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from data_fetch import readers
from data_fetch.readers import positions, stacks, star

from ..data import Unlabelled
from ..errors import InputError, InputWarning
from ..simulation import structures
from ..support.streamed import StreamedBoxes
from ..tomography import volumes
from ..tomography.picking import Candidates
from ..tomography.volumes import Particles, Volume
from . import picks, pipeline, reuse, target_data
from .target_data import Background, TargetData


def files(tomogram: str | Path | Sequence[str | Path]) -> list[str]:
    """Paths of tomograms: of a file, of the files in a folder, or of several, as a sequence or a text with commas."""
    if not isinstance(tomogram, str | Path):
        return [str(path) for path in tomogram]
    path = Path(tomogram).expanduser()
    if not tomogram:
        return []
    if path.is_file() or path.is_dir() and stacks.ending(path) in readers.TOMOGRAMS:  # a Zarr is a folder
        return [str(tomogram)]
    if path.is_dir():
        found = sorted(str(file) for file in path.iterdir() if stacks.ending(file) in readers.TOMOGRAMS)
        if not found:
            raise InputError(
                f"{path} holds no tomogram; expected files whose names end in {', '.join(readers.TOMOGRAMS)}: give "
                "their folder."
            )
        return found
    return [part.strip() for part in str(tomogram).split(",") if part.strip()]


def read(
    tomograms: Sequence[str],
    coordinates: str | Path,
    classes: Sequence[str],
    *,
    voxel_size: float = 0.0,
    contrast: str = "auto",
    box: int = 0,
    candidates: int = 2000,
    model: reuse.Saved | None = None,
) -> TargetData:
    """Subtomograms of several tomograms as one target; `parts` has one for each tomogram.

    With coordinates, they are cut around the rows of a STAR from the tomogram that each names; tomograms without a row
    are left out, and so are rows of other tomograms. Without, around the candidates of each tomogram; tomograms in
    which nothing stands out from the noise are left out. A warning says so.

    All have the box and voxel size of the coarsest tomogram, or of the model. Without a given contrast, all have the
    one that most of them show, or that the model was adapted to.

    Parameters
    ----------
    classes : names or files; those of the model where there is one
    candidates : largest number of candidates in a tomogram
    model : a saved model, or None

    Raises
    ------
    InputError
        not a STAR that names at least two tomograms, no rows for any, no particles in any, or what `readers.read_picks`
        and `reuse.Saved` raise
    """
    given, rows, lost = _given(tomograms, coordinates, voxel_size)
    guesses = [volumes.guess_contrast(volume.data) for volume, _ in given]
    sure = [guess.sign for guess in guesses if guess.sign != "unsure"]
    sign = contrast if contrast != "auto" or not sure else max(sorted(set(sure)), key=sure.count)
    names = model.classes if model else tuple(classes)
    grid = model.grid if model else target_data.choose_box(names, max(volume.voxel_size for volume, _ in given), box)
    total = len(rows) if coordinates else candidates * len(given)
    diameters: Mapping[str, float] = {}
    if not coordinates:
        diameters = model.diameters(given[0][0].path) if model else {name: structures.diameter(name) for name in names}
    parts, problem = [], None
    for (volume, particles), guess in zip(given, guesses, strict=True):
        about: dict[str, Any] = {"grid": grid, "guess": guess, "total": total}
        about["contrast"] = model.contrast(contrast, guess, volume.path) if model else sign
        if model:
            model.check_voxel_size(volume.voxel_size, volume.path)
        if particles is not None:
            parts.append(target_data.from_tomogram(volume, particles, names, **about))
            continue
        try:
            parts.append(picks.candidates(volume, diameters, n=candidates, **about))
        except InputError as found:
            problem = found
            lost.append(f"{Path(volume.path).name} is left out: {found}")
    if not parts:
        raise InputError(f"Expected particles in one of {len(given)} tomograms at least. The last one: {problem}")
    if not coordinates:
        rows = np.arange(1, sum(map(len, parts)) + 1)
    name = Path(coordinates).stem if coordinates else "tomograms"
    return _joined(parts, rows, name, lost)


def _given(
    tomograms: Sequence[str], coordinates: str | Path, voxel_size: float
) -> tuple[list[tuple[Volume, Particles | None]], np.ndarray, list[str]]:
    """Each tomogram with its rows of the list, the numbers of all rows in their file, and what is left out."""
    if not coordinates:
        return [(readers.read_tomogram(path, voxel_size or None), None) for path in tomograms], np.zeros(0, int), []
    names = star.tomogram_names(coordinates) if str(coordinates).endswith(".star") else []
    if len({positions.name_of(name) for name in names}) < 2:
        raise InputError(
            f"{coordinates}: expected a STAR with _rlnTomoName or _rlnMicrographName of at least two tomograms for "
            f"{len(tomograms)} of them, got {len(set(names))}: give one tomogram."
        )
    given: list[tuple[Volume, Particles | None]] = []
    rows, without = [], []
    for path in tomograms:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", InputWarning)  # they are in what is returned, and said once by the job
            volume = readers.read_tomogram(path, voxel_size or None)
            particles = (
                readers.read_picks(coordinates, volume) if positions.has_rows(coordinates, names, volume) else None
            )
        if particles is not None:
            given.append((volume, particles))
            rows.append(np.arange(1, len(particles) + 1) if particles.rows is None else particles.rows)
        else:
            without.append(Path(path).name)
    if not given:
        raise InputError(
            f"{coordinates} names none of {', '.join(without[:3])}; expected _rlnTomoName as the tomograms' files: "
            "rename them."
        )
    numbers = np.concatenate(rows)
    lost = [f"{name} has no row in {Path(coordinates).name} and is left out." for name in without]
    if len(numbers) < len(names):
        n = len(names) - len(numbers)
        lost.append(f"left out: {n} of {len(names)} rows of {Path(coordinates).name}, which name other tomograms.")
    return given, numbers, lost


def _joined(parts: Sequence[TargetData], rows: np.ndarray, name: str, lost: Sequence[str]) -> TargetData:
    """One target of several, in the order of the rows of their file."""
    order = np.argsort(rows, kind="stable")
    place = np.argsort(order)  # of each row of the parts in the joined table
    starts = np.cumsum([0, *(len(part) for part in parts)])
    each = [part.particles for part in parts]
    table = {column: [v for one in each for v in one.table[column]] for column in each[0].table}
    table = {column: [values[i] for i in order] for column, values in table.items()}
    angles = None
    if all(one.angles is not None for one in each):
        angles = np.concatenate([one.angles for one in each if one.angles is not None])[order]
    bad = {int(place[start + i]): why for start, one in zip(starts, each, strict=False) for i, why in one.bad.items()}
    found = [part.candidates for part in parts if part.candidates is not None]
    rest = each[0].rest
    if found:  # the table of each has one optics group
        table["rlnOpticsGroup"] = [str(k + 1) for k, part in enumerate(parts) for _ in range(len(part))]
        rest = picks.optics([part.tomogram for part in parts if part.tomogram is not None])
    particles = replace(
        each[0],
        table=table,
        zyx=None,
        angles=angles,
        groups=None,
        rows=rows[order],
        bad=bad,
        rest=rest,
        warnings=tuple(lost),
    )
    kept = np.concatenate([place[start + part.kept] for start, part in zip(starts, parts, strict=False)])
    sequence = np.argsort(kept, kind="stable")
    number = np.concatenate([np.full(len(part.kept), k) for k, part in enumerate(parts)])[sequence]
    model = parts[0].subtomograms
    x = _boxes([part.subtomograms.x for part in parts], torch.from_numpy(sequence))
    subtomograms = Unlabelled(x, model.voxel_size, torch.from_numpy(number), name)
    whole = TargetData(subtomograms, kept[sequence], particles, parts[0].contrast, parts[0].guess, parts=tuple(parts))
    return replace(whole, candidates=_all(found)) if found else whole


def _all(each: Sequence[Candidates]) -> Candidates:
    """The candidates of several tomograms, in the voxels of each, one tomogram after the other."""
    arrays = ("zyx", "score", "real", "diameter", "weak")
    joined = {name: np.concatenate([getattr(one, name) for one in each]) for name in arrays}
    return Candidates(**joined, stands_out=any(one.stands_out for one in each))


def _boxes(each: Sequence[Tensor], sequence: Tensor) -> Tensor:
    """The boxes (N, 1, b, b, b) of all parts in this order, cut when they are used where those of a part are."""
    if not any(isinstance(x, StreamedBoxes) for x in each):
        return torch.cat(list(each))[sequence]
    starts = torch.tensor([0, *np.cumsum([len(x) for x in each])])

    def cut(rows: Tensor) -> Tensor:
        at = sequence[rows]
        out = torch.empty(len(at), *each[0].shape[1:])
        for start, x in zip(starts.tolist(), each, strict=False):
            mine = (at >= start) & (at < start + len(x))
            if mine.any():
                out[mine] = x[at[mine] - start]
        return out

    key = " ".join(x.key for x in each if isinstance(x, StreamedBoxes))
    return StreamedBoxes(cut, len(sequence), each[0].shape[-1], key)


def numbers(target: TargetData, held_out: str) -> tuple[int, ...]:
    """Numbers of the parts of a target whose names are in a text with commas; () for "".

    Raises
    ------
    InputError
        a name that is no tomogram of the target, or all of them
    """
    wanted = [positions.name_of(name.strip()) for name in held_out.split(",")] if held_out else []
    names = [part.subtomograms.name for part in target.parts]
    for name in wanted:
        if name not in names:
            listed = ", ".join(names) or "several tomograms"
            raise InputError(f"held_out_tomograms: expected some of {listed}, got '{name}': correct it.")
    if wanted and set(names) <= set(wanted):
        raise InputError(f"Expected a tomogram to adapt to, got all of {', '.join(names)} in held_out_tomograms.")
    return tuple(names.index(name) for name in wanted)


def background(target: TargetData, n: int, seed: int, held_out: Sequence[int]) -> Background:
    """Particle-free boxes of all parts; those of held-out ones are not trained with.

    Raises
    ------
    InputError
        no part has enough of them
    """
    spikes, train, of = [], [], []
    problem = None
    for k, part in enumerate(target.parts):
        try:
            boxes = pipeline.background_boxes(part, n=math.ceil(n / len(target.parts)), seed=seed)
        except InputError as error:
            problem = error
            continue
        spikes.append(boxes.spike_ins)
        of.append(np.full(len(boxes.spike_ins), k))
        if boxes.train is not None and k not in held_out:
            train.append(boxes.train)
    if not spikes:
        raise InputError(f"No tomogram has enough particle-free boxes. The last one: {problem}")
    return Background(torch.cat(spikes), torch.cat(train) if train else None, np.concatenate(of))
