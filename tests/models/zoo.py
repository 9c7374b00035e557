"""A tiny model of every architecture that transformers decodes text with, in a folder as users have them.

All lengths that a short probe cannot see (windows, chunks) are larger than its dozen tokens and smaller than the texts.
"""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import Any

import torch
import transformers
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    CONFIG_MAPPING,
    AutoModelForCausalLM,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

VOCAB_SIZE, MAX_CONTEXT, WINDOW = 101, 128, 16

SIZES: dict[str, Any] = {
    **dict.fromkeys(("vocab_size", "vocab_size_per_layer_input"), VOCAB_SIZE),
    **dict.fromkeys(
        ("max_position_embeddings", "n_positions", "n_ctx", "max_seq_len", "max_target_positions",
         "max_source_positions", "model_max_length"), MAX_CONTEXT),
    **dict.fromkeys(("sliding_window", "window_size", "attention_chunk_size"), WINDOW),
    **dict.fromkeys(
        ("hidden_size", "n_embd", "d_model", "embedding_size", "word_embed_proj_dim", "emb_dim", "embed_dim",
         "output_dim", "projection_dim", "vision_output_dim", "hidden_dim", "vision_hidden", "out_hidden_size"), 32),
    **dict.fromkeys(
        ("intermediate_size", "n_inner", "ffn_dim", "encoder_ffn_dim", "decoder_ffn_dim", "dim_ff", "ffn_hidden_size"),
        48),
    **dict.fromkeys(
        ("moe_intermediate_size", "shared_expert_intermediate_size", "expert_ffn_hidden_size", "image_size"), 16),
    **dict.fromkeys(("num_hidden_layers", "n_layer", "n_layers", "num_layers", "decoder_layers"), 3),
    **dict.fromkeys(
        ("num_attention_heads", "n_head", "n_heads", "num_heads", "encoder_attention_heads", "decoder_attention_heads",
         "n_routed_experts", "num_experts", "num_local_experts", "moe_num_experts", "mamba_n_heads", "mamba_num_heads",
         "linear_num_value_heads", "qk_rope_head_dim", "qk_nope_head_dim", "rotary_dim", "mamba_chunk_size",
         "conv_kernel", "patch_size", "laurel_rank"), 4),
    **dict.fromkeys(
        ("num_key_value_heads", "num_kv_heads", "kv_n_heads", "num_experts_per_tok", "num_experts_per_token",
         "moe_top_k", "encoder_layers", "depth", "index_n_heads", "altup_num_inputs", "linear_num_key_heads",
         "mamba_expand", "split_ngram_parts", "make_ngram_vocab_size_divisible_by"), 2),
    **dict.fromkeys(("n_group", "topk_group", "first_k_dense_replace", "n_shared_experts", "num_global_layers"), 1),
    **dict.fromkeys(
        ("head_dim", "kv_lora_rank", "q_lora_rank", "v_head_dim", "dim_head", "mamba_d_head", "mamba_head_dim",
         "mamba_d_state", "state_size", "linear_key_head_dim", "linear_value_head_dim", "index_head_dim", "hc_lowrank",
         "hidden_size_per_layer_input", "pronunciation_embed_dim", "shape_embed_dim"), 8),
    **dict.fromkeys(("pronunciation_vocab_size", "shape_vocab_size"), 9),
    "index_topk": 4, "mamba_d_ssm": 32, "num_channels": 3, "ngram_vocab_size_base": 50,
    "encoder_hash_byte_group_vocab": 64,
    "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "tie_word_embeddings": False,
}  # fmt: skip
"""A configuration's field → its size in a tiny model, whatever the architecture."""

