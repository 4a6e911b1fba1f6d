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
# - how the verdict and the [spike-ins](../docs/glossary.md#spike-in) compare with a score where the truth is known.
#
# About 35 minutes with the three exercises. Words in links are explained in the [glossary](../docs/glossary.md).
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
import numpy as np
from scipy import stats

import cryoshift_core as cs
from cryoshift_core import metrics, models
from cryoshift_core.application import pictures
from cryoshift_core.application.lattice_test import lattice_test
from cryoshift_core.benchmark import shipped
from cryoshift_core.benchmark.real import particle_scores
from cryoshift_core.course import exercises, figures
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
lesson = exercises.Lesson(run, globals())
given = inputs(run, particles=True)
print(check(given))

# %% [markdown]
# ## 1 · Hold out whole particles (14 minutes)
#
# ### Look
#
# Each colour and shape of the marks is one virus-like particle: its Gag lattice is a shell, and each mark is one position on
# it. Colours come again with another shape.

# %%
job = cs.open(**given)
run.show(job.look())

# %% [markdown]
# ### Hold out
#
# **What do you expect?** Nine particles, three held out: is a third of the subtomograms left to score on, and are two thirds left to
# adapt to?
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
# ### Exercise 1 · Who shares a voxel with the test?
#
# Boxes are cubes of `box` voxels around positions `zyx` (N, 3), and `groups` (N,) numbers the particles. Return a mask (N,) of the
# subtomograms that one may adapt to: of no held-out particle, and without a voxel in common with any held-out box.

# %% tags=["given"]
where = np.array([[0, 0, 0], [0, 10, 0], [0, 20, 0], [18, 18, 0], [0, 24, 0], [60, 0, 0], [0, 12, 30]])
number = np.array([1, 2, 2, 2, 2, 3, 3])


# %% tags=["exercise"]
def may_adapt(zyx, groups, held_out, box):
    return None


# %% tags=["solution", "hide-cell"]
def may_adapt(zyx, groups, held_out, box):
    out = np.isin(groups, held_out)
    apart = np.abs(zyx[:, None] - zyx[None, out]).max(2)  # cubes: the axis along which two centres are farthest apart
    return ~out & (apart >= box).all(1)


# %% [raw] tags=["mistakes", "remove-cell"]
# name = "may_adapt"
# cases = ['may_adapt(where, number, [1], 24)', 'may_adapt(where, number, [3], 24)', 'may_adapt(where, number, [1], 16)']
# wrong = ["""
# def may_adapt(zyx, groups, held_out, box):
#     return np.ones(len(zyx), bool)
# """]
#
# [[mistake]]
# code = """
# def may_adapt(zyx, groups, held_out, box):
#     return ~np.isin(groups, held_out)
# """
# hint = 'that splits by particle alone. Two particles that touch have boxes that share voxels: leave those out of both sides.'
#
# [[mistake]]
# code = """
# def may_adapt(zyx, groups, held_out, box):
#     out = np.isin(groups, held_out)
#     apart = np.linalg.norm(zyx[:, None] - zyx[None, out], axis=2)
#     return ~out & (apart >= box).all(1)
# """
# hint = 'the distance along the diagonal is that of balls. A box is a cube: two of 24 voxels that are 18 apart along each of two axes overlap, although their centres are 25 apart.'
#
# [[mistake]]
# code = """
# def may_adapt(zyx, groups, held_out, box):
#     out = np.isin(groups, held_out)
#     apart = np.abs(zyx[:, None] - zyx[None, out]).max(2)
#     return ~out & (apart >= box / 2).all(1)
# """
# hint = 'half a box reaches from each of the two centres towards the other: that makes a whole box.'

# %%
lesson.check("may_adapt")

# %% [markdown]
# **Recap**
# - Split by particle, or by tomogram, never by subtomogram: neighbours share voxels.
# - Boxes are cubes: they share no voxel from one box edge on, along one axis at least.
# - What is near the held-out particles belongs to neither side.
#
# ## 2 · Adapt, and judge without labels (7 minutes)
#
# ### Simulate, spike, adapt
#
# **What do you expect?** Two classes, so guessing gives 0.5. Will the network that never saw this tomogram do better than that on held-out
# particles? Will the adapted one reach what its spike-ins promise?
#
# As in notebook 06: simulated subtomograms of both classes; molecules in particle-free boxes of the tomogram, away from the
# held-out particles; then the networks. Labels of the held-out particles reach none of it.

