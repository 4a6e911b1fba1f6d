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
# # 04 · Multi-adversarial adaptation
#
# A discriminator tries to tell source features from target features. The encoder is trained to make it fail. Done class by
# class, this is the third ingredient of the published Cryo-Shift. How does it work, and when does it hurt?
#
# **What you will learn**
# - the gradient reversal layer, built here in five lines and then compared with the core's;
# - the class-wise loss of MADA, built here as well: one discriminator per class, fed with p_k times the features;
# - how a shift of the class fractions turns alignment into harm;
# - the published recipe beside ours, and what the losses of a discriminator can tell.
#
# **What you need**: notebook 02 for the gap, 03 for the warps; this one runs alone; about 45 minutes to read and try. Everything
# is simulated, and no target label is used; those of the toy are known and serve scores alone. Words in links are explained in the
# [glossary](../docs/glossary.md). Which method is better, and how to choose one without labels, is the subject of
# [04b](04b_choosing_without_labels.ipynb).
#
# | profile | time | memory |
# |---|---|---|
# | smoke | 22 s | 640 MB |
# | laptop | 1.3 min | 1560 MB |

# %% tags=["hide-input"] jupyter={"source_hidden": true}
import math

import matplotlib.pyplot as plt
import numpy as np
import torch
import torch.nn.functional as F
from IPython.display import Markdown, display
from torch import nn

from cryoshift_core import losses, metrics, models, warps
from cryoshift_core import methods as recipes
from cryoshift_core.application import pictures
from cryoshift_core.benchmark.tables import table
from cryoshift_core.course import exercises, figures, toy
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
out_dir: str = ""  # where to write; empty: runs/<profile>/04_multi_adversarial_adaptation

# %%
run = begin("04_multi_adversarial_adaptation", globals())
lesson = exercises.Lesson(run, globals())
pictures.use_style()
p = run.profile

# %% [markdown]
# ## 1 · A layer that does nothing, backwards (12 minutes)
#
# The encoder should *maximise* the loss that the discriminator *minimises*. Two optimisers taking turns would do. A shorter
# way is a [layer](../docs/glossary.md#gradient-reversal) that passes features on unchanged and flips the sign of the gradient that
# comes back (Ganin & Lempitsky 2015), with a coefficient $\lambda$:
#
# $$ R(f) = f, \qquad \frac{\partial R}{\partial f} = -\lambda $$


# %%
class ReverseGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, coefficient):
        ctx.coefficient = coefficient
        return x.view_as(x)

    @staticmethod
    def backward(ctx, gradient):
        return -ctx.coefficient * gradient, None


# %% [markdown]
# Forwards it is the identity.
#
# **What do you expect?** The gradient of x² is 2x. What comes back through the layer with coefficient 1, and with coefficient 0.5?

# %%
x = torch.linspace(-2, 2, 9, requires_grad=True)
fig, ax = plt.subplots(figsize=(5.4, 2.6), layout="constrained")
for coefficient, style in ((None, "ko-"), (1.0, "s--"), (0.5, "^:")):
    y = x if coefficient is None else ReverseGradient.apply(x, coefficient)
    (gradient,) = torch.autograd.grad(y.square().sum(), x)
    label = "plain: 2x" if coefficient is None else f"reversed, coefficient {coefficient:g}"
    ax.plot(x.detach(), gradient, style, ms=4, label=label)
    if coefficient is not None:
        (core,) = torch.autograd.grad(losses.reverse_gradient(x, coefficient).square().sum(), x)
        print(
            f"coefficient {coefficient:g}: at x = 2 comes back {gradient[-1]:+.1f}, from the core's layer {core[-1]:+.1f}"
        )
ax.set(xlabel="x", ylabel="gradient of the sum of x squared")
ax.legend(fontsize=8)
lesson.figure(fig, "gradient_reversal")

# %% [markdown]
# ### Exercise 1 · The same without a layer
#
# PyTorch has `f.detach()`: the value of f, through which no gradient flows. Write the reversal with nothing but sums and products of
# `f` and `f.detach()`: the value must be f, and the gradient that comes back -`coefficient` times what arrives.


