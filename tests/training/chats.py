"""A tokenizer with a chat template, and a target for it, small enough to train on."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from tests.tiny import llama_module

SPECIAL = ("<|end|>", "<|user|>", "<|bot|>")
END = 0
TEMPLATE = (
    "{% for message in messages %}{{ '<|user|>' if message['role'] == 'user' else '<|bot|>' }}"
    "{{ message['content'] }}<|end|>{% endfor %}{% if add_generation_prompt %}<|bot|>{% endif %}"
)


@cache
def tokenizer() -> Any:
    """A token for each byte."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    pieces = [*SPECIAL, *alphabet]
    made = Tokenizer(models.BPE(vocab={piece: token for token, piece in enumerate(pieces)}, merges=[]))
    made.pre_tokenizer, made.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    made.add_special_tokens(list(SPECIAL))
    return PreTrainedTokenizerFast(
        tokenizer_object=made, eos_token="<|end|>", extra_special_tokens=list(SPECIAL[1:]), chat_template=TEMPLATE
    )


def save_target(folder: Path) -> Path:
    """A random model of this vocabulary, with its tokenizer, as transformers writes them."""
    module = llama_module(0, vocab_size=len(SPECIAL) + 256, num_layers=3, max_context=512, scale=0.2)
    module.generation_config.eos_token_id = END
    module.config.eos_token_id = END
    module.save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    return folder
