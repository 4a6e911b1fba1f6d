"""Damaged lists of positions: readers may raise InputError only.

`FUZZ_CASES=20000 pytest tests/data_fetch/test_fuzz_picks.py` runs more cases than the default.
"""

import json
import os
import random
import re
import sys

import numpy as np
import pytest
from helpers.files import check_message
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cryoshift_core.errors import InputError
from cryoshift_core.tomography.volumes import Volume
from data_fetch import readers

# Damaged positions are often implausible, too.
pytestmark = pytest.mark.filterwarnings("ignore::cryoshift_core.errors.InputWarning")
CASES = int(os.environ.get("FUZZ_CASES", "300"))
# Large, so that most numbers lie inside; broadcast from one voxel.
TOMOGRAM = Volume(np.broadcast_to(np.float32(0), (4096, 4096, 4096)), 10.0, "TS_1.mrc")

OPTICS = """data_optics

loop_
_rlnOpticsGroup #1
_rlnImagePixelSize #2
_rlnTomoTiltSeriesPixelSize #3
1 10.0 2.5
2 10.0 5.0

"""
PARTICLES = """data_particles

loop_
_rlnTomoName #1
_rlnCoordinateX #2
_rlnCoordinateY #3
_rlnCoordinateZ #4
_rlnOriginXAngst #5
_rlnAngleRot #6
_rlnAngleTilt #7
_rlnAnglePsi #8
_rlnTomoSubtomogramRot #9
_rlnTomoSubtomogramTilt #10
_rlnTomoSubtomogramPsi #11
_rlnOpticsGroup #12
_rlnGroupNumber #13
TS_1 100 200 300 1.5 10 20 30 1 2 3 1 4
'TS_2' 110 210 310 -1.5 11 21 31 1 2 3 2 5
"""
WARP = """data_

loop_
_rlnMicrographName #1
_rlnCoordinateX #2
_rlnCoordinateY #3
_rlnCoordinateZ #4
_rlnOriginX #5
_rlnMagnification #6
_rlnDetectorPixelSize #7
TS_1.tomostar 0.25 0.5 0.75 0.1 10000 5.0
TS_1.tomostar 0.35 0.6 0.85 0.1 10000 5.0
"""
CENTRED = PARTICLES.replace("_rlnCoordinateX", "_rlnCenteredCoordinateXAngst")
CENTRED = CENTRED.replace("_rlnCoordinateY", "_rlnCenteredCoordinateYAngst")
CENTRED = CENTRED.replace("_rlnCoordinateZ", "_rlnCenteredCoordinateZAngst")
M = PARTICLES.replace("_rlnTomoName", "_wrpSourceName").replace("_rlnCoordinate", "_wrpCoordinate")
TABLE = "\n".join(
    " ".join([f"{i}"] * 19 + [f"{i}", "1", "1", "0", f"{9 * i}", "20.5", "30"] + ["0"] * 9) for i in (1, 2)
)
MATRIX = [[0.0, -1.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, 1.0]]
POINT = {"type": "orientedPoint", "location": {"x": 1.5, "y": 2, "z": 3}, "xyz_rotation_matrix": MATRIX}
POSE = [[*row, 0.5] for row in MATRIX] + [[0, 0, 0, 1]]
PICKS = {"run_name": "TS_1", "points": [POINT | {"transformation_": POSE, "instance_id": 3, "score": 1.0}] * 2}
BOXES = {"apix_unbin": 2.5, "boxes_3d": [[-10.5, 20, 3, "manual", 0.5, 0]] * 2, "class_list": {"0": {"name": "a"}}}
SEEDS = {
    ".star": [OPTICS + PARTICLES, WARP, OPTICS + CENTRED, M],
    ".tbl": [TABLE],
    ".json": [json.dumps(PICKS), json.dumps(BOXES)],
    ".ndjson": ["\n".join([json.dumps(POINT | {"instance_id": i}) for i in range(2)])],
    ".txt": ["     1     1   10.50   20.50   30.00\n     1     2   11.50   21.50   31.00\n", "1 2 3\n4 5 6\n"],
}
MAP = "1 /data/TS_1.rec\n2 ../../TS_2.rec\n"
# Difficult content: words of the formats, numbers too large or invalid, unpaired surrogates, paths.
WORDS = [
    *(
        "loop_",
        "data_",
        "save_",
        "stop_",
        "global_",
        "_rlnCoordinateX",
        "data_optics\n",
        "\n;\n",
        "'",
        '"',
        "#",
        "$",
        "?",
    ),
    *(
        "NaN",
        "nan",
        "inf",
        "-Infinity",
        "1e400",
        "-1e308",
        "9" * 30,
        "9" * 500,
        "9" * 5000,
        "0x10",
        "1_0",
        "1+2i",
        "²",
        "٣",
    ),
    *(
        "null",
        "true",
        "[]",
        "{}",
        "[" * 500,
        "[" * 989,
        "[" * 9000,
        "{" * 50,
        '{"a":' * 300,
        "]",
        "}",
        ",",
        ":",
        '"\\ud800"',
        "\\u0000",
        '"x":',
    ),
    *(
        "../../etc/passwd",
        "/dev/zero",
        "\x00",
        "\x85",
        "\u2028",
        "\ufeff",
        "\xff",
        "'\udce9'",
        " ",
        "\t",
        "\r",
        "\n\n",
        "-",
        ".",
        "",
    ),
    *('"points"', '"location"', '"boxes_3d"', '"class_list"', '"apix_unbin"', '"transformation_"', "IMODV1.2"),
]
opened: list[str] | None = None


