"""Predictions as files: tables that other programs read, class fractions, and aligned averages."""

import re
from dataclasses import replace

import numpy as np
import pytest
import starfile
import torch
from helpers.files import says
from scipy import ndimage

import data_fetch
from cryoshift_core.application import predictions
from cryoshift_core.application.predictions import NOT_CLASSIFIED
from cryoshift_core.application.target_data import TargetData
from cryoshift_core.data import Unlabelled, normalize
from cryoshift_core.tomography import extraction, star
from cryoshift_core.tomography.volumes import ContrastGuess, Particles
from data_fetch import readers

CLASSES = ("TRiC", "ribosome 80S", "ice")
P = torch.tensor([[0.9, 0.1, 0], [0.2, 0.7, 0.1], [0.6, 0.3, 0.1], [0.25, 0.5, 0.25]])
UNKNOWN = torch.tensor([False, False, True, False])


def target_of(particles, kept, n=8):
    """Subtomograms of noise for the `kept` rows of `particles`."""
    g = torch.Generator().manual_seed(0)
    subtomograms = Unlabelled(
        torch.randn(len(kept), 1, n, n, n, generator=g), 10.0, torch.zeros(len(kept)).long(), "mine"
    )
    return TargetData(subtomograms, np.array(kept), particles, "bright", ContrastGuess("bright", 9.0, "skewness"))


def star_input(tmp_path):
    """A RELION 5 file of six particles, two of them without a subtomogram, as the reader reads it."""
    (tmp_path / "in.star").write_text(
        "# version 50001\n\ndata_general\n\n_rlnTomoSubTomosAre2DStacks   1\n\n"
        "data_optics\n\nloop_\n_rlnOpticsGroup #1\n_rlnOpticsGroupName #2\n_rlnVoltage #3\n"
        "1 opticsGroup1 300.000000\n\n"
        "data_particles\n\nloop_\n_rlnTomoName #1\n_rlnCoordinateX #2\n_rlnClassNumber #3\n_myRemark #4\n"
        + "".join(f"TS_01 {10.5 * i:.6f} {i + 7} 'no {i}'\n" for i in range(6))
    )
    tables = star.read_star(tmp_path / "in.star")
    table = tables.pop("particles")
    return target_of(Particles(table, kind="star", block="particles", rest=tables), [0, 2, 3, 5])


def test_the_table_goes_back_with_its_own_columns_in_its_own_order(tmp_path):
    data = star_input(tmp_path)
    path = predictions.write(tmp_path / "out", data, P, CLASSES, UNKNOWN)[0]
    assert path == tmp_path / "out" / "predictions.star"
    back = star.read_star(path)
    assert list(back) == ["general", "optics", "particles"]
    assert {name: back[name] for name in data.particles.rest} == data.particles.rest
    own, found = data.particles.table, back["particles"]
    assert {name: found[name] for name in own if name != "rlnClassNumber"} == {
        name: values for name, values in own.items() if name != "rlnClassNumber"
    }
    assert found["csInputClassNumber"] == own["rlnClassNumber"] == ["7", "8", "9", "10", "11", "12"]
    assert found["rlnClassNumber"] == ["1", "0", "2", "1", "0", "2"]
    none = NOT_CLASSIFIED
    assert found["csClass"] == ["TRiC", none, "ribosome_80S", "TRiC", none, "ribosome_80S"]
    assert found["csConfidence"] == ["0.9000", "0.0000", "0.7000", "0.6000", "0.0000", "0.5000"]
    assert found["csProbability_ribosome_80S"] == ["0.1000", "0.0000", "0.7000", "0.3000", "0.0000", "0.5000"]
    assert found["csNoneOfThese"] == ["0", "0", "0", "1", "0", "0"]


