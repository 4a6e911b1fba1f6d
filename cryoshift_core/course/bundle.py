"""A workshop in one file (``make bundle``): the repository, wheels, notebooks as run, data, fits, and the site.

python -m cryoshift_core bundle [--profile laptop] [--out runs/bundle]

The archive holds wheels of the packages that are installed here, for this platform and Python version. On a machine
of the same kind, ``./install`` in the unpacked archive makes .venv without a network. Notebooks then find the data and
fits of the earlier ones in runs/, so a late laptop can join at any of them.
"""

from __future__ import annotations

import argparse
import io
import platform
import re
import subprocess
import sys
import tarfile
import tempfile
import tomllib
from collections.abc import Iterable
from importlib import metadata
from pathlib import Path
from typing import Any

from packaging.markers import default_environment
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from .. import __version__
from ..application.profiles import PROFILES
from ..application.run_folder import read_manifest
from ..errors import InputError
from ..support.runtime import atomic, commit, root
from . import site
from .parameters import check

EXTRAS = ("test", "formats", "lab", "site")  # those of make venv, so that every target of the Makefile works
NEVER = re.compile(r"\.(lock|partial|unfinished)$|^(__pycache__|\.ipynb_checkpoints)$")


def installed_packages(project: dict[str, Any]) -> dict[str, str]:
    """Name -> installed version of all packages that the project and its EXTRAS need, directly or not.

    Raises
    ------
    InputError
        a package is not installed.
    """
    optional = project.get("optional-dependencies", {})
    wanted = [*project.get("dependencies", []), *(line for extra in EXTRAS for line in optional.get(extra, []))]
    todo = [Requirement(line) for line in wanted]
    found, done = {}, set()
    environment = {str(name): str(value) for name, value in default_environment().items()}
    while todo:
        requirement = todo.pop()
        extras = frozenset(requirement.extras)
        if (key := (canonicalize_name(requirement.name), extras)) in done:
            continue
        done.add(key)
        try:
            package = metadata.distribution(requirement.name)
        except metadata.PackageNotFoundError:
            raise InputError(
                f"{requirement.name} is not installed; expected all of .[{','.join(EXTRAS)}]. Run make venv."
            ) from None
        found[key[0]] = package.version
        for line in package.requires or []:
            needed = Requirement(line)
            if needed.marker is None or any(needed.marker.evaluate(environment | {"extra": e}) for e in (*extras, "")):
                todo.append(needed)
    return dict(sorted(found.items()))


def check_pins(packages: dict[str, str], constraints: str) -> None:
    """Raise InputError for a package whose version is not that of constraints.txt: ./install would refuse it."""
    pins = dict(line.split("==") for line in constraints.split())
    pinned: dict[str, str] = {canonicalize_name(name): version for name, version in pins.items()}
    for name, version in packages.items():
        if pinned.get(name, version) != version.partition("+")[0]:
            raise InputError(
                f"{name} {version} is installed; expected {pinned[name]}, as in constraints.txt. Run make venv after "
                "deleting .venv/.ready."
            )


def download_wheels(requirements: Iterable[str], folder: Path) -> None:
    """Download wheels for this platform into `folder`, from where pip's own settings say.

    Raises
    ------
    InputError
        pip fails.
    """
    command = [sys.executable, "-m", "pip", "download", "--disable-pip-version-check", "--quiet", "--no-deps"]
    command += ["--only-binary", ":all:", "--dest", str(folder), *requirements]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        reason = done.stderr.strip().splitlines()[-1:] or ["no message"]
        raise InputError(
            f"pip could not download the wheels: {reason[0]} Expected each installed version to be where pip looks; "
            "set PIP_FIND_LINKS to a folder with the missing wheels."
        )


def tracked_files(base: Path) -> list[Path]:
    """Files of the repository as they are in the working tree, those that git tracks.

    Raises
    ------
    InputError
        `base` is no git checkout.
    """
    done = subprocess.run(["git", "ls-files", "-z"], cwd=base, capture_output=True, text=True)
    if done.returncode:
        raise InputError(f"{base} is no git checkout; expected one, to know which files belong to the repository.")
    return [base / name for name in done.stdout.split("\0") if name and (base / name).is_file()]


def run_files(folder: Path) -> list[Path]:
    """Files of runs/<profile> for the archive: data, fits and finished notebooks, without earlier runs moved aside."""
    entries = []
    for entry in sorted(folder.iterdir()):
        manifest = read_manifest(entry)
        if not manifest or (manifest["status"] == "finished" and manifest["notebook"] == entry.name):
            entries += [entry] if entry.is_file() else sorted(entry.rglob("*"))
    return [
        path
        for path in entries
        if path.is_file() and not any(NEVER.search(part) for part in path.relative_to(folder).parts)
    ]


