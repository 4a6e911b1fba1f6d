"""`make evidence`: methods x scenarios x paired seeds -> one tidy CSV, and the tables and figures that it supports.

python -m cryoshift_core evidence --tier core [--part 0/2] [--report]

Two processes with ``--part 0/2`` and ``--part 1/2`` share one CSV. What a row is, and how it is made: `trials`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from scipy import stats

from .. import metrics
from ..errors import InputError
from ..methods import METHODS
from ..metrics import interval
from .jobs import BOUNDS, COMPOSITES, CURVES, FACTORS, HOME, UNLABELLED, UNSEEN_AT, curve_scenario


def difference(values: list[float], baseline: list[float], level: float = 0.95) -> tuple[float, float, float]:
    """Mean and t interval of values - baseline, paired by seed: poses and data are shared, their noise cancels."""
    if len(values) != len(baseline):
        raise InputError(f"{len(values)} values against {len(baseline)}; wanted the same seeds for both, in one order.")
    return interval(np.asarray(values, float) - np.asarray(baseline, float), level)


def gap_closed(values: list[float], source_only: list[float], oracle: list[float]) -> tuple[float | None, str]:
    """(method - source_only) / (oracle - source_only) of the means over seeds, and its text.

    None and "n/a" where the 95 % interval of oracle - source_only includes 0 or cannot be known (fewer than two
    seeds): there is then no gap to speak of. A negative value is negative transfer, and the text says so.
    """
    gap, low, high = difference(oracle, source_only)
    if not (low > 0 or high < 0):
        return None, "n/a"
    closed = difference(values, source_only)[0] / gap
    return closed, f"{closed:.0%}" + (" (negative transfer)" if closed < 0 else "")


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
    over = difference(v, s) if v and method != "source_only" else None
    v, s, o = (np.array(values) for values in paired(own, low, high))
    closed = ratio_interval(list(v - s), list(o - s)) if method not in BOUNDS else None
    best, selected = paired(by_seed(rows, method, scenario, "balanced_accuracy_best"), own)
    regret = float(np.mean(best) - np.mean(selected)) if method not in BOUNDS else None
    return Gap(method, scenario, len(own), metrics.interval(list(own.values())), over, closed, regret)


def against(rows: list[dict[str, str]], arms: dict[str, dict], base: str = "cryoshift") -> dict[str, Interval]:
    """Paired differences on HOME to `base`: label -> interval of arm - base. Arms without shared seeds are left out."""
    reference = by_seed(rows, base, HOME)
    pairs = {label: paired(by_seed(rows, **arm), reference) for label, arm in arms.items()}
    return {label: difference(*pair) for label, pair in pairs.items() if pair[0]}


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
        m: {column: metrics.interval(values) for column, values in columns.items() if values}
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
