"""x Wᵀ on the GPU for the few rows of a decoding or verifying pass.

A flat GEMM (FlashDecoding++, Hong et al. 2023): rows are padded to the smallest tile that matrix instructions take, not
to the 64 of a library's kernels, and the next tiles of both sides are under way while this one is multiplied. K is not
split, and the tile's size does not depend on the number of rows, so the bits of a row are a function of that row alone.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path

import torch
import triton
import triton.language as tl
from torch import Tensor

from specdec.errors import ConfigError


@triton.jit
def flat_kernel(x, weight, bias, x_scales, weight_scales, out, rows, N, K, x_row, weight_row, out_row,
                BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr, ACC: tl.constexpr,
                X_SCALED: tl.constexpr, W_SCALED: tl.constexpr, BIASED: tl.constexpr):  # fmt: skip
    """One tile of out [rows, N] = x [rows, K] · weight [N, K]ᵀ."""
    # Tiles of rows count fastest, so that those that share weights run together and find them in the cache.
    m = tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M)
    n = tl.program_id(1) * BLOCK_N + tl.arange(0, BLOCK_N)
    k = tl.arange(0, BLOCK_K)
    from_x = x + m[:, None].to(tl.int64) * x_row + k[None, :]
    from_weight = weight + n[None, :].to(tl.int64) * weight_row + k[:, None]
    acc = tl.zeros([BLOCK_M, BLOCK_N], ACC)
    for start in range(0, K, BLOCK_K):
        left = k < K - start
        a = tl.load(from_x + start, mask=(m[:, None] < rows) & left[None, :], other=0)
        b = tl.load(from_weight + start, mask=(n[None, :] < N) & left[:, None], other=0)
        acc = tl.dot(a, b.to(a.dtype), acc=acc, input_precision="ieee", out_dtype=ACC)
    result = acc.to(tl.float32)
    if X_SCALED:
        result *= tl.load(x_scales + m, mask=m < rows, other=0.0)[:, None]
    if W_SCALED:
        result *= tl.load(weight_scales + n, mask=n < N, other=0.0)[None, :]
    if BIASED:
        result += tl.load(bias + n, mask=n < N, other=0.0).to(tl.float32)[None, :]
    at = out + m[:, None].to(tl.int64) * out_row + n[None, :]
    tl.store(at, result.to(out.dtype.element_ty), mask=(m[:, None] < rows) & (n[None, :] < N))


@triton.jit
def gemv_kernel(x, weight, bias, weight_scales, out, N, K, weight_row,
                BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr, W_SCALED: tl.constexpr,
                BIASED: tl.constexpr):  # fmt: skip
    """A block of out [N] = weight [N, K] · x [K], without matrix instructions."""
    n = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)
    k = tl.arange(0, BLOCK_K)
    sums = tl.zeros([BLOCK_N, BLOCK_K], tl.float32)
    for start in range(0, K, BLOCK_K):
        left = k < K - start
        a = tl.load(x + start + k, mask=left, other=0).to(tl.float32)
        b = tl.load(weight + n[:, None].to(tl.int64) * weight_row + start + k[None, :],
                    mask=(n[:, None] < N) & left[None, :], other=0).to(tl.float32)  # fmt: skip
        sums += a[None, :] * b
    result = tl.sum(sums, 1)
    if W_SCALED:
        result *= tl.load(weight_scales + n, mask=n < N, other=0.0)
    if BIASED:
        result += tl.load(bias + n, mask=n < N, other=0.0).to(tl.float32)
    tl.store(out + n, result.to(out.dtype.element_ty), mask=n < N)


@dataclass(frozen=True)
class FlatConfig:
    """Sizes of the flat kernel; `block_m` is the least that matrix instructions take."""

    block_m: int = 16
    block_n: int = 64
    block_k: int = 128
    num_warps: int = 4
    num_stages: int = 3


FLAT = FlatConfig()
NARROW = FlatConfig(block_n=32, block_k=256)
"""For weights of few rows, whose tiles would not keep all of a GPU busy."""
FEW = 16384
"""So many rows of weights are few: on an H200 `FLAT` is faster at 28672, and slower up to 6144 (docs/gpu.md)."""
FLAT_FLOAT32 = FlatConfig(block_k=32)
"""Without matrix instructions a tile is held in registers as a whole."""

GEMV, FLAT_GEMM, LIBRARY = "gemv", "flat", "library"


def config_for(dtype: torch.dtype, n: int) -> FlatConfig:
    """The sizes for weights [n, K]. The number of x's rows has no say, so that a row's bits do not depend on it."""
    if dtype == torch.float32:
        return FLAT_FLOAT32
    return NARROW if n < FEW else FLAT


@dataclass
class LinearTable:
    """Which kernel multiplies how many rows (the table of FlashDecoding++, section 5).

    Args:
        default: most rows for GEMV, and for the flat kernel; the library takes more.
        by_shape: the same for weights of single shapes, "N×K"; a profile run fills it (`make gpu-check`).
        row_invariant: always take the flat kernel, whatever would be faster: the three round differently.
    """

    default: tuple[int, int] = (1, 64)
    by_shape: dict[str, tuple[int, int]] = field(default_factory=dict)
    row_invariant: bool = True

    def choose(self, rows: int, n: int, k: int, kind: str = "bfloat16") -> str:
        """The kernel for x [rows, k] · W [n, k]ᵀ."""
        if self.row_invariant:
            return FLAT_GEMM
        gemv, flat = self.by_shape.get(f"{n}×{k}", self.default)
        if rows <= gemv and kind != "int8":
            return GEMV
        return FLAT_GEMM if rows <= flat or kind.startswith("int8") else LIBRARY

    def save(self, path: Path) -> None:
        """Writes it as JSON."""
        path.write_text(json.dumps({"default": self.default, "by_shape": self.by_shape}, indent=1), encoding="utf-8")

    @classmethod
    def load(cls, path: Path, row_invariant: bool = True) -> LinearTable:
        """Reads what `save` wrote."""
        kept = json.loads(path.read_text(encoding="utf-8"))
        shapes = {shape: (int(a), int(b)) for shape, (a, b) in kept["by_shape"].items()}
        return cls((int(kept["default"][0]), int(kept["default"][1])), shapes, row_invariant)


def triton_linear(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    x_scales: Tensor | None = None,
    weight_scales: Tensor | None = None,
    dtype: torch.dtype | None = None,
    table: LinearTable | None = None,
    config: FlatConfig | None = None,
) -> Tensor:
    """x Wᵀ + b.

    Args:
        x: float16, bfloat16 or float32 [T, K]; or int8 with `x_scales` (W8A8).
        weight: [N, K] in the same dtype; or int8 with `weight_scales`, for either form of x. The last dimension must be
            dense in both.
        bias: [N].
        x_scales: float32 [T].
        weight_scales: float32 [N].
        dtype: of the result; that of x, or float32 if x is int8.
        table: chooses the kernel; None always takes the flat one, which is row-invariant.
        config: of the flat kernel.

    Returns:
        `dtype` [T, N].

    Raises:
        ConfigError: if the shapes do not fit.
    """
    (rows, k), (n, width) = x.shape, weight.shape
    if k != width:
        raise ConfigError(f"x has {k} columns and the weights {width}: they must agree.")
    dtype = dtype or (torch.float32 if x.dtype == torch.int8 else x.dtype)
    out = torch.empty(rows, n, dtype=dtype, device=x.device)
    kind = "int8" if x.dtype == torch.int8 else "int8_weight" if weight_scales is not None else "float"
    chosen = FLAT_GEMM if table is None else table.choose(rows, n, k, kind)
    if not rows:
        return out
    if chosen == LIBRARY:
        return torch.nn.functional.linear(x, weight, None if bias is None else bias.to(x.dtype)).to(dtype)
    if chosen == GEMV:
        for row, result in zip(x, out, strict=True):
            gemv_kernel[(triton.cdiv(n, 16),)](
                row, weight, bias, weight_scales, result, n, k, weight.stride(0),
                BLOCK_N=16, BLOCK_K=min(512, triton.next_power_of_2(k)), W_SCALED=weight_scales is not None,
                BIASED=bias is not None,
            )  # fmt: skip
        return out
    config = config or config_for(x.dtype, n)
    flat_kernel[(triton.cdiv(rows, config.block_m), triton.cdiv(n, config.block_n))](
        x, weight, bias, x_scales, weight_scales, out, rows, n, k, x.stride(0), weight.stride(0), out.stride(0),
        BLOCK_M=config.block_m, BLOCK_N=config.block_n, BLOCK_K=config.block_k,
        ACC=tl.int32 if x.dtype == torch.int8 else tl.float32, X_SCALED=x_scales is not None,
        W_SCALED=weight_scales is not None, BIASED=bias is not None,
        num_warps=config.num_warps, num_stages=config.num_stages,
    )  # fmt: skip
    return out
