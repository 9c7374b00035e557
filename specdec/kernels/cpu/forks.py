"""A process that forks while another thread decodes: the child has only the thread that forked, and must not wait for
the others.

Before a fork the steps that run are let come to their end, so that no lock inside of a library is copied while it is
held. In the child, locks whose owner may be gone are made anew, and torch's operations run on one thread: the OpenMP
that torch uses waits for ever for workers that did not survive.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol
from weakref import WeakSet

import torch

PATIENCE = 5.0
"""Seconds that a fork waits for steps to end; then it goes ahead."""


class Renewable(Protocol):
    """Something with locks."""

    def renew(self) -> None:
        """Makes the locks anew, in a process that no other thread has entered."""


class _Steps:
    """Who is inside a step, and whether others may begin one."""

    def __init__(self) -> None:
        self.running: set[int] = set()
        self.may_begin = threading.Event()
        self.may_begin.set()


_steps = _Steps()
_renewed: WeakSet[Renewable] = WeakSet()
_threads_before: list[int] = []


def renew_in_child(holder: Renewable) -> None:
    """Has `holder.renew()` called in every child process, as long as the object lives."""
    _renewed.add(holder)


def threads_before_fork() -> int | None:
    """In a child whose torch is held to one thread: the number that its parent had. None elsewhere."""
    return _threads_before[0] if _threads_before and torch.get_num_threads() == 1 else None


@contextmanager
def undisturbed() -> Iterator[None]:
    """No fork of another thread falls into the block, unless it takes longer than `PATIENCE`. May be nested."""
    own = threading.get_ident()
    if own in _steps.running:
        yield
        return
    _steps.may_begin.wait()
    _steps.running.add(own)
    try:
        yield
    finally:
        _steps.running.discard(own)  # of the child, if that was forked inside


def disturb() -> None:
    """Ends the calling thread's block, if an interrupt left one open."""
    _steps.running.discard(threading.get_ident())


def _before() -> None:
    _steps.may_begin.clear()
    until = time.monotonic() + PATIENCE
    while _steps.running - {threading.get_ident()} and time.monotonic() < until:
        time.sleep(0.0002)


def _in_parent() -> None:
    _steps.may_begin.set()


def _in_child() -> None:
    global _steps
    inside = threading.get_ident() in _steps.running
    _steps = _Steps()
    if inside:
        _steps.running.add(threading.get_ident())
    for holder in list(_renewed):
        holder.renew()
    if torch.get_num_threads() > 1:
        _threads_before[:] = [torch.get_num_threads()]
        torch.set_num_threads(1)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before, after_in_parent=_in_parent, after_in_child=_in_child)
