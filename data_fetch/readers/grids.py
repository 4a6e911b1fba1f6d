"""Volumes in EMAN2's HDF5 and OME-Zarr."""

from __future__ import annotations

import contextlib
import importlib
import itertools
import json
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, cast

import numpy as np

from cryoshift_core.errors import InputError
from cryoshift_core.tomography.checks import check_file, check_fits, check_values
from cryoshift_core.tomography.em import read_em_header
from cryoshift_core.tomography.mrc import read_data
from cryoshift_core.tomography.volumes import Volume

from . import evidence

# HDF5 and Zarr do not store chunks of one value; a file may claim at most this many bytes per stored byte.
MOST_EXPANSION = 1000
LARGEST_JSON = 1 << 24  # bytes
HDF_FILTERS = {1: "deflate", 2: "shuffle", 3: "fletcher32", 4: "szip", 5: "nbit", 6: "scaleoffset", 32000: "lzf"}
ZARR_CODECS = {"blosc", "bytes", "bz2", "crc32", "crc32c", "delta", "gzip", "lz4", "lzma", "sharding_indexed",
               "shuffle", "transpose", "zlib", "zstd"}  # fmt: skip
ANGSTROM = {"angstrom": 1.0, "nanometer": 10.0, "micrometer": 1e4}
# Exceptions of h5py, zarr and their decompressors on damaged files.
DAMAGE = (OSError, RuntimeError, ValueError, TypeError, KeyError, EOFError, OverflowError, MemoryError, zlib.error)


