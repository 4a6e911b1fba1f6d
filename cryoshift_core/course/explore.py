"""Sliders in JupyterLab; a static grid of frames where a notebook runs without a user, such as under papermill.

A drawing is one function ``draw(axes, **values)``. The live figure and the static frames use the same function.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

Draw = Callable[..., None]


def is_live() -> bool:
    """Whether a front end with a user is attached: true in JupyterLab, false under papermill and nbconvert.

    A front end sends with each cell whether its user can answer a question (`allow_stdin`).
    """
    try:
        from IPython import get_ipython
    except ImportError:
        return False
    kernel = getattr(get_ipython(), "kernel", None)
    return bool(kernel and kernel.get_parent().get("content", {}).get("allow_stdin", False))


def explore(
    draw: Draw,
    sliders: dict[str, tuple[str, Sequence[Any]]],
    *,
    panels: int = 1,
    start: dict[str, Any] | None = None,
    size: float = 2.6,
    frames: int = 4,
) -> Figure | None:
    """Show a drawing with sliders for its inputs; the static figure where there is no user, and None where there is.

    Parameters
    ----------
    draw : draw(axes, **values), axes a list of `panels` matplotlib axes; it labels them itself
    sliders : keyword of `draw` -> (label with unit, its values in order)
    panels : number of axes that the drawing needs, side by side
    start : first values of the sliders; the middle value for sliders that are not named
    size : inches per panel
    frames : values shown per slider in the static figure

    Returns
    -------
    The static figure: one row per slider, in which the other sliders have their first values. The first value of the
    slider itself is among the frames, and outlined. None when the sliders are live.

    Raises
    ------
    KeyError
        `start` names no slider.
    """
    unknown = set(start or {}) - set(sliders)
    if unknown:
        raise KeyError(f"start names {sorted(unknown)}; expected names of sliders: {sorted(sliders)}")
    at = {name: values[len(values) // 2] for name, (_, values) in sliders.items()} | (start or {})
    if not is_live():
        return _frames(draw, sliders, at, panels, size, frames)

    import ipywidgets as widgets
    from IPython.display import display

    controls = {
        name: widgets.SelectionSlider(
            options=[(f"{v:g}" if isinstance(v, int | float) else str(v), v) for v in values],
            value=at[name],
            description=label,
            continuous_update=False,
            style={"description_width": "190px"},
            layout=widgets.Layout(width="520px"),
        )
        for name, (label, values) in sliders.items()
    }

    def show(**values: Any) -> None:
        fig, axes = plt.subplots(1, panels, figsize=(size * panels, size * 1.15), squeeze=False, layout="constrained")
        draw(list(axes[0]), **values)
        plt.show()

    display(widgets.VBox(list(controls.values())), widgets.interactive_output(show, controls))
    return None


def _frames(draw: Draw, sliders: dict, at: dict[str, Any], panels: int, size: float, frames: int) -> Figure:
    columns = min(frames, max(len(values) for _, values in sliders.values()))
    fig = plt.figure(figsize=(size * panels * columns * 0.62, size * 0.85 * len(sliders)), layout="constrained")
    rows = fig.subfigures(len(sliders), 1, squeeze=False)[:, 0]
    for row, (name, (label, values)) in zip(rows, sliders.items(), strict=True):
        first = list(values).index(at[name])
        shown = _evenly(len(values), columns, first)
        row.suptitle(label, fontsize=9, x=0.01, ha="left", fontweight="bold")
        for cell, index in zip(row.subfigures(1, columns, squeeze=False)[0], shown, strict=False):
            axes: Sequence[Axes] = cell.subplots(1, panels, squeeze=False)[0]
            draw(list(axes), **(at | {name: values[index]}))
            value = values[index]
            cell.suptitle(f"{value:g}" if isinstance(value, int | float) else str(value), fontsize=8)
            if index == first:
                cell.patch.set(edgecolor="#D55E00", linewidth=2)
    return fig


def _evenly(n: int, columns: int, first: int) -> list[int]:
    """At most `columns` of n indices, evenly spaced, with the one that is nearest to `first` moved to it."""
    shown = sorted({round(i) for i in np.linspace(0, n - 1, min(n, columns))})
    nearest = min(shown, key=lambda i: abs(i - first))
    return sorted({first if i == nearest else i for i in shown})
