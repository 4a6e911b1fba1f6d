"""Damaged volumes: of a reader of files from elsewhere only InputError may come out, and little memory be taken.

Each case takes a small whole file and changes bytes (set, flipped, cut out, doubled, cut off), half of them in its
first kilobyte, where the headers are. FUZZ_CASES is the number of cases a reader (200); hypothesis looks for its own
in addition. HDF5 is a C library; 26,000 of these cases in a process of their own neither crashed nor hung it.
"""

import os
import struct
import tracemalloc
import warnings
import zlib

import numpy as np
import pytest
from helpers.files import CUBES, VOLUME, cube_of, em, hdf, mrc, png
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cryoshift_core.errors import InputError
from cryoshift_core.tomography.volumes import Particles, Volume
from data_fetch import readers

CASES = int(os.environ.get("FUZZ_CASES", 200))
LIMIT = 20e6  # bytes; the files have some 10 kB to 200 kB
ODD = [0, 1, 2, 127, 128, 255]
WORDS = [0, 1, -1, 2**31 - 1, -(2**31), 2**16, 10_000, 401]


def subtomograms(path):
    return readers.read_subtomograms(path, voxel_size=10.0)


# name -> what writes a whole file, and its reader
READERS = {
    "mrc": (lambda path: mrc(path / "a.mrc", VOLUME), readers.read_tomogram),
    "mrcs": (lambda path: mrc(path / "a.mrcs", CUBES.reshape(24, 8, 8)), subtomograms),
    "em": (lambda path: em(path / "a.em"), readers.read_tomogram),
    "hdf": (lambda path: hdf(path / "a.hdf"), readers.read_tomogram),
    "hdfs": (lambda path: hdf(path / "a.hdf", CUBES), subtomograms),
    "png": (lambda path: png(path / "a.png", cube_of(28, np.uint8), 6, 5), subtomograms),
    "png16": (lambda path: png(path / "a.png", cube_of(40), 7, 7), subtomograms),
}


@pytest.fixture(scope="module", params=READERS)
def whole(request, tmp_path_factory):
    """Reader, name of the file, and the bytes of a whole one."""
    make, reader = READERS[request.param]
    path = make(tmp_path_factory.mktemp("whole"))
    return reader, path.name, path.read_bytes()


def checked(reader, path):
    """What came out: a volume that is whole and finite, or InputError in one sentence."""
    tracemalloc.start()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            out = reader(path)
    except InputError as error:
        assert str(error).endswith(".") and "\n" not in str(error) and len(str(error)) < 600, str(error)
        return False
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < LIMIT, f"{peak} bytes"
    assert isinstance(out, Volume | Particles) and 0 < out.voxel_size < 1e4
    values = np.asarray(out.data if isinstance(out, Volume) else out.subtomograms, np.float32)
    assert np.isfinite(values).all() and values.min() < values.max()
    return True


def mutated(raw, rng):
    """One to six changes to `raw`, half of them within its first 1024 bytes."""
    out = bytearray(raw)
    for _ in range(rng.integers(1, 7)):
        n = len(out) if rng.random() < 0.5 else min(1024, len(out))
        at = int(rng.integers(n)) if n else 0
        kind = rng.integers(7)
        if kind == 0:
            out[at : at + 1] = bytes([rng.choice(ODD)])
        elif kind == 1 and n:
            out[at] ^= 1 << int(rng.integers(8))
        elif kind == 2:
            word = struct.pack(rng.choice(["<i", ">i"]), rng.choice(WORDS))
            out[at // 4 * 4 : at // 4 * 4 + 4] = word
        elif kind == 3:
            out[at : at + 4] = rng.bytes(4)
        elif kind == 4:
            del out[at : at + int(rng.integers(1, 64))]
        elif kind == 5:
            out[at:at] = out[at : at + int(rng.integers(1, 64))]
        elif rng.random() < 0.2:
            del out[at:]
    return bytes(out)


def mutated_png(raw, rng):
    """As `mutated`, but half of the time within chunks whose check sums are put right again, or with chunks added."""
    if rng.random() < 0.5:
        return mutated(raw, rng)
    parts, at = [], 8
    while at < len(raw):
        size = int.from_bytes(raw[at : at + 4], "big")
        parts.append((raw[at + 4 : at + 8], raw[at + 8 : at + 8 + size]))
        at += 12 + size
    pixels = zlib.decompress(b"".join(data for name, data in parts if name == b"IDAT"))
    for _ in range(rng.integers(1, 4)):
        at = int(rng.integers(len(parts)))
        name, data = parts[at]
        if rng.random() < 0.3:
            names = [b"IHDR", b"IDAT", b"tRNS", b"PLTE", b"iCCP", b"zTXt", b"acTL", b"fcTL", b"fdAT", b"cHRM", b"eXIf"]
            parts.insert(at + 1, (bytes(rng.choice(names)), mutated(data, rng)))
        elif name == b"IDAT" and rng.random() < 0.5:
            parts[at] = name, zlib.compress(mutated(pixels, rng))
        else:
            parts[at] = name, mutated(data, rng)
    out = raw[:8]
    for name, data in parts:
        out += struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
    return out


def test_changed_bytes(tmp_path, whole):
    reader, name, raw = whole
    path = tmp_path / name
    rng = np.random.default_rng(len(raw))
    change = mutated_png if path.suffix == ".png" else mutated
    read = 0
    for case in range(CASES):
        changed = change(raw, rng)
        path.unlink(missing_ok=True)  # never write into what a volume may still have open
        path.write_bytes(changed)
        try:
            read += checked(reader, path)
        except Exception as error:
            path.rename(f"{path}.failed")
            raise AssertionError(f"case {case} of {name}, kept as {path}.failed: {error!r}") from error
    assert 0 < read < CASES  # neither all whole nor all refused: the changes reach what is behind the first check
    print(f"{name}: {CASES} cases, {read} read, {CASES - read} refused")


@settings(
    max_examples=min(CASES, 200),
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(data=st.data())
def test_what_hypothesis_finds(tmp_path, whole, data):
    reader, name, raw = whole
    path, raw = tmp_path / name, bytearray(raw)
    start = data.draw(st.sampled_from([8, 16, 33, 37, 41] if path.suffix == ".png" else [0, 512, 1024]))
    words = st.dictionaries(st.integers(0, 63), st.binary(min_size=4, max_size=4), max_size=6)
    for at, word in data.draw(words).items():
        raw[start + 4 * at : start + 4 * at + 4] = word
    path.unlink(missing_ok=True)
    path.write_bytes(bytes(raw[: data.draw(st.integers(0, len(raw)) | st.just(len(raw)))]))
    checked(reader, path)
