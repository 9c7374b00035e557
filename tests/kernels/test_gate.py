"""Whatever is handed to the compiled kernels is checked before it is used as an address, and refused by name."""

from __future__ import annotations

import math
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from specdec.cache import PagedCache
from specdec.cache.pool import KVPool
from specdec.errors import SpecdecError
from specdec.kernels.attention import SequenceColumns
from specdec.kernels.attention.native import SequenceTable, key_values, native_attention, write
from specdec.kernels.cpu import interface
from specdec.kernels.linear import pack
from specdec.kernels.rows import argmax, gumbel_argmax
from specdec.models.base import Wants
from specdec.models.batch import RaggedBatch, SequenceRows
from specdec.models.native import NativeModel
from specdec.randomness import RandomSource
from tests.kernels.variants import kernels, threads
from tests.tiny import llama_module

pytestmark = pytest.mark.fewer(3)

VOCAB, COMMITTED, BLOCKS = 64, 5, 2
TREE = [-1, 0, 0, 1]
HOSTILE = (-1, 300, 10**6, 10**9, -(10**9), 2**31, 2**40, -(2**63), 2**63 - 1)


class Scene:
    """A model with a sequence of five tokens in its cache, and a tree of four rows below it."""

    def __init__(self, kind: str = "float32") -> None:
        self.model = NativeModel(llama_module(0), kind=kind, kernels=kernels("native"))
        self.cache = PagedCache(self.model.kv_layout, BLOCKS)
        self.cache.add(0)
        self.cache.reserve(0, COMMITTED + len(TREE))
        self.slots = self.cache.slots(0)
        prompt = SequenceRows([1, 2, 3, 4, 5], self.slots[:COMMITTED], 0)
        self.model.run(RaggedBatch.build([prompt]), self.cache.target, Wants(logits="argmax"))
        self.part = SequenceRows([7, 8, 9, 10], self.slots, COMMITTED, TREE, logit_rows=[0, 2, 3])

    def batch(self, **changes: Any) -> RaggedBatch:
        """The valid pass, with some of its sequence's columns changed behind the back of what builds batches."""
        valid = RaggedBatch.build([self.part])
        return replace(valid, parts=[replace(self.part, **changes)])

    def run(self, batch: RaggedBatch, pool: KVPool | None = None, wants: Wants = Wants("all", (0, 1))) -> Tensor:  # noqa: B008
        logits = self.model.run(batch, pool or self.cache.target, wants).logits
        assert logits is not None
        return logits


@pytest.fixture(scope="module")
def scene() -> Scene:
    return Scene()


def refused(scene: Scene, batch: RaggedBatch, *words: str) -> None:
    """The pass is refused with these words, and leaves nothing behind that a later pass could see."""
    before = scene.run(scene.batch())
    with pytest.raises(SpecdecError) as caught:
        scene.run(batch)
    for word in words:
        assert word in str(caught.value)
    assert torch.equal(scene.run(scene.batch()), before)


def changed(column: Tensor, at: int, value: int) -> Tensor:
    column = column.clone()
    column[at] = value
    return column


@pytest.mark.parametrize("value", HOSTILE)
@pytest.mark.parametrize(
    ("column", "name"),
    [("token_ids", "token"), ("positions", "position"), ("write_slots", "slot to write"),
     ("logit_rows", "row with logits")],
)  # fmt: skip
def test_an_index_out_of_range_is_refused_by_name(scene: Scene, column: str, name: str, value: int) -> None:
    valid = scene.batch()
    bad = changed(getattr(valid, column), 1, value)
    if column == "positions" and 0 <= value < 2**24:
        scene.run(replace(valid, positions=bad))
        return
    refused(scene, replace(valid, **{column: bad}), f"{name} 1 is {value}")


@pytest.mark.parametrize(
    ("column", "border"),
    [("token_ids", VOCAB), ("write_slots", 16 * BLOCKS), ("logit_rows", len(TREE)), ("positions", 2**24)],
)  # fmt: skip
def test_the_last_index_may_be_used_and_the_next_may_not(scene: Scene, column: str, border: int) -> None:
    valid = scene.batch()
    scene.run(replace(valid, **{column: changed(getattr(valid, column), 2, border - 1)}))
    refused(scene, replace(valid, **{column: changed(getattr(valid, column), 2, border)}), f"is {border}")


@pytest.mark.parametrize("value", HOSTILE)
def test_a_slot_that_is_read_must_be_in_the_pool(scene: Scene, value: int) -> None:
    refused(scene, scene.batch(slots=changed(scene.slots, 3, value)), f"slot 3 is {value}")


