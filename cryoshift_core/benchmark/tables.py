"""The benchmark's report: a Markdown page and figures, made from the rows of the CSVs."""

from __future__ import annotations

import math
import os
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure

from ..application import pictures
from ..application.accuracy import MARGIN
from ..errors import InputError
from ..methods import METHODS
from ..metrics import Interval
from ..support import runtime
from . import figures, real
from .goals import GAP_TARGETS, real_verdicts, verdicts
from .jobs import (
    BOUNDS,
    COMPOSITES,
    CORE,
    FACTORS,
    FOREIGN,
    LABELS,
    MIXED,
    REFERENCE_SCENARIO,
    TEMPLATES,
    TEST_SEEDS,
    UNSEEN_SCENARIO,
)
from .runner import read
from .statistics import (
    CONTROL_COLUMNS,
    UNSEEN_COLUMNS,
    Comparison,
    Control,
    Gap,
    LamellaScore,
    Row,
    ablation,
    baselines,
    by_seed,
    control_scores,
    curves,
    estimate_errors,
    gap_table,
    harm,
    lamella_scores,
    over_seeds,
    p_text,
    particle_scores,
    recalls,
    retrained,
    seed_count,
    source_sizes,
    spike_ins,
    unchanged,
    unseen,
    unseen_rates,
)


def table(header: str, lines: Iterable[Iterable[str]]) -> str:
    """A Markdown table; `header` has its cells between bars."""
    cells = header.split(" | ")
    body = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    return f"| {header} |\n|{'---|' * len(cells)}\n{body}\n"


def text(value: Interval | None, spec: str, absent: str = "") -> str:
    """An interval with its numbers in the format `spec`, such as ".3f", "+.3f" or ".0%"; `absent` for None."""
    return absent if value is None else format(value, spec)


def report(folder: Path, page: Path, images: Path, profile: str = "laptop") -> Path:
    """Write the Markdown `page`, and a figure into `images` for each part of the evidence that has rows.

    Parameters
    ----------
    folder : holds evidence.csv, per_class.csv and real.csv

    Raises
    ------
    InputError
        no row of the profile in evidence.csv and real.csv.
    """
    rows, per_class, on_real = (
        [row for row in read(folder / name) if row["profile"] == profile]
        for name in ("evidence.csv", "per_class.csv", "real.csv")
    )
    if not rows and not on_real:
        raise InputError(
            f"Expected rows of profile {profile!r} in {folder / 'evidence.csv'}, got none. "
            f"Add them: python -m cryoshift_core evidence --tier core --profile {profile}."
        )
    images.mkdir(parents=True, exist_ok=True)
    pictures.use_style()
    drawn = drawings(rows, per_class) | real_drawings(on_real)
    for name, figure in drawn.items():
        figure.savefig(images / f"evidence_{name}.png", dpi=110)
        plt.close(figure)
    links = {name: _relative(images / f"evidence_{name}.png", page) for name in drawn}
    text = summary(rows, per_class, profile, links, _relative(folder, page))
    return runtime.write_text(page, text + real_section(on_real, links, _relative(folder, page)))


def _relative(path: Path, page: Path) -> str:
    return Path(os.path.relpath(path, page.parent)).as_posix()


@dataclass(frozen=True)
class Drawing:
    """A figure of the report: a function of evidence and per-class rows, None without rows, and its alt text."""

    draw: Callable[[list[Row], list[Row]], Figure | None]
    alt: str


def _where(rows: list[Row], methods: Iterable[str], scenarios: Iterable[str]) -> list[Row]:
    methods, scenarios = tuple(methods), tuple(scenarios)
    return [row for row in unchanged(rows) if row["method"] in methods and row["scenario"] in scenarios]


def _draw_gap_closed(rows: list[Row], per_class: list[Row]) -> Figure | None:
    closed: dict[str, dict[str, Interval]] = {}
    for g in gap_table(rows):
        if g.method in CORE and g.scenario in COMPOSITES and g.closed:
            closed.setdefault(g.scenario, {})[g.method] = g.closed
    shown = {s: {m: closed[s][m] for m in CORE if m in closed[s]} for s in COMPOSITES if s in closed}
    return figures.gap_closed(shown, GAP_TARGETS, seed_count(_where(rows, CORE, shown))) if shown else None


