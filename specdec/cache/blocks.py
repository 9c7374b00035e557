"""Reference-counted blocks: which are free, and how many tables hold each of the others."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

from specdec.errors import OutOfBlocksError, SpecdecError


class BlockAllocator:
    """Hands out block numbers 0 .. num_blocks - 1 (PagedAttention, Kwon et al. 2023)."""

    def __init__(self, num_blocks: int) -> None:
        if num_blocks < 1:
            raise SpecdecError(f"A cache needs at least one block, got num_blocks={num_blocks}.")
        self.num_blocks = num_blocks
        self._free = list(range(num_blocks - 1, -1, -1))
        self._counts = [0] * num_blocks

    @property
    def num_free(self) -> int:
        """Blocks that no table holds."""
        return len(self._free)

    def allocate(self, n: int) -> list[int]:
        """Takes `n` blocks, each with one holder. All or nothing.

        Raises:
            OutOfBlocksError: if fewer are free; nothing was taken then.
        """
        if n > len(self._free):
            raise OutOfBlocksError(n, len(self._free), self.num_blocks)
        taken = [self._free.pop() for _ in range(n)]
        for block in taken:
            self._counts[block] = 1
        return taken

    def retain(self, blocks: Iterable[int]) -> None:
        """Adds a holder to each block."""
        for block in blocks:
            self._check_held(block)
            self._counts[block] += 1

    def release(self, blocks: Iterable[int]) -> None:
        """Takes a holder from each block; a block without one is free again."""
        for block in blocks:
            self._check_held(block)
            self._counts[block] -= 1
            if self._counts[block] == 0:
                self._free.append(block)

    def ref_count(self, block: int) -> int:
        """Number of holders."""
        return self._counts[block]

    def check_integrity(self, tables: Iterable[Sequence[int]]) -> None:
        """Raises SpecdecError unless `tables` explain every count, and the rest is free exactly once."""
        held = Counter(block for table in tables for block in table)
        free = Counter(self._free)
        if unknown := (held.keys() | free.keys()) - set(range(self.num_blocks)):
            raise SpecdecError(f"Block {min(unknown)} is in a table or free, but there are {self.num_blocks} blocks.")
        for block, count in enumerate(self._counts):
            if count != held[block]:
                raise SpecdecError(f"Block {block} has count {count}, but {held[block]} tables hold it.")
            if free[block] != (count == 0):
                raise SpecdecError(f"Block {block} has count {count} and is {free[block]} times in the free list.")

    def _check_held(self, block: int) -> None:
        if not 0 <= block < self.num_blocks or self._counts[block] == 0:
            raise SpecdecError(f"Block {block} is not held by anyone, so it cannot be retained or released.")
