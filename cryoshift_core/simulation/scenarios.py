"""Scenarios: the settings of the source domain, and of targets that differ from it by known factors.

A scenario holds the ranges from which each simulated tomogram draws its settings. `FACTORS` lists the ways in which a
target can differ from the source, each at three levels. Scenarios with one factor are called ``<factor>_<level>``;
``in_situ_1`` to ``in_situ_3`` combine all ten factors at that level. Mixes have classes that are absent, or mostly
boxes without a particle: ``prior_absent`` and ``prior_background`` differ from the source in nothing else,
``in_situ_2_absent`` and ``in_situ_2_background`` in all that in_situ_2 changes. Targets are imaged tilt by tilt and the
source with the transfer function, so that the classifier is never trained with the simulator that it is tested on.
``foreign_1`` is imaged and reconstructed by another group's package (`foreign`).

The composites are frozen under a version: ``in_situ_2@2`` is what they were when results were measured. A name without
a version means the newest, and `Scenario.name` always carries it. A change of a factor needs a new `VERSION`.

``changed(scenario("in_situ_2"), name="thick", thickness=(250.0, 300.0))`` is a new scenario, which can be given to
`datasets.DatasetConfig` in place of a name. `register_factor` adds a factor, which is one entry of `FACTORS`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import torch
from scipy.ndimage import map_coordinates
from torch import Tensor

from ..errors import InputError
from ..fourier import gaussian_low_pass
from ..support.runtime import did_you_mean
from . import structures
from .optics import Optics, tilt_scheme

Range = tuple[float, float]
VERSION = 2  # of the composites; version 1 had other conformers, priors, unseen molecule and processing
PATHS = ("tilt", "transfer", "foreign")
FLOW_STEPS = 4  # of the integration of a deformation


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
    tilts : low, high, pretilt in degrees, in steps of 3 degrees; see `optics.Optics.pretilt`
    half_angle : degrees; draws a symmetric tilt range in place of `tilts`
    misalignment : sigma of the residual shift of tilt images, A
    crowding : volume fraction of neighbours
    extras : molecules that occur only as neighbours
    noise_slope : beta of a noise power that falls as k^-beta
    structural_fraction : fraction of the noise power that passed through the optics
    pixel_error : largest relative magnification error
    offset : largest picking error, voxels
    processing : a name of `PROCESSING`
    deformation : rms displacement of the structures along each axis, A; the conformer depends on seed and class
    unseen : fraction of subtomograms that show a molecule of no class, whose held-out label is UNKNOWN
    unseen_molecule : its name; "" for the one that `structures.unseen_molecule` gives for the seed
    imbalance : ratio of the most frequent to the rarest class; the seed decides which is which
    absent : fraction of the classes that do not occur, at least one where it is above 0; the seed decides which
    background : fraction of boxes without a particle; their label is that of the class "ice", or UNKNOWN without one
    snr : range of SNRs, drawn log-uniformly, that replaces the noise level of the dose
    path : the simulation that images targets: "tilt" or "transfer" (see `imaging`), or "foreign" (see `foreign`)
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
    unseen_molecule: str = ""
    imbalance: float = 1.0
    absent: float = 0.0
    background: float = 0.0
    snr: Range | None = None
    path: str = "tilt"
    others: tuple[tuple[str, Any], ...] = ()

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[\w.+@-]+", self.name):
            raise InputError(f"Scenario.name: expected letters, digits and _.+-@ only, got '{self.name}'.")
        if self.processing not in PROCESSING:
            raise InputError(f"Scenario.processing: expected one of {', '.join(PROCESSING)}, got '{self.processing}'.")
        if self.path not in PATHS:
            raise InputError(f"Scenario.path: expected one of {', '.join(PATHS)}, got '{self.path}'.")
        if not self.imbalance >= 1:
            raise InputError(f"Scenario.imbalance: expected a ratio of at least 1, got {self.imbalance}.")
        for name in ("unseen", "absent", "background"):
            if not 0 <= getattr(self, name) < 1:
                raise InputError(f"Scenario.{name}: expected 0 <= fraction < 1, got {getattr(self, name)}.")

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


def _same_volume(setting: Scenario, name: str, volume: Tensor, voxel_size: float, generator: torch.Generator) -> Tensor:
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
    structure : (scenario, name, volume, voxel_size, generator) -> changed volume (n, n, n) of the molecule `name`, V;
        the generator, on the CPU, depends on the seed and the name alone
    subtomograms : (scenario, x, generator) -> changed x (N, 1, n, n, n) before normalisation, where x are all
        subtomograms of one tomogram; the generator is on the device of x
    """

    levels: tuple[Mapping[str, Any], Mapping[str, Any], Mapping[str, Any]]
    optics: Callable[[Scenario, Sequence[float]], dict[str, Any]] = _no_arguments
    specimens: Callable[[Scenario, Sequence[float]], dict[str, Any]] = _no_arguments
    structure: Callable[[Scenario, str, Tensor, float, torch.Generator], Tensor] = _same_volume
    subtomograms: Callable[[Scenario, Tensor, torch.Generator], Tensor] = _same_subtomograms


