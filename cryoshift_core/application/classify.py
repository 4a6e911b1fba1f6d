"""Classify the particles of a tomogram in one call, with or without their positions, or with a saved model."""

from __future__ import annotations

import argparse
import json
import sys
import time
import uuid
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import data_fetch

from ..errors import InputError, InputWarning
from ..methods import resolve
from ..simulation import structures
from ..simulation.class_files import class_file
from ..support import runtime
from ..support.runtime import pick_device
from ..tomography.wedge import fit_wedge
from . import manifest as schema
from . import picks, pipeline, reuse, run_folder, target_data
from . import predictions as tables
from .classifier import Classifier, Predictions
from .picks import Picks
from .pipeline import Device, prediction_warnings
from .profiles import PROFILES, Profile
from .reference import distance_warnings
from .spike_in import SpikeInScore
from .target_data import TargetData
from .verdict import Verdict, judge

PICKING_ERROR = 0.1  # of a candidate, in diameters of the largest class


@dataclass(frozen=True, eq=False)
class Classification:
    """Result of :func:`classify`.

    Attributes
    ----------
    predictions : class probabilities and unknown class of `target.subtomograms`
    classifier : its recipe names the method, which is another where a check spoke against the requested one
    target : the input as subtomograms
    verdict : whether to use the predictions
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
    verdict: Verdict
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
    project_folder: str | Path = "",
    seed: int = 0,
    device: Device = "auto",
) -> Classification:
    """Classes, confidences and class fractions of the particles in a tomogram, without a label; files in `out_dir`.

    A source is simulated for the classes at the target's voxel size, and simulated molecules are put into particle-free
    boxes of the target's own tomogram, where there are enough. `source_only` and `method` are fitted, a checkpoint is
    selected without target labels, and its probabilities are calibrated. A method can name another one without its
    adversaries (`Method.unaligned`); it is fitted, too, and used where the adversaries change the class fractions.
    Where a check speaks against the adapted network, `source_only` takes its place and a warning says so. With
    particle-free background, the accuracy is estimated on spike-ins, in boxes that were not trained with.

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
    classes : at least two built-in names, PDB, mmCIF, MRC or EM files, or entries such as pdb:6zu5; a sequence, or a
        text with commas. Behind a map, @ and its voxel size in A, such as average.em@8.0, overrides its header. "": the
        profile's
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
    project_folder : folder that the names in a STAR of subtomograms are relative to, where it is not the STAR's own,
        such as RELION's project folder
    seed : of every random draw
    device : "auto", "cpu", "cuda" or "mps"

    Raises
    ------
    InputError
        a wrong value, an unreadable file, or an `out_dir` that holds other files
    """
    parameters = {name: as_text(value) for name, value in locals().items() if name not in ("profile", "device")}
    resolve(method)
    budget = profile_of(profile)
    if not 0 <= purity <= 1:
        raise InputError(f"Expected a purity from 0 to 1, such as 0.8, got {purity:g}.")
    pipeline.check_input(subtomograms, tomogram, coordinates)
    picking = not (coordinates or subtomograms)
    given = {"subtomograms": subtomograms, "tomogram": tomogram, "coordinates": coordinates}
    reading: dict[str, Any] = {**given, "voxel_size": voxel_size, "contrast": contrast, "candidates": candidates}
    reading["project_folder"] = project_folder
    start = partial(_Run.start, out_dir, (*given.values(), background), parameters, seed, device)
    if model:
        classifier = reuse.load(model, classes=as_text(classes), box=box, background=background)
        target = reuse.read_target(classifier, model, **reading)
        _warn(target)
        run = start("none, nothing was trained", (model,))
        predictions = classifier.predict(target.subtomograms, device=device)
        doubts = prediction_warnings(classifier, predictions)
        doubts += distance_warnings(predictions.shift, target.subtomograms.name)
        verdict = judge(predictions, target.subtomograms.x)
        listed = picks.at_purity(target, predictions, purity) if picking else {}
        return run.finish(target, predictions, classifier, verdict, doubts, listed, reuse.summary(classifier, model))
    names = target_data.read_classes(data_fetch.local(as_text(classes)), budget.classes, background=picking)
    budget = budget.for_classes(names)
    target = pipeline.read_target(names, box=box, **reading)
    _warn(target)
    boxes, no_boxes = None, []
    try:
        boxes = pipeline.background_boxes(
            target,
            background,
            n=budget.n_background,
            seed=seed,
            voxel_size=voxel_size,
            project_folder=project_folder,
        )
    except InputError as problem:
        if background:
            raise
        no_boxes = [f"The accuracy was not estimated on spike-ins: {problem}"]
    run = start(budget, tuple(filter(None, map(class_file, names))))

    unlabelled = pipeline.adaptation_set(target, budget.n_target, seed)
    simulation: dict[str, Any] = {"seed": seed, "tilt_axis": tilt_axis, "device": device}
    source, validation = pipeline.simulate_source(unlabelled, budget, **simulation)
    doubts = structures.warnings(names) + pipeline.tilt_warnings(tomogram, tilt_range, tilt_axis)
    if picking:  # candidates are off by more than given positions, and their average shows other things, too
        picking_error = picking_error or PICKING_ERROR * max(map(structures.diameter, names))
    else:
        doubts += target_data.voxel_size_warnings(source.x, unlabelled.x, source.voxel_size, names)
    imaging: dict[str, Any] = {"tilt_axis": tilt_axis, "tilt_range": tilt_range, "defocus": defocus, "snr": spike_snr}
    boxes_to_train = boxes.train if boxes is not None and own_background else None
    drawn: dict[str, Any] = {"seed": seed, "device": device}
    own, problems = pipeline.own_source(method, source, unlabelled, boxes_to_train, **drawn, **imaging)
    doubts += problems
    run.manifest["own_background"] = len(own) - len(source) if own else 0
    training: dict[str, Any] = {"tilt_axis": tilt_axis, "picking_error": picking_error, "own": own}
    fits = pipeline.fit_methods(method, source, validation, unlabelled, budget, **drawn, **training)
    outliers = pipeline.simulate_outliers(unlabelled, budget, **simulation)
    classifier = pipeline.select_classifier(fits, method, unlabelled, outliers, **drawn)
    classifier.recipe.update(reuse.about_target(target, names))
    predictions = classifier.predict(target.subtomograms, device=device)
    doubts += prediction_warnings(classifier, predictions) + no_boxes

    scores: dict[str, SpikeInScore] = {}
    if boxes is not None:
        ice = boxes.spike_ins
        try:
            doubts += pipeline.tilt_axis_warnings(fit_wedge(ice, target.subtomograms.voxel_size), tilt_axis)
            spikes, far = pipeline.make_spike_ins(names, unlabelled, ice, n=budget.n_test, **drawn, **imaging)
            scores = pipeline.score_spike_ins(fits, spikes, far, device=device)
            doubts += pipeline.spike_in_warnings(scores, classifier)
        except InputError as problem:
            doubts.append(f"The accuracy was not estimated on spike-ins: {problem}")

    used, reason, warning = (classifier.recipe[name] for name in ("method", "reason", "warning"))
    found = scores.get(used)
    verdict = judge(predictions, target.subtomograms.x, source, found, profile=budget.name, warning=warning)
    gap = pipeline.domain_gap(fits, source, unlabelled, seed=seed, device=device)
    listed = picks.at_purity(target, predictions, purity) if picking else {}
    return run.finish(
        target, predictions, classifier, verdict, doubts, listed, reason, names=names, scores=scores, gap=gap
    )


def _warn(target: TargetData) -> None:
    for sentence in target.of_readers:
        warnings.warn(sentence, InputWarning, stacklevel=3)


@dataclass(frozen=True, eq=False)
class _Run:
    """A call of :func:`classify` from its first file on: where it writes, and the manifest."""

    final: Path
    folder: Path
    given: tuple[str | Path, ...]
    manifest: dict[str, Any]
    began: float  # time.monotonic()

    @classmethod
    def start(
        cls,
        out_dir: str | Path,
        given: tuple[str | Path, ...],
        parameters: dict[str, Any],
        seed: int,
        device: Device,
        profile: Profile | str,
        others: tuple[str | Path, ...],
    ) -> _Run:
        """A new folder with the manifest of an unfinished run, with the digests of the files `given` and `others`."""
        files = [Path(file).expanduser() for file in (*given, *others) if file]
        manifest = {
            "notebook": "classify",
            "status": "unfinished",
            "parameters": parameters,
            "seed": seed,
            "profile": {"name": profile} if isinstance(profile, str) else asdict(profile),
            "started": datetime.now(UTC).isoformat(timespec="seconds"),
            "device": str(pick_device(device)),
            "inputs": {str(file): runtime.file_digest(file) for file in files if file.is_file()},
            "scores": {},
            "numbers": [],
            "id": uuid.uuid4().hex,
            **run_folder.cost(0.0),
            **run_folder.origin(),
        }
        final = Path(out_dir).expanduser().resolve()
        folder = run_folder.start(final, json.dumps(manifest, indent=2) + "\n")
        return cls(final, folder, given, manifest, time.monotonic())

    def finish(
        self,
        target: TargetData,
        predictions: Predictions,
        classifier: Classifier,
        verdict: Verdict,
        doubts: Sequence[str],
        listed: dict[str, Picks],
        choice: str,
        *,
        names: Sequence[str] = (),
        scores: dict[str, SpikeInScore] | None = None,
        gap: dict[str, float] | None = None,
    ) -> Classification:
        """Write the results, rename the folder, and return them."""
        prevalence = tables.prevalence(predictions.probabilities, predictions.classes, predictions.unknown)
        paths = pipeline.write_results(
            self.folder,
            target,
            predictions,
            classifier,
            verdict=verdict,
            prevalence=prevalence,
            scores=scores or {},
            gap=gap or {},
            warnings=doubts,
            inputs=[Path(file).name for file in self.given if file],
            manifest=self.manifest,
            classes=names,
            listed=listed,
            made={"choice": choice},
        )
        told = {"status": "finished", "verdict": verdict.level, "usable_classes": list(verdict.classes)}
        told |= run_folder.cost(time.monotonic() - self.began)
        told |= self._numbers(predictions, classifier, prevalence, scores or {}, gap or {})
        moved = run_folder.finish(self.final, json.dumps(self.manifest | told, indent=2) + "\n")
        return Classification(
            predictions=predictions,
            classifier=classifier,
            target=target,
            verdict=verdict,
            warnings=(*target.warnings, *doubts),
            spike_in=scores or {},
            prevalence=prevalence,
            picks=listed,
            gap=gap or {},
            folder=self.final,
            paths=tuple(self.final / path.relative_to(self.folder) for path in paths),
            moved=moved,
        )

    def _numbers(
        self,
        predictions: Predictions,
        classifier: Classifier,
        prevalence: Mapping[str, tables.Prevalence],
        scores: Mapping[str, SpikeInScore],
        gap: Mapping[str, float],
    ) -> dict[str, Any]:
        """`scores` and `numbers` of the manifest."""
        found: dict[str, Any] = {
            "classified": len(predictions),
            "mean_confidence": float(predictions.confidence.mean()),
            "fraction": {name: p.fraction for name, p in prevalence.items()},
            "a_distance": gap,
        }
        found |= {f"spike_balanced_accuracy_{name}": s.balanced_accuracy for name, s in scores.items()}
        told = schema.plain(found)
        of = {"method": str(classifier.recipe["method"]), "seed": str(self.manifest["seed"])}
        return {"scores": told, "numbers": schema.numbers(told, of)}


def profile_of(profile: str | Profile) -> Profile:
    """The profile of a name; InputError where it is unknown."""
    if isinstance(profile, Profile):
        return profile
    runtime.check_known("a profile", profile, PROFILES)
    return PROFILES[profile]


def as_text(value: Any) -> Any:
    """A parameter as it stands in a manifest: paths as texts, sequences joined by commas."""
    if isinstance(value, Path):
        return str(value)
    return value if isinstance(value, str | int | float) else ",".join(map(str, value))


def parser(command: str, description: str) -> argparse.ArgumentParser:
    """The options of :func:`classify` except for `out_dir`, for a command that takes them."""
    parser = argparse.ArgumentParser(f"python -m cryoshift_core {command}", description=description)
    add = parser.add_argument
    add("--tomogram", default="", help=".mrc, .em, .hdf or .zarr; it is picked where no coordinates are given")
    add("--coordinates", default="", help=".star, .tbl, .json, .ndjson, .txt, ...: positions in the tomogram")
    add("--subtomograms", default="", help="in place of the two: a stack, a folder or a STAR with _rlnImageName")
    add("--model", default="", help="model.safetensors of an earlier run: predict without training")
    add("--classes", default="", help="names, files or entries such as pdb:6zu5, by commas (default: the profile's)")
    add(
        "--pixel_size",
        "--voxel_size",
        default=0.0,
        type=float,
        dest="voxel_size",
        help="A per voxel (default: from the file)",
    )
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
    add("--project_folder", default="", help="that a STAR's _rlnImageName are relative to (default: the STAR's own)")
    add("--seed", default=0, type=int, help="of every random draw (default: 0)")
    add("--device", default="auto", help="auto, cpu, cuda or mps (default: auto)")
    return parser


def main(arguments: list[str] | None = None) -> int:
    """Command line of :func:`classify`: 0, or 2 after an InputError, which is printed as one line."""
    about = "Classify the particles of a tomogram, or a stack of them."
    reader = parser("classify", about)
    reader.add_argument("--out_dir", "--out", required=True, help="folder of the results")
    options = reader.parse_args(arguments)
    try:
        if not options.model:
            picking = not (options.coordinates or options.subtomograms)
            usual = profile_of(options.profile).classes
            names = target_data.read_classes(data_fetch.local(options.classes), usual, background=picking)
            print("classes:", *map(structures.describe, names), sep="\n  ", flush=True)
        result = classify(**vars(options))
    except InputError as error:
        print(f"InputError: {error}", file=sys.stderr)
        return 2
    print(f"VERDICT: {result.verdict}")
    for warning in result.warnings:
        print("WARNING:", warning)
    used, reason = (result.classifier.recipe[name] for name in ("method", "reason"))
    print(reuse.summary(result.classifier, options.model) if options.model else f"{used}: {reason or 'as asked for'}")
    if used in result.spike_in:
        print(f"balanced accuracy on spike-ins: {result.spike_in[used]} ({used}; picks off by up to 4 or 2 voxels)")
    print(f"accuracy by the calibrated confidence: {float(result.predictions.confidence.mean()):.2f}")
    for name, found in result.prevalence.items():
        print(f"{name}: {found.n} particles, fraction {found.fraction:.1%}")
    if result.picks:
        print(picks.summary(result.picks))
    if result.moved:
        print(f"The earlier results in {result.folder} are now in {result.moved}")
    print(f"wrote {result.paths[0]} and {result.folder / 'report.html'}")
    return 0
