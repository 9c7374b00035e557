"""Values from outside: understood, or refused by name. One table for a record, one style of message."""

from __future__ import annotations

import operator
import reprlib
from collections.abc import Callable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from numbers import Real
from typing import Any

import numpy as np

from specdec.errors import ConfigError, SpecdecError

_short = reprlib.Repr()
_short.maxstring, _short.maxother, _short.maxlong = 80, 80, 60
LONGEST = 200
"""Characters of a value in a message."""


class Unfit(Exception):
    """A value that is not of its kind. Never leaves this module's callers: `take` and `settle` name it."""


@dataclass(frozen=True)
class Kind:
    """What a value may be.

    Args:
        read: the value as it is kept; raises `Unfit` for one that cannot be.
        wanted: the values that fit, in words that follow "Give ".
    """

    read: Callable[[Any], Any]
    wanted: str

    def or_none(self, meaning: str = "") -> Kind:
        """This kind, or None; `meaning` says what None does."""
        read = self.read
        return Kind(lambda value: None if value is None else read(value), f"{self.wanted}, or None{meaning}")

    def but(self, wanted: str) -> Kind:
        """The same values, described in other words."""
        return Kind(self.read, wanted)


def is_integer(value: object) -> bool:
    """Whether it is of a type with `__index__`, and no bool."""
    return type(value) is int or (hasattr(value, "__index__") and not isinstance(value, bool | np.bool_))


def whole(least: int = 0, most: int = 2**31 - 1, wanted: str = "") -> Kind:
    """An integer of any type with `__index__`, but no bool: `least` ≤ value ≤ `most`."""

    def read(value: Any) -> int:
        if not is_integer(value):
            raise Unfit
        try:
            number = operator.index(value)
        except TypeError:
            raise Unfit from None
        return _within(number, least, most)

    bound = f">= {least}" if most == 2**31 - 1 else f"from {least} to {most}"
    return Kind(read, wanted or f"an integer {bound}")


def number(fits: Callable[[float], bool], wanted: str) -> Kind:
    """A real number, of Python or numpy, that `fits`. NaN never does, since no comparison with it holds."""

    def read(value: Any) -> float:
        if isinstance(value, bool | np.bool_) or not isinstance(value, Real):
            raise Unfit
        try:
            taken = float(value)
        except OverflowError:
            raise Unfit from None
        if not fits(taken):
            raise Unfit
        return taken

    return Kind(read, wanted)


def flag() -> Kind:
    """True or False, of Python or numpy."""

    def read(value: Any) -> bool:
        if not isinstance(value, bool | np.bool_):
            raise Unfit
        return bool(value)

    return Kind(read, "True or False")


def text(wanted: str = "a non-empty text", empty: bool = False) -> Kind:
    """A string that UTF-8 can hold (a lone surrogate cannot be), not empty unless it may be."""

    def read(value: Any) -> str:
        if not isinstance(value, str) or not (value or empty):
            raise Unfit
        try:
            value.encode()
        except UnicodeEncodeError:
            raise Unfit from None
        return value

    return Kind(read, wanted)


def several(kind: Kind, wanted: str, least: int = 0, most: int | None = None) -> Kind:
    """A list, a tuple, a set, an array or another sequence of one kind, kept as a tuple. A string is no sequence."""

    def read(value: Any) -> tuple[Any, ...]:
        if hasattr(value, "tolist"):  # numpy's arrays, tensors
            value = value.tolist()
        if isinstance(value, str | bytes) or not isinstance(value, Sequence | AbstractSet):
            raise Unfit
        if len(value) < least or (most is not None and len(value) > most):
            raise Unfit
        return tuple(kind.read(item) for item in value)

    return Kind(read, wanted)


def mapping(key: Kind, value: Kind, wanted: str) -> Kind:
    """A mapping from one kind to another, kept as a dict."""

    def read(given: Any) -> dict[Any, Any]:
        if not isinstance(given, Mapping):
            raise Unfit
        return {key.read(each): value.read(one) for each, one in given.items()}

    return Kind(read, wanted)


def instance(cls: type | tuple[type, ...], wanted: str) -> Kind:
    """An object of the class."""

    def read(value: Any) -> Any:
        if not isinstance(value, cls):
            raise Unfit
        return value

    return Kind(read, wanted)


def either(*kinds: Kind) -> Kind:
    """The first kind that fits."""

    def read(value: Any) -> Any:
        for kind in kinds:
            try:
                return kind.read(value)
            except Unfit:
                continue
        raise Unfit

    return Kind(read, " or ".join(kind.wanted for kind in kinds))


def take(name: str, value: Any, kind: Kind, error: type[SpecdecError] = ConfigError) -> Any:
    """The value as it is kept.

    Raises:
        ConfigError, or `error`: if it does not fit; names it, its value and what would.
    """
    try:
        return kind.read(value)
    except Unfit:
        raise error(f"{name} = {shown(value)} cannot work. Give {kind.wanted}.") from None


def settle(record: Any, kinds: Mapping[str, Kind], error: type[SpecdecError] = ConfigError) -> None:
    """Checks the fields of a dataclass, which may be frozen, and keeps them as their kinds do.

    Args:
        record: from its `__post_init__`.
        kinds: field → what it may be.
        error: what is raised for a value that does not fit.
    """
    for name, kind in kinds.items():
        object.__setattr__(record, name, take(name, getattr(record, name), kind, error))


def shown(value: Any) -> str:
    """A value in a message: short, whatever it is, and with its type where that is not plain."""
    try:
        words = _short.repr(value)
    except Exception:  # a __repr__ of its own, or a number of more digits than Python prints
        words = "…"
    if len(words) > LONGEST:
        words = words[:LONGEST] + "…"
    plain = value is None or isinstance(value, str | bool | int | float | list | tuple | dict)
    return words if plain else f"{words} ({type(value).__name__})"


def _within(number: int, least: int, most: int) -> int:
    if not least <= number <= most:
        raise Unfit
    return number
