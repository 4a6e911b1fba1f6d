"""What the repository promises: one package set, paired notebooks without outputs, commands that exist."""

import ast
import os
import re
import shutil
import subprocess
import sys
import tomllib

import jupytext
import nbformat
import papermill
import pytest
import yaml
from helpers.files import ROOT

import cryoshift_core
from cryoshift_core import __version__
from cryoshift_core.course.parameters import FIELDS, check

NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
each_notebook = pytest.mark.parametrize("path", NOTEBOOKS, ids=[path.stem for path in NOTEBOOKS])


def normal(name):
    return re.sub(r"[-_.]+", "-", name).lower()


def pins(lines):
    found = [re.fullmatch(r"([\w.-]+)==(\S+)", line.strip()) for line in lines]
    return {normal(match[1]): match[2] for match in found if match}


def constraints():
    return pins((ROOT / "constraints.txt").read_text().splitlines())


def direct():
    extras = PROJECT["optional-dependencies"]
    wanted = PROJECT["dependencies"] + extras["test"] + extras["formats"] + extras["lab"] + extras["site"]
    return {normal(re.match(r"[\w.-]+", requirement)[0]) for requirement in wanted}


def test_every_constraint_is_a_plain_pin():
    lines = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if line.strip()]
    assert len(constraints()) == len(lines) > 50
    assert constraints()["torch"] == "2.13.0"
    assert not [version for version in constraints().values() if "+" in version]


def test_every_dependency_is_pinned():
    assert len(direct()) > 20
    assert direct() <= set(constraints())


def test_conda_users_get_the_same_set():
    environment = yaml.safe_load((ROOT / "environment.yml").read_text())
    (pip,) = [entry["pip"] for entry in environment["dependencies"] if isinstance(entry, dict)]
    assert "python=3.11" in environment["dependencies"]
    assert "-c constraints.txt" in pip and "-e ." in pip
    assert pins(pip) == {name: version for name, version in constraints().items() if name in direct()}
    assert len(pip) == len(direct()) + 2


def test_what_runs_here_is_what_is_pinned():
    from importlib import metadata

    for name in direct():
        assert metadata.version(name).split("+")[0] == constraints()[name], name


def test_the_version_stands_in_one_form():
    assert PROJECT["version"] == __version__


def test_notebooks_were_found():
    assert len([path for path in NOTEBOOKS if path.stem[0] == "0"]) >= 7


@each_notebook
def test_a_notebook_and_its_text_say_the_same(path):
    text = jupytext.read(path.with_suffix(".py"))
    notebook = jupytext.read(path)
    pairs = [
        [(cell.cell_type, cell.source, cell.metadata.get("tags", [])) for cell in side.cells]
        for side in (text, notebook)
    ]
    assert pairs[0] == pairs[1], "they differ: run make sync"


def test_no_text_lacks_its_notebook():
    assert {path.stem for path in (ROOT / "notebooks").glob("*.py")} == {path.stem for path in NOTEBOOKS}


@each_notebook
def test_a_notebook_is_committed_without_outputs(path):
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    assert notebook.metadata.kernelspec.name == "python3"
    for cell in notebook.cells:
        assert not cell.get("outputs") and cell.get("execution_count") is None


@each_notebook
def test_parameters_are_typed_known_and_visible_to_papermill(path):
    cells = nbformat.read(path, as_version=4).cells
    tagged = [cell for cell in cells if "parameters" in cell.metadata.get("tags", [])]
    assert len(tagged) == 1
    statements = ast.parse(tagged[0].source).body
    assert statements and all(isinstance(statement, ast.AnnAssign) for statement in statements)
    declared = {statement.target.id: ast.literal_eval(statement.value) for statement in statements}
    assert set(declared) <= set(FIELDS)
    assert {"profile", "seed", "out_dir"} <= set(declared)
    check(declared, declared)
    inspected = papermill.inspect_notebook(str(path))
    assert set(inspected) == set(declared), "papermill sees `name: type = value  # help` with one = on a line"
    assert all(parameter["help"] for parameter in inspected.values()), "each parameter needs a help text"
    for name, parameter in inspected.items():
        assert parameter["inferred_type_name"] == type(declared[name]).__name__, name


