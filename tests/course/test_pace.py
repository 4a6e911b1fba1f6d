"""A lesson fits into 45 minutes, in at most 25 code cells, none of them long; the drawings behind the cells work."""

import re

import nbformat
import pytest
import torch
from helpers.files import ROOT

from cryoshift_core.benchmark import shipped
from cryoshift_core.benchmark.statistics import Comparison
from cryoshift_core.course import figures, toy, warping
from cryoshift_core.metrics import Interval

NOTEBOOKS = sorted((ROOT / "notebooks").glob("[0-9][0-9]*_*.ipynb"))
LESSONS = [path for path in NOTEBOOKS if path.stem >= "01"]  # with sections whose minutes are stated
TAUGHT = [path for path in LESSONS if path.stem < "06"]  # the others are read less than used
FOLDED = {"hide-input", "solution"}


def code_cells(path):
    return [cell for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code"]


def tags(cell):
    return set(cell.metadata.get("tags", []))


def test_the_split_notebooks_are_here():
    numbers = [path.stem.split("_")[0] for path in TAUGHT]
    assert numbers == ["01", "01b", "02", "02b", "02c", "03", "03b", "04", "04b", "05", "05b"]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=[path.stem for path in NOTEBOOKS])
def test_a_notebook_has_few_and_short_cells(path):
    """In all notebooks. The cell of parameters has a line for each, and is a form more than code."""
    shown = [cell for cell in code_cells(path) if not tags(cell) & FOLDED]
    assert len(shown) <= 25
    read = [cell.source.splitlines() for cell in shown if "parameters" not in tags(cell)]
    assert not [lines[0] for lines in read if len(lines) > 20], "move the plumbing to cryoshift_core/course"


@pytest.mark.parametrize("path", LESSONS, ids=[path.stem for path in LESSONS])
def test_a_lesson_is_short(path):
    text = "\n".join(c.source for c in nbformat.read(path, as_version=4).cells if c.cell_type == "markdown")
    assert 30 <= sum(int(minutes) for minutes in re.findall(r"^## .*\((\d+) minutes\)$", text, re.MULTILINE)) <= 45


@pytest.mark.parametrize("path", TAUGHT, ids=[path.stem for path in TAUGHT])
def test_what_is_folded_is_folded_in_jupyterlab_too(path):
    folded = [cell for cell in code_cells(path) if "hide-input" in tags(cell)]
    assert folded and all(cell.metadata.get("jupyter", {}).get("source_hidden") for cell in folded)
    assert len(folded) <= 3, "a lesson shows what it does"


def test_the_toy_is_reproducible_and_the_core_has_its_losses():
    one, other = (toy.train(toy.mada, per_class=True, steps=20, seed=3) for _ in range(2))
    assert torch.equal(one.logits_t, other.logits_t) and one.f_t.shape == one.f_s.shape == (toy.N, 2)
    assert not torch.equal(one.logits_t, toy.train(steps=20, seed=3).logits_t)
    assert 0 <= one.target_accuracy <= 1 and one.source_accuracy > 0.5


def test_the_share_of_circles_in_the_toy_is_as_asked():
    _, y = toy.points(4000, toy.Shift(0.0, (0.0, 0.0), 0.95), torch.Generator().manual_seed(0))
    assert float((y == 0).float().mean()) == pytest.approx(0.95, abs=0.02)


def test_half_of_fourier_space_is_mirrored_to_the_same_plane():
    for n in (16, 15):
        x = torch.randn(4, 1, n, n, n, generator=torch.Generator().manual_seed(0))
        half = torch.fft.rfftn(x, dim=(2, 3, 4)).abs().square().mean((0, 1))
        plane, whole = warping.half_space_plane(half), figures.kx_kz_power(x)
        assert plane.shape == whole.shape and torch.allclose(plane, whole, rtol=1e-4)


def test_a_missing_part_of_the_evidence_is_said(capsys):
    drawn = []
    empty = shipped.Evidence([], [], lambda figure, name: drawn.append(name))
    empty.draw("gap_closed", "core")
    empty.compare({}, "What", "source_only", "what", "baselines")
    said = capsys.readouterr().out
    assert not drawn and said.count("not measured yet") == 2 and "TIER=baselines" in said
    empty.compare({"mada": Comparison(Interval(0.2, 0.1, 0.3), 5, 0.0999)}, "What", "dann", "what", "baselines")
    assert capsys.readouterr().out == "mada: +0.200 [+0.100, +0.300] (5 seeds), better than dann (adjusted p 0.100)\n"
    assert drawn == ["what"]


@pytest.mark.parametrize(("low", "high", "words"), [(0.1, 0.3, "better"), (-0.3, -0.1, "worse"), (-0.1, 0.1, "not")])
def test_a_verdict_on_a_difference(low, high, words):
    found = Comparison(Interval((low + high) / 2, low, high), 5, 0.01)
    assert shipped.verdict(found, "mada").startswith(words) and shipped.verdict(found, "mada").endswith("mada")


def test_the_shipped_evidence_is_drawn(capsys):
    drawn = []
    evidence = shipped.evidence(lambda figure, name: drawn.append(name))
    assert evidence.rows and evidence.per_class and {row["profile"] for row in evidence.rows} == {"laptop"}
    evidence.draw("gap_closed", "core")
    assert drawn == ["evidence_gap_closed"] and set(evidence.of("cryoshift", ("in_situ_2",))) == {"in_situ_2"}
