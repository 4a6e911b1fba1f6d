"""Controls: a stand-in for each molecule, with its mass and another shape, imaged like the molecule itself.

A sphere, a shell or a heart has the molecule's total and mean potential, so what tells it from the molecule is its
shape alone. A mirror image has the molecule's shape and the wrong hand. The radial average keeps how far from the
centre the potential lies, and forgets in which direction. Another molecule, magnified, brings a shape of its own.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import InputError
from ..fourier import shell_means
from ..support.runtime import check_known
from . import scenarios, structures
from .scenarios import Factor, Scenario

FINE = 4  # samples along the edge of a voxel
INSIDE = 0.3  # of the highest potential: where a molecule begins
HOLLOW = 0.7  # inner radius of a shell, relative to the outer one


def _heart(z: Tensor, y: Tensor, x: Tensor) -> Tensor:
    """Negative inside a heart of about unit radius (Taubin 1994, IEEE Comput. Graph. Appl. 14:14)."""
    return (x**2 + 9 / 4 * y**2 + z**2 - 1) ** 3 - x**2 * z**3 - 9 / 80 * y**2 * z**3


# name -> function of unit coordinates (z, y, x), negative inside the shape
SHAPES: dict[str, Callable[[Tensor, Tensor, Tensor], Tensor]] = {
    "sphere": lambda z, y, x: z**2 + y**2 + x**2 - 1,
    "shell": lambda z, y, x: ((z**2 + y**2 + x**2).sqrt() - (1 + HOLLOW) / 2).abs() - (1 - HOLLOW) / 2,
    "heart": _heart,
}
CONTROLS = (*SHAPES, "mirror")


def distance(n: int) -> Tensor:
    """(n, n, n) distance from index n // 2, voxels."""
    at = torch.arange(n, dtype=torch.float32, device="cpu") - n // 2
    return (at[:, None, None] ** 2 + at[:, None] ** 2 + at**2).sqrt()


def radial_average(volume: Tensor) -> Tensor:
    """(n, n, n) volume whose voxels are the means over shells of one voxel about index n // 2; its total is kept."""
    shell = distance(len(volume)).round().long().to(volume.device)
    means, _ = shell_means(volume, shell)
    return means.to(volume)[shell]


def magnified(name: str, total: float, voxel_size: float, box: int) -> Tensor:
    """A shipped molecule, (box, box, box) in V, magnified until its potential adds up to `total`.

    Its density stays; its edge grows with the cube root of the total.

    Raises
    ------
    InputError
        The magnified molecule does not fit into the box, or is not shipped.
    """
    own = float(structures.template(name, voxel_size, box).sum())
    made = structures.template(name, voxel_size * (own / total) ** (1 / 3), box)
    return made * (total / float(made.sum()))


def shape(volume: Tensor, name: str, voxel_size: float = 0.0) -> Tensor:
    """What stands in for a molecule: its total potential in another shape.

    Parameters
    ----------
    volume : (n, n, n) potential of the molecule, V, centred at n // 2
    name : one of `CONTROLS`; "radial", the radial average; or a shipped molecule, which is magnified to the same total
    voxel_size : A; needed for a shipped molecule

    Raises
    ------
    InputError
        The name is unknown, or the magnified molecule does not fit into the box.
    """
    check_known("a control", name, (*CONTROLS, "radial", *structures.BUILTIN))
    if name == "mirror":
        return volume.flip(2).roll(1 - volume.shape[2] % 2, 2)  # the centre stays at n // 2
    if name == "radial":
        return radial_average(volume)
    n, total = volume.shape[0], float(volume.sum())
    if name in structures.BUILTIN:
        return magnified(name, total, voxel_size, n).to(volume)
    level = float(volume[volume > INSIDE * volume.max()].mean())
    at = (torch.arange(n * FINE, dtype=torch.float32) + 0.5) / FINE - 0.5 - n // 2
    z, y, x = torch.meshgrid(at, at, at, indexing="ij")

    def filled(radius: float) -> Tensor:
        inside = (SHAPES[name](z / radius, y / radius, x / radius) < 0).float()
        return F.avg_pool3d(inside[None, None], FINE)[0, 0]

    low, high = 0.1, n / 2.0
    for _ in range(20):  # bisection: the filled volume grows with the radius
        middle = (low + high) / 2
        low, high = (middle, high) if level * float(filled(middle).sum()) < total else (low, middle)
    made = filled(high)
    return (made * (total / made.sum())).to(volume)


def fits(name: str, like: str, voxel_size: float, box: int) -> bool:
    """Whether a shipped molecule, magnified to the total potential of another one, fits into a box."""
    try:
        magnified(name, float(structures.template(like, voxel_size, box).sum()), voxel_size, box)
    except InputError:
        return False
    return True


def _replace(setting: Scenario, name: str, volume: Tensor, voxel_size: float, generator: torch.Generator) -> Tensor:
    wanted = setting.value("shape", "")
    return shape(volume, wanted, voxel_size) if wanted and name in structures.BUILTIN else volume


def scenario(base: Scenario, name: str) -> Scenario:
    """`base` with a control in place of each molecule, its neighbours too; `name` as in :func:`shape`."""
    levels = ({"shape": "sphere"}, {"shape": "shell"}, {"shape": "heart"})
    scenarios.register_factor("shape", Factor(levels, structure=_replace))
    return scenarios.changed(base, name=f"{base.name}_{name}", shape=name)
