"""Warp modules: bounded, inspectable changes that make a simulated subtomogram resemble the target domain.

Each is an nn.Module called as ``warp(x, amount=1.0, generator=None)`` with x (N, 1, Z, Y, X); `amount` 0 is the
identity and 1 the full effect. Axes are zyx, the beam is z, the tilt axis y. A generator makes the draws repeatable; it
may be on the CPU while x is elsewhere.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .data import normalize
from .errors import InputError
from .fourier import ctf, frequencies, power_spectrum, radial_bands, shell_means, shells, squared_frequency
from .models import GROUPS
from .support.order import ascending

SAMPLE = 5000  # voxels on which a warp measures the median and the deviation of a subtomogram


def _device(generator: torch.Generator | None, like: Tensor) -> torch.device:
    return generator.device if generator else like.device


def _uniform(n: int, low: float, high: float, generator: torch.Generator | None, like: Tensor) -> Tensor:
    """n draws, shaped to multiply subtomograms (n, 1, 1, 1, 1)."""
    u = torch.rand(n, generator=generator, device=_device(generator, like))
    return (low + (high - low) * u).to(like.device).view(n, 1, 1, 1, 1)


def _normal(shape: tuple[int, ...], generator: torch.Generator | None, like: Tensor) -> Tensor:
    return torch.randn(shape, generator=generator, device=_device(generator, like)).to(like.device)


def gaussian_kernel(sigma: float, device: torch.device | str = "cpu") -> Tensor:
    """1-D Gaussian of odd length 2 ceil(3 sigma) + 1, with its peak in the centre and a sum of 1."""
    radius = math.ceil(3 * sigma)
    kernel = torch.exp(-0.5 * (torch.arange(-radius, radius + 1, device=device) / sigma) ** 2)
    return kernel / kernel.sum()


def smooth(field: Tensor, sigma: float) -> Tensor:
    """Gaussian smoothing of (N, C, Z, Y, X), axis by axis, with repeated edges; `sigma` in voxels of the field."""
    kernel = gaussian_kernel(sigma, field.device).to(field)
    channels = field.shape[1]
    for axis in (2, 3, 4):
        shape = [channels, 1, 1, 1, 1]
        shape[axis] = len(kernel)
        pad = [0] * 6
        pad[2 * (4 - axis)] = pad[2 * (4 - axis) + 1] = len(kernel) // 2
        weight = kernel.view([1, 1] + shape[2:]).expand(shape)
        field = F.conv3d(F.pad(field, pad, mode="replicate"), weight, groups=channels)
    return field


class NoiseWarp(nn.Module):
    """Additive change of each voxel, |delta| <= 0.8 standard deviations, by an encoder-decoder of image and noise.

    The last layer before the tanh is linear: both signs are equally easy to reach.
    """

    bound = 0.8

    def __init__(self, width: int = 8):
        super().__init__()
        self.encode = nn.Conv3d(1, width, 3, stride=2, padding=1)
        self.down = nn.Conv3d(width + 2, 2 * width, 3, stride=2, padding=1)
        self.up = nn.Conv3d(2 * width, width, 3, padding=1)
        self.norm1, self.norm2 = nn.GroupNorm(GROUPS, 2 * width), nn.GroupNorm(GROUPS, width)
        self.last = nn.Conv3d(width, 8, 3, padding=1)  # at half resolution: its 8 channels are the 2^3 voxels
        nn.init.normal_(self.last.weight, std=0.01)
        if self.last.bias is not None:
            nn.init.zeros_(self.last.bias)

    def delta(self, x: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """The change (N, 1, Z, Y, X) in standard deviations."""
        n, _, *box = x.shape
        pad = [(-side) % 4 for side in reversed(box)]
        h = self.encode(F.pad(x, (0, pad[0], 0, pad[1], 0, pad[2]), mode="replicate"))
        noise = _normal((n, 2, *h.shape[2:]), generator, x)
        low = self.up(F.relu(self.norm1(self.down(torch.cat([h, noise], 1)))))
        h = F.relu(self.norm2(F.interpolate(low, scale_factor=2) + h))
        z, y, x_side = h.shape[2:]
        fine = self.last(h).view(n, 2, 2, 2, z, y, x_side).permute(0, 4, 1, 5, 2, 6, 3)
        fine = fine.reshape(n, 1, 2 * z, 2 * y, 2 * x_side)[:, :, : box[0], : box[1], : box[2]]
        return self.bound * torch.tanh(fine)

    def forward(self, x: Tensor, amount: float = 1.0, generator: torch.Generator | None = None) -> Tensor:
        return x + amount * self.delta(x, generator)


class DeformationWarp(nn.Module):
    """Smooth displacement of at most 1 voxel, by a persistent decoder of the coarse image and noise."""

    bound = 1.0

    def __init__(self, width: int = 16, sigma: float = 1.0):
        super().__init__()
        self.encode, self.norm = nn.Conv3d(4, width, 3, padding=1), nn.GroupNorm(GROUPS, width)
        self.last = nn.Conv3d(width, 3, 3, padding=1)
        self.sigma = sigma

    def coarse_field(self, x: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Displacement on a grid 4 times as coarse as the box, as :meth:`field`."""
        coarse = F.avg_pool3d(x, 4, ceil_mode=True)
        noise = _normal((len(x), 3, *coarse.shape[2:]), generator, x)
        h = self.last(F.relu(self.norm(self.encode(torch.cat([coarse, noise], 1)))))
        return smooth(torch.tanh(h) * (self.bound / math.sqrt(3)), self.sigma)

    def field(self, x: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Displacement (N, 3, Z, Y, X) in voxels, components in the order x, y, z, length <= 1."""
        return F.interpolate(self.coarse_field(x, generator), size=x.shape[2:], mode="trilinear")

    def forward(self, x: Tensor, amount: float = 1.0, generator: torch.Generator | None = None) -> Tensor:
        if amount == 0:
            return x
        per_voxel = 2.0 / torch.tensor(x.shape[:1:-1], device=x.device, dtype=x.dtype)  # x, y, z; the grid spans 2
        field = self.coarse_field(x, generator) * (amount * per_voxel.view(1, 3, 1, 1, 1))
        shift = F.interpolate(field, size=x.shape[2:], mode="trilinear").movedim(1, -1)
        still = F.affine_grid(torch.eye(3, 4, device=x.device)[None], list(x[:1].shape), align_corners=False)
        return F.grid_sample(x, still + shift, padding_mode="border", align_corners=False)


def mean_spectrum(x: Tensor) -> Tensor:
    """Mean power (Z, Y, X // 2 + 1) of subtomograms, smoothed over neighbouring frequencies where N is small."""
    total = torch.stack([power_spectrum(part).sum(0) for part in x.split(64)]).sum(0) / len(x)
    total[0, 0, 0] = total[[0, 1], [1, 0], [0, 0]].mean()  # the mean grey value is no part of the spectrum
    log = total.clamp_min(1e-8).log()[None, None]
    log = F.pad(F.pad(log, (0, 0, 1, 1, 1, 1), mode="circular"), (1, 1, 0, 0, 0, 0), mode="replicate")
    local = F.avg_pool3d(log, 3, stride=1)[0, 0].exp()
    return (len(x) * total + 27 * local) / (len(x) + 27)


def shell_amplitude(x: Tensor) -> tuple[Tensor, Tensor]:
    """Spherical average of the average particle's transform: (n // 2 - 1,) amplitudes, and samples in each shell.

    Shells are one Fourier voxel thick about 1, 2, ... n // 2 - 1. Particles stand in the centre of their boxes and
    noise does not: the mean over a domain leaves the particles and needs no label.
    """
    mean = x[:, 0].mean(0)
    transform = torch.fft.rfftn(torch.fft.ifftshift(mean), dim=(0, 1, 2)).real
    inside = slice(1, len(mean) // 2)
    amplitude, samples = shell_means(transform, shells(mean.shape, x.device))
    return amplitude[inside], samples[inside]


@dataclass(frozen=True)
class Envelope:
    """Transfer from the source's average particle to the target's, at squared frequencies k2 (cycles / voxel)^2::

        gain * exp(-B k^2) * (1 - exp(-2 (pi highpass k)^2))

    B is `b_factor_voxels` (voxel^2) and stands for what blurs the target but not the source: misalignment, radiation
    damage, a low-pass filter, picking errors. The last factor removes a Gaussian background of `highpass` voxels; 0
    removes none.
    """

    gain: float
    b_factor_voxels: float
    highpass: float

    def __call__(self, k2: Tensor, fraction: Tensor | float = 1.0) -> Tensor:
        """Transfer at k2, with a `fraction` of the B-factor (broadcast against k2)."""
        kept = 1 - torch.exp(-2 * (math.pi * self.highpass) ** 2 * k2) if self.highpass else 1.0
        return self.gain * kept * torch.exp(-self.b_factor_voxels * fraction * k2)


def signal_envelope(source_x: Tensor, target_x: Tensor) -> Envelope:
    """The envelope that maps the source's :func:`shell_amplitude` to the target's, shells weighted by their samples.

    Gain within 0.2-5, B-factor 0-200 voxel^2, high-pass none or 2-8 voxels. It assumes that the classes are about as
    frequent in both domains. Gain 1 and nothing else where two halves of the source show no common, centred particle.
    """
    (one, samples), (other, _) = (shell_amplitude(part) for part in (source_x[::2], source_x[1::2]))
    s, t = shell_amplitude(source_x)[0], shell_amplitude(target_x)[0]
    if float((samples * one * other).sum()) < 0.5 * float((samples * s * s).sum()):
        return Envelope(1.0, 0.0, 0.0)
    k2 = (torch.arange(1, len(s) + 1, device=s.device) / source_x.shape[-1]).square()
    halves = [shell_amplitude(part)[0] for part in (target_x[::2], target_x[1::2])]
    chance = float((samples * (halves[0] - halves[1]).square()).mean()) / 4  # a shell's misfit of the right model

    def fitted(b_factor_voxels: float, highpass: float) -> tuple[float, Envelope]:
        model = s * Envelope(1.0, b_factor_voxels, highpass)(k2)
        gain = float((samples * model * t).sum() / (samples * model * model).sum())
        gain = min(5.0, max(0.2, gain))
        misfit = float((samples * (gain * model - t).square()).sum())
        used = (b_factor_voxels > 0) + (highpass > 0)  # each parameter costs something (Akaike 1974)
        return misfit + 2 * used * chance, Envelope(gain, b_factor_voxels, highpass)

    grid = [fitted(4.0 * i, h) for i in range(51) for h in (0.0, 8.0, 6.0, 5.0, 4.0, 3.0, 2.5, 2.0)]
    return min(grid, key=lambda found: found[0])[1]


def _times(real: Tensor, transform: Tensor) -> Tensor:
    """Their product, without a complex copy of `real`."""
    return torch.view_as_complex(real.unsqueeze(-1) * torch.view_as_real(transform))


class SpectrumWarp(nn.Module):
    """Rescales the signal and adds coloured noise so that the power spectrum equals one of the target's.

    Closed form and label-free. P_x is the mean source spectrum; P_t is the target's mean spectrum times the smooth
    deviation of one target subtomogram, drawn for each input. The signal gain a(k) is within a factor `spread` of
    :func:`signal_envelope`, with a random fraction of its B-factor, because picking errors blur an average too. Then

        g = min(a, sqrt(P_t / P_x)),    P_n = P_t - g^2 P_x,    out = g x + sqrt(P_n) noise,

    per frequency on the whole half grid, which matches wedge, envelope and noise colour together. The *mean* source
    spectrum is used instead of the input's own: a bright molecule keeps its excess over the average. A spectrum alone
    cannot separate signal from noise; the gain can. Realism training may change P_t by radial gains within a factor
    of 2.
    """

    source: Tensor
    target: Tensor
    bank: Tensor
    bands: Tensor
    k2: Tensor

    def __init__(
        self,
        source: Tensor,
        target: Tensor,
        bank: Tensor,
        envelope: Envelope = Envelope(1.0, 0.0, 0.0),  # noqa: B008
        spread: float = 1.3,
    ):
        super().__init__()
        self.register_buffer("source", source)  # (Z, Y, X // 2 + 1), mean power
        self.register_buffer("target", target)
        self.register_buffer("bank", bank)  # (M, bands), log deviation of each target subtomogram from the mean
        box = (source.shape[0], source.shape[1], 2 * (source.shape[2] - 1) + source.shape[1] % 2)
        self.register_buffer("bands", radial_bands(box, bank.shape[1], bank.device), persistent=False)
        self.theta = nn.Parameter(torch.zeros(bank.shape[1], device=bank.device))
        self.envelope = envelope
        self.register_buffer("k2", squared_frequency(box, bank.device), persistent=False)
        self.spread, self.box = spread, box

    @classmethod
    def estimate(cls, source_x: Tensor, target_x: Tensor, n_bands: int = 8) -> SpectrumWarp:
        """The warp for the spectra of normalised subtomograms (N, 1, Z, Y, X) of one box size; 100 each suffice."""
        if source_x.shape[1:] != target_x.shape[1:] or len(set(source_x.shape[3:])) > 1:
            raise InputError(
                f"Expected one cubic box for source and target, got {tuple(source_x.shape[2:])} and "
                f"{tuple(target_x.shape[2:])}: crop the larger."
            )
        target = mean_spectrum(target_x)
        bands = radial_bands(tuple(target_x.shape[2:]), n_bands, target_x.device)
        modes = bands.sum((1, 2, 3))
        power = torch.cat([torch.einsum("nzyx,bzyx->nb", power_spectrum(p), bands) for p in target_x.split(64)])
        deviation = (power / torch.einsum("zyx,bzyx->b", target, bands)).clamp_min(1e-6).log()
        # The band power of a single subtomogram fluctuates by chance; keep only the spread beyond that.
        twins = torch.where(
            torch.arange(bands.shape[3], device=bands.device) == 0, 2.0, 1.0
        )  # kx = 0 holds each Friedel pair twice
        chance = torch.polygamma(1, modes.square() / (bands.square() * twins).sum((1, 2, 3)))
        spread = deviation.var(0).clamp_min(1e-12)
        shrunk = (deviation - deviation.mean(0)) * (1 - chance / spread).clamp_min(0).sqrt()
        return cls(mean_spectrum(source_x), target, shrunk.clamp(-2, 2), signal_envelope(source_x, target_x))

    def target_power(self, choice: Tensor) -> Tensor:
        """Target power (N, Z, Y, X // 2 + 1) of the bank entries `choice`, with the learned radial gains."""
        log_gain = self.bank[choice] + math.log(2) * torch.tanh(self.theta)
        return self.target * torch.einsum("nb,bzyx->nzyx", log_gain, self.bands).exp()

    def forward(self, x: Tensor, amount: float = 1.0, generator: torch.Generator | None = None) -> Tensor:
        if amount == 0:
            return x
        if tuple(x.shape[2:]) != self.box:
            raise InputError(f"The spectra are those of boxes {self.box}, got subtomograms of {tuple(x.shape[2:])}.")
        device = _device(generator, x)
        choice = torch.randint(len(self.bank), (len(x),), generator=generator, device=device).to(x.device)
        p_x, p_t = self.source, self.target_power(choice)
        fraction = _uniform(len(x), 0.0, 1.0, generator, x)[:, 0]
        a = self.spread ** _uniform(len(x), -1.0, 1.0, generator, x)[:, 0] * self.envelope(self.k2, fraction)
        a = a**amount
        if amount != 1:
            p_t = p_t**amount * p_x ** (1 - amount)
        g = torch.minimum(a, (p_t / p_x).sqrt())
        sigma = (p_t - g.square() * p_x + 1e-10).clamp_min(1e-10).sqrt()
        spectrum = torch.fft.rfftn(x[:, 0], dim=(1, 2, 3))
        noise = torch.fft.rfftn(_normal(tuple(x[:, 0].shape), generator, x), dim=(1, 2, 3))
        out = torch.fft.irfftn(_times(g, spectrum) + _times(sigma, noise), s=self.box, dim=(1, 2, 3))
        return normalize(out.unsqueeze(1), SAMPLE)


class ShiftWarp(nn.Module):
    """Picking error: a shift uniform in a ball of `bound` voxels, exact (a Fourier phase) and periodic. No parameters.

    The picking error is a length, a property of the picks, so `bound` follows the voxel size.
    """

    def __init__(self, bound: float = 0.5):
        super().__init__()
        self.bound = bound

    def forward(self, x: Tensor, amount: float = 1.0, generator: torch.Generator | None = None) -> Tensor:
        if amount == 0:
            return x
        n, box = len(x), x.shape[2:]
        direction = F.normalize(_normal((n, 3), generator, x), dim=1)
        shift = amount * self.bound * direction * _uniform(n, 0, 1, generator, x).view(n, 1).pow(1 / 3)
        kz, ky, kx = frequencies(box, x.device)
        z, y, x_ = (shift[:, i].view(n, 1, 1, 1) * k * (-2 * math.pi) for i, k in enumerate((kz, ky, kx)))
        phase = z + y + x_
        moved = torch.fft.rfftn(x[:, 0], dim=(1, 2, 3)) * torch.polar(torch.ones_like(phase), phase)
        return torch.fft.irfftn(moved, s=box, dim=(1, 2, 3)).unsqueeze(1)


class CrowdingWarp(nn.Module):
    """Neighbours: adds another subtomogram of the batch with up to 1.2 times its grey values, shifted periodically by
    0.4-0.5 of the box along one axis and at random along the others. No parameters."""

    bound = 1.2

    def forward(self, x: Tensor, amount: float = 1.0, generator: torch.Generator | None = None) -> Tensor:
        if amount == 0:
            return x
        n, box = len(x), x.shape[2:]
        device = _device(generator, x)

        def draw(*shape: int) -> Tensor:
            return torch.rand(shape, generator=generator, device=device)

        other = torch.randperm(n, generator=generator, device=device).tolist()
        aside = (draw(n, 3) - 0.5).cpu()
        axis, far = torch.randint(3, (n,), generator=generator, device=device).cpu(), draw(n).cpu()
        rows = torch.arange(n, device="cpu")
        aside[rows, axis] = (0.4 + 0.1 * far) * aside[rows, axis].sign()
        steps = (aside * torch.tensor(box, device="cpu")).round().long().tolist()
        near = torch.stack([x[o].roll(step, (1, 2, 3)) for o, step in zip(other, steps, strict=True)])
        return normalize(x + amount * _uniform(n, 0, self.bound, generator, x) * near, SAMPLE)


class OpticsWarp(nn.Module):
    """Another acquisition: 0-25 degrees more missing wedge, another defocus (1-8 um instead of the source's 3 um, on
    average), contrast times exp(+-0.3), and a background gradient of up to 0.5 s.d. from edge to edge. No parameters.

    Each frequency is multiplied by the ratio of the two contrast transfer functions, at most 3 in size. The input's own
    defocus need not be known exactly: the aim is to randomise, not to restore.
    """

    defocus, source_defocus, largest = (1.0, 8.0), 3.0, 3.0

    def __init__(self, voxel_size: float = 12.0):
        super().__init__()
        self.voxel_size = voxel_size

    def ctf_ratio(self, radius: Tensor, defocus: Tensor) -> Tensor:
        """CTF at `defocus` over that at the source's; radius in cycles per voxel, defocus in um (n, 1, 1, 1)."""
        k_A, optics = radius / self.voxel_size, {"voltage": 300.0, "cs": 0.0, "amplitude_contrast": 0.07}
        old, new = ctf(k_A, defocus=self.source_defocus, **optics), ctf(k_A, defocus=defocus, **optics)
        ratio = new * old / (old.square() + 0.05**2)  # bounded at the zeros, which hold only noise
        return ratio.clamp(-self.largest, self.largest)

    def forward(self, x: Tensor, amount: float = 1.0, generator: torch.Generator | None = None) -> Tensor:
        if amount == 0:
            return x
        n, box = len(x), x.shape[2:]
        kz, _, kx = frequencies(box, x.device)
        angle = torch.atan2(kz.abs(), kx.abs() + 1e-9)  # 0 along x, pi / 2 along the beam
        radius = squared_frequency(box, x.device).sqrt()

        def draw(low: float, high: float) -> Tensor:
            return _uniform(n, low, high, generator, x)[:, 0]

        edge = math.pi / 2 - amount * draw(0, math.radians(25))
        wedge = torch.sigmoid((edge + 0.05 - angle) / 0.02)
        wedge = 1 - amount * (1 - wedge)
        defocus = self.source_defocus + amount * (draw(*self.defocus) - self.source_defocus)
        transfer = wedge * self.ctf_ratio(radius, defocus)
        transfer[:, 0, 0, 0] = 1
        out = torch.fft.irfftn(torch.fft.rfftn(x[:, 0], dim=(1, 2, 3)) * transfer, s=box, dim=(1, 2, 3)).unsqueeze(1)
        out = out * _uniform(n, -0.3 * amount, 0.3 * amount, generator, x).exp()
        slope = _normal((n, 3), generator, x)
        slope = F.normalize(slope, dim=1) * amount * _uniform(n, 0, 0.25, generator, x).view(n, 1)
        for axis, side in enumerate(box):
            line = torch.linspace(-1, 1, side, device=x.device).view([side if i == axis else 1 for i in range(3)])
            out = out + slope[:, axis].view(n, 1, 1, 1, 1) * line
        return out


def grey_quantiles(x: Tensor, levels: int = 65) -> Tensor:
    """Grey values (N, levels) of each subtomogram at ranks that are dense in both tails, the extremes included.

    The ranks are those of evenly spaced normal scores, on about 4,000 voxels of each subtomogram.
    """
    flat = x.detach().flatten(1)
    ordered = ascending(flat[:, :: max(1, flat.shape[1] // 4000) | 1])
    rank = torch.special.ndtr(torch.linspace(-3.5, 3.5, levels, device=x.device))
    rank[0], rank[-1] = 0, 1
    return ordered[:, (rank * (ordered.shape[1] - 1)).round().long()]


KNOTS = 257


class HistogramWarp(nn.Module):
    """Maps the grey values to the distribution of a target subtomogram, drawn for each input; the order of the voxels
    is kept. It imitates clipping and non-linear denoisers, which no filter can. No parameters."""

    target: Tensor

    def __init__(self, target: Tensor):
        super().__init__()
        self.register_buffer("target", target)  # (M, levels), grey values

    @classmethod
    def estimate(cls, target_x: Tensor) -> HistogramWarp:
        """The warp for the grey values of target subtomograms (M, 1, Z, Y, X)."""
        return cls(grey_quantiles(target_x))

    def forward(self, x: Tensor, amount: float = 1.0, generator: torch.Generator | None = None) -> Tensor:
        if amount == 0:
            return x
        device = _device(generator, x)
        choice = torch.randint(len(self.target), (len(x),), generator=generator, device=device).to(x.device)
        own, wanted = grey_quantiles(x, self.target.shape[1]), self.target[choice]
        # the map from own to wanted values on evenly spaced knots: no search for each voxel
        low, width = own[:, :1], (own[:, -1:] - own[:, :1]).clamp_min(1e-6) / (KNOTS - 1)
        knots = low + width * torch.arange(KNOTS, device=x.device)
        above = torch.searchsorted(own.contiguous(), knots.contiguous()).clamp(1, own.shape[1] - 1)
        left, right = own.gather(1, above - 1), own.gather(1, above)
        weight = ((knots - left) / (right - left).clamp_min(1e-6)).clamp(0, 1)
        table = torch.lerp(wanted.gather(1, above - 1), wanted.gather(1, above), weight)
        position = ((x.flatten(1) - low) / width).clamp(0, KNOTS - 1.001)
        step = position.long()
        mapped = torch.lerp(table.gather(1, step), table.gather(1, step + 1), position - step)
        return x + amount * (mapped.view_as(x) - x)


@dataclass(frozen=True)
class Domains:
    """What the builder of a warp may measure; it contains no label.

    Attributes
    ----------
    source : () -> source subtomograms (N, 1, Z, Y, X) after the earlier warps
    target : target subtomograms (M, 1, Z, Y, X)
    voxel_size : A
    picking_error : largest distance of a pick from its particle, A; None where it is not known
    """

    source: Callable[[], Tensor]
    target: Tensor
    voxel_size: float
    picking_error: float | None = None


def _shift(domains: Domains) -> ShiftWarp:
    """Half a voxel, the rounding of a pick, where the picking error is not known."""
    return ShiftWarp(0.5 if domains.picking_error is None else domains.picking_error / domains.voxel_size)


# Name -> builder, in the order in which the warps are applied: the spectrum comes after the warps whose blur it
# compensates.
Builder = Callable[[Domains], nn.Module]
WARPS: dict[str, Builder] = {
    "shift": _shift,
    "crowding": lambda domains: CrowdingWarp(),
    "deformation": lambda domains: DeformationWarp(),
    "optics": lambda domains: OpticsWarp(domains.voxel_size),
    "spectrum": lambda domains: SpectrumWarp.estimate(domains.source(), domains.target),
    "histogram": lambda domains: HistogramWarp.estimate(domains.target),
    "noise": lambda domains: NoiseWarp(),
}


class Warps(nn.Module):
    """The named warps, applied one after the other in the order of WARPS."""

    def __init__(
        self,
        names: tuple[str, ...],
        source_x: Tensor,
        target_x: Tensor,
        generator: torch.Generator,
        voxel_size: float = 12.0,
        picking_error: float | None = None,
    ):
        super().__init__()
        self.steps = nn.ModuleDict()

        @torch.no_grad()
        def so_far() -> Tensor:
            return self(source_x, generator=generator)

        domains = Domains(so_far, target_x, voxel_size, picking_error)
        for name, build in WARPS.items():
            if name in names:
                self.steps[name] = build(domains)

    def forward(self, x: Tensor, amount: float = 1.0, generator: torch.Generator | None = None) -> Tensor:
        for step in self.steps.values():
            x = step(x, amount, generator)
        return x


@torch.no_grad()
def target_styled(x: Tensor, warps: Warps | None, generator: torch.Generator) -> Tensor:
    """Source subtomograms (N, 1, Z, Y, X) warped towards the target at full amount; unchanged without warps."""
    if warps is None:
        return x
    return torch.cat([warps(part, generator=generator) for part in x.split(64)])
