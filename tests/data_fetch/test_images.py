"""Volumes in EM, EMAN2's HDF5, OME-Zarr and PNG montages, written by the formats' own libraries."""

import json
import struct
import sys
import zlib

import numpy as np
import pytest
import torch
from helpers.files import (
    RNG,
    SUBTOMOGRAMS,
    VOLUME,
    em,
    hdf,
    memory_below,
    mrc,
    ome,
    patch,
    png,
    random_subtomogram,
    says,
)
from PIL import Image

from cryoshift_core.errors import InputError, InputWarning
from cryoshift_core.tomography import extraction, star, volumes
from cryoshift_core.tomography.mrc import write_mrc
from cryoshift_core.tomography.volumes import Volume
from data_fetch import readers
from data_fetch.readers import grids, montage


def works_as_a_tomogram(volume, data):
    """Extraction and contrast give the same for `volume` as for an array of its values."""
    big = np.asarray(volume.data)
    assert volume.data.shape == data.shape and big.dtype == np.float32
    np.testing.assert_allclose(big, data, atol=2e-3)
    np.testing.assert_array_equal(volume.data[1:3, 2:5, ::2], big[1:3, 2:5, ::2])
    np.testing.assert_array_equal(volume.data[np.int64(2)], big[2])
    zyx = np.array([[3.0, 3.0, 3.0], [2.0, 3.5, 4.25]])
    cut, kept = extraction.extract(volume.data, zyx, 3, 10.0)
    same, also = extraction.extract(big, zyx, 3, 10.0)
    assert torch.equal(cut, same) and (kept == also).all() and len(kept) == 2
    assert volumes.guess_contrast(volume.data) == volumes.guess_contrast(big)


@pytest.mark.parametrize("dtype", [np.int8, np.int16, np.float32, np.float64])
def test_em_volume(tmp_path, dtype):
    data = (VOLUME * 30).astype(dtype)
    volume = readers.read_tomogram(em(tmp_path / "a.em", data, 13.68))
    assert isinstance(volume, Volume) and isinstance(volume.data, np.memmap)
    np.testing.assert_array_equal(volume.data, data)
    assert volume.voxel_size == pytest.approx(13.68) and volume.path.endswith("a.em")


def test_em_of_a_big_endian_machine(tmp_path):
    raw = bytearray(em(tmp_path / "a.em").read_bytes())
    words = np.frombuffer(bytes(raw[4:16]), "<i4"), np.frombuffer(bytes(raw[96:256]), "<i4")
    raw[0], raw[4:16], raw[96:256] = 3, words[0].astype(">i4").tobytes(), words[1].astype(">i4").tobytes()
    (tmp_path / "a.em").write_bytes(bytes(raw[:512]) + VOLUME.astype(">f4").tobytes())
    volume = readers.read_tomogram(tmp_path / "a.em")
    np.testing.assert_array_equal(volume.data, VOLUME)
    assert volume.voxel_size == 10.0


def test_em_errors_name_the_fault(tmp_path):
    path = tmp_path / "a.em"
    says(lambda: readers.read_tomogram(em(path, voxel_size=0)), "a.em", "no voxel size", "voxel_size")
    assert readers.read_tomogram(path, 8.0).voxel_size == 8.0
    says(lambda: readers.read_tomogram(patch(em(path), 3, 8, "u1")), "EM type 8", "1, 2, 4, 5, 9")
    says(lambda: readers.read_tomogram(patch(em(path), 0, 77, "u1")), "not an EM file")
    says(lambda: readers.read_tomogram(patch(em(path), 4, [-8, 7, 6])), "-8 x 7 x 6")
    says(lambda: readers.read_tomogram(em(path, VOLUME * 0 + 2)), "a.em", "constant")
    says(lambda: readers.read_tomogram(em(path, VOLUME * np.nan)), "a.em", "NaN")
    says(lambda: readers.read_tomogram(em(path, VOLUME.astype(float) * 1e300)), "a.em", "not finite")
    path.write_bytes(em(path).read_bytes()[:700])
    says(lambda: readers.read_tomogram(path), "8 x 7 x 6", "700", "truncated")
    path.write_bytes(b"")
    says(lambda: readers.read_tomogram(path), "not an EM file", "0 bytes")
    says(lambda: readers.read_tomogram(tmp_path / "no.em"), "no.em", "not a file")


