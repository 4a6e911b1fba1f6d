"""Comparison of methods on scenarios or on own data: one long table, a row for each model, that grows run by run.

::

    table = compare(["source_only", "mada"], "in_situ_2", seeds=[0, 1], grid={"weights.mada": [0.3, 1, 3]}, jobs=2)

The same call again runs only what the table lacks, what failed, and what was made with other code.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib
import importlib.util
import io
import itertools
import json
import multiprocessing
import os
import sys
import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass, field, fields, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock
from torch import Tensor

from .. import data, metrics, models, selection, training
from ..application import pipeline
from ..application.classifier import Classifier, finish
from ..application.empty import with_background, without_empty
from ..application.profiles import PROFILES
from ..application.recipes import applicable, parts
from ..application.target_data import Background, divide_background
from ..data import HeldOutLabels, Labelled, Unlabelled
from ..errors import InputError
from ..losses import information_maximisation
from ..methods import METHODS, TERMS, resolve
from ..metrics import FRACTION, interval
from ..support import runtime
from ..training import Fit, TrainingConfig
from ..warps import WARPS
from . import runner, skada_oracle
from .jobs import BOUNDS, Job, find_scenario
from .tables import table as markdown

KEYS = ("run", "model")  # the columns that identify a row
MODELS = ("as trained", "as chosen")
SWEPT = ("steps", "batch", "lr", "weight_decay", "encoder", "width", "evaluations", "candidates", "picking_error")
SCORING = (
    "application.classifier",
    "application.empty",
    "application.pipeline",
    "application.profiles",
    "application.spike_in",
)
OWN = ("benchmark.compare", "benchmark.skada_oracle")
CODE = (*training.CODE, "simulation", "selection", "calibration", "metrics", *SCORING, *OWN)
Value = str | int | float


@dataclass(frozen=True)
class OwnData:
    """Files of a user's own data, which every process can read; see :func:`compare`."""

    target: Path
    source: Path | None = None
    background: tuple[Path, ...] = ()  # boxes for spike-ins, and those to train with where there are enough
    labels: HeldOutLabels | None = None
    classes: tuple[str, ...] = ()
    digest: str = ""


@dataclass(frozen=True)
class Setting:
    """What all runs of a comparison share."""

    profile: str
    out: Path
    device: str
    modules: tuple[str, ...] = ()
    own: Mapping[str, OwnData] = field(default_factory=dict)
    skada: bool = False

    @property
    def table(self) -> Path:
        """The CSV."""
        return self.out / "compare.csv"

    @property
    def work(self) -> Path:
        """Folder of data and fits, shared by all processes."""
        return self.out / "work"


@dataclass(frozen=True)
class OneRun:
    """One model to train. `changes` are the swept parameters that this method has."""

    method: str
    target: str
    seed: int
    changes: tuple[tuple[str, Value], ...] = ()

    @property
    def data_seed(self) -> int:
        """Seed of the simulated data: the swept parameter, or the seed of the training."""
        return int(dict(self.changes).get("data_seed", self.seed))

    def config_changes(self, method: str) -> dict[str, Any]:
        """Changes of the profile's TrainingConfig for a method: those of its parts, and those of every method."""
        changes = dict(self.changes)
        weights = {n.partition(".")[2]: float(v) for n, v in changes.items() if n.startswith("weights.")}
        without = [name for name in str(changes.get("without", "")).split("+") if name]
        plain = {name: value for name, value in changes.items() if name in SWEPT}
        return plain | applicable(method, weights, without)

    def __str__(self) -> str:
        return " ".join([self.method, self.target, f"seed {self.seed}", *(f"{n}={v}" for n, v in self.changes)])


