"""Potentials and templates: against a direct Fourier sum over atoms, the coordinates and plain arithmetic."""

import numpy as np
import pytest
import torch
from helpers.files import ROOT
from scipy import ndimage, signal

from cryoshift_core.errors import InputError
from cryoshift_core.simulation import structures
from cryoshift_core.simulation.atoms import read_atoms
from cryoshift_core.simulation.structures import BUILTIN, template

CAPSID = ROOT / "tests" / "data" / "1auy.pdb.gz"

# Electron form factors, International Tables C, table 4.3.2.2 (Peng): f(s) = sum a exp(-b s^2) in A, s = k / 2.
FORM_FACTORS = {
    "C": ([0.0893, 0.2563, 0.7570, 1.0487, 0.3575], [0.2465, 1.7100, 6.4094, 18.6113, 50.2523]),
    "N": ([0.1022, 0.3219, 0.7982, 0.8197, 0.1715], [0.2451, 1.7481, 6.1925, 17.3894, 48.1431]),
    "O": ([0.0974, 0.2921, 0.6910, 0.6990, 0.2039], [0.2067, 1.3815, 4.6943, 12.7105, 32.4726]),
}
VOLUMES = {"C": 16.44, "N": 2.49, "O": 9.13}
MASSES = {"C": 12.011, "N": 14.007, "O": 15.999}


def atom(serial, element, xyz, residue="ALA", alternative=" ", kind="ATOM  ", number=1):
    x, y, z = xyz
    return (
        f"{kind}{serial:5d}  {element:<2s} {alternative}{residue:3s} A{number:4d}    {x:8.3f}{y:8.3f}{z:8.3f}"
        f"  1.00 90.00          {element:>2s}\n"
    )


