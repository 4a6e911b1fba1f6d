import math

import pytest
import torch
import torch.nn.functional as F

from cryoshift_core import losses
from cryoshift_core.errors import InputError
from cryoshift_core.losses import self_training
from cryoshift_core.methods import METHODS, TERMS, resolve
from cryoshift_core.models import ClassDiscriminators


def test_gradient_reversal_is_the_identity_forwards_and_negative_backwards():
    x = torch.randn(5, 3, requires_grad=True)
    y = losses.reverse_gradient(x, 0.3)
    assert torch.equal(x, y)
    y.backward(torch.ones_like(y))
    assert torch.allclose(x.grad, torch.full_like(x, -0.3))


def _check_ramp(strength):
    assert strength(0.0) == 0 and strength(1.0) <= 1
    values = [strength(i / 100) for i in range(101)]
    assert all(a < b for a, b in zip(values, values[1:], strict=False)) and max(values) <= 1


def test_ramp_starts_at_0_and_never_passes_1():
    _check_ramp(losses.ramp)
    assert losses.ramp(0.1) == pytest.approx(math.tanh(0.5), abs=1e-12)
    with pytest.raises(AssertionError):  # the published setting: 100 from the first step
        _check_ramp(lambda progress: 100.0)


def _sees_the_class(logits_of):
    """Do the discriminators' logits depend on how probable their class is?"""
    torch.manual_seed(0)
    net, f = ClassDiscriminators(6, 3), torch.randn(4, 6)
    low, high = torch.full((4, 3), 0.05), torch.full((4, 3), 0.95)
    return not torch.allclose(logits_of(net, f, low), logits_of(net, f, high))


def test_p_k_gates_the_features():
    assert _sees_the_class(lambda net, f, p: net(losses.gate(f, p)))
    # the published code's variant, kept as a switch, weighs the loss: its discriminators never see p
    assert not _sees_the_class(lambda net, f, p: net(f.unsqueeze(1).expand(-1, 3, -1)))
    f, p = torch.randn(4, 6), torch.rand(4, 3)
    assert torch.allclose(losses.gate(f, p)[2, 1], p[2, 1] * f[2])


def test_mada_loss_of_an_undecided_discriminator_is_log_2_and_the_switch_weighs_it():
    logits, p = torch.zeros(4, 3), torch.full((4, 3), 1 / 3)
    domain = torch.tensor([1.0, 1.0, 0.0, 0.0])
    assert losses.mada_loss(logits, p, domain).item() == pytest.approx(math.log(2))
    assert losses.mada_loss(logits, p, domain, gated="loss").item() == pytest.approx(math.log(2) / 3)


def test_binary_losses_take_logits():
    big = torch.tensor([[40.0]])
    assert losses.realism(big, False).item() == pytest.approx(40.0)
    assert losses.dann_loss(torch.tensor([-40.0]), torch.ones(1)).item() == pytest.approx(40.0)
    assert losses.mada_loss(big, torch.ones(1, 1), torch.zeros(1)).item() == pytest.approx(40.0)
    # the published defect, BCE after a sigmoid and of a sigmoid's output again, is blind to a gross mistake
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


def test_mcc_prefers_sure_and_distinct_predictions():
    sure = 10 * torch.eye(4).repeat(5, 1)
    unsure = torch.zeros(20, 4)
    assert losses.mcc(sure) < 0.11 < losses.mcc(unsure)
    assert losses.mcc(unsure).item() == pytest.approx(0.75, abs=1e-4)


def test_information_maximisation_bounds():
    sure = torch.eye(4).repeat(5, 1)
    assert losses.information_maximisation(sure).item() == pytest.approx(math.log(4), abs=1e-5)
    collapsed = torch.eye(4)[:1].repeat(20, 1)
    assert losses.information_maximisation(collapsed).item() == pytest.approx(0, abs=1e-5)
    assert losses.information_maximisation(torch.full((20, 4), 0.25)).item() == pytest.approx(0, abs=1e-5)


def test_the_methods_of_the_frame_are_all_there():
    assert {"source_only", "dann", "mada", "warp_only", "cryoshift_reference", "oracle"} <= METHODS.keys()
    assert [name for name, method in METHODS.items() if method.oracle] == ["oracle"]
    assert METHODS["oracle"].terms == METHODS["source_only"].terms
    for method in METHODS.values():
        assert {name for name, _ in method.terms} <= TERMS.keys()
        assert all(weight <= 1 for _, weight in method.terms)


def test_a_term_warp_or_view_can_be_left_out_and_unknown_names_are_refused():
    _, reference = resolve("cryoshift_reference", ("spectrum",))
    assert reference.warps == ("deformation", "noise") and reference.game == "realism"
    assert resolve("warp_only", ("deformation", "spectrum", "noise"))[1].game is None
    terms, student = resolve("self_training", ("optics",))
    assert student.view == ("shift",) and terms.keys() == {"source", "teacher"}
    with pytest.raises(InputError, match="source_only"):
        resolve("cryo_shift")
    with pytest.raises(InputError, match="spectrum"):
        resolve("dann", ("spectrum",))
    with pytest.raises(InputError, match="labelled term"):
        resolve("dann", ("source",))


def test_self_training_follows_only_sure_answers_and_moves_the_student_alone():
    logits = torch.zeros(4, 3, requires_grad=True)
    teacher_probabilities = torch.tensor(
        [[0.9, 0.05, 0.05], [0.1, 0.1, 0.8001], [0.5, 0.3, 0.2], [0.34, 0.33, 0.33]], requires_grad=True
    )
    loss = self_training(logits, teacher_probabilities)
    assert loss.item() == pytest.approx(2 / 4 * math.log(3))
    loss.backward()
    assert teacher_probabilities.grad is None and logits.grad[2:].abs().max() == 0
    assert logits.grad[0, 0] < 0 < logits.grad[0, 1] and logits.grad[1, 2] < 0
