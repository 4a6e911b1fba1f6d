"""Atoms of a PDB or mmCIF file: which models, which assembly, and what was left out, in words."""

from __future__ import annotations

import codecs
import fnmatch
import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import gemmi
import numpy as np
from scipy.spatial import cKDTree

from ..errors import InputError
from .class_files import read_whole
from .residues import Cleaned, clean

LARGEST_FILE = 1 << 30  # bytes of an unpacked coordinate file
MOST_ATOMS = 20_000_000
SAME_PLACE = 0.1  # A: two atoms that are closer are one atom twice
ALTERNATIVE = "_atom_site.label_alt_id"
NEIGHBOURS = (0.7, 8.0)  # A, median distance between an atom and the nearest one; 1.3 with all atoms, 3.8 of a trace
SAMPLE = 20_000  # atoms that are compared to find copies


@dataclass(frozen=True)
class Atoms:
    """Atoms to draw.

    Attributes
    ----------
    model : without solvent and hydrogens; its centre of mass is at the origin
    count : atoms
    diameter : A, of the sphere about the centre of mass that holds 99.9 % of the atoms
    mass_kda : hydrogens included
    source : what was drawn, such as "PDB 6zu5, assembly 1"
    left_out : what of the file was not drawn, such as "12 waters"; empty for nothing
    doubts : sentences on what the user has to check
    """

    model: gemmi.Model
    count: int
    diameter: float
    mass_kda: float
    source: str
    left_out: str
    doubts: tuple[str, ...]


def _columns(text: str) -> int:
    """Columns of a PDB file to read: no charges (79, 80), and no line numbers, as in files of before 1996 (73-80)."""
    return 72 if re.search(r"(?m)^(ATOM  |HETATM).{70} ?\d", text) else 78


def _parts(path: str | Path) -> list[gemmi.Structure]:
    """The structures of a file: one for each block of an mmCIF, or for each part of a PDB file that ends with END."""
    text = read_whole(path, LARGEST_FILE).removeprefix(codecs.BOM_UTF8).decode("latin-1")
    start = re.sub(r"\A(\s|#[^\n]*\n)*", "", text[:10000])[:5].lower()
    try:
        if start == "data_":
            out = []
            for block in gemmi.cif.read_string(text):
                if column := block.find_loop("_atom_site.Cartn_x"):
                    loop = column.get_loop()
                    if loop is not None and ALTERNATIVE not in loop.tags:  # gemmi reads no atoms without it
                        loop.add_columns([ALTERNATIVE], ".")
                    out.append(gemmi.make_structure_from_block(block))
            return out
        if start[:1] == "{":
            return [gemmi.make_structure_from_block(gemmi.cif.read_mmjson_string(text).sole_block())]
        if bad := re.search(r"(?m)^(ATOM  |HETATM).{24}(?P<xyz>.{0,23}[^ 0-9.+\-eEnaif\r\n].{0,23})", text):
            raise InputError(
                f"{path}: expected x, y, z in columns 31 to 54 of each atom, got '{bad['xyz'][:24].strip()}': write "
                "it as mmCIF, which has no limit, or move it to the origin."
            )
        parts = re.split(r"(?m)^END[ \t]*\r?$", text)
        with_atoms = [part for part in parts if re.search(r"(?m)^(ATOM|HETATM)", part)]
        return [gemmi.read_pdb_string(part, max_line_length=_columns(part)) for part in with_atoms]
    except InputError:
        raise
    except (RuntimeError, ValueError, OSError) as error:
        reason = "".join(c for c in str(error).splitlines()[0] if c.isprintable())[:150].rstrip(".")
        raise InputError(
            f"{path}: expected a PDB or mmCIF file, got an unreadable one ({reason}): correct it or copy it again."
        ) from error


def _positions(model: gemmi.Model) -> np.ndarray:
    return np.array([site.atom.pos.tolist() for site in model.all()]).reshape(-1, 3)


