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
# # 00 · Start here
#
# A cryo-electron tomogram shows the inside of a cell, in three dimensions, at molecular resolution. Around each
# molecule in it one can cut a small box, a *subtomogram*. Which molecule is it? Labels for such subtomograms cost experts
# weeks. Simulated subtomograms are labelled for free, but a classifier trained on them fails on experimental ones, whose
# noise, optics and surroundings differ: a *domain shift*. **Cryo-Shift adapts the classifier without one experimental
# label.** By how much that helps is measured in notebook 05.
#
# **What you will learn**
# - whether your machine is ready;
# - the problem in one picture, and the three ingredients of the answer in another;
# - what each notebook of the series gives, and what its results can and cannot prove.
#
# **What you need**: some Python. No cryo-EM, no domain adaptation, no GPU, no data. The words are explained below.
#
# | profile | time | memory |
# |---|---|---|
# | smoke | 18 s | 880 MB |
# | laptop | 18 s | 920 MB |

# %% [markdown]
# ## Is this machine ready?
#
# One table of everything that has stopped somebody before. *Look* means that the course runs, but something is slower, older or
# not shown; *stop* comes with a way out. `python -m cryoshift_core doctor` prints the same table.

# %% tags=["parameters"]
profile: str = "laptop"  # how much work: smoke, laptop, gpu or paper
seed: int = 0  # decides every random draw
device: str = "auto"  # auto, cpu, cuda or mps
out_dir: str = ""  # where to write; empty: runs/<profile>/00_start_here

# %%
try:
    from cryoshift_core.course import doctor
except ModuleNotFoundError as error:
    raise RuntimeError(
        "This kernel has no cryoshift_core; expected the kernel of .venv. Choose it in the menu (Kernel, Change Kernel), "
        "or run make venv, then make lab."
    ) from error
doctor.check(profile, out_dir).show()

# %%
import matplotlib.pyplot as plt
import torch

import data_fetch
from cryoshift_core.application import pictures
from cryoshift_core.course import costs, figures
from cryoshift_core.course.run import begin
from cryoshift_core.simulation import datasets, imaging, scenarios, specimens
from cryoshift_core.simulation.datasets import DatasetConfig
from cryoshift_core.tomography import mrc
from data_fetch import readers

# %%
run = begin("00_start_here", globals())
pictures.use_style()
p = run.profile

# %% [markdown]
# ## The problem in one picture
#
# A real tomogram: a slice through a yeast cell, thinned with an ion beam (EMPIAR-11658, 31.36 Å per voxel; protein is dark). Left
# as it is, right with the 80S ribosomes that experts listed. A circle is as large as a ball of 300 Å is in this slice.
#
# **What do you expect?** Look at the left picture first. How many ribosomes would you have marked, and where do you hesitate?

# %%
lamella = data_fetch.yeast_lamella()
tomogram = mrc.read_mrc(lamella.tomogram)
listed = readers.read_picks(lamella.ribosomes, tomogram).zyx
fig, shown = figures.slice_with_picks(tomogram.data, listed, tomogram.voxel_size)
run.save_figure(fig, "real_tomogram")
plt.show()
print(f"{shown} listed ribosomes cross this slice, {len(listed)} the whole tomogram")

# %% [markdown]
# Such a list costs experts days, it names one molecule out of thousands, and it is not complete: some dark blobs without a
# circle look like ribosomes, too. A network could name all particles in minutes, if only somebody gave it labels to learn from.

# %%
k = len(p.classes)
asked = {
    name: DatasetConfig(name, p.classes, 4 * k, p.box, p.voxel_size, part, 2, run.params.seed)
    for name, part in (("source", "source"), ("in_situ_1", "train"))
}
source = datasets.simulate_source(asked["source"], progress=False)
target = datasets.simulate_target(asked["in_situ_1"], progress=False)

# %% [markdown]
# ## The idea in one picture
#
# Follow the solid arrows from left to right. The **source** is simulated and labelled, the **target** experimental
# and unlabelled.
#
# 1. **Simulation** (notebooks 01 and 01b) gives as many labelled subtomograms as one likes.
# 2. **Warps** (03) alter simulated subtomograms, within bounds, until they look like target subtomograms.
# 3. **Class-wise discriminators** (04) try to tell source from target by the features, one of them for each class.
#    Their gradient reaches the network *reversed* (red): it learns features in which they fail.
#
# A target subtomogram has no arrow to any label, from here to notebook 05. Its only arrows carry its pixels. (Notebooks 02 and 02c open the labels
# of *practice* targets, which no evidence uses.)

# %%
clearest = int(source.snr.argmax())  # the same molecule as source and as target
name = p.classes[int(source.y[clearest])]
only = DatasetConfig("in_situ_1", (name,), 1, p.box, p.voxel_size, "train", 1, run.params.seed)
fig = figures.idea(source.x[clearest], datasets.simulate_target(only, progress=False).x[0])
run.save_figure(fig, "idea")
plt.show()

