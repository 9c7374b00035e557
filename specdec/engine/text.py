"""Tokens → text as they come, never taking back what was shown."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

REPLACEMENT = "\N{REPLACEMENT CHARACTER}"


class Tokenizer(Protocol):
    """The part of a transformers tokenizer that streaming needs."""

    def decode(self, token_ids: Sequence[int], **kwargs: bool) -> str:
        """Text of the token ids."""


class TextStream:
    """Decodes one request's output token by token.

    Text is held back while it could still change: an incomplete UTF-8 character, or the beginning of a stop string.
    What `append` and `finish` return, put together, is the text of the request.

    Args:
        tokenizer: decodes token ids.
        stop: strings that end the text; the first one found is cut off, with all that follows it.
        min_tokens: a stop string that so many tokens complete ends nothing.
        include_stop: the stop string itself stays in the text.
        skip_special_tokens: special tokens have no text.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        stop: Sequence[str] = (),
        min_tokens: int = 0,
        include_stop: bool = False,
        skip_special_tokens: bool = True,
    ) -> None:
        self._tokenizer, self._stop = tokenizer, tuple(stop)
        self._min_tokens, self._include_stop, self._skip_special = min_tokens, include_stop, skip_special_tokens
        self._tokens: list[int] = []
        self._window = 0
        """First token of the window that is decoded anew: a token's text can depend on the one before it."""
        self._read = 0
        """Tokens before this one have been turned into text."""
        self._held = ""
        """Decoded text that may be the beginning of a stop string."""
        self._early = 0
        """Characters of it in which no stop string may end."""
        self.stopped_by: str | None = None
        """The stop string that was found."""

    @property
    def stopped(self) -> bool:
        """Whether a stop string was found."""
        return self.stopped_by is not None

    def append(self, token: int) -> str:
        """Takes one token, returns the text that is now certain. After a stop string was found `stopped` is true."""
        self._tokens.append(token)
        before = self._decode(self._tokens[self._window : self._read])
        after = self._decode(self._tokens[self._window :])
        if len(after) <= len(before) or after.endswith(REPLACEMENT):
            return ""
        self._window, self._read = self._read, len(self._tokens)
        return self._release(after[len(before) :])

    def finish(self) -> str:
        """The rest of the text: whatever was held back, incomplete characters included."""
        before = self._decode(self._tokens[self._window : self._read])
        rest = self._release(self._decode(self._tokens[self._window :])[len(before) :])
        self._read = len(self._tokens)
        rest, self._held = rest + self._held, ""
        return rest

    def _release(self, text: str) -> str:
        """Cuts at a stop string; holds back the longest ending that may yet become one."""
        early, text, self._held = self._early, self._held + text, ""
        if len(self._tokens) <= self._min_tokens:
            early = len(text)
        found = [(at, at + len(stop)) for stop in self._stop if (at := text.find(stop, _first(early, stop))) >= 0]
        if found:
            start, end = min(found)
            self.stopped_by = text[start:end]
            return text[: end if self._include_stop else start]
        for size in range(len(text), 0, -1):
            if any(len(stop) > size and stop.startswith(text[-size:]) for stop in self._stop):
                self._held = text[-size:]
                self._early = max(early - len(text) + size, 0)
                return text[:-size]
        self._early = 0
        return text

    def _decode(self, tokens: Sequence[int]) -> str:
        options = {"skip_special_tokens": self._skip_special, "clean_up_tokenization_spaces": False}
        return self._tokenizer.decode(tokens, **options)


def _first(early: int, stop: str) -> int:
    """Where a stop string may begin at the earliest, if none may end in the first `early` characters."""
    return max(early - len(stop) + 1, 0)
