"""Made tomograms: simulated molecules at known positions in noise with a missing wedge."""

import numpy as np
import torch

from cryoshift_core import fourier
from cryoshift_core.simulation import imaging, optics, specimens
from cryoshift_core.simulation.optics import Optics


def scattered(n, shape, apart, margin, seed, start=()):
    """(n, 3) random zyx positions, `apart` voxels from each other and from `start`, `margin` from the border."""
    rng, found = np.random.default_rng(seed), [np.asarray(at, float) for at in start]
    size, first = np.array(shape), len(found)
    for _ in range(200_000):
        at = margin + rng.random(3) * (size - 1 - 2 * margin)
        if all(np.linalg.norm(at - other) >= apart for other in found):
            found.append(at)
            if len(found) == first + n:
                return np.array(found[first:])
    raise ValueError(f"no room for {n} positions")


def noise(shape, voxel_size, seed):
    """Noise (Z, Y, X) of a simulated tilt series, of unit variance, with its missing wedge."""
    size = max(shape)
    _, sigma = optics.transfer(Optics(voxel_size=voxel_size), size)
    k = fourier.half_ball(size)[1]
    z, y, x = k.mul(size).round().long().remainder(size).unbind(-1)
    draw = torch.randn(len(k), 2, generator=torch.Generator().manual_seed(seed))
    grid = torch.zeros(size, size, size, dtype=torch.complex64)
    grid[z, y, x] = torch.view_as_complex(draw) * sigma
    out = torch.fft.ifftn(grid).real.numpy()[tuple(slice(n) for n in shape)]
    return out / out.std()


def molecules(classes, zyx, shape, voxel_size, seed, box=32):
    """Volume (Z, Y, X), protein bright, with one randomly turned molecule of `classes` at each position (N, 3)."""
    generator = torch.Generator().manual_seed(seed)
    bank = specimens.templates(sorted(set(classes)), voxel_size, box, generator=generator)
    labels = torch.tensor([sorted(set(classes)).index(name) for name in classes])
    specimen = specimens.specimens(labels, bank, generator=generator, offset=0.0)
    whole = np.floor(zyx).astype(int)
    shift = torch.from_numpy(zyx - whole).float()
    specimen.shift[:, 0] = shift
    x = imaging.image_by_transfer(specimen, bank, Optics(voxel_size=voxel_size), generator=generator, noise=False).x
    volume = np.zeros(np.array(shape) + 2 * box, np.float32)
    for at, one in zip(whole, x[:, 0].numpy(), strict=True):
        low = at - box // 2 + box
        volume[tuple(slice(a, a + box) for a in low)] += one
    return volume[box:-box, box:-box, box:-box]


def made(numbers, shape=(48, 112, 112), voxel_size=24.0, strength=4.0, seed=0, apart=14.0, margin=6.0):
    """A tomogram (Z, Y, X), protein bright, and name -> (n, 3) zyx positions of the molecules in it.

    Parameters
    ----------
    numbers : name of a class -> number of molecules
    strength : peak of the strongest molecule over the standard deviation of the noise
    """
    classes = [name for name, n in numbers.items() for _ in range(n)]
    zyx = scattered(len(classes), shape, apart, margin, seed)
    volume = molecules(classes, zyx, shape, voxel_size, seed)
    volume *= strength / volume.max()
    at = {name: zyx[[c == name for c in classes]] for name in numbers}
    return volume + noise(shape, voxel_size, seed), at