# %% [markdown]
# ## What the network gets to see
#
# Top: one molecule of each class as the microscope would show it with endless dose. Middle: the same molecules, in
# the same poses, with the low dose that they can tolerate. Bottom: target subtomograms, in no order, without labels. Each image
# is the central section of a subtomogram.
#
# **What do you expect?** Which two classes would you confuse in the middle row?

# %%
generator = run.generator("teaser")
bank = specimens.templates(p.classes, p.voxel_size, p.box, generator=generator)
poses = specimens.specimens(torch.arange(k), bank, generator=generator)
optics = scenarios.draw_optics(scenarios.scenario("source"), p.voxel_size, [0.5] * 7)
clean = imaging.image_by_transfer(poses, bank, optics, generator=generator, noise=False).x
noisy = imaging.image_by_transfer(poses, bank, optics, generator=generator)
fig = pictures.gallery({"no noise": clean, "source": noisy.x, "target": target.x[:k]}, p.classes)
for ax in fig.axes[2 * k :]:
    ax.set_title("?", fontsize=8)
fig.tight_layout(pad=0.3)
run.save_figure(fig, "clean_and_noisy")
plt.show()
print("realised SNR:", ", ".join(f"{name} {snr:.2f}" for name, snr in zip(p.classes, noisy.snr.tolist(), strict=True)))

# %% [markdown]
# ### A naming quiz
#
# Six source subtomograms with unknown names, above them nothing but their numbers. Top: the central section, as above. Bottom: the
# sum along the beam, in which a particle may stand out where its section does not. Compare with the figure above.
#
# **What do you expect?** How many of the six will you name? Put your six names in place of None, run the cell, then the next one. (On a
# web page, the answers are folded.)

# %%
quiz = torch.randperm(len(source), generator=run.generator("quiz"))[:6]
fig = pictures.gallery(
    {"source": source.x[quiz], "sum along\nthe beam": source.x[quiz].mean(2, keepdim=True)}, range(1, 7)
)
run.save_figure(fig, "quiz")
plt.show()
print("to choose from:", ", ".join(p.classes))

# %%
my_names = None  # such as ["TRiC", "RuvAB", "TRiC", "ribosome_70S", "ribosome_80S", "TYMV_capsid"]

# %% tags=["hide-output"]
true_names = [p.classes[k] for k in source.y[quiz]]
if unknown := sorted(set(my_names or []) - set(p.classes)):
    print(f"No class is called {', '.join(unknown)}: choose from the seven names that are printed below the figure.")
hits = sum(mine == true for mine, true in zip(my_names or [], true_names, strict=False))
print(f"You named {hits} of 6: " if my_names else "You named none yet. They are: ", end="")
print(", ".join(f"{i} {name}" for i, name in enumerate(true_names, 1)))
print(f"{6 / k:.1f} of 6 come by guessing. Notebook 02 says how often a trained network is right.")


# %% [markdown]
# ## Does it work, and how fast?
#
# A fixed piece of work, the same for every profile: a few source and target subtomograms of 32 voxels are simulated, and
# Cryo-Shift takes four training steps on them. Four steps teach nothing; that the losses are finite numbers says that
# all parts fit together.

# %%
speed = doctor.speed(device)
print(", ".join(f"{name} {value:.2f}" for name, value in speed.losses.items()))
print(
    f"{speed.seconds:.2f} s; this machine takes {speed.factor:.1f} times as long as the one that the times were measured on"
)
assert torch.tensor(list(speed.losses.values())).isfinite().all(), "a training step gave no finite loss"

# %% [markdown]
# The estimate below is each notebook's measured time multiplied by that factor. It is rough, and rather too high than too low:
# other programs that run meanwhile raise the factor, simulation, training and drawing do not slow down alike, and a notebook is
# faster when an earlier one has left its subtomograms and fits behind.

# %%
stated = costs.read(p.name)
for name, cost in stated.items():
    print(f"{name:34} {cost.seconds * speed.factor / 60:5.1f} min   {cost.memory:>8}")
series = sum(cost.seconds for cost in stated.values()) * speed.factor / 60
print(f"{'together':34} {series:5.1f} min" if stated else f"No times were measured at the profile {p.name}.")

# %%
run.report(fixed_work_seconds=speed.seconds, slower_than_reference=speed.factor, estimated_minutes=series)
manifest = run.finish()

