"""A causal block head on the CPU's kernels: its block pass is an ordinary pass of a small Llama."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from specdec.cache import KVPool
from specdec.heads.block import BlockHead
from specdec.heads.blockrun import BlockRows, confidence_row, markov_term, output_rows, places
from specdec.heads.layers import DecoderLayer, Norm
from specdec.kernels.attention.native import key_values, write
from specdec.kernels.cpu import library as native
from specdec.kernels.linear import pack
from specdec.models.base import Wants
from specdec.models.batch import RaggedBatch
from specdec.models.llama import LlamaLayer, LlamaWeights, own_float
from specdec.models.native import NativeModel


class NativeBlock:
    """See `BlockRun`. Weights take the form of the target's, and the embedding is shared with it.

    Rows are computed one by one, as in the target: a draft does not depend on what shares its pass.

    Args:
        head: a causal one; its weights are copied.
        target: on the same kernels.
    """

    def __init__(self, head: BlockHead, target: NativeModel) -> None:
        kernels = native.library()
        assert kernels is not None
        assert head.config.causal, "rows that see later ones do not run natively"
        self.config, self._kernels, kind = head.config, kernels, target.kind
        self._model = NativeModel.of(_weights(head, target), f"the head of {target.name}", kind)
        self.layout = self._model.kv_layout
        self.term = markov_term(head, "float32" if kind == "float32" else "bfloat16", kernels)
        self.places: Sequence[int] = places(head)
        sure = confidence_row(head)
        self._confidence = None if sure is None else pack(sure[0], "float32", sure[1])
        attentions = [layer.self_attn for layer in head.decoder]
        sides = [side for each in attentions for side in (each.k_proj, each.v_proj)]
        biases = [None if side.bias is None else side.bias.detach() for side in sides]
        self._fc = pack(head.fc.weight.detach(), kind)
        self._sides = pack([side.weight.detach() for side in sides], kind, biases)
        self._tap_norms = [own_float(norm.weight) for norm in head.fc_norm if isinstance(norm, Norm)]
        self._norm = own_float(head.hidden_norm.weight)
        self._key_norms = [_weight(each.k_norm) for each in attentions]

    def remember(self, pool: KVPool, taps: Tensor, positions: Tensor, slots: Tensor) -> None:
        """See `BlockRun.remember`: two products, whatever the number of layers."""
        layers, heads, size = self.config.num_layers, self.config.num_kv_heads, self.config.head_dim
        context = self._normed(self._fc(self._tapped(taps).flatten(1)), self._norm)
        sides = self._sides(context).view(len(taps), layers, 2, heads, size)
        keys, values = sides[:, :, 0].contiguous(), sides[:, :, 1]
        for index, weight in enumerate(self._key_norms):
            if weight is not None:
                keys[:, index] = self._normed(keys[:, index], weight)
        self._rotate(keys, positions)
        for index in range(layers):
            write(self._kernels, key_values(*pool.layer(index)), slots, keys[:, index], values[:, index])

    def draft(self, pool: KVPool, batch: RaggedBatch) -> BlockRows:
        """See `BlockRun.draft`."""
        wanted = () if self._confidence is None else (self.config.num_layers,)
        output = self._model.run(batch, pool, Wants("all", wanted))
        assert output.logits is not None
        if self._confidence is None or output.hidden is None:
            return BlockRows(output.logits, None)
        return BlockRows(output.logits, self._confidence(output.hidden[batch.logit_rows, 0])[:, 0].contiguous())

    def _tapped(self, taps: Tensor) -> Tensor:
        """The taps, each with its norm: [T, k, H] → the same."""
        if not self._tap_norms:
            return taps
        return torch.stack([self._normed(taps[:, i], weight) for i, weight in enumerate(self._tap_norms)], 1)

    def _normed(self, x: Tensor, weight: Tensor) -> Tensor:
        """float32 [..., size] → the same, each row by itself."""
        x = x.contiguous()
        out, size = torch.empty_like(x), x.shape[-1]
        rows, eps = x.numel() // size, self.config.rms_norm_eps
        self._kernels.rms_norm(native.address(x), weight.data_ptr(), rows, size, eps, out.data_ptr())
        return out

    def _rotate(self, keys: Tensor, positions: Tensor) -> None:
        """Turns keys, [T, layers, KV heads, D], in place. Cosines are worked out in float64: torch's float32 ones have
        bits that depend on the row's place among others."""
        frequencies, factor = self.config.rotary
        angles = (positions.float()[:, None] * frequencies).double()
        cosines, sines = (each.float() * factor for each in (angles.cos(), angles.sin()))
        rows, heads, size = len(keys), self.config.num_layers * self.config.num_kv_heads, self.config.head_dim
        pointers = native.address(keys, torch.float32), native.address(cosines), native.address(sines)
        self._kernels.rotate(*pointers, rows, heads, size)


def _weights(head: BlockHead, target: NativeModel) -> LlamaWeights:
    """The head as a Llama whose embedding is the target's, and whose vocabulary is the head's."""
    config = head.config
    frequencies, factor = config.rotary
    return LlamaWeights(
        heads=config.num_heads,
        kv_heads=config.num_kv_heads,
        head_size=config.head_dim,
        hidden_size=config.hidden_size,
        intermediate_size=config.intermediate_size,
        vocab_size=config.draft_vocab_size,
        max_context=target.max_context,
        eps=config.rms_norm_eps,
        scale=config.head_dim**-0.5,
        frequencies=own_float(frequencies),
        rope_factor=factor,
        layers=[_layer(each) for each in head.decoder],
        embedding=head.embed_tokens.weight.detach() if config.own_embedding else target.embedding,
        final_norm=own_float(head.norm.weight),
        head=output_rows(head, target),
    )


def _layer(layer: DecoderLayer) -> LlamaLayer:
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
            own_float(layer.input_layernorm.weight),
            own_float(layer.post_attention_layernorm.weight),
            _weight(attention.q_norm),
            _weight(attention.k_norm),
        ),
        window=0,
    )


def _weight(norm: torch.nn.Module) -> Tensor | None:
    return own_float(norm.weight) if isinstance(norm, Norm) else None
