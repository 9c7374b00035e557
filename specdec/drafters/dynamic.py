"""Trees whose shape follows the drafting model: what it is sure of goes deep, what it doubts goes wide."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from math import isfinite
from typing import NamedTuple

from torch import Tensor

from specdec.drafters.base import DraftRequest
from specdec.drafters.growth import GrowingTree
from specdec.drafters.stopping import Stop
from specdec.models.base import PassOutput
from specdec.verify.shape import KINDS
from specdec.verify.tree import ROOT, DraftTree, TreeShape

BINS = 16
"""Values of q that the kinds of nodes tell apart, at each depth."""


def kinds_of(depths: Sequence[int], chances: Sequence[float]) -> tuple[int, ...]:
    """Of each node a number that stands for its depth and for about how sure the drafting model is of it."""
    return tuple(
        min(depth, KINDS // BINS - 1) * BINS + min(int(chance * BINS), BINS - 1)
        for depth, chance in zip(depths, chances, strict=True)
    )


class Candidate(NamedTuple):
    """A token that may become a node. Its value is the product of q on the way to it."""

    value: float
    parent: int
    token: int
    chance: float


@dataclass(eq=False)
class DynamicTree(GrowingTree):
    """A draft under construction that keeps the nodes of largest value, the product of q from the root down to them.

    Source: Li et al. 2024, EAGLE-2 (arXiv 2406.16858), and Wang et al. 2024, OPT-Tree (arXiv 2406.17276): the sum of
    the values is the drafting model's own estimate of the accepted length. At every level the `width` best candidates
    below the last level's nodes become nodes and are run; at the end the best of all candidates fill the draft up to
    the size of the `shape`.

    Candidates are dropped for what they are. So this is for rules alone whose text does not depend on the draft
    (methods of docs/losslessness.md: a law of drawn tokens would change).

    Args:
        width: candidates of a node, and nodes of a level that are run.
    """

    width: int = 2
    values: list[float] = field(default_factory=list)
    chances: list[float] = field(default_factory=list)
    candidates: list[Candidate] = field(default_factory=list)

    @property
    def by_argmax(self) -> bool:
        """Values are made of all logits."""
        return False

    def chain(self, vocab_size: int) -> None:
        """It is none that is drawn."""

    def grow(self, output: PassOutput) -> None:
        """Takes in the candidates below the rows that were just run, and makes nodes of the best of them."""
        new = self._found(output)
        self.num_run = len(self.tokens)
        self.level += 1
        last = self.level == self.shape.depth
        room = 0 if last else min(self.width, len(self.shape) - len(self.tokens))
        ranked = sorted(range(len(new)), key=lambda each: (-new[each].value, each))
        for each in sorted(ranked[:room]):
            self._add(new[each])
        self.candidates += [new[each] for each in ranked[room:]]

    def tree(self) -> DraftTree:
        """The draft: all nodes, and the best candidates that there is room for."""
        ranked = sorted(range(len(self.candidates)), key=lambda each: (-self.candidates[each].value, each))
        for each in ranked[: len(self.shape) - len(self.tokens)]:
            self._add(self.candidates[each])
        self.candidates.clear()
        draft = DraftTree(tuple(self.tokens), tuple(self.parents))
        kinds = kinds_of(draft.depths, self.chances)
        return DraftTree(draft.tokens, draft.parents, None, kinds, tuple(self.chances))

    def _found(self, output: PassOutput) -> list[Candidate]:
        """The candidates below the rows that were just run, row by row, the best of a row first."""
        nodes = range(self.num_run, len(self.tokens)) if self.tokens else [ROOT]
        assert output.logits is not None
        if self.by_largest(output.logits.shape[1]):
            rows = self._likeliest(output)
        else:
            drawn = DraftTree(tuple(self.tokens), tuple(self.parents))
            rows = [self._ranked(own, drawn.prefix(node)) for own, node in zip(output.logits, nodes, strict=True)]
        above = [1.0 if node == ROOT else self.values[node] for node in nodes]
        return [
            Candidate(value * chance, node, token, chance)
            for value, node, row in zip(above, nodes, rows, strict=True)
            for token, chance in row
        ]

    def by_largest(self, size: int) -> bool:
        """Whether candidates are the largest logits as they are: no logit is edited, and the target has all of the
        drafting model's tokens, so many."""
        return self.request.by_argmax and self.told(size)

    def told(self, size: int) -> bool:
        """Whether the target has all of the drafting model's tokens, so many."""
        return size <= self.request.transform.vocab_size if self.known is None else self.known.whole(size)

    def _likeliest(self, output: PassOutput) -> list[list[tuple[int, float]]]:
        """The largest of each row and their chances, of all rows at once, where no logit is edited."""
        tokens: list[list[int]] = output.top(self.width).tolist()
        chances: list[list[float]] = output.chances(self.width).tolist()
        if not all(isfinite(row[0]) for row in chances):
            self.request.transform.require_mass(output.maxima.values)
        told = tokens if self.known is None else [self.known.told(row) for row in tokens]
        return [list(zip(*row, strict=True)) for row in zip(told, chances, strict=True)]

    def _ranked(self, own: Tensor, prefix: Sequence[int]) -> list[tuple[int, float]]:
        """The candidates below one node, and their chances.

        Args:
            own: the drafting model's logits there.
            prefix: draft tokens on the way.
        """
        if self.known is not None and self.known.in_order and not self.request.transform.edits:
            return self.request.ranked(own, prefix, self.width, self.known.ids)
        return self._over_known(own, lambda logits: self.request.ranked(logits, prefix, self.width)) or []

    def _add(self, candidate: Candidate) -> None:
        self.tokens.append(candidate.token)
        self.parents.append(candidate.parent)
        self.values.append(candidate.value)
        self.chances.append(candidate.chance)


def start_tree(
    dynamic: bool,
    request: DraftRequest,
    shape: TreeShape,
    slots: Tensor,
    committed: int,
    tail: Sequence[int],
    stop: Stop | None = None,
) -> GrowingTree:
    """A tree to grow: of the given shape, or of as many nodes if its shape is to follow the drafting model.

    Args:
        dynamic: whether it is, for requests whose text does not depend on the draft.
        request, shape, slots, committed, tail, stop: see `GrowingTree`; a tree that follows the model needs no stop.
    """
    if dynamic and request.rule.draft_invariant:
        return DynamicTree(request, shape, slots, committed, tail, width=shape.widest)
    return GrowingTree(request, shape, slots, committed, tail, stop)
