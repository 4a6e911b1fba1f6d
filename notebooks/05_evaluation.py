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
# # 05 · Evaluation
#
# Notebook 02 showed the failure, 03 and 04 two ways to repair it. Everything was chosen without a target label. This notebook
# opens the held-out labels and measures: first on one small experiment that runs in front of you, then with the many runs whose
# scores lie in the repository.
#
# **What you will learn**
# - how to score an adaptation so that nobody can be fooled: balanced accuracy, several seeds, intervals, bounds on both sides;
# - how a checkpoint is chosen without labels, and what that costs;
# - confusion, calibration, "none of these": what one number hides;
# - what *gap closed* means, when it must read "n/a", and when adaptation hurts.
#
# **What you need**: notebooks 02 to 04 explain the methods; this one runs alone and reuses their fits where they exist; about 60
# minutes to read and try. All targets here are simulated. The target-test subtomograms come from other simulated tomograms than
# the target-train subtomograms. Words in links are explained in the [glossary](../docs/glossary.md).
#
# | profile | time | memory |
# |---|---|---|
# | smoke | 8 s | 600 MB |
# | laptop | 58 s | 1620 MB |

# %%
from dataclasses import replace

import matplotlib.pyplot as plt
import numpy as np
import torch
from IPython.display import Markdown, display

from cryoshift_core import calibration, data, metrics, models, selection
from cryoshift_core.application import pictures
from cryoshift_core.benchmark import goals, jobs, runner, statistics, tables
from cryoshift_core.benchmark.figures import forest
from cryoshift_core.benchmark.tables import text
from cryoshift_core.course import exercises, figures
from cryoshift_core.course.run import begin
from cryoshift_core.errors import InputError
from cryoshift_core.simulation import datasets, structures
from cryoshift_core.simulation.datasets import DatasetConfig, load_labels, simulate_source, simulate_target
from cryoshift_core.support import runtime

# %% tags=["parameters"]
profile: str = "laptop"  # how much work: smoke, laptop, gpu or paper
scenario: str = "in_situ_2"  # the target domain of part 1, a name from scenarios.SCENARIOS
method: str = "cryoshift"  # the method under test in part 1, a name from methods.METHODS
seeds: int = 1  # training runs per method in part 1; 0: the profile's number
methods: str = ""  # more methods to train and score in part 1, by commas
steps: int = 0  # training steps of each fit; 0: the profile's
lr: float = 0.0  # peak learning rate; 0: the usual one
weights: str = ""  # other weights of loss terms, such as mada:0.3, by commas; empty: those of the methods
without: str = ""  # terms and warps to leave out, by commas
seed: int = 0  # the first seed, and the one of the simulated data unless data_seed is given
data_seed: int = -1  # of the simulated data; -1: the same as seed
device: str = "auto"  # auto, cpu, cuda or mps
out_dir: str = ""  # where to write; empty: runs/<profile>/05_evaluation

# %%
run = begin("05_evaluation", globals())
lesson = exercises.Lesson(run, globals())
pictures.use_style()
p = run.profile
if {method, *run.methods} & set(jobs.BOUNDS):
    raise InputError(
        f"method={method!r}, methods={methods!r}: {' and '.join(jobs.BOUNDS)} are trained anyway; name others."
    )

# %% [markdown]
# ## Part 1 · One experiment, live (30 minutes)
#
# Four sets of subtomograms. The held-out labels of the two target sets are files of their own, and stay locked for now.

# %%
source = simulate_source(DatasetConfig.of(p, "source", "source", run.data_seed), folder=run.data_folder)
validation = simulate_source(DatasetConfig.of(p, "source", "validation", run.data_seed), folder=run.data_folder)
train_config, test_config = (DatasetConfig.of(p, scenario, split, run.data_seed) for split in ("train", "test"))
train, test = (simulate_target(config, folder=run.data_folder) for config in (train_config, test_config))
print(f"simulated, with labels: {len(source)} subtomograms to train on, {len(validation)} to validate on")
print(f"{scenario}: adapt on {len(train)} unlabelled subtomograms, score on {len(test)} others, from other tomograms")

# %% [markdown]
# ### Train: the lower bound, and the method under test
#
# **source_only** never sees the target: the lower bound that an adaptation must beat.
#
# **What do you expect?** Write down the balanced accuracy of both on the target, before you go on.


# %%
def train_on(name, labelled):
    """One fit per seed, and how long it took."""
    found = [run.fit(name, labelled, train, validation, s) for s in run_seeds]
    spent = np.mean([fit.cpu_seconds for fit in found])
    print(f"{name}: {len(found)} run(s) of {p.steps} steps, {spent:.0f} CPU-seconds each")
    return found


run_seeds = list(range(seed, seed + (seeds or p.seeds)))
fits = {name: train_on(name, source) for name in dict.fromkeys(("source_only", method, *run.methods))}