def other_code(runs: Path, profile: str) -> list[str]:
    """Names of the notebooks that were run with another commit than the present one, or with uncommitted changes."""
    now = commit()
    executed = site.executed_notebooks(runs, profile)
    return [name for name, path in executed.items() if read_manifest(path.parent)["commit"] != now or "-" in now]


def install_script() -> str:
    """Text of ./install for this platform and Python version."""
    text = Path(__file__).with_name("install.sh").read_text(encoding="utf-8")
    values = {"PYTHON": "{}.{}".format(*sys.version_info), "SYSTEM": platform.system(), "MACHINE": platform.machine()}
    for name, value in {**values, "EXTRAS": ",".join(EXTRAS)}.items():
        text = text.replace(f"@{name}@", value)
    return text


def write_archive(base: Path, profile: str, pages: Path, wheels: Path, out: Path) -> dict[str, int]:
    """Bytes of each part of the archive that was written.

    Parameters
    ----------
    base : root of the repository
    profile : the runs to include
    pages, wheels : folders of the site and of the wheels
    out : the .tar; its folder inside has the same name
    """
    exercises = sorted((base / "runs" / "exercises").rglob("*.ipynb"))  # participant's and solution notebooks, if made
    parts: dict[str, list[tuple[Path, Path]]] = {
        "repository": [(path, path.relative_to(base)) for path in tracked_files(base)],
        "runs": [(path, path.relative_to(base)) for path in (*run_files(base / "runs" / profile), *exercises)],
        "site": [(path, Path("site") / path.relative_to(pages)) for path in sorted(pages.rglob("*")) if path.is_file()],
        "wheels": [(path, Path("wheels") / path.name) for path in sorted(wheels.glob("*.whl"))],
    }
    sizes = {}
    with atomic(out) as partial, tarfile.open(partial, "w") as archive:
        for part, files in parts.items():
            for path, name in files:
                archive.add(path, f"{out.stem}/{name.as_posix()}", recursive=False)
            sizes[part] = sum(path.stat().st_size for path, _ in files)
        content = install_script().encode()
        script = tarfile.TarInfo(f"{out.stem}/install")
        script.size, script.mode = len(content), 0o755
        archive.addfile(script, io.BytesIO(content))
    return sizes


def archive_name() -> str:
    """Name of the archive without ending, such as cryoshift-0.2.0-linux-x86_64-python3.11."""
    machine = f"{platform.system()}-{platform.machine()}".lower()
    return f"cryoshift-{__version__}-{machine}-python{sys.version_info[0]}.{sys.version_info[1]}"


def main(arguments: list[str] | None = None) -> int:
    """Exit status of the command: 0 if the archive was written, 2 if something is missing."""
    parser = argparse.ArgumentParser(
        "python -m cryoshift_core bundle", description="Write one archive for a workshop without a network."
    )
    parser.add_argument("--profile", default="laptop", help="runs to include: " + " or ".join(PROFILES))
    parser.add_argument("--out", type=Path, help="folder of the archive (default: runs/bundle)")
    options = parser.parse_args(arguments)
    base = root().resolve()
    out = (options.out or base / "runs" / "bundle").expanduser().resolve() / f"{archive_name()}.tar"
    try:
        check({"profile": options.profile})
        settings = tomllib.loads((base / "pyproject.toml").read_text(encoding="utf-8"))
        packages = installed_packages(settings["project"])
        check_pins(packages, (base / "constraints.txt").read_text(encoding="utf-8"))
        profile = site.profile_to_show(base, options.profile)
        with tempfile.TemporaryDirectory(prefix="cryoshift-bundle-") as temporary:
            pages, wheels = Path(temporary) / "site", Path(temporary) / "wheels"
            print(f"Writing the site from the runs of the {profile} profile ...", flush=True)
            for line in site.build(base, pages, profile):
                print(line, file=sys.stderr)
            print(f"Downloading {len(packages)} wheels ...", flush=True)
            pinned = [f"{name}=={version}" for name, version in packages.items()]
            download_wheels([*pinned, *settings["build-system"]["requires"]], wheels)
            sizes = write_archive(base, profile, pages, wheels, out)
    except InputError as error:
        print(f"InputError: {error}", file=sys.stderr)
        return 2
    for part, size in sizes.items():
        print(f"{part:12}{size / 1e6:8.0f} MB")
    if stale := other_code(base / "runs", profile):
        print(
            f"Run with other code than the present: {', '.join(stale)}. Participants' machines will compute again what "
            f"the changes concern; make tutorial PROFILE={profile} brings data and fits up to date."
        )
    print(f"{'archive':12}{out.stat().st_size / 1e6:8.0f} MB\n{out}")
    print("On a machine of the same kind: tar xf it, then ./install, then make lab. No network is used.")
    return 0
