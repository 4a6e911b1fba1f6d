"""Volumes in and out: files, contrast, normalisation, extraction and change of pixel size.

Axis order is zyx everywhere, lengths are in A, and the centre of a box of n voxels is index n // 2.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import gemmi
import mrcfile
import numpy as np
import torch
from scipy import ndimage, spatial, stats
from torch import Tensor

MODES = {0: np.int8, 1: np.int16, 2: np.float32, 6: np.uint16, 12: np.float16}


class InputError(ValueError):
    """Bad input, said in one sentence: what was found where, what was wanted, and the way out."""


@dataclass(frozen=True)
class Volume:
    """A density on a grid: `data` (Z, Y, X) float32, `pixel_size` A per voxel, `path` of the file it came from."""

    data: np.ndarray
    pixel_size: float
    path: str


@dataclass(frozen=True)
class Coordinates:
    """Positions in a tomogram: `zyx` (N, 3) float voxels, and all columns of their STAR table, row by row."""

    zyx: np.ndarray
    table: dict[str, list[str]]


@dataclass(frozen=True)
class ContrastGuess:
    """`sign` bright, dark or unsure; `score` in standard errors, positive for bright; `why` in words."""

    sign: str
    score: float
    why: str


def normalize(x: Tensor) -> Tensor:
    """Robust z-score of each volume: minus the median, over 1.4826 x the median absolute deviation.

    A volume whose deviation is 0 though it is not constant (more than half of it masked) takes the standard deviation.

    Parameters
    ----------
    x : (N, 1, Z, Y, X)

    Raises
    ------
    InputError
        A volume is constant or holds NaN or infinite values.
    """
    flat = x.flatten(1)
    out = torch.empty_like(flat)
    for start in range(0, len(flat), 256):
        part = flat[start : start + 256]
        centred = part - part.median(1, keepdim=True).values
        width = 1.4826 * centred.abs().median(1, keepdim=True).values
        spread = part.std(1, keepdim=True)
        bad = ~(torch.isfinite(spread) & (part.amax(1, keepdim=True) > part.amin(1, keepdim=True)))
        if bad.any():
            index = start + int(bad.flatten().nonzero()[0])
            found = "constant" if torch.isfinite(flat[index]).all() else "not finite (NaN or infinite)"
            raise InputError(f"Volume {index} of {len(flat)} is {found}; wanted grey values that vary: leave it out.")
        out[start : start + 256] = centred / torch.where(width > 1e-6 * spread, width, spread)
    return out.view_as(x)


def _z_score(values: np.ndarray) -> float:
    """How many standard errors the mean of independent values is from 0, corrected for few values."""
    spread = values.std(ddof=1) / np.sqrt(len(values)) if len(values) > 1 else 0.0
    if spread <= 0:
        return 0.0
    t = float(values.mean() / spread)
    return float(np.sign(t) * min(-stats.norm.ppf(max(stats.t.sf(abs(t), len(values) - 1), 1e-300)), 38.0))


def _skewness(blocks: np.ndarray) -> np.ndarray:
    centred = blocks - blocks.mean((1, 2, 3), keepdims=True)
    return (centred**3).mean((1, 2, 3)) / (centred.std((1, 2, 3)) ** 3 + 1e-30)


def guess_contrast(x: Tensor | np.ndarray) -> ContrastGuess:
    """Is protein bright or dark? Evidence from the grey values alone.

    Dense matter is sparse in ice, so smoothed grey values have their long tail on its side (skewness); in cubes
    around particles, the centre also differs from the corners, which counts when the skewness says little.

    Parameters
    ----------
    x : a tomogram (Z, Y, X), or cubes (N, 1, Z, Y, X)

    Returns
    -------
    ContrastGuess, "unsure" below 4 standard errors (5 for the centre), or when the two disagree strongly
    """
    array = np.asarray(x)
    if array.ndim == 3:
        step = max(1, round(max(array.shape) / 160))
        array = np.asarray(array[tuple(slice(0, n - n % step) for n in array.shape)], np.float32)
        array = array.reshape([size for n in array.shape for size in (n // step, step)]).mean((1, 3, 5))
        smooth = ndimage.gaussian_filter(array, 1.2) - ndimage.gaussian_filter(array, 8.0)
        # Blocks of one tomogram stand in for independent samples.
        n = [max(1, size // 4) for size in smooth.shape]
        starts = [(z, y, x) for z in range(4) for y in range(4) for x in range(4)]
        blocks = [smooth[tuple(slice(s * m, (s + 1) * m) for s, m in zip(at, n, strict=True))] for at in starts]
        blocks = np.stack([block for block in blocks if block.shape == tuple(n)])
        skew, centre = _skewness(blocks), np.zeros(1)
    else:
        smooth = ndimage.gaussian_filter(
            array.reshape(-1, *array.shape[-3:])[:2000].astype(np.float32), (0, *[1.2] * 3)
        )
        axes = np.ogrid[tuple(slice(-(n // 2), n - n // 2) for n in smooth.shape[1:])]
        radius = np.sqrt(sum(axis.astype(float) ** 2 for axis in axes)) / min(smooth.shape[1:])
        skew = _skewness(smooth)
        centre = smooth[:, radius < 0.15].mean(1) - smooth[:, radius > 0.4].mean(1)
    by_skew, by_centre = _z_score(skew), _z_score(centre)
    why = f"skewness {skew.mean():+.2f} ({by_skew:+.1f} standard errors), centre {by_centre:+.1f} standard errors"
    if abs(by_skew) >= 4:
        score = by_skew
        disagree = by_skew * by_centre < 0 and abs(by_centre) > 2 * abs(by_skew)
    else:
        score = by_centre
        disagree = abs(by_centre) < 5 or (by_skew * by_centre < 0 and abs(by_skew) > 2)
    return ContrastGuess("unsure" if disagree else "bright" if score > 0 else "dark", score, why)


def to_bright(x: Tensor, contrast: str) -> Tensor:
    """The same volumes with protein bright: negated where `contrast` is "dark", guessed where it is "auto"."""
    if contrast == "auto":
        guess = guess_contrast(x)
        if guess.sign == "unsure":
            raise InputError(f"The contrast can't be told from the data ({guess.why}); set contrast to bright or dark.")
        contrast = guess.sign
    if contrast not in ("bright", "dark"):
        raise InputError(f"contrast is '{contrast}'; wanted auto, bright or dark.")
    return -x if contrast == "dark" else x


# Geometry


def crop(x: Tensor, n: int) -> Tensor:
    """Central (..., n, n, n) of (..., Z, Y, X): index n // 2 of the result is index Z // 2 of the input."""
    if n < 1 or n > min(x.shape[-3:]):
        raise InputError(
            f"A box of {n} voxels can't be cut out of {tuple(x.shape[-3:])}; wanted 1 to its smallest edge."
        )
    z, y, w = (size // 2 - n // 2 for size in x.shape[-3:])
    return x[..., z : z + n, y : y + n, w : w + n]


@lru_cache(maxsize=64)
def resampling_matrix(n_in: int, pixel_in: float, n_out: int, pixel_out: float, period: float) -> Tensor:
    """Band-limited change of grid along one axis, centre index onto centre index.

    The samples are taken as the Fourier series of length `period` (A, at least both extents; zero outside the
    input), cut at the coarser of the two Nyquist frequencies, and evaluated on the output grid: the Fourier crop
    (or pad) for any ratio of pixel sizes.

    Returns
    -------
    (n_out, n_in) float32
    """
    x_in = (torch.arange(n_in, dtype=torch.float64) - n_in // 2) * pixel_in
    x_out = (torch.arange(n_out, dtype=torch.float64) - n_out // 2) * pixel_out
    limit = period / (2 * max(pixel_in, pixel_out))
    order = torch.arange(1, int(limit + 1e-6) + 1, dtype=torch.float64)
    weight = torch.where(order > limit - 1e-6, 1.0, 2.0)
    phase = 2 * torch.pi / period * (x_out[:, None] - x_in[None, :])
    kernel = 1 + (weight * torch.cos(phase[..., None] * order)).sum(-1)
    return (kernel * (pixel_in / period)).float()


def rescale(cubes: Tensor, pixel_in: float, pixel_out: float, box: int) -> Tensor:
    """Cubes (N, 1, Z, Y, X) on another pixel size and box, band-limited (Fourier crop or pad), centre on centre."""
    period = [n * pixel_in for n in cubes.shape[-3:]]
    if min(period) * 1.001 + pixel_out / 2 < box * pixel_out:
        raise InputError(
            f"A box of {box} voxels of {pixel_out:g} A is larger than the cubes of {min(period):.0f} A; "
            f"use a box of at most {int(min(period) / pixel_out)}."
        )
    sizes = zip(cubes.shape[-3:], period, strict=True)
    z, y, x = (resampling_matrix(n, pixel_in, box, pixel_out, length) for n, length in sizes)
    parts = [
        torch.einsum("zk,nckyx->nczyx", z, torch.einsum("yj,nckjx->nckyx", y, part @ x.T)) for part in cubes.split(128)
    ]
    return torch.cat(parts) if parts else cubes.new_zeros(0, 1, box, box, box)


def extract(
    tomogram: np.ndarray, zyx: np.ndarray, box: int, pixel_size: float, to_pixel_size: float | None = None
) -> tuple[Tensor, np.ndarray]:
    """Cubes around positions, by trilinear interpolation; boxes that leave the tomogram are dropped.

    Parameters
    ----------
    tomogram : (Z, Y, X), may be memory-mapped: only the boxes are read
    zyx : (N, 3) voxels; a position becomes index box // 2
    box : voxels per edge of the result
    pixel_size, to_pixel_size : A; another pixel size is made by `rescale` from boxes of the same extent

    Returns
    -------
    cubes (M, 1, box, box, box) float32 and the indices (M,) of the positions that were kept
    """
    zyx = np.asarray(zyx, float).reshape(-1, 3)
    to_pixel_size = to_pixel_size or pixel_size
    same = abs(to_pixel_size / pixel_size - 1) < 1e-3
    n = box if same else int(np.ceil(box * to_pixel_size / pixel_size - 1e-6)) + 2
    first = np.floor(zyx).astype(int) - n // 2
    need = n + (zyx != np.floor(zyx))  # one voxel more where there is something to interpolate
    kept = np.flatnonzero(((first >= 0) & (first + need <= tomogram.shape)).all(1))
    cubes = torch.empty(len(kept), 1, n, n, n)
    for row, index in enumerate(kept):
        lo, size = first[index], need[index]
        patch = np.asarray(tomogram[tuple(slice(a, a + s) for a, s in zip(lo, size, strict=True))], np.float32)
        for axis, part in enumerate(zyx[index] - np.floor(zyx[index])):
            if part > 0:
                low, high = np.take(patch, range(n), axis), np.take(patch, range(1, n + 1), axis)
                patch = (1 - part) * low + part * high
        cubes[row, 0] = torch.from_numpy(np.ascontiguousarray(patch, np.float32))
    return (cubes if same else rescale(cubes, pixel_size, to_pixel_size, box)), kept


def ice_positions(tomogram: np.ndarray, zyx: np.ndarray, box: int, n: int, generator: torch.Generator) -> np.ndarray:
    """Positions (n, 3) whose boxes hold no given coordinate and none of the densest unlabelled matter.

    Boxes with a margin of a quarter box around them hold no coordinate; of these, the half in which the smoothed
    grey values vary least is drawn from, without repeats (the boxes may overlap).
    """
    lattice = [np.arange(box // 2, size - (box - box // 2) + 1) for size in tomogram.shape]
    free = np.stack(np.meshgrid(*lattice, indexing="ij"), -1).reshape(-1, 3)
    if len(zyx) and len(free):
        distance, _ = spatial.cKDTree(np.asarray(zyx, float)).query(free, p=np.inf, distance_upper_bound=0.75 * box + 1)
        free = free[distance > 0.75 * box]
    if len(free) < n:
        raise InputError(f"Only {len(free)} boxes of {box} voxels hold no particle; wanted {n}: use a smaller box.")
    smooth = ndimage.gaussian_filter(np.asarray(tomogram, np.float32), 1.5)
    smooth -= np.median(smooth)
    busy = ndimage.uniform_filter(smooth**2, box)[tuple(free.T)]
    quiet = free[np.argsort(busy, kind="stable")[: max(n, len(free) // 2)]]
    return quiet[torch.randperm(len(quiet), generator=generator)[:n].numpy()]


# Files


@dataclass(frozen=True)
class _Header:
    shape: tuple[int, int, int]  # nz, ny, nx as stored: sections, rows, columns
    dtype: np.dtype
    offset: int
    pixel_size: float | None
    order: tuple[int, int, int]  # axis (0 = x) of columns, rows, sections
    stack: bool


def _read_header(path: Path) -> _Header:
    """Header of an MRC file, its claims checked against the size of the file before any memory is taken."""
    if not path.is_file():
        raise InputError(f"{path} is not a file; check the path.")
    size = path.stat().st_size
    with path.open("rb") as file:
        raw = file.read(1024)
    if len(raw) < 1024 or raw[208:211] != b"MAP":
        raise InputError(
            f"{path} is not an MRC file ({size} bytes, no 'MAP' at byte 208); wanted MRC2014, uncompressed."
        )
    order = "<" if 0 <= int.from_bytes(raw[12:16], "little") <= 127 else ">"
    word = np.frombuffer(raw, order + "i4")
    real = np.frombuffer(raw, order + "f4")
    nx, ny, nz, mode = (int(v) for v in word[:4])
    if mode not in MODES:
        raise InputError(f"{path} has MRC mode {mode}; wanted one of {', '.join(map(str, MODES))} (real numbers).")
    dtype = np.dtype(MODES[mode]).newbyteorder(order)
    if mode == 0 and int(word[38]) == 1146047817 and not int(word[39]) & 1:
        dtype = np.dtype(np.uint8)  # IMOD's stamp without its "signed bytes" flag
    offset = 1024 + int(word[23])
    wanted = offset + nx * ny * nz * dtype.itemsize
    if min(nx, ny, nz) < 1 or offset < 1024 or wanted > size:
        raise InputError(
            f"{path} claims {nx} x {ny} x {nz} voxels, {wanted} bytes, but has {size}: it is truncated or "
            "damaged; copy it again."
        )
    axes = tuple(int(v) - 1 for v in word[16:19])
    axes = axes if sorted(axes) == [0, 1, 2] else (0, 1, 2)
    cell, sampling = real[10:13].astype(float), word[7:10].astype(float)
    with np.errstate(all="ignore"):
        steps = cell / sampling
    steps = steps[np.isfinite(steps) & (steps > 0)]
    if len(steps) == 3 and steps.max() > 1.01 * steps.min():
        raise InputError(f"{path} has voxels of {steps[0]:.3g} x {steps[1]:.3g} x {steps[2]:.3g} A; wanted cubic ones.")
    stack = int(word[22]) == 401 or (path.suffix == ".mrcs" and nx == ny)
    return _Header((nz, ny, nx), dtype, offset, float(steps.mean()) if len(steps) == 3 else None, axes, stack)


def _read_data(path: Path, header: _Header, mmap: bool) -> np.ndarray:
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") if hasattr(os, "sysconf") else 1 << 36
    if not mmap and 4 * np.prod(header.shape, dtype=float) > 0.8 * memory:
        raise InputError(
            f"{path} has {header.shape[::-1]} voxels, more than this machine's memory holds; bin or crop it."
        )
    data = np.memmap(path, header.dtype, "r", header.offset, header.shape)
    low, high = np.inf, -np.inf
    for start in range(0, len(data), max(1, (1 << 24) // data[0].size)):
        slab = data[start : start + max(1, (1 << 24) // data[0].size)]
        low, high = np.minimum(low, slab.min()), np.maximum(high, slab.max())  # NaN goes through both
    if not np.isfinite([low, high]).all():
        raise InputError(f"{path} holds values that are not finite (NaN or infinite); mask or repair it first.")
    if low == high:
        raise InputError(f"{path} is constant ({low:g} everywhere); wanted a density: check how it was written.")
    # Stored axis i is sections, rows, columns; bring z, y, x to the front in this order.
    data = data.transpose([(2 - header.order.index(axis)) for axis in (2, 1, 0)])
    return data if mmap else np.ascontiguousarray(data, np.float32)


def _pixel_size(path: Path, header: _Header, given: float | None) -> float:
    size = given or header.pixel_size
    if size is None or not 0 < size < 1e4:
        found = "no voxel size in its header" if size is None else f"a voxel size of {size} A"
        raise InputError(f"{path} has {found}; wanted A per voxel: give it as pixel_size, e.g. pixel_size = 10.0.")
    return float(size)


def read_mrc(path: str | Path, pixel_size: float | None = None, mmap: bool = False) -> Volume:
    """An MRC volume or map (modes 0, 1, 2, 6, 12; either byte order; any axis order).

    Parameters
    ----------
    pixel_size : A per voxel; overrides the header. 0 or None: the header's
    mmap : leave the voxels on disk, in the type they have there

    Raises
    ------
    InputError
        Missing, not MRC, truncated, no voxel size, not finite or constant.
    """
    path = Path(path)
    header = _read_header(path)
    size = _pixel_size(path, header, pixel_size)
    return Volume(_read_data(path, header, mmap), size, str(path))


def write_mrc(path: str | Path, data: np.ndarray, pixel_size: float) -> None:
    """Write (Z, Y, X), or a stack of cubes (N, 1, Z, Y, X), as MRC with its voxel size, atomically.

    int8, int16, uint16 and float16 stay as they are, all else becomes float32.
    """
    data = np.asarray(data)
    data = data if data.dtype in (np.int8, np.int16, np.uint16, np.float16) else data.astype(np.float32)
    partial = Path(f"{path}.part")
    with mrcfile.new(partial, overwrite=True) as file:
        file.set_data(data[:, 0] if data.ndim == 5 else data)
        file.voxel_size = pixel_size
    os.replace(partial, path)


def read_star(path: str | Path) -> dict[str, dict[str, list[str]]]:
    """All tables of a STAR file: block name -> column name without its leading underscore -> values as text."""
    if not Path(path).is_file():
        raise InputError(f"{path} is not a file; check the path.")
    try:
        document = gemmi.cif.read_file(str(path))
    except (RuntimeError, ValueError) as error:
        raise InputError(
            f"{path} is not a STAR file ({str(error).splitlines()[0]}); wanted RELION's format."
        ) from error
    tables: dict[str, dict[str, list[str]]] = {}
    for block in document:
        table = tables.setdefault(block.name.strip(), {})
        for item in block:
            if item.pair:
                table[item.pair[0][1:]] = [gemmi.cif.as_string(item.pair[1])]
            elif item.loop:
                for column, tag in enumerate(item.loop.tags):
                    cells = range(item.loop.length())
                    table[tag[1:]] = [gemmi.cif.as_string(item.loop[row, column]) for row in cells]
    return tables


def _cell(value: object) -> str:
    """A value as STAR text; quoted only where it must be, for RELION reads no quotes."""
    text = str(value)
    plain = text and text[0] not in "_#'\"$;[]" and not any(c.isspace() for c in text)
    reserved = text.lower().startswith(("data_", "loop_", "save_", "stop_", "global_"))
    return text if plain and not reserved else gemmi.cif.quote(text)


def write_star(path: str | Path, tables: dict[str, dict[str, list]]) -> None:
    """Write tables (block name -> column -> values) as a STAR file, atomically."""
    lines = []
    for name, table in tables.items():
        lines += [f"data_{name}", "", "loop_", *(f"_{column} #{i}" for i, column in enumerate(table, 1))]
        rows = zip(*table.values(), strict=True)
        lines += ["\t".join(_cell(value) for value in row) for row in rows]
        lines += ["", ""]
    partial = Path(f"{path}.part")
    partial.write_text("\n".join(lines))
    os.replace(partial, path)


def _table_with(path: str | Path, column: str) -> tuple[dict[str, list[str]], dict[str, list[str]]]:
    """The table of a STAR file that has `column`, and its optics table (empty if none)."""
    tables = read_star(path)
    table = next((t for t in tables.values() if column in t), None)
    if table is None:
        found = ", ".join(tables) or "no tables"
        raise InputError(f"{path} has no column _{column} (tables: {found}); wanted a RELION table that has it.")
    if not table[column]:
        raise InputError(f"{path} has an empty column _{column}; wanted at least one row.")
    return table, tables.get("optics", {})


def _numbers(path: str | Path, table: dict[str, list[str]], column: str) -> np.ndarray:
    for row, text in enumerate(table.get(column, [""])):
        try:
            finite = np.isfinite(float(text))
        except ValueError:
            finite = False
        if not finite:
            raise InputError(f"{path}: _{column} is '{text}' in row {row + 1}; wanted a number.")
    return np.array([float(text) for text in table[column]])


def read_coordinates(path: str | Path, tomogram: Volume) -> Coordinates:
    """Positions from a RELION-style STAR: _rlnCoordinateX/Y/Z in voxels of the tomogram, counted from 0.

    An optics table with _rlnTomoTiltSeriesPixelSize (RELION 4) says that they count unbinned pixels instead; they are
    scaled. A table of several tomograms (_rlnTomoName or _rlnMicrographName) gives the rows of this one.

    Raises
    ------
    InputError
        Columns missing, not numbers, no rows for this tomogram, or positions outside it.
    """
    table, optics = _table_with(path, "rlnCoordinateX")
    zyx = np.stack([_numbers(path, table, f"rlnCoordinate{axis}") for axis in "ZYX"], 1)
    names = [Path(n).stem for n in table.get("rlnTomoName", table.get("rlnMicrographName", []))]
    if len(set(names)) > 1:
        mine = [row for row, name in enumerate(names) if name == Path(tomogram.path).stem]
        if not mine:
            raise InputError(f"{path} lists {len(set(names))} tomograms, none named '{Path(tomogram.path).stem}'.")
        zyx, table = zyx[mine], {column: [values[r] for r in mine] for column, values in table.items()}
    unit = ""
    if "rlnTomoTiltSeriesPixelSize" in optics:
        pixel = _numbers(path, optics, "rlnTomoTiltSeriesPixelSize")[0]
        zyx, unit = zyx * (pixel / tomogram.pixel_size), f" (scaled from {pixel:g} to {tomogram.pixel_size:g} A)"
    shape = np.array(tomogram.data.shape)
    outside = np.flatnonzero(((zyx < -0.5) | (zyx > shape - 0.5)).any(1))
    if len(outside):
        z, y, x = zyx[outside[0]]
        raise InputError(
            f"{path}: {len(outside)} of {len(zyx)} positions lie outside {tomogram.path} of {shape[2]} x {shape[1]} x "
            f"{shape[0]} voxels, first row {outside[0] + 1} at x, y, z = {x:.1f}, {y:.1f}, {z:.1f}{unit}; give voxels "
            "of this tomogram."
        )
    return Coordinates(zyx, table)


def _read_stack(path: Path, header: _Header) -> np.ndarray:
    """(N, Z, Y, X) of a volume stack, or of a single volume."""
    nz, ny, nx = header.shape
    data = _read_data(path, header, mmap=True)
    if not header.stack and nz == ny == nx:
        return data[None]
    if ny != nx or nz % ny:
        raise InputError(
            f"{path} has {nx} x {ny} x {nz} voxels; wanted a cube, or a stack of cubes (z a multiple of y)."
        )
    return data.reshape(nz // ny, ny, ny, nx)


def read_subtomograms(
    path: str | Path, box: int | None = None, pixel_size: float | None = None
) -> tuple[Tensor, float, list[str]]:
    """Subtomograms from a volume stack (.mrcs, .mrc), a folder of .mrc files, or a STAR with _rlnImageName.

    Names in a STAR are "000001@stack.mrcs" or "one.mrc", relative to the STAR and inside its folder. Files of a folder
    come in the order of their names.

    Parameters
    ----------
    box : voxels; larger cubes are cropped to their centre
    pixel_size : A per voxel; overrides the STAR's _rlnImagePixelSize and the headers

    Returns
    -------
    cubes (N, 1, Z, Y, X) float32, pixel size in A, names as _rlnImageName has them
    """
    path = Path(path)
    if path.is_dir():
        files = sorted(path.glob("*.mrc"))
        names = [file.name for file in files]
        if not files:
            raise InputError(f"Folder {path} holds no .mrc files; wanted one per subtomogram.")
        wanted = [(file, 0) for file in files]
    elif path.suffix == ".star":
        table, optics = _table_with(path, "rlnImageName")
        names = table["rlnImageName"]
        for source in (optics, table):
            if not pixel_size and "rlnImagePixelSize" in source:
                pixel_size = float(_numbers(path, source, "rlnImagePixelSize")[0])
        wanted = []
        for name in names:
            index, _, file = name.rpartition("@")
            target = (path.parent / file).resolve()
            if not target.is_relative_to(path.parent.resolve()) or not (index or "1").isdigit():
                raise InputError(
                    f"{path}: _rlnImageName '{name}' leaves the STAR's folder or has no number before its @."
                )
            wanted.append((target, int(index or 1) - 1))
    else:
        names, wanted = [], []
    headers = {file: _read_header(file) for file in dict.fromkeys([f for f, _ in wanted] or [path])}
    sizes = {file: _pixel_size(file, header, pixel_size) for file, header in headers.items()}
    size = next(iter(sizes.values()))
    odd = next((file for file, s in sizes.items() if abs(s / size - 1) > 0.01), None)
    if odd:
        raise InputError(f"{odd} has {sizes[odd]:.3g} A per voxel, the first file {size:.3g} A; wanted one pixel size.")
    stacks = {file: _read_stack(file, header) for file, header in headers.items()}
    if not wanted:
        wanted = [(path, i) for i in range(len(stacks[path]))]
        names = [f"{i + 1:06d}@{path.name}" for i in range(len(wanted))]
    edge = box or stacks[wanted[0][0]].shape[-1]
    cubes = torch.empty(len(wanted), 1, edge, edge, edge)
    for row, (file, index) in enumerate(wanted):
        stack = stacks[file]
        if not 0 <= index < len(stack):
            raise InputError(f"{path}: '{names[row]}' asks for volume {index + 1} of {file}, which holds {len(stack)}.")
        if stack.shape[-1] < edge or (box is None and stack.shape[-1] != edge):
            raise InputError(f"{names[row]} has {stack.shape[-1]} voxels per edge; wanted {edge}: set a smaller box.")
        cubes[row, 0] = crop(torch.from_numpy(np.array(stack[index], np.float32)), edge)
    return cubes, size, names
