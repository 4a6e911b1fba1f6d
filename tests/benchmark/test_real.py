"""The real tier: intervals over blocks with known answers, mixes and folds, held-out labels, and a run of few steps."""

import inspect
from dataclasses import replace

import numpy as np
import pytest
import torch
from helpers.files import ROOT
from scipy import stats

from cryoshift_core.application import pipeline
from cryoshift_core.application.lattice_test import FOLDS
from cryoshift_core.application.profiles import PROFILES
from cryoshift_core.benchmark import goals, jobs, real, runner, statistics, tables
from cryoshift_core.benchmark.__main__ import main
from cryoshift_core.benchmark.jobs import REAL_KEYS, RealJob
from cryoshift_core.data import HeldOutLabels, Unlabelled
from cryoshift_core.errors import InputError
from cryoshift_core.metrics import UNBOUNDED, interval

SMALL = "20+40"


def test_the_interval_of_a_mean_over_equal_blocks_is_the_t_interval_of_their_means():
    rng = np.random.default_rng(0)
    of = np.repeat(np.arange(8), 25)
    values = rng.normal(size=8)[of] + rng.normal(size=200)
    found = real.block_interval(lambda mask: values[mask].mean(), of, UNBOUNDED)
    expected = interval([values[of == b].mean() for b in range(8)])
    assert found == pytest.approx(expected)
    assert real.block_interval(lambda mask: values[mask].mean(), of, (-0.01, 0.01))[1:] == (-0.01, 0.01)
    with pytest.raises(InputError, match="two blocks"):
        real.block_interval(lambda mask: 0.0, np.zeros(5))
    lonely = real.block_interval(lambda mask: 1.0 if mask[0] else float("nan"), of)
    assert lonely.mean == 1.0 and np.isnan(lonely.low)


def test_the_interval_covers_the_area_under_the_curve_of_clustered_boxes():
    rng = np.random.default_rng(1)
    of, positive = np.repeat(np.arange(8), 60), np.tile(np.arange(60) < 20, 8)
    truth = stats.norm.cdf(1.0 / np.sqrt(2 * (1 + 0.25)))  # separation 1; variance between blocks 0.25, within 1
    covered, width = 0, []
    for _ in range(200):
        # positives and the others have block effects of their own, as ribosomes and cytosol do
        effect = rng.normal(scale=0.5, size=(2, 8))
        score = rng.normal(size=len(of)) + effect[positive.astype(int), of] + positive
        found = real.block_interval(lambda mask, s=score: real.auc(s[mask], positive[mask]), of)
        covered += found.low <= truth <= found.high
        width.append(found.high - found.low)
    assert covered >= 180, "a 95 % interval"
    assert np.mean(width) < 0.35, "and not by being useless"


def test_recall_at_5_percent_calls_by_hand():
    others = np.arange(40.0)  # at most two of them may be called, so the threshold is 37
    positive = np.array([36.0, 37.0, 37.5, 100.0])
    score, is_positive = np.concatenate([others, positive]), np.repeat([False, True], [40, 4])
    assert real.recall_at(score, is_positive) == 0.5
    assert real.recall_at(score, is_positive, calls=0.0) == 0.25
    assert np.isnan(real.recall_at(score[:40], is_positive[:40])) and np.isnan(real.auc(score[:40], is_positive[:40]))
    assert real.auc(np.array([1.0, 2.0, 3.0, 4.0]), np.array([False, True, False, True])) == 0.75


def test_log_odds_keep_the_order_where_probabilities_round_to_one():
    p = torch.tensor([[20.0, 0, 0], [25.0, 0, 0], [0.0, 1, 0]]).softmax(1)
    assert p[0, 0] == p[1, 0] == 1.0
    odds = real.log_odds(p, 0)
    assert odds[1] > odds[0] > odds[2] and odds[0] == pytest.approx(20 - np.log(2), rel=1e-5)


def test_scores_of_the_lamella_by_hand():
    listed, random = [0.92, 0.83, 0.61, 0.22], [0.72, 0.12, 0.13, 0.31]
    of = np.tile([0, 1], 5)
    p = torch.tensor([[v, 0.3 * (1 - v), 0.7 * (1 - v)] for v in (*listed, *random, 0.99, 0.01)])
    y = torch.tensor([0] * 4 + [2] * 4 + [1, 1])  # two membrane boxes, which are left out
    found = real.lamella_scores(p, HeldOutLabels(y, real.LAMELLA_CLASSES), of)
    assert found["auc"].mean == pytest.approx(13 / 16)
    assert found["recall_5"].mean == 0.5, "above 0.72"
    assert (found["called"].mean, found["called_random"].mean) == (0.75, 0.25)
    # bins of the two-class confidence, 0.1 wide: (count, confidence, accuracy)
    bins = [(1, 0.92, 1.0), (3, 0.86, 1.0), (2, 0.75, 0.0), (2, 0.65, 1.0)]
    assert found["ece"].mean == pytest.approx(sum(n * abs(c - a) for n, c, a in bins) / 8, abs=1e-6)
    assert all(0 <= f.low <= f.mean <= f.high <= 1 for f in found.values())


