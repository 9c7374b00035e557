"""A process that forks while another thread decodes has children that decode, too, and decode the same."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

import pytest
import torch

from specdec import Engine, SamplingParams
from specdec.engine.loop import EngineLoop
from specdec.kernels.cpu import forks
from specdec.kernels.cpu.forks import undisturbed
from specdec.kernels.cpu.threads import num_threads
from specdec.models.native import NativeModel
from tests.engines import DRAFTERS
from tests.kernels.variants import threads
from tests.tiny import llama_module

pytestmark = [pytest.mark.fewer(2), pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")]

PROMPT = [1, 2, 3, 1, 2]
GREEDY, SAMPLED = SamplingParams(max_tokens=20), SamplingParams(max_tokens=20, temperature=0.8, seed=3)
FORKS = 12


def make_loop() -> EngineLoop:
    return EngineLoop(Engine(NativeModel(llama_module(0)), DRAFTERS["ngram"]()))


def decode(loop: EngineLoop, params: SamplingParams) -> list[int]:
    request = loop.engine.make_request(PROMPT, params)
    loop.submit(request)
    for _ in loop.outputs([request]):
        pass
    return list(request.output)


def in_children(work: Callable[[], bool], number: int = 1) -> list[int]:
    """Exit codes of child processes, forked one after the other: 0 if `work` is true, -14 if it does not end."""
    codes = []
    for _ in range(number):
        with warnings.catch_warnings(action="ignore"):  # Python's own, of forks beside threads
            child = os.fork()
        if child == 0:
            signal.alarm(30)
            try:
                os._exit(0 if work() else 1)
            finally:
                os._exit(2)
        codes.append(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
    return codes


@contextmanager
def beside(work: Callable[[], object]) -> Iterator[None]:
    """Another thread that does it over and over, and has begun."""
    begun, enough = threading.Event(), threading.Event()

    def repeat() -> None:
        torch.set_num_threads(2)
        while not enough.is_set():
            work()
            begun.set()

    thread = threading.Thread(target=repeat)
    thread.start()
    try:
        assert begun.wait(60)
        yield
    finally:
        enough.set()
        thread.join(60)


@pytest.mark.parametrize("params", [GREEDY, SAMPLED], ids=["greedy", "sampled"])
@pytest.mark.parametrize("shared", [True, False], ids=["the same loop", "a loop of its own"])
def test_children_of_a_process_that_decodes_decode_the_same(params: SamplingParams, shared: bool) -> None:
    loop = make_loop()
    with threads(2):
        expected = decode(loop, params)
        with beside(lambda: decode(loop, params)):
            number = FORKS if shared else 3
            codes = in_children(lambda: decode(loop if shared else make_loop(), params) == expected, number)
        assert codes == [0] * number
        assert decode(loop, params) == expected


def test_children_can_use_torch_after_their_parent_did_on_several_threads() -> None:
    """OpenMP's workers do not exist in the child, and it waits for them unless it is held to one thread."""
    x = torch.randn(600, 600)
    with threads(2):
        expected = x @ x

        def same() -> bool:
            return torch.allclose(x @ x, expected) and torch.get_num_threads() == 1 and num_threads() == 2

        with beside(lambda: x @ x):
            assert in_children(same, 5) == [0] * 5
        assert (torch.get_num_threads(), num_threads()) == (2, 2)


def test_grandchildren_work_as_well() -> None:
    loop = make_loop()
    with threads(2):
        expected = decode(loop, GREEDY)

        def works() -> bool:
            return in_children(lambda: decode(loop, GREEDY) == expected and num_threads() == 2) == [0]

        assert in_children(works) == [0]


def test_a_number_of_threads_that_a_child_sets_itself_holds() -> None:
    def set_to_three() -> bool:
        torch.set_num_threads(3)
        return num_threads() == 3

    with threads(2):
        assert in_children(set_to_three) == [0]


def test_a_fork_waits_for_the_end_of_a_step_of_another_thread() -> None:
    """And nothing new begins until it is done."""
    inside, leave, told = threading.Event(), threading.Event(), []

    def step() -> None:
        with undisturbed(), undisturbed():
            inside.set()
            leave.wait(60)
            told.append("end")

    def let_go(number: int, frame: FrameType | None) -> None:
        leave.set()

    thread = threading.Thread(target=step)
    thread.start()
    assert inside.wait(60)
    before = signal.signal(signal.SIGALRM, let_go)
    signal.setitimer(signal.ITIMER_REAL, 0.05)  # while this thread waits inside of fork
    try:
        assert in_children(lambda: told == ["end"] and forks._steps.may_begin.is_set()) == [0]
    finally:
        signal.signal(signal.SIGALRM, before)
    thread.join(60)
    assert forks._steps.may_begin.is_set()


def test_a_thread_that_forks_within_its_own_step_does_not_wait_for_itself() -> None:
    """Such as a drafter that starts a program."""

    def nested() -> bool:
        with undisturbed():
            return True

    with undisturbed():
        assert in_children(nested) == [0]
    assert forks._steps.running == set()


POOL = """
import multiprocessing, sys, threading, warnings
warnings.simplefilter("ignore")
import torch
from tests.engine.test_forks import GREEDY, decode, make_loop
torch.set_num_threads(2)
loop = make_loop()
expected = decode(loop, GREEDY)
def work(number):
    return decode(loop, GREEDY)
stop = threading.Event()
def repeat():
    while not stop.is_set():
        decode(loop, GREEDY)
thread = threading.Thread(target=repeat)
thread.start()
with multiprocessing.get_context("fork").Pool(2) as pool:
    assert pool.map_async(work, range(6)).get(60) == [expected] * 6
stop.set()
thread.join()
"""


def test_a_pool_of_processes_decodes_while_a_thread_does() -> None:
    root = Path(__file__).parents[2]
    subprocess.run(
        [sys.executable, "-c", POOL], cwd=root, env={**os.environ, "PYTHONPATH": str(root)}, check=True, timeout=120
    )
