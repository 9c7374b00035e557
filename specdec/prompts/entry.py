"""The one place where a prompt comes in: what it is is read from all of it, and what it is not is refused by name.

| handed in | read as |
|---|---|
| a text | a text |
| integers of any type, in a list, tuple, 1-d array or tensor | token ids |
| messages (mappings with `role` and `content`), or a `Chat` | a chat |
| what a tokenizer returns: `input_ids`, perhaps `attention_mask` | token ids without padding, or a batch of those |
| {"prompt": text}, {"prompt_token_ids": ids} | that one |
| a list, tuple or array of these | a batch |
"""

from __future__ import annotations

import operator
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any, Protocol

import numpy as np

from specdec.checks import shown
from specdec.errors import InvalidRequestError
from specdec.prompts.chat import Chat, Message
from specdec.prompts.plain import mapping_of


class Array(Protocol):
    """An array or a tensor."""

    def tolist(self) -> Any:
        """Its values, as lists within lists."""


Prompt = str | Sequence[int] | Array | Sequence[Message] | Chat | Mapping[str, Any]
"""A text, token ids, chat messages, a `Chat`, or what a tokenizer returns."""

TAKEN = "Give a text, a list of token ids, a list of chat messages, or a list of such prompts."
_ALONE = {"prompt", "prompt_token_ids"}
_HARMLESS = {"attention_mask", "token_type_ids", "special_tokens_mask", "offset_mapping", "length", "position_ids"}
"""Beside `input_ids`: what follows from them."""


def split(prompts: Any) -> list[Any]:
    """The prompts of a batch, each as it was handed in, or one prompt alone. Nothing is refused here.

    An empty list is a batch of none.
    """
    if isinstance(prompts, Mapping):
        return _rows(prompts)
    items = _items(prompts)
    return [prompts] if items is None or _are_ids(items) or _are_messages(items) else items


def read(prompt: Any) -> str | list[int] | Chat:
    """One prompt, as a text, token ids or a chat. Token ids may still be outside of a vocabulary.

    Raises:
        InvalidRequestError: if it is none.
    """
    if isinstance(prompt, str):
        return _text(prompt)
    if isinstance(prompt, Chat):
        return prompt
    if isinstance(prompt, Mapping):
        return _of_mapping(prompt)
    items = _items(prompt)
    if items is None:
        raise InvalidRequestError(f"{shown(prompt)} is not a prompt. {TAKEN}")
    return Chat(items) if _are_messages(items) else _ids(items)


def token_ids(prompt: Any) -> list[int]:
    """A prompt that must be token ids: integers of any type, in a sequence, array or tensor.

    Raises:
        InvalidRequestError: if it is anything else.
    """
    if (items := _items(prompt)) is None:
        raise InvalidRequestError(f"{shown(prompt)} is not a list of token ids. Give integers.")
    return _ids(items)


def words(prompt: Any) -> str:
    """A prompt for a person to recognise: its text, what its messages say, or how many token ids it has."""
    given = read(prompt)
    if isinstance(given, str):
        return given
    return given.words if isinstance(given, Chat) else f"{len(given)} token ids"


def _items(value: Any) -> list[Any] | None:
    """Of a sequence, an array or a tensor; None for all else. Sets and iterators have no order or no second reading."""
    if isinstance(value, str | bytes | bytearray | memoryview | type):
        return None
    if hasattr(value, "tolist"):
        with suppress(Exception):  # a tensor without numbers: on no device, or sparse
            value = value.tolist()
    return list(value) if isinstance(value, Sequence) and not isinstance(value, str | bytes) else None


def _are_ids(items: list[Any]) -> bool:
    """Numbers, and nothing that could be a prompt of its own."""
    if all(type(item) is int for item in items):
        return bool(items)
    return any(_is_number(item) for item in items) and not any(_is_prompt(item) for item in items)


def _are_messages(items: list[Any]) -> bool:
    """Mappings or records alone, of which one has a message's fields."""
    fields = [mapping_of(item) for item in items if not isinstance(item, Chat | str)]
    return (
        len(fields) == len(items)
        and all(one is not None for one in fields)
        and any("role" in one or "content" in one for one in fields if one is not None)
    )


