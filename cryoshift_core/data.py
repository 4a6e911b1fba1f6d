"""Datasets: labelled source, unlabelled target, and held-out target labels apart from both.

Training and selection accept a target only as :class:`Unlabelled`, which has no field for a label. The labels of a
simulated target are :class:`HeldOutLabels` in a file of their own; only evaluation loads them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from .errors import InputError
from .support.order import medians
from .support.runtime import atomic

UNKNOWN = -1  # label of a subtomogram that belongs to none of the classes
NORMALISATION = "robust z-score: (x - median) / (1.4826 MAD) of each subtomogram"


def _check_subtomograms(x: Tensor, contrast: str) -> None:
    if not isinstance(x, Tensor) or x.ndim != 5 or x.shape[1] != 1 or x.dtype != torch.float32:
        found = f"{tuple(x.shape)} {x.dtype}" if isinstance(x, Tensor) else type(x).__name__
        raise InputError(f"Expected subtomograms as a float32 tensor (N, 1, Z, Y, X), got {found}: see data.normalize.")
    if contrast not in ("bright", "dark"):
        raise InputError(f"Expected contrast bright or dark, got '{contrast}'.")


def _check_length(name: str, value: Tensor, n: int) -> None:
    if value.shape != (n,):
        raise InputError(f"Expected one {name} for each of {n} subtomograms, got shape {tuple(value.shape)}.")


@dataclass(frozen=True, eq=False)
class Labelled:
    """Simulated subtomograms with their classes.

    Attributes
    ----------
    x : (N, 1, Z, Y, X) float32, normalised
    y : (N,) int64, index into `classes`
    classes : names, in label order
    voxel_size : A
    snr : (N,) float32, realised var(signal) / var(noise) in the box; NaN where it was not measured
    groups : (N,) int64, the simulated tomogram of each subtomogram
    contrast : "bright" or "dark", the sign of protein
    """

    x: Tensor
    y: Tensor
    classes: tuple[str, ...]
    voxel_size: float
    snr: Tensor
    groups: Tensor
    contrast: str = "bright"

    def __post_init__(self) -> None:
        _check_subtomograms(self.x, self.contrast)
        for name in ("y", "snr", "groups"):
            _check_length(name, getattr(self, name), len(self.x))
        if len(self.y) and not 0 <= int(self.y.min()) <= int(self.y.max()) < len(self.classes):
            found = f"{int(self.y.min())} to {int(self.y.max())}"
            raise InputError(f"Expected labels 0 to {len(self.classes) - 1}, got {found}.")

    def __len__(self) -> int:
        return len(self.x)

    def subset(self, index: Tensor) -> Labelled:
        """The subtomograms at `index`: (M,) int64 or a boolean mask (N,)."""
        return replace(self, x=self.x[index], y=self.y[index], snr=self.snr[index], groups=self.groups[index])


@dataclass(frozen=True, eq=False)
class Unlabelled:
    """Subtomograms of a target, fields as in :class:`Labelled`. It has no field for a label; add none."""

    x: Tensor
    voxel_size: float
    groups: Tensor
    name: str
    contrast: str = "bright"

    def __post_init__(self) -> None:
        _check_subtomograms(self.x, self.contrast)
        _check_length("groups", self.groups, len(self.x))

    def __len__(self) -> int:
        return len(self.x)

    def subset(self, index: Tensor) -> Unlabelled:
        """The subtomograms at `index`: (M,) int64 or a boolean mask (N,)."""
        return replace(self, x=self.x[index], groups=self.groups[index])


@dataclass(frozen=True, eq=False)
class HeldOutLabels:
    """Labels of a target, kept apart from its subtomograms; for evaluation only.

    Attributes
    ----------
    y : (N,) int64, index into `classes`; UNKNOWN (-1) for a subtomogram of none of them
    classes : names, in label order
    snr : (N,) float32, realised SNR; None where it was not measured
    """

    y: Tensor
    classes: tuple[str, ...]
    snr: Tensor | None = None

    def __post_init__(self) -> None:
        if self.snr is not None:
            _check_length("snr", self.snr, len(self.y))

    def __len__(self) -> int:
        return len(self.y)

    def subset(self, index: Tensor) -> HeldOutLabels:
        """The labels at `index`: (M,) int64 or a boolean mask (N,)."""
        return replace(self, y=self.y[index], snr=None if self.snr is None else self.snr[index])

    def labelled(self, target: Unlabelled) -> Labelled:
        """Target subtomograms with their labels, for the `oracle` upper bound; those of no class are left out."""
        _check_length("label", self.y, len(target))
        known = self.y != UNKNOWN
        snr = torch.full_like(self.y, float("nan"), dtype=torch.float32) if self.snr is None else self.snr
        return Labelled(
            x=target.x[known],
            y=self.y[known],
            classes=self.classes,
            voxel_size=target.voxel_size,
            snr=snr[known],
            groups=target.groups[known],
            contrast=target.contrast,
        )


Dataset = TypeVar("Dataset", Labelled, Unlabelled, HeldOutLabels)


def normalize(x: Tensor, sample: int | None = None) -> Tensor:
    """Robust z-score of each subtomogram: (x - median) / (1.4826 x median absolute deviation).

    Where the deviation is 0 although the subtomogram is not constant (more than half of it is masked), the standard
    deviation takes its place.

    Parameters
    ----------
    x : (N, 1, Z, Y, X)
    sample : measure both medians on about so many voxels, without checks, and let gradients pass through `x` alone: for
        use inside a network (5,000 voxels give both medians to 2 %). None: measure on all voxels, and check them

    Raises
    ------
    InputError
        a subtomogram is constant or holds NaN or infinite values (without `sample`)
    """
    if sample is not None:
        flat = x.detach().flatten(1)
        flat = flat[:, :: max(1, flat.shape[1] // sample) | 1]  # an odd stride meets every column of an even box
        _, median, width = _robust_scale(flat)
        return (x - median.view(-1, 1, 1, 1, 1)) / width.clamp_min(1e-6).view(-1, 1, 1, 1, 1)
    flat = x.flatten(1)
    out = torch.empty_like(flat)
    rows = 8 if x.device.type == "cpu" else 256  # 8 subtomograms of 32^3 stay in the cache of a CPU core
    for start in range(0, len(flat), rows):
        part = flat[start : start + rows]
        centred, _, width = _robust_scale(part)
        largest = torch.maximum(centred.amax(1, keepdim=True), -centred.amin(1, keepdim=True))
        bad = ~(torch.isfinite(largest) & (largest > 0))
        if bad.any():
            index = start + int(bad.flatten().nonzero()[0])
            found = "constant" if torch.isfinite(flat[index]).all() else "not finite (NaN or infinite)"
            raise InputError(
                f"Expected grey values that vary, got subtomogram {index} of {len(flat)}, {found}: drop it."
            )
        if (width <= 2e-6 * largest).any():  # the standard deviation is at most 1.5 times `largest`
            spread = part.std(1, keepdim=True)
            width = torch.where(width > 1e-6 * spread, width, spread)
        out[start : start + rows] = centred / width
    return out.view_as(x)


def _robust_scale(flat: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Rows of (N, M) less their medians, the medians, and 1.4826 times the median absolute deviations."""
    median = medians(flat)
    centred = flat - median
    return centred, median, 1.4826 * medians(centred.abs())


