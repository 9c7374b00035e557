"""A causal block head on the CPU's kernels: its block pass is an ordinary pass of a small Llama."""

from __future__ import annotations

from collections.abc import Sequence
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from specdec.cache import KVPool
from specdec.heads.base import Head, output_rows
from specdec.heads.block import BlockHead
from specdec.heads.blockrun import BlockRows, confidence_row, markov_term, places
from specdec.heads.layers import DecoderLayer, Norm
from specdec.kernels.attention.native import key_values
from specdec.kernels.cpu import interface
from specdec.kernels.cpu import library as native
from specdec.kernels.cpu.threads import num_threads
from specdec.kernels.linear import pack
from specdec.models.batch import SequenceRows
from specdec.models.llama import LlamaLayer, LlamaWeights, own_float
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
        self._model = NativeModel.of(_weights(head, target), f"the head of {target.name}", kind)
        self.layout = self._model.kv_layout
        self.term = markov_term(head, "float32" if kind == "float32" else "bfloat16", kernels)
        self.places: Sequence[int] = places(head)
        attentions = [layer.self_attn for layer in head.decoder]
        sides = [side for each in attentions for side in (each.k_proj, each.v_proj)]
        biases = [None if side.bias is None else side.bias.detach() for side in sides]
        self._fuse = pack(head.fc.weight.detach(), kind)
        self._sides = pack([side.weight.detach() for side in sides], kind, biases)
        norms = [own_float(norm.weight) for norm in head.fc_norm if isinstance(norm, Norm)]
        self._tap_norms = torch.cat(norms) if norms else None
        self._norm, self._frequencies = own_float(head.hidden_norm.weight), own_float(head.config.rotary[0])
        self._key_norms = [_weight(each.k_norm) for each in attentions]
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


def _weights(head: BlockHead, target: NativeModel) -> LlamaWeights:
    """The head as a Llama with the target's embedding and the head's vocabulary. The confidence head reads what the
    logits are made of: it is one more of them, the last one."""
    rows, sure = output_rows(head, target), confidence_row(head)
    if sure is not None:
        rows = torch.cat([rows, sure[0]])
    layers = [layer_weights(each, own_float(each.input_layernorm.weight)) for each in head.decoder]
    return llama_weights(head, target, layers, own_float(head.norm.weight), rows)


def llama_weights(
    head: Head, target: NativeModel, layers: list[LlamaLayer], final_norm: Tensor, rows: Tensor
) -> LlamaWeights:
    """A head as a Llama: its own layers and output rows, and its embedding or the target's."""
    config = head.config
    frequencies, factor = config.rotary
    return LlamaWeights(
        heads=config.num_heads,
        kv_heads=config.num_kv_heads,
        head_size=config.head_dim,
        hidden_size=config.hidden_size,
        intermediate_size=config.intermediate_size,
        vocab_size=len(rows),
        max_context=target.max_context,
        eps=config.rms_norm_eps,
        scale=config.head_dim**-0.5,
        frequencies=own_float(frequencies),
        rope_factor=factor,
        layers=layers,
        embedding=head.embed_tokens.weight.detach() if config.own_embedding else target.embedding,
        final_norm=final_norm,
        head=rows,
    )


def layer_weights(layer: DecoderLayer, input_norm: Tensor) -> LlamaLayer:
    """A head's layer as one of a Llama; `input_norm`: float32 [h], before its attention."""
    attention, feed = layer.self_attn, layer.mlp
    projections = (attention.q_proj, attention.k_proj, attention.v_proj)
    return LlamaLayer(
        qkv=[each.weight.detach() for each in projections],
        qkv_bias=[None if each.bias is None else each.bias.detach() for each in projections],
        o=attention.o_proj.weight.detach(),
        gate=feed.gate_proj.weight.detach(),
        up=feed.up_proj.weight.detach(),
        down=feed.down_proj.weight.detach(),
        norms=(
            input_norm,
            own_float(layer.post_attention_layernorm.weight),
            _weight(attention.q_norm),
            _weight(attention.k_norm),
        ),
        window=0,
    )


def _weight(norm: torch.nn.Module) -> Tensor | None:
    return own_float(norm.weight) if isinstance(norm, Norm) else None
