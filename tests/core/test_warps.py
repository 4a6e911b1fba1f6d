"""Warps: identity at 0, bounded at 1, repeatable, and each does what its formula says."""

import math

import pytest
import torch
import torch.nn.functional as F
from helpers.toy import source, target
from torch import nn

from cryoshift_core.data import normalize
from cryoshift_core.errors import InputError
from cryoshift_core.fourier import power_spectrum
from cryoshift_core.warps import (
    WARPS,
    CrowdingWarp,
    DeformationWarp,
    Domains,
    Envelope,
    HistogramWarp,
    NoiseWarp,
    OpticsWarp,
    ShiftWarp,
    SpectrumWarp,
    Warps,
    gaussian_kernel,
    mean_spectrum,
    signal_envelope,
    smooth,
)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def white(n=4, box=16, seed=0):
    return torch.randn(n, 1, box, box, box, generator=generator(seed))


def build(name, x):
    target_x = normalize(x.pow(3)) if name == "histogram" else normalize(smooth(x, 0.7))
    return WARPS[name](Domains(lambda: x, target_x, 12.0))


@pytest.mark.parametrize("name", WARPS)
@pytest.mark.parametrize("box", [16, 21])
def test_amount_0_is_the_identity_and_amount_1_is_not(name, box):
    x = white(box=box)
    warp = build(name, x)
    assert torch.equal(warp(x, amount=0.0), x)
    y = warp(x, amount=1.0, generator=generator())
    assert y.shape == x.shape and torch.isfinite(y).all() and (y - x).abs().mean() > 1e-3
    half = warp(x, amount=0.5, generator=generator())
    assert (half - x).square().mean() < (y - x).square().mean()


@pytest.mark.parametrize("name", WARPS)
def test_every_draw_comes_from_the_generator(name):
    x = white()
    warp = build(name, x)
    assert torch.equal(warp(x, generator=generator(3)), warp(x, generator=generator(3)))
    assert not torch.equal(warp(x, generator=generator(3)), warp(x, generator=generator(4)))


def _check_all_trained(warp, x):
    """Every parameter gets gradient in two successive passes, and is still the same object afterwards."""
    before = {name: id(p) for name, p in warp.named_parameters()}
    for _ in range(2):
        warp.zero_grad(set_to_none=True)
        warp(x, generator=generator()).pow(3).mean().backward()
    assert before and before == {name: id(p) for name, p in warp.named_parameters()}
    for name, p in warp.named_parameters():
        assert p.grad is not None and p.grad.abs().max() > 0, name


@pytest.mark.parametrize("name", ["noise", "deformation", "spectrum"])
def test_all_parameters_persist_and_get_gradient(name):
    x = white()
    _check_all_trained(build(name, x), x)


def test_a_decoder_created_in_each_forward_pass_would_fail_that_test():
    class Recreated(DeformationWarp):
        def coarse_field(self, x, generator=None):
            self.last = nn.Conv3d(16, 3, 3, padding=1)  # the published defect: fresh random weights on each pass
            return super().coarse_field(x, generator)

    with pytest.raises(AssertionError):
        _check_all_trained(Recreated(), white())


def _check_kernel(kernel):
    assert kernel.sum().item() == pytest.approx(1, abs=1e-6)
    assert len(kernel) % 2 == 1 and kernel.argmax().item() == len(kernel) // 2
    assert torch.allclose(kernel, kernel.flip(0))


@pytest.mark.parametrize("sigma", [0.5, 1.0, 2.5])
def test_smoothing_kernel_is_centred_and_normalised(sigma):
    _check_kernel(gaussian_kernel(sigma))


def test_a_kernel_with_its_peak_in_a_corner_would_fail_that_test():
    corner = torch.exp(-0.5 * (torch.arange(13) / 4.0) ** 2)
    with pytest.raises(AssertionError):
        _check_kernel(corner)
    with pytest.raises(AssertionError):
        _check_kernel(corner / corner.sum())


