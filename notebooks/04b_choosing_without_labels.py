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
# # 04b · Choosing without labels
#
# Notebook 04 built one method. There are many, each with checkpoints and numbers to set. Which one is better is measured with labels,
# on other data. Which one to *use* on your target must be decided without a label. Can that be done, and what fools it?
#
# **What you will learn**
# - methods as named sums of terms, and to make one of your own;
# - what feature alignment buys, and where it hurts, read from scores with held-out labels;
# - to choose a coefficient and a checkpoint without labels, by several scores of which each is blind to something;
# - to refuse a model that is not to be trusted.
#
# **What you need**: notebook 04 for the methods; this one runs alone, and reuses its data and fits where they exist; about 45 minutes
# to read and try. Everything is simulated, and no target label is used. The one exception is said where it comes: scores that
# `make evidence` measured on other seeds. Words in links are explained in the [glossary](../docs/glossary.md).
#
# | profile | time | memory |
# |---|---|---|
# | smoke | 15 s | 620 MB |
# | laptop | 34 s | 1480 MB |

# %% tags=["hide-input"] jupyter={"source_hidden": true}
import copy
import math
from dataclasses import replace

import numpy as np
import torch
import torch.nn.functional as F
from IPython.display import Markdown, display
from sklearn.cluster import KMeans
from sklearn.metrics import adjusted_mutual_info_score

from cryoshift_core import losses, selection
from cryoshift_core import methods as recipes
from cryoshift_core.application import pictures
from cryoshift_core.benchmark import figures, jobs, shipped, statistics
from cryoshift_core.benchmark.tables import table, text
from cryoshift_core.course import exercises, toy
from cryoshift_core.course.run import begin

# %% tags=["parameters"]
profile: str = "laptop"  # how much work: smoke, laptop, gpu or paper
scenario: str = "in_situ_2"  # the target domain, a name from scenarios.SCENARIOS
methods: str = ""  # more methods to train and compare, by commas
steps: int = 0  # training steps of each fit; 0: the profile's
lr: float = 0.0  # peak learning rate; 0: the usual one
weights: str = ""  # other weights of loss terms, such as mada:0.3, by commas; empty: those of the methods
without: str = ""  # terms and warps to leave out, by commas
seed: int = 0  # decides every random draw
data_seed: int = -1  # of the simulated data; -1: the same as seed
device: str = "auto"  # auto, cpu, cuda or mps
out_dir: str = ""  # where to write; empty: runs/<profile>/04b_choosing_without_labels

# %%
run = begin("04b_choosing_without_labels", globals())
lesson = exercises.Lesson(run, globals())
pictures.use_style()
p = run.profile
evidence = shipped.evidence(lesson.figure)
REFERENCE = jobs.REFERENCE_SCENARIO

# %% [markdown]
# ## 1 · Every method is one entry (8 minutes)
#
# A method is a named sum of terms, and the warps that make the copies it learns from. The baselines that a reader expects take one
# line each: DANN (Ganin & Lempitsky 2015), MADA (Pei et al. 2018), CORAL (Sun & Saenko 2016), MMD (Long et al. 2015), MCC (Jin et al.
# 2020), self-training (Tarvainen & Valpola 2017; Sohn et al. 2020), AdaBN (Li et al. 2018), DeceptionNet's min-max training (Zakharov et
# al. 2019). To add yours, add an entry to `recipes.METHODS`.
#
# **What do you expect?** Which methods look at the target at all, and which one looks at its labels?


# %%
def line(name):
    terms, method = recipes.resolve(name)
    weighted = " + ".join(term if weight == 1 else f"{weight:g} {term}" for term, weight in terms.items())
    trained = f" (trained for {method.warp_training})" if method.warp_training else ""
    return [name, weighted, ", ".join(method.warps) + trained, method.description]


