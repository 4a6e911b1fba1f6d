"""Molecules: from atoms to electrostatic potential, and the templates that the simulator images.

A template is the potential of a molecule in vitreous ice, in volts *relative to the ice*. It is positive where the
molecule scatters more than the ice that it displaces. It is computed in three steps:

1. Each atom adds its electron form factor (gemmi ``DensityCalculatorE``), times h^2 / (2 pi m e) = 47.878 V A^2.
2. Each atom removes the ice that it displaces: 4.53 V times its displaced volume (Fraser, MacRae & Suzuki 1978,
   J. Appl. Cryst. 11:693), as a Gaussian of the same volume, exp(-pi r^2 / v^(2/3)).
3. The fine grid is cropped in Fourier space to the requested voxel size.

Hydrogens are left out of both sums. One hydrogen scatters 25.3 V A^3 and displaces 5.15 A^3 x 4.53 V = 23.3 V A^3 of
ice, so the two nearly cancel, and most files contain no hydrogens. All atoms get the same B factor, because refined B
factors depend on the refinement method of each entry, and a classifier would learn that instead of the shape.

Templates are computed on the CPU in double precision; `specimens.templates` moves them to another device.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import gemmi
import numpy as np
import torch
from torch import Tensor

from ..errors import InputError
from ..fourier import resampling_matrix, squared_frequency
from ..support.runtime import atomic, did_you_mean, write_text
from ..tomography.volumes import Volume
from .atoms import Atoms, read_atoms
from .class_files import split_class
from .maps import map_ending, read_map

VOLT_PER_FORM_FACTOR = 47.878  # h^2 / (2 pi m e), V A^2
ICE_POTENTIAL = 4.53  # V, vitreous ice of 0.93 g/cm^3 from the same form factors
FINEST = 4.0  # A per voxel of the shipped maps
DISPLACED = {"C": 16.44, "N": 2.49, "O": 9.13, "S": 19.86, "P": 5.73}  # A^3; other elements: van der Waals sphere
TEMPLATES = Path(__file__).parent / "templates"
PROCEDURAL = ("membrane", "ice")
# Families of built-in molecules that share domains and look alike; any other class is the only member of its family.
FAMILIES: dict[str, tuple[str, ...]] = {
    "ribosome": ("ribosome_70S", "ribosome_80S", "subunit_50S", "subunit_30S", "subunit_60S", "subunit_40S"),
}


@dataclass(frozen=True)
class Structure:
    """One built-in molecular class, a row of ``templates/templates.json``.

    Attributes
    ----------
    pdb_id, file : entry in the PDB, and name of the coordinate file
    chains : patterns such as ``A*``; empty for all
    assembly : biological assembly to build; empty for none
    description, licence : text for people
    atoms : number of atoms
    diameter : A, of the sphere about the centre of mass that holds 99.9 % of the atoms
    mass_kda : kDa, hydrogens included
    """

    pdb_id: str
    file: str
    chains: str
    assembly: str
    description: str
    licence: str
    atoms: int = 0
    diameter: float = 0.0
    mass_kda: float = 0.0


def _read_table() -> dict[str, Structure]:
    rows = json.loads((TEMPLATES / "templates.json").read_text())["classes"]
    return {name: Structure(**row) for name, row in rows.items()}


BUILTIN: dict[str, Structure] = _read_table()


def _displaced_volume(element: gemmi.Element) -> float:
    return DISPLACED.get(element.name, 4 / 3 * math.pi * element.vdw_r**3)


def _sum_atoms(atoms: Atoms, spacing: float, n: int, b_factor: float, blur: float) -> np.ndarray:
    """Potential in V relative to ice, (n, n, n); all atoms have a B factor of `b_factor` + `blur` (A^2)."""
    cell = n * spacing
    middle = gemmi.Transform()
    middle.vec.fromlist([n // 2 * spacing] * 3)
    model = atoms.model.clone()
    model.transform_pos_and_adp(middle)
    scattering, ice = gemmi.DensityCalculatorE(), gemmi.DensityCalculatorN()
    for calculator in (scattering, ice):
        calculator.grid.set_unit_cell(gemmi.UnitCell(cell, cell, cell, 90, 90, 90))
        calculator.grid.set_size(n, n, n)
    carbon = gemmi.Element("C")
    per_occupancy = carbon.neutron92.get_coefs()[0]
    for site in model.all():
        atom = site.atom
        volume = _displaced_volume(atom.element)
        atom.aniso = gemmi.SMat33f(0, 0, 0, 0, 0, 0)
        atom.occ, atom.b_iso = 1.0, b_factor + blur
        scattering.add_atom_density_to_grid(atom)
        # The neutron calculator of gemmi draws one Gaussian per atom, which is what the displaced ice needs.
        atom.element, atom.occ = carbon, volume / per_occupancy
        atom.b_iso = 4 * math.pi * volume ** (2 / 3) + b_factor + blur
        ice.add_atom_density_to_grid(atom)
    total = VOLT_PER_FORM_FACTOR * scattering.grid.array - ICE_POTENTIAL * ice.grid.array
    return np.ascontiguousarray(total.transpose(2, 1, 0))


def potential(
    path: str | Path,
    *,
    voxel_size: float,
    chains: str | None = None,
    assembly: str | None = None,
    box: int | None = None,
    b_factor: float = 50.0,
) -> Volume:
    """Electrostatic potential relative to ice of a PDB or mmCIF file (also .gz), in volts.

    Only the macromolecule is drawn, once; see `residues.clean` and `atoms.read_atoms`.

    Parameters
    ----------
    path : coordinate file
    voxel_size : A per voxel, at least 1
    chains : comma-separated patterns of chain names, such as ``"A*,B1"``; None for all
    assembly : biological assembly; None for the first that the file lists, if any; "" for the coordinates of the file
    box : voxels per edge; None for the molecule with a margin of 8 A
    b_factor : A^2, the same for all atoms

    Returns
    -------
    Volume, zyx, V; the centre of mass is at index n // 2

    Raises
    ------
    InputError
        The file is unreadable, the selection is empty, or the molecule or the voxel size is out of range.
    """
    return _compute(read_atoms(path, chains, assembly), str(path), voxel_size, box, b_factor)


def _compute(atoms: Atoms, path: str, voxel_size: float, box: int | None = None, b_factor: float = 50.0) -> Volume:
    if not 1 <= voxel_size < math.inf:
        raise InputError(f"voxel_size: expected at least 1 A for a potential from atoms, got {voxel_size} A.")
    # Half the voxel size, and a blur that keeps the aliased tail of every atom below 1 % at the kept Nyquist frequency.
    spacing = min(voxel_size, FINEST) / 2
    blur = max(0.0, 37.6 * spacing**2 - b_factor)
    reach = max(float(np.linalg.norm(s.atom.pos.tolist(), np.inf)) for s in atoms.model.all())
    if reach > 320 * spacing:
        raise InputError(
            f"{path}: expected a molecule of at most {640 * spacing:.0f} A, got {2 * reach:.0f} A. Remove stray atoms, "
            "or keep the part to draw in a separate file."
        )
    box = box or 2 * math.ceil((reach + 8) / voxel_size)
    n = 2 * math.ceil(max(reach + 16, box * voxel_size / 2) / spacing - 1e-6)
    fine = torch.fft.rfftn(torch.from_numpy(_sum_atoms(atoms, spacing, n, b_factor, blur)))
    k2 = squared_frequency((n, n, n), spacing=spacing)
    keep = k2 <= 3 / (4 * voxel_size**2)  # up to the corners of the coarse band; beyond them deblurring amplifies noise
    fine = torch.fft.irfftn(fine * torch.where(keep, torch.exp(blur / 4 * k2), 0.0), s=(n, n, n))
    return Volume(_regrid(fine, spacing, voxel_size, box).numpy(), voxel_size, path)


def _regrid(data: Tensor, pixel_in: float, pixel_out: float, box: int) -> Tensor:
    """`data` (n, n, n) at pixel_in A, Fourier-cropped to (box, box, box) at pixel_out A, centre on centre."""
    period = max(max(data.shape) * pixel_in, box * pixel_out)
    z, y, x = (resampling_matrix(n, pixel_in, box, pixel_out, period) for n in data.shape)
    return torch.einsum("zk,kyx->zyx", z, torch.einsum("yj,kjx->kyx", y, data @ x.T)).contiguous()


@dataclass(frozen=True)
class _Loaded:
    data: Tensor  # (n, n, n) float32, V
    voxel_size: float
    diameter: float
    mass_kda: float
    source: str
    left_out: str = ""
    doubts: tuple[str, ...] = ()


@lru_cache(maxsize=1)
def _archive() -> dict[str, np.ndarray]:
    with np.load(TEMPLATES / "maps.npz", allow_pickle=False) as archive:
        return {name: archive[name] for name in archive.files}


@lru_cache(maxsize=32)
def _load(name: str, voxel_size: float, stamp: int) -> _Loaded:
    if name in BUILTIN:
        entry, maps = BUILTIN[name], _archive()
        data = torch.from_numpy(maps[name]).float() * float(maps[f"{name}.volts"])
        source = f"built in, from PDB {entry.pdb_id}" + (f", assembly {entry.assembly}" if entry.assembly else "")
        return _Loaded(data, FINEST, entry.diameter, entry.mass_kda, source)
    path, given = split_class(name)
    if map_ending(path):
        found = read_map(path, given, voxel_size)
        return _Loaded(
            found.data, found.voxel_size, found.diameter, found.mass_kda, f"from {found.source}", "", found.doubts
        )
    if given is not None:
        raise InputError(f"Class '{name}': expected a map before @, got {path}: leave out @ and the number behind it.")
    atoms = read_atoms(path)
    volume = _compute(atoms, path, voxel_size)
    data = torch.from_numpy(volume.data)
    return _Loaded(
        data, volume.voxel_size, atoms.diameter, atoms.mass_kda, f"from {atoms.source}", atoms.left_out, atoms.doubts
    )


def class_name(name_or_path: str | Path) -> str:
    """Short name of a class: a built-in name unchanged, or a file name without folder, extensions and voxel size."""
    name, _ = split_class(name_or_path)
    return name if name in BUILTIN or name in PROCEDURAL else Path(name).name.split(".")[0]


def _find(name_or_path: str | Path, voxel_size: float) -> _Loaded:
    name = str(name_or_path)
    if name in BUILTIN:
        if voxel_size < FINEST:
            raise InputError(
                f"voxel_size: expected at least {FINEST} A for the built-in '{name}', got {voxel_size} A. "
                f"Give its coordinates instead: pdb:{BUILTIN[name].pdb_id}, or the file."
            )
        return _load(name, FINEST, 0)
    path = Path(split_class(name)[0])
    if not path.is_file():
        if path.suffix or len(path.parts) > 1:
            raise InputError(f"Class: expected a file or a built-in name, got '{name}', which does not exist.")
        known = (*BUILTIN, *PROCEDURAL)
        raise InputError(
            f"Unknown class '{name}'{did_you_mean(name, known)} Expected a PDB, mmCIF, MRC or EM file or one of "
            f"{', '.join(known)}."
        )
    loaded = _load(name, min(voxel_size, FINEST), path.stat().st_mtime_ns)  # the finest serves all
    if voxel_size < loaded.voxel_size * 0.999:
        raise InputError(
            f"voxel_size: expected at least the {loaded.voxel_size:.3g} A of map {path}, got {voxel_size} A. Give a "
            "map with finer voxels, or coordinates."
        )
    return loaded


def diameter(name_or_path: str | Path) -> float:
    """Diameter in A of the sphere about the centre of mass that contains the molecule; 0 for procedural classes."""
    name = str(name_or_path)
    return 0.0 if name in PROCEDURAL else _find(name, math.inf).diameter


def describe(name_or_path: str | Path) -> str:
    """One line on a class: mass, diameter, source, and what of its file is not drawn.

    Such as "6zu5: 2.4 MDa, 303 A, from PDB 6zu5, assembly 1; 187 ions not drawn". The mass of a map is
    estimated from its volume.

    Raises
    ------
    InputError
        As `template`.
    """
    label, name = class_name(name_or_path), str(name_or_path)
    if name in PROCEDURAL:
        return f"{label}: " + ("no particle" if name == "ice" else "a random curved patch of lipid bilayer")
    loaded = _find(name, math.inf)
    mass = f"{loaded.mass_kda / 1000:.1f} MDa" if loaded.mass_kda >= 1000 else f"{loaded.mass_kda:.0f} kDa"
    mass = f"about {mass} by volume" if loaded.source.startswith("from map ") else mass
    rest = f"; {loaded.left_out} not drawn" if loaded.left_out else ""
    return f"{label}: {mass}, {loaded.diameter:.0f} A, {loaded.source}{rest}"


def warnings(classes: Sequence[str | Path]) -> list[str]:
    """Sentences on what to check about the files of classes, such as models that were not drawn."""
    return [doubt for name in classes if str(name) not in PROCEDURAL for doubt in _find(name, math.inf).doubts]


def family(name_or_path: str | Path) -> str:
    """Family of a class, a key of `FAMILIES`; the class's own name where it has no relatives there."""
    name = class_name(name_or_path)
    return next((key for key, members in FAMILIES.items() if name in members), name)


