"""A saved model on the next tomogram: its classes, box, voxel size and contrast are used, and nothing is trained."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import InputError
from ..simulation import structures
from ..tomography import volumes
from ..tomography.volumes import ContrastGuess
from . import picks, target_data
from .classifier import Classifier
from .target_data import TargetData
from .verdict import USABLE

COARSER = 1.05  # voxel size of a tomogram over that of the model, up to which boxes are resampled


def load(path: str | Path, *, classes: str = "", box: int = 0, background: str | Path = "") -> Classifier:
    """The model saved at `path`; what is given beside it must not contradict it.

    Parameters
    ----------
    classes : names by commas, "" for those of the model
    box : voxels, 0 for that of the model
    background : must be empty, because it would only be trained with

    Raises
    ------
    InputError
        no model, other classes, another box, or a background
    """
    model = Classifier.load(path)
    given = [structures.class_name(name.strip()) for name in classes.split(",")] if classes else []
    if given and set(given) != set(model.classes):
        raise InputError(
            f"{path} knows the classes {', '.join(model.classes)}; expected these, got {', '.join(given)}: leave "
            "classes out, or leave model out to train for yours."
        )
    if box not in (0, model.box):
        raise InputError(
            f"{path} takes boxes of {model.box} voxels of {model.voxel_size:g} A; expected box 0 or {model.box}, got "
            f"{box}: leave it out, or leave model out to train for yours."
        )
    if background:
        raise InputError(
            f"Expected no background with a model, got {background}: nothing is trained with it; leave it out."
        )
    return model


@dataclass(frozen=True, eq=False)
class Saved:
    """A saved model, and the file that it came from, for messages: what it demands of an input.

    Attributes
    ----------
    model : of :func:`load`
    path : its file
    """

    model: Classifier
    path: str | Path

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of its classes."""
        return self.model.classes

    @property
    def grid(self) -> tuple[int, float]:
        """Box in voxels, and voxel size in A."""
        return self.model.box, self.model.voxel_size

    def check_voxel_size(self, voxel_size: float, name: str | Path) -> None:
        """Raise InputError where voxels (A) of the input `name` are coarser than the model's."""
        if voxel_size > COARSER * self.model.voxel_size:
            raise InputError(
                f"{name} has voxels of {voxel_size:.4g} A; expected at most the {self.model.voxel_size:.4g} A of "
                f"{self.path}, as boxes cannot be resampled to finer voxels: give a finer binning, correct voxel_size, "
                "or leave model out to train."
            )

    def contrast(self, asked: str, guess: ContrastGuess, name: str | Path) -> str:
        """The contrast of the input: the one asked for, else the one that the model was adapted to.

        Raises
        ------
        InputError
            the grey values show another one
        """
        usual = self.model.recipe.get("input_contrast", "")
        if asked != "auto" or not usual:
            return target_data.choose_contrast(asked, guess)
        if guess.sign not in ("unsure", usual):
            raise InputError(
                f"{name} looks as if protein were {guess.sign} ({guess.why}); expected {usual}, as {self.path} was "
                f"adapted to: set contrast={guess.sign} if it is."
            )
        return usual

    def diameters(self, tomogram: str | Path) -> Mapping[str, float]:
        """Class -> diameter in A to pick with, from the model, or of built-in classes where an older model has none.

        Raises
        ------
        InputError
            the model has no class for candidates without a particle, or does not know its diameters
        """
        model = self.model
        if picks.BACKGROUND not in model.classes:
            raise InputError(
                f"{self.path} has no class {picks.BACKGROUND} for candidates without a particle; expected one to pick "
                f"{tomogram} with: give coordinates, or run classify on the tomogram without model."
            )
        stored = model.recipe.get("diameters")
        if stored is None and not set(model.classes) <= {*structures.BUILTIN, *structures.PROCEDURAL}:
            raise InputError(
                f"{self.path} holds no diameters of its classes; expected them to pick with: give coordinates, or "
                "train again."
            )
        return stored if stored is not None else {name: structures.diameter(name) for name in model.classes}


