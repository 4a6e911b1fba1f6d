"""Specimens: the molecules in a field of view, with their positions and orientations.

Everything is computed on the device of the generator or of the input tensors.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ..fourier import gridding_correction
from . import structures

VARIANTS = {"membrane": 12}  # number of random shapes of a procedural class; a molecule has one shape


@dataclass(frozen=True, eq=False)
class Templates:
    """Fourier transforms of the molecules, oversampled for interpolation.

    Attributes
    ----------
    names : K class names, then extra molecules (gold, a membrane) that only serve as neighbours
    transforms : one (1, 2, M, M, M) tensor per shape (real, imaginary; k = 0 at M // 2), M = 2 * box
    shapes : for each name, the indices of its shapes in `transforms`
    radius : (names,), voxels, radius of a homogeneous ball with the same radius of gyration
    box, voxel_size : voxels per edge, A per voxel
    """

    names: tuple[str, ...]
    transforms: tuple[Tensor, ...]
    shapes: tuple[range, ...]
    radius: Tensor
    box: int
    voxel_size: float


@dataclass(frozen=True, eq=False)
class Specimens:
    """Content of N fields of view: slot 0 is the particle to classify, the other P - 1 slots are its neighbours.

    Attributes
    ----------
    template : (N, P) int64, index into Templates.transforms; -1 for an empty slot
    rotation : (N, P, 3, 3), acts on zyx vectors: the density at x is that of the template at rotation^T (x - shift)
    shift : (N, P, 3) voxels, zyx, from the centre of the box
    scale : magnification error; 1.0 is no error
    """

    template: Tensor
    rotation: Tensor
    shift: Tensor
    scale: float = 1.0

    def __len__(self) -> int:
        return len(self.template)

    def __getitem__(self, part: slice | Tensor) -> Specimens:
        return Specimens(self.template[part], self.rotation[part], self.shift[part], self.scale)


def transform(volume: Tensor, size: int) -> Tensor:
    """Fourier transform of an (n, n, n) volume for trilinear interpolation, (1, 2, size, size, size).

    The channels are real and imaginary part; k = 0 is at index size // 2. The volume is zero-padded to `size` voxels
    and divided by `fourier.gridding_correction`.
    """
    n = len(volume)
    padded = volume.new_zeros((size,) * 3)
    low = size // 2 - n // 2
    padded[low : low + n, low : low + n, low : low + n] = volume
    g = gridding_correction(size, 1.0, volume.device)
    padded /= g[:, None, None] * g[:, None] * g
    centred = torch.fft.fftshift(torch.fft.fftn(torch.fft.ifftshift(padded)))
    return torch.view_as_real(centred).permute(3, 0, 1, 2)[None].contiguous()


def templates(
    classes: Sequence[str],
    voxel_size: float,
    box: int,
    *,
    generator: torch.Generator,
    extras: Sequence[str] = (),
    change: Callable[[str, Tensor], Tensor] | None = None,
) -> Templates:
    """Fourier transforms of the named molecules, on the device of `generator`.

    Parameters
    ----------
    classes, extras : names or files that `structures.template` accepts, or "gold" (a 10 nm fiducial)
    voxel_size : A
    box : voxels
    generator : draws the procedural classes
    change : (name, volume) -> volume, changes a structure, for example into another conformer

    Raises
    ------
    InputError
        A class is unknown, a file is unreadable, or a molecule is larger than the box.
    """
    device = generator.device
    out: list[Tensor] = []
    shapes: list[range] = []
    radii: list[float] = []
    half = torch.arange(2 * box, device="cpu") - box
    r2 = half.square()[:, None, None] + half.square()[:, None] + half.square()
    for name in [*classes, *extras]:
        shapes.append(range(len(out), len(out) + VARIANTS.get(name, 1)))
        for _ in shapes[-1]:
            if name == "gold":
                volume = 60.0 * torch.sigmoid(2 * (50.0 / voxel_size - r2.sqrt()))
            else:
                size = 2 * box if name == "membrane" else box
                volume = structures.template(name, voxel_size, size, generator=generator)
            if change is not None:
                volume = change(name, volume)
            out.append(transform(volume.to(device), 2 * box))
        low, edge = box - len(volume) // 2, len(volume)
        mass = volume.clamp_min(0)
        gyration = (mass * r2[(slice(low, low + edge),) * 3]).sum() / mass.sum().clamp_min(1e-6)
        radii.append(math.sqrt(5 / 3 * float(gyration)))
    names = tuple(structures.class_name(c) for c in [*classes, *extras])
    return Templates(names, tuple(out), tuple(shapes), torch.tensor(radii, device=device), box, voxel_size)


def random_rotations(n: int, generator: torch.Generator) -> Tensor:
    """Uniformly distributed rotation matrices (n, 3, 3).

    Source: Shoemake 1992, Graphics Gems III, p. 124 (normalised quaternions).
    """
    q = F.normalize(torch.randn(n, 4, generator=generator, device=generator.device), dim=-1)
    w, a, b, c = q.unbind(-1)
    rows = [
        [1 - 2 * (b * b + c * c), 2 * (a * b - c * w), 2 * (a * c + b * w)],
        [2 * (a * b + c * w), 1 - 2 * (a * a + c * c), 2 * (b * c - a * w)],
        [2 * (a * c - b * w), 2 * (b * c + a * w), 1 - 2 * (a * a + b * b)],
    ]
    return torch.stack([torch.stack(row, -1) for row in rows], -2)


def random_in_ball(n: int, radius: float, generator: torch.Generator) -> Tensor:
    """Points (n, 3) that are uniformly distributed in a ball of `radius`."""
    x = F.normalize(torch.randn(n, 3, generator=generator, device=generator.device), dim=-1)
    return x * radius * torch.rand(n, 1, generator=generator, device=generator.device).pow(1 / 3)


def specimens(
    labels: Tensor,
    bank: Templates,
    *,
    generator: torch.Generator,
    offset: float = 0.5,
    crowding: float = 0.0,
    extras: Sequence[int] = (),
    scale: float = 1.0,
) -> Specimens:
    """Specimens with one particle in each box and neighbours around it, on the device of `generator`.

    Parameters
    ----------
    labels : (N,) int64, index into bank.names of the particle at the centre; -1 leaves the centre empty and keeps
        neighbours out of a sphere of the mean particle radius there
    bank : templates of all molecules
    generator : draws shapes, positions and orientations
    offset : picking error, voxels: the particle's centre is uniform in a ball of this radius
    crowding : volume fraction of the surroundings that neighbours fill, 0 to about 0.35
    extras : indices into bank.names of molecules that occur only as neighbours
    scale : magnification error; 1.0 is no error
    """
    n, device = len(labels), generator.device
    labels = labels.to(device)
    field, radius = 1.5 * bank.box, bank.radius.to(device)
    inside = [i for i, r in enumerate(bank.radius.tolist()) if 0 < r < bank.box]
    candidates = torch.tensor(sorted({i for i in inside if i not in extras} | set(extras)), device=device)
    mean_volume = (4 / 3 * math.pi * radius[candidates] ** 3).mean().item() if len(candidates) else math.inf
    slots = round(crowding * field**3 / mean_volume) if crowding > 0 else 0
    template = torch.full((n, 1 + slots), -1, device=device)
    shift = torch.zeros(n, 1 + slots, 3, device=device)
    template[:, 0] = _pick_shape(labels, bank, generator)
    shift[:, 0] = random_in_ball(n, offset, generator)
    rotation = torch.zeros(n, 1 + slots, 3, 3, device=device)
    rotation[:, 0] = random_rotations(n, generator)  # first, so that poses are equal at all crowding levels
    tries, mean_radius = 24, radius[[i for i in inside if i not in extras] or [0]].mean()
    reach = torch.zeros(n, 1 + slots, device=device)
    reach[:, 0] = torch.where(labels >= 0, radius[labels.clamp_min(0)], mean_radius)
    for slot in range(1, 1 + slots):
        pick = candidates[torch.randint(len(candidates), (n,), generator=generator, device=device)]
        position = (torch.rand(n, tries, 3, generator=generator, device=device) - 0.5) * field
        distance = (position[:, :, None] - shift[:, None, :slot]).norm(dim=-1)
        occupied = (template[:, :slot] >= 0)[:, None]
        occupied[..., 0] = True  # an empty centre stays free as well
        fits = ((distance > 0.85 * (radius[pick][:, None, None] + reach[:, None, :slot])) | ~occupied).all(-1)
        first = fits.float().argmax(-1)
        rows = torch.arange(n, device=device)
        template[:, slot] = torch.where(fits[rows, first], _pick_shape(pick, bank, generator), -1)
        shift[:, slot], reach[:, slot] = position[rows, first], radius[pick]
        rotation[:, slot] = random_rotations(n, generator)
    return Specimens(template, rotation, shift, scale)


def _pick_shape(names: Tensor, bank: Templates, generator: torch.Generator) -> Tensor:
    """A random shape of each name, (N,) indices into bank.transforms; -1 stays -1."""
    count = torch.tensor([len(s) for s in bank.shapes], device=names.device)[names.clamp_min(0)]
    first = torch.tensor([s.start for s in bank.shapes], device=names.device)[names.clamp_min(0)]
    draw = torch.rand(len(names), generator=generator, device=names.device)
    return torch.where(names >= 0, first + (draw * count).long(), -1)
