"""Print the coverage of the last test run by folder; exit 1 where a module of the root is below 95 %."""

from __future__ import annotations

import sys
from collections import defaultdict
from pathlib import Path

import coverage

LEAST = 0.95


def main() -> int:
    data = coverage.Coverage()
    data.load()
    lines: dict[str, list[int]] = defaultdict(lambda: [0, 0])
    low = []
    for name in sorted(name for name in data.get_data().measured_files() if name.endswith(".py")):
        path = Path(name).relative_to(Path.cwd())
        _, statements, _, missing, _ = data.analysis2(name)
        lines[str(path.parent)][0] += len(statements)
        lines[str(path.parent)][1] += len(missing)
        covered = 1 - len(missing) / max(1, len(statements))
        if str(path.parent) == "cryoshift_core" and covered < LEAST:
            low.append(f"{path} has {covered:.0%}; expected at least {LEAST:.0%}")
    print("\ncoverage by folder (notebooks run in processes of their own and do not count)")
    for folder, (statements, missing) in lines.items():
        print(f"{folder:32} {statements - missing:5} of {statements:5} statements  {1 - missing / statements:.1%}")
    print(*low, sep="\n", file=sys.stderr)
    return int(bool(low))


if __name__ == "__main__":
    sys.exit(main())
