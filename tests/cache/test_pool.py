"""What every pool promises, whatever its layout: entries are moved and copied whole, in every tensor."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from specdec.cache import KVLayout, KVPool, Layout, PagedCache, Pool, moving
from specdec.cache.moving import move
from specdec.cache.pool import pool_of
from specdec.errors import ConfigError, SpecdecError
from tests.cache.layouts import Features
from tests.kernels import gpu  # noqa: F401 - mends Triton's interpreter

SLOTS = 12
LAYOUTS: dict[str, Layout] = {
    "keys and values": KVLayout(2, 3, 4),
    "bfloat16, heads first": KVLayout(1, 2, 5, torch.bfloat16, heads_first=True),
    "int8 with scales": KVLayout(3, 1, 6, torch.int8),
    "int8, heads first": KVLayout(1, 2, 3, torch.int8, heads_first=True),
    "features": Features(),
    "features and numbers": Features(7, numbered=True),
}
MOVES: dict[str, tuple[list[int], list[int]]] = {
    "nothing": ([], []),
    "one": ([5], [2]),
    "a path that overlaps itself": ([4, 7, 9], [2, 4, 7]),
    "blocks in no order": ([1, 11, 0], [10, 1, 11]),
}

every_layout = pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)


def make_pool(layout: Layout) -> Pool:
    """A pool in which every number tells its slot, its place in the entry, and its tensor."""
    pool = pool_of(layout, SLOTS)
    for index, tensor in enumerate(pool.tensors):
        count = torch.arange(tensor[0].numel()).view(tensor.shape[1:])
        slots = torch.arange(SLOTS).view(-1, *[1] * (tensor.dim() - 1))
        tensor.copy_((8 * slots + count + 3 * index) % 127)
    return pool


def entries(pool: Pool) -> list[list[Tensor]]:
    """A copy of each slot's entry: a tensor's part, for every tensor."""
    return [[tensor[slot].clone() for tensor in pool.tensors] for slot in range(SLOTS)]


def assert_holds(pool: Pool, wanted: list[list[Tensor]]) -> None:
    for slot, parts in enumerate(entries(pool)):
        assert all(torch.equal(part, want) for part, want in zip(parts, wanted[slot], strict=True)), slot


@every_layout
def test_a_pool_has_an_entry_a_slot_of_the_size_that_its_layout_tells(layout: Layout) -> None:
    pool = pool_of(layout, SLOTS)
    assert pool.layout is layout
    assert {len(tensor) for tensor in pool.tensors} == {pool.num_slots} == {SLOTS}
    assert sum(tensor.nbytes for tensor in pool.tensors) == SLOTS * layout.bytes_per_token()
    assert len({tensor.data_ptr() for tensor in pool.tensors}) == len(pool.tensors)
    assert isinstance(pool, KVPool) == isinstance(layout, KVLayout)


@pytest.mark.parametrize("name", MOVES)
@every_layout
def test_move_reads_a_slot_before_it_is_written(layout: Layout, name: str) -> None:
    pool, (sources, targets) = make_pool(layout), MOVES[name]
    wanted = entries(pool)
    for source, target in zip(sources, targets, strict=True):
        wanted[target] = entries(pool)[source]
    move([pool], [(sources, targets)])
    assert_holds(pool, wanted)


@pytest.mark.parametrize("layout", [LAYOUTS[name] for name in ("keys and values", "int8 with scales", "features")])
def test_on_a_gpu_the_kernel_moves_the_same(layout: Layout, monkeypatch: pytest.MonkeyPatch) -> None:
    """Here its interpreter does."""
    sources, targets = MOVES["a path that overlaps itself"]
    here, there = make_pool(layout), make_pool(layout)
    move([here], [(sources, targets)])
    monkeypatch.setattr(moving, "triton_runs", lambda device: True)
    monkeypatch.setattr(moving.reference, "commit_paths", None)
    move([there], [(sources, targets)])
    assert_holds(there, entries(here))


def test_the_kernel_refuses_what_is_not_dense(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(moving, "triton_runs", lambda device: True)
    with pytest.raises(ConfigError, match="must be dense"):
        move([make_pool(LAYOUTS["int8, heads first"])], [([1], [0])])


@every_layout
def test_a_block_is_copied_and_the_rest_stays(layout: Layout) -> None:
    pool = make_pool(layout)
    wanted = entries(pool)
    wanted[8:12] = wanted[0:4]
    move([pool], [(range(4), range(8, 12))])
    assert_holds(pool, wanted)


def test_a_layout_whose_tensors_have_other_slots_is_refused() -> None:
    class Short(Features):
        def empty(self, num_slots: int) -> list[Tensor]:
            """One slot too few."""
            return [torch.empty(num_slots, 2), torch.empty(num_slots - 1)]

    with pytest.raises(SpecdecError, match=r"Short makes \[\(8, 2\), \(7,\)\] for 8 slots"):
        PagedCache(KVLayout(1, 1, 1), num_blocks=2, block_size=4, others=[Short()])


@pytest.mark.parametrize("dtype", [torch.float32, torch.int8], ids=str)
def test_a_layer_is_its_keys_values_and_scales(dtype: torch.dtype) -> None:
    pool = KVPool(KVLayout(3, 2, 5, dtype), SLOTS)
    for index in range(3):
        keys, values, key_scales, value_scales = pool.layer(index)
        assert keys is pool.tensors[2 * index]
        assert values is pool.tensors[2 * index + 1]
        if dtype == torch.float32:
            assert key_scales is value_scales is None
        else:
            assert key_scales is pool.tensors[6 + 2 * index]
            assert value_scales is pool.tensors[7 + 2 * index]
