"""Random Llamas so small that an engine's step takes a millisecond."""

from __future__ import annotations

from pathlib import Path

import torch
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel, PreTrainedTokenizerBase

from specdec.models.transformers import TransformersModel

VOCAB_SIZE = 64


def llama_module(
    seed: int = 0,
    *,
    vocab_size: int = VOCAB_SIZE,
    num_layers: int = 2,
    hidden_size: int = 32,
    max_context: int = 256,
    scale: float = 0.3,
) -> PreTrainedModel:
    """A random Llama whose logits are spread enough for its text not to be one token over and over.

    Args:
        seed: of its weights.
        vocab_size, num_layers, hidden_size, max_context: sizes.
        scale: standard deviation of its weights.
    """
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=vocab_size,
        hidden_size=hidden_size,
        intermediate_size=2 * hidden_size,
        num_hidden_layers=num_layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=max_context,
        initializer_range=scale,
        tie_word_embeddings=False,
        bos_token_id=None,
        eos_token_id=None,
        pad_token_id=None,
    )
    module: PreTrainedModel = LlamaForCausalLM(config).eval()
    return module


def llama(seed: int = 0, **options: int | float) -> TransformersModel:
    """`llama_module` under our attention."""
    return TransformersModel(llama_module(seed, **options), f"tiny-{seed}")  # type: ignore[arg-type]


def save(folder: Path, tokenizer: PreTrainedTokenizerBase, **options: int | float) -> None:
    """Writes `llama_module` and a tokenizer, as transformers reads them.

    Args:
        folder: is made.
        tokenizer: its end token ends texts.
        options: of `llama_module`; the vocabulary is the tokenizer's.
    """
    model = llama_module(vocab_size=len(tokenizer), **options)  # type: ignore[arg-type]
    model.config.eos_token_id = model.generation_config.eos_token_id = tokenizer.eos_token_id
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
