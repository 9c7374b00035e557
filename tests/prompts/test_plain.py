"""What data for a template becomes, and how deep it may be nested."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum, StrEnum
from types import MappingProxyType
from typing import Any

import numpy as np
import pytest

from specdec import InvalidRequestError
from specdec.prompts.plain import mapping_of, plain

DEEPEST = 64


class Word(StrEnum):
    YES = "yes"


class Count(IntEnum):
    TWO = 2


@dataclass
class Point:
    x: int
    y: Any = None


class Dumped:
    """What pydantic's models have."""

    def __init__(self, dump: Any) -> None:
        self._dump = dump

    def __repr__(self) -> str:
        return f"Dumped({self._dump!r})"

    def model_dump(self) -> Any:
        return self._dump


def nested(times: int, around: Callable[[Any], Any]) -> Any:
    value: Any = 1
    for _ in range(times):
        value = around(value)
    return value


@pytest.mark.parametrize("around", [lambda inner: [inner], lambda inner: (inner,), lambda inner: {"a": inner}])
def test_as_deep_as_allowed_and_one_deeper(around: Callable[[Any], Any]) -> None:
    deepest = nested(DEEPEST, around)
    assert plain(deepest, "x") == deepest
    with pytest.raises(InvalidRequestError, match=f"x.* is nested deeper than {DEEPEST} levels. Give flatter data"):
        plain(nested(DEEPEST + 1, around), "x")


def same(left: Any, right: Any) -> bool:
    """Equal, and of the same types all the way down."""
    if type(left) is not type(right):
        return False
    if isinstance(left, dict):
        return same(list(left.items()), list(right.items()))
    if isinstance(left, list | tuple):
        return len(left) == len(right) and all(map(same, left, right))
    return bool(left == right)


@pytest.mark.parametrize(
    ("value", "wanted"),
    [
        (None, None),
        (True, True),
        (np.bool_(False), False),
        (0, 0),
        (Count.TWO, 2),
        (0.5, 0.5),
        (np.int64(3), 3),
        (np.uint8(3), 3),
        (np.float32(0.5), 0.5),
        (np.float64(0.5), 0.5),
        ("", ""),
        (Word.YES, "yes"),
        (np.str_("ä"), "ä"),
        ([1, (2.0, [None])], [1, (2.0, [None])]),
        ((), ()),
        ({}, {}),
        (OrderedDict(a=[np.int8(1)]), {"a": [1]}),
        (MappingProxyType({1: "x", None: 2, "b": 0.5}), {1: "x", None: 2, "b": 0.5}),
        ({Count.TWO: 1, np.float64(0.5): 2, True: 3, Word.YES: 4}, {2: 1, 0.5: 2, True: 3, "yes": 4}),
        (Point(1, [Point(2)]), {"x": 1, "y": [{"x": 2, "y": None}]}),
        (Dumped({"a": Word.YES}), {"a": "yes"}),
    ],
    ids=repr,
)
def test_a_copy_is_of_plain_types_alone(value: Any, wanted: Any) -> None:
    assert same(plain(value, "x"), wanted)


def test_a_copy_is_none_of_the_original() -> None:
    inner = [1]
    copied = plain({"a": inner}, "x")
    inner.append(2)
    assert copied == {"a": [1]}


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (Point, "x = <class"),
        (Dumped, "x = <class"),
        (Dumped([1]), r"x = Dumped\(\[1\]\)"),
        (dict, "x = <class 'dict'>"),
        (NotImplemented, "x = NotImplemented"),
        (b"y", r"x = b'y' \(bytes\) cannot work"),
        ({1, 2}, r"x = \{1, 2\}"),
        (1j, "x = 1j"),
        (np.array([1]), r"x = array"),
        ([0, {"a": (1, len)}], r"x\[1\]\['a'\]\[1\] = <built-in"),
        ({"a": "\ud800"}, r"x\['a'\] = .*surrogate"),
        ({"\ud800": 1}, "a key of x = .*surrogate"),
        ({(1,): 1}, r"A key of x = \(1,\) cannot work. Give text"),
    ],
    ids=repr,
)
def test_what_is_not_plain_is_refused_by_its_place(value: Any, message: str) -> None:
    with pytest.raises(InvalidRequestError, match=f"^{message}"):
        plain(value, "x")


def test_fields_are_read_as_a_mapping() -> None:
    assert mapping_of(Point(1)) == {"x": 1, "y": None}
    assert mapping_of(Dumped({"a": 1})) == {"a": 1}
    for none in (Point, Dumped, Dumped("ab"), [("a", 1)], "ab", None, 5):
        assert mapping_of(none) is None