display(Markdown(table("method | terms | warps of the source | in words", map(line, recipes.METHODS))))
labelled = [name for name, method in recipes.METHODS.items() if method.oracle]
blind = [name for name in recipes.METHODS if not line(name)[2] and line(name)[1] == "source" and name not in labelled]
print(f"learns from target labels: {', '.join(labelled)}; cross-entropy on the source alone: {', '.join(blind)}")
print("adabn is one of them, and still uses the target: its normalisation takes the target's statistics to predict")

# %% [markdown]
# ### Exercise 1 · A method of your own
#
# `recipes.Method` takes a tuple of (term, weight) and a sentence. Make a method that learns from the source, aligns means and
# covariances (`coral`) with weight 0.5, and discourages class confusion (`mcc`) with weight 0.5.

# %% tags=["exercise"]
mine = None  # recipes.Method((...), "...")

# %% tags=["solution", "hide-cell"]
mine = recipes.Method((("source", 1.0), ("coral", 0.5), ("mcc", 0.5)), "CORAL and minimum class confusion, half each")
recipes.METHODS["mine"] = mine  # now training.fit("mine", source, target, ...) trains it

# %% [raw] tags=["mistakes", "remove-cell"]
# name = "mine"
# cases = ['sorted(mine.terms)']
# wrong = ['mine = recipes.Method((("source", 0.5), ("coral", 0.5), ("mcc", 0.5)), "...")']
#
# [[mistake]]
# code = 'mine = recipes.Method((("coral", 0.5), ("mcc", 0.5)), "...")'
# hint = 'nothing teaches the classes: the term source with weight 1 is missing.'
#
# [[mistake]]
# code = 'mine = recipes.Method((("source", 1.0), ("coral", 1.0), ("mcc", 1.0)), "...")'
# hint = 'the terms are right. The weights of coral and mcc are 0.5.'
#
# [[mistake]]
# code = 'mine = recipes.Method((("source", 1.0), ("mmd", 0.5), ("mcc", 0.5)), "...")'
# hint = 'mmd compares whole distributions. The term for means and covariances is coral.'

# %%
lesson.check("mine")

# %% [markdown]
# **Recap**
# - A method is a sum of terms, and a new one is one entry.
# - Terms differ in what they compare: means, distributions, classes, or predictions with themselves.
# - No term gets a target label; the oracle gets labelled target subtomograms as its source.
#
# ## 2 · What feature alignment buys, and what it cannot (14 minutes)
#
# `make evidence` trains methods with other seeds on `in_situ_2` and scores them with held-out labels. Two figures from it, with the
# methods that are measured so far. In the first, each method minus `source_only`: whose interval leaves zero, and whose p stays below
# 0.05 after it is [adjusted](../docs/glossary.md#holms-adjustment) for the number of methods? A method whose
# selection fell back counts as `source_only`, so it lies at exactly 0 there. In the second, each method is a dot: the further to the
# left, the harder are its features of source and target to tell apart ([A-distance](../docs/glossary.md#a-distance) 2: always told
# apart); the higher, the more of its predictions are right.
#
# **What do you expect?** If alignment were what counts, on which line would the dots lie?

# %%
adapting = {m: {"method": m, "scenario": REFERENCE} for m in recipes.METHODS if m not in jobs.BOUNDS}
over = statistics.against(evidence.rows, adapting, base="source_only")
title = f"What each method adds to source_only on {REFERENCE}"
evidence.compare(over, title, "source_only", "evidence_over_source_only", "baselines")
fell_back = {m: list(statistics.by_seed(evidence.rows, m, REFERENCE, "fell_back").values()) for m in over}
never_used = [m for m in over if sum(fell_back[m]) == len(fell_back[m])]
print(f"methods that fell back on every seed, and lie at 0: {', '.join(never_used) or 'none'}")
for m, times in fell_back.items():
    closed = text(statistics.gap(evidence.rows, m, REFERENCE).closed, ".0%", "n/a")
    print(f"{m:20} closes {closed} of the gap; selection fell back on {sum(times):.0f} of {len(times)} seeds")

