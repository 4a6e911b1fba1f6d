"""Tomograms in MRC, and what speaks against a volume being a tomogram."""

from __future__ import annotations

from pathlib import Path

from cryoshift_core.errors import InputError
from cryoshift_core.tomography.mrc import check_one_volume, read_data, read_header
from cryoshift_core.tomography.volumes import Volume

from . import evidence, mdoc


def read_mrc(path: str | Path, voxel_size: float | None = None, mmap: bool = False) -> Volume:
    """A tomogram from an MRC file, plain or gzipped; parameters as in `tomography.mrc.read_mrc`.

    Raises
    ------
    InputError
        As there; a tilt series, or a voxel size that header and name contradict.
    """
    path = Path(path)
    header = read_header(path)
    check_one_volume(path, header)
    nz, ny, nx = header.shape
    described = path.with_name(f"{path.name}.mdoc")
    if nz == 1 or (described.is_file() and len(mdoc.read_mdoc(described)) == nz):
        found = "one image" if nz == 1 else f"the tilt series of {nz} images that {described.name} describes"
        raise InputError(f"{path} holds {found}; expected a tomogram: give the reconstruction.")
    size = evidence.voxel_size(path, header.steps, voxel_size)
    return Volume(read_data(path, header, mmap), size, str(path))


def beam_warnings(volume: Volume) -> list[str]:
    """A sentence where a volume is thin along y or x instead of z, the beam."""
    shape = volume.data.shape
    thin = min((1, 2), key=lambda axis: shape[axis])
    if 2 * shape[thin] > shape[0]:
        return []
    found = f"{shape[2]} x {shape[1]} x {shape[0]}"
    return [
        f"{volume.path} of {found} voxels is thinnest along {'zyx'[thin]}; the beam is expected along z. If the "
        "specimen lies across that axis, rotate the volume (IMOD: clip rotx in.mrc out.mrc) and pick in it again."
    ]
