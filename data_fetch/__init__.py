"""Data for Cryo-Shift: a small experimental tomogram that is part of the package, and public data by name.

``sample/README.md`` names the source, citation and licence of the tomogram, ``catalog.toml`` those of the public data.
Only `get` and `local` download, for example ``get("pdb:6zu5")``.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from .catalog import Item, catalog, describe, find
from .download import FetchError
from .store import cache_folder, get, get_all, local, verify, where
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
    "get_all",
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
    """Paths of the HIV-1 tomogram (101 x 135 x 135 voxels of 40 A) and of its 5,377 Gag positions in 9 particles.

    Parameters
    ----------
    folder : the folder that holds both files
    """
    return Sample(Path(folder) / "hiv_vlp_tomogram.mrc", Path(folder) / "hiv_gag_coordinates.star")
