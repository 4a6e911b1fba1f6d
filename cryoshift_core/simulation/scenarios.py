"""Named domains: what the source is simulated with, and by how much each target differs from it.

A scenario is level 0 (the source's own setting) with some factors raised. Single-factor scenarios are called
``<factor>_<level>``; ``in_situ_1`` to ``in_situ_3`` raise all factors to that level. Targets are imaged by the tilt
path and the source by the transfer path, so the classifier never sees the simulator that it is tested on.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from tqdm import tqdm

from .. import data
from ..data import UNKNOWN, HeldOutLabels, Labelled, Unlabelled, normalize
from ..errors import InputError
from . import imaging, specimens, structures
from .optics import Optics, tilt_scheme

Range = tuple[float, float]


@dataclass(frozen=True)
class Scenario:
    """Ranges from which each simulated tomogram draws its setting (uniformly), and what its cubes share.

    Attributes
    ----------
    dose, thickness : e/A^2 per tilt; nm
    defocus, amplitude_contrast : um, underfocus positive; fraction
    tilts : low, high, pretilt in degrees, 3 degrees apart; `half_angle` draws a symmetric range instead
    misalignment : sigma of the residual tilt-image shift, A
    crowding, extras : volume fraction of neighbours; what stands among them beside the classes
    noise_slope, structural_fraction : colour of the noise; its share that passed the optics
    pixel_error, offset : largest relative magnification error; largest picking error in voxels
    processing : a name of `PROCESSING`
    deformation, unseen : A, rms displacement of the target's structures; share of cubes of `UNSEEN`
    imbalance : most frequent to rarest class
    snr : log-uniform range that replaces the dose's noise level
    path : "tilt" or "transfer"
    """

    dose: Range = (3.0, 3.5)
    thickness: Range = (60.0, 100.0)
    defocus: Range = (2.0, 4.0)
    amplitude_contrast: float = 0.07
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


UNSEEN = "subunit_50S"  # stands for a molecule that nobody simulated; its answer is "none of these"
FACTORS: dict[str, tuple[dict, dict, dict]] = {
    "dose": (
        {"dose": (3.0, 3.0), "thickness": (100.0, 100.0)},
        {"dose": (1.5, 1.5), "thickness": (200.0, 200.0)},
        {"dose": (0.75, 0.75), "thickness": (300.0, 300.0)},
    ),
    "defocus": (
        {"defocus": (2.0, 4.0), "amplitude_contrast": 0.07},
        {"defocus": (3.0, 6.0), "amplitude_contrast": 0.10},
        {"defocus": (0.5, 8.0), "amplitude_contrast": 0.15},
    ),
    "wedge": ({"tilts": (-60.0, 60.0, 0.0)}, {"tilts": (-50.0, 50.0, 0.0)}, {"tilts": (-60.0, 40.0, 15.0)}),
    "alignment": ({"misalignment": 2.5}, {"misalignment": 5.0}, {"misalignment": 10.0}),
    "crowding": ({"crowding": 0.1}, {"crowding": 0.2}, {"crowding": 0.3, "extras": ("membrane", "gold")}),
    "noise": (
        {"noise_slope": 0.3, "structural_fraction": 0.1},
        {"noise_slope": 0.7, "structural_fraction": 0.25},
        {"noise_slope": 1.0, "structural_fraction": 0.5},
    ),
    "picking": (
        {"pixel_error": 0.01, "offset": 1.0},
        {"pixel_error": 0.03, "offset": 2.0},
        {"pixel_error": 0.05, "offset": 4.0},
    ),
    "processing": ({"processing": "low-pass"}, {"processing": "band-pass + clip"}, {"processing": "denoised"}),
    "structure": ({}, {"deformation": 5.0}, {"deformation": 10.0, "unseen": 0.1}),
    "prior": ({}, {"imbalance": 3.0}, {"imbalance": 10.0}),
}
SCENARIOS: dict[str, Scenario] = {
    "source": Scenario(path="transfer"),
    # the published wedge half-angle of 0 to 50 degrees, as far as stages tilt: 90 less that, at most 80
    "paper": Scenario(path="transfer", defocus=(0.0, 12.0), cs=(1.5, 3.0), half_angle=(40.0, 80.0), snr=(0.03, 10.0)),
    # what to simulate for somebody else's tomogram: wide in all that is not known
    "broad": Scenario(path="transfer", defocus=(1.0, 8.0), half_angle=(45.0, 65.0), snr=(0.03, 3.0), offset=1.5),
    **{f"{name}_{i + 1}": Scenario(**level) for name, levels in FACTORS.items() for i, level in enumerate(levels)},
    **{
        f"in_situ_{i + 1}": Scenario(**{key: value for levels in FACTORS.values() for key, value in levels[i].items()})
        for i in range(3)
    },
}


def scenario(name: str) -> Scenario:
    """A scenario by name; an unknown name raises InputError with the list."""
    if name not in SCENARIOS:
        raise InputError(f"Unknown scenario '{name}'; known: {', '.join(SCENARIOS)}.")
    return SCENARIOS[name]


def _gaussian_low_pass(x: Tensor, sigma: float) -> Tensor:
    k = [f(x.shape[-1], device=x.device).square() for f in (torch.fft.fftfreq, torch.fft.fftfreq, torch.fft.rfftfreq)]
    k2 = k[0][:, None, None] + k[1][:, None] + k[2]
    gain = torch.exp(-2 * (torch.pi * sigma) ** 2 * k2)
    return torch.fft.irfftn(torch.fft.rfftn(x, dim=(-3, -2, -1)) * gain, s=x.shape[-3:], dim=(-3, -2, -1))


def _shrink(x: Tensor) -> Tensor:
    """Keep what stands out of a cube's own smoothed noise (a local Wiener shrinkage)."""
    smooth = _gaussian_low_pass(x, 1.0)
    power = smooth.square()
    return smooth * power / (power + power.mean((-3, -2, -1), keepdim=True))


