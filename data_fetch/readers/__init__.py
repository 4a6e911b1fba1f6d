"""What the field's programs leave on disk, read into :class:`Volume` and :class:`Particles`: one reader a format.

Positions are in voxels of the tomogram, counted from 0, z first; the file's own columns come along unchanged.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from cryoshift_core.errors import InputError
from cryoshift_core.tomography.mrc import read_mrc
from cryoshift_core.tomography.volumes import Particles, Volume

from . import grids, json_points, stacks, star, tables

# ending of the file's name -> its reader
TOMOGRAMS: dict[str, Callable[..., Volume]] = {
    ".mrc": read_mrc,
    ".rec": read_mrc,
    ".map": read_mrc,
    ".st": read_mrc,
    ".em": grids.read_em,
    ".hdf": grids.read_hdf,
    ".zarr": grids.read_zarr,
}
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
SUBTOMOGRAMS: dict[str, Callable[..., Particles]] = {
    ".mrc": stacks.read_subtomograms,
    ".mrcs": stacks.read_subtomograms,
    ".em": stacks.read_subtomograms,
    ".hdf": stacks.read_subtomograms,
    ".png": stacks.read_subtomograms,
    ".star": stacks.read_subtomograms,
    "": stacks.read_subtomograms,  # a folder
}


# endings that are no reader's, and what to do with them
WAYS_OUT = {
    ".gz": "is compressed, and can't be read in place; run gunzip -k on it",
    ".mod": "is an IMOD model; its points become text by: model2point -object model.mod points.txt",
}


def _reader(path: str | Path, readers: dict[str, Callable], what: str) -> Callable:
    ending = Path(path).suffix.lower()
    if ending in WAYS_OUT:
        raise InputError(f"{path} {WAYS_OUT[ending]}.")
    if Path(path).is_dir() and ending != ".zarr":
        ending = ""
    if ending not in readers:
        known = ", ".join(e for e in readers if e) + (" or a folder" if "" in readers else "")
        raise InputError(f"{path} is no {what} that can be read: its name ends in '{ending}'; wanted {known}.")
    return readers[ending]


def read_tomogram(path: str | Path, voxel_size: float | None = None) -> Volume:
    """A tomogram; `voxel_size` in A overrides the file's own, and chooses among the levels of an OME-Zarr.

    Voxels stay on disk: `data` is memory-mapped, or, of .hdf and .zarr, `grids.OnDisk`, which has shape, dtype and
    slicing, and becomes an array by np.asarray.
    """
    path = Path(path).expanduser()
    return _reader(path, TOMOGRAMS, "tomogram")(path, voxel_size, mmap=True)


def read_picks(path: str | Path, tomogram: Volume) -> Particles:
    """Positions in `tomogram`: the rows that belong to it, in its voxels."""
    path = Path(path).expanduser()
    return _reader(path, PICKS, "list of positions")(path, tomogram)


def read_subtomograms(path: str | Path, box: int | None = None, voxel_size: float | None = None) -> Particles:
    """Extracted cubes; larger ones than `box` voxels are cropped to their centre, `voxel_size` in A overrides."""
    path = Path(path).expanduser()
    return _reader(path, SUBTOMOGRAMS, "set of subtomograms")(path, box, voxel_size)
