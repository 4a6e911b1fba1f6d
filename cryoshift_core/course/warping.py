"""What notebooks 03 and 03b share about warps: the warps in their order, and what their pictures show."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor, nn

from .. import fourier
from ..application.pictures import COLOURS, LINES, OTHERS, SEVENTH, middle, show
from ..data import Labelled
from ..warps import (
    CrowdingWarp,
    DeformationWarp,
    Envelope,
    HistogramWarp,
    NoiseWarp,
    OpticsWarp,
    ShiftWarp,
    SpectrumWarp,
    shell_amplitude,
)

ORDER = ("shift", "crowding", "deformation", "optics", "spectrum", "histogram", "noise")  # in which recipes apply them


def blind_warps(voxel_size: float, seed: int) -> dict[str, nn.Module]:
    """Name -> warp, for the five that use no target; `voxel_size` in A, `seed` of the two untrained networks."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return {
            "shift": ShiftWarp(2.0), "crowding": CrowdingWarp(), "deformation": DeformationWarp(),
            "optics": OpticsWarp(voxel_size), "noise": NoiseWarp(),
        }  # fmt: skip


def all_warps(source_x: Tensor, target_x: Tensor, voxel_size: float, seed: int) -> dict[str, nn.Module]:
    """Name -> warp, all seven in the order of the recipes. Two are estimated from (N, 1, n, n, n) of both domains."""
    found = blind_warps(voxel_size, seed)
    found |= {"spectrum": SpectrumWarp.estimate(source_x, target_x), "histogram": HistogramWarp.estimate(target_x)}
    return {name: found[name] for name in ORDER}


def clearest(source: Labelled, classes: int = 3, others: int = 29) -> Tensor:
    """The subtomograms with the highest SNR: one of each of the first classes, then `others` of any class."""
    assert source.snr is not None  # simulated
    first = [int(torch.where(source.y == k, source.snr, 0).argmax()) for k in range(classes)]
    return torch.cat([source.x[first], source.x[source.snr.argsort(descending=True)[:others]]])


@torch.no_grad()
def band_powers(x: Tensor, bands: int = 8) -> Tensor:
    """Log power of each subtomogram (N, 1, n, n, n) in radial bands of frequency, (N, bands)."""
    windows = fourier.radial_bands(tuple(x.shape[2:]), bands)
    return torch.cat([torch.einsum("nzyx,bzyx->nb", fourier.power_spectrum(q), windows) for q in x.split(64)]).log()


def projections(x: Tensor, names: Sequence[str]) -> Figure:
    """Figure with the sums along x, y and z of the first len(names) subtomograms (N, 1, n, n, n)."""
    fig, axes = plt.subplots(len(names), 3, figsize=(4.4, 1.5 * len(names)), layout="constrained", squeeze=False)
    for row, volume, name in zip(axes, x[: len(names), 0], names, strict=True):
        for ax, axis in zip(row, (2, 1, 0), strict=True):
            show(ax, volume.sum(axis), f"sum along {'zyx'[axis]}" if name == names[0] else "")
        row[0].set_ylabel(name, fontsize=8)
    return fig


