"""Preflight: each of many faulty inputs has the row that says so, and sound inputs have none that says look or stop."""

import inspect
from dataclasses import dataclass

import numpy as np
import pytest
from helpers import tomograms
from helpers.files import coordinates, em, hdf, mrc, ome, star

import cryoshift_core as cs
import data_fetch
from cryoshift_core.application import classify, preflight, preflight_input
from cryoshift_core.application.preflight import Finding, table
from cryoshift_core.simulation import datasets, structures

SHAPE, VOXEL = (60, 160, 160), 20.0  # zyx voxels, A
CLASSES = ("ribosome_80S", "TRiC")
MDOC = "PixelSpacing = {pixel}\n\n" + "".join(f"[ZValue = {i}]\nTiltAngle = {{{i}}}\n\n" for i in range(7))


@dataclass
class Made:
    """A made tomogram, protein bright, with particles in two thirds of it, and their zyx positions."""

    volume: np.ndarray
    zyx: np.ndarray
    voxel_size: float
    classes: tuple[str, ...]

    def cut(self, half=14):
        """Subtomograms (N, 28, 28, 28) of the particles that have room."""
        at = np.round(self.zyx).astype(int)
        at = at[((at >= half) & (at <= np.array(self.volume.shape) - half)).all(1)]
        return np.stack([self.volume[tuple(slice(i - half, i + half) for i in one)] for one in at])


def make(classes, voxel_size, apart, seed, n=44, strength=4.0):
    """A tomogram of SHAPE; `apart` in A."""
    zyx = tomograms.scattered(n, (*SHAPE[:2], 108), apart / voxel_size, 14, seed)
    names = [classes[i % len(classes)] for i in range(n)]
    volume = tomograms.molecules(names, zyx, SHAPE, voxel_size, seed)
    volume = volume * (strength / volume.max()) + tomograms.noise(SHAPE, voxel_size, seed)
    return Made(volume.astype(np.float32), zyx, voxel_size, classes)


@pytest.fixture(scope="module", autouse=True)
def quick():
    """Equal configurations are simulated once for all tests here, and fewer particle-free boxes are looked for."""
    simulate, before = {}, datasets.simulate_source

    def kept(config, **options):
        if config not in simulate:
            simulate[config] = before(config, **options)
        return simulate[config]

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(datasets, "simulate_source", kept)
        patched.setattr(preflight_input, "BOXES", 24)
        yield


@pytest.fixture(scope="module")
def sound():
    return make(CLASSES, VOXEL, 310, 0)


@pytest.fixture
def run(sound, tmp_path):
    """Function: preflight of the sound tomogram TS_1.mrc, protein dark, with its list, and changes to the call."""

    def checked(**changes):
        given = {"tomogram": tmp_path / "TS_1.mrc", "coordinates": tmp_path / "TS_1.star", "classes": CLASSES}
        if given["tomogram"] == changes.get("tomogram", given["tomogram"]) and not given["tomogram"].is_file():
            mrc(given["tomogram"], -sound.volume, VOXEL)
        if not given["coordinates"].is_file():
            listed(given["coordinates"], sound.zyx)
        return cs.preflight(**given | changes)

    return checked


def listed(path, zyx, name="TS_1", **columns):
    return star(path, rlnTomoName=[name] * len(zyx), **coordinates(np.asarray(zyx)[:, ::-1]), **columns)


def row(result, check):
    found = [finding for finding in result.findings if finding.check == check]
    assert found, f"no row {check} in\n{result}"
    return found[0]


