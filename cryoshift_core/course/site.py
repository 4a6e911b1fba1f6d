"""The site: executed notebooks, the pages of docs/ and the API as HTML that needs no network (``make site``).

python -m cryoshift_core site [--profile laptop] [--out site]

The sources are gathered in a temporary folder that is laid out like the repository, so relative links hold, and Sphinx
with MyST-NB turns them into pages. Formulas become MathML, which browsers show without a script.
"""

from __future__ import annotations

import argparse
import inspect
import io
import re
import shutil
import sys
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import nbformat
from PIL import Image

import cryoshift_core

from ..application.profiles import PROFILES
from ..application.run_folder import read_manifest
from ..errors import InputError
from ..support.runtime import root, write_text
from . import runner
from .costs import Cost
from .parameters import check

# Pages of docs/ in the order of the menu; others follow in the order of their names.
FIRST_PAGES = (
    "own_data",
    "results",
    "evidence",
    "search",
    "extending",
    "public_data",
    "gallery",
    "glossary",
    "instructor",
)
METHOD = "errors fourier data models losses warps methods training selection calibration metrics".split()
WINGS = ("simulation", "tomography", "application", "course", "benchmark", "support")
CSS = """
.bd-main .bd-content .bd-article-container { max-width: 75em; }
.bd-sidebar-secondary { max-width: 13rem; }
.bd-sidebar-secondary :is(code, .pre) { white-space: normal; overflow-wrap: anywhere; }
.bd-article pre { font-size: 0.8rem; }
.bd-article table { font-size: 0.8rem; }
.bd-article table :is(td, th) { padding: 0.25rem 0.4rem; }
.bd-article .cell_output pre { white-space: pre-wrap; }
.bd-article .cell_output img { max-width: 100%; height: auto; }
.bd-article :is(dt.sig, section > p > code, li > code, li > p > code) { overflow-wrap: anywhere; }
.bd-article :is(section > p, li, li > p) > code .pre { white-space: normal; }
.bd-article math[display="block"] { margin: 1rem 0; overflow-x: auto; }
"""
SLIDERS = (
    "Sliders move on this page, too, among frames that were drawn beforehand. Where that would need too many frames, "
    "moving one slider takes the others back to their start values; in JupyterLab (`make lab`) they mix."
)
UNBROKEN = str.maketrans("- ", "\N{NON-BREAKING HYPHEN}\N{NO-BREAK SPACE}")
# What a browser would load from elsewhere, in CSS and in scripts within a page.
LOADED_BY_CSS = re.compile(r"""(?:url\(\s*|@import\s+)["']?((?:https?:)?//[^"')\s;]+)""")
LOADED_BY_SCRIPT = re.compile(r"""(?:import\s*\(?|from|require\(|fetch\(|\.src\s*=)\s*["'](https?://[^"']+)""")


@dataclass
class Page:
    """What the link check needs of an HTML page: its anchors, its links, and what a browser loads with it."""

    anchors: set[str] = field(default_factory=set)
    links: list[str] = field(default_factory=list)
    loaded: list[str] = field(default_factory=list)


def executed_notebooks(runs: Path, profile: str) -> dict[str, Path]:
    """Name of a notebook -> its executed .ipynb in runs/<profile>; finished runs only."""
    folders = [path for path in sorted((runs / profile).glob("*")) if read_manifest(path).get("status") == "finished"]
    found = {folder.name: folder / f"{folder.name}.ipynb" for folder in folders}
    return {name: path for name, path in found.items() if path.is_file()}


def notebooks(base: Path) -> dict[str, Path]:
    """Name -> path of every notebook in notebooks/ and in folders below it, in the order of the course."""
    found = (base / "notebooks").rglob("*.ipynb")
    return {path.stem: path for path in sorted(found) if ".ipynb_checkpoints" not in path.parts}


def profile_to_show(base: Path, wanted: str) -> str:
    """The wanted profile if runs/ holds executed notebooks of it, else smoke, which is executed if it is missing, too.

    Raises
    ------
    InputError
        a notebook failed while it was executed.
    """
    for profile in (wanted, "smoke"):
        if executed_notebooks(base / "runs", profile):
            return profile
    print(f"{base / 'runs'} holds no executed notebooks; running the smoke profile ...", flush=True)
    arguments = ["--profile", "smoke", "--notebooks", str(base / "notebooks"), "--out", str(base / "runs" / "smoke")]
    if runner.main(arguments):
        raise InputError(
            f"A notebook failed at the smoke profile; expected all to run. See {base / 'runs/smoke/index.html'}, or "
            "run make tutorial first."
        )
    return "smoke"


