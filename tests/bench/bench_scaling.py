"""Training step beside its convolutions, a default fit, files to predictions with their memory, and growth.

Prints one line per measurement, `name value unit`, in CPU time of one thread. The floor of a training step is the time
of its convolutions alone, forward and backward, on the tensors of the step; the network's passes with all layers, and
the warps, are printed beside it. Files are read, predicted and written in
processes of their own, whose peak memory is printed. A growth is the exponent b of time = a n^b, fitted over the sizes
that are named.
"""

from __future__ import annotations

import resource
import subprocess
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import torch
from bench_learning import CLASSES, cpu_seconds
from helpers.files import coordinates, star
from torch import nn

import cryoshift_core as cs
from cryoshift_core import data, models, training
from cryoshift_core.methods import resolve
from cryoshift_core.simulation import imaging, optics, specimens
from cryoshift_core.support.processes import Group
from cryoshift_core.tomography import mrc

N, MANY, FEW, STEPS = 700, 4000, 1000, 40


def white(n: int, box: int = 32, n_classes: int = 7) -> tuple[data.Labelled, data.Unlabelled]:
    """Source and target of noise; their values do not change the time."""
    x = data.normalize(torch.randn(n, 1, box, box, box, generator=torch.Generator().manual_seed(0)))
    names, groups = tuple(f"class_{k}" for k in range(n_classes)), torch.arange(n)
    source = data.Labelled(x, groups % n_classes, names, 12.0, torch.full((n,), 0.1), groups)
    return source, data.Unlabelled(x.flip(0), 12.0, groups, "white")


def stepper(
    method: str, source: data.Labelled, target: data.Unlabelled, batch: int = 32
) -> tuple[training._State, Callable[[], None]]:
    terms, recipe = resolve(method)
    config, generator = training.TrainingConfig(batch=batch), torch.Generator().manual_seed(0)
    state = training._start(source, target, terms, recipe, config, 0, generator, torch.device("cpu"), Group())

    def step() -> None:
        training._step(state, source, target, 0.5)
        state.step += 1

    return state, step