def read_target(
    model: Classifier,
    path: str | Path,
    *,
    subtomograms: str | Path = "",
    tomogram: str | Path = "",
    coordinates: str | Path = "",
    voxel_size: float = 0.0,
    contrast: str = "auto",
    candidates: int = 2000,
    project_folder: str | Path = "",
) -> TargetData:
    """The input files as subtomograms of the model's box and voxel size, resampled where theirs is finer.

    Where the grey values do not show the contrast, that of the tomogram that the model was adapted to is used.

    Parameters
    ----------
    path : of the model, for messages
    others : as in `pipeline.classify`

    Raises
    ------
    InputError
        voxels coarser than the model's, another contrast than the model was adapted to, or unreadable input
    """
    saved = Saved(model, path)
    about: dict[str, Any] = {"voxel_size": voxel_size, "project_folder": project_folder}
    volume, particles = target_data.read_files(subtomograms, tomogram, coordinates, **about)
    grid: dict[str, Any] = {"grid": saved.grid}
    if volume is None:
        assert particles is not None and particles.subtomograms is not None  # as `pipeline.check_input` has seen
        saved.check_voxel_size(particles.voxel_size, subtomograms)
        guess = volumes.guess_contrast(particles.subtomograms)
        grid |= {"contrast": saved.contrast(contrast, guess, subtomograms), "guess": guess}
        grid |= {"name": Path(subtomograms).stem}
        return target_data.from_subtomograms(particles, model.classes, **grid)
    saved.check_voxel_size(volume.voxel_size, tomogram)
    guess = volumes.guess_contrast(volume.data)
    grid |= {"contrast": saved.contrast(contrast, guess, tomogram), "guess": guess}
    if particles is not None:
        return target_data.from_tomogram(volume, particles, model.classes, **grid)
    return picks.candidates(volume, saved.diameters(tomogram), n=candidates, **grid)


def summary(model: Classifier, path: str | Path) -> str:
    """One sentence for the report: nothing was trained, and what the model was adapted to."""
    said = f"nothing was trained: {Path(path).name} was adapted to {model.recipe.get('adapted_to') or 'other data'}"
    means = f". Probabilities are means over the {len(model.each)} training seeds in it"
    return said + (means if model.members else "")


def sources(model: Classifier, classes: str) -> tuple[str, ...]:
    """Built-in name or file of each class of the model, in its order; () where a file is neither built in nor given.

    Parameters
    ----------
    classes : names and files by commas, as a user gives them; "" for none
    """
    given = {structures.class_name(name.strip()): name.strip() for name in classes.split(",") if name.strip()}
    known = {name: name for name in (*structures.BUILTIN, *structures.PROCEDURAL)}
    known |= {name: path for name, path in given.items() if Path(path).is_file()}
    return tuple(known[name] for name in model.classes) if set(model.classes) <= set(known) else ()


def verdict_warnings(model: Classifier) -> list[str]:
    """A sentence with the verdict on what the model was adapted to, unless it was "usable" or is not known.

    Without simulated subtomograms and spike-ins, most alarms cannot be raised again on the next tomogram.
    """
    if model.recipe.get("verdict", USABLE) == USABLE:  # an earlier file has none
        return []
    return [
        f"On {model.recipe.get('adapted_to') or 'the data'}, which the model was adapted to, the verdict was: "
        f"{model.recipe['verdict_in_words']}. Most of its alarms cannot be checked again with a saved model: do "
        "not use more classes here."
    ]


def template_warnings(model: Classifier) -> list[str]:
    """A sentence for an answer of the network alone, where network and templates answered when it was adapted."""
    if not model.recipe.get("templates"):
        return []
    return [
        f"On {model.recipe.get('adapted_to') or 'the data'}, which the model was adapted to, network and template "
        "matching answered together; this is the network alone. For both, give the files of its classes as classes."
    ]
