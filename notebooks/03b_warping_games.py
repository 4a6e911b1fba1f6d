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
# # 03b · Warping games
#
# Notebook 03 computed warps from averages. Two of the seven warps are small networks, and networks can be *trained*: against a
# discriminator that knows the target, or against the classifier. Does that bring warped subtomograms nearer to the target? And what
# goes wrong when nobody looks?
#
# **What you will learn**
# - what adversarial training does to a warp, and whether it helps: realism training and min-max training;
# - to tell warps apart by a distance that needs no label, and what that distance does not say;
# - three mistakes that ran unnoticed in published code, and the number that shows each of them.
#
# **What you need**: notebook 03 for the warps; this one runs alone, and reuses its data and fits where they exist; about 40 minutes
# to read and try. Everything here is simulated, and no held-out label is opened. The one exception is said where it comes: scores
# that `make evidence` measured earlier, on other seeds. Words in links are explained in the [glossary](../docs/glossary.md).
#
# | profile | time | memory |
# |---|---|---|
# | smoke | 12 s | 660 MB |
# | laptop | 28 s | 1770 MB |

# %% tags=["hide-input"] jupyter={"source_hidden": true}
import copy
import math

import matplotlib.pyplot as plt
import torch
import torch.nn.functional as F
from torch import nn

from cryoshift_core import losses, metrics, models
from cryoshift_core.application import pictures
from cryoshift_core.benchmark import jobs, shipped, statistics
from cryoshift_core.course import exercises, warping
from cryoshift_core.course.run import begin
from cryoshift_core.warps import DeformationWarp, Warps, gaussian_kernel

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
out_dir: str = ""  # where to write; empty: runs/<profile>/03b_warping_games

# %%
run = begin("03b_warping_games", globals())
lesson = exercises.Lesson(run, globals())
pictures.use_style()
p = run.profile
source, validation, target = run.domains()
measured_s, held_s = source.x[::2][:256], source.x[1::2][:256]
measured_t, held_t = target.x[::2][:256], target.x[1::2][:256]
names = dict.fromkeys(("source_only", "cryoshift", *run.methods))
fits = {name: run.fit(name, source, target, validation) for name in names}

# %% [markdown]
# ## 1 · Two ways to train a warp (13 minutes)
#
# Spectrum and histogram are computed; shift, crowding and optics are drawn. Deformation and noise are networks, and can be trained
# without target labels, in two ways:
#
# - in **realism training** (Goodfellow et al. 2014) an image discriminator $D$ says which subtomograms are target and which are
#   warped; the warps $w$ are trained so that the discriminator takes them for target;
# - in **min-max training** (DeceptionNet, Zakharov et al. 2019) the warps never see a target: they *maximise* the
#   classifier's loss within their bounds, the classifier minimises it. It prepares for the worst case instead of the likely one.
#
# | | the warps $w$ | the other side |
# |---|---|---|
# | realism | minimise $-\log D(w(x_s))$ | $D$ minimises $-\log D(x_t) - \log(1 - D(w(x_s)))$ |
# | min-max | maximise $CE(c(w(x_s)), y_s)$ | the classifier $c$ minimises the same |
#
# `training.fit("warp_only", ...)` and `training.fit("warp_minmax", ...)` do it in full. Here are a few steps of both,
# from the same untrained warps, against a fixed classifier. The whole difference is in the line of `objective`.

# %% tags=["hide-input"] jupyter={"source_hidden": true}
with torch.random.fork_rng(devices=[]), torch.no_grad():
    torch.manual_seed(run.params.seed)
    trainable = ("deformation", "spectrum", "noise")
    untrained = Warps(trainable, measured_s, measured_t, run.generator("estimate"), p.voxel_size)


def update(optimiser, loss):
    """One step down the gradient of a loss."""
    optimiser.zero_grad()
    loss.backward()
    optimiser.step()