def displacement(field: Tensor, image: Tensor, exaggerated: float = 10.0) -> Figure:
    """Figure with the in-plane part of a displacement field (3, n, n, n; x first) over the central slice of `image`."""
    n = field.shape[-1]
    grid = torch.arange(1, n, 4)
    dx, dy = field[0, n // 2][grid][:, grid], field[1, n // 2][grid][:, grid]
    fig, ax = plt.subplots(figsize=(3.4, 3.4), layout="constrained")
    show(ax, middle(image), f"displacement, drawn {exaggerated:g} times too long")
    scale = 1 / exaggerated
    ax.quiver(grid, grid, dx, dy, color=COLOURS["warped"], angles="xy", scale_units="xy", scale=scale, width=0.012)
    return fig


def average_particles(source_x: Tensor, target_x: Tensor, fitted: Tensor, voxel_size: float) -> Figure:
    """Figure with the average subtomogram of both domains, and its amplitude in each shell.

    Parameters
    ----------
    fitted : amplitude of the source, times the envelope, for each shell
    voxel_size : A
    """
    fig, axes = plt.subplots(1, 3, figsize=(8.6, 2.7), layout="constrained", width_ratios=(1, 1, 1.9))
    show(axes[0], middle(source_x.mean(0)), "average source", spread=3)
    show(axes[1], middle(target_x.mean(0)), "average target", spread=3)
    amplitude = shell_amplitude(source_x)[0]
    k = torch.arange(1, len(amplitude) + 1) / source_x.shape[-1] / voxel_size
    axes[2].plot(k, amplitude, color=COLOURS["source"], label="source")
    axes[2].plot(k, shell_amplitude(target_x)[0], "o", ms=4, color=COLOURS["target"], label="target")
    axes[2].plot(k, fitted, "--", color=COLOURS["warped"], label="source × envelope")
    axes[2].set(xlabel="spatial frequency (1/Å)", title="amplitude of the average particle")
    axes[2].axhline(0, color="0.8", lw=1, zorder=0)
    axes[2].legend(fontsize=8)
    return fig


def misfit(amplitudes: Mapping[str, tuple[Tensor, Tensor]], envelope: Envelope, box: int) -> float:
    """Distance of the source's amplitudes times an envelope to the target's, as a fraction of the latter's length.

    Parameters
    ----------
    amplitudes : "source" and "target" -> amplitude and number of samples of each shell, from `warps.shell_amplitude`
    envelope : of the signal
    box : voxels
    """
    (source, samples), (target, _) = amplitudes["source"], amplitudes["target"]
    return off_target(source * envelope((torch.arange(1, len(source) + 1) / box).square()), target, samples)


def off_target(amplitude: Tensor, target: Tensor, samples: Tensor) -> float:
    """Distance of an amplitude (shells,) to that of the target, as a fraction of the latter's length.

    `samples` (shells,) is the number of frequencies in each shell, its weight.
    """
    return float((samples * (amplitude - target).square()).sum() / (samples * target.square()).sum()) ** 0.5


def fit_by_hand(
    ax: Axes, amplitudes: Mapping[str, tuple[Tensor, Tensor]], envelope: Envelope, box: int, voxel_size: float
) -> None:
    """Draw the amplitudes of both domains (as in :func:`misfit`) and the source's times an envelope; voxels in A."""
    (source, _), (target, _) = amplitudes["source"], amplitudes["target"]
    k = torch.arange(1, len(source) + 1) / box
    ax.plot(k / voxel_size, source, color=COLOURS["source"], label="source")
    ax.plot(k / voxel_size, target, "o", ms=4, color=COLOURS["target"], label="target")
    ax.plot(k / voxel_size, source * envelope(k.square()), "--", color=COLOURS["warped"], label="source × a(k)")
    ends = torch.cat([source, target])
    ax.set(
        xlabel="spatial frequency (1/Å)",
        ylabel="amplitude",
        ylim=(float(ends.min()) * 1.1 - 0.05 * float(ends.max()), 1.35 * float(ends.max())),
    )
    ax.set_title(f"off by {misfit(amplitudes, envelope, box):.0%}", fontsize=9)
    ax.legend(fontsize=7)


def mixing_desk(
    axes: Sequence[Axes], x: Tensor, probabilities: Mapping[str, Tensor], classes: Sequence[str], true: int
) -> None:
    """Draw a subtomogram (n, n, n) in two planes, and on a third axis what classifiers call it.

    Parameters
    ----------
    axes : three
    probabilities : classifier -> (K,)
    classes : K names; `true` is the index of the right one, which is in bold
    """
    n = len(x)
    show(axes[0], x[n // 2], "xy", spread=4)
    show(axes[1], x[:, n // 2], "xz", spread=4)
    height = 0.8 / len(probabilities)
    for i, (name, found) in enumerate(probabilities.items()):
        places = np.arange(len(classes)) + (i - (len(probabilities) - 1) / 2) * height
        axes[2].barh(
            places, found, height, color=COLOURS[name], label=name, hatch=("", "///")[i % 2], edgecolor="white"
        )
    axes[2].set(xlim=(0, 1), yticks=range(len(classes)), yticklabels=classes)
    axes[2].tick_params(labelsize=6)
    axes[2].get_yticklabels()[true].set_fontweight("bold")
    axes[2].invert_yaxis()
    axes[2].set_title("probability", fontsize=8)
    axes[2].legend(fontsize=5, loc="lower right")


def half_space_plane(half: Tensor) -> Tensor:
    """The kx-kz plane (Z, X) of an even map on the half grid (n, n, n // 2 + 1), DC in the middle."""
    return torch.fft.fftshift(fourier.full_from_half(half)[:, 0])


def spectrum_maps(powers: Mapping[str, Tensor], gain: Tensor) -> Figure:
    """Figure with log10 of power maps and a gain map (Z, Y, X // 2 + 1) in the kx-kz plane; powers share one scale."""
    fig, axes = plt.subplots(1, len(powers) + 1, figsize=(2.2 * (len(powers) + 1), 2.6), layout="constrained")
    for ax, (name, power) in zip(axes, powers.items(), strict=False):
        plane = half_space_plane(power.clamp_min(1e-3)).log10()
        image = ax.imshow(plane, vmin=-0.7, vmax=2.0, cmap="magma")
        ax.set_title(name)
    fig.colorbar(image, ax=axes[-2], label="log10 power")
    image = axes[-1].imshow(half_space_plane(gain), vmin=0, cmap="viridis")
    axes[-1].set_title("signal gain g")
    fig.colorbar(image, ax=axes[-1])
    for ax in axes:
        ax.set(xticks=[], yticks=[], xlabel="kx")
    axes[0].set_ylabel("kz (beam)")
    return fig


def bars(table: Sequence[Mapping[str, float | str]], columns: Mapping[str, str], label: str, most: float) -> Figure:
    """Figure with a panel of horizontal bars per column; rows are dictionaries with "what" and the columns.

    Parameters
    ----------
    columns : key of a row -> title of its panel
    label, most : of the horizontal axes
    """
    kinds = {"source": "source", "target itself": "target"}
    colours = [COLOURS[kinds.get(str(row["what"]), "warped")] for row in table]
    fig, axes = plt.subplots(1, len(columns), figsize=(4 * len(columns), 3.4), sharey=True, layout="constrained")
    for ax, (column, title) in zip(axes, columns.items(), strict=True):
        values = [float(row[column]) for row in table]
        ax.barh([str(row["what"]) for row in table], values, color=colours)
        ax.set(xlim=(0, most), title=title, xlabel=label)
    axes[0].invert_yaxis()
    return fig


def score_panels(rows: Sequence[Mapping[str, float | str]], name: str) -> Figure:
    """Figure with a panel for each number of the rows, and a bar per row; `name` is the key of the row's name."""
    columns = [column for column in rows[0] if column != name]
    fig, axes = plt.subplots(1, len(columns), figsize=(2.4 * len(columns), 2.5), layout="constrained")
    for ax, column in zip(np.atleast_1d(axes), columns, strict=True):
        names = [str(row[name]) for row in rows]
        colours = [COLOURS.get(one, COLOURS["warped"]) for one in names]
        drawn = ax.bar(names, [float(row[column]) for row in rows], color=colours)
        ax.bar_label(drawn, fmt="%.2f", fontsize=8)
        ax.set_title(column)
        ax.margins(y=0.15)
    return fig


def tolerance_curves(accuracy: Mapping[str, Mapping[str, Mapping[float, float]]]) -> Figure:
    """Figure with a panel per classifier: accuracy against the amount of each warp; classifier -> warp -> amount."""
    fig, axes = plt.subplots(1, len(accuracy), figsize=(3.4 * len(accuracy), 3.2), layout="constrained", squeeze=False)
    colours = (*OTHERS, SEVENTH)
    for ax, (name, by_warp) in zip(axes[0], accuracy.items(), strict=True):
        for i, (warp, curve) in enumerate(by_warp.items()):
            style = f"{'osD^vPX'[i % 7]}{LINES[i % len(LINES)]}"
            ax.plot(list(curve), list(curve.values()), style, ms=4, color=colours[i % len(colours)], label=warp)
        ax.set(xlabel="amount of the warp", title=name, ylim=(0, 1))
    axes[0, 0].set_ylabel("accuracy on held-out source")
    handles, labels = axes[0, 0].get_legend_handles_labels()
    fig.legend(handles, labels, loc="outside lower center", ncols=4)
    return fig


def training_of_warps(curves: Mapping[str, Tensor], added: Mapping[str, Tensor]) -> Figure:
    """Figure with the losses of each way to train warps, as running means, and what the trained noise warps add.

    Parameters
    ----------
    curves : objective -> (steps, 2), the task loss and the loss of the discriminator after each step
    added : objective -> (N, 1, n, n, n); the first one is shown, on a grey scale of ±0.4
    """
    widths = (1.5, 1.5, *(1 for _ in added))
    fig, axes = plt.subplots(1, 2 + len(added), figsize=(9.6, 2.6), layout="constrained", width_ratios=widths)
    for (objective, curve), line, colour in zip(curves.items(), LINES, OTHERS[2:], strict=False):
        window = max(1, len(curve) // 10)
        mean = curve.unfold(0, window, 1).mean(2)
        for ax, values in zip(axes, mean.T, strict=False):
            ax.plot(torch.arange(len(mean)) + window, values, line, color=colour, label=objective)
    axes[0].set(xlabel="step", title="task loss on the warped source")
    axes[1].set(xlabel="step", title="loss of the discriminator")
    axes[1].axhline(2 * math.log(2), ls=":", color="0.5")
    axes[0].legend()
    for ax, (objective, delta) in zip(axes[2:], added.items(), strict=True):
        show(ax, middle(delta), f"noise after {objective}\nup to ±{float(delta[0].abs().max()):.2f}", spread=0.4)
    return fig
