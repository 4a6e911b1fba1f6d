"""Data for Cryo-Shift: two small experimental tomograms that are part of the package, and public data by name.

``sample/README.md`` and ``sample/yeast_171/README.md`` name source and licence of the tomograms, ``catalog.toml`` those
of the public data.
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
    "Lamella",
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
    "yeast_lamella",
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


@dataclass(frozen=True)
class Lamella:
    """Paths of a tomogram (MRC, protein dark) and of lists of positions in it (RELION-style STAR).

    Attributes
    ----------
    tomogram : the volume
    ribosomes : expert positions of 80S ribosomes; the list is not complete
    cytosol : random positions away from listed ribosomes and membrane; some hold unlisted ribosomes
    membrane : positions on one double membrane, found by a filter
    positions : those of the three lists in random order, without what they are: what a user would bring
    """

    tomogram: Path
    ribosomes: Path
    cytosol: Path
    membrane: Path
    positions: Path


def yeast_lamella(folder: str | Path = SAMPLE / "yeast_171") -> Lamella:
    """Paths of the yeast lamella, 84 x 256 x 256 voxels of 31.36 A, with the positions of 267 ribosomes in it.

    Parameters
    ----------
    folder : the folder that holds the five files
    """
    names = ("tomogram.mrc", "ribosomes.star", "cytosol_random.star", "membrane_candidates.star", "positions.star")
    return Lamella(*(Path(folder) / name for name in names))
