"""Speed of the hot paths, in CPU time of one thread, each beside a floor measured in the same run: `make bench`.

The aim of the transfer path is 600 volumes per CPU-second at 32^3 and 200 at 48^3. Prints one line per figure,
`name value unit`; every value is a median of repeats.
"""

from __future__ import annotations

import resource
import statistics
import sys
import time
from collections.abc import Callable

import torch

from cryoshift_core import data, fourier, models
from cryoshift_core.simulation import datasets, imaging, optics, specimens

CLASSES = ("ribosome_70S", "ribosome_80S", "TRiC", "apoferritin", "spliceosome", "TYMV_capsid", "RuvAB")


def cpu_seconds(work: Callable[[], object], repeats: int = 7) -> float:
    """Median CPU time of `work`, after one run that fills the caches."""
    work()
    times = []
    for _ in range(repeats):
        start = time.process_time()
        work()
        times.append(time.process_time() - start)
    return statistics.median(times)


def floor(box: int, n: int, generator: torch.Generator) -> None:
    """What no simulator can avoid: normal draws for the measured half-ball and one irfftn of the box per volume."""
    index, k = fourier.half_ball(box)
    seen = optics.transfer(optics.Optics(voxel_size=384.0 / box), box)[1] > 0
    index, k = index[seen], k[seen]
    for _ in range(0, n, imaging.CHUNK):
        grid = torch.zeros(imaging.CHUNK, box * box * (box // 2 + 1), dtype=torch.complex64)
        grid[:, index] = torch.view_as_complex(torch.randn(imaging.CHUNK, len(k), 2, generator=generator))
        torch.fft.irfftn(grid.reshape(-1, box, box, box // 2 + 1), s=(box,) * 3, dim=(1, 2, 3))


def main() -> None:
    torch.set_num_threads(1)
    g = torch.Generator().manual_seed(0)
    for box in (32, 40, 48):
        pixel = 384.0 / box
        bank = specimens.templates(CLASSES, pixel, box, generator=g)
        setting = optics.Optics(voxel_size=pixel)
        labels = torch.arange(224) % len(CLASSES)  # 32 of each
        specimen = specimens.specimens(labels, bank, generator=g)
        fast = cpu_seconds(lambda b=bank, s=specimen, o=setting: imaging.image_by_transfer(s, b, o, generator=g))
        least = cpu_seconds(lambda b=box: floor(b, 224, g))
        print(f"transfer_bank_{box} {len(labels) / fast:.0f} volumes/CPU-s")
        print(f"transfer_bank_{box}_floor {len(labels) / least:.0f} volumes/CPU-s")
        print(f"transfer_bank_{box}_over_floor {fast / least:.2f} times")
        cubes = imaging.image_by_transfer(specimen, bank, setting, generator=g).x
        both = cpu_seconds(lambda c=cubes: data.normalize(c))
        print(f"normalize_{box} {len(labels) / both:.0f} volumes/CPU-s")
        if box == 32:
            few = specimen[:32]
            slow = cpu_seconds(lambda b=bank, s=few, o=setting: imaging.image_by_tilt_series(s, b, o, generator=g), 3)
            print(f"tilt_series_{box} {len(few) / slow:.1f} volumes/CPU-s")
            print(f"tilt_series_{box}_over_transfer {slow / len(few) / (fast / len(labels)):.1f} times")
            net = models.Network(len(CLASSES))
            x, y = data.normalize(cubes[:32]), labels[:32]

            def step(net=net, x=x, y=y) -> None:
                net.zero_grad()
                torch.nn.functional.cross_entropy(net(x), y).backward()

            print(f"classifier_step_{box}_batch32 {1e3 * cpu_seconds(step):.0f} CPU-ms")
            print(f"classifier_forward_{box}_batch32 {1e3 * cpu_seconds(lambda n=net, x=x: n(x)):.0f} CPU-ms")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    datasets.simulate_source(
        datasets.DatasetConfig("source", CLASSES, 10_000, 32, 12.0, "source", tomograms=24), progress=False
    )
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1e9 if sys.platform == "darwin" else 1e6)
    print(f"memory_10000_cubes_32 {peak:.2f} GB peak of the whole process ({before:.2f} GB before)")


if __name__ == "__main__":
    main()