# %%
dots = {}
for name in recipes.METHODS:
    columns = ("a_distance_after", "balanced_accuracy")
    values = [list(statistics.by_seed(evidence.rows, name, REFERENCE, column).values()) for column in columns]
    if all(values):
        dots[name] = [float(np.mean(v)) for v in values]
if len(dots) > 2:
    fig = figures.alignment(dots, f"Alignment and accuracy ({REFERENCE}, mean over seeds)")
    lesson.figure(fig, "evidence_alignment")
    x, y = np.array(list(dots.values())).T
    r = float(np.corrcoef(x, y)[0, 1])
    print(f"over {len(dots)} methods, A-distance and accuracy correlate with {r:+.2f}:", end=" ")
    print(f"alignment goes with {r * r:.0%} of the variance of the accuracy")
    print(f"the distances span {x.min():.2f} to {x.max():.2f}, the accuracies {y.min():.2f} to {y.max():.2f}")
else:
    evidence.missing("Alignment against accuracy", "baselines")

# %% [markdown]
# The printed lines say what these figures show; methods that are not measured yet are missing from them. Where adversarial
# training brings little, three known weaknesses may explain it:
#
# 1. **Adversarial training need not settle.** A mean or a covariance (`coral`, `mmd`) has one gradient that says where to go. A
#    discriminator has to find it first, and the encoder moves meanwhile.
# 2. **Nothing says which class goes where.** Two distributions can be laid on each other in many ways, and only one is right.
# 3. **The gate repeats the error.** MADA separates the classes by p_k, the classifier's own prediction on the target. Where
#    that is wrong, a subtomogram is aligned with the wrong class.
#
# Alignment cannot recover information that the encoder has discarded. An encoder that learned from clean subtomograms uses
# detail that the target's noise covers. To use something else it needs *labelled* subtomograms that are as noisy as the
# target's: warped source subtomograms are just that.
#
# ### Where did adaptation hurt?
#
# The toy of notebook 04 said: beware of label shift. In the evidence a method harms where it lies below `source_only` with p < 0.05, *after* p was
# adjusted for the number of comparisons (Holm). The curve, where it has been measured, makes the most frequent class up to
# thirty times as frequent as the rarest.
#
# **What do you expect?** In how many pairs of method and scenario does adaptation harm?

# %%
gaps = [gap for gap in statistics.gap_table(evidence.rows) if gap.method not in jobs.BOUNDS and gap.over]
for gap in (gap for gap in gaps if gap.negative):
    print(f"negative transfer: {gap.method} on {gap.scenario}, {gap.over:+.3f} over source_only")
print(f"{sum(gap.negative for gap in gaps)} of {len(gaps)} pairs of method and scenario are harmed")
swept = {name: lines for name, lines in statistics.curves(evidence.rows).items() if name == "imbalance"}
if swept:
    fig = figures.curves(swept, jobs.LABELS, f"Label shift on {REFERENCE}")
    lesson.figure(fig, "evidence_label_shift")
else:
    evidence.missing("The curve of label shift", "curves")

# %% [markdown]
# **Recap**
# - Scores with held-out labels, on other seeds, decide whether a method helps.
# - A method that fell back counts as source_only: it did not run in its own name.
# - Alignment alone is no explanation of accuracy.
#
# ## 3 · Choose a coefficient without labels (10 minutes)
#
# Back to the toy of notebook 04: how strong should the reversal be? Here is class-wise adversarial training at five coefficients. The
# table shows what you would have on a real target: the accuracy on the source, and the [**IM score**](../docs/glossary.md#im-score)
# of the target predictions, high where they are certain one by one and varied together. The accuracy on the target is computed,
# and stays locked until you have chosen.
#
# **What do you expect?** Which coefficient would you take: the one with the best source accuracy, or the one with the highest IM score?

# %%
COEFFICIENTS = (0.0, 1.0, 3.0, 10.0, 100.0)


