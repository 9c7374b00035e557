"""Native attention against the float64 oracle, and the promise that a row's bits follow from its own path alone."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass, replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from specdec.cache import KVLayout
from specdec.kernels.attention import SequenceColumns, paged_attention
from specdec.kernels.attention.native import (
    MAX_HEAD_SIZE,
    SequenceTable,
    kernels_for,
    key_values,
    native_attention,
    write,
)
from specdec.kernels.cpu import interface
from specdec.kernels.linear.reference import quantize_rows
from tests.kernels.paged import MIXED, TREE_PARENTS, UNIT, Case, Piece, columns, make_case, oracle
from tests.kernels.variants import ARCHITECTURES, FIRST, every_architecture, kernels, marked, threads

pytestmark = pytest.mark.fewer(3)

every_dtype = pytest.mark.parametrize(
    "dtype", [torch.float32, torch.bfloat16, torch.int8], ids=["float32", "bfloat16", "int8"]
)


@dataclass(frozen=True)
class Cache:
    """One layer, as the kernel takes it, and the numbers that it holds in float32."""

    struct: interface.KeyValues
    tensors: tuple[Tensor | None, ...]
    keys: Tensor
    values: Tensor


def store(keys: Tensor, values: Tensor, dtype: torch.dtype, heads_first: bool = True) -> Cache:
    """Float32 [slots, KV heads, head size] rounded or quantized by plain torch; NaN stays NaN."""

    def laid_out(side: Tensor) -> Tensor:
        return side.transpose(0, 1).contiguous().transpose(0, 1) if heads_first else side

    if dtype != torch.int8:
        held = laid_out(keys.to(dtype)), laid_out(values.to(dtype)), None, None
        return Cache(key_values(*held), held, held[0].float(), held[1].float())
    codes, scales = zip(*(quantize_rows(side.flatten(0, 1)) for side in (keys, values)), strict=True)
    codes = [laid_out(side.view(keys.shape)) for side in codes]
    scales = [laid_out(side.view(keys.shape[:2])) for side in scales]
    held = (*codes, *scales)
    return Cache(key_values(*held), held, *(c.float() * s[..., None] for c, s in zip(codes, scales, strict=True)))


def table(case: Case) -> SequenceTable:
    return SequenceTable.of(columns(case))


def check(
    case: Case,
    architecture: str = "native",
    dtype: torch.dtype = torch.float32,
    scale: float = 0.4,
    window: int | None = None,
    softcap: float | None = None,
) -> Tensor:
    """Runs the case with a cache of `dtype` and compares it with the oracle on what that cache holds."""
    cache = store(case.keys, case.values, dtype)
    kv_heads = case.keys.shape[1]
    out = native_attention(
        kernels(architecture), case.query, cache.struct, kv_heads, table(case), scale, window, softcap
    )
    assert out.shape == case.query.shape
    assert out.dtype == torch.float32
    expected, bound = oracle(
        replace(case, keys=cache.keys, values=cache.values), scale, window, softcap, online=True,
        rounding=UNIT[torch.bfloat16] if multiplies_pairs(architecture, dtype, case.query.shape[2]) else 0.0,
    )  # fmt: skip
    assert ((out.double() - expected).abs() <= bound).all()
    return out


def multiplies_pairs(architecture: str, dtype: torch.dtype, head_size: int) -> bool:
    """Whether queries and weights are rounded to bfloat16, to be multiplied with a cache of bfloat16 as it is."""
    return (
        dtype == torch.bfloat16
        and head_size % 32 == 0
        and any(unit in kernels(architecture).isa for unit in ("BF16", "AMX"))
    )


@pytest.mark.parametrize("head_size", [2, 8, 16, 40, 64, 80, 96, 128, 256], ids="head size {}".format)
@every_dtype
@every_architecture
def test_a_mixed_batch_agrees_with_the_oracle(architecture: str, dtype: torch.dtype, head_size: int) -> None:
    check(make_case(MIXED, head_size=head_size), architecture, dtype, head_size**-0.5)


@pytest.mark.parametrize("group", range(1, 10), ids="{} queries a key".format)
@every_architecture
def test_any_number_of_query_heads_may_share_a_key_head(architecture: str, group: int) -> None:
    for kv_heads in (1, 3):
        check(make_case(MIXED, query_heads=group * kv_heads, kv_heads=kv_heads), architecture)


@pytest.mark.parametrize("softcap", [None, 0.5, 30.0], ids="cap {}".format)
@pytest.mark.parametrize("window", [None, 1, 2, 5, 11, 12, 13, 20, 100], ids="window {}".format)
@every_architecture
def test_window_and_cap_agree_with_the_oracle(architecture: str, window: int | None, softcap: float | None) -> None:
    check(make_case(MIXED, seed=1), architecture, window=window, softcap=softcap)


@pytest.mark.parametrize("window", [None, 15, 16, 17, 40], ids="window {}".format)
@pytest.mark.parametrize("context", [1, 15, 16, 17, 31, 32, 33, 255], ids="{} tokens before".format)
@every_architecture
def test_contexts_around_the_borders_of_chunks_agree_with_the_oracle(
    architecture: str, context: int, window: int | None
) -> None:
    pieces = [Piece(context, 1), Piece(context - 1, 7, TREE_PARENTS), Piece(context, 5), Piece(0, min(context, 40))]
    check(make_case(pieces, seed=2, query_heads=2, kv_heads=1, head_size=16), architecture, window=window)


@every_architecture
def test_the_reference_kernel_says_the_same(architecture: str) -> None:
    """Both are within the oracle's bound; here they are within the sum of what each may be off."""
    case = make_case(MIXED, seed=3, head_size=64)
    book = paged_attention(case.query, case.keys, case.values, case.sequences, 0.125)
    bound = oracle(case, 0.125)[1] + oracle(case, 0.125, online=True)[1]
    assert ((check(case, architecture, scale=0.125) - book).abs() <= bound).all()


