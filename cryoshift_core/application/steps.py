"""What each call of a :class:`job.Job` returns: printed it says what was found, `figures` shows it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from ..data import Labelled, Unlabelled
from ..simulation import structures
from ..tomography.wedge import Wedge, measured_samples
from ..training import Fit
from . import picks, pictures, pipeline
from .accuracy import Estimate
from .by_tomogram import TomogramRow, text
from .classifier import Classifier, Predictions
from .picks import Picks
from .predictions import Prevalence, by_class
from .purity import Cut
from .second_opinion import SecondOpinion
from .spike_in import SpikeInScore
from .target_data import Background, TargetData
from .verdict import FEWEST, IN_AVERAGE, Verdict

SHOWN, SHOWN_TOMOGRAMS = 256, 3  # subtomograms of a spectrum, figures of several tomograms


def _text(*lines: str, warnings: Sequence[str] = ()) -> str:
    return "\n".join([*filter(None, lines), *(f"WARNING: {warning}" for warning in warnings)])


def _tomograms(target: TargetData, name: str) -> dict[str, TargetData]:
    """Name of a figure -> the tomogram of a target, or the first three of several; {} without one."""
    shown = target.tomograms[:SHOWN_TOMOGRAMS]
    return {f"{name}_{k}" if target.parts else name: one for k, one in enumerate(shown, 1)}


class Step:
    """A result of a call. As a text it is its summary; :meth:`figures` has its pictures by name."""

    def __repr__(self) -> str:
        return str(self)

    def figures(self) -> dict[str, Figure]:
        """Name -> figure; {} where there is nothing to show."""
        return {}


@dataclass(frozen=True, eq=False, repr=False)
class Look(Step):
    """The input: `target`, the classes (`names` or files; () with a saved model), and `warnings`."""

    target: TargetData
    names: tuple[str, ...]
    warnings: tuple[str, ...]

    def __str__(self) -> str:
        x, data = self.target.subtomograms, self.target
        n = x.x.shape[-1]
        size = f"{n}³ voxels of {x.voxel_size:.4g} Å ({n * x.voxel_size:.0f} Å wide)"
        return _text(
            f"{len(data)} inputs, {len(data.kept)} subtomograms of {size}",
            *(f"class {structures.describe(name)}" for name in self.names),
            f"contrast: taken as protein {data.contrast}; the grey values indicate {data.guess.sign}: {data.guess.why}",
            warnings=self.warnings,
        )

    @property
    def rows(self) -> list[int]:
        """At most 50 rows of the list, counted from 1, for a slider."""
        return sorted({int(self.target.kept[i]) + 1 for i in np.linspace(0, len(self.target.kept) - 1, 50).round()
                       .astype(int)})  # fmt: skip

    def sections(self, axes: Sequence[Axes], row: int) -> None:
        """Draw three sections through a row of the list: of the tomogram as in the file, else of its subtomogram."""
        data, number = self.target, int(np.searchsorted(self.target.kept, row - 1))
        volume, zyx, at = data.tomogram, data.particles.zyx, row - 1
        if data.parts:
            part = int(data.subtomograms.groups[number])
            volume, zyx = data.parts[part].tomogram, data.parts[part].particles.zyx
            at = int(data.parts[part].kept[int((data.subtomograms.groups[:number] == part).sum())])
        if volume is not None and zyx is not None:
            pictures.orthoslices(axes, volume.data, zyx, zyx[at])
            return
        x = data.subtomograms.x[number]
        for ax, side, title in zip(axes, (x, x.transpose(1, 2), x.transpose(1, 3)), ("xy", "xz", "yz"), strict=True):
            pictures.show(ax, pictures.middle(side), f"{title}, row {row}", spread=4)

    def figures(self) -> dict[str, Figure]:
        """contrast, tomogram (where there is one) and subtomograms."""
        data, x = self.target, self.target.subtomograms.x
        out = {"contrast": pictures.contrast(x[:500], data.contrast)}
        for name, one in _tomograms(data, "tomogram").items():
            assert one.tomogram is not None  # as seen there
            volume, particles = one.tomogram, one.particles
            out[name] = pictures.tomogram(volume.data, particles.zyx, particles.groups, volume.voxel_size)
        eight = torch.linspace(0, len(data.kept) - 1, min(8, len(data.kept))).long()
        rows = [f"row {data.kept[i] + 1}" for i in eight.tolist()]
        out["subtomograms"] = pictures.gallery({"xy": x[eight], "xz": x[eight].transpose(2, 3)}, rows)
        return out


@dataclass(frozen=True, eq=False, repr=False)
class Simulation(Step):
    """`source` and `validation`, simulated for the classes, and `target`, the subtomograms to adapt to."""

    source: Labelled
    validation: Labelled
    target: Unlabelled
    warnings: tuple[str, ...]

    def __str__(self) -> str:
        return _text(
            f"{len(self.source)} simulated subtomograms to train with, {len(self.validation)} for validation, equally "
            f"many of {', '.join(self.source.classes)}; adapting to {len(self.target)} subtomograms",
            warnings=self.warnings,
        )

    def figures(self) -> dict[str, Figure]:
        """simulated: one of each class; spectra: of source and target."""
        source = self.source
        shown = pictures.one_of_each(source.x, source.y, len(source.classes))
        spectra = {"source": source.x[:SHOWN], "target": self.target.x[:SHOWN]}
        return {
            "simulated": pictures.gallery({"simulated": shown}, source.classes),
            "spectra": pictures.spectra(spectra, source.voxel_size),
        }


@dataclass(frozen=True, eq=False, repr=False)
class SpikeIns(Step):
    """Molecules of known class in particle-free boxes of the tomogram; all None where there are no such boxes.

    Attributes
    ----------
    boxes : particle-free
    joined : the source, and those to train with beside it
    own : those to train with
    spikes, far : those to measure the accuracy with, at the usual and at the pessimistic picking error
    wedge : measured in the boxes; None where they show none
    target : the subtomograms to adapt to
    """

    boxes: Background | None
    joined: Labelled | None
    own: Labelled | None
    spikes: Labelled | None
    far: Labelled | None
    wedge: Wedge | None
    target: Unlabelled
    warnings: tuple[str, ...]

    @property
    def snr(self) -> float:
        """Mean SNR of the spike-ins with a molecule; NaN without spike-ins."""
        return float("nan") if self.spikes is None else float(self.spikes.snr[self.spikes.snr > 0].mean())

    def __str__(self) -> str:
        if self.boxes is None:
            return _text("no spike-ins", warnings=self.warnings)
        n, train = len(self.boxes.spike_ins), self.boxes.train
        boxes = f"{n} particle-free boxes, all for spike-ins: too few to train with some of them"
        if self.boxes.of_rims:
            boxes = f"{n} boxes of rims and noise, all for spike-ins"
        if train is not None:
            boxes = f"{len(train)} particle-free boxes to train with, {n} others for spike-ins"
        wedge = "the boxes show no missing wedge, so the spike-ins get none"
        if self.wedge is not None:
            w = self.wedge
            wedge = f"tilts of {w.low:.0f} to {w.high:.0f} degrees in the boxes, axis at {w.tilt_axis:.0f} degrees"
        return _text(
            boxes,
            f"{len(self.own)} molecules in boxes to train with" if self.own else "",
            f"{len(self.spikes)} spike-ins, mean SNR {self.snr:.3g}" if self.spikes else "",
            wedge,
            warnings=self.warnings,
        )

    def figures(self) -> dict[str, Figure]:
        """ice: boxes; own_background; wedge; spike_spectra; spikes: beside the target's subtomograms."""
        if self.boxes is None:
            return {}
        ice, out = self.boxes.spike_ins, {}
        eight = ice[:8]
        rows = {"no particle, xy": eight, "no particle, xz": eight.transpose(2, 3)}
        out["ice"] = pictures.gallery(rows, [""] * len(eight))
        if self.own is not None:
            shown = pictures.one_of_each(self.own.x, self.own.y, len(self.own.classes))
            out["own_background"] = pictures.gallery({"in your boxes": shown}, self.own.classes)
        if self.spikes is not None:
            out["wedge"] = pictures.wedge(measured_samples(self.wedge, ice.shape[-1]))
            spectra = {"ice": ice, "target": self.target.x[:SHOWN], "spike-ins": self.spikes.x[:SHOWN]}
            out["spike_spectra"] = pictures.spectra(spectra, self.target.voxel_size)
            few = min(len(self.spikes.classes), len(self.target), 8)
            shown = pictures.one_of_each(self.spikes.x, self.spikes.y, few)
            rows = {"spike-ins": shown, "yours": self.target.x[:few]}
            out["spikes"] = pictures.gallery(rows, self.spikes.classes[:few])
        return out