# %% tags=["given"]
def value_and_gradient(function, coefficient):
    """Value at f = (1, -2), and the gradient of the sum of squares there."""
    f = torch.tensor([1.0, -2.0], requires_grad=True)
    value = function(f, coefficient)
    (gradient,) = torch.autograd.grad(value.square().sum(), f)
    return value.detach(), gradient


# %% tags=["exercise"]
def reverse(f, coefficient):
    return None


# %% tags=["solution", "hide-cell"]
def reverse(f, coefficient):
    return (1 + coefficient) * f.detach() - coefficient * f


# %% [raw] tags=["mistakes", "remove-cell"]
# name = "reverse"
# cases = ['value_and_gradient(reverse, 1.0)', 'value_and_gradient(reverse, 0.3)']
# wrong = ['''
# def reverse(f, coefficient):
#     return f - 2 * coefficient * f.detach()
# ''']
#
# [[mistake]]
# code = '''
# def reverse(f, coefficient):
#     return -coefficient * f
# '''
# hint = 'the gradient has the right factor, and the value has lost its sign: the discriminator sees -f. Forwards nothing may change.'
#
# [[mistake]]
# code = '''
# def reverse(f, coefficient):
#     return f.detach() - coefficient * f
# '''
# hint = 'the value is (1 - coefficient) f, so at coefficient 1 the discriminator sees zeros. Add what is missing through f.detach().'
#
# [[mistake]]
# code = '''
# def reverse(f, coefficient):
#     return f.detach()
# '''
# hint = 'the value is right, and no gradient comes back at all: the encoder learns nothing from the discriminator.'
#
# [[mistake]]
# code = '''
# def reverse(f, coefficient):
#     return (1 - coefficient) * f.detach() + coefficient * f
# '''
# hint = 'the value is right, and the gradient has the wrong sign: the encoder would help the discriminator.'

# %%
lesson.check("reverse")

# %% [markdown]
# ### How strong, and when?
#
# At first the classifier knows nothing, and an adversary would push features around that mean nothing yet. So the coefficient starts
# at 0 and rises to 1 along 2 / (1 + exp(-10 p)) - 1, with p the share of training done. The published code started at
# 100. The right panel shows what that means: the length of the gradient that reaches an encoder's features from the domain
# loss, beside the one from the classification loss (dashed), for random features.
#
# **What do you expect?** At coefficient 1, which of the two gradients is longer, and by how much?

# %%
g = run.generator("strength")
with torch.random.fork_rng(devices=[]):
    torch.manual_seed(seed)
    discriminators = models.ClassDiscriminators(16, 4)
    head = nn.Linear(16, 4)
f = torch.randn(64, 16, generator=g, requires_grad=True)
y, domain = torch.randint(4, (64,), generator=g), torch.cat([torch.ones(32), torch.zeros(32)])
task = torch.autograd.grad(F.cross_entropy(head(f), y), f)[0].norm()
coefficients, lengths = [0.1, 0.3, 1, 3, 10, 30, 100], []
for coefficient in coefficients:
    gated = losses.gate(losses.reverse_gradient(f, coefficient), head(f).softmax(1).detach())
    loss = losses.mada_loss(discriminators(gated), domain)
    lengths.append(float(torch.autograd.grad(loss, f)[0].norm()))

# %%
fig, axes = plt.subplots(1, 2, figsize=(7.6, 2.7), layout="constrained")
share = torch.linspace(0, 1, 101)
axes[0].plot(share, [losses.ramp(float(v)) for v in share])
axes[0].set(xlabel="share of training done", ylabel="coefficient", title="the warm-up")
axes[1].loglog(coefficients, lengths, "o-", label="domain")
axes[1].axhline(float(task), color="0.4", ls="--", label="classification")
axes[1].set(xlabel="coefficient", ylabel="gradient length", title="what reaches the features")
axes[1].legend()
lesson.figure(fig, "ramp")
at_one = lengths[coefficients.index(1)] / float(task)
print(f"at coefficient 1 the domain gradient is {1 / at_one:.0f} times shorter than the classification gradient,")
print(f"at coefficient 100 it is {100 * at_one:.1f} times as long; they are equal at coefficient {1 / at_one:.0f}")