@pytest.mark.parametrize("among", [[FIRST], pytest.param(ARCHITECTURES, marks=pytest.mark.slow)], ids=len)
@given(data=st.data())
@settings(max_examples=60)
def test_any_batch_agrees_with_the_oracle_and_with_each_row_alone(among: list[str], data: st.DataObject) -> None:
    pieces = []
    for _ in range(data.draw(st.integers(1, 3))):
        rows = data.draw(st.integers(1, 7))
        parents = [data.draw(st.integers(-1, row - 1)) for row in range(rows)]
        pieces.append(Piece(data.draw(st.integers(0, 40)), rows, data.draw(st.sampled_from([None, parents]))))
    kv_heads, size = data.draw(st.integers(1, 2)), data.draw(st.integers(1, 40))
    group, seed = data.draw(st.integers(1, 5)), data.draw(st.integers(0, 99))
    case = make_case(pieces, seed=seed, query_heads=kv_heads * group, kv_heads=kv_heads, head_size=size)
    window, softcap = data.draw(st.none() | st.integers(1, 40)), data.draw(st.none() | st.floats(0.5, 50.0))
    dtype = data.draw(st.sampled_from([torch.float32, torch.bfloat16, torch.int8]))
    architecture = data.draw(st.sampled_from(among))
    out = check(case, architecture, dtype, 0.3, window, softcap)
    cache = store(case.keys, case.values, dtype)
    for row, sees in enumerate(case.sees):
        own = SequenceTable.of(
            SequenceColumns([1], [len(sees) - 1], [0], [torch.tensor([slot for slot, _ in sees])], [None])
        )
        alone = native_attention(
            kernels(architecture), case.query[row : row + 1], cache.struct, kv_heads, own, 0.3, window, softcap
        )
        assert torch.equal(alone[0], out[row])


