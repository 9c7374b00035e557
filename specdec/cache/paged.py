"""Which slots belong to which sequence: block tables over any number of pools (PagedAttention, Kwon et al. 2023)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from specdec.cache.blocks import BlockAllocator
from specdec.cache.layout import CacheUsage, KVLayout
from specdec.cache.moving import Moving, move
from specdec.cache.pool import KVPool, Layout, Pool, pool_of
from specdec.cache.prefix import NOTHING, Match, PrefixTree
from specdec.cache.runs import Space
from specdec.cache.sequence import CachedSequence
from specdec.errors import OutOfBlocksError, SpecdecError


class PagedCache:
    """Slots, and the sequences that use them. One block table serves every pool.

    A sequence has committed tokens and, during a step, reserved rows after them: rows are written to reserved slots,
    then either committed or rolled back. Sequences may share committed blocks (`fork`); a shared block is copied
    before it is written to. Tables, counts and lengths know blocks alone; the numbers at the slots are in `pools`, and
    what happens to a slot happens to it in all of them.

    Args:
        layout: shape and dtype of one token's entry in the target's pool, which is the first one.
        num_blocks, block_size: there are num_blocks · block_size slots.
        others: layouts of further pools, those that drafters ask for.

    Raises:
        OutOfBlocksError: if the memory cannot be had.
        SpecdecError: if num_blocks or block_size is below one.
    """

    def __init__(self, layout: KVLayout, num_blocks: int, block_size: int = 16, others: Sequence[Layout] = ()) -> None:
        if num_blocks < 1 or block_size < 1:
            raise SpecdecError(f"A cache needs at least one slot, got {num_blocks=} and {block_size=}.")
        self.num_blocks, self.block_size = num_blocks, block_size
        try:
            self.target = KVPool(layout, num_blocks * block_size)
            self.pools: tuple[Pool, ...] = (self.target, *(pool_of(one, num_blocks * block_size) for one in others))
            # Last: its free list is in real memory, and an absurd num_blocks must fail before that fills up.
            self.clear()
        except (RuntimeError, MemoryError) as error:
            size = num_blocks * block_size * sum(one.bytes_per_token() for one in (layout, *others)) / 2**30
            raise OutOfBlocksError(
                num_blocks, 0, 0, f"They would take {size:.1f} GiB, which could not be allocated. Lower num_blocks."
            ) from error

    @property
    def num_free_blocks(self) -> int:
        """Blocks that no sequence holds. What earlier texts have left in them goes when they are wanted."""
        return self._allocator.num_free + self._allocator.num_idle

    def blocks(self, rows: int) -> int:
        """Blocks that so many rows of one sequence take."""
        return -(-rows // self.block_size)

    def __contains__(self, seq: int) -> bool:
        return seq in self._sequences

    def add(self, seq: int, match: Match = NOTHING) -> None:
        """Starts a sequence: an empty one, or with what `prefixes` has found of its text, committed and in blocks that
        are shared as after a `fork`."""
        if seq in self._sequences:
            raise SpecdecError(f"Sequence {seq} is in the cache already; free it first.")
        self._allocator.retain(match.blocks)
        self._sequences[seq] = CachedSequence(list(match.blocks), match.length, filled=dict(match.filled))
        self.prefixes.use(match)

    def remember(self, seq: int, space: Space, tokens: Sequence[int]) -> None:
        """Leaves the blocks of a text's committed tokens to `prefixes`, for texts that begin alike.

        Args:
            seq: whose text it is.
            space: texts of other spaces will not find it.
            tokens: of the text, from the first one on; those that are not committed are left out. If they end inside a
                block, and the sequence goes on, it copies that block before it writes to it.
        """
        sequence = self._get(seq)
        self.prefixes.insert(space, tokens[: sequence.length], sequence.table, sequence.filled)

    def num_in_use(self, blocks: Sequence[int]) -> int:
        """How many of the blocks some sequence holds."""
        return sum(map(self._allocator.in_use, blocks))

    def length(self, seq: int) -> int:
        """Committed tokens."""
        return self._get(seq).length

    def filled(self, seq: int, pool: Pool) -> int:
        """Committed tokens whose entries `pool` holds, counted from the first; of the target's pool all of them."""
        sequence = self._get(seq)
        return sequence.length if pool is self.target else sequence.filled.get(self._drafters(pool), 0)

    def fill(self, seq: int, pool: Pool, n: int) -> None:
        """Notes that a drafter's pool holds the entries of the first `n` committed tokens, and of no more.

        They may lie in blocks that others share: a token's entry is the same whoever writes it. A fork inherits the
        number, and tokens that are forgotten are not counted any more.

        Raises:
            SpecdecError: if the pool is the target's, or not of this cache; or if fewer tokens are committed.
        """
        sequence = self._get(seq)
        if not 0 <= n <= sequence.length:
            raise SpecdecError(f"Cannot fill {n} tokens of sequence {seq}: {sequence.length} are committed.")
        sequence.filled[self._drafters(pool)] = n

    def reserve(self, seq: int, n: int) -> None:
        """Makes room for `n` rows after the committed tokens, in place of any earlier reservation.

        Raises:
            OutOfBlocksError: if there are not enough free blocks; the sequence then keeps what it had.
        """
        sequence = self._get(seq)
        if n < 0:
            raise SpecdecError(f"Cannot reserve {n} rows.")
        kept, wanted = self.blocks(sequence.length), self.blocks(sequence.length + n)
        spare = sequence.table[kept:]
        copies = n > 0 and self._must_copy(sequence)
        if copies and wanted - kept + 1 - len(spare) > self.num_free_blocks:
            self.prefixes.evict(self.num_blocks)  # all of it: what the tree alone shares need not be copied then
            copies = self._must_copy(sequence)
        missing = wanted - kept + copies - len(spare)
        if missing > 0:
            fresh = [*spare, *self._allocate(missing)]
        else:
            fresh = spare[: wanted - kept + copies]
            self._allocator.release(spare[len(fresh) :])
        if not copies and fresh == spare:
            sequence.reserved = n
            return
        table = sequence.table[:kept]
        if copies:
            self._copy_block(table[-1], fresh[0])
            self._allocator.release(table[-1:])
            table[-1] = fresh.pop(0)
        sequence.table, sequence.slots, sequence.reserved = [*table, *fresh], None, n

    def slots(self, seq: int) -> Tensor:
        """Slot of every committed and reserved row in storage order, int64 [length + reserved], on the host."""
        sequence = self._get(seq)
        if sequence.slots is None:
            table = np.array(sequence.table, np.int64)
            sequence.slots = torch.from_numpy((table[:, None] * self.block_size + np.arange(self.block_size)).ravel())
        return sequence.slots[: sequence.length + sequence.reserved]

    def commit(self, seq: int, n: int) -> None:
        """Keeps the first `n` reserved rows, rolls the others back, and returns blocks that are not needed."""
        sequence = self._get(seq)
        if not 0 <= n <= sequence.reserved:
            raise SpecdecError(f"Cannot commit {n} rows of sequence {seq}: {sequence.reserved} are reserved.")
        self._shrink(sequence, sequence.length + n)

    def commit_path(self, seq: int, rows: Sequence[int]) -> None:
        """Keeps the given reserved rows (an accepted path through a tree), moved together; rolls the others back.

        Args:
            rows: strictly increasing indices into the reserved rows.
        """
        sequence = self._get(seq)
        rows = list(rows)
        if any(b <= a for a, b in zip([-1, *rows], rows, strict=False)) or (rows and rows[-1] >= sequence.reserved):
            raise SpecdecError(
                f"Path {rows} of sequence {seq} must increase strictly and stay below its {sequence.reserved} rows."
            )
        if moved := [(to, row) for to, row in enumerate(rows) if to != row]:
            slots = self.slots(seq)[sequence.length :].tolist()
            self.moving.add([slots[row] for _, row in moved], [slots[to] for to, _ in moved])
        self.commit(seq, len(rows))

    def truncate(self, seq: int, length: int) -> None:
        """Forgets committed tokens from `length` on, and any reservation."""
        sequence = self._get(seq)
        if not 0 <= length <= sequence.length:
            raise SpecdecError(f"Cannot cut sequence {seq} of {sequence.length} tokens to {length}.")
        self._shrink(sequence, length)

    def fork(self, parent: int, child: int) -> None:
        """Starts `child` with the parent's committed tokens; their blocks are shared until one side writes.

        Raises:
            SpecdecError: if the parent has reserved rows, which it might write to a block that is shared then.
        """
        source = self._get(parent)
        if source.reserved:
            raise SpecdecError(
                f"Sequence {parent} has {source.reserved} reserved rows; commit or roll them back before a fork."
            )
        self.add(child)
        table = source.table[: self.blocks(source.length)]
        self._allocator.retain(table)
        self._sequences[child] = CachedSequence(table, source.length, filled=dict(source.filled))

    def free(self, seq: int) -> None:
        """Drops a sequence and its hold on its blocks."""
        self._allocator.release(self._get(seq).table)
        del self._sequences[seq]

    def clear(self) -> None:
        """Drops every sequence and all that is kept, whatever state an interrupted change left them in."""
        self._sequences: dict[int, CachedSequence] = {}
        self._allocator = BlockAllocator(self.num_blocks)
        self.moving = Moving(self.pools)
        self.prefixes = PrefixTree(self._allocator, self.block_size)
        """What is kept of earlier texts."""

    def usage(self) -> CacheUsage:
        """How many slots are allocated, and how many of those hold a token."""
        filled: dict[int, int] = {}
        for sequence in self._sequences.values():
            for index, block in enumerate(sequence.table):
                tokens = min(max(sequence.length - index * self.block_size, 0), self.block_size)
                filled[block] = max(filled.get(block, 0), tokens)
        return CacheUsage(self.num_blocks * self.block_size, len(filled) * self.block_size, sum(filled.values()))

    def check_integrity(self) -> None:
        """Raises SpecdecError unless tables, counts and lengths fit together and no reserved slot is shared."""
        kept = [node.blocks for node in self.prefixes.nodes()]
        self._allocator.check_integrity((sequence.table for sequence in self._sequences.values()), kept)
        self.prefixes.check_integrity()
        for seq, sequence in self._sequences.items():
            if len(sequence.table) != self.blocks(sequence.length + sequence.reserved):
                raise SpecdecError(
                    f"Sequence {seq}: {len(sequence.table)} blocks for {sequence.length} + {sequence.reserved} rows."
                )
            if any(not 0 <= n <= sequence.length for n in sequence.filled.values()):
                raise SpecdecError(f"Sequence {seq}: a pool is filled beyond its {sequence.length} tokens.")
            writable = sequence.table[sequence.length // self.block_size :] if sequence.reserved else []
            for block in writable:
                if self._allocator.ref_count(block) != 1:
                    raise SpecdecError(f"Sequence {seq} may write to block {block}, which others share.")

    def _get(self, seq: int) -> CachedSequence:
        try:
            return self._sequences[seq]
        except KeyError:
            raise SpecdecError(f"Sequence {seq} is not in the cache; add it first.") from None

    def _drafters(self, pool: Pool) -> Pool:
        """The pool, if its entries are a drafter's to write."""
        if pool not in self.pools[1:]:
            raise SpecdecError("This is the target's pool, or one of another cache: give one of pools[1:].")
        return pool

    def _allocate(self, n: int) -> list[int]:
        """Takes blocks, at the cost of what is kept of earlier texts."""
        if n > self.num_free_blocks:
            raise OutOfBlocksError(n, self.num_free_blocks, self.num_blocks)
        self.prefixes.evict(n)
        return self._allocator.allocate(n)

    def _must_copy(self, sequence: CachedSequence) -> bool:
        """Whether the next row goes into a partly filled block that others share."""
        full, rest = divmod(sequence.length, self.block_size)
        return rest > 0 and self._allocator.ref_count(sequence.table[full]) > 1

    def _copy_block(self, source: int, target: int) -> None:
        size = self.block_size
        move(self.pools, [(range(source * size, (source + 1) * size), range(target * size, (target + 1) * size))])

    def _shrink(self, sequence: CachedSequence, length: int) -> None:
        self._allocator.release(sequence.cut(length, self.blocks(length), self.block_size))
