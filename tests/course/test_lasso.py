"""A lasso chooses points; what is chosen can be seen and written."""

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch

import cryoshift_core as cs
from cryoshift_core.course import lasso
from cryoshift_core.errors import InputError


@pytest.fixture
def selection():
    """Two domains of six; their features lie on two lines, so the two principal axes are those of the lines."""
    g = torch.Generator().manual_seed(0)
    along = torch.arange(6, dtype=torch.float32)
    features = {
        "source": torch.stack([along * 10, torch.zeros(6), torch.zeros(6)], 1),
        "target": torch.stack([along * 10, torch.ones(6) * 3, torch.zeros(6)], 1),
    }
    x = {name: torch.randn(8, 1, 6, 6, 6, generator=g) for name in features}
    return lasso.Selection.of(features, x, 12.0), x


def test_a_polygon_chooses_what_it_contains(selection):
    chosen, x = selection
    assert chosen.points.shape == (12, 2) and len(chosen) == 0 and chosen.boxes() is None
    (a, b), (c, d) = chosen.points[2] - 1, chosen.points[3] + 1
    chosen.choose([(min(a, c) - 1, b), (max(a, c) + 1, b), (max(a, c) + 1, d), (min(a, c) - 1, d)])
    assert list(np.flatnonzero(chosen.inside)) == [2, 3]
    assert chosen.summary == "2 of 12 subtomograms chosen: 2 source, 0 target"
    assert torch.equal(chosen.x[8], x["target"][2])
    with pytest.raises(InputError, match="at least three corners"):
        chosen.choose([(0, 0), (1, 1)])


def test_a_circle_holds_as_many_as_asked_for(selection):
    chosen, _ = selection
    assert len(chosen.choose(chosen.around(7, 4))) in (3, 4) and chosen.inside[7]


def test_the_chosen_ones_can_be_read_again(selection, tmp_path):
    chosen, x = selection
    with pytest.raises(InputError, match="Draw the lasso"):
        chosen.write(tmp_path / "none.star")
    chosen.inside[[1, 10]] = True
    back = cs.read_subtomograms(chosen.write(tmp_path / "chosen.star"), contrast="bright")
    assert len(back) == 2 and back.voxel_size == 12.0
    for i, original in enumerate((x["source"][1], x["target"][4])):
        alike = torch.corrcoef(torch.stack([back.x[i].flatten(), original.flatten()]))[0, 1]
        assert abs(alike) > 0.999


def test_without_a_pointer_there_are_two_figures(selection):
    chosen, _ = selection
    assert not lasso.has_pointer()
    plot, boxes = lasso.show(chosen.choose(chosen.around(7, 4)))
    assert plot.number < boxes.number, "a notebook shows the plot first, and the boxes below it"
    assert plot.axes[0].get_title() == chosen.summary
    assert boxes.axes[-1].get_title() == f"mean of {len(chosen)}"
    plt.close("all")
