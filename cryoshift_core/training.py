"""The one training loop. It never receives a target label: the target's type has no field for one."""

from __future__ import annotations

import copy
import hashlib
import json
import math
import time
import zlib
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor, nn
from tqdm import tqdm

from . import losses
from .data import Labelled, Unlabelled, augment
from .errors import InputError
from .methods import TERMS, Batch, adversary, resolve
from .models import Classifier, ImageDiscriminator, predict
from .runtime import pick_device
from .warps import Warps

GAME_EVERY, GAME_SHARE = 4, 4  # the game is played each 4th step, on a quarter of the batch: it is the costly part
GAME_LR = {"warps": 5e-4, "discriminator": 1e-3}
TEACHER_MEMORY = 0.99  # share of the teacher's weights that a step keeps; the newer at the start
LOOKED_AT = 512  # cubes at most that an evaluation during training predicts, or whose spectra are measured


@dataclass
class Fit:
    """A trained classifier with everything a reader may want to see of its training.

    Attributes
    ----------
    model : Classifier on the CPU, eval mode, holding the weights of step `selected`
    history : lists of equal length per evaluation point: step, each term's mean since the last point, source_val_acc,
        im_score, seconds
    candidates : step -> state_dict, one per evaluation point, the last step among them
    warps : the warp modules as trained, or None
    """

    method: str
    model: Classifier
    history: dict[str, list[float]]
    candidates: dict[int, dict[str, Tensor]]
    selected: int
    warps: Warps | None
    cpu_seconds: float
    seconds: float
    classes: tuple[str, ...]

    def restore(self, step: int) -> Classifier:
        """Put the weights of candidate `step` into the model."""
        if step not in self.candidates:
            raise InputError(f"step={step} is no candidate; wanted one of {sorted(self.candidates)}.")
        self.model.load_state_dict(self.candidates[step])
        self.selected = step
        return self.model


def learning_rate(progress: float, peak: float) -> float:
    """Warm up linearly over the first tenth, then half a cosine down to 1 % of `peak`. It looks at no loss."""
    if progress < 0.1:
        return peak * max(progress / 0.1, 0.05)
    return peak * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * (progress - 0.1) / 0.9)))


def _spread(n_data: int, n: int) -> Tensor:
    """At most n indices, evenly spaced over the data."""
    return torch.linspace(0, n_data - 1, min(n, n_data)).round().long()


def _fingerprint(*tensors: Tensor) -> list:
    return [[list(t.shape), zlib.crc32(t.cpu().contiguous().numpy())] for t in tensors]


SAVED = ("step", "history", "recent", "candidates", "seconds", "cpu_seconds")


@dataclass
class _State:
    """A run under way. What the names in SAVED, the modules, optimisers and generator hold survives a kill."""

    modules: nn.ModuleDict
    optimisers: dict[str, torch.optim.Optimizer]
    generator: torch.Generator
    terms: dict[str, float]
    game: str | None
    batch: int
    gradual: bool
    rotations: tuple[int, ...]
    place: torch.device
    step: int = 0
    history: dict[str, list[float]] = field(default_factory=dict)
    recent: dict[str, list[float]] = field(default_factory=dict)  # term -> values since the last evaluation
    candidates: dict[int, dict[str, Tensor]] = field(default_factory=dict)
    seconds: float = 0.0
    cpu_seconds: float = 0.0

    def save(self, path: Path) -> None:
        kept = {name: getattr(self, name) for name in SAVED}
        kept["modules"], kept["generator"] = self.modules.state_dict(), self.generator.get_state()
        kept["optimisers"] = {name: optimiser.state_dict() for name, optimiser in self.optimisers.items()}
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(".partial")
        torch.save(kept, partial)
        partial.replace(path)

    def load(self, path: Path) -> None:
        kept = torch.load(path, weights_only=True, map_location="cpu")
        for name in SAVED:
            setattr(self, name, kept[name])
        self.modules.load_state_dict(kept["modules"])
        self.generator.set_state(kept["generator"])
        for name, optimiser in self.optimisers.items():
            optimiser.load_state_dict(kept["optimisers"][name])


def _check(source: Labelled, target: Unlabelled, steps: int, batch: int) -> None:
    if not isinstance(target, Unlabelled):
        raise TypeError(
            f"fit got a {type(target).__name__} as its target; wanted domains.Unlabelled, because adaptation must "
            "not be able to see a target label: keep the labels in an HeldOutLabels."
        )
    if not isinstance(source, Labelled):
        raise TypeError(f"fit got a {type(source).__name__} as its source; wanted domains.Labelled.")
    if source.x.shape[1:] != target.x.shape[1:]:
        raise InputError(
            f"Source cubes are {tuple(source.x.shape[2:])} and target cubes {tuple(target.x.shape[2:])} voxels; "
            "wanted the same box: crop the larger with volumes.crop."
        )
    counts = torch.bincount(source.y, minlength=len(source.classes))
    if int(counts.min()) == 0:
        raise InputError(f"Class {source.classes[int(counts.argmin())]!r} has no source cube; add some or drop it.")
    if len(target) < 2 or steps < 1 or batch < 2:
        raise InputError(f"{len(target)} target cubes, steps={steps}, batch={batch}; wanted at least 2, 1 and 2.")


