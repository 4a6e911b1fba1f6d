"""Losses: closed forms, bounds, signs of gradients, and published mistakes that the tests would catch."""

import math

import pytest
import torch
import torch.nn.functional as F

from cryoshift_core import losses
from cryoshift_core.losses import self_training
from cryoshift_core.models import ClassDiscriminators


def test_gradient_reversal_is_the_identity_forwards_and_negative_backwards():
    x = torch.randn(5, 3, requires_grad=True)
    y = losses.reverse_gradient(x, 0.3)
    assert torch.equal(x, y)
    y.backward(torch.ones_like(y))
    assert torch.allclose(x.grad, torch.full_like(x, -0.3))


def _check_ramp(coefficient):
    assert coefficient(0.0) == 0 and coefficient(1.0) <= 1
    values = [coefficient(i / 100) for i in range(101)]
    assert all(a < b for a, b in zip(values, values[1:], strict=False)) and max(values) <= 1


def test_ramp_starts_at_0_and_never_passes_1():
    _check_ramp(losses.ramp)
    assert losses.ramp(0.1) == pytest.approx(math.tanh(0.5), abs=1e-12)
    with pytest.raises(AssertionError):  # the published setting: 100 from the first step
        _check_ramp(lambda progress: 100.0)


def _depends_on_the_class(logits_of):
    """Whether the discriminators' logits depend on how probable their class is."""
    torch.manual_seed(0)
    net, f = ClassDiscriminators(6, 3), torch.randn(4, 6)
    low, high = torch.full((4, 3), 0.05), torch.full((4, 3), 0.95)
    return not torch.allclose(logits_of(net, f, low), logits_of(net, f, high))


def test_p_k_gates_the_features():
    assert _depends_on_the_class(lambda net, f, p: net(losses.gate(f, p)))
    f, p = torch.randn(4, 6), torch.rand(4, 3)
    assert torch.allclose(losses.gate(f, p)[2, 1], p[2, 1] * f[2])


def test_mada_loss_of_an_undecided_discriminator_is_log_2_and_weights_weight_it():
    logits, p = torch.zeros(4, 3), torch.full((4, 3), 1 / 3)
    domain = torch.tensor([1.0, 1.0, 0.0, 0.0])
    assert losses.mada_loss(logits, domain).item() == pytest.approx(math.log(2))
    assert losses.mada_loss(logits, domain, weight=p).item() == pytest.approx(math.log(2) / 3)


def test_binary_losses_take_logits():
    big = torch.tensor([[40.0]])
    assert losses.realism(big, False).item() == pytest.approx(40.0)
    assert losses.dann_loss(torch.tensor([-40.0]), torch.ones(1)).item() == pytest.approx(40.0)
    assert losses.mada_loss(big, torch.zeros(1)).item() == pytest.approx(40.0)
    # the published defect, a sigmoid before a loss that applies one itself, bounds the loss of a gross mistake
    assert F.binary_cross_entropy_with_logits(torch.sigmoid(big), torch.zeros(1, 1)).item() < 2


def test_distances_are_0_for_equal_features_and_grow_with_a_shift():
    torch.manual_seed(0)
    f, g = torch.randn(64, 8), torch.randn(64, 8)
    for distance in (losses.coral, losses.mmd):
        assert distance(f, f).item() == pytest.approx(0, abs=1e-5)
        assert distance(f, g + 2) > 5 * distance(f, g).clamp_min(0)
        shifted = (g + 2).requires_grad_()
        distance(f, shifted).backward()
        assert torch.isfinite(shifted.grad).all() and shifted.grad.abs().sum() > 0


def test_coral_of_a_known_case():
    f = torch.tensor([[1.0, 0.0], [-1.0, 0.0]])  # covariance diag(2, 0)
    assert losses.coral(f, torch.zeros(2, 2)).item() == pytest.approx(4 / 16)


def test_mcc_prefers_confident_and_distinct_predictions():
    confident = 10 * torch.eye(4).repeat(5, 1)
    uniform = torch.zeros(20, 4)
    assert losses.mcc(confident) < 0.11 < losses.mcc(uniform)
    assert losses.mcc(uniform).item() == pytest.approx(0.75, abs=1e-4)


def test_information_maximisation_is_log_k_at_most_and_0_for_one_class_or_none():
    confident = torch.eye(4).repeat(5, 1)
    assert losses.information_maximisation(confident).item() == pytest.approx(math.log(4), abs=1e-5)
    collapsed = torch.eye(4)[:1].repeat(20, 1)
    assert losses.information_maximisation(collapsed).item() == pytest.approx(0, abs=1e-5)
    assert losses.information_maximisation(torch.full((20, 4), 0.25)).item() == pytest.approx(0, abs=1e-5)


def test_self_training_follows_confident_predictions_only_and_trains_the_student_alone():
    logits = torch.zeros(4, 3, requires_grad=True)
    teacher_probabilities = torch.tensor(
        [[0.9, 0.05, 0.05], [0.1, 0.1, 0.8001], [0.5, 0.3, 0.2], [0.34, 0.33, 0.33]], requires_grad=True
    )
    loss = self_training(logits, teacher_probabilities)
    assert loss.item() == pytest.approx(2 / 4 * math.log(3))
    loss.backward()
    assert teacher_probabilities.grad is None and logits.grad[2:].abs().max() == 0
    assert logits.grad[0, 0] < 0 < logits.grad[0, 1] and logits.grad[1, 2] < 0


def test_information_maximisation_does_not_depend_on_the_order_of_the_classes():
    p = torch.randn(50, 4, generator=torch.Generator().manual_seed(0)).softmax(1)
    one, other = (losses.information_maximisation(q).item() for q in (p, p[:, [2, 0, 3, 1]]))
    assert one == pytest.approx(other, abs=1e-6) and one > 0.01
