"""The site is built from notebooks that ran; its links lead somewhere, and it loads nothing from a network."""

import base64
import json
import re
import shutil
import subprocess
import sys
import time
import warnings

import nbformat
import pytest
from helpers.browser import CHROMIUM, browser
from helpers.files import ROOT
from PIL import Image
from PIL.PngImagePlugin import PngInfo

import cryoshift_core
from cryoshift_core.application import profiles
from cryoshift_core.course import explore, runner, site
from cryoshift_core.errors import InputError

PNG = base64.b64encode(
    bytes.fromhex(
        "89504e470d0a1a0a0000000d4948445200000001000000010802000000907753de0000000c49444154789c63606060000000040001"
        "f61738550000000049454e44ae426082"
    )
).decode()

# What a notebook leaves of an explorer with two sliders.
MOVING = explore.page(
    lambda axes, a, b: axes[0].set_title(f"{a} {b}"), {"a": ("first (Å)", [1, 2, 3]), "b": ("<second>", "xyz")},
    {"a": 2, "b": "z"}, size=1.0,
)  # fmt: skip


def leave_a_run(
    base, path, profile="laptop", torch="2.13.0", started="2026-01-02T03:04:05+00:00", change="", answers=False
):
    """What a run of a notebook leaves in runs/<profile>: the notebook with outputs, and its manifest."""
    notebook = nbformat.read(path, as_version=4)
    injected = nbformat.v4.new_code_cell(f"out_dir = '{base}/runs'", metadata={"tags": ["injected-parameters"]})
    for cell in notebook.cells:
        if cell.cell_type == "code":
            outputs = [nbformat.v4.new_output("stream", text=f"wrote {base}/runs/{profile}/table.csv\n")]
            cell.outputs = [*outputs, nbformat.v4.new_output("display_data", {"image/png": PNG})]
            cell.outputs.append(
                nbformat.v4.new_output("display_data", {"text/markdown": "| m | n |\n|---|---|\n| x | 7 |\n"})
            )
            if "explore(" in cell.source:
                cell.outputs.append(nbformat.v4.new_output("display_data", {"text/html": MOVING, "image/png": PNG}))
    notebook.cells[-1].source += change
    if answers:
        stub = nbformat.v4.new_code_cell("share = None", metadata={"tags": ["exercise"]})
        notebook.cells += [stub, nbformat.v4.new_code_cell("share = 1 / 3", metadata={"tags": ["solution"]})]
        notebook.cells.append(nbformat.v4.new_raw_cell("hint = 'sphere'", metadata={"tags": ["mistakes"]}))
    notebook.cells.insert(1, injected)
    folder = base / "runs" / profile / path.stem
    folder.mkdir(parents=True)
    nbformat.write(notebook, folder / path.name)
    manifest = {
        "notebook": path.stem,
        "status": "finished",
        "started": started,
        "wall_seconds": 75.0,
        "peak_memory_mb": 1395,
        "profile": {"name": profile},
        "versions": {"torch": torch},
        "commit": "0123456789abcdef",
    }
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return folder


def copy_of_the_repository(folder):
    for name in ("docs", "notebooks", "README.md", "CONTRIBUTING.md", "CHANGELOG.md", "CITATION.cff", "LICENSE"):
        source = ROOT / name
        ignore = shutil.ignore_patterns(".ipynb_checkpoints")
        shutil.copytree(source, folder / name, ignore=ignore) if source.is_dir() else shutil.copy(source, folder / name)
    shutil.copy(ROOT / "pyproject.toml", folder)
    return folder


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """Folder of a repository, its site, and the warnings: all notebooks but the last have been run."""
    base = copy_of_the_repository(tmp_path_factory.mktemp("repository"))
    paths = list(site.notebooks(base).values())
    for path in paths[:-1]:
        older = path == paths[0]
        leave_a_run(base, path, change="\n# an older text" if older else "", answers=older)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Sphinx's extensions use what newer versions of Sphinx will drop
        found = site.build(base, base / "site", "laptop")
    return base, base / "site", found


