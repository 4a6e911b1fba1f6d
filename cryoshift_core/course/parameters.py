"""Profiles, and the typed parameters of the notebooks: checked before any work, each problem in one sentence."""

import difflib
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Annotated, Any

import torch
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError
from pydantic_core import PydanticCustomError

from data_fetch.catalog import PUBLIC

from ..application.profiles import PROFILES
from ..errors import InputError


def _refuse(wanted: str) -> None:
    raise PydanticCustomError("refused", "{wanted}", {"wanted": wanted})


def did_you_mean(value: str, choices: Iterable[str]) -> str:
    """The way out of a typing mistake, or nothing."""
    lower = {choice.lower(): choice for choice in choices}
    close = difflib.get_close_matches(value.lower(), lower, n=1, cutoff=0.5)
    return f"; did you mean '{lower[close[0]]}'?" if close else "."


def _choice(names: Callable[[], Iterable[str]]) -> Any:
    """A text out of `names`, which are looked up when it is checked: this room imports none of its users."""

    def check(value: str) -> str:
        choices = list(names())
        if value not in choices:
            _refuse(f"one of {', '.join(choices)}{did_you_mean(value, choices)}")
        return value

    return Annotated[str, AfterValidator(check)]


def _methods() -> Iterable[str]:
    from ..methods import METHODS

    return METHODS


def _scenarios() -> Iterable[str]:
    from ..simulation.scenarios import SCENARIOS

    return SCENARIOS


def _class_names() -> list[str]:
    from ..simulation.structures import BUILTIN, PROCEDURAL

    return [*BUILTIN, *PROCEDURAL]


def _devices() -> list[str]:
    cuda = ["cuda", *(f"cuda:{n}" for n in range(torch.cuda.device_count()))] if torch.cuda.is_available() else []
    return ["auto", "cpu", *cuda, *(["mps"] if torch.backends.mps.is_available() else [])]


def _check_classes(text: str) -> str:
    names = [name.strip() for name in text.split(",")] if text else []
    known = _class_names() if names else []
    for name in names:
        if name not in known and not Path(name).expanduser().is_file() and not PUBLIC.fullmatch(name):
            found = f"'{name}' is neither a file nor a built-in class" if name else "a name between commas is empty"
            wanted = f"files, entries such as pdb:6zu5, or names out of {', '.join(known)}"
            _refuse(f"{wanted}: {found}{did_you_mean(name, known)}")
    if len(set(names)) < len(names):
        _refuse("each class once.")
    return text


def _check_exists(value: str) -> str:
    if value and not Path(value).expanduser().exists():
        _refuse(f"a path that exists, seen from {Path.cwd()}.")
    return value


def _check_folder(value: str) -> str:
    if value and Path(value).expanduser().exists() and not Path(value).expanduser().is_dir():
        _refuse("a folder, but this is a file.")
    return value


def _check_box(value: int) -> int:
    if value and not 16 <= value <= 96:
        _refuse("a whole number of voxels from 16 to 96, or 0 for automatic.")
    return value


Box = Annotated[int, AfterValidator(_check_box)]
Existing = Annotated[str, AfterValidator(_check_exists)]
Folder = Annotated[str, AfterValidator(_check_folder)]
Classes = Annotated[str, AfterValidator(_check_classes)]
Amount = Annotated[float, Field(ge=0, le=1, description="a number from 0 to 1")]


