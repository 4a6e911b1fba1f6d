"""Damaged volumes: readers may raise InputError only, and must allocate little memory.

Each case changes bytes of a small valid file (set, flipped, removed, repeated, cut off), half of them in its first
kilobyte, which holds the headers. FUZZ_CASES is the number of cases per reader (200); hypothesis searches for more.
HDF5 is a C library; 26,000 of these cases in a separate process neither crashed nor blocked it.
"""

import os
import struct
import warnings
import zlib

import numpy as np
import pytest
from helpers.files import SUBTOMOGRAMS, VOLUME, check_message, em, hdf, memory_below, mrc, png, random_subtomogram
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cryoshift_core.errors import InputError
from cryoshift_core.tomography.volumes import Particles, Volume
from data_fetch import readers
from data_fetch.readers import montage

pytestmark = pytest.mark.filterwarnings("ignore::cryoshift_core.errors.InputWarning")
CASES = int(os.environ.get("FUZZ_CASES", 200))
LIMIT = 20e6  # bytes; the files have about 10 kB to 200 kB
ODD = [0, 1, 2, 127, 128, 255]
WORDS = [0, 1, -1, 2**31 - 1, -(2**31), 2**16, 10_000, 401]


def subtomograms(path):
    return readers.read_subtomograms(path, voxel_size=10.0)


def montages(path):
    return Volume(*montage.read_montage(path, 10.0), str(path))


# name -> writer of a valid file, and its reader
READERS = {
    "mrc": (lambda path: mrc(path / "a.mrc", VOLUME), readers.read_tomogram),
    "mrcs": (lambda path: mrc(path / "a.mrcs", SUBTOMOGRAMS.reshape(24, 8, 8)), subtomograms),
    "em": (lambda path: em(path / "a.em"), readers.read_tomogram),
    "hdf": (lambda path: hdf(path / "a.hdf"), readers.read_tomogram),
    "hdfs": (lambda path: hdf(path / "a.hdf", SUBTOMOGRAMS), subtomograms),
    "png": (lambda path: png(path / "a.png", random_subtomogram(28, np.uint8), 6, 5), montages),
    "png16": (lambda path: png(path / "a.png", random_subtomogram(40), 7, 7), montages),
}


@pytest.fixture(scope="module", params=READERS)
def whole(request, tmp_path_factory):
    """Reader, name of the file, and the bytes of a valid one."""
    make, reader = READERS[request.param]
    path = make(tmp_path_factory.mktemp("whole"))
    return reader, path.name, path.read_bytes()


def checked(reader, path):
    """True if the file was read, into finite values that vary; False after an InputError of one line."""
    try:
        with memory_below(LIMIT), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            out = reader(path)
    except InputError as error:
        check_message(error, 600)
        return False
    assert isinstance(out, Volume | Particles) and 0 < out.voxel_size < 1e4
    values = np.asarray(out.data if isinstance(out, Volume) else out.subtomograms, np.float32)
    if isinstance(out, Particles):
        values = values[[row for row in range(len(out)) if row not in out.bad]]
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
    """As `mutated`, but half of the changes are within chunks, with valid check sums, or add chunks."""
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
        path.unlink(missing_ok=True)  # a volume may still have the old file open
        path.write_bytes(changed)
        try:
            read += checked(reader, path)
        except Exception as error:
            path.rename(f"{path}.failed")
            raise AssertionError(f"case {case} of {name}, kept as {path}.failed: {error!r}") from error
    assert 0 < read < CASES  # some are read and some refused, so that the changes get past the first check
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
