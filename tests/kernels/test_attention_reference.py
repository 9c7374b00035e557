"""Paged attention against a dense float64 oracle that shares no code with it."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from specdec.kernels.attention import SequenceKeys, paged_attention
from tests.kernels.paged import MIXED, TREE_PARENTS, TREE_TABLE, UNIT, Case, Piece, make_case, oracle


def check(case: Case, scale: float = 0.4, window: int | None = None, softcap: float | None = None) -> Tensor:
    """Runs the case and compares it with the oracle; returns the result."""
    out = paged_attention(case.query, case.keys, case.values, case.sequences, scale, window, softcap)
    assert out.shape == case.query.shape
    assert out.dtype == case.query.dtype
    expected, bound = oracle(case, scale, window, softcap)
    assert ((out.double() - expected).abs() <= bound).all()
    return out


@pytest.mark.parametrize("head_size", [1, 8, 64], ids="head size {}".format)
@pytest.mark.parametrize(
    ("query_heads", "kv_heads"), [(1, 1), (3, 3), (4, 2), (6, 2), (7, 1)], ids=lambda n: f"{n} heads"
)
def test_a_mixed_batch_agrees_with_the_oracle(query_heads: int, kv_heads: int, head_size: int) -> None:
    case = make_case(MIXED, query_heads=query_heads, kv_heads=kv_heads, head_size=head_size)
    check(case, scale=head_size**-0.5)


@pytest.mark.parametrize("softcap", [None, 0.5, 30.0], ids="cap {}".format)
@pytest.mark.parametrize("window", [None, 1, 2, 5, 11, 12, 13, 20, 100], ids="window {}".format)
def test_window_and_cap_agree_with_the_oracle(window: int | None, softcap: float | None) -> None:
    check(make_case(MIXED, seed=1), window=window, softcap=softcap)


@pytest.mark.parametrize(("window", "softcap"), [(None, None), (4, None), (None, 2.0), (4, 2.0)])
@pytest.mark.parametrize("head_size", [1, 8, 64], ids="head size {}".format)
def test_bfloat16_agrees_with_the_oracle(head_size: int, window: int | None, softcap: float | None) -> None:
    case = make_case(MIXED, seed=2, head_size=head_size, dtype=torch.bfloat16)
    check(case, head_size**-0.5, window, softcap)


@pytest.mark.parametrize("piece", MIXED, ids=lambda p: f"{p.committed} before, {p.rows} rows")
def test_each_kind_of_sequence_agrees_with_the_oracle_on_its_own(piece: Piece) -> None:
    check(make_case([piece], seed=3))


@given(data=st.data())
def test_any_batch_agrees_with_the_oracle(data: st.DataObject) -> None:
    pieces = []
    for _ in range(data.draw(st.integers(1, 3))):
        rows = data.draw(st.integers(1, 5))
        parents = [data.draw(st.integers(-1, row - 1)) for row in range(rows)]
        pieces.append(Piece(data.draw(st.integers(0, 9)), rows, data.draw(st.sampled_from([None, parents]))))
    kv_heads = data.draw(st.integers(1, 3))
    case = make_case(
        pieces,
        seed=data.draw(st.integers(0, 99)),
        query_heads=kv_heads * data.draw(st.integers(1, 3)),
        kv_heads=kv_heads,
        head_size=data.draw(st.integers(1, 9)),
    )
    check(
        case,
        scale=data.draw(st.floats(0.01, 2.0)),
        window=data.draw(st.none() | st.integers(1, 12)),
        softcap=data.draw(st.none() | st.floats(0.1, 50.0)),
    )


def test_a_hand_written_visibility_table_is_obeyed() -> None:
    """With all scores equal a row's result is the plain mean of what it sees, so that the numbers can be read off."""
    table = ["11.1", "1..1", ".11.", "1111"]
    means = [(1 + 2 + 8) / 3, (1 + 8) / 2, (2 + 4) / 2, (1 + 2 + 4 + 8) / 4]
    keys = torch.full((6, 1, 1), math.nan)
    values = keys.clone()
    slots = torch.tensor([5, 0, 3, 2])
    keys[slots, 0, 0] = 1.0
    values[slots, 0, 0] = torch.tensor([1.0, 2.0, 4.0, 8.0])
    sequence = SequenceKeys(
        rows=slice(0, 4),
        slots=slots,
        positions=torch.arange(4),
        query_positions=torch.arange(4),
        visible=torch.tensor([[mark == "1" for mark in line] for line in table]),
    )
    out = paged_attention(torch.ones(4, 1, 1), keys, values, [sequence], scale=1.0)
    # Means of up to four small integers: one rounding for the weight, one per product and sum.
    assert out.flatten().tolist() == pytest.approx(means, rel=9 * UNIT[torch.float32])


