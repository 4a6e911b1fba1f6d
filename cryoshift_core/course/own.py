"""The input of notebooks 06 and 06b: the reader's own, or a tomogram that ships with the repository."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from scipy.spatial import cKDTree

import data_fetch
from data_fetch import readers

from ..application import preflight as checks
from ..application.job import Classification
from ..application.job import open as open_job
from ..application.pictures import use_style
from ..application.preflight import Preflight
from ..application.steps import Classes
from . import view3d
from .run import Run

LAMELLA, LAMELLA_CLASSES = "the shipped yeast lamella", ("ribosome_80S", "membrane", "ice")
VLP, VLP_CLASSES = "the shipped HIV-1 tomogram", ("membrane", "ice")


def inputs(run: Run, *, particles: bool = False) -> dict[str, Any]:
    """Keyword arguments of `cryoshift_core.open` from a notebook's parameters; without input, a shipped tomogram.

    Simulated data and fits are kept in the folders that the notebooks of a profile share.

    Parameters
    ----------
    particles : the shipped tomogram is that of HIV-1 particles, not the yeast lamella
    """
    use_style()
    taken = inspect.signature(open_job).parameters
    given = {name: value for name, value in run.params.model_dump().items() if name in run.declared}
    given["voxel_size"] = given.pop("pixel_size", 0.0)
    given = {name: value for name, value in given.items() if name in taken and name != "out_dir"}
    if not (given.get("subtomograms") or given.get("tomogram")):
        lamella, vlp = data_fetch.yeast_lamella(), data_fetch.sample()
        files = (vlp.tomogram, vlp.coordinates) if particles else (lamella.tomogram, lamella.positions)
        classes: Sequence[str] = VLP_CLASSES if particles else LAMELLA_CLASSES
        given |= {"tomogram": str(files[0]), "coordinates": str(files[1])}
        given["classes"] = given.get("classes") or ",".join(classes)
        print(f"no input was given: this is {VLP if particles else LAMELLA}, classes {given['classes']}")
    return given | {"keep": run.base}


def check(given: dict[str, Any]) -> Preflight:
    """The table of `cryoshift_core.preflight` for the arguments of :func:`inputs`."""
    taken = inspect.signature(checks.preflight).parameters
    return checks.preflight(**{name: value for name, value in given.items() if name in taken and name != "out_dir"})


def in_space(found: Classes) -> Figure | None:
    """The classes in the (first) tomogram as `view3d.picks` shows them; None, with a line, where there is none."""
    if not found.target.tomograms:
        print("These are extracted subtomograms: there are no positions to show in space.")
        return None
    one, best = found.target.tomograms[0], found.predictions.probabilities.argmax(1).numpy()
    mine = best[found.target.subtomograms.groups.numpy() == 0] if found.target.parts else best
    assert one.tomogram is not None and one.particles.zyx is not None  # as seen there
    volume, zyx = one.tomogram, one.particles.zyx[one.kept]
    return view3d.picks(zyx, mine, found.predictions.classes, volume.data.shape, volume.voxel_size)


def compare(result: Classification) -> str:
    """What the lists of the shipped lamella say of the predictions; for evaluation only, after everything is chosen."""
    files, volume = data_fetch.yeast_lamella(), result.target.tomogram
    if volume is None or not str(volume.path).endswith(str(files.tomogram)):
        return "The classes of these subtomograms are not known, so only spike-ins are scored. Check a few by eye."
    zyx = result.target.particles.zyx
    assert zyx is not None  # of positions in a tomogram
    classes, lines = result.predictions.classes, []
    called = result.predictions.probabilities.argmax(1).numpy()
    for path, what in (
        (files.ribosomes, "listed ribosomes"),
        (files.membrane, "positions on the membrane"),
        (files.cytosol, "random positions in the cytosol"),
    ):
        listed = readers.read_picks(path, volume).zyx
        rows = cKDTree(listed).query(zyx[result.target.kept])[0] < 0.01
        counts = np.bincount(called[rows], minlength=len(classes))
        shares = ", ".join(f"{n} {name}" for n, name in zip(counts, classes, strict=True))
        lines.append(f"{rows.sum()} {what}: {shares}")
    return "\n".join(lines)