def _draw_baselines(rows: list[Row], per_class: list[Row]) -> Figure | None:
    found = baselines(rows)
    label = "balanced accuracy: method - cryoshift"
    return (
        figures.forest(found, f"Other methods compared with cryoshift on {REFERENCE_SCENARIO}", label)
        if found
        else None
    )


def _draw_factors(rows: list[Row], per_class: list[Row]) -> Figure | None:
    gaps = gap_table(rows)
    found = {s: {g.method: g.score for g in gaps if g.scenario == s} for s in FACTORS}
    shown = {s: scores for s, scores in found.items() if scores}
    return figures.factors(shown, seed_count(_where(rows, METHODS, shown))) if shown else None


def _draw_ablation(rows: list[Row], per_class: list[Row]) -> Figure | None:
    found = ablation(rows)
    label = "balanced accuracy: changed - unchanged cryoshift"
    return figures.forest(found, f"cryoshift on {REFERENCE_SCENARIO} with one part changed", label) if found else None


def _draw_recall(rows: list[Row], per_class: list[Row]) -> Figure | None:
    found = recalls(per_class)
    seeds = seed_count(_where(per_class, found, [REFERENCE_SCENARIO]))
    return (
        figures.recall_map(found, f"Recall of each class on {REFERENCE_SCENARIO}, mean over {seeds}") if found else None
    )


def _draw_regret(rows: list[Row], per_class: list[Row]) -> Figure | None:
    columns = {"last": "balanced_accuracy_last", "selected": "balanced_accuracy", "best": "balanced_accuracy_best"}
    found = {
        f"{g.method}, {g.scenario}": {
            kind: float(np.mean(list(by_seed(rows, g.method, g.scenario, column).values())))
            for kind, column in columns.items()
        }
        for g in _ordered(rows)
        if g.regret is not None and g.scenario in COMPOSITES
    }
    adapting = [m for m in METHODS if m not in BOUNDS]
    return figures.regret(found, seed_count(_where(rows, adapting, COMPOSITES))) if found else None


def _draw_curves(rows: list[Row], per_class: list[Row]) -> Figure | None:
    found = curves(rows)
    return figures.curves(found, LABELS, f"{REFERENCE_SCENARIO} with one parameter swept") if found else None


def _draw_spike_in(rows: list[Row], per_class: list[Row]) -> Figure | None:
    found = spike_ins(rows)
    return figures.spike_in_against_truth(found, str(estimate_errors(found))) if found else None


DRAWINGS: dict[str, Drawing] = {
    "gap_closed": Drawing(
        _draw_gap_closed, "Bars of the gap closed by each method on the composite scenarios, with goals"
    ),
    "factors": Drawing(_draw_factors, "Balanced accuracy on ten single-factor scenarios, with the gap as a grey bar"),
    "baselines": Drawing(_draw_baselines, "Paired differences of other methods to cryoshift, with intervals"),
    "ablation": Drawing(_draw_ablation, "Paired differences of cryoshift with one part changed, with intervals"),
    "recall": Drawing(_draw_recall, "Table of recalls by method and class"),
    "regret": Drawing(_draw_regret, "Scores of the last, the selected and the best checkpoint of each method"),
    "curves": Drawing(_draw_curves, "Balanced accuracy against one swept parameter in each panel"),
    "spike": Drawing(_draw_spike_in, "True balanced accuracy against its spike-in estimate, one point per run"),
}


REAL_ALT = {
    "real_lamella": "AUC and recall of listed ribosomes for each mix, method and seed, with intervals over blocks",
    "real_particles": "Balanced accuracy of each held-out HIV particle by method, with means and intervals",
    "real_positions": "Three sections of the yeast lamella with listed ribosomes, random positions and unlisted blobs",
}
ALT = {name: drawing.alt for name, drawing in DRAWINGS.items()} | REAL_ALT


def real_drawings(rows: list[Row]) -> dict[str, Figure]:
    """name in REAL_ALT -> figure, where rows of real.csv are there for it."""
    drawn: dict[str, Figure] = {}
    if on_lamella := lamella_scores(rows):
        drawn["real_lamella"] = figures.real_lamella(on_lamella)
        drawn["real_positions"] = figures.lamella_positions(*real.lamella_sections())
    if by_particle := particle_scores(rows):
        drawn["real_particles"] = figures.real_particles(by_particle)
    return drawn


def drawings(rows: list[Row], per_class: list[Row]) -> dict[str, Figure]:
    """name in DRAWINGS -> figure, where there are rows for it."""
    drawn = {name: drawing.draw(rows, per_class) for name, drawing in DRAWINGS.items()}
    return {name: figure for name, figure in drawn.items() if figure is not None}