@dataclass(frozen=True)
class Compared:
    """Result of :func:`compare`.

    Attributes
    ----------
    rows : of the table, in its order, those of earlier calls too; texts as in the CSV
    path : the CSV
    failed : runs of this call that failed, with the message
    """

    rows: list[dict[str, str]]
    path: Path
    failed: dict[str, str]

    def __str__(self) -> str:
        """A row for each configuration and model: mean over seeds with its 95 % t interval."""
        swept = [name for name in (self.rows[0] if self.rows else {}) if name.startswith("p:")]
        groups: dict[tuple[str, ...], list[dict[str, str]]] = {}
        for row in self.rows:
            if row["status"] == "finished":
                key = (row["target"], row["method"], *(row.get(name, "") for name in swept), row["model"])
                groups.setdefault(key, []).append(row)
        lines = []
        for key, found in sorted(groups.items()):
            score = "balanced_accuracy" if found[0].get("balanced_accuracy") else "confidence"
            values = [float(row[score]) for row in found if row.get(score)]
            text = f"{interval(values, bounds=FRACTION):.3f}" if values else ""
            lines.append([*key, str(len(found)), score, text])
        header = " | ".join(["target", "method", *(n.removeprefix("p:") for n in swept), "model", "seeds", "score", ""])
        return markdown(header, lines)


def compare(
    methods: Sequence[str],
    targets: str | Sequence[str] | Unlabelled | Mapping[str, Unlabelled] = "in_situ_1",
    seeds: Iterable[int] = (0,),
    *,
    grid: Mapping[str, Sequence[Value]] | None = None,
    profile: str = "laptop",
    source: Labelled | None = None,
    classes: Sequence[str] = (),
    background: Tensor | Unlabelled | Background | None = None,
    labels: HeldOutLabels | None = None,
    out: str | Path = "runs/compare",
    jobs: int = 1,
    modules: Sequence[str | Path] = (),
    skada: bool = False,
    device: str = "cpu",
    progress: bool = True,
) -> Compared:
    """Train methods on targets with several seeds and swept parameters, and score them, in one table.

    `out`/compare.csv gets two rows for each run: of the model "as trained" (the last checkpoint) and "as chosen"
    without labels. Rows come as runs end, so a call that was stopped goes on where it was. Data and fits are kept in
    `out`/work; processes that need the same ones wait for the first.

    Parameters
    ----------
    methods : names in `methods.METHODS`, or registered with `register`
    targets : names of scenarios, or own data: Unlabelled, or name -> Unlabelled. Own data are scored without labels
        (confidence, IM score, spike-ins where there is a background), unless `labels` are given
    seeds : of the training, and of simulated data, too, unless the grid has data_seed
    grid : swept parameter -> values: a field of TrainingConfig such as "steps" or "lr", "weights.TERM", "without"
        (parts joined by +, "" for none) or "data_seed". A method that lacks the parameter runs once
    profile : amount of data and training
    source : labelled source for own data; None: simulated, of `classes` (the profile's where empty)
    background : (N, 1, b, b, b) particle-free boxes of own data, normalised alike: for spike-ins and own_background. A
        `Background`, such as of `pipeline.background_boxes`, is divided already
    labels : held-out labels of the own target, for scores alone
    jobs : processes. With 1, all runs in this one. With more, a method from a script takes part if the script
        registers it at its top level and calls `compare` below ``if __name__ == "__main__":``, or stands in `modules`
    modules : names or paths of Python files that register methods, imported by every process
    skada : beside each run of source_only, rows of skada's estimators on its features ("skada_coral" and others), and
        in all rows skada's scores without labels; see :mod:`skada_oracle`. Needs the extra `skada`

    Raises
    ------
    InputError
        before anything runs: an unknown method, scenario or parameter, a value of the wrong type, a method that the
        other processes do not know, or no skada
    """
    load_modules(modules)
    if skada:
        skada_oracle.check_installed()
    setting, names = _setting(profile, out, device, modules, targets, source, classes, background, labels)
    setting = replace(setting, skada=skada)
    todo = runs(methods, names, seeds, grid or {}, profile)
    if own := [run for run in todo if run.target in setting.own and run.method == "oracle"]:
        raise InputError(f"The oracle trains on target labels; {own[0].target} has none to train on. Leave it out.")
    if jobs < 1:
        raise InputError(f"Expected jobs of at least 1, got {jobs}.")
    missing = [run for run in todo if not _done(run, setting)]
    say: Callable[..., None] = print if progress else lambda *_, **__: None
    say(f"{len(todo)} runs, {len(todo) - len(missing)} of them in {setting.table}", flush=True)
    failed: dict[str, str] = {}
    began = time.monotonic()
    for count, (run, (result, error)) in enumerate(_work(missing, setting, jobs), 1):
        if error:
            failed[str(run)] = error
        minutes = (time.monotonic() - began) / count * (len(missing) - count) / 60
        left = f"; about {minutes:.0f} min left" if count < len(missing) else ""
        say(f"[{count}/{len(missing)}] {run}: {f'FAILED: {error}' if error else result}{left}", flush=True)
    return Compared(runner.read(setting.table), setting.table, failed)


