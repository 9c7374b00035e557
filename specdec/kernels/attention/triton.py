"""Paged attention on the GPU: flash tiles with online softmax, for prefill chunks, decoding, chains and trees alike.

Keys are taken in chunks of BLOCK_N by *logical* position and chunks in splits of a fixed number of positions. Within a
split the softmax is gathered chunk after chunk (FlashAttention, Dao et al. 2022); splits are merged in their order by
log-sum-exp (Flash-Decoding, 2023). Neither depends on the batch, so a row's bits are a function of its own path: one
program that walks all splits and a program a split with a merge afterwards do the same arithmetic, and so do a chain,
whose rows share their keys, and a tree, whose rows fetch them one by one.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

from specdec.kernels.attention.plan import AttentionPlan

NOTHING = tl.constexpr(-1e30)
"""Running maximum before the first key. Finite, so that differences are never NaN."""
LOG2_E = 1.4426950408889634
LEAST_DOT = 16
"""No side of a matrix product may be smaller; smaller heads are filled up with zeros."""


@triton.jit
def _slots(position, last, shared, slots, slot_start, paths, path_start):
    """Cache slots of logical positions up to `last` on one row's path, int64."""
    there = position <= last
    common = tl.load(slots + slot_start + position, mask=there & (position < shared), other=0)
    own = tl.load(paths + path_start + position - shared, mask=there & (position >= shared), other=0)
    return tl.where(position < shared, common, own).to(tl.int64)


@triton.jit
def _scores(query, keys, key_scales, slot, there, head, slot_stride, head_stride, scale, cap, KV_HEADS: tl.constexpr,
            SIZE: tl.constexpr, BLOCK_D: tl.constexpr, QUANTIZED: tl.constexpr, CAPPED: tl.constexpr):  # fmt: skip
    """Scores of a chunk's keys in units of log 2, [BLOCK_M, BLOCK_N]."""
    d = tl.arange(0, BLOCK_D)
    at = keys + slot[None, :] * slot_stride + head * head_stride + d[:, None]
    key = tl.load(at, mask=there[None, :] & (d[:, None] < SIZE), other=0.0).to(query.dtype)
    scores = tl.dot(query, key, input_precision="ieee") * scale
    if QUANTIZED:
        scores *= tl.load(key_scales + slot * KV_HEADS + head, mask=there, other=0.0)[None, :]
    if CAPPED:  # cap · tanh(s / cap), in natural units
        twice = tl.exp2(scores * (2.0 * 1.4426950408889634 / cap))
        scores = cap * (1.0 - 2.0 / (twice + 1.0)) * 1.4426950408889634
    return scores


@triton.jit
def _values(query, values, value_scales, slot, there, head, slot_stride, head_stride, weights, KV_HEADS: tl.constexpr,
            SIZE: tl.constexpr, BLOCK_D: tl.constexpr, QUANTIZED: tl.constexpr):  # fmt: skip
    """A chunk's values [BLOCK_N, BLOCK_D], and the weights with the values' scales in them, as the queries' dtype."""
    d = tl.arange(0, BLOCK_D)
    at = values + slot[:, None] * slot_stride + head * head_stride + d[None, :]
    value = tl.load(at, mask=there[:, None] & (d[None, :] < SIZE), other=0.0).to(query.dtype)
    if QUANTIZED:
        weights = weights * tl.load(value_scales + slot * KV_HEADS + head, mask=there, other=0.0)[None, :]
    return value, weights.to(query.dtype)


@triton.jit
def _weigh(scores, visible, maximum, total, gathered, unified, UNIFIED: tl.constexpr):
    """Scores → weights under the running maximum, which they may raise; what was gathered shrinks accordingly.

    With a unified maximum (FlashDecoding++, Hong et al. 2023) nothing shrinks; the maximum is only watched then.
    """
    scores = tl.where(visible, scores, float("-inf"))
    raised = tl.maximum(maximum, tl.max(scores, 1))
    if UNIFIED:
        weights = tl.exp2(scores - unified)
        total += tl.sum(weights, 1)
    else:
        weights = tl.exp2(scores - raised[:, None])
        keep = tl.exp2(maximum - raised)
        total = total * keep + tl.sum(weights, 1)
        gathered = gathered * keep[:, None]
    return weights, raised, total, gathered


@triton.jit
def _merge(maximum, total, gathered, own_maximum, own_total, own_gathered, UNIFIED: tl.constexpr):
    """Adds what one split gathered to what those before it did."""
    raised = tl.maximum(maximum, own_maximum)
    if UNIFIED:
        return raised, total + own_total, gathered + own_gathered
    shrink, own_shrink = tl.exp2(maximum - raised), tl.exp2(own_maximum - raised)
    total = tl.fma(total, shrink, own_total * own_shrink)
    gathered = tl.fma(gathered, tl.broadcast_to(shrink[:, None], gathered.shape), own_gathered * own_shrink[:, None])
    return raised, total, gathered


