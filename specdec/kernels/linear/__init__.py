"""Products with packed weights."""

from specdec.kernels.linear.packed import HEAD_KINDS, KINDS, PackedLinear, pack, pack_blocks
from specdec.kernels.linear.reference import BLOCK_KINDS

__all__ = ["BLOCK_KINDS", "HEAD_KINDS", "KINDS", "PackedLinear", "pack", "pack_blocks"]
