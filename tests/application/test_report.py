"""The report: one page that loads nothing, escapes every name, and leaves out the sections without content."""

import base64
import io
import re
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest
import torch
from helpers.browser import CHROMIUM, browser
from matplotlib import pyplot as plt
from PIL import Image

from cryoshift_core.application import predictions, report, spike_in
from cryoshift_core.application.accuracy import expected_accuracy
from cryoshift_core.application.pictures import group_style
from cryoshift_core.application.predictions import prevalence, proportion
from cryoshift_core.application.purity import Cut
from cryoshift_core.application.target_data import TargetData
from cryoshift_core.application.verdict import DO_NOT_USE, PARTLY, USABLE, Verdict
from cryoshift_core.data import Labelled, Unlabelled
from cryoshift_core.tomography.volumes import ContrastGuess, Particles, Volume

HOSTILE = "<script>alert(1)</script>"
CLASSES = ("TRiC", f'x$_{{$"{HOSTILE}', "never seen")
N = 40


class Page(HTMLParser):
    """Tags with their attributes, and the text of the body."""

    def __init__(self, path):
        super().__init__()
        self.tags, self.text, self.ids = [], "", set()
        self.source = path.read_text(encoding="utf-8")
        self.feed(self.source)
        self.close()
        self.text = " ".join(self.text.split())

    def handle_starttag(self, tag, attrs):
        self.text += " "
        self.tags.append((tag, dict(attrs)))
        self.ids |= {value for name, value in attrs if name == "id"}

    def handle_data(self, data):
        self.text += data


@pytest.fixture
def case():
    """40 of 42 particles in a dark tomogram, two classes predicted, five of the unknown class, angles given."""
    g, rng = torch.Generator().manual_seed(0), np.random.default_rng(0)
    zyx = rng.uniform(8, 20, (N + 2, 3))
    zyx[[0, -1], 0] = 2  # too close to the border
    table = {f"rlnCoordinate{axis}": [f"{v:.2f}" for v in zyx[:, 2 - i]] for i, axis in enumerate("XYZ")}
    particles = Particles(table, zyx, angles=rng.uniform(0, 180, (N + 2, 3)), kind="star")
    volume = Volume(rng.normal(size=(28, 32, 36)).astype(np.float32), 12.5, f"in/{HOSTILE}.mrc")
    subtomograms = Unlabelled(
        torch.randn(N, 1, 10, 10, 10, generator=g), 12.5, torch.zeros(N).long(), f"mine {HOSTILE}"
    )
    guess = ContrastGuess("unsure", 0.3, "skewness +0.01 (+0.3 standard errors)")
    data = TargetData(subtomograms, np.arange(1, N + 1), particles, "dark", guess, volume)
    p = torch.tensor([[4.0, 0, -9]] * 30 + [[0.0, 3, -9]] * 10).add(torch.rand(N, 3, generator=g)).softmax(1)
    unknown = torch.zeros(N, dtype=torch.bool)
    unknown[[0, 3, 5, 31, 39]] = True
    confusion = np.array([[17, 3, 0], [2, 18, 0], [1, 0, 9]])
    labels = [(i, j) for i in range(3) for j in range(3) for _ in range(confusion[i, j])]
    y, predicted = torch.tensor(labels).T
    spikes = Labelled(torch.zeros(len(y), 1, 2, 2, 2), y, CLASSES, 12.5, torch.zeros(len(y)), y)
    score = spike_in.score(torch.eye(3)[predicted], spikes)
    verdict = Verdict(PARTLY, ("TRiC",), (f"{HOSTILE} looks like TRiC",), {CLASSES[0]: "TRiC", CLASSES[1]: "noise"})
    return {"target": data, "probabilities": p, "classes": CLASSES, "unknown": unknown, "verdict": verdict,
            "prevalence": prevalence(p, CLASSES, unknown),
            "inputs": [f"{HOSTILE}.mrc", "picks.star"], "spike_in": score}  # fmt: skip


