"""Training and scoring of the benchmark's jobs: a row of evidence.csv for each of them, or rows of real.csv.

A job whose row is in the CSV is not run again, so a stopped run can be continued; delete a row to repeat its job. Each
seed is the seed of the data *and* of the training, and it is the same for all methods.
"""

from __future__ import annotations

import csv
import math
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from filelock import FileLock
from torch import Tensor

from .. import metrics, models, selection, training
from ..application import pipeline
from ..application.accuracy import fine_power
from ..application.classifier import Classifier, finish
from ..application.empty import without_empty
from ..application.profiles import PROFILES, Profile
from ..application.second_opinion import BOTH, Combination
from ..application.spike_in import stated_optics
from ..application.target_data import Background, TargetData, divide_background
from ..application.template_matching import TemplateBank
from ..calibration import Calibration, UnknownDetector, assign, calibrate
from ..data import UNKNOWN, HeldOutLabels, Labelled, Unlabelled
from ..errors import InputError
from ..methods import resolve
from ..models import Network
from ..simulation import datasets, scenarios, structures
from ..simulation.datasets import DatasetConfig
from ..support import runtime
from ..tomography.background import FEWEST
from ..tomography.wedge import fit_wedge
from ..training import Fit
from . import controls, real
from .jobs import BOUNDS, KEYS, REAL_KEYS, RULES, TEMPLATES, Job, RealJob, find_scenario
from .matching import TemplateClassifier

SPIKED = ("core", "mixes", "factors", "unseen", "foreign")  # tiers whose runs are scored on spike-ins, too

AnyJob = TypeVar("AnyJob", Job, RealJob)


def read(path: Path) -> list[dict[str, str]]:
    """Rows of a CSV; an empty list where there is no file."""
    if not path.is_file():
        return []
    with path.open(newline="") as f:
        return list(csv.DictReader(f))


def add(path: Path, rows: list[dict], keys: Sequence[str] = KEYS) -> None:
    """Write the rows of one job into a CSV, atomically; they replace rows of the same job.

    Several processes can add to one file: a lock, which a killed process releases, orders them.

    Parameters
    ----------
    keys : the columns that identify a job
    """
    texts = [{name: _text(value) for name, value in row.items()} for row in rows]
    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(path.with_suffix(".lock")):
        replaced = {_key(row, keys) for row in texts}
        everything = [row for row in read(path) if _key(row, keys) not in replaced] + texts
        names = list(dict.fromkeys(name for row in everything for name in row))
        with runtime.atomic(path) as partial, partial.open("w", newline="") as f:
            writer = csv.DictWriter(f, names, restval="", lineterminator="\n")
            writer.writeheader()
            writer.writerows(everything)


def _key(row: dict[str, str], keys: Sequence[str] = KEYS) -> tuple[str, ...]:
    return tuple(row[name] for name in keys)


def _text(value: object) -> str:
    if isinstance(value, float):
        return "" if math.isnan(value) else f"{value:.6g}"
    return str(value)


@dataclass(frozen=True)
class Context:
    """Where jobs run.

    Attributes
    ----------
    work : folder of simulated data and fits, from which a stopped run continues
    device : as in :func:`runtime.pick_device`
    commit : of the code when the run started
    """

    work: Path
    device: str = "cpu"
    commit: str = field(default_factory=runtime.commit)

    @property
    def data(self) -> Path:
        """Folder of simulated data."""
        return self.work / "data"

    def train(self, job: Job, method: str, source: Labelled, target: Unlabelled, validation: Labelled) -> Fit:
        """Fit of `method` with the budget of the job's profile; a finished fit is loaded."""
        p = PROFILES[job.profile]
        config = p.training(without=job.left_out)
        return training.fit(
            method,
            source,
            target,
            validation=validation,
            config=config,
            seed=job.seed,
            device=self.device,
            folder=self.work / "fits",
            progress=False,
        )


