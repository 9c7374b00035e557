"""What lies between a layer's products, in plain torch: what faster kernels must give."""

from __future__ import annotations

import torch
from torch import Tensor


def rms_norm(x: Tensor, weight: Tensor, eps: float, delta: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Adds `delta` to the residual stream and normalizes it (Zhang and Sennrich 2019).

    Args:
        x: float32 [T, width], the residual stream.
        weight: [width].
        eps: added to the mean square.
        delta: [T, width] or None.

    Returns:
        x + delta, and its norm in float32, both [T, width].
    """
    x = x if delta is None else x + delta.float()
    return x, x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + eps) * weight.float()


def rotate(x: Tensor, positions: Tensor, frequencies: Tensor, factor: float = 1.0) -> Tensor:
    """Turns the pairs (x_i, x_{i + size/2}) of every head by position · frequency_i (Su et al. 2021).

    Args:
        x: float32 [T, heads, size].
        positions: [T].
        frequencies: float32 [size / 2], radians per position.
        factor: on cosines and sines (YaRN).

    Returns:
        float32 [T, heads, size].
    """
    angles = positions.float()[:, None] * frequencies
    cosine, sine = (angles.cos() * factor)[:, None], (angles.sin() * factor)[:, None]
    a, b = x.chunk(2, -1)
    return torch.cat([a * cosine - b * sine, b * cosine + a * sine], -1)


def silu_mul(gate_up: Tensor) -> Tensor:
    """silu(gate) · up of [T, 2 · width] → float32 [T, width]."""
    gate, up = gate_up.float().chunk(2, -1)
    return torch.nn.functional.silu(gate) * up
