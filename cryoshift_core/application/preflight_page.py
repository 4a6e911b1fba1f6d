"""The page preflight.html: the rows of the checks, with a picture where one shows what was found."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure

from ..errors import InputError
from ..support import runtime
from . import pictures, report, target_data
from .preflight_input import Given
from .preflight_rows import Finding

Picture = tuple[Figure, str]  # with its caption


def _sections(given: Given) -> Picture | None:
    if not given.tomogram:
        return None
    zyx = given.particles.zyx if given.coordinates else None
    zyx = None if zyx is None else zyx[np.isfinite(zyx).all(1)]
    fig = pictures.tomogram(given.volume.data, zyx, None, given.volume.voxel_size)
    return (
        fig,
        "Sections of the tomogram, grey values as in the file. Dots are positions within one voxel of the section.",
    )


def _positions(given: Given) -> Picture | None:
    if not (given.tomogram and given.coordinates):
        return None
    zyx = given.target.particles.zyx
    assert zyx is not None  # those of a tomogram have positions
    kept = given.target.kept
    some = kept[np.linspace(0, len(kept) - 1, min(3, len(kept))).round().astype(int)]
    fig, axes = plt.subplots(len(some), 3, figsize=(9, 3 * len(some)), squeeze=False, layout="constrained")
    for line, index in zip(axes, some, strict=True):
        pictures.orthoslices(line, given.volume.data, zyx[np.isfinite(zyx).all(1)], zyx[index])
    return fig, "Sections through three positions. The lines should point at a particle in all three sections."


def _particles(given: Given) -> Picture | None:
    x = given.some
    some = x[np.linspace(0, len(x) - 1, min(8, len(x))).round().astype(int).tolist()]
    rows = {"xy": some, "xz": some.transpose(2, 3)}
    fig = pictures.gallery(rows, [""] * len(some))
    return fig, "Central sections of some subtomograms, as the network gets them: protein should be bright."


def _background(given: Given) -> Picture | None:
    boxes = given.boxes.spike_ins[:8]
    fig = pictures.gallery({"xy": boxes, "xz": boxes.transpose(2, 3)}, [""] * len(boxes))
    return fig, "Boxes that were taken to be free of particles: they should look empty."


def _profiles(given: Given) -> Picture | None:
    if given.centre is None:
        return None
    fig, ax = plt.subplots(figsize=(4.6, 2.6), layout="constrained")
    for name, x, style in (("source", given.simulated, "--"), ("target", given.some, "-")):
        profile = target_data.radial_profile(x).numpy()
        radius = np.arange(len(profile)) * given.target.subtomograms.voxel_size
        label = {"source": "simulated", "target": "your data"}[name]
        ax.plot(radius, profile, style, color=pictures.COLOURS[name], marker="o", ms=3, label=label)
    ax.set(xlabel="distance from the centre (Å)", ylabel="mean grey value (robust s.d.)")
    ax.legend()
    return fig, "Radial profiles of the average subtomograms: they should fall at the same distance."


PICTURES: dict[str, Callable[[Given], Picture | None]] = {
    "tomogram": _sections,
    "positions": _positions,
    "contrast": _particles,
    "background": _background,
    "particle size": _profiles,
}


def write(path: Path, given: Given, findings: Sequence[Finding]) -> Path:
    """Path of the page, one file that contains its pictures and needs no network and no script."""
    drawn: dict[str, tuple[str, str]] = {}
    with plt.rc_context():
        pictures.use_style()
        for check, draw in PICTURES.items():
            with suppress(InputError):  # which a row says
                picture = draw(given)
                if picture is not None:
                    drawn[check] = (report.data_url(picture[0]), picture[1])
    page = report.page_template("preflight.html.jinja").render(
        name=Path(given.tomogram or given.subtomograms).name,
        findings=findings,
        counts={"ok": 0, "look": 0, "stop": 0} | Counter(finding.status for finding in findings),
        pictures=drawn,
    )
    return runtime.write_text(path, page)
