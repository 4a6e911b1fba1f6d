import math
import subprocess
import sys
import time
from dataclasses import fields

import pytest
import torch
from helpers.files import ROOT
from helpers.toy import CLASSES, source, target
from torch import nn

from cryoshift_core import losses, methods, training
from cryoshift_core.data import Labelled, Unlabelled, augment
from cryoshift_core.errors import InputError
from cryoshift_core.models import predict
from cryoshift_core.training import fit, learning_rate

FEW = dict(steps=4, batch=6, width=4, evaluate_every=2, checkpoint_every=2, progress=False, device="cpu")


@pytest.fixture(scope="module")
def domains():
    t, key = target()
    return source(), t, source(30, seed=5), key


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


@pytest.mark.parametrize("method", methods.METHODS)
def test_each_method_trains_every_parameter_and_keeps_its_curves(domains, method, monkeypatch):
    s, t, v, _ = domains
    largest = {}
    step = training._step

    def watched(state, *args):
        if not largest:
            for name, p in state.modules.named_parameters():
                if not p.requires_grad:  # a teacher learns by averaging
                    continue
                largest[name] = 0.0
                p.register_hook(lambda g, name=name: largest.update({name: max(largest[name], float(g.abs().max()))}))
        return step(state, *args)

    monkeypatch.setattr(training, "_step", watched)
    result = fit(method, s, t, validation=v, **{**FEW, "steps": 8, "evaluate_every": 4})
    assert all(gradient > 0 for gradient in largest.values()), [k for k, g in largest.items() if g == 0]
    assert result.history["step"] == [4, 8] and list(result.candidates) == [4, 8] and result.selected == 8
    for values in result.history.values():
        assert len(values) == 2 and all(math.isfinite(x) for x in values)
    assert result.cpu_seconds > 0 and result.classes == CLASSES and not result.model.training
    p = predict(result.model, t.x)
    assert p.shape == (60, 3) and torch.allclose(p.sum(1), torch.ones(60))


def test_a_target_with_labels_is_refused_by_type(domains):
    s, t, v, key = domains
    with pytest.raises(TypeError, match="Labelled.*Unlabelled.*label"):
        fit("mada", s, key.join(t), validation=v, **FEW)
    with pytest.raises(TypeError, match="source"):
        fit("mada", t, t, validation=v, **FEW)
    assert not {"y", "labels", "classes"} & {f.name for f in fields(Unlabelled)}


def test_batches_are_balanced(domains, monkeypatch):
    s, t, v, _ = domains
    seen = []
    term = methods.TERMS["mada"]
    monkeypatch.setitem(methods.TERMS, "mada", lambda b: seen.append((len(b.features_s), len(b.features_t))) or term(b))
    fit("cryoshift_reference", s, t, validation=v, **FEW)
    assert set(seen) == {(6, 6)}, "the published setting had 8 source cubes to 4 target cubes"


def test_adversary_learns_to_tell_the_domains_and_the_features_to_hide_them(domains):
    torch.manual_seed(0)
    f_s, f_t = torch.randn(6, 8, requires_grad=True), torch.randn(6, 8, requires_grad=True)
    net = nn.Sequential(nn.Linear(8, 1), nn.Flatten(0))

    def gradients(strength):
        batch = methods.Batch(nn.Module(), None, None, None, None, strength, net)
        batch.features_s, batch.features_t = f_s, f_t
        return torch.autograd.grad(methods.TERMS["dann"](batch), [f_s, net[0].weight])

    plain = torch.autograd.grad(
        losses.dann_loss(net(torch.cat([f_s, f_t])), torch.tensor([1.0] * 6 + [0.0] * 6)), [f_s, net[0].weight]
    )
    for strength in (0.0, 0.5, 1.0):
        of_features, of_adversary = gradients(strength)
        assert torch.allclose(of_features, -strength * plain[0])
        assert torch.allclose(of_adversary, plain[1]), "the adversary learns at full rate from the start"


@pytest.mark.parametrize("method", ["source_only", "cryoshift_reference", "warp_minmax"])
def test_same_seed_same_numbers_other_seed_other_numbers(domains, method):
    s, t, v, _ = domains
    one, again, other = (fit(method, s, t, validation=v, seed=seed, **FEW) for seed in (3, 3, 4))
    assert same(one.model.state_dict(), again.model.state_dict())
    assert not same(one.model.state_dict(), other.model.state_dict())
    torch.manual_seed(123)
    expected = torch.rand(1)
    torch.manual_seed(123)
    fit(method, s, t, validation=v, **FEW)
    assert torch.equal(torch.rand(1), expected), "the global generator is left alone"


