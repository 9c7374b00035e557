"""Paged attention in plain torch: the truth that every faster kernel is compared with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from specdec.kernels.attention.columns import SequenceColumns, depths


@dataclass(frozen=True, eq=False)
class SequenceKeys:
    """What the rows of one sequence may attend to.

    Args:
        rows: the sequence's rows within the flat batch.
        slots: int64 [n], cache slot of each key, in storage order.
        positions: int64 [n], logical position of each key.
        query_positions: int64 [rows], logical position of each query.
        visible: bool [rows, n], which keys lie on a query's own path (itself included), or None if all do.
    """

    rows: slice
    slots: Tensor
    positions: Tensor
    query_positions: Tensor
    visible: Tensor | None


def sequence_keys(columns: SequenceColumns, device: torch.device | str = "cpu") -> list[SequenceKeys]:
    """Of every sequence what its rows attend to, with dense masks, on `device`."""
    sequences, start = [], 0
    for rows, committed, first, slots, parents in zip(
        columns.rows, columns.committed, columns.first, columns.slots, columns.parents, strict=True
    ):
        reserved = torch.tensor(depths(parents, first + rows), dtype=torch.int64) + committed
        visible = _visible(rows, committed, first, parents)
        sequences.append(
            SequenceKeys(
                rows=slice(start, start + rows),
                slots=slots.to(device),
                positions=torch.cat([torch.arange(committed), reserved]).to(device),
                query_positions=reserved[first:].to(device),
                visible=None if visible is None else visible.to(device),
            )
        )
        start += rows
    return sequences


def _visible(rows: int, committed: int, first: int, parents: Sequence[int] | None) -> Tensor | None:
    """bool [rows, committed + reserved rows]: each row's own path; None if every row sees everything."""
    total = first + rows
    if parents is None:
        if rows == 1:
            return None
        ancestors = torch.ones(total, total, dtype=torch.bool).tril_()
    else:
        ancestors = torch.zeros(total, total, dtype=torch.bool)
        for row, parent in enumerate(parents[:total]):
            if parent >= 0:
                ancestors[row] = ancestors[parent]
            ancestors[row, row] = True
    visible = torch.ones(rows, committed + total, dtype=torch.bool)
    visible[:, committed:] = ancestors[first:]
    return visible


def paged_attention(
    query: Tensor,
    keys: Tensor,
    values: Tensor,
    sequences: Sequence[SequenceKeys],
    scale: float,
    window: int | None = None,
    softcap: float | None = None,
) -> Tensor:
    """softmax(scale · q kᵀ) v over each query's own path, through the cache's slots.

    Args:
        query: [T, query heads, head size], the flat ragged batch.
        keys, values: [slots, KV heads, head size], one layer of the cache. Query head h reads KV head
            h // (query heads / KV heads).
        sequences: one per sequence; together their rows cover the batch.
        scale: factor on the dot products.
        window: a query at position i sees keys at positions j with i - j < window (Mistral); None sees all.
        softcap: c · tanh(s / c) on the scaled scores (Gemma 2); None leaves them.

    Returns:
        [T, query heads, head size] in the query's dtype; the softmax runs in float32.
    """
    out = torch.empty_like(query)
    num_kv_heads, head_size = keys.shape[1:]
    for sequence in sequences:
        q = query[sequence.rows]
        num_rows = q.shape[0]
        # [KV heads, group · rows, head size]: the queries that share a KV head meet its keys in one product.
        q = q.reshape(num_rows, num_kv_heads, -1, head_size).permute(1, 2, 0, 3)
        group = q.shape[1]
        k = keys.index_select(0, sequence.slots).permute(1, 2, 0)
        v = values.index_select(0, sequence.slots).transpose(0, 1)
        scores = torch.matmul(q.reshape(num_kv_heads, group * num_rows, head_size), k).float().mul_(scale)
        if softcap is not None:
            scores = torch.tanh(scores / softcap).mul_(softcap)
        hidden = _hidden(sequence, window)
        if hidden is not None:
            scores = scores.view(num_kv_heads, group, num_rows, -1).masked_fill_(hidden, float("-inf"))
            scores = scores.view(num_kv_heads, group * num_rows, -1)
        attended = torch.matmul(scores.softmax(-1).to(v.dtype), v)
        attended = attended.view(num_kv_heads, group, num_rows, head_size).permute(2, 0, 1, 3)
        out[sequence.rows] = attended.reshape(num_rows, -1, head_size)
    return out


def _hidden(sequence: SequenceKeys, window: int | None) -> Tensor | None:
    """bool [rows, n] of the keys that a query must not see, or None if it sees all."""
    hidden = None if sequence.visible is None else ~sequence.visible
    if window is not None and len(sequence.slots) > window:
        outside = sequence.query_positions[:, None] - sequence.positions[None, :] >= window
        hidden = outside if hidden is None else hidden | outside
    return hidden
