"""The goals that the project set itself, compared with the rows of the benchmark."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

import numpy as np

from ..methods import METHODS
from ..metrics import FRACTION, Interval, interval
from ..simulation.controls import SHAPES
from .jobs import BOUNDS, COMPOSITES, FOREIGN, REAL_SEEDS, REFERENCE_SCENARIO, TEMPLATES, Job, tier_jobs
from .real import DOMINATED, FOLDS, MIXES
from .statistics import (
    NAMED,
    Gap,
    Row,
    baselines,
    by_seed,
    control_scores,
    factors_closed,
    gap_table,
    lamella_scores,
    over_seeds,
    particle_scores,
    unchanged,
    unseen,
    unseen_rates,
)

SCORE = "balanced_accuracy"
GAP_TARGETS = {"in_situ_1": 0.85, "in_situ_2": 0.85, "in_situ_3": 0.70, FOREIGN: 0.80}  # smallest gap closed
FACTORS_TARGET, REGRET_TARGET, ECE_TARGET, CPU_TARGET = 0.70, 0.03, 0.08, 300.0
UNKNOWN_TARGET, FALSE_TARGET, CONTROLS_TARGET = 0.6, 0.05, 0.9

AUC_TARGET, AUC_WORST, RECALL_TARGET, RECALL_WORST = 0.985, 0.97, 0.92, 0.88  # yeast lamella: mean, and each seed
PARTICLES_TARGET, PARTICLES_WORST = 0.93, 0.80  # HIV particles: mean, and each particle


@dataclass(frozen=True)
class Verdict:
    """One goal with its result.

    Attributes
    ----------
    goal, result : texts, the result with its numbers
    outcome : "reached", "not reached" or "not measured"
    so_far : such as "12 of 15 runs" while planned runs are missing, else ""
    """

    goal: str
    result: str
    outcome: str
    so_far: str = ""

    @property
    def line(self) -> tuple[str, str, str]:
        """Cells of a table; the last one says where runs are missing."""
        early = f", so far ({self.so_far})" if self.so_far and self.outcome != "not measured" else ""
        return self.goal, self.result, f"**{self.outcome}**{early}"


def so_far(rows: list[Row], tiers: Iterable[str], **only: Iterable) -> str:
    """Such as "12 of 15 runs": how many of the planned runs the rows hold; "" where they hold all of them.

    `only` restricts the planned runs: field of Job -> accepted values.
    """
    planned: dict[Job, int] = {}
    for tier in tiers:
        for job in tier_jobs(tier):
            if all(getattr(job, name) in values for name, values in only.items()):
                configuration = replace(job, seed=0)
                planned[configuration] = planned.get(configuration, 0) + 1
    done = sum(
        min(
            n,
            len(by_seed(rows, c.method, c.scenario, "balanced_accuracy", c.without, c.rule, c.n_target, c.n_simulated)),
        )
        for c, n in planned.items()
    )
    return "" if done == sum(planned.values()) else f"{done} of {sum(planned.values())} runs"


def _verdict(goal: str, result: str, reached: bool | None, progress: str = "") -> Verdict:
    outcome = "not measured" if reached is None else "reached" if reached else "not reached"
    return Verdict(goal, result or "no rows yet", outcome, progress)


def verdicts(rows: list[Row]) -> list[Verdict]:
    """One Verdict for each goal of the project."""
    ours = {g.scenario: g for g in gap_table(rows) if g.method == "cryoshift"}
    return [
        *(_gap_verdict(rows, ours.get(scenario), scenario, least) for scenario, least in GAP_TARGETS.items()),
        _factors_verdict(rows),
        _negative_transfer_verdict(rows, ours),
        _baselines_verdict(rows),
        _regret_verdict(rows, ours),
        _ece_verdict(rows),
        *(_unknown_verdict(rows, method) for method in ("cryoshift", TEMPLATES)),
        *(_controls_verdict(rows, method) for method in ("cryoshift", TEMPLATES)),
        _cost_verdict(rows),
    ]


def _gap_verdict(rows: list[Row], g: Gap | None, scenario: str, least: float) -> Verdict:
    goal = f"gap closed on {scenario} at least {least:.0%}"
    progress = so_far(rows, ["core", "foreign"], scenario=[scenario], method=("cryoshift", *BOUNDS))
    if g is None:
        return _verdict(goal, "", None, progress)
    if g.closed is None:
        both = all(len(by_seed(rows, m, scenario)) > 1 for m in BOUNDS)
        result = "n/a: no significant gap from source_only to oracle" if both else "waits for source_only and oracle"
        return _verdict(goal, result, None, progress)
    return _verdict(goal, f"{g.closed:.0%}", g.closed.mean >= least, progress)


def _factors_verdict(rows: list[Row]) -> Verdict:
    closed, with_gap = factors_closed(rows)
    goal = f"gap closed over the factors with a gap (sum over sum) at least {FACTORS_TARGET:.0%}"
    result = f"{closed:.0%} over {', '.join(with_gap)}" if closed else ""
    return _verdict(goal, result, closed.mean >= FACTORS_TARGET if closed else None, so_far(rows, ["factors"]))


def _negative_transfer_verdict(rows: list[Row], ours: dict[str, Gap]) -> Verdict:
    measured = {s: g for s, g in ours.items() if s in NAMED and g.over and math.isfinite(g.over.low)}
    negative = [s for s, g in measured.items() if g.negative]
    none = f"none of {len(measured)} scenarios" if measured else ""
    result = f"negative transfer: {', '.join(negative)}" if negative else none
    progress = so_far(rows, ("core", "factors", "mixes", "unseen", "foreign"), method=("source_only", "cryoshift"))
    goal = "no scenario significantly below source_only (Holm over all comparisons)"
    return _verdict(goal, result, not negative if measured else None, progress)


def _baselines_verdict(rows: list[Row]) -> Verdict:
    others = {m: c.interval for m, c in baselines(rows).items() if math.isfinite(c.interval.high)}
    goal = f"better than every other method on {REFERENCE_SCENARIO}, paired interval above 0"
    compared = [m for m in METHODS if m not in BOUNDS]
    progress = so_far(rows, ("core", "baselines"), scenario=[REFERENCE_SCENARIO], method=compared)
    if not others:
        return _verdict(goal, "", None, progress)
    nearest = max(others, key=lambda m: others[m].mean)
    lead = Interval(-others[nearest].mean, -others[nearest].high, -others[nearest].low)
    level = [m for m, found in others.items() if found.high >= 0]
    result = f"nearest of {len(others)}: {nearest}, cryoshift leads by {lead:+.3f}"
    result += f"; not distinguishable from {', '.join(level)}" if level else ""
    return _verdict(goal, result, not level, progress)


def _regret_verdict(rows: list[Row], ours: dict[str, Gap]) -> Verdict:
    regrets = {s: g.regret for s in COMPOSITES if (g := ours.get(s)) and g.regret is not None}
    result = ", ".join(f"{s} {r:.3f}" for s, r in regrets.items())
    reached = max(regrets.values()) <= REGRET_TARGET if regrets else None
    goal = f"selection regret at most {REGRET_TARGET} on each composite"
    return _verdict(goal, result, reached, so_far(rows, ["core"], method=["cryoshift"]))


def _ece_verdict(rows: list[Row]) -> Verdict:
    goal = f"calibration error (ECE) at most {ECE_TARGET} ({REFERENCE_SCENARIO})"
    return _mean_verdict(rows, goal, "core", REFERENCE_SCENARIO, "ece", lambda mean: mean <= ECE_TARGET)


def _unknown_verdict(rows: list[Row], method: str) -> Verdict:
    goal = f"unseen class at the detector's threshold: at least {UNKNOWN_TARGET:.0%} rejected, and at most "
    if method == TEMPLATES:
        goal = (
            f"molecules that were not simulated, by {TEMPLATES}: at least {UNKNOWN_TARGET:.0%} rejected, and at most "
        )
    goal += f"{FALSE_TARGET:.0%} of the known, each class left out in turn"
    found = unseen_rates(unseen(rows)).get(method)
    if not found:
        return _verdict(goal, "", None, so_far(rows, ["rotation"], method=[method]))
    recall, false = found["none_recall"], found["none_false_rejection"]
    reached = recall.mean >= UNKNOWN_TARGET and false.mean <= FALSE_TARGET
    result = f"{recall:.0%} of the unseen, {false:.1%} of the known"
    return _verdict(goal, result, reached, so_far(rows, ["rotation"], method=[method]))


def _controls_verdict(rows: list[Row], method: str) -> Verdict:
    goal = f"spheres, shells and hearts of a particle's mass: at least {CONTROLS_TARGET:.0%} rejected or of low "
    goal += "confidence" + (f", by {method}" if method == TEMPLATES else "")
    found = {c.scenario: c for c in control_scores(rows) if c.method == method}
    if not found:
        return _verdict(goal, "", None)
    flagged = {f"{name} {s}": c.flagged[name].mean for s, c in found.items() for name in SHAPES}
    worst = min(flagged, key=flagged.__getitem__)
    result = f"{np.mean(list(flagged.values())):.0%} on average, fewest {flagged[worst]:.0%} ({worst})"
    return _verdict(goal, result, flagged[worst] >= CONTROLS_TARGET, so_far(rows, ["controls"], method=[method]))


def _mean_verdict(
    rows: list[Row], goal: str, tier: str, scenario: str, column: str, reached: Callable[[float], bool]
) -> Verdict:
    """Of cryoshift's mean over seeds in one column and scenario."""
    values = list(by_seed(rows, "cryoshift", scenario, column).values())
    progress = so_far(rows, [tier], scenario=[scenario], method=["cryoshift"])
    if not values:
        return _verdict(goal, "", None, progress)
    found = interval(values, bounds=FRACTION)
    return _verdict(goal, f"{found:.3f}", reached(found.mean), progress)