def sweep_toy(start):
    """One row for each coefficient; the accuracies on the target come in a second list."""
    found = [toy.train(toy.mada, per_class=True, coefficient=c, seed=start) for c in COEFFICIENTS]
    scores = [float(losses.information_maximisation(one.logits_t.softmax(1))) for one in found]
    seen = zip(COEFFICIENTS, (one.source_accuracy for one in found), scores, strict=True)
    rows = [dict(zip(("coefficient", "source", "im"), row, strict=True)) for row in seen]
    return rows, [one.target_accuracy for one in found]


toys = [sweep_toy(seed + i) for i in range(1 if p.name == "smoke" else 3)]
(swept_rows, locked), *_ = toys
for row in swept_rows:
    print(f"coefficient {row['coefficient']:5g}: source accuracy {row['source']:.2f}, IM score {row['im']:.2f}")

# %% [markdown]
# ### Exercise 2 · The rule
#
# Write the rule: among the rows whose accuracy on the source is at most `lost` below the best one, take the coefficient with the
# highest IM score. (The example has a column `target`, which you would not have.)


# %% tags=["given"]
def rows_of(*values):
    return [dict(zip(("coefficient", "source", "im", "target"), row, strict=True)) for row in values]


first = rows_of((0, 0.99, 0.48, 0.82), (1, 0.98, 0.50, 0.90), (10, 0.97, 0.57, 0.88), (100, 0.70, 0.65, 0.55))
second = rows_of((0, 0.99, 0.40, 0.75), (1, 0.96, 0.55, 0.87), (10, 0.90, 0.60, 0.95))
weak = rows_of((0, 0.79, 0.40, 0.60), (1, 0.80, 0.50, 0.70), (10, 0.78, 0.60, 0.50))


# %% tags=["exercise"]
def choose_coefficient(rows, lost=0.05):
    return None


# %% tags=["solution", "hide-cell"]
def choose_coefficient(rows, lost=0.05):
    best = max(row["source"] for row in rows)
    kept = [row for row in rows if row["source"] >= best - lost]
    return max(kept, key=lambda row: row["im"])["coefficient"]


# %% [raw] tags=["mistakes", "remove-cell"]
# name = "choose_coefficient"
# cases = ['choose_coefficient(first)', 'choose_coefficient(second)', 'choose_coefficient(weak)', 'choose_coefficient(second, 0.2)']
# wrong = ['''
# def choose_coefficient(rows, lost=0.05):
#     return 1
# ''']
#
# [[mistake]]
# code = '''
# def choose_coefficient(rows, lost=0.05):
#     return max(rows, key=lambda row: row["im"])["coefficient"]
# '''
# hint = 'certain and varied predictions may be wrong together: a row that has forgotten the source has the highest IM score. Ask for the source first.'
#
# [[mistake]]
# code = '''
# def choose_coefficient(rows, lost=0.05):
#     return max(rows, key=lambda row: row["source"])["coefficient"]
# '''
# hint = 'the best source accuracy belongs to no adaptation at all. It says who has not forgotten, and nothing about the target.'
#
# [[mistake]]
# code = '''
# def choose_coefficient(rows, lost=0.05):
#     return max(rows, key=lambda row: row["target"])["coefficient"]
# '''
# hint = 'that has opened the labels of the target. Nobody has that column where a choice is needed.'
#
# [[mistake]]
# code = '''
# def choose_coefficient(rows, lost=0.05):
#     kept = [row for row in rows if row["source"] >= 1 - lost]
#     return max(kept or rows[:1], key=lambda row: row["im"])["coefficient"]
# '''
# hint = 'the loss counts from the best row, and not from 1: no method may be perfect on the source.'
#
# [[mistake]]
# code = '''
# def choose_coefficient(rows, lost=0.05):
#     best = max(row["source"] for row in rows)
#     kept = [row for row in rows if row["source"] >= best - lost]
#     return min(kept, key=lambda row: row["im"])["coefficient"]
# '''
# hint = 'the sign is turned round: certain and varied predictions have a high IM score.'

# %%
lesson.check("choose_coefficient")