LATENT = {"head_dim": 4, "num_key_value_heads": 4}
MAMBA = ["linear_attention", "hybrid", "linear_attention"]
ROPES = {kind: {"rope_type": "default", "rope_theta": 1e4} for kind in ("full_attention", "sliding_attention")}
OWN: dict[str, dict[str, Any]] = {
    **dict.fromkeys(
        ("axk1", "axk2", "deepseek_v2", "deepseek_v3", "glm4_moe_lite", "minicpm3", "youtu", "longcat_flash"), LATENT),
    "bamba": {"mamba_d_head": 16, "attn_layer_indices": [1]},
    "cohere_compass_text": {"rope_parameters": ROPES},
    "dbrx": {
        "attn_config": {"kv_n_heads": 2, "rope_theta": 1e4, "clip_qkv": 8.0},
        "ffn_config": {"ffn_hidden_size": 48},
    },
    "dots3_note_text": {"num_key_value_heads": 4, "head_dim": 8},
    "ernie4_5_moe": {"moe_k": 2},
    "gemma3n_text": {"num_kv_shared_layers": 0},
    "gemma4_text": {"global_head_dim": 8},
    "gpt_neo": {"attention_types": [[["global", "local"], 1]], "num_layers": 2},
    "granitemoehybrid": {"mamba_d_head": 16, "layer_types": ["mamba", "attention", "mamba"]},
    "lfm2_moe": {"layer_types": ["conv", "full_attention", "conv"], "num_dense_layers": 1},
    "mamba2": {"n_groups": 1, "num_heads": 4, "head_dim": 16, "state_size": 8},
    "reformer": {"is_decoder": True, "axial_pos_embds": False, "attention_head_size": 8, "num_buckets": 4},
    "zamba2": {"layer_types": MAMBA, "n_mamba_heads": 4, "mamba_ngroups": 1, "chunk_size": 4},
    "zaya": {"num_experts_per_tok": 1, "router_hidden_size": 8},
}  # fmt: skip
"""What an architecture needs besides."""

NAMES = sorted(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES)
"""Every `model_type` that AutoModelForCausalLM knows."""


def tiny_config(name: str, **options: Any) -> PreTrainedConfig:
    """A configuration of tiny sizes, of all its parts.

    Raises:
        Exception: whatever transformers raises where such sizes do not fit together.
    """
    return _shrunk(CONFIG_MAPPING[name], options)


def _shrunk(kind: type[PreTrainedConfig], options: dict[str, Any]) -> PreTrainedConfig:
    named = {field.name for field in fields(kind)} - set(kind.attribute_map)
    values = {name: size for name, size in SIZES.items() if name in named} | OWN.get(kind.model_type, {}) | options
    for name, part in vars(kind()).items():
        if isinstance(part, PreTrainedConfig) and name not in values:
            values[name] = _shrunk(type(part), {})
    return kind(**values)


def save(config: PreTrainedConfig, folder: Path, seed: int = 0) -> None:
    """A model with random weights, and a tokenizer whose token i is the word w<i>."""
    module = AutoModelForCausalLM.from_config(config).eval()
    draw(module, seed)
    module.save_pretrained(folder)
    tokenizer(VOCAB_SIZE).save_pretrained(folder)


def draw(module: PreTrainedModel, seed: int) -> None:
    """Draws every weight, bias and norm anew, so that logits depend on the whole context."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, weight in module.named_parameters():
            noise = torch.randn(weight.shape, generator=generator)
            if weight.dim() == 1:
                weight.add_(0.1 * noise)
            else:
                is_table = any(mark in name for mark in ("embed", "wte", "wpe"))
                weight.copy_(noise * (0.5 if is_table else 1.2 * max(weight.shape[-2:]) ** -0.5))


def tokenizer(size: int, words: list[str] | None = None) -> PreTrainedTokenizerFast:
    """One word a token."""
    listed = words or [f"w{number}" for number in range(size)]
    split = Tokenizer(models.WordLevel({word: number for number, word in enumerate(listed)}, unk_token=listed[3]))
    split.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=split, pad_token=listed[0], bos_token=listed[1], eos_token=listed[2], unk_token=listed[3]
    )


def generated(folder: Path, prompt: list[int], count: int) -> list[int]:
    """What transformers' own `generate` appends to a prompt, greedily, in float32 with its own attention."""
    module = AutoModelForCausalLM.from_pretrained(folder, attn_implementation="eager").eval()
    module.generation_config.eos_token_id = None
    ids = module.generate(torch.tensor([prompt]), max_new_tokens=count, do_sample=False, pad_token_id=0)
    return [int(token) for token in ids[0, len(prompt) :]]


transformers.logging.set_verbosity_error()