def test_smoothing_keeps_a_constant_and_the_position_of_a_point():
    assert torch.allclose(smooth(torch.ones(1, 2, 9, 9, 9), 1.0), torch.ones(1, 2, 9, 9, 9), atol=1e-5)
    point = torch.zeros(1, 1, 15, 15, 15)
    point[0, 0, 7, 6, 8] = 1
    blurred = smooth(point, 1.0)
    assert blurred.argmax() == point.argmax() and blurred.sum().item() == pytest.approx(1, abs=1e-4)


def test_noise_and_displacement_stay_within_their_bounds():
    x = 30 * white()
    noise, deformation = NoiseWarp(), DeformationWarp()
    for p in [*noise.parameters(), *deformation.parameters()]:
        nn.init.normal_(p, std=3.0, generator=generator())
    assert noise.delta(x, generator()).abs().max() <= 0.8
    field = deformation.field(x, generator())
    assert field.norm(dim=1).max() <= 1.0 and field.abs().max() > 0.2
    roughness = (field[..., 1:] - field[..., :-1]).abs().max()
    assert roughness < 0.5, "neighbouring voxels move together"


def _bias(last, seeds=20):
    """Mean output before the tanh in units of its spread, worst over random initialisations."""
    worst = 0.0
    for seed in range(seeds):
        torch.manual_seed(seed)
        h = last(torch.randn(64, 8))
        worst = max(worst, abs(h.mean().item()) / h.std().item())
    return worst


def test_a_linear_layer_before_the_tanh_reaches_both_signs_equally():
    def linear(h):
        return F.linear(h, torch.randn(100, 8))

    assert _bias(linear) < 0.1
    assert isinstance(NoiseWarp().last, nn.Conv3d) and isinstance(DeformationWarp().last, nn.Conv3d)
    assert torch.equal(NoiseWarp().last.bias, torch.zeros(8))
    with pytest.raises(AssertionError):  # the published defect, a LeakyReLU before the tanh
        assert _bias(lambda h: F.leaky_relu(linear(h), 0.2)) < 0.1


def test_the_density_moves_by_the_displacement_field():
    class Shifted(DeformationWarp):
        def coarse_field(self, x, generator=None):
            field = torch.zeros(len(x), 3, 3, 3, 3)
            field[:, 2] = 1.0  # z
            return field

    x = white(box=12)
    assert torch.allclose(Shifted()(x)[:, :, :-1], x[:, :, 1:], atol=1e-4)


def coloured(n, seed, wedge=True):
    """Noise with an isotropic colour and a missing wedge about the beam z."""
    x = smooth(white(n, 16, seed), 0.6) + 0.2 * white(n, 16, seed + 100)
    k = [torch.fft.fftfreq(16), torch.fft.fftfreq(16), torch.fft.rfftfreq(16)]
    seen = (k[0].abs()[:, None, None] <= math.tan(math.radians(60)) * k[2] + 1e-6).expand(16, 16, 9)
    gain = torch.where(seen, 1.0, 0.1) if wedge else torch.ones(16, 16, 9)
    return normalize(torch.fft.irfftn(torch.fft.rfftn(x[:, 0], dim=(1, 2, 3)) * gain, dim=(1, 2, 3))[:, None]), seen


def test_the_expected_spectrum_equals_the_targets_with_its_wedge():
    x, (t, seen) = normalize(white(300)), coloured(300, 1)
    warp = SpectrumWarp.estimate(x, t)
    with torch.no_grad():
        warped = warp(x, generator=generator())
    expected, before, after = (mean_spectrum(v).log() for v in (t, x, warped))
    assert (before - expected).abs().mean() > 0.5
    assert (after - expected).abs().mean() < 0.1
    missing = ~seen
    assert (after - expected)[missing].abs().mean() < 0.3, "the target's wedge is imposed"


