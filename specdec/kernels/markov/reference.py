"""Trees from a block of logits in plain torch: what the native code must give."""

from __future__ import annotations

import math
from typing import NamedTuple

from torch import Tensor


class Grown(NamedTuple):
    """A tree of draft tokens; parents come before their children, -1 for the anchor.

    Args:
        tokens: indices into the draft vocabulary.
        parents: of each node its parent.
        chances: of each node, that it is accepted once its parent is.
    """

    tokens: list[int]
    parents: list[int]
    chances: list[float]


def corrected(row: Tensor, before: Tensor | None, after: Tensor | None, previous: int) -> Tensor:
    """A row of logits, [Vd], with the term of the token before it: row + W2 W1[previous].

    Args:
        row: float [Vd].
        before, after: W1, [n, r], of the Vd tokens first, and W2, [Vd, r]; None if there is no term.
        previous: row of W1 of the token before it.
    """
    return row if before is None or after is None else row + after @ before[previous]


def grow(
    logits: Tensor,
    confidences: Tensor | None,
    before: Tensor | None,
    after: Tensor | None,
    weights: Tensor | None,
    anchor: int,
    nodes: int,
    floor: float,
) -> Grown:
    """The nodes of largest value of one block, best first: the product of chances from the anchor down to a node.

    Source: Ringel and Romano 2026 (DDTree, arXiv 2604.12989) for a best-first tree over one block pass; here the
    chances of a node's children depend on its token.

    Args:
        logits: float [γ, Vd], row d of the token at depth d, without the term of the token before it.
        confidences: float [γ], log-odds that the token is accepted if those before it are; None: certain.
        before, after: see `corrected`.
        weights: float [r], what W1[token before] adds to a row's confidence; None for nothing.
        anchor: row of W1 of the token before the first row.
        nodes: most nodes.
        floor: least value of a node.
    """
    grown, values, depths = Grown([], [], []), list[float](), list[int]()
    open_: list[tuple[float, float, int, int]] = []

    def offer(node: int) -> None:
        depth, previous, above = (depths[node] + 1, grown.tokens[node], values[node]) if node >= 0 else (0, anchor, 1.0)
        if depth >= len(logits):
            return
        row = corrected(logits[depth], before, after, previous)
        sure = 1.0 if confidences is None else _confidence(float(confidences[depth]), before, weights, previous)
        law = (row - row.logsumexp(0)).exp() * sure
        ranked = law.sort(descending=True, stable=True)
        for token, chance in zip(ranked.indices[:nodes].tolist(), ranked.values[:nodes].tolist(), strict=True):
            if above * chance > 0 and above * chance >= floor:
                open_.append((above * chance, min(chance, 1.0), token, node))

    offer(-1)
    while open_ and len(grown.tokens) < nodes:
        best = max(open_, key=lambda each: each[0])
        open_.remove(best)
        value, chance, token, parent = best
        grown.tokens.append(token)
        grown.parents.append(parent)
        grown.chances.append(chance)
        values.append(value)
        depths.append(0 if parent < 0 else depths[parent] + 1)
        offer(len(values) - 1)
    return grown


def _confidence(odds: float, before: Tensor | None, weights: Tensor | None, previous: int) -> float:
    added = 0.0 if before is None or weights is None else float(before[previous] @ weights)
    total = odds + added
    return 1 / (1 + math.exp(-total)) if total > -700 else 0.0
