"""Block verification of a chain (Sun et al., ICLR 2025): optimal among rules that draft one path."""

from __future__ import annotations

from fractions import Fraction

import torch
from torch import Tensor

from specdec.randomness import Stream
from specdec.sampling import probabilities, sample_from_weights
from specdec.verify.base import StepKey, Verdict
from specdec.verify.draws import IndependentDraws
from specdec.verify.nodewise import draft_probability
from specdec.verify.rational import ONE, ZERO, ExactDraft, Law, Row, emit, normalized, positive_part
from specdec.verify.tree import DraftTree


class BlockRule(IndependentDraws):
    """Judges the chain as a whole: keeps the longest prefix that passes its test, whatever shorter ones did.

    With P_i = min(1, P_{i-1}·p(x_i)/q(x_i)) and P_0 = 1, prefix i passes with probability h_i = Z_i / (Z_i + 1 - P_i),
    Z_i = Σ (P_i·p - q)+ over the next token's rows, and the whole chain with P_γ. After prefix i < γ the next token
    follows norm[(P_i·p - q)+], after the whole chain p.
    """

    name = "block"
    trees = False

    def accept_one(self, tree: DraftTree, scores: Tensor, key: StepKey) -> Verdict:
        """Tests prefixes from the longest down; the first that passes is the answer."""
        length = len(tree)
        rows = [probabilities(row) for row in scores]
        weight = [1.0]
        for i, x in enumerate(tree.tokens):
            ratio = float(rows[i][x]) / draft_probability(x, _q(tree, i))
            weight.append(min(1.0, weight[i] * ratio))
        for i in range(length, -1, -1):
            rest = rows[i] if i == length else _rest(weight[i], rows[i], tree, i)
            if i > 0:
                mass = float(rest.sum())
                passes = weight[i] if i == length else _share(mass, weight[i])
                if key.random.uniform(Stream.ACCEPT, key.anchor + i - 1, key.anchor, i - 1) >= passes:
                    continue
            stream = Stream.BONUS if i == length else Stream.RESIDUAL
            if i < length and not rest.any():
                rest = rows[i]  # only rounding leaves nothing: in exact arithmetic a longer prefix has passed
            u = key.random.uniform(stream, key.anchor + i, key.anchor)
            return Verdict(tuple(range(i)), sample_from_weights(rest, u))
        raise AssertionError("the empty prefix always passes")

    def law(self, draft: ExactDraft) -> Law:
        """From the longest prefix down, with the chance that no longer one has passed."""
        law: Law = {}
        tree, length = draft.tree, len(draft.tree)
        weight = [ONE]
        for i, x in enumerate(tree.tokens):
            weight.append(min(ONE, weight[i] * draft.p[i][x] / draft.q_of(i - 1, i)[x]))
        reached = ONE
        for i in range(length, -1, -1):
            rest: Row = draft.p[i]
            passes = weight[i]
            if i < length:
                rest = positive_part(tuple(weight[i] * p for p in draft.p[i]), draft.q_of(i - 1, i))
                passes = _exact_share(sum(rest, ZERO), weight[i]) if i > 0 else ONE
            if reached * passes:
                emit(law, tuple(range(i)), reached * passes, normalized(rest))
            reached *= ONE - passes
        return law


def _q(tree: DraftTree, node: int) -> Tensor | None:
    return None if tree.q is None else tree.q[node]


def _rest(weight: float, p: Tensor, tree: DraftTree, node: int) -> Tensor:
    """(P·p - q)+, where `node` was drawn from q."""
    rest = weight * p
    if tree.q is None:
        rest[tree.tokens[node]] = 0.0  # P·p(x) <= 1 = q(x)
        return rest
    return torch.clamp(rest - tree.q[node], min=0.0)


def _share(mass: float, weight: float) -> float:
    """Z / (Z + 1 - P); 1 for the 0/0 of P = 1 and p = q, where nothing is left to draw and a longer prefix passes."""
    return mass / (mass + 1.0 - weight) if mass + 1.0 - weight > 0.0 else 1.0


def _exact_share(mass: Fraction, weight: Fraction) -> Fraction:
    return mass / (mass + ONE - weight) if mass + ONE - weight else ONE
