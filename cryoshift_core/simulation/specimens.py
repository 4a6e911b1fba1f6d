"""Specimens: which molecule stands where in a field of view, in which orientation."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ..fourier import gridding_correction
from . import structures

VARIANTS = {"membrane": 12}  # shapes drawn of a procedural class; a molecule has one


@dataclass(frozen=True, eq=False)
class Templates:
    """Transforms of the molecules, ready to be gathered from.

    Attributes
    ----------
    names : K class names, then any extras (gold, a membrane) that only serve as neighbours
    transforms : (1, 2, M, M, M) tensors (real, imaginary; DC at M // 2), M = 2 * box; one per shape
    shapes : for each name, which of the transforms are its shapes
    radius : one per name, voxels, of a homogeneous ball with the same radius of gyration
    """

    names: tuple[str, ...]
    transforms: tuple[Tensor, ...]
    shapes: tuple[range, ...]
    radius: Tensor
    box: int
    voxel_size: float


@dataclass(frozen=True, eq=False)
class Specimens:
    """What stands in each field of view: slot 0 is the particle to classify, the other slots its neighbours.

    Attributes
    ----------
    template : (N, P) int64, index into Templates.transforms; -1 for an empty slot
    rotation : (N, P, 3, 3), acts on zyx vectors: density at x is that of the template at rotation^T (x - shift)
    shift : (N, P, 3) voxels, zyx, from the centre of the box
    scale : magnification error, 1.0 is right
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
    """Centred, oversampled transform of a (n, n, n) volume for trilinear gathering: (1, 2, size, size, size)."""
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
    """Transforms of the named molecules.

    Parameters
    ----------
    classes, extras : names or files that `structures.template` knows, and "gold" (a 10 nm fiducial)
    voxel_size : A
    box : voxels; a molecule that does not fit raises InputError
    generator : for the procedural ones; its device holds the transforms
    change : (name, volume) -> volume, alters a structure, e.g. into another conformer
    """
    device, out, shapes, radii = generator.device, [], [], []
    half = torch.arange(2 * box) - box
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
    return Templates(names, tuple(out), tuple(shapes), torch.tensor(radii), box, voxel_size)


def random_rotations(n: int, generator: torch.Generator) -> Tensor:
    """Uniform rotations (n, 3, 3) from normalised quaternions (Shoemake 1992)."""
    q = F.normalize(torch.randn(n, 4, generator=generator, device=generator.device), dim=-1)
    w, a, b, c = q.unbind(-1)
    rows = [
        [1 - 2 * (b * b + c * c), 2 * (a * b - c * w), 2 * (a * c + b * w)],
        [2 * (a * b + c * w), 1 - 2 * (a * a + c * c), 2 * (b * c - a * w)],
        [2 * (a * c - b * w), 2 * (b * c + a * w), 1 - 2 * (a * a + b * b)],
    ]
    return torch.stack([torch.stack(row, -1) for row in rows], -2)


def random_in_ball(n: int, radius: float, generator: torch.Generator) -> Tensor:
    """(n, 3) points uniform in a ball."""
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
    """Put one particle in each box, and neighbours around it.

    Parameters
    ----------
    labels : (N,) int64, index into bank.names of the particle at the centre; -1 leaves the centre empty, and keeps
        neighbours out of the room that a particle of mean radius would take there
    offset : picking error, voxels: the particle's centre is uniform in a ball of this radius
    crowding : volume fraction of the neighbourhood that neighbours fill, 0 to about 0.35
    extras : indices into bank.names that may stand among the neighbours beside the classes
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
    rotation[:, 0] = random_rotations(n, generator)  # before the neighbours: poses stay paired across crowding levels
    tries, room = 24, radius[[i for i in inside if i not in extras] or [0]].mean()
    reaches = torch.zeros(n, 1 + slots, device=device)
    reaches[:, 0] = torch.where(labels >= 0, radius[labels.clamp_min(0)], room)
    for slot in range(1, 1 + slots):
        pick = candidates[torch.randint(len(candidates), (n,), generator=generator, device=device)]
        place = (torch.rand(n, tries, 3, generator=generator, device=device) - 0.5) * field
        away = (place[:, :, None] - shift[:, None, :slot]).norm(dim=-1)
        taken = (template[:, :slot] >= 0)[:, None]
        taken[..., 0] = True  # also where the centre is empty
        fits = ((away > 0.85 * (radius[pick][:, None, None] + reaches[:, None, :slot])) | ~taken).all(-1)
        first = fits.float().argmax(-1)
        rows = torch.arange(n, device=device)
        template[:, slot] = torch.where(fits[rows, first], _pick_shape(pick, bank, generator), -1)
        shift[:, slot], reaches[:, slot] = place[rows, first], radius[pick]
        rotation[:, slot] = random_rotations(n, generator)
    return Specimens(template, rotation, shift, scale)


def _pick_shape(names: Tensor, bank: Templates, generator: torch.Generator) -> Tensor:
    """One of the shapes of each name, (N,) indices into bank.transforms; -1 stays -1."""
    count = torch.tensor([len(s) for s in bank.shapes], device=names.device)[names.clamp_min(0)]
    first = torch.tensor([s.start for s in bank.shapes], device=names.device)[names.clamp_min(0)]
    draw = torch.rand(len(names), generator=generator, device=names.device)
    return torch.where(names >= 0, first + (draw * count).long(), -1)
