"""The microscope as formulas: CTF, dose filter, tilt geometry, shot noise, and the transfer of a whole tilt series.

Frequencies `k` are in cycles per voxel unless a name ends in ``_A`` (1/A). Axis order is zyx, the beam is z and the
tilt axis is y unless `Optics.tilt_axis` turns it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from ..errors import InputError
from ..fourier import half_ball, to_tilt_frame, wavelength

SIGMA_E = 6.526e-4  # interaction constant at 300 kV, rad / (V A)
ATTENUATION_NM = 300.0  # electrons that leave ice unscattered fall by 1/e over about this thickness at 300 kV


def tilt_scheme(low: float, high: float, step: float = 3.0, pretilt: float = 0.0) -> tuple[float, ...]:
    """Dose-symmetric acquisition order (Hagen et al. 2017) from `low` to `high` degrees, starting next to `pretilt`."""
    if not low < high or step <= 0:
        raise InputError(f"Tilt range {low}..{high} in steps of {step}: wanted low < high and a positive step.")
    angles = [float(low + i * step) for i in range(int((high - low) / step + 1e-6) + 1)]
    return tuple(sorted(angles, key=lambda a: (abs(a - pretilt), a)))


@dataclass(frozen=True)
class Optics:
    """One tilt series: what every subtomogram of one tomogram has in common.

    Attributes
    ----------
    voxel_size : A per voxel
    defocus : um, underfocus positive
    amplitude_contrast : fraction, 0 to 1
    voltage, cs : kV, mm
    tilts : degrees, in the order of acquisition
    tilt_axis : degrees from y in the xy plane, positive from +y towards +x: the axis is (z, y, x) = (0, cos, sin)
    dose_per_tilt : e/A^2
    thickness : ice thickness, nm
    dqe : detective quantum efficiency, 0 to 1
    b_factor : envelope exp(-B k^2 / 4), A^2
    misalignment : sigma of the residual shift of a tilt image along each axis, A
    noise_slope : beta of a noise power that falls as k^-beta (0: white)
    structural_fraction : share of the noise power that passed through the optics (solvent, small solutes)
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

    def __post_init__(self) -> None:
        for name in ("voxel_size", "voltage", "dose_per_tilt", "dqe"):
            if not getattr(self, name) > 0:
                raise InputError(f"Optics.{name} is {getattr(self, name)}; wanted a value above 0.")
        if not self.tilts or max(abs(t) for t in self.tilts) > 80:
            raise InputError(f"Optics.tilts is {self.tilts}; wanted at least one angle, all within -80..80 degrees.")
        if not 0 <= self.structural_fraction < 1:
            raise InputError(f"Optics.structural_fraction is {self.structural_fraction}; wanted 0 <= fraction < 1.")


def ctf(k_A: Tensor, optics: Optics) -> Tensor:
    """Contrast transfer of a bright (white-particle) image, without envelope.

    sin(chi + asin(A)) with chi = pi lambda dz k^2 - pi/2 Cs lambda^3 k^4 and dz the underfocus: A at DC, then rising
    with underfocus.

    Parameters
    ----------
    k_A : spatial frequency, 1/A, any shape
    """
    lam = wavelength(optics.voltage)
    k2 = k_A.square()
    chi = math.pi * lam * optics.defocus * 1e4 * k2 - 0.5 * math.pi * optics.cs * 1e7 * lam**3 * k2.square()
    return torch.sin(chi + math.asin(optics.amplitude_contrast))


def dose_filter(k_A: Tensor, dose: float | Tensor) -> Tensor:
    """Amplitude left after `dose` e/A^2 at 300 kV: exp(-dose / (2 Nc)), Nc = 0.245 k^-1.665 + 2.81.

    Grant & Grigorieff 2015, eLife 4:e06980, eq. 3 and table; 1 at DC.
    """
    critical = 0.245 * k_A.clamp_min(1e-6) ** -1.665 + 2.81
    return torch.exp(-0.5 * dose / critical)


