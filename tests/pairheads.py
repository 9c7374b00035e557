"""Heads that draft token by token for tiny targets: random ones, and one that knows what its target says."""

from __future__ import annotations

from typing import Any

import torch
from transformers import PreTrainedModel

from specdec.heads.config import HeadConfig
from specdec.heads.eagle3 import Eagle3Head
from specdec.heads.files import ARCHITECTURES
from specdec.heads.pairs import PairHead
from specdec.models.base import CausalLM
from tests.blockheads import bigram_module


def random_pairs(
    target: CausalLM, architecture: str = "eagle3", seed: int = 0, known: float = 0.75, **options: Any
) -> PairHead:
    """A head with random weights, which knows a part of the target's tokens."""
    size, layers = target.vocab_size, target.kv_layout.num_layers
    sizes: dict[str, Any] = {
        "hidden_size": target.hidden_size, "target_hidden_size": target.hidden_size, "intermediate_size": 24,
        "num_layers": 1, "num_heads": 4, "num_kv_heads": 2, "head_dim": 8, "vocab_size": size,
        "draft_vocab_size": max(2, int(size * known)), "target_layers": layers, "max_positions": 16,
        "taps": (0, layers) if architecture == "eagle3" else (layers,),
    }  # fmt: skip
    config = HeadConfig(architecture, **(sizes | options))
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randperm(size, generator=generator)[: config.draft_vocab_size].sort().values
    head = ARCHITECTURES[architecture](config, ids if config.draft_vocab_size < size else None)
    assert isinstance(head, PairHead)
    with torch.no_grad():
        for weight in head.parameters():
            noise = torch.randn(weight.shape, generator=generator)
            weight.copy_(1 + 0.2 * noise if weight.dim() == 1 else 2 * noise * weight.shape[-1] ** -0.5)
    return head


def flat_bigram_module(seed: int = 0) -> PreTrainedModel:
    """A `bigram_module` of one layer whose embeddings are all of one length."""
    module = bigram_module(seed, num_layers=1)
    rows = module.get_input_embeddings().weight.data
    rows.div_(rows.square().mean(-1, keepdim=True).sqrt())
    return module


@torch.no_grad()
def oracle_pairs(module: PreTrainedModel) -> Eagle3Head:
    """A head that looks at a pair's own token alone and does with it what a `flat_bigram_module` does: its logits are
    the target's at every step of a draft. Scores are largest by far where the position is a row's own."""
    heads = module.config.num_attention_heads
    flags = {"norm_before_residual": True, "qkv_bias": True, "num_kv_heads": heads, "qk_norm": False}
    head = Eagle3Head(HeadConfig.like(module.config, "eagle3", **flags))
    layer, its = head.midlayer, module.model.layers[0]
    for weight in head.parameters():
        weight.zero_() if weight.dim() > 1 else weight.fill_(1.0)
    layer.hidden_norm.weight.zero_()
    attention, width = layer.self_attn, module.config.hidden_size
    attention.q_proj.bias.fill_(30.0)
    attention.k_proj.bias.fill_(30.0)
    attention.v_proj.bias.zero_()
    attention.v_proj.weight[:, :width].copy_(torch.eye(width))
    attention.o_proj.weight.copy_(torch.eye(width))
    layer.post_attention_layernorm.weight.copy_(its.post_attention_layernorm.weight)
    for mine, other in zip(layer.mlp.children(), (its.mlp.gate_proj, its.mlp.up_proj, its.mlp.down_proj), strict=True):
        mine.weight.copy_(other.weight)
    head.norm.weight.copy_(module.model.norm.weight)
    return head
