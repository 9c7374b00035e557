"""Tiny modules with random weights, their own forward as the oracle, and a scattered cache to run ours on.

The oracle is a module with transformers' eager attention. It sees one text at a time: no cache, no batch, no tree.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
import transformers
from torch import Tensor
from transformers import AutoModelForCausalLM, PreTrainedModel

from specdec.cache import KVPool
from specdec.cache.paged import PagedCache
from specdec.models.base import CausalLM, PassOutput, Wants
from specdec.models.batch import RaggedBatch, SequenceRows
from tests.models.zoo import draw

VOCAB_SIZE, MAX_CONTEXT, WINDOW = 101, 128, 6
TOLERANCE = 1e-4
"""Logits are below ten, and a few thousand float32 operations lie between the embeddings and them."""

TREE_PARENTS = [-1, 0, 0, 2, 2, 4, 4]
TREE_PATHS = [[0], [0, 1], [0, 2], [0, 2, 3], [0, 2, 4], [0, 2, 4, 5], [0, 2, 4, 6]]

LLAMA: dict[str, Any] = {
    "vocab_size": VOCAB_SIZE,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": MAX_CONTEXT,
    "tie_word_embeddings": False,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}


def rope(kind: str, **parameters: float | list[float]) -> dict[str, Any]:
    return {"rope_parameters": {"rope_type": kind, "rope_theta": 1e4, **parameters}}


def make_module(kind: str, options: dict[str, Any], seed: int = 0) -> PreTrainedModel:
    """A random model whose logits depend on the whole context: every weight, bias and norm is drawn anew."""
    config = getattr(transformers, f"{kind}Config")(**options)
    module: PreTrainedModel = AutoModelForCausalLM.from_config(config, attn_implementation="eager").eval()
    draw(module, seed)
    return module


class Own:
    """What the model itself says: one plain run for every text."""

    def __init__(self, module: PreTrainedModel) -> None:
        assert module.config._attn_implementation == "eager"
        self.module = module
        self._known: dict[tuple[int, ...], Tensor] = {}

    def all(self, tokens: Sequence[int]) -> Tensor:
        """Logits of every position, [tokens, vocabulary]."""
        key = tuple(tokens)
        if key not in self._known:
            with torch.inference_mode():
                logits = self.module(input_ids=torch.tensor([key]), use_cache=False).logits[0].float()
            assert logits.shape == (len(key), VOCAB_SIZE)
            # Otherwise agreement would mean nothing.
            assert float(logits.std(-1).min()) > 0.1
            assert float(logits.abs().max()) < 10
            self._known[key] = logits
        return self._known[key]

    def last(self, texts: Sequence[Sequence[int]]) -> Tensor:
        """Logits after each text, [texts, vocabulary], each from a run of its own."""
        return torch.stack([self.all(text)[-1] for text in texts])

    def hidden(self, texts: Sequence[Sequence[int]], boundaries: Sequence[int]) -> Tensor:
        """Hidden states of each text's last token, [texts, boundaries, hidden], as the module itself lists them."""
        rows = []
        for tokens in texts:
            with torch.inference_mode():
                ids = torch.tensor([list(tokens)])
                states = self.module(input_ids=ids, use_cache=False, output_hidden_states=True).hidden_states
            assert len(states) == self.module.config.num_hidden_layers + 1
            rows.append(torch.stack([states[boundary][0, -1].float() for boundary in boundaries]))
        return torch.stack(rows)


