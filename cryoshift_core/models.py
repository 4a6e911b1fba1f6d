"""Networks: classifiers and discriminators, free of the box size and cheap on two CPU cores.

The default normalisation is GroupNorm. It looks at one subtomogram at a time, so that the two domains never share a
statistic and a prediction does not depend on the rest of its batch. ``norm="batch"`` exists as a baseline: it is always
given one domain at a time, and :func:`outputs` normalises with the statistics of what it is given.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .errors import InputError
from .support.runtime import pick_device

SMALLEST_BOX, LARGEST_BOX = 16, 96
GROUPS = 4
NORMS: dict[str, Callable[[int], nn.Module]] = {
    "group": lambda channels: nn.GroupNorm(GROUPS, channels),
    "batch": nn.BatchNorm3d,
}


class ResidualBlock(nn.Module):
    """Two 3^3 convolutions, each after a normalisation and ReLU, beside a (pooled) shortcut; `stride` 1 or 2."""

    def __init__(self, n_in: int, n_out: int, stride: int = 1, norm: str = "group"):
        super().__init__()
        self.norm1, self.norm2 = NORMS[norm](n_in), NORMS[norm](n_out)
        self.conv1 = nn.Conv3d(n_in, n_out, 3, stride=stride, padding=1, bias=False)
        self.conv2 = nn.Conv3d(n_out, n_out, 3, padding=1, bias=False)
        self.shortcut = nn.Identity() if n_in == n_out else nn.Conv3d(n_in, n_out, 1, bias=False)
        self.stride = stride

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv1(F.relu(self.norm1(x), inplace=True))
        h = self.conv2(F.relu(self.norm2(h), inplace=True))
        # ceil_mode keeps the shortcut's size equal to that of a strided convolution for odd boxes
        kept = F.avg_pool3d(x, 2, ceil_mode=True) if self.stride == 2 else x
        return h + self.shortcut(kept)


def strided_layers(width: int, norm: str) -> nn.Sequential:
    """Layers of the default encoder: the first one halves the resolution, where a 3-D network is most expensive."""
    return nn.Sequential(
        nn.Conv3d(1, width, 3, stride=2, padding=1),
        ResidualBlock(width, 2 * width, stride=2, norm=norm),
        ResidualBlock(2 * width, 4 * width, stride=2, norm=norm),
        ResidualBlock(4 * width, 4 * width, norm=norm),
        NORMS[norm](4 * width),
        nn.ReLU(inplace=True),
    )


def light_layers(width: int, norm: str) -> nn.Sequential:
    """Plain convolution and pooling, in the spirit of the light variant of Bandyopadhyay et al. (2022)."""
    layers: list[nn.Module] = []
    n_in = 1
    for n_out in (width, 2 * width, 4 * width):
        layers += [nn.Conv3d(n_in, n_out, 3, padding=1), NORMS[norm](n_out), nn.ReLU(), nn.MaxPool3d(2)]
        n_in = n_out
    return nn.Sequential(*layers)


class PooledEncoder(nn.Module):
    """Convolutional layers, then the mean and the maximum over the box of each channel: any box of 16 to 96 voxels."""

    def __init__(self, layers: nn.Module, channels: int):
        super().__init__()
        self.layers = layers
        self.n_features = 2 * channels

    def features(self, x: Tensor) -> Tensor:
        """Subtomograms (N, 1, Z, Y, X) -> features (N, n_features)."""
        if x.ndim != 5 or x.shape[1] != 1 or min(x.shape[2:]) < SMALLEST_BOX or max(x.shape[2:]) > LARGEST_BOX:
            raise InputError(
                f"Expected subtomograms (N, 1, Z, Y, X) with {SMALLEST_BOX} to {LARGEST_BOX} voxels a side, "
                f"got shape {tuple(x.shape)}."
            )
        h = self.layers(x)
        return torch.cat([h.mean((2, 3, 4)), h.amax((2, 3, 4))], dim=1)


# Name -> encoder of a width (channels of the first layer) and a normalisation out of NORMS. An encoder is an nn.Module
# with `features`, (N, 1, Z, Y, X) -> (N, F), and `n_features`, F.
ENCODERS: dict[str, Callable[[int, str], nn.Module]] = {
    "strided": lambda width, norm: PooledEncoder(strided_layers(width, norm), 4 * width),
    "light": lambda width, norm: PooledEncoder(light_layers(width, norm), 4 * width),
}


class Network(nn.Module):
    """Classifier network: an encoder, a LayerNorm over its features, and a linear head.

    Parameters
    ----------
    n_classes : K
    encoder : a name out of ENCODERS, or an nn.Module with `features(x) -> (N, F)` and `n_features`, F
    width : channels of the first layer of a named encoder, a multiple of 4
    norm : "group", or "batch" for the baseline of adaptive batch normalisation (Li et al. 2018)
    """

    encoder: Any  # an nn.Module with features and n_features

    def __init__(self, n_classes: int, encoder: str | nn.Module = "strided", width: int = 8, norm: str = "group"):
        super().__init__()
        if isinstance(encoder, nn.Module):
            if not callable(getattr(encoder, "features", None)) or not isinstance(
                getattr(encoder, "n_features", None), int
            ):
                raise InputError(
                    f"Expected an encoder with features(x) -> (N, F) and the number n_features, got "
                    f"{type(encoder).__name__} without: add both."
                )
            self.encoder = encoder
        else:
            if encoder not in ENCODERS:
                raise InputError(f"Expected an encoder out of {', '.join(ENCODERS)}, or an nn.Module, got {encoder!r}.")
            if width < GROUPS or width % GROUPS:
                raise InputError(f"Expected a width that is a positive multiple of {GROUPS}, such as 8, got {width}.")
            self.encoder = ENCODERS[encoder](width, norm)
        self.n_features = int(self.encoder.n_features)
        self.normalisation = norm
        self.norm = nn.LayerNorm(self.n_features)  # bounds the scale of the features for the adversary
        self.classify = nn.Linear(self.n_features, n_classes)

    def features(self, x: Tensor) -> Tensor:
        """Subtomograms (N, 1, Z, Y, X) -> features (N, F)."""
        return self.norm(self.encoder.features(x))

    def head(self, features: Tensor) -> Tensor:
        """Features (N, F) -> logits (N, K)."""
        return self.classify(features)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.features(x))


class ImageDiscriminator(nn.Module):
    """Patch discriminator of images: subtomograms (N, 1, Z, Y, X) -> logits (N, 1, z, y, x), positive for "target".

    The last layer is linear; the sigmoid belongs to the loss.
    """

    def __init__(self, width: int = 8):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv3d(1, width, 4, stride=2, padding=1),
            nn.LeakyReLU(0.2),
            nn.Conv3d(width, 2 * width, 4, stride=2, padding=1),
            nn.GroupNorm(GROUPS, 2 * width),
            nn.LeakyReLU(0.2),
            nn.Conv3d(2 * width, 1, 3, padding=1),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)


class DomainDiscriminator(nn.Module):
    """Domain discriminator of DANN: features (N, F) -> one logit (N,), positive for "source"."""

    def __init__(self, n_features: int, hidden: int = 32):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(n_features, hidden), nn.ReLU(), nn.Linear(hidden, 1))

    def forward(self, features: Tensor) -> Tensor:
        return self.layers(features).squeeze(1)


class ClassDiscriminators(nn.Module):
    """K domain discriminators evaluated at once: gated features (N, K, F) -> logits (N, K), positive for "source"."""

    def __init__(self, n_features: int, n_classes: int, hidden: int = 32):
        super().__init__()

        def uniform(*shape: int, fan_in: int) -> nn.Parameter:
            return nn.Parameter((2 * torch.rand(shape) - 1) / fan_in**0.5)

        self.weight1 = uniform(n_classes, n_features, hidden, fan_in=n_features)
        self.bias1 = uniform(n_classes, hidden, fan_in=n_features)
        self.weight2 = uniform(n_classes, hidden, fan_in=hidden)
        self.bias2 = nn.Parameter(torch.zeros(n_classes))

    def forward(self, gated: Tensor) -> Tensor:
        hidden = F.relu(torch.einsum("nkf,kfh->nkh", gated, self.weight1) + self.bias1)
        return torch.einsum("nkh,kh->nk", hidden, self.weight2) + self.bias2


@dataclass(frozen=True, eq=False)
class Outputs:
    """What a network says of N subtomograms: logits (N, K) and features (N, F), on the CPU."""

    logits: Tensor
    features: Tensor

    @property
    def probabilities(self) -> Tensor:
        """(N, K), softmax of the logits."""
        return self.logits.softmax(1)


@torch.no_grad()
def outputs(network: Network, x: Tensor, batch: int = 64, device: str | torch.device = "auto") -> Outputs:
    """Logits and features of subtomograms (N, 1, Z, Y, X) of one domain; the network is left in eval mode."""
    network, chosen = _settled(network, x, batch, device)
    features = torch.cat([network.features(part.to(chosen)) for part in x.split(batch)])
    logits = torch.cat([network.head(part) for part in features.split(batch)])
    return Outputs(logits.cpu(), features.cpu())


def predict(network: Network, x: Tensor, batch: int = 64, device: str | torch.device = "auto") -> Tensor:
    """Class probabilities (N, K) of subtomograms (N, 1, Z, Y, X) of one domain, on the CPU."""
    return outputs(network, x, batch, device).probabilities


def embed(network: Network, x: Tensor, batch: int = 64, device: str | torch.device = "auto") -> Tensor:
    """Features (N, F) of subtomograms (N, 1, Z, Y, X) of one domain, on the CPU."""
    return outputs(network, x, batch, device).features


def _settled(network: Network, x: Tensor, batch: int, device: str | torch.device) -> tuple[Network, torch.device]:
    """The network on its device in eval mode; batch normalisation takes the statistics of `x`."""
    chosen = pick_device(device)
    network = network.to(chosen).eval()
    batch_norms = [m for m in network.modules() if isinstance(m, nn.BatchNorm3d)]
    if batch_norms:
        for m in batch_norms:
            m.reset_running_stats()
            m.momentum = None  # a plain mean over the batches
            m.train()
        for part in x.split(batch):
            network(part.to(chosen))
        network.eval()
    return network, chosen
