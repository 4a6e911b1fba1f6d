"""Experimental input as unlabelled subtomograms: contrast, box, voxel size, and what to check before using them."""

from __future__ import annotations

import hashlib
import itertools
import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from data_fetch import readers

from .. import data
from ..data import Unlabelled
from ..errors import InputError, InputWarning
from ..fourier import shell_means
from ..simulation import structures
from ..support.streamed import StreamedBoxes
from ..tomography import extraction, volumes
from ..tomography.background import FEWEST, find_background
from ..tomography.picking import Candidates
from ..tomography.volumes import ContrastGuess, Particles, Volume

SMALLEST, LARGEST = 24, 48  # voxels: limits of a box that is chosen automatically
# 35 boxes from the rims of a crowded lamella made its classifier worse (docs/search.md).
FEWEST_TO_TRAIN = 40
STREAMED = 1 << 30  # bytes of subtomograms, beyond which they are cut when they are used
MARGIN = 1.3  # box edge over the largest diameter: room for neighbours and picking errors


@dataclass(frozen=True, eq=False)
class TargetData:
    """Experimental input, ready for a classifier.

    Attributes
    ----------
    subtomograms : normalised, protein bright, at the model's voxel size; `groups` are the particles' groups in the
        input, such as virus-like particles
    kept : (M,) index in `particles` of each subtomogram; the others are not classified: they lie outside the tomogram,
        in a masked region or too close to its border, or cannot be read
    particles : all input rows, as they were read
    contrast : "bright" or "dark", the contrast that the input was taken to have
    guess : the contrast that its grey values indicate
    tomogram : the volume that the subtomograms were cut from; None for extracted subtomograms
    candidates : where the positions are such; None where they were given
    parts : one for each of several tomograms, numbered in `subtomograms.groups`; () for one
    """

    subtomograms: Unlabelled
    kept: np.ndarray
    particles: Particles
    contrast: str
    guess: ContrastGuess
    tomogram: Volume | None = None
    candidates: Candidates | None = None
    parts: tuple[TargetData, ...] = ()

    def __len__(self) -> int:
        return len(self.particles)

    @property
    def edge(self) -> int:
        """Edge of a subtomogram in voxels of the tomogram."""
        model, voxel_size = self.subtomograms, (self.tomogram or self.subtomograms).voxel_size
        return math.ceil(model.x.shape[-1] * model.voxel_size / voxel_size - 1e-6)

    @property
    def of_readers(self) -> list[str]:
        """Those of `warnings` that the readers of the files gave."""
        out = [f"{part.subtomograms.name}: {sentence}" for part in self.parts for sentence in part.of_readers]
        return [*out, *(self.tomogram.warnings if self.tomogram else ()), *self.particles.warnings]

    @property
    def of_number(self) -> list[str]:
        """Sentences on what is not classified, and on how few subtomograms there are."""
        out = [*self._not_cut]
        for part in self.parts:
            out += [f"{part.subtomograms.name}: {sentence}" for sentence in part._not_cut]
        if len(self.kept) < 100:
            out.append(
                f"{len(self.kept)} subtomograms are few for adaptation; class fractions and confidences are rough. "
                "Give more positions, or several tomograms of the same kind in one run."
            )
        return out

    @property
    def warnings(self) -> list[str]:
        """Sentences about what to check before using the predictions."""
        doubts = [] if self.parts else contrast_warnings(self.contrast, self.guess)
        for part in self.parts:
            about = contrast_warnings(part.contrast, part.guess)
            doubts += [f"{part.subtomograms.name}: {sentence}" for sentence in about]
        return [*self.of_readers, *doubts, *self.of_number]

    @property
    def of_tomogram(self) -> list[str]:
        """Those of `warnings` that one of several tomograms has of its own."""
        return [*self.of_readers, *contrast_warnings(self.contrast, self.guess), *self._not_cut]

    @property
    def tomograms(self) -> tuple[TargetData, ...]:
        """The parts of several tomograms, itself for one with positions, () for extracted subtomograms."""
        single = self.tomogram is not None and self.particles.zyx is not None
        return self.parts or ((self,) if single else ())

    @property
    def whole(self) -> np.ndarray:
        """(M,) whether the box of each subtomogram lies within its tomogram along y and x; z is that of a thin sheet.

        All are where nothing was cut from a tomogram.
        """
        out = np.ones(len(self.kept), bool)
        for k, part in enumerate(self.parts):
            out[self.subtomograms.groups.numpy() == k] = part.whole
        if self.tomogram is not None and self.particles.zyx is not None:
            yx, half = self.particles.zyx[self.kept, 1:], self.edge / 2
            return np.all((yx >= half - 0.5) & (yx <= np.array(self.tomogram.data.shape[1:]) - half - 0.5), axis=1)
        return out

    @property
    def _not_cut(self) -> list[str]:
        """Sentences with the rows of one tomogram of which no subtomogram could be cut."""
        lost = self.tomogram is not None and len(self.kept) + len(self.particles.bad) < len(self)
        return self._lost(self.tomogram) if lost and self.tomogram is not None else []

    def _lost(self, volume: Volume) -> list[str]:
        """Sentences with the rows whose boxes reach over the border of the tomogram, or lie in a masked region."""
        assert self.particles.zyx is not None  # those of a tomogram have positions
        good = _good(self.particles)
        box, voxel_size = self.subtomograms.x.shape[-1], self.subtomograms.voxel_size
        inside = good[
            extraction.plan(volume.data.shape, self.particles.zyx[good], box, volume.voxel_size, voxel_size).kept
        ]
        over, masked = np.setdiff1d(good, inside), np.setdiff1d(inside, self.kept)
        out = []
        edge, mask = "Nothing to do, or set a smaller box.", "Nothing to do, unless particles are expected there."
        for indices, what, advice in (
            (over, "boxes reach over the border", edge),
            (masked, "boxes lie in a masked region", mask),
        ):
            rows = (indices if self.particles.rows is None else self.particles.rows[indices] - 1) + 1
            shown = ", ".join(map(str, rows[:10].tolist())) + ", ..." * (len(rows) > 10)
            if len(rows):
                out.append(
                    f"{len(rows)} of {len(self)} {what}: not classified (row{'s' * (len(rows) > 1)} {shown}). {advice}"
                )
        return out


