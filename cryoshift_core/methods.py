"""Every method is a named sum of terms. To add one, add an entry to METHODS (and to TERMS, if the term is new)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from . import losses
from .errors import InputError
from .models import ClassDiscriminators, Classifier, DomainDiscriminator


@dataclass
class Batch:
    """What a term may look at; there is no target label among it. A term costs what it looks at, once.

    Attributes
    ----------
    model : the classifier
    x_s, y_s : source cubes (N, 1, Z, Y, X) and their classes (N,)
    x_w : their warped copies, or None where the method has no warps
    x_t : target cubes, as the classifier is to see them
    strength : of the reversal and of whatever is to set in slowly, 0 at first and never above 1
    adversary : the discriminator of features, if a term asks for one
    teacher_probabilities : (N, K) probabilities of the teacher for x_t before its change of view, if a term asks for them
    """

    model: nn.Module
    x_s: Tensor
    y_s: Tensor
    x_w: Tensor | None
    x_t: Tensor
    strength: float
    adversary: nn.Module | None = None
    teacher_probabilities: Tensor | None = None

    @cached_property
    def features_s(self) -> Tensor:
        return self.model.features(self.x_s)

    @cached_property
    def features_w(self) -> Tensor:
        return self.model.features(self.x_w)

    @cached_property
    def features_t(self) -> Tensor:
        return self.model.features(self.x_t)

    @cached_property
    def logits_t(self) -> Tensor:
        return self.model.head(self.features_t)

    @property
    def features_near(self) -> Tensor:
        """Of the source cubes that are to look like target cubes: the copies, where there are any."""
        return self.features_s if self.x_w is None else self.features_w

    @property
    def domain(self) -> Tensor:
        """1 for source, 0 for target, in the order of `both`."""
        ones = torch.ones(len(self.features_near), device=self.features_near.device)
        return torch.cat([ones, torch.zeros(len(self.features_t), device=ones.device)])

    @property
    def both(self) -> Tensor:
        return losses.reverse_gradient(torch.cat([self.features_near, self.features_t]), self.strength)


def _mada(b: Batch, gated: str = "features") -> Tensor:
    # a gate is not to be moved to please the adversary
    p = torch.cat([b.model.head(b.features_near), b.logits_t]).softmax(1).detach()
    shown = losses.gate(b.both, p) if gated == "features" else b.both.unsqueeze(1).expand(-1, p.shape[1], -1)
    return losses.mada_loss(b.adversary(shown), p, b.domain, gated)


TERMS: dict[str, Callable[[Batch], Tensor]] = {
    "source": lambda b: F.cross_entropy(b.model.head(b.features_s), b.y_s),
    "warped": lambda b: F.cross_entropy(b.model.head(b.features_w), b.y_s),
    "mada": _mada,
    "mada_loss_gated": lambda b: _mada(b, gated="loss"),
    "dann": lambda b: losses.dann_loss(b.adversary(b.both), b.domain),
    "coral": lambda b: b.strength * losses.coral(b.features_near, b.features_t),
    "mmd": lambda b: b.strength * losses.mmd(b.features_near, b.features_t),
    "mcc": lambda b: b.strength * losses.mcc(b.logits_t),
    "im": lambda b: -b.strength * losses.information_maximisation(b.logits_t.softmax(1)),
    "teacher": lambda b: b.strength * losses.self_training(b.logits_t, b.teacher_probabilities),
}
SUPERVISED = {"source", "warped"}


def adversary(terms: dict[str, float], model: Classifier, n_classes: int) -> nn.Module | None:
    """The discriminator of features that the terms ask for, if any."""
    if {"mada", "mada_loss_gated"} & terms.keys():
        return ClassDiscriminators(model.n_features, n_classes)
    return DomainDiscriminator(model.n_features) if "dann" in terms else None


@dataclass(frozen=True)
class Method:
    """A sum of (term, weight), the warps that make the copies, and the game that trains the warps, if any.

    `game` is "realism" (fool an image discriminator), "min-max" (maximise the task loss) or None (not trained).
    `view` names the warps through which the classifier sees target cubes; a teacher sees them as they are. `norm` is
    the classifier's, see :class:`models.Classifier`. `gradual` lets the warps set in with the reversal's ramp, for a
    method that learns from the copies alone: at full strength from the start they hide what there is to learn.
    """

    terms: tuple[tuple[str, float], ...]
    description: str
    warps: tuple[str, ...] = ()
    game: str | None = None
    view: tuple[str, ...] = ()
    norm: str = "group"
    gradual: bool = False
    oracle: bool = False


_SOURCE = ("source", 1.0)
_COPIES = (_SOURCE, ("warped", 1.0))
_WARPS = ("deformation", "spectrum", "noise")
_IMITATION = ("shift", "crowding", "spectrum", "histogram")
METHODS: dict[str, Method] = {
    "source_only": Method((_SOURCE,), "cross-entropy on the simulated cubes: no adaptation, the lower bound"),
    "dann": Method((_SOURCE, ("dann", 1.0)), "one domain discriminator behind a gradient reversal"),
    "mada": Method((_SOURCE, ("mada", 1.0)), "one domain discriminator per class, gated by the prediction"),
    "coral": Method((_SOURCE, ("coral", 1.0)), "equal means and covariances of the features"),
    "mmd": Method((_SOURCE, ("mmd", 1.0)), "equal kernel means of the features"),
    "mcc": Method((_SOURCE, ("mcc", 1.0)), "target predictions confuse classes as little as possible"),
    "self_training": Method(
        (_SOURCE, ("teacher", 1.0)), "follows its own moving average where that is sure", view=("shift", "optics")
    ),
    "adabn": Method((_SOURCE,), "batch normalisation with each domain's own statistics", norm="batch"),
    "warp_only": Method(_COPIES, "originals and warped copies; the warps play for realism", _WARPS, "realism"),
    "warp_minmax": Method(_COPIES, "originals and warped copies; the warps play against the task", _WARPS, "min-max"),
    "cryoshift_reference": Method(
        (*_COPIES, ("mada", 1.0)), "the published recipe with its defects repaired", _WARPS, "realism"
    ),
    "cryoshift": Method(
        (("warped", 1.0),),
        "copies alone, with the target's spectrum, grey values, neighbours and picking errors",
        _IMITATION,
        gradual=True,
    ),
    # The terms of source_only: notebook 05 passes the *revealed* target-train set as its source. An upper bound.
    "oracle": Method((_SOURCE,), "trained on target labels: the upper bound, never a method to use", oracle=True),
}


def resolve(name: str, without: tuple[str, ...] = ()) -> tuple[dict[str, float], Method]:
    """Terms (name -> weight) of a method and the method, less the terms, warps and views named in `without`."""
    if name not in METHODS:
        raise InputError(f"method={name!r} is unknown; wanted one of {', '.join(METHODS)}.")
    method = METHODS[name]
    terms = {term: weight for term, weight in method.terms if term not in without}
    if unknown := set(without) - dict(method.terms).keys() - {*method.warps, *method.view}:
        raise InputError(f"without={sorted(unknown)} names nothing that {name!r} has: {method.terms}, {method.warps}.")
    if not SUPERVISED & terms.keys():
        raise InputError(f"without={sorted(without)} leaves {name!r} no labelled term; keep source or warped.")
    kept = tuple(warp for warp in method.warps if warp not in without)
    view = tuple(warp for warp in method.view if warp not in without) if "teacher" in terms else method.view
    return terms, replace(method, warps=kept, view=view, game=method.game if kept else None)
