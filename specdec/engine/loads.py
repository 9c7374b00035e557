"""How large a pass is: what a policy weighs."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from specdec.engine.scheduled import Scheduled
from specdec.policy.base import Load


def load_of(plan: Sequence[Scheduled], room: Callable[[int], int | None] = lambda rows: None) -> Load:
    """The pass without drafts. What it finds in the cache is a rough number: tokens of a prompt that is still to be
    computed count too.

    Args:
        plan: who takes part.
        room: rows of drafts that may stand beside so many others (`Pace.draft_rows`).
    """
    rows = cached = 0
    for part in plan:
        rows += len(part.tail)
        cached += len(part.request.tokens)
    return Load(rows, len(plan), cached, room(rows))


def with_rows(load: Load, rows: int) -> Load:
    """The pass with so many rows of drafts."""
    room = None if load.room is None else max(load.room - rows, 0)
    return Load(load.rows + rows, load.requests, load.cached, room) if rows else load
