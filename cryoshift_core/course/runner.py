"""The command behind `make tutorial`: runs the series of notebooks, shows its progress, and writes pages to open.

python -m cryoshift_core tutorial [--profile laptop] [--only 02 05] [--out runs/laptop] [--jobs 2] [-p name=value]
"""

from __future__ import annotations

import argparse
import base64
import html
import io
import json
import os
import shutil
import sys
import tempfile
import threading
import time
from contextlib import closing
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import nbformat
import papermill
from nbconvert import HTMLExporter
from nbconvert.preprocessors import CoalesceStreamsPreprocessor, TagRemovePreprocessor
from PIL import Image

from ..application.profiles import PROFILES
from ..application.run_folder import MANIFEST, read_manifest, running_elsewhere, unfinished_folder
from ..errors import InputError
from ..support.runtime import did_you_mean, root, write_text
from . import series
from .costs import FILE, Cost, record, write_tables
from .parameters import FIELDS, check, literal, unknown

KERNEL = "python3"


@dataclass
class Result:
    """Outcome of one notebook. `error` is empty if it succeeded; otherwise `folder` is the NAME.unfinished folder."""

    name: str
    title: str
    folder: Path
    seconds: float = 0.0
    error: str = ""
    manifest: dict[str, Any] = field(default_factory=dict)


class Progress:
    """Progress of one notebook: a line that is updated in place on a terminal, or a new line every 15 s in a log."""

    def __init__(self, name: str, position: str, n_cells: int, started: float, live: bool = True):
        self.name, self.position, self.n_cells, self.cell = name, position, n_cells, 0
        self.started, self.own_start, self.cell_start = started, time.monotonic(), time.monotonic()
        self.live = live and sys.stdout.isatty()
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
    """Make the kernel named python3 the one of this environment, even if the user has registered another one."""
    ours = Path(sys.prefix) / "share" / "jupyter"
    others = [path for path in os.environ.get("JUPYTER_PATH", "").split(os.pathsep) if path]
    os.environ["JUPYTER_PATH"] = os.pathsep.join([str(ours), *others])


def execute(source: Path, folder: Path, parameters: dict[str, Any], position: str = "1/1", began: float = 0,
            live: bool = True) -> Result:  # fmt: skip
    """Outcome of one notebook that papermill executed, and that is then in `Result.folder` as .ipynb and .html.

    Results of an earlier run in `folder` stay untouched until this run has succeeded; then they are moved aside.

    Parameters
    ----------
    source : the .ipynb
    folder : where its results belong; the value of the notebook's parameter `out_dir`, if it has one
    parameters : name -> value; names that the notebook does not declare are left out
    position, began : for the line of progress: for example "2/7", and time.monotonic() at the start of the series
    live : whether a terminal's line of progress may be rewritten in place
    """
    own_kernel_first()
    folder = folder.expanduser().resolve()
    unfinished = unfinished_folder(folder)
    notebook = nbformat.read(source, as_version=4)
    declared = papermill.inspect_notebook(str(source))
    given = {name: value for name, value in {"out_dir": str(folder), **parameters}.items() if name in declared}
    earlier = {read_manifest(place).get("id") for place in (folder, unfinished)}
    result = Result(source.stem, title(notebook), folder)
    start = time.monotonic()
    # Papermill writes elsewhere: the run renames its folder while papermill still writes after each cell.
    with tempfile.TemporaryDirectory(prefix="cryoshift-") as temporary:
        executed = Path(temporary) / source.name
        with Progress(source.stem, position, len(notebook.cells) + bool(given), began or start, live) as progress:
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
            except Exception as error:  # a dead kernel or a full disk must not stop the other notebooks
                where = f"cell {progress.cell} of {progress.n_cells}"
                result.error = f"{where}: {type(error).__name__}: {_first_line(error)}"
        result.seconds = time.monotonic() - start
        own = [place for place in (folder, unfinished) if _is_ours(read_manifest(place), earlier)]
        if own:
            result.folder, result.manifest = own[0], read_manifest(own[0])
        if not result.error and result.manifest.get("status") != "finished":
            result.error = "it ran through, but wrote no finished manifest.json; its last cell must call run.finish()"
        if not own:
            result.folder = unfinished
            if running_elsewhere(read_manifest(unfinished)):  # that folder belongs to the other run
                return result
            shutil.rmtree(unfinished, ignore_errors=True)
        if result.error and own:
            result.manifest |= {"status": "failed", "error": result.error}
            write_text(result.folder / MANIFEST, json.dumps(result.manifest, indent=2) + "\n")
        if executed.is_file():
            _make_page(executed, pictures_from=source.parent)
            result.folder.mkdir(parents=True, exist_ok=True)
            for made in (executed, executed.with_suffix(".html")):
                shutil.move(made, result.folder / made.name)
    return result


