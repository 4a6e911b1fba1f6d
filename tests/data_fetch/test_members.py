"""Files of a folder or a STAR: particles only, found below the folders that the user named, one bad row left out."""

import os

import numpy as np
import pytest
from helpers.files import RNG, em, hdf, mrc, says, star

from cryoshift_core.errors import InputWarning
from data_fetch import readers
from data_fetch.readers import members

CUBES = RNG.normal(size=(6, 8, 8, 8)).astype(np.float32)


@pytest.mark.parametrize(
    "particles, others",
    [
        (["TS_1000001", "TS_1000002"], ["TS_1_ctf000001", "TS_1_ctf000002"]),  # RELION 3
        (["TS_1_subtomo000001", "TS_1_subtomo000002"], ["TS_1_ctf000001", "TS_1_ctf000002"]),
        (["1_data", "2_data"], ["1_weights", "2_weights"]),  # RELION 4
        (["TS_1_0000001_10.00A", "TS_1_0000002_10.00A"], ["TS_1_0000001_ctf_10.00A", "TS_1_0000002_ctf_10.00A"]),
        (["TS_1_000001", "TS_1_000002"], ["TS_1_000001_CTF", "TS_1_000002_CTF"]),
        (["p_1", "p_2"], ["p_1_wedge"]),
    ],
)
@pytest.mark.parametrize("cubic", [True, False])
def test_ctf_and_weight_volumes_beside_particles_are_left_out(tmp_path, particles, others, cubic):
    for i, name in enumerate(particles):
        mrc(tmp_path / f"{name}.mrc", CUBES[i])
    for name in others:
        mrc(tmp_path / f"{name}.mrc", np.abs(CUBES[5] if cubic else CUBES[5, :, :, :5]))
    with pytest.warns(InputWarning, match=f"{len(others)} CTF or weight volumes, such as {others[0]}.mrc, were left"):
        found = readers.read_subtomograms(tmp_path)
    assert found.table["rlnImageName"] == [f"{name}.mrc" for name in particles]
    np.testing.assert_array_equal(found.subtomograms[:, 0], CUBES[:2])


def test_what_may_be_a_ctf_volume_of_no_particle_is_refused(tmp_path):
    for i, name in enumerate(("a_1.mrc", "a_2.mrc", "ctf_7.mrc")):
        mrc(tmp_path / name, CUBES[i])
    says(lambda: readers.read_subtomograms(tmp_path), "ctf_7.mrc", "move the others", "STAR that names the particles")
    named = star(tmp_path / "p.star", rlnImageName=["a_1.mrc", "a_2.mrc"])
    assert len(readers.read_subtomograms(named)) == 2, "a way out"
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "ctf_7.mrc").rename(tmp_path / "elsewhere" / "ctf_7.mrc")
    assert len(readers.read_subtomograms(tmp_path)) == 2, "another way out"


def test_particles_whose_names_speak_of_the_ctf_are_read_without_warning(tmp_path):
    for i in range(2):
        mrc(tmp_path / f"TS_1_ctf_corrected_{i}.mrc", CUBES[i])
    assert readers.read_subtomograms(tmp_path).warnings == ()
    for i in range(2):
        mrc(tmp_path / f"factfinder_{i}.mrc", CUBES[i])  # no word of its own
    assert not members.COMPANION.search("factfinder_1")


@pytest.fixture
def project(tmp_path):
    """RELION's project folder, with a STAR whose names are relative to it, and one as Warp writes it."""
    root = tmp_path / "project"
    for folder in ("Extract/job005/Subtomograms", "relion", "subtomo/TS_1"):
        (root / folder).mkdir(parents=True)
    mrc(root / "Extract/job005/Subtomograms/1_data.mrc", CUBES[0])
    mrc(root / "subtomo/TS_1/TS_1_0000005.mrc", CUBES[1])
    mrc(tmp_path / "secret.mrc", CUBES[2])
    star(root / "Extract/job005/particles.star", rlnImageName=["Extract/job005/Subtomograms/1_data.mrc"])
    star(root / "relion/matching.star", rlnImageName=["../subtomo/TS_1/TS_1_0000005.mrc"])
    return root


