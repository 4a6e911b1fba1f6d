"""Atoms of the macromolecule in a coordinate file: right elements, one conformer, no solvent, whole residues."""

from __future__ import annotations

import math
import re
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field

import gemmi
import numpy as np
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components
from scipy.spatial import cKDTree

BOND = 1.95  # A: atoms of two residues that are closer are bonded (C-S 1.82); hydrogen bonds are longer
SMALLEST_LIGAND = 20  # heavy atoms: ATP, heme and chlorophyll have more, agents of a buffer fewer
ORGANIC = frozenset(("H", "D", "C", "N", "O", "S", "P", "Se", "F", "Cl", "Br", "I"))
IN_LIGANDS = ORGANIC | {"B", "Si", "Mg", "V", "Mn", "Fe", "Co", "Ni", "Cu", "Zn", "Mo", "W"}
# Lipids, detergents and polyethylene glycols: around a macromolecule, not of it.
AMPHIPHILES = frozenset(
    "12P 15P 1PE 2PE 3PE AJP BNG BOG C14 CDL CHL1 CHOL CLR D10 D12 DGD DMPC DOPC DPPC DPPE DPPG GDN LHG LMG LMN LMT LMU"
    " LOP MYR MYS OLA OLB OLC P33 P6G PC1 PCW PE4 PEE PEK PEV PG4 PGV PLC PLM POP POPC POPE POPG POPS PSC PTY PX4 R16"
    " SQD STE UND XPE Y01".split()
)
# Mean heavy atoms of a residue of which only one atom is given: for protein and for nucleic acid.
AMINO_ACID = ("C",) * 5 + ("N",) + ("O",) * 2
NUCLEOTIDE = ("P",) + ("C",) * 10 + ("N",) * 4 + ("O",) * 7
TRACE = ("CA", "BB", "P", "C1'", "C3'", "C4'", "C5'")
SUGARS = (gemmi.ResidueKind.PYR, gemmi.ResidueKind.KET)


@dataclass
class Cleaned:
    """What `clean` left out and changed.

    Attributes
    ----------
    left_out : "water", "ion" (any single atom), "atom of zero occupancy", "atom without element", or the name of a
        small molecule -> number left out
    ligands : name -> number of ligands that are drawn
    elements : atoms whose element was taken from their name
    unoccupied : more than half of the atoms have an occupancy of zero, so it was not used
    traces : residues of one atom, drawn as whole residues
    incomplete : residues of which less than three quarters of the mass are given, as without side chains, and residues
        of which this can be told
    """

    left_out: Counter[str] = field(default_factory=Counter)
    ligands: Counter[str] = field(default_factory=Counter)
    elements: int = 0
    unoccupied: bool = False
    traces: int = 0
    incomplete: np.ndarray = field(default_factory=lambda: np.zeros(2, int))


def is_polymer(residue: gemmi.Residue) -> bool:
    """Whether a residue is an amino acid or a nucleotide: by its name, or by the atoms of its backbone."""
    info = gemmi.find_tabulated_residue(residue.name)
    if info.found():
        return info.is_amino_acid() or info.is_nucleic_acid()
    names = {atom.name.replace("*", "'") for atom in residue}
    return {"N", "CA", "C"} <= names or {"C1'", "C3'", "C4'"} <= names


def _element(atom: gemmi.Atom, polymer: bool) -> gemmi.Element:
    """Element of an atom of a residue; that of the file, unless residues of its kind do not have it."""
    letters = re.sub("[^A-Z]", "", atom.name.upper())
    found = atom.element.name
    if polymer:
        trusted = found in ORGANIC and (not letters or letters.startswith(found.upper()) or letters[0] not in "CNOSPH")
    else:
        trusted = found in IN_LIGANDS
    return (
        atom.element if trusted or letters[:1] not in ("C", "N", "O", "S", "P", "H", "D") else gemmi.Element(letters[0])
    )


