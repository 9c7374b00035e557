"""How much a token takes in the cache, and how much of the cache is taken."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class KVLayout:
    """What one token costs in the cache.

    Args:
        num_layers, num_kv_heads, head_dim: so many vectors of keys, and of values, and their size.
        dtype, device: of the vectors.
        heads_first: a head's vectors lie together in memory, slot after slot, instead of a slot's, head after head. A
            kernel that reads one head at a time then streams instead of leaping. Tensors have the same shape.
    """

    num_layers: int
    num_kv_heads: int
    head_dim: int
    dtype: torch.dtype = torch.float32
    device: torch.device | str = "cpu"
    heads_first: bool = False

    @property
    def quantized(self) -> bool:
        """Whether entries are 8-bit numbers with a scale per token and head."""
        return self.dtype.itemsize == 1

    def empty(self, num_slots: int) -> list[Tensor]:
        """Memory for so many slots: keys and values of one layer after the other, [num_slots, KV heads, head size],
        then, if quantized, the scales of each, float32 [num_slots, KV heads]."""
        order = (self.num_kv_heads, num_slots) if self.heads_first else (num_slots, self.num_kv_heads)
        sides = range(2 * self.num_layers)
        entries = [torch.empty(*order, self.head_dim, dtype=self.dtype, device=self.device) for _ in sides]
        scales = [torch.empty(order, device=self.device) for _ in sides if self.quantized]
        return [tensor.transpose(0, 1) if self.heads_first else tensor for tensor in (*entries, *scales)]

    def bytes_per_token(self) -> int:
        """Bytes of one token's keys and values in all layers."""
        return 2 * self.num_layers * self.num_kv_heads * (self.head_dim * self.dtype.itemsize + 4 * self.quantized)


@dataclass(frozen=True)
class CacheUsage:
    """Slots in the cache, in blocks that are held, and used by committed tokens (shared ones counted once)."""

    total_slots: int
    allocated_slots: int
    used_slots: int

    @property
    def waste(self) -> float:
        """Share of the allocated slots that hold no token."""
        return 1 - self.used_slots / self.allocated_slots if self.allocated_slots else 0.0
