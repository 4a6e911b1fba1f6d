"""Classify the particles of a tomogram: :func:`classify` in one call, or its steps one by one.

The steps are plain functions, in this order: `read_target`, `adaptation_set`, `background_boxes`, `simulate_source`,
`own_source`, `fit_methods`, `select_classifier`, then `Classifier.predict`, `make_spike_ins`,
`score_spike_ins`, `predictions.prevalence`, `domain_gap` and `write_results`.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

import data_fetch
from data_fetch import readers

from .. import metrics
from ..data import Labelled, Unlabelled
from ..errors import InputError
from ..methods import resolve
from ..models import embed, predict
from ..simulation import datasets, structures
from ..simulation.datasets import DatasetConfig
from ..simulation.optics import Optics, tilt_scheme
from ..support import runtime
from ..support.runtime import pick_device
from ..tomography.wedge import Wedge, fit_wedge
from ..training import Fit, fit
from ..warps import target_styled
from . import picks, report, reuse, run_folder, spike_in, target_data
from . import predictions as tables
from .classifier import Classifier, Predictions, finish, select
from .picks import Picks
from .profiles import PROFILES, Profile
from .reference import distance_warnings
from .spike_in import SpikeInScore
from .streamed import StreamedBoxes
from .target_data import Background, TargetData

SCENARIO = "broad"  # of the simulated source: wide ranges, because the microscope's settings are not known
PICKING_ERROR = 0.1  # of a candidate, in diameters of the largest class
Device = str | torch.device


@dataclass(frozen=True, eq=False)
class Classification:
    """Result of :func:`classify`.

    Attributes
    ----------
    predictions : class probabilities and unknown class of `target.subtomograms`
    classifier : its recipe names the method, which is another where a check spoke against the requested one
    target : the input as subtomograms
    warnings : what to check before using the predictions
    spike_in : method -> accuracy on spike-ins; {} where there is no particle-free background
    prevalence : class -> number and fraction of the subtomograms that are predicted as it
    picks : class -> positions that are listed as its particles; {} where positions were given
    gap : name -> A-distance between simulated subtomograms and the target's
    folder : where the files are
    paths : the files: predictions.star first, then the tables per class, model.safetensors, report.html, ...
    moved : where the results of an earlier run at `folder` were moved to, or None
    """

    predictions: Predictions
    classifier: Classifier
    target: TargetData
    warnings: tuple[str, ...]
    spike_in: dict[str, SpikeInScore]
    prevalence: dict[str, tables.Prevalence]
    picks: dict[str, Picks]
    gap: dict[str, float]
    folder: Path
    paths: tuple[Path, ...]
    moved: Path | None


def classify(
    *,
    out_dir: str | Path,
    tomogram: str | Path = "",
    coordinates: str | Path = "",
    subtomograms: str | Path = "",
    model: str | Path = "",
    classes: str | Sequence[str] = "",
    voxel_size: float = 0.0,
    contrast: str = "auto",
    background: str | Path = "",
    tilt_axis: float = 0.0,
    tilt_range: float = 60.0,
    defocus: float = 3.0,
    spike_snr: float = 0.0,
    picking_error: float = 0.0,
    own_background: bool = True,
    candidates: int = 2000,
    purity: float = 0.8,
    box: int = 0,
    profile: str | Profile = "laptop",
    method: str = "cryoshift",
    seed: int = 0,
    device: Device = "auto",
) -> Classification:
    """Classes, confidences and class fractions of the particles in a tomogram, without a label; files in `out_dir`.

    A source is simulated for the classes at the target's voxel size, and simulated molecules are put into particle-free
    boxes of the target's own tomogram, where there are enough (:func:`add_own_background`). `source_only` and `method`
    are fitted, a checkpoint is selected without target labels, and its probabilities are calibrated. A method can name
    another one without its adversaries (`Method.unaligned`); it is fitted, too, and used where the adversaries change
    the class fractions. Where a check speaks against the adapted network, `source_only` takes its place and a warning
    says so. With particle-free background, the accuracy is estimated on spike-ins, in boxes that were not trained with.

    A tomogram without coordinates is picked: the candidates of :func:`picks.candidates` take the place of the
    positions, a class "ice" for those without a particle is added, and of each other class the most confident are
    listed, as many as keep the expected purity.

    With `model`, nothing is simulated or trained: the saved classifier predicts, and its classes, box and voxel size
    are used. A warning says so where the subtomograms are further away than those that the model was adapted to.

    Files: predictions.star (all rows and columns of the input, with classes and probabilities), classes/<class>.star,
    report.html, spike_in.csv, model.safetensors (see `Classifier.load`), manifest.json; predictions.tbl for a Dynamo
    table; those of `picks.write` for a tomogram without coordinates. They are written to a new
    folder that is renamed to `out_dir` at the end; earlier results at `out_dir` are moved aside.

    Parameters
    ----------
    out_dir : folder of the results
    tomogram, coordinates : a tomogram (.mrc, .em, .hdf, .zarr) and a list of positions in it (.star, .tbl, .json, ...)
    subtomograms : a stack, a folder or a STAR with _rlnImageName, in place of the two
    model : model.safetensors of an earlier run, to predict without training; "": train
    classes : at least two built-in names, PDB, mmCIF or MRC files, or entries such as pdb:6zu5; a sequence, or a text
        with commas. "": the profile's
    voxel_size : A; 0: the file's own
    contrast : "dark" (protein dark), "bright", or "auto": decide from the grey values
    background : particle-free boxes (stack, folder or STAR); "": cut from the tomogram
    tilt_axis : degrees from the volume's y axis towards x
    tilt_range : largest tilt in degrees, of the molecules in experimental boxes
    defocus : um, underfocus positive, of the molecules in experimental boxes
    spike_snr : var(signal) / var(background) of the spike-ins; 0: estimated from the target
    picking_error : largest distance of a position from its particle, A; 0: half a voxel
    own_background : train a method that can use them with molecules in the tomogram's own particle-free boxes, too
    candidates : largest number of candidates in a tomogram without coordinates
    purity : least expected purity of the picks listed of each class, 0 to 1: their mean calibrated probability
    box : voxels; 0: from the structures or the subtomograms
    profile : amount of simulated data and training: a name in `profiles.PROFILES`, or a Profile
    method : a name in `methods.METHODS`
    seed : of every random draw
    device : "auto", "cpu", "cuda" or "mps"

    Raises
    ------
    InputError
        a wrong value, an unreadable file, or an `out_dir` that holds other files
    """
    parameters = {name: _text(value) for name, value in locals().items() if name not in ("profile", "device")}
    started = datetime.now(UTC).isoformat(timespec="seconds")
    resolve(method)
    budget = _profile(profile)
    picking = bool(tomogram) and not (coordinates or subtomograms)
    if not 0 <= purity <= 1:
        raise InputError(f"Expected a purity from 0 to 1, such as 0.8, got {purity:g}.")
    final = Path(out_dir).expanduser().resolve()
    given = (subtomograms, tomogram, coordinates, background)
    if model:
        _check_input(subtomograms, tomogram, coordinates)
        classifier = reuse.load(model, classes=_text(classes), box=box, background=background)
        target = reuse.read_target(
            classifier,
            model,
            subtomograms=subtomograms,
            tomogram=tomogram,
            coordinates=coordinates,
            voxel_size=voxel_size,
            contrast=contrast,
            candidates=candidates,
        )
        manifest = _manifest(parameters, started, seed, {"name": "none, nothing was trained"}, device, (*given, model))
        folder = run_folder.start(final, json.dumps(manifest, indent=2) + "\n")
        predictions = classifier.predict(target.subtomograms, device=device)
        warnings = prediction_warnings(classifier, predictions)
        warnings += distance_warnings(predictions.shift, target.subtomograms.name)
        made = {"choice": reuse.summary(classifier, model)}
        listed = picks.at_purity(target, predictions, purity) if picking else {}
        return _finish(final, folder, target, predictions, classifier, warnings, manifest, given, listed, made)
    names = target_data.read_classes(data_fetch.local(_text(classes)), budget.classes, background=picking)
    budget = budget.for_classes(names)
    target = read_target(
        names,
        subtomograms=subtomograms,
        tomogram=tomogram,
        coordinates=coordinates,
        voxel_size=voxel_size,
        contrast=contrast,
        box=box,
        candidates=candidates,
    )
    boxes, no_boxes = None, []
    try:
        boxes = background_boxes(target, background, n=budget.n_background, seed=seed, voxel_size=voxel_size)
    except InputError as problem:
        if background:
            raise
        no_boxes = [f"The accuracy was not estimated on spike-ins: {problem}"]
    manifest = _manifest(parameters, started, seed, asdict(budget), device, (*given, *names))
    folder = run_folder.start(final, json.dumps(manifest, indent=2) + "\n")

    unlabelled = adaptation_set(target, budget.n_target, seed)
    simulation: dict[str, Any] = {"seed": seed, "tilt_axis": tilt_axis, "device": device}
    source, validation = simulate_source(unlabelled, budget, **simulation)
    warnings = []
    if picking:  # candidates are off by more than given positions, and their average shows other things, too
        picking_error = picking_error or PICKING_ERROR * max(map(structures.diameter, names))
    else:
        warnings = target_data.voxel_size_warnings(source.x, unlabelled.x, source.voxel_size, names)
    imaging: dict[str, Any] = {"tilt_axis": tilt_axis, "tilt_range": tilt_range, "defocus": defocus, "snr": spike_snr}
    boxes_to_train = boxes.train if boxes is not None and own_background else None
    own, problems = own_source(method, source, unlabelled, boxes_to_train, seed=seed, device=device, **imaging)
    warnings += problems
    manifest["own_background"] = len(own) - len(source) if own else 0
    training: dict[str, Any] = {"tilt_axis": tilt_axis, "picking_error": picking_error, "own": own}
    fits = fit_methods(method, source, validation, unlabelled, budget, seed=seed, device=device, **training)
    outliers = simulate_outliers(unlabelled, budget, **simulation)
    classifier = select_classifier(fits, method, unlabelled, outliers, seed=seed, device=device)
    classifier.recipe.update(reuse.about_target(target, names))
    predictions = classifier.predict(target.subtomograms, device=device)
    warnings += prediction_warnings(classifier, predictions)

    scores: dict[str, SpikeInScore] = {}
    warnings += no_boxes
    if boxes is not None:
        ice = boxes.spike_ins
        try:
            warnings += tilt_axis_warnings(fit_wedge(ice, target.subtomograms.voxel_size), tilt_axis)
            spikes, far = make_spike_ins(names, unlabelled, ice, n=budget.n_test, seed=seed, device=device, **imaging)
            scores = score_spike_ins(fits, spikes, far, device=device)
            warnings += spike_in_warnings(scores, classifier)
        except InputError as problem:
            warnings.append(f"The accuracy was not estimated on spike-ins: {problem}")

    gap = domain_gap(fits, source, unlabelled, seed=seed, device=device)
    listed = picks.at_purity(target, predictions, purity) if picking else {}
    made = {"choice": classifier.recipe["reason"]}
    return _finish(
        final, folder, target, predictions, classifier, warnings, manifest, given, listed, made, scores=scores, gap=gap
    )


def _manifest(
    parameters: dict[str, Any],
    started: str,
    seed: int,
    profile: dict[str, Any],
    device: Device,
    files: Sequence[str | Path],
) -> dict[str, Any]:
    """The manifest of a run that begins, with the digests of its input files."""
    paths = [Path(file).expanduser() for file in files if file]
    return {
        "notebook": "classify",
        "status": "unfinished",
        "parameters": parameters,
        "seed": seed,
        "profile": profile,
        "started": started,
        "device": str(pick_device(device)),
        "inputs": {str(path): runtime.file_digest(path) for path in paths if path.is_file()},
        "id": uuid.uuid4().hex,
        **run_folder.origin(),
    }


def _finish(
    final: Path,
    folder: Path,
    target: TargetData,
    predictions: Predictions,
    classifier: Classifier,
    warnings: list[str],
    manifest: dict[str, Any],
    given: Sequence[str | Path],
    listed: Mapping[str, Picks],
    made: Mapping[str, str],
    scores: Mapping[str, SpikeInScore] | None = None,
    gap: Mapping[str, float] | None = None,
) -> Classification:
    """Write the results of :func:`classify`, rename the folder, and return them."""
    prevalence = tables.prevalence(predictions.probabilities, predictions.classes, predictions.unknown)
    paths = write_results(
        folder,
        target,
        predictions,
        classifier,
        prevalence=prevalence,
        scores=scores or {},
        gap=gap or {},
        warnings=warnings,
        inputs=[Path(file).name for file in given if file],
        manifest=manifest,
        listed=listed,
        made=made,
    )
    manifest |= {"status": "finished"}
    moved = run_folder.finish(final, json.dumps(manifest, indent=2) + "\n")
    return Classification(
        predictions=predictions,
        classifier=classifier,
        target=target,
        warnings=(*target.warnings, *warnings),
        spike_in=dict(scores or {}),
        prevalence=prevalence,
        picks=dict(listed),
        gap=dict(gap or {}),
        folder=final,
        paths=tuple(final / path.relative_to(folder) for path in paths),
        moved=moved,
    )


def seeded_generator(seed: int, purpose: str) -> torch.Generator:
    """CPU generator that depends only on the seed and the purpose, not on the order of the steps."""
    digest = hashlib.sha256(f"{seed}/{purpose}".encode()).digest()
    return torch.Generator("cpu").manual_seed(int.from_bytes(digest[:8], "little") >> 1)


def read_target(
    classes: Sequence[str],
    *,
    subtomograms: str | Path = "",
    tomogram: str | Path = "",
    coordinates: str | Path = "",
    voxel_size: float = 0.0,
    contrast: str = "auto",
    box: int = 0,
    candidates: int = 2000,
) -> TargetData:
    """The input files as subtomograms for a classifier of `classes`; parameters as in :func:`classify`."""
    _check_input(subtomograms, tomogram, coordinates)
    if subtomograms:
        particles = readers.read_subtomograms(subtomograms, box or None, voxel_size or None)
        name = Path(subtomograms).stem
        return target_data.from_subtomograms(particles, classes, box=box, contrast=contrast, name=name)
    volume = readers.read_tomogram(tomogram, voxel_size or None)
    if not coordinates:
        sizes = {name: structures.diameter(name) for name in classes}
        return picks.candidates(volume, sizes, box=box, contrast=contrast, n=candidates)
    particles = readers.read_picks(coordinates, volume)
    return target_data.from_tomogram(volume, particles, classes, box=box, contrast=contrast)


def _check_input(subtomograms: str | Path, tomogram: str | Path, coordinates: str | Path) -> None:
    if subtomograms and (tomogram or coordinates):
        raise InputError(
            f"Expected subtomograms, or a tomogram with coordinates, got subtomograms={subtomograms} together with "
            f"{tomogram or coordinates}: leave one out."
        )
    if not (subtomograms or tomogram):
        raise InputError(
            f"Expected subtomograms, or a tomogram with or without coordinates, got tomogram='' and "
            f"coordinates='{coordinates}': give the tomogram."
        )


def adaptation_set(target: TargetData, n: int, seed: int = 0) -> Unlabelled:
    """At most n of the target's subtomograms, drawn at random, for training and selection."""
    if len(target.subtomograms) <= n:
        x = target.subtomograms.x
        return replace(target.subtomograms, x=x[:]) if isinstance(x, StreamedBoxes) else target.subtomograms
    order = torch.randperm(len(target.subtomograms), generator=seeded_generator(seed, "target"), device="cpu")
    return target.subtomograms.subset(order[:n])


