"""Spike-in validation: simulated molecules inserted into particle-free boxes of the user's own tomogram.

The boxes contribute the tomogram's noise, neighbours and filters, and the molecules have known classes, so the accuracy
of a classifier can be measured without annotation. This accuracy does not include differences between real and
simulated molecules, nor other contents of the tomogram.
"""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from scipy import optimize
from torch import Tensor

from .. import data, metrics
from ..data import ROTATIONS_180, Labelled, Unlabelled
from ..errors import InputError
from ..fourier import shell_sums, shells, squared_frequency
from ..simulation import imaging, scenarios, specimens, structures
from ..simulation.optics import Optics, angular_step, tilt_scheme
from ..support.runtime import pick_device
from ..tomography.wedge import Wedge, fit_wedge, mean_power, measured_samples, rotations_that_keep
from ..warps import shell_amplitude, signal_envelope

OFFSET, FAR = 2.0, 4.0  # voxels: largest picking errors of inserted molecules, usual and pessimistic
LARGEST_SNR = 10.0
B_FACTORS = tuple(0.7 * i**2 for i in range(18))  # squared voxels, tried by fit_optics


def _not_filtered_out(power: Tensor) -> Tensor:
    """Shells with more than a tenth of the median power; in the others a filter has left only rounding and leakage."""
    return power > 0.1 * power.median()


def _apply(x: Tensor, envelope: Tensor) -> Tensor:
    return torch.fft.irfftn(torch.fft.rfftn(x, dim=(2, 3, 4)) * envelope, s=x.shape[2:], dim=(2, 3, 4))


def stated_optics(voxel_size: float, *, tilt_axis: float, tilt_range: float, defocus: float) -> Optics:
    """Optics of a tilt series of which these are known, as parameters of :func:`classify`."""
    tilts = tilt_scheme(-tilt_range, tilt_range)
    return Optics(voxel_size=voxel_size, defocus=defocus, tilts=tilts, tilt_axis=tilt_axis)


def through(optics: Optics, wedge: Wedge | None) -> Optics:
    """`optics` with the tilt axis and the tilt range of `wedge`, in dose-symmetric order and about as many steps.

    Each tilt image covers one step, so the first and last tilts are half a step inside the range. Without a missing
    wedge (None) the range is that of the widest possible series, -80 to 80 degrees.
    """
    low, high = (max(wedge.low, -80.0), min(wedge.high, 80.0)) if wedge else (-80.0, 80.0)
    count = max(1, round((high - low) / math.degrees(angular_step(optics.tilts))))
    tilts = [low + (i + 0.5) * (high - low) / count for i in range(count)]
    axis = wedge.tilt_axis if wedge else optics.tilt_axis
    # the pretilt changes the noise alone, which spike-ins take from the background
    return replace(optics, tilts=tuple(sorted(tilts, key=abs)), tilt_axis=axis, pretilt=0.0)


