"""bfloat16 in the interpreter, mended, against torch."""

from __future__ import annotations

import pytest
import torch
import triton
import triton.language as tl
from torch import Tensor

from specdec.kernels import interpreter
from tests.kernels.gpu import DEVICE


@triton.jit
def arithmetic(x, y, out, OP: tl.constexpr, N: tl.constexpr):
    i = tl.arange(0, N)
    a, b = tl.load(x + i), tl.load(y + i)
    if OP == "add":
        result = a + b
    elif OP == "subtract":
        result = a - b
    elif OP == "multiply":
        result = a * b
    elif OP == "maximum":
        result = tl.maximum(a, b)
    elif OP == "where":
        result = tl.where(a > b, a, b)
    elif OP == "negative":
        result = -a
    elif OP == "cast":
        result = (a.to(tl.float32) * b.to(tl.float32)).to(tl.bfloat16)
    elif OP == "wide":
        result = a.to(tl.float32) * b.to(tl.float32)
    tl.store(out + i, result)


@triton.jit
def product(x, y, out, N: tl.constexpr):
    i = tl.arange(0, N)
    at = i[:, None] * N + i[None, :]
    tl.store(out + at, tl.dot(tl.load(x + at), tl.load(y + at)))


@triton.jit
def sums(x, out, N: tl.constexpr):
    tl.store(out + tl.arange(0, 1), tl.max(tl.load(x + tl.arange(0, N)), 0))


NUMBERS = torch.randn(64, generator=torch.Generator().manual_seed(0)).repeat_interleave(2)
ODD = torch.tensor([0.0, -0.0, 1.0, -1.0, 3.0e38, -3.0e38, 1e-38, 1e-40, float("inf"), -float("inf"), 257.0, 255.5, 1 / 3,
                    2.0**-126, 65280.0, 1.00390625]).repeat(8)  # fmt: skip
TORCH = {
    "add": torch.add,
    "subtract": torch.sub,
    "multiply": torch.mul,
    "maximum": torch.maximum,
    "where": torch.maximum,
    "negative": lambda a, b: -a,
    "cast": lambda a, b: (a.float() * b.float()).bfloat16(),
    "wide": lambda a, b: a.float() * b.float(),
}


@pytest.mark.parametrize("values", [NUMBERS, ODD], ids=["normal", "odd"])
@pytest.mark.parametrize("name", TORCH)
def test_bfloat16_is_computed_as_torch_does(name: str, values: Tensor) -> None:
    x = values.bfloat16()
    y = x.flip(0) if name != "where" else x.flip(0) + 0
    want = TORCH[name](x, y)
    out = torch.full((len(x),), float("nan"), dtype=want.dtype, device=DEVICE)
    arithmetic[(1,)](x.to(DEVICE), y.to(DEVICE), out, OP=name, N=len(x))
    assert torch.equal(out.cpu().nan_to_num(7.0), want.nan_to_num(7.0))


def test_products_are_summed_in_float32() -> None:
    generator = torch.Generator().manual_seed(1)
    x, y = (torch.randn(16, 16, generator=generator).bfloat16() for _ in range(2))
    out = torch.empty(16, 16, device=DEVICE)
    product[(1,)](x.to(DEVICE), y.to(DEVICE), out, N=16)
    torch.testing.assert_close(out.cpu(), x.float() @ y.float(), rtol=1e-6, atol=1e-6)


@triton.jit
def widening(x, out, N: tl.constexpr):
    i = tl.arange(0, N)
    tl.store(out + i, tl.load(x + i).to(tl.bfloat16))


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.float8_e5m2, torch.float16, torch.float32, torch.int8, torch.int32], ids=str)  # fmt: skip
def test_casts_from_other_dtypes(dtype: torch.dtype) -> None:
    x = (20 * NUMBERS).to(dtype)
    out = torch.empty(len(x), dtype=torch.bfloat16, device=DEVICE)
    widening[(1,)](x.to(DEVICE), out, N=len(x))
    assert torch.equal(out.cpu(), x.to(torch.bfloat16))


def test_reductions() -> None:
    out = torch.empty(1, dtype=torch.bfloat16, device=DEVICE)
    sums[(1,)](NUMBERS.bfloat16().to(DEVICE), out, N=len(NUMBERS))
    assert out.item() == NUMBERS.bfloat16().max().item()


@pytest.mark.skipif(not interpreter.active(), reason="nothing to mend on a GPU")
def test_mending_twice_changes_nothing() -> None:
    from triton.runtime.interpreter import InterpreterBuilder

    before = InterpreterBuilder.binary_op
    interpreter.install()
    assert InterpreterBuilder.binary_op is before