def parts():
    """The untrained warps, a new discriminator, and source_only, whose weights stay as they are."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(run.params.seed)
        chain, discriminator = copy.deepcopy(untrained), models.ImageDiscriminator()
    return chain, discriminator, copy.deepcopy(fits["source_only"].network).requires_grad_(False)


# %%
def train_warps(objective, steps, n=8):
    """Trained warps, and after each step the task loss on the warped source and the discriminator's loss."""
    chain, discriminator, classifier = parts()
    step, step_d = (torch.optim.Adam(module.parameters(), lr=2e-3) for module in (chain, discriminator))
    g, curve = run.generator("play"), []
    for _ in range(steps):
        i, j = (torch.randint(len(domain), (n,), generator=g) for domain in (source, target))
        warped = chain(source.x[i], generator=g)
        loss_d = losses.realism(discriminator(target.x[j]), True)
        loss_d = loss_d + losses.realism(discriminator(warped.detach()), False)
        update(step_d, loss_d)
        task = F.cross_entropy(classifier(warped), source.y[i])
        update(step, -task if objective == "min-max" else losses.realism(discriminator(warped), True))
        curve.append((task.item(), loss_d.item()))
    return chain, torch.tensor(curve)


# %% [markdown]
# ### Exercise 1 · What the discriminator minimises
#
# The image discriminator gives logits, positive for "target". Write its loss for logits of target and of warped subtomograms: the
# mean binary cross-entropy of the first for "target", plus that of the second for "warped" (nats). What do you expect for a
# discriminator whose logits are all 0?

# %% tags=["given"]
from torch.nn.functional import binary_cross_entropy_with_logits as bce

sure_t, sure_w = torch.tensor([3.0, 2.0, 4.0]), torch.tensor([-3.0, -1.0, -2.0])


# %% tags=["exercise"]
def discriminator_loss(logits_target, logits_warped):
    return None  # a float; bce(logits, wanted) with wanted 1 or 0


# %% tags=["solution", "hide-cell"]
def discriminator_loss(logits_target, logits_warped):
    wanted_t, wanted_w = torch.ones_like(logits_target), torch.zeros_like(logits_warped)
    return float(bce(logits_target, wanted_t) + bce(logits_warped, wanted_w))


print(f"all logits 0: {discriminator_loss(torch.zeros(8), torch.zeros(8)):.3f}; 2 ln 2 = {2 * math.log(2):.3f}")

# %% [raw] tags=["mistakes", "remove-cell"]
# name = "discriminator_loss"
# cases = ['discriminator_loss(torch.zeros(8), torch.zeros(8))', 'discriminator_loss(sure_t, sure_w)', 'discriminator_loss(sure_w, sure_t)']
# wrong = ['''
# def discriminator_loss(logits_target, logits_warped):
#     return 2 * math.log(2)
# ''']
#
# [[mistake]]
# code = '''
# def discriminator_loss(logits_target, logits_warped):
#     return float(bce(logits_target, torch.zeros_like(logits_target)) + bce(logits_warped, torch.ones_like(logits_warped)))
# '''
# hint = 'the two sides are exchanged: a positive logit means target, so target subtomograms should get 1.'
#
# [[mistake]]
# code = '''
# def discriminator_loss(logits_target, logits_warped):
#     return float(bce(logits_target, torch.ones_like(logits_target)) + bce(logits_warped, torch.zeros_like(logits_warped))) / 2
# '''
# hint = 'that is the mean of the two parts. The sum was asked for, so a guessing discriminator has 2 ln 2 = 1.39.'
#
# [[mistake]]
# code = '''
# def discriminator_loss(logits_target, logits_warped):
#     return float(bce(logits_target.sigmoid(), torch.ones_like(logits_target)) + bce(logits_warped.sigmoid(), torch.zeros_like(logits_warped)))
# '''
# hint = 'the sigmoid is already in bce, which takes logits: with two of them the loss of a discriminator that is right cannot come near 0.'
#
# [[mistake]]
# code = '''
# def discriminator_loss(logits_target, logits_warped):
#     return float(bce(logits_target, torch.ones_like(logits_target)) + bce(logits_warped, torch.ones_like(logits_warped)))
# '''
# hint = 'that rewards calling everything target. It is the aim of the warps for their part, not that of the discriminator.'

# %%
lesson.check("discriminator_loss")

# %% [markdown]
# ### Who wins?
#
# Left, what hurts the classifier. Middle, the discriminator: at 2 ln 2 = 1.39 (dotted) it can only guess, near 0 it is right
# about everything. Right, how much each trained noise warp adds to the same subtomogram.
#
# **What do you expect?** Who wins in realism training after 40 steps: the warps or the discriminator?

# %%
moves = 4 if p.name == "smoke" else 40
trained = {objective: train_warps(objective, moves) for objective in ("realism", "min-max")}
few = warping.clearest(source)
with torch.no_grad():
    added = {name: chain.steps["noise"].delta(few[:8], run.generator("delta")) for name, (chain, _) in trained.items()}
