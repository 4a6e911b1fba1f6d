"""The benchmark: jobs, a CSV that survives kills and concurrent writers, and statistics checked by hand."""

import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace

import numpy as np
import pytest
from scipy import stats

from cryoshift_core.application.accuracy import MARGIN
from cryoshift_core.benchmark import figures, goals, jobs, runner, statistics, tables
from cryoshift_core.benchmark.__main__ import main
from cryoshift_core.benchmark.jobs import Job, tier_jobs
from cryoshift_core.errors import InputError
from cryoshift_core.methods import METHODS, resolve
from cryoshift_core.metrics import Interval
from cryoshift_core.simulation import datasets
from cryoshift_core.simulation.datasets import DatasetConfig
from cryoshift_core.simulation.scenarios import SCENARIOS

T2, T4 = 4.30265, 2.77645  # Student's t, 97.5 %, for 3 and 5 seeds


def row(method, scenario, seed, score, best=None, **other):
    key = asdict(Job("laptop", other.pop("tier", "core"), method, scenario, seed, **other))
    found = {"balanced_accuracy": score, "balanced_accuracy_best": best or score, "balanced_accuracy_last": score}
    return {**key, **found, "ece": 0.05 + score / 100, "none_recall": "", "cpu_seconds": 100.0}


def written(folder, rows):
    runner.add(folder / "evidence.csv", rows)
    return runner.read(folder / "evidence.csv")


def test_the_tiers_hold_the_planned_jobs():
    core = tier_jobs("core")
    assert len(core) == len({job.key for job in core}) == 7 * 3 * 10
    assert {job.seed for job in core} == {*range(21, 26), *range(31, 36)}, "no seed of development"
    others = {job.method for job in tier_jobs("baselines")}
    assert others == METHODS.keys() - set(jobs.CORE) and "coral" in others
    assert {(job.scenario, job.n_target) for job in tier_jobs("baselines")} == {("in_situ_2", 0)}
    factors = tier_jobs("factors")
    assert len({job.scenario for job in factors}) == 10 and len(factors) == 10 * 3 * 5
    assert all(job.scenario.endswith("_2") and job.scenario in SCENARIOS for job in factors)
    everything = [job for tier in jobs.TIERS for job in tier_jobs(tier)]
    assert len({job.key for job in everything}) == len(everything)


def test_the_ablation_follows_the_recipe_and_keeps_a_labelled_term():
    without = {job.without for job in tier_jobs("ablation")} - {""}
    recipe = METHODS["cryoshift"]
    assert {*recipe.warps, *recipe.student_augmentation} <= without
    assert without <= {*recipe.warps, *recipe.student_augmentation, *dict(recipe.terms), "own_background"}
    for part in without:
        resolve("cryoshift", (part,))  # raises where no labelled term is left
    rules = {job.rule for job in tier_jobs("ablation")} - {""}
    assert rules == set(jobs.RULES) and len(rules) >= 3
    assert not [job for job in tier_jobs("ablation") if job.without and job.rule], "one part at a time"
    assert len([job for job in tier_jobs("ablation") if not (job.without or job.rule)]) == 3, "to compare with"


def test_the_curves_change_one_field_each_and_leave_the_public_scenarios_alone():
    todo = tier_jobs("curves")
    reference = asdict(SCENARIOS["in_situ_2"])
    for parameter, values in jobs.CURVES.items():
        for value in values:
            name = jobs.curve_scenario(parameter, value)
            varied = asdict(jobs.find_scenario(name))
            assert varied["name"] == name
            assert sum(varied[field] != reference[field] for field in reference if field != "name") <= 1
            assert {j.method for j in todo if j.scenario == name} == {"source_only", "cryoshift", "oracle"}
    assert "in_situ_2_snr_0.1" in jobs.CURVE_SCENARIOS, "the name in the CSV"
    assert not jobs.CURVE_SCENARIOS.keys() & SCENARIOS.keys(), "an import must not add to another module's table"
    assert jobs.find_scenario("dose_1") is SCENARIOS["dose_1"]
    with pytest.raises(InputError, match="no_such"):
        jobs.find_scenario("no_such")
    assert {50, 5000} <= {job.n_target for job in todo}
    assert runner.target_configs(replace(todo[0], scenario="in_situ_2", n_target=5000))[0].n == 5000


def test_curve_jobs_simulate_their_own_scenario():
    one, other = (
        runner.target_configs(Job("smoke", "curves", "cryoshift", jobs.curve_scenario("snr", v), 21))[0]
        for v in (0.1, 0.3)
    )
    named = runner.target_configs(Job("smoke", "core", "cryoshift", "in_situ_2", 21))[0]
    assert len({config.file_name for config in (one, other, named)}) == 3, "data sets are kept apart"


