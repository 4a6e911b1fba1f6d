"""What a file holds is told by its header and its tables, not by its shape."""

import gzip

import mrcfile
import numpy as np
import pytest
from helpers.files import RNG, mrc, patch, says, star

from cryoshift_core.errors import InputWarning
from cryoshift_core.tomography.mrc import read_mrc
from cryoshift_core.tomography.star import write_star
from data_fetch import readers

CUBES = RNG.normal(size=(2, 12, 12, 12)).astype(np.float32)
STACK = CUBES.reshape(24, 12, 12)


def images(path, data=STACK, **header):
    """Images as mrcfile writes them: ISPG 0, mz 1."""
    return mrc(path, data, **{"ispg": 0, "mz": 1, **header})


def as_volume(path):
    """What the messages say."""
    mrcfile.open(path, "r+").set_volume()
    return path


@pytest.mark.parametrize("name", ["a.mrc", "a.mrcs"])
def test_images_are_no_subtomograms_whatever_their_number(tmp_path, name):
    for n in (24, 12, 17):
        says(lambda n=n: readers.read_subtomograms(images(tmp_path / name, STACK[:n])), name, f"{n} images of 12 x 12")
    assert len(readers.read_subtomograms(as_volume(images(tmp_path / name)))) == 2, "the way out"


def test_a_tilt_series_is_no_tomogram(tmp_path):
    series = STACK[:20]
    for path in (images(tmp_path / "a.mrc", series), mrc(tmp_path / "a.st", series, ispg=0)):
        says(lambda p=path: readers.read_tomogram(p), path.name, "20 images", "tilt series", "reconstruction")
        assert readers.read_tomogram(as_volume(path)).data.shape == series.shape, "the way out"
    camera = mrc(tmp_path / "b.mrc", series, ispg=0)
    raw = camera.read_bytes()
    camera.write_bytes(raw[:1024] + bytes(512) + raw[1024:])
    with mrcfile.open(patch(patch(camera, 92, 512), 104, np.frombuffer(b"SERI", "u1"), "u1"), permissive=True) as file:
        assert file.data.shape == series.shape
    says(lambda: readers.read_tomogram(camera), "b.mrc", "tilt series")
    assert readers.read_tomogram(mrc(tmp_path / "old.rec", series, ispg=0)).data.shape == series.shape, "older IMOD"


def test_a_file_that_a_mdoc_describes_is_a_tilt_series(tmp_path):
    path = mrc(tmp_path / "TS_1.mrc", STACK[:3])
    sections = "".join(f"[ZValue = {i}]\nTiltAngle = {3 * i}\n\n" for i in range(3))
    (tmp_path / "TS_1.mrc.mdoc").write_text(f"PixelSpacing = 2.7\n\n{sections}")
    says(lambda: readers.read_tomogram(path), "TS_1.mrc", "tilt series of 3 images", "TS_1.mrc.mdoc", "reconstruction")
    assert readers.read_tomogram(mrc(tmp_path / "TS_1.mrc", STACK[:5])).data.shape == (5, 12, 12)


def test_a_stack_of_volumes_is_split_by_its_header(tmp_path):
    path = mrc(tmp_path / "a.mrc", STACK, ispg=401, mz=12)
    np.testing.assert_array_equal(readers.read_subtomograms(path).subtomograms[:, 0], CUBES)
    for read in (readers.read_tomogram, read_mrc):
        says(lambda read=read: read(path), "2 volumes of 12 x 12 x 12", "ISPG 401", "subtomograms")
    thin = mrc(tmp_path / "b.mrc", STACK, ispg=401, mz=6)
    says(lambda: readers.read_subtomograms(thin), "4 volumes of 12 x 12 x 6", "cubic")
    says(lambda: readers.read_tomogram(thin), "4 volumes of 12 x 12 x 6", "a file of its own")
    one = mrc(tmp_path / "c.mrc", STACK[:6])
    assert readers.read_tomogram(one).data.shape == (6, 12, 12), "the way out"


