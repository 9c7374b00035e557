"""A head that drafts token by token, run by its own modules in torch: beside any target, on any device."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from torch import Tensor

from specdec.cache import KVLayout, KVPool
from specdec.heads.base import output_rows
from specdec.heads.pairrun import PairRows, PairRun, StateLayout
from specdec.heads.pairs import PairHead
from specdec.heads.plain import embedded, working_dtype
from specdec.kernels.attention.native import kernels_for
from specdec.models.base import CausalLM, PassOutput
from specdec.models.batch import RaggedBatch, SequenceRows
from specdec.models.paged_attention import pass_on


class PlainPairs(PairRun):
    """See `PairRun`. Weights, keys and states are of the dtype in which the target keeps its own, or float32.

    Args:
        head: is copied, and stays as it is.
        target: embeds, and lends its output rows, where the head has none of its own.
    """

    def __init__(self, head: PairHead, target: CausalLM) -> None:
        device, dtype = target.kv_layout.device, working_dtype(target)
        self._head = copy.deepcopy(head).to(device, dtype).eval().requires_grad_(False)
        self._target, self.config = target, head.config
        self.layout = KVLayout(1, head.config.num_kv_heads, head.config.head_dim, dtype, device)
        self.states = StateLayout(head.config.hidden_size, dtype, device)
        self._output = output_rows(self._head, target).to(device, dtype)

    @torch.inference_mode()
    def fuse(self, taps: Tensor) -> Tensor:
        """See `PairRun.fuse`."""
        return self._head.fuse(taps.to(self.layout.device))

    @torch.inference_mode()
    def step(self, pool: KVPool, parts: Sequence[SequenceRows], states: Tensor, top: int) -> PairRows:
        """See `PairRun.step`."""
        batch, layer = RaggedBatch.build(parts, self.layout.device), self._head.layer
        kernels = kernels_for(self.layout.head_dim, self.layout.dtype, self.layout.device)
        attention = pass_on(self.layout.device, kernels)(batch, pool)
        read, stream = self._head.inputs(embedded(self._head, self._target, batch.token_ids), states)
        queries = layer.self_attn.queries(read, batch.positions)
        keys, values = layer.self_attn.keys_values(read, batch.positions)
        sides = (each.transpose(0, 1) for each in (queries, keys, values))
        attended = attention.attend(0, *sides, scale=self.config.head_dim**-0.5)
        hidden, following = self._head.outputs(layer.after_attention(stream, attended)[batch.logit_rows])
        return PairRows(PassOutput(torch.mm(hidden, self._output.T).float()), following)
