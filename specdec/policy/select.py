"""Which drafter, which nodes: of all the drafts that are there, the one that promises the most tokens a second."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from time import perf_counter
from typing import NamedTuple

from specdec.models.base import CausalLM
from specdec.policy.base import Ask, Candidate, Choice, Draft, Drafted, Load, Pick
from specdec.policy.builder import build, speed
from specdec.policy.curve import CostCurve
from specdec.policy.product import ProductPolicy, Weighed
from specdec.policy.survival import on_the_way
from specdec.policy.worth import Worth
from specdec.verify.tree import DraftTree


class Contest(NamedTuple):
    """A draft that was chosen before another one.

    Args:
        gain: by how much it promised more, in multiples of the speed of plain decoding.
        second: the draft that promised most but for it, with its nodes that pay; None if that was to draft nothing.
        costs: seconds of the step by rows of drafts.
    """

    gain: float
    second: tuple[DraftTree, list[int]] | None
    costs: Sequence[float]

    def kept(self, rows: int, accepted: int, tokens: Sequence[int]) -> float:
        """What came of the gain: the chosen draft had so many rows and accepted tokens, and the text went on so."""
        ours, theirs = (accepted + 1) / self.costs[rows], 1.0 / self.costs[0]
        if self.second is not None:
            tree, nodes = self.second
            right = sum(node in nodes for node in on_the_way(tree, tokens)[1])
            theirs = (right + 1) / self.costs[len(nodes)]
        return (ours - theirs) * self.costs[0]


class SelectPolicy(ProductPolicy):
    """Chooses a drafter for every request and step, by comparing the nodes of their drafts.

    The drafters whose drafts cost next to nothing are asked, and each draft is weighed by the survival of its own nodes
    and the measured cost of a pass: the expected tokens a second. To verify nothing is one of the choices. Once it is
    known how the text went on, every draft is scored on it, verified or not (as HedgeSpec scores drafters, Liu et al.
    2025): no drafter must be tried to be known. A drafter that has to draw is chosen where the rates of its own drafts
    promise more than the best draft that is there.

    Asking takes time too: a drafter whose drafts are not better than the others' by more than that is asked only as
    often as a small share of all time pays for.
    """

    name = "select"

    def __init__(self, curve: CostCurve | Callable[[CausalLM], CostCurve] | None = None) -> None:
        super().__init__(curve)
        self._worth = Worth()
        self.clock: Callable[[], float] = perf_counter
        """What weighing drafts takes is measured by it; a simulation without a clock gives another."""
        self._asked: dict[int, list[str]] = {}
        """Request → the trimmable drafters that were asked in this step."""
        self._drawing: dict[int, list[Candidate]] = {}
        """Request → its candidates that draw, in this step."""
        self._contests: dict[int, Contest] = {}
        """Request → what its draft was chosen before, in this step."""

    def choose(self, asks: Sequence[Ask], load: Load) -> list[list[Choice]]:
        """The trimmable candidates that are worth asking. A request without any chooses as `ProductPolicy` does."""
        seconds, floor, chosen = self._plain(load), self._floor(load), list[list[Choice]]()
        for ask in asks:
            depths = {one.drafter: one.depth for one in ask.candidates if one.trimmable}
            asked = self._worth.asked(ask.request_id, list(depths), load.requests, seconds) if floor < 1.0 else []
            self._asked[ask.request_id] = asked
            self._drawing[ask.request_id] = [one for one in ask.candidates if not one.trimmable]
            chosen.append([Choice(drafter, depths[drafter], floor=floor) for drafter in asked])
        drawn = {
            ask.request_id: self._best(Ask(ask.request_id, tuple(drawing)), load)
            for ask, own in zip(asks, chosen, strict=True)
            if not own and (drawing := self._drawing[ask.request_id])
        }
        shapes = self._shapes(drawn, load) if drawn else {}
        return [own or shapes.get(ask.request_id, []) for ask, own in zip(asks, chosen, strict=True)]

    def pick(self, drafted: Sequence[Drafted], load: Load) -> list[Pick | Draft | Choice | None]:
        """Of each request's drafts the nodes that pay of the best one; or what promises more than that to be drawn."""
        began, costs = self.clock(), self._costs(load)
        self._remember(drafted)
        best: dict[int, Weighed] = {}
        drawn: dict[int, Candidate] = {}
        for one in drafted:
            weighed = [self._weighed(one.request_id, draft) for draft in one.drafts]
            promises = self._promises(one.request_id, weighed, costs)
            drawing = self._drawing.get(one.request_id, [])
            favourite = self._best(Ask(one.request_id, tuple(drawing)), load) if drawing else None
            if favourite and self._promise(one.request_id, costs, favourite) > max(promises.values(), default=0.0):
                drawn[one.request_id] = favourite
            elif weighed:
                best[one.request_id] = self._first(one.request_id, weighed, promises, costs)
        self._worth.weighed((self.clock() - began) / max(sum(len(one.drafts) for one in drafted), 1))
        return self._settled(drafted, best, drawn, load, costs)

    def observe(self, request_id: int, draft: Draft, path: Sequence[int], tokens: Sequence[int]) -> None:
        """See `Policy.observe`."""
        super().observe(request_id, draft, path, tokens)
        contest = self._contests.pop(request_id, None)
        if contest is not None and len(draft.tree):
            self._worth.kept(draft.drafter, contest.gain, contest.kept(len(draft.tree), len(path), tokens))

    def drafted(self, drafter: str, requests: int, levels: int, seconds: float) -> None:
        """See `Policy.drafted`."""
        super().drafted(drafter, requests, levels, seconds)
        self._worth.took(drafter, seconds / requests)

    def timed(self, load: Load, seconds: float) -> None:
        """See `Policy.timed`."""
        super().timed(load, seconds)
        self._worth.passed(seconds)

    def end(self, request_id: int) -> None:
        """See `Policy.end`."""
        super().end(request_id)
        self._worth.end(request_id)
        self._asked.pop(request_id, None)
        self._drawing.pop(request_id, None)
        self._contests.pop(request_id, None)

    def _first(
        self, request_id: int, weighed: Sequence[Weighed], promises: Mapping[str, float], costs: Sequence[float]
    ) -> Weighed:
        """The draft that promises most; what it was chosen before is remembered."""
        first, *others = sorted(weighed, key=lambda each: promises[each.drafter], reverse=True)
        second, theirs = None, 1.0 / costs[0]
        if others and promises[others[0].drafter] > theirs:
            theirs = promises[others[0].drafter]
            second = others[0].draft.tree, build([others[0].wish], 1, costs)[0]
        if (promise := promises[first.drafter]) > theirs:
            self._contests[request_id] = Contest((promise - theirs) * costs[0], second, costs)
        return first

    def _settled(
        self,
        drafted: Sequence[Drafted],
        best: Mapping[int, Weighed],
        drawn: Mapping[int, Candidate],
        load: Load,
        costs: Sequence[float],
    ) -> list[Pick | Draft | Choice | None]:
        """What pays of the drafts that were chosen, and of what candidates would draw that were."""
        picks: dict[int, Pick | Draft | Choice] = dict(self._picks(best, load.requests, costs))
        shapes = self._shapes(drawn, load) if drawn else {}
        picks.update((request_id, choice) for request_id, choices in shapes.items() for choice in choices)
        return [picks.get(one.request_id) for one in drafted]

    def _promises(self, request_id: int, drafts: Sequence[Weighed], costs: Sequence[float]) -> dict[str, float]:
        """Drafter → tokens a second of the request alone with the best part of its draft."""
        plain = 1.0 / costs[0]
        promises = dict.fromkeys(self._asked.get(request_id, []), plain)
        for each in drafts:
            promises[each.drafter] = speed(each.wish, costs)
        self._worth.promised(request_id, promises, plain)
        self._compare(request_id, drafts, promises, costs)
        return promises

    def _compare(
        self, request_id: int, drafts: Sequence[Weighed], promises: Mapping[str, float], costs: Sequence[float]
    ) -> None:
        """Learns how much more each draft promises than the best of the others."""
        plain = 1.0 / costs[0]
        for drafter, promise in promises.items():
            if others := [other for name, other in promises.items() if name != drafter]:
                self._worth.adds(request_id, drafter, max(promise / max(plain, *others) - 1.0, 0.0))
