"""Who runs on how many threads during a step."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from specdec import Drafter, DraftRequest, DraftTree, SamplingParams
from specdec.cache import PagedCache
from specdec.errors import SpecdecError
from specdec.kernels.cpu import threads as team
from specdec.kernels.cpu.threads import num_threads, torch_on_one_thread
from specdec.kernels.linear import pack
from specdec.models.base import Wants
from specdec.models.batch import RaggedBatch, SequenceRows
from specdec.models.native import NativeModel
from tests.engines import add, small_engine
from tests.kernels.variants import threads
from tests.tiny import llama_module


class Watching(Drafter):
    """Notes the numbers of threads, and fails if told to."""

    name = "watching"

    def __init__(self, fails: bool) -> None:
        super().__init__()
        self.fails = fails
        self.seen: list[tuple[int, int]] = []

    def propose(self, requests: list[DraftRequest]) -> list[DraftTree]:  # type: ignore[override]
        """Nothing."""
        self.seen.append((torch.get_num_threads(), num_threads()))
        if self.fails:
            raise SpecdecError("on purpose")
        return [DraftTree()] * len(requests)


@pytest.mark.parametrize("fails", [False, True], ids=["goes well", "fails"])
def test_a_step_leaves_the_cores_to_the_kernels_and_gives_them_back(fails: bool) -> None:
    drafter = Watching(fails)
    with threads(2):
        engine = small_engine(drafter)
        add(engine, [1, 2, 3], SamplingParams(max_tokens=3))
        engine.step()
        assert drafter.seen == [(1, 2)]
        assert (torch.get_num_threads(), num_threads()) == (2, 2)


def test_blocks_may_be_nested() -> None:
    with threads(2), torch_on_one_thread():
        with torch_on_one_thread():
            assert (torch.get_num_threads(), num_threads()) == (1, 2)
        assert (torch.get_num_threads(), num_threads()) == (1, 2)


class Caller:
    """A thread that steps when told to; it does not use torch before its first step."""

    def __init__(self) -> None:
        self.pool = ThreadPoolExecutor(max_workers=1)
        self.steps: list[AbstractContextManager[None]] = []

    def do(self, work: Callable[[], tuple[int, int]]) -> tuple[int, int]:
        """What `work` returns in this thread, when it is done."""
        return self.pool.submit(work).result(timeout=60)

    def enter(self) -> tuple[int, int]:
        self.steps.append(torch_on_one_thread())
        self.steps[-1].__enter__()
        return numbers()

    def leave(self, fails: bool = False) -> tuple[int, int]:
        error = ValueError("on purpose") if fails else None
        self.steps.pop().__exit__(type(error) if error else None, error, None)
        return numbers()


def numbers() -> tuple[int, int]:
    """Threads of torch and of the kernels, as the calling thread has them."""
    return torch.get_num_threads(), num_threads()


@contextmanager
def callers(number: int) -> Iterator[list[Caller]]:
    made = [Caller() for _ in range(number)]
    try:
        yield made
    finally:
        for caller in made:
            caller.pool.shutdown()


INSIDE, OUTSIDE = (1, 2), (2, 2)


@pytest.mark.parametrize("fails", [False, True], ids=["goes well", "fails"])
@pytest.mark.parametrize("first_out", [0, 1])
def test_steps_of_two_threads_that_overlap_leave_both_as_they_were(first_out: int, fails: bool) -> None:
    """The second thread meets torch inside the first one's step, and either may leave first."""
    with threads(2), callers(2) as both:
        assert both[0].do(both[0].enter) == INSIDE
        assert both[1].do(both[1].enter) == INSIDE
        assert both[first_out].do(lambda: both[first_out].leave(fails)) == OUTSIDE
        other = both[1 - first_out]
        assert other.do(numbers) == INSIDE
        assert other.do(other.leave) == OUTSIDE
        assert both[first_out].do(numbers) == numbers() == OUTSIDE


def test_a_thread_that_begins_during_a_step_of_another_has_all_threads() -> None:
    with threads(2), callers(3) as (stepping, beside, after):
        stepping.do(stepping.enter)
        assert beside.do(numbers) == numbers() == OUTSIDE
        stepping.do(stepping.leave)
        assert beside.do(beside.enter) == INSIDE
        assert after.do(numbers) == OUTSIDE
        assert beside.do(beside.leave) == OUTSIDE


