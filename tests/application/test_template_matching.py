"""Template matching against correlations in real space, boxes that the other simulation imaged, and other shapes."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy import ndimage

from cryoshift_core import data
from cryoshift_core.application.template_matching import HIGHEST, Matches, TemplateBank
from cryoshift_core.errors import InputError
from cryoshift_core.simulation import controls, imaging, specimens
from cryoshift_core.simulation.optics import Optics, tilt_scheme

CLASSES = ("ribosome_80S", "TRiC", "apoferritin", "ice")
BOX, OPTICS = 24, Optics(voxel_size=16.0, tilts=tilt_scheme(-60, 60), defocus=3.0)


def imaged(y: torch.Tensor, snr: float | None, change: str = "", seed: int = 1, offset: float = 1.0) -> torch.Tensor:
    """Subtomograms of classes y, projected and reconstructed tilt by tilt; the bank uses the transfer function."""
    g = torch.Generator().manual_seed(seed)
    put = {"change": lambda _, volume: controls.shape(volume, change)} if change else {}
    bank = specimens.templates(CLASSES, OPTICS.voxel_size, BOX, generator=g, **put)
    placed = specimens.specimens(y, bank, generator=g, offset=offset)
    made = imaging.image_by_tilt_series(placed, bank, OPTICS, generator=g, snr=snr, noise=snr is not None)
    return data.normalize(made.x)


@pytest.fixture(scope="module")
def truth() -> torch.Tensor:
    return torch.arange(60) % 3


@pytest.fixture(scope="module")
def noisy(truth: torch.Tensor) -> torch.Tensor:
    return imaged(truth, snr=0.1)


@pytest.fixture(scope="module")
def bank(noisy: torch.Tensor) -> TemplateBank:
    return TemplateBank.of(CLASSES, noisy, OPTICS, device="cpu")


def test_particles_of_the_other_simulation_are_recognised(bank, noisy, truth):
    found = bank.match(noisy)
    assert (found.labels == truth).float().mean() > 0.9
    assert found.correlation[:, 3].isnan().all() and not found.with_template[3]  # ice has no template


def test_noise_free_particles_resemble_their_template_and_others_do_not(bank, truth):
    found = bank.match(imaged(truth, snr=None, offset=0.0))
    own = found.correlation[torch.arange(len(truth)), truth]
    assert own.median() > 0.9
    assert (found.labels == truth).all()


def test_shuffled_frequencies_are_not_recognised(bank, noisy, truth):
    """A wrong variant fails: with the axes of a subtomogram exchanged, templates and wedge no longer fit."""
    turned = noisy.flip(2).transpose(2, 4)
    same, wrong = (bank.match(x).correlation.nan_to_num(-1).amax(1).mean() for x in (noisy, turned))
    assert wrong < same


def test_correlation_is_that_in_real_space(bank, noisy):
    """A template, taken back to real space, correlates with a filtered subtomogram as `match` says."""
    few = replace(bank, templates=bank.templates[:, :3], phases=torch.ones_like(bank.phases[:1]))
    found = few.match(noisy[:4]).correlation
    twice = 1.0 + (bank.index % (BOX // 2 + 1) > 0)

    def real(coefficients: torch.Tensor) -> np.ndarray:
        flat = torch.zeros(BOX * BOX * (BOX // 2 + 1), dtype=torch.complex64)
        flat[few.index] = coefficients
        return torch.fft.irfftn(flat.reshape(BOX, BOX, -1), s=(BOX,) * 3).numpy().ravel()

    for i in range(4):
        spectrum = torch.fft.rfftn(torch.fft.ifftshift(noisy[i, 0])).flatten()[few.index]
        box = real(spectrum * few.weight / twice.sqrt())
        for k in range(3):
            each = torch.view_as_complex(few.templates[k].unflatten(1, (-1, 2)).contiguous())
            best = max(np.corrcoef(box, real(t))[0, 1] for t in each / twice.sqrt())
            assert found[i, k] == pytest.approx(best, abs=1e-4)


def test_a_shifted_particle_is_still_recognised_and_the_tried_shifts_are_those_of_scipy(bank, truth):
    x = imaged(truth[:12], snr=None)
    moved = torch.from_numpy(np.stack([ndimage.shift(one[0].numpy(), (1.5, 0, -1.5), order=3) for one in x]))[:, None]
    still = replace(bank, phases=torch.ones_like(bank.phases[:1]))
    assert (bank.match(moved).labels == truth[:12]).all()
    top = lambda found: found.correlation.nan_to_num(-1).amax(1)  # noqa: E731
    assert (top(bank.match(moved)) > top(still.match(moved))).all()


def test_shapes_of_the_same_mass_are_strange_and_known_particles_are_not(bank):
    y = torch.arange(150) % 3
    known, target = bank.match(imaged(y, snr=0.3, seed=2)), bank.match(imaged(y, snr=0.3, seed=3))
    of_known = bank.match(imaged(y, snr=0.3, seed=4)).strangeness(known.limits(y, target)).gt(0).float().mean()
    of_shells = (
        bank.match(imaged(y, snr=0.3, change="shell", seed=4)).strangeness(known.limits(y, target)).gt(0).float().mean()
    )
    assert of_known < 0.2 < 0.6 < of_shells


def test_the_same_seed_gives_the_same_numbers(noisy):
    one, other = (TemplateBank.of(CLASSES, noisy, OPTICS, device="cpu").match(noisy[:5]) for _ in range(2))
    assert torch.equal(one.excess, other.excess)
    assert torch.equal(one.correlation.nan_to_num(0), other.correlation.nan_to_num(0))


def test_frequencies_stay_below_the_limit_and_outside_the_wedge(bank):
    z, y, x = np.unravel_index(bank.index.numpy(), (BOX, BOX, BOX // 2 + 1))
    k = np.stack([np.fft.fftfreq(BOX)[z], np.fft.fftfreq(BOX)[y], x / BOX])
    assert np.linalg.norm(k, axis=0).max() < HIGHEST
    steep = np.degrees(np.arctan2(np.abs(k[0]), np.abs(k[2])))
    assert steep[np.hypot(k[0], k[2]) > 0.2].max() < 70  # tilts of up to 60 degrees, and a Fourier voxel


@pytest.mark.parametrize("shape", [(0, 1, BOX, BOX, BOX), (3, 1, 20, 20, 20), (3, BOX, BOX, BOX)])
def test_other_boxes_are_refused(bank, shape):
    with pytest.raises(InputError, match=f"n = {BOX} voxels"):
        bank.match(torch.zeros(shape))


def test_a_list_of_ice_alone_is_refused(noisy):
    with pytest.raises(InputError, match="a class with a density"):
        TemplateBank.of(["ice"], noisy, OPTICS, device="cpu")


def test_the_limit_of_a_class_is_its_own():
    """Two classes whose excess differs: one limit for both would mark one of them as a whole."""
    draw = np.random.default_rng(0)
    y = torch.arange(400) % 2
    excess = torch.from_numpy(draw.normal(size=(400, 2))).float() + 10.0 * y[:, None]
    correlation = torch.nn.functional.one_hot(y, 2).float()
    same = Matches(("a", "b"), correlation, excess)
    assert same.strangeness(same.limits(y, same)).gt(0).float().mean() < 0.12
    high = Matches(("a", "b"), correlation, excess + 5.0 * (y[:, None] == 0))  # below the limit of b
    assert high.strangeness(same.limits(y, same))[y == 0].gt(0).float().mean() > 0.9


def test_large_boxes_keep_no_more_frequencies_than_poses_can_follow():
    g = torch.Generator().manual_seed(0)
    x = torch.randn(4, 1, 64, 64, 64, generator=g)
    large = TemplateBank.of(("TRiC", "apoferritin"), x, replace(OPTICS, voxel_size=6.0), device="cpu")
    assert large.index.numel() < 4 / 3 * np.pi * 12**3 / 2 * 1.1, "memory grows with the classes, not with the box"


def test_nearly_round_molecules_with_few_independent_templates_give_numbers(noisy):
    round_ones = TemplateBank.of(("apoferritin", "TYMV_capsid"), noisy, OPTICS, device="cpu").match(noisy[:5])
    assert torch.isfinite(round_ones.excess).all()