# %%
if lesson.solved("choose_coefficient"):
    for i, (rows, target_accuracy) in enumerate(toys):
        taken = COEFFICIENTS.index(choose_coefficient(rows))
        best = int(np.argmax(target_accuracy))
        print(
            f"seed {seed + i}: chosen {COEFFICIENTS[taken]:g}, target accuracy {target_accuracy[taken]:.2f};", end=" "
        )
        print(f"best {COEFFICIENTS[best]:g}, {target_accuracy[best]:.2f};", end=" ")
        print(
            f"no adaptation {target_accuracy[0]:.2f}; regret {target_accuracy[best] - target_accuracy[taken]:.2f}",
            end="",
        )
        refused = rows[best]["source"] < max(row["source"] for row in rows) - 0.05
        print("; the gate had refused the best one" if refused else "")
    winners = {COEFFICIENTS[int(np.argmax(target_accuracy))] for _, target_accuracy in toys}
    print(f"one coefficient would have been best on all of them: {'yes' if len(winners) == 1 else 'no'}")

# %% [markdown]
# The difference to the best one is the [regret](../docs/glossary.md#regret). Three seeds of a toy prove nothing about your data. They
# show what a rule may cost, and the last line says whether a constant that was best once would have been best again.
#
# **Recap**
# - The rule has a gate (the source) and a score (the IM score), and both can be wrong.
# - The score alone prefers whoever is certain, right or wrong.
# - The regret says what the choice has cost, and needs labels.
#
# ## 4 · Choose a checkpoint, and refuse one (13 minutes)
#
# A training leaves several checkpoints, and the last one need not be the best. For probabilities $p_n$ of N subtomograms with mean
# $\bar p$, the IM score is
#
# $$ IM = H(\bar p) - \frac{1}{N} \sum_n H(p_n), \qquad H(p) = -\sum_k p_k \ln p_k $$
#
# Alone, it is easily fooled. Here are the checkpoints of `cryoshift`, and three bad candidates that nobody should choose:
#
# - the *collapsed* one gives one class to everything, with certainty;
# - the *guesser* draws a class for each subtomogram at random, and is certain of the result;
# - the *two-faced* one is as good on the source as the best, and draws at random on the target.
#
# The source accuracy is that of validation subtomograms in the target's style, as the networks learned from them: on plain ones,
# early checkpoints would look best, whose warps were still weak.
#
# **What do you expect?** Which of the three has the highest IM score, and which check finds the last one?

# %%
source, validation, target = run.domains()
names = dict.fromkeys(("source_only", "mada", "cryoshift", *run.methods))
fits = {name: run.fit(name, source, target, validation) for name in names}
fit, k = fits["cryoshift"], len(source.classes)
every = selection.candidates(fit, target, device=run.params.device)
predictions = {f"step {one.step}": one.target.probabilities for one in every}
accuracy = {f"step {one.step}": one.source_accuracy for one in every}
seen = every[-1].target

# %%
real = torch.stack(list(predictions.values()))
best, varied = max(accuracy.values()), max(map(selection.diversity, predictions.values()))
dice = F.one_hot(torch.randint(k, (len(target),), generator=run.generator("dice")), k).float()
one_class = F.one_hot(torch.zeros(len(target), dtype=torch.long), k).float()
for name, q, right in (("collapsed", one_class, 1 / k), ("guesser", dice, 1 / k), ("two-faced", dice, best)):
    predictions[name], accuracy[name] = q, right
clusters = KMeans(k, n_init=5, random_state=0).fit_predict(seen.features.numpy())
named = {}
for name, q in predictions.items():
    named[name] = {"source acc.": accuracy[name], "IM": float(losses.information_maximisation(q))}
    named[name]["EnsV"] = float(selection.consensus(q[None], real))
    named[name]["AMI"] = float(adjusted_mutual_info_score(q.argmax(1).numpy(), clusters))
    named[name]["check"] = selection.problem(q, accuracy[name], best, varied) or "valid"
