"""What a pass sends to the GPU: tables of integers in one buffer, in one copy. Few different lengths occur."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn.functional import pad

from specdec.kernels.attention.plan import AttentionPlan, PlanLists
from specdec.kernels.device import Tables
from specdec.models.batch import RaggedBatch

INT32, INT64 = torch.int32, torch.int64


@dataclass(frozen=True, eq=False)
class PassInputs:
    """One pass, on the device.

    Args:
        tokens: int64 [rows].
        slots: int32 [rows], where keys and values go; -1 for a row that is only padding.
        logit_rows: int64 [logits], rows whose logits are wanted; None for all.
        plan: what the rows attend to; its positions are those of the rows.
        states: float32 [rows, width], what a model of pairs reads beside the tokens; None for other models.
    """

    tokens: Tensor
    slots: Tensor
    logit_rows: Tensor | None
    plan: AttentionPlan
    states: Tensor | None = None

    def wanted(self, rows: Tensor) -> Tensor:
        """Those of [rows, …] whose logits are wanted."""
        return rows if self.logit_rows is None else rows[self.logit_rows]


@dataclass(frozen=True, eq=False)
class PackedPass:
    """One pass on its way to the device.

    Args:
        tables: what `PassInputs` and its plan hold, in their order.
        everything: whether the logits of all rows are wanted, in their order.
        longest: see `AttentionPlan`.
        states: see `PassInputs`; on the device already.
    """

    tables: Tables
    everything: bool
    longest: int
    states: Tensor | None = None

    @classmethod
    def of(
        cls,
        batch: RaggedBatch,
        rows_per_tile: int,
        device: torch.device | str,
        split: int | None = None,
        states: Tensor | None = None,
    ) -> PackedPass:
        """The tables of a batch.

        Args:
            batch: the rows; its own tables are on the host.
            rows_per_tile: see `AttentionPlan.of`.
            device: where they go.
            split: lengths are rounded up to powers of two, so that few different ones occur, and the longest context to
                whole splits of so many keys of which there are a power of two; None rounds nothing. What is added does
                nothing: tiles of no rows, rows at position -1 without a slot, logits of row 0.
            states: see `PassInputs`.
        """
        lists = PlanLists.of(batch.columns, rows_per_tile)
        tiles, positions, path_starts, slots, paths = lists.tables
        tokens, wanted = batch.token_ids, batch.logit_rows
        everything = len(wanted) == len(tokens) and bool((wanted == torch.arange(len(wanted))).all())

        def up(table: Sequence[int] | Tensor, fill: int = 0, width: int = 1) -> npt.ArrayLike:
            if split is None:
                return table
            full = np.full(width * power_of_two(len(table) // width), fill)
            full[: len(table)] = table
            return full

        tables = Tables.of(
            [
                (up(tokens), INT64),
                (up(batch.write_slots, -1), INT32),
                (up([] if everything else wanted), INT64),
                (up(tiles, width=4), INT32),
                (up(positions, -1), INT32),
                (up(path_starts), INT32),
                (up(slots), INT32),
                (up(paths), INT32),
            ],
            device,
        )
        longest = lists.longest if split is None else whole_splits(lists.longest, split)
        if split is not None and states is not None:
            states = pad(states, (0, 0, 0, power_of_two(len(states)) - len(states)))
        return cls(tables, everything, longest, states)

    @property
    def shape(self) -> tuple[object, ...]:
        """All that a captured graph depends on: the tables' lengths, and the splits of the longest context."""
        return (*self.tables.lengths, self.everything, self.longest)

    @property
    def tensors(self) -> list[Tensor]:
        """All of them, in a fixed order."""
        return [self.tables.buffer] if self.states is None else [self.tables.buffer, self.states]

    def on(self, device: torch.device | str) -> PackedPass:
        """With tensors of its own there."""
        states = None if self.states is None else self.states.clone()
        return replace(self, tables=self.tables.on(device), states=states)

    @cached_property
    def inputs(self) -> PassInputs:
        """What the pass reads."""
        tokens, writes, wanted, tiles, positions, path_starts, slots, paths = self.tables.each
        plan = AttentionPlan(tiles.view(-1, 4), positions, path_starts, slots, paths, self.longest)
        return PassInputs(tokens, writes, None if self.everything else wanted, plan, self.states)


def power_of_two(number: int) -> int:
    """The smallest that is not below `number`; 1 for 0."""
    return 1 << max(0, number - 1).bit_length()


def whole_splits(longest: int, split: int) -> int:
    """The smallest power of two of splits that has so many positions, in positions."""
    return power_of_two(-(-longest // split)) * split