def convolutions(state: training._State, step: Callable[[], None]) -> Callable[[], None]:
    """The convolutions of one step, to be run alone."""
    seen = []

    def keep(layer: nn.Module, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
        if output.requires_grad:
            seen.append((layer, inputs[0].detach(), inputs[0].requires_grad, torch.ones_like(output)))

    layers = [m for m in state.modules.modules() if isinstance(m, nn.Conv3d)]
    hooks = [layer.register_forward_hook(keep) for layer in layers]
    step()
    for hook in hooks:
        hook.remove()

    def run() -> None:
        for layer, x, needed, gradient in seen:
            x.requires_grad_(needed)
            torch.autograd.grad(layer(x), [*layer.parameters(), *([x] if needed else [])], gradient)

    return run


def parts(state: training._State, source: data.Labelled) -> dict[str, Callable[[], object]]:
    """What a step cannot do without: the network's passes with all of its layers, and the warps."""
    network, x = state.modules["network"], source.x[:32].clone()
    passes = 3 if "warps" in state.modules else 1  # source, warped source, target

    def layers() -> None:
        for _ in range(passes):
            network.features(x).sum().backward()  # type: ignore[operator]

    found: dict[str, Callable[[], object]] = {"network": layers}
    if "warps" in state.modules:
        generator = torch.Generator().manual_seed(0)
        found["warps"] = torch.no_grad()(lambda: state.modules["warps"](x, generator=generator))
    return found


def steps() -> None:
    source, target = white(N)
    for method in ("source_only", "cryoshift"):
        state, step = stepper(method, source, target)
        alone = convolutions(state, step)
        pairs = [(cpu_seconds(step, 5), cpu_seconds(alone, 5)) for _ in range(3)]  # in turn, under the same load
        whole, floor = min(pairs)
        print(f"step_{method}_32_batch32 {1e3 * whole:.0f} CPU-ms")
        print(f"step_{method}_32_batch32_floor {1e3 * floor:.0f} CPU-ms")
        print(f"step_{method}_32_batch32_over_floor {np.median([a / b for a, b in pairs]):.2f} times")
        for part, work in parts(state, source).items():
            ratios = [cpu_seconds(work, 5) / cpu_seconds(alone, 5) for _ in range(3)]
            print(f"step_{method}_32_batch32_{part}_over_floor {np.median(ratios):.2f} times")


def default_fit() -> None:
    source, target = white(2100)
    validation = source.subset(torch.arange(420))
    whole = training.TrainingConfig()
    config = training.TrainingConfig(steps=STEPS, evaluations=round(whole.evaluations * STEPS / whole.steps) or 1)
    for method in ("source_only", "cryoshift"):
        fits = [
            cs.fit(method, source, target, validation=validation, config=config, device="cpu", progress=False)
            for _ in range(2)
        ]
        seconds = min(fit.cpu_seconds for fit in fits) * whole.steps / STEPS
        print(f"default_fit_{method} {seconds:.0f} CPU-s, from {STEPS} of {whole.steps} steps")


def make_files(place: str) -> None:
    """Stacks of MANY and of FEW boxes, a tomogram with as many positions, and a model for all."""
    folder = Path(place)
    size = {"box": 32, "voxel_size": 12.0, "progress": False}
    source = cs.simulate_source(CLASSES, 384, **size)
    target = data.Unlabelled(source.x, 12.0, source.groups, "itself")
    config = training.TrainingConfig(steps=60, evaluations=1, candidates=1)
    fit = cs.fit("source_only", source, target, config=config, device="cpu", progress=False)
    outliers = cs.simulate_source(["ice"], 60, split="validation", **size)
    cs.select(fit, target, outliers=outliers, device="cpu").save(folder / "m.safetensors")
    boxes = source.x[:, 0].numpy()
    for name, n in {"many": MANY, "few": FEW}.items():
        mrc.write_mrc(folder / f"{name}.mrcs", boxes[np.arange(n) % len(boxes)], 12.0)
    tiles = boxes[:192].reshape(3, 8, 8, 32, 32, 32).transpose(0, 3, 1, 4, 2, 5).reshape(96, 256, 256)
    mrc.write_mrc(folder / "tomogram.mrc", tiles, 12.0)
    zyx = np.random.default_rng(0).uniform(20, np.array(tiles.shape) - 21, size=(MANY, 3))
    for name, n in {"many": MANY, "few": FEW}.items():
        star(folder / f"{name}.star", **coordinates(zyx[:n, ::-1]))


def predict_files(kind: str, place: str) -> None:
    """In a process of its own: from files on disk to predictions.star."""
    torch.set_num_threads(1)
    folder = Path(place)
    unit = 1 if sys.platform == "darwin" else 1024

    def peak() -> float:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e9

    before = peak()
    seconds = {}
    for name, n in {"few": FEW, "many": MANY}.items():
        files = {"subtomograms": folder / f"{name}.mrcs"}
        if kind == "tomogram":
            files = {"tomogram": folder / "tomogram.mrc", "coordinates": folder / f"{name}.star"}

        def whole(files=files, out=folder / f"out_{kind}_{name}", n=n) -> None:
            found = cs.classify(model=folder / "m.safetensors", out_dir=out, contrast="bright", device="cpu", **files)
            assert len(found.predictions) > 0.9 * n

        seconds[name] = cpu_seconds(whole, 1)
    each = (seconds["many"] - seconds["few"]) / (MANY - FEW)
    print(f"predict_{kind}_32 {1 / each:.0f} boxes/CPU-s, and {seconds['few'] - FEW * each:.1f} CPU-s for the report")
    print(f"predict_{kind}_32_all {MANY / seconds['many']:.0f} boxes/CPU-s of {MANY} with the report")
    print(f"predict_{kind}_32_memory {peak():.2f} GB peak ({before:.2f} GB before)")


def growth(name: str, sizes: list[int], seconds: Callable[[int], float]) -> None:
    times = [seconds(size) for size in sizes]
    slope = np.polyfit(np.log(sizes), np.log(times), 1)[0]
    print(f"growth_{name} {slope:.2f} exponent over {', '.join(map(str, sizes))}")


def grow() -> None:
    network = models.Network(7)
    source, target = white(1024)
    growth(
        "predict_boxes",
        [128, 256, 512, 1024],
        lambda n: cpu_seconds(lambda: models.predict(network, source.x[:n], device="cpu"), 3),
    )
    growth(
        "normalize_voxels_a_side",
        [16, 24, 32, 48, 64],
        lambda box: cpu_seconds(partial(data.normalize, torch.randn(64, 1, box, box, box)), 3),
    )
    growth("step_classes", [4, 8, 16, 32], lambda k: cpu_seconds(stepper("cryoshift", *white(128, 24, k))[1], 3))
    growth(
        "step_voxels_a_side",
        [24, 32, 48, 64],
        lambda box: cpu_seconds(stepper("cryoshift", *white(64, box), batch=16)[1], 3),
    )

    def simulate(box: int) -> float:
        g, setting = torch.Generator().manual_seed(0), optics.Optics(voxel_size=384 / box)
        bank = specimens.templates(CLASSES, 384 / box, box, generator=g)
        made = specimens.specimens(torch.arange(56) % len(CLASSES), bank, generator=g)
        return cpu_seconds(lambda: imaging.image_by_transfer(made, bank, setting, generator=g), 3)

    growth("simulate_voxels_a_side", [24, 32, 48, 64], simulate)


def main() -> None:
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        for kind in ("make", "stack", "tomogram"):  # first: a process starts with the peak memory of its parent
            subprocess.run([sys.executable, __file__, kind, folder], check=True)
    steps()
    default_fit()
    grow()


if __name__ == "__main__":
    if sys.argv[1:2] == ["make"]:
        make_files(sys.argv[2])
    elif len(sys.argv) > 1:
        predict_files(*sys.argv[1:])
    else:
        main()