def same_text(executed: nbformat.NotebookNode, current: nbformat.NotebookNode) -> bool:
    """Whether an executed notebook has the cells of the current one, apart from papermill's parameters."""
    sources = [
        [cell.source for cell in notebook.cells if "injected-parameters" not in cell.metadata.get("tags", [])]
        for notebook in (executed, current)
    ]
    return sources[0] == sources[1]


def cost(manifest: dict[str, Any]) -> str:
    """Time and memory of a run as the tables show them: "1.3 min, 1400 MB"."""
    found = Cost(manifest["wall_seconds"], manifest["peak_memory_mb"])
    return f"{found.time}, {found.memory}"


def notebook_page(path: Path, executed: Path | None, profile: str, base: Path) -> nbformat.NotebookNode:
    """The notebook as the site shows it: with a note on its run, alternative texts, and no paths of this machine.

    Parameters
    ----------
    path : the notebook as committed
    executed : the same after a run, or None; then the page has no outputs and says so
    profile, base : profile of the runs and root of the repository
    """
    current = nbformat.read(path, as_version=4)
    notebook = nbformat.read(executed, as_version=4) if executed else current
    if executed:
        manifest = read_manifest(executed.parent)
        note = f"Run at the `{profile}` profile on {manifest['started'][:10]}: {cost(manifest)}."
        if profile == "smoke":
            note += " This profile has toy amounts of data: its scores mean nothing."
        if not same_text(notebook, current):
            note += " The notebook has been changed since; `make tutorial` and `make site` bring this page up to date."
    else:
        note = f"Not run at the `{profile}` profile: the page has no outputs."
    if any("explore(" in cell.source for cell in notebook.cells if cell.cell_type == "code"):
        note += f" {SLIDERS}"
    described = descriptions(executed.parent) if executed else {}
    cells, section = [], ""
    for cell in notebook.cells:
        tags = cell.metadata.get("tags", [])
        if "injected-parameters" in tags or cell.cell_type == "raw":  # papermill's, and the hints of the exercises
            continue
        if cell.cell_type == "markdown":
            lines = re.sub("[`*]", "", cell.source).splitlines()
            headings = [line.lstrip("# ") for line in lines if line.startswith("#")]
            section = re.sub(r" \(\d+ minutes\)$", "", headings[-1]) if headings else section
        else:
            alt = ". ".join([f"Figure in the section '{section}'", *described.get(cell.execution_count, [])])
            cell.metadata["mystnb"] = {"image": {"alt": alt}}
            if "solution" in tags:
                cell.metadata["tags"] = [*dict.fromkeys([*tags, "hide-cell"])]
                cell.metadata["mystnb"] |= {"code_prompt_show": "Show an answer", "code_prompt_hide": "Hide the answer"}
            for output in cell.outputs:
                _hide_paths(output, base)
        cells.append(cell)
    first = next((i for i, cell in enumerate(cells) if cell.cell_type == "markdown"), 0)
    cells.insert(first + 1, nbformat.v4.new_markdown_cell(f":::{{note}}\n{note}\n:::"))
    notebook.cells = cells
    notebook.metadata.pop("widgets", None)
    return notebook


def descriptions(folder: Path) -> dict[int, list[str]]:
    """Number of a cell -> what stands in the figures that it saved, from the files in figures/ of a run's folder."""
    found: dict[int, list[str]] = {}
    for path in sorted((folder / "figures").glob("*.png")):
        with Image.open(path) as image:
            about = image.info
        if about.get("Cell", "").isdecimal() and about.get("Description"):
            found.setdefault(int(about["Cell"]), []).append(about["Description"])
    return found


def _hide_paths(output: nbformat.NotebookNode, base: Path) -> None:
    """Make the paths in a text output relative to the repository."""
    prefix = f"{base}/"
    if "text" in output:
        output.text = output.text.replace(prefix, "")
    for kind, content in output.get("data", {}).items():
        if kind.startswith("text/") and isinstance(content, str):
            output.data[kind] = content.replace(prefix, "")


