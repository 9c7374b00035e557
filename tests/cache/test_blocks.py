"""The block allocator: who holds which block, and whether a corrupted one is noticed."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from specdec.cache import BlockAllocator
from specdec.errors import OutOfBlocksError, SpecdecError


def test_a_new_allocator_has_every_block_free() -> None:
    allocator = BlockAllocator(5)
    assert allocator.num_blocks == allocator.num_free == 5
    assert [allocator.ref_count(block) for block in range(5)] == [0] * 5
    allocator.check_integrity([])


@pytest.mark.parametrize("num_blocks", [0, -1])
def test_an_allocator_without_blocks_is_refused(num_blocks: int) -> None:
    with pytest.raises(SpecdecError, match=f"num_blocks={num_blocks}"):
        BlockAllocator(num_blocks)


def test_allocate_hands_out_distinct_blocks_with_one_holder_each() -> None:
    allocator = BlockAllocator(5)
    first, second = allocator.allocate(2), allocator.allocate(3)
    assert sorted(first + second) == [0, 1, 2, 3, 4]
    assert [allocator.ref_count(block) for block in first + second] == [1] * 5
    assert allocator.num_free == 0
    allocator.check_integrity([first, second])


def test_allocate_of_nothing_takes_nothing_even_when_nothing_is_free() -> None:
    allocator = BlockAllocator(1)
    allocator.allocate(1)
    assert allocator.allocate(0) == []


def test_allocate_takes_all_or_nothing() -> None:
    allocator = BlockAllocator(4)
    table = allocator.allocate(2)
    with pytest.raises(OutOfBlocksError, match="3 blocks wanted, 2 free of 4") as caught:
        allocator.allocate(3)
    assert (caught.value.wanted, caught.value.free, caught.value.total) == (3, 2, 4)
    assert allocator.num_free == 2
    allocator.check_integrity([table])
    allocator.check_integrity([table, allocator.allocate(2)])


def test_a_block_is_free_again_when_its_last_holder_lets_go() -> None:
    allocator = BlockAllocator(3)
    table = allocator.allocate(2)
    allocator.retain(table)
    allocator.retain(table[:1])
    assert [allocator.ref_count(block) for block in table] == [3, 2]

    allocator.release(table)
    assert [allocator.ref_count(block) for block in table] == [2, 1]
    assert allocator.num_free == 1
    allocator.check_integrity([table, table[:1]])

    allocator.release(table)
    assert allocator.num_free == 2
    allocator.release(table[:1])
    assert allocator.num_free == 3
    allocator.check_integrity([])


def test_a_released_block_can_be_allocated_again() -> None:
    allocator = BlockAllocator(1)
    table = allocator.allocate(1)
    allocator.release(table)
    assert allocator.allocate(1) == table


def test_releasing_twice_is_refused_and_frees_the_block_once() -> None:
    allocator = BlockAllocator(2)
    table = allocator.allocate(1)
    allocator.release(table)
    with pytest.raises(SpecdecError, match=f"Block {table[0]} is not held"):
        allocator.release(table)
    assert allocator.num_free == 2
    allocator.check_integrity([])


@pytest.mark.parametrize("block", [-1, 0, 2, 3])
def test_a_block_that_nobody_holds_is_neither_retained_nor_released(block: int) -> None:
    """Block -1 must not wrap around to the last one, which is held."""
    allocator = BlockAllocator(3)
    table = allocator.allocate(3)
    allocator.release([0, 2] if block != -1 else [0])
    held = [[b for b in table if allocator.ref_count(b)]]
    for change in (allocator.retain, allocator.release):
        with pytest.raises(SpecdecError, match=f"Block {block} is not held"):
            change([block])
    allocator.check_integrity(held)


def test_a_block_that_is_kept_and_in_no_table_is_idle_and_one_that_nobody_holds_is_free() -> None:
    allocator = BlockAllocator(4)
    table = allocator.allocate(3)
    allocator.keep(table[:2])
    assert (allocator.num_free, allocator.num_idle) == (1, 0)
    allocator.release(table)
    assert (allocator.num_free, allocator.num_idle) == (2, 2)
    assert [allocator.in_use(block) for block in table] == [False] * 3
    allocator.check_integrity([], [table[:2]])
    allocator.retain(table[:1])
    allocator.drop(table[:2])
    assert (allocator.num_free, allocator.num_idle, allocator.ref_count(table[0])) == (3, 0, 1)
    allocator.check_integrity([table[:1]])
    for change in (allocator.drop, allocator.keep, allocator.release):
        with pytest.raises(SpecdecError, match="is not held"):
            change([table[1]])
    allocator.keep(table[:1])
    allocator.release(table[:1])
    with pytest.raises(SpecdecError, match="is not held"):
        allocator.release(table[:1])  # its keeper's hold is no table's
    allocator.check_integrity([], [table[:1]])


def _lose_a_free_block(allocator: BlockAllocator) -> None:
    allocator._free.pop()


def _free_a_block_twice(allocator: BlockAllocator) -> None:
    allocator._free.append(allocator._free[0])


def _free_a_held_block(allocator: BlockAllocator) -> None:
    allocator._free.append(0)


def _free_an_unknown_block(allocator: BlockAllocator) -> None:
    allocator._free.append(6)


def _count_too_high(allocator: BlockAllocator) -> None:
    allocator._counts[0] += 1


def _count_too_low(allocator: BlockAllocator) -> None:
    allocator._counts[1] -= 1


def _keeper_too_many(allocator: BlockAllocator) -> None:
    allocator._keepers[1] += 1


def _idle_too_many(allocator: BlockAllocator) -> None:
    allocator._num_idle += 1


def _count_negative(allocator: BlockAllocator) -> None:
    allocator._counts[5] = -1


@pytest.mark.parametrize(
    "corrupt",
    [
        _lose_a_free_block,
        _free_a_block_twice,
        _free_a_held_block,
        _free_an_unknown_block,
        _count_too_high,
        _count_too_low,
        _count_negative,
        _keeper_too_many,
        _idle_too_many,
    ],
)
def test_check_integrity_notices_a_corrupted_allocator(corrupt: Callable[[BlockAllocator], None]) -> None:
    allocator = BlockAllocator(6)
    table = allocator.allocate(3)
    allocator.retain(table[1:2])
    tables = [table, table[1:2]]
    assert table == [0, 1, 2]
    allocator.check_integrity(tables)
    corrupt(allocator)
    with pytest.raises(SpecdecError, match="Block"):
        allocator.check_integrity(tables)


@pytest.mark.parametrize(
    "tables",
    [
        pytest.param([], id="no table for a held block"),
        pytest.param([[0]], id="a table lost a block"),
        pytest.param([[0, 1], [1]], id="a holder that was never counted"),
        pytest.param([[0, 1, 2]], id="a table with a free block"),
        pytest.param([[0, 1, 4]], id="a table with a block beyond the pool"),
        pytest.param([[0, 1, -1]], id="a table with a negative block"),
    ],
)
def test_check_integrity_notices_tables_that_do_not_explain_the_counts(tables: list[list[int]]) -> None:
    allocator = BlockAllocator(4)
    assert allocator.allocate(2) == [0, 1]
    allocator.check_integrity([[0, 1]])
    with pytest.raises(SpecdecError, match="Block"):
        allocator.check_integrity(tables)