def shot_noise(optics: Optics) -> Tensor:
    """Relative standard deviation of a pixel of each tilt image, (T,).

    1 / sqrt(electrons detected), electrons = dose * pixel^2 * DQE * exp(-path / attenuation), path = thickness / cos.
    """
    path = optics.thickness / torch.cos(torch.deg2rad(torch.tensor(optics.tilts)))
    electrons = optics.dose_per_tilt * optics.voxel_size**2 * optics.dqe * torch.exp(-path / ATTENUATION_NM)
    return electrons.rsqrt()


def noise_colour(k: Tensor, slope: float) -> Tensor:
    """Amplitude of noise whose power falls as k^-slope, mean power 1 over the disc |k| < 0.5; held flat below 0.02."""
    edge = torch.linspace(0.0, 0.5, 501)
    power = (edge.clamp_min(0.02) / 0.5) ** -slope
    mean = (power * edge).sum() / edge.sum()
    return ((k.clamp_min(0.02) / 0.5) ** -slope / mean).sqrt()


def tilt_amplitude(k: Tensor, optics: Optics) -> tuple[Tensor, Tensor]:
    """Per tilt image: what the optics and the dose do to the signal, and the weight the reconstruction gives.

    Parameters
    ----------
    k : (P,) in-plane frequency, cycles per voxel

    Returns
    -------
    signal : (T, P), 2 sigma_e * pixel * CTF_t * envelope * q_t: potential in V to relative contrast
    weight : (T, P), q_t, applied to signal and noise alike when the tilts are put together
    """
    k_A = k / optics.voxel_size
    dose = optics.dose_per_tilt * (torch.arange(len(optics.tilts)) + 0.5)
    q = dose_filter(k_A[None], dose[:, None])
    envelope = torch.exp(-0.25 * optics.b_factor * k_A.square())
    scale = 2 * SIGMA_E * optics.voxel_size
    return scale * ctf(k_A, optics) * envelope * q, q


@lru_cache(maxsize=256)
def transfer(optics: Optics, n: int) -> tuple[Tensor, Tensor]:
    """Transfer and noise spectrum of a whole tilt series on the half-ball of an n^3 box.

    A tilt series is linear: H(k) = sum_t w_t CTF_t q_t^2 / sum_t w_t, where w_t is a triangle one Fourier voxel wide
    on either side of the slice of tilt t. Where no slice passes within half a voxel (the missing wedge) both are 0.

    Returns
    -------
    H : (P,) relative contrast per volt
    S : (P,) standard deviation of the complex noise coefficient; 0 at DC
    """
    _, k = half_ball(n)
    radius = k.norm(dim=-1)
    angle = torch.deg2rad(torch.tensor(optics.tilts))[:, None]
    across = to_tilt_frame(k, optics.tilt_axis)[:, 2]
    distance = (k[:, 0] * torch.cos(angle) - across * torch.sin(angle)).abs() * n
    w = (1 - distance).clamp_min(0)
    total = w.sum(0)
    seen = (total > 0.5).float()
    total = total.clamp_min(0.5)
    signal, weight = tilt_amplitude(radius, optics)
    blur = torch.exp(-2 * (math.pi * optics.misalignment / optics.voxel_size * radius).square())
    H = seen * blur * (w * signal * weight).sum(0) / total
    S = (
        seen
        * n
        * (w * (weight * shot_noise(optics)[:, None]).square()).sum(0).sqrt()
        / (total * total.clamp_min(1)).sqrt()
    )
    S = S * noise_colour(radius, optics.noise_slope) * (radius > 0)
    f = optics.structural_fraction
    if f > 0:
        S = (S.square() * (1 - f) + (H * structural_amplitude(optics, n)).square() * (radius > 0)).sqrt()
    return H, S


@lru_cache(maxsize=256)
def structural_amplitude(optics: Optics, n: int) -> float:
    """Amplitude (V n^1.5) of a white specimen whose image carries the structural share of the noise power."""
    plain = Optics(**{**optics.__dict__, "structural_fraction": 0.0})
    H, S = transfer(plain, n)
    return math.sqrt(optics.structural_fraction * S.square().sum().item() / H.square().sum().item())
