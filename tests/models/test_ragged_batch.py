"""What a pass is asked to do, row by row, against tables written by hand."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import pytest
import torch
from torch import Tensor

from specdec.kernels.attention import sequence_keys
from specdec.models.batch import RaggedBatch, SequenceRows

TREE_PARENTS = [-1, 0, 0, 2, 2, 4, 4]
TREE_TABLE = ["1......", "11.....", "1.1....", "1.11...", "1.1.1..", "1.1.11.", "1.1.1.1"]
"""Which of the seven nodes (columns) each node (rows) sees: its ancestors and itself."""


def marks(table: Tensor | None) -> list[str] | None:
    """A boolean table the way it is written in this file."""
    return None if table is None else ["".join("1" if mark else "." for mark in line) for line in table.tolist()]


@dataclass(frozen=True)
class Expected:
    """Everything that `RaggedBatch.build` derives from one sequence, in numbers counted by hand."""

    positions: Sequence[int]
    key_positions: Sequence[int]
    write_slots: Sequence[int]
    key_slots: Sequence[int]
    visible: Sequence[str] | None


def slots(*numbers: int) -> Tensor:
    return torch.tensor(numbers, dtype=torch.int64)


CASES = {
    "prefill": (
        SequenceRows([7, 8, 9], slots(4, 5, 2), committed=0, logit_rows=[2]),
        Expected([0, 1, 2], [0, 1, 2], [4, 5, 2], [4, 5, 2], ["1..", "11.", "111"]),
    ),
    "later chunk": (
        SequenceRows([7, 8, 9], slots(4, 5, 2, 30, 31), committed=2),
        Expected([2, 3, 4], [0, 1, 2, 3, 4], [2, 30, 31], [4, 5, 2, 30, 31], ["111..", "1111.", "11111"]),
    ),
    "first token": (
        SequenceRows([7], slots(12), committed=0, logit_rows=[0]),
        Expected([0], [0], [12], [12], None),
    ),
    "decode": (
        SequenceRows([7], slots(4, 5, 2, 30), committed=3, logit_rows=[0]),
        Expected([3], [0, 1, 2, 3], [30], [4, 5, 2, 30], None),
    ),
    "chain": (
        SequenceRows([7, 8, 9], slots(6, 3, 1, 0), committed=1, logit_rows=[0, 1, 2]),
        Expected([1, 2, 3], [0, 1, 2, 3], [3, 1, 0], [6, 3, 1, 0], ["11..", "111.", "1111"]),
    ),
    "chain with its parents": (
        SequenceRows([7, 8, 9], slots(6, 3, 1, 0), committed=1, parents=[-1, 0, 1], logit_rows=[0, 1, 2]),
        Expected([1, 2, 3], [0, 1, 2, 3], [3, 1, 0], [6, 3, 1, 0], ["11..", "111.", "1111"]),
    ),
    "tree": (
        SequenceRows(range(40, 47), slots(9, 8, 0, 1, 2, 3, 4, 5, 6), 2, TREE_PARENTS, logit_rows=range(7)),
        Expected(
            positions=[2, 3, 3, 4, 4, 5, 5],
            key_positions=[0, 1, 2, 3, 3, 4, 4, 5, 5],
            write_slots=[0, 1, 2, 3, 4, 5, 6],
            key_slots=[9, 8, 0, 1, 2, 3, 4, 5, 6],
            visible=[
                "111......",
                "1111.....",
                "111.1....",
                "111.11...",
                "111.1.1..",
                "111.1.11.",
                "111.1.1.1",
            ],
        ),
    ),
    "tree below nothing": (
        SequenceRows(range(40, 47), slots(0, 1, 2, 3, 4, 5, 6), 0, TREE_PARENTS, logit_rows=[6, 0]),
        Expected([0, 1, 1, 2, 2, 3, 3], [0, 1, 1, 2, 2, 3, 3], range(7), range(7), TREE_TABLE),
    ),
    "several roots": (
        SequenceRows([1, 2, 3, 4], slots(5, 6, 7, 8, 9), 1, [-1, -1, 0, 1], logit_rows=[2]),
        Expected([1, 1, 2, 2], [0, 1, 1, 2, 2], [6, 7, 8, 9], [5, 6, 7, 8, 9], ["11...", "1.1..", "11.1.", "1.1.1"]),
    ),
    "tokens not yet cached, then a tree": (
        SequenceRows([1, 2, 3, 4, 5], slots(5, 6, 7, 8, 9, 3), 1, [-1, 0, 1, 1, 3], logit_rows=[1, 2, 3, 4]),
        Expected(
            [1, 2, 3, 3, 4],
            [0, 1, 2, 3, 3, 4],
            [6, 7, 8, 9, 3],
            [5, 6, 7, 8, 9, 3],
            ["11....", "111...", "1111..", "111.1.", "111.11"],
        ),
    ),
    "chain, second half": (
        SequenceRows([8, 9], slots(6, 3, 1, 0, 2), committed=2, first=1, logit_rows=[1]),
        Expected([3, 4], [0, 1, 2, 3, 4], [0, 2], [6, 3, 1, 0, 2], ["1111.", "11111"]),
    ),
    "chain, last row": (
        SequenceRows([9], slots(6, 3, 1, 0, 2), committed=2, first=2, logit_rows=[0]),
        Expected([4], [0, 1, 2, 3, 4], [2], [6, 3, 1, 0, 2], None),
    ),
    "tree, from row 3": (
        SequenceRows([43, 44, 45, 46], slots(9, 8, 0, 1, 2, 3, 4, 5, 6), 2, TREE_PARENTS, 3, [0, 3]),
        Expected(
            positions=[4, 4, 5, 5],
            key_positions=[0, 1, 2, 3, 3, 4, 4, 5, 5],
            write_slots=[3, 4, 5, 6],
            key_slots=[9, 8, 0, 1, 2, 3, 4, 5, 6],
            visible=["111.11...", "111.1.1..", "111.1.11.", "111.1.1.1"],
        ),
    ),
    "tree, one row of it": (
        SequenceRows([43], slots(9, 8, 0, 1, 2, 3), 2, TREE_PARENTS[:4], 3, [0]),
        Expected([4], [0, 1, 2, 3, 3, 4], [3], [9, 8, 0, 1, 2, 3], ["111.11"]),
    ),
    "tree, rows left for later": (
        SequenceRows([41, 42], slots(9, 8, 0, 1, 2, 3, 4, 5, 6), 2, TREE_PARENTS, 1, [1]),
        Expected([3, 3], [0, 1, 2, 3, 3], [1, 2], [9, 8, 0, 1, 2], ["1111.", "111.1"]),
    ),
    "chain, rows left for later": (
        SequenceRows([7, 8], slots(6, 3, 1, 0, 2), committed=1, logit_rows=[1]),
        Expected([1, 2], [0, 1, 2], [3, 1], [6, 3, 1], ["11.", "111"]),
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_one_sequence_is_laid_out_as_written_by_hand(name: str) -> None:
    part, expected = CASES[name]
    batch = RaggedBatch.build([part])
    (sequence,) = sequence_keys(batch.columns)
    assert batch.token_ids.tolist() == list(part.tokens)
    assert batch.positions.tolist() == list(expected.positions)
    assert batch.write_slots.tolist() == list(expected.write_slots)
    assert batch.logit_rows.tolist() == list(part.logit_rows)
    assert sequence.rows == slice(0, len(part.tokens))
    assert sequence.slots.tolist() == list(expected.key_slots)
    assert sequence.positions.tolist() == list(expected.key_positions)
    assert sequence.query_positions.tolist() == list(expected.positions)
    assert marks(sequence.visible) == expected.visible


def test_a_mixed_batch_packs_its_sequences_one_after_the_other() -> None:
    """Rows of the flat batch: 0-2 prefill, 3 decode, 4-6 chain, 7-13 tree, 14-17 the end of another tree."""
    names = ["prefill", "decode", "chain", "tree", "tree, from row 3"]
    parts = [CASES[name][0] for name in names]
    expected = [CASES[name][1] for name in names]
    batch = RaggedBatch.build(parts)
    assert batch.token_ids.tolist() == [7, 8, 9, 7, 7, 8, 9, 40, 41, 42, 43, 44, 45, 46, 43, 44, 45, 46]
    assert batch.positions.tolist() == [0, 1, 2, 3, 1, 2, 3, 2, 3, 3, 4, 4, 5, 5, 4, 4, 5, 5]
    assert batch.write_slots.tolist() == [4, 5, 2, 30, 3, 1, 0, 0, 1, 2, 3, 4, 5, 6, 3, 4, 5, 6]
    assert batch.logit_rows.tolist() == [2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 17]
    sequences = sequence_keys(batch.columns)
    assert [s.rows for s in sequences] == [slice(0, 3), slice(3, 4), slice(4, 7), slice(7, 14), slice(14, 18)]
    for sequence, table in zip(sequences, expected, strict=True):
        assert marks(sequence.visible) == table.visible
        assert sequence.slots.tolist() == list(table.key_slots)
        assert sequence.positions.tolist() == list(table.key_positions)
        assert sequence.query_positions.tolist() == list(table.positions)


def test_logit_rows_keep_the_order_they_were_asked_for_in() -> None:
    first, second = CASES["tree below nothing"][0], replace(CASES["chain"][0], logit_rows=[2, 0])
    silent = replace(CASES["later chunk"][0], logit_rows=())
    assert RaggedBatch.build([silent, first, silent, second]).logit_rows.tolist() == [3 + 6, 3 + 0, 13 + 2, 13 + 0]


def test_a_batch_may_want_no_logits() -> None:
    batch = RaggedBatch.build([CASES["later chunk"][0]])
    assert (batch.logit_rows.tolist(), batch.logit_rows.dtype) == ([], torch.int64)


@pytest.mark.parametrize("name", CASES)
def test_indices_are_int64_and_masks_are_bool(name: str) -> None:
    batch = RaggedBatch.build([CASES[name][0]])
    (sequence,) = sequence_keys(batch.columns)
    indices = [batch.token_ids, batch.positions, batch.write_slots, batch.logit_rows]
    indices += [sequence.slots, sequence.positions, sequence.query_positions]
    assert {tensor.dtype for tensor in indices} == {torch.int64}
    assert sequence.visible is None or sequence.visible.dtype == torch.bool


def test_depths_count_from_the_last_committed_token() -> None:
    assert CASES["tree"][0].depths == [0, 1, 1, 2, 2, 3, 3]
    assert CASES["tree, from row 3"][0].depths == [0, 1, 1, 2, 2, 3, 3]
    assert CASES["tree, rows left for later"][0].depths == [0, 1, 1]
    assert CASES["chain, second half"][0].depths == [0, 1, 2]
    assert CASES["tokens not yet cached, then a tree"][0].depths == [0, 1, 2, 2, 3]


def test_building_leaves_the_callers_slots_alone() -> None:
    part = CASES["tree, rows left for later"][0]
    before = part.slots.clone()
    RaggedBatch.build([part, part])
    assert torch.equal(part.slots, before)


def test_everything_goes_to_the_wanted_device() -> None:
    """The meta device holds no numbers, so a tensor left behind shows in its device alone."""
    part = CASES["tree"][0]
    batch = RaggedBatch.build([part, part]).on("meta")
    tensors = [batch.token_ids, batch.positions, batch.write_slots, batch.logit_rows]
    for sequence in sequence_keys(batch.columns, "meta"):
        tensors += [sequence.slots, sequence.positions, sequence.query_positions]
        tensors += [sequence.visible] if sequence.visible is not None else []
    assert {tensor.device.type for tensor in tensors} == {"meta"}
