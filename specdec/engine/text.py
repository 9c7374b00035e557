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
    """

    def __init__(self, tokenizer: Tokenizer, stop: Sequence[str] = ()) -> None:
        self._tokenizer, self._stop = tokenizer, tuple(stop)
        self._tokens: list[int] = []
        self._window = 0
        """First token of the window that is decoded anew: a token's text can depend on the one before it."""
        self._read = 0
        """Tokens before this one have been turned into text."""
        self._held = ""
        """Decoded text that may be the beginning of a stop string."""
        self.stopped = False

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
        if self.stopped:
            return ""
        before = self._decode(self._tokens[self._window : self._read])
        rest = self._release(self._decode(self._tokens[self._window :])[len(before) :])
        self._read = len(self._tokens)
        if self.stopped:
            return rest
        rest, self._held = rest + self._held, ""
        return rest

    def _release(self, text: str) -> str:
        """Cuts at a stop string; holds back the longest ending that may yet become one."""
        text, self._held = self._held + text, ""
        places = [at for at in (text.find(stop) for stop in self._stop) if at >= 0]
        if places:
            self.stopped = True
            return text[: min(places)]
        longest = max((len(stop) - 1 for stop in self._stop), default=0)
        for size in range(min(longest, len(text)), 0, -1):
            if any(stop.startswith(text[-size:]) for stop in self._stop):
                self._held = text[-size:]
                return text[:-size]
        return text

    def _decode(self, tokens: Sequence[int]) -> str:
        return self._tokenizer.decode(tokens, skip_special_tokens=True, clean_up_tokenization_spaces=False)
