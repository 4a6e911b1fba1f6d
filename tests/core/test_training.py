"""Training: every parameter learns, runs are repeatable and resume exactly, and no target label can get in."""

import logging
import math
import subprocess
import sys
import time
from dataclasses import fields, replace
from types import SimpleNamespace

import pytest
import torch
from helpers.files import ROOT
from helpers.toy import CLASSES, source, target
from torch import nn

from cryoshift_core import losses, training
from cryoshift_core.data import Unlabelled, augment, crop
from cryoshift_core.errors import InputError
from cryoshift_core.methods import METHODS, TERMS, Batch, Term
from cryoshift_core.models import ENCODERS, PooledEncoder, predict
from cryoshift_core.training import TrainingConfig, learning_rate
from cryoshift_core.warps import WARPS, ShiftWarp

FEW = TrainingConfig(steps=4, batch=6, width=4, evaluations=2, candidates=2)


@pytest.fixture(scope="module")
def data():
    t, held_out = target()
    return SimpleNamespace(source=source(), target=t, validation=source(30, seed=5), held_out=held_out)


def fit(method, data, config=FEW, **options):
    options = {"validation": data.validation, "device": "cpu", "progress": False, **options}
    return training.fit(method, data.source, data.target, config=config, **options)


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


def same_network(a, b):
    return same(a.network.state_dict(), b.network.state_dict())


class Steps:
    """A loss term of value 0 that counts the steps, and interrupts the training before step `stop` is done."""

    def __init__(self):
        self.taken, self.stop = 0, None

    def __call__(self, batch):
        if self.taken == self.stop:
            raise KeyboardInterrupt
        self.taken += 1
        return 0 * batch.x_t.sum()


def counted(method):
    """Register `method` with a step counter as the method "counted"; the counter."""
    steps = Steps()
    TERMS["steps"] = Term(steps)
    METHODS["counted"] = replace(METHODS[method], terms=(*METHODS[method].terms, ("steps", 1.0)))
    return steps


def checkpoint(folder):
    (path,) = folder.rglob("state.pt")
    return torch.load(path, weights_only=True)


@pytest.mark.parametrize("method", METHODS)
def test_each_method_trains_every_parameter_and_keeps_its_curves(data, method, tmp_path):
    """Every trainable parameter moves between the first checkpoint and the last; without weight decay, a parameter
    without gradient would not."""
    config = TrainingConfig(steps=8, batch=6, width=4, weight_decay=0.0, evaluations=8, candidates=2)
    steps = counted(method)
    steps.stop = 1
    with pytest.raises(KeyboardInterrupt):
        fit("counted", data, config, folder=tmp_path)
    first = checkpoint(tmp_path)["modules"]
    steps.stop = None
    result = fit("counted", data, config, folder=tmp_path)
    last = checkpoint(tmp_path)["modules"]
    learned = {f"network.{name}" for name, p in result.network.named_parameters()}
    if METHODS[method].warp_training:
        learned |= {f"warps.{name}" for name, p in result.warps.named_parameters()}
    learned |= {name for name in last if name.startswith(("adversaries.", "discriminator."))}
    assert {name.split(".")[0] for name in last} <= {
        *("network", "adversaries", "discriminator", "teacher", "warps", "student_augmentation")
    }
    assert not [name for name in learned if torch.equal(first[name], last[name])]
    if method == "self_training":
        averaged = [name for name in last if name.startswith("teacher.")]
        assert averaged and not [name for name in averaged if torch.equal(first[name], last[name])]

    assert result.history["step"] == [1, 2, 3, 4, 5, 6, 7, 8] and list(result.candidates) == [4, 8]
    assert result.selected == 8 and result.config is config and result.validation is data.validation
    for name, values in result.history.items():
        trained = [v for v in values if not math.isnan(v)]  # warps are trained in every fourth step
        assert len(values) == 8 and trained and all(map(math.isfinite, trained)), name
        assert len(trained) == (2 if name in ("warps", "discriminator") else 8), name
    assert {"source_val_acc", "im_score", "seconds", *dict(METHODS[method].terms)} <= result.history.keys()
    assert result.cpu_seconds > 0 and result.classes == CLASSES and not result.network.training
    p = predict(result.network, data.target.x, device="cpu")
    assert p.shape == (60, 3) and torch.allclose(p.sum(1), torch.ones(60))


