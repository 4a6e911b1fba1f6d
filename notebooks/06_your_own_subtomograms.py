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
# About 45 minutes with the three exercises. Words in links are explained in the [glossary](../docs/glossary.md).
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
import numpy as np

import cryoshift_core as cs
from cryoshift_core.course import exercises
from cryoshift_core.course.own import check, compare, in_space, inputs, pixel_size_alarms, with_absent_class
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
templates: str = "combined"  # template matching: combined with the network, beside it (a second opinion) or off
may_be_absent: str = ""  # classes that may not occur at all, by commas: no warning demands them
held_out_tomograms: str = ""  # of a folder of tomograms: names by commas that are classified, and not adapted to
seed: int = 0  # decides every random draw
device: str = "auto"  # auto, cpu, cuda or mps
out_dir: str = ""  # where to write; empty: runs/<profile>/06_your_own_subtomograms

# %%
run = begin("06_your_own_subtomograms", globals())
lesson = exercises.Lesson(run, globals())
given = inputs(run)
print(check(given))

# %% [markdown]
# ## 1 · Open and look (11 minutes)
#
# **Read the table above first.** A row that says *stop* will stop the notebook, or make its result wrong. *Look* names what to
# check; nothing has been trained yet.
#
# **What do you expect?** Of 943 positions, how many lie too close to the border of the tomogram for a whole box around them?
#
# ### `open` and `look`
#
# `open` reads the files and nothing more. `look` says what was read and shows it. **Everything in these figures is
# experimental.** In the histogram, the curve that reaches further must be the *bright* side; protein must be bright in the
# subtomograms. If not, set `contrast`. If the dots are not on particles, the coordinates belong to another binning.

# %%
job = cs.open(**given)
looked = job.look()
run.show(looked)
lesson.checkpoint("subtomograms that are classified", len(looked.target.kept))

# %% [markdown]
# Three sections through one particle: a slider in JupyterLab and on the site, two particles in print. With a tomogram, the
# cross-hairs must point at the particle in all three, and dots are positions within one voxel of the section.

# %%
sliders = {"row": ("particle (row of the list)", looked.rows)}
run.explore(looked.sections, "orthoslices", sliders, panels=3, size=3.4, frames=2)

# %% [markdown]
# ### Exercise 1 · Pixel size × 1.3: which alarm rings?
#
# The lamella has voxels of 31.36 Å. Suppose that somebody takes them for 40.77 Å, which is 1.3 times as much. The classes are then
# simulated too small, and the network is right about nothing. Three ways to make that mistake:
#
# - **A**: `pixel_size = 40.77` as a parameter; the header of the file is right. Classes `ribosome_80S`, `membrane`, `ice`.
# - **B**: a program has written 40.77 into the header, and nothing is given as a parameter. The same classes.
# - **C**: as B, but with the list of ribosomes alone, and the classes `ribosome_80S`, `ice`.
#
# Two rows of the table could say *look*. `"pixel size"` compares the numbers that are stated: parameter, header, name of the file, .mdoc.
# `"particle size"` compares the width of the average particle with that of the simulated ones; it needs a diameter for every class
# but `ice`, and a membrane has none. Name the row for each case, or `"none"`. The cell after the check runs all three.

# %% tags=["exercise"]
my_alarms = {"A": None, "B": None, "C": None}


# %% tags=["solution", "hide-cell"]
my_alarms = {"A": "pixel size", "B": "none", "C": "particle size"}

# %% [raw] tags=["mistakes", "remove-cell"]
# name = "my_alarms"
# cases = ["my_alarms"]
# wrong = ['my_alarms = {"A": "none", "B": "none", "C": "particle size"}', 'my_alarms = "pixel size"']
#
# [[mistake]]
# code = 'my_alarms = {"A": "pixel size", "B": "pixel size", "C": "pixel size"}'
# hint = 'in B and C every number that is stated says 40.77, so there is nothing to contradict it. A row that compares numbers cannot see that all of them are wrong.'
#
# [[mistake]]
# code = 'my_alarms = {"A": "pixel size", "B": "particle size", "C": "particle size"}'
# hint = 'in B one of the classes is a membrane, a patch without a diameter, and the list mixes several things: there is no average particle to measure. The row says "not compared".'
#
# [[mistake]]
# code = 'my_alarms = {"A": "particle size", "B": "particle size", "C": "particle size"}'
# hint = 'the membrane has no diameter, so particles are not measured in A and B. And in A two stated numbers contradict each other: which row compares them?'
#
# [[mistake]]
# code = 'my_alarms = {"A": "pixel size", "B": "none", "C": "none"}'
# hint = 'in C nothing is left but ribosomes and ice. The average particle is then a ribosome, and its width in voxels does not depend on what the header says.'
#
# [[mistake]]
# code = 'my_alarms = {"A": "none", "B": "none", "C": "none"}'
# hint = 'in A the parameter says 40.77 and the header says 31.36. One row puts all stated numbers side by side.'

