"""One pass over any mixture of prefill chunks, plain decoding and verification: the flat ragged batch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from specdec.kernels.attention.columns import SequenceColumns, depths
from specdec.kernels.device import upload


@dataclass(frozen=True, eq=False)
class SequenceRows:
    """One sequence's part of a pass.

    The cache holds `committed` tokens of the sequence, and after them reserved slots. The reserved rows form a tree
    given by `parents`: a chain of tokens not yet cached, a draft tree below it, or both. The pass runs the reserved
    rows from `first` on; rows before `first` were run earlier in the same step and are only attended to.

    Args:
        tokens: token id of each row that is run.
        slots: int64 [committed + rows], cache slot of every token in storage order, on the host.
        committed: number of tokens that the cache holds for good.
        parents: for each reserved row the reserved row it follows, -1 for the last committed token; None for a chain.
        first: number of reserved rows that have been run already.
        logit_rows: which of the rows that are run need logits, counted from `first`.
    """

    tokens: Sequence[int]
    slots: Tensor
    committed: int
    parents: Sequence[int] | None = None
    first: int = 0
    logit_rows: Sequence[int] = ()

    @cached_property
    def depths(self) -> list[int]:
        """Logical position, relative to `committed`, of every reserved row up to the last one that is run."""
        return depths(self.parents, self.first + len(self.tokens))


@dataclass(frozen=True, eq=False)
class RaggedBatch:
    """One pass over any mixture of prefill chunks, plain decoding and verification.

    Args:
        token_ids: int64 [T].
        positions: int64 [T], logical position of each row (a tree node's depth, not its place in the batch).
        write_slots: int64 [T], cache slot that receives each row's key and value.
        logit_rows: int64 [R], rows of the flat batch whose logits are wanted, in order.
        parts: the sequences' rows, one after the other.
    """

    token_ids: Tensor
    positions: Tensor
    write_slots: Tensor
    logit_rows: Tensor
    parts: Sequence[SequenceRows]

    @classmethod
    def build(cls, parts: Sequence[SequenceRows], device: torch.device | str = "cpu") -> RaggedBatch:
        """Packs the sequences' rows one after the other."""
        tokens: list[int] = []
        logit_rows: list[int] = []
        positions: list[int] = []
        write_slots: list[Tensor] = []
        for part in parts:
            start, end = len(tokens), part.committed + part.first + len(part.tokens)
            tokens += part.tokens
            logit_rows += [start + row for row in part.logit_rows]
            positions += [part.committed + depth for depth in part.depths[part.first :]]
            write_slots.append(part.slots[part.committed + part.first : end])
        tables = upload([tokens, positions, torch.cat(write_slots), logit_rows], torch.int64, device)
        token_ids, at, slots, wanted = tables
        return cls(token_ids, at, slots, wanted, parts)

    def on(self, device: torch.device | str) -> RaggedBatch:
        """The same on a device."""
        if self.token_ids.device == torch.device(device):
            return self
        tables = [self.token_ids, self.positions, self.write_slots, self.logit_rows]
        token_ids, positions, slots, wanted = upload(tables, torch.int64, device)
        return RaggedBatch(token_ids, positions, slots, wanted, self.parts)

    @cached_property
    def columns(self) -> SequenceColumns:
        """What the rows attend to, for the tables of whichever attention kernel runs."""
        return SequenceColumns(
            rows=[len(part.tokens) for part in self.parts],
            committed=[part.committed for part in self.parts],
            first=[part.first for part in self.parts],
            slots=[part.slots[: part.committed + part.first + len(part.tokens)] for part in self.parts],
            parents=[part.parents for part in self.parts],
        )
