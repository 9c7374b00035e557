"""A skipped test says what it lacks and which command brings that; the run ends with one line of it.

The reason of a skip is "what is missing: the command that brings it". With --no-skips such a test fails instead.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Generator, Iterable
from typing import Any

import pytest

BY_NATURE = ("there is a GPU", "nothing to mend on a GPU", "there is no fork here")
"""Reasons that nothing can be installed against: the machine is another one."""


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--no-skips", action="store_true", help="a test that is skipped, though it could run, fails")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if item.config.getoption("--no-skips") and report.skipped and not hasattr(report, "wasxfail"):
        reason = reason_of(report)
        if reason not in BY_NATURE:
            report.outcome, report.longrepr = "failed", f"Skipped, which --no-skips forbids. {reason}"
    return report


def pytest_terminal_summary(terminalreporter: Any) -> None:
    reports = terminalreporter.stats.get("skipped", [])
    if reports:
        terminalreporter.write_line(summary(map(reason_of, reports)))


def reason_of(report: pytest.TestReport) -> str:
    """Without pytest's own word in front."""
    text = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
    return text.removeprefix("Skipped: ")


def summary(reasons: Iterable[str]) -> str:
    """One line: how many tests lack what, and what to run for it.

    >>> summary(["no browser: apt-get install chromium"] * 2 + ["there is a GPU"])
    '3 skipped. 2: no browser (apt-get install chromium brings them). 1: there is a GPU.'
    """
    counts = Counter(reasons)
    parts = []
    for reason, count in counts.most_common():
        lack, _, command = reason.partition(": ")
        brings = f" ({command} brings {'it' if count == 1 else 'them'})" if command else ""
        parts.append(f"{count}: {lack}{brings}.")
    return " ".join([f"{counts.total()} skipped.", *parts])
