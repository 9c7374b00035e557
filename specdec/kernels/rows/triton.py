"""What a decision needs to know of a row of scores, on the GPU."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from specdec.kernels.rows import RowMaxima
from specdec.kernels.verdicts.triton import BLOCK as STATS_BLOCK
from specdec.kernels.verdicts.triton import stats_kernel

BLOCK = 4096
MOST, LEAST = tl.constexpr(2**63 - 1), tl.constexpr(-(2**63))
FULL = tl.constexpr(2**31 - 1)


@triton.jit
def _rank(score, token):
    """int64 that is larger for larger scores, and of equals for the token that comes first. A NaN is the largest."""
    bits = tl.where(score == 0.0, 0.0, score).to(tl.int32, bitcast=True)  # there are two zeros
    order = tl.where(bits < 0, bits ^ FULL, bits)
    order = tl.where(score == score, order, FULL)
    return (order.to(tl.int64) << 32) + (FULL - token)


@triton.jit
def tops_kernel(rows, row_stride, V, ids, chances, K: tl.constexpr, BLOCK: tl.constexpr):
    """One row: its K largest scores in turn, each found in a walk of its own, and their softmax."""
    row = tl.program_id(0)
    scores = rows + row.to(tl.int64) * row_stride
    top, total = tl.full([], -float("inf"), tl.float32), tl.zeros([], tl.float64)
    best = tl.full([], LEAST, tl.int64)
    for start in range(0, V, BLOCK):
        token = start + tl.arange(0, BLOCK)
        score = tl.load(scores + token, mask=token < V, other=-float("inf")).to(tl.float32)
        before = top
        top = tl.maximum(top, tl.max(score, 0))
        floor = tl.where(top > -float("inf"), top, 0.0)
        shrink = tl.where(before > -float("inf"), tl.exp((before - floor).to(tl.float64)), 0.0)
        total = total * shrink + tl.sum(tl.exp((score - floor).to(tl.float64)), 0)
        best = tl.maximum(best, tl.max(tl.where(token < V, _rank(score, token), LEAST), 0))
    log_sum = top.to(tl.float64) + tl.log(total)
    for i in range(K):
        if i > 0:
            last, best = best, tl.full([], LEAST, tl.int64)
            for start in range(0, V, BLOCK):
                token = start + tl.arange(0, BLOCK)
                score = tl.load(scores + token, mask=token < V, other=-float("inf")).to(tl.float32)
                rank = _rank(score, token)
                best = tl.maximum(best, tl.max(tl.where((token < V) & (rank < last), rank, LEAST), 0))
        found = FULL - (best & FULL)
        chance = tl.exp(tl.load(scores + found).to(tl.float64) - log_sum)
        tl.store(ids + row * K + i, found)
        tl.store(chances + row * K + i, chance.to(tl.float32))


def tops(rows: Tensor, count: int, block: int = BLOCK) -> tuple[Tensor, Tensor]:
    """The largest scores of each row: largest first, of equals the lowest id first; a NaN is the largest.

    Each row is looked at alone. Its softmax runs in float64, in a fixed order.

    Args:
        rows: float [R, V]; the last dimension must be dense.
        count: at least 1.
        block: scores that are looked at together.

    Returns:
        Of min(count, V) scores their ids, int64 [R, k], and their softmax, float32 [R, k], NaN in rows that hold one;
        both on the device.
    """
    count = min(count, rows.shape[1])
    ids = torch.empty(len(rows), count, dtype=torch.int64, device=rows.device)
    chances = torch.empty(len(rows), count, device=rows.device)
    if len(rows):
        block = min(block, triton.next_power_of_2(rows.shape[1]))
        tops_kernel[(len(rows),)](
            rows, rows.stride(0), rows.shape[1], ids, chances, K=count, BLOCK=block, num_warps=8 if block > 1024 else 4
        )
    return ids, chances


def row_maxima(logits: Tensor, block: int = STATS_BLOCK) -> Tensor:
    """Of every row its first largest logit, float [R, V]; a NaN comes as infinity.

    Returns:
        int32 [2, R] on the device: where it is, and the bits of what it is in float32.
    """
    rows, device = len(logits), logits.device
    found = torch.empty(2, rows, dtype=torch.int32, device=device)
    if rows:
        zeros = torch.zeros(rows, dtype=torch.int64, device=device)
        largest = found[1].view(torch.float32)
        stats_kernel[(rows,)](
            logits, torch.ones(rows, device=device), zeros, zeros, logits.stride(0), logits.shape[1], largest, largest,
            found[0], BLOCK=block, NOISY=False, SUMS=False,
        )  # fmt: skip
    return found


def told_maxima(found: Tensor) -> RowMaxima:
    """What `row_maxima` gave, on the host, which waits for it."""
    there = found.cpu()
    return RowMaxima(there[0].tolist(), there[1].view(torch.float32).tolist())
