"""Layer skipping: the target drafts without some of its attentions and feed-forward parts."""

from __future__ import annotations

from collections.abc import Sequence

from specdec.checks import several, take, whole
from specdec.drafters.early_exit import MOST_LAYERS
from specdec.drafters.part_of_target import PartOfTargetDrafter
from specdec.errors import ConfigError
from specdec.models.base import CausalLM

LAYERS = several(
    whole(0, MOST_LAYERS), "layers that go without it, a list of numbers from 0 such as [3, 5]", most=MOST_LAYERS
).or_none(" for the default")


class LayerSkipDrafter(PartOfTargetDrafter):
    """Drafts with the target without some sublayers (Zhang et al. 2024, "Draft & Verify", arXiv 2309.08168).

    Which ones is best found by measuring: `specdec layers search`. The layers that run read what the whole target wrote
    of committed tokens; of drafted ones, what they have written themselves.

    Args:
        num_draft_tokens: γ, length of a branch.
        skip_attention: layers without attention. None, if `skip_mlp` is None too: every second one between the first
            and the last; else none.
        skip_mlp: layers without feed-forward part; None is none.
        branches, choices, stop, stop_below, dynamic: see `PartOfTargetDrafter`.
    """

    name = "layer_skip"

    def __init__(
        self,
        num_draft_tokens: int = 3,
        skip_attention: Sequence[int] | None = None,
        skip_mlp: Sequence[int] | None = None,
        branches: int = 1,
        choices: Sequence[Sequence[int]] | None = None,
        stop: str | None = None,
        stop_below: float | None = None,
        dynamic: bool = False,
    ) -> None:
        super().__init__(num_draft_tokens, branches, choices, stop, stop_below, dynamic)
        self.skip_attention: tuple[int, ...] | None = take("skip_attention", skip_attention, LAYERS)
        self.skip_mlp: tuple[int, ...] | None = take("skip_mlp", skip_mlp, LAYERS)

    def part(self, target: CausalLM) -> CausalLM:
        """Leaves the sublayers out."""
        attention, mlp = self.skip_attention or (), self.skip_mlp or ()
        if self.skip_attention is None and self.skip_mlp is None:
            attention = tuple(range(1, target.kv_layout.num_layers - 1, 2))
        if not attention and not mlp:
            raise ConfigError(
                f"The layer_skip drafter leaves out nothing of {target.name}, which has {target.kv_layout.num_layers} "
                "layers. Name some in skip_attention or skip_mlp."
            )
        return target.without(frozenset(attention), frozenset(mlp))
