"""Traversal verification: a whole tree from its leaves to its root (Weng et al. 2025)."""

from __future__ import annotations

from fractions import Fraction

from torch import Tensor

from specdec.randomness import Stream
from specdec.sampling import probabilities, sample_from_weights
from specdec.verify.base import StepKey, Verdict
from specdec.verify.draws import DrawsWithoutReplacement
from specdec.verify.rational import ONE, ZERO, ExactDraft, Law, emit, exact_positive_part, normalized, without
from specdec.verify.residuals import draft_probability, keep_probability, positive_part
from specdec.verify.tree import ROOT, DraftTree


class TraversalRule(DrawsWithoutReplacement):
    """Walks down to a leaf before it decides, so a good continuation can save a doubtful node.

    A node is visited with weight π. Each child x gets π_x = min(1, π·P(x)/Q(x)) and is visited first; if nothing below
    it is accepted, R = (πP - Q)+, Z = ΣR, π ← Z/(Z + 1 - π), P ← R/Z, and x leaves Q. A node without children left is
    accepted with probability π, the root always, and the next token follows P. On a chain this is block verification.
    """

    name = "traversal"

    def accept_one(self, tree: DraftTree, scores: Tensor, key: StepKey) -> Verdict:
        """Visits the root, which accepts at the latest when all below it has refused."""
        verdict = self._visit(ROOT, 1.0, tree, scores, key)
        assert verdict is not None
        return verdict

    def _visit(self, node: int, weight: float, tree: DraftTree, scores: Tensor, key: StepKey) -> Verdict | None:
        """The verdict of the subtree of `node`, or None if nothing in it is accepted."""
        children = tree.children(node)
        p, q = probabilities(scores[node + 1]), tree.q_below(node)
        for child in children:
            x = tree.tokens[child]
            down = min(1.0, weight * float(p[x]) / draft_probability(x, q))
            if (verdict := self._visit(child, down, tree, scores, key)) is not None:
                return verdict
            rest = positive_part(p, q, x, weight)
            if q is not None:
                q = q.clone()
                q[x] = 0.0
                q = q / q.sum()  # NaN once all of q's support was drawn; there is no further child then
            mass = float(rest.sum())
            weight = keep_probability(mass, weight) if mass > 0.0 else 0.0
            if mass > 0.0:
                p = rest / mass
        path = tree.path(node)
        position = key.anchor + len(path)
        if node != ROOT and key.random.uniform(Stream.ACCEPT, position - 1, key.anchor, node) >= weight:
            return None
        stream = Stream.RESIDUAL if children else Stream.BONUS
        return Verdict(path, sample_from_weights(p, key.random.uniform(stream, position, key.anchor)))

    def law(self, draft: ExactDraft) -> Law:
        """The same visits; what a subtree accepts and what it refuses add up to the chance of its visit."""
        law: Law = {}
        self._visit_law(ROOT, ONE, ONE, draft, law)
        return law

    def _visit_law(self, node: int, weight: Fraction, reached: Fraction, draft: ExactDraft, law: Law) -> Fraction:
        """Adds the verdicts of the subtree; returns the probability that nothing in it is accepted."""
        p, drawn = draft.p[node + 1], list[int]()
        for child in draft.tree.children(node):
            x, q = draft.tree.tokens[child], draft.q_of(node, child)
            for earlier in drawn:
                q = without(q, earlier)
            q = normalized(q)
            down = min(ONE, weight * p[x] / q[x])
            reached = self._visit_law(child, down, reached, draft, law)
            if not reached:
                return ZERO
            rest = exact_positive_part(p, q, weight)
            left = sum(rest, ZERO)
            weight = keep_probability(left, weight)
            if left:
                p = normalized(rest)
            drawn.append(x)
        accepted = ONE if node == ROOT else weight
        if reached * accepted:
            emit(law, draft.tree.path(node), reached * accepted, p)
        return reached * (ONE - accepted)
