"""Typed parameters of the notebooks, checked before any work; each problem is reported in one sentence."""

import ast
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any

import torch
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError
from pydantic_core import PydanticCustomError

from data_fetch.catalog import PUBLIC

from ..application.job import TEMPLATES
from ..application.profiles import PROFILES
from ..application.recipes import applicable
from ..errors import InputError
from ..support.runtime import did_you_mean, nearest

LISTED = 8  # names in an error message


def _refuse(expected: str) -> None:
    raise PydanticCustomError("refused", "{expected}", {"expected": expected})


def listing(choices: Sequence[str]) -> str:
    """The choices, separated by commas; the first LISTED of a longer list, and how many there are."""
    if len(choices) <= LISTED + 2:
        return ", ".join(choices)
    return f"{', '.join(choices[:LISTED])}, ... ({len(choices)} in all)"


def _one_of(names: Callable[[], Iterable[str]]) -> AfterValidator:
    """Check that a text is one of `names`, which are looked up at each check: methods may be registered later."""

    def check(value: str) -> str:
        choices = list(names())
        if value not in choices:
            _refuse(f"one of {listing(choices)}{did_you_mean(value, choices)}")
        return value

    return AfterValidator(check)


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
    from ..simulation.class_files import class_file

    names = [name.strip() for name in text.split(",")] if text else []
    known = _class_names() if names else []
    for name in names:
        file, entry = class_file(Path(name).expanduser()), name.partition("@")[0]
        if name not in known and file is None and not PUBLIC.fullmatch(entry):
            found = f"'{name}' is neither a file nor a built-in class" if name else "a name between commas is empty"
            _refuse(f"files, entries such as pdb:6zu5, or some of {listing(known)}: {found}{did_you_mean(name, known)}")
    if len(set(names)) < len(names):
        _refuse("each class once.")
    return text


def _check_exists(value: str) -> str:
    if value and not Path(value).expanduser().exists():
        _refuse(f"a path that exists; the current folder is {Path.cwd()}.")
    return value


def _check_folder(value: str) -> str:
    if value and Path(value).expanduser().exists() and not Path(value).expanduser().is_dir():
        _refuse("a folder; this is a file.")
    return value


def _check_box(value: int) -> int:
    if value and not 16 <= value <= 96:
        _refuse("a whole number of voxels from 16 to 96, or 0 for automatic.")
    return value


def names(text: str) -> tuple[str, ...]:
    """The names in a text with commas, such as "mada, dann"; () for an empty text."""
    return tuple(name.strip() for name in text.split(",")) if text.strip() else ()


def _check_names(what: str, text: str, known: Iterable[str]) -> None:
    choices = list(known)
    for name in names(text):
        if name not in choices:
            _refuse(f"{what} out of {listing(choices)}, separated by commas: got '{name}'{did_you_mean(name, choices)}")
    if len(set(names(text))) < len(names(text)):
        _refuse("each name once.")


def _check_methods(text: str) -> str:
    _check_names("methods", text, _methods())
    return text


def _check_without(text: str) -> str:
    from ..methods import TERMS
    from ..warps import WARPS

    _check_names("terms and warps", text, [*TERMS, *WARPS, "own_background"])
    return text


def literal(text: str) -> Any:
    """The number, flag, list or text in quotes that a text stands for; the text itself where it is none of these."""
    try:
        return ast.literal_eval({"true": "True", "false": "False"}.get(text, text))
    except (ValueError, SyntaxError):
        return text


def weights(text: str) -> dict[str, float]:
    """Term -> weight of a text such as "mada:0.3, teacher:1", or with = in place of the colon; {} for an empty text.

    Raises
    ------
    ValueError
        a part that is not NAME:NUMBER.
    """
    pairs = [part.replace("=", ":").partition(":") for part in names(text)]
    return {name.strip(): float(number) for name, _, number in pairs}


def _check_weights(text: str) -> str:
    from ..methods import TERMS

    try:
        given = weights(text)
    except ValueError:
        _refuse("term:weight, separated by commas, such as mada:0.3.")
    _check_names("terms", ",".join(given), TERMS)
    for name, value in given.items():
        if not 0 <= value < math.inf:
            _refuse(f"weights from 0 upwards, got {name}:{value:g}.")
    return text


def recipe_changes(method: str, weights_text: str, without: str) -> dict[str, Any]:
    """The parameters `weights` and `without` as :func:`recipes.applicable` returns them for a method."""
    return applicable(method, weights(weights_text), names(without))


