"""A prompt → the token ids that the model reads."""

from __future__ import annotations

import warnings
from typing import Any

from specdec.checks import shown
from specdec.errors import InvalidRequestError
from specdec.foreign import foreign
from specdec.prompts.chat import Chat
from specdec.prompts.entry import Prompt, read
from specdec.prompts.rendering import text_of


class PromptEncoder:
    """Turns prompts into token ids, and warns once about those that are probably not meant. Safe in any thread.

    Args:
        tokenizer: transformers' own, or one with its `encode`; None takes token ids alone.
    """

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self._warned: set[str] = set()

    def encode(self, prompt: Prompt) -> list[int]:
        """Token ids of one prompt.

        A chat goes through the chat template, whose text has its special tokens already; a text gets those that the
        tokenizer adds.

        Raises:
            InvalidRequestError: if it is not a prompt, or if the tokenizer or the chat template cannot take it.
        """
        given = read(prompt)
        tokens = given if isinstance(given, list) else self._tokens(given)
        self._look_at(tokens)
        return tokens

    def _tokens(self, given: str | Chat) -> list[int]:
        if self._tokenizer is None:
            raise InvalidRequestError(f"This model has no tokenizer, so it cannot read {shown(given)}. Give token ids.")
        text = given if isinstance(given, str) else text_of(given, self._tokenizer)
        with foreign(InvalidRequestError, f"Cannot encode {shown(text)}", "Give token ids, or another text."):
            if isinstance(given, str):
                return list(self._tokenizer.encode(text))
            return list(self._tokenizer.encode(text, add_special_tokens=False))

    def _look_at(self, tokens: list[int]) -> None:
        bos, eos, pad = (getattr(self._tokenizer, f"{name}_token_id", None) for name in ("bos", "eos", "pad"))
        if bos is not None and tokens[:2] == [bos, bos]:
            self._warn(
                f"A prompt begins with the token {bos} (BOS) twice: the text has one, and the tokenizer adds one. Give "
                "chats as messages, and texts without it."
            )
        if pad is not None and pad not in (bos, eos) and pad in (tokens[:1] + tokens[-1:]):
            self._warn(
                f"A prompt begins or ends with the token {pad} (padding), which the model reads as text. Give what the "
                "tokenizer returned as a whole, with its attention_mask."
            )

    def _warn(self, message: str) -> None:
        if message not in self._warned:
            self._warned.add(message)
            warnings.warn(message, stacklevel=2)
