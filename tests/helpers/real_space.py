"""A tilt series simulated in real space: the reference for both imaging paths.

Nothing of the simulator stands between the volume and the subtomogram. The volume is rotated and summed along the beam
with splines, each image gets the CTF of torch-ctf and the dose filter of torch-fourier-filter in a field four boxes
wide, and the images are back-projected voxel by voxel. Conventions are those of the package: zyx order, the beam along
z, the tilt axis along y or turned from y towards x, the centre at index n // 2.
"""

import numpy as np
from scipy import ndimage
from torch import tensor
from torch_ctf import calculate_ctf_2d
from torch_fourier_filter.dose_weight import critical_exposure

SIGMA_300 = 6.526e-4  # rad / (V A)
FIELD = 4  # width of an image in boxes
FINER = 4  # samples per pixel of the filtered images from which the back-projection interpolates


def frame(tilt, axis):
    """Unit vectors (zyx) of one tilt image: along the beam, along the tilt axis, and across both."""
    t, a = np.deg2rad([tilt, axis])
    along, flat = np.array([0.0, np.cos(a), np.sin(a)]), np.array([0.0, -np.sin(a), np.cos(a)])
    return np.array([np.cos(t), 0, 0]) - np.sin(t) * flat, along, np.cos(t) * flat + np.array([np.sin(t), 0, 0])


def projection(spline, rotation, shift, beam, along, across):
    """Sum along the beam of a rotated and shifted volume, (m, m); the first index runs along the tilt axis.

    `spline` holds the cubic spline coefficients of the volume; shift is in its voxels.
    """
    m = len(spline)
    to_volume = rotation.T @ np.stack([beam, along, across], 1)
    offset = m // 2 - rotation.T @ shift - to_volume @ np.full(3, m // 2)
    return ndimage.affine_transform(spline, to_volume, offset=offset, order=3, prefilter=False).sum(0)


def ramp(size):
    """Transfer function (size,) of the band-limited ramp, in cycles per pixel, from its samples in real space.

    Source: Kak & Slaney 1988, Principles of Computerized Tomographic Imaging, eq. 3.61.
    """
    x = np.fft.fftfreq(size, 1 / size)
    odd = x % 2 == 1
    kernel = np.where(x == 0, 0.25, 0.0)
    kernel[odd] = -1 / (np.pi * x[odd]) ** 2
    return np.fft.fft(kernel).real


def tilt_filters(optics, n):
    """Of each tilt image: transfer of the signal, of the noise, and the reconstruction's filter; (T, size, size) each.

    The first axis runs along the tilt axis. The signal is that of a projected potential in V A, in relative contrast.
    Images are band-limited to the disc below the Nyquist frequency.
    """
    size = FIELD * n
    k = np.hypot(np.fft.fftfreq(size)[:, None], np.fft.fftfreq(size))
    k_A = k / optics.voxel_size
    ctf = calculate_ctf_2d(
        tensor(optics.defocus), 0.0, 0.0, optics.voltage, optics.cs, optics.amplitude_contrast, 0.0,
        optics.voxel_size, (size, size), rfft=False, fftshift=False,
    ).numpy()  # fmt: skip
    critical = critical_exposure(tensor(k_A).clamp_min(1e-6)).numpy()
    dose = optics.dose_per_tilt * (np.arange(len(optics.tilts)) + 0.5)
    weight = np.exp(-0.5 * dose[:, None, None] / critical)
    signal = 2 * SIGMA_300 * ctf * np.exp(-optics.b_factor * k_A**2 / 4) * weight
    path = optics.thickness / np.cos(np.deg2rad(optics.tilts) - np.deg2rad(optics.pretilt))
    electrons = optics.dose_per_tilt * optics.voxel_size**2 * optics.dqe * np.exp(-path / 300)
    noise = np.broadcast_to(electrons[:, None, None] ** -0.5, weight.shape)
    across = ramp(size)
    if optics.sirt_iterations:  # Zeng 2012, Med. Phys. 39:603: N Landweber iterations as one filter
        step = np.minimum(1, 1 / 512 / np.abs(np.fft.fftfreq(size)).clip(1e-9))
        across = across * (1 - (1 - step) ** optics.sirt_iterations)
    return signal, noise, weight * across * (k < 0.4999)


def angular_step(tilts):
    """Median angle between neighbouring tilts, radians."""
    return np.deg2rad(np.median(np.diff(np.sort(tilts))))


