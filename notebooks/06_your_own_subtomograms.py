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
# | smoke | 20 s | 1150 MB |
# | laptop | 2.4 min | 1800 MB |

# %%
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import torch

import cryoshift_core as cs
import data_fetch
from cryoshift_core import fourier, metrics, models
from cryoshift_core.application import pictures, pipeline, predictions, target_data
from cryoshift_core.application.lattice_test import lattice_test
from cryoshift_core.application.verdict import judge
from cryoshift_core.benchmark.real import particle_scores
from cryoshift_core.course import explore, figures
from cryoshift_core.course.run import begin
from cryoshift_core.errors import InputError
from cryoshift_core.simulation import structures
from cryoshift_core.simulation.class_files import class_file
from cryoshift_core.tomography.wedge import fit_wedge, measured_samples

# %% tags=["parameters"]
subtomograms: str = ""  # a stack (.mrcs, .hdf), a folder of .mrc, .em or .png files, or a STAR with _rlnImageName
tomogram: str = ""  # .mrc, .em, .hdf or .zarr, together with coordinates; nothing at all: the shipped one
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
box: int = 0  # voxels along an edge; 0: from the structures or the cubes
profile: str = "laptop"  # how much work: smoke, laptop, gpu or paper
method: str = "cryoshift"  # a name from methods.METHODS
project_folder: str = ""  # that the names in a STAR of subtomograms are relative to; empty: the STAR's own folder
seed: int = 0  # decides every random draw
device: str = "auto"  # auto, cpu, cuda or mps
out_dir: str = ""  # where to write; empty: runs/<profile>/06_your_own_subtomograms

# %%
run = begin("06_your_own_subtomograms", globals())
pictures.use_style()
shipped = not (subtomograms or tomogram)
default = ("membrane", "ice") if shipped else run.profile.classes
if shipped:
    sample = data_fetch.sample()
    tomogram, coordinates = str(sample.tomogram), str(sample.coordinates)
given = {
    "subtomograms": subtomograms,
    "tomogram": tomogram,
    "coordinates": coordinates,
    "contrast": contrast,
    "box": box,
}
given |= {"voxel_size": pixel_size, "project_folder": project_folder}
tilts = {"tilt_range": tilt_range, "tilt_axis": tilt_axis, "defocus": defocus, "background": background, "seed": seed}
print(cs.preflight(classes=classes or default, **given, **tilts))

# %% [markdown]
# **Read this table first.** A row that says *stop* will stop the notebook, or make its result wrong. *Look* names what to
# check; nothing has been trained yet. Then the input is read:

# %%
wanted = target_data.read_classes(data_fetch.local(classes), default)
for file in filter(None, map(class_file, wanted)):
    run.add_input(file)
run.profile = p = run.profile.for_classes(wanted)  # more classes take more subtomograms and steps
data = pipeline.read_target(wanted, **given)
particles, n, pixel = data.particles, data.subtomograms.x.shape[-1], data.subtomograms.voxel_size
print(f"{len(data)} inputs, {len(data.kept)} subtomograms of {n}³ voxels of {pixel:.4g} Å ({n * pixel:.0f} Å wide)")
print("classes:", *map(structures.describe, wanted), sep="\n  ")
class_warnings = structures.warnings(wanted)
tilt_doubts = pipeline.tilt_warnings(tomogram, tilt_range, tilt_axis)
for warning in [*class_warnings, *data.warnings, *tilt_doubts]:
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
    fig = pictures.tomogram(data.tomogram.data, particles.zyx, particles.groups, data.tomogram.voxel_size)
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
fig = pictures.gallery({"xy": some, "xz": some.transpose(2, 3)}, [f"row {data.kept[i] + 1}" for i in eight.tolist()])
run.save_figure(fig, "cubes")
plt.show()


# %% [markdown]
# Walk through one cube along the beam (a slider in JupyterLab, five slices in a static copy):


