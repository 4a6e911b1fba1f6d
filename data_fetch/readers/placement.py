"""Whether positions can be those of particles in a tomogram: inside it, at its density, and of its name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from cryoshift_core.errors import InputError
from cryoshift_core.tomography.volumes import Particles, Volume, release

from .evidence import Stated, is_stated, same
from .positions import belongs, name_of

FEW, SAMPLED = 3000, 120  # positions of a long list that are looked at, and of these, positions whose density is read
SURE, SURER, UNSURE = 5.0, 6.0, 3.0  # standard errors; SURER for a reading that the file does not state
OUTSIDE, NO_POSITION = "outside the tomogram", "without a finite position"


def bad_rows(
    path: str | Path, zyx: np.ndarray, tomogram: Volume, unit: str = "", rows: Sequence[int] | None = None
) -> dict[int, str]:
    """Index -> reason for positions that are not finite, or lie outside the tomogram by more than half a voxel.

    Parameters
    ----------
    path : file that the positions come from, for messages
    zyx : (N, 3) voxels
    unit : how the numbers in the file were converted, for the message
    rows : (N,) rows of the file that the positions come from, counted from 0; None: all of them, in order

    Raises
    ------
    InputError
        They are half of the positions or more, so that the unit is in doubt.
    """
    shape = np.array(tomogram.data.shape)
    finite = np.isfinite(zyx).all(1)
    outside = np.flatnonzero(finite & ~((zyx >= -0.5) & (zyx <= shape - 0.5)).all(1))
    if len(outside) and 2 * len(outside) >= len(zyx):
        z, y, x = (f"{value:.1f}" if abs(value) < 1e6 else f"{value:g}" for value in zyx[outside[0]])
        row = int(outside[0]) if rows is None else rows[outside[0]]
        raise InputError(
            f"{path}: {len(outside)} of {len(zyx)} positions lie outside {tomogram.path} of {shape[2]} x {shape[1]} x "
            f"{shape[0]} voxels, first row {row + 1} at x, y, z = {x}, {y}, {z}{unit}; give voxels "
            "of this tomogram."
        )
    bad = {int(index): NO_POSITION for index in np.flatnonzero(~finite)}
    if 2 * len(bad) >= len(zyx):
        raise InputError(f"{path}: {len(bad)} of {len(zyx)} positions are not finite numbers; correct or remove them.")
    return bad | {int(index): OUTSIDE for index in outside}


def _density(tomogram: Volume, zyx: np.ndarray, half: int) -> np.ndarray:
    """(N,) mean grey value of the voxels within `half` voxels of each position, along each axis."""
    out = np.empty(len(zyx))
    for i, at in enumerate(np.round(zyx).astype(int)):
        low = np.maximum(at - half, 0)
        patch = tomogram.data[tuple(slice(int(a), int(b) + half + 1) for a, b in zip(low, at, strict=True))]
        out[i] = np.asarray(patch, np.float32).mean()
    release(tomogram.data)
    return out


def _one_a_cell(zyx: np.ndarray, voxel_size: float) -> np.ndarray:
    """(M,) indices of one position for each cell of 15 nm: what is measured at neighbours is not independent."""
    return np.unique(np.floor(zyx * voxel_size / 150).astype(int), axis=0, return_index=True)[1]


def contrast_at(tomogram: Volume, zyx: np.ndarray, generator: np.random.Generator) -> float:
    """How much the density at positions differs from that 15 to 30 nm beside them at the same z, in standard errors.

    0 where fewer than 90 % of the positions lie inside the tomogram, or where it is constant.

    Parameters
    ----------
    zyx : (N, 3) voxels
    generator : source of the sample and of the places beside the positions
    """
    shape = np.array(tomogram.data.shape)
    inside = ((zyx >= 0) & (zyx <= shape - 1)).all(1)
    if inside.mean() < 0.9:
        return 0.0
    zyx = zyx[inside]
    zyx = zyx[_one_a_cell(zyx, tomogram.voxel_size)]
    zyx = zyx[np.sort(generator.permutation(len(zyx))[:SAMPLED])]
    half = int(np.clip(round(25 / tomogram.voxel_size), 1, 6))
    each = max(2, -(-64 // len(zyx)))
    angle = generator.uniform(0, 2 * np.pi, (len(zyx), each))
    step = np.maximum(generator.uniform(150, 300, angle.shape) / tomogram.voxel_size, 2 * half + 1)
    beside = zyx[:, None] + np.stack([0 * step, step * np.sin(angle), step * np.cos(angle)], -1)
    beside = beside.reshape(-1, 3)
    beside = beside[((beside >= 0) & (beside <= shape - 1)).all(1)]
    if len(beside) < 8:
        return 0.0
    at, around = (_density(tomogram, points, half) for points in (zyx, beside))
    independent = len(_one_a_cell(beside, tomogram.voxel_size))
    # The median: one position on a gold bead, or on another particle, does not speak for the others.
    error = around.std(ddof=1) * np.sqrt(1.57 / len(at) + 1 / independent)
    return float(abs(np.median(at) - around.mean()) / error) if error > 0 else 0.0


def _alternatives(zyx: np.ndarray, tomogram: Volume, stated: Sequence[Stated]) -> dict[str, np.ndarray]:
    """Other readings of the same numbers, in words -> (N, 3) voxels."""
    size = np.array(tomogram.data.shape)
    factors = {s.value / tomogram.voxel_size for s in stated} | {2.0, 0.5}
    scaled = {f"multiplied by {factor:.4g}": zyx * factor for factor in sorted(factors)}
    scaled |= {  # nm instead of A, and the reverse
        "multiplied by 10": zyx * 10,
        "divided by 10": zyx / 10,
        "multiplied by 10 about the centre": (zyx - size / 2) * 10 + size / 2,
    }
    swapped = {"with y and z swapped": [1, 0, 2], "with x and z swapped": [2, 1, 0], "with x and y swapped": [0, 2, 1]}
    turned = {"with z counted from the other end": 0, "with y counted from the other end": 1}
    return (
        scaled
        | {words: zyx[:, order] for words, order in swapped.items()}
        | {w: np.where(np.arange(3) == axis, size - 1 - zyx, zyx) for w, axis in turned.items()}
        | ({"as fractions of the tomogram": zyx * size} if (zyx >= 0).all() and (zyx <= 1).all() else {})
    )


def doubts(path: str | Path, zyx: np.ndarray, tomogram: Volume, stated: Sequence[Stated], name: str) -> list[str]:
    """At most one sentence on why positions may not belong to the particles of a tomogram; none if its density agrees.

    Parameters
    ----------
    path : file that the positions come from
    zyx : (N, 3) voxels, finite
    stated : pixel sizes that the file states, but not as the unit of its positions
    name : of the tomogram, according to the file; "" if it names none
    """
    others = [s for s in stated if is_stated(s.value) and not same(s.value, tomogram.voxel_size)]
    few = zyx[np.sort(np.random.default_rng(0).permutation(len(zyx))[:FEW])]
    as_read = contrast_at(tomogram, few, np.random.default_rng(0))
    if as_read >= 3 * SURE:
        return []
    readings = _alternatives(few, tomogram, others)
    found = {words: contrast_at(tomogram, points, np.random.default_rng(0)) for words, points in readings.items()}
    best = max(found, key=lambda words: found[words])
    fits = next((s for s in others if f"{s.value / tomogram.voxel_size:.4g}" == best.split()[-1]), None)
    if found[best] >= max(SURE if fits else SURER, 3 * as_read):
        says = f" ({fits.value:.4g} A per pixel, in {fits.where})" if fits else ""
        return [
            f"{path}: the density of {tomogram.path} at the positions differs from that beside them by {as_read:.1f} "
            f"standard errors, but by {found[best]:.1f} {best}{says}: check their unit and the order of their axes."
        ]
    if as_read >= SURE:
        return []
    if others:
        return [
            f"{path}: expected positions in voxels of {tomogram.voxel_size:.4g} A, as {tomogram.path} has, got "
            f"{others[0].value:.4g} A per pixel in {others[0].where}. They were taken as voxels of the tomogram; if "
            f"they are not, give the tomogram with {others[0].value:.4g} A per voxel."
        ]
    if name and not belongs(name, tomogram):
        return [
            f"{path} lists positions of '{name_of(name)[:40]}', and the density of {tomogram.path} at them is as "
            "beside them: check that they belong to this tomogram."
        ]
    part = float((zyx.max(0) / np.array(tomogram.data.shape)).max()) if len(zyx) else 1.0
    # Positions of one cell are not independent, as on one membrane, but few of these lie in a corner.
    wide = part > 0.2
    independent = len(_one_a_cell(zyx, tomogram.voxel_size) if wide else np.unique(zyx.round(), axis=0))
    if independent >= 10 and part < 0.55 and as_read < UNSURE:
        return [
            f"{path}: all {len(zyx)} positions lie in the first {'half' if wide else 'fifth'} of {tomogram.path} along "
            "x, y and z, and the density at them is as beside them: they may count voxels of a smaller tomogram."
        ]
    return []


def not_classified(path: str | Path, bad: Mapping[int, str], rows: Sequence[int] | None = None) -> list[str]:
    """A sentence that names the rows that are left out and why; none if there are none.

    Parameters
    ----------
    bad : index -> reason
    rows : row of the file for each index, counted from 0; None: the index
    """
    if not bad:
        return []
    parts = []
    reasons = list(dict.fromkeys(bad.values()))
    for reason in reasons[:3]:
        numbers = [(index if rows is None else rows[index]) + 1 for index in bad if bad[index] == reason]
        shown = ", ".join(map(str, numbers[:5])) + (f" and {len(numbers) - 5} more" if len(numbers) > 5 else "")
        parts.append(f"row{'s' * (len(numbers) > 1)} {shown} ({reason})")
    parts += [f"{sum(bad[index] in reasons[3:] for index in bad)} more"] * (len(reasons) > 3)
    return [f"{path}: not classified: {'; '.join(parts)}."]


def placed(
    particles: Particles,
    path: str | Path,
    tomogram: Volume,
    unit: str = "",
    *,
    rows: Sequence[int] | None = None,
    stated: Sequence[Stated] = (),
    name: str = "",
) -> Particles:
    """The particles with the rows that cannot be classified and what speaks against their positions.

    Parameters
    ----------
    rows : (N,) rows of the file, counted from 0; None: all of them, in order
    unit, stated, name : as in `bad_rows` and `doubts`

    Raises
    ------
    InputError
        As `bad_rows`.
    """
    assert particles.zyx is not None  # readers of positions always give them
    other = next((s for s in stated if is_stated(s.value) and not same(s.value, tomogram.voxel_size)), None)
    says = f" ({other.value:.4g} A per pixel in {other.where})" if other else ""
    bad = bad_rows(path, particles.zyx, tomogram, unit + says, rows)
    good = np.delete(particles.zyx, list(bad), axis=0)
    warnings = not_classified(path, bad, rows) + doubts(path, good, tomogram, stated, name)
    numbers = np.arange(len(particles)) if rows is None else np.asarray(rows)
    return replace(particles, bad=bad, rows=numbers + 1, warnings=tuple(warnings))