def test_the_page_says_everything_and_fetches_nothing(tmp_path, case):
    before = plt.get_fignums()
    path = report.write(
        tmp_path / "report.html",
        **case,
        warnings=[f"look at {HOSTILE} & co"],
        cuts=[Cut(0.0, 35, 0.81, proportion(44, 50)), Cut(0.99, 0, float("nan"), None)],
        gap={"A-distance before": 1.83, "A-distance after": 0.41},
        made={"method": "cryoshift", "seed": "7", "commit": "abc123"},
        files=[tmp_path / name for name in ("predictions.star", "classes/TRiC.star", "classes/ice.star")],
    )
    page = Page(path)
    assert page.ids == {"counts", "input", "gap", "spikes", "purity", "files", "subtomograms", "limits", "made"}
    assert not {"script", "link", "iframe", "object", "base"} & {tag for tag, _ in page.tags}
    addresses = [a[name] for _, a in page.tags for name in ("src", "href", "data", "action", "srcset") if name in a]
    assert addresses and all(address.startswith("data:image/png;base64,") for address in addresses)
    assert not re.search(r"https?:|url\(|@import|\son\w+=", page.source)
    assert HOSTILE not in page.source and page.source.count("&lt;script&gt;") > 5
    for text in (
        "Verdict: usable for TRiC only.", "looks like TRiC", "By the calibrated confidences",
        "40 of 42 particles were classified: 35 into 3 classes. 5 are marked as the unknown class: they fit",
        "4 warnings", "do not show the contrast", "2 of 42 boxes reach over the border", "& co",
        "36 × 32 × 28 voxels of 12.5 Å", "10 × 10 × 10 voxels of 12.5 Å (125 Å wide)", "protein dark",
        "0 35 0.81 88.0% (76.2% to 94.4%) 0.99 0",
        "skewness +0.01", "picks.star", "A-distance after 0.41", "balanced accuracy", "85.0% (64.0% to 94.8%)",
        "No particle was assigned to this class.", "aligned by the angles", "A confidence is not an accuracy",
        "commit abc123", "unknown class 5 particles", "20 of TRiC, 20 of",
        "predictions.star every row", "classes/*.star the rows",
    ):  # fmt: skip
        assert text in page.text, text
    first = (
        "Verdict:",
        "40 of 42",
        "mistaken for",
        "4 warnings",
        "How many stay",
        "Files",
        "Accuracy on spike-ins",
        "Limits",
    )
    order = [page.text.index(text) for text in first]
    assert order == sorted(order)
    assert plt.get_fignums() == before and list(tmp_path.iterdir()) == [path]


def test_the_accuracy_to_expect_is_a_range_under_a_condition_or_unknown_with_a_reason(tmp_path, case):
    page = Page(report.write(tmp_path / "r.html", **case, expected=expected_accuracy(0.8, 0.9)))
    assert "expect a balanced accuracy of 0.75 to 0.95, if your picks are at most 2 voxels off" in page.text
    page = Page(report.write(tmp_path / "r.html", **case, expected=expected_accuracy(0.8, 0.9, fine=0.001)))
    assert "of your own particles is unknown: the tomogram seems to be denoised" in page.text
    assert "if your picks" not in page.text
    assert "to expect" not in Page(report.write(tmp_path / "r.html", **case)).text


