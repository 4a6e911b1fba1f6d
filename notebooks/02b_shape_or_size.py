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
# # 02b · Shape or size?
#
# The classifier of notebook 02 names simulated molecules almost without a mistake. What does it look at: the shape of a
# molecule, or only how much of it there is? A score cannot say. An experiment can: change one thing, keep everything else.
#
# **What you will learn**
# - to ask a network what it looks at, with [stand-ins](../docs/glossary.md#stand-in): the mass stays, the shape goes;
# - what a radial average keeps and what it forgets;
# - what wins where shape and mass contradict each other;
# - why such a network also names a sphere, and with confidence.
#
# **What you need**: notebook 02 helps, and leaves the network that is used here; this one trains it if it is missing. About 40
# minutes to read and try. Everything here is simulated as the *source* is, where the network is right: no target label is
# opened. Words in links are explained in the [glossary](../docs/glossary.md).
#
# | profile | time | memory |
# |---|---|---|
# | smoke | 20 s | 650 MB |
# | laptop | 39 s | 1230 MB |

# %% tags=["hide-input"] jupyter={"source_hidden": true}
from dataclasses import replace

import matplotlib.pyplot as plt
import numpy as np
import torch

from cryoshift_core import models
from cryoshift_core.application import pictures
from cryoshift_core.course import exercises, figures
from cryoshift_core.course.run import begin
from cryoshift_core.data import normalize
from cryoshift_core.simulation import controls, datasets, imaging, scenarios, specimens, structures
from cryoshift_core.simulation.datasets import DatasetConfig

# %% tags=["parameters"]
profile: str = "laptop"  # how much work: smoke, laptop, gpu or paper
scenario: str = "in_situ_2"  # the target of notebook 02, whose fit of source_only is used; no label of it is opened
seed: int = 0  # decides every random draw
device: str = "auto"  # auto, cpu, cuda or mps
out_dir: str = ""  # where to write; empty: runs/<profile>/02b_shape_or_size

# %%
run = begin("02b_shape_or_size", globals())
lesson = exercises.Lesson(run, globals())
pictures.use_style()
p = run.profile
source, validation = (
    datasets.simulate_source(DatasetConfig.of(p, "source", split, run.params.seed), folder=run.data_folder)
    for split in ("source", "validation")
)
target = datasets.simulate_target(DatasetConfig.of(p, scenario, "train", run.params.seed), folder=run.data_folder)
fit = run.fit("source_only", source, target, validation)
molecules = [name for name in p.classes if name in structures.BUILTIN]
n, pixel = len(p.classes), p.voxel_size
maps = {name: structures.template(name, pixel, p.box) for name in molecules}

# %% [markdown]
# ## 1 · Keep the mass, take the shape away (14 minutes)
#
# Each molecule is replaced by a stand-in with its total potential (which is proportional to its mass) and, except for the radial
# average, its mean density: a sphere, a hollow shell, a heart, its radial average, and its mirror image. The sections contain the
# beam: x to the right, z upwards.


# %%
STAND_INS = ("sphere", "shell", "heart", "radial", "mirror")
rows = {"molecule": list(maps.values())}
rows |= {name: [controls.shape(volume, name) for volume in maps.values()] for name in STAND_INS}
along_beam = {name: torch.stack(some)[:, None].flip(2).transpose(2, 3) for name, some in rows.items()}
fig = pictures.gallery(along_beam, molecules)
run.save_figure(fig, "stand_ins")
plt.show()

# %% [markdown]
# ### Exercise 1 · How large is such a sphere?
#
# Protein weighs 0.81 Da per Å³. Write a function that returns the *diameter* in Å of a solid sphere of protein with a mass in
# kDa. What do you expect for eight times the mass: eight times the diameter, or twice?

# %% tags=["given"]
density = 0.81  # Da per A^3


# %% tags=["exercise"]
def sphere_diameter(mass_kda):
    return None  # A


# %% tags=["solution", "hide-cell"]
def sphere_diameter(mass_kda):
    volume = 1000 * mass_kda / density
    return 2 * (3 * volume / (4 * np.pi)) ** (1 / 3)


print(f"100 kDa: {sphere_diameter(100):.0f} Å; 800 kDa: {sphere_diameter(800):.0f} Å")

