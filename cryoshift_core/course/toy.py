"""A toy of domain adaptation that can be seen whole: two classes in the plane, and an encoder from plane to plane."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import matplotlib.pyplot as plt
import torch
import torch.nn.functional as F
from matplotlib.figure import Figure
from torch import Tensor, nn

from .. import losses
from ..application.pictures import COLOURS
from ..models import ClassDiscriminators, DomainDiscriminator

N = 400  # points of each domain
# loss(features, coefficient of the gradient reversal, logits, discriminator, domain) -> scalar
DomainLoss = Callable[[Tensor, float, Tensor, nn.Module, Tensor], Tensor]


@dataclass(frozen=True)
class Shift:
    """How the toy's target differs from its source: turned (degrees), moved, and another share of class 0."""

    angle: float = 35.0
    moved: tuple[float, float] = (0.6, 1.1)
    share: float = 0.8


@dataclass(frozen=True)
class Trained:
    """A trained toy: features (N, 2), logits (N, 2) and classes (N,). Target classes only serve scores."""

    f_s: Tensor
    f_t: Tensor
    logits_s: Tensor
    logits_t: Tensor
    y_s: Tensor
    y_t: Tensor

    @property
    def source_accuracy(self) -> float:
        """Balanced accuracy on the source."""
        return _balanced(self.logits_s, self.y_s)

    @property
    def target_accuracy(self) -> float:
        """Balanced accuracy on the target, whose classes took no part in the training."""
        return _balanced(self.logits_t, self.y_t)


def _balanced(logits: Tensor, y: Tensor) -> float:
    right = (logits.argmax(1) == y).float()
    return sum(float(right[y == k].mean()) for k in (0, 1)) / 2


def points(n: int, shift: Shift, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """n points (n, 2) around the centres of two classes, turned and moved, and their classes (n,)."""
    y = (torch.rand(n, generator=generator) > shift.share).long()
    x = torch.randn(n, 2, generator=generator) * 0.35 + torch.stack([2.0 * y - 1, torch.zeros(n)], 1)
    c, s = math.cos(math.radians(shift.angle)), math.sin(math.radians(shift.angle))
    return x @ torch.tensor([[c, s], [-s, c]]) + torch.tensor(shift.moved), y


def mada(f: Tensor, coefficient: float, logits: Tensor, discriminators: nn.Module, domain: Tensor) -> Tensor:
    """The class-wise domain loss (Pei et al. 2018), for :func:`train` with `per_class`."""
    gated = losses.gate(losses.reverse_gradient(f, coefficient), logits.softmax(1).detach())
    return losses.mada_loss(discriminators(gated), domain)


def train(
    loss: DomainLoss | None = None,
    shift: Shift | None = None,
    *,
    per_class: bool = False,
    coefficient: float = 1.0,
    seed: int = 0,
    steps: int = 300,
) -> Trained:
    """The toy after training with the source's labels and a domain loss; the target's labels are not used.

    Parameters
    ----------
    loss : None for no adaptation
    shift : of the target; None for the default one
    per_class : the loss gets one discriminator per class, see :class:`models.ClassDiscriminators`
    coefficient : of the gradient reversal at the end of its warm-up
    """
    g = torch.Generator().manual_seed(seed)
    (x_s, y_s), (x_t, y_t) = points(N, Shift(0.0, (0.0, 0.0), 0.5), g), points(N, shift or Shift(), g)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        encoder = nn.Sequential(nn.Linear(2, 32), nn.ReLU(), nn.Linear(32, 2))
        head = nn.Linear(2, 2)
        discriminator: nn.Module = ClassDiscriminators(2, 2) if per_class else DomainDiscriminator(2)
    parts = [*encoder.parameters(), *head.parameters(), *discriminator.parameters()]
    optimiser = torch.optim.Adam(parts, lr=5e-3)
    domain = torch.cat([torch.ones(N), torch.zeros(N)])
    for step in range(steps):
        f = encoder(torch.cat([x_s, x_t]))
        logits = head(f)
        total = F.cross_entropy(logits[:N], y_s)
        if loss:
            total = total + loss(f, coefficient * losses.ramp(step / steps), logits, discriminator, domain)
        optimiser.zero_grad()
        total.backward()
        optimiser.step()
    with torch.no_grad():
        f = encoder(torch.cat([x_s, x_t]))
        logits = head(f)
    return Trained(f[:N], f[N:], logits[:N], logits[N:], y_s, y_t)


def draw(trained: Mapping[str, Trained]) -> Figure:
    """Figure with the features of each trained toy: colours are domains, markers are classes."""
    fig, axes = plt.subplots(1, len(trained), figsize=(3.2 * len(trained), 3.1), layout="constrained", squeeze=False)
    for ax, (name, one) in zip(axes[0], trained.items(), strict=True):
        for f, y, colour in ((one.f_s, one.y_s, "source"), (one.f_t, one.y_t, "target")):
            for k, marker in ((0, "o"), (1, "x")):
                label = f"{colour}, class {k}"
                ax.scatter(*f[y == k].T, s=10, marker=marker, alpha=0.5, color=COLOURS[colour], label=label)
        title = f"{name}\ntarget balanced accuracy {one.target_accuracy:.2f}"
        ax.set(title=title, xticks=[], yticks=[], xlabel="feature 1")
    axes[0, 0].set_ylabel("feature 2")
    axes[0, 0].legend(fontsize=6)
    return fig