# %% [markdown]
# ## The series
#
# - 01 [Simulate subtomograms](01_simulate_subtomograms.ipynb). *Where does a subtomogram come from?* Potential, CTF, dose,
#   missing wedge.
# - 01b [A source domain](01b_a_source_domain.ipynb). *How does one become thousands?* One multiplication for a whole series; what
#   such a source contains.
# - 02 [The domain gap](02_the_domain_gap.ipynb). *What breaks on the next data set?* How to see and measure a gap
#   without labels, and how wrong a sure network can be.
# - 02b [Shape or size?](02b_shape_or_size.ipynb). *What does the network look at?* Spheres, hearts and mirror images of a
#   known mass.
# - 02c [Which factor hurts?](02c_which_factor_hurts.ipynb). *Where does the failure come from?* Dose, defocus, neighbours, one at a time.
# - 03 [Warp randomization](03_warp_randomization.ipynb). *Can simulated subtomograms be made to look real?* Bounded warps.
# - 03b [Warping games](03b_warping_games.ipynb). *Can warps be trained?* Against a discriminator, against the classifier; three
#   published mistakes.
# - 04 [Multi-adversarial adaptation](04_multi_adversarial_adaptation.ipynb). *Can a network learn to ignore the
#   domain?* Gradient reversal, one discriminator per class.
# - 04b [Choosing without labels](04b_choosing_without_labels.ipynb). *Which method, which checkpoint?* What can be known without
#   labels, and what fools it.
# - 05 [Evaluation](05_evaluation.ipynb). *Did it help?* Held-out labels, opened once: scores, confusions, calibration.
# - 05b [Reading the evidence](05b_reading_the_evidence.ipynb). *Does it help in general?* Many runs, with intervals.
# - 06 [Your own subtomograms](06_your_own_subtomograms.ipynb). *Does it work on real data, and on mine?* A STAR file of
#   classes with confidences.
# - 06b [By particle](06b_hiv_by_particle.ipynb). *How right is it where the truth is known?* Whole particles held out.
# - 07 [Compare runs](07_compare_runs.ipynb). *Which of many runs is better?* One report with intervals, cost and harm.
#
# Each one runs alone: what it needs from an earlier one it makes, or loads when it is there already.
#
# - **In a workshop**: take them in order, write down what you expect, move the sliders, do the exercises. `python -m cryoshift_core
#   exercises` writes two sets of notebooks to `runs/exercises`: with stubs to fill in, and with the solutions.
# - **To compare methods**: 05, then `cryoshift_core/methods.py`, where a method is one line.
# - **With a tomogram of your own**: 02 and 03 for the ideas, then 06.
#
# ## How to run it
#
# ```bash
# make tutorial                  # all of them; then open runs/laptop/index.html
# make tutorial PROFILE=smoke    # minutes, on toy amounts of data: the scores mean nothing
# make lab                       # JupyterLab: step through, move the sliders
# .venv/bin/papermill notebooks/02_the_domain_gap.ipynb out.ipynb -p profile smoke -p scenario in_situ_2
# ```
#
# Every notebook has one cell of parameters, which is checked before any work: a wrong value or an unknown name stops
# it with one sentence. Results go to `runs/<profile>/<notebook>/`, with a `manifest.json` that says what made them.
#
# ## What is simulated, and what is real
#
# - **Simulated** (01 to 05): source and target. The target comes from another imaging path than the source, with
#   other poses, optics, noise and neighbours, but both simulators are ours. A method that works here has *not* been
#   shown to work on experiments.
# - **Semi-real**: known molecules simulated *into* pieces of real ice. Their labels are known, their surroundings real.
# - **Real** (06, 06b): a yeast lamella, and yours; in 06b a tomogram of HIV-1 virus-like particles. The score in 06b rests
#   on published positions of one protein against ice: a much easier question than telling seven molecules apart.
#
# ## Words
#
# The [glossary](../docs/glossary.md) has more.
#
# | word | meaning |
# |---|---|
# | subtomogram | a small box (24 to 64 voxels a side) cut from a tomogram around one particle |
# | tilt series | projection images of one specimen, tilted step by step, here by 3 degrees from -60 to 60 |
# | tomogram | the volume that is reconstructed from a tilt series |
# | missing wedge | the directions in Fourier space that no tilt reaches; they smear a particle along the beam |
# | CTF | contrast transfer function: what the microscope does to each spatial frequency, with zeros and sign changes |
# | defocus | how far out of focus the image is taken (µm, underfocus positive); it makes proteins visible at all |
# | dose | electrons that hit the specimen (per Å²); more means less noise and more damage |
# | SNR | var(signal) / var(noise) in the box; here always measured on the subtomogram in question |
# | power spectrum | how strong a subtomogram is at each spatial frequency: the grain of its noise, the size of its particle |
# | potential | the map of what deflects electrons, computed from atoms |
# | domain | where data come from: one simulator, one microscope, one cell type |
# | source / target | the domain with labels, to learn from / the one without, on which predictions are wanted |
# | domain shift | the two differ, so that what was learnt on one fails on the other |
# | warp | a bounded change of a source subtomogram that brings it nearer to the target |
# | features | the numbers by which a network describes a subtomogram before it names a class |
# | discriminator | a network that tells two domains apart; the adversary in adversarial training |
# | gradient reversal | a layer that does nothing forwards and flips the gradient backwards |
# | oracle | a classifier trained *with* target labels: an upper bound, never a method |
#
# ## What to take away
#
# - Labels are free in simulation and dear in experiments; the domain shift stands between the two.
# - Warps change the *images*, class-wise discriminators the *features*. Neither sees a target label.
# - Simulated targets are there to understand and compare methods; only experimental data can prove them.
#
# ## Questions to think about
#
# 1. Look at the bottom row of the figure with three rows. Which subtomogram would you dare to name, and how would you check?
# 2. Why one discriminator for *each class*, and not one for all?
# 3. If labels of your own tomogram existed for 20 subtomograms, would you rather train on them or test on them?
