"""Density maps as classes: voxel size, contrast and outline, on maps with noise, masks and filters."""

import gzip
import struct

import numpy as np
import pytest
import torch
from helpers.files import correlation, em, mrc, says
from scipy import ndimage

from cryoshift_core.course import parameters
from cryoshift_core.errors import InputError
from cryoshift_core.simulation import DatasetConfig, maps, structures
from cryoshift_core.simulation.class_files import class_file, split_class
from cryoshift_core.simulation.structures import BUILTIN, template

# name, voxel size, box: in tight and wide boxes; apoferritin and the capsid are hollow
MOLECULES = [
    ("ribosome_80S", 10.0, 31),
    ("ribosome_80S", 10.0, 64),
    ("TRiC", 8.0, 32),
    ("apoferritin", 6.0, 26),
    ("apoferritin", 6.0, 64),
    ("TYMV_capsid", 10.0, 48),
    ("RuvAB", 8.0, 32),
]


def sphere(n, radius):
    return sum(axis**2 for axis in np.ogrid[(slice(-(n // 2), n - n // 2),) * 3]) <= radius**2


def soft_sphere(n):
    """1 in a ball as wide as the box, with a cosine edge of an eighth of its radius, as programs make masks."""
    radius = np.sqrt(sum(axis**2 for axis in np.ogrid[(slice(-(n // 2), n - n // 2),) * 3]))
    edge = np.clip((n / 2 - 1 - radius) / (n / 16), 0, 1)
    return 0.5 - 0.5 * np.cos(np.pi * edge)


def density(name, voxel_size, box, noise=0.0, seed=0):
    """The molecule with a mean of 1 in its inside, with white noise of s.d. `noise`."""
    data = template(name, voxel_size, box).numpy()
    data = data / data[data > 0.5 * np.quantile(data, 0.99)].mean()
    return data + noise * np.random.default_rng(seed).normal(size=data.shape).astype(np.float32)


def shell_mask(name, voxel_size, box):
    return ndimage.binary_dilation(ndimage.gaussian_filter(density(name, voxel_size, box), 1) > 0.3)


def spoiled(data):
    data = data.copy()
    data[[2, 5, 9], [3, 8, 4], [7, 2, 6]] = -30
    return data


CHANGES = {
    "as it is": lambda data, mask: data,
    "on a pedestal": lambda data, mask: 50 * data + 700,
    "in a ball": lambda data, mask: data * sphere(len(data), len(data) / 2 - 1),
    "in a ball on a pedestal": lambda data, mask: (data + 3) * sphere(len(data), len(data) / 2 - 1),
    "in a ball below zero": lambda data, mask: (data - 3) * sphere(len(data), len(data) / 2 - 1),
    "in a soft ball on a pedestal": lambda data, mask: (data + 3) * soft_sphere(len(data)),
    "in a soft ball below zero": lambda data, mask: (data - 3) * soft_sphere(len(data)),
    "in a padded box on a pedestal": lambda data, mask: np.pad(data + 3, 8),
    "masked": lambda data, mask: data * mask,
    "filtered locally": lambda data, mask: data * ndimage.gaussian_filter(mask.astype(float), 1.0),
    "without low frequencies": lambda data, mask: data - ndimage.gaussian_filter(data, len(data) / 8),
    "with extreme voxels": lambda data, mask: spoiled(data),
}


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("noise", [0.0, 0.3, 0.7])
@pytest.mark.parametrize("name, voxel_size, box", MOLECULES)
def test_contrast_and_outline_survive_noise_masks_and_filters(name, voxel_size, box, noise, change):
    if "soft" in change and BUILTIN[name].diameter > 0.8 * box * voxel_size:
        pytest.skip("the mask would cut the molecule")
    data = CHANGES[change](density(name, voxel_size, box, noise), shell_mask(name, voxel_size, box))
    for sign in (1, -1):
        found = maps.find_molecule((sign * data).astype(np.float32))
        assert found is not None and found[0] == sign
        zyx = np.argwhere(found[2])
        radius = np.quantile(np.linalg.norm(zyx - zyx.mean(0), axis=1), 0.999)
        assert 2 * radius * voxel_size == pytest.approx(BUILTIN[name].diameter, rel=0.2)


@pytest.mark.parametrize("smooth", [0.0, 1.0, 1.5])
def test_noise_is_no_molecule(smooth):
    accepted = 0
    for seed in range(20):
        noise = np.random.default_rng(seed).normal(size=(32, 32, 32)).astype(np.float32)
        noise = ndimage.gaussian_filter(noise, smooth)
        accepted += maps.find_molecule(noise) is not None
        accepted += maps.find_molecule(noise * sphere(32, 15)) is not None
    assert accepted <= 1


def test_a_dark_map_is_the_same_class_as_a_bright_one_and_said(tmp_path):
    data = density("TRiC", 8.0, 36, 0.2)
    bright, dark = mrc(tmp_path / "bright.mrc", data, 8.0), mrc(tmp_path / "dark.mrc", -data, 8.0)
    assert torch.equal(template(bright, 8.0, 36), template(dark, 8.0, 36))
    assert correlation(template(dark, 8.0, 36), density("TRiC", 8.0, 36)) > 0.95
    assert structures.describe(dark).endswith("from map dark.mrc, voxels of 8 A, protein dark (inverted)")
    assert structures.describe(bright).endswith("protein bright") and structures.warnings([bright]) == []
    assert "protein is dark in this map" in structures.warnings([dark])[0]


def test_two_molecules_in_one_map_are_said(tmp_path):
    one = density("TRiC", 8.0, 32)
    says_so = maps.read_map(str(mrc(tmp_path / "two.mrc", np.concatenate([one, one], 2), 8.0))).doubts
    assert "2 separate parts were drawn as one" in says_so[0]
    assert maps.read_map(str(mrc(tmp_path / "one.mrc", one, 8.0))).doubts == ()


def test_noise_outside_of_the_molecule_is_not_drawn(tmp_path):
    path = mrc(tmp_path / "noisy.mrc", density("TRiC", 8.0, 48, 0.5), 8.0)
    drawn = template(path, 8.0, 48).numpy()
    far = ~ndimage.binary_dilation(shell_mask("TRiC", 8.0, 48), iterations=4)
    assert np.abs(drawn[far]).max() < 0.1 and drawn.max() > 2


def test_a_molecule_that_does_not_stand_out_is_refused_until_it_is_masked(tmp_path):
    data = density("TRiC", 8.0, 32, 4.0)
    says(lambda: template(mrc(tmp_path / "a.mrc", data, 8.0), 8.0, 32), "a.mrc", "mask", "PDB or mmCIF")
    masked = mrc(tmp_path / "b.mrc", data * shell_mask("TRiC", 8.0, 32), 8.0)
    assert structures.diameter(masked) == pytest.approx(176, rel=0.25)


def gz(path):
    zipped = path.with_name(path.name + ".gz")
    zipped.write_bytes(gzip.compress(path.read_bytes()))
    return zipped


@pytest.mark.parametrize("ending", [".mrc", ".map", ".ccp4", ".em"])
@pytest.mark.parametrize("zipped", [False, True])
def test_maps_are_read_in_their_formats(tmp_path, ending, zipped):
    data = density("TRiC", 8.0, 32)
    path = (em if ending == ".em" else mrc)(tmp_path / f"emd_1234{ending}", data, 8.0)
    path = gz(path) if zipped else path
    right = template(mrc(tmp_path / "right.mrc", data, 8.0), 8.0, 32)
    assert torch.equal(template(path, 8.0, 32), right) and structures.class_name(path) == "emd_1234"
    assert torch.equal(template(f"{path}@8.0", 8.0, 32), right) and structures.class_name(f"{path}@8.0") == "emd_1234"


def test_a_damaged_or_endless_gzip_is_refused_by_its_name_or_read_no_further(tmp_path):
    path = gz(mrc(tmp_path / "a.map", density("TRiC", 8.0, 32), 8.0))
    path.write_bytes(path.read_bytes()[:-2000])
    says(lambda: template(path, 8.0, 32), "a.map.gz", "copy it again")
    path.write_bytes(gzip.compress(bytes(5000)))
    says(lambda: template(path, 8.0, 32), f"{path} is not an MRC file")
    raw = mrc(tmp_path / "b.map", density("TRiC", 8.0, 32), 8.0).read_bytes()
    right = template(tmp_path / "b.map", 8.0, 32)
    path.write_bytes(gzip.compress(raw + bytes(10_000_000)))  # only what the header claims is read
    assert torch.equal(template(path, 8.0, 32), right)
    path.write_bytes(gzip.compress(struct.pack("<3i", 9000, 9000, 9000) + raw[12:]))
    says(lambda: template(path, 8.0, 32), "a.map.gz", "9000 x 9000 x 9000", "truncated or damaged")


@pytest.mark.parametrize("ending", [".mrc", ".map.gz"])
def test_a_header_with_voxels_that_are_not_cubic_is_refused_with_a_way_out_that_works(tmp_path, ending):
    data = density("TRiC", 8.0, 32)
    path = mrc(tmp_path / f"average{ending.removesuffix('.gz')}", data, 8.0)
    raw = bytearray(path.read_bytes())
    raw[48:52] = struct.pack("<f", 2 * struct.unpack("<f", raw[48:52])[0])  # the cell is twice as long along z
    path.write_bytes(raw)
    path = gz(path) if ending.endswith(".gz") else path
    says(lambda: template(path, 8.0, 32), "expected cubic voxels, got 8 x 8 x 16 A", f"such as {path}@8.0")
    assert torch.equal(template(f"{path}@8.0", 8.0, 32), template(mrc(tmp_path / "right.mrc", data, 8.0), 8.0, 32))


@pytest.mark.parametrize("wrong", [0.0, 1.0, 0.8e-9, 0.05, 500.0])
@pytest.mark.parametrize("ending", [".mrc", ".map.gz", ".em"])
def test_a_voxel_size_that_is_not_credible_counts_as_not_given(tmp_path, wrong, ending):
    data = density("TRiC", 8.0, 32)
    name = f"average{ending.removesuffix('.gz')}"
    path = em(tmp_path / name, data, wrong) if ending == ".em" else mrc(tmp_path / name, data, wrong)
    path = gz(path) if ending.endswith(".gz") else path
    says(lambda: template(path, 8.0, 32), path, "voxel size in the header", f"{path}@8.0 for 8 A")
    right = mrc(tmp_path / "right.mrc", data, 8.0)
    for text in (f"{path}@8.0", f"{path}@8", f"{path}@ 8.00 A"):
        assert torch.equal(template(text, 8.0, 32), template(right, 8.0, 32)), text
        assert structures.diameter(text) == structures.diameter(right)


def test_a_voxel_size_of_one_that_is_right_can_be_given(tmp_path):
    path = mrc(tmp_path / "emd_5678.map", density("RuvAB", 8.0, 32), 1.0)
    says(lambda: structures.diameter(path), "got 1 A", f"{path}@1.0 if it is right")
    assert structures.diameter(f"{path}@1.0") == pytest.approx(structures.diameter(f"{path}@8.0") / 8, rel=0.15)
    near = mrc(tmp_path / "near.map", density("ribosome_80S", 10.0, 40), 1.06)
    assert structures.diameter(near) == pytest.approx(32, abs=2), "1.06 A is a voxel size"


def test_a_molecule_of_impossible_size_shows_a_wrong_unit(tmp_path):
    path = mrc(tmp_path / "nm.mrc", density("TRiC", 8.0, 32), 0.8)  # nm instead of A
    says(lambda: structures.diameter(path), "nm.mrc", "30 to 5000 A", "18", "0.8 A", f"{path}@8.0")
    assert structures.diameter(f"{path}@8.0") == pytest.approx(182, abs=8)


def test_a_given_voxel_size_overrides_the_header_and_has_a_range(tmp_path):
    path = mrc(tmp_path / "a.mrc", density("TRiC", 8.0, 32), 5.0)
    assert structures.diameter(f"{path}@10") == pytest.approx(2 * structures.diameter(path))
    for text in ("0", "0.0", "2000"):
        says(lambda t=text: structures.diameter(f"{path}@{t}"), f"{path}@", "0.1 to 1000 A", f"{path}@8.0")


@pytest.mark.parametrize(
    "text, expected",
    [
        ("average.em@4.2", ("average.em", 4.2)),
        ("C:\\data\\my map.mrc@10", ("C:\\data\\my map.mrc", 10.0)),
        ("a@b.mrc@.5", ("a@b.mrc", 0.5)),
        ("000001@stack.mrc", ("000001@stack.mrc", None)),
        ("run@1.5.mrc", ("run@1.5.mrc", None)),
        ("map.mrc@4A", ("map.mrc", 4.0)),
        ("map.mrc@x", ("map.mrc@x", None)),
        ("TRiC", ("TRiC", None)),
        ("", ("", None)),
    ],
)
def test_the_text_of_a_class(text, expected):
    assert split_class(text) == expected


def test_names_with_at_are_files_first(tmp_path):
    data = density("TRiC", 8.0, 32)
    folder = tmp_path / "run@2"
    folder.mkdir()
    path = mrc(folder / "a@b.mrc", data, 1.0)
    assert structures.class_name(f"{path}@8.0") == "a@b" and class_file(f"{path}@8.0") == path
    assert structures.diameter(f"{path}@8.0") == pytest.approx(182, abs=8)
    odd = mrc(tmp_path / "map.mrc@4", data, 8.0)
    assert split_class(odd) == (str(odd), None) and class_file(odd) == odd


def test_a_voxel_size_belongs_to_maps_alone(tmp_path):
    path = tmp_path / "mine.pdb"
    path.write_text("ATOM      1  CA  ALA A   1       0.000   0.000   0.000  1.00 20.00           C\nEND\n")
    says(lambda: structures.diameter(f"{path}@8.0"), "mine.pdb@8.0", "map before @", "leave out @")
    assert structures.diameter(path) >= 0
    says(lambda: structures.diameter("TRiC@8.0"), "Unknown class 'TRiC@8.0'", "did you mean 'TRiC'")


def test_parameters_and_datasets_know_the_voxel_size(tmp_path):
    path = mrc(tmp_path / "mine.mrc", density("TRiC", 8.0, 32), 0.0)
    assert parameters.check({"classes": f"TRiC,{path}@8.0"}).classes == f"TRiC,{path}@8.0"
    with pytest.raises(InputError, match="neither a file nor a built-in class"):
        parameters.check({"classes": f"TRiC,{path}x@8.0"})
    config = DatasetConfig("source", (f"{path}@8.0", "ice"), 4, 24, 16.0, "source")
    assert config.class_names == ("mine", "ice")
    before = config.file_name
    mrc(path, density("apoferritin", 8.0, 32), 0.0)
    assert config.file_name != before, "the file's content is part of the dataset's name"


def test_fine_maps_are_binned_and_coarse_ones_refused(tmp_path):
    fine = mrc(tmp_path / "fine.mrc", density("RuvAB", 4.0, 40).repeat(4, 0).repeat(4, 1).repeat(4, 2), 1.0)
    assert structures._find(f"{fine}@1.0", 8.0).voxel_size == 2.0
    right = template("RuvAB", 8.0, 20)
    assert correlation(template(f"{fine}@1.0", 8.0, 20), right) > 0.97
    coarse = mrc(tmp_path / "coarse.mrc", density("RuvAB", 8.0, 32), 8.0)
    says(lambda: template(coarse, 5.0, 32), "at least the 8 A", "coarse.mrc", "finer voxels, or coordinates")
    assert template(f"{fine}@1.0", 5.0, 32).shape == (32, 32, 32)


def test_a_stack_or_a_cut_molecule_is_no_map_of_one_molecule(tmp_path):
    one = density("TRiC", 8.0, 32)
    says(
        lambda: structures.diameter(mrc(tmp_path / "flat.mrc", one[:4], 8.0)), "flat.mrc", "one molecule", "32 x 32 x 4"
    )
    cut = mrc(tmp_path / "cut.mrc", one[:16], 8.0)
    assert "is cut off" in structures.warnings([cut])[0]
    tight = [mrc(tmp_path / f"{i}.mrc", density(*m), m[1]) for i, m in enumerate(MOLECULES)]
    assert structures.warnings(tight) == []
