"""A draft grown from texts in suffix order, in plain Python."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from heapq import heappop, heappush
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

ROOT = -1
PROBES = 32
"""Places of a range at which followers are looked for: none that makes up 1 in `PROBES` of it is missed."""
DOUBT = 3.0
"""Occurrences that are thought to be missing from a match of one token; half of it from one of two, and so on."""


@dataclass(frozen=True, eq=False)
class Index:
    """Texts that can be searched.

    Args:
        tokens: uint16 or uint32 [n], the texts, each with its end behind it.
        order: uint32 [n], positions sorted by the tokens from there on.
        end: what stands behind a text, above all tokens.
        depth: tokens by which the order is sorted.
    """

    tokens: npt.NDArray[Any]
    order: npt.NDArray[np.uint32]
    end: int
    depth: int


@dataclass(frozen=True)
class Limits:
    """How a draft is grown.

    Args:
        min_match, max_match: shortest and longest suffix of the context that is looked for: from 1 to less
            than the index is sorted by.
        max_depth: longest branch.
        max_nodes: nodes that are added.
        branches: most children of a node, those of the given draft included.
        floor: least survival (the product of the chances on a node's path) of a node.
    """

    min_match: int
    max_match: int
    max_depth: int
    max_nodes: int
    branches: int
    floor: float


class Grown(NamedTuple):
    """The nodes that were added, in their order.

    Args:
        tokens: token of each.
        parents: number of its parent, those of the given draft first, or `ROOT`.
        matches: tokens before it that were found in the texts.
        chances: estimates of how often it is accepted once its parent is.
    """

    tokens: list[int]
    parents: list[int]
    matches: list[int]
    chances: list[float]


class _Range(NamedTuple):
    """Places `low` to `high` - 1 of the order, at which the same `matched` tokens begin."""

    matched: int
    low: int
    high: int


def grow(
    index: Index,
    limits: Limits,
    context: Sequence[int],
    tokens: Sequence[int] = (),
    parents: Sequence[int] = (),
    chances: Sequence[float] = (),
) -> Grown:
    """Adds to a draft the likeliest nodes that the texts know of.

    Of the context, and of it with every node of the given draft, the longest suffix that occurs in the texts is looked
    up; what followed there are candidates for the next token (He et al. 2023, REST). A follower of count c among n
    occurrences with u different ones has the chance c / (n + u + `DOUBT` / matched): method C of Moffat (1990), with
    doubt about short matches. Nodes are added by falling survival.

    Args:
        index, limits: see there.
        context: committed tokens; only the last `max_match` matter.
        tokens, parents, chances: of a draft that is there; parents come before children.
    """
    paths, depths, survivals = [list(context[-limits.max_match :])], [0], [1.0]  # those of the root, then of each node
    for token, parent, chance in zip(tokens, parents, chances, strict=True):
        paths.append([*paths[parent + 1], token])
        depths.append(depths[parent + 1] + 1)
        survivals.append(survivals[parent + 1] * chance)
    there = set(zip(parents, tokens, strict=True))
    waiting: list[tuple[float, int, int, int, float, _Range]] = []
    pushed = 0

    def push(parent: int, found: _Range) -> None:
        nonlocal pushed
        room = limits.branches - list(parents).count(parent)
        new = [one for one in _followers(index, found) if (parent, one[0]) not in there]
        for token, chance, below in new[: max(0, room)]:
            survival = survivals[parent + 1] * chance
            if survival >= limits.floor:
                heappush(waiting, (-survival, pushed, parent, token, chance, below))
                pushed += 1

    for node in range(ROOT, len(tokens)):
        found = _longest(index, limits, paths[node + 1]) if depths[node + 1] < limits.max_depth else None
        if found is not None:
            push(node, found)
    grown = Grown([], [], [], [])
    while waiting and len(grown.tokens) < limits.max_nodes:
        survival, _, parent, token, chance, below = heappop(waiting)
        grown.tokens.append(token)
        grown.parents.append(parent)
        grown.matches.append(below.matched - 1)
        grown.chances.append(chance)
        survivals.append(-survival)
        depths.append(depths[parent + 1] + 1)
        if depths[-1] < limits.max_depth and below.matched < index.depth:
            push(len(depths) - 2, below)
    return grown


def _longest(index: Index, limits: Limits, path: list[int]) -> _Range | None:
    """Of the longest suffix that occurs; every shorter one occurs too, so it is found by halving."""
    low, high, best = limits.min_match - 1, min(limits.max_match, len(path)), None
    while low < high:
        middle = (low + high + 1) // 2
        found = _find(index, path[-middle:])
        if found.low < found.high:
            low, best = middle, found
        else:
            high = middle - 1
    return best


def _find(index: Index, pattern: list[int]) -> _Range:
    """Where the pattern occurs."""

    def begins(place: int) -> list[int]:
        at = int(index.order[place])
        window: list[int] = index.tokens[at : at + len(pattern)].tolist()
        return window

    places = range(len(index.order))
    return _Range(len(pattern), bisect_left(places, pattern, key=begins), bisect_right(places, pattern, key=begins))


def _followers(index: Index, found: _Range) -> list[tuple[int, float, _Range]]:
    """Tokens that follow a match, by falling count, with their chances and their part of the range."""
    total = found.high - found.low

    def follower(place: int) -> int:
        at = int(index.order[place]) + found.matched
        return int(index.tokens[at]) if at < len(index.tokens) else -1

    parts: list[tuple[int, _Range]] = []
    place, step = found.low, max(1, total // PROBES)
    seen = found.low
    while place < found.high:
        token = follower(place)
        first = bisect_left(range(found.high), token, seen, place, key=follower)
        seen = bisect_right(range(found.high), token, place, found.high, key=follower)
        if token not in (index.end, -1):
            parts.append((token, _Range(found.matched + 1, first, seen)))
        place = max(seen, place + step)
    parts.sort(key=lambda part: (part[1].low - part[1].high, part[0]))
    spread = total + len(parts) + DOUBT / found.matched
    return [(token, (part.high - part.low) / spread, part) for token, part in parts]
