"""What a caller gets back, printed: one line, whatever was drafted."""

from __future__ import annotations

from typing import cast

from specdec.engine.outputs import Generation, StepOutput, StreamEvent
from specdec.engine.request import Request, TextPiece
from specdec.errors import ConfigError
from specdec.stats import DecodingStats
from specdec.verify.tree import DraftTree

REQUEST = cast(Request, None)


def test_a_printed_event_says_what_the_step_brought() -> None:
    pieces = [TextPiece(" on", True), TextPiece(" the\n", False)]
    draft = DraftTree.chain([1, 2, 3, 4])
    step = StepOutput(REQUEST, pieces, [1, 9], draft=draft, path=(0,), drafter="ngram")
    assert str(StreamEvent(3, step)) == "prompt 3: ' on the\\n' (2 tokens; ngram: 1 of 4 accepted)"
    assert str(StreamEvent(0, StepOutput(REQUEST, pieces[:1], [1]))) == "prompt 0: ' on' (1 token)"


def test_a_printed_end_says_how_it_went() -> None:
    stats = DecodingStats()
    stats.record_step(emitted=3, drafted=4, tested=3, accepted=2, drafter="ngram")
    generation = Generation("on the sofa", [1, 2, 9], None, "length", 0, stats)
    line = "length after 3 tokens, τ 3.00, α 0.67: 'on the sofa'"
    assert str(generation) == line
    assert str(StreamEvent(1, generation=generation)) == f"prompt 1: {line}"
    assert str(Generation.refused(ConfigError("no such thing"))) == "error: no such thing"


def test_a_long_text_is_cut_where_it_is_printed() -> None:
    assert len(str(Generation("word " * 1000, [1], None, "stop", 0, DecodingStats()))) < 200
