"""Files that hold subtomograms: those of a folder, and those that a STAR names."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path

from cryoshift_core.errors import InputError

# Volumes that RELION, Warp and M leave beside particles: TS_1_ctf000001.mrc, 1_weights.mrc, TS_1_0000001_ctf_10.00A.mrc
COMPANION = re.compile(r"(?:(?<=[_.-])|^)(ctf|weights?|wedge|multi(?:plicity)?)(?=[_.\d-]|$)", re.I)


NO_PARTICLE = re.compile(r"(?:(?<=[_.-])|^)(average|avg|mask|ref|reference|template|half\d?|unfil)(?=[_.-]|\d|$)", re.I)


def _partners(stem: str) -> set[str]:
    """Names, without ending, that the particle of a CTF or weight volume may have."""
    match = COMPANION.search(stem)
    if match is None:
        return set()
    before, after = stem[: match.start()], stem[match.end() :]
    bare = before.rstrip("_.-"), after.lstrip("_.-")
    joined = {bare[0] + after, before + bare[1], "".join(bare)}
    return joined | {before + word + after for word in ("data", "subtomo", "particle", "subtomogram")}


def _without_companions(folder: Path, files: list[Path]) -> tuple[list[Path], list[Path]]:
    """Particles, and CTF and weight volumes of these, among the files of a folder."""
    stems = {file: file.name.removesuffix("".join(file.suffixes[-1:])) for file in files}
    names = {(file.parent, stem) for file, stem in stems.items()}
    named = [file for file in files if COMPANION.search(stems[file])]
    others = [file for file in named if {(file.parent, stem) for stem in _partners(stems[file])} & names]
    lone = len(named) - len(others)
    if lone and len(named) < len(files):
        example = next(file for file in named if file not in others)
        raise InputError(
            f"Folder {folder} holds {lone} files such as {example.name}, which may be CTF or weight volumes; expected "
            "particles only: move the others, or give a STAR that names the particles."
        )
    left_out = set(others)
    return [file for file in files if file not in left_out], others


def _without_others(files: list[Path]) -> tuple[list[Path], list[Path]]:
    """Particles, and volumes that are none by their name: an average, a mask, a reference, a half map.

    Nothing is left out where more than a tenth of the files, and more than three, have such names.
    """
    others = [file for file in files if NO_PARTICLE.search(file.stem)]
    if len(others) > max(3, len(files) / 10) or len(others) == len(files):
        return files, []
    return [file for file in files if file not in others], others


def particle_files(folder: Path, formats: Sequence[str]) -> tuple[list[Path], list[Path]]:
    """Files of a folder, or of its sub-folders if it has none of its own, sorted, and others that lie beside them.

    The others are CTF and weight volumes, averages and masks. Hidden files are not looked at.

    Raises
    ------
    InputError
        No files, files of several formats, or files that may be CTF volumes but belong to no particle.
    """
    endings = [ending for ending in formats if not ending.startswith(".mrcs")]
    for pattern in ("*", "*/*"):
        listed = sorted(file for file in folder.glob(pattern) if not file.name.startswith(".") and file.is_file())
        found = {ending: [file for file in listed if file.name.lower().endswith(ending)] for ending in endings}
        kinds = [ending for ending, files in found.items() if files]
        kinds = [ending for ending in kinds if ending != ".png"] or kinds  # PNGs beside volumes are previews
        if len(kinds) > 1:
            raise InputError(f"Folder {folder} holds {' and '.join(kinds)} files; expected one kind: move the others.")
        if kinds:
            files, companions = _without_companions(folder, found[kinds[0]])
            files, others = _without_others(files)
            return files, sorted([*companions, *others])
    raise InputError(
        f"Folder {folder} holds no {' files, no '.join(endings)} files; expected one per subtomogram: check the path."
    )


def _file_of(path: Path, name: str, project: Path | None) -> Path:
    """File that a name in a STAR refers to, in the project's folder or else the STAR's.

    Raises
    ------
    InputError
        No such file, one outside these folders, or two different ones.
    """
    home = path.parent.resolve()
    if "\\" in name and not (home / name).exists():
        name = name.replace("\\", "/")  # as programs on Windows write it
    roots = [home] if project is None else [project.resolve(), home]
    candidates = list(dict.fromkeys((root / name).resolve() for root in roots))
    inside = [file for file in candidates if any(file.is_relative_to(root) for root in roots)]
    found = [file for file in inside if file.is_file()]
    if len(found) > 1 and not os.path.samefile(*found):
        raise InputError(f"{path}: _rlnImageName '{name}' may be {found[0]} or {found[1]}; expected one: move one.")
    if found:
        return found[0]
    what = f"is not a file in {roots[0]}" if inside else f"leaves the STAR's folder {home}"
    if project is not None and not inside:
        what = f"leaves the project folder {roots[0]} and the STAR's"
    way_out = "correct it, or pass as project_folder the folder that the names are relative to"
    near = _project_of(home, name)
    if near is not None and near != project:
        way_out = f"pass project_folder={near}, in which it lies"
    raise InputError(f"{path}: _rlnImageName '{name}' {what}; {way_out}.")


def _project_of(home: Path, name: str) -> Path | None:
    """Folder to name as project_folder, so that a file is found: a parent of the STAR's; None without one."""
    up = next((parent for parent in home.parents[:-1] if (parent / name).is_file()), None)
    if up is not None and (up / name).resolve().is_relative_to(up):
        return up
    file = (home / name).resolve()
    shared = Path(os.path.commonpath([home, file]))
    return shared if file.is_file() and len(shared.parts) > 2 else None


def named_in(
    path: Path, names: Sequence[str], project: Path | None
) -> tuple[dict[Path, list[tuple[int, int]]], dict[int, InputError]]:
    """Files that a STAR's _rlnImageName refer to, each with the rows and the indices of their volumes in the file.

    Parameters
    ----------
    project : folder that the names may be relative to, and may not leave; None: only the STAR's

    Returns
    -------
    the files, and row -> problem for the names without one
    """
    files: dict[Path, list[tuple[int, int]]] = {}
    problems: dict[int, InputError] = {}
    known: dict[str, Path | InputError] = {}
    for row, name in enumerate(names):
        index, _, file = name.rpartition("@")
        if not re.fullmatch(r"[0-9]{0,9}", index):
            problems[row] = InputError(
                f"{path}: _rlnImageName '{name}' has no number before its @; expected NUMBER@FILE or FILE: correct it."
            )
            continue
        if file not in known:
            try:
                known[file] = _file_of(path, file, project)
            except (InputError, OSError, ValueError) as problem:  # of names that no file can have
                known[file] = (
                    problem
                    if isinstance(problem, InputError)
                    else InputError(f"{path}: _rlnImageName {name[:80]!r} is not a file; correct it.")
                )
        member = known[file]
        if isinstance(member, InputError):
            problems[row] = member
        else:
            files.setdefault(member, []).append((row, int(index or 1) - 1))
    return files, problems
