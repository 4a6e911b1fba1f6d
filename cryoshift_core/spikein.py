"""Spike-in validation: known molecules put into somebody's own ice, for an accuracy that needs no annotation.

Particle-free boxes of the user's tomogram bring its noise, neighbours and filters; simulated molecules, seen through
the same optics and missing wedge, bring a label that we put there ourselves. What it cannot show: how far the real
molecules differ from the simulated ones, and what stands in the tomogram beside them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from scipy import ndimage, optimize, spatial
from torch import Tensor

from . import scenarios, simulate, structures, volumes
from .domains import Labelled, Unlabelled
from .optics import Optics, frequencies, to_tilt_frame
from .training import TURNS
from .volumes import InputError
from .warp import power_spectrum, shell_amplitude, signal_envelope, squared_frequency

FEWEST = 20  # background boxes: below, neither the wedge nor an accuracy is worth estimating
FINEST = 25.0  # A: finer detail is not looked at for the missing wedge
OFFSET = 2.0  # voxels: picking error of a spiked molecule
B_FACTORS = tuple(0.7 * i**2 for i in range(18))  # squared voxels, tried by fit_optics


def find_background(
    volume: np.ndarray, particles: np.ndarray | None, box: int, n: int, generator: torch.Generator
) -> np.ndarray:
    """Centres (M, 3) zyx of at most n boxes without a particle, in random order; the boxes may overlap.

    Candidates stand on a lattice a quarter box apart and at least 0.75 box from each given position along some axis.
    Those whose smoothed grey values vary, or peak, far more than is common (particles not picked, gold, membranes) are
    dropped: above the median by more than 2.5 times what the quieter half spreads below it.

    Parameters
    ----------
    volume : (Z, Y, X) tomogram, may be memory-mapped
    particles : (N, 3) zyx voxels; None or empty where no positions are known
    box, n : edge in voxels; how many are wanted. Fewer are returned where there are fewer, which their number tells

    Raises
    ------
    InputError
        fewer than 20 boxes are left
    """
    step = max(1, box // 4)
    first = torch.randint(step, (3,), generator=generator).tolist()
    lattice = [
        np.arange(box // 2 + start % max(1, min(step, size - box + 1)), size - (box - box // 2) + 1, step)
        for start, size in zip(first, volume.shape, strict=True)
    ]
    free = np.stack(np.meshgrid(*lattice, indexing="ij"), -1).reshape(-1, 3)
    if particles is not None and len(particles) and len(free):
        distance, _ = spatial.cKDTree(np.asarray(particles, float)).query(free, p=np.inf)
        free = free[distance >= 0.75 * box]
    away = len(free)
    free = free[torch.randperm(away, generator=generator)[: 6 * n].numpy()]
    if len(free) >= FEWEST:
        smooth = [_smoothed(volume, centre, box) for centre in free]
        level = np.median([np.median(cube) for cube in smooth])
        scores = np.log([[cube.var() + 1e-30, np.abs(cube - level).max() + 1e-30] for cube in smooth])
        middle, quiet = np.quantile(scores, [0.5, 0.16], axis=0)
        varies = scores[:, 0] > np.log(1e-20)  # a padded border is no ice
        free = free[varies & (scores <= middle + 2.5 * (middle - quiet)).all(1)][:n]
    if len(free) < FEWEST:
        raise InputError(
            f"Of the boxes of {box} voxels in a tomogram of {volume.shape[2]} x {volume.shape[1]} x {volume.shape[0]}, "
            f"{away} keep clear of particles and {len(free)} of those look like ice; wanted at least {FEWEST}: use a "
            "smaller box, or give boxes of ice as background."
        )
    return free


def _smoothed(volume: np.ndarray, centre: np.ndarray, box: int) -> np.ndarray:
    low = centre - box // 2
    cube = np.asarray(volume[tuple(slice(a, a + box) for a in low)], np.float32)
    return ndimage.gaussian_filter(cube, box / 16)


def _frequencies(n: int) -> Tensor:
    """(n, n, n // 2 + 1, 3) zyx of an rfftn, in Fourier voxels."""
    return torch.stack(torch.broadcast_tensors(*frequencies((n, n, n))), -1) * n


@dataclass(frozen=True)
class Wedge:
    """Tilts that were measured, `low` to `high` degrees about `tilt_axis` (as in `optics.Optics`, -90 to 90)."""

    tilt_axis: float
    low: float
    high: float

    def mask(self, n: int) -> Tensor:
        """Measured samples (n, n, n // 2 + 1): within half a Fourier voxel, for a box of n voxels tells no more."""
        plane, tilt = _tilts(_frequencies(n), self.tilt_axis)
        beyond = torch.maximum(tilt - self.high, self.low - tilt)  # degrees past the nearer end of the range
        beyond = torch.minimum(beyond, torch.maximum(tilt + 180 - self.high, self.low - tilt + 180).abs())
        return plane * torch.sin(torch.deg2rad(beyond.clamp(0, 90))) < 0.5


def _tilts(k: Tensor, tilt_axis: float) -> tuple[Tensor, Tensor]:
    """Distance of samples (..., 3) from the tilt axis, and the tilt, -90 to 90 degrees, whose section they lie in."""
    z, _, across = to_tilt_frame(k, tilt_axis).unbind(-1)
    return torch.hypot(z, across), (torch.rad2deg(torch.atan2(z, across)) + 90) % 180 - 90


def fit_wedge(boxes: Tensor, pixel_size: float) -> Wedge | None:
    """Tilt axis and range of one tilt series, from the mean power of the boxes; None where no wedge is missing.

    The power of each sample is compared with the stronger ones of its shell, so that the noise may have any colour and
    the tomogram may have been filtered. Axis and range are those that split the samples into two kinds with the largest
    variance between them (Otsu's criterion), where the measured ones have at least twice the power of the others.
    Detail beyond `FINEST` is left out where enough remains: dose weighting takes the late, high tilts out of it.

    Parameters
    ----------
    boxes : (N, 1, n, n, n), background or particles, N >= 20
    pixel_size : A
    """
    n = boxes.shape[-1]
    if len(boxes) < FEWEST:
        raise InputError(f"{len(boxes)} boxes are too few to see the missing wedge; wanted at least {FEWEST}.")
    line = (torch.arange(n) + 0.5) / n
    taper = torch.sin(torch.pi * line).sqrt()  # the box's faces would spread strong samples along the axes
    window = (taper[:, None, None] * taper[:, None] * taper).to(boxes)
    log = _mean_power((boxes - boxes.mean((2, 3, 4), keepdim=True)) * window).cpu().clamp_min(1e-20).log()
    k = _frequencies(n)
    radius = k.norm(dim=-1)
    shells = np.arange(3, min(int(0.46 * n), max(12, int(n * pixel_size / FINEST))) + 1)
    usual = np.array([log[radius.round() == r].quantile(0.75) for r in shells])
    outermost = shells[usual > usual.max() - np.log(1e3)].max()  # beyond, a filter has left only rounding
    ball = (radius >= 2.5) & (radius < outermost)
    k, log = k[ball], log[ball].numpy() - np.interp(radius[ball].numpy(), shells, usual)
    log = log.clip(np.log(0.1))  # less is missing all the same: how much less is leakage

    edges = np.arange(-90, 91, 2)
    measured = (edges[:, None] <= -10) & (edges >= 10)  # the range ends on either side of the untilted section
    best, found = 0.0, None
    for axis in range(-90, 90, 2):
        plane, tilt = _tilts(k, axis)
        clear = (plane > n / 6).numpy()  # next to the axis all tilts meet
        counts, total = (
            np.concatenate([[0], np.histogram(tilt.numpy()[clear], edges, weights=w)[0].cumsum()])
            for w in (np.ones(clear.sum()), log[clear])
        )
        inside, power = counts - counts[:, None], total - total[:, None]  # of tilts from edge i to edge j
        outside, rest = counts[-1] - inside, total[-1] - power
        step = power / np.maximum(inside, 1) - rest / np.maximum(outside, 1)
        between = np.where(measured & (outside > 0) & (step > np.log(2)), inside * outside * step**2, 0)
        i, j = np.unravel_index(between.argmax(), between.shape)
        if between[i, j] > best:
            best, found = between[i, j], Wedge(float(axis), float(edges[i]), float(edges[j]))
    return found


def estimate_wedge(boxes: Tensor, pixel_size: float) -> Tensor:
    """Which Fourier samples were measured, (n, n, n // 2 + 1) bool; all where `fit_wedge` finds no missing wedge."""
    n, found = boxes.shape[-1], fit_wedge(boxes, pixel_size)
    return found.mask(n) if found else torch.ones(n, n, n // 2 + 1, dtype=torch.bool)


def _mean_power(x: Tensor) -> Tensor:
    return torch.stack([power_spectrum(part).sum(0) for part in x.split(64)]).sum(0) / len(x)


def _kept(power: Tensor) -> Tensor:
    """Shells that no filter has removed; what is left in the others is rounding, clipping and leakage."""
    return power > 0.1 * power.median()


def turns_that_keep(wedge: Tensor) -> tuple[int, ...]:
    """Turns by 180 degrees that leave the missing wedge where it is: 0 none, 1 about z, 2 about y, 3 about x."""
    full = whole(wedge > 0)
    kept = []
    for turn, flipped in TURNS.items():
        axes = [a - 2 for a in flipped]
        moved = full.flip(axes).roll([1] * len(axes), axes) if axes else full
        if float((moved != full).float().mean()) < 0.08:
            kept.append(turn)
    return tuple(kept)


def whole(half: Tensor) -> Tensor:
    """An rfftn mask (n, n, n // 2 + 1) on all of (n, n, n)."""
    n = len(half)
    rest = (-torch.arange(n)) % n
    return torch.cat([half, half[rest][:, rest][..., 1 : (n + 1) // 2].flip(-1)], -1)


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
    pixel_size: float,
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
    optics with `pixel_size` and `b_factor` replaced, and the mean var(signal) / var(background) for `spike`
    """
    box = background.shape[-1]
    if x.shape[1:] != background.shape[1:]:
        raise InputError(f"Target boxes are {tuple(x.shape[2:])} and background boxes {tuple(background.shape[2:])}.")
    k = _frequencies(box)
    shell, twice = k.norm(dim=-1).round().long().flatten(), torch.where(k[..., 2] == 0, 1.0, 2.0)

    def shells(power: Tensor) -> Tensor:
        return torch.bincount(shell, (power * twice).flatten().double())[1 : box // 2]

    p_t, p_b = shells(_mean_power(x)), shells(_mean_power(background))
    k2 = ((torch.arange(1, box // 2) / box) / pixel_size).square().double()
    modes = shells(torch.ones_like(k[..., 0]))
    weight = modes.sqrt() / p_t * _kept(p_b / modes)
    labels = torch.arange(len(classes)).repeat(4)
    bank = simulate.templates(classes, pixel_size, box, generator=generator)
    specimen = simulate.specimens(labels, bank, generator=generator)
    plain = replace(optics, pixel_size=pixel_size, b_factor=0.0, tilts=_all_round(optics.tilts))
    cubes = simulate.image_by_transfer(specimen, bank, plain, generator=generator, noise=False).x
    p_s = shells(_mean_power(_through(cubes, wedge)))
    best, found = np.inf, (0.0, 0.0)
    for b_factor in (pixel_size**2 * b for b in B_FACTORS):
        signal = p_s * torch.exp(-0.5 * b_factor * k2)
        parts = torch.stack([p_b, signal], 1) * weight[:, None]
        (c, a), misfit = optimize.nnls(parts.numpy(), (p_t * weight).numpy())
        if misfit < best and c > 0:
            best, found = misfit, (b_factor, float(a * signal.sum() / (c * p_b.sum())))
    return replace(optics, pixel_size=pixel_size, b_factor=found[0]), found[1]


def fit_average(
    classes: Sequence[str],
    x: Tensor,
    background: Tensor,
    *,
    pixel_size: float,
    optics: Optics,
    wedge: Tensor,
    seed: int = 0,
    n: int = 400,
) -> tuple[Tensor, float] | None:
    """Transfer and SNR with which the *average* of spiked cubes is that of the target's cubes, label-free.

    Noise averages out and a centred particle does not, so this reads a strength of 0.05 times the noise as well as one
    of 5, in filtered tomograms too. The transfer is `wedge` times the high-pass and half the falloff of
    :func:`warp.signal_envelope`: picking errors, which do not blur a cube, make the other half. The classes are taken
    to be about equally frequent.

    Returns
    -------
    (b, b, b // 2 + 1) for `spike` in place of the wedge, and its `snr`; None where the averages show no common particle
    """
    k2 = squared_frequency(background.shape[2:])
    generator = torch.Generator().manual_seed(seed)
    _, molecules = _molecules(classes, n, background.shape[-1], pixel_size, optics, generator, OFFSET)
    scatter = molecules.var((1, 2, 3, 4)) > 0
    imaged = generator.get_state()

    def average(snr: float, transfer: Tensor) -> Tensor:
        generator.set_state(imaged)  # the same molecules in the same boxes each time
        return _into_ice(molecules, scatter, background, snr, transfer, generator)[0]

    envelope = signal_envelope(average(0.1, wedge.float()), x)
    transfer = wedge * replace(envelope, gain=1.0, falloff=envelope.falloff / 2)(k2)
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
    pixel_size = target.pixel_size
    wedge = estimate_wedge(background, pixel_size)
    generator = torch.Generator().manual_seed(seed)
    how = {"pixel_size": pixel_size, "wedge": wedge}
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
    pixel_size: float,
    optics: Optics,
    wedge: Tensor,
    generator: torch.Generator,
    offset: float = OFFSET,
    snr_class: str = "",
    decoys: Sequence[str] = (),
) -> Labelled:
    """Known molecules in background boxes: cubes with labels that we put there ourselves.

    Molecules are imaged noise-free with the CTF and dose of `optics`, masked with `wedge`, and scaled by *one* factor,
    so that a large molecule stays stronger than a small one. Where n exceeds the boxes, they are used again, turned by
    180 degrees about the axes that keep the wedge.

    Parameters
    ----------
    classes, decoys : names or files; decoys are labelled after the classes, for molecules that nobody asked for
    background : (M, 1, b, b, b), raw or normalised, protein bright
    n : cubes, as many of each class as of the others
    snr : mean of var(signal) / var(box) over the cubes that hold a molecule, or over those of `snr_class`
    wedge : (b, b, b // 2 + 1), from `estimate_wedge`, or any gain that the molecules should be seen through
    offset : picking error, voxels

    Returns
    -------
    Labelled, normalised; `snr` holds each cube's own, `groups` the background box it stands in
    """
    names = (*classes, *decoys)
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
    y, molecules = _molecules(names, n, box, pixel_size, optics, generator, offset)
    strength = molecules.var((1, 2, 3, 4))
    counted = y == labels.index(snr_class) if snr_class else strength > 0
    if not strength[counted].sum() > 0:
        raise InputError(f"None of {', '.join(labels)} scatters; wanted a molecule among them to spike.")
    x, own, which = _into_ice(molecules, counted, background, snr, wedge, generator)
    return Labelled(x, y, labels, pixel_size, own, which)


def _molecules(
    names: Sequence[str],
    n: int,
    box: int,
    pixel_size: float,
    optics: Optics,
    generator: torch.Generator,
    offset: float,
) -> tuple[Tensor, Tensor]:
    """Classes (n,) drawn evenly, and their noise-free cubes (n, 1, box, box, box) without a missing wedge."""
    y = scenarios.draw_labels(n, len(names), 1.0, generator)
    bank = simulate.templates(names, pixel_size, box, generator=generator)
    specimen = simulate.specimens(y, bank, generator=generator, offset=offset)
    all_round = replace(optics, pixel_size=pixel_size, tilts=_all_round(optics.tilts))
    return y, simulate.image_by_transfer(specimen, bank, all_round, generator=generator, noise=False).x


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
    ice, turns = background[which].clone(), turns_that_keep(wedge)
    for start in range(boxes, n, boxes):
        again, turn = slice(start, start + boxes), turns[start // boxes % len(turns)]
        ice[again] = ice[again].flip(TURNS[turn])
    own = signal.var((1, 2, 3, 4), correction=0) / ice.var((1, 2, 3, 4), correction=0)
    factor = snr / own[counted].mean()
    return volumes.normalize(ice + signal * factor.sqrt()), own * factor, which
