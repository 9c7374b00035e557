"""Multi-round rejection over independent candidates (SpecInfer: Miao et al. 2024, Algorithm 2)."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction

from torch import Tensor

from specdec.verify.draws import IndependentDraws
from specdec.verify.nodewise import NodewiseRule, Uniform, draft_probability, residual
from specdec.verify.rational import ONE, Row, normalized, positive_part


class MultiroundRule(NodewiseRule, IndependentDraws):
    """Tests the candidates in turn, each against what the ones before have left of p: P ← norm[(P - q)+]."""

    name = "multiround"

    def select(self, p: Tensor, tokens: Sequence[int], q: Tensor | None, u: Uniform) -> tuple[int | None, Tensor]:
        """One test per candidate, until one is accepted."""
        for place, x in enumerate(tokens):
            if u(place) * draft_probability(x, q) < float(p[x]):
                return place, p
            rest = residual(p, x, q)
            if rest is None:
                return place, p
            p = rest
        return None, p

    def select_law(self, p: Row, tokens: Sequence[int], q: Sequence[Row]) -> tuple[list[Fraction], Row]:
        """As `select`, with the chance of coming so far."""
        accepted, reached = [], ONE
        for x, q_x in zip(tokens, q, strict=True):
            chance = min(ONE, p[x] / q_x[x])
            accepted.append(reached * chance)
            reached *= ONE - chance
            if not reached:
                break
            p = normalized(positive_part(p, q_x))
        return [*accepted, *[Fraction(0)] * (len(tokens) - len(accepted))], p