# %% [markdown]
# **Recap**
# - Gradient reversal trains encoder and discriminator in one backward pass.
# - At coefficient 1 the domain gradient of random features is small beside the one of the classification; at 100 it is larger.
# - That is why methods scale the domain loss by a weight, and warm it up.
#
# ## 2 · A toy that can be seen whole (13 minutes)
#
# Two classes in the plane (circles and crosses). The target is the source moved and turned, *and* one class is four times as
# frequent. The encoder is a small network from the plane to the plane, so its features can be drawn. Toy labels are known,
# so we may score it; only the source's are used in training.
#
# DANN (Ganin & Lempitsky 2015) asks one discriminator. MADA (Pei et al. 2018) asks one discriminator $D_k$ per class. It sees the
# features times the probability of its class, $p_k f$; $d$ is 1 for source and 0 for target:
#
# $$ L_{MADA} = \frac{1}{K} \sum_k BCE(D_k(p_k f), d) $$


# %%
def class_wise(f, coefficient, logits, discriminators, domain):
    """MADA: discriminator k sees p_k times the features, so it is asked about class k alone."""
    p = logits.softmax(1).detach()
    f = ReverseGradient.apply(f, coefficient)
    per_class = discriminators(p[:, :, None] * f[:, None, :])
    wanted = domain[:, None].expand_as(per_class)
    return F.binary_cross_entropy_with_logits(per_class, wanted)


def whole(f, coefficient, logits, discriminator, domain):
    """DANN: one discriminator for everything."""
    return F.binary_cross_entropy_with_logits(discriminator(ReverseGradient.apply(f, coefficient)), domain)


ours = class_wise(f, 1.0, head(f), discriminators, domain)
gated = losses.gate(losses.reverse_gradient(f, 1.0), head(f).softmax(1).detach())
core = losses.mada_loss(discriminators(gated), domain)
print(f"ours {ours.item():.6f}, the core's {core.item():.6f}")

# %% [markdown]
# `class_wise` is the heart of the method, and the core's loss is the same. `toy.train` trains encoder, head and
# discriminator with the source's labels and one of these losses (300 steps, a second).
#
# **What do you expect?** [One discriminator (DANN) or one per class (MADA)](../docs/glossary.md#dann-and-mada): which will be better on this toy?

# %%
WAYS = {"no adaptation": {}, "one discriminator (DANN)": {"loss": whole}}
WAYS |= {"one per class (MADA)": {"loss": class_wise, "per_class": True}}
games = {name: toy.train(**way, seed=seed) for name, way in WAYS.items()}
STARTS = 2 if p.name == "smoke" else 5  # seeds
lesson.figure(toy.draw(games), "toy")
none, dann, mada = (one.target_accuracy for one in games.values())
lesson.checkpoint("target balanced accuracy of DANN on the toy", dann)
verdict = "loses to" if mada < dann - 0.01 else "beats" if mada > dann + 0.01 else "is level with"
print(f"this seed: no adaptation {none:.2f}, DANN {dann:.2f}, MADA {mada:.2f}: MADA {verdict} DANN")
for name, way in WAYS.items():
    more = [toy.train(**way, seed=seed + i).target_accuracy for i in range(1, STARTS)]
    scores = [games[name].target_accuracy, *more]
    print(f"{STARTS} seeds, {name}: mean {np.mean(scores):.2f}, from {min(scores):.2f} to {max(scores):.2f}")

# %% [markdown]
# Read the colours within one marker: adaptation works when blue and orange *circles* lie together, and likewise the
# crosses. The class-wise method is not the better one by rule: look at the printed line, and at how far the seeds lie apart.
# Adversarial alignment has no guarantee, which is why its result must be checked (notebook 05).

# %% [markdown]
# ### Exercise 2 · CDAN
#
# CDAN (Long et al. 2018) has a single discriminator. It sees the **outer product** of probabilities and features: all
# numbers p_k f_j in one long vector. Write this input for features `f` (N, F) and probabilities `p` (N, K): (N, K F), with
# the F numbers of class 0 first.

# %% tags=["given"]
some_features, some_logits = torch.randn(2, 5, 4, generator=torch.Generator().manual_seed(1))
some_outputs = some_features, some_logits[:, :3].softmax(1)


# %% tags=["exercise"]
def cdan_input(f, p):
    return None


