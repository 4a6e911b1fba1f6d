"""Changes of a method's recipe by parameter: other weights, and parts that are left out."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from ..methods import METHODS


def parts(method: str) -> set[str]:
    """Names of the terms and warps of a method, and "own_background" where it uses that."""
    recipe = METHODS[method]
    own = {"own_background"} if recipe.own_background else set()
    return {*dict(recipe.terms), *recipe.warps, *recipe.student_augmentation} | own


def applicable(method: str, weights: Mapping[str, float], without: Iterable[str]) -> dict[str, Any]:
    """`weights` and `without` of a :class:`training.TrainingConfig`, for those parts that `method` has."""
    known = parts(method)
    left_out = tuple(name for name in without if name in known)
    terms = {name for name, _ in METHODS[method].terms} - set(left_out)
    return {"weights": {t: w for t, w in weights.items() if t in terms}, "without": left_out}
