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
# # 02c · Which factor hurts?
#
# Source and target of notebook 02 differ in many things at once: dose, defocus, neighbours, filters. Which of them moves the features
# of the network, and which one costs accuracy? It is not the same.
#
# **What you will learn**
# - to see a domain gap in the features of a network, and the subtomograms behind a group of dots;
# - to measure it *without a label*, by the [proxy A-distance](../docs/glossary.md#a-distance), and to know its floor;
# - to take a gap apart, factor by factor;
# - how few subtomograms make an accuracy uncertain.
#
# **What you need**: notebook 02 helps, and leaves the network that is used here; this one trains it if it is missing. About 40
# minutes to read and try. Everything here is simulated. Labels are opened of [*practice* targets](../docs/glossary.md#practice-key) alone (seed 7, which no evidence
# uses). Words in links are explained in the [glossary](../docs/glossary.md).
#
# | profile | time | memory |
# |---|---|---|
# | smoke | 16 s | 640 MB |
# | laptop | 34 s | 1350 MB |

# %% tags=["hide-input"] jupyter={"source_hidden": true}
import matplotlib.pyplot as plt
import numpy as np
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold, cross_val_predict

from cryoshift_core import metrics, models
from cryoshift_core.application import pictures
from cryoshift_core.course import exercises, figures, lasso, practice
from cryoshift_core.course.run import begin
from cryoshift_core.simulation import datasets, scenarios

# %% tags=["parameters"]
profile: str = "laptop"  # how much work: smoke, laptop, gpu or paper
scenario: str = "in_situ_2"  # the target domain, a name from scenarios.SCENARIOS
seed: int = 0  # decides every random draw
device: str = "auto"  # auto, cpu, cuda or mps
out_dir: str = ""  # where to write; empty: runs/<profile>/02c_which_factor_hurts

# %%
run = begin("02c_which_factor_hurts", globals())
lesson = exercises.Lesson(run, globals())
pictures.use_style()
p = run.profile
n = len(p.classes)
source, validation, target = run.domains()
fit = run.fit("source_only", source, target, validation)
p_val, p_t = (models.predict(fit.network, part.x, device=run.params.device) for part in (validation, target))
val_accuracy, val_confidence = metrics.balanced_accuracy(p_val, validation.y), p_val.max(1).values.mean().item()
print(f"on held-out source: balanced accuracy {val_accuracy:.2f}, mean confidence {val_confidence:.2f}")

# %% [markdown]
# ## 1 · Where do the features go? (18 minutes)
#
# Each dot is a subtomogram, seen through the classifier's features and flattened onto their two strongest directions.
#
# **What do you expect?** If the domains were alike, would the colours mix or lie apart?

# %%
f_s, f_t = (models.embed(fit.network, x[:300], device=run.params.device) for x in (validation.x, target.x))
lesson.figure(figures.embedding({"source": f_s, "target": f_t}, "features of source_only"), "features")
gap = metrics.a_distance(f_s, f_t, seed=run.params.seed)
lesson.checkpoint("proxy A-distance of the features", gap)
print(f"proxy A-distance of the features: {gap:.2f}   (0: indistinguishable, 2: a linear rule separates them)")

# %% [markdown]
# The **proxy A-distance** (Ben-David et al. 2007) is 2 (1 - 2 e), with e the error of a linear classifier that is asked to
# tell the domains apart. It says that they differ, *not* that the difference hurts. The next section measures both.
#
# ### Lasso some points
#
# What lies behind a group of dots? In JupyterLab, draw a loop around some with the mouse; the subtomograms behind them appear
# below. Elsewhere a circle is drawn about the target dot that is furthest from any source dot. Then run the cell after it: it writes
# what is chosen as a STAR file with a stack, as for a list of particles to look at or to leave out.

