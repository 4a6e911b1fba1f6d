"""Pictures of subtomograms and tomograms. Each function draws on given axes or returns a matplotlib Figure.

Colours are those of Okabe and Ito (2008), which people with colour-vision deficiencies can tell apart.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import cycle

import matplotlib.pyplot as plt
import numpy as np
import torch
from cycler import cycler
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from scipy import ndimage
from torch import Tensor

from ..fourier import full_from_half, power_spectrum, shell_means, shells
from .purity import Cut

# Blue and orange stand for source and target, and for nothing else.
COLOURS = {
    "source": "#0072B2",
    "target": "#E69F00",
    "warped": "#56B4E9",
    "source_only": "#7F7F7F",
    "oracle": "#000000",
    "cryoshift_reference": "#D55E00",
    "cryoshift_warps": "#7FCEB9",  # a lighter cryoshift
    "cryoshift": "#009E73",
    "network_and_templates": "#CC79A7",
}
SEVENTH = "#9E8A00"  # a darker yellow, for the seventh of several lines
OTHERS = ("#D55E00", "#56B4E9", "#CC79A7", "#009E73", "#7F7F7F", "#000000")  # for lines and bars without a fixed colour
BESIDE_DOMAINS = ("#7F7F7F", "#CC79A7", "#009E73")  # for what is drawn beside source and target: unlike blue and orange
TITLES = {  # of a fit's terms
    "source": "classification loss, source",
    "source_val_acc": "accuracy, source validation",
    "im_score": "IM score, target",
}
POSITION = "#F0E442"  # yellow: particle positions on a grey section
# Markers of classes and groups on a grey section; 5 colours and 7 shapes, so that no two of 35 groups share both.
GROUP_COLOURS = ("#D55E00", "#56B4E9", "#F0E442", "#009E73", "#CC79A7")
GROUP_MARKERS = "os^Dv*P"
HATCHES = ("", "///", "...", "xxx", "\\\\\\")
LINES = ("-", "--", ":", "-.")


def use_style() -> None:
    """Set matplotlib's defaults to small, plain figures that stay readable in a notebook."""
    plt.rcParams.update(
        {
            "figure.dpi": 100,
            "font.size": 9,
            "axes.spines.top": False,
            "axes.spines.right": False,
            "axes.titlesize": 9,
            "axes.prop_cycle": cycler(color=OTHERS),
            "legend.frameon": False,
            "image.cmap": "gray",
            "image.interpolation": "nearest",
        }
    )


def show(ax: Axes, image: Tensor | np.ndarray, title: str = "", *, spread: float | None = None) -> None:
    """Draw one grey image without ticks.

    `spread` is half the grey range, in units of the image; None takes the 1st to the 99th percentile.
    """
    image = np.asarray(image, dtype=float)
    low, high = (-spread, spread) if spread else np.percentile(image, [1, 99])
    ax.imshow(image, vmin=low, vmax=high if high > low else low + 1, cmap="gray")
    ax.set(xticks=[], yticks=[])
    ax.set_title(title, fontsize=8)
    for spine in ax.spines.values():
        spine.set_visible(False)