def test_the_words_in_a_figure_are_its_alternative_text(tmp_path):
    path = site.notebooks(ROOT)["02_the_domain_gap"]
    folder = leave_a_run(tmp_path, path)
    notebook = nbformat.read(folder / path.name, as_version=4)
    cell = next(cell for cell in notebook.cells if "grey_values" in cell.source)
    cell.execution_count = 7
    nbformat.write(notebook, folder / path.name)
    (folder / "figures").mkdir()
    for name, about in {"grey": {"Cell": "7", "Description": "density: Å"}, "other": {"Cell": "-1"}, "old": {}}.items():
        words = PngInfo()
        for key, value in about.items():
            words.add_text(key, value)
        Image.new("L", (2, 2)).save(folder / "figures" / f"{name}.png", pnginfo=words)
    page = site.notebook_page(path, folder / path.name, "laptop", tmp_path)
    alts = {one.source: one.metadata["mystnb"]["image"]["alt"] for one in page.cells if one.cell_type == "code"}
    assert alts[cell.source] == "Figure in the section '2 · Which statistics differ?'. density: Å"
    assert sum("density" in alt for alt in alts.values()) == 1


def test_every_link_leads_somewhere_and_nothing_is_loaded_from_a_network(built):
    base, out, found = built
    assert site.faults(out) == []
    assert found == [], "unknown formulas, markup or links in a page or a docstring"
    assert not list(out.rglob("*mathjax*")) and not [
        path for path in out.rglob("*.html") if "cdn." in path.read_text() or "unpkg.com" in path.read_text()
    ]


def test_the_pages_are_those_of_the_repository(built):
    base, out, _ = built
    for path in [*(base / "notebooks").rglob("*.ipynb"), *(base / "docs").rglob("*.md")]:
        assert out.joinpath(path.relative_to(base)).with_suffix(".html").is_file(), path
    public = (out / "api" / "public.html").read_text()
    assert not [n for n in cryoshift_core.__all__ if n[0] != "_" and f'id="cryoshift_core.{n}"' not in public]
    method = (out / "api" / "method.html").read_text()
    assert 'id="cryoshift_core.losses.mada_loss"' in method and 'id="module-cryoshift_core.training"' in method


def test_a_notebook_says_how_it_was_run_and_shows_no_path_of_this_machine(built):
    base, out, _ = built
    for path in site.notebooks(base).values():
        page = out.joinpath(path.relative_to(base)).with_suffix(".html").read_text()
        assert str(base) not in page
        last = path == list(site.notebooks(base).values())[-1]
        assert ("the page has no outputs" in page) == last
        assert ("on 2026-01-02: 1.2 min, 1400 MB" in page) != last
        assert ("wrote runs/laptop/table.csv" in page) != last
        assert ("has been changed since" in page) == (path.stem.startswith("00"))
        assert ("Sliders move on this page" in page) == ("explore(" in path.read_text())
        assert last or 'alt="Figure in the section' in page
        assert last or ("<td" in page and "| m | n |" not in page), "a table that a cell shows is a table"
        assert last or re.search(r"<th[^>]*>(<p>)?m(</p>)?</th>", page)
        assert "Author name not set" not in page


def test_the_alternative_text_names_the_last_heading(tmp_path):
    cells = [nbformat.v4.new_markdown_cell("## 2 · What it costs (9 minutes)\n\n### `A` rule\ntext")]
    nbformat.write(nbformat.v4.new_notebook(cells=[*cells, nbformat.v4.new_code_cell("7")]), tmp_path / "00_x.ipynb")
    (code,) = (
        c for c in site.notebook_page(tmp_path / "00_x.ipynb", None, "laptop", tmp_path).cells if c.source == "7"
    )
    assert code.metadata["mystnb"]["image"]["alt"] == "Figure in the section 'A rule'"


