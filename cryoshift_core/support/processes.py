"""Several processes that train one network together, by torch.distributed: gloo on CPUs, NCCL on CUDA devices.

All processes run the same code with the same seed, so that they draw the same batches. They share the passes of a
network over a batch: each takes its part, and the results are gathered together with their gradients. Every process
then has the losses of the whole batch, also of losses that are no mean over samples. The processes are those of
`torchrun`, on any number of machines, or those that :func:`run` starts on this one.
"""

from __future__ import annotations

import atexit
import io
import os
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import cloudpickle
import torch
import torch.distributed as dist
from torch import Tensor, nn

from ..errors import InputError

LARGE = 1 << 20  # bytes; a tensor of more goes to processes as a file that they map, so that memory holds it once


class _Gather(torch.autograd.Function):
    """Parts of all processes, one after the other; the gradient of a part is the sum over the processes' losses."""

    @staticmethod
    def forward(ctx, part: Tensor, group: Group) -> Tensor:
        ctx.group = group
        parts = [torch.empty_like(part) for _ in range(group.size)]
        dist.all_gather(parts, part.contiguous())
        return torch.cat(parts)

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, None]:
        total = gradient.contiguous().clone()
        dist.all_reduce(total)
        return total.chunk(ctx.group.size)[ctx.group.rank], None


@dataclass(frozen=True)
class Group:
    """The processes that train together: `size` of them, this one is number `rank`."""

    rank: int = 0
    size: int = 1

    def shared(self, function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
        """`function(x)`, a row for each row of x; each process computes one of `size` equal parts."""
        if self.size == 1:
            return function(x)
        if len(x) % self.size:
            raise InputError(f"Expected rows that {self.size} processes can share evenly, got {len(x)}.")
        return _Gather.apply(function(x.chunk(self.size)[self.rank]), self)

    def average_gradients(self, parameters: Iterable[Tensor]) -> None:
        """Each gradient becomes its mean over the processes: that of the whole batch, see :class:`_Gather`."""
        if self.size == 1:
            return
        gradients = [p.grad for p in parameters if p.grad is not None]
        flat = torch.cat([g.flatten() for g in gradients])
        dist.all_reduce(flat)
        for g, mean in zip(gradients, (flat / self.size).split([g.numel() for g in gradients]), strict=True):
            g.copy_(mean.view_as(g))

    def same_start(self, tensors: Iterable[Tensor]) -> None:
        """The tensors of process 0 are copied to the others."""
        if self.size > 1:
            for tensor in tensors:
                dist.broadcast(tensor.detach(), 0)

    def wait(self) -> None:
        """Wait until all processes are here, such as for a file that process 0 writes."""
        if self.size > 1:
            dist.barrier()


def current() -> Group:
    """The processes that `torchrun` or :func:`run` started with this one; one process otherwise."""
    started = {"RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"} <= os.environ.keys()
    if started and not dist.is_initialized() and int(os.environ["WORLD_SIZE"]) > 1:
        gpus = torch.cuda.device_count()
        local = int(os.environ.get("LOCAL_RANK", "0"))
        if gpus:
            torch.cuda.set_device(local % gpus)
        own_gpu = gpus >= int(os.environ.get("LOCAL_WORLD_SIZE", "1"))  # NCCL wants a GPU for each process
        dist.init_process_group("cpu:gloo,cuda:nccl" if gpus and own_gpu else "gloo")
        atexit.register(dist.destroy_process_group)
    return Group(dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else Group()


def check_shared(size: int, batch: int, network: nn.Module) -> None:
    """InputError where `size` processes cannot share batches of a network and get the numbers of one process."""
    if batch % size:
        raise InputError(
            f"Expected a batch that {size} processes can share evenly, got {batch}: take {-(-batch // size) * size}."
        )
    if size > 1 and any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in network.modules()):
        raise InputError(
            f"Expected a network whose normalisation looks at one sample at a time, to train in {size} processes, got "
            "batch normalisation (as in adabn): use devices=1, or a method or an encoder with group normalisation."
        )


class _Pickler(cloudpickle.Pickler):
    """Pickles functions of scripts and notebooks by value, and large tensors as files in `folder`."""

    def __init__(self, file: io.BytesIO, folder: Path):
        super().__init__(file)
        self.folder, self.count = folder, 0

    def reducer_override(self, value: Any) -> Any:
        if type(value) is Tensor and value.device.type == "cpu" and value.nbytes > LARGE and not value.requires_grad:
            self.count += 1
            path = self.folder / f"{self.count}.bin"
            value.contiguous().numpy().tofile(path)
            return _mapped, (str(path), tuple(value.shape), value.dtype)
        return super().reducer_override(value)


def _mapped(path: str, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    return torch.from_file(path, shared=False, size=torch.Size(shape).numel(), dtype=dtype, device="cpu").view(shape)


def run(function: Callable[..., object], size: int, *args: Any, tables: Sequence[str] = (), **options: Any) -> None:
    """Call `function` with the same arguments in each of `size` new processes, which share this process's threads.

    Parameters
    ----------
    tables : dictionaries of this package, as "module.NAME", that are given to the processes as they are here

    Raises
    ------
    InputError
        one of them raised it; its message
    RuntimeError
        one of them failed otherwise; its traceback. The others are ended
    """
    with tempfile.TemporaryDirectory() as name:
        folder, content = Path(name), io.BytesIO()
        given = {name: _table(name) for name in tables}
        _Pickler(content, folder).dump((given, function, args, options))
        store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
        environment = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
            "OMP_NUM_THREADS": str(max(1, torch.get_num_threads() // size)),
            "WORLD_SIZE": str(size),
            "LOCAL_WORLD_SIZE": str(size),
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(store.port),
            "TORCHELASTIC_USE_AGENT_STORE": "True",  # this process holds the store, as torchrun does
        }
        code = f"from {__name__} import _child; _child({name!r})"
        (folder / "call").write_bytes(content.getvalue())
        children = [
            subprocess.Popen([sys.executable, "-c", code], env={**environment, "RANK": str(i), "LOCAL_RANK": str(i)})
            for i in range(size)
        ]
        try:
            while any(child.poll() is None for child in children) and not any(child.poll() for child in children):
                time.sleep(0.05)
        finally:
            for child in children:
                if child.poll() is None:
                    child.kill()
                child.wait()
        if any(child.returncode for child in children):
            _raise(folder, [child.returncode for child in children])


def _table(name: str) -> dict[str, Any]:
    module, _, table = name.rpartition(".")
    return getattr(import_module(f"cryoshift_core.{module}"), table)


def _child(folder: str) -> None:
    """What a process of :func:`run` does."""
    try:
        given, function, args, options = cloudpickle.loads((Path(folder) / "call").read_bytes())
        for table, entries in given.items():
            _table(table).update(entries)
        function(*args, **options)
    except Exception as error:
        kind = "input" if isinstance(error, InputError) else "other"
        text = str(error) if kind == "input" else traceback.format_exc()
        (Path(folder) / f"{os.environ['RANK']}.{kind}").write_text(text, encoding="utf-8")
        os._exit(1)  # without waiting for the others


def _raise(folder: Path, codes: list[int]) -> None:
    for path in sorted(folder.glob("*.input")):
        raise InputError(path.read_text(encoding="utf-8"))
    told = [f"process {path.stem}:\n{path.read_text(encoding='utf-8')}" for path in sorted(folder.glob("*.other"))]
    raise RuntimeError("\n".join(told) or f"Of {len(codes)} processes some ended early: exit codes {codes}.")
