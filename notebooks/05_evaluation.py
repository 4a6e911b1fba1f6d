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
# opens the held-out labels and measures, on one small experiment that runs in front of you.
#
# **What you will learn**
# - how to score an adaptation so that nobody can be fooled: balanced accuracy, bounds on both sides, more than one run;
# - how a checkpoint is chosen without labels, and what that costs;
# - confusion, calibration, "none of these": what one number hides;
# - what *gap closed* means, and when it must read "n/a".
#
# **What you need**: notebooks 02 to 04b explain the methods; this one runs alone and reuses their fits where they exist; about 45
# minutes to read and try. All targets here are simulated. The target-test subtomograms come from other simulated tomograms than
# the target-train subtomograms. Words in links are explained in the [glossary](../docs/glossary.md). One run is an anecdote: many
# runs are read in [05b](05b_reading_the_evidence.ipynb).
#
# | profile | time | memory |
# |---|---|---|
# | smoke | 10 s | 630 MB |
# | laptop | 57 s | 1610 MB |

# %% tags=["hide-input"] jupyter={"source_hidden": true}
from dataclasses import replace

import numpy as np
import torch
from IPython.display import Markdown, display

from cryoshift_core import calibration, data, metrics, models, selection
from cryoshift_core.application import pictures
from cryoshift_core.benchmark import runner, statistics
from cryoshift_core.benchmark.tables import table, text
from cryoshift_core.course import exercises, figures
from cryoshift_core.course.run import begin
from cryoshift_core.simulation import datasets, structures
from cryoshift_core.simulation.datasets import DatasetConfig, load_labels, simulate_source, simulate_target

# %% tags=["parameters"]
profile: str = "laptop"  # how much work: smoke, laptop, gpu or paper
scenario: str = "in_situ_2"  # the target domain, a name from scenarios.SCENARIOS
method: str = "cryoshift"  # the method under test, a name from methods.METHODS
seeds: int = 1  # training runs per method; 0: the profile's number
methods: str = ""  # more methods to train and score, by commas
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

# %% [markdown]
# ## 1 · Train, and choose without a label (10 minutes)
#
# Four sets of subtomograms. The held-out labels of the two target sets are files of their own, and stay locked for now.

# %%
source, validation, train = run.domains()
train_config, test_config = (DatasetConfig.of(p, scenario, split, run.data_seed) for split in ("train", "test"))
test = simulate_target(test_config, folder=run.data_folder)
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
# **Recap**
# - The lower bound never sees the target; the method sees its subtomograms, and none of its labels.
# - A checkpoint is chosen by the source and by the target's predictions alone.
# - The choice was made before the labels were opened.
#
# ## 2 · Open the held-out labels (13 minutes)
#
# First for the [**oracle**](../docs/glossary.md#oracle): the same network and the same number of steps, trained on the *labelled*
# target-train subtomograms. It is a yardstick, not a method; nobody has those labels in practice.
#
# Then for the scores. The [**regret**](../docs/glossary.md#regret) is the best checkpoint minus the chosen one: what choosing
# without labels costs. For the bounds nothing is chosen, the last checkpoint counts. Where the choice fell back, the predictions of
# source_only count in the method's name from here on. Macro F1 is the mean of the classes' F1 (of precision and recall), and NLL the
# mean negative logarithm of the probability that the true class got: high where a network is sure and wrong.
#
# **What do you expect?** How large is the regret, compared with the gain over source_only?

# %%
train_labels, test_labels = (load_labels(c, folder=run.data_folder) for c in (train_config, test_config))
fits["oracle"] = train_on("oracle", train_labels.labelled(train))
rows, results = [], {}
for label, i in ((label, i) for label, found in fits.items() for i in range(len(found))):
    fit, choice = fits[label][i], every_choice[label][i] if label in every_choice else None
    chosen, step = (choice.fit, choice.step) if choice else (fit, max(fit.candidates))
    generator = torch.Generator().manual_seed(run_seeds[i])
    result = runner.score_candidates(fit, chosen, step, test, test_labels, generator=generator, device=device)
    results[label, i] = result
    shown = f"step {step}" if chosen is fit else f"{chosen.method}, step {step}"
    ends = {"last": result.last, "best": result.best, "regret": result.regret}
    rows.append({"method": label, "seed": run_seeds[i], "chosen": shown, **result.scores, **ends})
