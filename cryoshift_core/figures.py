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


def tomogram(data: np.ndarray, zyx: np.ndarray | None, groups: np.ndarray | None, pixel_size: float) -> Figure:
    """Up to three z slices of a tomogram with the coordinates within one voxel of each; a colour per group."""
    heights = zyx[:, 0] if zyx is not None and len(zyx) else np.arange(len(data))
    levels = np.unique(np.quantile(heights, (0.15, 0.5, 0.85)).round().astype(int))
    size = (10 * len(levels) / 3, 3.6)
    fig, axes = plt.subplots(1, len(levels), figsize=size, squeeze=False, layout="constrained")
    for ax, z in zip(axes[0], levels, strict=True):
        show(ax, data[z], f"z = {z} ({z * pixel_size / 10:.0f} nm)")
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


def _bar(ax: Axes, found: tuple[float, float, float], at: float, colour: str) -> None:
    """A point with its interval, lying; without an interval where there is none."""
    mean, low, high = found
    if np.isfinite(low):
        ax.errorbar(mean, at, xerr=[[mean - low], [high - mean]], fmt="o", ms=5, color=colour, capsize=3)
    else:
        ax.plot(mean, at, "o", ms=5, mec=colour, mfc="white")


def gap_closed(found: Mapping[str, Mapping[str, tuple]], wanted: Mapping[str, float]) -> Figure:
    """scenario -> method -> (gap closed, low, high): bars between source_only (0) and oracle (1), and the aims."""
    methods = list(dict.fromkeys(m for by_method in found.values() for m in by_method))
    height = 0.8 / len(methods)
    fig, ax = plt.subplots(figsize=(7, 0.34 * len(found) * len(methods) + 1.7), layout="constrained")
    named = {}
    for i, (scenario, by_method) in enumerate(found.items()):
        for j, name in enumerate(methods):
            if name in by_method:
                value, low, high = by_method[name]
                at = i + (j - (len(methods) - 1) / 2) * height
                bar = ax.barh(at, value, 0.9 * height, color=COLOURS.get(name, "#55A868"))
                ax.errorbar(value, at, xerr=[[value - low], [high - value]], fmt="none", color="black", capsize=3)
                ax.annotate(f"{value:.0%}", (1.01, at), xycoords=("axes fraction", "data"), va="center", fontsize=8)
                named[name] = bar
        if scenario in wanted:
            (aim,) = ax.plot([wanted[scenario]] * 2, [i - 0.47, i + 0.47], color="#B8860B", lw=2, ls=":")
            named["aim for cryoshift"] = aim
    ax.axvline(0, color="0.5")
    ax.axvline(1, color="0.5", ls="--")
    for x, text in ((0, "source_only"), (1, "oracle")):
        ax.annotate(text, (x, 1), (0, 3), xycoords=("data", "axes fraction"), textcoords="offset points",
                    ha="center", fontsize=8, color="0.4")  # fmt: skip
    ax.set_yticks(range(len(found)), list(found))
    ax.xaxis.set_major_formatter("{x:.0%}")
    ends = [end for by_method in found.values() for _, low, high in by_method.values() for end in (low, high)]
    ax.set_xlim(max(-1.0, min(-0.1, *ends) - 0.05), min(2.0, max(1.1, *ends) + 0.05))  # few seeds: endless intervals
    ax.invert_yaxis()
    ax.set(xlabel="gap closed: 0 % is no better than without adaptation, 100 % as good as trained on target labels")
    ax.set_title("How much of the gap is closed without a label (95 % interval over seeds)", pad=18)
    fig.legend(named.values(), named.keys(), loc="outside lower center", ncols=4)
    return fig


