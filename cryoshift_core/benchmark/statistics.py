"""Statistics of the benchmark's CSV: paired differences, the gap closed, and their intervals over seeds."""

from __future__ import annotations

import math
from collections.abc import Collection, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np
from scipy import stats

from ..application.accuracy import Estimate, expected_accuracy
from ..errors import InputError
from ..methods import METHODS
from ..metrics import FRACTION, Interval, interval
from ..simulation.controls import SHAPES
from .jobs import (
    BOUNDS,
    COMPOSITES,
    CURVES,
    FACTORS,
    FEW_SEEDS,
    FOREIGN,
    LEFT_OUT,
    MIXED,
    REAL_METHODS,
    REFERENCE_SCENARIO,
    SIMULATED,
    UNLABELLED,
    UNSEEN_SCENARIO,
    curve_scenario,
)
from .real import FOLDS, LAMELLA, MIXES, VLP

NAMED = (*COMPOSITES, *FACTORS, *MIXED, UNSEEN_SCENARIO, FOREIGN)  # scenarios with three seeds or more
Row = dict[str, str]
REPEATING = ("ablation", "controls")  # tiers with runs of the core tier's configurations for comparisons of their own
CONFIGURATION = ("method", "scenario", "without", "rule", "n_target", "n_simulated")  # columns; runs differ by seed too
Key = TypeVar("Key", bound=Hashable)


def difference(values: Sequence[float], baseline: Sequence[float]) -> Interval:
    """Mean and t interval of values - baseline, paired by seed.

    Both share data and poses at each seed, so the variation between seeds cancels.

    Raises
    ------
    InputError
        different numbers of values, or none.
    """
    if len(values) != len(baseline):
        raise InputError(f"Expected the same seeds in the same order for both, got {len(values)} and {len(baseline)}.")
    return interval(np.asarray(values, float) - np.asarray(baseline, float))


def p_value(values: Sequence[float], baseline: Sequence[float]) -> float:
    """Two-sided p of a t test of values - baseline, paired by seed; NaN where there are fewer than two."""
    gained = np.subtract(values, baseline)
    if len(gained) < 2:
        return float("nan")
    if np.ptp(gained) < 1e-9:  # the test is not defined: no difference at all, or the same one each time
        return 0.0 if abs(gained.mean()) > 1e-9 else 1.0
    return float(stats.ttest_1samp(gained, 0.0).pvalue)


def holm(p: Mapping[Key, float]) -> dict[Key, float]:
    """p-values of a family of tests, adjusted for their number (Holm 1979, Scand. J. Stat. 6:65); NaN stays NaN."""
    ordered = sorted((name for name in p if np.isfinite(p[name])), key=p.__getitem__)
    adjusted, largest = {name: float("nan") for name in p}, 0.0
    for i, name in enumerate(ordered):
        largest = max(largest, min(1.0, (len(ordered) - i) * p[name]))
        adjusted[name] = largest
    return adjusted


def p_text(p: float) -> str:
    """A p-value with three digits, "< 0.001" for a smaller one, and "" for NaN."""
    return "" if not math.isfinite(p) else "< 0.001" if p < 0.001 else f"{p:.3f}"


def gap_closed(values: Sequence[float], source_only: Sequence[float], oracle: Sequence[float]) -> Interval | None:
    """Gap closed, mean(method - source_only) / mean(oracle - source_only), with Fieller's interval, paired by seed.

    The interval holds the ratios r for which a t test of (method - source_only) - r (oracle - source_only) does not
    reject a mean of 0 (Fieller, J. R. Stat. Soc. B 16:175, 1954). It has no bounds: a method can score below
    source_only or above the oracle.

    Parameters
    ----------
    values, source_only, oracle : scores of the same seeds, in one order

    Returns
    -------
    None where there is no gap to close: the t interval of oracle - source_only includes 0 or lies below it, or there
    are fewer than two seeds. Tables show this as n/a.

    Raises
    ------
    InputError
        different numbers of values, or none.
    """
    gap = difference(oracle, source_only)
    gained = difference(values, source_only).mean
    n = len(values)
    if n < 2 or not gap.low > 0:
        return None
    above, below = (np.asarray(x, float) - np.asarray(source_only, float) for x in (values, oracle))
    t2 = stats.t.ppf(0.975, n - 1) ** 2
    (aa, ab), (_, bb) = t2 * np.cov(above, below, ddof=1) / n
    square = gap.mean**2 - bb
    if square <= 0:  # the interval of the gap touches 0 within rounding
        return None
    centre = (gained * gap.mean - ab) / square
    half = max(0.0, (gained * gap.mean - ab) ** 2 - square * (gained**2 - aa)) ** 0.5 / square
    return Interval(gained / gap.mean, float(centre - half), float(centre + half))


