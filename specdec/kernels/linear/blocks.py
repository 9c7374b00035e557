"""Weight matrices in blocks of 32, whose weights share scales and maybe a minimum."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from specdec.errors import SpecdecError
from specdec.kernels.linear.layouts import BLOCK, TYPES, BlockType, parted, single


@dataclass(frozen=True, eq=False)
class Blocks:
    """A weight matrix [N, K] in blocks, as a file has it.

    Args:
        kind: a name of `TYPES`.
        data: uint8 [N, K / span, bytes]; see `BlockType`.
        k: inputs; the last block may be filled up with weights of zero, if the span is that of a block.

    Raises:
        SpecdecError: if the data is of another shape.
    """

    kind: str
    data: Tensor
    k: int

    def __post_init__(self) -> None:
        span = self.type.span
        if span > BLOCK and self.k % span:
            raise SpecdecError(f"Rows of {self.k} numbers cannot be {self.kind}. Give a multiple of {span}.")
        shape = (len(self.data), -(-self.k // span), self.type.num_bytes)
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
        """See `BlockType.halves`."""
        return self.type.halves(self.data)

    def fines(self) -> Tensor:
        """See `BlockType.fines`."""
        return self.type.fines(self.data)

    def codes(self) -> Tensor:
        """See `BlockType.codes`."""
        return self.type.codes(self.data)


def decoded(blocks: Blocks, dtype: torch.dtype = torch.float64) -> Tensor:
    """The numbers that blocks stand for, `dtype` [N, K]; exact in float64."""
    return numbers(blocks.type, blocks.codes(), blocks.fines(), blocks.halves(), dtype)[:, : blocks.k]


def numbers(kind: BlockType, codes: Tensor, fines: Tensor, halves: Tensor, dtype: torch.dtype) -> Tensor:
    """The numbers that blocks stand for, `dtype` [N, K].

    Args:
        kind: their type.
        codes, fines, halves: as `BlockType` has them, [N, …] each.
        dtype: float32 or float64.
    """
    scale, minimum = scales_and_minima(kind, fines, halves, dtype)
    places = parted(single(codes, kind.bits).to(dtype) - kind.zero, kind.num_parts, BLOCK // kind.num_parts)
    out = scale[..., None] * places
    return (out if minimum is None else out + minimum[..., None, None]).flatten(1)


def scales_and_minima(
    kind: BlockType, fines: Tensor, halves: Tensor, dtype: torch.dtype = torch.float32
) -> tuple[Tensor, Tensor | None]:
    """What the codes of a block are multiplied with, part by part, `dtype` [N, K / 32, num_parts], and what is added to
    them, [N, K / 32], if there is anything. Scales are exact in float32."""
    wide = halves.to(dtype).repeat_interleave(kind.span // BLOCK, 1)
    scale, minimum = wide[..., :1], wide[..., 1] if kind.has_minimum else None
    if kind.span == BLOCK:
        return scale, minimum
    fine = fines.to(dtype)
    scale = scale * fine[..., : kind.num_parts]
    return scale, None if minimum is None else minimum * fine[..., -1]


def joined(parts: list[Blocks]) -> Blocks:
    """Matrices of one kind, one below the other."""
    return parts[0] if len(parts) == 1 else Blocks(parts[0].kind, torch.cat([p.data for p in parts]), parts[0].k)
