"""One process a mutant: what it breaks, hangs or eats stays there."""

from __future__ import annotations

import gc
import json
import os
import resource
from collections.abc import Iterator, Sequence
from dataclasses import astuple, dataclass
from typing import NoReturn

import psutil

from experiments._judges import Found, Judge, limit
from experiments._mutants import Mutant

START_SECONDS = 60
"""Processor time to load a mutant, before its judge sets limits."""
MEMORY = 8 << 30
"""Bytes of addresses that a mutant may take, beyond those that its process begins with."""


@dataclass(frozen=True)
class Task:
    """A mutant and its judge."""

    mutant: Mutant
    judge: Judge


def judge_all(tasks: Sequence[Task], jobs: int) -> Iterator[tuple[Task, Found]]:
    """Each mutant's fate, as it becomes known; so many processes at a time."""
    gc.freeze()  # a child that collects garbage would copy all of this process' memory
    running: dict[int, tuple[Task, int]] = {}
    waiting = iter(tasks)
    for _ in tasks:
        while len(running) < jobs and (task := next(waiting, None)):
            process, answer = _start(task)
            running[process] = task, answer
        process, status = os.wait()
        task, answer = running.pop(process)
        with os.fdopen(answer) as pipe:
            told = pipe.read()
        yield task, Found("timeout") if os.WIFSIGNALED(status) else Found(*json.loads(told))


def _start(task: Task) -> tuple[int, int]:
    """Starts a process that judges, and writes what it found to a pipe: its id, and where to read."""
    read, write = os.pipe()
    if child := os.fork():
        os.close(write)
        return child, read
    os.close(read)
    _judge_and_exit(task, write)


def _judge_and_exit(task: Task, answer: int) -> NoReturn:
    nowhere = os.open(os.devnull, os.O_RDWR)
    for stream in range(3):
        os.dup2(nowhere, stream)
    limit(START_SECONDS)
    try:
        _limit_memory()
        found = task.judge.judge(task.mutant)
    except BaseException:  # whatever it is, the mutant is found
        found = Found("exception")
    os.write(answer, json.dumps(astuple(found)).encode())
    os._exit(0)


def _limit_memory() -> None:
    """A forked process begins with all that its parent has mapped: after a thousand tests, more than MEMORY."""
    most = psutil.Process().memory_info().vms + MEMORY
    _, allowed = resource.getrlimit(resource.RLIMIT_AS)
    if allowed != resource.RLIM_INFINITY:
        most = min(most, allowed)
    resource.setrlimit(resource.RLIMIT_AS, (most, most))
