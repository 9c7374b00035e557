"""Packed products against float64, and the promise that a row's bits are its own."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise, product

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from specdec.kernels.linear import BLOCK_KINDS, KINDS, PackedLinear, pack
from specdec.kernels.linear.blocks import Blocks, decoded, scales_and_minima
from specdec.kernels.linear.reference import linear, quantize_rows
from specdec.kernels.linear.rounding import in_blocks
from tests.kernels.variants import ARCHITECTURES, UNIT, every_architecture, kernels, threads

pytestmark = pytest.mark.fewer(4)

SIZES = [(1, 1), (7, 33), (33, 7), (49, 100), (100, 49), (64, 576), (576, 64), (16, 32), (97, 65)]
"""Columns and inputs: below, on and above the borders of panels (32), tiles (32 or 64 inputs) and vectors."""
ROWS = 19

every_kind = pytest.mark.parametrize(
    "kind", [pytest.param(kind, marks=pytest.mark.slow if kind == "gguf" else ()) for kind in KINDS]
)


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def error(x: Tensor, weight: Tensor, kind: str, bias: Tensor | None = None) -> Tensor:
    """How far off a product may be, [rows, columns], with u = 2^-24.

    A float32 sum of K products in any order, each of them rounded or not, is off by at most (K + 1)·u·Σ|x||w| to first
    order; one factor for a scale and one sum for the bias make it K + 3, the second order K + 4. Sums of 8-bit products
    are exact: what rounds is their conversion to float32, the product of the two scales, the product with that, and the
    bias.
    """
    offset = torch.zeros(len(weight)).double() if bias is None else bias.double().abs()
    if kind in BLOCK_KINDS:
        return block_error(x, in_blocks(weight, BLOCK_KINDS[kind]), offset)
    if kind == "int8":
        # Only here may the sum be nought where float64, which rounds the scaled codes, is left with 1e-15.
        noise = 2.0**-45 * (x.double().abs() @ weight.double().abs().T)
        return 5 * UNIT * (linear(x, weight, kind).abs() + offset) + noise
    rounded = x.bfloat16() if kind == "bfloat16" else x
    read = linear(torch.eye(x.shape[1]), weight, kind).T
    return (x.shape[1] + 4) * UNIT * (rounded.double().abs() @ read.abs().T + offset)


def block_error(x: Tensor, weight: Blocks, offset: Tensor) -> Tensor:
    """As `error`, of B blocks. An exact sum of products is below 2^20 and rounded no more, and neither is a scale of a
    column. Its product with that of the row is, and every addition: B + 3 of them with the bias, and as many of the
    minima, whose factor has two roundings of its own, or of the second parts of the blocks.
    """
    rows, blocks = rounded_blocks(x), -(-weight.k // 32)
    codes = decoded(weight).abs()
    _, minimum = scales_and_minima(weight.type, weight.fines(), weight.halves(), torch.float64)
    if minimum is not None:  # scale · code and the minimum may cancel out, and both are rounded
        codes = codes + 2 * minimum.abs().repeat_interleave(32, 1)[:, : weight.k]
    return (2 * blocks + 8) * UNIT * (rows.abs() @ codes.T + offset)


def rounded_blocks(x: Tensor) -> Tensor:
    """What rows are rounded to, float64: every 32 numbers to codes up to ±127."""
    out = torch.zeros(x.shape, dtype=torch.float64)
    for start in range(0, x.shape[1], 32):
        codes, scale = quantize_rows(x[:, start : start + 32])
        out[:, start : start + 32] = codes.double() * scale.double()[:, None]
    return out


def assert_within(out: Tensor, expected: Tensor, bound: Tensor) -> None:
    assert out.dtype == torch.float32
    assert out.shape == expected.shape
    assert ((out.double() - expected).abs() <= bound).all()


@pytest.mark.parametrize("with_bias", [False, True], ids=["", "bias"])
@pytest.mark.parametrize(("n", "k"), SIZES)
@every_kind
@every_architecture
def test_products_agree_with_float64(architecture: str, kind: str, n: int, k: int, with_bias: bool) -> None:
    x, weight, bias = draw(ROWS, k), draw(n, k, seed=1), draw(n, seed=2) if with_bias else None
    out = pack(weight, kind, bias)(x, kernels(architecture))
    assert_within(out, linear(x, weight, kind, bias), error(x, weight, kind, bias))


@pytest.mark.parametrize(("n", "k"), SIZES)
@every_kind
@every_architecture
def test_gated_products_agree_with_float64(architecture: str, kind: str, n: int, k: int) -> None:
    """The slope of silu is at most 1.1; its exponential is within 2 ulp, and three operations round once each."""
    x, gate, value = draw(ROWS, k), 3 * draw(n, k, seed=1), draw(n, k, seed=2)
    out = pack([gate, value], kind, gated=True)(x, kernels(architecture))
    g, v = linear(x, gate, kind), linear(x, value, kind)
    g_error, v_error = error(x, gate, kind), error(x, value, kind)
    silu = g * g.sigmoid()
    bound = 1.1 * g_error * (v.abs() + v_error) + silu.abs() * v_error + 8 * UNIT * (silu * v).abs() + 1e-36
    assert_within(out, silu * v, bound)


@pytest.mark.parametrize("gate", [-1e30, -200.0, -88.0, -87.0, -1e-30, 0.0, 1e-30, 88.0, 89.0, 200.0, 1e30])
@every_architecture
def test_gates_far_out_are_shut_or_open(architecture: str, gate: float) -> None:
    """Below about -87 the true value of e^x leaves float32's normal range: what is left is at most 88 · 1.2e-38 · 2."""
    out = pack([torch.tensor([[gate]]), torch.tensor([[2.0]])], "float32", gated=True)(
        torch.ones(1, 1), kernels(architecture)
    )
    expected = 2 * gate / (1 + math.exp(-gate)) if gate > -700 else 0.0
    assert float(out) == pytest.approx(expected, rel=8 * UNIT, abs=1e-6 if gate < -1e3 else 1e-35)


