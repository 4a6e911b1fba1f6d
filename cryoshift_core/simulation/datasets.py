"""Simulated datasets: source, target and particle-free background, in memory or kept in a folder.

A `DatasetConfig` determines every number of a dataset. With a folder, a dataset is loaded if it is there and simulated
and saved otherwise. The file name contains a digest of the configuration, of structure files and of the simulation's
code, so that a change of any of them leads to new data.

The labels of a target are never returned together with its subtomograms. They are written to a file of their own
(``*.labels.safetensors``), which `load_labels` alone opens.
"""

from __future__ import annotations

import hashlib
import json
import logging
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from filelock import FileLock
from torch import Tensor
from tqdm import tqdm

from .. import data
from ..data import UNKNOWN, HeldOutLabels, Labelled, Unlabelled, normalize
from ..errors import InputError
from ..fourier import Device
from ..support import runtime
from ..support.streamed import StreamedBoxes
from . import foreign, imaging, scenarios, specimens, structures
from .class_files import class_file
from .optics import Optics
from .scenarios import FACTORS, Scenario

LOG = logging.getLogger("cryoshift_core")
TOGETHER = 8  # subtomograms of a streamed source that share a tilt series
BATCH = 64  # subtomograms that are imaged, filtered and normalised together
# split -> the function that simulates it, and the largest automatic number of tomograms
SPLITS = {
    "source": ("simulate_source", 24),
    "validation": ("simulate_source", 8),
    "train": ("simulate_target", 8),
    "test": ("simulate_target", 4),
    "background": ("simulate_background", 4),
}


def _check_split(split: str, *expected: str, function: str = "") -> None:
    if split not in expected:
        names = " or ".join(filter(None, (", ".join(expected[:-1]), expected[-1])))
        use = f" Use {SPLITS[split][0]} for it." if split in SPLITS else ""
        raise InputError(f"{function or 'Dataset'}: expected split {names}, got '{split}'.{use}")