def _is_ours(manifest: dict[str, Any], earlier: set[str | None]) -> bool:
    """Whether a kernel that this process has started wrote the manifest, in the present run."""
    return manifest.get("process", {}).get("parent") == os.getpid() and manifest["id"] not in earlier


def _make_page(executed: Path, pictures_from: Path) -> None:
    """Write an executed notebook as HTML beside it. In both, each progress bar is cut to its last state.

    The page lacks the cells tagged remove-cell.
    """
    resources = {"metadata": {"path": str(pictures_from), "name": executed.stem}}
    notebook, _ = CoalesceStreamsPreprocessor().preprocess(nbformat.read(executed, as_version=4), resources)
    nbformat.write(notebook, executed)
    shown, _ = TagRemovePreprocessor(enabled=True, remove_cell_tags={"remove-cell"}).preprocess(notebook, resources)
    body, _ = HTMLExporter(embed_images=True).from_notebook_node(shown, resources)
    write_text(executed.with_suffix(".html"), body)


def _first_line(error: Any) -> str:
    return (str(error).strip().splitlines() or [""])[0]


def title(notebook: nbformat.NotebookNode) -> str:
    """The first heading of a notebook."""
    lines = (line for cell in notebook.cells if cell.cell_type == "markdown" for line in cell.source.splitlines())
    return next((line.lstrip("# ") for line in lines if line.startswith("# ")), "untitled")


def _thumbnail(executed: Path) -> str:
    """The last figure of an executed notebook as a small <img>; "" if there is none."""
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
    """Path of index.html: one row per notebook, with a picture, its status, time, memory and scores."""
    rows = []
    for r in results:
        page = r.folder / f"{r.name}.html"
        link = html.escape(os.path.relpath(page, out))
        memory = _memory(r)
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
    text = (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>Cryo-Shift, {profile}</title>'
        f"<style>{style}</style><h1>Cryo-Shift: the series at the {profile} profile</h1>"
        "<table><tr><th></th><th>Notebook</th><th>Status</th><th>Time</th><th>Peak memory</th><th>Scores</th></tr>"
        + "".join(rows)
        + "</table></html>"
    )
    return write_text(out / "index.html", text)


def _memory(result: Result) -> str:
    return f"{result.manifest['peak_memory_mb']} MB" if result.manifest else ""


def _scores(result: Result) -> list[str]:
    return [f"{name} = {_number(value)}" for name, value in result.manifest.get("scores", {}).items()]


def _number(value: Any) -> str:
    """Text of a score of a manifest: 0.853 [0.832, 0.871] for an interval, a, b, c for a list, n/a for None."""
    if isinstance(value, dict) and set(value) == {"mean", "low", "high"}:
        mean = _number(value["mean"])
        return mean if value["low"] is None else f"{mean} [{_number(value['low'])}, {_number(value['high'])}]"
    if isinstance(value, dict):
        return ", ".join(f"{name}: {_number(item)}" for name, item in value.items())
    if isinstance(value, list):
        return ", ".join(_number(item) for item in value)
    return "n/a" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)


def _assignment(text: str, declared: list[str]) -> tuple[str, Any]:
    """Name and value of "name=value". The value is read as the parameter's type, so a text needs no quotes."""
    name, equals, value = text.partition("=")
    if not equals:
        raise InputError(f"Option -p is '{text}'; expected NAME=VALUE, such as -p seed=1.")
    if name not in declared:
        raise InputError(unknown(name, value, declared))
    if name not in FIELDS or FIELDS[name].annotation is str:
        return name, value
    return name, literal(value)


def _select(folder: Path, only: list[str] | None) -> list[Path]:
    found = sorted(folder.glob("[0-9][0-9]*_*.ipynb"))
    if not found:
        raise InputError(
            f"{folder.resolve()} holds no notebooks; expected 00_*.ipynb and so on. "
            "Run this command from the root of the repository."
        )
    if only is None:
        return [path for path in found if path.stem < "08"]
    names = [path.stem for path in found]
    for name in only:
        if not any(known.startswith(name) for known in names):
            raise InputError(f"--only is {name}; expected some of {', '.join(names)}{did_you_mean(name, names)}")
    numbers = {path.stem.partition("_")[0] for path in found}
    starts = tuple(f"{name}_" if name in numbers else name for name in only)  # 06 is not 06b, and 0 is all of them
    return [path for path in found if path.stem.startswith(starts)]