def test_one_table_has_all_of_each_class(tmp_path, case):
    """Picture, number, fraction, recall on spike-ins, what these are mistaken for, what its average looks like."""
    page = Page(report.write(tmp_path / "r.html", **case))
    recall = {"TRiC": f"85.0% (64.0% to 94.8%) {CLASSES[1]} (15%)", CLASSES[1]: "90.0% (69.9% to 97.2%) TRiC (10%)"}
    for name, count in case["prevalence"].items():
        fraction, low, high = count.fraction
        looks = {"TRiC": " TRiC", "never seen": ""}.get(name, " noise")
        spiked = recall.get(name, "90.0% (59.6% to 98.2%) TRiC (10%)")
        assert f"{name} {count.n} {fraction:.1%} ({low:.1%} to {high:.1%}) {spiked}{looks}" in page.text, name
    shown = {
        attrs["alt"] for tag, attrs in page.tags if tag == "img" and attrs["alt"].startswith("Average of particles")
    }
    assert shown == {f"Average of particles of {name}" for name in CLASSES[:2]}, "nobody was called the third"
    marks = [tag for tag in page.tags if tag[0] == "rect" and tag[1]["class"] == "best"]
    fractions = [count.fraction.mean for count in case["prevalence"].values()]
    drawn = [float(tag[1]["x"]) + 2 for tag in marks]
    assert "the scale of the fractions ends at 90 %" in page.text, "the tenth above the highest interval"
    np.testing.assert_allclose(0.9 * np.array(drawn[::2]) / 200, fractions, atol=1e-3)
    np.testing.assert_allclose(np.array(drawn[1::2]) / 200, [0.85, 0.9, 0.9], atol=1e-3)


def test_a_class_without_spike_ins_has_no_recall(tmp_path, case):
    none = case["spike_in"].confusion.copy()
    none[2] = 0
    page = Page(report.write(tmp_path / "r.html", **case | {"spike_in": replace(case["spike_in"], confusion=none)}))
    assert "no spike-ins" in page.text and page.text.count("(10%)") == 1


def test_verdict_table_warnings_purity_and_files_are_open_and_the_rest_is_folded(tmp_path, case):
    cuts = [Cut(0.0, 35, 0.81, None)]
    page = Page(
        report.write(tmp_path / "r.html", **case, cuts=cuts, made={"seed": "7"}, files=[tmp_path / "purity.csv"])
    )
    folded = {attrs["id"] for tag, attrs in page.tags if tag == "details" and "open" not in attrs}
    assert folded == page.ids - {"counts", "purity", "files"} == {"spikes", "subtomograms", "input", "limits", "made"}


@pytest.mark.skipif(not CHROMIUM, reason="no Chromium")
def test_a_browser_prints_what_is_folded_and_cuts_nothing(tmp_path, case):
    """On screen the folded parts cannot be seen; in print they can, and nothing is wider than the page."""
    path = report.write(tmp_path / "r.html", **case, cuts=[Cut(0.0, 35, 0.81, None)], made={"seed": "7"})
    seen = "[...document.querySelectorAll('details > :not(summary)')].map(e => e.checkVisibility())"
    reach = "Math.max(...[...document.querySelectorAll('body *')].map(e => e.getBoundingClientRect().right))"
    with browser(tmp_path / "profile") as page:
        for width in (600, 1280):
            page.open(path.as_uri(), width)
            assert not any(page.evaluate(seen)) and page.evaluate(reach) <= width, width
        page.open(path.as_uri(), 718)  # A4 with margins of 1 cm at 96 dpi
        page.call("Emulation.setEmulatedMedia", media="print")
        assert len(page.evaluate(seen)) > 5 and all(page.evaluate(seen)) and page.evaluate(reach) <= 718


def test_sections_without_content_are_left_out(tmp_path, case):
    data = case["target"]
    guess = ContrastGuess("bright", 9.0, "skewness")
    subtomograms = replace(
        data.subtomograms, x=data.subtomograms.x.repeat(3, 1, 1, 1, 1), groups=torch.zeros(3 * N).long(), name="stack"
    )
    plain = TargetData(subtomograms, np.arange(3 * N), Particles({"rlnImageName": ["a"] * 3 * N}), "bright", guess)
    p = case["probabilities"].repeat(3, 1)[:, :2]
    fractions = prevalence(p, CLASSES[:2])
    told = Verdict(USABLE, CLASSES[:2], ("no alarm was raised",))
    page = Page(
        report.write(tmp_path / "r.html", plain, p, CLASSES[:2], verdict=told, prevalence=fractions, inputs=["s.mrcs"])
    )
    assert page.ids == {"counts", "input", "subtomograms", "limits"} and "No warnings." in page.text
    for text in ("corrected", "fit none", "average of", "Sections", " tomogram", "unknown class 0"):
        assert text not in page.text, text