@dataclass(frozen=True, eq=False, repr=False)
class Adaptation(Step):
    """What was trained: for each seed its `fits` (method -> fit) and the classifier that was chosen among them.

    A saved model is one classifier without fits.
    """

    method: str
    fits: tuple[Mapping[str, Fit], ...]
    classifiers: tuple[Classifier, ...]

    def __str__(self) -> str:
        if not self.fits:
            return "nothing was trained: the saved model is used"
        lines = []
        for number, classifier in enumerate(self.classifiers, 1):
            recipe = classifier.recipe
            which = f"seed {number} of {len(self.fits)}: " if len(self.fits) > 1 else ""
            lines.append(f"{which}{recipe['method']}, step {recipe['step']}: {recipe['reason'] or 'as asked for'}.")
        return _text(*lines, warnings=[w for w in (c.recipe["warning"] for c in self.classifiers) if w])

    def figures(self) -> dict[str, Figure]:
        """learning_curves: of the first seed."""
        if not self.fits:
            return {}
        curves = {name: fit.history for name, fit in self.fits[0].items()}
        return {"learning_curves": pictures.learning_curves(curves, ["source", "source_val_acc", "im_score"])}


@dataclass(frozen=True, eq=False, repr=False)
class Judgement(Step):
    """The `verdict` on the `predictions`, and what it was made from. The text begins with the verdict.

    Attributes
    ----------
    scores : method -> accuracy on spike-ins; {} without spike-ins
    used : the method whose predictions these are, or `second_opinion.BOTH`
    gap : name -> A-distance between simulated subtomograms and the target's
    x : subtomograms (N, 1, n, n, n) of the predictions
    source : simulated ones; None with a saved model
    expected : the balanced accuracy to expect; None without spike-ins
    """

    verdict: Verdict
    predictions: Predictions
    scores: dict[str, SpikeInScore]
    used: str
    gap: dict[str, float]
    x: Tensor
    source: Labelled | None
    warnings: tuple[str, ...]
    expected: Estimate | None = None

    def __str__(self) -> str:
        scored = [
            f"{name}: balanced accuracy {score} on {len(score.correct)} spike-ins"
            + (" (these are the predictions)" if name == self.used else "")
            for name, score in self.scores.items()
        ]
        looks = [
            f"the average of {name} resembles most, of the simulated ones: {other}"
            for name, other in self.verdict.looks_like.items()
        ]
        return _text(
            f"VERDICT: {self.verdict.head}",
            *(f"- {reason}" for reason in self.verdict.reasons),
            *scored,
            f"accuracy by the calibrated confidence: {float(self.predictions.confidence.mean()):.2f}",
            *([] if self.expected is None else [f"balanced accuracy to expect: {self.expected}"]),
            *looks,
            *(f"A-distance, {name}: {distance:.2f}" for name, distance in self.gap.items()),
            warnings=self.warnings,
        )

    def figures(self) -> dict[str, Figure]:
        """spike_recall: recall of each class and method; averages: of the predicted classes and of simulated ones."""
        out, names = {}, self.predictions.classes
        if self.scores:
            out["spike_recall"] = pictures.class_fractions({n: list(s.recall) for n, s in self.scores.items()}, names)
            (ax,) = out["spike_recall"].axes
            ax.axhline(1 / len(names), ls=":", color="black", lw=1)
            ax.set(ylabel="recall on spike-ins", ylim=(0, 1))
        groups = by_class(self.predictions.probabilities, names, self.predictions.unknown)
        found = {name: self.x[rows[:IN_AVERAGE]] for name, rows in groups.items() if len(rows) >= FEWEST}
        if found:
            rows = {"predicted": torch.stack([x.mean(0) for x in found.values()])}
            if self.source is not None:
                means = [self.source.x[self.source.y == names.index(name)].mean(0) for name in found]
                rows["simulated"] = torch.stack(means)
            out["averages"] = pictures.gallery(rows, list(found))
        return out