def test_an_em_header_that_claims_a_trillion_voxels_takes_no_memory(tmp_path):
    path = patch(em(tmp_path / "a.em"), 4, [10_000, 10_000, 10_000])
    with memory_below(2e6):
        says(lambda: readers.read_tomogram(path), "10000 x 10000 x 10000")


def test_folder_of_dynamos_particles(tmp_path):
    for i, subtomogram in enumerate(SUBTOMOGRAMS):
        em(tmp_path / f"particle_{i + 1:06d}.em", subtomogram)
    particles = readers.read_subtomograms(tmp_path)
    assert particles.table == {"rlnImageName": [f"particle_{i:06d}.em" for i in (1, 2, 3)]}
    np.testing.assert_array_equal(particles.subtomograms[:, 0], SUBTOMOGRAMS)
    assert particles.voxel_size == 10.0 and particles.kind == ""
    np.testing.assert_array_equal(
        readers.read_subtomograms(tmp_path, box=6).subtomograms[:, 0], SUBTOMOGRAMS[:, 1:7, 1:7, 1:7]
    )
    for data, size, words in ((SUBTOMOGRAMS[0], 5.0, "expected 10 A .* got 5 A"), (VOLUME, 10.0, "8 x 7 x 6 .* cubic")):
        em(tmp_path / "particle_000004.em", data, size)
        with pytest.warns(InputWarning, match=f"row 4 .*particle_000004.em.* {words}"):
            assert list(readers.read_subtomograms(tmp_path).bad) == [3]


def test_hdf_tomogram_stays_on_disk(tmp_path):
    volume = readers.read_tomogram(hdf(tmp_path / "a.hdf"))
    assert isinstance(volume.data, grids.OnDisk) and volume.voxel_size == 10.0
    works_as_a_tomogram(volume, VOLUME)
    whole = grids.read_hdf(tmp_path / "a.hdf")
    assert type(whole.data) is np.ndarray and (whole.data == VOLUME).all()


def test_hdf_of_few_bits_gets_its_grey_values_back(tmp_path):
    low, high = VOLUME.min(), VOLUME.max()
    rounded = np.round((VOLUME - low) / (high - low) * 4095).astype(np.uint16)
    about = {"stored_renderbits": 12, "stored_rendermin": low, "stored_rendermax": high}
    works_as_a_tomogram(readers.read_tomogram(hdf(tmp_path / "a.hdf", [rounded], **about)), VOLUME)
    says(lambda: grids.read_hdf(hdf(tmp_path / "a.hdf", [rounded], **{**about, "stored_renderbits": 99})), "99 bits")


def test_hdf_stack_of_subtomograms(tmp_path):
    many = RNG.normal(size=(12, 8, 8, 8)).astype(np.float32)  # "10" sorts before "2" as text
    path = hdf(tmp_path / "stack.hdf", many)
    particles = readers.read_subtomograms(path)
    np.testing.assert_array_equal(particles.subtomograms[:, 0], many)
    assert particles.table["rlnImageName"][10] == "000011@stack.hdf" and particles.voxel_size == 10.0
    says(lambda: readers.read_tomogram(path), "12 images", "subtomograms")
    says(lambda: readers.read_subtomograms(tmp_path), "stack.hdf holds 12 volumes", "one per file")


