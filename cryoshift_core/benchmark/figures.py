"""Figures of the benchmark. Each function returns a matplotlib Figure; colours and markers are those of the course."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import cycle
from typing import Literal

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from ..application.pictures import COLOURS, OTHERS, heat_map, show
from ..metrics import Interval
from .jobs import FACTORS, MIXED
from .statistics import Comparison, LamellaScore, ParticleScore, SpikeIn

# Okabe-Ito colours that stand for nothing else here
PURPLE, SKY, YELLOW = "#CC79A7", "#56B4E9", "#F0E442"
MARKERS = {"source_only": "s", "cryoshift_reference": "^", "cryoshift_warps": "v", "cryoshift": "o", "oracle": "D"}
LINES = {
    "source_only": ":",
    "cryoshift_reference": "-.",
    "cryoshift_warps": (0, (5, 1, 1, 1)),
    "cryoshift": "-",
    "oracle": "--",
}
FILLS: dict[str, Literal["full", "left", "none"]] = {
    "source_only": "none",
    "cryoshift_reference": "left",
    "cryoshift_warps": "left",
    "cryoshift": "full",
}
LOGARITHMIC = ("snr", "unlabelled", "imbalance")


def _colour(method: str) -> str:
    return COLOURS.get(method, SKY)


def _point(ax: Axes, value: Interval, height: float, colour: str, marker: str = "o") -> None:
    """A point with a horizontal error bar; hollow and without a bar for a single seed."""
    if np.isfinite(value.low):
        xerr = [[value.mean - value.low], [value.high - value.mean]]
        ax.errorbar(value.mean, height, xerr=xerr, fmt=marker, ms=5.5, color=colour, capsize=3)
    else:
        ax.plot(value.mean, height, marker, ms=5.5, mec=colour, mfc="white")


def _values_at_the_right(ax: Axes, texts: Iterable[tuple[float, str]]) -> None:
    for height, text in texts:
        ax.annotate(text, (1.01, height), xycoords=("axes fraction", "data"), va="center", fontsize=8)


def gap_closed(found: Mapping[str, Mapping[str, Interval]], goals: Mapping[str, float], seeds: str) -> Figure:
    """Bars of the gap closed between source_only (0 %) and oracle (100 %), with the goals.

    Parameters
    ----------
    found : scenario -> method -> gap closed
    goals : scenario -> the smallest gap closed that counts as reached
    seeds : such as "10 seeds", for the title
    """
    methods = list(dict.fromkeys(m for by_method in found.values() for m in by_method))
    height = 0.8 / len(methods)
    fig, ax = plt.subplots(figsize=(7.4, 0.42 * len(found) * len(methods) + 2.0), layout="constrained")
    legend = {}
    for i, (scenario, by_method) in enumerate(found.items()):
        for j, name in enumerate(methods):
            if name not in by_method:
                continue
            value, at = by_method[name], i + (j - (len(methods) - 1) / 2) * height
            ax.barh(at, value.mean, 0.85 * height, color=_colour(name), alpha=0.45)
            _point(ax, value, at, _colour(name), MARKERS.get(name, "v"))
            _values_at_the_right(ax, [(at, f"{value.mean:.0%}")])
            legend[name] = Line2D([], [], marker=MARKERS.get(name, "v"), lw=6, alpha=0.7, color=_colour(name))
        if scenario in goals:
            (line,) = ax.plot([goals[scenario]] * 2, [i - 0.47, i + 0.47], color="black", lw=2, ls=":")
            legend["goal for cryoshift"] = line
    ax.axvline(0, color="0.5")
    ax.axvline(1, color="0.5", ls="--")
    for x, text in ((0, "source_only"), (1, "oracle")):
        ax.annotate(text, (x, 1), (0, 3), xycoords=("data", "axes fraction"), textcoords="offset points",
                    ha="center", fontsize=8, color="0.3")  # fmt: skip
    ax.set_yticks(range(len(found)), list(found))
    ax.xaxis.set_major_formatter("{x:.0%}")
    ends = [end for by_method in found.values() for v in by_method.values() for end in (v.low, v.high)]
    ax.set_xlim(max(-1.0, min(-0.1, *ends) - 0.05), min(2.0, max(1.1, *ends) + 0.05))  # intervals have no bounds
    ax.invert_yaxis()
    ax.set(xlabel="gap closed (0 %: as source_only, 100 %: as the oracle, which has target labels)")
    caption = f"bar: ratio of means, error bar: 95 % Fieller interval over {seeds}"
    ax.set_title(f"Gap closed without target labels\n{caption}", pad=18)
    fig.legend(legend.values(), legend.keys(), loc="outside lower center", ncols=4)
    return fig


def forest(found: Mapping[str, Comparison], title: str, label: str) -> Figure:
    """A point with its interval for each paired difference, sorted; marker and colour say where the interval lies.

    The value and the number of seeds stand at the right. A single seed has no interval and is drawn hollow.
    """
    fig, ax = plt.subplots(figsize=(7, 0.32 * len(found) + 2.0), layout="constrained")
    rows = sorted(found.items(), key=lambda item: item[1].interval.mean)
    kinds = {"worse": ("<", PURPLE), "better": (">", SKY), "not distinguishable": ("o", "0.45")}
    for i, (_, comparison) in enumerate(rows):
        value = comparison.interval
        marker, colour = kinds[comparison.outcome]
        _point(ax, value, i, colour, marker)
        _values_at_the_right(ax, [(i, f"{value.mean:+.3f} (n = {comparison.seeds})")])
    ax.axvline(0, color="black", lw=1)
    ax.set_yticks(range(len(rows)), [name for name, _ in rows])
    ax.set(xlabel=label, ylim=(len(rows) - 0.4, -0.6))
    ax.set_title(f"{title}\npoint: mean, error bar: 95 % t interval over n seeds, paired by seed")
    handles = [Line2D([], [], marker=marker, color=colour) for marker, colour in kinds.values()]
    fig.legend(handles, list(kinds), loc="outside lower center", ncols=3)
    return fig


def alignment(found: Mapping[str, Sequence[float]], title: str) -> Figure:
    """A dot for each method: proxy A-distance of its features, and balanced accuracy on target-test."""
    fig, ax = plt.subplots(figsize=(6.6, 3.4), layout="constrained")
    for i, (name, (distance, score)) in enumerate(found.items()):
        colour = COLOURS.get(name, OTHERS[i % len(OTHERS)])
        ax.plot(distance, score, "osD^vPX"[i % 7], ms=7, color=colour, label=name)
    fig.legend(loc="outside right center", fontsize=8)
    ax.set(xlabel="proxy A-distance of the features, source against target", ylabel="balanced accuracy, target-test")
    ax.set_title(title)
    ax.margins(0.1)
    return fig


def factors(found: Mapping[str, Mapping[str, Interval]], seeds: str) -> Figure:
    """scenario -> method -> score: a grey bar from source_only to the oracle, and a point for each method."""
    fig, ax = plt.subplots(figsize=(7, 0.5 * len(found) + 2.0), layout="constrained")
    legend = {}
    for i, by_method in enumerate(found.values()):
        ends = [by_method[name].mean for name in ("source_only", "oracle") if name in by_method]
        ax.plot(ends, [i] * len(ends), color="0.9", lw=18, solid_capstyle="butt", zorder=0)
        for j, (name, value) in enumerate(by_method.items()):
            marker = MARKERS.get(name, "v")
            _point(ax, value, i + 0.24 * (j - (len(by_method) - 1) / 2), _colour(name), marker)
            legend[name] = Line2D([], [], marker=marker, ls="", color=_colour(name))
    ax.set_yticks(range(len(found)), list(found))
    ax.set(xlabel="balanced accuracy on target-test", ylim=(len(found) - 0.4, -0.6))
    ax.set_xlim(right=min(1.02, ax.get_xlim()[1]))
    ax.set_title(
        f"One factor at a time (level 2); grey bar: gap from source_only to oracle\n"
        f"point: mean, error bar: 95 % t interval over {seeds}"
    )
    fig.legend(legend.values(), legend.keys(), loc="outside lower center", ncols=4)
    return fig


def recall_map(found: Mapping[str, Mapping[str, float]], title: str) -> Figure:
    """method -> class -> recall, as a coloured table with the percentages in it."""
    classes = list(next(iter(found.values())))
    values = np.array([[by_class.get(name, np.nan) for name in classes] for by_class in found.values()])
    texts = np.array([[f"{100 * value:.0f}" if np.isfinite(value) else "" for value in row] for row in values])
    fig = heat_map(values, texts, list(found), classes, "recall (numbers: %)")
    fig.axes[0].set_title(title)
    return fig


def regret(found: Mapping[str, Mapping[str, float]], seeds: str) -> Figure:
    """run -> {"last", "selected", "best"} -> score: the cost of selection without target labels."""
    fig, ax = plt.subplots(figsize=(7.4, 0.36 * len(found) + 2.0), layout="constrained")
    marks = {"last": ("s", "0.6", "none"), "selected": ("o", "black", "black"), "best": ("D", "black", "none")}
    for i, scores in enumerate(found.values()):
        ax.plot([scores["selected"], scores["best"]], [i, i], color=PURPLE, lw=4, zorder=0,
                label="regret" if i == 0 else None)  # fmt: skip
        for kind, (marker, edge, fill) in marks.items():
            ax.plot(scores[kind], i, marker, ms=8 if kind == "best" else 5, mfc=fill, mec=edge,
                    label=f"{kind} checkpoint" if i == 0 else None)  # fmt: skip
    _values_at_the_right(ax, [(i, f"{s['best'] - s['selected']:.3f}") for i, s in enumerate(found.values())])
    ax.set_yticks(range(len(found)), list(found))
    ax.set(xlabel="balanced accuracy on target-test", ylim=(len(found) - 0.4, -0.6))
    ax.set_title(f"Selection of a checkpoint without target labels\npoints: mean over {seeds}; at the right: regret")
    fig.legend(*ax.get_legend_handles_labels(), loc="outside lower center", ncols=4)
    return fig


def curves(
    found: Mapping[str, Mapping[str, Mapping[float, Sequence[float]]]], labels: Mapping[str, str], title: str
) -> Figure:
    """Swept parameter -> method -> value -> scores: a panel per parameter, a line of means, a pale dot per seed."""
    rows, columns = -(-len(found) // 3), min(3, len(found))
    size = (max(4.2, 3.1 * columns), 2.6 * rows + 1.0)
    fig, axes = plt.subplots(rows, columns, figsize=size, layout="constrained", squeeze=False, sharey=True)
    for ax in axes.flat[len(found) :]:
        ax.set_axis_off()
    counts = sorted({len(s) for by_method in found.values() for line in by_method.values() for s in line.values()})
    for ax, (parameter, by_method) in zip(axes.flat, found.items(), strict=False):
        for name, line in by_method.items():
            colour, values = _colour(name), sorted(line)
            ax.plot(values, [np.mean(line[v]) for v in values], LINES.get(name, "-"), marker=MARKERS.get(name, "v"),
                    ms=4, color=colour, label=name)  # fmt: skip
            for v in values:
                ax.plot([v] * len(line[v]), line[v], ".", ms=5, alpha=0.4, color=colour)
        if parameter in LOGARITHMIC:
            ax.set_xscale("log")
            ax.xaxis.set_major_formatter("{x:g}")
        ax.set(xlabel=labels[parameter], ylim=(0, 1.02))
    for ax in axes[:, 0]:
        ax.set_ylabel("balanced accuracy")
    number = f"{counts[0]} or {counts[-1]} seeds" if len(counts) > 1 else f"{counts[0]} seed{'s'[: counts[0] > 1]}"
    fig.suptitle(f"{title}\nline: mean over {number}; dots: single seeds", fontsize=10)
    handles, names = axes.flat[0].get_legend_handles_labels()
    fig.legend(handles, names, loc="outside lower center", ncols=3)
    return fig


def spike_in_against_truth(found: Sequence[SpikeIn], errors: str) -> Figure:
    """A point for each run: colour and fill for its method, marker for its scenario; `errors` goes into the title.

    Scenarios of one family share a marker: there are more of them than markers that can be told apart.
    """
    methods = list(dict.fromkeys(run.method for run in found))
    family = {run.scenario: "single factors" if run.scenario in FACTORS else "other mixes" if run.scenario in MIXED
              else run.scenario for run in found}  # fmt: skip
    marks = dict(zip(sorted(set(family.values())), cycle("os^DvP*X"), strict=False))
    fig, ax = plt.subplots(figsize=(5.8, 5.9), layout="constrained")
    ax.plot([0, 1], [0, 1], color="0.6", lw=1, zorder=0)
    for run in found:
        ax.plot(run.estimate, run.true, marks[family[run.scenario]], color=_colour(run.method), ms=6, alpha=0.8,
                fillstyle=FILLS.get(run.method, "full"))  # fmt: skip
    handles = [
        Line2D([], [], marker="o", ls="", color=_colour(m), fillstyle=FILLS.get(m, "full"), label=m) for m in methods
    ]
    handles += [Line2D([], [], marker=mark, ls="", color="0.3", mfc="none", label=name) for name, mark in marks.items()]
    low = max(0.0, min(min(run.estimate, run.true) for run in found) - 0.05)
    ax.set(xlim=(low, 1.01), ylim=(low, 1.01), aspect="equal")
    ax.set(xlabel="balanced accuracy on spike-ins (no target labels)", ylabel="balanced accuracy on target-test")
    ax.annotate("estimate too high", (0.97, 0.05), xycoords="axes fraction", ha="right", fontsize=8, color="0.3")
    ax.annotate("estimate too low", (0.03, 0.95), xycoords="axes fraction", va="top", fontsize=8, color="0.3")
    fig.suptitle(f"Spike-in estimate against true score, one point per run\n{errors}", fontsize=9)
    fig.legend(handles=handles, loc="outside lower center", ncols=3, fontsize=8)
    return fig


def _model_rows(names: Sequence[tuple[str, str]]) -> tuple[list[str], list[Line2D]]:
    """Labels of rows (method, model), and legend handles: hollow as trained, filled as chosen."""
    handles = [
        Line2D([], [], marker="o", ls="", color="0.3", mfc="white", label="as trained: last checkpoint"),
        Line2D([], [], marker="o", ls="", color="0.3", label="as chosen: selected without labels"),
    ]
    return [f"{method}, {model}" for method, model in names], handles


def real_lamella(found: Sequence[LamellaScore]) -> Figure:
    """A row of panels per mix, AUC and recall at 5 % calls: a dot per seed with its interval over blocks."""
    mixes = list(dict.fromkeys(s.mix for s in found))
    most = max(sum(s.mix == mix for s in found) for mix in mixes)
    size = (8.2, len(mixes) * (0.36 * most + 0.6) + 1.3)
    fig, axes = plt.subplots(len(mixes), 2, figsize=size, layout="constrained", squeeze=False, sharex="col")
    handles: list[Line2D] = []
    for (left, right), mix in zip(axes, mixes, strict=True):
        mine = [s for s in found if s.mix == mix]
        labels, handles = _model_rows([(s.method, s.model) for s in mine])
        for i, s in enumerate(mine):
            colour, marker = _colour(s.method), MARKERS.get(s.method, "v")
            for ax, values in ((left, s.auc), (right, s.recall_5)):
                for j, value in enumerate(values):
                    at = i + 0.14 * (j - (len(values) - 1) / 2)
                    ax.plot([value.low, value.high], [at, at], color=colour, lw=1, alpha=0.5)
                    ax.plot(value.mean, at, marker, ms=4.5, mec=colour,
                            mfc=colour if s.model == "as chosen" else "white")  # fmt: skip
                mean = float(np.mean([value.mean for value in values]))
                _values_at_the_right(ax, [(i, f"{mean:.3f}")])
        left.set_yticks(range(len(mine)), labels)
        right.set_yticks([])
        left.set_title(f"mix {mix}", loc="left")
        for ax in (left, right):
            ax.set_ylim(len(mine) - 0.4, -0.6)
    for column in axes.T:
        column[0].set_xlim(right=1.01)  # shared by the panels below; after all of them are drawn
    axes[-1, 0].set_xlabel("AUC, listed ribosomes against random positions")
    axes[-1, 1].set_xlabel("recall at 5 % calls on random positions")
    counts = sorted({s.seeds for s in found})
    seeds = f"{counts[0]} to {counts[-1]} seeds" if len(counts) > 1 else f"{counts[0]} seed{'s'[: counts[0] > 1]}"
    caption = f"dot: one of {seeds}, line: its 95 % interval over blocks of the tomogram, at the right: mean"
    fig.suptitle(f"Yeast lamella, 80S ribosomes\n{caption}", fontsize=9)
    fig.legend(handles=handles, loc="outside lower center", ncols=2)
    return fig


def real_particles(found: Sequence[ParticleScore]) -> Figure:
    """A row per method and model: a dot for each held-out particle, and below them the mean and its interval."""
    fig, ax = plt.subplots(figsize=(7.4, 0.55 * len(found) + 1.9), layout="constrained")
    labels, handles = _model_rows([(s.method, s.model) for s in found])
    for i, s in enumerate(found):
        colour = _colour(s.method)
        values = list(s.by_particle.values())
        ax.plot(values, [i - 0.14] * len(values), ".", ms=6, color=colour, alpha=0.7)
        marker = MARKERS.get(s.method, "v")
        ax.plot([s.mean.low, s.mean.high], [i + 0.2] * 2, color=colour, lw=1.5)
        ax.plot(s.mean.mean, i + 0.2, marker, ms=6, mec=colour, mfc=colour if s.model == "as chosen" else "white")
    lowest = [min((value, number) for number, value in s.by_particle.items()) for s in found]
    texts = [f"{s.mean.mean:.3f}, lowest {v:.3f} (particle {n})" for s, (v, n) in zip(found, lowest, strict=True)]
    _values_at_the_right(ax, enumerate(texts))
    ax.set_yticks(range(len(found)), labels)
    ax.set(xlabel="balanced accuracy, Gag lattice against background", ylim=(len(found) - 0.4, -0.6))
    seeds = max(s.seeds for s in found)
    title = f"HIV tomogram: a dot per held-out particle (mean over {seeds} seeds)"
    ax.set_title(f"{title}\nbelow: mean and 95 % t interval over particles")
    fig.legend(handles=handles, loc="outside lower center", ncols=2)
    return fig


POSITIONS = {
    "listed ribosome": ("o", "#009E73"),
    "random position": ("x", "#56B4E9"),
    "unlisted dense blob": ("s", "#D55E00"),
}


def lamella_positions(volume: np.ndarray, positions: Mapping[str, np.ndarray], depth: int = 3) -> Figure:
    """Three sections of the lamella with the positions of each kind within `depth` voxels of them.

    Parameters
    ----------
    volume : (Z, Y, X), protein dark
    positions : name in POSITIONS -> (N, 3) zyx voxels
    """
    levels = [round(len(volume) * part) for part in (0.3, 0.5, 0.7)]
    fig, axes = plt.subplots(1, 3, figsize=(10.5, 4.2), layout="constrained")
    for ax, z in zip(axes, levels, strict=True):
        show(ax, np.asarray(volume[z - 1 : z + 2], float).mean(0), f"z = {z}, positions within {depth} voxels")
        for name, (marker, colour) in POSITIONS.items():
            near = positions[name][np.abs(positions[name][:, 0] - z) <= depth]
            face = colour if marker == "x" else "none"
            ax.scatter(near[:, 2], near[:, 1], 42, marker=marker, facecolors=face, edgecolors=None if marker == "x" else
                       colour, linewidths=1.4)  # fmt: skip
    handles = [
        Line2D([], [], ls="", marker=marker, color=colour, mfc="none", label=f"{name} ({len(positions[name])})")
        for name, (marker, colour) in POSITIONS.items()
    ]
    fig.legend(handles=handles, loc="outside lower center", ncols=3)
    return fig
