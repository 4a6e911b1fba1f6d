"""Data that Cryo-Shift runs on: one small experimental tomogram, shipped beside this file, and public data by name.

Provenance, citation and licences of the shipped one are in ``sample/README.md``; those of the others in
``catalog.toml``. ``get("pdb:6zu5")`` downloads; nothing is downloaded before it is asked for.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from .catalog import Item, catalog, describe, find
from .download import FetchError
from .store import cache_folder, get, local, verify, where
from .unpack import unpack

__all__ = [
    "SAMPLE",
    "FetchError",
    "Item",
    "Sample",
    "cache_folder",
    "catalog",
    "describe",
    "find",
    "get",
    "local",
    "sample",
    "unpack",
    "verify",
    "where",
]

SAMPLE = Path(__file__).parent / "sample"


@dataclass(frozen=True)
class Sample:
    """Paths of a tomogram (MRC, protein bright) and of the particle positions in it (RELION-style STAR)."""

    tomogram: Path
    coordinates: Path


def sample(folder: str | Path = SAMPLE) -> Sample:
    """Return the shipped HIV-1 tomogram (101 x 135 x 135 voxels of 40 A) and its 5,377 Gag positions in 9 particles."""
    return Sample(Path(folder) / "hiv_vlp_tomogram.mrc", Path(folder) / "hiv_gag_coordinates.star")