class Tapped:
    """Stands in for a model: what it gives out as logits are hidden states, [R, boundaries · hidden].

    So whatever is tested of logits can be tested of them.

    Args:
        model: the model.
        boundaries: which hidden states; all if left out.
        keeps: which of the rows whose hidden states are read have logits too: every so many; 0 for none.
    """

    def __init__(self, model: CausalLM, boundaries: Sequence[int] | None = None, keeps: int = 1) -> None:
        self.model, self.keeps, self.kv_layout = model, keeps, model.kv_layout
        self.boundaries = tuple(range(model.kv_layout.num_layers + 1) if boundaries is None else boundaries)
        self.vocab_size = len(self.boundaries) * model.hidden_size

    def run(self, batch: RaggedBatch, pool: KVPool, wants: Wants = Wants()) -> PassOutput:  # noqa: B008 - frozen
        wanted = batch.logit_rows
        fewer = replace(batch, logit_rows=(wanted[:: self.keeps] if self.keeps else wanted[:0]).contiguous())
        output = self.model.run(fewer, pool, replace(wants, hidden=self.boundaries))
        assert output.hidden is not None
        assert output.hidden.dtype == torch.float32
        assert output.hidden.shape == (len(batch.token_ids), len(self.boundaries), self.model.hidden_size)
        return PassOutput(output.hidden[wanted].flatten(1))


class Bench:
    """Sequences in a paged cache whose blocks are scattered and whose unwritten slots hold NaN."""

    def __init__(self, model: CausalLM | Tapped, block_size: int = 4, num_blocks: int = 40) -> None:
        self.model, self.texts = model, dict[int, list[int]]()
        self.cache = PagedCache(model.kv_layout, num_blocks, block_size)
        for tensor in self.cache.target.tensors:
            if tensor.is_floating_point():
                tensor.fill_(math.nan)
        holders = list(range(1000, 1000 + num_blocks))
        for holder in holders:
            self.cache.add(holder)
            self.cache.reserve(holder, 1)
        random.Random(0).shuffle(holders)
        for holder in holders:
            self.cache.free(holder)

    def part(
        self,
        seq: int,
        tokens: Sequence[int],
        parents: Sequence[int] | None = None,
        first: int = 0,
        logit_rows: Sequence[int] | None = None,
    ) -> SequenceRows:
        """Rows for a pass; reserves them and all rows of the tree. Logits are for every row unless told otherwise."""
        if seq not in self.cache:
            self.cache.add(seq)
            self.texts[seq] = []
        if first == 0:
            self.cache.reserve(seq, len(tokens) if parents is None else len(parents))
        rows = range(len(tokens)) if logit_rows is None else logit_rows
        return SequenceRows(tokens, self.cache.slots(seq), self.cache.length(seq), parents, first, rows)

    def run(self, *parts: SequenceRows) -> Tensor:
        batch = RaggedBatch.build(parts, self.model.kv_layout.device)
        logits = self.model.run(batch, self.cache.target).logits
        assert logits is not None
        assert logits.dtype == torch.float32
        assert logits.shape == (sum(len(part.logit_rows) for part in parts), self.model.vocab_size)
        return logits

    def append(self, seq: int, tokens: Sequence[int]) -> Tensor:
        """Runs the tokens as one chunk and keeps them."""
        logits = self.run(self.part(seq, tokens))
        self.cache.commit(seq, len(tokens))
        self.texts[seq] += tokens
        return logits

    def keep(self, seq: int, tokens: Sequence[int], path: Sequence[int]) -> None:
        """Keeps an accepted path of a tree that was run with these tokens."""
        self.cache.commit_path(seq, path)
        self.texts[seq] += [tokens[row] for row in path]


def text(length: int, seed: int) -> list[int]:
    draw = random.Random(seed)
    return [draw.randrange(3, VOCAB_SIZE) for _ in range(length)]


def prefixes(before: Sequence[int], tokens: Sequence[int]) -> list[list[int]]:
    """The text up to and including each of the tokens."""
    return [[*before, *tokens[: row + 1]] for row in range(len(tokens))]


def branches(before: Sequence[int], tokens: Sequence[int]) -> list[list[int]]:
    """The text up to and including each node of the tree."""
    return [[*before, *(tokens[row] for row in path)] for path in TREE_PATHS]


def assert_close(ours: Tensor, own: Tensor) -> None:
    assert ours.shape == own.shape
    assert not ours.isnan().any()
    assert float((ours - own).abs().max()) <= TOLERANCE