def crop(x: Tensor, n: int) -> Tensor:
    """Central (..., n, n, n) of (..., Z, Y, X): index n // 2 of the result is index Z // 2 of the input."""
    if n < 1 or n > min(x.shape[-3:]):
        raise InputError(f"Expected a box of 1 to {min(x.shape[-3:])} voxels out of {tuple(x.shape[-3:])}, got {n}.")
    z, y, w = (size // 2 - n // 2 for size in x.shape[-3:])
    return x[..., z : z + n, y : y + n, w : w + n]


# Name of a 180-degree rotation -> dimensions of (N, 1, Z, Y, X) that it reverses: none, about z, about y, about x.
ROTATIONS_180: dict[int, tuple[int, ...]] = {0: (), 1: (3, 4), 2: (2, 4), 3: (2, 3)}


def augment(
    x: Tensor, generator: torch.Generator, rotations: Sequence[int] = (0, 1, 2, 3), index: Tensor | None = None
) -> Tensor:
    """Each subtomogram rotated by 180 degrees about a random axis out of `rotations`; a copy.

    These rotations keep the hand of a molecule and a symmetric missing wedge. A wedge with a pretilt is kept by 0
    (none) and 2 (about the tilt axis y) only. A 90-degree rotation would move the wedge, and a reflection would make
    mirror-image proteins.

    Parameters
    ----------
    x : (N, 1, Z, Y, X)
    generator : on the CPU
    rotations : names out of ROTATIONS_180
    index : (M,) int64, the subtomograms to take; None: all
    """
    if index is not None and type(x) is not Tensor:  # streamed: all rows are made at once
        x, index = x[index], None
    rows = range(len(x)) if index is None else index.tolist()
    pick = torch.randint(len(rotations), (len(rows),), generator=generator, device=generator.device).tolist()
    out = x.new_empty(len(rows), *x.shape[1:])
    own = x.device.type == "cpu"
    given: Any = x.detach().numpy() if own else x  # numpy copies reversed views in one pass
    made: Any = out.numpy() if own else out
    for i, (row, which) in enumerate(zip(rows, pick, strict=True)):
        axes = tuple(axis - 1 for axis in ROTATIONS_180[rotations[which]])
        made[i] = np.flip(given[row], axes) if own else given[row].flip(axes)
    return out


def save(path: Path, dataset: Labelled | Unlabelled | HeldOutLabels) -> None:
    """Write a dataset as safetensors (tensors, and text as metadata), atomically."""
    values = {f.name: getattr(dataset, f.name) for f in fields(dataset)}
    tensors = {name: value.contiguous() for name, value in values.items() if isinstance(value, Tensor)}
    text = {name: str(value) for name, value in values.items() if isinstance(value, str | int | float)}
    if "classes" in values:
        text["classes"] = "\n".join(values["classes"])
    with atomic(path) as partial:
        save_file(tensors, partial, metadata={"kind": type(dataset).__name__, **text})


def load(path: Path, kind: type[Dataset]) -> Dataset:
    """A dataset of type `kind` that :func:`save` wrote; another type is refused."""
    with safe_open(path, framework="pt") as f:
        text = dict(f.metadata() or {})
    found = text.pop("kind", "no dataset")
    if found != kind.__name__:
        raise InputError(f"Expected {kind.__name__} in {path}, got {found}.")
    values: dict[str, Any] = {**load_file(path), **text}
    if "classes" in text:
        values["classes"] = tuple(text["classes"].split("\n"))
    if "voxel_size" in text:
        values["voxel_size"] = float(text["voxel_size"])
    return kind(**values)
