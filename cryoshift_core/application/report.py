"""The report: one HTML page with class fractions, pictures, spike-in accuracy and warnings."""

from __future__ import annotations

import base64
import fnmatch
import io
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2
import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor

from ..metrics import Interval
from ..support import runtime
from . import pictures
from .accuracy import Estimate
from .by_tomogram import TomogramRow
from .predictions import Prevalence, by_class, class_average, proportion, unspecific
from .purity import Cut
from .second_opinion import SecondOpinion
from .spike_in import SpikeInScore
from .target_data import TargetData
from .template_matching import POSES
from .verdict import DO_NOT_USE, IN_AVERAGE, USABLE, Verdict

SHOWN_TOMOGRAMS = 3
FILES = {
    "predictions.star": "every row of your list, or every candidate, with its class and confidence",
    "predictions.tbl": "the same as a Dynamo table",
    "predictions_relion.star": "the same with the columns of data_optics that RELION 3.1 asks for",
    "predictions_purity.star": "the rows at the expected purity that was asked for",
    "classes/*.star": "the rows of one class each",
    "picks.star": "picks of all classes, the most confident first",
    "picks.tbl": "the same as a Dynamo table",
    "picks.doc": "the number of each tomogram in picks.tbl",
    "*Picks/*.json": "picks of one class for copick",
    "picks*.png": "a map of the picks",
    "model.safetensors": "the classifier, for the next tomogram (--model)",
    "spike_in.csv": "recall on spike-ins of each method and class",
    "purity.csv": "the table above",
    "tomograms.csv": "the row of each tomogram",
}  # pattern of a path within the folder of the results -> what it holds
LIMITS = (
    "The network was trained on simulated molecules. A particle that is deformed, bound, broken or of no listed class "
    "still gets one of the class names, unless it was assigned to the unknown class.",
    "A confidence is not an accuracy. It was calibrated on simulated subtomograms and is too high where yours are more "
    "difficult.",
    "The intervals of class fractions count independent subtomograms. They do not include mistakes of the network, "
    "overlapping boxes, wrong picks, or particles that were not picked.",
)


def provenance(manifest: Mapping[str, Any], **more: Any) -> dict[str, str]:
    """Name -> text about how the predictions were made: `more` first, then the contents of a run's manifest.json."""
    given = {name: value for name, value in manifest["parameters"].items() if value not in ("", 0, 0.0)}
    rows = more | {
        "seed": manifest["seed"],
        "cryoshift-core": manifest["versions"].get("cryoshift-core", "unknown"),
        "commit": manifest["commit"],
        "date": manifest["started"],
        "profile": manifest["profile"]["name"],
        "parameters": ", ".join(f"{name} = {value}" for name, value in given.items()),
        "input files": ", ".join(f"{name} (sha256 {digest[:12]})" for name, digest in manifest["inputs"].items()),
    }
    return {name.replace("_", " "): str(value) for name, value in rows.items() if value not in ("", None)}


def averages(
    target: TargetData, probabilities: Tensor, classes: Sequence[str], unknown: Tensor | None = None
) -> dict[str, Tensor]:
    """Class -> mean (1, n, n, n) of its most confident subtomograms in the frame of the reference.

    Classes with fewer than two subtomograms are left out. The result is {} if the input has no angles.

    Parameters
    ----------
    probabilities, unknown : (M, K) and (M,) bool of the M subtomograms of `target`
    """
    if target.particles.angles is None:
        return {}
    angles, out = target.particles.angles[target.kept], {}
    for name, rows in by_class(probabilities, classes, unknown).items():
        if len(rows) > 1:
            best = rows[:IN_AVERAGE]
            out[name] = class_average(target.subtomograms.x[best], angles[best.numpy()])
    return out


