"""Time and peak memory of the largest inputs that are promised to work, each measured in a process of its own.

Prints one line per measurement, `name value unit`. The tomogram has 500 x 1000 x 1000 voxels (2 GB): a made tomogram,
repeated. 100,000 positions in it are classified with a saved model, and candidates are searched in it. Needs 5 GB of
disk in the folder for temporary files. `--positions` takes fewer positions for a quick look.
"""

from __future__ import annotations

import argparse
import dataclasses
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from helpers.files import coordinates, mrc, star
from helpers.tomograms import made

import cryoshift_core as cs
from cryoshift_core.application.profiles import PROFILES
from cryoshift_core.tomography import mrc as mrc_files
from cryoshift_core.tomography import picking
from data_fetch import readers

VOXEL, TILE, REPEATS = 20.0, (125, 250, 250), 4
DIAMETERS = (176.0, 120.0)  # A, TRiC and apoferritin


def large_tomogram(folder: Path) -> tuple[Path, np.ndarray]:
    """A file of 500 x 1000 x 1000 voxels, protein dark, and the positions (N, 3) zyx of its particles."""
    volume, at = made({"TRiC": 60, "apoferritin": 50}, TILE, VOXEL, 5.0, 1, apart=11, margin=12)
    mrc(folder / "tile.mrc", -volume, VOXEL)
    tile = np.concatenate(list(at.values()))
    star(folder / "tile.star", **coordinates(tile[:, ::-1].round(3).tolist()))
    path = folder / "large.mrc"
    whole = np.lib.format.open_memmap(
        folder / "large.npy", mode="w+", dtype=np.float32, shape=tuple(REPEATS * n for n in TILE)
    )
    shifts = np.stack(np.meshgrid(*[np.arange(REPEATS)] * 3, indexing="ij"), -1).reshape(-1, 3) * TILE
    for shift in shifts:
        whole[tuple(slice(a, a + n) for a, n in zip(shift, TILE, strict=True))] = -volume
    mrc_files.write_mrc(path, whole, VOXEL)
    (folder / "large.npy").unlink()
    return path, (tile[None] + shifts[:, None]).reshape(-1, 3)


def peak(*arguments: str) -> str:
    """What this script prints when it is called with arguments, in a process of its own."""
    command = [sys.executable, __file__, *arguments]
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.strip()


def told(name: str, start: float) -> None:
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    print(f"{name}_seconds {time.monotonic() - start:.0f} s\n{name}_cpu {time.process_time():.0f} s")
    print(f"{name}_peak_memory {memory:.2f} GB")


def classify(tomogram: str, positions: str, model: str, out: str) -> None:
    start = time.monotonic()
    found = cs.classify(tomogram=tomogram, coordinates=positions, model=model, out_dir=out, device="cpu")
    told(f"classify_{len(found.predictions)}", start)


def search(tomogram: str) -> None:
    start = time.monotonic()
    volume = readers.read_tomogram(tomogram)
    found = picking.find_candidates(volume.data, volume.voxel_size, DIAMETERS, contrast="dark", n=20000)
    told(f"candidates_{len(found)}", start)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--positions", default=100_000, type=int)
    n = parser.parse_args().positions
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        path, at = large_tomogram(folder)
        short = dataclasses.replace(PROFILES["smoke"], steps=30, n_source=96, n_validation=48, n_target=120)
        given = {"tomogram": folder / "tile.mrc", "coordinates": folder / "tile.star"}
        about = {"classes": "TRiC,apoferritin,ice", "profile": short, "box": 24, "device": "cpu"}
        first = cs.classify(**given, **about, out_dir=folder / "first")
        print(peak("candidates", str(path)), flush=True)
        rng = np.random.default_rng(0)
        zyx = np.repeat(at, -(-n // len(at)), axis=0)[:n] + rng.uniform(-2, 2, (n, 3))
        star(folder / "many.star", **coordinates(zyx[:, ::-1].round(3).tolist()))
        model = str(first.folder / "model.safetensors")
        print(peak("classify", str(path), str(folder / "many.star"), model, str(folder / "out")), flush=True)


if __name__ == "__main__":
    torch.set_num_threads(1)
    steps = {"candidates": search, "classify": classify}
    if len(sys.argv) > 1 and sys.argv[1] in steps:
        steps[sys.argv[1]](*sys.argv[2:])
    else:
        main()