def test_training_learns_the_source_and_lowers_its_loss(data):
    config = TrainingConfig(steps=150, batch=12, width=4, evaluations=5, candidates=1)
    history = fit("source_only", data, config).history
    assert history["source"][-1] < 0.5 * history["source"][0] and history["source_val_acc"][-1] > 0.8


def test_a_target_with_labels_is_refused_by_type(data):
    with pytest.raises(TypeError, match="Unlabelled target, got Labelled.*label"):
        training.fit("mada", data.source, data.held_out.labelled(data.target))
    with pytest.raises(TypeError, match="Labelled source, got Unlabelled"):
        training.fit("mada", data.target, data.target)
    assert not {"y", "labels", "classes"} & {f.name for f in fields(Unlabelled)}
    assert not [f.name for f in fields(Batch) if f.name in ("y_t", "labels_t")]


def test_batches_hold_as_many_source_as_target_subtomograms(data):
    seen = []
    term = TERMS["mada"]
    loss = lambda b, adversary: seen.append((len(b.features_s), len(b.features_t))) or term.loss(b, adversary)  # noqa: E731
    TERMS["mada"] = replace(term, loss=loss)
    fit("cryoshift_reference", data)
    assert seen == [(6, 6)] * 4, "the published setting had 8 source to 4 target subtomograms"


def test_the_adversary_learns_to_separate_the_domains_and_the_features_to_mix_them():
    torch.manual_seed(0)
    f_s, f_t = torch.randn(6, 8, requires_grad=True), torch.randn(6, 8, requires_grad=True)
    net = nn.Sequential(nn.Linear(8, 1), nn.Flatten(0))

    def gradients(reversal):
        batch = Batch(nn.Module(), None, None, None, None, reversal)
        batch.features_s, batch.features_t = f_s, f_t
        return torch.autograd.grad(TERMS["dann"](batch, net), [f_s, net[0].weight])

    domain = torch.tensor([1.0] * 6 + [0.0] * 6)
    plain = torch.autograd.grad(losses.dann_loss(net(torch.cat([f_s, f_t])), domain), [f_s, net[0].weight])
    for reversal in (0.0, 0.5, 1.0):
        of_features, of_adversary = gradients(reversal)
        assert torch.allclose(of_features, -reversal * plain[0])
        assert torch.allclose(of_adversary, plain[1]), "the adversary learns at full rate from the start"


def test_the_aligned_source_features_are_those_of_the_warped_source_where_there_is_one():
    class Mean(nn.Module):
        def features(self, x):
            return x.mean((2, 3, 4))

        def head(self, features):
            return torch.cat([features, -features], 1)

    x = torch.ones(2, 1, 4, 4, 4)
    plain = Batch(Mean(), x, None, None, 3 * x, 1.0)
    warped = Batch(Mean(), x, None, 2 * x, 3 * x, 1.0)
    assert plain.reversed_features.tolist() == [[1.0], [1.0], [3.0], [3.0]]
    assert warped.reversed_features.tolist() == [[2.0], [2.0], [3.0], [3.0]]
    assert warped.domain.tolist() == [1, 1, 0, 0], "source first, as in reversed_features and probabilities"
    assert warped.probabilities[:, 0].tolist() == pytest.approx([0.982, 0.982, 0.9975, 0.9975], abs=1e-3)


@pytest.mark.parametrize("method", ["source_only", "cryoshift_reference", "warp_minmax", "cryoshift"])
def test_the_seed_decides_every_number(data, method):
    one, again, other = (fit(method, data, seed=seed) for seed in (3, 3, 4))
    assert same_network(one, again) and not same_network(one, other)
    torch.manual_seed(123)
    expected = torch.rand(1)
    torch.manual_seed(123)
    fit(method, data)
    assert torch.equal(torch.rand(1), expected), "the global generator is not used"


