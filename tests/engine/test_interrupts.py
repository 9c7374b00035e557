"""Ctrl-C, abandoned streams and errors anywhere in a step: the generator stays usable and nobody's text is wrong."""

from __future__ import annotations

import random
import sys
from collections import Counter
from collections.abc import Iterator
from linecache import getline
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

import specdec
from specdec import EngineConfig, SamplingParams, SpeculativeGenerator
from specdec.engine.outputs import StreamEvent
from specdec.models.loading import LoadedModel
from tests.engines import DRAFTERS, outputs, run, small_engine
from tests.tiny import llama

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


def sound(shared: SpeculativeGenerator, plain: list[list[int]]) -> None:
    """Whatever came before, it decodes right and gives everything back."""
    after = shared.generate(PROMPTS, PARAMS)
    assert [one.token_ids for one in after] == plain
    assert [one.text for one in after] == ["".join(f"{t} " for t in text) for text in plain]
    shared.close()
    engine = shared.engine
    engine.cache.check_integrity()
    assert engine.cache.num_free_blocks == engine.cache.num_blocks
    assert not engine.has_work
    assert shared.loop._mail == {}


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
@pytest.mark.parametrize("drafter", ["none", "model", "model tree", "ngram tree", "early exit"])
def test_a_thousand_interrupts(drafter: str, mode: str, plain: list[list[int]]) -> None:
    """The neighbour of an interrupted stream ends with an error only if its own tokens were being written."""
    ends = interrupts(drafter, mode, 200, plain)
    assert ends["length"] >= 150
    assert set(ends) <= {"length", "error"}
