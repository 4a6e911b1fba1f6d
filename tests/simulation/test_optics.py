"""Optics against independent programs and published numbers."""

import math

import pytest
import torch
from torch_ctf import calculate_ctf_2d
from torch_fourier_filter.dose_weight import critical_exposure, dose_weight_2d

from cryoshift_core import fourier
from cryoshift_core.errors import InputError
from cryoshift_core.simulation import imaging, specimens
from cryoshift_core.simulation.optics import (
    Optics,
    angular_step,
    attenuation_length,
    ctf,
    dose_filter,
    dose_tolerance,
    interaction_constant,
    noise_colour,
    ramp,
    reconstruction_filter,
    shot_noise,
    tilt_amplitude,
    tilt_scheme,
    transfer,
)

K_A = torch.linspace(0.0005, 0.05, 200)


@pytest.mark.parametrize("voltage", [100.0, 200.0, 300.0])
@pytest.mark.parametrize("defocus, amplitude, cs", [(0.5, 0.07, 2.7), (3.0, 0.07, 2.7), (6.0, 0.15, 1.5)])
def test_ctf_agrees_with_torch_ctf(defocus, amplitude, cs, voltage):
    n, pixel = 64, 8.0
    theirs = calculate_ctf_2d(
        torch.tensor(defocus), 0.0, 0.0, voltage, cs, amplitude, 0.0, pixel, (n, n), rfft=True, fftshift=False
    )
    k = torch.hypot(torch.fft.fftfreq(n)[:, None], torch.fft.rfftfreq(n)[None]) / pixel
    ours = ctf(k, Optics(voxel_size=pixel, defocus=defocus, amplitude_contrast=amplitude, cs=cs, voltage=voltage))
    assert ours[0, 0] == pytest.approx(amplitude, abs=1e-6)
    torch.testing.assert_close(ours, theirs, atol=2e-3, rtol=0)


def test_underfocus_is_positive():
    rising = ctf(torch.tensor([0.0, 0.01]), Optics(defocus=2.0))
    falling = ctf(torch.tensor([0.0, 0.01]), Optics(defocus=-2.0))
    assert rising[1] > rising[0] > falling[1]


def test_wavelength():
    assert fourier.wavelength(300) == pytest.approx(0.01969, abs=1e-5)
    assert fourier.wavelength(200) == pytest.approx(0.02508, abs=1e-5)


@pytest.mark.parametrize("dose", [1.5, 60.0])
def test_dose_filter_agrees_with_torch_fourier_filter(dose):
    torch.testing.assert_close(dose_filter(K_A, dose), torch.exp(-0.5 * dose / critical_exposure(K_A)))
    assert dose_filter(torch.zeros(1), dose) == pytest.approx(1.0, abs=1e-3)