def by_seed(
    rows: list[Row],
    method: str,
    scenario: str,
    column: str = "balanced_accuracy",
    without: str = "",
    rule: str = "",
    n_target: int = 0,
    n_simulated: int = 0,
) -> dict[str, float]:
    """seed -> value of a column, for the rows of one configuration; empty cells are left out.

    See :func:`without_repeats`.
    """
    expected = (method, scenario, without, rule, str(n_target), str(n_simulated))
    mine = [row for row in rows if tuple(row[n] for n in CONFIGURATION) == expected]
    return {row["seed"]: float(row[column]) for row in without_repeats(mine) if row.get(column)}


def paired(*configurations: dict[str, float]) -> list[list[float]]:
    """Values of several configurations at the seeds that all of them have, in the same order."""
    shared = sorted(set.intersection(*(set(values) for values in configurations)))
    return [[values[seed] for seed in shared] for values in configurations]


@dataclass(frozen=True)
class Comparison:
    """A paired difference between two configurations, over a number of seeds; `p` is adjusted for the family (Holm)."""

    interval: Interval
    seeds: int
    p: float = float("nan")

    @property
    def outcome(self) -> str:
        """Whether it is worse, better, or not distinguishable because the interval holds zero."""
        return "worse" if self.interval.high < 0 else "better" if self.interval.low > 0 else "not distinguishable"


@dataclass(frozen=True)
class Gap:
    """Scores of one method on one scenario.

    Attributes
    ----------
    seeds : number of seeds with a score
    score : balanced accuracy, within 0 and 1
    over : paired difference to source_only; None for source_only itself or without shared seeds
    closed : see :func:`gap_closed`; None also for the bounds, source_only and oracle
    regret : mean over seeds of best checkpoint - selected checkpoint; None for the bounds
    p : of `over`, adjusted for all adapting methods and scenarios of the table (Holm); None for the bounds
    """

    method: str
    scenario: str
    seeds: int
    score: Interval
    over: Interval | None
    closed: Interval | None
    regret: float | None
    p: float | None = None

    @property
    def negative(self) -> bool:
        """Negative transfer: the difference lies below source_only, and stays significant among all comparisons."""
        return self.over is not None and self.over.mean < 0 and self.p is not None and self.p < 0.05


def without_repeats(rows: list[Row]) -> list[Row]:
    """The rows without those of the tiers in REPEATING whose configuration another tier has."""
    elsewhere = {tuple(row[n] for n in CONFIGURATION) for row in rows if row["tier"] not in REPEATING}
    return [
        row for row in rows if row["tier"] not in REPEATING or tuple(row[n] for n in CONFIGURATION) not in elsewhere
    ]


def unchanged(rows: list[Row]) -> list[Row]:
    """Rows of unchanged methods, without repeats.

    No part is left out, the selection is the usual one, and the numbers of subtomograms are those of the profile.
    """
    plain = ("", "", "0", "0")
    names = ("without", "rule", "n_target", "n_simulated")
    return without_repeats([row for row in rows if tuple(row[n] for n in names) == plain])


def gap_table(rows: list[Row]) -> list[Gap]:
    """One Gap for each pair of unchanged method and scenario in the rows; those of FEW_SEEDS are not tested."""
    pairs = dict.fromkeys((row["method"], row["scenario"]) for row in unchanged(rows))
    p = {}
    for method, scenario in pairs:
        if method not in BOUNDS and scenario not in FEW_SEEDS:
            p[method, scenario] = p_value(
                *paired(by_seed(rows, method, scenario), by_seed(rows, "source_only", scenario))
            )
    adjusted = holm(p)
    return [replace(gap(rows, *pair), p=adjusted.get(pair)) for pair in pairs]