# %% [raw] tags=["mistakes", "remove-cell"]
# name = "sphere_diameter"
# cases = ['sphere_diameter(100)', 'sphere_diameter(921.3)', 'sphere_diameter(3461.5)']
# tolerance = 0.01
# wrong = ['''
# def sphere_diameter(mass_kda):
#     return 63.0
# ''', '''
# def sphere_diameter(mass_kda):
#     return 0.63 * mass_kda
# ''']
#
# [[mistake]]
# code = '''
# def sphere_diameter(mass_kda):
#     return (3 * 1000 * mass_kda / density / (4 * np.pi)) ** (1 / 3)
# '''
# hint = 'that is the radius. The question asks for the diameter.'
#
# [[mistake]]
# code = '''
# def sphere_diameter(mass_kda):
#     return 2 * (3 * mass_kda / density / (4 * np.pi)) ** (1 / 3)
# '''
# hint = 'the mass is in kDa and the density in Da per Å³: 1 kDa is 1000 Da.'
#
# [[mistake]]
# code = '''
# def sphere_diameter(mass_kda):
#     return 2 * (3 * 1000 * mass_kda / density / (4 * np.pi)) ** (1 / 2)
# '''
# hint = 'a volume grows with the cube of the diameter, so the root is the third one.'
#
# [[mistake]]
# code = '''
# def sphere_diameter(mass_kda):
#     return (1000 * mass_kda / density) ** (1 / 3)
# '''
# hint = 'that is the edge of a cube. The volume of a sphere is 4/3 pi r^3.'
#
# [[mistake]]
# code = '''
# def sphere_diameter(mass_kda):
#     return 2 * (3 * 1000 * mass_kda * density / (4 * np.pi)) ** (1 / 3)
# '''
# hint = 'mass is density times volume, so the volume is mass divided by density.'

# %%
lesson.check("sphere_diameter")

# %% [markdown]
# ### Ask the network
#
# The boxes are those of the validation source, with the stand-in in place of the molecule: same pose, same microscope, same
# noise. So whatever changes in the predictions comes from the shape. We count how many are called by the name of the molecule
# whose mass they have.
#
# **What do you expect?** Of 100 solid spheres, how many get that name: about 14, as by guessing among seven, a half, or all?

# %%
boxes = n * (2 if p.name == "smoke" else 20)


def ask(stand_in, boxes):
    """(boxes,) class whose mass each box has, and (boxes, K) probabilities of the network."""
    plain = scenarios.scenario("source")
    setting = controls.scenario(plain, stand_in) if stand_in else plain
    config = replace(DatasetConfig.of(p, setting, "validation", run.params.seed), n=boxes)
    made = datasets.simulate_source(config, progress=False)
    return made.y, models.predict(fit.network, made.x, device=run.params.device)


asked = {name: ask(name, boxes) for name in run.progress(("", *STAND_INS), "stand-ins")}
agree = {name: float((q.argmax(1) == y).float().mean()) for name, (y, q) in asked.items()}
sure = {name: float(q.amax(1).mean()) for name, (_, q) in asked.items()}

# %%
names = ["molecule", *STAND_INS]
fig, axes = plt.subplots(1, 2, figsize=(7.4, 2.7), sharey=True, layout="constrained")
for ax, values, title in ((axes[0], agree, "called by the name of its mass"), (axes[1], sure, "mean confidence")):
    bars = ax.barh(names, list(values.values()), color=["0.3", *["0.65"] * len(STAND_INS)])
    ax.bar_label(bars, fmt="%.2f", padding=2, fontsize=8)
    ax.set(xlim=(0, 1.12), xlabel=title)
axes[0].axvline(1 / n, ls=":", color="black", lw=1)
axes[0].invert_yaxis()
run.save_figure(fig, "agreement")
plt.show()
lesson.checkpoint("share of spheres called by the name of their mass", agree["sphere"])
print(f"guessing (dotted): {1 / n:.2f}; {boxes} boxes each, so one bar is known to about ±{1 / boxes**0.5:.2f}")
low, *_, high = sorted(("sphere", "shell", "heart"), key=agree.get)
print(
    f"without its shape, a molecule keeps its name in {agree[low]:.0%} ({low}) to {agree[high]:.0%} ({high}) of the boxes"
)
unsure = [name for name in STAND_INS if sure[name] < 0.5]
print(f"mean confidence: {sure['']:.2f} for molecules, at least {min(sure.values()):.2f} for stand-ins", end="; ")
print(f"below 0.5: {', '.join(unsure) or 'none'}")