PROCESSING = {
    "none": lambda x: x,
    "low-pass": lambda x: _gaussian_low_pass(x, 0.5),
    "band-pass + clip": lambda x: normalize(_gaussian_low_pass(x, 0.6) - _gaussian_low_pass(x, 4.0)).clamp(-3, 3),
    "denoised": _shrink,
}


def deform(name: str, volume: Tensor, rms_voxels: float) -> Tensor:
    """A smooth, fixed deformation of a structure: a stand-in for a homologue or another conformer.

    The displacement is a random field on a 4^3 grid, seeded by the class name, with `rms_voxels` along each axis. It is
    *not* another PDB entry: give one as a class to have that.
    """
    seed = int.from_bytes(hashlib.sha256(name.encode()).digest()[:4], "little")
    coarse = torch.randn(1, 3, 4, 4, 4, generator=torch.Generator().manual_seed(seed))
    shift = F.interpolate(coarse, size=volume.shape, mode="trilinear", align_corners=True)
    shift = shift / shift.square().mean().sqrt() * rms_voxels * 2 / len(volume)
    grid = F.affine_grid(torch.eye(3, 4)[None], [1, 1, *volume.shape], align_corners=False)
    moved = grid + shift.permute(0, 2, 3, 4, 1)
    return F.grid_sample(volume.cpu()[None, None], moved, align_corners=False)[0, 0].to(volume.device)