def _ordered(rows: list[Row]) -> list[Gap]:
    return sorted(gap_table(rows), key=lambda g: (g.scenario, [*METHODS, g.method].index(g.method)))


GAP_HEADER = (
    "scenario | method | seeds | balanced accuracy | over source_only | gap closed | regret | negative transfer"
)


def gap_lines(rows: list[Row], scenarios: Iterable[str]) -> list[list[str]]:
    """Cells under GAP_HEADER for each unchanged method on the scenarios."""
    scenarios = tuple(scenarios)
    return [_gap_line(g) for g in _ordered(rows) if g.scenario in scenarios]


def summary(rows: list[Row], per_class: list[Row], profile: str, images: dict[str, str], folder: str) -> str:
    """The report in Markdown.

    Parameters
    ----------
    images : name in DRAWINGS -> link to the figure
    folder : link to the folder of the CSVs
    """
    page = f"""# Evidence

This page is generated: `python -m cryoshift_core evidence --report` writes it from
[evidence.csv]({folder}/evidence.csv) and [per_class.csv]({folder}/per_class.csv), which hold {len(rows)} runs of the
`{profile}` profile. [How the recipe was chosen](search.md) and [a summary of the results](results.md) are pages of
their own.

- *Scores* are balanced accuracies on target-test subtomograms: mean [95 % t interval] over seeds. Each seed draws new
  data *and* trains again. Intervals of accuracies end at 0 and 1.
- *Gap closed* is (method - `source_only`) / (`oracle` - `source_only`) with Fieller's interval, paired by seed. It has
  no bounds: a method can score below `source_only` or above `oracle`. It is n/a where the 95 % interval of
  `oracle` - `source_only` does not lie above 0.
- *Regret* is the score of the best checkpoint minus that of the checkpoint selected without target labels.
- *Negative transfer* means that the score is below that of `source_only` with p < 0.05 in a paired t test over seeds,
  adjusted for all methods and scenarios of the table (Holm).
- `template_matching` compares subtomograms with images of the structures in many poses. It trains nothing, so it has no
  checkpoints; its CPU-seconds are those of 1,000 subtomograms.
- `network_and_templates` is what `classify` answers by default where two classes or more are molecules: `cryoshift` as
  chosen and templates together. Other rows of networks are of the network alone.
- Intervals over three seeds are wide.
- {_devices(rows)}

## Goals

"""
    page += table("goal | result | outcome", (v.line for v in verdicts(rows)))
    page += _figure("gap_closed", images)
    test_rows = [row for row in rows if int(row["seed"]) in TEST_SEEDS]
    span = f"{TEST_SEEDS[0]}-{TEST_SEEDS[-1]}"
    parts = {
        "Composite scenarios": (rows, COMPOSITES, "regret", ""),
        f"Composite scenarios, seeds {span} only": (
            test_rows,
            COMPOSITES,
            "",
            f"We changed the selection rule twice after seeing test labels of seeds 21-25; seeds {span} are the clean "
            "test.\n\n",
        ),
        "Single factors": (rows, FACTORS, "factors", ""),
        "Classes that are absent, and boxes without a particle": (
            rows,
            MIXED,
            "",
            "A third of the classes is absent, or four of five boxes hold no particle.\n\n",
        ),
        "A simulator that is not ours": (
            rows,
            (FOREIGN,),
            "",
            "acryo makes, projects and reconstructs these targets; nothing of ours lies between atoms and boxes.\n\n",
        ),
        "A molecule that was not simulated": (
            rows,
            (UNSEEN_SCENARIO,),
            "",
            f"A tenth of the subtomograms of `{UNSEEN_SCENARIO}` shows a molecule of no class.\n\n",
        ),
    }
    for title, (some, scenarios, figure, note) in parts.items():
        if lines := gap_lines(some, scenarios):
            page += f"\n## {title}\n\n{note}" + table(GAP_HEADER, lines) + _figure(figure, images)
    if rejected := unseen_tables(rows):
        page += f"\n{rejected}"
    if found := control_scores(rows):
        page += _controls_text() + table(CONTROLS_HEADER, map(_control_line, found))
    if others := [line for g in _ordered(rows) if g.scenario in COMPOSITES and (line := _other_line(rows, g))]:
        page += '\n## Other scores\n\nMeans over seeds. NLL and "ECE after" are those of calibrated probabilities. '
        page += "CPU-seconds are those of runs without a GPU.\n\n"
        page += table(f"scenario | method | {' | '.join(OTHERS.values())}", others)
    page += _comparisons(f"Other methods - cryoshift ({REFERENCE_SCENARIO})", "method", baselines(rows))
    page += _figure("baselines", images)
    page += _comparisons(f"Changed cryoshift - cryoshift ({REFERENCE_SCENARIO})", "change", ablation(rows))
    if noise := retrained(rows):
        page += (
            "\nA rule of selection changes no training, yet the last checkpoints of one seed and other rules differ by "
        )
        page += f"up to {noise:.3f} in balanced accuracy: they were trained on different machines. Differences of this "
        page += "size mean nothing.\n"
    page += _figure("ablation", images)
    if by_class := harm(per_class):
        page += (
            "\n## What adaptation does to each class\n\nRecall without adaptation (`source_only`) and of `cryoshift`, "
        )
        page += (
            "paired by seed; p is adjusted for all classes of all scenarios (Holm). *Harmed*: lower, with p < 0.05.\n\n"
        )
        lines = [
            [h.scenario, h.name, f"{h.before:.2f}", f"{h.after:.2f}", f"{h.difference:+.2f}", p_text(h.p)]
            + ["YES" if h.difference.mean < 0 and h.p < 0.05 else ""]
            for h in by_class
        ]
        page += table("scenario | class | source_only | cryoshift | difference | p | harmed", lines)
    if by_method := recalls(per_class):
        classes = list(next(iter(by_method.values())))
        lines = [[m, *(f"{found[c]:.2f}" for c in classes)] for m, found in by_method.items()]
        page += f"\n## Recall of each class ({REFERENCE_SCENARIO})\n\n" + table(" | ".join(["method", *classes]), lines)
        page += _figure("recall", images)
    if sizes := source_sizes(rows):
        page += "\n## More simulated source subtomograms\n\nDifference of balanced accuracy to 2,100, paired by seed. "
        page += "A fit draws 12,800 source subtomograms, so with so many it hardly sees one twice.\n\n"
        lines = [
            [scenario, method, f"{n:,}", str(c.seeds), f"{c.interval:+.3f}", p_text(c.p)]
            for (scenario, method, n), c in sizes.items()
        ]
        page += table("scenario | method | simulated | seeds | difference | p", lines)
    if swept := curves(rows):
        lines = [
            [
                name,
                f"{value:g}",
                *(f"{np.mean(line[value]):.3f}" if value in line else "" for line in lines_of.values()),
            ]
            for name, lines_of in swept.items()
            for value in lines_of["cryoshift"]
        ]
        header = "swept parameter | value | source_only | cryoshift | oracle"
        page += f"\n## {REFERENCE_SCENARIO} with one parameter swept\n\nMeans over seeds.\n\n" + table(header, lines)
        page += _figure("curves", images)
    if spiked := spike_ins(rows):
        page += "\n## Spike-in estimate against the true score\n\n"
        page += (
            f"All runs: {estimate_errors(spiked)}. Bias is estimate - true score. The range of the spike-ins runs from "
            "large picking errors to usual ones; the mean calibrated confidence on the target is another estimate. A "
            f"report states the range from the spike-ins with usual errors to the confidence, {MARGIN} wider on either "
            "side, and *unknown* where the tomogram seems to be denoised.\n\n"
        )
        lines = []
        for scenario in [*sorted({run.scenario for run in spiked}), ""]:  # "": all
            e = estimate_errors([run for run in spiked if scenario in ("", run.scenario)])
            errors = (f"{e.within:.2f}", f"{e.mean_absolute:.3f}", f"{e.bias:+.3f}", f"{e.bias_confidence:+.3f}")
            stated = ("", "") if math.isnan(e.in_stated) else (f"{e.in_stated:.2f}", f"{e.bias_stated:+.3f}")
            ranges = (f"{e.in_range:.2f}", f"{e.unknown:.2f}", *stated)
            lines.append([scenario or "all", str(e.runs), *errors, *ranges])
        header = (
            "scenario | runs | correlation within targets | mean absolute error | bias | bias of the confidence | "
            "true score in the spike-in range | reported as unknown | of the others, true score in the reported range "
            "| bias of its middle"
        )
        page += table(header, lines) + _figure("spike", images)
    return page