def test_the_nodes_of_a_tree_see_their_path_and_nothing_else() -> None:
    """Values are powers of two and scores are equal, so that a mean times its count names the nodes it was made of."""
    committed, nodes = 3, len(TREE_TABLE)
    visible = torch.ones(nodes, committed + nodes, dtype=torch.bool)
    visible[:, committed:] = torch.tensor([[mark == "1" for mark in line] for line in TREE_TABLE])
    depths = [line.count("1") - 1 for line in TREE_TABLE]
    assert depths == [0, 1, 1, 2, 2, 3, 3]
    sequence = SequenceKeys(
        rows=slice(0, nodes),
        slots=torch.arange(committed + nodes).flip(0),
        positions=torch.tensor([0, 1, 2, *(committed + depth for depth in depths)]),
        query_positions=torch.tensor([committed + depth for depth in depths]),
        visible=visible,
    )
    keys = torch.ones(committed + nodes, 1, 1)
    values = torch.zeros(committed + nodes, 1, 1)
    values[sequence.slots[committed:], 0, 0] = 2.0 ** torch.arange(nodes)
    out = paged_attention(torch.ones(nodes, 1, 1), keys, values, [sequence], scale=1.0).flatten()
    for node, line in enumerate(TREE_TABLE):
        named = sum(2**other for other, mark in enumerate(line) if mark == "1")
        assert round(float(out[node]) * (committed + depths[node] + 1), 3) == named

    # A window counts depths, not rows: at 2, a node sees its parent and itself, wherever they are stored.
    out = paged_attention(torch.ones(nodes, 1, 1), keys, values, [sequence], scale=1.0, window=2).flatten()
    parents = [(0.0 if parent < 0 else 2.0**parent) for parent in TREE_PARENTS]
    assert (out * 2).tolist() == [parent + 2.0**node for node, parent in enumerate(parents)]


def test_a_window_of_one_returns_the_rows_own_values() -> None:
    case = make_case(MIXED, seed=4, query_heads=2, kv_heads=2)
    out = paged_attention(case.query, case.keys, case.values, case.sequences, scale=0.4, window=1)
    own = [next(slot for slot, distance in sees if distance == 0) for sees in case.sees]
    assert torch.equal(out, case.values[own])


def test_scores_too_large_for_an_exponential_pick_the_best_key() -> None:
    keys = torch.tensor([1.0, 3.0, 2.0, -5.0]).view(4, 1, 1)
    values = torch.tensor([10.0, 20.0, 30.0, 40.0]).view(4, 1, 1)
    rows = SequenceKeys(slice(0, 2), torch.arange(4), torch.arange(4), torch.tensor([3, 3]), None)
    out = paged_attention(torch.tensor([1.0, -1.0]).view(2, 1, 1), keys, values, [rows], scale=1e4)
    assert out.flatten().tolist() == [20.0, 40.0]
    capped = paged_attention(torch.tensor([1.0, -1.0]).view(2, 1, 1), keys, values, [rows], scale=1e4, softcap=1.0)
    # The cap leaves +1 for keys of the query's sign and -1 for the others.
    weights = [math.e, math.e, math.e, 1 / math.e]
    expected = sum(w * v for w, v in zip(weights, [10, 20, 30, 40], strict=True)) / sum(weights)
    # Four keys: the score of one cap rounds once, then as in `oracle`.
    assert float(capped[0]) == pytest.approx(expected, rel=(2 * 4 + 10 + 12) * UNIT[torch.float32])