def _is_number(item: Any) -> bool:
    return isinstance(item, int | float | complex | np.generic) or (
        hasattr(item, "__index__") and getattr(item, "ndim", 0) == 0
    )


def _is_prompt(item: Any) -> bool:
    return isinstance(item, str | bytes | Chat | Mapping) or (not _is_number(item) and _items(item) is not None)


def _text(prompt: str) -> str:
    try:
        prompt.encode()
    except UnicodeEncodeError as error:
        raise InvalidRequestError(
            f"The text {shown(prompt)} holds half of a surrogate pair at {error.start}, which is not a character. "
            "Decode it again."
        ) from None
    return str.__str__(prompt)


def _ids(items: list[Any]) -> list[int]:
    if all(type(item) is int for item in items):
        return items
    return [_id(item, place) for place, item in enumerate(items)]


def _id(item: Any, place: int) -> int:
    if not _is_number(item):
        deep = "; it is nested too deeply, or a batch within a batch" if _is_prompt(item) else ""
        raise InvalidRequestError(
            f"Item {place} of the prompt is {shown(item)}, which is not a token id{deep}. {TAKEN}"
        )
    try:
        if not (isinstance(item, bool | np.bool_) or "bool" in str(getattr(item, "dtype", ""))):
            return operator.index(item)
    except TypeError:
        pass
    raise InvalidRequestError(f"Token id {place} is {shown(item)}. Give integers.")


def _rows(prompts: Mapping[str, Any]) -> list[Any]:
    """Of what a tokenizer returned for several texts, each row with its mask; else the mapping alone.

    A mask of another shape goes with every row, which it then does not fit.
    """
    ids = _items(prompts.get("input_ids"))
    if not ids or all(_items(row) is None for row in ids):
        return [prompts]
    mask = prompts.get("attention_mask")
    masks = _items(mask) if mask is not None else None
    if masks is None or len(masks) != len(ids):
        masks = [mask] * len(ids)
    return [{**prompts, "input_ids": row, "attention_mask": one} for row, one in zip(ids, masks, strict=True)]


def _of_mapping(prompt: Mapping[str, Any]) -> str | list[int] | Chat:
    names = set(prompt)
    if "input_ids" in names:
        if more := sorted(map(str, names - _HARMLESS - {"input_ids"})):
            raise InvalidRequestError(
                f"A prompt with {more[0]!r} beside its input_ids is more than text. Leave it out."
            )
        return _tokenized(prompt["input_ids"], prompt.get("attention_mask"))
    if len(names) == 1 and names <= _ALONE:
        [(name, value)] = prompt.items()
        if (name == "prompt") == isinstance(value, str):
            return read(value)
        raise InvalidRequestError(f"{name!r} holds {shown(value)}. Give a text in 'prompt', ids in 'prompt_token_ids'.")
    if "role" in names or "content" in names:
        raise InvalidRequestError(f"{shown(dict(prompt))} is one message, not a chat. Put it into a list.")
    raise InvalidRequestError(
        f"A mapping with {', '.join(map(shown, prompt)) or 'nothing'} is not a prompt. Give 'input_ids', 'prompt', "
        "'prompt_token_ids', or for a chat Chat(messages=…)."
    )


def _tokenized(given: Any, mask: Any) -> list[int]:
    """Token ids without padding."""
    ids = _items(given)
    if ids is None:
        raise InvalidRequestError(f"input_ids = {shown(given)} cannot work. Give a list of token ids.")
    if len(ids) == 1 and (row := _items(ids[0])) is not None:  # a batch of one
        rows = _items(mask) if mask is not None else None
        ids, mask = row, rows[0] if rows is not None and len(rows) == 1 else mask
    tokens = _ids(ids)
    if mask is None:
        return tokens
    seen = _items(mask)
    if seen is None or len(seen) != len(tokens) or any(_is_prompt(one) or one not in (0, 1) for one in seen):
        raise InvalidRequestError(
            f"attention_mask = {shown(mask)} does not fit {len(tokens)} input_ids. Give one 0 or 1 for each."
        )
    kept = [place for place, one in enumerate(seen) if one]
    if kept and len(kept) != kept[-1] - kept[0] + 1:
        raise InvalidRequestError(
            "The attention_mask has zeros between ones; only padding at the ends can be left out."
        )
    return [tokens[place] for place in kept]
