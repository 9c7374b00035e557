"""The paged cache: sharing, compaction, rollback, and what it refuses."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from specdec.cache import CacheUsage, KVLayout, PagedCache
from specdec.errors import OutOfBlocksError, SpecdecError
from tests.cache.layouts import Features

LAYOUT = KVLayout(num_layers=2, num_kv_heads=2, head_dim=3)
TREE_PARENTS = [-1, 0, 0, 2, 2, 4, 4]
"""Seven nodes: the root 0, its children 1 and 2, their children 3 and 4 below 2, and 5 and 6 below 4."""
TREE_PATHS = {0: [0], 1: [0, 1], 2: [0, 2], 3: [0, 2, 3], 4: [0, 2, 4], 5: [0, 2, 4, 5], 6: [0, 2, 4, 6]}
"""Written by hand: the path from the root to each node."""


def make_cache(num_blocks: int = 8, block_size: int = 4) -> PagedCache:
    """A cache with a pool for a drafter, in which every slot is NaN until a test writes to it."""
    cache = PagedCache(LAYOUT, num_blocks, block_size, others=[Features(3)])
    for tensor in (*tensors(cache), *cache.pools[1].tensors):
        tensor.fill_(float("nan"))
    return cache


def tensors(cache: PagedCache) -> list[Tensor]:
    return [*cache.target.keys, *cache.target.values]


def entry(index: int, numbers: list[int]) -> Tensor:
    """What `write` stores in the index-th tensor for these numbers: distinct for every tensor, head and channel."""
    offsets = torch.arange(LAYOUT.num_kv_heads * LAYOUT.head_dim).view(LAYOUT.num_kv_heads, LAYOUT.head_dim)
    return torch.tensor(numbers, dtype=torch.float32)[:, None, None] * 100 + index * 10 + offsets


def write(cache: PagedCache, seq: int, numbers: list[int]) -> None:
    """Reserves a row for each number and writes it."""
    cache.reserve(seq, len(numbers))
    slots = cache.slots(seq)[cache.length(seq) :]
    for index, tensor in enumerate(tensors(cache)):
        tensor[slots] = entry(index, numbers)


def append(cache: PagedCache, seq: int, numbers: list[int]) -> None:
    """Writes a row for each number and commits it; starts the sequence if need be."""
    if seq not in cache:
        cache.add(seq)
    write(cache, seq, numbers)
    cache.commit(seq, len(numbers))


def assert_holds(cache: PagedCache, seq: int, numbers: list[int]) -> None:
    assert cache.length(seq) == len(numbers)
    slots = cache.slots(seq)[: len(numbers)]
    for index, tensor in enumerate(tensors(cache)):
        assert torch.equal(tensor[slots], entry(index, numbers))
    cache.check_integrity()


def bits(cache: PagedCache) -> list[Tensor]:
    """The contents as integers, in which a NaN equals itself."""
    return [tensor.view(torch.int32).clone() for tensor in tensors(cache)]


def blocks(cache: PagedCache, seq: int) -> list[int]:
    return (cache.slots(seq)[:: cache.block_size] // cache.block_size).tolist()


def test_one_slot_is_a_cache_and_blocks_have_sixteen_unless_told_otherwise() -> None:
    small = PagedCache(LAYOUT, num_blocks=1, block_size=1)
    small.add(0)
    small.reserve(0, 1)
    assert small.slots(0).tolist() == [0]
    assert PagedCache(LAYOUT, num_blocks=1).block_size == 16


def test_bytes_per_token_counts_keys_and_values_of_all_layers() -> None:
    assert LAYOUT.bytes_per_token() == 2 * 2 * 2 * 3 * 4
    assert KVLayout(30, 3, 64, torch.bfloat16).bytes_per_token() == 23040


def test_keys_and_values_have_one_tensor_per_layer_with_a_row_per_slot() -> None:
    cache = PagedCache(KVLayout(3, 2, 5, torch.bfloat16), num_blocks=4, block_size=8)
    assert [tuple(tensor.shape) for tensor in tensors(cache)] == [(32, 2, 5)] * 6
    assert {tensor.dtype for tensor in tensors(cache)} == {torch.bfloat16}
    assert len({tensor.data_ptr() for tensor in tensors(cache)}) == 6
    assert (len(cache.target.keys), len(cache.target.values)) == (3, 3)


@pytest.mark.parametrize("dtype", [torch.float32, torch.int8], ids=str)
def test_heads_may_come_first_in_memory_under_the_same_shape(dtype: torch.dtype) -> None:
    plain = KVLayout(3, 2, 5, dtype)
    for layout, strides in ((plain, [(10, 5, 1), (2, 1)]), (replace(plain, heads_first=True), [(5, 160, 1), (1, 32)])):
        cache = PagedCache(layout, num_blocks=4, block_size=8)
        for side in tensors(cache):
            assert (tuple(side.shape), side.stride()) == ((32, 2, 5), strides[0])
        scales = [*cache.target.key_scales, *cache.target.value_scales]
        assert len(scales) == (6 if dtype == torch.int8 else 0)
        assert all((tuple(each.shape), each.stride()) == ((32, 2), strides[1]) for each in scales)


def test_slots_are_int64_in_storage_order_for_committed_and_reserved_rows() -> None:
    cache = make_cache()
    append(cache, 0, [1, 2, 3])
    append(cache, 1, [4])
    cache.reserve(0, 4)
    slots = cache.slots(0)
    first, second = blocks(cache, 0)
    assert slots.dtype == torch.int64
    assert slots.tolist() == [*(first * 4 + i for i in range(4)), *(second * 4 + i for i in range(3))]
    cache.commit(0, 1)
    assert cache.slots(0).tolist() == slots[:4].tolist()


def test_a_ragged_batch_wastes_less_than_four_percent_of_its_slots() -> None:
    """On average half a block a sequence is lost, whatever its length."""
    draw = random.Random(7)
    lengths = [draw.randint(100, 1200) for _ in range(32)]
    cache = PagedCache(KVLayout(1, 1, 1), num_blocks=32 * 75, block_size=16)
    assert cache.usage() == CacheUsage(32 * 75 * 16, 0, 0)
    assert cache.usage().waste == 0
    for seq, length in enumerate(lengths):
        cache.add(seq)
        cache.reserve(seq, length)
        cache.commit(seq, length)
    usage = cache.usage()
    assert usage.used_slots == sum(lengths)
    assert usage.allocated_slots == (cache.num_blocks - cache.num_free_blocks) * 16
    assert 0 < usage.waste < 0.04
    cache.check_integrity()


def test_usage_counts_shared_tokens_once_and_reserved_rows_as_not_used() -> None:
    cache = make_cache()
    append(cache, 0, [1, 2, 3, 4, 5])
    cache.fork(0, 1)
    assert cache.usage() == CacheUsage(total_slots=32, allocated_slots=8, used_slots=5)
    cache.reserve(1, 4)
    assert cache.usage() == CacheUsage(total_slots=32, allocated_slots=16, used_slots=6)
    assert cache.usage().waste == 10 / 16


@pytest.mark.parametrize("writer", [0, 1], ids=["parent writes", "child writes"])
def test_the_first_side_to_write_after_a_fork_copies_the_last_block(writer: int) -> None:
    cache, other = make_cache(), 1 - writer
    append(cache, 0, [1, 2, 3, 4, 5, 6])
    cache.fork(0, 1)
    assert blocks(cache, 0) == blocks(cache, 1)
    assert cache.num_free_blocks == 6

    before = blocks(cache, other)
    append(cache, writer, [7])
    assert_holds(cache, writer, [1, 2, 3, 4, 5, 6, 7])
    assert_holds(cache, other, [1, 2, 3, 4, 5, 6])
    assert blocks(cache, other) == before
    assert blocks(cache, writer)[0] == before[0]
    assert blocks(cache, writer)[1] != before[1]
    assert cache.num_free_blocks == 5

    # The other side is alone with its block now: no second copy.
    append(cache, other, [8])
    assert_holds(cache, writer, [1, 2, 3, 4, 5, 6, 7])
    assert_holds(cache, other, [1, 2, 3, 4, 5, 6, 8])
    assert blocks(cache, other) == before
    assert cache.num_free_blocks == 5


@pytest.mark.parametrize("writer", [0, 1], ids=["parent writes", "child writes"])
def test_a_full_last_block_is_shared_without_a_copy(writer: int) -> None:
    cache = make_cache()
    append(cache, 0, [1, 2, 3, 4, 5, 6, 7, 8])
    cache.fork(0, 1)
    contents, shared = bits(cache), blocks(cache, 0)
    cache.reserve(writer, 4)
    assert all(torch.equal(now, then) for now, then in zip(bits(cache), contents, strict=True))
    assert blocks(cache, writer)[:2] == blocks(cache, 1 - writer) == shared
    assert cache.num_free_blocks == 5
    append(cache, writer, [9, 10, 11, 12])
    assert_holds(cache, writer, list(range(1, 13)))
    assert_holds(cache, 1 - writer, list(range(1, 9)))


def test_truncating_into_a_shared_block_copies_it_on_the_next_write() -> None:
    cache = make_cache()
    append(cache, 0, [1, 2, 3, 4, 5, 6])
    cache.fork(0, 1)
    cache.truncate(1, 2)
    assert cache.num_free_blocks == 6
    append(cache, 1, [7, 8, 9])
    assert cache.num_free_blocks == 4
    assert_holds(cache, 1, [1, 2, 7, 8, 9])
    assert_holds(cache, 0, [1, 2, 3, 4, 5, 6])


def test_a_sequence_outlives_the_one_it_was_forked_from() -> None:
    cache = make_cache()
    append(cache, 0, [1, 2, 3, 4, 5])
    cache.fork(0, 1)
    cache.free(0)
    assert 0 not in cache
    assert cache.num_free_blocks == 6
    append(cache, 1, [6])
    assert_holds(cache, 1, [1, 2, 3, 4, 5, 6])
    cache.free(1)
    assert cache.num_free_blocks == 8


def test_forking_a_sequence_with_reserved_rows_is_refused() -> None:
    """Its next rows would be written to a block that the child shares."""
    cache = make_cache()
    append(cache, 0, [1, 2])
    write(cache, 0, [3, 4, 5])
    with pytest.raises(SpecdecError, match="3 reserved rows"):
        cache.fork(0, 1)
    assert 1 not in cache
    cache.check_integrity()
    cache.commit(0, 2)
    cache.fork(0, 1)
    assert_holds(cache, 1, [1, 2, 3, 4])


@pytest.mark.parametrize("prefix", [0, 3, 4, 5], ids="{} tokens before".format)
@pytest.mark.parametrize("leaf", range(7), ids="down to node {}".format)
def test_the_path_to_any_node_of_a_tree_is_moved_together(leaf: int, prefix: int) -> None:
    """The path to node 5 moves rows 2, 4, 5 to 1, 2, 3: row 2 is read and written."""
    path, committed = TREE_PATHS[leaf], list(range(1, prefix + 1))
    assert all(TREE_PARENTS[node] == parent for parent, node in zip([-1, *path], path, strict=False))
    cache = make_cache()
    append(cache, 0, committed)
    append(cache, 1, [90, 91])
    write(cache, 0, [50 + node for node in range(7)])
    cache.commit_path(0, path)
    assert_holds(cache, 0, committed + [50 + node for node in path])
    assert_holds(cache, 1, [90, 91])
    assert cache.num_free_blocks == 8 - 1 - -(-(prefix + len(path)) // 4)


def test_an_empty_path_rolls_everything_back() -> None:
    cache = make_cache()
    append(cache, 0, [1, 2, 3])
    write(cache, 0, [4, 5, 6, 7])
    cache.commit_path(0, [])
    assert_holds(cache, 0, [1, 2, 3])
    assert cache.num_free_blocks == 7


@pytest.mark.parametrize("n", [0, 1, 4, 7])
def test_a_path_without_gaps_touches_no_tensor(n: int) -> None:
    cache = make_cache()
    append(cache, 0, [1, 2, 3])
    cache.reserve(0, 7)
    slots = cache.slots(0).tolist()
    contents = bits(cache)
    places = [(tensor.data_ptr(), tensor._version) for tensor in tensors(cache)]
    cache.commit_path(0, range(n))
    assert [(tensor.data_ptr(), tensor._version) for tensor in tensors(cache)] == places
    assert all(torch.equal(now, then) for now, then in zip(bits(cache), contents, strict=True))
    assert cache.slots(0).tolist() == slots[: 3 + n]
    cache.check_integrity()


def test_commit_rolls_the_other_rows_back_and_returns_their_blocks() -> None:
    cache = make_cache()
    append(cache, 0, [1, 2, 3])
    write(cache, 0, list(range(4, 16)))
    assert cache.num_free_blocks == 4
    cache.commit(0, 2)
    assert_holds(cache, 0, [1, 2, 3, 4, 5])
    assert cache.num_free_blocks == 6
    assert len(cache.slots(0)) == 5


def test_truncate_forgets_the_reservation_too() -> None:
    cache = make_cache()
    append(cache, 0, [1, 2, 3, 4, 5])
    cache.reserve(0, 9)
    cache.truncate(0, 5)
    assert_holds(cache, 0, [1, 2, 3, 4, 5])
    assert (len(cache.slots(0)), cache.num_free_blocks) == (5, 6)
    cache.truncate(0, 0)
    assert (len(cache.slots(0)), cache.num_free_blocks) == (0, 8)


def test_a_later_reservation_replaces_an_earlier_one() -> None:
    cache = make_cache()
    append(cache, 0, [1, 2, 3])
    for n, free in [(1, 7), (9, 5), (9, 5), (2, 6), (29, 0), (5, 6), (0, 7), (6, 5)]:
        cache.reserve(0, n)
        assert cache.num_free_blocks == free
        assert len(cache.slots(0)) == len(set(cache.slots(0).tolist())) == 3 + n
        cache.check_integrity()
    append(cache, 0, [4, 5])
    assert_holds(cache, 0, [1, 2, 3, 4, 5])
    cache.free(0)
    assert cache.num_free_blocks == 8


def test_too_large_a_reservation_names_what_was_wanted_and_keeps_what_was_there() -> None:
    cache = make_cache(num_blocks=6)
    append(cache, 0, [1, 2, 3, 4, 5])
    cache.fork(0, 1)
    write(cache, 1, [6, 7, 8])
    append(cache, 2, [9])
    slots, contents = cache.slots(1).tolist(), bits(cache)
    with pytest.raises(OutOfBlocksError, match=r"3 blocks wanted, 2 free of 6\. Raise num_blocks") as caught:
        cache.reserve(2, 13)
    assert (caught.value.wanted, caught.value.free, caught.value.total) == (3, 2, 6)
    with pytest.raises(OutOfBlocksError, match="3 blocks wanted, 2 free of 6"):
        cache.reserve(1, 15)
    with pytest.raises(OutOfBlocksError):
        cache.reserve(0, 20)
    assert cache.slots(1).tolist() == slots
    assert all(torch.equal(now, then) for now, then in zip(bits(cache), contents, strict=True))
    cache.check_integrity()
    cache.commit(1, 3)
    assert_holds(cache, 1, [1, 2, 3, 4, 5, 6, 7, 8])
    assert_holds(cache, 0, [1, 2, 3, 4, 5])


def test_a_copy_that_finds_no_free_block_is_refused() -> None:
    cache = make_cache(num_blocks=2)
    append(cache, 0, [1, 2, 3, 4, 5])
    cache.fork(0, 1)
    with pytest.raises(OutOfBlocksError, match="1 blocks wanted, 0 free of 2"):
        cache.reserve(1, 1)
    cache.check_integrity()
    cache.free(0)
    append(cache, 1, [6])
    assert_holds(cache, 1, [1, 2, 3, 4, 5, 6])


def test_a_pool_that_memory_cannot_hold_is_refused_with_its_size() -> None:
    gigabytes = 2**40 * 16 * (LAYOUT.bytes_per_token() + 20) / 2**30
    with pytest.raises(OutOfBlocksError, match=f"{2**40} blocks .* {gigabytes:.1f} GiB") as caught:
        PagedCache(LAYOUT, num_blocks=2**40, block_size=16, others=[Features(5)])
    assert caught.value.wanted == 2**40


@pytest.mark.parametrize(("num_blocks", "block_size"), [(0, 16), (-3, 16), (4, 0), (4, -1), (-4, -4)])
def test_a_pool_without_slots_is_refused(num_blocks: int, block_size: int) -> None:
    with pytest.raises(SpecdecError, match="at least one slot") as caught:
        PagedCache(LAYOUT, num_blocks, block_size)
    assert not isinstance(caught.value, OutOfBlocksError)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        pytest.param(lambda cache: cache.length(9), "Sequence 9 is not in the cache", id="length of unknown"),
        pytest.param(lambda cache: cache.slots(9), "Sequence 9 is not in the cache", id="slots of unknown"),
        pytest.param(lambda cache: cache.reserve(9, 1), "Sequence 9 is not in", id="reserve for unknown"),
        pytest.param(lambda cache: cache.commit(9, 0), "Sequence 9 is not in", id="commit of unknown"),
        pytest.param(lambda cache: cache.commit_path(9, []), "Sequence 9 is not in", id="path of unknown"),
        pytest.param(lambda cache: cache.truncate(9, 0), "Sequence 9 is not in", id="truncate unknown"),
        pytest.param(lambda cache: cache.fork(9, 10), "Sequence 9 is not in", id="fork unknown"),
        pytest.param(lambda cache: cache.free(9), "Sequence 9 is not in", id="free unknown"),
        pytest.param(lambda cache: cache.add(0), "Sequence 0 is in the cache already", id="add twice"),
        pytest.param(lambda cache: cache.fork(1, 0), "Sequence 0 is in the cache already", id="fork onto another"),
        pytest.param(lambda cache: cache.fork(1, 1), "Sequence 1 is in the cache already", id="fork onto itself"),
        pytest.param(lambda cache: cache.reserve(0, -1), "Cannot reserve -1 rows", id="reserve negative"),
        pytest.param(lambda cache: cache.commit(0, -1), "Cannot commit -1 rows", id="commit negative"),
        pytest.param(lambda cache: cache.commit(0, 4), "Cannot commit 4 rows .* 3 are", id="commit too much"),
        pytest.param(lambda cache: cache.commit(1, 1), "Cannot commit 1 rows .* 0 are", id="commit unreserved"),
        pytest.param(lambda cache: cache.commit_path(0, [0, 0]), "must increase strictly", id="path repeats"),
        pytest.param(lambda cache: cache.commit_path(0, [0, 2, 1]), "must increase strictly", id="path goes back"),
        pytest.param(lambda cache: cache.commit_path(0, [-1, 0]), "must increase strictly", id="path negative"),
        pytest.param(lambda cache: cache.commit_path(0, [1, 3]), "below its 3 rows", id="path too far"),
        pytest.param(lambda cache: cache.commit_path(1, [0]), "below its 0 rows", id="path unreserved"),
        pytest.param(lambda cache: cache.truncate(0, 6), "5 tokens to 6", id="truncate beyond"),
        pytest.param(lambda cache: cache.truncate(0, -1), "5 tokens to -1", id="truncate negative"),
        pytest.param(lambda cache: cache.filled(9, cache.pools[1]), "Sequence 9 is not in", id="filled of unknown"),
        pytest.param(lambda cache: cache.fill(9, cache.pools[1], 0), "Sequence 9 is not in", id="fill for unknown"),
        pytest.param(lambda cache: cache.fill(0, cache.pools[1], 6), "6 tokens .* 5 are committed", id="fill reserved"),
        pytest.param(lambda cache: cache.fill(0, cache.pools[1], -1), "-1 tokens .* 5 are", id="fill negative"),
        pytest.param(lambda cache: cache.fill(0, cache.target, 5), "This is the target's pool", id="fill the target"),
        pytest.param(lambda cache: cache.fill(0, make_cache().pools[1], 5), "another cache", id="fill another's pool"),
        pytest.param(lambda cache: cache.filled(0, make_cache().pools[1]), "another cache", id="filled of another's"),
    ],
)
def test_bad_arguments_are_refused_and_change_nothing(call: Callable[[PagedCache], None], message: str) -> None:
    cache = make_cache()
    append(cache, 0, [1, 2, 3, 4, 5])
    append(cache, 1, [6, 7])
    write(cache, 0, [8, 9, 10])
    cache.fill(0, cache.pools[1], 4)
    slots, contents, free = cache.slots(0).tolist(), bits(cache), cache.num_free_blocks
    with pytest.raises(SpecdecError, match=message):
        call(cache)
    assert (cache.slots(0).tolist(), cache.num_free_blocks) == (slots, free)
    assert all(torch.equal(now, then) for now, then in zip(bits(cache), contents, strict=True))
    assert [seq in cache for seq in (0, 1, 9, 10)] == [True, True, False, False]
    assert [cache.filled(seq, cache.pools[1]) for seq in (0, 1)] == [4, 0]
    assert_holds(cache, 0, [1, 2, 3, 4, 5])
    assert_holds(cache, 1, [6, 7])


def features(cache: PagedCache, seq: int, numbers: list[int], first: int = 0) -> None:
    """Writes features of the committed tokens from `first` on, and notes them."""
    [tensor] = cache.pools[1].tensors
    tensor[cache.slots(seq)[first : len(numbers)]] = feature(numbers[first:])
    cache.fill(seq, cache.pools[1], len(numbers))


def feature(numbers: list[int]) -> Tensor:
    return torch.tensor(numbers, dtype=torch.float32)[:, None] * 7 + torch.arange(3)


def assert_filled(cache: PagedCache, seq: int, numbers: list[int]) -> None:
    assert cache.filled(seq, cache.pools[1]) == len(numbers)
    [tensor] = cache.pools[1].tensors
    assert torch.equal(tensor[cache.slots(seq)[: len(numbers)]], feature(numbers))
    cache.check_integrity()


def test_the_first_pool_is_the_targets_and_all_pools_have_the_same_slots() -> None:
    layout = KVLayout(3, 1, 2, torch.int8)
    cache = PagedCache(LAYOUT, num_blocks=3, block_size=4, others=[layout, Features(), Features()])
    assert cache.pools[0] is cache.target
    assert [pool.layout for pool in cache.pools] == [LAYOUT, layout, Features(), Features()]
    assert {pool.num_slots for pool in cache.pools} == {12}
    assert len({id(pool) for pool in cache.pools}) == 4
    assert len(PagedCache(LAYOUT, 3, 4).pools) == 1


def test_of_the_targets_pool_all_committed_tokens_are_filled() -> None:
    cache = make_cache()
    append(cache, 0, [1, 2, 3])
    cache.reserve(0, 2)
    assert [cache.filled(0, pool) for pool in cache.pools] == [3, 0]
    cache.commit(0, 1)
    assert [cache.filled(0, pool) for pool in cache.pools] == [4, 0]


def test_a_forks_pools_follow() -> None:
    """The child has what the parent had, each side fills its own block from then on, and neither sees the other's."""
    cache = make_cache()
    append(cache, 0, [1, 2, 3, 4, 5, 6])
    features(cache, 0, [1, 2, 3, 4, 5])
    cache.fork(0, 1)
    assert_filled(cache, 1, [1, 2, 3, 4, 5])
    append(cache, 1, [7])
    features(cache, 1, [1, 2, 3, 4, 5, 6, 7], first=5)
    append(cache, 0, [8])
    features(cache, 0, [1, 2, 3, 4, 5, 6, 8], first=5)
    assert_filled(cache, 1, [1, 2, 3, 4, 5, 6, 7])
    assert_filled(cache, 0, [1, 2, 3, 4, 5, 6, 8])
    cache.free(0)
    assert_filled(cache, 1, [1, 2, 3, 4, 5, 6, 7])