def few_atoms(seed=0, n=9):
    rng = np.random.default_rng(seed)
    return [(element, rng.uniform(-9, 9, 3).round(3)) for element in ("C", "N", "O") * (n // 3)]


def write_pdb(path, atoms):
    path.write_text("".join(atom(i, e, xyz, number=i) for i, (e, xyz) in enumerate(atoms, 1)) + "END\n")
    return path


@pytest.mark.parametrize("pixel", [4.0, 6.0, 2.5])
def test_potential_equals_a_direct_fourier_sum_over_atoms(tmp_path, pixel):
    atoms = few_atoms()
    box = int(np.ceil(80 / pixel / 2)) * 2
    volume = structures.potential(write_pdb(tmp_path / "few.pdb", atoms), voxel_size=pixel, box=box)
    xyz = np.array([p for _, p in atoms])
    mass = np.array([MASSES[e] for e, _ in atoms])
    xyz = xyz - mass @ xyz / mass.sum()
    f = np.fft.fftfreq(box, pixel)
    kz, ky, kx = np.meshgrid(f, f, f, indexing="ij")
    k2 = kx**2 + ky**2 + kz**2
    direct = np.zeros(k2.shape, complex)
    for (element, _), (x, y, z) in zip(atoms, xyz, strict=True):
        a, b = FORM_FACTORS[element]
        scattering = 47.878 * sum(ai * np.exp(-bi * k2 / 4) for ai, bi in zip(a, b, strict=True))
        ice = 4.53 * VOLUMES[element] * np.exp(-np.pi * VOLUMES[element] ** (2 / 3) * k2)
        direct += (scattering - ice) * np.exp(-50 * k2 / 4) * np.exp(-2j * np.pi * (kx * x + ky * y + kz * z))
    measured = np.fft.fftn(np.fft.ifftshift(volume.data.astype(float))) * pixel**3
    inside = np.maximum(np.maximum(abs(kx), abs(ky)), abs(kz)) < 0.45 / pixel
    error = np.linalg.norm((measured - direct)[inside]) / np.linalg.norm(direct[inside])
    assert error < 0.01
    assert volume.data.shape == (box,) * 3 and volume.voxel_size == pixel


@pytest.fixture(scope="module")
def capsid():
    return structures.potential(CAPSID, voxel_size=4.0, box=78)


def test_shipped_capsid_is_the_one_that_its_coordinates_give(capsid):
    shipped = template("TYMV_capsid", 4.0, 84)[3:-3, 3:-3, 3:-3].numpy()
    assert np.corrcoef(shipped.ravel(), capsid.data.ravel())[0, 1] > 0.99
    assert np.vdot(shipped, capsid.data) / np.vdot(capsid.data, capsid.data) == pytest.approx(1, abs=0.01)


def test_protein_outweighs_the_ice_it_displaces(capsid):
    # Protein fills 1.21 A^3/Da; with hydrogens in or out of both sums its potential is 7.7 V against 4.53 V.
    volume = BUILTIN["TYMV_capsid"].mass_kda * 1210
    assert capsid.data.sum() * 4.0**3 / volume == pytest.approx(3.2, abs=0.2)
    dense = np.sort(capsid.data.ravel())[-int(volume / 64) :]
    assert dense.mean() == pytest.approx(3.2, abs=0.4)


def test_assembly_and_chains_select_atoms(capsid):
    whole = read_atoms(CAPSID, None, None)
    assert whole.count == BUILTIN["TYMV_capsid"].atoms == 242_700
    assert whole.diameter == pytest.approx(BUILTIN["TYMV_capsid"].diameter, abs=0.1)
    unit = read_atoms(CAPSID, None, "")
    assert unit.count == 4045 and read_atoms(CAPSID, "A", "").count == 1221
    assert read_atoms(CAPSID, "A,B*", "").count == 1221 + 1412
    assert whole.mass_kda == pytest.approx(60 * unit.mass_kda, rel=1e-3)


def test_waters_hydrogens_alternatives_and_further_models_are_left_out(tmp_path):
    plain = "".join(atom(i, e, p, number=i) for i, (e, p) in enumerate(few_atoms(), 1))
    extra = atom(50, "H", (1, 1, 1), number=9) + atom(51, "O", (8, 8, 8), "HOH", kind="HETATM", number=60)
    extra += atom(52, "C", (3, 3, 3), alternative="A", number=20) + atom(53, "C", (4, 4, 4), alternative="B", number=20)
    shifted = "".join(atom(i, e, p + 0.3, number=i) for i, (e, p) in enumerate(few_atoms(), 1))
    (tmp_path / "a.pdb").write_text(f"MODEL        1\n{plain}{extra}ENDMDL\nMODEL        2\n{shifted}ENDMDL\nEND\n")
    assert read_atoms(tmp_path / "a.pdb", None, None).count == 9 + 1


def test_shipped_maps_are_small_and_described():
    folder = structures.TEMPLATES
    assert sum(path.stat().st_size for path in folder.iterdir()) < 6e6
    assert len(BUILTIN) == 11 and structures.FINEST <= 5
    for entry in BUILTIN.values():
        assert entry.pdb_id and entry.licence.startswith("CC0") and entry.atoms and entry.diameter and entry.mass_kda
    assert BUILTIN["subunit_30S"].atoms + BUILTIN["subunit_50S"].atoms == BUILTIN["ribosome_70S"].atoms
    assert BUILTIN["subunit_40S"].atoms + BUILTIN["subunit_60S"].atoms == BUILTIN["ribosome_80S"].atoms


@pytest.mark.parametrize("name", BUILTIN)
@pytest.mark.parametrize("pixel", [5.0, 10.0, 13.3])
def test_template_is_centred_and_keeps_its_integral(name, pixel):
    box = int(np.ceil(330 / pixel))
    volume = template(name, pixel, box)
    assert volume.shape == (box, box, box) and volume.dtype == torch.float32
    integral = float(volume.double().sum()) * pixel**3
    per_da = integral / BUILTIN[name].mass_kda / 1000
    assert 3.5 < per_da < 4.6  # V A^3: 3.2 V over 1.21 A^3/Da for protein; RNA is denser
    r = torch.arange(box) - box // 2
    for axis in range(3):
        profile = volume.double().sum([a for a in range(3) if a != axis])
        assert abs(float((profile * r).sum() / profile.sum())) * pixel < 1.5


def test_template_at_a_coarse_pixel_is_the_fourier_crop_of_the_fine_one():
    fine, coarse = template("TRiC", 5.0, 64), template("TRiC", 10.0, 32)
    spectrum = torch.fft.fftshift(torch.fft.fftn(fine))[17:48, 17:48, 17:48]
    mine = torch.fft.fftshift(torch.fft.fftn(coarse))[1:, 1:, 1:]
    assert float((spectrum / 8 - mine).abs().max() / mine.abs().max()) < 1e-3


def test_a_file_is_a_class_too(tmp_path):
    from cryoshift_core.tomography.mrc import write_mrc

    path = write_pdb(tmp_path / "my.model.pdb", few_atoms())
    assert structures.class_name(path) == "my" and structures.class_name("TRiC") == "TRiC"
    assert float(template(path, 5.0, 16).sum()) > 0 and 5 < structures.diameter(path) < 35
    # A map in arbitrary units, off centre, on a pedestal, gives the same shape.
    known = template("apoferritin", 8.0, 24)
    moved = torch.roll(torch.nn.functional.pad(known, [4] * 6), (3, -2, 1), (0, 1, 2))
    write_mrc(tmp_path / "map.mrc", 50 * moved.numpy() + 7, 8.0)
    again = template(tmp_path / "map.mrc", 8.0, 24)
    assert np.corrcoef(again.ravel(), known.ravel())[0, 1] > 0.98
    assert 0.6 < float(again.sum() / known.sum()) < 1.6
    assert structures.diameter(tmp_path / "map.mrc") == pytest.approx(133, abs=20)


def test_ice_is_nothing_and_membranes_are_random_double_layers():
    assert not template("ice", 10.0, 24).any() and structures.diameter("ice") == 0

    def draw(seed, pixel=2.0, box=72):
        return template("membrane", pixel, box, torch.Generator().manual_seed(seed))

    one = draw(3)
    assert torch.equal(one, draw(3)) and not torch.allclose(one, draw(4), atol=0.5)
    r = (torch.arange(72) - 36) * 2.0
    radius = (r[:, None, None] ** 2 + r[:, None] ** 2 + r**2).sqrt()
    assert not one[radius >= 72].any() and float(one.max()) > 1.8
    # Along the normal (the strongest direction of the gradient), the two sheets lie 35 to 40 A apart.
    gradient = np.stack(np.gradient(one.numpy()))[:, radius.numpy() < 40]
    normal = np.linalg.eigh(gradient @ gradient.T)[1][:, -1]
    along = np.arange(-60, 60, 0.5)
    profile = ndimage.map_coordinates(one.numpy(), 36 + normal[:, None] * along / 2.0, order=3)
    first, second = sorted(signal.find_peaks(profile, height=1.0)[0])
    assert 34 < along[second] - along[first] < 42 and profile[(first + second) // 2] < 0.5


def test_membranes_thinner_than_a_voxel_are_not_aliased():
    fine, coarse = (template("membrane", p, n, torch.Generator().manual_seed(3)) for p, n in ((8.0, 80), (40.0, 16)))
    average = torch.roll(fine, (2, 2, 2), (0, 1, 2)).unfold(0, 5, 5).unfold(1, 5, 5).unfold(2, 5, 5).mean((3, 4, 5))
    assert float(torch.corrcoef(torch.stack([average.ravel(), coarse.ravel()]))[0, 1]) > 0.93
    assert float(coarse.sum()) == pytest.approx(float(average.sum()), rel=0.1)


def test_outliers_and_the_unseen_molecule_share_no_family_with_each_other_or_with_the_classes():
    """Before, a 50S subunit was the unseen molecule beside 30S, 40S and 60S as outliers: a test on a sibling."""
    seven = ("ribosome_70S", "ribosome_80S", "TRiC", "apoferritin", "spliceosome", "TYMV_capsid", "RuvAB")
    assert structures.outliers(seven) == ("ice", "membrane"), "subunits are relatives of ribosomes"
    for classes in (("TRiC",), ("ribosome_80S", "membrane"), seven, seven[2:], ()):
        known = {structures.family(name) for name in classes}
        for seed in range(12):
            unseen = structures.unseen_molecule(classes, seed)
            others = structures.outliers(classes, unseen)
            families = {structures.family(name) for name in others}
            assert unseen not in classes and families.isdisjoint(known | {structures.family(unseen)})
            assert "ice" in others
    assert {structures.unseen_molecule(seven, seed)[:8] for seed in range(4)} == {"subunit_"}, "the only ones left"
    assert structures.family("ribosome_80S") == structures.family("subunit_50S") == "ribosome"
    assert structures.family("/data/mine.pdb.gz") == "mine"


def test_the_unseen_molecule_differs_between_consecutive_seeds_and_fits_the_box():
    classes = ("ribosome_80S", "TRiC")
    drawn = [structures.unseen_molecule(classes, seed) for seed in range(4)]
    assert set(drawn) == {"apoferritin", "spliceosome", "TYMV_capsid", "RuvAB"}
    assert structures.unseen_molecule(classes, 1, width=130.0) == "RuvAB"
    assert structures.outliers(("TRiC",), width=130.0) == ("RuvAB", "ice", "membrane")
    with pytest.raises(InputError, match="Unseen molecule: .*fits into 100 A.*larger box"):
        structures.unseen_molecule(classes, 0, width=100.0)