def mend_elements(model: gemmi.Model) -> int:
    """Number of atoms whose element was corrected by their name, such as calcium to carbon for CA of an amino acid."""
    changed = 0
    for chain in model:
        for residue in chain:
            polymer = is_polymer(residue)
            if not polymer and len(residue) < 4:
                continue  # an ion, such as calcium, or water
            for atom in residue:
                element = _element(atom, polymer)
                if element != atom.element:
                    changed += not element.is_hydrogen
                    atom.element = element
    return changed


def _keep(residue: gemmi.Residue, wanted: Iterable[bool]) -> None:
    for i, keep in reversed(list(enumerate(wanted))):
        if not keep:
            del residue[i]


def _keep_one_conformer(chain: gemmi.Chain) -> None:
    """Remove alternative conformations: of each residue, the one of highest occupancy stays."""
    for residue in chain:
        weight: defaultdict[str, float] = defaultdict(float)
        for atom in residue:
            if atom.altloc != "\0":
                weight[atom.altloc] += atom.occ
        if not weight:
            continue
        first = max(weight, key=lambda letter: weight[letter])
        fixed = {atom.name for atom in residue if atom.altloc in ("\0", first)}
        seen: set[str] = set()
        wanted = []
        for atom in residue:
            other = atom.altloc not in ("\0", first)
            wanted.append(not (other and (atom.name in fixed or atom.name in seen)))
            seen |= {atom.name} if other else set()
        _keep(residue, wanted)
    # Two residue types at one place: all atoms have a letter, and the number is that of the residue before.
    for i in range(len(chain) - 1, 0, -1):
        one, two = chain[i - 1], chain[i]
        if one.seqid == two.seqid and all(atom.altloc != "\0" for residue in (one, two) for atom in residue):
            more = np.mean([a.occ for a in two] or [0]) > np.mean([a.occ for a in one] or [0])
            del chain[i - 1 if more else i]


def _occupied(model: gemmi.Model, found: Cleaned) -> None:
    occupancy = [atom.occ for chain in model for residue in chain for atom in residue]
    empty = sum(occ <= 0 for occ in occupancy)
    found.unoccupied = empty > len(occupancy) / 2
    if empty and not found.unoccupied:
        found.left_out["atom of zero occupancy"] += empty
        for chain in model:
            for residue in chain:
                _keep(residue, [atom.occ > 0 for atom in residue])


def _bonded(residues: list[gemmi.Residue], candidates: list[bool]) -> np.ndarray:
    """(n,) number of the group of bonded residues that each one belongs to; only candidates are grouped."""
    sizes = [len(residue) if candidate else 0 for residue, candidate in zip(residues, candidates, strict=True)]
    owner = np.repeat(np.arange(len(residues)), sizes)
    xyz = np.array([a.pos.tolist() for r, c in zip(residues, candidates, strict=True) if c for a in r]).reshape(-1, 3)
    near = np.nan_to_num(xyz, nan=1e9, posinf=1e9, neginf=-1e9)
    pairs = owner[cKDTree(near).query_pairs(BOND, output_type="ndarray")] if len(near) else np.empty((0, 2), int)
    links = coo_matrix((np.ones(len(pairs)), (pairs[:, 0], pairs[:, 1])), shape=(len(residues),) * 2)
    return connected_components(links, directed=False)[1]


def _draws(residues: list[gemmi.Residue], found: Cleaned) -> list[bool]:
    """Whether each residue is of the macromolecule: polymer, what is bonded to it, and large ligands."""
    polymer, candidates = [], []
    for residue in residues:
        kind = gemmi.find_tabulated_residue(residue.name).kind
        polymer.append(is_polymer(residue))
        solvent = kind in (gemmi.ResidueKind.BUF, gemmi.ResidueKind.HOH) or len(residue) < 2
        candidates.append(len(residue) > 0 and (polymer[-1] or not solvent))
    group = _bonded(residues, candidates)
    in_chain = np.bincount(group, weights=polymer)
    whole = {
        g for g, r, p in zip(group, residues, polymer, strict=True) if p and (r.het_flag != "H" or in_chain[g] > 1)
    }
    out = []
    for residue, candidate, g in zip(residues, candidates, group, strict=True):
        name = residue.name
        ligand = (
            len(residue) >= SMALLEST_LIGAND
            and name not in AMPHIPHILES
            and gemmi.find_tabulated_residue(name).kind not in SUGARS
        )
        draw = candidate and (g in whole or ligand)
        out.append(draw)
        if draw and g not in whole:
            found.ligands[name] += 1
        elif not draw and len(residue):
            single = len(residue) == 1
            water = residue.is_water() or (single and residue[0].element.name == "O")
            found.left_out["water" if water else "ion" if single else name] += 1
    return out