def test_other_programs_read_the_table(tmp_path):
    data = star_input(tmp_path)
    path = predictions.write(tmp_path / "out", data, P, CLASSES)[0]
    read = starfile.read(path)
    assert read["general"] == {"rlnTomoSubTomosAre2DStacks": 1}, "a list of label and value, as it came"
    rows = read["particles"]
    assert rows["rlnCoordinateX"].tolist() == [10.5 * i for i in range(6)]
    assert rows["rlnClassNumber"].tolist() == [1, 0, 2, 1, 0, 2]
    assert rows["csProbability_TRiC"].tolist() == [0.9, 0, 0.2, 0.6, 0, 0.25]
    # RELION takes a label up to two characters before its #, ends a table at the first empty line, wants full rows.
    loop = path.read_text().split("data_particles\n\nloop_\n")[1].split("\n\n")[0].splitlines()
    labels = [line for line in loop if line.startswith("_")]
    assert all(re.fullmatch(rf"_\w+ #{i}", line) for i, line in enumerate(labels, 1))
    assert all(len(line.split("\t")) == len(labels) for line in loop[len(labels) :]) and len(loop) - len(labels) == 6
    assert "\r" not in path.read_text() and not list((tmp_path / "out").rglob("*.part"))


def test_each_class_has_a_file_of_the_rows_that_fit_it(tmp_path):
    data = star_input(tmp_path)
    folder = tmp_path / "out" / "classes"
    first = predictions.write(tmp_path / "out", data, P[:, [2, 0, 1]], CLASSES)
    (folder / "mine.star").write_text("data_mine\n")
    assert {p.name for p in first[1:]} == {"ribosome_80S.star", "ice.star"}
    paths = predictions.write(tmp_path / "out", data, P, CLASSES, UNKNOWN)
    assert {p.name for p in paths[1:]} == {"TRiC.star", "ribosome_80S.star", "none_of_these.star"}
    assert {p.name for p in folder.iterdir()} == {p.name for p in paths[1:]} | {"mine.star"}, "no ice of the first"
    whole = star.read_star(paths[0])["particles"]
    rows = {path.stem: star.read_star(path) for path in paths[1:]}
    assert all(list(tables) == ["general", "optics", "particles"] for tables in rows.values())
    assert rows["TRiC"]["particles"] == {name: values[:1] for name, values in whole.items()}
    assert rows["ribosome_80S"]["particles"] == {name: [values[2], values[5]] for name, values in whole.items()}
    assert rows["none_of_these"]["particles"]["csClass"] == ["TRiC"]


def test_predictions_for_predicted_input_replace_the_old_columns(tmp_path):
    data = star_input(tmp_path)
    first = star.read_star(predictions.write(tmp_path / "a", data, P, CLASSES, UNKNOWN)[0])["particles"]
    again = replace(data, particles=replace(data.particles, table=first))
    second = star.read_star(predictions.write(tmp_path / "b", again, P[:, :2], ("x", "y"))[0])["particles"]
    assert second["csInputClassNumber"] == first["rlnClassNumber"] and second["csClass"][0] == "x"
    assert not {"csProbability_TRiC", "csNoneOfThese"} & set(second) and "csProbability_y" in second


def test_a_stack_without_a_table_gets_one(tmp_path):
    names = [f"{i + 1:06d}@s.mrcs" for i in range(4)]
    paths = predictions.write(tmp_path, target_of(Particles({"rlnImageName": names}), range(4)), P, CLASSES)
    rows = starfile.read(paths[0])
    assert rows["rlnImageName"].tolist() == names and rows["rlnClassNumber"].tolist() == [1, 2, 1, 2]
    assert "csNoneOfThese" not in rows and not [p for p in paths if p.suffix == ".tbl"]


def test_what_relion_asks_for_is_added_in_a_file_of_its_own(tmp_path):
    names = [f"{i + 1:06d}@s.mrcs" for i in range(4)]
    predictions.write(tmp_path, target_of(Particles({"rlnImageName": names}), range(4)), P, CLASSES)
    plain, added = (star.read_star(tmp_path / f"predictions{end}.star") for end in ("", "_relion"))
    assert len(plain) == 1 and list(added) == ["optics", "particles"], "scripts read one table from the former"
    (table,) = plain.values()
    assert {name: added["particles"][name] for name in table} == table
    assert added["particles"]["rlnOpticsGroup"] == ["1"] * 4