def main(arguments: list[str] | None = None) -> int:
    """Exit status of the command: 0 if all notebooks succeeded, 1 if one failed, 2 for bad arguments."""
    parser = argparse.ArgumentParser(
        "python -m cryoshift_core tutorial", description="Run the notebooks of the course, one or two at a time."
    )
    parser.add_argument("--profile", default="laptop", help="amount of work: " + " or ".join(PROFILES))
    parser.add_argument("--only", nargs="+", metavar="NN", help="notebooks, by number or name (default: 00 to 07)")
    parser.add_argument("--out", type=Path, help="folder for the results (default: runs/<profile>)")
    parser.add_argument(
        "-p", action="append", default=[], metavar="NAME=VALUE", help="value of a notebook parameter; may be repeated"
    )
    parser.add_argument("--jobs", type=int, default=0, help="notebooks to run at a time (default: 2 where they fit)")
    parser.add_argument(
        "--record-costs",
        action="store_true",
        help="write the measured times and memory to the tables of the notebooks; one notebook at a time",
    )
    parser.add_argument("--notebooks", type=Path, default=root() / "notebooks", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    try:
        check({"profile": options.profile})
        sources = _select(options.notebooks, options.only)
        declared = list(dict.fromkeys(name for path in sources for name in papermill.inspect_notebook(str(path))))
        parameters = {"profile": options.profile, **dict(_assignment(text, declared) for text in options.p)}
        check({name: value for name, value in parameters.items() if name in FIELDS})
        if parameters.get("out_dir") and len(sources) > 1:
            raise InputError(
                f"-p out_dir is one folder for {len(sources)} notebooks; expected one notebook. "
                "Use --out, or choose one with --only."
            )
    except InputError as error:
        print(f"InputError: {error}", file=sys.stderr)
        return 2

    out = (options.out or root() / "runs" / options.profile).expanduser().resolve()
    out.mkdir(parents=True, exist_ok=True)
    jobs = 1 if options.record_costs or len(sources) == 1 else options.jobs or series.fitting_jobs(options.profile)
    started, results = time.monotonic(), list[Result]()
    position = {source.stem: f"{i}/{len(sources)}" for i, source in enumerate(sources, 1)}
    tasks = {
        source.stem: partial(
            execute, source, Path(parameters.get("out_dir") or out / source.stem), parameters, position[source.stem],
            started, jobs == 1,
        )
        for source in sources
    }  # fmt: skip
    try:
        with closing(series.run_all(tasks, jobs, series.reuses(options.notebooks))) as ended:
            for name, found in ended:
                result = found or Result(name, name, unfinished_folder(out / name), error="its process, which died")
                results = sorted([*results, result], key=lambda one: list(position).index(one.name))
                outcome = f"FAILED in {result.error}" if result.error else f"finished in {_clock(result.seconds)}"
                print(f"[{position[name]}] {name}: {outcome}", flush=True)
                index = write_index(results, out, options.profile)
    except KeyboardInterrupt:
        print(f"\nStopped; {len(results)} of {len(sources)} notebooks have ended; see {out}", file=sys.stderr)
        return 130
    print_summary(results, index, time.monotonic() - started)
    if options.record_costs:
        measured = {r.name: Cost(round(r.seconds, 1), r.manifest["peak_memory_mb"]) for r in results if not r.error}
        record(options.profile, measured, options.notebooks / FILE)
        print(*(f"rewrote {path}; run make sync" for path in write_tables(options.notebooks)), sep="\n")
    return int(any(result.error for result in results))


def print_summary(results: list[Result], index: Path, seconds: float) -> None:
    """Print one screen: what every notebook reported, and which page to open."""
    print(f"\n{'notebook':36s} {'time':>6s} {'memory':>8s}  scores")
    for r in results:
        lines = [f"FAILED in {r.error}"] if r.error else _scores(r)[:6] or ["finished"]
        print(f"{r.name:36s} {_clock(r.seconds):>6s} {_memory(r):>8s}  {lines[0]}")
        for line in lines[1:]:
            print(f"{'':54s}{line}")
    print(f"\n{_clock(seconds)} in all. Open {index}")


if __name__ == "__main__":
    sys.exit(main())
