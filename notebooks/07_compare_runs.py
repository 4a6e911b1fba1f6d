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
# About 35 minutes with the three exercises. Words in links are explained in the [glossary](../docs/glossary.md).
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
import numpy as np
from IPython.display import Markdown, display

from cryoshift_core.application import pictures
from cryoshift_core.benchmark import collect, comparison, statistics
from cryoshift_core.benchmark.tables import table
from cryoshift_core.course import exercises, explore, sweep
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
lesson = exercises.Lesson(run, globals())
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
# ## 1 · What ran, and how it scored (10 minutes)
#
# ### What ran, and what failed
#
# **What do you expect?** Of the runs that were planned, how many failed or are missing?
#
# A missing run is not a bad run. Look here first: if the runs that failed share a method or a target, the means below are means
# over different things. Only the file of a sweep says what was planned. A table, such as the default, lists what finished, and
# a run that is missing from it cannot be seen.

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
for line in lines:
    if (line.label, line.target) == ("source_only", "in_situ_2"):
        lesson.checkpoint("score of source_only on in_situ_2", line.score.mean)

# %% [markdown]
# ### The scores
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
if len(targets) > (n := len(comparison.drawn(lines))):
    print(f"The figure shows the {n} of {len(targets)} targets with most configurations; the table below has all.")

# %% [markdown]
# **Recap**
# - First ask what is missing: a comparison of what happened to finish is biased.
# - A dot is a seed with data and a training of its own.
# - The seeds are the units of the interval, not the subtomograms.
#
# ## 2 · Who is better, and who pays? (12 minutes)
#
# ### Compare seed by seed
#
# **What do you expect?** Of all pairs of method and target, how many differ from the baseline beyond chance?
#
# Two methods with the same seed share their data, so their scores rise and fall together. The difference *within* each seed is
# therefore known better than the two means. The table has that difference to the baseline, its 95 % interval over seeds, and a
# p-value that is adjusted for the number of comparisons in the table ([Holm](../docs/glossary.md#holms-adjustment)). The
# [oracle](../docs/glossary.md#oracle) is a bound and no method under test, so it has no p-value.
#
# [**Gap closed**](../docs/glossary.md#gap-closed) is the part of the way from `source_only` to the oracle, with Fieller's interval. It is n/a where one of the two
# was not run, or where the oracle is not measurably better than `source_only`.

# %%
cells = [comparison.cells(line) for line in lines]
header = [name if name != "less the baseline" else f"less {baseline}" for name in comparison.HEADER]
run.save_table([dict(zip(comparison.HEADER, row, strict=True)) for row in cells], "lines")
display(Markdown(table(" | ".join(header), cells)))
parts.append(("Seed by seed", comparison.html_table(header, cells)))

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
# ### Exercise 1 · Adjust for the number of comparisons
#
# Holm's rule (1979) for m p-values: sort them, the smallest first; multiply the first by m, the second by m - 1, and so on to 1; cut at 1;
# and let no adjusted value be smaller than the one before it. Return the adjusted values in the order in which the p-values came.

# %% tags=["given"]
several = np.array([0.030, 0.001, 0.020, 0.800])


# %% tags=["exercise"]
def holm(p):
    return None


# %% tags=["solution", "hide-cell"]
def holm(p):
    order, m = np.argsort(p), len(p)
    adjusted = np.empty(m)
    adjusted[order] = np.maximum.accumulate(np.minimum(1.0, p[order] * np.arange(m, 0, -1)))
    return adjusted


print("adjusted:", holm(several))

