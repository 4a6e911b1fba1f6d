"""What a saved model keeps of the input that it was adapted to, and how another input differs from that."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor

from ..data import NORMALISATION, Unlabelled
from ..simulation import structures
from ..tomography.background import FEWEST
from ..tomography.wedge import fit_wedge
from .accuracy import DENOISED, fine_power
from .classifier import Classifier, Predictions
from .pictures import radial_spectrum
from .reference import FURTHER, distance_warnings
from .target_data import TargetData

SPECTRUM = 400  # subtomograms of a spectrum
# Root mean square over shells in dB, and factor between the fractions of fine detail. Halves of the shipped tomograms
# are at most 0.65 dB and a factor of 1.3 apart. Smoothing them by half a voxel gives 1.2 to 1.6 dB and 1.6 to 1.8; a
# pixel size that is off by 15 % gives 1.7 to 2.6 dB; a third more noise, 0.2 to 0.6 dB.
SPECTRA_DIFFER, FINE_DIFFERS = 1.1, 1.5
TILTS_DIFFER, AXES_DIFFER = 10.0, 10.0  # degrees
VOXELS_DIFFER = 1.1  # factor between the voxel sizes of two tomograms, before they are resampled
LESS_SURE = 0.15  # by which the mean confidence may fall


@dataclass(frozen=True)
class Difference:
    """One thing in which an input is compared with what a model was adapted to.

    Attributes
    ----------
    what : of the two
    found : both values
    advice : what to do; "" where they agree
    stop : whether the input cannot be classified with the model
    """

    what: str
    found: str
    advice: str = ""
    stop: bool = False


def about(target: TargetData, classes: Sequence[str], some: Unlabelled, confidence: float) -> dict[str, Any]:
    """What a model keeps of the input that it was adapted to, for its recipe; `differences` compares it.

    Parameters
    ----------
    classes : names or files
    some : the subtomograms that it was adapted to
    confidence : mean calibrated confidence on `some`
    """
    return {
        "adapted_to": target.subtomograms.name,
        "input_contrast": target.contrast,
        "diameters": {structures.class_name(name): structures.diameter(name) for name in classes},
        "input_voxel_size": input_voxel_size(target),
        "spectrum": spectrum(some.x),
        "fine_power": fine_power(some.x[:SPECTRUM]),
        "tilts": tilts(some),
        "confidence": confidence,
    }


def input_voxel_size(target: TargetData) -> float:
    """Voxel size of the files in A, before anything was resampled; the coarsest of several tomograms."""
    sizes = [one.tomogram.voxel_size for one in target.tomograms if one.tomogram is not None]
    return max(sizes) if sizes else target.particles.voxel_size


def spectrum(x: Tensor) -> list[float]:
    """Mean power of subtomograms (N, 1, n, n, n) in shells 1 to n // 2 - 1, in dB of their mean."""
    _, power = radial_spectrum(x[:SPECTRUM])
    decibel = 10 * np.log10(np.maximum(power.astype(float), 1e-12))
    return (decibel - decibel.mean()).tolist()


def tilts(some: Unlabelled) -> list[float] | None:
    """Lowest and highest tilt and tilt axis in degrees that the missing wedge shows; None where there is none."""
    if len(some) < FEWEST:
        return None
    wedge = fit_wedge(some.x[:SPECTRUM], some.voxel_size)
    return None if wedge is None else [float(wedge.low), float(wedge.high), float(wedge.tilt_axis)]


def apart(one: Sequence[float], other: Sequence[float]) -> float:
    """Root mean square difference of two spectra in dB."""
    return float(np.sqrt(np.square(np.subtract(one, other)).mean()))


def differences(model: Classifier, target: TargetData, some: Unlabelled) -> list[Difference]:
    """How an input differs from what a model was adapted to, in what can be told before it is classified.

    Parameters
    ----------
    target : prepared for the model, see `reuse.read_target`
    some : subtomograms of it, at most 400 of which are looked at
    """
    recipe, out = model.recipe, []
    if "spectrum" not in recipe:
        sentence = "the file of the model is of an earlier version, which kept less of what it was adapted to"
        out.append(Difference("adapted to", sentence, "Train again to have everything compared."))
    out += [_voxel_size(model, target), _normalisation(model)]
    used, usual = target.contrast, recipe.get("input_contrast") or "not kept"
    advice = "The contrasts differ: check that protein is not inverted in one of the two." if used != usual else ""
    out.append(
        Difference("contrast", f"protein {used}; the model's was {usual}", advice if usual != "not kept" else "")
    )
    if recipe.get("diameters"):
        sizes = ", ".join(f"{name} {size:.0f} A" if size else name for name, size in recipe["diameters"].items())
        changed = [
            f"{name} is {structures.diameter(name):.0f} A here and {size:.0f} A in the model"
            for name, size in recipe["diameters"].items()
            if name in structures.BUILTIN and abs(structures.diameter(name) - size) > 1
        ]
        out.append(Difference("classes", sizes, "; ".join(changed)))
    if "spectrum" in recipe:
        out += [_tilts(recipe, some), _detail(recipe, some), _spectra(recipe, some)]
    return out


