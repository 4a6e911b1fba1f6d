"""The benchmark's tiers: which methods run on which scenarios with which seeds."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, replace

from ..errors import InputError
from ..methods import METHODS, SUPERVISED, resolve
from ..simulation import scenarios
from ..simulation.scenarios import SCENARIOS

FRESH = (31, 32, 33, 34, 35)  # opened last, when nothing was changed any more
SEEDS = (21, 22, 23, 24, 25, *FRESH)  # never looked at while the recipe was made: that used 0, 11-13 and 101 upwards
BOUNDS = ("source_only", "oracle")  # nothing is selected there: the last checkpoint counts
CORE = ("source_only", "cryoshift_reference", "cryoshift", "oracle")
COMPOSITES = ("in_situ_1", "in_situ_2", "in_situ_3")
HOME = "in_situ_2"  # where methods are compared, taken apart and varied
UNSEEN_AT = "structure_3"  # where a tenth of the cubes is a molecule that nobody simulated
FACTORS = tuple(f"{name}_2" for name in scenarios.FACTORS)
# One number of HOME at a time: knob -> value -> what changes.
CURVES: dict[str, dict[float, dict]] = {
    "snr": {v: {"snr": (v, v)} for v in (0.01, 0.03, 0.1, 0.3, 1.0)},
    "wedge": {v: {"tilts": (-v, v, 0.0)} for v in (30.0, 40.0, 50.0, 60.0, 70.0)},
    "defocus": {v: {"defocus": (v, v)} for v in (1.0, 2.5, 4.0, 6.0, 8.0)},
    "crowding": {v: {"crowding": v} for v in (0.0, 0.1, 0.2, 0.3)},
    "imbalance": {v: {"imbalance": v} for v in (1.0, 3.0, 10.0, 30.0)},
}
LABELS = {
    "snr": "signal-to-noise ratio in the box",
    "wedge": "largest tilt (degrees)",
    "defocus": "defocus (um)",
    "crowding": "volume share of neighbours",
    "imbalance": "label shift: most frequent to rarest class",
    "unlabelled": "unlabelled target cubes",
}
UNLABELLED = (50, 100, 200, 500, 1000, 2000, 5000)


def curve_scenario(knob: str, value: float) -> str:
    """The name of HOME with one number changed."""
    return f"{HOME}_{knob}_{value:g}"


# Known by name once this room is imported, so that the notebooks' messages do not list them.
SCENARIOS.update(
    {
        curve_scenario(knob, value): replace(SCENARIOS[HOME], **change)
        for knob, values in CURVES.items()
        for value, change in values.items()
    }
)
# Selection without one of its parts: name -> options of selection.choose.
RULES: dict[str, dict] = {
    "EnsV in place of IM": {"rule": "ensv"},
    "no gates or alarms": {"gated": False},
    "no EnsV alarm": {"agreement": 0.0},
    "no ClassAMI alarm": {"least_ami": -1.0},
    "no fall-back": {"fallback": None},
    "last checkpoint": {"rule": "last", "gated": False},
}


@dataclass(frozen=True)
class Job:
    """One model to train and score. Its fields are the key columns of the CSV.

    Attributes
    ----------
    without : one warp or term left out, "" for none
    rule : a name in RULES, "" for selection as it is
    n_target : unlabelled cubes drawn from a larger pool; 0 for the profile's target-train set
    """

    profile: str
    tier: str
    method: str
    scenario: str
    seed: int
    without: str = ""
    rule: str = ""
    n_target: int = 0

    @property
    def key(self) -> tuple[str, ...]:
        return tuple(str(value) for value in asdict(self).values())


KEYS = tuple(Job.__dataclass_fields__)


def _core() -> Iterator[dict]:
    return (dict(method=m, scenario=s) for s in COMPOSITES for m in CORE)


def _baselines() -> Iterator[dict]:
    return (dict(method=m, scenario=HOME) for m in METHODS if m not in CORE)


def _factors() -> Iterator[dict]:
    return (dict(method=m, scenario=s) for s in FACTORS for m in ("source_only", "cryoshift", "oracle"))


def _ablation() -> Iterator[dict]:
    terms, method = resolve("cryoshift")
    for part in dict.fromkeys((*method.warps, *method.view, *terms)):
        if SUPERVISED & (terms.keys() - {part}):  # something must still learn the classes
            yield dict(method="cryoshift", scenario=HOME, without=part)
    for rule in RULES:
        yield dict(method="cryoshift", scenario=HOME, rule=rule)


def _unseen() -> Iterator[dict]:
    return (dict(method=m, scenario=UNSEEN_AT) for m in ("source_only", "cryoshift", "oracle"))


def _curves() -> Iterator[dict]:
    for knob, values in CURVES.items():
        for value in values:
            for method in ("source_only", "cryoshift", "oracle"):
                yield dict(method=method, scenario=curve_scenario(knob, value))
    for n in UNLABELLED:  # the bounds of this curve are those of HOME, in the core tier
        yield dict(method="cryoshift", scenario=HOME, n_target=n)


# tier -> number of seeds, and what is run for each of them
TIERS: dict[str, tuple[int, Callable[[], Iterator[dict]]]] = {
    "core": (10, _core),
    "ablation": (3, _ablation),
    "baselines": (5, _baselines),
    "factors": (3, _factors),
    "unseen": (3, _unseen),
    "curves": (2, _curves),
}


def tier_jobs(tier: str, profile: str = "laptop", seeds: Iterable[int] = ()) -> list[Job]:
    """All jobs of a tier, with its usual seeds or with others."""
    if tier not in TIERS:
        raise InputError(f"tier={tier!r} is unknown; wanted one of {', '.join(TIERS)}.")
    n, arms = TIERS[tier]
    return [Job(profile, tier, seed=seed, **arm) for arm in arms() for seed in tuple(seeds) or SEEDS[:n]]


def groups(todo: Iterable[Job], part: int = 0, parts: int = 1) -> list[list[Job]]:
    """Jobs that share a target, together; of these groups every `parts`-th one from `part` on."""
    by_target: dict[tuple[str, int], list[Job]] = {}
    for job in todo:
        by_target.setdefault((job.scenario, job.seed), []).append(job)
    return list(by_target.values())[part::parts]
