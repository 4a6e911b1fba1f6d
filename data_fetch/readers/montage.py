"""Subtomograms from PNG montages: the slices of one subtomogram, side by side in a grid.

AITom draws a subtomogram of n^3 voxels as n slices of n x n pixels, row by row, with a gap of one pixel after each
(aitom.image.vol.util.cub_img), each on its own grey scale. A PNG has no voxel size: it must be given. It has no axes
either: slices are read as z, rows as y and columns as x. If they were drawn with x and y swapped, the subtomograms are
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
from cryoshift_core.tomography.checks import check_file, check_values

from . import evidence

SIGNATURE, END = b"\x89PNG\r\n\x1a\n", b"\0\0\0\0IEND\xaeB`\x82"
LARGEST_FILE = 1 << 24  # bytes; montages have about 100 kB
DAMAGE = (OSError, SyntaxError, ValueError, EOFError, struct.error, zlib.error)  # exceptions of Pillow on damaged files


@dataclass(frozen=True)
class Layout:
    """A grid of `rows` x `columns` cells of `edge` + 1 pixels; each holds a slice of `edge` x `edge` pixels and a gap.

    The first `edge` cells are used, row by row. The last row and column of each cell, the gap, are dropped. The image
    may lack the gap at its right and bottom.
    """

    name: str
    rows: int
    columns: int
    edge: int

    def fits(self, width: int, height: int) -> bool:
        """Whether an image of this size has this layout."""
        whole = (self.columns * (self.edge + 1), self.rows * (self.edge + 1))
        return (width, height) in (whole, (whole[0] - 1, whole[1] - 1))

    def subtomogram(self, pixels: np.ndarray) -> np.ndarray:
        """Subtomogram (edge, edge, edge) zyx of an image (height, width)."""
        cell = self.edge + 1
        gaps = [(0, n * cell - size) for n, size in zip((self.rows, self.columns), pixels.shape, strict=True)]
        cells = np.pad(pixels, gaps).reshape(self.rows, cell, self.columns, cell).swapaxes(1, 2)
        return cells.reshape(-1, cell, cell)[: self.edge, : self.edge, : self.edge]


LAYOUTS = (
    Layout("Noble et al. 2018, 7 classes", 5, 6, 28),  # 174 x 145 pixels
    Layout("Guo et al. 2018, 6 classes", 7, 7, 40),  # 287 x 287 pixels
)


def _bare(raw: bytes) -> bytes | None:
    """A PNG reduced to its header and pixels; None if a chunk is longer than the file.

    This is safer, because Pillow allocates the claimed length of any chunk, and lets a second header replace the first.
    """
    found: dict[bytes, list[bytes]] = {b"IHDR": [], b"IDAT": []}
    at = 8
    while at < len(raw) and raw[at + 4 : at + 8] != b"IEND":
        end = at + 12 + int.from_bytes(raw[at : at + 4], "big")
        if end > len(raw):
            return None
        found.get(raw[at + 4 : at + 8], []).append(raw[at:end])
        at = end
    return b"".join([SIGNATURE, *found[b"IHDR"][:1], *found[b"IDAT"], END])


def read_montage(path: Path, voxel_size: float | None = None) -> tuple[np.ndarray, float]:
    """The subtomogram of one PNG montage, (n, n, n) zyx in uint8 or uint16, and its voxel size in A.

    Parameters
    ----------
    voxel_size : A; required, because a PNG has none

    Raises
    ------
    InputError
        Not a PNG in 8 or 16-bit grey of a size in `LAYOUTS` (checked before it is decoded), damaged, constant, or
        without a voxel size.
    """
    check_file(path)
    if path.stat().st_size > LARGEST_FILE:
        raise InputError(
            f"{path} has {path.stat().st_size} bytes; expected a montage of at most {LARGEST_FILE}: check the file."
        )
    raw = path.read_bytes()
    if len(raw) < 33 or raw[:8] != SIGNATURE or raw[12:16] != b"IHDR":
        raise InputError(f"{path} is not a PNG file; expected a montage of slices: check the file.")
    width, height, depth, colour = struct.unpack(">IIBB", raw[16:26])
    layout = next((one for one in LAYOUTS if one.fits(width, height)), None)
    if layout is None:
        known = " or ".join(f"{o.columns * (o.edge + 1)} x {o.rows * (o.edge + 1)} ({o.name})" for o in LAYOUTS)
        raise InputError(f"{path} has {width} x {height} pixels; expected a montage of {known}: draw it with AITom.")
    if colour != 0 or depth not in (8, 16):
        raise InputError(
            f"{path} is a PNG of colour type {colour} and {depth} bits; expected grey of 8 or 16 bits: convert it."
        )
    size = evidence.voxel_size(path, None, voxel_size)
    bare = _bare(raw)
    if bare is None:
        raise InputError(f"{path} is a damaged PNG (a chunk continues after its {len(raw)} bytes); copy it again.")
    try:
        with Image.open(io.BytesIO(bare), formats=["PNG"]) as image:
            pixels = np.asarray(image)
    except DAMAGE as error:
        raise InputError(f"{path} is a damaged PNG ({' '.join(str(error).split())[:100]}); copy it again.") from error
    subtomogram = layout.subtomogram(pixels)
    check_values(path, [subtomogram])
    return subtomogram, size