def factors_closed(rows: list[Row], method: str = "cryoshift") -> tuple[Interval | None, list[str]]:
    """Gap closed over the single factors that have a gap: a sum over a sum, not a mean of ratios; and their names.

    The unit is the seed; only seeds with all three scores on each of these scenarios count.
    """
    with_gap = [s for s in FACTORS if by_seed(rows, method, s) and gap(rows, method, s).closed]
    if not with_gap:
        return None, []
    own, low, high = ([by_seed(rows, m, s) for s in with_gap] for m in (method, *BOUNDS))
    columns = paired(*own, *low, *high)
    sums = [np.sum(columns[i * len(with_gap) : (i + 1) * len(with_gap)], axis=0).tolist() for i in range(3)]
    return (gap_closed(*sums) if sums[0] else None), with_gap


def gap(rows: list[Row], method: str, scenario: str) -> Gap:
    """Scores of a method on a scenario, its difference to source_only, the gap that it closes, and its regret."""
    own, low, high = (by_seed(rows, m, scenario) for m in (method, *BOUNDS))
    adapts = method not in BOUNDS
    values, baseline = paired(own, low)
    over = difference(values, baseline) if values and method != "source_only" else None
    values, baseline, oracle = paired(own, low, high)
    closed = gap_closed(values, baseline, oracle) if values and adapts else None
    best, selected = paired(by_seed(rows, method, scenario, "balanced_accuracy_best"), own)
    regret = float(np.mean(best) - np.mean(selected)) if adapts and best else None
    return Gap(method, scenario, len(own), interval(list(own.values()), bounds=FRACTION), over, closed, regret)


def against(rows: list[Row], configurations: dict[str, dict], base: str = "cryoshift") -> dict[str, Comparison]:
    """label -> configuration - `base` on the reference scenario, paired by seed.

    `configurations` maps labels to arguments of :func:`by_seed`. One without seeds in common with `base` is left out.
    """
    reference = by_seed(rows, base, REFERENCE_SCENARIO)
    pairs = {label: paired(by_seed(rows, **fields), reference) for label, fields in configurations.items()}
    pairs = {label: both for label, both in pairs.items() if both[0]}
    p = holm({label: p_value(*both) for label, both in pairs.items()})
    return {
        label: Comparison(difference(own, baseline), len(own), p[label]) for label, (own, baseline) in pairs.items()
    }


def baselines(rows: list[Row]) -> dict[str, Comparison]:
    """method -> its difference to cryoshift, for all methods except the bounds and cryoshift."""
    methods = [m for m in METHODS if m not in (*BOUNDS, "cryoshift")]
    return against(rows, {m: dict(method=m, scenario=REFERENCE_SCENARIO) for m in methods})


def beside(rows: list[Row]) -> list[Row]:
    """The rows of the ablation, where unchanged `cryoshift` is among them; else none."""
    of_tier = [row for row in rows if row["tier"] == "ablation"]
    return of_tier if any(row["method"] == "cryoshift" for row in unchanged(of_tier)) else []


def ablation(rows: list[Row]) -> dict[str, Comparison]:
    """Changed part -> cryoshift with that change - cryoshift as it is, trained beside it where that has been done.

    Runs of one seed on two machines differ by up to 0.03, as much as what is compared.
    """
    rows = beside(rows) or rows
    changes = dict.fromkeys((row["without"], row["rule"]) for row in rows if row["without"] or row["rule"])
    return against(
        rows,
        {
            f"without {without}" if without else rule: dict(
                method="cryoshift", scenario=REFERENCE_SCENARIO, without=without, rule=rule
            )
            for without, rule in changes
        },
    )


def retrained(rows: list[Row]) -> float:
    """Largest difference in balanced accuracy between last checkpoints of the ablation that were trained alike.

    Rules of selection do not change the training of a seed, so it is 0 for runs of one machine.
    """
    found: dict[str, list[float]] = {}
    for row in rows:
        if row["tier"] == "ablation" and not row["without"]:
            found.setdefault(row["seed"], []).append(float(row["balanced_accuracy_last"]))
    return max((max(each) - min(each) for each in found.values()), default=0.0)


