"""Both imaging paths against a tilt series that is projected and back-projected in real space."""

import numpy as np
import pytest
import torch
from helpers import real_space

from cryoshift_core import fourier
from cryoshift_core.simulation import imaging, specimens, structures
from cryoshift_core.simulation.optics import Optics, tilt_scheme

BOX, FINE = 32, 4.0  # voxels; A
GEOMETRIES = {
    "60": Optics(),
    "50": Optics(tilts=tilt_scheme(-50, 50)),
    "pretilt": Optics(tilts=tilt_scheme(-60, 40, 3, 15), pretilt=15.0),
    "turned axis": Optics(tilt_axis=35.0),
}
PATHS = {"tilt series": imaging.image_by_tilt_series, "transfer": imaging.image_by_transfer}
SHELL = fourier.shells((BOX, BOX, BOX)).flatten()


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def reference(name, optics, rotation, shift):
    fine = structures.template(name, FINE, round(BOX * optics.voxel_size / FINE)).numpy()
    made = real_space.subtomograms(fine, FINE, rotation.numpy(), shift.numpy(), optics, BOX)
    return torch.from_numpy(made).float()


def amplitudes(x):
    """Root of the power in each shell without the mean, (S,), over all volumes (N, n, n, n)."""
    x = x - x.mean((1, 2, 3), keepdim=True)
    return fourier.shell_sums(torch.fft.rfftn(x, dim=(1, 2, 3)).abs().square().sum(0).flatten(), SHELL).sqrt()


def assert_equal(ours, theirs):
    a, b = (x.flatten(1) - x.flatten(1).mean(1, keepdim=True) for x in (ours, theirs))
    correlation = (a * b).sum(1) / (a.norm(dim=1) * b.norm(dim=1))
    assert correlation.min() >= 0.998, correlation
    ratio = (amplitudes(ours) / amplitudes(theirs))[1:9]
    assert (ratio - 1).abs().max() <= 0.03, ratio
    assert float((a * b).sum() / b.square().sum()) == pytest.approx(1.0, abs=0.01), "in the units of the reference"


def image(path, name, optics, rotation, shift):
    bank = specimens.templates((name,), optics.voxel_size, BOX, generator=generator())
    which = torch.zeros(len(rotation), 1, dtype=torch.long)
    specimen = specimens.Specimens(which, rotation[:, None], shift[:, None])
    return path(specimen, bank, optics, generator=generator(), noise=False).x[:, 0]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["ribosome_80S", "TRiC"])
@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_molecules(geometry, name):
    rotation, shift = specimens.random_rotations(1, generator(5)), specimens.random_in_ball(1, 1.0, generator(6))
    theirs = reference(name, GEOMETRIES[geometry], rotation, shift)
    for path in PATHS.values():
        assert_equal(image(path, name, GEOMETRIES[geometry], rotation, shift), theirs)


@pytest.mark.slow
@pytest.mark.parametrize(
    "optics",
    [
        Optics(tilts=tilt_scheme(-50, 50), sirt_iterations=10),
        Optics(defocus=6.0, b_factor=500.0, amplitude_contrast=0.1),
        Optics(tilts=tuple(t for t in tilt_scheme(-60, 60) if t not in (12.0, -33.0))),
    ],
    ids=["sirt", "defocus", "irregular"],
)
def test_other_settings(optics):
    rotation, shift = specimens.random_rotations(1, generator(7)), specimens.random_in_ball(1, 1.0, generator(8))
    theirs = reference("ribosome_80S", optics, rotation, shift)
    for path in PATHS.values():
        assert_equal(image(path, "ribosome_80S", optics, rotation, shift), theirs)
    wrong = image(PATHS["transfer"], "ribosome_80S", Optics(defocus=4.0), rotation, shift)
    with pytest.raises(AssertionError):
        assert_equal(wrong, theirs)


@pytest.mark.slow
@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_noise(geometry):
    optics = GEOMETRIES[geometry]
    index, k = fourier.half_ball(BOX)
    twice = torch.where(k[:, 2] == 0, 1.0, 2.0).double()  # samples with kx > 0 also stand for their mirrors
    shell = SHELL[index]

    def spectrum(power):
        return fourier.shell_sums(power.double() * twice, shell)[1:16]

    theirs = spectrum(torch.from_numpy(real_space.noise_power(optics, BOX, (k * BOX).round().numpy())))
    bank = specimens.templates(("apoferritin",), optics.voxel_size, BOX, generator=generator())
    for path in PATHS.values():
        empty = specimens.specimens(torch.full((500,), -1), bank, generator=generator())
        x = path(empty, bank, optics, generator=generator(1)).x
        ratio = spectrum(fourier.power_spectrum(x).mean(0).flatten()[index]) / theirs
        assert (ratio - 1).abs().max() <= 0.05, ratio


@pytest.mark.slow
def test_the_closed_form_of_the_noise_is_that_of_the_back_projection():
    optics, rng = Optics(tilts=tilt_scheme(-60, 40, 5), tilt_axis=35.0), np.random.default_rng(0)
    index, k = fourier.half_ball(BOX)
    shell = SHELL[index]
    expected = real_space.noise_power(optics, BOX, (k * BOX).round().numpy())
    made = np.stack([real_space.noise(optics, BOX, rng) for _ in range(16)])
    measured = (np.abs(np.fft.rfftn(made, axes=(1, 2, 3))) ** 2).mean(0).ravel()[index] / BOX**3
    ratio = np.bincount(shell, measured) / np.bincount(shell, expected)
    assert np.abs(ratio[4:16] - 1).max() < 0.05, ratio
