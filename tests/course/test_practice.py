"""The practice key is of a seed that nothing else uses, and no other key opens with it; checkpoints state numbers."""

import json

import jupytext
import matplotlib.pyplot as plt
import pytest
import torch
from helpers.files import ROOT

from cryoshift_core.application.profiles import PROFILES
from cryoshift_core.benchmark import jobs
from cryoshift_core.course import exercises, practice
from cryoshift_core.course.run import begin
from cryoshift_core.errors import InputError
from cryoshift_core.simulation.datasets import DatasetConfig, simulate_target

SMOKE = PROFILES["smoke"]


def test_no_evidence_and_no_development_used_the_seed():
    assert practice.SEED not in (*jobs.SEEDS, 0, 11, 12, 13) and practice.SEED < 101
    for name in ("evidence.csv", "per_class.csv", "real.csv"):
        header, *rows = (ROOT / "notebooks" / "evidence" / name).read_text().splitlines()
        column = header.split(",").index("seed")
        assert str(practice.SEED) not in {row.split(",")[column] for row in rows}


def test_the_practice_key_opens_and_other_keys_do_not(tmp_path):
    asked = practice.config(SMOKE, "in_situ_2", 6, tomograms=2)
    assert asked.seed == practice.SEED and asked.split == "test"
    target = simulate_target(asked, folder=tmp_path, progress=False)
    assert len(practice.reveal(asked, tmp_path)) == len(target) == 6
    locked = DatasetConfig.of(SMOKE, "in_situ_2", "test", 21)
    with pytest.raises(InputError, match="seed 21: its key stays locked. Use practice.config"):
        practice.reveal(locked, tmp_path)
    assert not list(tmp_path.glob("*seed21*"))


def lesson(tmp_path, capsys, **changed):
    """A lesson of notebook 02 with its defaults, except what is changed."""
    declared = {"profile": "laptop", "scenario": "in_situ_2", "seed": 0, "out_dir": str(tmp_path / "run"), **changed}
    run = begin("02_the_domain_gap", {"__annotations__": dict.fromkeys(declared), **declared})
    capsys.readouterr()
    return exercises.Lesson(run, {})


def test_a_checkpoint_says_whether_to_go_on(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    name = "balanced accuracy on held-out source"
    checks = lesson(tmp_path, capsys)
    for value, words in ((0.955, "go on."), (0.5, "run the notebook again from its first cell.")):
        checks.checkpoint(name, value)
        text = capsys.readouterr().out
        assert text.startswith(f"Checkpoint: {name} {value:.4g}; the reference is 0.96 ± 0.03") and words in text
    with pytest.raises(InputError, match="Expected a checkpoint"):
        checks.checkpoint("height", 1.0)
    lesson(tmp_path, capsys, seed=1).checkpoint(name, 0.5)
    assert "(no reference for these parameters)" in capsys.readouterr().out


def test_a_figure_is_saved_where_the_run_writes(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    made = lesson(tmp_path, capsys)
    made.figure(fig := plt.figure(), "empty")
    plt.close(fig)
    assert (made.run.folder / "figures" / "empty.png").stat().st_size > 100


def test_the_domains_of_a_run_are_those_of_its_scenario(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    source, validation, target = lesson(tmp_path, capsys, profile="smoke").run.domains()
    assert len(source) > len(validation) and not hasattr(target, "y")
    assert source.classes == validation.classes and not torch.equal(source.x[: len(validation)], validation.x)
    assert any(path.name.startswith("in_situ_2") for path in (tmp_path / "runs/smoke/data").iterdir())


def test_checks_know_what_is_solved(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    checks = lesson(tmp_path, capsys)
    assert checks.unsolved() == ["normalised", "balanced", "must_be_wrong"] and not checks.solved("balanced")
    with pytest.raises(InputError, match="Expected an exercise"):
        checks.check("unbalanced")


def test_every_checkpoint_is_called_and_its_defaults_are_the_notebooks():
    table = json.loads((ROOT / "notebooks" / exercises.CHECKPOINTS).read_text())
    assert list(table) == [path.stem for path in sorted((ROOT / "notebooks").glob("0[1-7]*_*.py"))]
    for notebook, entries in table.items():
        code = (ROOT / "notebooks" / f"{notebook}.py").read_text()
        for name, entry in entries.items():
            if name != "parameters":
                assert f'lesson.checkpoint("{name}"' in code and entry["tolerance"] > 0
        cells = jupytext.read(ROOT / "notebooks" / f"{notebook}.ipynb").cells
        (parameters,) = [cell.source for cell in cells if "parameters" in cell.metadata.get("tags", [])]
        for name, value in entries["parameters"].items():
            shown = f'"{value}"' if isinstance(value, str) else value
            assert f"= {shown}  #" in next(line for line in parameters.splitlines() if line.startswith(f"{name}:"))


def test_links_to_the_glossary_have_their_entry():
    import re

    words = (ROOT / "docs" / "glossary.md").read_text()
    entries = {
        re.sub(r"[^a-z0-9 -]", "", one.lower()).replace(" ", "-") for one in re.findall(r"^### (.+)$", words, re.M)
    }
    for path in (ROOT / "notebooks").glob("0[0-7]*_*.py"):
        linked = set(re.findall(r"docs/glossary\.md#([\w-]+)\)", path.read_text()))
        assert linked <= entries, path.name
