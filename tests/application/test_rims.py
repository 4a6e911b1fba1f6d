"""Spike-ins where only extracted subtomograms came: boxes of their rims, without their particles."""

import numpy as np
import pytest
import torch
from helpers.files import says

import cryoshift_core as cs
from cryoshift_core.application import rims
from cryoshift_core.data import Unlabelled, normalize
from cryoshift_core.simulation import structures
from cryoshift_core.tomography import mrc

VOXEL, BOX, CLASSES = 16.0, 24, ("TRiC", "apoferritin", "ice")


def imaged(x, low=0.05):
    """Boxes (n, 1, w, w, w) without the wedge about the beam z, and with less of what is fine."""
    w = x.shape[-1]
    kz, _, kx = torch.meshgrid(*[torch.fft.fftfreq(w)] * 2, torch.fft.rfftfreq(w), indexing="ij")
    filters = (kz.abs() <= 1.7 * kx.abs() + 1e-9) / (low + (kz**2 + kx**2).sqrt())
    return torch.fft.irfftn(torch.fft.rfftn(x, dim=(2, 3, 4)) * filters, s=(w,) * 3, dim=(2, 3, 4))


def noise(n, seed):
    """Boxes (n, 1, b, b, b) of coloured noise with a missing wedge, cut from wider ones."""
    white = torch.randn(n, 1, *[2 * BOX] * 3, generator=torch.Generator().manual_seed(seed))
    return imaged(white)[..., :BOX, :BOX, :BOX]


@pytest.fixture(scope="module")
def target():
    """60 molecules of TRiC in noise, as a target."""
    molecule = imaged(structures.template("TRiC", VOXEL, BOX)[None, None], low=10.0)[0, 0]
    x = noise(60, 0)
    x = x / x.std() + 6 * molecule / molecule.max()
    return Unlabelled(normalize(x.float()), VOXEL, torch.zeros(60).long(), "boxes")


def shell_power(x, mask):
    """Power inside and outside of the missing wedge, (2,)."""
    power = torch.fft.rfftn(mask * x, dim=(2, 3, 4)).abs().square().mean((0, 1))
    kz, _, kx = torch.meshgrid(*[torch.fft.fftfreq(BOX)] * 2, torch.fft.rfftfreq(BOX), indexing="ij")
    far = kz**2 + kx**2 > 0.1**2
    return np.array([float(power[far & (kz.abs() > 2.5 * kx)].mean()), float(power[far & (kz.abs() < kx)].mean())])


def test_the_particles_are_gone_and_the_noise_has_their_spectrum_and_wedge(target):
    x = rims.background(target, CLASSES, 40, torch.Generator().manual_seed(1))
    assert x.shape == (40, 1, BOX, BOX, BOX) and torch.isfinite(x).all()
    middle = (slice(None), 0, *[slice(10, 14)] * 3)
    molecule = structures.template("TRiC", VOXEL, BOX)
    before, after = (float((one * molecule).mean() / molecule.square().mean()) for one in (target.x, x))
    assert before > 0 and abs(after) < 0.1 * before, "the molecules are gone"
    rim = (slice(None), 0, slice(0, 2))
    inside, outside = float(x[middle].std()), float(x[rim].std())
    assert 0.7 < inside / outside < 1.4, "as noisy within as without"
    window = torch.hann_window(BOX)
    window = window[:, None, None] * window[:, None] * window
    ours, right = shell_power(x, window), shell_power(normalize(noise(60, 5).float()), window)
    assert ours[1] == pytest.approx(right[1], rel=0.35), "the power of the noise"
    assert ours[0] / ours[1] < 3 * right[0] / right[1] + 0.05, "the missing wedge stays missing"


def test_the_rims_are_the_target_s_own(target):
    g = torch.Generator().manual_seed(1)
    rows = torch.randperm(len(target), generator=torch.Generator().manual_seed(1))[:20]
    x = rims.background(target, CLASSES, 20, g)
    for one, own in zip(x[:, 0, 0].flatten(1), target.x[rows][:, 0, 0].flatten(1), strict=True):
        assert float(torch.corrcoef(torch.stack([one, own]))[0, 1]) > 0.999


def test_what_rims_cannot_serve_for_is_refused_with_a_way_out(target):
    g = torch.Generator().manual_seed(0)
    says(lambda: rims.background(target, ("ribosome_80S", "ice"), 40, g), "at least 30 voxels", "got 24", "background")
    says(lambda: rims.background(target, ("membrane", "ice"), 40, g), "a class with a diameter", "background")
    few = target.subset(torch.arange(10))
    says(lambda: rims.background(few, CLASSES, 40, g), "at least 20", "got 10", "give more")
    flat = Unlabelled(torch.zeros_like(target.x), VOXEL, target.groups, "flat")
    says(lambda: rims.background(flat, CLASSES, 40, g), "constant", "give background")


def test_a_run_on_boxes_alone_has_spike_ins_and_says_what_they_are_worth(target, tmp_path):
    mrc.write_mrc(tmp_path / "boxes.mrcs", target.x[:, 0].numpy(), VOXEL)
    files = {"subtomograms": tmp_path / "boxes.mrcs", "classes": ",".join(CLASSES), "contrast": "bright"}
    job = cs.open(**files, profile="smoke", device="cpu")
    spiked = job.spike()
    assert spiked.spikes is not None and set(spiked.spikes.y.tolist()) == {0, 1, 2} and job.boxes is None
    assert spiked.own is None, "nothing is trained with them"
    assert "boxes of rims and noise, all for spike-ins" in str(spiked) and rims.WARNING in str(spiked)
    result = job.report(tmp_path / "out")
    assert result.spike_in and rims.WARNING in result.warnings and result.expected is None
    assert "take the accuracy as an upper end" in (result.folder / "report.html").read_text()