# %%
rows = {int(data.kept[i]) + 1: i for i in eight.tolist()}  # row of the list -> subtomogram


def draw(axes, row, z):
    pictures.show(axes[0], data.subtomograms.x[rows[row], 0, z], f"row {row}, z = {z}", spread=4)


sliders = {"z": ("slice z (voxel)", list(range(2, n - 2))), "row": ("subtomogram (row of the list)", list(rows))}
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
test = None
if shipped and {"membrane", "ice"} <= set(wanted):
    test = lattice_test(data, wanted, n_ice=max(24, min(600, p.n_target // 2)), seed=seed)
    target, held_out = test.target, test.held_out
    print(f"adapt on {len(target)} subtomograms around particles {target.groups.unique().tolist()}, unlabelled")
    count = ", ".join(f"{int((test.labels.y == k).sum())} {name}" for k, name in enumerate(wanted))
    print(f"score on {len(held_out)} subtomograms around particles {held_out.groups.unique().tolist()}: {count}")
    fig = pictures.gallery({"on the lattice": test.lattice[:6], "ice": test.ice[:6]}, [""] * 6)
    run.save_figure(fig, "lattice_and_ice")
    plt.show()
else:
    target = pipeline.adaptation_set(data, p.n_target, seed)
    print(f"adapting to {len(target)} of {len(data.subtomograms)} subtomograms; all of them are classified")

# %% [markdown]
# ## Source: your structures, simulated at your pixel size
#
# **Simulated.** Same classes, same box, same pixel; everything else is a guess about the microscope, which is why
# adaptation is needed. (For the shipped data the classes are a curved *membrane*, a schematic bilayer that stands for the
# Gag shell, and *ice*. It is a two-class problem, and an easy one; it shows the way, not the limit.)

# %%
simulation = {"seed": seed, "tilt_axis": tilt_axis, "folder": run.data_folder, "device": device}
source, validation = pipeline.simulate_source(target, p, **simulation)
shown = pictures.one_of_each(source.x, source.y, len(wanted))
fig = pictures.gallery({"simulated": shown}, source.classes)
run.save_figure(fig, "simulated")
plt.show()
fig = figures.spectra({"source": source.x[:256], "target": target.x[:256]}, pixel)
run.save_figure(fig, "spectra")
plt.show()
size_warnings = target_data.voxel_size_warnings(source.x, target.x, pixel, wanted)
for warning in size_warnings:
    print("WARNING:", warning)

# %% [markdown]
# ## Your own background: molecules where no particle stands
#
# No simulation knows the noise, the filters and the crowd of *your* tomogram. But between your particles are boxes
# without one. A simulated molecule in such a box has real surroundings and a known class, and no label of yours was
# needed. The boxes come in two sets: one to train with, one for a test further below (*spike-ins*); where they were cut
# from the tomogram, a plane through it keeps them apart.
#
# First the boxes. **Experimental:** they should look empty. If you see particles, the coordinates are incomplete.

# %%
boxes = None
keep_out = test.held_out_at if test else None
try:
    boxes = pipeline.background_boxes(
        data,
        background,
        n=p.n_background,
        seed=seed,
        voxel_size=pixel_size,
        project_folder=project_folder,
        keep_out=keep_out,
    )
    ice = boxes.spike_ins
    print(
        f"{0 if boxes.train is None else len(boxes.train)} particle-free boxes to train with, {len(ice)} for spike-ins"
    )
    fig = pictures.gallery({"no particle, xy": ice[:8], "no particle, xz": ice[:8].transpose(2, 3)}, [""] * 8)
    run.save_figure(fig, "ice")
    plt.show()
except InputError as problem:
    if background:
        raise
    print("No particle-free boxes:", problem)

# %% [markdown]
# The molecules in the training boxes are as strong as your particles seem to be, within a factor of 3 in
# signal-to-noise ratio, because that estimate needs the classes to be about equally frequent.

# %%
imaging = {"tilt_axis": tilt_axis, "tilt_range": tilt_range, "defocus": defocus, "snr": spike_snr}
own = boxes.train if boxes is not None and own_background else None
own_source, own_warnings = pipeline.own_source(method, source, target, own, seed=seed, device=device, **imaging)
for warning in own_warnings:
    print("WARNING:", warning)
if own_source is None:
    print(f"{len(source)} simulated subtomograms, and none in your own boxes")
else:
    extra = own_source.subset(torch.arange(len(source), len(own_source)))
    print(f"{len(source)} simulated subtomograms, and {len(extra)} molecules in {len(own)} boxes of your own")
    fig = pictures.gallery({"in your boxes": pictures.one_of_each(extra.x, extra.y, len(wanted))}, source.classes)
    run.save_figure(fig, "own_background")
    plt.show()
run.report(own_background=len(own_source) - len(source) if own_source else 0)

# %% [markdown]
# ## Adapt, choose without labels, compare with not adapting
#
# `source_only` never looks at your cubes. The other method does, and its checkpoint is chosen by label-free scores; when
# an alarm sounds, we say so and use `source_only`.
#
# One alarm is for adversaries. They make target features look like source features *as a whole*, so they also make the
# classes as frequent as in the source, where all are equally frequent. A list of ribosomes alone would be spread over
# three classes. So `cryoshift` is trained a second time without adversaries (`cryoshift_warps`), and where the two
# disagree about the class fractions by more than 0.1, the second one answers.

# %%
outliers = pipeline.simulate_outliers(target, p, **simulation)
picks = {"tilt_axis": tilt_axis, "picking_error": picking_error, "own": own_source, "folder": run.fits_folder}
fits = pipeline.fit_methods(method, source, validation, target, p, seed=seed, device=device, **picks)
classifier = pipeline.select_classifier(fits, method, target, outliers, seed=seed, device=device)
recipe = classifier.recipe
print(f"{recipe['method']}, step {recipe['step']}: {recipe['reason']}. {recipe['warning']}")
used = classifier.recipe["method"]
if used == "source_only" != method:
    print("WARNING: the predictions below come from source_only, because the adapted model did not pass.")

# %%
curves = {name: fit.history for name, fit in fits.items()}
fig = figures.learning_curves(curves, ["source", "source_val_acc", "im_score"])
run.save_figure(fig, "learning_curves")
plt.show()

# %% [markdown]
# ## The answers
#
# Two repairs first, both without a label of yours. The *confidence* is calibrated on simulated cubes that were not trained
# on, warped to look like your tomogram. And some cubes may be **none of these** classes: a detector learns what known
# cubes look like to the network, and what simulated *outliers* look like (other molecules, and empty ice). It marks about 5 %
# of the cubes that do belong, and more where the real molecules differ from their models, so the mark stands in a column
# of its own, `_csNoneOfThese`, beside the likeliest class. `source_only` has no warps, and gets neither.

# %%
table = classifier.predict(data.subtomograms, device)
calibrated = classifier.calibration
if calibrated.n:
    print(
        f"temperature {calibrated.temperature:.2f} from {calibrated.n} warped subtomograms (above 1: it was too sure)"
    )
else:
    print(f"confidences are those of {used}, uncorrected: without warps no simulated subtomogram looks like yours")
if table.unknown is not None:
    print(f"{int(table.unknown.sum())} of {len(table)} subtomograms are of the unknown class")
    run.report(none_of_these=int(table.unknown.sum()))
table_warnings = pipeline.prediction_warnings(classifier, table)
for warning in table_warnings:
    print("WARNING:", warning)
fractions = {
    name: pipeline.predicted_fractions(models.predict(fit.network, data.subtomograms.x, device=device))
    for name, fit in fits.items()
}
fig = pictures.class_fractions(fractions, source.classes)
run.save_figure(fig, "class_shares")
plt.show()

# %% [markdown]
# The most and the least certain cubes of each class. Certain ones should look alike; if they do not, the class is a bin, not
# a finding.

# %%
rows = {}
for name, order in predictions.by_class(table.probabilities, table.classes, table.unknown).items():
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
# noise, the neighbours and the filters are real; the molecule and its label are ours. The boxes are those that were not
# trained with. Yet the molecules were made in the same way as the training's: the score tells whether the
# network learned, less whether real molecules look like these.
#
# Which frequencies did the microscope measure? The power of the ice tells: white was measured, black is the missing
# wedge. With the tilt axis along y it is a bow tie about the beam, kz, in the left panel; in the middle panel it would
# say that the axis is x. Strength and envelope of the spiked molecules are chosen so that their average meets the average
# of your cubes or, where your cubes show no common particle in the middle, so that the spectra meet. Where the curves
# stay apart (in the shipped tomogram: a schematic bilayer is no Gag lattice), believe the score less.

# %%
spikes, axis_warnings, ice = None, [], None if boxes is None else boxes.spike_ins
if ice is not None:
    try:
        series = fit_wedge(ice, pixel)
        wedge = measured_samples(series, n)
        if series is None:
            print("the ice shows no missing wedge, so the spike-ins get none")
        else:
            print(f"tilts of {series.low:.0f} to {series.high:.0f} degrees, axis at {series.tilt_axis:.0f} degrees")
        print(f"measured: {wedge.float().mean():.0%} of the samples")
        axis_warnings = pipeline.tilt_axis_warnings(series, tilt_axis)
        for warning in axis_warnings:
            print("WARNING:", warning)
        options = {"n": p.n_test, "seed": seed, "device": device, **imaging}
        spikes, far = pipeline.make_spike_ins(wanted, target, ice, **options)
        given = "given" if spike_snr else "that of your subtomograms, estimated"
        print(f"mean SNR of the spike-ins: {spikes.snr[spikes.snr > 0].mean():.3g} ({given})")
    except InputError as problem:
        print("No spike-in:", problem)

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
    fig = figures.spectra({"ice": ice, "target": target.x[:256], "spike-ins": spikes.x[:256]}, pixel)
    run.save_figure(fig, "spike_spectra")
    plt.show()
    few = min(len(wanted), len(eight))
    shown = pictures.one_of_each(spikes.x, spikes.y, len(wanted))[:few]
    fig = pictures.gallery({"spike-ins": shown, "yours": data.subtomograms.x[eight[:few]]}, spikes.classes[:few])
    run.save_figure(fig, "spikes")
    plt.show()

# %% [markdown]
# Now the score, per class and method: how many of the spiked molecules of each class got their name. The dotted line is
# guessing.

# %%
scores, score_warnings = {}, []
if spikes is not None:
    scores = pipeline.score_spike_ins(fits, spikes, far, device=device)
    fig = pictures.class_fractions({name: score.recall for name, score in scores.items()}, spikes.classes)
    fig.axes[0].axhline(1 / len(wanted), ls=":", color="black", lw=1)
    fig.axes[0].set(ylabel="recall on spike-ins", ylim=(0, 1))
    run.save_figure(fig, "spike_recall")
    plt.show()
    for name, score in scores.items():
        print(f"{name}: balanced accuracy {score} on {len(spikes)} spike-ins in {len(ice)} boxes")
    print("A range runs from picking errors of up to 4 voxels to errors of up to 2 voxels; yours are not known.")
    score_warnings = pipeline.spike_in_warnings(scores, classifier)
    for warning in score_warnings:
        print("WARNING:", warning)
    run.report(spike_balanced_accuracy=scores[used].balanced_accuracy)
    run.report(spike_balanced_accuracy_source_only=scores["source_only"].balanced_accuracy)
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
# The three held-out particles of the shipped tomogram. One dot per particle, a 95 % interval over particles, which is wide:
# three are few. All nine particles with five seeds are in [Evidence](../docs/evidence.md#experimental-data). With one's own
# data there is no such figure.

# %%
if test:
    values = {}
    for name, fit in fits.items():
        probabilities = models.predict(fit.network, held_out.x, device=device)
        values[name] = [found["balanced_accuracy"] for found in particle_scores(probabilities, test).values()]
    intervals = {name: metrics.interval(each, bounds=metrics.FRACTION) for name, each in values.items()}
    fig = figures.scores(values, intervals, "balanced accuracy on held-out particles (experimental)")
    run.save_figure(fig, "scores")
    plt.show()
    run.report(**{f"held_out_{name}": interval for name, interval in intervals.items()})
    for name, interval in intervals.items():
        print(f"{name}: balanced accuracy {interval:.3f} over {len(values[name])} particles")
else:
    print("The classes of these subtomograms are not known, so only spike-ins are scored. Check a few by eye.")

# %% [markdown]
# ## One page to take home
#
# First a verdict, from what needs no label. It looks at the spike-ins; at the averages of the predicted classes, where two
# that look alike although their simulations do not are one class under two names; and, where a class stands for empty
# ice, at whether its average is flat. A class without an alarm can still be wrong.

# %%
verdict = judge(
    table, data.subtomograms.x, source, scores.get(used), profile=p.name, warning=classifier.recipe["warning"]
)
print(f"VERDICT: {verdict.head}")
for reason in verdict.reasons:
    print("-", reason)
run.report(verdict=verdict.level, usable_classes=", ".join(verdict.classes))

# %% [markdown]
# What a colleague asks first: how many of each? The interval counts cubes and nothing else: a model that takes every tenth
# 80S for a 70S is wrong by more. (A correction by the confusion on spike-ins was tried and dropped: where the truth is
# known it made fractions worse, see `docs/results.md`.) Then the gap: an A-distance is 0 where simulated cubes,
# or the warped copies that an adapted network has learnt from, look like yours to the network, and 2 where they never
# do. `report.html` holds all of it, opens without a network, and begins with the verdict and every warning.

# %%
prevalence = predictions.prevalence(table.probabilities, table.classes, table.unknown)
for name, found in prevalence.items():
    print(f"{name}: {found.n} subtomograms; fraction {found.fraction:.1%}")
warnings = [*class_warnings, *tilt_doubts, *size_warnings, *own_warnings]
warnings += [*table_warnings, *axis_warnings, *score_warnings]
gap = pipeline.domain_gap(fits, source, target, seed=seed, device=device)
for name, distance in gap.items():
    print(f"A-distance, {name}: {distance:.2f}")
run.report(inputs=len(data), classified=len(data.kept), contrast=data.contrast, used=used)
run.report(mean_confidence=table.confidence.mean().item(), warnings=len(data.warnings) + len(warnings))
paths = pipeline.write_results(
    run.folder,
    data,
    table,
    classifier,
    verdict=verdict,
    prevalence=prevalence,
    scores=scores,
    gap=gap,
    warnings=warnings,
    inputs=[Path(file).name for file in (subtomograms or tomogram, coordinates, background) if file],
    manifest=run.manifest(),
    classes=wanted,
)
places = [run.final_path(path) for path in paths]
run.finish()
print(f"wrote {places[0]}: {len(data)} rows, and {len(places) - 1} more files, such as {places[-1]}")

# %% [markdown]
# ## What to take away
#
# - Contrast, pixel size and box decide more than the network: look at the cubes first.
# - The source is simulated for the structures that you *expect*. Whatever else is in the tomogram gets one of their names too.
# - `predictions.star` has one row per input, in input order, with the input's own columns; `classes/` has a file per
#   class, a Dynamo table gets a `predictions.tbl` as well. A confidence is not an accuracy, even a calibrated one.
# - `model.safetensors` is the classifier, for the next tomogram. `cryoshift_core.classify` runs all of these steps in one
#   call.
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
