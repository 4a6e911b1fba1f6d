"""RELION's own programs read and rewrite what we write, and nothing changes. They are installed by `make relion`."""

import shutil
import subprocess

import mrcfile
import numpy as np
import pytest
import torch
from helpers.files import mrc

from cryoshift_core.application import picks, predictions, target_data
from cryoshift_core.application.picks import Picks
from cryoshift_core.tomography import star
from cryoshift_core.tomography.mrc import write_mrc
from data_fetch import readers

VOXEL = 13.48
RNG = np.random.default_rng(0)
CLASSES = ("ribosome_80S", "TRiC")
PROGRAMS = ("relion_star_handler", "relion_image_handler")
MISSING = [program for program in PROGRAMS if not shutil.which(program)]
pytestmark = pytest.mark.skipif(bool(MISSING), reason=f"{', '.join(MISSING)} not installed; run make relion")


def relion(program, folder, **options):
    """Run a program of RELION in a folder; its messages."""
    command = [f"relion_{program}", *(text for name, value in options.items() for text in (f"--{name}", str(value)))]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout + done.stderr


def rewritten(path):
    """Tables of a STAR file after relion_star_handler has read and written it, and its messages."""
    back = path.with_name(f"relion_{path.name}")
    messages = relion("star_handler", path.parent, i=path.name, o=back.name)
    return star.read_star(back), messages


def assert_equal(ours, theirs):
    """Two sets of tables have the same columns and rows; numbers may be written with other digits."""
    assert list(ours) == list(theirs)
    for block, table in ours.items():
        assert list(table) == list(theirs[block])
        for column, values in table.items():
            for value, other in zip(values, theirs[block][column], strict=True):
                assert value == other or abs(float(value) - float(other)) <= 1e-6 + 1e-6 * abs(float(value)), column


@pytest.fixture
def tomogram(tmp_path):
    """A small tomogram on disk."""
    return readers.read_tomogram(mrc(tmp_path / "TS_3.mrc", RNG.normal(size=(31, 44, 57)).astype(np.float32), VOXEL))


def test_picks_come_back_from_the_star_handler(tomogram, tmp_path):
    found = {name: Picks(RNG.random((n, 3)) * (30, 43, 56), np.linspace(0.99, 0.6, n)) for name, n in
             zip(CLASSES, (7, 4), strict=True)}  # fmt: skip
    picks.write(tmp_path, [tomogram], found)
    back, messages = rewritten(tmp_path / "picks.star")
    assert_equal(star.read_star(tmp_path / "picks.star"), back)
    assert "could not read optics" not in messages
    read = readers.read_picks(tmp_path / "relion_picks.star", tomogram)
    at = np.concatenate([one.zyx for one in found.values()])
    assert np.abs(read.zyx - at).max() < 0.01, "RELION's copy has the positions, too"
    assert read.table["csClass"] == ["ribosome_80S"] * 7 + ["TRiC"] * 4


def test_a_star_without_optics_comes_out_empty_which_is_why_picks_have_them(tmp_path):
    star.write_star(
        tmp_path / "bare.star",
        {"optics": {"rlnOpticsGroup": ["1"]}, "particles": {"rlnCoordinateX": ["1.0"], "rlnOpticsGroup": ["1"]}},
    )
    relion("star_handler", tmp_path, i="bare.star", o="out.star")
    assert (tmp_path / "out.star").read_text() == ""


@pytest.mark.parametrize("head", ["data_", "data_images", "data_particles", "optics"])
def test_predictions_of_a_list_without_optics_come_back_whole(tomogram, tmp_path, head):
    """RELION 3.0 and other programs write no optics table, or less of it than RELION 3.1 asks for."""
    rows = "".join(f"{5 + i}.0 {6 + i}.0 {7 + i}.0 TS_3\n" for i in range(8))
    columns = "_rlnCoordinateX #1\n_rlnCoordinateY #2\n_rlnCoordinateZ #3\n_rlnTomoName #4\n"
    optics = "data_optics\n\nloop_\n_rlnOpticsGroup #1\n1\n\n" if head == "optics" else ""
    name = "data_particles" if head == "optics" else head
    (tmp_path / "list.star").write_text(f"{optics}\n{name}\n\nloop_\n{columns}{rows}\n")
    particles = readers.read_picks(tmp_path / "list.star", tomogram)
    target = target_data.from_tomogram(tomogram, particles, CLASSES, box=6, grid=(6, VOXEL), contrast="bright")
    p = torch.linspace(0.1, 0.9, len(target.kept))
    predictions.write(tmp_path, target, torch.stack([p, 1 - p], 1), CLASSES)
    ours = star.read_star(tmp_path / "predictions_relion.star")
    back, _ = rewritten(tmp_path / "predictions_relion.star")
    assert len(back["particles"]["csClass"]) == 8 and back["particles"]["csClass"] == ours["particles"]["csClass"]
    assert_equal(ours, back)
    again = readers.read_picks(tmp_path / "predictions_relion.star", tomogram)
    assert np.allclose(again.zyx, particles.zyx) and not again.warnings, "our own reader takes it, too"


