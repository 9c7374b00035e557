"""Which drafter, on the word of experts: those that keep to one drafter, and the one that weighs all drafts by cost."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from random import Random
from typing import NamedTuple

from specdec.checks import take
from specdec.models.base import CausalLM
from specdec.policy.bandit import NOBODY, SEED
from specdec.policy.base import Ask, Candidate, Choice, Draft, Drafted, Load, Pick
from specdec.policy.curve import CostCurve
from specdec.policy.learners import Arm, Chances, Exp4
from specdec.policy.product import Weighed
from specdec.policy.reward import DEFAULT_CEILING
from specdec.policy.rewarded import RewardedPolicy
from specdec.policy.select import SelectPolicy

WEIGHER = "by estimate"
"""The expert that takes what promises the most tokens a second, as `SelectPolicy` does."""
Advice = Mapping[str, Arm]
"""Expert → the arm that it names: a drafter whose draft is there, or `NOBODY`."""


class ExpertsPolicy(RewardedPolicy, SelectPolicy):
    """Draws an expert for each request and step, and does what it says.

    All drafters are asked that `SelectPolicy` would ask. Then each expert names an arm: one drafter's draft, or
    nobody's; an expert whose drafter has nothing to say names nobody. Of the arm that is drawn the nodes that pay are
    verified. If the estimates are right the weigher wins; if they mislead, the best single drafter does.

    Args:
        curve: as in `ProductPolicy`.
        ceiling: as in `RewardedPolicy`.
        seed: of the draws.

    Raises:
        ConfigError: if an option is none.
    """

    def __init__(
        self,
        curve: CostCurve | Callable[[CausalLM], CostCurve] | None = None,
        ceiling: float = DEFAULT_CEILING,
        seed: int = 0,
    ) -> None:
        super().__init__(curve, ceiling)
        self._random = Random(take("seed", seed, SEED))
        self._names: dict[int, tuple[str, ...]] = {}
        """Request → its candidates, in this step."""

    @abstractmethod
    def _chances(self, advice: Advice) -> Chances:
        """How likely each arm is to be taken."""

    @abstractmethod
    def _follow(self, one: Drafted, advice: Advice, arm: Arm, chance: float, load: Load) -> None:
        """An arm was drawn for a request, with this chance."""

    def choose(self, asks: Sequence[Ask], load: Load) -> list[list[Choice]]:
        """See `SelectPolicy.choose`."""
        self._names = {ask.request_id: tuple(one.drafter for one in ask.candidates) for ask in asks}
        return super().choose(asks, load)

    def pick(self, drafted: Sequence[Drafted], load: Load) -> list[Pick | Draft | Choice | None]:
        """Of each request the arm that was drawn: the nodes that pay of a draft, or a drafter that has to draw."""
        self._remember(drafted)
        best: dict[int, Weighed] = {}
        drawn: dict[int, Candidate] = {}
        costs = self._costs(load)
        for one in drafted:
            weighed = [self._weighed(one.request_id, draft) for draft in one.drafts]
            advice = self._advice(one.request_id, weighed, costs)
            chances = self._chances(advice)
            [arm] = self._random.choices(list(chances), list(chances.values()))
            self._follow(one, advice, arm, chances[arm], load)
            best.update((one.request_id, draft) for draft in weighed if draft.drafter == arm)
            drawing = self._drawing.get(one.request_id, [])
            drawn.update((one.request_id, each) for each in drawing if each.drafter == arm)
        return self._settled(drafted, best, drawn, load, costs)

    def end(self, request_id: int) -> None:
        """See `Policy.end`."""
        super().end(request_id)
        self._names.pop(request_id, None)

    def _advice(self, request_id: int, drafts: Sequence[Weighed], costs: Sequence[float]) -> dict[str, Arm]:
        """What each expert says of the drafts that a request has."""
        drawing = self._drawing.get(request_id, [])
        promises = {NOBODY: 1.0 / costs[0], **self._promises(request_id, drafts, costs)}
        promises |= {each.drafter: self._promise(request_id, costs, each) for each in drawing}
        there = {draft.drafter for draft in drafts} | {each.drafter for each in drawing}
        weighed = max(promises, key=lambda arm: promises[arm])
        named = {name: name for name in (NOBODY, *self._names.get(request_id, ()))} | {WEIGHER: weighed}
        return {expert: arm if arm in there else NOBODY for expert, arm in named.items()}


class Followed(NamedTuple):
    """What experts said of a request's step, and what was done."""

    advice: Advice
    arm: Arm
    chance: float


class Exp4Policy(ExpertsPolicy):
    """Learns from the speed of each step, for every expert that named the arm of that step (Exp4, as in Clipper's
    choice among models, Crankshaw et al. 2017).

    Expected regret after T steps with K arms, against the best of N experts, ≤ 2 sqrt(T K ln N), in steps of `ceiling`
    times plain decoding's speed (`Exp4`). It assumes nothing about estimates or texts.
    """

    name = "exp4"

    def __init__(
        self,
        curve: CostCurve | Callable[[CausalLM], CostCurve] | None = None,
        ceiling: float = DEFAULT_CEILING,
        seed: int = 0,
    ) -> None:
        super().__init__(curve, ceiling, seed)
        self._experts = Exp4()
        self._followed: dict[int, Followed] = {}

    def choose(self, asks: Sequence[Ask], load: Load) -> list[list[Choice]]:
        """See `ExpertsPolicy.choose`."""
        self._followed = {}
        return super().choose(asks, load)

    def observe(self, request_id: int, draft: Draft, path: Sequence[int], tokens: Sequence[int]) -> None:
        """See `Policy.observe`."""
        super().observe(request_id, draft, path, tokens)
        followed = self._followed.pop(request_id, None)
        if followed is not None:
            loss = 1.0 - self._reward.of(len(tokens))
            self._experts.learn(_certain(followed.advice), followed.arm, followed.chance, loss)

    def end(self, request_id: int) -> None:
        """See `Policy.end`."""
        super().end(request_id)
        self._followed.pop(request_id, None)

    def _chances(self, advice: Advice) -> Chances:
        return self._experts.chances(_certain(advice))

    def _follow(self, one: Drafted, advice: Advice, arm: Arm, chance: float, load: Load) -> None:
        self._followed[one.request_id] = Followed(advice, arm, chance)


def _certain(advice: Advice) -> dict[str, Chances]:
    return {expert: {arm: 1.0} for expert, arm in advice.items()}
