"""Float weights in blocks: which codes, scales and minima."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import pad

from specdec.kernels.linear.blocks import Blocks
from specdec.kernels.linear.layouts import BLOCK, in_nibbles

LEVELS = 15
"""Steps between the least and the largest code of four bits."""
SHRINKS = (1.0, 0.95, 0.9, 0.85, 0.8, 0.75, 0.7)
"""Parts of a group's range that are tried: without its outermost weights the others are met better."""
ROUNDS = 2
"""Times that codes and scale are fitted to each other."""
GROUPS_AT_ONCE = 1 << 18


def in_blocks(weight: Tensor, kind: str) -> Blocks:
    """Rounds a matrix to blocks.

    Args:
        weight: float [N, K].
        kind: "Q8_0", symmetric, the largest magnitude at ±127; or "Q4_1", for which the scale and minimum of each 32
            weights are those of the least squared error that is found.
    """
    groups = pad(weight.float(), (0, -weight.shape[1] % BLOCK)).reshape(-1, BLOCK)
    rounded = torch.cat([_ROUNDED[kind](part) for part in torch.split(groups, GROUPS_AT_ONCE)])
    return Blocks(kind, rounded.view(len(weight), -1, rounded.shape[1]), weight.shape[1])


def _eight(groups: Tensor) -> Tensor:
    """uint8 [G, 34] from float32 [G, 32]."""
    scale = (groups.abs().amax(1, keepdim=True) / 127).half()
    codes = (groups / torch.where(scale > 0, scale.float(), 1.0)).round().clamp(-127, 127)
    return torch.cat([scale.view(torch.uint8), codes.to(torch.int8).view(torch.uint8)], 1)


def _four(groups: Tensor) -> Tensor:
    """uint8 [G, 20] from float32 [G, 32]."""
    best_error = groups.new_full((len(groups), 1), torch.inf)
    best = [groups.new_zeros(len(groups), 1, dtype=torch.float16) for _ in range(2)] + [torch.zeros_like(groups)]
    low, high = groups.amin(1, keepdim=True), groups.amax(1, keepdim=True)
    for shrink in SHRINKS:
        scale, minimum = (high - low) * shrink / LEVELS, low + (high - low) * (1 - shrink) / 2
        for _ in range(ROUNDS):
            scale, minimum = fitted(groups, coded(groups, scale, minimum))
        halves = scale.half(), minimum.half()
        codes = coded(groups, *(half.float() for half in halves))
        error = (halves[0].float() * codes + halves[1].float() - groups).square().sum(1, keepdim=True)
        better = error < best_error
        best_error = torch.where(better, error, best_error)
        best = [torch.where(better, new, old) for new, old in zip((*halves, codes), best, strict=True)]
    packed = in_nibbles(best[2].to(torch.uint8))
    return torch.cat([best[0].view(torch.uint8), best[1].view(torch.uint8), packed], 1)


def coded(groups: Tensor, scale: Tensor, minimum: Tensor) -> Tensor:
    """The nearest codes, float32 [G, 32]."""
    return ((groups - minimum) / torch.where(scale > 0, scale, 1.0)).round().clamp(0, LEVELS)


def fitted(groups: Tensor, codes: Tensor) -> tuple[Tensor, Tensor]:
    """Scale and minimum of least squared error for these codes: the line through (code, weight), [G, 1] both."""
    spread = codes - codes.mean(1, keepdim=True)
    norm = spread.square().sum(1, keepdim=True)
    scale = (spread * groups).sum(1, keepdim=True) / torch.where(norm > 0, norm, 1.0)
    return scale, groups.mean(1, keepdim=True) - scale * codes.mean(1, keepdim=True)


_ROUNDED = {"Q8_0": _eight, "Q4_1": _four}
