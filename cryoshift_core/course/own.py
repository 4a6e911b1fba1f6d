"""The input of notebooks 06 and 06b: the reader's own, or a tomogram that ships with the repository."""

from __future__ import annotations

import inspect
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from scipy.spatial import cKDTree
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import data_fetch
from data_fetch import readers

from .. import models
from ..application import pipeline
from ..application import preflight as checks
from ..application.job import Classification, Job
from ..application.job import open as open_job
from ..application.pictures import use_style
from ..application.preflight import Preflight
from ..application.steps import Classes
from ..simulation import datasets
from ..simulation.datasets import DatasetConfig
from ..tomography import mrc
from . import view3d
from .run import Run

LAMELLA, LAMELLA_CLASSES = "the shipped yeast lamella", ("ribosome_80S", "membrane", "ice")
VLP, VLP_CLASSES = "the shipped HIV-1 tomogram", ("membrane", "ice")
PAGE_WIDTH = 84  # columns of a printed table; where they do not fit a page breaks its lines
MOST_ABSENT = 150  # simulated subtomograms of each class


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


def check(given: dict[str, Any]) -> str:
    """The table of `cryoshift_core.preflight` for the arguments of :func:`inputs`, as wide as a page of the site."""
    taken = inspect.signature(checks.preflight).parameters
    found = checks.preflight(**{name: value for name, value in given.items() if name in taken and name != "out_dir"})
    return checks.table(found.findings, PAGE_WIDTH)


def pixel_size_alarms(factor: float) -> dict[str, tuple[tuple[str, ...], str]]:
    """Case -> the rows on the pixel size that say "look", and a sentence: the lamella with a wrong pixel size.

    A: the parameter is wrong. B: the header is wrong. C: the header is wrong, and only ribosomes are given.

    Parameters
    ----------
    factor : the pixel size that is used over the true one
    """
    files = data_fetch.yeast_lamella()
    true = mrc.read_mrc(files.tomogram)
    about: dict[str, Any] = {"coordinates": str(files.positions), "classes": ",".join(LAMELLA_CLASSES)}
    alone = {"coordinates": str(files.ribosomes), "classes": f"{LAMELLA_CLASSES[0]},ice"}
    with tempfile.TemporaryDirectory() as folder:
        wrong = Path(folder) / Path(files.tomogram).name
        mrc.write_mrc(wrong, np.asarray(true.data), true.voxel_size * factor)
        cases = {
            "A": about | {"tomogram": str(files.tomogram), "voxel_size": true.voxel_size * factor},
            "B": about | {"tomogram": str(wrong)},
            "C": alone | {"tomogram": str(wrong)},
        }
        return {name: _on_pixel_size(checks.preflight(**case)) for name, case in cases.items()}


def _on_pixel_size(found: Preflight) -> tuple[tuple[str, ...], str]:
    rows = [row for row in found.findings if row.check in ("pixel size", "particle size")]
    ringing = [row for row in rows if row.status != "ok"]
    return tuple(row.check for row in ringing), ringing[0].advice if ringing else rows[-1].found


@dataclass(frozen=True, eq=False)
class AbsentClass:
    """What a linear classifier calls by the name of a class that the target does not hold.

    Attributes
    ----------
    name : of the absent class
    classes : all names, `name` last
    called : (K + 1,) numbers of the target's subtomograms that are called each class
    recall : (K + 1, K + 1), share of the simulated subtomograms of a class (row) that are called each class, on those
        that were not fitted
    """

    name: str
    classes: tuple[str, ...]
    called: np.ndarray
    recall: np.ndarray

    @property
    def by_confusion(self) -> float:
        """Number of calls of the absent class that simulated subtomograms let expect, if the other calls are right."""
        return float(self.called[:-1] @ self.recall[:-1, -1])

    def __str__(self) -> str:
        n = self.called.sum()
        shares = ", ".join(f"{count} {name}" for count, name in zip(self.called, self.classes, strict=True))
        return (
            f"called, of {n} subtomograms: {shares}\n{self.called[-1]} ({self.called[-1] / n:.1%}) are called "
            f"{self.name}, and none of them is one; from simulated subtomograms of the other classes, "
            f"{self.by_confusion:.0f} would be expected"
        )


def with_absent_class(job: Job, name: str) -> AbsentClass:
    """What changes where one more class is named that is not there; the job and its predictions stay as they are.

    A logistic regression on the features of the method's first network, fitted on half of the simulated subtomograms.

    Parameters
    ----------
    job : adapted already
    name : a molecule that the target does not hold
    """
    made, s = job.simulate(), job.settings
    known, like = made.validation, made.target  # the network was not trained on the validation subtomograms
    n = min(MOST_ABSENT, int(np.bincount(known.y.numpy()).min()))
    edge, size, tilt_axis = like.x.shape[-1], like.voxel_size, s.tilts.get("tilt_axis", 0.0)
    config = DatasetConfig(pipeline.SCENARIO, (name,), n, edge, size, "validation", 1 + n // 20, s.seed, tilt_axis)
    network = job.adapt().fits[0][s.method].network
    boxes = [known.x[known.y == k][:n] for k in range(len(known.classes))]
    boxes.append(datasets.simulate_source(config, progress=False).x)
    features = [models.embed(network, x, device=s.device).cpu().numpy() for x in boxes]
    x, y = np.concatenate(features), np.repeat(np.arange(len(features)), [len(one) for one in features])
    fitted = make_pipeline(StandardScaler(), LogisticRegression(C=0.1, max_iter=1000)).fit(x[::2], y[::2])
    confusion = np.zeros((len(features), len(features)))
    np.add.at(confusion, (y[1::2], fitted.predict(x[1::2])), 1)
    target = models.embed(network, job.target.subtomograms.x, device=s.device).cpu().numpy()
    called = np.bincount(fitted.predict(target), minlength=len(features))
    return AbsentClass(name, (*known.classes, name), called, confusion / confusion.sum(1, keepdims=True))


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
    best = None if result.second is None else result.second.matches.labels.numpy()
    for path, what in (
        (files.ribosomes, "listed ribosomes"),
        (files.membrane, "positions on the membrane"),
        (files.cytosol, "random positions in the cytosol"),
    ):
        listed = readers.read_picks(path, volume).zyx
        rows = cKDTree(listed).query(zyx[result.target.kept])[0] < 0.01
        matched = "" if best is None else f"; best template: {_counted(best[rows], classes)}"
        lines.append(f"{rows.sum()} {what}: {_counted(called[rows], classes)}{matched}")
    return "\n".join(lines)


def _counted(called: np.ndarray, classes: Sequence[str]) -> str:
    counts = np.bincount(called, minlength=len(classes))
    return ", ".join(f"{n} ({n / max(1, len(called)):.0%}) {name}" for n, name in zip(counts, classes, strict=True))