def test_the_parts_share_no_job_and_no_target():
    todo = tier_jobs("core") + tier_jobs("baselines")
    parts = [jobs.groups(todo, part, 3) for part in range(3)]
    keys = [job.key for part in parts for group in part for job in group]
    assert sorted(keys) == sorted(job.key for job in todo)
    targets = [{(job.scenario, job.seed) for group in part for job in group} for part in parts]
    assert not targets[0] & targets[1] and not targets[1] & targets[2] and not targets[0] & targets[2]
    first = [part[0][0].seed for part in parts]
    assert len(set(first)) == 3, "processes that start together need different source_only fits"


def test_an_unknown_tier_is_refused():
    with pytest.raises(InputError, match="core, mixes, ablation"):
        tier_jobs("everything")


WRITER = """
import sys
from pathlib import Path
from cryoshift_core.benchmark import runner
from cryoshift_core.benchmark.jobs import Job
from dataclasses import asdict
for seed in range(100_000):
    runner.add(Path(sys.argv[1]), [{**asdict(Job("laptop", "core", "oracle", "in_situ_1", seed)), "score": 0.5}])
"""


def test_a_killed_writer_leaves_whole_rows_and_no_lock(tmp_path):
    path = tmp_path / "evidence.csv"
    writer = subprocess.Popen([sys.executable, "-c", WRITER, str(path)])
    try:
        deadline = time.monotonic() + 60
        while len(runner.read(path)) < 50 and writer.poll() is None and time.monotonic() < deadline:
            time.sleep(0.01)
    finally:
        os.kill(writer.pid, signal.SIGKILL)
        writer.wait()
    before = runner.read(path)
    assert len(before) >= 50 and [r["seed"] for r in before] == [str(n) for n in range(len(before))]
    assert all(r["score"] == "0.5" for r in before)
    assert len(written(tmp_path, [row("oracle", "in_situ_1", 10**6, 0.6)])) == len(before) + 1


def test_a_row_replaces_its_own_key_and_new_columns_leave_old_rows_empty(tmp_path):
    written(tmp_path, [row("oracle", "in_situ_1", 21, 0.5), row("oracle", "in_situ_1", 22, 0.5)])
    found = written(tmp_path, [{**row("oracle", "in_situ_1", 21, 0.7), "new": 1.0}])
    assert [(r["seed"], r["balanced_accuracy"], r["new"]) for r in found] == [("22", "0.5", ""), ("21", "0.7", "1")]


def test_many_writers_lose_no_row(tmp_path):
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda seed: written(tmp_path, [row("oracle", "in_situ_1", seed, 0.5)]), range(40)))
    assert sorted(int(r["seed"]) for r in runner.read(tmp_path / "evidence.csv")) == list(range(40))


def test_a_finished_job_is_skipped_and_a_failing_one_stops_no_other(tmp_path, capsys):
    methods = ("source_only", "no_such_method", "adabn")
    todo = jobs.groups([Job("smoke", "baselines", method, "dose_1", 21) for method in methods])
    context = runner.Context(tmp_path / "work")
    failed = runner.run_all(todo, tmp_path, context)
    assert [job.method for job in failed] == ["no_such_method"]
    assert [r["method"] for r in runner.read(tmp_path / "evidence.csv")] == ["source_only", "adabn"]
    assert "FAILED: " in capsys.readouterr().out
    before = (tmp_path / "evidence.csv").read_bytes()
    assert runner.run_all(todo, tmp_path, context) == failed
    assert "1 jobs to run with 1 targets" in capsys.readouterr().out, "only the missing one"
    assert (tmp_path / "evidence.csv").read_bytes() == before


def test_paired_differences_cancel_the_variation_between_seeds():
    shared = np.array([0.5, 0.7, 0.9])
    found = statistics.difference(shared + 0.1 + np.array([0.001, 0, -0.001]), shared)
    assert 0.09 < found.low < found.high < 0.11
    with pytest.raises(InputError, match="same seeds"):
        statistics.difference([1.0], [1.0, 2.0])


def ratio(above, below):
    """Gap closed of methods that gain `above` where the oracle gains `below`, over seeds that differ a lot."""
    low = [0.1 * seed for seed in range(len(above))]
    plus = [[a + b for a, b in zip(low, gains, strict=True)] for gains in (above, below)]
    return statistics.gap_closed(plus[0], low, plus[1])