def status_page(base: Path, profile: str) -> str:
    """Markdown of the status page: one row per notebook, profile and torch version with its last finished run."""
    current = notebooks(base)
    last: dict[tuple[str, str, str], tuple[Path, dict[str, Any]]] = {}
    for path in sorted((base / "runs").glob("*/*/manifest.json")):
        manifest = read_manifest(path.parent)
        if manifest.get("status") != "finished" or manifest["notebook"] not in current:
            continue
        key = manifest["notebook"], manifest["profile"]["name"], manifest["versions"].get("torch", "unknown")
        if key not in last or manifest["started"] > last[key][1]["started"]:
            last[key] = path.parent, manifest
    rows = []
    for (name, of, torch), (folder, manifest) in sorted(last.items()):
        executed = folder / f"{name}.ipynb"
        text = "not kept"
        if executed.is_file():
            pair = [nbformat.read(path, as_version=4) for path in (executed, current[name])]
            text = "current" if same_text(*pair) else "changed since"
        spent = Cost(manifest["wall_seconds"], manifest["peak_memory_mb"])
        link = f"[{name}]({current[name].relative_to(base).as_posix()})"
        started, code = manifest["started"][:16].replace("T", " ").translate(UNBROKEN), manifest["commit"][:8]
        rows.append(f"| {link} | {of} | {started} | {spent.time} | {spent.memory} | {torch} | {code} | {text} |")
    missing = sorted(set(current) - set(executed_notebooks(base / "runs", profile)))
    lines = [
        "# Status",
        "",
        f"The notebooks of this site were run at the `{profile}` profile. The table has the last finished run of each "
        "notebook, profile and torch version, from the manifests in `runs/`. Time is the wall-clock time of that run; "
        "other programs on the machine lengthen it. Memory is the largest of the kernel. A failed notebook has no row.",
        "",
        "| notebook | profile | started (UTC) | time | memory | torch | commit | text |",
        "|---|---|---|---|---|---|---|---|",
        *rows,
    ]
    if missing:
        lines += ["", f"Not run at the `{profile}` profile: {', '.join(missing)}."]
    return "\n".join(lines) + "\n"


def api_pages(folder: Path) -> list[str]:
    """Names of the pages with the API that were written into `folder`, the public interface first."""
    public = [name for name in cryoshift_core.__all__ if not name.startswith("__")]
    kinds = {name: "class" if inspect.isclass(getattr(cryoshift_core, name)) else "function" for name in public}
    lines = ["# Public interface", "", "```{eval-rst}", ".. currentmodule:: cryoshift_core", "", ".. autosummary::", ""]
    lines += [f"   {name}" for name in public] + [""]
    for name in public:
        lines += [f".. auto{kinds[name]}:: {name}", *(["   :members:"] if kinds[name] == "class" else []), ""]
    write_text(folder / "public.md", "\n".join([*lines, "```", ""]))
    package = Path(cryoshift_core.__file__).parent
    groups = {"method": [f"cryoshift_core.{name}" for name in METHOD]}
    groups |= {wing: list(_modules(package / wing, f"cryoshift_core.{wing}")) for wing in WINGS}
    groups["data_fetch"] = list(_modules(package.parent / "data_fetch", "data_fetch"))
    for title, modules in groups.items():
        text = [f"# `{title}`" if title != "method" else "# The method", ""]
        for module in modules:
            text += [f"## `{module.removeprefix('cryoshift_core.')}`", "", "```{eval-rst}"]
            text += [f".. automodule:: {module}", "   :members:", "   :ignore-module-all:", "```", ""]
        write_text(folder / f"{title}.md", "\n".join(text))
    return ["public", *groups]


def _modules(folder: Path, name: str) -> Iterable[str]:
    """Dotted names of the modules of a package, commands (``__main__``) left out."""
    for path in sorted(folder.rglob("*.py")):
        if path.stem != "__main__":
            parts = path.relative_to(folder).with_suffix("").parts
            yield ".".join([name, *(part for part in parts if part != "__init__")])


