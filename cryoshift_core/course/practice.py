"""The practice key: held-out labels that the course opens, of a seed that neither evidence nor development uses.

A participant who has bet on a score may see it at once, and no key of the evidence is opened for it.
"""

from __future__ import annotations

from pathlib import Path

from ..application.profiles import Profile
from ..data import HeldOutLabels
from ..errors import InputError
from ..simulation import datasets
from ..simulation.datasets import DatasetConfig

SEED = 7  # the evidence has 21 to 25, 31 to 35 and 41 to 45; development had 0, 11 to 13 and 101 upwards


def config(profile: Profile, scenario: str, n: int, tomograms: int = 0) -> DatasetConfig:
    """Configuration of a practice target with n subtomograms; `tomograms` as in DatasetConfig."""
    return DatasetConfig(scenario, profile.classes, n, profile.box, profile.voxel_size, "test", tomograms, SEED)


def reveal(config: DatasetConfig, folder: Path) -> HeldOutLabels:
    """Held-out labels of a practice target; InputError for a target of another seed, whose key stays locked."""
    if config.seed != SEED:
        raise InputError(
            f"Expected a practice target, with seed {SEED}, got seed {config.seed}: its key stays locked. "
            "Use practice.config for the target."
        )
    return datasets.load_labels(config, folder=folder, progress=False)
