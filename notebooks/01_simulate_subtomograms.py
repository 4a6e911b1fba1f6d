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
# # 01 · Simulate subtomograms
#
# From atoms to a noisy subtomogram: what an electron microscope, a tilting stage and a limited dose make of a molecule.
#
# **What you will learn**
# - how coordinates become an electrostatic potential map;
# - what one tilt image, a tilt series and a reconstruction look like, and where the missing wedge comes from;
# - what the tilts leave unmeasured: how much, in which directions, and when averaging brings it back.
#
# **What you need**: nothing but this repository, and about 40 minutes to read and try. Everything here is simulated; the
# molecular maps derive from public PDB entries. Words in links are explained in the [glossary](../docs/glossary.md). How
# thousands of labelled subtomograms are made of one is the subject of [01b](01b_a_source_domain.ipynb).
#
# | profile | time | memory |
# |---|---|---|
# | smoke | 19 s | 600 MB |
# | laptop | 23 s | 670 MB |

# %% tags=["hide-input"] jupyter={"source_hidden": true}
from dataclasses import replace
from functools import cache

import matplotlib.pyplot as plt
import numpy as np
import torch

from cryoshift_core.application import pictures
from cryoshift_core.course import exercises, figures, view3d
from cryoshift_core.course.run import begin
from cryoshift_core.simulation import imaging, optics, specimens, structures

# %% tags=["parameters"]
profile: str = "laptop"  # how much work: smoke, laptop, gpu or paper
molecule: str = "ribosome_80S"  # the class whose tilt series is shown
defocus: float = 3.0  # um, underfocus positive
dose: float = 3.0  # e/A^2 per tilt image
tilt_range: float = 60.0  # the series runs from minus to plus this angle, degrees
seed: int = 0  # decides every random draw
out_dir: str = ""  # where to write; empty: runs/<profile>/01_simulate_subtomograms

# %%
run = begin("01_simulate_subtomograms", globals())
lesson = exercises.Lesson(run, globals())
pictures.use_style()
p = run.profile
n, pixel = p.box, p.voxel_size
print(f"boxes of {n}^3 voxels of {pixel:g} Å: {n * pixel:.0f} Å wide")

# %% [markdown]
# ## 1 · From atoms to a potential (5 minutes)
#
# Electrons are deflected by the electrostatic potential. `structures` sums the scattering factors of all atoms on a fine
# grid, subtracts the ice that they displace, and cuts the result to our pixel size in Fourier space. Eleven classes are
# shipped as such maps, and any PDB, mmCIF or MRC file works as a class too.
#
# **What do you expect?** Which two classes will be hardest to tell apart? Look at sizes (the bar is 100 Å) and at hollow shells.

# %%
maps = {name: structures.template(name, pixel, n) for name in p.classes}
lesson.figure(figures.molecules(maps, pixel), "molecules")
for name in p.classes:
    if name in structures.BUILTIN:
        entry = structures.BUILTIN[name]
        print(f"{name:14} PDB {entry.pdb_id}  {entry.mass_kda:6.0f} kDa  {entry.diameter:4.0f} Å  {entry.description}")

# %% [markdown]
# The same molecules in space, to turn: with the pointer where k3d is installed, with a slider elsewhere.

# %%
fig = view3d.molecules(maps, pixel)
if fig:
    lesson.figure(fig, "in_space")

# %% [markdown]
# **Recap**
# - Atoms scatter electrons; their potential minus that of the ice is what is imaged.
# - Classes differ in size and shape; similar ones will be confused.
# - A map is cut to the pixel size in Fourier space.
#
# ## 2 · What one tilt image shows (10 minutes)
#
# ### Fourier for today
#
# A picture is a sum of waves. Each wave has a direction, a spatial frequency (waves per Å), a strength and a place. Low
# frequencies draw the outline, high ones the detail. Move the slider: it keeps the frequencies up to a limit, and leaves out
# the others. Left is a section through a capsid, right the strength of each wave: the lowest frequencies are in the middle.
#
# **What do you expect?** At which smallest spacing does the hole in the middle of the capsid close?

