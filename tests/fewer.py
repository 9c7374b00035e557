"""Long lists of cases, of which `make test` tries a few; the slow tests try the others.

`every` thins the values of one argument. The marker `fewer(step)`, of a test or a module, thins the cases of each test
function, whatever arguments they come from.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any
from zlib import crc32

import pytest


def every(step: int, cases: Iterable[Any]) -> list[Any]:
    """All of the cases; but for the first of each `step`, they are slow.

    Args:
        step: how many cases stand together.
        cases: values of an argument, tuples of several arguments' values, or what `pytest.param` makes.
    """
    return [case if number % step == 0 else _slow(case) for number, case in enumerate(cases)]


def _slow(case: Any) -> Any:
    values, marks, name = (case.values, case.marks, case.id) if hasattr(case, "marks") else (case, (), None)
    values = values if isinstance(values, tuple) else (values,)
    return pytest.param(*values, marks=[*marks, pytest.mark.slow], id=name)


def thin(items: Iterable[pytest.Item]) -> None:
    """Of the cases of a test function marked `fewer(step)` that are not slow already, one of `step` stays; the others
    become slow. Which ones follows from their names, so that no value of an argument is left out by its place."""
    families: dict[str, list[pytest.Item]] = {}
    for item in items:
        if item.get_closest_marker("slow") is None:
            families.setdefault(item.nodeid.partition("[")[0], []).append(item)
    for cases in families.values():
        mark = cases[0].get_closest_marker("fewer")
        if mark is not None:
            [step] = mark.args
            kept = -(-len(cases) // step)
            for item in sorted(cases, key=lambda item: crc32(item.nodeid.encode()))[kept:]:
                item.add_marker(pytest.mark.slow)