@dataclass(frozen=True, eq=False, repr=False)
class Classes(Step):
    """The classes of the subtomograms. The text begins with the verdict.

    Attributes
    ----------
    predictions : of the subtomograms of `target`
    prevalence : class -> number and fraction
    cuts : how many stay at a confidence
    least_confidence : the one from which on the expected purity is `purity`; None where no subtomograms reach it
    picks : class -> positions that are listed as its particles; {} where positions were given
    fractions : method -> predicted fraction of each class in the subtomograms adapted to
    tomograms : a row for each of several tomograms; [] for one
    second : what template matching says; None where it was not asked
    """

    verdict: Verdict
    target: TargetData
    predictions: Predictions
    prevalence: dict[str, Prevalence]
    cuts: list[Cut]
    purity: float
    least_confidence: float | None
    picks: dict[str, Picks]
    fractions: dict[str, list[float]]
    tomograms: list[TomogramRow]
    second: SecondOpinion | None = None

    def __str__(self) -> str:
        found, unknown = self.predictions, ""
        if found.unknown is not None:
            unknown = f"{int(found.unknown.sum())} of {len(found)} are marked as the unknown class"
        agreement = "" if found.agreement is None else f"agreement of the seeds: {float(found.agreement.mean()):.0%}"
        return _text(
            f"VERDICT: {self.verdict.head}",
            *(f"{name}: {one.n} subtomograms; fraction {one.fraction:.1%}" for name, one in self.prevalence.items()),
            unknown,
            agreement,
            picks.summary(self.picks) if self.picks else self.at_purity,
            *text(self.tomograms, found.classes),
            str(self.second) if self.second else "",
            warnings=self.second.warnings if self.second else (),
        )

    @property
    def confidences(self) -> list[float]:
        """Least confidences of the cuts, for a slider."""
        return [cut.confidence for cut in self.cuts]

    def at_confidence(self, axes: Sequence[Axes], confidence: float) -> None:
        """Draw what a least confidence, one of `confidences`, keeps: how pure that is, and how many of each class."""
        pictures.purity(axes[0], self.cuts, confidence)
        found = self.predictions
        known = torch.ones(len(found), dtype=torch.bool) if found.unknown is None else ~found.unknown
        called = found.probabilities.argmax(1)
        kept = called[known & (found.confidence >= confidence)]
        whole, some = (torch.bincount(y, minlength=len(found.classes)).tolist() for y in (called, kept))
        axes[1].barh(found.classes, whole, color="0.85")
        bars = axes[1].barh(found.classes, some, color="0.4")
        axes[1].bar_label(bars, fontsize=7, padding=2)
        axes[1].invert_yaxis()
        axes[1].set(xlabel="subtomograms", xlim=(0, 1.15 * max(whole)))
        axes[1].set_title(f"{len(kept)} of {len(found)} kept (dark)", fontsize=8)
        for label in axes[1].get_yticklabels():
            label.set_parse_math(False)  # a class may be named after a file with a dollar sign

    @property
    def at_purity(self) -> str:
        """One sentence: how many subtomograms reach the expected purity, and from which confidence on."""
        if self.least_confidence is None:
            return f"no subtomograms have an expected purity of {self.purity:g}"
        (cut,) = [cut for cut in self.cuts if cut.confidence == self.least_confidence]
        return (
            f"expected purity {self.purity:g}: {cut.kept} of {len(self.predictions)}, those with a confidence of at "
            f"least {cut.confidence:.2f}"
        )

    def figures(self) -> dict[str, Figure]:
        """class_fractions: by method; second_opinion; certain_and_uncertain: examples; places: in the tomogram."""
        found, out = self.predictions, {}
        if self.fractions:
            out["class_fractions"] = pictures.class_fractions(self.fractions, found.classes)
        if self.second:
            out["second_opinion"] = pictures.second_opinion(*self.second.table)
        rows = {
            name: self.target.subtomograms.x[torch.cat([order[:3], order[-3:]])]
            for name, order in by_class(found.probabilities, found.classes, found.unknown).items()
            if len(order) >= 6
        }
        if rows:
            titles = ["most certain", "", "", "least certain", "", ""]
            out["certain_and_uncertain"] = pictures.gallery(rows, titles)
        best = found.probabilities.argmax(1).numpy()
        for k, (name, one) in enumerate(_tomograms(self.target, "places").items()):
            volume, zyx = one.tomogram, one.particles.zyx
            assert volume is not None and zyx is not None  # as seen there
            mine = best[self.target.subtomograms.groups.numpy() == k] if self.target.parts else best
            out[name] = pictures.tomogram(volume.data, zyx[one.kept], mine, volume.voxel_size, names=found.classes)
        return out


def fractions(adaptation: Adaptation, target: Unlabelled, device: pipeline.Device) -> dict[str, list[float]]:
    """Method -> predicted fraction of each class (K,) in the subtomograms adapted to; of the first seed."""
    fits = adaptation.fits[0] if adaptation.fits else {}
    return {name: pipeline.fractions_of(fit, target, device) for name, fit in fits.items()}