def test_every_thread_gets_its_own_number_back() -> None:
    with threads(2), callers(2) as (one, other):
        assert one.do(lambda: torch.set_num_threads(3) or numbers()) == (3, 3)
        assert other.do(lambda: torch.set_num_threads(2) or numbers()) == OUTSIDE
        assert (one.do(one.enter), other.do(other.enter)) == ((1, 3), INSIDE)
        assert (one.do(one.leave), other.do(other.leave)) == ((3, 3), OUTSIDE)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 2), st.booleans(), st.booleans()), max_size=16))
def test_steps_may_overlap_and_be_nested_in_any_order(moves: list[tuple[int, bool, bool]]) -> None:
    with threads(2), callers(3) as three:
        for index, enters, fails in moves:
            caller = three[index]
            if enters:
                caller.do(caller.enter)
            elif caller.steps:
                caller.do(lambda caller=caller, fails=fails: caller.leave(fails))  # type: ignore[misc]
            assert caller.do(numbers) == (INSIDE if caller.steps else OUTSIDE)
        for caller in three:
            assert caller.do(numbers) == (INSIDE if caller.steps else OUTSIDE)
            while caller.steps:
                caller.do(caller.leave)
        assert [caller.do(numbers) for caller in three] == [OUTSIDE] * 3
        assert numbers() == OUTSIDE


def test_matrix_products_are_held_to_one_thread_as_well(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every limit is set on the way in, and set back on the way out."""
    calls: list[tuple[str, int]] = []
    noted = (lambda n: calls.append(("openmp", n)), lambda n: calls.append(("mkl", n)))
    monkeypatch.setattr(team, "_limits", lambda: noted)
    with threads(2), torch_on_one_thread():
        assert calls == [("openmp", 1), ("mkl", 1)]
    assert calls[2:] == [("openmp", 2), ("mkl", 2)]


def test_where_nothing_limits_one_caller_torch_keeps_its_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(team, "_limits", tuple)
    with threads(2), torch_on_one_thread():
        assert numbers() == OUTSIDE


def test_passes_and_products_of_several_threads_have_the_bits_that_they_have_alone() -> None:
    """All callers share the workers, and the buffers that passes keep; a failure may hang, hence the limits."""
    works = [passes(0, hidden_size=32, num_layers=2), passes(1, hidden_size=64, num_layers=3), *map(products, (40, 97))]
    start, right = threading.Barrier(len(works), timeout=60), [0] * len(works)

    def repeat(index: int, wanted: Tensor) -> None:
        start.wait()
        right[index] = sum(torch.equal(works[index](), wanted) for _ in range(100))

    with threads(2):
        alone = [work() for work in works]
        running = [threading.Thread(target=repeat, args=each, daemon=True) for each in enumerate(alone)]
        for thread in running:
            thread.start()
        for thread in running:
            thread.join(timeout=60)
    assert right == [100] * len(works)


def passes(seed: int, **shape: int) -> Callable[[], Tensor]:
    """A model's pass over a few tokens, which writes and reads a cache of its own; logits."""
    model = NativeModel(llama_module(seed, **shape))
    cache = PagedCache(model.kv_layout, num_blocks=2)
    cache.add(0)
    cache.reserve(0, 7)
    tokens = [(5 * i + seed) % 64 for i in range(7)]
    batch = RaggedBatch.build([SequenceRows(tokens, cache.slots(0), 0, logit_rows=[2, 6])])

    def work() -> Tensor:
        logits = model.run(batch, cache.target, Wants(logits="all")).logits
        assert logits is not None
        return logits

    return work


def products(width: int) -> Callable[[], Tensor]:
    generator = torch.Generator().manual_seed(width)
    packed = pack(torch.randn(129, width, generator=generator), "int8")
    return partial(packed, torch.randn(9, width, generator=generator))


def test_without_native_kernels_torch_keeps_its_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(team, "native", SimpleNamespace(library=lambda: None))
    with threads(2), torch_on_one_thread():
        assert (torch.get_num_threads(), num_threads()) == (2, 2)
