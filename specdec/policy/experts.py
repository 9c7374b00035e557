"""Which drafter, on the word of experts: those that keep to one drafter, and the one that weighs all drafts by cost."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from random import Random
from typing import NamedTuple

from specdec.checks import take
from specdec.models.base import CausalLM
from specdec.policy.bandit import NOBODY, SEED
from specdec.policy.base import Ask, Candidate, Choice, Draft, Drafted, Load, Pick
from specdec.policy.curve import CostCurve
from specdec.policy.learners import Arm, Chances, Exp4
from specdec.policy.reward import DEFAULT_CEILING, RelativeSpeed
from specdec.policy.select import SelectPolicy

WEIGHER = "by estimate"
"""The expert that takes what promises the most tokens a second, as `SelectPolicy` does."""


class Followed(NamedTuple):
    """What experts said of a request's step, and what was done."""

    advice: dict[str, Chances]
    arm: Arm
    chance: float


class Exp4Policy(SelectPolicy):
    """Clipper's choice among models (Crankshaw et al. 2017), by Exp4 over experts.

    All drafters are asked that `SelectPolicy` would ask. Then each expert names an arm: one drafter's draft, or
    nobody's; an expert whose drafter has nothing to say names nobody. One arm is drawn by the experts' weights, the
    nodes of it that pay are verified, and the step's speed tells of every expert that named it. If the estimates are
    right the weigher wins; if they mislead, the best single drafter does.

    Expected regret after T steps with K arms, against the best of N experts, ≤ 2 sqrt(T K ln N), in steps of `ceiling`
    times plain decoding's speed (`Exp4`).

    Args:
        curve: as in `ProductPolicy`.
        ceiling: as in `RelativeSpeed`.
        seed: of the draws.

    Raises:
        ConfigError: if an option is none.
    """

    name = "exp4"

    def __init__(
        self,
        curve: CostCurve | Callable[[CausalLM], CostCurve] | None = None,
        ceiling: float = DEFAULT_CEILING,
        seed: int = 0,
    ) -> None:
        super().__init__(curve)
        self._reward = RelativeSpeed(ceiling)
        self._random = Random(take("seed", seed, SEED))
        self._experts = Exp4()
        self._names: dict[int, tuple[str, ...]] = {}
        """Request → its candidates, in this step."""
        self._followed: dict[int, Followed] = {}

    def choose(self, asks: Sequence[Ask], load: Load) -> list[list[Choice]]:
        """See `SelectPolicy.choose`."""
        self._reward.begin(self._seconds(load, 0))
        self._followed = {}
        self._names = {ask.request_id: tuple(one.drafter for one in ask.candidates) for ask in asks}
        return super().choose(asks, load)

    def pick(self, drafted: Sequence[Drafted], load: Load) -> list[Pick | Choice | None]:
        """Of each request the arm that was drawn: the nodes that pay of a draft, or a drafter that has to draw."""
        self._remember(drafted)
        best: dict[int, Draft] = {}
        drawn: dict[int, Candidate] = {}
        for one in drafted:
            arm = self._follow(one, load)
            best.update((one.request_id, draft) for draft in one.drafts if draft.drafter == arm)
            drawing = self._drawing.get(one.request_id, [])
            drawn.update((one.request_id, each) for each in drawing if each.drafter == arm)
        return self._settled(drafted, best, drawn, load)

    def observe(self, request_id: int, draft: Draft, path: Sequence[int], tokens: Sequence[int]) -> None:
        """See `Policy.observe`."""
        super().observe(request_id, draft, path, tokens)
        followed = self._followed.pop(request_id, None)
        if followed is not None:
            self._experts.learn(followed.advice, followed.arm, followed.chance, 1.0 - self._reward.of(len(tokens)))

    def drafted(self, drafter: str, requests: int, levels: int, seconds: float) -> None:
        """See `Policy.drafted`."""
        super().drafted(drafter, requests, levels, seconds)
        self._reward.drafted(seconds)

    def timed(self, load: Load, seconds: float) -> None:
        """See `Policy.timed`."""
        super().timed(load, seconds)
        self._reward.passed(seconds)

    def end(self, request_id: int) -> None:
        """See `Policy.end`."""
        super().end(request_id)
        self._names.pop(request_id, None)
        self._followed.pop(request_id, None)

    def _follow(self, one: Drafted, load: Load) -> Arm:
        """Draws the arm of a request by what the experts say of the drafts that it has."""
        promises = {NOBODY: 1.0 / self._seconds(load, 0), **self._promises(one, load)}
        drawing = self._drawing.get(one.request_id, [])
        promises |= {each.drafter: self._promise(one.request_id, load, each) for each in drawing}
        there = {draft.drafter for draft in one.drafts} | {each.drafter for each in drawing}
        weighed = max(promises, key=lambda arm: promises[arm])
        named = {name: name for name in (NOBODY, *self._names.get(one.request_id, ()))} | {WEIGHER: weighed}
        advice = {expert: {arm if arm in there else NOBODY: 1.0} for expert, arm in named.items()}
        chances = self._experts.chances(advice)
        [arm] = self._random.choices(list(chances), list(chances.values()))
        self._followed[one.request_id] = Followed(advice, arm, chances[arm])
        return arm