def test_hdf_errors_name_the_fault(tmp_path):
    import h5py

    path = tmp_path / "a.hdf"
    says(lambda: readers.read_tomogram(hdf(path, apix=None)), "no voxel size", "voxel_size")
    assert readers.read_tomogram(path, 8.0).voxel_size == 8.0
    says(lambda: readers.read_tomogram(hdf(path, [VOLUME[0]])), "(7, 8)", "z, y, x")
    says(lambda: readers.read_tomogram(hdf(path, [np.full((2, 2, 2), 7.0)])), "constant")
    says(lambda: readers.read_tomogram(hdf(path, [VOLUME * np.inf])), "not finite")
    says(lambda: readers.read_tomogram(hdf(path, [VOLUME.astype(complex)])), "complex", "numbers")
    says(lambda: readers.read_tomogram(hdf(path, [])), "no images")
    raw = hdf(path).read_bytes()[:900]
    path.unlink()
    path.write_bytes(raw)
    says(lambda: readers.read_tomogram(path), "a.hdf", "copy")
    path.write_bytes(b"no HDF5")
    says(lambda: readers.read_tomogram(path), "a.hdf", "cannot be read")
    says(lambda: readers.read_tomogram(tmp_path / "no.hdf"), "not a file")
    with h5py.File(hdf(path), "r+") as file:
        del file["MDF/images"]
        file["MDF/images"] = np.zeros(3)
    says(lambda: readers.read_tomogram(path), "expected EMAN2's HDF5")
    with h5py.File(hdf(path), "r+") as file:
        del file["MDF"]
    says(lambda: readers.read_tomogram(path), "no /MDF/images")
    with h5py.File(hdf(path), "r+") as file:
        file["MDF/images/0"].attrs["EMAN.apix_z"] = 20.0
    says(lambda: readers.read_tomogram(path), "10 x 10 x 20 A", "cubic")


def test_hdf_follows_nothing_out_of_its_file(tmp_path):
    import h5py

    hdf(tmp_path / "secret.hdf")
    VOLUME.tofile(tmp_path / "secret.raw")
    path = tmp_path / "a.hdf"
    for target in ("MDF/images/0/image", "MDF/images/0", "MDF"):
        for link in (h5py.ExternalLink("secret.hdf", target), h5py.SoftLink("/elsewhere")):
            with h5py.File(hdf(path), "r+") as file:
                del file[target]
                file[target] = link
            says(lambda: readers.read_tomogram(path), "a.hdf", "is a link", target)
    with h5py.File(hdf(path), "r+") as file:
        del file["MDF/images/0/image"]
        raw = [(str(tmp_path / "secret.raw"), 0, VOLUME.nbytes)]
        file.create_dataset("MDF/images/0/image", VOLUME.shape, np.float32, external=raw)
    says(lambda: readers.read_tomogram(path), "a.hdf", "other files")
    with h5py.File(hdf(path), "r+") as file:
        del file["MDF/images/0/image"]
        layout = h5py.VirtualLayout(VOLUME.shape, np.float32)
        layout[:] = h5py.VirtualSource("secret.hdf", "MDF/images/0/image", VOLUME.shape)
        file.create_virtual_dataset("MDF/images/0/image", layout)
    says(lambda: readers.read_tomogram(path), "a.hdf", "other files")


def test_hdf_that_claims_what_it_does_not_store(tmp_path):
    import h5py

    for chunks in (None, (64, 64, 64), (1000, 1000, 1000)):
        with h5py.File(hdf(tmp_path / "a.hdf"), "r+") as file:
            del file["MDF/images/0/image"]
            shape = (10_000, 10_000, 10_000)
            file.create_dataset("MDF/images/0/image", shape, np.float32, chunks=chunks, fillvalue=1.0)
        says(lambda: readers.read_tomogram(tmp_path / "a.hdf"), "10000 x 10000 x 10000", "stores 0")
        says(lambda: readers.read_subtomograms(tmp_path / "a.hdf"), "10000 x 10000 x 10000", "stores 0")


def test_blocks_cover_a_volume_once_along_its_chunks(tmp_path):
    import h5py

    with h5py.File(tmp_path / "a.hdf", "w") as file:
        data = RNG.normal(size=(5, 4100, 4200)).astype(np.float16)
        file.create_dataset("a", data=data, chunks=(2, 1024, 1024))
        blocks = list(grids.OnDisk(file["a"]).blocks())
    assert len(blocks) > 3 and max(block.size for block in blocks) <= 1 << 24
    assert sum(block.size for block in blocks) == data.size
    assert sum(block.sum(dtype=float) for block in blocks) == pytest.approx(data.sum(dtype=float))