def outliers(
    classes: Sequence[str | Path], unseen: str | Path | None = None, *, width: float = math.inf
) -> tuple[str, ...]:
    """Built-in auxiliary outliers to simulate: molecules, "ice" and "membrane", no class and no relative of one.

    Parameters
    ----------
    classes : names or files of the classes
    unseen : molecule on which the unknown class is tested; it and its relatives are left out as well, so that the test
        is on something that the detector has seen no example of
    width : A, edge of the box; larger molecules are left out
    """
    known = {family(name) for name in (*classes, *([] if unseen is None else [unseen]))}
    names = (name for name in (*BUILTIN, *reversed(PROCEDURAL)) if family(name) not in known)
    return tuple(name for name in names if diameter(name) <= width)


def unseen_molecule(classes: Sequence[str | Path], seed: int, *, width: float = math.inf) -> str:
    """Built-in molecule that is none of the classes; consecutive seeds give different ones.

    Molecules without a relative among the classes are preferred. Only where there is none, the molecule is a relative,
    such as a ribosomal subunit beside whole ribosomes.

    Parameters
    ----------
    classes : names or files of the classes
    seed : of the dataset
    width : A, edge of the box; larger molecules are left out

    Raises
    ------
    InputError
        Each molecule that fits is a class.
    """
    taken = {class_name(name) for name in classes}
    families = {family(name) for name in classes}
    others = [name for name in BUILTIN if name not in taken and BUILTIN[name].diameter <= width]
    if not others:
        raise InputError(
            f"Unseen molecule: expected a built-in molecule that is no class and fits into {width:g} A, got classes "
            f"{', '.join(sorted(taken))}. Leave out a class, or take a larger box."
        )
    unrelated = [name for name in others if family(name) not in families] or others
    return unrelated[seed % len(unrelated)]


