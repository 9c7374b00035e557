"""How much to draft: as many tokens as the measured cost of a pass and the acceptance seen so far say will pay.

A drafted token at depth i is worth its chance to be accepted, the product of the acceptance rates down to it; what it
costs is one more row of the pass. The rows of a whole batch compete: they are taken in the order of their worth, as
long as expected tokens per second rise; and none if that would not pay clearly.

The decision rests on what was known before anything was drawn (a later draw must not decide whether an earlier one is
kept), and it looks at the whole batch. So it is used only for rules whose text does not depend on the draft at all.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from specdec.models.cost import CostCurve, LiveCurve
from specdec.verify.tree import DraftTree

PRIOR_RATE, PRIOR_WEIGHT = 0.6, 4.0
"""What is believed of an acceptance rate that was never seen: enough to try it."""
POOL_WEIGHT = 12.0
"""Observations of one request that count as much as those of all others together."""
MARGIN, MOST_MARGIN = 0.03, 0.15
"""Drafts of a batch must promise so much more speed than none for every further sequence: the most promising of many
guesses promises too much, and the sequence that gains least decides when the batch is done."""
MEMORY = 0.97
"""What is left of an observation after one more: texts change, and what was given up must be tried again."""


@dataclass
class _Rate:
    accepted: float = 0.0
    tested: float = 0.0

    def observe(self, accepted: bool) -> None:
        self.accepted = MEMORY * self.accepted + accepted
        self.tested = MEMORY * self.tested + 1

    def fade(self) -> None:
        self.accepted *= MEMORY
        self.tested *= MEMORY

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
        curve: seconds of a pass by its rows, as measured beforehand; what passes take is learnt from then on.
    """

    def __init__(self, curve: CostCurve) -> None:
        self._curve = LiveCurve(curve)
        self._pool = _Rates()
        self._requests: dict[int, _Rates] = {}

    def depths(
        self, requests: Sequence[tuple[int, int, int]], other_rows: int = 0, level_seconds: float = 0.0
    ) -> list[int]:
        """How deep each request should draft.

        Args:
            requests: id, kind of its draft, and deepest branch possible, of each.
            other_rows: rows that the pass has besides the requests' own and their drafts'.
            level_seconds: what the drafter takes for one level of all drafts.
        """
        worth: list[tuple[float, int, int]] = []
        for index, (request, kind, limit) in enumerate(requests):
            chance = 1.0
            for depth in range(limit):
                chance *= self._rate(request, kind, depth)
                worth.append((chance, index, depth))
        worth.sort(key=lambda item: (-item[0], item[2]))
        rows = other_rows + len(requests)
        tokens = float(len(requests))
        margin = 1 + min(MARGIN * (len(requests) - 1), MOST_MARGIN)
        best, kept, levels = margin * tokens / self._curve(rows), 0, 0
        for count, (chance, _, depth) in enumerate(worth, 1):
            tokens += chance
            levels = max(levels, depth + 1)
            speed = tokens / (self._curve(rows + count) + levels * level_seconds)
            if speed > best:
                best, kept = speed, count
        depths = [0] * len(requests)
        for _, index, depth in worth[:kept]:
            depths[index] = max(depths[index], depth + 1)
        return depths

    def observe(self, request: int, tree: DraftTree, num_accepted: int) -> None:
        """Learns from a verdict; where nothing was drafted, what is known of such drafts fades."""
        for rates in (self._requests.setdefault(request, _Rates()), self._pool):
            if not len(tree):
                rates.at(tree.kind, 0).fade()
            for depth in range(min(num_accepted + 1, tree.depth)):
                rates.at(tree.kind, depth).observe(depth < num_accepted)

    def timed(self, rows: int, seconds: float) -> None:
        """Learns from what a pass took."""
        self._curve.observe(rows, seconds)

    def release(self, request: int) -> None:
        """Forgets a request that ended."""
        self._requests.pop(request, None)

    def _rate(self, request: int, kind: int, depth: int) -> float:
        pooled = self._pool.at(kind, depth).mean(PRIOR_RATE, PRIOR_WEIGHT)
        return self._requests.setdefault(request, _Rates()).at(kind, depth).mean(pooled, POOL_WEIGHT)