# %% [markdown]
# ### Choose, without a label
#
# Each run keeps several checkpoints. `selection.choose` asks three things of one: it still classifies the *source*, it
# does not call nearly everything one class where others do not, and its target predictions are confident and varied (the
# highest [IM score](../docs/glossary.md#im-score)). Where two rules disagree, or the predictions form no clusters, it falls back to
# source_only if that scores better, and says so. (Notebook 06 checks one thing more, with a second network; it takes too long
# here.) **What is chosen here is final:** the labels are opened below, and nothing is changed after it.

# %%
every_choice = {
    name: [selection.choose(fit, train, fallback=low, device=device) for low, fit in zip(lows, found, strict=True)]
    for lows in [fits["source_only"]]
    for name, found in fits.items()
    if name != "source_only"
}
choices = every_choice[method]
print(f"{'step':>5} {'source acc.':>12} {'IM score':>9} {'EnsV':>6}  check   (seed {run_seeds[0]})")
for line in choices[0].table:
    print(
        f"{line['step']:5} {line['source_val_acc']:12.3f} {line['im_score']:9.3f} {line['ensv_agreement']:6.2f}  "
        f"{line['problem'] or 'valid'}"
    )
for s, choice in zip(run_seeds, choices, strict=True):
    print(f"seed {s}: {choice.reason} (step {choice.step}). {choice.warning}")

# %% [markdown]
# ### Open the held-out labels
#
# First for the [**oracle**](../docs/glossary.md#oracle): the same network and the same number of steps, trained on the *labelled*
# target-train subtomograms. It is a yardstick, not a method; nobody has those labels in practice.

# %%
train_labels, test_labels = (load_labels(c, folder=run.data_folder) for c in (train_config, test_config))
fits["oracle"] = train_on("oracle", train_labels.labelled(train))

# %% [markdown]
# Then for the scores. The [**regret**](../docs/glossary.md#regret) is the best checkpoint minus the chosen one: what choosing
# without labels costs. For the bounds nothing is chosen, the last checkpoint counts. Where the choice fell back, the predictions of
# source_only count in the method's name from here on.

# %%
rows, results = [], {}
for label, found in fits.items():
    for i, fit in enumerate(found):
        choice = every_choice[label][i] if label in every_choice else None
        chosen, step = (choice.fit, choice.step) if choice else (fit, max(fit.candidates))
        generator = torch.Generator().manual_seed(run_seeds[i])
        result = runner.score_candidates(fit, chosen, step, test, test_labels, generator=generator, device=device)
        results[label, i] = result
        shown = f"step {step}" if chosen is fit else f"{chosen.method}, step {step}"
        ends = {"last": result.last, "best": result.best, "regret": result.regret}
        rows.append({"method": label, "seed": run_seeds[i], "chosen": shown, **result.scores, **ends})

# %%
run.save_table(rows, "scores")
columns = ("balanced_accuracy", "last", "best", "regret", "macro_f1", "nll")
header = "method | seed | chosen | balanced accuracy | last checkpoint | best checkpoint | regret | macro F1 | NLL"
lines = ([r["method"], str(r["seed"]), r["chosen"], *(f"{r[name]:.3f}" for name in columns)] for r in rows)
display(Markdown(tables.table(header, lines)))

# %% [markdown]
# ### The score
#
# Look where the method stands between the two bounds; the dotted line is guessing. One dot per run, and with two runs or more a 95 %
# t interval. **One run has no interval**: it shows how the method works, not how well. For that, the evidence of part 2
# has several seeds with new data for each.

# %%
values = {label: [r["balanced_accuracy"] for r in rows if r["method"] == label] for label in fits}
intervals = {label: metrics.interval(v, bounds=metrics.FRACTION) for label, v in values.items()}
fig = figures.scores(values, intervals, f"balanced accuracy on target-test ({scenario})")
fig.axes[0].axvline(1 / len(p.classes), ls=":", color="0.6")
run.save_figure(fig, "scores")
plt.show()

# %%
low, ours, high = (intervals[label].mean for label in ("source_only", method, "oracle"))
lesson.checkpoint("balanced accuracy of source_only", low)
lesson.checkpoint("balanced accuracy of the method", ours)
print(f"gap: oracle - source_only = {high - low:+.3f}; {method} - source_only = {ours - low:+.3f}")
closed = text(statistics.gap_closed(values[method], values["source_only"], values["oracle"]), ".0%", "n/a")
if len(run_seeds) > 1:
    over = statistics.difference(values[method], values["source_only"])
    print(f"gap closed: {closed}; paired by seed, {method} is {over:+.3f} over source_only")
elif high > low:
    print(f"{(ours - low) / (high - low):.0%} of the gap in this one run; without an interval that is an anecdote")

