"""Attention in Triton against the float64 oracle, bit for bit the same whatever shares a row's pass, and broken copies."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from specdec.kernels.attention import triton as shipped
from specdec.kernels.attention.plan import AttentionPlan
from specdec.kernels.linear.reference import quantize_rows
from tests.kernels.gpu import DEVICE, Check, assert_caught, poisoned
from tests.kernels.paged import TREE_PARENTS, Case, Piece, columns, make_case, oracle

pytestmark = pytest.mark.fewer(3)

SMALL = [Piece(0, 3), Piece(18, 1), Piece(5, 7, TREE_PARENTS)]
"""A prefill, a token over two chunks, a tree over a border of chunks."""
TINY = shipped.AttentionConfig(block_m=16, block_n=16, split=32)


def plan(case: Case, rows_per_tile: int) -> AttentionPlan:
    return AttentionPlan.of(columns(case), rows_per_tile, DEVICE)


def attend(case: Case, ops: ModuleType = shipped, scale: float = 0.4, kv: torch.dtype | None = None, **options: object) -> Tensor:  # fmt: skip
    """Runs the kernels on a case; memory that they do not write is NaN."""
    config = options.pop("config", TINY)
    assert isinstance(config, shipped.AttentionConfig)
    held: list[Tensor | None] = [case.keys, case.values, None, None]
    if kv is not None:
        (keys, key_scales), (values, value_scales) = quantize_rows(case.keys, kv), quantize_rows(case.values, kv)
        held = [keys, values, key_scales, value_scales]
    keys, values, key_scales, value_scales = (None if t is None else t.to(DEVICE) for t in held)
    heads, kv_heads = case.query.shape[1], case.keys.shape[1]
    table = plan(case, config.rows_per_tile(heads, kv_heads))
    with poisoned():
        out = ops.triton_attention(
            case.query.to(DEVICE), keys, values, table, scale, key_scales=key_scales, value_scales=value_scales,
            config=config, **options,
        )  # fmt: skip
    result: Tensor = out.cpu()
    return result


def held_by(case: Case, kv: torch.dtype) -> Case:
    """The case with the numbers that a quantized cache holds."""
    keys, values = (c.float() * s[..., None] for c, s in (quantize_rows(case.keys, kv), quantize_rows(case.values, kv)))
    return replace(case, keys=keys, values=values)


def check(case: Case, ops: ModuleType = shipped, scale: float = 0.4, kv: torch.dtype | None = None, **options: object) -> Tensor:  # fmt: skip
    """Compares with the oracle."""
    out = attend(case, ops, scale, kv, **options)
    assert out.dtype == case.query.dtype
    window, softcap = (options.get(name) for name in ("window", "softcap"))
    truth = case if kv is None else held_by(case, kv)
    expected, bound = oracle(truth, scale, window, softcap, online=True)  # type: ignore[arg-type]
    assert ((out.double() - expected).abs() <= bound).all()
    return out


@pytest.mark.parametrize("head_size", [64, 80, 96, 128, 256])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
def test_every_dtype_and_head_size_agrees_with_the_oracle(dtype: torch.dtype, head_size: int) -> None:
    check(make_case(SMALL, head_size=head_size, dtype=dtype), scale=head_size**-0.5)


@pytest.mark.parametrize("heads", [(1, 1), (9, 3), (5, 1), (8, 1)], ids=str)
def test_any_number_of_query_heads_may_share_a_key_head(heads: tuple[int, int]) -> None:
    check(make_case(SMALL, query_heads=heads[0], kv_heads=heads[1]))


@pytest.mark.parametrize("softcap", [None, 0.5, 30.0])
@pytest.mark.parametrize("window", [None, 1, 5, 16, 17])
def test_window_and_cap_agree_with_the_oracle(window: int | None, softcap: float | None) -> None:
    check(make_case(SMALL, seed=1), window=window, softcap=softcap)


@pytest.mark.parametrize("context", [1, 15, 16, 31, 32, 33, 64])
def test_contexts_around_the_borders_of_chunks_and_splits(context: int) -> None:
    pieces = [Piece(context, 1), Piece(context - 1, 3, [-1, 0, 0]), Piece(0, 2)]
    check(make_case(pieces, seed=2, query_heads=2, kv_heads=1, head_size=16))


@pytest.mark.parametrize("kv", [torch.int8, torch.float8_e4m3fn], ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_an_8_bit_cache_is_read_with_its_scales(dtype: torch.dtype, kv: torch.dtype) -> None:
    case = make_case(SMALL, dtype=torch.float32, head_size=16)
    check(replace(case, query=case.query.to(dtype)), kv=kv)


def test_queries_and_cache_may_be_strided() -> None:
    case = make_case(SMALL, head_size=16)
    wide = [torch.full((*t.shape[:2], 40), float("nan")) for t in (case.query, case.keys, case.values)]
    for target, source in zip(wide, (case.query, case.keys, case.values), strict=True):
        target[..., 7:23] = source
    query, keys, values = (t[..., 7:23] for t in wide)
    assert torch.equal(check(replace(case, query=query, keys=keys, values=values)), attend(case))


def test_an_empty_batch_has_an_empty_result() -> None:
    case = make_case(SMALL)
    empty = replace(case, query=case.query[:0], sequences=[], pieces=[])
    assert attend(empty).shape == (0, *case.query.shape[1:])


@pytest.mark.parametrize("parallel", [False, True])
def test_padding_rows_and_empty_tiles_touch_nothing(parallel: bool) -> None:
    """Shapes that are rounded up for a captured graph: rows at position -1, tiles of no rows."""
    case = make_case(SMALL)
    table = plan(case, TINY.rows_per_tile(4, 2))
    rows = len(case.query)
    more = torch.tensor([[rows, 2, 0, 2**30], [rows, 0, 0, 2**30]], dtype=torch.int32, device=DEVICE)
    padded = replace(
        table,
        tiles=torch.cat([table.tiles, more]),
        positions=torch.nn.functional.pad(table.positions, (0, 2), value=-1),
        path_starts=torch.nn.functional.pad(table.path_starts, (0, 2)),
    )
    query = torch.nn.functional.pad(case.query, (0, 0, 0, 0, 0, 2)).to(DEVICE)
    with poisoned():
        out = shipped.triton_attention(
            query, case.keys.to(DEVICE), case.values.to(DEVICE), padded, 0.4, config=TINY, parallel=parallel
        )
    assert torch.equal(out[:rows].cpu(), attend(case))
    assert out[rows:].isnan().all()


def alone(case: Case, row: int) -> Case:
    """One row as plain decoding would run it, over the same slots."""
    sees = [slot for slot, _ in case.sees[row]]
    [sequence] = make_case([Piece(len(sees) - 1, 1)]).sequences
    sequence = replace(sequence, slots=torch.tensor(sees))
    return replace(case, query=case.query[row : row + 1], sequences=[sequence], pieces=[Piece(len(sees) - 1, 1)])


def check_invariance(ops: ModuleType = shipped, dtype: torch.dtype = torch.float32, **options: object) -> None:
    """Every row of a mixed batch has the bits that it has alone, in either way over the splits."""
    case = make_case(
        [Piece(37, 1), Piece(75, 1), Piece(14, 5, [-1, 0, 0, 2, 1]), Piece(0, 3), Piece(30, 4)], seed=3, dtype=dtype
    )
    together = attend(case, ops, parallel=False, **options)
    assert torch.equal(attend(case, ops, parallel=True, **options), together)
    for row in range(len(case.query)):
        assert torch.equal(attend(alone(case, row), ops, parallel=row % 2 == 0, **options)[0], together[row])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("kv", [None, torch.int8], ids=str)
def test_a_rows_bits_are_its_own(dtype: torch.dtype, kv: torch.dtype | None) -> None:
    check_invariance(dtype=dtype, kv=kv)


@pytest.mark.parametrize("options", [{"window": 17}, {"softcap": 2.0}, {"unified": 0.0}], ids=str)
def test_a_rows_bits_are_its_own_with(options: dict[str, object]) -> None:
    check_invariance(**options)


@pytest.mark.parametrize("parallel", [False, True])
def test_a_unified_maximum_agrees_where_scores_are_near_it_and_where_they_are_not(parallel: bool) -> None:
    case = make_case(SMALL, seed=4, head_size=16)
    case.query[1] *= 400.0  # its scores leave the range of an exponential
    case.query[5] *= 0.0
    expected = attend(case)
    for phi in (0.0, 3.0, -500.0):  # the last one sends every row to be repaired
        out = check(case, unified=phi, parallel=parallel)
        if phi == -500.0:
            assert torch.equal(out, expected)
        assert torch.equal(out[1], expected[1])


@st.composite
def cases(draw: st.DrawFn) -> tuple[Case, dict[str, object]]:
    pieces = []
    for _ in range(draw(st.integers(1, 3))):
        rows = draw(st.integers(1, 5))
        parents = [draw(st.integers(-1, row - 1)) for row in range(rows)]
        pieces.append(Piece(draw(st.integers(0, 40)), rows, draw(st.sampled_from([None, parents]))))
    kv_heads, group = draw(st.integers(1, 2)), draw(st.integers(1, 4))
    dtype = draw(st.sampled_from([torch.float32, torch.float16, torch.bfloat16]))
    case = make_case(pieces, seed=draw(st.integers(0, 99)), query_heads=kv_heads * group, kv_heads=kv_heads,
                     head_size=draw(st.integers(1, 40)), dtype=dtype)  # fmt: skip
    options = {"window": draw(st.none() | st.integers(1, 40)), "softcap": draw(st.none() | st.floats(0.5, 50.0)),
               "parallel": draw(st.booleans())}  # fmt: skip
    return case, options


@given(cases())
@settings(max_examples=12)
def test_any_batch_agrees_with_the_oracle(drawn: tuple[Case, dict[str, object]]) -> None:
    case, options = drawn
    check(case, **options)


def check_mixture(ops: ModuleType) -> None:
    check(make_case(SMALL, seed=5), ops)


def check_window(ops: ModuleType) -> None:
    check(make_case(SMALL, seed=5), ops, window=5)


def check_cache(ops: ModuleType) -> None:
    check(make_case(SMALL, seed=5), ops, kv=torch.int8)


def check_parallel(ops: ModuleType) -> None:
    check(make_case([Piece(70, 2)], seed=6), ops, parallel=True)


def check_repair(ops: ModuleType) -> None:
    case = make_case(SMALL, seed=4)
    case.query[1] *= 400.0
    check(case, ops, unified=0.0)


BROKEN: dict[str, tuple[Check, Sequence[tuple[str, str]]]] = {
    "the query's own key is hidden": (
        check_mixture,
        [("            visible = (at[None, :] <= position[:, None]) & (at[None, :] >= oldest[:, None])\n            slot",
          "            visible = (at[None, :] < position[:, None]) & (at[None, :] >= oldest[:, None])\n            slot")],
    ),
    "a window one too long": (check_window, [("        oldest = tl.maximum(position - window + 1, 0)\n    earliest",
                                              "        oldest = tl.maximum(position - window, 0)\n    earliest")]),
    "what was gathered is not rescaled": (check_mixture, [("        keep = tl.exp2(maximum - raised)", "        keep = tl.exp2(raised - raised)")]),
    "splits are not rescaled": (check_parallel, [("shrink, own_shrink = tl.exp2(maximum - raised), tl.exp2(own_maximum - raised)",
                                                  "shrink, own_shrink = tl.exp2(maximum - maximum), tl.exp2(own_maximum - own_maximum)")]),
    "the last chunk is left out": (check_mixture, [("end = tl.minimum((split + 1) * SPLIT, last + 1)", "end = tl.minimum((split + 1) * SPLIT, last // BLOCK_N * BLOCK_N)")]),
    "the last split is left out": (check_parallel, [("position // SPLIT + 1)", "position // SPLIT)")]),
    "keys of an int8 cache without their scales": (check_cache, [("scores *= tl.load(key_scales + slot * KV_HEADS + head, mask=there, other=0.0)[None, :]", "scores *= 1.0")]),
    "values of an int8 cache without their scales": (check_cache, [("weights = weights * tl.load(value_scales + slot * KV_HEADS + head, mask=there, other=0.0)[None, :]", "weights = weights * 1.0")]),
    "tree rows read the first row's path": (check_mixture, [("path = tl.max(tl.where(mine, path_start, 0), 0)\n                slot = _slots(at, ends, shared, slots, slot_start, paths, path)\n                theirs", "path = 0\n                slot = _slots(at, ends, shared, slots, slot_start, paths, path)\n                theirs")]),
    "rows out of range are not repaired": (check_repair, [("    if unified is not None:\n        run(parallel=False", "    if False:\n        run(parallel=False")]),
    "splits merged in another order": (
        lambda ops: check_invariance(ops),
        [("    for split in range(oldest // SPLIT, tl.where(position < 0, 0, position // SPLIT + 1)):",
          "    for back in range(0, position // SPLIT + 1 - oldest // SPLIT):\n        split = position // SPLIT - back")],
    ),
    "the split's length follows the batch": (
        lambda ops: check_invariance(ops),
        [("    config = config or config_for(query.dtype, size)\n", "    config = AttentionConfig(16, 16, 32 * len(plan.tiles))\n")],
    ),
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_copy_is_caught(name: str, tmp_path: Path) -> None:
    check_it, changes = BROKEN[name]
    assert_caught(shipped, check_it, changes, tmp_path)
