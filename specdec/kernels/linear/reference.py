"""Products with quantized weights in plain torch: what the native kernel must give."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import pad

from specdec.kernels.linear.blocks import Blocks, decoded
from specdec.kernels.linear.layouts import BLOCK
from specdec.kernels.linear.rounding import in_blocks

BLOCK_KINDS = {"int4": "Q4_1", "gguf": "Q8_0"}
"""Kinds of weights that are held in blocks → the type of blocks that float weights are rounded to."""


def quantize_rows(x: Tensor, dtype: torch.dtype = torch.int8) -> tuple[Tensor, Tensor]:
    """Symmetric 8-bit rows: x ≈ q · scale, with the row's largest magnitude at the largest of the dtype (±127, ±448).

    Args:
        x: float [..., K].
        dtype: int8 or float8_e4m3fn.

    Returns:
        `dtype` [..., K], and float32 [...]; a row of zeros has scale 0.
    """
    x, top = x.float(), 127.0 if dtype == torch.int8 else torch.finfo(dtype).max
    largest = x.abs().amax(-1)
    scaled = x * torch.where(largest > 0, top / largest, 0.0)[..., None]
    return (scaled.round() if dtype == torch.int8 else scaled).to(dtype), largest / top


def linear(
    x: Tensor, weight: Tensor, kind: str, bias: Tensor | None = None, dtype: torch.dtype = torch.float64
) -> Tensor:
    """x Wᵀ + b with both sides rounded as `kind` rounds them, summed in `dtype`.

    Args:
        x: float [T, K].
        weight: float [N, K].
        kind: float32, bfloat16, int8 (both sides in 8 bits), int8_weight, or one of `BLOCK_KINDS`.
        bias: float [N].

    Returns:
        `dtype` [T, N].
    """
    if kind in BLOCK_KINDS:
        return linear_blocks(x, in_blocks(weight, BLOCK_KINDS[kind]), bias, dtype)
    if kind == "bfloat16":
        x, weight = x.bfloat16(), weight.bfloat16()
    if kind.startswith("int8"):
        quantized, scale = quantize_rows(weight)
        weight = quantized.to(dtype) * scale.to(dtype)[:, None]
    if kind == "int8":
        quantized, scale = quantize_rows(x)
        x = quantized.to(dtype) * scale.to(dtype)[:, None]
    out = x.to(dtype) @ weight.to(dtype).T
    return out if bias is None else out + bias.to(dtype)


def linear_blocks(x: Tensor, weight: Blocks, bias: Tensor | None = None, dtype: torch.dtype = torch.float64) -> Tensor:
    """x Wᵀ + b with weights in blocks, and every 32 numbers of a row rounded to 8 bits with a scale of their own.

    Args:
        x: float [T, K].
        weight: [N, K].
        bias: float [N].

    Returns:
        `dtype` [T, N].
    """
    codes, scale = quantize_rows(pad(x, (0, -x.shape[1] % BLOCK)).reshape(len(x), -1, BLOCK))
    rounded = (codes.to(dtype) * scale.to(dtype)[..., None]).flatten(1)[:, : x.shape[1]]
    out = rounded @ decoded(weight, dtype).T
    return out if bias is None else out + bias.to(dtype)