class Parameters(BaseModel):
    """Every parameter that a notebook may declare. A description ends the sentence "wanted ..." of an error.

    "" or 0 for classes, pixel_size, box and seeds leaves the choice to the profile or to the user's file.
    """

    model_config = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False)

    # fmt: off
    profile: _choice(lambda: PROFILES) = Field("laptop", description="a profile's name")
    seed: int = Field(0, ge=0, lt=2**31, description="a whole number from 0 to 2147483647")
    device: _choice(_devices) = Field("auto", description="a device's name")
    out_dir: Folder = Field("", description="a folder's path")
    method: _choice(_methods) = Field("cryoshift", description="a method's name")
    scenario: _choice(_scenarios) = Field("in_situ_1", description="a scenario's name")
    classes: Classes = Field("", description="class names, files, and entries such as pdb:6zu5, separated by commas")
    pixel_size: float = Field(0.0, ge=0, le=100, description="a number of A per voxel up to 100, or 0 for automatic")
    box: Box = Field(0, description="a whole number of voxels from 16 to 96, or 0 for automatic")
    seeds: int = Field(0, ge=0, le=100, description="a whole number of seeds up to 100, or 0 for the profile's")
    subtomograms: Existing = Field("", description="a path to a stack, a folder of cubes or a STAR file")
    tomogram: Existing = Field("", description="a path to a tomogram")
    coordinates: Existing = Field("", description="a path to a list of positions")
    background: Existing = Field("", description="a path to boxes of ice: a stack, a folder of cubes or a STAR file")
    contrast: _choice(lambda: ("auto", "dark", "bright")) = Field("auto", description="auto, dark or bright")
    molecule: _choice(_class_names) = Field("ribosome_80S", description="a class name")
    defocus: float = Field(4.0, ge=-20, le=20, description="a number from -20 to 20 um, underfocus positive")
    dose: float = Field(3.0, gt=0, le=1000, description="a number above 0 and up to 1000 e/A^2")
    tilt_range: float = Field(60.0, gt=0, le=80, description="a largest tilt above 0 and up to 80 degrees")
    tilt_axis: float = Field(0.0, ge=-180, le=180, description="an angle from -180 to 180 degrees from y towards x")
    spike_snr: float = Field(0.0, ge=0, le=100, description="an SNR up to 100, or 0 to estimate it")
    amount: Amount = 1.0


FIELDS = Parameters.model_fields


def _sentence(name: str, value: Any, kind: str, message: str) -> str:
    """One sentence for one of pydantic's findings."""
    text = repr(value) if len(repr(value)) <= 60 else repr(value)[:57] + "..."
    if kind == "refused":
        wanted = message
    elif kind == "string_type":
        wanted = f'{FIELDS[name].description}, as text: put it in quotes, or with papermill pass -r {name} "{value}".'
    else:
        wanted = f"{FIELDS[name].description}, such as {name} = {FIELDS[name].default!r}."
    return f"Parameter '{name}' is {text} ({type(value).__name__}); wanted {wanted}"


def check(values: dict[str, Any], declared: Iterable[str] | None = None) -> Parameters:
    """Validate parameters.

    Parameters
    ----------
    values : name -> value
    declared : the names this notebook has; anything else in `values` is unknown. None: all of FIELDS.

    Raises
    ------
    InputError
        with one sentence for each problem, all in one line.
    """
    names = list(FIELDS if declared is None else declared)
    problems = [
        f"Unknown parameter '{name}' is {value!r}; wanted one of {', '.join(names)}{did_you_mean(name, names)}"
        for name, value in values.items()
        if name not in names
    ]
    if ours := [name for name in names if name not in FIELDS]:
        problems.append(f"The parameters cell declares {', '.join(ours)}; wanted names that runs.Parameters has.")
    parameters = None
    try:
        parameters = Parameters.model_validate({n: v for n, v in values.items() if n in names and n in FIELDS})
    except ValidationError as error:
        problems += [_sentence(e["loc"][0], e["input"], e["type"], e["msg"]) for e in error.errors()]
    given = {name for name in ("subtomograms", "tomogram", "coordinates") if values.get(name)}
    if len(given) == 1 and "subtomograms" not in given or len(given) > 1 and "subtomograms" in given:
        problems.append(
            f"Given: {' and '.join(sorted(given))}; wanted tomogram and coordinates, or subtomograms alone."
        )
    if problems:
        raise InputError(" ".join(problems))
    return parameters
