"""Tests that run only where they are asked for by the name of their mark: they install something first."""

from __future__ import annotations

import pytest

MARKS = ("triton_server",)


def leave_out(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Takes out those that have such a mark which `-m` does not name."""
    wanted = config.getoption("-m")
    left = [item for item in items if any(item.get_closest_marker(mark) and mark not in wanted for mark in MARKS)]
    items[:] = [item for item in items if item not in left]
    config.hook.pytest_deselected(items=left)
