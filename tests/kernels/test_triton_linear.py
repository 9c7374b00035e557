"""Products in Triton: right within a bound, the same bits for any number of rows, and broken copies."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

import pytest
import torch
from torch import Tensor

from specdec.errors import ConfigError
from specdec.kernels.linear import triton as shipped
from specdec.kernels.linear.reference import quantize_rows
from tests.kernels.gpu import DEVICE, Check, assert_caught, poisoned
from tests.kernels.paged import UNIT

SMALL = shipped.FlatConfig(block_m=16, block_n=16, block_k=32)


def problem(rows: int, n: int, k: int, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return tuple(torch.randn(*shape, generator=generator) for shape in ((rows, k), (n, k), (n,)))  # type: ignore[return-value]


def run(kind: str, x: Tensor, weight: Tensor, bias: Tensor | None, ops: ModuleType = shipped, **options: object) -> Tensor:  # fmt: skip
    """The product of `kind`, whose result is checked against float64 on the rounded sides.

    A sum of K products in float32 is off by at most (K + 3) roundings of Σ|xw|; 8-bit sides and their scales are exact up
    to four roundings more; the result is rounded to its dtype.
    """
    dtype = {"float32": torch.float32, "float16": torch.float16}.get(kind, torch.bfloat16)
    x_scales = weight_scales = None
    xs, ws = x.to(dtype), weight.to(dtype)
    if kind.startswith("int8"):
        ws, weight_scales = quantize_rows(weight)
    if kind == "int8":
        xs, x_scales = quantize_rows(x)
    options.setdefault("config", SMALL)
    sides = [None if t is None else t.to(DEVICE) for t in (xs, ws, bias, x_scales, weight_scales)]
    with poisoned():
        out: Tensor = ops.triton_linear(*sides, dtype=torch.float32 if kind == "int8" else dtype, **options).cpu()
    exact_x = xs.double() if x_scales is None else xs.double() * x_scales.double()[:, None]
    exact_w = ws.double() if weight_scales is None else ws.double() * weight_scales.double()[:, None]
    expected = exact_x @ exact_w.T + (0 if bias is None else bias.double())
    sizes = exact_x.abs() @ exact_w.abs().T + (0 if bias is None else bias.abs())
    bound = (x.shape[1] + 8) * UNIT[torch.float32] * sizes + UNIT[out.dtype] * expected.abs()
    assert ((out.double() - expected).abs() <= bound).all()
    return out


KINDS = ["float32", "float16", "bfloat16", "int8_weight", "int8"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("rows", "n", "k"), [(1, 16, 32), (3, 40, 70), (17, 33, 31), (33, 16, 64)], ids=str)
def test_products_agree_with_float64(kind: str, rows: int, n: int, k: int) -> None:
    x, weight, bias = problem(rows, n, k)
    run(kind, x, weight, None)
    run(kind, x, weight, bias)


@pytest.mark.parametrize("kind", KINDS)
def test_a_rows_bits_are_its_own(kind: str) -> None:
    x, weight, bias = problem(33, 40, 70)
    together = run(kind, x, weight, bias)
    for rows in ([0], [32], list(range(2, 10)), list(range(5, 22))):
        assert torch.equal(run(kind, x[rows], weight, bias), together[rows])


@pytest.mark.parametrize("kind", ["float32", "bfloat16", "int8_weight"])
def test_gemv_agrees_with_float64(kind: str) -> None:
    x, weight, bias = problem(1, 40, 70)
    run(kind, x, weight, bias, table=shipped.LinearTable(row_invariant=False))


def test_sides_may_be_strided_and_the_batch_empty() -> None:
    x, weight, _ = problem(3, 40, 64)
    wide_x, wide_w = torch.full((3, 90), float("nan")), torch.full((40, 77), float("nan"))
    wide_x[:, 5:69], wide_w[:, 3:67] = x, weight
    options = {"config": SMALL}
    plain = shipped.triton_linear(x.to(DEVICE), weight.to(DEVICE), **options)  # type: ignore[arg-type]
    strided = shipped.triton_linear(wide_x.to(DEVICE)[:, 5:69], wide_w.to(DEVICE)[:, 3:67], **options)  # type: ignore[arg-type]
    assert torch.equal(plain, strided)
    assert shipped.triton_linear(x[:0].to(DEVICE), weight.to(DEVICE)).shape == (0, 40)


def test_shapes_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ConfigError, match="64 columns and the weights 63"):
        shipped.triton_linear(torch.zeros(1, 64), torch.zeros(8, 63))


def test_the_table_picks_by_rows_and_shape(tmp_path: Path) -> None:
    table = shipped.LinearTable(by_shape={"8×4": (2, 5)}, row_invariant=False)
    assert [table.choose(rows, 16, 4) for rows in (1, 2, 64, 65)] == ["gemv", "flat", "flat", "library"]
    assert [table.choose(rows, 8, 4) for rows in (2, 5, 6)] == ["gemv", "flat", "library"]
    assert table.choose(500, 8, 4, "int8_weight") == "flat"  # no library multiplies those
    assert table.choose(1, 8, 4, "int8") == "flat"
    table.save(tmp_path / "table.json")
    assert shipped.LinearTable.load(tmp_path / "table.json", row_invariant=False) == table
    invariant = shipped.LinearTable.load(tmp_path / "table.json")
    assert {invariant.choose(rows, 16, 4) for rows in (1, 64, 500)} == {"flat"}


def test_the_table_says_what_is_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """More rows than the table leaves to our kernels are the library's."""
    called: list[int] = []

    def library(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        called.append(len(x))
        return x @ weight.T

    monkeypatch.setattr(torch.nn.functional, "linear", library)
    x, weight, _ = problem(5, 16, 32)
    for limit, calls in ((5, []), (4, [5])):
        called.clear()
        shipped.triton_linear(
            x.to(DEVICE), weight.to(DEVICE), table=shipped.LinearTable((0, limit), row_invariant=False), config=SMALL
        )
        assert called == calls


def check_kind(kind: str) -> Check:
    def check(ops: ModuleType) -> None:
        x, weight, bias = problem(5, 40, 70)
        run(kind, x, weight, bias, ops)

    return check


def check_invariance(ops: ModuleType) -> None:
    x, weight, _ = problem(20, 16, 96)
    together = run("float32", x, weight, None, ops)
    assert torch.equal(run("float32", x[3:5], weight, None, ops), together[3:5])


BROKEN: dict[str, tuple[Check, Sequence[tuple[str, str]]]] = {
    "the end of K is not masked": (check_kind("float32"), [("left = k < K - start\n        a = tl.load(from_x", "left = k < K - start + 1\n        a = tl.load(from_x")]),
    "the last block of K is left out": (check_kind("bfloat16"), [("for start in range(0, K, BLOCK_K):\n        left = k < K - start\n        a = tl.load(from_x", "for start in range(0, K // BLOCK_K * BLOCK_K, BLOCK_K):\n        left = k < K - start\n        a = tl.load(from_x")]),
    "rows of int8 without their scales": (check_kind("int8"), [("result *= tl.load(x_scales + m, mask=m < rows, other=0.0)[:, None]", "result *= 1.0")]),
    "int8 weights without their scales": (check_kind("int8_weight"), [("result *= tl.load(weight_scales + n, mask=n < N, other=0.0)[None, :]", "result *= 1.0")]),
    "no bias": (check_kind("float32"), [("    if BIASED:\n        result += tl.load(bias + n, mask=n < N, other=0.0).to(tl.float32)[None, :]", "    if False:\n        pass")]),
    "K is cut where the number of rows says": (check_invariance, [("        acc = tl.dot(a, b.to(a.dtype), acc=acc, input_precision=\"ieee\", out_dtype=ACC)", "        acc = tl.dot(a, b.to(a.dtype), acc=acc * (rows <= 16).to(ACC), input_precision=\"ieee\", out_dtype=ACC) + acc * (rows > 16).to(ACC)"), ("BLOCK_M=config.block_m, BLOCK_N=config.block_n, BLOCK_K=config.block_k", "BLOCK_M=config.block_m, BLOCK_N=config.block_n, BLOCK_K=16 if rows > 16 else config.block_k")]),
}  # fmt: skip


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_copy_is_caught(name: str, tmp_path: Path) -> None:
    check_it, changes = BROKEN[name]
    assert_caught(shipped, check_it, changes, tmp_path)