# %% tags=["solution", "hide-cell"]
def cdan_input(f, p):
    return (p[:, :, None] * f[:, None, :]).flatten(1)


# %% [raw] tags=["mistakes", "remove-cell"]
# name = "cdan_input"
# cases = ['cdan_input(*some_outputs)', 'cdan_input(some_outputs[0][:1], some_outputs[1][:1]).shape']
# wrong = ['''
# def cdan_input(f, p):
#     return f.repeat(1, p.shape[1])
# ''']
#
# [[mistake]]
# code = '''
# def cdan_input(f, p):
#     return torch.cat([p, f], 1)
# '''
# hint = 'p beside f is K + F numbers, and a linear layer on them cannot ask whether a feature fits its class. The outer product has K times F.'
#
# [[mistake]]
# code = '''
# def cdan_input(f, p):
#     return (p[:, :, None] * f[:, None, :]).sum(1)
# '''
# hint = 'summed over the classes, the p_k add up to 1 and f is left: that is DANN.'
#
# [[mistake]]
# code = '''
# def cdan_input(f, p):
#     return (f[:, :, None] * p[:, None, :]).flatten(1)
# '''
# hint = 'these are the right numbers in another order. The features of class 0 come first, then those of class 1.'
#
# [[mistake]]
# code = '''
# def cdan_input(f, p):
#     hard = F.one_hot(p.argmax(1), p.shape[1])
#     return (hard[:, :, None] * f[:, None, :]).flatten(1)
# '''
# hint = 'the probabilities were rounded to the most likely class. An unsure subtomogram should count for several classes.'
#
# [[mistake]]
# code = '''
# def cdan_input(f, p):
#     return p[:, :, None] * f[:, None, :]
# '''
# hint = 'that is the input of MADA, (N, K, F): K vectors for K discriminators. CDAN puts them into one.'

# %%
lesson.check("cdan_input")

# %% [markdown]
# **Recap**
# - DANN asks one discriminator, MADA one per class, with p_k times the features.
# - On a toy with two classes more discriminators are not better by rule.
# - Seeds differ: a ranking from one seed says nothing.
#
# ## 3 · When alignment hurts: label shift (8 minutes)
#
# A discriminator asks for equal *distributions* of features. If one class is more frequent in the target, equal distributions
# are wrong: to fill the place of the missing crosses, some circles must be moved there. Here the target is only moved a
# little, so that no adaptation is needed at all. Left of each pair, the classes are equally frequent, as in the
# source; right, 95 % of the target are circles. A dot is a seed.
#
# **What do you expect?** Which of the three lines will fall?

# %%
ratios, starts = {"50 %": 0.5, "95 %": 0.95}, range(seed, seed + min(3, STARTS))
label_shift = {
    name: {
        first: [toy.train(**way, shift=toy.Shift(0, (0.0, 1.0), first), seed=s).target_accuracy for s in starts]
        for first in ratios.values()
    }
    for name, way in WAYS.items()
}
fig = figures.before_and_after(label_shift, list(ratios), "target balanced accuracy")
fig.axes[0].set(xlabel="share of circles in the target", title="A shift of the class shares")
lesson.figure(fig, "label_shift")
mean = {name: float(np.mean(by_share[0.95])) for name, by_share in label_shift.items()}
print(", ".join(f"{name} {value:.2f}" for name, value in mean.items()), "where 95 % are circles")
for name, by_share in list(label_shift.items())[1:]:
    fell = sum(one[1] < one[0] - 0.02 for one in zip(*by_share.values(), strict=True))
    print(f"{name}: {fell} of {len(by_share[0.95])} seeds lose more than 0.02 where 95 % are circles")