# %%
chosen = lasso.Selection.of({"source": f_s, "target": f_t}, {"source": validation.x, "target": target.x}, p.voxel_size)
at_s, at_t = chosen.points[: len(f_s)], chosen.points[len(f_s) :]
nearest = np.linalg.norm(at_t[:, None] - at_s[None], axis=-1).min(1)  # source dot of each target dot
chosen.choose(chosen.around(len(f_s) + int(nearest.argmax()), min(20, len(f_t))))
for number, fig in enumerate(lasso.show(chosen)):
    run.save_figure(fig, ("lasso", "lasso_boxes")[number])
plt.show()

# %%
star = chosen.write(run.folder / "chosen.star")
print(f"{chosen.summary}; written to {run.final_path(star).name}")
both = torch.cat([p_val[: len(f_s)], p_t[: len(f_t)]])[torch.from_numpy(chosen.inside)]
counts = torch.bincount(both.argmax(1), minlength=n)
print("called", ", ".join(f"{c} {name}" for name, c in zip(p.classes, counts.tolist(), strict=True) if c), end="; ")
print(f"mean confidence {both.amax(1).mean():.2f}")

# %% [markdown]
# ### Exercise 1 · A-distance, and its floor
#
# Write the proxy A-distance 2 (1 - 2 e) of two sets of features (N, F), with a logistic regression. What do you expect for
# two halves of one and the same set: exactly 0? Try it on `noise_1` and `noise_2`, which are drawn alike. Your answer may
# differ from ours by 0.3, because the folds may.

# %% tags=["given"]
noise_1, noise_2 = np.random.default_rng(0).normal(size=(2, 60, 64))


# %% tags=["exercise"]
def my_a_distance(f_s, f_t):
    return None


# %% tags=["solution", "hide-cell"]
def my_a_distance(f_s, f_t):
    x, domain = np.concatenate([f_s, f_t]), np.repeat([0, 1], [len(f_s), len(f_t)])
    folds = StratifiedKFold(5, shuffle=True, random_state=0)
    error = np.mean(cross_val_predict(LogisticRegression(C=0.1, max_iter=500), x, domain, cv=folds) != domain)
    return max(0.0, 2 * (1 - 2 * error))


print(f"two halves of one set: {my_a_distance(noise_1, noise_2):.2f}; moved: {my_a_distance(noise_1, noise_2 + 1):.2f}")

# %% [raw] tags=["mistakes", "remove-cell"]
# name = "my_a_distance"
# cases = ['my_a_distance(noise_1, noise_2)', 'my_a_distance(noise_1, noise_2 + 1)']
# tolerance = 0.3
# wrong = ['''
# def my_a_distance(f_s, f_t):
#     return 2 * float(abs(f_s.mean() - f_t.mean()) > 0.5) - 1
# ''', '''
# def my_a_distance(f_s, f_t):
#     return 0.0
# ''']
#
# [[mistake]]
# code = '''
# def my_a_distance(f_s, f_t):
#     x, domain = np.concatenate([f_s, f_t]), np.repeat([0, 1], [len(f_s), len(f_t)])
#     error = np.mean(LogisticRegression(max_iter=500).fit(x, domain).predict(x) != domain)
#     return max(0.0, 2 * (1 - 2 * error))
# '''
# hint = 'the error was scored on the training data. With many features a linear rule learns any set by heart, so two halves of one set seem far apart. Score on subtomograms that the rule has not seen: cross_val_predict.'
#
# [[mistake]]
# code = '''
# def my_a_distance(f_s, f_t):
#     x, domain = np.concatenate([f_s, f_t]), np.repeat([0, 1], [len(f_s), len(f_t)])
#     folds = StratifiedKFold(5, shuffle=True, random_state=0)
#     error = np.mean(cross_val_predict(LogisticRegression(C=0.1, max_iter=500), x, domain, cv=folds) != domain)
#     return max(0.0, 1 - 2 * error)
# '''
# hint = 'that ends at 1. The proxy A-distance is twice as large: 2 (1 - 2 e).'
#
# [[mistake]]
# code = '''
# def my_a_distance(f_s, f_t):
#     x, domain = np.concatenate([f_s, f_t]), np.repeat([0, 1], [len(f_s), len(f_t)])
#     folds = StratifiedKFold(5, shuffle=True, random_state=0)
#     right = np.mean(cross_val_predict(LogisticRegression(C=0.1, max_iter=500), x, domain, cv=folds) == domain)
#     return 2 * (1 - 2 * right)
# '''
# hint = 'e is the error of the rule, not its accuracy.'
#
# [[mistake]]
# code = '''
# def my_a_distance(f_s, f_t):
#     from sklearn.model_selection import KFold
#     x, domain = np.concatenate([f_s, f_t]), np.repeat([0, 1], [len(f_s), len(f_t)])
#     error = np.mean(cross_val_predict(LogisticRegression(C=0.1, max_iter=500), x, domain, cv=KFold(2)) != domain)
#     return max(0.0, 2 * (1 - 2 * error))
# '''
# hint = 'the folds are blocks, and a block holds one domain alone: the rule is tested on a domain that it has not seen. Use stratified folds.'