def test_the_interval_of_the_gap_closed_is_fiellers():
    # a denominator without noise: the t interval, divided
    half = T2 * 0.1 / np.sqrt(3) / 0.4
    assert ratio([0.1, 0.2, 0.3], [0.4, 0.4, 0.4]) == pytest.approx((0.5, 0.5 - half, 0.5 + half), rel=1e-4)
    # else: at both ends the t test of above - r * below is at its limit
    above, below = np.array([0.31, 0.38, 0.35, 0.40, 0.33]), np.array([0.40, 0.44, 0.39, 0.47, 0.41])
    found = ratio(list(above), list(below))
    assert found.low < found.mean < found.high and found.mean == pytest.approx(above.mean() / below.mean())
    for end in (found.low, found.high):
        assert stats.ttest_1samp(above - end * below, 0).pvalue == pytest.approx(0.05, rel=1e-6)
    # above proportional to below: the ratio is certain
    assert ratio([0.2, 0.3, 0.4], [0.4, 0.6, 0.8]) == pytest.approx((0.5, 0.5, 0.5))


@pytest.mark.parametrize("below", [[-0.1, 0.1, 0.05], [-0.4, -0.41, -0.42], [0.0, 0.0, 0.0]])
def test_without_a_positive_gap_nothing_can_be_closed(below):
    assert ratio([0.1, 0.2, 0.3], below) is None
    assert ratio([0.1], [0.4]) is None, "one seed has no interval"


def test_tables_goals_and_single_numbers_agree_where_the_oracle_is_worse_than_source_only(tmp_path):
    oracle = [row("oracle", "in_situ_1", s, 0.4 + 0.01 * i) for i, s in enumerate((21, 22, 23))]
    low = [row("source_only", "in_situ_1", s, 0.8) for s in (21, 22, 23)]
    rows = written(tmp_path, oracle + low + [row("cryoshift", "in_situ_1", s, 0.6) for s in (21, 22, 23)])
    assert statistics.gap(rows, "cryoshift", "in_situ_1").closed is None
    (line,) = [line for line in tables.gap_lines(rows, ["in_situ_1"]) if line[1] == "cryoshift"]
    assert line[5] == "n/a" and line[7] == "YES"
    found = verdict(rows, "gap closed on in_situ_1")
    assert found.outcome == "not measured" and found.result.startswith("n/a")


def test_intervals_of_accuracies_end_at_0_and_1_and_those_of_the_gap_closed_do_not(tmp_path):
    scores = {"source_only": (0.2, 0.6, 0.7), "oracle": (0.999, 0.90, 0.999), "cryoshift": (0.999, 0.95, 0.8)}
    rows = written(
        tmp_path, [row(m, "in_situ_1", s, v) for m in scores for s, v in zip((1, 2, 3), scores[m], strict=True)]
    )
    ours = statistics.gap(rows, "cryoshift", "in_situ_1")
    assert ours.score.high == 1.0 and ours.score.low > 0
    shifted = [{**r, "balanced_accuracy": "0.97"} if r["method"] == "cryoshift" else r for r in rows]
    low = [{**r, "balanced_accuracy": "0.2"} if r["method"] == "source_only" else r for r in shifted]
    assert statistics.gap(low, "cryoshift", "in_situ_1").closed.high > 1
    none = {"none_recall": 0.7, "none_false_rejection": 0.004, "none_recall_5": 0.5}
    rows = [{**row("cryoshift", f"structure_3_{m}", 46, 0.8, tier="rotation"), **none,
             "unseen_molecule": m, "none_recall_5": v}
            for m, v in (("TRiC", 0.2), ("RuvAB", 0.9), ("apoferritin", 1.0))]  # fmt: skip
    found = statistics.unseen_rates(statistics.unseen(written(tmp_path / "unseen", rows)))
    assert found["cryoshift"]["none_recall_5"][1:] == (0.0, 1.0)


def small_world():
    """in_situ_1 with a gap of 0.4 for every seed, of which cryoshift closes 0.32, 0.36 and 0.40."""
    rows = []
    for i, seed in enumerate((21, 22, 23)):
        low = 0.4 + 0.1 * i  # the seeds differ more than the methods do
        rows += [row("source_only", "in_situ_1", seed, low), row("oracle", "in_situ_1", seed, low + 0.4)]
        rows += [row("cryoshift", "in_situ_1", seed, low + 0.32 + 0.04 * i, best=low + 0.37 + 0.04 * i)]
        rows += [row("cryoshift_reference", "in_situ_1", seed, low - 0.10 - 0.01 * i)]
    return rows


