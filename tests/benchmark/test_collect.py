"""From tables and manifests to one report: what failed, paired differences with Holm, gap closed, harm, curves."""

import csv
import json
import math
import shutil

import matplotlib.pyplot as plt
import pytest
from helpers.files import ROOT

from cryoshift_core.application.pictures import COLOURS
from cryoshift_core.benchmark import collect, comparison, statistics
from cryoshift_core.benchmark.runner import read
from cryoshift_core.course import runner as notebooks
from cryoshift_core.errors import InputError

EVIDENCE = ROOT / "notebooks" / "evidence" / "evidence.csv"


def write(path, rows):
    with path.open("w", newline="") as f:
        writer = csv.DictWriter(f, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path


@pytest.fixture
def table(tmp_path):
    """A comparison of four seeds: mada is better by 0.1 at weight 1 and by 0.2 at weight 3; one run has failed."""
    rows = []
    for method, weight, gain in (("source_only", "", 0), ("mada", 1, 0.1), ("mada", 3, 0.2), ("oracle", "", 0.4)):
        for seed in range(4):
            for model in ("as trained", "as chosen"):
                score = 0.4 + 0.03 * seed + gain + 0.002 * (seed % 2) * (gain > 0)
                row = {"run": f"{method}{weight}/{seed}", "method": method, "target": "in_situ_2", "seed": seed}
                row |= {"p:weights.mada": weight, "p:steps": 5, "model": model, "status": "finished", "error": ""}
                row |= {"balanced_accuracy": score, "cpu_seconds": 10 + 5 * gain, "code": "12", "commit": "e1"}
                rows.append(row | {"recall:TRiC": 0.5 - gain, "recall:ice": 0.5 + gain})
    rows.append({**rows[0], "run": "x", "method": "dann", "status": "failed", "error": "no memory", "code": ""})
    rows[-1] |= dict.fromkeys(("balanced_accuracy", "cpu_seconds", "recall:TRiC", "recall:ice"), "")
    return write(tmp_path / "compare.csv", rows)


def test_a_table_of_compare(table):
    found = collect.collect(table.parent)
    assert found == collect.collect(table) and len(found) == 33
    assert {one.label for one in found} == {
        "source_only",
        "mada, weights.mada=1",
        "mada, weights.mada=3",
        "oracle",
        "dann",
    }
    assert "code" not in found[0].values and found[0].values["balanced_accuracy"] == 0.4
    assert comparison.status_table(found) == [["finished", "16", ""], ["failed", "1", "1 x no memory"]]
    planned = [f"{name}/0" for name in ("source_only", "lost")]
    assert comparison.status_table(found, planned)[-1] == ["not started", "1", "lost/0"]


def test_differences_are_paired_by_seed_and_adjusted(table):
    lines = {line.label: line for line in comparison.lines(collect.collect(table), "balanced_accuracy")}
    best, low = lines["mada, weights.mada=3"], lines["source_only"]
    assert best.over.seeds == 4 and best.over.interval.mean == pytest.approx(0.201)
    assert best.over.interval.high - best.over.interval.low < 0.01 < best.score.high - best.score.low
    pairs = {w: (lines[f"mada, weights.mada={w}"].seeds, low.seeds) for w in (1, 3)}
    expected = statistics.holm({w: statistics.p_value(*statistics.paired(*pair)) for w, pair in pairs.items()})
    assert best.over.p == expected[3] and lines["mada, weights.mada=1"].over.p == expected[1]
    assert low.over is None and math.isnan(lines["oracle"].over.p), "the oracle is no method under test"
    assert best.closed.mean == pytest.approx(0.5, abs=0.01) and lines["oracle"].closed is None
    assert comparison.cells(best)[5] == "< 0.001"


def test_harm_and_curves(table):
    found = collect.collect(table)
    first = comparison.harm(found)[0]
    assert (first.label, first.name) == ("mada, weights.mada=3", "TRiC")
    assert first.over.interval.mean == pytest.approx(-0.2)
    curve = comparison.curves(found, "balanced_accuracy")
    assert list(curve) == ["weights.mada"] and list(curve["weights.mada"]["mada, in_situ_2"]) == [1.0, 3.0]
    assert comparison.draw_curves(curve, "balanced_accuracy").axes[0].get_xlabel() == "weights.mada"


def test_a_swept_method_keeps_its_colour_and_none_has_that_of_a_domain():
    lines = {f"{name}, {where}": {1.0: [0.5], 2.0: [0.6]} for name in ("cryoshift", "mada", "dann") for where in "abc"}
    fig = comparison.draw_curves({"n_target": lines}, "balanced_accuracy")
    drawn = {line.get_label(): line for line in fig.axes[0].lines if line.get_label() in lines}
    colours = {label: line.get_color() for label, line in drawn.items()}
    assert {colour for label, colour in colours.items() if label.startswith("cryoshift")} == {COLOURS["cryoshift"]}
    assert not {COLOURS["source"], COLOURS["target"]} & set(colours.values())
    assert len({(line.get_color(), line.get_marker()) for line in drawn.values()}) == len(lines)
    plt.close(fig)


def test_what_the_most_expensive_and_the_best_configuration_cost(table):
    lines = comparison.lines(collect.collect(table), "balanced_accuracy")
    (said,) = comparison.cost_lines(lines)
    dear, best = (max((x for x in lines if x.method == "mada"), key=key) for key in (
        lambda line: line.cpu_seconds, lambda line: line.score.mean))  # fmt: skip
    words = f"{best.label} ({best.cpu_seconds:.0f} CPU s, {best.score.mean:.3f})"
    assert said.startswith("in_situ_2: the most expensive") and words in said and "oracle" not in said
    assert ("is the best, too" in said) == (dear is best)


def test_no_two_configurations_of_the_shipped_evidence_look_alike():
    lines = comparison.lines(collect.collect(EVIDENCE), "balanced_accuracy")
    fig = comparison.draw_cost(lines, "balanced_accuracy")
    (legend,) = fig.legends
    looks = [(mark.get_marker(), mark.get_markerfacecolor()) for mark in legend.get_lines()]
    assert len(set(looks)) == len(looks) > 30
    plt.close(fig)


def test_the_scores_are_as_wide_as_a_page_and_not_endless():
    lines = comparison.lines(collect.collect(EVIDENCE), "balanced_accuracy")
    for some in (lines, [line for line in lines if line.label == line.method]):
        shown = comparison.drawn(some)
        fig = comparison.draw_scores(some, "balanced_accuracy")
        assert [ax.get_title() for ax in fig.axes if ax.get_title()] == shown == comparison.targets(some)[: len(shown)]
        assert fig.get_size_inches()[0] <= comparison.WIDEST and len(shown) <= comparison.PANELS
        columns = comparison._columns(some)[0]
        drawn = sum(line.target in shown for line in some)
        assert len(shown) == 1 or drawn <= comparison.ROWS * columns
        plt.close(fig)


def test_intervals_on_a_page_stay_on_one_line_and_errors_do_not():
    page = comparison.html_table(("a", "b"), [["+0.391 [+0.355, +0.427]", "x" * 120]])
    assert '<td class="line">+0.391' in page and "<td>xxx" in page


def test_the_evidence_gives_the_numbers_of_its_own_statistics():
    found, rows = collect.collect(EVIDENCE), read(EVIDENCE)
    lines = {(x.target, x.method): x for x in comparison.lines(found, "balanced_accuracy") if "=" not in x.label}
    for g in statistics.gap_table(statistics.unchanged([row for row in rows if row["profile"] == "laptop"])):
        line = lines[g.scenario, g.method]
        assert line.score.mean == pytest.approx(g.score.mean)
        if g.closed is not None:
            assert line.closed == pytest.approx(g.closed)
    changes = {(c.target, c.label, c.name): c for c in comparison.harm(found)}
    for h in statistics.harm(read(EVIDENCE.with_name("per_class.csv"))):
        assert changes[h.scenario, "cryoshift", h.name].over.interval.mean == pytest.approx(h.difference.mean)


def test_manifests_of_a_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    source = ROOT / "notebooks" / "07_compare_runs.ipynb"
    for name, given in (("a", {"score": "ece"}), ("b", {"score": "nll"}), ("c", {"score": "none"})):
        notebooks.execute(source, tmp_path / "runs" / name, {"results": str(EVIDENCE), **given})
    shutil.copytree(tmp_path / "runs" / "a", tmp_path / "runs" / "a.2026-01-01T00-00-00")
    found = collect.collect(tmp_path / "runs")
    assert sorted((one.run.split(".")[0], one.status) for one in found if one.method == "07_compare_runs") == [
        ("a", "finished"), ("b", "finished"), ("c", "failed")
    ]  # fmt: skip
    failed = next(one for one in found if one.status == "failed")
    assert "Expected a score out of balanced_accuracy" in failed.error and failed.swept["score"] == "none"
    assert next(one for one in found if one.run == "b").values["tested"] >= 9
    page = (tmp_path / "runs" / "b" / "report.html").read_text()
    assert page.count("<img") == 3 and 'src="http' not in page and "Seed by seed" in page
    path = tmp_path / "runs" / "b" / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"schema": 0}))
    with pytest.raises(InputError, match="expected a manifest of schema 1"):
        collect.collect(tmp_path / "runs")


@pytest.mark.parametrize("text", ["", "a,b\n1,2\n"])
def test_other_files_are_refused(tmp_path, text):
    (tmp_path / "x.csv").write_text(text)
    with pytest.raises(InputError, match="expected rows of a table"):
        collect.collect(tmp_path / "x.csv")
    with pytest.raises(InputError, match="got neither"):
        collect.collect(tmp_path)


def test_an_unknown_score_is_refused(table):
    found = collect.collect(table)
    assert comparison.check_score(found, "") == "balanced_accuracy"
    with pytest.raises(InputError, match="did you mean 'balanced_accuracy'"):
        comparison.check_score(found, "balanced_acuracy")
