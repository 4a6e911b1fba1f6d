"""Spike-in: background boxes are empty, the wedge is found, and spike-ins have the SNR, sign and class requested."""

import numpy as np
import pytest
import torch

import data_fetch
from cryoshift_core import fourier
from cryoshift_core.application import spike_in
from cryoshift_core.data import Unlabelled, normalize
from cryoshift_core.errors import InputError
from cryoshift_core.fourier import squared_frequency
from cryoshift_core.simulation import imaging, scenarios, specimens
from cryoshift_core.simulation.optics import Optics, tilt_scheme
from cryoshift_core.simulation.optics import transfer as optics_transfer
from cryoshift_core.tomography import extraction, mrc
from cryoshift_core.tomography.background import find_background
from cryoshift_core.tomography.wedge import Wedge, fit_wedge, measured_samples, rotations_that_keep
from cryoshift_core.warps import Envelope, mean_spectrum, shell_amplitude
from data_fetch import readers

CLASSES, BOX, PIXEL = ("ribosome_80S", "TRiC", "apoferritin"), 24, 16.0


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.fixture(scope="module")
def bank():
    return specimens.templates(CLASSES, PIXEL, BOX, generator=generator())


def ice(bank, optics, n=30, path=imaging.image_by_transfer, labels=None):
    labels = torch.full((n,), -1) if labels is None else labels
    return path(specimens.specimens(labels, bank, generator=generator(1)), bank, optics, generator=generator(2)).x


def series(low, high, pretilt=0, **more):
    return Optics(**{"voxel_size": PIXEL, **more}, tilts=tilt_scheme(low, high, 3, pretilt))


@pytest.fixture(scope="module")
def boxes(bank):
    return ice(bank, series(-60, 60, noise_slope=0.7))


@pytest.fixture(scope="module")
def wedge(boxes):
    return fit_wedge(boxes, PIXEL)


def spiked(boxes, wedge, n=30, seed=0, classes=CLASSES, **more):
    given = {"snr": 0.3, "voxel_size": PIXEL, "optics": Optics(voxel_size=PIXEL), "wedge": wedge, **more}
    return spike_in.spike(classes, boxes, n, generator=generator(seed), **given)


@pytest.fixture(scope="module")
def tomogram():
    """Noise with 12 bright blobs, of which a picker knows the first eight."""
    data = np.random.default_rng(0).normal(size=(48, 120, 120)).astype(np.float32)
    at = np.array([(24, y, x) for y in (20, 60, 100) for x in (15, 45, 75, 105)])
    z, y, x = np.indices(data.shape)
    for centre in at:
        data += 6 * np.exp(-((z - centre[0]) ** 2 + (y - centre[1]) ** 2 + (x - centre[2]) ** 2) / 18)
    return data, at


def test_background_keeps_clear_of_known_and_unknown_particles(tomogram):
    data, at = tomogram
    found = find_background(data, at[:8], 16, 60, generator())
    assert 20 <= len(found) <= 60
    away = np.abs(found[:, None] - at[None]).max(-1)
    assert away[:, :8].min() >= 12, "three quarters of a box from each particle"
    assert away[:, 8:].min() > 8, "no particle that nobody picked has its middle in a box"
    assert len(extraction.extract(data, found, 16, PIXEL)[1]) == len(found), "each box lies inside"
    np.testing.assert_array_equal(found, find_background(data, at[:8], 16, 60, generator()))
    assert not np.array_equal(found, find_background(data, at[:8], 16, 60, generator(1)))


@pytest.mark.parametrize("none", [None, np.zeros((0, 3))])
def test_background_needs_no_coordinates(tomogram, none):
    found = find_background(tomogram[0], none, 16, 40, generator())
    inside = (np.abs(found[:, None] - tomogram[1][None]).max(-1) < 6).any(1)
    assert len(found) >= 20 and not inside.any()


def test_too_few_background_boxes_are_refused_with_numbers(tomogram):
    everywhere = np.argwhere(np.ones((4, 10, 10))) * 12
    with pytest.raises(InputError, match=r"at least 20 background boxes.*got 0 \(0 contain no given position"):
        find_background(tomogram[0], everywhere, 24, 60, generator())
    with pytest.raises(InputError, match="at least 20"):
        find_background(tomogram[0], None, 64, 60, generator())


