"""Recursive rejection sampling, candidates without replacement (Jeon et al. 2024; Yang et al. 2024)."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction

from torch import Tensor

from specdec.verify.draws import DrawsWithoutReplacement
from specdec.verify.nodewise import NodewiseRule, Uniform, draft_probability, residual
from specdec.verify.rational import ONE, ZERO, Row, normalized, positive_part, without


class RecursiveRejectionRule(NodewiseRule, DrawsWithoutReplacement):
    """As multi-round rejection; after a refusal the candidate also leaves q, which is normalised anew.

    On a deterministic tree, where each candidate's q is one-hot, it accepts with P(x) and else takes x out of P, as
    EAGLE does.
    """

    name = "rrs"

    def select(self, p: Tensor, tokens: Sequence[int], q: Tensor | None, u: Uniform) -> tuple[int | None, Tensor]:
        """One test per candidate, until one is accepted."""
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
                q = q / q.sum()
        return None, p

    def select_law(self, p: Row, tokens: Sequence[int], q: Sequence[Row]) -> tuple[list[Fraction], Row]:
        """As `select`, with the chance of coming so far."""
        accepted, reached, drawn = [], ONE, list[int]()
        for x, q_x in zip(tokens, q, strict=True):
            for earlier in drawn:
                q_x = without(q_x, earlier)
            q_x = normalized(q_x)
            chance = min(ONE, p[x] / q_x[x])
            accepted.append(reached * chance)
            reached *= ONE - chance
            if not reached:
                break
            p = normalized(positive_part(p, q_x))
            drawn.append(x)
        return [*accepted, *[ZERO] * (len(tokens) - len(accepted))], p
