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
# # 01b · A source domain
#
# Notebook 01 made one subtomogram out of atoms. A network needs thousands, each with a label, and from more than one setting of
# the microscope. How are they made in seconds, and what is in them?
#
# **What you will learn**
# - how defocus, dose, tilt range and ice thickness change a subtomogram (with sliders), and its signal-to-noise ratio;
# - why a whole tilt series can be replaced by one multiplication, and how well that works;
# - what the source domain of this course contains, and which molecules are hard in it;
# - why neighbours are imaged before the box is cut.
#
# **What you need**: notebook 01 helps, but this one runs alone; about 35 minutes to read and try. Everything here is simulated.
# Words in links are explained in the [glossary](../docs/glossary.md).
#
# | profile | time | memory |
# |---|---|---|
# | smoke | 14 s | 550 MB |
# | laptop | 22 s | 1200 MB |

# %% tags=["hide-input"] jupyter={"source_hidden": true}
import time

import numpy as np
import torch

from cryoshift_core.application import pictures
from cryoshift_core.course import exercises, figures
from cryoshift_core.course.run import begin
from cryoshift_core.simulation import datasets, imaging, optics, specimens, structures
from cryoshift_core.simulation.datasets import DatasetConfig

# %% tags=["parameters"]
profile: str = "laptop"  # how much work: smoke, laptop, gpu or paper
molecule: str = "ribosome_80S"  # the class that the sliders show
defocus: float = 3.0  # um, underfocus positive
dose: float = 3.0  # e/A^2 per tilt image
tilt_range: float = 60.0  # the series runs from minus to plus this angle, degrees
seed: int = 0  # decides every random draw
out_dir: str = ""  # where to write; empty: runs/<profile>/01b_a_source_domain

# %%
run = begin("01b_a_source_domain", globals())
lesson = exercises.Lesson(run, globals())
pictures.use_style()
p = run.profile
n, pixel = p.box, p.voxel_size
generator = run.generator("settings")
setting = optics.Optics(
    voxel_size=pixel, defocus=defocus, dose_per_tilt=dose, tilts=optics.tilt_scheme(-tilt_range, tilt_range)
)
bank = specimens.templates([molecule], pixel, n, generator=generator)
one = specimens.specimens(torch.zeros(1, dtype=torch.long), bank, generator=generator, offset=0.0)

# %% [markdown]
# ## 1 · One subtomogram, other settings (12 minutes)
#
# In JupyterLab these are sliders; in a static copy, each row moves one of them, and the framed picture is where the others stand.
#
# The [SNR](../docs/glossary.md#snr) is *realised*: var(signal) / var(noise) measured in this very box.
#
# **What do you expect?** With the dose per tilt fixed, does a wider tilt range raise the SNR in the box? The line below the
# figure says what comes out.

# %%
sliders = {
    "defocus": ("defocus (µm)", [0.5, 1.5, 3.0, 5.0, 8.0]),
    "dose": ("dose per tilt (e/Å²)", [0.5, 1.0, 2.0, 4.0, 8.0]),
    "tilts": ("tilt range ± (degrees)", [20, 35, 50, 60, 70]),
    "thickness": ("ice thickness (nm)", [50, 100, 200, 300, 400]),
}
first = {"defocus": 3.0, "dose": 2.0, "tilts": 60, "thickness": 100}


