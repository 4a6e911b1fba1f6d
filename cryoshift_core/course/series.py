"""Several notebooks at a time: each in a process of its own, and none before the one whose data and fits it uses."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Generator, Mapping
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any, TypeVar

import psutil

from . import costs

REUSES = "reuses.json"  # number of a notebook -> number of the one that leaves the data and fits that it uses
MARGIN = 1.25  # of the measured memory
T = TypeVar("T")


def number(name: str) -> str:
    """Number of a notebook, such as 02b."""
    return name.partition("_")[0]


def reuses(notebooks: Path) -> dict[str, str]:
    """Content of reuses.json in the folder of the notebooks; empty where it has none."""
    path = notebooks / REUSES
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


def fitting_jobs(profile: str) -> int:
    """Notebooks to run at a time: two if there are two cores and memory for the two largest, otherwise one."""
    largest = sorted(cost.memory_mb for cost in costs.read(profile).values())[-2:]
    room = psutil.virtual_memory().available / 1e6
    return 2 if (os.cpu_count() or 1) >= 2 and largest and MARGIN * sum(largest) < room else 1


def followers(of: str, uses: Mapping[str, str]) -> int:
    """How many notebooks have to wait for one, directly or for one that waits for it."""
    return sum(1 + followers(name, uses) for name, used in uses.items() if used == of)


def run_all(
    tasks: Mapping[str, Callable[[], T]], jobs: int, uses: Mapping[str, str]
) -> Generator[tuple[str, T | None], None, None]:
    """Name and value of each task when it ends; a value of None where its process died.

    With one job the tasks run here, in their order. With more, each runs in a process with its part of the cores, and
    waits for the task that it uses; those that most others wait for go first. An interruption is passed on to the
    processes.

    Parameters
    ----------
    tasks : name of a notebook -> call without arguments; it must be picklable
    jobs : tasks to run at a time
    uses : number -> number of the notebook to wait for, if it is among the tasks and has not ended
    """
    if jobs == 1:
        for name, task in tasks.items():
            yield name, task()
        return
    threads = max(1, (os.cpu_count() or 1) // jobs)
    left, running = dict(tasks), dict[Connection, tuple[str, Any]]()
    try:
        while left or running:
            busy = {number(name) for name in (*left, *(name for name, _ in running.values()))}
            free = [name for name in left if uses.get(number(name)) not in busy]
            free.sort(key=lambda name: -followers(number(name), uses))
            for name in free[: jobs - len(running)]:
                here, there = multiprocessing.Pipe(duplex=False)
                process = multiprocessing.Process(target=_work, args=(there, left.pop(name), threads), name=name)
                before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})  # lost while it is being made
                try:
                    process.start()
                finally:
                    signal.pthread_sigmask(signal.SIG_SETMASK, before)
                there.close()
                running[here] = name, process
            for ready in wait(list(running)):
                assert isinstance(ready, Connection)
                name, process = running[ready]
                try:
                    value = ready.recv()
                except EOFError:
                    value = None
                process.join()
                del running[ready]
                yield name, value
    finally:
        for _, process in running.values():
            if process.is_alive():
                os.kill(process.pid, signal.SIGINT)
        for _, process in running.values():
            process.join()


def _work(connection: Connection, task: Callable[[], Any], threads: int) -> None:
    os.setsid()  # Ctrl-C in the terminal reaches the parent alone, which passes it on once
    threading.Thread(target=_end_with_the_parent, daemon=True).start()
    os.environ.setdefault("OMP_NUM_THREADS", str(threads))
    try:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
        connection.send(task())
    except KeyboardInterrupt:
        os._exit(130)


def _end_with_the_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    wait([parent.sentinel])
    os._exit(1)
