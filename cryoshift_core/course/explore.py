"""Sliders: live in JupyterLab, moving among frames drawn beforehand on a page, and a figure with rows of frames.

A drawing is one function ``draw(axes, **values)``. All three use it. Where a notebook runs without a user, such as
under papermill, its output holds the sliders as HTML that needs neither a kernel nor a network, and the figure as PNG.
"""

from __future__ import annotations

import base64
import hashlib
import io
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure
from matplotlib.patches import Rectangle
from PIL import Image

from ..application.report import page_template

Draw = Callable[..., None]
Sliders = Mapping[str, tuple[str, Sequence[Any]]]
Projection = str | Sequence[str | None] | None
LIMIT = 2_000_000  # characters of the HTML of one explorer
MOST_VALUES = 12  # of a slider on a page
MOST_MIXED = 40  # frames up to which the sliders of a page mix; above, one slider at a time leaves its start value
QUALITIES = (85, 65, 45, 25)  # of WebP, tried in this order until the limit holds


def _kernel() -> Any:
    """The Jupyter kernel that this code runs in, or None."""
    try:
        from IPython import get_ipython
    except ImportError:
        return None
    return getattr(get_ipython(), "kernel", None)


def is_live() -> bool:
    """Whether a front end with a user is attached: true in JupyterLab, false under papermill and nbconvert.

    A front end sends with each cell whether its user can answer a question (`allow_stdin`).
    """
    kernel = _kernel()
    return bool(kernel and kernel.get_parent().get("content", {}).get("allow_stdin", False))