lines = ([name, *(v if isinstance(v, str) else f"{v:.2f}" for v in row.values())] for name, row in named.items())
display(Markdown(table("candidate | source accuracy | IM | EnsV | AMI | check", lines)))
lesson.checkpoint("EnsV of the two-faced candidate", named["two-faced"]["EnsV"])
print(f"chance is 1/K = {1 / k:.2f}; the highest IM score is ln K = {math.log(k):.2f}")

# %% [markdown]
# Read the three bad candidates line by line. The **collapsed** one has an IM score of 0; its source accuracy rejects it first. The
# **guesser** has nearly the *highest IM score there can be*, ln K; source accuracy rejects it, too. The **two-faced** one has the same
# predictions, so the same IM score, and passes both checks of the last column: the source accuracy, and that not nearly everything is
# called one class. Two warnings are left for it: [**EnsV**](../docs/glossary.md#ensv), agreement with what the checkpoints predict
# together (Hu et al. 2024), and [**ClassAMI**](../docs/glossary.md#classami): do the predictions coincide with clusters of the target at all? Both are near
# chance. Two checks and two warnings, because each is blind to something.

# %% [markdown]
# ### Exercise 3 · The IM score
#
# Write the IM score of probabilities (N, K): the entropy of the mean prediction, minus the mean entropy of the predictions, in
# nats. What do you expect for the collapsed candidate and for the guesser? (0 ln 0 is 0: clamp before the logarithm.)

# %% tags=["given"]
unsure = torch.tensor([[0.7, 0.2, 0.1], [0.1, 0.8, 0.1], [0.6, 0.3, 0.1]])


# %% tags=["exercise"]
def my_im(probabilities):
    return None


# %% tags=["solution", "hide-cell"]
def my_im(probabilities):
    def entropy(p):
        return -(p * p.clamp_min(1e-12).log()).sum(-1)

    return float(entropy(probabilities.mean(0)) - entropy(probabilities).mean())


# %% [raw] tags=["mistakes", "remove-cell"]
# name = "my_im"
# cases = ['my_im(torch.eye(4))', 'my_im(torch.full((6, 4), 0.25))', 'my_im(unsure)']
# wrong = ['''
# def my_im(probabilities):
#     return float(torch.tensor(float(probabilities.shape[1])).log())
# ''']
#
# [[mistake]]
# code = '''
# def my_im(probabilities):
#     p = probabilities.clamp_min(1e-12)
#     return float((p * p.log()).sum(1).mean())
# '''
# hint = 'that is certainty alone. The collapsed candidate is the most certain one, and would win. What rewards variety?'
#
# [[mistake]]
# code = '''
# def my_im(probabilities):
#     def entropy(p):
#         return -(p * p.clamp_min(1e-12).log()).sum(-1)
#
#     return float(entropy(probabilities).mean() - entropy(probabilities.mean(0)))
# '''
# hint = 'the sign is the other one: certain and varied predictions should score high.'
#
# [[mistake]]
# code = '''
# def my_im(probabilities):
#     def entropy(p):
#         return -(p * p.clamp_min(1e-12).log2()).sum(-1)
#
#     return float(entropy(probabilities.mean(0)) - entropy(probabilities).mean())
# '''
# hint = 'that is in bits. Nats need the natural logarithm.'
#
# [[mistake]]
# code = '''
# def my_im(probabilities):
#     p = probabilities.mean(0).clamp_min(1e-12)
#     return float(-(p * p.log()).sum())
# '''
# hint = 'that is variety alone: a candidate that is unsure of everything gets the best score. Subtract the mean entropy.'
#
# [[mistake]]
# code = '''
# def my_im(probabilities):
#     def entropy(p):
#         return -(p * p.clamp_min(1e-12).log()).sum(-1)
#
#     return float(entropy(probabilities.mean(0)) - entropy(probabilities).sum())
# '''
# hint = 'the entropies of the predictions were summed. The score must not grow with their number: take the mean.'

# %%
lesson.check("my_im")

