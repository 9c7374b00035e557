"""What the target has left once the draft is taken out. The exact face of `positive_part` is in `rational`."""

from __future__ import annotations

from fractions import Fraction
from typing import TypeVar

import torch
from torch import Tensor

from specdec.errors import NumericalError

Number = TypeVar("Number", float, Fraction)


def draft_probability(x: int, q: Tensor | None) -> float:
    """q(x); 1 for a deterministic draft (q = None).

    Raises:
        NumericalError: if x has no mass under the q that it is said to be drawn from.
    """
    if q is None:
        return 1.0
    probability = float(q[x])
    if not probability > 0.0:
        raise NumericalError(
            f"Draft token {x} has q = {probability}, so it cannot have been drawn from q. "
            "A drafter must return the distribution it really drew from."
        )
    return probability


def positive_part(p: Tensor, q: Tensor | None, x: int, weight: float = 1.0) -> Tensor:
    """(weight·p - q)+, a new tensor.

    Args:
        p: float32 [V].
        q: float32 [V]; None stands for the one-hot distribution of token x.
        x: the draft token.
        weight: at most 1, so that nothing is left of weight·p(x) where q(x) is 1.
    """
    rest = weight * p
    if q is None:
        rest[x] = 0.0
        return rest
    return torch.clamp(rest - q, min=0.0)


def residual(p: Tensor, x: int, q: Tensor | None) -> Tensor | None:
    """norm[(p - q)+], float32 [V]; q = None stands for the one-hot distribution of token x.

    None if no mass is left. In exact arithmetic that means p = q, where a rejection has probability zero: only rounding
    can have refused x, and the caller accepts it.
    """
    rest = positive_part(p, q, x)
    mass = rest.sum()
    return rest / mass if mass > 0 else None


def keep_probability(mass: Number, weight: Number) -> Number:
    """Z / (Z + 1 - P): the chance to keep a prefix of weight P whose residual (P·p - q)+ has mass Z.

    1 for the 0/0 of P = 1 and p = q, where nothing is left to draw and a longer prefix passes.
    """
    bottom = mass + 1 - weight
    return mass / bottom if bottom > 0 else weight