@dataclass(frozen=True)
class World:
    """A committed text and a tree below it, by logical place: the truth that several layouts of a cache hold.

    Args:
        committed: number of tokens before the tree.
        parents: of the tree's nodes.
    """

    committed: int
    parents: Sequence[int]
    query: Tensor
    keys: Tensor
    values: Tensor

    @classmethod
    def make(cls, committed: int, parents: Sequence[int], heads: int = 6, kv_heads: int = 2, size: int = 8) -> World:
        generator = torch.Generator().manual_seed(committed)
        total = committed + len(parents)
        query, keys, values = (torch.randn(total, n, size, generator=generator) for n in (heads, kv_heads, kv_heads))
        return cls(committed, parents, query, keys, values)

    def path(self, node: int) -> list[int]:
        """Places from the first token to `node`, itself included."""
        nodes = []
        while node >= 0:
            nodes.append(self.committed + node)
            node = self.parents[node]
        return [*range(self.committed), *nodes[::-1]]


@dataclass(frozen=True)
class Setup:
    """How a world is attended to."""

    architecture: str
    dtype: torch.dtype = torch.float32
    window: int | None = None
    softcap: float | None = None

    def attend(
        self,
        world: World,
        places: Sequence[int],
        rows: int,
        parents: Sequence[int] | None = None,
        first: int = 0,
        seed: int = 0,
        heads_first: bool = True,
    ) -> Tensor:
        """Results of the last `rows` of `places`, which lie in this order in slots drawn at random among NaN."""
        count = len(places)
        slots = torch.randperm(3 * count + 5, generator=torch.Generator().manual_seed(seed))[:count]
        shape = (3 * count + 5, *world.keys.shape[1:])
        keys, values = (torch.full(shape, math.nan) for _ in range(2))
        keys[slots], values[slots] = world.keys[places], world.values[places]
        reserved = len(parents) if parents is not None else first + rows
        own = SequenceTable.of(SequenceColumns([rows], [count - reserved], [first], [slots], [parents]))
        cache = store(keys, values, self.dtype, heads_first)
        query = world.query[places[-rows:]]
        kv_heads = keys.shape[1]
        return native_attention(
            kernels(self.architecture), query, cache.struct, kv_heads, own, 0.3, self.window, self.softcap
        )

    def truth(self, world: World) -> Tensor:
        """Every node as a decoding step of its own."""
        nodes = range(len(world.parents))
        return torch.cat([self.attend(world, world.path(node), 1, seed=node) for node in nodes])


SETUPS = [
    *(Setup(architecture, dtype) for architecture in ARCHITECTURES for dtype in (torch.float32, torch.bfloat16)),
    *(Setup(architecture, torch.int8, window, 2.0) for architecture in ARCHITECTURES for window in (None, 3, 16, 20)),
]
every_setup = pytest.mark.parametrize(
    "setup", [pytest.param(setup, marks=marked(setup.architecture)) for setup in SETUPS], ids=str
)
WORLDS = [
    World.make(0, TREE_PARENTS),
    World.make(13, TREE_PARENTS, size=40),
    World.make(30, [-1, 0, 0, 2, 2, 4, 4, -1, 7, 5, 9, 10, 8], heads=9, kv_heads=1, size=64),
    World.make(64, [-1, *range(19)], heads=4, kv_heads=4, size=80),
]


@every_setup
def test_a_row_has_the_same_bits_in_a_tree_and_decoded_alone(setup: Setup) -> None:
    for world in WORLDS:
        places = range(len(world.keys))
        assert torch.equal(setup.attend(world, places, len(world.parents), world.parents), setup.truth(world))


@every_setup
def test_a_row_has_the_same_bits_in_a_chain_and_decoded_alone(setup: Setup) -> None:
    for world in WORLDS:
        truth = setup.truth(world)
        for node in range(len(world.parents)):
            path = world.path(node)
            drafted = len(path) - world.committed
            expected = truth[[place - world.committed for place in path[world.committed :]]]
            assert torch.equal(setup.attend(world, path, drafted), expected)
            assert torch.equal(setup.attend(world, path, drafted, [-1, *range(drafted - 1)]), expected)


