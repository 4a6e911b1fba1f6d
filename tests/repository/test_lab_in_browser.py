"""JupyterLab in a headless browser: sliders and lasso are moved by the pointer, and what they show changes."""

import json
import time
from importlib.util import find_spec

import nbformat
import pytest
from helpers.browser import CHROMIUM, browser
from helpers.lab import lab

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not CHROMIUM, reason="Chromium is not installed"),
    pytest.mark.skipif(not find_spec("ipympl"), reason="ipympl is not installed"),
]

SLIDERS = """
import numpy as np
from cryoshift_core.course import explore

def draw(axes, size):
    axes[0].imshow(np.eye(size))
    axes[0].set_title(f"size {size}")

explore.explore(draw, {"size": ("size (voxels)", [2, 3, 4])}, start={"size": 2})
"""
LASSO = """
import torch
from cryoshift_core.course import lasso

g = torch.Generator().manual_seed(0)
f = {name: torch.randn(20, 3, generator=g) for name in ("source", "target")}
chosen = lasso.Selection.of(f, {name: torch.randn(20, 1, 6, 6, 6, generator=g) for name in f}, 12.0)
chosen.choose(chosen.around(0, 3))
figures = lasso.show(chosen)
"""
IMAGE = "document.querySelectorAll('.jp-OutputArea-output img')[0]?.src"
TEXT = "[...document.querySelectorAll('.jp-OutputArea-output pre')].map((p) => p.textContent).join(' ')"


def wait_for(page, script, seconds=120):
    """Value of a script once it is true."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if found := page.evaluate(script):
            return found
        time.sleep(0.3)
    raise TimeoutError(f"{script}: {page.evaluate('document.body.innerText')[-1500:]}")


@pytest.fixture
def page(tmp_path):
    """A browser in which both cells of a notebook have been run."""
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(code.strip()) for code in (SLIDERS, LASSO)])
    notebook.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3", "language": "python"}
    (tmp_path / "work").mkdir()
    nbformat.write(notebook, tmp_path / "work" / "moving.ipynb")
    with (
        lab(tmp_path / "work", "--LabApp.expose_app_in_browser=True") as server,
        browser(tmp_path / "browser") as opened,
    ):
        assert server.names("") == {"moving.ipynb"}
        opened.open(server.url("lab/tree/moving.ipynb"), 1280)
        wait_for(opened, "window.jupyterapp && document.querySelectorAll('.jp-CodeCell').length == 2")
        wait_for(opened, "window.jupyterapp.shell.currentWidget?.sessionContext?.session?.kernel?.status == 'idle'")
        opened.evaluate("window.jupyterapp.commands.execute('notebook:run-all-cells')")
        yield opened


def drag(page, corners):
    """Press the pointer at the first corner, move it over the others, and let go."""
    (x, y), *others = corners
    page.call("Input.dispatchMouseEvent", type="mouseMoved", x=x, y=y)
    page.call("Input.dispatchMouseEvent", type="mousePressed", x=x, y=y, button="left", buttons=1, clickCount=1)
    for x, y in others:
        page.call("Input.dispatchMouseEvent", type="mouseMoved", x=x, y=y, button="left", buttons=1)
        time.sleep(0.05)
    page.call("Input.dispatchMouseEvent", type="mouseReleased", x=x, y=y, button="left", clickCount=1)


def test_a_slider_changes_the_picture_and_a_lasso_the_choice(page):
    before = wait_for(page, IMAGE)
    handle = "document.querySelector('.widget-slider .noUi-handle')"
    wait_for(page, handle + " != null")
    page.evaluate(handle + ".focus()")
    for kind in ("keyDown", "keyUp"):
        page.call("Input.dispatchKeyEvent", type=kind, key="ArrowRight", windowsVirtualKeyCode=39)
    wait_for(page, f"{IMAGE} != {json.dumps(before)} && {IMAGE}")

    text = wait_for(page, f"({TEXT}).includes('subtomograms chosen') && ({TEXT})")
    assert "3 of 40 subtomograms chosen" in text
    canvas = "[...document.querySelectorAll('.jupyter-matplotlib-canvas-div canvas')].pop()"
    page.evaluate(f"{canvas}.scrollIntoView({{block: 'center'}})")
    time.sleep(1)
    box = f"(() => {{ const r = {canvas}.getBoundingClientRect(); return [r.x, r.y, r.width, r.height] }})()"
    x, y, width, height = wait_for(page, box)
    # It starts and ends at the left edge of the axes, where a toolbar would lie over the plot.
    ring = [(0.06, 0.15), (0.5, 0.12), (0.9, 0.15), (0.92, 0.5), (0.9, 0.85), (0.5, 0.88), (0.15, 0.85), (0.06, 0.5)]
    drag(page, [(x + a * width, y + b * height) for a, b in ring])
    wait_for(page, f"!({TEXT}).includes('3 of 40') && ({TEXT}).includes('of 40 subtomograms chosen')")
    wait_for(page, IMAGE)  # the boxes; the cell with the slider is out of sight, and not in the page any more
