"""Trees for heads, none of whose drafted rows is kept: of all that was found only the best nodes are drafted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from specdec.drafters.dynamic import DynamicTree, kinds_of
from specdec.kernels.attention.columns import depths
from specdec.models.base import PassOutput
from specdec.models.pairs import TreeLimits
from specdec.verify.tree import ROOT, DraftTree


@dataclass(eq=False)
class LikeliestTree(DynamicTree):
    """A draft under construction whose nodes are chosen at its end, those that were run among them.

    Source: Li et al. 2024, EAGLE-2 (arXiv 2406.16858): nodes are gone on from for their values, and the draft is the
    best of all. Values fall along a branch, so what is not among the best now never will be, and is not run.

    Args:
        floor: least value of a node.
        deepen: another level is run only if the values of its nodes add up to so much, which is about what it can add
            to the accepted length.
    """

    floor: float = 0.0
    deepen: float = 0.0
    numbers: list[int] = field(default_factory=list)
    """Of every node that is run its place among the candidates."""

    @property
    def limits(self) -> TreeLimits:
        """What it may become, for who grows it by itself."""
        request = self.request
        return TreeLimits(len(self.shape), self.shape.depth, self.width, self.floor, self.deepen, request.noise)

    def by_itself(self, size: int) -> bool:
        """Whether a head of so many tokens can grow it from its logits, and noise that is known."""
        return self.by_largest(size) or (self.request.noise is not None and self.told(size))

    def grow(self, output: PassOutput) -> None:
        """See `GrowingTree.grow`."""
        first = len(self.candidates)
        self.candidates += [each for each in self._found(output) if each.value >= self.floor]
        self.num_run = len(self.tokens)
        self.level += 1
        for number in self._next(first):
            self.numbers.append(number)
            self._add(self.candidates[number])

    def tree(self) -> DraftTree:
        """The best nodes, in the order in which they were found: parents first, likelier siblings first."""
        kept = sorted(self._best())
        places = {number: place for place, number in enumerate(kept)}
        chosen = [self.candidates[number] for number in kept]
        parents = [ROOT if one.parent == ROOT else places[self.numbers[one.parent]] for one in chosen]
        return likeliest([one.token for one in chosen], parents, [one.chance for one in chosen])

    def _best(self) -> list[int]:
        """Candidates of largest value, as many as the draft has room for. Of equals the first: no node without its
        parent."""
        ranked = sorted(range(len(self.candidates)), key=lambda each: (-self.candidates[each].value, each))
        return ranked[: len(self.shape)]

    def _next(self, first: int) -> list[int]:
        """Which candidates, of those from `first` on, are run next. Every level to come is left a slot."""
        spare, later = len(self.shape) - len(self.tokens), self.shape.depth - 1 - self.level
        if later < 0:
            return []
        room = min(self.width, spare, max(spare - later, 1))
        chosen = [number for number in self._best() if number >= first][:room]
        return sorted(chosen) if sum(self.candidates[each].value for each in chosen) >= self.deepen else []


def likeliest(tokens: Sequence[int], parents: Sequence[int], chances: Sequence[float]) -> DraftTree:
    """A draft of nodes with their chances."""
    kinds = kinds_of(depths(parents, len(tokens)), chances)
    return DraftTree(tuple(tokens), tuple(parents), None, kinds, tuple(chances))