def test_a_bright_molecule_keeps_its_excess_over_the_mean_source_spectrum():
    s = source(90)
    t, _ = target(90)
    warp = SpectrumWarp.estimate(s.x, t.x)
    with torch.no_grad():
        warped = warp(s.x, generator=generator())
    centre = warped[:, 0, 6:11, 6:11, 6:11].mean((1, 2, 3))
    small, large = centre[s.y == 0].mean(), centre[s.y == 2].mean()
    assert large > small + 0.1


def test_the_signal_envelope_is_measured_on_the_average_particle_without_labels():
    s = source(300, seed=2)
    x, noise = s.x, white(300, 16, 9)
    same = signal_envelope(x, source(300, seed=3).x)
    shells = (torch.arange(1, 5) / 16).square()
    assert torch.allclose(same(shells), torch.ones(4), atol=0.15), same
    weak = signal_envelope(x, 0.5 * x + 2 * noise)
    assert torch.allclose(weak(shells)[:3], torch.full((3,), 0.5), atol=0.25), weak
    k = [torch.fft.fftfreq(16)[:, None, None], torch.fft.fftfreq(16)[:, None], torch.fft.rfftfreq(16)]
    k2 = sum(axis.square() for axis in k)
    true = Envelope(1.5, 60.0, 3.0)
    filtered = torch.fft.irfftn(torch.fft.rfftn(x, dim=(2, 3, 4)) * true(k2), s=(16,) * 3, dim=(2, 3, 4))
    found = signal_envelope(x, filtered + 0.3 * noise)
    assert torch.allclose(found(shells), true(shells), atol=0.1), found
    assert signal_envelope(noise, x) == Envelope(1.0, 0.0, 0.0), "a source without a centred particle shows no envelope"


def test_a_target_like_the_source_changes_little():
    """A gain from a fixed wide range would remove half of the signal where the target is no noisier."""
    s, more = source(300, seed=2), source(300, seed=3)
    warp = SpectrumWarp.estimate(s.x, more.x)
    warp.spread = 1.0
    with torch.no_grad():
        kept = warp(s.x, generator=generator())
    correlation = torch.corrcoef(torch.stack([kept.flatten(), s.x.flatten()]))[0, 1]
    assert correlation > 0.9


def test_spread_among_target_subtomograms_is_kept_and_chance_is_not():
    same = normalize(white(200))
    assert SpectrumWarp.estimate(same, same).bank.std(0).max() < 0.25
    mixed = torch.cat([same[:100], normalize(smooth(same[100:], 0.7))])
    assert SpectrumWarp.estimate(same, mixed).bank.std(0).max() > 0.5


def test_learned_gains_stay_within_a_factor_of_2():
    warp = SpectrumWarp.estimate(white(20), white(20, seed=1))
    choice = torch.zeros(1, dtype=torch.long)
    plain = warp.target_power(choice)
    nn.init.constant_(warp.theta, 50.0)
    ratio = warp.target_power(choice) / plain
    assert 1.9 < ratio.min() and ratio.max() < 2.0001


def test_the_power_spectrum_of_white_noise_is_1_in_every_plane():
    power = power_spectrum(white(400)).mean(0)
    assert power.mean().item() == pytest.approx(1, abs=0.01)
    assert power[..., 0].mean().item() == pytest.approx(1, abs=0.03), "the kx = 0 plane too"


def test_boxes_that_differ_are_refused():
    with pytest.raises(InputError, match="crop"):
        SpectrumWarp.estimate(white(box=16), white(box=18))
    with pytest.raises(InputError, match=r"boxes \(16, 16, 16\), got subtomograms of \(18, 18, 18\)"):
        SpectrumWarp.estimate(white(), white())(white(box=18))


def test_the_optics_warp_removes_frequencies_along_the_beam():
    x = white(200)
    y = OpticsWarp()(x, generator=generator())
    ratio = mean_spectrum(y) / mean_spectrum(x)
    assert ratio[7, 0, 0] < 0.5 < ratio[0, 7, 0], "kz is what a wedge removes, ky is never missing"


