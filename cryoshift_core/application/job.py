"""From the files of a tomogram to a report in eight calls, each of which can be looked at.

    job = cs.open(tomogram="TS_01.mrc", coordinates="picks.star", classes="ribosome_80S,TRiC", out_dir="runs/mine")
    print(job.look())
    print(job.simulate())
    print(job.spike())
    print(job.adapt())
    print(job.judge())
    print(job.classify())
    print(job.report())

A call makes what it needs of the earlier ones, once. `classify.classify` is `open(...).report()`.
"""

from __future__ import annotations

import functools
import json
import shutil
import time
import uuid
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol, TypeVar

import numpy as np
import torch
from torch import Tensor

import data_fetch

from ..calibration import Calibration
from ..data import Unlabelled
from ..errors import InputError, InputWarning
from ..methods import resolve
from ..simulation import structures
from ..simulation.class_files import class_file
from ..support import runtime
from ..support.runtime import pick_device
from ..support.streamed import StreamedBoxes
from ..tomography.wedge import fit_wedge
from . import (
    adapted_to,
    by_tomogram,
    picks,
    pipeline,
    purity,
    reuse,
    rims,
    run_folder,
    seeds,
    several,
    steps,
    target_data,
    verdict,
)
from . import manifest as schema
from . import predictions as tables
from .accuracy import Estimate, expected_accuracy, fine_power
from .by_tomogram import TomogramRow
from .classifier import Classifier, Predictions, average
from .empty import empty_reason, empty_warning, with_background, without_empty
from .picks import Picks
from .pipeline import Device
from .profiles import PROFILES, Profile
from .reference import distance_warnings
from .second_opinion import BOTH, SecondOpinion, kept, left_out, reused, second_opinion
from .spike_in import SpikeInScore, stated_optics
from .steps import Adaptation, Classes, Judgement, Look, Simulation, SpikeIns
from .target_data import Background, TargetData
from .verdict import Verdict

PICKING_ERROR = 0.1  # of a candidate, in diameters of the largest class
MOST_SEEDS = 20
TEMPLATES = ("combined", "beside", "off")  # the first is the default
R = TypeVar("R")


@dataclass(frozen=True, eq=False)
class Classification:
    """Result of :func:`classify.classify`, and of the last call of a job. As a text it begins with the verdict.

    Attributes
    ----------
    predictions : class probabilities and unknown class of `target.subtomograms`
    classifier : its recipe names the method, which is another where a check spoke against the requested one
    target : the input as subtomograms
    verdict : whether to use the predictions
    warnings : what to check before using the predictions
    spike_in : method -> accuracy on spike-ins; {} where there is no particle-free background. With
        `second_opinion.BOTH` where that is the answer
    prevalence : class -> number and fraction of the subtomograms that are predicted as it
    picks : class -> positions that are listed as its particles; {} where positions were given
    gap : name -> A-distance between simulated subtomograms and the target's
    folder : where the files are
    paths : the files: predictions.star first, then the tables per class, model.safetensors, report.html, ...
    moved : where the results of an earlier run at `folder` were moved to, or None
    expected : the balanced accuracy to expect; None without spike-ins
    about : sentences on how the predictions were made, and on the purity
    spike_snr : mean SNR of the spike-ins; NaN where there are none
    own_background : molecules in the target's own boxes that were trained with
    second : what template matching says; None where it was not asked
    seconds : of wall-clock time in each stage so far: reading, simulation, training, prediction
    """

    predictions: Predictions
    classifier: Classifier
    target: TargetData
    verdict: Verdict
    warnings: tuple[str, ...]
    spike_in: dict[str, SpikeInScore]
    prevalence: dict[str, tables.Prevalence]
    picks: dict[str, Picks]
    gap: dict[str, float]
    folder: Path
    paths: tuple[Path, ...]
    moved: Path | None
    expected: Estimate | None = None
    about: tuple[str, ...] = ()
    spike_snr: float = float("nan")
    own_background: int = 0
    second: SecondOpinion | None = None
    seconds: Mapping[str, float] = field(default_factory=dict)

    @property
    def used(self) -> str:
        """Whose answer the predictions are: a method, or `second_opinion.BOTH`."""
        return BOTH if self.second is not None and self.second.answers else self.classifier.recipe["method"]

    @property
    def numbers(self) -> dict[str, Any]:
        """Name -> number or short text, for the manifest of a notebook."""
        used, found = self.used, self.predictions
        out = {
            "verdict": self.verdict.level,
            "usable_classes": ", ".join(self.verdict.classes),
            "inputs": len(self.target),
            "classified": len(self.target.kept),
            "contrast": self.target.contrast,
            "used": used,
            "mean_confidence": float(found.confidence.mean()),
            "warnings": len(self.warnings),
            "own_background": self.own_background,
        }
        if found.unknown is not None:
            out["none_of_these"] = int(found.unknown.sum())
        if self.spike_in:
            out["spike_balanced_accuracy"] = self.spike_in[used].balanced_accuracy
            out["spike_snr"] = self.spike_snr
            out["spike_balanced_accuracy_source_only"] = self.spike_in["source_only"].balanced_accuracy
        if self.second:
            out |= self.second.numbers
        return out

    @property
    def scores(self) -> dict[str, Any]:
        """Name -> number, or table of numbers, for the manifest of a classification."""
        found: dict[str, Any] = {
            "classified": len(self.predictions),
            "mean_confidence": float(self.predictions.confidence.mean()),
            "fraction": {name: one.fraction for name, one in self.prevalence.items()},
            "a_distance": self.gap,
        }
        return found | {f"spike_balanced_accuracy_{name}": s.balanced_accuracy for name, s in self.spike_in.items()}

    def __str__(self) -> str:
        used, lines = self.used, [f"VERDICT: {self.verdict}"]
        lines += [f"WARNING: {warning}" for warning in self.warnings]
        lines += self.about[:1]
        if used in self.spike_in:
            score = self.spike_in[used]
            lines.append(f"balanced accuracy on spike-ins: {score} ({used}; picks off by up to 4 or 2 voxels)")
        lines.append(f"accuracy by the calibrated confidence: {float(self.predictions.confidence.mean()):.2f}")
        lines += [] if self.expected is None else [f"balanced accuracy to expect: {self.expected}"]
        lines += [f"{name}: {one.n} particles, fraction {one.fraction:.1%}" for name, one in self.prevalence.items()]
        lines += self.about[1:]
        if self.moved:
            lines.append(f"The earlier results in {self.folder} are now in {self.moved}")
        if self.seconds:
            lines.append("time: " + ", ".join(f"{stage} {taken:.1f} s" for stage, taken in self.seconds.items()))
        return "\n".join([*lines, f"wrote {self.paths[0]} and {self.folder / 'report.html'}"])


