"""What tokens spell: by hand for a few of each kind of tokenizer, and by what their own decoders show for all."""

from __future__ import annotations

from itertools import product
from types import SimpleNamespace
from typing import Any

import pytest
from tokenizers import pre_tokenizers

from specdec import ConfigError
from specdec.models.spelling import Spelling, _byte_characters, shared
from tests.toytokenizers import TRAINED, byte_fallback, byte_level, of_merges, unigram, word_piece

TEXTS = [
    " the quick brown fox",
    "Über allen Gipfeln ist Ruh",
    "naïve café",
    " 😀🎉 and 😀",
    "\n\n  double  spaces\tand tabs\n",
    "日本語 です",
    "e\N{COMBINING ACUTE ACCENT} \N{REPLACEMENT CHARACTER} end",
]
BY_HAND = {
    "byte-level": {"Ġthe": b" the", "Ċ": b"\n", "Ġ": b" ", "Ã¼": b"\xc3\xbc", "Ã": b"\xc3", "Ģ": b"\x80", "a": b"a"},
    "Unigram": {"▁the": b" the", "▁": b" ", "ü": b"\xc3\xbc", "a": b"a"},
    "byte fallback": {"▁th": b" th", "▁": b" ", "<0xC3>": b"\xc3", "<0x0A>": b"\n", "<0x41>": b"A", "a": b"a"},
    "WordPiece": {"the": b" the", "##the": b"the", "##a": b"a", "a": b" a", ".": b"."},
}
kinds = pytest.mark.parametrize("kind", TRAINED)
pairs = pytest.mark.parametrize(("ours", "theirs"), list(product(TRAINED, repeat=2)))
LARGE = (10**6, 10**6)


def shown(tokenizer: Any, *tokens: int) -> str:
    text: str = tokenizer.decode(list(tokens), skip_special_tokens=False, clean_up_tokenization_spaces=False)
    return text


@kinds
def test_tokens_spell_what_they_are_written_for(kind: str) -> None:
    tokenizer = TRAINED[kind]()
    spelling, vocabulary = Spelling(tokenizer), tokenizer.get_vocab()
    known = {piece: spelt for piece, spelt in BY_HAND[kind].items() if piece in vocabulary}
    assert len(known) >= len(BY_HAND[kind]) - 2  # what training made of them
    assert {piece: spelling.pieces[vocabulary[piece]] for piece in known} == known


@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize("kind", ["byte-level", "byte fallback"])
def test_a_text_is_spelt_byte_for_byte(kind: str, text: str) -> None:
    """By the tokenizers that can say everything; one puts a space before a text that has none."""
    spelling = Spelling(TRAINED[kind]())
    space = b" " if spelling.leads and not text.startswith(" ") else b""
    assert spelling.spell(spelling.encode(text, opens=True)) == (b" " if spelling.leads else b"") + text.encode()
    assert spelling.spell(spelling.encode(text)) in (text.encode(), space + text.encode())
    assert spelling.leads == (kind == "byte fallback")


def test_the_space_before_a_text_goes_where_it_is_a_token() -> None:
    spelling = Spelling(byte_fallback())
    assert spelling.spell(spelling.encode("🚀")) == "🚀".encode()
    assert spelling.spell(spelling.encode(" the")) == b" the"


@kinds
def test_a_token_spells_what_a_text_grows_by(kind: str) -> None:
    """After other tokens than the one that it was found with, wherever that is characters."""
    tokenizer = TRAINED[kind]()
    spelling = Spelling(tokenizer)
    ordinary = [token for token, spelt in spelling.pieces.items() if spelt.isalpha() and spelt.isascii()]
    for before, token in product(ordinary[:5], spelling.pieces):
        if "\N{REPLACEMENT CHARACTER}" not in (text := shown(tokenizer, before, token)):
            assert text == shown(tokenizer, before) + spelling.pieces[token].decode()