@pytest.mark.parametrize(
    ("parents", "words"),
    [
        ([-2, 0, 0, 1], "follows row -2"),
        ([-1, 0, 0, 4], "follows row 4 of 4"),
        ([-1, 0, 0, 2**31 - 1], "follows row 2147483647"),
        ([-1, 0, 0, -(2**31)], "follows row -2147483648"),
        ([0, 0, 0, 1], "row 0 of sequence 0 follows itself"),
        ([-1, 0, 3, 2], "row 2 of sequence 0 follows itself"),
        ([1, 2, 3, 0], "follows itself"),
    ],
    ids=str,
)
def test_every_rows_path_must_lead_to_the_committed_tokens(scene: Scene, parents: list[int], words: str) -> None:
    """One that goes around would never end."""
    refused(scene, scene.batch(parents=parents), words)


def test_children_may_be_stored_before_their_parents(scene: Scene) -> None:
    assert scene.run(scene.batch(parents=[1, 2, 3, -1])).isfinite().all()


def test_too_few_parents_are_refused(scene: Scene) -> None:
    refused(scene, scene.batch(parents=[-1, 0]), "2 parents for 4 rows")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"committed": -1}, "committed tokens of sequence 0 is -1"),
        ({"committed": COMMITTED + 1}, "10 tokens in 9 slots"),
        ({"committed": 10**9}, "tokens in 9 slots"),
        ({"first": -1}, "first row of sequence 0 is -1"),
        ({"first": 1}, "10 tokens in 9 slots"),
        ({"tokens": [7, 8, 9]}, "the batch 4"),
        ({"tokens": [7, 8, 9, 10, 11]}, "5"),
    ],
    ids=str,
)
def test_a_sequence_that_does_not_fit_its_slots_or_its_batch_is_refused(
    scene: Scene, changes: dict[str, Any], words: str
) -> None:
    refused(scene, scene.batch(**changes), words)


@pytest.mark.parametrize("column", ["token_ids", "positions", "write_slots"])
@pytest.mark.parametrize(
    "change",
    [lambda c: c.int(), lambda c: c.double(), lambda c: c[:-1], lambda c: torch.cat([c, c]), lambda c: c[None],
     lambda c: torch.stack([c, c], 1)[:, 0]],
    ids=["int32", "float64", "short", "long", "two dimensions", "with gaps"],
)  # fmt: skip
def test_a_column_of_another_form_is_refused(scene: Scene, column: str, change: Callable[[Tensor], Tensor]) -> None:
    valid = scene.batch()
    if column == "token_ids" and len(change(valid.token_ids)) != 4:
        refused(scene, replace(valid, token_ids=change(valid.token_ids)))
    else:
        refused(scene, replace(valid, **{column: change(getattr(valid, column))}), "int64 [4]")


def test_a_batch_without_rows_is_refused(scene: Scene) -> None:
    nothing = torch.empty(0, dtype=torch.int64)
    refused(scene, RaggedBatch(nothing, nothing, nothing, nothing, []))


def test_a_cache_of_another_model_is_refused(scene: Scene) -> None:
    own = scene.model.kv_layout
    changes: list[dict[str, Any]] = [{"head_dim": 4}, {"dtype": torch.bfloat16}, {"num_layers": 1}, {"num_kv_heads": 1}]
    for other in (replace(own, **change) for change in changes):
        with pytest.raises(SpecdecError, match="cache made for it"):
            scene.run(scene.batch(), KVPool(other, 32))


@pytest.mark.parametrize("number", [0, -1, 10**6])
def test_no_number_of_threads_but_a_plausible_one_is_taken(scene: Scene, number: int) -> None:
    out = torch.empty(4)
    with pytest.raises(SpecdecError, match=f"{number} threads"):
        kernels("native").divide(out.data_ptr(), 4, 2.0, out.data_ptr(), number)


def test_numbers_that_are_none_pass_through(scene: Scene) -> None:
    """They are no addresses: NaN comes out as NaN, in float32 and in 8 bits."""
    for kind in ("float32", "bfloat16", "int8", "int8_weight"):
        for value in (math.nan, math.inf, -math.inf, 3e38):
            x = torch.ones(3, 40)
            x[1, 7] = value
            out = pack(torch.randn(33, 40), kind)(x, kernels("native"))
            assert out[[0, 2]].isfinite().all()
            assert value == 3e38 or not out[1].isfinite().any()


def test_weights_for_rows_of_another_width_are_refused() -> None:
    packed = pack(torch.randn(33, 40), "float32")
    for width in (0, 1, 39, 41, 80):
        with pytest.raises(SpecdecError, match=f"rows of 40 numbers meet rows of {width}"):
            packed(torch.zeros(2, width), kernels("native"))
    with pytest.raises(SpecdecError, match="cannot give 70"):
        replace(packed, width=70)(torch.zeros(2, 40), kernels("native"))
    broken = interface.Linear.from_buffer_copy(packed.struct)
    broken.kind = 9
    with pytest.raises(SpecdecError, match="9 is no kind"):
        replace(packed, struct=broken)(torch.zeros(2, 40), kernels("native"))


