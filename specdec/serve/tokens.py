"""Tokens of a text, text of tokens, and what the tokenizer is: lm-eval asks, and needs no tokenizer of its own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from specdec.checks import Kind, flag, instance, several, take, text, whole
from specdec.errors import InvalidRequestError, SpecdecError
from specdec.prompts import Chat
from specdec.serve.answering import Answering
from specdec.serve.errors import ApiError

TOKENIZE: dict[str, Kind] = {
    "model": text(empty=True),
    "prompt": text("a text", empty=True),
    "messages": instance(list, "a list of messages"),
    "add_special_tokens": flag(),
    "add_generation_prompt": flag(),
    "return_token_strs": flag(),
}
DETOKENIZE: dict[str, Kind] = {
    "model": text(empty=True),
    "tokens": several(whole(0, 2**31 - 1), "token ids"),
}


class Tokens:
    """Answers about a tokenizer.

    Args:
        answering: encodes prompts.
        tokenizer: transformers' own.
        context: most tokens of a text.
    """

    def __init__(self, answering: Answering, tokenizer: Any, context: int) -> None:
        self._answering, self._tokenizer, self._context = answering, tokenizer, context

    def tokenize(self, body: Mapping[str, Any]) -> dict[str, Any]:
        """Of /tokenize: ids of a text or a chat.

        Raises:
            ApiError: 400, for a field that is wrong.
        """
        given = self._given(body, TOKENIZE)
        if ("prompt" in given) == ("messages" in given):
            raise ApiError(400, "Give a prompt, or messages.", "prompt")
        try:
            if "messages" in given:
                chat = Chat(given["messages"], add_generation_prompt=given.get("add_generation_prompt"))
                ids = self._answering.encode(chat)
            else:
                ids = self._answering.encode(given["prompt"], plain=not given.get("add_special_tokens", True))
        except SpecdecError as error:
            raise ApiError.bad(error) from error
        names = [self._answering.vocabulary.text(token) for token in ids] if given.get("return_token_strs") else None
        return {"count": len(ids), "max_model_len": self._context, "tokens": ids, "token_strs": names}

    def detokenize(self, body: Mapping[str, Any]) -> dict[str, Any]:
        """Of /detokenize: the text of ids; raises as `tokenize`."""
        given = self._given(body, DETOKENIZE)
        tokens = list(given.get("tokens", ()))
        size = len(self._tokenizer)
        if bad := [token for token in tokens if token >= size]:
            raise ApiError(400, f"Token id {bad[0]} is outside the vocabulary of {size}.", "tokens")
        return {"prompt": self._answering.vocabulary.decode(tokens)}

    def info(self) -> dict[str, Any]:
        """Of /tokenizer_info: what tokenizer_config.json holds, as far as JSON can say it."""
        own = getattr(self._tokenizer, "init_kwargs", {})
        plain = {key: value for key, value in own.items() if isinstance(value, str | int | float | bool | None)}
        special = {
            key: str(value) for key, value in self._tokenizer.special_tokens_map.items() if isinstance(value, str)
        }
        template = getattr(self._tokenizer, "chat_template", None)
        named = {"tokenizer_class": type(self._tokenizer).__name__, "chat_template": template}
        return {**{key: plain[key] for key in plain if "file" not in key and "path" not in key}, **special, **named}

    def _given(self, body: Mapping[str, Any], kinds: Mapping[str, Kind]) -> dict[str, Any]:
        if unknown := [name for name in body if name not in kinds]:
            raise ApiError(400, f"{unknown[0][:80]!r} is no field that is known here. Leave it out.", unknown[0][:80])
        try:
            given = {
                name: take(name, body[name], kind, InvalidRequestError)
                for name, kind in kinds.items()
                if body.get(name) is not None
            }
        except SpecdecError as error:
            raise ApiError.bad(error) from error
        self._answering.check_model(given.get("model", ""))
        return given