def _good(particles: Particles) -> np.ndarray:
    """(M,) indices of the particles that can be classified."""
    return np.setdiff1d(np.arange(len(particles)), list(particles.bad))


def read_subtomograms(
    path: str | Path,
    *,
    voxel_size: float | None = None,
    contrast: str = "auto",
    box: int | None = None,
    project_folder: str | Path = "",
) -> Unlabelled:
    """Extracted subtomograms of a file or folder: normalised, protein bright.

    Those that are constant or cannot be read are left out with a warning.

    Parameters
    ----------
    path : a stack (.mrcs, .mrc, .em, .hdf), a folder of such files or of .png files, or a STAR with _rlnImageName
    voxel_size : A; None takes the file's own
    contrast : "dark" (protein dark), "bright", or "auto": decide from the grey values
    box : voxels; larger subtomograms are cropped to their centre. None: as in the file
    project_folder : folder that the names in a STAR are relative to, where it is not the STAR's own

    Raises
    ------
    InputError
        unreadable input, a box larger than the subtomograms, or grey values that do not show the contrast
    """
    particles = readers.read_subtomograms(path, box, voxel_size, project_folder or None)
    assert particles.subtomograms is not None  # readers of subtomograms always read them
    x = volumes.to_bright(particles.subtomograms[_good(particles)], contrast)
    groups = torch.zeros(len(x), dtype=torch.long, device=x.device)
    return Unlabelled(data.normalize(x), particles.voxel_size, groups, Path(path).stem)


