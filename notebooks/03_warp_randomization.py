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
# # 03 · Warp randomization
#
# If real cubes have no labels, can labelled cubes be made to look real, and varied enough that a classifier stops
# caring?
#
# **What you will learn**
# - four warps (noise, deformation, optics, spectrum), each with a bound that is checked, not promised;
# - to build the strongest of them, the spectrum warp, in five lines from two averages;
# - what two games can teach a warp: to fool a discriminator, or to hurt the classifier;
# - three mistakes that ran unnoticed in published code, and the number that shows each of them.
#
# **What you need**: notebook 02 helps, but this one runs alone. Everything here is simulated, the target too. No answer
# key is opened: every number about the target is read without labels.
#
# | profile | time | memory |
# |---|---|---|
# | smoke | 17 s | 630 MB |
# | laptop | 2.0 min | 1660 MB |

# %%
import copy
import math

import matplotlib.pyplot as plt
import torch
import torch.nn.functional as F
from torch import nn

from cryoshift_core import evaluation, explore, figures, losses, models, runs, scenarios, training, warp
from cryoshift_core.scenarios import Request

# %% tags=["parameters"]
profile: str = "laptop"  # how much work: smoke, laptop, gpu or paper
scenario: str = "in_situ_1"  # the target domain, a name from scenarios.SCENARIOS
amount: float = 1.0  # how much of each warp the single pictures show, 0 (nothing) to 1 (all)
seed: int = 0  # decides every random draw
device: str = "auto"  # auto, cpu, cuda or mps
out_dir: str = ""  # where to write; empty: runs/<profile>/03_warp_randomization

# %%
run = runs.begin("03_warp_randomization", globals())
figures.use_style()
p = run.profile
source = scenarios.load_or_make(Request.of(p, "source", "source", run.params.seed), run.data_folder)
validation = scenarios.load_or_make(Request.of(p, "source", "validation", run.params.seed), run.data_folder)
target = scenarios.load_or_make(Request.of(p, scenario, "train", run.params.seed), run.data_folder)[0]
measured_s, held_s = source.x[::2][:256], source.x[1::2][:256]
measured_t, held_t = target.x[::2][:256], target.x[1::2][:256]
print(f"{len(source)} labelled source cubes, {len(target)} unlabelled target cubes of {p.box}^3 voxels")

# %% [markdown]
# From here on, whatever is *measured* on one half of the cubes is *judged* on the other.
#
# ## What is a warp?
#
# A warp is a function from cube to cube with three promises:
#
# - **it is bounded**: a ribosome must still be a ribosome afterwards, or its label would be a lie;
# - **it has an amount** from 0 (nothing happens) to 1, so that it can be watched, and turned off;
# - **it draws**: the same cube comes out differently each time.
#
# The noise and the deformation warp are small networks, here with random weights, as at the start of a training.

# %%
generator = run.generator("warps")
with torch.random.fork_rng(devices=[]):
    torch.manual_seed(run.params.seed)
    warps = {"noise": warp.NoiseWarp(), "deformation": warp.DeformationWarp(), "optics": warp.OpticsWarp()}
clearest = source.snr.argsort(descending=True)[:1]
few = torch.cat([source.x[clearest], held_s[:32]])  # the clearest cube is the one that is shown


@torch.no_grad()
def picture(name):
    """A warp's effect on a clear cube, and on the mean spectrum of 33."""
    after = warps[name](few, run.params.amount, generator)
    fig = figures.before_after(few, after, f"{name} warp alone, amount {run.params.amount:g}", p.pixel_size)
    run.save_figure(fig, f"warp_{name}")
    plt.show()


# %% [markdown]
# ### Noise: at most 0.8 standard deviations per voxel
#
# A network looks at the cube and at random numbers, and adds something between -0.8 and 0.8 to each voxel. Look at the
# third image, whose grey scale is stretched. It is structured: an untrained network adds a pattern, not hiss.