def _dataset(like: Unlabelled, profile: Profile, split: str, seed: int, tilt_axis: float) -> DatasetConfig:
    config = DatasetConfig.of(profile, SCENARIO, split, seed)
    return replace(config, box=like.x.shape[-1], voxel_size=like.voxel_size, tilt_axis=tilt_axis)


def simulate_source(
    like: Unlabelled,
    profile: Profile,
    *,
    seed: int = 0,
    tilt_axis: float = 0.0,
    folder: Path | None = None,
    device: Device = "auto",
) -> tuple[Labelled, Labelled]:
    """Simulated source and validation subtomograms of the profile's classes, with the box and voxel size of `like`.

    Parameters
    ----------
    profile : of :meth:`Profile.for_classes`; it sets the classes and the numbers of subtomograms
    tilt_axis : degrees from y towards x
    folder : where simulated data are kept and looked for; None: nowhere
    """
    source = _dataset(like, profile, "source", seed, tilt_axis)
    validation = replace(source, split="validation", n=profile.n_validation, tomograms=8)
    simulated = [datasets.simulate_source(config, folder=folder, device=device) for config in (source, validation)]
    return simulated[0], simulated[1]


def simulate_outliers(
    like: Unlabelled,
    profile: Profile,
    *,
    seed: int = 0,
    tilt_axis: float = 0.0,
    folder: Path | None = None,
    device: Device = "auto",
) -> Labelled | None:
    """Simulated auxiliary outliers for the unknown class: other molecules, and boxes without a particle.

    None if no built-in outlier fits the box and is outside the classes; parameters as in :func:`simulate_source`.
    """
    width = like.x.shape[-1] * like.voxel_size
    names = structures.outliers(profile.classes, width=width)
    if not names:
        return None
    config = _dataset(like, profile, "source", seed, tilt_axis)
    config = replace(config, classes=names, n=max(8 * len(names), profile.n_validation))
    return datasets.simulate_source(config, folder=folder, device=device)


