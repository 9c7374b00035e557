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

    def fade(self, factor: float) -> None:
        """Everything seen so far counts less."""
        self.accepted *= factor
        self.tested *= factor

    def mean(self, prior: float, weight: float) -> float:
        """The share, if `prior` counts as `weight` observations."""
        return (self.accepted + prior * weight) / (self.tested + weight)


Key = tuple[str, int]
"""Drafter and kind of node."""


class SurvivalTable:
    """Acceptance rates by drafter and kind of node, of each request and of all together.

    A rate is the chance that a node is the accepted one among its siblings once its parent is. A node's survival is the
    product of the rates from the root down to it: its chance to be accepted. A node is tested when its parent is on the
    way that the text took, whether it was verified or not: a draft that was not verified tells as much.

    It is bounded: a drafter has at most `KINDS` kinds, and a request goes in `end`.
    """

    def __init__(self) -> None:
        self.pool: dict[Key, Rate] = {}
        self._requests: dict[int, dict[Key, Rate]] = {}

    def survivals(self, request_id: int, draft: Draft) -> list[float]:
        """The survival of every node, never above its parent's."""
        chances = draft.tree.chances or tuple(map(prior_rate, draft.tree.shape.kinds))
        survivals: list[float] = []
        nodes = zip(draft.tree.parents, draft.tree.node_kinds, chances, strict=True)
        own, drafter = self._requests.setdefault(request_id, {}), draft.drafter
        for parent, kind, chance in nodes:
            above = 1.0 if parent == ROOT else survivals[parent]
            survivals.append(above * self._rate(own, (drafter, kind), chance))
        return survivals

    def rate(self, request_id: int, key: Key, prior: float) -> float:
        """The rate of one kind of node, if nothing but `prior` were known beforehand."""
        return self._rate(self._requests.setdefault(request_id, {}), key, prior)

    def observe(self, request_id: int, draft: Draft, tested: Sequence[int], path: Sequence[int]) -> None:
        """Learns which nodes of a draft are what the text went on with.

        Args:
            request_id: the request.
            draft: verified or not.
            tested: nodes that could have been: those whose parent is.
            path: nodes that are.
        """
        own, kinds, on_path = self._requests.setdefault(request_id, {}), draft.tree.node_kinds, set(path)
        for node in tested:
            key, accepted = (draft.drafter, kinds[node]), node in on_path
            for rates, memory in ((own, MEMORY), (self.pool, POOL_MEMORY)):
                rate = rates.get(key)
                if rate is None:
                    rate = rates[key] = Rate()
                rate.observe(accepted, memory)

    def end(self, request_id: int) -> None:
        """Forgets a request; what all together have shown stays."""
        self._requests.pop(request_id, None)

    @property
    def requests(self) -> frozenset[int]:
        """Requests that have rates of their own."""
        return frozenset(self._requests)

    def _rate(self, own: dict[Key, Rate], key: Key, chance: float) -> float:
        pooled = self.pool.get(key)
        prior = chance if pooled is None else pooled.mean(chance, PRIOR_WEIGHT)
        mine = own.get(key)
        return prior if mine is None else mine.mean(prior, POOL_WEIGHT)


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
    node = ROOT
    for token in tokens:
        children = tree.children(node)
        tested += children
        match = next((child for child in children if tree.tokens[child] == token), None)
        if match is None:
            break
        path.append(match)
        node = match
    return tested, path


def judged(tree: DraftTree, path: Sequence[int]) -> list[int]:
    """The nodes of a verified draft that were tested: the root's children, and those of every accepted node."""
    return [child for node in (ROOT, *path) for child in tree.children(node)]