def test_the_warps_keep_their_order_and_only_the_named_ones_are_applied():
    x, t = white(20), white(20, seed=1)
    chain = Warps(("noise", "spectrum", "deformation"), x, t, generator())
    assert list(chain.steps) == ["deformation", "spectrum", "noise"]
    assert list(Warps(("noise",), x, t, generator()).steps) == ["noise"]


def _centroid(x):
    axes = torch.meshgrid(*(torch.arange(side) for side in x.shape[2:]), indexing="ij")
    return torch.stack([(x[:, 0] * axis).sum((1, 2, 3)) / x[:, 0].sum((1, 2, 3)) for axis in axes], 1)


@pytest.mark.parametrize("box", [24, 25])
def test_a_shift_moves_the_particle_within_two_voxels_and_changes_nothing_else(box):
    r = torch.arange(box) - box // 2
    ball = torch.exp(-(r[:, None, None] ** 2 + r[:, None] ** 2 + r**2) / 18.0).expand(64, 1, -1, -1, -1)
    moved = ShiftWarp(2.0)(ball, generator=generator())
    distance = (_centroid(moved) - _centroid(ball)).norm(dim=1)
    assert 1.5 < distance.max() <= 2.02 and distance.min() < 1
    assert torch.allclose(moved.sum((1, 2, 3, 4)), ball.sum((1, 2, 3, 4)), rtol=1e-4)
    half = ShiftWarp(2.0)(ball, amount=0.5, generator=generator())
    assert torch.allclose((_centroid(half) - _centroid(ball)), 0.5 * (_centroid(moved) - _centroid(ball)), atol=0.02)


def test_the_shift_follows_the_picking_error_in_angstrom():
    x = white(2, 16)
    cases = ((12.0, None, 0.5), (31.4, None, 0.5), (12.0, 24.0, 2.0), (31.4, 15.7, 0.5), (10.0, 0.0, 0.0))
    for voxel_size, error, bound in cases:
        assert WARPS["shift"](Domains(lambda: x, x, voxel_size, error)).bound == pytest.approx(bound)
    chain = Warps(("shift",), x, x, generator(), voxel_size=10.0, picking_error=20.0)
    assert chain.steps["shift"].bound == 2.0


def test_a_neighbour_is_shifted_aside_and_within_its_bound():
    box, n = 20, 64
    x = torch.zeros(n, 1, box, box, box)
    x[:, 0, 10, 10, 10] = 100.0  # one bright voxel each, which marks the neighbour
    x += 0.01 * torch.randn(x.shape, generator=generator())
    crowded = CrowdingWarp()(x, generator=generator())
    bright = crowded / crowded[:, :, 10:11, 10:11, 10:11]
    bright[:, 0, 10, 10, 10] = 0
    height, position = bright.flatten(1).max(1)
    zyx = torch.stack(torch.unravel_index(position, (box,) * 3), 1) - 10
    seen = height > 0.05
    assert seen.sum() > n // 2 and height.max() <= CrowdingWarp.bound + 0.01
    assert (zyx[seen].abs().max(1).values >= 0.4 * box).all()


@pytest.mark.parametrize("change", [lambda x: x.clamp(-1, 1), lambda x: x.pow(3)])
def test_grey_values_take_the_targets_distribution_and_keep_their_order(change):
    x, t = normalize(white(8, 20)), change(normalize(white(8, 20, seed=1)))
    y = HistogramWarp.estimate(t)(x, generator=generator())
    ranks = torch.linspace(0.02, 0.98, 25)
    found, expected = (v.flatten().quantile(ranks) for v in (y, t))
    assert torch.allclose(found, expected, atol=0.1 * t.std().item())
    assert y.min() >= t.min() and y.max() <= t.max()
    order = x[0].flatten().argsort()
    assert (y[0].flatten()[order].diff() >= -1e-5).all()


def test_a_large_b_factor_is_finite_everywhere():
    x = white(8)
    warp = SpectrumWarp.estimate(x, x)
    warp.envelope = Envelope(5.0, 200.0, 2.0)
    assert torch.isfinite(warp(x, generator=generator())).all()
