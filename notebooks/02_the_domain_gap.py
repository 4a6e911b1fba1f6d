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
# # 02 · The domain gap
#
# A classifier that was trained on simulated subtomograms is nearly perfect on other simulated ones. What happens when the
# microscope, the ice and the neighbours are not those that were simulated?
#
# **What you will learn**
# - to see a domain gap in grey values and in power spectra;
# - to build and train the network of this course;
# - what predicted class fractions tell *without a label*, and why high confidence proves nothing.
#
# **What you need**: notebook 01 helps, but this one runs alone; about 40 minutes to read and try. Everything here is
# simulated. The target plays the experiment: its labels are locked away until notebook 05. A [*practice* target](../docs/glossary.md#practice-key) of
# another seed stands beside it; its labels are opened at the end of this notebook, after you have bet. Words in links
# are explained in the [glossary](../docs/glossary.md). What the network looks at is the subject of [02b](02b_shape_or_size.ipynb), and
# which part of the gap hurts that of [02c](02c_which_factor_hurts.ipynb).
#
# | profile | time | memory |
# |---|---|---|
# | smoke | 16 s | 630 MB |
# | laptop | 1.6 min | 1430 MB |

# %% tags=["hide-input"] jupyter={"source_hidden": true}
import matplotlib.pyplot as plt
import numpy as np
import torch
from torch import nn

from cryoshift_core import metrics, models
from cryoshift_core.application import pictures
from cryoshift_core.course import exercises, figures, practice
from cryoshift_core.course.run import begin
from cryoshift_core.simulation import datasets

# %% tags=["parameters"]
profile: str = "laptop"  # how much work: smoke, laptop, gpu or paper
scenario: str = "in_situ_2"  # the target domain, a name from scenarios.SCENARIOS
seed: int = 0  # decides every random draw
device: str = "auto"  # auto, cpu, cuda or mps
out_dir: str = ""  # where to write; empty: runs/<profile>/02_the_domain_gap

# %%
run = begin("02_the_domain_gap", globals())
lesson = exercises.Lesson(run, globals())
pictures.use_style()
p = run.profile
source, validation, target = run.domains()
print(f"{len(source)} labelled source and {len(target)} unlabelled target subtomograms of {p.box}^3 voxels")

# %% [markdown]
# ## 1 · Can you tell them apart by eye? (5 minutes)
#
# Top: one source subtomogram of each class. Below: target subtomograms, in no order, because nobody has labelled them.
#
# **What do you expect?** In which row is the grain of the background coarser, and where do pieces of neighbours reach in?

# %%
n = len(p.classes)
rows = {
    "source": pictures.one_of_each(source.x, source.y, n),
    "target": target.x[:n],
    "target ": target.x[n : 2 * n],
}
fig = pictures.gallery(rows, p.classes)
lesson.figure(fig, "source_and_target")

# %% [markdown]
# The column titles name the classes of the source row only.
#
# **Recap**
# - Eyes see the grain and the neighbours first.
# - No label is needed to see that domains differ.
# - A look at few subtomograms measures nothing.
#
# ## 2 · Which statistics differ? (12 minutes)
#
# Every subtomogram was normalised by its own median and [MAD](../docs/glossary.md#mad). By construction, that makes two
# numbers equal: the middle and the width. It does not make the whole distribution of grey values equal.
#
# **What do you expect?** Do the tails agree, too? At which frequencies do the power spectra part?

# %%
domains = {"source": source.x[:256], "target": target.x[:256]}
fig = figures.histograms(domains)
lesson.figure(fig, "grey_values")
grey = {name: x.double() for name, x in domains.items()}
skewness = {name: float((x - x.mean()).pow(3).mean() / x.std().pow(3)) for name, x in grey.items()}
beyond = {name: float((x.abs() > 3.5).double().mean()) for name, x in grey.items()}
for name in domains:
    print(f"{name}: skewness {skewness[name]:+.2f}, beyond 3.5 robust standard deviations {beyond[name]:.2%}")
less, more = sorted(beyond, key=beyond.get)
alike = beyond[more] < 1.2 * beyond[less]
print(
    f"The tails {'agree' if alike else 'do not agree'}: {beyond[more]:.2%} in the {more}, {beyond[less]:.2%} in the {less}."
)