# %% [markdown]
# [**Gap closed**](../docs/glossary.md#gap-closed) is (method - source_only) / (oracle - source_only). When the interval of oracle - source_only includes 0 there
# is no measurable gap, and the answer is "n/a"; the same where it lies below 0. The interval of the gap closed (Fieller's) has no
# bounds: it may reach below 0 % and past 100 %.
#
# ### What one number hides: the confusions
#
# Rows are true classes, and each sums to 100 %; the diagonal is the recall of each class. Two classes that are called by each other's
# name are a *pair* that these data cannot tell apart; a dark column is a class that takes in the others.
#
# **What do you expect?** Remember the class fractions of notebook 02: which column of source_only is dark?

# %%
several = range(len(run_seeds))
matrices = {label: sum(metrics.confusion(results[label, i].raw, test_labels) for i in several) for label in fits}
fig = figures.confusion(matrices, test_labels.classes)
run.save_figure(fig, "confusion")
plt.show()

# %%
recalls = {label: np.diag(m) / np.maximum(m.sum(1), 1) for label, m in matrices.items()}
for label in ("source_only", method):
    lowest = recalls[label].min()
    worst = [name for name, r in zip(test_labels.classes, recalls[label], strict=True) if r < lowest + 0.005]
    print(f"{label}: the lowest recall is {lowest:.0%}, of {' and '.join(worst)}")
for label, counts in matrices.items():
    wrong = counts / np.maximum(counts.sum(1, keepdims=True), 1) * (1 - np.eye(len(counts)))
    i, j = np.unravel_index(wrong.argmax(), wrong.shape)
    print(
        f"{label}: the largest confusion is {test_labels.classes[i]} called {test_labels.classes[j]}, {wrong[i, j]:.0%}"
    )
gained = recalls[method] - recalls["source_only"]
lost = [f"{name} {g:+.0%}" for name, g in zip(test_labels.classes, gained, strict=True) if g < 0]
print(f"classes with a lower recall than in source_only: {', '.join(lost) or 'none'}")

# %% [markdown]
# ### Exercise 1 · Class fractions from a confusion
#
# Suppose that a classifier finds a share `recall` of the ribosomes, and calls a share `false_rate` of all else ribosome. It calls
# the share `seen` of a tomogram ribosome. What is the true share? Return it, cut to 0 and 1. What do you expect if `seen`
# equals `false_rate`?


# %% tags=["exercise"]
def true_share(seen, recall, false_rate):
    return None


# %% tags=["solution", "hide-cell"]
def true_share(seen, recall, false_rate):
    return min(1.0, max(0.0, (seen - false_rate) / (recall - false_rate)))


print(f"seen 30 %, recall 80 %, false rate 10 %: {true_share(0.3, 0.8, 0.1):.0%} are ribosomes")

# %% [raw] tags=["mistakes", "remove-cell"]
# name = "true_share"
# cases = ['true_share(0.3, 0.8, 0.1)', 'true_share(0.1, 0.8, 0.1)', 'true_share(0.05, 0.9, 0.1)', 'true_share(0.5, 0.9, 0.0)']
# wrong = ['''
# def true_share(seen, recall, false_rate):
#     return seen - false_rate
# ''']
#
# [[mistake]]
# code = '''
# def true_share(seen, recall, false_rate):
#     return seen
# '''
# hint = 'that is what was seen: missed ribosomes are not in it, and false ones are.'
#
# [[mistake]]
# code = '''
# def true_share(seen, recall, false_rate):
#     return min(1.0, seen / recall)
# '''
# hint = 'that makes up for the missed ribosomes alone. Some of those seen are none.'
#
# [[mistake]]
# code = '''
# def true_share(seen, recall, false_rate):
#     return min(1.0, max(0.0, (seen - false_rate) / recall))
# '''
# hint = 'the false rate counts for what is no ribosome, 1 - share, and not for everything. Solve seen = share recall + (1 - share) false_rate.'
#
# [[mistake]]
# code = '''
# def true_share(seen, recall, false_rate):
#     return (seen - false_rate) / (recall - false_rate)
# '''
# hint = 'a share below 0 cannot be. Cut it: fewer were seen than false ones are expected.'

# %%
lesson.check("true_share")

# %% [markdown]
# ### How sure, and how right?
#
# A point under the diagonal is overconfidence: of the subtomograms that the network called, say, 90 % certain, fewer were right.
# Bins with fewer than ten subtomograms are not drawn. Dotted: as trained. The calibration saw no target label: it is one temperature,
# fitted on simulated validation subtomograms in the target's style. It cannot foresee what the warps do not imitate, and source_only
# has no warps, so its temperature was fitted on plain source.
#
# **What do you expect?** Will the temperature lower the [calibration error](../docs/glossary.md#ece) of both, of one, or of none?

# %%
curves = {}
for label in ("source_only", method):
    curves[f"{label}, as trained"] = metrics.reliability(results[label, 0].raw, test_labels)
    curves[f"{label}, calibrated"] = metrics.reliability(results[label, 0].calibrated, test_labels)
