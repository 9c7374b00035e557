"""What a decision needs to know of a row of scores: its largest, and its argmax under Gumbel noise.

Native where the kernels are there and the row is on the CPU, plain torch otherwise. Each looks at one row alone, in a
fixed order where that matters, so the rows beside it cannot change its bits; and none wakes torch's threads.
"""

from __future__ import annotations

from collections.abc import Sequence
from ctypes import byref, c_float, c_int64
from itertools import accumulate, pairwise
from typing import NamedTuple

import torch
from torch import Tensor

from specdec.kernels.cpu import library as native
from specdec.kernels.cpu.threads import num_threads
from specdec.kernels.rows import reference
from specdec.randomness import RandomSource, Stream


class RowMaxima(NamedTuple):
    """Of every row its first largest value.

    Args:
        tokens: where it is. Means nothing where the value is -inf.
        values: what it is; a NaN counts as the largest.
    """

    tokens: Sequence[int]
    values: Sequence[float]

    @classmethod
    def of(cls, rows: Tensor) -> RowMaxima:
        """Of rows that exist, float [R, V]."""
        found = [argmax(row) for row in rows]
        return cls([token for token, _ in found], [value for _, value in found])

    def split(self, counts: Sequence[int]) -> list[RowMaxima]:
        """The first `counts[0]` rows, the next `counts[1]`, and so on."""
        ends = list(accumulate(counts, initial=0))
        return [RowMaxima(self.tokens[a:b], self.values[a:b]) for a, b in pairwise(ends)]


def argmax(row: Tensor) -> tuple[int, float]:
    """First place of the largest value of a row, float [V], and that value; a NaN counts as the largest."""
    kernels = _kernels(row)
    if kernels is None:
        return reference.argmax(row)
    row, largest, at = row.contiguous(), c_float(), c_int64()
    kernels.argmax(native.address(row, torch.float32), row.numel(), byref(largest), byref(at))
    return at.value, largest.value


def largest(rows: Tensor, count: int) -> Tensor:
    """Ids of the `count` largest of each row: largest first, of equals the lowest id first. A NaN is the largest.

    Args:
        rows: float [R, V].
        count: at least 1.

    Returns:
        int32 [R, min(count, V)], on the CPU.
    """
    count = min(count, rows.shape[1])
    if rows.device.type != "cpu":
        return reference.largest(rows, count).cpu()
    found = torch.empty(len(rows), count, dtype=torch.int32)
    for row, ids, least in zip(rows, found, rows.topk(count).values[:, -1], strict=True):
        candidates = (~(row < least)).nonzero()[:, 0]  # in the order of their ids; the least may have equals
        ids[:] = candidates[row[candidates].sort(descending=True, stable=True).indices[:count]]
    return found


def gumbel_argmax(row: Tensor, random: RandomSource, position: int) -> int:
    """argmax of row + `random.gumbel(position, V)`, float [V], without working out noise for tokens that cannot win."""
    kernels = _kernels(row)
    if kernels is None or not isinstance(random, RandomSource):  # tests stand in for the source of noise
        return reference.gumbel_argmax(row, random, position)
    row, at = row.contiguous(), c_int64()
    where, stream = native.address(row, torch.float32), int(Stream.GUMBEL)
    kernels.gumbel_argmax(where, row.numel(), random.seed, position, stream, byref(at), num_threads())
    return at.value


def gumbel_noise(random: RandomSource, position: int, size: int, ids: Tensor | None = None) -> Tensor:
    """`random.gumbel(position, V)` of some tokens, to about 1e-6: enough to rank drafts by, not to emit by.

    Args:
        random: whose.
        position: of the tokens.
        size: how many.
        ids: int64 [size], which they are; None: 0 .. size - 1.

    Returns:
        float32 [size], on the CPU.
    """
    kernels = native.library()
    if kernels is None or not isinstance(random, RandomSource):
        return reference.gumbel_noise(random, position, size, ids)
    noise, stream = torch.empty(size), int(Stream.GUMBEL)
    ids = None if ids is None else ids.cpu().contiguous()
    which = native.address(ids, torch.int64, (size,))
    kernels.gumbel_noise(which, size, random.seed, position, stream, noise.data_ptr())
    return noise


def forbid(rows: Tensor, allowed: Tensor) -> None:
    """Takes all mass, in place, from the tokens of float32 [R, V] that bool [R, V] does not allow: -inf."""
    kernels = _kernels(rows)
    if kernels is None or not rows.is_contiguous():
        reference.forbid(rows, allowed)
        return
    mask = native.address(allowed.contiguous(), torch.bool, rows.shape)
    kernels.forbid(native.address(rows, torch.float32), mask, rows.numel())


def log_sums_exp(rows: Tensor) -> Tensor:
    """log Σ e^x of each row, float [R, V] → float32 [R]. NaN if one is NaN, else infinite if the largest is."""
    kernels = _kernels(rows)
    if kernels is None or not rows.shape[1]:
        return reference.log_sums_exp(rows)
    rows = rows.contiguous()
    out = torch.empty(len(rows))
    kernels.log_sums_exp(rows.data_ptr(), *rows.shape, out.data_ptr(), num_threads())
    return out


def divided(rows: Tensor, by: float) -> Tensor:
    """rows / by, float [R, V]."""
    kernels = _kernels(rows)
    if kernels is None:
        return rows / by
    rows = rows.contiguous()
    out = torch.empty_like(rows)
    kernels.divide(rows.data_ptr(), rows.numel(), by, out.data_ptr(), num_threads())
    return out


def _kernels(row: Tensor) -> native.Library | None:
    return native.library() if row.device.type == "cpu" and row.dtype == torch.float32 else None