# %%
fig = figures.spectra(domains, p.voxel_size)
lesson.figure(fig, "power_spectra")
(k, power_s), (_, power_t) = (figures.radial_spectrum(x) for x in domains.values())
ratio = power_t / power_s
for word, at in (("most", ratio.argmax()), ("least", ratio.argmin())):
    print(f"the target has {word} at {k[at] / p.voxel_size:.4f} per Å: {ratio[at]:.2f} times the power of the source")

# %% [markdown]
# Both figures show what was done to the tomograms of `in_situ_2`. They were clipped at ±3 robust standard deviations, so their
# grey values end abruptly, with a small bump where the clipped voxels are. And they were band-passed, which takes power from the
# lowest and the highest frequencies; normalisation then makes those between stronger.
#
# In the plane of the beam (kz) and of the image (kx), the **missing wedge** is the dark double wedge along kz: no tilt
# image has measured those frequencies. The specimen was tilted about one axis (y), so the plane looks alike at every ky:
# a wedge, and no cone. Another range of tilts gives another opening.

# %%
fig, axes = plt.subplots(1, 2, figsize=(6, 3.1), layout="constrained")
for ax, (name, x) in zip(axes, domains.items(), strict=True):
    figures.spectrum_plane(ax, x, f"{name}: log power, ky = 0")
lesson.figure(fig, "missing_wedge")

# %% [markdown]
# ### Exercise 1 · Median and MAD
#
# Write that normalisation for an array `x`: subtract the median, and divide by 1.4826 times the
# [MAD](../docs/glossary.md#mad), the median of the distances from the median. The factor makes it the standard deviation where grey
# values are Gaussian. What do you expect a few very bright voxels, such as gold beads, to change?

# %% tags=["given"]
ice = np.random.default_rng(0).normal(loc=3, scale=2, size=1001)
with_gold = np.concatenate([ice, np.full(40, 60.0)])


# %% tags=["exercise"]
def normalised(x):
    return None


# %% tags=["solution", "hide-cell"]
def normalised(x):
    off = x - np.median(x)
    return off / (1.4826 * np.median(np.abs(off)))


print(
    f"standard deviation of the ice: {normalised(ice).std():.2f}, beside gold {normalised(with_gold)[:1001].std():.2f}"
)

# %% [raw] tags=["mistakes", "remove-cell"]
# name = "normalised"
# cases = ['normalised(ice)', 'normalised(with_gold)', 'normalised(3 * ice + 1)']
# tolerance = 0.001
# wrong = ['''
# def normalised(x):
#     return x
# ''']
#
# [[mistake]]
# code = '''
# def normalised(x):
#     return (x - np.mean(x)) / np.std(x)
# '''
# hint = 'mean and standard deviation: 40 voxels of gold make the ice five times narrower. Use the median and the MAD.'
#
# [[mistake]]
# code = '''
# def normalised(x):
#     off = x - np.median(x)
#     return off / np.median(np.abs(off))
# '''
# hint = 'the factor 1.4826 is missing: the width of Gaussian values is not yet 1.'
#
# [[mistake]]
# code = '''
# def normalised(x):
#     off = x - np.median(x)
#     return off / (1.4826 * np.mean(np.abs(off)))
# '''
# hint = 'that is the mean distance from the median, which outliers enlarge. The M in MAD is a median.'
#
# [[mistake]]
# code = '''
# def normalised(x):
#     off = x - np.median(x)
#     return off / 1.4826 * np.median(np.abs(off))
# '''
# hint = 'that divides by 1.4826 and *multiplies* by the MAD: brackets are missing.'

# %%
lesson.check("normalised")

# %% [markdown]
# **Recap**
# - Normalisation makes the middle and the width of the grey values equal, and nothing else.
# - Spectra show what one grey value cannot: filters, the grain of the noise, neighbours.
# - The missing wedge is a part of the spectrum, and of the gap where tilt ranges differ.
#
# ## 3 · A classifier that has only seen simulations (10 minutes)
#
# ### The network, in sight
#
# A 3-D network with residual blocks (He et al. 2016). It halves the resolution at once, because a 3-D network is most expensive
# at full resolution. At the end it takes the mean and the maximum of each channel over the box, so any box fits.