def fit_methods(
    method: str,
    source: Labelled,
    validation: Labelled,
    target: Unlabelled,
    profile: Profile,
    *,
    seed: int = 0,
    tilt_axis: float = 0.0,
    picking_error: float = 0.0,
    own: Labelled | None = None,
    folder: Path | None = None,
    device: Device = "auto",
) -> dict[str, Fit]:
    """Method -> fit, of `source_only`, of `method`, and of the same without adversaries where it names one.

    Parameters
    ----------
    tilt_axis : degrees; where it is not y, only the rotation about the beam keeps the missing wedge
    picking_error : largest distance of a position from its particle, A; 0: half a voxel
    own : the source of :func:`own_source`, for the methods that use it; None for none
    folder : where fits are kept and looked for; None: nowhere
    """
    rotations = (0, 1) if tilt_axis % 180 else (0, 1, 2, 3)
    config = profile.training(rotations=rotations, picking_error=picking_error or None)
    fits = {}
    for name in dict.fromkeys(filter(None, ("source_only", resolve(method)[1].unaligned, method))):
        used = own if own is not None and resolve(name)[1].own_background else source
        fits[name] = fit(
            name, used, target, validation=validation, config=config, seed=seed, folder=folder, device=device
        )
    return fits


def select_classifier(
    fits: Mapping[str, Fit],
    method: str,
    target: Unlabelled,
    outliers: Labelled | None,
    *,
    seed: int = 0,
    device: Device = "auto",
) -> Classifier:
    """The calibrated classifier of the best checkpoint of `method`, or of another fit where a check speaks against it.

    That is the one without adversaries where these change the class fractions, or source_only. The recipe of the
    classifier has the method, the step, the reason and a warning.
    """
    if method == "source_only":
        return finish(fits[method], outliers=outliers, seed=seed, device=device, target=target)
    fallback, unaligned = fits["source_only"], fits.get(resolve(method)[1].unaligned)
    return select(
        fits[method], target, fallback=fallback, unaligned=unaligned, outliers=outliers, seed=seed, device=device
    )