def fit(
    method: str,
    source: Labelled,
    target: Unlabelled,
    *,
    validation: Labelled | None = None,
    steps: int = 400,
    batch: int = 32,
    lr: float = 3e-3,
    weight_decay: float = 1e-2,
    encoder: str = "strided",
    width: int = 8,
    seed: int = 0,
    device: str = "auto",
    folder: Path | None = None,
    progress: bool = True,
    checkpoint_every: int = 50,
    evaluate_every: int = 50,
    without: tuple[str, ...] = (),
    weights: dict[str, float] | None = None,
    rotations: tuple[int, ...] = (0, 1, 2, 3),
) -> Fit:
    """Train `method` on labelled source cubes and unlabelled target cubes of one box size.

    Parameters
    ----------
    method : a name in :data:`methods.METHODS`
    validation : labelled source cubes not trained on; None holds out a tenth of the source
    steps, batch : optimiser steps, each on `batch` source and as many target cubes
    folder : where to keep checkpoints. The same call again loads a finished run and continues an interrupted one, to
        the numbers of an uninterrupted run (bit-equal on the CPU with the same number of threads)
    without : terms and warps to leave out, e.g. ("spectrum",)
    weights : other weights for the method's terms, e.g. {"mada": 0.3}
    rotations : those that a source cube may be given, see :func:`augment`; a target cube, whose tilts may be lopsided, is
        turned about the tilt axis y at most. (0, 1) where the tilt axis is not y

    Raises
    ------
    TypeError
        where the target is anything but Unlabelled.
    InputError
        for an unknown method or term, boxes that differ, a class without cubes.
    """
    _check(source, target, steps, batch)
    terms, recipe = resolve(method, tuple(without))
    if set(weights or {}) - terms.keys():
        raise InputError(f"weights={sorted(weights)} names a term that {method!r} lacks; it has {', '.join(terms)}.")
    terms |= weights or {}
    place = pick_device(device)
    generator = torch.Generator().manual_seed(seed)
    if validation is None:
        order = torch.randperm(len(source), generator=generator)
        held = max(1, len(source) // 10)
        validation, source = source.subset(order[:held]), source.subset(order[held:])
    # whatever changes a number is part of the key
    config = dict(
        method=method, terms=terms, warps=recipe.warps, game=recipe.game, steps=steps, batch=batch, lr=lr, seed=seed
    )
    config |= dict(weight_decay=weight_decay, encoder=encoder, width=width, evaluate_every=evaluate_every, format=3)
    config |= dict(seed=seed, view=recipe.view, norm=recipe.norm, gradual=recipe.gradual, rotations=rotations)
    config["data"] = _fingerprint(source.x, source.y, target.x, validation.x, validation.y)
    key = hashlib.sha256(json.dumps(config, sort_keys=True).encode()).hexdigest()[:16]
    path = Path(folder) / f"{method}-{key}.pt" if folder is not None else None

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        modules = nn.ModuleDict({"model": Classifier(len(source.classes), encoder, width, recipe.norm)})
        if rival := adversary(terms, modules["model"], len(source.classes)):
            modules["adversary"] = rival
        if "teacher" in terms:
            modules["teacher"] = copy.deepcopy(modules["model"]).requires_grad_(False)
        some_s, some_t = (d.x[_spread(len(d), LOOKED_AT)] for d in (source, target))
        if recipe.warps:
            modules["warps"] = Warps(recipe.warps, some_s, some_t, generator, source.voxel_size)
            modules["warps"].requires_grad_(recipe.game is not None)
        if recipe.view:
            modules["view"] = Warps(recipe.view, some_s, some_t, generator, source.voxel_size)
        if recipe.game == "realism":
            modules["discriminator"] = ImageDiscriminator()
    modules.to(place)
    learners = [p for name in ("model", "adversary") if name in modules for p in modules[name].parameters()]
    optimisers = {"task": torch.optim.AdamW(learners, lr=lr, weight_decay=weight_decay)}
    for name, rate in GAME_LR.items() if recipe.game else ():
        if name in modules and list(modules[name].parameters()):
            optimisers[name] = torch.optim.Adam(modules[name].parameters(), lr=rate, betas=(0.5, 0.99))
    state = _State(modules, optimisers, generator, terms, recipe.game, batch, recipe.gradual, rotations, place)
    if path is not None and path.exists():
        state.load(path)
    wall, cpu = time.perf_counter() - state.seconds, time.process_time() - state.cpu_seconds
    with tqdm(total=steps, initial=state.step, desc=method, mininterval=1, ascii=True, disable=not progress) as bar:
        while state.step < steps:
            here = state.step / steps
            for group in optimisers["task"].param_groups:
                group["lr"] = learning_rate(here, lr)
            for name, value in _step(state, source, target, losses.ramp(here)).items():
                state.recent.setdefault(name, []).append(value)
            state.step += 1
            done = state.step == steps
            state.seconds, state.cpu_seconds = time.perf_counter() - wall, time.process_time() - cpu
            if done or state.step % evaluate_every == 0:
                _evaluate(state, validation, target)
            if path is not None and (done or state.step % checkpoint_every == 0):
                state.save(path)
            bar.update()
    return Fit(
        method=method,
        model=_kept(modules).cpu().eval(),
        history=state.history,
        candidates=state.candidates,
        selected=steps,
        warps=modules["warps"].cpu().eval() if "warps" in modules else None,
        cpu_seconds=state.cpu_seconds,
        seconds=state.seconds,
        classes=source.classes,
    )


def _step(state: _State, source: Labelled, target: Unlabelled, strength: float) -> dict[str, float]:
    """One step of the classifier (and its adversary), then, when it is due, one of the game. -> each term's value"""
    modules, generator, batch, terms, place = state.modules, state.generator, state.batch, state.terms, state.place
    model = modules["model"].train()
    chosen = torch.randint(len(source), (batch,), generator=generator)
    x_s, y_s = augment(source.x[chosen], generator, state.rotations).to(place), source.y[chosen].to(place)
    x_t = target.x[torch.randint(len(target), (batch,), generator=generator)]
    x_t = augment(x_t, generator, tuple(turn for turn in state.rotations if turn in (0, 2))).to(place)
    with torch.no_grad():
        teacher_probabilities = modules["teacher"](x_t).softmax(1) if "teacher" in modules else None
        seen_t = modules["view"](x_t, generator=generator) if "view" in modules else x_t
        x_w = modules["warps"](x_s, strength if state.gradual else 1.0, generator) if "warps" in modules else None
    rival = modules["adversary"] if "adversary" in modules else None
    seen = Batch(model, x_s, y_s, x_w, seen_t, strength, rival, teacher_probabilities)
    values = {name: TERMS[name](seen) for name in terms}
    loss = sum(terms[name] * value for name, value in values.items())
    state.optimisers["task"].zero_grad(set_to_none=True)
    loss.backward()
    state.optimisers["task"].step()
    if "teacher" in modules:
        keep = min(TEACHER_MEMORY, (state.step + 1) / (state.step + 10))
        for old, new in zip(modules["teacher"].parameters(), model.parameters(), strict=True):
            old.lerp_(new.detach(), 1 - keep)
    values = {name: float(value.detach()) for name, value in values.items()}
    if "warps" in state.optimisers and state.step % GAME_EVERY == 0:
        n = max(2, batch // GAME_SHARE)
        values |= _play(state, x_s[:n], y_s[:n], x_t[:n])
    return values


def _play(state: _State, x_s: Tensor, y_s: Tensor, x_t: Tensor) -> dict[str, float]:
    """One move of the warps, and in the realism game one of the image discriminator before it."""
    modules, optimisers = state.modules, state.optimisers
    warped = modules["warps"](x_s, generator=state.generator)
    if state.game == "min-max":
        gain = nn.functional.cross_entropy(modules["model"](warped), y_s)
        optimisers["warps"].zero_grad(set_to_none=True)
        (-gain).backward()  # the classifier's gradients from here are cleared before its next step
        optimisers["warps"].step()
        return {"game_warps": float(gain.detach())}
    judge = modules["discriminator"]
    caught = losses.realism(judge(x_t), True) + losses.realism(judge(warped.detach()), False)
    optimisers["discriminator"].zero_grad(set_to_none=True)
    caught.backward()
    optimisers["discriminator"].step()
    fooled = losses.realism(judge(warped), True)
    optimisers["warps"].zero_grad(set_to_none=True)
    fooled.backward()
    optimisers["warps"].step()
    return {"game_discriminator": float(caught.detach()), "game_warps": float(fooled.detach())}


def _kept(modules: nn.ModuleDict) -> Classifier:
    """The classifier that is judged and handed out: the teacher, where there is one."""
    return modules["teacher"] if "teacher" in modules else modules["model"]


def _evaluate(state: _State, validation: Labelled, target: Unlabelled) -> None:
    """Append a row to the learning curves and keep the weights; the target is looked at, its labels do not exist."""
    model, device = _kept(state.modules), str(state.place)
    few = _spread(len(validation), LOOKED_AT)
    right = predict(model, validation.x[few], device=device).argmax(1) == validation.y[few]
    p_t = predict(model, target.x[_spread(len(target), LOOKED_AT)], device=device)
    row = {"step": state.step, **{name: sum(values) / len(values) for name, values in state.recent.items()}}
    row["source_val_acc"] = float(right.float().mean())
    row["im_score"] = float(losses.information_maximisation(p_t))
    row["seconds"] = state.seconds
    earlier = len(state.candidates)
    for name in {**state.history, **row}:  # a term that took no part since the last point is NaN
        state.history.setdefault(name, [math.nan] * earlier).append(row.get(name, math.nan))
    state.recent = {}
    state.candidates[state.step] = {name: value.detach().cpu().clone() for name, value in model.state_dict().items()}