def test_the_softmax_of_bfloat16_scores_runs_in_float32() -> None:
    """200 and 201 are exact in bfloat16, but 60 and 60.3 are not: they would become 60 and 60.25."""
    keys = torch.tensor([200.0, 201.0], dtype=torch.bfloat16).view(2, 1, 1)
    values = torch.tensor([0.0, 1.0], dtype=torch.bfloat16).view(2, 1, 1)
    rows = SequenceKeys(slice(0, 1), torch.arange(2), torch.arange(2), torch.tensor([1]), None)
    out = paged_attention(torch.ones(1, 1, 1, dtype=torch.bfloat16), keys, values, [rows], scale=0.3)
    # The weight and the result are rounded to bfloat16; what float32 adds is far below the third unit.
    assert float(out) == pytest.approx(1 / (1 + math.exp(-0.3)), rel=3 * UNIT[torch.bfloat16])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
def test_query_views_give_the_same_result_as_copies(dtype: torch.dtype) -> None:
    """transformers hands over [heads, rows, head size], which arrives here transposed."""
    case = make_case(MIXED, seed=5, dtype=dtype)
    expected = paged_attention(case.query, case.keys, case.values, case.sequences, 0.4)
    head_first = case.query.transpose(0, 1).contiguous().transpose(0, 1)
    every_other = case.query.repeat_interleave(2, dim=2)[:, :, ::2]
    for view in (head_first, every_other):
        assert not view.is_contiguous()
        assert torch.equal(paged_attention(view, case.keys, case.values, case.sequences, 0.4), expected)


def test_where_the_slots_lie_changes_nothing() -> None:
    case = make_case(MIXED, seed=6)
    expected = paged_attention(case.query, case.keys, case.values, case.sequences, 0.4)
    order = torch.randperm(len(case.keys), generator=torch.Generator().manual_seed(0))
    moved = [
        SequenceKeys(s.rows, torch.argsort(order)[s.slots], s.positions, s.query_positions, s.visible)
        for s in case.sequences
    ]
    assert torch.equal(paged_attention(case.query, case.keys[order], case.values[order], moved, 0.4), expected)


def test_what_unused_slots_hold_changes_nothing() -> None:
    case = make_case(MIXED, seed=7)
    expected = check(case)
    assert case.keys.isnan().any()
    for filler in (0.0, 1e30, math.inf):
        keys, values = (torch.nan_to_num(tensor, nan=filler) for tensor in (case.keys, case.values))
        assert torch.equal(paged_attention(case.query, keys, values, case.sequences, 0.4), expected)


def test_sequences_may_come_in_any_order() -> None:
    case = make_case(MIXED, seed=8)
    expected = paged_attention(case.query, case.keys, case.values, case.sequences, 0.4)
    assert torch.equal(paged_attention(case.query, case.keys, case.values, case.sequences[::-1], 0.4), expected)


def test_the_arguments_are_left_as_they_were() -> None:
    case = make_case(MIXED, seed=9)
    tensors = [case.query, case.keys, case.values]
    for sequence in case.sequences:
        tensors += [sequence.slots, sequence.positions, sequence.query_positions]
        tensors += [] if sequence.visible is None else [sequence.visible]
    before = [tensor.clone() for tensor in tensors]
    paged_attention(case.query, case.keys, case.values, case.sequences, 0.4, window=3, softcap=2.0)
    assert all(torch.equal(now.nan_to_num(), then.nan_to_num()) for now, then in zip(tensors, before, strict=True))
