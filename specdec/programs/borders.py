"""Where a text goes on with another one: the tokens of both together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from specdec.checks import shown
from specdec.errors import InvalidRequestError
from specdec.foreign import foreign
from specdec.prompts.chat import Chat, Message
from specdec.prompts.rendering import text_of

HEALED = 16
"""Tokens before a border that are encoded anew: more than the pieces that most words are split into."""
ANSWER = "ANSWER_OF_THE_SESSION"
"""Stands for an answer in a chat, of which only what the template puts behind it is wanted."""


class Borders:
    """Encodes a text that follows tokens.

    Args:
        tokenizer: transformers' own; None for a model without one.
    """

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer

    def join(self, tokens: Sequence[int], text: str, kept: int = 0) -> list[int]:
        """See `joined`, of one text."""
        return self.joined(tokens, [text], kept)[0]

    def joined(self, tokens: Sequence[int], texts: Sequence[str], kept: int = 0) -> list[list[int]]:
        """The tokens with each of some texts behind them. As many as possible of the last `HEALED` tokens are encoded
        anew, with the text: those that their own text is encoded to. So "un" and "believable" become the tokens of
        "unbelievable", and tokens that no text is encoded to stay as they are.

        Args:
            tokens: any.
            texts: that follow, each on its own.
            kept: so many tokens at the beginning stay as they are.

        Raises:
            InvalidRequestError: if the tokenizer cannot take the text.
        """
        first = max(len(tokens) - HEALED, min(kept, len(tokens)))
        start = next(start for start in range(first, len(tokens) + 1) if self._stands(tokens[start:]))
        border = self._decode(tokens[start:])
        return [[*tokens[:start], *self._encode(border + text)] for text in texts]

    def turn(self, chat: Chat, messages: Sequence[Message]) -> str:
        """What the chat template puts behind an answer if these messages follow it, the head of the next answer
        included.

        Args:
            chat: what the session began with.
            messages: that follow.

        Raises:
            InvalidRequestError: if the template refuses them, or leaves out answers.
        """
        before = chat.messages[: len(chat.messages) - chat.continue_final_message]
        answered = [*before, {"role": "assistant", "content": ANSWER}, *messages]
        whole = replace(chat, messages=answered, continue_final_message=False, add_generation_prompt=None)
        _, mark, tail = text_of(whole, self._tokenizer).rpartition(ANSWER)
        if not mark:
            raise InvalidRequestError(
                f"The chat template leaves out an answer before {shown(messages)}. Append a text."
            )
        return tail

    def cut(self, tokens: Sequence[int], text: str, skip_special_tokens: bool) -> list[int]:
        """Of generated tokens those of their text, if a stop string has cut it off: as many as the text begins with,
        then those of its rest."""
        for count in range(len(tokens), 0, -1):
            decoded = self._decode(tokens[:count], skip_special_tokens)
            if text.startswith(decoded):
                rest = text[len(decoded) :]
                return self.join(tokens[:count], rest) if rest else list(tokens[:count])
        return self._encode(text) if text else []

    def _stands(self, tokens: Sequence[int]) -> bool:
        return not tokens or self._encode(self._decode(tokens)) == list(tokens)

    def _encode(self, text: str) -> list[int]:
        if self._tokenizer is None:
            raise InvalidRequestError(f"This model has no tokenizer, so it cannot read {shown(text)}.")
        with foreign(InvalidRequestError, f"Cannot encode {shown(text)}", "Give another text."):
            return list(self._tokenizer.encode(text, add_special_tokens=False))

    def _decode(self, tokens: Sequence[int], skip_special_tokens: bool = False) -> str:
        if not tokens:
            return ""
        options = {"skip_special_tokens": skip_special_tokens, "clean_up_tokenization_spaces": False}
        text: str = self._tokenizer.decode(list(tokens), **options)
        return text