def draw(axes, defocus, dose, tilts, thickness):
    around = {"voxel_size": pixel, "tilts": optics.tilt_scheme(-tilts, tilts)}
    now = optics.Optics(**around, defocus=defocus, dose_per_tilt=dose, thickness=thickness)
    cube = imaging.image_by_transfer(one, bank, now, generator=torch.Generator().manual_seed(seed))
    pictures.show(axes[0], cube.x[0, 0, n // 2], "xy")
    pictures.show(axes[1], cube.x[0, 0][:, n // 2], f"xz   SNR {cube.snr[0]:.2g}")


run.explore(draw, "sliders", sliders, panels=2, start=first, size=2.4)


# %%
def mean_snr(tilts, dose):
    """Mean realised SNR of eight images of the molecule."""
    now = optics.Optics(voxel_size=pixel, dose_per_tilt=dose, tilts=optics.tilt_scheme(-tilts, tilts))
    images = (imaging.image_by_transfer(one, bank, now, generator=generator) for _ in range(8))
    return float(np.mean([float(image.snr[0]) for image in images]))


by_range = {tilts: mean_snr(tilts, 2.0) for tilts in (20, 40, 60, 70)}
by_dose = {dose: mean_snr(60, dose) for dose in (1.0, 4.0)}
print("SNR in the box:", ", ".join(f"±{tilts}°: {snr:.3f}" for tilts, snr in by_range.items()))
change, more = by_range[70] / by_range[20], by_dose[4.0] / by_dose[1.0]
verdict = "rises" if change > 1.15 else "falls" if change < 0.85 else "hardly changes"
print(
    f"From ±20° to ±70° it {verdict} (a factor {change:.2f}); from 1 to 4 e/Å² per tilt it changes by a factor {more:.2f}."
)

# %% [markdown]
# ### Exercise 1 · The realised SNR
#
# A simulator can image the same particle twice: without noise (`clean`) and with it (`noisy`), on the same grey scale. Write the
# realised SNR of such a pair of arrays, var(signal) / var(noise). What do you expect if both are multiplied by 3?

# %% tags=["given"]
boxes = np.random.default_rng(0)
a_clean = boxes.normal(size=(8, 8, 8)) * np.linspace(0, 2, 8)
a_noisy = a_clean + 3 * boxes.normal(size=(8, 8, 8))


# %% tags=["exercise"]
def realised_snr(clean, noisy):
    return None


# %% tags=["solution", "hide-cell"]
def realised_snr(clean, noisy):
    return np.var(clean) / np.var(noisy - clean)


print(f"SNR {realised_snr(a_clean, a_noisy):.3f}; three times as bright: {realised_snr(3 * a_clean, 3 * a_noisy):.3f}")

# %% [raw] tags=["mistakes", "remove-cell"]
# name = "realised_snr"
# cases = ['realised_snr(a_clean, a_noisy)', 'realised_snr(3 * a_clean, 3 * a_noisy)', 'realised_snr(a_clean + 5, a_noisy + 5)']
# wrong = ['''
# def realised_snr(clean, noisy):
#     return 0.1
# ''']
#
# [[mistake]]
# code = '''
# def realised_snr(clean, noisy):
#     return np.var(clean) / np.var(noisy)
# '''
# hint = 'the noisy box holds the signal, too. The noise alone is the difference of the two.'
#
# [[mistake]]
# code = '''
# def realised_snr(clean, noisy):
#     return np.std(clean) / np.std(noisy - clean)
# '''
# hint = 'that is a ratio of amplitudes. The SNR of this course is one of variances, its square.'
#
# [[mistake]]
# code = '''
# def realised_snr(clean, noisy):
#     return np.var(noisy) / np.var(noisy - clean)
# '''
# hint = 'the variance of the noisy box is that of signal plus noise: this is SNR + 1.'
#
# [[mistake]]
# code = '''
# def realised_snr(clean, noisy):
#     return np.mean(clean**2) / np.mean((noisy - clean) ** 2)
# '''
# hint = 'a mean square counts a constant background as signal. The variance takes the mean off first.'

# %%
lesson.check("realised_snr")

# %% [markdown]
# ### Exercise 2 · Does the SNR rise with the tilt range?
#
# Seen from Fourier space: tilt image i fills a slice, with power `signal[i]` of the particle and power `noise[i]` of the shot noise. In the
# box, the powers of all slices add up. Return the SNR in the box. What do you expect when a second image, just like the first, is
# added at another angle?


# %% tags=["exercise"]
def box_snr(signal, noise):
    return None  # of two arrays of equal length


# %% tags=["solution", "hide-cell"]
def box_snr(signal, noise):
    return np.sum(signal) / np.sum(noise)


print(f"one image: {box_snr(np.array([2.0]), np.array([10.0])):.2f}, ", end="")
print(f"two alike: {box_snr(np.array([2.0, 2.0]), np.array([10.0, 10.0])):.2f}")

# %% [raw] tags=["mistakes", "remove-cell"]
# name = "box_snr"
# cases = ['box_snr(np.array([2.0]), np.array([10.0]))', 'box_snr(np.array([2.0, 2.0]), np.array([10.0, 10.0]))', 'box_snr(np.array([2.0, 1.0, 0.5]), np.array([10.0, 10.0, 20.0]))']
# wrong = ['''
# def box_snr(signal, noise):
#     return 0.2
# ''']
#
# [[mistake]]
# code = '''
# def box_snr(signal, noise):
#     return np.sum(signal / noise)
# '''
# hint = 'that grows with every image, as if the noise of one were the same as that of the next. Each slice brings noise of its own: add the noise, too.'
#
# [[mistake]]
# code = '''
# def box_snr(signal, noise):
#     return np.mean(signal / noise)
# '''
# hint = 'that is the mean of the ratios. A slice with much noise spoils the box more than that: divide the sums.'
#
# [[mistake]]
# code = '''
# def box_snr(signal, noise):
#     return np.sum(signal) / np.mean(noise)
# '''
# hint = 'the noise was averaged. That would be so for images of the *same* slice; those at other angles fill other frequencies.'
#
# [[mistake]]
# code = '''
# def box_snr(signal, noise):
#     return np.sum(signal) / np.sqrt(np.sum(noise**2))
# '''
# hint = 'these are powers already. The powers of independent noise add without squares.'

# %%
lesson.check("box_snr")

# %% [markdown]
# **Recap**
# - SNR is measured in the box.
# - The dose changes it; the tilt range hardly does.
# - More tilts bring signal and noise at once.
#
# ## 2 · Two roads to the same subtomogram (7 minutes)
#
# Tilting, imaging and reconstructing are all *linear*. So the whole series is one transfer function H(k) and one noise
# spectrum S(k) in 3-D. Both are computed once per microscope setting; then a subtomogram costs one gather, one multiplication
# and a few FFTs. The slow path checks the fast one. The fast one makes the source, the slow one the target.
#
# **What do you expect?** In which [shells](../docs/glossary.md#shell) do the two paths differ most: coarse shape, or fine detail?

# %%
n_check = 4 if p.name == "smoke" else 16
three = [name for name in p.classes if name in structures.BUILTIN][:3]
bank3 = specimens.templates(three, pixel, n, generator=generator)
many = specimens.specimens(torch.arange(3 * n_check) % 3, bank3, generator=generator)
cubes, seconds = {}, {}
for name, path in (("transfer", imaging.image_by_transfer), ("tilt series", imaging.image_by_tilt_series)):
    path(many[:3], bank3, setting, generator=generator, noise=False)  # fills the caches: settings are computed once
    start = time.process_time()
    cubes[name] = path(many, bank3, setting, generator=generator, noise=False).x
    seconds[name] = (time.process_time() - start) / len(many)
agreement = [float(np.corrcoef(a.flatten(), b.flatten())[0, 1]) for a, b in zip(*cubes.values(), strict=True)]
lesson.checkpoint("mean correlation of the two paths", float(np.mean(agreement)))
print(f"least correlation {min(agreement):.3f}")
print(", ".join(f"{name}: {1e3 * s:.1f} CPU-ms per subtomogram" for name, s in seconds.items()))
_, power = figures.radial_spectrum(cubes["tilt series"])
_, off = figures.radial_spectrum(cubes["transfer"] - cubes["tilt series"])
bands = {"lowest": slice(0, 3), "middle": slice(4, 10), "highest": slice(-4, None)}
shares = {word: (off[part].sum() / power[part].sum()) ** 0.5 for word, part in bands.items()}
print("difference in amplitude:", ", ".join(f"{share:.1%} in the {word} shells" for word, share in shares.items()))
print(f"The paths differ most in the {max(shares, key=shares.get)} shells.")

# %%
rows = {name: x[:3] for name, x in cubes.items()}
rows["difference"] = rows["transfer"] - rows["tilt series"]
lesson.figure(pictures.gallery(rows, three), "two_paths")
assert min(agreement) > 0.97, "both paths must show the same molecule"

# %% [markdown]
# The rows share no grey scale: the difference is stretched to be seen. The printed shares say at which frequencies the
# paths differ, and by how much. Their causes are interpolation, and the width of the slices at the rim of the wedge.
#
# **Recap**
# - Imaging is linear, so one transfer function replaces a tilt series.
# - Both paths are compared shell by shell, not by eye.
# - Source and target come from different paths.
#
# ## 3 · The source domain (6 minutes)
#
# Thousands of labelled subtomograms, each with a random pose, from two dozen microscope settings. The box plot shows the realised
# SNR of each class.
#
# **What do you expect?** Is the heaviest molecule the one with the best SNR?

# %%
source = datasets.simulate_source(DatasetConfig.of(p, "source", "source", run.params.seed), folder=run.data_folder)
fig = pictures.gallery(
    {
        f"example {i + 1}": torch.stack([source.x[source.y == c][i] for c in range(len(source.classes))])
        for i in range(3)
    },
    source.classes,
)
lesson.figure(fig, "source_cubes")

# %%
fig, median = figures.snr_of_classes(source)
lesson.figure(fig, "snr")
weighed = [name for name in source.classes if name in structures.BUILTIN]
mass = {name: structures.BUILTIN[name].mass_kda for name in weighed}
heaviest, lightest = (f(weighed, key=mass.get) for f in (max, min))
best = max(median, key=median.get)
print(f"best SNR: {best} ({median[best]:.2f}); heaviest: {heaviest} ({median[heaviest]:.2f}); ", end="")
print(f"lightest: {lightest} ({median[lightest]:.2f})")
ranks = [np.argsort(np.argsort([values[name] for name in weighed])) for values in (mass, median)]
print(f"rank correlation of mass and SNR: {np.corrcoef(*ranks)[0, 1]:.2f}")

# %% [markdown]
# **Recap**
# - Labels are free in simulation.
# - The SNR differs between classes.
# - Light molecules have the lowest SNR; the line above says how well mass and SNR agree.
#
# ## 4 · From one to many: neighbours (8 minutes)
#
# In a cell a molecule is not alone. Neighbours are imaged in a field wider than the box and cropped *afterwards*, because
# defocus spreads their signal into the box. Left to right: the same particles with none, 10 %, 20 % and 30 % of the
# volume filled. The pictures are sums along the beam, because a neighbour need not lie in the central section.
#
# **What do you expect?** From which fraction on would you not be sure which particle is meant?

# %%
rows = {}
for percent in (0, 10, 20, 30):
    g = torch.Generator().manual_seed(seed)
    crowd = specimens.specimens(torch.arange(3), bank3, generator=g, crowding=percent / 100)
    x = imaging.image_by_transfer(crowd, bank3, setting, generator=g).x
    rows[f"{percent} %"] = x
crowded = {name: torch.stack([rows[q][i] for q in rows]) for i, name in enumerate(three)}
lesson.figure(pictures.gallery(crowded, list(rows), projection=True), "crowding")

# %% [markdown]
# ### Exercise 3 · How far does defocus carry a neighbour?
#
# Out of focus, a wave of spacing d is displaced by λ Δz / d, with λ, the defocus Δz and d in Å. Write a function that returns the edge (Å) of
# the field that has to be imaged so that no displaced signal is missing in a box with the edge `box`: neighbours stand on both
# sides. What do you expect: a field a little larger than the box, or twice as large?

# %% tags=["given"]
wavelength = 0.0197  # A, of electrons at 300 kV


# %% tags=["exercise"]
def field_edge(box, defocus_um, spacing):
    return None  # A


# %% tags=["solution", "hide-cell"]
def field_edge(box, defocus_um, spacing):
    return box + 2 * wavelength * defocus_um * 1e4 / spacing


print(f"box of 384 Å, 3 µm, 24 Å: {field_edge(384, 3.0, 24.0):.0f} Å; at 8 µm: {field_edge(384, 8.0, 24.0):.0f} Å")

# %% [raw] tags=["mistakes", "remove-cell"]
# name = "field_edge"
# cases = ['field_edge(384, 3.0, 24.0)', 'field_edge(384, 8.0, 24.0)', 'field_edge(300, 3.0, 48.0)']
# tolerance = 0.005
# wrong = ['''
# def field_edge(box, defocus_um, spacing):
#     return 1.13 * box
# ''', '''
# def field_edge(box, defocus_um, spacing):
#     return 2 * box
# ''']
#
# [[mistake]]
# code = '''
# def field_edge(box, defocus_um, spacing):
#     return box + wavelength * defocus_um * 1e4 / spacing
# '''
# hint = 'that is room on one side only. Neighbours stand on both sides of the box.'
#
# [[mistake]]
# code = '''
# def field_edge(box, defocus_um, spacing):
#     return box + 2 * wavelength * defocus_um / spacing
# '''
# hint = 'the defocus is in µm here, and the others in Å: 1 µm is 10,000 Å.'
#
# [[mistake]]
# code = '''
# def field_edge(box, defocus_um, spacing):
#     return 2 * wavelength * defocus_um * 1e4 / spacing
# '''
# hint = 'that is the margin alone. The field holds the box, too.'
#
# [[mistake]]
# code = '''
# def field_edge(box, defocus_um, spacing):
#     return box + 2 * wavelength * defocus_um * 1e4 * spacing
# '''
# hint = 'fine detail, of a small spacing, is displaced furthest: divide by the spacing.'

# %%
lesson.check("field_edge")

# %% tags=["solution", "remove-cell"]
assert not lesson.unsolved(), lesson.unsolved()

# %%
run.report(path_correlation=float(np.mean(agreement)), speed_up=seconds["tilt series"] / seconds["transfer"])
manifest = run.finish()

# %% [markdown]
# **Recap**
# - Neighbours are imaged before the box is cut.
# - A neighbour may be outside the central section.
# - The label names the particle in the centre.
#
# ## What to take away
#
# - The series is linear: one transfer function replaces it, which makes thousands of subtomograms a matter of seconds.
# - SNR here always means what was measured in the box.
# - A source domain is a choice: classes, settings of the microscope, neighbours. What it leaves out, a network cannot learn from it.
#
# ## Questions to think about
#
# 1. The source is made by the fast path and the target by the slow one. What would go unnoticed if both used the fast one?
# 2. Which settings would you draw for the source if you knew nothing about the microscope of the target?
# 3. All classes of the source are equally frequent. What would a network learn from a source that is as uneven as a cell?
