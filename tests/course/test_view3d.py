"""Views in space turn with a slider where k3d or a user is missing; the scenes of k3d hold what is shown."""

import warnings

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
import pytest

from cryoshift_core.course import view3d
from cryoshift_core.simulation import structures


@pytest.fixture
def maps():
    return {name: structures.template(name, 16.0, 24) for name in ("TRiC", "apoferritin", "ice")}


@pytest.fixture
def k3d():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return pytest.importorskip("k3d", reason="k3d is not installed (extra view3d)")


ZYX = np.array([[10.0, 20, 30], [5, 6, 7], [20, 20, 20]])
PICKS = (ZYX, np.array([0, 1, 1]), ["a", "b$"], (30, 40, 50), 10.0)


def test_without_a_user_molecules_are_a_figure_with_a_row_per_slider(maps):
    fig = view3d.molecules(maps, 16.0)
    molecule, turned = (sub.get_suptitle() for sub in fig.subfigs)
    assert (molecule, turned) == ("molecule", "turned by (degrees)")
    assert [cell.get_suptitle() for cell in fig.subfigs[0].subfigs[:2]] == ["TRiC", "apoferritin"], "ice has no surface"
    plt.close(fig)


def test_without_a_user_picks_are_a_figure(maps):
    fig = view3d.picks(*PICKS)
    ax = fig.subfigs[0].subfigs[0].axes[0]
    fig.canvas.draw()
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["a", "b$"]
    assert (ax.get_xlim(), ax.get_ylim(), ax.get_zlim()) == ((0, 50), (0, 40), (0, 30)), "nm, as large as the tomogram"
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("x (nm)", "y (nm)")
    assert [tick.get_text() for tick in ax.get_zticklabels()] == ["z = 0", "30 nm"], "z has a unit, too"
    plt.close(fig)


def test_the_scene_of_molecules_has_their_size_and_lies_side_by_side(maps, k3d):
    maps.pop("ice")
    scene = view3d.molecule_scene(maps, 16.0)
    tric, apoferritin = (o for o in scene.objects if o.type == "Mesh")
    extent = np.ptp(tric.vertices, axis=0)
    assert (120 < extent).all() and (extent < 220).all(), "TRiC is 176 A wide"
    assert apoferritin.vertices[:, 0].min() > tric.vertices[:, 0].max()


def test_the_scene_of_picks_is_in_angstrom_and_in_the_order_x_y_z(k3d):
    one, two = view3d.pick_scene(*PICKS, 250.0).objects
    assert one.positions.tolist() == [[300, 200, 100]] and two.positions.tolist() == [[70, 60, 50], [200, 200, 200]]
    assert one.color != two.color and one.name == "a"


def test_planes_of_tilt_images_contain_the_tilt_axis_and_leave_the_wedge():
    for tilt in (0.0, 30.0, -60.0):
        rim = view3d.tilt_disc(tilt)
        assert np.allclose(np.linalg.norm(rim, axis=1), 1) and np.abs(rim[:, 1]).max() == pytest.approx(1)
        normal = np.array([-np.sin(np.deg2rad(tilt)), 0, np.cos(np.deg2rad(tilt))])
        assert np.allclose(rim @ normal, 0, atol=1e-9), "kz / kx is the tangent of the tilt"
    fig = plt.figure()
    ax = fig.add_subplot(projection="3d")
    view3d.tilt_planes(ax, [0.0, 30.0, -30.0], 20)
    assert len(ax.collections) == 3 and ax.azim == -70
    assert [collection.get_linewidth()[0] > 1 for collection in ax.collections] == [False, False, True]
    plt.close(fig)