def blocks_with_markup(page):
    """Blocks of prose in which marks of Markdown or reStructuredText stand that should have been read as such."""
    text = page.split("<article", 1)[-1].split("</article>")[0]
    text = re.sub(r"<(pre|code|math|script|style|dt)\b.*?</\1>", "", text, flags=re.DOTALL)
    blocks = [re.sub(r"<[^>]*>", "", part) for part in re.split(r"</?(?:p|li|td|th|dd|h\d|div)\b[^>]*>", text)]
    return [block for block in blocks if re.search(r"(?<!\S)\|\s[^|]*\s\|(?!\S)|\]\(|:\w+:`|(?<!\S)`|`(?!\S)", block)]


def test_no_markup_is_left_in_the_text(built):
    _, out, _ = built
    assert blocks_with_markup("<article><p>| a | b |\n| c | d |</p></article>"), "a table that is none"
    assert blocks_with_markup("<article><p>as in `open`: x</p><p>see :func:`fit`</p></article>")
    assert not blocks_with_markup("<article><p>|k| of <code>a | b | c | d</code></p></article>")
    left = {path.name: found for path in out.rglob("*.html") if (found := blocks_with_markup(path.read_text()))}
    left.pop("genindex.html", None)  # letters between bars
    assert not left


def test_fields_of_a_class_are_described_and_not_taken_for_types(built):
    _, out, _ = built
    page = (out / "api" / "public.html").read_text()
    assert "on the CPU, in eval mode" in page and "Attributes" in page
    assert re.search(r"The subtomograms to adapt to:\s+those\s+of", re.sub(r"<[^>]*>", "", page))
    assert not [path.name for path in (out / "api").glob("*.html") if ">Type<span" in path.read_text()]


def test_answers_are_folded_and_the_hints_for_mistakes_are_left_out(built):
    base, out, _ = built
    (page,) = (out / "notebooks").glob("00_*.html")
    text = re.sub(r"<(?!/?(?:details|summary))[^>]*>", "", page.read_text())
    (folded,) = [part for part in re.findall(r"<details.*?</details>", text, re.DOTALL) if "Show an answer" in part]
    assert "share = 1 / 3" in folded and "share = None" not in folded
    assert "share = None" in text and "sphere" not in text.split("share = None")[1]


def test_the_status_has_a_row_per_notebook_profile_and_torch(tmp_path):
    copy_of_the_repository(tmp_path)
    first, second = list(site.notebooks(tmp_path).values())[:2]
    leave_a_run(tmp_path, first)
    leave_a_run(tmp_path, first, "smoke", "2.6.0")
    old = leave_a_run(tmp_path, second, started="2026-01-01T00:00:00+00:00", change="\n# older")
    old.rename(old.with_name(f"{old.name}.2026-01-01T00-00-00"))
    leave_a_run(tmp_path, second)
    failed = leave_a_run(tmp_path, second, "paper")
    (failed / "manifest.json").write_text((failed / "manifest.json").read_text().replace("finished", "failed"))
    text = site.status_page(tmp_path, "laptop")
    rows = [[cell.strip() for cell in row.split("|")[1:-1]] for row in text.splitlines() if row.startswith("| [")]
    assert [(row[0].split("]")[0][1:], row[1], row[5], row[7]) for row in rows] == [
        (first.stem, "laptop", "2.13.0", "current"),
        (first.stem, "smoke", "2.6.0", "current"),
        (second.stem, "laptop", "2.13.0", "current"),
    ]
    assert rows[0][3:5] == ["1.2 min", "1400 MB"]
    assert "Not run at the `laptop` profile: " in text and first.stem not in text.splitlines()[-1]


