"""Weights as the Triton kernels multiply them: the twins of `PackedLinear`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

import torch
from torch import Tensor

from specdec.kernels.linear.blocks import Blocks, joined
from specdec.kernels.linear.reference import BLOCK_KINDS, quantize_rows
from specdec.kernels.linear.rounding import in_blocks
from specdec.kernels.linear.triton import LinearTable, triton_linear
from specdec.kernels.linear.triton_blocks import DeviceBlocks, triton_blocks
from specdec.kernels.norm.triton import quantize_rows as quantize_on_device

COMPUTED_IN = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16, "int8": torch.bfloat16,
               "int8_weight": torch.bfloat16} | dict.fromkeys(BLOCK_KINDS, torch.bfloat16)  # fmt: skip
"""Form of the weights → dtype of what lies between two products."""


@dataclass(frozen=True, eq=False)
class TritonLinear:
    """x Wᵀ + b on a GPU; see `stacked`.

    Args:
        matrix: [N, K] in the dtype of `kind`, dense.
        scales: float32 [N] if the matrix is 8-bit.
        bias: float32 [N] or None.
        kind: form of the weights, a name of `COMPUTED_IN`.
    """

    matrix: Tensor
    scales: Tensor | None
    bias: Tensor | None
    kind: str

    def __call__(self, x: Tensor, dtype: torch.dtype, table: LinearTable) -> Tensor:
        """float [T, K] → `dtype` [T, N]."""
        x_scales = None
        if self.kind == "int8":
            x, x_scales = quantize_on_device(x)
        return triton_linear(x, self.matrix, self.bias, x_scales, self.scales, dtype, table)

    def rows(self, ids: Tensor) -> Tensor:
        """Rows of W as they are rounded, float32 [n, K]; ids: int64 [n]."""
        ids = ids.to(self.matrix.device)
        rows = self.matrix[ids].float()
        return rows if self.scales is None else rows * self.scales[ids, None]

    @property
    def width(self) -> int:
        """Columns of the output."""
        return len(self.matrix)

    @property
    def num_bytes(self) -> int:
        """Bytes that one product reads."""
        return sum(t.numel() * t.element_size() for t in (self.matrix, self.scales, self.bias) if t is not None)


@dataclass(frozen=True, eq=False)
class TritonBlocks:
    """The same with weights in blocks.

    Args:
        parts: matrices, one below the other, of any types.
        bias: float32 [N of all] or None.
        kind: form of the weights, a name of `BLOCK_KINDS`.
    """

    parts: list[DeviceBlocks]
    bias: Tensor | None
    kind: str

    @property
    def width(self) -> int:
        """Columns of the output."""
        return sum(map(len, self.parts))

    def __call__(self, x: Tensor, dtype: torch.dtype, table: LinearTable) -> Tensor:
        """float [T, K] → `dtype` [T, N]; there is one kernel, whatever the table says."""
        return triton_blocks(x, self.parts, self.bias, dtype)

    def rows(self, ids: Tensor) -> Tensor:
        """See `TritonLinear.rows`; of one matrix."""
        [part] = self.parts
        return part.rows(ids.to(part.codes.device))

    @property
    def num_bytes(self) -> int:
        """Bytes that one product reads."""
        return sum(p.num_bytes for p in self.parts) + (0 if self.bias is None else self.bias.nbytes)


TritonProduct = TritonLinear | TritonBlocks


def stacked(weights: Sequence[Tensor], kind: str, biases: Sequence[Tensor | None] | None = None) -> TritonProduct:
    """Stacks matrices, float [N, K] each, and their biases, and rounds them as `kind` says."""
    if kind in BLOCK_KINDS:
        return stacked_blocks([in_blocks(w, BLOCK_KINDS[kind]) for w in weights], biases, weights[0].device, kind)
    matrix, bias = torch.cat(list(weights)), _joined(list(map(len, weights)), biases, weights[0].device)
    if kind.startswith("int8"):
        codes, scales = quantize_rows(matrix)
        return TritonLinear(codes.contiguous(), scales, bias, kind)
    return TritonLinear(matrix.to(COMPUTED_IN[kind]).contiguous(), None, bias, kind)


def stacked_blocks(
    parts: Sequence[Blocks],
    biases: Sequence[Tensor | None] | None = None,
    device: torch.device | str = "cuda",
    kind: str = "gguf",
) -> TritonBlocks:
    """Stacks matrices that are in blocks already, in any mixture of types, and their biases, on a device."""
    whole = [joined(list(same)) for _, same in groupby(parts, lambda part: part.kind)]
    bias = _joined(list(map(len, parts)), biases, device)
    return TritonBlocks([DeviceBlocks.of(part, device) for part in whole], bias, kind)


def _joined(sizes: Sequence[int], biases: Sequence[Tensor | None] | None, device: torch.device | str) -> Tensor | None:
    """The biases of stacked products, float32 on the device; None if there are none."""
    if biases is None or all(b is None for b in biases):
        return None
    parts = [torch.zeros(n) if b is None else b for n, b in zip(sizes, biases, strict=True)]
    return torch.cat([part.float().to(device) for part in parts])