def test_blocks_are_a_grid_in_y_and_x():
    zyx = np.array([[0, 0, 0], [83, 63.9, 127.9], [5, 64, 0], [5, 0, 128], [5, 255.5, 255.5]])
    assert real.blocks(zyx, (84, 256, 256)).tolist() == [0, 0, 2, 1, 7]


@pytest.fixture(scope="module")
def mixes():
    data = {mix: real.lamella(mix) for mix in real.MIXES}
    return {mix: (found, real.lamella_labels(mix, found)) for mix, found in data.items()}


def test_mixes_hold_what_they_say_and_are_reproducible(mixes):
    alone = {"180+20": [180, 0, 20], "ribosomes": [248, 0, 0]}
    counts = {mix: torch.bincount(labels.y, minlength=3).tolist() for mix, (_, labels) in mixes.items()}
    assert counts == {"all": [260, 267, 370], "54+200": [54, 0, 200], "20+40": [20, 0, 40]} | alone
    for data, labels in mixes.values():
        assert data.contrast == "dark" and data.subtomograms.x.shape[1:] == (1, 24, 24, 24)
        assert data.subtomograms.voxel_size == pytest.approx(31.36) and len(labels) == len(data.subtomograms)
        assert len(np.unique(real.blocks(data.particles.zyx[data.kept], data.tomogram.data.shape))) == 8
    data, labels = mixes[SMALL]
    again = real.lamella(SMALL)
    assert torch.equal(again.subtomograms.x, data.subtomograms.x)
    first = data.particles.zyx[:3].round(3).tolist()
    expected = [[21.0, 136.0, 234.0], [43.355, 185.589, 164.894], [18.0, 135.0, 225.0]]
    assert first == expected, "the draw of the rows is part of the module"
    with pytest.raises(InputError, match="54"):
        real.lamella("half")


def test_subtomograms_of_a_mix_tell_nothing_of_their_labels(mixes):
    for data, labels in mixes.values():
        assert isinstance(data.subtomograms, Unlabelled) and not data.subtomograms.groups.any()
        assert set(data.particles.table) == {"rlnCoordinateX", "rlnCoordinateY", "rlnCoordinateZ"}
        order, y = np.arange(len(labels)), labels.y.numpy()
        for kind in np.unique(y):
            assert stats.kstest(order[y == kind] / len(y), "uniform").pvalue > 1e-3, "shuffled"
    data, labels = mixes["all"]
    centre = data.subtomograms.x[:, 0, 9:15, 9:15, 9:15].mean((1, 2, 3))
    assert centre[labels.y == real.LISTED].mean() > centre[labels.y == real.RANDOM].mean() + 0.5, "labels fit the boxes"


def test_every_particle_is_held_out_once():
    assert sorted(number for fold in FOLDS for number in fold) == list(range(1, 10)) and {*map(len, FOLDS)} == {3}
    held_out = []
    for fold in range(len(FOLDS)):
        _, test = real.particles(str(fold + 1), 500)
        lattice = test.labels.y == real.VLP_CLASSES.index("membrane")
        assert set(test.held_out.groups[lattice].tolist()) == set(FOLDS[fold])
        assert not set(test.target.groups.tolist()) & set(FOLDS[fold]) and len(test.target) > 500
        assert int((~lattice).sum()) >= 40
        perfect = torch.eye(2)[test.labels.y]
        scores = real.particle_scores(perfect, test)
        assert {s["balanced_accuracy"] for s in scores.values()} == {1.0} and {s["auc"] for s in scores.values()} == {
            1.0
        }
        flat = real.particle_scores(torch.tensor([[0.9, 0.1]]).repeat(len(test.labels), 1), test)
        assert {s["balanced_accuracy"] for s in flat.values()} == {0.5}
        held_out += scores
    assert sorted(held_out) == list(range(1, 10))


