"""Experimental input to unlabelled cubes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from .. import data
from ..data import Unlabelled
from ..errors import InputError
from ..simulation import structures
from ..tomography import extraction, volumes
from ..tomography.volumes import ContrastGuess, Particles, Volume

SMALLEST, LARGEST = 24, 48  # voxels: the edges that a box is given where nobody chose one
ROOM = 1.3  # box edge over the largest diameter: neighbours and picking errors need some


@dataclass(frozen=True, eq=False)
class TargetData:
    """What came in, ready for a classifier.

    Attributes
    ----------
    subtomograms : normalised, protein bright, at the model's pixel size; groups are the particles where the input names them
    kept : (M,) which inputs the cubes belong to; the others' boxes reach over the tomogram's border
    particles : all inputs, as they were read
    contrast : the sign that the input was taken to have; guess: what its grey values say
    tomogram : the volume that the cubes were cut from, or None for extracted subtomograms
    """

    subtomograms: Unlabelled
    kept: np.ndarray
    particles: Particles
    contrast: str
    guess: ContrastGuess
    tomogram: Volume | None = None

    def __len__(self) -> int:
        return len(self.particles)

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


def choose_box(classes: Sequence[str], voxel_size: float, box: int = 0) -> tuple[int, float]:
    """Box in voxels and pixel size in A that the classifier works at.

    A given `box` is kept at the data's pixel size. Otherwise the largest structure, with some room, decides; where
    that takes more than 48 voxels, the pixel grows instead.
    """
    largest = max(structures.diameter(c) for c in classes)
    if box:
        if largest > box * voxel_size:
            name = max(classes, key=structures.diameter)
            raise InputError(
                f"'{name}' is {largest:.0f} A across and a box of {box} voxels of {voxel_size:g} A holds "
                f"{box * voxel_size:.0f} A; wanted at least {math.ceil(largest / voxel_size)}: enlarge box, or leave 0."
            )
        return box, voxel_size
    wanted = 2 * math.ceil(ROOM * largest / voxel_size / 2)
    if wanted <= LARGEST:
        return max(SMALLEST, wanted), voxel_size
    return LARGEST, ROOM * largest / LARGEST


def _sign(contrast: str, guess: ContrastGuess) -> str:
    if contrast != "auto":
        return contrast
    return "dark" if guess.sign == "dark" else "bright"


def from_tomogram(
    tomogram: Volume, particles: Particles, classes: Sequence[str], *, box: int = 0, contrast: str = "auto"
) -> TargetData:
    """Cut a box around each position; `box` in voxels of the tomogram, 0: as the structures need it."""
    n, model_pixel = choose_box(classes, tomogram.voxel_size, box)
    x, kept = extraction.extract(tomogram.data, particles.zyx, n, tomogram.voxel_size, model_pixel)
    if not len(kept):
        raise InputError(f"No box of {n} voxels around a position lies inside {tomogram.path}; choose a smaller box.")
    guess = volumes.guess_contrast(tomogram.data)
    sign = _sign(contrast, guess)
    groups = torch.from_numpy(particles.groups[kept])
    cubes = Unlabelled(data.normalize(volumes.to_bright(x, sign)), model_pixel, groups, Path(tomogram.path).stem)
    return TargetData(cubes, kept, particles, sign, guess, tomogram)


def from_subtomograms(
    particles: Particles, classes: Sequence[str], *, box: int = 0, contrast: str = "auto", name: str = "subtomograms"
) -> TargetData:
    """Take extracted cubes as they are; cubes wider than 48 voxels are Fourier-cropped unless `box` says otherwise."""
    x, pixel = particles.subtomograms, particles.voxel_size
    n, model_pixel = choose_box(classes, pixel, x.shape[-1])
    if not box and n > LARGEST:
        n, model_pixel = LARGEST, pixel * n / LARGEST
        x = volumes.rescale(x, pixel, model_pixel, n)
    guess = volumes.guess_contrast(x)
    sign = _sign(contrast, guess)
    groups = torch.zeros(len(x), dtype=torch.long)
    cubes = Unlabelled(data.normalize(volumes.to_bright(x, sign)), model_pixel, groups, name)
    return TargetData(cubes, np.arange(len(x)), particles, sign, guess)


def background(boxes: Particles, like: TargetData) -> Tensor:
    """Particle-free boxes of the tomogram that `like` came from, made as its cubes: same pixel, box, sign, normalised.

    They must be at least as wide as its cubes.
    """
    x = volumes.rescale(
        boxes.subtomograms, boxes.voxel_size, like.subtomograms.voxel_size, like.subtomograms.x.shape[-1]
    )
    return data.normalize(volumes.to_bright(x, like.contrast))


def _profile(x: Tensor) -> Tensor:
    """Mean grey value of the average cube in shells one voxel wide, from the centre to the faces: (n // 2,)."""
    mean = x[:, 0].mean(0)
    axes = [torch.arange(n) - n // 2 for n in mean.shape]
    radius = sum(r.view([-1 if i == j else 1 for j in range(3)]) ** 2 for i, r in enumerate(axes)).sqrt()
    shell, n = radius.round().long().flatten(), min(mean.shape) // 2
    return (torch.bincount(shell, mean.flatten()) / torch.bincount(shell))[:n]


def apparent_scale(source_x: Tensor, target_x: Tensor) -> tuple[float, float, float]:
    """How much wider the average target particle is than the average simulated one, in voxels.

    The radial profile of the one is stretched until it fits the other: 1 where the pixel size and the structures are
    right; a pixel size given too large makes the simulated particles too small, and the scale larger than 1.

    Parameters
    ----------
    source_x, target_x : cubes (N, 1, Z, Y, X) of one box

    Returns
    -------
    the best scale within 0.5 to 2, and the correlation of the profiles at that scale and at 1
    """
    source, target = _profile(source_x), _profile(target_x)
    r = torch.arange(len(target), dtype=torch.float64)

    def fit(scale: float) -> float:
        inside = r / scale <= len(source) - 1
        stretched = np.interp((r / scale)[inside], r[: len(source)], source)
        return float(np.corrcoef(stretched, target[inside])[0, 1])

    scales = np.geomspace(0.5, 2.0, 57)
    found = [fit(scale) for scale in scales]
    best = int(np.argmax(found))
    return float(scales[best]), found[best], fit(1.0)


def voxel_size_doubts(source_x: Tensor, target_x: Tensor, voxel_size: float, classes: Sequence[str]) -> list[str]:
    """A plain sentence where the average particle's width speaks against the pixel size, with a suggestion.

    Small differences say little, for the classes need not be as frequent in both; a membrane has no width to go by.
    """
    if any(structures.diameter(name) == 0 and name != "ice" for name in classes):
        return []
    scale, fit, as_given = apparent_scale(source_x, target_x)
    if fit < 0.85 or as_given > fit - 0.05 or 0.77 < scale < 1.3:
        return []
    return [
        f"The average particle is {scale:.2f} times as wide as the simulated one (their profiles correlate at "
        f"{fit:.2f} after stretching, at {as_given:.2f} before); if the structures are right, and all of them there, "
        "the pixel size is "
        f"{voxel_size / scale:.3g} A rather than {voxel_size:.3g} A."
    ]


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