def test_the_gap_table_by_hand(tmp_path):
    gaps = {g.method: g for g in statistics.gap_table(written(tmp_path, small_world()))}
    ours = gaps["cryoshift"]
    half = T2 * 0.04 / np.sqrt(3)
    assert ours.seeds == 3 and ours.score.mean == pytest.approx(0.86)
    assert ours.over == pytest.approx((0.36, 0.36 - half, 0.36 + half), rel=1e-4)
    assert ours.closed == pytest.approx((0.9, 0.9 - half / 0.4, 0.9 + half / 0.4), rel=1e-4)
    assert ours.regret == pytest.approx(0.05) and not ours.negative
    assert gaps["cryoshift_reference"].negative and gaps["cryoshift_reference"].closed.mean == pytest.approx(-0.275)
    assert gaps["oracle"].closed is None and gaps["oracle"].regret is None and gaps["source_only"].over is None


def test_changed_configurations_do_not_enter_the_gap_table(tmp_path):
    extra = [
        row("cryoshift", "in_situ_1", 21, 0.0, without="spectrum"),
        row("cryoshift", "in_situ_1", 21, 0.0, n_target=50),
    ]
    expected = statistics.gap_table(written(tmp_path / "a", small_world()))
    assert statistics.gap_table(written(tmp_path / "b", small_world() + extra)) == expected


def verdict(rows, words):
    (found,) = [v for v in goals.verdicts(rows) if words in v.goal]
    return found


def test_verdicts_by_hand(tmp_path):
    rows = written(tmp_path, small_world())
    assert verdict(rows, "gap closed on in_situ_1").result.startswith("90% [65%, 115%]")
    assert verdict(rows, "gap closed on in_situ_1").outcome == "reached"
    assert verdict(rows, "gap closed on in_situ_2").outcome == "not measured"
    assert verdict(rows, "regret").outcome == "not reached" and "0.050" in verdict(rows, "regret").result
    assert verdict(rows, "below source_only").outcome == "reached"
    assert verdict(rows, "unseen").outcome == "not measured"
    worse = [{**r, "balanced_accuracy": "0.3"} if r["method"] == "cryoshift" else r for r in rows]
    assert verdict(worse, "gap closed on in_situ_1").outcome == "not reached"
    slow = [{**r, "cpu_seconds": "301"} if r["method"] == "cryoshift" else r for r in rows]
    assert [verdict(r, "CPU").outcome for r in (rows, slow)] == ["reached", "not reached"]


def test_better_than_every_other_method_means_each_paired_interval(tmp_path):
    def rows(lead):
        seeds = list(enumerate(jobs.SEEDS[:5]))
        ours = [row("cryoshift", "in_situ_2", seed, 0.5 + 0.1 * i) for i, seed in seeds]
        mcc = [row("mcc", "in_situ_2", seed, 0.3 + 0.1 * i) for i, seed in seeds]
        coral = [row("coral", "in_situ_2", seed, 0.5 + 0.1 * i - lead - 0.02 * (i - 2)) for i, seed in seeds]
        return written(tmp_path / str(lead), ours + mcc + coral)

    half = T4 * 0.02 * np.sqrt(2.5) / np.sqrt(5)
    assert statistics.baselines(rows(0.05))["coral"].interval == pytest.approx(
        (-0.05, -0.05 - half, -0.05 + half), rel=1e-3
    )
    assert verdict(rows(0.05), "every other method").outcome == "reached"
    found = verdict(rows(0.03), "every other method")
    assert found.outcome == "not reached" and "coral" in found.result and "+0.030 [-0.009" in found.result


def test_the_factors_count_only_where_there_is_a_gap(tmp_path):
    rows = []
    for i, seed in enumerate((21, 22, 23)):
        for scenario, gap, closed in (("dose_2", 0.4, 0.2), ("noise_2", 0.2, 0.18), ("prior_2", 0.02 * (i - 1), 0.0)):
            rows.append(row("source_only", scenario, seed, 0.5, tier="factors"))
            rows.append(row("oracle", scenario, seed, 0.5 + gap, tier="factors"))
            rows.append(row("cryoshift", scenario, seed, 0.5 + closed, tier="factors"))
    found = verdict(written(tmp_path, rows), "factors")
    assert found.result == "63% [63%, 63%] over dose_2, noise_2", "0.38 / 0.60, and not the mean of 50 % and 90 %"
    assert found.outcome == "not reached"


def test_negative_transfer_lists_named_scenarios_alone(tmp_path):
    extra = [row(m, "in_situ_2_snr_0.1", seed, 0.5) for m in ("source_only", "cryoshift") for seed in (21, 22)]
    found = statistics.transfer(written(tmp_path, small_world() + extra))
    assert found.keys() == {"cryoshift, in_situ_1", "cryoshift_reference, in_situ_1"}
    assert found["cryoshift_reference, in_situ_1"].interval.mean == pytest.approx(-0.11)


