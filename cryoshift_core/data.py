"""What a domain may hold: labelled cubes, unlabelled cubes, and an answer key kept apart from both.

Training and selection accept a target only as :class:`Unlabelled`, and that type has no field for a label. The
labels of a synthetic target live in an :class:`HeldOutLabels`, which notebook 05 and
`trials` alone open.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from scipy.spatial import cKDTree
from torch import Tensor

from .errors import InputError


def normalize(x: Tensor) -> Tensor:
    """Robust z-score of each volume: minus the median, over 1.4826 x the median absolute deviation.

    A volume whose deviation is 0 though it is not constant (more than half of it masked) takes the standard deviation.

    Parameters
    ----------
    x : (N, 1, Z, Y, X)

    Raises
    ------
    InputError
        A volume is constant or holds NaN or infinite values.
    """
    flat = x.flatten(1)
    out = torch.empty_like(flat)
    for start in range(0, len(flat), 256):
        part = flat[start : start + 256]
        centred = part - part.median(1, keepdim=True).values
        width = 1.4826 * centred.abs().median(1, keepdim=True).values
        spread = part.std(1, keepdim=True)
        bad = ~(torch.isfinite(spread) & (part.amax(1, keepdim=True) > part.amin(1, keepdim=True)))
        if bad.any():
            index = start + int(bad.flatten().nonzero()[0])
            found = "constant" if torch.isfinite(flat[index]).all() else "not finite (NaN or infinite)"
            raise InputError(f"Volume {index} of {len(flat)} is {found}; wanted grey values that vary: leave it out.")
        out[start : start + 256] = centred / torch.where(width > 1e-6 * spread, width, spread)
    return out.view_as(x)


def crop(x: Tensor, n: int) -> Tensor:
    """Central (..., n, n, n) of (..., Z, Y, X): index n // 2 of the result is index Z // 2 of the input."""
    if n < 1 or n > min(x.shape[-3:]):
        raise InputError(
            f"A box of {n} voxels can't be cut out of {tuple(x.shape[-3:])}; wanted 1 to its smallest edge."
        )
    z, y, w = (size // 2 - n // 2 for size in x.shape[-3:])
    return x[..., z : z + n, y : y + n, w : w + n]


UNKNOWN = -1


def _check_cubes(x: Tensor) -> None:
    if not isinstance(x, Tensor) or x.ndim != 5 or x.shape[1] != 1 or x.dtype != torch.float32:
        found = f"{tuple(x.shape)} {x.dtype}" if isinstance(x, Tensor) else type(x).__name__
        raise InputError(f"Imaged are {found}; wanted a float32 tensor (N, 1, Z, Y, X), e.g. from volumes.normalize.")


def _check_length(name: str, value: Tensor, n: int) -> None:
    if value.shape != (n,):
        raise InputError(f"'{name}' has shape {tuple(value.shape)} for {n} cubes; wanted ({n},), one value per cube.")


@dataclass(frozen=True, eq=False)
class Labelled:
    """Simulated cubes with their classes.

    Attributes
    ----------
    x : (N, 1, Z, Y, X) float32, normalised, protein bright
    y : (N,) int64, index into `classes`
    classes : names, in label order
    voxel_size : A per voxel
    snr : (N,) float32, realised var(signal) / var(noise) in the box; NaN where it was not measured
    groups : (N,) int64, the (simulated) tomogram that each cube comes from
    """

    x: Tensor
    y: Tensor
    classes: tuple[str, ...]
    voxel_size: float
    snr: Tensor
    groups: Tensor

    def __post_init__(self) -> None:
        _check_cubes(self.x)
        for name in ("y", "snr", "groups"):
            _check_length(name, getattr(self, name), len(self.x))
        if len(self.y) and not 0 <= int(self.y.min()) <= int(self.y.max()) < len(self.classes):
            raise InputError(f"Labels span {int(self.y.min())}..{int(self.y.max())} for {len(self.classes)} classes.")

    def __len__(self) -> int:
        return len(self.x)

    def subset(self, index: Tensor) -> Labelled:
        """The cubes at `index`, (M,) int64 or a boolean mask (N,)."""
        return replace(self, x=self.x[index], y=self.y[index], snr=self.snr[index], groups=self.groups[index])


@dataclass(frozen=True, eq=False)
class Unlabelled:
    """Imaged of a target domain. There is no place for a label here, and none may be added."""

    x: Tensor
    voxel_size: float
    groups: Tensor
    name: str

    def __post_init__(self) -> None:
        _check_cubes(self.x)
        _check_length("groups", self.groups, len(self.x))

    def __len__(self) -> int:
        return len(self.x)

    def subset(self, index: Tensor) -> Unlabelled:
        """The cubes at `index`, (M,) int64 or a boolean mask (N,)."""
        return replace(self, x=self.x[index], groups=self.groups[index])


@dataclass(frozen=True, eq=False)
class HeldOutLabels:
    """What is known of a target's cubes, kept apart from them.

    `y` (N,) is -1 for a cube of none of the classes; `snr` (N,) is the realised SNR, NaN where it was not measured.
    """

    y: Tensor
    classes: tuple[str, ...]
    snr: Tensor | None = None

    def __post_init__(self) -> None:
        if self.snr is None:
            object.__setattr__(self, "snr", torch.full((len(self.y),), float("nan")))
        _check_length("snr", self.snr, len(self.y))

    def __len__(self) -> int:
        return len(self.y)

    def subset(self, index: Tensor) -> HeldOutLabels:
        return replace(self, y=self.y[index], snr=self.snr[index])

    def join(self, target: Unlabelled) -> Labelled:
        """Join key and cubes, for the `oracle` upper bound only. Imaged of none of the classes are left out."""
        _check_length("answer key", self.y, len(target))
        known = self.y != UNKNOWN
        return Labelled(
            x=target.x[known],
            y=self.y[known],
            classes=self.classes,
            voxel_size=target.voxel_size,
            snr=self.snr[known],
            groups=target.groups[known],
        )


Domain = Labelled | Unlabelled | HeldOutLabels


def split_particles(zyx: np.ndarray, groups: Tensor, held_out: Sequence[int], box: int) -> tuple[Tensor, Tensor]:
    """Split cubes by the particle they belong to, and let no voxel be on both sides.

    Parameters
    ----------
    zyx : (N, 3) centres in voxels
    groups : (N,) int64, the particle of each cube
    held_out : particles that go to the test side
    box : edge of the cubes in the same voxels

    Returns
    -------
    train, test : (N,) disjoint boolean masks; a cube of another particle that overlaps a test cube is in neither

    Raises
    ------
    InputError
        when one side would be empty: no honest split exists.
    """
    test = torch.isin(groups, torch.tensor(list(held_out)))
    if test.all() or not test.any():
        raise InputError(f"Holding out {list(held_out)} of particles {groups.unique().tolist()} leaves one side empty.")
    away = torch.from_numpy(cKDTree(zyx[test.numpy()]).query(zyx, p=np.inf)[0] >= box)
    if not (away & ~test).any():
        raise InputError(f"Every other cube of {box} voxels overlaps particles {list(held_out)}; hold out fewer.")
    return away & ~test, test


def save(path: Path, domain: Domain) -> None:
    """Write a domain as safetensors (tensors, and strings as metadata), atomically."""
    tensors = {f.name: getattr(domain, f.name).contiguous() for f in fields(domain) if "Tensor" in f.type}
    text = {f.name: str(getattr(domain, f.name)) for f in fields(domain) if f.type in ("str", "float")}
    if hasattr(domain, "classes"):
        text["classes"] = "\n".join(domain.classes)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    save_file(tensors, partial, metadata={"kind": type(domain).__name__, **text})
    partial.replace(path)


def load(path: Path, kind: type[Domain]) -> Domain:
    """Read what :func:`save` wrote; `kind` is the type wanted, and another one is refused."""
    with safe_open(path, framework="pt") as f:
        text = dict(f.metadata())
    found = text.pop("kind")
    if found != kind.__name__:
        raise InputError(f"{path} holds {found}; wanted {kind.__name__}.")
    values: dict = dict(load_file(path))
    if "classes" in text:
        values["classes"] = tuple(text["classes"].split("\n"))
    if "voxel_size" in text:
        values["voxel_size"] = float(text["voxel_size"])
    if "name" in text:
        values["name"] = text["name"]
    return kind(**values)


ROTATIONS_180 = {
    0: (),
    1: (3, 4),
    2: (2, 4),
    3: (2, 3),
}  # by 180 degrees about no axis, z, y, x: the dimensions that flip


def augment(x: Tensor, generator: torch.Generator, rotations: tuple[int, ...] = (0, 1, 2, 3)) -> Tensor:
    """Turn each cube by 180 degrees about no axis (0), the beam z (1), the tilt axis y (2) or x (3).

    These alone keep both the hand of a molecule and a symmetric missing wedge; a wedge with a pretilt is kept by 0
    and 2 only. Other 90-degree turns move the wedge, and a single flip would make mirror-image proteins.
    """
    which = torch.tensor(rotations)[torch.randint(len(rotations), (len(x),), generator=generator)]
    out = x.clone()
    for turn in rotations:
        if ROTATIONS_180[turn]:
            out[which == turn] = x[which == turn].flip(ROTATIONS_180[turn])
    return out
