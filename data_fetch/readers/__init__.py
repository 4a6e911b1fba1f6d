"""Readers of the field's file formats, into `Volume` and `Particles`; one entry of a table adds a format.

Positions are in voxels of the tomogram, counted from 0, in the order z, y, x. All columns of a file are kept.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TypeVar

from cryoshift_core.errors import InputError
from cryoshift_core.tomography.em import read_em
from cryoshift_core.tomography.mrc import read_mrc
from cryoshift_core.tomography.volumes import Particles, Volume

from . import grids, json_points, stacks, star, tables

# Each table maps the ending of a file's name, in lower case, to the reader of the format. To add a format, also from a
# script, add an entry, such as readers.PICKS[".csv"] = my_reader.

# reader(path, voxel_size or None, mmap) -> Volume; with mmap, voxels may stay on disk
TOMOGRAMS: dict[str, Callable[[str | Path, float | None, bool], Volume]] = {
    ".mrc": read_mrc,
    ".rec": read_mrc,
    ".map": read_mrc,
    ".st": read_mrc,
    ".em": read_em,
    ".hdf": grids.read_hdf,
    ".zarr": grids.read_zarr,
}
# reader(path, tomogram) -> Particles with zyx
PICKS: dict[str, Callable[[str | Path, Volume], Particles]] = {
    ".star": star.read_picks,
    ".tbl": tables.read_dynamo,
    ".json": json_points.read_json,
    ".ndjson": json_points.read_portal,
    ".txt": tables.read_points,
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
    ".em": stacks.read_em_stack,
    ".hdf": stacks.read_hdf_stack,
    ".png": stacks.read_png_stack,
}

# Endings without a reader, and how to convert such files.
WAYS_OUT = {
    ".gz": "is compressed and cannot be read in place; run gunzip -k on it",
    ".mod": "is an IMOD model; convert its points to text: model2point -object model.mod points.txt",
}

Reader = TypeVar("Reader")


def _check_ending(path: Path, ending: str, known: list[str], what: str) -> None:
    if ending in WAYS_OUT:
        raise InputError(f"{path} {WAYS_OUT[ending]}.")
    if ending not in known:
        expected = ", ".join(e for e in known if e) + (" or a folder" if "" in known else "")
        raise InputError(
            f"{path}: expected a {what} whose name ends in {expected}, got '{ending}'; convert it, or rename it."
        )


def _reader(path: Path, readers: Mapping[str, Reader], what: str) -> Reader:
    ending = "" if path.is_dir() and "" in readers else path.suffix.lower()
    _check_ending(path, ending, list(readers), what)
    return readers[ending]


def read_tomogram(path: str | Path, voxel_size: float | None = None) -> Volume:
    """A tomogram, left on disk: `data` is memory-mapped or, for .hdf and .zarr, `grids.OnDisk`.

    Parameters
    ----------
    path : file of a format in `TOMOGRAMS`
    voxel_size : A; overrides the file's own, and selects a level of an OME-Zarr. None: the file's

    Raises
    ------
    InputError
        Unknown ending, missing or damaged file, or no voxel size.
    """
    path = Path(path).expanduser()
    return _reader(path, TOMOGRAMS, "tomogram")(path, voxel_size, True)


def read_picks(path: str | Path, tomogram: Volume) -> Particles:
    """Positions of particles in `tomogram`, in its voxels: the rows of the file that belong to it.

    Parameters
    ----------
    path : file or folder of a format in `PICKS`
    tomogram : its name selects the rows, its shape and voxel size convert and check the positions

    Raises
    ------
    InputError
        Unknown ending, missing or damaged file, no rows for the tomogram, or positions outside it.
    """
    path = Path(path).expanduser()
    return _reader(path, PICKS, "list of positions")(path, tomogram)


def read_subtomograms(path: str | Path, box: int | None = None, voxel_size: float | None = None) -> Particles:
    """Extracted subtomograms from a stack, a folder of files, or a STAR that names them with _rlnImageName.

    Parameters
    ----------
    path : file of a format in `SUBTOMOGRAMS`, a folder of such files, or a STAR
    box : voxels; larger subtomograms are cropped to their centre. None: their own size
    voxel_size : A; overrides the file's own. None: the file's

    Raises
    ------
    InputError
        Unknown ending, missing or damaged files, one volume only, or volumes that differ in size or voxel size.
    """
    path = Path(path).expanduser()
    ending = "" if path.is_dir() else path.suffix.lower()
    _check_ending(path, ending, [*SUBTOMOGRAMS, ".star", ""], "set of subtomograms")
    return stacks.read_subtomograms(path, SUBTOMOGRAMS, box, voxel_size, volumes=list(TOMOGRAMS))
