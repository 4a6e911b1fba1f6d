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
# # 06b · By particle, where the truth is known
#
# A score on a real tomogram is honest only on particles that training has not seen. Here whole virus-like particles are
# held out, and the eight calls of [notebook 06](06_your_own_subtomograms.ipynb) are scored on them.
#
# **What you will learn**
# - why neighbouring subtomograms must not be split between training and test;
# - how a classifier that was adapted to some particles does on others, with the particle as the unit;
# - how the verdict and the spike-ins compare with a score where the truth is known.
#
# **What you need**: nothing. The tomogram of HIV-1 virus-like particles ships with this repository (TS_01 of EMPIAR-10164,
# downsampled to 40 Å per voxel), with 5,377 positions on the Gag lattices of nine particles. *What is known*: a subtomogram
# at a position holds the lattice, and one far away from all positions holds none. *What is not known*: some boxes
# without a position hold other matter. The class `membrane` is a schematic bilayer that stands for the Gag shell. Your own
# tomogram needs positions on membranes, and a column that numbers the particles.
#
# | profile | time | memory |
# |---|---|---|
# | smoke | 23 s | 1060 MB |
# | laptop | 2.1 min | 1790 MB |

# %%
import matplotlib.pyplot as plt

import cryoshift_core as cs
from cryoshift_core import metrics, models
from cryoshift_core.application import pictures
from cryoshift_core.application.lattice_test import lattice_test
from cryoshift_core.benchmark.real import particle_scores
from cryoshift_core.course import figures
from cryoshift_core.course.own import check, inputs
from cryoshift_core.course.run import begin

# %% tags=["parameters"]
tomogram: str = ""  # .mrc, .em, .hdf or .zarr, together with coordinates; nothing at all: the shipped one
coordinates: str = ""  # positions on membranes, with a column that numbers the particles
held_out: str = "1,3,7"  # particles to score on, by commas; also 2,4,9 and 5,6,8 on the shipped tomogram
pixel_size: float = 0.0  # A per voxel of the input; 0: from the file's header
contrast: str = "auto"  # dark (protein dark), bright, or auto: look at the data
tilt_axis: float = 0.0  # degrees from the volume's y axis towards x
tilt_range: float = 60.0  # largest tilt in degrees; sets the order of the dose for molecules in your own boxes
defocus: float = 3.0  # um, underfocus positive; that of the molecules in your own boxes
spike_snr: float = 0.0  # var(signal) / var(background) of these molecules; 0: estimated from your subtomograms
picking_error: float = 0.0  # A, largest distance of a position from its particle; 0: half a voxel
own_background: bool = True  # train with simulated molecules in your own particle-free boxes, too
profile: str = "laptop"  # how much work: smoke, laptop, gpu or paper
method: str = "cryoshift"  # a name from methods.METHODS
seed: int = 0  # decides every random draw
device: str = "auto"  # auto, cpu, cuda or mps
out_dir: str = ""  # where to write; empty: runs/<profile>/06b_hiv_by_particle

# %%
run = begin("06b_hiv_by_particle", globals())
given = inputs(run, particles=True)
print(check(given))

# %% [markdown]
# ## Look
#
# Each colour and shape of the marks is one virus-like particle: its Gag lattice is a shell, and each mark is one position on
# it. Colours come again with another shape.

# %%
job = cs.open(**given)
run.show(job.look())

# %% [markdown]
# ## Hold out whole particles
#
# Positions on one lattice are closer than a box is wide, so neighbouring subtomograms share voxels. A test on single
# subtomograms would score memory. So *whole particles* are held out, subtomograms that share a voxel with a held-out one
# are left out of both sides, and *ice* is added: boxes far from all positions.
#
# `hold_out` tells the job what it may adapt to, and which boxes no particle-free box may touch.

# %%
particles = tuple(int(number) for number in held_out.split(","))
n_ice = max(24, min(600, job.profile.n_target // 2))
test = lattice_test(job.target, job.names, n_ice=n_ice, held_out=particles, seed=seed)
job.hold_out(test.target, test.held_out_at)
counts = test.labels.y.bincount(minlength=len(job.names)).tolist()
print(f"adapt to {len(test.target)} subtomograms around particles {test.target.groups.unique().tolist()}, unlabelled")
print(f"score on {len(test.held_out)} around particles {list(particles)}:", dict(zip(job.names, counts, strict=True)))
fig = pictures.gallery({"on the lattice": test.lattice[:6], "ice": test.ice[:6]}, [""] * 6)
run.save_figure(fig, "lattice_and_ice")
plt.show()

# %% [markdown]
# ## Simulate, spike, adapt
#
# As in notebook 06: simulated subtomograms of both classes; molecules in particle-free boxes of the tomogram, away from the
# held-out particles; then the networks. Labels of the held-out particles reach none of it.

# %%
run.show(job.simulate())

# %%
run.show(job.spike())

# %%
run.show(job.adapt())

# %% [markdown]
# ## What do you expect?
#
# Two classes, so guessing gives 0.5. Will the network that never saw this tomogram do better than that on held-out
# particles? Will the adapted one reach what its spike-ins promise?

# %%
run.show(job.judge())

# %% [markdown]
# ## The score, by particle
#
# Each dot is one held-out particle: its lattice against the background boxes of the test. The line is a 95 % interval over
# particles. Three particles are few, so the interval itself is uncertain. All nine particles with five seeds are in
# [Evidence](../docs/evidence.md#experimental-data).

# %%
answers = {
    name: models.predict(fit.network, test.held_out.x, device=device) for name, fit in job.adapt().fits[0].items()
}
found = {name: particle_scores(probabilities, test).values() for name, probabilities in answers.items()}
values = {name: [scores["balanced_accuracy"] for scores in each] for name, each in found.items()}
intervals = {name: metrics.interval(each, bounds=metrics.FRACTION) for name, each in values.items()}
fig = figures.scores(values, intervals, "balanced accuracy on held-out particles (experimental)")
run.save_figure(fig, "scores")
plt.show()
run.report(**{f"held_out_{name}": interval for name, interval in intervals.items()})
for name, interval in intervals.items():
    print(f"{name}: balanced accuracy {interval:.3f} over {len(values[name])} particles")

# %% [markdown]
# Compare with the spike-ins above. They are simulated bilayers in real background; the lattice is not a bilayer. Where the
# two scores differ, the score by particle is the one to believe, and your own data have no such score.
#
# Then the classes of all positions. All of them lie on a lattice, so each one that is called ice is a mistake. Did the
# verdict notice?

# %%
run.show(job.classify())

# %%
result = job.report(run=run)
run.report(**result.numbers)
run.finish()
print(result)

# %% [markdown]
# ## What to take away
#
# - Split by particle, or by tomogram, never by subtomogram: neighbours share voxels.
# - The particle is the unit of the interval, and three particles are few for one.
# - A class without an alarm can be wrong: the verdict looks for gross faults, and knows no label.
# - Spike-ins measure noise, wedge and filters of *this* tomogram. They say nothing of molecules unlike their models.
# - This is one easy problem of two classes on one tomogram: it shows that the path works on experimental data, no more.