# %%
y, q = asked["sphere"]
counts = np.zeros((n, n))
np.add.at(counts, (y.numpy(), q.argmax(1).numpy()), 1)
fig = figures.confusion({"sphere": counts}, p.classes)
fig.axes[0].set(ylabel="molecule whose mass it has (rows: 100 %)", title="What solid spheres are called")
run.save_figure(fig, "spheres")
plt.show()
hollow = [c for i, c in enumerate(p.classes) if counts[i, i] < 0.5 * counts[i].sum()]
print(f"spheres lose the name of: {', '.join(hollow) or 'none'}")

# %% [markdown]
# Compare the printed names with the first figure. A hollow capsid and a solid sphere of its mass differ in *diameter*. Is it
# the hole that the network misses, or the size?
#
# **Recap**
# - A stand-in changes one thing; poses, microscope and noise stay.
# - Many stand-ins are called by the name of their mass, far more than by guessing.
# - A confidence is that of a choice among the classes; it does not ask whether any of them is in the box.
#
# ## 2 · What is left when direction is forgotten? (10 minutes)
#
# The **radial average** replaces each voxel by the mean over its shell about the centre. It keeps mass, extent and holes: the
# whole *radial profile*. It forgets everything else that a structural biologist would call shape.
#
# ### Exercise 2 · Write the radial average
#
# Return an array like `volume` (n, n, n), in which each voxel is the mean over all voxels whose distance from index n // 2, rounded
# to a whole number, is the same. What do you expect for a sphere: does it change?

# %% tags=["given"]
blob = np.random.default_rng(0).normal(size=(8, 8, 8)) + np.arange(8)


# %% tags=["exercise"]
def radial(volume):
    return None  # (n, n, n)


# %% tags=["solution", "hide-cell"]
def radial(volume):
    at = np.arange(len(volume)) - len(volume) // 2
    distance = np.sqrt(at[:, None, None] ** 2 + at[:, None] ** 2 + at**2)
    shell = np.round(distance).astype(int)
    means = np.bincount(shell.ravel(), weights=volume.ravel()) / np.bincount(shell.ravel())
    return means[shell]


# %% [raw] tags=["mistakes", "remove-cell"]
# name = "radial"
# cases = ['radial(blob)', 'radial(blob[:7, :7, :7])']
# wrong = ['''
# def radial(volume):
#     return volume
# ''', '''
# def radial(volume):
#     return np.full_like(volume, volume.mean())
# ''']
#
# [[mistake]]
# code = '''
# def radial(volume):
#     at = np.arange(len(volume)) - (len(volume) - 1) / 2
#     shell = np.round(np.sqrt(at[:, None, None] ** 2 + at[:, None] ** 2 + at**2)).astype(int)
#     return (np.bincount(shell.ravel(), volume.ravel()) / np.bincount(shell.ravel()))[shell]
# '''
# hint = 'the centre is at (n - 1) / 2. With an even n that is between voxels; here the centre of a map is the voxel n // 2.'
#
# [[mistake]]
# code = '''
# def radial(volume):
#     at = np.arange(len(volume)) - len(volume) // 2
#     shell = np.round(np.sqrt(at[:, None, None] ** 2 + at[:, None] ** 2 + at**2)).astype(int)
#     return np.bincount(shell.ravel(), volume.ravel())[shell]
# '''
# hint = 'those are the sums over shells. Divide by the number of voxels of each shell.'
#
# [[mistake]]
# code = '''
# def radial(volume):
#     at = np.arange(len(volume)) - len(volume) // 2
#     shell = np.round(np.sqrt(at[:, None, None] ** 2 + at[:, None] ** 2 + at**2)).astype(int)
#     return np.bincount(shell.ravel(), volume.ravel()) / np.bincount(shell.ravel())
# '''
# hint = 'that is the profile, one number per shell. Put each number back into the voxels of its shell: means[shell].'
#
# [[mistake]]
# code = '''
# def radial(volume):
#     at = np.arange(len(volume)) - len(volume) // 2
#     ring = np.round(np.sqrt(at[:, None] ** 2 + at**2)).astype(int)
#     counts = np.bincount(ring.ravel())
#     return np.stack([(np.bincount(ring.ravel(), section.ravel()) / counts)[ring] for section in volume])
# '''
# hint = 'those are rings within each section, so z is still told apart. A shell is a sphere: use all three distances.'

