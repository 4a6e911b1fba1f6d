"""Tilt series as SerialEM describes them in a .mdoc file: tilts, tilt axis, dose."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from cryoshift_core.errors import InputError

from .positions import read_text

LARGEST = 1 << 24  # bytes; an image takes about 1 kB
AXIS = re.compile(r"tilt axis angle\s*=\s*(-?\d+(?:\.\d+)?)", re.I)
SECTION = re.compile(r"\[(?:ZValue|FrameSet)\s*=\s*\d+\]")


@dataclass(frozen=True, eq=False)
class TiltSeries:
    """What a .mdoc says about a tilt series.

    Attributes
    ----------
    tilts : (N,) degrees, in the order of the file
    tilt_axis : degrees from the y axis of the *images*; None if the file has no "Tilt axis angle". Reconstruction
        programs rotate the images, so that the axis of a tomogram is usually y
    dose : electrons per A^2 of all images together; None unless each image states its own
    pixel_size : A per pixel of the images; None if the file has none
    """

    tilts: np.ndarray
    tilt_axis: float | None
    dose: float | None
    pixel_size: float | None

    def __len__(self) -> int:
        return len(self.tilts)


def _number(path: str | Path, name: str, text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = np.nan
    if not np.isfinite(value):
        raise InputError(f"{path}: {name} is {text[:40]!r}; expected a number: correct it.")
    return value


def read_mdoc(path: str | Path) -> TiltSeries:
    """Tilts, tilt axis and dose of a tilt series from SerialEM's .mdoc: "name = value" lines, a section an image.

    Raises
    ------
    InputError
        Missing, too large, not text, no image with a TiltAngle, or values that are not numbers.
    """
    head, *sections = SECTION.split(read_text(path, "SerialEM's .mdoc", LARGEST))

    def values(text: str) -> dict[str, str]:
        pairs = (line.partition("=") for line in text.splitlines() if "=" in line and line[:1] != "[")
        return {name.strip(): value.strip() for name, _, value in pairs}

    images = [values(section) for section in sections]
    if not images or any("TiltAngle" not in image for image in images):
        raise InputError(f"{path}: expected SerialEM's .mdoc, with a TiltAngle for each image; check the file.")
    tilts = [_number(path, "TiltAngle", image["TiltAngle"]) for image in images]
    doses = [_number(path, "ExposureDose", image.get("ExposureDose", "0")) for image in images]
    pixel = _number(path, "PixelSpacing", values(head).get("PixelSpacing", images[0].get("PixelSpacing", "0")))
    axis = AXIS.search(head)
    return TiltSeries(
        np.array(tilts), float(axis[1]) if axis else None, sum(doses) if min(doses) > 0 else None, pixel or None
    )


def beside(path: str | Path) -> Path | None:
    """The .mdoc of a tomogram or a tilt series: TS_1.mrc.mdoc, TS_1.st.mdoc or TS_1.mdoc beside it; None without one.

    TS_1 may be followed by more, as in TS_1_rec.mrc and TS_1_10.00Apx.mrc, or come after "rec_".
    """
    path = Path(path)
    stem = path.name.removesuffix(".gz")
    stem = stem[: -len(Path(stem).suffix)] if Path(stem).suffix else stem
    stems = dict.fromkeys((stem, re.sub(r"^rec_|(_rec|_full_rec|_\d+(\.\d+)?Apx)$", "", stem)))
    names = [f"{path.name}.mdoc", *(f"{s}{ending}.mdoc" for s in stems for ending in ("", ".mrc", ".st"))]
    return next((path.parent / name for name in names if (path.parent / name).is_file()), None)


def tilt_warnings(path: str | Path, series: TiltSeries, tilt_range: float, tilt_axis: float) -> list[str]:
    """Sentences where a .mdoc contradicts the given largest tilt, or a given tilt axis, by more than 5 degrees.

    Parameters
    ----------
    path : of the .mdoc, for the sentences
    tilt_range : degrees
    tilt_axis : degrees; 0, the axis of most reconstructions, contradicts nothing
    """
    out, largest = [], float(np.abs(series.tilts).max())
    if abs(largest - tilt_range) > 5:
        out.append(f"{path} has tilts up to {largest:.0f} degrees, tilt_range is {tilt_range:g}; set {largest:.0f}.")
    axis = series.tilt_axis
    if tilt_axis and axis is not None and all(5 < (tilt_axis - angle) % 180 < 175 for angle in (axis, -axis)):
        out.append(
            f"{path} has a tilt axis at {axis:g} degrees counterclockwise from y, tilt_axis is {tilt_axis:g}; set 0 if "
            "the tomogram's tilt axis is y."
        )
    return out
