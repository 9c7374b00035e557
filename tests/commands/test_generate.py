"""What `generate` says of its figures, on a comparison made by hand."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from specdec import Generation
from specdec.commands.generate import _promise
from specdec.measure.compare import Comparison, Pair
from specdec.registry import RULES
from specdec.report.console import ConsoleReport
from specdec.stats import DecodingStats


def generation(first: int) -> Generation:
    stats = DecodingStats(output_tokens=2, passes=2, verify_seconds=1.0)
    return Generation("", [first, 7], None, "length", 0, stats)


PAIRS = [Pair("a", generation(1), generation(1)), Pair("b", generation(1), generation(2))]


def printed(pairs: list[Pair], comparable: bool = True) -> str:
    out = io.StringIO()
    ConsoleReport(Console(file=out, width=100)).table(Comparison(pairs, comparable))
    return out.getvalue()


def table(comparable: bool) -> str:
    [row] = [line for line in printed(PAIRS, comparable).splitlines() if "identical output" in line]
    return " ".join(row.split())


def test_of_one_prompt_no_spread_and_no_sum_is_told() -> None:
    several, one = printed(PAIRS), printed(PAIRS[:1])
    assert "Ratio of a prompt: median" in several
    assert ["a", "b", "all"] in [line.split() for line in several.splitlines()]
    assert "Ratio of a prompt" not in one
    assert ["a"] in [line.split() for line in one.splitlines()]


def test_texts_are_compared_where_they_must_be_the_same() -> None:
    assert table(comparable=True) == "identical output yes NO 1/2"


def test_texts_are_not_compared_where_only_their_distribution_is_promised() -> None:
    assert table(comparable=False) == "identical output – – –"


@pytest.mark.parametrize(
    ("rule", "part"),
    [
        ("greedy", None),
        ("gumbel", None),
        ("block", "promises the target's distribution, not the same text"),
        ("typical", "is lossy"),
    ],
)
def test_it_is_said_why(rule: str, part: str | None) -> None:
    said = _promise(RULES.create(rule))
    assert said == "" if part is None else part in said
