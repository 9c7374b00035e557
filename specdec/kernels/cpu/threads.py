"""How many threads the kernels use; and torch's own, kept off the cores that those need."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import torch

from specdec.kernels.cpu import library as native

_team: ContextVar[int | None] = ContextVar("team", default=None)


def num_threads() -> int:
    """Threads of a call into the kernels: torch's number, also where torch itself is held to one."""
    return _team.get() or torch.get_num_threads()


@contextmanager
def torch_on_one_thread() -> Iterator[None]:
    """Inside, torch's operations run on the calling thread alone; the kernels keep all threads.

    After an operation that torch shares among threads, its workers spin for milliseconds, on the very cores where the
    kernels' team works next. On two cores one division of the logits by the temperature doubled the time of the pass
    that followed. Changes nothing where there are no native kernels.
    """
    if native.library() is None or _team.get() is not None:
        yield
        return
    threads = torch.get_num_threads()
    token = _team.set(threads)
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
        _team.reset(token)