@every_setup
def test_the_order_in_which_a_tree_is_stored_changes_no_bits(setup: Setup) -> None:
    for seed, world in enumerate(WORLDS):
        truth = setup.truth(world)
        order = list(range(len(world.parents)))
        random.Random(seed).shuffle(order)  # children may even come before their parents
        parents = [-1 if world.parents[node] < 0 else order.index(world.parents[node]) for node in order]
        places = [*range(world.committed), *(world.committed + node for node in order)]
        assert torch.equal(setup.attend(world, places, len(order), parents), truth[order])


@every_setup
def test_whether_slots_or_heads_come_first_in_memory_changes_no_bits(setup: Setup) -> None:
    for world in WORLDS:
        places, rows = range(len(world.keys)), len(world.parents)
        slots_first = setup.attend(world, places, rows, world.parents, heads_first=False)
        assert torch.equal(slots_first, setup.truth(world))


@every_setup
def test_rows_that_were_run_earlier_in_the_step_change_no_bits(setup: Setup) -> None:
    """A tree grown level by level: the later rows attend to the earlier ones, which are not run again."""
    for world in WORLDS:
        truth, total = setup.truth(world), len(world.parents)
        for first in range(1, total):
            assert torch.equal(
                setup.attend(world, range(len(world.keys)), total - first, world.parents, first), truth[first:]
            )


