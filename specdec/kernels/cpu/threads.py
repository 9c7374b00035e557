"""How many threads the kernels use; and torch's own, kept off the cores that those need."""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import torch

from specdec.kernels.cpu import library as native
from specdec.kernels.cpu.forks import disturb, threads_before_fork, undisturbed


class _Held(threading.local):
    """What a thread had before its torch was held to one: the kernels' number, None outside of a block, and torch's."""

    kernels: int | None = None
    torch: int = 1


_held = _Held()


def num_threads() -> int:
    """Threads of a call into the kernels: torch's number, also where torch itself is held to one, as in a step and in
    a child process."""
    return _held.kernels or threads_before_fork() or torch.get_num_threads()


@contextmanager
def torch_on_one_thread() -> Iterator[None]:
    """Inside, torch's operations run on the calling thread alone; the kernels keep all threads.

    After an operation that torch shares among threads, its workers spin for milliseconds, on the very cores where the
    kernels' team works next. On two cores one division of the logits by the temperature doubled the time of the pass
    that followed. Other threads are not touched, whoever enters or leaves first. Changes nothing where there are no
    native kernels, or where torch's threads cannot be limited for one caller. A fork waits for the end of the block.
    """
    limits = _limits()
    with undisturbed():
        if not limits or native.library() is None or _held.kernels is not None:
            yield
            return
        _held.torch, _held.kernels = torch.get_num_threads(), num_threads()
        try:
            _limit(limits, 1)
            yield
        finally:
            _give_back()


def end_blocks() -> None:
    """Ends what an interrupt left open in the calling thread, on its way into a block or out of one."""
    _give_back()
    disturb()


def _give_back() -> None:
    if _held.kernels is not None:
        _limit(_limits(), _held.torch)
        _held.kernels = None


def _limit(limits: tuple[Callable[[int], object], ...], threads: int) -> None:
    for limit in limits:
        limit(threads)


@cache
def _limits() -> tuple[Callable[[int], object], ...]:
    """What limits the threads of torch's operations for the calling thread alone; empty if there is nothing.

    They are what `torch.set_num_threads` calls. That also notes the number for the whole process, and every thread
    takes it over when it first uses torch: one that began during another's step would keep the 1 for good.
    """
    for path in (Path(torch.__file__).parent / "lib").glob("libtorch_cpu.*"):
        try:
            # Finds the OpenMP that torch uses. Unlike CDLL it keeps Python's lock, for calls of a few nanoseconds.
            loaded = ctypes.PyDLL(str(path))
        except OSError:
            continue
        names = ("omp_set_num_threads", "MKL_Set_Num_Threads_Local")  # in capitals: the other takes a pointer
        found = {name: getattr(loaded, name) for name in names if hasattr(loaded, name)}
        if "omp_set_num_threads" in found:
            return tuple(found.values())
    return ()