# %% [markdown]
# This is [**negative transfer**](../docs/glossary.md#negative-transfer): adaptation makes worse what was good. In a cell nobody picks classes in equal numbers, so
# it is no rare accident. Class-wise discriminators are meant to help here. But they get the class from a
# prediction p_k, and where that is wrong they pull to the wrong side.
#
# Real data show it, too. Of a yeast lamella with 248 ribosomes and nothing else in the list, `cryoshift` called half of them
# ribosomes; the same network trained without adversaries, seven in ten (development seed 101: 48 % and 70 %). Nobody needs a
# label to notice that the two disagree about the class *fractions*: notebook 06 trains both, and where they differ by
# more than 0.1 it uses the one without adversaries (`selection.choose(..., unaligned=...)`; measured in `docs/search.md`).
#
# ### Two more published mistakes
#
# The first was a coefficient of 100 (section 1). **The probability must gate the features, not the loss.** If p_k only weighs the loss,
# discriminator k sees features of *all* classes and cannot know which one it is asked about; no figure here shows that.
# **The sigmoid belongs into the loss.** BCE after a sigmoid loses its gradient where float32 rounds the sigmoid to 1; BCE with
# logits keeps it.
#
# **What do you expect?** From which logit on does the dashed line drop to 0?

# %%
logit = torch.linspace(-120, 120, 481, requires_grad=True)
wanted = torch.zeros_like(logit)
(stable,) = torch.autograd.grad(F.binary_cross_entropy_with_logits(logit, wanted, reduction="sum"), logit)
(lost,) = torch.autograd.grad(F.binary_cross_entropy(logit.sigmoid(), wanted, reduction="sum"), logit)
fig, ax = plt.subplots(figsize=(5.2, 2.6), layout="constrained")
ax.plot(logit.detach(), stable, label="BCE with logits")
ax.plot(logit.detach(), lost, "--", label="BCE after a sigmoid")
ax.set(xlabel="logit of a target subtomogram (wanted: very negative)", ylabel="gradient")
ax.set_title("who still corrects a sure mistake?")
ax.legend()
lesson.figure(fig, "saturation")
dead = float(logit.detach()[(lost < 0.01) & (logit.detach() > 0)].min())
print(f"in float32 the gradient after a sigmoid is lost from a logit of {dead:.1f} on; below, both agree")

# %% [markdown]
# **Recap**
# - Where class fractions differ, equal feature distributions are wrong, and alignment may cost accuracy.
# - A probability belongs on the features, and the sigmoid inside the loss.
# - A large change of the predicted class fractions can be seen without labels.
#
# ## 4 · On subtomograms (12 minutes)
#
# ### The published recipe, and ours
#
# The first column is Cryo-Shift as published (Bandyopadhyay et al. 2022), with the defects of its code repaired; the second adds this
# project's spectrum warp; the third is the default here. Everything in the table is read from the entries in `recipes.METHODS`.
#
# **What do you expect?** In how many rows do the first and the last column differ?

# %%
columns = {
    "published recipe": "cryoshift_paper",
    "with a spectrum warp": "cryoshift_reference",
    "our recipe": "cryoshift",
}
resolved = {name: recipes.resolve(name) for name in columns.values()}
adversaries = [name for name, term in recipes.TERMS.items() if term.adversary]
rows = {
    "classification loss": lambda terms, _: " + ".join(t for t in terms if recipes.TERMS[t].supervised),
    "domain loss, weight": lambda terms, _: ", ".join(f"{t}, {w:g}" for t, w in terms.items() if t in adversaries),
    "warps of the source": lambda _, method: ", ".join(method.warps),
    "warps are trained": lambda _, method: f"yes, {method.warp_training}" if method.warp_training else "no",
    "particle-free boxes of the target": lambda _, method: "yes, if given" if method.own_background else "not used",
    "if class fractions move": lambda _, method: f"use {method.unaligned}" if method.unaligned else "-",
}
cells = {what: [of(*resolved[name]) for name in columns.values()] for what, of in rows.items()}
display(Markdown(table(" | ".join(["", *columns]), ([f"**{what}**", *line] for what, line in cells.items()))))
differ = [what for what, line in cells.items() if line[0] != line[-1]]
print(f"the published recipe and ours differ in {len(differ)} of {len(rows)} rows: {'; '.join(differ)}")

