"""Template matching as a method of the benchmark: its rows, and that they need no training."""

import csv
from dataclasses import replace

import pytest

from cryoshift_core.benchmark import jobs, runner
from cryoshift_core.benchmark.jobs import Job
from cryoshift_core.benchmark.statistics import CONTROL_COLUMNS


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    """Of a target without and with an unseen molecule, and of one with controls."""
    folder = tmp_path_factory.mktemp("matching")
    todo = [Job("smoke", tier, jobs.TEMPLATES, scenario, 21) for tier, scenario in
            (("core", "in_situ_1"), ("unseen", "structure_3"), ("controls", "in_situ_1"))]  # fmt: skip
    todo += [replace(todo[0], method=method) for method in (jobs.BOTH, "cryoshift")]
    context = runner.Context(folder / "work", device="cpu")
    assert runner.run_all([[job] for job in todo], folder, context) == []
    with (folder / "per_class.csv").open() as file:
        found = {row["tier"] if row["method"] == jobs.TEMPLATES else row["method"]: row
                 for row in runner.read(folder / "evidence.csv")}  # fmt: skip
        return found, list(csv.DictReader(file))


def test_templates_recognise_simulated_molecules_better_than_by_guessing_and_train_nothing(rows):
    by_tier, per_class = rows
    core = by_tier["core"]
    classes = {row["class"] for row in per_class}
    assert float(core["balanced_accuracy"]) > 1.5 / len(classes)
    assert 0 <= float(core["ece"]) <= 1 and float(core["cpu_seconds"]) > 0
    assert not core.get("balanced_accuracy_last") and not core.get("steps"), "there are no checkpoints"
    assert {row["method"] for row in per_class} == {jobs.TEMPLATES, jobs.BOTH, "cryoshift"}


def test_the_answer_of_both_is_of_the_network_that_was_chosen_and_scored_on_spike_ins(rows):
    both, network = rows[0][jobs.BOTH], rows[0]["cryoshift"]
    for column in ("used", "selected_step", "steps", "fell_back", "n_source", "adapted_to", "fine_power"):
        assert both[column] == network[column], column
    assert both["balanced_accuracy"] != network["balanced_accuracy"]
    assert float(both["spike_balanced_accuracy"]) >= float(network["spike_balanced_accuracy"]) - 0.1
    assert 0 < float(both["expected_accuracy"]) <= 1 and not both.get("balanced_accuracy_last")


def test_unseen_molecules_and_controls_have_the_columns_of_the_networks(rows):
    by_tier, _ = rows
    unseen, controls = by_tier["unseen"], by_tier["controls"]
    assert unseen["unseen_molecule"] and unseen["unseen_called"]
    for column in ("none_recall", "none_false_rejection", "none_recall_5"):
        assert 0 <= float(unseen[column]) <= 1
    for name in CONTROL_COLUMNS:
        assert float(controls[f"{name}_rejected"]) <= float(controls[f"{name}_flagged"]) <= 1
    assert 0 <= float(controls["background_called"]) <= 1 and float(controls["mirror_accuracy"]) > 0
