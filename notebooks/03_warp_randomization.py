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
# Notebook 02 showed a classifier that is right on the source and wrong on the target. Experimental subtomograms have no labels.
# Can labelled ones be made to look experimental, and varied enough that the classifier becomes right?
#
# **What you will learn**
# - seven warps (shift, crowding, deformation, optics, spectrum, histogram, noise), what each stands for, and the bound
#   that each one keeps;
# - to build the strongest of them, the spectrum warp, from averages alone: which noise is missing, and how much of the
#   *signal* survives in the target;
# - what adversarial training does to a warp, and whether it helps;
# - three mistakes that ran unnoticed in published code, and the number that shows each of them.
#
# **What you need**: notebook 02 helps, but this one runs alone; about 60 minutes to read and try. Everything here is simulated,
# the target too. Words in links are explained in the [glossary](../docs/glossary.md). No held-out label is opened: every number about
# the target is read without labels. The one exception is said where it comes: scores that `make evidence` measured earlier,
# on other seeds.
#
# | profile | time | memory |
# |---|---|---|
# | smoke | 18 s | 690 MB |
# | laptop | 1.8 min | 2060 MB |

# %%
import copy
import math

import matplotlib.pyplot as plt
import torch
import torch.nn.functional as F
from torch import nn

from cryoshift_core import fourier, losses, metrics, models, selection
from cryoshift_core.application import pictures
from cryoshift_core.benchmark import jobs, runner, statistics
from cryoshift_core.benchmark.figures import forest
from cryoshift_core.course import exercises, explore, figures
from cryoshift_core.course.run import begin
from cryoshift_core.simulation.datasets import DatasetConfig, simulate_source, simulate_target
from cryoshift_core.support import runtime
from cryoshift_core.warps import (
    CrowdingWarp,
    DeformationWarp,
    HistogramWarp,
    NoiseWarp,
    OpticsWarp,
    ShiftWarp,
    SpectrumWarp,
    Warps,
    gaussian_kernel,
    mean_spectrum,
    shell_amplitude,
    signal_envelope,
    target_styled,
)

# %% tags=["parameters"]
profile: str = "laptop"  # how much work: smoke, laptop, gpu or paper
scenario: str = "in_situ_2"  # the target domain, a name from scenarios.SCENARIOS
amount: float = 1.0  # how much of each warp the single pictures show, 0 (nothing) to 1 (all)
methods: str = ""  # more methods to train and compare, by commas
steps: int = 0  # training steps of each fit; 0: the profile's
lr: float = 0.0  # peak learning rate; 0: the usual one
weights: str = ""  # other weights of loss terms, such as mada:0.3, by commas; empty: those of the methods
without: str = ""  # terms and warps to leave out, by commas
seed: int = 0  # decides every random draw
data_seed: int = -1  # of the simulated data; -1: the same as seed
device: str = "auto"  # auto, cpu, cuda or mps
out_dir: str = ""  # where to write; empty: runs/<profile>/03_warp_randomization

# %%
run = begin("03_warp_randomization", globals())
lesson = exercises.Lesson(run, globals())
pictures.use_style()
p = run.profile
source = simulate_source(DatasetConfig.of(p, "source", "source", run.data_seed), folder=run.data_folder)
validation = simulate_source(DatasetConfig.of(p, "source", "validation", run.data_seed), folder=run.data_folder)
target = simulate_target(DatasetConfig.of(p, scenario, "train", run.data_seed), folder=run.data_folder)
measured_s, held_s = source.x[::2][:256], source.x[1::2][:256]
measured_t, held_t = target.x[::2][:256], target.x[1::2][:256]
print(f"{len(source)} labelled source subtomograms, {len(target)} unlabelled target subtomograms of {p.box}^3 voxels")

# %% [markdown]
# We fit every quantity on half of the subtomograms and test it on the other half.
#
# ## 1 · What is a warp? (15 minutes)
#
# A [warp](../docs/glossary.md#warp) is a function from subtomogram to subtomogram with three promises:
#
# - **it is bounded**: a ribosome must still be a ribosome afterwards, or its label would be a lie;
# - **it has an amount** from 0 (nothing happens) to 1, so that it can be watched, and turned off;
# - **it draws**: the same subtomogram comes out differently each time.
#
# | warp | stands for | bound at amount 1 | where its numbers come from |
# |---|---|---|---|
# | shift | picking errors | a length in Å: half a voxel where nothing is known, 2 voxels here | the user |
# | crowding | neighbours | one other subtomogram, at least 0.4 box aside, up to 1.2 times its grey values | fixed range |
# | deformation | another conformation or pixel size | 1 voxel anywhere | random network; adversarial training may train it |
# | optics | some of what another microscope changes | wedge up to 25° wider, defocus 1-8 um, a frequency times at most 3, contrast e^±0.3, background slope of 0.5 s.d. | fixed ranges |
# | spectrum | *this* target's noise, blur and filters | gain within a factor 1.3 of what was measured | the target's subtomograms, without labels; realism training may bend it by up to 2 |
# | histogram | this target's clipping and non-linear filters | its grey values are those of a target subtomogram, in the subtomogram's own order | the target's subtomograms, without labels |
# | noise | whatever else | 0.8 s.d. per voxel | random network; adversarial training may train it |

# %%
generator = run.generator("warps")
with torch.random.fork_rng(devices=[]):
    torch.manual_seed(run.params.seed)
    warps = {"shift": ShiftWarp(2.0), "crowding": CrowdingWarp(), "deformation": DeformationWarp()}
    warps |= {"optics": OpticsWarp(p.voxel_size), "noise": NoiseWarp()}
clearest = [int(torch.where(source.y == k, source.snr, 0).argmax()) for k in range(3)]
others = source.snr.argsort(descending=True)[:29]
few = torch.cat([source.x[clearest], source.x[others]])  # the clearest cubes of three classes are shown
shown = [source.classes[k] for k in range(3)]