@dataclass(frozen=True)
class SourceData:
    """What all jobs of one seed and source size share.

    Attributes
    ----------
    source, validation : simulated source sets
    outliers : simulated subtomograms of none of the classes
    source_only : the fit without adaptation
    """

    source: Labelled
    validation: Labelled
    outliers: Labelled
    source_only: Fit


@dataclass(frozen=True)
class Target:
    """One simulated target: target-train and target-test sets, each with its held-out labels. Jobs share it."""

    job: Job
    context: Context
    shared: SourceData
    train: Unlabelled
    train_labels: HeldOutLabels
    test: Unlabelled
    test_labels: HeldOutLabels

    @cached_property
    def background(self) -> Background:
        """Particle-free boxes of the scenario."""
        x = datasets.simulate_background(background_config(self.job), folder=self.context.data, progress=False).x
        return divide_background(x, None, 0, PROFILES[self.job.profile].n_background)

    @cached_property
    def unlabelled(self) -> Unlabelled:
        """The subtomograms to adapt to, chosen as in notebook 06: target-train, without empty ones where most are."""
        return without_empty(self.train, self.background, self.shared.source.classes)[0]

    @cached_property
    def seen(self) -> tuple[Unlabelled, float]:
        """Target-test without empty subtomograms where most are, and their fraction, as for :attr:`unlabelled`."""
        return without_empty(self.test, self.background, self.shared.source.classes)

    @property
    def imaging(self) -> dict[str, float]:
        """What a microscopist knows of the scenario: the nominal defocus and tilt range."""
        optics = scenarios.draw_optics(find_scenario(self.job.scenario), self.train.voxel_size, [0.5] * 7)
        return {"defocus": optics.defocus, "tilt_range": max(map(abs, optics.tilts))}

    @cached_property
    def spike_ins(self) -> dict[str, Labelled]:
        """Column of the CSV -> spike-ins in particle-free boxes of the scenario, made as in notebook 06."""
        job, p, boxes = self.job, _profile(self.job), self.background.spike_ins
        options: dict[str, Any] = {"seed": job.seed, "device": self.context.device, **self.imaging}
        made = pipeline.make_spike_ins(p.classes, self.unlabelled, boxes, n=p.n_test, **options)
        return dict(zip(("spike_balanced_accuracy", "spike_balanced_accuracy_far"), made, strict=True))

    @cached_property
    def templates(self) -> TemplateClassifier:
        """Template matching for the subtomograms of this target."""
        job, x, size = self.job, self.unlabelled.x, self.unlabelled.voxel_size
        optics, wedge = stated_optics(size, tilt_axis=0.0, **self.imaging), fit_wedge(self.background.spike_ins, size)
        bank = TemplateBank.of(_profile(job).classes, x, optics, wedge, device=self.context.device)
        return TemplateClassifier(bank, self.spike_ins["spike_balanced_accuracy"], x)

    @cached_property
    def own_source(self) -> Labelled:
        """The simulated source, and molecules in other particle-free boxes."""
        job, boxes = self.job, self.background.train
        assert boxes is not None  # background_config asks for enough
        options: dict[str, Any] = {"seed": job.seed, "device": self.context.device, **self.imaging}
        return pipeline.add_own_background(self.shared.source, self.unlabelled, boxes, **options)

    @cached_property
    def a_distance_before(self) -> float:
        """Proxy A-distance of source_only's features."""
        return self.a_distance(self.shared.source_only.network)

    @cached_property
    def oracle_source(self) -> Labelled:
        """Target-train with its labels, each class equally often.

        Subtomograms of rarer classes are repeated. Classes that do not occur in the target are represented by simulated
        subtomograms, because a network needs some of each class.
        """
        labelled, simulated = self.train_labels.labelled(self.train), self.shared.source
        counts = torch.bincount(labelled.y, minlength=len(labelled.classes))
        most, absent = int(counts.max()), (counts == 0).nonzero()[:, 0]
        if len(absent):
            extra = torch.cat([(simulated.y == k).nonzero()[:most, 0] for k in absent])
            parts = (labelled, simulated.subset(extra))
            joined: dict[str, Any] = {
                name: torch.cat([getattr(part, name) for part in parts]) for name in ("x", "y", "snr", "groups")
            }
            labelled = replace(labelled, **joined)
        generator = torch.Generator().manual_seed(self.job.seed)
        chosen = []
        for k in range(len(labelled.classes)):
            here = (labelled.y == k).nonzero()[:, 0]
            order = [torch.randperm(len(here), generator=generator) for _ in range(math.ceil(most / len(here)))]
            chosen.append(here[torch.cat(order)[:most]])
        return labelled.subset(torch.cat(chosen))

    def a_distance(self, network: Network) -> float:
        """Proxy A-distance between a network's features of source-validation and target-test subtomograms."""
        source, target = (
            models.embed(network, part.x, device=self.context.device) for part in (self.shared.validation, self.test)
        )
        return metrics.a_distance(source, target)