# How a list of positions goes wrong -> (its positions, the row, its status). x goes from 14 to 93 of 160 voxels.
POSITIONS = {
    "halved, of a tomogram of 40 A": (lambda zyx: zyx / 2, "positions", "look"),
    "doubled, of a tomogram of 10 A": (lambda zyx: zyx * 2, "positions", "stop"),
    "times 1.5": (lambda zyx: zyx[zyx.max(1) < 100] * 1.5, "positions", "look"),
    "in A": (lambda zyx: zyx * VOXEL, "positions", "stop"),
    "in nm": (lambda zyx: zyx * VOXEL / 10, "positions", "stop"),
    "fractions": (lambda zyx: zyx / np.array(SHAPE), "particles", "stop"),
    "x and y swapped": (lambda zyx: zyx[:, [0, 2, 1]], "positions", "look"),
    "x and z swapped": (lambda zyx: zyx[:, ::-1][zyx[:, 2] < 59], "positions", "look"),
    "y and z swapped": (lambda zyx: zyx[:, [1, 0, 2]][zyx[:, 1] < 59], "positions", "look"),
    "x mirrored": (lambda zyx: zyx * [1, 1, -1] + [0, 0, 159], "positions", "look"),
    "y mirrored": (lambda zyx: zyx * [1, -1, 1] + [0, 159, 0], "positions", "look"),
    "z mirrored": (lambda zyx: zyx * [-1, 1, 1] + [59, 0, 0], "positions", "look"),
    "off by 30 voxels in x": (lambda zyx: zyx + [0, 0, 30], "positions", "look"),
    "off by 14 voxels in y": (lambda zyx: (zyx + [0, 14, 0])[zyx[:, 1] < 130], "positions", "look"),
    "off by 5 voxels in x": (lambda zyx: zyx + [0, 0, 5], "centring", "look"),
    "off by 5 voxels in z": (lambda zyx: zyx + [5, 0, 0], "centring", "look"),
    "from the centre": (lambda zyx: zyx - np.array(SHAPE) / 2, "positions", "stop"),
    "all outside": (lambda zyx: zyx + 200, "positions", "stop"),
    "three outside": (lambda zyx: np.concatenate([zyx[:-3], zyx[-3:] + 200]), "positions", "look"),
    "two without numbers": (lambda zyx: np.concatenate([zyx, [[np.nan] * 3] * 2]), "positions", "look"),
    "without numbers": (lambda zyx: zyx * np.nan, "positions", "stop"),
    "three twice": (lambda zyx: np.concatenate([zyx, zyx[:3] + 0.4]), "duplicates", "look"),
    "all twice": (lambda zyx: np.concatenate([zyx, zyx]), "duplicates", "look"),
    "random": (lambda zyx: np.random.default_rng(0).uniform(15, 44, zyx.shape), "positions", "look"),
    "eight": (lambda zyx: zyx[:8], "particles", "look"),
    "of another tomogram": (lambda zyx: tomograms.scattered(44, (*SHAPE[:2], 108), 15.5, 14, 7), "positions", "look"),
}


@pytest.mark.parametrize("fault", POSITIONS)
def test_positions_that_are_wrong(sound, run, tmp_path, fault):
    change, check, status = POSITIONS[fault]
    listed(tmp_path / "TS_1.star", change(sound.zyx))
    result = run()
    assert row(result, check).status == status, result
    assert all(row(result, sound).status == "ok" for sound in ("contrast", "pixel size", "tilts", "box"))


# A wrong parameter -> (the parameters, the row, its status, a word of it)
PARAMETERS = {
    "pixel size times 2": ({"voxel_size": 40.0}, "pixel size", "look", "its header says 20 A"),
    "pixel size halved": ({"voxel_size": 10.0}, "pixel size", "look", "its header says 20 A"),
    "contrast inverted": ({"contrast": "bright"}, "contrast", "look", "look dark"),
    "contrast misspelt": ({"contrast": "white"}, "contrast", "stop", "auto, bright or dark"),
    "box too small": ({"box": 12}, "box", "stop", "enlarge box"),
    "class larger than the box": ({"classes": "TYMV_capsid,TRiC", "box": 15}, "box", "stop", "TYMV_capsid"),
    "box too wide": ({"box": 52}, "box", "look", "neighbours"),
    "tilt axis off by 90": ({"tilt_axis": 90.0}, "tilts", "look", "tilt axis"),
    "tilt axis off by 45": ({"tilt_axis": -45.0}, "tilts", "look", "tilt axis"),
    "tilt range 30": ({"tilt_range": 30.0}, "tilts", "look", "up to 6"),
    "tilt range 90": ({"tilt_range": 90.0}, "tilts", "look", "up to 6"),
    "tilt range of both sides": ({"tilt_range": 120.0}, "tilts", "stop", "0 to 90"),
    "tilt range 0": ({"tilt_range": 0.0}, "tilts", "stop", "0 to 90"),
    "defocus in A": ({"defocus": 30000.0}, "defocus", "stop", "give 3 if"),
    "defocus in nm": ({"defocus": 3000.0}, "defocus", "stop", ", 3 if it is in nm"),
    "defocus negative": ({"defocus": -3.0}, "defocus", "look", "set 3"),
    "one class": ({"classes": "TRiC"}, "classes", "stop", "two classes"),
    "two of one label": ({"classes": "TRiC,TRiC"}, "classes", "stop", "TRiC twice"),
    "unknown class": ({"classes": "TRiC,ribosome"}, "classes", "stop", "Unknown class"),
    "missing class file": ({"classes": "TRiC,no.pdb"}, "classes", "stop", "no.pdb"),
    "unknown profile": ({"profile": "lapttop"}, "classes", "stop", "laptop"),
    "missing tomogram": ({"tomogram": "no.mrc"}, "tomogram", "stop", "no.mrc"),
    "missing list": ({"coordinates": "no.star"}, "positions", "stop", "no.star"),
    "unknown ending": ({"coordinates": "no.csv"}, "positions", "stop", "convert"),
    "nothing": ({"tomogram": "", "coordinates": ""}, "files", "stop", "give the tomogram"),
    "too much": ({"subtomograms": "no.mrcs"}, "files", "stop", "leave one out"),
    "missing background": ({"background": "no.mrcs"}, "background", "stop", "no.mrcs"),
}