def _setting(
    profile: str,
    out: str | Path,
    device: str,
    modules: Sequence[str | Path],
    targets: str | Sequence[str] | Unlabelled | Mapping[str, Unlabelled],
    source: Labelled | None,
    classes: Sequence[str],
    background: Tensor | Unlabelled | Background | None,
    labels: HeldOutLabels | None,
) -> tuple[Setting, list[str]]:
    """The setting, with own data written to files, and the names of the targets."""
    runtime.check_known("a profile", profile, PROFILES)
    texts = tuple(str(Path(m).resolve()) if Path(m).suffix == ".py" else str(m) for m in modules)
    setting = Setting(profile, Path(out).expanduser().resolve(), device, texts)
    if isinstance(targets, Unlabelled):
        targets = {targets.name: targets}
    if isinstance(targets, str):
        targets = (targets,)
    if not isinstance(targets, Mapping):
        for value in targets:
            if not isinstance(value, str):
                raise InputError(
                    f"Expected names of scenarios or Unlabelled targets, got {type(value).__name__}: labels of a "
                    "target never train. Pass Unlabelled, and its labels as labels=HeldOutLabels(...)."
                )
            find_scenario(value)
        if source is not None or background is not None or labels is not None:
            raise InputError("source, background and labels go with own data; expected scenarios alone, or own data.")
        return setting, list(targets)
    folder, own = setting.work / "own", {}
    for name, target in targets.items():
        if not isinstance(target, Unlabelled):
            raise InputError(
                f"Target {name!r}: expected Unlabelled, got {type(target).__name__}. Pass Unlabelled(x, voxel_size, "
                "groups, name); its labels, where there are any, as labels=HeldOutLabels(...)."
            )
        if labels is not None and len(labels) != len(target):
            raise InputError(f"Expected {len(target)} labels for target {name!r}, got {len(labels)}.")
        boxes = [] if background is None else _divided(background, PROFILES[profile].n_background)
        empty = [Unlabelled(x, target.voxel_size, torch.zeros(len(x)).long(), "background") for x in boxes]
        file, given = _keep(folder, target), None if source is None else _keep(folder, source)
        free = tuple(_keep(folder, part) for part in empty)
        digest = [None if f is None else f.stem for f in (file, given, *free)]
        text = json.dumps([digest, list(classes), None if labels is None else labels.y.tolist()])
        code = hashlib.sha256(text.encode()).hexdigest()[:12]
        own[name] = OwnData(file, given, free, labels, tuple(classes), code)
    return replace(setting, own=own), list(targets)


def _divided(background: Tensor | Unlabelled | Background, n: int) -> list[Tensor]:
    """Boxes for spike-ins, and those to train with where there are enough, at most n each."""
    if not isinstance(background, Background):
        x = background if isinstance(background, Tensor) else background.x
        background = divide_background(x, None, 0, n)
    return [background.spike_ins, *([] if background.train is None else [background.train])]


def _keep(folder: Path, part: Labelled | Unlabelled) -> Path:
    """File of a dataset, named by its content."""
    digest = hashlib.sha256(repr([part.voxel_size, part.contrast]).encode())
    for name in ("x", "y"):
        if hasattr(part, name):
            digest.update(getattr(part, name)[:].cpu().contiguous().numpy().tobytes())
    path = folder / f"{digest.hexdigest()[:16]}.safetensors"
    if not path.is_file():
        folder.mkdir(parents=True, exist_ok=True)
        data.save(path, part)
    return path


