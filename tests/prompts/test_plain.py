"""How deep data for a template may be nested."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from specdec import InvalidRequestError
from specdec.prompts.plain import DEEPEST, plain


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