fig = figures.reliability(curves)
run.save_figure(fig, "reliability")
plt.show()

# %%
for label in ("source_only", method):
    before, after = (np.mean([r[name] for r in rows if r["method"] == label]) for name in ("ece_raw", "ece"))
    verb = "lowers" if after < before - 0.005 else "RAISES" if after > before + 0.005 else "does not change"
    print(f"{label}: calibration {verb} the calibration error (ECE), {before:.3f} -> {after:.3f}")

# %% [markdown]
# ### None of these
#
# Some subtomograms are of no class: ice, or a molecule that nobody simulated. A detector rejects subtomograms with a high
# out-of-distribution score. It learned from simulated *outliers* (other molecules, membrane, ice), never from the molecule that it is
# tested on or from a relative of it. Which molecule that is depends on the seed. Scenarios with such subtomograms are `structure_3` and
# `in_situ_3`. Look at both numbers together: rejecting everything would find them all. The threshold is the detector's own,
# which a user has; no label has moved it.

# %%
if bool((test_labels.y == data.UNKNOWN).any()):
    unseen = datasets.unseen_molecule(DatasetConfig.of(p, scenario, "test", run.data_seed))
    others = structures.outliers(p.classes, unseen, width=p.box * p.voxel_size)
    n = p.n_source // len(p.classes) * len(others) // 2
    config = replace(DatasetConfig.of(p, "source", "source", run.data_seed), classes=others, n=n)
    outliers = simulate_source(config, folder=run.data_folder)
    chosen, generator = choices[0].fit, torch.Generator().manual_seed(seed)
    detector = calibration.UnknownDetector.fit(
        chosen.network, validation, outliers, chosen.warps, generator, target=train, device=device
    )
    distances = detector.score(chosen.network, test.x, device=device)
    predicted = calibration.assign(results[method, 0].calibrated, distances, detector.thresholds)
    found, falsely = metrics.unknown_recall(predicted, test_labels)
    print(f"rejected: {found:.0%} of the unseen molecule, and {falsely:.0%} of the known classes")
    run.report(unknown_recall=found, none_false_rejection=falsely)
else:
    print(f"every subtomogram of {scenario} is of a known class: see part 2, or try -p scenario=structure_3")

# %% [markdown]
# ### Did the domains come together?
#
# Each dot is a subtomogram's features. The [proxy A-distance](../docs/glossary.md#a-distance) is 0 where source and target cannot be
# told apart, 2 where they always can.
#
# **What do you expect?** The method is better than source_only. Are its features nearer to each other, too?

# %%
distance = {}
for label, fit in (("source_only", fits["source_only"][0]), (method, choices[0].fit)):
    clouds = {
        name: models.embed(fit.network, part.x[:300]) for name, part in (("source", validation), ("target", test))
    }
    distance[label] = metrics.a_distance(*clouds.values(), seed=0)
    fig = figures.embedding(clouds, f"{label}: A-distance {distance[label]:.2f}")
    run.save_figure(fig, f"features_{label}")
    plt.show()
apart, gain = distance[method] - distance["source_only"], ours - low
where = "nearer" if apart < -0.1 else "further apart" if apart > 0.1 else "neither nearer nor further apart"
print(f"{method}: balanced accuracy {gain:+.2f}, and source and target are {where} ({apart:+.2f}) than in source_only")

# %% [markdown]
# **Recap of part 1**
# - A score needs a lower bound, an upper bound, and more than one run.
# - The choice was made before the labels were opened; the regret says what that costs.
# - Confusions, calibration and rejected subtomograms show what one number hides.
#
# ## Part 2 · The evidence (30 minutes)
#
# One run is an anecdote. `make evidence` trains methods on scenarios with several seeds, each of which draws new
# data *and* trains anew, on the laptop profile. Its scores are committed as `notebooks/evidence/evidence.csv`, a row per run, and
# every figure below is drawn from that file. Where a part has not been run, a sentence says so.

# %%
folder = runtime.root() / "notebooks" / "evidence"
both = (runner.read(folder / name) for name in ("evidence.csv", "per_class.csv"))
measured, per_class = ([row for row in one if row["profile"] == "laptop"] for one in both)
gaps = {(g.method, g.scenario): g for g in statistics.gap_table(measured)}


def show(name, tier):
    """Draw one part of the evidence, or say that it waits to be measured."""
    fig = tables.DRAWINGS[name].draw(measured, per_class)
    if fig is None:
        print(f"Not measured yet: make evidence TIER={tier} fills this in.")
    else:
        run.save_figure(fig, f"evidence_{name}")
        plt.show()


def of(method, wanted=statistics.NAMED):
    """scenario -> what was measured of a method there."""
    return {s: gaps[method, s] for s in wanted if (method, s) in gaps}