losses_of = {name: curve for name, (_, curve) in trained.items()}
lesson.figure(warping.training_of_warps(losses_of, added), "two_games")
late = {name: float(curve[-(moves // 3 or 1) :, 0].mean()) for name, curve in losses_of.items()}
print(", ".join(f"{name}: task loss {loss:.2f} at the end" for name, loss in late.items()))
for name, curve in losses_of.items():
    end, bound = float(curve[-(moves // 4 or 1) :, 1].mean()), 2 * math.log(2)
    who = "the discriminator wins" if end < 0.7 * bound else "the warps win" if end > 1.1 * bound else "it is undecided"
    if name == "min-max":  # there the warps do not work against it
        who = f"it, which only watches, {'tells' if end < 0.7 * bound else 'does not tell'} warped and target apart"
    used = float(added[name].abs().mean()) / 0.8
    print(f"{name}: loss of the discriminator {end:.2f} of {bound:.2f} for guessing, so {who};", end=" ")
    print(f"the noise warp uses {used:.0%} of its bound on average")

# %% [markdown]
# Realism training needs a target. It can help only while the discriminator's gradient leads towards it: a discriminator that is right
# about everything is a sign that the warps are moving away. Min-max needs no target, and spends its bound on what hurts; the
# bound is all that keeps it from erasing the molecule. In min-max training the discriminator takes no part: it is trained beside, to
# watch.
#
# ### Exercise 2 · A step of min-max training, within the bound
#
# A noise pattern `delta` may have values from -`bound` to `bound`. `gradient` is the gradient of the classifier's loss with respect
# to it. Make one step of length `rate` times the gradient that *raises* the loss, and keep the bound.

# %% tags=["given"]
pattern, slope = torch.tensor([0.0, 0.5, -0.7, 0.8]), torch.tensor([1.0, 2.0, -2.0, -1.0])


# %% tags=["exercise"]
def harder(delta, gradient, rate, bound):
    return None


# %% tags=["solution", "hide-cell"]
def harder(delta, gradient, rate, bound):
    return (delta + rate * gradient).clamp(-bound, bound)


# %% [raw] tags=["mistakes", "remove-cell"]
# name = "harder"
# cases = ['harder(pattern, slope, 0.1, 0.8)', 'harder(pattern, slope, 0.5, 0.8)', 'harder(pattern, 10 * slope, 0.5, 0.8)']
# wrong = ['''
# def harder(delta, gradient, rate, bound):
#     return delta
# ''']
#
# [[mistake]]
# code = '''
# def harder(delta, gradient, rate, bound):
#     return (delta - rate * gradient).clamp(-bound, bound)
# '''
# hint = """that lowers the classifier's loss. The warps are on the other side: go up the gradient."""
#
# [[mistake]]
# code = '''
# def harder(delta, gradient, rate, bound):
#     return delta + rate * gradient
# '''
# hint = 'the bound is not kept, and nothing stops the pattern from covering the molecule: its label would be a lie.'
#
# [[mistake]]
# code = '''
# def harder(delta, gradient, rate, bound):
#     return delta + (rate * gradient).clamp(-bound, bound)
# '''
# hint = 'that bounds the step. After a few steps the pattern is out of bounds: clamp the result.'
#
# [[mistake]]
# code = '''
# def harder(delta, gradient, rate, bound):
#     return (delta + rate * gradient).clamp(0, bound)
# '''
# hint = 'the pattern may be negative, too: from -bound to bound.'
#
# [[mistake]]
# code = '''
# def harder(delta, gradient, rate, bound):
#     return bound * torch.tanh(delta + rate * gradient)
# '''
# hint = 'a tanh keeps the bound, and is what `NoiseWarp` has in its last layer. But here it also shrinks a pattern that was within the bound: clamp.'

# %%
lesson.check("harder")

# %% [markdown]
# **Recap**
# - Realism training follows a discriminator, min-max training the classifier's loss.
# - The loss curves show who wins, and not whether warped subtomograms are nearer to the target.
# - Only the bound limits what a trained warp can do.
#
# ## 2 · Are warped subtomograms nearer to the target? (8 minutes)
#
# The [**proxy A-distance**](../docs/glossary.md#a-distance) of notebook 02c (Ben-David et al. 2007): 0 if a linear rule cannot tell
# warped source from target, 2 if it always can. Left, the rule sees each subtomogram's power in eight bands of frequency. Right, it
# sees the features of a classifier trained on the source alone. The bottom row compares one half of the target with the other: the
# best that can be had (a bar of length 0 cannot be seen).
#
# **What do you expect?** Which single warp shortens the left bar most? Do the trained warps beat the untrained ones?

# %%
warps, generator = warping.all_warps(measured_s, measured_t, p.voxel_size, run.params.seed), run.generator("warps")
chains = {"those of cryoshift": fits["cryoshift"].warps, "trainable, untrained": untrained}
chains |= {f"the same, after {name}": chain for name, (chain, _) in trained.items()}
with torch.no_grad():
    candidates = {"source": held_s}
    candidates |= {f"{name} alone": module(held_s, generator=generator) for name, module in warps.items()}
    candidates |= {name: chain(held_s, generator=run.generator("compare")) for name, chain in chains.items()}
candidates["target itself"] = measured_t


def features(x):
    return models.embed(fits["source_only"].network, x, device=run.params.device)


views = {"bands": warping.band_powers, "features": features}
table = [{"what": name} for name in candidates]
for row, (view, see) in ((row, item) for row in table for item in views.items()):
    row[view] = metrics.a_distance(see(candidates[row["what"]]), see(held_t), seed=run.params.seed)

# %%
titles = {"bands": "power in eight bands", "features": "features of source_only"}
lesson.figure(warping.bars(table, titles, "proxy A-distance to the target", 2.0), "a_distance")
distance = {row["what"]: row for row in table}
for view, title in titles.items():
    alone = {name: distance[f"{name} alone"][view] for name in warps}
    first, second, *_ = sorted(alone, key=alone.get)
    print(
        f"by {title}, the nearest single warp is {first} ({alone[first]:.2f}), the next {second} ({alone[second]:.2f});",
        end=" ",
    )
    print(
        f"source as it is {distance['source'][view]:.2f}, target against itself {distance['target itself'][view]:.2f}"
    )
before, *after = by_training = [distance[name]["bands"] for name in list(chains)[1:]]
lesson.checkpoint("A-distance by bands, warps before training", before)
for objective, value in zip(trained, after, strict=True):
    verdict = (
        "nearer" if value < before - 0.1 else "further away" if value > before + 0.1 else "no nearer and no further"
    )
    print(f"{objective} training has brought the warped subtomograms {verdict} by bands ({before:.2f} -> {value:.2f})")

# %% [markdown]
# How to read it: **no bar says whether a classifier gains.** A warp that erased the molecule could have a small A-distance, and a
# warp that only adds variety may still help. And no warp needs to reach the bottom row: subtomograms differ from one another in
# ways that a mean spectrum does not hold.
#
# **Recap**
# - The A-distance tells warps apart without a label.
# - Whether training brought a warp nearer is read from a number that the training did not optimise.
# - A small distance is no proof of a gain.
#
# ## 3 · And with labels? The evidence (5 minutes)
#
# `make evidence` trains methods on other seeds and scores them with held-out labels, on `in_situ_2`. Nothing here was chosen
# with it. First what each way of warping buys over `source_only`, of those that are measured: warps with realism or min-max
# training, the published recipe with a spectrum warp (realism training and adversary), and `cryoshift`, whose warps are not trained.
# Then `cryoshift` with one part left out.
#
# **What do you expect?** Do trained warps buy more than warps that are only computed and drawn?

# %%
evidence = shipped.evidence(lesson.figure)
warping_methods = ("warp_only", "warp_minmax", "cryoshift_reference", "cryoshift")
configurations = {m: {"method": m, "scenario": jobs.REFERENCE_SCENARIO} for m in warping_methods}
bought = statistics.against(evidence.rows, configurations, base="source_only")
title = f"What warping adds to source_only on {jobs.REFERENCE_SCENARIO}"
evidence.compare(bought, title, "source_only", "evidence_warping", "baselines")
if bought:
    print(f"highest mean: {max(bought, key=lambda method: bought[method].interval.mean)}")
parts_left_out = {k: v for k, v in statistics.ablation(evidence.rows).items() if k.startswith("without ")}
title = f"cryoshift on {jobs.REFERENCE_SCENARIO}, a part left out"
evidence.compare(parts_left_out, title, "cryoshift", "evidence_parts", "ablation")
if parts_left_out:
    seen = sum(found.outcome != "not distinguishable" for found in parts_left_out.values())
    widest = max((found.interval.high - found.interval.low) / 2 for found in parts_left_out.values())
    print(
        f"{seen} of {len(parts_left_out)} parts make a difference that can be seen; the widest interval is ±{widest:.2f}"
    )

# %% [markdown]
# A triangle is a difference whose interval leaves out zero; the printed lines say the same in words. These intervals are not
# corrected for their number. An interval that holds zero does not say that a part is useless: with few seeds, a loss within the
# interval goes unseen. `warp_only` and `warp_minmax` contain the spectrum warp, so what they gain is not the gain of the
# adversarial training alone.
#
# **Recap**
# - Distances and scores without labels tell warps apart; they do not prove a gain.
# - A method with trained warps has other parts, too, and its gain belongs to all of them.
# - The proof is a score with held-out labels, on seeds that were not used to choose anything.
#
# ## 4 · The museum of published mistakes (14 minutes)
#
# Each of these ran in a published program, raised no error, and made a warp useless or worse. None stands out in the losses
# of adversarial training, which go up and down anyway. Each is shown by one number, and a test holds that number (`tests/core/test_warps.py`). What stands below is our
# reconstruction.
#
# **What do you expect?** Read each heading, and guess which number would have given the mistake away.
#
# ### A kernel with its peak in a corner
#
# A displacement field must be smooth, so it is convolved with a Gaussian. Count the distance from the *corner* of the
# kernel and forget to divide by the sum, and the field comes out *shifted* and about 83 times too large. The dot
# marks where the point was.


# %%
def corner_kernel(sigma=3.08, length=13):
    """One axis of a Gaussian counted from its end; in 3-D the weights sum to about 83, as the published ones did."""
    return torch.exp(-0.5 * (torch.arange(length) / sigma) ** 2)


def spread_out(point, kernel):
    """Convolve (1, 1, n, n, n) along each axis by a kernel of odd length."""
    for axis in (2, 3, 4):
        shape = [1] * 5
        shape[axis] = len(kernel)
        padding = [len(kernel) // 2 if i == axis else 0 for i in (2, 3, 4)]
        point = F.conv3d(point, kernel.view(shape), padding=padding)
    return point


point = torch.zeros(1, 1, 33, 33, 33)
point[0, 0, 16, 16, 16] = 1
blurred = {"ours": spread_out(point, gaussian_kernel(2.0)), "corner": spread_out(point, corner_kernel())}

# %%
total = {name: float(x.sum()) for name, x in blurred.items()}
peak = {name: float((torch.stack(torch.where(x[0, 0] == x.max()))[:, 0] - 16.0).norm()) for name, x in blurred.items()}
fig, axes = plt.subplots(1, 2, figsize=(5.4, 2.9), layout="constrained")
for ax, (name, x) in zip(axes, blurred.items(), strict=True):
    ax.imshow(x[0, 0].amax(0), cmap="magma")
    ax.plot(16, 16, "o", color="#6FD6FF", ms=4)
    ax.set(xticks=[], yticks=[], title=f"{name}: sum {total[name]:.1f}, peak off by {peak[name]:.0f} voxels")
lesson.figure(fig, "lesson_kernel")
lesson.checkpoint("sum of the weights of the corner kernel", total["corner"])

# %% [markdown]
# ### A decoder that is born anew at every step
#
# If a layer is created *inside* `forward`, it has fresh random weights each time, and the optimiser holds a layer
# that is never used again. Everything runs, and gives a deformation, but nothing is ever learnt. A task whose answer is known
# shows it: move every subtomogram by half a voxel along x. Watch the loss.


# %%
class Forgetful(DeformationWarp):
    def coarse_field(self, x, generator=None):
        self.last = nn.Conv3d(16, 3, 3, padding=1)  # the mistake
        return super().coarse_field(x, generator)


def learn(module, steps=60):
    """Loss of a deformation warp that is asked for a shift of (0.5, 0, 0) voxels."""
    wanted = torch.tensor([0.5, 0, 0]).view(1, 3, 1, 1, 1)
    optimiser, g, curve = torch.optim.Adam(module.parameters(), lr=1e-2), run.generator("learn"), []
    for _ in range(steps):
        loss = (module.coarse_field(few[:8], g) - wanted).square().mean()
        update(optimiser, loss)
        curve.append(loss.item())
    return curve


# %%
with torch.random.fork_rng(devices=[]):
    torch.manual_seed(run.params.seed)
    curves = {"persistent (ours)": learn(DeformationWarp()), "created in forward": learn(Forgetful())}
fig, ax = plt.subplots(figsize=(5, 2.6), layout="constrained")
for (name, curve), line in zip(curves.items(), ("-", "--"), strict=True):
    ax.semilogy(curve, line, label=name)
ax.set(xlabel="step", ylabel="squared error (voxels²)", title="Learning to shift by half a voxel")
ax.legend(loc="center right")
lesson.figure(fig, "lesson_decoder")
ratio = {name: sum(curve[-10:]) / sum(curve[:10]) for name, curve in curves.items()}
for name, value in ratio.items():
    print(f"{name}: the error of the last ten steps is {value:.0%} of that of the first ten")

# %% [markdown]
# ### An activation before the tanh
#
# A LeakyReLU just before the tanh shrinks every negative number to a fifth. The warp then brightens more than it
# darkens, on average and before it has learnt anything, and has to fight that bias. With a linear layer both signs
# are equally strong.

# %%
h = torch.randn(100_000, generator=generator)
noise = {"linear": 0.8 * torch.tanh(h), "LeakyReLU": 0.8 * torch.tanh(F.leaky_relu(h, 0.2))}
fig, ax = plt.subplots(figsize=(5, 2.6), layout="constrained")
for (name, x), line in zip(noise.items(), ("-", "--"), strict=True):
    label = f"{name}: mean {float(x.mean()):+.2f}"
    ax.hist(x.numpy(), bins=81, range=(-0.8, 0.8), histtype="step", ls=line, label=label)
ax.set(xlabel="noise added (standard deviations)", ylabel="voxels", title="What an untrained noise warp adds")
ax.legend()
lesson.figure(fig, "lesson_activation")
for name, x in noise.items():
    print(
        f"{name}: {float((x < 0).float().mean()):.0%} of the voxels are darkened, on average by {float(-x[x < 0].mean()):.2f}"
    )

# %% [markdown]
# ### Exercise 3 · One assertion for each mistake
#
# The three mistakes ran unnoticed because nobody asserted anything. Write three functions that pass for sound code and
# raise an AssertionError for the broken one: `sound_kernel(kernel)` for a 1-D kernel of odd length, `sound_noise(added)`
# for what a noise warp adds before it has learned anything, and `sound_layers(module, x)` for a module with a method
# `forward` that should keep its parameters from call to call.

# %% tags=["given"]
good_kernel, sum_only = gaussian_kernel(2.0), gaussian_kernel(2.0).roll(-6)
corner_only = 83 * good_kernel
even_noise = 0.8 * torch.tanh(torch.randn(100_000, generator=torch.Generator().manual_seed(0)))
biased_noise = 0.8 * torch.tanh(F.leaky_relu(torch.randn(100_000, generator=torch.Generator().manual_seed(0)), 0.2))


class Keeps(nn.Module):
    def __init__(self):
        super().__init__()
        self.last = nn.Linear(2, 2)

    def forward(self, x):
        return self.last(x)


class Forgets(Keeps):
    def forward(self, x):
        self.last = nn.Linear(2, 2)
        return self.last(x)


# %% tags=["exercise"]
def sound_kernel(kernel):
    return None


def sound_noise(added):
    return None


def sound_layers(module, x):
    return None


# %% tags=["solution", "hide-cell"]
def sound_kernel(kernel):
    assert abs(float(kernel.sum()) - 1) < 1e-3, "the weights must sum to 1"
    assert int(kernel.argmax()) == len(kernel) // 2, "the peak must be in the middle"


def sound_noise(added):
    assert abs(float(added.mean())) < 0.01, "brightening and darkening must cancel on average"


def sound_layers(module, x):
    module(x)
    before = [id(parameter) for parameter in module.parameters()]
    module(x)
    assert before == [id(parameter) for parameter in module.parameters()], "a layer was made anew"


# %% [raw] tags=["mistakes", "remove-cell"]
# name = "sound_code"
# cases = ['[raises(sound_kernel, one) for one in (good_kernel, corner_only, sum_only)]', '[raises(sound_noise, one) for one in (even_noise, biased_noise)]', '[raises(sound_layers, one(), torch.ones(2)) for one in (Keeps, Forgets)]']
# wrong = ['''
# def sound_kernel(kernel):
#     assert False
#
#
# def sound_noise(added):
#     assert False
#
#
# def sound_layers(module, x):
#     assert False
# ''']
#
# [[mistake]]
# code = '''
# def sound_kernel(kernel):
#     assert abs(float(kernel.sum()) - 1) < 1e-3
#
#
# def sound_noise(added):
#     assert abs(float(added.mean())) < 0.01
#
#
# def sound_layers(module, x):
#     module(x)
#     before = [id(parameter) for parameter in module.parameters()]
#     module(x)
#     assert before == [id(parameter) for parameter in module.parameters()]
# '''
# hint = 'a kernel whose weights sum to 1 may still peak in a corner, and moves everything.'
#
# [[mistake]]
# code = '''
# def sound_kernel(kernel):
#     assert int(kernel.argmax()) == len(kernel) // 2
#
#
# def sound_noise(added):
#     assert abs(float(added.mean())) < 0.01
#
#
# def sound_layers(module, x):
#     module(x)
#     before = [id(parameter) for parameter in module.parameters()]
#     module(x)
#     assert before == [id(parameter) for parameter in module.parameters()]
# '''
# hint = 'a kernel with its peak in the middle may still make everything larger: look at the sum of the weights.'
#
# [[mistake]]
# code = '''
# def sound_kernel(kernel):
#     assert abs(float(kernel.sum()) - 1) < 1e-3
#     assert int(kernel.argmax()) == len(kernel) // 2
#
#
# def sound_noise(added):
#     assert float(added.abs().max()) <= 0.8
#
#
# def sound_layers(module, x):
#     module(x)
#     before = [id(parameter) for parameter in module.parameters()]
#     module(x)
#     assert before == [id(parameter) for parameter in module.parameters()]
# '''
# hint = 'the biased noise keeps its bound of 0.8, too. What does it do on average?'
#
# [[mistake]]
# code = '''
# def sound_kernel(kernel):
#     assert abs(float(kernel.sum()) - 1) < 1e-3
#     assert int(kernel.argmax()) == len(kernel) // 2
#
#
# def sound_noise(added):
#     assert abs(float(added.mean())) < 0.01
#
#
# def sound_layers(module, x):
#     assert module(x).isfinite().all()
# '''
# hint = 'a layer that is made anew gives finite numbers. Are its parameters the same objects after a second call?'

# %%
lesson.check("sound_code")

# %% tags=["solution", "remove-cell"]
assert not lesson.unsolved(), lesson.unsolved()

# %% tags=["hide-input"] jupyter={"source_hidden": true}
assert abs(total["ours"] - 1) < 1e-4 and peak["ours"] == 0
assert 75 < total["corner"] < 90 and peak["corner"] > 3
assert ratio["persistent (ours)"] < 0.3 and ratio["created in forward"] > 0.7
assert abs(float(noise["linear"].mean())) < 0.01 and float(noise["LeakyReLU"].mean()) > 0.1
if p.name != "smoke":
    assert late["min-max"] > late["realism"], "min-max training must raise the task loss more than realism training"
    assert distance["spectrum alone"]["bands"] < distance["source"]["bands"], "the spectrum warp must lead nearer"
run.save_table(table, "a_distance")
run.report(
    a_distance_bands_spectrum=[distance[n]["bands"] for n in ("source", "spectrum alone")],
    a_distance_bands_game=by_training,
)
manifest = run.finish()

# %% [markdown]
# **Recap**
# - None of the mistakes raised an error.
# - One number shows each of them.
# - An assertion keeps it from coming back.
#
# ## What to take away
#
# - Adversarial training of warps can lead away from the target. Watch its effect by a number that it does not optimise.
# - The bound of a warp is what keeps its label true. Both ways of training use much of it; the printed share says how much.
# - What is random must persist where it should learn. A number that should have a known value catches what adversarial losses hide.
#
# ## Questions to think about
#
# 1. Realism training ends with a discriminator that wins. What could you change: the warps' bounds, the
#    discriminator, or the number of steps of each?
# 2. Min-max training raises the loss of *this* classifier. Would the same warps hurt a classifier that is trained on them?
# 3. Which of the three mistakes would a comparison of scores on held-out labels have found, and after how many runs?
