"""What we write is what the libraries of other programs expect: dynamotable, mrcfile."""

import contextlib
import io

import dynamotable
import mrcfile
import numpy as np
import pytest
from helpers.files import mrc

from cryoshift_core.application import picks
from cryoshift_core.application.picks import Picks
from cryoshift_core.tomography.mrc import write_mrc
from data_fetch import readers

RNG = np.random.default_rng(0)


def test_picks_as_dynamotable_reads_them(tmp_path):
    path = mrc(tmp_path / "TS_3.mrc", RNG.normal(size=(31, 44, 57)).astype(np.float32), 13.48)
    found = {
        "ribosome_80S": Picks(RNG.random((7, 3)) * (30, 43, 56), np.linspace(0.99, 0.6, 7)),
        "TRiC": Picks(RNG.random((4, 3)) * (30, 43, 56), np.linspace(0.9, 0.5, 4)),
    }
    picks.write(tmp_path, [readers.read_tomogram(path)], found)
    table = dynamotable.read(tmp_path / "picks.tbl")
    zyx = np.concatenate([one.zyx for one in found.values()])
    assert np.abs(table[["z", "y", "x"]].to_numpy() - zyx - 1).max() < 0.01, "Dynamo counts voxels from 1"
    assert table["tag"].tolist() == list(range(1, 12)) and table["tomo"].tolist() == [1] * 11
    assert table["class"].tolist() == [1] * 7 + [2] * 4 and (table[["dx", "dy", "dz"]] == 0).all(axis=None)
    assert table["cc"].tolist() == pytest.approx(np.concatenate([one.confidence for one in found.values()]), abs=1e-4)


@pytest.mark.parametrize("shape", [(6, 7, 8), (3, 1, 8, 8, 8)], ids=["volume", "stack"])
@pytest.mark.parametrize("kind", [np.float32, np.int16, np.uint16, np.int8])
def test_mrc_files_are_valid(tmp_path, shape, kind):
    data = (20 * RNG.normal(size=shape)).clip(0, 100).astype(kind)
    write_mrc(tmp_path / "a.mrc", data, 13.48)
    with contextlib.redirect_stdout(said := io.StringIO()):
        assert mrcfile.validate(tmp_path / "a.mrc"), said.getvalue()
    with mrcfile.open(tmp_path / "a.mrc") as file:
        assert np.array_equal(file.data, data[:, 0] if data.ndim == 5 else data)
        assert file.is_volume_stack() == (data.ndim == 5) and float(file.voxel_size.z) == pytest.approx(13.48)