def middle(subtomogram: Tensor) -> Tensor:
    """The central xy section (Y, X) of the first subtomogram of (..., Z, Y, X)."""
    return subtomogram.reshape(-1, *subtomogram.shape[-3:])[0, subtomogram.shape[-3] // 2]


def gallery(
    rows: Mapping[str, Tensor], columns: Sequence[str], *, projection: bool = False, size: float = 1.25
) -> Figure:
    """A figure with one row of subtomograms per name, as central xy sections or as projections along z.

    Parameters
    ----------
    rows : name -> (n, 1, Z, Y, X)
    columns : n titles, shown above the first row
    size : inches per picture
    """
    fig, axes = plt.subplots(
        len(rows), len(columns), figsize=(size * len(columns) + 0.6, size * len(rows) + 0.35), squeeze=False
    )
    for i, (line, (name, subtomograms)) in enumerate(zip(axes, rows.items(), strict=True)):
        for ax, subtomogram, column in zip(line, subtomograms, columns, strict=True):
            show(ax, subtomogram[0].mean(0) if projection else middle(subtomogram), column if i == 0 else "")
        line[0].set_ylabel(name, fontsize=8)
    fig.tight_layout(pad=0.3)
    return fig


def one_of_each(x: Tensor, y: Tensor, n_classes: int) -> Tensor:
    """The first subtomogram of each class, (K, 1, Z, Y, X); zeros for a class without one."""
    first = [(y == k).nonzero().flatten()[:1] for k in range(n_classes)]
    return torch.stack([x[i[0]] if len(i) else torch.zeros_like(x[0]) for i in first])


def tomogram(
    data: np.ndarray,
    zyx: np.ndarray | None,
    groups: np.ndarray | None,
    voxel_size: float,
    names: Sequence[str] = (),
) -> Figure:
    """A figure of up to three z sections of a tomogram, with the positions within one voxel of each.

    Parameters
    ----------
    data : (Z, Y, X); it may stay on disk
    zyx : (N, 3) positions in voxels, or None
    groups : (N,) integers from 0, such as predicted classes; each has its own colour and marker
    voxel_size : A
    names : of the groups; with names the figure has a legend
    """
    heights = zyx[:, 0] if zyx is not None and len(zyx) else np.arange(len(data))
    levels = np.unique(np.quantile(heights, (0.15, 0.5, 0.85)).round().astype(int))
    size = (10 * len(levels) / 3, 4.0 if names else 3.6)
    fig, axes = plt.subplots(1, len(levels), figsize=size, squeeze=False, layout="constrained")
    for ax, z in zip(axes[0], levels, strict=True):
        show(ax, data[z], f"z = {z} ({z * voxel_size / 10:.0f} nm)")
        if zyx is None:
            continue
        near = np.abs(zyx[:, 0] - z) <= 1
        for group in [None] if groups is None else np.unique(groups):
            shown = near if groups is None else near & (groups == group)
            colour, marker = (POSITION, "o") if group is None else group_style(int(group))
            ax.scatter(zyx[shown, 2], zyx[shown, 1], s=10, linewidths=0, c=colour, marker=marker)
    if names:
        styles = [group_style(k) for k in range(len(names))]
        marks = [plt.Line2D([], [], ls="", ms=5, mew=0, color=colour, marker=marker) for colour, marker in styles]
        legend = fig.legend(marks, names, loc="outside lower center", ncols=min(len(names), 5), fontsize=8)
        for text in legend.get_texts():
            text.set_parse_math(False)  # a class may be named after a file with a dollar sign
    return fig


def group_style(group: int) -> tuple[str, str]:
    """Colour and marker of a group: neighbours differ in both, and a pair is repeated after 35 groups."""
    return GROUP_COLOURS[group % len(GROUP_COLOURS)], GROUP_MARKERS[group % len(GROUP_MARKERS)]


def orthoslices(axes: Sequence[Axes], data: np.ndarray, zyx: np.ndarray, at: np.ndarray) -> None:
    """Draw the xy, xz and yz sections of a tomogram through a position, with the grey values as they are.

    Positions within one voxel of a section are dots. Cross-hairs point at `at` and leave it free.

    Parameters
    ----------
    axes : three
    data : (Z, Y, X)
    zyx, at : (N, 3) and (3,), voxels
    """
    centre = np.clip(np.round(at).astype(int), 0, np.array(data.shape) - 1)
    for ax, (across, down, right) in zip(axes, ((0, 1, 2), (1, 0, 2), (2, 0, 1)), strict=True):
        section = tuple(centre[across] if axis == across else slice(None) for axis in range(3))
        title = f"{'zyx'[right]}{'zyx'[down]}, {'zyx'[across]} = {centre[across]}"
        show(ax, np.asarray(data[section], np.float32), title)
        close = zyx[np.abs(zyx[:, across] - at[across]) <= 1]
        ax.scatter(close[:, right], close[:, down], s=6, c=POSITION, linewidths=0)
        free = 0.08 * max(data.shape)
        for line, along, level in ((ax.hlines, right, down), (ax.vlines, down, right)):
            far = data.shape[along] - 1
            starts, ends = [0, min(far, at[along] + free)], [max(0, at[along] - free), far]
            line([at[level]] * 2, starts, ends, color="#56B4E9", lw=0.9)


def pick_density(data: np.ndarray, picks: Mapping[str, np.ndarray], voxel_size: float) -> Figure:
    """A heat map: the density of the picks of each class (rows) in three layers of a tomogram (columns), along z.

    Each grey picture is the mean of nine sections of its layer. The density is smoothed with a Gaussian as wide as a
    40th of the field; colours of one class have the same scale in all layers.

    Parameters
    ----------
    data : (Z, Y, X); it may stay on disk
    picks : class -> (N, 3) zyx positions in voxels
    voxel_size : A
    """
    depth, height, width = data.shape
    ends = np.unique(np.linspace(0, depth, min(3, depth) + 1).round().astype(int))
    step = max(1, round(max(height, width) / 256))
    bins, area = (math.ceil(height / step), math.ceil(width / step)), (step * voxel_size / 1000) ** 2
    size = (3.1 * (len(ends) - 1) + 0.8, 3.0 * len(picks) * min(1.4, height / width) + 0.4)
    fig, axes = plt.subplots(len(picks), len(ends) - 1, figsize=size, squeeze=False, layout="constrained")
    for row, (name, zyx) in zip(axes, picks.items(), strict=True):
        layers = []
        for low, high in zip(ends[:-1], ends[1:], strict=True):
            here = zyx[(zyx[:, 0] >= low - 0.5) & (zyx[:, 0] < high - 0.5)]
            counts, _, _ = np.histogram2d(
                here[:, 1], here[:, 2], bins=bins, range=[(-0.5, bins[0] * step - 0.5), (-0.5, bins[1] * step - 0.5)]
            )
            layers.append(ndimage.gaussian_filter(counts, max(bins) / 40, mode="constant") / area)
        most = max(layer.max() for layer in layers) or 1.0
        for ax, low, high, layer in zip(row, ends[:-1], ends[1:], layers, strict=True):
            sections = np.unique(np.linspace(low, high - 1, 9).round().astype(int))
            show(ax, np.mean([np.asarray(data[z], np.float32) for z in sections], axis=0))
            drawn = ax.imshow(
                layer,
                cmap="inferno",
                vmin=0,
                vmax=most,
                alpha=np.clip(1.6 * layer / most, 0, 0.75),
                extent=(-0.5, bins[1] * step - 0.5, bins[0] * step - 0.5, -0.5),
            )
            ax.set(xlim=(-0.5, width - 0.5), ylim=(height - 0.5, -0.5))
            ax.set_title(f"{name}, z = {low} to {high - 1}", fontsize=8, parse_math=False)
        fig.colorbar(drawn, ax=list(row), label="picks per square of 100 nm", shrink=0.8)
    return fig


def class_fractions(fractions: Mapping[str, Sequence[float]], classes: Sequence[str]) -> Figure:
    """A bar chart of a value per class, such as the predicted fraction: method -> (K,) values from 0 to 1."""
    fig, ax = plt.subplots(figsize=(min(14, 0.9 * len(classes) + 1.8), 2.8), layout="constrained")
    width = 0.8 / len(fractions)
    for i, (name, values) in enumerate(fractions.items()):
        at = np.arange(len(classes)) + (i - (len(fractions) - 1) / 2) * width
        ax.bar(at, values, width, label=name, color=COLOURS.get(name), hatch=HATCHES[i % len(HATCHES)],
               edgecolor="white", linewidth=0)  # fmt: skip
    ax.set_xticks(range(len(classes)), classes, rotation=30, ha="right")
    for label in ax.get_xticklabels():
        label.set_parse_math(False)
    ax.set(ylabel="fraction of the subtomograms")
    fig.legend(fontsize=8, loc="outside upper center", ncols=len(fractions))
    return fig


def heat_map(values: np.ndarray, texts: np.ndarray, rows: Sequence[str], columns: Sequence[str], label: str) -> Figure:
    """Values (R, C) from 0 to 1 as a coloured table with `texts` (R, C) in it; `label` of the colours."""
    fig, ax = plt.subplots(figsize=(0.72 * len(columns) + 2.8, 0.36 * len(rows) + 2.0), layout="constrained")
    image = ax.imshow(values, cmap="cividis", vmin=0, vmax=1, aspect="auto")
    for (i, j), text in np.ndenumerate(texts):
        ax.text(j, i, text, ha="center", va="center", fontsize=8, color="black" if values[i, j] > 0.55 else "white")
    ax.set_xticks(range(len(columns)), columns, rotation=40, ha="right")
    ax.set_yticks(range(len(rows)), rows)
    for name in (*ax.get_xticklabels(), *ax.get_yticklabels()):
        name.set_parse_math(False)  # a class may be named after a file with a dollar sign
    fig.colorbar(image, label=label)
    return fig


def second_opinion(counts: np.ndarray, network: Sequence[str], templates: Sequence[str]) -> Figure:
    """Numbers of subtomograms (K, K'): rows are what the network calls them, columns what template matching does."""
    share = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    fig = heat_map(share, counts.astype(str), network, templates, "fraction of the row")
    fig.axes[0].set(xlabel="best template", ylabel="network")
    return fig


def purity(ax: Axes, cuts: Sequence[Cut], confidence: float) -> None:
    """Draw the expected purity, and that of the spike-ins with its 95 % interval, against the least confidence.

    A dashed line marks `confidence`, which is that of one of the cuts.
    """
    (now,) = [cut for cut in cuts if cut.confidence == confidence]
    cuts = sorted(cuts, key=lambda cut: cut.confidence)
    ax.plot([cut.confidence for cut in cuts], [cut.expected for cut in cuts], "o-", ms=3, color="0.4", label="expected")
    known = [cut for cut in cuts if cut.spike_ins is not None]
    means = [cut.spike_ins.mean for cut in known if cut.spike_ins]
    ends = [(cut.spike_ins.low, cut.spike_ins.high) for cut in known if cut.spike_ins]
    if known:
        errors = [[m - low for m, (low, _) in zip(means, ends, strict=True)],
                  [high - m for m, (_, high) in zip(means, ends, strict=True)]]  # fmt: skip
        at = [cut.confidence for cut in known]
        ax.errorbar(at, means, yerr=errors, fmt="s--", ms=3, capsize=2, color=OTHERS[0], label="spike-ins")
    ax.axvline(confidence, ls="--", color="black", lw=1)
    ax.set(xlabel="least confidence", ylabel="purity", xlim=(-0.03, 1.03), ylim=(0, 1.03))
    spikes = "" if now.spike_ins is None else f", spike-ins {now.spike_ins.mean:.2f}"
    expected = f"expected {now.expected:.2f}" if now.kept else "nothing is kept"
    ax.set_title(f"from {confidence:.2f}: {expected}{spikes}", fontsize=8)
    ax.legend(fontsize=7, loc="lower left")


def radial_spectrum(x: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Frequencies (cycles per voxel) and mean power on shells of subtomograms (N, 1, n, n, n)."""
    n = x.shape[-1]
    mean, _ = shell_means(power_spectrum(x).mean(0).cpu(), shells((n, n, n)))
    return np.arange(1, n // 2) / n, mean[1 : n // 2].numpy()


def spectra(domains: Mapping[str, Tensor], voxel_size: float) -> Figure:
    """Figure with the radial power spectrum of each set of subtomograms (N, 1, n, n, n); `voxel_size` in A."""
    fig, ax = plt.subplots(figsize=(4.6, 3.1), layout="constrained")
    others = cycle(BESIDE_DOMAINS)
    for (name, x), line in zip(domains.items(), cycle(LINES), strict=False):
        k, power = radial_spectrum(x)
        ax.semilogy(k / voxel_size, power, line, label=name, color=COLOURS.get(name) or next(others))
    ax.set(xlabel="spatial frequency (1/Å)", ylabel="mean power per voxel", title="Radial power spectrum")
    ax.legend()
    return fig


def learning_curves(histories: Mapping[str, Mapping[str, Sequence[float]]], terms: Sequence[str]) -> Figure:
    """Figure with one panel per term and one line per method that has the term.

    `histories`: method -> its `Fit.history`, which has "step" and, for each term, one value per step or NaN.
    """
    fig, axes = plt.subplots(1, len(terms), figsize=(3.0 * len(terms), 2.6), layout="constrained", squeeze=False)
    for ax, term in zip(axes[0], terms, strict=True):
        for (name, history), line in zip(histories.items(), cycle(LINES), strict=False):
            values = np.array(history.get(term, ()), dtype=float)
            measured = np.isfinite(values)  # NaN at steps without a new value of the term
            if measured.any():
                ax.plot(np.array(history["step"])[measured], values[measured], f".{line}", label=name,
                        color=COLOURS.get(name))  # fmt: skip
        ax.set(title=TITLES.get(term, term.replace("_", " ")), xlabel="step")
    handles, labels = max((ax.get_legend_handles_labels() for ax in axes[0]), key=lambda pair: len(pair[0]))
    if handles:
        fig.legend(handles, labels, loc="outside lower center", ncols=min(4, len(labels)), fontsize=8)
    return fig


def contrast(x: Tensor, taken: str) -> Figure:
    """A histogram of smoothed grey values of subtomograms (N, 1, n, n, n) on both sides of the median.

    Parameters
    ----------
    taken : the contrast that the input was taken to have, for the title
    """
    smooth = torch.nn.functional.avg_pool3d(x, 3, stride=2).flatten().numpy()
    fig, ax = plt.subplots(figsize=(4.6, 2.4), layout="constrained")
    edges = np.linspace(0, np.quantile(np.abs(smooth), 0.9999), 40).tolist()
    for side, label, line in ((smooth, "bright side", "-"), (-smooth, "dark side", "--")):
        ax.hist(side, edges, histtype="step", log=True, label=label, ls=line)
    ax.set(xlabel="distance from the median (robust s.d.)", ylabel="voxels", title=f"taken as: protein {taken}")
    ax.legend()
    return fig


def wedge(measured: Tensor) -> Figure:
    """Three planes through the measured samples (n, n, n // 2 + 1) of a transform; white was measured."""
    whole = torch.fft.fftshift(full_from_half(measured)).float().numpy()
    n = len(whole)
    fig, axes = plt.subplots(1, 3, figsize=(6.6, 2.4), layout="constrained")
    planes = {
        "kz, kx (ky = 0)": whole[:, n // 2],
        "kz, ky (kx = 0)": whole[:, :, n // 2],
        "ky, kx (kz = 0)": whole[n // 2],
    }
    for ax, (title, plane) in zip(axes, planes.items(), strict=True):
        ax.imshow(plane, vmin=0, vmax=1)
        ax.set(xticks=[], yticks=[], title=title)
        ax.spines[:].set_visible(True)
    return fig
