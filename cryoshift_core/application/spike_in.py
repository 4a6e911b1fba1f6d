"""Spike-in validation: known molecules put into somebody's own ice, for an accuracy that needs no annotation.

Particle-free boxes of the user's tomogram bring its noise, neighbours and filters; simulated molecules, seen through
the same optics and missing wedge, bring a label that we put there ourselves. What it cannot show: how far the real
molecules differ from the simulated ones, and what stands in the tomogram beside them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from scipy import optimize
from torch import Tensor

from .. import data
from ..data import ROTATIONS_180, Labelled, Unlabelled
from ..errors import InputError
from ..fourier import shell_sums, shells, squared_frequency
from ..simulation import imaging, scenarios, specimens, structures
from ..simulation.optics import Optics
from ..tomography.wedge import estimate_wedge, mean_power, rotations_that_keep
from ..warps import shell_amplitude, signal_envelope

OFFSET = 2.0  # voxels: picking error of a spiked molecule
B_FACTORS = tuple(0.7 * i**2 for i in range(18))  # squared voxels, tried by fit_optics


def _kept(power: Tensor) -> Tensor:
    """Shells that no filter has removed; what is left in the others is rounding, clipping and leakage."""
    return power > 0.1 * power.median()


def _through(x: Tensor, wedge: Tensor) -> Tensor:
    return torch.fft.irfftn(torch.fft.rfftn(x, dim=(2, 3, 4)) * wedge, s=x.shape[2:], dim=(2, 3, 4))


def _all_round(tilts: tuple[float, ...]) -> tuple[float, ...]:
    """A tilt series continued to +-80 degrees: `wedge` alone is to decide what is missing."""
    beyond = [float(a) for a in range(-80, 81, 2) if not min(tilts) <= a <= max(tilts)]
    return tilts + tuple(sorted(beyond, key=abs))


def fit_optics(
    classes: Sequence[str],
    x: Tensor,
    background: Tensor,
    *,
    voxel_size: float,
    optics: Optics,
    wedge: Tensor,
    generator: torch.Generator,
) -> tuple[Optics, float]:
    """Optics and SNR with which spiked cubes have the target's mean spectrum, as far as shells can tell.

    The target's power is c * ice + a * molecules on each shell, with the molecules' power from noise-free cubes of all
    classes under `optics` times an envelope exp(-B k^2 / 2): what misalignment and filters did to the signal. c and a
    come from least squares on relative power, B from the smallest misfit. The defocus is taken as given: a wrong one
    shows as another B. Classes that are far more frequent than others bend the fit towards their own spectrum.

    Returns
    -------
    optics with `voxel_size` and `b_factor` replaced, and the mean var(signal) / var(background) for `spike`
    """
    box = background.shape[-1]
    if x.shape[1:] != background.shape[1:]:
        raise InputError(f"Target boxes are {tuple(x.shape[2:])} and background boxes {tuple(background.shape[2:])}.")
    shell = shells((box,) * 3)
    twice = torch.where(torch.arange(box // 2 + 1) == 0, 1.0, 2.0)  # samples with kx > 0 also stand for their mirrors

    def sums(power: Tensor) -> Tensor:
        return shell_sums((power * twice).double(), shell)[1 : box // 2]

    p_t, p_b = sums(mean_power(x)), sums(mean_power(background))
    k2 = ((torch.arange(1, box // 2) / box) / voxel_size).square().double()
    modes = sums(torch.ones(shell.shape))
    weight = modes.sqrt() / p_t * _kept(p_b / modes)
    labels = torch.arange(len(classes)).repeat(4)
    bank = specimens.templates(classes, voxel_size, box, generator=generator)
    specimen = specimens.specimens(labels, bank, generator=generator)
    plain = replace(optics, voxel_size=voxel_size, b_factor=0.0, tilts=_all_round(optics.tilts))
    cubes = imaging.image_by_transfer(specimen, bank, plain, generator=generator, noise=False).x
    p_s = sums(mean_power(_through(cubes, wedge)))
    best, found = np.inf, (0.0, 0.0)
    for b_factor in (voxel_size**2 * b for b in B_FACTORS):
        signal = p_s * torch.exp(-0.5 * b_factor * k2)
        parts = torch.stack([p_b, signal], 1) * weight[:, None]
        (c, a), misfit = optimize.nnls(parts.numpy(), (p_t * weight).numpy())
        if misfit < best and c > 0:
            best, found = misfit, (b_factor, float(a * signal.sum() / (c * p_b.sum())))
    return replace(optics, voxel_size=voxel_size, b_factor=found[0]), found[1]


def fit_average(
    classes: Sequence[str],
    x: Tensor,
    background: Tensor,
    *,
    voxel_size: float,
    optics: Optics,
    wedge: Tensor,
    seed: int = 0,
    n: int = 400,
) -> tuple[Tensor, float] | None:
    """Transfer and SNR with which the *average* of spiked cubes is that of the target's cubes, label-free.

    Noise averages out and a centred particle does not, so this reads a strength of 0.05 times the noise as well as one
    of 5, in filtered tomograms too. The transfer is `wedge` times the high-pass and half the b_factor_voxels of
    :func:`warp.signal_envelope`: picking errors, which do not blur a cube, make the other half. The classes are taken
    to be about equally frequent.

    Returns
    -------
    (b, b, b // 2 + 1) for `spike` in place of the wedge, and its `snr`; None where the averages show no common particle
    """
    k2 = squared_frequency(background.shape[2:])
    generator = torch.Generator().manual_seed(seed)
    _, molecules = _molecules(classes, n, background.shape[-1], voxel_size, optics, generator, OFFSET)
    scatter = molecules.var((1, 2, 3, 4)) > 0
    imaged = generator.get_state()

    def average(snr: float, transfer: Tensor) -> Tensor:
        generator.set_state(imaged)  # the same molecules in the same boxes each time
        return _into_ice(molecules, scatter, background, snr, transfer, generator)[0]

    envelope = signal_envelope(average(0.1, wedge.float()), x)
    transfer = wedge * replace(envelope, gain=1.0, b_factor_voxels=envelope.b_factor_voxels / 2)(k2)
    wanted, samples = shell_amplitude(x)
    snr = 0.1
    for _ in range(4):  # the strength of a normalised cube is not linear in the SNR: a few steps towards it
        found = shell_amplitude(average(snr, transfer))[0]
        gain = float((samples * wanted * found).sum() / (samples * found * found).sum())
        if gain <= 0:
            return None
        snr = min(10.0, max(0.003, snr * gain**2))
    likeness = float((samples * wanted * found).sum()) / float(
        ((samples * wanted**2).sum() * (samples * found**2).sum()).sqrt()
    )
    return (transfer, snr) if likeness > 0.7 else None


def imitate(
    classes: Sequence[str],
    target: Unlabelled,
    background: Tensor,
    n: int,
    *,
    optics: Optics,
    snr: float = 0.0,
    seed: int = 0,
) -> Labelled:
    """n spike-ins that look like the target's cubes, without a label of theirs.

    The wedge is that of the background; strength and envelope come from :func:`fit_average` or, where the target shows
    no common particle, from :func:`fit_optics`. `snr` replaces the strength found.

    Raises
    ------
    InputError
        fewer than 20 background boxes, or a target that shows no molecule at all while `snr` is 0
    """
    voxel_size = target.voxel_size
    wedge = estimate_wedge(background, voxel_size)
    generator = torch.Generator().manual_seed(seed)
    how = {"voxel_size": voxel_size, "wedge": wedge}
    match = fit_average(classes, target.x, background, optics=optics, seed=seed, **how)
    if match:
        how["wedge"], found = match
    else:
        optics, found = fit_optics(classes, target.x, background, optics=optics, generator=generator, **how)
    if not snr and found < 0.001:
        raise InputError("The cubes show no more power than the ice; set spike_snr, such as 0.1.")
    return spike(classes, background, n, snr=snr or found, optics=optics, generator=generator, **how)


def spike(
    classes: Sequence[str],
    background: Tensor,
    n: int,
    *,
    snr: float,
    voxel_size: float,
    optics: Optics,
    wedge: Tensor,
    generator: torch.Generator,
    offset: float = OFFSET,
    snr_class: str = "",
    outliers: Sequence[str] = (),
) -> Labelled:
    """Known molecules in background boxes: cubes with labels that we put there ourselves.

    Molecules are imaged noise-free with the CTF and dose of `optics`, masked with `wedge`, and scaled by *one* factor,
    so that a large molecule stays stronger than a small one. Where n exceeds the boxes, they are used again, turned by
    180 degrees about the axes that keep the wedge.

    Parameters
    ----------
    classes, outliers : names or files; outliers are labelled after the classes, for molecules that nobody asked for
    background : (M, 1, b, b, b), raw or normalised, protein bright
    n : cubes, as many of each class as of the others
    snr : mean of var(signal) / var(box) over the cubes that hold a molecule, or over those of `snr_class`
    wedge : (b, b, b // 2 + 1), from `estimate_wedge`, or any gain that the molecules should be seen through
    offset : picking error, voxels

    Returns
    -------
    Labelled, normalised; `snr` holds each cube's own, `groups` the background box it stands in
    """
    names = (*classes, *outliers)
    labels = tuple(structures.class_name(c) for c in names)
    box = background.shape[-1]
    if wedge.shape != (box, box, box // 2 + 1):
        raise InputError(f"The wedge is {tuple(wedge.shape)} for boxes of {box}; wanted that of estimate_wedge.")
    if not snr > 0:
        raise InputError(f"The SNR to spike at is {snr:.3g}; wanted a number above 0: set spike_snr, such as 0.1.")
    if snr_class and snr_class not in labels:
        raise InputError(f"snr_class is '{snr_class}'; wanted one of {', '.join(labels)}.")
    if n < len(names) or not len(background):
        raise InputError(f"{n} cubes of {len(names)} classes in {len(background)} boxes; wanted one of each at least.")
    y, molecules = _molecules(names, n, box, voxel_size, optics, generator, offset)
    strength = molecules.var((1, 2, 3, 4))
    counted = y == labels.index(snr_class) if snr_class else strength > 0
    if not strength[counted].sum() > 0:
        raise InputError(f"None of {', '.join(labels)} scatters; wanted a molecule among them to spike.")
    x, own, which = _into_ice(molecules, counted, background, snr, wedge, generator)
    return Labelled(x, y, labels, voxel_size, own, which)


def _molecules(
    names: Sequence[str],
    n: int,
    box: int,
    voxel_size: float,
    optics: Optics,
    generator: torch.Generator,
    offset: float,
) -> tuple[Tensor, Tensor]:
    """Classes (n,) drawn evenly, and their noise-free cubes (n, 1, box, box, box) without a missing wedge."""
    y = scenarios.draw_labels(n, len(names), 1.0, generator)
    bank = specimens.templates(names, voxel_size, box, generator=generator)
    specimen = specimens.specimens(y, bank, generator=generator, offset=offset)
    all_round = replace(optics, voxel_size=voxel_size, tilts=_all_round(optics.tilts))
    return y, imaging.image_by_transfer(specimen, bank, all_round, generator=generator, noise=False).x


def _into_ice(
    molecules: Tensor,
    counted: Tensor,
    background: Tensor,
    snr: float,
    wedge: Tensor,
    generator: torch.Generator,
) -> tuple[Tensor, Tensor, Tensor]:
    """Normalised cubes, the SNR of each, and the box in which it stands; `counted` ones have `snr` on average."""
    signal = _through(molecules, wedge)
    n, boxes = len(signal), len(background)
    which = torch.randperm(boxes, generator=generator).repeat(-(-n // boxes))[:n]
    ice, rotations = background[which].clone(), rotations_that_keep(wedge)
    for start in range(boxes, n, boxes):
        again, turn = slice(start, start + boxes), rotations[start // boxes % len(rotations)]
        ice[again] = ice[again].flip(ROTATIONS_180[turn])
    own = signal.var((1, 2, 3, 4), correction=0) / ice.var((1, 2, 3, 4), correction=0)
    factor = snr / own[counted].mean()
    return data.normalize(ice + signal * factor.sqrt()), own * factor, which
