"""Each exercise both ways: the solution passes, the stub and wrong answers do not, typical mistakes get their hints."""

import re
import time

import nbformat
import pytest
from helpers.files import ROOT

from cryoshift_core.__main__ import main
from cryoshift_core.course import exercises, runner
from cryoshift_core.errors import InputError

MASTERS = sorted((ROOT / "notebooks").glob("0[1-7]*_*.ipynb"))
ALL = [exercise for path in MASTERS for exercise in exercises.read(path)]
each = pytest.mark.parametrize("exercise", ALL, ids=[f"{e.notebook.split('_')[0]}-{e.name}" for e in ALL])


@pytest.fixture(scope="module")
def namespaces():
    """Notebook -> what its import statements define."""
    return {path.stem: exercises.run_code(exercises.imports(path), {"__name__": "exercise"}) for path in MASTERS}


def verdict(exercise, namespaces, code):
    given = exercises.run_code(exercise.given, namespaces[exercise.notebook])
    return exercises.judge(exercise, exercises.run_code(code, given))


@pytest.mark.parametrize("path", MASTERS, ids=[path.stem for path in MASTERS])
def test_every_notebook_has_exercises_and_checks_each_once(path):
    names = [exercise.name for exercise in exercises.read(path)]
    assert 3 <= len(names) <= 5 and len(set(names)) == len(names)
    code = "\n".join(cell.source for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code")
    assert [code.count(f'lesson.check("{name}")') for name in names] == [1] * len(names)
    assert code.count("lesson.check(") == len(names) and "assert not lesson.unsolved()" in code


@pytest.mark.parametrize("path", MASTERS, ids=[path.stem for path in MASTERS])
def test_every_section_asks_first_and_ends_with_a_recap(path):
    text = "\n".join(c.source for c in nbformat.read(path, as_version=4).cells if c.cell_type == "markdown")
    sections = re.split(r"^## (?=(?:Part )?\d)", text, flags=re.MULTILINE)[1:]
    assert len(sections) >= 2 and all(re.match(r".*\(\d+ minutes\)\n", section) for section in sections)
    for section in sections:
        title = section.splitlines()[0]
        assert "**What do you expect?**" in section, title
        recap = re.search(r"^\*\*Recap[^\n]*\*\*\n(- (?:.+\n)+)", section, re.MULTILINE)
        assert recap and len(recap[1].splitlines()) == 3, title


@each
def test_the_solution_is_right_and_the_check_is_fast(exercise, namespaces):
    start = time.process_time()
    found = verdict(exercise, namespaces, exercise.solution)
    assert found.right and found.message == f"Right: {exercise.name}."
    # the slowest answer is compared with everything; loading a library for the first time is not counted
    verdict(exercise, namespaces, exercise.wrong[0])
    assert time.process_time() - start < 4


@each
def test_an_untouched_stub_fails_with_a_friendly_sentence(exercise, namespaces):
    found = verdict(exercise, namespaces, exercise.stub)
    assert found.kind == "unanswered" and not found.right
    assert found.message.startswith(f"Exercise {exercise.name} is not answered yet. Fill in the cell above")


@each
def test_a_cell_that_was_not_run_is_no_answer(exercise, namespaces):
    assert not verdict(exercise, namespaces, "").right


@each
def test_each_typical_mistake_gets_its_own_hint(exercise, namespaces):
    assert len(exercise.mistakes) >= 2
    hints = [mistake.hint for mistake in exercise.mistakes]
    assert len(set(hints)) == len(hints)
    for mistake in exercise.mistakes:
        found = verdict(exercise, namespaces, mistake.code)
        assert found == exercises.Verdict("mistake", f"Not yet: {mistake.hint}"), mistake.code


@each
def test_other_wrong_answers_are_refused(exercise, namespaces):
    assert exercise.wrong
    for code in exercise.wrong:
        found = verdict(exercise, namespaces, code)
        assert found.kind == "wrong" and found.message.startswith("Not yet: "), code


def test_all_noise_is_refused_where_it_once_passed(namespaces):
    """An earlier check of this exercise accepted `return 0, p_t`."""
    (exercise,) = [exercise for exercise in ALL if exercise.name == "gain_and_noise"]
    found = verdict(exercise, namespaces, "def gain_and_noise(p_s, p_t, a):\n    return 0, p_t\n")
    assert found.kind == "mistake" and "the molecule is gone" in found.message


def test_an_error_in_an_answer_is_reported_and_not_raised(namespaces):
    (exercise,) = [exercise for exercise in ALL if exercise.name == "best_loss"]
    found = verdict(exercise, namespaces, "def best_loss(k):\n    return 1 / 0\n")
    assert found == exercises.Verdict(
        "wrong", "Not yet: best_loss(2) raises ZeroDivisionError: division by zero. Expected another value there."
    )


@pytest.mark.parametrize(
    ("a", "b", "agree"),
    [
        (1, 1.00001, True), (1, 1.1, False), (True, 1, False), (float("nan"), float("nan"), True), (None, 0, False),
        ((1, 2), [1, 2], True), ((1, 2), (1, 2, 3), False), ({"a": 1}, {"a": 1.0}, True), ({"a": 1}, {"b": 1}, False),
        ({"x", "y"}, {"y", "x"}, True), ("x", "y", False), ([1, 2], 1, False),
    ],
)  # fmt: skip
def test_values_that_agree(a, b, agree):
    assert exercises.same(a, b) is agree


def test_shapes_must_agree():
    torch = pytest.importorskip("torch")
    assert exercises.same(torch.ones(2), torch.ones(2).numpy())
    assert not exercises.same(torch.ones(2), torch.ones(2, 1)) and not exercises.same(torch.ones(2), 1.0)


MASTER = """# %% [markdown]
# # A lesson, with [words](../docs/words.md) and [a figure](images/a.png)
# %% tags=["given"]
three = 3
# %% tags=["exercise"]
answer = None
# %% tags=["solution"]
answer = three
# %% [raw] tags=["mistakes"]
# name = "answer"
# cases = ["answer"]
# wrong = ["answer = 7"]
# [[mistake]]
# code = "answer = -3"
# hint = "the sign"
# %%
lesson.check("answer")
"""


def masters(folder, text=MASTER, name="01_a_lesson"):
    import jupytext

    folder.mkdir(parents=True, exist_ok=True)
    jupytext.write(jupytext.reads(text, fmt="py:percent"), folder / f"{name}.ipynb")
    return folder


def tags(path):
    return [cell.metadata.get("tags", [""])[0] for cell in nbformat.read(path, as_version=4).cells]


def test_both_sets_come_from_one_master(tmp_path, capsys):
    folder = masters(tmp_path / "course" / "notebooks")
    before = (folder / "01_a_lesson.ipynb").read_bytes()
    out = tmp_path / "course" / "out"
    assert main(["exercises", "--out", str(out), "--notebooks", str(folder)]) == 0
    assert "participant: 1 notebooks" in capsys.readouterr().out
    one, other = (out / name / "01_a_lesson.ipynb" for name in ("participant", "solutions"))
    assert tags(one) == ["", "given", "exercise", ""] and tags(other) == ["", "given", "solution", ""]
    assert "answer = three" not in one.read_text() and "answer = None" not in other.read_text()
    for path in (one, other):
        notebook = nbformat.read(path, as_version=4)
        nbformat.validate(notebook)
        assert "the sign" not in path.read_text() and "jupytext" not in notebook.metadata
        assert "](../../docs/words.md)" in notebook.cells[0].source
        assert "](../../notebooks/images/a.png)" in notebook.cells[0].source
    assert (folder / "01_a_lesson.ipynb").read_bytes() == before
    assert main(["exercises", "--out", str(out), "--notebooks", str(folder)]) == 0, "a second time"


def test_the_real_sets_keep_the_stubs_and_hide_the_answers(tmp_path):
    exercises.write(ROOT / "notebooks", tmp_path)
    for exercise in ALL:
        one, other = (
            "\n".join(c.source for c in nbformat.read(tmp_path / name / f"{exercise.notebook}.ipynb", 4).cells)
            for name in ("participant", "solutions")
        )
        assert exercise.stub.strip() in one and exercise.solution.strip() not in one
        assert exercise.solution.strip() in other and exercise.stub.strip() not in other
        for mistake in exercise.mistakes:
            assert mistake.hint not in one + other
        assert "assert not lesson.unsolved()" not in one and "assert not lesson.unsolved()" in other


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (('name = "answer"', "name = answer"), "in TOML"),
        (('# cases = ["answer"]\n', ""), "'cases'"),
        (("hint", "hnt"), "hnt"),
        (('tags=["solution"]', 'tags=["x"]'), "tagged solution before answer's mistakes"),
        (('tags=["solution"]', 'tags=["exercise"]'), "a second one"),
    ],
)
def test_a_faulty_master_is_reported(tmp_path, change, words):
    folder = masters(tmp_path, MASTER.replace(*change))
    with pytest.raises(InputError, match=words):
        exercises.read(folder / "01_a_lesson.ipynb")


def test_a_folder_without_notebooks_is_reported(tmp_path, capsys):
    assert main(["exercises", "--out", str(tmp_path), "--notebooks", str(tmp_path)]) == 2
    assert "holds no notebooks; expected 00_*.ipynb" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize("number", ["02", "02c", "03", "04b", "05b"])
def test_a_participant_may_run_all_cells_before_any_answer(number, tmp_path, monkeypatch):
    """These use answers in later cells."""
    written = exercises.write(ROOT / "notebooks", tmp_path / "sets")
    (source,) = [p for p in written if p.parent.name == "participant" and p.name.startswith(f"{number}_")]
    monkeypatch.chdir(tmp_path)
    result = runner.execute(source, tmp_path / "out", {"profile": "smoke", "device": "cpu"})
    assert result.error == ""
    executed = nbformat.read(tmp_path / "out" / source.name, as_version=4)
    outputs = [o for cell in executed.cells for o in cell.get("outputs", [])]
    printed = "".join(o.get("text", "") for o in outputs)
    asked = exercises.read(ROOT / "notebooks" / source.name)
    assert printed.count("is not answered yet. Fill in the cell above") == len(asked)
    assert "[[mistake]]" not in (tmp_path / "out" / f"{source.stem}.html").read_text()