def prediction_warnings(classifier: Classifier, predictions: Predictions) -> list[str]:
    """Sentences about the selection, the class fractions and the unknown class."""
    fractions = predicted_fractions(predictions.probabilities)
    out = target_data.class_fraction_warnings(fractions, classifier.classes, len(predictions))
    if classifier.recipe["warning"]:
        out.append(classifier.recipe["warning"])
    if predictions.unknown is not None and tables.unspecific(predictions.unknown):
        out.append(
            f"{int(predictions.unknown.sum())} of {len(predictions)} subtomograms are marked as the unknown class: "
            "check classes, voxel size and contrast. Where these are right, real subtomograms differ from simulated "
            "ones as a whole; then the mark says nothing about single ones, and the class fractions include them."
        )
    if classifier.detector is not None:
        raised = classifier.detector.thresholds > classifier.detector.threshold + 1
        names = [name for name, high in zip(classifier.classes, raised, strict=True) if high]
        if names:
            out.append(
                f"Subtomograms called {' or '.join(names)} differ from simulated ones as a whole, so only what is very "
                "strange is marked as the unknown class there: few marks do not mean that nothing else was picked."
            )
    return out


def predicted_fractions(probabilities: Tensor) -> list[float]:
    """Fraction of the subtomograms that is predicted as each class, (K,), from probabilities (N, K)."""
    counts = torch.bincount(probabilities.argmax(1), minlength=probabilities.shape[1])
    return counts.div(len(probabilities)).tolist()