def test_without_runs_the_smoke_profile_is_executed(tmp_path, monkeypatch):
    copy_of_the_repository(tmp_path)
    called = []

    def run(arguments):
        called.append(arguments)
        leave_a_run(tmp_path, next(iter(site.notebooks(tmp_path).values())), "smoke")
        return 0

    monkeypatch.setattr(runner, "main", run)
    assert site.profile_to_show(tmp_path, "laptop") == "smoke"
    assert called == [
        ["--profile", "smoke", "--notebooks", str(tmp_path / "notebooks"), "--out", str(tmp_path / "runs" / "smoke")]
    ]
    assert site.profile_to_show(tmp_path, "laptop") == "smoke" and len(called) == 1, "there is a run now"
    shutil.rmtree(tmp_path / "runs")
    monkeypatch.setattr(runner, "main", lambda arguments: 1)
    with pytest.raises(InputError, match="failed at the smoke profile.*or run make tutorial"):
        site.profile_to_show(tmp_path, "laptop")


def test_the_wanted_profile_is_shown_if_it_was_run(tmp_path):
    copy_of_the_repository(tmp_path)
    path = next(iter(site.notebooks(tmp_path).values()))
    for profile in profiles.PROFILES:
        leave_a_run(tmp_path, path, profile)
        assert site.profile_to_show(tmp_path, profile) == profile


@pytest.mark.parametrize(
    ("page", "fault"),
    [
        ('<a href="nowhere.html">x</a>', "nowhere.html leads to nothing"),
        ('<a href="#nowhere">x</a>', "#nowhere names no place on that page"),
        ('<a href="other.html#nowhere">x</a>', "other.html#nowhere names no place on that page"),
        ('<script src="https://cdn.jsdelivr.net/npm/mathjax.js"></script>', "loads https://cdn.jsdelivr.net"),
        ('<script>import("https://unpkg.com/x.js")</script>', "loads https://unpkg.com/x.js"),
        ('<link rel="stylesheet" href="//fonts.example.org/a.css">', "loads //fonts.example.org/a.css"),
        ('<style>@import "https://fonts.example.org/a.css";</style>', "loads https://fonts.example.org/a.css"),
        ('<img src="missing.png">', "missing.png leads to nothing"),
        ('<p style="background: url(https://example.org/x.png)">x</p>', "loads https://example.org/x.png"),
    ],
)
def test_faults_of_a_page_are_found(tmp_path, page, fault):
    (tmp_path / "other.html").write_text('<h1 id="here">other</h1>')
    whole = '<p id="a"><a href="other.html#here">x</a> <a href="#a">y</a> <a href="https://example.org">z</a></p>'
    (tmp_path / "page.html").write_text(whole)
    assert site.faults(tmp_path) == []
    (tmp_path / "page.html").write_text(whole + page)
    (found,) = site.faults(tmp_path)
    assert fault in found and found.startswith("page.html: ")


def test_style_sheets_that_load_fonts_are_found(tmp_path):
    (tmp_path / "theme.css").write_text("@font-face { src: url('https://fonts.example.org/a.woff2') }")
    assert site.faults(tmp_path) == ["theme.css: loads https://fonts.example.org/a.woff2"]


def test_a_folder_that_is_no_site_is_refused_and_stays(tmp_path):
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(InputError, match="holds files that are no site"):
        site.build(ROOT, tmp_path, "laptop")
    assert (tmp_path / "mine.txt").read_text() == "mine"


class Writer:
    """The part of Sphinx's writer that a formula needs."""

    def __init__(self):
        self.body = []

    def encode(self, text):
        return text.replace("<", "&lt;")


