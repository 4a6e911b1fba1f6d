"""The code blocks of docs/extending.md run from top to bottom, as a reader would paste them."""

import re
import subprocess
import sys

import pytest
from helpers.files import ROOT

from cryoshift_core import methods


@pytest.mark.slow
def test_the_blocks_of_extending_run_in_order(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    text = (ROOT / "docs" / "extending.md").read_text()
    blocks = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    titles = re.findall(r"^## (.+)$", text, re.MULTILINE)
    assert len(titles) >= 6 and len(blocks) > len(titles), "a block for each way to extend, and one to set up"
    namespace = {"__name__": "extending"}
    for block in blocks:
        exec(compile(block, "docs/extending.md", "exec"), namespace)
    assert {"cdan", "dann_and_mada", "contrast_only"} <= set(methods.METHODS)


def test_the_campaign_of_the_docs_is_what_the_script_computes():
    done = subprocess.run(
        [sys.executable, ROOT / "tests" / "bench" / "campaign.py"], capture_output=True, text=True, check=True
    )
    text = (ROOT / "docs" / "scaling.md").read_text()
    assert done.stdout.strip() in text
