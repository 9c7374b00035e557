"""Products with packed weights."""

from specdec.kernels.linear.packed import KINDS, PackedLinear, pack, pack_blocks

__all__ = ["KINDS", "PackedLinear", "pack", "pack_blocks"]
