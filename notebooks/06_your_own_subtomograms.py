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
# From a real tomogram to a table of classes with confidences, without one label of its own.
#
# **What you will learn**
# - how to bring a tomogram with coordinates, or extracted cubes, to the classifier: contrast, pixel size, box;
# - how a source is simulated for *your* structures at *your* pixel size, and adapted to *your* cubes;
# - what the answer looks like, and how much of it you may believe;
# - how known molecules, put into your own ice, give an accuracy on your own data without one annotation.
#
# **What you need**: nothing for the default, which is a real tomogram that ships with this repository (HIV-1 virus-like
# particles, EMPIAR-10164, downsampled to 40 A per voxel). For your own data, fill in the parameters below. What RELION,
# Warp and M, Dynamo, EMAN2 and the CZ CryoET Data Portal leave on disk is read as it is; of IMOD, model2point's text.
#
# | profile | time | memory |
# |---|---|---|
# | smoke | 25 s | 1030 MB |
# | laptop | 3.4 min | 1570 MB |

# %%
from dataclasses import replace
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import torch

import data_fetch
from cryoshift_core import calibration, errors, fourier, metrics, models, selection, training
from cryoshift_core.application import pictures, predictions, prevalence, report, spike_in, target_data
from cryoshift_core.course import explore, figures
from cryoshift_core.course.run import begin
from cryoshift_core.data import HeldOutLabels, normalize, split_particles
from cryoshift_core.models import embed
from cryoshift_core.simulation import datasets, structures
from cryoshift_core.simulation.datasets import DatasetConfig
from cryoshift_core.simulation.optics import Optics, tilt_scheme
from cryoshift_core.tomography import extraction, volumes
from cryoshift_core.tomography.background import FEWEST, find_background
from cryoshift_core.tomography.wedge import estimate_wedge, fit_wedge
from cryoshift_core.warps import target_styled as warps_carried
from data_fetch import readers

# %% tags=["parameters"]
subtomograms: str = ""  # a stack (.mrcs, .hdf), a folder of .mrc, .em or .png files, or a STAR with _rlnImageName
tomogram: str = ""  # .mrc, .em, .hdf or .zarr, together with coordinates; nothing at all: the shipped one
coordinates: str = ""  # .star, Dynamo .tbl, EMAN2 or copick .json, portal .ndjson, model2point's .txt
classes: str = ""  # built-in names, PDB, mmCIF or MRC files, entries (pdb:6zu5), by commas; empty: the profile's
pixel_size: float = 0.0  # A per voxel of the input; 0: from the file's header
contrast: str = "auto"  # dark (protein dark), bright, or auto: look at the data
background: str = ""  # boxes without a particle (stack, folder or STAR); empty: cut from the tomogram
tilt_axis: float = 0.0  # degrees from the volume's y axis towards x
tilt_range: float = 60.0  # largest tilt in degrees; sets the order of the dose for spike-ins
defocus: float = 3.0  # um, underfocus positive; that of the spike-ins
spike_snr: float = 0.0  # var(signal) / var(ice) of the spike-ins; 0: estimated from your cubes
box: int = 0  # voxels along an edge; 0: from the structures or the cubes
profile: str = "laptop"  # how much work: smoke, laptop, gpu or paper
method: str = "cryoshift"  # a name from methods.METHODS
seed: int = 0  # decides every random draw
device: str = "auto"  # auto, cpu, cuda or mps
out_dir: str = ""  # where to write; empty: runs/<profile>/06_your_own_subtomograms

# %%
run = begin("06_your_own_subtomograms", globals())
pictures.use_style()
shipped = not (subtomograms or tomogram)
default = ("membrane", "ice") if shipped else run.profile.classes
wanted = target_data.read_classes(data_fetch.local(classes), default)
for file in filter(Path.is_file, map(Path, wanted)):
    run.add_input(file)
run.profile = p = run.profile.for_classes(wanted)  # more classes take more cubes and steps
how = {"box": box, "contrast": contrast}
if subtomograms:
    particles = readers.read_subtomograms(subtomograms, box or None, pixel_size or None)
    data = target_data.from_subtomograms(particles, wanted, **how, name=Path(subtomograms).stem)