def write(
    path: str | Path,
    target: TargetData,
    probabilities: Tensor,
    classes: Sequence[str],
    *,
    verdict: Verdict,
    prevalence: Mapping[str, Prevalence],
    inputs: Sequence[str],
    unknown: Tensor | None = None,
    warnings: Sequence[str] = (),
    gap: Mapping[str, float] | None = None,
    spike_in: SpikeInScore | None = None,
    cuts: Sequence[Cut] = (),
    tomograms: Sequence[TomogramRow] = (),
    expected: Estimate | None = None,
    second: SecondOpinion | None = None,
    made: Mapping[str, str] | None = None,
    files: Sequence[Path] = (),
) -> Path:
    """Path of the report, one HTML file that contains its figures and needs no network and no script.

    Parameters
    ----------
    probabilities : (M, K) of the M subtomograms of `target`, on the CPU
    classes : K names
    verdict : stands first
    prevalence : of `predictions.prevalence`
    inputs : names of the input files
    unknown : (M,) bool, True for the unknown class
    warnings : in addition to those of `target`
    gap : name -> distance between source and target, such as `metrics.a_distance`
    spike_in : accuracy on spike-ins
    cuts : of `purity.cuts`, how many stay at a confidence
    tomograms : a row for each of several tomograms
    expected : the balanced accuracy to expect; None without spike-ins
    second : what template matching says; None where it was not asked
    made : name -> text about how the predictions were made, see :func:`provenance`
    files : those of the results, beside the report or in folders there
    """
    subtomograms = target.subtomograms
    n, best = subtomograms.x.shape[-1], probabilities.max(1)
    with plt.rc_context():
        pictures.use_style()
        unknown_row = None
        sections = []
        for k, one in enumerate(target.tomograms[:SHOWN_TOMOGRAMS]):
            assert one.tomogram is not None and one.particles.zyx is not None  # as each of them
            called = best.indices[subtomograms.groups == k] if target.parts else best.indices
            at = one.particles.zyx[one.kept]
            about: dict[str, Any] = {"voxel_size": one.tomogram.voxel_size, "names": classes}
            drawn = pictures.tomogram(one.tomogram.data, at, called.numpy(), **about)
            sections.append((one.subtomograms.name if target.parts else "", data_url(drawn)))
        averaged = averages(target, probabilities, classes, unknown)
        cards, means = [], {}
        for name, rows in by_class(probabilities, classes, unknown).items():
            card: dict[str, Any] = {"name": name, "n": len(rows), "average": None}
            card["subtomograms"] = _extremes(subtomograms.x, best.values, rows)
            if len(rows):
                means[name] = _mean(subtomograms.x[rows[:IN_AVERAGE]])
            if name in averaged:
                card |= {"average": _planes(averaged[name]), "averaged": min(len(rows), IN_AVERAGE)}
            cards.append(card)
        if unknown is not None and unknown.any():
            rows = unknown.nonzero().flatten()
            rows = rows[np.linspace(0, len(rows) - 1, min(6, len(rows))).astype(int)]
            unknown_row = _row(subtomograms.x[rows], [f"{p:.2f}" for p in best.values[rows].tolist()])
    page = page_template("report.html.jinja").render(
        name=subtomograms.name,
        verdict=verdict,
        tone={USABLE: "calm", DO_NOT_USE: "stop"}.get(verdict.level, "look"),
        warnings=[*target.warnings, *warnings],
        classified=len(target.kept),
        given=len(target),
        n_unknown=None if unknown is None else int(unknown.sum()),
        unspecific=unspecific(unknown),
        table=_class_rows(prevalence, verdict.looks_like, spike_in, means),
        looks=bool(verdict.looks_like),
        scale=_scale(prevalence),
        input_rows=_input_rows(target, inputs),
        sections=sections,
        gap=[(name, f"{value:.2f}", 100 * value / max(2.0, *gap.values())) for name, value in gap.items()]
        if gap
        else [],
        cards=cards,
        unknown_row=unknown_row,
        width=f"{n * subtomograms.voxel_size / 10:.0f} nm",
        spikes=None if spike_in is None else list(zip(classes, spike_in.n.tolist(), strict=True)),
        balanced=None if spike_in is None else str(spike_in),
        confidence=f"{float(best.values.mean()):.2f}",
        expected=expected,
        second=second,
        poses=POSES,
        cuts=[_cut_row(cut) for cut in cuts],
        classes=classes,
        tomograms=[_tomogram_row(row) for row in tomograms],
        picked=list(tomograms[0].picks) if tomograms else [],
        reused=any(not math.isnan(row.shift) for row in tomograms),
        limits=LIMITS,
        made=made or {},
        files=_file_rows(Path(path).parent, files),
    )
    return runtime.write_text(path, page)


