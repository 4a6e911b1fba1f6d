"""Subtomograms as PNG montages: the slices of one cube, side by side in a grid.

AITom draws a cube of n^3 voxels as n slices of n x n pixels, row by row, with a gap of one pixel after each
(aitom.image.vol.util.cub_img), on a grey scale of its own per cube. A PNG has no pixel size: it must be given. Nor has
it axes: slices are taken as z, rows as y and columns as x; where they were drawn with x and y swapped, the cubes are
mirror images.
"""

from __future__ import annotations

import io
import struct
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from cryoshift_core.errors import InputError
from cryoshift_core.tomography.mrc import check_values, checked_voxel_size

SIGNATURE, END = b"\x89PNG\r\n\x1a\n", b"\0\0\0\0IEND\xaeB`\x82"
LARGEST_FILE = 1 << 24  # bytes; the montages have some 100 kB
DAMAGE = (OSError, SyntaxError, ValueError, EOFError, struct.error, zlib.error)  # what Pillow raises


@dataclass(frozen=True)
class Layout:
    """A grid of `rows` x `columns` cells of `edge` + 1 pixels, of which the first `edge` hold a slice of `edge`^2.

    The first `edge` cells are used, row by row. Of each cell the last row and column, the gap, is dropped, so that
    cubes of `edge`^3 remain; the image may lack the gap at its right and bottom.
    """

    name: str
    rows: int
    columns: int
    edge: int

    def fits(self, width: int, height: int) -> bool:
        whole = (self.columns * (self.edge + 1), self.rows * (self.edge + 1))
        return (width, height) in (whole, (whole[0] - 1, whole[1] - 1))

    def cube(self, pixels: np.ndarray) -> np.ndarray:
        """(height, width) -> (edge, edge, edge) zyx."""
        cell = self.edge + 1
        gaps = [(0, n * cell - size) for n, size in zip((self.rows, self.columns), pixels.shape, strict=True)]
        cells = np.pad(pixels, gaps).reshape(self.rows, cell, self.columns, cell).swapaxes(1, 2)
        return cells.reshape(-1, cell, cell)[: self.edge, : self.edge, : self.edge]


LAYOUTS = (
    Layout("Noble et al. 2018, 7 classes", 5, 6, 28),  # 174 x 145 pixels
    Layout("Guo et al. 2018, 6 classes", 7, 7, 40),  # 287 x 287 pixels
)


def _bare(raw: bytes) -> bytes | None:
    """Of a PNG only the header and the pixels; None if a chunk is longer than the file.

    Pillow takes memory for what any chunk says its length is, and takes a second header for the first.
    """
    found, at = {b"IHDR": [], b"IDAT": []}, 8
    while at < len(raw) and raw[at + 4 : at + 8] != b"IEND":
        end = at + 12 + int.from_bytes(raw[at : at + 4], "big")
        if end > len(raw):
            return None
        found.get(raw[at + 4 : at + 8], []).append(raw[at:end])
        at = end
    return b"".join([SIGNATURE, *found[b"IHDR"][:1], *found[b"IDAT"], END])


def read_montage(path: Path, voxel_size: float | None = None) -> tuple[np.ndarray, float]:
    """The cube of one PNG montage, (n, n, n) zyx in uint8 or uint16, and `voxel_size` in A, which must be given.

    Raises
    ------
    InputError
        Not a PNG in 8 or 16-bit grey of a size in `LAYOUTS` (checked before it is decoded), damaged, constant, or
        without a pixel size.
    """
    if not path.is_file():
        raise InputError(f"{path} is not a file; check the path.")
    if path.stat().st_size > LARGEST_FILE:
        raise InputError(f"{path} has {path.stat().st_size} bytes; wanted a montage of at most {LARGEST_FILE}.")
    raw = path.read_bytes()
    if len(raw) < 33 or raw[:8] != SIGNATURE or raw[12:16] != b"IHDR":
        raise InputError(f"{path} is not a PNG file; wanted a montage of slices.")
    width, height, depth, colour = struct.unpack(">IIBB", raw[16:26])
    layout = next((one for one in LAYOUTS if one.fits(width, height)), None)
    if layout is None:
        known = " or ".join(f"{o.columns * (o.edge + 1)} x {o.rows * (o.edge + 1)} ({o.name})" for o in LAYOUTS)
        raise InputError(f"{path} has {width} x {height} pixels; wanted a montage of {known}.")
    if colour != 0 or depth not in (8, 16):
        raise InputError(f"{path} is a PNG of colour type {colour} and {depth} bits; wanted grey of 8 or 16 bits.")
    size = checked_voxel_size(path, None, voxel_size)
    bare = _bare(raw)
    if bare is None:
        raise InputError(f"{path} is a damaged PNG (a chunk goes on behind its {len(raw)} bytes); copy it again.")
    try:
        with Image.open(io.BytesIO(bare), formats=["PNG"]) as image:
            pixels = np.asarray(image)
    except DAMAGE as error:
        raise InputError(f"{path} is a damaged PNG ({' '.join(str(error).split())[:100]}); copy it again.") from error
    cube = layout.cube(pixels)
    check_values(path, [cube])
    return cube, size