if measured:
    # source_only stands in many rows, but is trained once per seed
    hours = sum(float(row["cpu_seconds"]) for row in measured if row["method"] != "source_only") / 3600
    print(f"{len(measured)} runs of {len({r['method'] for r in measured})} methods, {hours:.1f} CPU-hours of training,")
    print(
        f"on {', '.join(sorted({r['device'] for r in measured}))}; seeds {sorted({int(r['seed']) for r in measured})}"
    )
else:
    print(f"No file {folder / 'evidence.csv'} with runs of the laptop profile: make evidence writes it.")

# %% [markdown]
# ### How much of the gap is closed?
#
# Look for green bars that reach past the dotted goal, with an interval that stays right of 0. It does *not* show an accuracy: a small
# gap can be closed whole at a poor score, and a gap that the seeds cannot tell from 0 has no bar.
#
# **What do you expect?** On which of the three composites is the largest share of the gap closed, and on which is the score best?

# %%
show("gap_closed", "core")
for name, g in of("cryoshift", jobs.COMPOSITES).items():
    print(f"{name}: cryoshift {g.score:.3f}, gap closed {text(g.closed, '.0%', 'n/a')}, {g.seeds} seed(s)")
composites = of("cryoshift", jobs.COMPOSITES)
if closed_on := {name: g.closed.mean for name, g in composites.items() if g.closed}:
    top, best = max(closed_on, key=closed_on.get), max(composites, key=lambda name: composites[name].score.mean)
    print(f"the largest share is closed on {top}, the best score is on {best}")

# %% [markdown]
# ### Exercise 2 · Whose sign turns?
#
# Is a method ahead of another everywhere? Return, for each scenario, the mean of `a - b` over the **seeds that both have**,
# from rows as in the CSV (dictionaries of text). Rows with a part left out (`without` is not empty) do not count. Then
# look at the real file: on which composite does `cryoshift - cryoshift_reference` change its sign?

# %% tags=["given"]
lines = (
    "new,easy,1,.90,",
    "new,easy,2,.80,",
    "old,easy,1,.92,",
    "old,easy,3,.40,",
    "new,hard,1,.60,",
    "new,hard,1,.10,mada",
)
lines += ("old,hard,1,.50,", "old,hard,2,.10,", "new,hard,2,.16,")
names = ("method", "scenario", "seed", "balanced_accuracy", "without")
few_rows = [dict(zip(names, line.split(","), strict=True)) | {"rule": ""} for line in lines]


# %% tags=["exercise"]
def differences(rows, a, b):
    return None  # {scenario: mean difference}


# %% tags=["solution", "hide-cell"]
def differences(rows, a, b):
    kept = [row for row in rows if not row["without"] and not row["rule"]]
    score = {(r["method"], r["scenario"], r["seed"]): float(r["balanced_accuracy"]) for r in kept}
    found = {}
    for method, scenario, seed in score:
        if method == a and (b, scenario, seed) in score:
            found.setdefault(scenario, []).append(score[a, scenario, seed] - score[b, scenario, seed])
    return {scenario: float(np.mean(values)) for scenario, values in found.items()}


# %% [raw] tags=["mistakes", "remove-cell"]
# name = "differences"
# cases = ['differences(few_rows, "new", "old")', 'differences(few_rows, "old", "new")']
# wrong = ['''
# def differences(rows, a, b):
#     return {"easy": 0.1, "hard": 0.1}
# ''']
#
# [[mistake]]
# code = '''
# def differences(rows, a, b):
#     def mean(method, scenario):
#         values = [float(r["balanced_accuracy"]) for r in rows if r["method"] == method and r["scenario"] == scenario and not r["without"]]
#         return float(np.mean(values))
#
#     return {scenario: mean(a, scenario) - mean(b, scenario) for scenario in dict.fromkeys(r["scenario"] for r in rows)}
# '''
# hint = 'these are two means over different seeds. A seed draws its own data, and some draws are easier: compare within a seed.'
#
# [[mistake]]
# code = '''
# def differences(rows, a, b):
#     score = {(r["method"], r["scenario"], r["seed"]): float(r["balanced_accuracy"]) for r in rows}
#     found = {}
#     for method, scenario, seed in score:
#         if method == a and (b, scenario, seed) in score:
#             found.setdefault(scenario, []).append(score[a, scenario, seed] - score[b, scenario, seed])
#     return {scenario: float(np.mean(values)) for scenario, values in found.items()}
# '''
# hint = 'rows with a part left out are other methods. They have overwritten those of the whole method: look at the column without.'
#
# [[mistake]]
# code = '''
# def differences(rows, a, b):
#     kept = [row for row in rows if not row["without"] and not row["rule"]]
#     score = {(r["method"], r["scenario"], r["seed"]): float(r["balanced_accuracy"]) for r in kept}
#     found = {}
#     for method, scenario, seed in score:
#         if method == a and (b, scenario, seed) in score:
#             found.setdefault(scenario, []).append(score[b, scenario, seed] - score[a, scenario, seed])
#     return {scenario: float(np.mean(values)) for scenario, values in found.items()}
# '''
# hint = 'that is b - a. A positive number should mean that a is ahead.'

