"""Stand-ins for molecules: the mass stays, the shape goes."""

import math
from dataclasses import replace

import pytest
import torch

from cryoshift_core.errors import InputError
from cryoshift_core.simulation import controls, datasets, structures
from cryoshift_core.simulation.datasets import DatasetConfig
from cryoshift_core.simulation.scenarios import FACTORS, scenario


@pytest.fixture
def molecule():
    return structures.template("TRiC", 12.0, 32)


def offset(volume):
    """Distance of the centre of mass from index n // 2, voxels."""
    at = torch.arange(volume.shape[0]) - volume.shape[0] // 2
    grids = torch.meshgrid(at, at, at, indexing="ij")
    return math.hypot(*(float((g * volume).sum() / volume.sum()) for g in grids))


@pytest.mark.parametrize("name", controls.SHAPES)
def test_a_shape_has_the_mass_and_the_density_of_the_molecule(molecule, name):
    made = controls.shape(molecule, name)
    assert made.shape == molecule.shape and float(made.min()) >= 0
    assert float(made.sum()) == pytest.approx(float(molecule.sum()), rel=1e-4)
    level = float(molecule[molecule > controls.INSIDE * molecule.max()].mean())
    assert float(made.max()) == pytest.approx(level, rel=0.05)
    assert offset(made) < (3 if name == "heart" else 0.1)
    similarity = float(torch.corrcoef(torch.stack([made.flatten(), molecule.flatten()]))[0, 1])
    assert similarity < 0.97, "another shape"


def test_a_shell_is_hollow_and_a_heart_has_one_plane_of_symmetry_less_than_a_sphere(molecule):
    sphere, shell, heart = (controls.shape(molecule, name) for name in ("sphere", "shell", "heart"))
    assert float(shell[16, 16, 16]) == 0 and float(sphere[16, 16, 16]) > 0
    # n is even, so a flip about n // 2 is a flip and a shift by one voxel
    about_z = [float((v - v.flip(0).roll(1, 0)).abs().sum() / v.sum()) for v in (sphere, shell, heart)]
    assert max(about_z[:2]) < 0.05 < 0.3 < about_z[2]


def test_a_mirror_image_is_no_rotation_of_a_chiral_molecule(molecule):
    made = controls.shape(molecule, "mirror")
    assert torch.equal(controls.shape(made, "mirror")[:, :, 1:], molecule[:, :, 1:])
    assert offset(made) < offset(molecule) + 0.1
    assert not torch.allclose(made, molecule, atol=0.1)


def test_controls_replace_molecules_and_leave_other_scenarios_alone(molecule):
    plain = scenario("in_situ_2")
    changed = controls.scenario(plain, "sphere")
    factor = FACTORS["shape"]
    generator = torch.Generator()
    assert changed.name == f"{plain.name}_sphere"
    assert factor.structure(plain, "TRiC", molecule, 12.0, generator) is molecule
    assert factor.structure(changed, "gold", molecule, 12.0, generator) is molecule, "fiducials stay"
    assert not torch.allclose(factor.structure(changed, "TRiC", molecule, 12.0, generator), molecule)


def test_a_radial_average_keeps_the_total_and_the_profile_and_is_the_same_from_all_sides(molecule):
    made = controls.shape(molecule, "radial")
    assert float(made.sum()) == pytest.approx(float(molecule.sum()), rel=1e-4)
    assert torch.equal(made, made.transpose(0, 2)) and torch.allclose(made[1:], made[1:].flip(0), atol=1e-6)
    assert torch.allclose(controls.radial_average(made), made, atol=1e-5), "a second average changes nothing"
    assert not torch.allclose(made, molecule, atol=0.1)


def test_a_magnified_molecule_has_its_own_shape_and_the_mass_of_another():
    ribosome = structures.template("ribosome_80S", 12.0, 32)
    made = controls.shape(structures.template("apoferritin", 12.0, 32), "ribosome_80S", 12.0)
    assert float(made.sum()) == pytest.approx(float(structures.template("apoferritin", 12.0, 32).sum()), rel=1e-4)
    inside = [int((v > controls.INSIDE * v.max()).sum()) for v in (made, ribosome)]
    assert inside[0] < 0.35 * inside[1], "it has shrunk"
    same = controls.shape(ribosome, "ribosome_80S", 12.0)
    assert torch.allclose(same, ribosome, atol=1e-3)


def test_a_molecule_that_would_not_fit_is_named(molecule):
    assert controls.fits("TRiC", "ribosome_80S", 12.0, 32) and not controls.fits("spliceosome", "TYMV_capsid", 12.0, 32)
    with pytest.raises(InputError, match="'spliceosome': expected a diameter of at most"):
        controls.shape(structures.template("TYMV_capsid", 12.0, 32), "spliceosome", 12.0)
    with pytest.raises(InputError, match="Expected a control out of sphere"):
        controls.shape(molecule, "cube")


def test_a_box_and_its_control_share_the_label_and_the_noise():
    """They can be compared in pairs, because nothing but the shape differs."""
    config = DatasetConfig("source", ("TRiC", "apoferritin"), 4, 24, 16.0, "validation", 2, 3)
    plain = datasets.simulate_source(config, progress=False)
    other = replace(config, scenario=controls.scenario(config.setting, "sphere"))
    sphere = datasets.simulate_source(other, progress=False)
    assert torch.equal(plain.y, sphere.y) and torch.equal(plain.groups, sphere.groups)
    corner = (slice(None), 0, slice(0, 4), slice(0, 4), slice(0, 4))  # no particle is there
    alike = torch.corrcoef(torch.stack([plain.x[corner].flatten(), sphere.x[corner].flatten()]))[0, 1]
    assert alike > 0.95 and not torch.allclose(plain.x, sphere.x, atol=0.1)
