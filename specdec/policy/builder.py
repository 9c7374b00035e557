"""The one tree builder: which nodes of all drafts of a pass pay, by their survival and by what the pass costs.

A step of n drafted rows takes T(n) and yields 1 + Σ a tokens, a the survival of each node that is verified (OPT-Tree,
Wang et al. 2024): the best set of n nodes is the n of largest survival. A child's survival is never above its parent's,
so that set has each node's parent, and choosing it needs no search. How many nodes is a matter of T, which is measured
and has steps, so that all n are looked at.

A batch shares the pass: what one request's rows cost, all of them wait for. The sets make the product of all requests'
expected speeds largest (proportional fairness, Kelly 1997), so that no request is left far behind: a batch ends with
its slowest one. For a request alone this is its expected speed.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Sequence
from math import log, log1p
from typing import NamedTuple

from specdec.verify.shape import RANKS, ROOT, TreeShape

MOST_NODES = 24
"""Nodes of a request that are looked at. A row costs no less the more there are, and the survival of the 25th node is
below 1/25 of the expected tokens unless nearly everything is accepted."""
MOST_ROWS = 64
"""Rows of all drafts of a step that are looked at."""
MARGIN = 0.03
"""Drafts must promise so much more speed than none: a smaller gain is below what clock and rates can tell."""


class Wish(NamedTuple):
    """What a request could have verified.

    Args:
        survivals: of each node, never above its parent's.
        depths: of each node, 0 for a child of the root.
    """

    survivals: Sequence[float]
    depths: Sequence[int]


def build(
    wishes: Sequence[Wish],
    requests: int,
    seconds: Sequence[float],
    level_seconds: float = 0.0,
    margin: float = MARGIN,
) -> list[list[int]]:
    """The nodes to verify of each draft, ascending, parents with their children.

    Args:
        wishes: one a draft.
        requests: all that wait for the step, those without a draft too.
        seconds: of the step with 0, 1, 2, … rows of drafts, without what is spent on drawing; no more rows are taken.
        level_seconds: what one level of all drafts takes to be drawn; 0 if they are there.
        margin: the product of the speeds must grow by the factor (1 + margin) for each request, or nothing is drafted.
    """
    best, kept = requests * (log1p(margin) - log(seconds[0])), list[_Gain]()
    for limit in _limits(wishes, level_seconds):
        gained, drawing = 0.0, limit * level_seconds
        gains = sorted(gain for number, wish in enumerate(wishes) for gain in _gains(number, wish, limit))
        for count, gain in enumerate(gains[: len(seconds) - 1], 1):
            gained -= gain[0]
            worth = gained - requests * log(seconds[count] + drawing)
            if worth > best:
                best, kept = worth, gains[:count]
    nodes: list[list[int]] = [[] for _ in wishes]
    for _, _, draft, node in kept:
        nodes[draft].append(node)
    return [sorted(each) for each in nodes]


def least_survival(requests: int, growth: float) -> float:
    """A survival below which no node can be among those that `build` takes: the last of them gains its request more
    than the step gets longer, for all that wait for it.

    With s the survival of that node and e the expected tokens of its request, (e + s) / e ≥ (T(n) / T(n - 1))^requests,
    and e ≥ 1.

    Args:
        requests: all that wait for the step.
        growth: the least of T(n) / T(n - 1).
    """
    return max(growth**requests - 1.0, 0.0)  # where more rows cost nothing, rounding makes a growth of less than 1


def speed(wish: Wish, seconds: Sequence[float], level_seconds: float = 0.0) -> float:
    """Tokens a second of a request alone, with the best part of its draft, or without one where `build` takes none.
    Arguments as for `build`."""
    plain = 1.0 / seconds[0]
    best = least = plain * (1.0 + MARGIN)
    for limit in _limits([wish], level_seconds):
        tokens, drawing = 1.0, limit * level_seconds
        survivals = wish.survivals
        if level_seconds:
            survivals = [each for each, depth in zip(survivals, wish.depths, strict=True) if depth < limit]
        for survival, cost in zip(sorted(survivals, reverse=True)[:MOST_NODES], seconds[1:], strict=False):
            tokens += survival
            if tokens > best * (cost + drawing):
                best = tokens / (cost + drawing)
    return best if best > least else plain


_Gain = tuple[float, int, int, int]
"""Minus what one more node adds to the logarithm of its request's expected tokens, how many come before it, draft,
node: so that they sort as they are taken."""


def _gains(number: int, wish: Wish, limit: int) -> list[_Gain]:
    """The nodes of one draft, above `limit`, in the order in which they are taken."""
    survivals, depths = wish.survivals, wish.depths
    nodes = [node for node in range(len(survivals)) if depths[node] < limit]
    nodes.sort(key=survivals.__getitem__, reverse=True)  # stable: of equals the parent stays before its child
    tokens, gains = 1.0, list[_Gain]()
    for rank, node in enumerate(nodes[:MOST_NODES]):
        survival = survivals[node]
        gains.append((-log1p(survival / tokens), rank, number, node))
        tokens += survival
    return gains


def _limits(wishes: Sequence[Wish], level_seconds: float) -> Sequence[int]:
    """Numbers of levels that are looked at: of drafts that are there all of them are taken or left as they come."""
    deepest = max((max(wish.depths, default=-1) + 1 for wish in wishes), default=0)
    return range(1, deepest + 1) if level_seconds else (deepest,)


def best_shape(
    rate: Callable[[int], float], max_depth: int, max_nodes: int, widest: int = 8
) -> tuple[TreeShape, list[float]]:
    """The tree of so many nodes with the largest Σ a, if a node's rate depends on its depth and rank alone.

    The set that Sequoia's dynamic programme finds (Chen et al. 2024, section 3): there the table is of sizes and root
    degrees, here the next node of largest survival is taken from a heap, which is the same since a node comes after its
    parent and after its likelier siblings.

    Args:
        rate: kind of a shape's node (`TreeShape.kinds`) → its rate, not above that of the rank before.
        max_depth: longest branch.
        max_nodes: size.
        widest: most children of a node.

    Returns:
        The shape, and the survival of each of its nodes.
    """
    parents: list[int] = []
    survivals: list[float] = []
    heap: list[tuple[float, int, int, int, float]] = []

    def push(parent: int, depth: int, rank: int, above: float) -> None:
        if depth < max_depth and rank < widest:
            kind = min(depth, RANKS - 1) * RANKS + min(rank, RANKS - 1)
            heapq.heappush(heap, (-above * rate(kind), parent, depth, rank, above))

    push(ROOT, 0, 0, 1.0)
    while heap and len(parents) < max_nodes:
        survival, parent, depth, rank, above = heapq.heappop(heap)
        parents.append(parent)
        survivals.append(-survival)
        push(parent, depth, rank + 1, above)
        push(len(parents) - 1, depth + 1, 0, -survival)
    return TreeShape(tuple(parents)), survivals