def transfer(rows: list[Row]) -> dict[str, Comparison]:
    """ "method, scenario" -> its difference to source_only on each named scenario; below 0 is negative transfer."""
    return {
        f"{g.method}, {g.scenario}": Comparison(g.over, g.seeds, math.nan if g.p is None else g.p)
        for g in gap_table(rows)
        if g.method not in BOUNDS and g.scenario in NAMED and g.over
    }


UNSEEN_COLUMNS = {
    "balanced_accuracy": "balanced accuracy, known classes",
    "none_recall": "unseen subtomograms rejected",
    "none_false_rejection": "known subtomograms rejected",
    "none_recall_5": "unseen rejected where 5 % of the known are",
}


@dataclass(frozen=True)
class Unseen:
    """One molecule that was no class, and one method.

    Attributes
    ----------
    runs : number of seeds
    rates : column of UNSEEN_COLUMNS -> mean over seeds
    called : the class that most of the unseen subtomograms resemble, of each seed
    """

    method: str
    molecule: str
    runs: int
    rates: dict[str, float]
    called: tuple[str, ...]


def unseen(rows: list[Row], scenarios: Collection[str] = LEFT_OUT) -> list[Unseen]:
    """What became of each unseen molecule: of the classes left out in turn, or on other scenarios."""
    found: dict[tuple[str, str], list[Row]] = {}
    for row in unchanged(rows):
        if row["scenario"] in scenarios and row.get("none_recall"):
            found.setdefault((row["method"], row.get("unseen_molecule", "")), []).append(row)
    return [
        Unseen(
            *pair,
            len(those),
            {c: float(np.mean([float(row[c]) for row in those])) for c in UNSEEN_COLUMNS},
            tuple(dict.fromkeys(row["unseen_called"] for row in those if row.get("unseen_called"))),
        )
        for pair, those in found.items()
    ]


def unseen_rates(found: Iterable[Unseen]) -> dict[str, dict[str, Interval]]:
    """method -> column of UNSEEN_COLUMNS -> mean and interval over molecules."""
    methods: dict[str, list[Unseen]] = {}
    for one in found:
        methods.setdefault(one.method, []).append(one)
    return {
        m: {c: interval([one.rates[c] for one in those], bounds=FRACTION) for c in UNSEEN_COLUMNS}
        for m, those in methods.items()
    }


CONTROL_COLUMNS = {
    "known": "particles of the classes",
    **{name: f"{name}s of their mass" for name in SHAPES},
    "mirror": "mirror images of them",
}


@dataclass(frozen=True)
class Control:
    """Negative controls of one method on one scenario, over seeds.

    Attributes
    ----------
    rejected, flagged : name in CONTROL_COLUMNS -> fraction rejected; rejected or of low confidence
    called : fraction of boxes without a particle that is called a class
    likeness, chance : of the averages of such boxes, see :func:`controls.background_likeness`; NaN where too few boxes
        are called one class in each seed
    like, compared : seeds in which the likeness exceeds chance, and seeds with enough boxes
    """

    method: str
    scenario: str
    seeds: int
    rejected: dict[str, Interval]
    flagged: dict[str, Interval]
    called: Interval
    likeness: float
    chance: float
    like: int
    compared: int


def control_scores(rows: list[Row]) -> list[Control]:
    """Negative controls of each method and scenario that has rows of the tier "controls"."""
    out = []
    mine = [row for row in rows if row["tier"] == "controls"]
    for method, scenario in dict.fromkeys((row["method"], row["scenario"]) for row in mine):
        some = [row for row in mine if (row["method"], row["scenario"]) == (method, scenario)]

        def over(column: str, some: list[Row] = some) -> Interval:
            return interval([float(row[column]) for row in some], bounds=FRACTION)

        found = [
            (float(r["background_likeness"]), float(r["background_chance"])) for r in some if r["background_chance"]
        ]
        likeness, chance = np.mean(found, axis=0) if found else (math.nan, math.nan)
        out.append(
            Control(
                method=method,
                scenario=scenario,
                seeds=len(some),
                rejected={name: over(f"{name}_rejected") for name in CONTROL_COLUMNS},
                flagged={name: over(f"{name}_flagged") for name in CONTROL_COLUMNS},
                called=over("background_called"),
                likeness=float(likeness),
                chance=float(chance),
                like=sum(one > other for one, other in found),
                compared=len(found),
            )
        )
    return out