def explore(
    draw: Draw,
    sliders: Sliders,
    *,
    panels: int = 1,
    start: dict[str, Any] | None = None,
    size: float = 2.6,
    frames: int = 4,
    projection: Projection = None,
    mixed: bool = False,
    most: int = MOST_VALUES,
) -> Figure | None:
    """Show a drawing with sliders for its inputs; the static figure where there is no user, and None where there is.

    In a kernel without a user the sliders are displayed as :func:`page` makes them, with the static figure beside them
    for programs that do not show HTML. The figure that is returned is then closed, so plt.show() does not repeat it.

    Parameters
    ----------
    draw : draw(axes, **values), axes a list of `panels` matplotlib axes; it labels them itself
    sliders : keyword of `draw` -> (label with unit, its values in order)
    panels : number of axes that the drawing needs, side by side
    start : first values of the sliders; the middle value for sliders that are not named
    size : inches per panel
    frames : values shown per slider in the static figure
    projection : of the axes; "3d" for a drawing in space. A sequence has one for each panel
    mixed : on a page, too, the sliders mix: there they have fewer values, evenly chosen, the first one among them
    most : values of a slider on a page

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
        fig = _frames(draw, sliders, at, panels, size, frames, projection)
        if _kernel():
            _publish(
                fig, page(draw, sliders, at, panels=panels, size=size, projection=projection, mixed=mixed, most=most)
            )
        return fig

    import ipywidgets as widgets
    from IPython.display import display

    controls = {
        name: widgets.SelectionSlider(
            options=[(_text(v), v) for v in values],
            value=at[name],
            description=label,
            continuous_update=False,
            style={"description_width": "190px"},
            layout=widgets.Layout(width="520px"),
        )
        for name, (label, values) in sliders.items()
    }

    def show(**values: Any) -> None:
        _figure(draw, values, panels, size, projection)
        plt.show()

    display(widgets.VBox(list(controls.values())), widgets.interactive_output(show, controls))
    return None


def _text(value: Any) -> str:
    if isinstance(value, float):
        value = float(f"{value:.4g}")  # more digits would be those of a computation
    return f"{value:g}" if isinstance(value, int | float) else str(value)


def _axes(parent: Figure | SubFigure, panels: int, projection: Projection) -> list[Axes]:
    each = [projection] * panels if projection is None or isinstance(projection, str) else projection
    return [parent.add_subplot(1, panels, i, projection=one) for i, one in enumerate(each, 1)]


def _figure(draw: Draw, values: Mapping[str, Any], panels: int, size: float, projection: Projection) -> Figure:
    fig = plt.figure(figsize=(size * panels, size * 1.15), layout="constrained")
    draw(_axes(fig, panels, projection), **values)
    return fig


def _publish(fig: Figure, html: str) -> None:
    from IPython.display import display

    fig.savefig(buffer := io.BytesIO(), format="png", bbox_inches="tight")
    plt.close(fig)
    png = base64.b64encode(buffer.getvalue()).decode()
    display({"text/html": html, "image/png": png, "text/plain": "Sliders"}, raw=True)


def _combinations(lengths: Sequence[int], first: Sequence[int]) -> Iterator[tuple[int, ...]]:
    """Indices of the values of each frame: all combinations, or those in which at most one slider is moved."""
    if np.prod(lengths) <= MOST_MIXED:
        yield from itertools.product(*map(range, lengths))
        return
    yield tuple(first)
    for slider, length in enumerate(lengths):
        for index in range(length):
            if index != first[slider]:
                yield (*first[:slider], index, *first[slider + 1 :])


def page(
    draw: Draw,
    sliders: Sliders,
    at: Mapping[str, Any],
    *,
    panels: int = 1,
    size: float = 2.6,
    projection: Projection = None,
    mixed: bool = False,
    most: int = MOST_VALUES,
) -> str:
    """HTML with sliders that move among frames drawn beforehand; it needs neither a kernel nor a network.

    A slider has at most `most` values, its start value among them. With few frames in all the sliders mix; with
    more, moving one takes the others back to their start values. The HTML has at most LIMIT characters.

    Parameters
    ----------
    draw, sliders, panels, size, projection, mixed, most : as in :func:`explore`
    at : start value of each slider
    """
    numbers = {name: min(len(values), most) for name, (_, values) in sliders.items()}
    while mixed and np.prod(list(numbers.values())) > MOST_MIXED:
        numbers[max(reversed(numbers), key=lambda name: numbers[name])] -= 1  # of equals, the last slider
    shown = {}
    for name, (_, values) in sliders.items():
        kept = _evenly(len(values), numbers[name], list(values).index(at[name]))
        shown[name] = [values[i] for i in kept]
    first = [values.index(at[name]) for name, values in shown.items()]
    pictures: dict[str, Image.Image] = {}
    for indices in _combinations([len(values) for values in shown.values()], first):
        now = {name: values[i] for (name, values), i in zip(shown.items(), indices, strict=True)}
        fig = _figure(draw, now, panels, size, projection)
        fig.savefig(buffer := io.BytesIO(), format="png")
        plt.close(fig)
        pictures[",".join(map(str, indices))] = Image.open(buffer).convert("RGB")
    labels: list[dict[str, Any]] = [
        {"label": sliders[name][0], "shown": [_text(v) for v in values], "start": i}
        for (name, values), i in zip(shown.items(), first, strict=True)
    ]
    for quality in QUALITIES:
        frames = {key: _webp(picture, quality) for key, picture in pictures.items()}
        digest = hashlib.sha256("".join(frames.values()).encode()).hexdigest()[:10]
        html = page_template("frames.html.jinja", Path(__file__).parent).render(
            name=f"frames-{digest}",
            sliders=labels,
            frames=frames,
            start=",".join(map(str, first)),
            width=next(iter(pictures.values())).width,
            alt="; ".join(f"{one['label']}: {one['shown'][one['start']]}" for one in labels),
            mixed=len(shown) == 1 or len(pictures) == np.prod([len(values) for values in shown.values()]),
        )
        if len(html) <= LIMIT:
            return html
    raise ValueError(f"an explorer of {len(pictures)} frames has {len(html)} characters; expected at most {LIMIT}.")


def _webp(picture: Image.Image, quality: int) -> str:
    picture.save(buffer := io.BytesIO(), format="WEBP", quality=quality, method=4)
    return f"data:image/webp;base64,{base64.b64encode(buffer.getvalue()).decode()}"


def _frames(
    draw: Draw, sliders: Sliders, at: dict[str, Any], panels: int, size: float, frames: int, projection: Projection
) -> Figure:
    columns = min(frames, max(len(values) for _, values in sliders.values()))
    fig = plt.figure(figsize=(size * panels * columns * 0.62, size * 0.85 * len(sliders)), layout="constrained")
    rows = fig.subfigures(len(sliders), 1, squeeze=False)[:, 0]
    for row, (name, (label, values)) in zip(rows, sliders.items(), strict=True):
        first = list(values).index(at[name])
        shown = _evenly(len(values), columns, first)
        row.suptitle(label, fontsize=9, x=0.01, ha="left", fontweight="bold")
        for cell, index in zip(row.subfigures(1, columns, squeeze=False)[0], shown, strict=False):
            draw(_axes(cell, panels, projection), **(at | {name: values[index]}))
            cell.suptitle(_text(values[index]), fontsize=8)
            if index == first:
                cell.patch.set(edgecolor="#D55E00", linewidth=2)
    # A tight bounding box counts no patch of a subfigure, and would cut the outline off where a cell ends in white.
    fig.add_artist(Rectangle((0, 0), 1, 1, transform=fig.transFigure, fill=False, linewidth=0))
    return fig


def _evenly(n: int, columns: int, first: int) -> list[int]:
    """At most `columns` of n indices, evenly spaced, with the one that is nearest to `first` moved to it."""
    shown = sorted({round(i) for i in np.linspace(0, n - 1, min(n, columns))})
    nearest = min(shown, key=lambda i: abs(i - first))
    return sorted({first if i == nearest else i for i in shown})
