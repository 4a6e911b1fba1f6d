"""Every tensor of the simulation is made with an explicit device.

The tests set torch's default device to "meta", whose tensors have no values, and give CPU inputs and generators. A
tensor that is made without a device lands on "meta"; using it together with CPU tensors, or reading it, fails.
"""

import math

import pytest
import torch

from cryoshift_core import fourier
from cryoshift_core.simulation import datasets, imaging, optics, scenarios, specimens, structures
from cryoshift_core.simulation.datasets import DatasetConfig
from cryoshift_core.simulation.optics import Optics

BOX, PIXEL = 16, 24.0
CPU = torch.device("cpu")
CACHED = (
    fourier.resampling_matrix,
    fourier.half_ball,
    optics.transfer,
    optics.structural_amplitude,
    imaging._insertion,
    imaging._grid_index,
    imaging._field,
    structures._load,
)


@pytest.fixture(autouse=True)
def empty_caches():
    """A cached table from another test would hide a missing device, and one made here would harm other tests."""
    for cached in CACHED:
        cached.cache_clear()
    yield
    for cached in CACHED:
        cached.cache_clear()


def generator(seed=0):
    return torch.Generator("cpu").manual_seed(seed)


def bank(extras=()):
    names = ("apoferritin", "membrane", "ice")
    return specimens.templates(names, PIXEL, BOX, generator=generator(), extras=extras, change=deformed)


def deformed(name, volume):
    return scenarios.deform(volume, 0.3, torch.Generator().manual_seed(0))


EVERYTHING = dict(
    noise_slope=1.0, structural_fraction=0.3, misalignment=2.5, tilt_axis=20.0, b_factor=100.0, sirt_iterations=5
)


def image(path, **kind):
    molecules = bank(extras=("gold",))
    labels = torch.tensor([0, 1, -1], device="cpu")
    some = specimens.specimens(labels, molecules, generator=generator(1), crowding=0.2, extras=[3])
    setting = Optics(voxel_size=PIXEL, tilts=(0.0, -20.0, 20.0, -40.0, 40.0), **kind)
    snr = torch.tensor([0.1, 0.2, 0.3], device="cpu")
    for level in (None, 0.1, snr):
        imaged = path(some, molecules, setting, generator=generator(2), snr=level)
        assert imaged.x.device == imaged.snr.device == CPU and imaged.x.isfinite().all()
    assert path(some, molecules, setting, generator=generator(2), noise=False).x.device == CPU


def everything_in_fourier():
    box = (BOX, BOX, BOX)
    x = torch.randn(2, 1, *box, generator=generator(), device="cpu")
    k = fourier.frequency_vectors(box, "cpu").norm(dim=-1)
    means, samples = fourier.shell_means(fourier.power_spectrum(x).mean(0), fourier.shells(box))
    defocus = torch.tensor([1.0, 3.0], device="cpu").view(2, 1, 1, 1)
    made = [
        *fourier.frequencies(box), *fourier.half_ball(BOX), means, samples, fourier.squared_frequency(box),
        fourier.radial_bands(box, 4), fourier.gaussian_low_pass(x, 1.0), fourier.gridding_correction(BOX, 1.0),
        fourier.to_tilt_frame(x[..., :3], 10.0), fourier.full_from_half(k > 0.2),
        fourier.resampling_matrix(16, 4.0, 8, 8.0, 64.0),
        fourier.ctf(k / PIXEL, defocus=defocus, voltage=300.0, cs=2.7, amplitude_contrast=0.07),
    ]  # fmt: skip
    assert all(tensor.device == CPU for tensor in made)


def everything_in_structures(tmp_path):
    from cryoshift_core.tomography.mrc import write_mrc

    shipped = structures.template("apoferritin", 8.0, 24)
    write_mrc(tmp_path / "map.mrc", shipped.numpy(), 8.0)
    made = [shipped, structures.template(tmp_path / "map.mrc", 12.0, 24), structures.membrane(PIXEL, BOX)]
    made += [structures.template(name, PIXEL, BOX) for name in structures.PROCEDURAL]
    assert all(tensor.device == CPU for tensor in made)


