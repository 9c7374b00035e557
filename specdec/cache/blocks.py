"""Reference-counted blocks: which are free, and how many hold each of the others."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence

from specdec.errors import OutOfBlocksError, SpecdecError


class BlockAllocator:
    """Hands out block numbers 0 .. num_blocks - 1 (PagedAttention, Kwon et al. 2023).

    A block has two kinds of holders: tables, whose tokens are in use, and those who keep it for what is in it. A block
    that is kept and in no table is idle.
    """

    def __init__(self, num_blocks: int) -> None:
        if num_blocks < 1:
            raise SpecdecError(f"A cache needs at least one block, got num_blocks={num_blocks}.")
        self.num_blocks = num_blocks
        self._free = list(range(num_blocks - 1, -1, -1))
        self._counts = [0] * num_blocks
        """Holders of both kinds."""
        self._keepers = [0] * num_blocks
        self._num_idle = 0

    @property
    def num_free(self) -> int:
        """Blocks that nobody holds."""
        return len(self._free)

    @property
    def num_idle(self) -> int:
        """Blocks that are kept, and in no table."""
        return self._num_idle

    def allocate(self, n: int) -> list[int]:
        """Takes `n` blocks, each with one table. All or nothing.

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
        """Adds a table to each block."""
        for block in blocks:
            self._check(block, self.ref_count)
            self._num_idle -= not self.in_use(block)
            self._counts[block] += 1

    def release(self, blocks: Iterable[int]) -> None:
        """Takes a table from each block; a block without any holder is free again."""
        for block in blocks:
            self._check(block, self.in_use)
            self._counts[block] -= 1
            if self._counts[block] == 0:
                self._free.append(block)
            else:
                self._num_idle += not self.in_use(block)

    def keep(self, blocks: Iterable[int]) -> None:
        """Adds a keeper to each block."""
        for block in blocks:
            self._check(block, self.ref_count)
            self._counts[block] += 1
            self._keepers[block] += 1

    def drop(self, blocks: Iterable[int]) -> None:
        """Takes a keeper from each block; a block without any holder is free again."""
        for block in blocks:
            self._check(block, self._keepers.__getitem__)
            self._counts[block] -= 1
            self._keepers[block] -= 1
            if self._counts[block] == 0:
                self._num_idle -= 1
                self._free.append(block)

    def ref_count(self, block: int) -> int:
        """Number of holders of both kinds."""
        return self._counts[block]

    def in_use(self, block: int) -> bool:
        """Whether the block is in a table."""
        return self._counts[block] > self._keepers[block]

    def check_integrity(self, tables: Iterable[Sequence[int]], kept: Iterable[Sequence[int]] = ()) -> None:
        """Raises SpecdecError unless `tables` and what is `kept` explain every count, and the rest is free exactly
        once."""
        keepers = Counter(block for run in kept for block in run)
        held = Counter(block for table in tables for block in table) + keepers
        free = Counter(self._free)
        if unknown := (held.keys() | free.keys()) - set(range(self.num_blocks)):
            raise SpecdecError(f"Block {min(unknown)} is in a table or free, but there are {self.num_blocks} blocks.")
        for block, count in enumerate(self._counts):
            if (count, self._keepers[block]) != (held[block], keepers[block]):
                raise SpecdecError(
                    f"Block {block} has count {count}, {self._keepers[block]} of them keepers, but {held[block]} hold "
                    f"it, {keepers[block]} of them keep it."
                )
            if free[block] != (count == 0):
                raise SpecdecError(f"Block {block} has count {count} and is {free[block]} times in the free list.")
        if self._num_idle != (idle := sum(not self.in_use(block) for block in keepers)):
            raise SpecdecError(f"Blocks that are kept and in no table: {idle}, but {self._num_idle} count as idle.")

    def _check(self, block: int, held: Callable[[int], int]) -> None:
        if not 0 <= block < self.num_blocks or not held(block):
            raise SpecdecError(f"Block {block} is not held by anyone, so it cannot be retained or released.")
