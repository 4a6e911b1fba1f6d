"""A trained, selected and calibrated classifier: what a fit becomes, what predicts, and what is saved."""

from __future__ import annotations

import copy
import csv
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from .. import __version__
from ..calibration import Calibration, UnknownDetector, assign, calibrate
from ..data import NORMALISATION, UNKNOWN, Labelled, Unlabelled
from ..errors import InputError
from ..models import Network, Outputs, outputs
from ..selection import choose
from ..support.runtime import atomic
from ..training import Fit
from .in_parts import outputs_of
from .reference import TargetReference

FORMAT = "cryoshift-classifier/4"
MOST_GROUPS = 1000  # whose distances are measured one by one
SEVERAL = "cryoshift-classifier/5"  # of several training seeds; an earlier version would read the first network alone


@dataclass(frozen=True, eq=False)
class Predictions:
    """Predictions for N subtomograms, in their order.

    Attributes
    ----------
    classes : names of the K classes
    probabilities : (N, K) calibrated
    score : (N,) out-of-distribution score, or None where the classifier has no detector
    unknown : (N,) bool, True where a subtomogram fits no class, or None where the classifier has no detector
    shift : how far they are from those that the classifier was adapted to, see `TargetReference.shift`; None where it
        has no reference
    shifts : the same for each of several groups, such as tomograms; {} for one group or without a reference
    agreement : (N,) fraction of the training seeds that give the most probable class, where they are means over
        several; None for one network
    """

    classes: tuple[str, ...]
    probabilities: Tensor
    score: Tensor | None = None
    unknown: Tensor | None = None
    shift: float | None = None
    agreement: Tensor | None = None
    shifts: Mapping[int, float] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.probabilities)

    @property
    def confidence(self) -> Tensor:
        """(N,) probability of the most probable class."""
        return self.probabilities.amax(1)

    @property
    def labels(self) -> Tensor:
        """(N,) index of the most probable class, UNKNOWN (-1) for the unknown class."""
        most = self.probabilities.argmax(1)
        return most if self.unknown is None else torch.where(self.unknown, UNKNOWN, most)

    @property
    def class_names(self) -> list[str]:
        """Name of the class of each subtomogram, "unknown" for the unknown class."""
        return ["unknown" if k == UNKNOWN else self.classes[k] for k in self.labels.tolist()]

    def rows(self) -> list[dict[str, Any]]:
        """A dictionary per subtomogram: class, confidence, unknown, the probability of each class; agreement."""
        unknown = [None] * len(self) if self.unknown is None else self.unknown.tolist()
        rows = [
            {"class": name, "confidence": max(p), "unknown": u, **dict(zip(self.classes, p, strict=True))}
            for name, p, u in zip(self.class_names, self.probabilities.tolist(), unknown, strict=True)
        ]
        if self.agreement is None:
            return rows
        return [row | {"agreement": a} for row, a in zip(rows, self.agreement.tolist(), strict=True)]

    def save_csv(self, path: str | Path) -> Path:
        """Write `rows` as CSV, atomically; the path is returned."""
        with atomic(path) as partial, partial.open("w", newline="", encoding="utf-8") as f:
            names = [
                "class",
                "confidence",
                "unknown",
                *self.classes,
                *(["agreement"] if self.agreement is not None else []),
            ]
            writer = csv.DictWriter(f, names, lineterminator="\n")
            writer.writeheader()
            writer.writerows(self.rows())
        return Path(path)


def average(found: Sequence[Predictions]) -> Predictions:
    """The mean of the probabilities of several seeds, with the `agreement` of the seeds on each subtomogram.

    A subtomogram is of the unknown class where more than half of the seeds say so. One prediction is returned as it is.
    """
    if len(found) == 1:
        return found[0]
    each = torch.stack([one.probabilities for one in found])
    mean = each.mean(0)
    agreement = (each.argmax(2) == mean.argmax(1)).float().mean(0)
    marks = [one.unknown for one in found if one.unknown is not None]
    scores = [one.score for one in found if one.score is not None]
    shifts = [one.shift for one in found if one.shift is not None]
    return Predictions(
        found[0].classes,
        mean,
        torch.stack(scores).mean(0) if scores else None,
        torch.stack(marks).float().mean(0) > 0.5 if marks else None,
        float(np.mean(shifts)) if shifts else None,
        agreement,
        {group: float(np.mean([one.shifts[group] for one in found])) for group in found[0].shifts},
    )


