"""What lies between a layer's products, on the GPU: one program a row, all in float32, no intermediate stored."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

TOGETHER = 2048
"""Numbers that one program rounds to 8 bits at least."""


@triton.jit
def _rounded(x):
    """To the nearest integer, ties to even, for magnitudes below 2**22."""
    return (x + 12582912.0) - 12582912.0


@triton.jit
def _quantized(x, INT8: tl.constexpr):
    """Rows of x [R, n] as 8-bit numbers in float32, and each row's scale [R]; divided and rounded as on the host."""
    TOP: tl.constexpr = 127.0 if INT8 else 448.0
    largest = tl.max(tl.abs(x), 1)
    inverse = tl.where(largest > 0, tl.div_rn(TOP, tl.where(largest > 0, largest, 1.0)), 0.0)
    scaled = x * inverse[:, None]
    if INT8:
        scaled = _rounded(scaled)
    return scaled, tl.div_rn(largest, TOP)


@triton.jit
def rms_norm_kernel(x, delta, weight, out, eps, WIDTH: tl.constexpr, BLOCK: tl.constexpr, ADDS: tl.constexpr):
    """x ← x + delta, out ← norm(x) · weight, of one row."""
    row = tl.program_id(0).to(tl.int64)
    i = tl.arange(0, BLOCK)
    there = i < WIDTH
    value = tl.load(x + row * WIDTH + i, mask=there, other=0.0)
    if ADDS:
        value += tl.load(delta + row * WIDTH + i, mask=there, other=0.0).to(tl.float32)
        tl.store(x + row * WIDTH + i, value, mask=there)
    factor = 1.0 / tl.sqrt(tl.sum(value * value, 0) / WIDTH + eps)
    normed = value * factor * tl.load(weight + i, mask=there, other=0.0).to(tl.float32)
    tl.store(out + row * WIDTH + i, normed.to(out.dtype.element_ty), mask=there)


@triton.jit
def _store_entry(x, cache, scales, slot, there, head, i, SIZE: tl.constexpr, KV_HEADS: tl.constexpr,
                 QUANTIZED: tl.constexpr, INT8: tl.constexpr):  # fmt: skip
    """Writes heads [H, n] at the places `i` of their entries; nothing for a slot below 0."""
    if QUANTIZED:
        x, scale = _quantized(x, INT8)
        tl.store(scales + slot * KV_HEADS + head, scale, mask=(head < KV_HEADS) & (slot >= 0))
    at = (slot * KV_HEADS + head[:, None]) * SIZE + i[None, :]
    tl.store(cache + at, x.to(cache.dtype.element_ty), mask=there & (slot >= 0))


@triton.jit
def _load_halves(x, norm, there, i, HALF: tl.constexpr, SIZE: tl.constexpr, eps, NORMS: tl.constexpr):
    """Both halves of heads, [H, n] each, normalized if asked for."""
    a = tl.load(x, mask=there, other=0.0).to(tl.float32)
    b = tl.load(x + HALF, mask=there, other=0.0).to(tl.float32)
    if NORMS:
        factor = 1.0 / tl.sqrt((tl.sum(a * a, 1) + tl.sum(b * b, 1)) / SIZE + eps)
        a *= factor[:, None] * tl.load(norm + i, mask=i < HALF, other=0.0)[None, :]
        b *= factor[:, None] * tl.load(norm + HALF + i, mask=i < HALF, other=0.0)[None, :]
    return a, b