run.save_table(rows, "scores")
columns = ("balanced_accuracy", "last", "best", "regret", "macro_f1", "nll")
header = "method | seed | chosen | balanced accuracy | last checkpoint | best checkpoint | regret | macro F1 | NLL"
lines = ([r["method"], str(r["seed"]), r["chosen"], *(f"{r[name]:.3f}" for name in columns)] for r in rows)
display(Markdown(table(header, lines)))

# %% [markdown]
# ### The score
#
# Look where the method stands between the two bounds; the dotted line is guessing. One dot per run, and with two runs or more a 95 %
# t interval. **One run has no interval**: it shows how the method works, not how well. For that, the evidence of
# [05b](05b_reading_the_evidence.ipynb) has several seeds with new data for each.

# %%
values = {label: [r["balanced_accuracy"] for r in rows if r["method"] == label] for label in fits}
intervals = {label: metrics.interval(v, bounds=metrics.FRACTION) for label, v in values.items()}
fig = figures.scores(values, intervals, f"balanced accuracy on target-test ({scenario})")
fig.axes[0].axvline(1 / len(p.classes), ls=":", color="0.6")
lesson.figure(fig, "scores")
low, ours, high = (intervals[label].mean for label in ("source_only", method, "oracle"))
lesson.checkpoint("balanced accuracy of source_only", low)
lesson.checkpoint("balanced accuracy of the method", ours)
lost = np.mean([r["regret"] for r in rows if r["method"] == method])
print(f"gap: oracle - source_only = {high - low:+.3f}; {method} - source_only = {ours - low:+.3f}; regret {lost:.3f}")
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
# ### Exercise 1 · Gap closed
#
# Given the scores of several seeds (arrays of equal length, paired by seed), return the share of the gap that the method closes: a
# ratio of **means**. Return None where the 95 % t interval of oracle - source_only does not lie wholly above 0;
# `metrics.interval(values)` has `mean`, `low` and `high`.

# %% tags=["given"]
low_scores, high_scores = np.array([0.40, 0.44, 0.38]), np.array([0.80, 0.82, 0.90])
our_scores, no_gap = np.array([0.70, 0.74, 0.65]), np.array([0.45, 0.40, 0.41])


# %% tags=["exercise"]
def gap_closed(method, source_only, oracle):
    return None  # a number; None where there is no measurable gap


# %% tags=["solution", "hide-cell"]
def gap_closed(method, source_only, oracle):
    gap = metrics.interval(oracle - source_only)
    return float(np.mean(method - source_only) / gap.mean) if gap.low > 0 else None


# %% [raw] tags=["mistakes", "remove-cell"]
# name = "gap_closed"
# cases = ['gap_closed(our_scores, low_scores, high_scores)', 'gap_closed(low_scores, low_scores, high_scores)', 'gap_closed(our_scores, low_scores, no_gap)', 'gap_closed(our_scores, high_scores, low_scores)']
# wrong = ['''
# def gap_closed(method, source_only, oracle):
#     return 1.0
# ''']
#
# [[mistake]]
# code = '''
# def gap_closed(method, source_only, oracle):
#     return float(np.mean(method - source_only) / np.mean(oracle - source_only))
# '''
# hint = 'two of the cases have no measurable gap, and a ratio there is a large number that means nothing. Look at the interval of oracle - source_only first.'
#
# [[mistake]]
# code = '''
# def gap_closed(method, source_only, oracle):
#     gap = metrics.interval(oracle - source_only)
#     return float(np.mean((method - source_only) / (oracle - source_only))) if gap.low > 0 else None
# '''
# hint = 'that is a mean of ratios: a seed with a small gap weighs as much as one with a large gap. Divide the means.'
#
# [[mistake]]
# code = '''
# def gap_closed(method, source_only, oracle):
#     gap = metrics.interval(oracle - source_only)
#     return float(np.mean(method) / np.mean(oracle)) if gap.low > 0 else None
# '''
# hint = 'that compares with the oracle alone. No adaptation closes nothing, and gets 0: subtract source_only from both.'
#
# [[mistake]]
# code = '''
# def gap_closed(method, source_only, oracle):
#     gap = metrics.interval(oracle - source_only)
#     return float(np.mean(method - source_only) / gap.mean) if gap.mean > 0 else None
# '''
# hint = 'a mean above 0 is not yet a gap: with these seeds its interval may include 0.'
#
# [[mistake]]
# code = '''
# def gap_closed(method, source_only, oracle):
#     gap = metrics.interval(oracle - source_only)
#     return float(np.mean(oracle - method) / gap.mean) if gap.low > 0 else None
# '''
# hint = 'that is the share that is left open.'