def background_boxes(
    target: TargetData,
    path: str | Path = "",
    *,
    n: int,
    seed: int = 0,
    voxel_size: float = 0.0,
    keep_out: np.ndarray | None = None,
) -> Background:
    """Particle-free boxes with the voxel size, box, contrast and normalisation of the target: two sets of at most n.

    Parameters
    ----------
    path : a stack, folder or STAR of particle-free boxes; "": cut them from the target's tomogram
    voxel_size : A, of the boxes in `path`; 0: the file's own
    keep_out : (M, 3) zyx centres of held-out boxes, with which no voxel may be shared

    Raises
    ------
    InputError
        the tomogram has fewer than 20 particle-free boxes, or there is no tomogram
    """
    if path:
        x = target_data.prepare_background(readers.read_subtomograms(path, None, voxel_size or None), target)
        return target_data.divide_background(x, None, 0, n)
    generator = seeded_generator(seed, "spikes")
    x, at = target_data.cut_background(target, 3 * n, generator, keep_out=keep_out)  # some lie across the plane
    return target_data.divide_background(x, at, target.edge, n)


def tilt_axis_warnings(wedge: Wedge | None, tilt_axis: float) -> list[str]:
    """A sentence with the tilt axis that the missing wedge of the background shows, where it contradicts the given one.

    Parameters
    ----------
    wedge : of `fit_wedge`
    tilt_axis : degrees from y towards x
    """
    if wedge is None or not 10 < abs(wedge.tilt_axis - tilt_axis) % 180 < 170:
        return []
    return [
        f"The missing wedge shows a tilt axis at {wedge.tilt_axis:.0f} degrees, not at {tilt_axis:g}; set "
        f"tilt_axis={wedge.tilt_axis:.0f}."
    ]