# %%
run.show(job.simulate())

# %%
run.show(job.spike())

# %%
run.show(job.adapt())

# %%
run.show(job.judge())

# %% [markdown]
# **Recap**
# - The job was told what to adapt to, and which boxes to keep away from; it knows no label of the test.
# - Spike-ins are simulated bilayers in this tomogram's own background.
# - A verdict without an alarm says that no gross fault was found. It is no score.
#
# ## 3 · The score, by particle (14 minutes)
#
# **What do you expect?** By how much will the three held-out particles differ from each other?
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
    ends = f"from {min(values[name]):.3f} to {max(values[name]):.3f}"
    print(f"{name}: balanced accuracy {interval:.3f} over {len(values[name])} particles, {ends}")
lesson.checkpoint("subtomograms of the held-out particles and their ice", len(test.held_out))

# %% [markdown]
# Compare with the spike-ins above. They are simulated bilayers in real background; the lattice is not a bilayer. Where the
# two scores differ, the score by particle is the one to believe, and your own data have no such score.
#
# Then the classes of all positions. All of them lie on a lattice, so each one that is called ice is a mistake. Did the
# verdict notice? Among the lines of `judge` above, which one could have made you doubt?

# %%
run.show(job.classify())

# %%
result = job.report(run=run)
run.report(**result.numbers)
manifest = run.finish()
print(result)

# %% [markdown]
# ### Exercise 2 · The interval of three particles
#
# Return the half width of the 95 % t interval of the mean of n values: $t_{0.975, n-1}\, s / \sqrt{n}$, where s is the standard
# deviation with n - 1 in the denominator. `stats.t.ppf(0.975, df)` gives t. How many times wider is it for three particles than for nine
# of the same spread?

# %% tags=["given"]
three = np.array([0.90, 0.82, 0.95])
nine = np.repeat(three, 3)


# %% tags=["exercise"]
def half_width(values):
    return None


# %% tags=["solution", "hide-cell"]
def half_width(values):
    n = len(values)
    return float(stats.t.ppf(0.975, n - 1) * values.std(ddof=1) / np.sqrt(n))


print(f"three particles: ± {half_width(three):.3f}; nine of the same spread: ± {half_width(nine):.3f}")

# %% [raw] tags=["mistakes", "remove-cell"]
# name = "half_width"
# cases = ['half_width(three)', 'half_width(nine)']
# wrong = ["""
# def half_width(values):
#     return float(np.ptp(values) / 2)
# """]
#
# [[mistake]]
# code = """
# def half_width(values):
#     return float(1.96 * values.std(ddof=1) / np.sqrt(len(values)))
# """
# hint = '1.96 holds for many values, whose spread is known. From three values the spread is hardly known: t is 4.30 then.'
#
# [[mistake]]
# code = """
# def half_width(values):
#     return float(stats.t.ppf(0.975, len(values) - 1) * values.std(ddof=1))
# """
# hint = 'that is where one more particle may lie, about. The mean of n is better known: divide by the root of n.'
#
# [[mistake]]
# code = """
# def half_width(values):
#     n = len(values)
#     return float(stats.t.ppf(0.975, n - 1) * values.std() / np.sqrt(n))
# """
# hint = 'numpy divides by n. The mean was fitted to the same values, so divide by n - 1 (ddof=1).'
#
# [[mistake]]
# code = """
# def half_width(values):
#     n = len(values)
#     return float(stats.t.ppf(0.95, n - 1) * values.std(ddof=1) / np.sqrt(n))
# """
# hint = '95 % leave out 2.5 % on each side: ask for 0.975.'

# %%
lesson.check("half_width")

