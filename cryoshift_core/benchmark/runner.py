"""What `make evidence` runs: jobs in tiers, one row of evidence.csv for each model trained and scored.

A job that stands in the CSV already is not run again, so a killed run goes on where it was; to repeat a job, delete its
row. Each seed is the seed of the data *and* of the training, and it is the same one for all methods.
"""

from __future__ import annotations

import csv
import math
import time
import traceback
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path

import torch
from filelock import FileLock
from torch import Tensor

from .. import calibration, metrics, models, runtime, selection, training
from ..application import spike_in
from ..application.profiles import PROFILES
from ..data import UNKNOWN, HeldOutLabels, Labelled, Unlabelled
from ..errors import InputError
from ..models import Classifier
from ..runtime import commit
from ..simulation import scenarios
from ..simulation.scenarios import SCENARIOS, DatasetConfig
from ..tomography.background import FEWEST
from ..training import Fit
from .jobs import BOUNDS, KEYS, RULES, Job


def read(path: Path) -> list[dict[str, str]]:
    """The rows of a CSV; none where there is no file yet."""
    if not path.is_file():
        return []
    with path.open(newline="") as f:
        return list(csv.DictReader(f))


def add(path: Path, rows: list[dict]) -> None:
    """Put the rows of one job into a CSV, in the place of those that have its key; all of them or none."""
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = [{name: _text(value) for name, value in row.items()} for row in rows]
    with FileLock(path.with_suffix(".lock")):  # a killed process lets go
        replaced = {_key(row) for row in rows}
        everything = [row for row in read(path) if _key(row) not in replaced] + rows
        names = list(dict.fromkeys(name for row in everything for name in row))
        partial = path.with_suffix(".partial")
        with partial.open("w", newline="") as f:
            writer = csv.DictWriter(f, names, restval="", lineterminator="\n")
            writer.writeheader()
            writer.writerows(everything)
        partial.replace(path)


def _key(row: dict[str, str]) -> tuple[str, ...]:
    return tuple(row[name] for name in KEYS)


def _text(value: object) -> str:
    if isinstance(value, float):
        return "" if math.isnan(value) else f"{value:.6g}"
    return str(value)


