"""One page for the one who asked: how many of what, how sure, what it looks like, and what to doubt first."""

from __future__ import annotations

import base64
import io
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2
import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from scipy import stats
from torch import Tensor

from .. import runtime
from . import pictures
from .predictions import by_class, class_average
from .prevalence import Count
from .target_data import TargetData

LIMITS = (
    "The network knows simulated molecules only. What is bent, bound, broken or not among the classes gets one of "
    "their names all the same, unless it was marked as none of these.",
    "A confidence is not an accuracy. It was set on simulated cubes, and is too high where yours are harder.",
    "The intervals hold for independent cubes. Boxes that overlap, bad picks and particles that nobody picked are not "
    "in them.",
)
IN_AVERAGE = 500  # cubes, the most certain ones


def made(manifest: str | Path, **more: Any) -> dict[str, str]:
    """What a run's manifest.json (`Run.finish`) says of how the answers were made; `more` comes first."""
    found = json.loads(Path(manifest).read_text())
    given = {name: value for name, value in found["parameters"].items() if value not in ("", 0, 0.0)}
    rows = more | {
        "seed": found["seed"],
        "cryoshift-core": found["versions"].get("cryoshift-core", "unknown"),
        "commit": found["commit"],
        "date": found["started"],
        "profile": found["profile"]["name"],
        "parameters": ", ".join(f"{name} = {value}" for name, value in given.items()),
        "input files": ", ".join(f"{name} (sha256 {digest[:12]})" for name, digest in found["inputs"].items()),
    }
    return {name.replace("_", " "): str(value) for name, value in rows.items() if value not in ("", None)}


def averages(
    experiment: TargetData, probabilities: Tensor, classes: Sequence[str], strange: Tensor | None = None
) -> dict[str, Tensor]:
    """Class -> mean (1, Z, Y, X) of its most certain cubes in the frame of the reference; {} where no angles came in.

    A class needs two cubes that fit it.
    """
    if experiment.particles.angles is None:
        return {}
    angles, out = experiment.particles.angles[experiment.kept], {}
    for name, rows in by_class(probabilities, classes, strange).items():
        if len(rows) > 1:
            best = rows[:IN_AVERAGE]
            out[name] = class_average(experiment.subtomograms.x[best], angles[best.numpy()])
    return out


def write(
    path: str | Path,
    experiment: TargetData,
    probabilities: Tensor,
    classes: Sequence[str],
    *,
    counts: Mapping[str, Count],
    inputs: Sequence[str],
    strange: Tensor | None = None,
    warnings: Sequence[str] = (),
    gap: Mapping[str, float] | None = None,
    spikes: np.ndarray | None = None,
    made: Mapping[str, str] | None = None,
) -> Path:
    """One HTML file that needs no network and no script: figures are part of it.

    Parameters
    ----------
    probabilities : (M, K) for the cubes of `experiment`
    counts : of `answers.counts`
    inputs : names of the files that came in
    strange : (M,) bool, cubes that fit no class
    warnings : besides those of `experiment`, e.g. of `experiment.doubts`
    gap : name -> distance between source and target, e.g. `evaluation.a_distance` before and after adaptation
    spikes : (K, K) counts of `evaluation.confusion` on spike-ins, rows true classes
    made : how, name -> text, see :func:`made`
    """
    cubes, particles, volume = experiment.subtomograms, experiment.particles, experiment.tomogram
    n, best = cubes.x.shape[-1], probabilities.max(1)
    with plt.rc_context():
        pictures.use_style()
        where = odd = None
        if volume is not None:
            at = particles.zyx[experiment.kept]
            where = _png(pictures.tomogram(volume.data, at, best.indices.numpy(), volume.voxel_size))
        turned = averages(experiment, probabilities, classes, strange)
        cards = [
            {"name": name, "n": len(rows), "cubes": _extremes(cubes.x, best.values, rows), "average": None}
            | ({"average": _planes(turned[name]), "averaged": min(len(rows), IN_AVERAGE)} if name in turned else {})
            for name, rows in by_class(probabilities, classes, strange).items()
        ]
        if strange is not None and strange.any():
            rows = strange.nonzero().flatten()
            rows = rows[torch.linspace(0, len(rows) - 1, min(6, len(rows))).long()]
            odd = _row(cubes.x[rows], [f"{p:.2f}" for p in best.values[rows].tolist()])
    page = _template().render(
        name=cubes.name,
        warnings=[*experiment.warnings, *warnings],
        classified=len(experiment.kept),
        given=len(experiment),
        n_strange=None if strange is None else int(strange.sum()),
        counts=_count_rows(counts),
        corrected=any(count.corrected for count in counts.values()),
        scale=_scale(counts),
        came_in=_came_in(experiment, inputs),
        where=where,
        colours=[(name, to_hex(plt.get_cmap("tab10")(k % 10))) for k, name in enumerate(classes)],
        gap=[(name, f"{value:.2f}", 100 * value / max(2.0, *gap.values())) for name, value in (gap or {}).items()],
        cards=cards,
        odd=odd,
        width=f"{n * cubes.voxel_size / 10:.0f} nm",
        spikes=None if spikes is None else _spike_rows(spikes, classes),
        balanced=None if spikes is None else f"{np.mean(np.diag(spikes) / np.maximum(spikes.sum(1), 1)):.2f}",
        limits=LIMITS,
        made=made or {},
    )
    runtime.write_text(path, page)
    return Path(path)