# %% [markdown]
# ### Exercise 3 · Hold out another fold
#
# Can the other six particles be scored with the network that was just trained? No: it has adapted to them, without labels but to their
# very voxels. Each fold needs a training of its own: `held_out = "2,4,9"` in the cell of parameters. The evidence has all three folds, each
# with several training seeds. Return, from rows like those of its table, the mean of each **particle** over its seeds, as {particle: mean}.
# With those nine numbers an interval over particles can be made.

# %% tags=["given"]
few_rows = [
    {"particle": particle, "seed": seed, "balanced_accuracy": score}
    for particle, seed, score in (
        ("1", 1, "0.90"),
        ("1", 2, "0.80"),
        ("2", 1, "0.70"),
        ("2", 2, "0.74"),
        ("4", 1, "0.96"),
    )
]


# %% tags=["exercise"]
def by_particle(rows):
    return None


# %% tags=["solution", "hide-cell"]
def by_particle(rows):
    values = {}
    for row in rows:
        values.setdefault(row["particle"], []).append(float(row["balanced_accuracy"]))
    return {particle: float(np.mean(scores)) for particle, scores in values.items()}


# %% [raw] tags=["mistakes", "remove-cell"]
# name = "by_particle"
# cases = ['by_particle(few_rows)', 'by_particle(few_rows[2:])']
# wrong = ["""
# def by_particle(rows):
#     return {"1": 0.85, "2": 0.72, "4": 0.96}
# """]
#
# [[mistake]]
# code = """
# def by_particle(rows):
#     return {row["particle"]: float(row["balanced_accuracy"]) for row in rows}
# """
# hint = 'each row of a particle overwrites the one before: the last seed is left, and not the mean over seeds.'
#
# [[mistake]]
# code = """
# def by_particle(rows):
#     values = {}
#     for row in rows:
#         values.setdefault(row["seed"], []).append(float(row["balanced_accuracy"]))
#     return {seed: float(np.mean(scores)) for seed, scores in values.items()}
# """
# hint = 'that is a mean for each seed. Seeds repeat the training on the same particles; the question is about other particles.'
#
# [[mistake]]
# code = """
# def by_particle(rows):
#     return {(row["particle"], row["seed"]): float(row["balanced_accuracy"]) for row in rows}
# """
# hint = 'these rows are not independent: seeds of one particle see the same boxes. As units they make the interval too narrow. Average them first.'
#
# [[mistake]]
# code = """
# def by_particle(rows):
#     best = {}
#     for row in rows:
#         best[row["particle"]] = max(best.get(row["particle"], 0.0), float(row["balanced_accuracy"]))
#     return best
# """
# hint = 'the best seed can be picked only by somebody who has the labels. Take the mean.'

# %%
lesson.check("by_particle")

# %%
every = shipped.real_rows("hiv_vlp", "cryoshift", "as chosen")
if lesson.solved("by_particle") and lesson.solved("half_width"):
    means = by_particle(every)
    alone = np.array([float(row["balanced_accuracy"]) for row in every])
    units = np.array(list(means.values()))
    print(f"evidence, cryoshift as chosen: {len(alone)} rows of {len(units)} particles")
    print(f"particles as units: {units.mean():.3f} ± {half_width(units):.3f}")
    print(
        f"rows as units:      {alone.mean():.3f} ± {half_width(alone):.3f}, too narrow: seeds repeat the same particles"
    )
    lowest = min(means, key=means.get)
    print(f"lowest: particle {lowest} with {means[lowest]:.3f}")

# %% tags=["solution", "remove-cell"]
assert not lesson.unsolved(), lesson.unsolved()

# %% [markdown]
# **Recap**
# - The particle is the unit of the interval, and three particles are few for one.
# - Another fold needs another training: a network that has adapted to a particle is not scored on it.
# - Seeds repeat a training; they are no further particles.
#
# ## What to take away
#
# - Split by particle, or by tomogram, never by subtomogram: neighbours share voxels.
# - The particle is the unit of the interval, and three particles are few for one.
# - A class without an alarm can be wrong: the verdict looks for gross faults, and knows no label. What the averages look like
#   is printed below it.
# - Spike-ins measure noise, wedge and filters of *this* tomogram. They say nothing of molecules unlike their models.
# - This is one easy problem of two classes on one tomogram: it shows that the path works on experimental data, no more.