def insert_molecules(
    classes: Sequence[str],
    target: Unlabelled,
    background: Tensor,
    *,
    n: int,
    tilt_axis: float = 0.0,
    tilt_range: float = 60.0,
    defocus: float = 3.0,
    snr: float = 0.0,
    spread: float = 1.0,
    offsets: Sequence[float] = (spike_in.OFFSET,),
    seed: int = 0,
    device: Device = "auto",
) -> list[Labelled]:
    """n simulated molecules in particle-free boxes for each of `offsets`, imaged to look like the target.

    Parameters as in :func:`classify`; `spread` and `offsets` as in :func:`spike_in.imitate`
    """
    optics = Optics(
        voxel_size=target.voxel_size,
        defocus=defocus,
        tilts=tilt_scheme(-tilt_range, tilt_range),
        tilt_axis=tilt_axis,
    )
    number = max(len(classes), n)
    return spike_in.imitate(
        classes,
        target,
        background,
        number,
        optics=optics,
        snr=snr,
        spread=spread,
        offsets=offsets,
        seed=seed,
        device=device,
    )


def make_spike_ins(
    classes: Sequence[str], target: Unlabelled, background: Tensor, *, n: int, **options: Any
) -> tuple[Labelled, Labelled]:
    """At most n spike-ins with usual and with pessimistic picking errors; each box is used at most four times.

    `options` as in :func:`insert_molecules`
    """
    offsets, number = (spike_in.OFFSET, spike_in.FAR), min(n, 4 * len(background))
    near, far = insert_molecules(classes, target, background, n=number, offsets=offsets, **options)
    return near, far


def own_source(
    method: str, source: Labelled, target: Unlabelled, background: Tensor | None, **options: Any
) -> tuple[Labelled | None, list[str]]:
    """The source of :func:`add_own_background`, and warnings.

    It is None for a method that does not use it, without boxes (None), and where the target shows no molecule.
    """
    if background is None or not resolve(method)[1].own_background:
        return None, []
    try:
        return add_own_background(source, target, background, **options), []
    except InputError as problem:
        return None, [f"No molecules in experimental boxes were trained with: {problem}"]


