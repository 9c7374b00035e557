"""Ctrl-C, abandoned streams and errors anywhere in a step: the generator stays usable and nobody's text is wrong."""

from __future__ import annotations

import gc
import random
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from linecache import getline
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
import torch

import specdec
from specdec import EngineConfig, EngineLoop, SamplingParams, SpeculativeGenerator
from specdec.engine.outputs import StreamEvent
from specdec.kernels.cpu.threads import end_blocks, num_threads
from specdec.models.loading import LoadedModel
from tests.engines import DRAFTERS, add, outputs, run, small_engine
from tests.tiny import llama

pytestmark = pytest.mark.fewer(3)

PROMPTS = [[1, 2, 3, 1, 2, 3, 1], [7, 7, 7, 7, 9], [60, 3, 9, 60, 3, 9]]
PARAMS = [SamplingParams(max_tokens=10, temperature=0.8 * (i % 2), seed=i, repetition_penalty=1.1) for i in range(3)]
SOURCES = str(Path(specdec.__file__).parent)


class Words:
    chat_template = None

    def decode(self, ids: list[int], **_: bool) -> str:
        return "".join(f"{token} " for token in ids)


LOADED = LoadedModel(llama(0), Words(), ())


@pytest.fixture(scope="module")
def plain() -> list[list[int]]:
    return outputs(run(small_engine(DRAFTERS["none"](), "gumbel"), PROMPTS, PARAMS))


def generator(drafter: str = "model", **sizes: int) -> SpeculativeGenerator:
    config = EngineConfig(**{"block_size": 4, "num_blocks": 14, "max_batch_tokens": 24, "max_num_seqs": 2, **sizes})
    return SpeculativeGenerator(LOADED, DRAFTERS[drafter](), "gumbel", config=config)


class Interrupt:
    """Raises KeyboardInterrupt at the k-th place in our code where one may be raised.

    Python looks for signals when a function begins, when a call has returned, and when a loop goes back. In the mode
    "lines" every line counts in their place; the line of a `with` does not, since Python comes back to it for leaving
    the block, which no signal can prevent.

    Args:
        at: which place; None counts them.
        mode: "calls" or "lines".
    """

    def __init__(self, at: int | None, mode: str) -> None:
        self.at, self.mode, self.places = at, mode, 0

    def __enter__(self) -> Interrupt:
        if self.mode == "calls":
            sys.setprofile(self._profile)
        else:
            sys.settrace(self._trace)
        return self

    def __exit__(self, *error: object) -> None:
        sys.setprofile(None)
        sys.settrace(None)

    def _profile(self, frame: FrameType, event: str, arg: object) -> None:
        if event in ("call", "return", "c_return") and frame.f_code.co_filename.startswith(SOURCES):
            self._count()

    def _trace(self, frame: FrameType, event: str, arg: object) -> Any:
        if not frame.f_code.co_filename.startswith(SOURCES):
            return None
        if event == "line" and not getline(frame.f_code.co_filename, frame.f_lineno).strip().startswith("with "):
            self._count()
        return self._trace

    def _count(self) -> None:
        self.places += 1
        if self.places == self.at:
            self.__exit__()
            raise KeyboardInterrupt


def two_streams(drafter: str, interrupt: Interrupt, plain: list[list[int]]) -> str:
    """Two streams take turns, one is interrupted, the other goes on; a third begins afterwards. What became of it."""
    shared = generator(drafter)
    streams: list[Iterator[StreamEvent]] = [shared.stream(PROMPTS[i], PARAMS[i]) for i in (0, 1)]
    found: list[list[int]] = [[], []]
    ended: list[str] = ["", ""]
    turn = 0
    try:
        with interrupt:
            while not all(ended):
                turn = 1 - turn
                follow(streams[turn], found[turn], ended, turn)
    except KeyboardInterrupt:
        ended[turn] = ended[turn] or "interrupted"
    for index, stream in enumerate(streams):
        while not ended[index]:
            follow(stream, found[index], ended, index)
    for text, want, end in zip(found, plain, ended, strict=False):
        assert text == (want if end == "length" else want[: len(text)]), f"{end}: {text} is not {want}"
    for stream in streams:
        stream.close()  # type: ignore[attr-defined]
    sound(shared, plain)
    return ended[1 - turn]


