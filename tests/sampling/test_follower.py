"""Limits of a grammar's lexer: a request meets them by its own text alone, not by drafts, and not by other requests."""

from __future__ import annotations

import random

import pytest

from specdec import Grammar, InvalidRequestError
from specdec.sampling import compiling
from specdec.sampling.compiling import GrammarCompiler
from specdec.sampling.matching import GrammarConstraint
from tests.toytokenizers import byte_level

pytest.importorskip("llguidance", reason="needs the extra 'grammar'")
pytest.importorskip("xgrammar", reason="needs the extra 'grammar'")

TOKENIZER = byte_level()
END = TOKENIZER.eos_token_id
MANY_STATES = Grammar.regex("(.*[ab].{9}[cd])?[a-z]*")
"""Its lexer has to know which of the last ten signs were a or b: 1,024 states, most of which a long text needs."""


def compiled(grammar: Grammar, monkeypatch: pytest.MonkeyPatch, states: int) -> GrammarConstraint:
    monkeypatch.setattr(compiling, "MOST_STATES", states)
    return GrammarCompiler(TOKENIZER, len(TOKENIZER), (END,)).compile(grammar)


def texts(count: int, length: int) -> list[list[int]]:
    draw = random.Random(0)
    return [TOKENIZER.encode("".join(draw.choice("abcdxyz") for _ in range(length))) for _ in range(count)]


def write(constraint: GrammarConstraint, tokens: list[int]) -> None:
    for token in tokens:
        assert constraint.allows((), token)
        constraint.advance(token)


def test_what_other_requests_built_ends_none(monkeypatch: pytest.MonkeyPatch) -> None:
    """With a mask at each token, a text needs up to 940 states. Together they need more than there may be."""
    grammar = compiled(MANY_STATES, monkeypatch, 1000)
    for tokens in texts(20, 30):
        write(grammar.fork(), tokens)


def test_a_request_goes_on_where_another_has_met_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    grammar = compiled(MANY_STATES, monkeypatch, 1000)
    [short], [long] = texts(1, 10), texts(1, 2000)
    before = grammar.fork()
    before.advance(short[0])
    with pytest.raises(InvalidRequestError, match="too many states"):
        write(grammar.fork(), long)
    write(before, short[1:])
    write(grammar.fork(), short)


@pytest.mark.parametrize("spelling", ["any", "canonical"])
def test_looks_at_drafts_end_no_request(spelling: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """At every place the beginnings of many drafts are asked about: none of them is committed."""
    grammar = compiled(MANY_STATES.spelt(spelling), monkeypatch, 500)  # type: ignore[arg-type]
    drafts, [tokens] = texts(60, 30), texts(1, 20)
    constraint = grammar.fork()
    for token in tokens:
        for draft in drafts:
            assert constraint.kept(draft) == len(draft)
        constraint.likely(8, 8)
        write(constraint, [token])


def test_long_text_is_looked_at_without_masks(monkeypatch: pytest.MonkeyPatch) -> None:
    """From one mask to the next a lexer may do so much work, and each look is some."""
    monkeypatch.setattr(compiling, "MOST_WORK", 50_000)
    schema = {
        "type": "object",
        "properties": {
            "id": {"type": "string", "pattern": "[a-zA-Z0-9_-]{162}"},
            "mac": {"type": "string", "pattern": "([0-9a-f][0-9a-f](:|-)){4}([0-9a-f][0-9a-f])"},
        },
        "required": ["id", "mac"],
    }
    constraint = GrammarCompiler(TOKENIZER, len(TOKENIZER), (END,)).compile(Grammar.json(schema)).fork()
    others = [token for token in range(len(TOKENIZER)) if TOKENIZER.decode([token]).isalnum()]
    for token in TOKENIZER.encode('{"id": "' + "1234567890-" * 16 + '", "mac": "00:11:22:33:44"}'):
        for other in others:
            constraint.allows((), other)
        assert constraint.allows((), token)
        constraint.advance(token)
    assert constraint.allows((), END)