def add_own_background(
    source: Labelled,
    target: Unlabelled,
    background: Tensor,
    *,
    seed: int = 0,
    device: Device = "auto",
    **imaging: float,
) -> Labelled:
    """The source, and a third as many simulated molecules in the target's own particle-free boxes.

    Noise, filters and neighbours of these are experimental, molecules and labels are not. How strong the molecules
    of a target are can only be estimated, so their SNR varies within a factor of 3. A class "ice" gets plain boxes.

    Parameters
    ----------
    background : (N, 1, b, b, b), of `Background.train`
    imaging : `tilt_axis`, `tilt_range`, `defocus` and `snr`, as in :func:`insert_molecules`
    """
    n = len(source) // 3
    options: dict[str, Any] = {"seed": seed + 1, "device": device, **imaging}
    (own,) = insert_molecules(source.classes, target, background, n=n, spread=3.0, **options)
    x, y, snr = (torch.cat([getattr(source, name), getattr(own, name)]) for name in ("x", "y", "snr"))
    groups = torch.cat([source.groups, own.groups + 1 + int(source.groups.max())])
    return replace(source, x=x, y=y, snr=snr, groups=groups)


def score_spike_ins(
    fits: Mapping[str, Fit], spikes: Labelled, far: Labelled | None = None, *, device: Device = "auto"
) -> dict[str, SpikeInScore]:
    """Method -> accuracy of its network on spike-ins.

    Parameters
    ----------
    far : spike-ins with picking errors of up to `spike_in.FAR` voxels, for the lower end of the range
    """
    scores = {}
    for name, found in fits.items():
        pessimistic = float("nan")
        if far is not None:
            pessimistic = metrics.balanced_accuracy(predict(found.network, far.x, device=device), far.y)
        scores[name] = spike_in.score(predict(found.network, spikes.x, device=device), spikes, pessimistic)
    return scores


def spike_in_warnings(scores: Mapping[str, SpikeInScore], classifier: Classifier) -> list[str]:
    """A sentence where the classifier's method is significantly worse than source_only on spike-ins."""
    used = classifier.recipe["method"]
    if not scores[used].worse_than(scores["source_only"]):
        return []
    return [f"On spike-ins {used} is worse than source_only; compare with a run with method=source_only."]


def domain_gap(
    fits: Mapping[str, Fit], source: Labelled, target: Unlabelled, *, seed: int = 0, device: Device = "auto"
) -> dict[str, float]:
    """Name -> A-distance between simulated subtomograms and the target's in the features of each network.

    Networks that were trained with warps are given the warped source. {} for fewer than 10 target subtomograms.
    """
    gap: dict[str, float] = {}
    for name, found in fits.items() if len(target) >= 10 else ():
        styled = target_styled(source.x[:1000], found.warps, seeded_generator(seed, "gap"))
        kind = "simulated subtomograms" if found.warps is None else "warped simulated subtomograms"
        of_source, of_target = (embed(found.network, x, device=device) for x in (styled, target.x))
        gap[f"{kind}, {name}"] = metrics.a_distance(of_source, of_target)
    return gap


def write_results(
    folder: Path,
    target: TargetData,
    predictions: Predictions,
    classifier: Classifier,
    *,
    prevalence: Mapping[str, tables.Prevalence],
    scores: Mapping[str, SpikeInScore],
    gap: Mapping[str, float],
    warnings: Sequence[str],
    inputs: Sequence[str],
    manifest: Mapping[str, Any],
    listed: Mapping[str, Picks] | None = None,
    made: Mapping[str, str] | None = None,
) -> list[Path]:
    """Paths of the files written to `folder`: predictions.star and classes/*.star, model.safetensors, report.html, ...

    Parameters
    ----------
    warnings : in addition to those of `target`
    inputs : names of the input files
    manifest : for the provenance, see `report.provenance`
    listed : the picks of each class, where the positions are candidates
    made : more for the provenance; None: the reason of the choice of the network
    """
    used = classifier.recipe["method"]
    paths = tables.write(folder, target, predictions.probabilities, predictions.classes, predictions.unknown)
    paths.append(classifier.save(folder / "model.safetensors"))
    if scores:
        paths.append(runtime.write_text(folder / "spike_in.csv", spike_in.table(scores)))
    if listed and target.tomogram is not None:
        paths += picks.write(folder, target.tomogram, listed)
    paths.append(
        report.write(
            folder / "report.html",
            target,
            predictions.probabilities,
            predictions.classes,
            prevalence=prevalence,
            inputs=inputs,
            unknown=predictions.unknown,
            warnings=warnings,
            gap=gap,
            spike_in=scores.get(used),
            made=report.provenance(
                manifest,
                method=used,
                step=classifier.recipe["step"],
                **(made or {"choice": classifier.recipe["reason"]}),
                picks=picks.summary(listed) if listed else "",
            ),
        )
    )
    return paths


