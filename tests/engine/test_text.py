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
        assert skip_special_tokens
        return b"".join(self.pieces[t] for t in token_ids if t != SPECIAL).decode("utf-8", errors="replace")


class Stripped(Bytes):
    """As SentencePiece does, takes the space from the beginning of what it decodes."""

    def decode(self, token_ids: Sequence[int], skip_special_tokens: bool = False, **kwargs: bool) -> str:
        return super().decode(token_ids, skip_special_tokens, **kwargs).removeprefix(" ")


def shown(pieces: Sequence[bytes], stop: Sequence[str] = ()) -> tuple[list[str], bool]:
    """What each append returned until the stream stopped, and last what `finish` returned."""
    stream = TextStream(Bytes(pieces), stop)
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


def test_spaces_that_a_tokenizer_strips_from_what_it_decodes_are_kept_between_words() -> None:
    tokenizer = Stripped([b" one", b" two", b"\xc3", b"\xa9", b" three"])
    stream = TextStream(tokenizer)
    parts = [stream.append(token) for token in range(5)]
    assert parts == ["one", " two", "", "é", " three"]
    assert "".join(parts) == tokenizer.decode(range(5), skip_special_tokens=True)


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
