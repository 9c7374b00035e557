"""Top-k, top-p and min-p: float [R, V] scores → the same scores, with -inf for what is filtered out."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from specdec.sampling.draws import probabilities

LIKELY = 1e-4


def keep_top_k(scores: Tensor, k: int) -> Tensor:
    """Keeps each row's k largest scores and those tied with the k-th. Source: Fan, Lewis and Dauphin 2018."""
    smallest = scores.topk(min(k, scores.shape[-1])).values[..., -1:]
    return torch.where(scores < smallest, -math.inf, scores)


def keep_top_p(scores: Tensor, top_p: float) -> Tensor:
    """Keeps each row's fewest largest scores whose probability reaches top_p. Source: Holtzman et al. 2020.

    Of tied scores the lower token id comes first, as with argmax.
    """
    output = torch.full_like(scores, -math.inf)
    for row, mass, kept in zip(scores, probabilities(scores), output, strict=True):
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
    """Keeps tokens at least min_p times as probable as the row's first. Source: Nguyen et al. 2024."""
    floor = scores.amax(dim=-1, keepdim=True) + math.log(min_p)
    return torch.where(scores < floor, -math.inf, scores)