def fit_optics(
    classes: Sequence[str],
    x: Tensor,
    background: Tensor,
    *,
    voxel_size: float,
    optics: Optics,
    wedge: Wedge | None,
    generator: torch.Generator,
) -> tuple[Optics, float]:
    """Optics and SNR with which spike-ins have the mean radial power spectrum of the target.

    On each shell the target's power is modelled as c * background + a * molecules. The molecules' power is that of
    noise-free subtomograms of all classes under `optics`, times an envelope exp(-B k^2 / 2) for the effect of
    misalignment and filters. c and a are fitted by least squares on relative power, B by the smallest misfit. The
    defocus is taken as given; an error in it changes B. Classes that are much more frequent than others bias the fit
    towards their own spectrum.

    Parameters
    ----------
    classes : names or files
    x, background : (N, 1, n, n, n) and (M, 1, n, n, n), protein bright
    voxel_size : A
    wedge : measured tilt range, which replaces that of `optics`; None where no wedge is missing
    generator : on the device of `x`

    Returns
    -------
    `optics` with `voxel_size` and `b_factor` replaced, and the mean var(signal) / var(background) for `spike`
    """
    box = background.shape[-1]
    if x.shape[1:] != background.shape[1:]:
        raise InputError(
            f"Expected background boxes of {tuple(x.shape[2:])} voxels as the target has, got "
            f"{tuple(background.shape[2:])}."
        )
    device = background.device
    shell = shells((box, box, box), device)
    kx = torch.arange(box // 2 + 1, device=device)
    conjugates = torch.where(kx == 0, 1.0, 2.0).expand(shell.shape)  # samples of the full grid for each of the half

    def radial(power: Tensor) -> Tensor:
        return shell_sums((power * conjugates).double(), shell)[1 : box // 2]

    p_t, p_b = radial(mean_power(x)), radial(mean_power(background))
    k2 = ((torch.arange(1, box // 2, device=device) / box) / voxel_size).square().double()
    samples = radial(torch.ones_like(conjugates))
    weight = samples.sqrt() / p_t * _not_filtered_out(p_b / samples)
    labels = torch.arange(len(classes), device=device).repeat(4)
    bank = specimens.templates(classes, voxel_size, box, generator=generator)
    specimen = specimens.specimens(labels, bank, generator=generator)
    plain = replace(through(optics, wedge), voxel_size=voxel_size, b_factor=0.0)
    molecules = imaging.image_by_transfer(specimen, bank, plain, generator=generator, noise=False).x
    p_s = radial(mean_power(molecules))
    smallest, best = np.inf, (0.0, 0.0)
    for b_factor in (voxel_size**2 * b for b in B_FACTORS):
        signal = p_s * torch.exp(-0.5 * b_factor * k2)
        parts = torch.stack([p_b, signal], 1) * weight[:, None]
        (c, a), misfit = optimize.nnls(parts.cpu().numpy(), (p_t * weight).cpu().numpy())
        if misfit < smallest and c > 0:
            smallest, best = misfit, (b_factor, float(a * signal.sum() / (c * p_b.sum())))
    return replace(optics, voxel_size=voxel_size, b_factor=best[0]), best[1]


def fit_average(
    classes: Sequence[str],
    x: Tensor,
    background: Tensor,
    *,
    voxel_size: float,
    optics: Optics,
    wedge: Wedge | None,
    seed: int = 0,
    n: int = 400,
) -> tuple[Tensor, float] | None:
    """Envelope and SNR with which the *average* spike-in equals the average subtomogram of the target.

    No label is needed. Averaging removes noise but not a centred particle, so this measures an SNR of 0.05 as well as
    one of 5, in filtered tomograms too. The envelope has the high-pass and half the B-factor of
    :func:`warps.signal_envelope`; the other half comes from picking errors, which do not blur a single subtomogram.
    Classes are assumed to be about equally frequent.

    Parameters
    ----------
    classes, x, background, voxel_size, optics, wedge : as for :func:`fit_optics`
    seed : of every draw
    n : spike-ins to average

    Returns
    -------
    (n, n, n // 2 + 1), the `envelope` of :func:`spike`, and its `snr`; None where the averages have no common particle,
    or where the average molecule is weaker than the target's at any SNR: strong signal saturates the normalisation
    """
    device = background.device
    k2 = squared_frequency(background.shape[2:], device)
    generator = torch.Generator(device).manual_seed(seed)
    optics = through(optics, wedge)
    _, molecules = _molecules(classes, n, background.shape[-1], voxel_size, optics, generator, OFFSET)
    scatters = molecules.var((1, 2, 3, 4)) > 0
    imaged = generator.get_state()

    def average(snr: float, envelope: Tensor) -> Tensor:
        generator.set_state(imaged)  # the same molecules in the same boxes each time
        return _insert(molecules, scatters, background, snr, wedge, envelope, generator)[0]

    fitted = signal_envelope(average(0.1, torch.ones_like(k2)), x)
    envelope = replace(fitted, gain=1.0, b_factor_voxels=fitted.b_factor_voxels / 2)(k2)
    measured, samples = shell_amplitude(x)
    snr = 0.1
    for _ in range(4):  # after normalisation the amplitude is not linear in the SNR: iterate
        amplitude = shell_amplitude(average(snr, envelope))[0]
        gain = float((samples * measured * amplitude).sum() / (samples * amplitude * amplitude).sum())
        if gain <= 0:
            return None
        snr = min(LARGEST_SNR, max(0.003, snr * gain**2))
    similarity = float((samples * measured * amplitude).sum()) / float(
        ((samples * measured**2).sum() * (samples * amplitude**2).sum()).sqrt()
    )
    return (envelope, snr) if similarity > 0.7 and snr < LARGEST_SNR else None


def imitate(
    classes: Sequence[str],
    target: Unlabelled,
    background: Tensor,
    n: int,
    *,
    optics: Optics,
    snr: float = 0.0,
    spread: float = 1.0,
    offsets: Sequence[float] = (OFFSET,),
    seed: int = 0,
    device: str | torch.device = "cpu",
) -> list[Labelled]:
    """n spike-ins for each of `offsets`, on the CPU, that look like the target's subtomograms; it needs no label.

    The missing wedge is that of the background. SNR and envelope come from :func:`fit_average` or, where the target
    has no common particle, from :func:`fit_optics`.

    Parameters
    ----------
    classes : names or files
    background : (M, 1, n, n, n) particle-free boxes, protein bright, normalised
    optics : of the molecules; its voxel size is replaced by the target's
    snr : replaces the estimated SNR unless it is 0
    spread : see :func:`spike`
    offsets : picking errors, voxels; the sets differ in nothing else
    device : where the molecules are simulated

    Raises
    ------
    InputError
        fewer than 20 background boxes, or a target without a detectable molecule while `snr` is 0
    """
    voxel_size, chosen = target.voxel_size, pick_device(device)
    if chosen.type == "mps":  # has no float64
        chosen = torch.device("cpu")
    wedge = fit_wedge(background, voxel_size)
    x, background = target.x.to(chosen), background.to(chosen)
    generator = torch.Generator(chosen).manual_seed(seed)
    matched = fit_average(classes, x, background, voxel_size=voxel_size, optics=optics, wedge=wedge, seed=seed)
    if matched:
        envelope, estimated = matched
    else:
        envelope = None
        optics, estimated = fit_optics(
            classes, x, background, voxel_size=voxel_size, optics=optics, wedge=wedge, generator=generator
        )
    if not snr and estimated < 0.001:
        raise InputError(
            "The subtomograms have no more power than the background, so the SNR of spike-ins cannot be estimated; "
            "set spike_snr, such as 0.1."
        )
    made, state = [], generator.get_state()
    for offset in offsets:
        generator.set_state(state)
        spikes = spike(
            classes,
            background,
            n,
            snr=snr or estimated,
            spread=spread,
            offset=offset,
            voxel_size=voxel_size,
            optics=optics,
            wedge=wedge,
            envelope=envelope,
            generator=generator,
        )
        made.append(spikes)
    return made


def spike(
    classes: Sequence[str],
    background: Tensor,
    n: int,
    *,
    snr: float,
    voxel_size: float,
    optics: Optics,
    wedge: Wedge | None,
    generator: torch.Generator,
    envelope: Tensor | None = None,
    offset: float = OFFSET,
    spread: float = 1.0,
) -> Labelled:
    """Spike-ins: simulated molecules of known class in background boxes, normalised, on the CPU.

    Molecules are imaged noise-free with the CTF and dose of `optics` over the tilts of `wedge`, and scaled by *one*
    factor, so that large molecules stay stronger than small ones. Where n exceeds the number of boxes, boxes are used
    again after rotations by 180 degrees that keep the missing wedge.

    Parameters
    ----------
    classes : names or files
    background : (M, 1, b, b, b), raw or normalised, protein bright
    n : spike-ins, equally many of each class
    snr : mean of var(signal) / var(box) over the spike-ins with a molecule
    voxel_size : A
    wedge : measured tilt range, from `fit_wedge`, which replaces that of `optics`; None where no wedge is missing
    generator : on the device of `background`
    envelope : (b, b, b // 2 + 1), a further transfer function for the molecules, such as from :func:`fit_average`
    offset : picking error, voxels
    spread : the SNR of each molecule is multiplied by a number between 1 / spread and spread, log-uniform, before all
        are scaled

    Returns
    -------
    `snr` holds the SNR of each spike-in, `groups` the index of its background box

    Raises
    ------
    InputError
        an envelope of another box, an SNR that is not positive, too few spike-ins, no molecule
    """
    labels = tuple(structures.class_name(c) for c in classes)
    box = background.shape[-1]
    if envelope is None:
        envelope = torch.ones(box, box, box // 2 + 1, device=background.device)
    if envelope.shape != (box, box, box // 2 + 1):
        raise InputError(
            f"Expected an envelope of {(box, box, box // 2 + 1)} for boxes of {box} voxels, got "
            f"{tuple(envelope.shape)}; see fit_average."
        )
    if not snr > 0:
        raise InputError(f"Expected an SNR above 0 for spike-ins, got {snr:.3g}; set spike_snr, such as 0.1.")
    if n < len(classes) or not len(background):
        raise InputError(
            f"Expected a spike-in of each of {len(classes)} classes and a background box at least, got {n} spike-ins "
            f"and {len(background)} boxes."
        )
    y, molecules = _molecules(classes, n, box, voxel_size, through(optics, wedge), generator, offset)
    counted = molecules.var((1, 2, 3, 4)) > 0
    if not counted.any():
        raise InputError(f"Expected a molecule among the classes to insert, got {', '.join(labels)}, which are empty.")
    if spread > 1:
        u = torch.rand(n, 1, 1, 1, 1, generator=generator, device=generator.device)
        molecules = molecules * spread ** (u - 0.5)  # the square root of the factor on the SNR
    x, own, which = _insert(molecules, counted, background, snr, wedge, envelope, generator)
    return Labelled(x.cpu(), y.cpu(), labels, voxel_size, own.cpu(), which.cpu())


def _molecules(
    names: Sequence[str],
    n: int,
    box: int,
    voxel_size: float,
    optics: Optics,
    generator: torch.Generator,
    offset: float,
) -> tuple[Tensor, Tensor]:
    """Evenly drawn classes (n,) and their noise-free subtomograms (n, 1, box, box, box)."""
    y = scenarios.draw_labels(n, len(names), 1.0, generator)
    bank = specimens.templates(names, voxel_size, box, generator=generator)
    specimen = specimens.specimens(y, bank, generator=generator, offset=offset)
    optics = replace(optics, voxel_size=voxel_size)
    return y, imaging.image_by_transfer(specimen, bank, optics, generator=generator, noise=False).x


def _insert(
    molecules: Tensor,
    counted: Tensor,
    background: Tensor,
    snr: float,
    wedge: Wedge | None,
    envelope: Tensor,
    generator: torch.Generator,
) -> tuple[Tensor, Tensor, Tensor]:
    """Normalised spike-ins, the SNR of each, and the index of its box; the mean SNR of the `counted` ones is `snr`."""
    signal = _apply(molecules, envelope)
    n, boxes = len(signal), len(background)
    which = torch.randperm(boxes, generator=generator, device=generator.device).repeat(-(-n // boxes))[:n]
    noise, rotations = background[which].clone(), rotations_that_keep(measured_samples(wedge, background.shape[-1]))
    for start in range(boxes, n, boxes):
        again, rotation = slice(start, start + boxes), rotations[start // boxes % len(rotations)]
        noise[again] = noise[again].flip(ROTATIONS_180[rotation])
    own = signal.var((1, 2, 3, 4), correction=0) / noise.var((1, 2, 3, 4), correction=0)
    factor = snr / own[counted].mean()
    return data.normalize(noise + signal * factor.sqrt()), own * factor, which


@dataclass(frozen=True, eq=False)
class SpikeInScore:
    """Accuracy of a classifier on spike-ins.

    Attributes
    ----------
    classes : K names
    n : spike-ins of each class, (K,)
    recall : of each class, (K,), from 0 to 1
    balanced_accuracy : mean recall
    confusion : (K, K) counts, true classes in rows, predicted ones in columns
    probabilities : (N, K) of the network, not calibrated
    correct : (N,) bool, which spike-ins were predicted as their own class
    far : mean recall with picking errors of up to FAR voxels instead of OFFSET; NaN where it was not measured
    """

    classes: tuple[str, ...]
    n: np.ndarray
    recall: np.ndarray
    balanced_accuracy: float
    confusion: np.ndarray
    probabilities: Tensor
    correct: np.ndarray
    far: float = float("nan")

    def __str__(self) -> str:
        """Balanced accuracy as a range over the unknown picking error, such as "0.71 to 0.80", or one number."""
        if math.isnan(self.far):
            return f"{self.balanced_accuracy:.2f}"
        return " to ".join(dict.fromkeys(f"{value:.2f}" for value in sorted((self.far, self.balanced_accuracy))))

    def worse_than(self, other: SpikeInScore) -> bool:
        """Whether the accuracy is lower than that of `other` on the same spike-ins by more than 2 standard errors."""
        gain = self.correct.astype(float) - other.correct
        return bool(gain.mean() < -2 * gain.std(ddof=1) / len(gain) ** 0.5)


def score(probabilities: Tensor, spikes: Labelled, far: float = float("nan")) -> SpikeInScore:
    """Accuracy of predictions (N, K) for the N spike-ins; `far` as in :class:`SpikeInScore`."""
    return SpikeInScore(
        classes=spikes.classes,
        n=np.bincount(spikes.y.numpy(), minlength=len(spikes.classes)),
        recall=metrics.recall(probabilities, spikes.y),
        balanced_accuracy=metrics.balanced_accuracy(probabilities, spikes.y),
        confusion=metrics.confusion(probabilities, spikes.y),
        probabilities=probabilities.cpu(),
        correct=(probabilities.argmax(1).cpu() == spikes.y).numpy(),
        far=far,
    )


def table(scores: Mapping[str, SpikeInScore]) -> str:
    """CSV text with a row per method and class, columns method, class, cubes, recall; scores by method."""
    with io.StringIO(newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["method", "class", "cubes", "recall"])
        for method, found in scores.items():
            for name, n, recall in zip(found.classes, found.n, found.recall, strict=True):
                writer.writerow([method, name, n, f"{recall:.4f}"])
        return file.getvalue()