# %%
lesson.check("gap_closed")

# %% [markdown]
# **Recap**
# - A score needs a lower bound, an upper bound, and more than one run.
# - The regret says what choosing without labels costs.
# - Where the gap itself is not measurable, a share of it has no value.
#
# ## 3 · What one number hides (22 minutes)
#
# ### The confusions
#
# Rows are true classes, and each sums to 100 %; the diagonal is the recall of each class. Two classes that are called by each other's
# name are a *pair* that these data cannot tell apart; a dark column is a class that takes in the others.
#
# **What do you expect?** Remember the class fractions of notebook 02: which column of source_only is dark?

# %%
several = range(len(run_seeds))
matrices = {label: sum(metrics.confusion(results[label, i].raw, test_labels) for i in several) for label in fits}
lesson.figure(figures.confusion(matrices, test_labels.classes), "confusion")
recalls = {label: np.diag(m) / np.maximum(m.sum(1), 1) for label, m in matrices.items()}
for label in ("source_only", method):
    lowest = recalls[label].min()
    worst = [name for name, r in zip(test_labels.classes, recalls[label], strict=True) if r < lowest + 0.005]
    print(f"{label}: the lowest recall is {lowest:.0%}, of {' and '.join(worst)}")
for label, counts in matrices.items():
    wrong = counts / np.maximum(counts.sum(1, keepdims=True), 1) * (1 - np.eye(len(counts)))
    i, j = np.unravel_index(wrong.argmax(), wrong.shape)
    names = f"{test_labels.classes[i]} called {test_labels.classes[j]}"
    print(f"{label}: the largest confusion is {names}, {wrong[i, j]:.0%}")
gained = recalls[method] - recalls["source_only"]
lost = [f"{name} {g:+.0%}" for name, g in zip(test_labels.classes, gained, strict=True) if g < 0]
print(f"classes with a lower recall than in source_only: {', '.join(lost) or 'none'}")

# %% [markdown]
# ### Exercise 2 · Class fractions from a confusion
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
lesson.figure(figures.reliability(curves), "reliability")
for label in ("source_only", method):
    before, after = (np.mean([r[name] for r in rows if r["method"] == label]) for name in ("ece_raw", "ece"))
    verb = "lowers" if after < before - 0.005 else "RAISES" if after > before + 0.005 else "does not change"
    print(f"{label}: calibration {verb} the calibration error (ECE), {before:.3f} -> {after:.3f}")

# %% [markdown]
# ### Exercise 3 · The calibration error
#
# With $n_b$ of N predictions in bin $b$ of confidence (Guo et al. 2017),
#
# $$ ECE = \sum_b \frac{n_b}{N} | accuracy_b - confidence_b | $$
#
# with the mean confidence and the accuracy of each bin. Write it for arrays `confidence` (0 to 1) and `right` (True or False), with
# `bins` bins of equal width. What do you expect for a network that is 90 % sure of everything, and right in 9 of 10?

# %% tags=["given"]
honest_confidence, honest_right = np.full(10, 0.85), np.arange(10) < 8.5
mixed_confidence = np.array([0.95] * 8 + [0.55] * 4)
mixed_right = np.array([True] * 5 + [False] * 3 + [True] * 3 + [False])


# %% tags=["exercise"]
def my_ece(confidence, right, bins=10):
    return None


# %% tags=["solution", "hide-cell"]
def my_ece(confidence, right, bins=10):
    which, error = np.minimum((confidence * bins).astype(int), bins - 1), 0.0
    for b in np.unique(which):
        inside = which == b
        error += inside.mean() * abs(right[inside].mean() - confidence[inside].mean())
    return float(error)


print(f"90 % sure and right in 9 of 10: {my_ece(np.full(10, 0.9), np.arange(10) < 9):.2f}")

