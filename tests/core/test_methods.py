"""Methods: the built-in ones are complete; users add terms, adversaries, encoders and warps in one place each."""

import pytest
import torch
import torch.nn.functional as F
from helpers.toy import source, target
from torch import nn

from cryoshift_core import losses
from cryoshift_core.data import normalize
from cryoshift_core.errors import InputError
from cryoshift_core.methods import METHODS, TERMS, Batch, Method, Term, register, resolve
from cryoshift_core.models import ClassDiscriminators, DomainDiscriminator, PooledEncoder
from cryoshift_core.training import TrainingConfig, fit
from cryoshift_core.warps import WARPS, Warps

FEW = TrainingConfig(steps=6, batch=6, width=4, weight_decay=0.0, evaluations=2, candidates=2)


def train(method, config=FEW, **options):
    return fit(method, source(), target()[0], config=config, device="cpu", progress=False, **options)


def same_network(a, b):
    one, other = a.network.state_dict(), b.network.state_dict()
    return all(torch.equal(one[name], other[name]) for name in one)


def recorded(build):
    """`build`, and the list of (module, its first parameters) that it has built."""
    made = []

    def builder(n_features, n_classes):
        module = build(n_features, n_classes)
        made.append((module, {name: p.detach().clone() for name, p in module.named_parameters()}))
        return module

    return builder, made


def assert_trained(made):
    """Every parameter of the one module in `made` has moved: without weight decay only a gradient moves it."""
    ((module, first),) = made
    assert first and not [name for name, p in module.named_parameters() if torch.equal(p, first[name])]
    return module


def cdan(b: Batch, adversary: nn.Module) -> torch.Tensor:
    """Conditional adversary (Long et al. 2018, eq. 4): the discriminator sees the outer product of p and f."""
    f = torch.cat([b.features_aligned, b.features_t])
    p = b.network.head(f).softmax(1)
    outer = (p.unsqueeze(2) * f.unsqueeze(1)).flatten(1)
    return losses.dann_loss(adversary(losses.reverse_gradient(outer, b.reversal)), b.domain)


def cdan_adversary(n_features: int, n_classes: int) -> nn.Module:
    return DomainDiscriminator(n_features * n_classes)


def test_the_methods_of_the_comparison_are_all_there():
    assert {"source_only", "dann", "mada", "warp_only", "cryoshift_reference", "oracle"} <= METHODS.keys()
    assert [name for name, method in METHODS.items() if method.oracle] == ["oracle"]
    assert METHODS["oracle"].terms == METHODS["source_only"].terms
    assert {"source", "warped", "mada"} == set(dict(METHODS["cryoshift"].terms)), "what the name promises"
    terms, plain = resolve("cryoshift", without=("mada",))
    same_terms, same = resolve(METHODS["cryoshift"].unaligned)
    assert terms == same_terms and plain.warps == same.warps and plain.norm == same.norm
    assert same.own_background and not plain.unaligned, "the same without its adversaries"
    assert METHODS["cryoshift_paper"].warps == ("deformation", "noise"), "the published warps alone"
    for method in METHODS.values():
        assert {name for name, _ in method.terms} <= TERMS.keys()
        assert {*method.warps, *method.student_augmentation} <= WARPS.keys()
        assert all(weight <= 1 or (name, weight) == ("mada", 5.0) for name, weight in method.terms)
        assert any(TERMS[name].supervised for name, _ in method.terms)


def test_terms_and_warps_can_be_left_out():
    _, reference = resolve("cryoshift_reference", ("spectrum",))
    assert reference.warps == ("deformation", "noise") and reference.warp_training == "realism"
    assert resolve("warp_only", ("deformation", "spectrum", "noise"))[1].warp_training is None
    terms, student = resolve("self_training", ("optics",))
    assert student.student_augmentation == ("shift",) and terms == {"source": 1.0, "teacher": 1.0}


def test_a_warp_can_be_left_out_of_a_student_without_a_teacher():
    register("mine", terms={"source": 1.0, "mcc": 1.0}, student_augmentation=("shift", "optics"))
    assert resolve("mine", ("shift",))[1].student_augmentation == ("optics",)


@pytest.mark.parametrize(
    "wrong, words",
    [
        ({"warps": ("spectrun",)}, "a warp out of .*got 'spectrun'.*did you mean 'spectrum'"),
        ({"student_augmentation": ("shifted",)}, "a warp out of .*got 'shifted'.*did you mean 'shift'"),
        ({"warps": ("spectrum",), "warp_training": "minmax"}, "warp_training out of realism, min-max, got 'minmax'"),
        ({"norm": "layer"}, "a norm out of group, batch, got 'layer'"),
    ],
)
def test_misspelt_parts_are_refused_where_the_method_is_made_and_where_it_is_used(wrong, words):
    with pytest.raises(InputError, match=words):
        register("mine", terms={"source": 1.0}, **wrong)
    assert "mine" not in METHODS
    METHODS["mine"] = Method((("source", 1.0),), "written into the table", **wrong)
    with pytest.raises(InputError, match=words):
        train("mine")