@dataclass(frozen=True)
class OnDisk:
    """Voxels (Z, Y, X) on disk, read as float32 when they are sliced.

    Attributes
    ----------
    source : array of h5py or zarr; axes before the last three have length 1
    slope, offset : grey value = slope * stored value + offset
    """

    source: Any
    slope: float = 1.0
    offset: float = 0.0
    dtype = np.dtype(np.float32)
    ndim = 3

    @property
    def shape(self) -> tuple[int, int, int]:
        nz, ny, nx = (int(n) for n in self.source.shape[-3:])
        return nz, ny, nx

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, index) -> np.ndarray:
        index = index if isinstance(index, tuple) else (index,)
        stored = np.asarray(self.source[(0,) * (len(self.source.shape) - 3) + index], np.float32)
        return stored if (self.slope, self.offset) == (1, 0) else stored * np.float32(self.slope) + self.offset

    def __array__(self, dtype=None, copy=None) -> np.ndarray:
        return np.asarray(self[:], dtype)

    def blocks(self) -> Iterator[np.ndarray]:
        """Pieces of about 2^24 voxels that cover the volume; they follow the chunks on disk, so each is read once."""
        size = list((self.source.chunks or (1, 1, 1))[-3:])
        for axis in (2, 1, 0):
            fit = (1 << 24) // np.prod(size, dtype=object)
            size[axis] *= max(1, min(-(-self.shape[axis] // size[axis]), fit))
        starts = (range(0, n, step) for n, step in zip(self.shape, size, strict=True))
        for at in itertools.product(*starts):
            yield self[tuple(slice(a, a + step) for a, step in zip(at, size, strict=True))]


def _library(name: str, path: Path) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise InputError(
            f"{path} is read by the package {name}, which is not installed; pip install 'cryoshift-core[formats]'."
        ) from error


def _checked(path: Path, grid: OnDisk, stored: int, values: bool = True) -> OnDisk:
    """The grid, after its claims have been compared with the `stored` bytes and all its `values` have been read."""
    source = grid.source
    claimed = np.prod(source.shape, dtype=float) * source.dtype.itemsize
    if min(source.shape) < 1 or claimed > MOST_EXPANSION * stored:
        raise InputError(
            f"{path} claims {' x '.join(map(str, grid.shape[::-1]))} voxels, {claimed:.0f} bytes, but stores {stored}. "
            "The file is incomplete or damaged; copy it again."
        )
    check_fits(path, (source.chunks or (1,))[-3:])
    if not values:
        return grid
    try:
        check_values(path, grid.blocks())
    except InputError:
        raise
    except DAMAGE as error:
        raise _damaged(path, error) from error
    return grid


def _damaged(path: Path, error: Exception) -> InputError:
    what = " ".join(str(error).split())[:150].rstrip(".")
    return InputError(f"{path} cannot be read ({type(error).__name__}: {what}); copy or write it again.")


def read_em(path: str | Path, voxel_size: float | None = None, mmap: bool = False) -> Volume:
    """A tomogram from an EM file (8, 16, 32-bit integers, float, double; either byte order).

    Parameters and errors as in `read_mrc`. Most programs write a voxel size of 0: it must then be given.
    """
    path = Path(path)
    header = read_em_header(path)
    size = evidence.voxel_size(path, header.steps, voxel_size)
    return Volume(read_data(path, header, mmap), size, str(path))


def _attribute(node: Any, name: str) -> float | None:
    """A single number from the attributes of an EMAN2 image; None if there is none."""
    if name not in node.attrs:
        return None
    attribute = node.attrs.get_id(name)
    if attribute.shape not in ((), (1,)) or attribute.dtype.kind not in "iuf":
        return None
    return float(np.ravel(node.attrs[name])[0])


def _inside(h5py: ModuleType, path: Path, group: Any, name: str) -> Any:
    """The member `name` of a group. Links, for example to other files, are refused and not followed."""
    if not isinstance(group, h5py.Group) or not group.id.links.exists(name.encode()):
        raise InputError(f"{path} has no /MDF/images/<n>/image; expected EMAN2's HDF5: check the file.")
    if group.id.links.get_info(name.encode()).type != h5py.h5l.TYPE_HARD:
        raise InputError(f"{path}: {group.name}/{name} is a link; expected the data in this file: copy them into it.")
    return group[name]


def _image(h5py: ModuleType, path: Path, node: Any, check: bool) -> tuple[OnDisk, list[float] | None]:
    dataset = _inside(h5py, path, node, "image")
    if not isinstance(dataset, h5py.Dataset):
        raise InputError(f"{path}: {dataset.name} is not a dataset; expected EMAN2's HDF5: check the file.")
    layout = dataset.id.get_create_plist()
    if layout.get_external_count() or layout.get_layout() == h5py.h5d.VIRTUAL:
        raise InputError(
            f"{path}: {dataset.name} is stored in other files; expected the data in this file: copy them into it."
        )
    filters = [layout.get_filter(i)[0] for i in range(layout.get_nfilters())]
    odd = [number for number in filters if number not in HDF_FILTERS]
    if odd:
        known = ", ".join(HDF_FILTERS.values())
        raise InputError(f"{path} uses HDF5 filter {odd[0]}; expected {known} or none: write it with one of these.")
    if dataset.dtype.kind not in "iuf" or len(dataset.shape or ()) != 3:
        raise InputError(
            f"{path}: {dataset.name}: expected real numbers with axes z, y, x, got {dataset.dtype} of shape "
            f"{dataset.shape}; write it again."
        )
    apix = [step for axis in "xyz" if (step := _attribute(node, f"EMAN.apix_{axis}")) is not None]
    grid = OnDisk(dataset)
    bits, low, high = (_attribute(node, f"EMAN.stored_render{what}") for what in ("bits", "min", "max"))
    if bits and low is not None and high is not None:
        if not (1 <= bits <= 16 and np.isfinite([low, high]).all() and low < high):
            raise InputError(
                f"{path}: {node.name}: expected 1 to 16 bits and a finite range of grey values, got {bits:g} bits for "
                f"{low:g} to {high:g}; write the file again."
            )
        grid = OnDisk(dataset, (high - low) / (2 ** int(bits) - 1), low)
    stored = min(dataset.id.get_storage_size(), path.stat().st_size)
    return _checked(path, grid, stored, check), apix if len(apix) == 3 else None


def open_hdf(path: Path, check: bool = True) -> list[tuple[OnDisk, list[float] | None]]:
    """All images of an EMAN2 HDF5 file, in the order of their numbers, each with its steps x, y, z in A, or None.

    Images are /MDF/images/<n>/image with axes z, y, x. Attributes of their group are the voxel size EMAN.apix_x, _y, _z
    and, if grey values were rounded to few bits, EMAN.stored_renderbits, -min, -max (source: EMAN2, hdfio2.cpp).

    Parameters
    ----------
    check : False leaves the check of the values, which may be damaged, to the caller

    Raises
    ------
    InputError
        Not EMAN2's HDF5 or damaged; links, external or virtual storage, or filters that need a plugin.
    """
    h5py = _library("h5py", path)
    check_file(path)
    try:
        with contextlib.ExitStack() as on_failure:
            images = on_failure.enter_context(h5py.File(path, "r", locking="best-effort"))
            for name in ("MDF", "images"):
                images = _inside(h5py, path, images, name)
            if not isinstance(images, h5py.Group):
                raise InputError(f"{path} has no /MDF/images/<n>/image; expected EMAN2's HDF5: check the file.")
            names = sorted((name for name in images if name.isascii() and name.isdigit()), key=int)
            if not names:
                raise InputError(f"{path} holds no images; expected /MDF/images/0/image, as EMAN2 writes: check it.")
            found = [_image(h5py, path, _inside(h5py, path, images, name), check) for name in names]
            on_failure.pop_all()  # the file must stay open while its images are in use
            return found
    except InputError:
        raise
    except DAMAGE as error:
        raise _damaged(path, error) from error


def read_hdf(path: str | Path, voxel_size: float | None = None, mmap: bool = False) -> Volume:
    """A tomogram from EMAN2's HDF5 with one image; `data` is `OnDisk` with `mmap`, else an array.

    Parameters and errors as in `read_mrc` and `open_hdf`.
    """
    path = Path(path)
    images = open_hdf(path)
    if len(images) != 1:
        raise InputError(f"{path} holds {len(images)} images; expected one tomogram: give it as subtomograms.")
    grid, found = images[0]
    return _volume(path, grid, evidence.voxel_size(path, found, voxel_size), mmap)


def _volume(path: Path, grid: OnDisk, voxel_size: float, mmap: bool) -> Volume:
    if not mmap:
        check_fits(path, grid.shape)
    return Volume(cast(np.ndarray, grid) if mmap else np.asarray(grid), voxel_size, str(path))


def _json(path: Path) -> Any:
    if path.stat().st_size > LARGEST_JSON:
        raise InputError(
            f"{path} has {path.stat().st_size} bytes; expected metadata of at most {LARGEST_JSON}: copy it again."
        )
    try:
        return json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise _damaged(path, error) from error


def _scale(transformations: list[dict]) -> np.ndarray:
    scales = [np.array(t["scale"][-3:], float) for t in transformations if t["type"] == "scale"]
    return np.prod([np.ones(3), *scales], 0)


def _levels(folder: Path) -> list[tuple[str, np.ndarray | None]]:
    """Paths of the resolution levels, finest first, each with its steps in A along z, y, x (None without a unit)."""
    new, old = folder / "zarr.json", folder / ".zattrs"
    try:
        if new.is_file():
            multiscales = _json(new)["attributes"]["ome"]["multiscales"]
        elif old.is_file():
            multiscales = _json(old)["multiscales"]
        else:
            raise InputError(
                f"{folder} holds neither zarr.json nor .zattrs; expected an OME-Zarr image: check the path."
            )
        (image,) = multiscales
        axes = image["axes"]
        if [axis["name"] for axis in axes[-3:]] != ["z", "y", "x"]:
            names = [axis["name"] for axis in axes]
            raise InputError(f"{folder} has axes {names}; expected z, y, x as the last three: write it in this order.")
        unit = np.array([ANGSTROM.get(axis.get("unit"), np.nan) for axis in axes[-3:]])
        common = _scale(image.get("coordinateTransformations", [])) * unit
        levels = [(str(d["path"]), _scale(d["coordinateTransformations"]) * common) for d in image["datasets"]]
        return [(path, steps if np.isfinite(steps).all() else None) for path, steps in levels]
    except InputError:
        raise
    except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
        raise InputError(
            f"{folder} has no readable multiscales of one image ({type(error).__name__}: "
            f"{' '.join(str(error).split())[:80]}); expected OME-Zarr 0.4 or 0.5: write it again."
        ) from error


def _codecs(parts: Any) -> Iterator[str]:
    """Names of all codecs in the metadata of an array, including those inside shards."""
    for part in parts or []:
        if part:
            yield part if isinstance(part, str) else str(part.get("name", part.get("id")))
            inner = {} if isinstance(part, str) else part.get("configuration") or {}
            yield from _codecs([*inner.get("codecs", []), *inner.get("index_codecs", [])])


def _check_blosc(files: list[Path], largest: int) -> None:
    """Refuse chunks whose Blosc header does not fit the file or the array: numcodecs would read past their end."""
    for file in files:
        with file.open("rb") as chunk:
            head = chunk.read(16)
        size, (unpacked, packed) = file.stat().st_size, struct.unpack("<4xI4xI", head.ljust(16, b"\0"))
        if packed != size or unpacked > largest:
            raise InputError(
                f"{file}: expected a whole chunk of {size} bytes that unpacks to at most {largest}, got a header of "
                f"{packed} and {unpacked} bytes; copy it again."
            )


def _open_level(folder: Path, name: str) -> OnDisk:
    zarr = _library("zarr", folder)
    level = (folder / name).resolve()
    if not level.is_relative_to(folder.resolve()):
        raise InputError(
            f"{folder}: level '{name}' leads out of the folder; expected a path inside it: write it again."
        )
    if not level.is_dir():
        raise InputError(f"{folder} has no level '{name}', which its metadata lists; copy it again.")
    try:
        new, old = level / "zarr.json", level / ".zarray"
        about = _json(new if new.is_file() else old)
        codecs = list(_codecs(about["codecs"] if new.is_file() else [*(about["filters"] or []), about["compressor"]]))
        odd = sorted(set(codecs) - ZARR_CODECS)
        if odd:
            known = ", ".join(sorted(ZARR_CODECS))
            raise InputError(f"{folder} uses codec '{odd[0]}'; expected one of {known}: write it with one of these.")
        array = zarr.open_array(str(level), mode="r")
        if array.dtype.kind not in "iuf" or array.ndim < 3 or set(array.shape[:-3]) - {1}:
            raise InputError(
                f"{level}: expected real numbers on z, y, x, other axes of length 1, got {array.dtype} of shape "
                f"{array.shape}; write one channel and one time."
            )
        chunks = [file for file in level.rglob("*") if file.is_file() and file.name[0] != "." and file != new]
        if codecs[-1:] == ["blosc"] and "sharding_indexed" not in codecs:
            _check_blosc(chunks, int(np.prod(array.chunks, dtype=object)) * array.dtype.itemsize)
    except InputError:
        raise
    except (*DAMAGE, AttributeError) as error:
        raise _damaged(level, error) from error
    return _checked(level, OnDisk(array), sum(file.stat().st_size for file in chunks))


def read_zarr(path: str | Path, voxel_size: float | None = None, mmap: bool = False) -> Volume:
    """A tomogram from OME-Zarr 0.4 (Zarr 2) or 0.5 (Zarr 3); `data` is `OnDisk` with `mmap`, else an array.

    Voxel sizes are the scale of each level's coordinateTransformations in the unit of its axes, angstrom, nanometer or
    micrometer (source: OME-NGFF specification, multiscales).

    Parameters
    ----------
    path : folder of the image
    voxel_size : A per voxel. Selects the level within 1 % of it; without such a level, it overrides the voxel size of
        the finest level. 0 or None: the finest level with its own voxel size

    Raises
    ------
    InputError
        Metadata missing, paths that lead out of the folder, voxels not cubic, several channels or times, unknown codecs
        (which could run code), and as `read_mrc`.
    """
    path = Path(path)
    levels = _levels(path)
    if not levels:
        raise InputError(f"{path} lists no resolution levels; expected OME-Zarr 0.4 or 0.5: write it again.")
    sizes = np.array([np.nan if steps is None else steps.mean() for _, steps in levels])
    off = np.nan_to_num(np.abs(sizes / (voxel_size or np.nan) - 1), nan=np.inf)
    name, steps = levels[int(off.argmin()) if off.min() < 0.01 else 0]
    size = evidence.voxel_size(path, None if steps is None else steps[::-1].tolist(), voxel_size)
    return _volume(path, _open_level(path, name), size, mmap)
