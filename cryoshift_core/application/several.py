"""Several tomograms with one list of positions, as one target with a part for each tomogram."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from data_fetch import readers
from data_fetch.readers import positions, stacks, star

from ..data import Unlabelled
from ..errors import InputError
from ..support.streamed import StreamedBoxes
from ..tomography import volumes
from ..tomography.volumes import Particles, Volume
from . import pipeline, target_data
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
) -> TargetData:
    """The rows of a STAR as subtomograms, cut from the tomogram that each names; `parts` has one for each tomogram.

    All have the box and voxel size of the coarsest tomogram. Without a given contrast, all have the one that most of
    them show. Tomograms without a row are left out, and so are rows of other tomograms; a warning says so.

    Raises
    ------
    InputError
        not a STAR that names at least two tomograms, no rows for any, or what `readers.read_picks` raises
    """
    names = star.tomogram_names(coordinates) if str(coordinates).endswith(".star") else []
    if len({positions.name_of(name) for name in names}) < 2:
        raise InputError(
            f"{coordinates or 'coordinates'}: expected a STAR with _rlnTomoName or _rlnMicrographName of at least two "
            f"tomograms for {len(tomograms)} of them, got {len(set(names))}: give one tomogram."
        )
    given: list[tuple[Volume, Particles]] = []
    without = []
    for path in tomograms:
        volume = readers.read_tomogram(path, voxel_size or None)
        if positions.has_rows(coordinates, names, volume):
            given.append((volume, readers.read_picks(coordinates, volume)))
        else:
            without.append(Path(path).name)
    if not given:
        raise InputError(
            f"{coordinates} names none of {', '.join(without[:3])}; expected _rlnTomoName as the tomograms' files: "
            "rename them."
        )
    guesses = [volumes.guess_contrast(volume.data) for volume, _ in given]
    sure = [guess.sign for guess in guesses if guess.sign != "unsure"]
    sign = contrast if contrast != "auto" or not sure else max(sorted(set(sure)), key=sure.count)
    grid = target_data.choose_box(classes, max(volume.voxel_size for volume, _ in given), box)
    total = sum(len(particles) for _, particles in given)
    parts = [
        target_data.from_tomogram(volume, particles, classes, grid=grid, contrast=sign, guess=guess, total=total)
        for (volume, particles), guess in zip(given, guesses, strict=True)
    ]
    rows = np.concatenate([_rows(part.particles) for part in parts])
    lost = [f"{name} has no row in {Path(coordinates).name} and is left out." for name in without]
    if len(rows) < len(names):
        n = len(names) - len(rows)
        lost.append(f"left out: {n} of {len(names)} rows of {Path(coordinates).name}, which name other tomograms.")
    return _joined(parts, rows, Path(coordinates).stem, lost)


def _rows(particles: Particles) -> np.ndarray:
    return np.arange(1, len(particles) + 1) if particles.rows is None else particles.rows


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
    particles = replace(
        each[0], table=table, zyx=None, angles=angles, groups=None, rows=rows[order], bad=bad, warnings=tuple(lost)
    )
    kept = np.concatenate([place[start + part.kept] for start, part in zip(starts, parts, strict=False)])
    sequence = np.argsort(kept, kind="stable")
    number = np.concatenate([np.full(len(part.kept), k) for k, part in enumerate(parts)])[sequence]
    model = parts[0].subtomograms
    x = _boxes([part.subtomograms.x for part in parts], torch.from_numpy(sequence))
    subtomograms = Unlabelled(x, model.voxel_size, torch.from_numpy(number), name)
    return TargetData(subtomograms, kept[sequence], particles, parts[0].contrast, parts[0].guess, parts=tuple(parts))


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

    return StreamedBoxes(cut, len(sequence), each[0].shape[-1])


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
