"""What a pass sends to the GPU: a few integer tensors, whose shapes are rounded up so that few different ones occur."""

from __future__ import annotations

from dataclasses import dataclass, replace

from torch import Tensor
from torch.nn.functional import pad

from specdec.kernels.attention.plan import AttentionPlan
from specdec.models.batch import RaggedBatch


@dataclass(frozen=True, eq=False)
class PassInputs:
    """One pass, on the device.

    Args:
        tokens: int64 [rows].
        slots: int32 [rows], where keys and values go; -1 for a row that is only padding.
        logit_rows: int64 [logits], rows whose logits are wanted.
        plan: what the rows attend to; its positions are those of the rows.
        states: float32 [rows, width], what a model of pairs reads beside the tokens; None for other models.
    """

    tokens: Tensor
    slots: Tensor
    logit_rows: Tensor
    plan: AttentionPlan
    states: Tensor | None = None

    @classmethod
    def of(cls, batch: RaggedBatch, rows_per_tile: int) -> PassInputs:
        """From a batch on the same device."""
        plan = AttentionPlan.of(batch.columns, rows_per_tile, batch.token_ids.device)
        return cls(batch.token_ids, batch.write_slots.int(), batch.logit_rows, plan)

    @property
    def tensors(self) -> list[Tensor]:
        """All of them, in a fixed order."""
        plan, states = self.plan, () if self.states is None else (self.states,)
        return [self.tokens, self.slots, self.logit_rows, plan.tiles, plan.positions, plan.path_starts, plan.slots,
                plan.paths, *states]  # fmt: skip

    @property
    def shape(self) -> tuple[int, ...]:
        """All that a captured graph depends on: the tensors' lengths, and the splits of the longest context."""
        return (*(len(tensor) for tensor in self.tensors), self.plan.longest)

    def padded(self, split: int) -> PassInputs:
        """Lengths rounded up to powers of two, the longest context to whole splits of which there are a power of two.

        What is added does nothing: tiles of no rows, rows at position -1 without a slot, logits of row 0.
        """
        plan = self.plan

        def up(tensor: Tensor, value: int = 0) -> Tensor:
            more = power_of_two(len(tensor)) - len(tensor)
            return pad(tensor, (*(0, 0) * (tensor.dim() - 1), 0, more), value=value)

        return PassInputs(
            tokens=up(self.tokens),
            slots=up(self.slots, -1),
            logit_rows=up(self.logit_rows),
            plan=replace(
                plan,
                tiles=up(plan.tiles),
                positions=up(plan.positions, -1),
                path_starts=up(plan.path_starts),
                slots=up(plan.slots),
                paths=up(plan.paths),
                longest=whole_splits(plan.longest, split),
            ),
            states=None if self.states is None else up(self.states),
        )

    def clone(self) -> PassInputs:
        """With tensors of its own."""
        tokens, slots, logit_rows, tiles, positions, starts, held, paths, *states = (t.clone() for t in self.tensors)
        plan = AttentionPlan(tiles, positions, starts, held, paths, self.plan.longest)
        return PassInputs(tokens, slots, logit_rows, plan, *states)


def power_of_two(number: int) -> int:
    """The smallest that is not below `number`; 1 for 0."""
    return 1 << max(0, number - 1).bit_length()


def whole_splits(longest: int, split: int) -> int:
    """The smallest power of two of splits that has so many positions, in positions."""
    return power_of_two(-(-longest // split)) * split
