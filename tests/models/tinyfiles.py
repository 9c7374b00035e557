"""A tiny model's files: a folder, a GGUF file, and ways to change them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gguf import GGMLQuantizationType, GGUFWriter
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel, PreTrainedTokenizerFast

from tests.kernels.blockbytes import packed

WORDS = ["<s>", "</s>", "<|endoftext|>", "<unk>", *"abcdefghijklmnopqrstuvwxyz", "ab", "Ġ"]


def make_module() -> PreTrainedModel:
    """A random Llama over `WORDS`."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(WORDS),
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=64,
        initializer_range=0.3,
        tie_word_embeddings=False,
        bos_token_id=0,
        eos_token_id=1,
    )
    return LlamaForCausalLM(config).eval()


def make_tokenizer(eos: str | None = "</s>") -> PreTrainedTokenizerFast:
    words = Tokenizer(models.WordLevel({word: number for number, word in enumerate(WORDS)}, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=words, bos_token="<s>", eos_token=eos, unk_token="<unk>")


def write_gguf(path: Path, module: PreTrainedModel, without: str = "", kinds: Mapping[str, str] | None = None) -> None:
    """The model in llama.cpp's format, whose rows of a Llama's q and k are in another order.

    Args:
        path, module: where, and what.
        without: name of a tensor that is left out, without its suffix.
        kinds: types of the matrices by the last part of their names; float32 for the others.
    """
    config = module.config
    writer = GGUFWriter(path, config.model_type)
    writer.add_name("tiny")
    writer.add_vocab_size(config.vocab_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    head_size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    writer.add_rope_dimension_count(head_size)
    writer.add_key_length(head_size)
    writer.add_rope_freq_base(10000.0)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("default")
    writer.add_token_list(WORDS)
    writer.add_token_types([3] * 4 + [1] * (len(WORDS) - 4))
    writer.add_token_merges(["a b"])
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(1)

    names = {
        "input_layernorm": "attn_norm",
        "post_attention_layernorm": "ffn_norm",
        "self_attn.q_proj": "attn_q",
        "self_attn.k_proj": "attn_k",
        "self_attn.v_proj": "attn_v",
        "self_attn.o_proj": "attn_output",
        "mlp.gate_proj": "ffn_gate",
        "mlp.up_proj": "ffn_up",
        "mlp.down_proj": "ffn_down",
        "self_attn.q_norm": "attn_q_norm",
        "self_attn.k_norm": "attn_k_norm",
    }
    weights = {
        "token_embd.weight": module.model.embed_tokens.weight,
        "output_norm.weight": module.model.norm.weight,
        "output.weight": module.lm_head.weight,
    }
    for index, layer in enumerate(module.model.layers):
        for theirs, ours in names.items():
            for what, weight in layer.get_submodule(theirs).named_parameters() if has(layer, theirs) else ():
                weights[f"blk.{index}.{ours}.{what}"] = weight
    weights.pop(f"{without}.weight", None)
    for name, weight in weights.items():
        part = name.split(".")[-2]
        heads = {"attn_q": config.num_attention_heads, "attn_k": config.num_key_value_heads}.get(part)
        array = weight.detach()
        if heads is not None and config.model_type == "llama":
            array = array.view(heads, 2, -1, *array.shape[1:]).transpose(1, 2).reshape(array.shape)
        kind = GGMLQuantizationType[(kinds or {}).get(part, "F32") if array.dim() > 1 else "F32"]
        writer.add_tensor(name, packed(kind.name, array.numpy().astype(np.float32)), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def has(layer: nn.Module, name: str) -> bool:
    """Whether it has such a part."""
    return any(name == own for own, _ in layer.named_modules())


def edit_json(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def cut(path: Path, size: int) -> None:
    """Keeps the first `size` bytes, or leaves out as many from the end if negative."""
    path.write_bytes(path.read_bytes()[:size])
