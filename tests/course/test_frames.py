"""Frames show the value that a slider starts with, on paper and on a page; reliability leaves out sparse bins."""

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
import pytest
from matplotlib.colors import to_hex

from cryoshift_core.course import explore, figures
from cryoshift_core.metrics import Interval, Reliability


@pytest.mark.parametrize("start", [1, 2, 3, 4, 5])
def test_the_start_value_is_among_the_frames_and_framed(start):
    drawn = []

    def draw(axes, a, b):
        drawn.append((a, b))

    sliders = {"a": ("first", [1, 2, 3, 4, 5]), "b": ("second", [0.1, 0.2])}
    fig = explore.explore(draw, sliders, start={"a": start, "b": 0.2})
    assert len(drawn) == 4 + 2 and len(set(drawn)) == 5, "both rows show the start of both sliders"
    assert (start, 0.2) in drawn[:4] and drawn[4:] == [(start, 0.1), (start, 0.2)]
    assert [a for a, _ in drawn[:4]] == sorted({a for a, _ in drawn[:4]})
    framed = [cell for row in fig.subfigs for cell in row.subfigs if to_hex(cell.patch.get_edgecolor()) == "#d55e00"]
    assert [float(cell.get_suptitle()) for cell in framed] == [start, 0.2]
    plt.close(fig)


def test_the_frames_of_a_page_hold_the_start_and_mix_where_they_are_few():
    drawn, before = [], plt.get_fignums()

    def draw(axes, **values):
        drawn.append(tuple(values.values()))

    few = {"a": ("first", [1, 2, 3]), "b": ("second", [0.1, 0.2])}
    html = explore.page(draw, few, {"a": 3, "b": 0.1}, size=0.5)
    assert sorted(drawn) == [(a, b) for a in (1, 2, 3) for b in (0.1, 0.2)] and "takes the others back" not in html
    assert 'value="2"' in html and 'alt="first: 3; second: 0.1"' in html and html.count("data:image/webp") == 6 + 1

    drawn.clear()
    many = {name: (f"<{name}>", list(range(20))) for name in "abc"}
    html = explore.page(draw, many, {"a": 7, "b": 0, "c": 19}, size=0.5)
    assert len(drawn) == len(set(drawn)) == 1 + 3 * (explore.MOST_VALUES - 1) and drawn[0] == (7, 0, 19)
    assert {sum(now != start for now, start in zip(one, (7, 0, 19), strict=True)) for one in drawn} == {0, 1}
    assert "takes the others back" in html and "&lt;a&gt;" in html and "<a>" not in html
    assert plt.get_fignums() == before, "every frame is closed"


def test_sliders_that_must_mix_have_fewer_values_on_a_page_and_keep_their_start():
    drawn = []

    def draw(axes, **values):
        drawn.append(tuple(values.values()))

    many = {name: (name, list(range(9))) for name in "abc"}
    html = explore.page(draw, many, {"a": 8, "b": 0, "c": 5}, size=0.5, mixed=True)
    a, b, c = (sorted(set(values)) for values in zip(*drawn, strict=True))
    assert sorted(drawn) == [(i, j, k) for i in a for j in b for k in c] and len(drawn) <= explore.MOST_MIXED
    assert 8 in a and 0 in b and 5 in c and min(map(len, (a, b, c))) >= 3 and "takes the others back" not in html


def test_panels_may_differ_in_their_projection():
    seen = []

    def draw(axes, a):
        seen.append([ax.name for ax in axes])

    plt.close(explore.explore(draw, {"a": ("a", [1, 2])}, panels=2, projection=("3d", None)))
    assert seen == [["3d", "rectilinear"]] * 2


def test_a_page_keeps_to_its_limit(monkeypatch):
    noise = np.random.default_rng(0).normal(size=(200, 200))

    def draw(axes, a):
        axes[0].imshow(noise + a)

    whole = explore.page(draw, {"a": ("a", [0, 1, 2])}, {"a": 0})
    monkeypatch.setattr(explore, "LIMIT", len(whole) * 2 // 3)
    assert len(explore.page(draw, {"a": ("a", [0, 1, 2])}, {"a": 0})) <= explore.LIMIT
    monkeypatch.setattr(explore, "LIMIT", 1000)
    with pytest.raises(ValueError, match="3 frames has .* characters; expected at most 1000"):
        explore.page(draw, {"a": ("a", [0, 1, 2])}, {"a": 0})


def test_bins_of_few_subtomograms_are_not_drawn():
    count, middle = np.array([9, 10, 200]), np.array([0.2, 0.5, 0.9])
    table = Reliability(np.linspace(0, 1, 4), count, middle, np.array([1.0, 0.4, 0.8]))
    fig = figures.reliability({"cryoshift, as trained": table, "cryoshift, calibrated": table})
    trained, calibrated = fig.axes[0].lines[1:]
    assert list(trained.get_xdata()) == [0.5, 0.9]
    assert trained.get_color() == calibrated.get_color() and trained.get_linestyle() != calibrated.get_linestyle()
    plt.close(fig)


def test_a_value_of_a_slider_has_four_digits_at_most():
    assert [explore._text(value) for value in (0.604815, 31.36, 12800, 0.0, "ice")] == [
        "0.6048", "31.36", "12800", "0", "ice",
    ]  # fmt: skip


def test_the_dots_of_the_scores_lie_beside_the_interval_that_would_hide_them():
    values = {"source_only": [0.4], "cryoshift": [0.8, 0.84, 0.86]}
    intervals = {"source_only": Interval(0.4, np.nan, np.nan), "cryoshift": Interval(0.833, 0.76, 0.91)}
    fig = figures.scores(values, intervals, "balanced accuracy")
    dots = [line for line in fig.axes[0].lines if line.get_marker() == "o"]
    assert [set(line.get_ydata()) for line in dots] == [{0.0}, {1.22}]
    assert len(fig.axes[0].containers) == 1, "one run has no interval"
    plt.close(fig)
