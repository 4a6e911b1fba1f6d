"""The microscope as formulas: dose filter, tilt geometry, shot noise, and the transfer of a whole tilt series.

Frequencies `k` are in cycles per voxel unless a name ends in ``_A`` (1/A). Axes are in zyx order. The beam is z; the
tilt axis is y, rotated by `Optics.tilt_axis`. Functions of a frequency tensor compute on the device of that tensor.

Voltage enters in four places: the wavelength (`fourier.wavelength`), the interaction constant
(`interaction_constant`), the attenuation length (`attenuation_length`) and the critical dose (`dose_tolerance`). Each
is scaled from its published value at 300 kV.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import lru_cache

import torch
from torch import Tensor

from .. import fourier
from ..errors import InputError
from ..fourier import Device, half_ball, to_tilt_frame, wavelength

REST_ENERGY = 510.99895  # of the electron, keV
SIGMA_300 = 6.526e-4  # interaction constant at 300 kV, rad / (V A); Kirkland 2020, chapter 5
ATTENUATION_300_NM = 300.0  # thickness of ice after which 1/e of the electrons are unscattered at 300 kV
# Critical dose relative to 300 kV: 0.8 at 200 kV from Grant & Grigorieff 2015, 0.8^2 at 100 kV as RELION uses.
DOSE_TOLERANCE = {100.0: 0.64, 200.0: 0.8, 300.0: 1.0}
FIELD = 4 / 3  # least width of the imaged field in boxes
# Fourier voxels over which the tilts of a sample are averaged. The edge of the missing wedge is sharper than the grid;
# samples without extent would fold its streaks back into the field. Of 0 to 1, this meets a real-space reference best.
ARC = 0.65
SIRT_STEP = 1 / 512  # largest step, cycles per voxel, with which SIRT converges in a tomogram 512 voxels wide


def tilt_scheme(low: float, high: float, step: float = 3.0, pretilt: float = 0.0) -> tuple[float, ...]:
    """Tilt angles in degrees from `low` to `high`, in dose-symmetric order that starts next to `pretilt`.

    Source: Hagen, Wan & Briggs 2017, J. Struct. Biol. 197:191.
    """
    if not low < high or step <= 0:
        raise InputError(f"Tilts: expected low < high and a positive step, got {low} to {high} in steps of {step}.")
    angles = [float(low + i * step) for i in range(int((high - low) / step + 1e-6) + 1)]
    return tuple(sorted(angles, key=lambda a: (abs(a - pretilt), a)))


@dataclass(frozen=True)
class Optics:
    """Acquisition settings of one tilt series; all subtomograms of a tomogram share them.

    Attributes
    ----------
    voxel_size : A per voxel
    defocus : um, underfocus positive
    amplitude_contrast : fraction, 0 to 1
    voltage : kV, 100 to 300
    cs : spherical aberration, mm
    tilts : degrees, in the order of acquisition
    tilt_axis : degrees from y in the xy plane, positive from +y towards +x: the axis is (z, y, x) = (0, cos, sin)
    dose_per_tilt : e/A^2
    thickness : ice thickness, nm
    pretilt : stage tilt at which the beam meets the ice perpendicularly, degrees; 0 except for milled lamellae
    dqe : detective quantum efficiency, 0 to 1
    b_factor : envelope exp(-B k^2 / 4), A^2
    misalignment : sigma of the residual shift of a tilt image along each axis, A
    noise_slope : beta of a noise power that falls as k^-beta (0: white)
    structural_fraction : fraction of the noise power that passed through the optics (solvent, small solutes)
    sirt_iterations : 0 for weighted back-projection; N > 0 for its filter that imitates N iterations of SIRT, see
        `reconstruction_filter`

    Raises
    ------
    InputError
        A value is outside its range.
    """

    voxel_size: float = 12.0
    defocus: float = 3.0
    amplitude_contrast: float = 0.07
    voltage: float = 300.0
    cs: float = 2.7
    tilts: tuple[float, ...] = tilt_scheme(-60, 60)
    tilt_axis: float = 0.0
    dose_per_tilt: float = 3.0
    thickness: float = 100.0
    dqe: float = 0.6
    b_factor: float = 0.0
    misalignment: float = 0.0
    noise_slope: float = 0.0
    structural_fraction: float = 0.0
    pretilt: float = 0.0
    sirt_iterations: int = 0

    def __post_init__(self) -> None:
        for name in ("voxel_size", "dose_per_tilt", "dqe"):
            if not getattr(self, name) > 0:
                raise InputError(f"Optics.{name}: expected a value above 0, got {getattr(self, name)}.")
        low, high = min(DOSE_TOLERANCE), max(DOSE_TOLERANCE)
        if not low <= self.voltage <= high:
            raise InputError(
                f"Optics.voltage: expected {low:g} to {high:g} kV, the range with measured radiation damage, got "
                f"{self.voltage:g}. Microscopes usually work at 200 or 300 kV."
            )
        if not self.tilts or max(abs(t) for t in self.tilts) > 80:
            raise InputError(
                f"Optics.tilts: expected at least one angle, all within -80 to 80 degrees, got {self.tilts}."
            )
        steepest = max(abs(t - self.pretilt) for t in self.tilts)
        if not steepest < 85:
            raise InputError(
                f"Optics.pretilt: expected tilts within 85 degrees of it, got a tilt {steepest:g} degrees from "
                f"{self.pretilt:g}, at which the beam runs along the ice. Check the sign."
            )
        if not 0 <= self.structural_fraction < 1:
            raise InputError(f"Optics.structural_fraction: expected 0 <= fraction < 1, got {self.structural_fraction}.")
        if self.sirt_iterations < 0:
            raise InputError(
                f"Optics.sirt_iterations: expected 0 (weighted back-projection) or more, got {self.sirt_iterations}."
            )


def _beta_squared(voltage: float) -> float:
    """Squared electron velocity at `voltage` kV, relative to that of light."""
    return 1 - (REST_ENERGY / (REST_ENERGY + voltage)) ** 2


def interaction_constant(voltage: float) -> float:
    """Phase shift per projected potential at `voltage` kV, rad / (V A): 6.526e-4 at 300 kV, 7.288e-4 at 200 kV.

    sigma = 2 pi / (lambda V) (m c^2 + e V) / (2 m c^2 + e V), scaled to `SIGMA_300` at 300 kV.
    Source: Kirkland, Advanced Computing in Electron Microscopy, 3rd ed. (2020), eq. 5.6.
    """

    def relative(kv: float) -> float:
        return (REST_ENERGY + kv) / (2 * REST_ENERGY + kv) / (wavelength(kv) * kv)

    return SIGMA_300 * (relative(voltage) / relative(300.0))


def attenuation_length(voltage: float) -> float:
    """Ice thickness in nm after which 1/e of the electrons are unscattered: 300 at 300 kV, about 241 at 200 kV.

    The scattering cross-sections scale as 1 / beta^2 (beta: electron velocity relative to that of light; the weak
    logarithmic term of inelastic scattering is neglected), so the length scales as beta^2.
    Source: Reimer & Kohl, Transmission Electron Microscopy, 5th ed. (2008), chapter 5.
    """
    return ATTENUATION_300_NM * (_beta_squared(voltage) / _beta_squared(300.0))


def dose_tolerance(voltage: float) -> float:
    """Critical dose at `voltage` kV relative to 300 kV: 0.8 at 200 kV, 0.64 at 100 kV, linear in between.

    Source: Grant & Grigorieff 2015, eLife 4:e06980, for 200 kV; RELION's dose weighting for 100 kV.
    """
    known = sorted(DOSE_TOLERANCE.items())
    for (low, at_low), (high, at_high) in zip(known, known[1:], strict=False):
        if low <= voltage <= high:
            return at_low + (at_high - at_low) * (voltage - low) / (high - low)
    raise InputError(f"Voltage: expected {known[0][0]:g} to {known[-1][0]:g} kV, got {voltage:g}.")


def ctf(k_A: Tensor, optics: Optics) -> Tensor:
    """Contrast transfer function of `optics` at `k_A` (1/A, any shape); see `fourier.ctf` for formula and sign."""
    return fourier.ctf(
        k_A,
        defocus=optics.defocus,
        voltage=optics.voltage,
        cs=optics.cs,
        amplitude_contrast=optics.amplitude_contrast,
    )


def dose_filter(k_A: Tensor, dose: float | Tensor, voltage: float = 300.0) -> Tensor:
    """Amplitude that remains after `dose` e/A^2 at `voltage` kV: exp(-dose / (2 Nc)); 1 at k = 0.

    The critical dose is Nc = (0.245 k^-1.665 + 2.81) * dose_tolerance(voltage), with k_A in 1/A.
    Source: Grant & Grigorieff 2015, eLife 4:e06980, eq. 3 and its table.
    """
    critical = (0.245 * k_A.clamp_min(1e-6) ** -1.665 + 2.81) * dose_tolerance(voltage)
    return torch.exp(-0.5 * dose / critical)


def shot_noise(optics: Optics, device: Device = "cpu") -> Tensor:
    """Relative standard deviation of a pixel of each tilt image, (T,).

    1 / sqrt(electrons detected), electrons = dose * pixel^2 * DQE * exp(-path / attenuation),
    path = thickness / cos(tilt - pretilt).
    """
    path = optics.thickness / torch.cos(torch.deg2rad(torch.tensor(optics.tilts, device=device) - optics.pretilt))
    unscattered = torch.exp(-path / attenuation_length(optics.voltage))
    electrons = optics.dose_per_tilt * optics.voxel_size**2 * optics.dqe * unscattered
    return electrons.rsqrt()


def noise_colour(k: Tensor, slope: float) -> Tensor:
    """Amplitude at `k` of noise whose power falls as k^-slope; constant below k = 0.02 cycles per voxel.

    The mean power over the disc |k| < 0.5 is 1.
    """
    edge = torch.linspace(0.0, 0.5, 501, device=k.device)
    power = (edge.clamp_min(0.02) / 0.5) ** -slope
    mean = (power * edge).sum() / edge.sum()
    return ((k.clamp_min(0.02) / 0.5) ** -slope / mean).sqrt()


def tilt_amplitude(k: Tensor, optics: Optics) -> tuple[Tensor, Tensor]:
    """Amplitude of the signal in each tilt image, and the weight of that image in the reconstruction.

    Parameters
    ----------
    k : (P,) in-plane frequency, cycles per voxel

    Returns
    -------
    signal : (T, P), 2 sigma_e * pixel * CTF_t * envelope * q_t, from potential in V to relative contrast
    weight : (T, P), the dose filter q_t, applied to signal and noise when the tilt images are combined
    """
    k_A = k / optics.voxel_size
    dose = optics.dose_per_tilt * (torch.arange(len(optics.tilts), device=k.device) + 0.5)
    q = dose_filter(k_A[None], dose[:, None], optics.voltage)
    envelope = torch.exp(-0.25 * optics.b_factor * k_A.square())
    scale = 2 * interaction_constant(optics.voltage) * optics.voxel_size
    return scale * ctf(k_A, optics) * envelope * q, q


def angular_step(tilts: tuple[float, ...]) -> float:
    """Angle in radians that each tilt image stands for: the median step of the sorted tilts.

    Every image has this weight, also where tilts are missing or irregular. A single tilt stands for 3 degrees.
    """
    angles = torch.tensor(sorted(set(tilts)), device="cpu")
    return math.radians(float(angles.diff().median())) if len(angles) > 1 else math.radians(3.0)


def ramp(size: int) -> Tensor:
    """Ramp filter |k| of the weighted back-projection, cycles per voxel, (size // 2 + 1,) as an rfft of `size` samples.

    It is the transform of the ramp's samples in real space, which differs from |k| near k = 0: with |k| itself, the
    filter's response would wrap around the image. On the CPU.
    Source: Kak & Slaney 1988, Principles of Computerized Tomographic Imaging, eq. 3.61.
    """
    x = torch.fft.fftfreq(size, 1 / size, device="cpu").round()
    kernel = torch.where(x % 2 == 1, -1 / (math.pi * x.abs().clamp_min(1)) ** 2, 0.0)
    kernel[0] = 0.25
    return torch.fft.rfft(kernel).real


def reconstruction_filter(k_across: Tensor, optics: Optics) -> Tensor:
    """Factor on the ramp of the weighted back-projection, 0 to 1, at `k_across`: cycles per voxel from the tilt axis.

    It is 1 for plain weighted back-projection. For N SIRT iterations it is 1 - (1 - a / k)^N with the step a =
    `SIRT_STEP`, and 1 below k = a.
    Source: Zeng 2012, Med. Phys. 39:603 (filtered back-projection that equals N iterations of Landweber's algorithm).
    """
    if optics.sirt_iterations == 0:
        return torch.ones_like(k_across)
    step = SIRT_STEP / k_across.abs().clamp_min(SIRT_STEP)
    return 1 - (1 - step) ** optics.sirt_iterations


def _tilt_weights(angle: Tensor, arc: Tensor, optics: Optics) -> Tensor:
    """Weight (T, P) of each tilt image at samples whose tilt is `angle`, averaged over `arc`; both (P,), degrees.

    A tilt image covers the angles around it as a triangle that ends at the next image. The average has a closed form.
    """
    step = math.degrees(angular_step(optics.tilts))
    tilts = torch.tensor(optics.tilts, device=angle.device)[:, None]
    distance = (tilts - angle + 90) % 180 - 90

    def integral(x: Tensor) -> Tensor:  # of the triangle 1 - |x| up to x
        x = (x / step).clamp(-1, 1)
        return x - 0.5 * x * x.abs()

    return (integral(distance + arc / 2) - integral(distance - arc / 2)) * (step / arc)


def field_size(n: int) -> int:
    """Width in voxels of the field that is imaged for a box of n voxels: at least `FIELD` boxes, a multiple of 16.

    FFTs of such lengths are fast.
    """
    return 16 * math.ceil(FIELD * n / 16)


@lru_cache(maxsize=256)
def transfer(optics: Optics, n: int) -> tuple[Tensor, Tensor]:
    """Transfer function and noise spectrum of a reconstructed tilt series at the samples of `fourier.half_ball(n)`.

    A tilt series is linear. The ramp of the weighted back-projection undoes the density of the slices, so
    H(k) = sum_t w_t CTF_t q_t^2 with the angular weights w_t of the tilt images, which add up to 1 between the first
    and the last tilt and to 0 in the missing wedge. The power of white noise grows with the ramp:
    S^2(k) = n^3 step r sum_t w_t q_t^2 sigma_t^2, where r is the distance of k from the tilt axis.

    Use n as wide as a field of `field_size`, and crop the result to the box: the wedge is sharper than the Fourier
    voxels of a box.

    Returns
    -------
    H : (P,) relative contrast per volt, on the CPU
    S : (P,) standard deviation of the complex noise coefficient, on the CPU; 0 at k = 0
    """
    _, k = half_ball(n)
    radius = k.norm(dim=-1)
    z, _, across = to_tilt_frame(k, optics.tilt_axis).unbind(-1)
    r = torch.hypot(z, across)
    arc = torch.rad2deg(ARC / n / r.clamp_min(1e-6)).clamp_max(180)  # on the tilt axis, all angles meet
    r = r.clamp_min(0.25 / n)  # mean distance of the Fourier voxel on the axis
    w = _tilt_weights(torch.rad2deg(torch.atan2(z, across)), arc, optics)
    signal, weight = tilt_amplitude(radius, optics)
    blur = torch.exp(-2 * (math.pi * optics.misalignment / optics.voxel_size * radius).square())
    window = reconstruction_filter(r, optics)
    H = window * blur * (w * signal * weight).sum(0)
    power = angular_step(optics.tilts) * r * (w * (weight * shot_noise(optics, k.device)[:, None]).square()).sum(0)
    S = n**1.5 * window * power.sqrt() * noise_colour(radius, optics.noise_slope) * (radius > 0)
    f = optics.structural_fraction
    if f > 0:
        structural = n**1.5 * _white_amplitude(H, S, f, n) * H * (radius > 0)
        S = (S.square() * (1 - f) + structural.square()).sqrt()
    return H, S


def _white_amplitude(H: Tensor, S: Tensor, fraction: float, n: int) -> float:
    """Standard deviation (V) of a white specimen that H passes with `fraction` of the noise power of S."""
    return math.sqrt(fraction * S.square().sum().item() / (n**3 * H.square().sum().item()))


@lru_cache(maxsize=256)
def structural_amplitude(optics: Optics, n: int) -> float:
    """Standard deviation (V) of a white specimen whose images carry `structural_fraction` of the noise power."""
    size = field_size(n)
    H, S = transfer(replace(optics, structural_fraction=0.0), size)
    return _white_amplitude(H, S, optics.structural_fraction, size)