def test_unlisted_blobs_are_dense_and_away_from_the_list():
    rng = np.random.default_rng(0)
    volume = rng.normal(size=(40, 60, 60)).astype(np.float32)
    ball = np.linalg.norm(np.indices((11,) * 3) - 5, axis=0) <= 5
    at = {"listed": [(20, 15, 15), (20, 15, 45)], "unlisted": [(20, 45, 15)], "next to one": [(20, 15, 23)]}
    for centre in sum(at.values(), []):
        part = tuple(slice(c - 5, c + 6) for c in centre)
        volume[part] -= (8 if centre in at["listed"] else 12) * ball
    found = real.unlisted_blobs(volume, np.array(at["listed"], float))
    assert len(found) == 1 and np.linalg.norm(found[0] - at["unlisted"][0]) <= 2
    blobs = real.lamella_blobs()
    assert 100 < len(blobs.zyx) < 250 and 0 < blobs.random_hit < 40, "168 when this was written"


def test_the_jobs_of_the_tier():
    every = [job for group in jobs.real_groups() for job in group]
    assert len(every) == len({job.key for job in every}) == 8 * 4 * 5
    assert {job.method for job in every} == {"source_only", "cryoshift_reference", "cryoshift_warps", "cryoshift"}
    assert len({job.seed for job in every}) == 5
    parts = [job for part in range(2) for group in jobs.real_groups(part=part, parts=2) for job in group]
    assert sorted(job.key for job in parts) == sorted(job.key for job in every)


@pytest.fixture
def few_steps(monkeypatch):
    small = replace(PROFILES["smoke"], steps=3, n_source=24, n_validation=12, encoder="strided")
    monkeypatch.setitem(PROFILES, "smoke", small)


@pytest.fixture
def white_noise(monkeypatch):
    """Noise in place of the lamella's grey values: these tests look at no score of the real data."""
    original = real.lamella

    def stand_in(mix):
        data = original(mix)
        x = torch.randn(data.subtomograms.x.shape, generator=torch.Generator().manual_seed(0))
        return replace(data, subtomograms=replace(data.subtomograms, x=x))

    monkeypatch.setattr(real, "lamella", stand_in)


def test_labels_are_opened_by_one_function_and_not_before_training_is_over(
    few_steps, white_noise, tmp_path, monkeypatch
):
    def refuse(*_):
        raise AssertionError("labels opened")

    monkeypatch.setattr(real, "lamella_labels", refuse)
    job, context = RealJob("smoke", real.LAMELLA, SMALL, "cryoshift", 21), runner.Context(tmp_path)
    data = real.lamella(SMALL)
    trained = runner.train_real(job, data.subtomograms, real.LAMELLA_CLASSES, context, data)
    assert trained.models.keys() == {"as trained", "as chosen"}
    with pytest.raises(AssertionError, match="labels opened"):
        runner.run_real(job, context)
    callers = [path.name for path in (ROOT / "cryoshift_core").rglob("*.py") if "lamella_labels(" in path.read_text()]
    assert sorted(callers) == ["real.py", "runner.py"]
    text = inspect.getsource(runner)
    assert text.count("lamella_labels(") == 1 and "lamella_labels(" in inspect.getsource(runner._lamella_row)


def test_a_run_of_few_steps_writes_rows_that_are_not_run_again(few_steps, white_noise, tmp_path, monkeypatch, capsys):
    todo = [[RealJob("smoke", real.LAMELLA, SMALL, m, 21) for m in ("source_only", "cryoshift")]]
    todo += [[RealJob("smoke", real.VLP, "1", "no_such_method", 21)]]
    context = runner.Context(tmp_path / "work")
    failed = runner.run_all_real(todo, tmp_path, context)
    assert [job.method for job in failed] == ["no_such_method"]
    rows = runner.read(tmp_path / "real.csv")
    assert [(r["method"], r["model"]) for r in rows] == [
        (method, model) for method in ("source_only", "cryoshift") for model in ("as trained", "as chosen")
    ]
    for r in rows:
        assert 0 <= float(r["auc_low"]) <= float(r["auc"]) <= float(r["auc_high"]) <= 1
        assert (r["n_listed"], r["n_random"]) == ("20", "40") and r["commit"] and float(r["cpu_seconds"]) > 0
        assert r["used"] == r["method"] or r["model"] == "as chosen"
    calls = []
    monkeypatch.setattr(pipeline, "fit_methods", lambda *a, **k: calls.append(a))
    assert runner.run_all_real(todo[:1], tmp_path, context) == [] and not calls
    assert "0 jobs to run" in capsys.readouterr().out


