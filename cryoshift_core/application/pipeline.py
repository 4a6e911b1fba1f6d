"""Steps from files to predictions, as plain functions; a :class:`job.Job` takes them all.

In this order: `read_target`, `adaptation_set`, `background_boxes`, `simulate_source`, `own_source`, `fit_methods`,
`select_classifier`, then `Classifier.predict`, `make_spike_ins`, `score_spike_ins`, `verdict.judge`,
`predictions.prevalence`, `domain_gap` and `write_results`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from data_fetch import readers
from data_fetch.readers import mdoc

from .. import metrics
from ..data import Labelled, Unlabelled
from ..errors import InputError
from ..methods import resolve
from ..models import embed, predict
from ..simulation import datasets, structures
from ..simulation.datasets import DatasetConfig
from ..support import runtime
from ..support.streamed import StreamedBoxes
from ..tomography.wedge import Wedge
from ..training import Fit, fit
from ..warps import target_styled
from . import by_tomogram, picks, purity, report, spike_in, target_data
from . import predictions as tables
from .accuracy import Estimate
from .by_tomogram import TomogramRow
from .classifier import Classifier, Predictions, finish, select
from .picks import Picks
from .predictions import predicted_fractions as predicted_fractions
from .profiles import Profile
from .purity import Cut
from .second_opinion import BOTH, SecondOpinion
from .spike_in import SpikeInScore
from .target_data import Background, TargetData
from .verdict import Verdict

SCENARIO = "broad"  # of the simulated source: wide ranges, because the microscope's settings are not known
Device = str | torch.device


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
    project_folder: str | Path = "",
    candidates: int = 2000,
) -> TargetData:
    """The input files as subtomograms for a classifier of `classes`; parameters as in :func:`classify`.

    What the readers warn of is in `TargetData.warnings`.
    """
    check_input(subtomograms, tomogram, coordinates)
    about: dict[str, Any] = {"voxel_size": voxel_size, "box": box, "project_folder": project_folder}
    volume, particles = target_data.read_files(subtomograms, tomogram, coordinates, **about)
    size: dict[str, Any] = {"box": box, "contrast": contrast}
    if volume is None:
        assert particles is not None  # `check_input` has seen that one of the two is given
        return target_data.from_subtomograms(particles, classes, name=Path(subtomograms).stem, **size)
    if particles is None:
        return picks.candidates(volume, {name: structures.diameter(name) for name in classes}, n=candidates, **size)
    return target_data.from_tomogram(volume, particles, classes, **size)


def check_input(subtomograms: str | Path, tomogram: str | Path, coordinates: str | Path) -> None:
    """Raise InputError unless there are subtomograms, or a tomogram with or without coordinates."""
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


def adaptation_set(target: TargetData, n: int, seed: int = 0, held_out: Tensor | None = None) -> Unlabelled:
    """At most n of the target's subtomograms, drawn at random, for training and selection.

    Parameters
    ----------
    held_out : numbers of the groups of which none is drawn
    """
    if held_out is not None and len(held_out):
        rows = (~torch.isin(target.subtomograms.groups, held_out)).nonzero().flatten()
        order = torch.randperm(len(rows), generator=seeded_generator(seed, "target"), device="cpu")
        return target.subtomograms.subset(rows[order[:n]])
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
    average_rotations: bool = False,
    seed: int = 0,
    device: Device = "auto",
) -> Classifier:
    """The calibrated classifier of the best checkpoint of `method`, or of another fit where a check speaks against it.

    That is the one without adversaries where these change the class fractions, or source_only. The recipe of the
    classifier has the method, the step, the reason and a warning. `average_rotations` as in `classifier.finish`.
    """
    options: dict[str, Any] = {
        "outliers": outliers,
        "average_rotations": average_rotations,
        "seed": seed,
        "device": device,
    }
    if method == "source_only":
        return finish(fits[method], target=target, **options)
    fallback, unaligned = fits["source_only"], fits.get(resolve(method)[1].unaligned)
    return select(fits[method], target, fallback=fallback, unaligned=unaligned, **options)


def prediction_warnings(
    classifier: Classifier, predictions: Predictions, may_be_absent: Sequence[str] = ()
) -> list[str]:
    """Sentences about the selection, the class fractions and the unknown class.

    Parameters
    ----------
    may_be_absent : classes of which no fraction is demanded
    """
    fractions = predicted_fractions(predictions.probabilities)
    out = target_data.class_fraction_warnings(fractions, classifier.classes, len(predictions), may_be_absent)
    out += [warning for warning in dict.fromkeys(one.recipe["warning"] for one in classifier.each) if warning]
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
                "strange is marked as the unknown class there: few marks do not mean that nothing else was picked. "
                "Look at the least confident examples of these classes."
            )
    return out


def fractions_of(found: Fit, target: Unlabelled, device: Device = "auto") -> list[float]:
    """Fraction of the target's subtomograms that the network of a fit predicts as each class, (K,)."""
    return predicted_fractions(predict(found.network, target.x, device=device))


def size_warnings(
    source: Labelled, target: Unlabelled, names: Sequence[str], may_be_absent: Sequence[str] = ()
) -> list[str]:
    """A sentence where the average particle is wider or narrower than the simulated one; see `voxel_size_warnings`.

    Parameters
    ----------
    names : of the classes, or files
    may_be_absent : classes without which the simulated average must disagree, too
    """
    found = target_data.voxel_size_warnings(source.x, target.x, source.voxel_size, names)
    present = [k for k, name in enumerate(source.classes) if name not in may_be_absent]
    if found and len(present) < len(names):
        some = torch.isin(source.y, torch.tensor(present, device=source.y.device))
        left = [names[k] for k in present]
        found = target_data.voxel_size_warnings(source.x[some], target.x, source.voxel_size, left)
    return found


