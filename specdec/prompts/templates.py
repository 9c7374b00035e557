"""Chat templates run in a process of their own, within limits on time, memory and output."""

from __future__ import annotations

import atexit
import contextlib
import marshal
import os
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import IO, Any, Literal

import jinja2
import markupsafe
import psutil

WORKER = Path(__file__).with_name("template_worker.py")
LIMITS_MEMORY = Path("/proc/self/statm").exists()
"""Whether the process can limit its own memory: it reads there how much it has. Elsewhere it is watched from here."""
WATCH, BARE = 0.01, 64 << 20
"""Seconds between two looks at a process, and bytes that it has before it renders anything."""
OPTIONS = ("-I", "-S", "-B", "-X", "utf8")
"""Of Python: nothing of the user's folders and variables, no hooks of site-packages, nothing written."""
KEPT_ENVIRONMENT = ("LD_LIBRARY_PATH", "TZ")
"""What the process may know of the environment: how Python starts, and which time it is."""


class TemplateError(Exception):
    """Why a template made no text: its own complaint, a mistake in it, or a limit."""


@dataclass(frozen=True)
class Limits:
    """What rendering one chat may take.

    Args:
        seconds: processor time; a template takes about 0.0003.
        memory: bytes, beyond what holds the messages.
        characters: of output, beyond four times the messages'.
        wait: seconds until an answer is there, however busy the machine is.
    """

    seconds: float = 2.0
    memory: int = 256 << 20
    characters: int = 1 << 20
    wait: float = 60.0


def render(template: str, variables: Mapping[str, Any], limits: Limits = Limits()) -> str:
    """The text that a template makes, as transformers' `apply_chat_template` would. Safe in any thread.

    Args:
        template: in Jinja.
        variables: name → value of plain types: None, bool, int, float, str, lists, tuples and dicts of those.
        limits: what it may take.

    Raises:
        TemplateError: if it makes none within the limits.
    """
    return _process.ask("render", template, dict(variables), limits)


@lru_cache(maxsize=64)
def names(template: str) -> frozenset[str]:
    """Names of the variables that a template reads.

    Raises:
        TemplateError: if it cannot be parsed within the limits.
    """
    return frozenset(_process.ask("names", template, {}, Limits()).split())


class _TemplateProcess:
    """One process for all templates. It starts at the first one, and again after it has ended."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._running: subprocess.Popen[bytes] | None = None

    def ask(
        self, operation: Literal["render", "names"], template: str, variables: dict[str, Any], limits: Limits
    ) -> str:
        """What an operation of the worker answers.

        Raises:
            TemplateError: if it answers with an error, not in time, or not at all.
        """
        given = len(marshal.dumps((template, variables)))
        memory, characters = limits.memory + 32 * given, limits.characters + 4 * given
        caps = (limits.seconds, memory if LIMITS_MEMORY else 0, characters)
        job = marshal.dumps((operation, template, variables, caps))
        with self._lock:
            status, text = self._answer(job, replace(limits, memory=memory), 4 * characters)
            if status == b"L":
                self._stop()
        if status != b"T":
            raise TemplateError(text)
        return text

    def close(self) -> None:
        """Ends the process."""
        with self._lock:
            self._stop()

    def _answer(self, job: bytes, limits: Limits, longest: int) -> tuple[bytes, str]:
        fresh = self._running is None
        try:
            return self._exchange(job, limits, longest)
        except EOFError:
            code = self._stop()
        if fresh or code == -signal.SIGPROF:
            raise TemplateError(_why(code, limits))
        return self._answer(job, limits, longest)  # an earlier template, or somebody else, may have ended it

    def _exchange(self, job: bytes, limits: Limits, longest: int) -> tuple[bytes, str]:
        process = self._started()
        try:
            with contextlib.suppress(BrokenPipeError):  # it has ended, and so does its output
                _write(process.stdin, len(job).to_bytes(8, "little") + job)
            return _read_answer(process, limits, longest)
        except EOFError:
            raise
        except BaseException:  # an answer that nobody reads would be taken for the next one's
            self._stop()
            raise

    def _started(self) -> subprocess.Popen[bytes]:
        if self._running is not None and self._running.poll() is not None:
            self._stop()
        if self._running is None:
            self._running = _start()
        return self._running

    def _stop(self) -> int:
        """Ends it and returns its exit status."""
        process, self._running = self._running, None
        if process is None:
            return 0
        assert process.stdin is not None
        with process:
            process.stdin.close()  # an idle one ends by itself
            try:
                return process.wait(0.2)
            except subprocess.TimeoutExpired:
                process.kill()
        return process.returncode


def _start() -> subprocess.Popen[bytes]:
    """A worker; raises TemplateError if the system starts none."""
    places = dict.fromkeys(str(Path(str(package.__file__)).parent.parent) for package in (jinja2, markupsafe))
    try:
        return subprocess.Popen(
            [sys.executable or "python", *OPTIONS, str(WORKER), *places],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            bufsize=0,
            env={name: os.environ[name] for name in KEPT_ENVIRONMENT if name in os.environ},
            start_new_session=True,  # a Ctrl-C in the terminal is not for it
        )
    except OSError as error:
        raise TemplateError(f"the process for it cannot be started: {error}") from error


def _write(pipe: IO[bytes] | None, data: bytes) -> None:
    assert pipe is not None
    view = memoryview(data)
    while view:
        view = view[pipe.write(view) :]


def _read_answer(process: subprocess.Popen[bytes], limits: Limits, longest: int) -> tuple[bytes, str]:
    pipe = process.stdout
    assert pipe is not None
    poll = select.poll()
    poll.register(pipe, select.POLLIN)
    deadline = time.monotonic() + limits.wait

    def read(count: int, pipe: IO[bytes] = pipe) -> bytes:
        data = bytearray()
        while len(data) < count:
            while not poll.poll(
                1000 * min(max(0, deadline - time.monotonic()), limits.wait if LIMITS_MEMORY else WATCH)
            ):
                if time.monotonic() >= deadline:
                    raise TemplateError(f"it gave no answer in {limits.wait:g} s")
                _check_memory(process, limits.memory)
            if not (piece := pipe.read(count - len(data))):
                raise EOFError
            data += piece
        return bytes(data)

    head = read(9)
    length = int.from_bytes(head[1:], "little")
    if length > longest:
        raise TemplateError(f"it makes more than {longest} bytes")
    return head[:1], read(length).decode()


def _check_memory(process: subprocess.Popen[bytes], most: int) -> None:
    """Ends a process that cannot limit its own memory and has taken too much."""
    with contextlib.suppress(psutil.Error):  # it has ended
        if psutil.Process(process.pid).memory_info().rss > BARE + most:
            process.kill()
            raise TemplateError(f"it takes more than {most >> 20} MB of memory")


def _why(status: int, limits: Limits) -> str:
    """An exit status in words."""
    if status == -signal.SIGPROF:
        return f"it takes more than {limits.seconds:g} s of processor time"
    return f"it ended the process that ran it ({f'signal {-status}' if status < 0 else f'exit status {status}'})"


_process = _TemplateProcess()


def _start_anew() -> None:
    """In a forked child: the process is the parent's, and the lock may be held by a thread that is not here."""
    global _process
    _process = _TemplateProcess()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_start_anew)
atexit.register(lambda: _process.close())
