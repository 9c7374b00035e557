"""Data that a chat template may see: plain values, and nothing that has methods of its own."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from typing import Any

import numpy as np

from specdec.checks import shown
from specdec.errors import InvalidRequestError

DEEPEST = 64
"""Lists within lists. JSON schemas of tools have about ten."""


def plain(value: Any, name: str, depth: int = 0) -> Any:
    """A copy of plain types alone: None, bool, int, float, str, lists, tuples and dicts of those.

    Args:
        value: of those types or subclasses of them, numbers of numpy, mappings, dataclasses, or pydantic's models.
        name: what it is called in a message.
        depth: lists and mappings around it.

    Raises:
        InvalidRequestError: for anything else, for text that UTF-8 cannot hold, and for what is nested too deeply.
    """
    if depth > DEEPEST:
        raise InvalidRequestError(f"{name} is nested deeper than {DEEPEST} levels. Give flatter data.")
    if value is None or isinstance(value, bool | np.bool_):
        return value if value is None else bool(value)
    if isinstance(value, str):
        return _text(value, name)
    if isinstance(value, np.generic):
        value = value.item()
    for kind in (int, float):
        if isinstance(value, kind):
            return kind(value)
    if isinstance(value, list | tuple):
        items = [plain(item, f"{name}[{place}]", depth + 1) for place, item in enumerate(value)]
        return items if isinstance(value, list) else tuple(items)
    if (mapping := mapping_of(value)) is not None:
        return {_key(key, name): plain(item, f"{name}[{key!r}]", depth + 1) for key, item in mapping.items()}
    raise InvalidRequestError(f"{name} = {shown(value)} cannot work. Give text, numbers, lists and mappings.")


def mapping_of(value: Any) -> Mapping[Any, Any] | None:
    """A mapping, or the fields of a dataclass or of one of pydantic's models (what clients of chat services return)."""
    if isinstance(value, Mapping):
        return value
    if isinstance(value, type):
        return None
    if is_dataclass(value):
        return {field.name: getattr(value, field.name) for field in fields(value)}
    if callable(dump := getattr(value, "model_dump", None)):
        dumped = dump()
        return dumped if isinstance(dumped, Mapping) else None
    return None


def _text(value: str, name: str) -> str:
    text = str.__str__(value)
    try:
        text.encode()
    except UnicodeEncodeError:
        raise InvalidRequestError(
            f"{name} = {shown(text)} holds half of a surrogate pair, which is not a character. Decode the text again."
        ) from None
    return text


def _key(key: Any, name: str) -> Any:
    if isinstance(key, str):
        return _text(key, f"a key of {name}")
    if key is None or isinstance(key, bool | int | float):
        return plain(key, name)
    raise InvalidRequestError(f"A key of {name} = {shown(key)} cannot work. Give text.")
