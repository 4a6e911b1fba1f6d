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
# - the problem and the three ingredients of the answer, in one picture;
# - what each notebook of the series gives, and what its results can and cannot prove;
# - whether your machine is ready, and how long the series will take on it.
#
# **What you need**: some Python. No cryo-EM, no domain adaptation, no GPU, no data. The words are explained below.
#
# | profile | time | memory |
# |---|---|---|
# | smoke | 14 s | 880 MB |
# | laptop | 18 s | 910 MB |

# %% [markdown]
# ## Is everything installed?
#
# This cell uses nothing but Python itself, so that it can say what is missing before something else trips over it.
# *Other* means a version that this series was not tested with; it may well work.

# %%
import re
import sys
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path


def installed(name: str) -> str:
    try:
        return metadata.version(name).split("+")[0]
    except metadata.PackageNotFoundError:
        return "missing"


def check_packages() -> None:
    """Python and each direct dependency against the version that constraints.txt pins."""
    spec: object = find_spec("cryoshift_core")
    places: list = [*([Path(spec.origin).parents[1]] if spec else []), Path.cwd(), *Path.cwd().parents]
    folders: list = [folder for folder in places if (folder / "constraints.txt").is_file()]
    if not folders:
        raise RuntimeError(f"No constraints.txt in {Path.cwd()} or above; open this notebook inside the repository.")
    if not (3, 11) <= sys.version_info < (3, 14):
        raise RuntimeError(f"This is Python {sys.version.split()[0]}; wanted 3.11 to 3.13: run `make venv`.")
    pins: dict = dict(line.split("==") for line in (folders[0] / "constraints.txt").read_text().lower().split())
    section: str = (folders[0] / "pyproject.toml").read_text().split("\ndependencies = [")[1].split("]")[0]
    found: dict = {name: installed(name) for name in re.findall(r'"([\w.-]+)', section)}
    print(f"{'Python':14} {sys.version.split()[0]:10} ok")
    for name, version in found.items():
        verdict: str = (
            "ok" if version == pins[name] else "MISSING" if version == "missing" else f"other than {pins[name]}"
        )
        print(f"{name:14} {version:10} {verdict}")
    if "missing" in found.values():
        raise RuntimeError("Packages are missing: run `make venv`, then `make lab`, or choose the kernel in .venv.")


check_packages()

# %%
import shutil
import time

import matplotlib.pyplot as plt
import psutil
import torch

import data_fetch
from cryoshift_core import errors, training
from cryoshift_core.application import pictures
from cryoshift_core.course import costs
from cryoshift_core.course.run import begin
from cryoshift_core.simulation import datasets, imaging, scenarios, specimens, structures
from cryoshift_core.simulation.datasets import DatasetConfig
from cryoshift_core.tomography import mrc
from data_fetch import readers

# %% tags=["parameters"]
profile: str = "laptop"  # how much work: smoke, laptop, gpu or paper
seed: int = 0  # decides every random draw
device: str = "auto"  # auto, cpu, cuda or mps
out_dir: str = ""  # where to write; empty: runs/<profile>/00_start_here

# %%
run = begin("00_start_here", globals())
pictures.use_style()
p = run.profile
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
# 1. **Simulation** (notebook 01) gives as many labelled subtomograms as one likes.
# 2. **Warps** (03) alter simulated subtomograms, within bounds, until they look like target subtomograms.
# 3. **Class-wise discriminators** (04) try to tell source from target by the features, one of them for each class.
#    Their gradient reaches the network *reversed* (red): it learns features in which they fail.
#
# A target subtomogram has no arrow to any label, from here to notebook 05. Its only arrows carry its pixels. (Notebook 02 opens the labels
# of a *practice* target, which no evidence uses.)

