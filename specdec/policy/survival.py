"""How often drafts' nodes are accepted, learnt from verdicts: what every policy that weighs drafts goes by."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from specdec.policy.base import Draft
from specdec.verify.shape import RANKS, ROOT
from specdec.verify.tree import DraftTree

PRIOR_RATES = (0.6, 0.15, 0.08, 0.05)
"""What is believed of nodes of rank 0, 1, … that were never seen, if their drafter has no estimate: enough to try."""
PRIOR_WEIGHT = 4.0
"""Observations that count as much as what was believed before."""
POOL_WEIGHT = 12.0
"""Observations of one request that count as much as those of all others together."""
MEMORY, POOL_MEMORY = 0.97, 0.995
"""What an observation keeps of its weight after one more of its kind, of one request and of all together."""


@dataclass
class Rate:
    """A share of accepted nodes, in which old ones count less and less.

    Args:
        accepted, tested: sums of weights.
    """

    accepted: float = 0.0
    tested: float = 0.0

    def observe(self, accepted: bool, memory: float) -> None:
        """One more node."""
        self.accepted = memory * self.accepted + accepted
        self.tested = memory * self.tested + 1


Rates = dict[str, dict[int, Rate]]
"""Drafter → kind of node → rate."""


class SurvivalTable:
    """Acceptance rates by drafter and kind of node, of each request and of all together.

    A rate is the chance that a node is the accepted one among its siblings once its parent is. A node's survival is the
    product of the rates from the root down to it: its chance to be accepted. A node is tested when its parent is on the
    way that the text took, whether it was verified or not: a draft that was not verified tells as much.

    It is bounded: a drafter has at most `KINDS` kinds, and a request goes in `end`.
    """

    def __init__(self) -> None:
        self.pool: Rates = {}
        self._requests: dict[int, Rates] = {}

    def survivals(self, request_id: int, draft: Draft) -> list[float]:
        """The survival of every node, never above its parent's."""
        tree = draft.tree
        chances = tree.chances or tuple(map(prior_rate, tree.shape.kinds))
        rates, survivals = self.rates(request_id, draft.drafter, tree.node_kinds, chances), list[float]()
        for parent, rate in zip(tree.parents, rates, strict=True):
            survivals.append(rate if parent == ROOT else rate * survivals[parent])
        return survivals

    def rates(self, request_id: int, drafter: str, kinds: Sequence[int], priors: Sequence[float]) -> list[float]:
        """The rate of each kind of node, if nothing but its prior were known beforehand."""
        own, pool = self._of(request_id, drafter)
        rates: list[float] = []
        for kind, rate in zip(kinds, priors, strict=True):
            if (all_seen := pool.get(kind)) is not None:
                rate = (all_seen.accepted + PRIOR_WEIGHT * rate) / (all_seen.tested + PRIOR_WEIGHT)
            if (seen := own.get(kind)) is not None:
                rate = (seen.accepted + POOL_WEIGHT * rate) / (seen.tested + POOL_WEIGHT)
            rates.append(rate)
        return rates

    def rate(self, request_id: int, drafter: str, kind: int, prior: float) -> float:
        """See `rates`."""
        return self.rates(request_id, drafter, [kind], [prior])[0]

    def believed(self, request_id: int, drafter: str, kinds: Sequence[int]) -> list[float]:
        """The rates of a shape's nodes before they are drawn. A depth that was seldom reached is believed to be as good
        as the one above it: else a dear draft that is nearly always right would never grow."""
        found: dict[int, float] = {}

        def rate_of(kind: int) -> float:
            if kind not in found:
                above = rate_of(kind - RANKS) if kind >= RANKS else 0.0
                found[kind] = self.rate(request_id, drafter, kind, max(prior_rate(kind), above))
            return found[kind]

        return [rate_of(kind) for kind in kinds]

    def tested(self, drafter: str, kind: int) -> float:
        """Weight of the nodes of a kind that were tested, of all requests together."""
        rate = self.pool.get(drafter, {}).get(kind)
        return 0.0 if rate is None else rate.tested

    def observe(self, request_id: int, draft: Draft, tested: Sequence[int], path: Sequence[int]) -> None:
        """Learns which nodes of a draft are what the text went on with.

        Args:
            request_id: the request.
            draft: verified or not.
            tested: nodes that could have been: those whose parent is.
            path: nodes that are.
        """
        kinds = draft.tree.node_kinds
        own, pool = self._of(request_id, draft.drafter)
        for node in tested:
            accepted = node in path
            for rates, memory in ((own, MEMORY), (pool, POOL_MEMORY)):
                rate = rates.get(kinds[node])
                if rate is None:
                    rate = rates[kinds[node]] = Rate()
                rate.observe(accepted, memory)

    def end(self, request_id: int) -> None:
        """Forgets a request; what all together have shown stays."""
        self._requests.pop(request_id, None)

    @property
    def requests(self) -> frozenset[int]:
        """Requests that have rates of their own."""
        return frozenset(self._requests)

    def _of(self, request_id: int, drafter: str) -> tuple[dict[int, Rate], dict[int, Rate]]:
        """A drafter's rates by kind, of a request and of all."""
        rates = self._requests.get(request_id)
        if rates is None:
            rates = self._requests[request_id] = {}
        return rates.setdefault(drafter, {}), self.pool.setdefault(drafter, {})


def prior_rate(kind: int) -> float:
    """What is believed of a node of a shape's kind: by its rank alone."""
    return PRIOR_RATES[min(kind % RANKS, len(PRIOR_RATES) - 1)]


def on_the_way(tree: DraftTree, tokens: Sequence[int]) -> tuple[list[int], list[int]]:
    """Which nodes of a draft a text could have gone on with, and with which it did.

    Args:
        tree: a draft, verified or not.
        tokens: those that the text went on with; what came after them is not known.

    Returns:
        The nodes whose parent is on the way, and those that are.
    """
    tested: list[int] = []
    path: list[int] = []
    before = {ROOT: 0}  # nodes on the way → tokens that come before their children
    for node, parent in enumerate(tree.parents):
        at = before.get(parent, len(tokens))
        if at < len(tokens):
            tested.append(node)
            if at == len(path) and tree.tokens[node] == tokens[at]:
                path.append(node)
                before[node] = at + 1
    return tested, path


def judged(tree: DraftTree, path: Sequence[int]) -> list[int]:
    """The nodes of a verified draft that were tested: the root's children, and those of every accepted node."""
    return [child for node in (ROOT, *path) for child in tree.children(node)]