def forest(found: Mapping[str, tuple[float, float, float]], title: str, label: str) -> Figure:
    """Name -> (difference, low, high): a point with its interval each, sorted; red where all of it is below 0.

    A single seed has no interval (NaN), and is drawn hollow.
    """
    fig, ax = plt.subplots(figsize=(6.4, 0.32 * len(found) + 1.5), layout="constrained")
    rows = sorted(found.items(), key=lambda item: item[1][0])
    for i, (_, (mean, low, high)) in enumerate(rows):
        colour = "#C44E52" if high < 0 else "#55A868" if low > 0 else "0.45"
        _bar(ax, (mean, low, high), i, colour)
        alone = "" if np.isfinite(low) else " (one seed)"
        ax.annotate(f"{mean:+.3f}{alone}", (1.01, i), xycoords=("axes fraction", "data"), va="center", fontsize=8)
    ax.axvline(0, color="black", lw=1)
    ax.set_yticks(range(len(rows)), [name for name, _ in rows])
    ax.set(title=f"{title}\nred: worse, green: better, grey: not distinguishable (95 % interval)", xlabel=label)
    ax.set_ylim(len(rows) - 0.4, -0.6)
    return fig


def factors(found: Mapping[str, Mapping[str, tuple]]) -> Figure:
    """scenario -> method -> (score, low, high): a grey bar from the lower to the upper bound, a dot per method."""
    fig, ax = plt.subplots(figsize=(6.6, 0.46 * len(found) + 1.7), layout="constrained")
    named = {}
    for i, by_method in enumerate(found.values()):
        means = [by_method[name][0] for name in ("source_only", "oracle") if name in by_method]
        ax.plot(means, [i] * len(means), color="0.9", lw=16, solid_capstyle="butt", zorder=0)
        for j, (name, interval) in enumerate(by_method.items()):
            colour = COLOURS.get(name, "#55A868")
            _bar(ax, interval, i + 0.22 * (j - (len(by_method) - 1) / 2), colour)
            named[name] = plt.Line2D([], [], marker="o", ls="", color=colour)
    ax.set_yticks(range(len(found)), list(found))
    ax.set(xlabel="balanced accuracy on target-test (95 % interval over seeds)", ylim=(len(found) - 0.4, -0.6))
    ax.set_xlim(right=min(1.02, ax.get_xlim()[1]))
    ax.set_title("One factor at a time (level 2): the grey bar is the gap that adaptation may close")
    fig.legend(named.values(), named.keys(), loc="outside lower center", ncols=4)
    return fig


def recall_map(found: Mapping[str, Mapping[str, float]], title: str) -> Figure:
    """method -> class -> recall, as a table of colours with the per cent written in."""
    classes = list(next(iter(found.values())))
    shares = np.array([[by_class.get(name, np.nan) for name in classes] for by_class in found.values()])
    fig, ax = plt.subplots(figsize=(0.72 * len(classes) + 2.6, 0.34 * len(found) + 1.9), layout="constrained")
    image = ax.imshow(shares, cmap="viridis", vmin=0, vmax=1, aspect="auto")
    for (i, j), share in np.ndenumerate(shares):
        if np.isfinite(share):
            ax.text(j, i, f"{100 * share:.0f}", ha="center", va="center", fontsize=8,
                    color="black" if share > 0.6 else "white")  # fmt: skip
    ax.set_xticks(range(len(classes)), classes, rotation=40, ha="right")
    ax.set_yticks(range(len(found)), list(found))
    ax.set_title(f"{title}, in %")
    fig.colorbar(image, label="recall")
    return fig


def regret(found: Mapping[str, Mapping[str, float]]) -> Figure:
    """run -> {"last", "selected", "best"} -> score: what choosing without labels costs against the best checkpoint."""
    fig, ax = plt.subplots(figsize=(7, 0.34 * len(found) + 1.7), layout="constrained")
    marks = {"last": ("s", "0.6"), "selected": ("o", "#4C72B0"), "best": ("D", "#222222")}
    for i, scores in enumerate(found.values()):
        ax.plot([scores["selected"], scores["best"]], [i, i], color="#C44E52", lw=2.5, zorder=0,
                label="regret" if i == 0 else None)  # fmt: skip
        for kind, (marker, colour) in marks.items():
            ax.plot(scores[kind], i, marker, ms=6, mfc="none" if kind != "selected" else colour, mec=colour,
                    label=f"{kind} checkpoint" if i == 0 else None)  # fmt: skip
        cost = scores["best"] - scores["selected"]
        ax.annotate(f"{cost:.3f}", (1.01, i), xycoords=("axes fraction", "data"), va="center", fontsize=8)
    ax.set_yticks(range(len(found)), list(found))
    ax.set(xlabel="balanced accuracy on target-test, mean over seeds", ylim=(len(found) - 0.4, -0.6))
    ax.set_title("Choosing a checkpoint without labels; at the right the regret")
    fig.legend(*ax.get_legend_handles_labels(), loc="outside lower center", ncols=4)
    return fig