def follow(stream: Iterator[StreamEvent], text: list[int], ended: list[str], index: int) -> None:
    event = next(stream, None)
    if event is None:
        ended[index] = ended[index] or "closed"
    else:
        text.extend(event.token_ids)
        if event.generation is not None:
            ended[index] = event.generation.finish_reason
            assert (event.generation.error is None) == (ended[index] == "length")


@pytest.fixture(autouse=True)
def two_threads() -> Iterator[None]:
    """An engine holds torch to one thread while a step lasts: with two there is something to give back."""
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    end_blocks()  # a failure here is no other test's
    torch.set_num_threads(before)


def sound(shared: SpeculativeGenerator, plain: list[list[int]]) -> None:
    """Whatever came before, it decodes right and gives everything back."""
    after = shared.generate(PROMPTS, PARAMS)
    assert [one.token_ids for one in after] == plain
    assert [one.text for one in after] == ["".join(f"{t} " for t in text) for text in plain]
    shared.close()
    engine = shared.engine
    assert (torch.get_num_threads(), num_threads()) == (2, 2)
    engine.cache.check_integrity()
    assert engine.cache.num_free_blocks == engine.cache.num_blocks
    assert not engine.has_work
    assert shared.loop._mail == {}
    assert engine.drafting.faults == {}


def interrupts(drafter: str, mode: str, count: int, plain: list[list[int]]) -> Counter[str]:
    """As many interrupts, spread over all places of one run."""
    whole = Interrupt(None, mode)
    assert two_streams(drafter, whole, plain) == "length"
    draw = random.Random(f"{drafter} {mode}")
    width = whole.places / count
    places = [1 + int(width * (i + draw.random())) for i in range(count)]
    return Counter(two_streams(drafter, Interrupt(place, mode), plain) for place in places)


@pytest.mark.parametrize(("drafter", "mode"), [("ngram tree", "calls"), ("ngram", "lines")])
def test_an_interrupt_anywhere_costs_the_stream_that_ran(drafter: str, mode: str, plain: list[list[int]]) -> None:
    ends = interrupts(drafter, mode, 25, plain)
    assert ends["length"] >= 18
    assert set(ends) <= {"length", "error"}


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["calls", "lines"])
@pytest.mark.parametrize(
    ("drafter", "count"), [("none", 40), ("model", 15), ("model tree", 15), ("ngram tree", 40), ("early exit", 20)]
)
def test_two_hundred_interrupts(drafter: str, count: int, mode: str, plain: list[list[int]]) -> None:
    """The neighbour of an interrupted stream ends with an error only if its own tokens were being written."""
    ends = interrupts(drafter, mode, count, plain)
    assert ends["length"] >= 0.75 * count
    assert set(ends) <= {"length", "error"}


@pytest.mark.parametrize("times", [1, 3])
def test_an_engine_that_is_stepped_by_hand_goes_on_after_an_interrupt(times: int, plain: list[list[int]]) -> None:
    """Inside the pass itself, which is where nearly all of them arrive: nothing at all is lost."""
    engine = small_engine(DRAFTERS["model"](), "gumbel", num_blocks=12, max_num_seqs=2, max_batch_tokens=8)
    requests = [add(engine, *pair) for pair in zip(PROMPTS, PARAMS, strict=True)]
    model: Any = engine.model
    forward, left = model.run, 4 * times

    def interrupted(*args: Any) -> Any:
        nonlocal left
        left -= 1
        output = forward(*args)
        if left >= 0 and left % 4 == 0:
            raise KeyboardInterrupt
        return output

    model.run = interrupted
    stopped = 0
    while engine.has_work:
        try:
            engine.step()
        except KeyboardInterrupt:
            stopped += 1
    assert stopped == times
    assert outputs(requests) == plain
    assert engine.drafting.faults == {}, "a drafter was not told that its requests began anew"
    engine.cache.check_integrity()
    assert engine.cache.num_free_blocks == engine.cache.num_blocks


