"""Targets that another group's package images and reconstructs, so that simulator and test do not share an author.

acryo (Hanjin Liu, BSD-3, optional: ``pip install -e '.[foreign]'``) does all that lies between density map and
tomogram. It rotates each map with splines and projects it in real space along the beam, applies its own contrast
transfer function to each tilt image, and reconstructs the tomogram by direct Fourier inversion. NumPy adds white
Gaussian noise to the tilt images. The maps and the normalisation of subtomograms are this package's own: the built-in
classes are shipped as maps only.

Some physics is missing, because acryo has none of it: no dose filter, so that all tilts are equally sharp; no
shot noise that grows with the tilt; no residual misalignment. These are differences from both of our simulations, and a
method should bear them.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from ..errors import InputError
from . import structures
from .imaging import Imaged
from .optics import Optics


def density(name: str, voxel_size: float, box: int, generator: torch.Generator) -> Tensor:
    """Map of a class in a box of odd size, whose middle voxel is the centre in acryo too; arguments as `template`."""
    return structures.template(name, voxel_size, box + 1 - box % 2, generator=generator)


def image(
    y: Tensor, maps: list[np.ndarray], optics: Optics, *, box: int, snr: float, offset: float = 0.5, seed: int = 0
) -> Imaged:
    """Subtomograms of one tomogram with one particle in each box, imaged and reconstructed by acryo; on the CPU.

    The particles lie in one layer, 0.9 boxes apart, in random orientations. If most boxes are empty, other molecules
    lie between them.

    Parameters
    ----------
    y : (N,) int64, index into `maps` of each particle; a negative one is an empty box
    maps : (n, n, n) densities of odd size in V; a map of zeros is an empty box
    optics : voxel size, tilts, defocus, spherical aberration, voltage and amplitude contrast are used
    box : voxels per edge
    snr : median of var(signal) / var(noise) over the boxes of all molecules
    offset : picking error, voxels: particles are uniform in a ball of this radius
    seed : of poses, positions and noise

    Raises
    ------
    InputError
        acryo is not installed, or the tilt axis is not y.
    """
    if optics.tilt_axis % 180:
        raise InputError(f"tilt_axis: expected 0 degrees in a foreign scenario, got {optics.tilt_axis:g}.")
    try:
        import dask
        from acryo import Molecules, TomogramSimulator
        from acryo.ctf import CTFModel
        from acryo.projection import TiltSeries, reconstruct_tomogram
    except ImportError as error:
        raise InputError(
            f"Foreign scenario: expected the package acryo, got none ({error}). "
            "Run: pip install -c constraints.txt -e '.[foreign]'"
        ) from error
    from scipy.spatial.transform import Rotation

    random = np.random.default_rng(seed)
    scale = optics.voxel_size / 10  # acryo counts in nm
    solid = [i for i, density in enumerate(maps) if density.any()]
    shown = np.where(np.isin(y.numpy(), solid), y.numpy(), -1)
    empty = int((shown < 0).sum())
    between = random.choice(solid, max(0, 2 * empty - len(shown))) if solid else np.empty(0, int)
    molecule = np.concatenate([shown, between]).astype(int)

    columns = math.ceil(math.sqrt(len(molecule)))
    rows = math.ceil(len(molecule) / columns)
    pitch, depth = round(0.9 * box), box // 5
    cell = random.permutation(rows * columns)[: len(molecule)]
    size = (box + 2 * depth, pitch * (rows - 1) + 2 * box, pitch * (columns - 1) + 2 * box)
    shape = tuple(n + 1 - n % 2 for n in size)
    centre = np.stack(
        [shape[0] // 2 + random.integers(-depth, depth + 1, len(cell)), box + pitch * (cell // columns),
         box + pitch * (cell % columns)], axis=1,
    )  # fmt: skip
    away = random.normal(size=centre.shape)
    away *= (offset * random.random(len(cell)) ** (1 / 3) / np.linalg.norm(away, axis=1))[:, None]
    turned = Rotation.random(len(cell), rng=random)

    simulator = TomogramSimulator(order=3, scale=scale)
    for i in np.unique(molecule[molecule >= 0]):
        here = np.flatnonzero(molecule == i)
        place = Molecules(((centre + away)[here] * scale).astype(np.float32), turned[here])
        simulator.add_molecules(place, maps[i].astype(np.float32), name=str(i))
    signal = np.zeros((len(optics.tilts), *shape[1:]), np.float32)
    if simulator.components:
        with dask.config.set(scheduler="synchronous"):
            signal = simulator.simulate_tilt_series(optics.tilts, shape)
    lens = CTFModel.from_kv(optics.voltage, optics.cs, -optics.defocus, amplitude=optics.amplitude_contrast)
    series = TiltSeries(tilt_angles=np.array(optics.tilts), tilt_axis_angle=0.0, scale=scale)

    def boxes(images: np.ndarray) -> np.ndarray:
        """(slots, n, n, n) subtomograms of the tomogram of tilt images (T, Y, X)."""
        tomogram = reconstruct_tomogram(series, images.astype(np.float32), shape, num_workers=1, dtype=np.float32)
        return np.stack([tomogram[z : z + box, r : r + box, c : c + box] for z, r, c in centre - box // 2])

    clean = boxes(lens.apply_ctf(signal, scale))
    noise = boxes(random.normal(size=signal.shape))
    power, full = clean.var((1, 2, 3)), molecule >= 0
    if full.any():
        noise *= math.sqrt(np.median((power / noise.var((1, 2, 3)))[full]) / snr)
    clean, noise, power = clean[: len(y)], noise[: len(y)], power[: len(y)]
    realised = power / noise.var((1, 2, 3))
    return Imaged(torch.from_numpy(clean + noise)[:, None].float(), torch.from_numpy(realised).float())