def _devices(rows: list[Row]) -> str:
    """How many runs each kind of device has made, as a sentence."""
    counts = Counter(row.get("device") or "cpu" for row in rows)
    parts = " and ".join(f"{n} on {'a CPU' if kind == 'cpu' else kind}" for kind, n in counts.most_common())
    return f"Of the runs, {parts}."


def _figure(name: str, images: dict[str, str]) -> str:
    return f"\n![{ALT[name]}]({images[name]})\n" if name in images else ""


def _comparisons(title: str, what: str, found: dict[str, Comparison]) -> str:
    if not found:
        return ""
    lines = ((name, str(c.seeds), f"{c.interval:+.3f}", p_text(c.p)) for name, c in found.items())
    note = "Differences of balanced accuracy, paired by seed; p of a paired t test, adjusted for the table (Holm)."
    return f"\n## {title}\n\n{note}\n\n" + table(f"{what} | seeds | difference | p", lines)


OTHERS = {
    "macro_f1": "macro F1",
    "ece_raw": "ECE before calibration",
    "ece": "ECE after",
    "nll": "NLL",
    "a_distance_before": "A-distance before",
    "a_distance_after": "A-distance after",
    "fell_back": "fraction fallen back",
    "cpu_seconds": "CPU-seconds",
}


def _other_line(rows: list[Row], g: Gap) -> list[str]:
    """Cells of the table of other scores; an empty list where the rows have none of them."""
    on_cpu = [row for row in rows if row.get("device", "cpu") == "cpu"]
    values = [
        list(by_seed(on_cpu if column == "cpu_seconds" else rows, g.method, g.scenario, column).values())
        for column in OTHERS
    ]
    if not values[0]:
        return []
    return [g.scenario, g.method, *(f"{np.mean(v):.3g}" if v else "" for v in values)]


