"""Mistakes that only the third or fourth candidate of a node shows: with fewer, or with three tokens, they are none."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction

import torch
from torch import Tensor

from specdec.randomness import Stream
from specdec.sampling import probabilities, sample_from_weights
from specdec.verify.base import Rule, StepKey, Verdict
from specdec.verify.hsd import HierarchicalRule, _first_branch, _scan, _scan_law
from specdec.verify.kseq import KSeqRule, solve_rho
from specdec.verify.multiround import MultiroundRule
from specdec.verify.nodewise import Uniform
from specdec.verify.rational import ONE, ZERO, ExactDraft, Law, Row, emit, exact_positive_part, normalized, without
from specdec.verify.residuals import draft_probability, keep_probability, positive_part, residual
from specdec.verify.rrs import RecursiveRejectionRule
from specdec.verify.traversal import TraversalRule
from specdec.verify.tree import ROOT, DraftTree


class QNotRenormalised(RecursiveRejectionRule):
    """A refused candidate leaves q; from the n-th refusal on, what stays is not normalised.

    Args:
        refusals: n.
        exact: whether the law that is stated makes the same mistake.
    """

    def __init__(self, refusals: int, exact: bool) -> None:
        self.refusals, self.exact = refusals, exact

    def select(self, p: Tensor, tokens: Sequence[int], q: Tensor | None, u: Uniform) -> tuple[int | None, Tensor]:
        for place, x in enumerate(tokens):
            if u(place) * draft_probability(x, q) < float(p[x]):
                return place, p
            rest = residual(p, x, q)
            if rest is None:
                return place, p
            p = rest
            if q is not None and place + 1 < len(tokens):
                q = q.clone()
                q[x] = 0.0
                q = q / q.sum() if place + 1 < self.refusals else q
        return None, p

    def select_law(self, p: Row, tokens: Sequence[int], q: Sequence[Row]) -> tuple[list[Fraction], Row]:
        if not self.exact:
            return super().select_law(p, tokens, q)
        accepted, reached = list[Fraction](), ONE
        for place, (x, row) in enumerate(zip(tokens, q, strict=True)):
            for refused, earlier in enumerate(tokens[:place], 1):
                row = without(row, earlier)
                row = normalized(row) if refused < self.refusals else row
            chance = min(ONE, p[x] / row[x])
            accepted.append(reached * chance)
            reached *= ONE - chance
            if not reached:
                break
            p = normalized(exact_positive_part(p, row))
        return [*accepted, *[ZERO] * (len(tokens) - len(accepted))], p


class TraversalQNotRenormalised(TraversalRule):
    """The same in `traversal`, in what it does alone."""

    def __init__(self, refusals: int) -> None:
        self.refusals = refusals

    def _visit(self, node: int, weight: float, tree: DraftTree, scores: Tensor, key: StepKey) -> Verdict | None:
        children = tree.children(node)
        p, q = probabilities(scores[node + 1]), tree.q_below(node)
        for place, child in enumerate(children, 1):
            x = tree.tokens[child]
            down = min(1.0, weight * float(p[x]) / draft_probability(x, q))
            if (verdict := self._visit(child, down, tree, scores, key)) is not None:
                return verdict
            rest = positive_part(p, q, x, weight)
            if q is not None:
                q = q.clone()
                q[x] = 0.0
                q = q / q.sum() if place < self.refusals else q
            mass = float(rest.sum())
            weight = keep_probability(mass, weight) if mass > 0.0 else 0.0
            p = rest / mass if mass > 0.0 else p
        position = key.anchor + len(tree.path(node))
        if node != ROOT and key.random.uniform(Stream.ACCEPT, position - 1, key.anchor, node) >= weight:
            return None
        u = key.random.uniform(Stream.RESIDUAL if children else Stream.BONUS, position, key.anchor)
        return Verdict(tree.path(node), sample_from_weights(p, u))


class TraversalLawNotRenormalised(TraversalRule):
    """The same in the law that `traversal` states, which then is not the target's."""

    def __init__(self, refusals: int) -> None:
        self.refusals = refusals

    def _visit_law(self, node: int, weight: Fraction, reached: Fraction, draft: ExactDraft, law: Law) -> Fraction:
        p, children = draft.p[node + 1], draft.tree.children(node)
        q = draft.q_of(node, children[0]) if children else ()
        for place, child in enumerate(children, 1):
            x = draft.tree.tokens[child]
            if draft.q is None:
                q = draft.q_of(node, child)
            reached = self._visit_law(child, min(ONE, weight * p[x] / q[x]), reached, draft, law)
            if not reached:
                return ZERO
            rest = exact_positive_part(p, q, weight)
            left = sum(rest, ZERO)
            weight = keep_probability(left, weight)
            p = normalized(rest) if left else p
            q = without(q, x)
            q = normalized(q) if place < self.refusals and any(q) else q
        accepted = ONE if node == ROOT else weight
        if reached * accepted:
            emit(law, draft.tree.path(node), reached * accepted, p)
        return reached * (ONE - accepted)


