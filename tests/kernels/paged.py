"""Ragged batches over a scattered cache, and a dense float64 oracle that shares no code with the kernels."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from specdec.kernels.attention import SequenceColumns, SequenceKeys

TREE_PARENTS = [-1, 0, 0, 2, 2, 4, 4]
TREE_TABLE = [
    "1......",
    "11.....",
    "1.1....",
    "1.11...",
    "1.1.1..",
    "1.1.11.",
    "1.1.1.1",
]
"""Written by hand: which of the seven nodes (columns) lie on the path to each node (rows)."""
UNIT = {torch.float32: 2.0**-24, torch.float16: 2.0**-11, torch.bfloat16: 2.0**-8}
"""Unit roundoff: half the spacing of numbers just above one."""


@dataclass(frozen=True)
class Piece:
    """One sequence of a case: `committed` keys, and below them a tree of rows (a chain if `parents` is None)."""

    committed: int
    rows: int
    parents: Sequence[int] | None = None

    def path(self, row: int) -> list[int]:
        """Reserved rows from the root down to `row`."""
        parent = row - 1 if self.parents is None else self.parents[row]
        return [*(self.path(parent) if parent >= 0 else []), row]

    def position(self, row: int) -> int:
        return self.committed + len(self.path(row)) - 1


@dataclass(frozen=True)
class Case:
    """A ragged batch with its cache. `sees[t]` lists, for flat row t, (slot, distance) of all keys on its path."""

    query: Tensor
    keys: Tensor
    values: Tensor
    sequences: list[SequenceKeys]
    sees: list[list[tuple[int, int]]]
    pieces: Sequence[Piece]


def columns(case: Case) -> SequenceColumns:
    """The case as the kernels' tables are made from it."""
    return SequenceColumns(
        rows=[piece.rows for piece in case.pieces],
        committed=[piece.committed for piece in case.pieces],
        first=[0] * len(case.pieces),
        slots=[sequence.slots for sequence in case.sequences],
        parents=[piece.parents for piece in case.pieces],
    )


def make_case(
    pieces: Sequence[Piece],
    *,
    seed: int = 0,
    query_heads: int = 4,
    kv_heads: int = 2,
    head_size: int = 8,
    dtype: torch.dtype = torch.float32,
) -> Case:
    """Random numbers in shuffled slots. Every slot that no sequence uses holds NaN."""
    generator = torch.Generator().manual_seed(seed)
    total_keys = sum(piece.committed + piece.rows for piece in pieces)
    slots = list(range(2 * total_keys + 3))
    random.Random(seed).shuffle(slots)
    keys, values = (torch.full((len(slots), kv_heads, head_size), math.nan, dtype=dtype) for _ in range(2))
    for tensor in (keys, values):
        tensor[slots[:total_keys]] = torch.randn(total_keys, kv_heads, head_size, generator=generator).to(dtype)
    num_rows = sum(piece.rows for piece in pieces)
    query = torch.randn(num_rows, query_heads, head_size, generator=generator).to(dtype)

    sequences: list[SequenceKeys] = []
    sees: list[list[tuple[int, int]]] = []
    for piece in pieces:
        n = piece.committed + piece.rows
        own, slots = slots[:n], slots[n:]
        positions = [*range(piece.committed), *(piece.position(row) for row in range(piece.rows))]
        visible = torch.zeros(piece.rows, n, dtype=torch.bool)
        for row in range(piece.rows):
            path = [*range(piece.committed), *(piece.committed + node for node in piece.path(row))]
            visible[row, path] = True
            sees.append([(own[key], piece.position(row) - positions[key]) for key in path])
        start = len(sees) - piece.rows
        sequences.append(
            SequenceKeys(
                rows=slice(start, len(sees)),
                slots=torch.tensor(own),
                positions=torch.tensor(positions),
                query_positions=torch.tensor(positions[piece.committed :]),
                visible=None if visible.all() else visible,
            )
        )
    return Case(query, keys, values, sequences, sees, pieces)


def oracle(
    case: Case,
    scale: float,
    window: int | None = None,
    softcap: float | None = None,
    online: bool = False,
    rounding: float = 0.0,
) -> tuple[Tensor, Tensor]:
    """Attention by the book, one row and one head at a time, in float64, and how far off each result may be.

    The bound, with u the unit roundoff of the storage type and u32 that of float32: a product of D terms, summed in
    float32 in any order and rounded to the storage type, is off by at most D·u32·Σ|qk| + u·|qk|; scale and cap (whose
    slope is at most one) add a few float32 roundings of it and of the cap. If every score is off by at most δ, each
    weight is off by a factor of at most exp(2δ). Rounding weights and result to the storage type costs u each, and
    exponentials, their sum and the weighted sum over n keys 2n + 10 roundings in float32.

    An online softmax that shrinks its sums after every 16 keys adds an exponential (within 2 ulp, that is 4 roundings)
    and a product a time; its exponentials, and those in its cap, are within 2 ulp where the book's are exact.

    `rounding` is the unit roundoff of the type that a kernel rounds queries and weights to before it multiplies them,
    if it does: that costs so much of Σ|qk|, and of every weight.
    """
    query, keys, values = (t.double() for t in (case.query, case.keys, case.values))
    small, unit = UNIT[torch.float32], UNIT[case.query.dtype]
    out = torch.empty(query.shape, dtype=torch.float64)
    bound = torch.empty((*query.shape[:2], 1), dtype=torch.float64)
    group = query.shape[1] // keys.shape[1]
    for row, sees in enumerate(case.sees):
        reach = [slot for slot, distance in sees if window is None or distance < window]
        extra = 5 * (len(reach) // 16 + 3) if online else 0
        for head in range(query.shape[1]):
            products = scale * query[row, head] * keys[reach, head // group]
            scores, sizes = products.sum(-1), products.abs().sum(-1)
            if softcap is not None:
                scores = softcap * torch.tanh(scores / softcap)
            error = ((products.shape[1] + 3) * small + rounding) * sizes + unit * scores.abs()
            shift = float(error.max()) + (12 if online else 6) * small * (softcap or 0)
            weights = (scores - scores.max()).exp()
            read = values[reach, head // group]
            out[row, head] = weights @ read / weights.sum()
            roundings = math.expm1(2 * shift) + 2 * unit + rounding + (2 * len(reach) + 10 + extra) * small
            bound[row, head] = float(read.abs().max()) * roundings
    return out, bound


MIXED = [
    Piece(0, 5),
    Piece(9, 1),
    Piece(6, 4),
    Piece(11, 7, TREE_PARENTS),
    Piece(0, 1),
    Piece(3, 5, [-1, 0, 1, 1, -1]),
    Piece(17, 3),
]
"""Prefill, decoding, a chain, trees, a first token, and a later chunk: lengths 1 to 20 in one batch."""