# %%
lesson.check("differences")

# %%
if lesson.solved("differences"):
    found = differences(measured, "cryoshift", "cryoshift_reference")
    for name in [name for name in jobs.COMPOSITES if name in found]:
        print(f"{name}: cryoshift - cryoshift_reference = {found[name]:+.3f}")

# %% [markdown]
# ### Against every other method
#
# Each row is another method on the same network, data and steps, of those that are measured so far. Where the whole interval lies left of
# 0, cryoshift is better, paired by seed. It does *not* show that the others are poor methods: they ran at their usual settings,
# and only cryoshift's recipe was searched for (on other seeds, without target labels).
#
# **What do you expect?** Does leaving out the adversaries (`cryoshift_warps`) cost something that these seeds can show?

# %%
show("baselines", "baselines")
others = statistics.baselines(measured)
worse = [name for name, found in others.items() if found.interval.high < 0]
if others:
    print(f"on {jobs.REFERENCE_SCENARIO} the whole interval lies below 0 for {len(worse)} of {len(others)} methods")
    if "cryoshift_warps" in others:
        plain = others["cryoshift_warps"].interval
        verdict = "costs accuracy" if plain.high < 0 else "gains accuracy" if plain.low > 0 else "shows no difference"
        print(f"leaving out the adversaries {verdict} with these seeds: {plain:+.3f}")

# %% [markdown]
# ### One factor at a time
#
# Which part of the shift costs accuracy at all, and which of it comes back? A grey bar is the gap; look for green dots at its
# right end. Where there is hardly a bar, there is nothing to adapt to, and the only question is whether adaptation does harm. The
# intervals here are not paired: they overlap more than the differences do.

# %%
show("factors", "factors")
found = of("cryoshift", jobs.FACTORS)
for name, g in found.items():
    print(f"{name:13} cryoshift {g.score:.3f}, gap closed {text(g.closed, '.0%', 'n/a')}")
pooled, with_gap = statistics.factors_closed(measured)
if pooled:
    print(f"over the {len(with_gap)} of {len(found)} factors with a measurable gap, sum over sum: {pooled:.0%}")

# %% [markdown]
# ### Does adaptation ever hurt?
#
# [Negative transfer](../docs/glossary.md#negative-transfer) is the failure that a user cannot see. A purple row is a method whose
# own 95 % interval lies below source_only. Among many rows one is purple by chance now and then, so the line below counts only those
# that stay significant after p was adjusted for all of them (Holm). A grey row proves nothing either way, and a few seeds can only
# show large harm.
#
# **What do you expect?** How many rows are purple, and how many would be by chance (exercise 3)?

# %%
compared = statistics.transfer(measured)
if compared:
    fig = forest(compared, "Every method compared with source_only", "balanced accuracy: method - source_only")
    run.save_figure(fig, "evidence_transfer")
    plt.show()
    harmed = [name for name, found in compared.items() if found.interval.mean < 0 and found.p < 0.05]
    purple = sum(found.interval.high < 0 for found in compared.values())
    print(
        f"{purple} of {len(compared)} rows are purple; {0.025 * len(compared):.1f} would be by chance if nothing helped or harmed"
    )
    print(f"negative transfer in {len(harmed)} of {len(compared)}, with p adjusted: {'; '.join(harmed) or 'none'}")
else:
    print("Not measured yet: make evidence TIER=core fills this in.")

# %% [markdown]
# ### Exercise 3 · Harm by chance
#
# 26 pairs of method and scenario are compared with source_only, each with a 95 % interval. Suppose that no method does
# anything. How many intervals are expected to lie wholly *below* 0? Write it for any number of comparisons.


# %% tags=["exercise"]
def harms_by_chance(comparisons, level=0.95):
    return None


# %% tags=["solution", "hide-cell"]
def harms_by_chance(comparisons, level=0.95):
    return comparisons * (1 - level) / 2


print(f"26 comparisons: {harms_by_chance(26):.2f} harms by chance alone")

# %% [raw] tags=["mistakes", "remove-cell"]
# name = "harms_by_chance"
# cases = ['harms_by_chance(26)', 'harms_by_chance(100)', 'harms_by_chance(26, 0.8)']
# wrong = ['''
# def harms_by_chance(comparisons, level=0.95):
#     return 0.65
# ''']
#
# [[mistake]]
# code = '''
# def harms_by_chance(comparisons, level=0.95):
#     return comparisons * (1 - level)
# '''
# hint = 'a 95 % interval misses on two sides. Half of its misses look like gains.'
#
# [[mistake]]
# code = '''
# def harms_by_chance(comparisons, level=0.95):
#     return (1 - level) / 2
# '''
# hint = 'that is the chance for one comparison. Many are made.'
#
# [[mistake]]
# code = '''
# def harms_by_chance(comparisons, level=0.95):
#     return 1 - (1 - (1 - level) / 2) ** comparisons
# '''
# hint = 'that is the probability of at least one harm. The question asks for the expected number.'
#
# [[mistake]]
# code = '''
# def harms_by_chance(comparisons, level=0.95):
#     return 0.0
# '''
# hint = 'each of the intervals misses now and then, even if there is nothing to find.'

