"""Products with packed weights."""

from specdec.kernels.linear.packed import BLOCK_KINDS, HEAD_KINDS, KINDS, PackedLinear, pack, pack_blocks

__all__ = ["BLOCK_KINDS", "HEAD_KINDS", "KINDS", "PackedLinear", "pack", "pack_blocks"]