def test_pictures_show_the_subtomograms_of_their_class(tmp_path, case):
    """A class of two shows two subtomograms, a large class six: the pictures differ in width, and none is empty."""
    p = case["probabilities"].clone()
    p[:28] = torch.tensor([0.1, 0.8, 0.1])
    few = case | {"probabilities": p, "unknown": None}
    page = Page(report.write(tmp_path / "r.html", **few))
    pictures = {}
    for tag, attrs in page.tags:
        if tag == "img":
            raw = base64.b64decode(attrs["src"].split(",")[1])
            pictures[attrs["alt"]] = np.asarray(Image.open(io.BytesIO(raw)).convert("L"))
    wide = {alt: image.shape[1] for alt, image in pictures.items() if alt.startswith("Sections")}
    assert 2.3 < wide[f"Sections of particles of {CLASSES[1]}"] / wide["Sections of particles of TRiC"] < 3.7
    assert all(image.std() > 20 for image in pictures.values())


@pytest.mark.parametrize(("level", "tone"), [(USABLE, "calm"), (PARTLY, "look"), (DO_NOT_USE, "stop")])
def test_the_verdict_has_the_tone_of_its_level(tmp_path, case, level, tone):
    page = Page(report.write(tmp_path / "r.html", **case | {"verdict": Verdict(level, ("TRiC",), ("why",))}))
    assert ("div", {"class": f"verdict {tone}"}) in page.tags


def test_averages_leave_out_the_unknown_class(case):
    data, p, unknown = case["target"], case["probabilities"], case["unknown"]
    found = report.averages(data, p, CLASSES, unknown)
    assert list(found) == list(CLASSES[:2]), "the third class is empty"
    rows = ((p.argmax(1) == 1) & ~unknown).nonzero().flatten()
    expected = predictions.class_average(data.subtomograms.x[rows], data.particles.angles[data.kept][rows.numpy()])
    torch.testing.assert_close(found[CLASSES[1]], expected, atol=1e-5, rtol=1e-4)
    assert report.averages(replace(data, particles=replace(data.particles, angles=None)), p, CLASSES) == {}


def test_the_provenance_comes_from_the_manifest():
    manifest = {
        "parameters": {"classes": "TRiC,ice", "box": 0, "voxel_size": 12.5, "tomogram": ""},
        "seed": 3, "profile": {"name": "laptop"}, "commit": "abc-dirty", "started": "2025-02-03T04:05:06+00:00",
        "versions": {"cryoshift-core": "0.1.0", "torch": "2.13"}, "inputs": {"t.mrc": "0123456789abcdef"},
    }  # fmt: skip
    rows = report.provenance(manifest, method="cryoshift", chosen_step=120)
    assert list(rows)[:2] == ["method", "chosen step"]
    assert rows["parameters"] == "classes = TRiC,ice, voxel_size = 12.5" and rows["commit"] == "abc-dirty"
    assert rows["date"].startswith("2025-02-03") and rows["input files"] == "t.mrc (sha256 0123456789ab)"
    assert all(isinstance(value, str) for value in rows.values())


def test_a_mark_on_most_subtomograms_is_not_taken_for_a_finding(tmp_path, case):
    case["unknown"] = torch.arange(N) > 5
    page = Page(report.write(tmp_path / "r.html", **case))
    assert f"{N - 6} are marked as the unknown class, which says little here" in page.text
    assert "The fractions leave out" not in page.text and "fit none of these classes well" not in page.text


def test_classes_on_a_section_differ_in_colour_and_in_shape():
    styles = [group_style(k) for k in range(35)]
    assert len(set(styles)) == 35
    for one, next_ in zip(styles[:-1], styles[1:], strict=True):
        assert one[0] != next_[0] and one[1] != next_[1], "who sees no colour sees the shape"
