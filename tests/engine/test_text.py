"""Streaming text from tokens that are pieces of UTF-8."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from specdec.engine.text import REPLACEMENT, TextStream

SPECIAL = -1


class Bytes:
    """Token n is the n-th piece; `SPECIAL` has no text."""

    def __init__(self, pieces: Sequence[bytes]) -> None:
        self.pieces = pieces

    def decode(self, token_ids: Sequence[int], skip_special_tokens: bool = False, **kwargs: bool) -> str:
        texts = [
            b"" if t == SPECIAL and skip_special_tokens else b"<s>" if t == SPECIAL else self.pieces[t]
            for t in token_ids
        ]
        return b"".join(texts).decode("utf-8", errors="replace")


class Stripped(Bytes):
    """As SentencePiece does, takes the space from the beginning of what it decodes."""

    def decode(self, token_ids: Sequence[int], skip_special_tokens: bool = False, **kwargs: bool) -> str:
        return super().decode(token_ids, skip_special_tokens, **kwargs).removeprefix(" ")


def shown(
    pieces: Sequence[bytes], stop: Sequence[str] = (), min_tokens: int = 0, include_stop: bool = False
) -> tuple[list[str], bool]:
    """What each append returned until the stream stopped, and last what `finish` returned."""
    stream = TextStream(Bytes(pieces), stop, min_tokens, include_stop)
    parts = []
    for token in range(len(pieces)):
        parts.append(stream.append(token))
        if stream.stopped:
            break
    parts.append(stream.finish())
    return parts, stream.stopped


@pytest.mark.parametrize(
    ("pieces", "parts"),
    [
        ([b"a", b"bc"], ["a", "bc", ""]),
        ([b"\xe2", b"\x82", b"\xac", b"!"], ["", "", "€", "!", ""]),
        ([b"x\xf0\x9f", b"\x99\x82y"], ["", "x🙂y", ""]),
        ([b"\xf0\x9f\x99\x82\xf0", b"\x9f\x99", b"\x82"], ["", "", "🙂🙂", ""]),
        ([b"a", b"\xc3"], ["a", "", REPLACEMENT]),
        ([b"\x80", b"b"], ["", f"{REPLACEMENT}b", ""]),
        ([], [""]),
    ],
)
def test_a_character_is_shown_when_it_is_whole(pieces: list[bytes], parts: list[str]) -> None:
    assert shown(pieces) == (parts, False)


@pytest.mark.parametrize(
    ("pieces", "stop", "parts"),
    [
        (["one ", "two"], ["two"], ["one ", "", ""]),
        (["so: EN", "D. of", " it"], ["END."], ["so: ", "", ""]),  # across a border
        (["x", "<", "/", "s", ">", "y"], ["</s>"], ["x", "", "", "", "", ""]),  # token by token
        (["ab", "cd"], ["cd", "bc"], ["a", "", ""]),  # the earliest, not the first listed
        (["a, b; c"], [";", ","], ["a", ""]),
        (["end"], ["end"], ["", ""]),
    ],
)
def test_a_stop_string_ends_the_text_and_is_cut_off(pieces: list[str], stop: list[str], parts: list[str]) -> None:
    assert shown([piece.encode() for piece in pieces], stop) == (parts, True)


@pytest.mark.parametrize(
    ("pieces", "stop", "parts"),
    [
        (["a<", "/", "b", "c"], ["</s>"], ["a", "", "</b", "c", ""]),
        (["a<", "/"], ["</s>"], ["a", "", "</"]),  # released at the end
        (["aa", "a", "a"], ["aab"], ["", "a", "a", "aa"]),  # as much as can no longer become it
        (["EN", "Ev"], ["END"], ["", "ENEv", ""]),
    ],
)
def test_the_beginning_of_a_stop_string_is_held_until_it_is_known(
    pieces: list[str], stop: list[str], parts: list[str]
) -> None:
    assert shown([piece.encode() for piece in pieces], stop) == (parts, False)


def test_a_stop_string_may_end_in_the_middle_of_a_characters_bytes() -> None:
    euro = "€".encode()
    assert shown([b"a" + euro[:1], euro[1:2], euro[2:] + b"b"], ["€"]) == (["", "", "a", ""], True)


def test_a_stop_string_that_only_the_end_completes_still_cuts() -> None:
    """The incomplete character keeps the word before it from being certain until the text ends."""
    assert shown([b"see STOP\xe2"], ["STOP"]) == (["", "see "], True)


def test_nothing_comes_after_the_end() -> None:
    stream = TextStream(Bytes([b"a", b"\xe2"]))
    assert [stream.append(0), stream.append(1), stream.finish(), stream.finish()] == ["a", "", REPLACEMENT, ""]


def test_special_tokens_have_no_text() -> None:
    stream = TextStream(Bytes([b"\xe2\x82", b"\xac"]), ["#"])
    assert [stream.append(t) for t in (SPECIAL, 0, SPECIAL, 1, SPECIAL)] == ["", "", "", "€", ""]
    assert stream.finish() == ""


def test_special_tokens_have_text_if_they_are_not_skipped() -> None:
    stream = TextStream(Bytes([b"a", b"b"]), ["<s>"], skip_special_tokens=False)
    assert [stream.append(token) for token in (0, SPECIAL)] == ["a", ""]
    assert stream.stopped


@pytest.mark.parametrize(
    ("pieces", "stop", "parts"),
    [
        (["one ", "two", "x"], ["two"], ["one ", "two", ""]),
        (["so: EN", "D. of", " it"], ["END."], ["so: ", "END.", ""]),
        (["ab", "cd"], ["cd", "bc"], ["a", "bc", ""]),
        (["aXY"], ["XY", "X"], ["aX", ""]),  # of two that begin together the shorter one is there first
    ],
)
def test_a_stop_string_may_stay_in_the_text(pieces: list[str], stop: list[str], parts: list[str]) -> None:
    assert shown([piece.encode() for piece in pieces], stop, include_stop=True) == (parts, True)


@pytest.mark.parametrize(
    ("pieces", "stop", "least", "parts", "stopped"),
    [
        (["END", " a", "END"], ["END"], 2, ["END", " a", "", ""], True),  # the first is complete too early
        (["EN", "D", "x"], ["END"], 1, ["", "", ""], True),  # begun early, complete in time
        (["EN", "D", "x"], ["END"], 2, ["", "END", "x", ""], False),
        (["abab", "ab"], ["abab"], 1, ["ab", "", ""], True),  # the second overlaps the first
        (["abab", "c"], ["abab"], 1, ["ab", "abc", ""], False),
        (["ab", "abx"], ["abab", "b"], 1, ["", "", ""], True),  # what is held has a "b" that came early
        (["ab", "x"], ["abab", "b"], 1, ["", "abx", ""], False),
        (["a", "b", "c"], ["b"], 9, ["a", "b", "c", ""], False),
        (["ab", "x", "b"], ["abab", "b"], 1, ["", "abx", "", ""], True),  # nothing is too early any more
        (["END", "x"], ["END", "ENDING"], 1, ["", "ENDx", ""], False),  # held for the sake of the longer one
        (["END", "x"], ["END", "in the end"], 1, ["END", "x", ""], False),  # shown, since nothing more can come of it
    ],
)
def test_a_stop_string_that_is_complete_too_early_ends_nothing(
    pieces: list[str], stop: list[str], least: int, parts: list[str], stopped: bool
) -> None:
    assert shown([piece.encode() for piece in pieces], stop, least) == (parts, stopped)


@given(st.lists(st.text("ab", max_size=3), max_size=7), st.lists(st.text("ab", min_size=1, max_size=4), max_size=3),
       st.integers(0, 6), st.booleans())  # fmt: skip
def test_the_text_ends_with_the_first_stop_string_that_is_complete_in_time(
    pieces: list[str], stop: list[str], least: int, include: bool
) -> None:
    """Against a search of the whole text after every token."""
    want, ended = "".join(pieces), False
    for count in range(least + 1, len(pieces) + 1):
        text, early = "".join(pieces[:count]), len("".join(pieces[: max(count - 1, least)]))
        ends = [(at, at + len(s)) for s in stop for at in range(len(text)) if text.startswith(s, at)]
        if found := [(start, end) for start, end in ends if end > early]:
            start, end = min(found)
            want, ended = text[: end if include else start], True
            break
    parts, stopped = shown([piece.encode() for piece in pieces], stop, least, include)
    assert ("".join(parts), stopped) == (want, ended)


def test_spaces_that_a_tokenizer_strips_from_what_it_decodes_are_kept_between_words() -> None:
    tokenizer = Stripped([b" one", b" two", b"\xc3", b"\xa9", b" three"])
    stream = TextStream(tokenizer)
    parts = [stream.append(token) for token in range(5)]
    assert parts == ["one", " two", "", "é", " three"]
    assert "".join(parts) == tokenizer.decode(range(5), skip_special_tokens=True)


def test_a_token_without_text_between_two_words_leaves_the_space_between_them() -> None:
    """The words are decoded together, though a special token is skipped between them."""
    stream = TextStream(Stripped([b" one", b" two"]))
    assert [stream.append(token) for token in (0, SPECIAL, SPECIAL, 1)] == ["one", "", "", " two"]


class Cleaning(Bytes):
    """As many tokenizers do unless told not to, takes the space before a full stop away."""

    def decode(
        self, token_ids: Sequence[int], skip_special_tokens: bool = False, clean_up_tokenization_spaces: bool = True
    ) -> str:
        text = super().decode(token_ids, skip_special_tokens)
        return text.replace(" .", ".") if clean_up_tokenization_spaces else text


def test_spaces_are_left_as_the_model_set_them() -> None:
    stream = TextStream(Cleaning([b"a .", b" ", b".", b"b"]))
    assert "".join(stream.append(token) for token in range(4)) == "a . .b"


def decoded(pieces: Sequence[bytes]) -> str:
    return b"".join(pieces).decode("utf-8", errors="replace")


def expected(pieces: Sequence[bytes], stop: Sequence[str]) -> str:
    """The whole text, cut at the earliest stop string in the first whole-character prefix that has one."""
    for end in range(1, len(pieces) + 1):
        text = decoded(pieces[:end])
        places = [text.index(s) for s in stop if s in text]
        if places and (end == len(pieces) or not text.endswith(REPLACEMENT)):
            return text[: min(places)]
    return decoded(pieces)


@st.composite
def split_texts(draw: st.DrawFn) -> list[bytes]:
    """UTF-8 cut anywhere, sometimes with stray bytes."""
    data = draw(st.text("ab€🙂é", max_size=12)).encode()
    if draw(st.booleans()):
        at = draw(st.integers(0, len(data)))
        data = data[:at] + draw(st.binary(max_size=3)) + data[at:]
    cuts = sorted(draw(st.lists(st.integers(0, len(data)), max_size=8)))
    return [data[a:b] for a, b in zip([0, *cuts], [*cuts, len(data)], strict=True)]


@given(split_texts(), st.lists(st.text("ab€é", min_size=1, max_size=4), max_size=3))
@example([b"a", b"a", b"a", b"b"], ["aab"])
@example([b"ab", b"c"], ["abcd", "bc"])
def test_what_is_shown_is_the_text_up_to_the_first_stop_string(pieces: list[bytes], stop: list[str]) -> None:
    parts, stopped = shown(pieces, stop)
    want = expected(pieces, stop)
    assert "".join(parts) == want
    assert stopped == any(s in decoded(pieces) for s in stop)


@given(split_texts(), st.lists(st.text("ab€é", min_size=1, max_size=4), max_size=3))
def test_text_is_never_taken_back_and_only_held_while_it_may_change(pieces: list[bytes], stop: list[str]) -> None:
    want, so_far, stream = expected(pieces, stop), "", TextStream(Bytes(pieces), stop)
    for token in range(len(pieces)):
        so_far += stream.append(token)
        assert want.startswith(so_far)
        if stream.stopped:
            break
        held = decoded(pieces[: token + 1])[len(so_far) :]
        assert not held or held.endswith(REPLACEMENT) or any(s.startswith(held) and s != held for s in stop)
