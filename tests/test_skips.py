"""What a run says of tests that it skipped."""

from __future__ import annotations

import pytest

pytest_plugins = "pytester"

TESTS = """
import pytest
def test_a(): pytest.skip("no browser: apt-get install chromium")
def test_b(): pytest.skip("no browser: apt-get install chromium")
def test_c(): pytest.importorskip("no_such_package", reason="no package: pip install it")
@pytest.mark.skipif(True, reason="there is a GPU")
def test_d(): pass
@pytest.mark.xfail(reason="known")
def test_e(): assert False
def test_f(): pass
"""
LINE = (
    "4 skipped. 2: no browser (apt-get install chromium brings them). 1: no package (pip install it brings it). "
    "1: there is a GPU."
)


def test_a_run_ends_with_one_line_of_what_was_skipped(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(TESTS)
    result = pytester.runpytest("-p", "tests.skips", "-p", "no:xdist")
    result.assert_outcomes(passed=1, skipped=4, xfailed=1)
    assert result.ret == 0
    assert LINE in result.outlines


def test_no_skips_makes_a_test_that_could_run_fail(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(TESTS)
    result = pytester.runpytest("-p", "tests.skips", "-p", "no:xdist", "--no-skips")
    result.assert_outcomes(passed=1, failed=3, skipped=1, xfailed=1)
    result.stdout.fnmatch_lines(["*Skipped, which --no-skips forbids. no package: pip install it"])
    assert "1 skipped. 1: there is a GPU." in result.outlines


def test_a_run_without_skips_says_nothing_of_them(pytester: pytest.Pytester) -> None:
    pytester.makepyfile("def test_f(): pass")
    assert "skipped" not in pytester.runpytest("-p", "tests.skips", "-p", "no:xdist").stdout.str()