@each_notebook
def test_nothing_plain_is_assigned_before_the_parameters_are_checked(path):
    """run.begin takes plain values beside the annotated ones for parameters that somebody passed."""
    for cell in nbformat.read(path, as_version=4).cells:
        if cell.cell_type != "code":
            continue
        code = "\n".join(line for line in cell.source.splitlines() if not line.startswith(("%", "!")))
        if "= begin(" in code:
            assert f'begin("{path.stem}", globals())' in code
            return
        assert not [node for node in ast.walk(ast.parse(code)) if isinstance(node, ast.Assign | ast.AugAssign)]
    pytest.fail("no cell calls begin")


@each_notebook
def test_the_first_cells_say_what_and_how_long(path):
    cells = nbformat.read(path, as_version=4).cells
    (at,) = [i for i, cell in enumerate(cells) if "parameters" in cell.metadata.get("tags", [])]
    words = "\n".join(cell.source for cell in cells[:at] if cell.cell_type == "markdown")
    assert words.startswith("# ")
    for pattern in (r"learn", r"need", r"laptop", r"\d+ ?(s|seconds|min|minutes)\b", r"\d+(\.\d+)? ?(MB|GB)"):
        assert re.search(pattern, words, re.IGNORECASE), f"the opening lacks {pattern}"


@each_notebook
def test_a_notebook_ends_with_what_to_take_away(path):
    cells = nbformat.read(path, as_version=4).cells
    assert re.search(r"take away", "\n".join(c.source for c in cells if c.cell_type == "markdown"), re.IGNORECASE)
    assert "run.finish()" in "\n".join(c.source for c in cells if c.cell_type == "code")


def names_used(path):
    """Every name and attribute in a Python file."""
    nodes = list(ast.walk(ast.parse(path.read_text())))
    names = {node.id for node in nodes if isinstance(node, ast.Name)}
    return names | {node.attr for node in nodes if isinstance(node, ast.Attribute)}


def test_held_out_labels_are_loaded_by_the_evaluation_alone():
    """tests/course watches which notebooks open label files; this finds calls on paths that they do not take."""
    readers = {path.stem.split("_")[0] for path in NOTEBOOKS if "load_labels" in names_used(path.with_suffix(".py"))}
    assert readers == {"05"}
    package = [path for path in (ROOT / "cryoshift_core").rglob("*.py") if "load_labels" in names_used(path)]
    wings = {path.relative_to(ROOT / "cryoshift_core").parts[0] for path in package}
    assert wings == {"benchmark", "course", "simulation"}, "simulation defines it, the benchmark scores with it"
    course = [path.name for path in package if path.parent.name == "course"]
    assert course == ["practice.py"], "the course opens the practice key, which tests/course/test_practice.py guards"
    revealing = {path.stem.split("_")[0] for path in NOTEBOOKS if "reveal" in names_used(path.with_suffix(".py"))}
    assert revealing == {"02", "02c"}
    openers = [p for p in (ROOT / "cryoshift_core").rglob("*.py") if ".labels.safetensors" in p.read_text()]
    assert [path.name for path in openers] == ["datasets.py"]


def test_commands_of_the_readme_exist():
    readme = (ROOT / "README.md").read_text()
    makefile = (ROOT / "Makefile").read_text()
    targets = set(re.findall(r"^([a-z]+):", makefile, re.MULTILINE))
    blocks = "\n".join(re.findall(r"```(?:bash|sh|console)?\n(.*?)```", readme, re.DOTALL))
    used = set(re.findall(r"\bmake ([a-z]+)", blocks)) | set(re.findall(r"`make ([a-z]+)", readme))
    assert {"tutorial", "test", "lab"} <= used <= targets
    for module in re.findall(r"python -m ([\w.]+)", blocks):
        done = subprocess.run([sys.executable, "-m", module, "--help"], capture_output=True, text=True)
        assert done.returncode == 0, f"{module}: {done.stderr}"