def test_special_tokens_spell_nothing() -> None:
    spelling = Spelling(unigram())
    assert spelling.specials == {"<s>": 0, "</s>": 1, "<unk>": 2, "<|user|>": 3}
    assert (spelling.opening, spelling.eos) == ((0,), 1)
    assert spelling.spell([0, *spelling.encode(" the"), 3, 10**6, 1]) == b" the"
    assert Spelling(byte_level()).opening == ()


def test_bytes_are_written_as_byte_level_tokenizers_write_them() -> None:
    table = _byte_characters()
    assert set(table) == set(pre_tokenizers.ByteLevel.alphabet())
    assert sorted(table.values()) == list(range(256))
    for character, byte in table.items():
        if byte < 128:
            [(piece, _)] = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False).pre_tokenize_str(chr(byte))
            assert piece == character


@pairs
def test_common_tokens_look_the_same_and_none_is_left_out(ours: str, theirs: str) -> None:
    target, draft = TRAINED[ours](), TRAINED[theirs]()
    spellings = Spelling(target), Spelling(draft)
    found = shared(*spellings, LARGE)
    assert len(set(found.values())) == len(found) > 40
    anchors = [tokenizer.encode("a", add_special_tokens=False)[-1] for tokenizer in (target, draft)]
    names = [tuple(special.values()) for special in (spellings[0].specials, spellings[1].specials)]

    def grows(side: int, token: int) -> str:
        tokenizer = (target, draft)[side]
        return shown(tokenizer, anchors[side], token).removeprefix(shown(tokenizer, anchors[side]))

    for token, other in found.items():
        assert (token in names[0]) == (other in names[1])
        if token not in names[0]:
            assert grows(0, token) == grows(1, other)
    texts = [
        {grows(side, token) for token in spellings[side].pieces if grows(side, token)} - {"\N{REPLACEMENT CHARACTER}"}
        for side in (0, 1)
    ]
    assert {grows(0, token) for token in found if token not in names[0]} >= texts[0] & texts[1]


def test_special_tokens_are_common_by_name_or_as_ends() -> None:
    chats, bytes_, fallback = Spelling(unigram()), Spelling(byte_level()), Spelling(byte_fallback())
    found = shared(bytes_, chats, LARGE)
    assert found[bytes_.specials["<|user|>"]] == chats.specials["<|user|>"]
    assert found[bytes_.specials["<|end|>"]] == chats.specials["</s>"]
    found = shared(chats, fallback, LARGE)
    assert [found[chats.specials[name]] for name in ("<s>", "</s>", "<unk>")] == [1, 2, 0]
    assert chats.specials["<|user|>"] not in found


def test_of_tokens_that_spell_the_same_the_one_that_is_used_counts() -> None:
    """A stand-in for a byte has a lower id than the letter, and no text is written with it."""
    tokenizer = byte_fallback()
    vocabulary = tokenizer.get_vocab()
    assert vocabulary["<0x61>"] < vocabulary["a"]
    spelt = Spelling(tokenizer).by_spelling(10**6)
    assert spelt[b"a"] == vocabulary["a"]
    assert spelt[b"\x00"] == vocabulary["<0x00>"]


def test_tokens_without_a_row_are_not_common() -> None:
    """A head may be narrower than its tokenizer's vocabulary."""
    target, draft = Spelling(of_merges("ab", [("a", "b")])), Spelling(of_merges("ba", [("a", "b")]))
    assert shared(target, draft, (3, 3)) == {0: 1, 1: 0, 2: 2}
    assert shared(target, draft, (2, 3)) == {0: 1, 1: 0}
    assert shared(target, draft, (3, 1)) == {1: 0}


@pytest.mark.parametrize("broken", ["encode", "decode", "get_vocab"])
def test_a_tokenizer_that_cannot_be_asked_is_refused(broken: str) -> None:
    def fails(*args: Any, **options: Any) -> None:
        raise RuntimeError("no files")

    good = word_piece()
    parts = {name: getattr(good, name) for name in ("encode", "decode", "get_vocab")}
    with pytest.raises(ConfigError, match=r"Cannot learn what the tokens of a tokenizer spell: no files\. Use one of"):
        Spelling(SimpleNamespace(**{**parts, broken: fails}))