@pytest.mark.parametrize("name, cube", [("Extract/job005/particles.star", 0), ("relion/matching.star", 1)])
def test_names_relative_to_a_project_folder_are_found_when_it_is_named(project, name, cube):
    says(lambda: readers.read_subtomograms(project / name), name, f"pass project_folder={project},")
    found = readers.read_subtomograms(project / name, project_folder=project)  # the way out
    np.testing.assert_array_equal(found.subtomograms[0, 0], CUBES[cube])
    assert found.warnings == ()


def test_no_name_leaves_the_folder_that_the_user_named(project, tmp_path):
    for name in ("../secret.mrc", "../../secret.mrc", "../../../secret.mrc", str(tmp_path / "secret.mrc"), "link.mrc"):
        path = star(project / "relion/p.star", rlnImageName=[name])
        if name == "link.mrc":
            (project / name).symlink_to(tmp_path / "secret.mrc")
        says(lambda path=path: readers.read_subtomograms(path, project_folder=project), "p.star", "project_folder")
    inside = star(project / "relion/p.star", rlnImageName=[str(project / "subtomo/TS_1/TS_1_0000005.mrc")])
    assert len(readers.read_subtomograms(inside, project_folder=project)) == 1, "an absolute name inside it"
    says(lambda: readers.read_subtomograms(inside), "leaves the STAR's folder", "project_folder")
    gone = star(project / "relion/p.star", rlnImageName=["../../../../../../../etc/hostname"])
    says(lambda: readers.read_subtomograms(gone), "pass as project_folder the folder")


def test_a_name_that_is_two_files_is_refused(project):
    star(project / "relion/p.star", rlnImageName=["one.mrc"])
    mrc(project / "one.mrc", CUBES[0])
    assert len(readers.read_subtomograms(project / "relion/p.star", project_folder=project)) == 1
    os.link(project / "one.mrc", project / "relion/one.mrc")
    assert len(readers.read_subtomograms(project / "relion/p.star", project_folder=project)) == 1, "the same file"
    (project / "relion/one.mrc").unlink()
    mrc(project / "relion/one.mrc", CUBES[1])
    says(lambda: readers.read_subtomograms(project / "relion/p.star", project_folder=project), "one.mrc", "or")


def spoil(path, how):
    if how == "missing":
        path.unlink()
    elif how == "truncated":
        path.write_bytes(path.read_bytes()[:1500])
    else:
        value = {"constant": 3.0, "nan": np.nan, "size": None}[how]
        mrc(path, CUBES[0, :6, :6, :6] if value is None else np.where(CUBES[0] > 1, value, value).astype(np.float32))


@pytest.mark.parametrize("how, word", [("missing", "is not a file"), ("truncated", "truncated"), ("size", "6 voxels"),
                                       ("constant", "constant"), ("nan", "not finite")])  # fmt: skip
def test_one_bad_file_of_a_star_is_a_row_that_is_not_classified(tmp_path, how, word):
    for i, cube in enumerate(CUBES[:4]):
        mrc(tmp_path / f"{i}.mrc", cube)
    path = star(tmp_path / "p.star", rlnImageName=[f"{i}.mrc" for i in range(4)])
    spoil(tmp_path / "2.mrc", how)
    with pytest.warns(InputWarning, match="p.star: not classified: row 3 ") as caught:
        found = readers.read_subtomograms(path)
    assert len(caught) == 1 and word in found.bad[2] and list(found.bad) == [2] and len(found) == 4
    good = found.subtomograms[[0, 1, 3], 0].numpy()
    np.testing.assert_array_equal(good, CUBES[[0, 1, 3]])
    assert found.subtomograms[2].isnan().all()
    mrc(tmp_path / "2.mrc", CUBES[2])
    spoil(tmp_path / "0.mrc", how)
    with pytest.warns(InputWarning, match="p.star: not classified: row 1 "):
        assert list(readers.read_subtomograms(path).bad) == [0], "the first file sets no standard"
    spoil(tmp_path / "2.mrc", how)
    says(lambda: readers.read_subtomograms(path), "voxels" if how == "size" else word)  # half of the rows


