"""Which drafter, learnt from the speed of the steps in which it drafted alone: BanditSpec (Hou et al. 2025).

An arm is a drafter, or nobody. How much of a draft is verified is not the bandit's affair: that is built by cost, as
`ProductPolicy` does.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence
from random import Random
from typing import NamedTuple

from specdec.checks import flag, take, whole
from specdec.models.base import CausalLM
from specdec.policy.base import Ask, Choice, Draft, Load
from specdec.policy.curve import CostCurve
from specdec.policy.learners import Arm, Exp3, Ucb1
from specdec.policy.reward import DEFAULT_CEILING
from specdec.policy.rewarded import RewardedPolicy

NOBODY: Arm = "none"
"""The arm of plain decoding, which every request has."""
ALL = -1
"""The learner of all requests together; those of single ones have their numbers."""
SEED = whole(0, 2**64 - 1, "an integer from 0 to 2**64 - 1")


class Taken(NamedTuple):
    """An arm, and the chance that it had."""

    arm: Arm
    chance: float


class BanditPolicy(RewardedPolicy):
    """Takes one arm for each request and step, and learns from what came of it.

    A request that ends between its draft and the verdict, or that is not verified, teaches nothing.

    Args:
        curve: as in `ProductPolicy`.
        ceiling: as in `RewardedPolicy`.
        per_request: whether each request begins to learn anew, as BanditSpec does; else all learn together.

    Raises:
        ConfigError: if an option is none.
    """

    def __init__(
        self,
        curve: CostCurve | Callable[[CausalLM], CostCurve] | None = None,
        ceiling: float = DEFAULT_CEILING,
        per_request: bool = False,
    ) -> None:
        super().__init__(curve, ceiling)
        self._apart: bool = take("per_request", per_request, flag())
        self._taken: dict[int, Taken] = {}

    @abstractmethod
    def _take(self, learner: int, arms: Sequence[Arm]) -> Taken:
        """The arm that a learner takes, given by its number."""

    @abstractmethod
    def _learn(self, learner: int, taken: Taken, reward: float) -> None:
        """What came of it, in [0, 1]."""

    @abstractmethod
    def _forget(self, learner: int) -> None:
        """Its request ended."""

    def choose(self, asks: Sequence[Ask], load: Load) -> list[list[Choice]]:
        """One candidate for each request, or none."""
        self._taken = {
            ask.request_id: self._take(self._learner(ask.request_id), [NOBODY, *(c.drafter for c in ask.candidates)])
            for ask in asks
        }
        narrowed = [
            Ask(ask.request_id, tuple(c for c in ask.candidates if c.drafter == self._taken[ask.request_id].arm))
            for ask in asks
        ]
        chosen = iter(super().choose([ask for ask in narrowed if ask.candidates], load))
        return [list(next(chosen)) if ask.candidates else [] for ask in narrowed]

    def observe(self, request_id: int, draft: Draft, path: Sequence[int], tokens: Sequence[int]) -> None:
        """See `Policy.observe`."""
        super().observe(request_id, draft, path, tokens)
        taken = self._taken.pop(request_id, None)
        if taken is not None:
            self._learn(self._learner(request_id), taken, self._reward.of(len(tokens)))

    def end(self, request_id: int) -> None:
        """See `Policy.end`."""
        super().end(request_id)
        self._taken.pop(request_id, None)
        if self._apart:
            self._forget(request_id)

    def _learner(self, request_id: int) -> int:
        return request_id if self._apart else ALL


class Exp3Policy(BanditPolicy):
    """Exp3Spec: draws the arm at random, and so assumes nothing about how texts change.

    Expected regret after T steps with K arms ≤ 2 sqrt(T K ln K), in steps of `ceiling` times plain decoding's speed
    (`Exp3`).

    Args:
        curve, ceiling, per_request: as in `BanditPolicy`.
        seed: of the draws.
    """

    name = "exp3"

    def __init__(
        self,
        curve: CostCurve | Callable[[CausalLM], CostCurve] | None = None,
        ceiling: float = DEFAULT_CEILING,
        per_request: bool = False,
        seed: int = 0,
    ) -> None:
        super().__init__(curve, ceiling, per_request)
        self._random = Random(take("seed", seed, SEED))
        self._learners: dict[int, Exp3] = {}

    def _take(self, learner: int, arms: Sequence[Arm]) -> Taken:
        chances = self._learners.setdefault(learner, Exp3()).chances(arms)
        [arm] = self._random.choices(list(chances), list(chances.values()))
        return Taken(arm, chances[arm])

    def _learn(self, learner: int, taken: Taken, reward: float) -> None:
        self._learners.setdefault(learner, Exp3()).learn(taken.arm, taken.chance, 1.0 - reward)

    def _forget(self, learner: int) -> None:
        self._learners.pop(learner, None)


class UcbPolicy(BanditPolicy):
    """UCBSpec: takes the arm with the largest upper confidence bound, by its own mean and count.

    Expected regret after T steps ≤ Σ 8 ln T / Δ + (1 + π²/3) Σ Δ over the arms that are slower by Δ, in steps of
    `ceiling` times plain decoding's speed (`Ucb1`). It assumes that an arm's mean speed does not change.
    """

    name = "ucb"

    def __init__(
        self,
        curve: CostCurve | Callable[[CausalLM], CostCurve] | None = None,
        ceiling: float = DEFAULT_CEILING,
        per_request: bool = False,
    ) -> None:
        super().__init__(curve, ceiling, per_request)
        self._learners: dict[int, Ucb1] = {}

    def _take(self, learner: int, arms: Sequence[Arm]) -> Taken:
        return Taken(self._learners.setdefault(learner, Ucb1()).best(arms), 1.0)

    def _learn(self, learner: int, taken: Taken, reward: float) -> None:
        self._learners.setdefault(learner, Ucb1()).learn(taken.arm, reward)

    def _forget(self, learner: int) -> None:
        self._learners.pop(learner, None)