def test_unknown_methods_and_parts_are_refused():
    with pytest.raises(InputError, match="source_only.*got 'cryo_shift'; did you mean 'cryoshift'"):
        resolve("cryo_shift")
    with pytest.raises(InputError, match=r"parts of 'dann' \(source, dann\), got \['spectrum'\]"):
        resolve("dann", ("spectrum",))
    with pytest.raises(InputError, match="leaves 'dann' no term with source labels"):
        resolve("dann", ("source",))


def test_cdan_is_one_call_and_its_adversary_trains():
    adversary, made = recorded(cdan_adversary)
    method = register("cdan", terms={"source": 1.0, "cdan": cdan}, adversary=adversary, description="Long et al. 2018")
    assert isinstance(method, Method) and METHODS["cdan"] is method
    assert method.terms == (("source", 1.0), ("cdan", 1.0)) and method.description == "Long et al. 2018"
    result = train("cdan")
    module = assert_trained(made)
    assert module.layers[0].in_features == 3 * result.network.n_features
    assert len(result.history["cdan"]) == 2 and 0.3 < result.history["cdan"][0] < 1.5, "about log 2 at first"
    assert not same_network(result, train("source_only")), "the network is trained against it"


def test_the_weight_of_a_new_term_counts():
    register("idle", terms={"source": 1.0, "cdan": cdan}, weights={"cdan": 0.0}, adversary=cdan_adversary)
    assert METHODS["idle"].terms == (("source", 1.0), ("cdan", 0.0))
    assert same_network(train("idle"), train("source_only"))
    with pytest.raises(InputError, match=r"weights of new terms \(none\), got \['mcc'\]"):
        register("other", terms={"source": 1.0, "mcc": 1.0}, weights={"mcc": 0.5})


def test_two_adversaries_train_in_one_method_each_with_its_own_parameters():
    made = {}
    for name, build in (
        ("dann", lambda n_features, n_classes: DomainDiscriminator(n_features)),
        ("mada", ClassDiscriminators),
        ("dann2", lambda n_features, n_classes: DomainDiscriminator(n_features)),
    ):
        builder, made[name] = recorded(build)
        TERMS[name] = Term(TERMS[name.removesuffix("2")].loss, builder)
    register("both", terms={"source": 1.0, "dann": 1.0, "mada": 0.5, "dann2": 1.0})
    result = train("both")
    modules = [assert_trained(made[name]) for name in ("dann", "mada", "dann2")]
    assert isinstance(modules[0], DomainDiscriminator) and isinstance(modules[1], ClassDiscriminators)
    parameters = [id(p) for module in modules for p in module.parameters()]
    assert len(parameters) == len(set(parameters)) == 4 + 4 + 4
    assert {"source", "dann", "mada", "dann2"} <= result.history.keys()
    assert result.history["dann"] != result.history["dann2"]


def test_a_term_may_bring_its_own_adversary_and_its_own_labels():
    both = Term(
        lambda b, adversary: F.cross_entropy(b.network.head(b.features_s), b.y_s) + cdan(b, adversary),
        adversary=cdan_adversary,
        supervised=True,
    )
    register("single", terms={"everything": both})
    assert train("single").history["everything"][0] > train("source_only").history["source"][0]


def test_a_term_of_a_user_may_use_the_teacher():
    seen = []

    def consistency(b):
        seen.append(b.teacher_probabilities.shape)
        return b.reversal * (b.logits_t.softmax(1) - b.teacher_probabilities).square().mean()

    register("pi", terms={"source": 1.0, "consistency": Term(consistency, teacher=True)})
    train("pi")
    assert seen == [(6, 3)] * 6


def test_names_that_are_taken_are_refused_unless_overwritten():
    register("cdan", terms={"source": 1.0, "cdan": cdan}, adversary=cdan_adversary)
    with pytest.raises(InputError, match="A method 'cdan' exists; .*overwrite=True"):
        register("cdan", terms={"source": 1.0})
    with pytest.raises(InputError, match="A term 'mcc' exists; .*overwrite=True"):
        register("mine", terms={"source": 1.0, "mcc": lambda b: b.logits_t.sum()})
    assert "mine" not in METHODS
    loss = TERMS["mcc"].loss
    register("cdan", terms={"source": 1.0, "mcc": lambda b: 0 * b.logits_t.sum()}, overwrite=True)
    assert METHODS["cdan"].terms == (("source", 1.0), ("mcc", 1.0)) and TERMS["mcc"].loss is not loss


def test_unknown_terms_get_a_suggestion_and_leave_no_trace():
    before = dict(METHODS), dict(TERMS)
    with pytest.raises(InputError, match="out of source, warped, mada.*got 'maddda'.*did you mean 'mada'"):
        register("mine", terms={"source": 1.0, "maddda": 1.0, "new": cdan})
    with pytest.raises(InputError, match="got 'warps_only'.*did you mean 'warp_only'"):
        register("mine", terms={"source": 1.0, "mada": 1.0}, unaligned="warps_only")
    assert (METHODS, TERMS) == before
    assert register("mine", terms={"source": 1.0, "mada": 1.0}, unaligned="warp_only").unaligned == "warp_only"


