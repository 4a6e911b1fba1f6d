"""Extracted subtomograms from a stack, a folder of files, or a STAR that names them."""

from __future__ import annotations

import contextlib
import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from cryoshift_core.data import crop
from cryoshift_core.errors import InputError
from cryoshift_core.tomography.checks import check_fits, check_values
from cryoshift_core.tomography.mrc import read_data, read_header
from cryoshift_core.tomography.volumes import Particles

from . import evidence, grids, members, montage, star
from .evidence import Stated
from .placement import not_classified

# Subtomograms of one file, which may stay on disk, and their voxel size in A.
Stack = tuple[Sequence[np.ndarray | grids.OnDisk], float]
StackReader = Callable[[Path, float | None], Stack]


def ending(path: Path) -> str:
    """Ending of a file's name in lower case, two of a gzipped file: ".mrc", ".mrc.gz"."""
    endings = path.suffixes[-2:] if path.suffix.lower() == ".gz" else [path.suffix]
    return "".join(endings).lower()


def read_mrc_stack(path: Path, voxel_size: float | None) -> Stack:
    """Subtomograms of an MRC file: one cubic volume, or a stack of them along z."""
    header = read_header(path)
    nz, ny, nx = header.shape
    if header.kind == "images":
        raise InputError(
            f"{path} holds {nz} images of {nx} x {ny} pixels (ISPG 0), such as projections or a tilt series; expected "
            "3-D subtomograms: extract them as volumes. If they are volumes, correct the header: "
            "mrcfile.open(path, 'r+').set_volume()."
        )
    data = read_data(path, header, mmap=True, check=False)
    nz, ny, nx = data.shape
    depth = header.depth or ny
    if depth != ny or ny != nx or nz % depth:
        if header.depth:
            raise InputError(
                f"{path} has {nz // depth} volumes of {nx} x {ny} x {depth} voxels (ISPG 401); expected cubic ones: "
                "extract them again."
            )
        raise InputError(
            f"{path} has {nx} x {ny} x {nz} voxels; expected a cubic volume, or a stack of cubic volumes (z a multiple "
            "of y). If it is a tomogram, give it as tomogram, together with coordinates."
        )
    # In stacks, many programs write the spacing of images for z.
    stack = header.kind == "volumes" or nz > ny or path.name.lower().endswith((".mrcs", ".mrcs.gz"))
    size = evidence.voxel_size(path, header.steps[:2] if stack else header.steps, voxel_size)
    return [data[start : start + depth] for start in range(0, nz, depth)], size


def read_em_stack(path: Path, voxel_size: float | None) -> Stack:
    """The subtomogram of an EM file."""
    volume = grids.read_em(path, voxel_size, mmap=True)
    return [volume.data], volume.voxel_size


def read_hdf_stack(path: Path, voxel_size: float | None) -> Stack:
    """All images of an EMAN2 HDF5 file."""
    images = grids.open_hdf(path, check=False)
    sizes = [evidence.voxel_size(path, found, voxel_size) for _, found in images]
    if max(sizes) > 1.01 * min(sizes):
        raise InputError(
            f"{path}: expected one voxel size, got {min(sizes):.3g} to {max(sizes):.3g} A; split it or pass voxel_size."
        )
    return [grid for grid, _ in images], sizes[0]


def read_png_stack(path: Path, voxel_size: float | None) -> Stack:
    """The subtomogram of a PNG montage."""
    subtomogram, size = montage.read_montage(path, voxel_size)
    return [subtomogram], size


def _refuse_one_volume(path: Path, stack: Sequence[np.ndarray | grids.OnDisk], is_volume: bool) -> None:
    """Raise InputError when a file that may be a tomogram holds one volume: one subtomogram cannot train a model."""
    if len(stack) == 1 and is_volume:
        z, y, x = stack[0].shape
        raise InputError(
            f"{path} holds one volume of {x} x {y} x {z} voxels; expected a stack, a folder or a STAR of several "
            "subtomograms. If it is a tomogram, give it as tomogram, together with coordinates."
        )


@dataclass(frozen=True, eq=False)
class _Listed:
    """What a path lists: the files to read, and all columns of its table.

    Attributes
    ----------
    files : file -> rows and the indices of their volumes in the file; no rows for a stack by itself
    problems : row -> why it has no file
    stated : row -> voxel size that the table states
    """

    files: dict[Path, list[tuple[int, int]]]
    particles: Particles
    problems: dict[int, InputError] = field(default_factory=dict)
    stated: Callable[[int], Stated | None] = lambda row: None


