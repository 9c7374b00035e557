"""A causal block head on the CPU's kernels: its block pass is an ordinary pass of a small Llama."""

from __future__ import annotations

from collections.abc import Sequence
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from specdec.cache import KVPool
from specdec.heads.block import BlockHead
from specdec.heads.blockrun import BlockRows, confidence_row, markov_term, places
from specdec.heads.weights import block_weights, norm_weight, norm_weights
from specdec.kernels.attention.native import key_values
from specdec.kernels.cpu import interface
from specdec.kernels.cpu import library as native
from specdec.kernels.cpu.threads import num_threads
from specdec.kernels.linear import pack
from specdec.models.batch import SequenceRows
from specdec.models.llama import own_float
from specdec.models.native import NativeModel


class NativeBlock:
    """See `BlockRun`. The embedding is shared with the target.

    Rows are computed one by one, as in the target: a draft does not depend on what shares its pass.

    Args:
        head: a causal one; its weights are copied.
        target: on the same kernels.
        kind: form of the weights, a name of `specdec.kernels.linear.KINDS`; None takes the target's.
    """

    def __init__(self, head: BlockHead, target: NativeModel, kind: str | None = None) -> None:
        kernels = native.library()
        assert kernels is not None
        assert head.config.causal, "rows that see later ones do not run natively"
        self.config, self._kernels, kind = head.config, kernels, kind or target.kind
        self._sure = confidence_row(head)
        self._model = NativeModel.of(block_weights(head, target), f"the head of {target.name}", kind)
        self.layout = self._model.kv_layout
        self.term = markov_term(head, "float32" if kind == "float32" else "bfloat16", kernels)
        self.places: Sequence[int] = places(head)
        attentions = [layer.self_attn for layer in head.decoder]
        sides = [side for each in attentions for side in (each.k_proj, each.v_proj)]
        biases = [None if side.bias is None else side.bias.detach() for side in sides]
        self._fuse = pack(head.fc.weight.detach(), kind)
        self._sides = pack([side.weight.detach() for side in sides], kind, biases)
        norms = norm_weights(head.fc_norm)
        self._tap_norms = torch.cat(norms) if norms else None
        self._norm, self._frequencies = own_float(head.hidden_norm.weight), own_float(head.config.rotary[0])
        self._key_norms = [norm_weight(each.k_norm) for each in attentions]
        self._bound: WeakKeyDictionary[KVPool, interface.Context] = WeakKeyDictionary()

    @property
    def num_bytes(self) -> int:
        """Bytes of weights that a step reads: a block's, its tree's, and the context's."""
        own, term = self._model.num_bytes, self.term.num_bytes
        return own + term + self._fuse.num_bytes + self._sides.num_bytes

    def remember(self, pool: KVPool, taps: Tensor, positions: Tensor, slots: Tensor) -> None:
        """See `BlockRun.remember`: one call into the kernels (kernels/passes/context.h)."""
        rows, shape = len(taps), (len(taps), len(self.config.taps), self.config.target_hidden_size)
        states = native.address(taps, torch.float32, shape)
        pointers = [native.address(each, torch.int64, (rows,)) for each in (positions, slots)]
        self._kernels.remember(self._bound_to(pool), states, *pointers, rows, num_threads())

    def draft(self, pool: KVPool, blocks: Sequence[SequenceRows]) -> BlockRows:
        """See `BlockRun.draft`."""
        logits = self._model.run_rows(blocks, pool)
        if self._sure is None:
            return BlockRows(logits, None)
        return BlockRows(logits[:, :-1], logits[:, -1] + self._sure[1])

    def _bound_to(self, pool: KVPool) -> interface.Context:
        """The context's weights with the layers of `pool`, for the C interface."""
        if pool not in self._bound:
            config = self.config
            layers = (interface.ContextLayer * config.num_layers)()
            for index, norm in enumerate(self._key_norms):
                layers[index] = interface.ContextLayer(native.address(norm), key_values(*pool.layer(index)))
            norms = map(native.address, (self._tap_norms, self._norm, self._frequencies))
            self._bound[pool] = interface.Context(
                len(config.taps), config.target_hidden_size, config.hidden_size, config.num_layers,
                config.num_kv_heads, config.head_dim, config.rms_norm_eps, config.rotary[1],
                *norms, layers, self._fuse.struct, self._sides.struct,
            )  # fmt: skip
        return self._bound[pool]
