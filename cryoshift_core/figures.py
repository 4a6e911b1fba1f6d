"""Every plot that the notebooks show. Each takes tensors or scores, and returns a matplotlib Figure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.colors import LightSource
from matplotlib.figure import Figure
from skimage.measure import marching_cubes
from torch import Tensor

from .evaluation import Reliability

COLOURS = {
    "source": "#4C72B0",
    "target": "#DD8452",
    "warped": "#55A868",
    "source_only": "#8C8C8C",
    "oracle": "#222222",
    "cryoshift_reference": "#C44E52",
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


def isosurface(ax: Axes, volume: Tensor, level: float | None = None, colour: str = "#7FA6C9") -> None:
    """A lit surface of a (Z, Y, X) volume on a 3-D axis; `level` defaults to a third of the 99.9th percentile."""
    data = np.asarray(volume, dtype=float)
    level = np.quantile(data, 0.999) / 3 if level is None else level
    step = max(1, data.shape[0] // 48)
    points, faces, *_ = marching_cubes(data, level, step_size=step)
    light = LightSource(azdeg=315, altdeg=45)
    z, y, x = points.T
    ax.plot_trisurf(x, y, z, triangles=faces, color=colour, linewidth=0, antialiased=False, lightsource=light)
    n = data.shape[0]
    ax.set(xlim=(0, n), ylim=(0, n), zlim=(0, n))
    ax.set_box_aspect((1, 1, 1), zoom=1.7)
    ax.set_axis_off()


def molecules(templates: Mapping[str, Tensor], pixel_size: float) -> Figure:
    """Each class as a central slice, a projection along the beam and an isosurface; a 100 A bar on the slices."""
    n = len(templates)
    fig = plt.figure(figsize=(1.45 * n, 4.4), layout="constrained")
    for i, (name, volume) in enumerate(templates.items()):
        slice_ax, projection_ax = fig.add_subplot(3, n, i + 1), fig.add_subplot(3, n, n + i + 1)
        show(slice_ax, middle(volume), name)
        show(projection_ax, volume.sum(0))
        bar = 100 / pixel_size
        slice_ax.plot([1, 1 + bar], [volume.shape[1] - 2.5] * 2, color="white", lw=2)
        if i == 0:
            slice_ax.set_ylabel("slice (bar: 100 A)", fontsize=8)
            projection_ax.set_ylabel("projection", fontsize=8)
        if volume.max() > 0:
            isosurface(fig.add_subplot(3, n, 2 * n + i + 1, projection="3d"), volume)
    return fig


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


def radial_spectrum(x: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Mean power of (N, 1, n, n, n) cubes on shells: frequencies in cycles per voxel, and power."""
    n = x.shape[-1]
    power = torch.fft.rfftn(x[:, 0], dim=(1, 2, 3)).abs().square().mean(0) / n**3
    full, half = torch.fft.fftfreq(n), torch.fft.rfftfreq(n)
    radius = (full[:, None, None] ** 2 + full[:, None] ** 2 + half**2).sqrt()
    shell = (radius * n).round().long().flatten()
    count = torch.bincount(shell)
    mean = torch.zeros(len(count)).index_add(0, shell, power.cpu().flatten()) / count
    return np.arange(1, n // 2) / n, mean[1 : n // 2].numpy()


def spectra(domains: Mapping[str, Tensor], pixel_size: float) -> Figure:
    """Radial power of several sets of cubes, and below which resolution they differ."""
    fig, ax = plt.subplots(figsize=(4.6, 3.1), layout="constrained")
    for name, x in domains.items():
        k, power = radial_spectrum(x)
        ax.semilogy(k / pixel_size, power, label=name, color=COLOURS.get(name))
    ax.set(xlabel="spatial frequency (1/A)", ylabel="mean power per voxel", title="Radial power spectrum")
    ax.legend()
    return fig


def spectrum_plane(ax: Axes, x: Tensor, title: str = "") -> None:
    """Log power in the kx-kz plane (ky = 0), where the missing wedge shows, DC in the middle."""
    power = torch.fft.fftshift(torch.fft.fftn(x[:, 0], dim=(1, 2, 3)).abs().square().mean(0))
    show(ax, power[:, power.shape[1] // 2].clamp_min(1e-6).log10(), title)
    ax.set_xlabel("kx", fontsize=8)
    ax.set_ylabel("kz (beam)", fontsize=8)


def histograms(domains: Mapping[str, Tensor]) -> Figure:
    """Grey values of several sets of cubes."""
    fig, ax = plt.subplots(figsize=(4.2, 2.8), layout="constrained")
    for name, x in domains.items():
        ax.hist(
            x[:64].flatten().numpy(), bins=120, range=(-6, 8), density=True, histtype="step",
            label=name, color=COLOURS.get(name),
        )  # fmt: skip
    ax.set(xlabel="grey value (robust standard deviations)", ylabel="density", yscale="log")
    ax.legend()
    return fig


def before_after(before: Tensor, after: Tensor, title: str, pixel_size: float) -> Figure:
    """What a warp did to (N, 1, n, n, n) cubes: three of them before, after and the difference, and the spectra."""
    fig, axes = plt.subplots(1, 4, figsize=(9.5, 2.6), layout="constrained", width_ratios=(1, 1, 1, 1.3))
    a, b = middle(before[:1]), middle(after[:1])
    show(axes[0], a, "before", spread=4)
    show(axes[1], b, "after", spread=4)
    change = float((after - before).std())
    show(axes[2], b - a, f"difference, stretched (sd {change:.2f})", spread=4 * change or 1.0)
    for name, x in (("before", before), ("after", after)):
        k, power = radial_spectrum(x)
        axes[3].semilogy(k / pixel_size, power, label=name)
    axes[3].set(xlabel="1/A", title="mean power")
    axes[3].legend(fontsize=7)
    fig.suptitle(title, fontsize=10)
    return fig


def learning_curves(histories: Mapping[str, Mapping[str, Sequence[float]]], terms: Sequence[str]) -> Figure:
    """One panel per term, one line per method; terms that a method does not have are left out."""
    fig, axes = plt.subplots(1, len(terms), figsize=(3.0 * len(terms), 2.6), layout="constrained", squeeze=False)
    for ax, term in zip(axes[0], terms, strict=True):
        for name, history in histories.items():
            values = history.get(term)
            if values is not None and len(values):
                last = history["step"][-1] if "step" in history and len(history["step"]) else len(values)
                steps = np.linspace(last / len(values), last, len(values))
                ax.plot(steps, values, ".-", label=name, color=COLOURS.get(name))
        ax.set(title=term.replace("_", " "), xlabel="step")
    handles, labels = max((ax.get_legend_handles_labels() for ax in axes[0]), key=lambda pair: len(pair[0]))
    if handles:
        fig.legend(handles, labels, loc="outside lower center", ncols=min(4, len(labels)), fontsize=8)
    return fig


def confusion(matrices: Mapping[str, np.ndarray], classes: Sequence[str]) -> Figure:
    """Confusion counts as shares of each true class, one panel per method."""
    k = len(classes)
    fig, axes = plt.subplots(
        1, len(matrices), figsize=((0.42 * k + 0.6) * len(matrices) + 1.2, 0.42 * k + 1.6), squeeze=False,
        layout="constrained", sharey=True,
    )  # fmt: skip
    for ax, (name, counts) in zip(axes[0], matrices.items(), strict=True):
        share = counts / np.maximum(counts.sum(1, keepdims=True), 1)
        ax.imshow(share, cmap="Blues", vmin=0, vmax=1)
        for i in range(k):
            for j in range(k):
                if share[i, j] >= 0.005:
                    ax.text(j, i, f"{100 * share[i, j]:.0f}", ha="center", va="center", fontsize=7,
                            color="white" if share[i, j] > 0.6 else "black")  # fmt: skip
        ax.set_title(f"{name}\nmean recall {np.trace(share) / k:.2f}")
        ax.set_xticks(range(k), classes, rotation=60, ha="right", fontsize=7)
        ax.set_yticks(range(k), classes, fontsize=7)
        ax.set_xlabel("predicted")
    axes[0, 0].set_ylabel("true (each row sums to 100 %)")
    return fig


def reliability(tables: Mapping[str, Reliability]) -> Figure:
    """Accuracy against confidence; the diagonal is a calibrated classifier, the area off it the ECE."""
    fig, ax = plt.subplots(figsize=(3.6, 3.3), layout="constrained")
    ax.plot([0, 1], [0, 1], color="0.8", lw=1)
    for name, table in tables.items():
        used = table.count > 0
        ax.plot(table.confidence[used], table.accuracy[used], "o-", ms=3, color=COLOURS.get(name),
                label=f"{name} (ECE {table.ece:.2f})")  # fmt: skip
    ax.set(xlabel="confidence", ylabel="accuracy", xlim=(0, 1), ylim=(0, 1), title="Reliability on target-test")
    ax.legend(fontsize=7, loc="upper left")
    return fig


def scores(values: Mapping[str, Sequence[float]], intervals: Mapping[str, tuple], label: str) -> Figure:
    """One dot per seed, and the mean with its 95 % interval, per method."""
    fig, ax = plt.subplots(figsize=(5.2, 0.42 * len(values) + 1.1), layout="constrained")
    for i, (name, seeds) in enumerate(values.items()):
        mean, low, high = intervals[name]
        ax.plot(seeds, [i] * len(seeds), "o", ms=4, color=COLOURS.get(name, "#4C72B0"), alpha=0.5)
        ax.errorbar(mean, i, xerr=[[mean - low], [high - mean]], fmt="|", color="black", capsize=3)
        ax.annotate(f"{mean:.2f}", (mean, i), xytext=(0, 7), textcoords="offset points", ha="center", fontsize=8)
    ax.set_yticks(range(len(values)), list(values))
    ax.set(xlabel=label, xlim=(0, 1.02), ylim=(len(values) - 0.4, -0.7))
    return fig


def embedding(features: Mapping[str, Tensor], title: str = "") -> Figure:
    """Features of several domains on the two principal axes of all of them together."""
    fig, ax = plt.subplots(figsize=(3.9, 3.4), layout="constrained")
    everything = torch.cat(list(features.values())).float()
    centre = everything.mean(0)
    _, _, axes = torch.linalg.svd(everything - centre, full_matrices=False)
    for name, f in features.items():
        x, y = ((f - centre) @ axes[:2].T).T.numpy()
        ax.scatter(x, y, s=6, alpha=0.5, label=name, color=COLOURS.get(name), linewidths=0)
    ax.set(xlabel="1st principal axis", ylabel="2nd", title=title, xticks=[], yticks=[])
    ax.legend(markerscale=2)
    return fig


def tomogram(data: np.ndarray, zyx: np.ndarray | None, groups: np.ndarray | None, pixel_size: float) -> Figure:
    """Three z slices of a tomogram with the coordinates within one voxel of each; a colour per group."""
    fig, axes = plt.subplots(1, 3, figsize=(10, 3.6), layout="constrained")
    heights = zyx[:, 0] if zyx is not None and len(zyx) else np.arange(len(data))
    levels = np.quantile(heights, (0.15, 0.5, 0.85)).round().astype(int)
    for ax, z in zip(axes, levels, strict=True):
        show(ax, data[z], f"z = {z} ({z * pixel_size / 10:.0f} nm)")
        if zyx is not None:
            near = np.abs(zyx[:, 0] - z) <= 1
            colour = None if groups is None else plt.get_cmap("tab10")(groups[near] % 10)
            ax.scatter(zyx[near, 2], zyx[near, 1], s=5, c=colour if colour is not None else "orange", linewidths=0)
    return fig


def class_shares(shares: Mapping[str, Sequence[float]], classes: Sequence[str]) -> Figure:
    """Predicted share of each class, one group of bars per method."""
    fig, ax = plt.subplots(figsize=(0.9 * len(classes) + 1.8, 2.6), layout="constrained")
    width = 0.8 / len(shares)
    for i, (name, values) in enumerate(shares.items()):
        ax.bar(np.arange(len(classes)) + (i - (len(shares) - 1) / 2) * width, values, width, label=name,
               color=COLOURS.get(name))  # fmt: skip
    ax.set_xticks(range(len(classes)), classes, rotation=30, ha="right")
    ax.set(ylabel="share of the cubes")
    ax.legend(fontsize=7)
    return fig
