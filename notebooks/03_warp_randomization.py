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
# - to build the one that comes nearest to the target, the spectrum warp, from averages alone: which noise is missing, and how much of the
#   *signal* survives in the target;
# - to mix warps, and watch what two classifiers call the result;
# - to ask without a target label what a classifier gains, and how much of a warp it tolerates.
#
# **What you need**: notebook 02 helps, but this one runs alone; about 45 minutes to read and try. Everything here is simulated,
# the target too. No held-out label is opened: every number about the target is read without labels. Words in links are explained
# in the [glossary](../docs/glossary.md). How warps are *trained*, and published mistakes, are the subject of
# [03b](03b_warping_games.ipynb).
#
# | profile | time | memory |
# |---|---|---|
# | smoke | 38 s | 700 MB |
# | laptop | 2.2 min | 1720 MB |

# %% tags=["hide-input"] jupyter={"source_hidden": true}
import copy
import math

import matplotlib.pyplot as plt
import torch

from cryoshift_core import fourier, losses, models, selection
from cryoshift_core.application import pictures
from cryoshift_core.course import exercises, figures, warping
from cryoshift_core.course.run import begin
from cryoshift_core.warps import (
    Envelope,
    HistogramWarp,
    SpectrumWarp,
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
source, validation, target = run.domains()
measured_s, held_s = source.x[::2][:256], source.x[1::2][:256]
measured_t, held_t = target.x[::2][:256], target.x[1::2][:256]
print(f"{len(source)} labelled source subtomograms, {len(target)} unlabelled target subtomograms of {p.box}^3 voxels")

# %% [markdown]
# We fit every quantity on half of the subtomograms and test it on the other half.
#
# ## 1 · What is a warp? (12 minutes)
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
# | optics | some of what another microscope changes | wedge up to 25° wider, defocus 1-8 µm, a frequency times at most 3, contrast e^±0.3, background slope of 0.5 s.d. | fixed ranges |
# | spectrum | *this* target's noise, blur and filters | gain within a factor 1.3 of what was measured | the target's subtomograms, without labels; realism training may bend it by up to 2 |
# | histogram | this target's clipping and non-linear filters | its grey values are those of a target subtomogram, in the subtomogram's own order | the target's subtomograms, without labels |
# | noise | whatever else | 0.8 s.d. per voxel | random network; adversarial training may train it |

# %%
generator = run.generator("warps")
warps = warping.blind_warps(p.voxel_size, run.params.seed)
few, shown = warping.clearest(source), source.classes[:3]  # one clear subtomogram of each of three classes is shown


@torch.no_grad()
def picture(name):
    """A warp's effect on three clear subtomograms, and on the spectra of 32 such."""
    after = warps[name](few, run.params.amount, run.generator("picture"))
    title = f"{name} warp alone, amount {run.params.amount:g}"
    lesson.figure(figures.warp_sheet(few, after, title, shown, p.voxel_size), f"warp_{name}")
    return after


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
moved = picture("shift")
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
# In a cell, molecules touch. Another subtomogram is added, moved aside by 0.4 to 0.5 of the box along one axis and by less along the
# others, so that the particle in the centre stays the one that the label names. The axis is drawn, and may be the beam: then the
# second particle is not in the central section. So look for it in the second figure, which shows sums along x, y and z of the
# difference; what is moved out of the box on one side comes in on the other. The sum of the two is normalised as every subtomogram
# is. That takes strength from the particle in the centre, so the power can fall although something was added.

# %%
added = picture("crowding") - few
lesson.figure(warping.projections(added, shown), "crowding_sums")

# %% [markdown]
# ### Deformation: at most one voxel
#
# A smooth displacement field moves the density, as another conformation or a wrong pixel size would. The arrows below are
# the field in the central slice, ten times as long as it is; without that you would not see them.

# %%
picture("deformation")
with torch.no_grad():
    field = warps["deformation"].field(few[:1], generator)[0]
lesson.figure(warping.displacement(field, few[0]), "displacement")

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
for defocus, line in ((1.0, "-"), (5.0, "--"), (8.0, ":")):
    ratio = warps["optics"].ctf_ratio(k, torch.tensor(defocus))
    ax.plot(k / p.voxel_size, ratio, line, label=f"to {defocus:g} µm")
ax.axhline(0, color="0.8", lw=1, zorder=0)
ax.set(xlabel="spatial frequency (1/Å)", ylabel="multiplied by", title="From 3 µm to another defocus")
ax.legend(fontsize=8)
lesson.figure(fig, "ctf_ratio")

# %% [markdown]
# ### Noise: at most 0.8 standard deviations per voxel
#
# A network takes the subtomogram and random numbers, and adds something between -0.8 and 0.8 to each voxel. Look at the
# difference: an untrained network adds a pattern, and no white noise.

# %%
added = picture("noise") - few
print(f"mean of the added pattern {added.mean():+.3f}, standard deviation {added.std():.3f}")

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

# %% [markdown]
# **Recap**
# - A warp is bounded, has an amount, and draws anew each time.
# - Some warps change the spectrum, some only phases: each has its own picture.
# - The bounds are in the last layer, and hold for wild weights, too.
#
# ## 2 · Spectrum: the warp that measures what is missing (19 minutes)
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
# `warps.shell_amplitude` reads the average's amplitude shell by shell. Which transfer carries the source's curve to the target's?
#
# $$ a(k) = gain \cdot e^{-2 (\pi \cdot blur \cdot k)^2} \cdot (1 - e^{-2 (\pi \cdot highpass \cdot k)^2}) $$
#
# The blur (voxels) takes high frequencies, the high-pass a background of that width (voxels; at 0 nothing is taken off).
# **Fit it by hand**: move the dashed line onto the orange dots. The title says how far it is from them, in per cent of their
# length.
#
# **What do you expect?** Is the gain below or above 1 for this target, which was filtered and clipped?

# %%
amplitudes = {"source": shell_amplitude(measured_s), "target": shell_amplitude(measured_t)}


def draw_fit(axes, gain, blur, highpass):
    tried = Envelope(gain, 2 * (math.pi * blur) ** 2, highpass)
    warping.fit_by_hand(axes[0], amplitudes, tried, p.box, p.voxel_size)


sliders = {
    "gain": ("gain", [0.5, 1.0, 1.5, 2.0, 2.5, 3.0, 3.5]),
    "blur": ("blur (voxels)", [0.0, 0.4, 0.8, 1.2, 1.6, 2.0, 2.4]),
    "highpass": ("high-pass (voxels; 0: none)", [0.0, 2.0, 2.5, 4.0, 8.0]),
}
start = {"gain": 1.0, "blur": 0.0, "highpass": 0.0}
run.explore(draw_fit, "fitted_by_hand", sliders, start=start, size=3.4, mixed=True)

# %% [markdown]
# `warps.signal_envelope` fits the same three numbers by least squares. Blur and high-pass are used only if they explain more than
# chance would (`b_factor_voxels` is 2 (π blur)²). Below, the orange dots are of the other half of the subtomograms, which took no part
# in the fit. The last printed line says how far the dashed line is from them.

# %%
envelope = signal_envelope(measured_s, measured_t)
amplitude_s = shell_amplitude(held_s)[0]
amplitude_t, samples = shell_amplitude(held_t)
k = torch.arange(1, len(amplitude_s) + 1) / p.box  # cycles per voxel
fitted = amplitude_s * envelope(k**2)
lesson.figure(warping.average_particles(held_s, held_t, fitted, p.voxel_size), "envelope")
blur = math.sqrt(envelope.b_factor_voxels / 2) / math.pi
taken = f"a background of {envelope.highpass:g} voxels" if envelope.highpass else "no background"
print(f"gain {envelope.gain:.2f}, a blur of {blur:.2f} voxels (b_factor_voxels {envelope.b_factor_voxels:g}),", end=" ")
print(f"{taken} taken off")
both = {"before": amplitude_s, "after": fitted}
misfit = {name: warping.off_target(amplitude, amplitude_t, samples) for name, amplitude in both.items()}
stronger = "stronger" if envelope.gain > 1 else "weaker"
print(f"the signal of the target is {stronger} than that of the source, before the blur")
seen = warping.misfit(amplitudes, envelope, p.box)
print(f"on the half that was fitted: off by {seen:.0%}; that is the distance to compare yours with")
print(f"off the target's average particle: {misfit['before']:.0%} before, {misfit['after']:.0%} after")

# %% [markdown]
# ### Second: which noise is missing?
#
# Notebook 02 found the gap in the power spectrum. Let $P_s$ and $P_t$ be the mean power of both domains at every
# frequency, on the whole [half-ball](../docs/glossary.md#half-ball), so that the missing wedge is in it. Now ask of each frequency:
#
# - signal scaled by $a$ leaves **less** power than the target has? Then *add* the rest as noise, in just this colour;
# - it would leave **more**? Then turn it down further, and add none.
#
# $$ g = \min\left(a, \sqrt{P_t / P_s}\right), \qquad P_{noise} = P_t - g^2 P_s $$
#
# That is all: six lines, no training. The maps below are in the kx-kz plane, with the beam upwards and the lowest frequencies in
# the middle: bright is strong, and the first four share one scale. The **missing wedge** is the dark double wedge along kz. Look for
# three things: whether the third map is the second; where noise is added; and where the gain is low (in the black regions of the
# first map there is nothing to scale).

# %%
P_s, P_t = mean_spectrum(measured_s), mean_spectrum(measured_t)
a = envelope(fourier.squared_frequency((p.box, p.box, p.box)))
g = torch.minimum(a, (P_t / P_s).sqrt())
missing = (P_t - g**2 * P_s).clamp_min(0)
white = torch.fft.rfftn(torch.randn(held_s.shape, generator=generator), dim=(2, 3, 4))
by_hand = torch.fft.irfftn(g * torch.fft.rfftn(held_s, dim=(2, 3, 4)) + missing.sqrt() * white, s=(p.box,) * 3)

powers = {"source": P_s, "target": P_t, "warped by hand": mean_spectrum(by_hand), "noise added": missing}
lesson.figure(warping.spectrum_maps(powers, g), "spectrum_planes")
print(f"{float((g < a).float().mean()):.1%} of the frequencies are turned down below the envelope")

# %% [markdown]
# Now the curves, on subtomograms that took no part in the measurement. Left is the power, most of which is noise; right is the
# average particle. **If the idea is right, light blue (warped) lies on orange (target) in both.** A warp that only added noise
# would manage the left one, and leave the right one where the dark blue line (source) is.
#
# **What do you expect?** In which of the two will the fit be better? The lines below say by how much.

# %%
domains = {"source": held_s, "target": held_t, "warped": by_hand}
curve = {name: figures.radial_spectrum(x) for name, x in domains.items()}
fig, axes = plt.subplots(1, 2, figsize=(8.2, 2.9), layout="constrained")
for (name, x), line in zip(domains.items(), ("-", "--", ":"), strict=True):
    axes[0].semilogy(curve[name][0] / p.voxel_size, curve[name][1], line, color=pictures.COLOURS[name], label=name)
    axes[1].plot(k / p.voxel_size, shell_amplitude(x)[0], line, color=pictures.COLOURS[name])
for ax, title in zip(axes, ("mean power per voxel", "amplitude of the average particle"), strict=True):
    ax.set(xlabel="spatial frequency (1/Å)", title=title)
axes[0].legend()
lesson.figure(fig, "spectra_by_hand")
off_before, off_after = (
    float(abs(torch.from_numpy(curve[x][1] / curve["target"][1]).log()).mean()) for x in ("source", "warped")
)
print(f"mean distance to the target's power: a factor {math.exp(off_before):.2f} before the warp")
lesson.checkpoint("factor to the target's power, after the warp", math.exp(off_after))
by_hand_off = warping.off_target(shell_amplitude(by_hand)[0], amplitude_t, samples)
print(f"off the target's average particle: {misfit['before']:.0%} before, {by_hand_off:.0%} after the warp")
warps["spectrum"] = SpectrumWarp.estimate(measured_s, measured_t)
warped = picture("spectrum")
print(f"mean power of a voxel: {few.square().mean():.2f} before the core's warp, {warped.square().mean():.2f} after")

# %% [markdown]
# The second figure is the core's `SpectrumWarp`. It is what was built here, and four things more. Each subtomogram follows *one drawn target subtomogram's* deviation from the mean,
# for target subtomograms differ among themselves. The gain varies by up to a factor of 1.3 either way. A random part of
# the b_factor_voxels is taken, because an average is also blurred by picking errors, which no single subtomogram has. Realism
# training (03b) may bend P_t by up to a factor of 2. The mean source spectrum is used, not the subtomogram's own.
# Otherwise every molecule would be scaled to the same brightness, and a mark of its class would be gone.
#
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
domains = {"source": held_s, "target": held_t, "warped": both}
lesson.figure(figures.histograms(domains), "histograms")
ends = {name: float(x[:64].flatten()[::7].quantile(0.9999)) for name, x in domains.items()}
print("one value in 10,000 is above:", ", ".join(f"{name} {value:.1f}" for name, value in ends.items()))
nearer = abs(ends["warped"] - ends["target"]) < abs(ends["source"] - ends["target"])
print(f"the warped tail ends {'nearer to' if nearer else 'no nearer to'} the target's than the source's tail does")

# %% [markdown]
# **Recap**
# - The average particle says how much signal is left; two mean spectra say which noise is missing.
# - Both are fitted without labels, and tested on subtomograms that took no part in the fit.
# - Clipping needs a warp of grey values, because no filter can imitate it.
#
# ## 3 · Does a classifier gain? (14 minutes)
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
names = dict.fromkeys(("source_only", "cryoshift", *run.methods))
fits = {name: run.fit(name, source, target, validation) for name in names}
styled = target_styled(validation.x, fits["cryoshift"].warps, run.generator("carry"))
gains = []
for name, fit in fits.items():
    found = {"method": name}
    for what, x in (("accuracy, source", validation.x), ("accuracy, target-styled", styled)):
        hit = models.predict(fit.network, x, device=run.params.device).argmax(1) == validation.y
        found[what] = float(hit.float().mean())
    on_target = models.outputs(fit.network, target.x, device=run.params.device)
    found["IM score"] = float(losses.information_maximisation(on_target.probabilities))
    gains.append(found | {"ClassAMI": selection.class_ami(on_target)})
run.save_table(gains, "gains")
lesson.figure(warping.score_panels(gains, "method"), "gains")
plain, adapted = gains[:2]
for word, column in {"price": "accuracy, source", "promise": "accuracy, target-styled"}.items():
    print(f"{word}: {column} {plain[column]:.2f} -> {adapted[column]:.2f} ({adapted[column] - plain[column]:+.2f})")
lesson.checkpoint("target-styled accuracy of cryoshift", adapted["accuracy, target-styled"])

# %% [markdown]
# The first panel is the price, the second the promise. The other two are read off the target itself. Notebook 05 opens the
# held-out labels.
#
# ### Your turn: the mixing desk
#
# One slider per warp, and one subtomogram that neither network was trained on. Left it is in the xy plane, beside it in the xz plane, where
# the wedge is. Right are the probabilities that both classifiers give each class; the true one is in bold. At amount 0 every warp
# is the identity. In JupyterLab you can mix them all; in a static copy each row turns up one warp, with the others at 0 (framed).
#
# **What do you expect?** Which warp makes `source_only` change its mind? And at which amount would you no longer put your name under the label?

# %%
warps = {name: warps[name] for name in warping.ORDER}  # in which recipes apply them
row = int(validation.snr.argsort()[int(0.7 * len(validation))])  # a clear one
typical, true = torch.cat([validation.x[row : row + 1], held_s[:3]]), int(validation.y[row])


@torch.no_grad()
def draw(axes, **amounts):
    x = typical
    for name, how_much in amounts.items():
        x = warps[name](x, how_much, torch.Generator().manual_seed(seed))
    both = {name: models.predict(fits[name].network, x[:1], device=run.params.device)[0] for name in list(names)[:2]}
    if axes:
        warping.mixing_desk(axes, x[0, 0], both, p.classes, true)
    return ", ".join(f"{name} {p.classes[int(q.argmax())]} {float(q.max()):.0%}" for name, q in both.items())


sliders = {name: (f"{name}: amount", [0.0, 0.25, 0.5, 0.75, 1.0]) for name in warps}
run.explore(draw, "mixing_desk", sliders, panels=3, start=dict.fromkeys(warps, 0.0), size=2.3, frames=3)
for name in (f"{p.classes[true]}, unwarped", *warps):
    print(f"{name}: {draw((), **{one: float(one == name) for one in warps})}")

# %% [markdown]
# ### Exercise 3 · The largest amount
#
# How much of a warp may there be? As long as some classifier reads the class from the warped subtomogram, the label is kept; the
# other way round, a classifier that fails proves nothing. Given `curve`, amount -> accuracy, return the largest amount up to which
# the accuracy **never** falls by more than `lost` below that at amount 0.

# %% tags=["given"]
steady = {0.0: 0.95, 0.25: 0.94, 0.5: 0.92, 0.75: 0.80, 1.0: 0.70}
dented = {0.0: 0.90, 0.25: 0.80, 0.5: 0.88, 0.75: 0.87, 1.0: 0.60}
slow = {0.0: 0.90, 0.25: 0.87, 0.5: 0.84, 0.75: 0.81, 1.0: 0.78}
weak = {0.0: 0.60, 0.25: 0.60, 0.5: 0.58, 0.75: 0.58, 1.0: 0.57}


# %% tags=["exercise"]
def largest_amount(curve, lost=0.05):
    return None


# %% tags=["solution", "hide-cell"]
def largest_amount(curve, lost=0.05):
    kept = 0.0
    for amount in sorted(curve):
        if curve[amount] < curve[0.0] - lost:
            break
        kept = amount
    return kept


# %% [raw] tags=["mistakes", "remove-cell"]
# name = "largest_amount"
# cases = ['largest_amount(steady)', 'largest_amount(dented)', 'largest_amount(slow)', 'largest_amount(weak)', 'largest_amount(slow, 0.1)']
# wrong = ['''
# def largest_amount(curve, lost=0.05):
#     return 0.5
# ''']
#
# [[mistake]]
# code = '''
# def largest_amount(curve, lost=0.05):
#     return max(amount for amount in curve if curve[amount] >= curve[0.0] - lost)
# '''
# hint = 'the accuracy had fallen further at a smaller amount, and came back by chance. Stop at the first amount that loses too much.'
#
# [[mistake]]
# code = '''
# def largest_amount(curve, lost=0.05):
#     return min([amount for amount in curve if curve[amount] < curve[0.0] - lost] or [1.0])
# '''
# hint = 'that is the first amount that loses too much. The last one before it was asked for.'
#
# [[mistake]]
# code = '''
# def largest_amount(curve, lost=0.05):
#     kept = 0.0
#     for amount in sorted(curve):
#         if curve[amount] < 1 - lost:
#             break
#         kept = amount
#     return kept
# '''
# hint = 'the loss counts from the accuracy at amount 0, and not from 1: a weak classifier was wrong before anything was warped.'
#
# [[mistake]]
# code = '''
# def largest_amount(curve, lost=0.05):
#     amounts = sorted(curve)
#     for before, after in zip(amounts, amounts[1:]):
#         if curve[after] < curve[before] - lost:
#             return before
#     return amounts[-1]
# '''
# hint = 'that compares neighbouring amounts. Many small steps down make a large one: compare with amount 0.'

# %%
lesson.check("largest_amount")

# %% [markdown]
# Now measured, for the two classifiers, on held-out source subtomograms. `cryoshift` has learned from shifted and crowded
# subtomograms, and from those with the target's spectrum and grey values (its shifts were at most half a voxel, here they are up to
# 2); it has never seen the other three warps.
#
# **What do you expect?** Which warp does `source_only` tolerate least? Is it the same one for `cryoshift`?

# %%
x, y = validation.x[::3], validation.y[::3]


def right(name, x):
    return float((models.predict(fits[name].network, x, device=run.params.device).argmax(1) == y).float().mean())


tolerated = {name: {warp: {0.0: right(name, x)} for warp in warps} for name in ("source_only", "cryoshift")}
with torch.no_grad():
    for warp, amount in ((warp, amount) for warp in warps for amount in (0.25, 0.5, 0.75, 1.0)):
        changed = warps[warp](x, amount, run.generator("tolerance"))
        for name, by_warp in tolerated.items():
            by_warp[warp][amount] = right(name, changed)
lesson.figure(warping.tolerance_curves(tolerated), "tolerated")
for name, by_warp in tolerated.items():
    least = min(by_warp, key=lambda warp: by_warp[warp][1.0])
    print(f"{name}: lowest accuracy at amount 1 with {least}, {by_warp[least][1.0]:.2f}")
    if lesson.solved("largest_amount"):
        print("   largest amounts:", ", ".join(f"{warp} {largest_amount(one):g}" for warp, one in by_warp.items()))

# %% tags=["solution", "remove-cell"]
assert not lesson.unsolved(), lesson.unsolved()

# %% tags=["hide-input"] jupyter={"source_hidden": true}
assert largest_delta <= 0.8 + 1e-6 and largest_move <= 1 + 1e-6
assert largest_shift <= 2.02 and largest_factor <= 3
assert all(torch.equal(module(few[:1], amount=0.0), few[:1]) for module in warps.values()), "amount 0 is the identity"
if p.name != "smoke":
    assert off_after < math.log(1.15), "the warped curve must meet the target's within 15 % on average"
    assert misfit["after"] <= misfit["before"] + 0.05, "the envelope must not lead away from the target's particle"
    assert gains[1]["accuracy, target-styled"] > gains[0]["accuracy, target-styled"], "trained on such subtomograms"
run.report(
    spectrum_off_before=math.exp(off_before),
    spectrum_off_after=math.exp(off_after),
    particle_off=[misfit["before"], misfit["after"]],
    target_styled_accuracy=[row["accuracy, target-styled"] for row in gains],
)
manifest = run.finish()

# %% [markdown]
# **Recap**
# - Source subtomograms in the target's style have labels: a forecast, with an advantage for the method that trained on them.
# - Two classifiers tolerate different amounts; a warp that neither tolerates may still keep the label.
# - The proof is a score with held-out labels, on seeds that were not used to choose anything.
#
# ## What to take away
#
# - A warp is a *bounded* change. Bounds belong into the last layer, not into hope.
# - The spectrum warp is not learned. The average particle says how much signal is left, two mean spectra say which
#   noise is missing. It needs the target's subtomograms, and none of its labels.
# - Source subtomograms in the style of the target have labels: what a classifier scores on them is a forecast, better than none.
#
# ## Questions to think about
#
# 1. The envelope assumes that classes are about as frequent in both domains. A target holds mostly the largest molecule: which
#    way does the gain go wrong?
# 2. Neighbours of the particle raise the target's power at low frequency. What does the spectrum warp make of them, and
#    why does `cryoshift` apply the crowding warp *before* the spectra are measured?
# 3. A target in which half of the subtomograms hold no particle at all: which of the two averages would mislead, and how?
