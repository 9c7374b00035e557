"""What a selection costs: its rounds on a tiny model, and its table by hand."""

from __future__ import annotations

from benchmarks.choices import CHOICES, study, table
from tests.programs.scenes import generator


def test_each_round_compares_one_selection_with_a_token() -> None:
    with generator() as one:
        ratios = study(one, 3)
        assert len(ratios) == 3
        assert min(ratios) > 0
        assert one.engine.cache.num_free_blocks > 0
    assert len(CHOICES) == 8


def test_the_table_by_hand() -> None:
    """Quartiles of 1 to 5."""
    assert table({"ratios": [5, 1, 4, 2, 3]}).splitlines()[-1] == "| 5 | 3.00 | 2.00 and 4.00 |"