class Place(Protocol):
    """Where a notebook's run writes to now, where its files will be, and its manifest; see `course.run.Run`."""

    final_folder: Path

    @property
    def folder(self) -> Path: ...

    def manifest(self) -> dict[str, Any]: ...


@dataclass(frozen=True)
class Settings:
    """The parameters of :func:`open` that steps use as they are, see there. `structures` : see `reuse.sources`."""

    tomograms: tuple[str, ...]
    model: str
    own_background: bool
    purity: float
    n_picks: int
    method: str
    seed: int
    n_seeds: int
    average_rotations: bool
    templates: str
    structures: tuple[str, ...]
    picking_error: float
    may_be_absent: tuple[str, ...]
    device: Device
    held_out: tuple[int, ...]
    background: Mapping[str, Any]
    tilts: Mapping[str, float]


def _step(stage: str) -> Callable[[Callable[[Job], R]], Callable[[Job], R]]:
    """A method of a job that is called once; its result is kept. `stage` is what an interruption is reported as."""

    def once(step: Callable[[Job], R]) -> Callable[[Job], R]:
        @functools.wraps(step)
        def call(job: Job) -> R:
            if step.__name__ not in job._done:
                with job._at(stage):
                    job._done[step.__name__] = step(job)
            return job._done[step.__name__]

        return call

    return once


