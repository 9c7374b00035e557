"""Block verification of a chain (Sun et al., ICLR 2025): optimal among rules that draft one path."""

from __future__ import annotations

from torch import Tensor

from specdec.randomness import Stream
from specdec.sampling import probabilities, sample_from_weights
from specdec.verify.base import StepKey, Verdict
from specdec.verify.draws import IndependentDraws
from specdec.verify.rational import ONE, ZERO, ExactDraft, Law, Row, emit, exact_positive_part, normalized
from specdec.verify.residuals import draft_probability, keep_probability, positive_part
from specdec.verify.tree import DraftTree


class BlockRule(IndependentDraws):
    """Judges the chain as a whole: keeps the longest prefix that passes its test, even if shorter ones fail.

    With P_i = min(1, P_{i-1}·p(x_i)/q(x_i)) and P_0 = 1, prefix i passes with probability h_i = Z_i / (Z_i + 1 - P_i),
    Z_i = Σ (P_i·p - q)+ over the next token's rows, and the whole chain with P_γ. After prefix i < γ the next token
    follows norm[(P_i·p - q)+], after the whole chain p.
    """

    name = kernel = "block"
    trees = False

    def accept_one(self, tree: DraftTree, scores: Tensor, key: StepKey) -> Verdict:
        """Tests prefixes from the longest down; the first that passes is the answer."""
        length = len(tree)
        p = [probabilities(row) for row in scores]
        q = [tree.q_below(i - 1) for i in range(length)]
        weight = [1.0]
        for i, x in enumerate(tree.tokens):
            ratio = float(p[i][x]) / draft_probability(x, q[i])
            weight.append(min(1.0, weight[i] * ratio))
        for i in range(length, -1, -1):
            rest = p[i] if i == length else positive_part(p[i], q[i], tree.tokens[i], weight[i])
            if i > 0:
                passes = weight[i] if i == length else keep_probability(float(rest.sum()), weight[i])
                if key.random.uniform(Stream.ACCEPT, key.anchor + i - 1, key.anchor, i - 1) >= passes:
                    continue
            stream = Stream.BONUS if i == length else Stream.RESIDUAL
            if i < length and not rest.any():
                rest = p[i]  # only rounding leaves nothing: in exact arithmetic a longer prefix has passed
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
                rest = exact_positive_part(draft.p[i], draft.q_of(i - 1, i), weight[i])
                passes = keep_probability(sum(rest, ZERO), weight[i]) if i > 0 else ONE
            if reached * passes:
                emit(law, tuple(range(i)), reached * passes, normalized(rest))
            reached *= ONE - passes
        return law
