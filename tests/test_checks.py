"""Values from outside: what a kind takes, how it keeps it, and what the message says."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import torch

from specdec.checks import Kind, either, flag, mapping, number, settle, several, shown, take, text, whole
from specdec.errors import ConfigError, InvalidRequestError

RATIO = number(lambda x: 0 < x <= 1, "a ratio in (0, 1]")
WHOLE = whole(1, 10)


@pytest.mark.parametrize("value", [1, 10, np.int64(3), np.uint8(3), torch.tensor(3)])
def test_a_whole_number_is_anything_with_an_index(value: Any) -> None:
    taken = take("k", value, WHOLE)
    assert type(taken) is int
    assert taken == int(value)


@pytest.mark.parametrize("value", [0, 11, -1, True, np.True_, 3.0, "3", None, 10**400, float("nan"), [3], b"3"])
def test_no_whole_number(value: Any) -> None:
    with pytest.raises(ConfigError, match=r"^k = .* cannot work. Give an integer from 1 to 10.$"):
        take("k", value, WHOLE)


@pytest.mark.parametrize("value", [1, 0.5, np.float32(0.5), np.float64(0.5), Fraction(1, 2)])
def test_a_real_number_is_kept_as_a_float(value: Any) -> None:
    taken = take("p", value, RATIO)
    assert type(taken) is float
    assert taken == float(value)


@pytest.mark.parametrize("value", [0, 1.5, float("nan"), float("inf"), True, "0.5", None, 1j, 10**400, [0.5]])
def test_no_ratio(value: Any) -> None:
    with pytest.raises(ConfigError, match=r"^p = .* cannot work. Give a ratio in \(0, 1\].$"):
        take("p", value, RATIO)


@pytest.mark.parametrize(
    ("kind", "good", "kept", "bad"),
    [
        (flag(), np.True_, True, 1),
        (text(), "a", "a", ""),
        (text(empty=True), "", "", b"a"),
        (text(), "\N{GRINNING FACE}", "\N{GRINNING FACE}", "\ud83d"),
        (several(WHOLE, "integers"), [1, np.int64(2)], (1, 2), [1, "2"]),
        (several(WHOLE, "integers"), torch.tensor([1, 2]), (1, 2), torch.tensor([[1], [2]])),
        (several(WHOLE, "integers"), np.array([1, 2]), (1, 2), np.array([1.0])),
        (several(text(), "texts"), ("a", "b"), ("a", "b"), "ab"),
        (several(text(), "texts", least=1), ["a"], ("a",), []),
        (mapping(WHOLE, RATIO, "ids to ratios"), {np.int64(1): 1}, {1: 1.0}, [(1, 1)]),
        (mapping(WHOLE, RATIO, "ids to ratios"), {}, {}, {"1": 1.0}),
        (either(text(), WHOLE), 3, 3, None),
        (WHOLE.or_none(), None, None, 0),
    ],
)
def test_other_kinds(kind: Kind, good: Any, kept: Any, bad: Any) -> None:
    assert take("x", good, kind) == kept
    assert type(take("x", good, kind)) is type(kept)
    with pytest.raises(ConfigError, match=r"^x = "):
        take("x", bad, kind)


def test_a_record_is_checked_and_kept_by_its_table() -> None:
    @dataclass(frozen=True)
    class Record:
        size: int
        ratio: float

        def __post_init__(self) -> None:
            settle(self, {"size": WHOLE, "ratio": RATIO.or_none(" to switch it off")}, InvalidRequestError)

    assert Record(np.int64(2), 1) == Record(2, 1.0)  # type: ignore[arg-type]
    with pytest.raises(InvalidRequestError, match=r"ratio = 2 cannot work. Give a ratio in \(0, 1\], or None"):
        Record(2, 2)


def test_a_message_is_short_whatever_the_value_is() -> None:
    class Loud:
        def __repr__(self) -> str:
            raise RuntimeError("no")

    assert len(shown("x" * 10**6)) < 100
    assert len(shown([["x" * 100] * 100] * 100)) < 300
    assert shown(Loud()) != ""
    assert shown(10**5000) != ""
    assert shown(np.float32(2)).endswith("(float32)")