@pytest.mark.parametrize("method", ["cryoshift_reference", "warp_minmax", "dann", "self_training"])
@pytest.mark.parametrize("killed_at", [3, 5])
def test_an_interrupted_run_resumes_with_the_same_numbers(data, method, killed_at, tmp_path, caplog):
    config = replace(FEW, steps=6, evaluations=3, candidates=3)
    steps = counted(method)
    whole = fit("counted", data, config)
    assert steps.taken == 6
    steps.taken, steps.stop = 0, killed_at
    with pytest.raises(KeyboardInterrupt):
        fit("counted", data, config, folder=tmp_path)
    steps.taken, steps.stop = 0, None
    with caplog.at_level(logging.INFO, "cryoshift_core"):
        resumed = fit("counted", data, config, folder=tmp_path)
    last = killed_at // 2 * 2
    assert steps.taken == 6 - last, "it resumes from the last checkpoint"
    assert f"loaded from {tmp_path}" in caplog.text and f"step {last} of 6" in caplog.text
    assert same_network(whole, resumed)
    assert list(resumed.candidates) == [2, 4, 6]
    assert all(same(whole.candidates[step], resumed.candidates[step]) for step in (2, 4, 6))
    assert whole.history.keys() == resumed.history.keys()
    for name in whole.history.keys() - {"seconds"}:
        assert str(whole.history[name]) == str(resumed.history[name]), name  # as text, so that NaN equals NaN


def test_a_killed_process_loses_only_the_steps_after_its_last_checkpoint(data, tmp_path):
    """SIGKILL leaves no time to tidy up: the files on the disk must suffice."""
    config = replace(FEW, steps=160, evaluations=16)
    script = (
        "import torch; torch.set_num_threads(1)\n"
        "from helpers.toy import source, target\n"
        "from cryoshift_core.training import TrainingConfig, fit\n"
        f"config = {config!r}\n"
        f"fit('mada', source(), target()[0], validation=source(30, seed=5), folder={str(tmp_path)!r}, config=config, "
        "device='cpu', progress=False)"
    )
    child = subprocess.Popen([sys.executable, "-c", script], cwd=ROOT / "tests")
    try:
        deadline = time.monotonic() + 120
        while not list(tmp_path.rglob("state.pt")) and child.poll() is None and time.monotonic() < deadline:
            time.sleep(0.02)
    finally:
        child.kill()
        child.wait()
    assert 0 < checkpoint(tmp_path)["step"] < 160, "it was killed in the middle"
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    resumed = fit("mada", data, config, folder=tmp_path)
    whole = fit("mada", data, config)
    torch.set_num_threads(threads)
    assert len(list(tmp_path.iterdir())) == 1, "the same fit in another process has the same folder"
    assert same_network(whole, resumed) and whole.history["mada"] == resumed.history["mada"]


def test_a_finished_run_is_loaded(data, tmp_path):
    steps = counted("source_only")
    first = fit("counted", data, folder=tmp_path)
    again = fit("counted", data, folder=tmp_path)
    assert steps.taken == 4 and same_network(first, again) and again.history == first.history
    assert again.candidates.keys() == first.candidates.keys()
    assert again.cpu_seconds == pytest.approx(first.cpu_seconds)
    assert not list(tmp_path.rglob("*.partial"))


def other_value(data):
    x = data.source.x.clone()
    x[0, 0, 0, 0, 0] += 1
    return replace(data.source, x=x)


@pytest.mark.parametrize(
    "change",
    [
        lambda data: {"config": replace(FEW, lr=1e-4)},
        lambda data: {"config": replace(FEW, weight_decay=0.0)},
        lambda data: {"config": replace(FEW, steps=5)},
        lambda data: {"config": replace(FEW, batch=7)},
        lambda data: {"config": replace(FEW, width=8)},
        lambda data: {"config": replace(FEW, encoder="light")},
        lambda data: {"config": replace(FEW, candidates=1)},
        lambda data: {"config": replace(FEW, evaluations=1)},
        lambda data: {"config": replace(FEW, rotations=(0, 1))},
        lambda data: {"config": replace(FEW, weights={"dann": 0.5})},
        lambda data: {"config": replace(FEW, without=("dann",))},
        lambda data: {"seed": 1},
        lambda data: {"validation": source(30, seed=6)},
        lambda data: {"source": other_value(data)},
        lambda data: {"source": replace(data.source, y=data.source.y.flip(0))},
        lambda data: {"source": replace(data.source, voxel_size=12.0)},
        lambda data: {"target": target(seed=2)[0]},
    ],
)
def test_another_recipe_budget_seed_or_dataset_is_another_fit(data, change, tmp_path):
    """In one folder, a fit with anything changed neither loads nor replaces the first one."""
    steps = counted("dann")
    fit("counted", data, folder=tmp_path)
    options = change(data)
    changed = SimpleNamespace(source=options.pop("source", data.source), target=options.pop("target", data.target))
    changed.validation = data.validation
    fit("counted", changed, folder=tmp_path, **options)
    assert steps.taken > 4 and len(list(tmp_path.iterdir())) == 2
    taken = steps.taken
    fit("counted", data, folder=tmp_path)
    assert steps.taken == taken, "the first one is still there"


