"""The second opinion of a report: what template matching calls the subtomograms that a network has classified."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from scipy import optimize
from torch import Tensor

from .. import metrics
from ..data import Labelled, Unlabelled
from ..simulation import structures
from ..simulation.optics import Optics
from ..tomography.wedge import Wedge
from ..warps import Warps, target_styled
from . import spike_in
from .classifier import Predictions
from .predictions import NETWORK, TEMPLATES, decimals, safe_names
from .spike_in import SpikeInScore
from .template_matching import Matches, TemplateBank
from .verdict import BACKGROUND

MOST = 20_000  # subtomograms: some three minutes
BOTH = "network_and_templates"  # the answer of both, beside the names of methods


@dataclass(frozen=True, eq=False)
class Row:
    """Of one class: how many the network and the templates call by its name, and how often both agree.

    Attributes
    ----------
    network, templates : numbers of subtomograms
    both : fraction of the network's that the templates call the same; NaN where there are none
    recall : of the templates on spike-ins, as a text; "" without
    """

    name: str
    network: int
    templates: int
    both: float
    recall: str


@dataclass(frozen=True)
class Combination:
    """Which molecule it is: a logarithmic pool of network and templates (Genest and Zidek 1986, Statist. Sci. 1:114).

    The network alone says how probable it is that a subtomogram shows one of the molecules, and not a membrane or ice:
    real particles resemble their template less than simulated ones do, so that is no measure of it. Among the
    molecules, the logarithm of the probability is `network` times that of the network's, plus `sharpness` times the
    correlation, up to a number that they share.

    Attributes
    ----------
    molecules : indices of the classes with a rigid structure, two at least
    network, sharpness : weights, at least 0
    """

    molecules: tuple[int, ...]
    network: float
    sharpness: float

    def probabilities(self, p: Tensor, matches: Matches) -> Tensor:
        """(N, K) of both, from the network's probabilities (N, K)."""
        k, both = list(self.molecules), p.double().clone()
        pooled = self.network * both[:, k].clamp_min(1e-6).log() + self.sharpness * matches.correlation[:, k].double()
        both[:, k] = pooled.softmax(1) * both[:, k].sum(1, keepdim=True)
        return both.float()

    @classmethod
    def fit(cls, p: Tensor, matches: Matches, y: Tensor, molecules: Sequence[int]) -> Combination:
        """The weights with which the labels y (N,) of those subtomograms that show molecules are most likely.

        Each label counts as wrong with probability 1 / (N + 2), or few labels that are all right would make the answer
        infinitely sure (Platt 1999, Advances in Large Margin Classifiers, 61).
        """
        rows = torch.isin(y, torch.tensor(molecules)).nonzero()[:, 0]
        p, matches, y = p[rows], matches.subset(rows), y[rows]
        doubt = 1 / (len(y) + 2)

        def nll(weights: np.ndarray) -> float:
            log = cls(tuple(molecules), *weights).probabilities(p, matches).clamp_min(1e-30).log()
            right = log[torch.arange(len(y)), y].mean()
            return float(-(1 - doubt) * right - doubt * log[:, list(molecules)].mean())

        options = {"bounds": [(0.0, 10.0), (0.0, 1000.0)], "options": {"maxiter": 400}}
        found = optimize.minimize(nll, (1.0, 10.0), method="Nelder-Mead", **options)
        return cls(tuple(molecules), *map(float, found.x))

    @classmethod
    def of(
        cls,
        names: Sequence[str],
        bank: TemplateBank,
        network: Callable[[Tensor], Tensor],
        validation: Labelled,
        warps: Warps | None,
        generator: torch.Generator,
    ) -> Combination | None:
        """Fitted on simulated subtomograms that the network was not trained on, warped to look like the target's.

        So spike-ins stay an independent measure. None for fewer than two molecules, and for a network that was trained
        without warps: how right it is on the plain source says nothing of the target.

        Parameters
        ----------
        names : of the classes, or files
        network : boxes (M, 1, n, n, n) -> its calibrated probabilities (M, K)
        warps : of the network's training
        """
        molecules = rigid(names)
        if warps is None or len(molecules) < 2:
            return None
        x = target_styled(validation.x, warps, generator)
        return cls.fit(network(x), bank.match(x), validation.y, molecules)