@triton.jit
def attention_kernel(query, keys, values, key_scales, value_scales, out, partial, partial_maximum, partial_total,
                     out_of_range, tiles, positions, path_starts, slots, paths, query_row, query_head_stride, key_slot,
                     key_head, value_slot, value_head, num_rows, scale, window, cap, unified, reach,
                     HEADS: tl.constexpr, KV_HEADS: tl.constexpr, SIZE: tl.constexpr, BLOCK_D: tl.constexpr,
                     BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, SPLIT: tl.constexpr, PARALLEL: tl.constexpr,
                     QUANTIZED: tl.constexpr, WINDOWED: tl.constexpr, CAPPED: tl.constexpr, UNIFIED: tl.constexpr,
                     REPAIR: tl.constexpr):  # fmt: skip
    """One tile of rows × the queries of one KV head; all splits, or one of them if PARALLEL.

    out [rows, HEADS, SIZE], contiguous. If PARALLEL its place is taken by `partial` [splits, rows, HEADS, SIZE] and the
    running maximum and sum beside it, float32. `out_of_range` [rows, HEADS], int32, is written if UNIFIED and read if
    REPAIR: then only the rows that it marks are computed.
    """
    GROUP: tl.constexpr = HEADS // KV_HEADS
    tile, head = tl.program_id(0), tl.program_id(1)
    first_row, count = tl.load(tiles + 4 * tile), tl.load(tiles + 4 * tile + 1)
    slot_start, shared = tl.load(tiles + 4 * tile + 2), tl.load(tiles + 4 * tile + 3)
    m, d, n = tl.arange(0, BLOCK_M), tl.arange(0, BLOCK_D), tl.arange(0, BLOCK_N)
    row, query_head = m // GROUP, head * GROUP + m % GROUP
    real = row < count
    if REPAIR:
        real = real & (tl.load(out_of_range + (first_row + row) * HEADS + query_head, mask=real, other=0) != 0)
    position = tl.load(positions + first_row + row, mask=real, other=-1)
    real = real & (position >= 0)
    path_start = tl.load(path_starts + first_row + row, mask=real, other=0)
    last = tl.max(position, 0)
    oldest = tl.zeros_like(position)
    if WINDOWED:
        oldest = tl.maximum(position - window + 1, 0)
    earliest = tl.min(tl.where(real, oldest, 2147483647), 0)
    at_query = (first_row + row)[:, None] * query_row + query_head[:, None] * query_head_stride + d[None, :]
    q = tl.load(query + at_query, mask=real[:, None] & (d[None, :] < SIZE), other=0.0)

    maximum = tl.full([BLOCK_M], NOTHING, tl.float32)
    total = tl.zeros([BLOCK_M], tl.float32)
    gathered = tl.zeros([BLOCK_M, BLOCK_D], tl.float32)
    first_split, last_split = earliest // SPLIT, last // SPLIT + 1
    if last < 0:  # no row at all
        first_split, last_split = 0, 0
    if PARALLEL:
        only = tl.program_id(2)
        first_split, last_split = tl.maximum(first_split, only), tl.minimum(last_split, only + 1)
    for split in range(first_split, last_split):
        own_maximum = tl.full([BLOCK_M], NOTHING, tl.float32)
        own_total = tl.zeros([BLOCK_M], tl.float32)
        own_gathered = tl.zeros([BLOCK_M, BLOCK_D], tl.float32)
        begin = tl.maximum(split * SPLIT, earliest // BLOCK_N * BLOCK_N)
        end = tl.minimum((split + 1) * SPLIT, last + 1)
        same = tl.minimum(end, shared // BLOCK_N * BLOCK_N)  # below it chunks are the same for all rows
        for start in range(begin, same, BLOCK_N):
            at = start + n
            there = at <= last
            visible = (at[None, :] <= position[:, None]) & (at[None, :] >= oldest[:, None])
            slot = _slots(at, last, shared, slots, slot_start, paths, 0)
            scores = _scores(q, keys, key_scales, slot, there, head, key_slot, key_head, scale, cap, KV_HEADS,
                             SIZE, BLOCK_D, QUANTIZED, CAPPED)  # fmt: skip
            weights, own_maximum, own_total, before = _weigh(scores, visible, own_maximum, own_total, own_gathered,
                                                             unified, UNIFIED)  # fmt: skip
            value, weights = _values(q, values, value_scales, slot, there, head, value_slot, value_head, weights,
                                     KV_HEADS, SIZE, BLOCK_D, QUANTIZED)  # fmt: skip
            own_gathered = tl.dot(weights, value, acc=before, input_precision="ieee")
        for start in range(tl.maximum(begin, same), end, BLOCK_N):
            # Here rows of a tree part: each meets the keys of its own path, in products of the same shape as above.
            at = start + n
            visible = (at[None, :] <= position[:, None]) & (at[None, :] >= oldest[:, None])
            scores = tl.zeros([BLOCK_M, BLOCK_N], tl.float32)
            for r in range(count):
                mine = row == r
                ends = tl.max(tl.where(mine, position, -1), 0)
                path = tl.max(tl.where(mine, path_start, 0), 0)
                slot = _slots(at, ends, shared, slots, slot_start, paths, path)
                theirs = _scores(q, keys, key_scales, slot, at <= ends, head, key_slot, key_head, scale, cap,
                                 KV_HEADS, SIZE, BLOCK_D, QUANTIZED, CAPPED)  # fmt: skip
                scores = tl.where(mine[:, None], theirs, scores)
            weights, own_maximum, own_total, before = _weigh(scores, visible, own_maximum, own_total, own_gathered,
                                                             unified, UNIFIED)  # fmt: skip
            for r in range(count):
                mine = row == r
                ends = tl.max(tl.where(mine, position, -1), 0)
                path = tl.max(tl.where(mine, path_start, 0), 0)
                slot = _slots(at, ends, shared, slots, slot_start, paths, path)
                value, scaled = _values(q, values, value_scales, slot, at <= ends, head, value_slot, value_head,
                                        weights, KV_HEADS, SIZE, BLOCK_D, QUANTIZED)  # fmt: skip
                theirs = tl.dot(scaled, value, acc=before, input_precision="ieee")
                own_gathered = tl.where(mine[:, None], theirs, own_gathered)
        if PARALLEL:
            maximum, total, gathered = own_maximum, own_total, own_gathered
        else:
            maximum, total, gathered = _merge(maximum, total, gathered, own_maximum, own_total, own_gathered, UNIFIED)

    at_row = (first_row + row) * HEADS + query_head
    real_size = real[:, None] & (d[None, :] < SIZE)
    if PARALLEL:
        at_row = (tl.program_id(2) * num_rows + first_row + row).to(tl.int64) * HEADS + query_head
        tl.store(partial_maximum + at_row, maximum, mask=real)
        tl.store(partial_total + at_row, total, mask=real)
        tl.store(partial + at_row[:, None] * SIZE + d[None, :], gathered, mask=real_size)
    else:
        result = gathered / tl.where(total > 0, total, 1.0)[:, None]
        tl.store(out + at_row[:, None] * SIZE + d[None, :], result.to(out.dtype.element_ty), mask=real_size)
        if UNIFIED:
            near = tl.abs(maximum - unified) < reach  # a NaN is not
            tl.store(out_of_range + at_row, tl.where(near, 0, 1), mask=real)


@triton.jit
def merge_kernel(partial, partial_maximum, partial_total, out, out_of_range, positions, num_rows, window, unified,
                 reach, HEADS: tl.constexpr, SIZE: tl.constexpr, BLOCK_D: tl.constexpr, SPLIT: tl.constexpr,
                 WINDOWED: tl.constexpr, UNIFIED: tl.constexpr):  # fmt: skip
    """Merges the splits of one row and head in their order."""
    row, head = tl.program_id(0), tl.program_id(1)
    d = tl.arange(0, BLOCK_D)
    position = tl.load(positions + row)
    oldest = 0
    if WINDOWED:
        oldest = tl.maximum(position - window + 1, 0)
    maximum = tl.full([1], NOTHING, tl.float32)
    total = tl.zeros([1], tl.float32)
    gathered = tl.zeros([1, BLOCK_D], tl.float32)
    one = tl.arange(0, 1)
    for split in range(oldest // SPLIT, tl.where(position < 0, 0, position // SPLIT + 1)):
        at = (split * num_rows + row).to(tl.int64) * HEADS + head + one
        own = tl.load(partial + at[:, None] * SIZE + d[None, :], mask=d[None, :] < SIZE, other=0.0)
        maximum, total, gathered = _merge(maximum, total, gathered, tl.load(partial_maximum + at),
                                          tl.load(partial_total + at), own, UNIFIED)  # fmt: skip
    at = row * HEADS + head + one
    result = gathered / tl.where(total > 0, total, 1.0)[:, None]
    there = (d[None, :] < SIZE) & (position >= 0)
    tl.store(out + at[:, None] * SIZE + d[None, :], result.to(out.dtype.element_ty), mask=there)
    if UNIFIED:
        near = tl.abs(maximum - unified) < reach
        tl.store(out_of_range + at, tl.where(near, 0, 1), mask=position >= 0)


@dataclass(frozen=True)
class AttentionConfig:
    """Sizes of the kernels. The bits of a result depend on them, so one model uses one of them throughout.

    Args:
        block_m: queries of a tile: rows × query heads of one KV head.
        block_n: keys of a chunk.
        split: positions of a split, a multiple of `block_n`.
        num_warps, num_stages: how Triton lays it out.
    """

    block_m: int = 16
    block_n: int = 64
    split: int = 512
    num_warps: int = 4
    num_stages: int = 2

    def rows_per_tile(self, heads: int, kv_heads: int) -> int:
        """Rows that a tile has room for."""
        return max(1, self.block_m // (heads // kv_heads))


def config_for(dtype: torch.dtype, head_size: int) -> AttentionConfig:
    """The sizes that are shipped: the fastest on an H100 and an H200 (docs/gpu.md), where a few registers are spilled;
    `python -m specdec.kernels.aot` checks how many."""
    if dtype == torch.float32:  # without matrix instructions tiles are held as a whole
        return AttentionConfig(block_n=16, num_warps=8, num_stages=1)
    return AttentionConfig() if head_size <= 128 else AttentionConfig(block_n=32, num_warps=8)


REACH = 60.0
"""How far, in units of log 2, a row's maximum may lie from the unified one: 2**60 is far from float32's limits."""


def triton_attention(
    query: Tensor,
    keys: Tensor,
    values: Tensor,
    plan: AttentionPlan,
    scale: float,
    window: int | None = None,
    softcap: float | None = None,
    key_scales: Tensor | None = None,
    value_scales: Tensor | None = None,
    config: AttentionConfig | None = None,
    parallel: bool | None = None,
    unified: float | None = None,
) -> Tensor:
    """As `paged_attention` in reference.py, over an `AttentionPlan`.

    Args:
        query: float16, bfloat16 or float32 [T, query heads, head size]; the last dimension must be dense.
        keys, values: [slots, KV heads, head size] in the same dtype, or int8 or float8_e4m3fn with scales.
        plan: made with `config.rows_per_tile`.
        scale, window, softcap: as in reference.py.
        key_scales, value_scales: float32 [slots, KV heads], dense, if the cache is quantized.
        config: sizes; None takes the shipped ones.
        parallel: a program a split, merged afterwards; None decides by the longest context. The bits are the same.
        unified: expected maximum φ of scale · q k, in natural units (FlashDecoding++): chunks are added without being
            rescaled, and rows whose maximum is far from φ are computed again. None keeps the running maximum.

    Returns:
        [T, query heads, head size] in the query's dtype. Rows of the plan that are padding are undefined.
    """
    num_rows, heads, size = query.shape
    kv_heads = keys.shape[1]
    config = config or config_for(query.dtype, size)
    out = torch.empty(num_rows, heads, size, dtype=query.dtype, device=query.device)
    if not num_rows:
        return out
    splits = -(-plan.longest // config.split)
    parallel = splits > 1 if parallel is None else parallel
    partial = torch.empty((splits, num_rows, heads, size) if parallel else (1,), device=query.device)
    maximum, total = (torch.empty(partial.shape[:3], device=query.device) for _ in range(2))
    flags = torch.empty((num_rows, heads) if unified is not None else (1,), dtype=torch.int32, device=query.device)
    block_d = max(LEAST_DOT, triton.next_power_of_2(size))
    in_units = LOG2_E if softcap is None else 1.0
    phi = 0.0 if unified is None else unified * LOG2_E
    shape = {"HEADS": heads, "SIZE": size, "BLOCK_D": block_d, "SPLIT": config.split, "WINDOWED": window is not None}

    def run(parallel: bool, unified: bool, repair: bool) -> None:  # one stage: triton 3.7 cannot pipeline it for AMD
        attention_kernel[(len(plan.tiles), kv_heads, splits if parallel else 1)](
            query, keys, values, key_scales, value_scales, out, partial, maximum, total, flags,
            plan.tiles, plan.positions, plan.path_starts, plan.slots, plan.paths,
            query.stride(0), query.stride(1), keys.stride(0), keys.stride(1), values.stride(0), values.stride(1),
            num_rows, scale * in_units, window or 0, softcap or 0.0, phi, REACH,
            KV_HEADS=kv_heads, BLOCK_M=config.block_m, BLOCK_N=config.block_n, PARALLEL=parallel,
            QUANTIZED=key_scales is not None, CAPPED=softcap is not None, UNIFIED=unified, REPAIR=repair,
            num_warps=config.num_warps, num_stages=1 if unified else config.num_stages, **shape,
        )  # fmt: skip

    run(parallel, unified is not None, repair=False)
    if parallel:
        merge_kernel[(num_rows, heads)](
            partial, maximum, total, out, flags, plan.positions, num_rows, window or 0, phi, REACH,
            UNIFIED=unified is not None, num_warps=1, **shape,
        )  # fmt: skip
    if unified is not None:
        run(parallel=False, unified=False, repair=True)
    return out
