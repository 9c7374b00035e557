"""How large a pass is: what a policy weighs."""

from __future__ import annotations

from collections.abc import Sequence

from specdec.engine.scheduled import Scheduled
from specdec.policy.base import Load


def load_of(plan: Sequence[Scheduled]) -> Load:
    """The pass without drafts. What it finds in the cache is a rough number: tokens of a prompt that is still to be
    computed count too."""
    rows = cached = 0
    for part in plan:
        rows += len(part.tail)
        cached += len(part.request.tokens)
    return Load(rows, len(plan), cached)


def with_rows(load: Load, rows: int) -> Load:
    """The pass with so many rows of drafts."""
    return Load(load.rows + rows, load.requests, load.cached) if rows else load
