"""Devices, files and provenance: what every part of the library does in the same way."""

from __future__ import annotations

import ast
import ctypes
import difflib
import dis
import functools
import hashlib
import os
import subprocess
import sys
import types
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import InputError

if TYPE_CHECKING:
    import torch

PACKAGE = Path(__file__).parents[1]
LARGEST, KEPT = 32 << 20, 256 << 20  # bytes: of a tensor whose memory is kept (glibc allows no more), and of all of it


def pick_device(name: str | torch.device) -> torch.device:
    """Device of a name: "auto" is CUDA, else Apple's MPS, else the CPU; other names are those of torch."""
    import torch  # here, so that reading and downloading files does not wait for it

    if name == "auto":
        mps = "mps" if torch.backends.mps.is_available() else "cpu"
        name = "cuda" if torch.cuda.is_available() else mps
    device = torch.device(name)
    if device.type == "cpu":
        keep_freed_memory()
    return device


@functools.cache
def keep_freed_memory() -> None:
    """Let this process keep up to KEPT bytes of freed memory for its next tensors, where the C library is glibc.

    glibc gives the memory of large tensors back to the kernel, which clears every page of it for the next ones: about a
    tenth of the time of a training step. No number changes. Variables such as MALLOC_TRIM_THRESHOLD_ go before.
    """
    if not sys.platform.startswith("linux") or any(name.startswith("MALLOC_") for name in os.environ):
        return
    trim_threshold, mmap_threshold = -1, -3  # M_ in malloc.h
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # musl has none
    if mallopt is not None:
        mallopt(mmap_threshold, LARGEST)
        mallopt(trim_threshold, KEPT)


def check_finite(values: dict[str, Any], step: int) -> dict[str, Any]:
    """The losses or weights of a training step, if all are finite; after one that is not, no later one would be.

    Raises
    ------
    InputError
        with the names of those that are not.
    """
    import torch

    held = {name: torch.as_tensor(value) for name, value in values.items()}  # on "meta" there is nothing to look at
    if bad := [name for name, value in held.items() if not value.is_meta and not value.isfinite().all()]:
        raise InputError(
            f"Training stopped at step {step}: {', '.join(bad[:3])} is no finite number any more. Take a smaller lr, "
            "or precision '32-true' where it is another."
        )
    return values


@contextmanager
def atomic(path: str | Path) -> Iterator[Path]:
    """Path of a new file beside `path` that takes its name when the block ends; after an error nothing is left.

    Readers of `path` see the old file or the whole new one, also after a crash. Missing folders are made.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
    try:
        yield partial
        with partial.open("rb") as file:
            os.fsync(file.fileno())  # on the disk before it has its name, so that a power cut leaves no empty file
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def write_text(path: str | Path, text: str) -> Path:
    """Write a UTF-8 text file atomically; its path is returned."""
    with atomic(path) as partial:
        partial.write_text(text, encoding="utf-8")
    return Path(path)


def file_digest(path: Path) -> str:
    """SHA-256 of a file; hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@functools.lru_cache(maxsize=64)
def code_digest(*names: str) -> str:
    """Digest of the code of modules and wings of this package, such as ("simulation", "fourier"); hexadecimal.

    Comments and docstrings do not count: what cannot change a number does not change the digest.
    """
    digest = hashlib.sha256()
    for name in names:
        place = PACKAGE.joinpath(*name.split("."))
        for path in sorted(place.rglob("*.py")) if place.is_dir() else [place.with_suffix(".py")]:
            tree = ast.parse(path.read_text(encoding="utf-8"))
            for node in ast.walk(tree):
                body = getattr(node, "body", None)
                if isinstance(body, list) and body and isinstance(body[0], ast.Expr):
                    if isinstance(body[0].value, ast.Constant) and isinstance(body[0].value.value, str):
                        del body[0]
            digest.update(f"{path.relative_to(PACKAGE).as_posix()}\n{ast.dump(tree)}\n".encode())
    return digest.hexdigest()


