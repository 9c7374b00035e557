"""How much to draft: as many tokens as the measured cost of a pass and the acceptance seen so far say will pay.

A drafted token at depth i is worth its chance to be accepted, the product of the acceptance rates down to it; what it
costs is one more row of the pass, for which every request of the pass waits. Chosen are the rows that make the product
of all requests' expected speeds largest (proportional fairness, Kelly 1997): one request's gain is weighed against
what it takes from each of the others, and a batch is not done before its slowest request is.

The decision rests on what was known before anything was drawn (a later draw must not decide whether an earlier one is
kept), and it looks at the whole batch. So it is used only for rules whose text does not depend on the draft at all.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from math import log, log1p

from specdec.policy.cost import CostCurve, LiveCurve
from specdec.verify.tree import DraftTree

PRIOR_RATE, PRIOR_WEIGHT = 0.6, 4.0
"""What is believed of an acceptance rate that was never seen: enough to try it."""
POOL_WEIGHT = 12.0
"""Observations of one request that count as much as those of all others together."""
MARGIN = 0.03
"""Drafts must promise so much more speed than none: less is lost in what the clock and the rates do not know."""
MEMORY, FADING = 0.97, 0.99
"""What is left of an observation after one more, and after a step that could have drafted and did not: texts change,
and what was given up must be tried again, but each trial costs."""


@dataclass
class _Rate:
    accepted: float = 0.0
    tested: float = 0.0

    def observe(self, accepted: bool) -> None:
        self.accepted = MEMORY * self.accepted + accepted
        self.tested = MEMORY * self.tested + 1

    def fade(self) -> None:
        self.accepted *= FADING
        self.tested *= FADING

    def mean(self, prior: float, weight: float) -> float:
        return (self.accepted + prior * weight) / (self.tested + weight)


@dataclass
class _Rates:
    """By kind of draft and depth."""

    of: dict[tuple[int, int], _Rate] = field(default_factory=dict)

    def at(self, kind: int, depth: int) -> _Rate:
        return self.of.setdefault((kind, depth), _Rate())


class DraftController:
    """Chooses the depth of every draft of a batch.

    Args:
        curve: seconds of a pass, as measured beforehand; what passes take is learnt from then on.
    """

    def __init__(self, curve: CostCurve) -> None:
        self._curve = LiveCurve(curve)
        self._pool = _Rates()
        self._requests: dict[int, _Rates] = {}

    def depths(
        self,
        requests: Sequence[tuple[int, int, int]],
        rows: int,
        num_requests: int,
        cached: int = 0,
        level_seconds: float = 0.0,
    ) -> list[int]:
        """How deep each request should draft. What is known of drafts that are not asked for fades.

        Args:
            requests: id, kind of its draft, and deepest branch possible, of each.
            rows: of the pass without these drafts.
            num_requests: all that wait for the pass, these among them.
            cached: tokens that they have in the cache, together.
            level_seconds: what the drafter takes for one level of all drafts.
        """
        gains: list[tuple[float, int, int]] = []
        for index, (request, kind, limit) in enumerate(requests):
            chance = tokens = 1.0
            for depth in range(limit):
                chance *= self._rate(request, kind, depth)
                gains.append((log1p(chance / tokens), index, depth))
                tokens += chance
        gains.sort(key=lambda item: (-item[0], item[2]))
        gained, kept, levels = 0.0, 0, 0
        best = num_requests * (log(1 + MARGIN) - log(self._curve(rows, cached)))
        for count, (gain, _, depth) in enumerate(gains, 1):
            gained += gain
            levels = max(levels, depth + 1)
            speed = gained - num_requests * log(self._curve(rows + count, cached) + levels * level_seconds)
            if speed > best:
                best, kept = speed, count
        depths = [0] * len(requests)
        for _, index, depth in gains[:kept]:
            depths[index] = max(depths[index], depth + 1)
        self._fade(requests, depths)
        return depths

    def observe(self, request: int, tree: DraftTree, num_accepted: int) -> None:
        """Learns from a verdict."""
        for rates in (self._requests.setdefault(request, _Rates()), self._pool):
            for depth in range(min(num_accepted + 1, tree.depth)):
                rates.at(tree.kind, depth).observe(depth < num_accepted)

    def timed(self, rows: int, seconds: float, cached: int = 0) -> None:
        """Learns from what a pass took."""
        self._curve.observe(rows, seconds, cached)

    def release(self, request: int) -> None:
        """Forgets a request that ended."""
        self._requests.pop(request, None)

    def _fade(self, requests: Sequence[tuple[int, int, int]], depths: Sequence[int]) -> None:
        """A step counts once for the pool, however many requests it has."""
        tried = {kind for (_, kind, _), depth in zip(requests, depths, strict=True) if depth}
        left_out = [(request, kind) for (request, kind, _), depth in zip(requests, depths, strict=True) if not depth]
        for request, kind in left_out:
            self._requests.setdefault(request, _Rates()).at(kind, 0).fade()
        for kind in {kind for _, kind in left_out} - tried:
            self._pool.at(kind, 0).fade()

    def _rate(self, request: int, kind: int, depth: int) -> float:
        pooled = self._pool.at(kind, depth).mean(PRIOR_RATE, PRIOR_WEIGHT)
        return self._requests.setdefault(request, _Rates()).at(kind, depth).mean(pooled, POOL_WEIGHT)
