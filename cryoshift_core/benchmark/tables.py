"""The benchmark's report: Markdown tables and figures made from the rows of the CSV."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure

from ..application import pictures
from ..errors import InputError
from ..methods import METHODS
from . import figures
from .goals import TARGETS, verdicts
from .jobs import BOUNDS, COMPOSITES, CORE, FACTORS, FRESH, HOME, LABELS, UNSEEN_AT
from .runner import read
from .statistics import (
    UNSEEN_COLUMNS,
    Gap,
    Interval,
    ablation,
    baselines,
    by_seed,
    curves,
    gap_table,
    percent,
    plain,
    recalls,
    signed,
    spikes,
    trust,
    unseen,
)


def table(header: str, lines: Iterable[Iterable[str]]) -> str:
    """A Markdown table; `header` has its cells between bars."""
    cells = header.split(" | ")
    body = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    return f"| {header} |\n|{'---|' * len(cells)}\n{body}\n"


def report(out: Path, images: Path, profile: str = "laptop") -> Path:
    """Write summary.md beside the CSVs, and a figure for each part of the evidence that has rows."""
    rows, per_class = (
        [row for row in read(out / name) if row["profile"] == profile] for name in ("evidence.csv", "per_class.csv")
    )
    if not rows:
        raise InputError(f"{out / 'evidence.csv'} has no row of profile {profile!r}; run a tier first.")
    images.mkdir(parents=True, exist_ok=True)
    pictures.use_style()
    for name, figure in drawings(rows, per_class).items():
        figure.savefig(images / f"evidence_{name}.png", dpi=110)
        plt.close(figure)
    path = out / "summary.md"
    path.write_text(summary(rows, per_class, profile))
    return path


def _draw_gap_closed(rows: list[dict], per_class: list[dict]) -> Figure | None:
    closed: dict[str, dict[str, Interval]] = {}
    for g in gap_table(rows):
        if g.method in CORE and g.scenario in COMPOSITES and g.closed:
            closed.setdefault(g.scenario, {})[g.method] = g.closed
    shown = {s: closed[s] for s in COMPOSITES if s in closed}
    return figures.gap_closed(shown, TARGETS) if shown else None


def _draw_baselines(rows: list[dict], per_class: list[dict]) -> Figure | None:
    label = "balanced accuracy - that of cryoshift, paired by seed"
    found = baselines(rows)
    return figures.forest(found, f"Other methods against cryoshift on {HOME}", label) if found else None


def _draw_factors(rows: list[dict], per_class: list[dict]) -> Figure | None:
    gaps = gap_table(rows)
    found = {s: {g.method: g.score for g in gaps if g.scenario == s} for s in FACTORS}
    shown = {s: scores for s, scores in found.items() if scores}
    return figures.factors(shown) if shown else None


def _draw_ablation(rows: list[dict], per_class: list[dict]) -> Figure | None:
    label = "balanced accuracy - that of the whole recipe, paired by seed"
    found = ablation(rows)
    return figures.forest(found, f"cryoshift on {HOME} with one part left out", label) if found else None


def _draw_recall(rows: list[dict], per_class: list[dict]) -> Figure | None:
    found = recalls(per_class)
    return figures.recall_map(found, f"Share of each class that is found ({HOME})") if found else None


def _draw_regret(rows: list[dict], per_class: list[dict]) -> Figure | None:
    kinds = {"last": "balanced_accuracy_last", "selected": "balanced_accuracy", "best": "balanced_accuracy_best"}
    found = {
        f"{g.method}, {g.scenario}": {
            kind: float(np.mean(list(by_seed(rows, g.method, g.scenario, column).values())))
            for kind, column in kinds.items()
        }
        for g in gap_table(rows)
        if g.regret is not None and g.scenario in COMPOSITES
    }
    return figures.regret(found) if found else None


def _draw_curves(rows: list[dict], per_class: list[dict]) -> Figure | None:
    found = curves(rows)
    return figures.curves(found, LABELS) if found else None


def _draw_spike(rows: list[dict], per_class: list[dict]) -> Figure | None:
    found = spikes(rows)
    return figures.spike_against_truth(found, trust(found)) if found else None


DRAWINGS: dict[str, Callable[[list[dict], list[dict]], Figure | None]] = {
    "gap_closed": _draw_gap_closed,
    "factors": _draw_factors,
    "baselines": _draw_baselines,
    "ablation": _draw_ablation,
    "recall": _draw_recall,
    "regret": _draw_regret,
    "curves": _draw_curves,
    "spike": _draw_spike,
}


def drawings(rows: list[dict[str, str]], per_class: list[dict[str, str]]) -> dict[str, Figure]:
    """Name -> figure, of what there are rows for."""
    found = {name: draw(rows, per_class) for name, draw in DRAWINGS.items()}
    return {name: figure for name, figure in found.items() if figure is not None}


def summary(rows: list[dict[str, str]], per_class: list[dict[str, str]], profile: str) -> str:
    """What the CSVs say, in Markdown."""

    def ordered(some: list[dict[str, str]]) -> list[Gap]:
        return sorted(gap_table(some), key=lambda g: (g.scenario, [*METHODS, g.method].index(g.method)))

    text = f"""# What the evidence says

