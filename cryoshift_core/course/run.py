"""Runs of notebooks: the folder that a run writes to, its random generators, and its manifest.

A notebook declares its parameters in one cell, ``name: type = value``, and then calls::

    run = begin("02_the_domain_gap", globals())

`begin` checks every value, refuses unknown names, and returns a :class:`Run`. The run writes to a new folder,
``NAME.unfinished``, and `Run.finish` renames it to ``NAME``. An earlier run that is already there is first renamed to
``NAME.<its start time>``, so the files of two runs never mix.
"""

from __future__ import annotations

import csv
import hashlib
import json
import logging
import os
import sys
import time
import uuid
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import torch
from filelock import FileLock
from tqdm import tqdm

from .. import training
from ..application import run_folder
from ..application.manifest import numbers, plain
from ..application.pipeline import seeded_generator
from ..application.profiles import PROFILES, Profile
from ..application.run_folder import MANIFEST, read_manifest, unfinished_folder
from ..application.steps import Step
from ..data import Labelled, Unlabelled
from ..errors import InputError
from ..simulation.class_files import class_file
from ..simulation.datasets import DatasetConfig, simulate_source, simulate_target
from ..support.runtime import atomic, file_digest, pick_device, root, write_text
from ..training import Fit, TrainingConfig
from .explore import Draw, explore
from .figures import describe
from .parameters import Parameters, check, names, recipe_changes


def begin(notebook: str, namespace: dict[str, Any]) -> Run:
    """Run of a notebook whose parameters are valid; its folder is new and holds a manifest.

    Parameters
    ----------
    notebook : name without ending, such as "02_the_domain_gap"
    namespace : the notebook's globals(). Annotated names are its parameters. Papermill assigns without annotation, so
        in a fresh kernel every other plain value is an unknown parameter that the user passed.

    Raises
    ------
    InputError
        before any work, for a wrong value, an unknown name, a folder that holds other files, or a place where another
        run is still writing. From this call on, IPython shows every InputError as one line without a traceback.
    """
    _show_input_errors_in_one_line()
    _show_log()
    declared = [name for name in namespace.get("__annotations__", {}) if name in namespace]
    values = {name: namespace[name] for name in declared}
    if not any(isinstance(value, Run) for value in namespace.values()):
        values |= {name: value for name, value in namespace.items() if _is_passed(name, value)}
    parameters = check(values, declared)
    if "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)
    profile = PROFILES[parameters.profile]
    profile = replace(profile, steps=parameters.steps or profile.steps)
    base = root() / "runs" / profile.name
    final = Path(parameters.out_dir).expanduser().resolve() if parameters.out_dir else base / notebook
    run = Run(notebook, parameters, {name: values[name] for name in declared}, profile, base, final)
    run.cells = namespace.get("In", [])
    run_folder.start(final, run.contents("unfinished"))
    run.data_folder.mkdir(parents=True, exist_ok=True)
    run.fits_folder.mkdir(parents=True, exist_ok=True)
    return run


def _is_passed(name: str, value: Any) -> bool:
    hidden = name.startswith(("_", "PAPERMILL_")) or name in ("In", "Out")
    return not hidden and (value is None or isinstance(value, str | int | float | list | dict))


def _show_log() -> None:
    """Show what the library logs, such as "loaded from ...", among the output of the cells."""
    log = logging.getLogger("cryoshift_core")
    if not log.handlers:
        handler = logging.StreamHandler(sys.stdout)
        handler.setFormatter(logging.Formatter("%(message)s"))
        log.addHandler(handler)
        log.setLevel(logging.INFO)


def _show_input_errors_in_one_line() -> None:
    if "IPython" not in sys.modules or (shell := sys.modules["IPython"].get_ipython()) is None:
        return

    def show(shell, etype, evalue, tb, tb_offset=None):
        shell._showtraceback(etype, evalue, [f"{etype.__name__}: {evalue}"])

    shell.set_custom_exc((InputError,), show)


