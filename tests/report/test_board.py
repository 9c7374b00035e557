"""A table for each condition, with a line a method and a column a category of prompts."""

from __future__ import annotations

from typing import Any

from specdec.measure.runs import Run
from specdec.report.board import boards, markdown, notes
from specdec.report.text import markdown as document
from tests.measure.studies import run, scalars, summary


def measured(drafter: str, temperature: float, batch: int, speedup: float | None, **others: Any) -> Run:
    """On two categories, with the second one 1.5 times as fast."""
    kinds = {
        "chat": scalars(speedup, 2.0, 0.5),
        "code": scalars(speedup and 1.5 * speedup, 3.0, 0.5),
    }
    where = {"drafter": drafter, "rule": "auto", "temperature": temperature, "batch": batch, "dtype": "bfloat16"}
    told = summary(scalars(speedup, 2.5, 0.5), 0.8, by_category=kinds)
    return run(f"{drafter}-{temperature}-{batch}", where, told, **others)


STUDY = [
    measured("ngram", 1.0, 8, 2.25),
    measured("none", 0.0, 1, None, config={"note": "Left out: model."}),
    measured("ngram", 0.0, 1, 1.25, config={"note": "Left out: model."}),
    measured("suffix", 0.0, 1, 1.5, config={"note": ""}),
]
HEAD = ["method", "drafting", "MB", "all prompts", "chat", "code"]


def test_each_condition_has_its_methods_the_fastest_first() -> None:
    first, second = boards(STUDY)
    assert (first.condition, second.condition) == ("temperature 0.0, batch 1", "temperature 1.0, batch 8")
    assert first.columns == second.columns == HEAD
    assert first.rows == [
        ["suffix", "5.0%", "1.5", "1.50 (1.40–1.62); τ 2.50", "1.50 (1.40–1.62); τ 2.00",
         "2.25 (2.15–2.38); τ 3.00"],
        ["ngram", "5.0%", "1.5", "1.25 (1.15–1.38); τ 2.50", "1.25 (1.15–1.38); τ 2.00",
         "1.88 (1.77–2.00); τ 3.00"],
        ["none", "–", "1.5", "τ 2.50", "τ 2.00", "τ 3.00"],
    ]  # fmt: skip
    [row] = second.rows
    assert row[3:] == ["2.25 (2.15–2.38); τ 2.50", "> τ: measuring error; τ 2.00", "> τ: measuring error; τ 3.00"]


def test_a_category_that_a_method_did_not_decode_is_open() -> None:
    other = measured("ngram", 0.0, 1, 1.25)
    del other.summary["by_category"]["code"]
    [board] = boards([STUDY[3], other])
    assert board.condition == ""
    assert board.rows[1][3:] == ["1.25 (1.15–1.38); τ 2.50", "1.25 (1.15–1.38); τ 2.00", "–"]
    assert markdown(board)[:2] == [f"| {' | '.join(HEAD)} |", "|---|---|---|---|---|---|"]


def test_the_document_has_the_boards_and_what_was_left_out_once() -> None:
    text = document(STUDY, "leaderboard")
    assert text.count("### temperature") == 2
    assert text.count("Left out: model.") == 1
    assert "| suffix | 5.0% | 1.5 |" in text
    assert notes(STUDY) == ["Left out: model."]


def test_prompts_of_one_kind_need_no_second_table() -> None:
    alone = run("a", {"drafter": "ngram"}, summary(scalars(1.5, 2.0, 0.5), 0.8, by_category={"chat": scalars(1, 2, 1)}))
    assert "By category" not in document([alone], "x")