def test_tiers_that_repeat_the_core_tier_do_not_mix_with_it(tmp_path):
    beside = [row("cryoshift", "in_situ_2", seed, 0.9, tier="ablation") for seed in (21, 22)]
    changed = [row("cryoshift", "in_situ_2", seed, 0.8, tier="ablation", without="shift") for seed in (21, 22)]
    core = [row("cryoshift", "in_situ_2", seed, 0.5) for seed in (21, 22, 23)]
    rows = written(tmp_path, core + beside + changed)
    assert statistics.by_seed(rows, "cryoshift", "in_situ_2") == {"21": 0.5, "22": 0.5, "23": 0.5}
    assert statistics.ablation(rows)["without shift"].interval.mean == pytest.approx(-0.1), "not + 0.3"
    only = [{**one, "tier": "controls"} for one in rows if one["tier"] == "core"]
    assert len(statistics.by_seed(only, "cryoshift", "in_situ_2")) == 3, "where no other tier has them"


def test_rules_of_selection_show_what_training_again_changes(tmp_path):
    def ablation(seed, score, **changed):
        return row("cryoshift", "in_situ_2", seed, score, tier="ablation", **changed)

    alike = [ablation(21, 0.5), ablation(21, 0.5, rule="last checkpoint"), ablation(21, 0.1, without="shift")]
    assert statistics.retrained(written(tmp_path, alike)) == 0.0, "without a warp it is another training"
    again = [ablation(22, 0.75), ablation(22, 0.875, rule="no fallback")]
    assert statistics.retrained(written(tmp_path, alike + again)) == 0.125


def test_the_cost_is_that_of_whole_recipes(tmp_path):
    part = {**row("cryoshift", "in_situ_2", 21, 0.5, tier="ablation", without="spectrum"), "cpu_seconds": 400.0}
    assert (
        verdict(written(tmp_path, [*small_world(), part]), "CPU").result == "at most 100 s, 100 s on average of 3 runs"
    )


def test_unseen_molecules_by_hand(tmp_path):
    none = {"none_recall": 0.7, "none_false_rejection": 0.04, "none_recall_5": 0.75}

    def one(molecule, seed, recall, called, scenario=""):
        about = {"unseen_molecule": molecule, "unseen_called": called, "none_recall": recall}
        tier = "unseen" if scenario else "rotation"
        return {**row("cryoshift", scenario or f"structure_3_{molecule}", seed, 0.8, tier=tier), **none, **about}

    rows = [one("TRiC", 46, 0.9, "RuvAB"), one("TRiC", 47, 0.7, "RuvAB"), one("RuvAB", 46, 0.4, "TRiC")]
    rows += [one("subunit_30S", 41, 0.1, "TRiC", "structure_3")]
    rows = written(tmp_path, rows + [row("source_only", "structure_3_TRiC", 46, 0.9, tier="rotation")])
    tric, ruvab = statistics.unseen(rows)
    assert (tric.molecule, tric.runs, tric.called) == ("TRiC", 2, ("RuvAB",)), "source_only has no such figures here"
    assert tric.rates["none_recall"] == pytest.approx(0.8) and ruvab.rates["none_recall"] == pytest.approx(0.4)
    over = statistics.unseen_rates([tric, ruvab])["cryoshift"]
    assert over["none_recall"].mean == pytest.approx(0.6), "a molecule counts once, whatever its number of seeds"
    assert verdict(rows, "unseen class").outcome == "reached"
    lines = tables.unseen_tables(rows).splitlines()
    assert "| TRiC | RuvAB | 2 | 0.80 | 0.80 | 0.04 | 0.75 |" in lines
    assert "| subunit_30S | TRiC | 1 | 0.80 | 0.10 | 0.04 | 0.75 |" in lines


def test_a_class_left_out_is_unseen_and_has_no_relative_among_the_outliers(tmp_path):
    job = next(job for job in tier_jobs("rotation", "smoke") if job.scenario == "structure_3_TRiC")
    train, test = runner.target_configs(job)
    assert "TRiC" not in train.classes and train.classes == test.classes
    assert datasets.unseen_molecule(train) == "TRiC"
    shared = runner.source_data(job, runner.Context(tmp_path))
    assert shared.source.classes == train.classes and "TRiC" not in shared.outliers.classes
    row, _ = runner.run(job, runner.target_data(job, shared, runner.Context(tmp_path)))
    assert row["unseen_molecule"] == "TRiC" and row["unseen_called"] in train.classes


def test_scenarios_with_the_same_classes_and_other_strangers_share_no_outliers(tmp_path, monkeypatch):
    """The smoke profile has neither molecule; its outliers must lack the one that is unseen."""
    made = []
    monkeypatch.setattr(runner, "source_data", lambda job, context: made.append(job.scenario))
    monkeypatch.setattr(runner, "target_data", lambda job, shared, context: None)
    todo = [[job] for job in tier_jobs("rotation", "smoke", seeds=[46]) if "ribosome_70S" in job.scenario]
    todo += [[job] for job in tier_jobs("rotation", "smoke", seeds=[46]) if "spliceosome" in job.scenario]
    assert len(runner.run_all(todo, tmp_path, runner.Context(tmp_path))) == len(todo), "nothing runs without data"
    assert made == ["structure_3_ribosome_70S", "structure_3_spliceosome"]