CONTROLS_HEADER = (
    f"scenario | method | seeds | {' | '.join(CONTROL_COLUMNS.values())} | boxes without a particle called a class | "
    "likeness, chance | seeds above chance"
)


def _controls_text() -> str:
    return """
## Negative controls

Rejected as the unknown class; in brackets, rejected or with a confidence below 0.5. Each molecule is replaced by a
sphere, a shell or a heart of its mass and mean density, its neighbours too. *Likeness*: the classifier calls a box a
class because it resembles it, so the average of boxes without a particle can look like a molecule. The largest
correlation of such an average with the simulated class, beside the 95 % quantile for as many boxes drawn at random.

"""


def _control_line(c: Control) -> list[str]:
    likeness = f"{c.likeness:.2f}, {c.chance:.2f}" if c.compared else "too few boxes"
    return [
        c.scenario,
        c.method,
        str(c.seeds),
        *(f"{c.rejected[name].mean:.2f} ({c.flagged[name].mean:.2f})" for name in CONTROL_COLUMNS),
        f"{c.called.mean:.2f}",
        likeness,
        f"{c.like} of {c.compared}",
    ]


def unseen_tables(rows: list[Row]) -> str:
    """Markdown of what became of unseen molecules: over the classes left out in turn, and of each; "" without rows."""
    left_out, subunits = unseen(rows), unseen(rows, [UNSEEN_SCENARIO])
    page = ""
    if rates := unseen_rates(left_out):
        page = (
            "Each class in turn is left out of the source and is the unseen molecule. At the detector's own thresholds "
        )
        page += "and at one for all classes that rejects 5 % of the known, mean and interval over molecules:\n\n"
        lines = ([m, *(text(columns[c], ".3f") for c in UNSEEN_COLUMNS)] for m, columns in rates.items())
        page += table(" | ".join(["method", *UNSEEN_COLUMNS.values()]), lines) + "\n"
    for method in ("cryoshift", TEMPLATES):
        if by_molecule := [one for one in (*left_out, *subunits) if one.method == method]:
            page += f"`{method}` by molecule; a ribosome or one of its subunits has relatives among the classes:\n\n"
            lines = (
                [one.molecule, ", ".join(one.called), str(one.runs), *(f"{one.rates[c]:.2f}" for c in UNSEEN_COLUMNS)]
                for one in by_molecule
            )
            page += table(" | ".join(["unseen", "most like", "seeds", *UNSEEN_COLUMNS.values()]), lines) + "\n"
    return page


