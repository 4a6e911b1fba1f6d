"""The gallery has small figures of each notebook, is linked, and is made from executed notebooks alone."""

import numpy as np
import pytest
from helpers.files import ROOT
from PIL import Image

from cryoshift_core.course import gallery
from cryoshift_core.errors import InputError

NOTEBOOKS = sorted(path.stem for path in (ROOT / "notebooks").glob("[0-9][0-9]*_*.ipynb"))


def test_every_notebook_has_figures_that_it_saves():
    assert list(gallery.SHOWN) == NOTEBOOKS
    for name, shown in gallery.SHOWN.items():
        code = (ROOT / "notebooks" / f"{name}.py").read_text()
        if name < "05b" and not name.startswith("03b"):  # others save figures under names of steps
            assert all(f'"{one}"' in code for one in shown), name


def test_the_committed_gallery_is_whole_and_small():
    assert (ROOT / "docs" / gallery.PAGE).read_text() == gallery.text(ROOT / "notebooks"), "run make gallery"
    wanted = {f"{name}_{one}.jpg" for name, shown in gallery.SHOWN.items() for one in shown}
    files = list((ROOT / "docs" / gallery.FOLDER).iterdir())
    assert {path.name for path in files} == wanted
    assert sum(path.stat().st_size for path in files) < 1_000_000
    assert "docs/gallery.md" in (ROOT / "README.md").read_text()


def test_it_comes_from_the_figures_of_a_run(tmp_path):
    with pytest.raises(InputError, match="run make tutorial first"):
        gallery.write(tmp_path / "runs", ROOT / "notebooks", tmp_path / "docs")
    assert not (tmp_path / "docs").exists()
    for name, shown in gallery.SHOWN.items():
        (tmp_path / "runs" / name / "figures").mkdir(parents=True)
        for one in shown:
            Image.fromarray(np.zeros((900, 700, 3), np.uint8)).save(tmp_path / f"runs/{name}/figures/{one}.png")
    (tmp_path / "docs" / "gallery").mkdir(parents=True)
    (tmp_path / "docs" / "gallery" / "old.jpg").touch()
    page, *pictures = gallery.write(tmp_path / "runs", ROOT / "notebooks", tmp_path / "docs")
    assert page.name == "gallery.md" and set(pictures) == set((tmp_path / "docs" / "gallery").iterdir())
    with Image.open(pictures[0]) as picture:
        assert picture.size == (311, 400)
    assert set(gallery.SHOWN_PART) <= {(name, one) for name, shown in gallery.SHOWN.items() for one in shown}
    with Image.open(tmp_path / "docs" / "gallery" / "03_warp_randomization_mixing_desk.jpg") as picture:
        assert picture.size == (467, 257), "two of seven rows"
