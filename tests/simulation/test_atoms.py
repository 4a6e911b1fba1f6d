"""Which atoms of a coordinate file are drawn: models, assemblies, elements, solvent, ligands, conformers."""

import gzip

import gemmi
import numpy as np
import pytest
from helpers.files import ROOT, correlation, says

from cryoshift_core.simulation import atoms, structures
from cryoshift_core.simulation.atoms import read_atoms

CAPSID = ROOT / "tests" / "data" / "1auy.pdb.gz"
TETRAHEDRON = np.array([(1, 1, 1), (1, -1, -1), (-1, 1, -1), (-1, -1, 1)]) * 17.0


def line(serial, name, residue, number, xyz, *, chain="A", element=None, occupancy=1.0, het=False, alternative=" "):
    """A PDB line; `name` has four characters, so that its column is the caller's choice."""
    x, y, z = xyz
    element = name.strip()[0] if element is None else element
    return (
        f"{'HETATM' if het else 'ATOM  '}{serial:5d} {name}{alternative}{residue:>3s} {chain}{number:4d}    "
        f"{x:8.3f}{y:8.3f}{z:8.3f}{occupancy:6.2f}{20:6.2f}          {element:>2s}\n"
    )


def ball(centre=(0, 0, 0), chain="A", seed=0, jitter=0.0, residues=40):
    """A globule of alanines: 4 atoms each, at random places in a ball of 15 A."""
    rng = np.random.default_rng(seed)
    xyz = rng.normal(size=(4 * residues, 3))
    xyz *= 15 * rng.uniform(size=(len(xyz), 1)) ** (1 / 3) / np.linalg.norm(xyz, axis=1, keepdims=True)
    xyz += np.asarray(centre) + jitter * np.random.default_rng(seed + 1).normal(size=xyz.shape)
    names = (" N  ", " CA ", " C  ", " O  ")
    return "".join(line(i + 1, names[i % 4], "ALA", i // 4 + 1, p, chain=chain) for i, p in enumerate(xyz))


def models(*parts):
    return "".join(f"MODEL     {i:4d}\n{part}TER\nENDMDL\n" for i, part in enumerate(parts, 1)) + "END\n"


def peptide(number=1, at=(0.0, 0.0, 0.0), chain="A", n=4):
    """n alanines whose backbone is bonded, along x."""
    out = ""
    for i in range(n):
        start = np.array([3.8 * i, 0, 0]) + at
        steps = ((" N  ", (0, 0, 0)), (" CA ", (1.4, 0.3, 0)), (" C  ", (2.6, -0.4, 0)), (" O  ", (2.7, -1.6, 0)))
        out += "".join(line(9, name, "ALA", number + i, start + step, chain=chain) for name, step in steps)
    return out


def write(path, text):
    path.write_bytes(gzip.compress(text.encode()) if path.suffix == ".gz" else text.encode())
    return path


def capsid_lines():
    return [row + "\n" for row in gzip.decompress(CAPSID.read_bytes()).decode().splitlines() if row.startswith("ATOM")]


COPIES = [ball(centre, chain) for centre, chain in zip(TETRAHEDRON, "ABCD", strict=True)]


@pytest.mark.parametrize("ending", [".pdb", ".pdb1", ".ent", ".pdb2.gz", ".ent.gz", ".PDB1", ".txt"])
def test_an_assembly_with_a_model_for_each_copy_is_drawn_whole(tmp_path, ending):
    flat = read_atoms(write(tmp_path / "flat.pdb", "".join(COPIES) + "END\n"))
    found = read_atoms(write(tmp_path / f"whole{ending}", models(*COPIES)))
    assert found.count == flat.count == 640 and found.diameter == pytest.approx(flat.diameter)
    assert found.mass_kda == pytest.approx(flat.mass_kda)
    assert "4 models together" in found.source and "4 models that lie apart" in found.doubts[0]
    assert flat.doubts == () and flat.left_out == ""


def test_files_joined_by_end_are_drawn_together(tmp_path):
    found = read_atoms(write(tmp_path / "two.pdb", f"{COPIES[0]}TER\nEND\n{COPIES[1]}TER\nEND   \n\n"))
    assert found.count == 320 and "2 structures one after another" in found.doubts[0]
    alone = read_atoms(write(tmp_path / "one.pdb", f"{COPIES[0]}TER\nEND\n"))
    assert alone.count == 160 and not alone.doubts


def test_blocks_of_one_mmcif_are_drawn_together(tmp_path):
    text = ""
    for i, copy in enumerate(COPIES[:2]):
        structure = gemmi.read_pdb_string(copy)
        structure.setup_entities()
        document = structure.make_mmcif_document()
        document.sole_block().name = f"part{i}"
        text += document.as_string()
    found = read_atoms(write(tmp_path / "two.cif.gz", text))
    assert found.count == 320 and "2 structures one after another" in found.doubts[0]


def test_of_an_ensemble_the_first_model_is_drawn(tmp_path):
    conformers = [ball(seed=0, jitter=0.5 * i) for i in range(5)]
    found = read_atoms(write(tmp_path / "nmr.pdb", models(*conformers)))
    first = read_atoms(write(tmp_path / "first.pdb", conformers[0] + "END\n"))
    assert found.count == first.count and found.diameter == pytest.approx(first.diameter)
    assert found.source.startswith("nmr.pdb, model 1 of 5") and "only the first was drawn" in found.doubts[0]


def test_an_ensemble_of_a_real_protein_and_its_trace(tmp_path):
    rows = [row for row in capsid_lines() if row[21] == "A"]
    for name, some in (("all", rows), ("trace", [row for row in rows if row[12:16] == " CA "])):
        moved = [
            row[:30] + "".join(f"{float(row[c : c + 8]) + 0.7:8.3f}" for c in (30, 38, 46)) + row[54:] for row in some
        ]
        apart = [row[:30] + f"{float(row[30:38]) + 90:8.3f}" + row[38:] for row in some]
        found = read_atoms(write(tmp_path / f"{name}.pdb", models(*map("".join, (some, moved, apart)))), assembly=None)
        assert "numbers 1, 3, which lie apart, were drawn" in found.doubts[0], name


def test_models_that_overlap_in_part_are_refused_with_a_way_out(tmp_path):
    half = models(ball(), ball((20, 0, 0), seed=3))
    path = write(tmp_path / "half.pdb", half)
    says(lambda: read_atoms(path), "half.pdb", "model 2", "%", "separate file")
    assert read_atoms(write(tmp_path / "separate.pdb", half[: half.index("MODEL        2")])).count == 160


def biomt(*shifts, chain="A"):
    rows = [f"REMARK 350 BIOMOLECULE: 1\nREMARK 350 APPLY THE FOLLOWING TO CHAINS: {chain}\n"]
    for i, shift in enumerate(shifts, 1):
        for axis in range(3):
            unit = "".join(f"{float(axis == k):10.6f}" for k in range(3))
            rows.append(f"REMARK 350   BIOMT{axis + 1} {i:3d}{unit} {shift[axis]:14.5f}            \n")
    return "".join(rows)


def test_a_listed_assembly_is_built_once(tmp_path):
    shifts = TETRAHEDRON - TETRAHEDRON[0]
    one = read_atoms(write(tmp_path / "unit.pdb", biomt(*shifts) + COPIES[0] + "END\n"))
    assert one.count == 640 and "assembly 1" in one.source and not one.doubts
    says(lambda: read_atoms(tmp_path / "unit.pdb", assembly="2"), "one of 1", "assembly '2'")
    assert read_atoms(tmp_path / "unit.pdb", assembly="").count == 160
    # The operators of a group map the copies onto each other; a file that holds all of them is not multiplied.
    rows = ""
    for i, (a, b, c) in enumerate([(1, 1, 1), (1, -1, -1), (-1, 1, -1), (-1, -1, 1)], 1):
        for axis, sign in enumerate((a, b, c)):
            unit = "".join(f"{float(sign * (axis == k)):10.6f}" for k in range(3))
            rows += f"REMARK 350   BIOMT{axis + 1} {i:3d}{unit} {0:14.5f}            \n"
    head = f"REMARK 350 BIOMOLECULE: 1\nREMARK 350 APPLY THE FOLLOWING TO CHAINS: A, B, C, D\n{rows}"
    built = []
    for a, b, c in [(1, 1, 1), (1, -1, -1), (-1, 1, -1), (-1, -1, 1)]:
        signed = np.array([a, b, c])
        text = ""
        for row in ball(TETRAHEDRON[0]).splitlines(keepends=True):
            xyz = signed * [float(row[k : k + 8]) for k in (30, 38, 46)]
            text += row[:30] + "".join(f"{v:8.3f}" for v in xyz) + row[54:]
        built.append(text)
    whole = read_atoms(write(tmp_path / "built.pdb1", head + models(*built)))
    assert whole.count == 640
    renamed = "".join(t.replace("ALA A", f"ALA {n}") for t, n in zip(built, "ABCD", strict=True))
    flat = read_atoms(write(tmp_path / "flat.pdb", head + renamed + "END\n"))
    assert flat.count == 640 and "were not applied again" in flat.doubts[0] and "as in the file" in flat.source


def test_chains_outside_of_the_assembly_are_named(tmp_path):
    found = read_atoms(write(tmp_path / "crystal.pdb", biomt((0, 0, 0)) + COPIES[0] + COPIES[1] + "END\n"))
    assert found.count == 160 and "assembly 1 without chain B" in found.source


def test_an_assembly_too_large_for_memory_is_refused_before_it_is_built(tmp_path, monkeypatch):
    path = write(tmp_path / "many.pdb", biomt(*np.outer(np.arange(30), (60, 0, 0))) + COPIES[0] + "END\n")
    monkeypatch.setattr(atoms, "MOST_ATOMS", 4000)
    says(lambda: read_atoms(path), "many.pdb", "30 copies", "at most 4,000 atoms", "separate file")
    monkeypatch.setattr(atoms, "LARGEST_FILE", 1000)
    says(lambda: read_atoms(write(tmp_path / "zeros.pdb.gz", "\0" * 100_000)), "zeros.pdb.gz", "at most 1,000 bytes")


@pytest.mark.parametrize(
    "change", ["no element", "left", "left, no element", "shifted", "wrong element", "line number"]
)
def test_elements_of_sloppy_files_are_right(tmp_path, change):
    rows = [row for row in capsid_lines() if row[21] == "A"]
    extra = line(1, " HG ", "SER", 3, (0, 0, 0), element="H")
    good = write(tmp_path / "good.pdb", "".join([*rows, extra]))

    def sloppy(row):
        name, element = row[12:16], row[76:78].strip()
        name = f"{name.strip():<4s}" if "left" in change else name
        end = {"shifted": f"    {element}", "wrong element": f"{name.strip()[:2]:>2s}", "line number": " 123"}
        tail = end.get(change, "  " if "no element" in change else f"{element:>2s}")
        return (
            row[:12] + name + (row[16:72] + "1AUY" if change == "line number" else row[16:76]).ljust(60) + tail + "\n"
        )

    bad = write(tmp_path / "bad.pdb", "".join(map(sloppy, [*rows, extra])))
    one, two = (structures.potential(path, voxel_size=4.0, box=32).data for path in (good, bad))
    np.testing.assert_allclose(two, one, atol=1e-5)
    assert read_atoms(good).doubts == (), "a sound file gives no warning"
    expected = change not in ("no element", "shifted", "line number")
    doubts = read_atoms(bad).doubts
    assert (doubts != ()) == (expected and change != "left"), doubts
    assert not doubts or "taken from the atoms' names" in doubts[0]


def test_calcium_is_no_carbon_and_an_ion_is_not_drawn(tmp_path):
    text = peptide() + line(90, "CA  ", "CA", 90, (3, 5, 0), element="CA", het=True)
    found = read_atoms(write(tmp_path / "ion.pdb", text))
    assert found.count == 16 and found.left_out == "1 ion"
    assert {site.atom.element.name for site in found.model.all()} == {"C", "N", "O"}


def ligand(name, n, at, element="C", start=1):
    """n bonded atoms in a row along z."""
    return "".join(
        line(
            start + i, f"{f'{element}{i + 1}':>3s} ", name, 200, np.add(at, (0, 0, 1.5 * i)), het=True, element=element
        )
        for i in range(n)
    )


@pytest.mark.parametrize(
    "text, drawn, said",
    [
        (line(1, " O  ", "HOH", 101, (0, 9, 0), het=True), 0, "1 water"),
        (line(1, " OW ", "SOL", 101, (0, 9, 0)) + line(1, " OW ", "SOL", 102, (0, 12, 0)), 0, "2 waters"),
        (line(1, " N  ", "DUM", 101, (0, 9, 0), het=True), 0, "1 ion"),
        (ligand("SO4", 5, (0, 9, 0)), 0, "1 SO4"),
        (ligand("GOL", 6, (0, 9, 0)), 0, "1 GOL"),
        (ligand("LMT", 35, (0, 9, 0)), 0, "1 LMT"),
        (ligand("POP", 52, (0, 9, 0)), 0, "1 POP"),
        (ligand("XYZ", 12, (0, 9, 0)), 0, "1 XYZ"),
        (ligand("HEM", 43, (0, 9, 0)), 43, ""),
        (ligand("CLA", 65, (0, 9, 0)), 65, ""),
        (ligand("NAG", 14, (2.7, -1.6, 1.4)), 14, ""),  # bonded to the peptide's first oxygen
        (ligand("NAG", 14, (0, 9, 0)), 0, "1 NAG"),
        (ligand("PLP", 15, (2.7, -1.6, 1.4)), 15, ""),
        (peptide(300, (0, 20, 0), n=1).replace("ATOM  ", "HETATM").replace("ALA", "GLY"), 0, "1 GLY"),  # a buffer
        (peptide(5, (15.2, 0, 0), n=1).replace("ATOM  ", "HETATM").replace("ALA", "MSE"), 4, ""),
        (peptide(300, (0, 20, 0), n=4, chain="B"), 16, ""),  # a second chain
        (peptide(5, (15.2, 0, 0), n=1).replace("ALA", "HSD"), 4, ""),
        (line(1, " Q1 ", "ALA", 1, (0, 4, 0), element=""), 0, "1 atom without element"),
    ],
)
def test_only_the_macromolecule_is_drawn(tmp_path, text, drawn, said):
    found = read_atoms(write(tmp_path / "a.pdb", peptide() + text + "END\n"))
    assert found.count == 16 + drawn and said in found.left_out and bool(said) == bool(found.left_out)
    assert not found.doubts
    if drawn in (43, 65):
        assert f"with 1 {'HEM' if drawn == 43 else 'CLA'}" in found.source


def test_solvent_alone_is_no_class(tmp_path):
    path = write(tmp_path / "ice.pdb", line(1, " O  ", "HOH", 1, (0, 0, 0), het=True) + ligand("SO4", 5, (0, 9, 0)))
    says(lambda: read_atoms(path), "ice.pdb", "amino acids or nucleotides", "1 water, 1 SO4")


def test_each_atom_is_drawn_once_in_its_most_occupied_conformation(tmp_path):
    where = {"alternative": "A", "occupancy": 0.3}, {"alternative": "B", "occupancy": 0.7}
    two = [line(60, " CB ", "ALA", 1, (1, 2 + i, 0), **how) for i, how in enumerate(where)]
    only = line(61, " CB ", "ALA", 2, (5, 2, 0), alternative="B", occupancy=0.5)
    kinds = [
        "".join(
            line(70, name, residue, 9, (1.4 * k, y, 9), alternative=letter, occupancy=occ)
            for k, name in enumerate((" N  ", " CA ", " C  "))
        )
        for residue, letter, occ, y in (("SER", "A", 0.4, 9), ("THR", "B", 0.6, 9.5))
    ]
    found = read_atoms(write(tmp_path / "alt.pdb", peptide() + "".join([*two, only, *kinds])))
    assert found.count == 16 + 2 + 3 and not found.doubts
    kept = {residue.name for chain in found.model for residue in chain}
    assert kept == {"ALA", "THR"}
    (chain,) = found.model
    places = {atom.name: atom.pos.y for atom in chain[0]}
    assert places["CB"] - places["N"] == pytest.approx(3.0), "B, which is more occupied"


def test_repeated_numbers_in_a_nameless_chain_are_all_drawn(tmp_path):
    text = (ball(seed=1) + ball((40, 0, 0), seed=2)).replace("ALA A", "ALA  ")
    found = read_atoms(write(tmp_path / "md.pdb", text))
    assert found.count == 320 and not found.doubts


def test_atoms_at_one_place_are_drawn_once_and_said(tmp_path):
    found = read_atoms(write(tmp_path / "twice.pdb", ball() + ball(chain="B")))
    assert found.count == 160 and "160 atoms lie on another atom" in found.doubts[0]


def test_coordinates_that_do_not_fit_their_columns_are_refused(tmp_path):
    text = peptide()
    bad = write(tmp_path / "far.pdb", text.replace("   0.000", "********", 1))
    says(lambda: read_atoms(bad), "far.pdb", "columns 31 to 54", "********", "mmCIF", "origin")
    moved = gemmi.read_pdb_string(text)
    moved.setup_entities()
    away = gemmi.Transform()
    away.vec.fromlist([1e5, 0, 0])
    moved[0].transform_pos_and_adp(away)
    found = read_atoms(write(tmp_path / "far.cif", moved.make_mmcif_document().as_string()))
    assert found.count == read_atoms(write(tmp_path / "origin.pdb", text)).count == 16
    assert read_atoms(write(tmp_path / "mark.pdb", "\N{BYTE ORDER MARK}" + text)).count == 16


def test_zero_occupancy(tmp_path):
    empty = line(50, " CB ", "ALA", 2, (9999, 9999, 9999), occupancy=0.0)
    found = read_atoms(write(tmp_path / "some.pdb", peptide() + empty))
    assert found.count == 16 and found.left_out == "1 atom of zero occupancy" and found.diameter < 30
    every = "".join(row[:54] + "  0.00" + row[60:] for row in peptide().splitlines(keepends=True))
    found = read_atoms(write(tmp_path / "all.pdb", every))
    assert found.count == 16 and "occupancies were ignored" in found.doubts[0]


def test_a_trace_is_drawn_with_the_density_of_its_residues(tmp_path):
    rows = [row for row in capsid_lines() if row[21] == "A"]
    whole = write(tmp_path / "whole.pdb", "".join(rows))
    trace = write(tmp_path / "trace.pdb", "".join(row for row in rows if row[12:16] == " CA "))
    centre = [
        np.mean([[float(r[c : c + 8]) for c in (30, 38, 46)] for r in p.read_text().splitlines() if r[:4] == "ATOM"], 0)
        for p in (whole, trace)
    ]
    assert np.linalg.norm(centre[0] - centre[1]) < 1.0, "the two maps have about the same centre"
    one, two = (structures.potential(path, voxel_size=8.0, box=16).data for path in (whole, trace))
    assert correlation(one, two) > 0.93 and two.sum() / one.sum() == pytest.approx(1, abs=0.15)
    masses = [read_atoms(path).mass_kda for path in (whole, trace)]
    assert masses[1] / masses[0] == pytest.approx(1, abs=0.1)
    assert "one atom for each of" in read_atoms(trace).doubts[0]
    phosphates = "".join(line(i, " P  ", "DA", i, (6.0 * i, 0, 0)) for i in range(1, 11))
    nucleic = read_atoms(write(tmp_path / "p.pdb", phosphates))
    assert nucleic.mass_kda == pytest.approx(3.2, abs=0.3), "a nucleotide has about 320 Da"


def scaled(rows, factor):
    """The PDB lines with all coordinates multiplied."""
    moved = (
        row[:30] + "".join(f"{factor * float(row[c : c + 8]):8.3f}" for c in (30, 38, 46)) + row[54:] for row in rows
    )
    return "".join(moved)


def test_coordinates_in_another_unit_are_refused_and_read_when_converted(tmp_path):
    rows = [row for row in capsid_lines() if row[21] == "A"]
    whole = read_atoms(write(tmp_path / "a.pdb", "".join(rows)))
    nm = write(tmp_path / "nm.pdb", scaled(rows, 0.1))
    says(lambda: read_atoms(nm), "nm.pdb", "0.7 to 8 A", "got 0.1", "nm: multiply them by 10")
    says(lambda: read_atoms(write(tmp_path / "pm.pdb", scaled(rows, 10))), "pm.pdb", "got 1", "convert")
    back = read_atoms(write(tmp_path / "back.pdb", scaled(nm.read_text().splitlines(keepends=True), 10)))
    assert back.diameter == pytest.approx(whole.diameter, rel=0.01) and back.mass_kda == whole.mass_kda


@pytest.mark.parametrize("beads", [(" BB ",), (" BB ", " SC1")])
def test_a_coarse_grained_model_is_drawn_as_a_trace(tmp_path, beads):
    rows = [row for row in capsid_lines() if row[21] == "A"]
    whole = read_atoms(write(tmp_path / "whole.pdb", "".join(rows)))
    trace = [row for row in rows if row[12:16] == " CA "]
    text = "".join(f"{row[:12]}{bead}{row[16:66]}\n" for row in trace for bead in beads)
    found = read_atoms(write(tmp_path / "martini.pdb", text))
    assert found.mass_kda == pytest.approx(whole.mass_kda, rel=0.1) and "one atom for each of" in found.doubts[0]


def test_residues_without_their_side_chains_are_said(tmp_path):
    rows = [row for row in capsid_lines() if row[21] == "A"]
    backbone = "".join(row for row in rows if row[12:16].strip() in ("N", "CA", "C", "O"))
    (doubt,) = read_atoms(write(tmp_path / "b.pdb", backbone)).doubts
    assert "b.pdb: 144 of 163 residues lack a quarter of their mass" in doubt
    assert read_atoms(write(tmp_path / "a.pdb", "".join(rows))).doubts == ()


def test_an_mmcif_with_few_columns_is_read(tmp_path):
    rows = [row for row in capsid_lines() if row[21] == "A"]
    labels = "group_PDB id type_symbol label_atom_id label_comp_id label_asym_id label_seq_id Cartn_x Cartn_y Cartn_z"
    cells = [[row[:4], str(i), row[76:78], row[12:16], row[17:20], "A", row[22:26], row[30:38], row[38:46], row[46:54]]
             for i, row in enumerate(rows, 1)]  # fmt: skip
    loop = "".join(f"_atom_site.{label}\n" for label in labels.split()) + "".join(" ".join(c) + "\n" for c in cells)
    assert read_atoms(write(tmp_path / "few.cif", "data_x\nloop_\n" + loop)).count == len(rows)


def test_nothing_of_the_shipped_capsid_is_in_doubt():
    found = read_atoms(CAPSID)
    assert found.doubts == () and found.left_out == "" and "assembly 1" in found.source
    line = structures.describe(CAPSID)
    assert line.startswith("1auy: 3.5 MDa, 314 A, from 1auy.pdb.gz, assembly 1"), line


def test_each_class_is_described_in_one_line(tmp_path):
    text = "HEADER    RIBOSOME                                01-JAN-20   6ZU5\n" + peptide()
    path = write(tmp_path / "mine.ent", text + line(1, " O  ", "HOH", 101, (0, 9, 0), het=True))
    assert structures.describe(path) == "mine: 0 kDa, 15 A, from PDB 6zu5, no assembly listed; 1 water not drawn"
    assert structures.describe("TRiC").startswith("TRiC: 921 kDa, 176 A, built in, from PDB 4V8R")
    assert structures.describe("ice") == "ice: no particle" and "membrane: " in structures.describe("membrane")
    write(tmp_path / "two.pdb1", models(*COPIES))
    (warning,) = structures.warnings(["ice", "TRiC", path, tmp_path / "two.pdb1"])
    assert "two.pdb1 holds 4 models that lie apart" in warning


def test_a_molecule_with_a_stray_atom_is_refused_and_drawn_without_it(tmp_path):
    stray = line(1, " CA ", "ALA", 900, (9000, 0, 0), chain="Z")
    path = write(tmp_path / "far.pdb", ball() + stray)
    says(lambda: structures.template(path, 10.0, 32), "far.pdb", "at most 1280 A", "separate file")
    assert float(structures.template(write(tmp_path / "part.pdb", ball()), 10.0, 32).sum()) > 0