@torch.no_grad()
def picture(name):
    """A warp's effect on three clear cubes, and on the spectra of 32 such."""
    after = warps[name](few, run.params.amount, run.generator("picture"))
    title = f"{name} warp alone, amount {run.params.amount:g}"
    fig = figures.warp_sheet(few, after, title, shown, p.voxel_size)
    run.save_figure(fig, f"warp_{name}")
    plt.show()


# %% [markdown]
# ### How to read the pictures
#
# On the left, three molecules: before, after, and the difference, whose grey scale is stretched so that you can see it. On the
# right, what the warp does to the power at each spatial frequency: as curves, and in the kx-kz plane, where red is power
# added, blue power taken away. The beam points upwards; the missing wedge is a double wedge around it.
#
# **What do you expect?** Before each picture: will this warp change the power spectrum, or only the picture?
#
# ### Shift: somebody picked the particle a little aside
#
# A shift of up to 2 voxels in any direction, done exactly, in Fourier space. A shift turns phases and leaves the power alone.
# The only exception is the outermost frequency of an even box (the left column of the plane), which has no phase to turn.
# No spectrum can see a picking error.

# %%
picture("shift")
with torch.no_grad():
    moved = warps["shift"](few, 1.0, run.generator("picture"))
(_, one), (_, other) = (figures.radial_spectrum(x) for x in (few, moved))
print(f"largest change of the radial power by a shift: {abs(other / one - 1).max():.2%}")

# %% [markdown]
# ### Exercise 1 · A shift is a phase
#
# A shift by a whole number of voxels is a `roll`. By half a voxel it is done in Fourier space: each coefficient is
# multiplied by exp(-2πi k · shift), with k in cycles per voxel. Write it for a line of voxels. What do you expect to
# happen to the power |X(k)|²?

# %% tags=["given"]
bump = torch.exp(-(torch.arange(32) - 12.0).square() / 8)


# %% tags=["exercise"]
def shift_line(x, by):
    return None  # x moved by `by` voxels to the right, a float tensor


# %% tags=["solution", "hide-cell"]
def shift_line(x, by):
    k = torch.fft.rfftfreq(len(x))
    return torch.fft.irfft(torch.fft.rfft(x) * torch.exp(-2j * math.pi * k * by), n=len(x))


# %% [raw] tags=["mistakes", "remove-cell"]
# name = "shift_line"
# cases = ['shift_line(bump, 1)', 'shift_line(bump, 2.5)', 'shift_line(bump, -0.5)']
# tolerance = 0.001
# wrong = ['''
# def shift_line(x, by):
#     return x
# ''']
#
# [[mistake]]
# code = '''
# def shift_line(x, by):
#     k = torch.fft.rfftfreq(len(x))
#     return torch.fft.irfft(torch.fft.rfft(x) * torch.exp(2j * math.pi * k * by), n=len(x))
# '''
# hint = 'that moves to the left: the sign of the phase is the other one.'
#
# [[mistake]]
# code = '''
# def shift_line(x, by):
#     k = torch.fft.rfftfreq(len(x))
#     return torch.fft.irfft(torch.fft.rfft(x) * torch.exp(-1j * k * by), n=len(x))
# '''
# hint = 'k is in cycles per voxel. A cycle is 2 pi.'
#
# [[mistake]]
# code = '''
# def shift_line(x, by):
#     return torch.roll(x, round(by))
# '''
# hint = 'roll moves by whole voxels; 2.5 is rounded.'
#
# [[mistake]]
# code = '''
# def shift_line(x, by):
#     k = torch.arange(len(x) // 2 + 1)
#     return torch.fft.irfft(torch.fft.rfft(x) * torch.exp(-2j * math.pi * k * by), n=len(x))
# '''
# hint = 'arange counts waves per line. In cycles per voxel it has to be divided by the length: torch.fft.rfftfreq.'

# %%
lesson.check("shift_line")

# %% [markdown]
# ### Crowding: somebody else is in the box
#
# In a cell, molecules touch. Another subtomogram is added, moved aside by 0.4 to 0.5 of the box along one axis, so that the
# particle in the centre stays the one that the label names. The axis is drawn, and may be the beam: then the second particle is not
# in the central section. So look for it in the second figure, which shows sums along x, y and z of what was added.

# %%
picture("crowding")
with torch.no_grad():
    added = (warps["crowding"](few, run.params.amount, run.generator("picture")) - few)[:3, 0]
fig, axes = plt.subplots(3, 3, figsize=(4.4, 4.6), layout="constrained")
for row, x, name in zip(axes, added, shown, strict=True):
    for ax, along in zip(row, (2, 1, 0), strict=True):
        pictures.show(ax, x.sum(along), f"sum along {'zyx'[along]}" if name == shown[0] else "")
    row[0].set_ylabel(name, fontsize=8)
run.save_figure(fig, "crowding_sums")
plt.show()

# %% [markdown]
# ### Deformation: at most one voxel
#
# A smooth displacement field moves the density, as another conformation or a wrong pixel size would. The arrows below are
# the field in the central slice, ten times as long as it is; without that you would not see them.

# %%
picture("deformation")
with torch.no_grad():
    field = warps["deformation"].field(few[:1], generator)[0]
