"""Readers of the field's file formats, into `Volume` and `Particles`; one entry of a table adds a format.

Positions are in voxels of the tomogram, counted from 0, in the order z, y, x. All columns of a file are kept.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

from cryoshift_core.errors import InputError, InputWarning
from cryoshift_core.tomography.volumes import Particles, Volume

from . import grids, json_points, stacks, star, tables, tomograms

# Each table maps the ending of a file's name, in lower case, to the reader of the format. To add a format, also from a
# script, add an entry, such as readers.PICKS[".csv"] = my_reader.

# reader(path, voxel_size or None, mmap) -> Volume; with mmap, voxels may stay on disk
TOMOGRAMS: dict[str, Callable[[str | Path, float | None, bool], Volume]] = {
    ".mrc": tomograms.read_mrc,
    ".rec": tomograms.read_mrc,
    ".map": tomograms.read_mrc,
    ".st": tomograms.read_mrc,
    ".mrc.gz": tomograms.read_mrc,
    ".rec.gz": tomograms.read_mrc,
    ".map.gz": tomograms.read_mrc,
    ".em": grids.read_em,
    ".hdf": grids.read_hdf,
    ".zarr": grids.read_zarr,
}
# reader(path, tomogram) -> Particles with zyx
PICKS: dict[str, Callable[[str | Path, Volume], Particles]] = {
    ".star": star.read_picks,
    ".tbl": tables.read_dynamo,
    ".json": json_points.read_json,
    ".ndjson": json_points.read_portal,
    ".txt": tables.read_model_points,
    ".xyz": tables.read_points,
    ".coords": tables.read_points,
    ".pts": tables.read_points,
    "": json_points.read_copick_run,  # a folder
}
# reader(path, voxel_size or None) -> volumes of one file and their voxel size; also used for the files of a folder and
# for those that a STAR names
SUBTOMOGRAMS: dict[str, stacks.StackReader] = {
    ".mrc": stacks.read_mrc_stack,
    ".mrcs": stacks.read_mrc_stack,
    ".mrc.gz": stacks.read_mrc_stack,
    ".mrcs.gz": stacks.read_mrc_stack,
    ".em": stacks.read_em_stack,
    ".hdf": stacks.read_hdf_stack,
    ".png": stacks.read_png_stack,
}

# Endings without a reader, and how to convert such files.
WAYS_OUT = {
    ".gz": "is compressed and cannot be read in place; run gunzip -k on it",
    ".bz2": "is compressed and cannot be read in place; run bunzip2 -k on it",
    ".xz": "is compressed and cannot be read in place; run unxz -k on it",
    ".zst": "is compressed and cannot be read in place; run unzstd on it",
    ".zip": "is compressed and cannot be read in place; unpack it",
    ".h5": "has an ending of several formats; if EMAN2 wrote it, rename it to .hdf, else convert it to MRC",
    ".tif": "has no voxel size; convert it to MRC (IMOD: tif2mrc)",
    ".tiff": "has no voxel size; convert it to MRC (IMOD: tif2mrc)",
    ".mod": "is an IMOD model; convert its points to text: model2point -object model.mod points.txt",
}

Reader = TypeVar("Reader")
Found = TypeVar("Found", Volume, Particles)


def _check_ending(path: Path, ending: str, known: list[str], what: str) -> None:
    last = f".{ending.rpartition('.')[2]}"
    if last in WAYS_OUT and ending not in known:
        raise InputError(f"{path} {WAYS_OUT[last]}.")
    if ending not in known:
        expected = ", ".join(e for e in known if e) + (" or a folder" if "" in known else "")
        raise InputError(f"{path}: expected a {what} whose name ends in {expected}, got '{ending}'; convert it.")


def _reader(path: Path, readers: Mapping[str, Reader], what: str) -> Reader:
    ending = "" if path.is_dir() and "" in readers else stacks.ending(path)
    _check_ending(path, ending, list(readers), what)
    return readers[ending]


def _warned(found: Found) -> Found:
    for sentence in found.warnings:
        warnings.warn(sentence, InputWarning, stacklevel=3)
    return found


def read_tomogram(path: str | Path, voxel_size: float | None = None) -> Volume:
    """A tomogram, left on disk: `data` is memory-mapped or, for .hdf and .zarr, `grids.OnDisk`.

    Parameters
    ----------
    path : file of a format in `TOMOGRAMS`
    voxel_size : A; overrides the file's own, and selects a level of an OME-Zarr. None: the file's

    Raises
    ------
    InputError
        Unknown ending, missing or damaged file, a tilt series or a stack, or no voxel size.

    Warns
    -----
    InputWarning
        The volume is thin along y or x instead of z.
    """
    path = Path(path).expanduser()
    volume = _reader(path, TOMOGRAMS, "tomogram")(path, voxel_size, True)
    return _warned(replace(volume, warnings=(*volume.warnings, *tomograms.beam_warnings(volume))))


def read_picks(path: str | Path, tomogram: Volume) -> Particles:
    """Positions of particles in `tomogram`, in its voxels: the rows of the file that belong to it.

    Parameters
    ----------
    path : file or folder of a format in `PICKS`
    tomogram : its name selects the rows, its shape and voxel size convert and check the positions

    Raises
    ------
    InputError
        Unknown ending, missing or damaged file, no rows for the tomogram, or half of the positions outside it.

    Warns
    -----
    InputWarning
        Rows that cannot be classified, or positions that do not seem to be those of particles in this tomogram.
    """
    path = Path(path).expanduser()
    return _warned(_reader(path, PICKS, "list of positions")(path, tomogram))


def read_subtomograms(
    path: str | Path,
    box: int | None = None,
    voxel_size: float | None = None,
    project_folder: str | Path | None = None,
) -> Particles:
    """Extracted subtomograms from a stack, a folder of files, or a STAR that names them with _rlnImageName.

    Parameters
    ----------
    path : file of a format in `SUBTOMOGRAMS`, a folder of such files, or a STAR
    box : voxels; larger subtomograms are cropped to their centre. None: their own size
    voxel_size : A; overrides the file's own. None: the file's
    project_folder : folder in which all files that a STAR names must lie, and to which their names may be relative, as
        those of RELION are. None: the STAR's own

    Raises
    ------
    InputError
        Unknown ending, missing or damaged files, one volume only, images instead of volumes, or volumes that differ in
        size or voxel size.

    Warns
    -----
    InputWarning
        Single volumes that cannot be classified, or files of a folder that are no particles.
    """
    path = Path(path).expanduser()
    ending = "" if path.is_dir() else stacks.ending(path)
    _check_ending(path, ending, [*SUBTOMOGRAMS, ".star", ""], "set of subtomograms")
    project = None if project_folder is None else Path(project_folder).expanduser()
    found = stacks.read_subtomograms(
        path, SUBTOMOGRAMS, box, voxel_size, volumes=list(TOMOGRAMS), project_folder=project
    )
    return _warned(found)