@dataclass(frozen=True)
class DatasetConfig:
    """What a domain is made of: together with the seed it determines every number.

    Attributes
    ----------
    scenario : name
    classes : built-in names or files
    n : cubes
    box, voxel_size : voxels, A
    split : "source", "validation", "train", "test" or "background" (no particle in the middle); parts share no tomogram,
        pose or noise
    tomograms : how many settings are drawn
    tilt_axis : as in `optics.Optics`, degrees
    """

    scenario: str
    classes: tuple[str, ...]
    n: int
    box: int
    voxel_size: float
    split: str
    tomograms: int = 8
    seed: int = 0
    tilt_axis: float = 0.0

    @classmethod
    def of(cls, profile: Any, scenario: str, split: str, seed: int = 0) -> DatasetConfig:
        """The config that a profile (of `parameters.PROFILES`) makes for one part of a scenario."""
        n, most = {
            "source": (profile.n_source, 24),
            "validation": (profile.n_validation, 8),
            "train": (profile.n_target, 8),
            "test": (profile.n_test, 4),
            "background": (profile.n_test // 2, 4),
        }[split]
        tomograms = max(2, min(most, n // 20))
        return cls(scenario, profile.classes, n, profile.box, profile.voxel_size, split, tomograms, seed)

    @property
    def file_name(self) -> str:
        files = [hashlib.sha256(Path(c).read_bytes()).hexdigest() for c in self.classes if Path(c).is_file()]
        mine = {name: value for name, value in asdict(self).items() if name != "tilt_axis" or value}
        what = json.dumps([mine, asdict(scenario(self.scenario)), *files], sort_keys=True)
        digest = hashlib.sha256(what.encode()).hexdigest()[:10]
        return f"{self.scenario}_{self.split}_{self.n}x{self.box}_seed{self.seed}_{digest}"


def _generator(config: DatasetConfig, purpose: str, device: str | torch.device = "cpu") -> torch.Generator:
    """Pairs levels: the same seed, part and purpose give the same draws in every scenario."""
    digest = hashlib.sha256(f"{config.seed}/{config.split}/{purpose}".encode()).digest()
    return torch.Generator(device).manual_seed(int.from_bytes(digest[:7], "little"))


def draw_optics(setting: Scenario, voxel_size: float, u: Sequence[float], tilt_axis: float = 0.0) -> Optics:
    """One tilt series of a scenario from seven uniform numbers in [0, 1)."""
    between = [low + (high - low) * v for (low, high), v in zip((setting.dose, setting.thickness), u, strict=False)]
    low, high, pretilt = setting.tilts
    if setting.half_angle:
        high = setting.half_angle[0] + (setting.half_angle[1] - setting.half_angle[0]) * u[4]
        low = -high
    return Optics(
        voxel_size=voxel_size,
        dose_per_tilt=between[0],
        thickness=between[1],
        defocus=setting.defocus[0] + (setting.defocus[1] - setting.defocus[0]) * u[2],
        cs=setting.cs[0] + (setting.cs[1] - setting.cs[0]) * u[3],
        amplitude_contrast=setting.amplitude_contrast,
        tilts=tilt_scheme(low, high, 3.0, pretilt),
        tilt_axis=tilt_axis,
        misalignment=setting.misalignment,
        noise_slope=setting.noise_slope,
        structural_fraction=setting.structural_fraction,
    )


def draw_labels(n: int, n_classes: int, imbalance: float, generator: torch.Generator) -> Tensor:
    """(n,) labels in random order, class frequencies falling geometrically from `imbalance` to 1."""
    weight = imbalance ** -(torch.arange(n_classes) / max(1, n_classes - 1))
    counts = (weight / weight.sum() * n).floor().long()
    counts[: n - int(counts.sum())] += 1
    labels = torch.repeat_interleave(torch.arange(n_classes), counts)
    return labels[torch.randperm(n, generator=generator)]


def simulate(
    config: DatasetConfig, *, device: str | torch.device = "cpu", progress: bool = True
) -> Labelled | Unlabelled | tuple[Unlabelled, HeldOutLabels]:
    """Simulate a domain.

    Returns
    -------
    Labelled for the parts "source" and "validation"; (Unlabelled, HeldOutLabels) for "train" and "test"; for "background"
    Unlabelled cubes imaged as the scenario's target is, neighbours and all, with room for a particle in the middle

    Raises
    ------
    InputError
        no classes, fewer cubes than classes, an unknown scenario, a structure larger than the box
    """
    setting = scenario(config.scenario)
    classes, K = config.classes, len(config.classes)
    if K < 1 or config.n < K:
        raise InputError(f"{config.n} cubes of {K} classes; wanted at least one class and one cube of each.")
    unseen = (UNSEEN,) if setting.unseen > 0 else ()
    bank = specimens.templates(
        classes,
        config.voxel_size,
        config.box,
        generator=_generator(config, "templates", device),
        extras=(*setting.extras, *unseen),
        change=lambda name, v: deform(name, v, setting.deformation / config.voxel_size) if setting.deformation else v,
    )
    y = draw_labels(config.n, K, setting.imbalance, _generator(config, "labels"))
    if unseen:
        y[torch.rand(config.n, generator=_generator(config, "unseen")) < setting.unseen] = len(bank.names) - 1
    if config.split == "background":
        y[:] = UNKNOWN
    groups = torch.arange(config.n) * config.tomograms // config.n
    image = {"tilt": imaging.image_by_tilt_series, "transfer": imaging.image_by_transfer}[setting.path]
    if config.split in ("source", "validation"):
        image = imaging.image_by_transfer
    x = torch.empty(config.n, 1, *(config.box,) * 3)
    snr = torch.empty(config.n)
    label = f"simulate {config.scenario} ({config.split})"
    bar = tqdm(total=config.n, desc=label, disable=not progress, mininterval=2, file=sys.stdout, ncols=88, unit="cube")
    for t in groups.unique().tolist():
        here = (groups == t).nonzero()[:, 0]
        g = {p: _generator(config, f"{p}/{t}", device) for p in ("poses", "noise")}
        u = torch.rand(7, generator=_generator(config, f"optics/{t}")).tolist()
        optics = draw_optics(setting, config.voxel_size, u, config.tilt_axis)
        specimen = specimens.specimens(
            y[here],
            bank,
            generator=g["poses"],
            offset=setting.offset,
            crowding=setting.crowding,
            extras=[bank.names.index(e) for e in setting.extras],
            scale=1 + setting.pixel_error * (2 * u[5] - 1),
        )
        level = None
        if setting.snr:
            low, high = setting.snr
            v = torch.rand(len(here), generator=_generator(config, f"snr/{t}")).to(g["noise"].device)
            level = low * (high / low) ** v
        for start in range(0, len(here), 64):
            part = slice(start, start + 64)
            few = level[part] if level is not None else None
            cubes = image(specimen[part], bank, optics, generator=g["noise"], snr=few)
            x[here[part]] = normalize(PROCESSING[setting.processing](cubes.x)).cpu()
            snr[here[part]] = cubes.snr.cpu()
            bar.update(len(cubes.x))
    bar.close()
    names = tuple(structures.class_name(c) for c in classes)
    if config.split in ("source", "validation"):
        return Labelled(x, y, names, config.voxel_size, snr, groups)
    if config.split == "background":
        return Unlabelled(x, config.voxel_size, groups, config.scenario)
    y = torch.where(y < K, y, UNKNOWN)
    return Unlabelled(x, config.voxel_size, groups, config.scenario), HeldOutLabels(y, names, snr)


def load_or_simulate(
    config: DatasetConfig, folder: Path, **options
) -> Labelled | Unlabelled | tuple[Unlabelled, HeldOutLabels]:
    """`make`, kept in `folder` as safetensors; the answer key of a target lies in a file of its own."""
    kinds = {"train": (Unlabelled, HeldOutLabels), "test": (Unlabelled, HeldOutLabels), "background": (Unlabelled,)}
    kinds = kinds.get(config.split, (Labelled,))
    paths = [folder / f"{config.file_name}{end}.safetensors" for end in ("", ".key")[: len(kinds)]]
    if not all(path.exists() for path in paths):
        made = simulate(config, **options)
        for path, domain in zip(paths, made if len(kinds) > 1 else (made,), strict=True):
            data.save(path, domain)
        return made
    loaded = tuple(data.load(path, kind) for path, kind in zip(paths, kinds, strict=True))
    return loaded if len(kinds) > 1 else loaded[0]
