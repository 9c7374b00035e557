"""Weights in blocks: 32 of a row share a scale, and maybe a minimum. The layouts are those of GGUF files.

Source: the structures `block_q4_0`, `block_q4_1` and `block_q8_0` of ggml.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from specdec.errors import SpecdecError

BLOCK = 32
"""Weights of a block."""


@dataclass(frozen=True)
class BlockType:
    """One layout of a block: a scale, a minimum if there is one, and the codes.

    Args:
        number: its name in native code (linear/blocks.h).
        bits: of a code; of four, a byte holds the code of place i below that of place i + 16.
        zero: what is taken off a code, as it is held here: never negative.
        has_minimum: whether one is added.
    """

    number: int
    bits: int
    zero: int
    has_minimum: bool

    @property
    def num_codes(self) -> int:
        """Bytes of a block's codes."""
        return BLOCK * self.bits // 8

    @property
    def num_halves(self) -> int:
        """Numbers in half precision before them."""
        return 2 if self.has_minimum else 1

    @property
    def num_bytes(self) -> int:
        """Of a block."""
        return 2 * self.num_halves + self.num_codes


TYPES = {
    "Q4_0": BlockType(0, 4, 8, has_minimum=False),
    "Q4_1": BlockType(1, 4, 0, has_minimum=True),
    "Q8_0": BlockType(2, 8, 128, has_minimum=False),
}
"""By GGUF's name. A weight is scale · (code - zero) + minimum; the signed codes of Q8_0 are held with 128 added."""


@dataclass(frozen=True, eq=False)
class Blocks:
    """A weight matrix [N, K] in blocks, as a file has it.

    Args:
        kind: a name of `TYPES`.
        data: uint8 [N, K / 32, bytes of a block].
        k: inputs; the last block may be filled up with weights of zero.

    Raises:
        SpecdecError: if the data is of another shape.
    """

    kind: str
    data: Tensor
    k: int

    def __post_init__(self) -> None:
        shape = (len(self.data), -(-self.k // BLOCK), self.type.num_bytes)
        if self.data.dtype != torch.uint8 or self.data.shape != shape:
            raise SpecdecError(
                f"Rows of {self.k} numbers in {self.kind} are uint8 {list(shape)}, not {self.data.dtype} "
                f"{list(self.data.shape)}. Give the bytes of whole blocks."
            )

    @property
    def type(self) -> BlockType:
        """Its layout."""
        return TYPES[self.kind]

    def __len__(self) -> int:
        return len(self.data)

    def halves(self) -> Tensor:
        """Scales, and minima behind them if there are any: float16 [N, K / 32, 1 or 2]."""
        return self.data[..., : 2 * self.type.num_halves].contiguous().view(torch.float16)

    def codes(self) -> Tensor:
        """uint8 [N, K / 32, bytes of a block's codes], those of 8 bits with 128 added."""
        codes = self.data[..., 2 * self.type.num_halves :]
        return codes ^ 128 if self.type.bits == 8 else codes


def decoded(blocks: Blocks, dtype: torch.dtype = torch.float64) -> Tensor:
    """The numbers that blocks stand for, `dtype` [N, K]; exact in float64."""
    codes, halves = blocks.codes(), blocks.halves().to(dtype)
    if blocks.type.bits == 4:
        codes = torch.cat([codes & 15, codes >> 4], -1)
    numbers = halves[..., :1] * (codes.to(dtype) - blocks.type.zero)
    if blocks.type.has_minimum:
        numbers = numbers + halves[..., 1:]
    return numbers.flatten(1)[:, : blocks.k]


def joined(parts: list[Blocks]) -> Blocks:
    """Matrices of one kind, one below the other."""
    return parts[0] if len(parts) == 1 else Blocks(parts[0].kind, torch.cat([p.data for p in parts]), parts[0].k)
