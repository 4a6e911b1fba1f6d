"""Pictures of subtomograms and tomograms. Each function draws on axes or returns a matplotlib Figure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

COLOURS = {
    "source": "#4C72B0",
    "target": "#DD8452",
    "warped": "#55A868",
    "source_only": "#8C8C8C",
    "oracle": "#222222",
    "cryoshift_reference": "#C44E52",
    "cryoshift": "#55A868",
}


def use_style() -> None:
    """Small, plain figures that stay readable in a notebook."""
    plt.rcParams.update(
        {
            "figure.dpi": 100,
            "font.size": 9,
            "axes.spines.top": False,
            "axes.spines.right": False,
            "axes.titlesize": 9,
            "legend.frameon": False,
            "image.cmap": "gray",
            "image.interpolation": "nearest",
        }
    )


def show(ax: Axes, image: Tensor | np.ndarray, title: str = "", *, spread: float | None = None) -> None:
    """One grey image without ticks. `spread`: half the grey range in units of the image; None takes 1st to 99th %."""
    image = np.asarray(image, dtype=float)
    low, high = (-spread, spread) if spread else np.percentile(image, [1, 99])
    ax.imshow(image, vmin=low, vmax=high if high > low else low + 1, cmap="gray")
    ax.set(xticks=[], yticks=[])
    ax.set_title(title, fontsize=8)
    for spine in ax.spines.values():
        spine.set_visible(False)


def middle(cube: Tensor) -> Tensor:
    """The central xy slice of a (..., Z, Y, X) cube."""
    return cube.reshape(-1, *cube.shape[-3:])[0, cube.shape[-3] // 2]


def gallery(
    rows: Mapping[str, Tensor], columns: Sequence[str], *, projection: bool = False, size: float = 1.25
) -> Figure:
    """Rows of cubes: name -> (n, 1, Z, Y, X), one column per entry of `columns`; central slices or projections."""
    fig, axes = plt.subplots(
        len(rows), len(columns), figsize=(size * len(columns) + 0.6, size * len(rows) + 0.35), squeeze=False
    )
    for i, (line, (name, cubes)) in enumerate(zip(axes, rows.items(), strict=True)):
        for ax, cube, column in zip(line, cubes, columns, strict=True):
            show(ax, cube[0].mean(0) if projection else middle(cube), column if i == 0 else "")
        line[0].set_ylabel(name, fontsize=8)
    fig.tight_layout(pad=0.3)
    return fig


def one_of_each(x: Tensor, y: Tensor, n_classes: int) -> Tensor:
    """The first cube of each class, (K, 1, Z, Y, X); a class without a cube gives zeros."""
    first = [(y == k).nonzero().flatten()[:1] for k in range(n_classes)]
    return torch.stack([x[i[0]] if len(i) else torch.zeros_like(x[0]) for i in first])


def tomogram(data: np.ndarray, zyx: np.ndarray | None, groups: np.ndarray | None, voxel_size: float) -> Figure:
    """Up to three z slices of a tomogram with the coordinates within one voxel of each; a colour per group."""
    heights = zyx[:, 0] if zyx is not None and len(zyx) else np.arange(len(data))
    levels = np.unique(np.quantile(heights, (0.15, 0.5, 0.85)).round().astype(int))
    size = (10 * len(levels) / 3, 3.6)
    fig, axes = plt.subplots(1, len(levels), figsize=size, squeeze=False, layout="constrained")
    for ax, z in zip(axes[0], levels, strict=True):
        show(ax, data[z], f"z = {z} ({z * voxel_size / 10:.0f} nm)")
        if zyx is not None:
            near = np.abs(zyx[:, 0] - z) <= 1
            colour = None if groups is None else plt.get_cmap("tab10")(groups[near] % 10)
            ax.scatter(zyx[near, 2], zyx[near, 1], s=5, c=colour if colour is not None else "orange", linewidths=0)
    return fig


def orthoslices(axes: Sequence[Axes], data: np.ndarray, zyx: np.ndarray, at: np.ndarray) -> None:
    """The xy, xz and yz sections of a tomogram through the position `at` (z, y, x), protein bright or dark as it is.

    Positions `zyx` (N, 3) within one voxel of a section are dots; cross-hairs point at `at` and leave it free.
    """
    centre = np.clip(np.round(at).astype(int), 0, np.array(data.shape) - 1)
    for ax, (across, down, right) in zip(axes, ((0, 1, 2), (1, 0, 2), (2, 0, 1)), strict=True):
        section = tuple(centre[across] if axis == across else slice(None) for axis in range(3))
        title = f"{'zyx'[right]}{'zyx'[down]}, {'zyx'[across]} = {centre[across]}"
        show(ax, np.asarray(data[section], np.float32), title)
        close = zyx[np.abs(zyx[:, across] - at[across]) <= 1]
        ax.scatter(close[:, right], close[:, down], s=2, c="orange", linewidths=0)
        free = 0.08 * max(data.shape)
        for line, along, level in ((ax.hlines, right, down), (ax.vlines, down, right)):
            far = data.shape[along] - 1
            starts, ends = [0, min(far, at[along] + free)], [max(0, at[along] - free), far]
            line([at[level]] * 2, starts, ends, color="deepskyblue", lw=0.9)


def class_shares(shares: Mapping[str, Sequence[float]], classes: Sequence[str]) -> Figure:
    """Predicted share of each class, one group of bars per method."""
    fig, ax = plt.subplots(figsize=(min(14, 0.9 * len(classes) + 1.8), 2.8), layout="constrained")
    width = 0.8 / len(shares)
    for i, (name, values) in enumerate(shares.items()):
        ax.bar(np.arange(len(classes)) + (i - (len(shares) - 1) / 2) * width, values, width, label=name,
               color=COLOURS.get(name))  # fmt: skip
    ax.set_xticks(range(len(classes)), classes, rotation=30, ha="right")
    ax.set(ylabel="share of the cubes")
    fig.legend(fontsize=8, loc="outside upper center", ncols=len(shares))
    return fig
