"""Negative controls, the class-balanced oracle, and the tables made from their rows."""

import math
from dataclasses import asdict

import pytest
import torch

from cryoshift_core.application.verdict import Average
from cryoshift_core.benchmark import controls, goals, runner, statistics, tables
from cryoshift_core.benchmark.jobs import SIMULATED, Job
from cryoshift_core.data import UNKNOWN, HeldOutLabels, Labelled, Unlabelled
from cryoshift_core.simulation.controls import CONTROLS


def test_an_average_of_chosen_noise_looks_like_the_class_and_one_of_random_noise_does_not():
    g = torch.Generator().manual_seed(0)
    template = torch.zeros(12, 12, 12)
    template[4:8, 5:8, 4:7] = 1.0
    x = template + 0.5 * torch.randn(60, 1, 12, 12, 12, generator=g)
    source = Labelled(x, torch.zeros(60, dtype=torch.int64), ("a",), 10.0, torch.ones(60), torch.arange(60))
    boxes = torch.randn(400, 1, 12, 12, 12, generator=g)
    order = (boxes * template).flatten(1).sum(1).argsort(descending=True)
    chosen, random = torch.full((400,), UNKNOWN), torch.full((400,), UNKNOWN)
    chosen[order[:80]] = 0
    random[torch.randperm(400, generator=g)[:80]] = 0
    biased, fair = (controls.background_likeness(boxes, y, source, 0) for y in (chosen, random))
    assert biased["background_called"] == fair["background_called"] == pytest.approx(0.2)
    assert biased["background_likeness"] > biased["background_chance"] + 0.2
    assert fair["background_likeness"] < fair["background_chance"] + 0.05
    few = controls.background_likeness(boxes[:10], chosen[:10], source, 0)
    assert math.isnan(few["background_likeness"]) and Average.of(boxes[:10]) is None


def test_the_oracle_learns_each_class_equally_often():
    g = torch.Generator().manual_seed(0)

    def labelled(y):
        n = len(y)
        x = torch.randn(n, 1, 4, 4, 4, generator=g)
        return Labelled(x, y, ("a", "b", "c"), 10.0, torch.ones(n), torch.arange(n))

    simulated = labelled(torch.arange(30) % 3)
    y = torch.tensor([0] * 8 + [1] * 3 + [UNKNOWN] * 2)
    unlabelled = Unlabelled(torch.randn(13, 1, 4, 4, 4, generator=g), 10.0, torch.arange(13), "toy")
    held_out = HeldOutLabels(y, ("a", "b", "c"))
    shared = runner.SourceData(simulated, simulated, simulated, None)
    job = Job("smoke", "core", "oracle", "in_situ_2", 21)
    target = runner.Target(job, None, shared, unlabelled, held_out, unlabelled, held_out)
    found = target.oracle_source
    assert torch.bincount(found.y).tolist() == [8, 8, 8]
    own = {tuple(box.flatten().tolist()) for box in unlabelled.x[:11]}
    for box, k in zip(found.x, found.y.tolist(), strict=True):
        assert (tuple(box.flatten().tolist()) in own) == (k != 2), (
            "an absent class is simulated, the others are the target's"
        )
    repeats = [len({tuple(b.flatten().tolist()) for b in found.x[found.y == k]}) for k in range(3)]
    assert repeats == [8, 3, 8], "all of a class are used before any is repeated"


def row(method, seed, tier="core", scenario="in_situ_2", score=0.5, n_simulated=0, **other):
    key = asdict(Job("laptop", tier, method, scenario, seed, n_simulated=n_simulated))
    scores = {"balanced_accuracy": score, "balanced_accuracy_best": score, "ece": 0.05, "cpu_seconds": 100.0}
    return {name: str(value) for name, value in {**key, **scores, **other}.items()}


def control(seed, shape, likeness, chance):
    names = ("known", *CONTROLS)
    fractions = {f"{name}_{kind}": shape for name in names for kind in ("rejected", "flagged")}
    background = {"background_called": 0.5, "background_likeness": likeness, "background_chance": chance}
    return row("cryoshift", seed, "controls", **fractions, **background)


def test_controls_are_averaged_over_seeds_and_compared_with_chance():
    rows = [control(21, 0.1, 0.3, 0.1), control(22, 0.3, 0.1, 0.2), control(23, 0.2, "", "")]
    (found,) = statistics.control_scores(rows)
    assert (found.seeds, found.like, found.compared) == (3, 1, 2)
    assert found.rejected["sphere"].mean == pytest.approx(0.2) and found.likeness == pytest.approx(0.2)
    assert "| in_situ_2 | cryoshift | 3 | 0.20 (0.20)" in tables.table(
        tables.CONTROLS_HEADER, [tables._control_line(found)]
    )
    verdict = next(v for v in goals.verdicts(rows) if "hearts" in v.goal)
    assert verdict.outcome == "not reached" and "20%" in verdict.result
    assert statistics.control_scores([row("cryoshift", 21)]) == []


def test_a_larger_source_is_compared_with_the_usual_one_at_the_same_seeds():
    rows = [row("cryoshift", seed, score=0.5 + seed / 100) for seed in (21, 22, 23)]
    n = SIMULATED[-1]
    rows += [row("cryoshift", seed, "source", score=0.52 + seed / 100, n_simulated=n) for seed in (22, 23)]
    found = statistics.source_sizes(rows)
    assert list(found) == [("in_situ_2", "cryoshift", n)] and found["in_situ_2", "cryoshift", n].seeds == 2
    assert found["in_situ_2", "cryoshift", n].interval.mean == pytest.approx(0.02)
    assert len(statistics.by_seed(rows, "cryoshift", "in_situ_2")) == 3, "a larger source is no unchanged run"
    assert len(statistics.unchanged(rows)) == 3


def test_the_unknown_class_is_scored_at_its_own_threshold():
    def unseen(seed, recall, false):
        rates = {"none_recall": recall, "none_false_rejection": false, "none_recall_5": 0.9}
        return row("cryoshift", seed, "rotation", "structure_3_TRiC", unseen_molecule="TRiC", **rates)

    def outcome(rows):
        return next(v.outcome for v in goals.verdicts(rows) if v.goal.startswith("unseen class"))

    assert outcome([unseen(21, 0.7, 0.04), unseen(22, 0.6, 0.04)]) == "reached"
    assert outcome([unseen(21, 0.7, 0.2), unseen(22, 0.7, 0.2)]) == "not reached", "too many of the known"
    assert outcome([unseen(21, 0.2, 0.01), unseen(22, 0.2, 0.01)]) == "not reached"
    assert outcome([row("cryoshift", 21)]) == "not measured"
    subunit = row("cryoshift", 21, "unseen", "structure_3", none_recall=0.9, none_false_rejection=0.0)
    assert outcome([subunit]) == "not measured", "a relative of a class is no class left out"