def back_project(images, optics, n):
    """Volume (n, n, n) of filtered images in Fourier space, (T, size, size): a weighted sum of interpolated images."""
    size, middle = images.shape[-1], FINER * (images.shape[-1] // 2)
    points = np.stack(np.meshgrid(*[np.arange(n) - n // 2] * 3, indexing="ij"), -1)
    out = np.zeros((n, n, n))
    low = (FINER * size - size) // 2
    for image, tilt in zip(images, optics.tilts, strict=True):
        _, along, across = frame(tilt, optics.tilt_axis)
        fine = np.fft.ifftn(np.fft.ifftshift(np.pad(np.fft.fftshift(image), (low, low)))).real * FINER**2
        fine = np.roll(fine, (middle, middle), (0, 1))
        reach = FINER * n  # only this part of the image lies above or below the box
        part = fine[middle - reach : middle + reach, middle - reach : middle + reach]
        where = np.stack([points @ along, points @ across]) * FINER + reach
        out += ndimage.map_coordinates(part, where, order=3)
    return out * angular_step(optics.tilts)


def subtomograms(volume, fine_size, rotations, shifts, optics, n):
    """Noise-free subtomograms (N, n, n, n) in relative contrast per voxel.

    Parameters
    ----------
    volume : (m, m, m) potential in V, centre at m // 2
    fine_size : its voxel size in A, an integer fraction of that of `optics`
    rotations : (N, 3, 3), zyx: the density at x is that of the volume at rotation^T (x - shift)
    shifts : (N, 3), zyx, voxels of `optics`
    """
    ratio, size, m = round(optics.voxel_size / fine_size), FIELD * n, len(volume)
    signal, _, filters = tilt_filters(optics, n)
    spline = ndimage.spline_filter(np.asarray(volume, float), order=3)
    out = []
    for rotation, shift in zip(rotations, shifts, strict=True):
        images = []
        for t, tilt in enumerate(optics.tilts):
            flat = projection(spline, rotation, np.asarray(shift) * ratio, *frame(tilt, optics.tilt_axis))
            field = np.zeros((ratio * size,) * 2)
            low = ratio * size // 2 - m // 2
            field[low : low + m, low : low + m] = flat * fine_size
            spectrum = np.fft.fftshift(np.fft.fft2(np.fft.ifftshift(field)))
            cut = ratio * size // 2 - size // 2
            image = np.fft.ifftshift(spectrum[cut : cut + size, cut : cut + size]) / ratio**2
            images.append(image * signal[t] * filters[t])
        out.append(back_project(np.stack(images), optics, n))
    return np.stack(out)


def noise(optics, n, rng):
    """One subtomogram (n, n, n) of shot noise, in relative contrast per voxel."""
    _, sigma, filters = tilt_filters(optics, n)
    white = rng.normal(size=filters.shape)
    return back_project(np.fft.fft2(white) * sigma * filters, optics, n)


def noise_power(optics, n, k):
    """Expected |DFT|^2 / voxels of shot noise in a box at the frequencies k (P, 3), zyx, in Fourier voxels; (P,).

    This is the average over many results of `noise`, in closed form: the power of each sample of each image times the
    squared transform of the box's window at its distance from k, summed over samples and images.
    """
    _, sigma, filters = tilt_filters(optics, n)
    size = FIELD * n
    f = np.fft.fftfreq(size)
    power = (sigma * filters) ** 2 / size**2

    def window(offset):  # squared Dirichlet kernel of n samples
        s = np.sin(np.pi * offset)
        small = np.abs(s) < 1e-9
        return np.where(small, n**2, (np.sin(np.pi * n * offset) / np.where(small, 1, s)) ** 2)

    k = np.asarray(k) / n
    heights, height = np.unique(k[:, 0], return_inverse=True)
    pairs, pair = np.unique(k[:, 1:], axis=0, return_inverse=True)
    out = np.zeros((len(heights), len(pairs)))
    for p, tilt in zip(power, optics.tilts, strict=True):
        _, along, across = frame(tilt, optics.tilt_axis)
        y, x = (f[:, None] * along[i] + f * across[i] for i in (1, 2))
        sums = np.stack([(window(ky - y) * window(kx - x) * p).sum(0) for ky, kx in pairs])
        out += window(heights[:, None] - f * across[0]) @ sums.T
    return out[height.ravel(), pair.ravel()] * angular_step(optics.tilts) ** 2 / n**3
