"""Devices, files and provenance: what every part of the library does in the same way."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import torch


def write_text(path: str | Path, text: str) -> None:
    """Write a text file so that nobody ever finds half of it."""
    partial = Path(f"{path}.part")
    partial.write_text(text, encoding="utf-8")
    os.replace(partial, path)


def pick_device(name: str) -> torch.device:
    """The name "auto" -> CUDA, else Apple's MPS, else CPU; any other name as torch understands it."""
    if name != "auto":
        return torch.device(name)
    if torch.cuda.is_available():
        return torch.device("cuda")
    return torch.device("mps" if torch.backends.mps.is_available() else "cpu")


def root() -> Path:
    """The folder with pyproject.toml, from here upwards; else the current folder."""
    here = Path.cwd()
    return next((folder for folder in (here, *here.parents) if (folder / "pyproject.toml").is_file()), here)


def commit() -> str:
    """The commit of the code that ran, with -dirty when it had changes; "unknown" outside a git checkout."""
    command = ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        found = subprocess.run(command, cwd=Path(__file__).parent, capture_output=True, text=True, timeout=20)
    except (OSError, subprocess.TimeoutExpired):
        return "unknown"
    return found.stdout.strip() or "unknown"