def test_scenarios_with_few_seeds_take_no_part_in_the_adjustment_of_p(tmp_path):
    rows = small_world()
    swept = [{**r, "tier": "curves", "scenario": "in_situ_2_snr_0.1"} for r in rows]
    few, many = (statistics.gap_table(written(tmp_path / str(len(some)), some)) for some in (rows, rows + swept))
    named = {g.method: g.p for g in many if g.scenario == "in_situ_1"}
    assert named == {g.method: g.p for g in few}


def test_errors_of_spike_in_estimates_by_hand():
    numbers = ((0.5, 0.4), (0.7, 0.6), (0.9, 0.8))
    runs = [statistics.SpikeIn("m", "s", str(i), estimate, true) for i, (estimate, true) in enumerate(numbers)]
    found = statistics.estimate_errors(runs)
    assert (found.runs, found.mean_absolute, found.bias, found.correlation) == pytest.approx((3, 0.1, 0.1, 1.0))
    assert str(found) == "correlation 1.00, mean absolute error 0.100, bias +0.100, 3 runs"
    assert "correlation" not in str(statistics.estimate_errors(runs[:2]))


def test_coverage_of_estimated_ranges_by_hand():
    runs = [
        statistics.SpikeIn("m", "s", "1", 0.8, 0.7, far=0.6, confidence=0.9),  # among the spike-ins alone
        statistics.SpikeIn("m", "s", "2", 0.8, 0.85, far=0.6, confidence=0.9),  # above the spike-ins
        statistics.SpikeIn("m", "s", "3", 0.6, 0.9, far=0.7, confidence=0.9),  # the range of the spike-ins is turned
        statistics.SpikeIn("m", "s", "4", 0.6, 0.65, far=0.7, confidence=0.5),
    ]
    found = statistics.estimate_errors(runs)
    assert (found.in_range, found.unknown, found.in_stated) == (0.5, 0, 0.75)
    assert found.bias_stated == pytest.approx((0.15 + 0 - 0.15 - 0.1) / 4)
    assert found.bias_confidence == pytest.approx((0.2 + 0.05 + 0 - 0.15) / 4)
    missing = statistics.estimate_errors([*runs, statistics.SpikeIn("m", "s", "5", 0.6, 0.65)])
    assert np.isnan(missing.in_range) and missing.unknown == pytest.approx(0.2) and missing.in_stated == 0.75
    close = statistics.SpikeIn("m", "s", "6", 0.8, 0.9 + 0.9 * MARGIN, far=0.6, confidence=0.9)
    assert statistics.estimate_errors([close]).in_stated == 1, "within the margin"
    denoised = statistics.estimate_errors([replace(close, fine_power=0.001)])
    assert denoised.unknown == 1 and np.isnan(denoised.in_stated) and np.isnan(denoised.bias_stated)


def test_an_estimate_that_only_tells_easy_from_hard_targets_has_no_correlation_within_targets():
    numbers = {"easy": ((0.90, 0.80), (0.92, 0.78)), "hard": ((0.50, 0.40), (0.52, 0.38))}
    runs = [
        statistics.SpikeIn(method, scenario, "21", *values)
        for scenario, pairs in numbers.items()
        for method, values in zip("ab", pairs, strict=True)
    ]
    found = statistics.estimate_errors(runs)
    assert found.correlation > 0.98 and found.within == pytest.approx(-1.0), "it prefers the worse method of each"


def test_p_values_of_a_family_by_hand():
    # Holm's example of the three smallest: 4 * 0.01, then 3 * 0.013 is below it, 2 * 0.03, 1 * 0.5
    found = statistics.holm({"a": 0.01, "b": 0.5, "c": 0.013, "d": 0.03, "e": float("nan")})
    assert [found[name] for name in "acdb"] == pytest.approx([0.04, 0.04, 0.06, 0.5]) and np.isnan(found["e"])
    assert statistics.holm({"a": 0.4, "b": 0.9})["b"] == 0.9 and statistics.holm({"a": 0.6, "b": 0.7})["a"] == 1.0
    assert statistics.p_value([0.3, 0.5, 0.7], [0.2, 0.3, 0.4]) == pytest.approx(
        stats.ttest_1samp([0.1, 0.2, 0.3], 0).pvalue
    )
    assert (
        np.isnan(statistics.p_value([0.1], [0.0]))
        and statistics.p_value([0.2, 0.3], [0.1, 0.2]) == 0
        and statistics.p_value([0.5] * 3, [0.5] * 3) == 1
    )