def template(name_or_path: str | Path, voxel_size: float, box: int, generator: torch.Generator | None = None) -> Tensor:
    """Potential of a class relative to ice, in volts, on the CPU.

    Parameters
    ----------
    name_or_path : a name of `BUILTIN` or `PROCEDURAL`, or the path of a PDB, mmCIF, MRC or EM file (also .gz); behind
        the path of a map, @ and its voxel size in A, such as ``average.em@8.0``
    voxel_size : A per voxel
    box : voxels per edge
    generator : draws the membrane; not used for other classes

    Returns
    -------
    (box, box, box) float32, zyx, V; centre of mass at index box // 2, band-limited to the Nyquist frequency

    Raises
    ------
    InputError
        The class is unknown, the file unreadable, the molecule larger than the box, or the voxel size finer than that
        of the map.
    """
    if not (math.isfinite(voxel_size) and voxel_size > 0 and box >= 2):
        raise InputError(
            f"Template: expected a positive voxel_size and a box of at least 2, got {voxel_size} A and {box} voxels."
        )
    name = str(name_or_path)
    if name == "ice":
        return torch.zeros(box, box, box, device="cpu")
    if name == "membrane":
        return membrane(voxel_size, box, generator)
    loaded = _find(name, voxel_size)
    if loaded.diameter > box * voxel_size:
        raise InputError(
            f"'{name}': expected a diameter of at most {box * voxel_size:.0f} A for a box of {box} voxels of "
            f"{voxel_size:g} A, got {loaded.diameter:.0f} A. Use a box of at least "
            f"{math.ceil(loaded.diameter / voxel_size)}."
        )
    return _regrid(loaded.data, loaded.voxel_size, voxel_size, box)