@dataclass(eq=False)
class Job:
    """One tomogram, or one stack of subtomograms, on its way to a report; made by :func:`open`.

    Attributes
    ----------
    settings : the parameters
    profile : amount of simulated data and training, for the classes
    names : classes as names or files; () with a saved model
    target : the input as subtomograms
    saved : the saved model; None: train
    boxes : particle-free boxes; None where there are none
    without : why there are none, in a sentence
    kept : folder of the simulated data and fits, from which an interrupted job goes on; None: nowhere
    out_dir : folder of the results, or None
    parameters, files : for the manifest: as given, and the input files
    shared : whether `kept` belongs to several jobs, and stays
    """

    settings: Settings
    profile: Profile
    names: tuple[str, ...]
    target: TargetData
    saved: Classifier | None
    boxes: Background | None
    without: str
    kept: Path | None
    out_dir: Path | None
    parameters: Mapping[str, Any]
    files: tuple[str, ...]
    shared: bool = False
    _adapt_to: Unlabelled | None = None
    _empty: float = 0.0  # fraction of empty subtomograms, where they are most
    _manifest: dict[str, Any] | None = None
    _began: float = 0.0  # time.monotonic() when the folder of the results was made
    _done: dict[str, Any] = field(default_factory=dict)
    _stage: str = "reading"
    _seconds: dict[str, float] = field(default_factory=dict)  # spent in each stage, without those within it
    _entered: float = 0.0  # time.monotonic() at the start of the present stage
    _within: float = 0.0  # seconds spent in stages within it

    def __str__(self) -> str:
        return str(self.look())

    @property
    def stopped(self) -> str:
        """What an interruption at this moment leaves, and how to go on."""
        if self.kept is None:
            return f"Stopped in {self._stage}: nothing is kept, because no out_dir was given."
        if self.saved and not isinstance(self.target.subtomograms.x, StreamedBoxes):
            return f"Stopped in {self._stage}: nothing had to be kept; the same command starts again."
        if self.saved:
            return f"Stopped in {self._stage}: what is predicted so far is kept; the same command goes on."
        if self._stage == "simulation":
            return f"Stopped in {self._stage}: what is simulated so far is kept; the same command goes on."
        return f"Stopped in {self._stage}: training is kept; the same command goes on."

    @property
    def unlabelled(self) -> Unlabelled:
        """The subtomograms to adapt to: those of :meth:`hold_out`, else a draw from all.

        Where most are empty, without these, see :func:`empty.without_empty`.
        """
        if self._adapt_to is None:
            out = torch.tensor(self.settings.held_out, dtype=torch.long)
            drawn = pipeline.adaptation_set(self.target, self.profile.n_target, self.settings.seed, out)
            self._adapt_to, self._empty = without_empty(drawn, self.boxes, self.names)
        return self._adapt_to

    def hold_out(self, target: Unlabelled, keep_out: np.ndarray) -> None:
        """Adapt to `target` instead of a draw from all subtomograms, with particle-free boxes away from `keep_out`.

        All subtomograms are classified nevertheless. It must precede the simulation.

        Parameters
        ----------
        target : the subtomograms to adapt to
        keep_out : (M, 3) zyx centres of held-out boxes, with which no particle-free box shares a voxel

        Raises
        ------
        InputError
            something was simulated or trained already
        """
        if set(self._done) - {"look"}:
            raise InputError(f"Expected hold_out before {', '.join(self._done)}: open the job again.")
        self.boxes, self.without = _boxes(self.target, self.profile, self.settings, keep_out)
        self._adapt_to, self._empty = without_empty(target, self.boxes, self.names)

    @_step("reading")
    def look(self) -> Look:
        """The input: size, classes, contrast, and what to check; its figures show the tomogram and subtomograms."""
        doubts = [] if self.saved else structures.warnings(self.names)
        s = self.settings
        for path in [] if self.saved else s.tomograms:
            doubts += pipeline.tilt_warnings(path, s.tilts["tilt_range"], s.tilts["tilt_axis"])
        if self.saved is not None:
            for about, part in self._parts():
                found = adapted_to.differences(self.saved, part, part.subtomograms)
                doubts += [f"{about}{one.what}: {one.found}. {one.advice}" for one in found if one.advice]
        return Look(self.target, self.names, (*self.target.warnings, *doubts))

    def _parts(self) -> list[tuple[str, TargetData]]:
        """Each tomogram with a text to begin a warning of it with, and some of its subtomograms; "" for one."""
        parts = {f"{one.subtomograms.name}: ": one for one in self.target.parts} or {"": self.target}
        draw = {about: pipeline.adaptation_set(one, adapted_to.SPECTRUM) for about, one in parts.items()}
        return [(about, replace(one, subtomograms=draw[about])) for about, one in parts.items()]

    @_step("simulation")
    def simulate(self) -> Simulation:
        """Simulated subtomograms of the classes, with the box and voxel size of the target."""
        self._trains("simulate")
        source, validation = pipeline.simulate_source(self.unlabelled, self.profile, **self._simulation)
        doubts: list[str] = []
        if self.target.candidates is None:  # the average of candidates shows other things, too
            doubts = pipeline.size_warnings(source, self.unlabelled, self.names, self.settings.may_be_absent)
        if self._empty:
            doubts.append(empty_warning(self._empty, len(self.unlabelled), self.names))
        return Simulation(source, validation, self.unlabelled, tuple(doubts))

    @_step("simulation")
    def spike(self) -> SpikeIns:
        """Molecules of known class in the target's own particle-free boxes, made before anything is trained.

        Those in one set of boxes are trained with, those in the other measure the accuracy.
        """
        self._trains("spike")
        s, source = self.settings, self.simulate().source
        options: dict[str, Any] = {"seed": s.seed, "device": s.device, **s.tilts}
        try:
            boxes = self.boxes or self._rims()
        except InputError as problem:
            doubts = [f"The accuracy was not estimated on spike-ins: {problem}"]
            return SpikeIns(None, None, None, None, None, None, self.unlabelled, tuple(doubts))
        train = boxes.train if s.own_background else None
        joined, doubts = pipeline.own_source(s.method, source, self.unlabelled, train, classes=self.names, **options)
        doubts += [rims.WARNING] if boxes.of_rims else []
        own = None if joined is None else joined.subset(torch.arange(len(source), len(joined)))
        ice, wedge, spikes, far = boxes.spike_ins, None, None, None
        try:
            wedge = fit_wedge(ice, self.unlabelled.voxel_size)
            doubts += pipeline.tilt_axis_warnings(wedge, s.tilts["tilt_axis"])
            n = self.profile.n_test
            spikes, far = pipeline.make_spike_ins(self.names, self.unlabelled, ice, n=n, **options)
        except InputError as problem:
            doubts.append(f"The accuracy was not estimated on spike-ins: {problem}")
        return SpikeIns(boxes, joined, own, spikes, far, wedge, self.unlabelled, tuple(doubts))

    def _rims(self) -> Background:
        """Boxes made of the rims of extracted subtomograms, for spike-ins; InputError with a tomogram."""
        if self.target.tomogram is not None or self.target.parts:
            raise InputError(self.without)
        generator = pipeline.seeded_generator(self.settings.seed, "spikes")
        x = rims.background(self.unlabelled, self.names, self.profile.n_background, generator)
        return Background(x, None, of_rims=True)

    @_step("training")
    def adapt(self) -> Adaptation:
        """The trained networks of each seed, and the classifier that is chosen among them without a label."""
        if self.saved is not None:
            return Adaptation("", (), (self.saved,))
        s, made, joined = self.settings, self.simulate(), self.spike().joined
        error = s.picking_error
        if self.target.candidates is not None:  # candidates are off by more than given positions
            error = error or PICKING_ERROR * max(map(structures.diameter, self.names))
        training: dict[str, Any] = {"tilt_axis": s.tilts["tilt_axis"], "picking_error": error, "own": joined}
        outliers = pipeline.simulate_outliers(self.unlabelled, self.profile, **self._simulation)
        fits, classifiers = [], []
        for seed in range(s.seed, s.seed + s.n_seeds):
            drawn: dict[str, Any] = {"seed": seed, "device": s.device}
            fits.append(
                pipeline.fit_methods(
                    s.method,
                    made.source,
                    made.validation,
                    self.unlabelled,
                    self.profile,
                    folder=self._folder("fits"),
                    **drawn,
                    **training,
                )
            )
            chosen = pipeline.select_classifier(
                fits[-1], s.method, self.unlabelled, outliers, average_rotations=s.average_rotations, **drawn
            )
            sure = float(chosen.predict(self.unlabelled, device=s.device).confidence.mean())
            chosen.recipe.update(adapted_to.about(self.target, self.names, self.unlabelled, sure))
            classifiers.append(chosen)
        return Adaptation(s.method, tuple(fits), tuple(classifiers))

    @_step("prediction")
    def _network(self) -> tuple[Predictions, Classifier]:
        """The mean prediction of all seeds, and their classifier; its own network agrees most with the mean."""
        classifiers, keep = self.adapt().classifiers, self._folder("predictions")
        how: dict[str, Any] = {"device": self.settings.device, "keep": keep}
        found = [one.predict(self.target.subtomograms, **how) for one in classifiers]
        found = [
            replace(one, probabilities=with_background(one.probabilities, one.classes, self._empty)) for one in found
        ]
        return average(found), seeds.joined(classifiers, found)

    @_step("prediction")
    def match(self) -> SecondOpinion | None:
        """What template matching calls the subtomograms; None as in :func:`second_opinion` and :func:`reused`.

        None also with a saved model that has answered alone, or with a class whose structure is not at hand.
        """
        s = self.settings
        if s.templates == "off":
            return None
        if self.saved is not None:
            told, given = self.saved.recipe.get("templates"), (self.target.subtomograms, self.unlabelled)
            if s.templates != "combined" or not told or not s.structures:
                return None
            return reused(s.structures, self._network()[0], *given, told, s.device)
        spiked, x, trained = self.spike(), self.target.subtomograms, self.adapt()
        classifiers = trained.classifiers

        def network(boxes: Tensor) -> Tensor:
            given = replace(self.unlabelled, x=boxes, groups=torch.zeros(len(boxes), dtype=torch.long))
            found = average([one.predict(given, device=s.device) for one in classifiers])
            return with_background(found.probabilities, found.classes, self._empty)

        found = second_opinion(
            self.names,
            self._network()[0],
            x,
            self.unlabelled,
            network=network,
            validation=self.simulate().validation,
            warps=trained.fits[0][classifiers[0].recipe["method"]].warps,
            generator=pipeline.seeded_generator(s.seed, "network and templates"),
            spikes=spiked.spikes,
            far=spiked.far,
            wedge=spiked.wedge,
            optics=stated_optics(x.voxel_size, **self._optics),
            seed=s.seed,
            device=s.device,
        )
        return None if found is None else replace(found, pooled=s.templates == "combined")

    @property
    def _optics(self) -> dict[str, float]:
        """What is stated of the tilt series, as `stated_optics` takes it."""
        return {name: self.settings.tilts[name] for name in ("tilt_axis", "tilt_range", "defocus")}

    @_step("prediction")
    def predict(self) -> tuple[Predictions, Classifier]:
        """The prediction of the network, or of it and templates together, and the network's classifier."""
        found, classifier = self._network()
        return (found if self._combined is None else self._combined.combined), classifier

    @_step("prediction")
    def judge(self) -> Judgement:
        """A verdict on the predictions, from what needs no label."""
        s, (found, classifier) = self.settings, self.predict()
        x = self.target.subtomograms.x
        doubts = pipeline.prediction_warnings(classifier, found, s.may_be_absent)
        if self.saved is not None:
            doubts += reuse.verdict_warnings(self.saved)
            if s.templates == "combined" and self._combined is None:
                doubts += left_out(s.structures, len(found)) or reuse.template_warnings(self.saved)
            shifts = {self.target.subtomograms.name: found.shift}
            if self.target.parts and found.shifts:
                shifts = {self.target.parts[k].subtomograms.name: shift for k, shift in found.shifts.items()}
            for name, shift in shifts.items():
                doubts += distance_warnings(shift, name)
            return Judgement(verdict.judge(found, x), found, {}, "", {}, x, None, tuple(doubts))
        made, spiked, trained = self.simulate(), self.spike(), self.adapt()
        used, warning = classifier.recipe["method"], classifier.recipe["warning"]
        scores: dict[str, SpikeInScore] = {}
        if spiked.spikes is not None:
            each = [pipeline.score_spike_ins(f, spiked.spikes, spiked.far, device=s.device) for f in trained.fits]
            scores = seeds.scores(each, trained.classifiers, used, spiked.spikes)
            doubts += pipeline.spike_in_warnings(scores, classifier)
            if self._combined is not None and self._combined.of_both is not None:
                scores[BOTH] = self._combined.of_both
        used = used if self._combined is None else BOTH
        doubts += left_out(self.names, len(found)) if s.templates == "combined" else []
        junk = empty_reason(self._empty) if self._empty and verdict.BACKGROUND not in self.names else ""
        about_all = [*filter(None, [warning, junk])]
        given = verdict.judge(found, x, made.source, scores.get(used), profile=self.profile.name, warnings=about_all)
        at = [one.network for one in trained.classifiers].index(classifier.network)
        gap = pipeline.domain_gap(trained.fits[at], made.source, self.unlabelled, seed=s.seed, device=s.device)
        return Judgement(
            given, found, scores, used, gap, x, made.source, tuple(doubts), self._expected(scores.get(used))
        )

    @property
    def _combined(self) -> SecondOpinion | None:
        """The second opinion, where the predictions are of network and templates together; else None."""
        second = self.match()
        return second if second is not None and second.answers else None

    def _expected(self, score: SpikeInScore | None) -> Estimate | None:
        """The balanced accuracy to expect of the predictions; None without spike-ins."""
        if score is None or self.boxes is None:
            return None
        confidence = float(self.predict()[0].confidence.mean())
        if self._empty and verdict.BACKGROUND not in self.names:  # of empty boxes it says nothing about right answers
            confidence = float(np.mean([one.recipe["confidence"] for one in self.adapt().classifiers]))
        return expected_accuracy(score.balanced_accuracy, confidence, fine_power(self.boxes.spike_ins))

    @_step("prediction")
    def classify(self) -> Classes:
        """The class of each subtomogram with its confidence, class fractions, and the purity at a confidence."""
        s, (found, classifier), judged = self.settings, self.predict(), self.judge()
        least, listed = purity.least_confidence(found, s.purity), self._picks(found, classifier)
        calibration = classifier.calibration
        if found.agreement is not None or self._combined is not None:  # calibrated already
            calibration = Calibration(1.0, 0)
        confidences = purity.with_least(least)
        return Classes(
            judged.verdict,
            self.target,
            found,
            tables.prevalence(found.probabilities, found.classes, found.unknown),
            purity.cuts(found, calibration, judged.scores.get(judged.used), confidences),
            s.purity,
            least,
            listed,
            self._fractions(found),
            self._by_tomogram(found, judged, listed),
            self.match(),
        )

    def _fractions(self, found: Predictions) -> dict[str, list[float]]:
        """Method -> class fractions, with those of network and templates where these answer together."""
        if self.saved:
            return {}
        out = steps.fractions(self.adapt(), self.unlabelled, self.settings.device)
        return out | ({BOTH: tables.predicted_fractions(found.probabilities)} if self._combined is not None else {})

    def _picks(self, found: Predictions, classifier: Classifier) -> dict[str, Picks]:
        """The picks of each class with a diameter; {} where positions were given."""
        if self.target.candidates is None:
            return {}
        diameters = classifier.recipe.get("diameters") or {}  # an earlier model has none
        sized = [name for name in found.classes if diameters.get(name, 1)]
        return picks.at_purity(self.target, found, self.settings.purity, n=self.settings.n_picks, sized=sized)

    def report(self, folder: str | Path = "", run: Place | None = None) -> Classification:
        """Write the results: predictions.star, a table for each class, report.html, model.safetensors and others.

        Parameters
        ----------
        folder : of the results; "": the `out_dir` of the job
        run : of a notebook, which has a folder of its own and finishes it itself; None: the job makes a new folder

        Raises
        ------
        InputError
            no folder, here or in `open`, or one that holds other files
        """
        if run is None and not (folder or self.out_dir):
            raise InputError("Expected a folder for the results, got none: give out_dir to open, or a folder here.")
        if run is None and folder and self.out_dir and Path(folder).expanduser().resolve() != self.out_dir:
            raise InputError(
                f"Expected the out_dir of this job, {self.out_dir}, as folder, got {folder}: leave it out."
            )
        with self._at("prediction"):
            self.classify()
            if run is not None:
                return self._write(run.final_folder, run.folder, run.manifest())
            final = Path(folder).expanduser().resolve() if folder else self.out_dir
            assert final is not None  # as seen above
            self._begin(final)
            return self._write(final, run_folder.unfinished_folder(final))

    def _write(self, final: Path, place: Path, manifest: Mapping[str, Any] | None = None) -> Classification:
        """The files of :meth:`report`, in `place`; without the `manifest` of another run, it is renamed to `final`."""
        judged, classes, (found, classifier) = self.judge(), self.classify(), self.predict()
        s, used = self.settings, classifier.recipe["method"]
        spiked = None if self.saved else self.spike()
        own = len(spiked.own) if spiked and spiked.own else 0
        told = {**(manifest or self._manifest or {}), "own_background": own}
        choice = reuse.summary(classifier, s.model) if self.saved else classifier.recipe["reason"] or "as asked for"
        if s.n_seeds > 1:
            choice += f". Probabilities are means over {s.n_seeds} training seeds; the saved model holds all of them"
        if self._combined is not None:
            choice += ". Probabilities are of network and templates together"
        second = classes.second
        doubts = (*self.look().warnings, *self._doubts, *judged.warnings, *(second.warnings if second else ()))
        if not self.saved:
            classifier.recipe.update(verdict=judged.verdict.level, verdict_in_words=str(judged.verdict))
            if second is not None and second.answers and second.combination is not None and spiked is not None:
                classifier.recipe["templates"] = kept(second.combination, spiked.wedge, self._optics, s.seed)
        paths = pipeline.write_results(
            place,
            self.target,
            found,
            classifier,
            verdict=judged.verdict,
            prevalence=classes.prevalence,
            scores=judged.scores,
            gap=judged.gap,
            warnings=doubts[len(self.target.warnings) :],
            inputs=[Path(file).name for file in self.files],
            manifest=told,
            classes=self.names,
            cuts=classes.cuts,
            least_confidence=None if classes.picks else classes.least_confidence,
            listed=classes.picks,
            tomograms=classes.tomograms,
            expected=judged.expected,
            second=second,
            made={"choice": choice},
        )
        listed = [picks.summary(classes.picks) if classes.picks else classes.at_purity]
        listed += by_tomogram.text(classes.tomograms, found.classes)
        listed += [str(second)] if second else []
        result = Classification(
            predictions=found,
            classifier=classifier,
            target=self.target,
            verdict=judged.verdict,
            warnings=doubts,
            spike_in=judged.scores,
            prevalence=classes.prevalence,
            picks=classes.picks,
            gap=judged.gap,
            folder=final,
            paths=tuple(final / path.relative_to(place) for path in paths),
            moved=None,
            expected=judged.expected,
            about=(choice if self.saved else f"{used}: {choice}", *listed),
            spike_snr=spiked.snr if spiked else float("nan"),
            own_background=own,
            second=second,
            seconds=self._times(),
        )
        if manifest is not None:
            return result
        told |= {"status": "finished", "verdict": judged.verdict.level}
        told |= {"usable_classes": list(judged.verdict.classes), **run_folder.cost(time.monotonic() - self._began)}
        told["scores"] = schema.plain(result.scores)
        told["numbers"] = schema.numbers(told["scores"], {"method": str(result.used), "seed": str(s.seed)})
        moved = run_folder.finish(final, json.dumps(told, indent=2) + "\n")
        self._manifest = None
        self._forget()
        return replace(result, moved=moved)

    def _by_tomogram(self, found: Predictions, judged: Judgement, listed: Mapping[str, Picks]) -> list[TomogramRow]:
        spikes = None if self.saved else self.spike().spikes
        part = None if self.boxes is None else self.boxes.part
        spiked_in = None if spikes is None or part is None else part[spikes.groups.numpy()]
        score = judged.scores.get(judged.used)
        reused = self.saved is not None
        return by_tomogram.rows_of(self.target, found, self.settings.held_out, score, spiked_in, listed, reused)

    @property
    def _doubts(self) -> tuple[str, ...]:
        """Warnings of the simulation and of the spike-ins."""
        return () if self.saved else (*self.simulate().warnings, *self.spike().warnings)

    @property
    def _simulation(self) -> dict[str, Any]:
        s = self.settings
        return {
            "seed": s.seed,
            "tilt_axis": s.tilts["tilt_axis"],
            "device": s.device,
            "folder": self._folder("data"),
        }

    def _folder(self, name: str) -> Path | None:
        return None if self.kept is None else self.kept / name

    def _trains(self, step: str) -> None:
        if self.saved is not None:
            raise InputError(
                f"Expected no call of {step} with a saved model, because nothing is trained: call judge, or leave "
                "model out."
            )

    @contextmanager
    def _at(self, stage: str) -> Iterator[None]:
        """A stage of the work: the folder of the results exists, and an interruption says how to go on."""
        if self.out_dir is not None and stage != "reading":
            self._begin(self.out_dir)
        outer = self._stage, self._entered, self._within
        self._stage, self._entered, self._within = stage, time.monotonic(), 0.0
        try:
            yield
        except KeyboardInterrupt as stop:
            if not getattr(stop, "__notes__", ()):
                stop.add_note(self.stopped)
            raise
        finally:
            self._seconds, took = self._times(), time.monotonic() - self._entered
            self._stage, self._entered, self._within = outer
            self._within += took

    def _times(self) -> dict[str, float]:
        """Seconds spent in each stage so far, without those in stages within it."""
        here = time.monotonic() - self._entered - self._within
        return self._seconds | {self._stage: self._seconds.get(self._stage, 0.0) + here}

    def _begin(self, final: Path) -> None:
        """Make the new folder of the results, with its manifest, unless it was made before."""
        if self._manifest is not None:
            return
        files = [Path(file).expanduser() for file in self.files]
        files += [Path(file) for file in map(class_file, self.names) if file]
        files += [Path(self.settings.model).expanduser()] if self.saved else []
        profile = {"name": "none, nothing was trained"} if self.saved else asdict(self.profile)
        self._manifest = {
            "notebook": "classify",
            "status": "unfinished",
            "parameters": dict(self.parameters),
            "seed": self.settings.seed,
            "profile": profile,
            "started": datetime.now(UTC).isoformat(timespec="seconds"),
            "device": str(pick_device(self.settings.device)),
            "inputs": {str(file): runtime.file_digest(file) for file in files if file.is_file()},
            "scores": {},
            "numbers": [],
            "id": uuid.uuid4().hex,
            **run_folder.cost(0.0),
            **run_folder.origin(),
        }
        self._began = time.monotonic()
        run_folder.start(final, json.dumps(self._manifest, indent=2) + "\n")

    def _forget(self) -> None:
        """Delete what was kept for an interruption, unless other jobs use it."""
        if self.kept is None or self.shared or not self.kept.is_dir():
            return
        for part in ("predictions",) if self.saved else ("data", "fits", "predictions"):
            shutil.rmtree(self.kept / part, ignore_errors=True)
        if not list(self.kept.iterdir()):
            self.kept.rmdir()