@pytest.mark.parametrize("method", ["cryoshift_reference", "warp_minmax", "dann"])
@pytest.mark.parametrize("killed_at", [3, 5])
def test_a_killed_run_continues_to_the_same_numbers(domains, method, killed_at, tmp_path, monkeypatch):
    s, t, v, _ = domains
    options = {**FEW, "steps": 6}
    whole = fit(method, s, t, validation=v, **options)
    step = training._step

    def dies(state, *args):
        if state.step == killed_at:
            raise KeyboardInterrupt
        return step(state, *args)

    monkeypatch.setattr(training, "_step", dies)
    with pytest.raises(KeyboardInterrupt):
        fit(method, s, t, validation=v, folder=tmp_path, **options)
    taken = []
    monkeypatch.setattr(training, "_step", lambda *a: taken.append(1) or step(*a))
    resumed = fit(method, s, t, validation=v, folder=tmp_path, **options)
    assert len(taken) == 6 - killed_at // 2 * 2, "it went on from the last checkpoint"
    assert same(whole.model.state_dict(), resumed.model.state_dict())
    assert all(same(whole.candidates[k], resumed.candidates[k]) for k in (2, 4, 6))
    assert whole.history.keys() == resumed.history.keys()
    for name in whole.history.keys() - {"seconds"}:
        assert str(whole.history[name]) == str(resumed.history[name]), name  # as text, so that NaN equals NaN


def test_a_process_killed_at_once_loses_nothing_but_the_last_steps(domains, tmp_path):
    """SIGKILL leaves no time to tidy up: what lies on the disk must do."""
    s, t, v, _ = domains
    options = {**FEW, "steps": 400, "evaluate_every": 100}
    script = (
        "import torch; torch.set_num_threads(1)\n"
        "from helpers.toy import source, target\nfrom cryoshift_core.training import fit\n"
        f"fit('mada', source(), target()[0], validation=source(30, seed=5), folder={str(tmp_path)!r}, **{options!r})"
    )
    child = subprocess.Popen([sys.executable, "-c", script], cwd=ROOT / "tests")
    try:
        deadline = time.monotonic() + 120
        while not list(tmp_path.glob("*.pt")) and time.monotonic() < deadline:
            time.sleep(0.02)
    finally:
        child.kill()
        child.wait()
    (kept,) = tmp_path.glob("*.pt")
    reached = torch.load(kept, weights_only=True)["step"]
    assert 0 < reached < 400, "it was killed in the middle"
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    resumed = fit("mada", s, t, validation=v, folder=tmp_path, **options)
    whole = fit("mada", s, t, validation=v, **options)
    torch.set_num_threads(threads)
    assert same(whole.model.state_dict(), resumed.model.state_dict())
    assert whole.history["mada"] == resumed.history["mada"]


def test_a_finished_run_is_loaded_and_another_configuration_is_not(domains, tmp_path, monkeypatch):
    s, t, v, _ = domains
    first = fit("source_only", s, t, validation=v, folder=tmp_path, **FEW)
    taken = []
    step = training._step
    monkeypatch.setattr(training, "_step", lambda *a: taken.append(1) or step(*a))
    again = fit("source_only", s, t, validation=v, folder=tmp_path, **FEW)
    assert not taken and same(first.model.state_dict(), again.model.state_dict())
    assert again.cpu_seconds == pytest.approx(first.cpu_seconds)
    fit("source_only", s, t, validation=v, folder=tmp_path, **{**FEW, "lr": 1e-4})
    other = Labelled(s.x.clone(), s.y, s.classes, s.voxel_size, s.snr, s.groups)
    other.x[0, 0, 0, 0, 0] += 1
    fit("source_only", other, t, validation=v, folder=tmp_path, **FEW)
    assert len(taken) == 8 and len(list(tmp_path.glob("*.pt"))) == 3 and not list(tmp_path.glob("*.partial"))


def test_the_schedule_looks_at_no_loss_and_ends_low():
    values = [learning_rate(i / 100, 1.0) for i in range(101)]
    assert max(values) == pytest.approx(1.0) and values[0] < 0.1 and values[-1] < 0.02


def test_augmentation_keeps_the_wedge_and_the_hand():
    """A 90-degree turn would move the missing wedge, and a single flip would mirror the molecule."""
    x = torch.randn(40, 1, 8, 8, 8, generator=torch.Generator().manual_seed(0))
    y = augment(x, torch.Generator().manual_seed(1))
    turned = {axes: (y == x.flip(axes)).flatten(1).all(1) for axes in ((3, 4), (2, 4), (2, 3))}
    kept = (y == x).flatten(1).all(1)
    assert (kept | torch.stack(list(turned.values())).any(0)).all()
    assert all(which.any() for which in turned.values()) and kept.any()
    for axis in (2, 3, 4):
        assert not (y == x.flip(axis)).flatten(1).all(1).any()


def test_validation_is_held_out_of_the_source_where_none_is_given(domains):
    s, t, _, _ = domains
    assert fit("source_only", s, t, **FEW).history["source_val_acc"]


def test_bad_arguments_are_refused_before_any_work(domains):
    s, t, v, _ = domains
    with pytest.raises(InputError, match="same box"):
        fit("mada", s, target(box=18)[0], validation=v, **FEW)
    with pytest.raises(InputError, match="large"):
        fit("mada", s.subset(s.y < 2), t, validation=v, **FEW)
    with pytest.raises(InputError, match="unknown"):
        fit("magic", s, t, validation=v, **FEW)
    with pytest.raises(InputError, match="mada"):
        fit("dann", s, t, validation=v, weights={"mada": 1.0}, **FEW)


def test_without_leaves_a_warp_out(domains):
    s, t, v, _ = domains
    result = fit("cryoshift_reference", s, t, validation=v, without=("spectrum", "mada"), **FEW)
    assert list(result.warps.steps) == ["deformation", "noise"] and "mada" not in result.history