grid = torch.arange(1, p.box, 4)
dx, dy = field[0, p.box // 2][grid][:, grid], field[1, p.box // 2][grid][:, grid]
fig, ax = plt.subplots(figsize=(3.4, 3.4), layout="constrained")
pictures.show(ax, pictures.middle(few), "displacement, drawn ten times too long")
ax.quiver(grid, grid, dx, dy, color=pictures.COLOURS["warped"], angles="xy", scale_units="xy", scale=0.1, width=0.012)
run.save_figure(fig, "displacement")
plt.show()

# %% [markdown]
# ### Optics: some of what another microscope changes
#
# A wider missing wedge, another defocus, another contrast and a background gradient, all drawn from fixed ranges. For the
# defocus, each frequency is multiplied by the *ratio* of two contrast transfer functions: that of the new defocus over the
# source's. Where the source's is nearly zero the ratio would explode, so it stops at 3.
#
# This is no other microscope: a real change of defocus alters the signal and leaves the noise alone, and the ratio scales both.
# Near the zeros of the source's CTF it makes noise up to three times stronger. It is a randomisation with the right *shape*,
# and the rings in the plane show where it acts.

# %%
picture("optics")
k = torch.linspace(0, 0.5, 300)
fig, ax = plt.subplots(figsize=(5.6, 2.5), layout="constrained")
for defocus in (1.0, 5.0, 8.0):
    ratio = warps["optics"].ctf_ratio(k, torch.tensor(defocus))
    ax.plot(k / p.voxel_size, ratio, label=f"to {defocus:g} µm")
ax.axhline(0, color="0.8", lw=1, zorder=0)
ax.set(xlabel="spatial frequency (1/Å)", ylabel="multiplied by", title="From 3 µm to another defocus")
ax.legend(fontsize=8)
run.save_figure(fig, "ctf_ratio")
plt.show()

# %% [markdown]
# ### Noise: at most 0.8 standard deviations per voxel
#
# A network takes the subtomogram and random numbers, and adds something between -0.8 and 0.8 to each voxel. Look at the
# difference: an untrained network adds a pattern, and no white noise.

# %%
picture("noise")

# %% [markdown]
# ### Do the bounds hold?
#
# The two networks get random weights far larger than training makes them, and subtomograms thirty times brighter. Both
# end in a tanh, whose largest value is 1; and the smoothing of the field has weights that sum to 1. The shift is
# measured on a blob whose place is known, the optics on its transfer function. Crowding's bound is held by a test
# (`tests/core/test_warps.py`); the two warps that use the target follow below.
#
# **What do you expect?** How near to their bounds do the wild networks come?

# %%
wild = {name: copy.deepcopy(warps[name]) for name in ("noise", "deformation")}
with torch.no_grad():
    for parameter in [w for module in wild.values() for w in module.parameters()]:
        parameter.normal_(0, 3, generator=generator)
    largest_delta = float(wild["noise"].delta(30 * few, generator).abs().max())
    largest_move = float(wild["deformation"].field(30 * few, generator).norm(dim=1).max())
line = torch.arange(p.box) - float(p.box // 2)
hill = torch.exp(-line.square() / 8)
blobs = (hill[:, None, None] * hill[:, None] * hill).expand(64, 1, -1, -1, -1)
moved = warps["shift"](blobs, generator=generator)[:, 0]
places = [(moved.sum(axes) * line).sum(1) / moved.sum((1, 2, 3)) for axes in ((2, 3), (1, 3), (1, 2))]
largest_shift = float(torch.stack(places).norm(dim=0).max())
largest_factor = float(warps["optics"].ctf_ratio(k, torch.linspace(1, 8, 99)[:, None]).abs().max())
print(f"noise {largest_delta:.3f} of 0.8 s.d., deformation {largest_move:.3f} of 1 voxel,")
print(f"shift {largest_shift:.3f} of 2 voxels, optics: a frequency times {largest_factor:.3f} of 3")
assert largest_delta <= 0.8 + 1e-6 and largest_move <= 1 + 1e-6
assert largest_shift <= 2.02 and largest_factor <= 3
assert all(torch.equal(module(few[:1], amount=0.0), few[:1]) for module in warps.values()), "amount 0 is the identity"

# %% [markdown]
# **Recap**
# - A warp is bounded, has an amount, and draws anew each time.
# - Some warps change the spectrum, some only phases: each has its own picture.
# - The bounds are in the last layer, and hold for wild weights, too.
#
# ## 2 · Spectrum: the warp that measures what is missing (20 minutes)
#
# The warps so far prepare for *any* target. This one uses the unlabelled target subtomograms. It needs two averages.
#
# ### First: what has become of the signal?
#
# The signal of a target particle may be weaker than that of a simulated one (less dose, misaligned tilts), or **stronger**:
# each subtomogram's noise is scaled to 1, so a filter that removes noise raises the signal beside it. How much, at each
# frequency? No single subtomogram can tell, because noise covers it. But particles are in the centre of their boxes: in the
# [*average* of a domain](../docs/glossary.md#average-particle) the noise cancels, and the average particle stays. No label is
# needed, as long as the classes are about as frequent in both domains.
#
# **What do you expect?** Is the gain below or above 1 for this target, which was filtered and clipped?
#
# `warps.shell_amplitude` reads the average's amplitude shell by shell, and `warps.signal_envelope` finds the simplest
# transfer that carries the source's curve to the target's:
#
# a(k) = gain · exp(-b_factor_voxels k²) · (1 - exp(-2 (π highpass k)²))
#
# The b_factor_voxels is a blur. The last factor, a background taken off, is used only if it explains more than chance would.
# The orange dots took no part in the fit. The last printed line says how far the dashed line is from them.

# %%
envelope = signal_envelope(measured_s, measured_t)
amplitude_s = shell_amplitude(held_s)[0]
amplitude_t, samples = shell_amplitude(held_t)
k = torch.arange(1, len(amplitude_s) + 1) / p.box  # cycles per voxel
fitted = amplitude_s * envelope(k**2)
colours = pictures.COLOURS
fig, axes = plt.subplots(1, 3, figsize=(8.6, 2.7), layout="constrained", width_ratios=(1, 1, 1.9))
pictures.show(axes[0], pictures.middle(held_s.mean(0)), "average source", spread=3)
pictures.show(axes[1], pictures.middle(held_t.mean(0)), "average target", spread=3)
axes[2].plot(k / p.voxel_size, amplitude_s, color=colours["source"], label="source")
axes[2].plot(k / p.voxel_size, amplitude_t, "o", ms=4, color=colours["target"], label="target")
axes[2].plot(k / p.voxel_size, fitted, "--", color=colours["warped"], label="source × envelope")
axes[2].set(xlabel="spatial frequency (1/Å)", title="amplitude of the average particle")
axes[2].axhline(0, color="0.8", lw=1, zorder=0)
axes[2].legend(fontsize=8)
run.save_figure(fig, "envelope")
plt.show()
blur = math.sqrt(envelope.b_factor_voxels / 2) / math.pi
taken = f"a background of {envelope.highpass:g} voxels" if envelope.highpass else "no background"
print(
    f"gain {envelope.gain:.2f}, a blur of {blur:.2f} voxels (b_factor_voxels {envelope.b_factor_voxels:g}), {taken} taken off"
)
misfit = {
    name: float((samples * (x - amplitude_t).square()).sum() / (samples * amplitude_t.square()).sum()) ** 0.5
    for name, x in (("before", amplitude_s), ("after", fitted))
}
print(
    f"the signal of the target is {'stronger' if envelope.gain > 1 else 'weaker'} than that of the source, before the blur"
)
print(f"off the target's average particle: {misfit['before']:.0%} before, {misfit['after']:.0%} after")

# %% [markdown]
# ### Second: which noise is missing?
#
# Notebook 02 found the gap in the power spectrum. Let P_s and P_t be the mean power of both domains at every
# frequency, on the whole [half-ball](../docs/glossary.md#half-ball), so that the missing wedge is in it. Now ask of each frequency:
#
# - signal scaled by *a* leaves **less** power than the target has? Then *add* P_t - a² P_s of noise, in just this colour;
# - it would leave **more**? Then turn it down further, to g = sqrt(P_t / P_s), and add none.
#
# That is all: five lines, no training.

# %%
P_s, P_t = mean_spectrum(measured_s), mean_spectrum(measured_t)
a = envelope(fourier.squared_frequency((p.box, p.box, p.box)))
g = torch.minimum(a, (P_t / P_s).sqrt())
missing = (P_t - g**2 * P_s).clamp_min(0)
white = torch.fft.rfftn(torch.randn(held_s.shape, generator=generator), dim=(2, 3, 4))
by_hand = torch.fft.irfftn(g * torch.fft.rfftn(held_s, dim=(2, 3, 4)) + missing.sqrt() * white, s=(p.box,) * 3)
print(f"{float((g < a).float().mean()):.0%} of the frequencies are turned down below the envelope")

# %% [markdown]
# These are maps on the half of Fourier space that a real volume needs. Here they are in the kx-kz plane, with the beam
# upwards and the lowest frequencies in the middle: bright is strong, and the first four share one scale. The
# **missing wedge** is the dark double wedge along kz. Look for three things: whether the third map is the second;
# where noise is added; and where the gain is low (in the black regions of the first map there is nothing to scale).


# %%
def plane(half):
    """kx-kz plane of a map (Z, Y, X // 2 + 1), DC in the middle, the other half filled in by symmetry."""
    right = torch.fft.fftshift(half[:, 0], dim=0)
    left = right.flip(0, 1)[:, :-1]
    return torch.cat([left.roll(1, 0) if p.box % 2 == 0 else left, right], dim=1)


maps = {"source": P_s, "target": P_t, "warped by hand": mean_spectrum(by_hand)}
limits = {"vmin": -0.7, "vmax": 2.0, "cmap": "magma"}
fig, axes = plt.subplots(1, 5, figsize=(11, 2.6), layout="constrained")
for ax, (name, power) in zip(axes, maps.items(), strict=False):
    image = ax.imshow(plane(power).log10(), **limits)
    ax.set_title(name)
axes[3].imshow(plane(missing.clamp_min(1e-3)).log10(), **limits)
axes[3].set_title("noise added")
fig.colorbar(image, ax=axes[3], label="log10 power")
gain_image = axes[4].imshow(plane(g), vmin=0, cmap="viridis")
axes[4].set_title("signal gain g")
fig.colorbar(gain_image, ax=axes[4])
for ax in axes:
    ax.set(xticks=[], yticks=[], xlabel="kx")
axes[0].set_ylabel("kz (beam)")
run.save_figure(fig, "spectrum_planes")
plt.show()

# %% [markdown]
# Now the curves, on subtomograms that took no part in the measurement. Left is the power, most of which is noise; right is the
# average particle. **If the idea is right, light blue (warped) lies on orange (target) in both.** A warp that only added noise
# would manage the left one, and leave the right one where the dark blue line (source) is.
#
# **What do you expect?** In which of the two will the fit be better? The lines below say by how much.

# %%
domains = {"source": held_s, "target": held_t, "warped": by_hand}
fig, axes = plt.subplots(1, 2, figsize=(8.2, 2.9), layout="constrained")
for name, x in domains.items():
    k_radial, power = figures.radial_spectrum(x)
    axes[0].semilogy(k_radial / p.voxel_size, power, color=colours[name], label=name)
    axes[1].plot(k / p.voxel_size, shell_amplitude(x)[0], color=colours[name])
axes[0].set(xlabel="spatial frequency (1/Å)", title="mean power per voxel")
axes[1].set(xlabel="spatial frequency (1/Å)", title="amplitude of the average particle")
axes[0].legend()
run.save_figure(fig, "spectra_by_hand")
plt.show()
curve = {name: figures.radial_spectrum(x)[1] for name, x in domains.items()}
off_before, off_after = (
    float(abs(torch.from_numpy(curve[x] / curve["target"]).log()).mean()) for x in ("source", "warped")
)
print(f"mean distance to the target's power: a factor {math.exp(off_before):.2f} before the warp")
lesson.checkpoint("factor to the target's power, after the warp", math.exp(off_after))
print(f"off the target's average particle: {misfit['before']:.0%} before, {misfit['after']:.0%} after")
if p.name != "smoke":
    assert off_after < math.log(1.15), "the warped curve must meet the target's within 15 % on average"
    assert misfit["after"] <= misfit["before"] + 0.05, "the envelope must not lead away from the target's particle"

# %% [markdown]
# `SpectrumWarp` is this, and four things more. Each subtomogram follows *one drawn target subtomogram's* deviation from the mean,
# for target subtomograms differ among themselves. The gain varies by up to a factor of 1.3 either way. A random part of
# the b_factor_voxels is taken, because an average is also blurred by picking errors, which no single subtomogram has. Realism
# training (below) may bend P_t by up to a factor of 2. The mean source spectrum is used, not the subtomogram's own.
# Otherwise every molecule would be scaled to the same brightness, and a mark of its class would be gone.

# %%
warps["spectrum"] = SpectrumWarp.estimate(measured_s, measured_t)
picture("spectrum")

# %% [markdown]
# ### Exercise 2 · The arithmetic of the spectrum warp
#
# Now on your own, for one frequency: given the powers of source and target and the signal's gain `a`, return the gain that is used
# and the power of the noise that is added. `SpectrumWarp`'s rule stands above. Two cases to think of first: what if the
# target has *less* power than a² P_s? And why is it no answer to drop the signal and add all of P_t as noise?


# %% tags=["exercise"]
def gain_and_noise(p_s, p_t, a):
    return None  # gain, noise power


# %% tags=["solution", "hide-cell"]
def gain_and_noise(p_s, p_t, a):
    gain = min(a, math.sqrt(p_t / p_s))
    return gain, p_t - gain**2 * p_s


# %% [raw] tags=["mistakes", "remove-cell"]
# name = "gain_and_noise"
# cases = ['gain_and_noise(1.0, 3.0, 1.0)', 'gain_and_noise(1.0, 3.0, 0.5)', 'gain_and_noise(4.0, 1.0, 1.0)', 'gain_and_noise(4.0, 1.0, 0.1)', 'gain_and_noise(9.0, 4.0, 2.0)']
# wrong = ['''
# def gain_and_noise(p_s, p_t, a):
#     return math.sqrt(p_t / p_s), 0.0
# ''', '''
# def gain_and_noise(p_s, p_t, a):
#     return a, p_t
# ''']
#
# [[mistake]]
# code = '''
# def gain_and_noise(p_s, p_t, a):
#     return 0, p_t
# '''
# hint = """all of the target's power is noise now, and the molecule is gone. The power is right, the label is not. Keep a of the signal."""
#
# [[mistake]]
# code = '''
# def gain_and_noise(p_s, p_t, a):
#     return a, p_t - a**2 * p_s
# '''
# hint = 'where the target has less power than a² P_s, the noise power is negative. Cap the gain there.'
#
# [[mistake]]
# code = '''
# def gain_and_noise(p_s, p_t, a):
#     return a, max(0.0, p_t - a**2 * p_s)
# '''
# hint = 'the gain is not capped: where the target has less power than a² P_s, the result has too much.'
#
# [[mistake]]
# code = '''
# def gain_and_noise(p_s, p_t, a):
#     gain = min(a, p_t / p_s)
#     return gain, p_t - gain**2 * p_s
# '''
# hint = 'a ratio of powers is the square of a gain: a root is missing.'
#
# [[mistake]]
# code = '''
# def gain_and_noise(p_s, p_t, a):
#     gain = min(a, math.sqrt(p_t / p_s))
#     return gain, p_t - gain * p_s
# '''
# hint = 'an amplitude that is scaled by g has g² times the power.'

# %%
lesson.check("gain_and_noise")

# %% [markdown]
# ### Histogram: what no filter can imitate
#
# Some targets were clipped, or run through a denoiser that treats strong and weak voxels differently. That changes the
# *distribution of grey values*, and no filter and no added noise can follow. This warp takes the grey values of a drawn
# target subtomogram and hands them out in the order of the subtomogram's own: the brightest voxel gets the brightest value.
#
# **What do you expect?** The target of this scenario is clipped. Will the tails of the light blue curve end where the orange ones do?

# %%
warps["histogram"] = HistogramWarp.estimate(measured_t)
picture("histogram")
with torch.no_grad():
    both = warps["histogram"](warps["spectrum"](held_s, generator=generator), generator=generator)
fig = figures.histograms({"source": held_s, "target": held_t, "warped": both})
run.save_figure(fig, "histograms")
plt.show()
ends = {
    name: float(x[:64].flatten()[::7].quantile(0.9999))
    for name, x in {"source": held_s, "target": held_t, "warped": both}.items()
}
print("one value in 10,000 is above:", ", ".join(f"{name} {value:.1f}" for name, value in ends.items()))

# %% [markdown]
# **Recap**
# - The average particle says how much signal is left; two mean spectra say which noise is missing.
# - Both are fitted without labels, and tested on subtomograms that took no part in the fit.
# - Clipping needs a warp of grey values, because no filter can imitate it.
#
# ## 3 · Your turn: the mixing desk (5 minutes)
#
# One slider per warp. In JupyterLab you can move them all, and mix; in a static copy each row turns up one warp, with the
# others at 0 (framed). Of each pair, left is the subtomogram in the xy plane and right in the xz plane, where the wedge is.
#
# **What do you expect?** At which amount of which warp would you no longer put your name under the label?

# %%
order = ("shift", "crowding", "deformation", "optics", "spectrum", "histogram", "noise")  # in which recipes apply them
warps = {name: warps[name] for name in order if name in warps}
typical = torch.cat([source.x[source.snr.argsort()[[int(0.7 * len(source))]]], held_s[:3]])


@torch.no_grad()
def draw(axes, **amounts):
    x = typical
    for name, how_much in amounts.items():
        x = warps[name](x, how_much, torch.Generator().manual_seed(seed))
    pictures.show(axes[0], x[0, 0, p.box // 2], spread=4)
    pictures.show(axes[1], x[0, 0][:, p.box // 2], spread=4)


sliders = {name: (f"{name}: amount", [0.0, 0.25, 0.5, 0.75, 1.0]) for name in warps}
fig = explore.explore(draw, sliders, panels=2, start=dict.fromkeys(warps, 0.0), size=2.0)
if fig:
    run.save_figure(fig, "sliders")
    plt.show()

# %% [markdown]
# **Recap**
# - Amount 0 is the identity for every warp.
# - Warps can be mixed.
# - A label is a promise that the warp must keep.
#
# ## 4 · Adversarial training of the warps (10 minutes)
#
# Spectrum and histogram are computed; shift, crowding and optics are drawn. The two networks can be *trained*, without target
# labels, in two ways:
#
# - in **realism training** an image discriminator says which subtomograms are target and which are warped; the warps are
#   trained so that the discriminator takes them for target;
# - in **min-max training** (DeceptionNet, Zakharov et al. 2019) the warps never see a target: they *maximise* the
#   classifier's loss within their bounds, the classifier minimises it. It prepares for the worst case instead of the likely one.
#
# `training.fit("warp_only", ...)` and `training.fit("warp_minmax", ...)` do it in full. Here are a few steps of both,
# from the same untrained warps, against a fixed classifier. The whole difference is in one line.

# %%
fits = {
    method: run.fit(method, source, target, validation)
    for method in dict.fromkeys(("source_only", "cryoshift", *run.methods))
}
names = ("deformation", "spectrum", "noise")
with torch.random.fork_rng(devices=[]), torch.no_grad():
    torch.manual_seed(run.params.seed)
    untrained = Warps(names, measured_s, measured_t, run.generator("estimate"), p.voxel_size)


def train_warps(objective, steps, n=8):
    """Trained warps, and after each step the task loss on the warped source and the discriminator's loss.

    Only the warps are trained, and for "realism" the discriminator.
    """
    g = run.generator("play")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(run.params.seed)
        chain, discriminator = copy.deepcopy(untrained), models.ImageDiscriminator()
    classifier = copy.deepcopy(fits["source_only"].network).requires_grad_(False)
    step, step_d = (torch.optim.Adam(module.parameters(), lr=2e-3) for module in (chain, discriminator))
    curve = []
    for _ in range(steps):
        i, j = (torch.randint(len(d), (n,), generator=g) for d in (source, target))
        warped = chain(source.x[i], generator=g)
        loss_d = losses.realism(discriminator(target.x[j]), True)
        loss_d = loss_d + losses.realism(discriminator(warped.detach()), False)
        step_d.zero_grad()
        loss_d.backward()
        step_d.step()
        task = F.cross_entropy(classifier(warped), source.y[i])
        loss = -task if objective == "min-max" else losses.realism(discriminator(warped), True)
        step.zero_grad()
        loss.backward()
        step.step()
        curve.append((task.item(), loss_d.item()))
    return chain, torch.tensor(curve)


# %% [markdown]
# Left, what hurts the classifier. Middle, the discriminator: at 2 ln 2 = 1.39 (dotted) it can only guess, near 0 it is right
# about everything. Right, how much each trained noise warp adds to the same subtomogram.
#
# **What do you expect?** Who wins in realism training after 40 steps: the warps or the discriminator?

# %%
moves = 4 if p.name == "smoke" else 40
trained = {objective: train_warps(objective, moves) for objective in ("realism", "min-max")}
fig, axes = plt.subplots(1, 4, figsize=(9.6, 2.6), layout="constrained", width_ratios=(1.5, 1.5, 1, 1))
window = max(1, moves // 10)
for objective, (_, curve) in trained.items():
    mean = curve.unfold(0, window, 1).mean(2)
    for ax, values in zip(axes, mean.T, strict=False):
        ax.plot(torch.arange(len(mean)) + window, values, label=objective)
axes[0].set(xlabel="step", title="task loss on the warped source")
axes[1].set(xlabel="step", title="loss of the discriminator")
axes[1].axhline(2 * math.log(2), ls=":", color="0.5")
axes[0].legend()
with torch.no_grad():
    for ax, (objective, (chain, _)) in zip(axes[2:], trained.items(), strict=True):
        delta = chain.steps["noise"].delta(few[:1], run.generator("delta"))
        pictures.show(
            ax, pictures.middle(delta), f"noise after {objective}\nup to ±{float(delta.abs().max()):.2f}", spread=0.4
        )
run.save_figure(fig, "two_games")
plt.show()
late = {objective: float(curve[-(moves // 3 or 1) :, 0].mean()) for objective, (_, curve) in trained.items()}
print(", ".join(f"{objective}: task loss {loss:.2f} at the end" for objective, loss in late.items()))
for objective, (chain, curve) in trained.items():
    end, bound = float(curve[-(moves // 4 or 1) :, 1].mean()), 2 * math.log(2)
    who = "the discriminator wins" if end < 0.7 * bound else "the warps win" if end > 1.1 * bound else "it is undecided"
    with torch.no_grad():
        used = float(chain.steps["noise"].delta(few[:8], run.generator("delta")).abs().mean()) / 0.8
    print(f"{objective}: loss of the discriminator {end:.2f} of {bound:.2f} for guessing, so {who};", end=" ")
    print(f"the noise warp uses {used:.0%} of its bound on average")
if p.name != "smoke":
    assert late["min-max"] > late["realism"], "min-max training must raise the task loss more than realism training"

# %% [markdown]
# Realism training needs a target. It can help only while the discriminator's gradient leads towards it: a discriminator that is right
# about everything is a sign that the warps are moving away. Min-max needs no target, and spends its bound on what hurts; the
# bound is all that keeps it from erasing the molecule. Section 5 measures what either has done.
#
# **Recap**
# - Realism training follows a discriminator, min-max training the classifier's loss.
# - The loss curves show who wins, and not whether warped subtomograms are nearer to the target.
# - Only the bound limits what a trained warp can do.
#
# ## 5 · What does a warp buy? Ask without labels (10 minutes)
#
# ### Are warped subtomograms nearer to the target?
#
# The [**proxy A-distance**](../docs/glossary.md#a-distance) of notebook 02: 0 if a linear rule cannot tell warped source from
# target, 2 if it always can. Left, the rule sees each subtomogram's power in eight bands of frequency. Right, it sees the
# features of a classifier trained on the source alone. The bottom bar compares one half of the target with the other: the
# best that can be had.
#
# **What do you expect?** Which single warp shortens the left bar most? Do the trained warps beat the untrained ones?


# %%
@torch.no_grad()
def bands(x):
    """Log power of each cube in eight radial bands, (N, 8)."""
    windows = fourier.radial_bands(tuple(x.shape[2:]), 8)
    return torch.cat([torch.einsum("nzyx,bzyx->nb", fourier.power_spectrum(q), windows) for q in x.split(64)]).log()


def seen_by_source_only(x):
    return models.embed(fits["source_only"].network, x, device=run.params.device)


chains = {"those of cryoshift": fits["cryoshift"].warps, "trainable, untrained": untrained}
chains |= {f"the same, after {objective}": chain for objective, (chain, _) in trained.items()}
with torch.no_grad():
    candidates = {"source": held_s}
    candidates |= {f"{name} alone": module(held_s, generator=generator) for name, module in warps.items()}
    candidates |= {name: chain(held_s, generator=run.generator("compare")) for name, chain in chains.items()}
candidates["target itself"] = measured_t
table = []
for name, x in candidates.items():
    row = {"what": name}
    for view, function in (("bands", bands), ("features", seen_by_source_only)):
        row[view] = metrics.a_distance(function(x), function(held_t), seed=run.params.seed)
    table.append(row)
run.save_table(table, "a_distance")

# %%
fig, axes = plt.subplots(1, 2, figsize=(8, 3.4), sharey=True, layout="constrained")
for ax, view, title in zip(
    axes, ("bands", "features"), ("power in eight bands", "features of source_only"), strict=True
):
    kinds = {"source": "source", "target itself": "target"}
    bars = [colours[kinds.get(row["what"], "warped")] for row in table]
    ax.barh([row["what"] for row in table], [row[view] for row in table], color=bars)
    ax.set(xlim=(0, 2), title=title, xlabel="proxy A-distance to the target")
axes[0].invert_yaxis()
run.save_figure(fig, "a_distance")
plt.show()
distance = {row["what"]: row for row in table}
by_training = [distance[name]["bands"] for name in list(chains)[1:]]
labels = ("untrained", *(f"after {objective}" for objective in trained))
print("trainable warps, by bands:", ", ".join(f"{v:.2f} {k}" for k, v in zip(labels, by_training, strict=True)))
alone = {name: distance[f"{name} alone"] for name in warps}
for view, what in (("bands", "power in bands"), ("features", "features")):
    ranked = sorted(alone, key=lambda name, view=view: alone[name][view])
    print(f"by {what}, the nearest single warp is {ranked[0]} ({alone[ranked[0]][view]:.2f}),", end=" ")
    print(
        f"the others are at {alone[ranked[1]][view]:.2f} or more, the source as it is at {distance['source'][view]:.2f}"
    )
for objective, value in zip(trained, by_training[1:], strict=True):
    change = value - by_training[0]
    verdict = "nearer" if change < -0.1 else "further away" if change > 0.1 else "neither nearer nor further away"
    print(f"{objective} training has brought the warped subtomograms {verdict} ({by_training[0]:.2f} -> {value:.2f})")

# %% [markdown]
# How to read it: **no bar says whether a classifier gains.** A warp that erased the molecule could have a small A-distance, and a
# warp that only adds variety may still help. And no warp needs to reach the bottom bar: subtomograms differ from one another in
# ways that a mean spectrum does not hold.
#
# ### Does the classifier gain?
#
# `cryoshift` learns from the source as it is and warped: shifted, crowded, with the target's spectrum and grey values; its
# class-wise adversaries are the subject of notebook 04. Compare it with `source_only`, which has seen the same subtomograms as
# they were simulated. No target label is used, but three things can be asked without one:
#
# - accuracy on source-validation subtomograms in the **style of the target**, given by the warps: they resemble the target, and
#   their labels are free. `cryoshift` has an advantage here, because it was trained on such subtomograms;
# - the [**IM score**](../docs/glossary.md#im-score) of the target predictions: high when each is certain and together they use all classes;
# - [**ClassAMI**](../docs/glossary.md#classami): do the predicted classes coincide with clusters that k-means finds in the target's features?
#
# **What do you expect?** What does `cryoshift` lose on the source as it is, and what does it gain in the target's style?

# %%
styled = target_styled(validation.x, fits["cryoshift"].warps, run.generator("carry"))
gains = []
for name, fit in fits.items():
    right = [
        float((models.predict(fit.network, x, device=run.params.device).argmax(1) == validation.y).float().mean())
        for x in (validation.x, styled)
    ]
    on_target = models.outputs(fit.network, target.x, device=run.params.device)
    im = float(losses.information_maximisation(on_target.probabilities))
    found = {"accuracy, source": right[0], "accuracy, target-styled": right[1], "IM score": im}
    gains.append({"method": name, **found, "ClassAMI": selection.class_ami(on_target)})
run.save_table(gains, "gains")
fig, axes = plt.subplots(1, 4, figsize=(9.4, 2.3), layout="constrained")
for ax, what in zip(axes, list(gains[0])[1:], strict=True):
    bars = ax.bar([row["method"] for row in gains], [row[what] for row in gains])
    for bar, row in zip(bars, gains, strict=True):
        bar.set_color(colours.get(row["method"], colours["warped"]))
    ax.bar_label(bars, fmt="%.2f", fontsize=8)
    ax.set_title(what)
    ax.margins(y=0.15)
run.save_figure(fig, "gains")
plt.show()
plain, adapted = gains
columns = {"price": "accuracy, source", "promise": "accuracy, target-styled"}
for word, column in columns.items():
    print(f"{word}: {column} {plain[column]:.2f} -> {adapted[column]:.2f} ({adapted[column] - plain[column]:+.2f})")
lesson.checkpoint("target-styled accuracy of cryoshift", adapted["accuracy, target-styled"])
if p.name != "smoke":
    assert gains[1]["accuracy, target-styled"] > gains[0]["accuracy, target-styled"], "trained on such subtomograms"

# %% [markdown]
# The first panel is the price, the second the promise. The other two are read off the target itself.
#
# ### And with labels? The evidence
#
# `make evidence` trains methods on other seeds and scores them with held-out labels, on `in_situ_2`. Nothing here was chosen
# with it. First what each way of warping buys over `source_only`, of those that are measured: warps with realism or min-max
# training, the published recipe (realism training and adversary), and `cryoshift`. Then `cryoshift` with one part left out.


# %%
def shown_if_there(found, title, label, name):
    """Draw paired differences, or print a sentence where the evidence has no such rows yet."""
    if not found:
        print(f"{title}: not measured yet; `make evidence TIER=...` with core, baselines and ablation does it.")
        return
    fig = forest(found, title, f"balanced accuracy: method - {label}")
    run.save_figure(fig, name)
    plt.show()
    for what, one in found.items():
        low, high = one.interval.low, one.interval.high
        verdict = f"{label} is better" if high < 0 else f"{label} is worse" if low > 0 else "not distinguishable"
        print(f"{what}: {one.interval:+.3f} ({one.seeds} seeds), {verdict}")


rows = [row for row in runner.read(runtime.root() / "notebooks/evidence/evidence.csv") if row["profile"] == "laptop"]
warping = ("warp_only", "warp_minmax", "cryoshift_reference", "cryoshift")
configurations = {m: {"method": m, "scenario": jobs.REFERENCE_SCENARIO} for m in warping}
bought = statistics.against(rows, configurations, base="source_only")
parts = {name: found for name, found in statistics.ablation(rows).items() if name.startswith("without ")}
shown_if_there(
    bought, f"What warping adds to source_only on {jobs.REFERENCE_SCENARIO}", "source_only", "evidence_warping"
)
shown_if_there(parts, f"cryoshift on {jobs.REFERENCE_SCENARIO}, a part left out", "cryoshift", "evidence_parts")

# %% [markdown]
# A triangle is a difference whose interval leaves out zero; the printed lines say the same in words. These intervals are not
# corrected for their number. `warp_only` and `warp_minmax` contain the spectrum warp, so what they gain is not the gain of the
# adversarial training alone.
#
# **Recap**
# - Distances and scores without labels tell warps apart; they do not prove a gain.
# - Source subtomograms in the target's style have labels: a forecast, with an advantage for the method that trained on them.
# - The proof is a score with held-out labels, on seeds that were not used to choose anything.
#
# ## 6 · Three mistakes to learn from (10 minutes)
#
# Each of these ran in a published program, raised no error, and made a warp useless or worse. None shows in a loss
# curve. Each is shown by one number, and a test holds that number (`tests/core/test_warps.py`). What stands below is our
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
        point = F.conv3d(point, kernel.view(shape), padding=[len(kernel) // 2 if i == axis else 0 for i in (2, 3, 4)])
    return point


point = torch.zeros(1, 1, 33, 33, 33)
point[0, 0, 16, 16, 16] = 1
kernels = {"ours": gaussian_kernel(2.0), "corner": corner_kernel()}
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
# subtomogram by half a voxel along x. Watch the loss.


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
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        curve.append(loss.item())
    return curve


with torch.random.fork_rng(devices=[]):
    torch.manual_seed(run.params.seed)
    curves = {"persistent (ours)": learn(DeformationWarp()), "created in forward": learn(Forgetful())}
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
    assert abs(float(added.mean())) < 0.01, "both signs must be equally frequent"


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

# %%
if p.name != "smoke":
    assert distance["spectrum alone"]["bands"] < distance["source"]["bands"], "the spectrum warp must lead nearer"
run.report(
    spectrum_off_before=math.exp(off_before),
    spectrum_off_after=math.exp(off_after),
    particle_off=[misfit["before"], misfit["after"]],
    a_distance_bands_spectrum=[distance[n]["bands"] for n in ("source", "spectrum alone")],
    a_distance_bands_game=by_training,
    target_styled_accuracy=[row["accuracy, target-styled"] for row in gains],
)
run.finish()

# %% [markdown]
# **Recap**
# - None of the mistakes raised an error.
# - One number shows each of them.
# - An assertion keeps it from coming back.
#
# ## What to take away
#
# - A warp is a *bounded* change. Bounds belong into the last layer, not into hope.
# - The spectrum warp is not learned. The average particle says how much signal is left, two mean spectra say which
#   noise is missing. It needs the target's subtomograms, and none of its labels.
# - Adversarial training of warps can lead away from the target. Watch its effect by a number that it does not optimise.
# - Source subtomograms in the style of the target have labels: what a classifier scores on them is a forecast, better than none.
# - What is random must persist where it should learn. A number catches what a loss curve hides.
#
# ## Questions to think about
#
# 1. The envelope assumes that classes are about as frequent in both domains. A target holds mostly the largest molecule: which
#    way does the gain go wrong?
# 2. Neighbours of the particle raise the target's power at low frequency. What does the spectrum warp make of them, and
#    why does `cryoshift` apply the crowding warp *before* the spectra are measured?
# 3. A target in which half of the subtomograms hold no particle at all: which of the two averages would mislead, and how?
