"""The reproductions: what theory fixes must come out exactly, and every study ends in its table."""

from __future__ import annotations

from pathlib import Path

import pytest

from experiments.reproduce import block_vs_token, invariance_price, leviathan, multi_draft
from experiments.reproduce.__main__ import STUDIES, document
from experiments.reproduce.options import Options
from specdec.analysis.traces import Trace, record
from specdec.drafters.early_exit import EarlyExitDrafter
from specdec.sampling import SamplingParams
from tests.engines import small_engine


class Small(Options):
    """The studies' options, over a tiny target."""

    trace: Trace


@pytest.fixture(scope="module")
def options() -> Options:
    """A trace of 3 × 12 positions, drafts of eight tokens."""
    made = Small(quick=True)
    engine = small_engine(EarlyExitDrafter(num_draft_tokens=8, num_layers=1), "token")
    params = [SamplingParams(max_tokens=20, temperature=1.0, seed=seed) for seed in range(3)]
    made.__dict__["trace"] = record(engine, [[1, 2, 3], [4, 5], [6]], params, every_position=True)
    return made


def test_theory_is_exact_to_the_printed_digits() -> None:
    result = leviathan.run(Options())
    assert all([round(value, 2) for value in one["ours"]] == one["published"] for one in result["factors"])
    predicted = [f"{one['predicted']:.2f}" for one in result["t5_xxl"]]
    assert predicted == ["3.16", "3.25", "2.50", "2.26", "2.35", "1.93", "2.40", "2.62", "2.02", "1.89", "1.80", "1.54"]
    assert "6 of 6 rows equal the printed digits" in leviathan.table(result)


def test_multi_draft_rules_stand_in_their_order_below_their_bounds() -> None:
    result = multi_draft.run(Options(quick=True))
    means = [one["mean"] for one in result["lines"].values()]
    assert means == sorted(means)
    assert result["violations"] == 0
    for name, one in result["lines"].items():  # 20 pairs; five standard errors, one failure in 10^6
        assert abs(one["mean"] - multi_draft.PUBLISHED[name]) < 5 * one["error"]


def test_block_has_the_exact_fractions_and_a_gain_for_every_length(options: Options) -> None:
    result = block_vs_token.run(options)
    assert result["exact"] == {"token": "10/9", "block": "11/9"}
    assert [one["gamma"] for one in result["gains"]] == [2, 4, 8]
    for one in result["gains"]:
        assert one["gain"] == pytest.approx(one["block"] / one["token"] - 1)
        assert one["low"] <= one["gain"] <= one["high"]
        assert 1 <= one["token"] <= one["gamma"] + 1


def test_the_price_of_invariance_lies_between_its_limits(options: Options) -> None:
    result = invariance_price.run(options)
    assert result["violations"] == 0
    assert result["bound"] <= result["gumbel"] <= result["rejection"]
    draws = result["positions"] * 20  # five standard errors
    assert result["observed"] == pytest.approx(result["rejection"], abs=5 * (0.25 / draws) ** 0.5)


def test_the_document_holds_every_study_and_its_command() -> None:
    results = Path("docs/results")
    text = document(results)
    for name, study in STUDIES.items():
        assert (results / f"reproduce-{name}.json").is_file(), "run `make reproduce`"
        assert f"## {study.TITLE}" in text
        assert f"python -m experiments.reproduce {name}" in text
    assert text == Path("docs/reproductions.md").read_text(encoding="utf-8")