# %%
class Block(nn.Module):
    """Two convolutions beside a shortcut: the block learns a change of its input."""

    def __init__(self, n_in, n_out, stride):
        super().__init__()
        self.norm1, self.norm2 = nn.GroupNorm(4, n_in), nn.GroupNorm(4, n_out)
        self.conv1 = nn.Conv3d(n_in, n_out, 3, stride, padding=1, bias=False)
        self.conv2 = nn.Conv3d(n_out, n_out, 3, padding=1, bias=False)
        self.widen = nn.Conv3d(n_in, n_out, 1, bias=False) if n_in != n_out else nn.Identity()
        self.shrink = nn.AvgPool3d(stride, ceil_mode=True)

    def forward(self, x):
        h = self.conv2(self.norm2(self.conv1(self.norm1(x).relu())).relu())
        return h + self.widen(self.shrink(x))


# %%
w = p.width
stages = [nn.Conv3d(1, w, 3, 2, padding=1), Block(w, 2 * w, 2), Block(2 * w, 4 * w, 2), Block(4 * w, 4 * w, 1)]
h = source.x[:1]
for stage in (*stages, nn.Sequential(nn.GroupNorm(4, 4 * w), nn.ReLU())):
    h = stage(h)
    print(f"{type(stage).__name__:12} {h.shape[1]} channels of {h.shape[2]}^3")
features = torch.cat([h.mean((2, 3, 4)), h.amax((2, 3, 4))], 1)
head = nn.Sequential(nn.LayerNorm(features.shape[1]), nn.Linear(features.shape[1], n))
print(f"{features.shape[1]} features, {head(features).shape[1]} classes")
parts = [*stages, nn.GroupNorm(4, 4 * w), head]
built = sum(parameter.numel() for part in parts for parameter in part.parameters())
print(f"{built} weights")
if p.encoder == "strided":
    assert built == sum(q.numel() for q in models.Network(n, p.encoder, p.width).parameters()), "the core's network"

# %% [markdown]
# ### Train it
#
# `source_only` is trained with plain cross-entropy on the labelled source. The right panel is its accuracy on source
# subtomograms that it did not train on (other poses, other tomograms, same simulator). The dotted line is guessing.
#
# **What do you expect?** Write down the accuracy on the source that it will reach, before you run the cell.

# %%
fit = run.fit("source_only", source, target, validation)
history = dict(fit.history)
history |= {"classification loss": history["source"], "accuracy, source validation": history["source_val_acc"]}
fig = figures.learning_curves({"source_only": history}, ["classification loss", "accuracy, source validation"])
fig.axes[1].axhline(1 / n, ls=":", color="0.5")
fig.axes[1].set_ylim(0, 1)
lesson.figure(fig, "learning_curves")

# %% [markdown]
# ### Exercise 2 · Balanced accuracy
#
# Real classes are not equally frequent. The **balanced accuracy** is the mean over classes of the recall: the share of a
# class's subtomograms that are called by its name. Write it for true classes `y` and predicted classes `predicted`,
# integer arrays. A class without a subtomogram in `y` does not count.


# %% tags=["exercise"]
def balanced(y, predicted):
    return None


# %% tags=["solution", "hide-cell"]
def balanced(y, predicted):
    return np.mean([np.mean(predicted[y == k] == k) for k in np.unique(y)])


