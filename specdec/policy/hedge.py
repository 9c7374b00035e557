"""Which drafter, by what every one of them would have gained on the text that came: HedgeSpec (Liu et al. 2025)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from specdec.models.base import CausalLM
from specdec.policy.bandit import NOBODY
from specdec.policy.base import Ask, Candidate, Choice, Draft, Drafted, Load
from specdec.policy.curve import CostCurve
from specdec.policy.experts import Advice, ExpertsPolicy
from specdec.policy.learners import Arm, Chances, Hedge
from specdec.policy.reward import DEFAULT_CEILING
from specdec.policy.survival import on_the_way
from specdec.verify.tree import DraftTree


@dataclass(frozen=True)
class Part:
    """What would have been verified of one arm's draft.

    Args:
        tree: its nodes that pay.
        seconds: of the step, by the curve.
    """

    tree: DraftTree
    seconds: float


@dataclass
class Pending:
    """A step whose arms are judged as soon as enough of the text is known.

    Args:
        advice: of the experts.
        parts: of each arm that an expert named.
        plain: seconds of the step without drafts.
        tokens: of the text that followed, so far.
    """

    advice: Advice
    parts: Mapping[Arm, Part]
    plain: float
    tokens: list[int] = field(default_factory=list)

    @property
    def known(self) -> bool:
        """Whether more text would change nothing: each draft has left the text, or has ended."""
        return all(len(self._path(part)) < len(self.tokens) for part in self.parts.values())

    def speeds(self) -> dict[Arm, float]:
        """Of each arm, in multiples of plain decoding's."""
        return {
            arm: (len(self._path(part)) + 1) * self.plain / part.seconds for arm, part in self.parts.items()
        }  # fmt: skip

    def _path(self, part: Part) -> list[int]:
        return on_the_way(part.tree, self.tokens)[1]


class HedgePolicy(ExpertsPolicy):
    """Learns from every draft, verified or not. The text shows how much of each draft would have been accepted, and the
    cost curve how long that step would have taken. So it learns about a drafter without using it. A draft that agrees
    with all of the text so far is judged when more text is there.

    Drafters that sample are not asked, because their drafts would not be known.

    Regret after T steps against the best of N experts ≤ sqrt(T ln N) + 4/3 ln N + 2, in expectation over the draws, in
    steps of `ceiling` times plain decoding's speed (`Hedge`), where every step is judged before the next one. Of those
    that are judged later, D steps later in sum, the worst case grows like sqrt((T + D) ln N) (Quanrud and Khashabi
    2015). It assumes that the curve tells what passes take, and nothing of the texts.

    Args:
        curve, ceiling, seed: as in `ExpertsPolicy`.
    """

    name = "hedge"

    def __init__(
        self,
        curve: CostCurve | Callable[[CausalLM], CostCurve] | None = None,
        ceiling: float = DEFAULT_CEILING,
        seed: int = 0,
    ) -> None:
        super().__init__(curve, ceiling, seed)
        self._ceiling = ceiling
        self._experts = Hedge()
        self._begun: dict[int, Pending] = {}
        """Request → its step that is not verified yet."""
        self._pending: dict[int, list[Pending]] = {}

    def choose(self, asks: Sequence[Ask], load: Load) -> list[list[Choice]]:
        """The trimmable candidates that are worth asking."""
        self._begun = {}
        return super().choose([Ask(ask.request_id, _trimmable(ask)) for ask in asks], load)

    def observe(self, request_id: int, draft: Draft, path: Sequence[int], tokens: Sequence[int]) -> None:
        """See `Policy.observe`."""
        super().observe(request_id, draft, path, tokens)
        pending = self._pending.pop(request_id, [])
        if request_id in self._begun:
            pending.append(self._begun.pop(request_id))
        waiting: list[Pending] = []
        for step in pending:
            step.tokens += tokens
            if step.known:
                self._learn(step)
            else:
                waiting.append(step)
        if waiting:
            self._pending[request_id] = waiting

    def end(self, request_id: int) -> None:
        """See `Policy.end`."""
        super().end(request_id)
        self._begun.pop(request_id, None)
        self._pending.pop(request_id, None)

    def _chances(self, advice: Advice) -> Chances:
        chances: Chances = {}
        for expert, chance in self._experts.chances(list(advice)).items():
            chances[advice[expert]] = chances.get(advice[expert], 0.0) + chance
        return chances

    def _follow(self, one: Drafted, advice: Advice, arm: Arm, chance: float, load: Load) -> None:
        costs = self._costs(load)
        parts = {NOBODY: Part(DraftTree(), costs[0])}
        for draft in one.drafts:
            weighed = {one.request_id: self._weighed(one.request_id, draft)}
            nodes = self._picks(weighed, load.requests, costs)[one.request_id].nodes
            parts[draft.drafter] = Part(draft.tree.of(nodes), costs[len(nodes)])
        self._begun[one.request_id] = Pending(advice, parts, costs[0])

    def _learn(self, step: Pending) -> None:
        losses = {arm: 1.0 - min(speed / self._ceiling, 1.0) for arm, speed in step.speeds().items()}
        self._experts.learn({expert: losses[arm] for expert, arm in step.advice.items()})


def _trimmable(ask: Ask) -> tuple[Candidate, ...]:
    return tuple(one for one in ask.candidates if one.trimmable)