def test_entries_may_be_filled_in_blocks_that_others_share() -> None:
    cache = make_cache()
    append(cache, 0, [1, 2, 3, 4, 5, 6])
    cache.fork(0, 1)
    features(cache, 1, [1, 2, 3, 4, 5, 6])
    assert_filled(cache, 0, [])
    features(cache, 0, [1, 2, 3])
    assert_filled(cache, 1, [1, 2, 3, 4, 5, 6])
    assert_filled(cache, 0, [1, 2, 3])


def test_forgotten_tokens_are_not_filled_any_more() -> None:
    cache = make_cache()
    append(cache, 0, [1, 2, 3, 4, 5])
    features(cache, 0, [1, 2, 3, 4, 5])
    write(cache, 0, [6, 7, 8])
    cache.commit_path(0, [0, 2])
    assert_filled(cache, 0, [1, 2, 3, 4, 5])
    cache.truncate(0, 3)
    append(cache, 0, [9, 10])
    assert_filled(cache, 0, [1, 2, 3])
    cache.fill(0, cache.pools[1], 1)
    assert_filled(cache, 0, [1])


def test_a_path_moves_in_every_pool() -> None:
    cache = make_cache()
    append(cache, 0, [1, 2, 3])
    write(cache, 0, list(range(50, 57)))
    [tensor] = cache.pools[1].tensors
    tensor[cache.slots(0)] = feature([1, 2, 3, *range(50, 57)])
    cache.commit_path(0, TREE_PATHS[5])
    cache.fill(0, cache.pools[1], 7)
    assert_holds(cache, 0, [1, 2, 3, 50, 52, 54, 55])
    assert_filled(cache, 0, [1, 2, 3, 50, 52, 54, 55])


