"""A text that goes on from the committed tokens, as tokens of the target: any source of text can draft with it."""

from __future__ import annotations

from collections.abc import Sequence

from specdec.drafters.retelling import cut_short
from specdec.models.spelling import Spelling

WINDOW = 16
"""Committed tokens that are encoded again with the text: how a word is split depends on what stands before it."""


class Realign:
    """Text → draft. What comes out is a function of the committed tokens and of the text.

    The text is encoded together with the last committed tokens, and the draft is what stands after the place where they
    end. The tokenizer may well have split them otherwise than the target did; that is no matter as long as a token ends
    at that place. Where one goes across it, what it has of the text is spelt by the longest tokens that fit.

    Args:
        target: what the target's tokens spell.
        vocab_size: rows of its head; other tokens cannot be drafted.
    """

    def __init__(self, target: Spelling, vocab_size: int) -> None:
        self._target, self._size = target, vocab_size
        self._tokens = target.by_spelling(vocab_size)
        self._longest = max(map(len, self._tokens), default=0)

    def draft(self, committed: Sequence[int], text: bytes, most: int) -> list[int]:
        """The first `most` tokens of the target that spell the text, or its beginning.

        Args:
            committed: tokens after which the text goes on. They end with a character.
            text: UTF-8; what it has of a last character is left out.
        """
        before = self._window(committed)
        text = text[: len(text) - cut_short(text)]
        behind = b"a" if text[-1:].isspace() and text[-1:] != b" " else b""  # a word may bring a space of its own
        encoded = self._target.encode((before + text + behind).decode(errors="replace"))
        start = _start(self._target.spell(encoded), before, text)
        if start is None:
            return []
        tokens: list[int] = []
        place = 0
        for token in encoded:
            piece = self._target.pieces.get(token, b"")
            end = place + len(piece)
            if place >= start:
                tokens.append(token)
            elif end > start:
                tokens += self._spelt(piece[start - place :])
            place = end
        return self._right(tokens, text)[:most]

    def _window(self, committed: Sequence[int]) -> bytes:
        """What the last committed tokens spell, from the beginning of a character on, and after any special token."""
        window: list[int] = []
        for token in reversed(committed[-WINDOW:]):
            if token not in self._target.pieces:
                break
            window.append(token)
        spelt = self._target.spell(reversed(window))
        inside = next((place for place, byte in enumerate(spelt) if byte & 0xC0 != 0x80), len(spelt))
        return spelt[inside:]

    def _spelt(self, text: bytes) -> list[int]:
        """The longest token that fits, again and again; up to where none does."""
        tokens: list[int] = []
        while text:
            sizes = range(min(len(text), self._longest), 0, -1)
            fits = next((size for size in sizes if text[:size] in self._tokens), None)
            if fits is None:
                break
            tokens.append(self._tokens[text[:fits]])
            text = text[fits:]
        return tokens

    def _right(self, tokens: Sequence[int], text: bytes) -> list[int]:
        """The tokens up to the first that does not spell the text, or that the target cannot say."""
        right: list[int] = []
        for token in tokens:
            piece = self._target.pieces.get(token, b"")
            if not piece or token >= self._size or not text.startswith(piece):
                break
            right.append(token)
            text = text[len(piece) :]
        return right


def _start(encoded: bytes, before: bytes, text: bytes) -> int | None:
    """Where the text begins in what was encoded: after `before`, and a space that the tokenizer may have put first."""
    for opening in (b"", b" "):
        if text and encoded.startswith(opening + before + text[:1]):
            return len(opening + before)
    return None
