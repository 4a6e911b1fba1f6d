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
# # 02 · The domain gap
#
# A classifier trained on simulated cubes is nearly perfect on other simulated cubes. What happens when the microscope, the
# ice and the neighbours are not the ones that were simulated?
#
# **What you will learn**
# - to see a domain gap in grey values, in power spectra and in the features of a network;
# - why high confidence on unlabelled data proves nothing;
# - to measure a gap *without a label* (predicted class shares, proxy A-distance);
# - which single factor (dose, defocus, wedge, neighbours ...) moves the data furthest.
#
# **What you need**: notebook 01 helps, but this one runs alone. Everything here is simulated. The target plays the
# experiment: its labels are locked away in an answer key that only notebook 05 opens.
#
# | profile | time | memory |
# |---|---|---|
# | smoke | 10 s | 610 MB |
# | laptop | 1.3 min | 1400 MB |

# %%
import matplotlib.pyplot as plt
import torch

from cryoshift_core import metrics, models, training
from cryoshift_core.application import pictures
from cryoshift_core.course import figures
from cryoshift_core.course.run import begin
from cryoshift_core.simulation import datasets, scenarios
from cryoshift_core.simulation.datasets import DatasetConfig

# %% tags=["parameters"]
profile: str = "laptop"  # how much work: smoke, laptop, gpu or paper
scenario: str = "in_situ_1"  # the target domain, a name from scenarios.SCENARIOS
seed: int = 0  # decides every random draw
device: str = "auto"  # auto, cpu, cuda or mps
out_dir: str = ""  # where to write; empty: runs/<profile>/02_the_domain_gap

# %%
run = begin("02_the_domain_gap", globals())
pictures.use_style()
p = run.profile
source = datasets.simulate_source(DatasetConfig.of(p, "source", "source", run.params.seed), folder=run.data_folder)
validation = datasets.simulate_source(
    DatasetConfig.of(p, "source", "validation", run.params.seed), folder=run.data_folder
)
target = datasets.simulate_target(DatasetConfig.of(p, scenario, "train", run.params.seed), folder=run.data_folder)
print(f"{len(source)} labelled source cubes, {len(target)} unlabelled target cubes of {p.box}^3 voxels")

# %% [markdown]
# ## Can you tell them apart by eye?
#
# Top: one source cube of each class. Below: target cubes, in no order, because nobody has labelled them. Look at the
# *background* rather than at the particle: how coarse is its grain, and does anything stand in the corners?

# %%
n = len(p.classes)
rows = {
    "source": pictures.one_of_each(source.x, source.y, n),
    "target": target.x[:n],
    "target ": target.x[n : 2 * n],
}
fig = pictures.gallery(rows, p.classes)
run.save_figure(fig, "source_and_target")
plt.show()

# %% [markdown]
# The column titles name the source's classes only. The target's grain is coarser, and pieces of neighbours reach in.
#
# ## Grey values agree, spectra do not
#
# Every cube was normalised by its own median and MAD, so first-order statistics match by construction. The gap sits
# in the second order: the power spectrum. Look for the frequencies at which the two curves part.

# %%
domains = {"source": source.x[:256], "target": target.x[:256]}
fig = figures.histograms(domains)
run.save_figure(fig, "grey_values")
plt.show()
fig = figures.spectra(domains, p.voxel_size)
run.save_figure(fig, "power_spectra")
plt.show()

# %% [markdown]
# In the plane of the beam (kz) and of the image (kx), the **missing wedge** is the dark double cone: no tilt image ever
# measured those frequencies. A scenario with another tilt range has another cone.

# %%
fig, axes = plt.subplots(1, 2, figsize=(6, 3.1), layout="constrained")
for ax, (name, x) in zip(axes, domains.items(), strict=True):
    figures.spectrum_plane(ax, x, f"{name}: log power, ky = 0")
run.save_figure(fig, "missing_wedge")
plt.show()

# %% [markdown]
# ## A classifier that has only seen simulations
#
# `source_only` is plain cross-entropy on the labelled source. The right panel is its accuracy on source cubes that it
# did not train on (other poses, other tomograms, same simulator). The dotted line is guessing.

# %%
fit = training.fit("source_only", source, target, validation=validation, seed=run.params.seed, **run.training)
fig = figures.learning_curves({"source_only": fit.history}, ["source", "source_val_acc"])
fig.axes[1].axhline(1 / n, ls=":", color="0.5")
fig.axes[1].set_ylim(0, 1)
run.save_figure(fig, "learning_curves")
plt.show()

# %% [markdown]
# ## What does it say about the target?
#
# No label is needed to look at *what* it answers. Simulated classes are equally frequent on both sides here (in a real
# tomogram you would not know), so the bars of a good classifier are about level. And look at the confidences: do they
# fall as they should?