@pytest.mark.parametrize("version", ["0.4", "0.5"])
@pytest.mark.parametrize("lead", [0, 2])
def test_zarr_tomogram_stays_on_disk(tmp_path, version, lead):
    data = VOLUME.reshape((1,) * lead + VOLUME.shape)
    path = ome(tmp_path / "a.zarr", data, version, chunks=(1,) * lead + (4, 4, 4))
    volume = readers.read_tomogram(path)
    assert isinstance(volume.data, grids.OnDisk) and volume.voxel_size == 10.0
    works_as_a_tomogram(volume, VOLUME)
    assert type(grids.read_zarr(path).data) is np.ndarray


def test_zarr_units_and_levels(tmp_path):
    path, scales = tmp_path / "a.zarr", ((0.5, 0.5, 0.5), (1.0, 1.0, 1.0))
    for version in ("0.4", "0.5"):
        ome(path, version=version, scales=scales, unit="nanometer")
        for wanted, level, size in ((None, 0, 5.0), (0, 0, 5.0), (10.03, 1, 10.03), (7.0, 0, 7.0)):
            volume = readers.read_tomogram(path, wanted)
            assert volume.voxel_size == pytest.approx(size)
            np.testing.assert_array_equal(volume.data, VOLUME[:: 2**level, :: 2**level, :: 2**level])
    twice = {"image": {"coordinateTransformations": [{"type": "scale", "scale": [2.0, 2.0, 2.0]}]}}
    assert readers.read_tomogram(ome(path, scales=scales, unit="nanometer", **twice)).voxel_size == 10.0
    ome(path, unit=None)
    says(lambda: readers.read_tomogram(path), "no voxel size", "voxel_size")
    assert readers.read_tomogram(path, 12.0).voxel_size == 12.0


def test_zarr_shards_and_codecs(tmp_path):
    array = {"shards": (8, 8, 8), "compressors": "auto"}
    volume = readers.read_tomogram(ome(tmp_path / "a.zarr", version="0.5", chunks=(4, 4, 4), array=array))
    works_as_a_tomogram(volume, VOLUME)


@pytest.mark.parametrize("version", ["0.4", "0.5"])
def test_zarr_paths_that_leave_the_folder(tmp_path, version):
    ome(tmp_path / "secret.zarr", version=version)
    for name in ("../secret.zarr/0", str(tmp_path / "secret.zarr" / "0"), "0/../../secret.zarr/0", "sneaky"):
        path = ome(tmp_path / "a.zarr", version=version, levels={0: name})
        if name == "sneaky":
            (path / name).symlink_to(tmp_path / "secret.zarr" / "0")
        says(lambda p=path: readers.read_tomogram(p), "a.zarr", "leads out of the folder")


def test_zarr_errors_name_the_fault(tmp_path):
    import zarr

    path = tmp_path / "a.zarr"
    says(lambda: readers.read_tomogram(ome(path, scales=((30, 10, 10),))), "10 x 10 x 30 A", "cubic")
    says(lambda: readers.read_tomogram(ome(path, np.stack([VOLUME, VOLUME]))), "(2, 6, 7, 8)", "length 1")
    says(lambda: readers.read_tomogram(ome(path, VOLUME * 0 + 3)), "constant")
    says(lambda: readers.read_tomogram(ome(path, VOLUME * np.nan)), "not finite")
    says(lambda: readers.read_tomogram(ome(path, levels={0: "7"})), "no level '7'")
    says(lambda: readers.read_tomogram(ome(path, scales=())), "no resolution levels")
    says(lambda: readers.read_tomogram(ome(path, image={"axes": [{"name": n} for n in "xyz"]})), "['x', 'y', 'z']")
    for text in ("{", "[]", '{"multiscales": []}', '{"multiscales": [{"axes": 3}]}', "[" * 100_000):
        (ome(path) / ".zattrs").write_text(text)
        says(lambda: readers.read_tomogram(path), "a.zarr")
    chunk = ome(path) / "0" / "0.0.0"
    whole = chunk.read_bytes()
    for raw in (whole[:40], whole[:10], whole + b"0", whole[:4] + b"\xff\xff\xff\x7f" + whole[8:]):
        chunk.write_bytes(raw)  # numcodecs would unpack the first from what lies behind it in memory
        says(lambda: readers.read_tomogram(path), "0.0.0", "whole chunk")
    chunk.write_bytes(whole[:16] + bytes(len(whole) - 16))
    says(lambda: readers.read_tomogram(path), "a.zarr")
    packed = ome(path, version="0.5", array={"compressors": zarr.codecs.GzipCodec()}) / "0" / "c" / "0" / "0" / "0"
    packed.write_bytes(packed.read_bytes()[:40])
    says(lambda: readers.read_tomogram(path), "cannot be read")
    (tmp_path / "empty.zarr").mkdir()
    says(lambda: readers.read_tomogram(tmp_path / "empty.zarr"), "neither zarr.json nor .zattrs")
    says(lambda: readers.read_tomogram(tmp_path / "no.zarr"), "neither")


