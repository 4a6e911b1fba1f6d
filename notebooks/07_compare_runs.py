# ---
# jupyter:
#   jupytext:
#     cell_metadata_filter: tags
#     formats: ipynb,py:percent
#     notebook_metadata_filter: kernelspec,jupytext
#     text_representation:
#       extension: .py
#       format_name: percent
#       format_version: '1.3'
#       jupytext_version: 1.19.6
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
# ---

# %% [markdown]
# # 07 · Compare runs
#
# One run shows how a method works. Many runs show whether it is better. This notebook turns a finished or half-finished
# comparison, a sweep, or a folder of runs into one report.
#
# **What you will learn**
# - to read a table of many runs: what ran, what failed, and how far the scores of different seeds lie apart;
# - to compare two methods seed by seed, and to adjust p-values for the number of comparisons;
# - to see what an improvement costs, and which classes it harms.
#
# **What you need**: nothing for the default, which is the evidence that ships with this repository. For your own runs, give
# `results`: the CSV of `python -m cryoshift_core compare`, the file of a sweep, or a folder of runs.
#
# | profile | time | memory |
# |---|---|---|
# | smoke | 13 s | 560 MB |
# | laptop | 13 s | 560 MB |

# %%
from pathlib import Path

import matplotlib.pyplot as plt
from IPython.display import Markdown, display

from cryoshift_core.application import pictures
from cryoshift_core.benchmark import collect, comparison, statistics
from cryoshift_core.benchmark.tables import table
from cryoshift_core.course import explore, sweep
from cryoshift_core.course.run import begin
from cryoshift_core.errors import InputError

# %% tags=["parameters"]
results: str = ""  # a table of compare, the .yaml of a sweep, or a folder of runs; empty: the evidence that ships
score: str = ""  # the score to compare; empty: balanced_accuracy, or what there is
baseline: str = "source_only"  # the method that the others are compared with
model: str = "as chosen"  # as chosen without labels, as trained (the last checkpoint), or as reported by a notebook
profile: str = "laptop"  # only decides the folder runs/<profile>: nothing is trained here
seed: int = 0  # of nothing: no number here is drawn at random
out_dir: str = ""  # where to write; empty: runs/<profile>/07_compare_runs

# %%
run = begin("07_compare_runs", globals())
pictures.use_style()
where, planned = Path(results).expanduser() if results else collect.shipped(), []
if where.suffix in (".yaml", ".yml"):
    plan = sweep.read(where)
    where, planned = plan.folder, list(plan.runs)
if where.is_file():
    run.add_input(where)
found = collect.collect(where)
known = comparison.models(found)
shown_model = model if model in known else known[0]
if "model" in run.declared and model not in known and model != "as chosen":
    raise InputError(f"model={model!r}: expected one of {', '.join(known)}, which {where} has.")
parts = []

# %% [markdown]
# ## What ran, and what failed
#
# A missing run is not a bad run. Look here first: if the runs that failed share a method or a target, the means below are means
# over different things.

# %%
rows = comparison.status_table(found, planned)
display(Markdown(table("status | runs | why", rows)))
parts.append(("What ran, and what failed", comparison.html_table(("status", "runs", "why"), rows)))
score = comparison.check_score([one for one in found if one.model == shown_model], score)
lines = comparison.lines(found, score, baseline, shown_model)
targets = comparison.targets(lines)
seeds = sorted({len(line.seeds) for line in lines})
number = f"{seeds[0]} to {seeds[-1]}" if len(seeds) > 1 else str(seeds[0])
print(
    f"{len(lines)} configurations on {len(targets)} targets, {number} seeds each; models {shown_model}; score: {score}"
)

# %% [markdown]
# ## The scores
#
# **What do you expect?** Before you look: how far apart are two seeds of the same method, compared with two methods?
#
# Each dot is one seed, which drew its own data and trained its own network. The error bar is the 95 % t interval of the mean over
# seeds. A hollow marker is a single seed, which has no interval.

# %%
fig = comparison.draw_scores(lines, score)
run.save_figure(fig, "scores")
plt.show()
parts.append(("The scores", comparison.picture(fig, f"{score} of each configuration on each target, by seed")))
if len(targets) > comparison.PANELS:
    print(f"The figure shows {comparison.PANELS} of {len(targets)} targets; the table below has them all.")

# %% [markdown]
# ## Compare seed by seed
#
# Two methods with the same seed share their data, so their scores rise and fall together. The difference *within* each seed is
# therefore known better than the two means. The table has that difference to the baseline, its 95 % interval over seeds, and a
# p-value that is adjusted for the number of comparisons in the table (Holm). The oracle is a bound and no method under test, so it
# has no p-value.
#
# **Gap closed** is the part of the way from `source_only` to the oracle, with Fieller's interval. It is n/a where one of the two
# was not run, or where the oracle is not measurably better than `source_only`.

# %%
cells = [comparison.cells(line) for line in lines]
header = [name if name != "less the baseline" else f"less {baseline}" for name in comparison.HEADER]
display(Markdown(table(" | ".join(header), cells)))
parts.append(("Seed by seed", comparison.html_table(header, cells)))
run.save_table([dict(zip(comparison.HEADER, row, strict=True)) for row in cells], "lines")

# %%
tested = [line for line in lines if line.over and line.over.p == line.over.p]
better, worse = (
    [line for line in tested if line.over.p < 0.05 and (line.over.interval.mean > 0) == up] for up in (True, False)
)
for word, some in (("better", better), ("worse", worse)):
    names = ", ".join(f"{line.label} on {line.target}" for line in some)
    print(
        f"{len(some)} of {len(tested)} are {word} than {baseline} with an adjusted p below 0.05{': ' + names if names else ''}"
    )
