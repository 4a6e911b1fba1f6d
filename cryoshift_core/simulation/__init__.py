"""Simulation of subtomograms: structures, optics, specimens, imaging, scenarios and datasets.

The functions below are the short form for scripts. They build a `datasets.DatasetConfig` and call the function of the
same name in `datasets`.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ..data import HeldOutLabels, Labelled, Unlabelled
from ..fourier import Device
from . import datasets
from .datasets import DatasetConfig
from .scenarios import Scenario


def simulate_source(
    classes: Sequence[str],
    n: int,
    *,
    box: int = 32,
    voxel_size: float = 12.0,
    seed: int = 0,
    scenario: str | Scenario = "source",
    split: str = "source",
    tomograms: int = 0,
    tilt_axis: float = 0.0,
    folder: str | Path | None = None,
    device: Device = "cpu",
    progress: bool = True,
) -> Labelled:
    """n labelled subtomograms (n, 1, box, box, box) of the source domain, normalised, particles bright.

    Parameters
    ----------
    classes : built-in names, or PDB, mmCIF, MRC or EM files; a map may have its voxel size in A behind @
    n : number of subtomograms; the classes are about equally frequent in the default scenario
    box : voxels per edge
    voxel_size : A per voxel
    seed : the same seed gives the same subtomograms
    scenario : a name, such as "source", or "broad" for experimental targets; or a `scenarios.Scenario`
    split : "source", or "validation" for a set that shares no tomogram, pose or noise with it
    tomograms : number of simulated tilt series; 0 for 1 per 20 subtomograms, 2 to 24
    tilt_axis : degrees from y towards x
    folder : the dataset is loaded from there if present, and saved there otherwise; None for no file
    device : where to compute; "auto" for a GPU if there is one
    progress : show a progress bar

    Raises
    ------
    InputError
        The scenario is unknown, there are fewer subtomograms than classes, or a structure is unreadable or larger than
        the box.
    """
    config = DatasetConfig(scenario, classes, n, box, voxel_size, split, tomograms, seed, tilt_axis)
    return datasets.simulate_source(config, folder=folder, device=device, progress=progress)


def stream_source(
    classes: Sequence[str],
    n: int = 1_000_000,
    *,
    box: int = 32,
    voxel_size: float = 12.0,
    seed: int = 0,
    scenario: str | Scenario = "source",
    tilt_axis: float = 0.0,
    device: Device = "cpu",
) -> Labelled:
    """n labelled subtomograms of the source domain that are simulated when a training step indexes them.

    They take no disk and hardly any memory, and no subtomogram is seen twice before n of them are drawn. Give `fit` a
    validation set beside it, of `simulate_source(..., split="validation")`. Parameters and errors are those of
    `simulate_source`.
    """
    config = DatasetConfig(scenario, classes, n, box, voxel_size, "source", 0, seed, tilt_axis)
    return datasets.stream_source(config, device=device)


def simulate_target(
    scenario: str | Scenario,
    classes: Sequence[str],
    n: int,
    *,
    box: int = 32,
    voxel_size: float = 12.0,
    seed: int = 0,
    split: str = "train",
    tomograms: int = 0,
    tilt_axis: float = 0.0,
    folder: str | Path | None = None,
    device: Device = "cpu",
    progress: bool = True,
) -> Unlabelled:
    """n unlabelled subtomograms (n, 1, box, box, box) of a target domain; `load_labels` returns their labels.

    Parameters and errors are those of `simulate_source`, except for
    scenario : a name, such as "in_situ_1" or "dose_2", or a `scenarios.Scenario`
    split : "train", or "test" for a set that shares no tomogram, pose or noise with it
    """
    config = DatasetConfig(scenario, classes, n, box, voxel_size, split, tomograms, seed, tilt_axis)
    return datasets.simulate_target(config, folder=folder, device=device, progress=progress)


def load_labels(
    scenario: str | Scenario,
    classes: Sequence[str],
    n: int,
    *,
    box: int = 32,
    voxel_size: float = 12.0,
    seed: int = 0,
    split: str = "train",
    tomograms: int = 0,
    tilt_axis: float = 0.0,
    folder: str | Path | None = None,
    device: Device = "cpu",
    progress: bool = True,
) -> HeldOutLabels:
    """Held-out labels of the subtomograms that `simulate_target` returns for the same arguments; for evaluation only.

    With the folder of the target they include the realised SNRs; without a folder they do not.
    """
    config = DatasetConfig(scenario, classes, n, box, voxel_size, split, tomograms, seed, tilt_axis)
    return datasets.load_labels(config, folder=folder, device=device, progress=progress)