def source_sizes(rows: list[Row]) -> dict[tuple[str, str, int], Comparison]:
    """(scenario, method, simulated source subtomograms) -> difference to the profile's own number, paired by seed."""
    pairs, p = {}, {}
    for scenario in COMPOSITES:
        for method in ("source_only", "cryoshift"):
            usual = by_seed(rows, method, scenario)
            for n in SIMULATED:
                changed, same = paired(by_seed(rows, method, scenario, n_simulated=n), usual)
                if changed:
                    pairs[scenario, method, n] = (changed, same)
                    p[scenario, method, n] = p_value(changed, same)
    adjusted = holm(p)
    return {key: Comparison(difference(*both), len(both[0]), adjusted[key]) for key, both in pairs.items()}


@dataclass(frozen=True)
class SpikeIn:
    """One run: estimates of its balanced accuracy without labels, and the true one on held-out target labels.

    A target is a scenario at one seed: its methods share the spike-ins.

    Attributes
    ----------
    estimate, far : balanced accuracy on spike-ins with usual and with large picking errors
    confidence : mean calibrated confidence on the target. A calibrated confidence is a probability of being right, so
        their mean is an accuracy (the difference of confidences of Guillory et al. 2021, after temperature scaling)
    fine_power : of particle-free boxes, see :func:`accuracy.fine_power`
    """

    method: str
    scenario: str
    seed: str
    estimate: float
    true: float
    far: float = float("nan")
    confidence: float = float("nan")
    fine_power: float = float("nan")

    @property
    def range(self) -> Estimate:
        """The accuracy that a report states."""
        return expected_accuracy(self.estimate, self.confidence, self.fine_power)

    @property
    def in_range(self) -> float:
        """1 where the true score is within the range of the spike-ins, else 0; NaN where one is missing."""
        values = (self.estimate, self.far)
        return float("nan") if np.isnan(values).any() else float(min(values) <= self.true <= max(values))


def spike_ins(rows: list[Row]) -> list[SpikeIn]:
    """The runs of unchanged methods that have a spike-in estimate."""
    spikes = ("spike_balanced_accuracy", "balanced_accuracy", "spike_balanced_accuracy_far")
    columns = (*spikes, "expected_accuracy", "fine_power")
    return [
        SpikeIn(row["method"], row["scenario"], row["seed"], *(float(row.get(name) or "nan") for name in columns))
        for row in unchanged(rows)
        if row.get(columns[0])
    ]


@dataclass(frozen=True)
class EstimateErrors:
    """Agreement of spike-in estimates with true scores; a correlation is NaN where it is not defined.

    `correlation` mixes easy and hard targets; `within` is that of the deviations from the mean of each target, which
    tells whether the estimate ranks the methods of one target.

    Attributes
    ----------
    bias_confidence : of the mean confidence
    in_range : fraction of runs whose true score is within the range of the two spike-in estimates; NaN where these were
        not measured
    unknown : fraction of runs for which a report states no range
    in_stated : fraction of the others whose true score is within the range that a report states; NaN without others
    bias_stated : bias of the middle of that range; NaN without others
    """

    runs: int
    mean_absolute: float
    bias: float
    correlation: float
    within: float
    bias_confidence: float = float("nan")
    in_range: float = float("nan")
    unknown: float = float("nan")
    in_stated: float = float("nan")
    bias_stated: float = float("nan")

    def __str__(self) -> str:
        """Such as "correlation 0.94, within targets 0.31, mean absolute error 0.098, bias +0.089, 90 runs"."""
        correlation = f"correlation {self.correlation:.2f}, " if np.isfinite(self.correlation) else ""
        correlation += f"within targets {self.within:.2f}, " if np.isfinite(self.within) else ""
        return f"{correlation}mean absolute error {self.mean_absolute:.3f}, bias {self.bias:+.3f}, {self.runs} runs"


