"""Command line: ``python -m cryoshift_core COMMAND``; each command has its own ``--help``."""

from __future__ import annotations

import sys
from importlib import import_module

COMMANDS = {
    "tutorial": ("course.runner", "run the notebooks of the course, one after the other"),
    "evidence": ("benchmark.__main__", "train and score methods on scenarios, into one CSV"),
    "structures": ("simulation.structures", "rebuild the shipped density maps from coordinate files"),
}


def main(arguments: list[str]) -> int:
    """Hand the arguments on to one command; its exit status is returned."""
    if not arguments or arguments[0] not in COMMANDS:
        asked = arguments[0] if arguments else ""
        print("usage: python -m cryoshift_core COMMAND [--help]\n\ncommands:")
        print(*(f"  {name:12} {what}" for name, (_, what) in COMMANDS.items()), sep="\n")
        if asked in ("", "-h", "--help"):
            return 0
        print(f"\n'{asked}' is no command; expected one of {', '.join(COMMANDS)}.", file=sys.stderr)
        return 2
    module = import_module(f"cryoshift_core.{COMMANDS[arguments[0]][0]}")
    return module.main(arguments[1:])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