# %%
lesson.check("my_alarms")

# %%
alarms = pixel_size_alarms(1.3)
print("\n".join(f"{case}: {', '.join(rows) or 'none'}. {says}" for case, (rows, says) in alarms.items()))

# %% [markdown]
# An alarm that does not ring proves nothing: in B the wrong pixel size goes through. Where a list of one known molecule exists, run
# `check` with it alone, once for each tomogram. The voxel size that it proposes is a rough one: even with the right voxel size, real
# particles look wider than simulated ones here, because each position is off by up to a voxel and the tomogram is filtered.
#
# **Recap**
# - Contrast, pixel size and box decide more than the network does: read the table, then look at the subtomograms.
# - Stated pixel sizes can only contradict each other; a particle of known size can contradict all of them.
# - Nothing was trained or simulated at length so far.
#
# ## 2 · Simulate, spike, adapt (12 minutes)
#
# ### Simulate
#
# The network learns from simulated subtomograms of the same classes, box and voxel size. The settings of the microscope are
# drawn from wide ranges, because yours are not known. The spectra of the two domains differ; that is the gap to be closed.
#
# **What do you expect?** At which frequencies do the two spectra differ most: the low or the high ones?

# %%
run.show(job.simulate())

# %% [markdown]
# ### Spike
#
# No simulation knows the noise, the filters and the crowd of *your* tomogram. Between your particles are boxes without one.
# A simulated molecule in such a box has real surroundings and a known class. There are two sets of boxes: one to train
# with, where there are enough of them, and one for [*spike-ins*](../docs/glossary.md#spike-in), which measure the accuracy below. Both are made before
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
# ### Adapt
#
# `source_only` never sees your subtomograms. `cryoshift` is adapted to them, without labels, and is trained a second time
# without its adversaries (`cryoshift_warps`): adversaries also align the class fractions, so where the two disagree about
# these by more than 0.1, the second one is used. The checkpoint is chosen by label-free scores, and where a check speaks
# against the adapted network, `source_only` may take its place and a warning says so. In the figure, the classification loss and the
# accuracy are those of simulated subtomograms; the [IM score](../docs/glossary.md#im-score) is of yours, and 0 if all predictions are
# the same.

# %%
run.show(job.adapt())

# %% [markdown]
# **Recap**
# - The source is simulated for the classes that you name; the settings of its microscope are drawn widely.
# - Spike-ins are known molecules in real particle-free boxes: the only labels that your tomogram can give.
# - `cryoshift` saw the subtomograms, and no label of theirs.
#
# ## 3 · Judge and classify (12 minutes)
#
# ### Judge
#
# **What do you expect?** Which of the three classes will the spike-ins speak against, if any?
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
# disagree (`n_seeds`); and, for `ice`, where the average has more than half the contrast of the strongest class. The
# balanced accuracy on spike-ins is a range: with positions that are off by up to 4 voxels, and by up to 2. The *balanced
# accuracy to expect* reaches from that with 2 voxels to the mean calibrated confidence, and 0.05 beyond both. The
# [A-distance](../docs/glossary.md#a-distance) says how well features of simulated subtomograms and of yours can be told apart.
#
# The figures show what the alarms saw: the recall on spike-ins of each method (dotted: guessing), and the averages of the
# predicted classes above simulated ones. **A class without an alarm can still be wrong**: spike-ins are simulated molecules,
# so real ones that differ from their models, and things that you did not name, are not in this score.

# %%
run.show(job.judge())

