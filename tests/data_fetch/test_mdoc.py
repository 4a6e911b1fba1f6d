"""SerialEM's .mdoc: tilts, axis and dose, and where they contradict the parameters."""

import numpy as np
import pytest
from helpers.files import says

from data_fetch.readers import mdoc

HEAD = """PixelSpacing = 2.7
ImageFile = TS_1.mrc
Voltage = 300

[T = SerialEM: Digitized on EFTEM            01-Jan-26  00:00:00]

[T =     Tilt axis angle = 84.7, binning = 1  spot = 8  camera = 0]

"""
TILTS = np.arange(-54.0, 55, 3)


def write(path, tilts=TILTS, dose=3.0, head=HEAD):
    sections = [
        f"[ZValue = {i}]\nTiltAngle = {tilt:.4f}\nExposureDose = {dose}\nDateTime = 01-Jan-26  00:00:{i:02}\n"
        for i, tilt in enumerate(tilts)
    ]
    path.write_text(head + "\n".join(sections))
    return path


def test_a_mdoc_gives_tilts_axis_dose_and_pixel_size(tmp_path):
    found = mdoc.read_mdoc(write(tmp_path / "TS_1.mrc.mdoc"))
    assert np.array_equal(found.tilts, TILTS) and len(found) == 37
    assert found.tilt_axis == 84.7 and found.dose == pytest.approx(111.0) and found.pixel_size == 2.7
    bare = mdoc.read_mdoc(write(tmp_path / "b.mdoc", dose=0, head=""))
    assert bare.tilt_axis is None and bare.dose is None and bare.pixel_size is None


def test_broken_mdocs(tmp_path):
    path = tmp_path / "a.mdoc"
    for text, words in (
        ("", ("TiltAngle",)),
        ("[ZValue = 0]\nExposureDose = 3\n", ("TiltAngle",)),
        ("[ZValue = 0]\nTiltAngle = up\n", ("'up'", "number")),
        ("[ZValue = 0]\nTiltAngle = nan\n", ("'nan'", "number")),
    ):
        path.write_text(text)
        says(lambda: mdoc.read_mdoc(path), "a.mdoc", *words)
    with path.open("wb") as file:
        file.truncate(1 << 30)
    says(lambda: mdoc.read_mdoc(path), "a.mdoc", 1 << 30)


@pytest.mark.parametrize(
    "name", ["TS_1.mrc", "TS_1_rec.mrc", "rec_TS_1.mrc", "TS_1_10.00Apx.mrc", "TS_1.rec", "TS_1.mrc.gz", "TS_1.zarr"]
)
def test_the_mdoc_beside_a_tomogram_is_found_by_its_name(tmp_path, name):
    assert mdoc.beside(tmp_path / name) is None
    for other in ("TS_1.mrc.mdoc", "TS_1.st.mdoc", "TS_1.mdoc"):
        path = write(tmp_path / other)
        assert mdoc.beside(tmp_path / name) == path
        path.unlink()
    write(tmp_path / "TS_10.mrc.mdoc")
    assert mdoc.beside(tmp_path / name) is None


@pytest.mark.parametrize(
    "tilt_range, tilt_axis, words",
    [
        (54.0, 0.0, []),
        (58.0, 0.0, []),
        (54.0, 84.0, []),
        (54.0, -84.0, []),
        (54.0, -95.3, []),
        (60.0, 0.0, ["tilts up to 54 degrees, tilt_range is 60; set 54"]),
        (54.0, 30.0, ["tilt axis at 84.7 degrees", "tilt_axis is 30"]),
    ],
)
def test_a_mdoc_that_contradicts_the_given_tilts_gives_one_sentence(tmp_path, tilt_range, tilt_axis, words):
    path = write(tmp_path / "a.mdoc")
    found = mdoc.tilt_warnings(path, mdoc.read_mdoc(path), tilt_range, tilt_axis)
    assert len(found) == bool(words) and all(word in found[0] for word in words)
    assert mdoc.tilt_warnings(path, mdoc.read_mdoc(path), 54.0, 0.0) == [], "the way out"
