"""Figures of the notebooks. Each function takes tensors or scores, and returns a matplotlib Figure.

Lines and points differ in line style or marker as well as in colour.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import cycle

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.colors import LightSource
from matplotlib.figure import Figure
from mpl_toolkits.mplot3d import Axes3D
from skimage.measure import marching_cubes
from torch import Tensor

from ..application.pictures import COLOURS, LINES, OTHERS, POSITION, middle, radial_spectrum, show
from ..application.pictures import learning_curves as learning_curves
from ..application.pictures import spectra as spectra
from ..data import Labelled
from ..metrics import Interval, Reliability

MARKERS = ("o", "^", "s", "v")
LEAST = 10  # subtomograms in a bin of confidence; the accuracy of fewer is chance


def surface_level(data: np.ndarray) -> float:
    """Level of the surface of a (Z, Y, X) volume: a third of its 99.9th percentile."""
    return float(np.quantile(data, 0.999)) / 3


def isosurface(ax: Axes3D, volume: Tensor, level: float | None = None, colour: str = "#7FA6C9") -> None:
    """Draw the shaded surface of a (Z, Y, X) volume at `level` on a 3-D axis.

    The default level is that of :func:`surface_level`.
    """
    data = np.asarray(volume, dtype=float)
    level = surface_level(data) if level is None else level
    step = max(1, data.shape[0] // 48)
    points, faces, *_ = marching_cubes(data, level, step_size=step)
    light = LightSource(azdeg=315, altdeg=45)
    z, y, x = points.T
    ax.plot_trisurf(x, y, z, triangles=faces, color=colour, linewidth=0, antialiased=False, lightsource=light)
    n = data.shape[0]
    ax.set(xlim=(0, n), ylim=(0, n), zlim=(0, n))
    ax.set_box_aspect((1, 1, 1), zoom=1.7)
    ax.set_axis_off()


def slice_with_picks(
    data: np.ndarray, zyx: np.ndarray, voxel_size: float, diameter: float = 300.0
) -> tuple[Figure, int]:
    """The slice of a tomogram that most picks cross, without and with them as circles; and how many they are.

    Parameters
    ----------
    data : (Z, Y, X), protein dark; shown is the mean of three sections
    zyx : (N, 3) voxels
    voxel_size, diameter : A; of a circle in the middle of its particle. The scale bar is 200 nm long
    """
    radius = diameter / voxel_size / 2
    across = [np.abs(zyx[:, 0] - z) < radius for z in range(1, len(data) - 1)]
    z = 1 + int(np.argmax([one.sum() for one in across]))
    section, here = np.asarray(data[z - 1 : z + 2], np.float32).mean(0), zyx[across[z - 1]]
    fig, axes = plt.subplots(1, 2, figsize=(9.4, 4.9), layout="constrained")
    for ax, title in zip(axes, (f"z = {z}, as it is", f"{len(here)} ribosomes that experts listed"), strict=True):
        show(ax, section, title)
        ax.plot([6, 6 + 2000 / voxel_size], [section.shape[0] - 7] * 2, color="white", lw=3)
        ax.text(6, section.shape[0] - 11, "200 nm", color="white", fontsize=8)
    for dz, y, x in here - np.array([z, 0, 0]):  # the circle in which the slice cuts a ball
        axes[1].add_patch(plt.Circle((x, y), math.sqrt(radius**2 - dz**2), fill=False, color=POSITION, lw=1.0))
    return fig, len(here)


def idea(source: Tensor, target: Tensor) -> Figure:
    """The method as a diagram: a source and a target subtomogram (1, Z, Y, X), warps, network and discriminators."""
    red = COLOURS["cryoshift_reference"]
    boxes = [  # x, y, text, colour
        (2.0, 3.1, "source\nsimulated, labelled", COLOURS["source"]),
        (2.0, 0.9, "target\nexperimental,\nunlabelled", COLOURS["target"]),
        (5.0, 3.1, "warps:\npicking error,\nneighbours,\nspectrum", COLOURS["warped"]),
        (7.4, 2.0, "3-D network\nfeatures", "0.45"),
        (10.0, 3.1, "classifier\nwhich molecule?", "0.45"),
        (10.0, 0.9, "one discriminator\nper class: source\nor target?", red),
    ]
    arrows: list[tuple[tuple[float, float], tuple[float, float], dict]] = [  # from, to, style
        ((3.15, 3.1), (4.15, 3.1), {}),
        ((5.9, 2.9), (6.75, 2.35), {}),
        ((3.05, 1.05), (6.6, 1.85), {}),
        ((2.6, 1.45), (4.3, 2.65), {"ls": "--", "color": "0.5"}),
        ((8.2, 2.3), (9.0, 2.8), {}),
        ((8.2, 1.7), (8.95, 1.3), {}),
        ((9.0, 0.7), (7.4, 1.6), {"color": red, "connectionstyle": "arc3,rad=-0.4"}),
    ]
    notes = [  # x, y, text, colour
        (6.85, 3.3, "source and\nwarped source", "0.3"),
        (2.7, 2.2, "spectrum,\ngrey values", "0.4"),
        (7.1, 0.75, "gradient, reversed", red),
        (10.0, 2.4, "learns from source labels", "0.3"),
    ]
    fig, ax = plt.subplots(figsize=(9.6, 3.5))
    for start, end, style in arrows:
        ax.annotate("", end, start, arrowprops={"arrowstyle": "-|>", "lw": 1.4, "shrinkA": 0, "shrinkB": 0, **style})
    for x, y, text, colour in boxes:
        frame = {"boxstyle": "round,pad=0.6", "fc": colour, "lw": 0}
        ax.text(x, y, text, ha="center", va="center", color="white", bbox=frame)
    for x, y, text, colour in notes:
        ax.text(x, y, text, ha="center", va="center", color=colour, fontsize=8)
    for subtomogram, y in ((source, 3.1), (target, 0.9)):
        show(ax.inset_axes((-0.4, y - 0.5, 1.2, 1.0), transform=ax.transData), middle(subtomogram))
    ax.set(xlim=(-0.4, 11.2), ylim=(0.2, 3.8))
    ax.set_axis_off()
    return fig


def molecules(templates: Mapping[str, Tensor], voxel_size: float) -> Figure:
    """Figure with a central slice, a projection along the beam and an isosurface of each class; `voxel_size` in A.

    `templates`: class -> (Z, Y, X). The scale bar on the slices is 100 A long.
    """
    n = len(templates)
    fig = plt.figure(figsize=(1.45 * n, 4.4), layout="constrained")
    for i, (name, volume) in enumerate(templates.items()):
        slice_ax, projection_ax = fig.add_subplot(3, n, i + 1), fig.add_subplot(3, n, n + i + 1)
        show(slice_ax, middle(volume), name)
        show(projection_ax, volume.sum(0))
        bar = 100 / voxel_size
        slice_ax.plot([1, 1 + bar], [volume.shape[1] - 2.5] * 2, color="white", lw=2)
        if i == 0:
            slice_ax.set_ylabel("slice (bar: 100 Å)", fontsize=8)
            projection_ax.set_ylabel("projection", fontsize=8)
        if volume.max() > 0:
            isosurface(fig.add_subplot(3, n, 2 * n + i + 1, projection="3d"), volume)
    return fig


def kx_kz_power(x: Tensor) -> Tensor:
    """Mean power of subtomograms (N, 1, n, n, n) in the plane ky = 0, (n, n): rows are kz, DC in the middle."""
    power = torch.fft.fftshift(torch.fft.fftn(x[:, 0], dim=(1, 2, 3)).abs().square().mean(0))
    return power[:, power.shape[1] // 2]


def spectrum_plane(ax: Axes, x: Tensor, title: str = "") -> None:
    """Draw log10 of the power in the kx-kz plane (ky = 0), where the missing wedge is visible; DC is in the middle."""
    show(ax, kx_kz_power(x).clamp_min(1e-6).log10(), title)
    ax.set_xlabel("kx", fontsize=8)
    ax.set_ylabel("kz (beam)", fontsize=8)


def histograms(domains: Mapping[str, Tensor]) -> Figure:
    """Figure with the grey-value histogram of the first 64 subtomograms of each set."""
    fig, ax = plt.subplots(figsize=(4.2, 2.8), layout="constrained")
    for (name, x), line in zip(domains.items(), cycle(LINES), strict=False):
        ax.hist(
            x[:64].flatten().numpy(), bins=120, range=(-6, 8), density=True, histtype="step", ls=line,
            label=name, color=COLOURS.get(name),
        )  # fmt: skip
    ax.set(xlabel="grey value (robust standard deviations)", ylabel="density", yscale="log")
    ax.legend()
    return fig


def confusion(matrices: Mapping[str, np.ndarray], classes: Sequence[str]) -> Figure:
    """Figure with one confusion matrix per method, as percentages of each true class; `matrices` hold counts."""
    k = len(classes)
    fig, axes = plt.subplots(
        1, len(matrices), figsize=((0.42 * k + 0.6) * len(matrices) + 1.2, 0.42 * k + 1.6), squeeze=False,
        layout="constrained", sharey=True,
    )  # fmt: skip
    for ax, (name, counts) in zip(axes[0], matrices.items(), strict=True):
        fraction = counts / np.maximum(counts.sum(1, keepdims=True), 1)
        ax.imshow(fraction, cmap="Blues", vmin=0, vmax=1)
        for i in range(k):
            for j in range(k):
                if fraction[i, j] >= 0.005:
                    ax.text(j, i, f"{100 * fraction[i, j]:.0f}", ha="center", va="center", fontsize=7,
                            color="white" if fraction[i, j] > 0.6 else "black")  # fmt: skip
        ax.set_title(f"{name}\nmean recall {np.trace(fraction) / k:.2f}")
        ax.set_xticks(range(k), classes, rotation=60, ha="right", fontsize=7)
        ax.set_yticks(range(k), classes, fontsize=7)
        ax.set_xlabel("predicted")
    axes[0, 0].set_ylabel("true (each row sums to 100 %)")
    return fig


def reliability(tables: Mapping[str, Reliability]) -> Figure:
    """Figure with accuracy against confidence of each method, for bins of at least LEAST subtomograms.

    A calibrated classifier is on the diagonal. Names such as "cryoshift, as trained" have the colour of the method;
    those that end in "as trained" are dotted.
    """
    fig, ax = plt.subplots(figsize=(3.6, 3.3), layout="constrained")
    ax.plot([0, 1], [0, 1], color="0.8", lw=1)
    for (name, table), marker in zip(tables.items(), cycle(MARKERS), strict=False):
        used, method = table.count >= LEAST, name.partition(",")[0]
        line = ":" if name.endswith("as trained") else "-"
        ax.plot(table.confidence[used], table.accuracy[used], f"{marker}{line}", ms=4, color=COLOURS.get(method),
                label=f"{name} (ECE {table.ece:.2f})")  # fmt: skip
    ax.set(xlabel="confidence", ylabel="accuracy", xlim=(0, 1), ylim=(0, 1), title="Reliability on target-test")
    ax.legend(fontsize=7, loc="upper center", bbox_to_anchor=(0.5, -0.2))
    return fig


def scores(values: Mapping[str, Sequence[float]], intervals: Mapping[str, Interval], label: str) -> Figure:
    """Figure with a dot per value (of a seed, or a particle) and the mean with its interval for each method."""
    fig, ax = plt.subplots(figsize=(5.2, 0.42 * len(values) + 1.1), layout="constrained")
    for i, (name, single) in enumerate(values.items()):
        mean, low, high = intervals[name]
        several = not math.isnan(low)
        ax.plot(single, [i + 0.22 * several] * len(single), "o", ms=5, color=COLOURS.get(name, "0.4"), alpha=0.7, mew=0)
        if several:  # above the dots, which it would hide
            ax.errorbar(mean, i, xerr=[[mean - low], [high - mean]], fmt="|", color="black", capsize=3)
        ax.annotate(f"{mean:.2f}", (mean, i), xytext=(0, 7), textcoords="offset points", ha="center", fontsize=8)
    ax.set_yticks(range(len(values)), list(values))
    ax.set(xlabel=label, xlim=(0, 1.02), ylim=(len(values) - 0.4, -0.7))
    return fig


def two_directions(features: Mapping[str, Tensor]) -> dict[str, np.ndarray]:
    """Domain -> (N, 2): features (N, F) on the first two principal axes of all domains together."""
    everything = torch.cat(list(features.values())).float()
    centre = everything.mean(0)
    _, _, axes = torch.linalg.svd(everything - centre, full_matrices=False)
    return {name: ((f - centre) @ axes[:2].T).numpy() for name, f in features.items()}


def embedding(features: Mapping[str, Tensor], title: str = "") -> Figure:
    """Figure with the features (N, F) of several domains on the first two principal axes of all of them together."""
    return embeddings({title: features})


def embeddings(features: Mapping[str, Mapping[str, Tensor]]) -> Figure:
    """Figure with a panel per title, as in :func:`embedding`; each panel has principal axes of its own."""
    fig, axes = plt.subplots(1, len(features), figsize=(3.0 * len(features) + 0.9, 3.4), layout="constrained")
    for ax, (title, domains) in zip(np.atleast_1d(axes), features.items(), strict=True):
        for (name, points), marker in zip(two_directions(domains).items(), cycle(MARKERS), strict=False):
            x, y = points.T
            ax.scatter(x, y, s=6, marker=marker, alpha=0.5, label=name, color=COLOURS.get(name), linewidths=0)
        ax.set(xlabel="1st principal axis", title=title, xticks=[], yticks=[])
    np.atleast_1d(axes)[0].set_ylabel("2nd")
    np.atleast_1d(axes)[0].legend(markerscale=2)
    return fig


def before_and_after(
    found: Mapping[str, Mapping[float, Sequence[float]]], conditions: Sequence[str], label: str
) -> Figure:
    """Figure with the values of each method under two conditions: a dot per seed, and a line between the means."""
    fig, ax = plt.subplots(figsize=(5.6, 2.8), layout="constrained")
    for i, (name, by_condition) in enumerate(found.items()):
        colour = ("0.4", *OTHERS)[i]
        for j, values in enumerate(by_condition.values()):
            ax.plot([3 * i + j] * len(values), values, MARKERS[i], ms=5, alpha=0.6, color=colour)
        means = [float(np.mean(values)) for values in by_condition.values()]
        ax.plot([3 * i, 3 * i + 1], means, LINES[i], color=colour, label=name)
    ax.set_xticks([3 * i + j for i in range(len(found)) for j in (0, 1)], list(conditions) * len(found))
    ax.set(ylabel=label)
    ax.set_ylim(top=1.03)
    ax.legend(fontsize=7, loc="lower left")
    return fig


def snr_of_classes(source: Labelled) -> tuple[Figure, dict[str, float]]:
    """Figure with the realised SNR of each class of simulated subtomograms, and the median of each class by name."""
    assert source.snr is not None  # simulated
    by_class = {name: source.snr[source.y == c] for c, name in enumerate(source.classes)}
    fig, ax = plt.subplots(figsize=(6, 2.7), layout="constrained")
    values = [snr.log10().numpy() for snr in by_class.values()]
    ax.boxplot(values, tick_labels=list(by_class), whis=(5, 95), showfliers=False)
    ax.tick_params(axis="x", rotation=25)
    ax.set(ylabel="log10 realised SNR", title="Box: half of the subtomograms; whiskers: 5th to 95th percentile")
    return fig, {name: float(snr.median()) for name, snr in by_class.items()}


def describe(fig: Figure) -> str:
    """Alternative text of a figure: the words that stand in it, panel by panel, without repetition and colour bars."""
    said = [fig.get_suptitle()]
    for ax in fig.axes:
        if ax.get_label() == "<colorbar>":
            continue
        names = [label.get_text() for axis in (ax.xaxis, ax.yaxis) for label in axis.get_ticklabels()]
        _, legend = ax.get_legend_handles_labels()
        labels = [label for label in (ax.get_ylabel(), ax.get_xlabel()) if label]
        named = [name for name in names if any(map(str.isalpha, name)) and not name.startswith("$")]  # no numbers
        said += [ax.get_title(), " against ".join(labels), ", ".join(dict.fromkeys(named)), ", ".join(legend)]
        said += [text.get_text() for text in ax.texts if any(map(str.isalpha, text.get_text()))]
    said += [", ".join(text.get_text() for text in legend.get_texts()) for legend in fig.legends]
    return "; ".join(" ".join(one.split()) for one in dict.fromkeys(said) if one)


def warp_sheet(before: Tensor, after: Tensor, title: str, names: Sequence[str], voxel_size: float) -> Figure:
    """Figure that compares subtomograms (N, 1, n, n, n) before and after a warp; `voxel_size` in A.

    Left: slices of the first len(names) before, after, and the difference. Right, from all of them: the radial power
    spectra, and log10 of the power after over the power before in the kx-kz plane. 3 % of the mean power is added to
    both, because the ratio of two values near zero shows nothing.
    """
    fig = plt.figure(figsize=(8.8, 1.5 * len(names) + 0.5), layout="constrained")
    left, right = fig.subfigures(1, 2, width_ratios=(3, 2.2), squeeze=False)[0]
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
    for name, x, style, colour in (("before", before, "-", "source"), ("after", after, "--", "warped")):
        k, power = radial_spectrum(x)
        radial.semilogy(k / voxel_size, power, style, color=COLOURS[colour], label=name)
        powers.append(kx_kz_power(x))
    radial.set(xlabel="spatial frequency (1/Å)", title="mean power")
    radial.locator_params(axis="x", nbins=4)
    radial.legend(fontsize=7)
    floor = 0.03 * powers[0].mean()
    image = plane.imshow(((powers[1] + floor) / (powers[0] + floor)).log10(), vmin=-1, vmax=1, cmap="RdBu_r")
    plane.set(xticks=[], yticks=[], xlabel="kx", ylabel="kz (beam)", title="power, after / before")
    right.colorbar(image, ax=plane, label="log10")
    fig.suptitle(title, fontsize=10)
    return fig