@dataclass(frozen=True, eq=False)
class Classifier:
    """A network with all that is needed to use it on other subtomograms of the same kind.

    Attributes
    ----------
    network : on the CPU, in eval mode
    classes : names, in label order
    box, voxel_size, contrast : of the subtomograms: voxels, A, "bright" or "dark"
    calibration : temperature of the probabilities
    detector : of the unknown class, or None
    recipe : method, step, seed-free settings of the network and the training
    reference : the target that it was adapted to, or None
    normalisation, version : of the input values, and of the library that made it
    members : classifiers of further training seeds, for the same classes and boxes; predictions are means over them
        and this one. () for one seed
    """

    network: Network
    classes: tuple[str, ...]
    box: int
    voxel_size: float
    contrast: str
    calibration: Calibration
    detector: UnknownDetector | None
    recipe: dict[str, Any]
    reference: TargetReference | None = None
    normalisation: str = NORMALISATION
    version: str = __version__
    members: tuple[Classifier, ...] = ()

    @property
    def each(self) -> tuple[Classifier, ...]:
        """The classifier of each training seed, without members of its own."""
        return (replace(self, members=()), *self.members) if self.members else (self,)

    def predict(
        self, subtomograms: Unlabelled, device: str | torch.device = "auto", keep: Path | None = None
    ) -> Predictions:
        """Class, calibrated probability and unknown class of each subtomogram; the mean over training seeds.

        Parameters
        ----------
        keep : folder for what is predicted of boxes that are cut when they are used, part by part: an interrupted call
            goes on from there. None: nowhere

        Raises
        ------
        TypeError
            anything but Unlabelled
        InputError
            another voxel size (beyond 1 %), box or contrast than the classifier was trained on
        """
        if not isinstance(subtomograms, Unlabelled):
            raise TypeError(
                f"Expected Unlabelled subtomograms, got {type(subtomograms).__name__}: pass "
                "Unlabelled(x, voxel_size, groups, name)."
            )
        size, box = subtomograms.voxel_size, tuple(subtomograms.x.shape[2:])
        if abs(size / self.voxel_size - 1) > 0.01:
            least = math.ceil(self.box * self.voxel_size / size)
            larger = f"extract boxes of at least {least} voxels, " if min(box) < least else ""
            raise InputError(
                f"Expected voxels of {self.voxel_size:g} A, got {size:g} A in '{subtomograms.name}': {larger}resample "
                f"with tomography.volumes.rescale(x, {size:g}, {self.voxel_size:g}, {self.box}) and normalise again."
            )
        if box != (self.box,) * 3:
            raise InputError(
                f"Expected boxes of {self.box} voxels, got {box} in '{subtomograms.name}': extract such boxes, "
                f"or crop larger ones with data.crop(x, {self.box}) and normalise again."
            )
        if subtomograms.contrast != self.contrast:
            raise InputError(
                f"Expected protein {self.contrast}, got {subtomograms.contrast} in '{subtomograms.name}': negate x and "
                f"set contrast='{self.contrast}'."
            )
        networks = [one.network for one in self.each]
        rotations = self.recipe.get("averaged_rotations", (0,))  # an earlier file has none
        said = outputs_of(networks, subtomograms.x, device=device, keep=keep, rotations=rotations)
        groups = subtomograms.groups
        return average([one._of(found, groups) for one, found in zip(self.each, said, strict=True)])

    def _of(self, found: Outputs, groups: Tensor) -> Predictions:
        """The predictions of this one network for subtomograms of these groups (N,)."""
        probabilities, labels = self.calibration.probabilities(found.probabilities), found.logits.argmax(1)
        shift, shifts = None, {}
        if self.reference is not None:
            shift = self.reference.shift(found.features, labels)
            numbers = groups.unique().tolist()
            for group in numbers if 1 < len(numbers) <= MOST_GROUPS else ():
                mine = groups == group
                shifts[group] = self.reference.shift(found.features[mine], labels[mine])
        if self.detector is None:
            return Predictions(self.classes, probabilities, shift=shift, shifts=shifts)
        score = self.detector.score_features(found.features)
        unknown = assign(probabilities, score, self.detector.thresholds) == UNKNOWN
        return Predictions(self.classes, probabilities, score, unknown, shift, None, shifts)

    def save(self, path: str | Path) -> Path:
        """Write the classifier as one safetensors file (tensors, and JSON as metadata), atomically; no pickle.

        The tensors of further seeds have names that begin with "member1.", "member2.", ...
        """
        tensors = dict(self._tensors())
        about = self._about()
        for number, one in enumerate(self.members, 1):
            tensors |= {f"member{number}.{name}": value for name, value in one._tensors()}
        if self.members:
            about["members"] = [one._about() for one in self.members]
        form = SEVERAL if self.members else FORMAT
        with atomic(path) as partial:
            save_file(tensors, partial, metadata={"format": form, "about": json.dumps(about)})
        return Path(path)

    def _about(self) -> dict[str, Any]:
        """What is saved of this network as JSON."""
        return {
            "classes": list(self.classes),
            "box": self.box,
            "voxel_size": self.voxel_size,
            "contrast": self.contrast,
            "normalisation": self.normalisation,
            "calibration": asdict(self.calibration),
            "recipe": self.recipe,
            "version": self.version,
            "detector": None if self.detector is None else {"threshold": self.detector.threshold},
        }

    def _tensors(self) -> Iterator[tuple[str, Tensor]]:
        """Name -> tensor of this network, its detector and its reference."""
        yield from ((f"network.{name}", value.contiguous()) for name, value in self.network.state_dict().items())
        for kind, one in (("detector", self.detector), ("reference", self.reference)):
            for name, value in vars(one).items() if one is not None else ():
                if isinstance(value, np.ndarray):
                    yield f"{kind}.{name}", torch.from_numpy(value.copy())

    @classmethod
    def load(cls, path: str | Path, encoder: nn.Module | None = None) -> Classifier:
        """The classifier that :meth:`save` wrote.

        Parameters
        ----------
        encoder : an untrained copy of the encoder, for a classifier that was trained with an nn.Module as encoder

        Raises
        ------
        InputError
            no such file, not a classifier, written by another format, or an encoder that is missing or does not fit
        """
        if not Path(path).is_file():
            raise InputError(f"{path} is not a file; expected a classifier written by Classifier.save.")
        try:
            with safe_open(path, framework="pt") as f:
                text = dict(f.metadata() or {})
                tensors = {name: f.get_tensor(name) for name in f.keys()}  # noqa: SIM118 (no mapping)
        except SafetensorError as error:
            raise InputError(f"{path} is not a safetensors file ({error}); expected one of Classifier.save.") from error
        if text.get("format") not in (FORMAT, SEVERAL):
            raise InputError(f"Expected the format {FORMAT} in {path}, got {text.get('format', 'none')}: train again.")
        about = json.loads(text["about"])
        members = [
            _restored(path, one, _under(f"member{number}.", tensors), encoder)
            for number, one in enumerate(about.get("members", ()), 1)
        ]
        return replace(_restored(path, about, tensors, encoder), members=tuple(members))


