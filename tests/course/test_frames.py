"""Static frames show the value that a slider starts with; reliability leaves out what few subtomograms say."""

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
import pytest
from matplotlib.colors import to_hex

from cryoshift_core.course import explore, figures
from cryoshift_core.metrics import Reliability


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


def test_bins_of_few_subtomograms_are_not_drawn():
    count, middle = np.array([9, 10, 200]), np.array([0.2, 0.5, 0.9])
    table = Reliability(np.linspace(0, 1, 4), count, middle, np.array([1.0, 0.4, 0.8]))
    fig = figures.reliability({"cryoshift, as trained": table, "cryoshift, calibrated": table})
    trained, calibrated = fig.axes[0].lines[1:]
    assert list(trained.get_xdata()) == [0.5, 0.9]
    assert trained.get_color() == calibrated.get_color() and trained.get_linestyle() != calibrated.get_linestyle()
    plt.close(fig)