ProfileName = Annotated[str, _one_of(lambda: PROFILES)]
DeviceName = Annotated[str, _one_of(_devices)]
MethodName = Annotated[str, _one_of(_methods)]
ScenarioName = Annotated[str, _one_of(_scenarios)]
ClassName = Annotated[str, _one_of(_class_names)]
Contrast = Annotated[str, _one_of(lambda: ("auto", "dark", "bright"))]
Model = Annotated[str, _one_of(lambda: ("as chosen", "as trained", "as reported"))]
Templates = Annotated[str, _one_of(lambda: TEMPLATES)]
Box = Annotated[int, AfterValidator(_check_box)]
Existing = Annotated[str, AfterValidator(_check_exists)]
Folder = Annotated[str, AfterValidator(_check_folder)]
ExistingFolder = Annotated[str, AfterValidator(_check_exists), AfterValidator(_check_folder)]
Classes = Annotated[str, AfterValidator(_check_classes)]
Methods = Annotated[str, AfterValidator(_check_methods)]
Without = Annotated[str, AfterValidator(_check_without)]
Weights = Annotated[str, AfterValidator(_check_weights)]
Amount = Annotated[float, Field(ge=0, le=1, description="a number from 0 to 1")]


class Parameters(BaseModel):
    """Every parameter that a notebook may declare. A description completes the sentence "expected ..." of an error.

    The values "" and 0 of classes, pixel_size, box and seeds mean: take it from the profile or from the user's file.
    """

    model_config = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False)

    # fmt: off
    profile: ProfileName = Field("laptop", description="the name of a profile")
    seed: int = Field(0, ge=0, lt=2**31, description="a whole number from 0 to 2147483647")
    data_seed: int = Field(-1, ge=-1, lt=2**31, description="a whole number from 0 to 2147483647, or -1 for `seed`")
    device: DeviceName = Field("auto", description="the name of a device")
    out_dir: Folder = Field("", description="the path of a folder")
    method: MethodName = Field("cryoshift", description="the name of a method")
    methods: Methods = Field("", description="names of methods, separated by commas")
    steps: int = Field(0, ge=0, le=10**7, description="a whole number of training steps, or 0 for the profile's")
    lr: float = Field(0.0, ge=0, le=1, description="a learning rate up to 1, or 0 for the usual one")
    weights: Weights = Field("", description="term:weight, separated by commas")
    without: Without = Field("", description="names of terms and warps, separated by commas")
    scenario: ScenarioName = Field("in_situ_1", description="the name of a scenario")
    classes: Classes = Field("", description="class names, files, and entries such as pdb:6zu5, separated by commas")
    pixel_size: float = Field(0.0, ge=0, le=100, description="a number of A per voxel up to 100, or 0 for automatic")
    box: Box = Field(0, description="a whole number of voxels from 16 to 96, or 0 for automatic")
    seeds: int = Field(0, ge=0, le=100, description="a whole number of seeds up to 100, or 0 for the profile's")
    subtomograms: Existing = Field("", description="the path of a stack, a folder of subtomograms or a STAR file")
    tomogram: Existing = Field("", description="the path of a tomogram")
    coordinates: Existing = Field("", description="the path of a list of positions")
    background: Existing = Field("", description="the path of particle-free boxes: a stack, a folder or a STAR file")
    project_folder: ExistingFolder = Field("", description="the path of a folder that names in a STAR start from")
    contrast: Contrast = Field("auto", description="auto, dark or bright")
    molecule: ClassName = Field("ribosome_80S", description="a class name")
    defocus: float = Field(4.0, ge=-20, le=20, description="a number from -20 to 20 um, underfocus positive")
    dose: float = Field(3.0, gt=0, le=1000, description="a number above 0 and up to 1000 e/A^2")
    tilt_range: float = Field(60.0, gt=0, le=80, description="a largest tilt above 0 and up to 80 degrees")
    tilt_axis: float = Field(0.0, ge=-180, le=180, description="an angle from -180 to 180 degrees from y towards x")
    spike_snr: float = Field(0.0, ge=0, le=100, description="an SNR up to 100, or 0 to estimate it")
    own_background: bool = Field(True, description="True or False")
    picking_error: float = Field(0.0, ge=0, le=500, description="a length up to 500 A, or 0 for half a voxel")
    purity: float = Field(0.8, ge=0, le=1, description="a least expected purity from 0 to 1")
    n_seeds: int = Field(1, ge=1, le=20, description="a whole number of training seeds from 1 to 20")
    average_rotations: bool = Field(False, description="True or False")
    templates: Templates = Field(TEMPLATES[0], description="combined, beside or off")
    may_be_absent: str = Field("", description="names of classes, separated by commas")
    held_out_tomograms: str = Field("", description="names of tomograms, separated by commas")
    held_out: str = Field("1,3,7", pattern=r"^\d+(,\d+)*$", description="numbers of particles, separated by commas")
    amount: Amount = 1.0
    results: Existing = Field("", description="the path of a table, a file of a sweep, or a folder of runs")
    score: str = Field("", description="the name of a score, or empty")
    baseline: str = Field("source_only", description="the name of a method")
    model: Model = Field("as chosen", description="as chosen, as trained or as reported")