else:
    sample = data_fetch.sample()
    tomogram, coordinates = tomogram or str(sample.tomogram), coordinates or str(sample.coordinates)
    volume = readers.read_tomogram(tomogram, pixel_size or None)
    particles = readers.read_picks(coordinates, volume)
    data = target_data.from_tomogram(volume, particles, wanted, **how)
n, pixel = data.subtomograms.x.shape[-1], data.subtomograms.voxel_size
print(f"{len(data)} inputs, {len(data.kept)} cubes of {n}^3 voxels of {pixel:.4g} A ({n * pixel:.0f} A wide)")
print(f"classes: {', '.join(wanted)}")
for warning in data.warnings:
    print("WARNING:", warning)

# %% [markdown]
# **The contrast, and what speaks for it.** Dense matter is rare in ice, so smoothed grey values have their long tail on
# its side. Look which of the two curves reaches further: after the conversion it must be the *bright* one.

# %%
smooth = torch.nn.functional.avg_pool3d(data.subtomograms.x[:500], 3, stride=2).flatten().numpy()
fig, ax = plt.subplots(figsize=(4.6, 2.4), layout="constrained")
edges = np.linspace(0, np.quantile(np.abs(smooth), 0.9999), 40)
for side, label in ((smooth, "bright side"), (-smooth, "dark side")):
    ax.hist(side, edges, histtype="step", log=True, label=label)
ax.set(xlabel="distance from the median (robust s.d.)", ylabel="voxels", title=f"taken as: protein {data.contrast}")
ax.legend()
run.save_figure(fig, "contrast")
plt.show()
print(f"CONTRAST: taken as {data.contrast}. Evidence says {data.guess.sign}: {data.guess.why}.")

# %% [markdown]
# ## Look before you compute
#
# **Everything shown in this section is experimental.** If protein is not *bright* here, set `contrast`. If the dots are not
# on particles, the coordinates belong to another binning. In the shipped tomogram each colour is one virus-like
# particle: its Gag lattice is a shell, and each dot is one position on it.

# %%
if data.tomogram is not None:
    groups = np.zeros(len(data), dtype=int)
    groups[data.kept] = data.subtomograms.groups.numpy()
    fig = pictures.tomogram(data.tomogram.data, particles.zyx, groups, data.tomogram.voxel_size)
    run.save_figure(fig, "tomogram")
    plt.show()

# %% [markdown]
# With a tomogram, the three sections through one particle, grey values as in the file. The cross-hairs must point at it in all three;
# dots are positions within one voxel of the section. A slider in JupyterLab, two particles in a static copy:


# %%
def through(axes, particle):
    pictures.orthoslices(axes, data.tomogram.data, particles.zyx, particles.zyx[particle - 1])


if data.tomogram is not None:
    some = np.linspace(1, len(particles), min(50, len(particles))).round().astype(int).tolist()
    fig = explore.explore(through, {"particle": ("particle (row of the list)", some)}, panels=3, size=3.4, frames=2)
    if fig:
        run.save_figure(fig, "orthoslices")
        plt.show()

# %%
eight = torch.linspace(0, len(data.kept) - 1, 8).long()
some = data.subtomograms.x[eight]
fig = pictures.gallery({"xy": some, "xz": some.transpose(2, 3)}, [f"cube {data.kept[i] + 1}" for i in eight.tolist()])
run.save_figure(fig, "cubes")
plt.show()


# %% [markdown]
# Walk through one cube along the beam (a slider in JupyterLab, five slices in a static copy):


# %%
rows = {int(data.kept[i]) + 1: i for i in eight.tolist()}  # row of the list -> cube


def draw(axes, row, z):
    pictures.show(axes[0], data.subtomograms.x[rows[row], 0, z], f"cube {row}, z = {z}", spread=4)