# %%
p_val = models.predict(fit.network, validation.x, device=run.params.device)
p_t = models.predict(fit.network, target.x, device=run.params.device)
shares = {
    name: torch.bincount(q.argmax(1), minlength=n).div(len(q)).tolist()
    for name, q in (("source", p_val), ("target", p_t))
}
fig = pictures.class_fractions(shares, source.classes)
run.save_figure(fig, "predicted_shares")
plt.show()

confidence = {"source": p_val.max(1).values.mean().item(), "target": p_t.max(1).values.mean().item()}
val_accuracy = metrics.balanced_accuracy(p_val, validation.y)
print(f"balanced accuracy on held-out source cubes: {val_accuracy:.2f}")
print(f"mean confidence: source {confidence['source']:.2f}, target {confidence['target']:.2f}")

# %% [markdown]
# A confidence is the network's opinion of itself. Notebook 05 opens the answer key and shows how little it is worth under
# shift.
#
# ## Where do the features go?
#
# Each dot is a cube, seen through the classifier's features and flattened onto their two strongest directions. If the
# domains were alike, the colours would mix.

# %%
f_s, f_t = (models.embed(fit.network, x[:300], device=run.params.device) for x in (validation.x, target.x))
fig = figures.embedding({"source": f_s, "target": f_t}, "features of source_only")
run.save_figure(fig, "features")
plt.show()
gap = metrics.a_distance(f_s, f_t, seed=run.params.seed)
print(f"proxy A-distance of the features: {gap:.2f}   (0: indistinguishable, 2: a linear rule separates them)")

# %% [markdown]
# The **proxy A-distance** is 2 (1 - 2 e), with e the error of a linear classifier asked to tell the domains apart. It says
# that they differ, *not* that the difference hurts: the next figure compares it between factors.
#
# ## One factor at a time
#
# Ten small targets, each with one factor raised to level 2 and everything else as in the source. Two label-free readings
# for each: how far the features move, and how far the mean confidence falls. Poses are the same in all of them.

# %%
few = max(12, min(84, p.n_target // 10))
table = []
for factor in run.progress(scenarios.FACTORS, "factors"):
    ask = DatasetConfig(f"{factor}_2", p.classes, few, p.box, p.voxel_size, "train", 2, run.params.seed)
    cubes = datasets.simulate_target(ask, folder=run.data_folder, progress=False)
    seen = models.outputs(fit.network, cubes.x, device=run.params.device)
    distance = metrics.a_distance(f_s[:few], seen.features, seed=0)
    sure = seen.probabilities.max(1).values.mean().item()
    table.append({"factor": factor, "a_distance": distance, "confidence": sure})
run.save_table(table, "factors")

# %%
table.sort(key=lambda row: row["a_distance"])
fig, axes = plt.subplots(1, 2, figsize=(7.4, 3.2), sharey=True, layout="constrained")
names = [row["factor"] for row in table]
axes[0].barh(names, [row["a_distance"] for row in table], color=pictures.COLOURS["target"])
axes[0].set(xlabel="proxy A-distance to the source", xlim=(0, 2))
axes[1].barh(names, [row["confidence"] for row in table], color=pictures.COLOURS["target"])
axes[1].axvline(confidence["source"], color=pictures.COLOURS["source"], label="source")
axes[1].set(xlabel="mean confidence", xlim=(0, 1))
axes[1].legend(loc="upper center", bbox_to_anchor=(0.75, 1.16))
run.save_figure(fig, "factors")
plt.show()

# %% [markdown]
# With so few cubes a bar moves by about ±0.3 from seed to seed: read the order, not the digits. `prior` changes only how
# often each class occurs, and `structure` only the molecules; a distance there is (nearly) noise, and shows the floor of the method.

# %%
if run.profile.name != "smoke":
    assert val_accuracy > 2.5 / n, "the classifier must work at home before one may speak of a gap"
    assert gap > 0.5, "source and target features should be told apart"
run.report(source_val_balanced_accuracy=val_accuracy, target_confidence=confidence["target"], a_distance=gap)
run.finish()

# %% [markdown]
# ## What to take away
#
# - Normalising grey values does not close a domain gap: it sits in the spectrum, in the neighbours and in the wedge.
# - A gap can be *measured* without labels, but neither confidence nor A-distance says how many answers are wrong.
# - The figures compare simulators with each other. They say nothing yet about a real tomogram: notebook 06 does.
#
# ## Questions to think about
#
# 1. Low-pass filtering both domains would make the spectra meet at high frequency. What would you lose?
# 2. `prior_2` has hardly any distance, and yet it can change an accuracy. Which one, plain or balanced, and why?
# 3. Could two domains have A-distance 0 and a classifier still fail on the target?
