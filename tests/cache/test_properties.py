"""Random operations on the paged cache, against a model that keeps a plain list for every sequence."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from typing import ClassVar

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

LAYOUT = KVLayout(num_layers=2, num_kv_heads=2, head_dim=2)
NUM_BLOCKS = 8
MAX_SEQUENCES = 4
OUTCOMES = {
    "copied a shared block",
    "moved rows of a path",
    "refused a first reservation",
    "refused a later reservation",
    "replaced a reservation",
    "truncated into a shared block",
}


class CacheMachine(RuleBasedStateMachine):
    """A cache, and the numbers that were written to the committed and reserved rows of each of its sequences."""

    seen: ClassVar[Counter[str]] = Counter()

    @initialize(shape=st.sampled_from([(4, True), (3, False), (2, False), (1, True)]))
    def start(self, shape: tuple[int, bool]) -> None:
        block_size, heads_first = shape
        self.cache = PagedCache(replace(LAYOUT, heads_first=heads_first), NUM_BLOCKS, block_size)
        self.committed: dict[int, list[int]] = {}
        self.reserved: dict[int, list[int]] = {}
        self.next_seq = 0
        self.next_number = 1
        self.poison_unused_slots()

    @property
    def tensors(self) -> list[Tensor]:
        return [*self.cache.keys, *self.cache.values]

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
            tensor[unused] = float("nan")

    def snapshot(self) -> tuple[object, ...]:
        """Everything a refused operation must leave as it was; in bytes, so that a NaN equals itself."""
        contents = [tensor.numpy().tobytes() for tensor in self.tensors]
        slots = {seq: self.cache.slots(seq).tolist() for seq in self.committed}
        lengths = {seq: self.cache.length(seq) for seq in self.committed}
        return contents, slots, lengths, self.cache.num_free_blocks

    @precondition(has_room)
    @rule()
    def add(self) -> None:
        seq = self.new_seq()
        self.cache.add(seq)
        self.committed[seq], self.reserved[seq] = [], []

    @precondition(has_sequences)
    @rule(data=st.data(), n=st.integers(0, 12))
    def reserve_and_write(self, data: st.DataObject, n: int) -> None:
        self.try_to_reserve(self.pick(data), n)

    @precondition(has_reservations)
    @rule(data=st.data(), n=st.integers(8, 32))
    def reserve_again(self, data: st.DataObject, n: int) -> None:
        self.try_to_reserve(self.pick(data, reserved=True), n)

    @precondition(has_sequences)
    @rule(data=st.data(), n=st.integers(1, 5))
    def append(self, data: st.DataObject, n: int) -> None:
        """A whole step at once: the way to long sequences, and to writes after a fork, in few operations."""
        seq = self.pick(data)
        if self.try_to_reserve(seq, n):
            self.cache.commit(seq, n)
            self.committed[seq] += self.reserved[seq]
            self.reserved[seq] = []

    def try_to_reserve(self, seq: int, n: int) -> bool:
        """Reserves and writes `n` rows, or sees that there was no room and that nothing changed."""
        held = bool(self.reserved[seq])
        before, free = self.snapshot(), self.cache.num_free_blocks
        needed = self.cache.blocks_needed(seq, n)
        # What an earlier reservation holds beyond the committed rows can be used again.
        rows, size = len(self.committed[seq]), self.cache.block_size
        spare = -(-(rows + len(self.reserved[seq])) // size) - -(-rows // size)
        last = self.cache.slots(seq)[rows - 1] // size if rows else None
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
        self.seen["copied a shared block"] += bool(rows) and bool(last != slots[rows - 1] // size)
        self.write(seq, slots[rows:])
        return True

    def write(self, seq: int, slots: Tensor) -> None:
        """Puts numbers that were never used before into the reserved rows of every layer."""
        numbers = list(range(self.next_number, self.next_number + len(slots)))
        self.next_number += len(slots)
        for index, tensor in enumerate(self.tensors):
            tensor[slots] = self.expected(index, numbers)
        self.reserved[seq] = numbers

    @staticmethod
    def expected(index: int, numbers: list[int]) -> Tensor:
        rows = torch.tensor(numbers, dtype=LAYOUT.dtype)[:, None, None]
        return rows * 16 + index * 4 + torch.arange(4, dtype=LAYOUT.dtype).view(2, LAYOUT.head_dim)

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
        numbers = self.reserved[seq]
        keep = data.draw(st.lists(st.booleans(), min_size=len(numbers), max_size=len(numbers)), label="keep")
        path = [row for row, kept in enumerate(keep) if kept]
        self.cache.commit_path(seq, path)
        self.committed[seq] += [numbers[row] for row in path]
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

    @precondition(has_sequences)
    @rule(data=st.data())
    def free(self, data: st.DataObject) -> None:
        seq = self.pick(data)
        self.cache.free(seq)
        del self.committed[seq], self.reserved[seq]
        assert seq not in self.cache

    @invariant()
    def every_sequence_holds_what_the_model_says(self) -> None:
        for seq, numbers in self.committed.items():
            assert self.cache.length(seq) == len(numbers)
            slots = self.cache.slots(seq)
            written = numbers + self.reserved[seq]
            assert len(slots) == len(written)
            for index, tensor in enumerate(self.tensors):
                assert torch.equal(tensor[slots], self.expected(index, written))

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
    assert {name for name, times in seen.items() if times} == OUTCOMES
