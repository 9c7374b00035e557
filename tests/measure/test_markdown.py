"""Tables in Markdown, by hand."""

from specdec.measure.markdown import table


def test_the_first_row_is_the_heading() -> None:
    assert table([["a", "b"], ["1", "2"], ["3", ""]]) == "| a | b |\n|---|---|\n| 1 | 2 |\n| 3 |  |"
    assert table([("only",)]) == "| only |\n|---|"