def read_files(
    subtomograms: str | Path,
    tomogram: str | Path,
    coordinates: str | Path,
    *,
    voxel_size: float = 0.0,
    box: int = 0,
    project_folder: str | Path = "",
) -> tuple[Volume | None, Particles | None]:
    """The tomogram, None for subtomograms, and the rows, None without coordinates; parameters as in `classify`.

    What the readers warn of is in `Volume.warnings` and `Particles.warnings`, and later in `TargetData.warnings`.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", InputWarning)
        if subtomograms:
            size = (box or None, voxel_size or None, project_folder or None)
            return None, readers.read_subtomograms(subtomograms, *size)
        volume = readers.read_tomogram(tomogram, voxel_size or None)
        return volume, readers.read_picks(coordinates, volume) if coordinates else None


def extract_subtomograms(
    tomogram: str | Path,
    coordinates: str | Path,
    *,
    box: int,
    voxel_size: float | None = None,
    contrast: str = "auto",
) -> Unlabelled:
    """Subtomograms cut from a tomogram around listed positions: normalised, protein bright.

    Positions whose box reaches over the border are left out. `groups` are those of the list, such as virus-like
    particles.

    Parameters
    ----------
    tomogram : .mrc, .em, .hdf or .zarr
    coordinates : .star, Dynamo .tbl, EMAN2 or copick .json, portal .ndjson, model2point's .txt
    box : voxels of the tomogram
    voxel_size : A; None takes the file's own
    contrast : "dark" (protein dark), "bright", or "auto": decide from the grey values

    Raises
    ------
    InputError
        unreadable input, no box inside the tomogram, or grey values that do not show the contrast
    """
    volume = readers.read_tomogram(tomogram, voxel_size)
    if contrast == "auto":
        guess = volumes.guess_contrast(volume.data)
        if guess.sign == "unsure":
            raise InputError(f"{tomogram} does not show its contrast ({guess.why}); set contrast to bright or dark.")
        contrast = guess.sign
    particles = readers.read_picks(coordinates, volume)
    x, kept = _cut(volume, particles, box, volume.voxel_size)
    groups = _groups(particles, kept)
    x = data.normalize(volumes.to_bright(x, contrast))
    return Unlabelled(x, volume.voxel_size, groups, Path(tomogram).stem)


def read_classes(text: str, default: Sequence[str], *, background: bool = False) -> tuple[str, ...]:
    """Class names and files out of a comma-separated text; `default` where it is empty.

    With `background`, the class "ice" of boxes without a particle is added where it is not among them.

    Raises
    ------
    InputError
        fewer than two classes, or two of the same label
    """
    classes = tuple(c.strip() for c in text.split(",")) if text else tuple(default)
    classes += ("ice",) if background and "ice" not in classes else ()
    labels = [structures.class_name(c) for c in classes]
    repeated = {label for label in labels if labels.count(label) > 1}
    if repeated:
        found = ", ".join(sorted(repeated))
        raise InputError(f"Expected classes with different labels, got {found} twice: rename a file.")
    if len(classes) < 2:
        raise InputError(f"Expected at least two classes, got '{text}': add 'ice' for boxes without a particle.")
    return classes


def choose_box(classes: Sequence[str], voxel_size: float, box: int = 0) -> tuple[int, float]:
    """Box in voxels and voxel size in A for the classifier.

    A given `box` is used at the data's voxel size. Otherwise the box is 1.3 times the largest structure, and at least
    24 voxels; where it would exceed 48 voxels, the voxel size is increased instead.

    Raises
    ------
    InputError
        the largest structure does not fit the given box
    """
    largest = max(structures.diameter(c) for c in classes)
    if box:
        if largest > box * voxel_size:
            name = max(classes, key=structures.diameter)
            raise InputError(
                f"Expected a box of at least {math.ceil(largest / voxel_size)} voxels of {voxel_size:g} A for "
                f"'{name}', which is {largest:.0f} A across, got {box}: enlarge box, or set it to 0."
            )
        return box, voxel_size
    edge = 2 * math.ceil(MARGIN * largest / voxel_size / 2)
    if edge <= LARGEST:
        return max(SMALLEST, edge), voxel_size
    return LARGEST, MARGIN * largest / LARGEST


def contrast_warnings(contrast: str, guess: ContrastGuess) -> list[str]:
    """A sentence where the grey values do not show the contrast that the data were taken to have."""
    if guess.sign == "unsure":
        return [
            f"The data do not show the contrast ({guess.why}); it was taken as {contrast}. Look at the examples: "
            "protein must be bright there. If it is not, set contrast."
        ]
    if guess.sign != contrast:
        return [
            f"The data look {guess.sign} ({guess.why}) but were taken as {contrast}. Look at the examples: protein "
            f"must be bright there. If it is not, set contrast to {guess.sign}."
        ]
    return []


def choose_contrast(asked: str, guess: ContrastGuess) -> str:
    """The contrast to use: the one asked for, else the guess; bright where the data do not show it."""
    if asked not in ("auto", "bright", "dark"):
        raise InputError(f"Expected contrast auto, bright or dark, got '{asked}'.")
    if asked != "auto":
        return asked
    return "dark" if guess.sign == "dark" else "bright"


def _cut(
    tomogram: Volume, particles: Particles, box: int, voxel_size: float, pad: bool = False
) -> tuple[Tensor, np.ndarray]:
    assert particles.zyx is not None  # readers of coordinates always give positions
    good = _good(particles)
    x, kept = extraction.extract(
        tomogram.data, particles.zyx[good], box, tomogram.voxel_size, voxel_size, pad=pad, drop_bad=True
    )
    kept = good[kept]
    if not len(kept):
        raise InputError(
            f"Expected positions with a box of {box} voxels inside {tomogram.path}, got none of {len(particles)}; "
            "choose a smaller box, or check that the coordinates belong to this tomogram."
        )
    return x, kept


def _stream(
    tomogram: Volume, particles: Particles, box: int, voxel_size: float, contrast: str, pad: bool
) -> tuple[Tensor, np.ndarray]:
    """As `_cut`, normalised and protein bright, for more boxes than memory holds; constant boxes are left out, too."""
    assert particles.zyx is not None  # readers of coordinates always give positions
    size = (box, tomogram.voxel_size, voxel_size)
    boxes = extraction.plan(tomogram.data.shape, particles.zyx, *size, pad=pad)
    whole = []
    for number, first in enumerate(boxes.first):
        whole.append(_varies(tomogram.data, first, boxes.edge))
        if number % 64 == 0:  # else the pages of the whole file stay in memory
            volumes.release(tomogram.data)
    kept = np.sort(boxes.kept[np.array(whole, bool)])
    if not len(kept):
        return _cut(tomogram, particles, box, voxel_size, pad)  # which says why
    at = particles.zyx[kept]

    def cut(rows: Tensor) -> Tensor:
        x, _ = extraction.extract(tomogram.data, at[rows.numpy()], *size, pad=pad)
        return data.normalize(volumes.to_bright(x, contrast))

    digest = hashlib.sha256(repr((tomogram.path, tomogram.data.shape, *size, contrast, pad)).encode())
    middle = tomogram.data.shape[0] // 2
    digest.update(np.ascontiguousarray(at).tobytes() + np.ascontiguousarray(tomogram.data[middle]).tobytes())
    return StreamedBoxes(cut, len(kept), box, digest.hexdigest()), kept


def _varies(volume: np.ndarray, first: np.ndarray, edge: int) -> bool:
    """Whether the grey values of the box from voxel `first` on differ; every fourth voxel decides where it can."""
    low = np.maximum(first, 0)
    for step in (4, 1):
        part = np.asarray(volume[tuple(slice(a, b + edge, step) for a, b in zip(low, first, strict=True))])
        if part.size and part.min() < part.max():
            return True
    return False


def _groups(particles: Particles, kept: np.ndarray) -> Tensor:
    groups = np.zeros(len(particles), np.int64) if particles.groups is None else particles.groups
    return torch.from_numpy(groups[kept])


def from_tomogram(
    tomogram: Volume,
    particles: Particles,
    classes: Sequence[str],
    *,
    box: int = 0,
    grid: tuple[int, float] | None = None,
    contrast: str = "auto",
    guess: ContrastGuess | None = None,
    candidates: Candidates | None = None,
    total: int = 0,
) -> TargetData:
    """Subtomograms cut from a tomogram around each position, for a classifier of `classes`.

    Parameters
    ----------
    classes : names or files; they determine the box where `box` is 0
    box : voxels of the tomogram
    grid : box in voxels and voxel size in A of a saved model, in place of those that classes and `box` give
    contrast : "auto", "bright" or "dark"; where the data do not show it, "auto" takes bright and adds a warning
    guess : of `volumes.guess_contrast`, where it is known; None: it is made here
    candidates : whose positions these are; their boxes are padded where they reach over the border
    total : subtomograms of all tomograms, where this is one of several

    Raises
    ------
    InputError
        no box lies inside the tomogram, or the box is too small for a class
    """
    n, model_voxel = grid or choose_box(classes, tomogram.voxel_size, box)
    guess = guess or volumes.guess_contrast(tomogram.data)
    sign = choose_contrast(contrast, guess)
    if 4 * max(total, len(particles)) * n**3 > STREAMED:
        x, kept = _stream(tomogram, particles, n, model_voxel, sign, pad=candidates is not None)
    else:
        x, kept = _cut(tomogram, particles, n, model_voxel, pad=candidates is not None)
        x = data.normalize(volumes.to_bright(x, sign))
    subtomograms = Unlabelled(x, model_voxel, _groups(particles, kept), Path(tomogram.path).stem)
    return TargetData(subtomograms, kept, particles, sign, guess, tomogram, candidates)


def from_subtomograms(
    particles: Particles,
    classes: Sequence[str],
    *,
    box: int = 0,
    grid: tuple[int, float] | None = None,
    contrast: str = "auto",
    guess: ContrastGuess | None = None,
    name: str = "subtomograms",
) -> TargetData:
    """Extracted subtomograms as they are; without a given `box`, those wider than 48 voxels are Fourier-cropped.

    Parameters
    ----------
    classes : names or files
    box : 0, or the box to which the particles were cropped when they were read
    grid : box in voxels and voxel size in A of a saved model, to which they are resampled
    contrast : "auto", "bright" or "dark"; where the data do not show it, "auto" takes bright and adds a warning
    guess : of the contrast, where it has been made already
    name : of the data, for titles

    Raises
    ------
    InputError
        the box is too small for a class
    """
    voxel_size, kept = particles.voxel_size, _good(particles)
    assert particles.subtomograms is not None  # readers of subtomograms always read them
    x = particles.subtomograms[kept] if len(kept) < len(particles) else particles.subtomograms
    n, model_voxel = grid or choose_box(classes, voxel_size, x.shape[-1])
    if not (box or grid) and n > LARGEST:
        n, model_voxel = LARGEST, voxel_size * n / LARGEST
    if (n, model_voxel) != (x.shape[-1], voxel_size):
        x = volumes.rescale(x, voxel_size, model_voxel, n)
    guess = guess or volumes.guess_contrast(x)
    sign = choose_contrast(contrast, guess)
    groups = torch.zeros(len(x), dtype=torch.long, device=x.device)
    subtomograms = Unlabelled(data.normalize(volumes.to_bright(x, sign)), model_voxel, groups, name)
    return TargetData(subtomograms, kept, particles, sign, guess)


def prepare_background(boxes: Particles, like: TargetData) -> Tensor:
    """Particle-free boxes (N, 1, n, n, n) with the voxel size, box, contrast and normalisation of `like`.

    Parameters
    ----------
    boxes : of the tomogram that `like` came from, at least as wide as its subtomograms

    Raises
    ------
    InputError
        the boxes are smaller than the subtomograms
    """
    model = like.subtomograms
    assert boxes.subtomograms is not None  # readers of subtomograms always read them
    x = volumes.rescale(boxes.subtomograms[_good(boxes)], boxes.voxel_size, model.voxel_size, model.x.shape[-1])
    return data.normalize(volumes.to_bright(x, like.contrast))


@dataclass(frozen=True, eq=False)
class Background:
    """Particle-free boxes of a target in two sets. Where they were cut from a tomogram, no voxel is in both.

    Attributes
    ----------
    spike_ins : (M, 1, b, b, b), to measure the accuracy with
    train : (N, 1, b, b, b), to train with; None where there are too few boxes for two sets
    part : (M,) number of the tomogram of each of `spike_ins`; None for one tomogram
    of_rims : made of the rims of subtomograms, with noise in place of the particle
    """

    spike_ins: Tensor
    train: Tensor | None
    part: np.ndarray | None = None
    of_rims: bool = False


def divide_background(x: Tensor, at: np.ndarray | None, edge: int, n: int) -> Background:
    """Boxes on the two sides of a plane through the tomogram, or two parts of a list where no centres are known.

    The plane halves the boxes across the axis along which they extend furthest. Where that leaves too few to train on,
    other axes and up to 70 % of the boxes on the side of the training are tried.

    Parameters
    ----------
    x : (N, 1, b, b, b)
    at : (N, 3) zyx centres, or None
    edge : of a box, in the voxels of `at`
    n : boxes of each set at most
    """
    lines = np.arange(len(x))[None] if at is None else at.T[np.ptp(at, axis=0).argsort()[::-1]]
    gap = 1 if at is None else edge
    for share, along in itertools.product((0.5, 0.6, 0.7), lines):
        plane = np.quantile(along, share)
        first, second = along <= plane - gap / 2, along >= plane + gap / 2
        if first.sum() >= FEWEST_TO_TRAIN and second.sum() >= FEWEST:
            return Background(x[second][:n], x[first][:n])
    return Background(x[:n], None)


def cut_background(
    like: TargetData,
    n: int,
    generator: torch.Generator,
    tolerance: float | None = 2.5,
    keep_out: np.ndarray | None = None,
) -> tuple[Tensor, np.ndarray]:
    """At most n particle-free boxes (M, 1, b, b, b) of the tomogram, prepared as its subtomograms; centres (M, 3) zyx.

    Beside candidates these are boxes around maxima of the density that are too weak for one: a candidate without a
    particle is such a maximum, and not a random place. Particles may stand at their rims, and they are padded as the
    candidates' boxes are.

    Parameters
    ----------
    generator, tolerance, keep_out : see :func:`background.find_background`

    Raises
    ------
    InputError
        fewer than 20 particle-free boxes, or no tomogram
    """
    model, volume = like.subtomograms, like.tomogram
    if volume is None:
        raise InputError(
            "Expected particle-free background, got extracted subtomograms alone: give a stack of particle-free boxes "
            "as background, or the tomogram."
        )
    if like.candidates is not None:
        at = like.candidates.weak
        at = at[torch.randperm(len(at), generator=generator, device="cpu").numpy()[: 2 * n]]
    else:
        known = None if like.particles.zyx is None else like.particles.zyx[np.isfinite(like.particles.zyx).all(1)]
        at = find_background(volume.data, known, like.edge, n, generator, tolerance=tolerance, keep_out=keep_out)
    x, whole = extraction.extract(
        volume.data, at, model.x.shape[-1], volume.voxel_size, model.voxel_size, pad=like.candidates is not None
    )
    if like.candidates is not None and len(whole) < FEWEST:
        raise InputError(
            f"Expected at least {FEWEST} background boxes of {like.edge} voxels in {volume.path}, got {len(whole)}: "
            "take a smaller box, or give particle-free boxes as background."
        )
    return data.normalize(volumes.to_bright(x[:n], like.contrast)), at[whole[:n]]


def radial_profile(x: Tensor) -> Tensor:
    """Mean grey value of the average subtomogram in shells one voxel wide, from the centre to the faces: (n // 2,)."""
    mean = x[:, 0].mean(0)
    axes = [torch.arange(n, device=x.device) - n // 2 for n in mean.shape]
    z, y, w = torch.meshgrid(*axes, indexing="ij")
    shell = (z**2 + y**2 + w**2).sqrt().round().long()
    return shell_means(mean, shell)[0][: min(mean.shape) // 2]


def apparent_scale(source_x: Tensor, target_x: Tensor) -> tuple[float, float, float]:
    """Width of the average target particle over that of the average simulated particle, and two correlations.

    The radial profile of the source is stretched until it fits the target's. The scale is 1 if voxel size and
    structures are right. A voxel size that is too large makes the simulated particles too small, and the scale larger
    than 1.

    Parameters
    ----------
    source_x, target_x : (N, 1, Z, Y, X) with the same box

    Returns
    -------
    the best scale within 0.5 to 2, and the correlation of the profiles at that scale and at 1
    """
    source, target = radial_profile(source_x).cpu().numpy(), radial_profile(target_x).cpu().numpy()
    r = np.arange(len(target), dtype=float)

    def fit(scale: float) -> float:
        inside = r / scale <= len(source) - 1
        stretched = np.interp((r / scale)[inside], r[: len(source)], source)
        return float(np.corrcoef(stretched, target[inside])[0, 1])

    scales = np.geomspace(0.5, 2.0, 57)
    correlations = [fit(scale) for scale in scales]
    best = int(np.argmax(correlations))
    return float(scales[best]), correlations[best], fit(1.0)


def voxel_size_warnings(source_x: Tensor, target_x: Tensor, voxel_size: float, classes: Sequence[str]) -> list[str]:
    """A sentence with a suggested voxel size where the width of the average particle contradicts the given one.

    Scales within 0.77 to 1.3 give no warning, because class fractions may differ between source and target. Classes
    without a diameter, such as a membrane, give none either.

    Parameters
    ----------
    source_x, target_x : (N, 1, Z, Y, X) with the same box
    voxel_size : A
    """
    if any(structures.diameter(name) == 0 and name != "ice" for name in classes):
        return []
    scale, fit, as_given = apparent_scale(source_x, target_x)
    if fit < 0.85 or as_given > fit - 0.05 or 0.77 < scale < 1.3:
        return []
    return [
        f"The average particle is {scale:.2f} times as wide as the simulated one (the radial profiles correlate at "
        f"{fit:.2f} after stretching, at {as_given:.2f} before). If the structures are right and all of them are "
        f"present, the voxel size is {voxel_size / scale:.3g} A, not {voxel_size:.3g} A: compare it with that of the "
        "microscope times the binning, and set pixel_size."
    ]


def class_fraction_warnings(
    fractions: Sequence[float], classes: Sequence[str], n: int, may_be_absent: Sequence[str] = ()
) -> list[str]:
    """Sentences about class fractions that are too small, or too unequal, to be relied on.

    Parameters
    ----------
    fractions : (K,) predicted fractions of the n subtomograms
    may_be_absent : classes of which no fraction is demanded
    """
    out = []
    demanded = [(name, f) for name, f in zip(classes, fractions, strict=True) if name not in may_be_absent]
    if n < 20 * len(demanded):
        out.append(
            f"{n} subtomograms for {len(demanded)} classes are fewer than 20 each: a class fraction may be off by half "
            "its value. Give more subtomograms, or fewer classes."
        )
    if len(classes) > 20:
        out.append(f"{len(classes)} classes: no more than 20 have been tested. Join classes that look alike.")
    rare = [f"{name} ({fraction:.1%})" for name, fraction in demanded if fraction < 0.02]
    if rare:
        out.append(
            f"Predicted for fewer than 2 % of the subtomograms: {', '.join(rare)}. This may be confusion with other "
            "classes: look at their examples, and name classes that need not occur in may_be_absent."
        )
    present = [fraction for _, fraction in demanded if fraction > 0]
    if present and max(present) > 10 * min(present):
        out.append(
            f"The most frequent class is {max(present) / min(present):.0f} times as frequent as the rarest. "
            "The network learned from equally many of each class, and adversaries favour that: check the rare classes."
        )
    return out
