"""Runs that differ in their seed alone are one method."""

from __future__ import annotations

from typing import Any

from specdec.measure.runs import Run
from specdec.report.seeds import across_seeds, markdown
from specdec.report.text import markdown as document
from tests.measure.studies import run, scalars, summary


def measured(drafter: str, seed: int, speedup: float | None, tau: float, **others: Any) -> Run:
    axes = {"drafter": drafter, "rule": "gumbel", "temperature": 1.0, "seed": seed}
    return run(f"{drafter}-{seed}", axes, summary(scalars(speedup, tau, 0.5), 0.8), **others)


STUDY = [
    measured("ngram", 0, 1.0, 2.0), measured("suffix", 0, 1.5, 2.0), measured("ngram", 1, 1.5, 3.0),
    measured("suffix", 1, 1.5, 2.0), measured("ngram", 2, 2.0, 4.0), measured("none", 0, None, 1.0),
]  # fmt: skip


def test_mean_and_spread_between_seeds_by_hand() -> None:
    """1, 1.5 and 2 have the mean 1.5 and, with n - 1, the deviation 0.5."""
    found = {one.label: one.cells for one in across_seeds(STUDY)}
    assert {label: cells[1:4] for label, cells in found.items()} == {
        "ngram": ["3", "1.50 ± 0.50", "3.00 ± 1.00"],
        "suffix": ["2", "1.50 ± 0.00", "2.00 ± 0.00"],
    }


def test_a_speedup_that_one_seed_lacks_has_no_mean() -> None:
    [one] = across_seeds([measured("ngram", 0, 1.5, 2.0), measured("ngram", 1, None, 3.0)])
    assert one.cells[2:4] == ["–", "2.50 ± 0.71"]


def test_the_document_has_the_table_only_where_seeds_differ() -> None:
    text = document(STUDY, "study")
    assert "## Across seeds" in text
    assert all(line in text.splitlines() for line in markdown(across_seeds(STUDY)))
    assert "## Across seeds" not in document(STUDY[:2], "study")