@pytest.mark.parametrize("biases", [(None, None, None), (True, None, True), (None, True, None), (True, True, True)])
@every_kind
@every_architecture
def test_stacked_products_are_those_of_their_parts(architecture: str, kind: str, biases: Sequence[bool | None]) -> None:
    """Query, key and value in one product, some without a bias; their borders lie inside panels."""
    sizes, x = (40, 9, 24), draw(ROWS, 50)
    weights = [draw(n, 50, seed=n) for n in sizes]
    offsets = [draw(n, seed=n + 1) if has else None for n, has in zip(sizes, biases, strict=True)]
    out = pack(weights, kind, offsets)(x, kernels(architecture))
    for part, weight, bias, (start, end) in zip(
        out.split(sizes, 1), weights, offsets, pairwise([0, 40, 49, 73]), strict=True
    ):
        assert part.shape[1] == end - start
        assert torch.equal(part, pack(weight, kind, bias)(x, kernels(architecture)))
        assert_within(part, linear(x, weight, kind, bias), error(x, weight, kind, bias))


@pytest.mark.parametrize(("n", "k"), [(33, 7), (49, 100), (64, 576)])
@pytest.mark.parametrize("gated", [False, True], ids=["", "gated"])
@every_kind
@every_architecture
def test_a_rows_bits_do_not_depend_on_the_rows_beside_it(
    architecture: str, kind: str, gated: bool, n: int, k: int
) -> None:
    weights = [draw(n, k, seed=1), draw(n, k, seed=2)]
    packed = pack(weights, kind, gated=True) if gated else pack(weights[0], kind, draw(n, seed=3))
    library, x = kernels(architecture), draw(500, k)
    whole = packed(x, library)
    for count in (1, 2, 3, 5, 8, 16, 33, 64):
        for start in (0, 1, 17, 500 - count):
            assert torch.equal(packed(x[start : start + count], library), whole[start : start + count])
    alone = torch.cat([packed(row[None], library) for row in x[:40]])
    assert torch.equal(alone, whole[:40])


