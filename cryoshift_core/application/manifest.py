"""The schema of manifest.json, version 1, for notebooks and for :func:`classify.classify`; see docs/manifest.md."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, ValidationError

from ..errors import InputError
from ..methods import METHODS
from ..metrics import Interval
from .second_opinion import BOTH

SCHEMA = 1
SHA256 = r"^[0-9a-f]{64}$"
# The end of a score's name, or the whole name -> its unit. Whole numbers are counts, everything else is a plain number.
UNITS = {"seconds": "s", "minutes": "min", "mb": "MB", "angstrom": "A", "step": "step", "chosen_step": "step"}
FRACTIONS = ("accuracy", "recall", "rejection", "confidence", "macro_f1", "regret", "gap_closed", "ece")


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)


class Number(_Strict):
    """One measured number: `value`, with the ends of its 95 % interval where there is one, and what it belongs to."""

    name: str
    value: float | None
    low: float | None = None
    high: float | None = None
    unit: str
    of: dict[str, str] = Field(default_factory=dict)


class Process(_Strict):
    """The process that wrote the run."""

    pid: int
    parent: int
    created: float
    host: str


class Manifest(_Strict):
    """Contents of manifest.json. Each field is described in docs/manifest.md."""

    schema_: Literal[1] = Field(alias="schema")
    notebook: str
    status: Literal["unfinished", "finished", "failed"]
    error: str = ""
    id: str = Field(pattern=r"^[0-9a-f]{32}$")
    parameters: dict[str, Any]
    seed: int
    profile: dict[str, Any]
    scores: dict[str, Any]
    numbers: list[Number]
    started: AwareDatetime
    wall_seconds: float = Field(ge=0)
    cpu_seconds: float = Field(ge=0)
    peak_memory_mb: int = Field(gt=0)
    device: str
    threads: int = Field(gt=0)
    inputs: dict[str, str]
    versions: dict[str, str]
    commit: str
    code: str = Field(pattern=SHA256)
    cells: str = Field("", pattern=r"^([0-9a-f]{64})?$")
    process: Process
    verdict: str = ""
    usable_classes: list[str] = Field(default_factory=list)
    own_background: int = 0


def validate(content: Mapping[str, Any], path: Path | str = "manifest.json") -> Manifest:
    """The manifest as a typed object.

    Raises
    ------
    InputError
        a key that is missing, unknown or of the wrong type, or another version of the schema; `path` is named.
    """
    try:
        return Manifest.model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise InputError(
            f"{path}: expected a manifest of schema {SCHEMA}, got {where} = {str(first['input'])[:60]!r}: "
            f"{first['msg']}. Repeat the run with this version."
        ) from error


def read(path: Path) -> Manifest:
    """The manifest in a file; InputError where it is no JSON or does not fit the schema."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: expected a manifest as JSON, got {error}. Repeat the run.") from error
    return validate(content, path)


def unit(name: str, value: Any) -> str:
    """Unit of a score: "fraction", "nat", "s", ..., "count" for a whole number, "1" for a plain number."""
    if name in UNITS or name.rsplit("_", 1)[-1] in UNITS:
        return UNITS.get(name) or UNITS[name.rsplit("_", 1)[-1]]
    if name.endswith(FRACTIONS):
        return "fraction"
    if name.startswith("im_score"):
        return "nat"
    return "count" if isinstance(value, int) else "1"


def plain(value: Any) -> Any:
    """Number, text, interval, or list of them, as JSON can hold it; NaN and infinities become None."""
    if isinstance(value, Interval):
        value = value._asdict()
    if hasattr(value, "tolist"):
        value = value.tolist()
    if isinstance(value, Mapping):
        return {str(name): plain(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value if value is None or isinstance(value, bool | int | float) else str(value)


def numbers(scores: Mapping[str, Any], of: Mapping[str, str]) -> list[dict[str, Any]]:
    """The numbers among a run's scores, one entry each, so that runs line up; see :class:`Number`.

    A method at the end of a score's name becomes a part of `of`: `balanced_accuracy_mada` is the balanced accuracy of
    the method mada. Texts and flags are left out.

    Parameters
    ----------
    scores : name -> value, as :func:`plain` makes them
    of : what all scores of the run belong to, such as scenario and seed
    """
    found = []
    for name, value in scores.items():
        methods = [method for method in (*METHODS, BOTH) if name.endswith(f"_{method}")]
        method = max(methods, key=len, default="")
        short = name.removesuffix(f"_{method}") if method else name
        belongs = {**of, **({"method": method} if method else {})}
        for item, low_high, part in _flat(value):
            low, high = low_high
            found.append(
                {"name": short, "value": item, "low": low, "high": high, "unit": unit(short, item)}
                | {"of": {**belongs, **part}}
            )
    return found


def _flat(value: Any) -> Iterator[tuple[Any, tuple[Any, Any], dict[str, str]]]:
    """Each number in a score with the ends of its interval, and where in a list or table it stands."""
    if isinstance(value, dict) and set(value) == {"mean", "low", "high"}:
        yield value["mean"], (value["low"], value["high"]), {}
    elif isinstance(value, dict | list):
        for key, item in value.items() if isinstance(value, dict) else enumerate(value):
            for number, ends, part in _flat(item):
                yield number, ends, {"item": ".".join([str(key), *part.values()])}
    elif isinstance(value, int | float) and not isinstance(value, bool):
        yield value, (None, None), {}