@pytest.mark.parametrize(
    ("latex", "block", "wanted"),
    [
        (r"\frac{K-1}{K} \ln 2", False, ["<math", "<mfrac", "ln"]),
        (r"\lambda = \frac{2}{1 + e^{-\gamma p}} - 1", True, ['<div class="math"><math', 'display="block"', "λ"]),
        (r"H(\bar p)", False, ['<mover accent="false">', "<mi>p</mi>"]),
        (r"a < \notacommand{b}", False, [r"<code>a &lt; \notacommand{b}</code>"]),
    ],
)
def test_formulas_become_mathml_and_unknown_ones_stay_readable(latex, block, wanted):
    from docutils import nodes

    from cryoshift_core.course.site_extension import to_mathml

    writer, node = Writer(), nodes.math("", latex)
    with pytest.raises(nodes.SkipNode):
        to_mathml(writer, node, block)
    text = "".join(writer.body)
    assert not [part for part in wanted if part not in text], text


def test_docstrings_are_plain_text():
    from cryoshift_core.course.site_extension import escape, escape_docstring

    assert escape("power in |k| of *.mrc, draw(axes, **values), name_") == (
        r"power in \|k\| of \*.mrc, draw(axes, \*\*values), name\_"
    )
    assert escape("`|k|` and ``*.mrc`` in *one* :func:`fit_`") == "`|k|` and ``*.mrc`` in *one* :func:`fit_`"
    lines = ["As in::", "", "    a | b", "", "but a | b"]
    escape_docstring(None, "function", "f", None, None, lines)
    assert lines == ["As in::", "", "    a | b", "", r"but a \| b"]


def test_an_unknown_profile_is_refused_in_one_line():
    command = [sys.executable, "-m", "cryoshift_core", "site", "--profile", "lapto"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 2 and done.stderr.count("\n") == 1 and "did you mean 'laptop'?" in done.stderr


@pytest.mark.skipif(not CHROMIUM, reason="Chromium is not installed")
def test_the_pages_show_in_a_browser_without_a_network(built, tmp_path):
    base, out, _ = built
    names = ["index", "status", "api/public", "api/method", "docs/evidence", "docs/instructor"]
    names += [path.relative_to(base).with_suffix("").as_posix() for path in site.notebooks(base).values()]
    with browser(tmp_path) as page:
        for name in names:
            for width in (1280, 1000):
                page.open(f"file://{out}/{name}.html", width)
                assert not page.errors, f"{name}: {page.errors}"
                asked = [url for url in page.requests if not url.startswith(("file:", "data:", "chrome:"))]
                assert not asked, f"{name} asks for {asked}"
                assert page.evaluate("[...document.images].every(i => i.complete && i.naturalWidth)"), name
                assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), f"{name} is too wide"
        (first,) = (out / "notebooks").glob("00_*.html")
        page.open(f"file://{first}", 1280)
        page.evaluate("window.answer = document.querySelector('.bd-article details.hide')")
        shown = "window.answer.querySelector('pre').checkVisibility()"
        assert not page.evaluate(shown)
        page.evaluate("window.answer.querySelector('summary').click()")
        assert page.evaluate(shown), "a click unfolds the answer"
        (moving,) = (out / "notebooks").glob("01_*.html")
        page.open(f"file://{moving}", 1000)
        page.evaluate("window.box = document.querySelector('.cryoshift-frames')")
        state = "[box.querySelector('img').src, box.querySelector('img').alt, box.querySelector('output').textContent]"
        before = page.evaluate(state)
        page.evaluate("box.querySelector('input').focus()")
        for kind in ("keyDown", "keyUp"):
            page.call("Input.dispatchKeyEvent", type=kind, key="ArrowRight", windowsVirtualKeyCode=39)
        after = page.evaluate(state)
        assert before[1:] == ["first (Å): 2; <second>: z", "2"] and after[1:] == ["first (Å): 3; <second>: z", "3"]
        assert before[0] != after[0], "a slider moves the picture"
        assert page.evaluate("box.querySelector('img').decode().then(() => true)", wait=True)
        page.open(f"file://{out}/search.html?q=spectrum", 1280)
        for _ in range(50):
            if (found := page.evaluate("document.querySelectorAll('#search-results li').length")) >= 5:
                break
            time.sleep(0.2)
        assert found >= 5, "the search works without a server"
