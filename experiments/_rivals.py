"""Other ways to decide batch and γ under load, to compare ours with."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from specdec.engine.outputs import StepOutput
from specdec.engine.pace import Pace
from specdec.engine.pacing import SHRINK
from specdec.engine.request import Request
from specdec.engine.scheduled import Scheduled
from specdec.policy.base import Ask, Choice, Draft, Drafted, Load, Pick, Policy
from specdec.policy.curve import CostCurve

FAVOUR = 1.1
"""No draft is chosen unless a draft's goodput is so many times that of none."""
MEMORY = 0.99


class BatchPace(Pace):
    """Clipper's batch limit (Crankshaw et al. 2017, section 4.3.1): one more after each full batch that was in time,
    and 0.9 of it after one that was not.

    Args:
        seconds: goal of a pass.
        clock: seconds.
    """

    def __init__(self, seconds: float, clock: Callable[[], float]) -> None:
        self._goal, self._clock = seconds, clock
        self.limit, self._began = 1.0, 0.0

    def prompt_rows(self, running: Sequence[Request], waiting: Sequence[Request]) -> int:
        """See `Pace`."""
        self._began = self._clock()
        return super().prompt_rows(running, waiting)

    def admits(self, running: Sequence[Request], request: Request) -> bool:
        """See `Pace`."""
        return len(running) < max(int(self.limit), 1)

    def passed(self, plan: Sequence[Scheduled], gained: Sequence[StepOutput]) -> None:
        """See `Pace`."""
        if self._clock() - self._began > self._goal:
            self.limit = max(SHRINK * self.limit, 1.0)
        elif len(plan) >= int(self.limit):
            self.limit += 1.0


class GoodputPolicy(Policy):
    """SmartSpec's γ (Liu et al. 2024, arXiv 2406.14066): one for all requests of a step, which makes expected tokens a
    second largest, by the mean acceptance so far.

    Args:
        curve: seconds of a pass.
        most: largest γ.
    """

    name = "goodput"

    def __init__(self, curve: CostCurve, most: int = 8) -> None:
        self._curve, self._most = curve, most
        self._accepted, self._tested = 0.7, 1.0

    def choose(self, asks: Sequence[Ask], load: Load) -> list[list[Choice]]:
        """Each request's first candidate, in full."""
        return [[Choice(ask.candidates[0].drafter, ask.candidates[0].depth)] for ask in asks]

    def pick(self, drafted: Sequence[Drafted], load: Load) -> list[Pick | Choice | None]:
        """The first γ nodes of each draft."""
        count = self.best(len(drafted), load)
        return [
            Pick(one.drafts[0].drafter, tuple(range(min(count, len(one.drafts[0].tree))))) if one.drafts else None
            for one in drafted
        ]

    def best(self, drafts: int, load: Load) -> int:
        """γ for so many drafts: (1 - α^(γ+1)) / (1 - α) tokens of each in T(rows + γ drafts) seconds."""
        alpha = min(self._accepted / self._tested, 0.999)

        def goodput(count: int) -> float:
            tokens = (1 - alpha ** (count + 1)) / (1 - alpha)
            return tokens / self._curve(load.rows + count * drafts, load.cached, load.requests)

        best = max(range(1, self._most + 1), key=goodput)
        return best if goodput(best) > FAVOUR * goodput(0) else 0

    def observe(self, request_id: int, draft: Draft, path: Sequence[int], tokens: Sequence[int]) -> None:
        """The mean acceptance of a tested token."""
        if len(draft.tree):
            tested = min(len(path) + 1, len(draft.tree))
            self._accepted = MEMORY * self._accepted + len(path)
            self._tested = MEMORY * self._tested + tested
