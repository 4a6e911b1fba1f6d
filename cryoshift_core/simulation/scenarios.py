"""Scenarios: the settings of the source domain, and of targets that differ from it by known factors.

A scenario holds the ranges from which each simulated tomogram draws its settings. `FACTORS` lists the ways in which a
target can differ from the source, each at three levels. Scenarios with one factor are called ``<factor>_<level>``;
``in_situ_1`` to ``in_situ_3`` combine all ten factors at that level. Targets are imaged tilt by tilt and the source
with the transfer function, so that the classifier is never trained with the simulator that it is tested on.

``changed(scenario("in_situ_2"), name="thick", thickness=(250.0, 300.0))`` is a new scenario, which can be given to
`datasets.DatasetConfig` in place of a name. `register_factor` adds a factor, which is one entry of `FACTORS`.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..data import normalize
from ..errors import InputError
from ..fourier import gaussian_low_pass
from ..support.runtime import did_you_mean
from .optics import Optics, tilt_scheme

Range = tuple[float, float]
UNSEEN = "subunit_50S"  # the molecule of no class in scenarios with `unseen` > 0; its held-out label is UNKNOWN


@dataclass(frozen=True)
class Scenario:
    """Settings of a domain. Each simulated tomogram draws its own from the ranges, uniformly.

    Attributes
    ----------
    name : used in file names and as the name of the target
    dose : e/A^2 per tilt
    thickness : nm
    defocus : um, underfocus positive
    amplitude_contrast : fraction, 0 to 1
    voltage : kV
    cs : mm
    tilts : low, high, pretilt in degrees, in steps of 3 degrees
    half_angle : degrees; draws a symmetric tilt range in place of `tilts`
    misalignment : sigma of the residual shift of tilt images, A
    crowding : volume fraction of neighbours
    extras : molecules that occur only as neighbours
    noise_slope : beta of a noise power that falls as k^-beta
    structural_fraction : fraction of the noise power that passed through the optics
    pixel_error : largest relative magnification error
    offset : largest picking error, voxels
    processing : a name of `PROCESSING`
    deformation : rms displacement of the structures along each axis, A
    unseen : fraction of subtomograms that show `UNSEEN`, a molecule of no class
    imbalance : ratio of the most frequent to the rarest class
    snr : range of SNRs, drawn log-uniformly, that replaces the noise level of the dose
    path : "tilt" or "transfer", the simulation that images targets (see `imaging`)
    others : (name, value) pairs of registered factors; read them with `value`

    Raises
    ------
    InputError
        `name`, `processing` or `path` is not one of the allowed values.
    """

    name: str = "custom"
    dose: Range = (3.0, 3.5)
    thickness: Range = (60.0, 100.0)
    defocus: Range = (2.0, 4.0)
    amplitude_contrast: float = 0.07
    voltage: float = 300.0
    cs: Range = (2.7, 2.7)
    tilts: tuple[float, float, float] = (-60.0, 60.0, 0.0)
    half_angle: Range | None = None
    misalignment: float = 0.0
    crowding: float = 0.0
    extras: tuple[str, ...] = ()
    noise_slope: float = 0.0
    structural_fraction: float = 0.0
    pixel_error: float = 0.0
    offset: float = 0.5
    processing: str = "none"
    deformation: float = 0.0
    unseen: float = 0.0
    imbalance: float = 1.0
    snr: Range | None = None
    path: str = "tilt"
    others: tuple[tuple[str, Any], ...] = ()

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[\w.+-]+", self.name):
            raise InputError(f"Scenario.name: expected letters, digits and _.+- only, got '{self.name}'.")
        if self.processing not in PROCESSING:
            raise InputError(f"Scenario.processing: expected one of {', '.join(PROCESSING)}, got '{self.processing}'.")
        if self.path not in ("tilt", "transfer"):
            raise InputError(f"Scenario.path: expected tilt or transfer, got '{self.path}'.")

    def value(self, name: str, default: Any = 0.0) -> Any:
        """Value of a registered factor's setting; `default` where the scenario does not set it."""
        return dict(self.others).get(name, default)