# %% [markdown]
# ### All of it in one call
#
# `selection.choose` does all of this. Where a check warns and `source_only` has the better IM score, it **falls back** to
# `source_only`, and says so in plain words. *Agreement* is that of the checkpoint with the best IM score and the one with the best EnsV;
# where one checkpoint is valid, or both are the same, it is 1. The last line is a sabotaged `cryoshift`: its last checkpoint alone,
# with a bias that makes it predict one class for everything.

# %%
broken = copy.deepcopy(fit.candidates[max(fit.candidates)])
broken["classify.bias"][0] += 1000
network = copy.deepcopy(fit.network)
sabotaged = replace(fit, method="sabotaged", network=network, candidates={max(fit.candidates): broken})
chosen, lines = {}, []
for name, candidate in {"mada": fits["mada"], "cryoshift": fit, "sabotaged": sabotaged}.items():
    choice = chosen[name] = selection.choose(candidate, target, fallback=fits["source_only"], device=run.params.device)
    whose = f"{choice.fit.method}, step {choice.step}"
    numbers = f"{choice.class_ami:.2f}", f"{choice.agreement:.2f}"
    lines.append([name, whose, *numbers, choice.warning or choice.reason])
display(Markdown(table("method | predictions come from | ClassAMI | agreement | why", lines)))
print(f"methods that fell back to source_only: {', '.join(n for n, c in chosen.items() if c.fell_back) or 'none'}")

# %% [markdown]
# ### What a rule costs
#
# What does choosing this way cost, and what does it save? From the evidence, where it is measured: `cryoshift` as it is chosen,
# against runs of the same seeds with one of the rules changed. A rule changes no training. So rules with equal values made equal
# choices, and a value that most of them share tells of no rule: the same seeds were trained twice. The last line says by how
# much two such trainings differ.

# %%
rules = {k: found for k, found in statistics.ablation(evidence.rows).items() if not k.startswith("without ")}
evidence.compare(rules, f"Another rule for choosing ({REFERENCE})", "the unchanged rule", "evidence_rules", "ablation")
print(f"one seed trained twice, on different machines: up to {statistics.retrained(evidence.rows):.3f} apart")

# %% tags=["solution", "remove-cell"]
assert not lesson.unsolved(), lesson.unsolved()

# %% tags=["hide-input"] jupyter={"source_hidden": true}
assert abs(named["collapsed"]["IM"]) < 1e-3 and named["guesser"]["IM"] > 0.9 * math.log(k)
if p.name != "smoke":  # its source_only has learned too little to score better than one class for all
    assert named["collapsed"]["check"] != "valid"
    assert named["guesser"]["check"] != "valid" and named["two-faced"]["check"] == "valid"
    assert named["two-faced"]["EnsV"] < selection.AGREEMENT and named["two-faced"]["AMI"] < selection.LEAST_AMI
    assert chosen["sabotaged"].fell_back and chosen["sabotaged"].fit is fits["source_only"]
run.report(
    chosen_step=chosen["cryoshift"].step, fell_back=[name for name, choice in chosen.items() if choice.fell_back]
)
manifest = run.finish()

# %% [markdown]
# **Recap**
# - Two checks and two warnings, because each is blind to something.
# - A model that fails a warning is replaced by source_only if that scores better.
# - What a rule costs is measured with held-out labels.
#
# ## What to take away
#
# - Alignment cannot recover what the encoder has discarded: change the subtomograms that it learns from.
# - Where class fractions differ, alignment can hurt. Check for it, and be ready to fall back.
# - Choose without labels, but never by one score: IM behind a gate, with EnsV and ClassAMI as alarms. What that costs is
#   measured in notebook 05.
#
# ## Questions to think about
#
# 1. A rare class makes up 1 % of your tomogram. Which gate may reject a *good* model, and what would you change?
# 2. All checkpoints of a training are wrong in the same way. Which of the checks and warnings can notice?
# 3. You try twenty methods and keep the one with the highest IM score. What have you done to the meaning of that score?