def test_one_name_that_leaves_the_folder_is_a_row_that_is_not_classified(tmp_path):
    mrc(tmp_path / "s.mrcs", CUBES[:3].reshape(24, 8, 8))
    inner = tmp_path / "inner"
    inner.mkdir()
    mrc(inner / "s.mrcs", CUBES[:3].reshape(24, 8, 8))
    for name, word in (("1@../s.mrcs", "leaves"), ("9@s.mrcs", "holds 3"), ("x@s.mrcs", "number"), ("x" * 300, "file")):
        path = star(inner / "p.star", rlnImageName=["1@s.mrcs", "2@s.mrcs", name])
        with pytest.warns(InputWarning, match="not classified: row 3 "):
            assert word in readers.read_subtomograms(path).bad[2]


def test_single_volumes_of_stacks_and_folders_without_contrast_are_left_out(tmp_path):
    stack = CUBES[:4].copy()
    stack[1], stack[3, 0, 0, 0] = 7.0, np.inf
    folder = tmp_path / "folder"
    folder.mkdir()
    for i in range(5):
        em(folder / f"{i}.em", np.full((8, 8, 8), 2.0, np.float32) if i == 4 else CUBES[i])
    (folder / "2.em").write_bytes((folder / "2.em").read_bytes()[:700])
    five = np.concatenate([stack, CUBES[4:5]])
    for path, bad in (
        (mrc(tmp_path / "s.mrcs", five.reshape(40, 8, 8)), [1, 3]),
        (hdf(tmp_path / "s.hdf", five), [1, 3]),
        (folder, [2, 4]),
    ):
        with pytest.warns(InputWarning, match=f"not classified: row {bad[0] + 1} .*; row {bad[1] + 1} "):
            found = readers.read_subtomograms(path)
        assert list(found.bad) == bad and len(found) == 5
    says(lambda: readers.read_subtomograms(mrc(tmp_path / "s.mrcs", stack.reshape(32, 8, 8))), "constant")


def test_averages_masks_hidden_files_and_other_cases_of_an_ending(tmp_path):
    cubes = RNG.normal(size=(6, 8, 8, 8)).astype(np.float32)
    for i, cube in enumerate(cubes):
        mrc(tmp_path / f"p{i}.MRC", cube)
    for name in ("average.mrc", "mask.mrc", "TS_1_reference_2.mrc"):
        mrc(tmp_path / name, cubes[0])
    for name in ("._p0.mrc", ".DS_Store"):
        (tmp_path / name).write_bytes(b"no volume")
    with pytest.warns(
        InputWarning, match="3 averages, masks or references, such as TS_1_reference_2.mrc, were left out"
    ):
        found = readers.read_subtomograms(tmp_path)
    assert found.table["rlnImageName"] == [f"p{i}.MRC" for i in range(6)]
    for i in range(6):
        (tmp_path / f"p{i}.MRC").rename(tmp_path / f"avg_{i}.mrc")
    assert len(readers.read_subtomograms(tmp_path)) == 9, "names that most files have tell nothing"


def test_names_with_backslashes_and_links_out_of_the_folder(tmp_path):
    for name in ("data", "job"):
        (tmp_path / name).mkdir()
    for i in range(4):
        mrc(tmp_path / "data" / f"p{i}.mrc", RNG.normal(size=(8, 8, 8)).astype(np.float32))
        (tmp_path / "job" / f"p{i}.mrc").symlink_to(tmp_path / "data" / f"p{i}.mrc")
    windows = star(tmp_path / "data" / "w.star", rlnImageName=[f"..\\data\\p{i}.mrc" for i in range(4)])
    assert len(readers.read_subtomograms(windows)) == 4
    linked = star(tmp_path / "job" / "l.star", rlnImageName=[f"p{i}.mrc" for i in range(4)])
    for project in (None, tmp_path / "job"):
        says(
            lambda p=project: readers.read_subtomograms(linked, project_folder=p),
            "l.star",
            f"project_folder={tmp_path}",
        )
    assert len(readers.read_subtomograms(linked, project_folder=tmp_path)) == 4, "the way out"
