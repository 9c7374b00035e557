"""Closed forms: what acceptance, draft length and costs say of speed (Leviathan et al. 2023; Daliri et al. 2025)."""

from __future__ import annotations

import torch
from torch import Tensor


def expected_tokens(acceptance: float, num_draft_tokens: int) -> float:
    """τ of a chain whose tokens are accepted independently: (1 - α^(γ+1)) / (1 - α) (Leviathan et al., equation 1)."""
    if acceptance == 1.0:
        return num_draft_tokens + 1.0
    return (1 - acceptance ** (num_draft_tokens + 1)) / (1 - acceptance)


def speedup_factor(acceptance: float, num_draft_tokens: int, cost: float) -> float:
    """Wall-time factor over plain decoding, if γ + 1 rows cost what one does: τ / (γc + 1) (theorem 3.8).

    Args:
        acceptance: α, in [0, 1].
        num_draft_tokens: γ.
        cost: c, time of a draft token over that of a target pass.
    """
    return expected_tokens(acceptance, num_draft_tokens) / (num_draft_tokens * cost + 1)


def operations_factor(acceptance: float, num_draft_tokens: int, cost: float) -> float:
    """Arithmetic over that of plain decoding: (γĉ + γ + 1) / τ (theorem 3.11).

    Args:
        acceptance, num_draft_tokens: as above.
        cost: ĉ, operations of a draft token over those of a target row.
    """
    return (num_draft_tokens * cost + num_draft_tokens + 1) / expected_tokens(acceptance, num_draft_tokens)


def total_variation(p: Tensor, q: Tensor) -> Tensor:
    """1 - Σ min(p, q): the share of drafts that token-level rejection refuses. p, q [..., V]; the result is [...]."""
    return 1 - torch.minimum(p, q).sum(-1)


def gumbel_match(p: Tensor, q: Tensor) -> Tensor:
    """Pr(argmax(log p + g) = argmax(log q + g)) for shared Gumbel noise: Σ_j 1 / Σ_i max(p_i/p_j, q_i/q_j)
    (Daliri et al. 2025, from the exponential races that the noise stands for).

    In O(V log V): with r_i = p_i/q_i, the maximum is p_i/p_j where r_i > r_j and q_i/q_j elsewhere, so that sorting by
    r turns the inner sums into sums over the tokens behind and before.

    Args:
        p, q: [..., V], summing to one.

    Returns:
        [...], in the dtype of p.
    """
    ratio = torch.where(q > 0, p / q, torch.inf)
    order = torch.argsort(torch.where(p + q > 0, ratio, -1.0), dim=-1, stable=True)
    p, q = p.gather(-1, order), q.gather(-1, order)
    behind = p.flip(-1).cumsum(-1).flip(-1) - p
    before = q.cumsum(-1)
    both = (p > 0) & (q > 0)
    inner = torch.where(both, behind / p + before / q, torch.inf)
    return (1 / inner).sum(-1)


def gumbel_bound(distance: Tensor) -> Tensor:
    """(1 - TV) / (1 + TV): the least that any pair at this distance matches under shared noise."""
    return (1 - distance) / (1 + distance)
