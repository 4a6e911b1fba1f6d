"""`make tutorial`: run the series of notebooks, show where it is, and leave pages to open.

python -m cryoshift_core tutorial [--profile laptop] [--only 02 05] [--out runs/laptop] [-p name=value]
"""

from __future__ import annotations

import argparse
import ast
import base64
import html
import io
import json
import os
import sys
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import nbformat
import papermill
from nbconvert import HTMLExporter
from nbconvert.preprocessors import CoalesceStreamsPreprocessor
from PIL import Image

from ..application.profiles import PROFILES
from ..errors import InputError
from ..runtime import root
from .parameters import FIELDS, check, did_you_mean

KERNEL = "python3"


@dataclass
class Result:
    """One notebook's outcome. `error` is empty when it ran through."""

    name: str
    title: str
    folder: Path
    seconds: float = 0.0
    error: str = ""
    manifest: dict[str, Any] = field(default_factory=dict)


class Progress:
    """One live line on a terminal, a line every 15 s in a log."""

    def __init__(self, name: str, position: str, n_cells: int, started: float):
        self.name, self.position, self.n_cells, self.cell = name, position, n_cells, 0
        self.started, self.own_start, self.cell_start = started, time.monotonic(), time.monotonic()
        self.live = sys.stdout.isatty()
        self.stopped = threading.Event()
        self.thread = threading.Thread(target=self._tick, daemon=True)

    def __enter__(self) -> Progress:
        if not self.live:
            self._show()
        self.thread.start()
        return self

    def __exit__(self, *_: Any) -> None:
        self.stopped.set()
        self.thread.join()
        if self.live:
            print("\r\033[K", end="")

    def on_cell(self, cell_index: int, **_: Any) -> None:
        self.cell, self.cell_start = cell_index + 1, time.monotonic()

    def _tick(self) -> None:
        while not self.stopped.wait(1 if self.live else 15):
            self._show()

    def _show(self) -> None:
        now = time.monotonic()
        where = f"cell {self.cell} of {self.n_cells} ({_clock(now - self.cell_start)})" if self.cell else "starting"
        clocks = f"{_clock(now - self.own_start)} in this notebook, {_clock(now - self.started)} in all"
        text = f"[{self.position}] {self.name}: {where}, {clocks}"
        print(f"\r\033[K{text}" if self.live else text, end="" if self.live else "\n", flush=True)


def _clock(seconds: float) -> str:
    return f"{int(seconds) // 60}:{int(seconds) % 60:02d}"


def own_kernel_first() -> None:
    """Let the kernel named python3 be this environment's, whatever other kernels the user has registered."""
    ours = Path(sys.prefix) / "share" / "jupyter"
    others = [path for path in os.environ.get("JUPYTER_PATH", "").split(os.pathsep) if path]
    os.environ["JUPYTER_PATH"] = os.pathsep.join([str(ours), *others])


def execute(source: Path, folder: Path, parameters: dict[str, Any], position: str = "1/1", began: float = 0) -> Result:
    """Run one notebook through papermill into folder/<name>.ipynb and .html.

    Parameters
    ----------
    source : the .ipynb
    folder : made if missing; parameter `out_dir` of the notebook, if it has one
    parameters : name -> value; names that the notebook does not declare are left out
    position, began : for the line of progress, as in "2/7", and the series' time.monotonic()
    """
    own_kernel_first()
    folder = folder.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    notebook = nbformat.read(source, as_version=4)
    declared = papermill.inspect_notebook(str(source))
    given = {name: value for name, value in {"out_dir": str(folder), **parameters}.items() if name in declared}
    result = Result(source.stem, _title(notebook), folder)
    executed = folder / source.name
    start, wall_clock = time.monotonic(), time.time()
    with Progress(source.stem, position, len(notebook.cells) + bool(given), began or start) as progress:
        try:
            papermill.execute_notebook(
                str(source),
                str(executed),
                given,
                kernel_name=KERNEL,
                progress_bar=False,
                on_cell_start=progress.on_cell,
                extra_arguments=["--log-level=CRITICAL"],
            )
        except papermill.PapermillExecutionError as error:
            result.error = f"cell [{error.exec_count}]: {error.ename}: {_first_line(error.evalue)}"
        except Exception as error:  # a dead kernel or a full disk must not take the other notebooks along
            where = f"cell {progress.cell} of {progress.n_cells}"
            result.error = f"{where}: {type(error).__name__}: {_first_line(error)}"
    result.seconds = time.monotonic() - start
    if executed.is_file():
        _make_page(executed, pictures_from=source.parent)
    manifest = folder / "manifest.json"
    if manifest.is_file() and manifest.stat().st_mtime >= wall_clock - 1:
        result.manifest = json.loads(manifest.read_text())
    if not result.error and result.manifest.get("status") != "finished":
        result.error = "it ran through, but wrote no finished manifest.json; its last cell must call run.finish()"
    return result


