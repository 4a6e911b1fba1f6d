"""Every method is a named sum of terms. To add one, add an entry to METHODS (and to TERMS, if the term is new)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from . import losses
from .models import ClassDiscriminators, Classifier, DomainDiscriminator
from .volumes import InputError


@dataclass
class Batch:
    """What a term may look at. There is no target label among it.

    `features_s` and `logits_w` are those of the warped copies where the method warps, else of the originals: these
    cubes are to look like target cubes. The target's are meaningful only to terms outside NEED_NO_TARGET. `strength`
    is the reversal's, 0 at first and never above 1.
    """

    y_s: Tensor
    logits_s: Tensor
    logits_w: Tensor
    features_s: Tensor
    logits_t: Tensor
    features_t: Tensor
    strength: float
    adversary: nn.Module | None

    @property
    def domain(self) -> Tensor:
        """1 for source, 0 for target, in the order of `both`."""
        ones = torch.ones(len(self.features_s), device=self.features_s.device)
        return torch.cat([ones, torch.zeros(len(self.features_t), device=ones.device)])

    @property
    def both(self) -> Tensor:
        return losses.reverse_gradient(torch.cat([self.features_s, self.features_t]), self.strength)


def _mada(b: Batch, gated: str = "features") -> Tensor:
    p = torch.cat([b.logits_w, b.logits_t]).softmax(1).detach()  # a gate is not to be moved to please the adversary
    shown = losses.gate(b.both, p) if gated == "features" else b.both.unsqueeze(1).expand(-1, p.shape[1], -1)
    return losses.mada_loss(b.adversary(shown), p, b.domain, gated)


TERMS: dict[str, Callable[[Batch], Tensor]] = {
    "source": lambda b: F.cross_entropy(b.logits_s, b.y_s),
    "warped": lambda b: F.cross_entropy(b.logits_w, b.y_s),
    "mada": _mada,
    "mada_loss_gated": lambda b: _mada(b, gated="loss"),
    "dann": lambda b: losses.dann_loss(b.adversary(b.both), b.domain),
    "coral": lambda b: b.strength * losses.coral(b.features_s, b.features_t),
    "mmd": lambda b: b.strength * losses.mmd(b.features_s, b.features_t),
    "mcc": lambda b: b.strength * losses.mcc(b.logits_t),
    "im": lambda b: -b.strength * losses.information_maximisation(b.logits_t.softmax(1)),
}
NEED_NO_TARGET = {"source", "warped"}


def adversary(terms: dict[str, float], model: Classifier, n_classes: int) -> nn.Module | None:
    """The discriminator of features that the terms ask for, if any."""
    if {"mada", "mada_loss_gated"} & terms.keys():
        return ClassDiscriminators(model.n_features, n_classes)
    return DomainDiscriminator(model.n_features) if "dann" in terms else None


@dataclass(frozen=True)
class Method:
    """A sum of (term, weight), the warps that make the copies, and the game that trains the warps, if any.

    `game` is "realism" (fool an image discriminator), "min-max" (maximise the task loss) or None (not trained).
    """

    terms: tuple[tuple[str, float], ...]
    description: str
    warps: tuple[str, ...] = ()
    game: str | None = None
    oracle: bool = False


_SOURCE = ("source", 1.0)
_COPIES = (_SOURCE, ("warped", 1.0))
_WARPS = ("deformation", "spectrum", "noise")

METHODS: dict[str, Method] = {
    "source_only": Method((_SOURCE,), "cross-entropy on the simulated cubes: no adaptation, the lower bound"),
    "dann": Method((_SOURCE, ("dann", 1.0)), "one domain discriminator behind a gradient reversal"),
    "mada": Method((_SOURCE, ("mada", 1.0)), "one domain discriminator per class, gated by the prediction"),
    "coral": Method((_SOURCE, ("coral", 1.0)), "equal means and covariances of the features"),
    "mmd": Method((_SOURCE, ("mmd", 1.0)), "equal kernel means of the features"),
    "mcc": Method((_SOURCE, ("mcc", 1.0)), "target predictions confuse classes as little as possible"),
    "warp_only": Method(_COPIES, "originals and warped copies; the warps play for realism", _WARPS, "realism"),
    "warp_minmax": Method(_COPIES, "originals and warped copies; the warps play against the task", _WARPS, "min-max"),
    "cryoshift_reference": Method(
        (*_COPIES, ("mada", 1.0)), "the published recipe with its defects repaired", _WARPS, "realism"
    ),
    # The terms of source_only: notebook 05 passes the *revealed* target-train set as its source. An upper bound.
    "oracle": Method((_SOURCE,), "trained on target labels: the upper bound, never a method to use", oracle=True),
}


def resolve(name: str, without: tuple[str, ...] = ()) -> tuple[dict[str, float], tuple[str, ...], str | None]:
    """Terms (name -> weight), warps and game of a method, less the terms and warps named in `without`."""
    if name not in METHODS:
        raise InputError(f"method={name!r} is unknown; wanted one of {', '.join(METHODS)}.")
    method = METHODS[name]
    unknown = set(without) - {term for term, _ in method.terms} - set(method.warps)
    if unknown:
        raise InputError(f"without={sorted(unknown)} names nothing that {name!r} has: {method.terms}, {method.warps}.")
    terms = {term: weight for term, weight in method.terms if term not in without}
    warps = tuple(warp for warp in method.warps if warp not in without)
    return terms, warps, method.game if warps else None