# %%
lesson.check("harms_by_chance")

# %% [markdown]
# ### Which part did it?
#
# The recipe with one part left out, warp by warp and rule by rule, where it is measured. A purple row is a part that is needed; a
# grey one could go, as far as these seeds can tell. It does *not* show what two parts do together: each may cover for the other.

# %%
show("ablation", "ablation")
parts = statistics.ablation(measured)
if parts:
    worst = min(parts, key=lambda name: parts[name].interval.mean)
    needed = [name for name, found in parts.items() if found.interval.high < 0]
    print(f"largest loss: {worst}, {parts[worst].interval:+.3f}; rows below 0: {', '.join(needed) or 'none'}")

# %% [markdown]
# ### Class by class
#
# Look along a row for dark cells: a mean may hide a molecule that is never found. Look down a column for molecules that even the
# oracle finds seldom: there information is missing, or labels are few.

# %%
show("recall", "core")
for name, by_class in statistics.recalls(per_class).items():
    if name in jobs.CORE:
        worst = [one for one, recall in by_class.items() if recall < min(by_class.values()) + 0.005]
        print(
            f"{name}: the lowest recall on {jobs.REFERENCE_SCENARIO} is {min(by_class.values()):.0%}, of {' and '.join(worst)}"
        )

# %% [markdown]
# ### What does choosing without labels cost?
#
# The purple line from the chosen checkpoint to the best one is the regret. The printed lines compare the choice with the
# *last* checkpoint, which costs nothing to choose. It does *not* show a choice between methods; only where its adversaries change the
# class fractions is `cryoshift` replaced. A choice that fell back to source_only counts with source_only's score.

# %%
show("regret", "core")
for name, g in of("cryoshift", jobs.COMPOSITES).items():
    last = statistics.by_seed(measured, "cryoshift", name, "balanced_accuracy_last")
    gain = g.score.mean - np.mean(list(last.values()))
    print(f"{name}: regret {g.regret:.3f}; against the last checkpoint the choice is {gain:+.3f}")

# %% [markdown]
# ### One number at a time
#
# One parameter of the reference scenario is swept, where that is measured. Look where the green line leaves the black one (the
# oracle), and where both fall to guessing. The oracle learns from the target's own subtomograms, of which few are rare, while
# simulated ones can be had in equal numbers. The last panel says how many unlabelled subtomograms are needed. A dot is a seed.

# %%
show("curves", "curves")
for parameter, by_method in statistics.curves(measured).items():
    line = {v: np.mean(scores) for v, scores in by_method["cryoshift"].items()}
    low, high = min(line, key=line.get), max(line, key=line.get)
    print(f"{jobs.LABELS[parameter]}: cryoshift from {line[low]:.2f} (at {low:g}) to {line[high]:.2f} (at {high:g})")

# %% [markdown]
# ### An unseen molecule
#
# A tenth of the subtomograms of `structure_3` is a molecule that nobody simulated. Two thresholds: **the user's**, which the detector sets
# itself, and one at which exactly 5 % of the known subtomograms are rejected, which only somebody with the labels can set. The
# columns of the user's threshold say what to expect in practice; the last column says how well the two kinds are separated.

# %%
rejected = tables.unseen_table(measured)
display(Markdown(rejected)) if rejected else print("Not measured yet: make evidence TIER=unseen fills this in.")

# %% [markdown]
# ### Can one know the score without any label?
#
# Spike-in validation puts known molecules into particle-free boxes of the *target* and scores the model on them: an estimate that
# a user can have, too (notebook 06). Above the diagonal the estimate is too low, below it too high. Spiked molecules are simulated
# with our own structures, and share whatever is wrong with our simulation.
#
# **What do you expect?** It tells easy targets from hard ones. Does it also rank the adapting methods of one target (exercise 4)?

# %%
spiked = statistics.spike_ins(measured)
if not spiked:
    print("Not measured yet: no row of the evidence has a spike-in estimate so far.")
else:
    show("spike", "core")
    print(f"{statistics.estimate_errors(spiked)}; bias is estimate - true score")
    adapted = [one for one in spiked if one.method != "source_only"]
    ranks = statistics.estimate_errors(adapted)
    verdict = (
        "ranks them" if ranks.within > 0.7 else "ranks them weakly" if ranks.within > 0.3 else "does not rank them"
    )
    print(
        f"adapting methods alone: between targets {ranks.correlation:.2f}, within targets {ranks.within:.2f}: it {verdict}"
    )