def membrane(voxel_size: float, box: int, generator: torch.Generator | None = None) -> Tensor:
    """A random curved patch of lipid bilayer, (box, box, box) float32 in V relative to ice, on the CPU.

    The patch fills a ball of radius box / 2 with a soft edge. The head groups (+2.5 V) are 35 to 40 A apart; the middle
    of the tails is slightly below ice (-0.5 V). One radius of curvature is 150 to 600 A, the other is not smaller.
    The numbers are schematic: they reproduce the double line that membranes show in tomograms.
    """
    generator = generator or torch.Generator("cpu").manual_seed(0)
    u = torch.rand(5, generator=generator, device=generator.device).cpu().double()
    axes = torch.randn(3, 3, generator=generator, device=generator.device).cpu().double()
    axes = torch.linalg.qr(axes)[0]
    radius, apart = 150 + 450 * u[0], 35 + 5 * u[1]
    r = (torch.arange(box, dtype=torch.float64, device="cpu") - box // 2) * voxel_size
    zyx = torch.stack(torch.meshgrid(r, r, r, indexing="ij"), -1)
    a, b, c = (zyx @ axes).unbind(-1)
    c = c + radius + (u[2] - 0.5) * 0.2 * box * voxel_size
    rho = torch.sqrt(a**2 + (u[3] * b) ** 2 + c**2)
    slope = torch.sqrt(a**2 + (u[3] ** 2 * b) ** 2 + c**2)
    depth = (rho - radius) * rho / slope.clamp(min=1e-6)  # first-order distance to the mid surface
    smooth = 0.4 * voxel_size  # anti-aliasing: each Gaussian is widened by the voxel at constant area

    def layer(at: float | Tensor, volts: float, width: float) -> Tensor:
        wide = math.hypot(width, smooth)
        return volts * width / wide * torch.exp(-0.5 * ((depth - at) / wide) ** 2)

    patch = layer(apart / 2, 2.5, 4.5) + layer(-apart / 2, 2.5, 4.5) + layer(0.0, -0.5, 6.0)
    edge = (1 - torch.linalg.norm(zyx, dim=-1) / (box / 2 * voxel_size)) / 0.2
    return (patch * (0.5 - 0.5 * torch.cos(torch.pi * edge.clamp(0, 1)))).float()


def rebuild(folder: str | Path, out: Path = TEMPLATES) -> None:
    """Compute the built-in maps from the coordinate files in `folder`; write ``maps.npz`` and ``templates.json``."""
    maps: dict[str, Any] = {}
    rows = {}
    for name, entry in BUILTIN.items():
        atoms = read_atoms(Path(folder) / entry.file, entry.chains, entry.assembly)
        data = _compute(atoms, entry.file, FINEST).data
        step = float(np.abs(data).max()) / 127
        maps[name], maps[f"{name}.volts"] = np.rint(data / step).astype(np.int8), np.float32(step)
        diameter, mass = round(atoms.diameter, 1), round(atoms.mass_kda, 1)
        rows[name] = asdict(replace(entry, atoms=atoms.count, diameter=diameter, mass_kda=mass))
        print(f"{name}: {atoms.count} atoms, {diameter} A, {mass} kDa, {data.shape[0]}^3, {data.max():.1f} V")
    with atomic(out / "maps.npz") as partial, partial.open("wb") as file:
        np.savez_compressed(file, **maps)
    table = json.loads((TEMPLATES / "templates.json").read_text(encoding="utf-8"))
    write_text(out / "templates.json", json.dumps({**table, "classes": rows}, indent=2) + "\n")


def main(arguments: list[str] | None = None) -> int:
    """Exit status of the command ``python -m cryoshift_core structures rebuild --from DIR``."""
    parser = argparse.ArgumentParser(prog="python -m cryoshift_core structures")
    command = parser.add_subparsers(dest="command", required=True).add_parser("rebuild", help=rebuild.__doc__)
    command.add_argument("--from", dest="folder", required=True, type=Path, help="folder with the coordinate files")
    command.add_argument("--out", type=Path, default=TEMPLATES)
    chosen = parser.parse_args(arguments)
    try:
        rebuild(chosen.folder, chosen.out)
    except InputError as error:
        print(f"InputError: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
