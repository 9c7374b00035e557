"""Command lines of `name=value` words."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from specdec.errors import ConfigError

Makers = Mapping[str, Callable[[str], Any]]
"""Name → what makes its value; ValueError where it is none."""


def parsed(words: Sequence[str], makers: Makers) -> dict[str, Any]:
    """The values, by their names.

    Raises:
        ConfigError: for another name, or a value that is none.
    """
    found = {}
    for word in words:
        name, _, value = word.partition("=")
        if name not in makers:
            raise ConfigError(f"Unknown option {name!r}. Valid names: {', '.join(makers)}.")
        try:
            found[name] = makers[name](value)
        except ValueError:
            raise ConfigError(f"{name} = {value!r} cannot work. Give an integer.") from None
    return found


def listed(value: str) -> tuple[str, ...]:
    """Words between commas."""
    return tuple(value.split(","))


def or_none(make: Callable[[str], Any]) -> Callable[[str], Any]:
    """A value, or `null`."""
    return lambda value: None if value == "null" else make(value)


def several(names: Sequence[str], make: Callable[[str], Any] = Path) -> dict[str, Callable[[str], Any]]:
    """Values that are made alike."""
    return dict.fromkeys(names, make)
