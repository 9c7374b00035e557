"""Types of blocks: what the weights of a block share, and where a GGUF file has it.

Source: the structures `block_q4_0`, `block_q4_1`, `block_q8_0`, `block_q4_K` and `block_q6_K` of ggml.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

BLOCK = 32
"""Weights of a block."""


@dataclass(frozen=True)
class BlockType:
    """One layout. A weight is scale · (code - zero) + minimum, each of the two in half precision; or, for the types
    with a longer `span`, scale · fine scale · (code - zero) + minimum · fine minimum.

    Args:
        number: its name in native code (linear/blocks.h).
        bits: of a code.
        zero: what is taken off a code, as it is held here: never negative.
        has_minimum: whether one is added.
        num_bytes: in a file, of `span` weights.
        span: weights that share a scale and a minimum in half precision. Beyond 32, every block has signed bytes of its
            own that these are multiplied with.
        num_parts: equal parts of a block, each with a scale.
    """

    number: int
    bits: int
    zero: int
    has_minimum: bool
    num_bytes: int
    span: int = BLOCK
    num_parts: int = 1

    @property
    def num_codes(self) -> int:
        """Bytes of a block's codes, as they are held here."""
        return BLOCK * self.bits // 8

    @property
    def num_halves(self) -> int:
        """Numbers in half precision of `span` weights."""
        return 1 + self.has_minimum

    @property
    def num_fines(self) -> int:
        """Bytes of a block that those are multiplied with."""
        return self.num_parts + self.has_minimum if self.span > BLOCK else 0

    def halves(self, data: Tensor) -> Tensor:
        """Scales, and minima behind them if there are any.

        Args:
            data: uint8 [..., K / span, num_bytes], as a file has it; so for the other methods.

        Returns:
            float16 [..., K / span, num_halves].
        """
        return data[..., : 2 * self.num_halves].contiguous().view(torch.float16)

    def fines(self, data: Tensor) -> Tensor:
        """Fine scales of the parts of a block, and its fine minimum behind them: int8 [..., K / 32, num_fines]."""
        return data.new_empty(*data.shape[:-1], 0, dtype=torch.int8)

    def codes(self, data: Tensor) -> Tensor:
        """uint8 [..., K / 32, num_codes].

        Of four bits, a byte holds the code of place i below that of place i + 16. Of six, the lower four are so, and
        behind them a byte holds two more bits of the places i, i + 8, i + 16 and i + 24. Those of eight have 128 added
        to the file's signed ones.
        """
        codes = data[..., 2 * self.num_halves :]
        return codes ^ 128 if self.bits == 8 else codes


class FourFine(BlockType):
    """Q4_K: two halves, twelve bytes of six-bit scales and minima, and codes of two blocks in every 32 bytes.

    Minima are taken off in the file; here the halves are negative.
    """

    def halves(self, data: Tensor) -> Tensor:
        """See `BlockType`."""
        return super().halves(data) * torch.tensor([1.0, -1.0], dtype=torch.float16)

    def fines(self, data: Tensor) -> Tensor:
        """Of the first four blocks six bits of a byte; of the others four bits of the last bytes, and the two bits that
        are left over in the bytes of the first."""
        scales, minima, both = parted(data[..., 4:16], 3, 4).unbind(-2)
        first = torch.stack([scales & 63, minima & 63], -1)
        last = torch.stack([both & 15 | scales >> 6 << 4, both >> 4 | minima >> 6 << 4], -1)
        return torch.cat([first, last], -2).flatten(-3, -2).view(torch.int8)

    def codes(self, data: Tensor) -> Tensor:
        """See `BlockType`."""
        pairs = parted(data[..., 16:], 4, 1, 32)
        return in_nibbles(torch.cat([pairs & 15, pairs >> 4], -2)).flatten(-4, -2)


class SixFine(BlockType):
    """Q6_K: lower four bits of codes, upper two, a signed byte for every 16 weights, and a half.

    Of each 128 weights, 64 bytes hold the lower bits of the places i and i + 64, and 32 bytes the upper bits of the
    places i, i + 32, i + 64 and i + 96.
    """

    def halves(self, data: Tensor) -> Tensor:
        """See `BlockType`."""
        return data[..., 208:].contiguous().view(torch.float16)

    def fines(self, data: Tensor) -> Tensor:
        """See `BlockType`."""
        return parted(data[..., 192:208], 8, 2).flatten(-3, -2).contiguous().view(torch.int8)

    def codes(self, data: Tensor) -> Tensor:
        """See `BlockType`."""
        lower = parted(data[..., :128], 2, 1, 2, 32)
        lower = torch.cat([lower & 15, lower >> 4], -3).flatten(-4, -2)
        upper = parted(data[..., 128:192], 2, 1, 32)
        upper = torch.cat([upper >> shift & 3 for shift in (0, 2, 4, 6)], -2).flatten(-3, -2)
        a, b, c, d = upper.chunk(4, -1)
        return torch.cat([in_nibbles(lower), a | b << 2 | c << 4 | d << 6], -1).flatten(-3, -2)


TYPES = {
    "Q4_0": BlockType(0, 4, 8, has_minimum=False, num_bytes=18),
    "Q4_1": BlockType(1, 4, 0, has_minimum=True, num_bytes=20),
    "Q8_0": BlockType(2, 8, 128, has_minimum=False, num_bytes=34),
    "Q4_K": FourFine(3, 4, 0, has_minimum=True, num_bytes=144, span=256),
    "Q6_K": SixFine(4, 6, 32, has_minimum=False, num_bytes=210, span=256, num_parts=2),
}
"""By GGUF's name."""


def parted(x: Tensor, *sizes: int) -> Tensor:
    """With a last dimension that has become several."""
    return x.reshape(*x.shape[:-1], *sizes)


def in_nibbles(codes: Tensor) -> Tensor:
    """Codes below 16 as blocks of four bits hold them: uint8 [..., 32] → [..., 16]."""
    return codes[..., : BLOCK // 2] | codes[..., BLOCK // 2 :] << 4


def single(held: Tensor, bits: int) -> Tensor:
    """Every code for itself: uint8 [..., num_codes], as `BlockType.codes` has them → [..., 32]."""
    if bits == 8:
        return held
    nibbles, rest = held[..., : BLOCK // 2], held[..., BLOCK // 2 :]
    codes = torch.cat([nibbles & 15, nibbles >> 4], -1)
    return codes if bits == 4 else codes | torch.cat([rest >> shift & 3 for shift in (0, 2, 4, 6)], -1) << 4
