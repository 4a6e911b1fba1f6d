"""The page preflight.html: the table of the checks, with a picture of each that one shows."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ..support import runtime
from .preflight_input import Given
from .preflight_rows import Finding
from .report import page_template


def write(path: Path, given: Given, findings: Sequence[Finding]) -> Path:
    """Path of the page, one file that needs no network and no script."""
    return runtime.write_text(path, page_template("preflight.html.jinja").render(findings=findings))
