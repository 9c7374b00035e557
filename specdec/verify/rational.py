"""Exact arithmetic on small distributions, for the laws that rules state."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fractions import Fraction

from specdec.errors import SpecdecError
from specdec.verify.tree import DraftTree

Row = tuple[Fraction, ...]
"""One distribution over the vocabulary, or weights before they are normalised."""
DrawLaw = dict[tuple[int, ...], Fraction]
"""Candidate tokens of one node, in the order of their draw → probability."""
Law = dict[tuple[tuple[int, ...], int], Fraction]
"""(nodes of the accepted path, next token) → probability."""

ZERO, ONE = Fraction(0), Fraction(1)


@dataclass(frozen=True)
class ExactDraft:
    """One draft and the distributions around it.

    Args:
        tree: tokens and shape; its own q is not used.
        p: N + 1 rows, the target's distribution after the last committed token and after each node.
        q: N + 1 rows, the distribution that the children of the root and of each node were drawn from; None for a
            deterministic draft.
    """

    tree: DraftTree
    p: Sequence[Row]
    q: Sequence[Row] | None = None

    def q_of(self, node: int, candidate: int) -> Row:
        """What `candidate`, a child of `node`, was drawn from before any sibling was taken out."""
        if self.q is not None:
            return self.q[node + 1]
        return one_hot(self.tree.tokens[candidate], len(self.p[0]))


def one_hot(token: int, size: int) -> Row:
    """All mass on one token."""
    return tuple(ONE if i == token else ZERO for i in range(size))


def normalized(weights: Iterable[Fraction]) -> Row:
    """weights / Σ weights.

    Raises:
        SpecdecError: if there is no mass.
    """
    weights = tuple(weights)
    total = sum(weights)
    if total <= 0:
        raise SpecdecError("No mass to normalise: a law conditions on something that cannot happen.")
    return tuple(w / total for w in weights)


def exact_positive_part(p: Row, q: Row, weight: Fraction = ONE) -> Row:
    """(weight·p - q)+."""
    return tuple(max(weight * x - y, ZERO) for x, y in zip(p, q, strict=True))


def without(row: Row, token: int) -> Row:
    """The row with one token's mass set to zero."""
    return tuple(ZERO if i == token else x for i, x in enumerate(row))


def add(law: Law, outcome: tuple[tuple[int, ...], int], probability: Fraction) -> None:
    """Adds to one outcome; outcomes that cannot happen are left out."""
    if probability:
        law[outcome] = law.get(outcome, ZERO) + probability


def emit(law: Law, path: tuple[int, ...], probability: Fraction, row: Row) -> None:
    """Adds `probability` times a draw of the next token from `row`."""
    for token, share in enumerate(row):
        add(law, (path, token), probability * share)
