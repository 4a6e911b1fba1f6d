"""Methods: each is a named sum of loss terms. :func:`register` adds one, from a script or a notebook cell too."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from . import losses
from .errors import InputError
from .models import NORMS, ClassDiscriminators, DomainDiscriminator, Network
from .support.processes import Group
from .support.runtime import check_known, did_you_mean
from .warps import WARPS


@dataclass
class Batch:
    """Inputs to a loss term. Contains no target labels. Features are computed lazily and cached.

    Attributes
    ----------
    network : the classifier network
    x_s, y_s : source subtomograms (N, 1, Z, Y, X) and their classes (N,)
    x_w : the same subtomograms warped, or None where the method has no warps
    x_t : target subtomograms, after the student augmentation
    reversal : coefficient of gradient reversal and of every term with a warm-up, rising from 0 to at most 1
    teacher_probabilities : (N, K) of the teacher for x_t before the student augmentation, where a term needs them
    group : the processes that compute the features together; each has the whole batch
    mixed : compute the features in bfloat16 where torch holds that safe; all losses are computed in float32
    """

    network: Network
    x_s: Tensor
    y_s: Tensor
    x_w: Tensor | None
    x_t: Tensor
    reversal: float
    teacher_probabilities: Tensor | None = None
    group: Group = Group()
    mixed: bool = False

    def _features(self, x: Tensor) -> Tensor:
        with torch.autocast(x.device.type, torch.bfloat16, enabled=self.mixed):
            return self.group.shared(self.network.features, x).float()

    @cached_property
    def features_s(self) -> Tensor:
        """Features (N, F) of the source."""
        return self._features(self.x_s)

    @cached_property
    def features_w(self) -> Tensor:
        """Features (N, F) of the warped source."""
        if self.x_w is None:
            raise InputError("A term uses the warped source, but the method has no warps: name some in `warps`.")
        return self._features(self.x_w)

    @cached_property
    def features_t(self) -> Tensor:
        """Features (N, F) of the target."""
        return self._features(self.x_t)

    @cached_property
    def logits_t(self) -> Tensor:
        """Logits (N, K) of the target."""
        return self.network.head(self.features_t)

    @property
    def features_aligned(self) -> Tensor:
        """Source features that are aligned with the target: of the warped source where there is one."""
        return self.features_s if self.x_w is None else self.features_w

    @property
    def domain(self) -> Tensor:
        """1 for source and 0 for target, (2N,), in the order of `reversed_features`."""
        ones = torch.ones(len(self.features_aligned), device=self.features_aligned.device)
        return torch.cat([ones, torch.zeros(len(self.features_t), device=ones.device)])

    @property
    def probabilities(self) -> Tensor:
        """Class probabilities (2N, K) in the order of `reversed_features`, without gradient."""
        return torch.cat([self.network.head(self.features_aligned), self.logits_t]).softmax(1).detach()

    @property
    def reversed_features(self) -> Tensor:
        """Source, then target features (2N, F) behind a gradient reversal: the input of a discriminator."""
        return losses.reverse_gradient(torch.cat([self.features_aligned, self.features_t]), self.reversal)


Adversary = Callable[[int, int], nn.Module]


@dataclass(frozen=True)
class Term:
    """A loss term of a method, and the discriminator that it trains against.

    Attributes
    ----------
    loss : `loss(batch)`, or `loss(batch, adversary)` for a term with an adversary -> scalar
    adversary : (n_features, n_classes) -> discriminator, trained with the network; None for none
    supervised : uses source labels; a method needs at least one such term
    teacher : needs a moving average of the network (`Batch.teacher_probabilities`)
    """

    loss: Callable[..., Tensor]
    adversary: Adversary | None = None
    supervised: bool = False
    teacher: bool = False

    def __call__(self, batch: Batch, adversary: nn.Module | None = None) -> Tensor:
        return self.loss(batch) if self.adversary is None else self.loss(batch, adversary)


def _mada(b: Batch, adversary: nn.Module) -> Tensor:
    p = b.probabilities  # without gradient: the network must not move the gate to please the adversary
    return losses.mada_loss(adversary(losses.gate(b.reversed_features, p)), b.domain)


def _mada_loss_gated(b: Batch, adversary: nn.Module) -> Tensor:
    p = b.probabilities
    ungated = b.reversed_features.unsqueeze(1).expand(-1, p.shape[1], -1)
    return losses.mada_loss(adversary(ungated), b.domain, weight=p)


TERMS: dict[str, Term] = {
    "source": Term(lambda b: F.cross_entropy(b.network.head(b.features_s), b.y_s), supervised=True),
    "warped": Term(lambda b: F.cross_entropy(b.network.head(b.features_w), b.y_s), supervised=True),
    "mada": Term(_mada, ClassDiscriminators),
    "mada_loss_gated": Term(_mada_loss_gated, ClassDiscriminators),
    "dann": Term(
        lambda b, adversary: losses.dann_loss(adversary(b.reversed_features), b.domain),
        lambda n_features, n_classes: DomainDiscriminator(n_features),
    ),
    "coral": Term(lambda b: b.reversal * losses.coral(b.features_aligned, b.features_t)),
    "mmd": Term(lambda b: b.reversal * losses.mmd(b.features_aligned, b.features_t)),
    "mcc": Term(lambda b: b.reversal * losses.mcc(b.logits_t)),
    "im": Term(lambda b: -b.reversal * losses.information_maximisation(b.logits_t.softmax(1))),
    "teacher": Term(lambda b: b.reversal * losses.self_training(b.logits_t, b.teacher_probabilities), teacher=True),
}


@dataclass(frozen=True)
class Method:
    """A sum of weighted terms, and how the source and the target are shown to the network.

    Attributes
    ----------
    terms : (name in TERMS, weight) pairs
    warps : names in warps.WARPS, applied to the source for the terms that use the warped source
    warp_training : "realism" (warps fool an image discriminator), "min-max" (warps maximise the task loss) or None
    student_augmentation : warps through which the network sees the target; a teacher sees it without
    norm : normalisation of the network, see :class:`models.Network`
    own_background : it learns from molecules in the target's own particle-free boxes, too, where there are any
    unaligned : name of the same method without adversaries, for :func:`selection.choose`; "" for none
    oracle : trained on target labels, as an upper bound
    """

    terms: tuple[tuple[str, float], ...]
    description: str
    warps: tuple[str, ...] = ()
    warp_training: str | None = None
    student_augmentation: tuple[str, ...] = ()
    norm: str = "group"
    own_background: bool = False
    unaligned: str = ""
    oracle: bool = False


_SOURCE = ("source", 1.0)
_BOTH = (_SOURCE, ("warped", 1.0))
_WARPS = ("deformation", "spectrum", "noise")
_TARGET_STYLE = ("shift", "crowding", "spectrum", "histogram")

METHODS: dict[str, Method] = {
    "source_only": Method((_SOURCE,), "cross-entropy on the simulated source: no adaptation, the lower bound"),
    "dann": Method((_SOURCE, ("dann", 1.0)), "one domain discriminator behind a gradient reversal"),
    "mada": Method((_SOURCE, ("mada", 1.0)), "one domain discriminator per class, gated by the prediction"),
    "coral": Method((_SOURCE, ("coral", 1.0)), "equal means and covariances of the features"),
    "mmd": Method((_SOURCE, ("mmd", 1.0)), "equal kernel means of the features"),
    "mcc": Method((_SOURCE, ("mcc", 1.0)), "target predictions confuse classes as little as possible"),
    "self_training": Method(
        (_SOURCE, ("teacher", 1.0)),
        "pseudo-labels of its own moving average above a confidence threshold",
        student_augmentation=("shift", "optics"),
    ),
    "adabn": Method((_SOURCE,), "batch normalisation with the statistics of each domain", norm="batch"),
    "warp_only": Method(_BOTH, "original and warped source; the warps are trained for realism", _WARPS, "realism"),
    "warp_minmax": Method(_BOTH, "original and warped source; the warps maximise the task loss", _WARPS, "min-max"),
    "cryoshift_paper": Method(
        (*_BOTH, ("mada", 1.0)),
        "the published recipe with its defects repaired: noise and deformation warps",
        ("deformation", "noise"),
        "realism",
    ),
    "cryoshift_reference": Method(
        (*_BOTH, ("mada", 1.0)),
        "the published recipe with its defects repaired, and a spectrum warp",
        _WARPS,
        "realism",
    ),
    "cryoshift_warps": Method(_BOTH, "cryoshift without its adversaries", _TARGET_STYLE, own_background=True),
    # At weight 1 the gradient of the adversaries is some 30 times smaller than that of the cross-entropy.
    "cryoshift": Method(
        (*_BOTH, ("mada", 5.0)),
        "original source, warped source with the target's spectrum, grey values and neighbours, class-wise adversaries",
        _TARGET_STYLE,
        own_background=True,
        unaligned="cryoshift_warps",
    ),
    # Has the terms of source_only: the caller passes the labelled target-train set as its source.
    "oracle": Method((_SOURCE,), "trained on target labels: the upper bound, not a method to use", oracle=True),
}


def register(
    name: str,
    *,
    terms: Mapping[str, float | Term | Callable[..., Tensor]],
    weights: Mapping[str, float] | None = None,
    adversary: Adversary | None = None,
    description: str = "",
    warps: tuple[str, ...] = (),
    warp_training: str | None = None,
    student_augmentation: tuple[str, ...] = (),
    norm: str = "group",
    own_background: bool = False,
    unaligned: str = "",
    overwrite: bool = False,
) -> Method:
    """Add a method to METHODS, and its new terms to TERMS; the method is returned.

    Parameters
    ----------
    terms : term -> weight of a known term, or a new term: a :class:`Term`, or a function `loss(batch)`
        (`loss(batch, adversary)` where `adversary` is given)
    weights : of the new terms, 1 for those not named
    adversary : (n_features, n_classes) -> discriminator, for the new terms that are plain functions
    overwrite : replace a method or a term of the same name instead of refusing, e.g. when a cell is run again
    others : as in :class:`Method`

    Raises
    ------
    InputError
        a name that is taken, an unknown term, warp or norm, or no supervised term
    """
    if name in METHODS and not overwrite:
        raise InputError(f"A method {name!r} exists; choose another name, or pass overwrite=True.")
    new = {
        term: value if isinstance(value, Term) else Term(value, adversary)
        for term, value in terms.items()
        if callable(value)
    }
    for term, value in terms.items():
        if term in new and term in TERMS and not overwrite:
            raise InputError(f"A term {term!r} exists; choose another name, or pass overwrite=True.")
        if term not in new and term not in TERMS:
            raise InputError(
                f"Expected a term out of {', '.join(TERMS)}, or a function, got {term!r}: {value!r}"
                f"{did_you_mean(term, TERMS)}"
            )
    if unknown := set(weights or {}) - new.keys():
        raise InputError(f"Expected weights of new terms ({', '.join(new) or 'none'}), got {sorted(unknown)}.")
    if not any((new.get(term) or TERMS[term]).supervised for term in terms):
        raise InputError(f"Expected a term with source labels, such as source or warped, got {', '.join(terms)}.")
    given = {**dict.fromkeys(new, 1.0), **(weights or {})}
    weighted = tuple((term, float(given.get(term, value))) for term, value in terms.items())  # type: ignore[arg-type]
    parts = (tuple(warps), warp_training, tuple(student_augmentation), norm, own_background, unaligned)
    method = Method(weighted, description or name, *parts)
    _check(method)
    TERMS.update(new)
    METHODS[name] = method
    return method


def _check(method: Method) -> None:
    for warp in (*method.warps, *method.student_augmentation):
        check_known("a warp", warp, WARPS)
    check_known("a norm", method.norm, NORMS)
    if method.unaligned:
        check_known("a method", method.unaligned, METHODS)
    if method.warp_training:
        check_known("warp_training", method.warp_training, ("realism", "min-max"))


def resolve(name: str, without: tuple[str, ...] = ()) -> tuple[dict[str, float], Method]:
    """Terms (name -> weight) of a method, and the method, without the terms and warps named in `without`."""
    check_known("a method", name, METHODS)
    method = METHODS[name]
    _check(method)
    terms = {term: weight for term, weight in method.terms if term not in without}
    has = [*dict(method.terms), *method.warps, *method.student_augmentation]
    has += ["own_background"] * method.own_background
    if unknown := set(without) - set(has):
        raise InputError(f"Expected `without` to name parts of {name!r} ({', '.join(has)}), got {sorted(unknown)}.")
    if not any(TERMS[term].supervised for term in terms):
        raise InputError(f"without={sorted(without)} leaves {name!r} no term with source labels; keep one.")
    kept, seen = (tuple(w for w in ws if w not in without) for ws in (method.warps, method.student_augmentation))
    training = method.warp_training if kept else None
    own = method.own_background and "own_background" not in without
    unaligned = method.unaligned if any(TERMS[term].adversary for term in terms) else ""
    method = replace(method, own_background=own, unaligned=unaligned)
    return terms, replace(method, warps=kept, student_augmentation=seen, warp_training=training)