def _of_folder(path: Path, formats: Mapping[str, StackReader]) -> _Listed:
    files, others = members.particle_files(path, list(formats))
    table = {"rlnImageName": [file.relative_to(path).as_posix() for file in files]}
    if files[0].parent != path:
        table["csFolder"] = [file.parent.name for file in files]
    companions = [file for file in others if members.COMPANION.search(file.stem)]
    rest = [file for file in others if file not in companions]
    left_out = [
        f"{path}: {len(found)} {what}, such as {found[0].name}, were left out."
        for what, found in (("CTF or weight volumes", companions), ("averages, masks or references", rest))
        if found
    ]
    return _Listed({file: [(row, 0)] for row, file in enumerate(files)}, Particles(table, warnings=tuple(left_out)))


def _refuse_projections(path: Path, table: star.Table, rest: dict[str, star.Table]) -> None:
    """Raise InputError when a STAR says that its particles are images instead of volumes."""
    flat = star.per_row(path, table, rest.get("optics", {}), "rlnImageDimensionality", unknown=True)
    flag = "rlnTomoSubTomosAre2DStacks"
    marked = next((column[flag][0] for column in (table, *rest.values()) if column.get(flag)), "0")
    if marked not in ("0", "") or (flat is not None and (flat == 2).any()):
        found = f"_{flag} {marked}" if marked not in ("0", "") else "_rlnImageDimensionality 2"
        raise InputError(
            f"{path} lists 2-D projections ({found}); expected 3-D subtomograms: extract them as volumes (RELION 5: "
            "without 'Write output as 2D stacks'; WarpTools: ts_export_particles --3d)."
        )


def _of_star(path: Path, voxel_size: float | None, project: Path | None) -> _Listed:
    block, table, rest = star.table_with(path, "rlnImageName")
    _refuse_projections(path, table, rest)
    pixel, warnings = star.image_pixel(path, table, rest.get("optics", {})), []
    if pixel is not None and pixel[0].max() > (1 + evidence.TOLERANCE) * pixel[0].min():
        sizes = f"{pixel[1]} {pixel[0].min():g} to {pixel[0].max():g} A"
        if not voxel_size:
            raise InputError(
                f"{path}: expected particles of one voxel size, got {sizes}; split the file by optics group."
            )
        warnings = [f"{path}: all particles were taken to have {voxel_size:g} A per voxel, in spite of {sizes}."]
    files, problems = members.named_in(path, table["rlnImageName"], project)
    particles = Particles(
        table, angles=star.angles_of(path, table), kind="star", block=block, rest=rest, warnings=tuple(warnings)
    )

    def stated(row: int) -> Stated | None:
        return None if pixel is None else Stated(float(pixel[0][row]), f"{pixel[1]} of {path.name}")

    return _Listed(files, particles, problems, stated)


def _open(file: Path, reader: StackReader, voxel_size: float | None, stated: Stated | None) -> Stack:
    """A file's volumes; its voxel size is the given one, else what the file and its STAR state, which must agree."""
    if voxel_size or stated is None:
        return reader(file, voxel_size)
    try:
        stack, size = reader(file, None)
    except InputError:
        return reader(file, stated.value)  # the file states no voxel size, or has another fault
    way_out = "pass the right one as voxel_size (pixel_size in the notebook)"
    evidence.agreed(file, [stated, Stated(size, "the file itself")], way_out)
    return stack, stated.value


def _usual(opened: Callable[[Path], Stack], files: Mapping[Path, object]) -> tuple[int, float]:
    """Most frequent edge in voxels, and voxel size in A, among the first files, of which some may be wrong."""
    edges: Counter[int] = Counter()
    sizes: list[float] = []
    for file in list(files)[:9]:
        with contextlib.suppress(InputError):
            stack, size = opened(file)
            edges[stack[0].shape[-1]] += 1
            sizes.append(size)
    return edges.most_common(1)[0][0], max(sizes, key=lambda one: sum(evidence.same(one, other) for other in sizes))


def _check_size(
    file: Path, name: str, stack: Sequence[np.ndarray | grids.OnDisk], index: int, box: int | None, edge: int
) -> None:
    """Return None; raise InputError where a volume is missing, not cubic, or of another size than the others."""
    if not 0 <= index < len(stack):
        raise InputError(f"'{name}' refers to volume {index + 1} of {file}, which holds {len(stack)}; correct it.")
    z, y, x = shape = stack[index].shape
    if min(shape) != max(shape):
        raise InputError(f"{name} has {x} x {y} x {z} voxels; expected a cubic box: extract it again.")
    if x < edge or (box is None and x != edge):
        raise InputError(f"{name} has {x} voxels per edge; expected {edge}: set a smaller box.")