def _check_unit(path: str | Path, model: gemmi.Model) -> None:
    """Return None; raise InputError where the distances between neighbouring atoms cannot be in A."""
    xyz = _positions(model)
    apart = cKDTree(xyz).query(_spaced(xyz), k=2)[0][:, 1]
    apart = apart[apart > 0]
    found = float(np.median(apart)) if len(apart) > 10 else 1.5
    if not NEIGHBOURS[0] <= found <= NEIGHBOURS[1]:
        unit = " They may be in nm: multiply them by 10." if found < NEIGHBOURS[0] else ""
        raise InputError(
            f"{path}: expected atoms {NEIGHBOURS[0]:g} to {NEIGHBOURS[1]:g} A from the next, got {found:.2g} A: "
            f"convert the coordinates to A.{unit}"
        )


def _spaced(xyz: np.ndarray) -> np.ndarray:
    return xyz[:: max(1, len(xyz) // SAMPLE)]


def _separate(path: str | Path, models: list[gemmi.Model]) -> list[int]:
    """Models that share no space with an earlier one: copies or parts of a molecule, and not conformers of it.

    The space is shared where atoms lie within 1.4 times the distance between neighbouring atoms, 4 A at most.

    Raises
    ------
    InputError
        Models share some of their space only, so that it is open whether both are parts of the molecule.
    """
    taken, kept = _positions(models[0]), [0]
    spacing = np.median(cKDTree(taken).query(_spaced(taken), k=2)[0][:, 1]) if len(taken) > 1 else 1.5
    reach = min(1.4 * float(spacing), 4.0)
    for i, model in enumerate(models[1:], 1):
        xyz = _positions(model)
        shared = float((cKDTree(taken).query(_spaced(xyz), distance_upper_bound=reach)[0] <= reach).mean())
        if 0.1 < shared < 0.3:
            raise InputError(
                f"{path}: expected models that overlap (conformers) or lie apart (copies), got model {i + 1} with "
                f"{shared:.0%} of its atoms among those of earlier ones: keep the models to draw in a separate file."
            )
        if shared <= 0.1:
            kept.append(i)
        taken = np.concatenate([taken, xyz])
    return kept


def _choose_models(path: str | Path, parts: list[gemmi.Structure], models: list[gemmi.Model]) -> tuple[list[int], str]:
    """Models to draw together, and a sentence about this choice, which is empty for a single model."""
    if len(models) == 1:
        return [0], ""
    kept = _separate(path, models)
    what = f"{len(models)} models" if len(parts) == 1 else f"{len(models)} structures one after another"
    if len(kept) == 1:
        return kept, f"{path} holds {what} that overlap, as conformers do: only the first was drawn."
    if len(kept) == len(models):
        return kept, f"{path} holds {what} that lie apart, as copies in an assembly do: all were drawn as one molecule."
    numbers = ", ".join(str(i + 1) for i in kept)
    return (
        kept,
        f"{path} holds {what}: numbers {numbers}, which lie apart, were drawn, and not those that overlap them.",
    )


def _is_built(assembly: gemmi.Assembly, xyz: np.ndarray) -> bool:
    """Whether the atoms hold the whole assembly: most operators move most atoms onto other atoms."""
    points, tree = _spaced(xyz), cKDTree(xyz)
    operators = [op.transform for gen in assembly.generators for op in gen.operators if not op.transform.is_identity()]
    if not operators:
        return False
    shares = []
    for operator in operators[:20]:
        moved = points @ np.array(operator.mat.tolist()).T + operator.vec.tolist()
        shares.append((tree.query(moved, distance_upper_bound=1.0)[0] <= 1.0).mean())
    return float(np.mean(shares)) > 0.5


def _build(path: str | Path, structure: gemmi.Structure, wanted: str | None) -> tuple[str, str]:
    """Assembly that `structure` was replaced by, in words, and a sentence where the listed one was not built."""
    listed = {assembly.name: assembly for assembly in structure.assemblies}
    name = next(iter(listed), "") if wanted is None else wanted
    if not name:
        return ("coordinates as in the file" if listed else "no assembly listed"), ""
    if name not in listed:
        known = f"one of {', '.join(listed)}" if listed else 'assembly="" (the file lists none)'
        raise InputError(f"{path}: expected {known}, got assembly '{name}'.")
    xyz = _positions(structure[0])
    chosen = listed[name]
    copies = sum(len(gen.operators) for gen in chosen.generators)
    if copies * len(xyz) > MOST_ATOMS:
        raise InputError(
            f"{path}: expected an assembly of at most {MOST_ATOMS:,} atoms, got {copies} copies of up to {len(xyz):,}: "
            "keep the chains to draw in a separate file."
        )
    if _is_built(chosen, xyz):
        return f"assembly {name} as in the file", (
            f"{path} lists operators for assembly {name}, but holds all of its copies: they were not applied again."
        )
    used = {chain for gen in chosen.generators for chain in gen.chains}
    parts = {part for gen in chosen.generators for part in gen.subchains}
    rest = [c.name for c in structure[0] if c.name not in used and not parts & {residue.subchain for residue in c}]
    names = {c.name for c in structure[0]}
    subchains = {residue.subchain for c in structure[0] for residue in c}
    for gen in chosen.generators:  # gemmi refuses what `clean` has removed
        gen.chains = [chain for chain in gen.chains if chain in names]
        gen.subchains = [part for part in gen.subchains if part in subchains]
    structure.transform_to_assembly(name, gemmi.HowToNameCopiedChain.Short)
    words = f"assembly {name}" + (f" of {len(listed)}" if len(listed) > 1 else "")
    if rest:
        few = ", ".join(rest[:5]) + (", ..." if len(rest) > 5 else "")
        words += f" without chain{'s' * (len(rest) > 1)} {few}"
    return words, ""


def _select_chains(path: str | Path, model: gemmi.Model, chains: str | None) -> None:
    names = sorted({chain.name for chain in model})
    patterns = [p.strip() for p in (chains or "*").split(",")]
    for name in names:
        if not any(fnmatch.fnmatchcase(name, p) for p in patterns):
            model.remove_chain(name)
    if not len(model):
        raise InputError(
            f"{path}: expected chains out of {', '.join(names)}, got '{chains or '*'}', which selects no atoms."
        )


def _remove_doubles(model: gemmi.Model) -> int:
    """Number of atoms that were removed because another atom is at the same place."""
    xyz = _positions(model)
    doubles = set(cKDTree(xyz).query_pairs(SAME_PLACE, output_type="ndarray")[:, 1].tolist())
    if doubles:
        i = -1
        for chain in model:
            for residue in chain:
                marked = [(i := i + 1) in doubles for _ in residue]
                for j in reversed([j for j, double in enumerate(marked) if double]):
                    del residue[j]
    return len(doubles)


def _counts(counts: Counter[str], most: int = 4) -> str:
    """Numbers in words, the largest first, such as "12 waters, 3 SO4"."""
    plural = {name: re.sub("^(water|ion|atom)", r"\1s", name) for name in counts}
    found = [f"{n} {plural[name] if n > 1 else name}" for name, n in counts.most_common() if n]
    return ", ".join(found[:most]) + (f" and {len(found) - most} other kinds" if len(found) > most else "")


def _doubts(path: str | Path, cleaned: list[Cleaned]) -> list[str]:
    out = []
    if elements := sum(c.elements for c in cleaned):
        out.append(f"{path}: the elements of {elements} atoms cannot be right; they were taken from the atoms' names.")
    if any(c.unoccupied for c in cleaned):
        out.append(f"{path}: most atoms have an occupancy of zero, so occupancies were ignored.")
    if traces := sum(c.traces for c in cleaned):
        out.append(
            f"{path} gives one atom for each of {traces} residues: a mean residue was drawn at each; give a model with "
            "all atoms if there is one."
        )
    short, told = sum((c.incomplete for c in cleaned), np.zeros(2, int))
    if short > told / 2:
        out.append(
            f"{path}: {short} of {told} residues lack a quarter of their mass or more, such as their side chains; give "
            "a model with all atoms if there is one."
        )
    return out


def _source(path: str | Path, structure: gemmi.Structure) -> str:
    entry = structure.info["_entry.id"].lower() if "_entry.id" in structure.info else ""
    return f"PDB {entry}" if re.fullmatch(r"[0-9][a-z0-9]{3}|pdb_[a-z0-9]{8}", entry) else Path(path).name


def read_atoms(path: str | Path, chains: str | None = None, assembly: str | None = None) -> Atoms:
    """The macromolecule of a PDB or mmCIF file, whatever its ending, also gzipped.

    Of models that overlap (an ensemble), the first is drawn; models that lie apart are copies, and drawn together.

    Parameters
    ----------
    chains : comma-separated patterns of chain names; None for all
    assembly : biological assembly; None for the first that the file lists, if any; "" for the coordinates of the file

    Raises
    ------
    InputError
        Unreadable, no atoms of a macromolecule, unknown chains or assembly, or models that overlap in part.
    """
    parts = _parts(path)
    models = [model for part in parts for model in part]
    if not models:
        raise InputError(
            f"{path}: expected a PDB or mmCIF file with coordinates, or a map whose name ends in .mrc, .map, .ccp4, "
            ".rec or .em (also .gz), got no atoms: convert it."
        )
    for part in parts:
        part.setup_entities()
    cleaned = [clean(model) for model in models]
    full = [i for i, model in enumerate(models) if len(model)]
    if not full:
        raise InputError(
            f"{path}: expected amino acids or nucleotides, got {_counts(cleaned[0].left_out) or 'none'}: give another "
            "file."
        )
    models, cleaned = [models[i] for i in full], [cleaned[i] for i in full]
    if not all(np.isfinite(_positions(model)).all() for model in models):
        raise InputError(f"{path}: expected finite atom positions, got NaN or infinite ones. Repair the file.")
    _check_unit(path, models[0])
    kept, doubt = _choose_models(path, parts, models)
    doubts = [doubt] if doubt else []
    structure = parts[0]
    whole = gemmi.Model(1)
    for i in kept:
        for chain in models[i]:
            whole.add_chain(chain)
    del structure[:]
    structure.add_model(whole)
    if len(kept) > 1 and assembly is None:
        words = f"{len(kept)} {'models' if len(parts) == 1 else 'structures'} together"
    else:
        words, doubt = _build(path, structure, assembly)
        words = f"model 1 of {len(models)}, {words}" if len(models) > len(kept) else words
        doubts += [doubt] if doubt else []
    model = structure[0]
    _select_chains(path, model, chains)
    position = _positions(model)
    if doubles := _remove_doubles(model):
        if doubles > 0.01 * len(position):  # fewer may lie on a symmetry axis
            doubts.append(f"{path}: {doubles} atoms lie on another atom; they were drawn once.")
        position = _positions(model)
    drawn = [cleaned[i] for i in kept]
    weight, hydrogens = _weights(model)
    centre = weight @ position / weight.sum()
    radius = np.quantile(np.linalg.norm(position - centre, axis=1), 0.999)
    shift = gemmi.Transform()
    shift.vec.fromlist((-centre).tolist())
    model.transform_pos_and_adp(shift)
    ligands = _counts(sum((c.ligands for c in drawn), Counter()))
    return Atoms(
        model=model,
        count=len(position),
        diameter=2 * float(radius),
        mass_kda=(hydrogens + float(weight.sum())) / 1000,
        source=f"{_source(path, structure)}, {words}" + (f", with {ligands}" if ligands else ""),
        left_out=_counts(sum((c.left_out for c in drawn), Counter())),
        doubts=(*doubts, *_doubts(path, drawn)),
    )


def _weights(model: gemmi.Model) -> tuple[np.ndarray, float]:
    """Masses of the atoms in Da, and the mass of the hydrogens that they carry."""
    weights: list[float] = []
    hydrogens = 0.0
    for chain in model:
        for residue in chain:
            info = gemmi.find_tabulated_residue(residue.name)
            in_polymer = info.is_amino_acid() or info.is_nucleic_acid()
            hydrogens += 1.008 * max(info.hydrogen_count - 2 * in_polymer, 0)
            weights += [atom.element.weight for atom in residue]
    return np.array(weights), hydrogens
