"""Network and templates side by side: the table, the pool of both, and what a job does with them."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

import cryoshift_core as cs
from cryoshift_core.application import reuse
from cryoshift_core.application.classifier import Predictions
from cryoshift_core.application.predictions import NETWORK, TEMPLATES
from cryoshift_core.application.second_opinion import BOTH, Combination, SecondOpinion, left_out, rigid
from cryoshift_core.application.template_matching import Matches
from cryoshift_core.errors import InputError

CLASSES = ("a", "b", "ice")
SMOKE = {"profile": "smoke", "classes": ("TRiC", "apoferritin"), "box": 24, "device": "cpu"}


@pytest.fixture(scope="module")
def files(tomogram_folder):
    return {"tomogram": tomogram_folder / "tomo_7.mrc", "coordinates": tomogram_folder / "particles.star"}


def matches(best: list[int], likeness: float = 0.3) -> Matches:
    correlation = torch.full((len(best), 3), 0.1)
    correlation[torch.arange(len(best)), torch.tensor(best)] = likeness
    correlation[:, 2] = math.nan  # no template
    return Matches(CLASSES, correlation, torch.zeros(len(best), 2))


def of_network(labels: list[int], sure: float = 0.8) -> torch.Tensor:
    p = torch.full((len(labels), 3), (1 - sure) / 2)
    p[torch.arange(len(labels)), torch.tensor(labels)] = sure
    return p


def test_the_table_counts_each_pair_and_agreement_leaves_out_classes_without_a_template():
    found = SecondOpinion(Predictions(CLASSES, of_network([0, 0, 1, 2])), matches([0, 1, 1, 0]))
    counts, network, templates = found.table
    assert counts.tolist() == [[1, 1], [0, 1], [1, 0]] and network == CLASSES and templates == ["a", "b"]
    assert "agrees with the network on 67% of 3 subtomograms" in str(found)
    assert [(row.name, row.network, row.templates) for row in found.rows] == [("a", 2, 2), ("b", 1, 2)]
    assert found.columns == {TEMPLATES[0]: ["a", "b", "b", "a"], TEMPLATES[1]: ["0.3000"] * 4}
    assert found.combined is found.predictions and not found.better, "nothing is known without spike-ins"


def test_the_pool_follows_the_one_that_is_right_on_spike_ins():
    draw = np.random.default_rng(0)
    y = draw.integers(2, size=300)
    right, wrong = y.tolist(), draw.integers(2, size=300).tolist()
    by_templates = Combination.fit(of_network(wrong), matches(right), torch.from_numpy(y), (0, 1))
    by_network = Combination.fit(of_network(right), matches(wrong), torch.from_numpy(y), (0, 1))
    for pool, p, found in ((by_templates, of_network([1]), matches([0])), (by_network, of_network([0]), matches([1]))):
        assert pool.probabilities(p, found).argmax() == 0
    assert by_templates.sharpness > 10 and by_network.network > 1


def test_templates_say_which_molecule_and_the_network_whether_it_is_one():
    """Real particles resemble their template less than spike-ins do: that must not make them ice."""
    p, poor = of_network([0, 0, 2]), matches([1, 1, 0], likeness=0.12)
    pool = Combination((0, 1), network=0.5, sharpness=300.0)
    both = pool.probabilities(p, poor)
    assert torch.allclose(both.sum(1), torch.ones(3)) and torch.allclose(both[:, 2], p[:, 2])
    assert both.argmax(1).tolist() == [1, 1, 2]
    twice = p.double()
    assert torch.allclose(pool.probabilities(twice, poor), both) and torch.equal(twice, p.double()), "input is kept"


def test_only_spike_ins_of_molecules_decide_the_weights():
    draw = np.random.default_rng(0)
    y = torch.from_numpy(draw.integers(3, size=300))
    p, found = of_network(draw.integers(3, size=300).tolist()), matches(y.clamp_max(1).tolist())
    rows = (y < 2).nonzero()[:, 0]
    some = Combination.fit(p[rows], found.subset(rows), y[rows], (0, 1))
    assert Combination.fit(p, found, y, (0, 1)) == some


def test_few_labels_that_are_all_right_leave_a_doubt():
    y = torch.tensor([0, 1] * 5)
    pool = Combination.fit(of_network(y.tolist()), matches(y.tolist()), y, (0, 1))
    p = pool.probabilities(of_network([0]), matches([0]))
    assert 0.7 < float(p[0, 0]) < 0.9, "of at most 0.9, which are no ice"


def test_a_membrane_is_no_molecule():
    assert rigid(("ribosome_80S", "membrane", "ice", "TRiC")) == [0, 3]
    assert not left_out(("TRiC", "membrane"), 30_000) and not left_out(("TRiC", "apoferritin"), 20_000)
    assert "these are 20,001" in left_out(("TRiC", "apoferritin"), 20_001)[0]


def test_the_pool_keeps_the_marks_of_the_network():
    """Templates mark a third of the lamella's listed ribosomes."""
    network = Predictions(CLASSES, of_network([0, 1, 2]), torch.zeros(3), torch.tensor([True, False, True]))
    strange, pool = torch.tensor([False, True, False]), Combination((0, 1), 1.0, 0.0)
    both = SecondOpinion(network, matches([0, 1, 1]), strange, combination=pool).combined
    assert torch.equal(both.unknown, network.unknown)


