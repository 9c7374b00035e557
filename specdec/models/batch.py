"""One pass over any mixture of prefill chunks, plain decoding and verification: the flat ragged batch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from specdec.kernels.attention import SequenceKeys
from specdec.kernels.attention.native import SequenceTable
from specdec.kernels.attention.plan import AttentionPlan
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
        total = self.first + len(self.tokens)
        if self.parents is None:
            return list(range(total))
        depths: list[int] = []
        for parent in self.parents[:total]:
            depths.append(0 if parent < 0 else depths[parent] + 1)
        return depths

    def visible(self) -> Tensor | None:
        """bool [rows run, committed + reserved rows]: each row's own path; None if every row sees everything."""
        run, total = len(self.tokens), self.first + len(self.tokens)
        if self.parents is None:
            if run == 1:
                return None
            ancestors = torch.ones(total, total, dtype=torch.bool).tril_()
        else:
            ancestors = torch.zeros(total, total, dtype=torch.bool)
            for row, parent in enumerate(self.parents[:total]):
                if parent >= 0:
                    ancestors[row] = ancestors[parent]
                ancestors[row, row] = True
        visible = torch.ones(run, self.committed + total, dtype=torch.bool)
        visible[:, self.committed :] = ancestors[self.first :]
        return visible


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
            tokens.extend(part.tokens)
            logit_rows.extend(start + row for row in part.logit_rows)
            positions.extend(part.committed + depth for depth in part.depths[part.first :])
            write_slots.append(part.slots[part.committed + part.first : end])
        tables = upload([tokens, positions, torch.cat(write_slots), logit_rows], torch.int64, device)
        token_ids, at, slots, wanted = tables
        return cls(token_ids, at, slots, wanted, parts)

    @cached_property
    def sequences(self) -> list[SequenceKeys]:
        """What each sequence's rows attend to, for the reference kernel: with dense masks."""
        device = self.token_ids.device
        sequences, start = [], 0
        for part in self.parts:
            run = len(part.tokens)
            reserved = torch.tensor(part.depths, dtype=torch.int64) + part.committed
            visible = part.visible()
            sequences.append(
                SequenceKeys(
                    rows=slice(start, start + run),
                    slots=part.slots[: part.committed + part.first + run].to(device),
                    positions=torch.cat([torch.arange(part.committed), reserved]).to(device),
                    query_positions=self.positions[start : start + run],
                    visible=None if visible is None else visible.to(device),
                )
            )
            start += run
        return sequences

    def plan(self, rows_per_tile: int) -> AttentionPlan:
        """The same for the Triton kernel, which follows paths that are laid out in full. Made once a pass."""
        if rows_per_tile not in self._plans:
            device = self.token_ids.device
            self._plans[rows_per_tile] = AttentionPlan.build(*self._columns(), rows_per_tile, device)
        return self._plans[rows_per_tile]

    @cached_property
    def _plans(self) -> dict[int, AttentionPlan]:
        return {}

    @cached_property
    def table(self) -> SequenceTable:
        """The same for the native kernel, which follows parents instead of masks."""
        return SequenceTable.build(*self._columns())

    def _columns(
        self,
    ) -> tuple[list[int], list[int], list[int], list[Tensor], list[Sequence[int] | None]]:
        """Of every sequence its rows, committed tokens, reserved rows that were run before, slots, and parents."""
        return (
            [len(part.tokens) for part in self.parts],
            [part.committed for part in self.parts],
            [part.first for part in self.parts],
            [part.slots[: part.committed + part.first + len(part.tokens)] for part in self.parts],
            [part.parents for part in self.parts],
        )