def open(
    *,
    out_dir: str | Path = "",
    tomogram: str | Path | Sequence[str | Path] = "",
    coordinates: str | Path = "",
    subtomograms: str | Path = "",
    model: str | Path = "",
    classes: str | Sequence[str] = "",
    voxel_size: float = 0.0,
    contrast: str = "auto",
    background: str | Path = "",
    tilt_axis: float = 0.0,
    tilt_range: float = 60.0,
    defocus: float = 3.0,
    spike_snr: float = 0.0,
    picking_error: float = 0.0,
    own_background: bool = True,
    candidates: int = 2000,
    purity: float = 0.8,
    n_picks: int = 0,
    box: int = 0,
    profile: str | Profile = "laptop",
    method: str = "cryoshift",
    project_folder: str | Path = "",
    n_seeds: int = 1,
    average_rotations: bool = False,
    templates: str = TEMPLATES[0],
    may_be_absent: str | Sequence[str] = "",
    held_out_tomograms: str | Sequence[str] = "",
    seed: int = 0,
    device: Device = "auto",
    keep: str | Path = "",
) -> Job:
    """A job whose input has been read, and nothing more: look, simulate, spike, adapt, judge, classify, report.

    Parameters
    ----------
    keep : folder where simulated data and fits are kept and looked for, for several jobs; "": beside `out_dir`, until
        the report is written; without `out_dir`, nowhere. The others are those of :func:`classify.classify`; without
        `out_dir`, `Job.report` takes the folder

    Raises
    ------
    InputError
        a wrong value, or an unreadable file
    """
    own, start = ("profile", "device", "keep"), time.monotonic()
    parameters = {name: as_text(value) for name, value in locals().items() if name not in ("own", "start", *own)}
    resolve(method)
    budget = profile_of(profile)
    if not 0 <= purity <= 1:
        raise InputError(f"Expected a purity from 0 to 1, such as 0.8, got {purity:g}.")
    if not 1 <= n_seeds <= MOST_SEEDS:
        raise InputError(f"Expected n_seeds from 1 to {MOST_SEEDS}, such as 3, got {n_seeds}.")
    places = several.files(tomogram)
    named: str = places[0] if len(places) == 1 else as_text(tomogram)
    pipeline.check_input(subtomograms, named, coordinates)
    if model and held_out_tomograms:
        raise InputError("Expected no held_out_tomograms with a model, which is not adapted: leave one of them out.")
    runtime.check_known("templates", templates, TEMPLATES)
    if model and average_rotations:
        raise InputError("Expected no average_rotations with a model, which keeps how it predicts: train with it.")
    if n_picks < 0:
        raise InputError(f"Expected n_picks of 0 or more, such as 500, got {n_picks}.")
    picking = not (coordinates or subtomograms)
    given = {"subtomograms": subtomograms, "tomogram": named, "coordinates": coordinates}
    reading: dict[str, Any] = {**given, "voxel_size": voxel_size, "contrast": contrast, "candidates": candidates}
    reading["project_folder"] = project_folder
    names: tuple[str, ...] = ()
    saved = None
    together: dict[str, Any] = {"voxel_size": voxel_size, "contrast": contrast, "candidates": candidates}
    if model:
        saved = reuse.load(model, classes=as_text(classes), box=box, background=background)
        if len(places) > 1:
            target = several.read(places, coordinates, (), model=reuse.Saved(saved, model), **together)
        else:
            target = reuse.read_target(saved, model, **reading)
        _warn(target)
    else:
        names = target_data.read_classes(data_fetch.local(as_text(classes)), budget.classes, background=picking)
        budget = budget.for_classes(names)
        if len(places) > 1:
            target = several.read(places, coordinates, names, box=box, **together)
        else:
            target = pipeline.read_target(names, box=box, **reading)
        _warn(target)
    known = saved.classes if saved else tuple(map(structures.class_name, names))
    settings = Settings(
        tomograms=tuple(places),
        model=str(model),
        own_background=own_background,
        purity=purity,
        n_picks=n_picks,
        method=method,
        seed=seed,
        n_seeds=1 if saved else n_seeds,
        average_rotations=average_rotations,
        templates=templates,
        structures=reuse.sources(saved, as_text(classes)) if saved else (),
        picking_error=picking_error,
        may_be_absent=_absent(as_text(may_be_absent), known),
        device=device,
        held_out=several.numbers(target, as_text(held_out_tomograms)),
        background={"path": str(background), "voxel_size": voxel_size, "project_folder": project_folder},
        tilts={"tilt_axis": tilt_axis, "tilt_range": tilt_range, "defocus": defocus, "snr": spike_snr},
    )
    boxes, without = (None, "") if saved else _boxes(target, budget, settings)
    final = Path(out_dir).expanduser().resolve() if out_dir else None
    kept = Path(keep).expanduser().resolve() if keep else None
    if kept is None and final is not None:
        kept = final.with_name(f"{final.name}.kept")
    files = tuple(str(file) for file in (subtomograms, *places, coordinates, background) if file)
    job = Job(settings, budget, names, target, saved, boxes, without, kept, final, parameters, files, shared=bool(keep))
    job._seconds["reading"] = time.monotonic() - start
    return job