@pytest.mark.parametrize("fault", PARAMETERS)
def test_parameters_that_are_wrong(run, fault):
    changes, check, status, word = PARAMETERS[fault]
    result = run(**changes)
    found = row(result, check)
    assert found.status == status and word in found.found + found.advice, result
    if check != "files":
        assert row(result, "defocus").status in ("ok", status), "the other rows appear"


def series(pixel=2.0, largest=60):
    return MDOC.format(*np.linspace(-largest, largest, 7), pixel=pixel)


def masked(volume):
    return np.where(np.arange(SHAPE[2]) < 100, volume, 0)


# A wrong tomogram -> (function of its path and its volume that writes it, the row, its status, a word of it)
TOMOGRAMS = {
    "header times 2": (lambda p, v: mrc(p, v, 40.0), "particle size", "look", "pixel size"),
    "header halved": (lambda p, v: mrc(p, v, 10.0), "particle size", "look", "voxel size is"),
    "header 0": (lambda p, v: mrc(p, v, 0.0), "tomogram", "stop", "voxel_size"),
    "header 1": (lambda p, v: mrc(p, v, 1.0), "tomogram", "stop", "voxel_size"),
    "steps differ": (lambda p, v: mrc(p, v, (20.0, 20.0, 26.0)), "tomogram", "stop", "cubic"),
    "name contradicts": (lambda p, v: mrc(p.with_name("TS_1_10.00Apx.mrc"), v, VOXEL), "tomogram", "stop", "10 A"),
    "finer than its images": (
        lambda p, v: p.with_suffix(".mdoc").write_text(series(30.0)) and mrc(p, v, VOXEL),
        "pixel size",
        "look",
        "30 A",
    ),
    "tilts of its mdoc": (
        lambda p, v: p.with_suffix(".mdoc").write_text(series(largest=42)) and mrc(p, v, VOXEL),
        "tilts",
        "look",
        "up to 42",
    ),
    "images": (lambda p, v: mrc(p, v, VOXEL, ispg=0, mz=1), "tomogram", "stop", "images"),
    "volumes": (lambda p, v: mrc(p, v, VOXEL, ispg=401, mz=20), "tomogram", "stop", "volumes"),
    "half masked": (lambda p, v: mrc(p, masked(v), VOXEL), "empty regions", "look", "35%"),
    "half masked, not with 0": (lambda p, v: mrc(p, masked(v - 5) + 5, VOXEL), "empty regions", "look", "35%"),
    "constant": (lambda p, v: mrc(p, 0 * v, VOXEL), "tomogram", "stop", "constant"),
    "truncated": (lambda p, v: cut_off(mrc(p, v, VOXEL)), "tomogram", "stop", "truncated"),
    "not finite": (lambda p, v: mrc(p, np.where(v > 5, np.nan, v), VOXEL), "tomogram", "stop", "finite"),
    "no MRC": (lambda p, v: p.write_text("no") and p, "tomogram", "stop", "not an MRC"),
    "beam along y": (lambda p, v: mrc(p, v.transpose(1, 0, 2), VOXEL), "beam axis", "look", "along y"),
    "beam along x": (lambda p, v: mrc(p, v.transpose(2, 1, 0), VOXEL), "beam axis", "look", "along x"),
    "of another name": (lambda p, v: mrc(p.with_name("TS_2.mrc"), v, VOXEL), "tomogram's name", "look", "TS_1"),
}