# %% [raw] tags=["mistakes", "remove-cell"]
# name = "balanced"
# cases = ['balanced(np.array([0] * 9 + [1]), np.zeros(10, int))', 'balanced(np.array([0, 0, 1, 1]), np.array([0, 1, 1, 1]))', 'balanced(np.array([0, 0, 0, 2]), np.array([0, 1, 0, 2]))']
# wrong = ['''
# def balanced(y, predicted):
#     return 0.5
# ''', '''
# def balanced(y, predicted):
#     return max(np.mean(predicted[y == k] == k) for k in np.unique(y))
# ''']
#
# [[mistake]]
# code = '''
# def balanced(y, predicted):
#     return np.mean(y == predicted)
# '''
# hint = 'that is the plain accuracy. Nine of ten alike and all called by that name: it says 0.9, although one class is never found.'
#
# [[mistake]]
# code = '''
# def balanced(y, predicted):
#     return np.mean([np.mean(y[predicted == k] == k) for k in np.unique(predicted)])
# '''
# hint = 'that is the precision: of those called k, how many are k. The recall asks: of those that are k, how many are called k?'
#
# [[mistake]]
# code = '''
# def balanced(y, predicted):
#     return np.mean([np.sum(predicted[y == k] == k) / max(1, np.sum(y == k)) for k in range(max(y.max(), predicted.max()) + 1)])
# '''
# hint = 'a class without a subtomogram has no recall. It must not count as zero.'

# %%
lesson.check("balanced")

# %% [markdown]
# **Recap**
# - The network halves the resolution three times and ends in the mean and the maximum of each channel.
# - It is nearly perfect on the source, whose simulator it has learned from.
# - Balanced accuracy is the mean recall of the classes.
#
# ## 4 · What does it say about the target? (10 minutes)
#
# No label is needed to look at *what* it predicts. In the source all classes are equally frequent. In `in_situ_2` the most
# frequent class is three times as frequent as the rarest, and none is absent (of a real tomogram you would not know).
#
# **What do you expect?** Will each class get its share? And if the network errs, will its mean confidence fall far?

# %%
p_val = models.predict(fit.network, validation.x, device=run.params.device)
p_t = models.predict(fit.network, target.x, device=run.params.device)
shares = {
    name: torch.bincount(q.argmax(1), minlength=n).div(len(q)).tolist()
    for name, q in (("source", p_val), ("target", p_t))
}
lesson.figure(pictures.class_fractions(shares, source.classes), "predicted_shares")
confidence = {"source": p_val.max(1).values.mean().item(), "target": p_t.max(1).values.mean().item()}
val_accuracy = metrics.balanced_accuracy(p_val, validation.y)
lesson.checkpoint("balanced accuracy on held-out source", val_accuracy)
print(f"mean confidence: source {confidence['source']:.2f}, target {confidence['target']:.2f}")
order = sorted(range(n), key=lambda k: -shares["target"][k])
print(f"most frequent prediction on the target: {p.classes[order[0]]}, {shares['target'][order[0]]:.0%}")
never = [name for name, share in zip(p.classes, shares["target"], strict=True) if share < 0.01]
print(f"classes that get less than 1 % of the target: {', '.join(never) or 'none'}")

# %% [markdown]
# ### Exercise 3 · How many must be wrong?
#
# Suppose that the true fractions of the classes were known, and not which subtomogram belongs to which class. Given them and
# the predicted fractions (arrays that sum to 1), return the least share of predictions that **must** be wrong. What do you expect
# where both are level: that all predictions are right?


# %% tags=["exercise"]
def must_be_wrong(predicted, true):
    return None  # 0 to 1


# %% tags=["solution", "hide-cell"]
def must_be_wrong(predicted, true):
    return np.abs(predicted - true).sum() / 2


# %% [raw] tags=["mistakes", "remove-cell"]
# name = "must_be_wrong"
# cases = ['must_be_wrong(np.array([0.9, 0.1, 0.0]), np.array([0.4, 0.3, 0.3]))', 'must_be_wrong(np.array([0.25, 0.25, 0.5]), np.array([0.5, 0.25, 0.25]))', 'must_be_wrong(np.array([0.1, 0.2, 0.3, 0.4]), np.array([0.4, 0.3, 0.2, 0.1]))']
# wrong = ['''
# def must_be_wrong(predicted, true):
#     return 0.5
# ''']
#
# [[mistake]]
# code = '''
# def must_be_wrong(predicted, true):
#     return np.abs(predicted - true).sum()
# '''
# hint = 'a subtomogram that is called by a wrong name is counted twice: one class has it too much, another one too little.'
#
# [[mistake]]
# code = '''
# def must_be_wrong(predicted, true):
#     return np.abs(predicted - true).max()
# '''
# hint = 'that counts one class alone. Every class that is called too often has wrong ones: add them up.'
#
# [[mistake]]
# code = '''
# def must_be_wrong(predicted, true):
#     return 1 - (predicted * true).sum()
# '''
# hint = 'that is the share of wrong names if names were drawn at random. The least share was asked for.'
#
# [[mistake]]
# code = '''
# def must_be_wrong(predicted, true):
#     return (predicted - true).sum()
# '''
# hint = 'both sum to 1, so this is always 0: what one class has too much, others have too little.'

