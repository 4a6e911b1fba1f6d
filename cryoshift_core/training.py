"""The training loop. It never receives a target label: the target's type has no field for one."""

from __future__ import annotations

import copy
import hashlib
import json
import logging
import math
import tempfile
import time
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from tqdm import tqdm

from . import losses
from .data import Labelled, Unlabelled, augment
from .errors import InputError
from .methods import TERMS, Batch, Method, resolve
from .models import ENCODERS, ImageDiscriminator, Network, outputs
from .support import processes
from .support.runtime import atomic, check_finite, check_known, code_digest, function_digest, pick_device
from .warps import WARPS, Warps

log = logging.getLogger("cryoshift_core")

ADVERSARIAL_EVERY, ADVERSARIAL_SHARE = 4, 4  # the warps are trained every 4th step on a quarter of the batch, for speed
ADVERSARIAL_LR = {"warps": 5e-4, "discriminator": 1e-3}
TEACHER_DECAY = 0.99  # of the moving average of the weights; smaller in the first steps
EVALUATED = 512  # at most so many subtomograms are predicted at an evaluation, or measured for the warps
PRECISIONS = ("32-true", "bf16-mixed")  # named as in Lightning
# tables that a script may add to, for the processes that :func:`fit` starts
TABLES = ("methods.METHODS", "methods.TERMS", "models.ENCODERS", "warps.WARPS")
# modules whose code changes a fit
CODE = ("data", "fourier", "losses", "methods", "models", "training", "warps", "support.order", "support.processes")


@dataclass(frozen=True)
class TrainingConfig:
    """Budget and network of a fit. The defaults are those of the laptop profile.

    Attributes
    ----------
    steps, batch : optimiser steps, each on `batch` source and as many target subtomograms
    lr, weight_decay : peak learning rate and weight decay of AdamW; see :func:`learning_rate`
    encoder, width : of :class:`models.Network`
    evaluations : points of the learning curves, evenly spaced; the fit can be resumed from each
    candidates : checkpoints kept for selection, evenly spaced, the last step among them
    rotations : 180-degree rotations of the source augmentation, see :func:`data.augment`. The target is rotated about
        the tilt axis only, because an asymmetric tilt range breaks the other symmetries. (0, 1) where the axis is not y
    picking_error : largest distance of a pick from its particle, A, for the warp "shift"; None takes half a voxel
    weights : other weights for the method's terms, e.g. {"mada": 0.3}
    without : terms and warps to leave out, e.g. ("spectrum",)
    precision : "32-true", or "bf16-mixed": features in bfloat16 where torch holds that safe, for CUDA devices
    """

    steps: int = 400
    batch: int = 32
    lr: float = 3e-3
    weight_decay: float = 1e-2
    encoder: str | nn.Module = "strided"
    width: int = 8
    evaluations: int = 8
    candidates: int = 4
    rotations: tuple[int, ...] = (0, 1, 2, 3)
    picking_error: float | None = None
    weights: Mapping[str, float] = field(default_factory=dict)
    without: tuple[str, ...] = ()
    precision: str = "32-true"

    def points(self, n: int) -> set[int]:
        """At most n steps, evenly spaced, the last one among them."""
        n = min(n, self.steps)
        return {round(self.steps * i / n) for i in range(1, n + 1)}


