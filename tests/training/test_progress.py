"""A run says how far it is: one bar on a terminal, and lines elsewhere."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from specdec.training.material import answering
from specdec.training.progress import Stage, bar


@pytest.mark.parametrize(
    ("rate", "most", "told"),
    [
        (None, 10.0, "answers 25 %: 500 of 2,000 tokens"),
        (25.0, float("inf"), "answers 25 %, 1 min left: 500 of 2,000 tokens, 25 tokens/s"),
        (25.0, 20.0, "answers 25 %, 20 s left: 500 of 2,000 tokens, 25 tokens/s"),  # the clock ends it before
        (25.0, -1.0, "answers 25 %, 0 s left: 500 of 2,000 tokens, 25 tokens/s"),
    ],
)
def test_a_line_tells_what_is_written_of_what_is_asked_and_the_time_left(
    rate: float | None, most: float, told: str
) -> None:
    assert str(answering(500, 2000, rate, most)) == told


def test_more_than_was_asked_is_all() -> None:
    assert str(answering(2100, 2000, 50.0, 9.0)) == "answers 100 %, 0 s left: 2,100 of 2,000 tokens, 50 tokens/s"


def test_a_terminal_has_one_bar_that_goes_on_from_stage_to_stage() -> None:
    stream = io.StringIO()
    with bar(Console(file=stream, force_terminal=True, force_interactive=True, width=80)) as show:
        assert show is not None
        show(answering(500, 2000, 25.0, 1e9))
        show(Stage("training", 0.5, 7260.0, "loss 1.25" + 99 * " and more"))
    last = stream.getvalue().splitlines()[-2]  # behind it the cursor comes back
    assert "answers" in stream.getvalue()
    assert "1 min left" in stream.getvalue()
    for part in ("training", "50%", "2 h 01 min left loss 1.25"):
        assert part in last
    assert "answers" not in last


def test_a_file_has_no_bar() -> None:
    with bar(Console(file=io.StringIO())) as show:
        assert show is None
