"""Weights as the Triton kernels multiply them: the twin of `PackedLinear`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from specdec.kernels.linear.reference import quantize_rows
from specdec.kernels.linear.triton import LinearTable, triton_linear
from specdec.kernels.norm.triton import quantize_rows as quantize_on_device

COMPUTED_IN = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16, "int8": torch.bfloat16,
               "int8_weight": torch.bfloat16}  # fmt: skip
"""Form of the weights → dtype of what lies between two products."""


@dataclass(frozen=True, eq=False)
class TritonLinear:
    """x Wᵀ + b on a GPU; see `TritonLinear.of`.

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

    @classmethod
    def of(cls, weights: Sequence[Tensor], kind: str, biases: Sequence[Tensor | None] | None = None) -> TritonLinear:
        """Stacks matrices, float [N, K] each, and their biases, and rounds them as `kind` says."""
        matrix, bias = torch.cat(list(weights)), None
        if biases is not None and any(b is not None for b in biases):
            joined = [w.new_zeros(len(w)) if b is None else b for w, b in zip(weights, biases, strict=True)]
            bias = torch.cat(joined).float()
        if kind.startswith("int8"):
            codes, scales = quantize_rows(matrix)
            return cls(codes.contiguous(), scales, bias, kind)
        return cls(matrix.to(COMPUTED_IN[kind]).contiguous(), None, bias, kind)

    def __call__(self, x: Tensor, dtype: torch.dtype, table: LinearTable) -> Tensor:
        """float [T, K] → `dtype` [T, N]."""
        x_scales = None
        if self.kind == "int8":
            x, x_scales = quantize_on_device(x)
        return triton_linear(x, self.matrix, self.bias, x_scales, self.scales, dtype, table)

    def rows(self, ids: Tensor) -> Tensor:
        """Rows of W as they are rounded, float32 [n, K]; ids: int64 [n]."""
        rows = self.matrix[ids].float()
        return rows if self.scales is None else rows * self.scales[ids, None]

    @property
    def num_bytes(self) -> int:
        """Bytes that one product reads."""
        return sum(t.numel() * t.element_size() for t in (self.matrix, self.scales, self.bias) if t is not None)