def test_hostile_class_names_stay_in_their_folder(tmp_path):
    hostile = ("../../evil", "a/b c", "A_B_C", "none_of_these", "", "data_x", "x" * 300)
    names = predictions.safe_names(hostile)
    assert names[:5] == ["evil", "a_b_c", "A_B_C_2", "none_of_these_2", "class"]
    assert all(re.fullmatch(r"\w{1,62}", name) for name in names)
    data = target_of(Particles({"rlnImageName": ["one.mrc"] * 7}), range(7))
    paths = predictions.write(tmp_path / "deep" / "out", data, torch.eye(7), hostile)
    assert len(paths) == 8 and all(path.resolve().is_relative_to(tmp_path / "deep" / "out") for path in paths)
    assert {p.parent for p in tmp_path.rglob("*.star")} == {tmp_path / "deep/out", tmp_path / "deep/out/classes"}
    assert starfile.read(paths[0])["csClass"].tolist() == names


@pytest.mark.parametrize("n_columns", [20, 35])
def test_a_dynamo_table_comes_back_with_its_classes(tmp_path, n_columns):
    import dynamotable
    from dynamotable.utils import COLUMN_NAMES

    rng = np.random.default_rng(0)
    table = {name: [f"{value:.6g}" for value in rng.normal(size=5)] for name in COLUMN_NAMES[:n_columns]}
    table["tag"] = ["3", "4", "9", "12", "15"]
    data = target_of(Particles(table, kind="dynamo"), [0, 1, 3, 4])
    path = predictions.write(tmp_path, data, P, CLASSES)[-1]
    assert path.name == "predictions.tbl"
    back = dynamotable.read(path)
    assert back["class"].tolist() == [1, 2, 0, 1, 2] and back.columns[21] == "class"
    assert back["tag"].tolist() == [3, 4, 9, 12, 15]
    for name in set(table) - {"class"}:
        assert back[name].tolist() == [float(text) for text in table[name]]
    assert len(back.columns) == max(22, n_columns)


def test_numbers_that_do_not_fit_are_refused(tmp_path):
    data = star_input(tmp_path)
    says(lambda: predictions.write(tmp_path / "out", data, P[:3], CLASSES), "(3, 3)", "4 subtomograms")
    says(lambda: predictions.write(tmp_path / "out", data, P, CLASSES[:2]), "2 classes", "4 subtomograms")
    says(lambda: predictions.write(tmp_path / "out", data, P, CLASSES, UNKNOWN[:2]), "(2,)", "4 subtomograms")
    says(lambda: predictions.write(tmp_path / "out", data, P / 0, CLASSES), "finite probabilities, got NaN")
    assert not (tmp_path / "out").exists()


def test_prevalence_is_the_fraction_of_predictions_with_wilsons_interval():
    found = predictions.prevalence(torch.eye(3)[[0] * 30 + [1] * 70], CLASSES)
    assert [count.n for count in found.values()] == [30, 70, 0]
    fraction, low, high = found["TRiC"].fraction
    assert fraction == 0.3 and low == pytest.approx(0.219, abs=1e-3) and high == pytest.approx(0.396, abs=1e-3)
    assert found["ice"].fraction.mean == 0 and found["ice"].fraction.high > 0.01
    without = predictions.prevalence(P, CLASSES, UNKNOWN)
    assert [count.n for count in without.values()] == [1, 2, 0] and without["TRiC"].fraction.mean == pytest.approx(
        1 / 3
    )
    for most in (UNKNOWN | True, torch.tensor([True, False, True, True])):
        assert predictions.prevalence(P, CLASSES, most) == predictions.prevalence(P, CLASSES), (
            "the mark is not specific"
        )
    half = torch.tensor([True, False, True, False])
    assert [count.n for count in predictions.prevalence(P, CLASSES, half).values()] == [0, 2, 0]
    says(lambda: predictions.prevalence(P, CLASSES[:2]), "(4, 3)", "2 classes")


