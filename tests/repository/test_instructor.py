"""The plans for instructors: times add up, run times are not less than the measured ones, commands and files exist."""

import math
import re

import pytest
from helpers.files import ROOT

from cryoshift_core.course import costs

TEXT = (ROOT / "docs" / "instructor.md").read_text()
SECTIONS = dict(re.findall(r"^## ([^\n]+)\n(.*?)(?=^## |\Z)", TEXT, re.MULTILINE | re.DOTALL))


def rows(section):
    table = [line for line in SECTIONS[section].splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.split("|")[1:-1]] for line in table[2:]]


def test_the_table_of_times_has_every_notebook_and_adds_up():
    found = {row[0].split()[0]: [int(cell) for cell in row[1:]] for row in rows("Times")}
    assert {path.stem.split("_")[0] for path in (ROOT / "notebooks").glob("[0-9]*.ipynb")} <= set(found)
    assert all(reading + exercises == together for _, reading, exercises, together in found.values())
    for name, cost in costs.read("laptop").items():
        number = name.split("_")[0]
        assert found[number][0] >= math.floor(cost.seconds / 60 + 0.5), (
            f"{name} takes longer than docs/instructor.md says"
        )


@pytest.mark.parametrize("plan", ["Half a day", "One day"])
def test_each_part_of_a_plan_starts_when_the_one_before_ends(plan):
    parts = [
        (int(start.split(":")[0]) * 60 + int(start.split(":")[1]), int(minutes)) for start, minutes, _ in rows(plan)
    ]
    assert all(start + minutes == following for (start, minutes), (following, _) in zip(parts, parts[1:], strict=False))
    length = parts[-1][0] + parts[-1][1] - parts[0][0]
    assert length <= {"Half a day": 4 * 60, "One day": 8 * 60}[plan]


def test_targets_and_pages_exist():
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert {"tutorial", "bundle", "lab"} <= set(re.findall(r"`make ([a-z]+)", TEXT)) <= targets
    pages = [target.split("#")[0] for target in re.findall(r"\]\(([^)]+)\)", TEXT)]
    assert pages and not [page for page in pages if not (ROOT / "docs" / page).exists()]


def test_messages_that_it_quotes_are_those_of_the_programs():
    code = "".join(path.read_text() for path in [ROOT / "Makefile", *(ROOT / "cryoshift_core").rglob("*.py")])
    code += (ROOT / "cryoshift_core" / "course" / "install.sh").read_text()
    quoted = [
        message for row in rows("What goes wrong, and what to say") for message in re.findall(r"`([^`]+)`", row[0])
    ]
    assert len(quoted) >= 6
    for message in quoted:
        for piece in message.split("..."):
            known = piece.strip(" :") in code or "Running as root" in piece  # that one is Jupyter's; see test_lab.py
            assert known, f"no program says {piece!r}"
