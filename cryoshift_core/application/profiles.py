"""Profiles: how much data is simulated and how long a network is trained."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

from ..training import TrainingConfig


@dataclass(frozen=True)
class Profile:
    """Amount of work of a run: `box` (voxels), `voxel_size` (A), numbers of subtomograms, training steps and seeds."""

    name: str
    box: int
    voxel_size: float
    classes: tuple[str, ...]
    n_source: int
    n_validation: int
    n_target: int
    n_test: int
    steps: int
    batch: int
    seeds: int
    encoder: str
    width: int

    def for_classes(self, classes: Sequence[str]) -> Self:
        """Profile for these classes. With more classes, source subtomograms and steps grow in proportion."""
        factor = max(1.0, len(classes) / len(self.classes))
        numbers = {name: round(factor * getattr(self, name)) for name in ("n_source", "n_validation", "steps")}
        return replace(self, classes=tuple(classes), **numbers)

    @property
    def n_background(self) -> int:
        """Particle-free boxes of a tomogram to train with, and as many for spike-ins."""
        return max(60, self.n_test // 2)

    def training(self, **changes: Any) -> TrainingConfig:
        """Configuration of a fit: steps, batch and network of the profile, and `changes` to other fields."""
        config = TrainingConfig(steps=self.steps, batch=self.batch, encoder=self.encoder, width=self.width)
        return replace(config, **changes)


_SEVEN = ("ribosome_70S", "ribosome_80S", "TRiC", "apoferritin", "spliceosome", "TYMV_capsid", "RuvAB")
# The published setting has the proteasome instead of ribosome_80S; no proteasome is shipped.
_PAPER = ("ribosome_70S", "ribosome_80S", "TRiC", "membrane")
# fmt: off
_ROWS = (
    # name, box, A, classes, source, validation, target, test, steps, batch, seeds, encoder, width
    Profile("smoke", 24, 16.0, ("ribosome_80S", "TRiC", "apoferritin"), 48, 24, 36, 24, 6, 12, 2, "strided", 8),
    Profile("laptop", 32, 12.0, _SEVEN, 2100, 420, 1000, 500, 400, 32, 3, "strided", 8),
    Profile("gpu", 40, 10.0, _SEVEN, 21000, 2100, 10000, 5000, 5000, 64, 5, "strided", 32),
    Profile("paper", 40, 12.0, _PAPER, 10000, 1000, 5000, 2500, 10000, 32, 5, "light", 16),
)
# fmt: on
PROFILES: dict[str, Profile] = {profile.name: profile for profile in _ROWS}