def relion_matrix(rot, tilt, psi):
    """Euler_angles2matrix of RELION's src/euler.cpp, written out: from the reference to the particle, xyz."""
    (ca, cb, cg), (sa, sb, sg) = np.cos(np.radians([rot, tilt, psi])), np.sin(np.radians([rot, tilt, psi]))
    return np.array(
        [
            [cg * cb * ca - sg * sa, cg * cb * sa + sg * ca, -cg * sb],
            [-sg * cb * ca - cg * sa, -sg * cb * sa + cg * ca, sg * sb],
            [sb * ca, sb * sa, cb],
        ]
    )


def blobs(n=20):
    """An asymmetric volume: three Gaussians off the centre, which is index n // 2."""
    grid = np.indices((n, n, n)) - n // 2
    at = [((0, 0, 5), 1.0), ((0, 4, -2), 0.7), ((-4, -2, 1), 0.5)]
    return sum(h * np.exp(-sum((g - c) ** 2 for g, c in zip(grid, zyx, strict=True)) / 4) for zyx, h in at)


def turned(volume, angles):
    """The particle: at p it is the reference at A^T p, so scipy, which asks where from, wants A^T in zyx."""
    back = relion_matrix(*angles).T[::-1, ::-1]
    centre = np.full(3, len(volume) // 2)
    return ndimage.affine_transform(volume, back, centre - back @ centre, order=3)


def test_particles_rotated_by_relions_angles_are_averaged_in_one_frame():
    reference = blobs()
    angles = np.random.default_rng(0).uniform([-180, 0, -180], [180, 180, 180], (40, 3))
    particles = np.stack([turned(reference, a) for a in angles])
    subtomograms = torch.from_numpy(particles[:, None]).float()
    average = predictions.class_average(subtomograms, angles)
    assert average.shape == (1, 20, 20, 20)

    def agreement(volume):
        return np.corrcoef(np.asarray(volume).ravel(), reference.ravel())[0, 1]

    assert agreement(average) > 0.95
    assert agreement(predictions.class_average(subtomograms, -angles[:, ::-1])) < 0.8, "the inverse rotation"
    assert agreement(subtomograms.mean(0)) < 0.8
    torch.testing.assert_close(predictions.class_average(subtomograms, 0 * angles), subtomograms.mean(0))
    says(lambda: predictions.class_average(subtomograms, angles[:3]), "3 sets of angles for 40 subtomograms")


def test_the_lattice_of_the_shipped_tomogram_comes_out_of_its_angles():
    """RELION's own angles on real data: the Gag shell stands across z, the same all round."""
    sample = data_fetch.sample()
    volume = readers.read_tomogram(sample.tomogram)
    picks = readers.read_picks(sample.coordinates, volume)
    x, kept = extraction.extract(volume.data, picks.zyx, 16, volume.voxel_size)
    some = slice(None, None, 20)
    x, angles = normalize(x[some]), picks.angles[kept[some]]
    average, inverse = (predictions.class_average(x, a)[0] for a in (angles, -angles[:, ::-1]))
    assert average.var() > 3 * inverse.var(), "the wrong way round they cancel"
    along_z = average[4:13, 5:12, 5:12].mean((1, 2))
    assert along_z[2:6].min() > 0.5 > 0 > along_z[[0, 1, -1]].max(), "a layer between what is no Gag"


def test_averages_and_prevalence_are_computed_on_the_device_of_their_input():
    """A default device of "meta" shows each tensor that is made without a device."""
    x, angles = torch.randn(5, 1, 8, 8, 8, generator=torch.Generator().manual_seed(0)), np.zeros((5, 3))
    with torch.device("meta"):
        average = predictions.class_average(x, angles)
        found = predictions.prevalence(P, CLASSES)
        order = predictions.by_class(P, CLASSES, None)
    torch.testing.assert_close(average, x.mean(0))
    assert found["TRiC"].fraction.mean == 0.5 and order["TRiC"].tolist() == [0, 2]
