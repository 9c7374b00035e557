"""Products with packed weights."""

from specdec.kernels.linear.packed import KINDS, PackedLinear, pack

__all__ = ["KINDS", "PackedLinear", "pack"]
