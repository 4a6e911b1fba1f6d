"""Subtomograms that are cut from a tomogram, or simulated, when they are used: for more of them than memory holds."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm


class StreamedBoxes(Tensor):
    """A float32 tensor (N, 1, b, b, b) on the CPU without a memory of its own: its rows are made when they are indexed.

    It has the shape of a tensor, indexing along the first dimension, and `split`, which shows a progress bar; no other
    operation. An index gives an ordinary tensor. `key` names what the boxes are made from, and how.
    """

    _cut: Callable[[Tensor], Tensor]
    key: str

    @staticmethod
    def __new__(cls, cut: Callable[[Tensor], Tensor], n: int, box: int, key: str = "") -> StreamedBoxes:
        """n boxes of `box` voxels; `cut` gives those at an index (M,), the same each time, as (M, 1, box, box, box)."""
        on_cpu = torch.device("cpu")
        made = Tensor._make_wrapper_subclass(cls, (n, 1, box, box, box), dtype=torch.float32, device=on_cpu)
        made._cut = cut
        made.key = key
        return made

    def __init__(self, cut: Callable[[Tensor], Tensor], n: int, box: int, key: str = "") -> None:
        super().__init__()

    def __getitem__(self, index: Any) -> Tensor:
        rows = torch.arange(len(self), device="cpu")[index]
        return self._cut(rows) if rows.ndim else self._cut(rows[None])[0]

    def split(self, split_size: Any, dim: int = 0) -> Iterator[Tensor]:  # type: ignore[override]
        """Parts of at most `split_size` subtomograms, in their order, one in memory at a time."""
        with tqdm(total=len(self), desc="cut and predict", mininterval=1, ascii=True, unit="box") as bar:
            for start in range(0, len(self), split_size):
                part = self[start : start + split_size]
                yield part
                bar.update(len(part))

    def __reduce_ex__(self, protocol: Any) -> Any:
        return StreamedBoxes, (self._cut, len(self), self.shape[-1], self.key)

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:  # type: ignore[override]
        raise TypeError(f"{func} needs all subtomograms in memory; they are cut when used: take x[rows] or x.split(n).")