def estimate_errors(runs: Sequence[SpikeIn]) -> EstimateErrors:
    """Errors of the estimates of one run or more; bias is the mean of estimate - true score."""
    estimate, true = np.array([[run.estimate, run.true] for run in runs]).T
    error = estimate - true
    targets = np.unique([f"{run.scenario}/{run.seed}" for run in runs], return_inverse=True)[1]

    def centred(values: np.ndarray) -> np.ndarray:
        return values - (np.bincount(targets, values) / np.bincount(targets))[targets]

    def correlation(a: np.ndarray, b: np.ndarray) -> float:
        defined = len(runs) > 2 and min(a.std(), b.std()) > 1e-12
        return float(np.corrcoef(a, b)[0, 1]) if defined else float("nan")

    stated = [(run.true, run.range) for run in runs if not run.range.unknown]
    return EstimateErrors(
        len(runs),
        float(np.abs(error).mean()),
        float(error.mean()),
        correlation(estimate, true),
        correlation(centred(estimate), centred(true)),
        float(np.mean([run.confidence - run.true for run in runs])),
        float(np.mean([run.in_range for run in runs])),
        1 - len(stated) / len(runs),
        float(np.mean([found.low <= true <= found.high for true, found in stated])) if stated else float("nan"),
        float(np.mean([(found.low + found.high) / 2 - true for true, found in stated])) if stated else float("nan"),
    )


@dataclass(frozen=True)
class Harm:
    """Recall of one class: without adaptation, with it, and the paired difference; `p` is adjusted (Holm)."""

    scenario: str
    name: str
    before: float
    after: float
    difference: Interval
    p: float


def harm(per_class: list[Row], method: str = "cryoshift", scenarios: Sequence[str] = COMPOSITES) -> list[Harm]:
    """What adaptation does to each class, because a higher mean can hide a lost class; one Harm for each.

    The family of the adjusted p-values is all classes of all scenarios.
    """
    values: dict[tuple[str, str], dict[str, dict[str, float]]] = {}
    for row in unchanged(per_class):
        if row["scenario"] in scenarios and row["method"] in (method, "source_only") and row["recall"]:
            of_class = values.setdefault((row["scenario"], row["class"]), {"source_only": {}, method: {}})
            of_class[row["method"]][row["seed"]] = float(row["recall"])
    pairs = {key: paired(found["source_only"], found[method]) for key, found in values.items()}
    pairs = {key: both for key, both in pairs.items() if both[0]}
    p = holm({key: p_value(after, before) for key, (before, after) in pairs.items()})
    return [
        Harm(*key, float(np.mean(before)), float(np.mean(after)), difference(after, before), p[key])
        for key, (before, after) in sorted(pairs.items(), key=lambda item: scenarios.index(item[0][0]))
    ]


def recalls(per_class: list[Row]) -> dict[str, dict[str, float]]:
    """method -> class -> mean recall over seeds, of unchanged methods on the reference scenario."""
    values: dict[str, dict[str, list[float]]] = {}
    for row in unchanged(per_class):
        if row["scenario"] == REFERENCE_SCENARIO and row["recall"]:
            values.setdefault(row["method"], {}).setdefault(row["class"], []).append(float(row["recall"]))
    order = [m for m in METHODS if m in values]
    return {m: {name: float(np.mean(v)) for name, v in values[m].items()} for m in order}


def curves(rows: list[Row]) -> dict[str, dict[str, dict[float, list[float]]]]:
    """Swept parameter -> method -> value -> scores, one per seed, of parameters with two values or more.

    For "unlabelled" source_only and oracle are those of the reference scenario, at the seeds that cryoshift has.
    """
    methods = ("source_only", "cryoshift", "oracle")
    lines = {
        parameter: {
            m: {v: list(by_seed(rows, m, curve_scenario(parameter, v)).values()) for v in values} for m in methods
        }
        for parameter, values in CURVES.items()
    }
    varied = {n: by_seed(rows, "cryoshift", REFERENCE_SCENARIO, n_target=n) for n in UNLABELLED}
    reference = {m: by_seed(rows, m, REFERENCE_SCENARIO) for m in BOUNDS}

    def same_seeds(method: str, scores: dict[str, float]) -> list[float]:
        own = reference.get(method, scores)
        return [own[seed] for seed in scores if seed in own]

    lines["unlabelled"] = {m: {float(n): same_seeds(m, scores) for n, scores in varied.items()} for m in methods}
    filled = {
        parameter: {m: {v: s for v, s in line.items() if s} for m, line in by_method.items()}
        for parameter, by_method in lines.items()
    }
    return {parameter: by_method for parameter, by_method in filled.items() if len(by_method["cryoshift"]) > 1}


