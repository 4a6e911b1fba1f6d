"""A trained, selected and calibrated classifier: what a fit becomes, what predicts, and what is saved."""

from __future__ import annotations

import copy
import csv
import json
import math
from dataclasses import asdict, dataclass
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
from ..models import Network, outputs
from ..selection import choose
from ..support.runtime import atomic
from ..training import Fit
from .reference import TargetReference

FORMAT = "cryoshift-classifier/2"


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
    agreement : (N,) fraction of the training seeds that give the most probable class, where they are means over
        several; None for one network
    """

    classes: tuple[str, ...]
    probabilities: Tensor
    score: Tensor | None = None
    unknown: Tensor | None = None
    shift: float | None = None
    agreement: Tensor | None = None

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

    def predict(self, subtomograms: Unlabelled, device: str | torch.device = "auto") -> Predictions:
        """Class, calibrated probability and unknown class of each subtomogram.

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
        found = outputs(self.network, subtomograms.x, device=device)
        probabilities = self.calibration.probabilities(found.probabilities)
        shift = None if self.reference is None else self.reference.shift(found.features, found.logits.argmax(1))
        if self.detector is None:
            return Predictions(self.classes, probabilities, shift=shift)
        score = self.detector.score_features(found.features)
        unknown = assign(probabilities, score, self.detector.thresholds) == UNKNOWN
        return Predictions(self.classes, probabilities, score, unknown, shift)

    def save(self, path: str | Path) -> Path:
        """Write the classifier as one safetensors file (tensors, and JSON as metadata), atomically; no pickle."""
        tensors = {f"network.{name}": value.contiguous() for name, value in self.network.state_dict().items()}
        about: dict[str, Any] = {
            "classes": list(self.classes),
            "box": self.box,
            "voxel_size": self.voxel_size,
            "contrast": self.contrast,
            "normalisation": self.normalisation,
            "calibration": asdict(self.calibration),
            "recipe": self.recipe,
            "version": self.version,
            "detector": None,
        }
        if self.detector is not None:
            about["detector"] = {"threshold": self.detector.threshold}
            arrays = {name: value for name, value in vars(self.detector).items() if isinstance(value, np.ndarray)}
            tensors |= {f"detector.{name}": torch.from_numpy(value.copy()) for name, value in arrays.items()}
        if self.reference is not None:
            arrays = {f"reference.{name}": value for name, value in vars(self.reference).items()}
            tensors |= {name: torch.from_numpy(value.copy()) for name, value in arrays.items()}
        with atomic(path) as partial:
            save_file(tensors, partial, metadata={"format": FORMAT, "about": json.dumps(about)})
        return Path(path)

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
        if text.get("format") != FORMAT:
            raise InputError(f"Expected the format {FORMAT} in {path}, got {text.get('format', 'none')}: train again.")
        about = json.loads(text["about"])
        recipe = about["recipe"]
        if recipe["encoder"] is None and encoder is None:
            raise InputError(f"{path} was trained with an encoder of its own; pass an untrained copy as encoder=...")
        with torch.random.fork_rng(devices=[]), torch.device("cpu"):  # the initial weights are replaced below
            own = copy.deepcopy(encoder) or recipe["encoder"]
            network = Network(len(about["classes"]), own, recipe["width"], recipe["norm"]).cpu()
        weights = {name.removeprefix("network."): t for name, t in tensors.items() if name.startswith("network.")}
        try:
            network.load_state_dict(weights)
        except RuntimeError as error:
            reason = str(error).splitlines()[-1].strip()
            raise InputError(f"The weights in {path} do not fit the network ({reason}): pass its encoder.") from error
        detector = None
        if about["detector"] is not None:
            arrays = {n.removeprefix("detector."): t.numpy() for n, t in tensors.items() if n.startswith("detector.")}
            detector = UnknownDetector(**{"outlier": None} | arrays, **about["detector"])
        parts = {n.removeprefix("reference."): t.numpy() for n, t in tensors.items() if n.startswith("reference.")}
        reference = TargetReference(**parts) if parts else None  # an earlier file has none
        return cls(
            network=network.eval(),
            classes=tuple(about["classes"]),
            box=about["box"],
            voxel_size=about["voxel_size"],
            contrast=about["contrast"],
            calibration=Calibration(**about["calibration"]),
            detector=detector,
            recipe=recipe,
            reference=reference,
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
) -> Classifier:
    """The calibrated classifier of one candidate of a fit: `step`, or the one that the fit has selected.

    Parameters as in :func:`select`; `target` raises thresholds of the unknown class, see `UnknownDetector.fit`, and the
    classifier keeps how far its subtomograms are from each other, to compare others with; `warning` and the `reason` of
    the choice are kept in the recipe.
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
