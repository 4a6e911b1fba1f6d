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
# # 06 · Your own subtomograms
#
# From a real tomogram to a table of classes with confidences, without one label of its own, in eight calls:
# `open`, `look`, `simulate`, `spike`, `adapt`, `judge`, `classify`, `report`.
#
# **What you will learn**
# - how to bring a tomogram with coordinates, or extracted subtomograms: contrast, pixel size, box;
# - how known molecules in your own background measure the accuracy, without one annotation;
# - how to read the verdict: usable, usable for some classes, do not use, or not judged.
#
# **What you need**: nothing for the default, a real tomogram that ships with this repository. For your own data, fill in
# the parameters below. What RELION, Warp and M, Dynamo, EMAN2 and the CZ CryoET Data Portal leave on disk is read as it
# is; of IMOD, model2point's text.
#
# | profile | time | memory |
# |---|---|---|
# | smoke | 23 s | 750 MB |
# | laptop | 2.1 min | 1150 MB |
#
# **The default** is a yeast lamella (EMPIAR-11658, 31.36 Å per voxel) with 943 positions and three classes, `ribosome_80S`,
# `membrane` and `ice` (no particle). *What is known*: 267 positions come from the depositors' list of ribosomes, 276 lie on
# a membrane that a filter found, and 400 are random places in the cytosol. *What is not known*: the list of ribosomes is
# not complete, so some random places hold a ribosome; nobody annotated the membrane; and the cytosol is not ice. The
# network is not told which position is which.

# %%
import cryoshift_core as cs
from cryoshift_core.course.own import check, compare, in_space, inputs
from cryoshift_core.course.run import begin

# %% tags=["parameters"]
subtomograms: str = ""  # a stack (.mrcs, .hdf), a folder of .mrc, .em or .png files, or a STAR with _rlnImageName
tomogram: str = ""  # .mrc, .em, .hdf or .zarr, or a folder of them, with coordinates; nothing: the shipped lamella
coordinates: str = ""  # .star, Dynamo .tbl, EMAN2 or copick .json, portal .ndjson, model2point's .txt
classes: str = ""  # built-in names, PDB, mmCIF or map files (average.em@8.0: voxels of 8 A), entries (pdb:6zu5), by commas; empty: the profile's
pixel_size: float = 0.0  # A per voxel of the input; 0: from the file's header
contrast: str = "auto"  # dark (protein dark), bright, or auto: look at the data
background: str = ""  # boxes without a particle (stack, folder or STAR); empty: cut from the tomogram
tilt_axis: float = 0.0  # degrees from the volume's y axis towards x
tilt_range: float = 60.0  # largest tilt in degrees; sets the order of the dose for molecules in your own boxes
defocus: float = 3.0  # um, underfocus positive; that of the molecules in your own boxes
spike_snr: float = 0.0  # var(signal) / var(background) of these molecules; 0: estimated from your subtomograms
picking_error: float = 0.0  # A, largest distance of a position from its particle; 0: half a voxel
own_background: bool = True  # train with simulated molecules in your own particle-free boxes, too
box: int = 0  # voxels along an edge; 0: from the structures or the subtomograms
profile: str = "laptop"  # how much work: smoke, laptop, gpu or paper
method: str = "cryoshift"  # a name from methods.METHODS
project_folder: str = ""  # that the names in a STAR of subtomograms are relative to; empty: the STAR's own folder
purity: float = 0.8  # least expected purity of the rows in predictions_purity.star
n_seeds: int = 1  # networks to train, whose probabilities are averaged; 3 also shows where they disagree
average_rotations: bool = False  # average predictions over 180-degree rotations: 0.01 better, four times as long
may_be_absent: str = ""  # classes that may not occur at all, by commas: no warning demands them
held_out_tomograms: str = ""  # of a folder of tomograms: names by commas that are classified, and not adapted to
seed: int = 0  # decides every random draw
device: str = "auto"  # auto, cpu, cuda or mps
out_dir: str = ""  # where to write; empty: runs/<profile>/06_your_own_subtomograms

# %%
run = begin("06_your_own_subtomograms", globals())
given = inputs(run)
print(check(given))

# %% [markdown]
# **Read this table first.** A row that says *stop* will stop the notebook, or make its result wrong. *Look* names what to
# check; nothing has been trained yet.
#
# ## 1. Open, and 2. look
#
# `open` reads the files and nothing more. `look` says what was read and shows it. **Everything in these figures is
# experimental.** In the histogram, the curve that reaches further must be the *bright* side; protein must be bright in the
# subtomograms. If not, set `contrast`. If the dots are not on particles, the coordinates belong to another binning.

# %%
job = cs.open(**given)
looked = job.look()
run.show(looked)

# %% [markdown]
# Three sections through one particle: a slider in JupyterLab, two particles in a static copy. With a tomogram, the
# cross-hairs must point at the particle in all three, and dots are positions within one voxel of the section.

# %%
sliders = {"row": ("particle (row of the list)", looked.rows)}
run.explore(looked.sections, "orthoslices", sliders, panels=3, size=3.4, frames=2)

# %% [markdown]
# ## 3. Simulate
#
# The network learns from simulated subtomograms of the same classes, box and voxel size. The settings of the microscope are
# drawn from wide ranges, because yours are not known. The spectra of the two domains differ; that is the gap to be closed.

# %%
run.show(job.simulate())