def seed_count(rows: list[Row]) -> str:
    """Number of seeds per configuration in the rows: "10 seeds", "2 to 10 seeds" or "1 seed"."""
    seeds: dict[tuple[str, ...], set[str]] = {}
    for row in rows:
        seeds.setdefault(tuple(row[name] for name in CONFIGURATION), set()).add(row["seed"])
    counts = sorted({len(found) for found in seeds.values()})
    if len(counts) < 2:
        return f"{counts[0] if counts else 0} seed{'' if counts == [1] else 's'}"
    return f"{counts[0]} to {counts[-1]} seeds"


MODELS = ("as trained", "as chosen")


@dataclass(frozen=True)
class LamellaScore:
    """Scores of one method and model on one mix of the lamella, over seeds.

    Attributes
    ----------
    seeds : number of seeds
    auc, recall_5 : one interval over blocks per seed, in the order of the seeds
    called, called_random, ece : means over seeds
    replaced : seeds in which another method's network is used
    worse : seeds in which that network has a lower AUC than the one that it replaced
    """

    mix: str
    method: str
    model: str
    seeds: int
    auc: tuple[Interval, ...]
    recall_5: tuple[Interval, ...]
    called: float
    called_random: float
    ece: float
    replaced: int
    worse: int


def over_seeds(values: Sequence[Interval]) -> Interval:
    """Means over seeds of a score and of the ends of its interval over blocks; all seeds share the boxes."""
    mean, low, high = np.mean(np.array(values), axis=0)
    return Interval(float(mean), float(low), float(high))


def _real(rows: list[Row], target: str, subset: str, method: str, model: str) -> list[Row]:
    expected = (target, subset, method, model)
    found = [row for row in rows if (row["target"], row["subset"], row["method"], row["model"]) == expected]
    return sorted(found, key=lambda row: (int(row["seed"]), row["particle"]))


def _block_intervals(rows: list[Row], column: str) -> tuple[Interval, ...]:
    ends = [[float(row[name] or "nan") for name in (column, f"{column}_low", f"{column}_high")] for row in rows]
    return tuple(Interval(*values) for values in ends)


def lamella_scores(rows: list[Row]) -> list[LamellaScore]:
    """Scores of each mix, method and model in the rows of real.csv."""
    out = []
    for mix in MIXES:
        for method in REAL_METHODS:
            trained = {row["seed"]: float(row["auc"]) for row in _real(rows, LAMELLA, mix, method, "as trained")}
            for model in MODELS:
                mine = _real(rows, LAMELLA, mix, method, model)
                if not mine:
                    continue
                replaced = [row for row in mine if row["used"] != method]
                means = {c: float(np.mean([float(row[c]) for row in mine])) for c in ("called", "called_random", "ece")}
                out.append(
                    LamellaScore(
                        mix=mix,
                        method=method,
                        model=model,
                        seeds=len(mine),
                        auc=_block_intervals(mine, "auc"),
                        recall_5=_block_intervals(mine, "recall_5"),
                        replaced=len(replaced),
                        worse=sum(float(row["auc"]) < trained[row["seed"]] for row in replaced),
                        **means,
                    )
                )
    return out


@dataclass(frozen=True)
class ParticleScore:
    """Balanced accuracy of one method and model on the held-out particles of the HIV tomogram.

    Attributes
    ----------
    seeds : largest number of seeds of a particle
    by_particle : particle -> mean over seeds
    mean : t interval over particles; three particles share background boxes and a fit
    """

    method: str
    model: str
    seeds: int
    by_particle: dict[int, float]
    mean: Interval


def particle_scores(rows: list[Row]) -> list[ParticleScore]:
    """Scores of each method and model in the rows of real.csv, over the particles that have been held out so far."""
    out = []
    for method in REAL_METHODS:
        for model in MODELS:
            values: dict[int, list[float]] = {}
            for fold in range(len(FOLDS)):
                for row in _real(rows, VLP, str(fold + 1), method, model):
                    values.setdefault(int(row["particle"]), []).append(float(row["balanced_accuracy"]))
            if values:
                means = {number: float(np.mean(v)) for number, v in sorted(values.items())}
                seeds = max(map(len, values.values()))
                out.append(ParticleScore(method, model, seeds, means, interval(list(means.values()), bounds=FRACTION)))
    return out
