"""Layouts of pools that hold no keys and values, as a drafter may ask for them."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Features:
    """A vector at every slot, float32 [slots, width], and with `numbered` an int64 beside it, [slots]."""

    width: int = 5
    numbered: bool = False
    device: torch.device | str = "cpu"

    def bytes_per_token(self) -> int:
        """Bytes of one token's vector and number."""
        return 4 * self.width + 8 * self.numbered

    def empty(self, num_slots: int) -> list[Tensor]:
        """Memory for so many slots."""
        vectors = torch.empty(num_slots, self.width, device=self.device)
        return [vectors, *(torch.empty(num_slots, dtype=torch.int64, device=self.device) for _ in range(self.numbered))]
