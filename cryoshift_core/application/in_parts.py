"""What networks say of streamed boxes, part by part, so that an interrupted prediction goes on."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from tqdm import tqdm

from ..data import ROTATIONS_180
from ..models import Network, Outputs, outputs
from ..support.runtime import atomic
from ..support.streamed import StreamedBoxes

PART = 256  # subtomograms that are cut, predicted and kept together


def outputs_of(
    networks: Sequence[Network],
    x: Tensor,
    *,
    device: str | torch.device = "auto",
    keep: Path | None = None,
    rotations: Sequence[int] = (0,),
) -> list[Outputs]:
    """Logits and features of subtomograms (N, 1, Z, Y, X) for each network, on the CPU.

    Streamed boxes are cut once for all networks, in parts. A network with batch normalisation takes its statistics
    from all subtomograms, so it cuts them itself.

    Parameters
    ----------
    keep : folder where each part of streamed boxes is kept, and looked for; None: nowhere
    rotations : names out of `data.ROTATIONS_180`: the logits are the logarithm of the mean probability over these
        rotations of each subtomogram, and the features those of the first
    """
    whole = any(isinstance(module, nn.BatchNorm3d) for network in networks for module in network.modules())
    if whole or not isinstance(x, StreamedBoxes):
        return [_averaged(network, x, device, rotations) for network in networks]
    name = _digest(networks, x, rotations)
    parts: list[list[Outputs]] = []
    with tqdm(total=len(x), desc="cut and predict", mininterval=1, ascii=True, unit="box") as bar:
        for start in range(0, len(x), PART):
            end = min(start + PART, len(x))
            path = None if keep is None else keep / f"{name}_{start}_{end}.safetensors"
            found = None if path is None else _read(path)
            if found is None:
                boxes = x[start:end]
                found = [_averaged(network, boxes, device, rotations) for network in networks]
                if path is not None:
                    _write(path, found)
            parts.append(found)
            bar.update(end - start)
    return [
        Outputs(torch.cat([one.logits for one in each]), torch.cat([one.features for one in each]))
        for each in zip(*parts, strict=True)
    ]


def _averaged(network: Network, x: Tensor, device: str | torch.device, rotations: Sequence[int]) -> Outputs:
    """Outputs of one network, averaged over rotations as in :func:`outputs_of`."""
    first, *others = (
        outputs(network, x[:].flip(ROTATIONS_180[name]) if name else x, device=device) for name in rotations
    )
    if not others:
        return first
    mean = torch.stack([one.probabilities for one in (first, *others)]).mean(0)
    return Outputs(mean.log(), first.features)


def _digest(networks: Sequence[Network], x: StreamedBoxes, rotations: Sequence[int]) -> str:
    """Name of what these networks say of these boxes."""
    averaged = f" {rotations}" if len(rotations) > 1 else ""
    digest = hashlib.sha256(f"{x.key} {tuple(x.shape)}{averaged}".encode())
    for network in networks:
        for name, value in network.state_dict().items():
            digest.update(name.encode() + value.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]


def _write(path: Path, found: Sequence[Outputs]) -> None:
    with atomic(path) as partial:
        save_file({f"{name}{k}": value for k, one in enumerate(found) for name, value in vars(one).items()}, partial)


def _read(path: Path) -> list[Outputs] | None:
    """The outputs of a part; None where it is missing, or no such file."""
    try:
        with safe_open(path, framework="pt") as file:
            names = sorted(file.keys())
            count = len(names) // 2
            return [Outputs(file.get_tensor(f"logits{k}"), file.get_tensor(f"features{k}")) for k in range(count)]
    except (OSError, SafetensorError):
        return None
