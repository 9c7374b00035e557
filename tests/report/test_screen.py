"""The document that trackers get: the sentence, the drawing and the cells are those of the page and of the table."""

from __future__ import annotations

import re
from html import unescape

from specdec.report import tables
from specdec.report.answer import answer
from specdec.report.differences import contests
from specdec.report.screen import first_screen
from tests.measure.studies import study
from tests.report.test_differences import FAST, SLOW, measured


def text_of(html: str) -> str:
    return unescape(re.sub(r"<[^>]*>", "\n", html))


def test_the_document_says_who_leads_and_shows_each_method_once_in_each_part() -> None:
    runs = [measured("slow", SLOW), measured("fast", FAST)]
    screen = first_screen(runs, "rivers")
    [contest] = contests(runs)
    found, why = answer(contest)
    assert found.startswith("fast is the fastest: 2.10 times as fast as plain decoding")
    assert f"{found} {why}" in text_of(screen.html)
    speedups, leaderboard, time = re.split("<h2>", screen.html)[1:]
    assert [part.partition("<")[0] for part in (speedups, leaderboard)] == [
        "Speedup over plain decoding",
        "Leaderboard",
    ]
    for part in (speedups, leaderboard, time):
        assert [text_of(part).count(name) for name in ("fast", "slow")] == [1, 1]
    assert screen.columns == ("Condition", *tables.COLUMNS)
    assert [row[:2] for row in screen.rows] == [["", "fast"], ["", "slow"]]
    assert all(cell in text_of(leaderboard) for row in screen.rows for cell in row)


def test_the_drawing_marks_plain_decoding_and_the_limit_of_every_method() -> None:
    screen = first_screen([measured("slow", SLOW), measured("fast", FAST)], "rivers")
    [drawing] = re.findall(r"<svg.*?</svg>", screen.html.partition("Leaderboard")[0], re.DOTALL)
    assert drawing.count('stroke-dasharray="4,4"') == 1  # plain decoding, 1.00
    assert "bar: τ" in text_of(drawing)


def test_conditions_have_a_sentence_and_a_table_each() -> None:
    runs = [measured("fast", FAST, temperature=0.0), measured("fast", FAST, temperature=1.0)]
    screen = first_screen(runs, "rivers")
    assert [row[0] for row in screen.rows] == ["temperature 0.0", "temperature 1.0"]
    assert screen.html.count("<table>") == 2
    assert text_of(screen.html).count("2.10 times as fast as plain decoding") == 2


def test_names_are_text_and_nothing_in_the_document_runs_or_loads() -> None:
    screen = first_screen([measured("<script>alert(1)</script>", FAST)], "a <b> study")
    assert "<script" not in screen.html
    assert "default-src &#39;none&#39;" in screen.html
    assert "a &lt;b&gt; study" in screen.html
    assert not re.search(r"\s(src|href)=\"(?!#)", screen.html)


def test_a_study_with_failed_jobs_and_errors_has_a_screen() -> None:
    screen = first_screen(study(), "rivers")
    assert "> τ: measuring error" in text_of(screen.html)
    assert "early_exit" not in text_of(screen.html)