@pytest.mark.parametrize("neighbour", [math.nan, math.inf, -math.inf, 3e38, 1e-45, 0.0])
@every_kind
@every_architecture
def test_a_rows_bits_do_not_depend_on_what_the_others_hold(architecture: str, kind: str, neighbour: float) -> None:
    packed, library, x = pack(draw(49, 100, seed=1), kind), kernels(architecture), draw(37, 100)
    whole = packed(x, library)
    for place in (0, 1, 7, 15, 16, 31, 32, 36):
        poisoned = torch.full_like(x, neighbour)
        poisoned[place] = x[place]
        assert torch.equal(packed(poisoned, library)[place], whole[place])


@pytest.mark.parametrize("number", [2, 3], ids="{} threads".format)
@pytest.mark.parametrize("rows", [1, 5, 64])
@every_kind
@every_architecture
def test_threads_change_no_bits(architecture: str, kind: str, rows: int, number: int) -> None:
    packed, library, x = pack(draw(577, 100, seed=1), kind, draw(577, seed=2)), kernels(architecture), draw(rows, 100)
    expected = packed(x, library)
    with threads(number):
        assert all(torch.equal(packed(x, library), expected) for _ in range(5))


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["float32", "int8", "int8_weight", "int4", "gguf"])
def test_instruction_sets_with_the_same_arithmetic_give_the_same_bits(kind: str) -> None:
    """All but the portable one fuse multiplication and addition, in the order of k; 8-bit sums are exact anyway."""
    packed, x = pack(draw(97, 300, seed=1), kind, draw(97, seed=2)), draw(ROWS, 300)
    fused = [name for name in ARCHITECTURES if kernels(name).isa != "portable" or kind == "int8"]
    results = [packed(x, kernels(name)) for name in fused]
    assert all(torch.equal(result, results[0]) for result in results)


@pytest.mark.parametrize("sign", [-1, 1])
@every_architecture
def test_the_largest_sums_of_8_bit_products_are_exact(architecture: str, sign: int) -> None:
    """All codes at ±127: 127² · 1000 is below 2^24, so that float32 holds it; the scales are powers of two."""
    x, weight = torch.full((3, 1000), 127.0), torch.full((5, 1000), 127.0 * sign)
    out = pack(weight, "int8")(x, kernels(architecture))
    assert (out == sign * 127 * 127 * 1000).all()


def call_into(packed: PackedLinear, x: Tensor, architecture: str, guard: int) -> tuple[Tensor, Tensor]:
    """The bare C function on a buffer of NaN, with `guard` numbers of NaN before and after: the result, the guards.

    The rows of `x` lie between NaN, too.
    """
    held = torch.full((x.numel() + 2 * guard,), math.nan)
    held[guard : guard + x.numel()] = x.flatten()
    size = len(x) * packed.width
    buffer = torch.full((size + 2 * guard,), math.nan)
    kernels(architecture).linear(
        packed.struct, held.data_ptr() + 4 * guard, *x.shape, buffer.data_ptr() + 4 * guard, packed.width, 1
    )
    return buffer[guard:-guard].view(len(x), packed.width), torch.cat([buffer[:guard], buffer[-guard:]])


@pytest.mark.parametrize("gated", [False, True], ids=["", "gated"])
@pytest.mark.parametrize(("n", "k"), [(1, 1), (7, 33), (33, 7), (49, 100)])
@every_kind
@every_architecture
def test_every_output_is_written_and_nothing_else(architecture: str, kind: str, n: int, k: int, gated: bool) -> None:
    weights = [draw(n, k, seed=1), draw(n, k, seed=2)]
    packed = pack(weights if gated else weights[0], kind, gated=gated)
    for rows, guard in product([1, 2, 7, 8, 16, 17, 31, 32, 33, 47], [61, 64]):
        x = draw(rows, k)
        out, guards = call_into(packed, x, architecture, guard)
        assert guards.isnan().all()
        assert torch.equal(out, packed(x, kernels(architecture)))
        assert not out.isnan().any()


@every_kind
@every_architecture
def test_no_rows_give_no_results(architecture: str, kind: str) -> None:
    assert pack(draw(5, 9), kind)(torch.empty(0, 9), kernels(architecture)).shape == (0, 5)