def curves(found: Mapping[str, Mapping[str, Mapping[float, Sequence[float]]]], labels: Mapping[str, str]) -> Figure:
    """knob -> method -> value -> scores: a panel per knob, a line through the means, a pale dot per seed."""
    rows = -(-len(found) // 3)
    columns = min(3, len(found))
    size = (max(3.8, 3.1 * columns), 2.6 * rows + 0.7)
    fig, axes = plt.subplots(rows, columns, figsize=size, layout="constrained", squeeze=False, sharey=True)
    for ax in axes.flat[len(found) :]:
        ax.set_axis_off()
    for ax, (knob, by_method) in zip(axes.flat, found.items(), strict=False):
        for name, line in by_method.items():
            colour = COLOURS.get(name, "#55A868")
            values = sorted(line)
            ax.plot(values, [np.mean(line[v]) for v in values], "-", color=colour, label=name)
            for v in values:
                ax.plot([v] * len(line[v]), line[v], "o", ms=3, alpha=0.45, color=colour)
        if knob in ("snr", "unlabelled", "imbalance"):
            ax.set_xscale("log")
        ax.set(xlabel=labels[knob], ylim=(0, 1.02))
    for ax in axes[:, 0]:
        ax.set_ylabel("balanced accuracy")
    title = "One number of the target at a time:", "a dot per seed, a line through their means"
    fig.suptitle((" " if columns > 1 else "\n").join(title), fontsize=10)
    handles, names = axes.flat[0].get_legend_handles_labels()
    fig.legend(handles, names, loc="outside lower center", ncols=3)
    return fig


def spike_against_truth(found: Sequence[tuple[str, str, float, float]], said: str) -> Figure:
    """(method, scenario, spike-in estimate, true score) per run: a colour per method, a mark per scenario."""
    methods, scenarios = (list(dict.fromkeys(row[i] for row in found)) for i in (0, 1))
    marks = dict(zip(scenarios, "os^DvP*X" * len(scenarios), strict=False))
    others = dict(zip(methods, plt.get_cmap("tab10").colors * len(methods), strict=False))
    colours = {name: COLOURS.get(name, "#55A868" if name == "cryoshift" else others[name]) for name in methods}
    fig, ax = plt.subplots(figsize=(5.6, 5.4), layout="constrained")
    ax.plot([0, 1], [0, 1], color="0.75", lw=1, zorder=0)
    for method, scenario, estimate, truth in found:
        ax.plot(estimate, truth, marks[scenario], color=colours[method], ms=6, alpha=0.75, mec="none")
    handles = [plt.Line2D([], [], marker="o", ls="", color=colours[name], label=name) for name in methods]
    handles += [plt.Line2D([], [], marker=marks[s], ls="", color="0.3", mfc="none", label=s) for s in scenarios]
    low = max(0.0, min(min(row[2:]) for row in found) - 0.05)
    ax.set(xlim=(low, 1.01), ylim=(low, 1.01), aspect="equal")
    ax.set(xlabel="balanced accuracy on spiked molecules (label-free)", ylabel="balanced accuracy on target-test (key)")
    fig.suptitle(f"Spike-in estimate against the truth\n{said}", fontsize=9)
    fig.legend(handles=handles, loc="outside lower center", ncols=4, fontsize=8)
    return fig


def warp_sheet(before: Tensor, after: Tensor, title: str, names: Sequence[str], pixel_size: float) -> Figure:
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
        radial.semilogy(k / pixel_size, power, label=name)
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