def _cost_verdict(rows: list[Row]) -> Verdict:
    on_cpu = [row for row in unchanged(rows) if row.get("device", "cpu") == "cpu"]
    spent = [float(row["cpu_seconds"]) for row in on_cpu if row["method"] == "cryoshift"]
    result = f"at most {max(spent):.0f} s, {np.mean(spent):.0f} s on average of {len(spent)} runs" if spent else ""
    reached = max(spent) <= CPU_TARGET if spent else None
    return _verdict(f"training takes at most {CPU_TARGET:.0f} CPU-seconds per run", result, reached)


def real_verdicts(rows: list[Row]) -> list[Verdict]:
    """One Verdict for each goal on experimental data, from the rows of real.csv: `cryoshift` as chosen."""
    ours = {s.mix: s for s in lamella_scores(rows) if s.method == "cryoshift" and s.model == "as chosen"}
    out = []
    for mix in (mix for mix in MIXES if mix not in DOMINATED):
        goal = (
            f"yeast lamella, mix {mix}: AUC at least {AUC_TARGET} on average and {AUC_WORST} for each seed, recall at "
            f"5 % calls at least {RECALL_TARGET} and {RECALL_WORST}"
        )
        s = ours.get(mix)
        if s is None:
            out.append(_verdict(goal, "", None))
            continue
        aucs, recalls = ([each.mean for each in values] for values in (s.auc, s.recall_5))
        result = f"AUC {over_seeds(s.auc).mean:.3f}, lowest {min(aucs):.3f}; "
        result += f"recall {over_seeds(s.recall_5).mean:.3f}, lowest {min(recalls):.3f}"
        reached = np.mean(aucs) >= AUC_TARGET and min(aucs) >= AUC_WORST
        reached = reached and np.mean(recalls) >= RECALL_TARGET and min(recalls) >= RECALL_WORST
        out.append(_verdict(goal, result, bool(reached), _of(s.seeds, len(REAL_SEEDS), "seeds")))
    worse, replaced = (sum(getattr(s, name) for s in ours.values()) for name in ("worse", "replaced"))
    goal = "yeast lamella: no network is replaced by one with a lower AUC"
    result = f"{worse} of {replaced} replaced networks had a higher AUC" if ours else ""
    seeds = _of(sum(s.seeds for s in ours.values()), len(MIXES) * len(REAL_SEEDS), "runs")
    out.append(_verdict(goal, result, worse == 0 if ours else None, seeds))
    goal = f"HIV particles: balanced accuracy at least {PARTICLES_TARGET} on average and {PARTICLES_WORST} for each"
    for p in particle_scores(rows):
        if p.method == "cryoshift" and p.model == "as chosen":
            worst = min(p.by_particle, key=p.by_particle.__getitem__)
            lowest = p.by_particle[worst]
            result = f"{p.mean:.3f}, lowest {lowest:.3f} (particle {worst})"
            reached = p.mean.mean >= PARTICLES_TARGET and lowest >= PARTICLES_WORST
            return [*out, _verdict(goal, result, reached, _of(len(p.by_particle), sum(map(len, FOLDS)), "particles"))]
    return [*out, _verdict(goal, "", None)]


def _of(done: int, planned: int, what: str) -> str:
    return "" if done >= planned else f"{done} of {planned} {what}"