def test_a_scenario_below_source_only_by_chance_is_no_negative_transfer(tmp_path):
    def world(n):
        rows = []
        for k in range(n):  # the same difference on each scenario: alone it is significant, among many it is not
            for i, seed in enumerate((21, 22, 23)):
                rows.append(row("source_only", f"s{k}", seed, 0.5))
                rows.append(row("cryoshift", f"s{k}", seed, 0.5 - 0.02 - 0.005 * (i - 1)))
        return [g for g in statistics.gap_table(written(tmp_path / str(n), rows)) if g.method == "cryoshift"]

    assert [g.negative for g in world(1)] == [True] and not any(g.negative for g in world(5))


def test_harm_to_a_class_by_hand(tmp_path):
    rows = []
    for i, seed in enumerate((21, 22, 23)):
        for method, recall in (("source_only", {"A": 0.6, "B": 0.5}), ("cryoshift", {"A": 0.3, "B": 0.9})):
            for name, value in recall.items():
                base = row(method, "in_situ_1", seed, 0.0) | {"class": name, "n": 70}
                rows.append(base | {"recall": value + 0.01 * i * (method == "cryoshift")})
    found = {h.name: h for h in statistics.harm(written(tmp_path, rows))}
    assert (found["A"].before, found["A"].after) == pytest.approx((0.6, 0.31))
    assert found["A"].difference.mean == pytest.approx(-0.29) and found["A"].p < 0.01 and found["B"].difference.mean > 0


def test_the_number_of_seeds_in_words():
    rows = [{k: str(v) for k, v in row(m, "s", seed, 0.5).items()} for m, seed in (("a", 1), ("a", 2), ("b", 1))]
    assert statistics.seed_count(rows) == "1 to 2 seeds"
    assert statistics.seed_count(rows[:2]) == "2 seeds" and statistics.seed_count(rows[:1]) == "1 seed"


def test_a_forest_marks_worse_better_and_not_distinguishable_by_shape_as_well_as_colour():
    intervals = {"a": Interval(-0.2, -0.3, -0.1), "b": Interval(0.0, -0.1, 0.1), "c": Interval(0.2, 0.1, 0.3)}
    fig = figures.forest({name: statistics.Comparison(i, 3) for name, i in intervals.items()}, "title", "label")
    points = [line for line in fig.axes[0].lines if line.get_marker() in ("<", ">", "o")]
    assert [line.get_marker() for line in points] == ["<", "o", ">"]
    assert len({line.get_color() for line in points}) == 3
    texts = [text.get_text() for text in fig.axes[0].texts]
    assert texts == ["-0.200 (n = 3)", "+0.000 (n = 3)", "+0.200 (n = 3)"]
    assert "95 % t interval over n seeds" in fig.axes[0].get_title()


def test_the_curve_of_unlabelled_subtomograms_has_the_bounds_of_its_own_seeds():
    rows = [row(m, "in_situ_2", seed, 0.1 * seed) for m in ("source_only", "oracle") for seed in (1, 2)]
    rows += [row("cryoshift", "in_situ_2", 2, 0.15, tier="curves", n_target=n) for n in (50, 100)]
    lines = statistics.curves([{k: str(v) for k, v in one.items()} for one in rows])["unlabelled"]
    assert lines["cryoshift"] == {50: [0.15], 100: [0.15]}
    assert lines["oracle"] == lines["source_only"] == {50: [0.2], 100: [0.2]}


def test_a_report_shows_what_there_is(tmp_path):
    rows = small_world() + [
        row("cryoshift", "in_situ_2", 21, 0.6),
        row("cryoshift", "in_situ_2", 22, 0.7),
        row("cryoshift", "in_situ_2", 21, 0.5, tier="ablation", without="spectrum"),
        row("cryoshift", "in_situ_2", 22, 0.5, tier="ablation", without="spectrum"),
        row("cryoshift", "in_situ_2", 21, 0.4, tier="curves", n_target=50),
        row("cryoshift", "in_situ_2", 21, 0.5, tier="curves", n_target=100),
    ]
    per_class = [
        {**asdict(Job("laptop", "core", "cryoshift", "in_situ_2", 21)), "class": "TRiC", "recall": 0.5, "n": 9}
    ]
    runner.add(tmp_path / "evidence.csv", rows)
    runner.add(tmp_path / "per_class.csv", per_class)
    path = tables.report(tmp_path, tmp_path / "docs" / "evidence.md", tmp_path / "images")
    text = path.read_text()
    assert "| in_situ_1 | cryoshift | 3 | 0.860 [" in text and "| without spectrum | 2 | -0.150 [" in text
    assert "nan" not in text and "| YES |" in text
    assert "](../images/evidence_gap_closed.png)" in text and "](../evidence.csv)" in text
    drawn = {image.stem for image in (tmp_path / "images").glob("*.png")}
    assert drawn == {f"evidence_{name}" for name in ("gap_closed", "ablation", "recall", "regret", "curves")}
    with pytest.raises(InputError, match="rows of profile 'gpu'"):
        tables.report(tmp_path, tmp_path / "evidence.md", tmp_path / "images", "gpu")