@dataclass(frozen=True, eq=False)
class SecondOpinion:
    """What template matching says of N subtomograms. As a text it is a summary.

    Attributes
    ----------
    predictions : of the network
    matches : of the templates
    strange : (N,) bool, none of the classes with a template; None without spike-ins
    score, of_network : on spike-ins of the classes with a template; None without spike-ins
    combination : of both; None as in :meth:`Combination.of`
    of_both : its score on all spike-ins; None without either
    pooled : whether the answer of a job is :attr:`combined`, if there is a combination, and not the network's
    """

    predictions: Predictions
    matches: Matches
    strange: Tensor | None = None
    score: SpikeInScore | None = None
    of_network: SpikeInScore | None = None
    combination: Combination | None = None
    of_both: SpikeInScore | None = None
    pooled: bool = False

    @property
    def answers(self) -> bool:
        """Whether the answer of the job is :attr:`combined`."""
        return self.pooled and self.combination is not None

    @property
    def combined(self) -> Predictions:
        """Predictions of both. The unknown class is the network's: of real particles, templates mark too many."""
        if self.combination is None:
            return self.predictions
        p = self.combination.probabilities(self.predictions.probabilities, self.matches)
        return replace(self.predictions, probabilities=p)

    @property
    def compared(self) -> Tensor:
        """(N,) bool: the network's most probable class has a template, so that both could say the same."""
        return self.matches.with_template[self.predictions.probabilities.argmax(1)]

    @property
    def agrees(self) -> Tensor:
        """(N,) bool: the template of the network's most probable class is the best one."""
        return self.predictions.probabilities.argmax(1) == self.matches.labels

    @property
    def rows(self) -> list[Row]:
        """One for each class with a template."""
        called, out = self.predictions.probabilities.argmax(1), []
        for k in self.matches.with_template.nonzero()[:, 0].tolist():
            mine, recall = called == k, ""
            if self.score is not None and self.score.n[k]:
                recall = f"{self.score.recall[k]:.2f}"
            both = float(self.agrees[mine].float().mean()) if mine.any() else float("nan")
            out.append(
                Row(self.matches.classes[k], int(mine.sum()), int((self.matches.labels == k).sum()), both, recall)
            )
        return out

    @property
    def table(self) -> tuple[np.ndarray, tuple[str, ...], list[str]]:
        """Numbers (K, K') of subtomograms by class of the network and by class of the best template; their names."""
        shown, k = self.matches.with_template.nonzero()[:, 0].tolist(), len(self.matches.classes)
        pairs = self.predictions.probabilities.argmax(1) * k + self.matches.labels
        counts = torch.bincount(pairs, minlength=k * k).reshape(k, k).numpy()
        return counts[:, shown], self.matches.classes, [self.matches.classes[j] for j in shown]

    @property
    def columns(self) -> dict[str, list[str]]:
        """Name -> cells of the N subtomograms, for predictions.star."""
        names = safe_names(self.matches.classes)
        cells: dict[str, list[str]] = dict.fromkeys((NETWORK, *TEMPLATES), [])
        if self.answers:
            cells[NETWORK] = [names[k] for k in self.predictions.probabilities.argmax(1).tolist()]
        cells[TEMPLATES[0]] = [names[k] for k in self.matches.labels.tolist()]
        cells[TEMPLATES[1]] = decimals(self.matches.correlation.nan_to_num(-1.0).amax(1).numpy())
        cells[TEMPLATES[2]] = [] if self.strange is None else [str(int(value)) for value in self.strange]
        return {name: values for name, values in cells.items() if values}

    @property
    def numbers(self) -> dict[str, float]:
        """Name -> number, for the manifest of a notebook."""
        out = {"template_agreement": float(self.agrees[self.compared].float().mean())} if self.compared.any() else {}
        if self.score is not None:
            out["template_spike_balanced_accuracy"] = self.score.balanced_accuracy
        return out

    @property
    def better(self) -> bool:
        """Whether templates are right on spike-ins more often than the network, by more than 2 standard errors."""
        return self.score is not None and self.of_network is not None and self.of_network.worse_than(self.score)

    @property
    def warnings(self) -> list[str]:
        """A sentence where the templates are better on spike-ins than the network that answers."""
        if self.pooled or self.combination is None or not self.better:
            return []
        return [
            f"Template matching is right more often on spike-ins (balanced accuracy {self.score}, the network "
            f"{self.of_network}): where your molecules are rigid and like their structures, prefer _csTemplateClass of "
            "predictions.star to _csClass, or run again with templates=combined."
        ]

    def __str__(self) -> str:
        n, parts = int(self.compared.sum()), []
        if n:
            same = float(self.agrees[self.compared].float().mean())
            parts.append(f"agrees with the network on {same:.0%} of {n} subtomograms")
        if self.score is not None:
            parts.append(f"balanced accuracy on spike-ins {self.score}, of the network {self.of_network}")
        if self.strange is not None:
            share = float(self.strange.float().mean())
            parts.append(f"by its templates {int(self.strange.sum())} ({share:.1%}) fit no class with a template")
        return f"template matching: {'; '.join(parts)}" if parts else ""


