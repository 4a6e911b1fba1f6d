"""Speed and memory of extraction, in CPU time of one thread, compared with copying the same boxes.

Prints one line per measurement, `name value unit`; a speed is the median of 5 runs. The floor is a plain copy of the
boxes, without interpolation. Memory is measured in a separate process, which reads a file of 32 GB (sparse: it needs no
space on disk) from its header to its last box.
"""

from __future__ import annotations

import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from bench_learning import cpu_seconds
from helpers.files import sparse

from cryoshift_core.tomography import extraction, mrc, volumes
from data_fetch import readers

BOX, N, MANY = 32, 1000, 100_000


def speed(folder: Path, dtype: type) -> None:
    rng = np.random.default_rng(0)
    path = folder / "tomogram.mrc"
    mrc.write_mrc(path, (100 * rng.normal(size=(200, 512, 512))).astype(dtype), 10.0)
    tomogram = readers.read_tomogram(path).data
    assert isinstance(tomogram, np.memmap) and tomogram.dtype == dtype
    zyx = rng.uniform(24, np.array(tomogram.shape) - 24, size=(N, 3))
    starts = (np.floor(zyx).astype(int) - BOX // 2).tolist()

    def floor() -> np.ndarray:
        out = np.empty((N, 1, BOX, BOX, BOX), np.float32)
        for row, (z, y, x) in enumerate(starts):
            out[row, 0] = tomogram[z : z + BOX, y : y + BOX, x : x + BOX]
        return out

    least = cpu_seconds(floor, 5)
    between = cpu_seconds(lambda: extraction.extract(tomogram, zyx, BOX, 10.0), 5)
    at_voxels = cpu_seconds(lambda: extraction.extract(tomogram, np.floor(zyx), BOX, 10.0), 5)
    cropped = cpu_seconds(lambda: extraction.extract(tomogram, zyx, 24, 10.0, 13.3), 5)  # from 34 voxels
    name = f"extract_{np.dtype(dtype).name}_{BOX}"
    print(f"{name} {N / between:.0f} boxes/CPU-s")
    print(f"{name}_at_voxels {N / at_voxels:.0f} boxes/CPU-s")
    print(f"{name}_floor {N / least:.0f} boxes/CPU-s")
    print(f"{name}_over_floor {between / least:.1f} times")
    print(f"extract_{np.dtype(dtype).name}_34_to_24 {N / cropped:.0f} boxes/CPU-s")


def whole_path(path: str) -> None:
    """Measure header, contrast and all boxes of one file, in a separate process."""
    torch.set_num_threads(1)
    start = time.process_time()
    tomogram = readers.read_tomogram(path)
    volumes.guess_contrast(tomogram.data)
    ready = time.process_time()
    zyx = np.random.default_rng(0).uniform(20, np.array(tomogram.data.shape) - 20, size=(MANY, 3))
    boxes = extraction.plan(tomogram.data.shape, zyx, BOX, tomogram.voxel_size)
    done = sum(len(kept) for _, kept in extraction.cut(tomogram.data, boxes))
    assert done == MANY
    unit = 1 if sys.platform == "darwin" else 1024
    print(f"large_header_and_contrast {ready - start:.1f} CPU-s")
    print(f"large_extract_{BOX} {done / (time.process_time() - ready):.0f} boxes/CPU-s")
    print(f"large_memory {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e9:.2f} GB peak")


def main() -> None:
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        for dtype in (np.float32, np.int16):
            speed(Path(folder), dtype)
        path = Path(folder) / "large.mrc"
        sparse(path, [4000, 4000, 1000], 1, [(i * 160_000_777, 1000 - i) for i in range(99)])
        subprocess.run([sys.executable, __file__, path], check=True)


if __name__ == "__main__":
    whole_path(sys.argv[1]) if len(sys.argv) > 1 else main()