def background_boxes(
    target: TargetData,
    path: str | Path = "",
    *,
    n: int,
    seed: int = 0,
    voxel_size: float = 0.0,
    project_folder: str | Path = "",
    keep_out: np.ndarray | None = None,
) -> Background:
    """Particle-free boxes with the voxel size, box, contrast and normalisation of the target: two sets of at most n.

    Parameters
    ----------
    path : a stack, folder or STAR of particle-free boxes; "": cut them from the target's tomogram
    voxel_size : A, of the boxes in `path`; 0: the file's own
    project_folder : folder that the names in a STAR are relative to, where it is not the STAR's own
    keep_out : (M, 3) zyx centres of held-out boxes, with which no voxel may be shared

    Raises
    ------
    InputError
        the tomogram has fewer than 20 particle-free boxes, or there is no tomogram
    """
    if path:
        boxes = readers.read_subtomograms(path, None, voxel_size or None, project_folder or None)
        x = target_data.prepare_background(boxes, target)
        return target_data.divide_background(x, None, 0, n)
    generator = seeded_generator(seed, "spikes")
    x, at = target_data.cut_background(target, 3 * n, generator, keep_out=keep_out)  # some lie across the plane
    return target_data.divide_background(x, at, target.edge, n)


def tilt_warnings(tomogram: str | Path, tilt_range: float, tilt_axis: float) -> list[str]:
    """Sentences where SerialEM's .mdoc beside the tomogram contradicts the given tilts; none without a .mdoc.

    Parameters
    ----------
    tilt_range, tilt_axis : degrees, as in :func:`classify`
    """
    file = mdoc.beside(Path(tomogram).expanduser()) if tomogram else None
    try:
        return [] if file is None else mdoc.tilt_warnings(file, mdoc.read_mdoc(file), tilt_range, tilt_axis)
    except InputError as problem:
        return [str(problem)]


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
    optics = spike_in.stated_optics(target.voxel_size, tilt_axis=tilt_axis, tilt_range=tilt_range, defocus=defocus)
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
    classes: Sequence[str] = (),
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
    classes : names or files of structures, in label order; empty: the names in `source`, which are built in then
    imaging : `tilt_axis`, `tilt_range`, `defocus` and `snr`, as in :func:`insert_molecules`
    """
    n = len(source) // 3
    options: dict[str, Any] = {"seed": seed + 1, "device": device, **imaging}
    (own,) = insert_molecules(classes or source.classes, target, background, n=n, spread=3.0, **options)
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
    verdict: Verdict,
    prevalence: Mapping[str, tables.Prevalence],
    scores: Mapping[str, SpikeInScore],
    gap: Mapping[str, float],
    warnings: Sequence[str],
    inputs: Sequence[str],
    manifest: Mapping[str, Any],
    classes: Sequence[str] = (),
    cuts: Sequence[Cut] = (),
    least_confidence: float | None = None,
    listed: Mapping[str, Picks] | None = None,
    tomograms: Sequence[TomogramRow] = (),
    expected: Estimate | None = None,
    second: SecondOpinion | None = None,
    made: Mapping[str, str] | None = None,
) -> list[Path]:
    """Paths of the files written to `folder`: predictions.star, classes/*.star, model.safetensors, report.html, ...

    Parameters
    ----------
    warnings : in addition to those of `target`
    inputs : names of the input files
    manifest : for the provenance, see `report.provenance`
    classes : names or files; the report says what each one is
    cuts : of `purity.cuts`, for purity.csv and the report
    least_confidence : of the rows of predictions_purity.star; None: no such file
    listed : the picks of each class, where the positions are candidates
    tomograms : a row for each of several tomograms, for tomograms.csv and the report
    expected : the balanced accuracy to expect; None without spike-ins
    second : what template matching says; None where it was not asked
    made : more for the provenance; None: the reason of the choice of the network
    """
    used = classifier.recipe["method"]
    paths = tables.write(
        folder,
        target,
        predictions.probabilities,
        predictions.classes,
        predictions.unknown,
        agreement=predictions.agreement,
        more=second.columns if second else None,
        least_confidence=least_confidence,
    )
    paths += [path for path in (folder / tables.FOR_RELION,) if path.is_file()]
    paths.append(classifier.save(folder / "model.safetensors"))
    if scores:
        paths.append(runtime.write_text(folder / "spike_in.csv", spike_in.table(scores)))
    paths.append(runtime.write_text(folder / "purity.csv", purity.table(cuts)))
    if tomograms:
        paths.append(runtime.write_text(folder / "tomograms.csv", by_tomogram.table(tomograms, predictions.classes)))
    volumes = [one.tomogram for one in target.tomograms if one.tomogram is not None]
    if listed and volumes:
        paths += picks.write(folder, volumes, listed)
    paths.append(
        report.write(
            folder / "report.html",
            target,
            predictions.probabilities,
            predictions.classes,
            verdict=verdict,
            prevalence=prevalence,
            inputs=inputs,
            unknown=predictions.unknown,
            warnings=warnings,
            gap=gap,
            spike_in=scores.get(BOTH, scores.get(used)),
            cuts=cuts,
            tomograms=tomograms,
            expected=expected,
            second=second,
            made=report.provenance(
                manifest,
                method=used,
                step=classifier.recipe["step"],
                **(made or {"choice": classifier.recipe["reason"]}),
                picks=picks.summary(listed) if listed else "",
                structures=". ".join(map(structures.describe, classes)),
            ),
            files=paths,
        )
    )
    return paths
