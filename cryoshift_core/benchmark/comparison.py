"""Statistics, figures and the page of a comparison, from what :mod:`collect` returns. The unit is the seed."""

from __future__ import annotations

import html
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import cycle
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure

from ..application.pictures import COLOURS, SEVENTH
from ..application.report import data_url
from ..errors import InputError
from ..metrics import FRACTION, UNBOUNDED, Interval, interval
from ..support.runtime import did_you_mean, write_text
from .collect import Scored
from .figures import LINES, MARKERS
from .jobs import BOUNDS
from .statistics import Comparison, difference, gap_closed, holm, p_text, p_value, paired

PANELS, ROWS = 9, 64  # targets that a figure shows, and configurations in one of its columns
WIDEST = 9.0  # inches of a figure whose labels are still read on a page
ONE_LINE = 24  # characters of a cell that is not broken on a page: an interval fits
CYCLE = ("#CC79A7", "#56B4E9", SEVENTH)  # of lines: neither those of the domains nor those of methods with their own
SHAPES = "osD^v<>P"
FREE = ("#CC79A7", "#F0E442", "#56B4E9", "#FFFFFF", "#BBBBBB")  # of filled markers, likewise


@dataclass(frozen=True)
class Line:
    """One configuration on one target, over its seeds.

    Attributes
    ----------
    seeds, base : seed -> score, of the configuration and of the baseline that it is compared with
    score : mean with its 95 % t interval over seeds
    over : paired difference to the baseline; None for the baseline itself or without shared seeds
    closed : gap closed between source_only and oracle; None where there is no gap, or no such runs
    cpu_seconds : mean over seeds, of training; NaN where it is not known
    """

    target: str
    label: str
    method: str
    seeds: dict[str, float]
    base: dict[str, float]
    score: Interval
    over: Comparison | None
    closed: Interval | None
    cpu_seconds: float


def models(found: Iterable[Scored]) -> list[str]:
    """Models that the results have, such as "as chosen" and "as trained"."""
    return list(dict.fromkeys(one.model for one in found))


def scores(found: Iterable[Scored]) -> list[str]:
    """Scores that the results have, those of most runs first, without costs, amounts and recalls of classes."""
    counted = Counter(name for one in found for name in one.values if not name.startswith("recall:"))
    costs = ("cpu_seconds", "seconds", "peak_memory_mb", "wall_seconds")
    return [name for name, _ in counted.most_common() if name not in costs and not name.startswith("n_")]


def devices(found: Iterable[Scored]) -> list[str]:
    """Kinds of devices that finished runs computed on."""
    return sorted({one.device for one in found if one.device and one.status == "finished"})


def check_score(found: Sequence[Scored], score: str) -> str:
    """`score`, or for "" balanced_accuracy, or else the first score that there is.

    Raises
    ------
    InputError
        no result has this score
    """
    known = scores(found)
    usual = [name for name in ("balanced_accuracy", "confidence", *known) if name in known]
    if not known or (score and score not in known):
        raise InputError(
            f"Expected a score out of {', '.join(known) or 'none'}, got '{score}'{did_you_mean(score, known)}"
        )
    return score or usual[0]


def _bounds(values: Iterable[float], score: str) -> tuple[float, float]:
    fraction = score.endswith(("accuracy", "recall", "confidence", "macro_f1", "ece"))
    return FRACTION if fraction and all(0 <= v <= 1 for v in values) else UNBOUNDED


def lines(found: Sequence[Scored], score: str, baseline: str = "source_only", model: str = "as chosen") -> list[Line]:
    """One line for each target and configuration that has the score, sorted by target and mean.

    The p-values of `over` are adjusted for all lines (Holm).

    Parameters
    ----------
    baseline : a method, or the label of a configuration
    model : of :func:`models`
    """
    values: dict[tuple[str, str, str], dict[str, float]] = {}
    spent: dict[tuple[str, str, str], list[float]] = {}
    for one in found:
        if one.status == "finished" and one.model == model and math.isfinite(one.values.get(score, math.nan)):
            key = (one.target, one.label, one.method)
            values.setdefault(key, {})[one.seed] = one.values[score]
            if "cpu_seconds" in one.values:
                spent.setdefault(key, []).append(one.values["cpu_seconds"])
    made = []
    for (target, label, method), seeds in values.items():
        base = _reference(values, target, label, baseline)
        low, high = (_reference(values, target, label, name) for name in BOUNDS)
        over, closed = None, None
        if base and label != baseline and method != baseline and (both := paired(seeds, base))[0]:
            p = math.nan if method in BOUNDS else p_value(*both)  # the oracle is no method under test
            over = Comparison(difference(*both), len(both[0]), p)
        if low and high and method not in BOUNDS and len((three := paired(seeds, low, high))[0]) > 1:
            closed = gap_closed(*three)
        mean = interval(list(seeds.values()), bounds=_bounds(seeds.values(), score))
        cost = float(np.mean(spent.get((target, label, method), [math.nan])))
        made.append(Line(target, label, method, seeds, base, mean, over, closed, cost))
    family = holm({(line.target, line.label): line.over.p for line in made if line.over})
    adjusted = [
        replace(line, over=replace(line.over, p=family[line.target, line.label])) if line.over else line
        for line in made
    ]
    return sorted(adjusted, key=lambda line: (line.target, -line.score.mean))