def _values(file: Path, name: str, volume: np.ndarray | grids.OnDisk, edge: int) -> Tensor:
    """(edge, edge, edge) float32 of a volume; InputError where it is damaged, constant or not finite."""
    try:
        with np.errstate(over="ignore"):
            values = np.array(volume, np.float32)
    except grids.DAMAGE as error:
        raise InputError(f"{file} cannot be read ({type(error).__name__}); copy or write it again.") from error
    check_values(Path(name), [values])
    return crop(torch.from_numpy(values), edge)


def read_subtomograms(
    path: str | Path,
    formats: Mapping[str, StackReader],
    box: int | None = None,
    voxel_size: float | None = None,
    *,
    volumes: Sequence[str] = (),
    project_folder: Path | None = None,
) -> Particles:
    """Subtomograms from a stack, a folder of one file per subtomogram, or a STAR with _rlnImageName.

    Files of a folder are taken in the order of their names, without CTF and weight volumes, averages and masks. If they
    lie in sub-folders, such as one per class, the name of each file's sub-folder becomes the column csFolder: a
    classification by hand, kept as a held-out label and never used for training. Names in a STAR are
    "000001@stack.mrcs" or "one.mrc", relative to the STAR and in its folder, or relative to `project_folder` and in
    that.

    A volume that is constant or not finite, and a file of a STAR or a folder that cannot be read or has another box or
    voxel size than most, become a row of `bad` (NaN in `subtomograms`), unless they are half of all or more.

    Parameters
    ----------
    formats : ending of a file's name -> its reader
    box : voxels; larger subtomograms are cropped to their centre. None: their own size
    voxel_size : A per voxel; overrides the STAR's _rlnImagePixelSize and the headers
    volumes : endings that tomograms have too; a single file of theirs with one volume is refused
    project_folder : folder that the names in a STAR may be relative to, and may not leave

    Returns
    -------
    Particles with subtomograms, voxel size, and at least the column rlnImageName

    Raises
    ------
    InputError
        No subtomograms, only one volume, images, volumes that are not cubic or differ in size or voxel size, names that
        lead out of the STAR's folder, or more than memory holds.
    """
    path = Path(path)
    if path.is_dir():
        listed = _of_folder(path, formats)
    elif path.suffix.lower() == ".star":
        listed = _of_star(path, voxel_size, project_folder)
    else:
        listed = _Listed({path: []}, Particles({"rlnImageName": [""]}))
    table = listed.particles.table
    problems, out, first, edge = dict(listed.problems), None, 0.0, 0

    def opened(file: Path) -> Stack:
        rows = listed.files[file]
        reader = formats.get(ending(file), read_mrc_stack)
        return _open(file, reader, voxel_size, listed.stated(rows[0][0] if rows else 0))

    for file, rows in listed.files.items():
        try:
            stack, size = opened(file)
        except InputError as problem:
            if not rows:
                raise
            problems |= {row: problem for row, _ in rows}
            continue
        if path.is_dir() and len(stack) != 1:
            raise InputError(
                f"{file} holds {len(stack)} volumes; expected one per file of a folder: give the file by itself."
            )
        if out is None:
            if not rows:
                _refuse_one_volume(path, stack, ending(path) in volumes)
                table["rlnImageName"] = [f"{i + 1:06d}@{path.name}" for i in range(len(stack))]
                rows = [(i, i) for i in range(len(stack))]
            usual, first = _usual(opened, listed.files)
            edge = box or usual
            check_fits(path, (len(table["rlnImageName"]), edge, edge, edge))
            out = torch.full((len(table["rlnImageName"]), 1, edge, edge, edge), math.nan)
        if not evidence.same(size, first):
            odd = InputError(
                f"{file}: expected {first:.3g} A per voxel, as in most files, got {size:.3g} A; keep files of one "
                "voxel size."
            )
            problems |= {row: odd for row, _ in rows}
            continue
        for row, index in rows:
            name = table["rlnImageName"][row]
            try:
                _check_size(file, name, stack, index, box, edge)
                out[row, 0] = _values(file, name, stack[index], edge)
            except InputError as problem:
                problems[row] = problem
    if out is None or 2 * len(problems) >= len(out):
        raise problems[min(problems)]
    bad = {row: str(problems[row]).rstrip(".") for row in sorted(problems)}
    warnings = (*listed.particles.warnings, *not_classified(path, bad))
    return replace(listed.particles, subtomograms=out, voxel_size=first, bad=bad, warnings=warnings)
