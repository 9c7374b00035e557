"""Early exit: the target's first layers draft."""

from __future__ import annotations

from collections.abc import Sequence

from specdec.checks import take, whole
from specdec.drafters.part_of_target import PartOfTargetDrafter
from specdec.models.base import CausalLM

MOST_LAYERS = 10_000
"""More than any model has; `bind` knows how many the target has."""


class EarlyExitDrafter(PartOfTargetDrafter):
    """Drafts with the target's first k layers, then its final norm and head (Elhoushi et al. 2024, LayerSkip).

    Args:
        num_draft_tokens: γ, length of a branch.
        num_layers: k; None takes a third of the target's layers.
        branches, choices, stop, stop_below, dynamic: see `PartOfTargetDrafter`.
    """

    name = "early_exit"

    def __init__(
        self,
        num_draft_tokens: int = 3,
        num_layers: int | None = None,
        branches: int = 1,
        choices: Sequence[Sequence[int]] | None = None,
        stop: str | None = None,
        stop_below: float | None = None,
        dynamic: bool = False,
    ) -> None:
        super().__init__(num_draft_tokens, branches, choices, stop, stop_below, dynamic)
        self.num_layers = take("num_layers", num_layers, whole(1, MOST_LAYERS).or_none(" for a third of the target's"))

    def part(self, target: CausalLM) -> CausalLM:
        """Cuts the target after `num_layers` layers."""
        total = target.kv_layout.num_layers
        return target.truncated(max(1, total // 3) if self.num_layers is None else self.num_layers)
