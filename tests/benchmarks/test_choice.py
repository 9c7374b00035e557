"""Which prompts a benchmark takes."""

from __future__ import annotations

import pytest

from benchmarks.decode import choose_evenly
from specdec.prompts import PromptRecord

RECORDS = [PromptRecord(str(i), category, f"prompt {i}") for i, category in enumerate("aababbaaac")]


@pytest.mark.parametrize(
    ("limit", "wanted"),
    [(None, "0123456789"), (100, "0123456789"), (10, "0123456789"), (3, "029"), (5, "01249"), (8, "01234569"), (0, "")],
)
def test_as_many_as_wanted_evenly_from_all_categories_in_order(limit: int | None, wanted: str) -> None:
    """Small categories give all they have; large ones fill the rest."""
    assert "".join(str(record.question_id) for record in choose_evenly(RECORDS, limit)) == wanted