def test_zarr_claims_and_codecs_are_checked_first(tmp_path):
    path = ome(tmp_path / "a.zarr")
    about = json.loads((path / "0" / ".zarray").read_text())
    for change, words in (
        ({"shape": [10_000] * 3}, ("10000 x 10000 x 10000", "incomplete")),
        ({"filters": [{"id": "pickle"}]}, ("codec 'pickle'", "expected one of")),
        ({"compressor": {"id": "pickle"}}, ("codec 'pickle'",)),
        ({"dtype": "|O", "filters": [{"id": "pickle"}]}, ("codec 'pickle'",)),
        ({"chunks": [1 << 20] * 3}, ("memory",)),
        ({"zarr_format": 9}, ("cannot be read",)),
    ):
        (path / "0" / ".zarray").write_text(json.dumps({**about, **change}))
        says(lambda: readers.read_tomogram(path), "a.zarr", *words)
    path = ome(tmp_path / "b.zarr", version="0.5", chunks=(4, 4, 4), array={"shards": (8, 8, 8)})
    about = json.loads((path / "0" / "zarr.json").read_text())
    about["codecs"][0]["configuration"]["codecs"].append({"name": "numcodecs.pickle", "configuration": {}})
    (path / "0" / "zarr.json").write_text(json.dumps(about))
    says(lambda: readers.read_tomogram(path), "codec 'numcodecs.pickle'")


@pytest.mark.parametrize("name, ending", [("h5py", "hdf"), ("zarr", "zarr")])
def test_a_missing_library_is_named_with_its_extra(tmp_path, monkeypatch, name, ending):
    path = (hdf if ending == "hdf" else ome)(tmp_path / f"a.{ending}")
    monkeypatch.setitem(sys.modules, name, None)
    says(lambda: readers.read_tomogram(path), f"a.{ending}", name, "pip install 'cryoshift-core[formats]'")


@pytest.mark.parametrize("columns, rows, n, size", [(6, 5, 28, (174, 145)), (7, 7, 40, (287, 287))])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("gap", [True, False])
def test_png_montage(tmp_path, columns, rows, n, size, dtype, gap):
    subtomogram = random_subtomogram(n, dtype)
    path = png(tmp_path / "a.png", subtomogram, columns, rows, gap)
    with Image.open(path) as image:
        assert image.size == (size if gap else (size[0] - 1, size[1] - 1))
    particles = readers.read_subtomograms(path, voxel_size=13.68)
    np.testing.assert_array_equal(particles.subtomograms[0, 0], subtomogram.astype(np.float32))
    assert particles.voxel_size == 13.68 and particles.subtomograms.shape == (1, 1, n, n, n)


def test_layouts_are_told_apart_by_size():
    sizes = [(o.columns * (o.edge + 1), o.rows * (o.edge + 1)) for o in montage.LAYOUTS]
    assert sizes == [(174, 145), (287, 287)]
    for size in sizes:
        assert sum(o.fits(*size) for o in montage.LAYOUTS) == 1
        assert not any(o.fits(*reversed(size)) for o in montage.LAYOUTS) or size[0] == size[1]


