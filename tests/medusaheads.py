"""Medusa heads for tiny targets."""

from __future__ import annotations

from typing import Any

import torch

from specdec.heads.config import HeadConfig
from specdec.heads.medusa import MedusaHead
from specdec.models.base import CausalLM


def random_medusa(target: CausalLM, known: float = 0.75, **options: Any) -> MedusaHead:
    """Three heads with random weights, which know a part of the target's tokens."""
    size, layers, width = target.vocab_size, target.kv_layout.num_layers, target.hidden_size
    sizes: dict[str, Any] = {
        "hidden_size": width, "target_hidden_size": width, "intermediate_size": width, "num_layers": 1, "num_heads": 4,
        "num_kv_heads": 4, "head_dim": 8, "vocab_size": size, "draft_vocab_size": int(size * known),
        "target_layers": layers, "taps": (layers,), "medusa_heads": 3, "fc_bias": True, "max_positions": 16,
    }  # fmt: skip
    config = HeadConfig("medusa", **(sizes | options))
    generator = torch.Generator().manual_seed(0)
    ids = torch.randperm(size, generator=generator)[: config.draft_vocab_size].sort().values
    head = MedusaHead(config, ids if config.draft_vocab_size < size else None)
    with torch.no_grad():
        for weight in head.parameters():
            weight.copy_(torch.randn(weight.shape, generator=generator) * 2 * weight.shape[-1] ** -0.5)
    return head