def _template() -> jinja2.Template:
    loader = jinja2.FileSystemLoader(Path(__file__).parent)
    options = {"autoescape": True, "undefined": jinja2.StrictUndefined, "trim_blocks": True, "lstrip_blocks": True}
    return jinja2.Environment(loader=loader, **options).get_template("report.html.jinja")


def _png(fig: Figure) -> str:
    """The figure as the address of a picture that holds itself."""
    with io.BytesIO() as file:
        fig.savefig(file, format="png", dpi=130, bbox_inches="tight")
        plt.close(fig)
        return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()


def _row(cubes: Tensor, titles: Sequence[str]) -> str:
    return _png(pictures.gallery({"": cubes}, titles, size=0.9))


def _extremes(x: Tensor, confidence: Tensor, rows: Tensor) -> str | None:
    """The three most and the three least certain cubes, or all of a class of fewer."""
    if not len(rows):
        return None
    shown = torch.cat([rows[:3], rows[-3:]]) if len(rows) > 6 else rows
    return _row(x[shown], [f"{p:.2f}" for p in confidence[shown].tolist()])


def _planes(average: Tensor) -> str:
    turned = torch.stack([average, average.transpose(1, 2), average.transpose(1, 3)])
    return _row(turned, ["xy", "xz", "yz"])


def _per_cent(share: tuple[float, float, float]) -> str:
    return f"{share[0]:.1%} ({share[1]:.1%} to {share[2]:.1%})"


def _scale(counts: Mapping[str, Count]) -> float:
    """The share at the right end of the bars: the next tenth above all intervals."""
    ends = [share[2] for count in counts.values() for share in (count.raw, count.corrected) if share]
    return min(1.0, math.ceil(10 * max(ends)) / 10)


def _count_rows(counts: Mapping[str, Count]) -> list[dict[str, Any]]:
    scale = _scale(counts)
    return [
        {
            "name": name,
            "n": count.n,
            "raw": _per_cent(count.raw),
            "raw_at": [100 * value / scale for value in count.raw],
            "corrected": _per_cent(count.corrected) if count.corrected else "",
            "corrected_at": [100 * value / scale for value in count.corrected] if count.corrected else [],
        }
        for name, count in counts.items()
    ]


def _spike_rows(spikes: np.ndarray, classes: Sequence[str]) -> list[dict[str, Any]]:
    """Per class: recall with Wilson's interval, and what it is most often taken for."""
    out = []
    for k, (name, row) in enumerate(zip(classes, spikes.astype(int), strict=True)):
        if not row.sum():
            out.append({"name": name, "n": 0, "recall": "none spiked", "at": [], "taken": ""})
            continue
        ends = stats.binomtest(int(row[k]), int(row.sum())).proportion_ci(method="wilson")
        recall = row[k] / row.sum(), float(ends.low), float(ends.high)
        others = np.delete(row, k)
        worst = int(others.argmax())
        other = classes[worst + (worst >= k)]
        taken = f"{other} ({others[worst] / row.sum():.0%})" if others[worst] else ""
        out.append({"name": name, "n": int(row.sum()), "recall": _per_cent(recall), "taken": taken})
        out[-1]["at"] = [100 * value for value in recall]
    return out


def _came_in(experiment: TargetData, inputs: Sequence[str]) -> dict[str, str]:
    cubes, volume = experiment.subtomograms, experiment.tomogram
    rows = {"files": ", ".join(inputs), "particles": f"{len(experiment)}, of which {len(experiment.kept)} classified"}
    if volume is not None:
        z, y, x = volume.data.shape
        rows["tomogram"] = f"{x} x {y} x {z} voxels of {volume.voxel_size:.4g} A"
    n = cubes.x.shape[-1]
    rows["box"] = f"{n} x {n} x {n} voxels of {cubes.voxel_size:.4g} A ({n * cubes.voxel_size:.0f} A wide)"
    guess = experiment.guess
    rows["contrast"] = f"taken as protein {experiment.contrast}; the grey values say {guess.sign}: {guess.why}"
    return rows
