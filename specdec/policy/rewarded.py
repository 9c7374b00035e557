"""What policies share that learn from rewards: what every step is worth is kept beside what they do."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from specdec.models.base import CausalLM
from specdec.policy.base import Ask, Choice, Load
from specdec.policy.curve import CostCurve
from specdec.policy.product import ProductPolicy
from specdec.policy.reward import DEFAULT_CEILING, RelativeSpeed


class RewardedPolicy(ProductPolicy):
    """Follows the time of every step, so that `_reward` tells what its tokens are worth.

    Args:
        curve: as in `ProductPolicy`.
        ceiling: speed that counts as 1, in multiples of plain decoding's (`RelativeSpeed`).

    Raises:
        ConfigError: if an option is none.
    """

    def __init__(
        self,
        curve: CostCurve | Callable[[CausalLM], CostCurve] | None = None,
        ceiling: float = DEFAULT_CEILING,
    ) -> None:
        super().__init__(curve)
        self._reward = RelativeSpeed(ceiling)

    def choose(self, asks: Sequence[Ask], load: Load) -> list[list[Choice]]:
        """See `Policy.choose`."""
        self._reward.begin(self._plain(load))
        return super().choose(asks, load)

    def drafted(self, drafter: str, requests: int, levels: int, seconds: float) -> None:
        """See `Policy.drafted`."""
        super().drafted(drafter, requests, levels, seconds)
        self._reward.drafted(seconds)

    def timed(self, load: Load, seconds: float) -> None:
        """See `Policy.timed`."""
        super().timed(load, seconds)
        self._reward.passed(seconds)