def test_png_folders_per_class_are_kept_as_a_column(tmp_path):
    subtomograms = [random_subtomogram(28) for _ in range(3)]
    for subtomogram, name in zip(subtomograms, ("ribosome/b.png", "TRiC/a.png", "ribosome/a.png"), strict=True):
        png(tmp_path / name, subtomogram, 6, 5)
    particles = readers.read_subtomograms(tmp_path, voxel_size=10.0)
    assert particles.table == {
        "rlnImageName": ["TRiC/a.png", "ribosome/a.png", "ribosome/b.png"],
        "csFolder": ["TRiC", "ribosome", "ribosome"],
    }
    np.testing.assert_array_equal(
        particles.subtomograms[:, 0], np.float32([subtomograms[1], subtomograms[2], subtomograms[0]])
    )
    flat = readers.read_subtomograms(tmp_path / "ribosome", voxel_size=10.0)
    assert flat.table == {"rlnImageName": ["a.png", "b.png"]}


def test_folders_of_several_kinds(tmp_path):
    mrc(tmp_path / "one.mrc", SUBTOMOGRAMS[0])
    png(tmp_path / "one.png", random_subtomogram(28), 6, 5)
    assert readers.read_subtomograms(tmp_path).table["rlnImageName"] == ["one.mrc"]  # the PNG is a preview
    em(tmp_path / "one.em", SUBTOMOGRAMS[0])
    says(lambda: readers.read_subtomograms(tmp_path), ".mrc and .em", "one kind")