@pytest.mark.parametrize("voltage", [100.0, 200.0, 300.0])
def test_dose_filter_agrees_with_torch_fourier_filter_at_each_voltage(voltage):
    n, pixel, dose = 64, 8.0, 40.0
    # the package normalises over frames: the ratio to a frame without dose is the weight of the other
    ones = torch.ones(2, n, n // 2 + 1, dtype=torch.complex64)
    k = torch.hypot(torch.fft.fftfreq(n)[:, None], torch.fft.rfftfreq(n)[None]) / pixel
    frames = dose_weight_2d(ones, (n, n), pixel, torch.tensor([0.0, dose]), voltage=voltage).real
    theirs = frames[1] / frames[0]
    torch.testing.assert_close(dose_filter(k, dose, voltage), theirs, atol=1e-5, rtol=1e-4)
    if voltage < 300:
        assert (dose_filter(k, dose, 300.0) - theirs).abs().max() > 0.01, "300 kV must not pass"


def test_interaction_constant_has_the_textbook_values():
    # Kirkland, Advanced Computing in Electron Microscopy
    for voltage, value in ((100, 9.244e-4), (200, 7.288e-4), (300, 6.526e-4)):
        assert interaction_constant(voltage) == pytest.approx(value, rel=2e-4)
    assert interaction_constant(300.0) == 6.526e-4 and attenuation_length(300.0) == 300.0, "300 kV is exact"
    assert dose_tolerance(300.0) == 1.0


def test_attenuation_follows_the_squared_velocity():
    # v / c: 0.5482, 0.6953 and 0.7765 at 100, 200 and 300 kV
    for voltage, beta in ((100, 0.5482), (200, 0.6953)):
        assert attenuation_length(voltage) / 300 == pytest.approx((beta / 0.7765) ** 2, rel=1e-3)


def test_every_place_where_voltage_counts_changes_with_it():
    high, low = Optics(), Optics(voltage=200.0)
    assert shot_noise(low)[0] / shot_noise(high)[0] == pytest.approx(math.exp(50 / 240.5 - 50 / 300), rel=1e-3)
    k = torch.zeros(1)  # at k = 0 the CTF is the amplitude contrast and the dose filter is 1
    ratio = tilt_amplitude(k, low)[0][0, 0] / tilt_amplitude(k, high)[0][0, 0]
    assert ratio == pytest.approx(7.288 / 6.526, rel=1e-3)
    k = torch.tensor([0.3])
    torch.testing.assert_close(
        tilt_amplitude(k, low)[1][:, 0], dose_filter(k / 12, 3 * (torch.arange(41) + 0.5), 200.0)
    )


@pytest.mark.parametrize("voltage", [0.0, 80.0, 400.0, 300_000.0, float("nan")])
def test_voltages_without_measured_damage_are_refused(voltage):
    with pytest.raises(InputError, match="Optics.voltage: expected 100 to 300 kV.*got"):
        Optics(voltage=voltage)


def test_tilt_scheme_is_dose_symmetric_and_starts_at_the_pretilt():
    angles = tilt_scheme(-60, 40, 3, pretilt=15)
    assert len(angles) == 34 and min(angles) == -60 and max(angles) == 39
    assert abs(angles[0] - 15) <= 1.5
    assert all(abs(a - 15) <= abs(b - 15) + 1e-9 for a, b in zip(angles, angles[1:], strict=False))


def test_shot_noise_follows_the_electrons():
    base = Optics(tilts=(0.0, 60.0))
    sigma = shot_noise(base)
    electrons = 3.0 * 12.0**2 * 0.6 * math.exp(-100 / 300)
    assert sigma[0] == pytest.approx(electrons**-0.5)
    assert sigma[1] / sigma[0] == pytest.approx(math.exp(0.5 * 100 / 300))
    assert shot_noise(Optics(tilts=(0.0,), dose_per_tilt=12.0))[0] == pytest.approx(sigma[0] / 2)


def test_a_pretilted_lamella_is_crossed_on_the_shortest_path_at_its_pretilt():
    """300 kV, ice as thick as the attenuation length: exp(-path / 300) electrons, path = 300 / cos(tilt - pretilt)."""
    sigma = shot_noise(Optics(tilts=(-60.0, -15.0, 0.0, 40.0), thickness=300.0, pretilt=-15.0))
    path = [1 / math.cos(math.radians(a)) for a in (45, 0, 15, 55)]
    for found, length in zip(sigma, path, strict=True):
        assert float(found / sigma[1]) == pytest.approx(math.exp((length - 1) / 2), rel=1e-5)
    with pytest.raises(InputError, match="Optics.pretilt: .*got a tilt 90 degrees from 30"):
        Optics(tilts=(-60.0, 0.0), pretilt=30.0)


@pytest.mark.parametrize("n", [24, 33])
def test_half_ball_is_what_an_rfftn_keeps(n):
    index, k = fourier.half_ball(n)
    grid = torch.zeros(n * n * (n // 2 + 1), dtype=torch.complex64)
    position = torch.tensor([3.0, -2.0, 1.0])
    grid[index] = torch.exp(-2j * math.pi * (k @ position))
    peak = torch.fft.irfftn(grid.reshape(n, n, n // 2 + 1), s=(n, n, n)).argmax()
    assert [int(i) for i in torch.unravel_index(peak, (n, n, n))] == [3, n - 2, 1]


def test_missing_wedge_is_where_the_tilt_range_says():
    index, k = fourier.half_ball(48)
    H, S = transfer(Optics(tilts=tilt_scheme(-50, 50)), 48)
    elevation = torch.rad2deg(torch.atan2(k[:, 0].abs(), k[:, 2].abs()))
    far = torch.hypot(k[:, 0], k[:, 2]) > 0.2
    assert (H[far & (elevation > 55)] == 0).all() and (S[far & (elevation > 55)] == 0).all()
    assert (S[far & (elevation < 48)] > 0).float().mean() > 0.99


def test_noise_colour_keeps_the_power_of_white_noise():
    k = torch.linspace(0, 0.5, 4001)
    for slope in (0.0, 0.7, 1.5):
        power = noise_colour(k, slope).square()
        assert (power * k).sum() / k.sum() == pytest.approx(1.0, rel=0.01)
    assert noise_colour(torch.tensor([0.05]), 1.0) > noise_colour(torch.tensor([0.4]), 1.0)


def test_the_weights_of_the_tilts_add_up_to_one_between_the_first_and_the_last():
    """Without CTF and dose the transfer function is the sum of the weights."""
    _, k = fourier.half_ball(48)
    flat = dict(defocus=0.0, cs=0.0, amplitude_contrast=1.0, dose_per_tilt=1e-6)
    H, _ = transfer(Optics(**flat), 48)
    H = H / (2 * interaction_constant(300.0) * 12.0)
    tilt = torch.rad2deg(torch.atan2(k[:, 0], k[:, 2])).abs()
    far = torch.hypot(k[:, 0], k[:, 2]) > 0.1
    torch.testing.assert_close(H[far & (tilt < 56)], torch.ones(int((far & (tilt < 56)).sum())), atol=1e-4, rtol=0)
    assert (H[far & (tilt > 68) & (tilt < 90)] == 0).all()
    axis = (k[:, 0] == 0) & (k[:, 2] == 0)
    torch.testing.assert_close(H[axis], torch.full((int(axis.sum()),), 41 * 3 / 180), atol=0.01, rtol=0)


def test_each_tilt_stands_for_the_median_step():
    assert math.degrees(angular_step((0.0, 2.0, -2.0, 4.0, 9.0))) == pytest.approx(2.0)
    assert math.degrees(angular_step((0.0, 0.0, 3.0))) == pytest.approx(3.0), "a tilt that was taken twice"
    assert math.degrees(angular_step((10.0,))) == pytest.approx(3.0)


def test_the_ramp_grows_linearly_and_does_not_wrap_around():
    values = ramp(128)
    torch.testing.assert_close(values[2:], torch.arange(2, 65) / 128, rtol=0.005, atol=0)
    response = torch.fft.irfft(values.double())  # of Kak & Slaney, eq. 3.61: 1/4, -1/(pi x)^2 at odd x, 0 at even x
    torch.testing.assert_close(
        response[:4], torch.tensor([0.25, -1 / math.pi**2, 0.0, -1 / (3 * math.pi) ** 2]).double(), atol=1e-7, rtol=0
    )


def test_sirt_filter():
    k = torch.tensor([0.0, 1 / 512, 0.1, 0.5])
    assert (reconstruction_filter(k, Optics()) == 1).all()
    few, many = (reconstruction_filter(k, Optics(sirt_iterations=n)) for n in (1, 1000))
    torch.testing.assert_close(few, torch.tensor([1.0, 1.0, 10 / 512, 2 / 512]))  # one iteration is a back-projection
    assert (many > 0.95).all(), "many iterations converge to the weighted back-projection"
    with pytest.raises(InputError, match="sirt_iterations: expected 0 .*got -1"):
        Optics(sirt_iterations=-1)


def test_structural_share_keeps_the_noise_power():
    white = transfer(Optics(), 32)[1].square().sum()
    shared = transfer(Optics(structural_fraction=0.4), 32)[1].square().sum()
    assert shared / white == pytest.approx(1.0, rel=0.02)


@pytest.mark.parametrize(
    "wrong", [{"voxel_size": 0.0}, {"tilts": ()}, {"tilts": (85.0,)}, {"structural_fraction": 1.0}]
)
def test_impossible_optics_are_refused(wrong):
    with pytest.raises(InputError, match=next(iter(wrong))):
        Optics(**wrong)


def test_the_tilt_axis_turns_from_y_towards_x():
    axis = torch.tensor([0.0, math.cos(math.radians(30)), math.sin(math.radians(30))])
    torch.testing.assert_close(fourier.to_tilt_frame(axis, 30.0), torch.tensor([0.0, 1.0, 0.0]), atol=1e-6, rtol=0)
    there = fourier.to_tilt_frame(torch.tensor([1.0, 2.0, 3.0]), 70.0)
    torch.testing.assert_close(fourier.to_tilt_frame(there, -70.0), torch.tensor([1.0, 2.0, 3.0]))


def test_the_missing_wedge_turns_with_the_tilt_axis():
    _, k = fourier.half_ball(32)
    far = k.norm(dim=-1) > 0.2
    for angle in (0.0, 30.0, 90.0):
        missing = k[(transfer(Optics(tilt_axis=angle), 32)[1] == 0) & far]
        across = fourier.to_tilt_frame(missing, angle)[:, 2].abs()
        assert len(missing) > 1000 and (across < 0.6 * missing[:, 0].abs()).all(), "within 30 degrees of the beam"


def test_both_imaging_paths_honour_the_tilt_axis():
    g = torch.Generator().manual_seed(0)
    bank = specimens.templates(("ribosome_80S", "TRiC"), 12.0, 32, generator=g)
    specimen = specimens.specimens(torch.arange(6) % 2, bank, generator=g)
    straight, turned = Optics(), Optics(tilt_axis=30.0)

    def correlation(a, b):
        a, b = (x - x.mean((1, 2, 3, 4), keepdim=True) for x in (a, b))
        return ((a * b).sum((1, 2, 3, 4)) / (a.square().sum((1, 2, 3, 4)) * b.square().sum((1, 2, 3, 4))).sqrt()).mean()

    slow, fast, old = (
        path(specimen, bank, optics, generator=g, noise=False).x
        for path, optics in (
            (imaging.image_by_tilt_series, turned),
            (imaging.image_by_transfer, turned),
            (imaging.image_by_transfer, straight),
        )
    )
    assert correlation(slow, fast) > 0.98 > 0.95 > correlation(fast, old)