@dataclass
class Fit:
    """A trained network with the record of its training.

    Attributes
    ----------
    network : on the CPU, in eval mode, with the weights of step `selected`
    history : name -> values, one per evaluation: step, each term's mean since the last evaluation,
        source_val_acc, im_score, seconds
    candidates : step -> state_dict of the network
    warps : the warp modules after training, or None
    validation : labelled source subtomograms that were not trained on
    """

    method: str
    network: Network
    history: dict[str, list[float]]
    candidates: dict[int, dict[str, Tensor]]
    selected: int
    warps: Warps | None
    validation: Labelled
    config: TrainingConfig
    seconds: float
    cpu_seconds: float

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes, in label order."""
        return self.validation.classes

    def restore(self, step: int) -> Network:
        """The network with the weights of candidate `step`."""
        if step not in self.candidates:
            raise InputError(f"Expected a step out of {sorted(self.candidates)}, got {step}.")
        self.network.load_state_dict(self.candidates[step])
        self.selected = step
        return self.network


def learning_rate(progress: float, peak: float) -> float:
    """Linear warm-up over the first tenth, then half a cosine down to 1 % of `peak`; depends on no loss."""
    if progress < 0.1:
        return peak * max(progress / 0.1, 0.05)
    return peak * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * (progress - 0.1) / 0.9)))


def _evenly(n_data: int, n: int) -> Tensor:
    """At most n indices, evenly spaced over the data."""
    return torch.linspace(0, n_data - 1, min(n, n_data), device="cpu").round().long()


def _fingerprint(*tensors: Tensor) -> list:
    some = [t if type(t) is Tensor else t[_evenly(len(t), EVALUATED)] for t in tensors]  # of streamed ones a sample
    shapes = [list(t.shape) for t in tensors]
    return [
        [shape, zlib.crc32(t.detach().cpu().contiguous().numpy().data)] for shape, t in zip(shapes, some, strict=True)
    ]


@dataclass
class _State:
    """A fit in progress. `save` keeps all that the rest of the training depends on."""

    modules: nn.ModuleDict
    optimisers: dict[str, torch.optim.Optimizer]
    generator: torch.Generator
    terms: dict[str, float]
    method: Method
    config: TrainingConfig
    device: torch.device
    group: processes.Group
    step: int = 0
    history: dict[str, list[float]] = field(default_factory=dict)
    recent: dict[str, list[float]] = field(default_factory=dict)  # term -> values since the last evaluation
    seconds: float = 0.0
    cpu_seconds: float = 0.0

    SAVED = ("step", "history", "recent", "seconds", "cpu_seconds")

    def save(self, folder: Path) -> None:
        """Write state.pt; candidates are files of their own, so that each is written once."""
        kept: dict[str, Any] = {name: getattr(self, name) for name in self.SAVED}
        kept["modules"], kept["generator"] = self.modules.state_dict(), self.generator.get_state()
        kept["optimisers"] = {name: optimiser.state_dict() for name, optimiser in self.optimisers.items()}
        with atomic(folder / "state.pt") as partial:
            torch.save(kept, partial)

    def load(self, folder: Path) -> None:
        """Continue from what `save` wrote."""
        kept = torch.load(folder / "state.pt", weights_only=True, map_location="cpu")
        for name in self.SAVED:
            setattr(self, name, kept[name])
        self.modules.load_state_dict(kept["modules"])
        self.generator.set_state(kept["generator"])
        for name, optimiser in self.optimisers.items():
            optimiser.load_state_dict(kept["optimisers"][name])

    @property
    def kept(self) -> Network:
        """The network that is evaluated and handed out: the teacher, where there is one."""
        return self.modules["teacher" if "teacher" in self.modules else "network"]  # type: ignore[return-value]


def _check(source: Labelled, target: Unlabelled, config: TrainingConfig) -> None:
    if not isinstance(target, Unlabelled):
        raise TypeError(
            f"Expected an Unlabelled target, got {type(target).__name__}: adaptation must not see a target label. "
            "Keep the labels in HeldOutLabels."
        )
    if not isinstance(source, Labelled):
        raise TypeError(f"Expected a Labelled source, got {type(source).__name__}.")
    if source.x.shape[1:] != target.x.shape[1:]:
        raise InputError(
            f"Expected source and target of the same box, got {tuple(source.x.shape[2:])} and "
            f"{tuple(target.x.shape[2:])} voxels: crop the larger with data.crop."
        )
    if source.contrast != target.contrast:
        raise InputError(f"The source is {source.contrast} and the target {target.contrast}: negate x of one of them.")
    counts = torch.bincount(source.y, minlength=len(source.classes))
    if int(counts.min()) == 0:
        raise InputError(
            f"Class {source.classes[int(counts.argmin())]!r} has no source subtomogram; add some or drop it."
        )
    if len(target) < 2:
        raise InputError(
            f"Expected at least 2 target subtomograms to adapt to, got {len(target)}: give a stack, a folder or a list "
            "of positions of several particles."
        )
    check_known("precision", config.precision, PRECISIONS)
    for name, least in {"steps": 1, "batch": 2, "evaluations": 1, "candidates": 1}.items():
        if getattr(config, name) < least:
            raise InputError(f"Expected {name} of at least {least}, got {getattr(config, name)}.")


def _key(method: Method, terms: dict[str, float], config: TrainingConfig, seed: int, data: list) -> str:
    """Digest of everything that changes a number of a fit: recipe, budget, seed, data and code."""
    encoder: list[object] = [config.encoder]
    if isinstance(config.encoder, nn.Module):
        own = {type(module) for module in config.encoder.modules() if not type(module).__module__.startswith("torch.")}
        encoder = [repr(config.encoder), _fingerprint(*config.encoder.state_dict().values())]
        encoder += sorted(function_digest(kind) for kind in own)
    elif config.encoder in ENCODERS:
        encoder.append(function_digest(ENCODERS[config.encoder]))
    parts = [function_digest(part) for name in terms for part in (TERMS[name].loss, TERMS[name].adversary)]
    parts += [function_digest(WARPS[name]) for name in (*method.warps, *method.student_augmentation)]
    budget = [config.steps, config.batch, config.lr, config.weight_decay, config.width, config.evaluations]
    recipe = [method.warps, method.warp_training, method.student_augmentation, method.norm]
    teacher = [TERMS[name].teacher for name in terms]
    everything = [terms, teacher, recipe, encoder, budget, config.candidates, config.rotations, config.picking_error]
    everything += [seed, data, parts, *([config.precision] if config.precision != PRECISIONS[0] else [])]
    return hashlib.sha256(json.dumps([everything, code_digest(*CODE)]).encode()).hexdigest()[:16]


def fit(
    method: str,
    source: Labelled,
    target: Unlabelled,
    *,
    validation: Labelled | None = None,
    config: TrainingConfig = TrainingConfig(),  # noqa: B008 (frozen)
    seed: int = 0,
    device: str | torch.device = "auto",
    folder: str | Path | None = None,
    progress: bool = True,
    devices: int = 1,
) -> Fit:
    """Train `method` on a labelled source and an unlabelled target of one box size.

    Parameters
    ----------
    method : a name in :data:`methods.METHODS`
    validation : labelled source subtomograms that are not trained on; None holds out a tenth of the source
    config : budget and network
    seed : of every random draw; the same seed gives the same numbers on the same device
    folder : where checkpoints are kept. The same call again loads a finished fit, and resumes an interrupted one with
        the numbers of an uninterrupted one (bit-equal on the CPU with the same number of threads). Fits are kept apart
        by recipe, budget, seed, data and code
    devices : processes that train together, each on a GPU or a part of the CPU's threads: the numbers of one process up
        to rounding. In processes that `torchrun` has started it is their number, whatever is given here

    Raises
    ------
    TypeError
        the target is not Unlabelled, or the source not Labelled
    InputError
        an unknown method or term, boxes that differ, a class without subtomograms, fewer than 2 target subtomograms, a
        batch or a normalisation that processes cannot share
    """
    if devices < 1:
        raise InputError(f"Expected devices of at least 1, got {devices}.")
    group = processes.current()
    size = max(devices, group.size)
    if size > group.size and folder is None:
        with tempfile.TemporaryDirectory() as scratch:
            common: dict[str, Any] = {"config": config, "seed": seed, "device": device, "progress": progress}
            return fit(method, source, target, validation=validation, folder=scratch, devices=size, **common)
    _check(source, target, config)
    terms, recipe = resolve(method, tuple(config.without))
    if unknown := set(config.weights) - terms.keys():
        raise InputError(f"Expected weights of the terms of {method!r} ({', '.join(terms)}), got {sorted(unknown)}.")
    terms |= config.weights
    chosen = pick_device(device)
    generator = torch.Generator("cpu").manual_seed(seed)
    if validation is None:
        if type(source.x) is not Tensor:
            raise InputError("Expected `validation` beside a streamed source: simulate some of its split 'validation'.")
        order = torch.randperm(len(source), generator=generator, device="cpu")
        held = max(1, len(source) // 10)
        validation, source = source.subset(order[:held]), source.subset(order[held:])
    state = _start(source, target, terms, recipe, config, seed, generator, chosen, group)
    processes.check_shared(size, config.batch, state.modules)
    checkpoints = None
    if folder is not None:
        data = [source.voxel_size, *_fingerprint(source.x, source.y, target.x, validation.x, validation.y)]
        data += [size] if size > 1 else []
        checkpoints = Path(folder) / f"{method}-{_key(recipe, terms, config, seed, data)}"
        if (checkpoints / "state.pt").exists():
            state.load(checkpoints)
            log.info("loaded from %s: step %d of %d", checkpoints, state.step, config.steps)
        if size > group.size and state.step < config.steps:
            options = {"validation": validation, "config": config, "seed": seed, "device": device, "folder": folder}
            processes.run(fit, size, method, source, target, progress=progress, tables=TABLES, **options)
            state.load(checkpoints)
    candidates = _train(state, source, target, validation, checkpoints, method if progress and group.rank == 0 else "")
    return Fit(
        method=method,
        network=state.kept.cpu().eval(),
        history=state.history,
        candidates=candidates,
        selected=config.steps,
        warps=state.modules["warps"].cpu().eval() if "warps" in state.modules else None,  # type: ignore[arg-type]
        validation=validation,
        config=config,
        seconds=state.seconds,
        cpu_seconds=state.cpu_seconds,
    )


def _start(
    source: Labelled,
    target: Unlabelled,
    terms: dict[str, float],
    method: Method,
    config: TrainingConfig,
    seed: int,
    generator: torch.Generator,
    device: torch.device,
    group: processes.Group,
) -> _State:
    """Networks, warps, discriminators and optimisers before the first step."""
    n_classes = len(source.classes)
    with torch.random.fork_rng(devices=[]), torch.device("cpu"):
        torch.manual_seed(seed)
        network = Network(n_classes, copy.deepcopy(config.encoder), config.width, method.norm)
        modules = nn.ModuleDict({"network": network})
        adversaries = {
            name: build(network.n_features, n_classes) for name in terms if (build := TERMS[name].adversary) is not None
        }
        if adversaries:
            modules["adversaries"] = nn.ModuleDict(adversaries)
        if any(TERMS[name].teacher for name in terms):
            modules["teacher"] = copy.deepcopy(network).requires_grad_(False)
        some_s, some_t = (d.x[_evenly(len(d), EVALUATED)] for d in (source, target))
        measured = (some_s, some_t, generator, source.voxel_size, config.picking_error)
        if method.warps:
            modules["warps"] = Warps(method.warps, *measured)
            modules["warps"].requires_grad_(method.warp_training is not None)
        if method.student_augmentation:
            modules["student_augmentation"] = Warps(method.student_augmentation, *measured)
        if method.warp_training == "realism":
            modules["discriminator"] = ImageDiscriminator()
    modules.to(device)
    group.same_start(modules.state_dict().values())
    learners = [p for name in ("network", "adversaries") if name in modules for p in modules[name].parameters()]
    optimisers: dict[str, torch.optim.Optimizer] = {
        "task": torch.optim.AdamW(learners, lr=config.lr, weight_decay=config.weight_decay, foreach=True)
    }
    for name, rate in ADVERSARIAL_LR.items() if method.warp_training else ():
        if name in modules and list(modules[name].parameters()):
            optimisers[name] = torch.optim.Adam(modules[name].parameters(), lr=rate, betas=(0.5, 0.99))
    return _State(modules, optimisers, generator, terms, method, config, device, group)


def _train(
    state: _State, source: Labelled, target: Unlabelled, validation: Labelled, folder: Path | None, title: str
) -> dict[int, dict[str, Tensor]]:
    """Take the steps that are left; the candidates are returned, step -> state_dict."""
    config = state.config
    evaluated, kept = config.points(config.evaluations), config.points(config.candidates)
    candidates = {
        step: load_file(folder / f"candidate_{step:06d}.safetensors")
        for step in sorted(kept)
        if step <= state.step and folder
    }
    wall, cpu = time.perf_counter() - state.seconds, time.process_time() - state.cpu_seconds
    bar = tqdm(total=config.steps, initial=state.step, desc=title, mininterval=1, ascii=True, disable=not title)
    with bar:
        while state.step < config.steps:
            done = state.step / config.steps
            for group in state.optimisers["task"].param_groups:
                group["lr"] = learning_rate(done, config.lr)
            for name, value in check_finite(_step(state, source, target, losses.ramp(done)), state.step).items():
                state.recent.setdefault(name, []).append(value)
            state.step += 1
            state.seconds, state.cpu_seconds = time.perf_counter() - wall, time.process_time() - cpu
            if state.step in evaluated:
                _evaluate(state, validation, target)
            if state.step in kept:
                weights = {name: value.detach().cpu().clone() for name, value in state.kept.state_dict().items()}
                candidates[state.step] = check_finite(weights, state.step)
                if folder is not None and state.group.rank == 0:
                    with atomic(folder / f"candidate_{state.step:06d}.safetensors") as partial:
                        save_file(weights, partial)
            if folder is not None and state.step in evaluated | kept and state.group.rank == 0:
                state.save(folder)
            bar.update()
    state.group.wait()  # for the files
    return candidates


def _step(state: _State, source: Labelled, target: Unlabelled, reversal: float) -> dict[str, float]:
    """One step of the network and its adversaries, then one of the warps when due; each term's value is returned."""
    modules, generator, batch, device = state.modules, state.generator, state.config.batch, state.device
    network: Any = modules["network"].train()
    chosen = torch.randint(len(source), (batch,), generator=generator, device="cpu")
    x_s = augment(source.x, generator, state.config.rotations, chosen).to(device)
    y_s = source.y[chosen].to(device)
    chosen = torch.randint(len(target), (batch,), generator=generator, device="cpu")
    about_axis = tuple(rotation for rotation in state.config.rotations if rotation in (0, 2))
    x_t = augment(target.x, generator, about_axis, chosen).to(device)
    with torch.no_grad():
        teacher = state.group.shared(modules["teacher"], x_t).softmax(1) if "teacher" in modules else None
        seen = modules["student_augmentation"](x_t, generator=generator) if "student_augmentation" in modules else x_t
        x_w = modules["warps"](x_s, generator=generator) if "warps" in modules else None
    mixed = state.config.precision == "bf16-mixed"
    inputs = Batch(network, x_s, y_s, x_w, seen, reversal, teacher, state.group, mixed)
    adversaries: Any = modules["adversaries"] if "adversaries" in modules else {}
    values = {name: TERMS[name](inputs, adversaries[name] if name in adversaries else None) for name in state.terms}
    loss = sum(state.terms[name] * value for name, value in values.items())
    _update(state, "task", loss)  # type: ignore[arg-type]
    if "teacher" in modules:
        keep = min(TEACHER_DECAY, (state.step + 1) / (state.step + 10))
        for old, new in zip(modules["teacher"].parameters(), network.parameters(), strict=True):
            old.lerp_(new.detach(), 1 - keep)
    scalars = {name: float(value.detach()) for name, value in values.items()}
    if "warps" in state.optimisers and state.step % ADVERSARIAL_EVERY == 0:
        n = max(2, batch // ADVERSARIAL_SHARE)
        scalars |= _train_warps(state, x_s[:n], y_s[:n], x_t[:n])
    return scalars


def _update(state: _State, name: str, loss: Tensor) -> None:
    """One step of an optimiser with the gradients of `loss`."""
    optimiser = state.optimisers[name]
    optimiser.zero_grad(set_to_none=True)
    loss.backward()
    state.group.average_gradients(p for part in optimiser.param_groups for p in part["params"])
    optimiser.step()


def _train_warps(state: _State, x_s: Tensor, y_s: Tensor, x_t: Tensor) -> dict[str, float]:
    """One step of the warps; for realism one of the image discriminator before it. Their losses are returned."""
    modules = state.modules
    warped = modules["warps"](x_s, generator=state.generator)
    if state.method.warp_training == "min-max":
        task = nn.functional.cross_entropy(modules["network"](warped), y_s)
        _update(state, "warps", -task)  # the network's gradients from here are cleared before its next step
        return {"warps": float(task.detach())}
    discriminator = modules["discriminator"]
    recognised = losses.realism(discriminator(x_t), True) + losses.realism(discriminator(warped.detach()), False)
    _update(state, "discriminator", recognised)
    fooled = losses.realism(discriminator(warped), True)
    _update(state, "warps", fooled)
    return {"discriminator": float(recognised.detach()), "warps": float(fooled.detach())}


def _evaluate(state: _State, validation: Labelled, target: Unlabelled) -> None:
    """Append a point to the learning curves. The target is predicted; its labels do not exist here."""
    few = _evenly(len(validation), EVALUATED)
    right = outputs(state.kept, validation.x[few], device=state.device).logits.argmax(1) == validation.y[few]
    p_t = outputs(state.kept, target.x[_evenly(len(target), EVALUATED)], device=state.device).probabilities
    row = {"step": float(state.step), **{name: sum(values) / len(values) for name, values in state.recent.items()}}
    row["source_val_acc"] = float(right.float().mean())
    row["im_score"] = float(losses.information_maximisation(p_t))
    row["seconds"] = state.seconds
    earlier = len(state.history.get("step", ()))
    for name in {**state.history, **row}:  # NaN for a term without a value since the last evaluation
        state.history.setdefault(name, [math.nan] * earlier).append(row.get(name, math.nan))
    state.recent = {}
