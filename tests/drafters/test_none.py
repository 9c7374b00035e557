"""Plain decoding."""

from __future__ import annotations

from specdec.drafters.none import NoDrafter
from tests.drafting import draft_request


def test_nothing_is_proposed() -> None:
    drafter = NoDrafter()
    trees = drafter.propose([draft_request([1, 2]), draft_request([3], request_id=1)])
    assert [len(tree) for tree in trees] == [0, 0]
    assert drafter.propose([]) == []


def test_no_row_is_asked_for() -> None:
    drafter = NoDrafter()
    assert drafter.deterministic
    assert drafter.num_draft_tokens == 0
    assert drafter.max_nodes(drafter.num_draft_tokens) == 0