# %%
capsid = structures.template("TYMV_capsid", pixel, n)[n // 2]
wave = torch.fft.fftfreq(n, pixel)
spatial, waves = torch.hypot(wave[:, None], wave[None]), torch.fft.fft2(capsid)
strongest = float(waves.abs().log1p().max())  # one grey scale for all limits


def draw_waves(axes, limit):
    kept = torch.where(spatial <= 1 / limit, waves, 0)
    pictures.show(axes[0], torch.fft.ifft2(kept).real, f"spacings from {limit:g} Å")
    pictures.show(axes[1], torch.fft.fftshift(kept.abs().log1p()), "its waves")
    axes[1].images[0].set_clim(0, strongest)


limits = [26, 40, 60, 100, 200, 300]
run.explore(draw_waves, "waves", {"limit": ("smallest spacing (Å)", limits)}, panels=2, start={"limit": 60}, size=2.2)
left = {limit: torch.fft.ifft2(torch.where(spatial <= 1 / limit, waves, 0)).real for limit in limits}
closed = [limit for limit, image in left.items() if image[n // 2, n // 2] > image.max() - 1e-4]
print(f"The middle is the brightest place, and the hole closed, from {closed[0]} Å on." if closed else "It stays open.")

# %% [markdown]
# ### A projection is a slice
#
# A tilt image is a projection of the tilted specimen. In Fourier space that is a
# [*central slice*](../docs/glossary.md#central-slice) of its transform (the projection theorem), times the
# [contrast transfer function](../docs/glossary.md#ctf) (CTF), plus the shot noise of a limited dose. Top: what an ideal
# microscope would see. Bottom: what ours records.

# %%
generator = run.generator("tilts")
setting = optics.Optics(
    voxel_size=pixel, defocus=defocus, dose_per_tilt=dose, tilts=optics.tilt_scheme(-tilt_range, tilt_range)
)
bank = specimens.templates([molecule], pixel, n, generator=generator)
one = specimens.specimens(torch.zeros(1, dtype=torch.long), bank, generator=generator, offset=0.0)
shown = [i for i, t in enumerate(setting.tilts) if t in (min(setting.tilts), 0.0, max(setting.tilts))]
shown.sort(key=lambda i: setting.tilts[i])

# %%
k, index = imaging.tilt_slices(setting.tilts, n)
slices = imaging.gather(bank, one, 0, k.reshape(-1, 3)).reshape(len(setting.tilts), -1)
in_plane = k[0].norm(dim=-1)
signal, weight = optics.tilt_amplitude(in_plane, setting)


def to_image(values):
    """Half-plane Fourier samples of one tilt to the central (n, n) part of its image."""
    grid = torch.zeros(2 * n * (n + 1), dtype=torch.complex64)
    grid[index] = values
    image = torch.fft.fftshift(torch.fft.irfft2(grid.reshape(2 * n, n + 1), s=(2 * n, 2 * n)))
    return image[n // 2 : n // 2 + n, n // 2 : n // 2 + n]


# %%
fig, axes = plt.subplots(2, 3, figsize=(6.3, 4.4), layout="constrained")
for column, i in enumerate(shown):
    pictures.show(axes[0, column], to_image(slices[i]), f"ideal projection, {setting.tilts[i]:.0f}°")
    recorded = to_image(slices[i] * signal[i])
    recorded = recorded + torch.randn(n, n, generator=generator) * optics.shot_noise(setting)[i]
    pictures.show(axes[1, column], recorded, f"recorded, image {i + 1} of {len(setting.tilts)}")
run.save_figure(fig, "tilt_images")
plt.show()

# %% [markdown]
# This series is *dose-symmetric*: it starts at 0° and goes outwards on both sides. The steeper the tilt, the thicker the ice on
# the electrons' way and the later the image: both cost contrast.
#
# **Recap**
# - A tilt image is a projection; its transform is a central slice.
# - Each image has the noise of its own dose.
# - Steep images come last and see more ice.
#
# ## 3 · What the microscope passes (8 minutes)
#
# The CTF oscillates: some spacings come through, some vanish, some flip sign. The dashed line is what radiation damage leaves
# in the last image.
#
# **What do you expect?** Which defocus passes large shapes (the left of the figure) best, and where has it its first zero?

# %%
frequency = torch.linspace(0, 0.5 / pixel, 300)
fig, ax = plt.subplots(figsize=(5.6, 2.8), layout="constrained")
for um in sorted({1.0, defocus, 6.0}):
    ax.plot(frequency, optics.ctf(frequency, replace(setting, defocus=um)), label=f"{um:g} µm")
ax.plot(frequency, optics.dose_filter(frequency, dose * len(setting.tilts)), "k--", label="dose filter, last image")
ax.axhline(0, color="0.8", lw=1)
ax.set(xlabel="spatial frequency (1/Å)", ylabel="transfer", title="Contrast transfer, bright particles")
ax.legend(fontsize=8, ncols=2)
run.save_figure(fig, "ctf")
plt.show()

# %% [markdown]
# ### Exercise 1 · The first zero
#
# At the spacing of the first zero the image shows nothing. Write a function that returns this spacing in Å for a defocus
# in µm. Leave out the spherical aberration and the amplitude contrast: the CTF is then sin(π λ Δz k²), with λ and the
# defocus Δz in Å, and k in 1/Å. What do you expect at 3 µm: a detail larger or smaller than a voxel of 12 Å?

# %% tags=["given"]
wavelength = 0.0197  # A, of electrons at 300 kV


# %% tags=["exercise"]
def first_zero(defocus_um):
    return None  # A


# %% tags=["solution", "hide-cell"]
def first_zero(defocus_um):
    return (wavelength * defocus_um * 1e4) ** 0.5


print(f"first zero at 3 µm: {first_zero(3.0):.1f} Å")

# %% [raw] tags=["mistakes", "remove-cell"]
# name = "first_zero"
# cases = ['first_zero(1.0)', 'first_zero(3.0)', 'first_zero(6.0)']
# tolerance = 0.02
# wrong = ['''
# def first_zero(defocus_um):
#     return 24.3
# ''', '''
# def first_zero(defocus_um):
#     return 8 * defocus_um
# ''']
#
# [[mistake]]
# code = '''
# def first_zero(defocus_um):
#     return 1 / (wavelength * defocus_um * 1e4) ** 0.5
# '''
# hint = 'that is a spatial frequency in 1/Å. The question asks for the spacing, 1/k.'
#
# [[mistake]]
# code = '''
# def first_zero(defocus_um):
#     return (wavelength * defocus_um) ** 0.5
# '''
# hint = 'the wavelength is in Å and the defocus in µm: 1 µm is 10,000 Å.'
#
# [[mistake]]
# code = '''
# def first_zero(defocus_um):
#     return (2 * wavelength * defocus_um * 1e4) ** 0.5
# '''
# hint = 'that is the first maximum, where the phase is half of pi. The sine is zero where the phase is pi.'
#
# [[mistake]]
# code = '''
# def first_zero(defocus_um):
#     return (wavelength * defocus_um * 1e4 / 2) ** 0.5
# '''
# hint = 'that is the second zero, where the phase is two pi.'
#
# [[mistake]]
# code = '''
# def first_zero(defocus_um):
#     return wavelength * defocus_um * 1e4
# '''
# hint = 'lambda times defocus is the square of the spacing.'

# %%
lesson.check("first_zero")

# %% [markdown]
# **Recap**
# - The CTF has zeros and changes of sign; the defocus moves them.
# - The first zero is at the spacing √(λ Δz).
# - Radiation damage takes high frequencies first.
#
# ## 4 · Putting the series together again (15 minutes)
#
# The slices go back into a 3-D transform. Where no slice passes, there is nothing: the
# [**missing wedge**](../docs/glossary.md#missing-wedge). Left without noise, in the middle with the noise of this dose. In
# the bottom row, the plane that contains the beam, the particle is smeared along z, and no filter can bring that back.
# Right: the power of 16 boxes of plain ice in the kx-kz plane, where the wedge is the dark double wedge along kz, and one such
# box, whose grain has the same direction. The tilt axis is y, so every plane at another ky has the same dark wedge.
#
# **What do you expect?** Is the noise in the xz section white, as it is in each tilt image?

# %%
clean = imaging.image_by_tilt_series(one, bank, setting, generator=generator, noise=False).x
noisy = imaging.image_by_tilt_series(one, bank, setting, generator=generator)
empty = specimens.specimens(torch.full((16,), -1), bank, generator=generator)
ice = imaging.image_by_tilt_series(empty, bank, setting, generator=generator).x
fig, axes = plt.subplots(2, 3, figsize=(6.6, 4.6), layout="constrained")
for row, (plane, pick) in enumerate(
    (("xy, across the beam", (n // 2,)), ("xz, along the beam", (slice(None), n // 2)))
):
    pictures.show(axes[row, 0], clean[0, 0][pick], f"noise-free, {plane}")
    pictures.show(axes[row, 1], noisy.x[0, 0][pick], f"SNR {noisy.snr[0]:.2f}, {plane}")
figures.spectrum_plane(axes[0, 2], ice, "ice only: log power, ky = 0")
pictures.show(axes[1, 2], ice[0, 0][:, n // 2], "ice only, xz")
run.save_figure(fig, "reconstruction")
plt.show()

# %% [markdown]
# The [SNR](../docs/glossary.md#snr) is *realised*: var(signal) / var(noise) measured in this very box, not a number that was
# asked for.

# %% [markdown]
# ### One tilt image after the other
#
# The series starts at 0° and goes outwards on both sides. Each image adds one central slice to Fourier space: a plane that
# contains the tilt axis ky (left, in space; kz is the beam). The second slider turns the view. Middle and right: the xz section
# that is reconstructed from the images so far, without and with noise.
#
# **What do you expect?** After how many images do you see the particle's outline along the beam? And once all planes are in: what
# shape has the space between them that stays empty?

# %%
steps = sorted({min(images, len(setting.tilts)) for images in (1, 3, 5, 9, 15, 21, 31, 41)})


@cache
def so_far(images, noise):
    now = replace(setting, tilts=setting.tilts[:images])
    seeded = torch.Generator().manual_seed(seed)
    return imaging.image_by_tilt_series(one, bank, now, generator=seeded, noise=noise).x[0, 0]


def draw_tilts(axes, images, azimuth):
    view3d.tilt_planes(axes[0], setting.tilts[:images], azimuth)
    pictures.show(axes[1], so_far(images, False)[:, n // 2], "noise-free, xz")
    pictures.show(axes[2], so_far(images, True)[:, n // 2], "with noise, xz")


sliders = {"images": ("tilt images", steps), "azimuth": ("view turned by (degrees)", [0, 20, 45, 70, 90])}
first = {"images": steps[len(steps) // 2 + 1], "azimuth": 20}
run.explore(draw_tilts, "tilts_one_by_one", sliders, panels=3, start=first, size=2.4, projection=("3d", None, None))

# %%
whole = so_far(steps[-1], False).flatten()
like = {images: float(np.corrcoef(so_far(images, False).flatten(), whole)[0, 1]) for images in steps}
print("correlation with the whole series:", ", ".join(f"{images} {r:.2f}" for images, r in like.items()))
enough = next(images for images, r in like.items() if r > 0.8)
print(f"From {enough} images on, to ±{max(map(abs, setting.tilts[:enough])):.0f}°, it is above 0.8.")
nine = like[max(images for images in steps if images <= 9)]
lesson.checkpoint("correlation of nine tilt images with the whole series", nine)

# %% [markdown]
# Turned by 0° the view is along the tilt axis, and the planes look like the blades of a fan. The **missing wedge** is the empty space
# above and below: a double wedge along the whole tilt axis. From the side (90°) nothing seems to be missing, because planes
# stand before and behind the gap.
#
# ### Exercise 2 · How much is missing?
#
# A series runs from minus to plus a largest tilt, about one axis. Write a function that returns the share of Fourier space
# that no tilt image measures. What do you expect at ±60°: a tenth, a third, a half?


# %% tags=["exercise"]
def missing_share(largest_tilt):
    return None  # 0 to 1


# %% tags=["solution", "hide-cell"]
def missing_share(largest_tilt):
    return (90 - largest_tilt) / 90


print(f"missing at ±60°: {missing_share(60):.0%}; at ±40°: {missing_share(40):.0%}")

# %% [raw] tags=["mistakes", "remove-cell"]
# name = "missing_share"
# cases = ['missing_share(60)', 'missing_share(45)', 'missing_share(90)']
# tolerance = 0.005
# wrong = ['''
# def missing_share(largest_tilt):
#     return 1 / 3
# ''', '''
# def missing_share(largest_tilt):
#     return (60 / largest_tilt) / 3
# ''']
#
# [[mistake]]
# code = '''
# def missing_share(largest_tilt):
#     return largest_tilt / 90
# '''
# hint = 'that is the share that was measured. The question asks for the rest.'
#
# [[mistake]]
# code = '''
# def missing_share(largest_tilt):
#     return 1 - np.cos(np.radians(90 - largest_tilt))
# '''
# hint = 'that is a double cone, the volume that is left when the specimen is also turned about the beam. Tilting about one axis leaves a double wedge: a share of the angles.'
#
# [[mistake]]
# code = '''
# def missing_share(largest_tilt):
#     return (90 - largest_tilt) / 180
# '''
# hint = 'the wedge is missing on both sides of the origin: above plus and below minus the largest tilt.'

# %%
lesson.check("missing_share")

# %% [markdown]
# ### Exercise 3 · When does averaging fill the wedge?
#
# Particles lie in the ice in different orientations, so each has its own wedge. Look at the kx-kz plane. `turns` are the
# angles (degrees) by which particles are turned about the tilt axis; all were tilted from minus to plus `largest_tilt`.
# Return the share of directions in this plane that at least one particle has measured. A direction and its opposite are
# the same, so directions repeat after 180°. What do you expect for `turns=[0, 0, 0]`?


# %% tags=["exercise"]
def covered(turns, largest_tilt):
    return None  # 0 to 1


# %% tags=["solution", "hide-cell"]
def covered(turns, largest_tilt):
    direction = np.arange(0.25, 180, 0.5)
    measured = [np.abs((direction - turn + 90) % 180 - 90) <= largest_tilt for turn in turns]
    return np.any(measured, axis=0).mean()


print(f"three alike: {covered([0, 0, 0], 60):.0%}; two at right angles: {covered([0, 90], 60):.0%}")

# %% [raw] tags=["mistakes", "remove-cell"]
# name = "covered"
# cases = ['covered([0], 60)', 'covered([0, 0, 0], 60)', 'covered([0, 90], 60)', 'covered([0, 20], 60)', 'covered([0, 170], 50)']
# tolerance = 0.01
# wrong = ['''
# def covered(turns, largest_tilt):
#     return 1.0
# ''']
#
# [[mistake]]
# code = '''
# def covered(turns, largest_tilt):
#     return min(1.0, len(turns) * largest_tilt / 90)
# '''
# hint = 'particles in the same orientation measure the same directions. Three of them fill nothing that one does not.'
#
# [[mistake]]
# code = '''
# def covered(turns, largest_tilt):
#     direction = np.arange(0.25, 180, 0.5)
#     measured = [np.abs((direction - turn + 90) % 180 - 90) <= largest_tilt for turn in turns]
#     return np.all(measured, axis=0).mean()
# '''
# hint = 'that is the share which every particle has measured. One particle is enough to fill a direction.'
#
# [[mistake]]
# code = '''
# def covered(turns, largest_tilt):
#     direction = np.arange(0.25, 180, 0.5)
#     measured = [np.abs((direction - turn + 90) % 180 - 90) <= largest_tilt for turn in turns]
#     return np.mean(measured)
# '''
# hint = 'that is what one particle measures on average. Ask of each direction whether any particle has it.'
#
# [[mistake]]
# code = '''
# def covered(turns, largest_tilt):
#     direction = np.arange(-89.75, 90, 0.5)
#     measured = [np.abs(direction - turn) <= largest_tilt for turn in turns]
#     return np.any(measured, axis=0).mean()
# '''
# hint = 'directions repeat after 180 degrees: 100 degrees is the direction of -80 degrees.'

# %%
lesson.check("covered")

# %% tags=["solution", "remove-cell"]
assert not lesson.unsolved(), lesson.unsolved()

# %%
run.report(correlation_of_nine_images=nine)
manifest = run.finish()

# %% [markdown]
# **Recap**
# - Tilting about one axis leaves a double wedge: a third of all directions at ±60°.
# - It is lost in a particle, and filled by particles in other orientations.
# - Noise in the reconstruction has the wedge, too, so it looks streaky along the beam.
#
# ## What to take away
#
# - A subtomogram is potential x CTF x dose filter, in as many slices as there are tilts, plus shot noise.
# - The missing wedge and the zeros of the CTF are *lost* in a single particle, not noisy. Averaging fills the wedge as soon as
#   particles lie in other orientations. It fills a zero of the CTF only with images of another defocus.
# - Everything that happens to the signal on the way is linear: [01b](01b_a_source_domain.ipynb) uses that.
#
# ## Questions to think about
#
# 1. Why does the noise in the xz slice look streaky although every tilt image has white noise?
# 2. At which defocus is the 80S ribosome easiest to see, and is that where its finest detail survives?
# 3. A stage that tilts about two axes leaves a smaller gap. Which shape has it?
