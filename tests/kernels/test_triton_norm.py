"""Norms, rotation with the write to the cache, gates and quantization in Triton, against float64; and broken copies."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

import pytest
import torch
from torch import Tensor

from specdec.kernels.linear.reference import quantize_rows
from specdec.kernels.norm import reference
from specdec.kernels.norm import triton as shipped
from tests.kernels.gpu import DEVICE, Check, assert_caught, poisoned
from tests.kernels.paged import UNIT

DTYPES = [torch.float32, torch.float16, torch.bfloat16]


def numbers(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def check_norm(ops: ModuleType = shipped, width: int = 37, dtype: torch.dtype = torch.float32, adds: bool = True) -> None:  # fmt: skip
    """Sums of squares over n terms cost n roundings, root and quotient a few; then the result is rounded."""
    x, delta, weight = numbers(3, width), numbers(3, width, seed=1).to(dtype), numbers(width, seed=2)
    stream = x.clone().to(DEVICE)
    with poisoned():
        out = ops.rms_norm(stream, weight.to(DEVICE), 1e-5, dtype, delta.to(DEVICE) if adds else None).cpu()
    want_x, want = reference.rms_norm(x.double(), weight.double(), 1e-5, delta.double() if adds else None)
    assert torch.equal(stream.cpu(), x + delta.float() if adds else x)
    assert out.dtype == dtype
    bound = want.abs() * ((width + 10) * UNIT[torch.float32] + UNIT[dtype]) + 1e-30
    if adds:  # the sum was rounded before it was normalized
        bound = bound + 2 * UNIT[torch.float32] * (want_x.abs() + 1) * weight.abs()
    assert ((out.double() - want).abs() <= bound).all()


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("width", [1, 37, 64])
def test_rms_norm(width: int, dtype: torch.dtype) -> None:
    check_norm(width=width, dtype=dtype)
    check_norm(width=width, dtype=dtype, adds=False)


Cache = tuple[Tensor, Tensor, Tensor | None, Tensor | None]


def empty_cache(dtype: torch.dtype, kv_heads: int, size: int) -> Cache:
    sides = [torch.zeros(9, kv_heads, size, device=DEVICE).to(dtype) for _ in range(2)]
    scales = [torch.full((9, kv_heads), 7.0, device=DEVICE) for _ in range(2)] if dtype.itemsize == 1 else [None, None]
    return sides[0], sides[1], *scales


def check_rope(
    ops: ModuleType = shipped,
    heads: int = 5,
    kv_heads: int = 3,
    size: int = 12,
    held: torch.dtype = torch.float32,
    normed: bool = False,
) -> None:
    """Rotation in float32 is off by a few roundings of |a| + |b|; angles of float32 cost position · 2**-24 more."""
    rows, slots = 3, torch.tensor([4, -1, 8])
    qkv = numbers(rows, (heads + 2 * kv_heads) * size)
    positions = torch.tensor([0, 5, 300])
    frequencies = 10000.0 ** -(torch.arange(size // 2) / (size // 2))
    norms = (numbers(size, seed=3), numbers(size, seed=4)) if normed else None
    cache = empty_cache(held, kv_heads, size)
    with poisoned():
        queries = ops.rope_and_write(
            qkv.to(DEVICE), cache, positions.to(DEVICE), slots.to(DEVICE), frequencies.to(DEVICE), heads, 1.5,
            None if norms is None else tuple(norm.to(DEVICE) for norm in norms), 1e-6,
        ).cpu()  # fmt: skip
    parts = qkv.double().view(rows, -1, size)
    q, k, v = parts[:, :heads], parts[:, heads : heads + kv_heads], parts[:, heads + kv_heads :]
    if norms is not None:
        q, k = (
            reference.rms_norm(x.reshape(-1, size), norm.double(), 1e-6)[1].view(x.shape)
            for x, norm in zip((q, k), norms, strict=True)
        )
    angles = (positions.float()[:, None] * frequencies).double()  # as rounded to float32
    q, k = (
        torch.cat([a * angles.cos()[:, None] - b * angles.sin()[:, None],
                   b * angles.cos()[:, None] + a * angles.sin()[:, None]], -1) * 1.5
        for a, b in (x.chunk(2, -1) for x in (q, k))
    )  # fmt: skip
    assert queries.shape == q.shape
    assert ((queries - q).abs() < 2e-5).all()
    for side, (stored, scales), want in zip("kv", zip(cache[:2], cache[2:], strict=True), (k, v), strict=True):
        for row in (0, 2):
            entry = stored[slots[row]].cpu().double()
            if scales is None:
                step = UNIT[held] * want[row].abs() + 2e-5
            else:
                scale = scales[slots[row]].cpu().double()
                assert torch.allclose(scale, want[row].abs().amax(-1) / (127 if held == torch.int8 else 448), rtol=1e-5)
                entry = entry * scale[:, None]
                # Half a step of int8; e4m3 keeps three bits behind the leading one, and 2**-10 in all.
                fine = 0.5 * scale[:, None] if held == torch.int8 else want[row].abs() / 16 + scale[:, None] / 1024
                step = fine * (1 + 1e-4) + 2e-5
            assert ((entry - want[row]).abs() <= step).all(), side
        untouched = [slot for slot in range(9) if slot not in (4, 8)]
        assert not stored[untouched].cpu().float().any()
        assert scales is None or (scales[untouched] == 7.0).all()


@pytest.mark.parametrize("held", [torch.float32, torch.bfloat16, torch.int8, torch.float8_e4m3fn], ids=str)
def test_rotation_and_write(held: torch.dtype) -> None:
    check_rope(held=held)


@pytest.mark.parametrize("normed", [False, True])
@pytest.mark.parametrize(("heads", "kv_heads", "size"), [(1, 1, 2), (4, 4, 16), (9, 3, 20), (0, 3, 20)], ids=str)
def test_rotation_of_odd_shapes(heads: int, kv_heads: int, size: int, normed: bool) -> None:
    check_rope(heads=heads, kv_heads=kv_heads, size=size, normed=normed)


def check_gate(ops: ModuleType = shipped, width: int = 37, dtype: torch.dtype = torch.float32) -> None:
    gate_up = (3 * numbers(3, 2 * width)).to(dtype)
    with poisoned():
        out = ops.silu_mul(gate_up.to(DEVICE)).cpu()
    gate, up = gate_up.double().chunk(2, -1)
    want = gate / (1 + (-gate).exp()) * up
    assert ((out.double() - want).abs() <= want.abs() * (20 * UNIT[torch.float32] + UNIT[dtype])).all()


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_gate(dtype: torch.dtype) -> None:
    check_gate(dtype=dtype)
    check_gate(width=1030)


def check_quantize(ops: ModuleType = shipped) -> None:
    x = numbers(4, 37)
    x[2] = 0.0
    x[1, 3] = 3.0 * x[1].abs().max()
    with poisoned():
        codes, scales = (t.cpu() for t in ops.quantize_rows(x.to(DEVICE)))
    want_codes, want_scales = quantize_rows(x)
    assert torch.equal(codes, want_codes)
    assert torch.equal(scales, want_scales)


def test_quantization_is_that_of_the_reference_to_the_bit() -> None:
    check_quantize()


def test_a_rows_bits_are_its_own() -> None:
    x, weight = numbers(6, 48), numbers(48, seed=1)
    normed = shipped.rms_norm(x.to(DEVICE), weight.to(DEVICE), 1e-5, torch.float32)
    for row in range(6):
        one = shipped.rms_norm(x[row : row + 1].to(DEVICE), weight.to(DEVICE), 1e-5, torch.float32)
        assert torch.equal(one[0], normed[row])


BROKEN: dict[str, tuple[Check, Sequence[tuple[str, str]]]] = {
    "the mean is over the padded width": (check_norm, [("tl.sum(value * value, 0) / WIDTH", "tl.sum(value * value, 0) / BLOCK")]),
    "the sum is not stored": (check_norm, [("        tl.store(x + row * WIDTH + i, value, mask=there)\n", "")]),
    "pairs turned the other way": (check_rope, [("tl.store(to, (a * cosine - b * sine)", "tl.store(to, (a * cosine + b * sine)")]),
    "values in the keys' place": (check_rope, [("own + (HEADS + KV_HEADS) * SIZE", "own + HEADS * SIZE")]),
    "rows without a slot are written": (check_rope, [("    at = (slot * KV_HEADS + head[:, None])", "    at = (tl.maximum(slot, 0) * KV_HEADS + head[:, None])"), ("mask=there & (slot >= 0))", "mask=there)")]),
    "int8 entries with the scale of fp8": (lambda ops: check_rope(ops, held=torch.int8), [("TOP: tl.constexpr = 127.0 if INT8 else 448.0", "TOP: tl.constexpr = 448.0")]),
    "numbers cut instead of rounded": (check_quantize, [("    return (x + 12582912.0) - 12582912.0", "    return x.to(tl.int32).to(tl.float32)")]),
    "gate and value change places": (check_gate, [("gate / (1.0 + tl.exp(-gate)) * up", "up / (1.0 + tl.exp(-up)) * gate")]),
}  # fmt: skip


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_copy_is_caught(name: str, tmp_path: Path) -> None:
    check_it, changes = BROKEN[name]
    assert_caught(shipped, check_it, changes, tmp_path)
