"""The benchmark's jobs, in tiers: which methods run on which scenarios with which seeds."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, replace

from ..application.profiles import PROFILES
from ..application.second_opinion import BOTH
from ..errors import InputError
from ..methods import METHODS, TERMS, resolve
from ..simulation import scenarios
from ..simulation.scenarios import SCENARIOS, Scenario
from .real import FOLDS, LAMELLA, MIXES, VLP

# Seeds 0, 11-13 and 101 upwards served the development of the recipe. None of the seeds below did.
TEST_SEEDS = (31, 32, 33, 34, 35)  # their labels were opened after the last change
UNKNOWN_SEEDS = (41, 42, 43, 44, 45)  # of the unknown class, whose rule changed after labels of the others were opened
ROTATION_SEEDS = (46, 47)  # with one class after the other left out; their scores were in view while the rule was set
SEEDS = (21, 22, 23, 24, 25, *TEST_SEEDS)
BOUNDS = ("source_only", "oracle")  # no checkpoint is selected for these two: the last one is scored
CORE = ("source_only", "cryoshift_reference", "cryoshift_warps", "cryoshift", "oracle")
TEMPLATES = "template_matching"  # the classical rival, which trains nothing; see `application.template_matching`
COMPOSITES = ("in_situ_1", "in_situ_2", "in_situ_3")
REFERENCE_SCENARIO = "in_situ_2"  # of the baselines, the ablation and the curves
UNSEEN_SCENARIO = "structure_3"  # a tenth of its subtomograms shows a molecule that no class stands for
FOREIGN = "foreign_1"  # imaged and reconstructed by another group's package
MIXED = ("prior_absent", "prior_background", "in_situ_2_absent", "in_situ_2_background")  # see `scenarios`
FACTORS = tuple(f"{name}_2" for name in scenarios.FACTORS)
# swept parameter -> value -> the fields of REFERENCE_SCENARIO that change
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
    "defocus": "defocus (µm)",
    "crowding": "volume fraction of neighbours",
    "imbalance": "most frequent : rarest class",
    "unlabelled": "unlabelled target subtomograms",
}
UNLABELLED = (50, 100, 200, 500, 1000, 2000, 5000)
# Source sizes beside the profile's 2,100. A fit of the laptop profile takes 12,800 source subtomograms, so with so many
# it hardly sees one twice: fresh simulation.
SIMULATED = (500, 6400, 12800)


def curve_scenario(parameter: str, value: float) -> str:
    """Name of the reference scenario with one swept parameter at `value`, such as "in_situ_2_snr_0.1"."""
    return f"{REFERENCE_SCENARIO}_{parameter}_{value:g}"


CURVE_SCENARIOS: dict[str, Scenario] = {
    name: replace(SCENARIOS[REFERENCE_SCENARIO], name=name, **change)
    for parameter, values in CURVES.items()
    for value, change in values.items()
    for name in [curve_scenario(parameter, value)]
}


# UNSEEN_SCENARIO with each class in turn as the unseen molecule; its source then has the other classes
LEFT_OUT: dict[str, Scenario] = {
    name: replace(SCENARIOS[UNSEEN_SCENARIO], name=name, unseen_molecule=molecule)
    for molecule in PROFILES["laptop"].classes
    for name in [f"{UNSEEN_SCENARIO}_{molecule}"]
}
FEW_SEEDS = CURVE_SCENARIOS | LEFT_OUT  # scenarios of the benchmark alone, with two seeds each


def find_scenario(name: str) -> Scenario:
    """Scenario of a job by name: a curve's, one with a class left out, or one of `simulation.scenarios.SCENARIOS`.

    Raises
    ------
    InputError
        unknown name.
    """
    return FEW_SEEDS[name] if name in FEW_SEEDS else scenarios.scenario(name)


# Selection with one of its parts changed: label -> options of `selection.choose`.
RULES: dict[str, dict] = {
    "EnsV in place of IM": {"rule": "ensv"},
    "no validity checks": {"checked": False},
    "no EnsV check": {"agreement": 0.0},
    "no ClassAMI check": {"least_ami": -1.0},
    "no check of class fractions": {"unaligned": None},
    "no fallback": {"fallback": None},
    "last checkpoint": {"rule": "last", "checked": False},
}


@dataclass(frozen=True)
class Job:
    """One model to train and score. The fields identify its row in the CSV.

    Attributes
    ----------
    profile, tier, method, scenario : names
    seed : of the data and of the training
    without : the warp or term that is left out, "" for none
    rule : a name in RULES, "" for the unchanged selection
    n_target : unlabelled subtomograms, drawn from a larger pool; 0 for the profile's target-train set
    n_simulated : simulated source subtomograms; 0 for the profile's number
    """

    profile: str
    tier: str
    method: str
    scenario: str
    seed: int
    without: str = ""
    rule: str = ""
    n_target: int = 0
    n_simulated: int = 0

    @property
    def left_out(self) -> tuple[str, ...]:
        """`without` as `methods.resolve` takes it."""
        return (self.without,) if self.without else ()

    @property
    def key(self) -> tuple[str, ...]:
        """Texts of all fields, as they stand in the CSV."""
        return tuple(str(value) for value in asdict(self).values())


KEYS = tuple(Job.__dataclass_fields__)


def _core() -> Iterator[dict]:
    return (dict(method=m, scenario=s) for s in COMPOSITES for m in (*CORE, TEMPLATES, BOTH))


def _baselines() -> Iterator[dict]:
    return (dict(method=m, scenario=REFERENCE_SCENARIO) for m in METHODS if m not in CORE)


def _factors() -> Iterator[dict]:
    return (dict(method=m, scenario=s) for s in FACTORS for m in ("source_only", "cryoshift", "oracle"))


def _mixes() -> Iterator[dict]:
    return (dict(method=m, scenario=s) for s in MIXED for m in ("source_only", "cryoshift", "oracle", TEMPLATES, BOTH))


def _ablation() -> Iterator[dict]:
    terms, method = resolve("cryoshift")
    yield dict(method="cryoshift", scenario=REFERENCE_SCENARIO)  # trained beside the others, to compare with
    for part in dict.fromkeys((*method.warps, *method.student_augmentation, *terms)):
        if any(TERMS[term].supervised for term in terms if term != part):  # else nothing would learn the classes
            yield dict(method="cryoshift", scenario=REFERENCE_SCENARIO, without=part)
    if method.own_background:
        yield dict(method="cryoshift", scenario=REFERENCE_SCENARIO, without="own_background")
    for rule in RULES:
        yield dict(method="cryoshift", scenario=REFERENCE_SCENARIO, rule=rule)


def _unseen() -> Iterator[dict]:
    return (dict(method=m, scenario=UNSEEN_SCENARIO) for m in ("source_only", "cryoshift", "oracle", TEMPLATES))


def _rotation() -> Iterator[dict]:
    return (dict(method=m, scenario=s) for s in LEFT_OUT for m in ("source_only", "cryoshift", TEMPLATES))


def _foreign() -> Iterator[dict]:
    return (dict(method=m, scenario=FOREIGN) for m in (*CORE, TEMPLATES, BOTH))


def _source_size() -> Iterator[dict]:
    methods = ("source_only", "cryoshift")
    return (dict(method=m, scenario=s, n_simulated=n) for s in COMPOSITES for n in SIMULATED for m in methods)


def _controls() -> Iterator[dict]:
    return (dict(method=m, scenario=s) for s in COMPOSITES[:2] for m in ("source_only", "cryoshift", TEMPLATES))


def _curves() -> Iterator[dict]:
    for name in CURVE_SCENARIOS:
        for method in ("source_only", "cryoshift", "oracle"):
            yield dict(method=method, scenario=name)
    for n in UNLABELLED:  # source_only and oracle of this curve are those of the core tier
        yield dict(method="cryoshift", scenario=REFERENCE_SCENARIO, n_target=n)


# tier -> seeds, and the configurations that run with each of them
TIERS: dict[str, tuple[tuple[int, ...], Callable[[], Iterator[dict]]]] = {
    "core": (SEEDS, _core),
    "mixes": (SEEDS[:5], _mixes),
    "ablation": (SEEDS[:3], _ablation),
    "baselines": (SEEDS[:5], _baselines),
    "factors": (SEEDS[:5], _factors),
    "unseen": (UNKNOWN_SEEDS, _unseen),
    "rotation": (ROTATION_SEEDS, _rotation),
    "foreign": (TEST_SEEDS, _foreign),
    "controls": (UNKNOWN_SEEDS, _controls),
    "source": (SEEDS[:3], _source_size),
    "curves": (SEEDS[:2], _curves),
}


def tier_jobs(tier: str, profile: str = "laptop", seeds: Iterable[int] = ()) -> list[Job]:
    """All jobs of a tier, with the tier's seeds or with `seeds`.

    Raises
    ------
    InputError
        unknown tier.
    """
    if tier not in TIERS:
        raise InputError(f"tier={tier!r} is unknown; expected one of {', '.join(TIERS)}.")
    usual, configurations = TIERS[tier]
    chosen = tuple(seeds) or usual
    return [Job(profile, tier, seed=seed, **fields) for fields in configurations() for seed in chosen]


def groups(jobs: Iterable[Job], part: int = 0, parts: int = 1) -> list[list[Job]]:
    """Groups of jobs that share a target; every `parts`-th group, starting with group `part`."""
    by_target: dict[tuple[str, int], list[Job]] = {}
    for job in jobs:
        by_target.setdefault((job.scenario, job.seed), []).append(job)
    return list(by_target.values())[part::parts]


REAL = "real"  # the tier of experimental targets: its jobs, rows and CSV are of another kind
REAL_METHODS = tuple(method for method in CORE if method != "oracle")  # too few labels for an oracle
REAL_SEEDS = SEEDS[:5]


@dataclass(frozen=True)
class RealJob:
    """One model to train and score on an experimental target. The fields identify its rows in the CSV.

    Attributes
    ----------
    profile, target, method : names
    subset : a mix of the lamella's positions, or the number of the fold of held-out particles
    seed : of the source and of the training; the boxes of the target are the same for all
    """

    profile: str
    target: str
    subset: str
    method: str
    seed: int

    @property
    def key(self) -> tuple[str, ...]:
        """Texts of all fields, as they stand in the CSV."""
        return tuple(str(value) for value in asdict(self).values())


REAL_KEYS = tuple(RealJob.__dataclass_fields__)


def real_groups(
    profile: str = "laptop", seeds: Iterable[int] = (), part: int = 0, parts: int = 1
) -> list[list[RealJob]]:
    """Groups of the real tier's jobs that share target and seed; every `parts`-th group, starting with group `part`."""
    subsets = [(LAMELLA, mix) for mix in MIXES] + [(VLP, str(fold + 1)) for fold in range(len(FOLDS))]
    every = [
        [RealJob(profile, target, subset, method, seed) for method in REAL_METHODS]
        for target, subset in subsets
        for seed in tuple(seeds) or REAL_SEEDS
    ]
    return every[part::parts]
