"""The goals that the project set itself, compared with the rows of the benchmark."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace

import numpy as np

from .. import metrics
from ..methods import METHODS
from .jobs import BOUNDS, COMPOSITES, FACTORS, HOME, UNSEEN_AT, Job, tier_jobs
from .statistics import NAMED, Gap, Interval, baselines, by_seed, gap_table, percent, plain, signed, whole

TARGETS = {"in_situ_1": 0.85, "in_situ_2": 0.80, "in_situ_3": 0.60}  # gap closed that the project set itself
FACTORS_TARGET, REGRET_TARGET, ECE_TARGET, NONE_TARGET, CPU_TARGET = 0.70, 0.03, 0.08, 0.6, 300.0


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
        for job in tier_jobs(tier):
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
    found = metrics.interval(values)
    return _judge(aim, plain(found), found[0] >= wanted if wanted > 0 else found[0] <= -wanted, part)


def _cost_verdict(rows: list[dict]) -> Verdict:
    spent = [float(row["cpu_seconds"]) for row in whole(rows) if row["method"] == "cryoshift"]
    found = f"at most {max(spent):.0f} s, {np.mean(spent):.0f} s on average" if spent else ""
    reached = max(spent) <= CPU_TARGET if spent else None
    part = so_far(rows, ("core", "factors"), method=["cryoshift"])
    return _judge(f"training takes at most {CPU_TARGET:.0f} CPU-seconds per run", found, reached, part)


def _minus(found: Interval) -> Interval:
    return -found[0], -found[2], -found[1]
