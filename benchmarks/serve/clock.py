"""Processor time of a program and all that it starts, while it runs (Linux)."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from itertools import pairwise
from pathlib import Path
from time import time

EVERY = 0.1
"""Seconds between two looks."""
TICK = 1 / os.sysconf("SC_CLK_TCK")
SESSION, USER, SYSTEM = 3, 11, 12
"""Fields of /proc/PID/stat, counted from behind the name (proc(5))."""


def used(session: int) -> float:
    """Seconds of processor time that the living processes of a session have used."""
    total = 0
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
        except (FileNotFoundError, ProcessLookupError):  # it ended meanwhile
            continue
        if int(fields[SESSION]) == session:
            total += int(fields[USER]) + int(fields[SYSTEM])
    return total * TICK


def watched(
    command: Sequence[str], folder: Path, environment: Mapping[str, str], log: Path
) -> tuple[int, list[tuple[float, float]]]:
    """Runs a command in a session of its own.

    Returns:
        Its exit status; and its processor time so far at several times, both in seconds.
    """
    looks: list[tuple[float, float]] = []
    ended = threading.Event()

    def look() -> None:
        while not ended.wait(EVERY):
            looks.append((time(), used(process.pid)))

    with log.open("w", encoding="utf-8") as output:
        process = subprocess.Popen(
            list(command), cwd=folder, env=environment, stdout=output, stderr=output, start_new_session=True
        )
        watcher = threading.Thread(target=look, daemon=True)
        watcher.start()
        try:
            status = process.wait()
        finally:
            ended.set()
            watcher.join()
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)  # what it left, or all of it on Ctrl-C
    return status, looks


def share(looks: Sequence[tuple[float, float]], first: float, last: float, processors: int) -> float:
    """Share of the machine's processors that was used between two times.

    Only what was added between two looks counts: a process that ends takes its time along.
    """
    inside = [look for look in looks if first <= look[0] <= last]
    added = sum(max(0.0, after - before) for (_, before), (_, after) in pairwise(inside))
    return added / ((inside[-1][0] - inside[0][0]) * processors) if len(inside) > 1 else 0.0