def _gap_line(g: Gap) -> list[str]:
    return [
        g.scenario,
        g.method,
        str(g.seeds),
        f"{g.score:.3f}",
        text(g.over, "+.3f"),
        "" if g.method in BOUNDS else text(g.closed, ".0%", "n/a"),
        "" if g.regret is None else f"{g.regret:.3f}",
        "YES" if g.negative else "",
    ]


LAMELLA_HEADER = (
    "mix | method | model | seeds | AUC | lowest | recall at 5 % calls | lowest | ribosomes called | random called | "
    "ECE | replaced"
)


def real_section(rows: list[Row], images: dict[str, str], folder: str) -> str:
    """The report's section on experimental data, from the rows of real.csv; "" without rows."""
    on_lamella, by_particle = lamella_scores(rows), particle_scores(rows)
    if not on_lamella and not by_particle:
        return ""
    page = f"""
## Experimental data

Two tomograms with known positions; each run is a row of [real.csv]({folder}/real.csv). The recipe was chosen with their
help: [a summary of the results](results.md) says how. *As trained* is the last checkpoint \
of the method. *As chosen* is what the selection without
target labels uses, which can be another method's network (*replaced*: in how many seeds). Each seed simulates a new
source and trains again; the boxes are the same for all seeds.

"""
    page += table("goal | result | outcome", (v.line for v in real_verdicts(rows)))
    if on_lamella:
        page += (
            _lamella_text() + table(LAMELLA_HEADER, map(_lamella_line, on_lamella)) + _figure("real_lamella", images)
        )
        page += _blob_text() + _figure("real_positions", images)
    if by_particle:
        page += """
### HIV tomogram

Balanced accuracy of Gag lattice against background. Each of nine particles is held out once, in three folds; the
interval is a t interval over particles. The particles of a fold share its background boxes, which are drawn from all
boxes without a position. The tomogram has dense matter without positions, so some of these boxes are not empty.

"""
        numbers = sorted({number for s in by_particle for number in s.by_particle})
        lines = [
            [s.method, s.model, str(s.seeds), f"{s.mean:.3f}", f"{min(s.by_particle.values()):.3f}"]
            + [f"{s.by_particle[n]:.2f}" if n in s.by_particle else "" for n in numbers]
            for s in by_particle
        ]
        header = f"method | model | seeds | mean | lowest | {' | '.join(f'particle {n}' for n in numbers)}"
        page += table(header, lines) + _figure("real_particles", images)
    return page


def _lamella_text() -> str:
    small = [f"*{mix}*, {n[real.LISTED]} and {n[real.RANDOM]}" for mix, n in real.MIXES.items() if n]
    return f"""
### Yeast lamella

Listed 80S ribosomes against random positions in the cytosol. Classes: {", ".join(real.LAMELLA_CLASSES)}.
Mixes of ribosomes and random positions: *all*; {"; ".join(small)}.
Only *all* has boxes on the membrane; they take part in the adaptation and not in these scores. The network adapts to
the boxes that are scored, as a user's would; after {" and ".join(f"*{mix}*" for mix in real.DOMINATED)}, which
have hardly any other box, it is scored on the boxes of *all*. Scores are means over seeds. Brackets hold the 95 %
jackknife interval over {real.GRID[0] * real.GRID[1]} blocks of the tomogram, because boxes overlap: the mean of the
seeds' intervals.
*Lowest* is the lowest seed. *Called* is classified as ribosome. ECE is that of the probability of ribosome.

"""


def _lamella_line(s: LamellaScore) -> list[str]:
    lowest_auc, lowest_recall = (min(value.mean for value in values) for values in (s.auc, s.recall_5))
    return [
        s.mix,
        s.method,
        s.model,
        str(s.seeds),
        f"{over_seeds(s.auc):.3f}",
        f"{lowest_auc:.3f}",
        f"{over_seeds(s.recall_5):.3f}",
        f"{lowest_recall:.3f}",
        f"{s.called:.3f}",
        f"{s.called_random:.3f}",
        f"{s.ece:.3f}",
        str(s.replaced) if s.model == "as chosen" else "",
    ]


def _blob_text() -> str:
    blobs = real.lamella_blobs()
    return f"""
The list of ribosomes is not complete: {len(blobs.zyx)} blobs without a position are denser than the median listed
ribosome and lie more than {real.AWAY:.0f} voxels from every listed one, {blobs.on_membrane} of them on the membrane.
{blobs.random_hit} of the random positions lie within {real.BLOB_RADIUS:.0f} voxels of one. The blobs are not scored.
"""
