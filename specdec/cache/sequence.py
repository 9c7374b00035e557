"""What the cache knows of one sequence."""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import Tensor

from specdec.cache.pool import Pool


@dataclass
class CachedSequence:
    """Block table, committed tokens, and rows reserved after them."""

    table: list[int] = field(default_factory=list)
    length: int = 0
    reserved: int = 0
    slots: Tensor | None = None
    """Slot of every position of the table; None after the table changed."""
    filled: dict[Pool, int] = field(default_factory=dict)
    """Committed tokens whose entries each drafter's pool holds, counted from the first."""

    def cut(self, length: int, kept: int, block_size: int) -> list[int]:
        """Keeps the first `length` rows, committed or reserved, as committed tokens, in the first `kept` blocks.
        Returns the other blocks."""
        given_back = self.table[kept:]
        # Cut off, not rebuilt: the slots of the blocks that stay are the same.
        if self.slots is not None:
            self.slots = self.slots[: kept * block_size]
        del self.table[kept:]
        self.length, self.reserved = length, 0
        self.filled = {pool: min(n, length) for pool, n in self.filled.items()}
        return given_back
