"""Networks: any box, one subtomogram at a time, every parameter in use."""

import pytest
import torch
from torch import nn

from cryoshift_core.errors import InputError
from cryoshift_core.models import (
    ClassDiscriminators,
    DomainDiscriminator,
    ImageDiscriminator,
    Network,
    embed,
    outputs,
    predict,
)


@pytest.mark.parametrize("encoder", ["strided", "light"])
@pytest.mark.parametrize("box", [(24, 24, 24), (25, 25, 25), (33, 33, 33), (40, 40, 40), (64, 64, 64), (24, 31, 40)])
def test_one_network_takes_boxes_of_any_size(encoder, box):
    model = Network(7, encoder, width=4)
    assert model(torch.randn(2, 1, *box)).shape == (2, 7)
    assert model.features(torch.randn(2, 1, *box)).shape == (2, model.n_features)


def test_a_network_tied_to_one_box_would_fail_that_test():
    tied = nn.Sequential(nn.Conv3d(1, 4, 3, stride=2, padding=1), nn.Flatten(), nn.Linear(4 * 12**3, 7))
    tied(torch.randn(2, 1, 24, 24, 24))
    with pytest.raises(RuntimeError):
        tied(torch.randn(2, 1, 25, 25, 25))


def _depends_on_its_batch(model, x):
    alone, together = model(x[:4]), model(torch.cat([x[:4], 5 + 3 * x[4:]]))[:4]
    return not torch.allclose(alone, together, atol=1e-4)


@pytest.mark.parametrize("encoder", ["strided", "light"])
def test_no_statistic_is_shared_by_the_subtomograms_of_a_batch(encoder):
    x = torch.randn(8, 1, 16, 16, 16)
    assert not _depends_on_its_batch(Network(3, encoder, 4).train(), x)
    assert not _depends_on_its_batch(ImageDiscriminator(4).train(), x)


def test_batch_norm_would_fail_that_test():
    defective = nn.Sequential(nn.Conv3d(1, 4, 3), nn.BatchNorm3d(4), nn.ReLU(), nn.Flatten()).train()
    assert _depends_on_its_batch(defective, torch.randn(8, 1, 16, 16, 16))


def test_all_parameters_get_gradient():
    for encoder in ("strided", "light"):
        model = Network(3, encoder, 4)
        nn.functional.cross_entropy(model(torch.randn(6, 1, 17, 17, 17)), torch.arange(6) % 3).backward()
        for name, p in model.named_parameters():
            assert p.grad is not None and p.grad.abs().max() > 0, name


def test_discriminators_return_logits_of_both_signs():
    torch.manual_seed(0)
    assert ImageDiscriminator()(torch.randn(2, 1, 24, 25, 26)).shape[:2] == (2, 1)
    f = torch.randn(200, 16)
    for logits in (DomainDiscriminator(16)(f), ClassDiscriminators(16, 5)(f[:, None].expand(-1, 5, -1))):
        assert logits.min() < 0 < logits.max()


def test_class_discriminators_are_independent_networks():
    net = ClassDiscriminators(6, 3)
    f = torch.randn(4, 3, 6, requires_grad=True)
    net(f)[:, 1].sum().backward()
    assert f.grad[:, 1].abs().sum() > 0 and f.grad[:, [0, 2]].abs().sum() == 0


@pytest.mark.parametrize("bad", [torch.zeros(2, 1, 8, 8, 8), torch.zeros(2, 3, 32, 32, 32), torch.zeros(32, 32, 32)])
def test_unfit_subtomograms_are_refused(bad):
    with pytest.raises(InputError, match="Expected subtomograms .* 16 to 96 voxels.*got shape"):
        Network(3)(bad)


def test_unknown_encoder_and_width_are_refused():
    with pytest.raises(InputError, match="out of strided, light, or an nn.Module, got 'resnet'"):
        Network(3, "resnet")
    with pytest.raises(InputError, match="multiple of 4, such as 8, got 6"):
        Network(3, width=6)


def test_a_batch_normalised_network_uses_the_statistics_of_the_domain_that_it_predicts():
    torch.manual_seed(0)
    x = torch.randn(40, 1, 16, 16, 16)
    adaptive, plain = Network(3, width=4, norm="batch"), Network(3, width=4)
    both = torch.cat([x, 4 * x + 2])
    alone, mixed = predict(adaptive, x, device="cpu"), predict(adaptive, both, device="cpu")[:40]
    assert not torch.allclose(alone, mixed, atol=0.02), "its statistics are those of its input"
    assert torch.allclose(predict(plain, x, device="cpu"), predict(plain, both, device="cpu")[:40], atol=1e-5)
    assert torch.equal(alone, predict(adaptive, x, device="cpu")), "nothing is left of an earlier call"


@pytest.mark.parametrize("norm", ["group", "batch"])
def test_the_prediction_is_the_head_of_the_features(norm):
    torch.manual_seed(0)
    model, x = Network(3, width=4, norm=norm), torch.randn(9, 1, 24, 24, 24)
    features = embed(model, x, batch=4, device="cpu")
    both = outputs(model, x, batch=4, device="cpu")
    assert features.shape == (9, model.n_features) and not features.requires_grad
    assert torch.equal(features, both.features) and torch.equal(both.probabilities, both.logits.softmax(1))
    assert torch.allclose(model.head(features).softmax(1), predict(model, x, batch=4, device="cpu"), atol=1e-6)
