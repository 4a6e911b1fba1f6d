"""What a check of the input reads, each file once and when it is first needed."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from scipy import ndimage
from torch import Tensor

import data_fetch
from data_fetch import readers

from ..data import Unlabelled, normalize
from ..errors import InputError
from ..simulation import datasets, structures
from ..simulation.datasets import DatasetConfig
from ..tomography import extraction, volumes
from ..tomography.volumes import ContrastGuess, Particles, Volume
from ..tomography.wedge import Wedge, fit_wedge
from . import classify, picks, pipeline, reuse, target_data
from .classifier import Classifier
from .target_data import Background, TargetData

SIMULATED, BOXES = 96, 60  # subtomograms to compare the size of the particles with, background boxes of each set
FEWEST, PARTICLES = 10, 400  # for an average: at least, and at most


@dataclass(frozen=True, eq=False)
class Centre:
    """Where the average of some subtomograms, smoothed to the size of a particle, is densest.

    Attributes
    ----------
    densest : (3,) zyx voxels from the centre of the box
    over_centre : standard errors by which it is denser there than in the centre
    over_faces : standard errors by which the centre is denser than the faces of the box
    """

    densest: np.ndarray
    over_centre: float
    over_faces: float


@dataclass(eq=False)
class Given:
    """The parameters of :func:`preflight.preflight`, and what they lead to.

    Each property raises InputError where a file or a parameter is wrong.
    """

    tomogram: str
    coordinates: str
    subtomograms: str
    classes: str
    voxel_size: float
    contrast: str
    background: str
    tilt_axis: float
    tilt_range: float
    defocus: float
    candidates: int
    box: int
    profile: str
    project_folder: str
    seed: int
    model: str = ""

    @cached_property
    def saved(self) -> Classifier:
        """The saved model; what is given beside it must not contradict it."""
        return reuse.load(self.model, classes=self.classes, box=self.box, background=self.background)

    @cached_property
    def names(self) -> tuple[str, ...]:
        """Names and files of the classes."""
        if self.model:
            return self.saved.classes
        picking = not (self.coordinates or self.subtomograms)
        usual = classify.profile_of(self.profile).classes
        return target_data.read_classes(data_fetch.local(self.classes), usual, background=picking)

    @cached_property
    def sizes(self) -> list[float]:
        """Diameters of the classes in A, the smallest first; [] where a class but "ice" has none or cannot be read."""
        with suppress(InputError):
            if self.model:
                stored = self.saved.recipe.get("diameters", {})
                return sorted(size for size in stored.values() if size)
            found = sorted(structures.diameter(name) for name in self.names if name != "ice")
            return [] if 0 in found else found
        return []

    @cached_property
    def volume(self) -> Volume:
        """The tomogram."""
        return readers.read_tomogram(self.tomogram, self.voxel_size or None)

    @cached_property
    def particles(self) -> Particles:
        """The rows of the list, or the extracted subtomograms."""
        if self.subtomograms:
            options = (self.box or None, self.voxel_size or None, self.project_folder or None)
            return readers.read_subtomograms(self.subtomograms, *options)
        return readers.read_picks(self.coordinates, self.volume)

    @cached_property
    def target(self) -> TargetData:
        """The input as subtomograms for a classifier."""
        if self.model:
            given = {name: getattr(self, name) for name in ("subtomograms", "tomogram", "coordinates")}
            how = {name: getattr(self, name) for name in ("voxel_size", "contrast", "candidates", "project_folder")}
            return reuse.read_target(self.saved, self.model, **given, **how)
        size: dict[str, Any] = {"box": self.box, "contrast": self.contrast}
        if self.subtomograms:
            return target_data.from_subtomograms(self.particles, self.names, **size)
        if self.coordinates:
            return target_data.from_tomogram(self.volume, self.particles, self.names, **size)
        diameters = {name: structures.diameter(name) for name in self.names}
        return picks.candidates(self.volume, diameters, n=self.candidates, **size)

    @cached_property
    def unlabelled(self) -> Unlabelled:
        """At most 400 of the target's subtomograms, spread over the list."""
        return pipeline.adaptation_set(self.target, PARTICLES, self.seed)

    @property
    def some(self) -> Tensor:
        """The boxes (N, 1, n, n, n) of `unlabelled`."""
        return self.unlabelled.x

    @cached_property
    def guess(self) -> ContrastGuess:
        """The contrast that the grey values indicate, also where no subtomograms can be cut."""
        with suppress(InputError):
            return self.target.guess
        x = self.particles.subtomograms if self.subtomograms else self.volume.data
        assert x is not None  # readers of subtomograms always read them
        return volumes.guess_contrast(x)

    @cached_property
    def boxes(self) -> Background:
        """Particle-free boxes."""
        about: dict[str, Any] = {"voxel_size": self.voxel_size, "project_folder": self.project_folder}
        return pipeline.background_boxes(self.target, self.background, n=BOXES, seed=self.seed, **about)

    @cached_property
    def simulated(self) -> Tensor:
        """Simulated subtomograms (96, 1, n, n, n) of the classes."""
        like = self.target.subtomograms
        about = (self.names, SIMULATED, like.x.shape[-1], like.voxel_size, "source", 0, self.seed, self.tilt_axis)
        return datasets.simulate_source(DatasetConfig(pipeline.SCENARIO, *about), progress=False).x

    @cached_property
    def centre(self) -> Centre | None:
        """The centre of the average particle; None for candidates, fewer than 10 particles, no diameter, no boxes."""
        with suppress(InputError):
            if self.sizes and not self.target.candidates and len(self.some) >= FEWEST:
                return self._centre(self.some[:, 0].numpy())
        return None

    @cached_property
    def mirrored(self) -> float:
        """Standard errors by which the average is denser in its centre than at its faces, z mirrored; 0 for few."""
        volume, model = self.volume, self.target.subtomograms
        assert self.target.particles.zyx is not None  # of a tomogram with positions
        zyx = self.target.particles.zyx[self.target.kept] * (-1, 1, 1) + (volume.data.shape[0] - 1, 0, 0)
        some = np.linspace(0, len(zyx) - 1, min(len(zyx), PARTICLES)).round().astype(int)
        n, sizes = model.x.shape[-1], (volume.voxel_size, model.voxel_size)
        x, _ = extraction.extract(volume.data, zyx[some], n, *sizes, pad=True, drop_bad=True)
        if len(x) < FEWEST:
            return 0.0
        return self._centre(normalize(volumes.to_bright(x, self.target.contrast))[:, 0].numpy()).over_faces

    def _centre(self, x: np.ndarray) -> Centre:
        n, width = x.shape[-1], self.sizes[-1] / self.target.subtomograms.voxel_size
        smooth = ndimage.gaussian_filter(x, (0, *[width / 5] * 3))
        rim = min(2, n // 4)
        mean = smooth.mean(0)[(slice(rim, n - rim),) * 3]
        at = np.array(np.unravel_index(mean.argmax(), mean.shape)) + rim
        middle = smooth[:, n // 2, n // 2, n // 2]
        faces = np.mean([np.take(smooth, 0, axis).mean((1, 2)) for axis in (1, 2, 3)], axis=0)

        def errors(difference: np.ndarray) -> float:
            spread = difference.std(ddof=1) / np.sqrt(len(x))
            return float(difference.mean() / spread) if spread > 0 else 0.0

        return Centre(at - n // 2, errors(smooth[(slice(None), *at)] - middle), errors(middle - faces))

    @cached_property
    def wedge(self) -> Wedge | None:
        """The missing wedge of the particle-free boxes, or of the particles; None where too few boxes show one."""
        for boxes in (lambda: self.boxes.spike_ins, lambda: self.some):
            with suppress(InputError):
                return fit_wedge(boxes(), self.target.subtomograms.voxel_size)
        return None
