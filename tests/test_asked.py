"""Tests that run only where they are asked for."""

from __future__ import annotations

import pytest

pytest_plugins = "pytester"

CONFTEST = """
from tests.asked import leave_out
def pytest_configure(config): config.addinivalue_line("markers", "triton_server:")
def pytest_collection_modifyitems(config, items): leave_out(config, items)
"""
TESTS = """
import pytest
@pytest.mark.triton_server
def test_a(): assert False
def test_b(): pass
"""


@pytest.mark.parametrize(
    ("words", "outcomes"),
    [
        ([], {"passed": 1, "deselected": 1}),
        (["-m", "not slow"], {"passed": 1, "deselected": 1}),
        (["-m", "triton_server"], {"failed": 1, "deselected": 1}),
    ],
    ids=["nothing", "another", "it"],
)
def test_a_mark_must_be_named(pytester: pytest.Pytester, words: list[str], outcomes: dict[str, int]) -> None:
    pytester.makeconftest(CONFTEST)
    pytester.makepyfile(TESTS)
    pytester.runpytest("-p", "no:xdist", *words).assert_outcomes(**outcomes)