@pytest.mark.parametrize("kind", [{}, EVERYTHING, {"noise_slope": 1.0}, {"structural_fraction": 0.3}])
@pytest.mark.parametrize("path", [imaging.image_by_transfer, imaging.image_by_tilt_series])
def test_both_imaging_paths(path, kind):
    with torch.device("meta"):
        image(path, **kind)


def test_fourier_and_structures(tmp_path):
    with torch.device("meta"):
        everything_in_fourier()
        everything_in_structures(tmp_path)


@pytest.mark.parametrize("scenario", ["in_situ_1", "in_situ_2", "in_situ_3", "paper"])
def test_datasets(scenario, tmp_path):
    config = DatasetConfig(scenario, ("TRiC", "membrane"), 4, BOX, PIXEL, "train", tomograms=2)
    outside = datasets.simulate_target(config, progress=False)
    for cached in CACHED:
        cached.cache_clear()
    with torch.device("meta"):
        made = datasets.simulate_target(config, folder=tmp_path, device="cpu", progress=False)
        loaded = datasets.simulate_target(config, folder=tmp_path, device="cpu", progress=False)
        labels = datasets.load_labels(config, folder=tmp_path, device="cpu")
        drawn = datasets.load_labels(config)
        source = DatasetConfig(scenario, ("TRiC", "membrane"), 4, BOX, PIXEL, "source", tomograms=2)
        assert datasets.simulate_source(source, progress=False).y.device == CPU
        empty = DatasetConfig(scenario, ("TRiC", "membrane"), 4, BOX, PIXEL, "background", tomograms=2)
        assert datasets.simulate_background(empty, progress=False).x.device == CPU
    assert made.x.device == made.groups.device == loaded.x.device == labels.y.device == labels.snr.device == CPU
    assert torch.equal(made.x, outside.x) and torch.equal(labels.y, drawn.y)


def noise_colour_without_a_device(k, slope):
    """`optics.noise_colour` as it was before devices were explicit."""
    edge = torch.linspace(0.0, 0.5, 501)
    power = (edge.clamp_min(0.02) / 0.5) ** -slope
    return ((k.clamp_min(0.02) / 0.5) ** -slope / ((power * edge).sum() / edge.sum())).sqrt()


@pytest.mark.parametrize("path", [imaging.image_by_transfer, imaging.image_by_tilt_series])
def test_a_missing_device_is_caught(path, monkeypatch):
    for module in (optics, imaging):
        monkeypatch.setattr(module, "noise_colour", noise_colour_without_a_device)
    image(path, noise_slope=1.0)  # works on the CPU
    for cached in CACHED:
        cached.cache_clear()
    with torch.device("meta"), pytest.raises((RuntimeError, NotImplementedError, AssertionError)):
        image(path, noise_slope=1.0)


def test_a_generator_decides_where_labels_and_rotations_are():
    with torch.device("meta"):
        assert scenarios.draw_labels(10, 3, 2.0, generator()).device == CPU
        assert specimens.random_rotations(4, generator()).device == CPU
        assert specimens.random_in_ball(4, 1.0, generator()).device == CPU
        assert math.isfinite(optics.noise_colour(torch.full((3,), 0.1, device="cpu"), 1.0).sum().item())


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
def test_a_gpu_gives_the_same_noise_free_subtomograms():
    for path in (imaging.image_by_transfer, imaging.image_by_tilt_series):
        made = []
        for device in ("cpu", "cuda"):
            molecules = specimens.templates(("apoferritin",), PIXEL, BOX, generator=torch.Generator(device))
            one = specimens.Specimens(
                torch.zeros(1, 1, dtype=torch.long, device=device),
                torch.eye(3, device=device)[None, None],
                torch.zeros(1, 1, 3, device=device),
            )
            made.append(
                path(one, molecules, Optics(voxel_size=PIXEL), generator=torch.Generator(device), noise=False).x.cpu()
            )
        torch.testing.assert_close(made[0], made[1], atol=1e-4 * float(made[0].abs().max()), rtol=1e-3)
    config = DatasetConfig("in_situ_3", ("TRiC", "membrane"), 4, BOX, PIXEL, "train", tomograms=2)
    assert datasets.simulate_target(config, device="cuda", progress=False).x.device == CPU