@triton.jit
def rope_write_kernel(qkv, queries, keys, values, key_scales, value_scales, positions, slots, frequencies, query_norm,
                      key_norm, factor, eps,
                      HEADS: tl.constexpr, KV_HEADS: tl.constexpr, SIZE: tl.constexpr, BLOCK_H: tl.constexpr,
                      BLOCK_KV: tl.constexpr, BLOCK_HALF: tl.constexpr, QUANTIZED: tl.constexpr, INT8: tl.constexpr,
                      NORMS: tl.constexpr):  # fmt: skip
    """Rotates one row's queries, if it has any, and keys; writes keys and values to its slot."""
    HALF: tl.constexpr = SIZE // 2
    row = tl.program_id(0).to(tl.int64)
    position, slot = tl.load(positions + row), tl.load(slots + row).to(tl.int64)
    i = tl.arange(0, BLOCK_HALF)
    angle = position.to(tl.float32) * tl.load(frequencies + i, mask=i < HALF, other=0.0)
    cosine, sine = (tl.cos(angle) * factor)[None, :], (tl.sin(angle) * factor)[None, :]
    own = qkv + row * (HEADS + 2 * KV_HEADS) * SIZE

    if HEADS:
        head = tl.arange(0, BLOCK_H)
        there = (head[:, None] < HEADS) & (i[None, :] < HALF)
        at = head[:, None] * SIZE + i[None, :]
        a, b = _load_halves(own + at, query_norm, there, i, HALF, SIZE, eps, NORMS)
        to = queries + row * HEADS * SIZE + at
        tl.store(to, (a * cosine - b * sine).to(queries.dtype.element_ty), mask=there)
        tl.store(to + HALF, (b * cosine + a * sine).to(queries.dtype.element_ty), mask=there)

    head = tl.arange(0, BLOCK_KV)
    there = (head[:, None] < KV_HEADS) & (i[None, :] < HALF)
    at = head[:, None] * SIZE + i[None, :]
    a, b = _load_halves(own + HEADS * SIZE + at, key_norm, there, i, HALF, SIZE, eps, NORMS)
    # One scale for both halves: they are put side by side before they are quantized.
    both = tl.reshape(tl.permute(tl.join(a * cosine - b * sine, b * cosine + a * sine), (0, 2, 1)),
                      (BLOCK_KV, 2 * BLOCK_HALF))  # fmt: skip
    j = tl.arange(0, 2 * BLOCK_HALF)
    place = tl.where(j < BLOCK_HALF, j, j - BLOCK_HALF + HALF)
    fits = (head[:, None] < KV_HEADS) & (tl.where(j < BLOCK_HALF, j, j - BLOCK_HALF) < HALF)[None, :]
    _store_entry(both, keys, key_scales, slot, fits, head, place, SIZE, KV_HEADS, QUANTIZED, INT8)

    fits = (head[:, None] < KV_HEADS) & (j[None, :] < SIZE)
    value = tl.load(own + (HEADS + KV_HEADS) * SIZE + head[:, None] * SIZE + j[None, :], mask=fits, other=0.0)
    _store_entry(value.to(tl.float32), values, value_scales, slot, fits, head, j, SIZE, KV_HEADS, QUANTIZED, INT8)


@triton.jit
def silu_mul_kernel(gate_up, out, WIDTH: tl.constexpr, BLOCK: tl.constexpr):
    """silu(gate) · up, a block of one row."""
    row = tl.program_id(0).to(tl.int64)
    i = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    gate = tl.load(gate_up + row * 2 * WIDTH + i, mask=i < WIDTH, other=0.0).to(tl.float32)
    up = tl.load(gate_up + row * 2 * WIDTH + WIDTH + i, mask=i < WIDTH, other=0.0).to(tl.float32)
    product = gate / (1.0 + tl.exp(-gate)) * up
    tl.store(out + row * WIDTH + i, product.to(out.dtype.element_ty), mask=i < WIDTH)


@triton.jit
def quantize_kernel(x, out, scales, rows, WIDTH: tl.constexpr, BLOCK: tl.constexpr, TOGETHER: tl.constexpr):
    """Some rows to int8 and their scales."""
    row = tl.program_id(0).to(tl.int64) * TOGETHER + tl.arange(0, TOGETHER)
    i = tl.arange(0, BLOCK)
    there = (row[:, None] < rows) & (i[None, :] < WIDTH)
    at = row[:, None] * WIDTH + i[None, :]
    scaled, scale = _quantized(tl.load(x + at, mask=there, other=0.0).to(tl.float32), True)
    tl.store(out + at, scaled.to(tl.int8), mask=there)
    tl.store(scales + row, scale, mask=row < rows)