def distance(model: Classifier, found: Predictions, name: str) -> Difference:
    """How far the features and the confidence of predictions are from those that the model was adapted to.

    Parameters
    ----------
    found : predictions of the model
    name : of the input
    """
    before, now = model.recipe.get("confidence"), float(found.confidence.mean())
    sentences = distance_warnings(found.shift, name)
    if before is not None and before - now > LESS_SURE:
        sentences.append(
            f"The model is less sure of {name} (mean confidence {now:.2f}) than of what it was adapted to "
            f"({before:.2f}). Re-adapt: run classify on {name} without model."
        )
    away = "not known" if found.shift is None or math.isnan(found.shift) else f"{math.sqrt(max(0.0, found.shift)):.1f}"
    compared = "" if before is None else f", the model's was {before:.2f}"
    text = f"{away} standard deviations of the features beyond chance (limit {math.sqrt(FURTHER):.1f}); mean confidence"
    return Difference("distance", f"{text} {now:.2f}{compared}", " ".join(sentences))


def _voxel_size(model: Classifier, target: TargetData) -> Difference:
    size, before = input_voxel_size(target), model.recipe.get("input_voxel_size")
    boxes = f"boxes of {model.box} voxels of {model.voxel_size:.4g} A"
    found = f"{size:.4g} A in the files; the model takes {boxes}"
    if before is None:
        return Difference("voxel size", found)
    found += f" and was adapted to {before:.4g} A"
    if max(size / before, before / size) < VOXELS_DIFFER:
        return Difference("voxel size", found)
    advice = "The tomograms were binned differently: check the pixel size, and take the same binning where you can."
    return Difference("voxel size", found, advice)


def _normalisation(model: Classifier) -> Difference:
    advice = "" if model.normalisation == NORMALISATION else "Train again: this version normalises otherwise."
    return Difference("normalisation", model.normalisation, advice, bool(advice))


def _tilts(recipe: Mapping[str, Any], some: Unlabelled) -> Difference:
    now, before = tilts(some), recipe["tilts"]
    texts = [
        "no missing wedge" if t is None else f"tilts of {t[0]:.0f} to {t[1]:.0f} degrees, axis {t[2]:.0f}"
        for t in (now, before)
    ]
    found = f"{texts[0]} in the data; the model's had {texts[1]}"
    if now is None or before is None:
        return Difference("tilts", found)
    ends = max(abs(a - b) for a, b in zip(now[:2], before[:2], strict=True))
    turned = abs((now[2] - before[2] + 90) % 180 - 90)
    advice = "The missing wedges differ. Re-adapt: run classify without model, with tilt_range and tilt_axis of yours."
    return Difference("tilts", found, advice if ends > TILTS_DIFFER or turned > AXES_DIFFER else "")


def _detail(recipe: Mapping[str, Any], some: Unlabelled) -> Difference:
    now, before = fine_power(some.x[:SPECTRUM]), recipe["fine_power"]
    states = ["smooth, as after denoising" if value < DENOISED else "not denoised" for value in (now, before)]
    found = f"the finest details have {now:.1%} of the power of the middle ones ({states[0]}); the model's had "
    found += f"{before:.1%} ({states[1]})"
    advice = (
        "One of the two was denoised, filtered or CTF-corrected, and the other was not, or with other settings. Take "
        "the tomogram of the same processing, or re-adapt: run classify without model."
    )
    differ = max(now, before) > FINE_DIFFERS * min(now, before)
    return Difference("processing", found, advice if differ else "")


def _spectra(recipe: Mapping[str, Any], some: Unlabelled) -> Difference:
    rms = apart(spectrum(some.x), recipe["spectrum"])
    advice = (
        "The spectra differ: another defocus, dose, thickness, filter or pixel size. Re-adapt: run classify without "
        "model."
    )
    found = f"spectra are {rms:.1f} dB apart on average over the frequencies (limit {SPECTRA_DIFFER:g})"
    return Difference("spectrum", found, advice if rms > SPECTRA_DIFFER else "")