def _boxes(
    target: TargetData, profile: Profile, settings: Settings, keep_out: np.ndarray | None = None
) -> tuple[Background | None, str]:
    """Particle-free boxes and "", or None and why there are none; InputError where given ones cannot be read."""
    try:
        if target.parts and not settings.background["path"]:
            return several.background(target, profile.n_background, settings.seed, settings.held_out), ""
        boxes = pipeline.background_boxes(
            target, n=profile.n_background, seed=settings.seed, keep_out=keep_out, **settings.background
        )
    except InputError as problem:
        if settings.background["path"]:
            raise
        return None, str(problem)
    return boxes, ""


def _absent(text: str, classes: Sequence[str]) -> tuple[str, ...]:
    """The classes that may be absent, out of `classes`; InputError for another one, or where none is left."""
    names = tuple(structures.class_name(name.strip()) for name in text.split(",")) if text else ()
    for name in names:
        if name not in classes:
            raise InputError(f"may_be_absent: expected some of {', '.join(classes)}, got '{name}': correct it.")
    if names and not set(classes) - set(names):
        raise InputError(f"Expected a class that does occur, got all of {', '.join(classes)} in may_be_absent.")
    return names


def _warn(target: TargetData) -> None:
    for sentence in target.of_readers:
        warnings.warn(sentence, InputWarning, stacklevel=4)


def profile_of(profile: str | Profile) -> Profile:
    """The profile of a name; InputError where it is unknown."""
    if isinstance(profile, Profile):
        return profile
    runtime.check_known("a profile", profile, PROFILES)
    return PROFILES[profile]


def as_text(value: Any) -> Any:
    """A parameter as it stands in a manifest: paths as texts, sequences joined by commas."""
    if isinstance(value, Path):
        return str(value)
    return value if isinstance(value, str | int | float) else ",".join(map(str, value))