def test_a_sequence_that_starts_anew_has_nothing_filled() -> None:
    """As after a preemption: its blocks went to others in between."""
    cache = make_cache()
    append(cache, 0, [1, 2, 3])
    features(cache, 0, [1, 2, 3])
    cache.free(0)
    append(cache, 0, [1, 2, 3, 4])
    assert_filled(cache, 0, [])


def test_check_integrity_notices_a_pool_that_is_filled_too_far() -> None:
    cache = make_cache()
    append(cache, 0, [1, 2, 3])
    features(cache, 0, [1, 2, 3])
    cache._sequences[0].filled[cache.pools[1]] = 4
    with pytest.raises(SpecdecError, match="filled beyond its 3 tokens"):
        cache.check_integrity()


def test_check_integrity_notices_a_table_that_does_not_fit_the_length() -> None:
    cache = make_cache()
    append(cache, 0, [1, 2, 3])
    cache.check_integrity()
    cache._sequences[0].length = 5
    with pytest.raises(SpecdecError, match="Sequence 0"):
        cache.check_integrity()


def test_check_integrity_notices_a_shared_block_that_may_be_written_to() -> None:
    cache = make_cache()
    append(cache, 0, [1, 2, 3])
    cache.fork(0, 1)
    cache.check_integrity()
    cache._sequences[1].reserved = 1
    with pytest.raises(SpecdecError, match="Sequence 1 may write to block"):
        cache.check_integrity()


def test_check_integrity_notices_a_leaked_block() -> None:
    cache = make_cache()
    append(cache, 0, [1, 2, 3])
    del cache._sequences[0]
    with pytest.raises(SpecdecError, match="Block"):
        cache.check_integrity()


def test_a_cleared_cache_is_as_new() -> None:
    cache = PagedCache(LAYOUT, num_blocks=4, block_size=2)
    cache.add(1)
    cache.reserve(1, 5)
    cache.commit(1, 3)
    cache.clear()
    assert 1 not in cache
    assert cache.num_free_blocks == 4
    cache.add(1)
    assert cache.length(1) == 0
    cache.check_integrity()
