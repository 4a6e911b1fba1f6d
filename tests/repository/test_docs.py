"""The code blocks of docs/extending.md run from top to bottom, as a reader would paste them."""

import re

import pytest
from helpers.files import ROOT

from cryoshift_core import methods, models, selection, warps
from cryoshift_core.simulation import scenarios
from data_fetch import readers

TABLES = (methods.METHODS, methods.TERMS, models.ENCODERS, selection.VALIDATORS, warps.WARPS)
TABLES += (scenarios.SCENARIOS, scenarios.FACTORS, readers.PICKS, readers.TOMOGRAMS, readers.SUBTOMOGRAMS)


@pytest.fixture
def tables_restored():
    kept = [dict(table) for table in TABLES]
    yield
    for table, entries in zip(TABLES, kept, strict=True):
        table.clear()
        table.update(entries)


@pytest.mark.slow
def test_the_blocks_of_extending_run_in_order(tmp_path, monkeypatch, tables_restored):
    monkeypatch.chdir(tmp_path)
    text = (ROOT / "docs" / "extending.md").read_text()
    blocks = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    titles = re.findall(r"^## (.+)$", text, re.MULTILINE)
    assert len(titles) >= 6 and len(blocks) > len(titles), "a block for each way to extend, and one to set up"
    namespace = {"__name__": "extending"}
    for block in blocks:
        exec(compile(block, "docs/extending.md", "exec"), namespace)
    assert {"cdan", "dann_and_mada", "contrast_only"} <= set(methods.METHODS)
