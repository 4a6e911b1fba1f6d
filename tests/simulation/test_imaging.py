"""The two imaging paths against each other, and both against independent programs.

`test_against_real_space` has the slow tests against a simulation in real space.
"""

import math
from dataclasses import replace

import numpy as np
import pytest
import scipy.ndimage
import torch
from torch_fourier_slice import project_3d_to_2d

from cryoshift_core import fourier
from cryoshift_core.errors import InputError
from cryoshift_core.simulation import imaging, specimens, structures
from cryoshift_core.simulation.optics import Optics

BOX, PIXEL = 32, 12.0
CLASSES = ("ribosome_70S", "TRiC", "apoferritin", "RuvAB")


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.fixture(scope="module")
def bank():
    return specimens.templates(CLASSES, PIXEL, BOX, generator=generator())


def correlation(a, b):
    a, b = a.flatten() - a.mean(), b.flatten() - b.mean()
    return float((a @ b) / (a.norm() * b.norm()))


def gathered(bank, specimen, n=BOX):
    """The specimen's density without any optics, in real space."""
    index, k = fourier.half_ball(n)
    value = imaging.gather(bank, specimen, 0, k) * torch.exp(-2j * math.pi * (n // 2) * k.sum(-1))
    grid = torch.zeros(len(specimen), n * n * (n // 2 + 1), dtype=torch.complex64)
    grid[:, index] = value
    return torch.fft.irfftn(grid.reshape(-1, n, n, n // 2 + 1), s=(n,) * 3, dim=(1, 2, 3))


def chiral_bank(n=BOX):
    """Four balls on a screw: no rotation maps it on its mirror image."""
    grid = np.indices((n,) * 3) - n // 2
    volume = np.zeros((n,) * 3, np.float32)
    for z, y, x, weight in ((-7, 0, 5, 3.0), (-2, 5, 0, 2.0), (3, 0, -5, 1.5), (7, -5, 0, 1.0)):
        volume += weight * np.exp(-((grid[0] - z) ** 2 + (grid[1] - y) ** 2 + (grid[2] - x) ** 2) / 8)
    volume = torch.from_numpy(volume)
    return volume, specimens.Templates(
        ("screw",), (specimens.transform(volume, 2 * n),), (range(1),), torch.tensor([8.0]), n, PIXEL
    )


def one(rotation, shift=(0.0, 0.0, 0.0)):
    return specimens.Specimens(torch.zeros(1, 1, dtype=torch.long), rotation[None, None], torch.tensor([[shift]]))


def rotated_by_scipy(volume, rotation, shift=(0, 0, 0)):
    """Density at x is that of the template at rotation^T (x - shift), by spline interpolation in real space."""
    inverse, centre = rotation.numpy().T, np.full(3, BOX // 2)
    offset = centre - inverse @ (centre + np.asarray(shift))
    return torch.from_numpy(scipy.ndimage.affine_transform(volume.numpy(), inverse, offset=offset, order=3))


def test_rotation_and_shift_convention_with_a_chiral_object():
    volume, bank = chiral_bank()
    rotation, shift = specimens.random_rotations(1, generator(3))[0], (1.5, -2.0, 0.75)
    ours = gathered(bank, one(rotation, shift))[0]
    assert correlation(ours, rotated_by_scipy(volume, rotation, shift)) > 0.995
    assert correlation(ours, rotated_by_scipy(volume, rotation.T, shift)) < 0.9, "a transposed rotation must not pass"
    assert correlation(ours, rotated_by_scipy(volume.flip(2), rotation, shift)) < 0.9, "a mirror must not pass"


def test_a_quarter_turn_about_the_beam_moves_x_to_y():
    volume, bank = chiral_bank()
    quarter = torch.tensor([[1.0, 0, 0], [0, 0, 1.0], [0, -1.0, 0]])  # zyx: (z, y, x) -> (z, x, -y)
    ours = gathered(bank, one(quarter))[0]
    # An exact oracle: new[z, y, x] = old[z, -x, y] about the centre BOX // 2, where index i becomes (-i) mod BOX.
    by_hand = volume.flip(1).roll(1, 1).transpose(1, 2)
    assert correlation(ours, by_hand) > 0.995
    assert correlation(ours, by_hand.flip(1).roll(1, 1)) < 0.9, "a mirror must not pass"
    peak = [int(i) - BOX // 2 for i in torch.unravel_index(ours.argmax(), ours.shape)]
    assert peak == [-7, 5, 0], "the heaviest ball stood at (-7, 0, 5)"


def test_rotations_are_proper_and_uniform():
    r = specimens.random_rotations(20_000, generator())
    torch.testing.assert_close(r @ r.transpose(1, 2), torch.eye(3).expand_as(r), atol=1e-5, rtol=0)
    torch.testing.assert_close(torch.linalg.det(r), torch.ones(len(r)))
    assert r.mean(0).abs().max() < 0.02  # a uniform rotation has mean 0 ...
    angle = torch.rad2deg(torch.arccos(((r.diagonal(dim1=1, dim2=2).sum(-1) - 1) / 2).clamp(-1, 1)))
    assert angle.mean() == pytest.approx(126.5, abs=1.0)  # ... and a mean angle of 90 + 360 / pi^2 degrees


@pytest.mark.parametrize("tilt", [0.0, -45.0, 60.0])
def test_slices_agree_with_torch_fourier_slice(tilt):
    volume, bank = chiral_bank()
    rotation = specimens.random_rotations(1, generator(5))[0]
    k, index = imaging.tilt_slices((tilt,), BOX)
    image = torch.zeros(2 * BOX * (BOX + 1), dtype=torch.complex64)
    image[index] = imaging.gather(bank, one(rotation), 0, k[0])[0]
    ours = torch.fft.fftshift(torch.fft.irfft2(image.reshape(2 * BOX, BOX + 1), s=(2 * BOX, 2 * BOX)))
    ours = ours[BOX // 2 : -BOX // 2, BOX // 2 : -BOX // 2]
    s, c = math.sin(math.radians(tilt)), math.cos(math.radians(tilt))
    plane = torch.tensor([[c, 0, s], [0, 1, 0], [-s, 0, c]])  # zyx columns: the slice's normal, y and x'
    theirs = project_3d_to_2d(volume, rotation.T @ plane, pad_factor=2.0, zyx_matrices=True)
    assert correlation(ours, theirs) > 0.998
    mirrored = torch.tensor([[c, 0, -s], [0, 1, 0], [s, 0, c]])
    if tilt:
        assert correlation(ours, project_3d_to_2d(volume, rotation.T @ mirrored, zyx_matrices=True)) < 0.98


@pytest.mark.parametrize("name", CLASSES)
def test_both_paths_agree_without_noise(bank, name):
    labels = torch.full((6,), CLASSES.index(name))
    specimen = specimens.specimens(labels, bank, generator=generator(1), offset=1.0)
    fast = imaging.image_by_transfer(specimen, bank, Optics(), generator=generator(), noise=False).x
    slow = imaging.image_by_tilt_series(specimen, bank, Optics(), generator=generator(), noise=False).x
    each = [correlation(a, b) for a, b in zip(fast, slow, strict=True)]
    assert min(each) > 0.998
    assert float(fast.norm() / slow.norm()) == pytest.approx(1.0, abs=0.01)
    wrong = imaging.image_by_transfer(specimen, bank, Optics(defocus=6.0), generator=generator(), noise=False).x
    assert correlation(wrong[0], slow[0]) < 0.95, "another defocus must not pass"


def radial_power(x, n=BOX):
    index, k = fourier.half_ball(n)
    power = torch.fft.rfftn(x[:, 0], dim=(1, 2, 3)).abs().square().mean(0).flatten()[index]
    shell = (k.norm(dim=-1) * n).round().long()
    return torch.zeros(n // 2 + 1).index_add(0, shell, power) / torch.bincount(shell)


def test_both_paths_agree_on_neighbours(bank):
    specimen = specimens.specimens(torch.tensor([0, 1, 2, 3, -1]), bank, generator=generator(1), crowding=0.2)
    fast, slow, alone = (
        path(some, bank, Optics(), generator=generator(), noise=False).x
        for path, some in (
            (imaging.image_by_transfer, specimen),
            (imaging.image_by_tilt_series, specimen),
            (imaging.image_by_transfer, replace(specimen, template=specimen.template[:, :1])),
        )
    )
    each = [correlation(a, b) for a, b in zip(fast, slow, strict=True)]
    assert min(each) > 0.99
    assert correlation(alone[0], slow[0]) < 0.9, "without neighbours must not pass"


@pytest.mark.parametrize(
    "kind, tolerance",
    [
        ({}, 0.02),
        ({"noise_slope": 1.0}, 0.02),
        ({"misalignment": 5.0}, 0.02),
        ({"sirt_iterations": 10}, 0.02),
        ({"structural_fraction": 0.3}, 0.1),
    ],
)
def test_noise_spectra_agree(bank, kind, tolerance):
    empty = specimens.specimens(torch.full((100,), -1), bank, generator=generator())
    optics = Optics(**kind)
    fast = radial_power(imaging.image_by_transfer(empty, bank, optics, generator=generator(1)).x)
    slow = radial_power(imaging.image_by_tilt_series(empty, bank, optics, generator=generator(2)).x)
    ratio = slow[1:16] / fast[1:16]
    assert ratio.median() == pytest.approx(1.0, abs=tolerance)
    # the structural noise of the tilt path fills a specimen that is wider than 41 tilts can resolve
    assert ratio.min() > 0.9 and ratio.max() < (1.15 if kind.get("structural_fraction") else 1.1)


def test_sirt_weakens_high_frequencies(bank):
    specimen = specimens.specimens(torch.tensor([0]), bank, generator=generator(4))
    plain, filtered = (
        radial_power(path(specimen, bank, optics, generator=generator(), noise=False).x)
        for path in (imaging.image_by_transfer,)
        for optics in (Optics(), Optics(sirt_iterations=10))
    )
    gain = (filtered / plain).sqrt()
    assert gain[2] > 3 * gain[12] and gain[12] < 0.2


def test_an_empty_box_beside_a_particle_is_empty(bank):
    specimen = specimens.specimens(torch.tensor([0, -1, 1]), bank, generator=generator(4))
    for path in (imaging.image_by_transfer, imaging.image_by_tilt_series):
        assert (path(specimen, bank, Optics(), generator=generator(), noise=False).x[1] == 0).all()
        imaged = path(specimen, bank, Optics(), generator=generator(), snr=0.1)
        assert imaged.snr[1] == 0 and imaged.x[1].var() > 0, "an SNR needs a signal: the noise of the dose remains"


@pytest.mark.parametrize("path", [imaging.image_by_transfer, imaging.image_by_tilt_series])
def test_realised_snr_is_what_is_in_the_box(bank, path):
    specimen = specimens.specimens(torch.tensor([0, 1, 2, 3]), bank, generator=generator(4))
    for snr in (None, 0.05, torch.tensor([0.03, 0.1, 1.0, 10.0])):
        imaged = path(specimen, bank, Optics(), generator=generator(5), snr=snr)
        clean = path(specimen, bank, Optics(), generator=generator(5), noise=False).x
        measured = clean.var((1, 2, 3, 4)) / (imaged.x - clean).var((1, 2, 3, 4))
        torch.testing.assert_close(imaged.snr, measured, rtol=0.02, atol=1e-4)
        if snr is not None:
            torch.testing.assert_close(imaged.snr, torch.as_tensor(snr).expand(4), rtol=0.1, atol=0)


def test_realised_snr_where_the_optics_pass_no_mean(bank):
    optics = Optics(amplitude_contrast=0.0)
    specimen = specimens.specimens(torch.tensor([0, 1]), bank, generator=generator(4))
    imaged = imaging.image_by_transfer(specimen, bank, optics, generator=generator(5))
    clean = imaging.image_by_transfer(specimen, bank, optics, generator=generator(5), noise=False).x
    measured = clean.var((1, 2, 3, 4)) / (imaged.x - clean).var((1, 2, 3, 4))
    torch.testing.assert_close(imaged.snr, measured, rtol=1e-3, atol=0)


def test_realised_snr_of_a_crowded_field_counts_the_noise_alone(bank):
    specimen = specimens.specimens(torch.tensor([0, 1, 2]), bank, generator=generator(4), crowding=0.2)
    assert specimen.template.shape[1] > 1 and (specimen.template[:, 1:] >= 0).any()
    a = imaging.image_by_transfer(specimen, bank, Optics(), generator=generator(5), snr=0.1)
    torch.testing.assert_close(a.snr, torch.full((3,), 0.1), rtol=1e-3, atol=0)


def test_dose_sets_the_noise(bank):
    specimen = specimens.specimens(torch.tensor([0, 0]), bank, generator=generator())
    low, high = (
        imaging.image_by_transfer(specimen, bank, Optics(tilts=(0.0, 3.0), dose_per_tilt=d), generator=generator()).snr
        for d in (0.1, 0.4)
    )
    torch.testing.assert_close(high / low, torch.full((2,), 4.0), rtol=0.15, atol=0)


def test_neighbours_stand_beside_the_particle(bank):
    specimen = specimens.specimens(torch.full((50,), 2), bank, generator=generator(), crowding=0.2)
    distance = specimen.shift[:, 1:].norm(dim=-1)
    reach = 0.85 * (bank.radius[2] + bank.radius[specimen.template[:, 1:].clamp_min(0)])
    placed = specimen.template[:, 1:] >= 0
    assert placed.float().mean() > 0.5
    assert (distance[placed] > reach[placed] - 1.0).all()


@pytest.mark.parametrize("box", [24, 31, 48])
def test_any_box_keeps_the_particle_in_the_centre(box):
    pixel = 288.0 / box * 1.1
    bank = specimens.templates(("apoferritin",), pixel, box, generator=generator())
    specimen = specimens.specimens(torch.zeros(4, dtype=torch.long), bank, generator=generator(), offset=0.0)
    x = imaging.image_by_transfer(specimen, bank, Optics(voxel_size=pixel), generator=generator(), noise=False).x
    weight = x.mean((0, 1)).clamp_min(x.mean((0, 1)).max() / 2)
    weight = weight - weight.min()
    grid = torch.stack(torch.meshgrid(*[torch.arange(box) - box // 2] * 3, indexing="ij")).float()
    centre = (grid * weight).flatten(1).sum(1) / weight.sum()
    assert x.shape == (4, 1, box, box, box) and centre.abs().max() < 0.5


def test_membranes_have_many_shapes_and_molecules_one():
    bank = specimens.templates(("TRiC", "membrane"), PIXEL, 24, generator=generator(), extras=("gold",))
    assert [len(s) for s in bank.shapes] == [1, specimens.VARIANTS["membrane"], 1]
    drawn = specimens.specimens(torch.tensor([0, 1, -1] * 40), bank, generator=generator()).template[:, 0]
    assert set(drawn[0::3].tolist()) == {0} and set(drawn[2::3].tolist()) == {-1}
    assert len(drawn[1::3].unique()) > 6 and set(drawn[1::3].tolist()) <= set(bank.shapes[1])


def test_particles_are_bright(bank):
    specimen = specimens.specimens(torch.full((3,), 2), bank, generator=generator(), offset=0.0)
    x = imaging.image_by_transfer(specimen, bank, Optics(), generator=generator(), noise=False).x
    shell = structures.template("apoferritin", PIXEL, BOX) > 1.0
    assert x[:, 0].mean(0)[shell].mean() > 3 * x.mean().abs()


def test_equal_generators_give_equal_subtomograms(bank):
    def imaged(seed):
        specimen = specimens.specimens(torch.tensor([0, 3]), bank, generator=generator(seed), crowding=0.1)
        return imaging.image_by_transfer(specimen, bank, Optics(), generator=generator(seed)).x

    assert torch.equal(imaged(7), imaged(7)) and not torch.equal(imaged(7), imaged(8))


def test_optics_of_another_voxel_size_are_refused(bank):
    specimen = specimens.specimens(torch.tensor([0]), bank, generator=generator())
    with pytest.raises(InputError, match="10.0 A"):
        imaging.image_by_transfer(specimen, bank, Optics(voxel_size=10.0), generator=generator())
