"""What HTTP costs: texts are read out of answers, turns are fair, and shares are formed within a turn."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from benchmarks.serving import PYTHON, STREAM, WHOLE, Way, measured, overhead, text_of


def test_the_text_of_an_answer() -> None:
    assert text_of('{"choices": [{"text": "ab"}]}') == "ab"
    events = ['{"choices": [{"text": "a"}]}', '{"choices": [{"text": "b"}]}', '{"choices": []}', "[DONE]"]
    assert text_of(": keep-alive\n\n" + "".join(f"data: {event}\n\n" for event in events)) == "ab"


def ways(calls: list[tuple[str, tuple[str, ...]]], odd: str = "") -> dict[str, Way]:
    def way(name: str) -> Way:
        def texts(prompts: Sequence[str]) -> list[str]:
            calls.append((name, tuple(prompts)))
            return [prompt + ("!" if name == odd else "") for prompt in prompts]

        return texts

    return {name: way(name) for name in (PYTHON, WHOLE, STREAM)}


def test_every_turn_asks_all_ways_for_the_same_prompts_in_another_order() -> None:
    calls: list[tuple[str, tuple[str, ...]]] = []
    seconds = measured(ways(calls), ["a", "b", "c"], batch=2, repeats=2)
    assert {name: len(each) for name, each in seconds.items()} == {PYTHON: 2, WHOLE: 2, STREAM: 2}
    turns = [calls[start : start + 3] for start in range(0, 9, 3)]
    assert [{prompts for _, prompts in turn} for turn in turns] == [{("a", "b")}, {("c", "a")}, {("b", "c")}]
    assert [turn[0][0] for turn in turns] == [PYTHON, WHOLE, STREAM]


def test_a_way_that_says_something_else_is_an_error() -> None:
    with pytest.raises(AssertionError):
        measured(ways([], odd=WHOLE), ["a"], batch=1, repeats=1)


def test_shares_are_formed_within_a_turn() -> None:
    row = {"seconds": {PYTHON: [1.0, 2.0, 4.0], WHOLE: [1.5, 2.0, 5.0]}}
    assert overhead(row, WHOLE) == pytest.approx([0.25, 0.0, 0.5])