# %% [raw] tags=["mistakes", "remove-cell"]
# name = "holm"
# cases = ['holm(several)', 'holm(np.array([0.04]))', 'holm(np.array([0.5, 0.6]))']
# wrong = ["""
# def holm(p):
#     return p
# """]
#
# [[mistake]]
# code = """
# def holm(p):
#     return np.minimum(1.0, p * len(p))
# """
# hint = 'that is the rule of Bonferroni, which multiplies each by m. Holm multiplies by the number of those that are not yet decided: m, m - 1, ..., 1. It finds more, and is as safe.'
#
# [[mistake]]
# code = """
# def holm(p):
#     order, m = np.argsort(p), len(p)
#     adjusted = np.empty(m)
#     adjusted[order] = np.minimum(1.0, p[order] * np.arange(m, 0, -1))
#     return adjusted
# """
# hint = 'of the p-values 0.5 and 0.6, the first becomes 1.0 and the second 0.6: the larger one would be the stronger. Keep the largest so far.'
#
# [[mistake]]
# code = """
# def holm(p):
#     m = len(p)
#     return np.maximum.accumulate(np.minimum(1.0, np.sort(p) * np.arange(m, 0, -1)))
# """
# hint = 'the values are right, and sorted. Put each back to where its p-value stood.'

# %%
lesson.check("holm")

# %% [markdown]
# ### Who pays?
#
# A higher mean can hide a class that gets lost. Below: the recall of each class less that of the baseline, the largest losses
# first. Here p is adjusted for all classes of all configurations. More comparisons make each p larger, so a loss that stands out
# among few (05b) may not stand out among many.

# %%
losses = [change for change in comparison.harm(found, baseline, shown_model) if change.over.interval.mean < 0]
if losses:
    columns = ("target", "configuration", "class", f"recall less {baseline}", "p (Holm)")
    shown = [[c.target, c.label, c.name, f"{c.over.interval:+.2f}", statistics.p_text(c.over.p)] for c in losses[:12]]
    display(Markdown(table(" | ".join(columns), shown)))
    parts.append(("Classes that lose", comparison.html_table(columns, shown)))
    sure = [f"{c.name} with {c.label} on {c.target}" for c in losses if c.over.p < 0.05]
    print(
        f"{len(losses)} recalls fall; the table has the first {len(shown)}. {len(sure)} have an adjusted p below 0.05",
        end="",
    )
    print(f": {'; '.join(sure)}" if sure else "")
else:
    print("No recall of a class is below the baseline's, or these runs have no recalls.")

# %% [markdown]
# **Recap**
# - Compare within a seed; the difference is better known than the two means.
# - Many comparisons need an adjustment, and "not significant" is no proof of equality.
# - A mean over classes can hide a class that gets lost.
#
# ## 3 · What does it cost, and what may be quoted? (13 minutes)
#
# ### What does it cost?
#
# **What do you expect?** Is the most expensive configuration the best one?
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
    if len(kinds := comparison.devices(found)) > 1:
        print(f"The times come from different devices ({', '.join(kinds)}): compare them only within one device.")
    print("\n".join(comparison.cost_lines(costly)))
else:
    print("These runs have not recorded their CPU time.")

# %% [markdown]
# ### Exercise 2 · Worth its time
#
# A configuration is worth its time if no other one is at least as good *and* at least as cheap, with one of the two strictly so. Return the
# mask (N,) of those from arrays `seconds` and `scores`.

# %% tags=["given"]
seconds = np.array([10.0, 20.0, 30.0, 30.0, 40.0])
scores = np.array([0.60, 0.80, 0.70, 0.80, 0.90])


# %% tags=["exercise"]
def worth_it(seconds, scores):
    return None


# %% tags=["solution", "hide-cell"]
def worth_it(seconds, scores):
    good = (scores[None] >= scores[:, None]) & (seconds[None] <= seconds[:, None])  # [i, j]: j is no worse than i
    strictly = (scores[None] > scores[:, None]) | (seconds[None] < seconds[:, None])
    return ~(good & strictly).any(1)