def test_an_error_of_the_model_ends_those_that_took_part_and_no_others(plain: list[list[int]]) -> None:
    loop = EngineLoop(small_engine(DRAFTERS["ngram"](), "gumbel", max_num_seqs=2))
    requests = [loop.engine.make_request(*pair) for pair in zip(PROMPTS, PARAMS, strict=True)]
    model: Any = loop.engine.model
    forward = model.run

    def broken(*args: Any) -> Any:
        model.run = forward
        raise MemoryError("no memory left")

    model.run = broken
    for request in requests:
        loop.submit(request)
    list(loop.outputs(requests))
    assert [request.finish_reason for request in requests] == ["error", "error", "length"]
    assert requests[2].output == plain[2]
    assert isinstance(requests[0].error, MemoryError)


def test_one_threads_interrupt_does_not_stop_another(plain: list[list[int]]) -> None:
    """The thread that runs the steps is interrupted while the other one sleeps: that one takes over."""
    shared = generator("none", num_blocks=64)
    model: Any = shared.engine.model
    forward, began = model.run, threading.Event()
    found: list[list[int]] = []

    def work() -> None:
        began.set()
        found.extend(one.token_ids for one in shared.generate(PROMPTS[:1], PARAMS[:1]))

    worker = threading.Thread(target=work)

    def interrupted(*args: Any) -> Any:
        if threading.current_thread() is worker:
            return forward(*args)
        worker.start()
        began.wait()
        while not shared.loop._arrived:  # the worker has queued its request, and must wait for this step
            pass
        raise KeyboardInterrupt

    model.run = interrupted
    try:
        with pytest.raises(KeyboardInterrupt):
            shared.generate(PROMPTS[1:2], PARAMS[1:2])
        worker.join(timeout=60)
    finally:
        del model.run
    assert not worker.is_alive()
    assert found == plain[:1]
    sound(shared, plain)


def test_streams_that_are_left_in_any_way_give_everything_back(plain: list[list[int]]) -> None:
    shared = generator("ngram")
    never = shared.stream(PROMPTS[0], PARAMS[0])  # not even begun
    closed = shared.stream(PROMPTS, PARAMS)
    next(closed)
    closed.close()  # type: ignore[attr-defined]

    def consumer() -> None:
        for _ in shared.stream(PROMPTS, PARAMS):
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        consumer()
    gc.collect()
    assert not shared.engine.has_work
    del never
    shared.close()
    shared.close()
    sound(shared, plain)


def test_a_stream_that_is_collected_in_the_middle_of_a_step_is_aborted_after_it(plain: list[list[int]]) -> None:
    """The collector may run anywhere: here inside the pass of another stream, in the thread that runs it."""
    shared = generator("none", num_blocks=64)
    abandoned: list[Any] = [shared.stream(PROMPTS[1], PARAMS[1])]
    next(abandoned[0])
    model: Any = shared.engine.model
    forward, calls = model.run, 0

    def collecting(*args: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == 3:
            abandoned.clear()
            gc.collect()
            assert shared.engine.scheduler.live[0].finish_reason is None
        return forward(*args)

    model.run = collecting
    try:
        [generation] = shared.generate(PROMPTS[2:3], PARAMS[2:3])
    finally:
        del model.run
    assert generation.token_ids == plain[2]
    assert calls > 3
    assert not shared.engine.has_work
    sound(shared, plain)


def test_a_closed_generator_ends_its_streams_and_can_be_used_again(plain: list[list[int]]) -> None:
    shared = generator("ngram")
    stream = shared.stream(PROMPTS[0], PARAMS[0])
    first = next(stream)
    shared.close()
    rest = list(stream)
    assert rest[-1].generation is not None
    assert rest[-1].generation.finish_reason == "aborted"
    assert rest[-1].generation.token_ids == plain[0][: len(first.token_ids)]
    sound(shared, plain)