def cut_off(path):
    path.write_bytes(path.read_bytes()[:-1000])
    return path


@pytest.mark.parametrize("fault", TOMOGRAMS)
def test_tomograms_that_are_wrong(sound, run, tmp_path, fault):
    write, check, status, word = TOMOGRAMS[fault]
    path = write(tmp_path / "TS_1.mrc", -sound.volume)
    result = run(tomogram=path)
    found = row(result, check)
    assert found.status == status and word in found.found + found.advice, result
    assert row(result, "classes").status == "ok" and row(result, "defocus").status == "ok"


def test_other_lists_and_structures_that_are_wrong(sound, run, tmp_path):
    """Class maps, lists of several tomograms, empty lists, backgrounds; one test, as they share their files."""
    density = structures.template("TRiC", 8.0, 32).numpy()
    mrc(tmp_path / "dark.mrc", -density, 8.0)
    found = row(run(classes=f"ribosome_80S,{tmp_path}/dark.mrc"), "classes")
    assert found.status == "look" and "dark" in found.advice
    mrc(tmp_path / "one.mrc", density, 1.0)
    assert row(run(classes=f"ribosome_80S,{tmp_path}/one.mrc"), "classes").status == "stop"
    assert row(run(classes=f"ribosome_80S,{tmp_path}/one.mrc@8.0"), "classes").status == "ok", "the way out"

    names = ["TS_7"] * 20 + ["TS_8"] * 24
    other = star(tmp_path / "two.star", rlnTomoName=names, **coordinates(sound.zyx[:, ::-1]))
    found = row(run(coordinates=other), "positions")
    assert found.status == "stop" and "none that fits" in found.found
    empty = tmp_path / "empty.star"
    empty.write_text("data_\n\nloop_\n_rlnCoordinateX #1\n_rlnCoordinateY #2\n_rlnCoordinateZ #3\n")
    assert row(run(coordinates=empty), "positions").status == "stop"
    small = mrc(tmp_path / "small.mrcs", sound.cut(6).reshape(-1, 12, 12), VOXEL, ispg=401, mz=12)
    assert row(run(background=small), "background").status == "stop"
    everywhere = np.stack(np.meshgrid(*[np.arange(14, n - 14, 15) for n in SHAPE], indexing="ij"), -1).reshape(-1, 3)
    found = row(run(coordinates=listed(tmp_path / "all.star", everywhere)), "background")
    assert found.status == "look" and "got 0" in found.advice


def test_subtomograms_that_are_wrong(sound, tmp_path):
    x = sound.cut()

    def checked(x, name="stack.mrcs", voxel_size=VOXEL, **changes):
        path = mrc(tmp_path / name, x.reshape(-1, *x.shape[-2:]), voxel_size, ispg=401, mz=x.shape[-3])
        return cs.preflight(**{"subtomograms": path, "classes": CLASSES} | changes)

    assert {finding.status for finding in checked(x).findings if finding.check != "particles"} <= {"ok", "look"}
    lost = x.copy()
    lost[2] = 1
    assert row(checked(lost), "subtomograms").status == "look"
    assert row(checked(x, contrast="dark"), "contrast").status == "look"
    assert row(checked(x, voxel_size=1.0), "subtomograms").status == "stop"
    assert row(checked(x, voxel_size=10.0, contrast="bright"), "box").status == "stop"
    assert row(checked(x[:, :, :, 4:]), "subtomograms").status == "stop"
    assert row(checked(x[:, 8:20, 8:20, 8:20]), "box").status == "stop"
    assert row(checked(np.roll(x, 6, 2)), "centring").status == "look"
    assert row(checked(x, tilt_axis=90.0), "tilts").status == "look"


# Sound inputs: five kinds of tomograms, each in the formats below with either contrast.
KINDS = (
    (("ribosome_80S", "TRiC"), 20.0, 310),
    (("ribosome_70S", "TRiC"), 18.0, 300),
    (("TRiC", "apoferritin"), 14.0, 230),
    (("ribosome_80S", "ribosome_70S"), 24.0, 310),
    (("spliceosome", "apoferritin"), 19.0, 310),
)