unclear = [line for line in tested if line.over.p >= 0.05]
if unclear:
    print(f"{len(unclear)} cannot be told from {baseline} with these seeds. That is no proof that they are the same.")

# %% [markdown]
# ## Who pays?
#
# A higher mean can hide a class that gets lost. Below: the recall of each class less that of the baseline, the largest losses
# first.

# %%
losses = [change for change in comparison.harm(found, baseline, shown_model) if change.over.interval.mean < 0]
if losses:
    columns = ("target", "configuration", "class", f"recall less {baseline}", "p (Holm)")
    shown = [[c.target, c.label, c.name, f"{c.over.interval:+.2f}", statistics.p_text(c.over.p)] for c in losses[:12]]
    display(Markdown(table(" | ".join(columns), shown)))
    parts.append(("Classes that lose", comparison.html_table(columns, shown)))
    sure = sum(change.over.p < 0.05 for change in losses)
    print(
        f"{len(losses)} recalls fall, {sure} of them with an adjusted p below 0.05; the table has the first {len(shown)}."
    )
else:
    print("No recall of a class is below the baseline's, or these runs have no recalls.")

# %% [markdown]
# ## What does it cost?
#
# CPU seconds of training against the score, on the targets with most configurations. A configuration to the right must also
# stand higher to be worth it.

# %%
costly = [line for line in lines if line.cpu_seconds == line.cpu_seconds]
if costly:
    fig = comparison.draw_cost(costly, score)
    run.save_figure(fig, "cost")
    plt.show()
    parts.append(("Cost", comparison.picture(fig, f"{score} against CPU seconds of training")))
    dearest, cheapest = (pick(costly, key=lambda line: line.cpu_seconds) for pick in (max, min))
    if len(kinds := comparison.devices(found)) > 1:
        print(f"The times come from different devices ({', '.join(kinds)}): compare them only within one device.")
    print(f"{cheapest.cpu_seconds:.0f} CPU s ({cheapest.label}) to {dearest.cpu_seconds:.0f} CPU s ({dearest.label})")
else:
    print("These runs have not recorded their CPU time.")

# %% [markdown]
# ## Swept parameters
#
# Where the runs differ in a number, such as the weight of a loss term, its curve shows how much the choice matters. A flat curve
# is good news: the parameter needs no tuning.

# %%
swept = comparison.curves(found, score, shown_model)
if swept:
    fig = comparison.draw_curves(swept, score)
    run.save_figure(fig, "curves")
    plt.show()
    parts.append(("Swept parameters", comparison.picture(fig, f"{score} against each swept parameter")))
else:
    print("No parameter was swept over numbers in these runs.")

# %% [markdown]
# ## Look closer
#
# In JupyterLab, choose a target and a model. Elsewhere the first row shows up to four targets with most configurations, the
# second row the models.
# A dot is a seed, the bar is their mean; all panels have the same axis.


# %%
def draw(axes, target, kind):
    """The configurations of one target and model."""
    (ax,) = axes
    shown = [line for line in comparison.lines(found, score, baseline, kind) if line.target == target]
    for i, line in enumerate(shown):
        ax.plot(list(line.seeds.values()), [i] * len(line.seeds), ".", color=pictures.COLOURS.get(line.method, "0.4"))
        ax.plot(line.score.mean, i, "|", color="black", ms=14)
        ax.annotate(line.label, (0.02, i - 0.3), xycoords=("axes fraction", "data"), va="center", fontsize=6)
    ax.set(yticks=[], xlabel=score.replace("_", " "), xlim=span, ylim=(len(shown) - 0.5, -0.7))
    ax.set_title(f"{target}, {kind}", fontsize=8)


# %%
kinds = [kind for kind in known if any(score in one.values for one in found if one.model == kind)]
every = [one.values[score] for one in found if one.status == "finished" and score in one.values]
span = (min(every) - 0.05 * (max(every) - min(every) or 1), max(every) + 0.05 * (max(every) - min(every) or 1))
choices = targets if explore.is_live() else targets[:4]
fig = explore.explore(
    draw,
    {"target": ("target", choices), "kind": ("model", kinds)},
    start={"target": targets[0], "kind": shown_model},
    size=3.6,
)
if fig is not None:
    run.save_figure(fig, "closer")
    plt.show()

# %% [markdown]
# ## One page
#
# All of this as one HTML file that needs no other, to send or to keep with the runs.

# %%
page = comparison.write_page(run.folder / "report.html", f"Comparison: {where.name}", parts)
print(f"wrote {run.final_path(page)}")
best = {
    target: max((line for line in lines if line.target == target), key=lambda line: line.score.mean)
    for target in targets
}
run.report(**{f"best_{target}": line.label for target, line in best.items()})
run.report(**{status.replace(" ", "_"): int(count) for status, count, _ in rows}, configurations=len(lines))
run.report(better=len(better), worse=len(worse), tested=len(tested))
run.finish()

# %% [markdown]
# ## What to take away
#
# - First ask what is missing. A comparison of what happened to finish is biased.
# - Compare within seeds, and give the interval over seeds: they are the unit here, not the subtomograms.
# - Many comparisons need an adjustment, and "not significant" is no proof of equality.
# - A mean over classes can hide a class that gets lost.
#
# ## Questions to think about
#
# 1. Two methods have overlapping intervals, and their paired difference excludes zero. Which of the two is right?
# 2. What would twenty seeds change in the table, and what would they not?
# 3. A sweep chose the best of thirty weights by the score in this table. What is its score on new data likely to be?
