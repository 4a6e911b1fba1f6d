"""Small files in the field's formats, valid or broken, and checks of error messages and of memory."""

import tracemalloc
import warnings
from contextlib import contextmanager
from pathlib import Path

import mrcfile
import numpy as np
import pytest
from PIL import Image

from cryoshift_core.errors import InputError
from cryoshift_core.tomography.mrc import MODES, write_mrc
from cryoshift_core.tomography.star import write_star

ROOT = Path(__file__).parents[2]
GOOD = np.random.default_rng(0).normal(size=(8, 8, 8)).astype(np.float32)
RNG = np.random.default_rng(0)
VOLUME = RNG.normal(size=(6, 7, 8)).astype(np.float32)
SUBTOMOGRAMS = RNG.normal(size=(3, 8, 8, 8)).astype(np.float32)


def check_message(error, limit=500):
    """The message of an InputError is one printable line that ends with a full stop."""
    message = str(error)
    assert "\n" not in message and message.isprintable() and message.endswith(".") and len(message) < limit, message
    return message


def says(call, *words):
    """`call` raises InputError with a message of one line that contains all `words`."""
    with pytest.raises(InputError) as caught:
        call()
    message = check_message(caught.value)
    assert not [word for word in words if str(word) not in message], message


@contextmanager
def memory_below(limit):
    """Fails when the block allocates `limit` bytes or more at a time, whether it raises or not."""
    tracemalloc.start()
    try:
        yield
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < limit, f"{peak} bytes"


def mrc(path, data=GOOD, voxel_size=10.0, **header):
    """An MRC file; `header` are fields of mrcfile's header to overwrite."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # mrcfile warns of values that are not finite
        write_mrc(path, data, voxel_size)
    if header:
        with mrcfile.open(path, "r+", permissive=True) as file:
            for name, value in header.items():
                file.header[name] = value
    return path


def star(path, /, **columns):
    """A STAR file with one table, particles."""
    write_star(path, {"particles": columns})
    return path


def coordinates(xyz, pattern="rlnCoordinate{}"):
    """Columns of positions (N, 3) x, y, z, by the names of `pattern`."""
    return {pattern.format(axis): [row[i] for row in xyz] for i, axis in enumerate("XYZ")}


def relion_matrix(rot, tilt, psi):
    """RELION's anglesToMatrix3, element by element: an oracle independent of scipy."""
    (sp, st, sc), (cp, ct, cc) = (f(np.radians([rot, tilt, psi])) for f in (np.sin, np.cos))
    return np.array(
        [
            [cc * ct * cp - sc * sp, cc * ct * sp + sc * cp, -cc * st],
            [-sc * ct * cp - cc * sp, -sc * ct * sp + cc * cp, sc * st],
            [st * cp, st * sp, ct],
        ]
    )


def correlation(a, b):
    """Pearson correlation of two arrays."""
    return np.corrcoef(np.ravel(a), np.ravel(b))[0, 1]


def patch(path, offset, value, dtype="<i4"):
    """The file with the bytes at `offset` replaced by `value`."""
    raw = bytearray(path.read_bytes())
    value = np.asarray(value, dtype).tobytes()
    raw[offset : offset + len(value)] = value
    path.write_bytes(raw)
    return path


def em(path, data=VOLUME, voxel_size=10.0):
    """An EM file, written by the emfile library."""
    import emfile

    emfile.write(path, data, overwrite=True)
    return patch(path, 96 + 4 * 6, round(1000 * voxel_size))  # emfile writes parameters to the wrong place


def hdf(path, images=(VOLUME,), apix=10.0, **attributes):
    """An HDF5 file as EMAN2 writes it; `attributes` are those of each image."""
    import h5py

    path.unlink(missing_ok=True)  # HDF5 does not overwrite a file that is still open
    with h5py.File(path, "w") as file:
        file.create_group("MDF/images").attrs["imageid_max"] = len(images) - 1
        for n, image in enumerate(images):
            group = file.create_group(f"MDF/images/{n}")
            group["image"] = image
            for axis in "xyz" if apix else "":
                group.attrs[f"EMAN.apix_{axis}"] = np.float32(apix)
            for name, value in attributes.items():
                group.attrs[f"EMAN.{name}"] = value
    return path


def ome(path, data=VOLUME, version="0.4", scales=((10.0, 10.0, 10.0),), unit="angstrom", levels=None, **options):
    """An OME-Zarr image whose level n holds data[::2^n, ::2^n, ::2^n]."""
    import zarr

    group = zarr.open_group(path, mode="w", zarr_format=2 if version == "0.4" else 3)
    lead = data.ndim - 3
    axes = [{"name": name, "type": "channel"} for name in "tc"[2 - lead :]]
    axes += [{"name": name, "type": "space", **({"unit": unit} if unit else {})} for name in "zyx"]
    datasets = []
    for n, scale in enumerate(scales):
        part = data[..., :: 2**n, :: 2**n, :: 2**n]
        group.create_array(str(n), data=part, chunks=options.get("chunks", part.shape), **options.get("array", {}))
        datasets.append(
            {
                "path": (levels or {}).get(n, str(n)),
                "coordinateTransformations": [{"type": "scale", "scale": [1.0] * lead + list(scale)}],
            }
        )
    image = {"axes": axes, "datasets": datasets, **options.get("image", {})}
    about = {"multiscales": [{"version": "0.4", **image}]}
    group.attrs.update(about if version == "0.4" else {"ome": {"version": "0.5", "multiscales": [image]}})
    return path


def random_subtomogram(n, dtype=np.uint16):
    """(n, n, n) random integers above 0."""
    return RNG.integers(1, np.iinfo(dtype).max, size=(n, n, n)).astype(dtype)


def png(path, subtomogram, columns, rows, gap_at_the_end=True):
    """A PNG montage: slices side by side, each followed by a gap of one pixel, as AITom's cub_img draws them."""
    n = len(subtomogram)
    image = np.zeros((rows * (n + 1), columns * (n + 1)), subtomogram.dtype)
    for i, part in enumerate(subtomogram):
        y, x = (n + 1) * (i // columns), (n + 1) * (i % columns)
        image[y : y + n, x : x + n] = part
    path.parent.mkdir(exist_ok=True)
    Image.fromarray(image if gap_at_the_end else image[:-1, :-1]).save(path)
    return path


def sparse(path, xyz, mode, voxels=()):
    """A sparse MRC file, which needs no space on disk: zeros, except for `voxels`, (index, value)."""
    patch(patch(mrc(path, GOOD), 0, xyz), 12, mode)
    dtype = np.dtype(MODES[mode])
    with path.open("r+b") as file:
        file.truncate(1024)
        file.truncate(1024 + int(np.prod(xyz)) * dtype.itemsize)
        for index, value in voxels:
            file.seek(1024 + index * dtype.itemsize)
            file.write(np.array(value, dtype).tobytes())
    return path
