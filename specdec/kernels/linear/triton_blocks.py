"""x Wᵀ on the GPU with weights in blocks, and rows in 8 bits: what `linear_blocks` in reference.py gives.

A step is one block of every column of a tile: an exact product of integers, which is scaled and added in float32. The
blocks are taken in their order, whatever the number of rows, so the bits of a row are a function of that row alone.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.nn.functional import pad

from specdec.errors import ConfigError
from specdec.kernels.linear.blocks import Blocks, numbers
from specdec.kernels.linear.layouts import BLOCK, BlockType
from specdec.kernels.norm.triton import quantize_rows

BLOCK_M, BLOCK_N, NUM_WARPS, NUM_STAGES = 16, 64, 1, 4
"""A tile's rows and columns, and how it is run: on AMD too, a lane reads the 16 bytes of a column's block at once."""


@triton.jit
def _side_by_side(a, b):
    """[N, 16] twice → [N, 32]."""
    return tl.reshape(tl.permute(tl.join(a, b), (0, 2, 1)), (a.shape[0], 32))


@triton.jit
def _block_codes(codes, rest, column, there, BITS: tl.constexpr, ZERO: tl.constexpr):
    """Codes of a block of N columns less their zero, int8 [N, 32]."""
    if BITS == 8:
        codes = tl.load(codes + column[:, None] * 32 + tl.arange(0, 32)[None, :], mask=there[:, None], other=0)
    else:
        i = tl.arange(0, 16)
        held = tl.load(codes + column[:, None] * 16 + i[None, :], mask=there[:, None], other=0)
        lower, upper = held & 15, held >> 4
        if BITS == 6:
            two = tl.load(rest + column[:, None] * 8 + i[None, :] % 8, mask=there[:, None], other=0) >> i // 8 * 2
            lower |= (two & 3) << 4
            upper |= (two >> 4 & 3) << 4
        codes = _side_by_side(lower, upper)
    return (codes.to(tl.int16) - ZERO).to(tl.int8)


@triton.jit
def _block_numbers(halves, fines, half, fine, there, FINE: tl.constexpr):
    """Scales or minima of N columns, float32 [N]; `half`, `fine`: where they are."""
    value = tl.load(halves + half, mask=there, other=0.0).to(tl.float32)
    if FINE:
        value *= tl.load(fines + fine, mask=there, other=0).to(tl.float32)
    return value


@triton.jit
def blocks_kernel(x, x_scales, codes, rest, fines, halves, bias, out, rows, N, BLOCKS, out_row,
                  BITS: tl.constexpr, ZERO: tl.constexpr, PARTS: tl.constexpr, SPAN: tl.constexpr,
                  HAS_MINIMUM: tl.constexpr, BIASED: tl.constexpr,
                  BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr):  # fmt: skip
    """One tile of out [rows, N]; x: int8 [rows, BLOCKS, 32], x_scales [rows, BLOCKS]; SPAN blocks share halves."""
    FINE: tl.constexpr = SPAN > 1
    FINES: tl.constexpr = PARTS + HAS_MINIMUM
    m = tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M)
    n = tl.program_id(1) * BLOCK_N + tl.arange(0, BLOCK_N)
    i = tl.arange(0, 32)
    here, there = m < rows, n < N
    acc = tl.zeros([BLOCK_M, BLOCK_N], tl.float32)
    for block in range(BLOCKS):
        at = m.to(tl.int64) * BLOCKS + block
        a = tl.load(x + at[:, None] * 32 + i[None, :], mask=here[:, None], other=0)
        scale = tl.load(x_scales + at, mask=here, other=0.0)
        b = tl.trans(_block_codes(codes, rest, (block * N + n).to(tl.int64), there, BITS, ZERO))
        half, fine = block // SPAN * N * (1 + HAS_MINIMUM) + n, block * N * FINES + n
        for part in tl.static_range(PARTS):
            own = a if PARTS == 1 else tl.where(i[None, :] // (32 // PARTS) == part, a, 0)
            product = tl.dot(own, b, out_dtype=tl.int32).to(tl.float32)
            factor = _block_numbers(halves, fines, half, fine + part * N, there, FINE)
            acc = tl.fma(product, factor[None, :] * scale[:, None], acc)
        if HAS_MINIMUM:
            minimum = _block_numbers(halves, fines, half + N, fine + PARTS * N, there, FINE)
            total = tl.sum(a.to(tl.int32), 1).to(tl.float32) * scale
            acc = tl.fma(tl.broadcast_to(minimum[None, :], [BLOCK_M, BLOCK_N]),
                         tl.broadcast_to(total[:, None], [BLOCK_M, BLOCK_N]), acc)  # fmt: skip
    if BIASED:
        acc += tl.load(bias + n, mask=there, other=0.0).to(tl.float32)[None, :]
    to = out + m[:, None].to(tl.int64) * out_row + n[None, :]
    tl.store(to, acc.to(out.dtype.element_ty), mask=here[:, None] & there[None, :])


@dataclass(frozen=True, eq=False)
class DeviceBlocks:
    """A matrix in blocks of one type as the kernel reads it: a block of all columns before the next.

    Args:
        type: its layout.
        codes: uint8 [K / 32, N, 16 or 32]; of six bits the lower four.
        rest: uint8 [K / 32, N, 8], the other two; else empty.
        fines: int8 [K / 32, fine numbers, N].
        halves: float16 [K / span, halves, N].
        k: inputs.
    """

    type: BlockType
    codes: Tensor
    rest: Tensor
    fines: Tensor
    halves: Tensor
    k: int

    @classmethod
    def of(cls, blocks: Blocks, device: torch.device | str) -> DeviceBlocks:
        """On `device`."""
        held, first = blocks.codes().to(device).transpose(0, 1), 32 if blocks.type.bits == 8 else 16
        fines, halves = (part.to(device).permute(1, 2, 0).contiguous() for part in (blocks.fines(), blocks.halves()))
        codes, rest = held[..., :first].contiguous(), held[..., first:].contiguous()
        return cls(blocks.type, codes, rest, fines, halves, blocks.k)

    def __len__(self) -> int:
        return self.codes.shape[1]

    def rows(self, ids: Tensor) -> Tensor:
        """Rows of the matrix as numbers, float32 [n, K]; ids: int64 [n], on the same device."""
        fines, halves = (part[..., ids].permute(2, 0, 1) for part in (self.fines, self.halves))
        codes = torch.cat([self.codes[:, ids], self.rest[:, ids]], -1).transpose(0, 1)
        return numbers(self.type, codes, fines, halves, torch.float32)[:, : self.k]

    @property
    def num_bytes(self) -> int:
        """Bytes that one product reads."""
        return sum(t.numel() * t.element_size() for t in (self.codes, self.rest, self.fines, self.halves))


def triton_blocks(
    x: Tensor, weights: list[DeviceBlocks], bias: Tensor | None = None, dtype: torch.dtype = torch.float32
) -> Tensor:
    """x Wᵀ + b with one or several matrices, one below the other.

    Args:
        x: float [T, K], dense.
        weights: [N, K] each, of any types.
        bias: float [N of all].
        dtype: of the result.

    Returns:
        `dtype` [T, N of all].

    Raises:
        ConfigError: if the shapes do not fit.
    """
    rows, k = x.shape
    if any(weight.k != k for weight in weights):
        raise ConfigError(f"x has {k} columns and the weights {[w.k for w in weights]}: they must agree.")
    out = torch.empty(rows, sum(map(len, weights)), dtype=dtype, device=x.device)
    if not rows:
        return out
    codes, scales = quantize_rows(pad(x, (0, -k % BLOCK)).view(-1, BLOCK))
    start = 0
    for weight in weights:
        n, kind = len(weight), weight.type
        blocks_kernel[(triton.cdiv(rows, BLOCK_M), triton.cdiv(n, BLOCK_N))](
            codes, scales, weight.codes, weight.rest, weight.fines, weight.halves,
            None if bias is None else bias[start : start + n], out[:, start:],
            rows, n, len(weight.codes), out.stride(0),
            BITS=kind.bits, ZERO=kind.zero, PARTS=kind.num_parts, SPAN=kind.span // BLOCK, HAS_MINIMUM=kind.has_minimum,
            BIASED=bias is not None, BLOCK_M=BLOCK_M, BLOCK_N=BLOCK_N, num_warps=NUM_WARPS, num_stages=NUM_STAGES,
        )  # fmt: skip
        start += n
    return out
