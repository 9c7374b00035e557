"""Random operations on the paged cache, against a model that keeps a plain list for every sequence.

There are three pools of different layouts: the target's, a draft model's, and one that holds no keys and values.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from typing import ClassVar, NamedTuple

import pytest
import torch
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from torch import Tensor

from specdec.cache import KVLayout, PagedCache
from specdec.errors import OutOfBlocksError, SpecdecError
from tests.cache.layouts import Features

LAYOUT = KVLayout(num_layers=2, num_kv_heads=2, head_dim=2)
OTHERS = [KVLayout(num_layers=1, num_kv_heads=1, head_dim=3, dtype=torch.int8), Features(5)]
DRAFTERS = range(1, 1 + len(OTHERS))
"""Places of their pools."""
NUM_BLOCKS = 8
MAX_SEQUENCES = 4
OUTCOMES = {
    "cut what was filled",
    "copied a shared block",
    "copied what was filled",
    "filled in a shared block",
    "forked what was filled",
    "moved rows of a path",
    "refused a first reservation",
    "refused a later reservation",
    "refused to fill too far",
    "replaced a reservation",
    "truncated into a shared block",
}


class Row(NamedTuple):
    """A token's number, and the pools that its entry was written to."""

    number: int
    pools: frozenset[int]


class CacheMachine(RuleBasedStateMachine):
    """A cache, and what was written to the committed and reserved rows of each of its sequences."""

    seen: ClassVar[Counter[str]] = Counter()

    @initialize(shape=st.sampled_from([(4, True), (3, False), (2, False), (1, True)]))
    def start(self, shape: tuple[int, bool]) -> None:
        block_size, heads_first = shape
        self.cache = PagedCache(replace(LAYOUT, heads_first=heads_first), NUM_BLOCKS, block_size, others=OTHERS)
        self.committed: dict[int, list[Row]] = {}
        self.reserved: dict[int, list[Row]] = {}
        self.filled: dict[int, dict[int, int]] = {}
        self.next_seq = 0
        self.next_number = 1
        self.poison_unused_slots()

    @property
    def tensors(self) -> list[Tensor]:
        return [tensor for pool in self.cache.pools for tensor in pool.tensors]

    def has_sequences(self) -> bool:
        return bool(self.committed)

    def has_room(self) -> bool:
        return len(self.committed) < MAX_SEQUENCES

    def has_reservations(self) -> bool:
        return any(self.reserved.values())

    def pick(self, data: st.DataObject, reserved: bool = False) -> int:
        seqs = [seq for seq in self.committed if self.reserved[seq] or not reserved]
        return data.draw(st.sampled_from(seqs), label="sequence")

    def new_seq(self) -> int:
        self.next_seq += 1
        return self.next_seq

    def block_counts(self) -> Counter[int]:
        """How many sequences use each block, as told by their slots."""
        size = self.cache.block_size
        return Counter(b for seq in self.committed for b in {s // size for s in self.cache.slots(seq).tolist()})

    def poison_unused_slots(self) -> None:
        unused = torch.ones(NUM_BLOCKS * self.cache.block_size, dtype=torch.bool)
        for seq in self.committed:
            unused[self.cache.slots(seq)] = False
        for tensor in self.tensors:
            tensor[unused] = float("nan") if tensor.is_floating_point() else -128

    def snapshot(self) -> tuple[object, ...]:
        """Everything a refused operation must leave as it was; in bytes, so that a NaN equals itself."""
        contents = [tensor.numpy().tobytes() for tensor in self.tensors]
        slots = {seq: self.cache.slots(seq).tolist() for seq in self.committed}
        lengths = {seq: self.cache.length(seq) for seq in self.committed}
        filled = {seq: [self.cache.filled(seq, pool) for pool in self.cache.pools] for seq in self.committed}
        return contents, slots, lengths, filled, self.cache.num_free_blocks

    @precondition(has_room)
    @rule()
    def add(self) -> None:
        seq = self.new_seq()
        self.cache.add(seq)
        self.committed[seq], self.reserved[seq] = [], []
        self.filled[seq] = dict.fromkeys(DRAFTERS, 0)

    @precondition(has_sequences)
    @rule(data=st.data(), n=st.integers(0, 12))
    def reserve_and_write(self, data: st.DataObject, n: int) -> None:
        self.try_to_reserve(data, self.pick(data), n)

    @precondition(has_reservations)
    @rule(data=st.data(), n=st.integers(8, 32))
    def reserve_again(self, data: st.DataObject, n: int) -> None:
        self.try_to_reserve(data, self.pick(data, reserved=True), n)

    @precondition(has_sequences)
    @rule(data=st.data(), n=st.integers(1, 5))
    def append(self, data: st.DataObject, n: int) -> None:
        """A whole step at once: the way to long sequences, and to writes after a fork, in few operations."""
        seq = self.pick(data)
        if self.try_to_reserve(data, seq, n):
            self.cache.commit(seq, n)
            self.committed[seq] += self.reserved[seq]
            self.reserved[seq] = []
            for pool in data.draw(st.sets(st.sampled_from(DRAFTERS)), label="filled pools"):
                self.catch_up(seq, pool, len(self.committed[seq]))

    def try_to_reserve(self, data: st.DataObject, seq: int, n: int) -> bool:
        """Reserves and writes `n` rows, or sees that there was no room and that nothing changed."""
        held = bool(self.reserved[seq])
        before, free = self.snapshot(), self.cache.num_free_blocks
        # What an earlier reservation holds beyond the committed rows can be used again.
        rows, size = len(self.committed[seq]), self.cache.block_size
        spare = -(-(rows + len(self.reserved[seq])) // size) - -(-rows // size)
        last = int(self.cache.slots(seq)[rows - 1]) // size if rows else None
        copies = n > 0 and rows % size > 0 and last is not None and self.block_counts()[last] > 1
        needed = -(-(rows + n) // size) - -(-rows // size) + copies
        if needed > free + spare:
            with pytest.raises(OutOfBlocksError) as caught:
                self.cache.reserve(seq, n)
            error = caught.value
            assert (error.wanted, error.free, error.total) == (needed - spare, free, NUM_BLOCKS)
            assert self.snapshot() == before
            self.seen[f"refused a {'later' if held else 'first'} reservation"] += 1
            return False
        self.cache.reserve(seq, n)
        assert free - self.cache.num_free_blocks == needed - spare
        slots = self.cache.slots(seq)
        assert len(slots) == rows + n
        self.seen["replaced a reservation"] += held
        copied = bool(rows) and bool(last != slots[rows - 1] // size)
        assert copied == copies
        self.seen["copied a shared block"] += copied
        filled = any(n > rows - rows % size for n in self.filled[seq].values())
        self.seen["copied what was filled"] += copied and filled
        # The target writes its entries; a drafter writes them now, later, or never.
        eager = data.draw(st.sets(st.sampled_from(DRAFTERS)), label="pools") if n else set()
        numbers = range(self.next_number, self.next_number + n)
        self.next_number += n
        self.reserved[seq] = [Row(number, frozenset({0, *eager})) for number in numbers]
        for pool in (0, *eager):
            self.write(pool, slots[rows:], self.reserved[seq])
        return True

    def write(self, pool: int, slots: Tensor, rows: list[Row]) -> None:
        """Puts the rows' entries into every tensor of a pool."""
        for index, tensor in enumerate(self.cache.pools[pool].tensors):
            tensor[slots] = self.expected(pool, index, rows)

    def expected(self, pool: int, index: int, rows: list[Row]) -> Tensor:
        """What a pool's tensor holds of these rows; float32 entries are all distinct."""
        tensor = self.cache.pools[pool].tensors[index]
        numbers = torch.tensor([row.number for row in rows]).view(-1, *[1] * (tensor.dim() - 1))
        entry = numbers * 64 + index * 8 + torch.arange(tensor[0].numel()).view(tensor.shape[1:])
        return (entry if tensor.is_floating_point() else entry * 37 % 251 - 125).to(tensor.dtype)

    @precondition(has_sequences)
    @rule(data=st.data())
    def fill(self, data: st.DataObject) -> None:
        """A drafter catches up, down to some token, or notes that less than before is there."""
        seq, pool = self.pick(data), data.draw(st.sampled_from(DRAFTERS), label="pool")
        rows, before = self.committed[seq], self.snapshot()
        n = len(rows) - data.draw(st.integers(-1, len(rows)), label="left out")
        if n > len(rows):
            with pytest.raises(SpecdecError, match="are committed"):
                self.cache.fill(seq, self.cache.pools[pool], n)
            assert self.snapshot() == before
            self.seen["refused to fill too far"] += 1
            return
        self.catch_up(seq, pool, n)

    def catch_up(self, seq: int, pool: int, n: int) -> None:
        """Writes the entries that a pool lacks of the first `n` tokens, and notes them."""
        rows, slots, first = self.committed[seq], self.cache.slots(seq), self.filled[seq][pool]
        self.write(pool, slots[first:n], rows[first:n])
        shared = self.block_counts()
        self.seen["filled in a shared block"] += any(
            shared[s // self.cache.block_size] > 1 for s in slots[first:n].tolist()
        )
        self.cache.fill(seq, self.cache.pools[pool], n)
        rows[first:n] = [Row(row.number, row.pools | {pool}) for row in rows[first:n]]
        self.filled[seq][pool] = n

    @precondition(has_reservations)
    @rule(data=st.data())
    def commit(self, data: st.DataObject) -> None:
        seq = self.pick(data, reserved=True)
        n = data.draw(st.integers(0, len(self.reserved[seq])), label="rows")
        self.cache.commit(seq, n)
        self.committed[seq] += self.reserved[seq][:n]
        self.reserved[seq] = []

    @precondition(has_reservations)
    @rule(data=st.data())
    def commit_path(self, data: st.DataObject) -> None:
        seq = self.pick(data, reserved=True)
        rows = self.reserved[seq]
        keep = data.draw(st.lists(st.booleans(), min_size=len(rows), max_size=len(rows)), label="keep")
        path = [row for row, kept in enumerate(keep) if kept]
        self.cache.commit_path(seq, path)
        self.committed[seq] += [rows[row] for row in path]
        self.reserved[seq] = []
        self.seen["moved rows of a path"] += path != list(range(len(path)))

    @precondition(has_sequences)
    @rule(data=st.data())
    def truncate(self, data: st.DataObject) -> None:
        seq = self.pick(data)
        # Drawn from the end: few tokens, which are likelier, cut within a block that a fork shares.
        length = len(self.committed[seq]) - data.draw(st.integers(0, len(self.committed[seq])), label="forgotten")
        self.cache.truncate(seq, length)
        del self.committed[seq][length:]
        self.reserved[seq] = []
        self.seen["cut what was filled"] += any(n > length for n in self.filled[seq].values())
        self.filled[seq] = {pool: min(n, length) for pool, n in self.filled[seq].items()}
        if length % self.cache.block_size:
            last = int(self.cache.slots(seq)[-1]) // self.cache.block_size
            self.seen["truncated into a shared block"] += self.block_counts()[last] > 1

    @precondition(lambda self: self.has_sequences() and self.has_room())
    @rule(data=st.data())
    def fork(self, data: st.DataObject) -> None:
        parent, child = self.pick(data), self.new_seq()
        before = self.snapshot()
        if self.reserved[parent]:
            with pytest.raises(SpecdecError, match="reserved rows"):
                self.cache.fork(parent, child)
            assert child not in self.cache
        else:
            self.cache.fork(parent, child)
        assert self.snapshot() == before
        if not self.reserved[parent]:
            self.committed[child], self.reserved[child] = list(self.committed[parent]), []
            self.filled[child] = dict(self.filled[parent])
            self.seen["forked what was filled"] += any(self.filled[child].values())

    @precondition(has_sequences)
    @rule(data=st.data())
    def free(self, data: st.DataObject) -> None:
        seq = self.pick(data)
        self.cache.free(seq)
        del self.committed[seq], self.reserved[seq], self.filled[seq]
        assert seq not in self.cache

    @invariant()
    def every_pool_holds_of_every_sequence_what_the_model_says(self) -> None:
        for seq, committed in self.committed.items():
            assert self.cache.length(seq) == len(committed)
            slots = self.cache.slots(seq)
            rows = committed + self.reserved[seq]
            assert len(slots) == len(rows)
            filled = {0: len(committed)} | self.filled[seq]
            for place, pool in enumerate(self.cache.pools):
                assert self.cache.filled(seq, pool) == filled[place]
                written = [index for index, row in enumerate(rows) if place in row.pools]
                assert written[: filled[place]] == list(range(filled[place]))
                for index, tensor in enumerate(pool.tensors):
                    assert torch.equal(tensor[slots[written]], self.expected(place, index, [rows[i] for i in written]))

    @invariant()
    def blocks_are_held_by_the_sequences_that_use_them_and_no_others(self) -> None:
        self.cache.check_integrity()
        assert NUM_BLOCKS - self.cache.num_free_blocks == len(self.block_counts())
        self.poison_unused_slots()

    def teardown(self) -> None:
        if hasattr(self, "cache"):
            for seq in self.committed:
                self.cache.free(seq)
            self.cache.check_integrity()
            assert self.cache.num_free_blocks == NUM_BLOCKS


@pytest.fixture
def seen() -> Iterator[Counter[str]]:
    """Counts what the operations of one test came across."""
    CacheMachine.seen.clear()
    yield CacheMachine.seen
    CacheMachine.seen.clear()


def test_random_operations_leave_the_cache_as_the_model_says(seen: Counter[str]) -> None:
    run_state_machine_as_test(
        CacheMachine,
        settings=settings(derandomize=True, deadline=None, max_examples=180, stateful_step_count=50),
    )
    found = {name for name, times in seen.items() if times}
    assert found <= OUTCOMES
    assert len(found) >= len(OUTCOMES) - 2  # which rare ones are drawn follows the modules in memory
