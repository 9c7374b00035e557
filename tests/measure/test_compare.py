"""The comparison, on generations made by hand and on generators that only note what they are asked."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, cast

from specdec import Generation, SamplingParams, SpeculativeGenerator, StreamEvent
from specdec.measure.compare import Comparison, Pair, compare
from specdec.stats import DecodingStats


def generation(tokens: int, seconds: float, passes: int = 1, first: int = 0) -> Generation:
    stats = DecodingStats(output_tokens=tokens, passes=passes, verify_seconds=seconds, prefill_seconds=50.0)
    return Generation("", list(range(first, first + tokens)), None, "length", 0, stats)


PAIRS = [
    Pair("slow", generation(10, 2.0, 10), generation(10, 4.0, 5)),  # 5 and 2.5 tokens a second
    Pair("fast", generation(30, 3.0, 30), generation(30, 1.0, 10)),  # 10 and 30
    Pair("wrong", generation(20, 5.0, 20), generation(20, 5.0, 10, first=1)),  # 4 and 4
]


def test_a_pair_compares_decoding_speed_and_tokens() -> None:
    assert [pair.speedup for pair in PAIRS] == [0.5, 3.0, 1.0]
    assert [pair.identical for pair in PAIRS] == [True, True, False]
    assert Pair("", generation(5, 0.0), generation(5, 1.0)).speedup == 0.0


def test_totals_weigh_prompts_by_their_length() -> None:
    comparison = Comparison(PAIRS)
    assert (comparison.plain.output_tokens, comparison.plain.decode_seconds) == (60, 10.0)
    assert (comparison.speculative.output_tokens, comparison.speculative.decode_seconds) == (60, 10.0)
    assert (comparison.plain.mean_accepted_length, comparison.speculative.mean_accepted_length) == (1.0, 2.4)
    assert comparison.speedup == 1.0
    assert comparison.num_identical == 2


def test_the_spread_is_over_prompts() -> None:
    assert Comparison(PAIRS).spread == (0.5, 1.0, 3.0)
    assert Comparison(PAIRS[:2]).spread == (0.5, 1.75, 3.0)
    assert Comparison(PAIRS[1:2]).spread == (3.0, 3.0, 3.0)


def test_no_time_at_all_gives_no_speedup() -> None:
    assert Comparison([Pair("", generation(5, 0.0), generation(5, 0.0))]).speedup == 0.0


class Noting:
    """Stands in for a generator and writes down what it is asked."""

    def __init__(self, log: list[Any], name: str = "speculative") -> None:
        self.log, self.name = log, name

    def with_drafter(self, drafter: str) -> Noting:
        self.log.append(("with_drafter", drafter))
        return Noting(self.log, "plain")

    def generate(self, prompts: Sequence[Any], params: SamplingParams, progress: bool = True) -> list[Generation]:
        self.log.append((self.name, prompts, params.max_tokens))
        return [generation(3, 1.0)]

    def stream(self, prompts: Sequence[Any], params: SamplingParams) -> Iterator[StreamEvent]:
        self.log.append((self.name, prompts, params.max_tokens))
        yield StreamEvent(0)
        yield StreamEvent(0, generation=generation(3, 0.5))


def test_both_sides_warm_up_and_then_take_turns_at_going_first() -> None:
    log: list[Any] = []
    events: list[StreamEvent] = []
    generator = cast(SpeculativeGenerator, Noting(log))
    comparison = compare(
        generator,
        [("a", "one"), ("b", "two"), ("c", "three")],
        SamplingParams(max_tokens=3),
        on_start=lambda label, prompt: log.append((label, prompt)),
        on_event=events.append,
    )
    assert log == [
        ("with_drafter", "none"), ("plain", [[1]], 4), ("speculative", [[1]], 4),
        ("plain", ["one"], 3), ("a", "one"), ("speculative", ["one"], 3),
        ("b", "two"), ("speculative", ["two"], 3), ("plain", ["two"], 3),
        ("plain", ["three"], 3), ("c", "three"), ("speculative", ["three"], 3),
    ]  # fmt: skip
    assert len(events) == 6
    assert [pair.label for pair in comparison.pairs] == ["a", "b", "c"]
    assert (comparison.speedup, comparison.num_identical) == (2.0, 3)