def subtomogram_star(folder, n=6):
    """A STAR file as RELION 3.1 writes it for n subtomograms, and the subtomograms beside it, one MRC file each."""
    cubes = RNG.normal(size=(n, 24, 24, 24)).astype(np.float32)
    (folder / "Subtomograms").mkdir()
    for i, cube in enumerate(cubes):
        write_mrc(folder / "Subtomograms" / f"particle_{i}.mrc", cube, VOXEL)
    (folder / "particles.star").write_text(
        "\n# version 30001\n\ndata_optics\n\nloop_\n_rlnOpticsGroup #1\n_rlnOpticsGroupName #2\n_rlnImagePixelSize #3\n"
        "_rlnVoltage #4\n_rlnSphericalAberration #5\n_rlnImageSize #6\n_rlnImageDimensionality #7\n"
        f"1 opticsGroup1 {VOXEL} 300.0 2.7 24 3\n\n"
        "# version 30001\n\ndata_particles\n\nloop_\n_rlnMicrographName #1\n_rlnImageName #2\n_rlnAngleRot #3\n"
        "_rlnAngleTilt #4\n_rlnAnglePsi #5\n_rlnOpticsGroup #6\n_rlnClassNumber #7\n"
        + "".join(f"TS_3.mrc Subtomograms/particle_{i}.mrc {10.5 * i} 90.0 -3.25 1 1\n" for i in range(n))
    )
    return cubes


def target_of(path):
    """Subtomograms of a STAR file, for the writer of predictions."""
    return target_data.from_subtomograms(readers.read_subtomograms(path), CLASSES, contrast="bright")


def test_predictions_come_back_from_the_star_handler(tmp_path):
    subtomogram_star(tmp_path)
    target = target_of(tmp_path / "particles.star")
    p = torch.rand(6, generator=torch.Generator().manual_seed(0))
    probabilities = torch.stack([p, 1 - p], 1)
    paths = predictions.write(tmp_path, target, probabilities, CLASSES, unknown=p > 0.8)
    written = star.read_star(tmp_path / "predictions.star")
    back, messages = rewritten(tmp_path / "predictions.star")
    assert_equal(written, back)
    assert back["particles"]["csClass"] == written["particles"]["csClass"]
    assert "will ignore (but maintain) values for the unknown label: csConfidence" in messages
    for path in paths[1:]:
        assert_equal(star.read_star(path), rewritten(path)[0])


def test_the_star_handler_selects_by_our_class_and_by_our_class_number(tmp_path):
    subtomogram_star(tmp_path)
    target = target_of(tmp_path / "particles.star")
    probabilities = torch.tensor([[0.9, 0.1], [0.2, 0.8], [0.7, 0.3], [0.6, 0.4], [0.1, 0.9], [0.5, 0.5]])
    predictions.write(tmp_path, target, probabilities, CLASSES)
    relion(
        "star_handler", tmp_path, i="predictions.star", o="two.star", select="rlnClassNumber", minval=1.5, maxval=2.5
    )
    rows = star.read_star(tmp_path / "two.star")["particles"]
    assert rows["csClass"] == ["TRiC", "TRiC"] and rows["rlnImageName"][0] == "Subtomograms/particle_1.mrc"


def test_subtomograms_come_back_from_the_image_handler(tmp_path):
    cubes = subtomogram_star(tmp_path)
    for i, cube in enumerate(cubes):
        name = f"Subtomograms/particle_{i}.mrc"
        relion("image_handler", tmp_path, i=name, o=f"out_{i}.mrc", multiply_constant=2)
        back = readers.read_tomogram(tmp_path / f"out_{i}.mrc")
        assert np.array_equal(back.data, 2 * cube) and back.voxel_size == pytest.approx(VOXEL, rel=1e-6)
    messages = relion("image_handler", tmp_path, i="Subtomograms/particle_0.mrc", stats="")
    x, y, z, *_ = (int(word) for word in messages.replace("=", " ").split() if word.isdigit())
    assert (x, y, z) == (24, 24, 24) and f"{VOXEL}" in messages


def test_a_stack_of_subtomograms_keeps_its_values_in_the_image_handler(tmp_path):
    """RELION 3.1 reads a stack as images, section after section, and drops the mark that they are volumes."""
    cubes = RNG.normal(size=(5, 1, 8, 8, 8)).astype(np.float32)
    write_mrc(tmp_path / "stack.mrcs", cubes, VOXEL)
    relion("image_handler", tmp_path, i="stack.mrcs", o="back.mrcs", multiply_constant=1)
    with mrcfile.open(tmp_path / "back.mrcs", permissive=True) as file:
        assert file.data.shape == (40, 8, 8) and float(file.voxel_size.x) == pytest.approx(VOXEL, rel=1e-6)
        assert np.array_equal(file.data.reshape(5, 8, 8, 8), cubes[:, 0])