# %% [raw] tags=["mistakes", "remove-cell"]
# name = "worth_it"
# cases = ['worth_it(seconds, scores)', 'worth_it(np.array([5.0, 5.0]), np.array([0.7, 0.7]))']
# wrong = ["""
# def worth_it(seconds, scores):
#     return np.ones(len(scores), bool)
# """]
#
# [[mistake]]
# code = """
# def worth_it(seconds, scores):
#     rate = scores / seconds
#     return rate == rate.max()
# """
# hint = 'score by second always favours the cheapest one. A dear configuration may be worth its time if nothing cheaper is as good.'
#
# [[mistake]]
# code = """
# def worth_it(seconds, scores):
#     return scores == scores.max()
# """
# hint = 'that is the best one alone. A cheaper one is worth its time, too, where nothing as cheap is as good.'
#
# [[mistake]]
# code = """
# def worth_it(seconds, scores):
#     better = (scores[None] > scores[:, None]) & (seconds[None] < seconds[:, None])
#     return ~better.any(1)
# """
# hint = 'the fourth has the score of the second and takes longer, so nobody needs it. Better in one of the two and equal in the other is enough.'
#
# [[mistake]]
# code = """
# def worth_it(seconds, scores):
#     no_worse = (scores[None] >= scores[:, None]) & (seconds[None] <= seconds[:, None])
#     return no_worse.sum(1) == 0
# """
# hint = 'each configuration is no worse than itself, and so are two equal ones: ask that one of the two is strictly better.'

# %%
lesson.check("worth_it")

# %% [markdown]
# ### Swept parameters
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
# ### Look closer
#
# Choose a target and a model. In JupyterLab every target can be chosen, on the site up to four with most configurations. In print,
# the first row shows these targets and the second row the models. A dot is a seed, the bar is their mean; all panels have the same axis.


# %%
def draw(axes, target, kind):
    """The configurations of one target and model."""
    (ax,) = axes
    every = [line for line in comparison.lines(found, score, baseline, kind) if line.target == target]
    shown = [line for line in every if line.label == line.method] or every  # without those that lack a part
    for i, line in enumerate(shown):
        ax.plot(list(line.seeds.values()), [i] * len(line.seeds), ".", color=pictures.COLOURS.get(line.method, "0.4"))
        ax.plot(line.score.mean, i, "|", color="black", ms=14)
    ax.set_yticks(range(len(shown)), [line.label for line in shown], fontsize=7)
    ax.set(xlabel=score.replace("_", " "), xlim=span, ylim=(len(shown) - 0.5, -0.7))
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
# ### Exercise 3 · The best of thirty
#
# A sweep tries thirty weights that are all equally good; their scores differ by noise. You choose the best one by its score on one half of the
# test, `choosing`. Return the score that may be quoted, given the scores of all weights on the other half, `reporting`.

# %% tags=["given"]
noise = np.random.default_rng(0).normal(0.0, 0.02, (2, 30))
first_half, second_half = 0.80 + noise


# %% tags=["exercise"]
def quoted(choosing, reporting):
    return None


# %% tags=["solution", "hide-cell"]
def quoted(choosing, reporting):
    return float(reporting[np.argmax(choosing)])


print(f"all are worth 0.800; the best on the first half has {first_half.max():.3f} there,", end=" ")
print(f"and {quoted(first_half, second_half):.3f} on the other half")

# %% [raw] tags=["mistakes", "remove-cell"]
# name = "quoted"
# cases = ['quoted(first_half, second_half)', 'quoted(second_half, first_half)']
# wrong = ["""
# def quoted(choosing, reporting):
#     return 0.8
# """]
#
# [[mistake]]
# code = """
# def quoted(choosing, reporting):
#     return float(choosing.max())
# """
# hint = 'the largest of thirty is too high by chance, even if all are equal: that score has been used to choose.'
#
# [[mistake]]
# code = """
# def quoted(choosing, reporting):
#     return float(reporting.max())
# """
# hint = 'that chooses a second time, on the half that should only report.'
#
# [[mistake]]
# code = """
# def quoted(choosing, reporting):
#     return float(np.mean(reporting))
# """
# hint = 'that is the mean of all weights. Quote the one that was chosen.'

# %%
lesson.check("quoted")

# %% tags=["solution", "remove-cell"]
assert not lesson.unsolved(), lesson.unsolved()

# %% [markdown]
# ### One page
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
manifest = run.finish()

# %% [markdown]
# **Recap**
# - A configuration to the right must also stand higher to be worth its time.
# - A flat curve of a parameter is good news: it needs no tuning.
# - A score that was used to choose may not be quoted.
#
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
