"""Small files in the field's formats, sound or broken, and the check that an error is one helpful sentence."""

from pathlib import Path

import mrcfile
import numpy as np
import pytest
from PIL import Image

from cryoshift_core.errors import InputError
from cryoshift_core.tomography.mrc import MODES, write_mrc

ROOT = Path(__file__).parents[2]
GOOD = np.random.default_rng(0).normal(size=(8, 8, 8)).astype(np.float32)
RNG = np.random.default_rng(0)
VOLUME = RNG.normal(size=(6, 7, 8)).astype(np.float32)
CUBES = RNG.normal(size=(3, 8, 8, 8)).astype(np.float32)


def says(call, *words):
    """`call` raises InputError in one line, one sentence, with all `words` in it."""
    with pytest.raises(InputError) as caught:
        call()
    message = str(caught.value)
    assert "\n" not in message and message.endswith(".") and len(message) < 500
    assert not [word for word in words if str(word) not in message], message


def mrc(path, data=GOOD, voxel_size=10.0, **header):
    write_mrc(path, data, voxel_size)
    if header:
        with mrcfile.open(path, "r+", permissive=True) as file:
            for name, value in header.items():
                file.header[name] = value
    return path


def patch(path, offset, value, dtype="<i4"):
    raw = bytearray(path.read_bytes())
    value = np.asarray(value, dtype).tobytes()
    raw[offset : offset + len(value)] = value
    path.write_bytes(raw)
    return path


def em(path, data=VOLUME, voxel_size=10.0):
    import emfile

    emfile.write(path, data, overwrite=True)
    return patch(path, 96 + 4 * 6, round(1000 * voxel_size))  # emfile misplaces parameters it is given


def hdf(path, images=(VOLUME,), apix=10.0, **attributes):
    import h5py

    path.unlink(missing_ok=True)  # HDF5 doesn't write over a file that a volume still has open
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


def cube_of(n, dtype=np.uint16):
    return RNG.integers(1, np.iinfo(dtype).max, size=(n, n, n)).astype(dtype)


def png(path, cube, columns, rows, gap_at_the_end=True):
    """Slices side by side, each followed by a gap of one pixel, as AITom's cub_img draws them."""
    n = len(cube)
    image = np.zeros((rows * (n + 1), columns * (n + 1)), cube.dtype)
    for i, part in enumerate(cube):
        y, x = (n + 1) * (i // columns), (n + 1) * (i % columns)
        image[y : y + n, x : x + n] = part
    path.parent.mkdir(exist_ok=True)
    Image.fromarray(image if gap_at_the_end else image[:-1, :-1]).save(path)
    return path


def sparse(path, xyz, mode, voxels=()):
    """An MRC file that takes no room on disk: zeros but for `voxels`, (index, value)."""
    patch(patch(mrc(path, GOOD), 0, xyz), 12, mode)
    dtype = np.dtype(MODES[mode])
    with path.open("r+b") as file:
        file.truncate(1024)
        file.truncate(1024 + int(np.prod(xyz)) * dtype.itemsize)
        for index, value in voxels:
            file.seek(1024 + index * dtype.itemsize)
            file.write(np.array(value, dtype).tobytes())
    return path
