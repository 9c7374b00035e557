"""Products with blocks in Triton: right within a bound, the same bits for any number of rows, and broken copies."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

import pytest
import torch
from torch import Tensor

from specdec.errors import ConfigError
from specdec.kernels.linear import triton_blocks as shipped
from specdec.kernels.linear.blocks import Blocks, decoded
from specdec.kernels.linear.layouts import TYPES
from specdec.kernels.linear.reference import linear_blocks
from tests.kernels.blockbytes import written
from tests.kernels.gpu import DEVICE, Check, assert_caught, poisoned
from tests.kernels.test_linear import assert_within, block_error, draw

every_type = pytest.mark.parametrize("kind", TYPES)


def matrix(kind: str, n: int) -> Blocks:
    """Of two spans."""
    return written(kind, draw(n, 2 * TYPES[kind].span, seed=n))


def run(x: Tensor, parts: list[Blocks], bias: Tensor | None = None, ops: ModuleType = shipped) -> Tensor:
    """The product, within the bound that the native kernel has: the additions are the same."""
    with poisoned():
        held = [ops.DeviceBlocks.of(part, DEVICE) for part in parts]
        out: Tensor = ops.triton_blocks(x.to(DEVICE), held, None if bias is None else bias.to(DEVICE)).cpu()
    start = 0
    for part in parts:
        own = torch.zeros(len(part)) if bias is None else bias[start : start + len(part)]
        columns = out[:, start : start + len(part)]
        assert_within(columns, linear_blocks(x, part, own), block_error(x, part, own.double().abs()))
        start += len(part)
    return out


@every_type
def test_products_agree_with_float64_and_a_rows_bits_are_its_own(kind: str) -> None:
    weight, bias = matrix(kind, 70), draw(70, seed=1)
    x = draw(17, weight.k)
    together = run(x, [weight], bias)
    for rows in ([0], [16], list(range(2, 10))):
        assert torch.equal(run(x[rows], [weight], bias), together[rows])


def test_types_may_be_mixed_in_a_stack() -> None:
    """Whatever their numbers of columns, and with inputs that fill no block."""
    kinds = ("Q4_1", 9), ("Q8_0", 33), ("Q4_0", 5)
    parts = [written(kind, torch.nn.functional.pad(draw(n, 40, seed=n), (0, 24))) for kind, n in kinds]
    run(draw(3, 40), [Blocks(part.kind, part.data, 40) for part in parts], draw(47, seed=2))
    run(draw(2, 512), [matrix("Q6_K", 3), matrix("Q4_K", 20)])


@every_type
def test_rows_are_read_back_as_they_are(kind: str) -> None:
    weight, ids = matrix(kind, 20), torch.tensor([0, 19, 7, 19])
    held = shipped.DeviceBlocks.of(weight, DEVICE)
    assert torch.equal(held.rows(ids.to(DEVICE)).cpu(), decoded(weight, torch.float32)[ids])


def test_an_empty_batch_gives_nothing_and_another_width_is_refused() -> None:
    held = [shipped.DeviceBlocks.of(matrix("Q4_1", 9), DEVICE)]
    assert shipped.triton_blocks(torch.empty(0, 64, device=DEVICE), held).shape == (0, 9)
    with pytest.raises(ConfigError, match=r"x has 63 columns and the weights \[64\]"):
        shipped.triton_blocks(torch.empty(1, 63, device=DEVICE), held)


def check(kind: str, rows: int = 2) -> Check:
    def checked(ops: ModuleType) -> None:
        weight = matrix(kind, 20)
        run(draw(rows, weight.k), [weight], draw(20, seed=3), ops)

    return checked


def check_invariance(ops: ModuleType) -> None:
    weight = matrix("Q4_1", 20)
    x = draw(20, weight.k)
    assert torch.equal(run(x[3:5], [weight], None, ops), run(x, [weight], None, ops)[3:5])


BROKEN: dict[str, tuple[Check, Sequence[tuple[str, str]]]] = {
    "a code's zero is not taken off": (check("Q4_0"), [("(codes.to(tl.int16) - ZERO)", "codes.to(tl.int16)")]),
    "halves of a byte change places": (check("Q4_1"), [("_side_by_side(lower, upper)", "_side_by_side(upper, lower)")]),
    "upper bits of the wrong places": (check("Q6_K"), [("upper |= (two >> 4 & 3) << 4", "upper |= (two >> 2 & 3) << 4")]),
    "one scale for both parts": (check("Q6_K"), [("fine + part * N", "fine")]),
    "scales without the fine ones": (check("Q4_K"), [("    if FINE:\n", "    if False:\n")]),
    "halves of the block before": (check("Q4_K"), [("block // SPAN * N", "(block + 1) // SPAN * N")]),
    "no minimum": (check("Q4_1"), [("        if HAS_MINIMUM:\n", "        if False:\n")]),
    "a minimum of all rows alike": (check("Q4_1"), [("tl.sum(a.to(tl.int32), 1).to(tl.float32) * scale", "tl.sum(a.to(tl.int32), 1).to(tl.float32)")]),
    "rows without their scales": (check("Q8_0"), [("factor[None, :] * scale[:, None]", "factor[None, :] + 0 * scale[:, None]")]),
    "the last block is left out": (check("Q8_0"), [("for block in range(BLOCKS):", "for block in range(BLOCKS - 1):")]),
    "no bias": (check("Q8_0"), [("    if BIASED:\n", "    if False:\n")]),
    "blocks in an order that the number of rows says": (check_invariance, [("    for block in range(BLOCKS):\n", "    for turn in range(BLOCKS):\n        block = tl.where(rows > 16, BLOCKS - 1 - turn, turn)\n")]),
}  # fmt: skip


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_copy_is_caught(name: str, tmp_path: Path) -> None:
    check_it, changes = BROKEN[name]
    assert_caught(shipped, check_it, changes, tmp_path)