def changed(base: Scenario, **changes: Any) -> Scenario:
    """Copy of `base` with changed fields. Names that `Scenario` does not have are settings of registered factors."""
    known = {field.name for field in fields(Scenario)}
    own = {name: value for name, value in changes.items() if name in known}
    others = {**dict(base.others), **{name: value for name, value in changes.items() if name not in known}}
    return replace(base, **{"others": tuple(sorted(others.items())), **own})


def _no_arguments(setting: Scenario, u: Sequence[float]) -> dict[str, Any]:
    return {}


def _same_volume(setting: Scenario, name: str, volume: Tensor, voxel_size: float) -> Tensor:
    return volume


def _same_subtomograms(setting: Scenario, x: Tensor, generator: torch.Generator) -> Tensor:
    return x


@dataclass(frozen=True)
class Factor:
    """One way in which a target can differ from the source: its three levels, and the code that applies them.

    Each function receives the scenario first and must change nothing for the settings of the source.

    Attributes
    ----------
    levels : settings of a `Scenario` at levels 1 to 3; names that `Scenario` does not have are read with
        `Scenario.value`
    optics : (scenario, u) -> fields of `optics.Optics` for one tomogram, from seven uniform random numbers u
    specimens : (scenario, u) -> keyword arguments of `specimens.specimens` for one tomogram
    structure : (scenario, name, volume, voxel_size) -> changed volume (n, n, n) of the molecule `name`, V
    subtomograms : (scenario, x, generator) -> changed x (N, 1, n, n, n) before normalisation; the generator is on the
        device of x
    """

    levels: tuple[Mapping[str, Any], Mapping[str, Any], Mapping[str, Any]]
    optics: Callable[[Scenario, Sequence[float]], dict[str, Any]] = _no_arguments
    specimens: Callable[[Scenario, Sequence[float]], dict[str, Any]] = _no_arguments
    structure: Callable[[Scenario, str, Tensor, float], Tensor] = _same_volume
    subtomograms: Callable[[Scenario, Tensor, torch.Generator], Tensor] = _same_subtomograms


def _between(limits: Range, u: float) -> float:
    return limits[0] + (limits[1] - limits[0]) * u


def _shrink(x: Tensor) -> Tensor:
    """`x` after smoothing and a local Wiener shrinkage, which keeps what exceeds the smoothed noise."""
    smooth = gaussian_low_pass(x, 1.0)
    power = smooth.square()
    return smooth * power / (power + power.mean((-3, -2, -1), keepdim=True))


# Filters of raw subtomograms (N, 1, n, n, n) that stand for the processing of a tomogram; sigmas in voxels.
PROCESSING: dict[str, Callable[[Tensor], Tensor]] = {
    "none": lambda x: x,
    "low-pass": lambda x: gaussian_low_pass(x, 0.5),
    "band-pass + clip": lambda x: normalize(gaussian_low_pass(x, 0.6) - gaussian_low_pass(x, 4.0)).clamp(-3, 3),
    "denoised": _shrink,
}


def deform(name: str, volume: Tensor, rms_voxels: float) -> Tensor:
    """`volume` (n, n, n) after a smooth, fixed deformation that stands for a homologue or another conformer.

    The displacement is a random field on a 4^3 grid, seeded by the class name, with `rms_voxels` along each axis. To
    simulate a particular homologue, give its coordinate file as a class instead.
    """
    seed = int.from_bytes(hashlib.sha256(name.encode()).digest()[:4], "little")
    coarse = torch.randn(1, 3, 4, 4, 4, generator=torch.Generator("cpu").manual_seed(seed), device="cpu")
    shift = F.interpolate(coarse, size=volume.shape, mode="trilinear", align_corners=True)
    shift = shift / shift.square().mean().sqrt() * rms_voxels * 2 / len(volume)
    grid = F.affine_grid(torch.eye(3, 4, device="cpu")[None], [1, 1, *volume.shape], align_corners=False)
    moved = grid + shift.permute(0, 2, 3, 4, 1)
    return F.grid_sample(volume.cpu()[None, None], moved, align_corners=False)[0, 0].to(volume.device)


