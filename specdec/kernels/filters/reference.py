"""Temperature, top-k, top-p and min-p in plain torch: what is filtered out becomes -inf."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

LIKELY = 1e-4


def filtered(
    logits: Tensor,
    temperatures: Sequence[float],
    top_ks: Sequence[int] | None = None,
    top_ps: Sequence[float] | None = None,
    min_ps: Sequence[float] | None = None,
) -> Tensor:
    """Scores under each row's settings, in this order: temperature, top-k, top-p, min-p.

    Args:
        logits: float [R, V]; every row has a finite largest entry.
        temperatures: one per row, above 0.
        top_ks: one per row; 0, or left out: all tokens.
        top_ps: one per row, in (0, 1]; 1, or left out: all tokens.
        min_ps: one per row, in [0, 1]; 0, or left out: all tokens.

    Returns:
        float32 [R, V].
    """
    out = torch.empty(logits.shape, device=logits.device)
    for r in range(len(logits)):
        scores = logits[r : r + 1].to(torch.float32) / temperatures[r]
        if top_ks is not None and top_ks[r]:
            scores = keep_top_k(scores, top_ks[r])
        if top_ps is not None and top_ps[r] < 1:
            scores = keep_top_p(scores, top_ps[r])
        if min_ps is not None and min_ps[r] > 0:
            scores = keep_min_p(scores, min_ps[r])
        out[r] = scores[0]
    return out


def keep_top_k(scores: Tensor, k: int) -> Tensor:
    """Keeps each row's k largest scores, float [R, V], and those tied with the k-th. Source: Fan et al. 2018."""
    smallest = scores.topk(min(k, scores.shape[-1])).values[..., -1:]
    return torch.where(scores < smallest, -math.inf, scores)


def keep_top_p(scores: Tensor, top_p: float) -> Tensor:
    """Keeps each row's fewest largest scores, float [R, V], whose probability reaches top_p.

    Of tied scores the lower token id comes first, as with argmax. Source: Holtzman et al. 2020.
    """
    output = torch.full_like(scores, -math.inf)
    probabilities = torch.softmax(scores, dim=-1, dtype=torch.float32)
    for row, mass, kept in zip(scores, probabilities, output, strict=True):
        # Sorting a whole vocabulary takes as long as a small model's pass, so only likely tokens are sorted.
        # Those below the last floor hold less than 1 - top_p together, so the nucleus is always above it.
        for floor in (LIKELY, (1 - top_p) / len(row)):
            candidates = (mass >= floor).nonzero().squeeze(-1)
            if mass[candidates].sum(dtype=torch.float64) >= top_p:
                break
        ranked = candidates[row[candidates].sort(descending=True, stable=True).indices]
        reached = mass[ranked].cumsum(dim=0, dtype=torch.float64)
        nucleus = ranked[: int(torch.searchsorted(reached, top_p)) + 1]
        kept[nucleus] = row[nucleus]
    return output


def keep_min_p(scores: Tensor, min_p: float) -> Tensor:
    """Keeps tokens at least min_p times as probable as the row's first, float [R, V]. Source: Nguyen et al. 2024."""
    floor = scores.amax(dim=-1, keepdim=True) + math.log(min_p)
    return torch.where(scores < floor, -math.inf, scores)