def test_other_code_of_a_term_adversary_warp_or_encoder_is_another_fit(data, tmp_path):
    def folders():
        return len(list(tmp_path.iterdir()))

    METHODS["mine"] = replace(METHODS["dann"], terms=(("source", 1.0), ("mine", 1.0)), warps=("moved",))
    WARPS["moved"] = lambda domains: ShiftWarp()
    ENCODERS["mine"] = lambda width, norm: PooledEncoder(nn.Conv3d(1, 4, 3, stride=2), 4)
    config = replace(FEW, steps=2, encoder="mine")
    TERMS["mine"] = Term(lambda b: 0.1 * losses.mcc(b.logits_t))
    first = fit("mine", data, config, folder=tmp_path)
    TERMS["mine"] = Term(lambda b: 0.1 * losses.mcc(b.logits_t))
    assert same_network(first, fit("mine", data, config, folder=tmp_path)) and folders() == 1, "the same code again"

    TERMS["mine"] = Term(lambda b: 0.9 * losses.mcc(b.logits_t))
    second = fit("mine", data, config, folder=tmp_path)
    assert folders() == 2 and not same_network(first, second)
    loss = lambda b, adversary: losses.dann_loss(adversary(b.reversed_features).mean(1), b.domain)  # noqa: E731
    for adversary in (lambda n_in, n_classes: nn.Linear(n_in, 8), lambda n_in, n_classes: nn.Linear(n_in, 9)):
        TERMS["mine"] = Term(loss, adversary)
        fit("mine", data, config, folder=tmp_path)
    assert folders() == 4
    WARPS["moved"] = lambda domains: nn.Sequential(ShiftWarp())[0]
    fit("mine", data, config, folder=tmp_path)
    assert folders() == 5
    ENCODERS["mine"] = lambda width, norm: PooledEncoder(nn.Conv3d(1, 4, 5, stride=2), 4)
    fit("mine", data, config, folder=tmp_path)
    assert folders() == 6


class Backbone(nn.Module):
    """A user's encoder with a number that is not a parameter."""

    n_features = 4
    power = 1

    def __init__(self):
        super().__init__()
        self.layer = nn.Conv3d(1, 4, 3, stride=2)

    def features(self, x):
        return self.layer(x).relu().mean((2, 3, 4)) ** self.power


class Squared(Backbone):
    power = 2


def test_an_encoder_module_counts_with_its_weights_and_its_code(data, tmp_path):
    def run(encoder, seed):
        torch.manual_seed(seed)
        return fit("source_only", data, replace(FEW, steps=2, encoder=encoder()), folder=tmp_path)

    first = run(Backbone, 0)
    assert same_network(first, run(Backbone, 0)) and len(list(tmp_path.iterdir())) == 1
    run(Backbone, 1)
    run(Squared, 0)
    assert len(list(tmp_path.iterdir())) == 3


def test_other_code_of_the_library_is_another_fit(data, tmp_path, monkeypatch):
    steps = counted("source_only")
    fit("counted", data, folder=tmp_path)
    monkeypatch.setattr(training, "code_digest", lambda *names: "changed")
    fit("counted", data, folder=tmp_path)
    assert steps.taken == 8 and len(list(tmp_path.iterdir())) == 2
    assert {"methods", "losses", "warps", "models", "data", "fourier", "training"} <= set(training.CODE)