# %%
red = pictures.COLOURS["cryoshift_reference"]
boxes = [  # x, y, text, colour
    (2.0, 3.1, "source\nsimulated, labelled", pictures.COLOURS["source"]),
    (2.0, 0.9, "target\nexperimental,\nunlabelled", pictures.COLOURS["target"]),
    (5.0, 3.1, "warps:\npicking error,\nneighbours,\nspectrum", pictures.COLOURS["warped"]),
    (7.4, 2.0, "3-D network\nfeatures", "0.45"),
    (10.0, 3.1, "classifier\nwhich molecule?", "0.45"),
    (10.0, 0.9, "one discriminator\nper class: source\nor target?", red),
]
arrows = [  # from, to, style
    ((3.15, 3.1), (4.15, 3.1), {}),
    ((5.9, 2.9), (6.75, 2.35), {}),
    ((3.05, 1.05), (6.6, 1.85), {}),
    ((2.6, 1.45), (4.3, 2.65), {"ls": "--", "color": "0.5"}),
    ((8.2, 2.3), (9.0, 2.8), {}),
    ((8.2, 1.7), (8.95, 1.3), {}),
    ((9.0, 0.7), (7.4, 1.6), {"color": red, "connectionstyle": "arc3,rad=-0.4"}),
]
notes = [  # x, y, text, colour
    (6.85, 3.3, "source and\nwarped source", "0.3"),
    (2.7, 2.2, "spectrum,\ngrey values", "0.4"),
    (7.1, 0.75, "gradient, reversed", red),
    (10.0, 2.4, "learns from source labels", "0.3"),
]

# %%
clearest = int(source.snr.argmax())  # the same molecule as source and as target
name = p.classes[int(source.y[clearest])]
only = DatasetConfig("in_situ_1", (name,), 1, p.box, p.voxel_size, "train", 1, run.params.seed)
same = datasets.simulate_target(only, progress=False)
fig, ax = plt.subplots(figsize=(9.6, 3.5))
for start, end, style in arrows:
    ax.annotate("", end, start, arrowprops={"arrowstyle": "-|>", "lw": 1.4, "shrinkA": 0, "shrinkB": 0, **style})
for x, y, text, colour in boxes:
    frame = {"boxstyle": "round,pad=0.6", "fc": colour, "lw": 0}
    ax.text(x, y, text, ha="center", va="center", color="white", bbox=frame)
for x, y, text, colour in notes:
    ax.text(x, y, text, ha="center", va="center", color=colour, fontsize=8)
for cube, y in ((source.x[clearest], 3.1), (same.x[0], 0.9)):
    pictures.show(ax.inset_axes((-0.4, y - 0.5, 1.2, 1.0), transform=ax.transData), pictures.middle(cube))
ax.set(xlim=(-0.4, 11.2), ylim=(0.2, 3.8))
ax.set_axis_off()
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
# Six source subtomograms with unknown names, above them nothing but their numbers. Compare with the figure above.
#
# **What do you expect?** How many of the six will you name? Put your six names in place of None, run the cell, then the next one.

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

# %%
true_names = [p.classes[k] for k in source.y[quiz]]
hits = sum(mine == true for mine, true in zip(my_names or [], true_names, strict=False))
print(f"You named {hits} of 6: " if my_names else "You named none yet. They are: ", end="")
print(", ".join(f"{i} {name}" for i, name in enumerate(true_names, 1)))
print(f"{6 / k:.1f} of 6 come by guessing. Notebook 02 says how often a trained network is right.")


# %% [markdown]
# ## Is this machine ready?
#
# Everything that has stopped somebody before: threads, memory, room on the disk, the molecular maps and the real
# sample that ship with the code. What is needed is not guessed: memory is the largest that was measured for a notebook
# (`notebooks/costs.json`) and a quarter more, room on the disk that of the subtomograms that the profile simulates, twice.


# %%
def maps_in_order() -> str:
    for name in structures.BUILTIN:
        volume = structures.template(name, 12.0, 40)
        assert torch.isfinite(volume).all() and volume.max() > 0, f"the shipped map of {name} is damaged"
    return f"{len(structures.BUILTIN)} classes"


def sample_in_order() -> str:
    sample = data_fetch.sample()
    tomogram = mrc.read_mrc(sample.tomogram)
    positions = readers.read_picks(sample.coordinates, tomogram)
    shape = " x ".join(map(str, tomogram.data.shape))
    return f"{shape} voxels of {tomogram.voxel_size:g} A, {len(positions.zyx)} positions"


