"""Triton's interpreter made right for bfloat16 and for single rows, so that kernels can be checked without a GPU.

The interpreter (triton 3.7) keeps bfloat16 as 16-bit integers and computes with those: products come out as noise, and
a cast from float32 cuts instead of rounding. Here operands are widened to float32 and results rounded as torch does.
It leaves `tl.dot` to BLAS, which may add up the terms of a row in an order that depends on the row's place in the tile
(OpenBLAS's Haswell kernels do). Here each element is added up in one order, so that equal rows have equal bits.
Call `install` before the first kernel runs; it needs TRITON_INTERPRET=1 set before triton is imported.
"""

from __future__ import annotations

import os
from typing import Any

import numpy as np
import torch


def active() -> bool:
    """Whether this process interprets kernels."""
    return os.environ.get("TRITON_INTERPRET") == "1"


def install() -> None:
    """Patches the interpreter's arithmetic; harmless if called twice."""
    import triton.language as tl
    from triton.runtime.interpreter import InterpreterBuilder, TensorHandle

    if getattr(InterpreterBuilder, "mends_bfloat16", False):
        return

    def is_bfloat16(value: Any) -> bool:
        return isinstance(value, TensorHandle) and value.dtype.scalar == tl.bfloat16

    def widened(value: Any) -> Any:
        if not is_bfloat16(value):
            return value
        return TensorHandle((value.data.astype(np.uint32) << 16).view(np.float32), tl.float32)

    def rounded(data: Any) -> Any:
        exact = torch.from_numpy(np.ascontiguousarray(data, dtype=np.float32))
        bits = exact.to(torch.bfloat16).view(torch.int16).numpy().view(np.uint16)
        return TensorHandle(bits.reshape(np.shape(data)), tl.bfloat16)

    def on_wide_operands(name: str, rounds: bool) -> None:
        plain = getattr(InterpreterBuilder, name)

        def mended(self: Any, *args: Any) -> Any:
            if not any(map(is_bfloat16, args)):
                return plain(self, *args)
            result = plain(self, *map(widened, args))
            if rounds and result.dtype.scalar == tl.float32:
                return rounded(result.data)
            return result

        setattr(InterpreterBuilder, name, mended)

    plain_cast, plain_fp_to_fp = InterpreterBuilder.cast_impl, InterpreterBuilder.create_fp_to_fp

    def cast(self: Any, source: Any, target: Any) -> Any:
        if target.scalar == tl.bfloat16:
            if is_bfloat16(source):
                return source
            if source.dtype.scalar.is_fp8():
                source = plain_fp_to_fp(self, source, tl.float32, None)
            return rounded(source.data.astype(np.float32))
        if is_bfloat16(source):
            wide = widened(source)
            return wide if target.scalar == tl.float32 else plain_cast(self, wide, target)
        return plain_cast(self, source, target)

    def fp_to_fp(self: Any, source: Any, target: Any, rounding: Any) -> Any:
        if is_bfloat16(source) or target.scalar == tl.bfloat16:
            return cast(self, source, target)
        return plain_fp_to_fp(self, source, target, rounding)

    InterpreterBuilder.cast_impl = cast
    InterpreterBuilder.create_fp_to_fp = fp_to_fp
    plain_dot = InterpreterBuilder.create_dot

    def dot(self: Any, a: Any, b: Any, acc: Any, *rest: Any) -> Any:
        a, b = widened(a), widened(b)
        if a.data.dtype == b.data.dtype == np.float32 and a.data.ndim == 2:
            return TensorHandle(np.einsum("ik,kj->ij", a.data, b.data) + acc.data, acc.dtype.scalar)
        return plain_dot(self, a, b, acc, *rest)

    InterpreterBuilder.create_dot = dot
    on_wide_operands("binary_op", rounds=True)
    on_wide_operands("unary_op", rounds=True)
    on_wide_operands("ternary_op", rounds=True)
    InterpreterBuilder.mends_bfloat16 = True