def gather(base: Path, folder: Path, profile: str) -> None:
    """Fill `folder` with the sources of the site: pages, executed notebooks, their pictures and tables."""
    executed = executed_notebooks(base / "runs", profile)
    courses = []
    for name, path in notebooks(base).items():
        place = path.relative_to(base)
        page = notebook_page(path, executed.get(name), profile, base)
        write_text(folder / place, nbformat.writes(page))
        courses.append(place.with_suffix("").as_posix())
    for path in (base / "notebooks").rglob("*"):
        if path.suffix in (".png", ".csv", ".svg", ".gif"):
            _copy(path, folder / path.relative_to(base))
    for path in (base / "docs").rglob("*"):
        if path.is_file():
            _copy(path, folder / path.relative_to(base))
    for name in ("CONTRIBUTING.md", "CHANGELOG.md", "CITATION.cff", "LICENSE"):
        _copy(base / name, folder / name)
    write_text(folder / "_static" / "cryoshift.css", CSS)
    write_text(folder / "status.md", status_page(base, profile))
    api = [f"api/{name}" for name in api_pages(folder / "api")]
    write_text(folder / "archive.md", "# Archive\n" + _menu(_pages(folder, "docs/archive"), ""))
    menus = _menu(courses, "Course") + _menu([f"docs/{name}" for name in _sorted_pages(folder)] + ["archive"], "Pages")
    menus += _menu(api, "Library") + _menu(["status", "CONTRIBUTING", "CHANGELOG"], "Project")
    how = f"\n## About these pages\n\nThe notebooks were run at the `{profile}` profile ([status](status.md)). "
    how += f"{SLIDERS}\n"
    readme = (base / "README.md").read_text(encoding="utf-8")
    write_text(folder / "index.md", readme + how + menus)


def _copy(path: Path, to: Path) -> None:
    to.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(path, to)


def _pages(folder: Path, under: str) -> list[str]:
    return [path.relative_to(folder).with_suffix("").as_posix() for path in sorted((folder / under).glob("*.md"))]


def _sorted_pages(folder: Path) -> list[str]:
    names = [Path(page).name for page in _pages(folder, "docs")]
    return sorted(names, key=lambda name: (FIRST_PAGES.index(name) if name in FIRST_PAGES else len(FIRST_PAGES), name))


def _menu(pages: list[str], caption: str) -> str:
    options = [":hidden:", f":caption: {caption}"] if caption else []
    return "\n".join(["", "```{toctree}", *options, "", *pages, "```", ""])


def settings() -> dict[str, Any]:
    """Sphinx settings of the site."""
    return {
        "project": "Cryo-Shift",
        "version": cryoshift_core.__version__,
        "extensions": [
            "myst_nb",
            "sphinx.ext.autodoc",
            "sphinx.ext.autosummary",
            "sphinx.ext.napoleon",
            "cryoshift_core.course.site_extension",
        ],
        "html_theme": "sphinx_book_theme",
        "html_title": f"Cryo-Shift {cryoshift_core.__version__}",
        "html_theme_options": {
            "use_download_button": False,
            "use_issues_button": False,
            "show_toc_level": 2,
            "home_page_in_toc": True,
            "navbar_persistent": [],
            "footer_content_items": ["copyright.html", "last-updated.html", "extra-footer.html"],
        },
        "html_static_path": ["_static"],
        "html_css_files": ["cryoshift.css"],
        "html_copy_source": False,
        "html_show_copyright": False,
        "html_math_renderer": "mathml",
        "nb_execution_mode": "off",
        "nb_merge_streams": True,
        "nb_render_markdown_format": "myst",  # tables that a cell shows; plain commonmark has none
        "nb_ipywidgets_js": {},
        "myst_enable_extensions": ["dollarmath", "amsmath", "colon_fence"],
        "myst_heading_anchors": 4,
        "autosummary_generate": False,
        "autodoc_member_order": "bysource",
        "default_role": "code",
        "napoleon_use_param": False,
        "napoleon_use_rtype": False,
        "napoleon_custom_sections": [("Attributes", "params_style")],  # as Parameters: what a field is, not its type
        "suppress_warnings": ["config.cache", "mystnb.unknown_mime_type", "myst.header", "ref.python"],
    }