def _merge_beads(chain: gemmi.Chain) -> None:
    """Remove the side chains of a coarse-grained model (Martini), whose backbone beads BB stand for the residues."""
    for residue in chain:
        if any(atom.name == "BB" for atom in residue):
            _keep(residue, [atom.name == "BB" for atom in residue])
            residue[0].element = gemmi.Element("C")


def _fill_traces(chain: gemmi.Chain) -> int:
    """Number of residues of one atom in a chain of such; the mean heavy atoms of a residue are put around each atom."""
    polymer = [residue for residue in chain if is_polymer(residue)]
    traces = [residue for residue in polymer if len(residue) == 1 and residue[0].name in TRACE]
    if len(traces) <= len(polymer) / 2:
        return 0  # single stubs of a chain that is whole otherwise
    for residue in traces:
        atom = residue[0].clone()  # adding atoms moves those of the residue in memory
        elements, radius = (AMINO_ACID, 2.2) if atom.name in ("CA", "BB") else (NUCLEOTIDE, 4.5)
        rest = list(elements)
        rest.remove(atom.element.name)
        for i, element in enumerate(rest):
            height, angle = 1 - (2 * i + 1) / len(rest), i * math.pi * (3 - math.sqrt(5))  # points of a spiral
            ring = math.sqrt(1 - height**2)
            more = atom.clone()
            more.name, more.element = f"{element}{i}", gemmi.Element(element)
            more.pos = atom.pos + gemmi.Position(ring * math.cos(angle), ring * math.sin(angle), height) * radius
            residue.add_atom(more)
    return len(traces)


def _incomplete(chain: gemmi.Chain) -> np.ndarray:
    """(2,) residues of several atoms with less than three quarters of their mass, and all standard ones of several."""
    out = np.zeros(2, int)
    for residue in chain:
        info = gemmi.find_tabulated_residue(residue.name)
        if len(residue) > 1 and info.is_standard() and (info.is_amino_acid() or info.is_nucleic_acid()):
            whole = info.weight - 1.008 * info.hydrogen_count - 16.0  # an oxygen leaves with the water
            out += (sum(atom.element.weight for atom in residue) < 0.75 * whole, 1)
    return out


def clean(model: gemmi.Model) -> Cleaned:
    """Leave only the macromolecule's atoms in `model`, which is changed, and say what was left out.

    - Elements are mended where the file's cannot be right (`mend_elements`).
    - Hydrogens are removed, and atoms without an element; of alternative conformations, the most occupied one stays.
    - Atoms of zero occupancy are removed, unless more than half of the atoms have it.
    - Amino acids and nucleotides stay, with what is bonded to them (glycans, modifications), and ligands of at least 20
      heavy atoms, such as heme and ATP. Waters, ions, buffer, free sugars, lipids and detergents are removed.
    - A residue of one atom (a trace of C-alpha or P) is filled up to the mean residue.
    """
    found = Cleaned(elements=mend_elements(model))
    for chain in model:
        _merge_beads(chain)
        for residue in chain:
            found.left_out["atom without element"] += sum(atom.element.name == "X" for atom in residue)
            _keep(residue, [not atom.element.is_hydrogen and atom.element.name != "X" for atom in residue])
        _keep_one_conformer(chain)
    _occupied(model, found)
    drawn = iter(_draws([residue for chain in model for residue in chain], found))
    for chain in model:
        wanted = [next(drawn) for _ in chain]
        for i, keep in reversed(list(enumerate(wanted))):
            if not keep:
                del chain[i]
        found.incomplete += _incomplete(chain)
        found.traces += _fill_traces(chain)
    for name in [chain.name for chain in model if not len(chain)]:
        if not any(len(chain) for chain in model if chain.name == name):
            model.remove_chain(name)
    return found
