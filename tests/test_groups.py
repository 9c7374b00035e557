"""Tests of one `xdist_group` run in one process: what they share, such as an environment or a model, is made once."""

from __future__ import annotations

import re

import pytest

pytest_plugins = "pytester"

TESTS = """
import pytest
@pytest.mark.xdist_group("together")
@pytest.mark.parametrize("number", range(6))
def test_a(number): pass
"""


def test_the_tests_of_a_group_share_a_worker(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(TESTS)
    done = pytester.runpytest_subprocess("-n", "2", "--dist", "loadgroup", "-vv")
    workers = re.findall(r"\[(gw\d)\].* PASSED ", done.stdout.str())
    assert (len(workers), len(set(workers))) == (6, 1)