def build(base: Path, out: Path, profile: str) -> list[str]:
    """Warnings of Sphinx while it wrote the site into `out`, which is replaced.

    Parameters
    ----------
    base : root of the repository
    out : folder of the site
    profile : "laptop" and so on; see :func:`profile_to_show`

    Raises
    ------
    InputError
        Sphinx is not installed, or `out` holds something that is no site.
    """
    try:
        from sphinx.application import Sphinx
        from sphinx.util.docutils import docutils_namespace, patch_docutils
    except ImportError:
        raise InputError(
            "Sphinx is not installed; expected the packages of the extra 'site'. Run make site, or "
            "pip install -c constraints.txt -e '.[site]'."
        ) from None
    if out.is_dir() and any(out.iterdir()) and not (out / "searchindex.js").is_file():
        raise InputError(f"{out} holds files that are no site; expected a new folder or an earlier site. Set --out.")
    log = io.StringIO()
    with tempfile.TemporaryDirectory(prefix="cryoshift-site-") as temporary:
        source, pages = Path(temporary) / "source", Path(temporary) / "html"
        gather(base, source, profile)
        with patch_docutils(), docutils_namespace():
            trees = Path(temporary) / "doctrees"
            Sphinx(source, None, pages, trees, "html", settings(), status=None, warning=log).build()
        for path in (pages / ".buildinfo", *pages.glob("_static/*-macros.html")):  # left over from the build
            path.unlink(missing_ok=True)
        if out.is_dir():
            shutil.rmtree(out)
        out.parent.mkdir(parents=True, exist_ok=True)
        shutil.move(pages, out)
    lines = re.sub(r"\x1b\[[\d;]*m", "", log.getvalue()).splitlines()
    return [line.replace(f"{source}/", "") for line in lines if line.strip()]


class _Reader(HTMLParser):
    """Collects the anchors, links and loaded files of one page."""

    def __init__(self) -> None:
        super().__init__()
        self.page, self._within = Page(), ""

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attributes}
        self.page.anchors |= {given[name] for name in ("id", "name") if name in given}
        self._within = tag
        if tag == "a" and "href" in given:
            self.page.links.append(given["href"])
        elif tag == "link" and "href" in given:
            only_named = given.get("rel") in ("next", "prev", "search", "index", "author")
            (self.page.links if only_named else self.page.loaded).append(given["href"])
        elif "src" in given:
            self.page.loaded.append(given["src"])
        self.page.loaded += LOADED_BY_CSS.findall(given.get("style", ""))

    def handle_endtag(self, tag: str) -> None:
        self._within = ""

    def handle_data(self, data: str) -> None:
        if self._within in ("script", "style"):
            self.page.loaded += (LOADED_BY_CSS if self._within == "style" else LOADED_BY_SCRIPT).findall(data)


def read_page(path: Path) -> Page:
    """Anchors, links and loaded files of an HTML file."""
    reader = _Reader()
    reader.feed(path.read_text(encoding="utf-8"))
    return reader.page


def faults(site: Path) -> list[str]:
    """What is wrong in a site, a line each: links to nothing, and files that a page would load from a network."""
    pages = {path.resolve(): read_page(path) for path in sorted(site.rglob("*.html"))}
    found = []
    for path, page in pages.items():
        name = path.relative_to(site.resolve())
        found += [f"{name}: loads {url}" for url in page.loaded if urlsplit(url).scheme in ("http", "https")]
        found += [f"{name}: loads {url}" for url in page.loaded if url.startswith("//")]
        for url in [*page.links, *page.loaded]:
            parts = urlsplit(url)
            if parts.scheme or parts.netloc or url.startswith("//"):
                continue
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            if not target.is_file():
                found.append(f"{name}: {url} leads to nothing")
            elif parts.fragment and target in pages and unquote(parts.fragment) not in pages[target].anchors | {"top"}:
                found.append(f"{name}: {url} names no place on that page")
    for path in sorted(site.rglob("*.css")):
        urls = LOADED_BY_CSS.findall(path.read_text(encoding="utf-8"))
        found += [f"{path.relative_to(site)}: loads {url}" for url in urls]
    return found


def main(arguments: list[str] | None = None) -> int:
    """Exit status of the command: 0 if the site is whole, 1 if it has faults, 2 for bad arguments."""
    parser = argparse.ArgumentParser(
        "python -m cryoshift_core site", description="Write the course, the pages and the API as HTML."
    )
    parser.add_argument("--profile", default="laptop", help="runs to show: " + " or ".join(PROFILES))
    parser.add_argument("--out", type=Path, help="folder of the site (default: site)")
    options = parser.parse_args(arguments)
    base = root().resolve()
    out = (options.out or base / "site").expanduser().resolve()
    try:
        check({"profile": options.profile})
        profile = profile_to_show(base, options.profile)
        warnings = build(base, out, profile)
    except InputError as error:
        print(f"InputError: {error}", file=sys.stderr)
        return 2
    wrong = faults(out)
    for line in (*warnings, *wrong):
        print(line, file=sys.stderr)
    print(f"Notebooks as run at the {profile} profile. Open {out / 'index.html'}")
    return int(bool(wrong))