@pytest.mark.parametrize("n", [12, 17])
@pytest.mark.parametrize(
    "general, optics",
    [
        ({"rlnTomoSubTomosAre2DStacks": [1]}, {}),
        ({}, {"rlnImageDimensionality": [2]}),
        ({"rlnTomoSubTomosAre2DStacks": [1]}, {"rlnImageDimensionality": [2]}),
    ],
)
def test_a_star_of_projections_is_refused_with_how_to_export_volumes(tmp_path, n, general, optics):
    for name in "ab":
        mrc(tmp_path / f"{name}.mrcs", STACK[:n])  # in a header that tells nothing
    tables = {"general": general} if general else {}
    tables["optics"] = {"rlnOpticsGroup": [1], "rlnImagePixelSize": [10.0]} | optics
    tables["particles"] = {"rlnImageName": ["a.mrcs", "b.mrcs"], "rlnOpticsGroup": [1, 1]}
    write_star(tmp_path / "p.star", tables)
    says(lambda: readers.read_subtomograms(tmp_path / "p.star"), "p.star", "2-D projections", "3-D", "--3d")
    if n == 12:
        tables["optics"]["rlnImageDimensionality"] = [3]
        write_star(tmp_path / "p.star", tables | ({"general": {"rlnTomoSubTomosAre2DStacks": [0]}} if general else {}))
        assert len(readers.read_subtomograms(tmp_path / "p.star")) == 2, "volumes are read"


def test_a_star_of_image_files_is_refused_by_their_headers(tmp_path):
    images(tmp_path / "a.mrcs", STACK[:12])
    path = star(tmp_path / "p.star", rlnImageName=["a.mrcs"], rlnImagePixelSize=[10.0])
    says(lambda: readers.read_subtomograms(path), "a.mrcs", "12 images", "3-D subtomograms")


def test_a_volume_that_is_thin_across_the_beam_gives_a_warning(tmp_path):
    volume = RNG.normal(size=(24, 10, 24)).astype(np.float32)
    with pytest.warns(InputWarning, match="24 x 10 x 24 voxels is thinnest along y; the beam is expected along z"):
        found = readers.read_tomogram(mrc(tmp_path / "a.mrc", volume))
    assert len(found.warnings) == 1
    for shape in ((10, 24, 24), (24, 24, 24), (24, 16, 24)):
        assert readers.read_tomogram(mrc(tmp_path / "a.mrc", RNG.normal(size=shape))).warnings == ()


INTEGERS = RNG.integers(-100, 100, (5, 6, 7))


@pytest.mark.parametrize("stamp", [b"\x11\x11", b"\0\0", b"DD"])
@pytest.mark.parametrize("dtype", [np.int8, np.int16, np.float32, np.uint16, np.float16])
def test_big_endian_files_of_every_mode_open_even_with_a_wrong_stamp(tmp_path, dtype, stamp):
    data = np.abs(INTEGERS).astype(dtype) if dtype is np.uint16 else INTEGERS.astype(dtype)
    path = mrc(tmp_path / "a.mrc", data)
    raw = bytearray(path.read_bytes())
    words = np.frombuffer(bytes(raw[:224]), "<i4").astype(">i4").tobytes()
    raw[:104], raw[108:208], raw[216:224] = words[:104], words[108:208], words[216:224]
    raw[212:214] = stamp
    path.write_bytes(bytes(raw[:1024]) + data.astype(data.dtype.newbyteorder(">")).tobytes())
    volume = readers.read_tomogram(path)
    np.testing.assert_array_equal(np.asarray(volume.data), data)
    assert volume.voxel_size == pytest.approx(10.0)
    np.testing.assert_array_equal(readers.read_tomogram(mrc(tmp_path / "b.mrc", data)).data, data)