def _profile(job: Job) -> Profile:
    """The job's profile, without the class that its scenario shows as the unseen molecule."""
    p = PROFILES[job.profile]
    unseen = find_scenario(job.scenario).unseen_molecule
    return replace(p, classes=tuple(name for name in p.classes if name != unseen))


def source_data(job: Job, context: Context) -> SourceData:
    """The data that all jobs of the job's seed share, simulated and trained once.

    source_only receives no target subtomograms: the source-validation set takes their place in its fit.
    """
    p = _profile(job)
    context.data.mkdir(parents=True, exist_ok=True)
    configs = [DatasetConfig.of(p, "source", split, job.seed) for split in ("source", "validation")]
    configs[0] = replace(configs[0], n=job.n_simulated or p.n_source)
    with FileLock(context.work / f"{p.name}_seed{job.seed}_{job.n_simulated}.lock"):
        source, validation = (
            datasets.simulate_source(config, folder=context.data, progress=False) for config in configs
        )
        width = p.box * p.voxel_size
        unseen = datasets.unseen_molecule(_config(job, "test"))  # the same for all scenarios that name none
        unseen = unseen or structures.unseen_molecule(p.classes, job.seed, width=width)
        names = structures.outliers(p.classes, unseen, width=width)
        config = DatasetConfig.of(p, "source", "source", job.seed)
        config = replace(config, classes=names, n=config.n // len(p.classes) * len(names) // 2)
        outliers = datasets.simulate_source(config, folder=context.data, progress=False)
        placeholder = Unlabelled(validation.x, validation.voxel_size, validation.groups, "source")
        fit = context.train(replace(job, without=""), "source_only", source, placeholder, validation)
    return SourceData(source, validation, outliers, fit)


def _config(job: Job, split: str) -> DatasetConfig:
    return DatasetConfig.of(_profile(job), find_scenario(job.scenario), split, job.seed)


def target_configs(job: Job) -> tuple[DatasetConfig, DatasetConfig]:
    """Configurations of target-train and target-test; with `n_target` the former is a pool of five times the usual."""
    train, test = _config(job, "train"), _config(job, "test")
    return (replace(train, n=5 * PROFILES[job.profile].n_target) if job.n_target else train), test


def background_config(job: Job) -> DatasetConfig:
    """Configuration of the particle-free boxes for spike-ins."""
    config = _config(job, "background")
    return replace(config, n=2 * max(PROFILES[job.profile].n_background, FEWEST))


def target_data(job: Job, shared: SourceData, context: Context) -> Target:
    """The job's target. `n_target` takes the first of one random order, so that smaller sets are part of larger ones.

    Raises
    ------
    InputError
        `n_target` above the size of the pool.
    """
    configs = target_configs(job)
    train, test = (datasets.simulate_target(config, folder=context.data, progress=False) for config in configs)
    train_labels, test_labels = (datasets.load_labels(config, folder=context.data) for config in configs)
    if job.n_target:
        if job.n_target > len(train):
            raise InputError(f"Expected n_target of at most {len(train)}, the size of the pool, got {job.n_target}.")
        some = torch.randperm(len(train), generator=torch.Generator().manual_seed(job.seed))[: job.n_target]
        train, train_labels = train.subset(some), train_labels.subset(some)
    return Target(job, context, shared, train, train_labels, test, test_labels)


def select(job: Job, fit: Fit, target: Target, unaligned: Fit | None = None) -> tuple[Fit, int, bool]:
    """The fit and the step whose predictions count, and whether selection fell back to source_only."""
    last = max(fit.candidates)
    if job.method in BOUNDS:
        return fit, last, False
    options = {"fallback": target.shared.source_only, "unaligned": unaligned, **RULES.get(job.rule, {})}
    choice = selection.choose(fit, target.unlabelled, device=target.context.device, **options)
    return choice.fit, choice.step, choice.fell_back


@dataclass(frozen=True)
class RunScores:
    """Scores of one training run, measured with held-out target labels.

    Attributes
    ----------
    step : the selected checkpoint, of `fit` or of the fallback
    raw, calibrated : (N, K) probabilities of the selected checkpoint on target-test
    by_step : step -> balanced accuracy of each checkpoint of the run itself
    scores : `metrics.scores` of the calibrated probabilities, and ece_raw, the calibration error of the raw ones
    calibration : of the selected checkpoint
    """

    step: int
    raw: Tensor
    calibrated: Tensor
    by_step: dict[int, float]
    scores: dict[str, float]
    calibration: Calibration

    @property
    def last(self) -> float:
        """Balanced accuracy of the last checkpoint."""
        return self.by_step[max(self.by_step)]

    @property
    def best(self) -> float:
        """Balanced accuracy of the best checkpoint, which only target labels can tell."""
        return max(self.by_step.values())

    @property
    def regret(self) -> float:
        """Best - selected: what selection without labels costs. Negative where the fallback beats all checkpoints."""
        return self.best - self.scores["balanced_accuracy"]


def score_candidates(
    fit: Fit,
    selected: Fit,
    step: int,
    test: Unlabelled,
    labels: HeldOutLabels,
    *,
    generator: torch.Generator,
    device: str = "auto",
) -> RunScores:
    """Scores of all checkpoints of a run, and of the selected one after calibration.

    Afterwards the network of `selected` holds the weights of `step`.

    Parameters
    ----------
    fit : the run
    selected, step : whose predictions count: `fit`, or the fallback of the selection, at one of its steps
    test, labels : target-test
    generator : of the warps that the calibration applies to the source-validation set
    """
    raw = {s: models.predict(fit.restore(s), test.x, device=device) for s in fit.candidates}
    by_step = {s: metrics.balanced_accuracy(p, labels) for s, p in raw.items()}
    network = selected.restore(step)
    predicted = raw[step] if selected is fit else models.predict(network, test.x, device=device)
    fitted = calibrate(network, selected.validation, selected.warps, generator, device=device)
    calibrated = fitted.probabilities(predicted)
    scores = metrics.scores(calibrated, labels) | {"ece_raw": metrics.ece(predicted, labels)}
    return RunScores(step, predicted, calibrated, by_step, scores, fitted)


def unknown_scores(called: Tensor, scores: Tensor, rejected: Tensor, labels: HeldOutLabels) -> dict[str, float | str]:
    """Scores of an unknown-class detector on a target with unseen molecules.

    none_recall and none_false_rejection are the fractions of the unseen and of the known subtomograms that the detector
    rejects. none_recall_5 is the fraction of the unseen ones rejected at the threshold that rejects 5 % of the known
    ones, which only target labels can tell. unseen_called is the class that most of the unseen ones resemble, rejected
    or not.

    Parameters
    ----------
    called : (N,) most probable class
    scores, rejected : (N,) of the detector, and what it rejects at its own thresholds
    """
    unseen = labels.y == UNKNOWN
    recall, false_rejection = metrics.unknown_recall(torch.where(rejected, UNKNOWN, called), labels)
    at_5 = scores > float(scores[~unseen].quantile(0.95))
    return {
        "none_recall": recall,
        "none_false_rejection": false_rejection,
        "none_recall_5": metrics.unknown_recall(torch.where(at_5, UNKNOWN, called), labels)[0],
        "unseen_called": labels.classes[int(called[unseen].mode().values)],
    }


def _detector(selected: Fit, target: Target, generator: torch.Generator) -> UnknownDetector:
    """The unknown-class detector of a run, fitted as in notebook 06."""
    shared = target.shared
    return UnknownDetector.fit(
        selected.network,
        shared.validation,
        shared.outliers,
        selected.warps,
        generator,
        target=target.unlabelled,
        device=target.context.device,
    )


def run(job: Job, target: Target) -> tuple[dict, list[dict]]:
    """Train (or load), select and score one job: its row of evidence.csv, and its rows of per_class.csv."""
    if job.method in OTHERS:
        return OTHERS[job.method](job, target)
    context = target.context
    fit, unaligned, n_source = _train(job, target)
    selected, step, fell_back = select(job, fit, target, unaligned)
    generator = torch.Generator().manual_seed(job.seed)
    scored = score_candidates(
        fit, selected, step, target.test, target.test_labels, generator=generator, device=context.device
    )
    seen, empty = target.seen
    sure = scored.calibrated
    if empty:  # how sure a network is of an empty box says nothing about its right answers
        sure = scored.calibration.probabilities(models.predict(selected.network, seen.x, device=context.device))
    measured: dict[str, Any] = {
        **scored.scores,
        "expected_accuracy": float(sure.amax(1).mean()),
        "a_distance_before": target.a_distance_before,
        "a_distance_after": target.a_distance(selected.network),
    }
    unseen = bool((target.test_labels.y == UNKNOWN).any())
    detector = _detector(selected, target, generator) if unseen or job.tier == "controls" else None
    if unseen and detector:
        away = detector.score(selected.network, target.test.x, device=context.device)
        rejected = assign(scored.calibrated, away, detector.thresholds) == UNKNOWN
        measured |= unknown_scores(scored.calibrated.argmax(1), away, rejected, target.test_labels)
    if job.tier in ("unseen", "rotation"):
        measured["unseen_molecule"] = datasets.unseen_molecule(_config(job, "test"))
    if job.tier == "controls" and detector:
        parts = (selected.network, scored.calibration, detector)
        measured |= _control_scores(job, target, lambda x: controls.call(*parts, x, context.device))
    if job.tier in SPIKED and job.method != "oracle":
        for column, spikes in target.spike_ins.items():
            spiked = models.predict(selected.network, spikes.x, device=context.device)
            measured[column] = metrics.balanced_accuracy(spiked, spikes.y)
        measured["fine_power"] = fine_power(target.background.spike_ins)
    row = _row(job, target, measured) | {
        "n_source": n_source,
        "adapted_to": len(target.unlabelled),
        "steps": max(fit.candidates),
        "selected_step": step,
        "last_step": max(fit.candidates),
        "balanced_accuracy_last": scored.last,
        "balanced_accuracy_best": scored.best,
        "fell_back": int(fell_back),
        "used": selected.method,
        "cpu_seconds": fit.cpu_seconds + (unaligned.cpu_seconds if unaligned else 0.0),
    }
    return row, _per_class(job, scored.calibrated, target.test_labels)


def _train(job: Job, target: Target) -> tuple[Fit, Fit | None, int]:
    """The fit of a job, the one without adversaries that it is checked against, and how many subtomograms taught it."""
    shared, context = target.shared, target.context
    shared.source_only.restore(max(shared.source_only.candidates))
    labelled, recipe = shared.source, resolve(job.method, job.left_out)[1]
    if recipe.oracle:
        labelled = target.oracle_source
    elif recipe.own_background:
        labelled = target.own_source
    if job.method == "source_only":
        return shared.source_only, None, len(labelled)
    made = (labelled, target.unlabelled, shared.validation)
    fit = context.train(job, job.method, *made)
    return fit, context.train(job, recipe.unaligned, *made) if recipe.unaligned else None, len(labelled)


def _per_class(job: Job, probabilities: Tensor, labels: HeldOutLabels) -> list[dict]:
    recall = metrics.recall(probabilities, labels)
    return [
        {**asdict(job), "class": name, "recall": float(value), "n": int((labels.y == k).sum())}
        for k, (name, value) in enumerate(zip(labels.classes, recall, strict=True))
    ]


def _control_scores(job: Job, target: Target, classify: Callable[[Tensor], controls.Called]) -> dict[str, float]:
    boxes, folder = target.background.spike_ins, target.context.data
    return controls.scores(classify, _config(job, "test"), target.test, boxes, target.shared.source, folder=folder)


def run_templates(job: Job, target: Target) -> tuple[dict, list[dict]]:
    """Template matching of one target: a row without what belongs to training, and its rows of per_class.csv."""
    labels, classifier = target.test_labels, target.templates
    began = time.process_time()
    found = classifier.bank.match(target.test.x)
    spent = time.process_time() - began
    p = classifier.probabilities(found)
    measured: dict[str, Any] = {**metrics.scores(p, labels), "cpu_seconds": spent}
    if (labels.y == UNKNOWN).any():
        strange = classifier.strangeness(found)
        measured |= unknown_scores(found.labels, strange, strange > 0, labels)
    if job.tier in ("unseen", "rotation"):
        measured["unseen_molecule"] = datasets.unseen_molecule(_config(job, "test"))
    if job.tier == "controls":
        measured |= _control_scores(job, target, classifier.call)
    return _row(job, target, measured), _per_class(job, p, labels)


def run_both(job: Job, target: Target) -> tuple[dict, list[dict]]:
    """One answer of `cryoshift` as chosen and of templates, as in notebook 06: a row, and its rows of per_class.csv."""
    context, labels, network = target.context, target.test_labels, replace(job, method="cryoshift")
    fit, unaligned, n_source = _train(network, target)
    selected, step, fell_back = select(network, fit, target, unaligned)
    generator = torch.Generator().manual_seed(job.seed)
    calibration = calibrate(
        selected.restore(step), target.shared.validation, selected.warps, generator, device=context.device
    )
    bank = target.templates.bank

    def says(x: Tensor) -> Tensor:
        return calibration.probabilities(models.predict(selected.network, x, device=context.device))

    made = (target.shared.validation, selected.warps)
    pool = Combination.of(bank.classes, bank, says, *made, pipeline.seeded_generator(job.seed, "network and templates"))

    def answer(x: Tensor) -> Tensor:
        return says(x) if pool is None else pool.probabilities(says(x), bank.match(x))

    p, (seen, empty) = answer(target.test.x), target.seen
    measured: dict[str, Any] = metrics.scores(p, labels)
    measured["expected_accuracy"] = float((answer(seen.x) if empty else p).amax(1).mean())
    measured |= {name: metrics.balanced_accuracy(answer(s.x), s.y) for name, s in target.spike_ins.items()}
    row = _row(job, target, measured) | {
        "n_source": n_source,
        "adapted_to": len(target.unlabelled),
        "fine_power": fine_power(target.background.spike_ins),
        "steps": max(fit.candidates),
        "selected_step": step,
        "fell_back": int(fell_back),
        "used": selected.method,
        "cpu_seconds": fit.cpu_seconds + (unaligned.cpu_seconds if unaligned else 0.0),
    }
    return row, _per_class(job, p, labels)


OTHERS: dict[str, Callable[[Job, Target], tuple[dict, list[dict]]]] = {TEMPLATES: run_templates, BOTH: run_both}


def _row(job: Job, target: Target, measured: Mapping[str, Any]) -> dict[str, Any]:
    """The columns that a row has whatever has made the answer."""
    return {
        **asdict(job),
        "target": target.test.name,
        **measured,
        "device": runtime.pick_device(target.context.device).type,
        "threads": torch.get_num_threads(),
        "commit": target.context.commit,
    }


def _describe(job: Job) -> str:
    without = job.without and f"without {job.without}"
    sizes = (job.n_target and f"{job.n_target} unlabelled", job.n_simulated and f"{job.n_simulated} simulated")
    parts = (job.method, job.scenario, without, job.rule, *sizes, f"seed {job.seed}")
    return " ".join(str(part) for part in parts if part)


def _work_through(
    todo: Sequence[Sequence[AnyJob]],
    run_one: Callable[[AnyJob], str],
    describe: Callable[[AnyJob], str],
    finish_group: Callable[[Sequence[AnyJob]], None] = lambda group: None,
) -> list[AnyJob]:
    """Run each job and print its result; the jobs that failed are returned.

    Parameters
    ----------
    run_one : runs a job, stores its rows and returns a text with its result
    describe : a job in words
    finish_group : called after the last job of each group
    """
    total, count, failed, started = sum(map(len, todo)), 0, [], time.monotonic()
    print(f"{total} jobs to run with {len(todo)} targets", flush=True)
    for group in todo:
        for job in group:
            try:
                result = run_one(job)
            except Exception as error:  # one failing job must not stop the others; the traceback is printed
                traceback.print_exc()
                failed.append(job)
                result = f"FAILED: {error}"
            count += 1
            minutes = (time.monotonic() - started) / count * (total - count) / 60
            print(f"[{count}/{total}] {describe(job)}: {result}; about {minutes:.0f} min left", flush=True)
        finish_group(group)
    return failed


def _missing(todo: Sequence[Sequence[AnyJob]], done: set[tuple[str, ...]]) -> list[list[AnyJob]]:
    """The groups without the jobs that are done, and without the groups that are then empty."""
    return [missing for group in todo if (missing := [job for job in group if job.key not in done])]


def run_all(todo: list[list[Job]], out: Path, context: Context, keep_data: bool = False) -> list[Job]:
    """Run the jobs that the CSV lacks, group by group, and add a row for each; the jobs that failed are returned."""
    shared: dict[tuple, SourceData] = {}  # (seed, source size, class left out) -> data, of one source at a time
    targets: dict[tuple, Target] = {}  # of one target at a time

    def run_one(job: Job) -> str:
        source = (job.seed, job.n_simulated, find_scenario(job.scenario).unseen_molecule)
        if source not in shared:
            shared.clear()
            shared[source] = source_data(job, context)
        key = (job.profile, job.scenario, *source, job.n_target)
        if key not in targets:
            targets.clear()
            targets[key] = target_data(job, shared[source], context)
        row, per_class = run(job, targets[key])
        add(out / "per_class.csv", per_class)
        add(out / "evidence.csv", [row])
        return f"{row['balanced_accuracy']:.3f}, {row['cpu_seconds']:.0f} CPU-s"

    def finish_group(group: Sequence[Job]) -> None:
        targets.clear()
        for config in {config for job in group for config in (*target_configs(job), background_config(job))}:
            for path in () if keep_data else context.data.glob(f"{config.file_name}*"):
                path.unlink()

    done = {_key(row) for row in read(out / "evidence.csv")}
    return _work_through(_missing(todo, done), run_one, _describe, finish_group)


@dataclass(frozen=True)
class Trained:
    """The classifiers of one real job.

    Attributes
    ----------
    models : "as trained", the last checkpoint of the method; "as chosen", what the selection without labels uses,
        which can be another method's
    cpu_seconds : of training, without source_only
    """

    models: dict[str, Classifier]
    cpu_seconds: float


def train_real(
    job: RealJob,
    target: Unlabelled,
    classes: Sequence[str],
    context: Context,
    data: TargetData,
    keep_out: np.ndarray | None = None,
) -> Trained:
    """The classifiers of a job on an experimental target, by the steps of notebook 06 with its default parameters.

    Parameters
    ----------
    data, keep_out : as in :func:`pipeline.background_boxes`
    """
    profile = PROFILES[job.profile].for_classes(classes)
    context.data.mkdir(parents=True, exist_ok=True)
    options: dict[str, Any] = {"seed": job.seed, "device": context.device}
    source, validation = pipeline.simulate_source(target, profile, folder=context.data, **options)
    own, recipe = None, resolve(job.method)[1]
    if recipe.own_background:
        boxes = pipeline.background_boxes(data, n=profile.n_background, seed=job.seed, keep_out=keep_out).train
        own, _ = pipeline.own_source(job.method, source, target, boxes, **options)
    fits = pipeline.fit_methods(
        job.method, source, validation, target, profile, own=own, folder=context.work / "fits", **options
    )
    fit = fits[job.method]
    spent = sum(f.cpu_seconds for name, f in fits.items() if name in (job.method, recipe.unaligned))
    as_chosen = pipeline.select_classifier(fits, job.method, target, None, **options)
    return Trained({"as trained": finish(fit, step=max(fit.candidates), **options), "as chosen": as_chosen}, spent)


def run_real(job: RealJob, context: Context) -> list[dict]:
    """Train (or load), select and score one job: its rows of real.csv.

    A row for each model, "as trained" and "as chosen"; on the HIV tomogram one for each of those and each particle.
    """
    n = PROFILES[job.profile].n_target
    if job.target == real.LAMELLA:
        data = real.lamella(job.subset)
        trained = train_real(job, pipeline.adaptation_set(data, n), real.LAMELLA_CLASSES, context, data)
        mix = "all" if job.subset in real.DOMINATED else job.subset
        scored = data if mix == job.subset else real.lamella(mix)
        rows = [
            _real_row(job, model, trained, context) | _lamella_row(mix, scored, classifier, context)
            for model, classifier in trained.models.items()
        ]
    else:
        data, test = real.particles(job.subset, max(24, min(600, n // 2)))  # n_ice of notebook 06
        trained = train_real(job, test.target, real.VLP_CLASSES, context, data, test.held_out_at)
        rows = []
        for model, classifier in trained.models.items():
            probabilities = classifier.predict(test.held_out, context.device).probabilities
            for number, scores in real.particle_scores(probabilities, test).items():
                rows.append(_real_row(job, model, trained, context) | {"particle": number} | scores)
    return rows


def _real_row(job: RealJob, model: str, trained: Trained, context: Context) -> dict[str, Any]:
    """The columns of a row before the scores."""
    recipe = trained.models[model].recipe
    return {
        **asdict(job),
        "model": model,
        "used": recipe["method"],
        "step": recipe["step"],
        "cpu_seconds": trained.cpu_seconds,
        "device": runtime.pick_device(context.device).type,
        "threads": torch.get_num_threads(),
        "commit": context.commit,
        "particle": "",
    }


def _lamella_row(mix: str, data: TargetData, classifier: Classifier, context: Context) -> dict[str, float]:
    """Scores of one model on a mix of the lamella, with the ends of their intervals."""
    probabilities = classifier.predict(data.subtomograms, context.device).probabilities
    labels = real.lamella_labels(mix, data)
    assert data.tomogram is not None and data.particles.zyx is not None  # the target is a tomogram with positions
    of = real.blocks(data.particles.zyx[data.kept], data.tomogram.data.shape)
    row: dict[str, float] = {}
    for name, found in real.lamella_scores(probabilities, labels, of).items():
        row |= {name: found.mean, f"{name}_low": found.low, f"{name}_high": found.high}
    counts = {"n_listed": real.LISTED, "n_random": real.RANDOM}
    return row | {name: int((labels.y == kind).sum()) for name, kind in counts.items()}


def run_all_real(todo: list[list[RealJob]], out: Path, context: Context) -> list[RealJob]:
    """Run the jobs that real.csv lacks and add their rows; the jobs that failed are returned."""

    def run_one(job: RealJob) -> str:
        rows = run_real(job, context)
        add(out / "real.csv", rows, REAL_KEYS)
        return f"{rows[0]['cpu_seconds']:.0f} CPU-s"

    done = {_key(row, REAL_KEYS) for row in read(out / "real.csv")}
    return _work_through(_missing(todo, done), run_one, lambda job: " ".join(job.key[1:]))