Written by `make evidence` from evidence.csv and per_class.csv: {len(rows)} runs of the {profile} profile. Balanced
accuracy on target-test cubes, mean [95 % interval] over seeds; each seed draws new data *and* trains anew. *Gap closed*
is (method - source_only) / (oracle - source_only), with Fieller's interval, paired by seed; it reads n/a where the
interval of oracle - source_only includes 0. *Regret* is the best checkpoint less the one selected without labels. With
three seeds an interval is wide, and may reach past 1.

## Aims

"""
    text += table("aim | found | outcome", (v.line for v in verdicts(rows)))
    parts = {"Composites": (rows, COMPOSITES)}
    if last := [row for row in rows if int(row["seed"]) in FRESH]:
        parts[f"Composites, seeds {FRESH[0]} to {FRESH[-1]} alone: opened when nothing was changed any more"] = (
            last,
            COMPOSITES,
        )
    parts["Single factors"] = (rows, FACTORS)
    if strange := unseen_table(rows):
        parts["Imaged of a molecule that nobody simulated"] = (rows, (UNSEEN_AT,))
    for title, (some, wanted) in parts.items():
        if lines := [_gap_line(g) for g in ordered(some) if g.scenario in wanted]:
            text += f"\n## {title}\n\n"
            header = "scenario | method | seeds | balanced accuracy | over source_only | gap closed | regret | "
            text += table(header + "negative transfer", lines)
    if strange:
        text += "\n`none_of_these` there, at the detector's own threshold and at one that rejects 5 % of the known:\n\n"
        text += strange
    if others := [line for g in ordered(rows) if g.scenario in COMPOSITES and (line := _other_line(rows, g))]:
        text += "\n## Other scores, means over seeds\n\nECE and NLL are of calibrated answers.\n\n"
        text += table(f"scenario | method | {' | '.join(OTHERS.values())}", others)
    forests = {
        f"Other methods less cryoshift ({HOME})": ("method", baselines(rows)),
        f"cryoshift with one part left out, less the whole ({HOME})": ("part", ablation(rows)),
    }
    for title, (what, found) in forests.items():
        if found:
            text += f"\n## {title}\n\n" + table(f"{what} | difference", ((k, signed(v)) for k, v in found.items()))
    if by_method := recalls(per_class):
        classes = list(next(iter(by_method.values())))
        lines = ([m, *(f"{found[c]:.2f}" for c in classes)] for m, found in by_method.items())
        text += f"\n## Recall of each class ({HOME})\n\n" + table(" | ".join(["method", *classes]), lines)
    if varied := curves(rows):
        lines = (
            [knob, f"{value:g}", *(f"{np.mean(by[value]):.3f}" if value in by else "" for by in lines_of.values())]
            for knob, lines_of in varied.items()
            for value in lines_of["cryoshift"]
        )
        text += f"\n## One number of {HOME} at a time\n\n" + table(
            "knob | value | source_only | cryoshift | oracle", lines
        )
    if found := spikes(rows):
        text += f"\n## Spike-in estimate against the truth\n\n{trust(found)}.\n"
    return text


OTHERS = {
    "macro_f1": "macro F1",
    "ece_raw": "ECE before calibration",
    "ece": "ECE after",
    "nll": "NLL",
    "a_distance_before": "A-distance before",
    "a_distance_after": "A-distance after",
    "fell_back": "share fallen back",
    "cpu_seconds": "CPU-seconds",
}


def _other_line(rows: list[dict], g: Gap) -> list[str]:
    """A row of the table of other scores; nothing where the CSV has none of them."""
    values = [list(by_seed(rows, g.method, g.scenario, column).values()) for column in OTHERS]
    if not values[0]:
        return []
    return [g.scenario, g.method, *(f"{np.mean(v):.3g}" if v else "" for v in values)]


def unseen_table(rows: list[dict[str, str]]) -> str:
    """`unseen` in Markdown, "" without rows."""
    found = unseen(rows)
    lines = ([m, *(plain(columns.get(c)) for c in UNSEEN_COLUMNS)] for m, columns in found.items())
    return table(" | ".join(["method", *UNSEEN_COLUMNS.values()]), lines) if found else ""


def _gap_line(g: Gap) -> list[str]:
    regret = "" if g.regret is None else f"{g.regret:.3f}"
    closed = "" if g.method in BOUNDS else percent(g.closed)
    return [
        g.scenario,
        g.method,
        str(g.seeds),
        plain(g.score),
        signed(g.over),
        closed,
        regret,
        "YES" if g.negative else "",
    ]
