"""Classifiers and discriminators: small, free of the box size, and cheap on two CPU cores.

The normalisation is a GroupNorm, which looks at one cube at a time: the two domains never share a statistic, and a
cube's class does not depend on the other cubes of its batch. A classifier with ``norm="batch"`` exists as a baseline:
it is always given one domain at a time, and :func:`predict` normalises with the statistics of what it predicts.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .errors import InputError
from .runtime import pick_device

SMALLEST_BOX, LARGEST_BOX = 16, 96
GROUPS = 4
NORMS = {"group": lambda channels: nn.GroupNorm(GROUPS, channels), "batch": nn.BatchNorm3d}


class ResidualBlock(nn.Module):
    """Two 3^3 convolutions, each behind a normalisation and ReLU, beside a (pooled) shortcut; `stride` 1 or 2."""

    def __init__(self, n_in: int, n_out: int, stride: int = 1, norm: str = "group"):
        super().__init__()
        self.norm1, self.norm2 = NORMS[norm](n_in), NORMS[norm](n_out)
        self.conv1 = nn.Conv3d(n_in, n_out, 3, stride=stride, padding=1, bias=False)
        self.conv2 = nn.Conv3d(n_out, n_out, 3, padding=1, bias=False)
        self.shortcut = nn.Identity() if n_in == n_out else nn.Conv3d(n_in, n_out, 1, bias=False)
        self.stride = stride

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv1(F.relu(self.norm1(x)))
        h = self.conv2(F.relu(self.norm2(h)))
        # ceil_mode keeps the shortcut's size equal to that of a strided convolution for odd boxes too
        kept = F.avg_pool3d(x, 2, ceil_mode=True) if self.stride == 2 else x
        return h + self.shortcut(kept)


def strided_encoder(width: int, norm: str) -> nn.Sequential:
    """The default: the resolution is halved by the first layer, where a 3-D network spends most of its time."""
    return nn.Sequential(
        nn.Conv3d(1, width, 3, stride=2, padding=1),
        ResidualBlock(width, 2 * width, stride=2, norm=norm),
        ResidualBlock(2 * width, 4 * width, stride=2, norm=norm),
        ResidualBlock(4 * width, 4 * width, norm=norm),
        NORMS[norm](4 * width),
        nn.ReLU(),
    )


def light_encoder(width: int, norm: str) -> nn.Sequential:
    """Plain convolution and pooling, in the spirit of the light variant of Bandyopadhyay et al. (2022)."""
    layers: list[nn.Module] = []
    n_in = 1
    for n_out in (width, 2 * width, 4 * width):
        layers += [nn.Conv3d(n_in, n_out, 3, padding=1), NORMS[norm](n_out), nn.ReLU(), nn.MaxPool3d(2)]
        n_in = n_out
    return nn.Sequential(*layers)


ENCODERS = {"strided": strided_encoder, "light": light_encoder}


class Classifier(nn.Module):
    """3-D classifier for boxes of any size from 16 to 96 voxels, odd ones too.

    Parameters
    ----------
    n_classes : K
    encoder : "strided" (default) or "light"
    width : channels of the first layer, a multiple of 4
    norm : "group", or "batch" for the baseline of adaptive batch normalisation (Li et al. 2018)
    """

    def __init__(self, n_classes: int, encoder: str = "strided", width: int = 8, norm: str = "group"):
        super().__init__()
        if encoder not in ENCODERS:
            raise InputError(f"encoder={encoder!r} is unknown; wanted one of {', '.join(ENCODERS)}.")
        if width < GROUPS or width % GROUPS:
            raise InputError(f"width={width} is not a positive multiple of {GROUPS}; take e.g. 8 or 16.")
        self.encoder = ENCODERS[encoder](width, norm)
        self.n_features = 8 * width
        self.norm = nn.LayerNorm(self.n_features)  # per cube: keeps the features' scale bounded for the adversary
        self.classify = nn.Linear(self.n_features, n_classes)

    def features(self, x: Tensor) -> Tensor:
        """Imaged (N, 1, Z, Y, X) -> features (N, F): the mean and the maximum over the box of each channel."""
        if x.ndim != 5 or x.shape[1] != 1 or min(x.shape[2:]) < SMALLEST_BOX or max(x.shape[2:]) > LARGEST_BOX:
            raise InputError(
                f"The classifier got cubes of shape {tuple(x.shape)}; wanted (N, 1, Z, Y, X) "
                f"with {SMALLEST_BOX} to {LARGEST_BOX} voxels a side."
            )
        h = self.encoder(x)
        return self.norm(torch.cat([h.mean((2, 3, 4)), h.amax((2, 3, 4))], dim=1))

    def head(self, features: Tensor) -> Tensor:
        """Features (N, F) -> logits (N, K)."""
        return self.classify(features)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.features(x))


class ImageDiscriminator(nn.Module):
    """Patch-level judge of realism: cubes (N, 1, Z, Y, X) -> logits (N, 1, z, y, x), positive for "target".

    Its end is linear, so that an undecided judge says 0; the sigmoid belongs to the loss.
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
    """Features (N, F) -> one logit (N,), positive for "source"; the adversary of DANN."""

    def __init__(self, n_features: int, hidden: int = 32):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(n_features, hidden), nn.ReLU(), nn.Linear(hidden, 1))

    def forward(self, features: Tensor) -> Tensor:
        return self.layers(features).squeeze(1)


class ClassDiscriminators(nn.Module):
    """K small networks evaluated at once: gated features (N, K, F) -> logits (N, K), positive for "source"."""

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


@torch.no_grad()
def predict(model: Classifier, x: Tensor, batch: int = 64, device: str = "cpu") -> Tensor:
    """Class probabilities (N, K) on the CPU for cubes (N, 1, Z, Y, X) of one domain."""
    model, place = _settled(model, x, batch, device)
    return torch.cat([model(part.to(place)).softmax(1).cpu() for part in x.split(batch)])


@torch.no_grad()
def embed(model: Classifier, x: Tensor, batch: int = 64, device: str = "cpu") -> Tensor:
    """Features (N, F) on the CPU for cubes (N, 1, Z, Y, X) of one domain."""
    model, place = _settled(model, x, batch, device)
    return torch.cat([model.features(part.to(place)).cpu() for part in x.split(batch)])


def _settled(model: Classifier, x: Tensor, batch: int, device: str) -> tuple[Classifier, torch.device]:
    """The model on its device, not training; batch normalisation has the statistics of these cubes."""
    place = pick_device(device)
    model = model.to(place).eval()
    batch_norms = [m for m in model.modules() if isinstance(m, nn.BatchNorm3d)]
    if batch_norms:
        for m in batch_norms:
            m.reset_running_stats()
            m.momentum = None  # a plain mean over the batches
            m.train()
        for part in x.split(batch):
            model(part.to(place))
        model.eval()
    return model, place
