"""Block heads for tiny targets: random ones, and one that knows what its target says."""

from __future__ import annotations

from typing import Any

import torch
from transformers import PreTrainedModel

from specdec.heads.block import BlockHead
from specdec.heads.config import HeadConfig
from specdec.models.base import CausalLM
from specdec.testing.tiny import llama_module


def random_head(target: CausalLM, seed: int = 0, known: float = 0.75, **options: Any) -> BlockHead:
    """A head with random weights, which knows a part of the target's tokens."""
    size, layers = target.vocab_size, target.kv_layout.num_layers
    sizes: dict[str, Any] = {
        "hidden_size": target.hidden_size, "target_hidden_size": target.hidden_size, "intermediate_size": 24,
        "num_layers": 2, "num_heads": 4, "num_kv_heads": 2, "head_dim": 8, "vocab_size": size,
        "draft_vocab_size": max(2, int(size * known)), "target_layers": layers, "taps": (0, layers), "block_size": 4,
        "causal": True, "markov_rank": 4, "confidence": True, "mask_token_id": size - 1, "max_positions": 16,
    }  # fmt: skip
    config = HeadConfig("block", **(sizes | options))
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randperm(size, generator=generator)[: config.draft_vocab_size].sort().values
    head = BlockHead(config, ids if config.draft_vocab_size < size else None)
    with torch.no_grad():
        for weight in head.parameters():
            noise = torch.randn(weight.shape, generator=generator)
            weight.copy_(1 + 0.2 * noise if weight.dim() == 1 else noise * weight.shape[-1] ** -0.5)
    return head


def bigram_module(seed: int = 0, **sizes: Any) -> PreTrainedModel:
    """A random Llama whose attention adds nothing: a token depends on the one before it alone."""
    module = llama_module(seed, **sizes)
    for layer in module.model.layers:
        layer.self_attn.o_proj.weight.data.zero_()
    module.lm_head.weight.data.mul_(4)  # what is likely is likely enough to be in every tree
    return module


@torch.no_grad()
def oracle_head(module: PreTrainedModel, **options: Any) -> BlockHead:
    """A head whose Markov term is the table of a `bigram_module`: its logits are the target's own."""
    size = module.config.vocab_size
    shape = {"taps": (1,), "block_size": 4, "causal": True, "own_output": True, "markov_rank": size}
    head = BlockHead(HeadConfig.like(module.config, "block", **(shape | options)))
    for weight in head.parameters():
        torch.nn.init.normal_(weight, std=0.1)
    table = module(torch.arange(size)[:, None]).logits[:, 0]
    assert head.markov_head is not None
    head.lm_head.weight.zero_()
    head.markov_head.markov_w1.weight.copy_(torch.eye(size))
    head.markov_head.markov_w2.weight.copy_(table.T)
    return head