# %%
lesson.check("radial")

# %% [markdown]
# **What do you expect?** Look at the rows *radial* and *mirror* of the first figure. Which of the two keeps more names?

# %%
own = agree[""]
print(f"molecules: {own:.2f}; radial averages: {agree['radial']:.2f}; mirror images: {agree['mirror']:.2f}")
kept = (agree["radial"] - 1 / n) / (own - 1 / n)
print(f"of what the network knows beyond guessing, {kept:.0%} is left when direction is forgotten")
y, q = asked["radial"]
lost = [
    f"{c} ({float((q.argmax(1)[y == i] == i).float().mean()):.0%} keep it)"
    for i, c in enumerate(p.classes)
    if float((q.argmax(1)[y == i] == i).float().mean()) < 0.5
]
print(f"radial averages that lose their name: {', '.join(lost) or 'none'}")
hand = abs(agree["mirror"] - own) < 2 / boxes**0.5
print(f"mirror images: {'no difference that these boxes could show' if hand else 'a difference'}")

# %% [markdown]
# At this voxel size and dose the hand of a molecule is hardly visible, so no classifier can be blamed for that. The radial
# average is different: in the first figure *you* can tell it from the molecule.
#
# **Recap**
# - A radial average keeps mass, extent and holes.
# - Nearly all that the network knows may be in there; the printed share says how much.
# - Molecules of the same profile need something else to be told apart.
#
# ## 3 · When shape and mass contradict each other (10 minutes)
#
# Now each molecule is magnified, or shrunk, until it has the mass of another one. A network that looks at shape keeps its name;
# one that looks at mass gives the other's. For photographs this is the *cue conflict* of Geirhos et al. (2019): a cat with the
# skin of an elephant. Shapes that would not fit into the box at the largest mass are left out.
#
# **What do you expect?** Who wins: shape, mass, or neither?

# %%
shapes = [s for s in molecules if all(controls.fits(s, other, pixel, p.box) for other in molecules)]
fewer = n * (2 if p.name == "smoke" else 15)
conflict = {"shape": [], "mass": [], "called": []}
for name in run.progress(shapes, "cue conflict"):
    y, q = ask(name, fewer)
    conflict["shape"] += [p.classes.index(name)] * len(y)
    conflict["mass"] += y.tolist()
    conflict["called"] += q.argmax(1).tolist()
shape_of, mass_of, called = (np.array(values) for values in conflict.values())
shrunk = [torch.stack([controls.shape(v, s, pixel) for v in maps.values()])[:, None] for s in shapes[:3]]
fig = pictures.gallery(dict(zip(shapes[:3], shrunk, strict=True)), [f"mass of\n{name}" for name in molecules])
run.save_figure(fig, "conflict")
plt.show()

# %%
against = shape_of != mass_of
kinds = {"shape": called == shape_of, "mass": called == mass_of}
kinds["neither"] = ~kinds["shape"] & ~kinds["mass"]
fig, ax = plt.subplots(figsize=(6.4, 0.36 * len(shapes) + 1.3), layout="constrained")
left = np.zeros(len(shapes))
for (kind, is_so), hatch in zip(kinds.items(), ("", "///", "..."), strict=True):
    share = [is_so[against & (shape_of == p.classes.index(name))].mean() for name in shapes]
    ax.barh(shapes, share, left=left, label=f"called by its {kind}" if kind != "neither" else "neither", hatch=hatch,
            color=("0.25", "0.55", "0.85")[len(ax.containers)], edgecolor="white", lw=0)  # fmt: skip
    left += share
ax.set(xlabel="share of the boxes with another molecule's mass", ylabel="shape of", xlim=(0, 1))
fig.legend(loc="outside upper center", ncols=3)
run.save_figure(fig, "who_wins")
plt.show()

