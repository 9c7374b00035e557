"""Long lists of cases, of which `make test` tries a few; the slow tests try the others."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

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