# %% [markdown]
# `source` and `warped` are the cross-entropy on the source as it is and on the warped source; `mada` is the class-wise domain loss
# of section 2 at the weight that is named. What the first column has repaired holds for all three:
#
# | published code | here |
# |---|---|
# | draws target subtomograms by their label; learning rate and checkpoint are chosen on labelled target loss | training and selection get no target label |
# | adapts and selects on the same tenth of the data | target-train and target-test come from different tomograms |
# | reversal coefficient 100 from the first step | a warm-up to 1 (section 1) |
# | 8 source and 4 target subtomograms in a batch; batch normalisation over both domains | equal numbers; each subtomogram is normalised alone (GroupNorm) |
# | p_k weighs the loss | p_k gates the features (section 2) |
# | sigmoid, then BCE | BCE with logits (section 3) |
# | three mistakes in its warps | the museum of [03b](03b_warping_games.ipynb) |
#
# ### Three methods on the same subtomograms
#
# None, the class-wise adversaries alone, and `cryoshift`, which has them too, and learns from warped source subtomograms that look
# like target subtomograms (notebook 03).

# %%
source, validation, target = run.domains()
names = dict.fromkeys(("source_only", "mada", "cryoshift", *run.methods))
fits = {name: run.fit(name, source, target, validation) for name in names}

# %% [markdown]
# ### Exercise 3 · The best that gated discriminators can do
#
# There are K discriminators. Discriminator k gets p_k times the features. Suppose the classifier is certain: p is 1 for one class and 0
# for the others. Suppose, too, that the domains are perfectly separable. What is the smallest mean loss (nats) that the K
# discriminators can reach together? Both domains are equally frequent. What do you expect: 0?


# %% tags=["exercise"]
def best_loss(k):
    return None


# %% tags=["solution", "hide-cell"]
def best_loss(k):
    return (k - 1) / k * math.log(2)


print(f"K = 7: {best_loss(7):.3f}; guessing: {math.log(2):.3f}")

# %% [raw] tags=["mistakes", "remove-cell"]
# name = "best_loss"
# cases = ['best_loss(2)', 'best_loss(7)', 'best_loss(20)']
# wrong = ['''
# def best_loss(k):
#     return (k - 1) * math.log(2)
# ''', '''
# def best_loss(k):
#     return 0.594
# ''']
#
# [[mistake]]
# code = '''
# def best_loss(k):
#     return 0.0
# '''
# hint = 'that is one discriminator that sees everything. Here K - 1 of K discriminators get zeros for a given subtomogram, and zeros say nothing.'
#
# [[mistake]]
# code = '''
# def best_loss(k):
#     return math.log(2)
# '''
# hint = 'that is guessing by all of them. The one whose class is meant sees the features, and can be right.'
#
# [[mistake]]
# code = '''
# def best_loss(k):
#     return math.log(2) / k
# '''
# hint = 'the other way round: one of K is right, and K - 1 of K guess.'
#
# [[mistake]]
# code = '''
# def best_loss(k):
#     return (k - 1) / k * math.log(k)
# '''
# hint = 'each discriminator chooses between two domains, not between K classes: a guess costs ln 2.'

# %%
lesson.check("best_loss")

# %% [markdown]
# ### What the curves say
#
# Left to right: the classification loss (on originals, and on warped ones for `cryoshift`), the domain loss, accuracy on
# *source* validation subtomograms, and the [IM score](../docs/glossary.md#im-score) of the target predictions (higher: confident and varied;
# 0: all predictions are the same).
#
# At ln 2 = 0.69 (dotted) all discriminators guess. The best that K gated ones can reach with a certain classifier is not 0: where p_k
# is 0 a discriminator gets zeros and must guess, so the least loss is (K - 1)/K ln 2 (dashed). A curve at the dotted line or above it
# means that the encoder keeps the upper hand, or that the discriminators are too weak. The curve cannot tell which.
#
# **What do you expect?** Will the domain loss end near the dotted line, or near the dashed one?

# %%
curves = {name: dict(fit.history) for name, fit in fits.items()}
for history in curves.values():
    history["classification loss"] = history.get("source", history.get("warped"))
    history |= {"domain loss": history.get("mada", ()), "IM score, target": history["im_score"]}
    history["accuracy, source validation"] = history["source_val_acc"]
