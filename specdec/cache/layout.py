"""How much a token takes in the cache, and how much of the cache is taken."""

from __future__ import annotations

from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class KVLayout:
    """What one token costs in the cache."""

    num_layers: int
    num_kv_heads: int
    head_dim: int
    dtype: torch.dtype = torch.float32
    device: torch.device | str = "cpu"

    @property
    def quantized(self) -> bool:
        """Whether entries are 8-bit numbers with a scale per token and head."""
        return self.dtype.itemsize == 1

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