@pytest.fixture(scope="module")
def result(files, tmp_path_factory):
    """Of network and templates together, the default, with the job's own network beside it."""
    folder = tmp_path_factory.mktemp("second")
    job = cs.open(**files, **SMOKE, keep=folder / "keep", out_dir=folder / "out")
    return job, job.report()


def test_a_job_pools_both_and_writes_what_the_templates_say(result):
    job, found = result
    assert found.second is not None and found.second.combination is not None
    assert torch.equal(found.predictions.probabilities, found.second.combined.probabilities)
    assert not torch.equal(found.predictions.probabilities, found.second.predictions.probabilities)
    assert found.used == BOTH and found.spike_in[BOTH] is found.second.of_both
    assert found.classifier.recipe["method"] in found.spike_in, "the network's own score stays"
    assert f"({BOTH};" in str(found) and BOTH in job.classify().fractions
    text = (found.folder / "predictions.star").read_text()
    assert all(f"_{name} " in text for name in (NETWORK, *TEMPLATES))
    assert NETWORK not in replace(found.second, pooled=False).columns
    page = (found.folder / "report.html").read_text()
    assert "Second opinion: template matching" in page and "of network and templates together" in page
    assert "are those of both together" in page and not found.second.warnings
    assert "second_opinion" in job.classify().figures()
    assert "template_agreement" in found.numbers and "template_spike_balanced_accuracy" in found.numbers


def test_the_network_answers_alone_where_it_is_asked_to(files, result):
    job, _ = result
    beside, off = (cs.open(**files, **SMOKE, templates=name, keep=job.kept) for name in ("beside", "off"))
    assert torch.equal(beside.predict()[0].probabilities, off.predict()[0].probabilities)
    assert beside.match() is not None and off.match() is None and off.classify().second is None
    assert "template" not in str(off.classify()) and BOTH not in beside.judge().scores


def test_the_saved_model_answers_with_templates_again_or_says_why_not(files, result):
    _, found = result
    path = found.folder / "model.safetensors"
    again, alone = (cs.open(**files, model=path, device="cpu", templates=name) for name in ("combined", "beside"))
    told = torch.stack([again.predict()[0].probabilities, found.predictions.probabilities])
    torch.testing.assert_close(*told, atol=0.02, rtol=0)  # frequencies were weighted by a part of the same boxes
    assert again.match().answers and alone.match() is None
    assert not any("alone" in warning for job in (again, alone) for warning in job.judge().warnings)
    network = found.second.predictions.probabilities
    assert torch.equal(alone.predict()[0].probabilities, network)


def test_a_saved_model_of_a_file_needs_the_file_to_compare_templates(files, result, tmp_path):
    _, found = result
    saved = replace(found.classifier, classes=("TRiC", "mine"))
    assert reuse.sources(saved, "") == () == reuse.sources(saved, "TRiC,gone/mine.mrc")
    (tmp_path / "mine.mrc").touch()
    assert reuse.sources(saved, f"{tmp_path}/mine.mrc, TRiC") == ("TRiC", f"{tmp_path}/mine.mrc")
    assert "answered together" in reuse.template_warnings(saved)[0]
    assert reuse.template_warnings(replace(saved, recipe={})) == []


def test_beside_a_membrane_one_molecule_leaves_the_answer_to_the_network(files, tmp_path):
    job = cs.open(**files, **{**SMOKE, "classes": ("TRiC", "membrane")}, keep=tmp_path)
    second = job.match()
    assert second is not None and second.combination is None and second.score is not None
    assert job.predict()[0] is second.predictions and BOTH not in job.judge().scores and not second.warnings


def test_templates_need_two_structures(files, tmp_path):
    job = cs.open(**files, **{**SMOKE, "classes": ("TRiC", "ice")}, keep=tmp_path)
    assert job.match() is None and job.classify().second is None


def test_other_names_are_refused(files):
    with pytest.raises(InputError, match="combined, beside, off"):
        cs.open(**files, **{**SMOKE, "templates": "both"})