def note_opened(event, args):
    if event == "open" and opened is not None and isinstance(args[0], str):
        opened.append(args[0])


sys.addaudithook(note_opened)  # cannot be removed; it does nothing unless `opened` is a list


def mutated(seed: bytes, rng: random.Random) -> bytes:
    """The seed with a few changes, mostly one: to bits, spans of bytes or words, or its end removed."""
    raw = bytearray(seed)
    for _ in range(rng.choice((1, 1, 1, 2, 3, 6))):
        kind, at = rng.randrange(16), rng.randrange(len(raw) + 1)
        end = at + rng.choice((1, 1, 8, 64))
        if kind == 0:
            del raw[at:]
        elif kind <= 2:
            del raw[at:end]
        elif kind <= 4:
            raw[at:at] = raw[at:end] * rng.choice((1, 2, 20))
        elif kind == 5:
            raw[at:end] = rng.randbytes(rng.randrange(8))
        elif kind <= 7 and at < len(raw):
            raw[at] ^= 1 << rng.randrange(8)
        else:
            tokens = list(re.finditer(rb"[^\s,:\[\]{}]+", raw))
            low, high = rng.choice(tokens).span() if tokens else (0, 0)
            number = str(rng.choice((rng.randrange(-5, 99), rng.uniform(-5, 4000), rng.gauss(0, 1))))
            raw[low:high] = (rng.choice(WORDS) if kind < 13 else number).encode("utf-8", "surrogatepass")
    return bytes(raw)


def survives(path) -> bool:
    """True if the file was read into valid particles, False after an InputError of one line; opens no other file."""
    global opened
    opened = []
    try:
        found = readers.read_picks(path, TOMOGRAM)
    except InputError as error:
        check_message(error, 600)
        return False
    finally:
        names, opened = opened, None
        away = [name for name in names if not name.startswith(str(path.parent)) and not name.endswith((".py", ".pyc"))]
        assert not away, away
    n = len(found)
    assert n and {len(column) for column in found.table.values()} == {n}
    assert all(
        isinstance(text, str) and text.encode() is not None for column in found.table.values() for text in column
    )
    good = found.zyx[[row for row in range(n) if row not in found.bad]]
    assert found.zyx.shape == (n, 3) and 2 * len(good) > n and (good >= -0.5).all() and (good <= 4095.5).all()
    assert found.groups.shape == (n,) and found.groups.dtype == np.int64
    assert found.angles is None or (found.angles.shape == (n, 3) and np.isfinite(found.angles).all())
    return True


@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # numbers near the largest one
@pytest.mark.parametrize("ending", SEEDS)
def test_changed_bytes(tmp_path, ending):
    rng, path, good = random.Random(0), tmp_path / f"a{ending}", 0
    for case in range(CASES):
        seed = rng.choice(SEEDS[ending]).encode()
        path.write_bytes(mutated(seed, rng) if case else seed)
        if ending == ".tbl":
            path.with_suffix(".doc").write_bytes(mutated(MAP.encode(), rng) if rng.randrange(2) else MAP.encode())
        try:
            good += survives(path)
        except Exception as error:
            raise AssertionError(f"case {case}: {path.read_bytes()!r}") from error
    assert 0 < good < CASES  # some are read and some refused
    print(f"{ending}: {CASES} cases, {good} read, {CASES - good} refused")


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.just(MATRIX) | st.just(POSE),
    lambda inner: (
        st.lists(inner, max_size=6)
        | st.dictionaries(
            st.sampled_from(["x", "y", "z", "location", "name", "0", "transformation_"]), inner, max_size=5
        )
        | st.fixed_dictionaries({"location": st.fixed_dictionaries({axis: inner for axis in "xyz"})})
    ),
    max_leaves=20,
)
json_files = st.dictionaries(
    st.sampled_from(["boxes_3d", "points", "apix_unbin", "class_list", "unit", "trust_orientation"]),
    st.lists(values, max_size=4) | values,
).map(json.dumps)
ndjson_files = st.lists(
    st.fixed_dictionaries({"location": values}, optional={"xyz_rotation_matrix": values, "instance_id": values}),
    max_size=4,
).map(lambda points: "\n".join(map(json.dumps, points)))
words = st.sampled_from(
    ["1", "2.5", "-3", "nan", "1e400", "TS_1", "x", "'a b'", "_rlnCoordinateX", "loop_", "data_", ";"]
)
rows = st.lists(st.lists(words | st.text(max_size=4), max_size=30).map(" ".join), max_size=5).map("\n".join)
columns = st.lists(
    st.sampled_from(sorted({w for w in (PARTICLES + WARP + CENTRED + M).split() if w[0] == "_"})), unique=True
)
star_files = st.tuples(columns, st.lists(st.floats(-10, 100).map(str) | words, max_size=40)).map(
    lambda made: "data_\nloop_\n" + "\n".join(made[0]) + "\n" + " ".join(made[1]) + "\n"
)
MADE = {".star": star_files | rows, ".tbl": rows, ".json": json_files, ".ndjson": ndjson_files, ".txt": rows}


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize("ending", SEEDS)
def test_made_up_files(tmp_path, ending):
    health = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large]

    @settings(
        max_examples=max(CASES // 3, 50), deadline=None, suppress_health_check=health, database=None, derandomize=True
    )
    @given(MADE[ending].map(lambda text: text.encode("utf-8", "surrogatepass")) | st.binary(max_size=60))
    def check(content):
        path = tmp_path / f"a{ending}"
        path.write_bytes(content)
        survives(path)

    check()