def as_mrc(folder, made, sign):
    return mrc(folder / "TS_3.mrc", sign * made.volume, made.voxel_size), listed(folder / "TS_3.star", made.zyx, "TS_3")


def as_warp(folder, made, sign):
    """16-bit, with the pixel size in its name; positions in A from the centre, as RELION 5 has them; an .mdoc."""
    volume = np.round(sign * made.volume * 1000).astype(np.int16)
    path = mrc(folder / f"TS_3_{made.voxel_size:.2f}Apx.mrc", volume, made.voxel_size)
    (folder / "TS_3.mdoc").write_text(series())
    centred = (made.zyx - np.array(SHAPE) / 2)[:, ::-1] * made.voxel_size
    columns = coordinates(centred, "rlnCenteredCoordinate{}Angst")
    return path, star(folder / "particles.star", rlnTomoName=["TS_3"] * len(centred), **columns)


def as_em(folder, made, sign):
    table = np.zeros((len(made.zyx), 35))
    table[:, 0], table[:, 19], table[:, 23:26] = np.arange(len(table)) + 1, 1, made.zyx[:, ::-1] + 1
    np.savetxt(folder / "table.tbl", table)
    return em(folder / "TS_3.em", (sign * made.volume).astype(np.float32), made.voxel_size), folder / "table.tbl"


def as_hdf(folder, made, sign):
    (folder / "points.xyz").write_text("".join("{2} {1} {0}\n".format(*at) for at in made.zyx))
    return hdf(folder / "TS_3.hdf", (sign * made.volume,), made.voxel_size), folder / "points.xyz"


def as_zarr(folder, made, sign):
    path = ome(folder / "TS_3.zarr", sign * made.volume, scales=((made.voxel_size,) * 3,), chunks=(32, 64, 64))
    return path, listed(folder / "TS_3.star", made.zyx, "TS_3", rlnOpticsGroup=[1] * len(made.zyx))


def as_stack(folder, made, sign):
    x = sign * made.cut()
    return mrc(folder / "stack.mrcs", x.reshape(-1, *x.shape[-2:]), made.voxel_size, ispg=401, mz=x.shape[-1]), ""


FORMATS = (as_mrc, as_warp, as_em, as_hdf, as_stack)


@pytest.fixture(scope="module")
def false_alarms(tmp_path_factory):
    """What of 51 sound inputs has a row that says look or stop, and their number.

    "Few particles" is left out: 36 are few.
    """
    found, n = [], 0
    for kind, (classes, voxel_size, apart) in enumerate(KINDS):
        for seed in (10, 11):
            made = make(classes, voxel_size, apart, 100 * kind + seed, n=36, strength=5.0)
            slow = [as_zarr] * (kind == 0 and seed == 10)
            for i, write in enumerate([*FORMATS, *slow]):
                folder = tmp_path_factory.mktemp("sound")
                file, points = write(folder, made, 1 if (kind + seed + i) % 2 else -1)
                given = {"tomogram": file, "coordinates": points} if points else {"subtomograms": file}
                result = cs.preflight(**given, classes=classes)
                alarms = [f for f in result.findings if f.status != "ok" and f.check != "particles"]
                found += [(classes, seed, write.__name__, alarms)] if alarms else []
                n += 1
    return found, n


def test_at_most_2_in_100_sound_inputs_have_a_false_row(false_alarms):
    found, n = false_alarms
    assert n >= 50 and len(found) <= 0.02 * n, f"{len(found)} of {n}: " + "\n".join(map(str, found))


def test_the_table_is_aligned_and_wrapped():
    rows = [Finding("box", "ok", "word " * 30), Finding("pixel size", "stop", "found", "advice " * 12)]
    lines = table(rows, width=60).splitlines()
    assert max(map(len, lines)) <= 60 and len(lines) == 8
    assert lines[0].startswith("box         ok    word") and lines[1].startswith(" " * 18 + "word")
    assert "-> advice" in lines[5]


def test_the_command_prints_the_table_and_exits_with_1_where_it_says_stop(run, tmp_path, capsys):
    run()
    options = ["--tomogram", str(tmp_path / "TS_1.mrc"), "--coordinates", str(tmp_path / "TS_1.star")]
    options += ["--classes", ",".join(CLASSES)]
    assert preflight.main(options) == 0
    shown = capsys.readouterr().out
    assert all(f"\n{check}" in shown for check in ("pixel size", "contrast", "box", "tilts", "particle size"))
    assert preflight.main([*options, "--defocus", "30000", "--seed", "3"]) == 1
    assert "stop  Expected a defocus in um" in capsys.readouterr().out
    assert preflight.main([*options, "--model", "model.safetensors"]) == 1
    assert "model.safetensors is not a file" in capsys.readouterr().out