def chunk(name, data):
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def test_png_errors_name_the_fault(tmp_path):
    path = png(tmp_path / "a.png", random_subtomogram(28), 6, 5)
    raw = path.read_bytes()
    read = lambda: readers.read_subtomograms(path, voxel_size=10.0)  # noqa: E731
    says(lambda: readers.read_subtomograms(path), "a.png", "no voxel size", "voxel_size")
    says(lambda: readers.read_subtomograms(path, voxel_size=-1.0), "-1")
    for content, words in (
        (b"", "not a PNG"),
        (b"GIF89a" + bytes(100), "not a PNG"),
        (raw[: len(raw) // 2], "damaged PNG"),
    ):
        path.write_bytes(content)
        says(read, "a.png", words)
    Image.new("L", (100, 100)).save(path)
    says(read, "100 x 100 pixels", "174 x 145", "287 x 287")
    Image.new("RGB", (174, 145)).save(path)
    says(read, "colour type 2", "grey")
    Image.new("1", (174, 145)).save(path)
    says(read, "colour type 0 and 1 bits", "8 or 16 bits")
    Image.new("L", (174, 145), 5).save(path)
    says(read, "constant")
    says(lambda: readers.read_subtomograms(tmp_path / "no.png", voxel_size=1.0), "not a file")


def test_png_chunks_other_than_pixels_are_left_alone(tmp_path):
    path = png(tmp_path / "a.png", random_subtomogram(28, np.uint8), 6, 5)
    raw, subtomograms = path.read_bytes(), readers.read_subtomograms(path, voxel_size=10.0).subtomograms
    for name, data in (
        (b"IHDR", struct.pack(">IIBBBBB", 174, 145, 8, 2, 0, 0, 0)),
        (b"IHDR", struct.pack(">IIBBBBB", 99_000, 99_000, 8, 0, 0, 0, 0)),
        (b"zTXt", b"a\0\0" + zlib.compress(bytes(1 << 26))),
    ):
        path.write_bytes(raw[:33] + chunk(name, data) + raw[33:])
        assert torch.equal(readers.read_subtomograms(path, voxel_size=10.0).subtomograms, subtomograms)
    long = struct.pack(">I", 2**31 - 5) + b"fdAT"
    path.write_bytes(raw[:33] + long + raw[33:])
    with memory_below(2e6):
        says(lambda: readers.read_subtomograms(path, voxel_size=10.0), "a chunk continues", len(raw) + 8)
    with path.open("r+b") as file:
        file.truncate(1 << 25)
    says(lambda: readers.read_subtomograms(path, voxel_size=10.0), "33554432 bytes", "at most")


def test_a_png_bomb_is_refused_unread(tmp_path):
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 100_000, 100_000, 16, 0, 0, 0, 0))
    packed = zlib.compress(bytes(50_000_000), 9)
    (tmp_path / "a.png").write_bytes(b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", packed) + chunk(b"IEND", b""))
    with memory_below(2e6):
        says(lambda: readers.read_subtomograms(tmp_path / "a.png", voxel_size=10.0), "100000 x 100000 pixels")


@pytest.mark.parametrize("ending", ["rec", "map", "st", "REC"])
def test_mrc_by_other_names(tmp_path, ending):
    mrc(tmp_path / "a.mrc").rename(tmp_path / f"a.{ending}")
    assert readers.read_tomogram(tmp_path / f"a.{ending}").data.shape == (8, 8, 8)


def test_compressed_volumes_name_the_way_out(tmp_path):
    for name, way_out in (("a.em.gz", "gunzip -k"), ("a.mrc.bz2", "bunzip2 -k")):
        (tmp_path / name).write_bytes(b"")
        for read in (readers.read_tomogram, readers.read_subtomograms):
            says(lambda read=read, name=name: read(tmp_path / name), name, way_out)


def test_a_stack_whose_axes_are_swapped(tmp_path):
    path = mrc(tmp_path / "a.mrcs", SUBTOMOGRAMS.reshape(24, 8, 8), mapc=2, mapr=1, maps=3)
    np.testing.assert_array_equal(readers.read_subtomograms(path).subtomograms[:, 0], SUBTOMOGRAMS.swapaxes(2, 3))
    path = mrc(tmp_path / "a.mrcs", SUBTOMOGRAMS.reshape(24, 8, 8), mapc=3, mapr=2, maps=1)
    says(lambda: readers.read_subtomograms(path), "24 x 8 x 8", "a stack of cubic volumes")


def test_more_subtomograms_than_memory_holds_are_refused_before_they_are_read(tmp_path, monkeypatch):
    path = mrc(tmp_path / "a.mrcs", np.concatenate([SUBTOMOGRAMS.reshape(24, 8, 8)] * 40))
    monkeypatch.setattr("os.sysconf", lambda name: 300)  # 90 kB
    with pytest.raises(InputError, match="memory"):
        readers.read_subtomograms(path)


def test_a_star_of_subtomograms_brings_their_angles(tmp_path):
    subtomograms = np.random.default_rng(0).normal(size=(2, 8, 8, 8)).astype(np.float32)
    write_mrc(tmp_path / "s.mrcs", subtomograms.reshape(16, 8, 8), 10.0)
    names = ["000002@s.mrcs", "000001@s.mrcs"]
    turned = {"rlnAngleRot": [1, 2], "rlnAngleTilt": [3, 4], "rlnAnglePsi": [5, 6]}
    star.write_star(tmp_path / "P.STAR", {"particles": {"rlnImageName": names} | turned})
    found = readers.read_subtomograms(tmp_path / "P.STAR")
    assert found.angles.tolist() == [[1, 3, 5], [2, 4, 6]] and np.array_equal(
        found.subtomograms[1, 0].numpy(), subtomograms[0]
    )


def test_the_depth_that_a_stack_claims_is_no_voxel_size(tmp_path):
    path = tmp_path / "s.mrcs"
    write_mrc(path, np.random.default_rng(0).normal(size=(16, 8, 8)), 10.0)
    raw = bytearray(path.read_bytes())
    raw[48:52] = np.float32(16.0).tobytes()  # z cell: as if images were 1 A apart
    path.write_bytes(raw)
    assert readers.read_subtomograms(path).voxel_size == pytest.approx(10.0)


def test_a_home_folder_is_understood(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    write_mrc(tmp_path / "t.mrc", np.random.default_rng(0).normal(size=(8, 8, 8)), 10.0)
    assert readers.read_tomogram("~/t.mrc").data.shape == (8, 8, 8)
    with pytest.raises(InputError, match="model2point"):
        readers.read_picks("~/points.mod", readers.read_tomogram("~/t.mrc"))
