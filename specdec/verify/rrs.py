"""Recursive rejection sampling, candidates without replacement (Jeon et al. 2024; Yang et al. 2024)."""

from __future__ import annotations

from torch import Tensor

from specdec.verify.draws import DrawsWithoutReplacement
from specdec.verify.nodewise import SuccessiveRejection
from specdec.verify.rational import Row, normalized, without


class RecursiveRejectionRule(SuccessiveRejection, DrawsWithoutReplacement):
    """Like multi-round rejection. After a refusal the candidate is also removed from q, which is normalised again.

    On a deterministic tree, where each candidate's q is one-hot, it accepts with P(x) and else takes x out of P, as
    EAGLE does.
    """

    name = "rrs"

    def after(self, q: Tensor, x: int) -> Tensor:
        """q without x."""
        q = q.clone()
        q[x] = 0.0
        return q / q.sum()

    def after_law(self, q: Row, x: int) -> Row:
        """The same, exactly."""
        return normalized(without(q, x))