# %%
lesson.check("must_be_wrong")
if lesson.solved("must_be_wrong"):
    least = must_be_wrong(np.array(shares["target"]), np.full(n, 1 / n))
    print(f"if the classes of the target were level, at least {least:.0%} of its predictions were wrong")

# %% [markdown]
# A confidence is the network's opinion of itself. Remember the number for the target: at the end of this notebook you can
# compare it with an accuracy.
#
# **Recap**
# - Class fractions that cannot be true show a failure without a label. Level fractions would not prove success.
# - The mean confidence on the target is a claim, not a measurement.
# - Nothing so far says how many predictions are wrong.
#
# ## 5 · The bet (5 minutes)
#
# A practice target from the same scenario as the locked one, but with seed 7. You know: the accuracy on the source, the confidence
# on the target, and the predicted class fractions.
#
# **What do you expect?** Put your bet for the balanced accuracy on the practice target in place of None.

# %%
bet = None  # your bet, 0 to 1

# %%
asked = practice.config(p, scenario, max(n, p.n_test // 2))
practised = datasets.simulate_target(asked, folder=run.data_folder, progress=False)
p_practice = models.predict(fit.network, practised.x, device=run.params.device)
labels = practice.reveal(asked, run.data_folder)
revealed = metrics.balanced_accuracy(p_practice, labels)
sure = p_practice.max(1).values.mean().item()
lesson.figure(figures.confusion({"source_only": metrics.confusion(p_practice, labels)}, labels.classes), "practice")
lesson.checkpoint("balanced accuracy on the practice target", revealed)
print(f"on held-out source {val_accuracy:.2f}; guessing {1 / n:.2f}; mean confidence on the practice target {sure:.2f}")
print("You made no bet." if bet is None else f"Your bet is off by {abs(bet - revealed):.2f}.")

# %% [markdown]
# This is the failure that the course works on: 02b and 02c ask where it comes from, 03 changes the images, 04 the features, and 05
# measures on the locked target what that brings. Compare the confidence with the balanced accuracy: nobody who had read the confidence
# alone would have been warned.

# %% tags=["solution", "remove-cell"]
assert not lesson.unsolved(), lesson.unsolved()

# %% tags=["hide-input"] jupyter={"source_hidden": true}
if run.profile.name != "smoke":
    assert val_accuracy > 2.5 / n, "the classifier must work at home before one may speak of a gap"
if run.profile.name != "smoke" and scenario == "in_situ_2":
    assert revealed < val_accuracy - 0.2, "the failure must be seen before it can be closed"
run.report(source_val_balanced_accuracy=val_accuracy, target_confidence=confidence["target"])
run.report(practice_balanced_accuracy=revealed)
manifest = run.finish()

# %% [markdown]
# **Recap**
# - The classifier fails on the target, and its confidence does not say so.
# - A bet before a number shows what you believed.
# - The practice key is of a seed that no evidence uses.
#
# ## What to take away
#
# - Normalising grey values does not close a domain gap. It is left in the tails, in the spectrum, in the neighbours.
# - Class fractions can show a failure without labels. A confidence cannot: it does not say how many predictions are wrong.
# - The figures compare simulators with each other. They say nothing yet about a real tomogram: notebook 06 does.
#
# ## Questions to think about
#
# 1. Low-pass filtering both domains would make the spectra meet at high frequency. What would you lose?
# 2. `prior_2` changes only how often each class occurs. Which accuracy can that change, plain or balanced, and why?
# 3. Somebody reports a mean confidence of 0.95 on a tomogram without labels. What would you ask for?