def test_a_method_without_source_labels_is_refused():
    with pytest.raises(InputError, match="a term with source labels, such as source or warped, got dann, mine"):
        register("mine", terms={"dann": 1.0, "mine": lambda b: b.logits_t.sum()})
    assert "mine" not in METHODS and "mine" not in TERMS


class Tiny(nn.Module):
    """A backbone as a user might write it."""

    n_features = 6

    def __init__(self):
        super().__init__()
        self.layer = nn.Conv3d(1, 6, 3, stride=2)

    def features(self, x):
        return self.layer(x).relu().mean((2, 3, 4))


def with_encoder(encoder):
    return TrainingConfig(steps=4, batch=6, width=4, evaluations=1, candidates=1, encoder=encoder)


def test_any_module_with_features_is_an_encoder():
    torch.manual_seed(0)
    encoder = Tiny()
    before = {name: value.clone() for name, value in encoder.state_dict().items()}
    result = train("mada", with_encoder(encoder))
    assert isinstance(result.network.encoder, Tiny) and result.network.n_features == 6
    trained = result.network.encoder.state_dict()
    assert not torch.equal(trained["layer.weight"], before["layer.weight"]), "a copy of it is trained"
    assert all(torch.equal(value, before[name]) for name, value in encoder.state_dict().items())
    assert encoder.training and next(encoder.parameters()).grad is None, "the given module is as it was"
    assert same_network(result, train("mada", with_encoder(encoder))), "so that the same call gives the same fit"


def test_a_pooled_stack_of_layers_is_an_encoder():
    encoder = PooledEncoder(nn.Sequential(nn.Conv3d(1, 5, 3, stride=2), nn.ReLU()), 5)
    assert train("source_only", with_encoder(encoder)).network.n_features == 10


@pytest.mark.parametrize("lacking", ["n_features", "features"])
def test_an_encoder_without_its_two_members_is_refused(lacking):
    encoder = Tiny()
    setattr(encoder, lacking, None)
    with pytest.raises(InputError, match=r"features\(x\) -> \(N, F\) and the number n_features, got Tiny without"):
        train("source_only", with_encoder(encoder))


class Inverted(nn.Module):
    """A warp as a user might write it: contrast inversion."""

    def forward(self, x, amount=1.0, generator=None):
        return x * (1 - 2 * amount)


def test_a_users_warp_is_one_entry_of_warps():
    seen = []

    def build(domains):
        seen.append((domains.source().shape, domains.target.shape, domains.voxel_size))
        return Inverted()

    WARPS["inverted"] = build
    watch = Term(lambda b: seen.append((b.x_s, b.x_w)) or F.cross_entropy(b.network.head(b.features_w), b.y_s))
    register("mine", terms={"source": 1.0, "watch": watch}, warps=("inverted",))
    result = train("mine")
    n = len(source()) - len(result.validation)
    assert seen[0] == ((n, 1, 16, 16, 16), (60, 1, 16, 16, 16), 10.0)
    assert len(seen) == 7 and all(torch.equal(x_w, -x_s) for x_s, x_w in seen[1:])
    assert list(result.warps.steps) == ["inverted"]


def test_a_later_warp_is_estimated_on_the_output_of_the_earlier_ones():
    shown = []
    WARPS["inverted"] = lambda domains: Inverted()
    WARPS["after"] = lambda domains: shown.append(domains.source()) or Inverted()
    x = normalize(torch.randn(4, 1, 16, 16, 16, generator=torch.Generator().manual_seed(0)))
    warps = Warps(("after", "inverted"), x, x, torch.Generator())
    assert torch.equal(shown[0], -x) and torch.equal(warps(x), x), "both are applied, in the order of the table"


def test_the_switched_mada_term_weights_the_loss_instead_of_the_features():
    """Of the published variant: the discriminators see plain features, and p_k weights their losses."""
    register("published", terms={"source": 1.0, "mada_loss_gated": 1.0})
    result = train("published")
    assert result.history["mada_loss_gated"][0] == pytest.approx(0.693 / 3, abs=0.08), "log 2 times the mean of p"
    assert train("mada").history["mada"][0] == pytest.approx(0.693, abs=0.1)
    assert not same_network(result, train("mada"))


def test_a_term_of_the_warped_source_in_a_method_without_warps_is_refused_and_warps_are_the_way_out():
    register("mine", terms={"warped": 1.0})
    with pytest.raises(InputError, match="the method has no warps: name some in `warps`"):
        train("mine")
    register("mine", terms={"warped": 1.0}, warps=("noise",), overwrite=True)
    assert len(train("mine").history["warped"]) == 2