def page_template(name: str, folder: Path = Path(__file__).parent) -> jinja2.Template:
    """A template of a page in a folder, by default in that of this module; what is filled in is escaped."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(folder),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(name)


def data_url(fig: Figure) -> str:
    """The figure as a data URL, so that the page contains it."""
    with io.BytesIO() as file:
        fig.savefig(file, format="png", dpi=130, bbox_inches="tight")
        plt.close(fig)
        return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()


def _mean(x: Tensor) -> str:
    """The central xy section of the mean of subtomograms (N, 1, n, n, n), without a frame."""
    fig, ax = plt.subplots(figsize=(0.8, 0.8))
    fig.subplots_adjust(0, 0, 1, 1)
    pictures.show(ax, pictures.middle(x.mean(0)))
    return data_url(fig)


def _row(subtomograms: Tensor, titles: Sequence[str]) -> str:
    return data_url(pictures.gallery({"": subtomograms}, titles, size=0.9))


def _extremes(x: Tensor, confidence: Tensor, rows: Tensor) -> str | None:
    """The three most and the three least confident subtomograms, or all where a class has six or fewer."""
    if not len(rows):
        return None
    shown = torch.cat([rows[:3], rows[-3:]]) if len(rows) > 6 else rows
    return _row(x[shown], [f"{p:.2f}" for p in confidence[shown].tolist()])


def _planes(average: Tensor) -> str:
    rotated = torch.stack([average, average.transpose(1, 2), average.transpose(1, 3)])
    return _row(rotated, ["xy", "xz", "yz"])


def _per_cent(fraction: Interval) -> str:
    return f"{fraction.mean:.1%} ({fraction.low:.1%} to {fraction.high:.1%})"


def _scale(prevalence: Mapping[str, Prevalence]) -> float:
    """The fraction at the right end of the bars: the next tenth above all intervals."""
    return min(1.0, math.ceil(10 * max(found.fraction.high for found in prevalence.values())) / 10)


def _class_rows(
    prevalence: Mapping[str, Prevalence],
    looks_like: Mapping[str, str],
    spike_in: SpikeInScore | None,
    pictures_of: Mapping[str, str],
) -> list[dict[str, Any]]:
    """Per class: picture, number, fraction, recall on spike-ins, what these are mistaken for, looks like."""
    scale = _scale(prevalence)
    out: list[dict[str, Any]] = []
    for k, (name, found) in enumerate(prevalence.items()):
        row = {"name": name, "n": found.n, "fraction": _per_cent(found.fraction), "picture": pictures_of.get(name, "")}
        row |= {"at": [100 * value / scale for value in found.fraction], "looks_like": looks_like.get(name, "")}
        out.append(row | ({} if spike_in is None else _recall(spike_in, k)))
    return out


def _recall(spike_in: SpikeInScore, k: int) -> dict[str, Any]:
    """The recall on spike-ins of class k with its interval, and the class that it is most often mistaken for."""
    row, classes = spike_in.confusion[k].astype(int), spike_in.classes
    if not row.sum():
        return {"recall": "no spike-ins", "recall_at": [], "confused": ""}
    recall = proportion(int(row[k]), int(row.sum()))
    others = np.delete(row, k)
    most = int(others.argmax())
    confused = f"{classes[most + (most >= k)]} ({others[most] / row.sum():.0%})" if others[most] else ""
    return {"recall": _per_cent(recall), "recall_at": [100 * value for value in recall], "confused": confused}


def _file_rows(folder: Path, files: Sequence[Path]) -> list[tuple[str, str]]:
    """Name or pattern, and what it holds, of the kinds of files that are there."""
    names = [file.relative_to(folder).as_posix() for file in files]
    found = {pattern: fnmatch.filter(names, pattern) for pattern in FILES}
    shown = {pattern: some[0] if len(some) == 1 else pattern for pattern, some in found.items() if some}
    return [(name, FILES[pattern]) for pattern, name in shown.items()]


def _cut_row(cut: Cut) -> dict[str, Any]:
    return {
        "confidence": f"{cut.confidence:.3g}",
        "kept": cut.kept,
        "expected": f"{cut.expected:.2f}" if cut.kept else "",
        "spike_ins": "" if cut.spike_ins is None else _per_cent(cut.spike_ins),
    }


def _tomogram_row(row: TomogramRow) -> dict[str, Any]:
    return {
        "name": f"{row.name} (held out)" if row.held_out else row.name,
        "n": row.n,
        "fractions": [f"{fraction:.1%}" for fraction in row.fractions],
        "confidence": f"{row.confidence:.2f}",
        "recall": "" if math.isnan(row.recall) else f"{row.recall:.2f}",
        "distance": "" if math.isnan(row.shift) else f"{row.shift:.1f}",
        "picks": list(row.picks.values()),
        "warnings": row.warnings,
    }


def _input_rows(target: TargetData, inputs: Sequence[str]) -> dict[str, str]:
    model, volume = target.subtomograms, target.tomogram
    rows = {"files": ", ".join(inputs), "particles": f"{len(target)}, of which {len(target.kept)} classified"}
    if volume is not None:
        z, y, x = volume.data.shape
        rows["tomogram"] = f"{x} × {y} × {z} voxels of {volume.voxel_size:.4g} Å"
    for part in target.parts:
        assert part.tomogram is not None  # each part is one
        z, y, x = part.tomogram.data.shape
        rows[f"tomogram {part.subtomograms.name}"] = f"{x} × {y} × {z} voxels of {part.tomogram.voxel_size:.4g} Å"
    n = model.x.shape[-1]
    rows["box"] = f"{n} × {n} × {n} voxels of {model.voxel_size:.4g} Å ({n * model.voxel_size:.0f} Å wide)"
    guess = target.guess
    rows["contrast"] = f"taken as protein {target.contrast}; the grey values indicate {guess.sign}: {guess.why}"
    return rows