def test_files_that_the_readme_points_to_exist():
    readme = (ROOT / "README.md").read_text()
    targets = re.findall(r"\]\(([^)#]+)\)", readme)
    here = [target for target in targets if "://" not in target]
    assert here and not [target for target in here if not (ROOT / target).exists()]


def test_documented_parameters_are_those_of_notebook_06():
    (path,) = [path for path in NOTEBOOKS if path.stem.startswith("06_")]
    declared = set(papermill.inspect_notebook(str(path)))
    section = (ROOT / "docs" / "own_data.md").read_text().split("## Parameters")[1]
    table = set(re.findall(r"^\| `(\w+)`", section, re.MULTILINE))
    assert {"subtomograms", "tomogram", "coordinates", "classes", "pixel_size", "contrast", "box"} <= declared
    assert {"profile", "method", "seed", "out_dir"} <= declared
    assert table == declared


def test_the_readme_is_short_and_in_order():
    lines = (ROOT / "README.md").read_text().splitlines()
    assert len(lines) <= 160
    titles = [line.removeprefix("## ") for line in lines if line.startswith("## ")]
    wanted = ["Two commands", "Ten lines", "Your own tomogram", "The notebooks", "Results"]
    assert titles[:5] == wanted and titles[-2:] == ["Citation", "Licence"]


def test_the_snippet_of_the_readme_is_that_of_the_package():
    in_readme = re.search(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)[1]
    in_package = cryoshift_core.__doc__.split("::\n")[1].split("The root of the package")[0]
    assert "".join(in_readme.split()) == "".join(in_package.split())


def lint_imports(folder):
    """Run the contracts of pyproject.toml on the packages in `folder`."""
    script = "import sys; sys.path.insert(0, '.'); from importlinter.cli import lint_imports_command as c; c()"
    environment = {**os.environ, "PYTHONPATH": str(folder)}
    command = [sys.executable, "-c", script, "--no-cache"]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)


def test_import_contracts_hold_and_catch_a_wrong_import(tmp_path):
    for name in ("cryoshift_core", "data_fetch", "pyproject.toml"):
        source, copy = ROOT / name, tmp_path / name
        ignore = shutil.ignore_patterns("__pycache__", "templates", "sample")
        shutil.copytree(source, copy, ignore=ignore) if source.is_dir() else shutil.copy(source, copy)
    done = lint_imports(tmp_path)
    assert done.returncode == 0, done.stdout
    for module, line in {
        "cryoshift_core/losses.py": "from .simulation import optics",
        "cryoshift_core/simulation/optics.py": "from .. import training",
        "cryoshift_core/application/report.py": "from ..course import figures",
        "cryoshift_core/tomography/mrc.py": "import data_fetch",
    }.items():
        path = tmp_path / module
        before = path.read_text()
        path.write_text(before + f"\n{line}\n")
        done = lint_imports(tmp_path)
        assert done.returncode == 1 and "BROKEN" in done.stdout, f"{module}: {line} passes"
        path.write_text(before)


def test_the_root_of_the_package_is_thin():
    """An afternoon's reading: about 2,700 lines of method, docstrings included."""
    modules = [path for path in (ROOT / "cryoshift_core").glob("*.py") if not path.stem.startswith("__")]
    assert sum(len(path.read_text().splitlines()) for path in modules) <= 2770


def test_code_names_no_folder_of_a_builder():
    for path in [*(ROOT / "cryoshift_core").rglob("*.py"), *(ROOT / "data_fetch").rglob("*.py"), *NOTEBOOKS]:
        assert not re.search(r"[\"'(]/(work|root|home|tmp)\b|\.\./shared", path.read_text()), path