sliders = {"z": ("slice z (voxel)", list(range(2, n - 2))), "row": ("which cube (row of the list)", list(rows))}
fig = explore.explore(draw, sliders, start={"row": next(iter(rows)), "z": n // 2}, size=3.0, frames=5)
if fig:
    run.save_figure(fig, "slices")
    plt.show()

# %% [markdown]
# ## Target: what may be learned from, and what is held back
#
# Your own cubes have no answers, so all of them serve as the unlabelled target. The shipped tomogram is different: we know
# that something stands at each Gag position, and that nothing stands far away from all of them. That makes an
# honest test possible: *ice* cubes are added, three whole **particles** are held out (never single points, whose boxes
# overlap), cubes that share a voxel with a held-out one are left out of both sides, and only held-out cubes are scored.

# %%
target, held_out, key = data.subtomograms, None, None
if shipped and {"membrane", "ice"} <= set(wanted):
    g = run.generator("ice")
    n_ice = max(24, min(600, p.n_target // 2))
    at = find_background(data.tomogram.data, particles.zyx, n, n_ice, g)
    ice, whole = extraction.extract(data.tomogram.data, at, n, data.tomogram.voxel_size, pixel)
    ice = normalize(volumes.to_bright(ice, data.contrast))
    nearest = [int(groups[np.linalg.norm(particles.zyx - spot, axis=1).argmin()]) for spot in at[whole]]
    few = torch.randperm(len(data.subtomograms), generator=g)[: 4 * len(at)]
    everything = replace(
        data.subtomograms,
        x=torch.cat([data.subtomograms.x[few], ice]),
        groups=torch.cat([data.subtomograms.groups[few], torch.tensor(nearest)]),
    )
    centres = np.concatenate([particles.zyx[data.kept[few]], at[whole]])
    truth = torch.tensor([wanted.index("membrane")] * len(few) + [wanted.index("ice")] * len(ice))
    inside, outside = split_particles(centres, everything.groups, [1, 3, 7], n)
    target, held_out, key = everything.subset(inside), everything.subset(outside), HeldOutLabels(truth[outside], wanted)
    print(f"adapt on {len(target)} cubes around particles {target.groups.unique().tolist()}, unlabelled")
    count = ", ".join(f"{int((key.y == k).sum())} {name}" for k, name in enumerate(wanted))
    print(f"score on {len(held_out)} cubes around particles {held_out.groups.unique().tolist()}: {count}")
    fig = pictures.gallery({"on the lattice": data.subtomograms.x[few[:6]], "ice": ice[:6]}, [""] * 6)
    run.save_figure(fig, "lattice_and_ice")
    plt.show()
elif len(target) > p.n_target:
    order = torch.randperm(len(target), generator=run.generator("target"))
    target = target.subset(order[: p.n_target])
    print(f"adapting on {len(target)} of {len(data.subtomograms)} cubes, drawn at random; all of them are classified")

# %% [markdown]
# ## Source: your structures, simulated at your pixel size
#
# **Simulated.** Same classes, same box, same pixel; everything else is a guess about the microscope, which is why
# adaptation is needed. (For the shipped data the classes are a curved *membrane*, a schematic bilayer that stands for the
# Gag shell, and *ice*. It is a two-class problem, and an easy one; it shows the way, not the limit.)

# %%
ask = replace(DatasetConfig.of(p, "broad", "source", run.params.seed), box=n, voxel_size=pixel, tilt_axis=tilt_axis)
source = datasets.simulate_source(ask, folder=run.data_folder)
validation = datasets.simulate_source(
    replace(ask, split="validation", n=p.n_validation, tomograms=8), folder=run.data_folder
)
rows = {"simulated": pictures.one_of_each(source.x, source.y, len(wanted)), "experimental": data.subtomograms.x[eight]}
fig = pictures.gallery({"simulated": rows["simulated"]}, source.classes)
run.save_figure(fig, "simulated")
plt.show()
fig = figures.spectra({"source": source.x[:256], "target": target.x[:256]}, pixel)
run.save_figure(fig, "spectra")
plt.show()
doubts = target_data.pixel_size_doubts(source.x, target.x, pixel, wanted)
for warning in doubts:
    print("WARNING:", warning)

# %% [markdown]
# ## Adapt, choose without labels, compare with not adapting
#
# `source_only` never looks at your cubes. The other method does, and its checkpoint is chosen by label-free scores; when
# no checkpoint passes their gates, or an alarm sounds, we say so and use `source_only`.

# %%
rotations = (0, 1) if tilt_axis % 180 else (0, 1, 2, 3)  # half-turns that leave the missing wedge in its place
seeds = [run.params.seed + i for i in range(p.seeds if held_out is not None else 1)]
fits, choices = {}, {}
for name in dict.fromkeys(["source_only", method]):
    for s in seeds:
        fits[name, s] = fit = training.fit(
            name, source, target, validation=validation, seed=s, rotations=rotations, **run.training
        )
        if name != "source_only":
            choices[s] = selection.choose(fit, validation, target, fallback=fits["source_only", s])
used, chosen = method, fits[method, seeds[0]]
for s, choice in choices.items():
    print(f"seed {s}: {choice.reason} (step {choice.step}). {choice.warning}")
if choices:
    chosen = choices[seeds[0]].fit
    if choices[seeds[0]].fell_back:
        used = "source_only"
        print("WARNING: the answers below come from source_only, because the adapted model did not pass.")

# %%
curves = {name: fits[name, seeds[0]].history for name in dict.fromkeys(["source_only", method])}
fig = figures.learning_curves(curves, ["source", "source_val_acc", "im_score"])
run.save_figure(fig, "learning_curves")
plt.show()

# %% [markdown]
# ## The answers
#
# Two repairs first, both without a label of yours. The *confidence* is calibrated on simulated cubes that were not trained
# on, target_styled to your tomogram by the warps. And some cubes may be **none of these** classes: a detector learns what known
# cubes look like to the network, and what simulated *outliers* look like (other molecules, and empty ice). It marks about 5 %
# of the cubes that do belong, and more where the real molecules differ from their models, so the mark stands in a column
# of its own, `_csNoneOfThese`, beside the likeliest class. `source_only` has no warps, and gets neither.

# %%
model, warps = chosen.model, chosen.warps
found = models.predict(model, data.subtomograms.x, device=run.params.device)
calibrated = calibration.calibrate(model, validation, warps, run.generator("calibration"))
probabilities = calibrated.probabilities(found)
if warps is None:
    print(f"confidences are those of {chosen.method}, uncorrected: without warps nothing looks like your cubes")
else:
    print(
        f"temperature {calibrated.temperature:.2f} from {calibrated.n} target_styled cubes (above 1: it was too sure)"
    )
strange = None
others = [name for name in calibration.outliers(wanted) if structures.diameter(name) <= n * pixel]
if warps is not None and others:
    asked = replace(ask, classes=tuple(others), n=max(8 * len(others), p.n_validation))
    outliers = datasets.simulate_source(asked, folder=run.data_folder)
    detector = calibration.UnknownDetector.fit(model, validation, outliers, warps, run.generator("none"))
    strange = detector.score(model, data.subtomograms.x) > detector.threshold
    print(f"{int(strange.sum())} of {len(strange)} cubes fit none of the classes; outliers: {', '.join(others)}")
    run.report(none_of_these=int(strange.sum()))
paths = predictions.write(run.folder, data, probabilities, source.classes, strange)
shares = {
    name: torch.bincount(
        models.predict(fits[name, seeds[0]].model, data.subtomograms.x, device=run.params.device).argmax(1),
        minlength=len(wanted),
    )
    .div(len(data.subtomograms))
    .tolist()
    for name in curves
}
print(f"wrote {run.final_path(paths[0])}: {len(data)} rows, and {len(paths) - 1} more files")
doubts += target_data.doubts(shares[used], source.classes, len(data.subtomograms))
doubts += [choice.warning for choice in choices.values() if choice.warning][:1]
for warning in doubts:
    print("WARNING:", warning)
fig = pictures.class_shares(shares, source.classes)
run.save_figure(fig, "class_shares")
plt.show()

# %% [markdown]
# The most and the least certain cubes of each class. Certain ones should look alike; if they do not, the class is a bin, not
# a finding.

# %%
best = probabilities.max(1)
rows = {}
for name, order in predictions.by_class(probabilities, source.classes, strange).items():
    if len(order) >= 6:
        rows[name] = data.subtomograms.x[torch.cat([order[:3], order[-3:]])]
if rows:
    titles = ["most certain", "", "", "least certain", "", ""]
    fig = pictures.gallery(rows, titles)
    run.save_figure(fig, "certain_and_uncertain")
    plt.show()

# %% [markdown]
# ## How right is it on your data? Spike-in validation
#
# Nobody labelled your cubes. But *you* can put a known molecule into your own ice: cut boxes where no particle stands,
# add a simulated molecule seen through the same missing wedge, as strong as your particles are, and ask the models. The
# noise, the neighbours and the filters are real; the molecule and its label are ours.
#
# First the boxes. **Experimental:** they should look empty. If you see particles, the coordinates are incomplete.

# %%
ice = None
if background:
    ice = target_data.background(readers.read_subtomograms(background, None, pixel_size or None), data)
elif data.tomogram is not None:
    volume = data.tomogram
    edge = int(np.ceil(n * pixel / volume.voxel_size))
    try:
        at = find_background(volume.data, particles.zyx, edge, max(60, p.n_test // 2), run.generator("spikes"))
        cut = extraction.extract(volume.data, at, n, volume.voxel_size, pixel)[0]
        ice = normalize(volumes.to_bright(cut, data.contrast))
    except errors.InputError as problem:
        print("No spike-in:", problem)
else:
    print("No spike-in: extracted cubes bring no ice. Give boxes without a particle as background, or the tomogram.")
if ice is not None:
    print(f"{len(ice)} boxes of ice")
    fig = pictures.gallery({"ice, xy": ice[:8], "ice, xz": ice[:8].transpose(2, 3)}, [""] * len(ice[:8]))
    run.save_figure(fig, "ice")
    plt.show()

# %% [markdown]
# Which frequencies did the microscope measure? The power of the ice tells: white was measured, black is the missing
# wedge. With the tilt axis along y it is a bow tie about the beam, kz, in the left panel; in the middle panel it would
# say that the axis is x. Strength and envelope of the spiked molecules are chosen so that their average meets the average
# of your cubes or, where your cubes show no common particle in the middle, so that the spectra meet. Where the curves
# stay apart (in the shipped tomogram: a schematic bilayer is no Gag lattice), believe the score less.

# %%
spikes = None
if ice is not None and len(ice) >= FEWEST:
    series, wedge = fit_wedge(ice, pixel), estimate_wedge(ice, pixel)
    if series is None:
        print("no missing wedge to be seen: the spikes get none")
    else:
        print(f"tilts of {series.low:.0f} to {series.high:.0f} degrees about an axis at {series.tilt_axis:.0f} degrees")
        if 10 < abs(series.tilt_axis - tilt_axis) % 180 < 170:
            print(f"WARNING: the tilt axis was given as {tilt_axis:g} degrees; set tilt_axis={series.tilt_axis:.0f}.")
    optics = Optics(voxel_size=pixel, defocus=defocus, tilts=tilt_scheme(-tilt_range, tilt_range), tilt_axis=tilt_axis)
    print(f"measured: {wedge.float().mean():.0%} of the samples")
    n_spikes = min(4 * len(ice), max(len(wanted), p.n_test))
    try:
        spikes = spike_in.imitate(wanted, target, ice, n_spikes, optics=optics, snr=spike_snr, seed=run.params.seed)
        given = "given" if spike_snr else "that of your cubes, estimated"
        print(f"mean SNR of the spike-ins: {spikes.snr[spikes.snr > 0].mean():.3g} ({given})")
    except errors.InputError as problem:
        print("No spike-in:", problem)
elif ice is not None:
    print(f"No spike-in: {len(ice)} boxes of ice; wanted at least {FEWEST}.")

# %%
if spikes is not None:
    whole = torch.fft.fftshift(fourier.full_from_half(wedge)).float()
    fig, axes = plt.subplots(1, 3, figsize=(6.6, 2.4), layout="constrained")
    planes = {
        "kz, kx (ky = 0)": whole[:, n // 2],
        "kz, ky (kx = 0)": whole[:, :, n // 2],
        "ky, kx (kz = 0)": whole[n // 2],
    }
    for ax, (title, plane) in zip(axes, planes.items(), strict=True):
        ax.imshow(plane, vmin=0, vmax=1)
        ax.set(xticks=[], yticks=[], title=title)
        ax.spines[:].set_visible(True)
    run.save_figure(fig, "wedge")
    plt.show()
    fig = figures.spectra({"ice": ice, "target": target.x[:256], "spiked": spikes.x[:256]}, pixel)
    run.save_figure(fig, "spike_spectra")
    plt.show()
    few = min(len(wanted), len(eight))
    shown = pictures.one_of_each(spikes.x, spikes.y, len(wanted))[:few]
    fig = pictures.gallery({"spiked": shown, "yours": data.subtomograms.x[eight[:few]]}, spikes.classes[:few])
    run.save_figure(fig, "spikes")
    plt.show()

# %% [markdown]
# Now the score, per class and method: how many of the spiked molecules of each class got their name. The dotted line is
# guessing.

# %%
if spikes is not None:
    said = {name: models.predict(fits[name, seeds[0]].model, spikes.x, device=run.params.device) for name in curves}
    recalls = {name: metrics.recall(q, spikes.y).tolist() for name, q in said.items()}
    spiked = {name: metrics.balanced_accuracy(q, spikes.y) for name, q in said.items()}
    fig = pictures.class_shares(recalls, spikes.classes)
    fig.axes[0].axhline(1 / len(wanted), ls=":", color="black", lw=1)
    fig.axes[0].set(ylabel="recall on spike-ins", ylim=(0, 1))
    run.save_figure(fig, "spike_recall")
    plt.show()
    counts = torch.bincount(spikes.y, minlength=len(wanted)).tolist()
    rows = [f"{m},{c},{k},{r:.4f}" for m, v in recalls.items() for c, k, r in zip(wanted, counts, v, strict=True)]
    (run.folder / "spike_in.csv").write_text("\n".join(["method,class,cubes,recall", *rows]) + "\n")
    for name, value in spiked.items():
        print(f"{name}: balanced accuracy {value:.3f} on {len(spikes)} spike-ins in {len(ice)} boxes of your ice")
    right = {name: (q.argmax(1) == spikes.y).float() for name, q in said.items()}
    gain = right[used] - right["source_only"]
    if gain.mean() < -2 * gain.std() / len(gain) ** 0.5:
        print(f"WARNING: on spike-ins {used} is worse than source_only; compare with a run with method=source_only.")
    run.report(spike_balanced_accuracy=spiked[used], spike_balanced_accuracy_source_only=spiked["source_only"])
    run.report(spike_snr=spikes.snr[spikes.snr > 0].mean().item())

# %% [markdown]
# **What this does not show.** The spiked molecules are the simulated ones: a real molecule that differs from its model, is
# bent, bound or broken is not in this number. Neither is a class that you did not name, nor bad picking. It is an
# *optimistic* estimate where the models are poor, and it stands and falls with the SNR and the ice: in a crowded cell the
# emptiest boxes are the easiest. A low score is to be believed at once; a high one says that noise, wedge and filters of
# *this* tomogram are no obstacle.
#
# ## How right is it where the truth is known?
#
# The held-out particles of the shipped tomogram. One dot per seed, a 95 % interval over seeds. With one's own data
# there is no such figure.

# %%
if held_out is not None:
    scores = {}
    for name in curves:
        scores[name] = [
            metrics.balanced_accuracy(models.predict(fits[name, s].model, held_out.x, device=run.params.device), key)
            for s in seeds
        ]
    intervals = {name: metrics.interval(values) for name, values in scores.items()}
    fig = figures.scores(scores, intervals, "balanced accuracy on held-out particles (experimental)")
    run.save_figure(fig, "scores")
    plt.show()
    run.report(**{f"held_out_{name}": interval for name, interval in intervals.items()})
    for name, (mean, low, high) in intervals.items():
        print(f"{name}: balanced accuracy {mean:.3f} [{low:.3f}, {high:.3f}] over {len(seeds)} seeds")
else:
    print(
        "No answers are known for these cubes, so only spike-ins are scored. Read the gallery, and check a few by hand."
    )

# %% [markdown]
# ## One page to take home
#
# What a colleague asks first: how many of each? A model that takes every tenth 80S for a 70S makes counts that are wrong
# in a *known* way, so they are corrected by the confusion that was measured on spike-ins (or, without ice, on simulated
# cubes target_styled to the target); the interval says how well. Then the gap: an A-distance is 0 where simulated cubes,
# or the warped copies that an adapted network has learnt from, look like yours to the network, and 2 where they never
# do. `report.html` holds all of it, opens without a network, and begins with every warning.

# %%
confusion = None if spikes is None else metrics.confusion(said[used], spikes.y)
known = confusion
if known is None and warps is not None:
    target_styled = warps_carried(validation.x, warps, run.generator("confusion"))
    known = metrics.confusion(models.predict(model, target_styled, device=run.params.device), validation.y)
fits_a_class = slice(None) if strange is None or strange.all() else ~strange
if strange is not None and strange.all():
    doubts.append("Every cube is marked as none of these: check classes, pixel size and contrast.")
    print("WARNING:", doubts[-1])
counted = prevalence.counts(probabilities[fits_a_class], source.classes, known, run.generator("counts"))
for name, count in counted.items():
    share, low, high = count.corrected or count.raw
    print(
        f"{name}: {count.n} cubes; share {share:.1%} [{low:.1%}, {high:.1%}]"
        + (" corrected" if count.corrected else "")
    )
gap = {}
for name in curves if len(target) >= 10 else ():  # fewer tell no distance
    fit = fits[name, seeds[0]]
    shown = warps_carried(source.x[:1000], fit.warps, run.generator("gap"))
    features = [embed(fit.model, x, device=run.params.device) for x in (shown, target.x)]
    what = "simulated cubes" if fit.warps is None else "warped copies of simulated cubes"
    gap[f"{what}, {name}"] = metrics.a_distance(*features)
    print(f"A-distance of {what} from yours, as {name} sees them: {gap[f'{what}, {name}']:.2f}")
run.report(inputs=len(data), classified=len(data.kept), contrast=data.contrast, used=used)
run.report(mean_confidence=best.values.mean().item(), warnings=len(data.warnings) + len(doubts))
page = report.write(
    run.folder / "report.html",
    data,
    probabilities,
    source.classes,
    counts=counted,
    inputs=[Path(file).name for file in (subtomograms or tomogram, coordinates, background) if file],
    strange=strange,
    warnings=doubts,
    gap=gap,
    spikes=confusion,
    made=report.provenance(run.manifest(), method=used),
)
run.finish()
print(f"wrote {run.final_folder / page.name}")

# %% [markdown]
# ## What to take away
#
# - Contrast, pixel size and box decide more than the network: look at the cubes first.
# - The source is simulated for the structures that you *expect*. Whatever else is in the tomogram gets one of their names too.
# - `predictions.star` has one row per input, in input order, with the input's own columns; `classes/` has a file per
#   class, a Dynamo table gets a `predictions.tbl` as well. A confidence is not an accuracy, even a calibrated one.
# - `_csNoneOfThese` marks what fits no class. It needs outliers, and knows strangers best that resemble one.
# - Spike-ins score the models on *your* ice, wedge and noise. They say nothing about molecules unlike their models.
# - The score on the shipped tomogram is one easy, two-class problem on one tomogram with particles as the unit: evidence
#   that the path works on experimental data, no more.
#
# ## Questions to think about
#
# 1. Why are whole particles held out here, and not every fifth point?
# 2. What would happen to the shares if you left `ice` out of the classes?
# 3. Your adapted model is much more confident than `source_only`. Name two reasons, a good one and a bad one.