# %%
stated = costs.read(p.name)
largest = max(cost.memory_mb for cost in (stated or costs.read("laptop")).values())
cube_bytes = 4 * p.box**3 * (p.n_source + p.n_validation + p.n_target + p.n_test)
need = {"memory": 1.25 * largest / 1e3, "disk": 2 * cube_bytes / 1e9 + 0.2}
have = {"memory": psutil.virtual_memory().available / 1e9, "disk": shutil.disk_usage(run.folder).free / 1e9}
print(f"device         {run.device}, {torch.get_num_threads()} threads on {psutil.cpu_count()} cores")
busy = psutil.getloadavg()[0]
print(f"other work     load {busy:.1f}" + (": close it, or all times grow" if busy > psutil.cpu_count() else ": ok"))
for name, gigabytes in have.items():
    verdict = "ok" if gigabytes > need[name] else "TOO LITTLE: close something, or take a smaller profile"
    print(f"free {name:9} {gigabytes:.1f} GB, {need[name]:.1f} GB needed: {verdict}")
print(f"shipped maps   {maps_in_order()}: ok")
print(f"real sample    {sample_in_order()}: ok")
if short := [name for name in have if have[name] <= need[name]]:
    raise errors.InputError(f"Too little free {' and '.join(short)} for profile {p.name}; see above for the way out.")

# %% [markdown]
# ## Does it work, and how fast?
#
# A fixed piece of work, the same for every profile: a few source and target subtomograms of 32 voxels are simulated, and
# Cryo-Shift takes four training steps on them. Four steps teach nothing; that the losses are finite numbers says that
# all parts fit together.

# %%
REFERENCE = 2.4  # seconds that this took on the two CPU cores on which the times in the headers were measured


def work() -> tuple[float, training.Fit]:
    """Seconds on the clock, and the tiny fit."""
    two = ("ribosome_80S", "TRiC")
    start = time.perf_counter()
    labelled = datasets.simulate_source(DatasetConfig("source", two, 64, 32, 12.0, "source", 2), progress=False)
    unlabelled = datasets.simulate_target(DatasetConfig("in_situ_1", two, 32, 32, 12.0, "train", 2), progress=False)
    config = training.TrainingConfig(steps=4, batch=32, width=16)
    fit = training.fit("cryoshift_reference", labelled, unlabelled, config=config, device=device, progress=False)
    return time.perf_counter() - start, fit


times = []
for _ in range(3):  # the first one also fills caches, and another program may get in the way of any
    seconds, fit = work()
    times.append(seconds)
factor = min(times) / REFERENCE
terms = {name: values for name, values in fit.history.items() if name not in ("step", "seconds", "im_score")}
losses = {name: next((v for v in reversed(values) if v == v), float("nan")) for name, values in terms.items()}
print(", ".join(f"{name} {value:.2f}" for name, value in losses.items()))
print(f"{min(times):.2f} s; the reference machine needs {REFERENCE:.2f} s: this one takes {factor:.1f} times as long")
assert all(torch.tensor([*losses.values(), terms["source"][-1]]).isfinite()), "a training step gave no finite loss"

# %% [markdown]
# The estimate below is each notebook's measured time multiplied by that factor. It is honest to about ± 50 %:
# simulation, training and drawing do not slow down alike, and a notebook is faster when an earlier one has left its
# subtomograms and fits behind.

# %%
for name, cost in stated.items():
    print(f"{name:34} {cost.seconds * factor / 60:5.1f} min   {cost.memory:>8}")
series = sum(cost.seconds for cost in stated.values()) * factor / 60
print(f"{'together':34} {series:5.1f} min" if stated else f"No times were measured at the profile {p.name}.")

# %%
run.report(fixed_work_seconds=min(times), slower_than_reference=factor, estimated_minutes=series)
run.finish()

# %% [markdown]
# ## The series
#
# - 01 [Simulate subtomograms](01_simulate_subtomograms.ipynb). *Where does a subtomogram come from?* Potential, CTF, dose,
#   missing wedge; as many labelled subtomograms as you like.
# - 02 [The domain gap](02_the_domain_gap.ipynb). *What breaks on the next data set?* How to see and measure a gap
#   without labels.
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
# | defocus | how far out of focus the image is taken (um, underfocus positive); it makes proteins visible at all |
# | dose | electrons that hit the specimen (per A^2); more means less noise and more damage |
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
# 1. Look at the bottom row of the second figure. Which subtomogram would you dare to name, and how would you check?
# 2. Why one discriminator for *each class*, and not one for all?
# 3. If labels of your own tomogram existed for 20 subtomograms, would you rather train on them or test on them?
