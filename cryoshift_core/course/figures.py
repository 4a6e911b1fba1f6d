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

from ..application.pictures import COLOURS, middle, show
from ..fourier import shell_means, shells
from ..metrics import Reliability


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


def molecules(templates: Mapping[str, Tensor], voxel_size: float) -> Figure:
    """Each class as a central slice, a projection along the beam and an isosurface; a 100 A bar on the slices."""
    n = len(templates)
    fig = plt.figure(figsize=(1.45 * n, 4.4), layout="constrained")
    for i, (name, volume) in enumerate(templates.items()):
        slice_ax, projection_ax = fig.add_subplot(3, n, i + 1), fig.add_subplot(3, n, n + i + 1)
        show(slice_ax, middle(volume), name)
        show(projection_ax, volume.sum(0))
        bar = 100 / voxel_size
        slice_ax.plot([1, 1 + bar], [volume.shape[1] - 2.5] * 2, color="white", lw=2)
        if i == 0:
            slice_ax.set_ylabel("slice (bar: 100 A)", fontsize=8)
            projection_ax.set_ylabel("projection", fontsize=8)
        if volume.max() > 0:
            isosurface(fig.add_subplot(3, n, 2 * n + i + 1, projection="3d"), volume)
    return fig


def radial_spectrum(x: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Mean power of (N, 1, n, n, n) cubes on shells: frequencies in cycles per voxel, and power."""
    n = x.shape[-1]
    power = torch.fft.rfftn(x[:, 0], dim=(1, 2, 3)).abs().square().mean(0) / n**3
    mean, _ = shell_means(power.cpu(), shells((n, n, n)))
    return np.arange(1, n // 2) / n, mean[1 : n // 2].numpy()


def spectra(domains: Mapping[str, Tensor], voxel_size: float) -> Figure:
    """Radial power of several sets of cubes, and below which resolution they differ."""
    fig, ax = plt.subplots(figsize=(4.6, 3.1), layout="constrained")
    for name, x in domains.items():
        k, power = radial_spectrum(x)
        ax.semilogy(k / voxel_size, power, label=name, color=COLOURS.get(name))
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
    ax.legend(fontsize=7, loc="upper center", bbox_to_anchor=(0.5, -0.2))
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


def warp_sheet(before: Tensor, after: Tensor, title: str, names: Sequence[str], voxel_size: float) -> Figure:
    """What a warp did to (N, 1, n, n, n) cubes: the first len(names) as slices before, after and the difference;
    of all, the radial spectra and the log10 ratio of the power in the kx-kz plane.

    To both powers 3 % of the mean is added, lest next to nothing shows as many times nothing at all."""
    fig = plt.figure(figsize=(8.8, 1.5 * len(names) + 0.5), layout="constrained")
    left, right = fig.subfigures(1, 2, width_ratios=(3, 2.2))
    change = float((after - before).std())
    stretch = 4 * change or 1.0
    columns = ("before", "after", f"difference (grey: ±{stretch:.1f})")
    for i, (line, name) in enumerate(zip(left.subplots(len(names), 3, squeeze=False), names, strict=True)):
        a, b = middle(before[i]), middle(after[i])
        for ax, image, column, spread in zip(line, (a, b, b - a), columns, (4, 4, stretch), strict=True):
            show(ax, image, column if i == 0 else "", spread=spread)
        line[0].set_ylabel(name, fontsize=8)
    radial, plane = right.subplots(2, 1)
    powers = []
    for name, x in (("before", before), ("after", after)):
        k, power = radial_spectrum(x)
        radial.semilogy(k / voxel_size, power, label=name)
        power = torch.fft.fftshift(torch.fft.fftn(x[:, 0], dim=(1, 2, 3)).abs().square().mean(0))
        powers.append(power[:, power.shape[1] // 2])
    radial.set(xlabel="1/A", title="mean power")
    radial.locator_params(axis="x", nbins=4)
    radial.legend(fontsize=7)
    floor = 0.03 * powers[0].mean()
    image = plane.imshow(((powers[1] + floor) / (powers[0] + floor)).log10(), vmin=-1, vmax=1, cmap="RdBu_r")
    plane.set(xticks=[], yticks=[], xlabel="kx", ylabel="kz (beam)", title="power, after / before")
    right.colorbar(image, ax=plane, label="log10")
    fig.suptitle(title, fontsize=10)
    return fig