def test_the_command_takes_the_options_of_classify():
    known = inspect.signature(classify.classify).parameters
    taken = inspect.signature(cs.preflight).parameters
    assert taken.keys() <= known.keys()
    assert all(taken[name].default == known[name].default for name in taken if name != "out_dir")
    training = {"method", "device", "spike_snr", "picking_error", "own_background", "n_seeds", "average_rotations"}
    results = {"templates", "purity", "n_picks", "may_be_absent", "held_out_tomograms"}
    assert known.keys() - taken.keys() == training | results, "what no check needs"


def test_the_page_has_the_rows_and_their_pictures_and_needs_nothing_else(run, tmp_path):
    result = run(tilt_axis=90.0, out_dir=tmp_path / "out")
    page = result.page.read_text()
    assert result.page == tmp_path / "out" / "preflight.html"
    assert page.count("<section") == len(result.findings) and page.count("data:image/png") == 5
    assert "look: 1," not in page.split("<section")[0] and 'class="look"' in page
    assert "http" not in page.replace("http-equiv", "") and "<script" not in page
    broken = run(tomogram=tmp_path / "no.mrc", out_dir=tmp_path / "out")
    assert broken.status == "stop" and "no.mrc is not a file" in broken.page.read_text()


def test_a_tomogram_without_positions_and_the_shipped_lamella(sound, tmp_path):
    path = mrc(tmp_path / "TS_1.mrc", -sound.volume, VOXEL)
    result = cs.preflight(tomogram=path, classes=CLASSES)
    assert result.status != "stop" and "ice: no particle" in row(result, "classes").found
    assert not [finding for finding in result.findings if finding.check in ("positions", "centring", "duplicates")]

    lamella = data_fetch.yeast_lamella()
    result = cs.preflight(tomogram=lamella.tomogram, coordinates=lamella.ribosomes, classes=CLASSES)
    assert {finding.status for finding in result.findings} == {"ok"}, result
    result = cs.preflight(tomogram=lamella.tomogram, coordinates=lamella.ribosomes, classes=CLASSES, contrast="bright")
    assert row(result, "contrast").status == "look"


def test_a_mirrored_z_axis_is_told_by_the_density(sound, run, tmp_path):
    as_is = row(run(), "z flip")
    assert as_is.status == "ok" and "fits the tomogram as it is" in as_is.found, as_is
    listed(tmp_path / "TS_1.star", sound.zyx * [-1, 1, 1] + [59, 0, 0])
    flipped = row(run(), "z flip")
    assert flipped.status == "look" and "from the other end" in flipped.advice, flipped
    both = np.concatenate([sound.zyx, sound.zyx * [-1, 1, 1] + [59, 0, 0]])
    listed(tmp_path / "TS_1.star", both)
    untold = row(run(), "z flip")
    assert untold.status == "ok" and "cannot be told" in untold.found and "viewer" in untold.advice


def test_what_can_be_told_of_the_hand_is_said(sound, run, tmp_path):
    untold = row(run(), "hand")
    assert untold.status == "ok" and "cannot be told" in untold.found and "known hand" in untold.advice
    z = sound.zyx[:, 0] * VOXEL  # A
    noise = np.random.default_rng(0).normal(0, 5, len(z))

    def defocused(defocus):
        listed(tmp_path / "TS_1.star", sound.zyx, rlnDefocusU=(defocus + 300).tolist(), rlnDefocusV=defocus.tolist())
        return row(run(), "hand")

    assert "a defocus hand of +1" in defocused(30000 + z + noise).found
    assert "a defocus hand of -1" in defocused(30000 - z + noise).found
    doubled = defocused(30000 + 2 * z + noise)
    assert doubled.status == "look" and "check the pixel size" in doubled.advice and "2.00" in doubled.found
    assert "cannot be told" in defocused(30000 + 0 * z).found, "one defocus for all"
    listed(tmp_path / "TS_1.star", sound.zyx, rlnTomoHand=[-1] * len(z))
    assert "rlnTomoHand = -1; not checked" in row(run(), "hand").found
