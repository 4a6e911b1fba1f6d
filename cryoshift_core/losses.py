"""Losses: plain functions of logits, features and probabilities.

Domain convention: a discriminator of features has a positive logit for "source"; the image discriminator has a positive
logit for "target" (real). All binary losses take logits, without a sigmoid before them.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor


class _ReverseGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: Tensor, coefficient: float) -> Tensor:
        ctx.coefficient = coefficient
        return x.view_as(x)

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, None]:
        return -ctx.coefficient * gradient, None


def reverse_gradient(x: Tensor, coefficient: float) -> Tensor:
    """`x` unchanged, with its gradient multiplied by `-coefficient` (Ganin & Lempitsky 2015)."""
    return _ReverseGradient.apply(x, coefficient)


def ramp(progress: float) -> float:
    """2 / (1 + exp(-10 p)) - 1 for p in [0, 1]: from 0 to nearly 1 (Ganin & Lempitsky 2015)."""
    return 2.0 / (1.0 + math.exp(-10.0 * progress)) - 1.0


def gate(features: Tensor, p: Tensor) -> Tensor:
    """p_k * f, (N, K, F), of features (N, F) and probabilities p (N, K): the inputs of the class discriminators."""
    return p.unsqueeze(2) * features.unsqueeze(1)


def mada_loss(logits_d: Tensor, domain: Tensor, weight: Tensor | None = None) -> Tensor:
    """Class-wise domain loss of multi-adversarial domain adaptation (Pei et al. 2018), averaged over classes.

    Parameters
    ----------
    logits_d : (N, K), from :class:`models.ClassDiscriminators` and features that p_k has multiplied, see :func:`gate`
    domain : (N,) float, 1 for source and 0 for target
    weight : (N, K), without gradient: p_k for ungated features (a published variant: the discriminator does not see
        which class is meant)
    """
    wanted = domain.unsqueeze(1).expand_as(logits_d)
    return F.binary_cross_entropy_with_logits(logits_d, wanted, weight=weight)


def dann_loss(logits_d: Tensor, domain: Tensor) -> Tensor:
    """Domain loss of DANN (Ganin & Lempitsky 2015): logits (N,), domain (N,) float, 1 for source."""
    return F.binary_cross_entropy_with_logits(logits_d, domain)


def coral(features_s: Tensor, features_t: Tensor) -> Tensor:
    """Squared distance of the covariances / 4 F^2 (Deep CORAL, Sun & Saenko 2016), plus that of the means / F."""

    def covariance(f: Tensor) -> Tensor:
        centred = f - f.mean(0)
        return centred.T @ centred / (len(f) - 1)

    n = features_s.shape[1]
    means = (features_s.mean(0) - features_t.mean(0)).square().mean()
    return (covariance(features_s) - covariance(features_t)).square().sum() / (4 * n * n) + means


def mmd(features_s: Tensor, features_t: Tensor, scales: tuple[float, ...] = (0.25, 0.5, 1.0, 2.0, 4.0)) -> Tensor:
    """Squared maximum mean discrepancy with Gaussian kernels around the mean distance (Long et al. 2015)."""
    n = len(features_s)
    both = torch.cat([features_s, features_t])
    distance = _squared_distances(both)
    bandwidth = distance.detach().mean().clamp_min(1e-12)
    kernel = torch.zeros_like(distance)
    for scale in scales:
        kernel = kernel + torch.exp(-distance / (scale * bandwidth))
    kernel = kernel / len(scales)
    return kernel[:n, :n].mean() + kernel[n:, n:].mean() - 2 * kernel[:n, n:].mean()


def _squared_distances(x: Tensor) -> Tensor:
    # the gradient of torch.cdist is undefined at distance 0, the diagonal's
    norms = x.square().sum(1)
    return (norms[:, None] + norms[None, :] - 2 * x @ x.T).clamp_min(0)


def mcc(logits_t: Tensor, temperature: float = 2.5) -> Tensor:
    """Minimum class confusion on target logits (N, K) (Jin et al. 2020)."""
    p = (logits_t / temperature).softmax(1)
    entropy = -(p * p.clamp_min(1e-8).log()).sum(1)
    certainty = 1 + torch.exp(-entropy)
    weight = (certainty * len(p) / certainty.sum()).detach()
    confusion = (p * weight.unsqueeze(1)).T @ p
    confusion = confusion / confusion.sum(1, keepdim=True)
    return (confusion.sum() - confusion.trace()) / p.shape[1]


def self_training(logits_t: Tensor, teacher_probabilities: Tensor, threshold: float = 0.8) -> Tensor:
    """Cross-entropy with the teacher's class where its probability exceeds `threshold`, mean over *all* subtomograms.

    The student (logits (N, K)) sees an augmented version of what the teacher (probabilities (N, K)) has classified; the
    teacher is a moving average of the student (Tarvainen & Valpola 2017; Sohn et al. 2020).
    """
    confidence, label = teacher_probabilities.max(1)
    each = F.cross_entropy(logits_t, label, reduction="none")
    return (each * (confidence > threshold)).mean()


def realism(logits: Tensor, real: bool) -> Tensor:
    """Binary cross-entropy of patch logits with one target value, for both sides of realism training.

    The discriminator minimises ``realism(D(target), True) + realism(D(warped), False)``, the warps minimise
    ``realism(D(warped), True)``, the non-saturating form (Goodfellow et al. 2014).
    """
    return F.binary_cross_entropy_with_logits(logits, torch.full_like(logits, float(real)))


def information_maximisation(probabilities: Tensor) -> Tensor:
    """Marginal entropy minus mean conditional entropy of p (N, K), in nats: high for confident, diverse predictions."""
    p = probabilities.clamp_min(1e-12)
    marginal = p.mean(0)
    return -(marginal * marginal.log()).sum() + (p * p.log()).sum(1).mean()