def _profile(profile: str | Profile) -> Profile:
    if isinstance(profile, Profile):
        return profile
    runtime.check_known("a profile", profile, PROFILES)
    return PROFILES[profile]


def _text(value: Any) -> Any:
    """A parameter for the manifest: paths as texts, sequences joined by commas."""
    if isinstance(value, Path):
        return str(value)
    return value if isinstance(value, str | int | float) else ",".join(map(str, value))


def main(arguments: list[str] | None = None) -> int:
    """Command line of :func:`classify`: 0, or 2 after an InputError, which is printed as one line."""
    parser = argparse.ArgumentParser(
        "python -m cryoshift_core classify", description="Classify the particles of a tomogram, or a stack of them."
    )
    add = parser.add_argument
    add("--tomogram", default="", help=".mrc, .em, .hdf or .zarr; it is picked where no coordinates are given")
    add("--coordinates", default="", help=".star, .tbl, .json, .ndjson, .txt, ...: positions in the tomogram")
    add("--subtomograms", default="", help="in place of the two: a stack, a folder or a STAR with _rlnImageName")
    add("--model", default="", help="model.safetensors of an earlier run: predict without training")
    add("--classes", default="", help="names, files or entries such as pdb:6zu5, by commas (default: the profile's)")
    add("--out_dir", "--out", required=True, help="folder of the results")
    add("--pixel_size", default=0.0, type=float, dest="voxel_size", help="A per voxel (default: from the file)")
    add("--contrast", default="auto", choices=("auto", "dark", "bright"), help="of protein (default: auto)")
    add("--background", default="", help="particle-free boxes: a stack, a folder or a STAR (default: cut them)")
    add("--tilt_axis", default=0.0, type=float, help="degrees from y towards x (default: 0)")
    add("--tilt_range", default=60.0, type=float, help="largest tilt in degrees (default: 60)")
    add("--defocus", default=3.0, type=float, help="um, underfocus positive (default: 3)")
    add("--spike_snr", default=0.0, type=float, help="SNR of spike-ins (default: estimated)")
    add("--picking_error", default=0.0, type=float, help="largest error of the positions in A (default: half a voxel)")
    add("--own_background", default=True, action=argparse.BooleanOptionalAction, help="train in own free boxes, too")
    add("--candidates", default=2000, type=int, help="largest number of candidates where it picks (default: 2000)")
    add("--purity", default=0.8, type=float, help="least expected purity of the picks (default: 0.8)")
    add("--box", default=0, type=int, help="voxels (default: from the structures)")
    add("--profile", default="laptop", help=f"{', '.join(PROFILES)} (default: laptop)")
    add("--method", default="cryoshift", help="default: cryoshift")
    add("--seed", default=0, type=int, help="of every random draw (default: 0)")
    add("--device", default="auto", help="auto, cpu, cuda or mps (default: auto)")
    options = parser.parse_args(arguments)
    try:
        result = classify(**vars(options))
    except InputError as error:
        print(f"InputError: {error}", file=sys.stderr)
        return 2
    for warning in result.warnings:
        print("WARNING:", warning)
    used, reason = (result.classifier.recipe[name] for name in ("method", "reason"))
    print(reuse.summary(result.classifier, options.model) if options.model else f"{used}: {reason or 'as asked for'}")
    if used in result.spike_in:
        print(f"balanced accuracy on spike-ins: {result.spike_in[used]} ({used}; picks off by up to 4 or 2 voxels)")
    for name, found in result.prevalence.items():
        print(f"{name}: {found.n} particles, fraction {found.fraction:.1%}")
    if result.picks:
        print(picks.summary(result.picks))
    if result.moved:
        print(f"The earlier results in {result.folder} are now in {result.moved}")
    print(f"wrote {result.paths[0]} and {result.folder / 'report.html'}")
    return 0