@pytest.mark.parametrize(
    "optics, filtered",
    [
        (series(-60, 60), "none"),
        (series(-50, 50, noise_slope=1.0), "none"),
        (series(-60, 40, 15, noise_slope=0.3), "low-pass"),
        (series(-60, 60, tilt_axis=30.0), "band-pass + clip"),
        (series(-60, 40, 15, tilt_axis=-120.0), "none"),
    ],
)
def test_the_wedge_is_found(bank, optics, filtered):
    x = ice(bank, optics, path=imaging.image_by_tilt_series)
    x = normalize(scenarios.PROCESSING[filtered](x))
    wedge = fit_wedge(x, PIXEL)
    axis = (wedge.tilt_axis - optics.tilt_axis + 90) % 180 - 90
    assert abs(axis) <= 4
    found = measured_samples(wedge, BOX)
    index, _ = fourier.half_ball(BOX)
    seen = optics_transfer(optics, BOX)[1] > 0
    assert (found.flatten()[index] != seen).float().mean() < 0.08


def test_noise_without_a_wedge_has_none_missing():
    white = torch.randn(20, 1, BOX, BOX, BOX, generator=generator())
    for x in (white, scenarios.PROCESSING["band-pass + clip"](white)):
        assert measured_samples(fit_wedge(x, PIXEL), BOX).all()
    with pytest.raises(InputError, match="at least 20 boxes.*got 19"):
        fit_wedge(white[:19], PIXEL)


def test_the_wedge_of_a_real_tomogram_is_found():
    sample = data_fetch.sample()
    volume = mrc.read_mrc(sample.tomogram)
    points = readers.read_picks(sample.coordinates, volume).zyx
    at = find_background(volume.data, points, 24, 60, generator())
    found = fit_wedge(extraction.extract(volume.data, at, 24, volume.voxel_size)[0], volume.voxel_size)
    assert abs(found.tilt_axis) <= 4 and -68 <= found.low <= -58 and 58 <= found.high <= 68, "tilted to 60 degrees"


def test_the_wedge_is_not_overestimated_for_small_voxels():
    """Dose weighting leaves little of the late, high tilts beyond 15 A or so."""
    bank = specimens.templates(("apoferritin",), 5.0, 48, generator=generator())
    x = normalize(ice(bank, series(-60, 60, voxel_size=5.0), 40))
    found, finest = fit_wedge(x, 5.0), fit_wedge(x, 12.0)
    assert -66 <= found.low <= -54 and 54 <= found.high <= 66
    assert finest is None or finest.high < 50, "with all shells the test would fail"


