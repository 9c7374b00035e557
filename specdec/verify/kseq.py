"""k-SEQ over independent candidates (SpecTr: Sun et al. 2023)."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction

import torch
from torch import Tensor

from specdec.errors import SpecdecError
from specdec.verify.draws import IndependentDraws
from specdec.verify.nodewise import NodewiseRule, Uniform
from specdec.verify.rational import ONE, ZERO, Row, normalized
from specdec.verify.residuals import draft_probability

GRID = 2**24
"""ρ is rounded up to 1/GRID. Any ρ at or above the solution is lossless, and this one is as good to seven digits."""


class KSeqRule(NodewiseRule, IndependentDraws):
    """Accepts each of k candidates with min(1, p/(ρq)), with the ρ in [1, k] that balances 1 - (1 - β)^k = ρβ.

    β(ρ) = Σ min(p/ρ, q) is the chance of one candidate. The next token, if none is accepted, is drawn from
    p - min(p/ρ, q)·[1 - (1 - β)^k]/β.
    """

    name = "kseq"
    deterministic_trees = False

    def select(self, p: Tensor, tokens: Sequence[int], q: Tensor | None, u: Uniform) -> tuple[int | None, Tensor]:
        """One test per candidate, all with the same ρ."""
        p = p.double()
        q = _one_hot_like(p, tokens) if q is None else q.double()
        k = len(tokens)
        rho = float(solve_rho(p, q, k))
        for place, x in enumerate(tokens):
            if u(place) * rho * draft_probability(x, q) < float(p[x]):
                return place, p
        covered = torch.minimum(p / rho, q)
        beta = float(covered.sum())
        if beta > 0:
            p = torch.clamp(p - covered * ((1 - (1 - beta) ** k) / beta), min=0.0)
        return None, p

    def select_law(self, p: Row, tokens: Sequence[int], q: Sequence[Row]) -> tuple[list[Fraction], Row]:
        """The first success of k equal tests."""
        k, one = len(tokens), q[0]
        if any(row != one for row in q):
            raise SpecdecError(SAME_Q)

        def covered(rho: Fraction) -> Row:
            return tuple(min(a / rho, b) for a, b in zip(p, one, strict=True))

        rho = solve_rho(_tensor(p), _tensor(one), k)
        while rho * (beta := sum(covered(rho), ZERO)) < 1 - (1 - beta) ** k:
            rho += Fraction(1, GRID)  # rounding has put it below the solution, where the residual would be negative
        accepted, reached = [], ONE
        for x in tokens:
            chance = min(ONE, p[x] / (rho * one[x]))
            accepted.append(reached * chance)
            reached *= ONE - chance
        if not reached:
            return accepted, p
        taken = covered(rho)
        factor = (1 - (1 - beta) ** k) / beta if beta else ONE
        return accepted, normalized(a - t * factor for a, t in zip(p, taken, strict=True))


SAME_Q = "k-SEQ needs candidates of one node to be drawn from one q. For a deterministic tree use rule='rrs'."


def _one_hot_like(p: Tensor, tokens: Sequence[int]) -> Tensor:
    if len(set(tokens)) > 1:
        raise SpecdecError(SAME_Q)
    q = torch.zeros_like(p)
    q[tokens[0]] = 1.0
    return q


def solve_rho(p: Tensor, q: Tensor, k: int) -> Fraction:
    """The least multiple of 1/GRID at which ρβ(ρ) has caught up with 1 - (1 - β)^k, p and q in float64 [V].

    The one rises with ρ and the other falls, so bisection finds it.
    """
    low, high = GRID - 1, k * GRID
    while high - low > 1:
        middle = (low + high) // 2
        rho = middle / GRID
        beta = float(torch.minimum(p / rho, q).sum())
        if rho * beta >= 1 - (1 - beta) ** k:
            high = middle
        else:
            low = middle
    return Fraction(high, GRID)


def _tensor(row: Row) -> Tensor:
    return torch.tensor([float(mass) for mass in row], dtype=torch.float64)