# %% [raw] tags=["mistakes", "remove-cell"]
# name = "my_ece"
# cases = ['my_ece(honest_confidence, honest_right)', 'my_ece(mixed_confidence, mixed_right)', 'my_ece(mixed_confidence, mixed_right, 1)']
# wrong = ['''
# def my_ece(confidence, right, bins=10):
#     return 0.05
# ''']
#
# [[mistake]]
# code = '''
# def my_ece(confidence, right, bins=10):
#     return float(abs(right.mean() - confidence.mean()))
# '''
# hint = 'without bins, overconfidence in one place and underconfidence in another cancel. Take the difference in each bin first.'
#
# [[mistake]]
# code = '''
# def my_ece(confidence, right, bins=10):
#     which = np.minimum((confidence * bins).astype(int), bins - 1)
#     return float(np.mean([abs(right[which == b].mean() - confidence[which == b].mean()) for b in np.unique(which)]))
# '''
# hint = 'each bin weighs the same here. A bin with many predictions should weigh more: n_b / N.'
#
# [[mistake]]
# code = '''
# def my_ece(confidence, right, bins=10):
#     return float(np.mean(np.abs(right - confidence)))
# '''
# hint = 'that is the distance of single predictions. One that is 85 % sure and right is no error of 15 %: compare means within bins.'
#
# [[mistake]]
# code = '''
# def my_ece(confidence, right, bins=10):
#     which, error = np.minimum((confidence * bins).astype(int), bins - 1), 0.0
#     for b in np.unique(which):
#         inside = which == b
#         error += inside.mean() * (right[inside].mean() - confidence[inside].mean())
#     return float(error)
# '''
# hint = 'the sign is kept, so bins cancel: the absolute value is missing.'

# %%
lesson.check("my_ece")

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
    print(f"every subtomogram of {scenario} is of a known class: see 05b, or try -p scenario=structure_3")

# %% [markdown]
# ### Did the domains come together?
#
# Each dot is a subtomogram's features. The [proxy A-distance](../docs/glossary.md#a-distance) is 0 where source and target cannot be
# told apart, 2 where they always can.
#
# **What do you expect?** The method is better than source_only. Are its features nearer to each other, too?

# %%
distance, panels = {}, {}
for label, fit in (("source_only", fits["source_only"][0]), (method, choices[0].fit)):
    domains = {"source": validation, "target": test}
    clouds = {name: models.embed(fit.network, part.x[:300]) for name, part in domains.items()}
    distance[label] = metrics.a_distance(*clouds.values(), seed=0)
    panels[f"{label}: A-distance {distance[label]:.2f}"] = clouds
lesson.figure(figures.embeddings(panels), "features")
apart, gain = distance[method] - distance["source_only"], ours - low
where = "nearer" if apart < -0.1 else "further apart" if apart > 0.1 else "neither nearer nor further apart"
print(f"{method}: balanced accuracy {gain:+.2f}, and source and target are {where} ({apart:+.2f}) than in source_only")

# %% tags=["solution", "remove-cell"]
assert not lesson.unsolved(), lesson.unsolved()

# %% tags=["hide-input"] jupyter={"source_hidden": true}
if p.name != "smoke":
    assert intervals["oracle"].mean > 2 / len(p.classes), "an oracle near chance means that the target is hopeless"
    if method == "cryoshift":  # 0.05: one run on a few hundred subtomograms is that uncertain
        assert intervals[method].mean > intervals["source_only"].mean - 0.05, "negative transfer"
alone = len(run_seeds) == 1
run.report(**{f"balanced_accuracy_{label}": found.mean if alone else found for label, found in intervals.items()})
if not alone:
    run.report(gap_closed=closed)
run.report(regret=float(np.mean([r["regret"] for r in rows if r["method"] == method])))
run.report(**{f"a_distance_{label}": value for label, value in distance.items()})
manifest = run.finish()

# %% [markdown]
# **Recap**
# - Confusions show which classes a mean has hidden.
# - A confidence is a claim, and is checked like a prediction.
# - Domains that lie nearer, and predictions that are right, are two different things.
#
# ## What to take away
#
# - A score without a lower bound, an upper bound and an interval is an anecdote.
# - Choosing a checkpoint by its target accuracy would be peeking. The regret says what not peeking costs.
# - Confidences are claims. They must be checked like predictions, and calibration without labels can make them worse, too.
#
# ## Questions to think about
#
# 1. Why balanced accuracy? Think of `prior_3`, where one class is ten times as frequent as another.
# 2. The oracle saw fewer labelled subtomograms than source_only, if the right ones. Is it really an upper bound?
# 3. You run this notebook with ten seeds and report the best one. Which of the numbers above would you have spoiled?
