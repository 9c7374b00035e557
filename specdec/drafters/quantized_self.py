"""Self-speculation by rounding: the target's 4-bit form drafts."""

from __future__ import annotations

from collections.abc import Sequence

from specdec.drafters.part_of_target import PartOfTargetDrafter
from specdec.models.base import CausalLM
from specdec.models.fourbits import in_four_bits


class QuantizedSelfDrafter(PartOfTargetDrafter):
    """Drafts with the target's own weights in four bits.

    Sources: QSpec (Zhao et al. 2024, arXiv 2410.11305): drafts in low precision over the cache of the full precision,
    which overwrites what was drafted; ML-SpecQD (arXiv 2503.13565): 4-bit drafts of a 16-bit target on a CPU.

    Args:
        num_draft_tokens: γ, length of a branch.
        branches, choices, stop, stop_below, dynamic: see `PartOfTargetDrafter`.
    """

    name = "quantized_self"

    def __init__(
        self,
        num_draft_tokens: int = 6,
        branches: int = 1,
        choices: Sequence[Sequence[int]] | None = None,
        stop: str | None = None,
        stop_below: float | None = None,
        dynamic: bool = False,
    ) -> None:
        super().__init__(num_draft_tokens, branches, choices, stop, stop_below, dynamic)

    def part(self, target: CausalLM) -> CausalLM:
        """Rounds the weights."""
        return in_four_bits(target)
