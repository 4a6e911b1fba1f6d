"""Headers of EM volumes, plain or gzipped; `mrc.read_data` reads the voxels."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ..errors import InputError
from .checks import check_claim
from .mrc import Header, read_start

EM_TYPES = {1: "i1", 2: "i2", 4: "i4", 5: "f4", 9: "f8"}


def read_em_header(path: Path) -> Header:
    """Header of an EM file (TOM, Dynamo, PyTom, NovaCTF); its claims are checked against the size of the file.

    The header has 512 bytes: machine (0, 3, 5: big-endian), two unused, type of the voxels; nx, ny, nz; 80 characters;
    40 integers, of which the 7th is the voxel size in 0.001 A, usually 0 (source: TOM toolbox, tom_emread).

    Raises
    ------
    InputError
        Missing, not EM, complex voxels, or truncated.
    """
    raw, held = read_start(path, 512)
    if len(raw) < 512 or raw[0] not in (0, 1, 2, 3, 5, 6):
        raise InputError(
            f"{path} is not an EM file: expected 512 bytes or more and a machine code of 0 to 6 first, got "
            f"{path.stat().st_size} bytes and {raw[:1].hex() or 'none'}; check the file."
        )
    if raw[3] not in EM_TYPES:
        known = ", ".join(map(str, EM_TYPES))
        raise InputError(f"{path} has EM type {raw[3]}; expected one of {known} (real numbers): convert it.")
    order = ">" if raw[0] in (0, 3, 5) else "<"
    dtype = np.dtype(order + EM_TYPES[raw[3]])
    nx, ny, nz = (int(n) for n in np.frombuffer(raw, order + "i4", 3, 4))
    check_claim(path, (nx, ny, nz), 512 + nx * ny * nz * dtype.itemsize, held)
    voxel_size = int(np.frombuffer(raw, order + "i4", 7, 96)[6]) / 1000
    return Header((nz, ny, nx), dtype, 512, (voxel_size,) * 3)