@pytest.mark.parametrize("stored, meant", [(np.int8, np.uint8), (np.int16, np.uint16), (np.uint16, np.int16)])
def test_the_headers_range_tells_signed_from_unsigned(tmp_path, stored, meant):
    info = np.iinfo(meant)
    data = RNG.integers(info.min, info.max, (5, 6, 7)).astype(meant)
    path = mrc(tmp_path / "a.mrc", data.view(stored), dmin=float(data.min()), dmax=float(data.max()))
    np.testing.assert_array_equal(readers.read_tomogram(path).data, data)
    plain = data.view(stored)
    for low, high in ((0.0, 0.0), (5.0, 6.0), (float(plain.min()), float(plain.max()))):  # unknown, stale, and right
        np.testing.assert_array_equal(
            readers.read_tomogram(mrc(tmp_path / "b.mrc", plain, dmin=low, dmax=high)).data, plain
        )


@pytest.mark.parametrize("ending", ["mrc", "rec", "map"])
def test_gzipped_mrc_files_are_read(tmp_path, ending):
    volume = RNG.normal(size=(6, 7, 8)).astype(np.float32)
    path = tmp_path / f"a.{ending}.gz"
    path.write_bytes(gzip.compress(mrc(tmp_path / "plain.mrc", volume).read_bytes()))
    found = readers.read_tomogram(path)
    np.testing.assert_array_equal(found.data, volume)
    assert found.voxel_size == 10.0
    np.testing.assert_array_equal(read_mrc(path).data, volume)


def test_a_file_is_gzipped_by_its_content_not_by_its_name(tmp_path):
    plain = mrc(tmp_path / "plain.mrc", STACK[:6])
    (tmp_path / "zipped.mrc").write_bytes(gzip.compress(plain.read_bytes()))
    (tmp_path / "unzipped.mrc.gz").write_bytes(plain.read_bytes())
    for name in ("zipped.mrc", "unzipped.mrc.gz"):
        np.testing.assert_array_equal(readers.read_tomogram(tmp_path / name).data, STACK[:6])
    (tmp_path / "zipped.mrcs").write_bytes(gzip.compress(mrc(tmp_path / "a.mrcs", STACK, ispg=401, mz=12).read_bytes()))
    assert len(readers.read_subtomograms(tmp_path / "zipped.mrcs")) == 2


def test_gzipped_subtomograms_are_read_from_stack_folder_and_star(tmp_path):
    (tmp_path / "s.mrcs.gz").write_bytes(gzip.compress(mrc(tmp_path / "s.mrcs", CUBES[:, None]).read_bytes()))
    np.testing.assert_array_equal(readers.read_subtomograms(tmp_path / "s.mrcs.gz").subtomograms[:, 0], CUBES)
    folder = tmp_path / "folder"
    folder.mkdir()
    for i, cube in enumerate(CUBES):
        (folder / f"{i}.mrc.gz").write_bytes(gzip.compress(mrc(tmp_path / "c.mrc", cube).read_bytes()))
    np.testing.assert_array_equal(readers.read_subtomograms(folder).subtomograms[:, 0], CUBES)
    path = star(tmp_path / "p.star", rlnImageName=["folder/1.mrc.gz"])
    np.testing.assert_array_equal(readers.read_subtomograms(path).subtomograms[0, 0], CUBES[1])


def test_damaged_gzip_files_are_refused_before_memory_is_taken(tmp_path):
    whole = gzip.compress(mrc(tmp_path / "a.mrc", STACK).read_bytes())
    path = tmp_path / "a.mrc.gz"
    for raw in (b"", b"no gzip", whole[: len(whole) // 2], gzip.compress(b"x" * 3000)):
        path.write_bytes(raw)
        says(lambda: readers.read_tomogram(path), "a.mrc.gz")
    path.write_bytes(gzip.compress(patch(tmp_path / "a.mrc", 0, [10_000, 10_000, 10_000]).read_bytes()))
    says(lambda: readers.read_tomogram(path), "10000 x 10000 x 10000", "copy it again")
