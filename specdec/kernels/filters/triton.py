"""Temperature, top-k, top-p and min-p on the GPU, without sorting the vocabulary."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

BLOCK = 2048


@triton.jit
def _ordered(x):
    """float32 as integers of the same order."""
    bits = x.to(tl.int32, bitcast=True)
    return (bits ^ ((bits >> 31) & 0x7FFFFFFF)).to(tl.int64)


@triton.jit
def _block(row, start, V, temperature, BLOCK: tl.constexpr):
    """Tokens from `start` on, and their scores; -inf beyond the vocabulary."""
    token = start + tl.arange(0, BLOCK)
    logit = tl.load(row + token, mask=token < V, other=-float("inf")).to(tl.float32)
    return token, tl.div_rn(logit, temperature)  # rounded as on the host: Triton's own `/` may be an ulp off


@triton.jit
def filter_kernel(logits, out, temperatures, top_ks, top_ps, min_ps, row_stride, V, BLOCK: tl.constexpr):
    """One row's scores after temperature, top-k, top-p and min-p, without sorting it.

    The k-th largest score, and the smallest that the nucleus keeps, are found by halving the range of all floats 33
    times; every halving is a walk over the row, which lies in the cache.
    """
    row = tl.program_id(0)
    temperature, k = tl.load(temperatures + row), tl.load(top_ks + row)
    top_p, min_p = tl.load(top_ps + row).to(tl.float64), tl.load(min_ps + row)
    base = logits + row.to(tl.int64) * row_stride
    top = tl.full([], -float("inf"), tl.float32)
    for start in range(0, V, BLOCK):
        token, score = _block(base, start, V, temperature, BLOCK)
        top = tl.maximum(top, tl.max(score, 0))
    lowest, highest = tl.full([], -2147483648, tl.int64), tl.full([], 2147483647, tl.int64)
    low_k, high_k = lowest, highest  # the k-th largest lies in [low, high]
    if (k > 0) & (k < V):
        for _ in range(32):
            middle = low_k + (high_k - low_k + 1) // 2
            count = tl.zeros([], tl.int32)
            for start in range(0, V, BLOCK):
                token, score = _block(base, start, V, temperature, BLOCK)
                count += tl.sum(((_ordered(score) >= middle) & (token < V)).to(tl.int32), 0)
            low_k, high_k = tl.where(count >= k, middle, low_k), tl.where(count >= k, high_k, middle - 1)
    total = tl.zeros([], tl.float64)
    for start in range(0, V, BLOCK):
        token, score = _block(base, start, V, temperature, BLOCK)
        total += tl.sum(tl.where(_ordered(score) >= low_k, tl.exp((score - top).to(tl.float64)), 0.0), 0)
    low_p, high_p = low_k, tl.maximum(_ordered(top), low_k)
    ties, above = tl.full([], 2147483647, tl.int32), tl.zeros([], tl.float64)
    if top_p < 1.0:
        for _ in range(33):
            middle = low_p + (high_p - low_p + 1) // 2
            mass = tl.zeros([], tl.float64)
            for start in range(0, V, BLOCK):
                token, score = _block(base, start, V, temperature, BLOCK)
                mass += tl.sum(tl.where(_ordered(score) >= middle, tl.exp((score - top).to(tl.float64)), 0.0), 0)
            low_p = tl.where(mass >= top_p * total, middle, low_p)
            high_p = tl.where(mass >= top_p * total, high_p, middle - 1)
        equal = tl.zeros([], tl.float64)
        for start in range(0, V, BLOCK):
            token, score = _block(base, start, V, temperature, BLOCK)
            order, weight = _ordered(score), tl.exp((score - top).to(tl.float64))
            above += tl.sum(tl.where(order > low_p, weight, 0.0), 0)
            equal = tl.maximum(equal, tl.max(tl.where(order == low_p, weight, 0.0), 0))
        # Of tied scores as many as are needed, lower tokens first.
        ties = tl.ceil((top_p * total - above) / tl.where(equal > 0, equal, 1.0)).to(tl.int32)
    seen = tl.zeros([], tl.int32)
    floor = tl.where(min_p > 0, top + tl.log(tl.where(min_p > 0, min_p, 1.0)), -float("inf"))
    for start in range(0, V, BLOCK):
        token, score = _block(base, start, V, temperature, BLOCK)
        order = _ordered(score)
        tied = ((order == low_p) & (token < V)).to(tl.int32)
        kept = (order > low_p) | ((tied == 1) & (seen + tl.cumsum(tied, 0) <= ties))
        seen += tl.sum(tied, 0)
        score = tl.where(kept & (score >= floor), score, -float("inf"))
        tl.store(out + row.to(tl.int64) * V + token, score, mask=token < V)


def filtered(
    logits: Tensor,
    temperatures: Sequence[float],
    top_ks: Sequence[int] | None = None,
    top_ps: Sequence[float] | None = None,
    min_ps: Sequence[float] | None = None,
    block: int = BLOCK,
) -> Tensor:
    """Scores, float32 [R, V], of logits [R, V] under each row's settings. See `specdec.kernels.filters.reference`."""
    rows, V = logits.shape
    out = torch.empty(rows, V, device=logits.device)

    def each(values: Sequence[float] | None, default: float, dtype: torch.dtype) -> Tensor:
        return torch.tensor([default] * rows if values is None else list(values), dtype=dtype).to(logits.device)

    if rows:
        filter_kernel[(rows,)](
            logits, out, each(temperatures, 1.0, torch.float32), each(top_ks, 0, torch.int32),
            each(top_ps, 1.0, torch.float64), each(min_ps, 0.0, torch.float32), logits.stride(0), V, BLOCK=block,
        )  # fmt: skip
    return out
