"""Scores of finished and unfinished runs in one form, from a table of `compare`, the evidence, or manifests."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..application import manifest
from ..application.run_folder import MANIFEST, running_elsewhere
from ..errors import InputError
from ..support.runtime import PACKAGE
from . import runner
from .statistics import without_repeats

TABLE = "compare.csv"
# Columns of the evidence that describe a run and are no score
DESCRIBED = ("profile", "tier", "method", "scenario", "seed", "without", "rule", "n_target", "n_simulated", "target")
SETTINGS = ("profile", "device", "out_dir", "seed", "data_seed", "method", "methods", "scenario")


@dataclass(frozen=True)
class Scored:
    """One model of one run.

    Attributes
    ----------
    run : its name or number
    status : finished, failed, or unfinished
    target, method, seed : what was trained on what
    model : "as chosen" without labels, or "as trained" (the last checkpoint); "as reported" of a notebook
    swept : parameter -> value, of the parameters in which the runs differ
    values : score -> number
    error : why it failed
    device : kind of device that it computed on, such as "cpu"
    """

    run: str
    status: str
    target: str
    method: str
    seed: str
    model: str
    swept: Mapping[str, str] = field(default_factory=dict)
    values: Mapping[str, float] = field(default_factory=dict)
    error: str = ""
    device: str = ""

    @property
    def label(self) -> str:
        """Method and swept parameters, such as "mada, weights.mada=3"."""
        return ", ".join([self.method, *(f"{name}={value}" for name, value in self.swept.items() if value)])


def shipped() -> Path:
    """Path of the evidence that ships: in this checkout, or in the current folder or one above it.

    Raises
    ------
    InputError
        there is none.
    """
    for folder in (PACKAGE.parent, Path.cwd(), *Path.cwd().parents):
        if (path := folder / "notebooks" / "evidence" / "evidence.csv").is_file():
            return path
    raise InputError(f"{Path.cwd()} and the folders above hold no notebooks/evidence/evidence.csv; give `results`.")


def collect(path: str | Path) -> list[Scored]:
    """Every model in a table of `compare`, in an evidence.csv, or in the manifests of a folder.

    Parameters
    ----------
    path : a CSV, a folder with compare.csv, or a folder with runs of notebooks in it, at any depth. Of several runs
        with the same notebook and parameters the latest counts

    Raises
    ------
    InputError
        nothing to read at `path`, or a CSV of another kind
    """
    path = Path(path).expanduser()
    if path.is_dir() and (path / TABLE).is_file():
        path = path / TABLE
    if path.is_file():
        rows = runner.read(path)
        if rows and {"run", "model", "status"} <= set(rows[0]):
            return _of_comparison(rows)
        if rows and {"method", "scenario", "seed", "balanced_accuracy"} <= set(rows[0]):
            return _of_evidence(without_repeats(rows), path.with_name("per_class.csv"))
        columns = ", ".join(rows[0])[:200] if rows else "none"
        raise InputError(f"{path}: expected rows of a table of `compare` or `evidence`, got the columns {columns}.")
    found = sorted(path.rglob(MANIFEST)) if path.is_dir() else []
    if not found:
        raise InputError(
            f"{path}: expected a CSV, or a folder with compare.csv or with runs ({MANIFEST}), got neither."
        )
    return _of_manifests(found)


def _numbers(row: Mapping[str, str], left_out: Iterable[str]) -> dict[str, float]:
    found = {}
    for name, value in row.items():
        if name not in left_out and value:
            try:
                found[name] = float(value)
            except ValueError:
                continue  # a text, such as a commit
    return found


def _differing(settings: list[dict[str, str]]) -> list[str]:
    """Names whose values are not the same everywhere, in the order of their appearance."""
    names = dict.fromkeys(name for one in settings for name in one)
    return [name for name in names if len({one.get(name, "") for one in settings}) > 1]


def _of_comparison(rows: list[dict[str, str]]) -> list[Scored]:
    settings = [{name[2:]: value for name, value in row.items() if name.startswith("p:") and value} for row in rows]
    differing = _differing(settings)
    left_out = ("run", "seed", "data_seed", "step", "last_step", "threads", "commit", "code", "error", "warning")
    return [
        Scored(
            run=row["run"],
            status=row["status"],
            target=row["target"],
            method=row["method"],
            seed=row["seed"],
            model=row["model"],
            swept={name: one[name] for name in differing if name in one},
            values=_numbers(row, (*left_out, *(name for name in row if name.startswith("p:")))),
            error=row.get("error", ""),
            device=row.get("device", ""),
        )
        for row, one in zip(rows, settings, strict=True)
    ]


def _of_evidence(rows: list[dict[str, str]], per_class: Path) -> list[Scored]:
    recall: dict[tuple[str, ...], dict[str, float]] = {}
    keys = DESCRIBED[:8]
    for row in runner.read(per_class):
        if row["recall"]:
            of_run = recall.setdefault(tuple(row[k] for k in keys), {})
            of_run[f"recall:{row['class']}"] = float(row["recall"])
    names = ("without", "rule", "n_target", "n_simulated")
    settings = [{name: row[name] for name in names if row.get(name) not in (None, "", "0")} for row in rows]
    found = []
    for row, swept in zip(rows, settings, strict=True):
        values = _numbers(row, (*DESCRIBED, "threads", "commit", "selected_step", "last_step", "steps"))
        classes = recall.get(tuple(row[k] for k in keys), {})
        name = " ".join(filter(None, (row[k] for k in keys)))
        about: dict[str, Any] = {"run": name, "status": "finished", "target": row["scenario"], "method": row["method"]}
        about |= {"seed": row["seed"], "swept": swept, "device": row.get("device", "")}
        found.append(Scored(**about, model="as chosen", values=values | classes))
        if "balanced_accuracy_last" in values:  # what trains nothing has no last checkpoint
            last = {"balanced_accuracy": values["balanced_accuracy_last"], "cpu_seconds": values["cpu_seconds"]}
            found.append(Scored(**about, model="as trained", values=last))
    return found


def _of_manifests(paths: list[Path]) -> list[Scored]:
    latest: dict[str, tuple[Path, manifest.Manifest]] = {}
    for path in paths:
        one = manifest.read(path)
        given = {n: v for n, v in one.parameters.items() if n != "out_dir"}
        key = json.dumps([one.notebook, given], sort_keys=True)
        if key not in latest or one.started >= latest[key][1].started:
            latest[key] = path, one
    runs = list(latest.values())
    settings = [
        {n: str(v) for n, v in one.parameters.items() if n not in SETTINGS} | {"notebook": one.notebook}
        for _, one in runs
    ]
    differing = _differing(settings)
    found = []
    for (path, one), setting in zip(runs, settings, strict=True):
        status = one.status
        if status == "unfinished" and not running_elsewhere(json.loads(path.read_text(encoding="utf-8"))):
            status = "failed"
        target = str(one.parameters.get("scenario", "")) or one.notebook
        own = {"cpu_seconds": one.cpu_seconds, "peak_memory_mb": float(one.peak_memory_mb)}
        by_method: dict[str, dict[str, float]] = {}
        for number in one.numbers:
            if number.value is not None:
                name = ":".join([number.name, *([number.of["item"]] if "item" in number.of else [])])
                method = number.of.get("method", "") or str(one.parameters.get("method", one.notebook))
                by_method.setdefault(method, {})[name] = float(number.value)
        asked = str(one.parameters.get("method", one.notebook))
        by_method.setdefault(asked, {})
        for method, values in by_method.items():
            found.append(
                Scored(
                    run=path.parent.name.removesuffix(".unfinished"),
                    status=status,
                    target=target,
                    method=method,
                    seed=str(one.seed),
                    model="as reported",
                    swept={name: setting.get(name, "") for name in differing},
                    values=values | (own if method == asked else {}),
                    device=one.device.partition(":")[0],
                    error=one.error or ("its process has ended" if status == "failed" else ""),
                )
            )
    return found