def _tilts(setting: Scenario, u: Sequence[float]) -> dict[str, Any]:
    low, high, pretilt = setting.tilts
    if setting.half_angle:
        high = _between(setting.half_angle, u[4])
        low = -high
    return {"tilts": tilt_scheme(low, high, 3.0, pretilt)}


# The random numbers u[0] to u[5] are taken by the entries below; u[6] is free for a registered factor. The settings
# `extras`, `unseen` and `imbalance` choose molecules and labels, which `datasets` draws.
FACTORS: dict[str, Factor] = {
    "dose": Factor(
        (
            {"dose": (3.0, 3.0), "thickness": (100.0, 100.0)},
            {"dose": (1.5, 1.5), "thickness": (200.0, 200.0)},
            {"dose": (0.75, 0.75), "thickness": (300.0, 300.0)},
        ),
        optics=lambda s, u: {"dose_per_tilt": _between(s.dose, u[0]), "thickness": _between(s.thickness, u[1])},
    ),
    "defocus": Factor(
        (
            {"defocus": (2.0, 4.0), "amplitude_contrast": 0.07},
            {"defocus": (3.0, 6.0), "amplitude_contrast": 0.10},
            {"defocus": (0.5, 8.0), "amplitude_contrast": 0.15},
        ),
        optics=lambda s, u: {
            "defocus": _between(s.defocus, u[2]),
            "cs": _between(s.cs, u[3]),
            "amplitude_contrast": s.amplitude_contrast,
            "voltage": s.voltage,
        },
    ),
    "wedge": Factor(
        ({"tilts": (-60.0, 60.0, 0.0)}, {"tilts": (-50.0, 50.0, 0.0)}, {"tilts": (-60.0, 40.0, 15.0)}),
        optics=_tilts,
    ),
    "alignment": Factor(
        ({"misalignment": 2.5}, {"misalignment": 5.0}, {"misalignment": 10.0}),
        optics=lambda s, u: {"misalignment": s.misalignment},
    ),
    "crowding": Factor(
        ({"crowding": 0.1}, {"crowding": 0.2}, {"crowding": 0.3, "extras": ("membrane", "gold")}),
        specimens=lambda s, u: {"crowding": s.crowding},
    ),
    "noise": Factor(
        (
            {"noise_slope": 0.3, "structural_fraction": 0.1},
            {"noise_slope": 0.7, "structural_fraction": 0.25},
            {"noise_slope": 1.0, "structural_fraction": 0.5},
        ),
        optics=lambda s, u: {"noise_slope": s.noise_slope, "structural_fraction": s.structural_fraction},
    ),
    "picking": Factor(
        (
            {"pixel_error": 0.01, "offset": 1.0},
            {"pixel_error": 0.03, "offset": 2.0},
            {"pixel_error": 0.05, "offset": 4.0},
        ),
        specimens=lambda s, u: {"offset": s.offset, "scale": 1 + s.pixel_error * (2 * u[5] - 1)},
    ),
    "processing": Factor(
        ({"processing": "low-pass"}, {"processing": "band-pass + clip"}, {"processing": "denoised"}),
        subtomograms=lambda s, x, generator: PROCESSING[s.processing](x),
    ),
    "structure": Factor(
        ({}, {"deformation": 5.0}, {"deformation": 10.0, "unseen": 0.1}),
        structure=lambda s, name, volume, voxel_size: (
            deform(name, volume, s.deformation / voxel_size) if s.deformation else volume
        ),
    ),
    "prior": Factor(({}, {"imbalance": 3.0}, {"imbalance": 10.0})),
}
BUILTIN_FACTORS = tuple(FACTORS)
SCENARIOS: dict[str, Scenario] = {
    scenario.name: scenario
    for scenario in (
        Scenario("source", path="transfer"),
        # The published range of wedge half-angles, 0 to 50 degrees, is 90 minus the tilt; stages reach 80 degrees.
        Scenario(
            "paper", path="transfer", defocus=(0.0, 12.0), cs=(1.5, 3.0), half_angle=(40.0, 80.0), snr=(0.03, 10.0)
        ),
        # For experimental tomograms: wide ranges for all settings that are not known.
        Scenario("broad", path="transfer", defocus=(1.0, 8.0), half_angle=(45.0, 65.0), snr=(0.03, 3.0), offset=1.5),
        *(
            changed(Scenario(f"{name}_{level}"), **factor.levels[level - 1])
            for name, factor in FACTORS.items()
            for level in (1, 2, 3)
        ),
        *(
            changed(
                Scenario(f"in_situ_{level}"),
                **{key: value for factor in FACTORS.values() for key, value in factor.levels[level - 1].items()},
            )
            for level in (1, 2, 3)
        ),
    )
}