def test_a_toy_run_from_nothing_to_rows(tmp_path):
    todo = [job for job in tier_jobs("core", "smoke", [21]) if job.scenario in ("in_situ_1", "in_situ_2")]
    todo = [job for job in todo if job.method in ("source_only", "cryoshift", "oracle")]
    context = runner.Context(tmp_path / "work", device="cpu")
    assert runner.run_all(jobs.groups(todo), tmp_path, context) == []
    rows = {(r["method"], r["scenario"]): r for r in runner.read(tmp_path / "evidence.csv")}
    assert len(rows) == len(todo) == 6
    for r in rows.values():
        best, chosen = float(r["balanced_accuracy_best"]), float(r["balanced_accuracy"])
        assert 0 <= chosen <= 1 and best >= float(r["balanced_accuracy_last"])
        expected = {"source_only": 48, "cryoshift": 64}  # a third more in own background
        if r["method"] == "oracle":  # 36 subtomograms, those of rarer classes repeated
            assert int(r["n_source"]) % 3 == 0 and int(r["n_source"]) >= 36
        else:
            assert int(r["n_source"]) == expected[r["method"]]
        assert r["fell_back"] == "1" or best >= chosen
        assert r["method"] == "oracle" or 0 <= float(r["spike_balanced_accuracy"]) <= 1
        assert 0 < float(r["expected_accuracy"]) <= 1
        assert float(r["a_distance_after"]) >= 0 and r["commit"] and r["threads"] and r["device"] == "cpu"
    per_class = runner.read(tmp_path / "per_class.csv")
    assert len(per_class) == 6 * 3
    for key, r in rows.items():
        recalls = [float(c["recall"]) for c in per_class if (c["method"], c["scenario"]) == key]
        assert np.mean(recalls) == pytest.approx(float(r["balanced_accuracy"]), abs=1e-5)
    assert len(list((tmp_path / "work" / "fits").glob("source_only-*"))) == 1, "it does not depend on the target"
    assert not list((tmp_path / "work" / "data").glob("in_situ*")), "finished targets are deleted"
    assert list((tmp_path / "work" / "data").glob("source_*")), "the next target needs the source"


def test_smaller_target_sets_are_part_of_larger_ones(tmp_path):
    context, job = runner.Context(tmp_path), Job("smoke", "curves", "cryoshift", "dose_1", 21)
    few, more = (runner.target_data(replace(job, n_target=n), None, context) for n in (20, 60))
    assert len(few.train) == len(few.train_labels) == 20
    assert (few.train.x == more.train.x[:20]).all() and (few.train_labels.y == more.train_labels.y[:20]).all()
    assert len(few.train.groups.unique()) > 1, "of several tomograms"
    with pytest.raises(InputError, match="at most 180"):
        runner.target_data(replace(job, n_target=500), None, context)


def test_the_command_lists_its_jobs_and_refuses_a_wrong_part(capsys):
    assert main(["--tier", "core", "--part", "1/2", "--list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 21 * 5 and lines[0].startswith("laptop core source_only in_situ_1 22")
    for wrong in ("2/2", "half", "1"):
        with pytest.raises(SystemExit):
            main(["--tier", "core", "--part", wrong])
        assert "such as 0/2" in capsys.readouterr().err


def test_targets_share_the_seed_with_the_training():
    train, test = runner.target_configs(Job("laptop", "core", "oracle", "in_situ_1", 23))
    assert train.seed == test.seed == 23 and isinstance(train, DatasetConfig) and (train.n, test.n) == (1000, 500)


def test_another_profile_leaves_the_committed_evidence_alone(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)  # without a pyproject.toml above it, the current folder is the root
    folder = tmp_path / "runs/evidence/smoke"
    for one in small_world():
        runner.add(folder / "evidence.csv", [{**one, "profile": "smoke"}])
    assert main(["--profile", "smoke", "--report"]) == 0
    assert capsys.readouterr().out.strip() == str(folder / "evidence.md")
    assert list((folder / "images").glob("evidence_*.png"))
    assert not (tmp_path / "notebooks").exists() and not (tmp_path / "docs").exists()
