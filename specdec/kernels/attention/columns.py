"""Whose rows a flat batch holds and what they follow: the one description from which every kernel makes its table."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True, eq=False)
class SequenceColumns:
    """One entry per sequence in every column.

    Args:
        rows: how many rows of the flat batch are its own.
        committed: tokens that the cache holds for good.
        first: reserved rows that were run earlier in the step.
        slots: int64 [committed + reserved rows so far], in storage order, on the host.
        parents: for each reserved row the reserved row it follows, -1 for the last committed token; None for a chain.
    """

    rows: Sequence[int]
    committed: Sequence[int]
    first: Sequence[int]
    slots: Sequence[Tensor]
    parents: Sequence[Sequence[int] | None]


def depths(parents: Sequence[int] | None, count: int) -> list[int]:
    """Of the first `count` reserved rows the position, counted from the last committed token's successor."""
    if parents is None:
        return list(range(count))
    found: list[int] = []
    for parent in parents[:count]:
        found.append(0 if parent < 0 else found[parent] + 1)
    return found