def runs(
    methods: Sequence[str],
    targets: Sequence[str],
    seeds: Iterable[int],
    grid: Mapping[str, Sequence[Value]],
    profile: str = "laptop",
) -> list[OneRun]:
    """All runs, each once, ordered so that runs which share data follow each other.

    Raises
    ------
    InputError
        an unknown method or parameter, a value of the wrong type, or a parameter that none of the methods has
    """
    for method in methods:
        runtime.check_known("a method", method, METHODS)
    for name, values in grid.items():
        _check_swept(name, values, methods)
    found: dict[OneRun, None] = {}
    for target, seed in itertools.product(targets, list(seeds)):
        for method, values in itertools.product(methods, itertools.product(*grid.values())):
            changes = tuple((n, v) for n, v in zip(grid, values, strict=True) if _has(method, n, v))
            run = OneRun(method, target, seed, changes)
            PROFILES[profile].training(**run.config_changes(method))
            resolve(method, run.config_changes(method)["without"])
            found[run] = None
    return sorted(found, key=lambda run: (run.target, run.data_seed, run.seed))


def _has(method: str, name: str, value: Value) -> bool:
    """Whether a swept parameter means something to a method."""
    if name.startswith("weights."):
        return name.partition(".")[2] in parts(method)
    if name == "without":
        return bool(set(str(value).split("+")) & parts(method))
    return True


def _check_swept(name: str, values: Sequence[Value], methods: Sequence[str]) -> None:
    terms = sorted({term for method in methods for term in dict(METHODS[method].terms)})
    known = [*SWEPT, "without", "data_seed", *(f"weights.{term}" for term in terms)]
    if name not in known:
        raise InputError(
            f"grid: expected parameters out of {', '.join(known)}, got '{name}'{runtime.did_you_mean(name, known)}"
        )
    if isinstance(values, str) or not isinstance(values, Sequence) or not values:
        raise InputError(f"grid: expected a list of values for {name}, such as [1, 3], got {values!r}.")
    kinds: dict[str, tuple[type, ...]] = {"without": (str,), "encoder": (str,), "data_seed": (int,)}
    whole = {f.name for f in fields(TrainingConfig) if f.type == "int"}
    expected = kinds.get(name, (int,) if name in whole else (int, float))
    for value in values:
        if isinstance(value, bool) or not isinstance(value, expected):
            names = " or ".join(kind.__name__ for kind in expected)
            raise InputError(f"grid: expected {names} for {name}, got {value!r} ({type(value).__name__}).")
        for part in str(value).split("+") if name == "without" and value else ():
            runtime.check_known("terms and warps", part, [*TERMS, *WARPS, "own_background"])


def load_modules(modules: Iterable[str | Path]) -> None:
    """Import Python files or modules that register methods; one that is imported already is left as it is.

    Raises
    ------
    InputError
        a file or module that is not found.
    """
    for module in map(str, modules):
        path = Path(module)
        name = path.stem if path.suffix == ".py" else module
        main = getattr(sys.modules.get("__main__"), "__file__", None)
        if name in sys.modules or (main and Path(main).resolve() == path.resolve()):
            continue
        if path.suffix == ".py" and not path.is_file():
            raise InputError(f"{path}: expected a Python file that registers methods, got no file.")
        try:
            if path.suffix != ".py":
                importlib.import_module(module)
                continue
        except ModuleNotFoundError as error:
            raise InputError(
                f"modules: expected a module or the path of a .py file, got '{module}' ({error})."
            ) from error
        spec = importlib.util.spec_from_file_location(name, path)
        assert spec is not None and spec.loader is not None
        made = importlib.util.module_from_spec(spec)
        sys.modules[name] = made
        spec.loader.exec_module(made)