class ResidualNotNormalizedLater(MultiroundRule):
    """What is left of p is normalised after the first refusals, and not from the n-th on."""

    def __init__(self, refusals: int) -> None:
        self.refusals = refusals

    def select(self, p: Tensor, tokens: Sequence[int], q: Tensor | None, u: Uniform) -> tuple[int | None, Tensor]:
        for place, x in enumerate(tokens):
            if u(place) * draft_probability(x, q) < float(p[x]):
                return place, p
            rest = positive_part(p, q, x)
            if not rest.sum() > 0:
                return place, p
            p = rest / rest.sum() if place + 1 < self.refusals else rest
        return None, p


class SecondResidualIsTheFirst(MultiroundRule):
    """From the third candidate on, each is tested against what the first refusal has left."""

    def select(self, p: Tensor, tokens: Sequence[int], q: Tensor | None, u: Uniform) -> tuple[int | None, Tensor]:
        for place, x in enumerate(tokens):
            if u(place) * draft_probability(x, q) < float(p[x]):
                return place, p
            rest = residual(p, x, q)
            if rest is None:
                return place, p
            p = rest if place == 0 else p
        return None, p


class KSeqForTwo(KSeqRule):
    """k-SEQ whose next token is weighted for two candidates, however many there are."""

    def select(self, p: Tensor, tokens: Sequence[int], q: Tensor | None, u: Uniform) -> tuple[int | None, Tensor]:
        accepted, weights = super().select(p, tokens, q, u)
        if accepted is None and q is not None:
            p, q = p.double(), q.double()
            covered = torch.minimum(p / float(solve_rho(p, q, len(tokens))), q)
            beta = float(covered.sum())
            share = (1 - (1 - beta) ** min(len(tokens), 2)) / beta if beta else 0.0
            weights = torch.clamp(p - covered * share, min=0.0)
        return accepted, weights


class HierarchicalThirdBranchForgets(HierarchicalRule):
    """The third branch below a node is tested against p, as if none had been refused."""

    def accept_one(self, tree: DraftTree, scores: Tensor, key: StepKey) -> Verdict:
        path: tuple[int, ...] = ()
        p, left, tried = probabilities(scores[0]), tree.children(ROOT), 0
        while left:
            first = probabilities(scores[(path[-1] if path else ROOT) + 1]) if tried == 2 else p
            branch = _first_branch(tree, left[0])
            kept, p = _scan(tree, branch, [first, *(probabilities(scores[node + 1]) for node in branch)], key)
            path += branch[:kept]
            tried = 1 if kept else tried + 1
            left = tree.children(path[-1])[1:] if kept else left[1:]
        stream = Stream.RESIDUAL if tree.children(path[-1] if path else ROOT) else Stream.BONUS
        return Verdict(path, sample_from_weights(p, key.random.uniform(stream, key.anchor + len(path), key.anchor)))

    def law(self, draft: ExactDraft) -> Law:
        law: Law = {}

        def walk(path: tuple[int, ...], p: Row, left: list[int], tried: int, probability: Fraction) -> None:
            if not left:
                emit(law, path, probability, p)
                return
            branch = _first_branch(draft.tree, left[0])
            first = draft.p[(path[-1] if path else ROOT) + 1] if tried == 2 else p
            for kept, chance, rest in _scan_law(draft, branch, first):
                below = draft.tree.children(branch[kept - 1])[1:] if kept else left[1:]
                walk(path + branch[:kept], rest, below, 1 if kept else tried + 1, probability * chance)

        walk((), draft.p[0], draft.tree.children(ROOT), 0, ONE)
        return law


CANDIDATES: dict[str, Rule] = {
    "rrs, after the second refusal": QNotRenormalised(2, exact=True),
    "rrs, after the third refusal": QNotRenormalised(3, exact=True),
    "rrs, after the second refusal, tensors alone": QNotRenormalised(2, exact=False),
    "rrs, after the third refusal, tensors alone": QNotRenormalised(3, exact=False),
    "traversal, after the second refusal": TraversalQNotRenormalised(2),
    "traversal, after the third refusal": TraversalQNotRenormalised(3),
    "traversal, after the second refusal, law alone": TraversalLawNotRenormalised(2),
    "traversal, after the third refusal, law alone": TraversalLawNotRenormalised(3),
    "multiround, after the second refusal": ResidualNotNormalizedLater(2),
    "multiround, after the third refusal": ResidualNotNormalizedLater(3),
    "multiround, second residual": SecondResidualIsTheFirst(),
    "kseq, next token for two": KSeqForTwo(),
    "hsd, third branch": HierarchicalThirdBranchForgets(),
}
