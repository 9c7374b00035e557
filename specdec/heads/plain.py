"""A block head run by its own modules, in torch: beside any target, on any device, causal or not."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property

import torch
from torch import Tensor
from torch.nn.functional import linear

from specdec.cache import KVLayout, KVPool
from specdec.heads.base import Head, output_rows
from specdec.heads.block import BlockHead
from specdec.heads.blockrun import BlockRows, confidence_row, markov_term, places
from specdec.kernels.attention import SequenceKeys, sequence_keys
from specdec.kernels.attention.native import kernels_for
from specdec.models.base import CausalLM
from specdec.models.batch import RaggedBatch, SequenceRows
from specdec.models.paged_attention import PagedPass, TorchPass, pass_on


class WholeBlocks(TorchPass):
    """Rows of a block see all of it, and not only those before them."""

    @cached_property
    def _sequences(self) -> list[SequenceKeys]:
        keys = sequence_keys(self._batch.columns, self._batch.token_ids.device)
        return [replace(each, visible=None) for each in keys]


class PlainBlock:
    """See `BlockRun`. Weights and keys are of the dtype in which the target keeps its own, or float32.

    Args:
        head: is copied, and stays as it is.
        target: embeds, and lends its output rows, where the head has none of its own.
    """

    def __init__(self, head: BlockHead, target: CausalLM) -> None:
        device, dtype = target.kv_layout.device, working_dtype(target)
        self._head = copy.deepcopy(head).to(device, dtype).eval().requires_grad_(False)
        self._target, self.config = target, head.config
        self.layout = KVLayout(head.config.num_layers, head.config.num_kv_heads, head.config.head_dim, dtype, device)
        self.term = markov_term(self._head)
        self.places: Sequence[int] = places(head)
        self._output = output_rows(self._head, target).to(device, dtype)
        self._confidence = confidence_row(self._head)

    @torch.inference_mode()
    def remember(self, pool: KVPool, taps: Tensor, positions: Tensor, slots: Tensor) -> None:
        """See `BlockRun.remember`."""
        device = self.layout.device
        at, to = positions.to(device), slots.to(device)
        context = self._head.context(taps.to(device))
        for index, (keys, values) in enumerate(self._head.context_keys_values(context, at)):
            pool.keys[index][to], pool.values[index][to] = keys, values

    @torch.inference_mode()
    def draft(self, pool: KVPool, blocks: Sequence[SequenceRows]) -> BlockRows:
        """See `BlockRun.draft`."""
        batch = RaggedBatch.build(blocks, self.layout.device)
        attention, scale = self._pass(batch, pool), self.config.head_dim**-0.5
        rows = embedded(self._head, self._target, batch.token_ids)
        for index, layer in enumerate(self._head.decoder):
            normed = layer.input_layernorm(rows)
            queries = layer.self_attn.queries(normed, batch.positions)
            keys, values = layer.self_attn.keys_values(normed, batch.positions)
            parts = (each.transpose(0, 1) for each in (queries, keys, values))
            rows = layer.after_attention(rows, attention.attend(index, *parts, scale=scale))
        hidden = self._head.norm(rows[batch.logit_rows])
        confidences = None if self._confidence is None else linear(hidden.float(), *self._confidence)[:, 0]
        return BlockRows(torch.mm(hidden, self._output.T).float(), confidences)

    def _pass(self, batch: RaggedBatch, pool: KVPool) -> PagedPass:
        if not self.config.causal:
            return WholeBlocks(batch, pool)
        kernels = kernels_for(self.layout.head_dim, self.layout.dtype, self.layout.device)
        return pass_on(self.layout.device, kernels)(batch, pool)


def working_dtype(target: CausalLM) -> torch.dtype:
    """That in which the target keeps its keys and values, or float32."""
    held = target.kv_layout.dtype
    return held if held.is_floating_point and held.itemsize > 1 else torch.float32


def embedded(head: Head, target: CausalLM, tokens: Tensor) -> Tensor:
    """int64 [T] → [T, h], by the head's own embedding or the target's, in the head's dtype."""
    return head.embed(tokens) if head.config.own_embedding else target.embed(tokens.tolist()).to(head.dtype)