# %% [markdown]
# ## 4. Spike
#
# No simulation knows the noise, the filters and the crowd of *your* tomogram. Between your particles are boxes without one.
# A simulated molecule in such a box has real surroundings and a known class. There are two sets of boxes: one to train
# with, where there are enough of them, and one for *spike-ins*, which measure the accuracy below. Both are made before
# anything is trained.
#
# Look at the boxes (figure *no particle*): they should look empty. If you see particles, the coordinates are incomplete.
# The lamella is crowded, so its boxes are few and not all of them empty.
# Where you gave extracted subtomograms and no `background`, the boxes are made of their rims, with noise in place of the
# particle; the score is then an upper end.
# The wedge figure shows which frequencies the boxes hold: white was measured, black is the missing wedge, a bow tie about
# the beam kz in the left panel where the tilt axis is y. Strength and envelope of the molecules are chosen so that their
# average meets that of your subtomograms or, where these have no common particle in the middle, so that the spectra meet.
# Where the curves of target and spike-ins stay apart, believe the score less.

# %%
run.show(job.spike())

# %% [markdown]
# ## 5. Adapt
#
# `source_only` never sees your subtomograms. `cryoshift` is adapted to them, without labels, and is trained a second time
# without its adversaries (`cryoshift_warps`): adversaries also align the class fractions, so where the two disagree about
# these by more than 0.1, the second one is used. The checkpoint is chosen by label-free scores, and where a check speaks
# against the adapted network, `source_only` may take its place and a warning says so.

# %%
run.show(job.adapt())

# %% [markdown]
# ## 6. Judge
#
# **The first line is the verdict.**
#
# | verdict | what it means, and what to do |
# |---|---|
# | usable | no alarm was raised. Look at the averages, then use the classes at a confidence of your choice |
# | usable for *names* only | an alarm speaks against the other classes; use those that are named |
# | do not use | something is wrong as a whole: spike-ins are classified by guessing, a check of the network failed, every class has an alarm, or this was a test run at the profile `smoke` |
# | not judged | no alarm, but there were no boxes to measure the accuracy with: give `background` |
#
# The lines below it are the reasons. A class has an alarm where its spike-ins, or those called by its name, are wrong more
# often than right; where its average looks like that of another class although simulated ones do not; where training seeds
# disagree (`n_seeds`); and, for `ice`, where the average is not flat. The figures show what these alarms saw: the recall on
# spike-ins of each method (dotted: guessing), and the averages of the predicted classes above simulated ones. **A class
# without an alarm can still be wrong**: spike-ins are simulated molecules, so real ones that differ from their models, and
# things that you did not name, are not in this score.

# %%
run.show(job.judge())

# %% [markdown]
# ## 7. Classify
#
# How many of each class, and how sure. Confidences are calibrated on simulated subtomograms that were not trained on, and
# warped to look like yours. The first figure shows how the methods differ in the class fractions of the subtomograms
# adapted to. In the second, the most certain ones of a class should look alike. In the third, colour is the predicted
# class. The *expected purity* is the mean calibrated confidence: the model's own expectation, and too high for classes that
# the verdict speaks against.

# %%
classified = job.classify()
run.show(classified)

# %% [markdown]
# The same positions in space: turn them and look for classes that lie where they should not, such as ribosomes within a membrane.

# %%
fig = in_space(classified)
if fig:
    run.save_figure(fig, "in_space")

# %% [markdown]
# **Threshold against purity.** A least confidence of your choice keeps fewer subtomograms that are more often right. The slider
# moves it. Left: the expected purity of what is kept and, where there are spike-ins, the share of them that is right, with its 95 %
# interval; believe the lower one. Right: how many of each class are kept.
#
# **What do you expect?** From which confidence on do the spike-ins reach the purity that you need, and how many are then left?

# %%
sliders = {"confidence": ("least confidence", classified.confidences)}
start = {"confidence": classified.confidences[0]}
run.explore(classified.at_confidence, "threshold", sliders, panels=2, start=start, size=3.6, frames=3)

# %% [markdown]
# ## 8. Report
#
# `predictions.star` has one row per input, in input order, with the input's own columns, the class and its confidence;
# `predictions_purity.star` the rows at the expected purity that you asked for, where any reach it; `classes/` a file per
# class; `purity.csv` how many stay at a confidence. `report.html` holds all of it on one page, verdict first.
# `model.safetensors` is the classifier, for the next tomogram.

# %%
result = job.report(run=run)
run.report(**result.numbers)
run.finish()
print(result)

# %% [markdown]
# **How right is it?** With your own data, nobody knows: the verdict and the spike-ins are all there is, and a few
# subtomograms that you check by eye. For the shipped lamella, the lists say what stands at each position. They were opened
# only now. Ribosomes among the random positions are not all mistakes, because the list is not complete.

# %%
print(compare(result))

# %% [markdown]
# ## What to take away
#
# - Contrast, pixel size and box decide more than the network: read the first table, and look at the subtomograms.
# - The verdict comes first. It needs no label, it finds gross faults, and a class without an alarm can still be wrong.
# - The source is simulated for the structures that you *expect*. Whatever else is in the tomogram gets one of their names
#   too; `_csNoneOfThese` marks what fits none, and knows best what resembles its simulated outliers.
# - A confidence is not an accuracy, even a calibrated one.
# - The same eight calls work in a script (`cs.open`), `cs.classify` makes them all, and so does
#   `python -m cryoshift_core classify`. [06b](06b_hiv_by_particle.ipynb) scores them where the truth is known, by particle.
