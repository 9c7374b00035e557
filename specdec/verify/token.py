"""Token-level rejection sampling on a chain (Leviathan et al. 2023; Chen et al. 2023)."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction

from torch import Tensor

from specdec.verify.draws import IndependentDraws
from specdec.verify.nodewise import NodewiseRule, Uniform
from specdec.verify.rational import ONE, Row, exact_positive_part, normalized
from specdec.verify.residuals import draft_probability, residual


class TokenRule(NodewiseRule, IndependentDraws):
    """Accepts x with probability min(1, p(x)/q(x)); otherwise the next token follows norm[(p - q)+]."""

    name = kernel = "token"
    trees = False

    def select(self, p: Tensor, tokens: Sequence[int], q: Tensor | None, u: Uniform) -> tuple[int | None, Tensor]:
        """One test."""
        [x] = tokens
        if u(0) * draft_probability(x, q) < float(p[x]):
            return 0, p
        rest = residual(p, x, q)
        return (0, p) if rest is None else (None, rest)

    def select_law(self, p: Row, tokens: Sequence[int], q: Sequence[Row]) -> tuple[list[Fraction], Row]:
        """min(1, p(x)/q(x)), and the residual."""
        [x], [q_x] = tokens, q
        accepted = min(ONE, p[x] / q_x[x])
        return [accepted], p if accepted == 1 else normalized(exact_positive_part(p, q_x))
