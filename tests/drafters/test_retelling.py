"""Texts in another tokenizer's tokens: what they are, and that only their tokens count."""

from __future__ import annotations

import random
from itertools import product

import pytest

from specdec.drafters.retelling import CHUNK, LONGEST_CHUNK, Retelling, cut_short
from specdec.models.spelling import Spelling, shared
from tests.toytokenizers import LINES, TRAINED, byte_level, of_strings, unigram, word_piece

LONG = " ".join(LINES * 6)
"""Many chunks of any of the tokenizers."""


def retelling(ours: str, theirs: str) -> Retelling:
    target, draft = Spelling(TRAINED[ours]()), Spelling(TRAINED[theirs]())
    return Retelling(target, draft, shared(target, draft, (10**6, 10**6)))


def encode(kind: str, text: str) -> list[int]:
    tokens: list[int] = TRAINED[kind]().encode(text, add_special_tokens=False)
    return tokens


@pytest.mark.parametrize("theirs", TRAINED)
@pytest.mark.parametrize("ours", ["byte-level", "byte fallback"])
@pytest.mark.parametrize("text", [LONG, "Über naïve 😀 cafés", " leading", "one\n\n two", "a"])
def test_a_text_is_told_as_the_drafts_tokenizer_would_write_it(ours: str, theirs: str, text: str) -> None:
    """Chunks end where tokenizers split anyway."""
    tokens = encode(ours, text)
    assert text != LONG or len(tokens) > 6 * CHUNK
    opening = {"Unigram": [0]}.get(theirs, [])
    assert retelling(ours, theirs).tell(0, tokens) == [*opening, *encode(theirs, text)]


@pytest.mark.parametrize(("ours", "theirs"), list(product(TRAINED, repeat=2)))
def test_what_is_told_does_not_depend_on_how_the_text_came(ours: str, theirs: str) -> None:
    """Random tokens, which no tokenizer would choose, special ones among them; told at every step, at some, or once."""
    draw = random.Random(5)
    size = len(TRAINED[ours]())
    tokens = [draw.randrange(size) for _ in range(5 * CHUNK)]
    at_every_step, at_some = retelling(ours, theirs), retelling(ours, theirs)
    for length in range(1, len(tokens) + 1):
        told = at_every_step.tell(0, tokens[:length])
        if length % 7 == 0:
            assert told == retelling(ours, theirs).tell(3, tokens[:length])
        if draw.random() < 0.03:
            assert told == at_some.tell(1, tokens[:length])


def test_a_text_without_spaces_is_told_in_chunks_too() -> None:
    """Nothing that was told for good is encoded again, and no more than the longest chunk is."""
    target, draft = Spelling(of_strings(3)), Spelling(of_strings(9, "b a"))
    encoded: list[int] = []
    plain = draft.encode
    draft.encode = lambda text, **options: encoded.append(len(text)) or plain(text, **options)  # type: ignore[func-returns-value, method-assign]
    retold = Retelling(target, draft, shared(target, draft, (3, 9)))
    tokens = [0, 1] * (2 * LONGEST_CHUNK) + [0]
    for length in range(1, len(tokens) + 1):
        assert draft.spell(retold.tell(0, tokens[:length])) == b"ab" * (length // 2) + b"a" * (length % 2)
    assert max(encoded) == LONGEST_CHUNK
    assert encoded[-1] == 1


@pytest.mark.parametrize("shift", range(4))
def test_no_chunk_ends_inside_a_character(shift: int) -> None:
    """Of a text of characters that take several tokens each, and has no spaces."""
    target, draft = Spelling(byte_level()), Spelling(TRAINED["byte fallback"]())
    text = "a" * shift + "🚀" * LONGEST_CHUNK
    tokens = target.encode(text)
    assert len(tokens) > 2 * LONGEST_CHUNK
    assert draft.spell(Retelling(target, draft, {}).tell(0, tokens)).endswith(text.encode())


@pytest.mark.parametrize("theirs", ["byte-level", "byte fallback"])
def test_no_chunk_ends_between_two_spaces(theirs: str) -> None:
    """They may be one token of the draft's."""
    text = "aa  " * (CHUNK // 2)
    tokens = encode("byte-level", text)
    assert CHUNK < len(tokens) < LONGEST_CHUNK
    assert retelling("byte-level", theirs).tell(0, tokens) == encode(theirs, text)


def test_special_tokens_become_those_in_their_place_or_nothing() -> None:
    vocabulary = byte_level().get_vocab()
    user, end = vocabulary["<|user|>"], vocabulary["<|end|>"]
    hello, there = encode("byte-level", "the fox"), encode("byte-level", " then")
    text = [user, *hello, end, user, *there]
    assert retelling("byte-level", "Unigram").tell(0, text) == [
        0, 3, *encode("Unigram", "the fox"), 1, 3, *encode("Unigram", "then")
    ]  # fmt: skip
    assert retelling("byte-level", "byte fallback").tell(0, text) == [
        *encode("byte fallback", "the fox"), 2, *encode("byte fallback", "then")
    ]  # fmt: skip


def test_what_opens_a_text_is_there_once() -> None:
    """The target's text has begun with its own <s>; of a text without words there is nothing to read."""
    tokens = unigram().encode("the fox")
    assert tokens[0] == 0
    assert retelling("Unigram", "Unigram").tell(0, tokens) == tokens
    assert retelling("Unigram", "WordPiece").tell(0, tokens) == encode("WordPiece", "the fox")
    assert retelling("Unigram", "WordPiece").tell(0, [0, 3]) == []
    assert retelling("WordPiece", "Unigram").tell(0, word_piece().encode("the fox")) == tokens


def test_a_text_that_ends_inside_a_character_is_not_told_yet() -> None:
    tokens = encode("byte-level", "the 🚀 flies")
    spelling = Spelling(byte_level())
    whole = [cut_short(spelling.spell(tokens[:length])) == 0 for length in range(1, len(tokens) + 1)]
    assert not all(whole)
    for length, is_whole in enumerate(whole, 1):
        assert bool(retelling("byte-level", "Unigram").tell(0, tokens[:length])) == is_whole


@pytest.mark.parametrize(
    ("text", "length"),
    [(b"", 0), (b"a", 0), ("ü".encode(), 0), (b"a\xc3", 1), (b"\xf0\x9f", 2), (b"\xf0\x9f\x98", 3), (b"\x80", 0)],
)
def test_the_rest_of_a_character_is_counted(text: bytes, length: int) -> None:
    assert cut_short(text) == length


def test_nothing_is_kept_of_a_request_that_was_forgotten() -> None:
    retold = retelling("byte-level", "Unigram")
    tokens = encode("byte-level", LONG)
    told = retold.tell(0, tokens)
    retold.forget(0)
    retold.forget(9)
    assert retold.tell(0, tokens[:9]) == retelling("byte-level", "Unigram").tell(0, tokens[:9])
    assert retold.tell(1, tokens) == told