FIELDS = Parameters.model_fields


def _type(name: str) -> str:
    annotation = FIELDS[name].annotation
    return annotation.__name__ if isinstance(annotation, type) else "text"


def unknown(name: str, value: Any, declared: Iterable[str]) -> str:
    """Sentence for a parameter that the selected notebook does not declare: the nearest name, then all with types."""
    known = [field for field in declared if field in FIELDS]
    close = nearest(name, known)
    hint = f"; did you mean '{close}' ({_type(close)}: {FIELDS[close].description})?" if close else "."
    return f"Unknown parameter '{name}' is {value!r}; expected one of " + (
        ", ".join(f"{field} ({_type(field)})" for field in known) + hint
    )


def _sentence(name: str, value: Any, kind: str, message: str) -> str:
    """One sentence for one of pydantic's findings."""
    text = repr(value) if len(repr(value)) <= 60 else repr(value)[:57] + "..."
    if kind == "refused":
        expected = message
    elif kind == "string_type":
        expected = f'{FIELDS[name].description}, as text: put it in quotes, or with papermill pass -r {name} "{value}".'
    else:
        expected = f"{FIELDS[name].description}, such as {name} = {FIELDS[name].default!r}."
    return f"Parameter '{name}' is {text} ({type(value).__name__}); expected {expected}"


def _recipe_problems(p: Parameters, declared: Iterable[str]) -> Iterator[str]:
    """Sentences where `weights` or `without` change no method that is trained, or leave one without labels."""
    from ..methods import resolve

    trained = dict.fromkeys((p.method if "method" in declared else "cryoshift", "source_only", *names(p.methods)))
    changes = [recipe_changes(name, p.weights, p.without) for name in trained]
    for name, value in (("weights", list(weights(p.weights))), ("without", list(names(p.without)))):
        for part in value:
            if not any(part in change[name] for change in changes):
                yield (
                    f"Parameter '{name}' names {part}, which none of {', '.join(trained)} has; expected a part of one "
                    "of them. Add its method to the parameter `methods`, or leave it out."
                )
    for name, change in zip(trained, changes, strict=True):
        try:
            resolve(name, change["without"])
        except InputError as problem:
            yield str(problem)


def _method_problems(p: Parameters, declared: Iterable[str]) -> Iterator[str]:
    """Sentences where a bound is named as the method under test, or a method that needs target labels at all."""
    for name in ("method", "methods"):
        if name in declared and "oracle" in names(getattr(p, name)):
            yield (
                f"Parameter '{name}' names oracle, which learns from target labels; expected other methods. Notebook "
                "05 trains it anyway, as the upper bound."
            )
    if {"method", "methods"} <= set(declared) and p.method == "source_only":
        yield (
            "Parameter 'method' is 'source_only', which this notebook trains anyway; expected the method to compare "
            f"with it, such as method = {FIELDS['method'].default!r}."
        )


def check(values: dict[str, Any], declared: Iterable[str] | None = None) -> Parameters:
    """Validated parameters.

    Parameters
    ----------
    values : name -> value
    declared : names that this notebook has; any other name in `values` is unknown. None: all of FIELDS.

    Raises
    ------
    InputError
        with one sentence for each problem, all in one line.
    """
    allowed = list(FIELDS if declared is None else declared)
    problems = [unknown(name, value, allowed) for name, value in values.items() if name not in allowed]
    if ours := [name for name in allowed if name not in FIELDS]:
        problems.append(
            f"The parameters cell declares {', '.join(ours)}{did_you_mean(ours[0], FIELDS)} Expected names that "
            "cryoshift_core.course.parameters.Parameters has."
        )
    parameters = None
    try:
        parameters = Parameters.model_validate({n: v for n, v in values.items() if n in allowed and n in FIELDS})
    except ValidationError as error:
        problems += [_sentence(str(e["loc"][0]), e["input"], e["type"], e["msg"]) for e in error.errors()]
    if parameters is not None:
        problems += [*_recipe_problems(parameters, allowed), *_method_problems(parameters, allowed)]
    given = {name for name in ("subtomograms", "tomogram", "coordinates") if values.get(name)}
    if len(given) == 1 and "subtomograms" not in given or len(given) > 1 and "subtomograms" in given:
        problems.append(
            f"Got {' and '.join(sorted(given))}; expected either tomogram and coordinates, or subtomograms alone."
        )
    if problems or parameters is None:
        raise InputError(" ".join(problems))
    return parameters