@pytest.mark.parametrize(
    "optics, kept",
    [
        (series(-60, 60), (0, 1, 2, 3)),
        (series(-60, 40, 15), (0, 2)),
        (series(-60, 60, tilt_axis=30.0), (0, 1)),
        (series(-60, 40, 15, tilt_axis=-120.0), (0,)),
    ],
)
def test_rotations_that_move_the_wedge_are_left_out(optics, kept):
    index, _ = fourier.half_ball(BOX)
    wedge = torch.zeros(BOX * BOX * (BOX // 2 + 1), dtype=torch.bool)
    wedge[index] = optics_transfer(optics, BOX)[1] > 0
    assert rotations_that_keep(wedge.view(BOX, BOX, -1)) == kept


def test_the_optics_are_fitted_so_that_spikes_have_the_targets_spectrum(bank):
    optics = series(-60, 60, noise_slope=0.5, b_factor=3600.0, defocus=3.0)
    target = normalize(ice(bank, optics, labels=torch.arange(90) % 3))
    background = normalize(ice(bank, optics, 40))
    wedge = fit_wedge(background, PIXEL)
    how = {"voxel_size": PIXEL, "wedge": wedge}
    fitted, snr = spike_in.fit_optics(
        CLASSES, target, background, optics=Optics(voxel_size=PIXEL), generator=generator(), **how
    )
    assert 900 <= fitted.b_factor <= 10000 and snr > 0
    p_t, p_s, p_b = (
        mean_spectrum(x)[:, 0, : BOX // 2].mean(0).log()
        for x in (target, spiked(background, wedge, 90, snr=snr, optics=fitted).x, background)
    )
    assert (p_t - p_s).abs().mean() < 0.5 * (p_t - p_b).abs().mean()


@pytest.mark.parametrize(
    "wedge, ends, axis", [(Wedge(20.0, -60.0, 42.0), (-58.5, 40.5), 20.0), (None, (-78.5, 78.5), 5.0)]
)
def test_spikes_are_imaged_over_the_measured_tilts(wedge, ends, axis):
    optics = spike_in.through(Optics(tilt_axis=5.0, pretilt=15.0, defocus=2.0), wedge)
    assert (min(optics.tilts), max(optics.tilts)) == pytest.approx(ends, abs=0.1)
    assert optics.tilt_axis == axis and optics.defocus == 2.0 and abs(optics.tilts[0]) < abs(optics.tilts[-1])
    assert len(optics.tilts) == (34 if wedge else 53), "about 3 degrees apart, as the given tilts are"


def test_a_spike_is_as_strong_as_asked_and_classes_keep_their_proportion(boxes, wedge):
    made = spiked(boxes, wedge, 60)
    assert made.x.shape == (60, 1, BOX, BOX, BOX) and made.y.bincount().tolist() == [20, 20, 20]
    assert made.snr.mean().item() == pytest.approx(0.3, rel=1e-4)
    by_class = [made.snr[made.y == k].mean().item() for k in range(3)]
    assert by_class[0] > by_class[1] > by_class[2] > 0


def test_spikes_are_bright_centred_and_leave_the_wedge_empty(boxes, wedge):
    made = spiked(boxes, wedge, 60, snr=20.0, offset=0.0)
    mean = made.x[made.y == 2].mean((0, 1))  # apoferritin, a small shell
    middle = slice(BOX // 2 - 4, BOX // 2 + 5)
    assert mean[middle, middle, middle].mean() > 0.4 * mean.std() > 0
    power = mean_spectrum(made.x)
    index, k = fourier.half_ball(BOX)
    missing = (~wedge.mask(BOX)).flatten()[index] & (k.norm(dim=-1) > 0.2)
    assert power.flatten()[index][missing].mean() < 0.05 * power.flatten()[index].mean()


def test_the_same_generator_gives_the_same_spikes(boxes, wedge):
    one, same, other = spiked(boxes, wedge), spiked(boxes, wedge), spiked(boxes, wedge, seed=1)
    assert torch.equal(one.x, same.x) and torch.equal(one.y, same.y)
    assert not torch.equal(one.x, other.x)


def test_boxes_that_are_used_again_are_rotated(boxes, wedge):
    made = spiked(boxes[:5], wedge, 12, snr=1e-6)
    subtomograms = made.x.flatten(1)
    distance = torch.cdist(subtomograms, subtomograms) + 1e6 * torch.eye(12)
    assert made.groups.bincount().max() == 3 and distance.min() > 1, "no box comes twice the same way"


def test_ice_can_be_inserted(boxes, wedge):
    made = spiked(boxes, wedge, 30, classes=("TRiC", "ice", "apoferritin"))
    assert made.classes == ("TRiC", "ice", "apoferritin")
    assert (made.snr[made.y == 1] == 0).all() and (made.snr[made.y != 1] > 0).all()
    assert made.snr[made.y != 1].mean().item() == pytest.approx(0.3, rel=1e-4)


@pytest.mark.parametrize(
    "change, message",
    [
        ({"snr": 0.0}, "SNR above 0 for spike-ins, got 0.*spike_snr"),
        ({"snr": float("nan")}, "SNR above 0 for spike-ins, got nan"),
        ({"n": 2}, "each of 3 classes.*got 2 spike-ins"),
        ({"envelope": torch.ones(8, 8, 5)}, "Expected an envelope of"),
        ({"classes": ("ice",)}, "got ice, which are empty"),
    ],
)
def test_wrong_values_are_refused(boxes, wedge, change, message):
    with pytest.raises(InputError, match=message):
        spiked(boxes, **{"wedge": wedge, **change})


@pytest.mark.parametrize("snr, highpass", [(0.05, 0.0), (0.5, 4.0)])
def test_the_average_particle_gives_snr_and_filter(bank, wedge, snr, highpass):
    white = torch.randn(120, 1, BOX, BOX, BOX, generator=generator(7))
    filtered = Envelope(1.0, 0.0, highpass)(squared_frequency((BOX, BOX, BOX)))
    target = spiked(white, wedge, n=600, seed=5, snr=snr, envelope=filtered).x
    how = {"voxel_size": PIXEL, "optics": Optics(voxel_size=PIXEL), "wedge": wedge}
    envelope, found = spike_in.fit_average(CLASSES, target, white.flip(0), **how)
    assert found == pytest.approx(snr, rel=0.35)
    again = spiked(white.flip(0), wedge, n=600, seed=6, snr=found, envelope=envelope).x
    one, other = (shell_amplitude(x)[0][:3] for x in (target, again))
    # shell 1 within 17 %: the high-pass of 4 voxels is fitted as 5, the next one that is tried
    assert torch.allclose(one, other, atol=0.17 * float(one.abs().max()))
    assert spike_in.fit_average(CLASSES, white, white.flip(0), **how) is None, "noise has no average particle"


def test_an_average_stronger_than_any_spike_in_gives_no_snr(boxes, wedge):
    target = spiked(boxes, wedge, n=300, seed=5, snr=4.0).x
    how = {"voxel_size": PIXEL, "optics": Optics(voxel_size=PIXEL), "wedge": wedge}
    assert spike_in.fit_average(CLASSES, target, boxes, **how)[1] < spike_in.LARGEST_SNR
    assert spike_in.fit_average(CLASSES, 4 * target, boxes, **how) is None, "10 would be the bound, and no estimate"


def test_an_imitation_is_made_by_the_average_or_by_the_spectra_or_not_at_all(bank, boxes, wedge):
    strong = Unlabelled(spiked(boxes, wedge, n=90, snr=0.5).x, PIXEL, torch.zeros(90), "toy")
    optics = Optics(voxel_size=PIXEL)
    (made,) = spike_in.imitate(CLASSES, strong, boxes, 60, optics=optics, seed=1)
    assert made.snr.mean() == pytest.approx(0.5, rel=0.4) and len(made) == 60
    assert spike_in.imitate(CLASSES, strong, boxes, 60, optics=optics, snr=0.1)[0].snr.mean() == pytest.approx(0.1)
    nothing = Unlabelled(boxes, PIXEL, torch.zeros(len(boxes)), "toy")
    with pytest.raises(InputError, match="spike_snr"):
        spike_in.imitate(CLASSES, nothing, boxes, 60, optics=optics)


def test_spike_ins_are_made_on_the_device_of_the_background(boxes):
    """A default device of "meta" shows each tensor that is made without a device."""
    target = Unlabelled(spiked(boxes, fit_wedge(boxes, PIXEL), n=30, snr=0.5).x, PIXEL, torch.zeros(30), "toy")
    white = Unlabelled(torch.randn(30, 1, BOX, BOX, BOX, generator=generator(3)), PIXEL, torch.zeros(30), "noise")
    with torch.device("meta"):
        (by_average,) = spike_in.imitate(CLASSES, target, boxes, 12, optics=Optics(voxel_size=PIXEL), device="cpu")
        (by_spectra,) = spike_in.imitate(
            CLASSES, white, boxes, 12, optics=Optics(voxel_size=PIXEL), snr=0.3, device="cpu"
        )
    for made in (by_average, by_spectra):
        tensors = (made.x, made.y, made.snr, made.groups)
        assert all(tensor.device.type == "cpu" for tensor in tensors) and made.y.bincount().tolist() == [4, 4, 4]


def test_the_score_counts_per_class_and_compares_methods(boxes, wedge):
    spikes = spiked(boxes, wedge, 30)
    right = torch.eye(3)[spikes.y]
    wrong = torch.eye(3)[torch.where(spikes.y == 2, 1, spikes.y)]
    best, worse = spike_in.score(right, spikes), spike_in.score(wrong, spikes)
    assert best.balanced_accuracy == 1 and worse.balanced_accuracy == pytest.approx(2 / 3)
    assert worse.recall.tolist() == [1, 1, 0] and worse.confusion.tolist() == [[10, 0, 0], [0, 10, 0], [0, 10, 0]]
    assert worse.worse_than(best) and not best.worse_than(worse) and not best.worse_than(best)
    rows = spike_in.table({"a": best, "b": worse}).splitlines()
    assert rows[0] == "method,class,cubes,recall" and rows[-1] == "b,apoferritin,10,0.0000" and len(rows) == 7
