"""`make evidence`: methods x scenarios x paired seeds -> one tidy CSV, and the tables and figures that it supports.

python -m cryoshift_core.evidence --tier core [--part 0/2] [--report]

Two processes with ``--part 0/2`` and ``--part 1/2`` share one CSV. What a row is, and how it is made: `trials`.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.figure import Figure
from scipy import stats

from . import evaluation, figures
from .methods import METHODS
from .parameters import PROFILES
from .runs import root
from .trials import (
    BOUNDS,
    COMPOSITES,
    CORE,
    CURVES,
    FACTORS,
    FRESH,
    HOME,
    LABELS,
    TIERS,
    UNLABELLED,
    UNSEEN_AT,
    Job,
    Lab,
    curve_scenario,
    groups,
    jobs,
    read,
    run_all,
)
from .volumes import InputError

TARGETS = {"in_situ_1": 0.85, "in_situ_2": 0.80, "in_situ_3": 0.60}  # gap closed that the project set itself
FACTORS_TARGET, REGRET_TARGET, ECE_TARGET, NONE_TARGET, CPU_TARGET = 0.70, 0.03, 0.08, 0.6, 300.0
NAMED = (*COMPOSITES, *FACTORS, UNSEEN_AT)  # with at least three seeds, where harm could show
Interval = tuple[float, float, float]  # mean or estimate, low, high


def by_seed(
    rows: list[dict[str, str]],
    method: str,
    scenario: str,
    column: str = "balanced_accuracy",
    without: str = "",
    rule: str = "",
    n_target: int = 0,
) -> dict[str, float]:
    """seed -> a column of the jobs of one arm, whatever the tier that ran them; empty cells are left out."""
    wanted = (method, scenario, without, rule, str(n_target))
    names = ("method", "scenario", "without", "rule", "n_target")
    mine = (row for row in rows if tuple(row[n] for n in names) == wanted)
    return {row["seed"]: float(row[column]) for row in mine if row.get(column)}


def paired(*arms: dict[str, float]) -> list[list[float]]:
    """The values of several arms at the seeds that all of them have, in one order."""
    shared = sorted(set.intersection(*(set(arm) for arm in arms)))
    return [[arm[seed] for seed in shared] for arm in arms]


def ratio_interval(above: list[float], below: list[float], level: float = 0.95) -> Interval | None:
    """Fieller's interval of mean(above) / mean(below), paired by seed.

    The ratios r at which a t test of above - r * below does not reject a mean of 0. It is bounded where the interval of
    `below` leaves out 0. None where that interval does not lie above 0, or with fewer than two seeds: no gap to close.
    """
    if len(above) < 2:
        return None
    a, b = np.mean(above), np.mean(below)
    t2 = stats.t.ppf(0.5 + level / 2, len(above) - 1) ** 2
    (aa, ab), (_, bb) = t2 * np.cov(above, below, ddof=1) / len(above)
    square = b * b - bb
    if b <= 0 or square <= 0:
        return None
    centre, root_ = (a * b - ab) / square, (max(0.0, (a * b - ab) ** 2 - square * (a * a - aa))) ** 0.5 / square
    return float(a / b), float(centre - root_), float(centre + root_)


@dataclass(frozen=True)
class Gap:
    """One method on one scenario. `closed` is None where source_only and oracle cannot be told apart.

    `over` is the paired difference to source_only, `regret` the mean of best checkpoint - selected one.
    """

    method: str
    scenario: str
    seeds: int
    score: Interval
    over: Interval | None
    closed: Interval | None
    regret: float | None

    @property
    def negative(self) -> bool:
        """Negative transfer: the whole interval lies below source_only."""
        return self.over is not None and self.over[2] < 0


def whole(rows: list[dict[str, str]]) -> list[dict[str, str]]:
    """The rows of methods as they are: nothing left out, the usual target-train set."""
    return [row for row in rows if not row["without"] and not row["rule"] and row["n_target"] == "0"]


def gap_table(rows: list[dict[str, str]]) -> list[Gap]:
    """Every whole method on every scenario that the rows hold."""
    arms = dict.fromkeys((row["method"], row["scenario"]) for row in whole(rows))
    return [gap(rows, method, scenario) for method, scenario in arms]


def gap(rows: list[dict[str, str]], method: str, scenario: str) -> Gap:
    """Scores of a method on a scenario, its difference to source_only, the gap that it closes, and its regret."""
    own, low, high = (by_seed(rows, m, scenario) for m in (method, *BOUNDS))
    v, s = paired(own, low)
    over = evaluation.difference(v, s) if v and method != "source_only" else None
    v, s, o = (np.array(values) for values in paired(own, low, high))
    closed = ratio_interval(list(v - s), list(o - s)) if method not in BOUNDS else None
    best, selected = paired(by_seed(rows, method, scenario, "balanced_accuracy_best"), own)
    regret = float(np.mean(best) - np.mean(selected)) if method not in BOUNDS else None
    return Gap(method, scenario, len(own), evaluation.interval(list(own.values())), over, closed, regret)


def against(rows: list[dict[str, str]], arms: dict[str, dict], base: str = "cryoshift") -> dict[str, Interval]:
    """Paired differences on HOME to `base`: label -> interval of arm - base. Arms without shared seeds are left out."""
    reference = by_seed(rows, base, HOME)
    pairs = {label: paired(by_seed(rows, **arm), reference) for label, arm in arms.items()}
    return {label: evaluation.difference(*pair) for label, pair in pairs.items() if pair[0]}


def baselines(rows: list[dict[str, str]]) -> dict[str, Interval]:
    """Every method but the bounds and cryoshift itself, less cryoshift."""
    methods = [m for m in METHODS if m not in (*BOUNDS, "cryoshift")]
    return against(rows, {m: dict(method=m, scenario=HOME) for m in methods})


def ablation(rows: list[dict[str, str]]) -> dict[str, Interval]:
    """cryoshift with one part left out, less cryoshift as it is."""
    arms = dict.fromkeys((row["without"], row["rule"]) for row in rows if row["without"] or row["rule"])
    return against(
        rows,
        {
            f"without {without}" if without else rule: dict(
                method="cryoshift", scenario=HOME, without=without, rule=rule
            )
            for without, rule in arms
        },
    )


def transfer(rows: list[dict[str, str]]) -> dict[str, Interval]:
    """Every method on every named scenario, less source_only: below 0 is negative transfer."""
    found = [g for g in gap_table(rows) if g.method not in BOUNDS and g.scenario in NAMED and g.over]
    return {f"{g.method}, {g.scenario}": g.over for g in found}


UNSEEN_COLUMNS = {
    "balanced_accuracy": "balanced accuracy, known classes",
    "none_recall": "unseen cubes rejected",
    "none_false_rejection": "known cubes rejected",
    "none_recall_5": "unseen cubes rejected at 5 % of the known",
}


def unseen(rows: list[dict[str, str]]) -> dict[str, dict[str, Interval]]:
    """method -> a name of UNSEEN_COLUMNS -> mean and interval over seeds, on the scenario with an unseen molecule."""
    found = {m: {c: list(by_seed(rows, m, UNSEEN_AT, c).values()) for c in UNSEEN_COLUMNS} for m in METHODS}
    return {
        m: {column: evaluation.interval(values) for column, values in columns.items() if values}
        for m, columns in found.items()
        if columns["none_recall"]
    }


def spikes(rows: list[dict[str, str]]) -> list[tuple[str, str, float, float]]:
    """(method, scenario, spike-in estimate, true balanced accuracy) of each run that has an estimate."""
    names = ("spike_balanced_accuracy", "balanced_accuracy")
    return [
        (row["method"], row["scenario"], *(float(row[name]) for name in names))
        for row in whole(rows)
        if row.get(names[0])
    ]


def trust(found: list[tuple[str, str, float, float]]) -> str:
    """How far spike-in estimates are from the truth, and whether they rise with it."""
    estimate, true = np.array([row[2:] for row in found]).T
    apart = estimate - true
    said = f"mean absolute error {np.abs(apart).mean():.3f}, on average {apart.mean():+.3f}, {len(found)} runs"
    if len(found) < 3 or min(estimate.std(), true.std()) == 0:
        return said
    return f"correlation {np.corrcoef(estimate, true)[0, 1]:.2f}, {said}"


@dataclass(frozen=True)
class Verdict:
    """One aim: "reached", "not reached" or "not measured", with the numbers.

    `so_far` is "" where every run that the tiers plan for this aim is there, else how many of them are.
    """

    aim: str
    found: str
    outcome: str
    so_far: str = ""

    @property
    def line(self) -> tuple[str, str, str]:
        """For a table: what is not complete does not look final."""
        early = f", so far ({self.so_far})" if self.so_far and self.outcome != "not measured" else ""
        return self.aim, self.found, f"**{self.outcome}**{early}"


def so_far(rows: list[dict[str, str]], tiers: Iterable[str], **only: Iterable) -> str:
    """ "12 of 15 runs": how many that the tiers plan, with fields out of `only`, the rows hold; "" where it is all."""
    planned: dict[Job, int] = {}
    for tier in tiers:
        for job in jobs(tier):
            if all(getattr(job, name) in values for name, values in only.items()):
                arm = replace(job, seed=0)
                planned[arm] = planned.get(arm, 0) + 1
    done = sum(
        min(n, len(by_seed(rows, a.method, a.scenario, "balanced_accuracy", a.without, a.rule, a.n_target)))
        for a, n in planned.items()
    )
    return "" if done == sum(planned.values()) else f"{done} of {sum(planned.values())} runs"


def _judge(aim: str, found: str, reached: bool | None, so_far: str = "") -> Verdict:
    outcome = {True: "reached", False: "not reached", None: "not measured"}[reached]
    return Verdict(aim, found or "no rows yet", outcome, so_far)


def verdicts(rows: list[dict[str, str]]) -> list[Verdict]:
    """The aims of the project against the evidence."""
    ours = {g.scenario: g for g in gap_table(rows) if g.method == "cryoshift"}
    return [
        *(_gap_verdict(rows, ours.get(scenario), scenario, wanted) for scenario, wanted in TARGETS.items()),
        _factors_verdict(rows, ours),
        _harm_verdict(rows, ours),
        _rivals_verdict(rows),
        _regret_verdict(rows, ours),
        _mean_verdict(rows, "ece", "core", HOME, f"calibration error (ECE) at most {ECE_TARGET}", -ECE_TARGET),
        _mean_verdict(
            rows, "none_recall_5", "unseen", UNSEEN_AT,
            f"recall of the unseen class at least {NONE_TARGET} at 5 % false rejection", NONE_TARGET,
        ),
        _cost_verdict(rows),
    ]  # fmt: skip


def _gap_verdict(rows: list[dict], g: Gap | None, scenario: str, wanted: float) -> Verdict:
    aim = f"gap closed on {scenario} at least {wanted:.0%}"
    part = so_far(rows, ["core"], scenario=[scenario], method=("cryoshift", *BOUNDS))
    if g is None or g.closed is None:
        bounds = all(len(by_seed(rows, m, scenario)) > 1 for m in BOUNDS)
        found = "n/a: source_only and oracle cannot be told apart" if bounds else "waits for both bounds"
        return _judge(aim, found if g else "", None, part)
    return _judge(aim, percent(g.closed), g.closed[0] >= wanted, part)


def _factors_verdict(rows: list[dict], ours: dict[str, Gap]) -> Verdict:
    real = {s: ours[s].closed for s in FACTORS if s in ours and ours[s].closed}
    mean = float(np.mean([c[0] for c in real.values()])) if real else math.nan
    found = f"{mean:.0%} over {', '.join(real)}" if real else ""
    aim = f"mean gap closed over the factors with a gap at least {FACTORS_TARGET:.0%}"
    return _judge(aim, found, mean >= FACTORS_TARGET if real else None, so_far(rows, ["factors"]))


def _harm_verdict(rows: list[dict], ours: dict[str, Gap]) -> Verdict:
    told = {s: g for s, g in ours.items() if s in NAMED and g.over and math.isfinite(g.over[1])}
    harmed = [s for s, g in told.items() if g.negative]
    found = f"harmed: {', '.join(harmed)}" if harmed else f"none of {len(told)} scenarios" if told else ""
    part = so_far(rows, ("core", "factors", "unseen"), method=("source_only", "cryoshift"))
    return _judge("no scenario with its interval below source_only", found, not harmed if told else None, part)


def _rivals_verdict(rows: list[dict]) -> Verdict:
    rivals = {m: found for m, found in baselines(rows).items() if math.isfinite(found[2])}
    aim = f"better than every other method on {HOME}, paired interval above 0"
    compared = [m for m in METHODS if m not in BOUNDS]
    part = so_far(rows, ("core", "baselines"), scenario=[HOME], method=compared)
    if not rivals:
        return _judge(aim, "", None, part)
    nearest = max(rivals, key=lambda m: rivals[m][0])
    level = [m for m, (_, _, high) in rivals.items() if high >= 0]
    found = f"nearest of {len(rivals)}: {nearest}, cryoshift leads by {signed(_minus(rivals[nearest]))}"
    found += f"; not told apart from {', '.join(level)}" if level else ""
    return _judge(aim, found, not level, part)


def _regret_verdict(rows: list[dict], ours: dict[str, Gap]) -> Verdict:
    regrets = {s: ours[s].regret for s in COMPOSITES if s in ours}
    found = ", ".join(f"{s} {r:.3f}" for s, r in regrets.items())
    reached = max(regrets.values()) <= REGRET_TARGET if regrets else None
    part = so_far(rows, ["core"], method=["cryoshift"])
    return _judge(f"selection regret at most {REGRET_TARGET} on each composite", found, reached, part)


def _mean_verdict(rows: list[dict], column: str, tier: str, scenario: str, aim: str, wanted: float) -> Verdict:
    """At least `wanted`, or at most its absolute value where it is negative."""
    aim, part = f"{aim} ({scenario})", so_far(rows, [tier], scenario=[scenario], method=["cryoshift"])
    values = list(by_seed(rows, "cryoshift", scenario, column).values())
    if not values:
        return _judge(aim, "", None, part)
    found = evaluation.interval(values)
    return _judge(aim, plain(found), found[0] >= wanted if wanted > 0 else found[0] <= -wanted, part)


def _cost_verdict(rows: list[dict]) -> Verdict:
    spent = [float(row["cpu_seconds"]) for row in whole(rows) if row["method"] == "cryoshift"]
    found = f"at most {max(spent):.0f} s, {np.mean(spent):.0f} s on average" if spent else ""
    reached = max(spent) <= CPU_TARGET if spent else None
    part = so_far(rows, ("core", "factors"), method=["cryoshift"])
    return _judge(f"training takes at most {CPU_TARGET:.0f} CPU-seconds per run", found, reached, part)


def _minus(found: Interval) -> Interval:
    return -found[0], -found[2], -found[1]


def _written(found: Interval | None, form: str, nothing: str) -> str:
    if found is None:
        return nothing
    mean, low, high = (format(value, form) for value in found)
    return mean if math.isnan(found[1]) else f"{mean} [{low}, {high}]"


def plain(found: Interval | None) -> str:
    """0.71 [0.68, 0.74]; one seed has no interval."""
    return _written(found, ".3f", "")


def signed(found: Interval | None) -> str:
    """+0.10 [+0.02, +0.18]"""
    return _written(found, "+.3f", "")


def percent(found: Interval | None) -> str:
    """88% [80%, 97%], or n/a where there is no gap to close."""
    return _written(found, ".0%", "n/a")


def table(header: str, lines: Iterable[Iterable[str]]) -> str:
    """A Markdown table; `header` has its cells between bars."""
    cells = header.split(" | ")
    body = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    return f"| {header} |\n|{'---|' * len(cells)}\n{body}\n"


def recalls(per_class: list[dict[str, str]], scenario: str = HOME) -> dict[str, dict[str, float]]:
    """method -> class -> mean recall over the seeds, of the methods as they are."""
    found: dict[str, dict[str, list[float]]] = {}
    for row in whole(per_class):
        if row["scenario"] == scenario and row["recall"]:
            found.setdefault(row["method"], {}).setdefault(row["class"], []).append(float(row["recall"]))
    order = [m for m in METHODS if m in found]
    return {m: {name: float(np.mean(values)) for name, values in found[m].items()} for m in order}


def curves(rows: list[dict[str, str]]) -> dict[str, dict[str, dict[float, list[float]]]]:
    """knob -> method -> value -> scores, one per seed, of knobs with two values or more.

    For "unlabelled" the bounds are those of HOME for the same seeds.
    """
    methods = ("source_only", "cryoshift", "oracle")
    found = {
        knob: {m: {v: list(by_seed(rows, m, curve_scenario(knob, v)).values()) for v in values} for m in methods}
        for knob, values in CURVES.items()
    }
    varied = {n: by_seed(rows, "cryoshift", HOME, n_target=n) for n in UNLABELLED}
    whole = {m: by_seed(rows, m, HOME) for m in BOUNDS}

    def same_seeds(method: str, line: dict[int, float]) -> list[float]:
        scores = whole.get(method, line)
        return [scores[seed] for seed in line if seed in scores]

    found["unlabelled"] = {m: {n: same_seeds(m, line) for n, line in varied.items()} for m in methods}
    shown = {
        knob: {m: {v: s for v, s in line.items() if s} for m, line in lines.items()} for knob, lines in found.items()
    }
    return {knob: lines for knob, lines in shown.items() if len(lines["cryoshift"]) > 1}


def report(out: Path, images: Path, profile: str = "laptop") -> Path:
    """Write summary.md beside the CSVs, and a figure for each part of the evidence that has rows."""
    rows, per_class = (
        [row for row in read(out / name) if row["profile"] == profile] for name in ("evidence.csv", "per_class.csv")
    )
    if not rows:
        raise InputError(f"{out / 'evidence.csv'} has no row of profile {profile!r}; run a tier first.")
    images.mkdir(parents=True, exist_ok=True)
    figures.use_style()
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
        parts["Cubes of a molecule that nobody simulated"] = (rows, (UNSEEN_AT,))
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


# ---------------------------------------------------------------- the command


def _part(text: str) -> tuple[int, int]:
    numbers = text.split("/")
    if len(numbers) != 2 or not all(n.isdigit() for n in numbers) or not int(numbers[0]) < int(numbers[1]):
        raise argparse.ArgumentTypeError(f"part={text!r}; wanted k/n with k from 0 to n - 1, such as 0/2")
    return int(numbers[0]), int(numbers[1])


def _arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description="Run a tier of the evidence, and write what it says.")
    parser.add_argument("--tier", choices=list(TIERS), nargs="+", default=[], help="what to run; may be several")
    parser.add_argument("--profile", choices=list(PROFILES), default="laptop")
    parser.add_argument("--part", type=_part, default=(0, 1), help="k/n: every n-th target from the k-th on")
    parser.add_argument("--seeds", type=int, nargs="+", default=[], help="other seeds than the tier's own")
    parser.add_argument("--device", default="cpu", help="cpu (as all committed rows), auto, cuda or mps")
    parser.add_argument(
        "--out", type=Path, help="for the CSV: notebooks/evidence for laptop, else runs/evidence/PROFILE"
    )
    parser.add_argument(
        "--images", type=Path, help="for figures: notebooks/images for laptop, else images beside the CSV"
    )
    parser.add_argument("--work", type=Path, default=root() / "runs" / "evidence", help="data and fits, to resume from")
    parser.add_argument("--keep-data", action="store_true", help="keep the targets' cubes when they are done")
    parser.add_argument("--list", action="store_true", help="only list the jobs")
    parser.add_argument("--report", action="store_true", help="write summary.md and the figures from the CSV")
    return parser


def main(arguments: list[str] | None = None) -> int:
    """-> 0, or 1 where a job failed."""
    given = _arguments().parse_args(arguments)
    committed = given.profile == "laptop" and not given.out
    out = given.out or root() / ("notebooks/evidence" if committed else f"runs/evidence/{given.profile}")
    images = given.images or (root() / "notebooks" / "images" if committed else out / "images")
    torch.set_num_threads(1)
    todo = groups([job for tier in given.tier for job in jobs(tier, given.profile, given.seeds)], *given.part)
    if given.list:
        print(*(" ".join(filter(None, job.key)) for group in todo for job in group), sep="\n")
        return 0
    failed = []
    if todo:
        given.work.mkdir(parents=True, exist_ok=True)
        failed = run_all(todo, out, Lab(given.work, given.device), given.keep_data)
        for job in failed:
            print(f"failed: {' '.join(filter(None, job.key))}", file=sys.stderr)
    if given.report:
        print(report(out, images, given.profile))
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