@every_setup
def test_chunks_of_a_prompt_change_no_bits(setup: Setup) -> None:
    world = World.make(0, [-1, *range(69)])
    whole = setup.attend(world, range(70), 70)
    for start, end in [(0, 1), (1, 70), (0, 16), (16, 47), (47, 70), (15, 33), (69, 70)]:
        assert torch.equal(setup.attend(world, range(end), end - start, seed=start), whole[start:end])
        # The same rows as reserved ones below fewer committed tokens.
        for first in {0, min(1, start), start // 2, start}:
            split = setup.attend(world, range(end), end - start, first=first, seed=end)
            assert torch.equal(split, whole[start:end])


@every_setup
def test_the_other_sequences_of_a_pass_and_the_threads_change_no_bits(setup: Setup) -> None:
    case = make_case([*MIXED, Piece(37, 9), Piece(90, 1)], seed=5, query_heads=6, kv_heads=2, head_size=40)
    cache = store(case.keys, case.values, setup.dtype)

    def run(query: Tensor, own: SequenceTable) -> Tensor:
        return native_attention(
            kernels(setup.architecture), query, cache.struct, 2, own, 0.3, setup.window, setup.softcap
        )

    whole = run(case.query, table(case))
    for number in (2, 3):
        with threads(number):
            assert torch.equal(run(case.query, table(case)), whole)
    for piece, sequence in zip(case.pieces, case.sequences, strict=True):
        own = SequenceTable.of(SequenceColumns([piece.rows], [piece.committed], [0], [sequence.slots], [piece.parents]))
        assert torch.equal(run(case.query[sequence.rows], own), whole[sequence.rows])


@every_architecture
def test_every_result_is_written_and_nothing_else(architecture: str) -> None:
    """The bare C function on a buffer of NaN with more NaN around it, and the same around the queries."""
    case = make_case(MIXED, seed=6, head_size=10)
    cache, own, guard = store(case.keys, case.values, torch.float32), table(case), 67
    held, buffer = (torch.full((case.query.numel() + 2 * guard,), math.nan) for _ in range(2))
    held[guard:-guard] = case.query.flatten()
    shape = interface.Shape(4, 2, 10, 0.4, 0, 0.0)
    kernels(architecture).attention(
        held.data_ptr() + 4 * guard, len(case.query), cache.struct, shape, own.struct, buffer.data_ptr() + 4 * guard, 1
    )
    assert buffer[:guard].isnan().all()
    assert buffer[-guard:].isnan().all()
    assert torch.equal(buffer[guard:-guard].view(case.query.shape), check(case, architecture))


@pytest.mark.parametrize("heads_first", [True, False], ids=["heads first", "slots first"])
@every_dtype
@every_architecture
def test_entries_are_written_as_the_cache_holds_them(architecture: str, dtype: torch.dtype, heads_first: bool) -> None:
    """Bit for bit what torch makes of them, and only in the slots that are named."""
    generator = torch.Generator().manual_seed(0)
    keys, values = (torch.randn(5, 3, 18, generator=generator) for _ in range(2))
    keys[1, 2], values[3, 0] = 0.0, 1e30
    slots = torch.tensor([7, 0, 11, 3, 4])
    book = store(keys, values, dtype)
    layers = KVLayout(1, 3, 18, dtype, heads_first=heads_first).empty(12)
    held = [*(side.fill_(77) for side in layers), None, None][:4]
    write(kernels(architecture), key_values(*held), slots, keys.transpose(0, 1).contiguous().transpose(0, 1), values)
    for side, expected in zip(held, book.tensors, strict=True):
        if side is None or expected is None:
            assert side is expected
        else:
            others = [slot for slot in range(12) if slot not in slots]
            assert torch.equal(side[slots], expected)
            assert (side[others] == 77).all()


@pytest.mark.parametrize("side", ["query", "key", "value"])
@every_dtype
@every_architecture
def test_a_nan_on_a_rows_path_makes_its_result_nan(architecture: str, dtype: torch.dtype, side: str) -> None:
    """And leaves the rows before it as they are."""
    generator = torch.Generator().manual_seed(1)
    query, keys, values = (torch.randn(20, 1, 8, generator=generator) for _ in range(3))
    slots, own = torch.arange(20), SequenceTable.of(SequenceColumns([20], [0], [0], [torch.arange(20)], [None]))

    def run() -> Tensor:
        held = store(torch.zeros(20, 1, 8), torch.zeros(20, 1, 8), dtype)
        write(kernels(architecture), held.struct, slots, keys, values)
        return native_attention(kernels(architecture), query, held.struct, 1, own, 0.4)

    sound = run()
    {"query": query, "key": keys, "value": values}[side][6, 0, 3] = math.nan
    out = run()
    assert torch.equal(out[:6], sound[:6])
    broken = out[6] if side == "query" else out[6:]
    assert broken.isnan().any(-1).all()


@every_architecture
def test_scores_too_large_for_an_exponential_pick_the_best_key(architecture: str) -> None:
    keys = torch.tensor([1.0, 3.0, 2.0, -5.0]).view(4, 1, 1)
    values = torch.tensor([10.0, 20.0, 30.0, 40.0]).view(4, 1, 1)
    own = SequenceTable.of(SequenceColumns([2], [2], [0], [torch.arange(4)], [[-1, -1]]))
    query = torch.tensor([1.0, -1.0]).view(2, 1, 1)
    cache = store(keys, values, torch.float32)
    # Both rows follow the two committed tokens: the first sees key 2 besides those, the second key 3.
    assert native_attention(kernels(architecture), query, cache.struct, 1, own, 1e4).flatten().tolist() == [20.0, 40.0]


@pytest.mark.parametrize(
    ("head_size", "dtype", "device", "fits"),
    [
        (MAX_HEAD_SIZE, torch.float32, "cpu", True),
        (64, torch.int8, torch.device("cpu"), True),
        (MAX_HEAD_SIZE + 1, torch.float32, "cpu", False),
        (64, torch.float16, "cpu", False),
        (64, torch.float32, "meta", False),
    ],
)
def test_only_what_the_kernel_can_hold_is_given_to_it(
    head_size: int, dtype: torch.dtype, device: torch.device | str, fits: bool
) -> None:
    assert (kernels_for(head_size, dtype, device) is not None) == fits