# %%
share = {kind: float(is_so[against].mean()) for kind, is_so in kinds.items()}
lesson.checkpoint("share called by its mass, where shape and mass differ", share["mass"])
print(", ".join(f"{kind} {value:.0%}" for kind, value in share.items()), f"of {against.sum()} boxes")
weight = np.log([float(maps[name].sum()) if name in maps else np.nan for name in p.classes])
by = {"mass given": mass_of, "mass of the shape's own molecule": shape_of}
for name, other in by.items():
    r = np.corrcoef(weight[called[against]], weight[other[against]])[0, 1]
    print(f"correlation of log mass, of the class called, with the {name}: {r:+.2f}")
print(f"More boxes are called by their {'mass' if share['mass'] > share['shape'] else 'shape'}.")

# %% [markdown]
# Where *neither* wins, the two correlations help: a high first one says that the class called is near the mass that was given.
#
# ### Exercise 3 · Shape share
#
# Geirhos et al. count only decided cases. Given three integer arrays (whose shape, whose mass, what it was called), return the
# share that is called by its shape, among the boxes *with* a conflict that are called by their shape or by their mass.


# %% tags=["exercise"]
def shape_share(shape_of, mass_of, called):
    return None  # 0 to 1


# %% tags=["solution", "hide-cell"]
def shape_share(shape_of, mass_of, called):
    conflict = shape_of != mass_of
    by_shape, by_mass = conflict & (called == shape_of), conflict & (called == mass_of)
    return by_shape.sum() / (by_shape.sum() + by_mass.sum())


# %% [raw] tags=["mistakes", "remove-cell"]
# name = "shape_share"
# cases = ['shape_share(np.array([0, 0, 0, 1, 1, 2, 2]), np.array([0, 1, 1, 0, 2, 2, 0]), np.array([0, 0, 1, 0, 0, 2, 0]))', 'shape_share(np.array([0, 1, 2]), np.array([1, 2, 0]), np.array([0, 1, 2]))']
# wrong = ['''
# def shape_share(shape_of, mass_of, called):
#     return 0.5
# ''', '''
# def shape_share(shape_of, mass_of, called):
#     return np.mean(shape_of == mass_of)
# ''']
#
# [[mistake]]
# code = '''
# def shape_share(shape_of, mass_of, called):
#     conflict = shape_of != mass_of
#     return np.mean(called[conflict] == shape_of[conflict])
# '''
# hint = 'boxes that are called by neither are in the denominator. Divide by the decided ones.'
#
# [[mistake]]
# code = '''
# def shape_share(shape_of, mass_of, called):
#     by_shape, by_mass = called == shape_of, called == mass_of
#     return by_shape.sum() / (by_shape | by_mass).sum()
# '''
# hint = 'boxes without a conflict are counted: there, a name by mass is a name by shape. Leave out those with shape_of == mass_of.'
#
# [[mistake]]
# code = '''
# def shape_share(shape_of, mass_of, called):
#     conflict = shape_of != mass_of
#     by_shape, by_mass = conflict & (called == shape_of), conflict & (called == mass_of)
#     return by_mass.sum() / (by_shape.sum() + by_mass.sum())
# '''
# hint = 'that is the share of the mass. The shape share is the rest.'
#
# [[mistake]]
# code = '''
# def shape_share(shape_of, mass_of, called):
#     conflict = shape_of != mass_of
#     return (conflict & (called == shape_of)).sum() / len(called)
# '''
# hint = 'that divides by all boxes. Divide by those with a conflict that are called by their shape or by their mass.'

# %%
lesson.check("shape_share")
if lesson.solved("shape_share"):
    print(f"shape share of this network: {shape_share(shape_of, mass_of, called):.2f}")

# %% [markdown]
# **Recap**
# - In a cue conflict two answers are possible, and the network shows which cue it follows.
# - The printed shares say who wins here; another network, voxel size or set of classes may decide otherwise.
# - Undecided cases are counted apart.
#
# ## 4 · A ladder of spheres (6 minutes)
#
# A solid sphere of protein whose mass you choose. Left: a section through one subtomogram. Right: the mean probabilities that the
# network gives to a few of them. A sphere looks alike from all sides, so only their noise and their neighbours differ.
#
# **What do you expect?** Is there a mass at which the network hesitates, and does any sphere get no confident name?

# %%
ladder = [150, 230, 350, 500, 700, 950, 1250, 1700, 2300, 3000, 4000, 5500]  # kDa
reference = structures.template("TRiC", pixel, p.box)
per_kda = float(reference.sum()) / structures.BUILTIN["TRiC"].mass_kda