@dataclass
class Run:
    """A notebook's parameters and folders, and what it reports. Made by :func:`begin`."""

    notebook: str
    params: Parameters
    declared: dict[str, Any]
    profile: Profile
    base: Path  # runs/<profile>, which the notebooks of one profile share
    final_folder: Path  # `out_dir`, or runs/<profile>/<notebook>: where the results are after finish()
    scores: dict[str, Any] = field(default_factory=dict)
    inputs: dict[str, str] = field(default_factory=dict)
    cells: list[str] = field(default_factory=list, repr=False)  # IPython's `In`: what has been executed
    id: str = field(default_factory=lambda: uuid.uuid4().hex)
    _finished: bool = False
    _wall: float = field(default_factory=time.monotonic)
    _started: str = field(default_factory=lambda: datetime.now(UTC).isoformat(timespec="seconds"))

    @property
    def folder(self) -> Path:
        """Folder to write to now: `final_folder` after finish(), NAME.unfinished beside it until then."""
        return self.final_folder if self._finished else unfinished_folder(self.final_folder)

    @property
    def data_folder(self) -> Path:
        """Folder of simulated data that all notebooks of a profile share."""
        return self.base / "data"

    @property
    def fits_folder(self) -> Path:
        """Folder of trained networks that all notebooks of a profile share."""
        return self.base / "fits"

    @property
    def device(self) -> torch.device:
        """Device that the parameter `device` names."""
        return pick_device(self.params.device)

    @property
    def training(self) -> dict[str, Any]:
        """Keyword arguments of `training.fit` from profile, `steps` and `lr`; fits go to the shared folder."""
        return {"config": self._config(), "device": self.params.device, "folder": self.fits_folder}

    def _config(self, **changes: Any) -> TrainingConfig:
        rate = {"lr": self.params.lr} if self.params.lr else {}
        return self.profile.training(**rate, **changes)

    @property
    def data_seed(self) -> int:
        """Seed of the simulated data: the parameter `data_seed`, or `seed` where that is -1."""
        return self.params.seed if self.params.data_seed < 0 else self.params.data_seed

    def domains(self) -> tuple[Labelled, Labelled, Unlabelled]:
        """Source, held-out source (validation) and target of the run's scenario, kept in `data_folder`."""
        parts = (("source", "source"), ("source", "validation"), (self.params.scenario, "train"))
        source, validation, target = (DatasetConfig.of(self.profile, *part, self.data_seed) for part in parts)
        return (
            simulate_source(source, folder=self.data_folder),
            simulate_source(validation, folder=self.data_folder),
            simulate_target(target, folder=self.data_folder),
        )

    @property
    def methods(self) -> tuple[str, ...]:
        """Names in the parameter `methods`."""
        return names(self.params.methods)

    def fit(
        self, method: str, source: Labelled, target: Unlabelled, validation: Labelled, seed: int | None = None
    ) -> Fit:
        """Fit of a method, as `training.fit` makes it, with the budget, `weights` and `without` of this run.

        Weights of terms and parts to leave out apply to the methods that have them. The fit is kept in
        `fits_folder`; runs that need the same one at the same time wait for the first of them.

        Parameters
        ----------
        seed : of the training; None: the parameter `seed`
        """
        config = self._config(**recipe_changes(method, self.params.weights, self.params.without))
        seed = self.params.seed if seed is None else seed
        same = repr((method, seed, config, self.params.scenario, self.data_seed, self.params.device))
        lock = self.fits_folder / f"{method}-{hashlib.sha256(same.encode()).hexdigest()[:12]}.lock"
        with FileLock(lock):
            return training.fit(
                method, source, target, validation=validation, seed=seed, **{**self.training, "config": config}
            )

    def final_path(self, path: str | Path) -> Path:
        """Where a file of this run's `folder` is after finish(): the path to print for the user."""
        return self.final_folder / Path(path).relative_to(self.folder)

    def generator(self, tag: str) -> torch.Generator:
        """CPU generator that depends only on the seed and on `tag`, not on the order of the cells."""
        return seeded_generator(self.params.seed, tag)

    def progress(self, iterable: Iterable, desc: str = "", total: int | None = None) -> Iterator:
        """The items of `iterable`, with a plain-text progress bar that is updated at most every two seconds."""
        return tqdm(iterable, desc=desc, total=total, mininterval=2, file=sys.stdout, ncols=88, nrows=20)

    def save_figure(self, fig, name: str) -> Path:
        """Path of figures/<name>.png, to which a matplotlib figure was written.

        The file holds a description of the figure and the number of the cell that saves it, from which the site makes
        the alternative text.
        """
        path = self.folder / "figures" / f"{name}.png"
        about = {"Description": describe(fig), "Cell": str(len(self.cells) - 1)}  # In[0] is empty
        with atomic(path) as partial:
            fig.savefig(partial, format="png", dpi=120, bbox_inches="tight", metadata=about)
        return path

    def show(self, step: Step) -> None:
        """Print a result of a job, then show its figures, which are saved under figures/."""
        print(step)
        for name, fig in step.figures().items():
            self.save_figure(fig, name)
        plt.show()

    def explore(self, draw: Draw, name: str, sliders: dict[str, tuple[str, Sequence[Any]]], **options: Any) -> None:
        """Show a drawing with sliders, or its static figure, which is saved; options as in :func:`explore.explore`.

        At the smoke profile figure and page have at most three values of each slider.
        """
        if self.profile.name == "smoke":
            options |= {"most": 3, "frames": min(3, options.get("frames", 3))}
        fig = explore(draw, sliders, **options)
        if fig is not None:
            self.save_figure(fig, name)
            plt.show()

    def save_table(self, rows: list[dict[str, Any]], name: str) -> Path:
        """Path of <name>.csv, to which the rows were written. All rows have the keys of the first one."""
        path = self.folder / f"{name}.csv"
        with atomic(path) as partial, partial.open("w", newline="", encoding="utf-8") as f:
            writer = csv.DictWriter(f, fieldnames=list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
        return path

    def add_input(self, path: str | Path) -> None:
        """Record a file's sha256 in the manifest. Files that are parameters are recorded automatically."""
        if str(path) not in self.inputs:
            self.inputs[str(path)] = file_digest(Path(path).expanduser())

    def report(self, **scores: Any) -> None:
        """Record scores for the manifest and the index page: numbers, intervals, short texts, or lists of them."""
        self.scores |= {name: plain(value) for name, value in scores.items()}

    def finish(self) -> Path:
        """Path of manifest.json in `final_folder`, to which the run's folder was renamed.

        An earlier run that is there is moved aside, and a line says where to. A second call, as when the last cell is
        run again, updates the manifest in place.

        Raises
        ------
        InputError
            a later run has replaced this one's folder.
        """
        if read_manifest(self.folder).get("id") != self.id:
            raise InputError(
                f"{self.folder} is not this run's folder any more: another run has replaced it. "
                "Run the notebook again from its first cell."
            )
        self._record_parameter_files()
        if self._finished:
            write_text(self.folder / MANIFEST, self.contents("finished"))
        else:
            if moved := run_folder.finish(self.final_folder, self.contents("finished")):
                print(f"The earlier results in {self.final_folder} are now in {moved}")
            self._finished = True
        return self.folder / MANIFEST

    def manifest(self, status: str = "unfinished") -> dict[str, Any]:
        """The run so far, as in manifest.json: parameters, scores, times, memory, versions and input files."""
        self._record_parameter_files()
        return json.loads(self.contents(status))

    def contents(self, status: str) -> str:
        """Text of manifest.json with this status: "unfinished" or "finished"."""
        of = {"scenario": self.params.scenario} if "scenario" in self.declared else {}
        of |= {"method": self.params.method} if "method" in self.declared else {}
        of |= {"seed": str(self.params.seed)}
        manifest = {
            "notebook": self.notebook,
            "status": status,
            "parameters": self.declared,
            "seed": self.params.seed,
            "profile": asdict(self.profile),
            "scores": self.scores,
            "numbers": numbers(self.scores, of),
            "started": self._started,
            "device": str(self.device),
            "inputs": self.inputs,
            "cells": self._cells,
            "id": self.id,
            **run_folder.cost(time.monotonic() - self._wall),
            **run_folder.origin(),
        }
        return json.dumps(manifest, indent=2) + "\n"

    @property
    def _cells(self) -> str:
        """SHA-256 of the cells executed so far, without those that hold papermill's parameters; "" outside IPython."""
        own = [cell for cell in self.cells if cell.strip() and not cell.startswith("# Parameters\n")]
        return hashlib.sha256("\n\n".join(own).encode()).hexdigest() if own else ""

    def _record_parameter_files(self) -> None:
        p = self.params
        for name in (p.subtomograms, p.tomogram, p.coordinates, p.background):
            if Path(name).expanduser().is_file():
                self.add_input(name)
        for name in p.classes.split(","):
            if file := class_file(Path(name.strip()).expanduser()):
                self.add_input(file)
