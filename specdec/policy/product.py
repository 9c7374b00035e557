"""How much to draft: the nodes that pay, by the measured cost of a pass and the acceptance seen so far."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import NamedTuple

from specdec.checks import shown
from specdec.errors import ConfigError
from specdec.models.base import CausalLM
from specdec.paths import cache_dir
from specdec.policy.base import Ask, Candidate, Choice, Draft, Drafted, Load, Pick, Policy
from specdec.policy.builder import MOST_ROWS, Wish, build, least_survival, speed
from specdec.policy.cost import cost_curve
from specdec.policy.curve import CostCurve, LiveCurve
from specdec.policy.spent import Spent
from specdec.policy.survival import SurvivalTable, judged, on_the_way
from specdec.policy.tally import Tally
from specdec.policy.trials import Purse
from specdec.verify.shape import ROOT

DOUBT = 0.5
"""A draft has nodes down to this part of the survival that pays: the drafter's estimates are not the policy's."""
FEW = 4
"""A drafter whose first nodes were tested less often than this is unknown: it drafts for one request at a time."""


class Weighed(NamedTuple):
    """A draft that is there, and what its nodes are worth."""

    draft: Draft
    wish: Wish

    @property
    def drafter(self) -> str:
        """Who made it."""
        return self.draft.drafter


class ProductPolicy(Policy):
    """Maximises the product of the requests' expected speeds, with one drafter for each request.

    Drafts that can be trimmed are asked for in full and cut to the nodes that pay. What a drafter draws is decided
    before: the shape that pays by the rates of its depths and ranks. One that does not pay is tried now and then, as
    often as a share of the time pays for.

    Args:
        curve: seconds of a pass; or how to get it for a model, which is done before the first step (left out: from a
            file if it was measured before on this machine, else by measuring). What passes take is learnt from then on.

    Raises:
        ConfigError: if the curve is none.
    """

    name = "product"

    def __init__(self, curve: CostCurve | Callable[[CausalLM], CostCurve] | None = None) -> None:
        if not (curve is None or isinstance(curve, CostCurve) or callable(curve)):
            raise ConfigError(
                f"curve = {shown(curve)} cannot work. Give a CostCurve, a function that makes one, or None."
            )
        self._source = curve or (lambda model: cost_curve(model, cache_dir()))
        self._curve = LiveCurve(curve.check()) if isinstance(curve, CostCurve) else None
        self.survival = SurvivalTable()
        self._levels: defaultdict[str, Spent] = defaultdict(Spent)
        """Drafter → what a level of its drafts takes."""
        self._purses: dict[str, Purse] = {}
        self._shown: dict[int, tuple[Draft, ...]] = {}
        """Request → the trimmable drafts that it had in this step."""
        self._tally = Tally()
        self._turn = 0
        """Trials go from request to request."""

    def prepare(self, model: CausalLM) -> None:
        """See `Policy.prepare`."""
        if self._curve is None and not isinstance(self._source, CostCurve):
            self._curve = LiveCurve(self._source(model))

    def choose(self, asks: Sequence[Ask], load: Load) -> list[list[Choice]]:
        """Trimmable drafts are asked for with all nodes that may pay; of the others the shape is decided here."""
        candidates = {ask.request_id: self._best(ask, load) for ask in asks}
        drawn = {request: one for request, one in candidates.items() if not one.trimmable}
        shapes = self._shapes(drawn, load) if drawn else {}
        floor = self._floor(load) if len(drawn) < len(candidates) else 0.0
        whole = {
            request: [Choice(one.drafter, one.depth, floor=floor)] if floor < 1.0 else []
            for request, one in candidates.items()
            if one.trimmable
        }
        return [shapes[request] if request in shapes else whole[request] for request in candidates]

    def pick(self, drafted: Sequence[Drafted], load: Load) -> list[Pick | Draft | Choice | None]:
        """The nodes that pay. These drafts have been paid for: only their rows count."""
        self._remember(drafted)
        best = {one.request_id: self._weighed(one.request_id, one.drafts[0]) for one in drafted if one.drafts}
        picks = self._picks(best, load.requests, self._costs(load))
        return [picks.get(one.request_id) for one in drafted]

    def observe(self, request_id: int, draft: Draft, path: Sequence[int], tokens: Sequence[int]) -> None:
        """Of drafts that were there, verified or not, the text tells how far they were right."""
        shown_drafts = self._shown.pop(request_id, ())
        for each in shown_drafts:
            self.survival.observe(request_id, each, *on_the_way(each.tree, tokens))
        if len(draft.tree) and draft.drafter not in {each.drafter for each in shown_drafts}:
            self.survival.observe(request_id, draft, judged(draft.tree, path), path)

    def drafted(self, drafter: str, requests: int, levels: int, seconds: float) -> None:
        """See `Policy.drafted`."""
        if levels:
            self._levels[drafter].observe(seconds / levels)

    def timed(self, load: Load, seconds: float) -> None:
        """See `Policy.timed`."""
        self._live.observe(load.rows, seconds, load.cached, load.requests)
        for purse in self._purses.values():
            purse.earn(seconds)

    def end(self, request_id: int) -> None:
        """See `Policy.end`."""
        self.survival.end(request_id)
        self._shown.pop(request_id, None)

    def account(self) -> str:
        """See `Policy.account`."""
        return self._tally.account(self.name)

    @property
    def _live(self) -> LiveCurve:
        assert self._curve is not None, "prepare() comes first"
        return self._curve

    def _remember(self, drafted: Sequence[Drafted]) -> None:
        self._shown.update((one.request_id, one.drafts) for one in drafted)

    def _plain(self, load: Load) -> float:
        """Seconds of a step without drafts."""
        return self._live(load.rows, load.cached, load.requests)

    def _costs(self, load: Load) -> list[float]:
        """Seconds of a step with 0, 1, 2, … rows of drafts, as far as there is room for them."""
        most = MOST_ROWS if load.room is None else min(load.room, MOST_ROWS)
        return self._live.costs(load.rows, most, load.cached, load.requests)

    def _floor(self, load: Load) -> float:
        """A chance below which no node is worth drafting; 1 or more if none is."""
        return DOUBT * least_survival(load.requests, self._live.least_growth(load.rows, MOST_ROWS))

    def _best(self, ask: Ask, load: Load) -> Candidate:
        """The candidate that promises the most tokens a second if this request alone drafts; the first of equals."""
        if len(ask.candidates) == 1:
            return ask.candidates[0]
        return max(ask.candidates, key=partial(self._promise, ask.request_id, self._costs(load)))

    def _promise(self, request_id: int, costs: Sequence[float], candidate: Candidate) -> float:
        """Tokens a second of this request alone, by the rates of a candidate's depths and ranks."""
        level = 0.0 if candidate.trimmable else self._levels[candidate.drafter].seconds
        return speed(self._wish_of(request_id, candidate), costs, level)

    def _wish_of(self, request_id: int, candidate: Candidate) -> Wish:
        """What a candidate may draw, before it does. No sibling counts for more than the one before it: what is drawn
        third is the third only if two others are drawn."""
        shape, survivals, before = candidate.largest, list[float](), dict[int, float]()
        rates = self.survival.believed(request_id, candidate.drafter, shape.kinds)
        for parent, rate in zip(shape.parents, rates, strict=True):
            before[parent] = min(rate, before.get(parent, 1.0))
            survivals.append(before[parent] * (1.0 if parent == ROOT else survivals[parent]))
        return Wish(survivals, shape.depths)

    def _picks(self, drafts: Mapping[int, Weighed], requests: int, costs: Sequence[float]) -> dict[int, Pick]:
        """The nodes that pay of one draft for each request."""
        parts = build([each.wish for each in drafts.values()], requests, costs)
        picks = {
            request_id: Pick(weighed.drafter, tuple(nodes))
            for (request_id, weighed), nodes in zip(drafts.items(), parts, strict=True)
        }
        self._tally.note(len(picks), sum(not pick.nodes for pick in picks.values()), costs)
        return picks

    def _weighed(self, request_id: int, draft: Draft) -> Weighed:
        return Weighed(draft, Wish(self.survival.survivals(request_id, draft), draft.tree.depths))

    def _shapes(self, drawn: Mapping[int, Candidate], load: Load) -> dict[int, list[Choice]]:
        """For each request the shape that pays of what a candidate draws, or nothing; and now and then a trial."""
        unknown = {one.drafter for one in drawn.values() if self.survival.tested(one.drafter, 0) < FEW}
        known = {request: one for request, one in drawn.items() if one.drafter not in unknown}
        level = max((self._levels[one.drafter].seconds for one in known.values()), default=0.0)
        wishes = [self._wish_of(request, one) for request, one in known.items()]
        costs = self._costs(load)
        parts = build(wishes, load.requests, costs, level)
        self._tally.note(len(parts), sum(not nodes for nodes in parts), costs)
        chosen: dict[int, list[Choice]] = {request: [] for request in drawn}
        for (request, one), nodes in zip(known.items(), parts, strict=True):
            if nodes:
                shape = one.largest.of(nodes)
                chosen[request] = [Choice(one.drafter, shape.depth, shape)]
        for drafter in dict.fromkeys(one.drafter for one in drawn.values()):
            mine = [request for request, one in drawn.items() if one.drafter == drafter]
            idle = load.room != 0 and not any(chosen[request] for request in mine)
            if idle and (drafter in unknown or self._may_try(drafter, load)):
                request = mine[self._turn % len(mine)]
                self._turn += 1
                chosen[request] = [Choice(drafter, 1)]
        return chosen

    def _may_try(self, drafter: str, load: Load) -> bool:
        """Whether a drafter that does not pay may draw one level for one request."""
        plain, one_row = self._costs(load)[:2]
        price = one_row - plain + self._levels[drafter].seconds
        return self._purses.setdefault(drafter, Purse()).pay(max(price, 0.0))