def second_opinion(
    names: Sequence[str],
    predictions: Predictions,
    subtomograms: Unlabelled,
    adapted_to: Unlabelled,
    *,
    network: Callable[[Tensor], Tensor],
    validation: Labelled,
    warps: Warps | None,
    spikes: Labelled | None,
    far: Labelled | None,
    wedge: Wedge | None,
    optics: Optics,
    generator: torch.Generator,
    seed: int = 0,
    device: str | torch.device = "auto",
) -> SecondOpinion | None:
    """Template matching of subtomograms; None for fewer than two classes beside `ice`, or more than `MOST` of them.

    Parameters
    ----------
    names : of the classes, or files
    predictions : of the network for the subtomograms
    adapted_to : the target's subtomograms that decide what is usual
    network, validation, warps, generator : as in :meth:`Combination.of`
    spikes, far : spike-ins with usual and with large picking errors; None where there are none
    wedge, optics : as in :meth:`TemplateBank.of`
    """
    if len(subtomograms) > MOST or sum(name != BACKGROUND for name in names) < 2:
        return None
    bank = TemplateBank.of(names, adapted_to.x, optics, wedge, seed=seed, device=device)
    found = bank.match(subtomograms.x, progress=True)
    combination = Combination.of(names, bank, network, validation, warps, generator)
    if spikes is None or far is None:
        return SecondOpinion(predictions, found, combination=combination)
    known, by_network, of_both = bank.match(spikes.x), network(spikes.x), None
    if combination is not None:
        worse = combination.probabilities(network(far.x), bank.match(far.x))
        both = combination.probabilities(by_network, known)
        of_both = spike_in.score(both, spikes, metrics.balanced_accuracy(worse, far.y))
    rows = known.with_template[spikes.y].nonzero()[:, 0]
    some, target = spikes.subset(rows), found if adapted_to.x is subtomograms.x else bank.match(adapted_to.x)
    own = known.subset(rows)
    return SecondOpinion(
        predictions,
        found,
        found.strangeness(own.limits(some.y, target)) > 0,
        spike_in.score(F.one_hot(own.labels, len(names)).float(), some),
        spike_in.score(by_network[rows], some),
        combination,
        of_both,
    )


def reused(
    names: Sequence[str],
    predictions: Predictions,
    subtomograms: Unlabelled,
    adapted_to: Unlabelled,
    told: Mapping[str, Any],
    device: str | torch.device = "auto",
) -> SecondOpinion | None:
    """The answer of a saved network and templates on other subtomograms; None for more than `MOST` of them.

    Parameters
    ----------
    names : built-in names or files of the network's classes, in its order
    predictions : of the network
    told : of :func:`kept`
    """
    if len(subtomograms) > MOST:
        return None
    wedge = Wedge(**told["wedge"]) if told["wedge"] else None
    optics = spike_in.stated_optics(subtomograms.voxel_size, **told["optics"])
    bank = TemplateBank.of(names, adapted_to.x, optics, wedge, seed=told["seed"], device=device)
    combination = Combination(tuple(rigid(names)), told["network"], told["sharpness"])
    found = bank.match(subtomograms.x, progress=True)
    return SecondOpinion(predictions, found, combination=combination, pooled=True)


def kept(combination: Combination, wedge: Wedge | None, optics: Mapping[str, float], seed: int) -> dict[str, Any]:
    """What a saved network must know to answer with templates again; `optics` as `spike_in.stated_optics` takes it."""
    weights = {"network": combination.network, "sharpness": combination.sharpness}
    return {**weights, "wedge": asdict(wedge) if wedge else None, "optics": dict(optics), "seed": seed}


def left_out(names: Sequence[str], n: int) -> list[str]:
    """A sentence where n subtomograms are too many to ask templates for their molecules; [] otherwise."""
    if n <= MOST or len(rigid(names)) < 2:
        return []
    return [
        f"Template matching was not asked: it takes at most {MOST:,} subtomograms, these are {n:,}, so the network "
        "answers alone. Where molecules must be told apart, classify them in several parts."
    ]


def rigid(names: Sequence[str]) -> list[int]:
    """Indices of the classes that are molecules: not ice, and not a membrane, whose template is a mere sheet."""
    return [k for k, name in enumerate(names) if structures.diameter(name)]