# %%
picture("noise")

# %% [markdown]
# ### Deformation: at most one voxel
#
# A smooth displacement field moves the density, as another conformation or a wrong pixel size would. The arrows are the
# field in the central slice, ten times as long as it is; without that you would not see them.

# %%
picture("deformation")
with torch.no_grad():
    field = warps["deformation"].field(few[:1], generator)[0]
grid = torch.arange(1, p.box, 4)
dx, dy = field[0, p.box // 2][grid][:, grid], field[1, p.box // 2][grid][:, grid]
fig, ax = plt.subplots(figsize=(3.4, 3.4), layout="constrained")
figures.show(ax, figures.middle(few), "displacement, drawn ten times too long")
ax.quiver(grid, grid, dx, dy, color="#DD8452", angles="xy", scale_units="xy", scale=0.1, width=0.012)
run.save_figure(fig, "displacement")
plt.show()

# %% [markdown]
# ### Optics: another microscope
#
# A wider missing wedge, a rippled transfer, another contrast and a background gradient, all drawn from fixed ranges.
# Nothing is learnt. The published recipe has no such warp, and neither has `cryoshift_reference`: it waits here for
# your own method.

# %%
picture("optics")

# %% [markdown]
# ### Do the bounds hold?
#
# Whatever the weights: here they are random and far larger than a training makes them, and the cubes thirty times
# brighter. Both warps end in a tanh, whose largest value is 1; and the smoothing of the field has weights that sum to
# 1.

# %%
wild = {name: copy.deepcopy(warps[name]) for name in ("noise", "deformation")}
with torch.no_grad():
    for parameter in [w for module in wild.values() for w in module.parameters()]:
        parameter.normal_(0, 3, generator=generator)
    largest_delta = float(wild["noise"].delta(30 * few, generator).abs().max())
    largest_move = float(wild["deformation"].field(30 * few, generator).norm(dim=1).max())
print(f"largest change {largest_delta:.3f} of 0.8 s.d., largest displacement {largest_move:.3f} of 1 voxel")
assert largest_delta <= 0.8 + 1e-6 and largest_move <= 1 + 1e-6
assert all(torch.equal(module(few[:1], amount=0.0), few[:1]) for module in warps.values()), "amount 0 is the identity"

# %% [markdown]
# ## Spectrum: the warp that knows what is missing
#
# Notebook 02 found the gap in the power spectrum. No label is needed to measure the mean power of both domains, P_s
# and P_t, at every frequency. Now ask of each frequency:
#
# - has the target **more** power than the source? Then noise is missing: *add* P_t - g² P_s of it, in just this colour;
# - has it **less**? Then the source must be *turned down* there, by g = sqrt(P_t / P_s).
#
# One thing no spectrum can tell: whether more power means more noise or a stronger signal. But particles stand in the
# centre of their cubes, and noise does not: the *average* cube of a domain shows the average particle, and the ratio of
# the two averages is the gain *a* of the signal. That is all.

# %%
P_s, P_t = warp.mean_spectrum(measured_s), warp.mean_spectrum(measured_t)
a = torch.tensor(warp.signal_gain(measured_s, measured_t))
g = torch.minimum(a, (P_t / P_s).sqrt())
missing = (P_t - g**2 * P_s).clamp_min(0)
white = torch.fft.rfftn(torch.randn(held_s.shape, generator=generator), dim=(2, 3, 4))
by_hand = torch.fft.irfftn(g * torch.fft.rfftn(held_s, dim=(2, 3, 4)) + missing.sqrt() * white, s=(p.box,) * 3)
print(f"signal gain a = {a:.2f}; {float((g < a).float().mean()):.0%} of the frequencies are turned down further")

# %% [markdown]
# These are maps on the half of Fourier space that a real cube needs. Here they are in the kx-kz plane, with the beam
# upwards and the lowest frequencies in the middle: bright is strong, and the first four share one scale. The
# **missing wedge** is the dark double cone along kz. Look for three things: whether the third map is the second;
# where noise is added; and where the gain is below its ceiling (in the black regions there is nothing to scale, and
# yellow means nothing).


# %%
def plane(half):
    """kx-kz plane of a map (Z, Y, X // 2 + 1), DC in the middle, the other half filled in by symmetry."""
    right = torch.fft.fftshift(half[:, 0], dim=0)
    left = right.flip(0, 1)[:, :-1]
    return torch.cat([left.roll(1, 0) if p.box % 2 == 0 else left, right], dim=1)


maps = {"source": P_s, "target": P_t, "warped by hand": warp.mean_spectrum(by_hand)}
limits = {"vmin": -0.7, "vmax": 2.0, "cmap": "magma"}
fig, axes = plt.subplots(1, 5, figsize=(11, 2.6), layout="constrained")
for ax, (name, power) in zip(axes, maps.items(), strict=False):
    image = ax.imshow(plane(power).log10(), **limits)
    ax.set_title(name)
axes[3].imshow(plane(missing.clamp_min(1e-3)).log10(), **limits)
axes[3].set_title("noise added")
fig.colorbar(image, ax=axes[3], label="log10 power")
gain_image = axes[4].imshow(plane(g), vmin=0, vmax=float(a), cmap="viridis")
axes[4].set_title("signal gain g")
fig.colorbar(gain_image, ax=axes[4])
for ax in axes:
    ax.set(xticks=[], yticks=[], xlabel="kx")
axes[0].set_ylabel("kz (beam)")
run.save_figure(fig, "spectrum_planes")
plt.show()

# %% [markdown]
# For `in_situ_1`, noise is added at low frequencies (neighbours, structural noise), and the rim is turned down,
# because those targets were low-pass filtered. Now the radial curves, on cubes that took no part in the measurement.
# If the idea is right, green lies on orange.

# %%
fig = figures.spectra({"source": held_s, "target": held_t, "warped": by_hand}, p.pixel_size)
run.save_figure(fig, "spectra_by_hand")
plt.show()
curve = {name: figures.radial_spectrum(x)[1] for name, x in (("s", held_s), ("t", held_t), ("w", by_hand))}
off_before, off_after = (float(abs(torch.from_numpy(curve[x] / curve["t"]).log()).mean()) for x in "sw")
print(
    f"mean distance to the target's curve: a factor of {math.exp(off_before):.2f} before, {math.exp(off_after):.2f} after"
)
if p.name != "smoke":
    assert off_after < math.log(1.15), "the warped curve must meet the target's within 15 % on average"

# %% [markdown]
# `SpectrumWarp` is this, and three things more. Each cube follows *one drawn target cube's* deviation from the mean,
# for target cubes differ among themselves; the gain *a* varies by up to a factor of 1.3 either way; and the realism
# game below may bend P_t by up to a factor of 2. Note what is *not* done: the mean source spectrum is used, not the
# cube's own. Otherwise every molecule would be scaled to the same brightness, and a mark of its class would be gone.

# %%
warps["spectrum"] = warp.SpectrumWarp.estimate(measured_s, measured_t)
picture("spectrum")

# %% [markdown]
# ## Your turn: which warp, and how much of it
#
# In JupyterLab these are sliders; in a static copy, each row moves one of them. Left: the cube in the xy plane.
# Right: in the xz plane, where the wedge is. At which amount would you no longer put your name under the label?


# %%
typical = source.snr.argsort()[[int(0.7 * len(source))]]


@torch.no_grad()
def draw(axes, which, amount):
    after = warps[which](source.x[typical], amount, torch.Generator().manual_seed(seed))
    figures.show(axes[0], after[0, 0, p.box // 2], f"{which}, xy", spread=4)
    figures.show(axes[1], after[0, 0][:, p.box // 2], f"{amount:g}, xz", spread=4)


sliders = {"which": ("which warp", list(warps)), "amount": ("amount", [0.0, 0.25, 0.5, 0.75, 1.0])}
fig = explore.explore(draw, sliders, panels=2, start={"which": "spectrum", "amount": 1.0}, size=2.4)
if fig:
    run.save_figure(fig, "sliders")
    plt.show()

# %% [markdown]
# ## A game for the warps
#
# The spectrum warp is computed; the others can be *trained*, without labels. In the **realism game** an image
# discriminator looks at target cubes and warped cubes and says which is which; the warps are trained to be taken for
# target. Meanwhile the classifier learns from originals and warped copies. That is `warp_only`: no adversary touches
# its features.
#
# Two lines help to read the curves. A discriminator that can only guess has a loss of 2 ln 2 = 1.39 (dotted); a warp
# that is taken for target half of the time has ln 2 = 0.69. Far below the first line, the warps have lost.

# %%
fit = training.fit("warp_only", source, target, validation=validation, seed=run.params.seed, **run.training)
fig = figures.learning_curves({"warp_only": fit.history}, ["game_discriminator", "game_warps", "source_val_acc"])
for ax, level in zip(fig.axes, (2 * math.log(2), math.log(2), 1 / len(p.classes)), strict=True):
    ax.axhline(level, ls=":", color="0.5")
run.save_figure(fig, "realism_game")
plt.show()

# %% [markdown]
# ### What has the game changed?
#
# Same weights at the start, same random numbers: once untrained, once as the game left them. Look at the radial
# curves, and at what the noise warp adds.

# %%
names = ("deformation", "spectrum", "noise")
with torch.random.fork_rng(devices=[]), torch.no_grad():
    torch.manual_seed(run.params.seed)
    untrained = warp.Warps(names, measured_s, measured_t, run.generator("estimate")).eval()
    out = {}
    for name, chain in (("untrained", untrained), ("trained", fit.warps)):
        out[name] = chain(held_s, generator=run.generator("compare"))
fig, ax = plt.subplots(figsize=(5.6, 3.0), layout="constrained")
for name, x in {"source": held_s, "target": held_t, **out}.items():
    k, power = figures.radial_spectrum(x)
    colour = figures.COLOURS["warped"] if name == "trained" else figures.COLOURS.get(name, "#9BD0A6")
    ax.semilogy(k / p.pixel_size, power, label=f"warped, {name}" if name in out else name, color=colour)
ax.set(xlabel="spatial frequency (1/A)", ylabel="mean power per voxel", title="All three warps in turn")
ax.legend(fontsize=8)
run.save_figure(fig, "spectra_game")
plt.show()

# %%
fig, axes = plt.subplots(2, 4, figsize=(8, 4.1), layout="constrained")
with torch.no_grad():
    for row, (name, chain) in enumerate((("untrained", untrained), ("trained", fit.warps))):
        delta = chain.steps["noise"].delta(few[:1], run.generator("delta"))
        move = chain.steps["deformation"].field(few[:1], run.generator("delta"))[0].norm(dim=0)
        after = chain(few[:1], generator=run.generator("delta"))
        figures.show(axes[row, 0], figures.middle(few[:1]), "source cube", spread=4)
        figures.show(axes[row, 1], figures.middle(delta), f"noise added, +-{float(delta.abs().max()):.2f}", spread=0.4)
        figures.show(axes[row, 2], move[p.box // 2] - 0.5, f"moved by {float(move.mean()):.2f} voxels", spread=0.5)
        figures.show(axes[row, 3], figures.middle(after), "all three", spread=4)
        axes[row, 0].set_ylabel(name)
run.save_figure(fig, "trained_and_untrained")
plt.show()

# %% [markdown]
# ## Are warped cubes nearer to the target? Ask without labels
#
# The **proxy A-distance** of notebook 02: 0 if a linear rule cannot tell warped source from target, 2 if it always
# can. Left, the rule sees each cube's power in eight bands of frequency. Right, it sees the features of the
# classifier just trained. The bottom bar compares one half of the target with the other: the best that can be had.


# %%
@torch.no_grad()
def bands(x):
    """Log power of each cube in eight radial bands, (N, 8)."""
    windows = warp.radial_bands(tuple(x.shape[2:]), 8)
    return torch.cat([torch.einsum("nzyx,bzyx->nb", warp.power_spectrum(q), windows) for q in x.split(64)]).log()


@torch.no_grad()
def features(x):
    return torch.cat([fit.model.features(q) for q in x.split(64)])


with torch.no_grad():
    candidates = {"source": held_s}
    candidates |= {f"{name} alone": module(held_s, generator=generator) for name, module in warps.items()}
candidates |= {f"all three, {name}": x for name, x in out.items()} | {"target itself": measured_t}
table = []
for name, x in candidates.items():
    row = {"what": name}
    for view, function in (("bands", bands), ("features", features)):
        row[view] = evaluation.a_distance(function(x), function(held_t), seed=run.params.seed)
    table.append(row)
run.save_table(table, "a_distance")

# %%
fig, axes = plt.subplots(1, 2, figsize=(7.6, 3.0), sharey=True, layout="constrained")
for ax, view, title in zip(axes, ("bands", "features"), ("power in eight bands", "features of warp_only"), strict=True):
    ax.barh([row["what"] for row in table], [row[view] for row in table], color=figures.COLOURS["warped"])
    ax.set(xlim=(0, 2), title=title, xlabel="proxy A-distance to the target")
axes[0].invert_yaxis()
run.save_figure(fig, "a_distance")
plt.show()
distance = {row["what"]: row for row in table}
moved = [distance[f"all three, {name}"]["bands"] for name in out]
print(f"all three warps, by bands: {moved[0]:.2f} untrained, {moved[1]:.2f} trained by the game")

# %% [markdown]
# How to read it:
#
# - The **spectrum warp alone** cuts the left bar; the others cannot, for they know nothing of the target. It does not
#   reach the bottom bar: cubes differ from one another in ways that a mean spectrum does not hold.
# - **Has the game helped?** Compare the two bars of all three warps. In our runs at the laptop profile it did *not*:
#   trained warps were easier to tell from the target, by bands, than untrained ones. A likely
#   reason stands in the learning curves: the spectra agree from the start, so that the discriminator hardly leaves the
#   dotted line, and warps that follow an undecided judge wander.
# - **No bar says whether a classifier gains.** A warp that erased the molecule could have a splendid A-distance, and a
#   warp that only adds variety may still help. That is measured in notebook 05.
#
# ## The other game: min-max
#
# DeceptionNet, the ancestor of these warps, plays differently. It never looks at the target: the warps *maximise* the
# classifier's loss within their bounds, the classifier minimises it, in turn. It prepares for the worst case instead
# of the likely one. `training.fit("warp_minmax", ...)` plays it in full; here are both games for some moves, from the
# same untrained warps against the classifier above, which stands still. The whole difference is in one line.


# %%
def play(game, moves, n=8):
    """Task loss on warped copies after each move; only the warps (and the discriminator) move."""
    g = run.generator("play")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(run.params.seed)
        chain, judge = copy.deepcopy(untrained), models.ImageDiscriminator()
    step = torch.optim.Adam(chain.parameters(), lr=2e-3)
    step_judge = torch.optim.Adam(judge.parameters(), lr=2e-3)
    curve = []
    for _ in range(moves):
        i, j = (torch.randint(len(d), (n,), generator=g) for d in (source, target))
        warped = chain(source.x[i], generator=g)
        caught = losses.realism(judge(target.x[j]), True) + losses.realism(judge(warped.detach()), False)
        step_judge.zero_grad()
        caught.backward()
        step_judge.step()
        task = F.cross_entropy(fit.model(warped), source.y[i])
        loss = -task if game == "min-max" else losses.realism(judge(warped), True)
        step.zero_grad()
        loss.backward()
        step.step()
        curve.append(task.item())
    return chain, curve


# %%
moves = 4 if p.name == "smoke" else 40
games = {game: play(game, moves) for game in ("realism", "min-max")}
fig, axes = plt.subplots(1, 3, figsize=(9, 2.7), layout="constrained", width_ratios=(1.6, 1, 1))
for game, (_, curve) in games.items():
    window = max(1, moves // 10)
    mean = torch.tensor(curve).unfold(0, window, 1).mean(1)
    axes[0].plot(torch.arange(len(mean)) + window, mean, label=game)
axes[0].set(xlabel="move", ylabel="task loss on warped cubes", title="The classifier stands still")
axes[0].legend()
with torch.no_grad():
    for ax, (game, (chain, _)) in zip(axes[1:], games.items(), strict=True):
        figures.show(ax, figures.middle(chain(few[:1], generator=run.generator("delta"))), f"after {game}", spread=4)
run.save_figure(fig, "two_games")
plt.show()
late = {game: sum(curve[-moves // 3 :]) / len(curve[-moves // 3 :]) for game, (_, curve) in games.items()}
print(", ".join(f"{game}: task loss {loss:.2f} at the end" for game, loss in late.items()))
if p.name != "smoke":
    assert late["min-max"] > late["realism"], "who plays against the task hurts it more than who plays for realism"

# %% [markdown]
# Neither is right by itself. Realism needs a target, and moves where the target is. Min-max needs none, and
# spends its bound on what hurts, wanted or not; the bound is all that keeps it from erasing the molecule.
#
# ## Three mistakes to learn from
#
# Each of these ran in a published program, raised no error, and made a warp useless or worse. None shows in a loss
# curve. Each is shown by one number, and a test holds that number (`tests/test_warp.py`). What stands below is our
# reconstruction.
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
        point = F.conv3d(point, kernel.view(shape), padding=[len(kernel) // 2 if i == axis else 0 for i in (2, 3, 4)])
    return point


point = torch.zeros(1, 1, 33, 33, 33)
point[0, 0, 16, 16, 16] = 1
kernels = {"ours": warp.gaussian_kernel(2.0), "corner": corner_kernel()}
blurred = {name: spread_out(point, kernel)[0, 0] for name, kernel in kernels.items()}
total = {name: float(x.sum()) for name, x in blurred.items()}
peak = {
    name: float((torch.stack(torch.unravel_index(x.argmax(), x.shape)) - 16.0).norm()) for name, x in blurred.items()
}

# %%
fig, axes = plt.subplots(1, 2, figsize=(5.4, 2.9), layout="constrained")
for ax, (name, x) in zip(axes, blurred.items(), strict=True):
    ax.imshow(x.amax(0), cmap="magma")
    ax.plot(16, 16, "o", color="#6FD6FF", ms=4)
    ax.set(xticks=[], yticks=[], title=f"{name}: sum {total[name]:.1f}, peak off by {peak[name]:.0f} voxels")
run.save_figure(fig, "lesson_kernel")
plt.show()
assert abs(total["ours"] - 1) < 1e-4 and peak["ours"] == 0
assert 75 < total["corner"] < 90 and peak["corner"] > 3

# %% [markdown]
# ### A decoder that is born anew at every step
#
# If a layer is created *inside* `forward`, it has fresh random weights each time, and the optimiser holds a layer
# that is never used again. Everything runs, and gives a deformation, but nothing is ever learnt. Task: move every
# cube by half a voxel along x. Watch the loss.


# %%
class Forgetful(warp.DeformationWarp):
    def coarse_field(self, x, generator=None):
        self.last = nn.Conv3d(16, 3, 3, padding=1)  # the mistake
        return super().coarse_field(x, generator)


def learn(module, steps=60):
    """Loss of a deformation warp that is asked for a shift of (0.5, 0, 0) voxels."""
    wanted = torch.tensor([0.5, 0, 0]).view(1, 3, 1, 1, 1)
    optimiser, g, curve = torch.optim.Adam(module.parameters(), lr=1e-2), run.generator("learn"), []
    for _ in range(steps):
        loss = (module.coarse_field(few[:8], g) - wanted).square().mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        curve.append(loss.item())
    return curve


with torch.random.fork_rng(devices=[]):
    torch.manual_seed(run.params.seed)
    curves = {"persistent (ours)": learn(warp.DeformationWarp()), "created in forward": learn(Forgetful())}
fig, ax = plt.subplots(figsize=(5, 2.6), layout="constrained")
for name, curve in curves.items():
    ax.semilogy(curve, label=name)
ax.set(xlabel="step", ylabel="squared error (voxels²)", title="Learning to shift by half a voxel")
ax.legend(loc="center right")
run.save_figure(fig, "lesson_decoder")
plt.show()
ratio = {name: sum(curve[-10:]) / sum(curve[:10]) for name, curve in curves.items()}
print(", ".join(f"{name}: error falls to {value:.0%}" for name, value in ratio.items()))
assert ratio["persistent (ours)"] < 0.3 and ratio["created in forward"] > 0.7

# %% [markdown]
# ### An activation before the tanh
#
# A LeakyReLU just before the tanh shrinks every negative number to a fifth. The warp then brightens more than it
# darkens, on average and before it has learnt anything, and has to fight that bias. With a linear layer both signs
# are equally near.

# %%
h = torch.randn(100_000, generator=generator)
added = {"linear": 0.8 * torch.tanh(h), "LeakyReLU": 0.8 * torch.tanh(F.leaky_relu(h, 0.2))}
fig, ax = plt.subplots(figsize=(5, 2.6), layout="constrained")
for name, x in added.items():
    line = ax.hist(x.numpy(), bins=81, range=(-0.8, 0.8), histtype="step", label=f"{name}: mean {float(x.mean()):+.2f}")
ax.set(xlabel="noise added (standard deviations)", ylabel="voxels", title="What an untrained noise warp adds")
ax.legend()
run.save_figure(fig, "lesson_activation")
plt.show()
assert abs(float(added["linear"].mean())) < 0.01 and float(added["LeakyReLU"].mean()) > 0.1

# %%
if p.name != "smoke":
    assert distance["spectrum alone"]["bands"] < distance["source"]["bands"] - 0.5, "the spectrum warp must close a gap"
run.report(
    spectrum_off_before=math.exp(off_before),
    spectrum_off_after=math.exp(off_after),
    a_distance_bands_spectrum=[distance[n]["bands"] for n in ("source", "spectrum alone")],
    a_distance_bands_game=moved,
    source_val_accuracy=fit.history["source_val_acc"][-1],
)
run.finish()

# %% [markdown]
# ## What to take away
#
# - A warp is a *bounded* change. Bounds belong into the last layer, not into hope.
# - The strongest warp is not learnt at all: two mean spectra and one average particle say which noise is missing, and
#   where. It needs the target's cubes, and none of its labels.
# - A realism game can only teach what its discriminator sees; where the spectrum warp has been before, that was little.
#   A min-max game prepares for the worst. Watch a game's effect by a number that its players do not optimise.
# - What is random must persist where it should learn. A number catches what a loss curve hides.
#
# ## Questions to think about
#
# 1. Where the target is weaker than the source, the spectrum warp turns signal *and* noise down. What would you do
#    with a target that has the same signal and less noise?
# 2. Neighbours of the particle raise the target's power at low frequency. What does the spectrum warp make of them?
# 3. A target in which half of the cubes hold no particle at all: which of the two averages would mislead, and how?
