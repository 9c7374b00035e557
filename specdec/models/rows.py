"""Rows as the native pass takes them: what `RaggedBatch` and its tables say, with less work around the call.

A pass of a drafting model takes a millisecond or less, of which the general tables would be a quarter.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from itertools import accumulate

import torch
from torch import Tensor

from specdec.kernels.cpu import interface
from specdec.kernels.cpu import library as native
from specdec.models.batch import SequenceRows


class PassRows:
    """A batch for the C interface.

    Args:
        parts: rows of each sequence.
        states: float32 [T, H], of a head that reads them beside its tokens; None for other models.
        next_states: float32 [R, H], to be written: those behind the rows with logits.
        chances: float32 [R, kept], to be written: the softmax at the largest logits of each row.
        kept: how many of those are told.
        room: slots of each sequence beyond its rows that are given along; none if it is left out.
    """

    def __init__(
        self,
        parts: Sequence[SequenceRows],
        states: Tensor | None = None,
        next_states: Tensor | None = None,
        chances: Tensor | None = None,
        kept: int = 1,
        room: Sequence[int] | None = None,
    ) -> None:
        counts = [len(part.tokens) for part in parts]
        ends = [part.committed + part.first + count for part, count in zip(parts, counts, strict=True)]
        starts = [0, *accumulate(counts)]
        held = [part.slots[: end + more] for part, end, more in zip(parts, ends, room or [0] * len(ends), strict=True)]
        links = [part.parents or () for part in parts]
        columns = (
            [token for part in parts for token in part.tokens],
            [part.committed + depth for part in parts for depth in part.depths[part.first :]],
            [start + row for start, part in zip(starts, parts, strict=False) for row in part.logit_rows],
            starts,
            [part.committed for part in parts],
            [part.first for part in parts],
            [0, *accumulate(map(len, held))],
            [0, *accumulate(map(len, links))],
        )
        numbers, places = native.packed(columns)
        tokens, positions, wanted, rows, committed, first, borders, families = places
        slots = joined(held)
        writes = joined([own[end - count : end] for own, end, count in zip(held, ends, counts, strict=True)])
        parents = array("i", [parent for own in links for parent in own])
        sequences = interface.Sequences(
            len(parts), rows, committed, first, borders, native.address(slots, torch.int64), families,
            parents.buffer_info()[0],
        )  # fmt: skip
        self.num_logits = len(columns[2])
        self.struct = interface.Batch(
            starts[-1], self.num_logits, 0, kept, tokens, positions, native.address(writes, torch.int64), wanted, None,
            None, sequences, native.address(states, torch.float32), native.address(next_states, torch.float32),
            native.address(chances, torch.float32),
        )  # fmt: skip
        self._alive = numbers, slots, writes, parents, states, next_states, chances


def joined(parts: Sequence[Tensor]) -> Tensor:
    """One after the other; a single one is not copied."""
    return parts[0] if len(parts) == 1 else torch.cat(list(parts))
