"""Tiny heads with random weights, and random targets for them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from specdec.heads.base import Head
from specdec.heads.config import HeadConfig
from specdec.models.base import CausalLM
from specdec.testing.tiny import llama_module

SIZES: dict[str, Any] = {
    "hidden_size": 24, "target_hidden_size": 24, "intermediate_size": 40, "num_layers": 2, "num_heads": 4,
    "num_kv_heads": 2, "head_dim": 8, "vocab_size": 50, "draft_vocab_size": 20, "target_layers": 5,
    "taps": (1, 2, 5), "mask_token_id": 3, "rms_norm_eps": 1e-5,
}  # fmt: skip


def config(architecture: str, **options: Any) -> HeadConfig:
    return HeadConfig(architecture, **(SIZES | options))


def draft_ids(of: HeadConfig, seed: int = 0) -> Tensor | None:
    """Some of the target's tokens; None for all."""
    if of.draft_vocab_size == of.vocab_size:
        return None
    order = torch.randperm(of.vocab_size, generator=torch.Generator().manual_seed(seed))
    return order[: of.draft_vocab_size].sort().values


def drawn(head: Head, seed: int = 0) -> Head:
    """The head in float64 with every weight, bias and norm drawn, bound to random rows of a target."""
    generator = torch.Generator().manual_seed(seed)
    head.double()
    with torch.no_grad():
        for weight in head.parameters():
            noise = torch.randn(weight.shape, generator=generator, dtype=torch.float64)
            weight.copy_(1 + 0.2 * noise if weight.dim() == 1 else noise * weight.shape[-1] ** -0.5)
    shape = (head.config.vocab_size, head.config.hidden_size)
    head.bind(*(torch.randn(shape, generator=generator, dtype=torch.float64) for _ in range(2)))
    return head


def on_triton(kind: str = "float32") -> CausalLM:
    """The tiny target on Triton's kernels."""
    pytest.importorskip("triton")
    from specdec.kernels.attention.triton import AttentionConfig
    from specdec.models.triton import TritonModel
    from tests.kernels.gpu import DEVICE

    sizes = AttentionConfig(block_m=16, block_n=16, split=32)
    return TritonModel(llama_module(0).to(DEVICE), kind=kind, attention=sizes)


def weights(head: Head) -> dict[str, np.ndarray]:
    return {name: weight.detach().numpy() for name, weight in head.state_dict().items()}


def shared(head: Head, output: Tensor) -> dict[str, np.ndarray]:
    """The target's output rows, all of them, and which the head knows."""
    return {"rows": output.numpy(), "ids": head.draft_ids.numpy()}


def text(of: HeadConfig, batch: int, length: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Hidden states [B, S, k, H] and tokens [B, S]."""
    generator = torch.Generator().manual_seed(seed)
    taps = torch.randn(batch, length, len(of.taps), of.target_hidden_size, generator=generator, dtype=torch.float64)
    return taps, torch.randint(of.vocab_size, (batch, length), generator=generator)
