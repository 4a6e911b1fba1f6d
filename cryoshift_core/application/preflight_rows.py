"""The rows of a check of the input: each function makes one, from what `preflight_input.Given` reads."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy import spatial, stats

from data_fetch import readers
from data_fetch.readers import evidence, mdoc, placement, positions, stacks, star, tomograms
from data_fetch.readers.evidence import Stated

from ..errors import InputError
from ..simulation import structures
from ..tomography import mrc
from . import adapted_to, pipeline, target_data
from .preflight_input import BOXES, Given

EMPTY, MASKED = 1e-3, 0.2  # s.d. of an empty region over the usual one; fraction of them that is worth a look
LOST = 0.1  # fraction of the rows
UNSURE, VISIBLE = 3.0, 4.0  # standard errors by which particles differ from what is beside them, at least
WIDE = 3.0  # edge of a box in diameters of the largest class, from which its neighbours fill it
NARROWER, WIDER = 22, 14  # degrees between the given tilt range and the measured one, which dose weighting narrows
FITS, BETTER = 0.6, 0.35  # correlation of radial profiles after stretching, and by how much it rises
LARGEST_DEFOCUS = 20.0  # um
SLOPE_OFF, FEWEST_DEFOCUS = 0.1, 20  # of the defocus along z, from 1; rows with a defocus
CANNOT_BE_TOLD = (
    "cannot be told from this input: mirror images have the same power, and neither .mdoc nor tilts say which way "
    "round the reconstruction took the tilt axis"
)
HAND_ADVICE = (
    "The classes do not depend on it at these voxel sizes. For averages, reconstruct a particle of known hand, or fit "
    "the defocus of tilted images (defocus hand) in the program that made the tomogram."
)
CLEAR = 6.0  # standard errors of a mean over particles, for the best of many places


@dataclass(frozen=True)
class Finding:
    """One row of the table: what was checked, "ok", "look" or "stop", what was found, and what to do."""

    check: str
    status: str
    found: str
    advice: str = ""


def _row(check: str, found: str, doubts: Iterable[str] = ()) -> Finding:
    """A row that says look where there are doubts, which are its advice."""
    advice = " ".join(doubts)
    return Finding(check, "look" if advice else "ok", found, advice)


def _tomogram(given: Given) -> Finding:
    volume = given.volume
    beam = tomograms.beam_warnings(volume)
    z, y, x = volume.data.shape
    nm = " x ".join(f"{n * volume.voxel_size / 10:.0f}" for n in (x, y, z))
    found = f"{Path(volume.path).name}: {x} x {y} x {z} voxels of {volume.voxel_size:.4g} A ({nm} nm)"
    return _row("tomogram", found, [sentence for sentence in volume.warnings if sentence not in beam])


def _subtomograms(given: Given) -> Finding:
    x = given.particles.subtomograms
    assert x is not None  # readers of subtomograms always read them
    found = f"{Path(given.subtomograms).name}: {len(x)} of {x.shape[-1]}^3 voxels of {given.particles.voxel_size:.4g} A"
    return _row("subtomograms", found, given.particles.warnings)


def _pixel_size(given: Given) -> Finding:
    """All pixel sizes side by side; those of the volume itself must agree."""
    path = Path(given.tomogram or given.subtomograms).expanduser()
    used = given.volume.voxel_size if given.tomogram else given.particles.voxel_size
    own = evidence.in_names(path)
    if stacks.ending(path).split(".")[1] in ("mrc", "mrcs", "rec", "map", "st"):
        own.insert(0, Stated(float(np.mean(mrc.read_header(path).steps[:2])), "its header"))
    elif given.tomogram and given.voxel_size and path.suffix != ".zarr":  # in a Zarr, it selects a level
        own.insert(0, Stated(readers.read_tomogram(path).voxel_size, "the file"))
    images = star.stated(given.coordinates) if given.coordinates.endswith(".star") else []
    images += evidence.in_names(given.coordinates) if given.coordinates else []
    file = mdoc.beside(path) if given.tomogram else None
    series = None if file is None else mdoc.read_mdoc(file)
    doubts = [
        f"{stated.where} says {stated.value:.4g} A, but {used:.4g} A is used: check which is right."
        for stated in own
        if evidence.is_stated(stated.value) and not evidence.same(stated.value, used)
    ]
    if series is not None and series.pixel_size:
        images.append(Stated(series.pixel_size, f"{file.name} (images)"))  # type: ignore[union-attr]
        if used < series.pixel_size * (1 - evidence.TOLERANCE):
            doubts.append(f"A tomogram is not finer than its images, which have {series.pixel_size:.4g} A.")
    given_one = [Stated(given.voxel_size, "pixel_size, as given")] if given.voxel_size else []
    shown = "; ".join(f"{one.value:.4g} A in {one.where}" for one in [*given_one, *own, *images])
    return _row("pixel size", f"{used:.4g} A is used: {shown or 'from the file'}", doubts)


def _beam(given: Given) -> Finding:
    z, y, x = given.volume.data.shape
    thinnest = "zyx"[int(np.argmin((z, y, x)))]
    return _row("beam axis", f"the tomogram is thinnest along {thinnest}", tomograms.beam_warnings(given.volume))


def empty_fraction(data: np.ndarray) -> float:
    """Fraction of the squares of 8 x 8 voxels, in 32 planes at most, in which a tomogram (Z, Y, X) hardly varies."""
    planes = np.linspace(0, len(data) - 1, min(32, len(data))).round().astype(int)
    spread = []
    for z in planes:
        plane = np.asarray(data[z], np.float32)
        rows, columns = plane.shape[0] // 8 * 8, plane.shape[1] // 8 * 8
        spread.append(plane[:rows, :columns].reshape(rows // 8, 8, columns // 8, 8).std((1, 3)).ravel())
    values = np.concatenate(spread)
    return float((values <= EMPTY * np.median(values[values > 0])).mean()) if (values > 0).any() else 1.0


def _empty(given: Given) -> Finding:
    fraction = empty_fraction(given.volume.data)
    advice = [f"{fraction:.0%} of the tomogram is masked or empty; positions there are not classified."]
    return _row("empty regions", f"{fraction:.0%} of the tomogram", advice if fraction > MASKED else [])


def _contrast(given: Given) -> Finding:
    guess, sign = given.guess, target_data.choose_contrast(given.contrast, given.guess)
    found = f"taken as protein {sign} (asked: {given.contrast}); the grey values indicate {guess.sign}: {guess.why}"
    doubts = target_data.contrast_warnings(sign, guess)
    if given.centre:
        errors = given.centre.over_faces
        found += f"; the average particle's centre is denser than its surroundings by {errors:.1f} standard errors"
        if errors > CLEAR and guess.sign == "unsure":
            doubts = []
        if errors < -CLEAR:
            other = "bright" if sign == "dark" else "dark"
            doubts.append(f"The particles are {other}: set contrast to {other}, if the positions are right.")
    return _row("contrast", found, doubts)


def _classes(given: Given) -> Finding:
    return _row("classes", "; ".join(map(structures.describe, given.names)), structures.warnings(given.names))


def _box(given: Given) -> Finding:
    size = given.volume.voxel_size if given.tomogram else given.particles.voxel_size
    box = given.box
    if given.subtomograms:
        assert given.particles.subtomograms is not None  # readers of subtomograms always read them
        box = given.particles.subtomograms.shape[-1]
    n, voxel_size = target_data.choose_box(given.names, size, box)
    largest = max(map(structures.diameter, given.names))
    found = f"{n} voxels of {voxel_size:.4g} A ({n * voxel_size:.0f} A wide)"
    found += f", the largest class has a diameter of {largest:.0f} A" if largest else ""
    wide = box and largest and n * voxel_size > WIDE * largest and n > target_data.SMALLEST
    advice = f"The box is {n * voxel_size / largest:.1f} times as wide as the largest class" if wide else ""
    return _row("box", found, [f"{advice}: neighbours fill it. Set a smaller box, or 0."] if wide else [])


def _positions(given: Given) -> Finding:
    particles, volume = given.particles, given.volume
    assert particles.zyx is not None  # readers of positions always give them
    zyx = np.delete(particles.zyx, list(particles.bad), axis=0)
    ends = [f"{a} {low:.0f} to {high:.0f}" for a, low, high in zip("zyx", zyx.min(0), zyx.max(0), strict=True)][::-1]
    errors = placement.contrast_at(volume, zyx, np.random.default_rng(given.seed))
    found = (
        f"{Path(given.coordinates).name}: {len(particles)} rows, voxels {', '.join(ends)}; the density at them differs "
        f"from that beside them by {errors:.1f} standard errors"
    )
    doubts = list(particles.warnings)
    if not doubts and errors < UNSURE and given.centre and abs(given.centre.over_faces) < VISIBLE:
        doubts = ["The density at the positions is as beside them: check that they belong to this tomogram."]
    return _row("positions", found, doubts)


def _z_flip(given: Given) -> Finding | None:
    """Whether the list counts z from the other end than the tomogram; told by the average particle."""
    if given.centre is None:
        return None
    as_read, mirrored = given.centre.over_faces, given.mirrored
    found = f"the average particle is denser than its surroundings by {as_read:.1f} standard errors"
    found += f", with z mirrored by {mirrored:.1f}"
    if mirrored > CLEAR and mirrored > 3 * abs(as_read):
        return Finding("z flip", "look", found, "z is counted from the other end: give the list of the same tomogram.")
    if as_read > CLEAR and as_read > 1.5 * mirrored:
        return Finding("z flip", "ok", f"{found}: the list fits the tomogram as it is")
    advice = "Open the tomogram with the list in a viewer and look at one position near the top or bottom."
    return Finding("z flip", "ok", f"{found}: cannot be told", advice)


def _hand(given: Given) -> Finding:
    """What the list says of the hand; grey values at these voxel sizes do not tell it."""
    listed = given.coordinates or given.subtomograms
    table = given.particles.table if listed else {}
    for name in ("rlnTomoHand", "rlnTomoHandedness"):
        if name in table:
            return Finding(
                "hand", "ok", f"the list says {name} = {', '.join(sorted(set(table[name])))[:40]}; not checked"
            )
    slope = defocus_slope(given) if given.coordinates else None
    if slope is not None:
        value, error = slope
        found = f"defocus in the list changes by {value:.2f} +- {error:.2f} um for each um along z"
        if abs(value) > CLEAR * error and abs(abs(value) - 1) > max(3 * error, SLOPE_OFF):
            advice = "It should be 1 or -1: check the pixel size, or the list's unit."
            return Finding("hand", "look", found, advice)
        if abs(value) > CLEAR * error:
            sign = "+1" if value > 0 else "-1"
            return Finding("hand", "ok", f"{found}: the program that made the list took a defocus hand of {sign}")
    return Finding("hand", "ok", CANNOT_BE_TOLD, HAND_ADVICE)


def defocus_slope(given: Given) -> tuple[float, float] | None:
    """Change of the listed defocus with z, without unit, and its standard error; None where the list has none."""
    table, zyx = given.particles.table, given.particles.zyx
    if zyx is None or "rlnDefocusU" not in table:
        return None
    columns = [name for name in ("rlnDefocusU", "rlnDefocusV") if name in table]
    try:
        defocus = np.mean([[float(text) for text in table[name]] for name in columns], axis=0)
    except ValueError:
        return None
    z = zyx[:, 0] * given.volume.voxel_size
    good = np.isfinite(z) & np.isfinite(defocus)
    if good.sum() < FEWEST_DEFOCUS or np.ptp(z[good]) == 0 or np.ptp(defocus[good]) == 0:
        return None
    fit = stats.linregress(z[good], defocus[good])
    return float(fit.slope), max(float(fit.stderr), 1e-3)


def _name(given: Given) -> Finding | None:
    names = star.names_of(given.particles.table)
    if not names:
        return None
    own, listed = Path(given.volume.path).name, positions.name_of(names[0])
    advice = f"The list names '{listed[:40]}', the tomogram is {own}: check that they belong together."
    found = f"the list names '{listed[:40]}', the tomogram is {own}"
    return _row("tomogram's name", found, [] if positions.belongs(names[0], given.volume) else [advice])


def _centring(given: Given) -> Finding | None:
    if given.centre is None:
        return None
    errors, voxel_size = given.centre.over_centre, given.target.subtomograms.voxel_size
    z, y, x = given.centre.densest * voxel_size
    distance = float(np.linalg.norm((z, y, x)))
    off = errors > CLEAR and distance > max(2 * voxel_size, 0.2 * given.sizes[-1])
    advice = f"The average particle is densest at x, y, z = {x:.0f}, {y:.0f}, {z:.0f} A from the positions: shift them."
    found = f"the average particle is densest {distance:.0f} A from the centre ({errors:.1f} standard errors)"
    return _row("centring", found, [advice] if off else [])


def _duplicates(given: Given) -> Finding | None:
    if not given.sizes:
        return None
    assert given.particles.zyx is not None  # readers of positions always give them
    zyx = given.particles.zyx[np.isfinite(given.particles.zyx).all(1)] * given.volume.voxel_size
    limit = given.sizes[0] / 2
    n = len(spatial.cKDTree(zyx).query_pairs(limit))
    advice = ["Remove one of each pair: duplicates count twice in class fractions."] if n else []
    return _row("duplicates", f"{n} pairs closer than {limit:.0f} A, half the smallest diameter", advice)


def _number(given: Given) -> Finding:
    target, k = given.target, len(given.names)
    n = len(target.kept)
    doubts = target_data.class_fraction_warnings([1 / k] * k, given.names, n)
    if n < (1 - LOST) * len(target) or n < 100:
        doubts = target.of_number + doubts
    return _row("particles", f"{n} of {len(target)} are classified, {n / k:.0f} a class on average", doubts)


def _tilts(given: Given) -> Finding:
    if not 0 < given.tilt_range <= 90:
        raise InputError(f"Expected the largest tilt in degrees as tilt_range, 0 to 90, got {given.tilt_range:g}.")
    asked = f"{given.tilt_range:g} degrees about an axis at {given.tilt_axis:g} as given"
    doubts = pipeline.tilt_warnings(given.tomogram, given.tilt_range, given.tilt_axis)
    wedge = given.wedge
    if wedge is None:
        return _row("tilts", f"{asked}; the data show no missing wedge, or are too few", doubts)
    doubts += pipeline.tilt_axis_warnings(wedge, given.tilt_axis)
    largest = max(-wedge.low, wedge.high)
    if not doubts and not -WIDER <= given.tilt_range - largest <= NARROWER:
        doubts = [f"The missing wedge shows tilts up to {largest:.0f} degrees, tilt_range is {given.tilt_range:g}."]
    found = f"{wedge.low:.0f} to {wedge.high:.0f} degrees about an axis at {wedge.tilt_axis:.0f} in the data"
    return _row("tilts", f"{asked}; {found}", doubts)


def _defocus(given: Given) -> Finding:
    value = given.defocus
    if abs(value) > LARGEST_DEFOCUS:
        raise InputError(
            f"Expected a defocus in um, such as 3, got {value:g}: give {value / 1e4:g} if that is in A, "
            f"{value / 1e3:g} if it is in nm."
        )
    advice = [f"Underfocus is positive: set {-value:g} if that is meant."] if value < 0 else []
    return _row("defocus", f"{value:g} um", advice)


def _background(given: Given) -> Finding:
    if given.subtomograms and not given.background:
        return _row("background", "none was given: the accuracy will not be estimated on spike-ins")
    _ = given.target  # whose errors are not those of the background
    try:
        boxes = given.boxes
    except InputError as problem:
        if given.background:
            raise
        return _row("background", "no particle-free boxes", [str(problem)])
    train = 0 if boxes.train is None else len(boxes.train)
    found = f"{len(boxes.spike_ins)} particle-free boxes to measure the accuracy with, {train} to train with"
    return _row("background", f"{found} ({BOXES} are asked for)")


def _size(given: Given) -> Finding:
    simulated, model = given.simulated, given.target.subtomograms
    if given.centre is None:
        return _row("particle size", "not compared: no positions, few particles, or a class without a diameter")
    scale, fit, as_given = target_data.apparent_scale(simulated, given.some)
    found = f"the average particle is {scale:.2f} times as wide as the simulated one (correlation {fit:.2f})"
    doubts = target_data.voxel_size_warnings(simulated, given.some, model.voxel_size, given.names)
    if not doubts and fit > FITS and fit - as_given > BETTER and not 0.77 < scale < 1.3:
        doubts = [f"It correlates at {as_given:.2f} before stretching: check the pixel size, and the structures."]
    return _row("particle size", found, doubts)


def of_model(given: Given) -> list[Finding]:
    """Rows that compare the input with what a saved model was adapted to; the last one says how far away it is."""
    model, name = given.saved, given.target.subtomograms.name
    seeds = f", {len(model.each)} training seeds" if model.members else ""
    knows = f"{Path(given.model).name}: {', '.join(model.classes)}; adapted to {model.recipe.get('adapted_to') or '?'}"
    rows = [Finding("model", "ok", knows + seeds)]
    found = adapted_to.differences(model, given.target, given.unlabelled)
    found.append(adapted_to.distance(model, model.predict(given.unlabelled), name))
    for one in found:
        status = "stop" if one.stop else "look" if one.advice else "ok"
        rows.append(Finding(f"model: {one.what}", status, one.found, one.advice))
    return rows


Check = Callable[[Given], Finding | None]
OF_TOMOGRAM: dict[str, Check] = {"tomogram": _tomogram, "beam axis": _beam, "empty regions": _empty}
OF_SUBTOMOGRAMS: dict[str, Check] = {"subtomograms": _subtomograms}
OF_POSITIONS: dict[str, Check] = {
    "positions": _positions,
    "z flip": _z_flip,
    "tomogram's name": _name,
    "duplicates": _duplicates,
}
OF_ALL: dict[str, Check] = {
    "pixel size": _pixel_size,
    "classes": _classes,
    "box": _box,
    "contrast": _contrast,
    "particles": _number,
    "centring": _centring,
    "tilts": _tilts,
    "hand": _hand,
    "defocus": _defocus,
    "background": _background,
    "particle size": _size,
}
TRAINED = ("classes", "box", "defocus", "background", "particle size")  # rows that a saved model has no use for