def test_particles_of_a_fold_have_a_row_each(few_steps, tmp_path, monkeypatch):
    original = real.particles

    def stand_in(fold, n_ice):
        data, test = original(fold, n_ice)
        g = torch.Generator().manual_seed(0)
        noise = {
            name: replace(getattr(test, name), x=torch.randn(getattr(test, name).x.shape, generator=g))
            for name in ("target", "held_out")
        }
        return data, replace(test, **noise)

    monkeypatch.setattr(real, "particles", stand_in)
    rows = runner.run_real(RealJob("smoke", real.VLP, "1", "source_only", 21), runner.Context(tmp_path))
    assert [(r["model"], r["particle"]) for r in rows] == [(m, n) for m in statistics.MODELS for n in (1, 3, 7)]


def lamella_row(mix, method, model, seed, auc, used=""):
    key = {"profile": "laptop", "target": real.LAMELLA, "subset": mix, "method": method, "seed": seed}
    row = {**key, "model": model, "used": used or method, "particle": "", "cpu_seconds": 30.0}
    for name, value in {"auc": auc, "recall_5": auc - 0.05, "called": 0.9, "called_random": 0.1, "ece": 0.05}.items():
        row |= {name: value, f"{name}_low": value - 0.02, f"{name}_high": min(1.0, value + 0.02)}
    return row


def particle_row(fold, method, model, seed, particle, score):
    key = {"profile": "laptop", "target": real.VLP, "subset": str(fold), "method": method, "seed": seed}
    return {**key, "model": model, "used": method, "particle": particle, "balanced_accuracy": score}


def written(folder, rows):
    by_job = {}
    for row in rows:
        by_job.setdefault(tuple(str(row[name]) for name in REAL_KEYS), []).append(row)
    for some in by_job.values():
        runner.add(folder / "real.csv", some, REAL_KEYS)
    return runner.read(folder / "real.csv")


def all_rows(chosen=0.99):
    rows = []
    for seed in jobs.REAL_SEEDS:
        for mix in real.MIXES:
            rows += [lamella_row(mix, "cryoshift", "as trained", seed, 0.98)]
            rows += [lamella_row(mix, "cryoshift", "as chosen", seed, chosen, "source_only" if chosen < 0.98 else "")]
        for i, fold in enumerate(FOLDS):
            for model in statistics.MODELS:
                rows += [particle_row(i + 1, "cryoshift", model, seed, n, 0.9 + 0.01 * n) for n in fold]
    return rows


def test_statistics_and_goals_by_hand(tmp_path):
    rows = written(tmp_path, all_rows())
    (first, *_) = [s for s in statistics.lamella_scores(rows) if s.model == "as chosen"]
    assert (first.mix, first.seeds, first.replaced, first.worse) == ("all", 5, 0, 0)
    assert statistics.over_seeds(first.auc) == pytest.approx((0.99, 0.97, 1.0))
    (by_particle,) = [s for s in statistics.particle_scores(rows) if s.model == "as chosen"]
    expected = interval([0.9 + 0.01 * n for n in range(1, 10)])
    assert by_particle.mean == pytest.approx((expected.mean, expected.low, expected.high)) and by_particle.seeds == 5
    assert [v.outcome for v in goals.real_verdicts(rows)] == ["reached"] * 5
    worse = goals.real_verdicts(written(tmp_path / "worse", all_rows(chosen=0.7)))
    assert [v.outcome for v in worse] == ["not reached"] * 4 + ["reached"]
    assert worse[3].result == "25 of 25 replaced networks had a higher AUC"
    assert [v.outcome for v in goals.real_verdicts([])] == ["not measured"] * 5


def test_the_report_has_a_section_of_experimental_data(tmp_path):
    assert tables.real_section([], {}, "") == ""
    written(tmp_path, all_rows())
    page = tables.report(tmp_path, tmp_path / "docs" / "evidence.md", tmp_path / "images").read_text()
    assert (
        "## Experimental data" in page and "| all | cryoshift | as chosen | 5 | 0.990 [0.970, 1.000] | 0.990 |" in page
    )
    assert "| cryoshift | as chosen | 5 | 0.950 [" in page
    assert "168 blobs" in page
    drawn = {image.stem for image in (tmp_path / "images").glob("*.png")}
    assert drawn == {"evidence_real_lamella", "evidence_real_particles", "evidence_real_positions"}
    assert "](../images/evidence_real_lamella.png)" in page and "](../real.csv)" in page


def test_the_command_lists_the_jobs_of_the_tier(capsys):
    assert main(["--tier", "real", "--part", "0/2", "--list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 20 * 4 and lines[0] == "laptop yeast_171 all source_only 21"