@every_kind
def test_inputs_may_be_views_of_any_shape_and_dtype(kind: str) -> None:
    packed, x = pack(draw(33, 20, seed=1), kind), draw(2, 20, 3).bfloat16()
    out = packed(x.transpose(1, 2))
    assert out.shape == (2, 3, 33)
    assert torch.equal(out.flatten(0, 1), packed(x.transpose(1, 2).reshape(6, 20).float().contiguous()))


@pytest.mark.parametrize("broken", [math.nan, math.inf, -math.inf])
@every_kind
@every_architecture
def test_broken_inputs_give_broken_outputs(architecture: str, kind: str, broken: float) -> None:
    """They must not come out as plausible numbers."""
    packed, x = pack(draw(40, 30, seed=1), kind), draw(3, 30)
    x[1, 17] = broken
    out = packed(x, kernels(architecture))
    assert not out[1].isfinite().any()
    assert out[[0, 2]].isfinite().all()
    x[1] = broken
    assert not packed(x, kernels(architecture))[1].isfinite().any()


@every_architecture
def test_native_rows_are_quantized_as_the_reference_quantizes_them(architecture: str) -> None:
    """The identity has codes of 127 and scales of 1/127: the product gives back the codes times the row's scale."""
    x = torch.cat([draw(20, 64), torch.zeros(1, 64), 1e-30 * draw(3, 64), 1e30 * draw(3, 64), ties()])
    codes, scale = quantize_rows(x)
    out = pack(torch.eye(64), "int8")(x, kernels(architecture))
    unit = torch.tensor(1.0) / 127.0
    assert torch.equal(out, (127 * codes.float()) * (unit * scale)[:, None])


def ties() -> Tensor:
    """One row with scale 1 and numbers halfway between codes."""
    return torch.cat([torch.tensor([127.0]), torch.arange(63) - 31.5])[None]


def test_ties_go_to_the_even_code() -> None:
    codes, scale = quantize_rows(ties())
    assert scale.tolist() == [1.0]
    assert codes[0, 1:].tolist() == [2 * round((i - 31.5) / 2) for i in range(63)]


def test_rows_of_zeros_have_scale_zero() -> None:
    codes, scale = quantize_rows(torch.zeros(2, 5))
    assert codes.tolist() == [[0] * 5] * 2
    assert scale.tolist() == [0.0, 0.0]


@given(row=st.lists(st.integers(-(2**24), 2**24), min_size=1, max_size=9).filter(any), power=st.integers(-90, 90))
def test_rounding_a_row_to_8_bits_keeps_its_promises(row: list[int], power: int) -> None:
    x = torch.tensor([row]).float()
    codes, scale = quantize_rows(x)
    assert codes.dtype == torch.int8
    assert scale.dtype == torch.float32
    assert int(codes.int().abs().max()) == 127
    assert (codes.sign() * x.sign() >= 0).all()
    # Half a step, and the roundings of the inverse, of the product and of the scale, 127 steps from zero.
    off = (x.double() - codes.double() * scale.double()[:, None]).abs()
    assert (off <= scale.double()[:, None] * (0.5 + 4 * 127 * UNIT)).all()
    assert torch.equal(quantize_rows(-x)[0], -codes)
    shifted_codes, shifted_scale = quantize_rows(x * 2.0**power)
    assert torch.equal(shifted_codes, codes)
    assert torch.equal(shifted_scale, scale * 2.0**power)


@every_kind
def test_the_bytes_that_a_product_reads_are_counted(kind: str) -> None:
    """128 columns of 128 inputs need no padding; 8-bit columns have a scale, and sums if the inputs have 8 bits too.
    Blocks of 32 weights have 34 bytes with 8 bits, and 20 with 4."""
    counts = {"float32": (4, 0), "bfloat16": (2, 0), "int8": (1, 8), "int8_weight": (1, 4), "gguf": (34 / 32, 0),
              "int4": (20 / 32, 0)}  # fmt: skip
    per_weight, per_column = counts[kind]
    assert pack(draw(128, 128), kind).num_bytes == 128 * 128 * per_weight + 128 * per_column
