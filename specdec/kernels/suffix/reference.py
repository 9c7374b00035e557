"""What followed the ends of a text before, and the likeliest tree of what follows now: the definition, in plain Python.

A *context* is a run of at most `MATCH` tokens. Its *followers* are the tokens that came after it in the indexed texts,
each with how often it did. An occurrence at the end of a text has no follower and does not count.

The chance of a token comes from the contexts at the end of the text, longest first (prediction by partial matching,
Cleary and Witten 1984): one of length l that was followed T times, by D different tokens, n times by this one, says
n / (T + E) and leaves E / (T + E) to the next context, with E = w · D / l. The escape mass grows with the variety of
what followed, as in their method C, and falls with the length of the match. w is N^(1/5) for an index of N tokens: the
more there is, the more often a match is due to chance.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import count, islice
from sys import getsizeof
from typing import NamedTuple

ROOT = -1
"""The parent of nodes that follow the text itself."""
MATCH = 16
"""Tokens of the longest context. Longer ones change nothing: by then the next token is all but certain."""
CONTEXTS = 2
"""Contexts that a chance is made of, the longest ones. A third one changes it by less than it is wrong."""
FOLLOWERS = 8
"""Followers of a context that may become nodes: the most frequent ones, of equal ones the latest."""
CROWDING = 0.2
"""Power of an index's size with which its matches lose weight. Fitted, as is the form of E, to answers of SmolLM2-135M
to 200 questions of its own, with indexes of 100 to 200,000 tokens."""
CHANCES = 8
"""Steps of a chance that kinds of nodes tell apart."""
LENGTHS = (1, 2, 3, 4, 5, 8)
"""Lengths from which on matches are of another kind."""


class Nodes(NamedTuple):
    """Nodes of a draft, parents before children; the fields of a `DraftTree`."""

    tokens: Sequence[int] = ()
    parents: Sequence[int] = ()
    chances: Sequence[float] = ()
    kinds: Sequence[int] = ()


NOTHING = Nodes()


class Bounds(NamedTuple):
    """How large a draft may be.

    Args:
        nodes: most nodes, those that are given not among them.
        depth: most nodes on a branch.
        branches: most candidates for a token that are added.
        floor: nodes that are accepted with a smaller chance than this are left out.
    """

    nodes: int
    depth: int
    branches: int
    floor: float


@dataclass(frozen=True)
class Context:
    """The end of a text, as far as an index knows it.

    Args:
        length: of the match.
        followers: token → how often it came next; the latest one last.
        source: number of the index that it is from.
        weight: w of that index.
    """

    length: int
    followers: dict[int, int]
    source: int
    weight: float

    @property
    def total(self) -> int:
        """Occurrences that had a follower."""
        return sum(self.followers.values())

    @property
    def escape(self) -> float:
        """What weighs as much as so many more occurrences with followers that were never seen."""
        return self.weight * len(self.followers) / self.length

    def frequent(self) -> list[tuple[int, int]]:
        """The most frequent followers with their counts, of equal ones the latest first."""
        latest = list(self.followers.items())[::-1]
        return sorted(latest, key=lambda each: -each[1])[:FOLLOWERS]


class Index:
    """Texts, by the followers of all their contexts. A token costs O(MATCH); nothing is forgotten."""

    def __init__(self) -> None:
        self._followers: dict[tuple[int, ...], dict[int, int]] = {}
        self._end: tuple[int, ...] = ()
        self.size = 0
        """Tokens in it."""

    def extend(self, tokens: Sequence[int], fresh: bool = False) -> None:
        """Adds tokens to the text that was added to last, or as a new one.

        Args:
            tokens: ids, >= 0.
            fresh: whether they begin a text; no context reaches over that border.
        """
        if fresh:
            self._end = ()
        for token in tokens:
            for first in range(len(self._end)):
                followers = self._followers.setdefault(self._end[first:], {})
                followers[token] = followers.pop(token, 0) + 1
            self._end = (*self._end, token)[-MATCH:]
        self.size += len(tokens)

    @property
    def nbytes(self) -> int:
        """Memory that its tables hold, roughly."""
        tables = (self._followers, *self._followers, *self._followers.values())
        return sum(map(getsizeof, tables))

    def contexts(self, text: Sequence[int], source: int = 0) -> Iterator[Context]:
        """The ends of a text that have followers, longest first; those with as many as a longer one are passed over,
        since they have the same."""
        total, weight = 0, weight_of(self.size)
        for length in range(min(MATCH, len(text)), 0, -1):
            context = Context(length, self._followers.get(tuple(text[-length:]), {}), source, weight)
            if context.total > total:
                total = context.total
                yield context


def draft(sources: Sequence[Index], text: Sequence[int], bounds: Bounds, given: Nodes = NOTHING) -> Nodes:
    """The likeliest continuations of a text, best first: nodes in falling survival, the product of the chances on the
    way to them.

    A node's chance is that of its token after the text and the nodes above it; its kind tells the source, the length of
    the longest match (`LENGTHS`) and the chance apart.

    Args:
        sources: of two matches of equal length that of the first source counts first.
        text: of which the last `MATCH` tokens are looked at.
        bounds: how large the draft may be.
        given: nodes that are there already, with their chances; children are added below them and beside them.

    Returns:
        The new nodes; parents are numbered with the given nodes first.
    """
    tree = _Tree(sources, text, bounds, given)
    for node in range(ROOT, len(given.tokens)):
        tree.expand(node)
    while tree.waiting and len(tree.chances) < len(given.tokens) + bounds.nodes:
        tree.expand(tree.add(tree.likeliest()))
    new = slice(len(given.tokens), None)
    return Nodes(tree.tokens[new], tree.parents[new], tree.chances[new], tree.kinds[new])


@dataclass(frozen=True)
class _Leaf:
    """A node that is not in the tree yet."""

    parent: int
    token: int
    chance: float
    kind: int


class _Tree:
    """A draft under construction, with its leaves in a queue."""

    def __init__(self, sources: Sequence[Index], text: Sequence[int], bounds: Bounds, given: Nodes) -> None:
        self.sources, self.bounds = sources, bounds
        self.tokens: list[int] = []
        self.parents: list[int] = []
        self.chances: list[float] = []
        self.kinds: list[int] = []
        self.texts = {ROOT: tuple(text[-MATCH:])}
        self.depths, self.survival = {ROOT: 0}, {ROOT: 1.0}
        self.waiting: list[tuple[float, int, _Leaf]] = []
        """By falling survival, earlier ones first."""
        self._order = count()
        for node in zip(given.parents, given.tokens, given.chances, given.kinds, strict=True):
            self.add(_Leaf(*node))

    def add(self, leaf: _Leaf) -> int:
        """Puts a leaf into the tree, and tells its number."""
        node, parent = len(self.tokens), leaf.parent
        self.tokens.append(leaf.token)
        self.parents.append(parent)
        self.chances.append(leaf.chance)
        self.kinds.append(leaf.kind)
        self.texts[node] = (*self.texts[parent], leaf.token)
        self.depths[node] = self.depths[parent] + 1
        self.survival[node] = self.survival[parent] * leaf.chance
        return node

    def likeliest(self) -> _Leaf:
        """Takes the next leaf from the queue."""
        return heapq.heappop(self.waiting)[-1]

    def expand(self, node: int) -> None:
        """Puts the children of a node in the queue."""
        if self.depths[node] >= self.bounds.depth:
            return
        there = {self.tokens[child] for child, parent in enumerate(self.parents) if parent == node}
        found = (each for each in _candidates(self.sources, self.texts[node]) if each[0] not in there)
        for token, chance, kind in islice(found, self.bounds.branches):
            survival = self.survival[node] * chance
            if survival >= self.bounds.floor:
                heapq.heappush(self.waiting, (-survival, next(self._order), _Leaf(node, token, chance, kind)))


def _candidates(sources: Sequence[Index], text: Sequence[int]) -> list[tuple[int, float, int]]:
    """Token, chance and kind of what may follow a text, likeliest first."""
    found = [
        context for number, index in enumerate(sources) for context in islice(index.contexts(text, number), CONTEXTS)
    ]
    found.sort(key=lambda context: -context.length)
    chances: dict[int, float] = {}
    left = 1.0
    for context in found[:CONTEXTS]:
        weight = context.total + context.escape
        for token, times in context.frequent():
            chances[token] = chances.get(token, 0.0) + left * times / weight
        left *= context.escape / weight
    ranked = sorted(chances.items(), key=lambda each: -each[1])
    return [(token, chance, kind_of(found[0], chance)) for token, chance in ranked]


def weight_of(size: int) -> float:
    """w of an index with so many tokens."""
    return float(size**CROWDING)


def kind_of(longest: Context, chance: float) -> int:
    """A number for nodes that are accepted alike."""
    length = sum(longest.length >= least for least in LENGTHS) - 1
    step = min(int(chance * CHANCES), CHANCES - 1)
    return (min(longest.source, 1) * len(LENGTHS) + length) * CHANCES + step
