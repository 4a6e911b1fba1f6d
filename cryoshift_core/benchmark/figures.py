"""Figures of the benchmark. Each function returns a matplotlib Figure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ..application.pictures import COLOURS


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
