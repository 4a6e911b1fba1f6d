"""Check the input of `classify` in seconds, before anything is simulated at length or trained."""

from __future__ import annotations

import inspect
import shutil
import textwrap
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ..errors import InputError, InputWarning
from . import classify, pipeline, preflight_page, several
from .preflight_input import Given
from .preflight_rows import (
    OF_ALL,
    OF_POSITIONS,
    OF_SUBTOMOGRAMS,
    OF_TOMOGRAM,
    TRAINED,
    Check,
    Finding,
    of_model,
)

STATUSES = ("ok", "look", "stop")


@dataclass(frozen=True)
class Preflight:
    """Result of :func:`preflight`; as a text it is the table.

    Attributes
    ----------
    findings : a row for each check
    page : preflight.html; None without `out_dir`
    """

    findings: tuple[Finding, ...]
    page: Path | None = None

    @property
    def status(self) -> str:
        """The worst status of the rows."""
        return max((finding.status for finding in self.findings), key=STATUSES.index)

    def __str__(self) -> str:
        return table(self.findings)


def table(findings: Sequence[Finding], width: int | None = None) -> str:
    """The rows as aligned text, wrapped to `width` columns; None: to the terminal, at most 120."""
    width = width or min(120, shutil.get_terminal_size((100, 24)).columns)
    first = max(len(finding.check) for finding in findings) + 2
    lines = []
    for finding in findings:
        text = [f"{finding.found}", *([f"-> {finding.advice}"] if finding.advice else [])]
        wrapped = [line for part in text for line in textwrap.wrap(part, max(20, width - first - 6)) or [""]]
        heads = [f"{finding.check:{first}}{finding.status:6}", *[" " * (first + 6)] * (len(wrapped) - 1)]
        lines += [(head + line).rstrip() for head, line in zip(heads, wrapped, strict=True)]
    return "\n".join(lines)


def preflight(
    *,
    tomogram: str | Path | Sequence[str | Path] = "",
    coordinates: str | Path = "",
    subtomograms: str | Path = "",
    classes: str | Sequence[str] = "",
    voxel_size: float = 0.0,
    contrast: str = "auto",
    background: str | Path = "",
    tilt_axis: float = 0.0,
    tilt_range: float = 60.0,
    defocus: float = 3.0,
    candidates: int = 2000,
    box: int = 0,
    profile: str = "laptop",
    project_folder: str | Path = "",
    seed: int = 0,
    model: str | Path = "",
    out_dir: str | Path = "",
) -> Preflight:
    """What speaks for and against the input of :func:`classify`, a row for each check; nothing is trained.

    A row says "ok", "look" (check this before you use the predictions) or "stop" (`classify` would refuse it, or its
    result would be wrong). An error in one input leaves the rows of the others. Of several tomograms, each has its
    rows, and its page in a folder of its own.

    With `model`, further rows compare the input with what the saved model was made for: voxel size, contrast, tilts,
    processing, spectrum, normalisation, and how far its features and confidence are from those of the input that it was
    adapted to.

    Parameters
    ----------
    out_dir : folder to write preflight.html to; "": none. The others are those of :func:`classify`
    """
    try:
        places = several.files(tomogram)
    except InputError as problem:
        return Preflight((Finding("files", "stop", str(problem)),))
    if len(places) > 1:
        each = locals() | {"tomogram": ""}
        return _of_several(places, {name: each[name] for name in inspect.signature(preflight).parameters})
    tomogram = places[0] if places else ""
    given = Given(
        **{name: classify.as_text(value) for name, value in locals().items() if name not in ("out_dir", "places")}
    )
    try:
        pipeline.check_input(subtomograms, tomogram, coordinates)
    except InputError as problem:
        return Preflight((Finding("files", "stop", str(problem)),))
    checks: dict[str, Check] = (
        (OF_TOMOGRAM if tomogram else OF_SUBTOMOGRAMS) | (OF_POSITIONS if coordinates else {}) | OF_ALL
    )
    if model:
        checks = {name: check for name, check in checks.items() if name not in TRAINED}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", InputWarning)  # what the readers warn of is in the rows
        findings = _run(given, checks)
        if model:
            findings += _of_model(given, findings)
        page = preflight_page.write(Path(out_dir).expanduser() / "preflight.html", given, findings) if out_dir else None
    return Preflight(findings, page)


def _of_several(tomograms: Sequence[str], given: dict[str, Any]) -> Preflight:
    """The rows of each tomogram with its name, and the page of the first."""
    findings: list[Finding] = []
    page = None
    for path in tomograms:
        name = Path(path).stem
        folder = Path(given["out_dir"]).expanduser() / name if given["out_dir"] else ""
        found = preflight(**{**given, "tomogram": path, "out_dir": folder})
        findings += [replace(finding, check=f"{name}: {finding.check}") for finding in found.findings]
        page = page or found.page
    return Preflight(tuple(findings), page)


def _run(given: Given, checks: dict[str, Check]) -> tuple[Finding, ...]:
    """The rows of all checks; an error that keeps several from being made stands in the first of them only."""
    findings: list[Finding] = []
    for name, check in checks.items():
        try:
            found = check(given)
        except InputError as problem:
            told = any(str(problem) == finding.found for finding in findings)
            found = None if told else Finding(name, "stop", str(problem))
        if found is not None:
            findings.append(found)
    return tuple(findings)


def _of_model(given: Given, findings: Sequence[Finding]) -> tuple[Finding, ...]:
    try:
        return tuple(of_model(given))
    except InputError as problem:
        told = any(str(problem) == finding.found for finding in findings)
        return () if told else (Finding("model", "stop", str(problem)),)


def main(arguments: list[str] | None = None) -> int:
    """Command line of :func:`preflight`: 0, or 1 where a row says stop. It takes the options of `classify`."""
    reader = classify.parser("check", "Check the input of classify in seconds; nothing is trained.")
    reader.add_argument("--out_dir", "--out", default="", help="folder of preflight.html (default: only the table)")
    options = vars(reader.parse_args(arguments))
    taken = inspect.signature(preflight).parameters
    result = preflight(**{name: value for name, value in options.items() if name in taken})
    print(result)
    if result.page:
        print(f"wrote {result.page}")
    return int(result.status == "stop")
