"""The command line: ``python -m cryoshift_core COMMAND``. Each command has its own ``--help``."""

from __future__ import annotations

import os
import sys
from importlib import import_module

COMMANDS = {
    "check": ("application.preflight", "check the input of classify in seconds, before anything is trained"),
    "classify": ("application.classify", "classify the particles of a tomogram, or a stack of subtomograms"),
    "compare": ("benchmark.compare_command", "compare methods on scenarios or on your own data, in one table"),
    "run": ("course.run_command", "run one notebook with parameters of your own"),
    "sweep": ("course.sweep", "check a file of many runs and list them; make sweep runs them"),
    "tutorial": ("course.runner", "run the notebooks of the course"),
    "site": ("course.site", "write the executed notebooks, the pages and the API as HTML"),
    "bundle": ("course.bundle", "write one archive for a workshop without a network"),
    "doctor": ("course.doctor", "check in seconds whether this machine is ready for the course"),
    "exercises": ("course.exercises", "write the notebooks with exercises to fill in, and with their solutions"),
    "evidence": ("benchmark.__main__", "train and score methods on scenarios, into one CSV"),
    "structures": ("simulation.structures", "rebuild the shipped density maps from coordinate files"),
}


def main(arguments: list[str]) -> int:
    """Exit status of the command that the first argument names; the others are its arguments."""
    if not arguments or arguments[0] not in COMMANDS:
        name = arguments[0] if arguments else ""
        print("usage: python -m cryoshift_core COMMAND [--help]\n\ncommands:")
        print(*(f"  {command:12} {text}" for command, (_, text) in COMMANDS.items()), sep="\n")
        if name in ("", "-h", "--help"):
            return 0
        print(f"\n'{name}' is not a command; expected one of {', '.join(COMMANDS)}.", file=sys.stderr)
        return 2
    module = import_module(f"cryoshift_core.{COMMANDS[arguments[0]][0]}")
    return module.main(arguments[1:])


if __name__ == "__main__":
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # before torch; spinning threads stop each other
    sys.exit(main(sys.argv[1:]))
