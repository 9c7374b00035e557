"""A tiny model with a tokenizer of its own, and what transformers says of it in float64."""

from __future__ import annotations

from functools import cache
from typing import Any

import torch

from specdec import EngineConfig, SpeculativeGenerator
from specdec.generator import Drafters
from specdec.models.loading import LoadedModel
from specdec.models.native import NativeModel
from specdec.testing.tiny import llama_module
from tests.toytokenizers import byte_level

V = 400
TEMPLATE = (
    "{% for m in messages %}<|user|>{{ m.role }}: {{ m.content }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|user|>assistant: {% endif %}"
)


class Counting(NativeModel):
    """Counts its passes, and their rows."""

    rows: list[int]

    def run(self, batch: Any, pool: Any, wants: Any = None) -> Any:
        """See `CausalLM.run`."""
        self.rows.append(len(batch.token_ids))
        return super().run(batch, pool, wants)


@cache
def tokenizer() -> Any:
    """With a chat template."""
    one = byte_level(V)
    one.chat_template = TEMPLATE
    return one


@cache
def _module() -> Any:
    return llama_module(3, vocab_size=V, max_context=512)


def target() -> Counting:
    """The model alone."""
    model = Counting(_module(), "tiny")
    model.rows = []
    return model


def generator(drafter: Drafters = "ngram", **sizes: Any) -> SpeculativeGenerator:
    """One of its own: nothing is cached."""
    model = target()
    loaded = LoadedModel(model, tokenizer(), (tokenizer().eos_token_id,))
    config = EngineConfig(**{"block_size": 4, "num_blocks": 512, "max_batch_tokens": 256, "max_num_seqs": 4, **sizes})
    return SpeculativeGenerator(loaded, drafter, config=config)


@cache
def _double() -> Any:
    return llama_module(3, vocab_size=V, max_context=512).double()


def law(tokens: list[int]) -> torch.Tensor:
    """log p of every next token after each of the tokens, float64 [T, V], by transformers."""
    with torch.no_grad():
        logits: torch.Tensor = _double()(torch.tensor([tokens])).logits[0]
    return logits.log_softmax(-1)


def logprobs(before: list[int], path: list[int]) -> list[float]:
    """Of each token of a path behind others."""
    rows = law([*before, *path])
    return [float(rows[len(before) + place - 1, token]) for place, token in enumerate(path)]
