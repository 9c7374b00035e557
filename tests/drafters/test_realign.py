"""Text → draft: it begins after the last committed token, and spells the text."""

from __future__ import annotations

import random

import pytest

from specdec.drafters import realign
from specdec.drafters.realign import WINDOW, Realign
from specdec.models.spelling import Spelling
from tests.toytokenizers import LINES, TRAINED, byte_fallback, byte_level, of_merges, of_strings, unigram

TEXT = " ".join(LINES)
WHOLE = ["byte-level", "byte fallback"]
"""Those that can say everything."""


def of(kind: str) -> tuple[Spelling, Realign]:
    spelling = Spelling(TRAINED[kind]())
    return spelling, Realign(spelling, 10**6)


@pytest.mark.parametrize("kind", [*WHOLE, "Unigram"])
def test_the_targets_own_continuation_becomes_its_own_tokens(kind: str) -> None:
    """After every beginning of a text that its tokenizer wrote. The window does not see where far words begin, but what
    it splits otherwise lies before the draft."""
    spelling, drafting = of(kind)
    tokens = spelling.encode(TEXT)
    for length in range(1, len(tokens) - 8):
        text = spelling.spell(tokens[length:])
        if b"\x80" <= text[:1] < b"\xc0":
            continue  # inside a character
        assert drafting.draft(tokens[:length], text, 8) == tokens[length : length + 8]


@pytest.mark.parametrize("kind", WHOLE)
def test_any_text_after_any_tokens_is_spelt_from_its_beginning(kind: str) -> None:
    """Tokens that no tokenizer would choose, and a text that ends within a character."""
    draw = random.Random(1)
    spelling, drafting = of(kind)
    ordinary = [token for token, spelt in spelling.pieces.items() if spelt.isascii()]
    for _ in range(300):
        committed = [draw.choice(ordinary) for _ in range(draw.randrange(0, 2 * WINDOW))]
        at = draw.randrange(len(TEXT) - 30)
        text = TEXT[at : at + draw.randrange(1, 20)]
        draft = drafting.draft(committed, text.encode() + "😀".encode()[: draw.randrange(4)], 10**6)
        assert spelling.spell(draft) == text.encode()
        assert drafting.draft(committed, text.encode(), 3) == drafting.draft(committed, text.encode(), 10**6)[:3]


def test_a_token_across_the_place_is_spelt_by_what_fits() -> None:
    """The target has said a, where its tokenizer would have said aba; the text goes on with baa."""
    spelling = Spelling(of_merges("ab", [("a", "b"), ("ab", "a"), ("b", "b"), ("b", "a")]))
    vocabulary = {"a": 0, "b": 1, "ab": 2, "aba": 3, "bb": 4, "ba": 5}
    drafting = Realign(spelling, 6)
    assert spelling.encode("abaa") == [vocabulary["aba"], vocabulary["a"]]
    assert drafting.draft([vocabulary["a"]], b"baa", 9) == [vocabulary["ba"], vocabulary["a"]]
    narrow = Realign(spelling, 5)  # a head without a row for ba
    assert narrow.draft([vocabulary["a"]], b"baa", 9) == [vocabulary[piece] for piece in ("b", "a", "a")]


def test_tokens_without_a_row_end_the_draft() -> None:
    spelling = Spelling(of_merges("ab", [("b", "b")]))
    assert Realign(spelling, 3).draft([0], b"abba", 9) == [0, 2, 0]
    assert Realign(spelling, 2).draft([0], b"abba", 9) == [0]


def test_special_tokens_have_no_part_in_it() -> None:
    spelling, drafting = of("byte-level")
    end, user = spelling.specials["<|end|>"], spelling.specials["<|user|>"]
    fox = spelling.encode(" the fox")
    assert drafting.draft([*spelling.encode("thence"), end, user], b" the fox", 9) == fox
    assert drafting.draft([], b" the fox", 9) == fox
    assert drafting.draft([user], b" the fox<|end|> then", 9) == fox


def test_line_feeds_at_the_end_are_split_as_before_a_word() -> None:
    """Two are one token at the end of a text, and two before a word. Spaces go with the space of the next word."""
    spelling, drafting = of("byte-level")
    the, feed, feeds, spaces = (spelling.encode(text) for text in (" the", "\n", "\n\n", "  "))
    assert (len(feed), len(feeds), len(spaces)) == (1, 1, 1)
    assert drafting.draft(the, b" the\n\n", 9) == [*the, *feed, *feed] == spelling.encode(" the\n\nthe")[:3]
    assert drafting.draft(the, b" the  ", 9) == [*the, *spaces] == spelling.encode(" the   the")[:2]


@pytest.mark.parametrize("text", [b"", b"\xf0\x9f", b"\x80", b"\xff and"])
def test_what_is_no_text_is_no_draft(text: bytes) -> None:
    for kind in TRAINED:
        assert of(kind)[1].draft([5, 6, 7], text, 9) == []


def test_a_text_that_the_tokenizer_cannot_write_is_drafted_as_far_as_it_can() -> None:
    spelling = Spelling(unigram())
    drafted = Realign(spelling, 10**6).draft(spelling.encode("the"), " fox 🚀 fox".encode(), 99)
    assert spelling.spell(drafted) in (b" fox", b" fox ")


def test_the_window_begins_with_a_character() -> None:
    """Its first token may be the rest of one."""
    spelling = Spelling(byte_level())
    rocket = spelling.encode("🚀")
    assert len(rocket) > 1
    words = spelling.encode(" the")
    for after in range(WINDOW + 2):
        committed = [*rocket, *words * after]
        assert spelling.spell(Realign(spelling, 10**6).draft(committed, b" fox", 9)) == b" fox"


def test_a_space_that_the_tokenizer_puts_first_is_no_part_of_the_draft() -> None:
    spelling = Spelling(byte_fallback())
    assert spelling.leads
    drafting = Realign(spelling, 10**6)
    for committed, text in (([], b"fox"), (spelling.encode("f"), b"ox"), (spelling.encode("f"), b" ox")):
        assert spelling.spell(drafting.draft(committed, text, 9)) == text


@pytest.mark.parametrize("shift", [-1, 1])
def test_a_draft_that_does_not_begin_where_the_committed_text_ends_is_found_out(
    shift: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    right = realign._start
    monkeypatch.setattr(realign, "_start", lambda *texts: max((right(*texts) or 0) + shift, 0))
    for check in (
        test_the_targets_own_continuation_becomes_its_own_tokens,
        test_any_text_after_any_tokens_is_spelt_from_its_beginning,
    ):
        with pytest.raises(AssertionError):
            check("byte-level")


def test_the_tokens_of_toys_are_strings() -> None:
    """Guards the tables of other tests."""
    assert Spelling(of_strings(5)).pieces == {0: b"a", 1: b"b", 2: b" ", 3: b"aa", 4: b"ab"}