# %% [markdown]
# ### Classify
#
# How many of each class, and how sure. Confidences are calibrated on simulated subtomograms that were not trained on, and
# warped to look like yours. The first figure shows how the methods differ in the class fractions of the subtomograms
# adapted to. In the second, the most certain ones of a class should look alike. In the third, colour is the predicted
# class. The [*expected purity*](../docs/glossary.md#expected-purity) is the mean calibrated confidence: the
# model's own expectation, and too high for classes that the verdict speaks against.
#
# **A second opinion.** [Template matching](../docs/glossary.md#template-matching) compares each subtomogram with images of the structures
# in 2,000 poses each. It is not trained, so it shares no mistake of the training; it knows rigid molecules only, and cannot answer `ice`.
# In its figure, rows are what the network says and columns what the best template is: off the diagonal at least one of the two is wrong.
# **With two molecules or more, both answer together** (`network_and_templates`): the network says whether it is a molecule, both say which one.
# The default has one molecule, so its answer is the network's. `templates="beside"` always leaves it to the network.
#
# **What do you expect?** A template of the membrane is a schematic sheet, one of the ribosome a whole structure. On which class will the
# two agree more?

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
# ### Threshold against purity
#
# A least confidence of your choice keeps fewer subtomograms that are more often right. The slider
# moves it. Left: the expected purity of what is kept and, where there are spike-ins, the share of them that is right, with its 95 %
# interval; believe the lower one. Right: how many of each class are kept.
#
# **What do you expect?** From which confidence on do the spike-ins reach the purity that you need, and how many are then left?

# %%
sliders = {"confidence": ("least confidence", classified.confidences)}
start = {"confidence": classified.confidences[0]}
run.explore(classified.at_confidence, "threshold", sliders, panels=2, start=start, size=3.6, frames=3)

# %% [markdown]
# ### Exercise 2 · How many may stay?
#
# You want the largest set of the most confident subtomograms whose *expected purity*, the mean of their confidences, is at least
# `purity`. How many does it hold? Write it for an array of confidences in any order. This is what decides which rows
# `predictions_purity.star` gets.

# %% tags=["given"]
some = np.array([0.95, 0.60, 0.90, 0.70, 0.85])


# %% tags=["exercise"]
def n_kept(confidences, purity):
    return None


# %% tags=["solution", "hide-cell"]
def n_kept(confidences, purity):
    ordered = np.sort(confidences)[::-1]
    mean = np.cumsum(ordered) / np.arange(1, len(ordered) + 1)
    return int((mean >= purity).sum())  # the mean falls from the first to the last


# %% [raw] tags=["mistakes", "remove-cell"]
# name = "n_kept"
# cases = ['n_kept(some, 0.82)', 'n_kept(some, 0.99)', 'n_kept(some, 0.5)', 'n_kept(some, 0.87)']
# wrong = ["""
# def n_kept(confidences, purity):
#     return 4
# """]
#
# [[mistake]]
# code = """
# def n_kept(confidences, purity):
#     return int((confidences >= purity).sum())
# """
# hint = 'that takes the purity for a threshold: each subtomogram reaches it, so the mean of the set is higher than asked for, and too few stay. The purity is one of the set.'
#
# [[mistake]]
# code = """
# def n_kept(confidences, purity):
#     return len(confidences) if confidences.mean() >= purity else 0
# """
# hint = 'all or none: if the mean of all is too low, leave the least confident ones out until it is not.'
#
# [[mistake]]
# code = """
# def n_kept(confidences, purity):
#     mean = np.cumsum(confidences) / np.arange(1, len(confidences) + 1)
#     return int((mean >= purity).sum())
# """
# hint = 'the confidences come in any order. Sort them first, the most confident one in front.'

# %%
lesson.check("n_kept")

# %%
if lesson.solved("n_kept"):
    sure = classified.predictions
    mine = sure.confidence if sure.unknown is None else sure.confidence[~sure.unknown]
    for least in (0.8, 0.9, 0.95):
        print(f"expected purity {least:.2f}: {n_kept(mine.double().numpy(), least)} of {len(sure)} subtomograms stay")

# %% [markdown]
# **Recap**
# - The verdict comes first. A class without an alarm can still be wrong.
# - A confidence is about one subtomogram, a purity about a set; both are expectations of the model.
# - Where the spike-ins say less than the expected purity, believe them.
#
# ## 4 · Report, and how right is it? (10 minutes)
#
# **What do you expect?** Ribosomes were listed by experts at 267 of these positions. How many of them get the name?
#
# ### Report
#
# `predictions.star` has one row per input, in input order, with the input's own columns, the class and its confidence;
# `predictions_purity.star` the rows at the expected purity that you asked for, where any reach it; `classes/` a file per
# class; `purity.csv` how many stay at a confidence. `report.html` holds all of it on one page, verdict first.
# `model.safetensors` is the classifier, for the next tomogram.

