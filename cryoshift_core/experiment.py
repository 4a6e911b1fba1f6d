"""Experimental input to unlabelled cubes, and predictions back to a STAR file in input order."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from . import structures, volumes
from .domains import Unlabelled
from .volumes import ContrastGuess, InputError

SMALLEST, LARGEST = 24, 48  # voxels: the edges that a box is given where nobody chose one
ROOM = 1.3  # box edge over the largest diameter: neighbours and picking errors need some


@dataclass(frozen=True, eq=False)
class Experiment:
    """What came in, ready for a classifier.

    Attributes
    ----------
    cubes : normalised, protein bright, at the model's pixel size; groups are the particles where the input names them
    kept : (M,) which inputs the cubes belong to; the others' boxes reach over the tomogram's border
    table : the columns that go back out, one value per *input*
    contrast : the sign that the input was taken to have; guess: what its grey values say
    tomogram, zyx : the volume and the positions of all inputs, or None for extracted subtomograms
    """

    cubes: Unlabelled
    kept: np.ndarray
    table: dict[str, list[str]]
    contrast: str
    guess: ContrastGuess
    tomogram: volumes.Volume | None = None
    zyx: np.ndarray | None = None

    def __len__(self) -> int:
        return len(next(iter(self.table.values())))

    @property
    def warnings(self) -> list[str]:
        """Plain sentences about what a reader should check before trusting anything."""
        out = []
        if self.guess.sign == "unsure":
            out.append(f"The contrast could not be told ({self.guess.why}); it was taken as {self.contrast}.")
        elif self.guess.sign != self.contrast:
            out.append(f"The data look {self.guess.sign} ({self.guess.why}) but were taken as {self.contrast}.")
        if len(self.kept) < len(self):
            out.append(f"{len(self) - len(self.kept)} of {len(self)} boxes reach over the border: not classified.")
        if len(self.kept) < 100:
            out.append(f"{len(self.kept)} cubes are few to adapt to; shares and confidences are rough.")
        return out


def read_classes(text: str, default: Sequence[str]) -> tuple[str, ...]:
    """Comma-separated names and files; two classes of one label are refused."""
    classes = tuple(c.strip() for c in text.split(",")) if text else tuple(default)
    labels = [structures.class_name(c) for c in classes]
    twice = {label for label in labels if labels.count(label) > 1}
    if twice:
        raise InputError(f"classes name {', '.join(sorted(twice))} twice; wanted different labels: rename a file.")
    if len(classes) < 2:
        raise InputError(f"classes is '{text}'; wanted at least two to tell apart: add 'ice' for no particle.")
    return classes


def choose_box(classes: Sequence[str], pixel_size: float, box: int = 0) -> tuple[int, float]:
    """Box in voxels and pixel size in A that the classifier works at.

    A given `box` is kept at the data's pixel size. Otherwise the largest structure, with some room, decides; where
    that takes more than 48 voxels, the pixel grows instead.
    """
    largest = max(structures.diameter(c) for c in classes)
    if box:
        if largest > box * pixel_size:
            name = max(classes, key=structures.diameter)
            raise InputError(
                f"'{name}' is {largest:.0f} A across and a box of {box} voxels of {pixel_size:g} A holds "
                f"{box * pixel_size:.0f} A; wanted at least {math.ceil(largest / pixel_size)}: enlarge box, or leave 0."
            )
        return box, pixel_size
    wanted = 2 * math.ceil(ROOM * largest / pixel_size / 2)
    if wanted <= LARGEST:
        return max(SMALLEST, wanted), pixel_size
    return LARGEST, ROOM * largest / LARGEST


def _sign(contrast: str, guess: ContrastGuess) -> str:
    if contrast != "auto":
        return contrast
    return "dark" if guess.sign == "dark" else "bright"


def from_tomogram(
    tomogram: str | Path, coordinates: str | Path, classes: Sequence[str], *, pixel_size: float, box: int, contrast: str
) -> Experiment:
    """Cut a box around each coordinate. Zero for `pixel_size` and `box` means: the header's, and the structures'."""
    volume = volumes.read_mrc(tomogram, pixel_size or None)
    points = volumes.read_coordinates(coordinates, volume)
    n, model_pixel = choose_box(classes, volume.pixel_size, box)
    x, kept = volumes.extract(volume.data, points.zyx, n, volume.pixel_size, model_pixel)
    if not len(kept):
        raise InputError(f"No box of {n} voxels around {coordinates} lies inside {tomogram}; choose a smaller box.")
    guess = volumes.guess_contrast(volume.data)
    sign = _sign(contrast, guess)
    numbers = points.table.get("rlnGroupNumber", ["0"] * len(points.zyx))
    groups = torch.tensor([int(g) if g.lstrip("-").isdigit() else 0 for g in numbers])[torch.from_numpy(kept)]
    cubes = Unlabelled(volumes.normalize(volumes.to_bright(x, sign)), model_pixel, groups, Path(tomogram).stem)
    table = {c: points.table[c] for c in ("rlnCoordinateX", "rlnCoordinateY", "rlnCoordinateZ")}
    return Experiment(cubes, kept, table, sign, guess, volume, points.zyx)


def from_subtomograms(
    path: str | Path, classes: Sequence[str], *, pixel_size: float, box: int, contrast: str
) -> Experiment:
    """Take extracted cubes as they are; cubes wider than 48 voxels are Fourier-cropped unless `box` says otherwise."""
    x, pixel, names = volumes.read_subtomograms(path, box or None, pixel_size or None)
    n, model_pixel = choose_box(classes, pixel, x.shape[-1])
    if not box and n > LARGEST:
        n, model_pixel = LARGEST, pixel * n / LARGEST
        x = volumes.rescale(x, pixel, model_pixel, n)
    guess = volumes.guess_contrast(x)
    sign = _sign(contrast, guess)
    groups = torch.zeros(len(x), dtype=torch.long)
    cubes = Unlabelled(volumes.normalize(volumes.to_bright(x, sign)), model_pixel, groups, Path(path).stem)
    return Experiment(cubes, np.arange(len(x)), {"rlnImageName": list(names)}, sign, guess)


def read_background(path: str | Path, like: Experiment, *, pixel_size: float = 0.0) -> Tensor:
    """Particle-free boxes of the tomogram that `like` came from, made as its cubes: same pixel, box, sign, normalised.

    Parameters
    ----------
    path : as for `from_subtomograms`; boxes at least as wide as the cubes
    pixel_size : A per voxel of the boxes; 0: from their header
    """
    x, pixel, _ = volumes.read_subtomograms(path, pixel_size=pixel_size or None)
    boxes = volumes.rescale(x, pixel, like.cubes.pixel_size, like.cubes.x.shape[-1])
    return volumes.normalize(volumes.to_bright(boxes, like.contrast))


def doubts(shares: Sequence[float], classes: Sequence[str], n: int) -> list[str]:
    """Plain sentences about predicted shares of n cubes that are too small, or too unequal, to be trusted.

    Parameters
    ----------
    shares : (K,) fractions of the cubes
    """
    out = []
    if n < 20 * len(classes):
        out.append(
            f"{n} cubes for {len(classes)} classes: fewer than 20 each, so a share may be off by half of itself."
        )
    if len(classes) > 20:
        out.append(f"{len(classes)} classes were asked for; nothing was measured with more than 20.")
    rare = [f"{name} ({share:.1%})" for name, share in zip(classes, shares, strict=True) if share < 0.02]
    if rare:
        out.append(f"Predicted for fewer than 2 % of the cubes: {', '.join(rare)}; as likely confusion as presence.")
    seen = [share for share in shares if share > 0]
    if max(seen) > 10 * min(seen):
        ratio = max(seen) / min(seen)
        out.append(
            f"The commonest class is {ratio:.0f} times the rarest; adapting favours equal shares: check the rare."
        )
    return out


def write_predictions(
    path: str | Path,
    experiment: Experiment,
    probabilities: Tensor,
    classes: Sequence[str],
    strange: Tensor | None = None,
) -> Path:
    """One row per input, in input order: its name or coordinates, `_csClass`, `_csConfidence` and `_csNoneOfThese`.

    An input without a cube (its box reaches over the border) gets the class "not_classified" and confidence 0.

    Parameters
    ----------
    probabilities : (M, K) for the cubes of `experiment`
    strange : (M,) bool, cubes that fit no class (1 in the last column, which is there only where this is given)
    """
    best = probabilities.max(1)
    labels, confidence = ["not_classified"] * len(experiment), ["0.0000"] * len(experiment)
    for row, k, p in zip(experiment.kept.tolist(), best.indices.tolist(), best.values.tolist(), strict=True):
        labels[row], confidence[row] = classes[k], f"{p:.4f}"
    columns = {"csClass": labels, "csConfidence": confidence}
    if strange is not None:
        marks = np.zeros(len(experiment), dtype=int)
        marks[experiment.kept] = strange.numpy()
        columns["csNoneOfThese"] = [str(mark) for mark in marks.tolist()]
    volumes.write_star(path, {"particles": experiment.table | columns})
    return Path(path)