def _between(limits: Range, u: float) -> float:
    return limits[0] + (limits[1] - limits[0]) * u


def _filtered(x: Tensor, function: Callable[[Tensor], Tensor]) -> Tensor:
    """`function` of x (N, 1, n, n, n), a few subtomograms at a time, because transforms take memory."""
    return torch.cat([function(part) for part in x.split(64)])


def _clip(x: Tensor) -> Tensor:
    """x after a band-pass, from -3 to 3 robust standard deviations of all its voxels together."""
    x = _filtered(x, lambda part: gaussian_low_pass(part, 0.6) - gaussian_low_pass(part, 4.0))
    sample = x.flatten()[:: max(1, x.numel() // 1_000_000) | 1]  # an odd stride meets every column of an even box
    centred = sample - sample.median()
    return ((x - sample.median()) / (1.4826 * centred.abs().median()).clamp_min(1e-30)).clamp(-3, 3)


def _shrink(x: Tensor) -> Tensor:
    """x after smoothing and a Wiener shrinkage, which keeps what exceeds the mean power of all its voxels together."""
    smooth = _filtered(x, lambda part: gaussian_low_pass(part, 1.0))
    power = smooth.square()
    return smooth * power / (power + power.mean()).clamp_min(1e-30)


# Filters of the raw subtomograms (N, 1, n, n, n) of one tomogram; sigmas in voxels. They stand for the processing of
# the whole tomogram: their scale is measured on all subtomograms together, and after the linear filter each grey value
# is mapped by one increasing function. So the ranks of grey values stay the same, between subtomograms too. A scale of
# each box would divide out how dense its particle is, which no processing of a tomogram does.
PROCESSING: dict[str, Callable[[Tensor], Tensor]] = {
    "none": lambda x: x,
    "low-pass": lambda x: _filtered(x, lambda part: gaussian_low_pass(part, 0.5)),
    "band-pass + clip": _clip,
    "denoised": _shrink,
}


def deform(volume: Tensor, rms_voxels: float, generator: torch.Generator) -> Tensor:
    """`volume` (n, n, n) after a smooth random deformation that stands for a homologue or another conformer.

    The molecule flows along v(x) = sum_m k_m x a_m cos(k_m x + phase_m), the curl of a random vector potential. Its
    divergence is 0, so volume and mass are conserved at any amplitude. The wavelengths are one to two diameters of the
    molecule. Translation and rotation are removed, as in an RMSD after superposition, and the centre of mass stays
    where it was. To simulate a particular homologue, give its coordinate file as a class instead.

    Parameters
    ----------
    volume : potential, V
    rms_voxels : root-mean-square displacement along each axis, weighted by mass
    generator : on the CPU; draws the deformation
    """
    v = volume.detach().cpu().double().numpy()
    directions, potentials = torch.randn(2, 12, 3, generator=generator, dtype=torch.float64, device="cpu").numpy()
    u, phase = torch.rand(2, 12, generator=generator, dtype=torch.float64, device="cpu").numpy()
    if rms_voxels == 0 or not (v > 0).any():
        return volume.clone()
    middle = np.array([n // 2 for n in v.shape])
    x = np.indices(v.shape).reshape(3, -1).T - middle.astype(float)
    weight = v.clip(min=0).ravel() / v.clip(min=0).sum()
    centre = v.ravel() @ x / v.sum()
    about = x - centre
    spread = weight @ (about**2).sum(1)
    inertia = spread * np.eye(3) - np.einsum("n,ni,nj->ij", weight, about, about)
    diameter = 2 * np.sqrt(5 / 3 * spread)  # of the homogeneous ball with this radius of gyration
    wave = directions / np.linalg.norm(directions, axis=1, keepdims=True)
    wave *= 2 * np.pi / (diameter * (1 + u))[:, None]
    curl = np.cross(wave, potentials)

    def waves(points: np.ndarray) -> np.ndarray:
        return np.cos(points @ wave.T + phase) @ curl

    field = waves(x)
    mean = weight @ field
    spin = np.linalg.solve(inertia, weight @ np.cross(about, field - mean))

    def flow(points: np.ndarray) -> np.ndarray:
        return waves(points) - mean - np.cross(spin, points - centre)

    step = rms_voxels / np.sqrt((weight @ flow(x) ** 2).mean()) / FLOW_STEPS
    origin = x
    for _ in range(FLOW_STEPS):  # back along the flow to where the matter at x came from, by the midpoint rule
        origin = origin - step * flow(origin - step / 2 * flow(origin))
    moved = v
    for _ in range(3):  # at large amplitudes the flow moves the centre a little; the matter is put back before it flows
        moved = map_coordinates(v, (origin + middle).T.reshape(3, *v.shape), order=3, mode="constant")
        origin = origin + moved.ravel() @ x / moved.sum() - centre
    return torch.from_numpy(moved).to(volume)


def _tilts(setting: Scenario, u: Sequence[float]) -> dict[str, Any]:
    low, high, pretilt = setting.tilts
    if setting.half_angle:
        high = _between(setting.half_angle, u[4])
        low = -high
    return {"tilts": tilt_scheme(low, high, 3.0, pretilt), "pretilt": pretilt}


def _conformer(setting: Scenario, name: str, volume: Tensor, voxel_size: float, generator: torch.Generator) -> Tensor:
    """`volume` deformed; a membrane has a random shape of its own already, and gold none that varies."""
    if not setting.deformation or name in (*structures.PROCEDURAL, "gold"):
        return volume
    return deform(volume, setting.deformation / voxel_size, generator)


# The random numbers u[0] to u[5] are taken by the entries below; u[6] is free for a registered factor. The settings
# `extras`, `unseen`, `imbalance`, `absent` and `background` choose molecules and labels, which `datasets` draws.
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
        # A lamella milled at 15 degrees is level at a stage tilt of -15: -60 to 40 is -45 to 55 about its normal.
        ({"tilts": (-60.0, 60.0, 0.0)}, {"tilts": (-50.0, 50.0, 0.0)}, {"tilts": (-60.0, 40.0, -15.0)}),
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
        structure=_conformer,
    ),
    "prior": Factor(({}, {"imbalance": 3.0}, {"imbalance": 10.0})),
}
BUILTIN_FACTORS = tuple(FACTORS)
# Class mixes as tomograms have them: a third of the classes that a user has in mind is not there, or most boxes show no
# particle at all.
MIXES: dict[str, dict[str, Any]] = {"absent": {"absent": 1 / 3}, "background": {"background": 0.8}}
_COMPOSITES = tuple(
    changed(
        Scenario(f"in_situ_{level}@{VERSION}"),
        **{key: value for factor in FACTORS.values() for key, value in factor.levels[level - 1].items()},
    )
    for level in (1, 2, 3)
)
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
        *(changed(Scenario(f"prior_{name}"), **mix) for name, mix in MIXES.items()),
        *_COMPOSITES,
        *(changed(_COMPOSITES[1], name=f"in_situ_2_{name}@{VERSION}", **mix) for name, mix in MIXES.items()),
        Scenario(
            "foreign_1", path="foreign", defocus=(2.0, 5.0), tilts=(-54.0, 54.0, 0.0), snr=(0.05, 0.3), offset=1.0
        ),
    )
}
SCENARIOS |= {name.partition("@")[0]: scenario for name, scenario in SCENARIOS.items()}


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
    """The scenario called `name`; a composite without a version, such as in_situ_2, is its newest version.

    Raises
    ------
    InputError
        The name is unknown, and the message lists the families of scenarios; or its version cannot be simulated.
    """
    if name in SCENARIOS:
        return SCENARIOS[name]
    base, at, version = name.partition("@")
    if at and base in SCENARIOS:
        newest = SCENARIOS[base].name
        raise InputError(
            f"Scenario '{base}': expected version {newest.partition('@')[2] or 'none'}, got '{version}', which this "
            f"code cannot simulate. Use '{newest}', or the code that measured version {version}."
        )
    factor, _, level = name.rpartition("_")
    if factor in FACTORS and level in ("1", "2", "3"):
        return changed(Scenario(name), **FACTORS[factor].levels[int(level) - 1])
    registered = [f"{factor}_{level}" for factor in FACTORS if factor not in BUILTIN_FACTORS for level in (1, 2, 3)]
    raise InputError(
        f"Unknown scenario '{name}'{did_you_mean(name, [*SCENARIOS, *registered])} Expected source, paper, broad, "
        "foreign_1, in_situ_1 to in_situ_3, prior or in_situ_2 with _absent or _background, or a factor with a level "
        f"from 1 to 3, such as dose_2. Factors: {', '.join(FACTORS)}."
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


def draw_classes(setting: Scenario, n_classes: int, generator: torch.Generator) -> Tensor:
    """Classes that occur in a target, from the most frequent to the rarest, (<= n_classes,) int64.

    They are a random permutation, without the fraction `Scenario.absent`: at least one class is absent where it is
    above 0, and at least one is present.
    """
    order = torch.randperm(n_classes, generator=generator, device=generator.device)
    absent = min(n_classes - 1, max(1, round(setting.absent * n_classes))) if setting.absent else 0
    return order[: n_classes - absent]


def draw_labels(
    n: int, n_classes: int, imbalance: float, generator: torch.Generator, order: Tensor | None = None
) -> Tensor:
    """(n,) int64 labels in random order; class frequencies fall geometrically by a total factor of `imbalance`.

    Parameters
    ----------
    n_classes : number of classes
    imbalance : ratio of the most frequent to the rarest class
    order : the classes that occur, from the most frequent to the rarest; None for all of them, class 0 first
    """
    device = generator.device
    order = torch.arange(n_classes, device=device) if order is None else order.to(device)
    present = len(order)
    weight = imbalance ** -(torch.arange(present, device=device) / max(1, present - 1))
    counts = (weight / weight.sum() * n).floor().long()
    counts[: n - int(counts.sum())] += 1
    return torch.repeat_interleave(order, counts)[torch.randperm(n, generator=generator, device=device)]