def test_a_gated_product_with_a_bias_is_refused() -> None:
    with pytest.raises(SpecdecError, match="no bias"):
        pack([torch.randn(16, 8), torch.randn(16, 8)], "float32", [torch.zeros(16), None], gated=True)


def test_memory_that_is_not_there_is_an_error_and_later_calls_work() -> None:
    packed, x = pack(torch.randn(33, 40), "float32"), torch.randn(2, 40)
    expected = packed(x, kernels("native"))
    for rows in (2**50, -1):
        with pytest.raises(SpecdecError, match=r"the system refused|rows = -1"):
            kernels("native").linear(packed.struct, x.data_ptr(), rows, 40, x.data_ptr(), 33, 2)
    with threads(2):
        assert torch.equal(packed(x, kernels("native")), expected)


def attention(kv_heads: int = 2, heads: int = 4, size: int = 8, of: int = 8) -> Tensor:
    keys = torch.randn(6, 2, of)
    table = SequenceTable.of(SequenceColumns([2], [4], [0], [torch.arange(6)], [None]))
    return native_attention(
        kernels("native"), torch.randn(2, heads, size), key_values(keys, keys, None, None), kv_heads, table, 1.0
    )


@pytest.mark.parametrize(
    ("shape", "words"),
    [
        ({"kv_heads": 3}, "4 heads cannot share 3"),
        ({"kv_heads": 0}, "cannot share 0"),
        ({"kv_heads": 4}, "2 heads of 8, the keys 4 of 8"),
        ({"size": 16}, "2 heads of 8, the keys 2 of 16"),
        ({"size": 257, "of": 257}, "257 numbers"),
        ({"size": 0}, "0 numbers"),
    ],
    ids=str,
)
def test_heads_that_do_not_fit_the_cache_are_refused(shape: dict[str, int], words: str) -> None:
    assert attention().isfinite().all()
    with pytest.raises(SpecdecError, match=words):
        attention(**shape)


@pytest.mark.parametrize("slot", HOSTILE)
def test_nothing_is_written_outside_of_the_cache(slot: int) -> None:
    keys = torch.zeros(6, 2, 8)
    rows, held = torch.ones(2, 2, 8), key_values(keys, keys, None, None)
    with pytest.raises(SpecdecError, match=f"slot 1 is {slot}"):
        write(kernels("native"), held, torch.tensor([0, slot]), rows, rows)
    assert not keys.any()
    with pytest.raises(SpecdecError, match=r"int64 \[2\]"):
        write(kernels("native"), held, torch.tensor([0, 1, 2]), rows, rows)
    with pytest.raises(SpecdecError, match=r"\[2, 2, 8\]"):
        write(kernels("native"), held, torch.tensor([0, 1]), rows, torch.ones(1, 2, 8))


def test_keys_and_values_that_do_not_belong_together_are_refused() -> None:
    keys, scales = torch.zeros(6, 2, 8), torch.zeros(6, 2)
    codes = keys.to(torch.int8)
    for held in ((keys, keys[:5], None, None), (keys, keys.bfloat16(), None, None), (codes, codes, None, None),
                 (keys, keys, scales, scales), (codes, codes, scales, scales[:5]),
                 (codes, codes, scales.double(), scales),
                 (keys, keys.transpose(0, 1).contiguous().transpose(0, 1), None, None),
                 (keys.half(), keys.half(), None, None)):  # fmt: skip
        with pytest.raises(SpecdecError):
            key_values(*held)


def test_columns_of_different_lengths_are_refused() -> None:
    slots = [torch.arange(6)]
    for columns in (SequenceColumns([2, 1], [4], [0], slots, [None]), SequenceColumns([2], [4], [], slots, [None]),
                    SequenceColumns([2], [4], [0], slots, []), SequenceColumns([2], [4, 4], [0], slots, [None]),
                    SequenceColumns([], [], [], [], [])):  # fmt: skip
        with pytest.raises(SpecdecError, match="differ in length"):
            SequenceTable.of(columns)


def test_no_scores_have_no_largest() -> None:
    with pytest.raises((SpecdecError, IndexError)):
        argmax(torch.empty(0))
    with pytest.raises((SpecdecError, IndexError)):
        gumbel_argmax(torch.empty(0), RandomSource(0), 3)


def test_a_tensor_with_gaps_has_no_address_even_where_asserts_are_left_out() -> None:
    program = (
        "import torch; from specdec.errors import SpecdecError; from specdec.kernels.cpu.library import address\n"
        "try: address(torch.zeros(4, 4).T)\n"
        "except SpecdecError: print('refused')"
    )
    done = subprocess.run([sys.executable, "-O", "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "refused\n"
