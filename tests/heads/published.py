"""Files of heads as others publish them, written by hand: config.json and each tensor's name and shape.

Sizes: h 24, intermediate 40, 4 heads of 8, 2 KV heads, V 50, a target of 5 layers.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

Shapes = dict[str, tuple[int, ...]]
LLAMA: dict[str, Any] = {
    "hidden_act": "silu", "hidden_size": 24, "intermediate_size": 40, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 8, "vocab_size": 50, "rms_norm_eps": 1e-5, "rope_theta": 10000.0,
    "max_position_embeddings": 2048, "torch_dtype": "float32", "tie_word_embeddings": False,
}  # fmt: skip


def layer(prefix: str, width: int = 24, qk_norm: bool = False, bias: bool = False) -> Shapes:
    found: Shapes = {
        f"{prefix}self_attn.q_proj.weight": (32, width),
        f"{prefix}self_attn.k_proj.weight": (16, width),
        f"{prefix}self_attn.v_proj.weight": (16, width),
        f"{prefix}self_attn.o_proj.weight": (24, 32),
        f"{prefix}mlp.gate_proj.weight": (40, 24),
        f"{prefix}mlp.up_proj.weight": (40, 24),
        f"{prefix}mlp.down_proj.weight": (24, 40),
        f"{prefix}input_layernorm.weight": (24,),
        f"{prefix}post_attention_layernorm.weight": (24,),
    }
    if qk_norm:
        found |= {f"{prefix}self_attn.{which}_norm.weight": (8,) for which in "qk"}
    if bias:
        found |= {
            f"{prefix}self_attn.{which}_proj.bias": (size,) for which, size in zip("qkv", (32, 16, 16), strict=True)
        }
    return found


def block(target: int = 24, bias: bool = False) -> Shapes:
    """DFlash with three taps and two layers."""
    return {
        "fc.weight": (24, 3 * target), "hidden_norm.weight": (24,), "norm.weight": (24,),
        **layer("layers.0.", qk_norm=True, bias=bias), **layer("layers.1.", qk_norm=True, bias=bias),
    }  # fmt: skip


def spark(known: int = 50, rank: int = 6) -> Shapes:
    """What DSpark adds."""
    return {
        "markov_head.markov_w1.weight": (50, rank), "markov_head.markov_w2.weight": (known, rank),
        "confidence_head.proj.weight": (1, 24 + rank), "confidence_head.proj.bias": (1,),
    }  # fmt: skip


def eagle3(known: int = 20, target: int = 24, first: str = "midlayer.", **options: bool) -> Shapes:
    found = {
        "fc.weight": (24, 3 * target), "norm.weight": (24,), "lm_head.weight": (known, 24),
        **layer(first, 48, **options), f"{first}hidden_norm.weight": (24,),
    }  # fmt: skip
    return found | ({"d2t": (known,), "t2d": (50,)} if known < 50 else {})


def eagle1(bias: bool = True) -> Shapes:
    """The first layer has no norm before attention."""
    found = {"embed_tokens.weight": (50, 24), "fc.weight": (24, 48), **layer("layers.0.")}
    del found["layers.0.input_layernorm.weight"]
    return found | ({"fc.bias": (24,)} if bias else {})


def mtp() -> Shapes:
    norms: Shapes = {f"mtp_layers.0.{which}_layernorm.weight": (24,) for which in ("hidden", "token", "final")}
    return {**layer("mtp_layers.0.", qk_norm=True), **norms, "mtp_layers.0.input_proj.weight": (24, 48)}


def medusa(heads: int = 3, bias: bool = True) -> Shapes:
    found: Shapes = {f"{i}.0.linear.weight": (24, 24) for i in range(heads)}
    found |= {f"{i}.0.linear.bias": (24,) for i in range(heads) if bias}
    return found | {f"{i}.1.weight": (50, 24) for i in range(heads)}


DFLASH = {
    **LLAMA, "architectures": ["DFlashDraftModel"], "model_type": "qwen3", "num_hidden_layers": 2, "block_size": 4,
    "num_target_layers": 5, "layer_types": ["full_attention"] * 2, "attention_bias": False, "rope_scaling": None,
    "dflash_config": {"mask_token_id": 3, "target_layer_ids": [0, 2, 3]},
}  # fmt: skip
SPECFORGE_DSPARK = {
    **DFLASH, "architectures": ["DSparkDraftModel"],
    "dflash_config": {
        "mask_token_id": 3, "target_layer_ids": [0, 2, 3], "projector_type": "dspark", "markov_rank": 6,
        "markov_head_type": "vanilla", "enable_confidence_head": True, "confidence_head_with_markov": True,
    },
}  # fmt: skip
DSPARK = {
    **{key: value for key, value in DFLASH.items() if key != "dflash_config"}, "architectures": ["Qwen3DSparkModel"],
    "mask_token_id": 3, "target_layer_ids": [0, 2, 3], "markov_rank": 6, "markov_head_type": "vanilla",
    "enable_confidence_head": True, "confidence_head_with_markov": True, "num_anchors": 512,
}  # fmt: skip
EAGLE3 = {**LLAMA, "architectures": ["LlamaForCausalLM"], "model_type": "llama", "num_hidden_layers": 1}
SPECFORGE = {**EAGLE3, "architectures": ["LlamaForCausalLMEagle3"]}
SPECULATORS = {
    "speculators_version": "0.4.0",
    "transformer_layer_config": {
        **{key: value for key, value in LLAMA.items() if key not in ("hidden_act", "tie_word_embeddings")},
        "model_type": "qwen3", "num_hidden_layers": 2, "layer_types": ["full_attention"] * 2,
    },
    "speculators_config": {
        "algorithm": "dspark", "default_proposal_method": "greedy",
        "proposal_methods": [{"proposal_type": "greedy", "speculative_tokens": 4}],
        "verifier": {"name_or_path": "some/target", "architectures": ["LlamaForCausalLM"]},
    },
}  # fmt: skip
MEDUSA = {"medusa_num_heads": 2, "medusa_num_layers": 1, "base_model_name_or_path": "some/target"}


def drawn(shapes: Shapes, seed: int = 0) -> dict[str, Tensor]:
    """Random tensors, float32; d2t and t2d of a random draft vocabulary."""
    generator, found = torch.Generator().manual_seed(seed), {}
    for name, shape in shapes.items():
        noise = torch.randn(shape, generator=generator)
        found[name] = 1 + 0.2 * noise if len(shape) == 1 else noise * shape[-1] ** -0.5
    if "d2t" in found:
        ids = torch.randperm(50, generator=generator)[: len(found["d2t"])].sort().values
        found["d2t"] = ids - torch.arange(len(ids))
        found["t2d"] = torch.isin(torch.arange(50), ids)
    return found


def write(folder: Path, settings: dict[str, Any], tensors: dict[str, Tensor], name: str = "model.safetensors") -> None:
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(settings), encoding="utf-8")
    save_file(tensors, folder / name)