def _under(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors whose names begin with `prefix`, without it."""
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}


def _restored(
    path: str | Path, about: Mapping[str, Any], tensors: Mapping[str, Tensor], encoder: nn.Module | None
) -> Classifier:
    """The classifier of one network that `Classifier._about` and `Classifier._tensors` describe."""
    recipe = about["recipe"]
    if recipe["encoder"] is None and encoder is None:
        raise InputError(f"{path} was trained with an encoder of its own; pass an untrained copy as encoder=...")
    with torch.random.fork_rng(devices=[]), torch.device("cpu"):  # the initial weights are replaced below
        own = copy.deepcopy(encoder) or recipe["encoder"]
        network = Network(len(about["classes"]), own, recipe["width"], recipe["norm"]).cpu()
    try:
        network.load_state_dict(_under("network.", tensors))
    except RuntimeError as error:
        reason = str(error).splitlines()[-1].strip()
        raise InputError(f"The weights in {path} do not fit the network ({reason}): pass its encoder.") from error
    detector = None
    if about["detector"] is not None:
        arrays: dict[str, Any] = {name: value.numpy() for name, value in _under("detector.", tensors).items()}
        detector = UnknownDetector(**{"outlier": None} | arrays, **about["detector"])
    parts = {name: value.numpy() for name, value in _under("reference.", tensors).items()}
    return Classifier(
        network=network.eval(),
        classes=tuple(about["classes"]),
        box=about["box"],
        voxel_size=about["voxel_size"],
        contrast=about["contrast"],
        calibration=Calibration(**about["calibration"]),
        detector=detector,
        recipe=recipe,
        reference=TargetReference(**parts) if parts else None,  # an earlier file has none
        normalisation=about["normalisation"],
        version=about["version"],
    )


def select(
    fit: Fit,
    target: Unlabelled,
    *,
    fallback: Fit | None = None,
    unaligned: Fit | None = None,
    outliers: Labelled | None = None,
    rule: str = "im",
    average_rotations: bool = False,
    seed: int = 0,
    device: str | torch.device = "auto",
) -> Classifier:
    """The calibrated classifier of the best checkpoint of `fit`, selected without a target label.

    The checkpoint is that of :func:`selection.choose`. Calibration and the unknown class need the warps of the fit,
    because they are fitted on the warped source; without warps the probabilities stay uncalibrated and nothing is
    called unknown.

    Parameters
    ----------
    fit : of the method
    target : the subtomograms that it was adapted to
    fallback : a fit of `source_only`, used where a check speaks against `fit`; its warning is in `recipe["warning"]`
    unaligned : a fit without adversaries, used where these change the class fractions; see `choose`
    outliers : simulated source subtomograms of other things (`simulation.structures.outliers`), for the unknown class
    rule : a name in selection.VALIDATORS
    average_rotations : see :func:`finish`
    seed : of the warps' draws
    """
    choice = choose(fit, target, rule=rule, fallback=fallback, unaligned=unaligned, device=device)
    return finish(
        choice.fit,
        target=target,
        outliers=outliers,
        seed=seed,
        device=device,
        step=choice.step,
        warning=choice.warning,
        reason=choice.reason,
        average_rotations=average_rotations,
    )


def finish(
    fit: Fit,
    *,
    target: Unlabelled | None = None,
    outliers: Labelled | None = None,
    seed: int = 0,
    device: str | torch.device = "auto",
    step: int | None = None,
    warning: str = "",
    reason: str = "",
    average_rotations: bool = False,
) -> Classifier:
    """The calibrated classifier of one candidate of a fit: `step`, or the one that the fit has selected.

    Parameters as in :func:`select`; `target` raises thresholds of the unknown class, see `UnknownDetector.fit`, and the
    classifier keeps how far its subtomograms are from each other, to compare others with; `warning` and the `reason` of
    the choice are kept in the recipe. With `average_rotations`, probabilities are means over the 180-degree rotations
    that the fit has trained with, which keep the missing wedge; prediction takes as many times as long.
    """
    network = fit.restore(fit.selected if step is None else step)
    generator = torch.Generator("cpu").manual_seed(seed)
    calibration = calibrate(network, fit.validation, fit.warps, generator, device)
    detector = None
    if fit.warps is not None:
        detector = UnknownDetector.fit(
            network, fit.validation, outliers, fit.warps, generator, target=target, device=device
        )
    reference = None
    if target is not None:
        found = outputs(network, target.x, device=device)
        reference = TargetReference.fit(found.features, found.logits.argmax(1), len(fit.classes))
    named = isinstance(fit.config.encoder, str)
    recipe = {
        "method": fit.method,
        "step": fit.selected,
        "steps": fit.config.steps,
        "batch": fit.config.batch,
        "lr": fit.config.lr,
        "weights": dict(fit.config.weights),
        "without": list(fit.config.without),
        "encoder": fit.config.encoder if named else None,
        "width": fit.config.width,
        "norm": network.normalisation,
        "averaged_rotations": list(fit.config.rotations) if average_rotations else [0],
        "warning": warning,
        "reason": reason,
    }
    return Classifier(
        network=copy.deepcopy(network).cpu().eval(),  # the fit may restore another candidate later
        classes=fit.classes,
        box=fit.validation.x.shape[-1],
        voxel_size=fit.validation.voxel_size,
        contrast=fit.validation.contrast,
        calibration=calibration,
        detector=detector,
        recipe=recipe,
        reference=reference,
    )


def load(path: str | Path, encoder: nn.Module | None = None) -> Classifier:
    """The classifier saved at `path`; see :meth:`Classifier.load`."""
    return Classifier.load(path, encoder)