# %%
lesson.check("my_a_distance")

# %% [markdown]
# **Recap**
# - Features can be told apart where the domains differ.
# - The A-distance of two halves of one set is not exactly 0.
# - Score the linear rule on what it was not trained on.
#
# ## 2 · One factor at a time (22 minutes)
#
# Ten small practice targets, each with one factor raised to level 2 and everything else as in the source. Molecules and poses
# are the same in all of them. Two readings need no label: how far the features move, and the mean confidence. The third one opens
# the practice key (seed 7, which no evidence uses): the balanced accuracy.
#
# **What do you expect?** Name the factor that moves the features furthest, and the one that costs most accuracy.

# %%
few = max(12, min(84, p.n_target // 10))
table, boxes = [], {}
for factor in run.progress(scenarios.FACTORS, "factors"):
    ask = practice.config(p, f"{factor}_2", few, tomograms=2)
    cubes = datasets.simulate_target(ask, folder=run.data_folder, progress=False)
    boxes[factor] = cubes.x
    seen = models.outputs(fit.network, cubes.x, device=run.params.device)
    distance = metrics.a_distance(f_s[:few], seen.features, seed=0)
    sure = seen.probabilities.max(1).values.mean().item()
    right = metrics.balanced_accuracy(seen.probabilities, practice.reveal(ask, run.data_folder))
    table.append({"factor": factor, "a_distance": distance, "confidence": sure, "accuracy": right})
run.save_table(table, "factors")
# the floor of the distance: source against source
floor = metrics.a_distance(f_s[:few], f_s[few : 2 * few] if len(f_s) >= 2 * few else f_s[-few:], seed=0)

# %% [markdown]
# ### Exercise 2 · Which factor hurts?
#
# A factor that moves the features far need not cost accuracy. Given rows as in `four_factors` and the accuracy on the source,
# return the names of the factors that cost **more than 0.05 of accuracy**, the most harmful one first.

# %% tags=["given"]
four_factors = [
    {"factor": "defocus", "a_distance": 1.6, "confidence": 0.95, "accuracy": 0.97},
    {"factor": "dose", "a_distance": 1.2, "confidence": 0.85, "accuracy": 0.60},
    {"factor": "neighbours", "a_distance": 1.4, "confidence": 0.80, "accuracy": 0.85},
    {"factor": "ice", "a_distance": 0.9, "confidence": 0.70, "accuracy": 0.75},
]


# %% tags=["exercise"]
def harmful(rows, source_accuracy):
    return None  # a list of names


# %% tags=["solution", "hide-cell"]
def harmful(rows, source_accuracy):
    hurt = [row for row in rows if source_accuracy - row["accuracy"] > 0.05]
    return [row["factor"] for row in sorted(hurt, key=lambda row: row["accuracy"])]


# %% [raw] tags=["mistakes", "remove-cell"]
# name = "harmful"
# cases = ['harmful(four_factors, 0.98)', 'harmful(four_factors, 0.80)', 'harmful(four_factors[::-1], 0.98)']
# wrong = ['''
# def harmful(rows, source_accuracy):
#     return ["dose", "ice", "neighbours"]
# ''']
#
# [[mistake]]
# code = '''
# def harmful(rows, source_accuracy):
#     hurt = [row for row in rows if source_accuracy - row["accuracy"] > 0.05]
#     return [row["factor"] for row in sorted(hurt, key=lambda row: -row["a_distance"])]
# '''
# hint = 'the order is that of the distance. A distance says that features moved, and not what that costs.'
#
# [[mistake]]
# code = '''
# def harmful(rows, source_accuracy):
#     hurt = [row for row in rows if source_accuracy - row["accuracy"] > 0.05]
#     return [row["factor"] for row in sorted(hurt, key=lambda row: row["confidence"])]
# '''
# hint = """the order is that of the confidence, which is the network's own opinion."""
#
# [[mistake]]
# code = '''
# def harmful(rows, source_accuracy):
#     hurt = [row for row in rows if source_accuracy - row["accuracy"] > 0.05]
#     return [row["factor"] for row in sorted(hurt, key=lambda row: -row["accuracy"])]
# '''
# hint = 'the order is turned round: the most harmful factor has the lowest accuracy.'
#
# [[mistake]]
# code = '''
# def harmful(rows, source_accuracy):
#     return [row["factor"] for row in sorted(rows, key=lambda row: row["accuracy"])]
# '''
# hint = 'factors that cost nothing are in the list. Keep those that cost more than 0.05.'

# %%
lesson.check("harmful")

# %%
table.sort(key=lambda row: row["a_distance"])
fig, axes = plt.subplots(1, 3, figsize=(9.4, 3.3), sharey=True, layout="constrained")
names = [row["factor"] for row in table]
at_home = {"a_distance": floor, "confidence": val_confidence, "accuracy": val_accuracy}
titles = {
    "a_distance": "proxy A-distance to the source",
    "confidence": "mean confidence",
    "accuracy": "balanced accuracy",
}
for ax, (column, title) in zip(axes, titles.items(), strict=True):
    ax.barh(names, [row[column] for row in table], color=pictures.COLOURS["target"], label="factor at level 2")
    ax.axvline(at_home[column], color=pictures.COLOURS["source"], label="source (other subtomograms)")
    ax.set(xlabel=title, xlim=(0, 2 if column == "a_distance" else 1))
fig.legend(*axes[0].get_legend_handles_labels(), loc="outside upper center", ncols=2)
lesson.figure(fig, "factors")

# %%
by_name = {row["factor"]: row for row in table}
noise = 2 * (0.25 / few) ** 0.5  # two standard errors of an accuracy of few subtomograms, at most
above = [row["factor"] for row in table if row["a_distance"] > floor + 0.3]
costs_much = [name for name in harmful(table, val_accuracy) or [] if val_accuracy - by_name[name]["accuracy"] > noise]
furthest, worst = max(table, key=lambda row: row["a_distance"]), min(table, key=lambda row: row["accuracy"])
print(f"moves the features furthest: {furthest['factor']} ({furthest['a_distance']:.2f});", end=" ")
print(f"costs most accuracy: {worst['factor']} ({val_accuracy - worst['accuracy']:.2f})")
print(f"floor, source against source: {floor:.2f}; more than 0.3 above it: {', '.join(above) or 'none'}")
print(f"cost more than their own uncertainty ({noise:.2f}), the most harmful first: {', '.join(costs_much) or 'none'}")
for name in [name for name in above if val_accuracy - by_name[name]["accuracy"] < 0.05]:
    print(f"{name} moves the features ({by_name[name]['a_distance']:.2f}), and costs less than 0.05 of accuracy")

# %% [markdown]
# Choose a factor: one of its subtomograms, its spectrum beside that of the source, and what the network makes of it, the accuracy last.


# %%
def draw(axes, factor):
    row = by_name[factor]
    pictures.show(axes[0], pictures.middle(boxes[factor]), factor, spread=4)
    for name, x in {"source": validation.x[:few], "target": boxes[factor]}.items():
        k, power = figures.radial_spectrum(x)
        style = "--" if name == "target" else "-"
        axes[1].semilogy(k / p.voxel_size, power, style, color=pictures.COLOURS[name], label=name)
    axes[1].set(xlabel="frequency (1/Å)", title="mean power", ylim=(0.1, 200))
    axes[1].legend(fontsize=7)
    values = {"A-distance / 2": row["a_distance"] / 2, "confidence": row["confidence"], "accuracy": row["accuracy"]}
    axes[2].barh(list(values), list(values.values()), color=pictures.COLOURS["target"])
    axes[2].set(xlim=(0, 1))
    axes[2].tick_params(labelsize=7)
    axes[2].invert_yaxis()


sliders = {"factor": ("one factor at level 2", sorted(by_name, key=lambda name: by_name[name]["accuracy"]))}
run.explore(draw, "chooser", sliders, panels=3, start={"factor": sliders["factor"][1][0]}, size=2.4)

# %% [markdown]
# With so few subtomograms a distance moves by about ±0.3 from seed to seed, so a bar that is less than that above the floor says
# nothing. The lesson is in the printed lines: one factor may do both, but **a large distance need not cost accuracy, and
# the order of the first panel is not that of the third.**
#
# ### Exercise 3 · How many subtomograms?
#
# The accuracy of N subtomograms has a standard error of √(q (1 - q) / N), which is largest at q = 0.5. Return the smallest whole number
# N at which **two** standard errors, at q = 0.5, are no more than a loss that you want to see. What do you expect for a loss of
# 0.05: ten subtomograms, a hundred, or more?


# %% tags=["exercise"]
def enough(loss):
    return None  # a whole number


# %% tags=["solution", "hide-cell"]
def enough(loss):
    return int(np.ceil(round(1 / loss**2, 6)))


# %% [raw] tags=["mistakes", "remove-cell"]
# name = "enough"
# cases = ['enough(0.05)', 'enough(0.1)', 'enough(0.3)']
# wrong = ['''
# def enough(loss):
#     return 100
# ''']
#
# [[mistake]]
# code = '''
# def enough(loss):
#     return int(np.ceil(round(0.25 / loss**2, 6)))
# '''
# hint = 'that is one standard error. A loss of one standard error comes by chance in one of three cases: take two.'
#
# [[mistake]]
# code = '''
# def enough(loss):
#     return int(np.ceil(round(1 / loss, 6)))
# '''
# hint = 'the standard error falls with the *root* of N: to see half of the loss takes four times as many.'
#
# [[mistake]]
# code = '''
# def enough(loss):
#     return int(1 / loss**2)
# '''
# hint = 'rounded down, N is too small by one. Round up.'
#
# [[mistake]]
# code = '''
# def enough(loss):
#     return 1 / loss**2
# '''
# hint = 'a whole number of subtomograms was asked for: round up, and make it an int.'

# %%
lesson.check("enough")
if lesson.solved("enough"):
    print(f"to see a loss of 0.05: {enough(0.05)}; of 0.2: {enough(0.2)}; each target here has {few}")

# %% tags=["solution", "remove-cell"]
assert not lesson.unsolved(), lesson.unsolved()

# %% tags=["hide-input"] jupyter={"source_hidden": true}
if run.profile.name != "smoke":
    assert gap > 0.5, "source and target features should be told apart"
run.report(a_distance=gap, factors_above_the_floor=len(above), factors_that_cost_accuracy=len(costs_much))
manifest = run.finish()

# %% [markdown]
# **Recap**
# - Each factor moves features and accuracy by different amounts.
# - Distances under the floor plus its noise mean nothing.
# - Confidence is no accuracy: compare the second panel with the third.
#
# ## What to take away
#
# - A gap can be *measured* without labels, but neither confidence nor A-distance says how many predictions are wrong.
# - A large distance need not cost accuracy. Take a gap apart before you close it.
# - A distance has a floor, an accuracy has a standard error, and few subtomograms have a large one.
#
# ## Questions to think about
#
# 1. Could two domains have A-distance 0 and a classifier still fail on the target?
# 2. Two factors are harmless alone. Why may they hurt together?
# 3. Which of the ten factors could the spectrum of the target tell you about, before any network is trained?