# %%
result = job.report(run=run)
run.report(**result.numbers)
manifest = run.finish()
print(result)

# %% [markdown]
# **How right is it?** With your own data, nobody knows: the verdict and the spike-ins are all there is, and a few
# subtomograms that you check by eye. For the shipped lamella, the lists say what stands at each position. They were opened
# only now. Ribosomes among the random positions are not all mistakes, because the list is not complete.

# %%
print(compare(result))

# %% [markdown]
# ### Exercise 3 · A class that is not there
#
# You name a class in `classes` that the tomogram does not hold. How many subtomograms will be called by its name? Let `n` hold the
# true number of each class, 0 for the one that is not there, and `recall[i, j]` the share of class i that is called j (each row sums
# to 1). Return the expected number *called* each class.

# %% tags=["given"]
true_n = np.array([300.0, 600.0, 0.0])  # the third class is not there
recall = np.array([[0.80, 0.10, 0.10], [0.05, 0.85, 0.10], [0.00, 0.20, 0.80]])


# %% tags=["exercise"]
def expected_calls(n, recall):
    return None


# %% tags=["solution", "hide-cell"]
def expected_calls(n, recall):
    return n @ recall


print("called:", expected_calls(true_n, recall))

# %% [raw] tags=["mistakes", "remove-cell"]
# name = "expected_calls"
# cases = ['expected_calls(true_n, recall)', 'expected_calls(np.array([0.0, 0.0, 100.0]), recall)']
# wrong = ["""
# def expected_calls(n, recall):
#     return n
# """]
#
# [[mistake]]
# code = """
# def expected_calls(n, recall):
#     called = n @ recall
#     called[n == 0] = 0
#     return called
# """
# hint = 'a class that is not there is called all the same: each of the others loses a share to it. The network must choose one of the names that you gave.'
#
# [[mistake]]
# code = """
# def expected_calls(n, recall):
#     return n * np.diag(recall)
# """
# hint = 'those are the right calls alone. Add what the other classes lose to each name.'
#
# [[mistake]]
# code = """
# def expected_calls(n, recall):
#     return recall @ n
# """
# hint = 'the matrix is turned: recall[i, j] is a share of class i, the first index. Sum n[i] recall[i, j] over i.'

# %%
lesson.check("expected_calls")

# %% [markdown]
# Now in earnest. A bacterial ribosome, 70S, does not occur in the cytosol of yeast. A linear classifier on the features of the trained
# network learns it as a fourth class from simulated subtomograms, in seconds and without touching the predictions above. It knows
# simulated boxes alone, so its counts of the other classes are not those above.
#
# **What do you expect?** None, a few, or a third of the subtomograms?

# %%
absent = with_absent_class(job, "ribosome_70S")
print(absent)

# %% tags=["solution", "remove-cell"]
assert not lesson.unsolved(), lesson.unsolved()

# %% [markdown]
# So a count does not show that a class is there; a name that is absent can take the subtomograms of a relative. Compare the two printed
# numbers: where the count is far above what simulated subtomograms let expect, real ones differ from simulated ones, and a confusion
# that was measured on simulations does not warn. `may_be_absent` only keeps warnings from demanding a class, and `_csNoneOfThese` marks
# what resembles no class.
#
# **Recap**
# - The report holds every result, verdict first; `predictions.star` has one row per input.
# - With your own data nobody knows the answer: spike-ins, and some subtomograms checked by eye, are all there is.
# - A name that is absent gets subtomograms all the same, and may take them from a relative that is there.
#
# ## What to take away
#
# - Contrast, pixel size and box decide more than the network: read the first table, and look at the subtomograms.
# - The verdict comes first. It needs no label, it finds gross faults, and a class without an alarm can still be wrong.
# - The source is simulated for the structures that you *expect*. Whatever else is in the tomogram gets one of their names
#   too; `_csNoneOfThese` marks what stands apart from the class that it resembles. A relative of a class does not stand apart.
# - A confidence is not an accuracy, even a calibrated one.
# - The same eight calls work in a script (`cs.open`), `cs.classify` makes them all, and so does
#   `python -m cryoshift_core classify`. [06b](06b_hiv_by_particle.ipynb) scores them where the truth is known, by particle.
