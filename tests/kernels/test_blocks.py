"""Weights in blocks: read as the format says, multiplied as the reference multiplies them, and rounded well."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from gguf import GGMLQuantizationType, dequantize

from specdec.errors import SpecdecError
from specdec.kernels.linear import pack, pack_blocks
from specdec.kernels.linear.blocks import Blocks, decoded
from specdec.kernels.linear.layouts import TYPES
from specdec.kernels.linear.reference import linear_blocks
from specdec.kernels.linear.rounding import in_blocks
from tests.kernels.blockbytes import written
from tests.kernels.test_linear import assert_within, block_error, draw
from tests.kernels.variants import every_architecture, kernels, threads

every_type = pytest.mark.parametrize("kind", TYPES)
NONE = torch.zeros(1).double()


def span(kind: str) -> int:
    """Of one, so that sizes may be given in them."""
    return TYPES[kind].span


@every_type
def test_blocks_stand_for_the_numbers_that_the_gguf_package_reads(kind: str) -> None:
    blocks = written(kind, draw(5, 3 * span(kind)))
    expected = dequantize(blocks.data.flatten(1).numpy(), GGMLQuantizationType[kind])
    assert np.array_equal(decoded(blocks, torch.float32).numpy(), expected)


def test_a_block_of_four_bits_by_hand() -> None:
    """Scale 0.5 and minimum -2: the byte 0xf3 holds code 3 for place 0 and code 15 for place 16."""
    halves = torch.tensor([0.5, -2.0], dtype=torch.float16).view(torch.uint8)
    data = torch.cat([halves, torch.tensor([0xF3, *[0] * 15], dtype=torch.uint8)])
    numbers = decoded(Blocks("Q4_1", data[None, None], 32))[0].tolist()
    assert numbers == [-0.5, *[-2.0] * 15, 5.5, *[-2.0] * 15]


def test_a_block_of_six_bits_by_hand() -> None:
    """Scales of 0.5 times 2, -3 and, from place 96 on, 1. Place 17 has code 0x2b: 0xb is in byte 17, and 2 in the last
    bits of byte 145. Place 97 has 0x15: 5 in the upper half of byte 33, and 1 in the first bits of byte 129."""
    data = torch.zeros(210, dtype=torch.uint8)
    data[17], data[33], data[128 + 1], data[128 + 17] = 0xB, 0x50, 0b01000000, 0b10
    data[192:208] = torch.tensor([2, 253, 0, 0, 0, 0, 1, *[0] * 9])
    data[208:] = torch.tensor([0.5], dtype=torch.float16).view(torch.uint8)
    numbers = decoded(Blocks("Q6_K", data[None, None], 256))[0]
    assert numbers[:16].tolist() == [-32.0] * 16
    assert numbers[16:32].tolist() == [48.0, -16.5, *[48.0] * 14]
    assert numbers[96:112].tolist() == [-16.0, -5.5, *[-16.0] * 14]
    assert not numbers[32:96].any()
    assert not numbers[112:].any()


@pytest.mark.parametrize(("n", "k"), [(1, 1), (33, 2), (64, 18), (97, 3)])
@every_type
@every_architecture
def test_products_with_blocks_agree_with_float64(architecture: str, kind: str, n: int, k: int) -> None:
    x, blocks, bias = draw(19, k * span(kind)), written(kind, draw(n, k * span(kind), seed=1)), draw(n, seed=2)
    out = pack_blocks([blocks], bias)(x, kernels(architecture))
    assert_within(out, linear_blocks(x, blocks, bias), block_error(x, blocks, bias.double().abs()))


@every_type
@every_architecture
def test_a_rows_bits_are_its_own(architecture: str, kind: str) -> None:
    k, library = 3 * span(kind), kernels(architecture)
    packed, x = pack_blocks([written(kind, draw(577, k, seed=1))]), draw(70, k)
    whole = packed(x, library)
    for number in (1, 2, 3):
        with threads(number):
            for count in (1, 2, 3, 7, 8, 9, 17, 64):
                assert torch.equal(packed(x[3 : 3 + count], library), whole[3 : 3 + count])


@every_architecture
def test_types_may_be_mixed_in_a_stack(architecture: str) -> None:
    """As files have them that give the values more bits. The last part may end inside of a panel."""
    x, library = draw(11, 256), kernels(architecture)
    kinds = ("Q4_1", 64), ("Q4_1", 32), ("Q6_K", 64), ("Q8_0", 64), ("Q4_K", 32), ("Q4_0", 9)
    parts = [written(kind, draw(n, 256, seed=n)) for kind, n in kinds]
    out = pack_blocks(parts)(x, library)
    assert torch.equal(out, torch.cat([pack_blocks([part])(x, library) for part in parts], 1))


def test_what_cannot_be_stacked_is_refused_by_name() -> None:
    small, other = written("Q4_1", draw(9, 32)), written("Q8_0", draw(9, 32))
    with pytest.raises(SpecdecError, match=r"Q4_1, Q8_0 cannot be stacked.*dtype='bfloat16'"):
        pack_blocks([small, other])
    with pytest.raises(SpecdecError, match="A gate in Q4_1 and its values in Q8_0"):
        pack_blocks([small, other], gated=True)
    with pytest.raises(SpecdecError, match=r"Rows of 64 numbers in Q4_1 are uint8 \[9, 2, 20\]"):
        Blocks("Q4_1", small.data, 64)
    with pytest.raises(SpecdecError, match=r"Rows of 32 numbers cannot be Q4_K. Give a multiple of 256"):
        Blocks("Q4_K", small.data, 32)


@every_type
def test_rows_are_read_back_as_they_are(kind: str) -> None:
    blocks = written(kind, draw(70, 3 * span(kind)))
    ids = torch.tensor([0, 69, 31, 32, 16, 15, 69])
    assert torch.equal(pack_blocks([blocks]).rows(ids), decoded(blocks, torch.float32)[ids])


def test_a_stack_of_all_types_is_read_back_as_it_is() -> None:
    """What its form in four bits is made of."""
    parts = [written(kind, draw(32, 256, seed=seed)) for seed, kind in enumerate(TYPES)]
    [matrix] = pack_blocks(parts).matrices()
    assert torch.equal(matrix, torch.cat([decoded(part, torch.float32) for part in parts]))


@pytest.mark.parametrize("shape", [(6, 64), (3, 33)])
def test_four_bits_are_no_worse_than_those_of_the_range(shape: tuple[int, int]) -> None:
    """The gguf package spreads the codes over each block's range; ours have the least error that was found."""
    weight = torch.nn.functional.pad(draw(*shape), (0, -shape[1] % 32))
    ours, plain = (decoded(made) for made in (in_blocks(weight, "Q4_1"), written("Q4_1", weight)))
    errors = [(made - weight.double()).square().view(-1, 32).sum(1) for made in (ours, plain)]
    assert (errors[0] <= errors[1] * (1 + 1e-6)).all()
    assert errors[0].sum() < 0.95 * errors[1].sum()


def test_weights_that_four_bits_can_hold_are_held_exactly() -> None:
    """0 to 15 times 1/8, less 1; all alike; all zero."""
    weight = torch.stack([torch.arange(32) % 16 / 8.0 - 1.0, torch.full((32,), 0.75), torch.zeros(32)])
    assert torch.equal(pack(weight, "int4").rows(torch.arange(3)), weight)


def test_eight_bits_are_those_of_the_gguf_package_but_for_ties() -> None:
    weight = draw(7, 64)
    ours, theirs = (decoded(made) for made in (in_blocks(weight, "Q8_0"), written("Q8_0", weight)))
    step = weight.view(7, 2, 32).abs().amax(2).double() / 127
    assert ((ours - weight.double()).abs().view(7, 2, 32) <= 0.55 * step[..., None]).all()
    assert (ours == theirs).double().mean() > 0.98