def _reference(
    values: Mapping[tuple[str, str, str], dict[str, float]], target: str, label: str, name: str
) -> dict[str, float]:
    """Seed -> score of a reference on a target: of the same swept parameters if it has them, else of the plain one."""
    swept = label.partition(", ")[2]
    for wanted in (f"{name}, {swept}", name):
        for (where, found, _), seeds in values.items():
            if where == target and found == wanted:
                return seeds
    for (where, _, method), seeds in values.items():
        if where == target and method == name:
            return seeds
    return {}


@dataclass(frozen=True)
class ClassChange:
    """Recall of one class with a configuration less that of the baseline, paired by seed; `over.p` is adjusted."""

    target: str
    label: str
    name: str
    over: Comparison


def harm(found: Sequence[Scored], baseline: str = "source_only", model: str = "as chosen") -> list[ClassChange]:
    """Change of the recall of each class, most negative first; empty where no recalls are known.

    The family of the adjusted p-values is all classes of all lines.
    """
    names = sorted({name for one in found for name in one.values if name.startswith("recall:")})
    every = {name: {(x.target, x.label): x for x in lines(found, name, baseline, model)} for name in names}
    raw, changes = {}, []
    for name, of_class in every.items():
        for (target, label), line in of_class.items():
            if line.over is None or line.method in BOUNDS:
                continue
            raw[target, label, name] = p_value(*paired(line.seeds, line.base))
            changes.append(ClassChange(target, label, name.partition(":")[2], line.over))
    p = holm(raw)
    adjusted = [replace(c, over=replace(c.over, p=p[c.target, c.label, f"recall:{c.name}"])) for c in changes]
    return sorted(adjusted, key=lambda c: c.over.interval.mean)


def curves(
    found: Sequence[Scored], score: str, model: str = "as chosen"
) -> dict[str, dict[str, dict[float, list[float]]]]:
    """Swept parameter -> "method, target" -> value -> scores, for parameters with two numeric values or more."""
    made: dict[str, dict[str, dict[float, list[float]]]] = {}
    for one in found:
        if one.status != "finished" or one.model != model or score not in one.values:
            continue
        for name, text in one.swept.items():
            if (value := _number(text)) is not None:
                others = [f"{n}={v}" for n, v in one.swept.items() if n != name and v]
                label = ", ".join([one.method, one.target, *others])
                made.setdefault(name, {}).setdefault(label, {}).setdefault(value, []).append(one.values[score])
    kept = {
        name: {label: dict(sorted(line.items())) for label, line in by_label.items() if len(line) > 1}
        for name, by_label in made.items()
    }
    return {name: by_label for name, by_label in kept.items() if by_label}


def _number(text: str) -> float | None:
    """The number in a value such as "3", or "mada:3" of a notebook's weights; None for other texts."""
    try:
        return float(text.rpartition(":")[2])
    except ValueError:
        return None


def status_table(found: Sequence[Scored], planned: Iterable[str] = ()) -> list[list[str]]:
    """Rows of status, number of runs, and what is wrong with them, each run once.

    Parameters
    ----------
    planned : names of all runs of a sweep, to count those that are missing
    """
    of_run = {one.run: one for one in found}
    missing = [name for name in planned if name not in of_run]
    rows = []
    for status in ("finished", "unfinished", "failed"):
        here = [one for one in of_run.values() if one.status == status]
        why = Counter(one.error for one in here if one.error)
        text = "; ".join(f"{n} x {error[:120]}" for error, n in why.most_common(5))
        if here:
            rows.append([status, str(len(here)), text])
    if missing:
        rows.append(["not started", str(len(missing)), ", ".join(missing[:3]) + (", ..." if len(missing) > 3 else "")])
    return rows


def cells(line: Line) -> list[str]:
    """A line as texts: target, configuration, seeds, score, difference, p, gap closed, CPU seconds."""
    over = line.over
    return [
        line.target,
        line.label,
        str(len(line.seeds)),
        f"{line.score:.3f}",
        f"{over.interval:+.3f}" if over else "",
        p_text(over.p) if over else "",
        f"{line.closed:.0%}" if line.closed else "n/a",
        f"{line.cpu_seconds:.0f}" if math.isfinite(line.cpu_seconds) else "",
    ]