def _make_page(executed: Path, pictures_from: Path) -> None:
    """Leave each progress bar of an executed notebook in its last state, and write the notebook as HTML beside it."""
    resources = {"metadata": {"path": str(pictures_from), "name": executed.stem}}
    notebook, _ = CoalesceStreamsPreprocessor().preprocess(nbformat.read(executed, as_version=4), resources)
    nbformat.write(notebook, executed)
    body, _ = HTMLExporter(embed_images=True).from_notebook_node(notebook, resources)
    executed.with_suffix(".html").write_text(body)


def _first_line(error: Any) -> str:
    return (str(error).strip().splitlines() or [""])[0]


def _title(notebook: nbformat.NotebookNode) -> str:
    lines = (line for cell in notebook.cells if cell.cell_type == "markdown" for line in cell.source.splitlines())
    return next((line.lstrip("# ") for line in lines if line.startswith("# ")), "untitled")


def _thumbnail(executed: Path) -> str:
    """The last figure of an executed notebook, shrunk, as an <img>; "" if there is none."""
    if not executed.is_file():
        return ""
    outputs = [out for cell in nbformat.read(executed, as_version=4).cells for out in cell.get("outputs", [])]
    pictures = [out["data"]["image/png"] for out in outputs if "image/png" in out.get("data", {})]
    if not pictures:
        return ""
    picture = Image.open(io.BytesIO(base64.b64decode(pictures[-1]))).convert("RGB")
    picture.thumbnail((320, 200))
    picture.save(buffer := io.BytesIO(), format="PNG")
    return f'<img alt="" src="data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}">'


def write_index(results: list[Result], out: Path, profile: str) -> Path:
    """index.html: one row per notebook, with a picture, its status, time, memory and scores."""
    rows = []
    for r in results:
        page = r.folder / f"{r.name}.html"
        link = html.escape(os.path.relpath(page, out))
        memory = f"{r.manifest['peak_memory_mb']} MB" if r.manifest else ""
        status = f'<span class="bad">{html.escape(r.error)}</span>' if r.error else "finished"
        scores = "<br>".join(html.escape(line) for line in _scores(r))
        title = f'<a href="{link}">{html.escape(r.title)}</a>' if page.is_file() else html.escape(r.title)
        cells = (_thumbnail(r.folder / f"{r.name}.ipynb"), title, status, _clock(r.seconds), memory, scores)
        rows.append("<tr>" + "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>")
    style = (
        "body{font:16px/1.5 system-ui,sans-serif;margin:2em auto;max-width:75em;padding:0 1em}"
        "table{border-collapse:collapse}td,th{padding:.5em .8em;border-bottom:1px solid #ccc;text-align:left;"
        "vertical-align:top}img{max-width:320px}.bad{color:#a00}td:last-child{font:13px/1.5 ui-monospace,monospace}"
    )
    page = (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>Cryo-Shift, {profile}</title>'
        f"<style>{style}</style><h1>Cryo-Shift: the series at the {profile} profile</h1>"
        "<table><tr><th></th><th>Notebook</th><th>Status</th><th>Time</th><th>Peak memory</th><th>Scores</th></tr>"
        + "".join(rows)
        + "</table></html>"
    )
    index = out / "index.html"
    partial = index.with_suffix(".partial")
    partial.write_text(page)
    return partial.replace(index)


def _scores(result: Result) -> list[str]:
    return [f"{name} = {_number(value)}" for name, value in result.manifest.get("scores", {}).items()]


def _number(value: Any) -> str:
    if isinstance(value, list) and len(value) == 3 and all(isinstance(v, int | float) for v in value):
        return f"{value[0]:.3g} [{value[1]:.3g}, {value[2]:.3g}]"
    if isinstance(value, list):
        return ", ".join(_number(v) for v in value)
    return "n/a" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)


