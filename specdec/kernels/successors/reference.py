"""Which tokens follow which, in plain Python; `specdec.kernels.successors` says what it is for."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from specdec.kernels.rows import gumbel_noise
from specdec.randomness import RandomSource

ORDER, WIDTH, WAYS, PREVIOUS = 3, 8, 4, 2
"""Tokens of the longest context; successors of one; entries of a bucket; rows before a draft."""
TOKEN_BITS = 20
"""A context and its length fit a word."""
KEPT, REFUSED, READ = range(3)
"""Where a list comes from: the row of an accepted token, of a refused one, or the text of a prompt."""
FIRST_ROWS = 6 * ORDER
SOURCES = FIRST_ROWS + 1 + PREVIOUS
WORD = 2**64 - 1


class Heard(NamedTuple):
    """The noise under which a target draws, T g, known before it does: it takes the largest of its logits and this.

    Args:
        temperature: T, above 0.
        random: the request's own source.
        position: of the first token that is drafted.
    """

    temperature: float
    random: RandomSource
    position: int


@dataclass
class Entry:
    """Successors of a context, likeliest first."""

    scope: int
    key: int
    owner: int = 0
    origin: int = READ
    stamp: int = 0
    tokens: list[int] = field(default_factory=list)


class Table:
    """See `specdec.kernels.successors.Successors`, whose arguments and methods it has."""

    def __init__(
        self,
        buckets: int,
        ranks: Sequence[Sequence[float]],
        lengths: Sequence[float],
        noise: tuple[float, float],
        first: Sequence[Sequence[int]] | None = None,
    ) -> None:
        self._ranks, self._lengths, self._noise, self._first = ranks, lengths, noise, first
        self._buckets: list[list[Entry]] = [[] for _ in range(buckets)]
        self._clock = 0

    @property
    def nbytes(self) -> int:
        """Roughly."""
        return sum(500 * len(bucket) for bucket in self._buckets)

    def read(self, scope: int, owner: int, text: Sequence[int], known: int) -> None:
        """Every token after the first `known` follows those before it."""
        for i in range(max(known, 1), len(text)):
            for length in range(1, min(ORDER, i) + 1):
                entry = self._entry_for(scope, owner, text[i - length : i], READ)
                entry.tokens = [text[i], *(token for token in entry.tokens if token != text[i])][:WIDTH]

    def learn(
        self,
        scope: int,
        owner: int,
        context: Sequence[int],
        tokens: Sequence[int],
        parents: Sequence[int],
        path: Sequence[int],
        top: Sequence[Sequence[int]] | npt.NDArray[np.int32],
    ) -> None:
        """Rows of a verified draft: first those that were refused, in their order, then the kept ones."""
        refused = [node for node in range(len(tokens)) if node not in path]
        for node, origin in [*((node, REFUSED) for node in refused), *((node, KEPT) for node in (-1, *path))]:
            text = [*context, *_path(tokens, parents, node)][-ORDER:]
            for length in range(1, len(text) + 1):
                self._entry_for(scope, owner, text[-length:], origin).tokens = [int(t) for t in top[node + 1][:WIDTH]]

    def grow(
        self,
        scope: int,
        owner: int,
        context: Sequence[int],
        previous: Sequence[Sequence[int]],
        tokens: Sequence[int],
        parents: Sequence[int],
        chances: Sequence[float],
        nodes: int,
        depth: int,
        floor: float,
        noise: Heard | None = None,
    ) -> tuple[list[int], list[int], list[float]]:
        """The tree with more nodes, likeliest first: their tokens, parents and chances."""
        tokens, parents, chances = list(tokens), list(parents), list(chances)
        given = {(parent, token) for parent, token in zip(parents, tokens, strict=True)}
        open_: list[tuple[float, float, int, int]] = []

        def offer(parent: int) -> None:
            drafted = _path(tokens, parents, parent)
            if len(drafted) >= depth:
                return
            survival = math.prod(chances[node] for node in _nodes(parents, parent))
            for token, chance in self.ranked(scope, owner, [*context, *drafted], previous, len(drafted), noise):
                if survival * chance < floor:
                    break
                if (parent, token) not in given:
                    open_.append((survival * chance, chance, parent, token))

        for parent in range(-1, len(tokens)):
            offer(parent)
        while open_ and len(tokens) < nodes:
            best = max(open_, key=lambda each: each[0])
            open_.remove(best)
            _, chance, parent, token = best
            tokens.append(token)
            parents.append(parent)
            chances.append(chance)
            offer(len(tokens) - 1)
        return tokens, parents, chances

    def ranked(
        self,
        scope: int,
        owner: int,
        text: Sequence[int],
        previous: Sequence[Sequence[int]],
        depth: int,
        noise: Heard | None = None,
    ) -> list[tuple[int, float]]:
        """What may follow a text whose last `depth` tokens are drafted, likeliest first, each with its chance: log-odds
        of all lists that know the text are added up, and of the noise."""
        scores = self.scores(self.lists(scope, owner, text, previous, depth))
        if noise is not None and scores:
            ids, t = torch.tensor(list(scores), dtype=torch.int64), noise.temperature
            given = gumbel_noise(noise.random, noise.position + depth, len(ids), ids).tolist()
            for token, g in zip(scores, given, strict=True):
                scores[token] += t * (self._noise[0] * g + t * self._noise[1])
        chances = {token: 1 / (1 + math.exp(-score)) for token, score in scores.items()}
        total = max(sum(chances.values()), 1.0)
        return sorted(((token, chance / total) for token, chance in chances.items()), key=lambda each: -each[1])

    def scores(self, lists: Sequence[tuple[int, Sequence[int]]]) -> dict[int, float]:
        """Log-odds of all tokens of some lists, added up."""
        longest = max((source // 6 + 1 for source, _ in lists if source < FIRST_ROWS), default=0)
        missing = self._lengths[longest] + sum(self._ranks[source][WIDTH] for source, _ in lists)
        scores: dict[int, float] = {}
        for source, tokens in lists:
            for rank, token in enumerate(tokens):
                gain = self._ranks[source][rank] - self._ranks[source][WIDTH]
                scores[token] = scores.get(token, missing) + gain
        return scores

    def lists(
        self, scope: int, owner: int, text: Sequence[int], previous: Sequence[Sequence[int]], depth: int
    ) -> list[tuple[int, list[int]]]:
        """Every list that knows a text, with the number of its source."""
        found: list[tuple[int, list[int]]] = []
        for length in range(min(len(text), ORDER), 0, -1):
            if (entry := self._find(scope, text[-length:])) is not None:
                found.append((6 * (length - 1) + 2 * entry.origin + (entry.owner == owner), entry.tokens))
        if self._first is not None and text:
            found.append((FIRST_ROWS, list(self._first[text[-1]])))
        rows_before = range(FIRST_ROWS + 1 + depth, SOURCES)
        found += [(source, list(tokens)) for source, tokens in zip(rows_before, previous, strict=False)]
        return [(source, tokens) for source, tokens in found if tokens]

    def forget(self, scope: int) -> None:
        """Nothing of this scope is known any more."""
        self._buckets = [[entry for entry in bucket if entry.scope != scope] for bucket in self._buckets]

    def _find(self, scope: int, context: Sequence[int]) -> Entry | None:
        key = _key(context)
        return next((one for one in self._bucket(scope, key) if (one.scope, one.key) == (scope, key)), None)

    def _entry_for(self, scope: int, owner: int, context: Sequence[int], origin: int) -> Entry:
        """The entry of a context, which is empty if it is new; of a full bucket the oldest makes room."""
        entry, key = self._find(scope, context), _key(context)
        if entry is None:
            bucket = self._bucket(scope, key)
            if len(bucket) == WAYS:
                bucket.remove(min(bucket, key=lambda one: one.stamp))
            entry = Entry(scope, key)
            bucket.append(entry)
        self._clock += 1
        entry.stamp, entry.owner, entry.origin = self._clock, owner, origin
        return entry

    def _bucket(self, scope: int, key: int) -> list[Entry]:
        word = (key ^ scope * 0x9E3779B97F4A7C15 & WORD) * 0xBF58476D1CE4E5B9 & WORD
        word = (word ^ word >> 29) * 0x94D049BB133111EB & WORD
        return self._buckets[(word >> 32) % len(self._buckets)]


def _key(context: Sequence[int]) -> int:
    """A context as a number that no other has."""
    key = len(context)
    for i in range(ORDER):
        key = key << TOKEN_BITS | (context[i] if i < len(context) else 0)
    return key & WORD


def _nodes(parents: Sequence[int], node: int) -> list[int]:
    nodes: list[int] = []
    while node >= 0:
        nodes.append(node)
        node = parents[node]
    return nodes[::-1]


def _path(tokens: Sequence[int], parents: Sequence[int], node: int) -> list[int]:
    return [tokens[each] for each in _nodes(parents, node)]
