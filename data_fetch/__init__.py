"""Public cryo-ET data for the notebooks: one small real sample ships with the code."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

FOLDER = Path(__file__).parent / "sample"


@dataclass(frozen=True)
class Sample:
    """The shipped tomogram of HIV-1 Gag virus-like particles (see ``sample/README.md``)."""

    tomogram: Path
    coordinates: Path
    readme: Path


def sample() -> Sample:
    """Paths of the shipped sample: tomogram (MRC, 40 A, protein bright), Gag positions (STAR), provenance."""
    return Sample(FOLDER / "hiv_vlp_tomogram.mrc", FOLDER / "hiv_gag_coordinates.star", FOLDER / "README.md")