def test_the_bytes_of_a_checkpoint_do_not_grow_with_the_candidates_kept(data, tmp_path):
    """Twice the candidates: the state file stays as large, and each candidate is a file that is written once."""
    sizes = {}
    for n in (2, 8):
        config = replace(FEW, steps=8, evaluations=2, candidates=n)
        steps = counted("source_only")
        steps.stop = 6
        with pytest.raises(KeyboardInterrupt):
            fit("counted", data, config, folder=tmp_path / str(n))
        (folder,) = (tmp_path / str(n)).iterdir()
        written = {path.name: path.stat().st_mtime_ns for path in folder.glob("candidate_*")}
        assert len(written) == 6 * n // 8
        steps.stop = None
        fit("counted", data, config, folder=tmp_path / str(n))
        files = {path.name: path.stat() for path in folder.iterdir()}
        assert {name for name in files if name != "state.pt"} == {
            f"candidate_{step:06d}.safetensors" for step in range(8 // n, 9, 8 // n)
        }
        assert all(files[name].st_mtime_ns == time for name, time in written.items()), "earlier ones stay as they are"
        sizes[n] = {name: stat.st_size for name, stat in files.items()}
    one = sizes[2]["candidate_000004.safetensors"]
    assert abs(sizes[8]["state.pt"] - sizes[2]["state.pt"]) < 0.05 * one
    assert {size for n in sizes for name, size in sizes[n].items() if name != "state.pt"} == {one}


def test_a_candidate_is_restored_with_its_weights(data):
    result = fit("source_only", data)
    assert list(result.candidates) == [2, 4] and not same(result.candidates[2], result.candidates[4])
    assert result.restore(2) is result.network and result.selected == 2
    assert same(result.network.state_dict(), result.candidates[2])
    with pytest.raises(InputError, match=r"out of \[2, 4\], got 3"):
        result.restore(3)


def test_points_are_evenly_spaced_and_end_at_the_last_step():
    assert TrainingConfig(steps=400).points(8) == {50, 100, 150, 200, 250, 300, 350, 400}
    assert TrainingConfig(steps=10).points(3) == {3, 7, 10}
    assert TrainingConfig(steps=3).points(8) == {1, 2, 3}


def test_the_schedule_depends_on_no_loss_and_ends_low():
    values = [learning_rate(i / 100, 1.0) for i in range(101)]
    assert max(values) == pytest.approx(1.0) and values[0] < 0.1 and values[-1] < 0.02


def test_the_augmentation_keeps_the_wedge_and_the_hand():
    """A 90-degree rotation would move the missing wedge, and a single flip would mirror the molecule."""
    x = torch.randn(40, 1, 8, 8, 8, generator=torch.Generator().manual_seed(0))
    y = augment(x, torch.Generator().manual_seed(1))
    rotated = {axes: (y == x.flip(axes)).flatten(1).all(1) for axes in ((3, 4), (2, 4), (2, 3))}
    kept = (y == x).flatten(1).all(1)
    assert (kept | torch.stack(list(rotated.values())).any(0)).all()
    assert all(which.any() for which in rotated.values()) and kept.any()
    for axis in (2, 3, 4):
        assert not (y == x.flip(axis)).flatten(1).all(1).any()


def rows(x):
    """Subtomograms as a set of their bytes, the same for each of the four 180-degree rotations."""
    versions = [x, x.flip((3, 4)), x.flip((2, 4)), x.flip((2, 3))]
    return {min(v[i].numpy().tobytes() for v in versions) for i in range(len(x))}


def test_without_a_validation_set_a_tenth_of_the_source_is_held_out(data):
    """The validation set is a tenth of the source that the training never shows to the network; all the rest is."""
    trained_on = set()
    loss = TERMS["source"].loss
    TERMS["source"] = Term(lambda b: trained_on.update(rows(b.x_s)) or loss(b), supervised=True)
    config = replace(FEW, steps=40, batch=12)
    result = fit("source_only", data, config, validation=None)
    held_out, every = rows(result.validation.x), rows(data.source.x)
    assert len(result.validation) == 6 and len(held_out) == 6 and held_out <= every
    assert trained_on == every - held_out
    other = fit("source_only", data, validation=None, seed=1)
    assert rows(other.validation.x) != held_out, "the seed decides which"


def test_a_given_validation_set_leaves_the_whole_source_for_training(data):
    trained_on = set()
    loss = TERMS["source"].loss
    TERMS["source"] = Term(lambda b: trained_on.update(rows(b.x_s)) or loss(b), supervised=True)
    result = fit("source_only", data, replace(FEW, steps=40, batch=12))
    assert trained_on == rows(data.source.x) and rows(result.validation.x).isdisjoint(trained_on)


def test_the_target_is_rotated_about_the_tilt_axis_only(data):
    seen = []
    loss = TERMS["source"].loss
    TERMS["source"] = Term(lambda b: seen.append(b.x_t) or loss(b), supervised=True)
    fit("source_only", data, replace(FEW, steps=10))
    x, y = data.target.x, torch.cat(seen)
    same_as = {
        axes: (y[:, None] == x.flip(axes)[None]).flatten(2).all(2).any(1) for axes in ((), (2, 4), (3, 4), (2, 3))
    }
    assert (same_as[()] | same_as[(2, 4)]).all() and same_as[()].any() and same_as[(2, 4)].any()
    assert not same_as[(3, 4)].any() and not same_as[(2, 3)].any()


def test_bad_arguments_are_refused_before_any_work(data, tmp_path):
    def refused(message, method="mada", source=data.source, target=data.target, config=FEW):
        with pytest.raises(InputError, match=message):
            training.fit(method, source, target, config=config, device="cpu", folder=tmp_path, progress=False)

    refused("same box, got .*18, 18, 18.*data.crop", target=target(box=18)[0])
    refused("Class 'large' has no source subtomogram", source=data.source.subset(data.source.y < 2))
    refused("out of source_only.*got 'magic'", method="magic")
    refused(r"terms of 'dann' \(source, dann\), got \['mada'\]", "dann", config=replace(FEW, weights={"mada": 1.0}))
    refused("at least 2 target subtomograms.*got 1", target=data.target.subset(torch.tensor([0])))
    refused("source is bright and the target dark: negate", target=replace(data.target, contrast="dark"))
    for name, least in {"steps": 1, "batch": 2, "evaluations": 1, "candidates": 1}.items():
        refused(f"{name} of at least {least}, got {least - 1}", config=replace(FEW, **{name: least - 1}))
    assert not list(tmp_path.iterdir())


def test_the_ways_out_of_unequal_boxes_and_contrasts_work(data):
    larger = replace(data.target, x=nn.functional.pad(data.target.x, (1, 1) * 3))
    cropped = replace(larger, x=crop(larger.x, 16))
    dark = replace(data.target, x=-data.target.x, contrast="dark")
    negated = replace(dark, x=-dark.x, contrast="bright")
    first = fit("mada", data)
    for target_ in (cropped, negated):
        changed = SimpleNamespace(source=data.source, target=target_, validation=data.validation)
        assert same_network(fit("mada", changed), first)


def test_without_leaves_terms_and_warps_out(data):
    result = fit("cryoshift_reference", data, replace(FEW, without=("spectrum", "mada")))
    assert list(result.warps.steps) == ["deformation", "noise"] and "mada" not in result.history


def test_weights_change_the_loss(data):
    plain, heavy = fit("dann", data), fit("dann", data, replace(FEW, weights={"dann": 3.0}))
    assert not same_network(plain, heavy)
    assert same_network(plain, fit("dann", data, replace(FEW, weights={"dann": 1.0})))


def test_training_that_diverges_stops_and_says_what_to_do(monkeypatch):
    """From the first loss that is no number every weight is none; a network of them would predict without a word."""
    real = training._step
    monkeypatch.setattr(training, "_step", lambda state, *given: real(state, *given) | {"source": math.nan})
    with pytest.raises(InputError, match="stopped at step 0: source is no finite number.*smaller lr, or precision"):
        training.fit("source_only", source(), target()[0], config=FEW, device="cpu", progress=False)


def test_weights_that_are_no_numbers_are_not_kept(monkeypatch):
    def broken(state, *given):
        state.modules["network"].classify.weight.data.fill_(math.nan)
        return {"source": 1.0}

    monkeypatch.setattr(training, "_step", broken)
    with pytest.raises(InputError, match="classify.weight is no finite number"):
        training.fit("source_only", source(), target()[0], config=FEW, device="cpu", progress=False)