# %% [markdown]
# ### Exercise 4 · Does an estimate rank the methods of one target?
#
# An estimate may correlate with the truth only because some targets are easy and others hard. To ask whether it ranks the
# methods *of one target*, subtract each target's mean from both, and correlate what is left over all targets. Write it.

# %% tags=["given"]
where = np.repeat(["easy", "middle", "hard"], 3)
truth = np.array([0.90, 0.88, 0.92, 0.70, 0.74, 0.66, 0.40, 0.42, 0.35])
guesses = np.array([0.95, 0.96, 0.94, 0.80, 0.76, 0.81, 0.55, 0.52, 0.56])


# %% tags=["exercise"]
def within(estimate, true, target):
    return None  # arrays of equal length; target holds names


# %% tags=["solution", "hide-cell"]
def within(estimate, true, target):
    def left(values):
        return np.concatenate([values[target == name] - values[target == name].mean() for name in np.unique(target)])

    return float(np.corrcoef(left(estimate), left(true))[0, 1])


print(f"between: {np.corrcoef(guesses, truth)[0, 1]:.2f}, within targets: {within(guesses, truth, where):.2f}")

# %% [raw] tags=["mistakes", "remove-cell"]
# name = "within"
# cases = ['within(guesses, truth, where)', 'within(truth, truth, where)']
# wrong = ['''
# def within(estimate, true, target):
#     return 0.0
# ''']
#
# [[mistake]]
# code = '''
# def within(estimate, true, target):
#     return float(np.corrcoef(estimate, true)[0, 1])
# '''
# hint = 'that is the correlation over everything. It is high because easy targets have high estimates and high scores.'
#
# [[mistake]]
# code = '''
# def within(estimate, true, target):
#     each = [np.corrcoef(estimate[target == name], true[target == name])[0, 1] for name in np.unique(target)]
#     return float(np.mean(each))
# '''
# hint = 'a correlation within one target rests on three points, and a mean of such ones weighs a target without spread like any other. Pool what is left of all targets.'
#
# [[mistake]]
# code = '''
# def within(estimate, true, target):
#     means = [(estimate[target == name].mean(), true[target == name].mean()) for name in np.unique(target)]
#     return float(np.corrcoef(np.array(means).T)[0, 1])
# '''
# hint = 'that correlates the means of the targets: exactly what should be taken out.'

# %%
lesson.check("within")

# %% [markdown]
# ### Aims, reached and not
#
# What this project set out to reach, before the measurement, and what came out. "So far" means that some of the planned runs are missing.

# %%
verdicts = goals.verdicts(measured)
display(Markdown(tables.table("goal | result | outcome", (v.line for v in verdicts))))
counted = {word: sum(v.outcome == word for v in verdicts) for word in ("reached", "not reached", "not measured")}
print(", ".join(f"{n} {word}" for word, n in counted.items()))

# %% tags=["solution", "remove-cell"]
assert not lesson.unsolved(), lesson.unsolved()

# %%
if p.name != "smoke":
    assert intervals["oracle"].mean > 2 / len(p.classes), "an oracle near chance means that the target is hopeless"
    if method == "cryoshift":  # 0.05: one run on a few hundred cubes is that uncertain
        assert intervals[method].mean > intervals["source_only"].mean - 0.05, "negative transfer in part 1"
alone = len(run_seeds) == 1
run.report(**{f"balanced_accuracy_{label}": found.mean if alone else found for label, found in intervals.items()})
if not alone:
    run.report(gap_closed=closed)
run.report(regret=float(np.mean([r["regret"] for r in rows if r["method"] == method])))
run.report(**{f"a_distance_{label}": value for label, value in distance.items()})
run.report(evidence_runs=len(measured), **{f"aims_{word.replace(' ', '_')}": n for word, n in counted.items()})
run.finish()

# %% [markdown]
# **Recap**
# - Many seeds, paired, with p adjusted for the number of comparisons.
# - Recall, calibration and unseen molecules belong beside the score.
# - Estimates without labels tell easy targets from hard ones better than they rank methods.
#
# ## What to take away
#
# - A score without a lower bound, an upper bound and an interval is an anecdote.
# - Choosing a checkpoint by its target accuracy would be peeking. The regret says what not peeking costs.
# - Confidences are claims. They must be checked like predictions, and calibration without labels can make them worse, too.
# - An aim that was missed belongs in the table beside those that were reached.
# - These targets are simulated. They compare methods; they do not promise an accuracy on your tomogram. Spike-ins come nearer.
#
# ## Questions to think about
#
# 1. Why balanced accuracy? Think of `prior_3`, where one class is ten times as frequent as another.
# 2. A few seeds give wide intervals. What would ten times as many narrow, and what would they not?
# 3. The oracle saw fewer labelled subtomograms than source_only, if the right ones. Is it really an upper bound?
