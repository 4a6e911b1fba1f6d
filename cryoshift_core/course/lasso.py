"""A lasso in a plot of features: the subtomograms behind the chosen points, and a STAR file of them.

In JupyterLab, with ipympl, the pointer draws the lasso. Elsewhere, such as under papermill, a polygon that is given in
the notebook takes its place, and the same drawing becomes a figure.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from itertools import cycle
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.path import Path as Polygon
from torch import Tensor

from ..application import pictures
from ..errors import InputError
from ..tomography.mrc import write_mrc
from ..tomography.star import write_star
from .explore import is_live
from .figures import MARKERS, two_directions

SHOWN = 8  # subtomograms behind the points


@dataclass(eq=False)
class Selection:
    """Subtomograms of several domains as points in a plane, and those of them that a polygon contains.

    Attributes
    ----------
    points : (N, 2)
    domain : (N,) names
    x : (N, 1, n, n, n)
    voxel_size : A
    inside : (N,) bool
    polygon : (V, 2), the last lasso
    """

    points: np.ndarray
    domain: np.ndarray
    x: Tensor
    voxel_size: float
    inside: np.ndarray
    polygon: np.ndarray = field(default_factory=lambda: np.empty((0, 2)))
    _live: Any = field(default=None, repr=False)  # the lasso of matplotlib; it works only while something refers to it

    @classmethod
    def of(cls, features: Mapping[str, Tensor], x: Mapping[str, Tensor], voxel_size: float) -> Selection:
        """Nothing chosen yet. `features`: domain -> (N, F), of the subtomograms `x`: domain -> (N, 1, n, n, n)."""
        points = np.concatenate(list(two_directions(features).values()))
        domain = np.concatenate([[name] * len(f) for name, f in features.items()])
        boxes = torch.cat([x[name][: len(f)] for name, f in features.items()])
        return cls(points, domain, boxes, voxel_size, np.zeros(len(points), bool))

    def __len__(self) -> int:
        return int(self.inside.sum())

    def choose(self, polygon: Sequence[Sequence[float]] | np.ndarray) -> Selection:
        """This selection, whose points are now those inside a polygon (V, 2) of at least three corners."""
        corners = np.asarray(polygon, float)
        if corners.ndim != 2 or corners.shape[1] != 2 or len(corners) < 3:
            raise InputError(f"polygon: expected at least three corners (x, y), got an array of shape {corners.shape}.")
        self.polygon, self.inside = corners, Polygon(corners).contains_points(self.points)
        return self

    def around(self, row: int, several: int) -> np.ndarray:
        """(40, 2) circle about a point that contains it and its nearest neighbours, `several` points in all."""
        distance = np.hypot(*(self.points - self.points[row]).T)
        angle = np.linspace(0, 2 * np.pi, 40)
        radius = 1.02 * np.partition(distance, several - 1)[several - 1]
        return self.points[row] + radius * np.stack([np.cos(angle), np.sin(angle)], 1)

    @property
    def summary(self) -> str:
        """One line: how many are chosen, and of which domain."""
        counts = [f"{int(self.inside[self.domain == name].sum())} {name}" for name in dict.fromkeys(self.domain)]
        return f"{len(self)} of {len(self.inside)} subtomograms chosen: {', '.join(counts)}"

    def draw(self, ax: Axes) -> None:
        """Draw the points of each domain in its colour."""
        for name, marker in zip(dict.fromkeys(self.domain), cycle(MARKERS), strict=False):
            x, y = self.points[self.domain == name].T
            colour = pictures.COLOURS.get(str(name))
            ax.scatter(x, y, s=10, marker=marker, alpha=0.6, label=name, color=colour, linewidths=0)
        ax.set(xlabel="1st principal axis", ylabel="2nd", xticks=[], yticks=[])
        ax.legend(markerscale=2, fontsize=8)

    def boxes(self) -> Figure | None:
        """A figure with the first chosen subtomograms, and their average as the last; None where nothing is chosen."""
        rows = np.flatnonzero(self.inside)
        if not len(rows):
            return None
        first = rows[:SHOWN]
        mean = self.x[torch.from_numpy(rows)].mean(0, keepdim=True)
        shown = torch.cat([self.x[torch.from_numpy(first)], mean])
        return pictures.gallery({"xy section": shown}, [*self.domain[first], f"mean of {len(rows)}"], size=1.0)

    def figure(self) -> Figure:
        """The plot with the polygon, in which the chosen points are ringed."""
        fig, ax = plt.subplots(figsize=(5.0, 3.8), layout="constrained")
        self.draw(ax)
        ax.plot(*np.concatenate([self.polygon, self.polygon[:1]]).T, "k--", lw=1)
        x, y = self.points[self.inside].T
        ax.scatter(x, y, s=26, facecolors="none", edgecolors="black", linewidths=0.7)
        ax.set_title(self.summary, fontsize=8)
        return fig

    def write(self, path: str | Path) -> Path:
        """Path of a STAR file with a row per chosen subtomogram, beside a stack .mrcs that it names.

        `cryoshift_core.read_subtomograms` and RELION-style programs read it.

        Raises
        ------
        InputError
            Nothing is chosen.
        """
        rows, path = np.flatnonzero(self.inside), Path(path)
        if not len(rows):
            raise InputError("selection: expected at least one subtomogram, got none. Draw the lasso around points.")
        stack = path.with_suffix(".mrcs")
        write_mrc(stack, self.x[torch.from_numpy(rows)].numpy(), self.voxel_size)
        table: dict[str, list] = {
            "rlnImageName": [f"{i:06d}@{stack.name}" for i in range(1, len(rows) + 1)],
            "rlnPixelSize": [f"{self.voxel_size:g}"] * len(rows),
            "csDomain": list(self.domain[rows]),
            "csRow": [int(row) + 1 for row in rows],
        }
        write_star(path, {"particles": table})
        return path


def has_pointer() -> bool:
    """Whether a lasso can be drawn by hand here: a user is attached, and ipympl is installed."""
    return is_live() and find_spec("ipympl") is not None


def show(selection: Selection) -> list[Figure]:
    """The plot and the chosen boxes as figures; [] where the lasso is live, which then shows both itself.

    A live lasso calls `Selection.choose`. Cells that run later see what is then chosen.
    """
    if not has_pointer():
        plot, boxes = selection.figure(), selection.boxes()  # a notebook shows figures in the order of their making
        return [plot, *([boxes] if boxes else [])]
    import ipywidgets as widgets
    from ipympl.backend_nbagg import Canvas, FigureManager
    from IPython.display import display
    from matplotlib.widgets import LassoSelector

    fig = Figure(figsize=(5.0, 3.8), layout="constrained")
    canvas = Canvas(fig)
    FigureManager(canvas, 0)
    # The toolbar would cover the left of the plot as soon as the pointer is in it, and take what is drawn there.
    canvas.header_visible = canvas.toolbar_visible = False
    ax, output = fig.add_subplot(), widgets.Output()
    selection.draw(ax)
    ring = ax.scatter([], [], s=26, facecolors="none", edgecolors="black", linewidths=0.7)

    def chosen(corners: Sequence[Sequence[float]]) -> None:
        if len(corners) >= 3:
            selection.choose(corners)
        ring.set_offsets(selection.points[selection.inside])
        canvas.draw_idle()
        with output:
            output.clear_output(wait=True)
            print(selection.summary)
            if boxes := selection.boxes():
                display(boxes)
                plt.close(boxes)

    selection._live = LassoSelector(ax, chosen, props={"color": "black", "linewidth": 1})
    display(widgets.VBox([canvas, output]))
    chosen(selection.polygon.tolist())
    return []