def register_factor(name: str, factor: Factor) -> None:
    """Add a factor to `FACTORS`; `scenario(f"{name}_1")` to `scenario(f"{name}_3")` exist from then on.

    Registering a name again replaces the earlier entry. The scenarios in_situ_1 to in_situ_3 do not change.

    Raises
    ------
    InputError
        `name` is one of the built-in factors, or `factor` does not have three levels.
    """
    if name in BUILTIN_FACTORS:
        raise InputError(f"Factor: expected a name other than the built-in {', '.join(BUILTIN_FACTORS)}, got '{name}'.")
    if len(factor.levels) != 3:
        raise InputError(f"Factor '{name}': expected three levels, got {len(factor.levels)}.")
    FACTORS[name] = factor


def scenario(name: str) -> Scenario:
    """The scenario called `name`.

    Raises
    ------
    InputError
        The name is unknown; the message lists the families of scenarios.
    """
    if name in SCENARIOS:
        return SCENARIOS[name]
    factor, _, level = name.rpartition("_")
    if factor in FACTORS and level in ("1", "2", "3"):
        return changed(Scenario(name), **FACTORS[factor].levels[int(level) - 1])
    registered = [f"{factor}_{level}" for factor in FACTORS if factor not in BUILTIN_FACTORS for level in (1, 2, 3)]
    raise InputError(
        f"Unknown scenario '{name}'{did_you_mean(name, [*SCENARIOS, *registered])} Expected source, paper, broad, "
        f"in_situ_1 to in_situ_3, or a factor with a level from 1 to 3, such as dose_2. Factors: {', '.join(FACTORS)}."
    )


def draw_optics(setting: Scenario, voxel_size: float, u: Sequence[float], tilt_axis: float = 0.0) -> Optics:
    """Optics of one tilt series of a scenario.

    Parameters
    ----------
    voxel_size : A
    u : seven uniform random numbers in [0, 1)
    tilt_axis : degrees, as in `optics.Optics`
    """
    drawn: dict[str, Any] = {}
    for factor in FACTORS.values():
        drawn |= factor.optics(setting, u)
    return Optics(voxel_size=voxel_size, tilt_axis=tilt_axis, **drawn)


def draw_labels(n: int, n_classes: int, imbalance: float, generator: torch.Generator) -> Tensor:
    """(n,) int64 labels in random order; class frequencies fall geometrically by a total factor of `imbalance`."""
    device = generator.device
    weight = imbalance ** -(torch.arange(n_classes, device=device) / max(1, n_classes - 1))
    counts = (weight / weight.sum() * n).floor().long()
    counts[: n - int(counts.sum())] += 1
    labels = torch.repeat_interleave(torch.arange(n_classes, device=device), counts)
    return labels[torch.randperm(n, generator=generator, device=device)]