def rms_norm(x: Tensor, weight: Tensor, eps: float, dtype: torch.dtype, delta: Tensor | None = None) -> Tensor:
    """As reference.py, but x changes in place and the norm comes in `dtype`."""
    rows, width = x.shape
    out = torch.empty(rows, width, dtype=dtype, device=x.device)
    if rows:
        block = triton.next_power_of_2(width)
        rms_norm_kernel[(rows,)](x, delta, weight, out, eps, WIDTH=width, BLOCK=block, ADDS=delta is not None)
    return out


def rope_and_write(
    qkv: Tensor,
    cache: tuple[Tensor, Tensor, Tensor | None, Tensor | None],
    positions: Tensor,
    slots: Tensor,
    frequencies: Tensor,
    heads: int,
    factor: float = 1.0,
    norms: tuple[Tensor, Tensor] | None = None,
    eps: float = 0.0,
) -> Tensor:
    """Rotates queries and keys, and puts keys and values into the cache.

    Args:
        qkv: [T, (heads + 2 · KV heads) · size], dense.
        cache: keys and values [slots, KV heads, size], dense, and float32 scales [slots, KV heads] if they are 8-bit.
        positions, slots: int32 or int64 [T]; rows with a slot below 0 are not written.
        frequencies, factor: as `rotate` in reference.py.
        heads: of queries; 0 if `qkv` has keys and values alone.
        norms: weights of the norms of single queries and keys, float32 [size] each (Qwen3), or None.
        eps: of those norms.

    Returns:
        Queries, [T, heads, size] in the dtype of `qkv`.
    """
    keys, values, key_scales, value_scales = cache
    kv_heads, size = keys.shape[1:]
    queries = torch.empty(len(qkv), heads, size, dtype=qkv.dtype, device=qkv.device)
    if len(qkv):
        rope_write_kernel[(len(qkv),)](
            qkv, queries, keys, values, key_scales, value_scales, positions, slots, frequencies,
            *(norms or (None, None)), factor, eps,
            HEADS=heads, KV_HEADS=kv_heads, SIZE=size, BLOCK_H=triton.next_power_of_2(max(heads, 1)),
            BLOCK_KV=triton.next_power_of_2(kv_heads), BLOCK_HALF=triton.next_power_of_2(size // 2),
            QUANTIZED=key_scales is not None, INT8=keys.dtype == torch.int8, NORMS=norms is not None,
        )  # fmt: skip
    return queries


def silu_mul(gate_up: Tensor) -> Tensor:
    """As reference.py; the result has the dtype of `gate_up`, [T, 2 · width], dense."""
    rows, width = gate_up.shape[0], gate_up.shape[1] // 2
    out = torch.empty(rows, width, dtype=gate_up.dtype, device=gate_up.device)
    if rows:
        block = min(2048, triton.next_power_of_2(width))
        silu_mul_kernel[(rows, triton.cdiv(width, block))](gate_up, out, WIDTH=width, BLOCK=block)
    return out


def quantize_rows(x: Tensor) -> tuple[Tensor, Tensor]:
    """As `quantize_rows` in linear/reference.py, of a dense [T, K]."""
    rows, width = x.shape
    out = torch.empty(rows, width, dtype=torch.int8, device=x.device)
    scales = torch.empty(rows, device=x.device)
    if rows:
        block = triton.next_power_of_2(width)
        together = max(1, TOGETHER // block)
        quantize_kernel[(triton.cdiv(rows, together),)](
            x, out, scales, rows, WIDTH=width, BLOCK=block, TOGETHER=together
        )
    return out, scales