def spheres(kda, several=3 if p.name == "smoke" else 8):
    """Subtomograms of solid spheres of a mass, and the network's probabilities."""
    generator = run.generator("ladder")
    sphere = controls.shape(controls.magnified("TRiC", kda * per_kda, pixel, p.box), "sphere")
    bank = specimens.templates(["TRiC"], pixel, p.box, generator=generator, change=lambda name, volume: sphere)
    many = specimens.specimens(torch.zeros(several, dtype=torch.long), bank, generator=generator)
    microscope = scenarios.draw_optics(scenarios.scenario("source"), pixel, [0.5] * 7)
    x = normalize(imaging.image_by_transfer(many, bank, microscope, generator=generator).x)
    return x, models.predict(fit.network, x, device=run.params.device)


rungs = {kda: spheres(kda) for kda in run.progress(ladder, "spheres")}


# %%
def draw(axes, kda):
    x, q = rungs[kda]
    pictures.show(axes[0], pictures.middle(x), f"{kda} kDa", spread=4)
    axes[1].barh(p.classes, q.mean(0), color="0.5")
    axes[1].set(xlim=(0, 1), xlabel="mean probability")
    axes[1].tick_params(labelsize=7)
    axes[1].invert_yaxis()


run.explore(draw, "ladder", {"kda": ("mass (kDa)", ladder)}, panels=2, start={"kda": 950}, size=2.8)

# %%
confidence = {kda: float(q.amax(1).mean()) for kda, (_, q) in rungs.items()}
longest = {kda: float(q.mean(0).max()) for kda, (_, q) in rungs.items()}  # bar of the figure
for kda, (_, q) in rungs.items():
    name, several = p.classes[int(q.mean(0).argmax())], len(q.argmax(1).unique())
    print(
        f"{kda:5d} kDa: {name:14} {longest[kda]:.2f}; {several} name(s), with a mean confidence of {confidence[kda]:.2f}"
    )
least, unsure = min(longest, key=longest.get), min(confidence, key=confidence.get)
print(
    f"It hesitates most at {least} kDa, where the longest bar is {longest[least]:.2f}. Every sphere gets a name all the same,",
    end=" ",
)
print(f"and the mean confidence is at least {confidence[unsure]:.2f} ({unsure} kDa).")
print("own masses:", ", ".join(f"{name} {structures.BUILTIN[name].mass_kda:.0f}" for name in molecules))

# %% tags=["solution", "remove-cell"]
assert not lesson.unsolved(), lesson.unsolved()

# %%
if p.name != "smoke":
    assert own > 2.5 / n and agree["sphere"] > 1.5 / n, "spheres are named by their mass more often than by guessing"
run.report(**{f"{name or 'molecule'}_called_by_mass": value for name, value in agree.items()})
run.report(**{f"conflict_{kind}": value for kind, value in share.items()})
manifest = run.finish()

# %% [markdown]
# Where the mean probabilities are spread, subtomograms of one and the same sphere get different names, each with some confidence.
#
# **Recap**
# - A classifier has to name something: it takes the class that is nearest in what it looks at.
# - Along the ladder, the names come in the order of the classes' masses; where they change is not halfway between these.
# - A gold bead, a vesicle or an aggregate of a fitting mass gets a name, too.
#
# ## What to take away
#
# - Accuracy says how often a network is right among *its* classes. It does not say why.
# - An attribution by stand-ins is a controlled experiment: one cause is changed, and the label of the mass is known.
# - At this voxel size the network goes by mass and radial profile more than by shape. Shape shows at higher resolution, and only if
#   the training set has classes of the same mass that force the network to look.
# - [Results](../docs/results.md) has the same controls with an adapted network and the unknown class: few are rejected.
#
# ## Questions to think about
#
# 1. Which class would you add to the training set to make the network look at shape?
# 2. Normalisation divides by the width of the grey values. Could it hide the mass? Why does it not?
# 3. A tomogram's pixel size is wrong by 10 %. What does a network that goes by mass do then? (Notebook 06 checks for that.)
#
# ## References
#
# - Geirhos et al. (2019) ImageNet-trained CNNs are biased towards texture. ICLR.
# - Taubin (1994) The heart: IEEE Comput. Graph. Appl. 14:14.