HEADER = ["target", "configuration", "seeds", "score", "less the baseline", "p (Holm)", "gap closed", "CPU seconds"]


def targets(found: Iterable[Line]) -> list[str]:
    """Targets of the lines, those with most configurations first."""
    return [name for name, _ in Counter(line.target for line in found).most_common()]


def _columns(found: Iterable[Line]) -> tuple[int, float]:
    """Columns of panels that can still be read side by side, and the width of one in inches."""
    width = 2.6 + 0.085 * max(len(line.label) for line in found)
    return max(1, min(3, int(WIDEST / width))), width


def drawn(found: Sequence[Line]) -> list[str]:
    """Targets of :func:`draw_scores`: those with most configurations, at most PANELS, and ROWS lines a column."""
    names, n = targets(found)[:PANELS], Counter(line.target for line in found)
    while len(names) > 1 and sum(n[name] for name in names) > ROWS * _columns(found)[0]:
        names.pop()
    return names


def draw_scores(found: Sequence[Line], score: str) -> Figure:
    """A panel per target of :func:`drawn`: a pale dot per seed, and the mean with its 95 % t interval, of each line."""
    by_target = {target: [line for line in found if line.target == target] for target in drawn(found)}
    columns, width = _columns(found)
    columns = min(columns, len(by_target))
    rows = -(-len(by_target) // columns)
    most = [max(map(len, list(by_target.values())[i * columns : (i + 1) * columns])) for i in range(rows)]
    size = (width * columns, 0.25 * sum(most) + 0.9 * rows + 0.6)
    fig, axes = plt.subplots(
        rows,
        columns,
        figsize=size,
        layout="constrained",
        squeeze=False,
        sharex=True,
        height_ratios=[n + 2 for n in most],
    )
    for ax in axes.flat[len(by_target) :]:
        ax.set_axis_off()
    for i, (ax, (target, lines)) in enumerate(zip(axes.flat, by_target.items(), strict=False)):
        for at, line in enumerate(lines):
            colour = COLOURS.get(line.method, "0.4")
            ax.plot(list(line.seeds.values()), [at + 0.25] * len(line.seeds), ".", color=colour, alpha=0.7, ms=6)
            mean, low, high = line.score
            error = None if math.isnan(low) else [[mean - low], [high - mean]]
            marker = MARKERS.get(line.method, "o")
            fill = "white" if error is None else colour
            ax.errorbar(mean, at, xerr=error, fmt=marker, ms=5.5, color="black", mfc=fill, mec="black", capsize=3)
        ax.set_yticks(range(len(lines)), [line.label for line in lines])
        ax.set_ylim(most[i // columns] - 0.4, -0.6)
        ax.set_title(target, fontsize=10)
        ax.set_xlabel(score.replace("_", " "))
        ax.tick_params(labelbottom=True)
    fig.suptitle(
        "dot: one seed; marker: mean (hollow: one seed alone)\nerror bar: 95 % t interval over seeds", fontsize=9
    )
    return fig


def draw_curves(found: Mapping[str, Mapping[str, Mapping[float, Sequence[float]]]], score: str) -> Figure:
    """A panel per swept parameter: a line of means for each method and target, and a pale dot per seed."""
    fig, axes = plt.subplots(
        1, len(found), figsize=(3.6 * len(found) + 2.2, 3.4), layout="constrained", squeeze=False, sharey=True
    )
    every = list(dict.fromkeys(label for by_label in found.values() for label in by_label))
    methods = dict.fromkeys(label.partition(",")[0] for label in every)
    free = dict(zip((name for name in methods if name not in COLOURS), cycle(CYCLE), strict=False))
    for ax, (parameter, by_label) in zip(axes[0], found.items(), strict=True):
        for label, line in by_label.items():
            i, method = every.index(label), label.partition(",")[0]
            colour, values = COLOURS.get(method) or free[method], sorted(line)
            style, shape = LINES.get(method, "-"), SHAPES[i % len(SHAPES)]
            ax.plot(values, [np.mean(line[v]) for v in values], ls=style, marker=shape, ms=5, color=colour, label=label)
            for v in values:
                ax.plot([v] * len(line[v]), line[v], ".", ms=5, alpha=0.4, color=colour)
        numbers = [v for line in by_label.values() for v in line]
        if min(numbers) > 0 and max(numbers) / min(numbers) >= 10:
            ax.set_xscale("log")
            ax.minorticks_off()
            ax.set_xticks(sorted(set(numbers)), [f"{v:g}" for v in sorted(set(numbers))])
        ax.set_xlabel(parameter)
    axes[0, 0].set_ylabel(score.replace("_", " "))
    counts = sorted({len(s) for by in found.values() for line in by.values() for s in line.values()})
    number = f"{counts[0]} to {counts[-1]} seeds" if len(counts) > 1 else f"{counts[0]} seed{'s'[: counts[0] > 1]}"
    fig.suptitle(f"line: mean over {number}; dot: one seed", fontsize=9, x=0.01, ha="left")
    fig.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside right upper", fontsize=8)
    return fig


def draw_cost(found: Sequence[Line], score: str) -> Figure:
    """Mean score against mean CPU seconds of training: a panel for each of at most three targets with most lines."""
    known = [line for line in found if math.isfinite(line.cpu_seconds)]
    shown = targets(known)[:3]
    labels = list(dict.fromkeys(line.label for line in known if line.target in shown))
    size = (max(5.0, 2.8 * len(shown) + 0.6), 3.6)
    beside = max(1, int(size[0] / (0.07 * max(map(len, labels)) + 0.5)))  # columns of the legend
    size = (size[0], size[1] + 0.19 * -(-len(labels) // beside))
    fig, axes = plt.subplots(1, len(shown), figsize=size, layout="constrained", squeeze=False, sharex=True, sharey=True)
    handles = {}
    # a configuration with a colour of its own has it here, too; the others share the rest
    own = {line.label: (COLOURS[line.label], MARKERS[line.label]) for line in known if line.label in MARKERS}
    others = [label for label in labels if label not in own]
    marks = [shape for shape in SHAPES + "hX*pd8H" if shape not in MARKERS.values()]
    looks = own | {label: (FREE[i % len(FREE)], marks[i // len(FREE) % len(marks)]) for i, label in enumerate(others)}
    for ax, target in zip(axes[0], shown, strict=True):
        for line in known:
            if line.target == target:
                colour, marker = looks[line.label]
                (handles[line.label],) = ax.plot(
                    line.cpu_seconds, line.score.mean, marker, color=colour, mec="black", mew=0.6, ms=8
                )
        ax.set_title(target, fontsize=10)
        ax.set_xlabel("CPU seconds of training")
    axes[0, 0].set_xlim(0, 1.08 * max(line.cpu_seconds for line in known if line.target in shown) or 1)
    axes[0, 0].set_ylabel(score.replace("_", " "))
    fig.suptitle("each marker: mean over seeds", fontsize=9, x=0.01, ha="left")
    fig.legend(handles.values(), handles, loc="outside lower center", fontsize=8, ncols=beside)
    return fig


def cost_lines(found: Sequence[Line]) -> list[str]:
    """A sentence for each target of :func:`draw_cost`: what its most expensive and its best configuration cost.

    The bounds, source_only and the oracle, are left out where there are others.
    """
    said = []
    known = [line for line in found if math.isfinite(line.cpu_seconds)]
    for target in targets(known)[:3]:
        here = [line for line in known if line.target == target]
        here = [line for line in here if line.method not in BOUNDS] or here
        dearest, best = max(here, key=lambda line: line.cpu_seconds), max(here, key=lambda line: line.score.mean)
        words = [f"{one.label} ({one.cpu_seconds:.0f} CPU s, {one.score.mean:.3f})" for one in (dearest, best)]
        both = f"the most expensive, {words[0]}, is the best, too" if dearest is best else None
        said.append(f"{target}: {both or f'the most expensive is {words[0]}, the best {words[1]}'}")
    return said


def html_table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table as HTML, with its texts escaped."""
    head = "".join(f"<th>{html.escape(name)}</th>" for name in header)
    body = "".join("<tr>" + "".join(map(_cell, row)) + "</tr>" for row in rows)
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def _cell(content: object) -> str:
    text = str(content)
    kept = ' class="line"' if len(text) <= ONE_LINE else ""
    return f"<td{kept}>{html.escape(text)}</td>"


def picture(fig: Figure, alt: str) -> str:
    """A figure as an <img> that needs no other file; the figure is closed, so show it before."""
    return f'<img alt="{html.escape(alt)}" src="{data_url(fig)}">'


def write_page(path: Path, title: str, parts: Iterable[tuple[str, str]]) -> Path:
    """Path of one HTML page that needs no other file.

    Parameters
    ----------
    parts : heading and HTML of each section
    """
    style = (
        "body{font:16px/1.5 system-ui,sans-serif;margin:2em auto;max-width:72em;padding:0 1em}table{border-collapse:"
        "collapse;display:block;overflow-x:auto;font-size:.9em}td,th{padding:.25em .6em;border-bottom:1px solid #ccc;"
        "text-align:left}img{max-width:100%}.line{white-space:nowrap}"
    )
    body = "".join(f"<h2>{html.escape(heading)}</h2>{content}" for heading, content in parts)
    return write_text(
        path,
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{html.escape(title)}</title>'
        f"<style>{style}</style><h1>{html.escape(title)}</h1>{body}</html>",
    )