def function_digest(function: object, depth: int = 3) -> str:
    """Digest of what a function or class does: bytecode, constants, defaults, closure, and what it uses of its module.

    Global constants, functions and classes count where they stand in the same module as the function (a notebook cell,
    a script), up to `depth` calls away. Docstrings and comments do not count. The digest is the same in every process
    with the same Python version.
    """
    digest = hashlib.sha256()
    plain = int | float | complex | str | bytes | None

    def instructions(code: types.CodeType) -> list[str]:
        names = []
        for instruction in dis.get_instructions(code):
            digest.update(instruction.opname.encode())
            if isinstance(instruction.argval, types.CodeType):  # an inner function or a comprehension
                names += instructions(instruction.argval)
            else:
                add(instruction.argval, 0)
                names += [instruction.argval] if instruction.opcode in dis.hasname else []
        return names

    def add(value: object, left: int) -> None:
        if left < 0:
            return
        if isinstance(value, staticmethod | classmethod):
            value = value.__func__
        if isinstance(value, plain):
            digest.update(repr(value).encode())
        elif isinstance(value, tuple):
            for part in value:
                add(part, left)
        elif isinstance(value, frozenset):
            digest.update(repr(sorted(map(repr, value))).encode())  # its order differs between processes
        elif isinstance(value, functools.partial):
            add((value.func, value.args, *sorted(value.keywords.items())), left)
        elif isinstance(value, types.FunctionType | types.MethodType):
            inner = value.__func__ if isinstance(value, types.MethodType) else value
            names = instructions(inner.__code__)
            add((inner.__defaults__ or (), *(inner.__kwdefaults__ or {}).items()), left)
            for cell in inner.__closure__ or ():
                add(cell.cell_contents, left - 1)
            for name in dict.fromkeys(names):
                part = inner.__globals__.get(name)
                constant = part is not None and isinstance(part, plain | tuple | frozenset)
                if constant or getattr(part, "__module__", None) == inner.__module__:
                    digest.update(name.encode())
                    add(part, left - 1)
        elif isinstance(value, type):
            digest.update(repr([base.__qualname__ for base in value.__mro__]).encode())
            for name, part in sorted(vars(value).items()):
                if callable(part) or isinstance(part, classmethod) or not name.startswith("__"):
                    digest.update(name.encode())
                    add(part.fget if isinstance(part, property) else part, left - 1)
        else:
            add(type(value).__qualname__, left)
            if callable(value):
                add(type(value), left - 1)

    add(function, depth)
    return digest.hexdigest()


def nearest(value: str, choices: Iterable[str]) -> str | None:
    """The choice that `value` is most likely a misspelling of; None if none is close."""

    def likeness(choice: str) -> tuple[float, float]:
        parts = (choice, *choice.split("_"))  # pixel, in pixel_size
        ratios = [difflib.SequenceMatcher(None, value.lower(), part.lower()).ratio() for part in parts]
        return max(ratios), ratios[0]

    best = max(choices, key=likeness, default=None)
    return best if best is not None and likeness(best)[0] >= 0.65 else None


def did_you_mean(value: str, choices: Iterable[str]) -> str:
    """End of an error sentence: "; did you mean 'laptop'?", or "." if no choice is close to `value`."""
    close = nearest(value, choices)
    return f"; did you mean '{close}'?" if close else "."


def check_known(what: str, name: str, known: Collection[str]) -> None:
    """InputError where `name` is not in `known`; `what` says what it should be, as in "a method"."""
    if name not in known:
        raise InputError(f"Expected {what} out of {', '.join(known)}, got '{name}'{did_you_mean(name, known)}")


def root() -> Path:
    """The nearest folder with a pyproject.toml, from the current folder upwards; else the current folder."""
    here = Path.cwd()
    return next((folder for folder in (here, *here.parents) if (folder / "pyproject.toml").is_file()), here)


def commit() -> str:
    """Commit of the code that runs, with -dirty where it has changes; "unknown" outside a git checkout."""
    command = ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        found = subprocess.run(command, cwd=PACKAGE, capture_output=True, text=True, timeout=20)
    except (OSError, subprocess.TimeoutExpired):
        return "unknown"
    return found.stdout.strip() or "unknown"