shown = ["classification loss", "domain loss", "accuracy, source validation", "IM score, target"]
fig = figures.learning_curves(curves, shown)
k = len(p.classes)
guessing, least = math.log(2), (k - 1) / k * math.log(2)
fig.axes[1].axhline(guessing, ls=":", color="0.5")
fig.axes[1].axhline(least, ls="--", color="0.5")
lesson.figure(fig, "learning_curves")
for name in ("mada", "cryoshift"):
    last = np.mean([value for value in fits[name].history["mada"] if value == value][-3:])
    side = "nearer to guessing" if last > (guessing + least) / 2 else "nearer to the least"
    print(
        f"{name}: domain loss {last:.3f} at the end, {side} (guessing {guessing:.3f}, least for K = {k}: {least:.3f});",
        f"IM score {fits[name].history['im_score'][-1]:.2f}",
    )

# %% [markdown]
# ### Did the features come together?
#
# Features of source and target subtomograms on their two principal axes. In the last panel, the warps first give the source
# subtomograms the style of the target: these are what `cryoshift` learned from.
#
# **What do you expect?** In which panel do the colours mix best?

# %%
views = {name: (fit.network, validation.x[:300]) for name, fit in fits.items()}
styled = warps.target_styled(validation.x[:300], fits["cryoshift"].warps, run.generator("carry"))
views["cryoshift, target-styled source"] = (fits["cryoshift"].network, styled)
distance, clouds = {}, {}
for name, (network, x) in views.items():
    f_s, f_t = (models.embed(network, q, device=run.params.device) for q in (x, target.x[:300]))
    distance[name] = metrics.a_distance(f_s, f_t, seed=0)
    clouds[f"{name}\nproxy A-distance {distance[name]:.2f}"] = {"source": f_s, "target": f_t}
lesson.figure(figures.embeddings(clouds), "features")
for name in list(distance)[1:]:
    change = distance[name] - distance["source_only"]
    verdict = "nearer" if change < -0.1 else "further apart" if change > 0.1 else "no nearer and no further apart"
    print(f"{name}: the domains are {verdict} than in source_only", end=" ")
    print(f"({distance['source_only']:.2f} -> {distance[name]:.2f})")

# %% tags=["solution", "remove-cell"]
assert not lesson.unsolved(), lesson.unsolved()

# %% tags=["hide-input"] jupyter={"source_hidden": true}
assert losses.ramp(0.0) == 0.0 and losses.ramp(1.0) <= 1.0
assert torch.equal(core, ours) or torch.allclose(core, ours), "the core's class-wise loss is this one"
assert stable[-1] > 0.99 and lost[-1] < 0.01, "a sure mistake must still be corrected"
if p.name != "smoke":
    assert np.mean(list(mean.values())[1:]) < mean["no adaptation"], "alignment costs something where the shares differ"
    best = max(fits["source_only"].history["source_val_acc"])
    assert max(fits["mada"].history["source_val_acc"]) > best - 0.15, "with an adversary, too, the source is learnt"
run.report(**{f"a_distance_{name}": value for name, value in distance.items()})
run.report(**{f"im_score_{name}": fit.history["im_score"][-1] for name, fit in fits.items()})
run.report(toy_label_shift=list(mean.values()))
manifest = run.finish()

# %% [markdown]
# A smaller distance is what the adversary is trained for; the lines say whether it got there. Read them beside the domain loss: a loss
# at ln 2 or above with a distance near 2 means that the discriminators have failed, and not that the domains have met. An IM score
# of 0 at the end means that all target predictions have become the same.
#
# Whether the *predictions* get better is another question: features of different classes may have been laid on top of each other. Only
# labels could tell, and we have none here.
#
# **Recap**
# - K gated discriminators guess at ln 2, and reach (K - 1)/K ln 2 at best if the classifier is certain.
# - Neither the loss nor the distance says how many predictions are right.
# - Warped source and target may be aligned where plain source and target are not.
#
# ## What to take away
#
# - Gradient reversal turns a minimax problem into one backward pass. Its coefficient is a schedule, not a constant.
# - MADA has one discriminator per class, and says which class is meant through the features: p_k f.
# - A domain loss at ln 2 and a small A-distance mean *indistinguishable*, not *correct*.
# - Where class fractions differ, alignment can hurt.
#
# ## Questions to think about
#
# 1. Why is p_k detached before it gates the features? What could the encoder do to the discriminator otherwise?
# 2. What happens to the class-wise discriminators for a class that the classifier never predicts on the target?
# 3. Two encoders have the same domain loss. Which other number, without labels, would you ask for before you choose one?