@dataclass(frozen=True)
class DatasetConfig:
    """Configuration of a simulated dataset. Together with the code it determines every number.

    Attributes
    ----------
    scenario : name of a scenario, or a `Scenario`
    classes : built-in names, or PDB, mmCIF or MRC files; any sequence, kept as a tuple
    n : number of subtomograms
    box, voxel_size : voxels per edge, A per voxel
    split : "source" or "validation" of the source domain; "train", "test" or "background" of a target. Splits share no
        tomogram, pose or noise
    tomograms : number of tilt series, each with its own settings; 0 for 1 per 20 subtomograms, at least 2 and at most
        24 (source), 8 (validation, train) or 4 (test, background)
    seed : the same seed and split give the same molecules and poses in every scenario
    tilt_axis : degrees, as in `optics.Optics`

    Raises
    ------
    InputError
        The split is unknown.
    """

    scenario: str | Scenario
    classes: Sequence[str]
    n: int
    box: int
    voxel_size: float
    split: str
    tomograms: int = 0
    seed: int = 0
    tilt_axis: float = 0.0

    def __post_init__(self) -> None:
        _check_split(self.split, *SPLITS)
        classes = (self.classes,) if isinstance(self.classes, str) else tuple(str(c) for c in self.classes)
        object.__setattr__(self, "classes", classes)
        if not self.tomograms:
            object.__setattr__(self, "tomograms", max(2, min(SPLITS[self.split][1], self.n // 20)))

    @classmethod
    def of(cls, profile: Any, scenario: str | Scenario, split: str, seed: int = 0) -> DatasetConfig:
        """The configuration of one split of a scenario in the size that a profile sets."""
        _check_split(split, *SPLITS)
        n = {
            "source": profile.n_source,
            "validation": profile.n_validation,
            "train": profile.n_target,
            "test": profile.n_test,
            "background": profile.n_test // 2,
        }[split]
        return cls(scenario, profile.classes, n, profile.box, profile.voxel_size, split, seed=seed)

    @property
    def setting(self) -> Scenario:
        """The scenario itself; InputError where its name is unknown."""
        return self.scenario if isinstance(self.scenario, Scenario) else scenarios.scenario(self.scenario)

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names of the classes, in label order."""
        return tuple(structures.class_name(c) for c in self.classes)

    @property
    def extras(self) -> tuple[str, ...]:
        """The scenario's molecules that stand beside the particles and are no class."""
        return tuple(e for e in self.setting.extras if structures.class_name(e) not in self.class_names)

    @property
    def file_name(self) -> str:
        """Name, without extension, of the files in which the dataset is kept."""
        setting = self.setting
        molecules = map(class_file, (*self.classes, *self.extras, setting.unseen_molecule))
        files = [runtime.file_digest(path) for path in molecules if path]
        code = [
            runtime.code_digest("simulation", "fourier", "data", "support.order", "tomography.mrc", "tomography.em")
        ]
        for name, factor in FACTORS.items():
            if name not in scenarios.BUILTIN_FACTORS:
                parts = (factor.optics, factor.specimens, factor.structure, factor.subtomograms)
                if {key for level in factor.levels for key in level} & dict(setting.others).keys():
                    code += [runtime.function_digest(part) for part in parts]
        text = json.dumps([{**asdict(self), "scenario": asdict(setting)}, *files, *code], sort_keys=True)
        digest = hashlib.sha256(text.encode()).hexdigest()[:10]
        return f"{setting.name}_{self.split}_{self.n}x{self.box}_seed{self.seed}_{digest}"


def simulate_source(
    config: DatasetConfig, *, folder: str | Path | None = None, device: Device = "cpu", progress: bool = True
) -> Labelled:
    """Labelled subtomograms of the split "source" or "validation", normalised, on the CPU.

    Parameters
    ----------
    config : what to simulate
    folder : where the dataset is kept; None does not touch the disk
    device : where to compute, "auto" for a GPU if there is one. Each kind of device draws its own noise. Apple's MPS
        lacks sparse matrices, so the CPU is used there
    progress : show a progress bar

    Raises
    ------
    InputError
        The split or the scenario is unknown, there are no classes or fewer subtomograms than classes, a structure is
        unreadable or larger than the box.
    """
    _check_split(config.split, "source", "validation", function="simulate_source")
    with _alone(path := _path(config, folder, device)):
        if path is not None and path.is_file():
            LOG.info("loaded from %s", path)
            return data.load(path, Labelled)
        made = _simulate(config, device, progress)
        dataset = Labelled(made.x, made.y, config.class_names, config.voxel_size, made.snr, made.groups)
        if path is not None:
            data.save(path, dataset)
        return dataset


def simulate_target(
    config: DatasetConfig, *, folder: str | Path | None = None, device: Device = "cpu", progress: bool = True
) -> Unlabelled:
    """Unlabelled subtomograms of the split "train" or "test"; arguments and errors as `simulate_source`.

    With a folder, the labels are saved to a file of their own, for `load_labels`.
    """
    _check_split(config.split, "train", "test", function="simulate_target")
    with _alone(path := _path(config, folder, device)):
        if path is not None and path.is_file() and _labels_path(path).is_file():
            LOG.info("loaded from %s", path)
            return data.load(path, Unlabelled)
        made = _simulate(config, device, progress)
        dataset = Unlabelled(made.x, config.voxel_size, made.groups, config.setting.name)
        if path is not None:
            data.save(_labels_path(path), HeldOutLabels(_without_extras(made.y, config), config.class_names, made.snr))
            data.save(path, dataset)
        return dataset


def simulate_background(
    config: DatasetConfig, *, folder: str | Path | None = None, device: Device = "cpu", progress: bool = True
) -> Unlabelled:
    """Particle-free subtomograms of the split "background"; arguments and errors as `simulate_source`.

    They are imaged as the scenario's target is, with neighbours, and have room for a particle in the centre.
    """
    _check_split(config.split, "background", function="simulate_background")
    with _alone(path := _path(config, folder, device)):
        if path is not None and path.is_file():
            LOG.info("loaded from %s", path)
            return data.load(path, Unlabelled)
        made = _simulate(config, device, progress)
        dataset = Unlabelled(made.x, config.voxel_size, made.groups, config.setting.name)
        if path is not None:
            data.save(path, dataset)
        return dataset


def load_labels(
    config: DatasetConfig, *, folder: str | Path | None = None, device: Device = "cpu", progress: bool = True
) -> HeldOutLabels:
    """Held-out labels of the target that `simulate_target` returns for the same arguments; for evaluation only.

    With a folder they are read from the target's label file, which holds the realised SNRs; the target is simulated
    first if it is not there. Without a folder they are drawn again from the seed, without SNRs.
    """
    _check_split(config.split, "train", "test", function="load_labels")
    path = _path(config, folder, device)
    if path is None:
        return HeldOutLabels(_without_extras(_draw_labels(config), config), config.class_names)
    if not (path.is_file() and _labels_path(path).is_file()):
        simulate_target(config, folder=folder, device=device, progress=progress)
    # Python's own open() raises the audit event by which a test sees who reads labels; safetensors' reader does not.
    content = safetensors.torch.load(_labels_path(path).read_bytes())
    return HeldOutLabels(content["y"], config.class_names, content["snr"])


def _path(config: DatasetConfig, folder: str | Path | None, device: Device) -> Path | None:
    if folder is None:
        return None
    kind = _device(device).type
    return Path(folder) / f"{config.file_name}{'' if kind == 'cpu' else f'_{kind}'}.safetensors"


@contextmanager
def _alone(path: Path | None) -> Iterator[None]:
    """Only one process at a time is in this block for the same file; the others wait. No lock for None."""
    if path is None:
        yield
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(path.with_suffix(".lock")):
        yield


def _labels_path(path: Path) -> Path:
    return path.with_suffix(".labels.safetensors")


def _device(name: Device) -> torch.device:
    """Device that computes: MPS has no sparse matrices, which the tilt-series simulation needs."""
    device = runtime.pick_device(name)
    return torch.device("cpu") if device.type == "mps" else device


def _generator(config: DatasetConfig, purpose: str, device: Device = "cpu") -> torch.Generator:
    """Generator that depends on seed, split and purpose only, so that all scenarios get the same draws."""
    digest = hashlib.sha256(f"{config.seed}/{config.split}/{purpose}".encode()).digest()
    return torch.Generator(device).manual_seed(int.from_bytes(digest[:7], "little"))


def _target_generator(config: DatasetConfig, purpose: str) -> torch.Generator:
    """Generator for what all splits of a target share: conformers, and which classes are frequent, rare or absent."""
    digest = hashlib.sha256(f"{config.seed}/target/{purpose}".encode()).digest()
    return torch.Generator("cpu").manual_seed(int.from_bytes(digest[:7], "little"))


def unseen_molecule(config: DatasetConfig) -> str | None:
    """The molecule of no class that a target shows; None in scenarios without one.

    The auxiliary outliers that suit it are ``structures.outliers(config.classes, unseen_molecule(config))``.
    """
    setting = config.setting
    if not setting.unseen:
        return None
    if setting.unseen_molecule:
        if structures.class_name(setting.unseen_molecule) in config.class_names:
            raise InputError(
                f"Scenario.unseen_molecule: expected a molecule that is no class, got '{setting.unseen_molecule}'. "
                "Leave it out of the classes."
            )
        return setting.unseen_molecule
    return structures.unseen_molecule(config.classes, config.seed, width=config.box * config.voxel_size)


def _check_size(config: DatasetConfig) -> None:
    if not config.classes or config.n < len(config.classes):
        raise InputError(
            f"Dataset: expected at least one class and one subtomogram per class, got {len(config.classes)} classes "
            f"and {config.n} subtomograms."
        )


def _draw_labels(config: DatasetConfig) -> Tensor:
    """(n,) index of each molecule in classes, extras and the unseen one, in this order; UNKNOWN for an empty box."""
    setting, n_classes = config.setting, len(config.classes)
    _check_size(config)
    if config.split == "background":
        return torch.full((config.n,), UNKNOWN, device="cpu")
    order = scenarios.draw_classes(setting, n_classes, _target_generator(config, "classes"))
    empty = config.class_names.index("ice") if "ice" in config.class_names else UNKNOWN
    y = torch.full((config.n,), empty, device="cpu")
    shown = torch.arange(config.n, device="cpu")
    if setting.background:
        order = order[order != empty] if n_classes > 1 else order
        mixed = torch.randperm(config.n, generator=_generator(config, "background"), device="cpu")
        shown = mixed[round(setting.background * config.n) :]
    y[shown] = scenarios.draw_labels(len(shown), n_classes, setting.imbalance, _generator(config, "labels"), order)
    if setting.unseen > 0:
        u = torch.rand(config.n, generator=_generator(config, "unseen"), device="cpu")
        y[shown[u[shown] < setting.unseen]] = n_classes + len(config.extras)
    return y


def _without_extras(y: Tensor, config: DatasetConfig) -> Tensor:
    return torch.where(y < len(config.classes), y, UNKNOWN)


@dataclass(frozen=True, eq=False)
class _Simulated:
    x: Tensor  # (N, 1, n, n, n) float32, normalised
    y: Tensor  # (N,) int64, as `_draw_labels`
    snr: Tensor  # (N,) float32
    groups: Tensor  # (N,) int64, the tomogram


def _simulate(config: DatasetConfig, device: Device, progress: bool) -> _Simulated:
    setting, device = config.setting, _device(device)
    y, unseen = _draw_labels(config), unseen_molecule(config)
    extras = (*config.extras, *((unseen,) if unseen else ()))
    groups = torch.arange(config.n, device="cpu") * config.tomograms // config.n
    path = "transfer" if config.split in ("source", "validation") else setting.path
    bank = _templates(config, extras, device) if path != "foreign" else None
    x = torch.empty(config.n, 1, *(config.box,) * 3, device="cpu")
    snr = torch.empty(config.n, device="cpu")
    label = f"simulate {setting.name} ({config.split})"
    with tqdm(
        total=config.n, desc=label, disable=not progress, mininterval=2, file=sys.stdout, ncols=88, unit="subtomogram"
    ) as bar:
        for tomogram in groups.unique().tolist():
            members = (groups == tomogram).nonzero()[:, 0]
            imaged = _one_tomogram(config, y[members], bank, (*config.classes, *extras), path, tomogram, device, bar)
            x[members], snr[members] = imaged.x.cpu(), imaged.snr.cpu()
    return _Simulated(x, y, snr, groups)


def _templates(config: DatasetConfig, extras: Sequence[str], device: torch.device) -> specimens.Templates:
    return specimens.templates(
        config.classes,
        config.voxel_size,
        config.box,
        generator=_generator(config, "templates", device),
        extras=extras,
        change=lambda name, volume: _change_structure(config, name, volume),
    )


def _one_tomogram(
    config: DatasetConfig,
    y: Tensor,
    bank: specimens.Templates | None,
    molecules: Sequence[str],
    path: str,
    tomogram: int | str,
    device: torch.device,
    bar: tqdm,
) -> imaging.Imaged:
    """Processed and normalised subtomograms of one tomogram; y as `_draw_labels`, `tomogram` names its draws."""
    noise = _generator(config, f"noise/{tomogram}", device)
    u = torch.rand(7, generator=_generator(config, f"optics/{tomogram}"), device="cpu").tolist()
    optics = scenarios.draw_optics(config.setting, config.voxel_size, u, config.tilt_axis)
    if bank is None:
        imaged = _image_foreign(config, y, molecules, optics, tomogram, u)
        bar.update(len(y))
    else:
        imaged = _image(config, y, bank, path, optics, tomogram, u, noise, bar)
    raw = imaged.x
    for factor in FACTORS.values():
        raw = factor.subtomograms(config.setting, raw, noise)
    return imaging.Imaged(normalize(raw), imaged.snr)


def stream_source(config: DatasetConfig, *, device: Device = "cpu") -> Labelled:
    """Labelled subtomograms of the split "source" that are simulated when they are indexed: any number needs no memory.

    The class of subtomogram i is i modulo the number of classes. Eight subtomograms that are indexed together share a
    tilt series and a seed, which follows from their indices: the same index tensor gives the same subtomograms. The
    number of tomograms of `config` has no effect. Errors as `simulate_source`.
    """
    _check_split(config.split, "source", function="stream_source")
    _check_size(config)
    y = torch.arange(config.n, device="cpu") % len(config.classes)
    x = StreamedBoxes(_Stream(config, _device(device)), config.n, config.box)
    snr = torch.full((1,), float("nan"), device="cpu").expand(config.n)
    return Labelled(x, y, config.class_names, config.voxel_size, snr, torch.zeros_like(y))


class _Stream:
    """Simulates the subtomograms of an index; the templates are made once."""

    def __init__(self, config: DatasetConfig, device: torch.device):
        self.config, self.device = config, device
        self.bank = _templates(config, config.extras, device)

    def __call__(self, index: Tensor) -> Tensor:
        parts = []
        with tqdm(disable=True) as bar:
            for some in index.cpu().split(TOGETHER):
                y, name = some % len(self.config.classes), "-".join(map(str, some.tolist()))
                molecules = (*self.config.classes, *self.config.extras)
                made = _one_tomogram(self.config, y, self.bank, molecules, "transfer", name, self.device, bar)
                parts.append(made.x.cpu())
        return torch.cat(parts) if parts else torch.empty(0, 1, *(self.config.box,) * 3, device="cpu")


def _image(
    config: DatasetConfig,
    y: Tensor,
    bank: specimens.Templates,
    path: str,
    optics: Optics,
    tomogram: int | str,
    u: Sequence[float],
    noise: torch.Generator,
    bar: tqdm,
) -> imaging.Imaged:
    """Subtomograms of one tomogram by `imaging`, before processing and normalisation; y as `_draw_labels`."""
    setting, device = config.setting, noise.device
    image = imaging.image_by_transfer if path == "transfer" else imaging.image_by_tilt_series
    arguments: dict[str, Any] = {}
    for factor in FACTORS.values():
        arguments |= factor.specimens(setting, u)
    specimen = specimens.specimens(
        y,
        bank,
        generator=_generator(config, f"poses/{tomogram}", device),
        extras=[bank.names.index(structures.class_name(e)) for e in setting.extras],
        **arguments,
    )
    level = None
    if setting.snr:
        low, high = setting.snr
        v = torch.rand(len(y), generator=_generator(config, f"snr/{tomogram}"), device="cpu").to(device)
        level = low * (high / low) ** v
    parts = []
    for start in range(0, len(y), BATCH):
        part = slice(start, start + BATCH)
        some = level[part] if level is not None else None
        parts.append(image(specimen[part], bank, optics, generator=noise, snr=some))
        bar.update(len(parts[-1].x))
    return imaging.Imaged(torch.cat([p.x for p in parts]), torch.cat([p.snr for p in parts]))


def _image_foreign(
    config: DatasetConfig, y: Tensor, molecules: Sequence[str], optics: Optics, tomogram: int | str, u: Sequence[float]
) -> imaging.Imaged:
    """Subtomograms of one tomogram by `foreign`, before processing and normalisation; y as `_draw_labels`."""
    setting = config.setting
    generator = _generator(config, f"foreign/{tomogram}")
    low, high = setting.snr or (0.1, 0.1)
    maps = [
        _change_structure(config, name, foreign.density(name, config.voxel_size, config.box, generator)).numpy()
        for name in molecules
    ]
    return foreign.image(
        y,
        maps,
        optics,
        box=config.box,
        snr=low * (high / low) ** u[6],
        offset=setting.offset,
        seed=int(torch.randint(2**31, (1,), generator=generator)),
    )


def _change_structure(config: DatasetConfig, name: str, volume: Tensor) -> Tensor:
    setting, short = config.setting, structures.class_name(name)
    for factor in FACTORS.values():
        generator = _target_generator(config, f"structure/{short}")
        volume = factor.structure(setting, short, volume, config.voxel_size, generator)
    return volume