def code_of(method: str) -> str:
    """Digest of the code behind a method's rows, that of its own terms, adversaries and warps included."""
    recipe = METHODS[method]
    functions: list[object] = [part for name, _ in recipe.terms for part in (TERMS[name].loss, TERMS[name].adversary)]
    functions += [WARPS[name] for name in (*recipe.warps, *recipe.student_augmentation)]
    texts = [repr(recipe), runtime.code_digest(*CODE), *map(runtime.function_digest, functions)]
    return hashlib.sha256("\n".join(texts).encode()).hexdigest()[:16]


def run_id(run: OneRun, setting: Setting) -> str:
    """Digest that tells a run from every other: its fields, the profile and the own data."""
    own = setting.own[run.target].digest if run.target in setting.own else ""
    text = json.dumps([asdict(run), setting.profile, own], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def _done(run: OneRun, setting: Setting) -> bool:
    """Whether the table has both rows of a run, finished, and made with the present code; with skada, its scores."""
    mine, code = run_id(run, setting), code_of(run.method)
    rows = [row for row in _rows(setting.table) if row["run"] == mine]
    if setting.skada:
        rows = [row for row in rows if row.get(f"skada_{skada_oracle.SCORES[0]}")]
    return {row["model"] for row in rows if row["status"] == "finished" and row["code"] == code} == set(MODELS)


def _rows(path: Path) -> list[dict[str, str]]:
    """The table, read again only after it has changed."""
    stamp = path.stat().st_mtime_ns if path.is_file() else 0
    if _READ.get(path, (0, []))[0] != stamp:
        _READ[path] = stamp, runner.read(path)
    return _READ[path][1] if stamp else []


_READ: dict[Path, tuple[int, list[dict[str, str]]]] = {}


def _work(todo: list[OneRun], setting: Setting, jobs: int) -> Iterator[tuple[OneRun, tuple[str, str]]]:
    """Each run with its result and its error, as they end."""
    if jobs == 1 or len(todo) < 2:
        for run in todo:
            yield run, run_one(run, setting)
        return
    methods = list(dict.fromkeys(run.method for run in todo))
    context = multiprocessing.get_context("spawn")  # threads of torch do not survive a fork
    with one_thread(), ProcessPoolExecutor(min(jobs, len(todo)), context, load_modules, (setting.modules,)) as pool:
        started: dict[Future, OneRun] = {}
        try:
            if unknown := pool.submit(_unknown, methods).result():
                raise InputError(
                    f"Other processes do not know the method {', '.join(unknown)}. Register it at the top level of the "
                    'script and call compare below if __name__ == "__main__":, or pass modules=["the_script.py"], '
                    "or use jobs=1."
                )
            started = {pool.submit(run_one, run, setting): run for run in todo}
            for future in as_completed(started):
                yield started[future], future.result()
        except BrokenProcessPool as error:
            raise InputError(
                "A process was ended from outside, or could not import the script or the modules (a script must call "
                'compare below if __name__ == "__main__":). The same call goes on with the runs that are missing; if '
                "memory was short, with fewer jobs."
            ) from error
        finally:
            for future in started:
                future.cancel()


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """Processes that are started in this block compute with one thread each."""
    names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")
    before = {name: os.environ.get(name) for name in names}
    os.environ.update(dict.fromkeys(names, "1"))
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def _unknown(methods: Sequence[str]) -> list[str]:
    return [method for method in methods if method not in METHODS]


def run_one(run: OneRun, setting: Setting) -> tuple[str, str]:
    """The result of one run in words, and its error, of which one is empty. Its rows are in the table afterwards."""
    own = [(run.method, model) for model in MODELS]
    mine, code, began = run_id(run, setting), code_of(run.method), time.monotonic()
    (setting.work / "runs").mkdir(parents=True, exist_ok=True)
    about = {
        "profile": setting.profile,
        "target": run.target,
        "seed": run.seed,
        "data_seed": run.data_seed,
        **{f"p:{name}": value for name, value in run.changes},
    }
    with FileLock(setting.work / "runs" / f"{mine}.lock"):
        if _done(run, setting):
            return "in the table already", ""
        try:
            with contextlib.redirect_stdout(io.StringIO()):  # bars of progress
                found = _score(run, setting)
            error = ""
        except Exception as problem:  # one failing run must not stop the others; its row says why
            found = dict.fromkeys(own, {})
            error = " ".join(str(problem).split()) or type(problem).__name__
            if not isinstance(problem, InputError):
                traceback.print_exc()
        last = {
            "seconds": time.monotonic() - began,
            "device": runtime.pick_device(setting.device).type,
            "threads": torch.get_num_threads(),
            "commit": runtime.commit(),
            "code": code,
            "error": error,
        }
        status = {"status": "failed" if error else "finished"}
        rows = [
            {"run": run_id(replace(run, method=method), setting), "method": method, "model": model}
            | about
            | status
            | columns
            | last
            for (method, model), columns in found.items()
        ]
        runner.add(setting.table, rows, KEYS)
    chosen = found[own[1]]
    score = "balanced_accuracy" if "balanced_accuracy" in chosen else "confidence"
    result = "" if error else f"{score} {chosen[score]:.3f} as chosen, {chosen['cpu_seconds']:.0f} CPU-s"
    return result, error


@dataclass(frozen=True)
class Problem:
    """What the runs on one target with one data seed share.

    Attributes
    ----------
    source, validation : labelled
    train, test : target subtomograms to adapt to, and to score on
    labels : held-out labels of `test`; None without
    simulated : the target with all its data; None for own data
    background : particle-free boxes of own data; None without
    empty : fraction of own data that is empty, where it is most of it
    data_seed, device : of what is simulated
    structures : names or files of the classes, in label order, where the source was simulated from them
    """

    source: Labelled
    validation: Labelled
    train: Unlabelled
    test: Unlabelled
    labels: HeldOutLabels | None = None
    simulated: runner.Target | None = None
    background: Background | None = None
    empty: float = 0.0
    data_seed: int = 0
    device: str = "cpu"
    structures: tuple[str, ...] = ()

    @cached_property
    def own_source(self) -> Labelled:
        """The source of methods with own_background: with molecules in particle-free boxes, where there are any."""
        if self.simulated is not None:
            return self.simulated.own_source
        boxes = None if self.background is None else self.background.train
        if boxes is None:
            return self.source
        options: dict[str, Any] = {"classes": self.structures, "seed": self.data_seed, "device": self.device}
        return pipeline.add_own_background(self.source, self.train, boxes, **options)

    @cached_property
    def spike_ins(self) -> Labelled | None:
        """Molecules in particle-free boxes of own data, for an accuracy without labels; None without background."""
        if self.background is None:
            return None
        boxes, n = self.background.spike_ins, 4 * len(self.background.spike_ins)
        options: dict[str, Any] = {"seed": self.data_seed, "device": self.device}
        return pipeline.make_spike_ins(self.structures or self.source.classes, self.train, boxes, n=n, **options)[0]


_PROBLEMS: dict[tuple, Problem] = {}  # the last one of this process


def _problem(run: OneRun, setting: Setting) -> Problem:
    key = (
        setting.profile,
        str(setting.out),
        run.target,
        run.data_seed,
        getattr(setting.own.get(run.target), "digest", ""),
    )
    if key not in _PROBLEMS:
        made = _own_problem(run, setting) if run.target in setting.own else _simulated_problem(run, setting)
        _PROBLEMS.clear()
        _PROBLEMS[key] = made
    return _PROBLEMS[key]


def _simulated_problem(run: OneRun, setting: Setting) -> Problem:
    context = runner.Context(setting.work, setting.device)
    job = Job(setting.profile, "compare", run.method, run.target, run.data_seed)
    shared = runner.source_data(job, context)
    with FileLock(setting.work / f"{setting.profile}_{run.target}_seed{run.data_seed}.lock"):
        made = runner.target_data(job, shared, context)
        _ = made.background  # simulated here, under the lock; later calls load it
    return Problem(shared.source, shared.validation, made.unlabelled, made.test, made.test_labels, made)


def _own_problem(run: OneRun, setting: Setting) -> Problem:
    own, profile = setting.own[run.target], PROFILES[setting.profile]
    target = replace(data.load(own.target, Unlabelled), name=run.target)
    structures: tuple[str, ...] = ()
    with FileLock(setting.work / f"own_{own.digest}_seed{run.data_seed}.lock"):
        if own.source is not None:
            source = data.load(own.source, Labelled)
            source, validation = _hold_out(source, run.data_seed)
        else:
            folder = setting.work / "data"
            folder.mkdir(parents=True, exist_ok=True)
            structures = tuple(own.classes or profile.classes)
            wanted = profile.for_classes(structures)
            source, validation = pipeline.simulate_source(
                target, wanted, seed=run.data_seed, folder=folder, device=setting.device
            )
    boxes = None
    if own.background:
        spike_ins, *train = (data.load(path, Unlabelled).x for path in own.background)
        boxes = Background(spike_ins, train[0] if train else None)
    adapted_to, empty = without_empty(target, boxes, source.classes)
    made: dict[str, Any] = {"data_seed": run.data_seed, "device": setting.device, "structures": structures}
    return Problem(source, validation, adapted_to, target, own.labels, None, boxes, empty, **made)


def _hold_out(source: Labelled, seed: int) -> tuple[Labelled, Labelled]:
    """The rest, and a validation set: of each class a tenth, but at least 8 where that leaves half of it."""
    order = torch.randperm(len(source), generator=torch.Generator().manual_seed(seed))
    held = []
    for k in range(len(source.classes)):
        here = order[source.y[order] == k]
        held.append(here[: min(max(8, len(here) // 10), len(here) // 2)])
    kept = torch.ones(len(source), dtype=torch.bool)
    kept[torch.cat(held)] = False
    return source.subset(kept), source.subset(~kept)


def _fit(name: str, run: OneRun, setting: Setting, problem: Problem) -> Fit:
    """Fit of a method with the run's seed and changes; processes that need the same one wait for the first."""
    config = PROFILES[setting.profile].training(**run.config_changes(name))
    recipe = resolve(name, config.without)[1]
    source, target = problem.source, problem.train
    if recipe.own_background:
        source = problem.own_source
    if recipe.oracle:
        assert problem.simulated is not None
        source = problem.simulated.oracle_source
    if name == "source_only":  # it sees no target; the validation set takes its place, so all targets share the fit
        target = Unlabelled(
            problem.validation.x, source.voxel_size, problem.validation.groups, "source", source.contrast
        )
    where = "" if name == "source_only" else run.target
    same = repr((name, where, run.data_seed, run.seed, config, setting.profile))
    lock = setting.work / "fits" / f"{name}-{hashlib.sha256(same.encode()).hexdigest()[:12]}.lock"
    lock.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(lock):
        return training.fit(
            name,
            source,
            target,
            validation=problem.validation,
            config=config,
            seed=run.seed,
            device=setting.device,
            folder=lock.parent,
            progress=False,
        )


def _score(run: OneRun, setting: Setting) -> dict[tuple[str, str], dict[str, Any]]:
    """Method and model -> the columns with its scores."""
    problem = _problem(run, setting)
    fit = _fit(run.method, run, setting, problem)
    last = max(fit.candidates)
    others: dict[str, Any] = {}
    if run.method not in BOUNDS:
        others["fallback"] = _fit("source_only", run, setting, problem)
        others["fallback"].restore(max(others["fallback"].candidates))
        if name := resolve(run.method, fit.config.without)[1].unaligned:
            others["unaligned"] = _fit(name, run, setting, problem)
    options: dict[str, Any] = {"seed": run.seed, "device": setting.device}
    trained = finish(fit, step=last, **options)
    own = _columns(trained, problem, setting, run.seed) | {"used": run.method, "step": last, "fell_back": 0}
    found = {(run.method, model): own for model in MODELS}
    if run.method not in BOUNDS:
        choice = selection.choose(fit, problem.train, device=setting.device, **others)
        chosen = finish(choice.fit, step=choice.step, **options)
        about = {"used": choice.fit.method, "step": choice.step, "fell_back": int(choice.fell_back)}
        own = _columns(chosen, problem, setting, run.seed) | about | {"warning": choice.warning}
        found[run.method, "as chosen"] = own
    if setting.skada and run.method == "source_only":
        for name, columns in _outside(trained.network, problem, setting, run.seed).items():
            about = {"used": run.method, "step": last, "fell_back": 0}
            found |= {(name, model): columns | about for model in MODELS}  # nothing is selected
    spent = fit.cpu_seconds + (others["unaligned"].cpu_seconds if "unaligned" in others else 0.0)
    amounts = {"n_source": len(problem.source), "n_target": len(problem.train), "n_scored": len(problem.test)}
    return {model: columns | amounts | {"last_step": last, "cpu_seconds": spent} for model, columns in found.items()}


def _columns(classifier: Classifier, problem: Problem, setting: Setting, seed: int) -> dict[str, Any]:
    """Scores of one model: without labels, and with held-out labels where there are any."""
    raw = models.predict(classifier.network, problem.test.x, device=setting.device)
    calibrated = with_background(classifier.calibration.probabilities(raw), classifier.classes, problem.empty)
    on_source = models.predict(classifier.network, problem.validation.x, device=setting.device)
    spiked = None
    if problem.spike_ins is not None:
        spiked = models.predict(classifier.network, problem.spike_ins.x, device=setting.device)
    found = _scores(problem, raw, calibrated, on_source, spiked)
    if setting.skada:
        head, seen = skada_oracle.head(classifier.network), _features(classifier.network, problem, setting)
        found |= {f"skada_{name}": value for name, value in skada_oracle.scores(head, seen, seed).items()}
    return found


def _scores(
    problem: Problem, raw: Tensor, calibrated: Tensor, on_source: Tensor, spiked: Tensor | None
) -> dict[str, Any]:
    """Scores of predictions of the scored target, of source-validation subtomograms, and of spike-ins."""
    found = {
        "confidence": float(calibrated.amax(1).mean()),
        "im_score": float(information_maximisation(raw)),
        "source_accuracy": metrics.balanced_accuracy(on_source, problem.validation.y),
    }
    if problem.spike_ins is not None and spiked is not None:
        found["spike_balanced_accuracy"] = metrics.balanced_accuracy(spiked, problem.spike_ins.y)
    if problem.labels is not None:
        found |= metrics.scores(calibrated, problem.labels)
        recall = metrics.recall(calibrated, problem.labels)
        found |= {f"recall:{n}": float(r) for n, r in zip(problem.labels.classes, recall, strict=True)}
    return found


def _features(network: models.Network, problem: Problem, setting: Setting) -> skada_oracle.Features:
    """Features of source-validation subtomograms and of those to adapt to."""
    embed = partial(models.embed, network, device=setting.device)
    return skada_oracle.Features(embed(problem.validation.x), problem.validation.y, embed(problem.train.x))


def _outside(network: models.Network, problem: Problem, setting: Setting, seed: int) -> dict[str, dict[str, Any]]:
    """Name of each of skada's estimators on the features of source_only -> the columns with its scores."""
    embed = partial(models.embed, network, device=setting.device)
    seen = _features(network, problem, setting)
    on = {"test": embed(problem.test.x), "spiked": None if problem.spike_ins is None else embed(problem.spike_ins.x)}
    found = {}
    trained_on = skada_oracle.Features(embed(problem.source.x), problem.source.y, seen.target)
    for name, estimator in skada_oracle.estimates(trained_on).items():
        raw, spiked = (
            None if x is None else torch.from_numpy(skada_oracle.probabilities(estimator, x)).float()
            for x in on.values()
        )
        assert raw is not None
        on_source = torch.from_numpy(skada_oracle.probabilities(estimator, seen.source, source=True)).float()
        columns = _scores(problem, raw, with_background(raw, problem.source.classes, problem.empty), on_source, spiked)
        scored = skada_oracle.scores(estimator, seen, seed)
        found[f"skada_{name}"] = columns | {f"skada_{key}": value for key, value in scored.items()}
    return found