@dataclass(frozen=True)
class Lab:
    """Where a run works, with what, and the code's commit when it started."""

    work: Path
    device: str = "cpu"
    commit: str = field(default_factory=commit)

    @property
    def data(self) -> Path:
        return self.work / "data"

    def train(self, job: Job, method: str, source: Labelled, target: Unlabelled, validation: Labelled) -> Fit:
        """Fit with the budget of the job's profile, or load that fit."""
        p = PROFILES[job.profile]
        return training.fit(
            method, source, target, validation=validation, without=(job.without,) if job.without else (),
            steps=p.steps, batch=p.batch, encoder=p.encoder, width=p.width, seed=job.seed, device=self.device,
            folder=self.work / "fits", progress=False, evaluate_every=max(1, p.steps // 4),
        )  # fmt: skip


@dataclass(frozen=True)
class Home:
    """What all jobs of one seed share: the simulated source, outliers of none of its classes, and source_only."""

    source: Labelled
    validation: Labelled
    outliers: Labelled
    fit: Fit


@dataclass(frozen=True)
class Target:
    """One scenario: unlabelled cubes to adapt to, others to score on, and both keys. Jobs share what is made of it."""

    job: Job
    lab: Lab
    at: Home
    train: Unlabelled
    train_key: HeldOutLabels
    test: Unlabelled
    test_key: HeldOutLabels

    @cached_property
    def spiked(self) -> Labelled:
        """Spike-ins in empty boxes of the scenario, as the user of such a tomogram could make them (notebook 06).

        The nominal defocus, dose and tilts are known to whoever was at the microscope; wedge, strength and envelope
        are estimated from the cubes.
        """
        job, p = self.job, PROFILES[self.job.profile]
        ice = scenarios.load_or_simulate(background(job), self.lab.data, progress=False).x
        optics = replace(scenarios.draw_optics(SCENARIOS[job.scenario], p.voxel_size, [0.5] * 7), misalignment=0.0)
        return spike_in.imitate(p.classes, self.train, ice, p.n_test, optics=optics, seed=job.seed)

    @cached_property
    def a_distance_before(self) -> float:
        return self.a_distance(self.at.fit.model)

    def a_distance(self, model: Classifier) -> float:
        """Between a model's features of source-validation and of target-test cubes."""
        return metrics.a_distance(*(models.embed(model, part.x) for part in (self.at.validation, self.test)))


def home(job: Job, lab: Lab) -> Home:
    """Made once per seed: source_only sees nothing of a target, so source cubes stand where its target would."""
    p = PROFILES[job.profile]
    lab.data.mkdir(parents=True, exist_ok=True)
    with FileLock(lab.work / f"{p.name}_seed{job.seed}.lock"):
        source, validation = (
            scenarios.load_or_simulate(DatasetConfig.of(p, "source", part, job.seed), lab.data, progress=False)
            for part in ("source", "validation")
        )
        strange = calibration.outliers(p.classes)
        request = DatasetConfig.of(p, "source", "source", job.seed)
        request = replace(request, classes=strange, n=request.n // len(p.classes) * len(strange) // 2)
        outliers = scenarios.load_or_simulate(request, lab.data, progress=False)
        nobody = Unlabelled(validation.x, validation.voxel_size, validation.groups, "source")
        fit = lab.train(replace(job, without=""), "source_only", source, nobody, validation)
    return Home(source, validation, outliers, fit)


def requests(job: Job) -> tuple[DatasetConfig, DatasetConfig]:
    """Target-train and target-test. A number of unlabelled cubes is drawn from a pool of five times the usual."""
    p = PROFILES[job.profile]
    train, test = (DatasetConfig.of(p, job.scenario, part, job.seed) for part in ("train", "test"))
    return (replace(train, n=5 * p.n_target) if job.n_target else train), test


def background(job: Job) -> DatasetConfig:
    """Boxes without a particle, for spike-ins."""
    request = DatasetConfig.of(PROFILES[job.profile], job.scenario, "background", job.seed)
    return replace(request, n=max(request.n, FEWEST))


def target(job: Job, at: Home, lab: Lab) -> Target:
    """The job's target; its first `n_target` cubes in an order drawn once, so that smaller sets lie in larger ones."""
    (train, train_key), (test, test_key) = (
        scenarios.load_or_simulate(r, lab.data, progress=False) for r in requests(job)
    )
    if job.n_target:
        if job.n_target > len(train):
            raise InputError(f"n_target={job.n_target} of a pool of {len(train)} cubes; wanted at most all of them.")
        some = torch.randperm(len(train), generator=torch.Generator().manual_seed(job.seed))[: job.n_target]
        train, train_key = train.subset(some), train_key.subset(some)
    return Target(job, lab, at, train, train_key, test, test_key)


def select(job: Job, fit: Fit, to: Target) -> tuple[Fit, int, bool]:
    """The fit whose model answers, the step chosen, and whether selection fell back to source_only."""
    last = max(fit.candidates)
    if job.method in BOUNDS:
        fit.restore(last)
        return fit, last, False
    options = {"fallback": to.at.fit, **RULES.get(job.rule, {})}
    choice = selection.choose(fit, to.at.validation, to.train, **options)
    return choice.fit, choice.step, choice.fell_back


def score(job: Job, chosen: Fit, predicted: Tensor, to: Target) -> tuple[Tensor, dict[str, float]]:
    """Calibrated answers (N, K) from those `predicted` on target-test, and what is measured on them and on the model.

    `unknown_recall` is the share of unseen molecules that the detector rejects, at the false rejection that it really has;
    `none_recall_5` that at a threshold which rejects 5 % of the known cubes, as only the key can tell.
    """
    at, carry = to.at, torch.Generator().manual_seed(job.seed)
    honest = calibration.calibrate(chosen.model, at.validation, chosen.warps, carry).probabilities(predicted)
    measured = metrics.scores(honest, to.test_key)
    measured["ece_raw"] = metrics.ece(predicted, to.test_key)
    measured["a_distance_before"] = to.a_distance_before
    measured["a_distance_after"] = to.a_distance(chosen.model)
    unseen = to.test_key.y == UNKNOWN
    if bool(unseen.any()):
        detector = calibration.UnknownDetector.fit(chosen.model, at.validation, at.outliers, chosen.warps, carry)
        strange = detector.score(chosen.model, to.test.x)
        answers = calibration.answers(honest, strange, detector.threshold)
        measured["none_recall"], measured["none_false_rejection"] = metrics.unknown_recall(answers, to.test_key)
        fair = calibration.answers(honest, strange, float(strange[~unseen].quantile(0.95)))
        measured["none_recall_5"] = metrics.unknown_recall(fair, to.test_key)[0]
    return honest, measured


def run(job: Job, to: Target) -> tuple[dict, list[dict]]:
    """Train (or load), select and score one job -> its row of evidence.csv, and its rows of per_class.csv."""
    at, lab = to.at, to.lab
    at.fit.restore(max(at.fit.candidates))
    labelled = to.train_key.join(to.train) if job.method == "oracle" else at.source
    if job.method == "source_only":
        fit = at.fit
    else:
        fit = lab.train(job, job.method, labelled, to.train, at.validation)
    answers = {step: models.predict(fit.restore(step), to.test.x, device=lab.device) for step in fit.candidates}
    by_step = {step: metrics.balanced_accuracy(p, to.test_key) for step, p in answers.items()}
    chosen, step, fell_back = select(job, fit, to)
    told = answers[step] if chosen is fit else models.predict(chosen.model, to.test.x, device=lab.device)
    p, measured = score(job, chosen, told, to)
    if job.tier == "core" and job.method != "oracle":
        spiked = models.predict(chosen.model, to.spiked.x, device=lab.device)
        measured["spike_balanced_accuracy"] = metrics.balanced_accuracy(spiked, to.spiked.y)
    row = {
        **asdict(job),
        "n_source": len(labelled),
        "steps": max(fit.candidates),
        **measured,
        "selected_step": step,
        "last_step": max(fit.candidates),
        "balanced_accuracy_last": by_step[max(by_step)],
        "balanced_accuracy_best": max(by_step.values()),
        "fell_back": int(fell_back),
        "cpu_seconds": fit.cpu_seconds,
        "device": runtime.pick_device(lab.device).type,
        "threads": torch.get_num_threads(),
        "commit": lab.commit,
    }
    recall = metrics.recall(p, to.test_key)
    per_class = [
        {**asdict(job), "class": name, "recall": float(value), "n": int((to.test_key.y == k).sum())}
        for k, (name, value) in enumerate(zip(to.test_key.classes, recall, strict=True))
    ]
    return row, per_class


def run_all(todo: list[list[Job]], out: Path, lab: Lab, keep_data: bool = False) -> list[Job]:
    """Run what the CSV lacks, group by group, a row at a time. -> the jobs that failed"""
    done = {_key(row) for row in read(out / "evidence.csv")}
    todo = [left for group in todo if (left := [job for job in group if job.key not in done])]
    total, count, failed, started = sum(map(len, todo)), 0, [], time.monotonic()
    print(f"{total} jobs to run with {len(todo)} targets", flush=True)
    at, seed = None, None
    for group in todo:
        to = None
        for job in group:
            what = " ".join(str(v) for v in (job.method, job.scenario, job.without and f"without {job.without}",
                                             job.rule, job.n_target or "", f"seed {job.seed}") if v)  # fmt: skip
            try:
                if seed != job.seed:
                    at, seed = home(job, lab), job.seed
                if to is None or to.job.n_target != job.n_target:
                    to = target(job, at, lab)
                row, per_class = run(job, to)
                add(out / "per_class.csv", per_class)
                add(out / "evidence.csv", [row])
                said = f"{row['balanced_accuracy']:.3f}, {row['cpu_seconds']:.0f} CPU-s"
            except Exception as error:
                traceback.print_exc()
                failed.append(job)
                said = f"FAILED: {error}"
            count += 1
            left = (time.monotonic() - started) / count * (total - count) / 60
            print(f"[{count}/{total}] {what}: {said}; about {left:.0f} min left", flush=True)
        if not keep_data:
            for request in {request for job in group for request in (*requests(job), background(job))}:
                for path in lab.data.glob(f"{request.file_name}.*"):
                    path.unlink()
    return failed
