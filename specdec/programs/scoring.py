"""How probable texts are, and which of several goes on best: one pass over a tree, and five ways to compare."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

from specdec.verify.tree import ROOT, DraftTree

By = Literal["mean", "sum", "greedy", "normalised by context", "sample"]


@dataclass(frozen=True)
class Score:
    """How probable a text is, under the target itself.

    Args:
        token_ids: of the text, from the first one on that it changes at the border.
        logprobs: natural log-probability of each.
    """

    token_ids: tuple[int, ...]
    logprobs: tuple[float, ...]

    @property
    def total(self) -> float:
        """log p of the text after the session's."""
        return sum(self.logprobs)

    @property
    def mean(self) -> float:
        """The total over the number of tokens."""
        return self.total / len(self.logprobs)


@dataclass(frozen=True)
class Selection:
    """What came of `Session.select`.

    Args:
        choice: the text that was selected, which the session goes on with.
        index: its place among the choices.
        scores: of each choice the number that was compared, in the order of the choices; see `Session.select`.
        logprobs: of each choice its natural log-probability, the sum over its tokens.
    """

    choice: str
    index: int
    scores: tuple[float, ...]
    logprobs: tuple[float, ...]


@dataclass(frozen=True)
class Choices:
    """Tokens of several choices as a tree, in which common beginnings are there once.

    Args:
        paths: tokens of each choice, distinct and not empty.
        ends: end tokens. Where a choice ends inside a longer one, they stand below it: whether the text ends there is
            their business.
    """

    paths: Sequence[tuple[int, ...]]
    ends: Sequence[int] = ()

    @cached_property
    def tree(self) -> DraftTree:
        """All of it."""
        inner = [path for path in self.paths if any(other[: len(path)] == path != other for other in self.paths)]
        return DraftTree.from_chains([*self.paths, *((*path, end) for path in inner for end in self.ends)])


@dataclass(frozen=True)
class Scored:
    """Choices with what a pass said of them.

    Args:
        choices: that were scored.
        logprobs: of each node of their tree.
        alone: the same without the context, where a way asks for it.
        uniform: a random number in (0, 1).
    """

    choices: Choices
    logprobs: Sequence[float]
    alone: Sequence[float] = ()
    uniform: float = 0.5

    def sums(self, logprobs: Sequence[float]) -> list[float]:
        """Of each choice the sum over its tokens."""
        return [sum(logprobs[node] for node in self._nodes(path)) for path in self.choices.paths]

    def next_token(self, path: tuple[int, ...]) -> int:
        """The most probable token among those that the tree has below a path; the lowest id of equals."""
        tree, node = self.choices.tree, [ROOT, *self._nodes(path)][-1]
        return min((-self.logprobs[child], tree.tokens[child]) for child in tree.children(node))[1]

    def _nodes(self, path: tuple[int, ...]) -> list[int]:
        """Those on the path, first to last."""
        tree, nodes = self.choices.tree, [ROOT]
        for token in path:
            nodes.append(next(child for child in tree.children(nodes[-1]) if tree.tokens[child] == token))
        return nodes[1:]


def by_sum(scored: Scored) -> list[float]:
    """log p of the choice."""
    return scored.sums(scored.logprobs)


def by_mean(scored: Scored) -> list[float]:
    """log p of the choice over its number of tokens."""
    return [total / len(path) for total, path in zip(by_sum(scored), scored.choices.paths, strict=True)]


def by_context(scored: Scored) -> list[float]:
    """What the context adds to log p of the choice, over its number of tokens (Holtzman et al. 2021, surface form
    competition, arXiv 2104.08315, their PMI)."""
    pairs = zip(by_sum(scored), scored.sums(scored.alone), scored.choices.paths, strict=True)
    return [(within - alone) / len(path) for within, alone, path in pairs]


def by_greed(scored: Scored) -> list[float]:
    """1 for the choice that greedy decoding arrives at if no other text than the choices may be written, 0 for the
    others."""
    paths, written = scored.choices.paths, tuple[int, ...]()
    while any(path[: len(written)] == written != path for path in paths):
        token = scored.next_token(written)
        if written in paths and not any(path[: len(written) + 1] == (*written, token) for path in paths):
            break
        written = (*written, token)
    return [float(path == written) for path in paths]


def by_chance(scored: Scored) -> list[float]:
    """Probability of each choice, given that the text goes on with one of them; with the longest one, where one begins
    with another. They add up to 1."""
    paths, sums = scored.choices.paths, by_sum(scored)
    largest = max(sums)
    masses = [math.exp(one - largest) for one in sums]
    own = dict[tuple[int, ...], float]()
    for path, mass in sorted(zip(paths, masses, strict=True), key=lambda pair: -len(pair[0])):
        own[path] = max(mass - sum(own[other] for other in own if other[: len(path)] == path), 0.0)
    total = sum(own.values())
    return [own[path] / total for path in paths]


WAYS: Mapping[By, Callable[[Scored], list[float]]] = {
    "mean": by_mean,
    "sum": by_sum,
    "greedy": by_greed,
    "normalised by context": by_context,
    "sample": by_chance,
}
"""By their names."""


def chosen(by: By, scores: Sequence[float], uniform: float) -> int:
    """The place of the largest score, the first of equals; "sample" draws it, with the scores as probabilities."""
    if by != "sample":
        return max(range(len(scores)), key=scores.__getitem__)
    for index, score in enumerate(scores):
        uniform -= score
        if uniform < 0:
            return index
    return max(index for index, score in enumerate(scores) if score > 0)
