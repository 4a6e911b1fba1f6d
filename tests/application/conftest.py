"""Small experimental input: 24 subtomograms of two molecules, and a tomogram that contains such particles."""

import math

import numpy as np
import pytest
import torch

from cryoshift_core.simulation import imaging, specimens
from cryoshift_core.simulation.optics import Optics
from cryoshift_core.tomography import mrc, star

CLASSES = ("TRiC", "apoferritin")


@pytest.fixture(scope="session")
def molecules():
    """24 noisy subtomograms (24, 24, 24) of two molecules at 16 A, protein bright, raw grey values."""
    g = torch.Generator().manual_seed(0)
    bank = specimens.templates(CLASSES, 16.0, 24, generator=g)
    specimen = specimens.specimens(torch.arange(24) % 2, bank, generator=g)
    return imaging.image_by_transfer(specimen, bank, Optics(voxel_size=16.0), generator=g).x[:, 0].numpy()


@pytest.fixture(scope="session")
def tomogram_folder(tmp_path_factory, molecules):
    """A folder with tomo_7.mrc, protein dark, of 60 particles, and with their particles.star."""
    folder = tmp_path_factory.mktemp("tomogram")
    write_tomogram(folder, molecules, 60)
    return folder


def write_tomogram(folder, subtomograms, n):
    """A tomogram of n particles on a lattice, 16 A, and their STAR as RELION 5 writes it: A from the centre."""
    rng = np.random.default_rng(0)
    per_row = math.ceil(math.sqrt(n))
    shape = np.array([36, 12 + 26 * per_row, 12 + 26 * per_row])
    volume = rng.normal(size=shape).astype(np.float32) * float(subtomograms.std())
    lattice = np.array([(18, 19 + 26 * (i // per_row), 19 + 26 * (i % per_row)) for i in range(n)])
    for i, at in enumerate(lattice):
        z, y, x = at - 12
        volume[z : z + 24, y : y + 24, x : x + 24] = subtomograms[i % len(subtomograms)]
    mrc.write_mrc(folder / "tomo_7.mrc", -volume, 16.0)
    centred = (lattice - shape / 2) * 16.0
    optics = {
        "rlnOpticsGroup": [1],
        "rlnOpticsGroupName": ["og1"],
        "rlnTomoTiltSeriesPixelSize": [4.0],
        "rlnVoltage": [300],
    }
    table = {"rlnTomoName": ["tomo_7"] * n, "rlnTomoParticleId": range(1, n + 1)}
    table |= {f"rlnCenteredCoordinate{a}Angst": centred[:, i].tolist() for a, i in zip("XYZ", (2, 1, 0), strict=True)}
    table |= {f"rlnAngle{name}": rng.uniform(0, 180, n).round(3).tolist() for name in ("Rot", "Tilt", "Psi")}
    table |= {"rlnOpticsGroup": [1] * n, "rlnClassNumber": [3] * n}
    general = {"rlnTomoSubTomosAre2DStacks": [1]}
    path = folder / "particles.star"
    star.write_star(path, {"general": general, "optics": optics, "particles": table}, ["general"])
    return table