def _assignment(text: str) -> tuple[str, Any]:
    """name=value, read as the parameter's own type: a text needs no quotes."""
    name, equals, value = text.partition("=")
    if not equals or name not in FIELDS:
        raise InputError(f"'-p {text}' sets no parameter; wanted name=value with a name out of {', '.join(FIELDS)}.")
    if FIELDS[name].annotation is str:
        return name, value
    try:
        return name, ast.literal_eval(value)
    except (ValueError, SyntaxError):
        return name, value


def _select(folder: Path, only: list[str] | None) -> list[Path]:
    found = sorted(folder.glob("[0-9][0-9]_*.ipynb"))
    if not found:
        raise InputError(f"{folder.resolve()} holds no notebooks; run this from the root of the repository.")
    if only is None:
        found = [path for path in found if path.stem < "07"]
    elif unknown := [name for name in only if not any(path.stem.startswith(name) for path in found)]:
        names = [path.stem for path in found]
        wanted = f"{', '.join(names)}{did_you_mean(unknown[0], names)}"
        raise InputError(f"--only {unknown[0]} names no notebook; wanted some of {wanted}")
    else:
        found = [path for path in found if path.stem.startswith(tuple(only))]
    if not found:
        raise InputError(f"{folder} holds no notebook; run this from the repository, or name them with --notebooks.")
    return found


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser("python -m cryoshift_core tutorial", description="Run the series of notebooks.")
    parser.add_argument("--profile", default="laptop", help=" or ".join(PROFILES))
    parser.add_argument("--only", nargs="+", metavar="NN", help="notebooks, by number or name (default: 00 to 06)")
    parser.add_argument("--out", type=Path, help="where results go (default: runs/<profile>)")
    parser.add_argument("-p", action="append", default=[], metavar="NAME=VALUE", help="a parameter of the notebooks")
    parser.add_argument("--notebooks", type=Path, default=root() / "notebooks", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    try:
        parameters = {"profile": options.profile, **dict(_assignment(text) for text in options.p)}
        check(parameters)
        sources = _select(options.notebooks, options.only)
        declared = {name for source in sources for name in papermill.inspect_notebook(str(source))}
        if unused := [name for name in parameters if name not in declared and name != "profile"]:
            wanted = ", ".join(sorted(declared))
            raise InputError(f"No selected notebook has the parameter {unused[0]}; wanted one of {wanted}.")
        if parameters.get("out_dir") and len(sources) > 1:
            raise InputError("-p out_dir is one folder for several notebooks; give --out, or --only one notebook.")
    except InputError as error:
        print(f"InputError: {error}", file=sys.stderr)
        return 2

    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # kernels inherit it; spinning threads starve one another
    out = (options.out or root() / "runs" / options.profile).resolve()
    out.mkdir(parents=True, exist_ok=True)
    started, results = time.monotonic(), []
    try:
        for i, source in enumerate(sources, 1):
            folder = Path(parameters.get("out_dir") or out / source.stem).expanduser()
            result = execute(source, folder, parameters, f"{i}/{len(sources)}", started)
            results.append(result)
            outcome = f"FAILED in {result.error}" if result.error else f"finished in {_clock(result.seconds)}"
            print(f"[{i}/{len(sources)}] {source.stem}: {outcome}", flush=True)
            index = write_index(results, out, options.profile)
    except KeyboardInterrupt:
        print(f"\nStopped; {len(results)} of {len(sources)} notebooks are finished and stay in {out}", file=sys.stderr)
        return 130
    print_summary(results, index, time.monotonic() - started)
    return int(any(result.error for result in results))


def print_summary(results: list[Result], index: Path, seconds: float) -> None:
    """One screen: what every notebook reported, and where to look."""
    print(f"\n{'notebook':36s} {'time':>6s} {'memory':>8s}  scores")
    for r in results:
        memory = f"{r.manifest['peak_memory_mb']} MB" if r.manifest else ""
        lines = [f"FAILED in {r.error}"] if r.error else _scores(r)[:6] or ["finished"]
        print(f"{r.name:36s} {_clock(r.seconds):>6s} {memory:>8s}  {lines[0]}")
        for line in lines[1:]:
            print(f"{'':54s}{line}")
    print(f"\n{_clock(seconds)} in all. Open {index}")


if __name__ == "__main__":
    sys.exit(main())
