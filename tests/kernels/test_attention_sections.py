"""Long contexts: sections of keys that threads share, and merge in a tree that is always the same."""

from __future__ import annotations

import pytest
import torch

from specdec.kernels.attention import SequenceColumns
from specdec.kernels.attention.native import SequenceTable, native_attention
from tests.kernels.paged import TREE_PARENTS, Piece, make_case
from tests.kernels.test_attention_native import Setup, World, check, store, table
from tests.kernels.variants import ARCHITECTURES, FIRST, every_architecture, kernels, marked, threads

pytestmark = pytest.mark.fewer(3)

SECTION = 1024
"""As in attention/cpu.h."""
LONG = [
    Setup(architecture, dtype, window)
    for architecture in ARCHITECTURES
    for dtype in (torch.float32, torch.bfloat16, torch.int8)
    for window in (None, 1500)
]
every_setup = pytest.mark.parametrize(
    "setup", [pytest.param(setup, marks=marked(setup.architecture)) for setup in LONG], ids=str
)


@pytest.mark.parametrize("window", [None, 5, SECTION - 1, SECTION, SECTION + 1, 3000], ids="window {}".format)
@pytest.mark.parametrize("context", [SECTION - 1, SECTION, 2 * SECTION + 1, 5 * SECTION - 3], ids="{} before".format)
@every_architecture
def test_contexts_around_the_borders_of_sections_agree_with_the_oracle(
    architecture: str, context: int, window: int | None
) -> None:
    pieces = [Piece(context, 1), Piece(context - 3, 7, TREE_PARENTS)]
    check(make_case(pieces, seed=2, query_heads=2, kv_heads=1, head_size=16), architecture, window=window)
    check(make_case(pieces[:1], seed=3, query_heads=3, kv_heads=3, head_size=8), architecture, window=window)


@every_setup
def test_a_row_has_the_same_bits_wherever_it_is_run(setup: Setup) -> None:
    """Alone, in a tree, and in chunks of a prompt, by one thread and by several."""
    for committed in (SECTION - 4, 3 * SECTION - 2, 5 * SECTION + 100):
        world = World.make(committed, TREE_PARENTS, heads=3, kv_heads=1, size=32)
        with threads(1):
            truth = setup.truth(world)
        places, rows = range(len(world.keys)), len(world.parents)
        for number in (1, 2, 3, 7):
            with threads(number):
                assert torch.equal(setup.attend(world, places, rows, world.parents), truth)
                assert torch.equal(setup.attend(world, world.path(0), 1), truth[:1])
                chain = world.path(rows - 1)
                assert torch.equal(setup.attend(world, chain, 40)[-1], truth[-1])


@every_setup
def test_whether_a_text_is_cut_by_keys_changes_no_bits(setup: Setup) -> None:
    """Among many others it is not: there is enough for all threads."""
    others = [Piece(20 * each, 3) for each in range(12)]
    case = make_case(
        [Piece(2 * SECTION + 77, 5), *others, Piece(6 * SECTION, 2)], query_heads=4, kv_heads=2, head_size=32
    )
    cache = store(case.keys, case.values, setup.dtype)
    whole = native_attention(kernels(setup.architecture), case.query, cache.struct, 2, table(case), 0.3, setup.window)
    for piece, sequence in zip(case.pieces, case.sequences, strict=True):
        own = SequenceTable.of(SequenceColumns([piece.rows], [piece.committed], [0], [sequence.slots], [piece.parents]))
        query = case.query[sequence.rows]
        alone = native_attention(kernels(setup.architecture), query, cache.struct, 2, own, 0.3, setup.window)
        assert torch.equal(alone, whole[sequence.rows])


def test_a_call_leaves_nothing_to_the_next() -> None:
    """Sizes go up and down between calls that share their memory."""
    cases = [
        make_case([Piece(context, rows)], seed=context, query_heads=2, kv_heads=1, head_size=16)
        for context, rows in [(5 * SECTION, 9), (10, 1), (2 * SECTION, 16), (5 * SECTION, 1), (3 * SECTION, 20)]
    ]
    for case in cases + cases[::-1]:
        check(case, FIRST)
